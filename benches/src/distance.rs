//! How far apart the two CPUs are at the moment.
//!
//! Virtual CPUs move. On one and the same machine two of them can share a core now (a round trip of
//! an atomic takes 50 ns), be neighbours a second later (110 ns), and then be on different chips
//! (480 ns). So the distance is probed before and after every trial that pins two CPUs, and only
//! trials at the race's usual distance count.
#![allow(clippy::disallowed_types, reason = "a probe of the machine, not of the library")]

use std::hint::spin_loop;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;
use std::time::{Duration, Instant};

use crate::outcome::Outcome;
use crate::pin::{Cpus, pin};
use crate::scenario::Placement;

/// Below this round trip, in nanoseconds, the CPUs are taken to be sibling hyperthreads: what is
/// measured on them is worth nothing. Fast cores next to each other can be as near, so a race that
/// sees nothing else [asks](share).
const SIBLINGS_BELOW_NS: f64 = 90.0;

/// Siblings share the units of a core: of its speed alone a loop that computes keeps less than this
/// beside another one.
const SIBLINGS_KEEP: f64 = 0.7;

/// Neighbours that were found to be none are siblings below this part of their usual round trip.
const NEARER: f64 = 0.7;

/// Pairs of measurements, and how long each is.
const SHARES: usize = 7;
const COMPUTE: Duration = Duration::from_millis(15);

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
    siblings_below: f64,
    /// What part of its speed a loop on one keeps beside a loop on the other, if that had to be
    /// asked.
    kept: Option<f64>,
}

impl Distance {
    /// Looks for half a second what distances there are, and settles on the usual one: the lower
    /// quartile of those that are no siblings'. None if the CPUs were siblings all the time.
    pub(crate) fn survey(cpus: &Cpus) -> Outcome<Option<Self>> {
        let mut seen = Vec::new();
        for _ in 0..SURVEY {
            seen.push(probe(cpus)?);
            thread::sleep(PAUSE);
        }
        seen.sort_by(f64::total_cmp);
        let median = seen[SURVEY / 2];
        let mut siblings_below = SIBLINGS_BELOW_NS;
        let kept = if median < SIBLINGS_BELOW_NS { Some(share(cpus)?) } else { None };
        if kept.is_some_and(|kept| kept >= SIBLINGS_KEEP) {
            siblings_below = median * NEARER;
        }
        seen.retain(|&distance| distance >= siblings_below);
        Ok(seen.get(seen.len() / 4).map(|&usual| Self {
            cpus: cpus.clone(),
            usual,
            siblings_below,
            kept,
        }))
    }

    /// The usual round trip in nanoseconds.
    pub(crate) fn usual(&self) -> f64 {
        self.usual
    }

    /// What a reader has to know of it.
    pub(crate) fn remark(&self) -> String {
        let apart = format!("two-CPU rows: an atomic goes there and back in {:.0} ns", self.usual);
        match self.kept {
            None => apart,
            Some(kept) => format!(
                "{apart}, which is near, but no siblings': a loop that computes keeps {:.0} % of its speed beside another",
                100.0 * kept
            ),
        }
    }

    /// Where the CPUs are now.
    pub(crate) fn now(&self) -> Outcome<Apart> {
        Ok(self.judge(probe(&self.cpus)?))
    }

    fn judge(&self, distance: f64) -> Apart {
        if distance < self.siblings_below {
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

/// The median round trip of one atomic between the two CPUs, in nanoseconds. The calling thread is
/// pinned to the first.
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
            // Answers all the same: nobody must wait for ever. On one CPU the probe reads far too
            // slow.
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

/// What part of its speed alone a loop that computes keeps on the first CPU beside one on the
/// second: the median of a few pairs.
fn share(cpus: &Cpus) -> Outcome<f64> {
    let (near, far) = (cpus.of_client(Placement::TwoCpus), cpus.of_server(Placement::TwoCpus));
    pin(near)?;
    let mut shares = Vec::new();
    for _ in 0..SHARES {
        let alone = compute(&AtomicBool::new(false));
        let over = AtomicBool::new(false);
        let beside = thread::scope(|scope| {
            scope.spawn(|| {
                if let Err(error) = pin(far) {
                    eprintln!("race: cannot pin: {error}");
                }
                while !over.load(Acquire) {
                    compute(&over);
                }
            });
            let beside = compute(&AtomicBool::new(false));
            over.store(true, Release);
            beside
        });
        shares.push(beside / alone);
    }
    shares.sort_by(f64::total_cmp);
    Ok(shares[SHARES / 2])
}

/// Keeps several units of a core busy; rounds in the time.
fn compute(over: &AtomicBool) -> f64 {
    let begun = Instant::now();
    let mut words = [1_u64, 2, 3, 4];
    let mut rounds = 0.0;
    while begun.elapsed() < COMPUTE && !over.load(Acquire) {
        for _ in 0..4096 {
            let [a, b, c, d] = words;
            let a = a.wrapping_mul(31).wrapping_add(7);
            let b = b.rotate_left(5) ^ a;
            let c = c.wrapping_add(b) ^ (c >> 3);
            words = [a, b, c, d.wrapping_mul(17) ^ c];
        }
        rounds += 1.0;
    }
    std::hint::black_box(words);
    rounds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_are_no_cpus_of_their_own() {
        let distance = Distance {
            cpus: Cpus::allowed().expect("this thread runs somewhere"),
            usual: 120.0,
            siblings_below: 90.0,
            kept: None,
        };
        assert_eq!(distance.judge(110.0), Apart::Usual);
        assert_eq!(distance.judge(200.0), Apart::Unusual);
        assert_eq!(distance.judge(85.0), Apart::Siblings);
    }
}
