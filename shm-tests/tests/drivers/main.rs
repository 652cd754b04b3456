//! Servers without a thread of their own: in an epoll loop, and in tasks of tokio, with async handlers. No wait in them
//! has a timeout: what the one descriptor does not tell hangs the test, and the watchdog says so.

use futures_core::Stream;
use ringbell::sync::{Ordering, PlainU64};
use ringbell::{
    AsyncClient, AsyncService, CallError, EventError, HandlerError, Inline, OwnedRequest, Responder,
    ServeError, Session, StreamError,
};
use ringbell_shm_tests::driver::{Driver, runtime_of_one, runtime_of_two};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::{Chance, mix};
use ringbell_shm_tests::process::{Arguments, Start, hear, say};
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::reactor_server::{Asking, StreamEnd, ask, item, stream_of, words};
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::{busy_for, done, observe, options, scaled, scaled_for, seed, suite, wait_until};
use std::future::{Future, poll_fn};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::runtime::Runtime;

#[path = "../../../examples/embedded.rs"]
mod embedded;

suite! {
    both: [
        many_clients_at_once,
        both_sides_asleep_again_and_again,
        deaths_are_seen,
        sessions_come_and_go,
        who_does_not_read_is_disconnected,
        a_server_sleeps_while_nothing_comes,
        shutdown_drains,
        handlers_answer_in_any_order,
        handlers_whose_answer_nobody_wants_are_dropped,
        streams_wait_for_their_client,
        events_are_pushed,
        handlers_fail,
        shutdown_waits_for_handlers,
        a_runtime_is_dropped_with_requests_in_flight,
        the_example_serves_in_its_loop,
    ],
    tests: [a_handshake_that_does_not_end, there_are_no_threads],
    roles: [asks_and_waits, serves_in_its_loop],
}

fn reacting(driver: Driver) -> Server {
    Server::prepare("react").with("driver", driver.name()).start()
}

fn connect(server: &Server) -> Asking {
    Asking::connect(server.path(), options())
}

/// Runs a test with each driver.
fn each(mut test: impl FnMut(Driver)) {
    for driver in Driver::WITHOUT_THREAD {
        test(driver);
        tick();
    }
}

// -- Servers of the usual kind, driven otherwise.

fn many_clients_at_once() -> Ran {
    let calls = scaled_for(20_000, 5_000);
    let mut told = String::new();
    each(|driver| {
        let server = reacting(driver);
        let path = server.path();
        std::thread::scope(|scope| {
            for client in 0..4 {
                scope.spawn(move || {
                    let mut client = (Asking::connect(path, options()), Chance::new(seed() + client));
                    for call in 0..calls / 4 {
                        one_of_many(&mut client.0, &mut client.1, call);
                    }
                    client.0.finish();
                });
            }
        });
        let stats = server.shut_down();
        assert_eq!((stats.accepted, stats.peer_faults, stats.sessions), (4, 0, 0));
        told += &format!("; {}: slept {}, called off {}", driver.name(), stats.parks, stats.arms_called_off);
    });
    done!("{calls} calls of 4 clients each{told}")
}

/// A call, several in flight, a stream, or nothing for a while.
fn one_of_many(client: &mut Asking, chance: &mut Chance, call: u64) {
    tick();
    match chance.below(40) {
        0 => {
            for _ in 0..chance.below(30) {
                client.send(b't', chance.below(100), b"later", None).expect("send");
            }
            client.recv_all();
        }
        1 => {
            let items = chance.below(200);
            let request = client.request(b's', items, &stream_of(300, StreamEnd::Good));
            let number = client.next_number() - 1;
            let stream = client.client().open_stream(&request, None).expect("a stream");
            assert_eq!(client.read_stream(stream, number, 300).expect("its end"), items);
        }
        2 => client.echoes(b'e', 0, &vec![7; usize::try_from(chance.below(200_000)).expect("small")]),
        3 => busy_for(Duration::from_micros(chance.below(200))),
        4 if call.is_multiple_of(10) => std::thread::sleep(Duration::from_micros(chance.below(3000))),
        _ => client.echoes(b'e', 0, b"at once"),
    }
}

