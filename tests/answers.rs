//! Answers find their calls, whatever else a client does in between.

use ringbell::layout::code;
use ringbell::{
    Answer, CallError, CallId, Client, ConnectOptions, OwnedRequest, RecvError, RemoteError,
    Responder, SendError, Server, ServerHandle, TransportChoice, WaitSettings,
};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

/// A small generator of numbers that look random.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    /// A request of this sort, with up to `more` bytes beyond `least`.
    fn payload(&mut self, sort: u8, least: u64, more: u64) -> Vec<u8> {
        let (len, first) = (2 + least + self.below(more), self.below(256));
        let mut payload: Vec<u8> =
            (0..len).map(|at| u8::try_from((first + at) % 251).expect("a byte")).collect();
        payload[0] = sort;
        payload
    }
}

/// A request that is answered with itself.
const ECHO: u8 = 0;
/// A request that is answered with a stream: as many items as the second byte says, each the
/// request with its number in front.
const ITEMS: u8 = 1;

/// One stream that a client has open.
struct Open {
    call: CallId,
    request: Vec<u8>,
    next: u8,
}

impl Open {
    fn check(&mut self, item: &[u8]) {
        assert!(item[0] == self.next && item[1..] == self.request, "an item of another stream");
        self.next += 1;
    }

    fn is_over(&self) {
        assert_eq!(self.next, self.request[1], "a stream ends early");
    }
}

/// What a client must find: the answers to calls that it sent and did not give up, and the items
/// of streams.
#[derive(Default)]
struct Oracle {
    sent: HashMap<CallId, Vec<u8>>,
    streams: Vec<Open>,
    /// Whether its client may hold so little that streams and large answers are dropped.
    is_near: bool,
}

/// The longest answer that is kept in any case.
const KEPT: usize = 4 << 10;

/// Whether the client had no room for it.
fn is_not_kept(error: &RemoteError) -> bool {
    error.code == code::NOT_KEPT
}

impl Oracle {
    fn sends(&mut self, call: CallId, request: Vec<u8>) {
        assert!(self.sent.insert(call, request).is_none(), "an id that is in use");
    }

    fn check(&mut self, answer: &Answer<'_>) {
        let sent = self.sent.remove(&answer.call).expect("an answer to a call that waits for one");
        match &answer.outcome {
            Ok(answer) => assert!(answer[..] == sent, "the answer to another call"),
            Err(error) => {
                assert!(self.is_near && is_not_kept(error) && sent.len() > KEPT, "{error}");
            }
        }
    }

