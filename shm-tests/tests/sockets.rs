//! The socket as transport: why a client gets it, peers that are not honest, and peers that die.

use ringbell::layout::{HeaderWord, Kind, code, flag};
use ringbell::sync::{Ordering, PlainU64};
use ringbell::{
    CallError, ConnectError, ConnectOptions, FallbackReason, PeerFault, RecvError, RejectReason, Transport,
    TransportChoice,
};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::{Chance, Pattern, Way};
use ringbell_shm_tests::process::{Arguments, Start, hear, say};
use ringbell_shm_tests::progress::{Stopwatch, tick};
use ringbell_shm_tests::raw::{self, SocketSession, frame};
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::verified::Verified;
use ringbell_shm_tests::{done, observe, scaled, seed, suite, wait_until};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

suite! {
    // All of them are about sockets: their clients choose what carries them.
    tests: [
        asked_for,
        a_server_without_shared_memory,
        a_user_who_has_used_up_the_memory,
        rings_beyond_what_a_client_may_have,
        nothing_to_fall_back_to,
        as_many_clients_as_may_be,
        both_kinds_of_clients_at_once,
        frames_that_cannot_be,
        frames_that_are_strange_and_allowed,
        any_bytes,
        half_a_frame_and_silence,
        an_end_within_a_frame,
        byte_by_byte,
        small_buffers,
        deadlines_that_have_passed,
        a_client_that_never_reads,
        clients_that_do_not_wait_for_their_answers,
        killed_clients,
        killed_servers,
        servers_that_send_nonsense,
        servers_that_break_off,
        what_errors_of_a_server_mean,
        an_answer_behind_more_events_than_one_look_takes,
    ],
    roles: [client],
}

const PEER_FAULT: u16 = 0x81;
const SLOW_CLIENT: u16 = 0x82;
const SOON: Duration = Duration::from_secs(20);
fn over_socket() -> ConnectOptions {
    ConnectOptions::new().transport(TransportChoice::Socket)
}

fn over_rings() -> ConnectOptions {
    ConnectOptions::new().transport(TransportChoice::SharedMemory)
}

fn reason(client: &ringbell::Client) -> FallbackReason {
    match client.transport() {
        Transport::Socket { reason } => *reason,
        other => panic!("carried by {other:?}"),
    }
}

/// Runs `attack` on a server that two honest clients use all the while, one of each kind; what the attack says.
fn beside_honest_clients<T>(attack: impl FnOnce(&mut Server) -> T) -> (T, String) {
    struct Stop<'a>(&'a PlainU64);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(1, Ordering::Relaxed);
        }
    }
    let mut server = Server::prepare("verify").with("max_clients", 16).start();
    let path = server.path().to_owned();
    let stop = PlainU64::new(0);
    let honest = |options: ConnectOptions, sender| {
        let mut client = Verified::connect(&path, options, Pattern::new(sender, 700).with_large(50, 200_000));
        let mut slowest = Duration::ZERO;
        while stop.load(Ordering::Relaxed) == 0 {
            let watch = Stopwatch::start();
            client.call(None).expect("an honest client notices nothing");
            slowest = slowest.max(watch.awake());
            std::thread::sleep(Duration::from_micros(300));
        }
        let calls = client.sent();
        client.finish();
        (calls, slowest)
    };
    let (result, calls, slowest) = std::thread::scope(|scope| {
        let both =
            [scope.spawn(|| honest(over_socket(), 8)), scope.spawn(|| honest(ConnectOptions::new(), 9))];
        let stop = Stop(&stop);
        server.wait_for_sessions(2);
        let result = attack(&mut server);
        server.wait_for_sessions(2);
        drop(stop);
        let told = both.map(|client| client.join().expect("an honest client"));
        (result, told[0].0 + told[1].0, told[0].1.max(told[1].1))
    });
    assert!(slowest < Duration::from_secs(2), "an honest call took {slowest:?}");
    let stats = server.shut_down();
    assert_eq!(stats.panics, 0);
    (result, format!("; beside {calls} honest calls, the slowest of {slowest:?}"))
}

