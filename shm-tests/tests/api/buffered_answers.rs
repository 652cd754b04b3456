//! Answers that the client buffers (sets aside) while it waits for something else.

use crate::{ask, connect, doing, finish};
use ringbell::{CallId, RecvError, SendError};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::{Chance, Pattern};
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::verified::Verified;
use ringbell_shm_tests::{done, options, scaled, seed, wait_until};
use std::collections::HashMap;
use std::time::Duration;

/// The private memory of a client is bounded by its limit: what was set aside counts.
pub(crate) fn answers_set_aside_by_calls_count_as_in_flight() -> Ran {
    const LIMIT: usize = 3;
    let server = doing();
    let mut client = options().max_in_flight(LIMIT).connect(server.path()).expect("connect");
    let mut sent = 0;
    // Each answer to `send` is set aside by the `call` behind it.
    while client.send(b"e").is_ok() {
        sent += 1;
        assert!(
            client.in_flight() <= LIMIT,
            "{} calls are in flight, {LIMIT} may be",
            client.in_flight()
        );
        let _ = client.call(b"e");
    }
    finish(client);
    server.shut_down();
    done!("after {sent} calls")
}

/// The same while `send` waits for room.
pub(crate) fn answers_set_aside_for_room_count_as_in_flight() -> Ran {
    const LIMIT: usize = 100;
    let server = Server::prepare("do").with("ring_capacity", 2048).start();
    let mut client = options().max_in_flight(LIMIT).connect(server.path()).expect("connect");
    let error = loop {
        if let Err(error) = client.send(&[b'e'; 200]) {
            break error;
        }
        assert!(
            client.in_flight() <= LIMIT,
            "{} calls are in flight, {LIMIT} may be",
            client.in_flight()
        );
    };
    assert_eq!(error, SendError::TooManyInFlight { limit: LIMIT });
    for _ in 0..LIMIT {
        client.recv(None).expect("recv");
    }
    finish(client);
    server.shut_down();
    done!("{LIMIT} calls")
}

pub(crate) fn answers_are_set_aside() -> Ran {
    let rounds = scaled(30_000);
    let server = Server::prepare("do").with("ring_capacity", 4096).start();
    let mut client = connect(&server);
    let mut chance = Chance::new(seed());
    // What is in flight, and what its answer must be.
    let mut waiting: HashMap<CallId, Vec<u8>> = HashMap::new();
    let mut most = 0;
    for round in 0..rounds {
        if round % 1000 == 0 {
            tick();
        }
        let len = usize::try_from(if chance.below(50) == 0 {
            chance.below(20_000)
        } else {
            chance.below(300)
        })
        .expect("small");
        let mut body = vec![0; len];
        body.fill_with(|| chance.draw().to_le_bytes()[0]);
        let request = [b"e", &body[..]].concat();
        match chance.below(7) {
            0 | 1 if waiting.len() < 200 => {
                waiting.insert(client.send(&request).expect("send"), body);
            }
            2 if request.len() <= client.max_claim() && waiting.len() < 200 => {
                let mut claim = client.claim(request.len(), None).expect("claim");
                claim.copy_from_slice(&request);
                waiting.insert(claim.commit(), body);
            }
            3 => assert_eq!(&*client.call(&request).expect("call"), &body[..]),
            4 => {
                let mut seen = vec![0; body.len()];
                client
                    .call_view(&request, None, |view| view.copy_to(0, &mut seen))
                    .expect("call_view");
                assert_eq!(seen, body);
            }
            _ => {
                let answer = match chance.below(3) {
                    0 => client.try_recv().unwrap_or(None),
                    1 => client.recv(Some(Duration::from_micros(20))).ok(),
                    _ => client.recv(None).ok(),
                };
                if let Some(answer) = answer {
                    let wanted =
                        waiting.remove(&answer.call).expect("the answer to a call in flight");
                    assert_eq!(answer.outcome.as_deref(), Ok(&wanted[..]));
                }
            }
        }
        assert_eq!(client.in_flight(), waiting.len());
        most = most.max(waiting.len());
    }
    while !waiting.is_empty() {
        let answer = client.recv(None).expect("recv");
        let wanted = waiting.remove(&answer.call).expect("the answer to a call in flight");
        assert_eq!(answer.outcome.as_deref(), Ok(&wanted[..]));
    }
    assert_eq!(client.recv(None).unwrap_err(), RecvError::NothingInFlight);
    let counts = client.stats();
    assert!(counts.stash_peak > 0);
    finish(client);
    server.shut_down();
    done!("{rounds} steps, at most {most} in flight, {} set aside", counts.stash_peak)
}

pub(crate) fn answers_set_aside_outlive_the_session() -> Ran {
    let mut server = doing();
    let mut client = connect(&server);
    let first = client.send(b"efirst").expect("send");
    client.call(b"esecond").expect("a call, for which the first answer is set aside");
    client.send(&ask(b's', 60_000, b"")).expect("send");
    server.process().kill();
    wait_until("the client knows", || {
        client.send_timeout(&[0; 16_000], Some(Duration::ZERO)) == Err(SendError::Disconnected)
    });
    let answer = client.recv(None).expect("what was received before is still good");
    assert_eq!((answer.call, answer.outcome.as_deref()), (first, Ok(&b"first"[..])));
    assert_eq!(client.recv(None).unwrap_err(), RecvError::Disconnected);
    finish(client);
    done!("one")
}

pub(crate) fn both_rings_full() -> Ran {
    let count = scaled(200_000);
    let server = Server::prepare("verify").with("ring_capacity", 2048).start();
    // All at once, as far as the limit goes: nothing is received before everything is sent.
    let options = options().max_in_flight(usize::try_from(count).expect("small"));
    let mut client =
        Verified::connect(server.path(), options, Pattern::new(1, 400).with_large(500, 5000));
    for number in 0..count {
        if number % 1024 == 0 {
            tick();
        }
        client.send(None).expect("send");
    }
    assert_eq!(client.in_flight() as u64, count);
    while client.in_flight() > 0 {
        client.recv(None).expect("recv");
    }
    let counts = client.finish();
    assert!(counts.stash_peak * 2 > count, "{counts:?}");
    let stats = server.shut_down();
    assert_eq!((stats.requests, stats.slow_clients), (count + 1, 0));
    done!(
        "{count} calls, {} answers set aside; the server queued {}",
        counts.stash_peak,
        stats.queued
    )
}
