//! A concurrent server that is driven by what it is asked, and a client that knows which answer belongs to which call.
//!
//! A request is a verb, its number, an argument and more; the usual answer is a stamp (session and number) and what was
//! sent along. So an answer that goes astray is recognised wherever it arrives.

use crate::pattern::mix;
use crate::process::lock;
use crate::suite::tick;
use ringbell::sync::{Ordering, PlainU64};
use ringbell::{
    Answer, CallError, CallId, Client, ConnectOptions, Executor, HandlerError, OwnedRequest, PushError,
    RecvError, RemoteError, Responder, ResponseStream, SendError, Service, Session, StreamError, Task,
};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A request: what [`react`] understands.
#[must_use]
pub fn ask(verb: u8, number: u64, argument: u64, rest: &[u8]) -> Vec<u8> {
    [&[verb][..], &number.to_le_bytes(), &argument.to_le_bytes(), rest].concat()
}

/// How a stream is to be made: the rest of a request of verb `s`.
#[must_use]
pub fn stream_of(longest: u32, end: StreamEnd) -> Vec<u8> {
    [&longest.to_le_bytes()[..], &[end as u8]].concat()
}

/// How a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamEnd {
    /// As it should.
    Good,
    /// It is dropped.
    Dropped,
    /// By an error of the application, number 7.
    Error,
    /// By a panic.
    Panic,
    /// Not at all.
    Leaked,
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
}

/// All words of an answer.
#[must_use]
pub fn words(bytes: &[u8]) -> Vec<u64> {
    (0..bytes.len() / 8).map(|index| word(bytes, 8 * index)).collect()
}

fn bytes_of(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Item `index` of a streamed answer.
#[must_use]
pub fn item(session: u64, number: u64, index: u64, longest: u64) -> Vec<u8> {
    let mut item = bytes_of(&[session, number, index]);
    let len = mix(number, index) % (longest + 1);
    item.resize(24 + usize::try_from(len).expect("64 bits"), index.to_le_bytes()[0]);
    item
}

/// What the server counts by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Count {
    /// Items of streams that were sent.
    Items,
    /// Times a producer of items had to wait.
    Blocked,
    /// Streams that ended since the client did not want more.
    Cancelled,
    /// Streams that ended since the client was gone.
    Gone,
    /// Items that were too large.
    TooLarge,
    /// Handlers that waited until their call was cancelled.
    CancelSeen,
    /// Requests that were moved to a thread.
    Moved,
    /// Sessions that were opened.
    Opened,
    /// Sessions that were closed.
    Closed,
}

/// Doors that a thread waits at and another one opens. Each opening lets one through.
#[derive(Debug)]
struct Gates {
    open: Mutex<Option<HashSet<u64>>>,
    more: Condvar,
}

static GATES: Gates = Gates { open: Mutex::new(None), more: Condvar::new() };

/// Opens a gate.
pub fn open_gate(gate: u64) {
    lock(&GATES.open).get_or_insert_default().insert(gate);
    GATES.more.notify_all();
}

pub(crate) fn pass_gate(gate: u64) {
    let mut open = lock(&GATES.open);
    while !open.get_or_insert_default().remove(&gate) {
        open = GATES.more.wait(open).unwrap_or_else(PoisonError::into_inner);
    }
}

/// A plain pool: so many threads and one queue.
#[derive(Debug, Clone)]
pub struct Pool(Sender<Task>);

impl Pool {
    /// A pool of so many threads, which end when the last clone is dropped.
    #[must_use]
    pub fn new(threads: u64) -> Self {
        let (sender, receiver) = channel::<Task>();
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..threads {
            let receiver = receiver.clone();
            std::thread::spawn(move || {
                loop {
                    // Alone in its statement: the lock is not held while the task runs.
                    let task = lock(&receiver).recv();
                    match task {
                        Ok(task) => task.run(),
                        Err(_) => break,
                    }
                }
            });
        }
        Self(sender)
    }
}

impl Executor for Pool {
    fn execute(&self, task: Task) {
        // Without threads the task is dropped, which answers.
        let _ = self.0.send(task);
    }
}

