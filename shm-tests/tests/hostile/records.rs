//! Clients that write into the request ring what cannot be.

use crate::CAPACITY;
use crate::attack::{
    PEER_FAULT, Records, beside, beside_an_honest_client, hostile_word, hung_up, is_put_out, lines,
    producer, publish, word,
};
use ringbell::layout::{self, Kind, flag, offset};
use ringbell::ring::Consumer;
use ringbell::sync::Ordering;
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::{Chance, mix};
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::raw::{self, Session};
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::{becomes_true, done, observe, scaled, seed, wait_until};
use std::time::{Duration, Instant};

pub(crate) fn records_that_cannot_be() -> Ran {
    let max = u32::try_from(layout::max_body(CAPACITY)).expect("small");
    let total = |bytes: u64| bytes.to_le_bytes().to_vec();
    // Each a list of records: header word, and body.
    let mut cases: Vec<(String, Records)> = vec![
        ("kind 14".into(), vec![(14 << 32, vec![])]),
        ("kind 0 with a length".into(), vec![(8, vec![])]),
        ("kind 255, all bits".into(), vec![(u64::MAX, vec![])]),
        ("an unknown flag".into(), vec![(word(Kind::Request, 0x20, 0), vec![])]),
        (
            "a deadline without room for it".into(),
            vec![(word(Kind::Request, flag::DEADLINE, 7), vec![0; 7])],
        ),
        (
            "a first fragment without its deadline".into(),
            vec![(word(Kind::Request, flag::MORE | flag::DEADLINE, 8), total(100))],
        ),
        (
            "a deadline in the middle".into(),
            vec![
                (word(Kind::Request, flag::MORE, 16), [total(100), total(0)].concat()),
                (word(Kind::Request, flag::CONTINUED | flag::DEADLINE | flag::MORE, 8), total(1)),
            ],
        ),
        (
            "a stamp that was not agreed".into(),
            vec![(word(Kind::Request, flag::STAMP, 8), total(1))],
        ),
        ("too long by one".into(), vec![(word(Kind::Request, 0, max + 1), vec![])]),
        ("too long by far".into(), vec![(word(Kind::Request, 0, u32::MAX), vec![])]),
        ("padding at the start".into(), vec![(word(Kind::Padding, 0, 2048 - 16), vec![])]),
        ("padding that ends early".into(), vec![(word(Kind::Padding, 0, 48), vec![])]),
        ("padding with flags".into(), vec![(word(Kind::Padding, 1, 2048 - 16), vec![])]),
        ("the middle of nothing".into(), vec![(word(Kind::Request, flag::CONTINUED, 8), total(8))]),
        (
            "the end of nothing".into(),
            vec![(word(Kind::Request, flag::CONTINUED | flag::ABORT, 0), vec![])],
        ),
        (
            "an abort that goes on".into(),
            vec![
                (word(Kind::Request, flag::MORE, 16), [total(100), total(0)].concat()),
                (word(Kind::Request, flag::CONTINUED | flag::ABORT | flag::MORE, 0), vec![]),
            ],
        ),
        (
            "an abort with a body".into(),
            vec![
                (word(Kind::Request, flag::MORE, 16), [total(100), total(0)].concat()),
                (word(Kind::Request, flag::CONTINUED | flag::ABORT, 8), total(0)),
            ],
        ),
        (
            "a first fragment without a total".into(),
            vec![(word(Kind::Request, flag::MORE, 4), vec![0; 4])],
        ),
        (
            "a first fragment without a byte".into(),
            vec![(word(Kind::Request, flag::MORE, 8), total(100))],
        ),
        (
            "a total beyond all limits".into(),
            vec![(word(Kind::Request, flag::MORE, 16), [total(u64::MAX), total(0)].concat())],
        ),
        (
            "a total beyond the limit".into(),
            vec![(word(Kind::Request, flag::MORE, 16), [total((64 << 20) + 1), total(0)].concat())],
        ),
        (
            "more than the total".into(),
            vec![(word(Kind::Request, flag::MORE, 16), [total(7), total(0)].concat())],
        ),
        (
            "all of it, and more to come".into(),
            vec![(word(Kind::Request, flag::MORE, 16), [total(8), total(0)].concat())],
        ),
        (
            "less than the total".into(),
            vec![
                (word(Kind::Request, flag::MORE, 16), [total(100), total(0)].concat()),
                (word(Kind::Request, flag::CONTINUED, 8), total(0)),
            ],
        ),
        (
            "an empty fragment".into(),
            vec![
                (word(Kind::Request, flag::MORE, 16), [total(100), total(0)].concat()),
                (word(Kind::Request, flag::CONTINUED | flag::MORE, 0), vec![]),
            ],
        ),
        (
            "another message between fragments".into(),
            vec![
                (word(Kind::Request, flag::MORE, 16), [total(100), total(0)].concat()),
                (word(Kind::Request, 0, 8), total(0)),
            ],
        ),
        (
            "two first fragments".into(),
            vec![
                (word(Kind::Request, flag::MORE, 16), [total(100), total(0)].concat()),
                (word(Kind::Request, flag::MORE, 16), [total(100), total(0)].concat()),
            ],
        ),
        (
            "a ping in fragments".into(),
            vec![(word(Kind::Ping, flag::MORE, 16), [total(100), total(0)].concat())],
        ),
    ];
    for kind in [Kind::Response, Kind::Error, Kind::Event, Kind::StreamItem, Kind::StreamEnd] {
        cases.push((format!("{kind:?} from a client"), vec![(word(kind, 0, 0), vec![])]));
    }
    let count = cases.len() as u64;
    let ((), beside) = beside_an_honest_client(|server| {
        let before = server.stats();
        for (what, records) in &cases {
            tick();
            let session = Session::open(server.path(), CAPACITY);
            let mut lines = lines(&session);
            let mut at = 0;
            for (header, body) in records {
                lines.write(at + 16, body);
                lines.store(at, *header, Ordering::Release);
                at += layout::record_size(body.len());
            }
            is_put_out(&session, what);
        }
        wait_until("all are gone", || server.stats().sessions == 1);
        assert_eq!(server.stats().peer_faults, before.peer_faults + count);
        // One at the end of the ring, where the record would go beyond it, and double padding.
        for (what, last) in [
            ("beyond the end", word(Kind::Request, 0, 100)),
            ("padding twice", word(Kind::Padding, 0, 48)),
        ] {
            let session = Session::open(server.path(), CAPACITY);
            let mut producer = producer(&session);
            for number in 0..31u64 {
                let fits = || {
                    becomes_true(Duration::from_secs(5), || {
                        session.response.peer_word(offset::HEAD).load() >= 64 * number
                    })
                };
                publish(&mut producer, word(Kind::Ping, 0, 0), number, &[]);
                session.ring();
                assert!(fits(), "pings are read");
            }
            let mut lines = lines(&session);
            if what == "padding twice" {
                lines.store(2048, word(Kind::Padding, 0, 48), Ordering::Relaxed);
            }
            lines.store(31 * 64, last, Ordering::Release);
            is_put_out(&session, what);
        }
        // What is impossible in a request is possible in a ping.
        let session = Session::open(server.path(), CAPACITY);
        let mut lines = lines(&session);
        lines.store(0, word(Kind::Goodbye, 0, 0), Ordering::Release);
        session.ring();
        let words = raw::last_words(&session.stream);
        assert!(!words.contains(&PEER_FAULT), "a goodbye is no fault: {words:02x?}");
    });
    done!("{} ways to be wrong{beside}", count + 2)
}

