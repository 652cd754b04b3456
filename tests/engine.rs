//! What the engine must keep to where it is easily lost: at its limits, when clients leave, when there is no room, and
//! on the one thread that must not wait. Over shared memory and over the socket.
//!
//! Nobody here is helped by a backstop: it comes later than a test gives up.

use ringbell::layout::{STREAM_WINDOW, code};
use ringbell::sync::{Ordering, PlainU64};
use ringbell::{
    AnswerOrder, CallError, CallId, Client, ConnectOptions, Handler, HandlerError, Inline, OwnedRequest,
    RecvError, Request, Responder, ResponseStream, SendError, ServeError, Server, ServerBuilder,
    ServerHandle, ServerStats, Service, Session, StreamError, Task, TransportChoice, WaitSettings,
};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a condition may take to become true.
const LIMIT: Duration = Duration::from_secs(20);
/// Later than that, so that a wake-up that was lost fails its test.
const BACKSTOP: Duration = Duration::from_secs(60);
const NO_TIME: Option<Duration> = Some(Duration::ZERO);
/// Of which a test that fails says with which it did.
fn transports() -> impl Iterator<Item = TransportChoice> {
    [TransportChoice::Auto, TransportChoice::Socket]
        .into_iter()
        .inspect(|transport| println!("{transport:?}"))
}

#[track_caller]
fn wait_until(what: &str, mut cond: impl FnMut() -> bool) {
    let began = Instant::now();
    while !cond() {
        assert!(began.elapsed() < LIMIT, "not in {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// Runs on a thread of its own what may never end.
#[track_caller]
fn within_the_limit<T: Send + 'static>(what: &str, run: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(run);
    wait_until(what, || thread.is_finished());
    thread.join().expect(what)
}

/// Holds handlers up until it is opened.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn open(&self) {
        *self.open.lock().expect("the gate") = true;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let open = self.open.lock().expect("the gate");
        // What fails elsewhere is not to hang here.
        drop(self.opened.wait_timeout_while(open, 2 * LIMIT, |open| !*open).expect("the gate"));
    }
}

fn patient(mut settings: WaitSettings) -> WaitSettings {
    settings.first_look = BACKSTOP;
    settings.backstop = BACKSTOP;
    settings
}

fn settings() -> ServerBuilder {
    Server::builder().wait(patient(WaitSettings::server()))
}

fn connect(path: &Path, transport: TransportChoice) -> Client {
    let options = ConnectOptions::new().transport(transport).wait(patient(WaitSettings::client()));
    options.connect(path).expect("connect")
}

/// A server on a thread of its own.
struct Serving {
    handle: ServerHandle,
    thread: Option<JoinHandle<Result<ServerStats, ServeError>>>,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Serving {
    fn start(
        settings: ServerBuilder,
        serve: impl FnOnce(Server) -> Result<ServerStats, ServeError> + Send + 'static,
    ) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        let server = settings.bind(&path).expect("bind");
        let handle = server.handle();
        Self { handle, thread: Some(std::thread::spawn(move || serve(server))), path, _dir: dir }
    }

    /// Each request on a thread of its own.
    fn start_on_threads(
        settings: ServerBuilder,
        handler: impl Fn(OwnedRequest, Responder) + Send + Sync + 'static,
    ) -> Self {
        Self::start(settings, |server| server.run_on(on_a_thread, handler))
    }

    fn connect(&self, transport: TransportChoice) -> Client {
        connect(&self.path, transport)
    }

    fn stats(&self) -> ServerStats {
        self.handle.stats()
    }

    #[track_caller]
    fn stop(mut self) -> ServerStats {
        self.handle.shutdown(NO_TIME);
        let thread = self.thread.take().expect("it is joined here alone");
        wait_until("the server stops", || thread.is_finished());
        let stats = thread.join().expect("no panic").expect("served");
        assert_eq!((stats.peer_faults, stats.backstop_rescues), (0, 0));
        stats
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // After a failure it is not waited for: it may hang.
        self.handle.shutdown(NO_TIME);
    }
}

fn on_a_thread(task: Task) {
    std::thread::spawn(|| task.run());
}

