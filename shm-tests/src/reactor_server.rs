//! A concurrent server that is driven by what it is asked.

use crate::locks::lock;
use crate::reactor_requests::{Count, StreamEnd, bytes_of, item, word};
use crate::waiting::{becomes_true, busy_for};
use ringbell::sync::{Ordering, PlainU64};
use ringbell::{
    Executor, HandlerError, OwnedRequest, PushError, Responder, ResponseStream, Service, Session,
    StreamError, Task,
};
use std::collections::{HashMap, HashSet};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

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
    counts: [PlainU64; 11],
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

    /// What was wrong, now that the server has returned. Sessions were opened and closed once each,
    /// as many as `accepted`. Responders that are still held are used: that must do nothing.
    pub fn close(&self, accepted: u64) -> u64 {
        let open = lock(&self.open);
        if open.len() as u64 != accepted || open.values().any(|open| *open) {
            self.complain(&format!(
                "{accepted} sessions were accepted, and these opened: {open:?}"
            ));
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
                    self.complain(&format!(
                        "a stream goes on after the end of the server: {sent:?}"
                    ));
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
pub struct Reacting {
    /// What it knows.
    pub state: Arc<State>,
    /// Whether tasks handle its requests: then a session may be closed before its last requests are
    /// handled.
    pub in_tasks: bool,
}

impl Service for Reacting {
    fn request(&mut self, request: OwnedRequest, responder: Responder) {
        let open = lock(&self.state.open).get(&request.session().id()).copied();
        if open != Some(true) && !(self.in_tasks && open.is_some()) {
            self.state.complain("a request of a session that is not open");
        }
        react(&self.state, request, responder);
    }

    fn opened(&mut self, session: &Session) {
        self.state.count(Count::Opened);
        if lock(&self.state.open).insert(session.id(), true).is_some() {
            self.state.complain("a session was opened twice");
        }
    }

    fn closed(&mut self, session: &Session) {
        self.state.count(Count::Closed);
        if lock(&self.state.open).insert(session.id(), false) != Some(true) {
            self.state.complain("a session was closed that was not open");
        }
        if session.is_open() {
            self.state.complain("a session that is closed says that it is open");
        }
        lock(&self.state.executed).remove(&session.id());
    }
}

fn pause(us: u64) {
    let time = Duration::from_micros(us);
    // Sleeps are not as short as that.
    if us < 100 { busy_for(time) } else { std::thread::sleep(time) }
}

/// The usual answer.
fn stamped(request: &OwnedRequest) -> Vec<u8> {
    let payload = request.payload();
    [
        &request.session().id().to_le_bytes()[..],
        &payload[1..9],
        payload.get(17..).unwrap_or_default(),
    ]
    .concat()
}

fn echo(request: OwnedRequest, responder: Responder) {
    let answer = stamped(&request);
    drop(request);
    responder.reply(&answer);
}

/// Does what the request says. `n` is its argument; "moved" means on a worker thread, or on a
/// thread of its own if it may take long. Empty requests get empty answers, every second one of
/// them moved.
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
/// | `s` | moved: a stream of `n` items, see `stream_of`; `S` the same with items of exactly that length |
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
            busy_for(Duration::from_micros(n));
            state.count(Count::Busy);
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
            if verb == b'x' {
                responder.error(error)
            } else {
                moved(state, move || responder.error(error))
            }
        }
        b'h' => lock(&state.held).entry(n).or_default().push((request, responder)),
        b'r' => {
            let held = lock(&state.held).remove(&n).unwrap_or_default();
            let cancelled = held
                .iter()
                .filter(|(held, responder)| held.is_cancelled() && responder.is_cancelled());
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
                    // On an executor, where it waits.
                    Err(StreamError::SlowClient) => {
                        state.count(Count::Slow);
                        break;
                    }
                    Err(error) => {
                        return state.complain(&format!("{error:?} on the handler's thread"));
                    }
                }
            }
            // After a stall, too: the client must not take that for the end.
            stream.end();
        }
        b'w' => {
            let state = state.clone();
            std::thread::spawn(move || {
                if becomes_true(Duration::from_secs(20), || request.is_cancelled()) {
                    state.count(Count::CancelSeen);
                }
                echo(request, responder);
            });
        }
        b'L' | b'M' => {
            let of = state.clone();
            let run = move || {
                lock(&of.executed).entry(session.id()).or_default().push(number);
                busy_for(Duration::from_micros(n));
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
                u64::try_from(deadline.saturating_duration_since(Instant::now()).as_millis())
                    .expect("soon")
            });
            let words =
                [request.call(), request.is_one_way().into(), left, request.is_expired().into()];
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
                    usize::try_from(u32::from_le_bytes(len.try_into().expect("four bytes")))
                        .expect("64 bits")
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
            let counts: Vec<u64> =
                state.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
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
            Err(StreamError::SlowClient) => return state.count(Count::Slow),
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
