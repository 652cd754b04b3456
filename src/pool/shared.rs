//! What pool, guards and keeper share: the state machine behind its lock, and what is done about it
//! outside of the lock. Bringing back, and the end.

use super::callbacks::{open, quiet};
use super::core::{Core, Held, Opening, Placed};
use super::seam::{Origin, coarse_ns, now_ns};
use super::waiter::{Given, Waiter};
use super::{AcquireError, CloseReason, Manager, NotDrained, OpenFailure, PoolStats};
use crate::base::sync::thread::{self, ThreadId};
use crate::base::sync::{Condvar, Mutex, MutexGuard, lock};
use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

pub(super) type WaiterOf<M> = Waiter<<M as Manager>::Item, <M as Manager>::Error>;
pub(super) type PlacedOf<M> = Placed<<M as Manager>::Item, Arc<WaiterOf<M>>>;
pub(super) type GivenOf<M> = Given<<M as Manager>::Item, <M as Manager>::Error>;
pub(super) type AcquireErrorOf<M> = AcquireError<<M as Manager>::Error>;

pub(super) struct State<M: Manager> {
    pub(super) core: Core<M::Item, Arc<WaiterOf<M>>>,
    /// Why the last attempt to open an item failed, if it did, and when.
    pub(super) failure: Option<(OpenFailure<M::Error>, u64)>,
    pub(super) crew: Crew<M::Item>,
}

/// What takes time.
#[derive(Debug)]
pub(super) enum Work<T> {
    /// Open an item.
    Open(Opening),
    /// Look whether this one still works.
    Check(Held<T>),
}

/// What the keeper and the threads that open know of each other; under the pool's lock.
#[derive(Debug)]
pub(super) struct Crew<T> {
    /// What the keeper wants to have done, and no thread has taken yet.
    pub(super) handed: VecDeque<Work<T>>,
    /// Those that were started, or are about to be, and have not ended.
    pub(super) threads: usize,
    pub(super) resting: usize,
    pub(super) alive: Vec<ThreadId>,
    /// Those that the keeper may join.
    pub(super) ended: Vec<ThreadId>,
}

impl<T> Default for Crew<T> {
    fn default() -> Self {
        Self {
            handed: VecDeque::new(),
            threads: 0,
            resting: 0,
            alive: Vec::new(),
            ended: Vec::new(),
        }
    }
}

impl<T> Crew<T> {
    /// Whether the calling thread is one of those that open.
    pub(super) fn has_this_thread(&self) -> bool {
        self.alive.contains(&thread::current().id())
    }
}

/// What pool, guards and keeper share. The items go before the manager.
pub(super) struct PoolInner<M: Manager> {
    pub(super) state: Mutex<State<M>>,
    /// The keeper waits here.
    pub(super) keeper: Condvar,
    /// Threads that have nothing to open wait here.
    pub(super) openers: Condvar,
    /// Whoever closes the pool waits here.
    pub(super) drained: Condvar,
    pub(super) origin: Origin,
    /// How long an acquire without a deadline waits: the setting, beside the lock, which a forked
    /// child may never take.
    pub(super) acquire_timeout: Option<Duration>,
    pub(super) manager: M,
}

impl<M: Manager> PoolInner<M> {
    // ---- bringing back ----

    /// An item's user is done with it: it is judged, and comes back. Not in a forked child.
    #[inline]
    pub(super) fn judge_and_return(&self, mut entry: Held<M::Item>) {
        let judged = !entry.poisoned && !std::thread::panicking();
        let verdict = match judged.then(|| quiet(|| self.judge(&mut entry.item))).flatten() {
            Some(verdict) => verdict,
            None => Some(CloseReason::Poisoned),
        };
        self.return_item(entry, verdict);
    }

    #[inline]
    fn judge(&self, item: &mut M::Item) -> Option<CloseReason> {
        if !self.manager.is_clean(item) {
            Some(CloseReason::Poisoned)
        } else if self.manager.is_used_up(item) {
            Some(CloseReason::Used)
        } else {
            None
        }
    }

    /// What the item leads to is gone: it is poisoned, and all that were opened before this was
    /// known are closed.
    pub(super) fn flush_with(&self, entry: &mut Held<M::Item>) {
        entry.poisoned = true;
        if self.origin.is_here() {
            let mut state = lock(&self.state);
            state.core.flush(entry.epoch());
            self.unlock_and_wake(state);
        }
    }

    /// An item comes back. Not in a forked child.
    #[inline]
    pub(super) fn return_item(&self, entry: Held<M::Item>, verdict: Option<CloseReason>) {
        let mut state = lock(&self.state);
        let placed = state.core.release(entry, verdict, coarse_ns());
        self.act_on_placed(state, placed);
    }