/// That the server says why and hangs up.
fn is_put_out(session: &SocketSession, why: u16, what: &str) {
    let mut last = None;
    while let Some(frame) = session.receive() {
        last = Some(frame);
    }
    let last = last.unwrap_or_else(|| panic!("{what}: not a word"));
    assert_eq!((last.kind(), last.header.code()), (Some(Kind::Goodbye), why), "{what}: {last:?}");
}

fn asked_for() -> Ran {
    let mut server = Server::verifying();
    let mut first = Verified::connect(server.path(), over_socket(), Pattern::new(1, 700));
    assert_eq!(reason(first.client()), FallbackReason::Asked);
    let mut second = Verified::connect(server.path(), over_rings(), Pattern::new(2, 700));
    assert_eq!(second.client().transport(), &Transport::SharedMemory);
    for client in [&mut first, &mut second] {
        client.pipeline(1000, 10);
        assert_eq!(client.client().server_pid(), server.id());
        assert_ne!(client.client().generation(), 0);
    }
    assert_eq!(first.client().generation(), second.client().generation());
    assert_ne!(first.client().session(), second.client().session());
    assert_eq!(server.stats().fallbacks, 1);
    first.finish();
    second.finish();
    server.wait_for_sessions(0);
    assert_eq!(server.shut_down().fallbacks, 1, "sessions of the past count");
    done!("one of each")
}

fn a_server_without_shared_memory() -> Ran {
    let server = Server::prepare("verify").with("shared_memory", "off").start();
    let maps = observe::memfd_mappings(std::process::id());
    for number in 0..3 {
        let mut client = Verified::connect(server.path(), ConnectOptions::new(), Pattern::new(number, 700));
        assert_eq!(reason(client.client()), FallbackReason::Server(RejectReason::SharedMemoryOff));
        client.pipeline(1000, 10);
        assert_eq!(observe::memfd_mappings(std::process::id()), maps, "nothing is mapped");
        client.finish();
    }
    let refused = over_rings().connect(server.path());
    assert!(matches!(refused, Err(ConnectError::SharedMemoryRefused(_) | ConnectError::Rejected(_))));
    assert_eq!(server.shut_down().fallbacks, 3);
    done!("3 clients")
}

fn a_user_who_has_used_up_the_memory() -> Ran {
    let rounds = scaled(100);
    let need = 2 * ringbell::layout::ring_segment_size(64 * 1024);
    let mut server = Server::prepare("verify").with("max_bytes_per_uid", need).start();
    let mut first = Verified::connect(server.path(), ConnectOptions::new(), Pattern::new(1, 700));
    assert_eq!(first.client().transport(), &Transport::SharedMemory);
    for number in 0..rounds {
        let mut client = Verified::connect(server.path(), ConnectOptions::new(), Pattern::new(number, 700));
        let limit = RejectReason::BytesPerUid { limit: need };
        assert_eq!(reason(client.client()), FallbackReason::Server(limit));
        client.pipeline(100, 10);
        first.pipeline(10, 1);
        client.finish();
    }
    assert_eq!(server.stats().fallbacks, rounds);
    // What the first one had is there for another one.
    first.finish();
    server.wait_for_sessions(0);
    let mut next = Verified::connect(server.path(), ConnectOptions::new(), Pattern::new(2, 700));
    assert_eq!(next.client().transport(), &Transport::SharedMemory);
    next.pipeline(100, 10);
    next.finish();
    server.shut_down();
    done!("{rounds} clients too many")
}

