//! L4: serial handlers: one request at a time, answered before the next one is read.

use crate::executor::{bury, quietly};
use crate::layout::code;
use crate::reactor::{Engine, Incoming, Outcome};
use crate::service::Session;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// A request, as a serial handler sees it.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    session: &'a Session,
    call: u64,
    until: u64,
    one_way: bool,
    payload: &'a [u8],
}

impl<'a> Request<'a> {
    /// The bytes: a private copy, which the client cannot change any more.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The call's id, unique in its session; 0 for a one-way message.
    pub fn call(&self) -> u64 {
        self.call
    }

    /// Whether the client wants no answer; what the handler answers is dropped.
    pub fn is_one_way(&self) -> bool {
        self.one_way
    }

    /// Who asks.
    pub fn session(&self) -> &'a Session {
        self.session
    }

    /// Until when the client wants an answer; `None` if it waits for ever, or did not say.
    pub fn deadline(&self) -> Option<Instant> {
        let left = Duration::from_nanos(self.until.saturating_sub(crate::clock::now_ns()));
        (self.until != 0).then(|| Instant::now() + left)
    }
}

/// An error that a handler answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandlerError {
    code: u16,
    text: String,
}

impl HandlerError {
    /// An error of the application: `code` counts from 0 in the application's own range, and arrives as
    /// [`APPLICATION`](crate::layout::code::APPLICATION)` + code` (at most 65 279). A text longer than 1 KiB is cut.
    pub fn new(code: u16, text: impl Into<String>) -> Self {
        Self { code: code::APPLICATION.saturating_add(code), text: text.into() }
    }

    /// The code as it travels.
    pub(crate) fn code(&self) -> u16 {
        self.code
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

impl std::fmt::Display for HandlerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (code {})", self.text, self.code)
    }
}

impl std::error::Error for HandlerError {}

impl From<String> for HandlerError {
    fn from(text: String) -> Self {
        Self::new(0, text)
    }
}

impl From<&str> for HandlerError {
    fn from(text: &str) -> Self {
        Self::new(0, text)
    }
}

/// What answers the requests of [`Server::run_with`](crate::Server::run_with), one at a time.
pub trait Handler {
    /// Answers one request: appends the answer to `response`, which is empty and reused.
    ///
    /// # Errors
    /// The error is the answer.
    fn request(&mut self, request: Request<'_>, response: &mut Vec<u8>) -> Result<(), HandlerError>;

    /// A session begins.
    fn opened(&mut self, session: &Session) {
        let _ = session;
    }

    /// A session is over; no request of it follows.
    fn closed(&mut self, session: &Session) {
        let _ = session;
    }
}

pub(crate) struct Closure<F>(pub(crate) F);

impl<F> Handler for Closure<F>
where
    F: FnMut(Request<'_>, &mut Vec<u8>) -> Result<(), HandlerError>,
{
    #[inline]
    fn request(&mut self, request: Request<'_>, response: &mut Vec<u8>) -> Result<(), HandlerError> {
        (self.0)(request, response)
    }
}

/// The engine of [`Server::run_with`](crate::Server::run_with).
pub(crate) struct Serial<H> {
    pub(crate) handler: H,
}

impl<H: Handler> Engine for Serial<H> {
    const LATER: bool = false;

    fn opened(&mut self, session: &Session) {
        // As for a request: the handler's state is its author's concern.
        quietly(|| self.handler.opened(session));
    }

    fn closed(&mut self, session: &Session) {
        quietly(|| self.handler.closed(session));
    }

    #[inline]
    fn request(&mut self, incoming: Incoming<'_>, response: &mut Vec<u8>) -> Outcome {
        let Incoming { session, call, until, one_way, payload, .. } = incoming;
        let request = Request { session, call, until, one_way, payload };
        // Unwind safety: after a panic the buffer is cleared, and the handler's own state is its author's concern,
        // as it would be with a lock that is poisoned and used again.
        match catch_unwind(AssertUnwindSafe(|| self.handler.request(request, response))) {
            Ok(Ok(())) => Outcome::Answer,
            Ok(Err(error)) => {
                response.clear();
                response.extend_from_slice(error.text.as_bytes());
                Outcome::Error(error.code)
            }
            Err(panic) => {
                describe_panic(&*panic, response);
                bury(panic);
                Outcome::Error(code::PANICKED)
            }
        }
    }
}

/// Writes what is known of a handler's panic.
pub(crate) fn describe_panic(panic: &(dyn std::any::Any + Send), into: &mut Vec<u8>) {
    into.clear();
    into.extend_from_slice(b"the handler panicked");
    let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(|s| &**s));
    if let Some(text) = text {
        into.extend_from_slice(b": ");
        into.extend_from_slice(text.as_bytes());
    }
}
