//! Peers that write whatever they like into the memory that they may write, and send whatever they like.
//!
//! What must hold: the other side never panics, hangs or dies; it ends that session with a typed fault, or ignores
//! what is none of its business; and other sessions do not notice.

use ringbell::layout::{self, Armed, HeaderWord, Hints, Interest, Kind, Mode, SegmentKind, flag, offset};
use ringbell::memory::OwnLines;
use ringbell::ring::{Consumer, Producer};
use ringbell::sync::{Ordering, PlainU64};
use ringbell::{CallError, Client, ConnectError, ConnectOptions, PeerFault, RingFault, SegmentError};
use ringbell_shm_tests::pattern::{Chance, Pattern, mix};
use ringbell_shm_tests::raw::{self, Segments, Session};
use ringbell_shm_tests::server::{Prepared, Server};
use ringbell_shm_tests::suite::{Ran, tick};
use ringbell_shm_tests::verified::Verified;
use ringbell_shm_tests::{becomes_true, done, observe, scaled, seed, suite, wait_until};
use rustix::fs::SealFlags;
use rustix::io::Errno;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

suite! {
    tests: [
        records_that_cannot_be,
        heads_that_cannot_be,
        any_bytes_in_the_request_ring,
        words_that_lie_about_sleep,
        a_bell_page_that_is_not_what_it_was,
        floods_of_the_lifeline,
        segments_that_clients_tamper_with,
        memory_that_is_not_theirs,
        fragments_without_end,
        stamps_that_lie,
        servers_with_wrong_segments,
        servers_with_wrong_descriptors,
        servers_that_answer_nonsense,
        servers_that_write_nonsense,
        any_bytes_in_the_response_ring,
    ],
    roles: [],
}

const CAPACITY: u64 = 2048;
const PEER_FAULT: u8 = 0x81;

/// Runs `attack` on a server that an honest client uses all the while; what the attack says.
fn beside_an_honest_client<T>(attack: impl FnOnce(&mut Server) -> T) -> (T, String) {
    beside(Server::prepare("verify"), attack)
}

/// The same on a server of the test's choice.
fn beside<T>(server: Prepared, attack: impl FnOnce(&mut Server) -> T) -> (T, String) {
    struct Stop<'a>(&'a PlainU64);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(1, Ordering::Relaxed);
        }
    }
    let mut server = server.with("max_clients", 16).start();
    let path = server.path().to_owned();
    let stop = PlainU64::new(0);
    let (result, calls, slowest) = std::thread::scope(|scope| {
        let honest = scope.spawn(|| {
            let mut client =
                Verified::connect(&path, ConnectOptions::new(), Pattern::new(9, 700).with_large(50, 20_000));
            let mut slowest = Duration::ZERO;
            while stop.load(Ordering::Relaxed) == 0 {
                let began = Instant::now();
                client.call(None).expect("the honest client notices nothing");
                slowest = slowest.max(began.elapsed());
                std::thread::sleep(Duration::from_micros(200));
            }
            let calls = client.sent();
            client.finish();
            (calls, slowest)
        });
        let stop = Stop(&stop);
        server.wait_for_sessions(1);
        let result = attack(&mut server);
        server.wait_for_sessions(1);
        drop(stop);
        let (calls, slowest) = honest.join().expect("the honest client");
        (result, calls, slowest)
    });
    assert!(slowest < Duration::from_secs(2), "an honest call took {slowest:?}");
    let stats = server.shut_down();
    assert_eq!(stats.panics, 0);
    (result, format!("; beside {calls} honest calls, the slowest of {slowest:?}"))
}

fn word(kind: Kind, flags: u8, length: u32) -> u64 {
    HeaderWord::new(kind, flags, 0, length).0
}

/// The server ends the session with a fault. It is rung again and again, as a client would.
fn is_put_out(session: &Session, what: &str) {
    session.ring();
    let words = raw::last_words(&session.stream);
    assert_eq!(words.last(), Some(&PEER_FAULT), "{what}: {words:02x?}");
}

/// The request ring, to be written at will.
fn lines(session: &Session) -> OwnLines {
    session
        .request
        .own_lines(layout::CONTROL, usize::try_from(session.welcome.request_capacity).expect("small"))
}

/// The same, to be written as it should be.
fn producer(session: &Session) -> Producer {
    Producer::new(
        lines(session),
        session.request.own_word(offset::TAIL),
        session.response.peer_word(offset::HEAD),
        0,
    )
}

