//! What a handler of [`Server::run_reactor`](crate::Server::run_reactor) has in hand: the
//! request, the responder with which it answers, from any thread and exactly once, and the session.

mod session;
#[cfg(test)]
mod tests;

use crate::base::clock::now_ns;
use crate::link::held::{Charge, ENTRY, Held, KEPT, SMALL};
use crate::memory::layout::{Kind, code};
use crate::server::answer::HandlerError;
use crate::server::flight::{Completion, Flight, InlineReply, StreamOver, To, on_reactor_thread};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

pub use session::{PushError, Session};

/// A request that may be moved to any thread. Its bytes are a private copy, which the client cannot
/// change.
#[derive(Debug)]
pub struct OwnedRequest {
    payload: Held,
    pub(crate) flight: Arc<Flight>,
    alone: bool,
}

impl OwnedRequest {
    #[inline]
    pub(crate) fn new(payload: Held, flight: Arc<Flight>, alone: bool) -> Self {
        if payload.charge.bytes() != 0 {
            flight.may_be_taken();
        }
        Self { payload, flight, alone }
    }

    /// Whether nothing else of its session was in flight or waited when it was read.
    pub(crate) fn is_alone(&self) -> bool {
        self.alone
    }

    /// The bytes.
    pub fn payload(&self) -> &[u8] {
        &self.payload.bytes
    }

    /// Takes the bytes. They count as held for the client until the request is answered; after
    /// that they are the caller's own.
    pub fn into_payload(mut self) -> Vec<u8> {
        let Held { bytes, charge } = std::mem::take(&mut self.payload);
        if bytes.capacity() > SMALL {
            self.flight.keep_charge(charge);
        }
        bytes
    }

    /// The call's id, unique in its session; 0 for a one-way message.
    pub fn call(&self) -> u64 {
        self.flight.call
    }

    /// Whether the client wants no answer. The responder then sends nothing.
    pub fn is_one_way(&self) -> bool {
        self.flight.one_way
    }

    /// Who asks.
    pub fn session(&self) -> Session {
        Session(self.flight.caller.clone())
    }

    /// Until when the client wants an answer; `None` if it waits for ever, or did not say.
    pub fn deadline(&self) -> Option<Instant> {
        let deadline_ns = self.flight.deadline_ns;
        (deadline_ns != 0)
            .then(|| Instant::now() + Duration::from_nanos(deadline_ns.saturating_sub(now_ns())))
    }

    /// Whether the deadline has passed.
    pub fn is_expired(&self) -> bool {
        self.flight.is_expired()
    }

    /// Whether the client no longer wants the answer: it gave up, or is gone. Work may be cut short
    /// then; the responder is to be used or dropped all the same.
    pub fn is_cancelled(&self) -> bool {
        self.flight.is_cancelled()
    }
}

impl Drop for OwnedRequest {
    #[inline]
    fn drop(&mut self) {
        // The charge is given back behind this, when the buffer is freed, or is nobody's.
        let payload = std::mem::take(&mut self.payload.bytes);
        if payload.capacity() == 0
            || payload.capacity() > KEPT
            || !self.flight.caller.completions.is_here()
        {
            return;
        }
        let mut payload = Some(payload);
        InlineReply::with(&self.flight, |reply| reply.request = payload.take());
        if let Some(payload) = payload {
            self.flight.caller.completions.buffers().give(payload);
        }
    }
}

/// Answers one request: from any thread, exactly once. Dropping it answers with an error
/// ([`code::DROPPED`]; [`code::PANICKED`] while the thread panics; [`code::DEADLINE_EXCEEDED`] if
/// the deadline of the request has passed), so no caller waits in vain.
///
/// That the client is gone, or the server has shut down, is no error: the answer is dropped.
#[derive(Debug)]
#[must_use = "dropping a responder answers with an error"]
pub struct Responder {
    /// `None` once it has answered.
    flight: Option<Arc<Flight>>,
}

