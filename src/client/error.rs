//! What can go wrong for a client that has connected.

use crate::link::lifeline::Farewell;
use crate::link::session::{Head, PeerFault};
use crate::memory::layout::{self, Kind};

/// Of a handler that calls its own server.
pub(crate) const WOULD_DEADLOCK: &str =
    "this thread runs a handler of the server that it would wait for";

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
    /// This thread runs a handler of the server that it would wait for, and nobody else answers
    /// there (see [`Server`](crate::Server)). Nothing was sent.
    WouldDeadlock,
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
    /// This thread runs a handler of the server that it would wait for, and nobody else answers
    /// there (see [`Server`](crate::Server)). The calls are still in flight.
    WouldDeadlock,
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
    /// There is no stream of this call, or it was read to its end.
    NotAStream,
    /// The server broke the protocol; the session is over.
    PeerFault(PeerFault),
    /// This thread runs a handler of the server that it would wait for, and nobody else answers
    /// there (see [`Server`](crate::Server)). The request may be executed when the handler
    /// has returned.
    WouldDeadlock,
    /// This process is a fork of the one that connected.
    Forked,
}

/// Bytes of the text of an error. A server sends no more.
const LONGEST_TEXT: usize = 1024;

/// An error that the server answered.
///
/// Shown with the code that the application gave ([`Self::application_code`]), or with Ringbell's
/// own ([`layout::code`]).
#[derive(Clone, PartialEq, Eq)]
pub struct RemoteError {
    /// What kind of error, as it travels: [`layout::code`] below 256, the application's own from
    /// there on. [`Self::application_code`] is what the application gave.
    pub code: u16,
    /// A short text for people.
    pub text: String,
}

impl RemoteError {
    /// The client had no room for what the server answered.
    pub(super) fn not_kept() -> Self {
        let text = "dropped: the client holds too much that was not asked for".into();
        Self { code: layout::code::NOT_KEPT, text }
    }

    /// What a frame that is no response says.
    pub(super) fn of(head: Head, payload: &[u8]) -> Self {
        if head.kind() == Kind::Error && head.code() == layout::code::NOT_KEPT {
            return Self::not_kept();
        }
        if head.kind() == Kind::Error {
            let payload = &payload[..payload.len().min(LONGEST_TEXT)];
            return Self { code: head.code(), text: String::from_utf8_lossy(payload).into_owned() };
        }
        Self {
            code: layout::code::STREAMED,
            text: "the answer is a stream, which was not asked for".into(),
        }
    }

    /// The code that the handler gave to [`HandlerError::new`](crate::HandlerError::new); `None`
    /// for Ringbell's own.
    pub fn application_code(&self) -> Option<u16> {
        self.code.checked_sub(layout::code::APPLICATION)
    }
}

impl std::fmt::Display for RemoteError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.application_code() {
            Some(code) => write!(f, "{} (application code {code})", self.text),
            None => write!(f, "{} (code {})", self.text, self.code),
        }
    }
}

impl std::fmt::Debug for RemoteError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("RemoteError");
        match self.application_code() {
            Some(code) => shown.field("application_code", &code),
            None => shown.field("code", &self.code),
        };
        shown.field("text", &self.text).finish()
    }
}

impl std::error::Error for RemoteError {}

impl std::fmt::Display for SendError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLarge { len, max } => {
                write!(f, "a message of {len} bytes is too large: at most {max}")
            }
            Self::TooManyInFlight { limit } => {
                write!(f, "{limit} calls are in flight, which is the limit")
            }
            Self::TimedOut => f.write_str("no room for the request in time"),
            Self::Disconnected => f.write_str("the server is gone"),
            Self::ShutDown => f.write_str("the server has shut down"),
            Self::PeerFault(fault) => fault.fmt(f),
            Self::WouldDeadlock => f.write_str(WOULD_DEADLOCK),
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
            Self::WouldDeadlock => f.write_str(WOULD_DEADLOCK),
            Self::Forked => f.write_str("the session belongs to the parent process"),
        }
    }
}

