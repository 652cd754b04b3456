//! What a process that looks on can learn: limits, threads, and what is in flight for long.
//!
//! All of it is read the way tools read it: from copies of the segments that a server shows.

#![cfg(feature = "inspect")]

use ringbell::inspect::{Inspector, Segment, StatusSegment, decode};
use ringbell::layout::{CONTROL, Engine, Facts};
use ringbell::stats::SessionCounters;
use ringbell::{
    Arming, ByteListener, Client, ConnectOptions, OwnedRequest, Responder, Server, ServerHandle,
    Session, TransportChoice, Turn,
};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Everything that a server shows, at one moment.
struct Seen {
    status: StatusSegment,
    /// What the client's half of each session counted, and the server's.
    clients: Vec<(u64, SessionCounters)>,
    server: Vec<(u64, SessionCounters)>,
}

impl Seen {
    fn server(&self, session: u64) -> &SessionCounters {
        &self.server.iter().find(|(of, _)| *of == session).expect("the session").1
    }

    fn client(&self, session: u64) -> &SessionCounters {
        &self.clients.iter().find(|(of, _)| *of == session).expect("the session").1
    }

    fn facts(&self) -> &Facts {
        &self.status.facts
    }
}

/// The segments of a server, to be looked at again and again.
struct Looker(Vec<File>);

impl Looker {
    fn new(path: &Path) -> Self {
        let inspector = Inspector::connect(path, Some(Duration::from_secs(30))).expect("connected");
        let survey = inspector.survey().expect("shown");
        Self(survey.segments.into_iter().map(File::from).collect())
    }

    fn look(&self) -> Seen {
        let (mut status, mut clients, mut server) = (None, Vec::new(), Vec::new());
        for segment in &self.0 {
            let mut page = vec![0; CONTROL];
            segment.read_exact_at(&mut page, 0).expect("read");
            match decode(&page).expect("a segment") {
                Segment::Status(found) => status = Some(found),
                Segment::Request(half) => clients.push((half.identity.session, half.counters)),
                Segment::Response(half) => server.push((half.identity.session, half.counters)),
                Segment::Bell(_) => {}
            }
        }
        Seen { status: status.expect("a status segment"), clients, server }
    }

