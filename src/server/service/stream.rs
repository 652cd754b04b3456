//! Streamed answers, as handlers see them: items, for which the handler waits, and an end.

use crate::link::held::{Charge, ENTRY, Held};
use crate::memory::layout::{Kind, code};
use crate::server::answer::{HandlerError, cut};
use crate::server::flight::{Completion, Flight, StreamOver, To, on_reactor_thread};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

/// A streamed answer: items, then an end or an error. Dropping it breaks the stream off with an
/// error ([`code::BROKEN_OFF`]).
///
/// The client grants items as it takes them; [`Self::send`] waits for that. Not on the reactor's
/// own thread, where waiting would be for ever: there it fails with [`StreamError::WouldBlock`].
#[derive(Debug)]
#[must_use = "dropping a stream breaks it off"]
pub struct ResponseStream {
    /// `None` once it has ended.
    pub(super) flight: Option<Arc<Flight>>,
}

impl ResponseStream {
    /// Sends an item, waiting until the client takes more, for at most
    /// [`ServerBuilder::stream_stall_timeout`](crate::ServerBuilder::stream_stall_timeout).
    ///
    /// # Errors
    /// [`StreamError`]; after [`StreamError::SlowClient`], [`StreamError::NoRoom`],
    /// [`StreamError::Cancelled`] and [`StreamError::Disconnected`] the stream is over.
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
                    return Poll::Ready(Err(over.into()));
                }
                let size = item.len() + ENTRY;
                if let Some(charge) = flight.caller.account.poll_answer(size, cx.waker()) {
                    return Poll::Ready(Ok(charge));
                }
                if !waiting.has_begun {
                    if let Some(error) = never_fits(flight, item) {
                        return Poll::Ready(Err(error));
                    }
                    waiting.has_begun = true;
                    flight.wait_for_room(size);
                }
                // Asked again: who gives the stream up wakes for this as well, but only those who
                // have said before that they wait.
                flight.over().map_or(Poll::Pending, |over| Poll::Ready(Err(over.into())))
            });
            let charge = charge.await?;
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
        let mut error = None;
        if charge.is_none() {
            error = never_fits(flight, item);
            if error.is_none() && !on_reactor_thread() {
                flight.wait_for_room(size);
                charge = account.wait_for_answer(size, deadline, over);
                flight.waits_no_longer();
            }
        }
        match charge {
            Some(charge) => Self::send_with_credit(flight, item, charge),
            None => {
                flight.grant(1);
                let over = || flight.over().map_or(StreamError::WouldBlock, StreamError::from);
                Err(error.unwrap_or_else(over))
            }
        }
    }

    /// Ends the stream. One that stalled, or for which there was no room, ends with an error: an
    /// item is missing.
    pub fn end(mut self) {
        if matches!(self.flight().over_here(), Some(StreamOver::Stalled | StreamOver::NoRoom)) {
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

/// The error of an item that is larger than all that may be held for its client.
#[cold]
fn never_fits(flight: &Flight, item: &[u8]) -> Option<StreamError> {
    let max = flight.most_of_answer().saturating_sub(ENTRY);
    (item.len() > max).then_some(StreamError::TooLarge { len: item.len(), max })
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
            let over = flight.over_here();
            let (code, text) = if std::thread::panicking() {
                (code::PANICKED, "the handler panicked")
            } else if over == Some(StreamOver::Stalled) {
                (code::BROKEN_OFF, "the client took no item of the stream for too long")
            } else if over == Some(StreamOver::NoRoom) {
                (
                    code::EXHAUSTED,
                    "the server has no room for an item of the stream: other clients hold it",
                )
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
    let payload = Held { bytes: cut(text).as_bytes().to_vec(), charge: Charge::default() };
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
    /// Longer than a message may be, or than all that may be held for the client: see
    /// [`max_held_bytes_per_client`](crate::ServerBuilder::max_held_bytes_per_client). The stream
    /// goes on.
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
    /// There was no room for this item for as long as a stream may stall, since other clients hold
    /// too much: see [`max_held_bytes`](crate::ServerBuilder::max_held_bytes). The stream is over:
    /// the client is told so by an error ([`code::EXHAUSTED`]), and its other calls go on.
    NoRoom,
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
            StreamOver::NoRoom => Self::NoRoom,
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
            Self::NoRoom => {
                f.write_str("there was no room for the item for too long: other clients hold it")
            }
            Self::Cancelled => f.write_str("the client no longer wants the answer"),
            Self::Disconnected => f.write_str("the client is gone"),
        }
    }
}

impl std::error::Error for StreamError {}