impl Responder {
    pub(crate) fn new(flight: Arc<Flight>) -> Self {
        Self { flight: Some(flight) }
    }

    /// Answers with these bytes. Longer ones than a message may be become an error
    /// ([`code::TOO_LARGE`]).
    #[inline]
    pub fn reply(self, payload: &[u8]) {
        let fill = |response: &mut Vec<u8>| response.extend_from_slice(payload);
        self.finish(Kind::Response, 0, payload.len(), fill);
    }

    /// Answers with `len` bytes that `fill` writes; they are zero before.
    pub fn reply_with(self, len: usize, fill: impl FnOnce(&mut [u8])) {
        // Too long an answer is not even allocated: it could not be sent.
        let max = self.flight().caller.max_message;
        if len > max {
            return self.fail(
                code::TOO_LARGE,
                &format!("the answer of {len} bytes is too large: at most {max}"),
            );
        }
        self.finish(Kind::Response, 0, len, |response| {
            response.resize(len, 0);
            fill(response);
        });
    }

    /// Answers with these bytes, without copying them on this thread.
    pub fn reply_vec(self, payload: Vec<u8>) {
        self.finish(Kind::Response, 0, payload.capacity(), |response| *response = payload);
    }

    /// Answers with an error.
    pub fn error(self, error: impl Into<HandlerError>) {
        let error = error.into();
        self.fail(error.code(), error.text());
    }

    pub(crate) fn fail(self, code: u16, text: &str) {
        let fill = |response: &mut Vec<u8>| response.extend_from_slice(text.as_bytes());
        self.finish(Kind::Error, code, text.len(), fill);
    }

    /// Answers in several items, as they come. The client must have asked for a stream
    /// ([`Client::call_stream`](crate::Client::call_stream)); any other caller gets an error.
    pub fn stream(mut self) -> ResponseStream {
        ResponseStream { flight: self.flight.take() }
    }

    /// Whether the client no longer wants the answer.
    pub fn is_cancelled(&self) -> bool {
        self.flight().is_cancelled()
    }

    fn flight(&self) -> &Arc<Flight> {
        self.flight.as_ref().expect("taken only by the methods that consume the responder")
    }

    #[inline]
    fn finish(mut self, kind: Kind, code: u16, len: usize, fill: impl FnOnce(&mut Vec<u8>)) {
        if let Some(flight) = &self.flight {
            answer(flight, kind, code, len, fill);
        }
        // Not before: if `fill` panics, dropping the responder still answers.
        self.flight = None;
    }
}

impl Drop for Responder {
    #[inline]
    fn drop(&mut self) {
        if let Some(flight) = self.flight.take() {
            answer_for_the_lost(
                &flight,
                code::DROPPED,
                "the handler dropped the request without an answer",
            );
        }
    }
}

/// Answers in the place of a handler that did not.
#[cold]
fn answer_for_the_lost(flight: &Arc<Flight>, code: u16, text: &str) {
    let (code, text) = if std::thread::panicking() {
        (code::PANICKED, "the handler panicked")
    } else if flight.is_expired() {
        // As for a request that is not run: its caller may be a moment behind.
        (code::DEADLINE_EXCEEDED, "the deadline passed before the request was answered")
    } else {
        (code, text)
    };
    let fill = |response: &mut Vec<u8>| response.extend_from_slice(text.as_bytes());
    answer(flight, Kind::Error, code, text.len(), fill);
}

