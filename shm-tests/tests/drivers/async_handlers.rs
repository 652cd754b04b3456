//! Handlers that are futures: their answers, their ends, and their streams.

use crate::here::{Here, block_on, next, read};
use ringbell::{CallError, EventError};
use ringbell_shm_tests::driver::runtime_of_two;
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::mix;
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::reactor_requests::{ask, item};
use ringbell_shm_tests::{done, options, scaled_for, seed, wait_until};
use std::time::Duration;

pub(crate) fn handlers_answer_in_any_order() -> Ran {
    let calls = scaled_for(20_000, 10_000).max(2000);
    let mut told = String::new();
    Here::each(|flavour, here| {
        let (overtaken, inline) = block_on(async {
            let client = here.client().await;
            let (told, mut order) = tokio::sync::mpsc::unbounded_channel();
            for task in 0..500 {
                let (client, told) = (client.clone(), told.clone());
                tokio::spawn(async move {
                    for call in 0..calls / 500 {
                        let number = task * calls + call;
                        let (verb, n) = match mix(seed(), number) % 8 {
                            0 => (b'z', number % 3000),
                            1..4 => (b'y', number % 10),
                            _ => (b'e', 0),
                        };
                        let request = ask(verb, number, n, b"rest");
                        assert_eq!(client.call(&request).await.expect("an answer"), request);
                        let _ = told.send(number);
                    }
                });
            }
            drop(told);
            let (mut done, mut overtaken, mut last) = (0, 0, 0);
            while let Some(number) = order.recv().await {
                tick();
                done += 1;
                overtaken += u64::from(number < last);
                last = number;
            }
            assert_eq!(done, calls / 500 * 500);
            (overtaken, client.in_flight())
        });
        assert_eq!(inline, 0);
        let stats = here.stop(Duration::from_secs(20));
        assert_eq!(stats.requests, calls / 500 * 500);
        assert!(overtaken > 0, "all came in order");
        told += &format!("; {flavour}: {} at once, {} later", stats.inline, stats.dispatched);
    });
    done!("{calls} calls of 500 tasks each{told}")
}

pub(crate) fn handlers_whose_answer_nobody_wants_are_dropped() -> Ran {
    let calls = 200;
    Here::each(|_, here| {
        let dropped = |count: u64| {
            wait_until("the handlers are dropped", || read(&here.counts.dropped) == count);
            tick();
        };
        let begun =
            |count: u64| wait_until("they are handled", || read(&here.counts.begun) == count);
        let runtime = runtime_of_two();
        let client = runtime.block_on(here.client());
        let start = |from: u64, timeout| {
            let spawn = |number| {
                let client = client.clone();
                runtime.spawn(async move {
                    client.call_timeout(&ask(b'n', number, 0, b""), timeout).await
                })
            };
            (from..from + calls).map(spawn).collect::<Vec<_>>()
        };
        // The caller drops the call.
        let tasks = start(0, None);
        begun(calls);
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
        dropped(calls);
        // It has a deadline.
        for task in start(calls, Some(Duration::from_millis(20))) {
            let outcome = runtime.block_on(task).expect("a task");
            assert!(matches!(outcome, Err(CallError::TimedOut { .. })), "{outcome:?}");
        }
        // Who was too late to begin with was not handled at all: all are read before this one.
        runtime.block_on(client.call(&ask(b'e', 0, 0, b""))).expect("an answer");
        wait_until("all are over", || {
            read(&here.counts.begun) == read(&here.counts.dropped) + read(&here.counts.finished)
        });
        let (before, was_dropped) = (read(&here.counts.begun), read(&here.counts.dropped));
        assert!(before > calls + 1, "none was begun in time");
        // The client goes. What it wants no answer to is not dropped.
        runtime.block_on(client.send_one_way(&ask(b'z', 0, 50_000, b""))).expect("send");
        let tasks = start(2 * calls, None);
        begun(before + 1 + calls);
        drop(tasks);
        drop(client);
        runtime.shutdown_background();
        dropped(was_dropped + calls);
        wait_until("the session is closed", || read(&here.counts.closed) == 1);
        let stats = here.stop(Duration::from_secs(20));
        assert_eq!((stats.in_flight, stats.peer_faults), (0, 0));
    });
    done!("{calls} handlers that are cancelled, too late, and left, each")
}

