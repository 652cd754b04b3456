//! Clients that do not read, and clients and servers that leave or are killed.

use crate::{SLOW_CLIENT, SOON, beside_honest_clients, over_rings, over_socket};
use ringbell::layout::Kind;
use ringbell::{CallError, ConnectOptions, RecvError};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::Start;
use ringbell_shm_tests::progress::{Stopwatch, tick};
use ringbell_shm_tests::raw::{SocketSession, frame};
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::{done, observe, scaled, wait_until};
use std::io::Write;
use std::time::{Duration, Instant};

pub(crate) fn a_client_that_never_reads() -> Ran {
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
        assert!(
            began.elapsed() < SOON,
            "it is never put out, having sent {sent}: {:?}",
            server.stats()
        );
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
    done!(
        "put out after {took:?} and {sent} requests; {calls} calls of others, the slowest in {slowest:?}"
    )
}

/// A server that SIGPIPE would kill.
pub(crate) fn clients_that_do_not_wait_for_their_answers() -> Ran {
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
            // More than that would be too many clients. Those that the server has still to let in
            // count, too.
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
    wait_until("descriptors are closed", || {
        observe::descriptors(server.id()) <= before + observe::SPARE
    });
    assert_eq!(server.shut_down().peer_faults, 0);
    done!("{rounds} clients")
}

pub(crate) fn killed_clients() -> Ran {
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
        wait_until("descriptors are closed", || {
            observe::descriptors(server.id()) <= before + observe::SPARE
        });
    });
    done!("{rounds}{honest}")
}

pub(crate) fn killed_servers() -> Ran {
    let rounds = scaled(40);
    let mut longest = Duration::ZERO;
    for round in 0..rounds {
        let mut server = Server::prepare("do").start();
        let mut client = over_socket().connect(server.path()).expect("connect");
        client.call(b"e").expect("a call");
        let error = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| match round % 3 {
                // In a call that is being handled; with calls in flight; and with nothing but
                // sending.
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
                    observe::main_thread_in_futex(server.id()) || {
                        observe::all_threads_sleep(server.id())
                    }
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
        assert!(matches!(
            client.call(b"e"),
            Err(CallError::Disconnected { maybe_executed: false })
        ));
    }
    done!("{rounds} servers, noticed after {longest:?} at most")
}
