//! What is measured: times of single operations, and the rows that they become.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::outcome::Outcome;

/// A row of the table. `None` where a figure makes no sense.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) scenario: &'static str,
    pub(super) system: String,
    pub(super) placement: &'static str,
    pub(super) p50_ns: f64,
    pub(super) p99_ns: f64,
    pub(super) per_second: Option<f64>,
    /// How many times the p50 (or the part of the rate) of the row that this one is judged by.
    pub(super) ratio: Option<f64>,
    pub(super) remark: String,
}

/// What was found of one row: p50, p99 and rate of each round.
#[derive(Default)]
pub(super) struct Found(pub(super) Vec<(f64, f64, f64)>);

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of one operation")]
pub(super) fn percentile(sorted: &[u64], percent: usize) -> f64 {
    sorted[(sorted.len() - 1) * percent / 100] as f64
}

#[expect(clippy::cast_precision_loss, reason = "counts of a trial")]
impl Found {
    pub(super) fn add(&mut self, mut times: Vec<u64>, wall: Duration) {
        times.sort_unstable();
        let rate = times.len() as f64 / wall.as_secs_f64();
        self.0.push((percentile(&times, 50), percentile(&times, 99), rate));
    }

    pub(super) fn median(&self, of: impl Fn(&(f64, f64, f64)) -> f64) -> f64 {
        let mut figures: Vec<f64> = self.0.iter().map(of).collect();
        figures.sort_by(f64::total_cmp);
        figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
    }

    pub(super) fn row(&self, scenario: &'static str, system: &str, placement: &'static str) -> Row {
        Row {
            scenario,
            system: system.to_owned(),
            placement,
            p50_ns: self.median(|found| found.0),
            p99_ns: self.median(|found| found.1),
            per_second: Some(self.median(|found| found.2)),
            ratio: None,
            remark: String::new(),
        }
    }
}

pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Times `count` operations one by one.
pub(super) fn time(
    count: u64,
    mut operation: impl FnMut(u64) -> Outcome<()>,
) -> Outcome<(Vec<u64>, Duration)> {
    let mut times = Vec::with_capacity(usize::try_from(count)?);
    let began = Instant::now();
    for number in 0..count {
        let from = Instant::now();
        operation(number)?;
        times.push(nanoseconds(from.elapsed()));
    }
    Ok((times, began.elapsed()))
}

pub(super) fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<13} {:<12} {:<9} {:>11} {:>11} {:>10} {:>8}  {}\n",
        "scenario", "system", "CPUs", "p50 us", "p99 us", "per s", "ratio", "remark"
    );
    let maybe = |figure: Option<f64>, digits: usize| {
        figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.digits$}"))
    };
    for row in rows {
        text += &format!(
            "{:<13} {:<12} {:<9} {:>11.3} {:>11.3} {:>10} {:>8}  {}\n",
            row.scenario,
            row.system,
            row.placement,
            row.p50_ns / 1000.0,
            row.p99_ns / 1000.0,
            maybe(row.per_second, 0),
            maybe(row.ratio, 2),
            row.remark
        );
    }
    text
}