fn both_sides_asleep_again_and_again() -> Ran {
    let calls = scaled_for(4000, 2000).max(300);
    let mut told = String::new();
    each(|driver| {
        let server = reacting(driver);
        let mut client = connect(&server);
        for call in 0..calls {
            // Around the time at which the server falls asleep.
            busy_for(Duration::from_nanos(mix(seed(), call) % 120_000));
            client.echoes(b'e', 0, b"again");
            tick();
        }
        client.finish();
        let stats = server.shut_down();
        told += &format!("; {}: slept {}, called off {}", driver.name(), stats.parks, stats.arms_called_off);
    });
    done!("{calls} calls each{told}")
}

/// A client that has calls in flight until it is killed.
fn asks_and_waits(arguments: &Arguments) {
    let mut client = Asking::connect(Path::new(arguments.text("path")), options());
    for _ in 0..arguments.number("calls") {
        client.send(b'h', 1, b"", None).expect("send");
    }
    client.echoes(b'e', 0, b"read so far");
    say("waiting");
    let _ = hear();
}

fn deaths_are_seen() -> Ran {
    let rounds = scaled(10).max(3);
    each(|driver| {
        let mut server = reacting(driver);
        for round in 0..rounds {
            let mut client = Start::role("asks_and_waits")
                .with("path", server.path().display())
                .with("calls", round % 3)
                .start();
            client.expect("waiting");
            server.wait_for_sessions(1);
            client.kill();
            server.wait_for_sessions(0);
        }
        let mut after = connect(&server);
        after.words(b'r', 1, b"");
        after.finish();
        server.wait_for_sessions(0);
        assert_eq!(server.shut_down().hung_up, rounds + 1);
    });
    done!("{rounds} deaths each")
}

fn sessions_come_and_go() -> Ran {
    let rounds = scaled(200).max(20);
    each(|driver| {
        let mut server = reacting(driver);
        connect(&server).finish();
        server.wait_for_sessions(0);
        let before = observe::descriptors(server.id());
        for _ in 0..rounds {
            let mut client = connect(&server);
            client.echoes(b'e', 0, b"once");
            client.finish();
            tick();
        }
        server.wait_for_sessions(0);
        wait_until("no descriptor is left", || observe::descriptors(server.id()) <= before + observe::SPARE);
        let stats = server.shut_down();
        assert_eq!(stats.accepted, rounds + 1);
    });
    done!("{rounds} sessions each")
}

fn who_does_not_read_is_disconnected() -> Ran {
    each(|driver| {
        let mut server = Server::prepare("react")
            .with("driver", driver.name())
            .with("ring_capacity", 2048)
            .with("slow_client_ms", 50)
            .start();
        let mut client = connect(&server);
        let mut sent = 0;
        // Until its own ring or socket is full, too.
        while client.send(b'z', 60_000, b"", Some(Duration::ZERO)).is_ok() && sent < 100_000 {
            sent += 1;
        }
        server.wait_for_sessions(0);
        assert_eq!(server.shut_down().slow_clients, 1);
    });
    done!("a client that leaves its answers, each")
}

fn a_server_sleeps_while_nothing_comes() -> Ran {
    each(|driver| {
        let server = reacting(driver);
        let mut client = connect(&server);
        client.echoes(b'e', 0, b"awake");
        let waits = || observe::voluntary_switches(server.id());
        wait_until("the server sleeps", || observe::all_threads_sleep(server.id()));
        // A timer of 50 ms or less would show: the runtime's own threads have time to settle before.
        let quiet = (0..20).any(|_| {
            let before = waits();
            std::thread::sleep(Duration::from_millis(200));
            waits() == before
        });
        assert!(quiet, "something wakes it again and again");
        client.echoes(b'e', 0, b"awake again");
        client.finish();
        server.shut_down();
    });
    done!("200 ms without a wake-up, with a session open, each")
}

