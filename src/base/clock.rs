//! Time. One convention at every level: `Option<Duration>`, where `None` waits for ever and
//! zero does not wait.

use rustix::thread::futex::Timespec;
use std::time::Duration;

/// Longer than anything runs, and short enough to be added to a time of any clock.
pub(crate) const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// CLOCK_MONOTONIC in nanoseconds.
#[inline]
#[allow(clippy::cast_sign_loss, reason = "the monotonic clock is never negative")]
pub(crate) fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The same clock as [`now_ns`] at the last tick of the kernel: up to 10 ms behind, and several
/// times cheaper.
#[inline]
#[allow(clippy::cast_sign_loss, reason = "the monotonic clock is never negative")]
pub(crate) fn coarse_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// An absolute CLOCK_MONOTONIC time as the kernel wants it.
#[allow(clippy::cast_possible_wrap, reason = "584 years of nanoseconds are 18 billion seconds")]
pub(crate) fn timespec(ns: u64) -> Timespec {
    Timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as _ }
}

/// When a wait ends. A timeout is turned into an absolute time at the first look at the clock, so
/// that a call that is answered at once never looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deadline {
    Never,
    /// Does not wait at all.
    Now,
    /// So long after the first look at the clock.
    In(Duration),
    /// CLOCK_MONOTONIC nanoseconds.
    At(u64),
}

impl Deadline {
    pub(crate) fn after(timeout: Option<Duration>) -> Self {
        match timeout {
            None => Self::Never,
            Some(Duration::ZERO) => Self::Now,
            Some(timeout) => Self::In(timeout),
        }
    }

    pub(crate) fn at(instant: Option<std::time::Instant>) -> Self {
        match instant {
            None => Self::Never,
            Some(instant) => match instant.checked_duration_since(std::time::Instant::now()) {
                None | Some(Duration::ZERO) => Self::Now,
                // Fixed now: the caller meant a moment, not a span.
                Some(left) => Self::At(add(now_ns(), left)),
            },
        }
    }

    /// The deadline as CLOCK_MONOTONIC nanoseconds; fixes a timeout that starts now. 0 for none.
    pub(crate) fn fix(&mut self) -> u64 {
        if let Self::In(timeout) = *self {
            *self = Self::At(add(now_ns(), timeout));
        }
        match *self {
            Self::At(at) => at,
            _ => 0,
        }
    }

    /// Whether the deadline has passed at `now`; fixes a timeout that starts now.
    pub(crate) fn passed(&mut self, now: u64) -> bool {
        if let Self::In(timeout) = *self {
            *self = Self::At(add(now, timeout));
        }
        match *self {
            Self::Never => false,
            Self::Now => true,
            Self::At(at) => now >= at,
            Self::In(_) => unreachable!("fixed above"),
        }
    }

    /// The deadline, or `now + longest` if that is earlier.
    pub(crate) fn within(self, now: u64, longest: Duration) -> u64 {
        let latest = add(now, longest);
        match self {
            Self::At(at) => at.min(latest),
            Self::Now => now,
            Self::Never | Self::In(_) => latest,
        }
    }
}

fn add(now: u64, span: Duration) -> u64 {
    now.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_for_ever_and_zero_is_now() {
        assert!(!Deadline::after(None).passed(u64::MAX));
        assert!(Deadline::after(Some(Duration::ZERO)).passed(0));
        assert!(!Deadline::after(Some(Duration::MAX)).passed(u64::MAX - 1));
    }

    #[test]
    fn a_timeout_starts_at_the_first_look() {
        let mut deadline = Deadline::after(Some(Duration::from_nanos(10)));
        assert!(!deadline.passed(100));
        assert!(!deadline.passed(109));
        assert!(deadline.passed(110));
        assert_eq!(deadline.within(50, Duration::from_nanos(7)), 57);
        assert_eq!(deadline.within(105, Duration::from_nanos(7)), 110);
    }

    #[test]
    fn a_past_moment_has_passed() {
        let past = std::time::Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        assert!(Deadline::at(Some(past)).passed(0));
    }
}
