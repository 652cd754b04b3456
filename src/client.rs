//! L4: the blocking client. A driver of `session.rs`: it adds waiting, deadlines and the pairing of answers.

use crate::bell::{Rescue, Sleeper, before_looking_again};
use crate::calls::{CallId, Calls, Waiting};
use crate::clock::{Deadline, now_ns, timespec};
use crate::fork::Origin;
use crate::handshake::lifeline::{self, Farewell};
use crate::handshake::{self, Attached, Attachment, ConnectError, HelloOptions, TransportChoice};
use crate::layout::{self, Hints, Interest, Kind, Mode, offset};
use crate::memory::{OwnWord, PeerWord};
use crate::ring::{Consumer, Producer, Record};
use crate::session::{Budget, Head, Parts, PeerFault, Progress, Received, Sent, Session};
use crate::stats::{SessionCounters, Words};
use crate::sync::{Ordering, spin_hint};
use crate::wait::{Step, Surroundings, WaitSettings, Waiter};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use std::cell::Cell;
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How to connect. The defaults are good for most.
#[derive(Debug, Clone)]
#[must_use = "options do nothing until `connect`"]
pub struct ConnectOptions {
    hello: HelloOptions,
    timeout: Option<Duration>,
    wait_for_server: bool,
    max_in_flight: usize,
    wait: WaitSettings,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl ConnectOptions {
    /// The defaults: the server's sizes, five seconds for the handshake, 1024 calls in flight.
    pub fn new() -> Self {
        Self {
            hello: HelloOptions {
                name: crate::server::program_name(),
                transport: TransportChoice::SharedMemory,
                ..HelloOptions::default()
            },
            timeout: Some(Duration::from_secs(5)),
            wait_for_server: false,
            max_in_flight: 1024,
            wait: WaitSettings::client(),
        }
    }

    /// Capacity of each ring in bytes: a power of two from 2 KiB to 1 GiB. Default: the server's choice.
    pub fn ring_capacity(mut self, bytes: u64) -> Self {
        self.hello.request_capacity = bytes;
        self.hello.response_capacity = bytes;
        self
    }

    /// Largest message either way in bytes. The server's limit holds if it is smaller.
    pub fn max_message(mut self, bytes: u64) -> Self {
        self.hello.max_message = bytes;
        self
    }

    /// A name for tools to show, at most 48 bytes. Default: the name of the program.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.hello.name = name.into();
        self
    }

    /// How long connecting may take; `None` waits for ever. Default 5 s.
    pub fn timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeout = timeout;
        self
    }

    /// Whether to wait for a server that does not listen yet, within [`Self::timeout`]: for programs that start their
    /// server themselves. Looks every few milliseconds. Default: no.
    pub fn wait_for_server(mut self, wait: bool) -> Self {
        self.wait_for_server = wait;
        self
    }

    /// How many calls may be without an answer at once. Default 1024.
    pub fn max_in_flight(mut self, calls: usize) -> Self {
        self.max_in_flight = calls;
        self
    }

    /// The waiting policy. Default [`WaitSettings::client`].
    pub fn wait(mut self, settings: WaitSettings) -> Self {
        self.wait = settings;
        self
    }

    /// Connects to the server that listens at `path`.
    ///
    /// # Errors
    /// [`ConnectError`] says what is in the way.
    pub fn connect(self, path: impl AsRef<Path>) -> Result<Client, ConnectError> {
        if self.max_in_flight == 0 {
            return Err(ConnectError::InvalidOption("max_in_flight is 0"));
        }
        let deadline = self.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut pause = Duration::from_millis(1);
        loop {
            match handshake::attach(path.as_ref(), &self.hello, deadline) {
                Ok(Attached::Shared(attachment)) => return Ok(Client::new(attachment, &self)),
                Ok(Attached::Socket(_)) => unreachable!("only shared memory was asked for"),
                Err(ConnectError::NoSuchSocket(_) | ConnectError::NobodyListens(_))
                    if self.wait_for_server && deadline.is_none_or(|deadline| Instant::now() < deadline) =>
                {
                    std::thread::sleep(pause);
                    pause = (2 * pause).min(Duration::from_millis(16));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Why a request was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// Longer than a message may be. Nothing was written.
    TooLarge {
        /// Length of the payload in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// As many calls as allowed have no answer yet: receive some first.
    TooManyInFlight {
        /// The limit.
        limit: usize,
    },
    /// There was no room in time. The server will not see the request.
    TimedOut,
    /// The server is gone. The request that was to be sent was not executed.
    Disconnected,
    /// The server has shut down.
    ShutDown,
    /// The server broke the protocol; the session is over.
    PeerFault(PeerFault),
    /// This process is a fork of the one that connected.
    Forked,
}

/// Why no answer was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecvError {
    /// No call is in flight, so nothing will come.
    NothingInFlight,
    /// Nothing came in time. The calls are still in flight.
    TimedOut,
    /// The server is gone; calls that were in flight may have been executed.
    Disconnected,
    /// The server has shut down; calls that were in flight may have been executed.
    ShutDown,
    /// The server broke the protocol; the session is over.
    PeerFault(PeerFault),
    /// This process is a fork of the one that connected.
    Forked,
}

/// Why a call brought no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallError {
    /// The request is longer than a message may be. Nothing was written.
    TooLarge {
        /// Length of the payload in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// As many calls as allowed have no answer yet.
    TooManyInFlight {
        /// The limit.
        limit: usize,
    },
    /// No answer came in time.
    TimedOut {
        /// Whether the server may have executed the request, or may yet.
        maybe_executed: bool,
    },
    /// The server is gone.
    Disconnected {
        /// Whether the server may have executed the request.
        maybe_executed: bool,
    },
    /// The server has shut down.
    ShutDown {
        /// Whether the server may have executed the request.
        maybe_executed: bool,
    },
    /// The server answered with an error.
    Remote(RemoteError),
    /// The server broke the protocol; the session is over.
    PeerFault(PeerFault),
    /// This process is a fork of the one that connected.
    Forked,
}

/// An error that the server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteError {
    /// What kind of error: [`layout::code`] below 256, the application's own from there on.
    pub code: u16,
    /// A short text for people.
    pub text: String,
}

impl RemoteError {
    /// The code that the handler gave to [`HandlerError::new`](crate::HandlerError::new); `None` for Ringbell's own.
    pub fn application_code(&self) -> Option<u16> {
        self.code.checked_sub(layout::code::APPLICATION)
    }
}

impl std::fmt::Display for RemoteError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (code {})", self.text, self.code)
    }
}