fn shutdown_drains() -> Ran {
    each(|driver| {
        let mut server = reacting(driver);
        let mut client = connect(&server);
        for _ in 0..50 {
            client.send(b't', 20_000, b"under way", None).expect("send");
        }
        client.echoes(b'e', 0, b"read so far");
        server.process().tell("shutdown 20000");
        assert_eq!(client.recv_all().len(), 50);
        server.ended();
        assert!(!server.path().exists(), "its socket is still there");
        // And one that does not drain, beside a request that is never answered.
        let mut server = reacting(driver);
        let mut client = connect(&server);
        client.send(b'l', 0, b"", None).expect("send");
        client.echoes(b'e', 0, b"read so far");
        server.process().tell("shutdown 50");
        server.ended();
    });
    done!("with and without an end, each")
}

fn a_handshake_that_does_not_end() -> Ran {
    each(|driver| {
        let server = Server::prepare("react").with("driver", driver.name()).with("handshake_ms", 100).start();
        let mut silent = std::os::unix::net::UnixStream::connect(server.path()).expect("connect");
        let mut heard = Vec::new();
        // Until the server hangs up.
        let _ = silent.read_to_end(&mut heard);
        let mut client = connect(&server);
        client.echoes(b'e', 0, b"others");
        client.finish();
        assert_eq!(server.shut_down().handshakes_failed, 1);
    });
    done!("a client that says nothing, each")
}

fn there_are_no_threads() -> Ran {
    let threads = |server: &Server| {
        let path = format!("/proc/{}/task", server.id());
        std::fs::read_dir(path).expect("proc").count()
    };
    let mut told = String::new();
    let [with, without] = [Driver::Thread, Driver::Loop].map(|driver| {
        let server = reacting(driver);
        connect(&server).finish();
        let count = threads(&server);
        server.shut_down();
        count
    });
    assert_eq!(with, without + 1, "one of them has a porter");
    for (driver, more) in [(Driver::Edges, 0), (Driver::Task, 0), (Driver::Tasks, 2)] {
        let server = reacting(driver);
        connect(&server).finish();
        assert_eq!(threads(&server), without + more, "{}", driver.name());
        told += &format!(", {} {}", driver.name(), threads(&server));
        server.shut_down();
    }
    done!("threads of a server's process: with a porter {with}, in a loop {without}{told}")
}

// -- Async handlers.

/// A server of async handlers in this process, on a runtime of its own.
struct Here {
    /// `None` if it was cut off.
    thread: std::thread::JoinHandle<Option<Result<ringbell::ServerStats, ServeError>>>,
    cut_off: tokio::sync::oneshot::Sender<()>,
    handle: ringbell::ServerHandle,
    counts: Arc<Counts>,
    path: PathBuf,
    _place: tempfile::TempDir,
}

#[derive(Debug, Default)]
struct Counts {
    begun: PlainU64,
    finished: PlainU64,
    /// Handlers that were dropped before they were done.
    dropped: PlainU64,
    sent: PlainU64,
    opened: PlainU64,
    closed: PlainU64,
}

fn add(count: &PlainU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

fn read(count: &PlainU64) -> u64 {
    count.load(Ordering::Relaxed)
}

/// Counts a handler that does not come to its end.
struct Unfinished(Option<Arc<Counts>>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(counts) = &self.0 {
            add(&counts.dropped);
        }
    }
}

struct Waiting(Arc<Counts>);

