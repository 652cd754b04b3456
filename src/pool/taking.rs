//! Taking out: how a caller gets an item, or waits for one.

use super::callbacks::{open, quiet};
use super::core::{Held, Opening, Taken};
use super::guard::Guard;
use super::seam::now_ns;
use super::shared::{AcquireErrorOf, GivenOf, PoolInner, WaiterOf};
use super::waiter::{Given, Unserved, Waiter};
use super::{AcquireError, Cancel, CloseReason, Idle, LastFailure, Manager};
use crate::base::sync::lock;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) type Handed<M> = Result<Guard<M>, AcquireError<<M as Manager>::Error>>;

/// What came of asking for an item.
pub(super) enum Asked<M: Manager> {
    Given(GivenOf<M>),
    Queued(Arc<WaiterOf<M>>),
}

impl<M: Manager> PoolInner<M> {
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

    pub(super) fn try_acquire(
        self: &Arc<Self>,
    ) -> Result<Option<Guard<M>>, AcquireError<M::Error>> {
        if let Some(guard) = self.take_ready()? {
            return Ok(Some(guard));
        }
        let mut state = lock(&self.state);
        match state.core.take(now_ns) {
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

    pub(super) fn acquire(
        self: &Arc<Self>,
        deadline: Option<Instant>,
        cancel: Option<&Cancel>,
    ) -> Handed<M> {
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

    /// Something for a caller, or else a place in the line: at its head, if what the caller was
    /// given was no good.
    pub(super) fn ask(&self, again: bool) -> Result<Asked<M>, AcquireErrorOf<M>> {
        let mut state = lock(&self.state);
        Ok(match state.core.take(now_ns) {
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
            Given::Item(entry) => {
                Ok(self.approved(entry).map(|entry| Guard::new(entry, self.clone())))
            }
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
                let now = now_ns();
                let mut cause = Box::new(state.core.shortage(now));
                let next_try = state.core.next_try(now);
                cause.failure = state.failure.as_ref().map(|(failure, at)| LastFailure {
                    failure: failure.clone(),
                    ago: Duration::from_nanos(now.saturating_sub(*at)),
                    next_try,
                });
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
        let made = open(&self.manager);
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
}
