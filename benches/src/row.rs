//! A row of the table: what one contender did in one case.

use serde::Serialize;

use crate::entries::Entry;
use crate::measure::QUANTILES;
use crate::scenario::{Case, Placement, Scenario};
use crate::syscalls::Calls;
use crate::trial::Findings;

/// One row, as in the JSON file, where a figure that was not measured (NaN here) is null. Each
/// figure is the median over the rounds, except where it says otherwise. With several clients, a
/// percentile is the one of the client that did worst.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// What was done.
    pub(crate) scenario: Scenario,
    /// Who did it.
    pub(crate) system: &'static str,
    /// Bytes of a payload.
    pub(crate) size: usize,
    /// Calls that a client kept in flight.
    pub(crate) in_flight: u32,
    /// Client processes.
    pub(crate) clients: u32,
    /// Which CPUs.
    pub(crate) placement: Placement,
    /// Percentiles of one operation: see `measure` for how they are timed.
    pub(crate) p50_ns: f64,
    pub(crate) p90_ns: f64,
    pub(crate) p99_ns: f64,
    pub(crate) p999_ns: f64,
    /// The worst operation of all rounds.
    pub(crate) max_ns: f64,
    /// Operations a second, of all clients together.
    pub(crate) per_second: f64,
    /// CPU time of all processes for each operation.
    pub(crate) cpu_ns_per_op: f64,
    /// System calls of all processes for each operation, from a run of its own; none where nothing
    /// can count them.
    pub(crate) syscalls_per_op: Option<f64>,
    /// How many rounds counted.
    pub(crate) rounds: usize,
    /// The smallest p50 of any round.
    pub(crate) min: f64,
    /// The largest p50 of any round.
    pub(crate) max: f64,
    /// How many times the limit this is; the limit is the best of those that bound the case. By
    /// p50, and by rate in pipelined and stream cases. None where nothing bounds the case, or no
    /// such limit was measured.
    pub(crate) ratio_to_limit: Option<f64>,
    /// The system beside which this one is judged in this scenario; see `Case::yardstick`.
    pub(crate) yardstick: Option<&'static str>,
    /// How good this row is as that of its yardstick, in percent: by rate, or by p50 with one call
    /// at a time. None for the yardstick itself, and if that was not measured.
    pub(crate) percent_of_yardstick: Option<f64>,
    /// One operation at each of `measure::QUANTILES`.
    pub(crate) quantiles_ns: Vec<f64>,
    /// Wake calls for each sleep, of both sides in all rounds; sleeps that were called off at the
    /// second look cost a wake too if it was under way already, and are not counted. None for
    /// systems that cannot tell, and if nobody slept.
    pub(crate) wakes_per_sleep: Option<f64>,
    /// Sleeps that only a timer ended although something had come.
    pub(crate) lost_wakes: Option<u64>,
    /// Sleeps of the program's event loop that a timer ended, or nothing, in all rounds; none where
    /// it is not asked.
    pub(crate) timer_wakes: Option<u64>,
    /// Of the system calls those on futexes and sockets; none where they cannot be told apart.
    pub(crate) wake_calls_per_op: Option<f64>,
    /// Whether the row is judged by its rate and not by its p50.
    pub(crate) by_rate: bool,
    /// Why there are no figures, if there are none.
    pub(crate) error: Option<String>,
}

impl Row {
    /// The row of an entry that could not be measured.
    pub(crate) fn missing(entry: &Entry, reason: String) -> Self {
        Self { error: Some(reason), ..Self::empty(entry) }
    }

    /// A row without figures.
    fn empty(entry: &Entry) -> Self {
        let Case { scenario, size, in_flight, clients, placement } = entry.case;
        Self {
            scenario,
            system: entry.contender.name(),
            size,
            in_flight,
            clients,
            placement,
            p50_ns: f64::NAN,
            p90_ns: f64::NAN,
            p99_ns: f64::NAN,
            p999_ns: f64::NAN,
            max_ns: f64::NAN,
            per_second: f64::NAN,
            cpu_ns_per_op: f64::NAN,
            syscalls_per_op: None,
            rounds: 0,
            min: f64::NAN,
            max: f64::NAN,
            ratio_to_limit: None,
            yardstick: None,
            percent_of_yardstick: None,
            quantiles_ns: Vec::new(),
            wakes_per_sleep: None,
            lost_wakes: None,
            timer_wakes: None,
            wake_calls_per_op: None,
            by_rate: entry.case.is_throughput(),
            error: None,
        }
    }