/// What the server knows.
#[derive(Debug)]
pub struct State {
    pool: Pool,
    counts: [PlainU64; 9],
    held: Mutex<HashMap<u64, Vec<(OwnedRequest, Responder)>>>,
    remembered: Mutex<HashMap<u64, Session>>,
    /// Open sessions, and those that were.
    open: Mutex<HashMap<u64, bool>>,
    executed: Mutex<HashMap<u64, Vec<u64>>>,
    complaints: PlainU64,
    empty: PlainU64,
}

impl State {
    /// Nothing yet; with so many worker threads.
    #[must_use]
    pub fn new(workers: u64) -> Arc<Self> {
        Arc::new(Self {
            pool: Pool::new(workers),
            counts: Default::default(),
            held: Mutex::default(),
            remembered: Mutex::default(),
            open: Mutex::default(),
            executed: Mutex::default(),
            complaints: PlainU64::new(0),
            empty: PlainU64::new(0),
        })
    }

    fn count(&self, what: Count) {
        self.counts[what as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn complain(&self, what: &str) {
        eprintln!("{what}");
        self.complaints.fetch_add(1, Ordering::Relaxed);
    }

    /// What was wrong, now that the server has returned. Sessions were opened and closed once each, as many as
    /// `accepted`. Responders that are still held are used: that must do nothing.
    pub fn close(&self, accepted: u64) -> u64 {
        let open = lock(&self.open);
        if open.len() as u64 != accepted || open.values().any(|open| *open) {
            self.complain(&format!("{accepted} sessions were accepted, and these opened: {open:?}"));
        }
        for (request, responder) in lock(&self.held).drain().flat_map(|(_, held)| held) {
            if request.session().is_open() {
                self.complain("a session is open after the end of the server");
            }
            if request.call() % 2 == 0 {
                responder.reply(b"too late");
            } else {
                let mut stream = responder.stream();
                let sent = stream.send(b"too late");
                if sent != Err(StreamError::Disconnected) {
                    self.complain(&format!("a stream goes on after the end of the server: {sent:?}"));
                }
            }
        }
        self.complaints()
    }

    /// What was wrong.
    pub fn complaints(&self) -> u64 {
        self.complaints.load(Ordering::Relaxed)
    }
}

/// [`react`] as a service.
#[derive(Debug)]
pub struct Reacting(pub Arc<State>);

impl Service for Reacting {
    fn request(&mut self, request: OwnedRequest, responder: Responder) {
        if lock(&self.0.open).get(&request.session().id()) != Some(&true) {
            self.0.complain("a request of a session that is not open");
        }
        react(&self.0, request, responder);
    }

    fn opened(&mut self, session: &Session) {
        self.0.count(Count::Opened);
        if lock(&self.0.open).insert(session.id(), true).is_some() {
            self.0.complain("a session was opened twice");
        }
    }

    fn closed(&mut self, session: &Session) {
        self.0.count(Count::Closed);
        if lock(&self.0.open).insert(session.id(), false) != Some(true) {
            self.0.complain("a session was closed that was not open");
        }
        if session.is_open() {
            self.0.complain("a session that is closed says that it is open");
        }
        lock(&self.0.executed).remove(&session.id());
    }
}

fn pause(us: u64) {
    let time = Duration::from_micros(us);
    // Sleeps are not as short as that.
    if us < 100 { crate::busy_for(time) } else { std::thread::sleep(time) }
}

/// The usual answer.
fn stamped(request: &OwnedRequest) -> Vec<u8> {
    let payload = request.payload();
    [&request.session().id().to_le_bytes()[..], &payload[1..9], payload.get(17..).unwrap_or_default()]
        .concat()
}

fn echo(request: OwnedRequest, responder: Responder) {
    let answer = stamped(&request);
    drop(request);
    responder.reply(&answer);
}

/// Does what the request says. `n` is its argument; "moved" means on a worker thread, or on a thread of its own if it may
/// take long. Empty requests get empty answers, every second one of them moved.
///
/// | verb | what |
/// |---|---|
/// | `e` | echoes; `t` the same moved, after `n` us; `b` the same here, busy for `n` us |
/// | `k` | moved: passes gate `n` unless it is 0, echoes, then opens the gate that the rest names unless it is 0 |
/// | `K` | passes gate `n`, echoes: for executors |
/// | `o` | opens gate `n` |
/// | `d` | drops the responder; `D` the same moved |
/// | `l` | leaks the responder |
/// | `p` | panics; `P` the same moved |
/// | `z` | answers `n` zeros; `Z` the same moved, in one of three ways |
/// | `x` | an error of the application, number `n`, with the rest as its text; `X` the same moved |
/// | `h` | holds the request under the name `n`; `r` answers those held (echoes, and how many of them were cancelled) |
/// | `s` | moved: a stream of `n` items, see [`stream_of`]; `S` the same with items of exactly that length |
/// | `i` | a stream of up to `n` items, as many as may be sent here |
/// | `w` | moved: waits until the call is cancelled, then answers |
/// | `L` | notes that it was executed, busy for `n` us; `M` the same moved; `q` answers the notes of its session |
/// | `a` | answers what the request says of itself: call id, one-way, ms left until its deadline, expired |
/// | `v` | moved: pushes `n` events from each of several threads (first byte of the rest), then answers |
/// | `V` | pushes `n` events of a length (u32); answers how many were pushed, found no room, nobody, were too large |
/// | `m` | remembers this session; `y` pushes an event to the session `n`, answers as `V` |
/// | `c` | answers all [`Count`]s |
///
/// # Panics
/// If told so.
#[allow(clippy::too_many_lines, reason = "a table")]
pub fn react(state: &Arc<State>, request: OwnedRequest, responder: Responder) {
    let payload = request.payload();
    let Some(verb) = payload.first().copied() else {
        if state.empty.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            return responder.reply(b"");
        }
        return moved(state, move || responder.reply(b""));
    };
    let (number, n) = (word(payload, 1), word(payload, 9));
    let session = request.session();
    let rest = payload.get(17..).unwrap_or_default().to_vec();
    let len = usize::try_from(n).expect("64 bits");
    let stamp = |words: &[u64]| bytes_of(&[&[session.id(), number], words].concat());
    match verb {
        b'e' => echo(request, responder),
        b't' => moved(state, move || {
            pause(n);
            echo(request, responder);
        }),
        b'b' => {
            crate::busy_for(Duration::from_micros(n));
            echo(request, responder);
        }
        b'k' => moved(state, move || {
            let after = word(request.payload(), 17);
            if n != 0 {
                pass_gate(n);
            }
            echo(request, responder);
            if after != 0 {
                open_gate(after);
            }
        }),
        b'K' => {
            pass_gate(n);
            echo(request, responder);
        }
        b'o' => {
            open_gate(n);
            echo(request, responder);
        }
        b'd' => drop(responder),
        b'D' => moved(state, move || drop(responder)),
        b'l' => std::mem::forget(responder),
        b'p' => panic!("inline: {}", String::from_utf8_lossy(&rest)),
        b'P' => moved(state, move || {
            // The responder is dropped while this thread panics.
            let _responder = responder;
            panic!("moved");
        }),
        b'z' => responder.reply(&vec![0; len]),
        b'Z' => moved(state, move || match number % 3 {
            0 => responder.reply(&vec![0; len]),
            1 => responder.reply_with(len, |_| {}),
            _ => responder.reply_vec(vec![0; len]),
        }),
        b'x' | b'X' => {
            let code = u16::try_from(n).unwrap_or(u16::MAX);
            let error = HandlerError::new(code, String::from_utf8_lossy(&rest));
            if verb == b'x' { responder.error(error) } else { moved(state, move || responder.error(error)) }
        }
        b'h' => lock(&state.held).entry(n).or_default().push((request, responder)),
        b'r' => {
            let held = lock(&state.held).remove(&n).unwrap_or_default();
            let cancelled =
                held.iter().filter(|(held, responder)| held.is_cancelled() && responder.is_cancelled());
            let answer = stamp(&[held.len() as u64, cancelled.count() as u64]);
            for (request, responder) in held {
                echo(request, responder);
            }
            responder.reply(&answer);
        }
        b's' | b'S' => {
            let state = state.clone();
            std::thread::spawn(move || produce(&state, &request, responder));
        }
        b'i' => {
            let mut stream = responder.stream();
            let mut sent = 0;
            while sent < n {
                match stream.send(&item(session.id(), number, sent, 0)) {
                    Ok(()) => sent += 1,
                    Err(StreamError::WouldBlock) => {
                        state.count(Count::Blocked);
                        break;
                    }
                    Err(error) => return state.complain(&format!("{error:?} on the reactor's thread")),
                }
            }
            stream.end();
        }
        b'w' => {
            let state = state.clone();
            std::thread::spawn(move || {
                if crate::becomes_true(Duration::from_secs(20), || request.is_cancelled()) {
                    state.count(Count::CancelSeen);
                }
                echo(request, responder);
            });
        }
        b'L' | b'M' => {
            let of = state.clone();
            let run = move || {
                lock(&of.executed).entry(session.id()).or_default().push(number);
                crate::busy_for(Duration::from_micros(n));
                echo(request, responder);
            };
            if verb == b'L' { run() } else { moved(state, run) }
        }
        b'q' => {
            let executed = lock(&state.executed).get(&session.id()).cloned().unwrap_or_default();
            responder.reply(&stamp(&executed));
        }
        b'a' => {
            let left = request.deadline().map_or(u64::MAX, |deadline| {
                u64::try_from(deadline.saturating_duration_since(Instant::now()).as_millis()).expect("soon")
            });
            let words = [request.call(), request.is_one_way().into(), left, request.is_expired().into()];
            responder.reply(&stamp(&words));
        }
        b'v' => {
            let threads = rest.first().copied().unwrap_or(1);
            let state = state.clone();
            std::thread::spawn(move || {
                std::thread::scope(|scope| {
                    for thread in 0..u64::from(threads) {
                        let (session, state) = (&session, &state);
                        scope.spawn(move || push_all(state, session, number, thread, n));
                    }
                });
                echo(request, responder);
            });
        }
        b'V' => {
            let event = vec![
                0;
                rest.get(..4).map_or(0, |len| {
                    usize::try_from(u32::from_le_bytes(len.try_into().expect("four bytes"))).expect("64 bits")
                })
            ];
            let mut outcomes = [0; 4];
            for index in 0..n {
                let mut event = event.clone();
                if let Some(start) = event.get_mut(..8) {
                    start.copy_from_slice(&index.to_le_bytes());
                }
                outcomes[outcome_of_push(session.push(&event))] += 1;
            }
            responder.reply(&stamp(&outcomes));
        }
        b'm' => {
            lock(&state.remembered).insert(session.id(), session);
            echo(request, responder);
        }
        b'y' => {
            let mut outcomes = [0; 4];
            if let Some(other) = lock(&state.remembered).get(&n) {
                outcomes[outcome_of_push(other.push(b"from another"))] += 1;
            }
            responder.reply(&stamp(&outcomes));
        }
        b'c' => {
            let counts: Vec<u64> = state.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
            responder.reply(&stamp(&counts));
        }
        _ => responder.error("no such verb"),
    }
}

fn moved(state: &Arc<State>, run: impl FnOnce() + Send + 'static) {
    state.count(Count::Moved);
    state.pool.execute(Task::new(run));
}

fn outcome_of_push(pushed: Result<(), PushError>) -> usize {
    match pushed {
        Ok(()) => 0,
        Err(PushError::Full { .. }) => 1,
        Err(PushError::Disconnected) => 2,
        Err(PushError::TooLarge { .. }) => 3,
        Err(error) => panic!("{error:?}"),
    }
}

fn push_all(state: &State, session: &Session, number: u64, thread: u64, events: u64) {
    for index in 0..events {
        let event = bytes_of(&[session.id(), number, thread, index]);
        loop {
            match session.push(&event) {
                Ok(()) => break,
                Err(PushError::Full { .. }) => {
                    state.count(Count::Blocked);
                    std::thread::sleep(Duration::from_micros(100));
                }
                Err(_) => return state.count(Count::Gone),
            }
        }
    }
}

fn produce(state: &State, request: &OwnedRequest, responder: Responder) {
    let payload = request.payload();
    let (number, items) = (word(payload, 1), word(payload, 9));
    let longest = u32::from_le_bytes(payload[17..21].try_into().expect("four bytes"));
    let session = request.session().id();
    let mut stream = responder.stream();
    for index in 0..items {
        let item = if payload[0] == b'S' {
            vec![0; longest as usize]
        } else {
            item(session, number, index, longest.into())
        };
        let sent = match stream.send_timeout(&item, Some(Duration::ZERO)) {
            Err(StreamError::WouldBlock) => {
                state.count(Count::Blocked);
                stream.send(&item)
            }
            sent => sent,
        };
        match sent {
            Ok(()) => state.count(Count::Items),
            Err(StreamError::TooLarge { .. }) => state.count(Count::TooLarge),
            Err(StreamError::Cancelled) => {
                if !stream.is_cancelled() {
                    state.complain("a stream that is cancelled does not say so");
                }
                return state.count(Count::Cancelled);
            }
            Err(StreamError::Disconnected) => return state.count(Count::Gone),
            Err(error) => return state.complain(&format!("a stream failed: {error:?}")),
        }
    }
    end(stream, payload[21]);
}

fn end(stream: ResponseStream, how: u8) {
    match how {
        how if how == StreamEnd::Dropped as u8 => drop(stream),
        how if how == StreamEnd::Error as u8 => stream.error(HandlerError::new(7, "half-way")),
        how if how == StreamEnd::Leaked as u8 => std::mem::forget(stream),
        how if how == StreamEnd::Panic as u8 => {
            let _stream = stream;
            panic!("in a stream");
        }
        _ => stream.end(),
    }
}

/// An answer, or the error in its place, and the number of the request that it belongs to.
pub type Numbered = (u64, Result<Vec<u8>, RemoteError>);

/// A client of [`react`], which numbers its requests and checks whose answers it gets.
#[derive(Debug)]
pub struct Asking {
    client: Client,
    next: u64,
    waiting: HashMap<CallId, u64>,
}

impl Asking {
    /// Connects.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn connect(path: &Path, options: ConnectOptions) -> Self {
        let client =
            options.connect(path).unwrap_or_else(|error| panic!("cannot connect: {error} ({error:?})"));
        Self { client, next: 1, waiting: HashMap::new() }
    }