    /// What is seen once this holds.
    #[track_caller]
    fn until(&self, holds: impl Fn(&Seen) -> bool) -> Seen {
        let began = Instant::now();
        loop {
            let seen = self.look();
            if holds(&seen) {
                return seen;
            }
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "it never came: {:?}, server {:?}, clients {:?}",
                seen.status,
                seen.server,
                seen.clients
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// A server on a thread of its own.
struct Serving {
    directory: tempfile::TempDir,
    handle: ServerHandle,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    fn new(
        server: impl FnOnce(&Path) -> Server,
        run: impl FnOnce(Server) + Send + 'static,
    ) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let server = server(&directory.path().join("socket"));
        let handle = server.handle();
        let thread = Some(std::thread::spawn(move || run(server)));
        Self { directory, handle, thread }
    }

    /// One whose requests are kept, to be answered by the test.
    fn keeping(server: impl FnOnce(&Path) -> Server) -> (Self, Receiver<(Session, Responder)>) {
        let (kept, requests) = mpsc::channel();
        let keep = move |request: OwnedRequest, responder: Responder| {
            let _ = kept.send((request.session(), responder));
        };
        let serving = Self::new(server, |server| {
            server.run_reactor(keep).expect("served");
        });
        (serving, requests)
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    fn connect(&self) -> Client {
        Client::connect(self.path()).expect("connected")
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.handle.shutdown(None);
            self.thread.take().expect("runs").join().expect("no panic");
        }
    }
}

fn bind(path: &Path) -> Server {
    Server::bind(path).expect("bound")
}

fn number_of_this_thread() -> u64 {
    rustix::thread::gettid().as_raw_nonzero().get().try_into().expect("positive")
}

/// What a handler tells of its thread, and what it waits for.
type Gate = (Sender<u64>, Receiver<()>);

#[test]
fn d3_a_serial_server_tells_its_limits_its_thread_and_since_when_it_is_in_a_handler() {
    let (entered, in_handler) = mpsc::channel();
    let (leave, left) = mpsc::channel();
    let gate: Gate = (entered, left);
    let serving = Serving::new(
        |path| {
            let server = Server::builder().max_clients(7).max_in_flight(33);
            let held = server.max_held_bytes(1 << 30).max_held_bytes_per_client(200 << 20);
            held.bind(path).expect("bound")
        },
        move |server| {
            let handler = |_: ringbell::Request<'_>, _: &mut Vec<u8>| {
                gate.0.send(number_of_this_thread()).expect("heard");
                gate.1.recv().expect("told");
                Ok(())
            };
            server.run(handler).expect("served");
        },
    );
    let mut client = serving.connect();
    let looker = Looker::new(&serving.path());
    let before = looker.look();
    assert_eq!(Engine::from_u64(before.facts().engine), Some(Engine::Serial));
    let Facts { max_clients, max_in_flight, .. } = *before.facts();
    assert_eq!((max_clients, max_in_flight), (7, 33));
    assert_eq!(before.facts().max_held_bytes, 1 << 30);
    assert_eq!(before.facts().max_held_bytes_per_client, 200 << 20);

    client.send(b"go").expect("sent");
    let thread = in_handler.recv().expect("in the handler");
    let stuck = looker.look();
    assert_eq!(stuck.facts().thread, thread);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(looker.look().facts().stored_ns, stuck.facts().stored_ns, "it is in one handler");
    assert_eq!(stuck.facts().oldest_since_ns, 0, "a serial server has none in flight");
    leave.send(()).expect("heard");
    client.recv(None).expect("answered");
    looker.until(|seen| seen.facts().stored_ns > stuck.facts().stored_ns + 50_000_000);
}

#[test]
fn a_server_that_wakes_up_says_so_before_it_is_in_a_handler() {
    let (entered, in_handler) = mpsc::channel();
    let (leave, left) = mpsc::channel();
    let gate: Gate = (entered, left);
    let serving = Serving::new(bind, move |server| {
        let handler = |_: ringbell::Request<'_>, _: &mut Vec<u8>| {
            gate.0.send(number_of_this_thread()).expect("heard");
            gate.1.recv().expect("told");
            Ok(())
        };
        server.run(handler).expect("served");
    });
    let mut client = serving.connect();
    let looker = Looker::new(&serving.path());
    let asleep = looker.until(|seen| seen.status.counters.parks > 0);
    // Longer than it takes to fall asleep, so that it is a wake-up that is told.
    std::thread::sleep(Duration::from_millis(100));
    client.send(b"go").expect("sent");
    in_handler.recv().expect("in the handler");
    let awake = looker.look();
    let since = awake.facts().stored_ns - asleep.facts().stored_ns;
    assert!(since >= 50_000_000, "it tells of {since} ns behind the time before its sleep");
    leave.send(()).expect("heard");
    client.recv(None).expect("answered");
}

#[test]
fn d3_one_slow_request_after_another_is_not_one_that_is_stuck() {
    const HANDLER: Duration = Duration::from_millis(50);
    let serving = Serving::new(bind, |server| {
        let slow = |_: ringbell::Request<'_>, _: &mut Vec<u8>| {
            std::thread::sleep(HANDLER);
            Ok(())
        };
        server.run(slow).expect("served");
    });
    let path = serving.path();
    let callers: Vec<_> = (0..3)
        .map(|_| {
            let mut client = Client::connect(&path).expect("connected");
            std::thread::spawn(move || {
                for _ in 0..20 {
                    client.call(b"slow").expect("answered");
                }
            })
        })
        .collect();
    let looker = Looker::new(&path);
    let mut moves = 0;
    let mut last = looker.look().facts().stored_ns;
    while callers.iter().any(|caller| !caller.is_finished()) {
        std::thread::sleep(Duration::from_millis(1));
        let now = looker.look().facts().stored_ns;
        moves += u32::from(now != last);
        last = now;
    }
    for caller in callers {
        caller.join().expect("answered");
    }
    // 60 requests: at first it looks ever more rarely, and behind half a second more often.
    assert!(moves >= 5, "told {moves} times while 60 slow requests were served");
}

