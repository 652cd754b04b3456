//! L4: things kept ready, so that nobody waits for a connection to be made or a process to be started.
//!
//! A [`Pool`] holds items of whatever kind its [`Manager`] opens. It is a sliding window: `min_idle` of them are kept
//! ready; as soon as one is taken out, its replacement is opened by the pool's own thread, one at a time, and never are
//! there more than `max_size`. The item that was used last is taken first, so that the others may grow old and go.
//!
//! What comes with Ringbell: [`ConnectionPool`] (sessions for many threads) and
//! [`WorkerPool`](crate::WorkerPool) (processes).
//!
//! ```
//! use ringbell::pool::{Manager, Pool, Settings};
//! use std::io;
//! use std::net::UdpSocket;
//!
//! struct Sockets;
//!
//! impl Manager for Sockets {
//!     type Item = UdpSocket;
//!     type Error = io::Error;
//!
//!     fn open(&self) -> io::Result<UdpSocket> {
//!         UdpSocket::bind("127.0.0.1:0")
//!     }
//! }
//!
//! let pool = Pool::new(Sockets, Settings { max_size: 4, ..Settings::default() })?;
//! let socket = pool.acquire()?;
//! println!("{}", socket.local_addr()?);
//! drop(socket); // Ready for the next one.
//! pool.close(None)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod connection;
mod core;
mod error;
mod keeper;
#[cfg(test)]
mod model;
mod settings;
mod stats;
#[cfg(test)]
mod tests;
mod waiter;

use self::core::{Core, Held, Opening, Placed, Taken};
use crate::clock::{coarse_ns, now_ns};
use crate::fork::Origin;
use crate::sync::{Condvar, Mutex, MutexGuard, lock};
use keeper::quiet;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use waiter::{Given, Unserved, Waiter};

pub use connection::{ConnectionPool, Connections, PoolCallError, PooledConnection};
pub use error::{AcquireError, BuildError, NotDrained, OpenFailure};
pub use settings::{Backoff, Settings, SettingsError};
pub use stats::{CloseReason, ClosedCounts, PoolStats, WaitTimes};
pub use waiter::Cancel;

/// Opens, judges and closes the items of a pool.
///
/// None of its methods is called under the pool's lock. One that panics does no harm beyond its own item: the panic is
/// caught, and counts as a failure, or as a verdict against the item.
pub trait Manager: Send + Sync + 'static {
    /// What is kept ready.
    type Item: Send + 'static;
    /// Why there is none.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Opens an item, and waits until it is ready. Called on the pool's own thread, one at a time; where nothing is
    /// kept (`enabled: false`), on the threads of those who acquire.
    ///
    /// # Errors
    /// The pool tries again later, with growing pauses, unless the error [is permanent](Self::is_permanent).
    fn open(&self) -> Result<Self::Item, Self::Error>;

    /// Whether trying again is of no use: then those who wait get this error at once, instead of waiting in vain.
    /// Default: no.
    fn is_permanent(&self, _error: &Self::Error) -> bool {
        false
    }

    /// What the item leads to: differs after a restart of it. When an item is opened that differs from those before
    /// it, those are stale. Default: always the same.
    fn generation(&self, _item: &Self::Item) -> u64 {
        0
    }

    /// Whether an item that was ready for some time can be handed out. Called for each acquire, on the caller's thread:
    /// so it should cost next to nothing. Default: yes.
    fn is_ready(&self, _item: &mut Self::Item, _idle: Idle) -> bool {
        true
    }

    /// Whether an item that comes back can be used again: it is between requests, has seen no error, and has nothing
    /// left of its last user. Called for each guard that is dropped, on that thread. Default: yes.
    fn is_clean(&self, _item: &mut Self::Item) -> bool {
        true
    }

    /// Looks whether a ready item still works, and may take its time over it, within bounds of its own: the pool opens
    /// nothing meanwhile. Called on the pool's own thread. Default: yes.
    fn check(&self, _item: &mut Self::Item) -> bool {
        true
    }

    /// Closes an item. Called on whatever thread has it. Default: drops it.
    fn close(&self, item: Self::Item, _reason: CloseReason) {
        drop(item);
    }
}