    /// The row of an entry, of which at least one round counted.
    pub(crate) fn new(entry: &Entry, rounds: &[Findings], calls: Option<Calls<f64>>) -> Self {
        let counts = Sleeps::of(rounds);
        let timers: Option<Vec<u64>> = rounds.iter().map(|round| round.server?.by_timer).collect();
        let rounds: Vec<Round> = rounds.iter().map(Round::new).collect();
        let of = |figure: fn(&Round) -> f64| rounds.iter().map(figure).collect::<Vec<_>>();
        let typical = |figure| tenths(median(of(figure)));
        let curve = (0..QUANTILES.len())
            .map(|place| tenths(median(rounds.iter().map(|round| round.curve[place]).collect())));
        Self {
            p50_ns: typical(|round| round.p50),
            p90_ns: typical(|round| round.p90),
            p99_ns: typical(|round| round.p99),
            p999_ns: typical(|round| round.p999),
            max_ns: largest(of(|round| round.max)),
            per_second: typical(|round| round.per_second).round(),
            cpu_ns_per_op: typical(|round| round.cpu),
            syscalls_per_op: calls.as_ref().map(|calls| thousandths(calls.all)),
            wake_calls_per_op: calls.and_then(|calls| calls.wakes).map(thousandths),
            rounds: rounds.len(),
            min: tenths(of(|round| round.p50).into_iter().fold(f64::INFINITY, f64::min)),
            max: tenths(largest(of(|round| round.p50))),
            quantiles_ns: curve.collect(),
            wakes_per_sleep: counts.as_ref().and_then(Sleeps::wakes_per_sleep),
            lost_wakes: counts.map(|counts| counts.rescues),
            timer_wakes: timers.map(|timers| timers.iter().sum()),
            ..Self::empty(entry)
        }
    }

    /// The case that this row is of.
    fn case(&self) -> Case {
        let Self { scenario, size, in_flight, clients, placement, .. } = *self;
        Case { scenario, size, in_flight, clients, placement }
    }

    /// What the row is judged by: nanoseconds for each operation.
    fn verdict(&self) -> f64 {
        if self.case().is_throughput() { 1e9 / self.per_second } else { self.p50_ns }
    }
}

/// Fills in how each row relates to its limit and to its yardstick.
pub(crate) fn relate(rows: &mut [Row]) {
    let all: Vec<Row> = rows.iter().filter(|row| row.error.is_none()).cloned().collect();
    for row in rows.iter_mut().filter(|row| row.error.is_none()) {
        let Some((system, case)) = row.case().yardstick(row.system) else { continue };
        if (system, case) == (row.system, row.case()) {
            continue;
        }
        row.yardstick = Some(system);
        let yardstick = all.iter().find(|other| (other.system, other.case()) == (system, case));
        row.percent_of_yardstick =
            yardstick.map(|yardstick| tenths(yardstick.verdict() / row.verdict() * 100.0));
    }
    let limits: Vec<Row> = rows
        .iter()
        .filter(|row| row.system.starts_with("limit-") && row.error.is_none())
        .cloned()
        .collect();
    for row in rows.iter_mut().filter(|row| row.error.is_none()) {
        let Some(bound) = row.case().bound() else { continue };
        let bounds = limits.iter().filter(|limit| bound.covers(&limit.case())).map(Row::verdict);
        row.ratio_to_limit =
            bounds.reduce(f64::min).map(|best| (row.verdict() / best * 100.0).round() / 100.0);
    }
}

/// How both sides slept, in all rounds.
#[derive(Debug, Default)]
struct Sleeps {
    parks: u64,
    called_off: u64,
    wakes: u64,
    rescues: u64,
}

impl Sleeps {
    /// None if a side cannot tell.
    fn of(rounds: &[Findings]) -> Option<Self> {
        let mut sum = Self::default();
        for round in rounds {
            let clients = round.clients.iter().map(|client| client.counts);
            for counts in clients.chain([round.server]) {
                let counts = counts?;
                sum.parks += counts.parks;
                sum.called_off += counts.called_off;
                sum.wakes += counts.wakes;
                sum.rescues += counts.rescues;
            }
        }
        Some(sum)
    }

    fn wakes_per_sleep(&self) -> Option<f64> {
        // A wake that found its sleeper already on the way back belongs to a sleep that was called
        // off.
        let wakes = if self.wakes > self.parks {
            self.wakes.saturating_sub(self.called_off).max(self.parks)
        } else {
            self.wakes
        };
        #[expect(clippy::cast_precision_loss, reason = "counts of a trial are far below 2^52")]
        let ratio = wakes as f64 / self.parks as f64;
        (self.parks > 0).then_some((ratio * 1000.0).round() / 1000.0)
    }
}

/// One round's figures, over all clients.
struct Round {
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
    per_second: f64,
    cpu: f64,
    /// Of the client that did worst at each point.
    curve: Vec<f64>,
}

