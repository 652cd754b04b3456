//! Somebody waits for room that others make: a flag beside a count.
//!
//! ```text
//! the one that waits            the one that makes room
//!   flag = 1                      lower the count
//!   fence ROOM                    fence ROOM
//!   look at the count again       flag == 1: set it to 0, and wake
//! ```
//!
//! Of the two fences one comes first. If that of the one that waits does, the other one sees the
//! flag, and wakes. If that of the one that makes room does, the second look sees the room. So
//! making room costs a fence and a load while nobody waits.

use crate::base::sync::{AtomicU32, Ordering, fence};

/// Whether somebody waits for room.
#[derive(Debug)]
pub struct WantsRoom(AtomicU32);

impl Default for WantsRoom {
    fn default() -> Self {
        Self::new()
    }
}

impl WantsRoom {
    /// Nobody does.
    pub fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Says that somebody does. What it waits for is to be looked at behind this.
    pub fn announce(&self) {
        // Relaxed: the fence orders it before the second look.
        self.0.store(1, Ordering::Relaxed);
        // ROOM, with the one in `take`.
        fence(Ordering::SeqCst);
    }

    /// Room was made: whether somebody is to be woken for it. One caller is told so.
    #[inline]
    pub fn take(&self) -> bool {
        // ROOM, with the one in `announce`.
        fence(Ordering::SeqCst);
        // Relaxed: who is woken takes a lock, and looks at the count again.
        self.0.load(Ordering::Relaxed) != 0
            && self.0.compare_exchange(1, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}
