//! Servers that write nonsense into the response ring.

use crate::CAPACITY;
use crate::attack::{hostile_word, word};
use crate::fake::{Attached, Fake, attached};
use ringbell::layout::{self, Kind, flag, offset};
use ringbell::sync::{Ordering, PlainU64};
use ringbell::{CallError, Client, PeerFault, RingFault};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::{Chance, mix};
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::raw;
use ringbell_shm_tests::{done, scaled, seed};
use std::time::{Duration, Instant};

pub(crate) fn servers_that_write_nonsense() -> Ran {
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
        (
            "a request",
            word(Kind::Request, 0, 0),
            vec![],
            fault(PeerFault::UnexpectedKind(Kind::Request)),
        ),
        (
            "a cancel",
            word(Kind::Cancel, 0, 0),
            vec![],
            fault(PeerFault::UnexpectedKind(Kind::Cancel)),
        ),
        (
            "a credit",
            word(Kind::Credit, 0, 0),
            vec![],
            fault(PeerFault::UnexpectedKind(Kind::Credit)),
        ),
        (
            "an item of nothing",
            word(Kind::StreamItem, 0, 0),
            vec![],
            fault(PeerFault::UnknownCall(0)),
        ),
        (
            "an end of no stream",
            word(Kind::StreamEnd, 0, 0),
            vec![],
            fault(PeerFault::UnknownCall(0)),
        ),
        (
            "an answer to nothing",
            word(Kind::Response, 0, 0),
            vec![],
            fault(PeerFault::UnknownCall(0)),
        ),
        ("an error to nothing", word(Kind::Error, 0, 0), vec![], fault(PeerFault::UnknownCall(0))),
        (
            "the end of nothing",
            word(Kind::Response, flag::CONTINUED, 8),
            vec![0; 8],
            fault(PeerFault::Fragment),
        ),
        (
            "too much",
            word(Kind::Response, flag::MORE, 16),
            total(1 << 40),
            fault(PeerFault::TooLong),
        ),
        (
            "more than said",
            word(Kind::Response, flag::MORE, 16),
            total(3),
            fault(PeerFault::Fragment),
        ),
        (
            "a goodbye",
            word(Kind::Goodbye, 0, 0),
            vec![],
            CallError::ShutDown { maybe_executed: true },
        ),
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
    assert_eq!(
        again,
        Ok(Err(ringbell::RecvError::PeerFault(PeerFault::UnknownCall(call.as_u64()))))
    );
    // A head that cannot be, seen when the request ring is full.
    for lie in [!63, 1, 1 << 20] {
        let mut attached = attached(&fake);
        attached.segments.response.own_word(offset::HEAD).store(lie, Ordering::Relaxed);
        let error = loop {
            if let Err(error) = attached.client.send(&[0; 400]) {
                break error;
            }
        };
        assert_eq!(
            error,
            ringbell::SendError::PeerFault(PeerFault::Ring(RingFault::Position)),
            "{lie:#x}"
        );
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
    let error = silent
        .client
        .call_timeout(b"x", Some(Duration::from_millis(120)))
        .map(|answer| answer.len());
    assert_eq!(error, Err(CallError::TimedOut { maybe_executed: true }));
    // Status words that lie.
    let status = &silent.segments.status;
    status.own_word(offset::HINTS).store(u64::MAX, Ordering::Relaxed);
    status.own_word(layout::CONTROL).store(u64::MAX, Ordering::Relaxed);
    let error = silent
        .client
        .call_timeout(b"x", Some(Duration::from_millis(120)))
        .map(|answer| answer.len());
    assert_eq!(error, Err(CallError::TimedOut { maybe_executed: true }));
    done!("{} ways", cases + 3)
}

/// Answers that are there at one look and not at the next: a client looks once, and shows what it
/// has seen.
pub(crate) fn answers_that_come_and_go() -> Ran {
    let calls = scaled(800).max(200);
    let fake = Fake::new();
    let Attached { mut client, mut lines, segments, stream: _stream } = attached(&fake);
    let answered = PlainU64::new(0);
    std::thread::scope(|scope| {
        let flickering = scope.spawn(|| {
            let head = segments.response.own_word(offset::HEAD);
            loop {
                let number = answered.load(Ordering::Acquire);
                if number >= calls {
                    break;
                }
                // Requests and answers take a line each.
                head.store(64 * number, Ordering::Release);
                lines.store(64 * number + 8, (number + 1) << 32, Ordering::Relaxed);
                lines.store(64 * number, word(Kind::Response, 0, 24), Ordering::Release);
                lines.store(64 * number, 0, Ordering::Release);
            }
        });
        let calling = scope.spawn(|| {
            for number in 1..=calls {
                let seen = client.call_view(b"x", None, |view| view.len());
                assert_eq!(seen, Ok(24), "call {number}");
                answered.store(number, Ordering::Release);
                tick();
            }
        });
        let outcome = calling.join();
        answered.store(calls, Ordering::Release);
        flickering.join().expect("it only writes");
        outcome.expect("the client does not panic");
    });
    done!("{calls} calls")
}

pub(crate) fn any_bytes_in_the_response_ring() -> Ran {
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
                lines.store(
                    position + 8,
                    chance.below(3) << 32 | chance.below(4),
                    Ordering::Relaxed,
                );
                let header = match chance.below(3) {
                    0 => word(Kind::Response, 0, u32::try_from(chance.below(200)).expect("small")),
                    _ => hostile_word(&mut chance),
                };
                lines.store(position + 64 * chance.below(2), header, Ordering::Release);
                if chance.below(50) == 0 {
                    segments
                        .response
                        .own_word(offset::HEAD)
                        .store(chance.below(1 << 14), Ordering::Relaxed);
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
