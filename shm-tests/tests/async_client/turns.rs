//! Requests are sent and answers are delivered whichever task runs, or computes, or panics.

use crate::{echo, flavours};
use ringbell::sync::{Ordering, PlainBool};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::reactor_requests::ask;
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::{busy_for, done, options, scaled, wait_until};
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::runtime::Builder;

/// Over rings a request is on its way once it was polled, whatever its task does then.
pub(crate) fn requests_need_nobody_to_run_behind_them() -> Ran {
    let rounds = scaled(60).max(10);
    for (_, runtime) in flavours() {
        // It sleeps after each request.
        let mut server = Server::prepare("react").with("wait", "park").start();
        let client = runtime.block_on(options().connect_async(server.path())).expect("connect");
        for round in 0..rounds {
            runtime.block_on(async {
                let requests =
                    [0, 1, 2, 3, 4, 5].map(|number| ask(b'e', 6 * round + number, 0, b""));
                let mut waiting = Vec::new();
                for request in &requests {
                    let mut call = Box::pin(client.call(request));
                    match poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await {
                        Poll::Ready(answer) => drop(answer.expect("an answer")),
                        Poll::Pending => waiting.push(call),
                    }
                    // The server falls asleep, or is about to.
                    busy_for(Duration::from_micros(2 + round % 8));
                }
                wait_until("all are there", || server.stats().requests == 6 * round + 6);
                for call in waiting {
                    call.await.expect("an answer");
                }
            });
            tick();
        }
        drop(client);
        runtime.block_on(tokio::task::yield_now());
        assert_eq!(
            server.shut_down().backstop_rescues,
            0,
            "nothing lay there until somebody looked"
        );
    }
    done!("{rounds} times six requests")
}

/// A task that goes on without awaiting anything, behind an answer that it got, holds up nobody on
/// another worker.
pub(crate) fn a_task_that_computes_keeps_no_answer_from_others() -> Ran {
    let rounds = scaled(100).max(20);
    let runtime =
        Builder::new_multi_thread().worker_threads(3).enable_all().build().expect("a runtime");
    let server = Server::prepare("react").start();
    runtime.block_on(async {
        let client = options().connect_async(server.path()).await.expect("connect");
        for round in 0..rounds {
            let (told, answered) = std::sync::mpsc::channel();
            // Not a channel: whom the computing task wakes its own worker runs next.
            let computes = Arc::new(PlainBool::new(false));
            let computing = {
                let (client, computes) = (client.clone(), computes.clone());
                tokio::spawn(async move {
                    // Until it got an answer while it looked out for it.
                    let paid = || client.stats().spins_paid;
                    for number in 0..10_000 {
                        let before = paid();
                        echo(&client, number, 10).await;
                        if paid() > before {
                            break;
                        }
                    }
                    computes.store(true, Ordering::SeqCst);
                    answered
                        .recv_timeout(Duration::from_secs(20))
                        .expect("the other task is answered meanwhile");
                })
            };
            let calling = {
                let client = client.clone();
                tokio::spawn(async move {
                    while !computes.load(Ordering::SeqCst) {
                        tokio::time::sleep(Duration::from_micros(100)).await;
                    }
                    // Nobody answers while it looks out.
                    client.call_owned(ask(b't', round, 2_000, b"")).await.expect("an answer");
                    told.send(()).expect("it waits");
                })
            };
            calling.await.expect("a task");
            computing.await.expect("a task");
            tick();
        }
    });
    let stats = server.shut_down();
    done!("{rounds} tasks that block their worker, after {} calls", stats.requests)
}
