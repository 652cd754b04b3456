//! Many requests and many clients: bursts, small rings, full queues, limits.

use crate::{SOON, connect, reacting};
use ringbell::CallError;
use ringbell::layout::code;
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::Chance;
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::reactor_client::Asking;
use ringbell_shm_tests::reactor_requests::{StreamEnd, ask, stream_of, words};
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::{done, options, scaled, scaled_for, seed, wait_until};
use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) fn bursts() -> Ran {
    const DEPTH: u64 = 512;
    let rounds = scaled_for(400, 100);
    let server = reacting();
    let mut client = connect(&server);
    let mut chance = Chance::new(seed());
    for _ in 0..rounds {
        for _ in 0..DEPTH {
            let verb = if chance.below(2) == 0 { b'e' } else { b't' };
            client.send(verb, 0, b"burst", None).expect("send");
        }
        assert_eq!(client.recv_all().len() as u64, DEPTH);
    }
    client.finish();
    let stats = server.shut_down();
    assert_eq!((stats.requests, stats.inline + stats.dispatched), (rounds * DEPTH, rounds * DEPTH));
    assert!(stats.inline > 0 && stats.dispatched > 0, "{stats:?}");
    done!("{rounds} bursts of {DEPTH}")
}

pub(crate) fn pipelined_through_the_smallest_ring() -> Ran {
    let receive = |client: &mut Asking| match client.recv(None).expect("recv").1 {
        Ok(rest) => assert!(rest.iter().all(|byte| *byte == 7)),
        Err(error) => assert_eq!(error.code, code::DROPPED),
    };
    let count = scaled(200_000);
    let server = Server::prepare("react").with("ring_capacity", 2048).start();
    let mut client = connect(&server);
    let mut chance = Chance::new(seed());
    let filler = [7; 600];
    for _ in 0..count {
        let verb = [b'e', b't', b'D'][usize::try_from(chance.below(3)).expect("small")];
        let len = usize::try_from(chance.below(600)).expect("small");
        client.send(verb, 0, &filler[..len], None).expect("send");
        while client.waiting() > 256 {
            receive(&mut client);
        }
    }
    while client.waiting() > 0 {
        receive(&mut client);
    }
    client.finish();
    let stats = server.shut_down();
    assert_eq!(stats.requests, count);
    assert!(stats.queued > 0, "the ring never filled up: {stats:?}");
    done!("{count} calls, {} inline, {} answers queued", stats.inline, stats.queued)
}

pub(crate) fn a_full_response_queue_beside_others() -> Ran {
    const LAZY: u64 = 400;
    let calls = scaled(10_000);
    let mut server = Server::prepare("react")
        .with("ring_capacity", 64 * 1024)
        .with("max_queued_answers", 8)
        .start();
    let mut lazy = connect(&server);
    for number in 0..LAZY {
        // 1.2 MB of answers, which nobody reads.
        lazy.client().send(&ask(b'Z', number, 3000, b"")).expect("room for 400 lines");
    }
    wait_until("answers are queued", || server.stats().queued > 0);
    let mut slowest = Duration::ZERO;
    let mut others = [connect(&server), connect(&server)];
    for number in 0..calls {
        for other in &mut others {
            let began = Instant::now();
            other.echoes(if number % 2 == 0 { b'e' } else { b't' }, 0, b"on");
            slowest = slowest.max(began.elapsed());
        }
        if number % 256 == 0 {
            tick();
        }
    }
    assert!(server.stats().queued > 0);
    for _ in 0..LAZY {
        let answer = lazy.client().recv(Some(SOON)).expect("an answer");
        assert_eq!(answer.outcome.expect("zeros").payload(), &[0; 3000]);
    }
    lazy.echoes(b't', 0, b"on");
    for client in others {
        client.finish();
    }
    lazy.finish();
    assert_eq!(server.shut_down().slow_clients, 0);
    done!(
        "{LAZY} answers waited while two others made {calls} calls each, the slowest in {slowest:?}"
    )
}

