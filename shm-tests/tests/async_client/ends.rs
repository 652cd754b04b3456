//! The end of the server, of the runtime, and of the last clone.

use crate::calls::crowd;
use crate::{all, echo, flavours, next};
use ringbell::{AsyncClient, CallError, EventError, SendError, TransportChoice};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::reactor_client::Asking;
use ringbell_shm_tests::reactor_requests::ask;
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::{done, options, scaled, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use std::future::{Future, poll_fn};
use std::time::Duration;
use tokio::runtime::Builder;

async fn in_flight(
    client: &AsyncClient,
    count: usize,
) -> Vec<tokio::task::JoinHandle<Result<Vec<u8>, CallError>>> {
    let calls: Vec<_> = (0..count)
        .map(|number| tokio::spawn(client.call_owned(ask(b'h', number as u64, 1, b""))))
        .collect();
    while client.in_flight() < count {
        tokio::task::yield_now().await;
    }
    calls
}

pub(crate) fn a_death_ends_all_calls() -> Ran {
    let rounds = scaled(20).max(4);
    for (_, runtime) in flavours() {
        for round in 0..rounds {
            let mut server = Server::prepare("react").start();
            let pid = server.id();
            runtime.block_on(async {
                let client = options().connect_async(server.path()).await.expect("connect");
                let calls = if round % 2 == 0 { in_flight(&client, 100).await } else { Vec::new() };
                let mut events = client.events();
                let waiting = tokio::spawn(async move { next(&mut events).await });
                tokio::task::yield_now().await;
                // From another thread: the runtime is asleep, or about to be.
                let killer = std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_micros(round * 137 % 2000));
                    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
                    rustix::process::kill_process(
                        pid.expect("a pid"),
                        rustix::process::Signal::KILL,
                    )
                });
                for call in calls {
                    let answer = call.await.expect("a task");
                    assert_eq!(answer, Err(CallError::Disconnected { maybe_executed: true }));
                }
                assert_eq!(waiting.await.expect("a task"), Some(Err(EventError::Disconnected)));
                killer.join().expect("a thread").expect("kill");
                assert_eq!(
                    client.call(b"e").await,
                    Err(CallError::Disconnected { maybe_executed: false })
                );
                assert_eq!(client.send_one_way(b"e").await, Err(SendError::Disconnected));
            });
            server.process().is_killed();
        }
    }
    done!("{rounds} deaths for each flavour")
}

pub(crate) fn a_shutdown_ends_all_calls() -> Ran {
    for (_, runtime) in flavours() {
        let server = Server::prepare("react").start();
        let path = server.path().to_owned();
        let client = runtime.block_on(async {
            let client = options().connect_async(&path).await.expect("connect");
            echo(&client, 1, 10).await;
            client
        });
        let mut events = client.events();
        let waiting = runtime.spawn(async move { next(&mut events).await });
        server.shut_down();
        let ended = runtime.block_on(waiting).expect("a task");
        assert_eq!(ended, Some(Err(EventError::ShutDown)));
        let answer = runtime.block_on(client.call(b"e"));
        assert_eq!(answer, Err(CallError::ShutDown { maybe_executed: false }));
    }
    done!("both flavours")
}

pub(crate) fn a_runtime_is_dropped_with_calls_in_flight() -> Ran {
    for (_, runtime) in flavours() {
        let mut server = Server::prepare("react").start();
        let path = server.path().to_owned();
        let client = runtime.block_on(options().connect_async(&path)).expect("connect");
        // Its tasks go with it.
        let calls = runtime.block_on(in_flight(&client, 100));
        // This one is waited for elsewhere.
        let elsewhere = client.call_owned(ask(b'h', 1000, 1, b""));
        let (began, has_begun) = std::sync::mpsc::channel();
        let other = std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            let mut elsewhere = Box::pin(elsewhere);
            runtime.block_on(poll_fn(|cx| {
                let polled = elsewhere.as_mut().poll(cx);
                let _ = began.send(());
                polled
            }))
        });
        has_begun.recv().expect("it was polled");
        server.wait_for_sessions(1);
        runtime.shutdown_background();
        assert_eq!(
            other.join().expect("a thread"),
            Err(CallError::Disconnected { maybe_executed: true })
        );
        drop(calls);
        // The server has been told, though the client is still there.
        server.wait_for_sessions(0);
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let answer = runtime.block_on(client.call(b"e"));
        assert_eq!(answer, Err(CallError::Disconnected { maybe_executed: false }));
        // The server holds requests that were cancelled, of a session that is over.
        let mut after = Asking::connect(&path, options());
        assert_eq!(after.words(b'r', 1, b"")[0], 101);
        after.finish();
        server.shut_down();
    }
    done!("both flavours, 101 calls in flight")
}

pub(crate) fn the_last_clone_closes_the_session() -> Ran {
    for (_, runtime) in flavours() {
        let mut server = Server::prepare("react").start();
        let path = server.path().to_owned();
        let client = runtime.block_on(options().connect_async(&path)).expect("connect");
        let other = client.clone();
        let events = client.events();
        let call = client.call_owned(ask(b'e', 1, 0, b""));
        drop((client, other));
        server.wait_for_sessions(1);
        drop(events);
        // A call keeps it open, too.
        runtime.block_on(call).expect("an answer");
        let runtime = runtime;
        // The driver needs to run to say goodbye.
        wait_until("the session is closed", || {
            runtime.block_on(tokio::task::yield_now());
            server.stats().sessions == 0
        });
        server.shut_down();
    }
    done!("both flavours")
}

/// The kind of C8 on the client's side: what nobody takes keeps nobody.
pub(crate) fn c8_a_stopped_server_does_not_keep_a_client_that_nobody_holds() -> Ran {
    for (flavour, runtime) in flavours() {
        let server = Server::prepare("react").start();
        let pid = i32::try_from(server.id()).ok().and_then(Pid::from_raw).expect("a pid");
        let options = options().transport(TransportChoice::Socket);
        let client = runtime.block_on(options.connect_async(server.path())).expect("connect");
        let tasks = || runtime.metrics().num_alive_tasks();
        assert_eq!(tasks(), 1, "{flavour}: the driver");
        kill_process(pid, Signal::STOP).expect("stopped");
        runtime.block_on(async {
            // More than a socket takes, and than is kept for it: one stays in the queue.
            let message = ask(b'L', 0, 0, &[7; 60_000]);
            for _ in 0..100 {
                let sent =
                    tokio::time::timeout(Duration::from_millis(200), client.send_one_way(&message));
                if sent.await.is_err() {
                    break;
                }
            }
        });
        drop(client);
        wait_until("the driver has ended", || {
            runtime.block_on(async { tokio::time::sleep(Duration::from_millis(10)).await });
            tasks() == 0
        });
        kill_process(pid, Signal::CONT).expect("goes on");
        server.shut_down();
    }
    done!("both flavours")
}

pub(crate) fn no_threads_are_left() -> Ran {
    let threads = || std::fs::read_dir("/proc/self/task").expect("proc").count();
    let before = threads();
    let runtime = Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(Duration::from_millis(1))
        .build()
        .expect("a runtime");
    let server = Server::prepare("react").start();
    runtime.block_on(async {
        let client = AsyncClient::connect(server.path()).await.expect("connect");
        // The thread that shook hands ends.
        while threads() > before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        all(crowd(&client, 100, 100, 100)).await;
        assert_eq!(threads(), before);
    });
    server.shut_down();
    done!("{before} threads, before and while 100 tasks call")
}
