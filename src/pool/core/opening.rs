//! Items that come: opened, or not; and to which start of what they lead to they belong.

use super::{Core, Entry, Held, Opening, Placed, nanoseconds};

impl<T, W> Core<T, W> {
    /// An item was opened. `generation` is what it leads to, as the manager says.
    pub(in crate::pool) fn opened(
        &mut self,
        opening: Opening,
        item: T,
        generation: u64,
        now: u64,
    ) -> Placed<T, W> {
        let entry = self.enter(&opening, item, generation, now);
        self.place(entry, None, now)
    }

    /// As [`Self::opened`], by a caller who uses it. If the pool was closed meanwhile it is closed
    /// when it comes back.
    pub(in crate::pool) fn opened_by_user(
        &mut self,
        opening: Opening,
        item: T,
        generation: u64,
        now: u64,
    ) -> Held<T> {
        let entry = self.enter(&opening, item, generation, now);
        self.in_use += 1;
        self.stats.acquired += 1;
        entry
    }

    /// An opening is over, one way or the other.
    fn end_opening(&mut self, opening: &Opening) {
        let at = self.begun.iter().position(|began| *began == opening.began);
        self.begun.remove(at.expect("each opening is counted from its beginning to its end"));
        self.ended |= self.replacing.is_some();
    }

    fn enter(&mut self, opening: &Opening, item: T, generation: u64, now: u64) -> Held<T> {
        self.end_opening(opening);
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
        } else if epoch + 1 == self.epoch
            && self.flushed.is_some_and(|flushed| flushed != generation)
        {
            // Those before it were found to be stale while it was opened; it is not, it leads
            // elsewhere.
            epoch = self.epoch;
        }
        if epoch == self.epoch {
            self.generation = Some(generation);
        }
        let dies_at = now.saturating_add(self.lifetime);
        Box::new(Entry { item, epoch, dies_at, idle_since: now, checked_at: now, poisoned: false })
    }

    /// An item could not be opened. The next attempt is put off: there is one pause for the pool,
    /// however many failed together.
    #[allow(clippy::needless_pass_by_value, reason = "an opening ends once")]
    pub(in crate::pool) fn open_failed(&mut self, opening: Opening, now: u64) {
        self.end_opening(&opening);
        self.stats.open_failures += 1;
        self.missed = false;
        if opening.failures < self.failures {
            // Another one has failed since this one began: this one does not make the pause longer.
            return;
        }
        self.failures = self.failures.saturating_add(1);
        let pause = self.settings.backoff.pause(self.failures, splitmix(&mut self.random));
        self.retry_at = now.saturating_add(nanoseconds(Some(pause)));
    }

    /// Nothing was opened, and nothing went wrong.
    #[allow(clippy::needless_pass_by_value, reason = "an opening ends once")]
    pub(in crate::pool) fn open_forgone(&mut self, opening: Opening) {
        self.end_opening(&opening);
    }

    /// All who wait, whose wait has come to nothing.
    pub(in crate::pool) fn dismiss(&mut self) -> impl Iterator<Item = W> + use<'_, T, W> {
        self.waiters.drain(..)
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
