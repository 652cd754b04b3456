//! Whether this machine can give figures that mean anything: an atomic ping-pong between two CPUs.

#![allow(
    clippy::disallowed_types,
    reason = "one word between two threads, no protocol of Ringbell's"
)]

use crate::role::{cpus, pin_to};
use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Below this two "CPUs" are one core with two hyperthreads.
pub(crate) const SIBLINGS: Duration = Duration::from_nanos(90);

/// Short games, so that most are over before anybody else gets the CPU.
const BALLS: u64 = 1_000;
const GAMES: usize = 40;

/// How long a word takes to another CPU and back; `None` with one CPU. The lower quartile of many
/// games: what other programs disturb is left out, and so is a moment at which the host had both
/// CPUs on one core.
pub(crate) fn ping_pong() -> Option<Duration> {
    let [first, second, ..] = cpus()[..] else { return None };
    // Threads of their own, since pinning stays.
    std::thread::spawn(move || {
        pin_to(first).ok()?;
        let mut games = (0..GAMES).map(|_| play(second)).collect::<Option<Vec<_>>>()?;
        games.sort_unstable();
        games.get(GAMES / 4).copied()
    })
    .join()
    .ok()?
}

fn play(other_cpu: usize) -> Option<Duration> {
    let word = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let pinned = scope.spawn(|| {
            let pinned = pin_to(other_cpu).is_ok();
            for ball in 0..=BALLS {
                while word.load(Ordering::Relaxed) != 2 * ball + 1 {
                    spin_loop();
                }
                word.store(2 * ball + 2, Ordering::Relaxed);
            }
            pinned
        });
        let mut from = Instant::now();
        for ball in 0..=BALLS {
            word.store(2 * ball + 1, Ordering::Relaxed);
            while word.load(Ordering::Relaxed) != 2 * ball + 2 {
                spin_loop();
            }
            if ball == 0 {
                // The other thread is there now.
                from = Instant::now();
            }
        }
        let took = from.elapsed();
        pinned.join().ok()?.then(|| {
            Duration::from_nanos(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX) / BALLS)
        })
    })
}
