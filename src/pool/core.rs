//! The pool as a state machine: pure, and told the time. It neither opens nor closes anything, and
//! wakes nobody; it says what is to be done, and by whom. `shared.rs` has it behind a lock and does
//! it.
//!
//! # Never more than `max_size`
//!
//! Every item is counted in exactly one place from before it is opened until after it was closed:
//! opening, idle, checking, in use, doomed (about to be closed), closing. The sum grows only in
//! `begin_opening`, which needs room.
//!
//! # In order, and none forgotten
//!
//! Whoever finds nothing ready stands at the end of one line. While somebody stands there nothing
//! is ready: an item that becomes free goes to the first in line before it could become idle, and
//! who comes later finds the line and joins it. Who gives up leaves the line, or finds that it was
//! just served, and passes on what it got; both under the same lock as the handing out. So no item
//! is lost with a waiter.

mod opening;
mod upkeep;

use super::Shortage;
use super::settings::Settings;
use super::stats::{CloseReason, PoolStats};
use std::collections::VecDeque;
use std::time::Duration;

pub(super) use upkeep::Job;

/// A moment that never comes.
pub(super) const NEVER: u64 = u64::MAX;

/// An item and what the pool knows of it. Times are nanoseconds of one clock.
#[derive(Debug)]
pub(super) struct Entry<T> {
    pub(super) item: T,
    /// Differs from the pool's once what the item leads to has been started anew.
    epoch: u64,
    dies_at: u64,
    idle_since: u64,
    checked_at: u64,
    /// Its user has said that it is not to be used again. Here rather than in the guard, which is
    /// moved about: two pointers move faster than two pointers and a byte.
    pub(super) poisoned: bool,
}

impl<T> Entry<T> {
    /// When it became ready.
    #[inline]
    pub(super) fn idle_since(&self) -> u64 {
        self.idle_since
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }
}

/// An item as it moves about: never by value, items can be large.
pub(super) type Held<T> = Box<Entry<T>>;

/// The right to open one item, which is counted already.
#[derive(Debug)]
#[must_use = "an opening that is not ended takes room for ever"]
pub(super) struct Opening {
    epoch: u64,
    began: u64,
    /// How many attempts in a row had failed when it began: those that begin side by side, and fail
    /// together, count as one.
    failures: u32,
}

/// What becomes of an item that is no longer used.
#[derive(Debug)]
pub(super) enum Placed<T, W> {
    /// It is ready.
    Kept,
    /// It is this waiter's.
    Handed(W, Held<T>),
    /// It is to be closed now, and [`Core::closed`] to be told.
    Close(Held<T>, CloseReason),
}

/// What a caller gets.
#[derive(Debug)]
pub(super) enum Taken<T> {
    /// An item.
    Item(Held<T>),
    /// The right to open one itself.
    Open(Opening),
    /// Nothing now.
    Nothing,
    /// Nothing ever again.
    Closed,
}

#[derive(Debug)]
pub(super) struct Core<T, W> {
    settings: Settings,
    idle_timeout: u64,
    lifetime: u64,
    check_interval: u64,
    /// Ready, the one used last at the end.
    idle: Vec<Held<T>>,
    doomed: VecDeque<(Held<T>, CloseReason)>,
    waiters: VecDeque<W>,
    in_use: usize,
    /// When each of those began that are being opened, the oldest first.
    begun: VecDeque<u64>,
    checking: usize,
    closing: usize,
    /// Somebody wanted an item and did not wait for it.
    missed: bool,
    epoch: u64,
    /// What the items of this epoch lead to, as the manager says; and the same of the epoch before.
    generation: Option<u64>,
    flushed: Option<u64>,
    failures: u32,
    retry_at: u64,
    closed: bool,
    /// Until when the keeper sleeps; 0 while it is awake.
    asleep_until: u64,
    /// Since when expired items wait until their replacements are open, if some do.
    replacing: Option<u64>,
    /// Since the keeper looked, an opening has ended for which such an item waits, or a check.
    ended: bool,
    random: u64,
    stats: PoolStats,
}

fn nanoseconds(time: Option<Duration>) -> u64 {
    time.map_or(NEVER, |time| u64::try_from(time.as_nanos()).unwrap_or(NEVER))
}