/// Publishes a record as it should be.
fn publish(producer: &mut Producer, header: u64, call: u64, body: &[u8]) {
    let claim = producer.try_claim(body.len()).expect("room");
    producer.write(&claim, 0, body);
    producer.commit(claim, HeaderWord(header), call);
}

/// Header words and bodies.
type Records = Vec<(u64, Vec<u8>)>;

fn records_that_cannot_be() -> Ran {
    let max = u32::try_from(layout::max_body(CAPACITY)).expect("small");
    let total = |bytes: u64| bytes.to_le_bytes().to_vec();
    // Each a list of records: header word, and body.
    let mut cases: Vec<(String, Records)> = vec![
        ("kind 14".into(), vec![(14 << 32, vec![])]),
        ("kind 0 with a length".into(), vec![(8, vec![])]),
        ("kind 255, all bits".into(), vec![(u64::MAX, vec![])]),
        ("an unknown flag".into(), vec![(word(Kind::Request, 0x20, 0), vec![])]),
        ("a deadline without room for it".into(), vec![(word(Kind::Request, flag::DEADLINE, 7), vec![0; 7])]),
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
        ("a stamp that was not agreed".into(), vec![(word(Kind::Request, flag::STAMP, 8), total(1))]),
        ("too long by one".into(), vec![(word(Kind::Request, 0, max + 1), vec![])]),
        ("too long by far".into(), vec![(word(Kind::Request, 0, u32::MAX), vec![])]),
        ("padding at the start".into(), vec![(word(Kind::Padding, 0, 2048 - 16), vec![])]),
        ("padding that ends early".into(), vec![(word(Kind::Padding, 0, 48), vec![])]),
        ("padding with flags".into(), vec![(word(Kind::Padding, 1, 2048 - 16), vec![])]),
        ("the middle of nothing".into(), vec![(word(Kind::Request, flag::CONTINUED, 8), total(8))]),
        ("the end of nothing".into(), vec![(word(Kind::Request, flag::CONTINUED | flag::ABORT, 0), vec![])]),
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
        ("a first fragment without a total".into(), vec![(word(Kind::Request, flag::MORE, 4), vec![0; 4])]),
        ("a first fragment without a byte".into(), vec![(word(Kind::Request, flag::MORE, 8), total(100))]),
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
        for (what, last) in
            [("beyond the end", word(Kind::Request, 0, 100)), ("padding twice", word(Kind::Padding, 0, 48))]
        {
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

/// A head, when so many bytes were answered.
type Lie = fn(u64) -> u64;

/// Of a server that samples every third call of the honest client.
fn stamps_that_lie() -> Ran {
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
        let lines = session.response.peer_lines(layout::CONTROL, usize::try_from(CAPACITY).expect("small"));
        let mut consumer = Consumer::new(lines, session.request.own_word(offset::HEAD), 0);
        for (number, stamp) in (0..200u64).zip([0, 1, u64::MAX, u64::MAX / 2, 7].into_iter().cycle()) {
            let call = if number % 2 == 0 { 5 } else { u64::MAX - number };
            // Several at once: more than are kept under way.
            for _ in 0..4 {
                publish(&mut producer, word(Kind::Request, stamped, 8), call, &word8(stamp));
                producer.zero_ahead();
            }
            session.ring();
            for _ in 0..4 {
                wait_until("an answer", || consumer.has_pending());
                let record = consumer.peek().expect("the server writes as it should").expect("it is there");
                assert_eq!(record.call, call);
                let _ = consumer.release(record);
                consumer.settle();
                answered += 1;
            }
        }
        assert_eq!(server.stats().peer_faults, before + cases.len() as u64, "lies about time are no fault");
    });
    done!("{} stamps out of place, {answered} that lie; {beside}", cases.len())
}

fn heads_that_cannot_be() -> Ran {
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
            // Pings are answered until the response ring is full; then the server looks at the head.
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

/// Whether the other end has hung up; takes what it has said.
fn hung_up(stream: &UnixStream) -> bool {
    let mut bytes = [0; 256];
    loop {
        match rustix::net::recv(stream, &mut bytes[..], rustix::net::RecvFlags::DONTWAIT) {
            Ok((_, 0)) | Err(Errno::CONNRESET) => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}

fn hostile_word(chance: &mut Chance) -> u64 {
    match chance.below(8) {
        0 => chance.draw(),
        1 => 0,
        2 => word(Kind::Padding, 0, u32::try_from(chance.below(2048)).expect("small")),
        3 => chance.below(600) | chance.below(256) << 32,
        4 => word(
            Kind::Request,
            u8::try_from(chance.below(256)).expect("a byte"),
            u32::try_from(chance.below(500)).expect("small"),
        ),
        5 => word(Kind::Ping, 0, u32::try_from(chance.below(100)).expect("small")),
        _ => word(Kind::Request, 0, u32::try_from(chance.below(500)).expect("small")),
    }
}

fn any_bytes_in_the_request_ring() -> Ran {
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
                for position in [read.load(), read.load() + 64 * chance.below(8), chance.below(CAPACITY) & !7]
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

fn words_that_lie_about_sleep() -> Ran {
    let rounds = scaled(3000);
    let ((), beside) = beside_an_honest_client(|server| {
        let session = Session::open(server.path(), CAPACITY);
        let mut producer = producer(&session);
        let lines = session.response.peer_lines(layout::CONTROL, usize::try_from(CAPACITY).expect("small"));
        let mut consumer = Consumer::new(lines, session.request.own_word(offset::HEAD), 0);
        let armed = session.request.own_word(offset::ARMED);
        let hints = session.request.own_word(offset::HINTS);
        let seq = session.response.bell_word(offset::SEQ);
        let mut chance = Chance::new(seed());
        for round in 0..rounds {
            tick();
            let lie = match chance.below(4) {
                0 => chance.draw(),
                // Always asleep, always with the right ticket, in either mode: each answer costs the server a wake.
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
                    assert_eq!((record.kind, record.call), (Kind::Pong, round));
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

fn a_bell_page_that_is_not_what_it_was() -> Ran {
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

fn floods_of_the_lifeline() -> Ran {
    let ((told, cost), beside) = beside_an_honest_client(|server| {
        let mut told = String::new();
        let mut cost = Duration::ZERO;
        for (what, byte) in
            [("wake bytes", raw::WAKE), ("READY again", raw::READY), ("noise", b'x'), ("farewells", 0x80)]
        {
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

fn segments_that_clients_tamper_with() -> Ran {
    let ((), beside) = beside_an_honest_client(|server| {
        let fresh = |server: &Server| Session::open_but_for_ready(server.path(), CAPACITY);
        let size = layout::ring_segment_size(CAPACITY);
        // Sealed against writing for good: the server cannot make it what it should be.
        let session = fresh(server);
        rustix::fs::fcntl_add_seals(&session.descriptors[0], SealFlags::SEAL).expect("a client may do that");
        raw::send(&session.stream, &[raw::READY], &[]);
        let _ = raw::last_words(&session.stream);
        // Punched before READY: harmless, all-zero bytes are an empty ring.
        let session = fresh(server);
        raw::punch(&session.descriptors[0], size).expect("a client may do that before READY");
        raw::send(&session.stream, &[raw::READY], &[]);
        let mut pings = producer(&session);
        publish(&mut pings, word(Kind::Ping, 0, 0), 1, &[]);
        session.ring();
        assert!(becomes_true(Duration::from_secs(5), || session.response.peer_word(offset::TAIL).load() > 0));
        // And not afterwards.
        assert_eq!(raw::punch(&session.descriptors[0], size), Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&session.descriptors[0], 0), Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&session.descriptors[0], size * 2), Err(Errno::PERM));
        assert_eq!(rustix::io::pwrite(&session.descriptors[0], &[1], 5000), Err(Errno::PERM));
        drop(session);
        // Something else than READY, and nothing but half of a session.
        for bytes in [&b"x"[..], &[raw::WAKE], &[raw::GOODBYE], &[0]] {
            let session = fresh(server);
            raw::send(&session.stream, bytes, &[]);
            let _ = raw::last_words(&session.stream);
        }
        // Descriptors for the server, which takes none.
        let session = fresh(server);
        let zero = std::fs::File::open("/dev/zero").expect("/dev/zero");
        let before = observe::descriptors(server.id());
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
        let rights = [zero.as_fd()];
        assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&rights)));
        // Either the kernel refuses them for the server (6.16), or the server drops them.
        let _ = rustix::net::sendmsg(
            &session.stream,
            &[std::io::IoSlice::new(&[raw::READY])],
            &mut control,
            rustix::net::SendFlags::NOSIGNAL,
        );
        drop(session);
        server.wait_for_sessions(1);
        assert!(observe::descriptors(server.id()) <= before);
        assert!(!observe::descriptor_targets(server.id()).contains(&"/dev/zero".to_owned()));
    });
    done!("before READY, with it, and after{beside}")
}

fn memory_that_is_not_theirs() -> Ran {
    let ((), beside) = beside_an_honest_client(|server| {
        let session = Session::open(server.path(), CAPACITY);
        for (what, index, size) in [
            ("response", 1, layout::ring_segment_size(CAPACITY)),
            ("status", 2, layout::status_segment_size(session.welcome.armed_words)),
        ] {
            let fd = &session.descriptors[index];
            assert!(raw::map(fd, size, true).is_err(), "{what}: mapped for writing");
            assert!(rustix::io::pwrite(fd, &[1], 0).is_err(), "{what}: written");
            assert!(raw::punch(fd, size).is_err(), "{what}: punched");
            assert_eq!(rustix::fs::ftruncate(fd, 0), Err(Errno::PERM), "{what}: cut");
            // Opened again, with all rights that this user has.
            let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
            if let Ok(again) = std::fs::OpenOptions::new().read(true).write(true).open(path) {
                assert!(
                    raw::map(&again, size, true).is_err(),
                    "{what}: mapped for writing after opening again"
                );
                assert!((&again).write(&[1]).is_err(), "{what}: written after opening again");
            }
        }
    });
    done!("response and status{beside}")
}

fn fragments_without_end() -> Ran {
    let (grown, beside) = beside_an_honest_client(|server| {
        // A total is claimed, and little of it comes: memory grows as bytes come, not as they are announced.
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

/// A server that is none, at a path of its own.
struct Fake {
    listener: UnixListener,
    dir: tempfile::TempDir,
}

impl Fake {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(dir.path().join("fake.sock")).expect("bind");
        Self { listener, dir }
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("fake.sock")
    }

    /// What a client comes to that connects while `answer` is the server's part.
    fn greets(&self, answer: impl FnOnce(UnixStream)) -> Result<(), ConnectError> {
        tick();
        let path = self.path();
        std::thread::scope(|scope| {
            let client = scope.spawn(move || connect(&path).map(drop));
            answer(raw::accept(&self.listener));
            client.join().expect("the client does not panic")
        })
    }
}

fn connect(path: &Path) -> Result<Client, ConnectError> {
    ConnectOptions::new().timeout(Some(Duration::from_millis(300))).connect(path)
}

/// Sends a Welcome with these segments, and waits for the client's end.
fn welcome_with(stream: &UnixStream, welcome: &raw::Welcome, segments: &[std::os::fd::OwnedFd]) {
    let descriptors: Vec<_> = segments.iter().map(AsFd::as_fd).collect();
    raw::send(stream, &welcome.encode(), &descriptors);
    let _ = raw::last_words(stream);
}

fn servers_with_wrong_segments() -> Ran {
    let fake = Fake::new();
    let welcome = raw::welcome(CAPACITY);
    // So that what follows fails for the reason that it should fail for.
    let good = fake.greets(|stream| {
        let segments = Segments::honest(&welcome);
        let descriptors: Vec<_> = segments.descriptors.iter().map(AsFd::as_fd).collect();
        raw::send(&stream, &welcome.encode(), &descriptors);
        assert_eq!(raw::last_words(&stream), [raw::READY, raw::GOODBYE]);
    });
    assert!(good.is_ok(), "{good:?}");
    let mut cases = 0;
    for (index, kind) in raw::KINDS.into_iter().enumerate() {
        let with = |fd: std::os::fd::OwnedFd| {
            let mut descriptors = Segments::honest(&welcome).descriptors;
            descriptors[index] = fd;
            fake.greets(|stream| welcome_with(&stream, &welcome, &descriptors)).expect_err("refused")
        };
        let honest = raw::identity(&welcome, kind);
        let seals = raw::seals(kind);
        // Each seal that is needed, and those that would make it useless.
        for missing in seals.iter() {
            let error = with(raw::segment(&honest, honest.total, seals - missing).0);
            assert!(
                matches!(error, ConnectError::BadSegment(SegmentError::Seals { .. })),
                "{kind:?} without {missing:?}: {error:?}"
            );
            cases += 1;
        }
        if matches!(kind, SegmentKind::Request | SegmentKind::Bell) {
            let error = with(raw::segment(&honest, honest.total, seals | SealFlags::FUTURE_WRITE).0);
            assert!(
                matches!(error, ConnectError::BadSegment(SegmentError::Seals { .. })),
                "{kind:?}: {error:?}"
            );
            cases += 1;
        }
        for size in [0, 4096, honest.total - 1, honest.total + 1, honest.total * 2] {
            if size == honest.total {
                continue;
            }
            let error = with(raw::segment(&honest, size, seals).0);
            assert!(
                matches!(error, ConnectError::BadSegment(SegmentError::Size { .. })),
                "{kind:?} of {size}: {error:?}"
            );
            cases += 1;
        }
        let wrong = [
            ringbell::layout::Identity { magic: 1, ..honest },
            ringbell::layout::Identity { version: 2, ..honest },
            ringbell::layout::Identity { kind: 9, ..honest },
            ringbell::layout::Identity { generation: 1, ..honest },
            ringbell::layout::Identity { session: 99, ..honest },
            ringbell::layout::Identity { capacity: 4096 * 4, ..honest },
            ringbell::layout::Identity { total: 1, ..honest },
        ];
        for identity in wrong {
            let error = with(raw::segment(&identity, honest.total, seals).0);
            assert!(
                matches!(error, ConnectError::BadSegment(SegmentError::Identity(_))),
                "{identity:?}: {error:?}"
            );
            cases += 1;
        }
        // Things that are no sealed memory at all.
        let null = || std::fs::File::open("/dev/null").expect("/dev/null").into();
        let file = || tempfile::tempfile().expect("a file").into();
        let socket = || UnixStream::pair().expect("sockets").0.into();
        let things: [(&str, &dyn Fn() -> std::os::fd::OwnedFd); 3] =
            [("/dev/null", &null), ("a file", &file), ("a socket", &socket)];
        for (what, thing) in things {
            let error = with(thing());
            assert!(matches!(error, ConnectError::BadSegment(_)), "{what}: {error:?}");
            cases += 1;
        }
    }
    done!("{cases} segments")
}

fn servers_with_wrong_descriptors() -> Ran {
    let fake = Fake::new();
    let before = observe::descriptors(std::process::id());
    let welcome = raw::welcome(CAPACITY);
    for count in [0usize, 1, 3, 5, 6, 40] {
        let error = fake.greets(|stream| {
            let segments = Segments::honest(&welcome);
            let descriptors: Vec<_> =
                segments.descriptors.iter().cycle().take(count).map(AsFd::as_fd).collect();
            raw::send(&stream, &welcome.encode(), &descriptors);
            let _ = raw::last_words(&stream);
        });
        assert!(
            matches!(error, Err(ConnectError::BadDescriptors { want: 4 | 5, .. })),
            "{count} descriptors: {error:?}"
        );
    }
    // In another order than agreed.
    let error = fake.greets(|stream| {
        let mut descriptors = Segments::honest(&welcome).descriptors;
        descriptors.swap(0, 1);
        welcome_with(&stream, &welcome, &descriptors);
    });
    assert!(matches!(error, Err(ConnectError::BadSegment(_))), "{error:?}");
    // A pidfd that was announced and did not come.
    let error = fake.greets(|stream| {
        let welcome = raw::Welcome { has_pidfd: true, ..welcome };
        welcome_with(&stream, &welcome, &Segments::honest(&welcome).descriptors);
    });
    assert!(matches!(error, Err(ConnectError::BadDescriptors { want: 5, have: 4 })), "{error:?}");
    assert_eq!(observe::descriptors(std::process::id()), before, "no descriptor is left over");
    done!("8 handshakes")
}

fn servers_that_answer_nonsense() -> Ran {
    let fake = Fake::new();
    let none = raw::welcome(CAPACITY);
    let mut cases = 0;
    let mut not_ringbell = |what: &str, bytes: &[u8]| {
        let error = fake.greets(|stream| {
            raw::send(&stream, bytes, &[]);
            let _ = raw::last_words(&stream);
        });
        assert!(matches!(error, Err(ConnectError::NotRingbell)), "{what}: {error:?}");
        cases += 1;
    };
    not_ringbell("HTTP", b"HTTP/1.1 400 Bad Request\r\n\r\n");
    not_ringbell("zeros", &[0; 64]);
    not_ringbell("a Hello", &raw::hello(CAPACITY));
    not_ringbell("an unknown kind", &raw::message(9, &[0; 72]));
    not_ringbell("a body beyond all measure", &[&raw::MAGIC.to_le_bytes()[..], &[0xff; 8]].concat());
    not_ringbell("a short Welcome", &raw::message(raw::kind::WELCOME, &[0; 71]));
    not_ringbell("a Welcome of zeros", &raw::message(raw::kind::WELCOME, &[0; 72]));
    not_ringbell("a short reject", &raw::message(raw::kind::REJECT, &[0; 3]));
    for (what, welcome) in [
        ("a capacity of 0", raw::Welcome { request_capacity: 0, ..none }),
        ("a capacity of 3000", raw::Welcome { response_capacity: 3000, ..none }),
        ("a huge capacity", raw::Welcome { request_capacity: 1 << 63, ..none }),
        ("a domain beyond the status segment", raw::Welcome { domain: 4, ..none }),
        ("many armed words", raw::Welcome { armed_words: 1 << 40, ..none }),
        ("generation 0", raw::Welcome { generation: 0, ..none }),
        ("session 0", raw::Welcome { session: 0, ..none }),
    ] {
        not_ringbell(what, &welcome.encode());
    }
    let died = |what: &str, bytes: &[u8]| {
        let error = fake.greets(|mut stream| {
            let _ = stream.write_all(bytes);
        });
        assert!(matches!(error, Err(ConnectError::ServerDied)), "{what}: {error:?}");
    };
    died("nothing", b"");
    died("half a header", &raw::hello(CAPACITY)[..7]);
    died("half a Welcome", &none.encode()[..40]);
    let late = |what: &str, bytes: &[u8]| {
        let began = Instant::now();
        let error = fake.greets(|mut stream| {
            let _ = stream.write_all(bytes);
            let _ = raw::last_words(&stream);
        });
        assert!(matches!(error, Err(ConnectError::TimedOut)), "{what}: {error:?}");
        assert!(began.elapsed() >= Duration::from_millis(300) && began.elapsed() < Duration::from_secs(2));
    };
    late("nothing", b"");
    late("half a header", &none.encode()[..7]);
    late("half a Welcome", &none.encode()[..40]);
    let refused = |kind, reason: u32| {
        let body = [&u64::from(reason).to_le_bytes()[..], &[0; 16]].concat();
        fake.greets(|stream| {
            raw::send(&stream, &raw::message(kind, &body), &[]);
            let _ = raw::last_words(&stream);
        })
        .expect_err("refused")
    };
    assert!(matches!(
        refused(raw::kind::REJECT, 2),
        ConnectError::Rejected(ringbell::RejectReason::PermissionDenied)
    ));
    assert!(matches!(refused(raw::kind::REJECT, 1), ConnectError::VersionMismatch { .. }));
    assert!(matches!(
        refused(raw::kind::REJECT, 4711),
        ConnectError::Rejected(ringbell::RejectReason::Unknown(4711))
    ));
    assert!(matches!(refused(raw::kind::FALLBACK, 8), ConnectError::NotRingbell), "without a session");
    done!("{} answers", cases + 10)
}

/// A client with a session at a server that does what it likes.
struct Attached {
    client: Client,
    stream: UnixStream,
    segments: Segments,
    lines: OwnLines,
}

fn attached(fake: &Fake) -> Attached {
    tick();
    let welcome = raw::welcome(CAPACITY);
    let path = fake.path();
    std::thread::scope(|scope| {
        let client = scope.spawn(move || ConnectOptions::new().connect(path));
        let stream = raw::accept(&fake.listener);
        let segments = Segments::honest(&welcome);
        let descriptors: Vec<_> = segments.descriptors.iter().map(AsFd::as_fd).collect();
        raw::send(&stream, &welcome.encode(), &descriptors);
        let client = client.join().expect("the client does not panic").expect("connect");
        let lines = segments.response.own_lines(layout::CONTROL, usize::try_from(CAPACITY).expect("small"));
        Attached { client, stream, segments, lines }
    })
}

fn servers_that_write_nonsense() -> Ran {
    let fake = Fake::new();
    let max = u32::try_from(layout::max_body(CAPACITY)).expect("small");
    let mut cases = 0;
    let ring = |fault| CallError::PeerFault(PeerFault::Ring(fault));
    let fault = CallError::PeerFault;
    let total = |bytes: u64| [bytes.to_le_bytes(), [0; 8]].concat();
    for (what, header, body, wanted) in [
        ("kind 14", 14 << 32, vec![], ring(RingFault::Kind)),
        ("an unknown flag", word(Kind::Response, 0x80, 0), vec![], ring(RingFault::Kind)),
        ("too long", word(Kind::Response, 0, max + 1), vec![], ring(RingFault::Length)),
        ("padding at the start", word(Kind::Padding, 0, 2032), vec![], ring(RingFault::Padding)),
        ("padding that ends early", word(Kind::Padding, 0, 48), vec![], ring(RingFault::Padding)),
        ("a request", word(Kind::Request, 0, 0), vec![], fault(PeerFault::UnexpectedKind(Kind::Request))),
        ("a cancel", word(Kind::Cancel, 0, 0), vec![], fault(PeerFault::UnexpectedKind(Kind::Cancel))),
        ("a credit", word(Kind::Credit, 0, 0), vec![], fault(PeerFault::UnexpectedKind(Kind::Credit))),
        ("an item of nothing", word(Kind::StreamItem, 0, 0), vec![], fault(PeerFault::UnknownCall(0))),
        ("an end of no stream", word(Kind::StreamEnd, 0, 0), vec![], fault(PeerFault::UnknownCall(0))),
        ("an answer to nothing", word(Kind::Response, 0, 0), vec![], fault(PeerFault::UnknownCall(0))),
        ("an error to nothing", word(Kind::Error, 0, 0), vec![], fault(PeerFault::UnknownCall(0))),
        (
            "the end of nothing",
            word(Kind::Response, flag::CONTINUED, 8),
            vec![0; 8],
            fault(PeerFault::Fragment),
        ),
        ("too much", word(Kind::Response, flag::MORE, 16), total(1 << 40), fault(PeerFault::TooLong)),
        ("more than said", word(Kind::Response, flag::MORE, 16), total(3), fault(PeerFault::Fragment)),
        ("a goodbye", word(Kind::Goodbye, 0, 0), vec![], CallError::ShutDown { maybe_executed: true }),
    ] {
        let mut attached = attached(&fake);
        attached.lines.write(16, &body);
        attached.lines.store(0, header, Ordering::Release);
        let error = attached.client.call(b"hello").map(|answer| answer.len());
        assert_eq!(error, Err(wanted.clone()), "{what}");
        // And so it stays.
        let again = attached.client.call(b"hello").map(|answer| answer.len());
        let stays = match wanted {
            CallError::ShutDown { .. } => CallError::ShutDown { maybe_executed: false },
            other => other,
        };
        assert_eq!(again, Err(stays), "{what}, then");
        cases += 1;
    }
    // The same in every way to receive.
    let bad = word(Kind::Response, 0x80, 0);
    let ways: [fn(&mut Client) -> Option<PeerFault>; 4] = [
        |client| match client.call_view(b"x", None, |_| ()) {
            Err(CallError::PeerFault(fault)) => Some(fault),
            _ => None,
        },
        |client| match client.call_into(b"x", &mut Vec::new(), None) {
            Err(CallError::PeerFault(fault)) => Some(fault),
            _ => None,
        },
        |client| match client.send(b"x").map(|_| client.recv(None).map(drop)) {
            Ok(Err(ringbell::RecvError::PeerFault(fault))) => Some(fault),
            _ => None,
        },
        |client| match client.send(b"x").map(|_| client.try_recv().map(drop)) {
            Ok(Err(ringbell::RecvError::PeerFault(fault))) => Some(fault),
            _ => None,
        },
    ];
    for way in ways {
        let mut attached = attached(&fake);
        attached.lines.store(0, bad, Ordering::Release);
        assert_eq!(way(&mut attached.client), Some(PeerFault::Ring(RingFault::Kind)));
        cases += 1;
    }
    // Two answers to one call.
    let mut twice = attached(&fake);
    let call = twice.client.send(b"x").expect("send");
    for at in [0, 64] {
        twice.lines.store(at + 8, call.as_u64(), Ordering::Relaxed);
        twice.lines.store(at, word(Kind::Response, 0, 0), Ordering::Release);
    }
    assert_eq!(twice.client.recv(None).expect("the first").call, call);
    let again = twice.client.send(b"x").map(|_| twice.client.recv(None).map(drop));
    assert_eq!(again, Ok(Err(ringbell::RecvError::PeerFault(PeerFault::UnknownCall(call.as_u64())))));
    // A head that cannot be, seen when the request ring is full.
    for lie in [!63, 1, 1 << 20] {
        let mut attached = attached(&fake);
        attached.segments.response.own_word(offset::HEAD).store(lie, Ordering::Relaxed);
        let error = loop {
            if let Err(error) = attached.client.send(&[0; 400]) {
                break error;
            }
        };
        assert_eq!(error, ringbell::SendError::PeerFault(PeerFault::Ring(RingFault::Position)), "{lie:#x}");
        cases += 1;
    }
    // On the lifeline.
    for (byte, wanted) in [
        (b'x', CallError::PeerFault(PeerFault::Lifeline)),
        (0x80, CallError::ShutDown { maybe_executed: true }),
        (0x81, CallError::Disconnected { maybe_executed: true }),
        (0xff, CallError::Disconnected { maybe_executed: true }),
    ] {
        let mut attached = attached(&fake);
        raw::send(&attached.stream, &[byte], &[]);
        assert_eq!(attached.client.call(b"x").map(|answer| answer.len()), Err(wanted), "{byte:#x}");
        cases += 1;
    }
    // A server that lives and says nothing: no error, just no answer.
    let mut silent = attached(&fake);
    raw::send(&silent.stream, &[raw::WAKE; 5000], &[]);
    let error = silent.client.call_timeout(b"x", Some(Duration::from_millis(120))).map(|answer| answer.len());
    assert_eq!(error, Err(CallError::TimedOut { maybe_executed: true }));
    // Status words that lie.
    let status = &silent.segments.status;
    status.own_word(offset::HINTS).store(u64::MAX, Ordering::Relaxed);
    status.own_word(layout::CONTROL).store(u64::MAX, Ordering::Relaxed);
    let error = silent.client.call_timeout(b"x", Some(Duration::from_millis(120))).map(|answer| answer.len());
    assert_eq!(error, Err(CallError::TimedOut { maybe_executed: true }));
    done!("{} ways", cases + 3)
}

fn any_bytes_in_the_response_ring() -> Ran {
    let rounds = scaled(300);
    let fake = Fake::new();
    let mut ends: std::collections::BTreeMap<String, u64> = std::collections::BTreeMap::new();
    for round in 0..rounds {
        let mut chance = Chance::new(mix(seed(), round));
        let Attached { mut client, segments, mut lines, stream: _stream } = attached(&fake);
        let stop = PlainU64::new(0);
        let end = std::thread::scope(|scope| {
            let stop = &stop;
            let calling = scope.spawn(move || {
                let until = Instant::now() + Duration::from_millis(20);
                let end = loop {
                    match client
                        .call_timeout(&[7; 100], Some(Duration::from_micros(200)))
                        .map(|answer| answer.len())
                    {
                        Ok(_) | Err(CallError::TimedOut { .. } | CallError::Remote(_)) => {}
                        Err(error) => break format!("{error:?}"),
                    }
                    if Instant::now() >= until {
                        break "nothing".into();
                    }
                };
                stop.store(1, Ordering::Relaxed);
                end
            });
            let read = segments.request.peer_word(offset::HEAD);
            while stop.load(Ordering::Relaxed) == 0 {
                let position = read.load();
                // Answers to calls that exist, among others.
                lines.store(position + 8, chance.below(3) << 32 | chance.below(4), Ordering::Relaxed);
                let header = match chance.below(3) {
                    0 => word(Kind::Response, 0, u32::try_from(chance.below(200)).expect("small")),
                    _ => hostile_word(&mut chance),
                };
                lines.store(position + 64 * chance.below(2), header, Ordering::Release);
                if chance.below(50) == 0 {
                    segments.response.own_word(offset::HEAD).store(chance.below(1 << 14), Ordering::Relaxed);
                }
                std::thread::yield_now();
            }
            calling.join().expect("the client does not panic")
        });
        let end = end.split(['(', '{']).take(2).collect::<Vec<_>>().join(" ");
        *ends.entry(end).or_default() += 1;
    }
    done!("{rounds} sessions: {ends:?}")
}
