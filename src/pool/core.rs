//! The pool as a state machine: pure, and told the time. It neither opens nor closes anything, and wakes nobody; it
//! says what is to be done, and by whom. `pool.rs` has it behind a lock and does it.
//!
//! # Never more than `max_size`
//!
//! Every item is counted in exactly one place from before it is opened until after it was closed: opening, idle,
//! checking, in use, doomed (about to be closed), closing. The sum grows only in `begin_opening`, which needs room.
//!
//! # In order, and none forgotten
//!
//! Whoever finds nothing ready stands at the end of one line. While somebody stands there nothing is ready: an item
//! that becomes free goes to the first in line before it could become idle, and who comes later finds the line and
//! joins it. Who gives up leaves the line, or finds that it was just served, and passes on what it got; both under the
//! same lock as the handing out. So no item is lost with a waiter.
//!
//! # When the keeper is woken
//!
//! The keeper sleeps until the moment that `next_job` gave it. `disturb` compares that with what has changed since, so
//! that it is woken only for something that cannot wait for that moment, and once.

use super::settings::Settings;
use super::stats::{CloseReason, PoolStats};
use std::collections::VecDeque;
use std::time::Duration;

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

/// What the keeper is to do next.
#[derive(Debug)]
pub(super) enum Job<T> {
    /// Open an item, and say what came of it.
    Open(Opening),
    /// Look at an item, and say what came of it.
    Check(Held<T>),
    /// Close an item, and say so.
    Close(Held<T>, CloseReason),
    /// Nothing until then.
    Sleep(u64),
    /// Nothing ever again.
    End,
}