type WaiterOf<M> = Waiter<<M as Manager>::Item, <M as Manager>::Error>;
type PlacedOf<M> = Placed<<M as Manager>::Item, Arc<WaiterOf<M>>>;
type GivenOf<M> = Given<<M as Manager>::Item, <M as Manager>::Error>;
type AcquireErrorOf<M> = AcquireError<<M as Manager>::Error>;
type Handed<M> = Result<Guard<M>, AcquireError<<M as Manager>::Error>>;

/// For how long an item was ready. Knows since when, and looks at the clock only if it is asked.
#[derive(Debug, Clone, Copy)]
pub struct Idle {
    since: u64,
}

impl Idle {
    /// How long that is now, exact to some milliseconds.
    #[inline]
    pub fn time(self) -> Duration {
        Duration::from_nanos(coarse_ns().saturating_sub(self.since))
    }
}

struct State<M: Manager> {
    core: Core<M::Item, Arc<WaiterOf<M>>>,
    /// Why the last attempt to open an item failed, if it did.
    failure: Option<OpenFailure<M::Error>>,
}

/// What pool, guards and keeper share. The items go before the manager.
struct Shared<M: Manager> {
    state: Mutex<State<M>>,
    /// The keeper waits here.
    keeper: Condvar,
    /// Whoever closes the pool waits here.
    drained: Condvar,
    origin: Origin,
    manager: M,
}

/// A warm pool. Clones are the same pool; any thread may use it.
///
/// When the last clone is dropped the pool is closed: what is ready at once, what is in use when it comes back.
/// In a forked child it hands out nothing ([`AcquireError::Forked`]), and dropping it or its guards touches nothing.
pub struct Pool<M: Manager>(Arc<Handle<M>>);

struct Handle<M: Manager> {
    shared: Arc<Shared<M>>,
    thread: Option<JoinHandle<()>>,
}

impl<M: Manager> Clone for Pool<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<M: Manager> std::fmt::Debug for Pool<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl<M: Manager> Pool<M> {
    /// A pool of what `manager` opens. The first items are opened at once, by the pool's own thread.
    ///
    /// # Errors
    /// [`BuildError`], if a setting makes no sense or there can be no thread.
    pub fn new(manager: M, settings: Settings) -> Result<Self, BuildError> {
        settings.check()?;
        let keeps = settings.enabled;
        let core = Core::new(settings, now_ns());
        let shared = Arc::new(Shared {
            state: Mutex::new(State { core, failure: None }),
            keeper: Condvar::new(),
            drained: Condvar::new(),
            origin: Origin::here(),
            manager,
        });
        // Without items to keep there is nothing to do for it.
        let thread = keeps.then(|| keeper::start(shared.clone())).transpose().map_err(BuildError::Io)?;
        Ok(Self(Arc::new(Handle { shared, thread })))
    }

    fn shared(&self) -> &Arc<Shared<M>> {
        &self.0.shared
    }

    /// Takes an item out, waiting for one at most `acquire_timeout`.
    ///
    /// # Errors
    /// [`AcquireError`].
    #[inline]
    pub fn acquire(&self) -> Result<Guard<M>, AcquireError<M::Error>> {
        match self.shared().take_ready()? {
            Some(guard) => Ok(guard),
            None => self.shared().acquire(self.default_deadline(), None),
        }
    }

