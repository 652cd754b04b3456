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
    /// Whether an item should be opened, if there is room and it is time. `fresh` of those that are
    /// ready will stay.
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
    pub(in crate::pool) fn next_job(&mut self, now: u64) -> Job<T> {
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
            let mut expired =
                expired.filter_map(|(at, entry)| Some((at, self.expiry(entry, now)?)));
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

    /// An item was looked at. `fit`: whether it can be used.
    pub(in crate::pool) fn checked(
        &mut self,
        mut entry: Held<T>,
        fit: bool,
        now: u64,
    ) -> Placed<T, W> {
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
}