    /// The client itself.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// The session's number.
    #[must_use]
    pub fn session(&self) -> u64 {
        self.client.session()
    }

    /// The number of the next request.
    #[must_use]
    pub fn next_number(&self) -> u64 {
        self.next
    }

    /// The next request.
    pub fn request(&mut self, verb: u8, argument: u64, rest: &[u8]) -> Vec<u8> {
        let request = ask(verb, self.next, argument, rest);
        self.next += 1;
        request
    }

    /// What an answer holds beside its stamp.
    ///
    /// # Panics
    /// If it belongs to another session or call.
    fn unstamped(session: u64, number: u64, answer: &[u8]) -> Vec<u8> {
        assert!(answer.len() >= 16, "an answer of {} bytes", answer.len());
        let found = (word(answer, 0), word(answer, 8));
        assert_eq!(found, (session, number), "an answer went astray");
        answer[16..].to_vec()
    }

    /// A call; what the answer holds beside its stamp.
    ///
    /// # Errors
    /// Those of the call.
    ///
    /// # Panics
    /// If the answer belongs to another session or call.
    pub fn ask(&mut self, verb: u8, argument: u64, rest: &[u8]) -> Result<Vec<u8>, CallError> {
        self.ask_within(verb, argument, rest, None)
    }

    /// A call with a timeout.
    ///
    /// # Errors
    /// Those of the call.
    ///
    /// # Panics
    /// As [`Self::ask`].
    pub fn ask_within(
        &mut self,
        verb: u8,
        argument: u64,
        rest: &[u8],
        timeout: Option<Duration>,
    ) -> Result<Vec<u8>, CallError> {
        let number = self.next;
        let request = self.request(verb, argument, rest);
        let session = self.session();
        let answer = self.client.call_timeout(&request, timeout)?;
        Ok(Self::unstamped(session, number, answer.payload()))
    }

