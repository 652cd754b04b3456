//! What subscribers of `tracing` are told: of calls, sleeps, fallbacks and deaths, by client and
//! server, each in a process of its own.

use ringbell::{
    AsyncClient, ByteListener, ByteStream, CallError, Client, ConnectOptions, HandlerError,
    OwnedRequest, Request, Responder, Server, ServerBuilder, TransportChoice, WaitSettings,
};
use ringbell_shm_tests::driver::{Driver, runtime_of_one, runtime_of_two};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, Process, Start, hear, say};
use ringbell_shm_tests::trace_capture::{Captured, capture_all, take};
use ringbell_shm_tests::transport::over_socket;
use ringbell_shm_tests::{done, observe, options, suite, wait_until};
use std::future::Future;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Once;
use std::time::Duration;
use tempfile::TempDir;

suite! {
    both: [
        a_call_is_a_span_on_both_sides,
        calls_that_fail_say_how,
        sleeps_are_told,
        calls_of_tasks_are_spans,
        a_dead_server_is_told_of,
        a_dead_client_is_told_of,
        requests_keep_their_span_wherever_they_are_handled,
        byte_streams_are_told_of,
    ],
    tests: [fallbacks_say_why, who_is_turned_away_is_told_of],
    roles: [server, caller, writer],
}

/// What stands in requests and answers, and must be told nobody.
const BODY: &str = "nobody's business";

fn collecting() {
    static ONCE: Once = Once::new();
    ONCE.call_once(capture_all);
    let _ = take();
}

/// A server that keeps what it is told, in a process of its own.
struct Traced {
    process: Process,
    path: PathBuf,
    _dir: TempDir,
}

impl Traced {
    fn start(how: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("test.sock");
        let mut process =
            Start::role("server").with("path", path.display()).with("how", how).start();
        process.expect("ready");
        Self { process, path, _dir: dir }
    }

    fn wait_for_sessions(&mut self, sessions: u64) {
        wait_until("as many sessions are left", || {
            self.process.tell("sessions");
            self.process.hear() == sessions.to_string()
        });
    }

    /// Waits until it has so many sessions and nothing to do.
    fn falls_asleep(&mut self, sessions: u64) {
        self.wait_for_sessions(sessions);
        wait_until("it sleeps", || observe::all_threads_sleep(self.process.id()));
    }

    /// Ends it, and has what it was told.
    fn end(mut self) -> Vec<Captured> {
        self.process.tell("stop");
        let mut told = Vec::new();
        loop {
            match self.process.hear() {
                line if line == "done" => break,
                line => told.push(Captured::from_line(&line)),
            }
        }
        self.process.succeed();
        told
    }
}

fn waits() -> WaitSettings {
    WaitSettings::server().park_at_once()
}

fn parking() -> ConnectOptions {
    options().wait(WaitSettings::client().park_at_once())
}

/// Answers with the request; `f..` fails, `w..` takes a while.
fn answer(payload: &[u8], response: &mut Vec<u8>) -> Result<(), HandlerError> {
    tracing::info!(target: "test", "handling");
    match payload.first() {
        Some(b'f') => return Err(HandlerError::new(7, BODY)),
        Some(b'w') => std::thread::sleep(Duration::from_millis(20)),
        _ => {}
    }
    response.extend_from_slice(payload);
    Ok(())
}

fn answer_later(request: &OwnedRequest, responder: Responder) {
    let mut response = Vec::new();
    match answer(request.payload(), &mut response) {
        Ok(()) => responder.reply(&response),
        Err(error) => responder.error(error),
    }
}

/// Handles what it is asked in a future that is not ready at once.
async fn slowly(request: OwnedRequest, responder: Responder) {
    tokio::task::yield_now().await;
    answer_later(&request, responder);
}