/// Sends items that count up, as many as asked for.
fn count_up(mut stream: ResponseStream, items: u64) {
    for item in 0..items {
        if stream.send(&item.to_le_bytes()).is_err() {
            return;
        }
    }
    stream.end();
}

/// Takes items that count up, to the end of the stream.
#[track_caller]
fn take_all(client: &mut Client, call: CallId) -> u64 {
    let (mut item, mut items) = (Vec::new(), 0u64);
    while client.next_item(call, &mut item, Some(LIMIT)).expect("an item, or the end") {
        assert_eq!(item, items.to_le_bytes());
        items += 1;
    }
    items
}

#[track_caller]
fn answers(client: &mut Client) {
    let answer = client.call_timeout(b"call", Some(LIMIT)).expect("an answer");
    assert_eq!(answer.payload(), b"answer");
}

const ITEMS: u64 = 200;

/// Streams of many items, beside plain answers.
fn stream_or_answer(request: OwnedRequest, responder: Responder) {
    if request.payload() == b"call" {
        responder.reply(b"answer");
    } else {
        drop(request);
        count_up(responder.stream(), ITEMS);
    }
}

#[test]
fn credit_is_read_at_the_limit_of_requests_in_flight() {
    for transport in transports() {
        let server = Serving::start_on_threads(settings().max_in_flight(1), stream_or_answer);
        let mut client = server.connect(transport);
        let stream = client.open_stream(b"stream", None).expect("sent");
        // The credit stands behind these, of which none may be run before the stream is over.
        let calls: Vec<_> = (0..10).map(|_| client.send(b"call").expect("sent")).collect();
        assert_eq!(take_all(&mut client, stream), ITEMS);
        for call in calls {
            let answer = client.recv(Some(LIMIT)).expect("an answer");
            assert_eq!(answer.call, call);
            assert_eq!(answer.outcome.expect("no error").payload(), b"answer");
        }
        server.stop();
    }
}

#[test]
fn credit_is_read_at_the_limit_of_bytes_in_flight() {
    for transport in transports() {
        let server = Serving::start_on_threads(settings().max_in_flight_bytes(1000), stream_or_answer);
        let mut client = server.connect(transport);
        let stream = client.open_stream(&vec![1; 300_000], None).expect("sent");
        assert_eq!(take_all(&mut client, stream), ITEMS);
        answers(&mut client);
        server.stop();
    }
}

/// A server whose one-way messages wait at a gate, and whose streams never end.
struct Held {
    server: Serving,
    gate: Arc<Gate>,
    /// Streams that are being sent.
    streams: Arc<PlainU64>,
    one_way: Arc<PlainU64>,
}

impl Held {
    fn start() -> Self {
        let (gate, streams, one_way) = (Arc::new(Gate::default()), Arc::default(), Arc::default());
        let (holding, sending, counted): (Arc<Gate>, Arc<PlainU64>, Arc<PlainU64>) =
            (gate.clone(), Arc::clone(&streams), Arc::clone(&one_way));
        let server = Serving::start(settings().max_in_flight(2).max_in_flight_bytes(20_000), |server| {
            server.run_reactor(move |request, responder| match request.payload() {
                // At once, so that the client need not sleep.
                b"call" => responder.reply(b"answer"),
                b"stream" => {
                    sending.fetch_add(1, Ordering::SeqCst);
                    let sending = sending.clone();
                    std::thread::spawn(move || {
                        count_up(responder.stream(), u64::MAX);
                        sending.fetch_sub(1, Ordering::SeqCst);
                    });
                }
                _ => {
                    let (holding, counted) = (holding.clone(), counted.clone());
                    std::thread::spawn(move || {
                        holding.pass();
                        counted.fetch_add(1, Ordering::SeqCst);
                        drop(responder);
                    });
                }
            })
        });
        Self { server, gate, streams, one_way }
    }

