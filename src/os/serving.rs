//! Which server the calling thread serves. A handler that runs on its server's own thread and waits
//! for an answer of that server waits for itself.

use crate::os::fork::Origin;
use std::cell::Cell;

/// One server of one process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Served {
    /// The server's generation.
    pub(crate) generation: u64,
    /// In a forked child the thread serves nobody: the parent's still does.
    pub(crate) origin: Origin,
}

thread_local! {
    static SERVED: Cell<Option<Served>> = const { Cell::new(None) };
}

/// While it lives the thread is the one that serves.
#[derive(Debug)]
#[must_use = "the thread serves until this is dropped"]
pub(crate) struct ServingThread {
    /// By whose handler this one was called.
    outer: Option<Served>,
}

impl ServingThread {
    /// From now on nobody but this thread serves `served`.
    #[inline]
    pub(crate) fn begin(served: Served) -> Self {
        Self { outer: SERVED.replace(Some(served)) }
    }
}

impl Drop for ServingThread {
    #[inline]
    fn drop(&mut self) {
        // A destructor may run while the thread ends, when there is nothing any more.
        let _ = SERVED.try_with(|served| served.set(self.outer));
    }
}

/// Whether the server of this generation is served by the calling thread, so that nothing will come
/// from it while the thread waits.
pub(crate) fn serves(generation: u64) -> bool {
    let served = SERVED.try_with(Cell::get).ok().flatten();
    served.is_some_and(|served| served.generation == generation && served.origin.is_here())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_server_is_served_and_then_the_outer_one() {
        let origin = Origin::here();
        assert!(!serves(1));
        let outer = ServingThread::begin(Served { generation: 1, origin });
        assert!(serves(1) && !serves(2));
        let inner = ServingThread::begin(Served { generation: 2, origin });
        assert!(serves(2) && !serves(1));
        drop(inner);
        assert!(serves(1));
        assert!(std::thread::spawn(|| !serves(1)).join().unwrap(), "only this thread");
        drop(outer);
        assert!(!serves(1));
    }
}
