//! Calls of many tasks: beside each other, one after the other, dropped, and late.

use crate::{all, bytes, echo, flavours, stamped};
use ringbell::{AsyncClient, CallError};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::{Chance, mix};
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::reactor_requests::ask;
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::transport::over_socket;
use ringbell_shm_tests::{done, options, scaled, scaled_for, seed};
use std::future::{Future, poll_fn};
use std::time::Duration;

pub(crate) fn crowd(
    client: &AsyncClient,
    tasks: u64,
    calls: u64,
    longest: u64,
) -> Vec<tokio::task::JoinHandle<()>> {
    let spawn = |task| {
        let client = client.clone();
        tokio::spawn(async move {
            for call in 0..calls {
                echo(&client, task * 1_000_000 + call, longest).await;
            }
        })
    };
    (0..tasks).map(spawn).collect()
}

pub(crate) fn a_thousand_tasks_share_a_session() -> Ran {
    let calls = scaled_for(200, 40);
    let mut told = String::new();
    for (flavour, runtime) in flavours() {
        let server = Server::prepare("react").start();
        let counts = runtime.block_on(async {
            let client = options().connect_async(server.path()).await.expect("connect");
            assert_eq!(
                matches!(client.transport(), ringbell::Transport::Socket { .. }),
                over_socket()
            );
            all(crowd(&client, 1000, calls, 100)).await;
            assert_eq!(client.in_flight(), 0);
            client.stats()
        });
        drop(runtime);
        let stats = server.shut_down();
        assert_eq!(stats.peer_faults, 0);
        told += &format!("; {flavour}: armed {}, wakes {}", counts.parks, stats.wakes_sent);
    }
    done!("1000 tasks with {calls} calls each{told}")
}

pub(crate) fn requests_wait_for_room() -> Ran {
    let calls = scaled_for(100, 20);
    let mut told = String::new();
    for (flavour, runtime) in flavours() {
        let server = Server::prepare("react").with("ring_capacity", 2048).start();
        let counts = runtime.block_on(async {
            let options = options().max_in_flight(50);
            let client = options.connect_async(server.path()).await.expect("connect");
            // Some of them larger than the ring.
            all(crowd(&client, 200, calls, 5000)).await;
            client.stats()
        });
        assert!(counts.full_stalls > 0 || over_socket(), "there was always room");
        server.shut_down();
        told += &format!("; {flavour}: no room {} times", counts.full_stalls);
    }
    done!("200 tasks with {calls} calls each{told}")
}

pub(crate) fn calls_one_after_the_other() -> Ran {
    let calls = scaled_for(100_000, 10_000);
    let mut told = String::new();
    for (flavour, runtime) in flavours() {
        let server = Server::prepare("react").start();
        let counts = runtime.block_on(async {
            let client = options().connect_async(server.path()).await.expect("connect");
            for number in 0..calls {
                echo(&client, number, 100).await;
                if number % 100 == 0 {
                    // Both sides fall asleep.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            client.stats()
        });
        let stats = server.shut_down();
        told += &format!(
            "; {flavour}: armed {}, called off {}, wakes {}, looks that paid {}",
            counts.parks, counts.arms_called_off, stats.wakes_sent, counts.spins_paid
        );
    }
    done!("{calls} calls{told}")
}

pub(crate) fn dropping_a_call_affects_no_other() -> Ran {
    let calls = scaled_for(20_000, 5_000);
    let mut told = String::new();
    for (flavour, runtime) in flavours() {
        for ring in [2048, 65536] {
            let server = Server::prepare("react").with("ring_capacity", ring).start();
            let (dropped, late) = runtime.block_on(async {
                let client = options()
                    .max_in_flight(64)
                    .connect_async(server.path())
                    .await
                    .expect("connect");
                let others = crowd(&client, 20, calls / 40, 3000);
                let mut chance = Chance::new(seed());
                let mut dropped = 0_u64;
                for number in 0..calls / 4 {
                    let number = number + (1 << 40);
                    let rest = bytes(number, 3000);
                    let request = ask(b't', number, chance.below(100), &rest);
                    let mut call = Box::pin(client.call(&request));
                    // Polled so often, in whatever state it is then: not begun, queued, half sent,
                    // in flight, answered.
                    let polls = chance.below(4);
                    for poll in 0..=polls {
                        let ready =
                            poll_fn(|cx| std::task::Poll::Ready(call.as_mut().poll(cx))).await;
                        if let std::task::Poll::Ready(answer) = ready {
                            assert_eq!(answer.expect("an answer"), stamped(&client, number, &rest));
                            break;
                        }
                        if poll == polls {
                            dropped += 1;
                            break;
                        }
                        tokio::task::yield_now().await;
                    }
                    drop(call);
                    tick();
                }
                all(others).await;
                echo(&client, 1 << 41, 100).await;
                assert_eq!(client.in_flight(), 0);
                (dropped, client.stats().late_answers)
            });
            assert!(dropped > 0, "all were answered");
            assert_eq!(server.shut_down().peer_faults, 0);
            told += &format!("; {flavour}: {dropped} dropped, {late} answers came late");
        }
    }
    done!("{calls} calls{told}")
}

pub(crate) fn deadlines() -> Ran {
    let rounds = scaled(500).max(20);
    for (_, runtime) in flavours() {
        let server = Server::prepare("react").start();
        runtime.block_on(async {
            let client = options().connect_async(server.path()).await.expect("connect");
            for round in 0..rounds {
                let request = ask(b'w', round, 0, b"");
                let timeout = Duration::from_micros(mix(round, 1) % 2000 + 1);
                let answer = client.call_timeout(&request, Some(timeout)).await;
                assert!(matches!(answer, Err(CallError::TimedOut { .. })), "{answer:?}");
                tick();
            }
            let request = ask(b'w', 0, 0, b"");
            let answer = client.call_timeout(&request, Some(Duration::ZERO)).await;
            assert!(matches!(answer, Err(CallError::TimedOut { .. })), "{answer:?}");
            let request = ask(b'e', 1, 0, b"in time");
            let answer = client.call_timeout(&request, Some(Duration::from_secs(30))).await;
            assert_eq!(answer.expect("an answer"), stamped(&client, 1, b"in time"));
            assert_eq!(client.in_flight(), 0);
            let huge = vec![0; client.max_message() + 1];
            assert!(matches!(client.call(&huge).await, Err(CallError::TooLarge { .. })));
            let error = client.call(&ask(b'x', 1, 7, b"no")).await;
            assert!(matches!(error, Err(CallError::Remote(_))), "{error:?}");
        });
        server.shut_down();
    }
    done!("{rounds} calls that are answered too late")
}
