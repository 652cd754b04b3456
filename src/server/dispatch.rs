//! Handlers that run on an executor of the caller, and when one runs on the reactor's own
//! thread instead.
//!
//! Handing a request to another thread costs two wake-ups, tens of microseconds where a CPU sleeps.
//! A handler that is done sooner than that is better run at once, where the request was read; one
//! that waits must never be, since all sessions would wait with it. Who knows that its handler is
//! short says so ([`Inline::Short`]); who does not can have it measured ([`Inline::Measured`]).

use crate::base::clock::now_ns;
use crate::base::sync::{Ordering, PlainU64};
use crate::memory::layout::code;
use crate::schedule::executor::{Executor, Task};
use crate::server::service::{OwnedRequest, Responder, Service};
use crate::trace::Span;
use std::sync::Arc;

/// Whether handlers may run on the reactor's thread: only while nothing else of their session is in
/// flight or waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Inline {
    /// Never: for handlers that may wait.
    #[default]
    Never,
    /// Always: the handler takes microseconds, and never waits.
    Short,
    /// Once 64 runs in a row have each taken less than 10 us. A single longer run sends all
    /// requests to the executor again, until twice as many in a row were short as the last time.
    /// Not for handlers that wait now and then: all sessions wait with each that was misjudged.
    Measured,
}

/// A run shorter than this is worth less than handing it over.
const SHORT_NS: u64 = 10_000;
/// Short runs in a row after which a handler counts as short, the first time, and at most.
const RUNS: u64 = 64;
const RUNS_MOST: u64 = 1 << 20;

/// How long a handler takes.
#[derive(Debug)]
pub(crate) struct Pace {
    short_in_a_row: PlainU64,
    needed: PlainU64,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self { short_in_a_row: PlainU64::new(0), needed: PlainU64::new(RUNS) }
    }

    // Relaxed throughout: estimates, which order nothing.

    pub(crate) fn is_short(&self) -> bool {
        self.short_in_a_row.load(Ordering::Relaxed) >= self.needed.load(Ordering::Relaxed)
    }

    /// A handler ran for so long.
    pub(crate) fn ran(&self, took_ns: u64) {
        if took_ns < SHORT_NS {
            self.short_in_a_row.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if self.is_short() {
            let needed = self.needed.load(Ordering::Relaxed);
            self.needed.store((2 * needed).min(RUNS_MOST), Ordering::Relaxed);
        }
        self.short_in_a_row.store(0, Ordering::Relaxed);
    }

    pub(crate) fn time<R>(&self, run: impl FnOnce() -> R) -> R {
        let began = now_ns();
        let result = run();
        self.ran(now_ns().saturating_sub(began));
        result
    }
}

/// A service whose handler runs on an executor.
#[derive(Debug)]
pub(crate) struct Dispatched<E, H> {
    executor: E,
    handler: Arc<H>,
    inline: Inline,
    pace: Arc<Pace>,
}

impl<E, H> Dispatched<E, H> {
    pub(crate) fn new(executor: E, handler: H, inline: Inline) -> Self {
        Self { executor, handler: Arc::new(handler), inline, pace: Arc::new(Pace::new()) }
    }
}

impl<E, H> Service for Dispatched<E, H>
where
    E: Executor,
    H: Fn(OwnedRequest, Responder) + Send + Sync + 'static,
{
    fn request(&mut self, request: OwnedRequest, responder: Responder) {
        let measured = self.inline == Inline::Measured;
        if request.is_alone() {
            match self.inline {
                Inline::Short => return (self.handler)(request, responder),
                Inline::Measured if self.pace.is_short() => {
                    return self.pace.time(|| (self.handler)(request, responder));
                }
                Inline::Never | Inline::Measured => {}
            }
        }
        let (handler, pace, span) = (self.handler.clone(), self.pace.clone(), Span::current());
        let run = move || {
            // It may have waited for its turn for longer than its caller wants to.
            if request.is_expired() {
                responder.fail(
                    code::DEADLINE_EXCEEDED,
                    "the deadline passed before the request was run",
                );
            } else if request.is_cancelled() && !request.is_one_way() {
                responder
                    .fail(code::CANCELLED, "the call was cancelled before the request was run");
            } else if measured {
                pace.time(|| handler(request, responder));
            } else {
                handler(request, responder);
            }
        };
        self.executor.execute(Task::new(move || span.inside(run)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_is_short_after_enough_short_runs_and_not_after_a_long_one() {
        let pace = Pace::new();
        for needed in [RUNS, 2 * RUNS, 4 * RUNS] {
            for _ in 1..needed {
                pace.ran(100);
                assert!(!pace.is_short());
            }
            pace.ran(100);
            assert!(pace.is_short());
            pace.ran(SHORT_NS);
            assert!(!pace.is_short());
        }
        // One that is never short needs no more than before.
        for _ in 0..100 {
            pace.ran(1_000_000);
        }
        assert_eq!(pace.needed.load(Ordering::Relaxed), 8 * RUNS);
    }

    #[test]
    fn what_is_needed_has_a_bound() {
        let pace = Pace::new();
        pace.needed.store(RUNS_MOST, Ordering::Relaxed);
        for _ in 0..RUNS_MOST {
            pace.ran(1);
        }
        pace.ran(SHORT_NS);
        assert_eq!(pace.needed.load(Ordering::Relaxed), RUNS_MOST);
    }
}