    /// Does what is to be done about an item that has found its place.
    #[inline]
    pub(super) fn act_on_placed(&self, state: MutexGuard<'_, State<M>>, placed: PlacedOf<M>) {
        match placed {
            // Kept by a pool that keeps things, and is not closed: nothing else can have become due
            // by this.
            Placed::Kept if state.core.is_due_sooner() => self.unlock_and_wake(state),
            Placed::Kept => drop(state),
            Placed::Handed(waiter, entry) => {
                waiter.give(Given::Item(entry));
                self.unlock_and_wake(state);
                waiter.wake();
            }
            Placed::Close(entry, reason) => {
                self.unlock_and_wake(state);
                self.close_item(entry, reason);
            }
        }
    }

    /// Closes an item that is counted as closing.
    #[cold]
    pub(super) fn close_item(&self, entry: Held<M::Item>, reason: CloseReason) {
        let _ = quiet(|| self.manager.close(entry.item, reason));
        let mut state = lock(&self.state);
        state.core.closed(reason);
        self.unlock_and_wake(state);
    }

    /// Opens an item for the line, or to be ready.
    pub(super) fn open_one(&self, opening: Opening) {
        let made = open(&self.manager);
        let mut state = lock(&self.state);
        match made {
            Ok((item, generation)) => {
                let before = state.failure.take();
                let placed = state.core.opened(opening, item, generation, now_ns());
                self.act_on_placed(state, placed);
                // Not under the lock: an error is other people's code, too.
                quiet(|| drop(before));
            }
            Err((failure, permanent)) => {
                state.core.open_failed(opening, now_ns());
                self.failed(state, failure, permanent);
            }
        }
    }

    /// An item could not be opened.
    fn failed(
        &self,
        mut state: MutexGuard<'_, State<M>>,
        failure: OpenFailure<M::Error>,
        permanent: bool,
    ) {
        let before = state.failure.replace((failure.clone(), now_ns()));
        let mut dismissed = Vec::new();
        if permanent {
            dismissed.extend(state.core.dismiss());
            for waiter in &dismissed {
                waiter.give(Given::Failed(failure.clone()));
            }
        }
        self.unlock_and_wake(state);
        dismissed.iter().for_each(|waiter| waiter.wake());
        quiet(|| drop((before, failure, dismissed)));
    }

    /// Looks whether an item still works.
    pub(super) fn check_one(&self, mut entry: Held<M::Item>) {
        let fit = quiet(|| self.manager.check(&mut entry.item)).unwrap_or(false);
        let mut state = lock(&self.state);
        let placed = state.core.checked(entry, fit, now_ns());
        self.act_on_placed(state, placed);
    }

    /// Gives the lock back, and wakes whoever has to do something about what was changed under it.
    pub(super) fn unlock_and_wake(&self, mut state: MutexGuard<'_, State<M>>) {
        let disturb = state.core.disturb();
        if !state.core.is_ordinary() {
            self.unlock_and_wake_all(state);
        } else {
            drop(state);
        }
        if disturb {
            self.keeper.notify_one();
        }
    }

    /// As [`Self::unlock_and_wake`], of a pool that keeps nothing, or is closed.
    #[cold]
    fn unlock_and_wake_all(&self, mut state: MutexGuard<'_, State<M>>) {
        let mut admitted = Vec::new();
        while let Some((waiter, opening)) = state.core.admit(now_ns) {
            waiter.give(Given::Permit(opening));
            admitted.push(waiter);
        }
        let drained = state.core.is_closed() && state.core.total() == 0;
        drop(state);
        admitted.iter().for_each(|waiter| waiter.wake());
        if drained {
            self.drained.notify_all();
        }
    }

    // ---- the end ----

    pub(super) fn shut_down(&self) {
        let mut state = lock(&self.state);
        let waiters = state.core.close();
        for waiter in &waiters {
            waiter.give(Given::Closed);
        }
        self.unlock_and_wake(state);
        self.openers.notify_all();
        waiters.iter().for_each(|waiter| waiter.wake());
        loop {
            // Alone in its statement: nothing is closed under the lock.
            let doomed = lock(&self.state).core.next_doomed();
            let Some((entry, reason)) = doomed else { return };
            self.close_item(entry, reason);
        }
    }

    pub(super) fn drain(&self, deadline: Option<Instant>) -> Result<(), NotDrained> {
        let mut state = lock(&self.state);
        while state.core.total() > 0 {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                let PoolStats { in_use, .. } = state.core.stats();
                return Err(NotDrained { in_use, others: state.core.total() - in_use });
            }
            state = match left {
                None => self.drained.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    let waited = self.drained.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        Ok(())
    }
}