pub(crate) fn streams_wait_for_their_client() -> Ran {
    let items = scaled_for(5000, 3000);
    Here::each(|_, here| {
        block_on(async {
            let client = here.client().await;
            let mut idle = client.call_stream(&ask(b's', 1, items, b"")).await.expect("a stream");
            let mut tasks = Vec::new();
            for number in 2..8 {
                let client = client.clone();
                tasks.push(tokio::spawn(async move {
                    let mut stream =
                        client.call_stream(&ask(b's', number, items, b"")).await.expect("a stream");
                    let mut got = 0;
                    // Every second one is dropped before its end.
                    while got < items / (1 + number % 2)
                        && let Some(found) = next(&mut stream).await
                    {
                        assert_eq!(
                            found.expect("an item"),
                            item(client.session(), number, got, 100)
                        );
                        got += 1;
                        tick();
                    }
                }));
            }
            for task in tasks {
                task.await.expect("a task");
            }
            // Nobody has taken anything of the first: what may be sent ahead is bounded.
            let mut got = 0;
            while let Some(found) = next(&mut idle).await {
                assert_eq!(found.expect("an item"), item(client.session(), 1, got, 100));
                got += 1;
            }
            assert_eq!(got, items);
        });
        let sent = read(&here.counts.sent);
        here.stop(Duration::from_secs(20));
        // Three were read to their end, as was the first; three only by half.
        assert!(sent < 4 * items + 3 * (items / 2 + 200), "{sent} items were sent, wanted or not");
    });
    done!("7 streams of {items} items each")
}

pub(crate) fn events_are_pushed() -> Ran {
    let events = scaled_for(20_000, 10_000);
    Here::each(|_, here| {
        block_on(async {
            let client =
                options().max_events(1 << 20).connect_async(&here.path).await.expect("connect");
            let mut pushed = client.events();
            let call = tokio::spawn(client.call_owned(ask(b'v', 1, events, b"")));
            for index in 0..events {
                let event = next(&mut pushed).await.expect("more").expect("an event");
                assert_eq!(event, index.to_le_bytes());
                tick();
            }
            call.await.expect("a task").expect("an answer");
        });
        here.stop(Duration::from_secs(20));
    });
    done!("{events} events each")
}

pub(crate) fn handlers_fail() -> Ran {
    Here::each(|_, here| {
        block_on(async {
            let client = here.client().await;
            let code = async |verb| match client.call(&ask(verb, 1, 0, b"")).await {
                Err(CallError::Remote(error)) => error.code,
                other => panic!("{other:?}"),
            };
            use ringbell::layout::code;
            assert_eq!(code(b'x').await, code::APPLICATION + 7);
            assert_eq!(code(b'p').await, code::PANICKED);
            assert_eq!(code(b'd').await, code::DROPPED);
            let request = ask(b'e', 1, 0, b"it goes on");
            assert_eq!(client.call(&request).await.expect("an answer"), request);
        });
        assert_eq!(here.stop(Duration::from_secs(20)).panics, 1);
    });
    done!("errors, panics, and no answer at all")
}

pub(crate) fn shutdown_waits_for_handlers() -> Ran {
    Here::each(|_, here| {
        let runtime = runtime_of_two();
        let client = runtime.block_on(here.client());
        let mut events = client.events();
        let calls: Vec<_> = (0..100)
            .map(|n| runtime.spawn(client.call_owned(ask(b'z', n, 20_000 + n, b""))))
            .collect();
        wait_until("they are handled", || read(&here.counts.begun) == 100);
        let counts = here.counts.clone();
        let stats = here.stop(Duration::from_secs(20));
        for call in calls {
            runtime.block_on(call).expect("a task").expect("an answer");
        }
        assert_eq!((stats.requests, read(&counts.dropped)), (100, 0));
        assert_eq!(runtime.block_on(next(&mut events)), Some(Err(EventError::ShutDown)));
    });
    // Those that do not end are dropped.
    Here::each(|_, here| {
        let runtime = runtime_of_two();
        let client = runtime.block_on(here.client());
        let calls: Vec<_> =
            (0..100).map(|n| runtime.spawn(client.call_owned(ask(b'n', n, 0, b"")))).collect();
        wait_until("they are handled", || read(&here.counts.begun) == 100);
        let counts = here.counts.clone();
        here.stop(Duration::from_millis(20));
        for call in calls {
            let outcome = runtime.block_on(call).expect("a task");
            assert_eq!(outcome, Err(CallError::ShutDown { maybe_executed: true }));
        }
        assert_eq!(read(&counts.dropped), 100);
    });
    done!("100 handlers that end, and 100 that do not")
}

pub(crate) fn a_runtime_is_dropped_with_requests_in_flight() -> Ran {
    Here::each(|_, here| {
        let runtime = runtime_of_two();
        let client = runtime.block_on(here.client());
        let calls: Vec<_> =
            (0..100).map(|n| runtime.spawn(client.call_owned(ask(b'n', n, 0, b"")))).collect();
        wait_until("they are handled", || read(&here.counts.begun) == 100);
        let Here { thread, cut_off, counts, path, handle, .. } = here;
        cut_off.send(()).expect("it serves");
        assert!(thread.join().expect("a thread").is_none(), "it ended before");
        for call in calls {
            // Who is dropped first is the runtime's choice: the handler, or the server.
            match runtime.block_on(call).expect("a task") {
                Err(CallError::Disconnected { maybe_executed: true }) => {}
                Err(CallError::Remote(error)) if error.code == ringbell::layout::code::DROPPED => {}
                other => panic!("{other:?}"),
            }
        }
        wait_until("the handlers are dropped", || read(&counts.dropped) == 100);
        wait_until("its socket is gone", || !path.exists());
        // To nobody.
        handle.shutdown(None);
    });
    done!("100 requests in flight each")
}
