//! What the keeper does, and when.
//!
//! The keeper sleeps until the moment that `next_job` gave it. `disturb` compares that with what
//! has changed since, so that it is woken only for something that cannot wait for that moment, and
//! once.

use super::{Core, Entry, Held, NEVER, Opening, Placed};
use crate::pool::CloseReason;
use crate::pool::settings::Settings;

/// What the keeper is to do next.
#[derive(Debug)]
pub(in crate::pool) enum Job<T> {
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

impl<T, W> Core<T, W> {
    /// Whether more are wanted than there are, if `coming` are on their way. `fresh` of those that
    /// are ready will stay.
    fn lacks(&self, fresh: usize, coming: usize) -> bool {
        let Settings { min_idle, min_size, .. } = self.settings;
        let (waiting, ready) = (self.waiters.len(), fresh + self.checking + coming);
        // Each who waits takes one of those that come, and those that are kept ready are wanted
        // besides. One that is being looked at may turn out to be of no use.
        coming < waiting
            || ready < min_idle.saturating_add(waiting)
            || ready + self.in_use < min_size
            || (self.missed && coming == 0 && self.idle.is_empty())
    }

    /// Whether an item should be opened, if there is room and it is time.
    fn wants_more(&self, fresh: usize) -> bool {
        let Settings { enabled, max_starting, .. } = self.settings;
        // What has failed is tried by one at a time, until it works again.
        let side_by_side = if self.failures > 0 { 1 } else { max_starting };
        let opening = self.begun.len();
        !self.closed && enabled && opening < side_by_side && self.lacks(fresh, opening)
    }

    fn fresh(&self, now: u64) -> usize {
        self.idle.iter().filter(|entry| self.expiry(entry, now).is_none()).count()
    }

    /// Whether items are opened and looked at by the keeper alone, one at a time.
    pub(in crate::pool) fn opens_alone(&self) -> bool {
        self.settings.max_starting == 1
    }

    /// How many threads can have work at once: those that open, one that looks at an item, and
    /// those that close.
    pub(in crate::pool) fn most_at_work(&self) -> usize {
        self.settings.max_starting.saturating_add(1).saturating_add(self.closing)
    }

    /// The next item to be opened, if one is wanted now, for a thread that opens.
    pub(in crate::pool) fn next_opening(&mut self, now: u64) -> Option<Opening> {
        let wanted = now >= self.retry_at && self.wants_more(self.fresh(now)) && self.has_room();
        wanted.then(|| self.begin_opening(now))
    }

    /// The next thing to do for the keeper, who is awake until it is told to sleep.
    pub(in crate::pool) fn next_job(&mut self, now: u64) -> Job<T> {
        self.asleep_until = 0;
        self.ended = false;
        if self.closed && self.total() == 0 {
            return Job::End;
        }
        let fresh = self.fresh(now);
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
            return Job::Open(self.begin_opening(now));
        }
        // One that has expired goes when its replacement is there, or where there can be none.
        let expected = self.lacks(fresh, 0) && (self.has_room() || !self.begun.is_empty());
        let replacing = fresh < self.idle.len() && expected && self.failures == 0;
        self.replacing = replacing.then_some(now);
        if fresh < self.idle.len() && !replacing {
            let expired = self.idle.iter().enumerate();
            let mut expired =
                expired.filter_map(|(at, entry)| Some((at, self.expiry(entry, now)?)));
            if let Some((at, reason)) = expired.next() {
                self.closing += 1;
                return Job::Close(self.idle.remove(at), reason);
            }
        }
        let stays = |entry: &Held<T>| self.expiry(entry, now).is_none();
        let unchecked = |entry: &Held<T>| now >= self.check_due(entry) && stays(entry);
        // One at a time.
        if self.checking == 0
            && let Some(at) = self.idle.iter().position(unchecked)
        {
            self.checking += 1;
            return Job::Check(self.idle.remove(at));
        }
        let dues = self.idle.iter().filter(|entry| stays(entry)).map(|entry| self.due(entry));
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
        // While one is looked at the others wait: the end of that wakes the keeper.
        if self.checking > 0 { expires } else { expires.min(self.check_due(entry)) }
    }

    /// Whether the item that became ready just now needs the keeper before it means to wake.
    #[inline]
    pub(in crate::pool) fn is_due_sooner(&self) -> bool {
        self.idle.last().is_some_and(|entry| self.due(entry) < self.asleep_until)
    }

    /// Whether the keeper sleeps longer than it now may: then it has to be woken, once.
    #[inline]
    #[must_use]
    pub(in crate::pool) fn disturb(&mut self) -> bool {
        if self.asleep_until == 0 {
            return false;
        }
        let expired = |due: &u64| self.replacing.is_some_and(|since| *due <= since);
        let due = self.idle.last().map(|entry| self.due(entry));
        let mut wanted = due.filter(|due| !expired(due)).unwrap_or(NEVER);
        if !self.doomed.is_empty() || self.ended || (self.closed && self.total() == 0) {
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

    /// An item was looked at. `fit`: whether it can be used.
    pub(in crate::pool) fn checked(
        &mut self,
        mut entry: Held<T>,
        fit: bool,
        now: u64,
    ) -> Placed<T, W> {
        self.checking -= 1;
        self.ended = true;
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
}