fn rings_beyond_what_a_client_may_have() -> Ran {
    let limit = 1 << 20;
    let server = Server::prepare("verify").with("max_bytes_per_client", limit).start();
    let large = ConnectOptions::new().ring_capacity(1 << 20);
    let mut client = Verified::connect(server.path(), large, Pattern::new(1, 700));
    let wanted = FallbackReason::Server(RejectReason::BytesPerClient { limit });
    assert_eq!(reason(client.client()), wanted);
    client.pipeline(1000, 10);
    client.finish();
    server.shut_down();
    done!("one")
}

fn nothing_to_fall_back_to() -> Ran {
    let server = Server::prepare("verify").with("fallback", "off").start();
    match over_socket().connect(server.path()) {
        Err(ConnectError::Rejected(RejectReason::SocketOff)) => {}
        other => panic!("{other:?}"),
    }
    let mut client = Verified::connect(server.path(), ConnectOptions::new(), Pattern::new(1, 700));
    client.pipeline(100, 10);
    client.finish();
    assert_eq!(server.shut_down().fallbacks, 0);
    done!("one")
}

fn as_many_clients_as_may_be() -> Ran {
    let mut server = Server::prepare("verify").with("max_clients", 3).start();
    let mut clients: Vec<Verified> = (0..3)
        .map(|sender| {
            let options = if sender == 1 { ConnectOptions::new() } else { over_socket() };
            Verified::connect(server.path(), options, Pattern::new(sender, 100))
        })
        .collect();
    for options in [over_socket(), ConnectOptions::new()] {
        match options.connect(server.path()) {
            Err(ConnectError::Rejected(RejectReason::TooManyClients { limit: 3 })) => {}
            other => panic!("{other:?}"),
        }
    }
    for client in &mut clients {
        client.pipeline(10, 1);
    }
    for client in clients {
        client.finish();
    }
    server.wait_for_sessions(0);
    server.shut_down();
    done!("3 of 5")
}

/// Makes its calls, over what it is told.
fn client(arguments: &Arguments) {
    let options = if arguments.text("over") == "socket" { over_socket() } else { over_rings() };
    let pattern = Pattern::new(arguments.number("sender"), 700).with_large(200, 100_000);
    let mut client = Verified::connect(Path::new(arguments.text("path")), options, pattern);
    say("ready");
    let _ = hear();
    client.pipeline(arguments.number("count"), usize::try_from(arguments.number("depth")).expect("small"));
    client.finish();
    say("done");
}

fn both_kinds_of_clients_at_once() -> Ran {
    const CLIENTS: u64 = 8;
    let count = scaled(20_000);
    let mut server = Server::verifying();
    let mut processes: Vec<_> = (0..CLIENTS)
        .map(|sender| {
            Start::role("client")
                .with("path", server.path().display())
                .with("sender", sender)
                .with("over", if sender % 2 == 0 { "socket" } else { "rings" })
                .with("count", count)
                .with("depth", 1 + sender * 3)
                .start()
        })
        .collect();
    for process in &mut processes {
        process.expect("ready");
    }
    assert_eq!((server.stats().sessions, server.stats().fallbacks), (CLIENTS, CLIENTS / 2));
    for process in &mut processes {
        process.tell("go");
    }
    for process in &mut processes {
        process.expect("done");
        process.succeed();
    }
    server.wait_for_sessions(0);
    let stats = server.shut_down();
    assert_eq!((stats.requests, stats.errors, stats.peer_faults), (CLIENTS * (count + 1), 0, 0));
    done!("{CLIENTS} clients with {count} messages each, half of them over the socket")
}

fn header(kind: u8, flags: u8, length: u32) -> Vec<u8> {
    let word = u64::from(length) | u64::from(kind) << 32 | u64::from(flags) << 40;
    [word.to_le_bytes(), 5u64.to_le_bytes()].concat()
}

fn frames_that_cannot_be() -> Ran {
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
        for flags in [flag::CONTINUED, flag::CONTINUED | flag::MORE, flag::CONTINUED | flag::ABORT] {
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
            &behind(frame(Kind::Request, flag::CONTINUED | flag::MORE | flag::DEADLINE, 0, 5, &[0; 9])),
        );
        wait_until("all of them are counted", || server.stats().peer_faults == count);
    });
    done!("{count} kinds of them{honest}")
}

