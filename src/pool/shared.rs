//! What pool, guards and keeper share: the state machine behind its lock, and what is done about it outside of the lock.
//! Taking out, bringing back, the end.

use super::core::{Core, Held, Opening, Placed, Taken};
use super::keeper::{self, quiet};
use super::waiter::{Given, Unserved, Waiter};
use super::{AcquireError, Cancel, CloseReason, Guard, Idle, Manager, NotDrained, OpenFailure, PoolStats};
use crate::base::clock::{coarse_ns, now_ns};
use crate::base::sync::{Condvar, Mutex, MutexGuard, lock};
use crate::os::fork::Origin;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

pub(super) type WaiterOf<M> = Waiter<<M as Manager>::Item, <M as Manager>::Error>;
pub(super) type PlacedOf<M> = Placed<<M as Manager>::Item, Arc<WaiterOf<M>>>;
pub(super) type GivenOf<M> = Given<<M as Manager>::Item, <M as Manager>::Error>;
pub(super) type AcquireErrorOf<M> = AcquireError<<M as Manager>::Error>;
pub(super) type Handed<M> = Result<Guard<M>, AcquireError<<M as Manager>::Error>>;

/// What came of asking for an item.
pub(super) enum Asked<M: Manager> {
    Given(GivenOf<M>),
    Queued(Arc<WaiterOf<M>>),
}

pub(super) struct State<M: Manager> {
    pub(super) core: Core<M::Item, Arc<WaiterOf<M>>>,
    /// Why the last attempt to open an item failed, if it did.
    pub(super) failure: Option<OpenFailure<M::Error>>,
}

/// What pool, guards and keeper share. The items go before the manager.
pub(super) struct PoolInner<M: Manager> {
    pub(super) state: Mutex<State<M>>,
    /// The keeper waits here.
    pub(super) keeper: Condvar,
    /// Whoever closes the pool waits here.
    pub(super) drained: Condvar,
    pub(super) origin: Origin,
    /// How long an acquire without a deadline waits: the setting, beside the lock, which a forked child may never take.
    pub(super) acquire_timeout: Option<Duration>,
    pub(super) manager: M,
}

impl<M: Manager> PoolInner<M> {
    // ---- taking out ----

    pub(super) fn take_ready(self: &Arc<Self>) -> Result<Option<Guard<M>>, AcquireErrorOf<M>> {
        Ok(self.take_ready_entry()?.map(|entry| Guard::new(entry, self.clone())))
    }

    /// An item that is ready, and found to be so.
    #[inline]
    pub(super) fn take_ready_entry(&self) -> Result<Option<Held<M::Item>>, AcquireErrorOf<M>> {
        if !self.origin.is_here() {
            return Err(AcquireError::Forked);
        }
        loop {
            let mut state = lock(&self.state);
            let Some(entry) = state.core.take_idle() else { return Ok(None) };
            // Nothing else can have become due by this.
            if state.core.is_short() {
                self.unlock_and_wake(state);
            } else {
                drop(state);
            }
            if let Some(entry) = self.approved(entry) {
                return Ok(Some(entry));
            }
        }
    }

    /// The item, unless it turns out to be of no use, in which case it is closed.
    #[inline]
    fn approved(&self, mut entry: Held<M::Item>) -> Option<Held<M::Item>> {
        let idle = Idle { since: entry.idle_since() };
        if quiet(|| self.manager.is_ready(&mut entry.item, idle)) == Some(true) {
            return Some(entry);
        }
        self.return_item(entry, Some(CloseReason::Unhealthy));
        None
    }

    pub(super) fn try_acquire(self: &Arc<Self>) -> Result<Option<Guard<M>>, AcquireError<M::Error>> {
        if let Some(guard) = self.take_ready()? {
            return Ok(Some(guard));
        }
        let mut state = lock(&self.state);
        match state.core.take() {
            Taken::Item(entry) => {
                self.unlock_and_wake(state);
                Ok(self.approved(entry).map(|entry| Guard::new(entry, self.clone())))
            }
            Taken::Open(opening) => {
                drop(state);
                self.open_here(opening).map(Some)
            }
            Taken::Closed => Err(AcquireError::Closed),
            Taken::Nothing => {
                state.core.miss();
                self.unlock_and_wake(state);
                Ok(None)
            }
        }
    }

    pub(super) fn acquire(self: &Arc<Self>, deadline: Option<Instant>, cancel: Option<&Cancel>) -> Handed<M> {
        if !self.origin.is_here() {
            return Err(AcquireError::Forked);
        }
        if cancel.is_some_and(Cancel::is_cancelled) {
            return Err(AcquireError::Cancelled);
        }
        let mut began = None;
        loop {
            let given = match self.ask(began.is_some())? {
                Asked::Given(given) => given,
                Asked::Queued(waiter) => {
                    began.get_or_insert_with(Instant::now);
                    if let Some(cancel) = cancel {
                        cancel.watch(&waiter);
                    }
                    match waiter.wait(deadline) {
                        Ok(given) => given,
                        Err(why) => self.unserved(&waiter, why)?,
                    }
                }
            };
            if let Some(guard) = self.accept(given)? {
                if let Some(began) = began {
                    self.count_wait(began);
                }
                return Ok(guard);
            }
        }
    }