/// The role of a server.
fn server(arguments: &Arguments) {
    capture_all();
    let how = arguments.text("how");
    let path = arguments.text("path");
    if how == "bytes" {
        return byte_server(path);
    }
    let settings = Server::builder().wait(waits());
    let settings = match how {
        "no memory" => settings.shared_memory(false),
        "one client" => settings.max_clients(1),
        _ => settings,
    };
    let server = bound(settings, path);
    match how {
        "executor" => {
            server.run_on(Threads, |request, responder| answer_later(&request, responder))
        }
        "task" => runtime_of_one().block_on(server.serve(slowly)),
        "tasks" => runtime_of_two().block_on(server.serve(slowly)),
        "loop" => {
            let service =
                |request: OwnedRequest, responder: Responder| answer_later(&request, responder);
            Driver::Edges.serve(server, service)
        }
        _ => server.run(|request: Request<'_>, response: &mut Vec<u8>| {
            answer(request.payload(), response)
        }),
    }
    .expect("serve");
    tell_all();
}

/// A thread for each task.
struct Threads;

impl ringbell::Executor for Threads {
    fn execute(&self, task: ringbell::Task) {
        std::thread::spawn(move || task.run());
    }
}

fn bound(settings: ServerBuilder, path: &str) -> Server {
    let server = settings.bind(path).expect("bind");
    let handle = server.handle();
    std::thread::spawn(move || {
        while hear().as_deref() == Some("sessions") {
            say(&handle.stats().sessions.to_string());
        }
        handle.shutdown(None);
    });
    say("ready");
    server
}

/// Accepts streams, and reads each to its end.
fn byte_server(path: &str) {
    let listener = ByteListener::bind(path).expect("bind");
    say("ready");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while let Ok(mut stream) = listener.accept() {
                let ended = stream.read_to_end(&mut Vec::new());
                drop(stream);
                say(if ended.is_ok() { "ended" } else { "broken off" });
            }
        });
        let _ = hear();
        listener.close();
    });
    tell_all();
}

fn tell_all() {
    for told in take() {
        say(&told.to_line());
    }
    say("done");
}

/// The role of a client that calls, and then waits for its end.
fn caller(arguments: &Arguments) {
    let mut client = options().connect(arguments.text("path")).expect("connect");
    client.call(b"hello").expect("a call");
    say("called");
    let _ = hear();
}

/// The role of a writer that is not done when it dies.
fn writer(arguments: &Arguments) {
    let mut stream = options().connect_bytes(arguments.text("path")).expect("connect");
    stream.write_all(b"not all").expect("room");
    say("wrote");
    let _ = hear();
}

fn all<'t>(told: &'t [Captured], target: &str, name: &str) -> Vec<&'t Captured> {
    told.iter().filter(|told| told.target == target && told.name == name).collect()
}

/// The only one of its kind.
fn one<'t>(told: &'t [Captured], target: &str, name: &str) -> &'t Captured {
    match all(told, target, name)[..] {
        [one] => one,
        ref more => panic!("{} times {name} of {target} in {told:#?}", more.len()),
    }
}

fn none_of(told: &[Captured], target: &str, name: &str) {
    assert!(all(told, target, name).is_empty(), "{name} of {target} in {told:#?}");
}

fn without_bodies(told: &[Captured]) {
    assert!(told.iter().all(|told| !told.to_line().contains(BODY)), "a body in {told:#?}");
}

const CLIENT: &str = "ringbell::client";
const SERVER: &str = "ringbell::server";