impl AsyncService for Waiting {
    fn request(
        &mut self,
        request: OwnedRequest,
        responder: Responder,
    ) -> impl Future<Output = ()> + Send + 'static {
        let counts = self.0.clone();
        async move {
            add(&counts.begun);
            let mut unfinished = Unfinished(Some(counts.clone()));
            waiting(&counts, request, responder).await;
            unfinished.0 = None;
            add(&counts.finished);
        }
    }

    fn opened(&mut self, _: &Session) {
        add(&self.0.opened);
    }

    fn closed(&mut self, _: &Session) {
        add(&self.0.closed);
    }
}

/// | verb | what |
/// |---|---|
/// | `e` | echoes; `y` after `n` turns of others, `z` after `n` us |
/// | `n` | never answers |
/// | `s` | a stream of `n` items |
/// | `v` | pushes `n` events, then answers |
/// | `x` | an error; `p` panics, `d` drops the responder |
async fn waiting(counts: &Counts, request: OwnedRequest, responder: Responder) {
    let payload = request.payload();
    let told = words(&payload[1..17]);
    let (number, n) = (told[0], told[1]);
    let session = request.session();
    match payload[0] {
        b'e' => {}
        b'y' => {
            for _ in 0..n {
                tokio::task::yield_now().await;
            }
        }
        b'z' => tokio::time::sleep(Duration::from_micros(n)).await,
        b'n' => std::future::pending().await,
        b's' => {
            let mut stream = responder.stream();
            for index in 0..n {
                match stream.send_async(&item(session.id(), number, index, 100)).await {
                    Ok(()) => add(&counts.sent),
                    Err(StreamError::Cancelled | StreamError::Disconnected) => return,
                    Err(error) => panic!("{error:?}"),
                }
            }
            return stream.end();
        }
        b'v' => {
            for index in 0..n {
                while session.push(&index.to_le_bytes()).is_err() {
                    tokio::task::yield_now().await;
                }
            }
        }
        b'x' => return responder.error(HandlerError::new(7, "no")),
        b'p' => panic!("in a handler"),
        b'd' => return drop(responder),
        other => panic!("no verb {other}"),
    }
    responder.reply(payload);
}

impl Here {
    fn new(runtime: fn() -> Runtime, inline: Inline) -> Self {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("here.sock");
        let server =
            ringbell::Server::builder().inline(inline).max_in_flight(5000).bind(&path).expect("bind");
        let handle = server.handle();
        let counts = Arc::new(Counts::default());
        let service = Waiting(counts.clone());
        let (cut_off, mut cut) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = runtime();
            let ended = runtime.block_on(async {
                let mut task = tokio::spawn(server.serve(service));
                poll_fn(|cx| match Pin::new(&mut task).poll(cx) {
                    Poll::Ready(ended) => Poll::Ready(Some(ended.expect("a task"))),
                    Poll::Pending => Pin::new(&mut cut).poll(cx).map(|_| None),
                })
                .await
            });
            runtime.shutdown_background();
            ended
        });
        Self { thread, cut_off, handle, counts, path, _place: place }
    }

    /// Both flavours; with and without a first poll where requests are read.
    fn each(mut test: impl FnMut(&'static str, Self)) {
        for inline in [Inline::Never, Inline::Short] {
            test("one thread", Self::new(runtime_of_one, inline));
            tick();
            test("two threads", Self::new(runtime_of_two, inline));
            tick();
        }
    }

    async fn client(&self) -> AsyncClient {
        options().connect_async(&self.path).await.expect("connect")
    }

    /// Shuts it down, waiting for handlers for so long; what it counted.
    fn stop(self, drain: Duration) -> ringbell::ServerStats {
        self.handle.shutdown(Some(drain));
        let stats = self.thread.join().expect("a thread").expect("it was not cut off").expect("it serves");
        assert_eq!(read(&self.counts.opened), stats.accepted);
        assert_eq!(read(&self.counts.closed), stats.accepted);
        assert_eq!(stats.backstop_rescues, 0);
        stats
    }
}

