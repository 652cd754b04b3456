//! How large a pool is, how long things live in it, and how it tries again.

use super::seam::FOR_EVER;
use std::num::NonZeroUsize;
use std::time::Duration;

/// Settings of a pool. Plain data: change the fields that matter and leave the others as
/// [`Settings::default`] has them. A pool checks them when it is built ([`Settings::check`]).
///
/// In all of them `None` means never, or for ever; so does a time that is too long for the clock.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(
    feature = "config",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct Settings {
    /// Whether items are kept at all. If not, each acquire opens one of its own, on the caller's
    /// thread, which is closed when its guard is dropped; `max_size` still holds. For looking
    /// whether reuse is to blame. Default: yes.
    pub enabled: bool,
    /// How many items are kept ready. As soon as one is taken out its replacement is opened, as
    /// long as there is room. Default 2.
    pub min_idle: usize,
    /// How many items there are at least, those in use included. Default 0.
    pub min_size: usize,
    /// How many items there are at most: those ready, in use, being opened, being checked and being
    /// closed, together. Default 16.
    pub max_size: usize,
    /// How many items are opened side by side at most: for callers that wait, and to have
    /// `min_idle` ready. They count for `max_size`. After a failure one at a time is tried until
    /// one is open. Has no effect where nothing is kept: there `max_size` callers open at once.
    /// Default: the number of CPUs that the process may use.
    pub max_starting: usize,
    /// How long an item may be ready without being used before it is closed, and replaced if fewer
    /// than `min_idle` are left; `None` for ever. Default 30 s.
    #[cfg_attr(feature = "config", serde(with = "crate::pool::time::optional"))]
    pub idle_timeout: Option<Duration>,
    /// How long an item may live, however much it is used. One in use is closed when it comes back.
    /// `None` for ever, which is the default.
    #[cfg_attr(feature = "config", serde(with = "crate::pool::time::optional"))]
    pub max_lifetime: Option<Duration>,
    /// How long an acquire without a deadline of its own waits: `None` waits for ever, zero does
    /// not wait. Default 5 s.
    #[cfg_attr(feature = "config", serde(with = "crate::pool::time::optional"))]
    pub acquire_timeout: Option<Duration>,
    /// How long an item may be ready without being looked at by
    /// [`Manager::check`](super::Manager::check); `None` for ever. Default 10 s.
    #[cfg_attr(feature = "config", serde(with = "crate::pool::time::optional"))]
    pub health_check_interval: Option<Duration>,
    /// When to try again after an item could not be opened.
    pub backoff: Backoff,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            enabled: true,
            min_idle: 2,
            min_size: 0,
            max_size: 16,
            max_starting: std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            idle_timeout: Some(Duration::from_secs(30)),
            max_lifetime: None,
            acquire_timeout: Some(Duration::from_secs(5)),
            health_check_interval: Some(Duration::from_secs(10)),
            backoff: Backoff::default(),
        }
    }
}

/// Pauses between failed attempts: each twice as long as the one before, less a random part of up
/// to a half.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(
    feature = "config",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct Backoff {
    /// After the first failure, at most. Default 5 ms.
    #[cfg_attr(feature = "config", serde(with = "crate::pool::time"))]
    pub first: Duration,
    /// After any failure, at most. Default 1 s.
    #[cfg_attr(feature = "config", serde(with = "crate::pool::time"))]
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(5), longest: Duration::from_secs(1) }
    }
}

impl Backoff {
    /// The pause after `failures` in a row, which are at least one. `random` decides on the part
    /// that is left out.
    pub(super) fn pause(&self, failures: u32, random: u64) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let most = self.first.saturating_mul(1 << doublings).min(self.longest);
        let half = most / 2;
        // The upper 32 bits as a fraction of a half.
        let part = (half.as_nanos() * u128::from(random >> 32)) >> 32;
        most - Duration::from_nanos(u64::try_from(part).unwrap_or(u64::MAX)).min(half)
    }
}

/// Settings of a pool that make no sense.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SettingsError {
    /// `max_size` is 0: nobody would ever get anything.
    MaxSizeZero,
    /// `max_starting` is 0: nothing would ever be opened.
    MaxStartingZero,
    /// More items are to be ready than there may be.
    MinIdleAboveMaxSize {
        /// The setting `min_idle`.
        min_idle: usize,
        /// The setting `max_size`.
        max_size: usize,
    },
    /// There are to be more items than there may be.
    MinSizeAboveMaxSize {
        /// The setting `min_size`.
        min_size: usize,
        /// The setting `max_size`.
        max_size: usize,
    },
    /// A time that must not be 0; its name is given.
    ZeroTime(&'static str),
    /// A time of more than a hundred years; one that ends is meant.
    TooLong {
        /// The setting.
        name: &'static str,
        /// Its value.
        time: Duration,
    },
    /// A setting of the workers; what is wrong with it is given.
    Worker(&'static str),
    /// The first pause is longer than the longest.
    BackoffReversed {
        /// The setting `backoff.first`.
        first: Duration,
        /// The setting `backoff.longest`.
        longest: Duration,
    },
}

impl std::fmt::Display for SettingsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::MaxSizeZero => {
                f.write_str("max_size is 0: a pool has room for one item at least")
            }
            Self::MaxStartingZero => {
                f.write_str("max_starting is 0: a pool opens one item at a time at least")
            }
            Self::MinIdleAboveMaxSize { min_idle, max_size } => {
                write!(f, "min_idle is {min_idle}, more than max_size, which is {max_size}")
            }
            Self::MinSizeAboveMaxSize { min_size, max_size } => {
                write!(f, "min_size is {min_size}, more than max_size, which is {max_size}")
            }
            Self::ZeroTime(name) => write!(f, "{name} is 0"),
            Self::TooLong { name, time } => {
                write!(f, "{name} is {time:?}, more than a hundred years")
            }
            Self::Worker(why) => f.write_str(why),
            Self::BackoffReversed { first, longest } => {
                write!(
                    f,
                    "backoff.first is {first:?}, more than backoff.longest, which is {longest:?}"
                )
            }
        }
    }
}

