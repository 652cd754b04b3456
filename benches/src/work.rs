//! What handlers do with a request before they answer it.

use std::time::{Duration, Instant};

use crate::pause::sleep;
use crate::payload::{Sink, echo, is_whole};
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
    /// Waits for 100 us without using the CPU, then answers with the request. Threads that do so
    /// must [be punctual](crate::pause::be_punctual).
    Wait,
    /// Computes for so many nanoseconds, then answers with the request.
    Compute(u64),
    /// A read from the [store](crate::world_state), which waits as long.
    World,
}

impl Work {
    /// What the scenario prescribes.
    pub(crate) const fn of(case: &Case) -> Self {
        match case.scenario {
            Scenario::ServiceDepth | Scenario::ServiceClients => Self::World,
            _ => match case.lasts_ns() {
                0 => Self::Echo,
                nanos => Self::Compute(nanos),
            },
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
        match self {
            Self::Wait => sleep(WAIT_NS).expect("the monotonic clock can be slept on"),
            Self::Compute(nanos) => compute(Duration::from_nanos(nanos)),
            Self::Echo | Self::World => {}
        }
        echo(request, answer);
    }
}

/// Keeps the CPU busy.
fn compute(time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {}
}

/// What a server without a pool does with the messages of one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handler {
    work: Work,
    sink: Option<Sink>,
}

impl Handler {
    /// What the scenario prescribes.
    pub(crate) fn of(case: &Case) -> Self {
        Self { work: Work::of(case), sink: (case.scenario == Scenario::Stream).then(Sink::default) }
    }

    /// Takes a message whose answer is made of it where it lies. False: it wants none.
    ///
    /// # Panics
    /// As [`Self::answer`].
    #[inline]
    #[allow(dead_code, reason = "few peers answer in place, and they are built on demand")]
    pub(crate) fn admits(&mut self, request: &[u8]) -> bool {
        match &mut self.sink {
            Some(sink) => sink.take(request),
            None => {
                assert!(is_whole(request), "a request of {} bytes arrived damaged", request.len());
                true
            }
        }
    }

    /// Takes a message and makes the answer, in place of what `answer` held. False: it wants none.
    ///
    /// # Panics
    /// If the message arrived damaged, or out of order in a stream; the trial then fails as a
    /// whole.
    #[inline]
    pub(crate) fn answer(&mut self, request: &[u8], answer: &mut Vec<u8>) -> bool {
        answer.clear();
        if let Some(sink) = &mut self.sink
            && !sink.take(request)
        {
            return false;
        }
        self.work.answer(request, answer);
        true
    }
}
