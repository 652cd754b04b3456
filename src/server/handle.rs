//! The handle of a server, for other threads.

use crate::base::clock::now_ns;
use crate::link::stats::ServerCounters;
use crate::memory::PeerWord;
use crate::server::reactor::Mailbox;
use std::sync::Arc;
use std::time::Duration;

/// A running, or not yet running, server, for other threads. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ServerHandle {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) counters: Arc<Vec<PeerWord>>,
}

impl ServerHandle {
    /// Makes the server stop: it takes no new clients, answers what it has received, for at most
    /// `drain`, says goodbye and returns from its `run`. `None` waits for ever, zero does not wait.
    ///
    /// With `None` it waits for handlers only: until the last one has answered, or ended its
    /// stream. One that never does, or leaks its [`Responder`](crate::Responder), is waited for for
    /// ever; so let endless streams look at [`Self::is_stopping`], or give a limit. What clients
    /// can add to that is bounded: by
    /// [`slow_client_timeout`](crate::ServerBuilder::slow_client_timeout) for one that takes no
    /// answer, by [`stream_stall_timeout`](crate::ServerBuilder::stream_stall_timeout) for one that
    /// takes no item, and by the longer of that limit and 10 s for all that a client has to take at
    /// last. Where these are unset (`None`) they are 10 s from this order on.
    ///
    /// Returns at once. May be called from any thread and from a signal handler, any number of
    /// times.
    pub fn shutdown(&self, drain: Option<Duration>) {
        let deadline = match drain {
            None => u64::MAX - 1,
            Some(drain) => now_ns()
                .saturating_add(u64::try_from(drain.as_nanos()).unwrap_or(u64::MAX / 2))
                .min(u64::MAX - 1),
        };
        self.mailbox.stop(deadline);
    }

    /// Whether it was told to stop. For handlers whose stream would go on for ever.
    pub fn is_stopping(&self) -> bool {
        self.mailbox.is_stopping()
    }

    /// What the server counted so far. Brought up to date when it sleeps and when clients come and
    /// go.
    pub fn stats(&self) -> ServerCounters {
        ServerCounters::read(|index| self.counters[index].load())
    }
}
