//! The bell alone, one word of payload for each ringer: SLEEP, MODE.

use crate::explore;
use crate::kernel::{Bell, bell};
use loom::thread;
use ringbell::bell::{Ringer, before_looking_again};
use ringbell::layout::{Armed, Interest, Mode};
use ringbell::memory::{BellWord, OwnWord, PeerWord, word_pair};
use ringbell::sync::Ordering;

const FUTEX: fn(usize) -> Mode = |_| Mode::Futex;
const EVENT: fn(usize) -> Mode = |_| Mode::Event;
/// A change of mode between any two sleeps.
const FUTEX_FIRST: fn(usize) -> Mode =
    |arms| if arms.is_multiple_of(2) { Mode::Futex } else { Mode::Event };
const EVENT_FIRST: fn(usize) -> Mode = |arms| FUTEX_FIRST(arms + 1);

/// Publishes `1..=times`, relaxed, and rings for each.
fn publish(word: &OwnWord, bell: &Bell, times: u64) {
    for value in 1..=times {
        word.store(value, Ordering::Relaxed);
        bell.ring(Interest::DATA);
    }
}

/// Two ringers publish once each; the sleeper goes on until it has seen both, one at a time, so
/// that it also arms again behind a ring that it did not sleep through.
fn two_ringers(mode: fn(usize) -> Mode) {
    let (mut sleeping, bell) = bell();
    let other_bell = bell.share();
    let (word, mine) = word_pair();
    let (other_word, other) = word_pair();
    let ringer = thread::spawn(move || publish(&word, &bell, 1));
    let other_ringer = thread::spawn(move || publish(&other_word, &other_bell, 1));
    let mut words = vec![mine, other];
    while !words.is_empty() {
        sleeping.sleep_until(mode, Interest::DATA, || {
            let found = words.iter().position(|word: &PeerWord| word.load() != 0);
            found.is_some_and(|i| words.swap_remove(i).load() != 0)
        });
    }
    ringer.join().unwrap();
    other_ringer.join().unwrap();
    sleeping.check_wakes();
}

/// One ringer publishes twice; the sleeper sleeps for each.
fn one_ringer(mode: fn(usize) -> Mode) {
    let (mut sleeping, bell) = bell();
    let (word, seen) = word_pair();
    let ringer = thread::spawn(move || publish(&word, &bell, 2));
    for value in 1..=2 {
        sleeping.sleep_until(mode, Interest::DATA, || seen.load() >= value);
    }
    ringer.join().unwrap();
    sleeping.check_wakes();
}

/// SLEEP: no wake is lost, and there is at most one for each arm. Futex. Bound 4.
#[test]
fn one_ringer_futex() {
    explore(Some(4), || one_ringer(FUTEX));
}

/// SLEEP, in an event loop. Bound 4.
#[test]
fn one_ringer_event() {
    explore(Some(4), || one_ringer(EVENT));
}

/// SLEEP and MODE, across a change of mode. Bound 4.
#[test]
fn one_ringer_futex_then_event() {
    explore(Some(4), || one_ringer(FUTEX_FIRST));
}

/// SLEEP and MODE, across the other change of mode. Bound 4.
#[test]
fn one_ringer_event_then_futex() {
    explore(Some(4), || one_ringer(EVENT_FIRST));
}

/// SLEEP, with a second ringer that loses the compare-exchange. Bound 3.
#[test]
fn two_ringers_futex() {
    explore(Some(3), || two_ringers(FUTEX));
}

/// SLEEP, with a second ringer, in an event loop. Bound 3.
#[test]
fn two_ringers_event() {
    explore(Some(3), || two_ringers(EVENT));
}

/// SLEEP and MODE, with a second ringer, across a change of mode. Bound 3.
#[test]
fn two_ringers_futex_then_event() {
    explore(Some(3), || two_ringers(FUTEX_FIRST));
}

/// SLEEP and MODE, with a second ringer, across the other change of mode. Bound 3.
#[test]
fn two_ringers_event_then_futex() {
    explore(Some(3), || two_ringers(EVENT_FIRST));
}

/// SLEEP, in both directions at once: two sides call each other to and fro, and each sleeps for the
/// other, in different modes. Bound 3.
#[test]
fn to_and_fro() {
    explore(Some(3), || {
        let (mut left_sleeping, left_bell) = bell();
        let (mut right_sleeping, right_bell) = bell();
        let (request, requests) = word_pair();
        let (answer, answers) = word_pair();
        let right = thread::spawn(move || {
            for call in 1..=2 {
                right_sleeping.sleep_until(EVENT, Interest::DATA, || requests.load() == call);
                answer.store(call, Ordering::Relaxed);
                left_bell.ring(Interest::DATA);
            }
            right_sleeping
        });
        for call in 1..=2 {
            request.store(call, Ordering::Relaxed);
            right_bell.ring(Interest::DATA);
            left_sleeping.sleep_until(FUTEX, Interest::DATA, || answers.load() == call);
        }
        right.join().unwrap().check_wakes();
        left_sleeping.check_wakes();
    });
}

