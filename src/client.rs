//! L4: the blocking client. A driver of `session.rs`: it adds waiting, deadlines and the pairing of answers.

mod error;
mod health;
mod options;
mod place;
#[cfg(feature = "tokio")]
pub(crate) mod pump;
mod readiness;
mod sampling;
mod stream;
mod waiting;

use crate::bell::{Ringer, Sleeper};
use crate::calls::{CallId, Calls, Waiting};
use crate::clock::{Deadline, now_ns};
use crate::flight::{AnswerOrder, Transport};
use crate::fork::Origin;
use crate::handshake::{Attached, Attachment, ConnectError, SocketAttachment, lifeline};
use crate::layout::{self, Interest, Kind, offset};
use crate::ring::Record;
use crate::session::{Budget, Head, Parts, PeerFault, Progress, Readiness, Received, Rings, Sent, Session};
use crate::stats::{SessionCounters, Words};
use crate::trace;
use crate::wait::Waiter;
use error::WaitEnd;
use place::{Shown, ViewOf};
use sampling::Sampling;
use std::cell::Cell;
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stream::{Events, Streams};
use waiting::{Bed, SharedBed};

pub(crate) use error::Over;
pub use error::{CallError, RecvError, RemoteError, SendError};
pub use options::ConnectOptions;
pub use place::{Claim, View};
pub use stream::{EventError, EventIter, Stream};

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

/// An answer that was set aside.
#[derive(Debug)]
struct Stashed {
    head: Head,
    payload: Vec<u8>,
}

/// Records that are looked at between two looks at the clock.
const LOOK_MOST: u32 = 1024;

/// A timeout from which on the server is not told: looking at the clock on both sides costs more than it is worth.
const FAR_OFF: Duration = Duration::from_secs(1);

/// How long a client that is dropped tries to get rid of what it has sent over a socket that takes no more.
const LAST_PUSH: Duration = Duration::from_secs(1);

/// How often a client that only polls looks whether the server is there.
const CHECK_EVERY_NS: u64 = 20_000_000;

/// What the server said of itself and the session.
#[derive(Debug)]
struct Names {
    session: u64,
    generation: u64,
    server_pid: u32,
    ordered: bool,
}

impl Names {
    /// For subscribers.
    fn attachment(&self) -> trace::Attachment {
        trace::Attachment { session: self.session, server_pid: self.server_pid }
    }
}

/// One attachment to a server, for one thread at a time.
///
/// `Send`, not `Sync`: it may move between threads, and each method takes `&mut self`. Threads that want to call
/// at the same time connect once each. A forked child cannot use its parent's client ([`CallError::Forked`]).
///
/// Dropping it says goodbye and gives everything back.
#[derive(Debug)]
pub struct Client {
    session: Session,
    bed: Bed,
    transport: Transport,
    waiter: Waiter,
    calls: Calls,
    max_in_flight: usize,
    stash: VecDeque<Stashed>,
    streams: Streams,
    /// Cancels and credits that found no room, at most one or two for each call in flight.
    owed: Vec<Head>,
    /// Something that was to be sent without waiting found no room, and nobody was told of room since.
    starved: bool,
    /// An item or an event was kept for later since [`Client::arm`] was called last.
    kept: bool,
    events: Events,
    send_deadlines: bool,
    /// Calls to the next one that is sampled. Without samples a number that is never counted down to 0.
    until_sample: u64,
    sampling: Option<Box<Sampling>>,
    buffer: Vec<u8>,
    over: Option<Over>,
    /// What the lifeline said of the server, once it said so: what is left in the ring is still read.
    verdict: Option<Over>,
    origin: Origin,
    names: Names,
    /// When a client that only polls last looked whether the server is there.
    checked_at: u64,
    /// Signs of life that were asked for, and the last that came.
    pings: u64,
    last_pong: u64,
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

    fn new(attached: Attached, options: &ConnectOptions) -> Self {
        let mut client = match attached {
            Attached::Shared(attachment) => Self::over_rings(attachment, options),
            Attached::Socket(attachment) => Self::over_socket(attachment, options),
        };
        client.hint(false);
        trace::client_joined(client.names.attachment(), &client.transport);
        client
    }