/// Leaves the answer, of about `len` bytes, where the reactor finds it.
#[inline]
fn answer(
    flight: &Arc<Flight>,
    kind: Kind,
    code: u16,
    len: usize,
    fill: impl FnOnce(&mut Vec<u8>),
) {
    let completions = &flight.caller.completions;
    if !completions.is_here() {
        return;
    }
    if flight.one_way {
        let done = Completion {
            to: To::Flight(flight.clone()),
            kind: Kind::OneWay,
            code: 0,
            payload: Held::default(),
        };
        if InlineReply::with(flight, |reply| reply.answer = Some((Kind::OneWay, 0))).is_none() {
            completions.push(done);
        }
        return;
    }
    // The buffer is taken out while `fill` runs, which is the handler's code and may use another
    // responder.
    let buffer = InlineReply::with(flight, |reply| std::mem::take(&mut reply.response));
    if let Some(mut payload) = buffer {
        fill(&mut payload);
        InlineReply::with(flight, |reply| {
            reply.response = payload;
            reply.answer = Some((kind, code));
        });
        return;
    }
    let mut charge = Charge::default();
    if len > SMALL {
        match flight.caller.account.charge_answer(len) {
            Some(charged) => charge = charged,
            None => return answer_without_room(flight, len),
        }
    }
    let mut payload = completions.buffers().take(len);
    fill(&mut payload);
    if payload.capacity() > SMALL {
        charge.set(&flight.caller.account, payload.capacity());
    }
    let payload = Held { bytes: payload, charge };
    completions.push(Completion { to: To::Flight(flight.clone()), kind, code, payload });
}

/// An error in the place of an answer for which there is no room.
#[cold]
fn answer_without_room(flight: &Arc<Flight>, len: usize) {
    flight.caller.account.count_refusal();
    let text =
        format!("the server has no room for an answer of {len} bytes: earlier ones are unread");
    flight.caller.completions.push(Completion {
        to: To::Flight(flight.clone()),
        kind: Kind::Error,
        code: code::EXHAUSTED,
        payload: Held { bytes: text.into_bytes(), charge: Charge::default() },
    });
}

/// A streamed answer: items, then an end or an error. Dropping it breaks the stream off with an
/// error ([`code::BROKEN_OFF`]).
///
/// The client grants items as it takes them; [`Self::send`] waits for that. Not on the reactor's
/// own thread, where waiting would be for ever: there it fails with [`StreamError::WouldBlock`].
#[derive(Debug)]
#[must_use = "dropping a stream breaks it off"]
pub struct ResponseStream {
    /// `None` once it has ended.
    flight: Option<Arc<Flight>>,
}

impl ResponseStream {
    /// Sends an item, waiting until the client takes more, for at most
    /// [`ServerBuilder::stream_stall_timeout`](crate::ServerBuilder::stream_stall_timeout).
    ///
    /// # Errors
    /// [`StreamError`]; after [`StreamError::SlowClient`], [`StreamError::Cancelled`] and
    /// [`StreamError::Disconnected`] the stream is over.
    pub fn send(&mut self, item: &[u8]) -> Result<(), StreamError> {
        self.send_until(item, None)
    }

    /// As [`Self::send`], waiting at most `timeout`: `None` waits for ever, zero does not wait. The
    /// limit of [`Self::send`] holds in any case.
    ///
    /// # Errors
    /// As [`Self::send`], and [`StreamError::WouldBlock`].
    pub fn send_timeout(
        &mut self,
        item: &[u8],
        timeout: Option<Duration>,
    ) -> Result<(), StreamError> {
        self.send_until(item, timeout.and_then(|timeout| Instant::now().checked_add(timeout)))
    }

