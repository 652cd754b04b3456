//! How far apart the two CPUs are at the moment.
//!
//! Virtual CPUs move. On one and the same machine two of them can share a core now (a round trip of an atomic takes
//! 50 ns), be neighbours a second later (110 ns), and then be on different chips (480 ns). So the distance is probed
//! before and after every trial that pins two CPUs, and only trials at the race's usual distance count.
#![allow(clippy::disallowed_types, reason = "a probe of the machine, not of the library")]

use std::hint::spin_loop;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::thread;
use std::time::{Duration, Instant};

use crate::pin::{Cpus, pin};
use crate::scenario::Placement;
use crate::systems::Outcome;

/// Below this round trip, in nanoseconds, the CPUs are sibling hyperthreads: what is measured on them is worth nothing.
const SIBLINGS_BELOW_NS: f64 = 90.0;

/// Distances within this factor of each other are the same.
const SAME: f64 = 1.5;

/// Round trips of a probe, and of each of its readings: half a millisecond in all.
const TRIPS: u64 = 4096;
const BATCH: u64 = 16;

/// Probes of the survey, and the pauses between them.
const SURVEY: usize = 40;
const PAUSE: Duration = Duration::from_millis(10);

/// Remembers the usual distance.
#[derive(Clone, Debug)]
pub(crate) struct Distance {
    cpus: Cpus,
    usual: f64,
}

impl Distance {
    /// Looks for half a second what distances there are, and settles on the usual one: the lower quartile of those that
    /// are no siblings'. None if the CPUs were siblings all the time.
    pub(crate) fn survey(cpus: &Cpus) -> Outcome<Option<Self>> {
        let mut seen = Vec::new();
        for _ in 0..SURVEY {
            seen.push(probe(cpus)?);
            thread::sleep(PAUSE);
        }
        seen.retain(|&distance| distance >= SIBLINGS_BELOW_NS);
        seen.sort_by(f64::total_cmp);
        Ok(seen.get(seen.len() / 4).map(|&usual| Self { cpus: cpus.clone(), usual }))
    }

    /// The usual round trip in nanoseconds.
    pub(crate) fn usual(&self) -> f64 {
        self.usual
    }

    /// Where the CPUs are now.
    pub(crate) fn now(&self) -> Outcome<Apart> {
        Ok(self.judge(probe(&self.cpus)?))
    }

    fn judge(&self, distance: f64) -> Apart {
        if distance < SIBLINGS_BELOW_NS {
            Apart::Siblings
        } else if distance < self.usual * SAME && distance > self.usual / SAME {
            Apart::Usual
        } else {
            Apart::Unusual
        }
    }

    /// Waits until they are where they usually are, for a limited time. Where they are then.
    pub(crate) fn settle(&self, patience: Duration) -> Outcome<Apart> {
        let deadline = Instant::now() + patience;
        loop {
            let now = self.now()?;
            if now == Apart::Usual || Instant::now() > deadline {
                return Ok(now);
            }
            thread::sleep(PAUSE);
        }
    }
}

/// How far apart two CPUs are, from the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Apart {
    /// As far as they usually are.
    Usual,
    /// Farther, or nearer.
    Unusual,
    /// Two threads of one core: what is measured there is worth nothing.
    Siblings,
}

/// The median round trip of one atomic between the two CPUs, in nanoseconds. The calling thread is pinned to the first.
fn probe(cpus: &Cpus) -> Outcome<f64> {
    let (near, far) = (cpus.of_client(Placement::TwoCpus), cpus.of_server(Placement::TwoCpus));
    let word = AtomicU64::new(0);
    let wait = |wanted| {
        while word.load(Acquire) != wanted {
            spin_loop();
        }
    };
    pin(near)?;
    thread::scope(|scope| {
        scope.spawn(|| {
            // Answers all the same: nobody must wait for ever. On one CPU the probe reads far too slow.
            if let Err(error) = pin(far) {
                eprintln!("race: cannot pin: {error}");
            }
            for trip in 0..TRIPS {
                wait(2 * trip + 1);
                word.store(2 * trip + 2, Release);
            }
        });
        let mut batches = Vec::new();
        for batch in 0..TRIPS / BATCH {
            let begun = Instant::now();
            for trip in batch * BATCH..(batch + 1) * BATCH {
                word.store(2 * trip + 1, Release);
                wait(2 * trip + 2);
            }
            batches.push(begun.elapsed());
        }
        batches.sort_unstable();
        let batch = u32::try_from(BATCH)?;
        Ok(batches[batches.len() / 2].as_secs_f64() * 1e9 / f64::from(batch))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_are_no_cpus_of_their_own() {
        let distance = Distance { cpus: Cpus::allowed().expect("this thread runs somewhere"), usual: 120.0 };
        assert_eq!(distance.judge(110.0), Apart::Usual);
        assert_eq!(distance.judge(200.0), Apart::Unusual);
        assert_eq!(distance.judge(85.0), Apart::Siblings);
    }
}
