//! Samples of calls: when one of many was sent, taken, answered and received. For tools, who
//! tell waiting from working by it.
//!
//! Each side keeps a table in its own control page, and reads nothing of the other's. A sample is
//! entered when its call begins, so that a tool sees where a call is that never ends; the place of
//! one that is under way is not used again.

use crate::base::sync::Ordering;
use crate::memory::layout::{self, Sample, offset};
use crate::memory::{OwnWord, Window};
use core::mem::offset_of;

/// Samples of one session that may be under way at once.
const OPEN: usize = 16;

/// One side's table.
#[derive(Debug)]
pub(crate) struct Samples {
    rows: Vec<Row>,
    next: usize,
    /// Call id and place of those that are under way.
    open: Vec<(u64, usize)>,
}

#[derive(Debug)]
struct Row {
    call: OwnWord,
    sent_ns: OwnWord,
    taken_ns: OwnWord,
    done_ns: OwnWord,
}

impl Samples {
    /// The table in the control page of `window`.
    pub(crate) fn new(window: &Window) -> Self {
        let row = |index| {
            let word =
                |field| window.own_word(offset::SAMPLES + index * size_of::<Sample>() + field);
            Row {
                call: word(offset_of!(Sample, call)),
                sent_ns: word(offset_of!(Sample, sent_ns)),
                taken_ns: word(offset_of!(Sample, taken_ns)),
                done_ns: word(offset_of!(Sample, done_ns)),
            }
        };
        Self {
            rows: (0..layout::SAMPLES).map(row).collect(),
            next: 0,
            open: Vec::with_capacity(OPEN),
        }
    }

    /// Enters a call. False if too many are under way: then it is not sampled.
    pub(crate) fn begin(&mut self, call: u64, sent_ns: u64, taken_ns: u64) -> bool {
        if self.open.len() == OPEN {
            return false;
        }
        // Ends: there are more places than open ones.
        while self.open.iter().any(|(_, place)| *place == self.next) {
            self.next = (self.next + 1) % self.rows.len();
        }
        // Relaxed: for tools only. One that reads it half-written finds times that contradict each
        // other.
        let row = &self.rows[self.next];
        row.done_ns.store(0, Ordering::Relaxed);
        row.sent_ns.store(sent_ns, Ordering::Relaxed);
        row.taken_ns.store(taken_ns, Ordering::Relaxed);
        row.call.store(call, Ordering::Relaxed);
        self.open.push((call, self.next));
        self.next = (self.next + 1) % self.rows.len();
        true
    }

    /// A call has come to its end, if it is sampled. Looks at the clock only then.
    pub(crate) fn end(&mut self, call: u64, clock: impl FnOnce() -> u64) {
        if let Some(place) = self.close(call) {
            self.rows[place].done_ns.store(clock(), Ordering::Relaxed);
        }
    }

    /// Those that came to their end after `since`: when that was, and how long they took, in ns.
    #[cfg(feature = "metrics")]
    pub(crate) fn ended_after(&self, since: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.rows
            .iter()
            .filter(move |row| row.call.get() != 0 && row.done_ns.get() > since)
            .map(|row| (row.done_ns.get(), row.done_ns.get().saturating_sub(row.sent_ns.get())))
    }

    /// A call that was not sent after all.
    pub(crate) fn forget(&mut self, call: u64) {
        if let Some(place) = self.close(call) {
            self.rows[place].call.store(0, Ordering::Relaxed);
        }
    }

    fn close(&mut self, call: u64) -> Option<usize> {
        let index = self.open.iter().position(|(open, _)| *open == call)?;
        Some(self.open.swap_remove(index).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(window: &Window, place: usize) -> Sample {
        let at = offset::SAMPLES + place * size_of::<Sample>();
        let word = |field: usize| window.peer_word(at + 8 * field).load();
        Sample { call: word(0), sent_ns: word(1), taken_ns: word(2), done_ns: word(3) }
    }

    #[test]
    fn a_call_is_there_from_its_beginning_and_has_its_end() {
        let window = Window::heap(layout::CONTROL);
        let mut samples = Samples::new(&window);
        assert!(samples.begin(7, 100, 200));
        assert_eq!(read(&window, 0), Sample { call: 7, sent_ns: 100, taken_ns: 200, done_ns: 0 });
        samples.end(8, || panic!("nobody asks for the time of a call that is not sampled"));
        samples.end(7, || 300);
        assert_eq!(read(&window, 0).done_ns, 300);
        samples.end(7, || panic!("it ends once"));
        assert!(samples.begin(9, 1, 2));
        samples.forget(9);
        assert_eq!(read(&window, 1).call, 0);
    }

    #[test]
    fn those_under_way_keep_their_places_and_are_bounded() {
        let window = Window::heap(layout::CONTROL);
        let mut samples = Samples::new(&window);
        assert!(samples.begin(1, 1, 1));
        for call in 2..1000 {
            assert!(samples.begin(call, call, call));
            samples.end(call, || call + 1);
            assert_eq!(read(&window, 0), Sample { call: 1, sent_ns: 1, taken_ns: 1, done_ns: 0 });
        }
        let places: Vec<Sample> = (0..layout::SAMPLES).map(|place| read(&window, place)).collect();
        assert_eq!(
            places.iter().map(|sample| sample.call).max(),
            Some(999),
            "the latest are there"
        );
        assert_eq!(places.iter().filter(|sample| sample.call > 999 - 63).count(), 63);
        for call in 1000..1000 + OPEN as u64 - 1 {
            assert!(samples.begin(call, call, call));
        }
        assert!(!samples.begin(2000, 1, 1), "too many");
        samples.end(1, || 5);
        assert!(samples.begin(2000, 1, 1));
    }
}