    /// As [`Self::send`], without keeping a thread waiting: for async handlers, on any executor.
    /// Waits as long as [`Self::send`] does; put a timeout around it to wait for less.
    ///
    /// # Errors
    /// As [`Self::send`], but for [`StreamError::WouldBlock`].
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the item is not sent, and the stream goes on.
    pub async fn send_async(&mut self, item: &[u8]) -> Result<(), StreamError> {
        let flight = self.flight();
        if !flight.one_way
            && item.len() <= flight.caller.max_message
            && flight.caller.completions.is_here()
        {
            let mut waiting = Waiting { flight, has_begun: false };
            let credit = poll_fn(|cx| {
                let credit = flight.poll_credit(cx.waker());
                waiting.has_begun |= credit.is_pending();
                credit
            });
            credit.await.map_err(StreamError::from)?;
            drop(waiting);
            let mut credit = Unused(Some(flight));
            let mut waiting = Waiting { flight, has_begun: false };
            let charge = poll_fn(|cx| {
                if let Some(over) = flight.over() {
                    return Poll::Ready(Err(over));
                }
                let size = item.len() + ENTRY;
                if let Some(charge) = flight.caller.account.poll_answer(size, cx.waker()) {
                    return Poll::Ready(Ok(charge));
                }
                if !waiting.has_begun {
                    waiting.has_begun = true;
                    flight.wait_for_room();
                }
                // Asked again: who gives the stream up wakes for this as well, but only those who
                // have said before that they wait.
                flight.over().map_or(Poll::Pending, |over| Poll::Ready(Err(over)))
            });
            let charge = charge.await.map_err(StreamError::from)?;
            drop(waiting);
            credit.0 = None;
            return Self::send_with_credit(flight, item, charge);
        }
        // Nothing to wait for: an error, or a message that wants no answer.
        self.send_until(item, Some(Instant::now()))
    }

    fn send_with_credit(
        flight: &Arc<Flight>,
        item: &[u8],
        charge: Charge,
    ) -> Result<(), StreamError> {
        let payload = flight.caller.copy(item, charge);
        let item =
            Completion { to: To::Flight(flight.clone()), kind: Kind::StreamItem, code: 0, payload };
        if flight.caller.completions.push(item) { Ok(()) } else { Err(StreamError::Disconnected) }
    }

    fn send_until(&mut self, item: &[u8], deadline: Option<Instant>) -> Result<(), StreamError> {
        let flight = self.flight();
        let max = flight.caller.max_message;
        if item.len() > max {
            return Err(StreamError::TooLarge { len: item.len(), max });
        }
        if !flight.caller.completions.is_here() {
            return Err(StreamError::Disconnected);
        }
        if flight.one_way {
            return if flight.is_cancelled() { Err(StreamError::Disconnected) } else { Ok(()) };
        }
        // How long a client may keep it waiting is the reactor's business.
        let deadline = if on_reactor_thread() { Some(Instant::now()) } else { deadline };
        if !flight.take_credit(deadline)? {
            return Err(StreamError::WouldBlock);
        }
        let over = || flight.over().is_some();
        let (account, size) = (&flight.caller.account, item.len() + ENTRY);
        let mut charge = account.charge_answer(size);
        if charge.is_none() && !on_reactor_thread() {
            flight.wait_for_room();
            charge = account.wait_for_answer(size, deadline, over);
            flight.waits_no_longer();
        }
        match charge {
            Some(charge) => Self::send_with_credit(flight, item, charge),
            None => {
                flight.grant(1);
                Err(flight.over().map_or(StreamError::WouldBlock, StreamError::from))
            }
        }
    }

    /// Ends the stream. One that the client has let stall ends with an error: an item is missing.
    pub fn end(mut self) {
        if self.flight().over_here() == Some(StreamOver::Stalled) {
            return;
        }
        if let Some(flight) = self.flight.take() {
            finish_stream(&flight, Kind::StreamEnd, 0, "");
        }
    }

    /// Ends the stream with an error.
    pub fn error(mut self, error: impl Into<HandlerError>) {
        let error = error.into();
        if let Some(flight) = self.flight.take() {
            finish_stream(&flight, Kind::Error, error.code(), error.text());
        }
    }

    /// Whether the client no longer wants the answer.
    pub fn is_cancelled(&self) -> bool {
        self.flight().is_cancelled()
    }

    fn flight(&self) -> &Arc<Flight> {
        self.flight.as_ref().expect("taken only by the methods that consume the stream")
    }
}

