//! Ring and bell together: sleeping for data and for space.

use crate::explore;
use crate::kernel::{Bell, SleepingSide, bell, bell_in};
use crate::ring::{In, Out, fresh, worn};
use loom::thread;
use ringbell::layout::{Interest, LINE, Mode};
use ringbell::ring::Released;

const FUTEX: fn(usize) -> Mode = |_| Mode::Futex;

/// Commits one record after the other, sleeping for space, ringing for data; whether each ring
/// woke.
fn produce(
    out: &mut Out,
    sleeping: &mut SleepingSide,
    bell: &Bell,
    words: usize,
    calls: impl Iterator<Item = u64>,
) {
    for call in calls {
        while !out.try_commit(words, call) {
            sleeping.sleep_until(FUTEX, Interest::SPACE, || {
                out.ring.has_room(8 * words).expect("a fault")
            });
        }
        bell.ring(Interest::DATA);
        out.zero_ahead();
    }
}

/// Takes one record after the other, sleeping for data, ringing for space only where `release` says
/// so.
fn consume(
    input: &mut In,
    sleeping: &mut SleepingSide,
    bell: &Bell,
    calls: impl Iterator<Item = (u64, usize)>,
) {
    for (call, words) in calls {
        let (_, found, released) = loop {
            match input.try_take(words) {
                Some(taken) => break taken,
                None => sleeping.sleep_until(FUTEX, Interest::DATA, || input.ring.has_pending()),
            }
        };
        assert_eq!(found, call);
        match released {
            Released::Quarter => _ = bell.ring(Interest::SPACE),
            Released::Quietly => {}
        }
    }
}

/// SLEEP, PUBLISH, Z: a consumer that sleeps for data reads every record; no wake is lost, at most
/// one for each arm. Two records round the end of the u64. Bound 4.
#[test]
fn sleep_for_data() {
    explore(Some(4), || {
        let (mut out, mut input) = worn(256, 0_u64.wrapping_sub(LINE));
        let (mut sleeping, bell) = bell();
        let producer = thread::spawn(move || {
            for call in 1..=2 {
                assert!(out.try_commit(1, call));
                bell.ring(Interest::DATA);
                out.zero_ahead();
            }
        });
        for call in 1..=2 {
            sleeping.sleep_until(FUTEX, Interest::DATA, || input.ring.has_pending());
            assert_eq!(input.try_receive(1), Some(call));
        }
        producer.join().unwrap();
        sleeping.check_wakes();
    });
}

/// SLEEP, PUBLISH: the same, across a change of mode. Bound 3.
#[test]
fn sleep_for_data_across_modes() {
    explore(Some(3), || {
        let (mut out, mut input) = fresh(256, 0_u64.wrapping_sub(LINE));
        let (mut sleeping, bell) = bell();
        let producer = thread::spawn(move || {
            for call in 1..=2 {
                assert!(out.try_commit(1, call));
                bell.ring(Interest::DATA);
                out.zero_ahead();
            }
        });
        let mode = |arms: usize| if arms.is_multiple_of(2) { Mode::Event } else { Mode::Futex };
        for call in 1..=2 {
            sleeping.sleep_until(mode, Interest::DATA, || input.ring.has_pending());
            assert_eq!(input.try_receive(1), Some(call));
        }
        producer.join().unwrap();
        sleeping.check_wakes();
    });
}

/// The two sides of a ring that is full at the start with records of one line: the producer sleeps
/// for space for the records behind, the consumer for data.
fn full_ring(capacity: usize, at: u64, lines: u64, words: usize, more: u64) {
    let (mut out, mut input) = worn(capacity, at);
    for call in 0..lines {
        assert!(out.try_send(0, call));
    }
    assert!(!out.try_send(words, lines), "not full");
    let (mut producer_sleeping, producer_bell) = bell();
    let (mut consumer_sleeping, consumer_bell) = bell();
    let producer = thread::spawn(move || {
        produce(&mut out, &mut producer_sleeping, &consumer_bell, words, lines..lines + more);
        producer_sleeping
    });
    let calls = (0..lines + more).map(|call| (call, if call < lines { 0 } else { words }));
    consume(&mut input, &mut consumer_sleeping, &producer_bell, calls);
    producer.join().unwrap().check_wakes();
    consumer_sleeping.check_wakes();
}

/// SLEEP, RELEASE: both sides sleep for each other over a ring of four lines, and never both for
/// ever. Bound 3.
#[test]
fn sleep_for_space() {
    explore(Some(3), || full_ring(256, 0, 3, 1, 2));
}

/// Lazy head: the producer of two-line records and padding sleeps for space, the consumer rings
/// only for quarters. Eight lines. Bound 3.
#[test]
fn lazy_head() {
    explore(Some(3), || full_ring(512, 512 - 5 * LINE, 4, 8, 1));
}

/// Lazy head, worst case: the longest record behind the most padding waits for the most space there
/// is to wait for. Sixteen lines. Bound 2.
#[test]
fn lazy_head_before_the_longest_record() {
    explore(Some(2), || full_ring(1024, 1024 - 9 * LINE, 6, 30, 1));
}

/// Interest, in both directions over one bell: the client waits for space in the request ring
/// alone, so an answer does not wake it and a quarter does. Bound 3.
#[test]
fn an_answer_does_not_wake_for_space() {
    explore(Some(3), || {
        let (mut requests_out, mut requests_in) = worn(256, 0);
        let (mut answers_out, mut answers_in) = fresh(256, 0);
        for call in 1..=3 {
            assert!(requests_out.try_send(0, call));
        }
        let (mut sleeping, bell) = bell();
        let server = thread::spawn(move || {
            assert!(answers_out.try_commit(0, 9));
            assert!(!bell.ring(Interest::DATA), "woken for data");
            let (_, _, released) = requests_in.try_take(0).unwrap();
            assert_eq!(released, Released::Quarter);
            bell.ring(Interest::SPACE);
        });
        sleeping.sleep_until(FUTEX, Interest::SPACE, || {
            requests_out.ring.has_room(0).expect("a fault")
        });
        assert!(requests_out.try_send(0, 4));
        server.join().unwrap();
        assert_eq!(answers_in.try_receive(0), Some(9));
        sleeping.check_wakes();
    });
}

/// SLEEP, for either of two sources on one bell: the client waits for an answer or for space. Two
/// ringers, as two threads of a server would be. Bound 3.
#[test]
fn data_or_space() {
    explore(Some(3), || {
        let (mut requests_out, mut requests_in) = worn(256, 0);
        let (mut answers_out, mut answers_in) = fresh(256, 0);
        for call in 1..=3 {
            assert!(requests_out.try_send(0, call));
        }
        let (mut sleeping, bell) = bell_in(crate::kernel::Kernel::new());
        let space_bell = bell.share();
        let answering = thread::spawn(move || {
            assert!(answers_out.try_commit(0, 9));
            bell.ring(Interest::DATA);
        });
        let releasing = thread::spawn(move || {
            let (_, _, released) = requests_in.try_take(0).unwrap();
            assert_eq!(released, Released::Quarter);
            space_bell.ring(Interest::SPACE);
        });
        let (mut answered, mut sent) = (false, false);
        while !(answered && sent) {
            sleeping.sleep_until(FUTEX, Interest::BOTH, || {
                let answer = !answered && answers_in.try_receive(0).is_some();
                let space = !sent && requests_out.try_send(0, 4);
                (answered, sent) = (answered || answer, sent || space);
                answer || space
            });
        }
        answering.join().unwrap();
        releasing.join().unwrap();
        sleeping.check_wakes();
    });
}
