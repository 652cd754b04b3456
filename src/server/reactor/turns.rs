//! Who has a turn in a pass of the reactor: every session that did something lately (**hot**), and
//! some of the others (**cold**): a few, and more the longer it is since the last pass. So theirs
//! comes every 64 passes at the latest; however long requests take, a thousand have theirs within
//! about 130 us and one pass; and all of them behind a sleep.
//!
//! A look at a ring that is not used costs about ten nanoseconds, most of them for lines that other
//! sessions have pushed out of the cache: little for ten sessions, and a round trip of twelve
//! microseconds in place of a quarter of one for a thousand. What is hot is the reactor's private
//! knowledge: there is no word that clients share.
//!
//! Nothing depends on it but time. Before it sleeps the reactor looks at everybody, and whoever is
//! found then is hot.

/// A session that did nothing for so long to twice as long, in nanoseconds, is cold when that is
/// looked at next: every 64 passes, and before each sleep. More than a few time slices: clients
/// that wait for a CPU are not idle, and that they are there is a reason for the reactor to give
/// its own away.
const HOT_NS: u64 = 20_000_000;
/// So many are hot whatever they do: looking at them costs next to nothing.
const HOT_LEAST: usize = 4;
/// How many of the cold ones have a turn in a pass, at least,
const COLD_LEAST: usize = 4;
/// and what part of them.
const COLD_PART: usize = 64;
/// and one for each so many nanoseconds since the last pass: less than a tenth of the time.
const COLD_EVERY_NS: u64 = 128;

/// Places are those of the slots.
#[derive(Debug, Default)]
pub(super) struct Turns {
    hot: Vec<usize>,
    /// For each slot: in which era it did something; `None` if it is cold.
    worked_in: Vec<Option<u64>>,
    /// Grows by one every [`HOT_NS`], and when it last did so. CLOCK_MONOTONIC ns.
    era: u64,
    era_at: u64,
    /// Where among the hot ones the pass begins.
    first: usize,
    /// Where the search for the next cold one begins.
    cold: usize,
}

impl Turns {
    /// A session joins in the next slot. It is hot.
    pub(super) fn join(&mut self) {
        self.hot.push(self.worked_in.len());
        self.worked_in.push(Some(self.era));
    }

    /// A session is over, and the last one takes its slot.
    pub(super) fn remove(&mut self, slot: usize) {
        self.worked_in.swap_remove(slot);
        let last = self.worked_in.len();
        self.hot.retain(|hot| *hot != slot);
        if let Some(moved) = self.hot.iter_mut().find(|hot| **hot == last) {
            *moved = slot;
        }
        self.first = 0;
        // Where it was, or else those at the end would never have a turn while others come and go.
        if self.cold >= last {
            self.cold = 0;
        }
    }

    /// A pass begins, with another one of the hot ones than the last.
    #[inline]
    pub(super) fn begin(&mut self) {
        self.first += 1;
        if self.first >= self.hot.len() {
            self.first = 0;
        }
    }

    /// The hot ones, not in the order of their turns.
    #[inline]
    pub(super) fn hot(&self) -> &[usize] {
        &self.hot
    }

    /// The slot of the hot session whose turn it is after `step` others.
    #[inline]
    pub(super) fn at(&self, step: usize) -> usize {
        let index = self.first + step;
        self.hot[if index < self.hot.len() { index } else { index - self.hot.len() }]
    }

    /// Whether there are cold ones.
    #[inline]
    pub(super) fn any_cold(&self) -> bool {
        self.hot.len() < self.worked_in.len()
    }

    /// How many cold ones have a turn in this pass, `since` nanoseconds behind the last.
    #[inline]
    pub(super) fn cold_turns(&self, since: u64) -> usize {
        let cold = self.worked_in.len() - self.hot.len();
        let for_the_time = usize::try_from(since / COLD_EVERY_NS).unwrap_or(usize::MAX);
        cold.min(COLD_LEAST.max(cold.div_ceil(COLD_PART)).max(for_the_time))
    }

    /// The next cold one. Only if there are any.
    pub(super) fn next_cold(&mut self) -> usize {
        loop {
            let slot = self.cold;
            self.cold = if slot + 1 < self.worked_in.len() { slot + 1 } else { 0 };
            if self.worked_in[slot].is_none() {
                return slot;
            }
        }
    }

    /// A session did something, or has something to do.
    #[inline]
    pub(super) fn heat(&mut self, slot: usize) {
        if self.worked_in[slot].replace(self.era).is_none() {
            self.hot.push(slot);
        }
    }

