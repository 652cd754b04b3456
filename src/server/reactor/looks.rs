//! When a busy reactor looks around.

/// It looks every so many passes at most, and before it sleeps.
const MOST_PASSES: u64 = 64;
/// Behind a sleep it looks so soon.
const FIRST_PASSES: u64 = 2;
/// If so much time goes by between two looks, the next one is sooner. In ns.
const LONG_NS: u64 = 500_000_000;

/// When to look next. The clock is read at a look, and not in each pass, so how many passes it is
/// until the next one follows from how long the last ones took. Behind a sleep nothing is known of
/// the passes to come: the first looks are soon. A pass that is followed by a sleep has none.
#[derive(Debug)]
pub(super) struct Looks {
    /// The pass behind which to look.
    pub(super) next: u64,
    /// Passes between two looks.
    every: u64,
    /// When it last looked: CLOCK_MONOTONIC ns.
    last: u64,
    /// Behind how many passes it last looked who does nothing.
    cooled: u64,
}

impl Default for Looks {
    fn default() -> Self {
        Self { next: FIRST_PASSES, every: FIRST_PASSES, last: u64::MAX, cooled: 0 }
    }
}

impl Looks {
    /// The reactor has slept, behind so many passes.
    pub(super) fn slept(&mut self, passes: u64) {
        (self.next, self.every) = (passes + FIRST_PASSES, FIRST_PASSES);
    }

    /// Whether it is time to look who does nothing: that costs more, and is done every so many
    /// passes only.
    pub(super) fn cools(&mut self, passes: u64) -> bool {
        let due = passes - self.cooled >= MOST_PASSES;
        if due {
            self.cooled = passes;
        }
        due
    }

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
        let mut passes = 0;
        for every in [4, 8, 16, 32, 64, 64] {
            passes = looks.next;
            assert!(!looks.looked(1_000, passes, 0));
            assert_eq!(looks.next - passes, every);
        }
        assert!(looks.cools(passes) && !looks.cools(passes + MOST_PASSES - 1));
        assert!(looks.cools(passes + MOST_PASSES));
        assert!(looks.looked(1_000 + LONG_NS, passes, 0));
        assert_eq!(looks.next - passes, 8);
        assert!(looks.looked(1_000 + 2 * LONG_NS, passes, 0));
        assert_eq!(looks.next - passes, 1, "at least behind each pass");
        let woke = 1_000 + 4 * LONG_NS;
        assert!(!looks.looked(woke + 5, passes, woke), "a sleep is no slow pass");
        looks.slept(passes);
        assert_eq!(looks.next - passes, FIRST_PASSES);
    }
}
