//! The calls of one client that wait for an answer.
//!
//! A call id names a slot and its use: so an id is found without searching, an answer to a call
//! that is over is told from one to its slot's next call, and memory is bounded by the number of
//! calls in flight.

/// Names one call of one session. Never given twice in a session's life (before 2^32 uses of one
/// slot).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(pub(crate) u64);

impl CallId {
    /// The id as it stands in frames.
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

impl std::fmt::Display for CallId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What is known of a call that is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// Somebody wants the answer.
    Wanted,
    /// The caller has given up.
    Abandoned,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Free { uses: u32 },
    Taken { uses: u32, waiting: Waiting },
}

/// Calls that are looked at in one search for one that waits.
const SEARCHED: usize = 32;

/// The calls in flight.
#[derive(Debug)]
pub(crate) struct Calls {
    slots: Vec<Slot>,
    free: Vec<u32>,
    limit: usize,
    wanted: usize,
    /// Where the next search for one that waits begins.
    looked: usize,
}

impl Calls {
    /// No calls, and room for `limit`.
    pub(crate) fn new(limit: usize) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), limit, wanted: 0, looked: 0 }
    }

    /// Calls without an answer whose caller still wants one.
    #[inline]
    pub(crate) fn wanted(&self) -> usize {
        self.wanted
    }

    /// Calls without an answer, abandoned ones included.
    pub(crate) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Some call whose caller waits, and for which `counts` holds, looked for behind `after`: over
    /// many rounds every one that stays is found.
    #[allow(clippy::cast_possible_truncation, reason = "slots are counted in u32")]
    pub(crate) fn waiting_behind(
        &mut self,
        after: u64,
        counts: impl Fn(CallId) -> bool,
    ) -> Option<CallId> {
        if self.wanted == 0 {
            return None;
        }
        let len = self.slots.len();
        let start = if after == 0 { self.looked } else { after as u32 as usize + 1 };
        // So many at a time: a client may have thousands of streams, which do not count.
        let most = len.min(SEARCHED);
        self.looked = (start + most) % len;
        (0..most).map(|step| (start + step) % len).find_map(|index| match self.slots[index] {
            Slot::Taken { uses, waiting: Waiting::Wanted } => {
                Some(CallId(u64::from(uses) << 32 | index as u64)).filter(|call| counts(*call))
            }
            _ => None,
        })
    }

    /// A new call; `None` at the limit.
    #[inline]
    pub(crate) fn begin(&mut self) -> Option<CallId> {
        let Some(index) = self.free.pop() else { return self.grow() };
        let Slot::Free { uses } = self.slots[index as usize] else {
            unreachable!("on the free list")
        };
        Some(self.take(index, uses))
    }

    #[cold]
    fn grow(&mut self) -> Option<CallId> {
        if self.slots.len() >= self.limit {
            return None;
        }
        let index = u32::try_from(self.slots.len()).ok()?;
        self.slots.push(Slot::Free { uses: 0 });
        Some(self.take(index, 0))
    }

    #[inline]
    fn take(&mut self, index: u32, uses: u32) -> CallId {
        // Starting at 1, so that no id is 0.
        let uses = uses.wrapping_add(1);
        self.slots[index as usize] = Slot::Taken { uses, waiting: Waiting::Wanted };
        self.wanted += 1;
        CallId(u64::from(uses) << 32 | u64::from(index))
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "the two halves of an id")]
    fn find(&self, id: u64) -> Option<(usize, u32, Waiting)> {
        let index = id as u32 as usize;
        match self.slots.get(index) {
            Some(&Slot::Taken { uses, waiting }) if u64::from(uses) == id >> 32 => {
                Some((index, uses, waiting))
            }
            _ => None,
        }
    }

    /// What is known of a call that is not answered.
    pub(crate) fn state(&self, id: u64) -> Option<Waiting> {
        self.find(id).map(|(_, _, waiting)| waiting)
    }

    /// The call is answered; `None` if there is no such call.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "slots are counted in u32")]
    pub(crate) fn end(&mut self, id: u64) -> Option<Waiting> {
        let (index, uses, waiting) = self.find(id)?;
        self.slots[index] = Slot::Free { uses };
        self.free.push(index as u32);
        if waiting == Waiting::Wanted {
            self.wanted -= 1;
        }
        Some(waiting)
    }

    /// The caller no longer wants the answer, which may still come.
    pub(crate) fn abandon(&mut self, id: CallId) {
        if let Some((index, uses, Waiting::Wanted)) = self.find(id.0) {
            self.slots[index] = Slot::Taken { uses, waiting: Waiting::Abandoned };
            self.wanted -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_good_for_one_answer() {
        let mut calls = Calls::new(2);
        let first = calls.begin().unwrap();
        assert_eq!(calls.end(first.0), Some(Waiting::Wanted));
        assert_eq!(calls.end(first.0), None);
        let second = calls.begin().unwrap();
        assert_ne!(first, second);
        assert_eq!(calls.end(first.0), None, "the slot is the same, the call is not");
        assert_eq!(calls.end(second.0), Some(Waiting::Wanted));
    }

    #[test]
    fn the_limit_counts_abandoned_calls() {
        let mut calls = Calls::new(2);
        let first = calls.begin().unwrap();
        let _second = calls.begin().unwrap();
        calls.abandon(first);
        assert_eq!((calls.wanted(), calls.in_flight()), (1, 2));
        assert!(calls.begin().is_none());
        assert_eq!(calls.end(first.0), Some(Waiting::Abandoned));
        assert!(calls.begin().is_some());
    }

    #[test]
    fn one_that_waits_is_found_wherever_it_is() {
        let mut calls = Calls::new(3);
        assert_eq!(calls.waiting_behind(0, |_| true), None);
        let [first, second, third] = [(); 3].map(|()| calls.begin().unwrap());
        assert_eq!(calls.waiting_behind(0, |_| true), Some(first));
        assert_eq!(calls.waiting_behind(second.0, |_| true), Some(third));
        assert_eq!(calls.waiting_behind(third.0, |_| true), Some(first));
        assert!(calls.waiting_behind(u64::MAX, |_| true).is_some(), "whatever is asked");
        assert_eq!(calls.waiting_behind(0, |call| call == third), Some(third));
        calls.abandon(second);
        calls.end(third.0);
        assert_eq!(calls.waiting_behind(0, |_| true), Some(first));
    }

    #[test]
    fn ids_out_of_range_are_unknown() {
        let mut calls = Calls::new(2);
        for id in [0, 1, u64::MAX, 1 << 32, 77 << 32 | 1] {
            assert_eq!(calls.end(id), None);
        }
    }
}