    /// A call whose answer must be the echo of `rest`.
    ///
    /// # Panics
    /// If it is not.
    pub fn echoes(&mut self, verb: u8, argument: u64, rest: &[u8]) {
        match self.ask(verb, argument, rest) {
            Ok(answer) => assert_eq!(answer, rest, "the answer to {:?}", verb as char),
            Err(error) => panic!("{:?} failed: {error:?}", verb as char),
        }
    }

    /// The words of an answer.
    ///
    /// # Panics
    /// If the call fails.
    pub fn words(&mut self, verb: u8, argument: u64, rest: &[u8]) -> Vec<u64> {
        words(&self.ask(verb, argument, rest).expect("a call"))
    }

    /// One of the server's counts.
    ///
    /// # Panics
    /// If the call fails.
    pub fn count(&mut self, what: Count) -> u64 {
        self.words(b'c', 0, b"")[what as usize]
    }

    /// Sends a request.
    ///
    /// # Errors
    /// Those of `send_timeout`.
    pub fn send(
        &mut self,
        verb: u8,
        argument: u64,
        rest: &[u8],
        timeout: Option<Duration>,
    ) -> Result<CallId, SendError> {
        let number = self.next;
        let request = self.request(verb, argument, rest);
        let call = self.client.send_timeout(&request, timeout)?;
        assert!(self.waiting.insert(call, number).is_none(), "a call id was used again");
        if number.is_multiple_of(1024) {
            tick();
        }
        Ok(call)
    }