/// What an honest client of another version may send, and nobody minds.
fn frames_that_are_strange_and_allowed() -> Ran {
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

fn any_bytes() -> Ran {
    let rounds = scaled(2000);
    let mut chance = Chance::new(seed());
    let ((), honest) = beside_honest_clients(|server| {
        for round in 0..rounds {
            let session = SocketSession::open(server.path());
            let mut bytes = Vec::new();
            // Some that look like frames, until one does not.
            for _ in 0..chance.below(4) {
                let kind = u8::try_from(chance.below(15)).expect("small");
                let flags =
                    if chance.below(2) == 0 { 0 } else { u8::try_from(chance.below(40)).expect("small") };
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

fn half_a_frame_and_silence() -> Ran {
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

fn an_end_within_a_frame() -> Ran {
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

fn byte_by_byte() -> Ran {
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
            pattern.check(seq, Way::Response, &answer.body).unwrap_or_else(|wrong| panic!("{}", wrong.0));
        }
    });
    done!("{count} requests{honest}")
}

/// Reads and writes that stop at odd places.
fn small_buffers() -> Ran {
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
                    let word = HeaderWord(u64::from_le_bytes(header[..8].try_into().expect("eight bytes")));
                    let length = word.length() as usize;
                    if body.len() < length {
                        break;
                    }
                    assert_eq!((word.kind(), &header[8..]), (Some(Kind::Response), &call.to_le_bytes()[..]));
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

fn deadlines_that_have_passed() -> Ran {
    let server = Server::prepare("do").start();
    let session = SocketSession::open(server.path());
    let timed = |call: u64, until: u64| {
        frame(Kind::Request, flag::DEADLINE, 0, call, &[&until.to_le_bytes()[..], b"n"].concat())
    };
    let handled = |answer: &raw::Frame| u64::from_le_bytes(answer.body[..8].try_into().expect("a number"));
    assert!(session.send(&[timed(1, 1), timed(2, u64::MAX), timed(3, 1), timed(4, u64::MAX)].concat()));
    for (call, wanted) in [(1, None), (2, Some(1)), (3, None), (4, Some(2))] {
        let answer = session.receive().expect("an answer");
        assert_eq!(answer.call, call);
        match wanted {
            None => assert_eq!(
                (answer.kind(), answer.header.code()),
                (Some(Kind::Error), code::DEADLINE_EXCEEDED)
            ),
            Some(count) => assert_eq!((answer.kind(), handled(&answer)), (Some(Kind::Response), count)),
        }
    }
    let stats = server.shut_down();
    assert_eq!((stats.expired, stats.requests), (2, 2));
    done!("2 of 4")
}

fn a_client_that_never_reads() -> Ran {
    let mut server = Server::prepare("do").with("slow_client_ms", 300).start();
    let mut others: Vec<ringbell::Client> = [over_socket(), over_rings()]
        .into_iter()
        .map(|options| options.connect(server.path()).expect("connect"))
        .collect();
    let lazy = SocketSession::open(server.path());
    lazy.stream.set_nonblocking(true).expect("nonblocking");
    let request = frame(Kind::Request, 0, 0, 1, &[&b"l"[..], &60_000u64.to_le_bytes()].concat());
    let began = Instant::now();
    let (mut sent, mut calls, mut slowest) = (0, 0, Duration::ZERO);
    while server.stats().slow_clients == 0 {
        assert!(began.elapsed() < SOON, "it is never put out, having sent {sent}: {:?}", server.stats());
        // As long as the server takes them.
        sent += u64::from((&lazy.stream).write(&request).is_ok_and(|count| count == request.len()));
        for other in &mut others {
            let began = Instant::now();
            other.call(b"ehonest").expect("others do not notice");
            slowest = slowest.max(began.elapsed());
            calls += 1;
        }
        tick();
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(300), "{took:?}");
    // What was sent before is there; then it ends, with or without a word that found no room.
    lazy.stream.set_nonblocking(false).expect("blocking");
    let mut last = None;
    while let Some(frame) = lazy.receive() {
        last = Some(frame);
    }
    if let Some(last) = last.filter(|last| last.kind() == Some(Kind::Goodbye)) {
        assert_eq!(last.header.code(), SLOW_CLIENT);
    }
    server.wait_for_sessions(2);
    drop(others);
    let stats = server.shut_down();
    assert_eq!((stats.slow_clients, stats.peer_faults), (1, 0));
    done!("put out after {took:?} and {sent} requests; {calls} calls of others, the slowest in {slowest:?}")
}

/// A server that SIGPIPE would kill.
fn clients_that_do_not_wait_for_their_answers() -> Ran {
    let rounds = scaled(1000);
    let mut server = Server::prepare("do").with("sigpipe", 1).start();
    // The first client brings things that stay.
    drop(ConnectOptions::new().connect(server.path()).expect("connect"));
    wait_until("it has come and gone", || server.stats().hung_up == 1);
    let before = observe::descriptors(server.id());
    for round in 0..rounds {
        let session = SocketSession::open(server.path());
        for call in 0..20 {
            if !session.send(&frame(Kind::Request, 0, 0, call, &[b'e'; 3000])) {
                break;
            }
        }
        drop(session);
        if round % 32 == 31 {
            // More than that would be too many clients. Those that the server has still to let in count, too.
            wait_until("all have come and gone", || {
                let stats = server.stats();
                (stats.accepted, stats.sessions) == (round + 2, 0)
            });
        }
    }
    let mut client = over_socket().connect(server.path()).expect("connect");
    assert_eq!(&*client.call(b"ehello").expect("it lives"), b"hello");
    drop(client);
    server.wait_for_sessions(0);
    wait_until("descriptors are closed", || observe::descriptors(server.id()) <= before + observe::SPARE);
    assert_eq!(server.shut_down().peer_faults, 0);
    done!("{rounds} clients")
}

fn killed_clients() -> Ran {
    let rounds = scaled(30);
    let ((), honest) = beside_honest_clients(|server| {
        let before = observe::descriptors(server.id());
        for round in 0..rounds {
            let mut client = Start::role("client")
                .with("path", server.path().display())
                .with("sender", round)
                .with("over", "socket")
                .with("count", 100_000_000)
                .with("depth", 1 + round % 20)
                .start();
            client.expect("ready");
            client.tell("go");
            let requests = server.stats().requests;
            wait_until("it works", || server.stats().requests > requests + 50);
            client.kill();
            let killed = Stopwatch::start();
            server.wait_for_sessions(2);
            let took = killed.awake();
            assert!(took < Duration::from_secs(1), "noticed after {took:?}");
        }
        wait_until("descriptors are closed", || observe::descriptors(server.id()) <= before + observe::SPARE);
    });
    done!("{rounds}{honest}")
}

fn killed_servers() -> Ran {
    let rounds = scaled(40);
    let mut longest = Duration::ZERO;
    for round in 0..rounds {
        let mut server = Server::prepare("do").start();
        let mut client = over_socket().connect(server.path()).expect("connect");
        client.call(b"e").expect("a call");
        let error = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| match round % 3 {
                // In a call that is being handled; with calls in flight; and with nothing but sending.
                0 => {
                    let request = [&b"s"[..], &60_000u64.to_le_bytes()].concat();
                    client.call(&request).map(|answer| answer.len()).expect_err("the server dies")
                }
                1 => loop {
                    if let Err(error) = client.call(b"e") {
                        break error;
                    }
                },
                _ => {
                    let large = vec![b'e'; 1 << 20];
                    loop {
                        if let Err(error) = client.call_timeout(&large, Some(SOON)) {
                            break error;
                        }
                    }
                }
            });
            if round % 3 == 0 {
                wait_until("the handler runs", || {
                    observe::main_thread_in_futex(server.id()) || { observe::all_threads_sleep(server.id()) }
                });
            }
            server.process().kill();
            let killed = Stopwatch::start();
            let error = waiting.join().expect("a thread");
            let took = killed.awake();
            assert!(took < Duration::from_millis(100), "round {round}: noticed after {took:?}");
            longest = longest.max(took);
            error
        });
        assert!(matches!(error, CallError::Disconnected { .. }), "{error:?}");
        assert_eq!(client.recv(None).unwrap_err(), RecvError::Disconnected);
        assert!(matches!(client.call(b"e"), Err(CallError::Disconnected { maybe_executed: false })));
    }
    done!("{rounds} servers, noticed after {longest:?} at most")
}

/// A server that says what it likes to a client that makes one call; how that ends.
fn hear_from_server(say: impl FnOnce(&UnixStream, u64) + Send) -> Result<Vec<u8>, CallError> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("fake.sock");
    let listener = UnixListener::bind(&path).expect("bind");
    std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            let mut stream = raw::accept(&listener);
            raw::send(&stream, &raw::fallback(100_000), &[]);
            let mut ready = [0];
            stream.read_exact(&mut ready).expect("READY");
            assert_eq!(ready, [raw::READY]);
            let request = raw::receive_frame(&stream).expect("a request");
            assert_eq!(request.kind(), Some(Kind::Request));
            say(&stream, request.call);
            stream
        });
        let mut client = over_socket().connect(&path).expect("connect");
        assert_eq!((client.max_message(), client.generation(), client.session()), (100_000, 77, 5));
        let result = client.call_timeout(b"hello?", Some(SOON)).map(|answer| answer.to_vec());
        if let Err(CallError::PeerFault(fault)) = &result {
            // It is over, for good.
            assert_eq!(client.call(b"again").unwrap_err(), CallError::PeerFault(*fault));
        }
        drop(server.join().expect("the fake server"));
        result
    })
}

