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

/// How the clock of a server differs from that of its client: CLOCK_MONOTONIC is another one in
/// each time namespace.
///
/// A session measures it once, while it connects. What the client then tells the server, and tools,
/// is in the server's clock. What the client waits for itself never is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ClockOffset {
    /// The server's clock less the client's, in ns.
    ahead: i64,
    /// By how many ns that may be wrong, either way.
    error: u64,
}

impl ClockOffset {
    /// The two are one clock.
    pub(crate) const NONE: Self = Self { ahead: 0, error: 0 };

    /// What a handshake tells: the client said Hello at `sent` and had the answer at `received`,
    /// both in its own clock, and in between the server's clock said `server`.
    ///
    /// If that is possible for one clock, it is one: so ordinary sessions, however slow their
    /// handshake was, have an offset of exactly 0. (Two clocks that differ by less than the
    /// handshake took are not told apart. A deadline may then be early by that difference.)
    /// Otherwise the server is taken to have looked at its clock in the middle.
    pub(crate) fn between(sent: u64, received: u64, server: u64) -> Self {
        let took = received.saturating_sub(sent);
        if (sent..=sent.saturating_add(took)).contains(&server) {
            return Self::NONE;
        }
        let ahead = i128::from(server) - i128::from(sent.saturating_add(took / 2));
        let farthest = if ahead < 0 { i64::MIN } else { i64::MAX };
        Self { ahead: i64::try_from(ahead).unwrap_or(farthest), error: took.div_ceil(2) }
    }

    /// A deadline of the client in the server's clock: late by at most what the handshake took,
    /// never early. 0, which is none, stays 0; no other becomes 0.
    pub(crate) fn deadline(self, at: u64) -> u64 {
        if at == 0 { 0 } else { self.shift(at).saturating_add(self.error) }
    }

    /// Any other time of the client in the server's clock: wrong by at most half of what the
    /// handshake took. 0, which is none, stays 0; no other becomes 0.
    pub(crate) fn time(self, at: u64) -> u64 {
        if at == 0 { 0 } else { self.shift(at) }
    }

    /// How far the server's clock is ahead, in ns, more or less.
    #[cfg(feature = "inspect")]
    pub(crate) fn ahead(self) -> i64 {
        self.ahead
    }

    fn shift(self, at: u64) -> u64 {
        at.saturating_add_signed(self.ahead).max(1)
    }
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

    /// A handshake as it is: when Hello was sent, how long it took, at which part of it the server
    /// looked at its clock, and by how much that is ahead.
    fn handshake(sent: u64, took: u64, part: u64, ahead: i64) -> ClockOffset {
        let server = (sent + took * part / 1000).checked_add_signed(ahead).expect("after the boot");
        ClockOffset::between(sent, sent + took, server)
    }

    const SECOND: u64 = 1_000_000_000;
    const BOOT: u64 = 200_000 * SECOND;

    #[test]
    fn c3_one_clock_has_no_offset_however_slow_the_handshake() {
        for took in [0, 1, 30_000, SECOND, 100 * SECOND] {
            for part in [0, 1, 500, 999, 1000] {
                assert_eq!(handshake(BOOT, took, part, 0), ClockOffset::NONE);
            }
        }
        assert_eq!(ClockOffset::NONE.deadline(7), 7);
        assert_eq!(ClockOffset::NONE.time(7), 7);
    }

    #[test]
    #[allow(clippy::cast_sign_loss, reason = "small enough")]
    fn c3_another_clock_is_found() {
        for ahead in [100_000_000_000_000, -100_000_000_000_000, 50_000, -50_000i64] {
            for (took, part) in [(0, 0), (30_000, 300), (SECOND, 0), (SECOND, 1000)] {
                if ahead.unsigned_abs() <= took {
                    // It may be one clock.
                    continue;
                }
                let offset = handshake(BOOT, took, part, ahead);
                let truly = |at: u64| at.checked_add_signed(ahead).expect("after the boot");
                let at = BOOT + SECOND / 2;
                assert!(offset.time(at).abs_diff(truly(at)) <= took.div_ceil(2));
                let late = offset.deadline(at).checked_sub(truly(at)).expect("never early");
                assert!(late <= took + 1, "{ahead} {took} {part}: late by {late}");
            }
        }
    }

    #[test]
    fn c3_no_time_is_lost_or_wraps() {
        let behind = ClockOffset::between(BOOT, BOOT + 10, 0);
        assert_eq!((behind.deadline(0), behind.time(0)), (0, 0), "none stays none");
        assert_eq!((behind.deadline(1), behind.time(1)), (1 + 5, 1), "no other becomes none");
        for (sent, server) in [(0, u64::MAX), (u64::MAX, 0), (u64::MAX - 1, 1)] {
            let offset = ClockOffset::between(sent, sent.saturating_add(SECOND), server);
            for at in [1, BOOT, u64::MAX] {
                assert!(offset.deadline(at) != 0 && offset.deadline(at) >= offset.time(at));
            }
        }
        assert_eq!(ClockOffset::between(0, 10, BOOT).deadline(u64::MAX), u64::MAX);
        assert_eq!(ClockOffset::between(20, 10, 20), ClockOffset::NONE, "it cannot go backwards");
    }

    proptest::proptest! {
        #[test]
        fn c3_never_early_and_wrong_by_half_a_round_trip_at_most(
            sent in BOOT..2 * BOOT,
            took in 0..2 * SECOND,
            part in 0u64..=1000,
            ahead in -100_000_000_000_000i64..=100_000_000_000_000,
            at in BOOT..2 * BOOT,
        ) {
            let offset = handshake(sent, took, part, ahead);
            let truly = at.checked_add_signed(ahead).expect("after the boot");
            if offset == ClockOffset::NONE {
                assert!(ahead.unsigned_abs() <= took, "clocks that cannot be one are told apart");
            } else {
                assert!(offset.time(at).abs_diff(truly) <= took.div_ceil(2));
                let late = offset.deadline(at).checked_sub(truly).expect("never early");
                assert!(late <= took + 1);
            }
        }

        #[test]
        fn c3_any_numbers_give_a_time(
            [sent, received, server, at] in proptest::array::uniform4(proptest::num::u64::ANY),
        ) {
            let offset = ClockOffset::between(sent, received, server);
            assert_eq!(offset.time(at) == 0, at == 0);
            assert!(offset.deadline(at) >= offset.time(at));
        }
    }

    #[test]
    fn a_past_moment_has_passed() {
        let past = std::time::Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        assert!(Deadline::at(Some(past)).passed(0));
    }
}
