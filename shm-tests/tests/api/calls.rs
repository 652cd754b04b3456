//! The ways to call, what comes back, and how it is counted.

use crate::{connect, doing, finish};
use ringbell::layout::code;
use ringbell::{CallError, CallId, RemoteError};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::{Chance, Pattern};
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::verified::Verified;
use ringbell_shm_tests::{done, options, scaled, seed, wait_until};

pub(crate) fn messages_of_no_length() -> Ran {
    let count = scaled(1000);
    let server = doing();
    let mut client = connect(&server);
    for _ in 0..count {
        assert_eq!(&*client.call(b"").expect("nothing for nothing"), b"");
        assert_eq!(&*client.call(b"e").expect("nothing for something"), b"");
        let call = client.claim(0, None).expect("room for nothing").commit();
        let answer = client.recv(None).expect("recv");
        assert_eq!((answer.call, answer.outcome.as_deref()), (call, Ok(&b""[..])));
        assert!(client.call_view(b"", None, |view| view.is_empty()).expect("a view of nothing"));
        let mut answer = vec![1; 9];
        assert_eq!(client.call_into(b"", &mut answer, None), Ok(0));
        assert!(answer.is_empty());
    }
    finish(client);
    server.shut_down();
    done!("{count} of each")
}

pub(crate) fn errors_and_panics_of_the_handler() -> Ran {
    let server = doing();
    let mut client = connect(&server);
    let error =
        |number: u16, text: &str| [&b"x"[..], &number.to_le_bytes(), text.as_bytes()].concat();
    let remote = |code, text: &str| CallError::Remote(RemoteError { code, text: text.into() });
    assert_eq!(
        client.call(&error(7, "seven")).unwrap_err(),
        remote(code::APPLICATION + 7, "seven")
    );
    assert_eq!(client.call(&error(0, "")).unwrap_err(), remote(code::APPLICATION, ""));
    assert_eq!(client.call(&error(65_279, "most")).unwrap_err(), remote(u16::MAX, "most"));
    assert_eq!(client.call(&error(u16::MAX, "beyond")).unwrap_err(), remote(u16::MAX, "beyond"));
    match client.call(&error(1, &"ä".repeat(2000))).unwrap_err() {
        CallError::Remote(error) => {
            assert!(
                error.text.len() >= 1000 && error.text.len() <= 1024,
                "{} bytes",
                error.text.len()
            );
            assert!(error.text.chars().all(|c| c == 'ä'), "the text is cut between characters");
        }
        other => panic!("{other:?}"),
    }
    match client.call(b"pat the disco").unwrap_err() {
        CallError::Remote(RemoteError { code: code::PANICKED, text }) => {
            assert!(text.contains("at the disco"), "{text}")
        }
        other => panic!("{other:?}"),
    }
    // In every way to call.
    let view = client.call_view(&error(1, "one"), None, |_| ());
    assert_eq!(view.unwrap_err(), remote(code::APPLICATION + 1, "one"));
    let mut answer = Vec::new();
    assert_eq!(
        client.call_into(&error(2, "two"), &mut answer, None).unwrap_err(),
        remote(code::APPLICATION + 2, "two")
    );
    let call = client.send(&error(3, "three")).expect("send");
    let answer = client.recv(None).expect("recv");
    assert_eq!(answer.call, call);
    assert_eq!(
        answer.outcome,
        Err(RemoteError { code: code::APPLICATION + 3, text: "three".into() })
    );
    assert_eq!(&*client.call(b"eon").expect("the session goes on"), b"on");
    assert_eq!(client.stats().errors, 9);
    finish(client);
    let stats = server.shut_down();
    assert_eq!((stats.errors, stats.panics, stats.requests), (9, 1, 10));
    done!("all of them")
}

pub(crate) fn claims() -> Ran {
    let count = scaled(20_000);
    let server = Server::prepare("do").with("ring_capacity", 2048).start();
    let mut client = connect(&server);
    let max = client.max_claim();
    let mut chance = Chance::new(seed());
    for number in 0..count {
        let len = 1 + usize::try_from(chance.below(max as u64)).expect("small");
        let mut claim = client.claim(len, None).expect("claim");
        assert_eq!(claim.len(), len);
        claim.fill(b'e');
        if chance.below(4) == 0 {
            // Given back: nothing of it is ever seen.
            claim.fill(0xff);
            drop(claim);
            assert_eq!(client.in_flight(), 0);
            assert_eq!(client.call(b"ex").expect("a call").payload(), b"x");
            continue;
        }
        let call = claim.commit();
        let answer = client.recv(None).expect("recv");
        assert_eq!(answer.call, call, "{number}");
        let payload = answer.outcome.expect("an answer");
        assert!(payload.len() == len - 1 && payload.iter().all(|byte| *byte == b'e'));
    }
    finish(client);
    server.shut_down();
    done!("{count} claims of up to {max} B")
}