impl<T, W> Core<T, W> {
    /// An empty pool. The settings have been checked; `seed` decides on the random part of pauses.
    pub(super) fn new(settings: Settings, seed: u64) -> Self {
        Self {
            idle_timeout: nanoseconds(settings.idle_timeout),
            lifetime: nanoseconds(settings.max_lifetime),
            check_interval: nanoseconds(settings.health_check_interval),
            settings,
            idle: Vec::new(),
            doomed: VecDeque::new(),
            waiters: VecDeque::new(),
            in_use: 0,
            begun: VecDeque::new(),
            checking: 0,
            closing: 0,
            missed: false,
            epoch: 0,
            generation: None,
            flushed: None,
            failures: 0,
            retry_at: 0,
            closed: false,
            asleep_until: 0,
            replacing: None,
            ended: false,
            random: seed,
            stats: PoolStats::default(),
        }
    }

    /// All items, wherever they are.
    pub(super) fn total(&self) -> usize {
        self.idle.len()
            + self.doomed.len()
            + self.in_use
            + self.begun.len()
            + self.checking
            + self.closing
    }

    fn has_room(&self) -> bool {
        self.total() < self.settings.max_size
    }

    /// The only place where a pool grows.
    fn begin_opening(&mut self, now: u64) -> Opening {
        debug_assert!(self.has_room(), "whoever calls this has looked");
        self.begun.push_back(now);
        self.stats.peak = self.stats.peak.max(self.total());
        self.stats.peak_opening = self.stats.peak_opening.max(self.begun.len());
        Opening { epoch: self.epoch, began: now, failures: self.failures }
    }

    // ---- callers ----

    /// The item that was used last, if one is ready.
    #[inline]
    pub(super) fn take_idle(&mut self) -> Option<Held<T>> {
        let entry = self.idle.pop()?;
        self.in_use += 1;
        self.stats.acquired += 1;
        Some(entry)
    }

    /// Whether, now that one was taken, the keeper may have to open another.
    #[inline]
    pub(super) fn is_short(&self) -> bool {
        self.missed || self.idle.len() + self.checking < self.settings.min_idle
    }

    /// Something for a caller, if there is something. `now` is asked for only if one is to be
    /// opened.
    pub(super) fn take(&mut self, now: impl FnOnce() -> u64) -> Taken<T> {
        if let Some(entry) = self.take_idle() {
            return Taken::Item(entry);
        }
        if self.closed {
            return Taken::Closed;
        }
        if !self.settings.enabled && self.waiters.is_empty() && self.has_room() {
            return Taken::Open(self.begin_opening(now()));
        }
        Taken::Nothing
    }

    /// A caller who found nothing joins the line: at its end, or, if what it got was no good, at
    /// its head again.
    pub(super) fn enqueue(&mut self, waiter: W, again: bool) {
        if again {
            self.waiters.push_front(waiter);
        } else {
            self.waiters.push_back(waiter);
            self.stats.waits += 1;
        }
    }

    /// A caller who found nothing goes away again: one is opened all the same.
    pub(super) fn miss(&mut self) {
        self.missed = true;
    }

    /// A waiter gives up. False: it has been served already, and has to pass on what it got.
    pub(super) fn give_up(&mut self, is_it: impl Fn(&W) -> bool) -> bool {
        match self.waiters.iter().position(is_it) {
            Some(at) => {
                self.waiters.remove(at);
                true
            }
            None => false,
        }
    }

    pub(super) fn count_timeout(&mut self) {
        self.stats.timeouts += 1;
    }

    pub(super) fn count_cancelled(&mut self) {
        self.stats.cancelled += 1;
    }

    pub(super) fn count_wait(&mut self, wait: Duration) {
        self.stats.wait_times.record(wait);
    }

    /// An item comes back from its user. `verdict`: why it cannot be used again.
    #[inline]
    pub(super) fn release(
        &mut self,
        mut entry: Held<T>,
        verdict: Option<CloseReason>,
        now: u64,
    ) -> Placed<T, W> {
        self.in_use -= 1;
        // Who used it has seen that it works.
        entry.checked_at = now;
        self.place(entry, verdict, now)
    }