impl std::error::Error for RemoteError {}

impl std::fmt::Display for SendError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLarge { len, max } => write!(f, "a message of {len} bytes is too large: at most {max}"),
            Self::TooManyInFlight { limit } => write!(f, "{limit} calls are in flight, which is the limit"),
            Self::TimedOut => f.write_str("no room for the request in time"),
            Self::Disconnected => f.write_str("the server is gone"),
            Self::ShutDown => f.write_str("the server has shut down"),
            Self::PeerFault(fault) => fault.fmt(f),
            Self::Forked => f.write_str("the session belongs to the parent process"),
        }
    }
}

impl std::error::Error for SendError {}

impl std::fmt::Display for RecvError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NothingInFlight => f.write_str("no call is in flight"),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::Disconnected => f.write_str("the server is gone"),
            Self::ShutDown => f.write_str("the server has shut down"),
            Self::PeerFault(fault) => fault.fmt(f),
            Self::Forked => f.write_str("the session belongs to the parent process"),
        }
    }
}

impl std::error::Error for RecvError {}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let executed = |maybe: &bool| if *maybe { "may have been executed" } else { "was not executed" };
        match self {
            Self::TooLarge { len, max } => write!(f, "a message of {len} bytes is too large: at most {max}"),
            Self::TooManyInFlight { limit } => write!(f, "{limit} calls are in flight, which is the limit"),
            Self::TimedOut { maybe_executed } => {
                write!(f, "no answer in time; the request {}", executed(maybe_executed))
            }
            Self::Disconnected { maybe_executed } => {
                write!(f, "the server is gone; the request {}", executed(maybe_executed))
            }
            Self::ShutDown { maybe_executed } => {
                write!(f, "the server has shut down; the request {}", executed(maybe_executed))
            }
            Self::Remote(error) => write!(f, "the server answered with an error: {error}"),
            Self::PeerFault(fault) => fault.fmt(f),
            Self::Forked => f.write_str("the session belongs to the parent process"),
        }
    }
}

impl std::error::Error for CallError {}

impl From<SendError> for CallError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::TooLarge { len, max } => Self::TooLarge { len, max },
            SendError::TooManyInFlight { limit } => Self::TooManyInFlight { limit },
            SendError::TimedOut => Self::TimedOut { maybe_executed: false },
            SendError::Disconnected => Self::Disconnected { maybe_executed: false },
            SendError::ShutDown => Self::ShutDown { maybe_executed: false },
            SendError::PeerFault(fault) => Self::PeerFault(fault),
            SendError::Forked => Self::Forked,
        }
    }
}

/// An answer. Its bytes are a private copy in the client's buffer, good until the client is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response<'a> {
    call: CallId,
    payload: &'a [u8],
}

impl<'a> Response<'a> {
    /// The call that this answers.
    pub fn call(&self) -> CallId {
        self.call
    }

    /// The bytes.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

impl std::ops::Deref for Response<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.payload
    }
}

/// What one call in flight came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The call.
    pub call: CallId,
    /// The response, or the error that the server answered.
    pub outcome: Result<Response<'a>, RemoteError>,
}

/// An answer that may still lie in the ring, where the server can change it: look at it without copying all of it.
///
/// Safe reads copy out, word for word what the server has there at that moment; two reads may differ if the
/// server is hostile.
#[derive(Debug)]
pub struct View<'a>(ViewOf<'a>);

#[derive(Debug)]
enum ViewOf<'a> {
    Ring(&'a Consumer, &'a Record),
    Private(&'a [u8]),
}