fn a_call_is_a_span_on_both_sides() -> Ran {
    collecting();
    let mut server = Traced::start("run");
    let mut client = options().connect(&server.path).expect("connect");
    let session = client.session();
    let id = client.call(BODY.as_bytes()).expect("a call").call();
    let len = client.call_view(b"seen", None, |view| view.len()).expect("a call");
    assert_eq!(len, 4);
    let pid = client.server_pid();
    drop(client);
    let told = take();
    without_bodies(&told);
    let calls = all(&told, CLIENT, "call");
    assert_eq!(calls.len(), 2, "{told:#?}");
    for (call, bytes) in calls.iter().zip([BODY.len() as u64, 4]) {
        assert_eq!((&*call.what, &*call.level, call.entered), ("span", "DEBUG", 1));
        assert_eq!((call.number("session"), call.number("bytes")), (session, bytes));
        assert_eq!((call.field("outcome"), call.number("answer_bytes")), ("response", bytes));
    }
    assert_eq!(calls[0].number("call"), id.as_u64());
    let began = one(&told, CLIENT, "session_begun");
    assert_eq!((began.number("session"), began.number("server_pid")), (session, u64::from(pid)));
    assert_eq!(began.field("transport").starts_with("socket"), over_socket());
    assert_eq!(one(&told, CLIENT, "session_ended").field("reason"), "closed");
    none_of(&told, CLIENT, "death");

    server.wait_for_sessions(0);
    let told = server.end();
    without_bodies(&told);
    let requests = all(&told, SERVER, "request");
    assert_eq!(requests.len(), 2, "{told:#?}");
    assert_eq!((requests[0].number("session"), requests[0].number("call")), (session, id.as_u64()));
    assert_eq!(
        (requests[0].number("bytes"), requests[0].field("one_way")),
        (BODY.len() as u64, "false")
    );
    assert!(requests.iter().all(|request| request.field("outcome") == "response"));
    let handled: Vec<_> = told.iter().filter(|told| told.target == "test").collect();
    assert!(
        handled.len() == 2 && handled.iter().all(|event| event.inside == "request"),
        "{told:#?}"
    );
    let began = one(&told, SERVER, "session_begun");
    assert_eq!(
        (began.number("session"), began.number("client_pid")),
        (session, std::process::id().into())
    );
    assert_eq!(one(&told, SERVER, "session_ended").field("reason"), "goodbye");
    assert_eq!(one(&told, SERVER, "shutdown").number("sessions"), 0);
    assert_eq!(one(&told, SERVER, "stopped").number("requests"), 2);
    none_of(&told, SERVER, "death");
    done!("2 calls, {} spans and events of the server", told.len())
}

fn calls_that_fail_say_how() -> Ran {
    collecting();
    let server = Traced::start("run");
    let mut client = options().max_message(1000).connect(&server.path).expect("connect");
    assert!(matches!(client.call(b"fail"), Err(CallError::Remote(_))));
    assert!(matches!(client.call(&[0; 2000]), Err(CallError::TooLarge { .. })));
    let late = client.call_timeout(b"wait", Some(Duration::from_millis(1)));
    assert!(matches!(late, Err(CallError::TimedOut { .. })), "{late:?}");
    drop(client);
    let told = take();
    without_bodies(&told);
    let outcomes: Vec<_> =
        all(&told, CLIENT, "call").iter().map(|call| call.field("outcome")).collect();
    assert_eq!(outcomes, ["error", "too_large", "timed_out"]);
    let calls = all(&told, CLIENT, "call");
    assert_eq!(calls[1].field("call"), "", "it was not sent");
    assert!(calls.iter().all(|call| call.field("answer_bytes").is_empty()));
    let told = server.end();
    without_bodies(&told);
    let outcomes: Vec<_> =
        all(&told, SERVER, "request").iter().map(|of| of.field("outcome")).collect();
    // Whether the last one was too late to be handled is a matter of time.
    assert!(outcomes == ["error", "response"] || outcomes == ["error"], "{outcomes:?}");
    done!("3 calls")
}

fn sleeps_are_told() -> Ran {
    collecting();
    let mut server = Traced::start("run");
    let mut client = parking().connect(&server.path).expect("connect");
    server.falls_asleep(1);
    client.call(b"wait").expect("a call");
    drop(client);
    let told = take();
    let sleeps = all(&told, CLIENT, "park");
    let rung: Vec<_> = sleeps.iter().filter(|park| park.field("ended") == "rung").collect();
    assert!(!rung.is_empty(), "it slept until it was rung: {told:#?}");
    for park in rung {
        assert_eq!((&*park.what, &*park.level, &*park.inside), ("span", "TRACE", "call"));
        assert_eq!(park.field("on"), if over_socket() { "socket" } else { "futex" });
    }
    let told = server.end();
    let sleeps = all(&told, SERVER, "park");
    assert!(
        sleeps.iter().any(|park| park.field("ended") == "rung" && park.level == "TRACE"),
        "{told:#?}"
    );
    let mut server = Traced::start("loop");
    let client = options().connect(&server.path).expect("connect");
    server.falls_asleep(1);
    drop(client);
    let told = server.end();
    assert!(!all(&told, SERVER, "armed").is_empty(), "{told:#?}");
    none_of(&told, SERVER, "park");
    done!("{} sleeps of the server", sleeps.len())
}

