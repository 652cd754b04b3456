//! One side in an event loop: arm, wait for the lifeline, disarm, pump, as
//! `src/client/readiness.rs` and `src/bytes/readiness.rs` do it. Arming, and when the lifeline is
//! read, are those of `src/protocol/sleeper.rs`.
//!
//! Here the kernel's part is nearer to the real one than in `kernel.rs`: a socket buffer that holds
//! few bytes and drops what finds no room, and an epoll that is level- or edge-triggered. The pump
//! looks at one source after the other, so that something can come to one that it has passed.

use crate::explore;
use loom::sync::{Condvar, Mutex};
use loom::thread;
use ringbell::bell::{Arming, Ringer, Sleeper};
use ringbell::layout::{Interest, Mode};
use ringbell::memory::{BellWord, OwnWord, PeerWord, word_pair};
use ringbell::sleeper::{SideSleeper, UNREAD_MOST};
use ringbell::sync::Ordering;
use std::sync::Arc;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Trigger {
    Level,
    Edge,
}

/// A lifeline and the epoll that watches it.
struct Lifeline {
    state: Mutex<State>,
    woken: Condvar,
    capacity: usize,
    trigger: Trigger,
}

#[derive(Default)]
struct State {
    unread: usize,
    /// Something was written since epoll last reported.
    edge: bool,
    /// The loop has something else to do.
    other: bool,
    sent: usize,
    dropped: usize,
}

impl Lifeline {
    fn new(trigger: Trigger, capacity: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), woken: Condvar::new(), capacity, trigger })
    }

    /// MSG_DONTWAIT: a full buffer drops the byte, and there is no edge.
    fn send_byte(&self) {
        let mut state = self.state.lock().unwrap();
        state.sent += 1;
        if state.unread == self.capacity {
            state.dropped += 1;
        } else {
            state.unread += 1;
            state.edge = true;
            self.woken.notify_all();
        }
    }

    fn something_else(&self) {
        self.state.lock().unwrap().other = true;
        self.woken.notify_all();
    }

    fn epoll_wait(&self) {
        let mut state = self.state.lock().unwrap();
        while !(state.other || state.unread > 0 && (self.trigger == Trigger::Level || state.edge)) {
            state = self.woken.wait(state).unwrap();
        }
        state.other = false;
        state.edge = false;
    }

    fn read_empty(&self) {
        self.state.lock().unwrap().unread = 0;
    }
}

/// The loop's side.
struct Loop {
    sleeper: SideSleeper,
    lifeline: Arc<Lifeline>,
    arms: usize,
}

impl Loop {
    /// Pumps and waits until the words are what they are to be.
    fn run_until(&mut self, words: &[PeerWord], last: &[u64]) {
        let mut seen = vec![0; words.len()];
        loop {
            for (seen, word) in seen.iter_mut().zip(words) {
                *seen = word.load();
            }
            if seen == last {
                return;
            }
            self.arms += 1;
            let came = || words.iter().zip(&seen).any(|(word, seen)| word.load() != *seen);
            if self.sleeper.must_read() {
                self.disarm();
            }
            if self.sleeper.arm(Mode::Event, Interest::DATA, came) == Arming::Busy {
                continue;
            }
            self.lifeline.epoll_wait();
            self.disarm();
        }
    }

    /// As the descriptor was reported.
    fn disarm(&mut self) {
        self.sleeper.disarm_to_read();
        self.lifeline.read_empty();
    }

    fn check_wakes(&self) {
        let sent = self.lifeline.state.lock().unwrap().sent;
        assert!(sent <= self.arms, "{sent} wakes for {} arms", self.arms);
    }
}

/// The server's side.
struct Bell {
    ringer: Ringer,
    lifeline: Arc<Lifeline>,
}

impl Bell {
    fn publish(&self, word: &OwnWord, value: u64) {
        word.store(value, Ordering::Relaxed);
        if let Some(mode) = self.ringer.ring(Interest::DATA) {
            assert_eq!(mode, Mode::Event);
            self.lifeline.send_byte();
        }
    }
}