impl View<'_> {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        match &self.0 {
            ViewOf::Ring(_, record) => record.len(),
            ViewOf::Private(bytes) => bytes.len(),
        }
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies bytes from `offset` on to all of `out`.
    ///
    /// # Panics
    /// If they are beyond the end.
    pub fn copy_to(&self, offset: usize, out: &mut [u8]) {
        match &self.0 {
            ViewOf::Ring(ring, record) => ring.read_to(record, offset, out),
            ViewOf::Private(bytes) => out.copy_from_slice(&bytes[offset..offset + out.len()]),
        }
    }

    /// The bytes in place.
    ///
    /// # Safety
    /// The server must be trusted not to change the bytes while the slice lives, as it never does by the protocol:
    /// a well-behaved server does not touch them before the view is dropped.
    #[allow(unsafe_code, reason = "the caller vouches for the server")]
    pub unsafe fn as_slice(&self) -> &[u8] {
        match &self.0 {
            ViewOf::Ring(ring, record) => {
                let bytes = ring.address(record);
                // SAFETY: in bounds and mapped while the ring is borrowed; unchanged by the caller's contract.
                unsafe { std::slice::from_raw_parts(bytes.as_ptr(), record.len()) }
            }
            ViewOf::Private(bytes) => bytes,
        }
    }
}

/// Takes a record that is being shown, also if the one who looks at it panics.
struct Shown<'a> {
    session: &'a mut Session,
    record: Option<Record>,
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            self.session.take(record);
        }
    }
}

/// Room for a request in the ring itself, to be written in place: no copy. Dropping it gives the room back.
#[derive(Debug)]
pub struct Claim<'a> {
    client: &'a mut Client,
    claim: Option<crate::ring::Claim>,
}

impl Claim<'_> {
    /// Sends the request.
    ///
    /// # Panics
    /// In a forked child: the ring is the parent's.
    pub fn commit(mut self) -> CallId {
        assert!(self.client.origin.is_here(), "the session belongs to the parent process");
        let claim = self.claim.take().expect("taken only here");
        let call = self.client.calls.begin().expect("looked at when it was claimed");
        self.client.session.commit(claim, Head::new(Kind::Request, call.0));
        call
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        // A claim that is given back may have left padding behind, of which the server has to know.
        if self.claim.is_some() {
            self.client.flush();
        }
    }
}

impl std::ops::Deref for Claim<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // A claim's bytes are this process's own; what is in them before they are written is arbitrary.
        self.client.session.claimed_so_far(self.claim.as_ref().expect("taken only by commit"))
    }
}

impl std::ops::DerefMut for Claim<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.client.session.claimed(self.claim.as_ref().expect("taken only by commit"))
    }
}

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Disconnected,
    ShutDown,
    PeerFault(PeerFault),
    Forked,
}

impl From<PeerFault> for Over {
    fn from(fault: PeerFault) -> Self {
        Self::PeerFault(fault)
    }
}

impl Over {
    fn as_send(self) -> SendError {
        match self {
            Self::Disconnected => SendError::Disconnected,
            Self::ShutDown => SendError::ShutDown,
            Self::PeerFault(fault) => SendError::PeerFault(fault),
            Self::Forked => SendError::Forked,
        }
    }

    fn as_recv(self) -> RecvError {
        match self {
            Self::Disconnected => RecvError::Disconnected,
            Self::ShutDown => RecvError::ShutDown,
            Self::PeerFault(fault) => RecvError::PeerFault(fault),
            Self::Forked => RecvError::Forked,
        }
    }

    fn as_call(self, maybe_executed: bool) -> CallError {
        match self {
            Self::Disconnected => CallError::Disconnected { maybe_executed },
            Self::ShutDown => CallError::ShutDown { maybe_executed },
            Self::PeerFault(fault) => CallError::PeerFault(fault),
            Self::Forked => CallError::Forked,
        }
    }
}

/// Why a wait ended without a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WaitEnd {
    TimedOut,
    Over(Over),
}

/// An answer that was set aside.
#[derive(Debug)]
struct Stashed {
    head: Head,
    payload: Vec<u8>,
}

/// Records that are looked at between two looks at the clock.
const LOOK_MOST: u32 = 1024;

/// How often a client that only polls looks whether the server is there.
const CHECK_EVERY_NS: u64 = 20_000_000;

/// One attachment to a server, for one thread at a time.
///
/// `Send`, not `Sync`: it may move between threads, and each method takes `&mut self`. Threads that want to call
/// at the same time connect once each. A forked child cannot use its parent's client ([`CallError::Forked`]).
///
/// Dropping it says goodbye and gives everything back.
#[derive(Debug)]
pub struct Client {
    session: Session,
    sleeper: Sleeper,
    waiter: Waiter,
    hints: OwnWord,
    server_hints: PeerWord,
    cpu: Option<u32>,
    server: Option<OwnedFd>,
    calls: Calls,
    max_in_flight: usize,
    stash: VecDeque<Stashed>,
    buffer: Vec<u8>,
    over: Option<Over>,
    /// What the lifeline said of the server, once it said so: what is left in the ring is still read.
    verdict: Option<Over>,
    origin: Origin,
    id: u64,
    generation: u64,
    server_pid: u32,
    /// When a client that only polls last looked whether the server is there.
    checked_at: u64,
    _not_sync: PhantomData<Cell<()>>,
}

impl Client {
    /// Connects to the server that listens at `path`, with the defaults of [`ConnectOptions`].
    ///
    /// # Errors
    /// [`ConnectError`] says what is in the way.
    pub fn connect(path: impl AsRef<Path>) -> Result<Self, ConnectError> {
        ConnectOptions::new().connect(path)
    }

