//! Wakers are code of others: they use the client, or panic, when they are cloned, woken or
//! dropped.

#![allow(unsafe_code, reason = "only a table of one's own tells when a waker is cloned")]

use crate::streams::Bell;
use futures_core::Stream;
use ringbell::AsyncClient;
use ringbell::sync::{Ordering, PlainU64};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::reactor_requests::{ask, words};
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::{done, options};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Wake, Waker};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Uses its client whenever it is cloned, woken or dropped, as the waker of a task does that holds
/// one: with the last waker of a task that was dropped its calls go.
struct Using {
    client: AsyncClient,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    clones: PlainU64,
    wakes: PlainU64,
    drops: PlainU64,
}

static USING: RawWakerVTable =
    RawWakerVTable::new(Using::cloned, Using::woken, Using::woken_by_ref, Using::dropped);

impl Using {
    fn waker(client: &AsyncClient, counts: &Arc<Counts>) -> Waker {
        let this = Arc::new(Self { client: client.clone(), counts: counts.clone() });
        // SAFETY: the pointer is an `Arc` of a type that threads may share; each function of the
        // table takes it for one count of that, and those that consume a waker give one back.
        unsafe { Waker::from_raw(RawWaker::new(Arc::into_raw(this).cast(), &USING)) }
    }

    /// The count of a waker, which the waker keeps.
    fn of<'a>(this: *const ()) -> &'a Self {
        // SAFETY: called for wakers that exist, hence while there is a count; the reference is gone
        // before the function of the table returns.
        unsafe { &*this.cast::<Self>() }
    }

    fn use_it(&self, count: &PlainU64) {
        let _ = self.client.in_flight();
        count.fetch_add(1, Ordering::SeqCst);
    }

    fn cloned(this: *const ()) -> RawWaker {
        let using = Self::of(this);
        using.use_it(&using.counts.clones);
        // SAFETY: it came from `Arc::into_raw`, and the waker that is cloned holds a count.
        unsafe { Arc::increment_strong_count(this.cast::<Self>()) };
        RawWaker::new(this, &USING)
    }

    fn woken(this: *const ()) {
        Self::woken_by_ref(this);
        Self::dropped(this);
    }

    fn woken_by_ref(this: *const ()) {
        let using = Self::of(this);
        using.use_it(&using.counts.wakes);
    }

    fn dropped(this: *const ()) {
        let using = Self::of(this);
        using.use_it(&using.counts.drops);
        // SAFETY: it came from `Arc::into_raw`, and the count is that of the waker that goes.
        drop(unsafe { Arc::from_raw(this.cast::<Self>()) });
    }
}

/// A deadlock hangs the test, and the watchdog says so.
pub(crate) fn a_waker_that_uses_the_client_stops_nobody() -> Ran {
    let server = Server::prepare("react").start();
    let counts = Arc::new(Counts::default());
    one_thread().block_on(async {
        let other = options().connect_async(server.path()).await.expect("connect");
        let one_call = options().max_in_flight(1);
        let client = one_call.connect_async(server.path()).await.expect("connect");
        // By two tasks one after the other: the second takes the place of the first.
        let poll_twice = |polled: &mut dyn FnMut(&mut Context<'_>) -> bool| {
            for _ in 0..2 {
                let waker = Using::waker(&client, &counts);
                assert!(polled(&mut Context::from_waker(&waker)), "nothing has come");
            }
        };
        let held = |number| ask(b'h', number, number, b"");
        let mut call = pin!(client.call_owned(held(1)));
        poll_twice(&mut |cx| call.as_mut().poll(cx).is_pending());
        // These wait for room.
        let mut queued = pin!(client.call_owned(held(2)));
        poll_twice(&mut |cx| queued.as_mut().poll(cx).is_pending());
        let request = held(3);
        let mut opening = pin!(client.call_stream(&request));
        poll_twice(&mut |cx| opening.as_mut().poll(cx).is_pending());
        {
            let mut leaves = pin!(client.call_owned(held(4)));
            poll_twice(&mut |cx| leaves.as_mut().poll(cx).is_pending());
        }
        let mut events = client.events();
        poll_twice(&mut |cx| Pin::new(&mut events).poll_next(cx).is_pending());
        drop(events);
        // Once the request is there: sessions are served in no order.
        let answer = |number| {
            let other = &other;
            async move {
                let release = || other.call_owned(ask(b'r', 9, number, b""));
                while words(&release().await.expect("an answer"))[2] == 0 {}
            }
        };
        let woken = |times| {
            let wakes = &counts.wakes;
            async move {
                while wakes.load(Ordering::SeqCst) < times {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        };
        // Answered: its task is woken, and that which waits for room.
        answer(1).await;
        woken(2).await;
        call.await.expect("an answer");
        poll_twice(&mut |cx| queued.as_mut().poll(cx).is_pending());
        answer(2).await;
        woken(4).await;
        queued.await.expect("an answer");
        let mut items = opening.await.expect("opened");
        poll_twice(&mut |cx| Pin::new(&mut items).poll_next(cx).is_pending());
        drop(items);
        // It leaves without an answer.
        let mut dropped = Box::pin(client.call_owned(held(5)));
        poll_twice(&mut |cx| dropped.as_mut().poll(cx).is_pending());
        drop(dropped);
    });
    server.shut_down();
    let [clones, wakes, drops] =
        [&counts.clones, &counts.wakes, &counts.drops].map(|count| count.load(Ordering::SeqCst));
    assert!(clones >= 14 && drops >= 14, "{clones} clones, {drops} drops");
    done!("calls, room, items and events: {clones} clones, {wakes} wakes, {drops} drops")
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
    one_thread().block_on(async {
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
    one_thread().block_on(async {
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