fn event_loop(trigger: Trigger, capacity: usize) -> (Loop, Bell) {
    let (own, armed) = word_pair();
    let seq = BellWord::private();
    let lifeline = Lifeline::new(trigger, capacity);
    let sleeper = SideSleeper::new(Sleeper::new(own, seq.share()));
    let ringer = Ringer::new(armed, seq);
    (Loop { sleeper, lifeline: lifeline.clone(), arms: 0 }, Bell { ringer, lifeline })
}

/// Two sources; the first gets something again once the pump may have passed it.
fn in_the_middle_of_a_pump(trigger: Trigger, capacity: usize) {
    let (mut looping, bell) = event_loop(trigger, capacity);
    let (first, first_seen) = word_pair();
    let (second, second_seen) = word_pair();
    let ringer = thread::spawn(move || {
        bell.publish(&first, 1);
        bell.publish(&second, 1);
        bell.publish(&first, 2);
    });
    looping.run_until(&[first_seen, second_seen], &[2, 1]);
    ringer.join().unwrap();
    looping.check_wakes();
}

/// SLEEP: what comes in the middle of a pump is found or reported, by a level-triggered epoll.
/// Bound 3.
#[test]
fn level_triggered() {
    explore(Some(3), || in_the_middle_of_a_pump(Trigger::Level, 8));
}

/// SLEEP: the same, edge-triggered. Bound 3.
#[test]
fn edge_triggered() {
    explore(Some(3), || in_the_middle_of_a_pump(Trigger::Edge, 8));
}

/// SLEEP: a lifeline that holds one byte only: since it is read empty before each pump, a byte that
/// finds no room is one of two for the same report. Bound 3.
#[test]
fn edge_triggered_with_a_full_lifeline() {
    explore(Some(3), || in_the_middle_of_a_pump(Trigger::Edge, 1));
}

/// SLEEP: a loop that wakes for something else while it is rung: the byte that it reads, or that
/// comes later, is of something that it finds. Bound 3.
#[test]
fn woken_for_something_else() {
    for trigger in [Trigger::Level, Trigger::Edge] {
        explore(Some(3), move || {
            let (mut looping, bell) = event_loop(trigger, 1);
            let (word, seen) = word_pair();
            let ringer = thread::spawn(move || {
                bell.publish(&word, 1);
                bell.publish(&word, 2);
            });
            let lifeline = looping.lifeline.clone();
            let other = thread::spawn(move || lifeline.something_else());
            looping.run_until(&[seen], &[2]);
            ringer.join().unwrap();
            other.join().unwrap();
            looping.check_wakes();
        });
    }
}

/// Wake bytes of arms that were called off stay unread for a while, but a lifeline that holds one
/// more than `UNREAD_MOST` and one ringer's last never drops one. Bound 2.
#[test]
fn unread_wake_bytes_leave_room() {
    explore(Some(2), || {
        let capacity = UNREAD_MOST as usize + 1;
        let (mut looping, bell) = event_loop(Trigger::Edge, capacity);
        let lifeline = looping.lifeline.clone();
        let (word, seen) = word_pair();
        let ringer = thread::spawn(move || {
            for value in 1..=4 {
                bell.publish(&word, value);
                // So that the loop may arm again before the next one.
                thread::yield_now();
            }
        });
        // Something else to do each time: the loop arms and calls off, and reads the lifeline as
        // rarely as it may.
        let mut last = 0;
        while last < 4 {
            if looping.sleeper.must_read() {
                looping.disarm();
            }
            if looping.sleeper.arm(Mode::Event, Interest::DATA, || seen.load() != last)
                == Arming::Armed
            {
                looping.lifeline.something_else();
                looping.lifeline.epoll_wait();
                looping.sleeper.disarm();
                thread::yield_now();
            }
            last = seen.load();
        }
        ringer.join().unwrap();
        assert_eq!(lifeline.state.lock().unwrap().dropped, 0, "the lifeline was full");
    });
}
