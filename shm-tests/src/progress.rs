//! Whether the test makes progress, and for how long this machine kept it from running.

use crate::locks::lock;
use ringbell::sync::{Ordering, PlainU64};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// When there was progress last, in ms since the start; `u64::MAX` while no test runs.
static PROGRESS: PlainU64 = PlainU64::new(u64::MAX);

#[allow(clippy::cast_possible_truncation, reason = "milliseconds of one run")]
fn now() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u64
}

/// Tells the watchdog that the test makes progress.
pub fn tick() {
    PROGRESS.store(now(), Ordering::Relaxed);
}

/// Tells the watchdog that no test runs.
pub(crate) fn rest() {
    PROGRESS.store(u64::MAX, Ordering::Relaxed);
}

/// For how long the test that runs has made no progress; `None` if no test runs.
pub(crate) fn stuck_for() -> Option<Duration> {
    match PROGRESS.load(Ordering::Relaxed) {
        u64::MAX => None,
        progress => Some(Duration::from_millis(now().saturating_sub(progress))),
    }
}

/// For how long the canary did not run although it wanted to, and since when it sleeps.
static CANARY: Mutex<(Duration, Option<Instant>)> = Mutex::new((Duration::ZERO, None));

/// How long the canary sleeps.
const NAP: Duration = Duration::from_millis(5);

/// By how much a nap that began then is too long; what is usual does not count.
fn overslept(began: Instant) -> Duration {
    let over = began.elapsed().saturating_sub(NAP);
    if over > Duration::from_millis(2) { over } else { Duration::ZERO }
}

/// One nap of the canary of [`stalled`]; by how much it was too long.
pub(crate) fn nap() -> Duration {
    let began = Instant::now();
    lock(&CANARY).1 = Some(began);
    std::thread::sleep(NAP);
    // Under the lock, so that what `stalled` said of this nap is not taken back.
    let mut canary = lock(&CANARY);
    let over = overslept(began);
    canary.0 += over;
    canary.1 = None;
    over
}

/// For how long this machine has kept a thread that does nothing else from running, since the
/// program started. That part of a delay is not the library's fault.
#[must_use]
pub fn stalled() -> Duration {
    let canary = lock(&CANARY);
    // If the canary has not yet woken up after the last stop, this is the first to know.
    canary.0 + canary.1.map_or(Duration::ZERO, overslept)
}

/// Measures how long something takes.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch {
    began: Instant,
    stalled: Duration,
}

impl Stopwatch {
    /// From now on.
    #[must_use]
    pub fn start() -> Self {
        Self { stalled: stalled(), began: Instant::now() }
    }

    /// By the clock.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Without what the machine stood still ([`stalled`]): for upper limits.
    #[must_use]
    pub fn awake(&self) -> Duration {
        let elapsed = self.elapsed();
        elapsed.saturating_sub(stalled().saturating_sub(self.stalled))
    }
}