fn servers_that_send_nonsense() -> Ran {
    let mut count = 0;
    let mut fault = |what: &str, say: &(dyn Fn(u64) -> Vec<u8> + Sync)| {
        let result = hear_from_server(|stream, call| raw::send(stream, &say(call), &[]));
        count += 1;
        match result {
            Err(CallError::PeerFault(fault)) => fault,
            other => panic!("{what}: {other:?}"),
        }
    };
    for kind in [0, 14, 255, Kind::Padding as u8] {
        fault("an unknown kind", &|_| header(kind, 0, 0));
    }
    for length in [u32::MAX, 64 * 1024 + 25] {
        fault("a length that lies", &|_| header(Kind::Response as u8, 0, length));
    }
    for kind in [Kind::Request, Kind::OneWay, Kind::Cancel, Kind::Credit] {
        fault("what clients say", &|call| frame(kind, 0, 0, call, b""));
    }
    for kind in [Kind::Response, Kind::Error, Kind::StreamItem, Kind::StreamEnd] {
        let said = fault("an answer to nothing", &|call| frame(kind, 0, 0, call + 1, b"x"));
        assert!(matches!(said, PeerFault::UnknownCall(_)), "{said:?}");
    }
    let said = fault("a total beyond the limit", &|call| {
        frame(Kind::Response, flag::MORE, 0, call, &[&100_001u64.to_le_bytes()[..], b"x"].concat())
    });
    assert_eq!(said, PeerFault::TooLong);
    fault("a fragment out of nowhere", &|call| frame(Kind::Response, flag::CONTINUED, 0, call, b"x"));
    let mut chance = Chance::new(seed());
    for round in 0..scaled(300) {
        let mut bytes = Vec::new();
        for _ in 0..20 + chance.below(100) {
            bytes.push(chance.draw().to_le_bytes()[0]);
        }
        // Whatever it is, it is no answer. The end of the stream may be seen first.
        let result = hear_from_server(|stream, _| {
            raw::send(stream, &bytes, &[]);
            stream.shutdown(std::net::Shutdown::Both).expect("shutdown");
        });
        assert!(
            matches!(
                result,
                Err(CallError::PeerFault(_) | CallError::Disconnected { .. } | CallError::ShutDown { .. })
            ),
            "round {round}: {result:?}"
        );
        tick();
    }
    done!("{count} kinds, and any bytes")
}