#[test]
fn d3_the_request_that_is_in_flight_for_the_longest_stays_until_it_is_answered() {
    let (serving, requests) = Serving::keeping(bind);
    let mut stuck = serving.connect();
    let mut busy = serving.connect();
    let session = stuck.session();
    let looker = Looker::new(&serving.path());
    let call = stuck.send(b"\x01stuck").expect("sent").as_u64();
    let (_, never) = requests.recv().expect("kept");
    let first = looker.until(|seen| seen.facts().oldest_since_ns != 0);
    assert_eq!(Engine::from_u64(first.facts().engine), Some(Engine::Concurrent));
    let oldest = |seen: &Seen| {
        let Facts { oldest_session, oldest_call, oldest_since_ns, .. } = *seen.facts();
        (oldest_session, oldest_call, oldest_since_ns)
    };
    assert_eq!((first.facts().oldest_session, first.facts().oldest_call), (session, call));
    let half = *first.server(session);
    assert_eq!((half.in_flight, half.oldest_call), (1, call));
    assert_eq!(half.oldest_sent_ns, first.facts().oldest_since_ns);
    for _ in 0..20 {
        busy.send(b"\x02").expect("sent");
        requests.recv().expect("kept").1.reply(b"");
        busy.recv(None).expect("answered");
    }
    let other = busy.send(b"\x02").expect("sent").as_u64();
    let (_, second) = requests.recv().expect("kept");
    let two = looker.until(|seen| seen.status.counters.in_flight == 2);
    assert_eq!(oldest(&two), oldest(&first), "another one does not take its place");
    assert_eq!(two.server(busy.session()).oldest_call, other);
    never.reply(b"");
    stuck.recv(None).expect("answered");
    let left = looker.until(|seen| seen.facts().oldest_session == busy.session());
    assert_eq!(left.facts().oldest_call, other);
    assert_eq!(left.facts().oldest_since_ns, two.server(busy.session()).oldest_sent_ns);
    second.reply(b"");
    busy.recv(None).expect("answered");
    let none = looker.until(|seen| seen.facts().oldest_since_ns == 0);
    assert_eq!(oldest(&none), (0, 0, 0));
    assert_eq!(none.server(session).in_flight, 0);
}

#[test]
fn a_session_over_a_socket_shows_its_oldest_request() {
    let (serving, requests) = Serving::keeping(bind);
    let options = ConnectOptions::new().transport(TransportChoice::Socket);
    let mut client = options.connect(serving.path()).expect("connected");
    let looker = Looker::new(&serving.path());
    let call = client.send(b"\x01").expect("sent").as_u64();
    let (_, responder) = requests.recv().expect("kept");
    let seen = looker.until(|seen| seen.facts().oldest_since_ns != 0);
    assert_eq!(seen.facts().oldest_session, client.session());
    assert_eq!(seen.facts().oldest_call, call);
    responder.reply(b"");
    client.recv(None).expect("answered");
    looker.until(|seen| seen.facts().oldest_since_ns == 0);
}

#[test]
fn who_wants_no_answer_is_not_waited_for() {
    let (serving, requests) = Serving::keeping(bind);
    let mut client = serving.connect();
    let looker = Looker::new(&serving.path());
    client.send_one_way(b"\x01", None).expect("sent");
    let (_, kept) = requests.recv().expect("kept");
    let seen = looker.until(|seen| seen.status.counters.in_flight == 1);
    assert_eq!(seen.facts().oldest_since_ns, 0);
    drop(kept);
}