/// The client's side has a runtime of its own.
fn block_on<R>(work: impl Future<Output = R>) -> R {
    runtime_of_one().block_on(work)
}

async fn next<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    poll_fn(|cx| Pin::new(&mut *stream).poll_next(cx)).await
}

fn handlers_answer_in_any_order() -> Ran {
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

fn handlers_whose_answer_nobody_wants_are_dropped() -> Ran {
    let calls = 200;
    Here::each(|_, here| {
        let dropped = |count: u64| {
            wait_until("the handlers are dropped", || read(&here.counts.dropped) == count);
            tick();
        };
        let begun = |count: u64| wait_until("they are handled", || read(&here.counts.begun) == count);
        let runtime = runtime_of_two();
        let client = runtime.block_on(here.client());
        let start = |from: u64, timeout| {
            let spawn = |number| {
                let client = client.clone();
                runtime.spawn(async move { client.call_timeout(&ask(b'n', number, 0, b""), timeout).await })
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

fn streams_wait_for_their_client() -> Ran {
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
                        assert_eq!(found.expect("an item"), item(client.session(), number, got, 100));
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

fn events_are_pushed() -> Ran {
    let events = scaled_for(20_000, 10_000);
    Here::each(|_, here| {
        block_on(async {
            let client = options().max_events(1 << 20).connect_async(&here.path).await.expect("connect");
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

fn handlers_fail() -> Ran {
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

fn shutdown_waits_for_handlers() -> Ran {
    Here::each(|_, here| {
        let runtime = runtime_of_two();
        let client = runtime.block_on(here.client());
        let mut events = client.events();
        let calls: Vec<_> =
            (0..100).map(|n| runtime.spawn(client.call_owned(ask(b'z', n, 20_000 + n, b"")))).collect();
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

fn a_runtime_is_dropped_with_requests_in_flight() -> Ran {
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

// -- The example.

/// `examples/embedded.rs` as a process of its own.
fn serves_in_its_loop(arguments: &Arguments) {
    let server = ringbell::Server::bind(arguments.text("path")).expect("bind");
    say("ready");
    let stats = embedded::serve(server).expect("served");
    let threads = std::fs::read_dir("/proc/self/task").expect("threads").count();
    say(&format!("served {} {} {} {threads}", stats.requests, stats.parks, stats.backstop_rescues));
}

fn the_example_serves_in_its_loop() -> Ran {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("s");
    let mut process = Start::role("serves_in_its_loop").with("path", path.display()).start();
    process.expect("ready");
    let calls = scaled_for(20_000, 2_000);
    let number = |answer: &[u8]| u64::from_le_bytes(answer.try_into().expect("a number"));
    let mut client = options().connect(&path).expect("connect");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut other = options().connect(&path).expect("connect");
            for call in 0..calls / 2 {
                assert_eq!(*other.call(&call.to_le_bytes()).expect("a call"), call.to_le_bytes());
                tick();
            }
        });
        // Answers that are kept until a tick, one after the other; echoes in between.
        let mut last = number(&client.call(b"ticks").expect("a call"));
        for _ in 0..10 {
            let next = number(&client.call(b"next tick").expect("a call"));
            assert!(next > last, "tick {next} after {last}");
            last = next;
            for call in 0..calls / 20 {
                assert_eq!(*client.call(&call.to_le_bytes()).expect("a call"), call.to_le_bytes());
            }
            tick();
        }
    });
    client.call(b"stop").expect("a call");
    let said = process.expect("served");
    process.succeed();
    let counts: Vec<u64> = said.split_whitespace().map(|word| word.parse().expect("a number")).collect();
    let [requests, parks, rescues, threads] = counts[..] else { panic!("{said}") };
    assert_eq!(requests, calls / 2 + 10 * (calls / 20) + 12);
    assert!(parks > 0 && rescues == 0 && threads == 1, "{said}");
    done!("{requests} requests, {parks} sleeps, 1 thread")
}
