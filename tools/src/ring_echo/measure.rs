//! What the clients' reports come to: rounds, and medians over them.

use crate::cli::Transport;
use crate::load::{Report, histogram};
use hdrhistogram::Histogram;
use serde::Serialize;

/// What was measured; in JSON as it stands here.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Measurement {
    pub(crate) transport: Transport,
    pub(crate) size: usize,
    pub(crate) clients: u32,
    pub(crate) requests: u64,
    pub(crate) verified: u64,
    pub(crate) p50_ns: u64,
    pub(crate) p90_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) p999_ns: u64,
    pub(crate) max_ns: u64,
    pub(crate) per_second: f64,
    pub(crate) cpu_ns_per_request: f64,
    pub(crate) syscalls_per_request: Option<f64>,
    /// All rounds together, to be drawn.
    #[serde(skip)]
    pub(crate) latencies: Histogram<u64>,
}

/// Of what.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) transport: Transport,
    pub(crate) size: usize,
    pub(crate) clients: u32,
}

/// One round: all clients at once.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) requests: u64,
    verified: u64,
    max_ns: u64,
    per_second: f64,
    cpu_ns: u64,
    latencies: Histogram<u64>,
}

impl Round {
    /// From the clients' reports and the server's CPU time.
    pub(crate) fn new(reports: Vec<Report>, server_cpu_ns: u64) -> Self {
        let requests = reports.iter().map(|report| report.requests).sum();
        let started = reports.iter().map(|report| report.started_ns).min().unwrap_or(0);
        let ended = reports.iter().map(|report| report.ended_ns).max().unwrap_or(0);
        let mut latencies = histogram();
        for (ns, count) in reports.iter().flat_map(|report| &report.latencies) {
            latencies.saturating_record_n(*ns, *count);
        }
        Self {
            requests,
            verified: reports.iter().map(|report| report.verified).sum(),
            max_ns: reports.iter().map(|report| report.max_ns).max().unwrap_or(0),
            per_second: requests as f64 * 1e9 / ended.saturating_sub(started).max(1) as f64,
            cpu_ns: server_cpu_ns + reports.iter().map(|report| report.cpu_ns).sum::<u64>(),
            latencies,
        }
    }

    /// A bucket's upper end may lie beyond the largest value in it.
    fn quantile(&self, quantile: f64) -> u64 {
        self.latencies.value_at_quantile(quantile).min(self.max_ns)
    }
}

/// Medians over the rounds; sums and the maximum over all of them.
pub(crate) fn combine(
    setting: &Setting,
    rounds: &[Round],
    syscalls_per_request: Option<f64>,
) -> Measurement {
    let quantile = |quantile| median(rounds.iter().map(|round| round.quantile(quantile)));
    let mut latencies = histogram();
    for round in rounds {
        latencies.add(&round.latencies).expect("the bounds are the same");
    }
    Measurement {
        transport: setting.transport,
        size: setting.size,
        clients: setting.clients,
        requests: rounds.iter().map(|round| round.requests).sum(),
        verified: rounds.iter().map(|round| round.verified).sum(),
        p50_ns: quantile(0.5),
        p90_ns: quantile(0.9),
        p99_ns: quantile(0.99),
        p999_ns: quantile(0.999),
        max_ns: rounds.iter().map(|round| round.max_ns).max().unwrap_or(0),
        per_second: median(rounds.iter().map(|round| round.per_second)),
        cpu_ns_per_request: median(
            rounds.iter().map(|round| round.cpu_ns as f64 / round.requests.max(1) as f64),
        ),
        syscalls_per_request,
        latencies,
    }
}

/// The middle one, or the lower of the two in the middle: a value that was measured.
fn median<T: PartialOrd + Copy + Default>(values: impl Iterator<Item = T>) -> T {
    let mut values: Vec<T> = values.collect();
    values.sort_by(|a, b| a.partial_cmp(b).expect("no NaN is measured"));
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(ns: u64, requests: u64) -> Round {
        let report = Report {
            requests,
            verified: requests,
            started_ns: 1_000,
            ended_ns: 1_001_000,
            cpu_ns: 10 * requests,
            max_ns: ns,
            latencies: vec![(ns, requests)],
        };
        Round::new(vec![report], 5 * requests)
    }

    #[test]
    fn medians_sums_and_the_worst() {
        let setting = Setting { transport: Transport::Uds, size: 1, clients: 1 };
        let combined =
            combine(&setting, &[round(10, 100), round(1_000_003, 100), round(20, 50)], Some(0.5));
        assert_eq!((combined.requests, combined.verified), (250, 250));
        assert_eq!((combined.p50_ns, combined.p999_ns, combined.max_ns), (20, 20, 1_000_003));
        assert!((combined.per_second - 100_000.0).abs() < 1e-6, "{}", combined.per_second);
        assert!((combined.cpu_ns_per_request - 15.0).abs() < 1e-9);
        assert_eq!(combined.latencies.len(), 250);
    }

    #[test]
    fn the_median_is_a_value_that_was_measured() {
        assert_eq!(median([3, 1, 2].into_iter()), 2);
        assert_eq!(median([4, 1, 3, 2].into_iter()), 2);
        assert_eq!(median(std::iter::empty::<u64>()), 0);
    }
}