    /// Lets those cool that did nothing for long; `cooled` is told of each. To be called now and
    /// then.
    #[cold]
    pub(super) fn cool(&mut self, now: u64, mut cooled: impl FnMut(usize)) {
        if now.saturating_sub(self.era_at) < HOT_NS {
            return;
        }
        (self.era, self.era_at) = (self.era + 1, now);
        let Self { hot, worked_in, era, .. } = self;
        let mut left = hot.len();
        hot.retain(|&slot| {
            let idle = worked_in[slot].is_none_or(|worked_in| worked_in + 2 <= *era);
            let stays = left <= HOT_LEAST || !idle;
            if !stays {
                left -= 1;
                worked_in[slot] = None;
                cooled(slot);
            }
            stays
        });
        self.first = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn with(sessions: usize) -> Turns {
        let mut turns = Turns::default();
        (0..sessions).for_each(|_| turns.join());
        turns
    }

    /// So late that whoever did nothing meanwhile is cold.
    fn cool_down(turns: &mut Turns, mut cooled: impl FnMut(usize)) {
        let now = turns.era_at;
        turns.cool(now + HOT_NS, |_| ());
        turns.cool(now + 2 * HOT_NS, &mut cooled);
    }

    /// Everybody who has a turn in the next pass.
    fn pass(turns: &mut Turns) -> Vec<usize> {
        turns.begin();
        let mut places: Vec<usize> = (0..turns.hot().len()).map(|step| turns.at(step)).collect();
        for _ in 0..turns.cold_turns(0) {
            places.push(turns.next_cold());
        }
        places
    }

    #[test]
    fn the_idle_ones_are_cold_and_still_have_turns() {
        let mut turns = with(1000);
        assert_eq!(pass(&mut turns).len(), 1000);
        let mut cooled = Vec::new();
        turns.cool(HOT_NS, |_| unreachable!("nobody was idle for so long"));
        turns.heat(7);
        turns.cool(2 * HOT_NS - 1, |_| unreachable!("nor for so long"));
        turns.cool(2 * HOT_NS, |slot| cooled.push(slot));
        assert!(!cooled.contains(&7) && cooled.len() == 1000 - HOT_LEAST);
        let mut seen = BTreeSet::new();
        for _ in 0..COLD_PART {
            let places = pass(&mut turns);
            assert!(places.contains(&7) && places.len() <= HOT_LEAST + 1000 / COLD_PART + 1);
            seen.extend(places);
        }
        assert_eq!(seen.len(), 1000);
        turns.heat(900);
        assert!(pass(&mut turns).contains(&900));
    }

    #[test]
    fn everybody_has_a_turn_behind_a_long_request() {
        let mut turns = with(1000);
        cool_down(&mut turns, |_| ());
        assert_eq!(turns.cold_turns(1_000_000), 1000 - HOT_LEAST);
        assert!(turns.cold_turns(300) < 20);
    }

    #[test]
    fn few_are_never_cold() {
        let mut turns = with(HOT_LEAST);
        cool_down(&mut turns, |_| unreachable!("few are never cold"));
        assert_eq!(turns.cold_turns(0), 0);
    }

    #[test]
    fn coming_and_going_keeps_nobody_from_a_turn() {
        let mut turns = with(1000);
        cool_down(&mut turns, |_| ());
        let mut seen = BTreeSet::new();
        for _ in 0..COLD_PART {
            seen.extend(pass(&mut turns));
            turns.join();
            turns.remove(1000);
        }
        assert_eq!(seen.len(), 1000);
    }

    #[test]
    fn everybody_is_first_once() {
        let mut turns = with(3);
        let firsts: BTreeSet<usize> = (0..3).map(|_| pass(&mut turns)[0]).collect();
        assert_eq!(firsts.len(), 3);
    }

    proptest! {
        #[test]
        fn whatever_happens_everybody_has_a_turn(
            steps in proptest::collection::vec((0..4u8, any::<u16>()), 1..200),
        ) {
            let (mut turns, mut sessions, mut now) = (Turns::default(), 0usize, 0u64);
            for (what, number) in steps {
                let slot = usize::from(number) % sessions.max(1);
                match what {
                    0 => {
                        turns.join();
                        sessions += 1;
                    }
                    1 if sessions > 0 => {
                        turns.remove(slot);
                        sessions -= 1;
                    }
                    2 if sessions > 0 => turns.heat(slot),
                    _ => {
                        now += u64::from(number) * 1000;
                        turns.cool(now, |_| ());
                    }
                }
                prop_assert!(turns.hot().iter().all(|hot| turns.worked_in[*hot].is_some()));
                let hot: BTreeSet<usize> = turns.hot().iter().copied().collect();
                prop_assert_eq!(hot.len(), turns.hot().len());
                prop_assert_eq!(hot.len(), turns.worked_in.iter().flatten().count());
                let mut seen = BTreeSet::new();
                for _ in 0..COLD_PART {
                    seen.extend(pass(&mut turns));
                }
                prop_assert_eq!(seen.len(), sessions);
            }
        }
    }
}
