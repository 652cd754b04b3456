//! Limits: of sizes, of calls in flight, of memory, of patience, of options.

use crate::{ask, connect, doing, finish};
use ringbell::layout::code;
use ringbell::{CallError, Client, ConnectError, ConnectOptions, RemoteError, SendError};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, Start, hear, say};
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::{done, observe, options, scaled, wait_until};
use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) fn a_request_that_is_too_large_is_not_written() -> Ran {
    let server = Server::prepare("do").with("max_message", 100_000).start();
    let mut client = connect(&server);
    assert_eq!(client.max_message(), 100_000);
    let most = vec![b'e'; 100_000];
    assert_eq!(client.call(&most).expect("as large as may be").len(), 99_999);
    let before = client.stats();
    let larger = vec![b'e'; 100_001];
    let (len, max) = (100_001, 100_000);
    assert_eq!(client.call(&larger).unwrap_err(), CallError::TooLarge { len, max });
    assert_eq!(
        client.call_into(&larger, &mut Vec::new(), None).unwrap_err(),
        CallError::TooLarge { len, max }
    );
    assert_eq!(
        client.call_view(&larger, None, |_| ()).unwrap_err(),
        CallError::TooLarge { len, max }
    );
    assert_eq!(client.send(&larger).unwrap_err(), SendError::TooLarge { len, max });
    assert_eq!(
        client.send_timeout(&larger, Some(Duration::ZERO)).unwrap_err(),
        SendError::TooLarge { len, max }
    );
    let mut calls = Vec::new();
    let batch = client.send_batch([&b"e1"[..], &larger, b"e2"], &mut calls);
    assert_eq!((batch, calls.len()), (Err(SendError::TooLarge { len, max }), 1));
    client.recv(None).expect("the first of the batch");
    let claim_max = client.max_claim();
    assert_eq!(
        client.claim(claim_max + 1, None).map(drop),
        Err(SendError::TooLarge { len: claim_max + 1, max: claim_max })
    );
    let counts = client.stats();
    assert_eq!(
        (counts.sent, counts.fragments_sent),
        (before.sent + 1, before.fragments_sent),
        "something was written"
    );
    finish(client);
    // A client may ask for less, not for more.
    let client = options().max_message(1000).connect(server.path()).expect("connect");
    assert_eq!(client.max_message(), 1000);
    let client = options().max_message(1 << 40).connect(server.path()).expect("connect");
    assert_eq!(client.max_message(), 100_000);
    server.shut_down();
    done!("every way to send")
}

pub(crate) fn an_answer_that_is_too_large_is_an_error() -> Ran {
    let mut server = doing();
    let mut client = connect(&server);
    let max = client.max_message() as u64;
    assert_eq!(client.call(&ask(b'l', max, b"")).expect("as large as may be").len() as u64, max);
    for len in [max + 1, 1 << 30] {
        match client.call(&ask(b'l', len, b"")) {
            Err(CallError::Remote(RemoteError { code: code::TOO_LARGE, text })) => {
                assert!(
                    text.contains(&len.to_string()) && text.contains(&max.to_string()),
                    "{text}"
                );
            }
            other => panic!("{:?}", other.map(|answer| answer.len())),
        }
    }
    assert_eq!(&*client.call(b"eon").expect("the session goes on"), b"on");
    finish(client);
    let stats = server.stats();
    server.wait_for_sessions(0);
    // What the large answers took is given back.
    assert!(
        observe::private_bytes(server.id()) < 100 << 20,
        "{} bytes",
        observe::private_bytes(server.id())
    );
    assert_eq!(server.shut_down().errors, 2);
    done!("1 GiB, and one byte too many; {stats:?}")
}

pub(crate) fn too_many_in_flight() -> Ran {
    let mut server = doing();
    let mut client = options().max_in_flight(3).connect(server.path()).expect("connect");
    let limit = 3;
    for _ in 0..3 {
        client.send(b"e").expect("up to the limit");
    }
    assert_eq!(client.send(b"e").unwrap_err(), SendError::TooManyInFlight { limit });
    assert_eq!(client.call(b"e").unwrap_err(), CallError::TooManyInFlight { limit });
    assert_eq!(client.claim(1, None).map(drop), Err(SendError::TooManyInFlight { limit }));
    assert_eq!(
        client.call_view(b"e", None, |_| ()).unwrap_err(),
        CallError::TooManyInFlight { limit }
    );
    let mut calls = Vec::new();
    assert_eq!(
        client.send_batch([&b"e"[..]], &mut calls),
        Err(SendError::TooManyInFlight { limit })
    );
    client.recv(None).expect("recv");
    client.send(b"e").expect("room again");
    for _ in 0..3 {
        client.recv(None).expect("recv");
    }
    assert_eq!(client.in_flight(), 0);
    // Calls that timed out count until their answer has come, and no longer.
    let mut client = options().max_in_flight(3).connect(server.path()).expect("connect");
    // It has no deadline, so it reaches the handler, however late the server is.
    let held = client.send(&ask(b'g', 1, b"held")).expect("up to the limit");
    for _ in 0..2 {
        assert!(client.call_timeout(b"e", Some(Duration::from_millis(1))).is_err());
    }
    assert_eq!(client.send(b"e").unwrap_err(), SendError::TooManyInFlight { limit: 3 });
    server.process().tell("open 1");
    assert_eq!(client.recv(None).expect("recv").call, held);
    // The way out: answers come in while one polls, or tries again.
    wait_until("the late answers have come", || {
        let _ = client.try_recv();
        client.send(b"elast").is_ok()
    });
    assert_eq!(client.recv(None).expect("recv").outcome.as_deref(), Ok(&b"last"[..]));
    assert_eq!(client.stats().late_answers, 2);
    finish(client);
    server.shut_down();
    done!("limits of 3")
}

