//! Frames of clients that are not honest, or strange and allowed, whole or in pieces.

use crate::{PEER_FAULT, beside_honest_clients, is_put_out};
use ringbell::layout::{HeaderWord, Kind, code, flag};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::{Chance, Pattern, Way};
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::raw::{self, SocketSession, frame};
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::{done, scaled, seed, wait_until};
use std::io::{Read, Write};

pub(crate) fn header(kind: u8, flags: u8, length: u32) -> Vec<u8> {
    let word = u64::from(length) | u64::from(kind) << 32 | u64::from(flags) << 40;
    [word.to_le_bytes(), 5u64.to_le_bytes()].concat()
}

pub(crate) fn frames_that_cannot_be() -> Ran {
    let mut count = 0u64;
    let ((), honest) = beside_honest_clients(|server| {
        let path = server.path().to_owned();
        let mut bad = |what: &str, bytes: &[u8]| {
            let session = SocketSession::open(&path);
            session.send(bytes);
            is_put_out(&session, PEER_FAULT, what);
            count += 1;
        };
        for kind in [0, 14, 77, 255, Kind::Padding as u8] {
            bad("an unknown kind", &header(kind, 0, 0));
        }
        for kind in [Kind::Response, Kind::Error, Kind::Event, Kind::StreamItem, Kind::StreamEnd] {
            bad("what servers say", &frame(kind, 0, 0, 5, b"x"));
        }
        for flags in [32, 64, 128, 255] {
            bad("an unknown flag", &header(Kind::Request as u8, flags, 0));
        }
        // Said from the header alone: nobody waits for so many bytes.
        for length in [u32::MAX, 1 << 31, 1 << 24, 64 * 1024 + 25] {
            bad("a length that lies", &header(Kind::Request as u8, 0, length));
            bad("a length that lies", &header(Kind::Cancel as u8, 0, length));
        }
        let first = |total: u64, flags: u8, payload: &[u8]| {
            frame(Kind::Request, flags, 0, 5, &[&total.to_le_bytes()[..], payload].concat())
        };
        let most = 64 << 20;
        for total in [most + 1, 1 << 32, u64::MAX] {
            bad("a total beyond the limit", &first(total, flag::MORE, b"x"));
        }
        bad("a fragment without its total", &frame(Kind::Request, flag::MORE, 0, 5, b"1234567"));
        bad("a fragment of nothing", &first(10, flag::MORE, b""));
        bad("a first fragment with all of it", &first(3, flag::MORE, b"all"));
        bad("more than the total", &first(3, flag::MORE, b"1234"));
        for flags in [flag::CONTINUED, flag::CONTINUED | flag::MORE, flag::CONTINUED | flag::ABORT]
        {
            bad("a fragment out of nowhere", &frame(Kind::Request, flags, 0, 5, b"x"));
        }
        bad("an abort of nothing", &frame(Kind::Request, flag::ABORT, 0, 5, b""));
        bad("a deadline without a time", &frame(Kind::Request, flag::DEADLINE, 0, 5, b"1234567"));
        let open = first(100, flag::MORE, b"begins");
        let behind = |bytes: Vec<u8>| [&open[..], &bytes].concat();
        bad("a message within a message", &behind(frame(Kind::Request, 0, 0, 6, b"x")));
        bad("another first fragment", &behind(first(100, flag::MORE, b"begins")));
        bad(
            "another message's fragment",
            &behind(frame(Kind::Request, flag::CONTINUED | flag::MORE, 0, 6, b"x")),
        );
        bad("too short an end", &behind(frame(Kind::Request, flag::CONTINUED, 0, 5, b"ends")));
        bad("too long an end", &behind(frame(Kind::Request, flag::CONTINUED, 0, 5, &[0; 200])));
        bad("no fragment", &behind(frame(Kind::Request, flag::CONTINUED | flag::MORE, 0, 5, b"")));
        bad(
            "a deadline in the middle",
            &behind(frame(
                Kind::Request,
                flag::CONTINUED | flag::MORE | flag::DEADLINE,
                0,
                5,
                &[0; 9],
            )),
        );
        wait_until("all of them are counted", || server.stats().peer_faults == count);
    });
    done!("{count} kinds of them{honest}")
}