/// Of a server that samples every third call of the honest client.
pub(crate) fn stamps_that_lie() -> Ran {
    let word8 = |value: u64| value.to_le_bytes().to_vec();
    let stamped = flag::STAMP;
    let first = [word8(100), word8(1), word8(0)].concat();
    let cases: Vec<(&str, Records)> = vec![
        ("a stamp without room for it", vec![(word(Kind::Request, stamped, 7), vec![0; 7])]),
        (
            "a stamp and a deadline with room for one",
            vec![(word(Kind::Request, stamped | flag::DEADLINE, 8), word8(1))],
        ),
        ("a one-way message with a stamp", vec![(word(Kind::OneWay, stamped, 8), word8(1))]),
        ("a ping with a stamp", vec![(word(Kind::Ping, stamped, 8), word8(1))]),
        ("a cancel with a stamp", vec![(word(Kind::Cancel, stamped, 8), word8(1))]),
        (
            "a first fragment without its stamp",
            vec![(word(Kind::Request, flag::MORE | stamped, 8), word8(100))],
        ),
        (
            "a stamp in the middle",
            vec![
                (word(Kind::Request, flag::MORE | stamped, 24), first),
                (
                    word(Kind::Request, flag::CONTINUED | stamped | flag::MORE, 16),
                    [word8(1), word8(1)].concat(),
                ),
            ],
        ),
    ];
    let mut answered = 0;
    let ((), beside) = beside(Server::prepare("verify").with("sample_calls", 3), |server| {
        let before = server.stats().peer_faults;
        for (what, records) in &cases {
            tick();
            let session = Session::open(server.path(), CAPACITY);
            let mut producer = producer(&session);
            for (header, body) in records {
                publish(&mut producer, *header, 5, body);
            }
            is_put_out(&session, what);
        }
        wait_until("all are gone", || server.stats().sessions == 1);
        assert_eq!(server.stats().peer_faults, before + cases.len() as u64);
        // Times from nowhere, and the same call again and again: each is answered like any other.
        let session = Session::open(server.path(), CAPACITY);
        let mut producer = producer(&session);
        let lines =
            session.response.peer_lines(layout::CONTROL, usize::try_from(CAPACITY).expect("small"));
        let mut consumer = Consumer::new(lines, session.request.own_word(offset::HEAD), 0);
        for (number, stamp) in
            (0..200u64).zip([0, 1, u64::MAX, u64::MAX / 2, 7].into_iter().cycle())
        {
            let call = if number % 2 == 0 { 5 } else { u64::MAX - number };
            // Several at once: more than are kept under way.
            for _ in 0..4 {
                publish(&mut producer, word(Kind::Request, stamped, 8), call, &word8(stamp));
                producer.zero_ahead();
            }
            session.ring();
            for _ in 0..4 {
                wait_until("an answer", || consumer.has_pending());
                let record =
                    consumer.peek().expect("the server writes as it should").expect("it is there");
                assert_eq!(record.call, call);
                let _ = consumer.release(record);
                consumer.settle();
                answered += 1;
            }
        }
        assert_eq!(
            server.stats().peer_faults,
            before + cases.len() as u64,
            "lies about time are no fault"
        );
    });
    done!("{} stamps out of place, {answered} that lie; {beside}", cases.len())
}