#[test]
fn an_embedded_server_tells_the_thread_that_pumps_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let mut server = bind(&path).embed().expect("embedded");
    let looking = std::thread::spawn({
        let path = path.clone();
        move || Looker::new(&path)
    });
    let mut pump = || {
        let mut service = |_: OwnedRequest, responder: Responder| responder.reply(b"");
        while server.pump(&mut service).expect("pumped") != Turn::Idle {}
        if server.arm() == Arming::Armed {
            std::thread::sleep(Duration::from_millis(1));
            server.disarm();
        }
        number_of_this_thread()
    };
    while !looking.is_finished() {
        pump();
    }
    let looker = looking.join().expect("looked");
    let here = pump();
    let first = looker.look();
    assert_eq!(Engine::from_u64(first.facts().engine), Some(Engine::EmbeddedConcurrent));
    assert_eq!(first.facts().thread, here);
    let there = std::thread::scope(|scope| scope.spawn(&mut pump).join().expect("pumped"));
    let second = looker.look();
    assert_eq!(second.facts().thread, there);
    assert_ne!(here, there);
    assert!(second.facts().stored_ns > first.facts().stored_ns);
}

#[test]
fn a_listener_of_byte_streams_tells_what_there_is_to_tell() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let _listener = ByteListener::builder().max_clients(5).bind_bytes(&path).expect("bound");
    let seen = Looker::new(&path).look();
    let expected = Facts { max_clients: 5, engine: Engine::Bytes as u64, ..Facts::default() };
    assert_eq!(*seen.facts(), expected);
}

#[test]
fn a_client_that_has_all_its_answers_has_nothing_in_flight() {
    let (serving, requests) = Serving::keeping(bind);
    let mut client = serving.connect();
    let session = client.session();
    let looker = Looker::new(&serving.path());
    let calls: Vec<_> = (0..5).map(|_| client.send(b"\x01").expect("sent").as_u64()).collect();
    let mut kept: Vec<_> = (0..5).map(|_| requests.recv().expect("kept").1).collect();
    let waiting = std::thread::spawn(move || {
        client.recv(None).expect("answered");
        client
    });
    let seen = looker.until(|seen| seen.client(session).oldest_sent_ns != 0);
    assert_eq!(seen.client(session).in_flight, 5);
    assert!(calls.contains(&seen.client(session).oldest_call));
    kept.drain(..).for_each(|responder| responder.reply(b""));
    let mut client = waiting.join().expect("answered");
    looker.until(|seen| seen.server(session).in_flight == 0);
    for _ in 1..5 {
        client.recv(None).expect("answered");
    }
    // Nothing is called any more.
    let told = *looker.look().client(session);
    assert_eq!((told.in_flight, told.oldest_call, told.oldest_sent_ns), (0, 0, 0));
}

#[test]
fn d1_a_client_whose_calls_have_timed_out_waits_for_none() {
    let (serving, requests) = Serving::keeping(bind);
    let mut client = serving.connect();
    let session = client.session();
    let looker = Looker::new(&serving.path());
    let timeout = Some(Duration::from_millis(100));
    assert!(client.call_timeout(b"\x01", timeout).is_err());
    assert!(client.stats().parks > 0, "it slept over the call");
    let mut kept = vec![requests.recv().expect("kept").1];
    let told = *looker.look().client(session);
    assert_eq!((told.in_flight, told.oldest_call, told.oldest_sent_ns), (0, 0, 0));
    let handler = looker.until(|seen| seen.server(session).oldest_sent_ns != 0);
    assert_eq!(handler.server(session).in_flight, 1, "its handler goes on");
    // The next one waits; the one that was given up is not the oldest.
    let call = client.send(b"\x01").expect("sent").as_u64();
    let waiting = std::thread::spawn(move || {
        client.recv(None).expect("answered");
    });
    kept.push(requests.recv().expect("kept").1);
    let seen = looker.until(|seen| seen.client(session).oldest_sent_ns != 0);
    assert_eq!((seen.client(session).in_flight, seen.client(session).oldest_call), (1, call));
    kept.drain(..).for_each(|responder| responder.reply(b""));
    waiting.join().expect("answered");
}

