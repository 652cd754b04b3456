//! How many are inside; closing; waiting until all have left.

use crate::base::sync::{AtomicU64, Condvar, Mutex, Ordering, lock};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(super) struct Gate {
    /// How many are inside, and [`CLOSED`]: in one word, so that after closing nobody gets in
    /// unseen.
    inside: AtomicU64,
    /// How many wait for it to be empty.
    waiters: Mutex<usize>,
    empty: Condvar,
}

const CLOSED: u64 = 1 << 63;

impl Gate {
    pub(super) fn new() -> Self {
        Self { inside: AtomicU64::new(0), waiters: Mutex::new(0), empty: Condvar::new() }
    }

    /// Goes inside, unless it is closed; whether it did.
    pub(super) fn enter(&self) -> bool {
        let inside = self.inside.fetch_add(1, Ordering::Relaxed);
        if inside & CLOSED != 0 {
            self.leave();
        }
        inside & CLOSED == 0
    }

    pub(super) fn leave(&self) {
        // IDLE: pairs with the load in `is_empty`. What was done inside comes before.
        let inside = self.inside.fetch_sub(1, Ordering::Release);
        // Either the waiter takes the lock later, and then sees the new number (the lock orders
        // it), or it has begun to wait, and counts as a waiter.
        if inside & !CLOSED == 1 && *lock(&self.waiters) > 0 {
            self.empty.notify_all();
        }
    }

    pub(super) fn close(&self) {
        self.inside.fetch_or(CLOSED, Ordering::Relaxed);
    }

    fn is_empty(&self) -> bool {
        // IDLE: pairs with `leave`, with each of those that left: their changes of the word are one
        // chain.
        self.inside.load(Ordering::Acquire) & !CLOSED == 0
    }

    /// Waits until nobody is inside; whether that came about in time.
    pub(super) fn wait_empty(&self, timeout: Option<Duration>) -> bool {
        // A time beyond the clock's range never comes.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut waiters = lock(&self.waiters);
        *waiters += 1;
        let empty = loop {
            if self.is_empty() {
                break true;
            }
            waiters = match deadline
                .map(|deadline| deadline.saturating_duration_since(Instant::now()))
            {
                Some(Duration::ZERO) => break false,
                Some(left) => {
                    self.empty.wait_timeout(waiters, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.empty.wait(waiters).unwrap_or_else(PoisonError::into_inner),
            };
        };
        *waiters -= 1;
        empty
    }
}