pub(crate) fn views_and_buffers() -> Ran {
    let count = scaled(20_000);
    let server = Server::prepare("do").with("ring_capacity", 4096).start();
    let mut client = connect(&server);
    let mut chance = Chance::new(seed());
    let mut buffer = Vec::new();
    for _ in 0..count {
        let len = usize::try_from(if chance.below(20) == 0 {
            chance.below(10_000)
        } else {
            chance.below(1000)
        })
        .expect("small");
        let mut request = vec![b'e'; 1 + len];
        request[1..].fill_with(|| chance.draw().to_le_bytes()[0]);
        let from = usize::try_from(chance.below(len as u64 + 1)).expect("small");
        let matched = client.call_view(&request, None, |view| {
            let mut part = vec![0; view.len() - from];
            view.copy_to(from, &mut part);
            view.len() == len && part == request[1 + from..]
        });
        assert_eq!(matched, Ok(true));
        assert_eq!(client.call_into(&request, &mut buffer, None), Ok(len));
        assert_eq!(buffer, &request[1..]);
    }
    // Beyond the end it is a panic, not a read.
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let beyond = client.call_view(b"e1234", None, |view| {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| view.copy_to(2, &mut [0; 3])))
            .is_err()
    });
    std::panic::set_hook(loud);
    assert_eq!(beyond, Ok(true));
    assert_eq!(&*client.call(b"eon").expect("the session goes on"), b"on");
    finish(client);
    server.shut_down();
    done!("{count} of each")
}

pub(crate) fn batches() -> Ran {
    let rounds = scaled(2000);
    let server = Server::prepare("do").with("ring_capacity", 2048).start();
    let mut client = connect(&server);
    let mut calls = Vec::new();
    for round in 0..rounds {
        let requests: Vec<Vec<u8>> =
            (0..round % 60).map(|n| [&b"e"[..], &n.to_le_bytes(), &[7; 90]].concat()).collect();
        calls.clear();
        client
            .send_batch(requests.iter().map(|request| &request[..]), &mut calls)
            .expect("a batch");
        assert_eq!(calls.len(), requests.len());
        for (call, request) in calls.iter().zip(&requests) {
            let answer = client.recv(None).expect("recv");
            assert_eq!((answer.call, answer.outcome.as_deref()), (*call, Ok(&request[1..])));
        }
    }
    finish(client);
    server.shut_down();
    done!("{rounds} batches of up to 59")
}

pub(crate) fn posts_and_flushes() -> Ran {
    let rounds = scaled(3000);
    let server = Server::prepare("do").with("wait", "park").with("ring_capacity", 4096).start();
    let mut client = connect(&server);
    let mut chance = Chance::new(seed());
    for round in 0..rounds {
        if round % 256 == 0 {
            tick();
        }
        let count = chance.below(50);
        let calls: Vec<CallId> = (0..count)
            .map(|number| {
                client.post(&[&b"e"[..], &number.to_le_bytes(), &[1; 100]].concat()).expect("post")
            })
            .collect();
        // Flushed, or not: whoever waits for an answer has flushed.
        if chance.below(2) == 0 {
            client.flush();
        }
        for (call, number) in calls.into_iter().zip(0u64..) {
            let answer = client.recv(None).expect("recv");
            let payload = answer.outcome.expect("an answer");
            assert_eq!((answer.call, &payload[..8]), (call, &number.to_le_bytes()[..]));
        }
    }
    finish(client);
    server.shut_down();
    done!("{rounds} rounds of up to 49 posts")
}

/// What becomes of requests whose client is dropped behind them is nowhere promised: this tells how
/// it is.
pub(crate) fn sent_and_dropped() -> Ran {
    let rounds = scaled(100);
    let (mut sent, mut executed) = (0, 0);
    let mut server = doing();
    for round in 0..rounds {
        let mut client = connect(&server);
        for _ in 0..10 {
            client.send(b"e").expect("send");
            sent += 1;
        }
        drop(client);
        // A server that is slow may not have begun the session when the client has left it.
        wait_until("the session was opened, and is over", || {
            let stats = server.stats();
            stats.accepted + stats.handshakes_failed > round && stats.sessions == 0
        });
    }
    let mut client = connect(&server);
    let handled = client.call(b"n").expect("a call");
    executed += u64::from_le_bytes(handled.payload().try_into().expect("eight bytes")) - 1;
    assert!(executed <= sent);
    finish(client);
    server.shut_down();
    done!("{sent} requests sent and dropped, {executed} of them executed")
}

pub(crate) fn numbers_of_both_sides_agree() -> Ran {
    let count = scaled(5000);
    let mut server = Server::verifying();
    let mut client =
        Verified::connect(server.path(), options().name("counted"), Pattern::new(1, 700));
    assert_eq!(client.client().server_pid(), server.id());
    assert_ne!(client.client().generation(), 0);
    client.pipeline(count, 10);
    let counts = client.client().stats();
    assert_eq!(
        (counts.sent, counts.received, counts.in_flight, counts.errors),
        (count + 1, count + 1, 0, 0)
    );
    assert!(counts.bytes_sent > count * 100 && counts.bytes_received > count * 100);
    let stats = server.stats();
    assert_eq!((stats.sessions, stats.accepted), (1, 1));
    client.finish();
    server.wait_for_sessions(0);
    let stats = server.shut_down();
    assert_eq!((stats.requests, stats.sessions_peak, stats.hung_up), (count + 1, 1, 1));
    assert_eq!((stats.rejected, stats.handshakes_failed, stats.peer_faults), (0, 0, 0));
    done!("{count} messages")
}