#[test]
fn a_client_in_an_event_loop_shows_what_it_waits_for() {
    let (serving, requests) = Serving::keeping(bind);
    let mut client = serving.connect();
    let session = client.session();
    let looker = Looker::new(&serving.path());
    let calls: Vec<_> = (0..3).map(|_| client.send(b"\x01").expect("sent").as_u64()).collect();
    while client.arm() == Arming::Busy {}
    let told = *looker.look().client(session);
    assert_eq!(told.in_flight, 3);
    assert!(calls.contains(&told.oldest_call) && told.oldest_sent_ns != 0);
    let kept: Vec<_> = (0..3).map(|_| requests.recv().expect("kept").1).collect();
    looker.until(|seen| seen.server(session).in_flight == 3);
    kept.into_iter().for_each(|responder| responder.reply(b""));
    looker.until(|seen| seen.server(session).in_flight == 0);
    client.disarm();
    while client.try_recv().is_ok_and(|answer| answer.is_some()) {}
    let told = *looker.look().client(session);
    assert_eq!((told.in_flight, told.oldest_call), (0, 0));
}

#[test]
fn a_stream_that_goes_on_is_no_call_that_waits() {
    let (serving, requests) = Serving::keeping(bind);
    let mut client = serving.connect();
    let session = client.session();
    let looker = Looker::new(&serving.path());
    let stream = client.open_stream(b"\x01", None).expect("sent");
    let mut items = requests.recv().expect("kept").1.stream();
    while client.arm() == Arming::Busy {}
    assert_eq!(looker.look().client(session).oldest_call, stream.as_u64(), "nothing came");
    client.disarm();
    items.send(b"item").expect("sent");
    client.next_item(stream, &mut Vec::new(), None).expect("an item");
    while client.arm() == Arming::Busy {}
    let told = looker.until(|seen| seen.server(session).oldest_sent_ns == 0);
    let counts = told.client(session);
    assert_eq!((counts.in_flight, counts.oldest_call), (1, 0));
    assert_eq!(told.facts().oldest_since_ns, 0);
    client.disarm();
    items.end();
}

#[cfg(feature = "tokio")]
mod tasks {
    use super::*;
    use ringbell::AsyncClient;

    /// Calls at once, and waits for all of them.
    fn call_at_once(path: &Path, calls: usize) -> (u64, JoinHandle<usize>) {
        let (connected, session) = mpsc::channel();
        let path = path.to_owned();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let client = AsyncClient::connect(&path).await.expect("connected");
                connected.send(client.session()).expect("heard");
                // The client sleeps when they begin.
                tokio::time::sleep(Duration::from_millis(50)).await;
                let tasks: Vec<_> = (0..calls)
                    .map(|_| {
                        let client = client.clone();
                        tokio::spawn(async move { client.call(b"\x01").await.is_ok() })
                    })
                    .collect();
                let mut answered = 0;
                for task in tasks {
                    answered += usize::from(task.await.expect("no panic"));
                }
                // Until the test has looked, nothing else is called.
                tokio::time::sleep(Duration::from_millis(300)).await;
                answered
            })
        });
        (session.recv().expect("connected"), thread)
    }

    #[test]
    fn d1_eight_calls_of_tasks_that_wait_are_in_flight() {
        let (serving, requests) = Serving::keeping(bind);
        let (session, calling) = call_at_once(&serving.path(), 8);
        let looker = Looker::new(&serving.path());
        let kept: Vec<_> = (0..8).map(|_| requests.recv().expect("kept").1).collect();
        let seen = looker.until(|seen| seen.client(session).in_flight == 8);
        let client = *seen.client(session);
        assert!(client.oldest_call != 0 && client.oldest_sent_ns != 0);
        let server = looker.until(|seen| seen.server(session).in_flight == 8);
        assert!(server.facts().oldest_since_ns >= client.oldest_sent_ns, "it was sent before");
        assert_eq!(looker.look().client(session).oldest_sent_ns, client.oldest_sent_ns);
        kept.into_iter().for_each(|responder| responder.reply(b""));
        let none = looker.until(|seen| seen.client(session).in_flight == 0);
        assert_eq!(none.client(session).oldest_call, 0);
        assert_eq!(calling.join().expect("no panic"), 8);
    }

    #[test]
    fn d1_a_single_call_of_a_task_is_in_flight() {
        let (serving, requests) = Serving::keeping(bind);
        let (session, calling) = call_at_once(&serving.path(), 1);
        let looker = Looker::new(&serving.path());
        let (_, responder) = requests.recv().expect("kept");
        let seen = looker.until(|seen| seen.client(session).in_flight == 1);
        assert_ne!(seen.client(session).oldest_sent_ns, 0);
        responder.reply(b"");
        looker.until(|seen| seen.client(session).in_flight == 0);
        assert_eq!(calling.join().expect("no panic"), 1);
    }
}