    /// Sends until there is no room for the least frame.
    fn fill(client: &mut Client) -> u64 {
        let mut sent = 0;
        for size in [2000, 0] {
            loop {
                match client.send_one_way(&vec![1; size], NO_TIME) {
                    Ok(()) => sent += 1,
                    // The server may still be reading.
                    Err(SendError::TimedOut) => {
                        match client.send_one_way(&vec![1; size], Some(Duration::from_millis(50))) {
                            Ok(()) => sent += 1,
                            Err(SendError::TimedOut) => break,
                            Err(error) => panic!("{error}"),
                        }
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
        sent
    }

    /// Lets the server read all that was sent.
    #[track_caller]
    fn release(&self, sent: u64) {
        self.gate.open();
        wait_until("one-way messages are handled", || self.one_way.load(Ordering::SeqCst) == sent);
    }
}

#[test]
fn a_cancel_that_found_no_room_is_sent_later() {
    for transport in transports() {
        let held = Held::start();
        let mut client = held.server.connect(transport);
        let stream = client.open_stream(b"stream", None).expect("sent");
        assert_eq!(client.next_item(stream, &mut Vec::new(), Some(LIMIT)), Ok(true));
        let sent = Held::fill(&mut client);
        client.close_stream(stream);
        assert_eq!(held.streams.load(Ordering::SeqCst), 1, "there was room for the cancel");
        if transport == TransportChoice::Auto {
            // Over a socket nobody reads on behalf of a client that does nothing.
            held.release(sent);
        }
        held.gate.open();
        wait_until("the stream is cancelled", || {
            answers(&mut client);
            held.streams.load(Ordering::SeqCst) == 0
        });
        assert_eq!(held.server.stop().cancelled, 1);
    }
}

#[test]
fn credit_that_found_no_room_is_sent_by_a_client_that_polls() {
    for transport in transports() {
        let held = Held::start();
        let mut client = held.server.connect(transport);
        let stream = client.open_stream(b"stream", None).expect("sent");
        let mut item = Vec::new();
        assert_eq!(client.next_item(stream, &mut item, Some(LIMIT)), Ok(true));
        Held::fill(&mut client);
        let mut take = |most: u64| {
            let mut taken = 0;
            wait_until("items", || {
                match client.next_item(stream, &mut item, NO_TIME) {
                    Ok(true) => taken += 1,
                    Err(CallError::TimedOut { .. }) => {}
                    other => panic!("{other:?}"),
                }
                taken == most
            });
        };
        // All that there are: credit was due, and found no room.
        take(u64::from(STREAM_WINDOW) - 1);
        held.gate.open();
        take(4 * u64::from(STREAM_WINDOW));
        drop(client);
        wait_until("the stream is over", || held.streams.load(Ordering::SeqCst) == 0);
        held.server.stop();
    }
}

#[test]
fn an_expired_request_keeps_its_turn_in_an_ordered_session() {
    for transport in transports() {
        let gate = Arc::new(Gate::default());
        let holding = gate.clone();
        let server = Serving::start_on_threads(
            settings().answer_order(AnswerOrder::Request),
            move |_: OwnedRequest, responder: Responder| {
                holding.pass();
                responder.reply(b"");
            },
        );
        let mut client = server.connect(transport);
        let slow = client.send(b"slow").expect("sent");
        let expired = client.call_timeout(b"expired", Some(Duration::from_nanos(1))).map(|_| ());
        // Not by the server's answer, which is not its turn.
        assert_eq!(expired, Err(CallError::TimedOut { maybe_executed: true }));
        wait_until("the request is refused", || server.stats().expired == 1);
        assert_eq!(client.try_recv().map(|answer| answer.map(|answer| answer.call)), Ok(None));
        assert_eq!(client.stats().late_answers, 0, "the refusal overtook an answer");
        gate.open();
        assert_eq!(client.recv(Some(LIMIT)).map(|answer| answer.call), Ok(slow));
        wait_until("the refusal follows", || {
            assert_eq!(client.try_recv(), Err(RecvError::NothingInFlight));
            client.stats().late_answers == 1
        });
        server.stop();
    }
}

#[test]
fn a_refused_one_way_message_hurts_nobody() {
    let serial = |server: Server| {
        server.run(|_, response| {
            response.extend_from_slice(b"answer");
            Ok(())
        })
    };
    let concurrent =
        |server: Server| server.run_reactor(|_, responder: Responder| responder.reply(b"answer"));
    for transport in transports() {
        for serve in [serial as fn(Server) -> _, concurrent] {
            let server = Serving::start(settings().max_incomplete_bytes(64 << 10), serve);
            let mut client = server.connect(transport);
            client.send_one_way(&vec![1; 1 << 20], Some(LIMIT)).expect("sent");
            answers(&mut client);
            answers(&mut client);
            let stats = server.stop();
            assert_eq!((stats.requests, stats.errors), (2, 1));
        }
    }
}

#[test]
fn a_one_way_message_may_be_answered_by_a_stream() {
    for transport in transports() {
        let sent = Arc::new(PlainU64::new(0));
        let counted = sent.clone();
        let server = Serving::start_on_threads(settings(), move |request, responder| {
            if !request.is_one_way() {
                return responder.reply(b"answer");
            }
            let mut stream = responder.stream();
            for _ in 0..ITEMS {
                stream.send(b"item").expect("nobody is there to be waited for");
                counted.fetch_add(1, Ordering::SeqCst);
            }
            stream.end();
        });
        let mut client = server.connect(transport);
        client.send_one_way(b"", Some(LIMIT)).expect("sent");
        wait_until("all items go nowhere", || sent.load(Ordering::SeqCst) == ITEMS);
        answers(&mut client);
        wait_until("nothing is in flight", || server.stats().in_flight == 0);
        server.stop();
    }
}

/// Has one stream, to which each callback sends until it is refused.
struct SendsEverywhere {
    stream: Option<ResponseStream>,
    refused: Sender<(&'static str, u64, StreamError)>,
}

impl SendsEverywhere {
    fn send(&mut self, place: &'static str, timeout: Option<Duration>) {
        let Some(stream) = &mut self.stream else { return };
        let mut sent = 0;
        let refusal = loop {
            match stream.send_timeout(b"item", timeout) {
                Ok(()) => sent += 1,
                Err(refusal) => break refusal,
            }
        };
        self.refused.send((place, sent, refusal)).expect("the test lives");
    }
}

impl Service for SendsEverywhere {
    fn request(&mut self, request: OwnedRequest, responder: Responder) {
        match request.payload() {
            b"stream" => self.stream = Some(responder.stream()),
            _ => {
                self.send("request", Some(BACKSTOP));
                responder.reply(b"answer");
            }
        }
    }

    fn opened(&mut self, _: &Session) {
        self.send("opened", None);
    }

    fn closed(&mut self, _: &Session) {
        self.send("closed", None);
    }
}

#[test]
fn nothing_waits_on_the_reactor_in_callbacks() {
    for transport in transports() {
        let (refused, refusals) = channel();
        let server = Serving::start(settings().slow_client_timeout(None), |server| {
            server.run_service(SendsEverywhere { stream: None, refused })
        });
        let mut client = server.connect(transport);
        let stream = client.open_stream(b"stream", None).expect("sent");
        wait_until("the stream is there", || server.stats().requests == 1);
        let other = server.connect(transport);
        let window = u64::from(STREAM_WINDOW);
        assert_eq!(refusals.recv_timeout(LIMIT), Ok(("opened", window, StreamError::WouldBlock)));
        drop(other);
        assert_eq!(refusals.recv_timeout(LIMIT), Ok(("closed", 0, StreamError::WouldBlock)));
        answers(&mut client);
        assert_eq!(refusals.recv_timeout(LIMIT), Ok(("request", 0, StreamError::WouldBlock)));
        for _ in 0..window {
            assert_eq!(client.next_item(stream, &mut Vec::new(), Some(LIMIT)), Ok(true));
        }
        drop(client);
        assert_eq!(refusals.recv_timeout(LIMIT), Ok(("closed", 0, StreamError::Disconnected)));
        server.stop();
    }
}

/// The order falls on every moment between two sleeps, in 1000 attempts.
#[test]
fn an_order_to_stop_is_seen_at_once() {
    for round in 0..1000u32 {
        let wait = patient(WaitSettings::server()).park_at_once();
        let server = Serving::start(settings().wait(wait), |server| server.run(|_, _| Ok(())));
        let mut client = server.connect(TransportChoice::Auto);
        for _ in 0..5 {
            client.call_timeout(b"", Some(LIMIT)).expect("an answer");
        }
        // A few microseconds after an answer the server falls asleep.
        let moment = Instant::now() + Duration::from_nanos(50) * (round % 100);
        while Instant::now() < moment {}
        // Asserts that the backstop was not needed.
        server.stop();
    }
}

#[test]
fn a_client_that_polls_gets_rid_of_what_it_sent() {
    for transport in transports() {
        let gate = Arc::new(Gate::default());
        let holding = gate.clone();
        let server = Serving::start(settings(), move |server| {
            server.run(move |request, response| {
                holding.pass();
                response.extend_from_slice(&request.payload()[..8]);
                Ok(())
            })
        });
        let mut client = server.connect(transport);
        let mut sent = Vec::new();
        loop {
            let number = sent.len() as u64;
            match client.send_timeout(&number.to_le_bytes().repeat(1000), NO_TIME) {
                Ok(call) => sent.push(call),
                Err(SendError::TimedOut) => break,
                Err(error) => panic!("{error}"),
            }
        }
        gate.open();
        let mut received = 0u64;
        wait_until("all answers", || {
            if let Some(answer) = client.try_recv().expect("the session goes on") {
                assert_eq!(answer.call, sent[usize::try_from(received).expect("few")]);
                assert_eq!(answer.outcome.expect("no error").payload(), received.to_le_bytes());
                received += 1;
            }
            received == sent.len() as u64
        });
        server.stop();
    }
}

#[test]
fn a_view_with_no_time_ends() {
    for transport in transports() {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let keeping = kept.clone();
        let server = Serving::start(settings(), |server| {
            server.run_reactor(move |request: OwnedRequest, responder: Responder| match request.payload() {
                b"call" => responder.reply(b"answer"),
                _ => keeping.lock().expect("the list").push(responder),
            })
        });
        let mut client = server.connect(transport);
        for timeout in [Duration::ZERO, Duration::from_millis(1)] {
            let viewed;
            (client, viewed) = within_the_limit("the view ends", move || {
                let viewed = client.call_view(b"never", Some(timeout), |_| ());
                (client, viewed)
            });
            assert_eq!(viewed, Err(CallError::TimedOut { maybe_executed: true }));
        }
        answers(&mut client);
        kept.lock().expect("the list").clear();
        server.stop();
    }
}

/// A server that adds up the bytes of what it handles, and takes its time.
fn adding_up(work: Duration) -> (Serving, Arc<PlainU64>) {
    let bytes = Arc::new(PlainU64::new(0));
    let added = bytes.clone();
    let server = Serving::start(settings(), move |server| {
        server.run(move |request, _| {
            added.fetch_add(request.payload().len() as u64, Ordering::SeqCst);
            let until = Instant::now() + work;
            while Instant::now() < until {}
            Ok(())
        })
    });
    (server, bytes)
}

#[test]
fn what_was_sent_before_a_drop_arrives() {
    for transport in transports() {
        let (server, bytes) = adding_up(Duration::from_micros(500));
        let mut client = server.connect(transport);
        for _ in 0..4 {
            client.send_one_way(&vec![1; 100_000], Some(LIMIT)).expect("sent");
        }
        // More than are read in one turn.
        for _ in 0..200 {
            client.send_one_way(b"x", Some(LIMIT)).expect("sent");
        }
        drop(client);
        wait_until("one-way messages are handled", || bytes.load(Ordering::SeqCst) == 400_200);
        let mut client = server.connect(transport);
        for _ in 0..4 {
            client.post(&[1; 100_000]).expect("posted");
        }
        drop(client);
        wait_until("what was posted is handled", || bytes.load(Ordering::SeqCst) == 800_200);
        wait_until("the sessions are over", || server.stats().sessions == 0);
        server.stop();
    }
}

#[test]
fn a_goodbye_is_noticed_beside_a_socket() {
    let (server, bytes) = adding_up(Duration::from_micros(10));
    let beside = server.connect(TransportChoice::Socket);
    let mut sent = 0;
    for _ in 0..40 {
        let mut client = server.connect(TransportChoice::Auto);
        for _ in 0..500 {
            client.send_one_way(b"x", Some(LIMIT)).expect("sent");
            sent += 1;
        }
        drop(client);
    }
    wait_until("one-way messages are handled", || bytes.load(Ordering::SeqCst) == sent);
    wait_until("one session is left", || server.stats().sessions == 1);
    drop(beside);
    server.stop();
}

const ROLE: &str = "RINGBELL_ENGINE_ROLE";
const SENT_IN_A_ROLE: u64 = 200;

/// A client that sends, and exits: run by another test, in a process of its own.
#[test]
#[ignore = "a role in other tests"]
fn role() {
    let Some(path) = std::env::var_os(ROLE) else { return };
    let transport = match std::env::var("RINGBELL_ENGINE_TRANSPORT").as_deref() {
        Ok("socket") => TransportChoice::Socket,
        _ => TransportChoice::Auto,
    };
    let mut client = connect(Path::new(&path), transport);
    for _ in 0..SENT_IN_A_ROLE {
        client.send_one_way(b"x", Some(LIMIT)).expect("sent");
    }
    drop(client);
    std::process::exit(0);
}

#[test]
fn one_way_messages_of_processes_that_exit_are_handled() {
    for transport in ["shared", "socket"] {
        let (server, bytes) = adding_up(Duration::from_micros(200));
        for _ in 0..5 {
            let status = Command::new(std::env::current_exe().expect("a path"))
                .args(["--exact", "role", "--ignored"])
                .env(ROLE, &server.path)
                .env("RINGBELL_ENGINE_TRANSPORT", transport)
                .stdout(std::process::Stdio::null())
                .status()
                .expect("a process");
            assert!(status.success());
        }
        wait_until("all are handled", || bytes.load(Ordering::SeqCst) == 5 * SENT_IN_A_ROLE);
        wait_until("the sessions are over", || server.stats().sessions == 0);
        assert_eq!(server.stop().accepted, 5);
    }
}

#[test]
fn one_way_messages_that_were_set_aside_outlive_their_client() {
    const SENT: u64 = 20;
    for transport in transports() {
        let handled = Arc::new(PlainU64::new(0));
        let count = handled.clone();
        let server = Serving::start_on_threads(settings().max_in_flight(1), move |request, responder| {
            if request.is_one_way() {
                count.fetch_add(1, Ordering::SeqCst);
                return responder.reply(b"");
            }
            // Until the client is gone: so the only place is taken.
            let mut stream = responder.stream();
            while stream.send(b"item").is_ok() {}
        });
        let mut client = server.connect(transport);
        let stream = client.open_stream(b"stream", None).expect("sent");
        // The server knows that it streams.
        assert!(client.next_item(stream, &mut Vec::new(), Some(LIMIT)).expect("an item"));
        for _ in 0..SENT {
            client.send_one_way(b"message", Some(LIMIT)).expect("sent");
        }
        drop(client);
        wait_until("all are handled", || handled.load(Ordering::SeqCst) == SENT);
        wait_until("the session is over", || server.stats().sessions == 0);
        server.stop();
    }
}

#[test]
fn a_client_that_leaves_at_the_limit_is_noticed() {
    for transport in transports() {
        let (over, ended) = channel();
        let server = Serving::start_on_threads(settings().max_in_flight(1), move |_, responder| {
            let mut stream = responder.stream();
            let end = loop {
                if let Err(end) = stream.send(b"item") {
                    break end;
                }
            };
            over.send(end).expect("the test lives");
        });
        let mut client = server.connect(transport);
        let stream = client.open_stream(b"", None).expect("sent");
        assert_eq!(client.next_item(stream, &mut Vec::new(), Some(LIMIT)), Ok(true));
        // Streams as well, if they were run: they, too, would wait for a client that is gone.
        for _ in 0..3 {
            client.post(b"").expect("posted");
        }
        drop(client);
        assert_eq!(ended.recv_timeout(LIMIT), Ok(StreamError::Disconnected));
        wait_until("the session is over", || server.stats().sessions == 0);
        server.stop();
    }
}

#[test]
fn a_producer_does_not_wait_for_ever_for_a_client_that_takes_nothing() {
    const PATIENCE: Duration = Duration::from_millis(100);
    for transport in transports() {
        let (over, ended) = channel();
        let server = Serving::start_on_threads(
            settings().slow_client_timeout(Some(PATIENCE)),
            move |request, responder| {
                if request.payload() == b"call" {
                    return responder.reply(b"answer");
                }
                let mut stream = responder.stream();
                for _ in 0..STREAM_WINDOW {
                    stream.send(b"item").expect("within the window");
                }
                let began = Instant::now();
                // A timeout of one's own does not end it.
                let refused = stream.send_timeout(b"item", NO_TIME);
                over.send((refused, stream.send(b"item"), began.elapsed())).expect("the test lives");
            },
        );
        let mut client = server.connect(transport);
        let stream = client.open_stream(b"", None).expect("sent");
        let (refused, slow, waited) = ended.recv_timeout(LIMIT).expect("it ends");
        assert_eq!((refused, slow), (Err(StreamError::WouldBlock), Err(StreamError::SlowClient)));
        assert!(waited >= PATIENCE, "{waited:?}");
        // The session goes on, and the stream says that it was broken off.
        answers(&mut client);
        for _ in 0..STREAM_WINDOW {
            assert_eq!(client.next_item(stream, &mut Vec::new(), Some(LIMIT)), Ok(true));
        }
        match client.next_item(stream, &mut Vec::new(), Some(LIMIT)) {
            Err(CallError::Remote(error)) => assert_eq!(error.code, code::BROKEN_OFF),
            other => panic!("{other:?}"),
        }
        server.stop();
    }
}

/// A payload that panics when it is dropped, with another one.
struct Spiteful;

impl Drop for Spiteful {
    fn drop(&mut self) {
        panic_spitefully();
    }
}

/// Past the hook, which would report it.
fn panic_spitefully() -> ! {
    std::panic::resume_unwind(Box::new(Spiteful))
}

#[track_caller]
fn survives(server: Serving) {
    for transport in transports() {
        let mut client = server.connect(transport);
        for _ in 0..10 {
            match client.call_timeout(b"panic", Some(LIMIT)).map(|_| ()) {
                Err(CallError::Remote(error)) => assert_eq!(error.code, code::PANICKED),
                other => panic!("{other:?}"),
            }
            answers(&mut client);
        }
    }
    wait_until("the sessions are over", || server.stats().sessions == 0);
    let stats = server.stop();
    assert_eq!((stats.requests, stats.panics), (40, 20));
}

/// Panics everywhere.
struct Panics;

impl Handler for Panics {
    fn request(&mut self, request: Request<'_>, response: &mut Vec<u8>) -> Result<(), HandlerError> {
        if request.payload() == b"panic" {
            panic_spitefully();
        }
        response.extend_from_slice(b"answer");
        Ok(())
    }

    fn opened(&mut self, _: &Session) {
        panic_spitefully();
    }

    fn closed(&mut self, _: &Session) {
        panic_spitefully();
    }
}

impl Service for Panics {
    fn request(&mut self, request: OwnedRequest, responder: Responder) {
        answer_or_panic(request, responder);
    }

    fn opened(&mut self, _: &Session) {
        panic_spitefully();
    }

    fn closed(&mut self, _: &Session) {
        panic_spitefully();
    }
}

#[allow(clippy::needless_pass_by_value, reason = "the signature of a handler")]
fn answer_or_panic(request: OwnedRequest, responder: Responder) {
    if request.payload() == b"panic" {
        panic_spitefully();
    }
    responder.reply(b"answer");
}

#[test]
fn payloads_that_panic_when_dropped_do_not_hurt_a_serial_server() {
    survives(Serving::start(settings(), |server| server.run_with(Panics)));
}

#[test]
fn payloads_that_panic_when_dropped_do_not_hurt_a_reactor() {
    survives(Serving::start(settings(), |server| server.run_service(Panics)));
    let inline = settings().inline(Inline::Short);
    survives(Serving::start(inline, |server| server.run_on(on_a_thread, answer_or_panic)));
}

#[test]
fn payloads_that_panic_when_dropped_do_not_hurt_an_executor() {
    let (tasks, worker) = channel::<Task>();
    let working = std::thread::spawn(move || worker.into_iter().for_each(Task::run));
    survives(Serving::start(settings(), move |server| {
        server.run_on(move |task| tasks.send(task).expect("the worker lives"), answer_or_panic)
    }));
    working.join().expect("the worker lives");
}