pub(crate) fn at_most_so_many_in_flight() -> Ran {
    const LIMIT: u64 = 5;
    let mut server = Server::prepare("react").with("max_in_flight", LIMIT).start();
    let (mut client, mut other) = (connect(&server), connect(&server));
    let mut numbers = Vec::new();
    for _ in 0..4 * LIMIT {
        numbers.push(client.next_number());
        client.send(b'h', 1, b"", None).expect("send");
    }
    for round in 0..4 {
        wait_until("as many as may be are held", || {
            server.stats().dispatched == (round + 1) * LIMIT
        });
        // More are not even read, while others are served.
        for _ in 0..20 {
            other.echoes(b'e', 0, b"");
        }
        assert_eq!(other.words(b'r', 1, b""), [LIMIT, 0]);
    }
    assert_eq!(client.recv_all(), numbers);
    for client in [client, other] {
        client.finish();
    }
    server.shut_down();
    done!("{LIMIT} of {}", 4 * LIMIT)
}

/// Several clients of one server, each with its own answers, streams, events and timeouts.
pub(crate) fn clients_at_once() -> Ran {
    const CLIENTS: u64 = 6;
    let rounds = scaled(1500);
    let mut server = Server::prepare("react").with("ring_capacity", 16 * 1024).start();
    let path = server.path().to_owned();
    let told: Vec<(u64, u64)> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|index| {
                let path = &path;
                scope.spawn(move || a_bit_of_everything(path, index, rounds))
            })
            .collect();
        clients.into_iter().map(|client| client.join().expect("a thread")).collect()
    });
    server.wait_for_sessions(0);
    wait_until("nothing is in flight", || server.stats().in_flight == 0);
    let stats = server.shut_down();
    assert_eq!((stats.accepted, stats.peer_faults, stats.slow_clients), (CLIENTS, 0, 0));
    let answered: u64 = told.iter().map(|(answered, _)| answered).sum();
    let late: u64 = told.iter().map(|(_, late)| late).sum();
    done!("{CLIENTS} clients with {rounds} steps each: {answered} answers, {late} timeouts")
}

fn a_bit_of_everything(path: &Path, index: u64, rounds: u64) -> (u64, u64) {
    let mut client = Asking::connect(path, options());
    let session = client.session();
    let mut chance = Chance::new(seed() ^ index);
    let (mut answered, mut late) = (0, 0);
    let mut filler = HashMap::new();
    for _ in 0..rounds {
        let len = usize::try_from(chance.below(2000)).expect("small");
        let rest = vec![chance.draw().to_le_bytes()[0]; len];
        let us = chance.below(100);
        match chance.below(8) {
            0 => client.echoes(b'e', 0, &rest),
            1 => client.echoes(b't', us, &rest),
            2 | 3 if client.waiting() < 100 => {
                let number = client.next_number();
                client.send(b't', us, &rest, None).expect("send");
                filler.insert(number, rest);
            }
            4 => match client.ask_within(
                b't',
                us,
                &rest,
                Some(Duration::from_micros(chance.below(150))),
            ) {
                Ok(answer) => assert_eq!(answer, rest),
                Err(CallError::TimedOut { .. } | CallError::TooManyInFlight { .. }) => late += 1,
                Err(error) => panic!("{error:?}"),
            },
            5 => {
                let (number, items) = (client.next_number(), chance.below(100));
                let request = client.request(b's', items, &stream_of(200, StreamEnd::Good));
                let call = client.client().open_stream(&request, None).expect("send");
                if chance.below(4) == 0 {
                    client.client().close_stream(call);
                } else {
                    assert_eq!(client.read_stream(call, number, 200), Ok(items));
                }
            }
            6 => {
                let number = client.next_number();
                client.send(b'v', 3, &[1], None).expect("send");
                filler.insert(number, vec![1]);
                for index in 0..3 {
                    let event = client.client().next_event(Some(SOON)).expect("an event");
                    assert_eq!(words(&event), [session, number, 0, index]);
                }
            }
            _ => {
                if let Ok((number, outcome)) = client.recv(Some(Duration::from_micros(50))) {
                    assert_eq!(
                        outcome.expect("an answer"),
                        filler.remove(&number).expect("a request")
                    );
                    answered += 1;
                }
            }
        }
    }
    while client.waiting() > 0 {
        let (number, outcome) = client.recv(Some(SOON)).expect("an answer");
        assert_eq!(outcome.expect("an answer"), filler.remove(&number).expect("a request"));
        answered += 1;
    }
    client.finish();
    (answered, late)
}
