//! Somebody who waits for an item: a thread, or a task.

use super::OpenFailure;
use super::core::{Held, Opening};
use crate::base::sync::{Condvar, Mutex, lock};
use crate::base::wakers::wake_all;
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::Instant;

/// What a waiter gets. It is given under the pool's lock, so whoever gives up under that lock knows
/// whether it was.
#[derive(Debug)]
pub(super) enum Given<T, E> {
    Item(Held<T>),
    /// The right to open one itself.
    Permit(Opening),
    /// None can be opened, now or later.
    Failed(OpenFailure<E>),
    /// The pool was closed.
    Closed,
}

#[derive(Debug)]
pub(super) struct Cell<T, E> {
    pub(super) given: Option<Given<T, E>>,
    pub(super) cancelled: bool,
    /// The task that waits, if it is one that does.
    pub(super) task: Option<Waker>,
}

/// One wait. Whoever waits and the pool's line share it.
#[derive(Debug)]
pub(super) struct Waiter<T, E> {
    pub(super) cell: Mutex<Cell<T, E>>,
    changed: Condvar,
}

/// How a wait ended without anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unserved {
    TimedOut,
    Cancelled,
}

impl<T, E> Waiter<T, E> {
    pub(super) fn new() -> Arc<Self> {
        let cell = Cell { given: None, cancelled: false, task: None };
        Arc::new(Self { cell: Mutex::new(cell), changed: Condvar::new() })
    }

    /// Gives it something. The caller holds the pool's lock, and wakes it afterwards.
    pub(super) fn give(&self, given: Given<T, E>) {
        let before = lock(&self.cell).given.replace(given);
        debug_assert!(before.is_none(), "who is given something has left the line");
    }

    /// Takes what was given, if anything was.
    pub(super) fn take(&self) -> Option<Given<T, E>> {
        lock(&self.cell).given.take()
    }

    /// Wakes whoever waits. Not under a lock: what a task does when it is woken is not known here.
    pub(super) fn wake(&self) {
        // Alone in its statement: the lock is gone before the task is told.
        let task = lock(&self.cell).task.take();
        match task {
            // Other people's code: a pool's thread goes on if it panics.
            Some(task) => wake_all([task]),
            None => self.changed.notify_one(),
        }
    }

    /// Blocks until it is given something, at most until the deadline.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> Result<Given<T, E>, Unserved> {
        let mut cell = lock(&self.cell);
        loop {
            if let Some(given) = cell.given.take() {
                return Ok(given);
            }
            if cell.cancelled {
                return Err(Unserved::Cancelled);
            }
            cell = match deadline {
                None => self.changed.wait(cell).unwrap_or_else(std::sync::PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(Unserved::TimedOut);
                    }
                    let waited = self.changed.wait_timeout(cell, left);
                    waited.unwrap_or_else(std::sync::PoisonError::into_inner).0
                }
            };
        }
    }
}

/// Whatever a [`Cancel`] can end.
trait Cancellable: Send + Sync {
    fn cancel(&self);
}

impl<T: Send, E: Send + Sync> Cancellable for Waiter<T, E> {
    fn cancel(&self) {
        lock(&self.cell).cancelled = true;
        self.wake();
    }
}

/// Ends waits from elsewhere: whoever waits with it stops waiting when it is cancelled, and never
/// waits again.
///
/// Clones are the same token. May be cancelled from any thread, also before anybody waits with it.
#[derive(Clone, Default)]
pub struct Cancel(Arc<Mutex<Cancelling>>);

#[derive(Default)]
struct Cancelling {
    cancelled: bool,
    waits: Vec<Weak<dyn Cancellable>>,
}

impl Cancel {
    /// A token that nobody has cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends all waits with this token, now and later.
    pub fn cancel(&self) {
        let waits = {
            let mut state = lock(&self.0);
            state.cancelled = true;
            std::mem::take(&mut state.waits)
        };
        for wait in waits {
            if let Some(wait) = wait.upgrade() {
                wait.cancel();
            }
        }
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        lock(&self.0).cancelled
    }

    /// Has `waiter` cancelled with this token; at once if it was already.
    pub(super) fn watch<T: Send + 'static, E: Send + Sync + 'static>(
        &self,
        waiter: &Arc<Waiter<T, E>>,
    ) {
        let mut state = lock(&self.0);
        if state.cancelled {
            drop(state);
            waiter.cancel();
            return;
        }
        // Those whose wait is over: the list is as long as there are waits, not as there were.
        state.waits.retain(|wait| wait.strong_count() > 0);
        let waiter: Arc<dyn Cancellable> = waiter.clone();
        state.waits.push(Arc::downgrade(&waiter));
    }
}

impl std::fmt::Debug for Cancel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cancel").field("cancelled", &self.is_cancelled()).finish_non_exhaustive()
    }
}
