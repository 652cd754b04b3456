//! What handlers do with a request before they answer it.

use crate::pause::sleep;
use crate::payload::echo;
use crate::scenario::{Case, Scenario};

/// Threads of the pool on which handlers wait.
pub(crate) const THREADS: usize = 16;

/// How long a handler waits for something else: about what a small read from a disk takes.
const WAIT_NS: i64 = 100_000;

/// The work of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// None: the answer is the request.
    Echo,
    /// Waits for 100 us without using the CPU, then answers with the request. Threads that do so must
    /// [be punctual](crate::pause::be_punctual).
    Wait,
    /// A read from the [store](crate::world_state), which waits as long.
    World,
}

impl Work {
    /// What the scenario prescribes.
    pub(crate) const fn of(case: &Case) -> Self {
        match case.scenario {
            Scenario::ServiceDepth | Scenario::ServiceClients => Self::World,
            _ => Self::Echo,
        }
    }

    /// Whether it waits.
    pub(crate) const fn waits(self) -> bool {
        matches!(self, Self::Wait | Self::World)
    }

    /// Does the work and appends the answer. Not for a store, which does its own.
    ///
    /// # Panics
    /// If the request arrived damaged; the trial then fails as a whole.
    pub(crate) fn answer(self, request: &[u8], answer: &mut Vec<u8>) {
        if self == Self::Wait {
            sleep(WAIT_NS).expect("the monotonic clock can be slept on");
        }
        echo(request, answer);
    }
}