    #[allow(clippy::cast_possible_truncation, reason = "usize is 64 bits; capacities were checked")]
    fn over_rings(attachment: Attachment, options: &ConnectOptions) -> Self {
        let request = &attachment.request.window;
        let response = &attachment.response.window;
        let status = &attachment.status.window;
        let armed = status.peer_word(layout::armed(attachment.domain));
        let rings = Rings::between(
            (request, attachment.request_capacity),
            (response, attachment.response_capacity),
            Ringer::new(armed, attachment.bell.window.bell_word(offset::SEQ)),
        );
        let bed = SharedBed {
            sleeper: Sleeper::new(request.own_word(offset::ARMED), response.bell_word(offset::SEQ)),
            hints: request.own_word(offset::HINTS),
            server_hints: status.peer_word(offset::HINTS),
            cpu: None,
            server: attachment.server,
            armed: false,
            unread: 0,
            not_rung: None,
        };
        let session = Session::new(Parts {
            rings: Some(rings),
            lifeline: Arc::new(attachment.lifeline),
            words: Some(Words::new(request)),
            max_message: attachment.max_message as usize,
            burst: usize::MAX,
            // One incomplete answer at a time, which `max_message` bounds.
            budget: Budget::new(u64::MAX),
            stamps: false,
        });
        let names = Names {
            session: attachment.session,
            generation: attachment.generation,
            server_pid: attachment.server_pid,
            ordered: attachment.ordered,
        };
        let sampling = Sampling::new(request, attachment.sample_every);
        let mut client = Self::assemble(session, Bed::Shared(bed), Transport::SharedMemory, names, options);
        client.until_sample = u64::from(sampling.is_some());
        client.sampling = sampling;
        client
    }

    #[allow(clippy::cast_possible_truncation, reason = "usize is 64 bits")]
    fn over_socket(attachment: SocketAttachment, options: &ConnectOptions) -> Self {
        let session = Session::new(Parts {
            rings: None,
            lifeline: Arc::new(attachment.socket),
            words: None,
            max_message: attachment.max_message as usize,
            burst: usize::MAX,
            budget: Budget::new(u64::MAX),
            stamps: false,
        });
        let names = Names {
            session: attachment.session,
            generation: attachment.generation,
            server_pid: attachment.server_pid,
            ordered: attachment.ordered,
        };
        let transport = Transport::Socket { reason: attachment.reason };
        Self::assemble(session, Bed::Socket, transport, names, options)
    }

    fn assemble(
        session: Session,
        bed: Bed,
        transport: Transport,
        names: Names,
        options: &ConnectOptions,
    ) -> Self {
        Self {
            session,
            bed,
            transport,
            waiter: Waiter::new(options.wait.clone()),
            calls: Calls::new(options.max_in_flight),
            max_in_flight: options.max_in_flight,
            stash: VecDeque::new(),
            streams: Streams::default(),
            owed: Vec::new(),
            starved: false,
            kept: false,
            events: Events::new(options.max_events),
            send_deadlines: options.send_deadlines,
            until_sample: 0,
            sampling: None,
            buffer: Vec::new(),
            over: None,
            verdict: None,
            origin: Origin::here(),
            names,
            checked_at: 0,
            pings: 0,
            last_pong: 0,
            _not_sync: PhantomData,
        }
    }

    /// In which order answers come.
    pub fn answer_order(&self) -> AnswerOrder {
        if self.names.ordered { AnswerOrder::Request } else { AnswerOrder::Completion }
    }

    /// What carries the session, and if it is the socket, why.
    pub fn transport(&self) -> &Transport {
        &self.transport
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
        if self.session.is_socket() {
            let response = self.call_until(request, deadline)?;
            let seen = look(View(ViewOf::Private(response.payload)));
            return self.unless_forked(seen);
        }
        if !trace::wants_calls() {
            let call = self.send_timed(request, &mut deadline)?;
            return self.show_answer(call, deadline, look);
        }
        let span = trace::call(self.names.session, request.len());
        let mut len = 0;
        let result = span.inside(|| {
            let call = self.send_timed(request, &mut deadline)?;
            span.sent(call.0);
            self.show_answer(call, deadline, |view| {
                len = view.len();
                look(view)
            })
        });
        span.answered(result.as_ref().map(|_| len));
        result
    }

