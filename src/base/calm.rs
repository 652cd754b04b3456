//! Keeps a wait from becoming a busy loop.
//!
//! Every wait of the library is a loop: sleep, look, sleep again. A sleep may return at once and
//! for nothing each time: the kernel refuses the call (a seccomp profile, an old kernel), or the
//! descriptor that it waits on is broken. The loop would then use a whole CPU. So each sleep is
//! reported here. After [`FREE`] returns in a row that were for nothing, each further one is
//! followed by a pause, which grows up to [`LONGEST`]. The pauses are counted, for the statistics.
//!
//! A sleep that was ended by its peer is never for nothing, even if the peer then has nothing to
//! say: such a loop runs no faster than the peer rings, and a pause would let one peer slow down
//! the others.

use std::time::Duration;

/// A sleep that took longer than this has slept. In ns.
const AT_ONCE_NS: u64 = 50_000;
/// Returns for nothing, in a row, that cost no pause.
const FREE: u32 = 16;
const SHORTEST: Duration = Duration::from_micros(64);
const LONGEST: Duration = Duration::from_millis(8);

/// How one loop of sleeps has gone.
#[derive(Debug, Default)]
pub(crate) struct Calm {
    /// Returns for nothing in a row.
    for_nothing: u32,
    pauses: u64,
}

impl Calm {
    /// A sleep has returned after `took` ns, `left` ns before its time. `refused`: the kernel did
    /// not sleep at all. `came`, asked of a sleep that was very short, says whether there was a
    /// reason to wake up.
    ///
    /// Pauses if that has happened for nothing too often. A signal ends the pause. Where the kernel
    /// refuses to sleep the pauses are the sleeps: if there was a reason to end one, the next one
    /// is as short as the first.
    #[inline]
    pub(crate) fn slept(&mut self, refused: bool, took: u64, left: u64, came: impl Fn() -> bool) {
        if !refused && (took >= AT_ONCE_NS || left == 0 || came()) {
            self.for_nothing = 0;
            return;
        }
        if let Some(pause) = self.next_pause() {
            self.pauses += 1;
            rest(pause.min(Duration::from_nanos(left.max(1))));
            if refused && came() {
                // It still costs a pause each time: the loop is no busy one.
                self.for_nothing = FREE;
            }
        }
    }

    /// Whether the last sleeps were for nothing, so often that each is followed by a pause.
    pub(crate) fn is_pausing(&self) -> bool {
        self.for_nothing > FREE
    }

    /// How many pauses there were.
    pub(crate) fn pauses(&self) -> u64 {
        self.pauses
    }

    #[cold]
    fn next_pause(&mut self) -> Option<Duration> {
        self.for_nothing = self.for_nothing.saturating_add(1);
        let beyond = self.for_nothing.checked_sub(FREE + 1)?;
        Some(SHORTEST.saturating_mul(1 << beyond.min(16)).min(LONGEST))
    }
}

/// Sleeps, in whatever way the kernel allows.
#[cold]
fn rest(pause: Duration) {
    use rustix::io::Errno;
    use rustix::thread::NanosleepRelativeResult::{Err as Failed, Interrupted, Ok as Slept};
    let Ok(time) = rustix::event::Timespec::try_from(pause) else { return };
    let clock = rustix::thread::ClockId::Monotonic;
    match rustix::thread::clock_nanosleep_relative(clock, &time) {
        Slept | Interrupted(_) => return,
        Failed(_) => {}
    }
    if let Ok(_) | Err(Errno::INTR) = rustix::event::poll(&mut [], Some(&time)) {
        return;
    }
    rustix::thread::sched_yield();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::now_ns;

    const SECOND: u64 = 1_000_000_000;

    /// How often a loop comes round while a sleep of the same length passes: `wait` returns at
    /// once.
    fn rounds(wait: impl Fn(&mut Calm)) -> (u64, u64) {
        let mut calm = Calm::default();
        let mut rounds = 0;
        let until = now_ns() + SECOND / 4;
        while now_ns() < until {
            wait(&mut calm);
            rounds += 1;
        }
        (rounds, calm.pauses())
    }

    #[test]
    fn h2_a_wait_that_always_returns_at_once_is_no_busy_loop() {
        let (free, none) = rounds(|calm| calm.slept(false, 0, SECOND, || true));
        assert_eq!(none, 0, "rung each time");
        for refused in [true, false] {
            let (few, pauses) = rounds(|calm| calm.slept(refused, 0, SECOND, || false));
            assert!(pauses > 0 && pauses + u64::from(FREE) == few, "{pauses} of {few}");
            // 31 pauses of 8 ms fill the time, after 8 that grow. Without pauses there are many
            // thousand rounds on any machine.
            assert!(few < u64::from(FREE) + 8 + 31 + 2 && few < free / 10, "{few} of {free}");
        }
    }

    #[test]
    fn h2_pauses_grow_and_end_when_something_came() {
        let mut calm = Calm::default();
        let first: Vec<_> = (0..FREE).map(|_| calm.next_pause()).collect();
        assert!(first.iter().all(Option::is_none) && !calm.is_pausing());
        let more: Vec<_> = (0..20).map_while(|_| calm.next_pause()).collect();
        assert_eq!((more.len(), more[0], more[19]), (20, SHORTEST, LONGEST));
        assert!(more.is_sorted() && calm.is_pausing());
        calm.for_nothing = u32::MAX;
        assert_eq!(calm.next_pause(), Some(LONGEST));
        calm.slept(false, 0, SECOND, || true);
        assert!(!calm.is_pausing() && calm.next_pause().is_none());
    }

    /// Who waits by pauses alone waits for each answer anew, and not longer than it takes.
    #[test]
    fn h2_a_pause_that_was_for_something_is_followed_by_a_short_one() {
        let mut calm = Calm::default();
        for _ in 0..3 {
            while calm.for_nothing < FREE + 4 {
                calm.slept(true, 0, SECOND, || false);
            }
            let before = calm.pauses();
            calm.slept(true, 0, SECOND, || true);
            assert_eq!(calm.pauses(), before + 1, "it is no busy loop");
            assert_eq!(calm.next_pause(), Some(SHORTEST));
        }
    }

    #[test]
    fn h2_a_sleep_that_slept_is_not_asked_what_came() {
        let mut calm = Calm::default();
        for _ in 0..100 {
            calm.slept(false, AT_ONCE_NS, SECOND, || unreachable!("it slept"));
            calm.slept(false, 0, 0, || unreachable!("its time was over"));
        }
        assert_eq!(calm.pauses(), 0);
    }
}