    /// How many requests were sent whose answers were not received.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Receives an answer: its number, and what it holds beside its stamp.
    ///
    /// # Errors
    /// Those of `recv`.
    ///
    /// # Panics
    /// If the answer belongs to another session or call, or to none.
    pub fn recv(&mut self, timeout: Option<Duration>) -> Result<Numbered, RecvError> {
        let session = self.session();
        let answer = self.client.recv(timeout)?;
        Ok(Self::take(session, &mut self.waiting, &answer))
    }

    fn take(session: u64, waiting: &mut HashMap<CallId, u64>, answer: &Answer<'_>) -> Numbered {
        let number =
            waiting.remove(&answer.call).unwrap_or_else(|| panic!("an answer to nothing: {answer:?}"));
        let outcome = answer.outcome.as_ref().map_err(Clone::clone);
        (number, outcome.map(|response| Self::unstamped(session, number, response.payload())))
    }

    /// The numbers of all answers that are waited for, in the order in which they come.
    ///
    /// # Panics
    /// If one is an error, or does not come.
    pub fn recv_all(&mut self) -> Vec<u64> {
        let mut numbers = Vec::new();
        while !self.waiting.is_empty() {
            let (number, outcome) = self.recv(Some(Duration::from_secs(20))).expect("an answer");
            outcome.unwrap_or_else(|error| panic!("request {number}: {error}"));
            numbers.push(number);
        }
        numbers
    }

    /// Reads a stream of `longest` (see [`stream_of`]) to its end, checking every item; how many there were.
    ///
    /// # Errors
    /// With which it ended.
    ///
    /// # Panics
    /// If an item is not what it should be.
    pub fn read_stream(&mut self, call: CallId, number: u64, longest: u64) -> Result<u64, CallError> {
        let session = self.session();
        let (mut got, mut index) = (Vec::new(), 0);
        while self.client.next_item(call, &mut got, Some(Duration::from_secs(20)))? {
            assert_eq!(got, item(session, number, index, longest), "item {index} of request {number}");
            index += 1;
            if index.is_multiple_of(1024) {
                tick();
            }
        }
        Ok(index)
    }

    /// Ends the session.
    ///
    /// # Panics
    /// If a wake was lost.
    pub fn finish(mut self) {
        crate::verified::no_wake_was_lost(&self.client.stats());
    }
}