/// MODE: a ringer that is stopped between its compare-exchange and its wake strands no sleeper that
/// arms later. The sleeper calls one sleep off while the first ringer rings, then sleeps for the
/// second ringer: in that sleep it either sees `seq != ticket`, or has the new ticket, by which the
/// second ringer finds it. Bound 3.
#[test]
fn ringer_stopped_before_its_wake() {
    explore(Some(3), || {
        let (mut sleeping, bell) = bell();
        let other_bell = bell.share();
        let (word, seen) = word_pair();
        let (stopped_word, stopped) = word_pair();
        let stopping = thread::spawn(move || {
            let _never = other_bell.ring_and_stop(Interest::DATA);
            stopped_word.store(1, Ordering::Relaxed);
        });
        sleeping.arm(Mode::Futex, Interest::DATA);
        before_looking_again();
        while stopped.load() == 0 {
            thread::yield_now();
        }
        sleeping.sleeper.disarm();
        let ringer = thread::spawn(move || publish(&word, &bell, 1));
        sleeping.sleep_until(FUTEX, Interest::DATA, || seen.load() != 0);
        stopping.join().unwrap();
        ringer.join().unwrap();
        sleeping.check_wakes();
    });
}

/// No wake, and no change of the word that others wait on, for a sleeper that has not armed, or not
/// any more. No bound.
#[test]
fn awake_is_not_disturbed() {
    explore(None, || {
        let (mut sleeping, bell) = bell();
        let (word, seen) = word_pair();
        let ringer = thread::spawn(move || {
            publish(&word, &bell, 2);
            bell
        });
        while seen.load() != 2 {
            thread::yield_now();
        }
        let bell = ringer.join().unwrap();
        assert_eq!((bell.rings(), bell.wakes()), (0, 0), "never armed");
        sleeping.sleep_until(FUTEX, Interest::DATA, || seen.load() == 2);
        let ringer = thread::spawn(move || {
            assert!(!bell.ring(Interest::DATA), "not armed any more");
            assert_eq!((bell.rings(), bell.wakes()), (0, 0));
        });
        ringer.join().unwrap();
    });
}

/// Interest: a sleeper that waits for space is woken for space and never for data, however the two
/// race. Bound 3.
#[test]
fn interest_in_space_only() {
    explore(Some(3), || {
        let (mut sleeping, bell) = bell();
        let data_bell = bell.share();
        let (word, space) = word_pair();
        let data =
            thread::spawn(move || assert!(!data_bell.ring(Interest::DATA), "woken for data"));
        let ringer = thread::spawn(move || {
            word.store(1, Ordering::Relaxed);
            bell.ring(Interest::SPACE);
        });
        sleeping.sleep_until(FUTEX, Interest::SPACE, || space.load() != 0);
        data.join().unwrap();
        ringer.join().unwrap();
        sleeping.check_wakes();
    });
}

/// SLEEP and MODE, across a change of interest between two sleeps: a ringer that sees the old
/// interest is one whose publication the sleeper sees. Bound 3.
#[test]
fn interest_changes() {
    explore(Some(3), || {
        let (mut sleeping, bell) = bell();
        let space_bell = bell.share();
        let (data_word, data) = word_pair();
        let (space_word, space) = word_pair();
        let data_ringer = thread::spawn(move || publish(&data_word, &bell, 1));
        let space_ringer = thread::spawn(move || {
            space_word.store(1, Ordering::Relaxed);
            space_bell.ring(Interest::SPACE);
        });
        sleeping.sleep_until(FUTEX_FIRST, Interest::SPACE, || space.load() != 0);
        sleeping.sleep_until(FUTEX_FIRST, Interest::DATA, || data.load() != 0);
        data_ringer.join().unwrap();
        space_ringer.join().unwrap();
        sleeping.check_wakes();
    });
}

/// An impossible `armed` word wakes nobody and leaves the bell alone.
#[test]
fn impossible_armed_word() {
    explore(None, || {
        let (own, armed) = word_pair();
        let seq = BellWord::private();
        let ringer = Ringer::new(armed, seq.share());
        for mode in [0, 3, 4, 1 << 20] {
            own.store(mode << 36 | 3 << 32, Ordering::Relaxed);
            assert_eq!(ringer.ring(Interest::BOTH), None);
        }
        for interest in [Interest::DATA, Interest::SPACE] {
            own.store(Armed::new(Mode::Futex, interest, 7).0, Ordering::Relaxed);
            assert_eq!(ringer.ring(Interest::BOTH), None, "a ticket that was never given out");
        }
        assert_eq!(seq.load(), 0);
    });
}
