//! The client of many tasks, on both flavours of runtime. Every wait is one for the runtime's epoll, without a timer
//! beside it: what is not reported hangs the test, and the watchdog says so.

use futures_core::Stream;
use ringbell::sync::{Ordering, PlainBool, PlainU64};
use ringbell::{AsyncClient, CallError, EventError, EventStream, SendError};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::{Chance, mix};
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::reactor_server::{Asking, ask, item};
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::transport::over_socket;
use ringbell_shm_tests::{busy_for, done, options, scaled, scaled_for, seed, suite, wait_until};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

suite! {
    both: [
        a_thousand_tasks_share_a_session,
        requests_wait_for_room,
        calls_one_after_the_other,
        dropping_a_call_affects_no_other,
        deadlines,
        streams_and_events,
        a_death_ends_all_calls,
        a_shutdown_ends_all_calls,
        a_runtime_is_dropped_with_calls_in_flight,
        the_last_clone_closes_the_session,
        one_way_messages,
        one_way_messages_need_nobody_to_run_behind_them,
    ],
    tests: [
        no_threads_are_left,
        a_stream_of_events_keeps_one_waker,
        requests_need_nobody_to_run_behind_them,
        a_task_that_computes_keeps_no_answer_from_others,
        a_waker_that_panics_keeps_nobody_asleep,
    ],
    roles: [],
}

fn flavours() -> [(&'static str, Runtime); 2] {
    [
        ("one thread", Builder::new_current_thread().enable_all().build().expect("a runtime")),
        (
            "two threads",
            Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime"),
        ),
    ]
}

async fn next<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    poll_fn(|cx| Pin::new(&mut *stream).poll_next(cx)).await
}

/// The answer of `react` to a request with this number and rest.
fn stamped(client: &AsyncClient, number: u64, rest: &[u8]) -> Vec<u8> {
    [&client.session().to_le_bytes()[..], &number.to_le_bytes(), rest].concat()
}

fn bytes(number: u64, longest: u64) -> Vec<u8> {
    let len = usize::try_from(mix(number, 77) % (longest + 1)).expect("small");
    vec![number.to_le_bytes()[0]; len]
}

/// An echo, at once or later and on another thread of the server.
async fn echo(client: &AsyncClient, number: u64, longest: u64) {
    let rest = bytes(number, longest);
    let (verb, delay) = if number.is_multiple_of(7) { (b't', number % 50) } else { (b'e', 0) };
    let answer = client.call(&ask(verb, number, delay, &rest)).await.expect("an answer");
    assert_eq!(answer, stamped(client, number, &rest));
    tick();
}

async fn all(tasks: Vec<tokio::task::JoinHandle<()>>) {
    for task in tasks {
        task.await.expect("a task");
    }
}

