//! What a reactor asks of the code that answers requests.

use crate::link::held::Held;
use crate::server::flight::Flight;
use crate::server::service::Session;
use std::sync::Arc;

/// What answers requests.
pub(crate) trait Engine {
    /// Whether answers may come later than the handler returns. Then every request gets a
    /// [`Flight`].
    const LATER: bool;

    /// A session begins.
    fn opened(&mut self, session: &Session);

    /// Handles one request. The answer's payload goes to `response`, which is empty.
    fn request(&mut self, request: Incoming<'_>, response: &mut Vec<u8>) -> Outcome;

    /// A session is over: no request of it follows.
    fn closed(&mut self, session: &Session);
}

/// A request that was taken from a ring.
#[derive(Debug)]
pub(crate) struct Incoming<'a> {
    pub(crate) session: &'a Session,
    pub(crate) call: u64,
    /// CLOCK_MONOTONIC ns; 0 for none.
    pub(crate) deadline_ns: u64,
    pub(crate) one_way: bool,
    pub(crate) payload: &'a mut Held,
    /// If answers may come later.
    pub(crate) flight: Option<&'a Arc<Flight>>,
    /// Nothing else of this session is in flight or waits. Only if answers may come later.
    pub(crate) alone: bool,
}

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The answer is in the buffer.
    Answer,
    /// An error is the answer; its text is in the buffer.
    Error(u16),
    /// The answer comes through the completions.
    Later,
    /// None is wanted, and the handler is done.
    Nothing,
}

impl Outcome {
    /// For subscribers.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Answer => "response",
            Self::Error(_) => "error",
            Self::Later => "later",
            Self::Nothing => "nothing",
        }
    }
}
