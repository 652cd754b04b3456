//! What a pool counts.

use std::time::Duration;

/// What a pool counted so far, and what is in it now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Items that are ready.
    pub idle: usize,
    /// Items that are held by guards.
    pub in_use: usize,
    /// Items that are being opened.
    pub opening: usize,
    /// Ready items that are being looked at.
    pub checking: usize,
    /// Items that are being closed, or are about to be.
    pub closing: usize,
    /// Callers that wait.
    pub waiting: usize,
    /// Most items that there were at once, all of the above together. Never more than `max_size`.
    pub peak: usize,
    /// Most items that were being opened at once. Never more than `max_starting`, unless callers
    /// open their own (`enabled: false`).
    pub peak_opening: usize,
    /// Items that were opened.
    pub opened: u64,
    /// Attempts to open one that failed.
    pub open_failures: u64,
    /// Items that were closed, by reason.
    pub closed: ClosedCounts,
    /// Items that were handed out.
    pub acquired: u64,
    /// Callers that had to wait: those that got something, and those that did not.
    pub waits: u64,
    /// Callers that got nothing in time.
    pub timeouts: u64,
    /// Callers that gave up before that.
    pub cancelled: u64,
    /// How long those waited that got something.
    pub wait_times: WaitTimes,
}

/// Why an item was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// It was not used for `idle_timeout`.
    Idle,
    /// It was as old as `max_lifetime` allows.
    Lifetime,
    /// [`Manager::check`](super::Manager::check) or [`Manager::is_ready`](super::Manager::is_ready)
    /// refused it.
    Unhealthy,
    /// Its guard was poisoned, by word, by a panic, or since it was not between requests.
    Poisoned,
    /// What it leads to has been started anew.
    Stale,
    /// The pool keeps nothing (`enabled: false`), or it was used as often as it may be
    /// ([`Manager::is_used_up`](super::Manager::is_used_up)).
    Used,
    /// The pool was closed.
    Shutdown,
}

macro_rules! counts {
    ($($(#[$doc:meta])* $field:ident = $reason:ident,)*) => {
        /// How many items were closed for each [`CloseReason`].
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct ClosedCounts { $($(#[$doc])* pub $field: u64,)* }

        impl ClosedCounts {
            /// All of them.
            pub fn total(&self) -> u64 {
                0 $(+ self.$field)*
            }

            pub(super) fn count(&mut self, reason: CloseReason) {
                match reason { $(CloseReason::$reason => self.$field += 1,)* }
            }
        }
    };
}

counts! {
    /// [`CloseReason::Idle`].
    idle = Idle,
    /// [`CloseReason::Lifetime`].
    lifetime = Lifetime,
    /// [`CloseReason::Unhealthy`].
    unhealthy = Unhealthy,
    /// [`CloseReason::Poisoned`].
    poisoned = Poisoned,
    /// [`CloseReason::Stale`].
    stale = Stale,
    /// [`CloseReason::Used`].
    used = Used,
    /// [`CloseReason::Shutdown`].
    shutdown = Shutdown,
}

/// Buckets of a [`WaitTimes`]: from 1 us to over half an hour, each twice as wide as the one
/// before.
const BUCKETS: usize = 32;

/// A histogram of waits: by powers of two, so a percentile is exact to a factor of two.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WaitTimes {
    /// Bucket `i` has the waits of less than 2^i us that no bucket before has; the last one all
    /// others.
    buckets: [u64; BUCKETS],
    longest: Duration,
}

impl WaitTimes {
    pub(super) fn record(&mut self, wait: Duration) {
        let micros = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        self.buckets[bucket.min(BUCKETS - 1)] += 1;
        self.longest = self.longest.max(wait);
    }

    /// How many waits there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The longest of them.
    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// The time within which `percent` of the waits were over, rounded up to a power of two in
    /// microseconds or to the longest wait; zero if there was none.
    pub fn percentile(&self, percent: f64) -> Duration {
        let count = self.count();
        if count == 0 {
            return Duration::ZERO;
        }
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "clamped to what there is"
        )]
        let rank =
            ((percent.clamp(0.0, 100.0) / 100.0 * count as f64).ceil() as u64).clamp(1, count);
        let mut seen = 0;
        for (upper, waits) in self.iter() {
            seen += waits;
            if seen >= rank {
                return upper.map_or(self.longest, |upper| upper.min(self.longest));
            }
        }
        self.longest
    }

    /// Each bucket: what its waits are shorter than (`None` for the last, which has no bound), and
    /// how many they are.
    pub fn iter(&self) -> impl Iterator<Item = (Option<Duration>, u64)> + '_ {
        self.buckets.iter().enumerate().map(|(index, &waits)| {
            let upper = (index + 1 < BUCKETS).then(|| Duration::from_micros(1 << index));
            (upper, waits)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_fall_into_their_buckets() {
        let mut times = WaitTimes::default();
        assert_eq!((times.count(), times.percentile(50.0)), (0, Duration::ZERO));
        for _ in 0..99 {
            times.record(Duration::from_micros(3));
        }
        times.record(Duration::from_millis(10));
        assert_eq!(times.count(), 100);
        assert_eq!(times.percentile(50.0), Duration::from_micros(4));
        assert_eq!(times.percentile(99.0), Duration::from_micros(4));
        assert_eq!(times.percentile(99.5), Duration::from_millis(10), "no longer than the longest");
        assert_eq!(times.percentile(100.0), times.longest());
    }

    #[test]
    fn the_shortest_and_the_longest_waits_have_a_bucket() {
        let mut times = WaitTimes::default();
        times.record(Duration::ZERO);
        times.record(Duration::MAX);
        assert_eq!(times.count(), 2);
        assert_eq!(times.percentile(1.0), Duration::from_micros(1));
        assert_eq!(times.percentile(100.0), Duration::MAX);
        let counted: Vec<_> = times.iter().filter(|(_, waits)| *waits > 0).collect();
        assert_eq!(counted, [(Some(Duration::from_micros(1)), 1), (None, 1)]);
    }

    #[test]
    fn reasons_are_counted_apart() {
        let mut counts = ClosedCounts::default();
        counts.count(CloseReason::Idle);
        counts.count(CloseReason::Stale);
        counts.count(CloseReason::Stale);
        assert_eq!((counts.idle, counts.stale, counts.total()), (1, 2, 3));
    }
}
