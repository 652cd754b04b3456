//! Two threads of one side that wait on one bell, one for data and one for space, as
//! `src/bytes/stream.rs` does it: the second one arms for both with the ticket of the first, and
//! waits for the first to wake up. Arming is that of `src/protocol/sleeper.rs`.

use crate::explore;
use crate::kernel::{Bell, Kernel, bell};
use loom::sync::{Condvar, Mutex};
use loom::thread;
use ringbell::bell::{Arming, before_looking_again};
use ringbell::layout::{Interest, Mode};
use ringbell::memory::{OwnWord, PeerWord, word_pair};
use ringbell::sleeper::SideSleeper;
use ringbell::sync::Ordering;
use std::sync::Arc;

struct Side {
    inner: Mutex<Inner>,
    awake: Condvar,
    kernel: Arc<Kernel>,
    /// What is read, and the peer's head.
    words: [PeerWord; 2],
}

struct Inner {
    sleeper: SideSleeper,
    asleep: bool,
    waiting: [bool; 2],
}

const INTERESTS: [Interest; 2] = [Interest::DATA, Interest::SPACE];

/// What the second thread that waits does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Second {
    /// As it should be: arms with the ticket of the sleep that goes on, and waits for the first.
    SameTicket,
    /// Arms with a ticket of its own.
    NewTicket,
    /// Sleeps on the bell itself.
    OnTheBell,
}

impl Side {
    fn came(&self, way: usize) -> bool {
        self.words[way].load() != 0
    }

    /// Waits for its word.
    fn wait(&self, way: usize, second: Second) {
        let mut inner = self.inner.lock().unwrap();
        while !self.came(way) {
            inner.waiting[way] = true;
            let interest = if inner.waiting == [true; 2] { Interest::BOTH } else { INTERESTS[way] };
            if inner.asleep && second != Second::OnTheBell {
                let arming = if second == Second::SameTicket {
                    inner.sleeper.arm_for_more(interest, || self.came(way))
                } else {
                    inner.sleeper.bell().arm(Mode::Futex, interest);
                    before_looking_again();
                    if self.came(way) { Arming::Busy } else { Arming::Armed }
                };
                if arming == Arming::Armed {
                    inner = self.awake.wait(inner).unwrap();
                }
            } else {
                let waiting = inner.waiting;
                let came = || (0..2).any(|way| waiting[way] && self.came(way));
                if inner.sleeper.arm(Mode::Futex, interest, came) == Arming::Busy {
                    drop(inner);
                    thread::yield_now();
                    inner = self.inner.lock().unwrap();
                } else {
                    inner.asleep = true;
                    let (seq, ticket) =
                        (inner.sleeper.bell().seq().share(), inner.sleeper.ticket().unwrap());
                    drop(inner);
                    self.kernel.wait(Mode::Futex, || seq.load() == ticket.0);
                    inner = self.inner.lock().unwrap();
                    inner.asleep = false;
                    inner.sleeper.disarm();
                    self.awake.notify_all();
                }
            }
            inner.waiting[way] = false;
        }
    }
}

fn side() -> (Arc<Side>, Bell, [OwnWord; 2]) {
    let (sleeping, bell) = bell();
    let ((data, read), (head, seen)) = (word_pair(), word_pair());
    let inner = Inner { sleeper: sleeping.sleeper, asleep: false, waiting: [false; 2] };
    let side = Side {
        inner: Mutex::new(inner),
        awake: Condvar::new(),
        kernel: sleeping.kernel,
        words: [read, seen],
    };
    (Arc::new(side), bell, [data, head])
}

/// One peer publishes data, then space.
fn a_peer(second: Second) {
    let (side, bell, words) = side();
    let writer = {
        let side = side.clone();
        thread::spawn(move || side.wait(1, second))
    };
    let peer = thread::spawn(move || {
        for way in [0, 1] {
            words[way].store(1, Ordering::Relaxed);
            bell.ring(INTERESTS[way]);
        }
    });
    side.wait(0, second);
    writer.join().unwrap();
    peer.join().unwrap();
}

/// SLEEP: neither thread sleeps through what it waits for. Bound 3.
#[test]
fn a_reader_and_a_writer() {
    explore(Some(3), || a_peer(Second::SameTicket));
}

/// SLEEP: the second thread finds what came before its interest was known. Nothing else would wake
/// it: the first one gets its own only after the second one has been served. Bound 3.
#[test]
fn what_the_second_one_waits_for_comes_first() {
    explore(Some(3), || {
        let (side, bell, [data, head]) = side();
        let writer = {
            let side = side.clone();
            thread::spawn(move || side.wait(1, Second::SameTicket))
        };
        let peer = thread::spawn(move || {
            head.store(1, Ordering::Relaxed);
            bell.ring(Interest::SPACE);
            writer.join().unwrap();
            data.store(1, Ordering::Relaxed);
            bell.ring(Interest::DATA);
        });
        side.wait(0, Second::SameTicket);
        peer.join().unwrap();
    });
}

/// MODE: with a ticket of its own the second thread would call off the wake that the first one is
/// owed.
#[test]
#[should_panic(expected = "deadlock")]
fn a_newer_ticket_loses_a_wake() {
    explore(Some(3), || a_peer(Second::NewTicket));
}

/// A wake wakes one: with two threads on the word, the other one would sleep on.
#[test]
#[should_panic(expected = "a second thread waits on the word")]
fn two_threads_on_one_word() {
    explore(Some(3), || a_peer(Second::OnTheBell));
}

/// SLEEP: as `a_reader_and_a_writer`, with a peer of two threads. Bound 2.
#[test]
fn a_reader_and_a_writer_of_two_peers() {
    explore(Some(2), || {
        let (side, bell, [data, head]) = side();
        let other = bell.share();
        let writer = {
            let side = side.clone();
            thread::spawn(move || side.wait(1, Second::SameTicket))
        };
        let sends = thread::spawn(move || {
            data.store(1, Ordering::Relaxed);
            bell.ring(Interest::DATA);
        });
        let reads = thread::spawn(move || {
            head.store(1, Ordering::Relaxed);
            other.ring(Interest::SPACE);
        });
        side.wait(0, Second::SameTicket);
        for thread in [writer, sends, reads] {
            thread.join().unwrap();
        }
    });
}