impl std::error::Error for RecvError {}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let executed =
            |maybe: &bool| if *maybe { "may have been executed" } else { "was not executed" };
        match self {
            Self::TooLarge { len, max } => {
                write!(f, "a message of {len} bytes is too large: at most {max}")
            }
            Self::TooManyInFlight { limit } => {
                write!(f, "{limit} calls are in flight, which is the limit")
            }
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
            Self::NotAStream => f.write_str("there is no such stream, or it has ended"),
            Self::PeerFault(fault) => fault.fmt(f),
            Self::WouldDeadlock => f.write_str(WOULD_DEADLOCK),
            Self::Forked => f.write_str("the session belongs to the parent process"),
        }
    }
}

impl std::error::Error for CallError {}

impl CallError {
    /// What an error that the server answered means to the caller.
    pub(super) fn of(error: RemoteError) -> Self {
        match error.code {
            layout::code::DEADLINE_EXCEEDED => Self::TimedOut { maybe_executed: false },
            layout::code::SHUTTING_DOWN => Self::ShutDown { maybe_executed: false },
            _ => Self::Remote(error),
        }
    }
}

impl From<SendError> for CallError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::TooLarge { len, max } => Self::TooLarge { len, max },
            SendError::TooManyInFlight { limit } => Self::TooManyInFlight { limit },
            SendError::TimedOut => Self::TimedOut { maybe_executed: false },
            SendError::Disconnected => Self::Disconnected { maybe_executed: false },
            SendError::ShutDown => Self::ShutDown { maybe_executed: false },
            SendError::PeerFault(fault) => Self::PeerFault(fault),
            SendError::WouldDeadlock => Self::WouldDeadlock,
            SendError::Forked => Self::Forked,
        }
    }
}

impl CallError {
    /// The error's name in spans: without the text of the server's application.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::TooManyInFlight { .. } => "too_many_in_flight",
            Self::TimedOut { .. } => "timed_out",
            Self::Disconnected { .. } => "disconnected",
            Self::ShutDown { .. } => "shut_down",
            Self::Remote(_) => "error",
            Self::NotAStream => "not_a_stream",
            Self::PeerFault(_) => "peer_fault",
            Self::WouldDeadlock => "would_deadlock",
            Self::Forked => "forked",
        }
    }
}

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionEnd {
    Disconnected,
    ShutDown,
    PeerFault(PeerFault),
    Forked,
}

impl From<PeerFault> for SessionEnd {
    fn from(fault: PeerFault) -> Self {
        Self::PeerFault(fault)
    }
}

impl SessionEnd {
    /// By the code of a goodbye that came among the answers.
    pub(super) fn of_goodbye(code: u16) -> Self {
        match u8::try_from(code).ok().and_then(Farewell::from_byte) {
            None | Some(Farewell::ShutDown) => Self::ShutDown,
            Some(_) => Self::Disconnected,
        }
    }

    pub(crate) fn as_send(self) -> SendError {
        match self {
            Self::Disconnected => SendError::Disconnected,
            Self::ShutDown => SendError::ShutDown,
            Self::PeerFault(fault) => SendError::PeerFault(fault),
            Self::Forked => SendError::Forked,
        }
    }

    pub(crate) fn as_recv(self) -> RecvError {
        match self {
            Self::Disconnected => RecvError::Disconnected,
            Self::ShutDown => RecvError::ShutDown,
            Self::PeerFault(fault) => RecvError::PeerFault(fault),
            Self::Forked => RecvError::Forked,
        }
    }

    pub(crate) fn as_call(self, maybe_executed: bool) -> CallError {
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
pub(super) enum WaitEnd {
    TimedOut,
    /// Nothing would ever come: the server is served by this thread.
    WouldDeadlock,
    SessionEnd(SessionEnd),
}
