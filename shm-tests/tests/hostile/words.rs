//! Clients whose words lie: heads, sleep, bells, and what they send over the lifeline.

use crate::CAPACITY;
use crate::attack::{beside_an_honest_client, hung_up, producer, publish, word};
use ringbell::layout::{self, Armed, Hints, Interest, Kind, Mode, offset};
use ringbell::ring::Consumer;
use ringbell::sync::Ordering;
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::Chance;
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::raw::{self, Session};
use ringbell_shm_tests::{becomes_true, done, observe, scaled, seed, wait_until};
use rustix::fs::SealFlags;
use rustix::io::Errno;
use std::io::Write;
use std::time::{Duration, Instant};

/// A head, when so many bytes were answered.
type Lie = fn(u64) -> u64;

pub(crate) fn heads_that_cannot_be() -> Ran {
    let lies: [(&str, Lie); 5] = [
        ("ahead of everything", |_| !63),
        ("ahead by a line", |tail| tail + 64),
        ("not at a line", |tail| tail.wrapping_sub(1)),
        ("behind", |_| 0u64.wrapping_sub(64)),
        ("far ahead", |tail| tail + (1 << 32)),
    ];
    let ((), beside) = beside_an_honest_client(|server| {
        for (what, lie) in lies {
            tick();
            let session = Session::open(server.path(), CAPACITY);
            let mut producer = producer(&session);
            let head = session.request.own_word(offset::HEAD);
            let answered = session.response.peer_word(offset::TAIL);
            // Pings are answered until the response ring is full; then the server looks at the
            // head.
            let began = Instant::now();
            let mut number = 0;
            let out = loop {
                head.store(lie(answered.load()), Ordering::Relaxed);
                if producer.has_room(0).expect("an honest server") {
                    publish(&mut producer, word(Kind::Ping, 0, 0), number, &[]);
                    number += 1;
                }
                session.ring();
                if hung_up(&session.stream) {
                    break true;
                }
                if began.elapsed() > Duration::from_secs(5) {
                    break false;
                }
            };
            assert!(out, "{what}: {number} pings and no fault");
        }
        wait_until("all are gone", || server.stats().sessions == 1);
        assert_eq!(server.stats().peer_faults, lies.len() as u64);
    });
    done!("{} lies{beside}", lies.len())
}

pub(crate) fn words_that_lie_about_sleep() -> Ran {
    let rounds = scaled(3000);
    let ((), beside) = beside_an_honest_client(|server| {
        let session = Session::open(server.path(), CAPACITY);
        let mut producer = producer(&session);
        let lines =
            session.response.peer_lines(layout::CONTROL, usize::try_from(CAPACITY).expect("small"));
        let mut consumer = Consumer::new(lines, session.request.own_word(offset::HEAD), 0);
        let armed = session.request.own_word(offset::ARMED);
        let hints = session.request.own_word(offset::HINTS);
        let seq = session.response.bell_word(offset::SEQ);
        let mut chance = Chance::new(seed());
        for round in 0..rounds {
            tick();
            let lie = match chance.below(4) {
                0 => chance.draw(),
                // Always asleep, always with the right ticket, in either mode: each answer costs
                // the server a wake.
                1 => Armed::new(Mode::Futex, Interest::BOTH, seq.load()).0,
                2 => Armed::new(Mode::Event, Interest::BOTH, seq.load()).0,
                _ => 15 << 36 | 3 << 32 | u64::from(seq.load()),
            };
            armed.store(lie, Ordering::Relaxed);
            hints.store(
                if chance.below(2) == 0 { chance.draw() } else { Hints::new(Some(0), true).0 },
                Ordering::Relaxed,
            );
            publish(&mut producer, word(Kind::Ping, 0, 0), round, &[]);
            session.ring();
            let answered = becomes_true(Duration::from_secs(5), || {
                consumer.peek().expect("an honest server").is_some_and(|record| {
                    assert_eq!((record.header.kind(), record.call), (Kind::Pong, round));
                    let _ = consumer.release(record);
                    true
                })
            });
            assert!(answered, "armed {lie:#x}: ping {round} is not answered");
        }
        drop(session);
    });
    done!("{rounds} answered pings{beside}")
}

pub(crate) fn a_bell_page_that_is_not_what_it_was() -> Ran {
    let rounds = scaled(2000);
    let ((), beside) = beside_an_honest_client(|server| {
        let session = Session::open(server.path(), CAPACITY);
        let bell = session.bell.own_word(offset::SEQ);
        let mut chance = Chance::new(seed());
        for round in 0..rounds {
            tick();
            match round % 3 {
                0 => bell.store(chance.draw(), Ordering::Relaxed),
                1 => drop(session.bell.bell_word(offset::SEQ).wake()),
                _ => raw::punch(&session.descriptors[3], layout::BELL_SEGMENT_SIZE)
                    .expect("clients may punch it"),
            }
            std::thread::sleep(Duration::from_micros(chance.below(100)));
        }
        assert_eq!(rustix::fs::ftruncate(&session.descriptors[3], 0), Err(Errno::PERM));
        assert_eq!(
            rustix::fs::fcntl_add_seals(&session.descriptors[3], SealFlags::FUTURE_WRITE),
            Err(Errno::PERM)
        );
    });
    done!("{rounds} times{beside}")
}

pub(crate) fn floods_of_the_lifeline() -> Ran {
    let ((told, cost), beside) = beside_an_honest_client(|server| {
        let mut told = String::new();
        let mut cost = Duration::ZERO;
        for (what, byte) in [
            ("wake bytes", raw::WAKE),
            ("READY again", raw::READY),
            ("noise", b'x'),
            ("farewells", 0x80),
        ] {
            tick();
            let session = Session::open(server.path(), CAPACITY);
            server.wait_for_sessions(2);
            session.stream.set_nonblocking(true).expect("nonblocking");
            let used = observe::cpu_time(server.id());
            let until = Instant::now() + Duration::from_millis(300);
            let mut sent = 0;
            let mut out = false;
            while Instant::now() < until && !out {
                match (&session.stream).write(&[byte; 4096]) {
                    Ok(count) => sent += count,
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    Err(_) => out = true,
                }
            }
            cost += observe::cpu_time(server.id()).saturating_sub(used);
            told += &format!(" {what}: {sent} B, {};", if out { "put out" } else { "ignored" });
        }
        (told, cost)
    });
    // The porter must not run in circles over bytes that it does not read.
    assert!(cost < Duration::from_millis(1200), "1.2 s of floods cost the server {cost:?}");
    done!("{told} {cost:?} of CPU, honest calls included{beside}")
}
