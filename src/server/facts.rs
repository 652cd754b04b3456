//! What a server tells tools of itself beside its counters: [`Facts`], in its status segment.

use crate::base::sync::Ordering;
use crate::memory::layout::{self, Facts, offset};
use crate::memory::{OwnWord, Window};
use crate::os::fork::Origin;
use std::cell::Cell;
use std::mem::offset_of;

fn word(status: &Window, field: usize) -> OwnWord {
    status.own_word(offset::FACTS + field)
}

// Relaxed, in all of this file: for tools only, nobody acts on it.

/// Tells the limits.
pub(super) fn tell_limits(status: &Window, limits: &Facts) {
    let tell = |field, value| word(status, field).store(value, Ordering::Relaxed);
    tell(offset_of!(Facts, max_clients), limits.max_clients);
    tell(offset_of!(Facts, max_in_flight), limits.max_in_flight);
    tell(offset_of!(Facts, max_held_bytes), limits.max_held_bytes);
    tell(offset_of!(Facts, max_held_bytes_per_client), limits.max_held_bytes_per_client);
}

/// Tells how requests are served.
pub(super) fn tell_engine(status: &Window, engine: layout::Engine) {
    word(status, offset_of!(Facts, engine)).store(engine as u64, Ordering::Relaxed);
}

/// The word that says when the serving thread last stored something, or woke up.
pub(super) fn stored_word(status: &Window) -> OwnWord {
    word(status, offset_of!(Facts, stored_ns))
}

/// A request that is in flight for long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Oldest {
    pub(super) session: u64,
    pub(super) call: u64,
    pub(super) since_ns: u64,
}

/// What changes while a server serves. Its reactor is the one writer.
#[derive(Debug)]
pub(super) struct ServingFacts {
    thread: OwnWord,
    stored_ns: OwnWord,
    session: OwnWord,
    call: OwnWord,
    since_ns: OwnWord,
    oldest: Oldest,
    told_thread: u64,
}

impl ServingFacts {
    pub(super) fn new(status: &Window) -> Self {
        Self {
            thread: word(status, offset_of!(Facts, thread)),
            stored_ns: stored_word(status),
            session: word(status, offset_of!(Facts, oldest_session)),
            call: word(status, offset_of!(Facts, oldest_call)),
            since_ns: word(status, offset_of!(Facts, oldest_since_ns)),
            oldest: Oldest::default(),
            told_thread: 0,
        }
    }

    /// The calling thread serves.
    #[inline]
    pub(super) fn served_here(&mut self) {
        let thread = this_thread();
        if thread != self.told_thread {
            self.told_thread = thread;
            self.thread.store(thread, Ordering::Relaxed);
        }
    }

    /// The serving thread is not in a handler at `now`.
    #[inline]
    pub(super) fn stored(&self, now: u64) {
        self.stored_ns.store(now, Ordering::Relaxed);
    }

    /// The request that is in flight for the longest, as far as that is known.
    pub(super) fn tell_oldest(&mut self, oldest: Oldest) {
        if oldest != self.oldest {
            self.oldest = oldest;
            // Three words: a tool that reads in between may find parts of two. Without a time there
            // is no such request, so most of what it may find is none.
            self.since_ns.store(0, Ordering::Relaxed);
            self.session.store(oldest.session, Ordering::Relaxed);
            self.call.store(oldest.call, Ordering::Relaxed);
            self.since_ns.store(oldest.since_ns, Ordering::Relaxed);
        }
    }
}

thread_local! {
    static THREAD: Cell<(Origin, u64)> = const { Cell::new((Origin::NOWHERE, 0)) };
}

/// The number of the calling thread, in its own pid namespace. One system call for each thread.
fn this_thread() -> u64 {
    let ask = || u64::from(rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs());
    let known = THREAD.try_with(|cell| {
        let (origin, thread) = cell.get();
        if thread != 0 && origin.is_here() {
            return thread;
        }
        // The first time, or in a forked child: its thread has another number.
        let thread = ask();
        cell.set((Origin::here(), thread));
        thread
    });
    // A destructor may run while the thread ends, when there is nothing any more.
    known.unwrap_or_else(|_| ask())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(window: &Window) -> [u64; 3] {
        let at = |field| window.peer_word(offset::FACTS + field).load();
        [
            at(offset_of!(Facts, oldest_session)),
            at(offset_of!(Facts, oldest_call)),
            at(offset_of!(Facts, oldest_since_ns)),
        ]
    }

    #[test]
    fn each_thread_has_its_own_number() {
        let here = this_thread();
        assert_eq!(here, this_thread());
        assert_eq!(here, u64::from(rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs()));
        assert_ne!(std::thread::spawn(this_thread).join().unwrap(), here);
    }

    #[test]
    fn the_oldest_is_told_and_taken_back() {
        let window = Window::heap(layout::CONTROL);
        let mut facts = ServingFacts::new(&window);
        facts.tell_oldest(Oldest { session: 3, call: 7, since_ns: 11 });
        assert_eq!(told(&window), [3, 7, 11]);
        facts.tell_oldest(Oldest::default());
        assert_eq!(told(&window), [0; 3]);
    }
}