    /// Takes an item out, waiting for one until `deadline`; `None` waits for ever.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub fn acquire_deadline(&self, deadline: Option<Instant>) -> Result<Guard<M>, AcquireError<M::Error>> {
        self.shared().acquire(deadline, None)
    }

    /// As [`Self::acquire_deadline`], until `cancel` is cancelled.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub fn acquire_cancellable(
        &self,
        deadline: Option<Instant>,
        cancel: &Cancel,
    ) -> Result<Guard<M>, AcquireError<M::Error>> {
        self.shared().acquire(deadline, Some(cancel))
    }

    /// Takes an item out if one is ready. If none is, one is opened for the next caller, as far as there is room.
    ///
    /// # Errors
    /// [`AcquireError::Closed`] and [`AcquireError::Forked`]. Where nothing is kept (`enabled: false`) it opens one if
    /// there is room, hence also [`AcquireError::Open`].
    pub fn try_acquire(&self) -> Result<Option<Guard<M>>, AcquireError<M::Error>> {
        self.shared().try_acquire()
    }

    /// An item that is ready, if any; unlike [`Self::try_acquire`] it opens none.
    #[inline]
    pub(crate) fn try_ready(&self) -> Result<Option<Guard<M>>, AcquireErrorOf<M>> {
        self.shared().take_ready()
    }

    /// When an acquire without a deadline of its own gives up.
    pub(crate) fn default_deadline(&self) -> Option<Instant> {
        let timeout = lock(&self.shared().state).core.settings().acquire_timeout;
        timeout.and_then(|timeout| Instant::now().checked_add(timeout))
    }

    /// Closes all ready items, and those in use when they come back: what they lead to is gone.
    pub fn flush(&self) {
        if self.shared().origin.is_here() {
            let mut state = lock(&self.shared().state);
            let epoch = state.core.epoch();
            state.core.flush(epoch);
            self.shared().leave(state);
        }
    }

    /// What the pool counted so far, and what is in it now.
    pub fn stats(&self) -> PoolStats {
        if !self.shared().origin.is_here() {
            // Its lock may have been held by a thread that does not exist here.
            return PoolStats::default();
        }
        lock(&self.shared().state).core.stats()
    }

    /// The manager.
    pub fn manager(&self) -> &M {
        &self.shared().manager
    }

    /// Closes the pool, for all its clones: those who wait get [`AcquireError::Closed`], ready items are closed, and
    /// those in use when they come back, for which this waits at most `timeout` (`None` for ever).
    ///
    /// # Errors
    /// [`NotDrained`] if some were still there then. They are closed when they come back all the same.
    pub fn close(&self, timeout: Option<Duration>) -> Result<(), NotDrained> {
        let shared = self.shared();
        if !shared.origin.is_here() {
            return Ok(());
        }
        shared.shut_down();
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        shared.drain(deadline)
    }
}

