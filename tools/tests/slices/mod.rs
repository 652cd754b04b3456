//! Whether something costs speed, told from noise: many short slices, with it and without in turns,
//! and only those in which nobody else used the CPUs.

use ringbell_shm_tests::observe;
use std::time::{Duration, Instant};

/// What others may use of the CPUs in a slice that counts: a twentieth of one. The clock of the
/// machine's time is coarse.
const OTHERS: f64 = 0.05;

/// How much CPU time is used by others than the processes that are measured.
#[derive(Debug)]
pub(crate) struct Others {
    began: Instant,
    all: Duration,
    own: Duration,
}

impl Others {
    /// From now on; `own` is the CPU time of the processes that are measured.
    pub(crate) fn since(own: Duration) -> Self {
        Self { began: Instant::now(), all: observe::busy_time(), own }
    }

    /// Whether they used next to none.
    pub(crate) fn are_quiet(&self, own: Duration) -> bool {
        let all = observe::busy_time().saturating_sub(self.all);
        let others = all.saturating_sub(own.saturating_sub(self.own));
        others.as_secs_f64() <= OTHERS * self.began.elapsed().as_secs_f64().max(0.2)
    }

    /// Waits for such a time.
    pub(crate) fn wait_for_quiet(limit: Duration) {
        let until = Instant::now() + limit;
        while Instant::now() < until {
            let others = Self::since(Duration::ZERO);
            std::thread::sleep(Duration::from_millis(100));
            if others.are_quiet(Duration::ZERO) {
                return;
            }
        }
    }
}

/// Three slices behind each other, the one in the middle with what is measured: their rates.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Triple {
    pub(crate) before: f64,
    pub(crate) with: f64,
    pub(crate) after: f64,
}

/// What many of them say.
#[derive(Debug, Default)]
pub(crate) struct Comparison(Vec<Triple>);

impl Comparison {
    pub(crate) fn add(&mut self, triple: Triple) {
        self.0.push(triple);
    }

    /// Each slice with it, of the mean of its neighbours, in order of size. Where those are slow
    /// somebody has been there before, and the target has not come out of it yet: that is judged
    /// without a look at what is measured.
    pub(crate) fn ratios(&self) -> Vec<f64> {
        self.ratios_where(0.6)
    }

    /// Where the neighbours have at least that share of the best rate.
    fn ratios_where(&self, share: f64) -> Vec<f64> {
        let best = self.0.iter().map(|triple| triple.before.min(triple.after)).fold(0.0, f64::max);
        let sound = self.0.iter().filter(|triple| triple.before.min(triple.after) >= best * share);
        let mut ratios: Vec<f64> =
            sound.map(|triple| triple.with / f64::midpoint(triple.before, triple.after)).collect();
        ratios.sort_by(f64::total_cmp);
        ratios
    }

    /// The median of the ratios, between what it is at least and at most in 95 of 100 such runs.
    /// `None` of too few.
    pub(crate) fn median(&self) -> Option<[f64; 3]> {
        median(&self.ratios())
    }

    /// The same of all slices, the unsound ones too: wider.
    #[allow(dead_code, reason = "the example waits for quiet")]
    pub(crate) fn median_of_all(&self) -> Option<[f64; 3]> {
        median(&self.ratios_where(0.0))
    }

    /// The median rate without it.
    pub(crate) fn alone(&self) -> f64 {
        let mut rates: Vec<f64> =
            self.0.iter().flat_map(|triple| [triple.before, triple.after]).collect();
        rates.sort_by(f64::total_cmp);
        rates.get(rates.len() / 2).copied().unwrap_or(0.0)
    }
}

/// The sign test turned round: it takes no more for granted than that slices are independent.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "few"
)]
fn median(ratios: &[f64]) -> Option<[f64; 3]> {
    let count = ratios.len() as f64;
    // The binomial distribution's 2.5 %, as a normal one.
    let outside = ((count - 1.96 * count.sqrt()) / 2.0).max(0.0) as usize;
    let last = ratios.len().checked_sub(1 + outside)?;
    (count >= 6.0).then(|| [ratios[outside], ratios[ratios.len() / 2], ratios[last]])
}
