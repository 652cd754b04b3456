//! Serial handlers: one request at a time, answered before the next one is read.

use crate::server::answer::HandlerError;
use crate::server::service::Session;
use std::time::{Duration, Instant};

/// A request, as a serial handler sees it.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    session: &'a Session,
    call: u64,
    deadline_ns: u64,
    one_way: bool,
    payload: &'a [u8],
}

impl<'a> Request<'a> {
    #[inline]
    pub(crate) fn new(
        session: &'a Session,
        call: u64,
        deadline_ns: u64,
        one_way: bool,
        payload: &'a [u8],
    ) -> Self {
        Self { session, call, deadline_ns, one_way, payload }
    }

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
        let left =
            Duration::from_nanos(self.deadline_ns.saturating_sub(crate::base::clock::now_ns()));
        (self.deadline_ns != 0).then(|| Instant::now() + left)
    }
}

/// What answers the requests of [`Server::run_with`](crate::Server::run_with), one at a time.
pub trait Handler {
    /// Answers one request: appends the answer to `response`, which is empty and reused.
    ///
    /// # Errors
    /// The error is the answer.
    fn request(&mut self, request: Request<'_>, response: &mut Vec<u8>)
    -> Result<(), HandlerError>;

    /// A session begins.
    fn opened(&mut self, session: &Session) {
        let _ = session;
    }

    /// A session is over; no request of it follows.
    fn closed(&mut self, session: &Session) {
        let _ = session;
    }
}
