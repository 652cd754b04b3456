//! What a pool holds: how it is opened, judged and closed is its manager's business.

use super::CloseReason;
use super::seam::coarse_ns;
use std::time::Duration;

/// Opens, judges and closes the items of a pool.
///
/// None of its methods is called under the pool's lock. One that panics does no harm beyond its own
/// item: the panic is caught, and counts as a failure, or as a verdict against the item.
pub trait Manager: Send + Sync + 'static {
    /// What is kept ready.
    type Item: Send + 'static;
    /// Why there is none.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Opens an item, and waits until it is ready. Called on threads of the pool's own, at most
    /// `max_starting` of them side by side; where nothing is kept (`enabled: false`), on the
    /// threads of those who acquire.
    ///
    /// # Errors
    /// The pool tries again later, with growing pauses, unless the error
    /// [is permanent](Self::is_permanent).
    fn open(&self) -> Result<Self::Item, Self::Error>;

    /// Whether trying again is of no use: then those who wait get this error at once, instead of
    /// waiting in vain. Default: no.
    fn is_permanent(&self, _error: &Self::Error) -> bool {
        false
    }

    /// What the item leads to: differs after a restart of it. When an item is opened that differs
    /// from those before it, those are stale. Default: always the same.
    fn generation(&self, _item: &Self::Item) -> u64 {
        0
    }

    /// Whether an item that was ready for some time can be handed out. Called for each acquire, on
    /// the caller's thread: so it should cost next to nothing. Default: yes.
    fn is_ready(&self, _item: &mut Self::Item, _idle: Idle) -> bool {
        true
    }

    /// Whether an item that comes back can be used again: it is between requests, has seen no
    /// error, and has nothing left of its last user. Called for each guard that is dropped, on that
    /// thread. Default: yes.
    fn is_clean(&self, _item: &mut Self::Item) -> bool {
        true
    }

    /// Whether an item that comes back and is clean was used as often as it may be: then it is
    /// closed as [`CloseReason::Used`]. Default: no.
    fn is_used_up(&self, _item: &mut Self::Item) -> bool {
        false
    }

    /// Looks whether a ready item still works, and may take its time over it, within bounds of its
    /// own. Called on a thread of the pool's own, for one item at a time; where `max_starting` is 1
    /// nothing is opened meanwhile. Default: yes.
    fn check(&self, _item: &mut Self::Item) -> bool {
        true
    }

    /// Closes an item. Called on whatever thread has it. Default: drops it.
    fn close(&self, item: Self::Item, _reason: CloseReason) {
        drop(item);
    }
}

/// For how long an item was ready. Knows since when, and looks at the clock only if it is asked.
#[derive(Debug, Clone, Copy)]
pub struct Idle {
    pub(super) since: u64,
}

impl Idle {
    /// How long that is now, exact to some milliseconds.
    #[inline]
    pub fn time(self) -> Duration {
        Duration::from_nanos(coarse_ns().saturating_sub(self.since))
    }
}