fn calls_of_tasks_are_spans() -> Ran {
    collecting();
    let server = Traced::start("task");
    let session = runtime_of_one().block_on(async {
        let client = parking().connect_async(&server.path).await.expect("connect");
        let between = async {
            for _ in 0..10 {
                // While the call is in flight, or after it: never inside of it.
                tracing::info!(target: "test", "between");
                tokio::task::yield_now().await;
            }
        };
        let (answer, ()) = tokio::join!(client.call(b"wait"), between);
        assert_eq!(answer.expect("a call"), b"wait");
        let late = client.call_timeout(b"wait", Some(Duration::from_millis(1))).await;
        assert!(matches!(late, Err(CallError::TimedOut { .. })), "{late:?}");
        let mut dropped = Box::pin(client.call(b"wait"));
        std::future::poll_fn(|cx| {
            assert!(dropped.as_mut().poll(cx).is_pending(), "it takes a while");
            std::task::Poll::Ready(())
        })
        .await;
        drop(dropped);
        drop(client.call(b"never polled"));
        client.session()
    });
    let told = take();
    let between: Vec<_> = told.iter().filter(|told| told.target == "test").collect();
    assert_eq!(between.len(), 10);
    assert!(between.iter().all(|event| event.inside.is_empty()), "{between:#?}");
    let calls = all(&told, CLIENT, "call");
    let outcomes: Vec<_> = calls.iter().map(|call| call.field("outcome")).collect();
    assert_eq!(outcomes, ["response", "timed_out", "dropped"]);
    assert_eq!(calls[0].number("answer_bytes"), 4);
    let ids: std::collections::BTreeSet<_> = calls.iter().map(|call| call.number("call")).collect();
    assert_eq!(ids.len(), 3, "{calls:#?}");
    assert!(calls.iter().all(|call| call.number("session") == session && call.entered > 0));
    assert!(!all(&told, CLIENT, "armed").is_empty(), "the driver slept in the runtime");
    assert_eq!(one(&told, CLIENT, "session_ended").field("reason"), "closed");
    none_of(&told, CLIENT, "death");
    drop(server.end());
    done!("3 calls of {} polls", calls.iter().map(|call| call.entered).sum::<u64>())
}

fn a_dead_server_is_told_of() -> Ran {
    collecting();
    let mut server = Traced::start("run");
    let mut client = options().connect(&server.path).expect("connect");
    client.call(b"hello").expect("a call");
    client.send(b"wait").expect("sent");
    let (session, pid) = (client.session(), server.process.id());
    server.process.kill();
    while client.recv(None).is_ok() {}
    assert!(client.call(b"x").is_err());
    drop(client);
    let told = take();
    let death = one(&told, CLIENT, "death");
    assert_eq!((&*death.what, &*death.level), ("event", "WARN"));
    assert_eq!((death.number("session"), death.number("server_pid")), (session, pid.into()));
    assert_eq!(death.field("reason"), "the server is gone");
    none_of(&told, CLIENT, "session_ended");

    let server = Traced::start("run");
    let mut client = options().connect(&server.path).expect("connect");
    drop(server.end());
    assert!(client.call(b"x").is_err());
    let told = take();
    assert_eq!(one(&told, CLIENT, "session_ended").field("reason"), "the server has shut down");
    none_of(&told, CLIENT, "death");
    done!("1 killed, 1 shut down")
}

fn a_dead_client_is_told_of() -> Ran {
    collecting();
    for how in ["run", "loop", "tasks"] {
        let mut server = Traced::start(how);
        let mut dying = Start::role("caller").with("path", server.path.display()).start();
        dying.expect("called");
        let pid = dying.id();
        dying.kill();
        server.wait_for_sessions(0);
        let told = server.end();
        let death = one(&told, SERVER, "death");
        assert_eq!((&*death.what, &*death.level), ("event", "WARN"), "{how}");
        assert_eq!(death.number("client_pid"), pid.into());
        assert!(death.field("reason").starts_with("the client"), "{death:?}");
    }
    done!("3 servers")
}