pub(crate) fn any_bytes_in_the_request_ring() -> Ran {
    let rounds = scaled(300);
    let (faults, beside) = beside_an_honest_client(|server| {
        for round in 0..rounds {
            tick();
            let mut chance = Chance::new(mix(seed(), round));
            let session = Session::open(server.path(), CAPACITY);
            let mut lines = lines(&session);
            let read = session.response.peer_word(offset::HEAD);
            let until = Instant::now() + Duration::from_millis(20);
            while !hung_up(&session.stream) && Instant::now() < until {
                // Where the server looks next, as far as it has said; behind it; and anywhere.
                for position in
                    [read.load(), read.load() + 64 * chance.below(8), chance.below(CAPACITY) & !7]
                {
                    lines.store(position, hostile_word(&mut chance), Ordering::Release);
                }
                // All other words that the client may write.
                for offset in [
                    offset::TAIL,
                    offset::HEAD,
                    offset::ARMED,
                    offset::HINTS,
                    offset::IDENTITY,
                    offset::COUNTERS,
                ] {
                    if chance.below(8) == 0 {
                        session.request.own_word(offset).store(chance.draw(), Ordering::Relaxed);
                    }
                }
                session.ring();
                std::thread::yield_now();
            }
        }
        wait_until("all are gone", || server.stats().sessions == 1);
        server.stats().peer_faults
    });
    assert!(faults > rounds / 2, "{faults} faults in {rounds} rounds: the noise is not heard");
    done!("{rounds} sessions, {faults} of them put out{beside}")
}

pub(crate) fn fragments_without_end() -> Ran {
    let (grown, beside) = beside_an_honest_client(|server| {
        // A total is claimed, and little of it comes: memory grows as bytes come, not as they are
        // announced.
        let before = observe::private_bytes(server.id());
        let sessions: Vec<Session> = (0..8)
            .map(|_| {
                let session = Session::open(server.path(), CAPACITY);
                let mut producer = producer(&session);
                publish(
                    &mut producer,
                    word(Kind::Request, flag::MORE, 16),
                    1,
                    &[(64u64 << 20).to_le_bytes(), [0; 8]].concat(),
                );
                session.ring();
                assert!(becomes_true(Duration::from_secs(5), || session
                    .response
                    .peer_word(offset::HEAD)
                    .load()
                    > 0));
                session
            })
            .collect();
        let grown = observe::private_bytes(server.id()).saturating_sub(before);
        drop(sessions);
        grown
    });
    assert!(grown < 4 << 20, "8 * 64 MiB were announced, and {grown} B were taken");
    done!("8 * 64 MiB announced, {grown} B taken{beside}")
}