impl Round {
    fn new(findings: &Findings) -> Self {
        let clients = &findings.clients;
        let worst = |figure: fn(&crate::measure::Figures) -> f64| {
            largest(clients.iter().map(figure).collect())
        };
        #[expect(clippy::cast_precision_loss, reason = "counts of a trial are far below 2^52")]
        let count = |operations: u64| operations as f64;
        let operations: f64 = clients.iter().map(|client| count(client.operations)).sum();
        let client_cpu: f64 = clients.iter().map(|client| client.client_cpu).sum();
        // Every client has watched the same server for about the same time.
        let server_cpu = clients.iter().map(|client| client.server_cpu).sum::<f64>()
            / count(clients.len() as u64);
        Self {
            p50: worst(|client| client.p50),
            p90: worst(|client| client.p90),
            p99: worst(|client| client.p99),
            p999: worst(|client| client.p999),
            max: worst(|client| client.max),
            per_second: clients
                .iter()
                .map(|client| count(client.operations) / client.wall * 1e9)
                .sum(),
            cpu: (client_cpu + server_cpu) / operations,
            curve: (0..QUANTILES.len())
                .map(|place| largest(clients.iter().map(|client| client.curve[place]).collect()))
                .collect(),
        }
    }
}

/// The middle figure; the mean of the middle two. `figures` is not empty.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    if figures.len().is_multiple_of(2) {
        f64::midpoint(figures[middle - 1], figures[middle])
    } else {
        figures[middle]
    }
}

fn largest(figures: Vec<f64>) -> f64 {
    figures.into_iter().fold(0.0, f64::max)
}

/// Rounded to thousandths.
fn thousandths(figure: f64) -> f64 {
    (figure * 1000.0).round() / 1000.0
}

/// Rounded to tenths: more would only look exact.
fn tenths(figure: f64) -> f64 {
    (figure * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(
        system: &'static str,
        scenario: Scenario,
        size: usize,
        p50_ns: f64,
        per_second: f64,
    ) -> Row {
        Row {
            scenario,
            system,
            size,
            in_flight: 1,
            clients: 1,
            placement: Placement::TwoCpus,
            p50_ns,
            p90_ns: 0.0,
            p99_ns: 0.0,
            p999_ns: 0.0,
            max_ns: 0.0,
            per_second,
            cpu_ns_per_op: 0.0,
            syscalls_per_op: None,
            rounds: 1,
            min: p50_ns,
            max: p50_ns,
            ratio_to_limit: None,
            yardstick: None,
            percent_of_yardstick: None,
            quantiles_ns: Vec::new(),
            wakes_per_sleep: None,
            lost_wakes: None,
            timer_wakes: None,
            wake_calls_per_op: None,
            by_rate: false,
            error: None,
        }
    }

    #[test]
    fn medians() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
    }

    #[test]
    fn a_row_is_related_to_the_best_limit_of_its_size() {
        let mut rows = [
            row("limit-a", Scenario::Echo, 64, 400.0, 0.0),
            row("limit-b", Scenario::Echo, 64, 300.0, 0.0),
            row("limit-c", Scenario::Echo, 48, 200.0, 0.0),
            row("x", Scenario::Echo, 64, 600.0, 0.0),
            row("x", Scenario::Clients, 64, 600.0, 0.0),
        ];
        relate(&mut rows);
        let ratios: Vec<Option<f64>> = rows.iter().map(|row| row.ratio_to_limit).collect();
        assert_eq!(ratios, [Some(1.33), Some(1.0), Some(1.0), Some(2.0), None]);
    }

    #[test]
    fn pipelines_are_judged_by_rate() {
        let mut rows = [
            row("limit-stream", Scenario::Stream, 64, 5.0, 200e6),
            row("x", Scenario::Pipelined, 64, 9000.0, 20e6),
        ];
        relate(&mut rows);
        assert_eq!(rows[1].ratio_to_limit, Some(10.0));
    }

    #[test]
    fn services_are_judged_beside_their_yardstick() {
        let mut rows = [
            row("in-process", Scenario::ServiceDepth, 64, 100.0, 10_000.0),
            row("x", Scenario::ServiceDepth, 64, 100.0, 9000.0),
            row("ringbell", Scenario::ServiceEmpty, 64, 300.0, 1.0),
            row("x", Scenario::ServiceEmpty, 64, 400.0, 1.0),
            row("x", Scenario::SlowClient, 64, 400.0, 50.0),
            row("x", Scenario::SlowClient, 64, 400.0, 40.0),
        ];
        rows[4].clients = 7;
        rows[5].clients = 8;
        relate(&mut rows);
        let percents: Vec<Option<f64>> = rows.iter().map(|row| row.percent_of_yardstick).collect();
        assert_eq!(percents, [None, Some(90.0), None, Some(75.0), None, Some(80.0)]);
    }

    #[test]
    fn a_row_has_exactly_the_agreed_fields() {
        let json =
            serde_json::to_value(row("x", Scenario::Echo, 64, 1.0, 1.0)).expect("serializes");
        let mut fields: Vec<&str> =
            json.as_object().expect("an object").keys().map(String::as_str).collect();
        fields.sort_unstable();
        let agreed = "by_rate clients cpu_ns_per_op error in_flight lost_wakes max max_ns min p50_ns p90_ns p999_ns p99_ns per_second \
                      percent_of_yardstick placement quantiles_ns ratio_to_limit rounds scenario size syscalls_per_op system \
                      timer_wakes wake_calls_per_op wakes_per_sleep yardstick";
        assert_eq!(fields, agreed.split_whitespace().collect::<Vec<_>>());
    }
}