    /// An item that nobody holds is handed to a waiter, becomes idle, or is to be closed.
    #[inline]
    fn place(
        &mut self,
        mut entry: Held<T>,
        verdict: Option<CloseReason>,
        now: u64,
    ) -> Placed<T, W> {
        let verdict = verdict.or_else(|| self.sentence(&entry, now));
        if let Some(reason) = verdict {
            self.closing += 1;
            return Placed::Close(entry, reason);
        }
        entry.idle_since = now;
        if let Some(waiter) = self.waiters.pop_front() {
            self.in_use += 1;
            self.stats.acquired += 1;
            return Placed::Handed(waiter, entry);
        }
        self.idle.push(entry);
        Placed::Kept
    }

    /// Why an item that works is not kept.
    #[inline]
    fn sentence(&self, entry: &Entry<T>, now: u64) -> Option<CloseReason> {
        if self.closed {
            Some(CloseReason::Shutdown)
        } else if entry.epoch != self.epoch {
            Some(CloseReason::Stale)
        } else if now >= entry.dies_at {
            Some(CloseReason::Lifetime)
        } else if !self.settings.enabled {
            Some(CloseReason::Used)
        } else {
            None
        }
    }

    /// What items of `epoch` lead to is gone: all of them are closed, those in use when they come
    /// back. Told by many, it happens once.
    pub(super) fn flush(&mut self, epoch: u64) {
        if epoch == self.epoch {
            self.next_epoch();
            self.flushed = self.generation.take();
        }
    }

    fn next_epoch(&mut self) {
        self.epoch += 1;
        self.doomed.extend(self.idle.drain(..).map(|entry| (entry, CloseReason::Stale)));
    }

    // ---- those who close, and those who open for themselves ----

    /// An item was closed, and its place is free.
    pub(super) fn closed(&mut self, reason: CloseReason) {
        self.closing -= 1;
        self.stats.closed.count(reason);
    }

    /// Where items are opened by their users: the first in line, if there is room, and its right to
    /// open one.
    pub(super) fn admit(&mut self, now: impl FnOnce() -> u64) -> Option<(W, Opening)> {
        if self.settings.enabled || self.closed || !self.has_room() {
            return None;
        }
        let waiter = self.waiters.pop_front()?;
        Some((waiter, self.begin_opening(now())))
    }

    // ---- the end ----

    /// From now on nothing is handed out; those who wait get nothing. What is ready is to be
    /// closed.
    pub(super) fn close(&mut self) -> Vec<W> {
        self.closed = true;
        self.doomed.extend(self.idle.drain(..).map(|entry| (entry, CloseReason::Shutdown)));
        self.waiters.drain(..).collect()
    }

    /// One of those that are to be closed, to be closed by the caller.
    pub(super) fn next_doomed(&mut self) -> Option<(Held<T>, CloseReason)> {
        let doomed = self.doomed.pop_front()?;
        self.closing += 1;
        Some(doomed)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether items are kept, and nobody waits for them to go.
    #[inline]
    pub(super) fn is_ordinary(&self) -> bool {
        self.settings.enabled && !self.closed
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Why there is nothing, as far as it can be counted.
    pub(super) fn shortage<E>(&self, now: u64) -> Shortage<E> {
        let (in_use, opening) = (self.in_use, self.begun.len());
        let oldest = self.begun.front();
        Shortage {
            max_size: self.settings.max_size,
            in_use,
            opening,
            oldest_opening: oldest.map(|began| Duration::from_nanos(now.saturating_sub(*began))),
            others: self.total() - in_use - opening,
            failure: None,
        }
    }

    /// How long it is until the next attempt, after one that failed.
    pub(super) fn next_try(&self, now: u64) -> Duration {
        Duration::from_nanos(self.retry_at.saturating_sub(now))
    }

    pub(super) fn stats(&self) -> PoolStats {
        PoolStats {
            idle: self.idle.len(),
            in_use: self.in_use,
            opening: self.begun.len(),
            checking: self.checking,
            closing: self.closing + self.doomed.len(),
            waiting: self.waiters.len(),
            ..self.stats
        }
    }
}
