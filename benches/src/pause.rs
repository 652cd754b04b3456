//! Pauses that end when they should and use no CPU meanwhile.

use std::io;
use std::num::NonZeroU64;

use rustix::thread::{ClockId, Timespec, clock_nanosleep_absolute, set_current_timer_slack};
use rustix::time::clock_gettime;

/// A point in time, later by less than a second.
pub(crate) fn after(time: Timespec, nanos: i64) -> Timespec {
    const SECOND: i64 = 1_000_000_000;
    let nanos = time.tv_nsec + nanos;
    Timespec { tv_sec: time.tv_sec + nanos / SECOND, tv_nsec: nanos % SECOND }
}

/// Sleeps until a point of the monotonic clock, through interruptions.
pub(crate) fn sleep_until(time: Timespec) -> io::Result<()> {
    loop {
        match clock_nanosleep_absolute(ClockId::Monotonic, &time) {
            Err(rustix::io::Errno::INTR) => {}
            slept => return Ok(slept?),
        }
    }
}

/// Sleeps for less than a second.
pub(crate) fn sleep(nanos: i64) -> io::Result<()> {
    sleep_until(after(clock_gettime(ClockId::Monotonic), nanos))
}

/// Has the kernel end the sleeps of the calling thread, and of those that it starts from now on,
/// when they are over, and not up to 50 us later to save a timer.
pub(crate) fn be_punctual() -> io::Result<()> {
    Ok(set_current_timer_slack(NonZeroU64::new(1))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_time_carries_into_seconds() {
        let time = after(Timespec { tv_sec: 1, tv_nsec: 999_500_000 }, 1_000_000);
        assert_eq!((time.tv_sec, time.tv_nsec), (2, 500_000));
    }
}