    fn show_answer<R>(
        &mut self,
        call: CallId,
        mut deadline: Deadline,
        look: impl FnOnce(View<'_>) -> R,
    ) -> Result<R, CallError> {
        let waited = self.wait(&mut deadline, Interest::DATA, |client| {
            if client.peek(call)?.is_some() {
                return Ok(Some(None));
            }
            Ok(client.look(Some(call))?.map(Some))
        });
        match waited {
            Err(end) => Err(self.call_failed(call, end)),
            // It came in pieces, behind other messages, or after the look at the ring, and so was
            // taken.
            Ok(Some(head)) if head.kind() == Kind::Response => {
                let seen = look(View(ViewOf::Private(&self.buffer)));
                self.unless_forked(seen)
            }
            Ok(Some(head)) => Err(self.refused(head)),
            Ok(None) => {
                self.sample_answered(call.0);
                let peeked = self.peek(call).map_err(|over| self.fail(over).as_call(true))?;
                self.calls.end(call.0);
                let shown = Shown { session: &mut self.session, record: peeked, origin: self.origin };
                let (Some(record), Some(ring)) = (shown.record.as_ref(), shown.session.incoming()) else {
                    unreachable!("it was just there, and nobody else takes it")
                };
                let seen = look(View(ViewOf::Ring(ring, record)));
                drop(shown);
                self.unless_forked(seen)
            }
        }
    }

    /// What was made of an answer, unless the process forked meanwhile and this is the child.
    fn unless_forked<R>(&self, seen: R) -> Result<R, CallError> {
        if self.origin.is_here() { Ok(seen) } else { Err(CallError::Forked) }
    }

    /// The response to `call`, if it is the next message and lies in one piece.
    fn peek(&mut self, call: CallId) -> Result<Option<Record>, Over> {
        let Some((head, record)) = self.session.peek()? else { return Ok(None) };
        let is_it =
            head.call == call.0 && head.kind() == Kind::Response && self.calls.state(call.0).is_some();
        Ok(is_it.then_some(record))
    }

    #[inline(always)]
    fn call_until(&mut self, request: &[u8], mut deadline: Deadline) -> Result<Response<'_>, CallError> {
        if trace::wants_calls() {
            return self.call_traced(request, deadline);
        }
        let call = self.send_timed(request, &mut deadline)?;
        self.answer_to(call, deadline)
    }