/// The right to open one item, which is counted already.
#[derive(Debug)]
#[must_use = "an opening that is not ended takes room for ever"]
pub(super) struct Opening {
    epoch: u64,
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
    opening: usize,
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
            opening: 0,
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
            random: seed,
            stats: PoolStats::default(),
        }
    }

    /// All items, wherever they are.
    pub(super) fn total(&self) -> usize {
        self.idle.len() + self.doomed.len() + self.in_use + self.opening + self.checking + self.closing
    }

    fn has_room(&self) -> bool {
        self.total() < self.settings.max_size
    }

    /// The only place where a pool grows.
    fn begin_opening(&mut self) -> Opening {
        debug_assert!(self.has_room(), "whoever calls this has looked");
        self.opening += 1;
        self.stats.peak = self.stats.peak.max(self.total());
        Opening { epoch: self.epoch }
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

    /// Something for a caller, if there is something.
    pub(super) fn take(&mut self) -> Taken<T> {
        if let Some(entry) = self.take_idle() {
            return Taken::Item(entry);
        }
        if self.closed {
            return Taken::Closed;
        }
        if !self.settings.enabled && self.waiters.is_empty() && self.has_room() {
            return Taken::Open(self.begin_opening());
        }
        Taken::Nothing
    }

    /// A caller who found nothing joins the line: at its end, or, if what it got was no good, at its head again.
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
    fn place(&mut self, mut entry: Held<T>, verdict: Option<CloseReason>, now: u64) -> Placed<T, W> {
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

    /// What items of `epoch` lead to is gone: all of them are closed, those in use when they come back. Told by
    /// many, it happens once.
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

    // ---- whoever opens and closes ----

    /// An item was opened. `generation` is what it leads to, as the manager says.
    pub(super) fn opened(&mut self, opening: Opening, item: T, generation: u64, now: u64) -> Placed<T, W> {
        let entry = self.enter(opening, item, generation, now);
        self.place(entry, None, now)
    }

    /// As [`Self::opened`], by a caller who uses it. If the pool was closed meanwhile it is closed when it comes back.
    pub(super) fn opened_by_user(&mut self, opening: Opening, item: T, generation: u64, now: u64) -> Held<T> {
        let entry = self.enter(opening, item, generation, now);
        self.in_use += 1;
        self.stats.acquired += 1;
        entry
    }

    fn enter(&mut self, opening: Opening, item: T, generation: u64, now: u64) -> Held<T> {
        self.opening -= 1;
        self.failures = 0;
        self.retry_at = 0;
        self.missed = false;
        self.stats.opened += 1;
        let mut epoch = opening.epoch;
        if self.generation.is_some_and(|known| known != generation) && epoch == self.epoch {
            // It leads elsewhere than those before: they are stale, whether anybody noticed or not.
            self.next_epoch();
            self.flushed = self.generation;
            epoch = self.epoch;
        } else if epoch + 1 == self.epoch && self.flushed.is_some_and(|flushed| flushed != generation) {
            // Those before it were found to be stale while it was opened; it is not, it leads elsewhere.
            epoch = self.epoch;
        }
        if epoch == self.epoch {
            self.generation = Some(generation);
        }
        let dies_at = now.saturating_add(self.lifetime);
        Box::new(Entry { item, epoch, dies_at, idle_since: now, checked_at: now })
    }

    /// An item could not be opened. The next attempt is put off.
    pub(super) fn open_failed(&mut self, opening: Opening, now: u64) {
        let Opening { .. } = opening;
        self.opening -= 1;
        self.stats.open_failures += 1;
        self.failures = self.failures.saturating_add(1);
        let pause = self.settings.backoff.pause(self.failures, splitmix(&mut self.random));
        self.retry_at = now.saturating_add(nanoseconds(Some(pause)));
        self.missed = false;
    }

    /// Nothing was opened, and nothing went wrong.
    pub(super) fn open_forgone(&mut self, opening: Opening) {
        let Opening { .. } = opening;
        self.opening -= 1;
    }

    /// All who wait, whose wait has come to nothing.
    pub(super) fn dismiss(&mut self) -> impl Iterator<Item = W> + use<'_, T, W> {
        self.waiters.drain(..)
    }

    /// An item was looked at. `fit`: whether it can be used.
    pub(super) fn checked(&mut self, mut entry: Held<T>, fit: bool, now: u64) -> Placed<T, W> {
        self.checking -= 1;
        entry.checked_at = now;
        let idle_since = entry.idle_since;
        let placed = self.place(entry, (!fit).then_some(CloseReason::Unhealthy), now);
        if let (Placed::Kept, Some(kept)) = (&placed, self.idle.last_mut()) {
            // It was not used meanwhile, and goes back to where it was.
            kept.idle_since = idle_since;
            let others = &self.idle[..self.idle.len() - 1];
            let at = others.partition_point(|other| other.idle_since <= idle_since);
            self.idle[at..].rotate_right(1);
        }
        placed
    }

    /// An item was closed, and its place is free.
    pub(super) fn closed(&mut self, reason: CloseReason) {
        self.closing -= 1;
        self.stats.closed.count(reason);
    }

    /// Where items are opened by their users: the first in line, if there is room, and its right to open one.
    pub(super) fn admit(&mut self) -> Option<(W, Opening)> {
        if self.settings.enabled || self.closed || !self.has_room() {
            return None;
        }
        let waiter = self.waiters.pop_front()?;
        Some((waiter, self.begin_opening()))
    }

    // ---- the keeper ----

    /// Whether an item should be opened, if there is room and it is time. `fresh` of those that are ready will stay.
    fn wants_more(&self, fresh: usize) -> bool {
        let Settings { enabled, min_idle, min_size, .. } = self.settings;
        if self.closed || !enabled || self.opening > 0 {
            return false;
        }
        !self.waiters.is_empty()
            || fresh + self.checking < min_idle
            || fresh + self.checking + self.in_use < min_size
            || (self.missed && self.idle.is_empty())
    }

    /// The next thing to do for the keeper, who is awake until it is told to sleep.
    pub(super) fn next_job(&mut self, now: u64) -> Job<T> {
        self.asleep_until = 0;
        if self.closed && self.total() == 0 {
            return Job::End;
        }
        let fresh = self.idle.iter().filter(|entry| self.expiry(entry, now).is_none()).count();
        let wants_more = self.wants_more(fresh);
        let can_open = wants_more && self.has_room();
        // Who waits comes first, unless what is to be closed is in the way.
        if (!can_open || self.waiters.is_empty())
            && let Some((entry, reason)) = self.doomed.pop_front()
        {
            self.closing += 1;
            return Job::Close(entry, reason);
        }
        if can_open && now >= self.retry_at {
            return Job::Open(self.begin_opening());
        }
        // One that has expired goes when its replacement is there, or where there can be none.
        if fresh < self.idle.len() && (!can_open || self.failures > 0) {
            let expired = self.idle.iter().enumerate();
            let mut expired = expired.filter_map(|(at, entry)| Some((at, self.expiry(entry, now)?)));
            if let Some((at, reason)) = expired.next() {
                self.closing += 1;
                return Job::Close(self.idle.remove(at), reason);
            }
        }
        if let Some(at) = self.idle.iter().position(|entry| now >= self.check_due(entry)) {
            self.checking += 1;
            return Job::Check(self.idle.remove(at));
        }
        let dues = self.idle.iter().map(|entry| self.due(entry));
        let mut until = dues.min().unwrap_or(NEVER);
        if can_open {
            until = until.min(self.retry_at);
        }
        self.asleep_until = until;
        Job::Sleep(until)
    }

    fn expiry(&self, entry: &Entry<T>, now: u64) -> Option<CloseReason> {
        if now >= entry.dies_at {
            Some(CloseReason::Lifetime)
        } else if now >= entry.idle_since.saturating_add(self.idle_timeout) {
            Some(CloseReason::Idle)
        } else {
            None
        }
    }

    #[inline]
    fn check_due(&self, entry: &Entry<T>) -> u64 {
        entry.checked_at.saturating_add(self.check_interval)
    }

    /// When an idle item next needs the keeper.
    #[inline]
    fn due(&self, entry: &Entry<T>) -> u64 {
        let expires = entry.idle_since.saturating_add(self.idle_timeout).min(entry.dies_at);
        expires.min(self.check_due(entry))
    }

    /// Whether the keeper sleeps longer than it now may: then it has to be woken, once.
    #[inline]
    #[must_use]
    pub(super) fn disturb(&mut self) -> bool {
        if self.asleep_until == 0 {
            return false;
        }
        let mut wanted = self.idle.last().map_or(NEVER, |entry| self.due(entry));
        if !self.doomed.is_empty() || (self.closed && self.total() == 0) {
            wanted = 0;
        } else if self.wants_more(self.idle.len()) && self.has_room() {
            wanted = wanted.min(self.retry_at);
        }
        if wanted >= self.asleep_until {
            return false;
        }
        self.asleep_until = 0;
        true
    }

    // ---- the end ----

    /// From now on nothing is handed out; those who wait get nothing. What is ready is to be closed.
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

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn stats(&self) -> PoolStats {
        PoolStats {
            idle: self.idle.len(),
            in_use: self.in_use,
            opening: self.opening,
            checking: self.checking,
            closing: self.closing + self.doomed.len(),
            waiting: self.waiters.len(),
            ..self.stats
        }
    }
}

/// The next of a sequence of numbers that look random (splitmix64).
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
