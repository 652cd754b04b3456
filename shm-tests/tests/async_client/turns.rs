//! Requests are sent and answers are delivered whichever task runs, or computes, or panics.

use crate::streams::Bell;
use crate::{echo, flavours};
use futures_core::Stream;
use ringbell::AsyncClient;
use ringbell::sync::{Ordering, PlainBool};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::reactor_requests::ask;
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::{busy_for, done, options, scaled, wait_until};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
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

/// A waker that has somebody else's bug.
struct Faulty;

impl Wake for Faulty {
    fn wake(self: Arc<Self>) {
        // Not a word of it where others look for failures.
        std::panic::resume_unwind(Box::new("a waker's own fault"));
    }
}

pub(crate) fn a_waker_that_panics_keeps_nobody_asleep() -> Ran {
    let server = Server::prepare("react").start();
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = options().connect_async(server.path()).await.expect("connect");
        // Of each kind one that is answered, and one that learns of the end.
        let good: Vec<Arc<Bell>> = (0..2).map(|_| Arc::default()).collect();
        let faulty = || Waker::from(Arc::new(Faulty));
        let wakers =
            [faulty(), Waker::from(good[0].clone()), faulty(), Waker::from(good[1].clone())];
        let mut calls: Vec<_> = (0..4)
            .map(|number| Box::pin(client.call_owned(ask(b'h', number, 1 + number / 2, b""))))
            .collect();
        for (call, waker) in calls.iter_mut().zip(&wakers) {
            assert!(call.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
        }
        // Everybody is told, and neither the driver nor this task ends with a fault of others.
        client.call_owned(ask(b'r', 9, 1, b"")).await.expect("an answer");
        client.call_owned(ask(b'r', 9, 2, b"")).await.expect("an answer");
        while good.iter().any(|bell| bell.0.load(Ordering::SeqCst) == 0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for call in calls {
            call.await.expect("an answer");
        }
    });
    server.shut_down();
    done!("two others were woken")
}

/// A waker that is the last to hold something that uses the client, as that of a task that was
/// dropped with its calls.
struct Holding(AsyncClient);

impl Wake for Holding {
    fn wake(self: Arc<Self>) {}
}

impl Drop for Holding {
    fn drop(&mut self) {
        let _ = self.0.in_flight();
    }
}

pub(crate) fn a_waker_that_uses_the_client_when_it_goes_stops_nobody() -> Ran {
    let server = Server::prepare("react").start();
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = options().connect_async(server.path()).await.expect("connect");
        let poll_once = |polled: &mut dyn FnMut(&mut Context<'_>) -> bool| {
            let waker = Waker::from(Arc::new(Holding(client.clone())));
            assert!(polled(&mut Context::from_waker(&waker)), "nothing has come");
        };
        let call = || Box::pin(client.call_owned(ask(b'h', 1, 1, b"")));
        // It is replaced by another one.
        let mut replaced = call();
        for _ in 0..2 {
            poll_once(&mut |cx| replaced.as_mut().poll(cx).is_pending());
        }
        // It goes with its call.
        let mut dropped = call();
        poll_once(&mut |cx| dropped.as_mut().poll(cx).is_pending());
        drop(dropped);
        // The same for items and events.
        let mut items = client.call_stream(&ask(b'h', 2, 1, b"")).await.expect("opened");
        let mut events = client.events();
        for _ in 0..2 {
            poll_once(&mut |cx| Pin::new(&mut items).poll_next(cx).is_pending());
            poll_once(&mut |cx| Pin::new(&mut events).poll_next(cx).is_pending());
        }
        drop((items, events));
        client.call_owned(ask(b'r', 9, 1, b"")).await.expect("an answer");
        replaced.await.expect("an answer");
    });
    server.shut_down();
    done!("calls, items and events")
}

/// A waker whose last clone panics when it goes.
struct Falling;

impl Wake for Falling {
    fn wake(self: Arc<Self>) {}
}

impl Drop for Falling {
    fn drop(&mut self) {
        // Not a word of it where others look for failures.
        std::panic::resume_unwind(Box::new("a waker's own fault"));
    }
}

pub(crate) fn a_waker_that_panics_when_it_goes_stops_nobody() -> Ran {
    let server = Server::prepare("react").start();
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = options().connect_async(server.path()).await.expect("connect");
        let poll_once = |polled: &mut dyn FnMut(&mut Context<'_>) -> bool| {
            let waker = Waker::from(Arc::new(Falling));
            assert!(polled(&mut Context::from_waker(&waker)), "nothing has come");
            // This one is not the last.
            drop(waker);
        };
        let call = || Box::pin(client.call_owned(ask(b'h', 1, 1, b"")));
        // It goes with its call.
        let mut dropped = call();
        poll_once(&mut |cx| dropped.as_mut().poll(cx).is_pending());
        drop(dropped);
        // It is replaced.
        let mut replaced = call();
        poll_once(&mut |cx| replaced.as_mut().poll(cx).is_pending());
        let polled = poll_fn(|cx| Poll::Ready(replaced.as_mut().poll(cx).is_pending()));
        assert!(polled.await, "nothing has come");
        // It goes with its stream.
        let mut events = client.events();
        poll_once(&mut |cx| Pin::new(&mut events).poll_next(cx).is_pending());
        drop(events);
        client.call_owned(ask(b'r', 9, 1, b"")).await.expect("an answer");
        replaced.await.expect("an answer");
    });
    server.shut_down();
    done!("calls and events")
}