/// Sends and never reads, until it is put out.
pub(crate) fn lazy(arguments: &Arguments) {
    let mut client = options().connect(Path::new(arguments.text("path"))).expect("connect");
    // Short requests, which never find their ring full: then `send` would set answers aside. Long
    // answers, which fill the response ring, and then the server's queue.
    let mut sent = 0;
    while sent < 400 {
        client
            .send_timeout(&ask(b'l', 3000, b""), Some(Duration::ZERO))
            .expect("room for 400 lines");
        sent += 1;
    }
    say(&format!("sent {sent}"));
    let _ = hear();
    let error = loop {
        match client.recv(None) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    say(&format!("ended {error:?}"));
}

pub(crate) fn a_client_that_does_not_read_is_put_out() -> Ran {
    let mut server = Server::prepare("do")
        .with("ring_capacity", 64 * 1024)
        .with("max_queued_answers", 8)
        .with("slow_client_ms", 200)
        .start();
    let mut honest = connect(&server);
    let mut lazy = Start::role("lazy").with("path", server.path().display()).start();
    let sent: u64 = lazy.expect("sent").parse().expect("a number");
    let began = Instant::now();
    let mut calls = 0;
    while server.stats().slow_clients == 0 {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "it is never put out; it has sent {sent}: {:?}",
            server.stats()
        );
        honest.call(b"ehonest").expect("others do not notice");
        calls += 1;
        tick();
    }
    lazy.tell("read");
    assert_eq!(lazy.expect("ended"), "Disconnected");
    assert_eq!(server.stats().sessions, 1);
    finish(honest);
    server.shut_down();
    done!("after {sent} requests and {:?}; {calls} calls of an honest client", began.elapsed())
}

pub(crate) fn limits_of_options() -> Ran {
    let server =
        Server::prepare("do").with("ring_capacity", 16 * 1024).with("fallback", "off").start();
    let with = |options: ConnectOptions| options.connect(server.path());
    for bytes in [1, 1024, 3000, (2 << 30), u64::MAX] {
        assert!(
            matches!(with(options().ring_capacity(bytes)), Err(ConnectError::InvalidOption(_))),
            "{bytes}"
        );
    }
    assert!(matches!(with(options().max_in_flight(0)), Err(ConnectError::InvalidOption(_))));
    assert!(matches!(with(options().name("n".repeat(49))), Err(ConnectError::InvalidOption(_))));
    for name in ["", "n", &"n".repeat(48), "ünïcödé"] {
        let mut client = with(options().name(name)).expect("connect");
        client.call(b"e").expect("a call");
    }
    for bytes in [2048, 4096, 1 << 20] {
        let mut client = with(options().ring_capacity(bytes)).expect("connect");
        client.call(&vec![b'e'; 100_000]).expect("a call");
        finish(client);
    }
    assert!(
        matches!(with(options().ring_capacity(1 << 30)), Err(ConnectError::Rejected(_))),
        "beyond 64 MiB"
    );
    assert!(matches!(Client::connect("/no/such/socket"), Err(ConnectError::NoSuchSocket(_))));
    assert!(matches!(Client::connect("/etc/passwd"), Err(ConnectError::NotASocket(_))));
    assert!(matches!(
        Client::connect(format!("/{}", "x".repeat(200))),
        Err(ConnectError::PathTooLong { .. })
    ));
    assert!(matches!(Client::connect(""), Err(ConnectError::InvalidOption(_))));
    for (name, builder) in [
        ("ring_capacity", ringbell::Server::builder().ring_capacity(3000)),
        ("max_clients", ringbell::Server::builder().max_clients(0)),
        ("max_message", ringbell::Server::builder().max_message(0)),
        ("max_message", ringbell::Server::builder().max_message(1 << 32)),
        ("rings", ringbell::Server::builder().ring_capacity(1 << 30)),
    ] {
        let error = builder
            .bind(server.path().with_extension("other"))
            .err()
            .map(|error| error.to_string());
        assert!(error.as_ref().is_some_and(|text| text.contains(name)), "{name}: {error:?}");
    }
    assert!(matches!(
        ringbell::Server::bind(server.path()),
        Err(ringbell::BindError::AlreadyListening(_))
    ));
    server.shut_down();
    done!("options of client and server")
}

pub(crate) fn memory_for_requests_is_limited() -> Ran {
    let rounds = scaled(50);
    let mut server = Server::prepare("do")
        .with("ring_capacity", 16_384)
        .with("max_held_bytes", 1_200_000)
        .start();
    let large = vec![b'e'; 250_000];
    // More than requests may have, which is three quarters.
    let larger = vec![b'e'; 1_000_000];
    let mut client = connect(&server);
    for _ in 0..rounds {
        assert_eq!(client.call(&large).expect("within the budget").len(), large.len() - 1);
        match client.call(&larger) {
            Err(CallError::Remote(RemoteError { code: code::EXHAUSTED, .. })) => {}
            other => panic!("{:?}", other.map(|answer| answer.len())),
        }
        assert_eq!(&*client.call(b"eon").expect("the session goes on"), b"on");
        // Half of a message, which takes its part of the budget with it when its client goes.
        let mut quitter = connect(&server);
        quitter.call(b"e").expect("its session counts from now on");
        quitter.send(&ask(b's', 2, b"")).expect("send");
        let _ = quitter.send_timeout(&large, Some(Duration::from_millis(1)));
        drop(quitter);
        server.wait_for_sessions(1);
    }
    finish(client);
    server.wait_for_sessions(0);
    let stats = server.shut_down();
    assert_eq!((stats.errors, stats.peer_faults), (rounds, 0));
    done!("{rounds} refusals, and as many clients that went half-way")
}