fn requests_keep_their_span_wherever_they_are_handled() -> Ran {
    collecting();
    for how in ["run", "executor", "loop", "task", "tasks"] {
        let server = Traced::start(how);
        let mut client = options().connect(&server.path).expect("connect");
        let id = client.call(b"hello").expect("a call").call();
        drop(client);
        let told = server.end();
        let handled =
            one(&told, "test", &told.iter().find(|told| told.target == "test").expect("it").name);
        assert_eq!(handled.inside, "request", "{how}: {told:#?}");
        let request = one(&told, SERVER, "request");
        assert_eq!(request.number("call"), id.as_u64());
        let outcome = if how == "run" { "response" } else { "later" };
        assert_eq!(request.field("outcome"), outcome, "{how}");
        assert!(request.entered >= if how == "run" { 1 } else { 2 }, "{how}: {request:?}");
    }
    done!("5 ways to handle a request")
}

fn byte_streams_are_told_of() -> Ran {
    collecting();
    let mut server = Traced::start("bytes");
    let mut stream = options().connect_bytes(&server.path).expect("connect");
    let session = stream.session();
    stream.write_all(BODY.as_bytes()).expect("room");
    stream.shutdown_write().expect("room");
    drop(stream);
    server.process.expect("ended");
    let mut dying = Start::role("writer").with("path", server.path.display()).start();
    dying.expect("wrote");
    dying.kill();
    server.process.expect("broken off");
    let told = take();
    without_bodies(&told);
    assert_eq!(one(&told, "ringbell::bytes", "session_begun").number("session"), session);
    assert_eq!(one(&told, "ringbell::bytes", "session_ended").number("session"), session);
    none_of(&told, "ringbell::bytes", "death");
    let told = server.end();
    assert_eq!(all(&told, "ringbell::bytes", "session_begun").len(), 2);
    let death = one(&told, "ringbell::bytes", "death");
    assert_ne!(death.number("session"), session);
    assert!(death.field("reason").contains("gone"), "{death:?}");
    done!("1 stream to its end, 1 broken off")
}

fn fallbacks_say_why() -> Ran {
    collecting();
    let server = Traced::start("no memory");
    let mut client = Client::connect(&server.path).expect("connect");
    client.call(b"hello").expect("a call");
    let ringbell::Transport::Socket { reason } = client.transport().clone() else {
        panic!("rings")
    };
    let session = client.session();
    drop(client);
    let told = take();
    let fallback = one(&told, CLIENT, "fallback");
    assert_eq!((&*fallback.what, &*fallback.level), ("event", "WARN"));
    assert_eq!(
        (fallback.number("session"), fallback.field("reason")),
        (session, &*reason.to_string())
    );
    let asked = ConnectOptions::new().transport(TransportChoice::Socket);
    let client = runtime_of_one().block_on(async {
        let client: AsyncClient = asked.connect_async(&server.path).await.expect("connect");
        client.call(b"hello").await.expect("a call");
        client.session()
    });
    let told = take();
    let fallback = one(&told, CLIENT, "fallback");
    assert_eq!((&*fallback.level, fallback.number("session")), ("DEBUG", client));
    let told = server.end();
    let fallbacks = all(&told, SERVER, "fallback");
    let levels: Vec<_> = fallbacks.iter().map(|fallback| &*fallback.level).collect();
    assert_eq!(levels, ["WARN", "DEBUG"]);
    assert_eq!(fallbacks[0].field("reason"), reason.to_string());

    let server = Traced::start("run");
    drop(Client::connect(&server.path).expect("connect"));
    none_of(&take(), CLIENT, "fallback");
    none_of(&server.end(), SERVER, "fallback");
    done!("{reason}")
}

fn who_is_turned_away_is_told_of() -> Ran {
    collecting();
    let server = Traced::start("one client");
    let client = Client::connect(&server.path).expect("connect");
    let error = ConnectOptions::new().connect(&server.path).expect_err("one too many");
    drop(client);
    let told = server.end();
    let rejected = one(&told, SERVER, "rejected");
    assert_eq!((&*rejected.what, &*rejected.level), ("event", "WARN"));
    assert!(error.to_string().contains(rejected.field("reason")), "{error} for {rejected:?}");
    // A stream to a server of calls.
    let server = Traced::start("run");
    wait_until("it listens", || ByteStream::connect(&server.path).is_err());
    none_of(&take(), "ringbell::bytes", "session_begun");
    drop(server.end());
    done!("{}", rejected.field("reason"))
}
