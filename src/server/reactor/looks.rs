//! When a busy reactor looks around.

/// It looks every so many passes at most, and before it sleeps.
const MOST_PASSES: u64 = 64;
/// If so much time goes by between two looks, the next one is sooner. In ns.
const LONG_NS: u64 = 10_000_000;

/// When to look next. The clock is read at a look, and not in each pass, so how many passes it is
/// until the next one follows from how long the last ones took.
#[derive(Debug)]
pub(super) struct Looks {
    /// The pass behind which to look.
    pub(super) next: u64,
    /// Passes between two looks.
    every: u64,
    /// When it last looked, or slept: CLOCK_MONOTONIC ns.
    last: u64,
}

impl Default for Looks {
    fn default() -> Self {
        Self { next: MOST_PASSES, every: MOST_PASSES, last: u64::MAX }
    }
}

impl Looks {
    /// A look at `now`, behind so many passes; `woke`: when the last sleep ended. Whether it is
    /// time to store what was counted as well.
    pub(super) fn looked(&mut self, now: u64, passes: u64, woke: u64) -> bool {
        let is_late = now.saturating_sub(self.last.max(woke)) >= LONG_NS;
        self.last = now;
        self.every =
            if is_late { (self.every / 8).max(1) } else { (self.every * 2).min(MOST_PASSES) };
        self.next = passes + self.every;
        is_late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_passes_are_looked_at_more_often() {
        let mut looks = Looks::default();
        assert!(!looks.looked(1_000, 64, 0), "there was no look before");
        assert_eq!(looks.next, 128);
        assert!(looks.looked(1_000 + LONG_NS, 128, 0));
        assert_eq!(looks.next, 136);
        assert!(looks.looked(1_000 + 2 * LONG_NS, 136, 0));
        assert_eq!(looks.next, 137, "at least behind each pass");
        let slept = 1_000 + 4 * LONG_NS;
        assert!(!looks.looked(slept + 5, 137, slept), "a sleep is no slow pass");
        assert_eq!(looks.next, 139);
    }
}
