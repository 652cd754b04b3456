//! Waiting for conditions.

use std::time::{Duration, Instant};

/// Uses the CPU for so long: shorter than any sleep can be.
pub fn busy_for(time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}

/// Waits until `condition` holds, at most `limit`; whether it came to hold.
///
/// Looks every millisecond: for conditions in other processes, which do not announce them.
pub fn becomes_true(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until `condition` holds.
///
/// # Panics
/// After 30 s, with `what`.
#[track_caller]
pub fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    assert!(becomes_true(Duration::from_secs(30), condition), "waited 30 s in vain until {what}");
}
