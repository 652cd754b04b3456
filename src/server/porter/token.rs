//! What an event of the porter's epoll is about, and how many are handled in a turn.

use super::PorterMode;
use rustix::event::epoll::EventData;

/// What an event of the epoll is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    Listener,
    Mail,
    HalfOpen(u64),
    Lifeline(u64),
    Process(u64),
    Host,
}

impl Token {
    pub(super) fn data(self) -> EventData {
        let (kind, id) = match self {
            Self::Listener => (0, 0),
            Self::Mail => (1, 0),
            Self::HalfOpen(id) => (2, id),
            Self::Lifeline(session) => (3, session),
            Self::Process(session) => (4, session),
            Self::Host => (5, 0),
        };
        EventData::new_u64(id << 3 | kind)
    }

    pub(super) fn of(data: EventData) -> Self {
        let id = data.u64() >> 3;
        match data.u64() & 7 {
            0 => Self::Listener,
            1 => Self::Mail,
            2 => Self::HalfOpen(id),
            3 => Self::Lifeline(id),
            4 => Self::Process(id),
            _ => Self::Host,
        }
    }
}

/// How much is done before others get their turn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    /// Connections that are accepted.
    pub(super) accepts: usize,
    /// Events that are handled.
    pub(super) events: usize,
}

impl Turn {
    /// Most events of a turn.
    pub(super) const MOST: usize = 64;

    /// On a thread of its own the porter keeps nobody waiting but those who connect. In a loop each
    /// event may cost a slice of memory, and established sessions wait for that.
    pub(super) fn of(mode: PorterMode) -> Self {
        match mode {
            PorterMode::Thread => Self { accepts: 16, events: Self::MOST },
            PorterMode::Loop => Self { accepts: 1, events: 1 },
        }
    }
}
