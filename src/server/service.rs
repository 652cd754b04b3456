//! What a handler of [`Server::run_reactor`](crate::Server::run_reactor) has in hand: the
//! request, the responder with which it answers, from any thread and exactly once, and the session.

mod session;
mod stream;
#[cfg(test)]
mod tests;

use crate::base::clock::now_ns;
use crate::link::held::{Charge, Held, KEPT, SMALL};
use crate::memory::layout::{Kind, code};
use crate::server::answer::{HandlerError, cut, refusal};
use crate::server::flight::{Completion, Flight, InlineReply, To};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use session::{PushError, Session};
pub use stream::{ResponseStream, StreamError};

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
        let text = cut(text).as_bytes();
        let fill = |response: &mut Vec<u8>| response.extend_from_slice(text);
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
        // The reactor charges what it finds; a large answer is not even written without room.
        let mut room = None;
        let (mut kind, mut code) = (kind, code);
        if len > KEPT {
            room = flight.caller.account.charge_answer(len);
        }
        if len > KEPT && room.is_none() {
            let text;
            (code, text) = without_room(flight, len);
            kind = Kind::Error;
            payload.extend_from_slice(text.as_bytes());
        } else {
            fill(&mut payload);
        }
        drop(room);
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
    let (code, text) = without_room(flight, len);
    flight.caller.completions.push(Completion {
        to: To::Flight(flight.clone()),
        kind: Kind::Error,
        code,
        payload: Held { bytes: text.into_bytes(), charge: Charge::default() },
    });
}

/// What stands in the place of an answer of so many bytes for which there is no room.
#[cold]
fn without_room(flight: &Flight, len: usize) -> (u16, String) {
    flight.caller.account.count_refusal();
    refusal(len, flight.most_of_answer())
}

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
