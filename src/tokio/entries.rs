//! Who waits for which answer, and answers that have not been asked for.

use crate::client::CallError;
use crate::client::CallId;
use std::task::{Poll, Waker};

/// What an answer is.
type Outcome = Result<Vec<u8>, CallError>;

/// A call that was sent: its id, and the index of its entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) call: CallId,
    index: u32,
}

/// Calls that were sent, until their answers are asked for. An entry is found without searching: a
/// call knows its index, and the slot of its id leads to it until it is answered. The slot is the
/// next call's then, the entry is not.
#[derive(Debug, Default)]
pub(super) struct Entries {
    entries: Vec<Entry>,
    free: Vec<u32>,
    index_of_slot: Vec<Option<u32>>,
    /// Those without an answer.
    waiting: usize,
    /// The answer to the one call whose request was not sent to its end.
    early: Option<(CallId, Outcome)>,
}

#[derive(Debug)]
enum Entry {
    Free,
    Waiting(CallId, Waker),
    Done(Outcome),
}

impl Entries {
    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.entries.len()
    }

    /// How many have no answer yet.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// A call that was sent waits from now on. The waker comes back if its answer was there before.
    pub(super) fn enter(&mut self, call: CallId, waker: Waker) -> (Sent, Option<Waker>) {
        let (entry, unneeded) = match self.forget_early(call) {
            Some(outcome) => (Entry::Done(outcome), Some(waker)),
            None => {
                self.waiting += 1;
                (Entry::Waiting(call, waker), None)
            }
        };
        let answered = matches!(entry, Entry::Done(_));
        let index = match self.free.pop() {
            Some(index) => {
                self.entries[index as usize] = entry;
                index
            }
            None => {
                self.entries.push(entry);
                u32::try_from(self.entries.len() - 1).expect("calls are counted in u32")
            }
        };
        let slot = call.slot();
        if slot >= self.index_of_slot.len() {
            self.index_of_slot.resize(slot + 1, None);
        }
        // The slot of a call that is answered may be the next call's.
        if !answered {
            self.index_of_slot[slot] = Some(index);
        }
        (Sent { call, index }, unneeded)
    }

    /// An answer that came before its call was entered, which is not kept any longer.
    pub(super) fn forget_early(&mut self, call: CallId) -> Option<Outcome> {
        self.early.take_if(|(early, _)| *early == call).map(|(_, outcome)| outcome)
    }

    /// The answer to a call that somebody wants has come; who waits for it. It is kept if its call
    /// was not entered: its request is still being sent.
    pub(super) fn answer(&mut self, call: CallId, outcome: Outcome) -> Option<Waker> {
        let entered = self.index_of_slot.get_mut(call.slot()).and_then(Option::take);
        let Some(index) = entered else {
            self.early = Some((call, outcome));
            return None;
        };
        self.waiting -= 1;
        match std::mem::replace(&mut self.entries[index as usize], Entry::Done(outcome)) {
            Entry::Waiting(_, waker) => Some(waker),
            Entry::Free | Entry::Done(_) => unreachable!("slots lead to those that wait"),
        }
    }

    /// The answer, if it has come: the call is over then. If not, `renew` sees to its waker.
    pub(super) fn poll(&mut self, sent: Sent, renew: impl FnOnce(&mut Waker)) -> Poll<Outcome> {
        let entry = &mut self.entries[sent.index as usize];
        if let Entry::Waiting(_, there) = entry {
            renew(there);
            return Poll::Pending;
        }
        match std::mem::replace(entry, Entry::Free) {
            Entry::Done(outcome) => {
                self.free.push(sent.index);
                Poll::Ready(outcome)
            }
            Entry::Free | Entry::Waiting(..) => unreachable!("a call leaves with its answer"),
        }
    }

    /// Nobody wants the answer any more; the answer if it has come, or the waker.
    pub(super) fn give_up(&mut self, sent: Sent) -> Result<Outcome, Waker> {
        let was = std::mem::replace(&mut self.entries[sent.index as usize], Entry::Free);
        self.free.push(sent.index);
        match was {
            Entry::Done(outcome) => Ok(outcome),
            Entry::Waiting(_, waker) => {
                self.index_of_slot[sent.call.slot()] = None;
                self.waiting -= 1;
                Err(waker)
            }
            Entry::Free => unreachable!("a call leaves once"),
        }
    }

    /// Answers all that wait with an error; who they are.
    pub(super) fn fail(&mut self, error: &CallError) -> Vec<Waker> {
        self.waiting = 0;
        let Self { entries, index_of_slot, .. } = self;
        let fail = |entry: &mut Entry| {
            let Entry::Waiting(call, _) = entry else { return None };
            index_of_slot[call.slot()] = None;
            match std::mem::replace(entry, Entry::Done(Err(error.clone()))) {
                Entry::Waiting(_, waker) => Some(waker),
                Entry::Free | Entry::Done(_) => None,
            }
        };
        entries.iter_mut().filter_map(fail).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(uses: u64, slot: u64) -> CallId {
        CallId(uses << 32 | slot)
    }

    fn enter(entries: &mut Entries, call: CallId) -> Sent {
        entries.enter(call, Waker::noop().clone()).0
    }

    fn poll(entries: &mut Entries, sent: Sent) -> Poll<Outcome> {
        entries.poll(sent, |_| ())
    }

    #[test]
    fn a_slot_is_used_again_before_its_answer_is_asked_for() {
        let mut entries = Entries::default();
        let first = enter(&mut entries, id(1, 0));
        assert!(entries.answer(first.call, Ok(vec![1])).is_some());
        let second = enter(&mut entries, id(2, 0));
        assert!(poll(&mut entries, second).is_pending());
        assert_eq!(entries.waiting(), 1, "an answer that was not asked for is no call that waits");
        assert_eq!(poll(&mut entries, first), Poll::Ready(Ok(vec![1])));
        assert!(entries.answer(second.call, Ok(vec![2])).is_some());
        assert_eq!(poll(&mut entries, second), Poll::Ready(Ok(vec![2])));
        assert!(entries.is_empty());
    }

    #[test]
    fn who_gives_up_leaves_nothing_behind() {
        let mut entries = Entries::default();
        let [waits, done] = [0, 1].map(|slot| enter(&mut entries, id(1, slot)));
        assert!(entries.answer(done.call, Ok(Vec::new())).is_some());
        assert!(entries.give_up(waits).is_err(), "its waker");
        assert_eq!(entries.give_up(done).ok(), Some(Ok(Vec::new())));
        assert_eq!(entries.waiting(), 0);
        assert!(entries.is_empty());
        assert!(entries.answer(waits.call, Ok(Vec::new())).is_none(), "nobody waits");
        assert!(entries.answer(id(1, 7), Ok(Vec::new())).is_none(), "nobody ever did");
    }

    #[test]
    fn c1_an_answer_that_comes_before_the_last_of_its_request_is_found() {
        let mut entries = Entries::default();
        assert!(entries.answer(id(1, 0), Ok(vec![1])).is_none());
        // The slot is the next call's by then.
        let other = enter(&mut entries, id(2, 0));
        let first = enter(&mut entries, id(1, 0));
        assert_eq!(entries.waiting(), 1);
        assert_eq!(poll(&mut entries, first), Poll::Ready(Ok(vec![1])));
        assert!(entries.answer(other.call, Ok(vec![2])).is_some());
        assert_eq!(poll(&mut entries, other), Poll::Ready(Ok(vec![2])));
        assert!(entries.is_empty());
        assert!(entries.answer(id(3, 0), Ok(vec![3])).is_none());
        assert_eq!(entries.forget_early(id(3, 0)), Some(Ok(vec![3])), "one that is not sent");
        assert_eq!(entries.forget_early(id(3, 0)), None);
    }

    #[test]
    fn the_end_is_for_those_that_wait() {
        let mut entries = Entries::default();
        let [waits, done] = [0, 1].map(|slot| enter(&mut entries, id(1, slot)));
        assert!(entries.answer(done.call, Ok(vec![1])).is_some());
        let over = CallError::Disconnected { maybe_executed: true };
        assert_eq!(entries.fail(&over).len(), 1);
        assert_eq!(poll(&mut entries, waits), Poll::Ready(Err(over)));
        assert_eq!(poll(&mut entries, done), Poll::Ready(Ok(vec![1])));
        assert!(entries.is_empty());
    }
}