    /// Looks for an item of some stream for at most `timeout`.
    fn look_at(&mut self, client: &mut Client, at: usize, timeout: Option<Duration>) {
        let (open, mut item) = (&mut self.streams[at], Vec::new());
        match client.next_item(open.call, &mut item, timeout) {
            Ok(true) => open.check(&item),
            Ok(false) => self.streams.swap_remove(at).is_over(),
            Err(CallError::TimedOut { .. }) => {}
            Err(CallError::Remote(error)) if self.is_near && is_not_kept(&error) => {
                self.streams.swap_remove(at);
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn full(error: SendError) {
    let full = matches!(error, SendError::TimedOut | SendError::TooManyInFlight { .. });
    assert!(full, "{error}");
}

/// A call with a request of this length at least.
fn calls(
    client: &mut Client,
    chance: &mut Chance,
    (least, is_near): (u64, bool),
    timeout: Option<Duration>,
) {
    let request = chance.payload(ECHO, least, 3 * least + 200);
    let called = match chance.below(3) {
        0 => client.call_timeout(&request, timeout).map(|answer| *answer == request[..]),
        1 => client.call_view(&request, timeout, |view| {
            let mut seen = vec![0; view.len()];
            view.copy_to(0, &mut seen);
            seen == request
        }),
        _ => {
            let mut answer = Vec::new();
            client.call_into(&request, &mut answer, timeout).map(|_| answer == request)
        }
    };
    match called {
        Ok(same) => assert!(same, "the answer to another call"),
        Err(CallError::TimedOut { .. }) if timeout.is_some() => {}
        Err(CallError::TooManyInFlight { .. }) => {}
        // It came while its request was being pushed out.
        Err(CallError::Remote(error)) if is_near && is_not_kept(&error) && request.len() > KEPT => {
        }
        Err(error) => panic!("{error}"),
    }
}

/// One random step of a client.
fn step(client: &mut Client, chance: &mut Chance, oracle: &mut Oracle) {
    let soon = Some(Duration::from_nanos(chance.below(3_000)));
    match chance.below(14) {
        0..=2 => calls(client, chance, (0, oracle.is_near), soon),
        3 => calls(client, chance, (100_000, oracle.is_near), soon),
        4..=5 => calls(client, chance, (100_000, oracle.is_near), None),
        6..=7 => {
            // Now and then so many that the next call finds many answers in its way.
            for _ in 0..[1, 1, 100][usize::try_from(chance.below(3)).expect("small")] {
                let request = chance.payload(ECHO, 0, 2_000);
                match client.send_timeout(&request, Some(Duration::ZERO)) {
                    Ok(call) => oracle.sends(call, request),
                    Err(error) => full(error),
                }
            }
        }
        8 => {
            let request = chance.payload(ECHO, 100_000, 300_000);
            match client.send_timeout(&request, soon) {
                Ok(call) => oracle.sends(call, request),
                Err(error) => full(error),
            }
        }
        9 => while client.next_event(Some(Duration::ZERO)).is_ok() {},
        10 if oracle.streams.len() < 8 => {
            let least = [0, 100_000][usize::try_from(chance.below(2)).expect("small")];
            let mut request = chance.payload(ITEMS, least, 300);
            if request[1] > 100 {
                // The large ones end soon.
                request[1] %= 4;
            }
            match client.open_stream(&request, [None, soon][usize::from(chance.below(2) == 0)]) {
                Ok(call) => oracle.streams.push(Open { call, request, next: 0 }),
                Err(error) => full(error),
            }
        }
        10 | 11 if !oracle.streams.is_empty() => {
            let at = usize::try_from(chance.below(oracle.streams.len() as u64)).expect("small");
            if chance.below(4) == 0 {
                let given_up = oracle.streams.swap_remove(at);
                client.close_stream(given_up.call);
            } else {
                // An item is due, or the end: it is waited for now and then.
                let timeout = [None, soon][usize::from(chance.below(2) == 0)];
                oracle.look_at(client, at, timeout);
            }
        }
        12 => {
            let message = chance.payload(ECHO, 0, 50_000);
            let _ = client.send_one_way(&message, soon).map_err(full);
        }
        _ => match client.recv(Some(Duration::from_micros(chance.below(50)))) {
            Ok(answer) => oracle.check(&answer),
            Err(RecvError::TimedOut | RecvError::NothingInFlight) => {}
            Err(error) => panic!("{error}"),
        },
    }
}

/// Has the calling thread run on one CPU, the same for all that call this.
fn pin() {
    let mut cpus = sched_getaffinity(None).expect("its CPUs");
    let first = (0..CpuSet::MAX_CPU).find(|cpu| cpus.is_set(*cpu)).expect("one");
    cpus.clear();
    cpus.set(first);
    sched_setaffinity(None, &cpus).expect("one of its CPUs");
}

/// Serves until it is dropped.
struct Serving {
    directory: tempfile::TempDir,
    handle: ServerHandle,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let server = Server::builder().wait(WaitSettings::server());
        let server = server.bind(directory.path().join("socket")).expect("bound");
        let handle = server.handle();
        let thread = std::thread::spawn(move || {
            server.run_reactor(answer).expect("served");
        });
        Self { directory, handle, thread: Some(thread) }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("socket")
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

fn answer(request: OwnedRequest, responder: Responder) {
    // Events stand between answers.
    let _ = request.session().push(b"an event");
    if request.payload()[0] == ECHO {
        return responder.reply(request.payload());
    }
    // Nothing else may wait for somebody who reads no items.
    let mut stream = responder.stream();
    std::thread::spawn(move || {
        for number in 0..request.payload()[1] {
            let item = [&[number], request.payload()].concat();
            if stream.send(&item).is_err() {
                return;
            }
        }
        stream.end();
    });
}

fn steps(
    options: ConnectOptions,
    (one_cpu, is_near): (bool, bool),
    steps: u32,
    alive: &mpsc::Sender<()>,
) {
    if one_cpu {
        // The server answers as soon as the last byte of a request is there, before its client
        // goes on.
        pin();
    }
    let serving = Serving::new();
    let options = if is_near { near(options) } else { options };
    let mut client = options.max_in_flight(200).connect(serving.path()).expect("connected");
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    let mut oracle = Oracle { is_near, ..Oracle::default() };
    for _ in 0..steps {
        step(&mut client, &mut chance, &mut oracle);
        alive.send(()).expect("the watch");
    }
    while !oracle.streams.is_empty() {
        oracle.look_at(&mut client, 0, None);
        alive.send(()).expect("the watch");
    }
    loop {
        match client.recv(None) {
            Ok(answer) => oracle.check(&answer),
            Err(RecvError::NothingInFlight) => break,
            Err(error) => panic!("{error}"),
        }
        alive.send(()).expect("the watch");
    }
    assert!(oracle.sent.is_empty(), "{} calls were never answered", oracle.sent.len());
    assert_eq!(client.in_flight(), 0);
    // What was given up is answered, too, and nothing of it is handed out.
    while !client.is_clean() {
        let over = client.recv(Some(Duration::ZERO)).map(|answer| answer.call);
        assert_eq!(over, Err(RecvError::NothingInFlight));
        std::thread::yield_now();
    }
}

/// Has a client hold no more than a message of the largest size. Four large items are that much.
fn near(options: ConnectOptions) -> ConnectOptions {
    options.max_message(450_000).max_held_bytes(0)
}

/// So many steps, or as many times that as `RINGBELL_TEST_SCALE` says.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a number of steps, as large as somebody waits for"
)]
fn scaled(steps: u32) -> u32 {
    let scale = std::env::var("RINGBELL_TEST_SCALE").ok().and_then(|scale| scale.parse().ok());
    (f64::from(steps) * scale.unwrap_or(1.0)) as u32
}

/// Runs `body`, which says that it is alive after each step. One that hangs ends the test.
fn watched(body: impl FnOnce(&mpsc::Sender<()>) + Send + 'static) {
    let (alive, heard) = mpsc::channel();
    let alive = Arc::new(alive);
    let thread = std::thread::spawn(move || body(&alive));
    loop {
        match heard.recv_timeout(Duration::from_secs(60)) {
            Ok(()) => {}
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => panic!("a call waits for ever"),
        }
    }
    thread.join().expect("no panic");
}

/// Steps of a client that may hold as much as it likes, and of one that is near its limit; where
/// the server has a CPU of its own, and where it has not.
fn all_steps(options: &ConnectOptions, count: u32, near: &[bool]) {
    for one_cpu in [false, true] {
        for is_near in near.iter().copied() {
            let options = options.clone();
            watched(move |alive| steps(options, (one_cpu, is_near), scaled(count), alive));
        }
    }
}

#[test]
fn c1_an_answer_that_is_there_is_found_over_a_socket() {
    let options = ConnectOptions::new().transport(TransportChoice::Socket);
    all_steps(&options, 12_000, &[false, true]);
}

#[test]
fn c1_an_answer_that_is_there_is_found_over_rings() {
    let options = ConnectOptions::new().transport(TransportChoice::SharedMemory);
    all_steps(&options, 12_000, &[false, true]);
}

#[test]
fn c1_a_sampled_call_finds_its_answer() {
    let options = ConnectOptions::new().transport(TransportChoice::SharedMemory).sample_calls(2);
    all_steps(&options, 6_000, &[false]);
}

/// Tasks that share one client.
#[cfg(feature = "tokio")]
mod tasks {
    use super::{Chance, ECHO, ITEMS, KEPT, Open, Serving, is_not_kept, near, scaled, watched};
    use futures_core::Stream;
    use ringbell::{AsyncClient, CallError, ConnectOptions, ItemStream, TransportChoice};
    use std::future::{Future, poll_fn};
    use std::pin::pin;
    use std::sync::mpsc;
    use std::task::Poll;
    use std::time::Duration;

    async fn next(stream: &mut ItemStream) -> Option<Result<Vec<u8>, CallError>> {
        poll_fn(|cx| std::pin::Pin::new(&mut *stream).poll_next(cx)).await
    }

    /// Polls so many times, with a turn of the runtime in between, and drops what is not ready.
    async fn poll_some<F: Future>(future: F, times: u64) -> Option<F::Output> {
        let mut future = pin!(future);
        for _ in 0..times {
            let polled = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
            if let Poll::Ready(done) = polled {
                return Some(done);
            }
            tokio::task::yield_now().await;
        }
        None
    }

    fn same(called: Result<Vec<u8>, CallError>, request: &[u8], is_near: bool) {
        match called {
            Ok(answer) => assert!(answer == request, "the answer to another call"),
            Err(CallError::TimedOut { .. }) => {}
            Err(CallError::Remote(error))
                if is_near && is_not_kept(&error) && request.len() > KEPT => {}
            Err(error) => panic!("{error}"),
        }
    }

    async fn step(client: &AsyncClient, chance: &mut Chance, is_near: bool) {
        let least = [0, 0, 100_000][usize::try_from(chance.below(3)).expect("small")];
        match chance.below(6) {
            0 => {
                let request = chance.payload(ECHO, least, 2_000);
                let timeout = Some(Duration::from_micros(chance.below(2_000)));
                same(client.call_timeout(&request, timeout).await, &request, is_near);
            }
            1 | 2 => {
                let request = chance.payload(ECHO, least, 2_000);
                let called = client.call(&request).await;
                assert!(!matches!(called, Err(CallError::TimedOut { .. })), "it waits for ever");
                same(called, &request, is_near);
            }
            3 => {
                let request = chance.payload(ECHO, least, 2_000);
                if let Some(called) = poll_some(client.call(&request), chance.below(5)).await {
                    same(called, &request, is_near);
                }
            }
            4 => {
                let message = chance.payload(ECHO, least, 2_000);
                client.send_one_way(&message).await.expect("sent");
            }
            _ => {
                let mut request = chance.payload(ITEMS, least, 300);
                request[1] %= 100;
                if least > 0 {
                    request[1] %= 4;
                }
                let opened = poll_some(client.call_stream(&request), 1 + chance.below(1_000)).await;
                let Some(opened) = opened else { return };
                let mut stream = opened.expect("opened");
                let mut open = Open { call: stream.call(), request, next: 0 };
                // Some are dropped in the middle.
                let most = chance.below(150);
                for _ in 0..most {
                    match next(&mut stream).await {
                        Some(Err(CallError::Remote(error))) if is_near && is_not_kept(&error) => {
                            return;
                        }
                        Some(item) => open.check(&item.expect("an item")),
                        None => return open.is_over(),
                    }
                }
            }
        }
    }

    async fn steps(client: AsyncClient, seed: u64, is_near: bool, alive: mpsc::Sender<()>) {
        let mut chance = Chance(seed);
        for _ in 0..scaled(800) {
            step(&client, &mut chance, is_near).await;
            alive.send(()).expect("the watch");
        }
    }

    fn run(transport: TransportChoice, (one_cpu, is_near): (bool, bool), alive: &mpsc::Sender<()>) {
        if one_cpu {
            super::pin();
        }
        let serving = Serving::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            // So few that tasks wait for each other, and so small that they wait for room.
            let options = ConnectOptions::new().transport(transport).max_in_flight(6);
            let options = if is_near { near(options) } else { options };
            let client = options.connect_async(serving.path()).await.expect("connected");
            let mut tasks = Vec::new();
            for seed in 1..=8 {
                let seed = 0x9e37_79b9_7f4a_7c15 ^ seed;
                tasks.push(tokio::spawn(steps(client.clone(), seed, is_near, alive.clone())));
            }
            for task in tasks {
                task.await.expect("no panic");
            }
            // Calls that were given up leave nothing behind.
            let mut all = Vec::new();
            for _ in 0..6 {
                all.push(Box::pin(client.call(&[ECHO, 0])));
            }
            for call in all {
                call.await.expect("an answer");
            }
            assert_eq!(client.in_flight(), 0);
        });
    }

    fn all_runs(transport: TransportChoice) {
        for one_cpu in [false, true] {
            for is_near in [false, true] {
                watched(move |alive| run(transport, (one_cpu, is_near), alive));
            }
        }
    }

    #[test]
    fn c1_tasks_find_their_answers_over_a_socket() {
        all_runs(TransportChoice::Socket);
    }

    #[test]
    fn c1_tasks_find_their_answers_over_rings() {
        all_runs(TransportChoice::SharedMemory);
    }
}