    /// Something for a caller, or else a place in the line: at its head, if what the caller was given was no good.
    pub(super) fn ask(&self, again: bool) -> Result<Asked<M>, AcquireErrorOf<M>> {
        let mut state = lock(&self.state);
        Ok(match state.core.take() {
            Taken::Item(entry) => {
                self.unlock_and_wake(state);
                Asked::Given(Given::Item(entry))
            }
            Taken::Open(opening) => Asked::Given(Given::Permit(opening)),
            Taken::Closed => return Err(AcquireError::Closed),
            Taken::Nothing => {
                let waiter = Waiter::new();
                state.core.enqueue(waiter.clone(), again);
                self.unlock_and_wake(state);
                Asked::Queued(waiter)
            }
        })
    }

    /// Somebody who waited since `began` has got something.
    pub(super) fn count_wait(&self, began: Instant) {
        lock(&self.state).core.count_wait(began.elapsed());
    }

    /// What a caller makes of what it was given; `None` if that was of no use.
    pub(super) fn accept(
        self: &Arc<Self>,
        given: GivenOf<M>,
    ) -> Result<Option<Guard<M>>, AcquireError<M::Error>> {
        match given {
            Given::Item(entry) => Ok(self.approved(entry).map(|entry| Guard::new(entry, self.clone()))),
            Given::Permit(opening) => self.open_here(opening).map(Some),
            Given::Failed(failure) => Err(AcquireError::Open(failure)),
            Given::Closed => Err(AcquireError::Closed),
        }
    }

    /// A wait is over without anything: the error, unless something was given just now.
    pub(super) fn unserved(
        &self,
        waiter: &Arc<WaiterOf<M>>,
        why: Unserved,
    ) -> Result<GivenOf<M>, AcquireErrorOf<M>> {
        let mut state = lock(&self.state);
        if !state.core.give_up(|other| Arc::ptr_eq(other, waiter)) {
            // It was served, under this lock; so what it got is there.
            let given = waiter.take().expect("who is not in the line has been served");
            if why == Unserved::TimedOut {
                return Ok(given);
            }
            state.core.count_cancelled();
            drop(state);
            self.hand_to_next(given);
            return Err(AcquireError::Cancelled);
        }
        match why {
            Unserved::TimedOut => {
                state.core.count_timeout();
                let cause = state.failure.clone();
                // Whoever never waits for long would otherwise never find anything.
                state.core.miss();
                self.unlock_and_wake(state);
                Err(AcquireError::TimedOut { cause })
            }
            Unserved::Cancelled => {
                state.core.count_cancelled();
                Err(AcquireError::Cancelled)
            }
        }
    }

    /// What somebody was given who does not want it any more goes to the next one.
    pub(super) fn hand_to_next(&self, given: GivenOf<M>) {
        match given {
            Given::Item(entry) => self.return_item(entry, None),
            Given::Permit(opening) => {
                let mut state = lock(&self.state);
                state.core.open_forgone(opening);
                self.unlock_and_wake(state);
            }
            Given::Failed(_) | Given::Closed => {}
        }
    }

    /// Opens an item for the calling thread.
    pub(super) fn open_here(self: &Arc<Self>, opening: Opening) -> Handed<M> {
        let made = keeper::open(&self.manager);
        let mut state = lock(&self.state);
        match made {
            Ok((item, generation)) => {
                let entry = state.core.opened_by_user(opening, item, generation, now_ns());
                self.unlock_and_wake(state);
                Ok(Guard::new(entry, self.clone()))
            }
            Err((failure, _)) => {
                state.core.open_failed(opening, now_ns());
                self.unlock_and_wake(state);
                Err(AcquireError::Open(failure))
            }
        }
    }

    // ---- bringing back ----

    /// An item's user is done with it: it is judged, and comes back. Not in a forked child.
    #[inline]
    pub(super) fn judge_and_return(&self, mut entry: Held<M::Item>) {
        let clean = !entry.poisoned
            && !std::thread::panicking()
            && quiet(|| self.manager.is_clean(&mut entry.item)) == Some(true);
        self.return_item(entry, (!clean).then_some(CloseReason::Poisoned));
    }

    /// What the item leads to is gone: it is poisoned, and all that were opened before this was known are closed.
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
            // Kept by a pool that keeps things, and is not closed: nothing else can have become due by this.
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

    /// An item could not be opened by the keeper.
    pub(super) fn failed(
        &self,
        mut state: MutexGuard<'_, State<M>>,
        failure: OpenFailure<M::Error>,
        permanent: bool,
    ) {
        state.failure = Some(failure.clone());
        let mut dismissed = Vec::new();
        if permanent {
            dismissed.extend(state.core.dismiss());
            for waiter in &dismissed {
                waiter.give(Given::Failed(failure.clone()));
            }
        }
        self.unlock_and_wake(state);
        dismissed.iter().for_each(|waiter| waiter.wake());
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
        while let Some((waiter, opening)) = state.core.admit() {
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