    #[cold]
    #[inline(never)]
    fn call_traced(&mut self, request: &[u8], mut deadline: Deadline) -> Result<Response<'_>, CallError> {
        let span = trace::call(self.names.session, request.len());
        let result = span.inside(|| {
            let call = self.send_timed(request, &mut deadline)?;
            span.sent(call.0);
            self.answer_to(call, deadline)
        });
        span.answered(result.as_ref().map(|response| response.payload.len()));
        result
    }

    #[inline(always)]
    fn answer_to(&mut self, call: CallId, mut deadline: Deadline) -> Result<Response<'_>, CallError> {
        let head = match self.wait(&mut deadline, Interest::DATA, |client| client.look(Some(call))) {
            Ok(head) => head,
            Err(end) => return Err(self.call_failed(call, end)),
        };
        if head.kind() != Kind::Response {
            return Err(self.refused(head));
        }
        Ok(Response { call, payload: &self.buffer })
    }

    /// What an answer that is no response means to a caller.
    #[cold]
    fn refused(&mut self, head: Head) -> CallError {
        let error = CallError::of(RemoteError::of(head, &self.buffer));
        if matches!(error, CallError::TimedOut { .. }) {
            self.session.counts.timeouts += 1;
        }
        error
    }

    #[cold]
    fn call_failed(&mut self, call: CallId, end: WaitEnd) -> CallError {
        match end {
            WaitEnd::TimedOut => {
                self.calls.abandon(call);
                self.cancel(call);
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
            self.session.ready(Readiness { writable: true, ..Readiness::default() });
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

    /// Sends a request and tells the server until when the caller waits.
    #[inline]
    fn send_timed(&mut self, request: &[u8], deadline: &mut Deadline) -> Result<CallId, SendError> {
        let until = match deadline {
            Deadline::Never | Deadline::Now => 0,
            Deadline::In(timeout) if *timeout >= FAR_OFF => 0,
            _ if self.send_deadlines => deadline.fix(),
            _ => 0,
        };
        let call = self.post_request(request, until, deadline)?;
        crate::kill_point!("request-posted");
        self.session.flush();
        if self.session.has_unsent() {
            self.push_out(deadline);
        }
        Ok(call)
    }

    #[inline]
    fn send_until(&mut self, request: &[u8], deadline: &mut Deadline) -> Result<CallId, SendError> {
        let call = self.post_until(request, deadline)?;
        crate::kill_point!("request-posted");
        self.session.flush();
        if self.session.has_unsent() {
            self.push_out(deadline);
        }
        Ok(call)
    }

    /// Publishes a request; the ring is owed.
    #[inline]
    fn post_until(&mut self, request: &[u8], deadline: &mut Deadline) -> Result<CallId, SendError> {
        self.post_request(request, 0, deadline)
    }

    #[inline(always)]
    fn post_request(
        &mut self,
        request: &[u8],
        until: u64,
        deadline: &mut Deadline,
    ) -> Result<CallId, SendError> {
        self.usable().map_err(Over::as_send)?;
        if request.len() > self.session.max_message() {
            return Err(SendError::TooLarge { len: request.len(), max: self.session.max_message() });
        }
        let call = self.begin()?;
        crate::kill_point!("request-claimed");
        let head = Head::new(Kind::Request, call.0);
        if self.is_sampled() {
            return self.post_sampled(call, until, request, deadline);
        }
        match self.post_frame(head, until, request, Progress::default(), deadline) {
            Ok(()) => Ok(call),
            Err(error) => {
                self.calls.end(call.0);
                Err(error)
            }
        }
    }

    #[inline(always)]
    fn post_frame(
        &mut self,
        head: Head,
        until: u64,
        payload: &[u8],
        mut progress: Progress,
        deadline: &mut Deadline,
    ) -> Result<(), SendError> {
        match self.session.post(head, until, payload, &mut progress) {
            Ok(Sent::Done) if self.session.is_broken() => Err(self.goes_nowhere()),
            Ok(Sent::Done) => Ok(()),
            Ok(Sent::Full) => self.post_when_room(head, until, payload, progress, deadline),
            Err(fault) => Err(self.fail(fault.into()).as_send()),
        }
    }

    /// The socket takes nothing any more. What the server said before is set aside, and may say why.
    #[cold]
    fn goes_nowhere(&mut self) -> SendError {
        match self.drain_now() {
            Ok(()) => self.fail(Over::Disconnected).as_send(),
            Err(over) => self.fail(over).as_send(),
        }
    }

    /// Sends a message that wants no answer. Waits for room at most `timeout`: `None` waits for ever, zero does not
    /// wait. Whether the server did anything with it nobody says.
    ///
    /// # Errors
    /// As [`Self::send_timeout`].
    pub fn send_one_way(&mut self, message: &[u8], timeout: Option<Duration>) -> Result<(), SendError> {
        self.usable().map_err(Over::as_send)?;
        if message.len() > self.session.max_message() {
            return Err(SendError::TooLarge { len: message.len(), max: self.session.max_message() });
        }
        let mut deadline = Deadline::after(timeout);
        self.post_frame(Head::new(Kind::OneWay, 0), 0, message, Progress::default(), &mut deadline)?;
        self.session.flush();
        if self.session.has_unsent() {
            self.push_out(&mut deadline);
        }
        Ok(())
    }

    /// Tells the server that an answer is no longer wanted. It may come all the same.
    fn cancel(&mut self, call: CallId) {
        self.tell(Head::new(Kind::Cancel, call.0));
    }

    /// Sends a frame without payload, later if there is no room now.
    fn tell(&mut self, head: Head) {
        self.owed.push(head);
        self.retry_owed();
    }

    /// Sends what was owed. A fault shows at the next use.
    #[cold]
    fn retry_owed(&mut self) {
        let _ = self.try_owed();
    }

    fn try_owed(&mut self) -> Result<(), PeerFault> {
        while let Some(&head) = self.owed.first() {
            match self.session.send(head, 0, &[], &mut Progress::default())? {
                Sent::Done => drop(self.owed.remove(0)),
                Sent::Full => break,
            }
        }
        Ok(())
    }

    /// Over a socket that takes no more just now: waits until all that was sent is on its way, at most until the
    /// deadline. It goes on then when the client is used again.
    #[cold]
    fn push_out(&mut self, deadline: &mut Deadline) {
        // What is in the way shows at the next use.
        let _ = self.wait(deadline, Interest::BOTH, |client| {
            client.drain()?;
            Ok((!client.session.has_unsent()).then_some(()))
        });
    }

    /// What the limit bounds: calls without an answer, abandoned ones included, and answers set aside.
    fn in_flight_or_kept(&self) -> usize {
        self.calls.in_flight() + self.stash.len()
    }

    #[inline(always)]
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
        self.drain_now().map_err(|over| self.fail(over).as_send())?;
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
        head: Head,
        until: u64,
        payload: &[u8],
        mut progress: Progress,
        deadline: &mut Deadline,
    ) -> Result<(), SendError> {
        let waited = self.wait(deadline, Interest::BOTH, |client| {
            // The server may be unable to take requests because its answers find no room: make some.
            client.drain()?;
            match client.session.send(head, until, payload, &mut progress)? {
                Sent::Done => Ok(Some(())),
                Sent::Full => Ok(None),
            }
        });
        match waited {
            Ok(()) => Ok(()),
            Err(WaitEnd::Over(over)) => Err(over.as_send()),
            Err(WaitEnd::TimedOut) => {
                if progress.is_partial() {
                    self.session.abort(head).map_err(|fault| self.fail(fault.into()).as_send())?;
                }
                self.session.counts.timeouts += 1;
                self.starved = true;
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
            Err(WaitEnd::TimedOut) => {
                self.starved = true;
                Err(SendError::TimedOut)
            }
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
        if self.calls.wanted() <= self.streams.open() {
            // Answers to calls that were given up may have come: they are dropped here.
            self.drain_now().map_err(|over| self.fail(over).as_recv())?;
            if let Some(over) = self.has_heard_the_end() {
                return Err(self.fail(over).as_recv());
            }
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
        self.names.generation
    }

    /// The session's number, unique in the server's life.
    pub fn session(&self) -> u64 {
        self.names.session
    }

    /// The server's process id, as it said; 0 if unknown.
    pub fn server_pid(&self) -> u32 {
        self.names.server_pid
    }

    #[inline]
    fn usable(&mut self) -> Result<(), Over> {
        if !self.origin.is_here() {
            return Err(Over::Forked);
        }
        if let Some(over) = self.over {
            return Err(over);
        }
        if !self.owed.is_empty() {
            // Whatever the client is used for: it may never wait for long, or at all.
            self.retry_owed();
        }
        Ok(())
    }

    #[cold]
    fn fail(&mut self, over: Over) -> Over {
        if self.over.is_none() {
            trace::client_lost(self.names.attachment(), over, self.in_flight());
        }
        self.over = Some(over);
        over
    }

    /// Takes what is there until it is the answer to `wanted` (or any answer, if `None`); other answers are set
    /// aside, late ones dropped.
    #[inline(always)]
    fn look(&mut self, wanted: Option<CallId>) -> Result<Option<Head>, Over> {
        // Bounded, so that a server that floods its client with what leads nowhere cannot keep it from its deadline.
        for _ in 0..LOOK_MOST {
            let head = match self.session.receive(&mut self.buffer)? {
                Received::Nothing => return Ok(None),
                Received::Partial => continue,
                // A deadline is nothing to a client.
                Received::Message(head) | Received::Until(head, _) => head,
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

    /// Whether a message is an answer that somebody wants. What belongs to streams and events is put there.
    #[inline(always)]
    fn accept(&mut self, head: Head) -> Result<bool, Over> {
        self.sample_answered(head.call);
        match head.kind() {
            Kind::Response if self.streams.is_empty() => {}
            Kind::Error if self.streams.is_empty() => self.session.counts.errors += 1,
            Kind::Goodbye => return Err(Over::of_goodbye(head.code())),
            Kind::Pong => {
                self.last_pong = head.call;
                return Ok(false);
            }
            _ => return self.accept_other(head),
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

    /// As [`Self::drain`], of a socket that nobody has asked the kernel about.
    fn drain_now(&mut self) -> Result<(), Over> {
        self.session.ready(Readiness { readable: true, writable: true, hung_up: false });
        self.drain()?;
        if self.session.has_ended() { Err(Over::Disconnected) } else { Ok(()) }
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
        if head.kind() != Kind::Response {
            return Err(RemoteError::of(head, payload));
        }
        Ok(Response { call: CallId(head.call), payload })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // A forked child shares the socket and the memory with its parent, whose session goes on.
        if self.origin.is_here() {
            self.store_counts();
            if self.over.is_none() {
                trace::client_left(self.names.attachment(), "closed", self.in_flight());
                self.session.flush();
                if self.session.is_socket() {
                    let goodbye = Head::new(Kind::Goodbye, 0);
                    let _ = self.session.send(goodbye, 0, &[], &mut Progress::default());
                    if self.session.has_unsent() {
                        self.push_out(&mut Deadline::In(LAST_PUSH));
                    }
                } else {
                    crate::session::send_byte(self.session.lifeline(), lifeline::GOODBYE);
                }
            }
        }
    }
}