#[test]
fn d2_a_server_that_is_full_counts_whom_it_turns_away() {
    let full = |path: &Path| Server::builder().max_clients(1).bind(path).expect("bound");
    let (serving, _requests) = Serving::keeping(full);
    let client = serving.connect();
    let looker = Looker::new(&serving.path());
    for _ in 0..3 {
        assert!(Client::connect(serving.path()).is_err());
    }
    let seen = looker.until(|seen| seen.status.counters.rejected_full == 3);
    assert_eq!((seen.status.counters.rejected, seen.facts().max_clients), (3, 1));
    drop(client);
}

/// What an inspector says first that knows later versions of the handshake alone.
fn hello_of_a_later_inspector() -> Vec<u8> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("bound");
    let inspecting = std::thread::spawn(move || {
        let inspector = Inspector::connect(&path, None).expect("connected");
        assert!(inspector.survey().is_err(), "it is hung up on");
    });
    let (mut stream, _) = listener.accept().expect("accepted");
    // Its first message comes in one piece, and nothing follows.
    let mut hello = vec![0; 4096];
    let length = std::io::Read::read(&mut stream, &mut hello).expect("read");
    hello.truncate(length);
    drop(stream);
    inspecting.join().expect("hung up on");
    // Behind the header of 16 bytes: the oldest and the newest version that it knows.
    hello[16..20].copy_from_slice(&[99, 0, 99, 0]);
    hello
}

#[test]
fn d4_an_inspector_that_is_turned_away_is_no_rejected_client() {
    let (serving, _requests) = Serving::keeping(bind);
    let _client = serving.connect();
    let looker = Looker::new(&serving.path());
    let mut stream = std::os::unix::net::UnixStream::connect(serving.path()).expect("connected");
    let hello = hello_of_a_later_inspector();
    std::io::Write::write_all(&mut stream, &hello).expect("sent");
    let mut answer = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut answer).expect("refused");
    let seen = looker.until(|seen| seen.status.counters.inspectors_refused == 1);
    assert_eq!((seen.status.counters.rejected, seen.status.counters.handshakes_failed), (0, 0));
}

#[test]
fn what_only_a_client_knows_is_counted() {
    let (serving, requests) = Serving::keeping(bind);
    let options = ConnectOptions::new().max_in_flight(2).max_events(3);
    let mut client = options.connect(serving.path()).expect("connected");
    let session = client.session();
    let looker = Looker::new(&serving.path());
    client.send(b"\x01").expect("sent");
    client.send(b"\x01").expect("sent");
    assert!(matches!(client.send(b"\x01"), Err(ringbell::SendError::TooManyInFlight { limit: 2 })));
    let kept: Vec<_> = (0..2).map(|_| requests.recv().expect("kept")).collect();
    for event in 0..8 {
        kept[0].0.push(&[event]).expect("pushed");
    }
    looker.until(|seen| seen.status.counters.events == 8);
    kept.into_iter().for_each(|(_, responder)| responder.reply(b""));
    client.recv(None).expect("answered");
    client.recv(None).expect("answered");
    while client.arm() == Arming::Busy {}
    let told = *looker.look().client(session);
    assert_eq!((told.refused, told.events_dropped, told.not_kept), (1, 5, 0));
}