impl std::error::Error for SettingsError {}

impl Settings {
    /// Whether these settings make sense.
    ///
    /// # Errors
    /// [`SettingsError`] says which one does not.
    pub fn check(&self) -> Result<(), SettingsError> {
        let Self { min_idle, min_size, max_size, .. } = *self;
        if max_size == 0 {
            return Err(SettingsError::MaxSizeZero);
        }
        if self.max_starting == 0 {
            return Err(SettingsError::MaxStartingZero);
        }
        if min_idle > max_size {
            return Err(SettingsError::MinIdleAboveMaxSize { min_idle, max_size });
        }
        if min_size > max_size {
            return Err(SettingsError::MinSizeAboveMaxSize { min_size, max_size });
        }
        let zero = Some(Duration::ZERO);
        for (name, time) in [
            ("idle_timeout", self.idle_timeout),
            ("max_lifetime", self.max_lifetime),
            ("health_check_interval", self.health_check_interval),
            ("backoff.first", Some(self.backoff.first)),
        ] {
            if time == zero {
                return Err(SettingsError::ZeroTime(name));
            }
        }
        let Backoff { first, longest } = self.backoff;
        for (name, time) in [("backoff.first", first), ("backoff.longest", longest)] {
            if time > FOR_EVER {
                return Err(SettingsError::TooLong { name, time });
            }
        }
        if first > longest {
            return Err(SettingsError::BackoffReversed { first, longest });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut Settings)) -> Result<(), SettingsError> {
        let mut settings = Settings::default();
        change(&mut settings);
        settings.check()
    }

    #[test]
    fn the_defaults_make_sense() {
        assert_eq!(Settings::default().check(), Ok(()));
    }

    #[test]
    fn nonsense_is_told() {
        assert_eq!(with(|settings| settings.max_size = 0), Err(SettingsError::MaxSizeZero));
        assert_eq!(
            with(|settings| settings.min_idle = 17),
            Err(SettingsError::MinIdleAboveMaxSize { min_idle: 17, max_size: 16 })
        );
        assert_eq!(
            with(|settings| settings.min_size = 17),
            Err(SettingsError::MinSizeAboveMaxSize { min_size: 17, max_size: 16 })
        );
        let zero = Some(Duration::ZERO);
        assert_eq!(
            with(|settings| settings.idle_timeout = zero),
            Err(SettingsError::ZeroTime("idle_timeout"))
        );
        assert_eq!(
            with(|settings| settings.max_lifetime = zero),
            Err(SettingsError::ZeroTime("max_lifetime"))
        );
        assert_eq!(
            with(|settings| settings.health_check_interval = zero),
            Err(SettingsError::ZeroTime("health_check_interval"))
        );
        assert_eq!(
            with(|settings| settings.backoff.first = Duration::ZERO),
            Err(SettingsError::ZeroTime("backoff.first"))
        );
        assert_eq!(with(|settings| settings.max_starting = 0), Err(SettingsError::MaxStartingZero));
        for (name, change) in [
            ("backoff.first", (|backoff| backoff.first = Duration::MAX) as fn(&mut Backoff)),
            ("backoff.longest", |backoff| backoff.longest = Duration::MAX),
        ] {
            let error = with(|settings| change(&mut settings.backoff)).expect_err("too long");
            assert_eq!(error, SettingsError::TooLong { name, time: Duration::MAX });
            let text = error.to_string();
            assert!(text.starts_with(&format!("{name} is 18446744073709551615")), "{text}");
        }
        assert!(matches!(
            with(|settings| settings.backoff.longest = Duration::from_millis(1)),
            Err(SettingsError::BackoffReversed { .. })
        ));
        assert_eq!(with(|settings| settings.acquire_timeout = zero), Ok(()), "zero does not wait");
    }

    /// Those are as good as for ever.
    #[test]
    fn times_that_are_too_long_for_the_clock_are_no_nonsense() {
        let longest = Some(Duration::MAX);
        let for_ever = with(|settings| {
            settings.idle_timeout = longest;
            settings.max_lifetime = longest;
            settings.acquire_timeout = longest;
            settings.health_check_interval = longest;
        });
        assert_eq!(for_ever, Ok(()));
    }

    #[test]
    fn pauses_double_up_to_a_limit_less_a_half_at_most() {
        let backoff =
            Backoff { first: Duration::from_millis(4), longest: Duration::from_millis(50) };
        for (failures, most) in
            [(1, 4), (2, 8), (3, 16), (4, 32), (5, 50), (6, 50), (1000, 50), (u32::MAX, 50)]
        {
            let most = Duration::from_millis(most);
            assert_eq!(backoff.pause(failures, 0), most);
            for random in [1 << 32, u64::MAX / 3, u64::MAX / 2, u64::MAX] {
                let pause = backoff.pause(failures, random);
                assert!(pause >= most / 2 && pause <= most, "{failures} failures: {pause:?}");
            }
        }
        let far = Backoff { first: Duration::MAX, longest: Duration::MAX };
        assert_eq!(far.pause(7, 0), Duration::MAX);
    }
}