fn servers_that_break_off() -> Ran {
    let mut count = 0;
    for cut in [0, 1, 15, 16, 17, 25] {
        let result = hear_from_server(|stream, call| {
            let answer = frame(Kind::Response, 0, 0, call, b"the answer");
            raw::send(stream, &answer[..cut], &[]);
            stream.shutdown(std::net::Shutdown::Both).expect("shutdown");
        });
        assert_eq!(result, Err(CallError::Disconnected { maybe_executed: true }), "cut at {cut}");
        count += 1;
    }
    // What is whole is good, whatever comes behind it.
    for behind in [&b""[..], b"half a header"] {
        let result = hear_from_server(|stream, call| {
            raw::send(stream, &[&frame(Kind::Response, 0, 0, call, b"the answer"), behind].concat(), &[]);
            stream.shutdown(std::net::Shutdown::Both).expect("shutdown");
        });
        assert_eq!(result.as_deref(), Ok(&b"the answer"[..]));
    }
    // Byte by byte, with others in between.
    let result = hear_from_server(|stream, call| {
        let event = frame(Kind::Event, 0, 0, 0, b"by the way");
        for byte in [event, frame(Kind::Response, 0, 0, call, b"the answer")].concat() {
            raw::send(stream, &[byte], &[]);
        }
    });
    assert_eq!(result.as_deref(), Ok(&b"the answer"[..]));
    done!("{count} cuts")
}