    #[allow(clippy::cast_possible_truncation, reason = "usize is 64 bits; capacities were checked")]
    fn new(attachment: Attachment, options: &ConnectOptions) -> Self {
        let request = &attachment.request.window;
        let response = &attachment.response.window;
        let status = &attachment.status.window;
        let armed = layout::CONTROL + attachment.domain as usize * layout::ARMED_STRIDE;
        let out = Producer::new(
            request.own_lines(layout::CONTROL, attachment.request_capacity as usize),
            request.own_word(offset::TAIL),
            response.peer_word(offset::HEAD),
            0,
        );
        let incoming = Consumer::new(
            response.peer_lines(layout::CONTROL, attachment.response_capacity as usize),
            request.own_word(offset::HEAD),
            0,
        );
        let ringer =
            crate::bell::Ringer::new(status.peer_word(armed), attachment.bell.window.bell_word(offset::SEQ));
        let sleeper = Sleeper::new(request.own_word(offset::ARMED), response.bell_word(offset::SEQ));
        let max_message = attachment.max_message as usize;
        let session = Session::new(Parts {
            out,
            incoming,
            ringer,
            lifeline: Arc::new(attachment.lifeline),
            words: Words::new(request),
            max_message,
            burst: usize::MAX,
            // One incomplete answer at a time, which `max_message` bounds.
            budget: Budget::new(u64::MAX),
        });
        let mut client = Self {
            session,
            sleeper,
            waiter: Waiter::new(options.wait.clone()),
            hints: request.own_word(offset::HINTS),
            server_hints: status.peer_word(offset::HINTS),
            cpu: None,
            server: attachment.server,
            calls: Calls::new(options.max_in_flight),
            max_in_flight: options.max_in_flight,
            stash: VecDeque::new(),
            buffer: Vec::new(),
            over: None,
            verdict: None,
            origin: Origin::here(),
            id: attachment.session,
            generation: attachment.generation,
            server_pid: attachment.server_pid,
            checked_at: 0,
            _not_sync: PhantomData,
        };
        client.hint(false);
        client
    }

