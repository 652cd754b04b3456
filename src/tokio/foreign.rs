//! Wakers of others around the lock of a session: their clone, wake and drop may use the client, or
//! panic. What is done under the lock enters clones that were made before it, and collects what is
//! woken and dropped behind it.

use crate::base::panics::quietly;
use crate::base::wakers::wake_all;
use std::collections::HashMap;
use std::task::Waker;

/// Who is to be woken, and which wakers are to be dropped, once the lock is given back. Both run
/// code of others, which may use the client, or panic.
#[derive(Debug, Default)]
pub(super) struct Wakes {
    /// Those that wait for room: before those that are answered, who may call again, and would join
    /// the queue for ever.
    pub(super) queued: Vec<Waker>,
    pub(super) others: Vec<Waker>,
    /// Those that are not needed any more. With the last waker of a task its future may go, and
    /// with that a call to this client.
    retired: Vec<Waker>,
}

impl Wakes {
    pub(super) fn is_empty(&self) -> bool {
        self.queued.is_empty() && self.others.is_empty()
    }

    /// Has this waker dropped behind the lock.
    #[inline]
    pub(super) fn retire(&mut self, waker: Option<Waker>) {
        if let Some(waker) = waker {
            self.retired.push(waker);
        }
    }

    /// A waker that panics is a fault of its task alone: neither the driver nor the task that runs
    /// here ends with it.
    fn wake(&mut self) {
        wake_all(self.queued.drain(..).chain(self.others.drain(..)));
        while let Some(waker) = self.retired.pop() {
            quietly(|| drop(waker));
        }
    }
}

/// Wakes when it is dropped: also if what was done under the lock panics. Those that were to be
/// woken are in no list any more.
pub(super) struct WakesBehind<'a>(pub(super) &'a mut Wakes);

impl Drop for WakesBehind<'_> {
    fn drop(&mut self) {
        self.0.wake();
    }
}

/// A task that polls. The clone of a waker is code of others, too: it is made while the lock is not
/// held. What is done under the lock says by [`Self::lacks_own`] that it needs one and has none.
#[derive(Debug)]
pub(super) struct Caller<'a> {
    waker: &'a Waker,
    own: Option<Waker>,
    /// It is entered nowhere, for want of a clone.
    pub(super) lacks_own: bool,
}

impl<'a> Caller<'a> {
    /// Cloned only if it turns out to be needed.
    pub(super) fn new(waker: &'a Waker) -> Self {
        Self { waker, own: None, lacks_own: false }
    }

    /// For a caller who needs the clone in any case. Not to be made under the lock.
    pub(super) fn with_own(waker: &'a Waker) -> Self {
        Self { waker, own: Some(waker.clone()), lacks_own: false }
    }

    /// The clone, to be kept.
    pub(super) fn own(&mut self) -> Option<Waker> {
        self.lacks_own = self.own.is_none();
        self.own.take()
    }

    /// Puts it in the place of one that would not wake the same task.
    #[inline]
    pub(super) fn renew(&mut self, there: &mut Waker, wakes: &mut Wakes) {
        if !there.will_wake(self.waker)
            && let Some(own) = self.own()
        {
            wakes.retire(Some(std::mem::replace(there, own)));
        }
    }

    /// Has it woken by who goes through the list.
    pub(super) fn wait_in(
        &mut self,
        list: &mut HashMap<u64, Waker>,
        number: u64,
        wakes: &mut Wakes,
    ) {
        match list.get_mut(&number) {
            Some(there) => self.renew(there, wakes),
            None => list.extend(self.own().map(|own| (number, own))),
        }
    }
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        if let Some(own) = self.own.take() {
            quietly(|| drop(own));
        }
    }
}