/// The right to send an item, which is given back if the item is not sent.
struct Unused<'a>(Option<&'a Flight>);

impl Drop for Unused<'_> {
    fn drop(&mut self) {
        // In a forked child any lock may be held for ever.
        let flight = self.0.filter(|flight| flight.caller.completions.is_here());
        flight.into_iter().for_each(|flight| flight.grant(1));
    }
}

/// A future that may wait for credit, or for room.
struct Waiting<'a> {
    flight: &'a Flight,
    has_begun: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // In a forked child any lock may be held for ever.
        if self.has_begun && self.flight.caller.completions.is_here() {
            self.flight.waits_no_longer();
        }
    }
}

impl Drop for ResponseStream {
    fn drop(&mut self) {
        if let Some(flight) = self.flight.take() {
            let (code, text) = if std::thread::panicking() {
                (code::PANICKED, "the handler panicked")
            } else if flight.over_here() == Some(StreamOver::Stalled) {
                (code::BROKEN_OFF, "the client took no item of the stream for too long")
            } else {
                (code::BROKEN_OFF, "the server broke the stream off")
            };
            finish_stream(&flight, Kind::Error, code, text);
        }
    }
}

/// By the queue also on the reactor's thread: items that were sent before stand there.
fn finish_stream(flight: &Arc<Flight>, kind: Kind, code: u16, text: &str) {
    if !flight.caller.completions.is_here() {
        return;
    }
    let kind = if flight.one_way { Kind::OneWay } else { kind };
    let payload = Held { bytes: text.as_bytes().to_vec(), charge: Charge::default() };
    flight.caller.completions.push(Completion {
        to: To::Flight(flight.clone()),
        kind,
        code,
        payload,
    });
}

/// Why an item of a streamed answer was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamError {
    /// Longer than a message may be. The stream goes on.
    TooLarge {
        /// Length of the item in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The client took no more items in time, or this is the reactor's thread, which must not wait.
    /// The stream goes on.
    WouldBlock,
    /// The client took no item, or there was no room for this one, for as long as a stream may
    /// stall: see [`stream_stall_timeout`](crate::ServerBuilder::stream_stall_timeout).
    /// The stream is over: the client is told so by an error, and its other calls go on.
    SlowClient,
    /// The client no longer wants the answer.
    Cancelled,
    /// The client is gone.
    Disconnected,
}

impl From<StreamOver> for StreamError {
    fn from(over: StreamOver) -> Self {
        match over {
            StreamOver::Cancelled => Self::Cancelled,
            StreamOver::Gone => Self::Disconnected,
            StreamOver::Stalled => Self::SlowClient,
        }
    }
}

impl std::fmt::Display for StreamError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLarge { len, max } => {
                write!(f, "an item of {len} bytes is too large: at most {max}")
            }
            Self::WouldBlock => f.write_str("the client takes no more items yet"),
            Self::SlowClient => f.write_str("the client took no item for too long"),
            Self::Cancelled => f.write_str("the client no longer wants the answer"),
            Self::Disconnected => f.write_str("the client is gone"),
        }
    }
}

impl std::error::Error for StreamError {}

/// What answers requests, many at once: what [`Server::run_service`](crate::Server::run_service)
/// runs. All methods are called on the reactor's thread and must not wait.
pub trait Service {
    /// A request. It may be answered before this returns, or later from any thread.
    fn request(&mut self, request: OwnedRequest, responder: Responder);

    /// A session begins.
    fn opened(&mut self, session: &Session) {
        let _ = session;
    }

    /// A session is over; no request of it follows. Those in flight are cancelled.
    fn closed(&mut self, session: &Session) {
        let _ = session;
    }
}

impl<F: FnMut(OwnedRequest, Responder)> Service for F {
    #[inline]
    fn request(&mut self, request: OwnedRequest, responder: Responder) {
        self(request, responder);
    }
}