impl<M: Manager> Drop for Handle<M> {
    fn drop(&mut self) {
        if !self.shared.origin.is_here() {
            // The items are the parent's: nothing of them may be dropped here.
            std::mem::forget(self.shared.clone());
            return;
        }
        self.shared.shut_down();
        let PoolStats { in_use, opening, .. } = lock(&self.shared.state).core.stats();
        // Otherwise it ends when those have come back. It may be closing the last item just now.
        if let Some(thread) = self.thread.take()
            && in_use + opening == 0
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

impl<M: Manager> Shared<M> {
    // ---- taking out ----

    /// An item that is ready, and found to be so.
    #[inline]
    fn take_ready(self: &Arc<Self>) -> Result<Option<Guard<M>>, AcquireError<M::Error>> {
        if !self.origin.is_here() {
            return Err(AcquireError::Forked);
        }
        loop {
            let mut state = lock(&self.state);
            let Some(entry) = state.core.take_idle() else { return Ok(None) };
            self.leave(state);
            if let Some(guard) = self.approved(entry) {
                return Ok(Some(guard));
            }
        }
    }

    /// A guard, unless the item turns out to be of no use, in which case it is closed.
    #[inline]
    fn approved(self: &Arc<Self>, mut entry: Held<M::Item>) -> Option<Guard<M>> {
        let idle = Idle { since: entry.idle_since() };
        if quiet(|| self.manager.is_ready(&mut entry.item, idle)) == Some(true) {
            return Some(Guard { entry: Some(entry), shared: self.clone(), poisoned: false });
        }
        self.give_back(entry, Some(CloseReason::Unhealthy));
        None
    }

    fn try_acquire(self: &Arc<Self>) -> Result<Option<Guard<M>>, AcquireError<M::Error>> {
        if let Some(guard) = self.take_ready()? {
            return Ok(Some(guard));
        }
        let mut state = lock(&self.state);
        match state.core.take() {
            Taken::Item(entry) => {
                self.leave(state);
                Ok(self.approved(entry))
            }
            Taken::Open(opening) => {
                drop(state);
                self.open_here(opening).map(Some)
            }
            Taken::Closed => Err(AcquireError::Closed),
            Taken::Nothing => {
                state.core.miss();
                self.leave(state);
                Ok(None)
            }
        }
    }

    fn acquire(self: &Arc<Self>, deadline: Option<Instant>, cancel: Option<&Cancel>) -> Handed<M> {
        if !self.origin.is_here() {
            return Err(AcquireError::Forked);
        }
        if cancel.is_some_and(Cancel::is_cancelled) {
            return Err(AcquireError::Cancelled);
        }
        let mut began = None;
        loop {
            let mut state = lock(&self.state);
            let given = match state.core.take() {
                Taken::Item(entry) => {
                    self.leave(state);
                    Given::Item(entry)
                }
                Taken::Open(opening) => {
                    drop(state);
                    Given::Permit(opening)
                }
                Taken::Closed => return Err(AcquireError::Closed),
                Taken::Nothing => {
                    let waiter = Waiter::new();
                    state.core.enqueue(waiter.clone(), began.is_some());
                    began.get_or_insert_with(Instant::now);
                    self.leave(state);
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
                    lock(&self.state).core.count_wait(began.elapsed());
                }
                return Ok(guard);
            }
        }
    }

    /// What a caller makes of what it was given; `None` if that was of no use.
    fn accept(self: &Arc<Self>, given: GivenOf<M>) -> Result<Option<Guard<M>>, AcquireError<M::Error>> {
        match given {
            Given::Item(entry) => Ok(self.approved(entry)),
            Given::Permit(opening) => self.open_here(opening).map(Some),
            Given::Failed(failure) => Err(AcquireError::Open(failure)),
            Given::Closed => Err(AcquireError::Closed),
        }
    }

    /// A wait is over without anything: the error, unless something was given just now.
    fn unserved(&self, waiter: &Arc<WaiterOf<M>>, why: Unserved) -> Result<GivenOf<M>, AcquireErrorOf<M>> {
        let mut state = lock(&self.state);
        if !state.core.give_up(|other| Arc::ptr_eq(other, waiter)) {
            // It was served, under this lock; so what it got is there.
            let given = waiter.take().expect("who is not in the line has been served");
            if why == Unserved::TimedOut {
                return Ok(given);
            }
            state.core.count_cancelled();
            drop(state);
            self.pass_on(given);
            return Err(AcquireError::Cancelled);
        }
        match why {
            Unserved::TimedOut => {
                state.core.count_timeout();
                Err(AcquireError::TimedOut { cause: state.failure.clone() })
            }
            Unserved::Cancelled => {
                state.core.count_cancelled();
                Err(AcquireError::Cancelled)
            }
        }
    }

    /// What somebody was given who does not want it any more goes to the next one.
    fn pass_on(&self, given: GivenOf<M>) {
        match given {
            Given::Item(entry) => self.give_back(entry, None),
            Given::Permit(opening) => {
                let mut state = lock(&self.state);
                state.core.open_forgone(opening);
                self.leave(state);
            }
            Given::Failed(_) | Given::Closed => {}
        }
    }

    /// Opens an item for the calling thread.
    fn open_here(self: &Arc<Self>, opening: Opening) -> Handed<M> {
        let made = keeper::open(&self.manager);
        let mut state = lock(&self.state);
        match made {
            Ok((item, generation)) => {
                let entry = state.core.opened_by_user(opening, item, generation, now_ns());
                self.leave(state);
                Ok(Guard { entry: Some(entry), shared: self.clone(), poisoned: false })
            }
            Err((failure, _)) => {
                state.core.open_failed(opening, now_ns());
                self.leave(state);
                Err(AcquireError::Open(failure))
            }
        }
    }

    // ---- bringing back ----

    /// An item comes back. Not in a forked child.
    #[inline]
    fn give_back(&self, entry: Held<M::Item>, verdict: Option<CloseReason>) {
        let mut state = lock(&self.state);
        let placed = state.core.release(entry, verdict, coarse_ns());
        self.settle(state, placed);
    }

    /// Does what is to be done about an item that has found its place.
    #[inline]
    fn settle(&self, state: MutexGuard<'_, State<M>>, placed: PlacedOf<M>) {
        match placed {
            Placed::Kept => self.leave(state),
            Placed::Handed(waiter, entry) => {
                waiter.give(Given::Item(entry));
                self.leave(state);
                waiter.wake();
            }
            Placed::Close(entry, reason) => {
                self.leave(state);
                self.close_item(entry, reason);
            }
        }
    }

    /// Closes an item that is counted as closing.
    #[cold]
    fn close_item(&self, entry: Held<M::Item>, reason: CloseReason) {
        let _ = quiet(|| self.manager.close(entry.item, reason));
        let mut state = lock(&self.state);
        state.core.closed(reason);
        self.leave(state);
    }

    /// An item could not be opened by the keeper.
    fn failed(&self, mut state: MutexGuard<'_, State<M>>, failure: OpenFailure<M::Error>, permanent: bool) {
        state.failure = Some(failure.clone());
        let mut dismissed = Vec::new();
        if permanent {
            dismissed.extend(state.core.dismiss());
            for waiter in &dismissed {
                waiter.give(Given::Failed(failure.clone()));
            }
        }
        self.leave(state);
        dismissed.iter().for_each(|waiter| waiter.wake());
    }

    /// Gives the lock back, and wakes whoever has to do something about what was changed under it.
    #[inline]
    fn leave(&self, mut state: MutexGuard<'_, State<M>>) {
        let disturb = state.core.disturb();
        if !state.core.is_ordinary() {
            self.leave_specially(state);
        } else {
            drop(state);
        }
        if disturb {
            self.keeper.notify_one();
        }
    }

    /// As [`Self::leave`], of a pool that keeps nothing, or is closed.
    #[cold]
    fn leave_specially(&self, mut state: MutexGuard<'_, State<M>>) {
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

    fn shut_down(&self) {
        let mut state = lock(&self.state);
        let waiters = state.core.close();
        for waiter in &waiters {
            waiter.give(Given::Closed);
        }
        self.leave(state);
        waiters.iter().for_each(|waiter| waiter.wake());
        loop {
            // Alone in its statement: nothing is closed under the lock.
            let doomed = lock(&self.state).core.next_doomed();
            let Some((entry, reason)) = doomed else { return };
            self.close_item(entry, reason);
        }
    }

    fn drain(&self, deadline: Option<Instant>) -> Result<(), NotDrained> {
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

/// An item that was taken out of a pool; dropping this gives it back.
///
/// It is closed instead, and never used again, if the guard was [poisoned](Self::poison), if the thread panics, if the
/// manager does not find the item [clean](Manager::is_clean), or if it is stale or too old. That happens on the thread
/// that drops the guard. In a forked child nothing happens.
pub struct Guard<M: Manager> {
    /// Until it is given back.
    entry: Option<Held<M::Item>>,
    shared: Arc<Shared<M>>,
    poisoned: bool,
}

impl<M: Manager> Guard<M> {
    /// The item is not to be used again: something went wrong with it.
    pub fn poison(&mut self) {
        self.poisoned = true;
    }

    /// Whether it was poisoned.
    pub fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    /// What the item leads to is gone: poisons it, and closes all that were opened before this was known. Told by many
    /// guards of one restart, it happens once.
    pub fn flush(&mut self) {
        self.poisoned = true;
        if self.shared.origin.is_here()
            && let Some(entry) = &self.entry
        {
            let mut state = lock(&self.shared.state);
            state.core.flush(entry.epoch());
            self.shared.leave(state);
        }
    }
}

impl<M: Manager> std::ops::Deref for Guard<M> {
    type Target = M::Item;

    fn deref(&self) -> &M::Item {
        match &self.entry {
            Some(entry) => &entry.item,
            None => unreachable!("taken when it is dropped only"),
        }
    }
}

impl<M: Manager> std::ops::DerefMut for Guard<M> {
    fn deref_mut(&mut self) -> &mut M::Item {
        match &mut self.entry {
            Some(entry) => &mut entry.item,
            None => unreachable!("taken when it is dropped only"),
        }
    }
}

impl<M: Manager> Drop for Guard<M> {
    #[inline]
    fn drop(&mut self) {
        let Some(mut entry) = self.entry.take() else { return };
        if !self.shared.origin.is_here() {
            // The item is the parent's, and so may the last hold on the others be.
            std::mem::forget((entry, self.shared.clone()));
            return;
        }
        let clean = !self.poisoned
            && !std::thread::panicking()
            && quiet(|| self.shared.manager.is_clean(&mut entry.item)) == Some(true);
        self.shared.give_back(entry, (!clean).then_some(CloseReason::Poisoned));
    }
}

impl<M: Manager> std::fmt::Debug for Guard<M>
where
    M::Item: std::fmt::Debug,
{
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let item: &M::Item = self;
        f.debug_struct("Guard").field("item", item).field("poisoned", &self.poisoned).finish_non_exhaustive()
    }
}