fn what_errors_of_a_server_mean() -> Ran {
    let answered = |code| {
        hear_from_server(|stream, call| {
            raw::send(stream, &frame(Kind::Error, 0, code, call, b"text"), &[]);
        })
    };
    assert_eq!(answered(code::DEADLINE_EXCEEDED), Err(CallError::TimedOut { maybe_executed: false }));
    assert_eq!(answered(code::SHUTTING_DOWN), Err(CallError::ShutDown { maybe_executed: false }));
    for code in [code::PANICKED, code::EXHAUSTED, code::APPLICATION, u16::MAX] {
        match answered(code) {
            Err(CallError::Remote(error)) => assert_eq!((error.code, &*error.text), (code, "text")),
            other => panic!("{other:?}"),
        }
    }
    let goodbye = |code| {
        hear_from_server(|stream, _| {
            raw::send(stream, &frame(Kind::Goodbye, 0, code, 0, b""), &[]);
        })
    };
    assert_eq!(goodbye(0x80), Err(CallError::ShutDown { maybe_executed: true }));
    assert_eq!(goodbye(PEER_FAULT), Err(CallError::Disconnected { maybe_executed: true }));
    assert_eq!(goodbye(SLOW_CLIENT), Err(CallError::Disconnected { maybe_executed: true }));
    done!("errors and goodbyes")
}

/// All of it is read from the kernel before all of it is looked at.
fn an_answer_behind_more_events_than_one_look_takes() -> Ran {
    const EVENTS: u64 = 1500;
    let result = hear_from_server(|stream, call| {
        let mut bytes = Vec::new();
        for event in 0..EVENTS {
            bytes.extend(frame(Kind::Event, 0, 0, 0, &event.to_le_bytes()[..1]));
        }
        bytes.extend(frame(Kind::Response, 0, 0, call, b"the answer"));
        raw::send(stream, &bytes, &[]);
    });
    assert_eq!(result.as_deref(), Ok(&b"the answer"[..]));
    done!("{EVENTS} events before it")
}
