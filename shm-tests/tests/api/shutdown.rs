//! A server that stops: with calls in flight, with clients that connect, from a signal handler,
//! before it serves.

use crate::{ask, at_once, connect, doing, finish};
use ringbell::{CallError, Client, ConnectError, RecvError, SendError, WaitSettings};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::Pattern;
use ringbell_shm_tests::progress::Stopwatch;
use ringbell_shm_tests::server::{Server, waiting};
use ringbell_shm_tests::verified::Verified;
use ringbell_shm_tests::{done, observe, options, scaled, wait_until};
use std::time::Duration;

pub(crate) fn shutdown_with_calls_in_flight() -> Ran {
    let rounds = scaled(30);
    for round in 0..rounds {
        let wait = ["default", "park", "spin", "yield"][usize::try_from(round).expect("small") % 4];
        let mut server = doing();
        let options = options().wait(waiting(wait, WaitSettings::client()));
        let mut client = options.connect(server.path()).expect("connect");
        client.call(b"e").expect("the session is open");
        client.send(&ask(b's', 30, b"0")).expect("send");
        for number in 1..20u8 {
            client.send(&[b'e', b'0' + number]).expect("send");
        }
        server.process().tell("shutdown 5000");
        // What was received before the shutdown is answered, then the server says goodbye.
        for number in 0..20u8 {
            let answer =
                client.recv(None).unwrap_or_else(|error| panic!("answer {number}: {error}"));
            assert_eq!(answer.outcome.as_deref(), Ok(&[b'0' + number][..]));
        }
        let (more, error) = until_the_goodbye(&mut client);
        assert!(matches!(error, CallError::ShutDown { .. }), "{error:?}");
        assert!(matches!(client.send(b"e"), Err(SendError::ShutDown)));
        assert!(matches!(client.recv(None), Err(RecvError::ShutDown)));
        let stats = server.ended();
        assert_eq!(stats.requests, 21 + more, "all that were sent, and none after the goodbye");
        assert!(
            matches!(Client::connect(server.path()), Err(ConnectError::NoSuchSocket(_))),
            "the socket is gone"
        );
        finish(client);
    }
    done!("{rounds} servers")
}

/// Calls, while the order is on its way; how often that went well, and how it ended.
fn until_the_goodbye(client: &mut Client) -> (u64, CallError) {
    let watch = Stopwatch::start();
    let mut calls = 0;
    loop {
        match client.call(b"e").map(|answer| answer.len()) {
            Ok(_) => calls += 1,
            Err(error) => break (calls, error),
        }
        assert!(watch.awake() < Duration::from_secs(5), "the server does not stop");
    }
}

pub(crate) fn shutdown_without_draining() -> Ran {
    let mut server = doing();
    let mut sleeping = connect(&server);
    let mut client = connect(&server);
    for client in [&mut sleeping, &mut client] {
        client.call(b"e").expect("the session is open");
    }
    std::thread::scope(|scope| {
        let asleep = scope.spawn(|| {
            let error = sleeping.call(&ask(b's', 300, b"")).map(|answer| answer.len());
            // The order may be late, and the call have been answered.
            (error, until_the_goodbye(&mut sleeping).1)
        });
        for _ in 0..100 {
            client.send(b"e").expect("send");
        }
        server.process().tell("shutdown 0");
        let mut answered = 0;
        let error = loop {
            match client.recv(None).map(drop) {
                Ok(()) => answered += 1,
                Err(RecvError::NothingInFlight) => break until_the_goodbye(&mut client).1,
                Err(RecvError::ShutDown) => break CallError::ShutDown { maybe_executed: true },
                Err(error) => panic!("after {answered} answers: {error:?}"),
            }
        };
        assert!(matches!(error, CallError::ShutDown { .. }), "{error:?}");
        let (first, second) = asleep.join().expect("a thread");
        assert!(
            matches!(first, Ok(0) | Err(CallError::ShutDown { maybe_executed: true })),
            "{first:?}"
        );
        assert!(matches!(second, CallError::ShutDown { .. }), "{second:?}");
    });
    server.ended();
    done!("one")
}

pub(crate) fn shutdown_from_a_signal_handler() -> Ran {
    let rounds = scaled(20);
    for busy in 0..rounds {
        let mut server = Server::prepare("verify").with("sigterm", 1).start();
        let mut client = Verified::connect(server.path(), options(), Pattern::new(1, 300));
        if busy % 2 == 0 {
            wait_until("the server sleeps", || observe::all_threads_sleep(server.id()));
        }
        let end = std::thread::scope(|scope| {
            let calling = scope.spawn(|| {
                loop {
                    if busy % 2 == 0 {
                        // Only when told: a sleeping server is to be woken by the signal alone.
                        let quiet = client.client().send(b"").map(drop);
                        let _ = quiet;
                        break CallError::ShutDown { maybe_executed: false };
                    }
                    if let Err(error) = client.call(None) {
                        break error;
                    }
                }
            });
            server.process().signal(rustix::process::Signal::TERM);
            calling.join().expect("a thread")
        });
        assert!(matches!(end, CallError::ShutDown { .. }), "{end:?}");
        let watch = Stopwatch::start();
        server.process().expect("complaints");
        server.process().expect("done");
        server.process().succeed();
        assert!(watch.awake() < Duration::from_secs(2), "{:?}", watch.elapsed());
    }
    done!("{rounds} servers, half of them asleep")
}

/// A server that is told to stop while clients connect: each of them either has a session that ends
/// with a goodbye, or hears at once that the server goes.
pub(crate) fn shutdown_while_clients_connect() -> Ran {
    let rounds = scaled(50);
    let (mut with_session, mut without, mut refused) = (0, 0, 0);
    for _ in 0..rounds {
        let mut server = doing();
        server.process().tell("shutdown 1000");
        match options().connect(server.path()) {
            Ok(mut client) => {
                let (calls, error) = until_the_goodbye(&mut client);
                assert!(
                    matches!(error, CallError::ShutDown { .. }),
                    "after {calls} calls: {error:?}"
                );
                with_session += u64::from(calls > 0);
                without += u64::from(calls == 0);
            }
            Err(
                ConnectError::Rejected(ringbell::RejectReason::ShuttingDown)
                | ConnectError::ServerDied
                | ConnectError::NobodyListens(_)
                | ConnectError::NoSuchSocket(_),
            ) => refused += 1,
            Err(error) => panic!("{error:?}"),
        }
        server.ended();
    }
    done!("{rounds} servers: {with_session} calls, {without} goodbyes, {refused} refusals")
}

pub(crate) fn shutdown_before_serving() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let server = ringbell::Server::bind(dir.path().join("test.sock")).expect("bind");
    let handle = server.handle();
    handle.shutdown(None);
    handle.shutdown(Some(Duration::ZERO));
    let stats = at_once(|| server.run(|_, _| Ok(()))).expect("run");
    assert_eq!(stats.requests, 0);
    handle.shutdown(None);
    done!("one")
}