/// What an honest client of another version may send, and nobody minds.
pub(crate) fn frames_that_are_strange_and_allowed() -> Ran {
    let server = Server::prepare("do").start();
    let session = SocketSession::open(server.path());
    for kind in [Kind::Cancel, Kind::Credit, Kind::Pong] {
        assert!(session.send(&frame(kind, 0, 7, 4711, b"")));
    }
    assert!(session.send(&frame(Kind::Ping, 0, 0, 99, b"")));
    let pong = session.receive().expect("a pong");
    assert_eq!((pong.kind(), pong.call), (Some(Kind::Pong), 99));
    // A client may name its calls as it likes, also by the same name.
    for call in [0, 1, 1, u64::MAX] {
        session.request(call, b"ehello");
        let answer = session.receive().expect("an answer");
        assert_eq!(
            (answer.kind(), answer.call, &answer.body[..]),
            (Some(Kind::Response), call, &b"hello"[..])
        );
    }
    // Control frames between fragments.
    let total = 10u64.to_le_bytes();
    let parts = [
        frame(Kind::Request, flag::MORE, 0, 7, &[&total[..], b"e1234"].concat()),
        frame(Kind::Ping, 0, 0, 98, b""),
        frame(Kind::Request, flag::CONTINUED, 0, 7, b"56789"),
    ];
    assert!(session.send(&parts.concat()));
    assert_eq!(session.receive().expect("a pong").call, 98);
    assert_eq!(session.receive().expect("an answer").body, b"123456789");
    // A message that is given up half-way.
    let parts = [
        frame(Kind::Request, flag::MORE, 0, 8, &[&total[..], b"e1234"].concat()),
        frame(Kind::Request, flag::CONTINUED | flag::ABORT, 0, 8, b""),
        frame(Kind::Request, 0, 0, 9, b"eon"),
    ];
    assert!(session.send(&parts.concat()));
    assert_eq!(session.receive().expect("an answer").call, 9);
    assert!(session.send(&frame(Kind::Goodbye, 0, 0, 0, b"")));
    assert_eq!(session.receive(), None);
    assert_eq!(server.shut_down().peer_faults, 0);
    done!("all of them")
}

pub(crate) fn any_bytes() -> Ran {
    let rounds = scaled(2000);
    let mut chance = Chance::new(seed());
    let ((), honest) = beside_honest_clients(|server| {
        for round in 0..rounds {
            let session = SocketSession::open(server.path());
            let mut bytes = Vec::new();
            // Some that look like frames, until one does not.
            for _ in 0..chance.below(4) {
                let kind = u8::try_from(chance.below(15)).expect("small");
                let flags = if chance.below(2) == 0 {
                    0
                } else {
                    u8::try_from(chance.below(40)).expect("small")
                };
                let length = u32::try_from(chance.below(200)).expect("small");
                bytes.extend(header(kind, flags, length));
                bytes.extend((0..length).map(|_| chance.draw().to_le_bytes()[0]));
            }
            for _ in 0..chance.below(300) {
                bytes.push(chance.draw().to_le_bytes()[0]);
            }
            for part in bytes.chunks(1 + usize::try_from(chance.below(100)).expect("small")) {
                if !session.send(part) {
                    break;
                }
            }
            if chance.below(2) == 0 {
                // It may wait for the rest of a frame: then this is the end of it.
                session.stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
                while session.receive().is_some() {}
            }
            if round % 64 == 0 {
                tick();
            }
        }
    });
    done!("{rounds} sessions{honest}")
}

pub(crate) fn half_a_frame_and_silence() -> Ran {
    let pattern = Pattern::new(3, 100);
    let opening = frame(Kind::Request, 0, 0, 1, &pattern.opening());
    let large = vec![0; 60_000];
    let fragment =
        frame(Kind::Request, flag::MORE, 0, 1, &[&1_000_000u64.to_le_bytes()[..], &large].concat());
    let (told, honest) = beside_honest_clients(|server| {
        let silent: Vec<(SocketSession, usize)> = [1, 8, 15, 16, 17, opening.len() - 1]
            .into_iter()
            .map(|cut| {
                let session = SocketSession::open(server.path());
                assert!(session.send(&opening[..cut]));
                (session, cut)
            })
            .collect();
        let fragments: Vec<SocketSession> = (0..3)
            .map(|_| {
                let session = SocketSession::open(server.path());
                assert!(session.send(&fragment));
                session
            })
            .collect();
        // Honest ones go on meanwhile, which is seen by their requests.
        let before = server.stats().requests;
        wait_until("honest clients have made calls", || server.stats().requests > before + 100);
        server.wait_for_sessions(2 + 6 + 3);
        let count = silent.len() + fragments.len();
        for (session, cut) in silent {
            // Late, but whole.
            assert!(session.send(&opening[cut..]));
            let answer = session.receive().expect("an answer");
            assert_eq!((answer.kind(), answer.body), (Some(Kind::Response), pattern.opening()));
        }
        count
    });
    done!("{told} sessions{honest}")
}

pub(crate) fn an_end_within_a_frame() -> Ran {
    let mut count = 0u64;
    let request = frame(Kind::Request, 0, 0, 1, &Pattern::new(3, 100).opening());
    let ((), honest) = beside_honest_clients(|server| {
        for half_closed in [false, true] {
            for cut in [0, 1, 8, 15, 16, 17, request.len() - 1] {
                let session = SocketSession::open(server.path());
                assert!(session.send(&request[..cut]));
                if half_closed {
                    session.stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
                    while session.receive().is_some() {}
                }
                count += 1;
            }
        }
        server.wait_for_sessions(2);
        wait_until("all of them are counted", || {
            let stats = server.stats();
            stats.hung_up + stats.peer_faults == count
        });
        // Whoever closes one direction only still gets the answers to what was sent before.
        let session = SocketSession::open(server.path());
        assert!(session.send(&[&request[..], &request[..5]].concat()));
        session.stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
        let answer = session.receive().expect("an answer");
        assert_eq!((answer.kind(), answer.call), (Some(Kind::Response), 1));
        while session.receive().is_some() {}
    });
    done!("{count} ends{honest}")
}

