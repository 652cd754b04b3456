//! A client's attachment, as handlers see it.

use crate::base::sync::Ordering;
use crate::handshake::{AnswerOrder, Transport};
use crate::link::held::ENTRY;
use crate::memory::layout::Kind;
use crate::server::flight::{Caller, Completion, To};
use std::sync::Arc;

/// One client's attachment, as handlers see it. Cheap to clone; any thread may use it, also after
/// the session is over.
#[derive(Debug, Clone)]
pub struct Session(pub(crate) Arc<Caller>);

impl Session {
    /// The session's number, unique in the server's life.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// The client's process id at connect; 0 if it cannot be seen from the server's pid namespace.
    pub fn pid(&self) -> u32 {
        self.0.peer.pid
    }

    /// The client's user id at connect.
    pub fn uid(&self) -> u32 {
        self.0.peer.uid
    }

    /// The name that the client gave itself: for people, not to be trusted.
    pub fn name(&self) -> &str {
        &self.0.peer.name
    }

    /// What carries it.
    pub fn transport(&self) -> &Transport {
        &self.0.transport
    }

    /// In which order its answers are sent.
    pub fn order(&self) -> AnswerOrder {
        self.0.order
    }

    /// Largest message either way in bytes.
    pub fn max_message(&self) -> usize {
        self.0.max_message
    }

    /// Whether the client is still attached, as far as the server knows.
    pub fn is_open(&self) -> bool {
        // Relaxed: advice.
        self.0.open.load(Ordering::Relaxed)
    }

    /// Sends an event that belongs to no call; the client receives it by
    /// [`Client::next_event`](crate::Client::next_event), between answers. Never waits. Events of
    /// one thread arrive in order.
    ///
    /// # Errors
    /// [`PushError`]. That the client receives it nobody can promise: it may end first.
    pub fn push(&self, event: &[u8]) -> Result<(), PushError> {
        let caller = &self.0;
        if event.len() > caller.max_message {
            return Err(PushError::TooLarge { len: event.len(), max: caller.max_message });
        }
        // In a forked child there is no reactor to send it, and what wakes one is the parent's.
        if !self.is_open() || !caller.completions.is_here() {
            return Err(PushError::Disconnected);
        }
        // Relaxed: a count, which orders nothing.
        if caller.events.fetch_add(1, Ordering::Relaxed) >= caller.events_most {
            caller.events.fetch_sub(1, Ordering::Relaxed);
            return Err(PushError::Full { limit: caller.events_most });
        }
        let Some(charge) = caller.account.charge_answer(event.len() + ENTRY) else {
            caller.events.fetch_sub(1, Ordering::Relaxed);
            let most = caller.account.most_of_answer().saturating_sub(ENTRY as u64);
            let max = usize::try_from(most).unwrap_or(usize::MAX);
            if event.len() > max {
                return Err(PushError::TooLarge { len: event.len(), max });
            }
            caller.account.count_refusal();
            return Err(PushError::NoRoom);
        };
        let payload = caller.copy(event, charge);
        let event =
            Completion { to: To::Caller(caller.clone()), kind: Kind::Event, code: 0, payload };
        if caller.completions.push(event) { Ok(()) } else { Err(PushError::Disconnected) }
    }
}

/// Why an event was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PushError {
    /// Longer than a message may be, or than all that may be held for the client.
    TooLarge {
        /// Length of the event in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// As many events as allowed wait to be sent: the client does not read them fast enough.
    Full {
        /// How many may wait.
        limit: u64,
    },
    /// All the bytes that may be held for the client, or for its uid, are taken: see
    /// [`max_held_bytes_per_client`](crate::ServerBuilder::max_held_bytes_per_client).
    NoRoom,
    /// The session is over.
    Disconnected,
}

impl std::fmt::Display for PushError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLarge { len, max } => {
                write!(f, "an event of {len} bytes is too large: at most {max}")
            }
            Self::Full { limit } => write!(f, "{limit} events wait to be sent, which is the limit"),
            Self::NoRoom => f.write_str("the client holds all the bytes that it may"),
            Self::Disconnected => f.write_str("the session is over"),
        }
    }
}

impl std::error::Error for PushError {}