    /// Sends a request and waits for its answer, for ever.
    ///
    /// # Errors
    /// [`CallError`]; the answer of the server may itself be one.
    #[inline]
    pub fn call(&mut self, request: &[u8]) -> Result<Response<'_>, CallError> {
        self.call_until(request, Deadline::Never)
    }

    /// Sends a request and waits for its answer, `timeout` long: `None` waits for ever, zero does not wait.
    ///
    /// After [`CallError::TimedOut`] the session goes on; an answer that still comes is dropped.
    ///
    /// # Errors
    /// As [`Self::call`], and [`CallError::TimedOut`].
    #[inline]
    pub fn call_timeout(
        &mut self,
        request: &[u8],
        timeout: Option<Duration>,
    ) -> Result<Response<'_>, CallError> {
        self.call_until(request, Deadline::after(timeout))
    }

    /// Sends a request and waits for its answer until `deadline`; `None` waits for ever.
    ///
    /// # Errors
    /// As [`Self::call_timeout`].
    pub fn call_deadline(
        &mut self,
        request: &[u8],
        deadline: Option<Instant>,
    ) -> Result<Response<'_>, CallError> {
        self.call_until(request, Deadline::at(deadline))
    }

    /// Sends a request and replaces the content of `response` with the answer; its length in bytes.
    ///
    /// # Errors
    /// As [`Self::call_timeout`].
    pub fn call_into(
        &mut self,
        request: &[u8],
        response: &mut Vec<u8>,
        timeout: Option<Duration>,
    ) -> Result<usize, CallError> {
        // The buffers change places, so the answer is copied out of the ring once.
        std::mem::swap(&mut self.buffer, response);
        let result = self.call_until(request, Deadline::after(timeout)).map(|response| response.len());
        std::mem::swap(&mut self.buffer, response);
        result
    }

    /// Sends a request and shows the answer to `look` where it lies, if it lies in one piece.
    ///
    /// # Errors
    /// As [`Self::call_timeout`].
    pub fn call_view<R>(
        &mut self,
        request: &[u8],
        timeout: Option<Duration>,
        look: impl FnOnce(View<'_>) -> R,
    ) -> Result<R, CallError> {
        let mut deadline = Deadline::after(timeout);
        let call = self.send_until(request, &mut deadline)?;
        loop {
            let waited = self
                .wait(&mut deadline, Interest::DATA, |client| Ok(client.session.has_pending().then_some(())));
            if let Err(end) = waited {
                return Err(self.call_failed(call, end));
            }
            let peeked = self.session.peek().map_err(|fault| self.fail(fault.into()).as_call(true))?;
            if let Some((head, record)) = peeked
                && head.call == call.0
                && head.kind() == Kind::Response
            {
                if self.calls.end(call.0).is_none() {
                    return Err(self.fail(PeerFault::UnknownCall(call.0).into()).as_call(true));
                }
                let shown = Shown { session: &mut self.session, record: Some(record) };
                let record = shown.record.as_ref().expect("taken only when it is dropped");
                return Ok(look(View(ViewOf::Ring(shown.session.incoming(), record))));
            }
            match self.look(Some(call)) {
                Err(over) => return Err(self.fail(over).as_call(true)),
                Ok(None) => {}
                Ok(Some(head)) => {
                    let response = Self::outcome(head, &self.buffer).map_err(CallError::Remote)?;
                    return Ok(look(View(ViewOf::Private(response.payload))));
                }
            }
        }
    }

    #[inline]
    fn call_until(&mut self, request: &[u8], mut deadline: Deadline) -> Result<Response<'_>, CallError> {
        let call = self.send_until(request, &mut deadline)?;
        let head = match self.wait(&mut deadline, Interest::DATA, |client| client.look(Some(call))) {
            Ok(head) => head,
            Err(end) => return Err(self.call_failed(call, end)),
        };
        Self::outcome(head, &self.buffer).map_err(CallError::Remote)
    }

    #[cold]
    fn call_failed(&mut self, call: CallId, end: WaitEnd) -> CallError {
        match end {
            WaitEnd::TimedOut => {
                self.calls.abandon(call);
                self.session.counts.timeouts += 1;
                CallError::TimedOut { maybe_executed: true }
            }
            WaitEnd::Over(over) => over.as_call(true),
        }
    }

    /// Sends a request without waiting for its answer, which [`Self::recv`] brings. Waits for room as long as it
    /// takes; answers that arrive meanwhile are set aside.
    ///
    /// # Errors
    /// [`SendError`]; the request will not be executed.
    #[inline]
    pub fn send(&mut self, request: &[u8]) -> Result<CallId, SendError> {
        self.send_until(request, &mut Deadline::Never)
    }

    /// As [`Self::send`], waiting for room at most `timeout`: `None` waits for ever, zero does not wait.
    ///
    /// # Errors
    /// As [`Self::send`], and [`SendError::TimedOut`].
    pub fn send_timeout(&mut self, request: &[u8], timeout: Option<Duration>) -> Result<CallId, SendError> {
        self.send_until(request, &mut Deadline::after(timeout))
    }

    /// Sends a request, and leaves waking the server to [`Self::flush`]: cheaper than [`Self::send`] where several
    /// follow each other. A server that is awake sees it at once; one that sleeps, when the client flushes, waits
    /// for an answer, or is dropped.
    ///
    /// # Errors
    /// As [`Self::send`].
    #[inline]
    pub fn post(&mut self, request: &[u8]) -> Result<CallId, SendError> {
        let call = self.post_until(request, &mut Deadline::Never)?;
        // A server that sleeps already, and not just now falls asleep, need not wait for the flush.
        if self.session.peer_looks_asleep() {
            self.session.flush();
        }
        Ok(call)
    }

    /// Wakes the server if it sleeps and something was posted.
    #[inline]
    pub fn flush(&mut self) {
        if self.origin.is_here() {
            self.session.flush();
        }
    }

    /// Sends many requests and rings once: cheaper than [`Self::send`] for each. Stops at the first that cannot
    /// be sent; the ids of those that were are appended to `calls` in every case.
    ///
    /// # Errors
    /// As [`Self::send`], for the first request that was not sent.
    pub fn send_batch<'r>(
        &mut self,
        requests: impl IntoIterator<Item = &'r [u8]>,
        calls: &mut Vec<CallId>,
    ) -> Result<(), SendError> {
        let mut result = Ok(());
        for request in requests {
            match self.post_until(request, &mut Deadline::Never) {
                Ok(call) => calls.push(call),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        self.flush();
        result
    }

    #[inline]
    fn send_until(&mut self, request: &[u8], deadline: &mut Deadline) -> Result<CallId, SendError> {
        let call = self.post_until(request, deadline)?;
        crate::kill_point!("request-posted");
        self.session.flush();
        Ok(call)
    }

    /// Publishes a request; the ring is owed.
    #[inline]
    fn post_until(&mut self, request: &[u8], deadline: &mut Deadline) -> Result<CallId, SendError> {
        self.usable().map_err(Over::as_send)?;
        if request.len() > self.session.max_message() {
            return Err(SendError::TooLarge { len: request.len(), max: self.session.max_message() });
        }
        let call = self.begin()?;
        crate::kill_point!("request-claimed");
        let head = Head::new(Kind::Request, call.0);
        let mut progress = Progress::default();
        match self.session.post(head, request, &mut progress) {
            Ok(Sent::Done) => Ok(call),
            Ok(Sent::Full) => self.post_when_room(call, head, request, progress, deadline),
            Err(fault) => {
                self.calls.end(call.0);
                Err(self.fail(fault.into()).as_send())
            }
        }
    }

    /// What the limit bounds: calls without an answer, abandoned ones included, and answers set aside.
    fn in_flight_or_kept(&self) -> usize {
        self.calls.in_flight() + self.stash.len()
    }

    #[inline]
    fn begin(&mut self) -> Result<CallId, SendError> {
        if self.stash.is_empty()
            && let Some(call) = self.calls.begin()
        {
            return Ok(call);
        }
        if self.in_flight_or_kept() >= self.max_in_flight {
            self.make_place()?;
        }
        Ok(self.calls.begin().expect("less than the limit"))
    }

    /// Takes in what has come: late answers to calls that were given up no longer count then.
    #[cold]
    fn make_place(&mut self) -> Result<(), SendError> {
        self.drain().map_err(|over| self.fail(over).as_send())?;
        if self.in_flight_or_kept() >= self.max_in_flight {
            if let WaitEnd::Over(over) = self.timed_out(now_ns()) {
                return Err(over.as_send());
            }
            return Err(SendError::TooManyInFlight { limit: self.max_in_flight });
        }
        Ok(())
    }

    #[cold]
    fn post_when_room(
        &mut self,
        call: CallId,
        head: Head,
        request: &[u8],
        mut progress: Progress,
        deadline: &mut Deadline,
    ) -> Result<CallId, SendError> {
        let waited = self.wait(deadline, Interest::BOTH, |client| {
            // The server may be unable to take requests because its answers find no room: make some.
            client.drain()?;
            match client.session.send(head, request, &mut progress)? {
                Sent::Done => Ok(Some(())),
                Sent::Full => Ok(None),
            }
        });
        match waited {
            Ok(()) => Ok(call),
            Err(end) => {
                self.calls.end(call.0);
                if let WaitEnd::Over(over) = end {
                    return Err(over.as_send());
                }
                if progress.is_partial() {
                    self.session.abort(head).map_err(|fault| self.fail(fault.into()).as_send())?;
                }
                self.session.counts.timeouts += 1;
                Err(SendError::TimedOut)
            }
        }
    }

    /// Claims room for a request of `len` bytes in the ring, to be written in place and committed. Waits for room
    /// at most `timeout`: `None` waits for ever, zero does not wait.
    ///
    /// # Errors
    /// As [`Self::send_timeout`]. A request that does not fit one record cannot be claimed
    /// ([`SendError::TooLarge`] with that limit); send it instead.
    pub fn claim(&mut self, len: usize, timeout: Option<Duration>) -> Result<Claim<'_>, SendError> {
        self.usable().map_err(Over::as_send)?;
        let max = self.max_claim();
        if len > max {
            return Err(SendError::TooLarge { len, max });
        }
        if self.in_flight_or_kept() >= self.max_in_flight {
            self.make_place()?;
        }
        let mut deadline = Deadline::after(timeout);
        let claimed = self.wait(&mut deadline, Interest::BOTH, |client| {
            if let Some(claim) = client.session.claim(len)? {
                return Ok(Some(claim));
            }
            client.drain()?;
            Ok(client.session.claim(len)?)
        });
        match claimed {
            Ok(claim) => Ok(Claim { client: self, claim: Some(claim) }),
            Err(WaitEnd::TimedOut) => Err(SendError::TimedOut),
            Err(WaitEnd::Over(over)) => Err(over.as_send()),
        }
    }

    /// Longest request that [`Self::claim`] takes, in bytes.
    pub fn max_claim(&self) -> usize {
        self.session.max_body().min(self.session.max_message())
    }

    /// Longest message either way in bytes.
    pub fn max_message(&self) -> usize {
        self.session.max_message()
    }

    /// The next answer, to whichever call. Waits at most `timeout`: `None` waits for ever, zero does not wait.
    ///
    /// # Errors
    /// [`RecvError`]; [`RecvError::NothingInFlight`] if there is no call to wait for.
    #[inline]
    pub fn recv(&mut self, timeout: Option<Duration>) -> Result<Answer<'_>, RecvError> {
        let head = self.recv_until(Deadline::after(timeout))?;
        Ok(Answer { call: CallId(head.call), outcome: Self::outcome(head, &self.buffer) })
    }

    /// The next answer if one is there.
    ///
    /// # Errors
    /// As [`Self::recv`], without [`RecvError::TimedOut`].
    #[inline]
    pub fn try_recv(&mut self) -> Result<Option<Answer<'_>>, RecvError> {
        match self.recv_until(Deadline::Now) {
            Ok(head) => {
                Ok(Some(Answer { call: CallId(head.call), outcome: Self::outcome(head, &self.buffer) }))
            }
            Err(RecvError::TimedOut) => Ok(None),
            Err(error) => Err(error),
        }
    }

    #[inline]
    fn recv_until(&mut self, mut deadline: Deadline) -> Result<Head, RecvError> {
        let usable = self.usable();
        if usable != Err(Over::Forked) {
            // What was received before the session ended is still good.
            if let Some(stashed) = self.stash.pop_front() {
                self.buffer = stashed.payload;
                return Ok(stashed.head);
            }
        }
        usable.map_err(Over::as_recv)?;
        if self.calls.wanted() == 0 {
            // Answers to calls that were given up may have come: they are dropped here.
            self.drain().map_err(|over| self.fail(over).as_recv())?;
            return Err(RecvError::NothingInFlight);
        }
        match self.wait(&mut deadline, Interest::DATA, |client| client.look(None)) {
            Ok(head) => Ok(head),
            Err(WaitEnd::TimedOut) => Err(RecvError::TimedOut),
            Err(WaitEnd::Over(over)) => Err(over.as_recv()),
        }
    }

    /// Calls without an answer, those included whose answer was set aside.
    pub fn in_flight(&self) -> usize {
        self.calls.wanted() + self.stash.len()
    }

    /// What this side of the session counted so far.
    pub fn stats(&mut self) -> SessionCounters {
        if self.origin.is_here() {
            self.store_counts();
        }
        self.session.counts
    }

    /// The generation of the server: differs after a restart.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The session's number, unique in the server's life.
    pub fn session(&self) -> u64 {
        self.id
    }

    /// The server's process id, as it said; 0 if unknown.
    pub fn server_pid(&self) -> u32 {
        self.server_pid
    }

    #[inline]
    fn usable(&mut self) -> Result<(), Over> {
        if !self.origin.is_here() {
            return Err(Over::Forked);
        }
        match self.over {
            None => Ok(()),
            Some(over) => Err(over),
        }
    }

    #[cold]
    fn fail(&mut self, over: Over) -> Over {
        self.over = Some(over);
        over
    }

    /// Takes what is there until it is the answer to `wanted` (or any answer, if `None`); other answers are set
    /// aside, late ones dropped.
    #[inline]
    fn look(&mut self, wanted: Option<CallId>) -> Result<Option<Head>, Over> {
        // Bounded, so that a server that floods its client with what leads nowhere cannot keep it from its deadline.
        for _ in 0..LOOK_MOST {
            let head = match self.session.receive(&mut self.buffer)? {
                Received::Nothing => return Ok(None),
                Received::Partial => continue,
                Received::Message(head) => head,
                Received::Refused(head) => return Err(PeerFault::UnknownCall(head.call).into()),
            };
            if self.accept(head)? {
                if wanted.is_none_or(|wanted| wanted.0 == head.call) {
                    return Ok(Some(head));
                }
                self.set_aside(head);
            }
        }
        Ok(None)
    }

    /// Whether a message is an answer that somebody wants.
    #[inline]
    fn accept(&mut self, head: Head) -> Result<bool, Over> {
        match head.kind() {
            Kind::Response | Kind::Error => {}
            Kind::Goodbye => return Err(Over::ShutDown),
            Kind::Pong => return Ok(false),
            kind => return Err(PeerFault::UnexpectedKind(kind).into()),
        }
        if head.kind() == Kind::Error {
            self.session.counts.errors += 1;
        }
        match self.calls.end(head.call) {
            Some(Waiting::Wanted) => Ok(true),
            Some(Waiting::Abandoned) => {
                self.session.counts.late_answers += 1;
                Ok(false)
            }
            None => Err(PeerFault::UnknownCall(head.call).into()),
        }
    }

    /// Sets all answers aside that are there. Bounded: the limit of calls in flight counts them.
    fn drain(&mut self) -> Result<(), Over> {
        while let Some(head) = self.look(None)? {
            self.set_aside(head);
        }
        Ok(())
    }

    fn set_aside(&mut self, head: Head) {
        let payload = std::mem::take(&mut self.buffer);
        self.stash.push_back(Stashed { head, payload });
        self.session.counts.stash_peak = self.session.counts.stash_peak.max(self.stash.len() as u64);
    }

    #[inline]
    fn outcome(head: Head, payload: &[u8]) -> Result<Response<'_>, RemoteError> {
        if head.kind() == Kind::Error {
            return Err(RemoteError {
                code: head.code(),
                text: String::from_utf8_lossy(payload).into_owned(),
            });
        }
        Ok(Response { call: CallId(head.call), payload })
    }

    /// Waits until `look` finds something: spins, yields and parks as the policy says.
    #[inline]
    fn wait<T>(
        &mut self,
        deadline: &mut Deadline,
        interest: Interest,
        mut look: impl FnMut(&mut Self) -> Result<Option<T>, Over>,
    ) -> Result<T, WaitEnd> {
        loop {
            match look(self) {
                Ok(Some(found)) => {
                    self.waited();
                    return Ok(found);
                }
                Ok(None) => {}
                Err(over) => {
                    self.waiter.given_up();
                    return Err(WaitEnd::Over(self.fail(over)));
                }
            }
            if *deadline == Deadline::Now {
                return self.without_waiting();
            }
            let around = self.surroundings();
            match self.waiter.step(around, now_ns) {
                Step::Spin(polls) => self.spin(polls),
                step => self.wait_slowly(step, deadline, interest)?,
            }
        }
    }

    #[inline]
    fn waited(&mut self) {
        if self.waiter.is_off_cpu() {
            self.hint(false);
        }
        self.waiter.found(now_ns);
    }

    #[inline]
    fn spin(&self, polls: u32) {
        self.session.watch(polls, || {
            spin_hint();
            false
        });
    }

    #[inline]
    fn surroundings(&self) -> Surroundings {
        let server = Hints(self.server_hints.load());
        Surroundings { peer_cannot_run: server.cpu().is_some() && server.cpu() == self.cpu, crowded: false }
    }

    /// Nothing is there and nothing is waited for: the one moment at which a client that only ever polls learns
    /// that the server is gone.
    #[cold]
    fn without_waiting<T>(&mut self) -> Result<T, WaitEnd> {
        self.waiter.given_up();
        self.session.flush();
        Err(self.timed_out(now_ns()))
    }

    /// A wait ends without a result. Now and then that is the moment to see whether the server is still there, for
    /// clients that never wait for long.
    fn timed_out(&mut self, now: u64) -> WaitEnd {
        self.waiter.given_up();
        if now.saturating_sub(self.checked_at) < CHECK_EVERY_NS {
            return WaitEnd::TimedOut;
        }
        self.checked_at = now;
        match self.check_server() {
            Ok(()) => WaitEnd::TimedOut,
            Err(_) if self.session.has_pending() => WaitEnd::TimedOut,
            Err(over) => WaitEnd::Over(self.fail(over)),
        }
    }

    #[cold]
    fn wait_slowly(
        &mut self,
        step: Step,
        deadline: &mut Deadline,
        interest: Interest,
    ) -> Result<(), WaitEnd> {
        self.session.flush();
        let now = now_ns();
        if deadline.passed(now) {
            self.hint(false);
            return Err(self.timed_out(now));
        }
        if step == Step::Yield {
            self.hint(false);
            rustix::thread::sched_yield();
            return Ok(());
        }
        if let Some(over) = self.verdict {
            // The server is known to be gone: what it published is read, and nobody will publish more.
            if self.session.has_pending() {
                return Ok(());
            }
            self.waiter.given_up();
            return Err(WaitEnd::Over(self.fail(over)));
        }
        self.session.retry_abort().map_err(|fault| WaitEnd::Over(self.fail(fault.into())))?;
        self.session.settle();
        self.store_counts();
        if self.park(now, *deadline, interest) == Slept::Out {
            // Time to see whether the server is still there.
            if let Err(over) = self.check_server() {
                // What it published before it went is still good.
                if !self.session.has_pending() {
                    self.waiter.given_up();
                    return Err(WaitEnd::Over(self.fail(over)));
                }
            }
        }
        Ok(())
    }

    fn park(&mut self, now: u64, deadline: Deadline, interest: Interest) -> Slept {
        self.hint(true);
        let until = deadline.within(now, self.waiter.settings().backstop);
        let ticket = self.sleeper.arm(Mode::Futex, interest);
        crate::kill_point!("client-armed");
        before_looking_again();
        if self.something_came(interest) || self.sleeper.rung(ticket) {
            self.sleeper.disarm();
            self.session.counts.arms_called_off += 1;
            return Slept::Not;
        }
        self.session.counts.parks += 1;
        self.sleeper.seq().wait(ticket.0, Some(timespec(until)));
        let slept = if now_ns() < until { Slept::Rung } else { Slept::Out };
        if slept == Slept::Out && self.something_came(interest) {
            // Still armed: whoever published it rings, now or in a moment.
            match self.sleeper.rescue(ticket) {
                Rescue::LateRing => self.session.counts.late_rings += 1,
                // A ring that died with its ringer was not lost: nobody lived to make it.
                Rescue::LostWake if self.check_server().is_err() => self.session.counts.late_rings += 1,
                Rescue::LostWake => self.session.counts.backstop_rescues += 1,
            }
        }
        self.sleeper.disarm();
        slept
    }

    fn something_came(&mut self, interest: Interest) -> bool {
        self.session.has_pending() || (interest.meets(Interest::SPACE) && self.session.room_appeared())
    }

    /// Whether the server is still there, by its lifeline and its pidfd.
    fn check_server(&mut self) -> Result<(), Over> {
        if let Some(verdict) = self.verdict {
            return Err(verdict);
        }
        let checked = self.check_lifeline();
        self.verdict = checked.err();
        checked
    }

    fn check_lifeline(&self) -> Result<(), Over> {
        let mut bytes = [0; 64];
        // A bounded number of reads: a server that floods the lifeline gains no more of this thread's time.
        for _ in 0..4 {
            let received =
                rustix::net::recv(self.session.lifeline(), &mut bytes[..], rustix::net::RecvFlags::DONTWAIT);
            match received.map(|(count, _)| count) {
                Ok(0) => return Err(Over::Disconnected),
                Ok(count) => {
                    for byte in &bytes[..count] {
                        match *byte {
                            lifeline::WAKE => {}
                            byte if Farewell::from_byte(byte) == Some(Farewell::ShutDown) => {
                                return Err(Over::ShutDown);
                            }
                            0x80.. => return Err(Over::Disconnected),
                            _ => return Err(PeerFault::Lifeline.into()),
                        }
                    }
                }
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return Err(Over::Disconnected),
            }
        }
        let Some(server) = &self.server else { return Ok(()) };
        let zero = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut [PollFd::new(server, PollFlags::IN)], Some(&zero)) {
            Ok(1..) => Err(Over::Disconnected),
            _ => Ok(()),
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "CPU numbers are small")]
    fn hint(&mut self, off: bool) {
        self.cpu = Some(rustix::thread::sched_getcpu() as u32);
        // Relaxed: advice.
        self.hints.store(Hints::new(self.cpu, off).0, Ordering::Relaxed);
    }

    fn store_counts(&mut self) {
        let waits = self.waiter.counts();
        let counts = &mut self.session.counts;
        counts.spins_paid = waits.spins_paid;
        counts.yields = waits.yields;
        counts.slow_episodes = waits.slow_episodes;
        counts.in_flight = self.calls.wanted() as u64;
        self.session.store_counts();
    }
}

/// How a sleep ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slept {
    /// It was called off.
    Not,
    /// By a ring, or for no reason.
    Rung,
    /// By the clock.
    Out,
}

impl Drop for Client {
    fn drop(&mut self) {
        // A forked child shares the socket and the memory with its parent, whose session goes on.
        if self.origin.is_here() {
            self.store_counts();
            if self.over.is_none() {
                self.session.flush();
                crate::session::send_byte(self.session.lifeline(), lifeline::GOODBYE);
            }
        }
    }
}