fn crowd(client: &AsyncClient, tasks: u64, calls: u64, longest: u64) -> Vec<tokio::task::JoinHandle<()>> {
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

fn a_thousand_tasks_share_a_session() -> Ran {
    let calls = scaled_for(200, 40);
    let mut told = String::new();
    for (flavour, runtime) in flavours() {
        let server = Server::prepare("react").start();
        let counts = runtime.block_on(async {
            let client = options().connect_async(server.path()).await.expect("connect");
            assert_eq!(matches!(client.transport(), ringbell::Transport::Socket { .. }), over_socket());
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

fn requests_wait_for_room() -> Ran {
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

fn calls_one_after_the_other() -> Ran {
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

fn dropping_a_call_affects_no_other() -> Ran {
    let calls = scaled_for(20_000, 5_000);
    let mut told = String::new();
    for (flavour, runtime) in flavours() {
        for ring in [2048, 65536] {
            let server = Server::prepare("react").with("ring_capacity", ring).start();
            let (dropped, late) = runtime.block_on(async {
                let client = options().max_in_flight(64).connect_async(server.path()).await.expect("connect");
                let others = crowd(&client, 20, calls / 40, 3000);
                let mut chance = Chance::new(seed());
                let mut dropped = 0_u64;
                for number in 0..calls / 4 {
                    let number = number + (1 << 40);
                    let rest = bytes(number, 3000);
                    let request = ask(b't', number, chance.below(100), &rest);
                    let mut call = Box::pin(client.call(&request));
                    // Polled so often, in whatever state it is then: not begun, queued, half sent, in flight, answered.
                    let polls = chance.below(4);
                    for poll in 0..=polls {
                        let ready = poll_fn(|cx| std::task::Poll::Ready(call.as_mut().poll(cx))).await;
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

fn deadlines() -> Ran {
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

fn streams_and_events() -> Ran {
    let items = scaled_for(5_000, 5_000);
    for (_, runtime) in flavours() {
        let server = Server::prepare("react").start();
        runtime.block_on(async {
            let options = options().max_events(1 << 20);
            let client = options.connect_async(server.path()).await.expect("connect");
            let rest = [&100_u32.to_le_bytes()[..], &[0]].concat();
            let read = |number: u64, most: u64| {
                let (client, rest) = (client.clone(), rest.clone());
                tokio::spawn(async move {
                    let request = ask(b's', number, items, &rest);
                    let mut stream = client.call_stream(&request).await.expect("a stream");
                    let mut got = 0;
                    while got < most
                        && let Some(found) = next(&mut stream).await
                    {
                        assert_eq!(found.expect("an item"), item(client.session(), number, got, 100));
                        got += 1;
                        tick();
                    }
                    // Those that are not read to their end are dropped.
                    assert_eq!(got, most.min(items));
                })
            };
            let mut tasks: Vec<_> = (1..9).map(|number| read(number, u64::MAX)).collect();
            tasks.extend((9..15).map(|number| read(number, number * items / 20)));
            let pushed = 4 * (items / 100 + 1);
            let events = client.events();
            tasks.push(tokio::spawn(async move {
                let mut events = events;
                for _ in 0..pushed {
                    next(&mut events).await.expect("more").expect("an event");
                    tick();
                }
            }));
            let pushing = client.call_owned(ask(b'v', 100, items / 100 + 1, &[4]));
            tasks.extend(crowd(&client, 20, 50, 100));
            pushing.await.expect("an answer");
            all(tasks).await;
            echo(&client, 12345, 10).await;
            assert_eq!(client.in_flight(), 0);
        });
        server.shut_down();
    }
    done!("14 streams of {items} items, events, and calls beside them")
}

async fn in_flight(
    client: &AsyncClient,
    count: usize,
) -> Vec<tokio::task::JoinHandle<Result<Vec<u8>, CallError>>> {
    let calls: Vec<_> =
        (0..count).map(|number| tokio::spawn(client.call_owned(ask(b'h', number as u64, 1, b"")))).collect();
    while client.in_flight() < count {
        tokio::task::yield_now().await;
    }
    calls
}

fn a_death_ends_all_calls() -> Ran {
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
                    rustix::process::kill_process(pid.expect("a pid"), rustix::process::Signal::KILL)
                });
                for call in calls {
                    let answer = call.await.expect("a task");
                    assert_eq!(answer, Err(CallError::Disconnected { maybe_executed: true }));
                }
                assert_eq!(waiting.await.expect("a task"), Some(Err(EventError::Disconnected)));
                killer.join().expect("a thread").expect("kill");
                assert_eq!(client.call(b"e").await, Err(CallError::Disconnected { maybe_executed: false }));
                assert_eq!(client.send_one_way(b"e").await, Err(SendError::Disconnected));
            });
            server.process().is_killed();
        }
    }
    done!("{rounds} deaths for each flavour")
}

fn a_shutdown_ends_all_calls() -> Ran {
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

fn a_runtime_is_dropped_with_calls_in_flight() -> Ran {
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
        assert_eq!(other.join().expect("a thread"), Err(CallError::Disconnected { maybe_executed: true }));
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

fn the_last_clone_closes_the_session() -> Ran {
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

fn one_way_messages() -> Ran {
    let messages = scaled_for(50_000, 10_000);
    for (_, runtime) in flavours() {
        let server = Server::prepare("react").with("ring_capacity", 2048).start();
        runtime.block_on(async {
            let client = options().connect_async(server.path()).await.expect("connect");
            for number in 0..messages {
                client.send_one_way(&ask(b'L', number, 0, b"")).await.expect("send");
                tick();
            }
            // What was sent before is executed before.
            let notes = client.call(&ask(b'q', messages, 0, b"")).await.expect("an answer");
            let noted =
                notes[16..].chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("8")));
            assert!(noted.eq(0..messages), "they are executed in order");
        });
        server.shut_down();
    }
    done!("{messages} messages")
}

/// Whoever sends one is done with it: nobody need run for it to arrive, not even the driver.
fn one_way_messages_need_nobody_to_run_behind_them() -> Ran {
    for (_, runtime) in flavours() {
        let mut server = Server::prepare("react").start();
        let client = runtime.block_on(options().connect_async(server.path())).expect("connect");
        for number in 0..3 {
            runtime.block_on(async {
                for half in 0..2 {
                    client.send_one_way(&ask(b'L', 2 * number + half, 0, b"")).await.expect("send");
                }
            });
            wait_until("both messages are there", || server.stats().requests == 2 * number + 2);
            // It falls asleep again.
            let parks = server.stats().parks;
            wait_until("the server sleeps", || server.stats().parks > parks || number == 2);
        }
        drop(client);
        runtime.block_on(tokio::task::yield_now());
        server.shut_down();
    }
    done!("both flavours")
}

/// Over rings a request is on its way once it was polled, whatever its task does then.
fn requests_need_nobody_to_run_behind_them() -> Ran {
    let rounds = scaled(60).max(10);
    for (_, runtime) in flavours() {
        // It sleeps after each request.
        let mut server = Server::prepare("react").with("wait", "park").start();
        let client = runtime.block_on(options().connect_async(server.path())).expect("connect");
        for round in 0..rounds {
            runtime.block_on(async {
                let requests = [0, 1, 2, 3, 4, 5].map(|number| ask(b'e', 6 * round + number, 0, b""));
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
        assert_eq!(server.shut_down().backstop_rescues, 0, "nothing lay there until somebody looked");
    }
    done!("{rounds} times six requests")
}

/// A task that goes on without awaiting anything, behind an answer that it got, holds up nobody on another worker.
fn a_task_that_computes_keeps_no_answer_from_others() -> Ran {
    let rounds = scaled(100).max(20);
    let runtime = Builder::new_multi_thread().worker_threads(3).enable_all().build().expect("a runtime");
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

fn a_waker_that_panics_keeps_nobody_asleep() -> Ran {
    let server = Server::prepare("react").start();
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = options().connect_async(server.path()).await.expect("connect");
        // Of each kind one that is answered, and one that learns of the end.
        let good: Vec<Arc<Bell>> = (0..2).map(|_| Arc::default()).collect();
        let faulty = || Waker::from(Arc::new(Faulty));
        let wakers = [faulty(), Waker::from(good[0].clone()), faulty(), Waker::from(good[1].clone())];
        let mut calls: Vec<_> = (0..4)
            .map(|number| Box::pin(client.call_owned(ask(b'h', number, 1 + number / 2, b""))))
            .collect();
        for (call, waker) in calls.iter_mut().zip(&wakers) {
            assert!(call.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
        }
        // The first ends the driver, and with it the session; but everybody is told.
        let released = client.call_owned(ask(b'r', 9, 1, b"")).await;
        assert!(matches!(released, Ok(_) | Err(CallError::Disconnected { .. })), "{released:?}");
        while good.iter().any(|bell| bell.0.load(Ordering::SeqCst) == 0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for call in calls {
            let answer = call.await;
            assert!(matches!(answer, Ok(_) | Err(CallError::Disconnected { .. })), "{answer:?}");
        }
    });
    server.shut_down();
    done!("two others were woken")
}

fn no_threads_are_left() -> Ran {
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

/// Counts how often it wakes.
#[derive(Default)]
struct Bell(PlainU64);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn a_stream_of_events_keeps_one_waker() -> Ran {
    let polls = 1000;
    let server = Server::prepare("react").start();
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = options().connect_async(server.path()).await.expect("connect");
        let mut streams = [client.events(), client.events()];
        let poll = |stream: &mut EventStream, bell: &Arc<Bell>| {
            let waker = Waker::from(bell.clone());
            Pin::new(stream).poll_next(&mut Context::from_waker(&waker))
        };
        // Each poll by another task, as in a `select!` of which the stream is a part.
        let bells: Vec<Arc<Bell>> = (0..polls).map(|_| Arc::default()).collect();
        for (number, bell) in bells.iter().enumerate() {
            assert!(poll(&mut streams[number % 2], bell).is_pending());
        }
        let kept = bells.iter().filter(|bell| Arc::strong_count(bell) > 1).count();
        assert_eq!(kept, 2, "the last one of each stream");
        // Which are woken, and no others.
        client.call_owned(ask(b'v', 1, 1, &[4])).await.expect("an answer");
        wait_until("both are woken", || {
            bells[polls - 2..].iter().all(|bell| bell.0.load(Ordering::SeqCst) > 0)
        });
        assert!(bells[..polls - 2].iter().all(|bell| bell.0.load(Ordering::SeqCst) == 0));
        let last = Arc::<Bell>::default();
        let [mut one, other] = streams;
        while poll(&mut one, &last).is_ready() {}
        drop(one);
        assert_eq!(Arc::strong_count(&last), 1, "a stream that is gone keeps nothing");
        drop(other);
    });
    server.shut_down();
    done!("{polls} polls of 2 streams")
}