pub(crate) fn byte_by_byte() -> Ran {
    let count = scaled(200);
    let pattern = Pattern::new(3, 100);
    let ((), honest) = beside_honest_clients(|server| {
        let session = SocketSession::open(server.path());
        let send = |call, payload: &[u8]| {
            for byte in frame(Kind::Request, 0, 0, call, payload) {
                assert!(session.send(&[byte]));
            }
            tick();
        };
        send(1, &pattern.opening());
        assert_eq!(session.receive().expect("an answer").body, pattern.opening());
        let mut payload = Vec::new();
        for seq in 0..count {
            payload.clear();
            pattern.fill(seq, Way::Request, &mut payload);
            send(seq + 2, &payload);
            let answer = session.receive().expect("an answer");
            assert_eq!((answer.kind(), answer.call), (Some(Kind::Response), seq + 2));
            pattern
                .check(seq, Way::Response, &answer.body)
                .unwrap_or_else(|wrong| panic!("{}", wrong.0));
        }
    });
    done!("{count} requests{honest}")
}

/// Reads and writes that stop at odd places.
pub(crate) fn small_buffers() -> Ran {
    let rounds = scaled(20);
    let server = Server::prepare("do").start();
    let session = SocketSession::open(server.path());
    rustix::net::sockopt::set_socket_send_buffer_size(&session.stream, 1).expect("a tiny buffer");
    let mut chance = Chance::new(seed());
    for call in 1..=rounds {
        let len = usize::try_from(100_000 + chance.below(900_000)).expect("small");
        let mut message = vec![b'e'; len];
        message[1..].fill_with(|| chance.draw().to_le_bytes()[0]);
        let wanted = message[1..].to_vec();
        let mut got = Vec::new();
        std::thread::scope(|scope| {
            let stream = &session.stream;
            scope.spawn(move || {
                let mut rest = &message[..];
                let mut first = true;
                while !rest.is_empty() {
                    let (part, later) = rest.split_at(rest.len().min(60_000));
                    rest = later;
                    let mut flags = if first { 0 } else { flag::CONTINUED };
                    flags |= if rest.is_empty() { 0 } else { flag::MORE };
                    let total = (message.len() as u64).to_le_bytes();
                    let total = if first { &total[..] } else { &[] };
                    first = false;
                    let bytes = frame(Kind::Request, flags, 0, call, &[total, part].concat());
                    (&*stream).write_all(&bytes).expect("the server reads");
                }
            });
            // Some bytes at a time, so that the server's writes are cut anywhere.
            let mut bytes = Vec::new();
            let mut part = vec![0; 5000];
            let mut whole = false;
            while !whole {
                let most = 1 + usize::try_from(chance.below(5000)).expect("small");
                let count = (&session.stream).read(&mut part[..most]).expect("the server writes");
                assert!(count > 0, "the server hangs up");
                bytes.extend_from_slice(&part[..count]);
                while let Some((header, body)) = bytes.split_at_checked(16) {
                    let word = HeaderWord(u64::from_le_bytes(
                        header[..8].try_into().expect("eight bytes"),
                    ));
                    let length = word.length() as usize;
                    if body.len() < length {
                        break;
                    }
                    assert_eq!(
                        (word.kind(), &header[8..]),
                        (Some(Kind::Response), &call.to_le_bytes()[..])
                    );
                    let from = if word.flags() == flag::MORE { 8 } else { 0 };
                    got.extend_from_slice(&body[from..length]);
                    whole = word.flags() & flag::MORE == 0;
                    bytes.drain(..16 + length);
                }
            }
        });
        assert!(got == wanted, "message {call}");
        tick();
    }
    server.shut_down();
    done!("{rounds} messages of up to 1 MB")
}

pub(crate) fn deadlines_that_have_passed() -> Ran {
    let server = Server::prepare("do").start();
    let session = SocketSession::open(server.path());
    let timed = |call: u64, until: u64| {
        frame(Kind::Request, flag::DEADLINE, 0, call, &[&until.to_le_bytes()[..], b"n"].concat())
    };
    let handled =
        |answer: &raw::Frame| u64::from_le_bytes(answer.body[..8].try_into().expect("a number"));
    assert!(
        session.send(&[timed(1, 1), timed(2, u64::MAX), timed(3, 1), timed(4, u64::MAX)].concat())
    );
    for (call, wanted) in [(1, None), (2, Some(1)), (3, None), (4, Some(2))] {
        let answer = session.receive().expect("an answer");
        assert_eq!(answer.call, call);
        match wanted {
            None => assert_eq!(
                (answer.kind(), answer.header.code()),
                (Some(Kind::Error), code::DEADLINE_EXCEEDED)
            ),
            Some(count) => {
                assert_eq!((answer.kind(), handled(&answer)), (Some(Kind::Response), count))
            }
        }
    }
    let stats = server.shut_down();
    assert_eq!((stats.expired, stats.requests), (2, 2));
    done!("2 of 4")
}
