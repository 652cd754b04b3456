//! All trials, several times, in an order that is random anew in every round: so that a slow minute
//! of the machine falls on everybody.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::contender::Contender;
use crate::distance::{Apart, Distance};
use crate::entries::Entry;
use crate::interrupt;
use crate::measure::Timing;
use crate::outcome::Outcome;
use crate::pin::{Cpus, pin};
use crate::progress::Progress;
use crate::row::{Row, relate};
use crate::scenario::{Case, Placement, Scenario};
use crate::syscalls::{self, Calls};
use crate::trial::{self, Findings};

/// How the race is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// How often each row is measured, at most.
    pub(crate) rounds: u32,
    /// How long all of it may take; as long as it takes, if none. One round there is always.
    pub(crate) budget: Option<Duration>,
    /// Length of a measurement.
    pub(crate) run: Duration,
    /// Length of what precedes it.
    pub(crate) warm_up: Duration,
    /// How often a trial is tried until the CPUs stay at their usual distance, and how long to wait
    /// for that each time.
    pub(crate) attempts: u32,
    pub(crate) patience: Duration,
    /// Whether the system calls of limits are counted too, which is to say verified: what they do
    /// is known.
    pub(crate) count_limits: bool,
    /// When it began, in seconds since 1970.
    pub(crate) began: u64,
    /// Decides the order.
    pub(crate) seed: u64,
}

impl Plan {
    fn timing(&self, case: &Case) -> Timing {
        Timing { warm_up: self.warm_up, run: self.run * case.stretch() }
    }
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Race {
    /// In the order of the entries.
    pub(crate) rows: Vec<Row>,
    /// What a reader of the table has to know.
    pub(crate) remarks: Vec<String>,
    /// Whether every row is there, and every trial of it worked.
    pub(crate) complete: bool,
    /// How long an atomic took between the two CPUs there and back, in nanoseconds.
    pub(crate) distance: Option<f64>,
}

/// Measures all entries.
pub(crate) fn run(entries: &[Entry], plan: &Plan) -> Outcome<Race> {
    let cpus = Cpus::allowed()?;
    // Beside the clients, who wait when this process works. Elsewhere it would wait behind a server
    // that spins.
    pin(cpus.of_client(Placement::OneCpu))?;
    let mut remarks = Vec::new();
    let mut failures = Failures::default();
    let wants_two = entries.iter().any(|entry| entry.case.placement == Placement::TwoCpus);
    let distance =
        if wants_two && cpus.allow(Placement::TwoCpus) { Distance::survey(&cpus)? } else { None };
    if let Some(distance) = &distance {
        remarks.push(distance.remark());
    }
    let mut order: Vec<usize> = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        if entry.case.placement == Placement::TwoCpus
            && distance.is_none()
            && entry.contender.absence().is_none()
        {
            let there_are = match cpus.number() {
                1 => "this process may use one CPU".to_owned(),
                number => format!("the {number} that this process may use are none"),
            };
            failures.add(
                "rows on two CPUs",
                entry.label(),
                format!("they need two that are not siblings of one core: {there_are}"),
            );
        } else {
            order.push(index);
        }
    }

    let mut found: Vec<Found> = entries.iter().map(|_| Found::default()).collect();
    for (entry, found) in entries.iter().zip(&mut found) {
        found.absence = entry.contender.absence();
    }
    let (mut trials, mut unsettled, mut siblings) = (0, 0, 0);
    let mut random = Random(plan.seed);
    let present = order.iter().filter(|&&index| found[index].absence.is_none()).count();
    let mut progress = Progress::new(present * usize::try_from(plan.rounds)?);
    let begun = Instant::now();
    for round in 1..=plan.rounds {
        if plan.budget.is_some_and(|budget| is_too_long(begun.elapsed(), round, budget)) {
            remarks.push(format!("there was time for {} of {} rounds", round - 1, plan.rounds));
            break;
        }
        random.shuffle(&mut order);
        for &index in &order {
            let (entry, found) = (&entries[index], &mut found[index]);
            if found.is_hopeless() {
                continue;
            }
            interrupt::check()?;
            progress.next(&format!("round {round} of {}: {}", plan.rounds, entry.label()));
            let distance = distance.as_ref().filter(|_| entry.case.placement == Placement::TwoCpus);
            match settled(entry, &cpus, plan, distance) {
                Ok((_, Apart::Siblings)) => siblings += 1,
                Ok((findings, apart)) => {
                    trials += 1;
                    unsettled += u32::from(apart == Apart::Unusual);
                    found.rounds.push(findings);
                }
                Err(error) => {
                    interrupt::check()?;
                    failures.add(entry.contender.name(), entry.label(), error.to_string());
                    found.failures.push(error.to_string());
                }
            }
        }
    }
    drop(progress);
    if unsettled > 0 {
        remarks.push(format!(
            "in {unsettled} of {trials} trials the two CPUs did not stay at their usual distance"
        ));
    }
    if siblings > 0 {
        remarks.push(format!(
            "{siblings} trials were discarded: the two CPUs were siblings of one core"
        ));
    }

    let countable = syscalls::can_count();
    if !countable {
        remarks.push(
            "system calls are not counted: perf cannot see raw_syscalls:sys_enter here".to_owned(),
        );
    }
    // As far as the time reaches: first of those of whom something is claimed.
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_by_key(|&index| !entries[index].contender.name().starts_with("ringbell"));
    let mut calls: Vec<_> = entries.iter().map(|_| None).collect();
    for index in order {
        let entry = &entries[index];
        let wanted = plan.count_limits || !entry.contender.name().starts_with("limit-");
        let in_time = plan.budget.is_none_or(|budget| begun.elapsed() < budget);
        if countable && wanted && in_time && !found[index].rounds.is_empty() {
            match calls_per_operation(entry, &cpus, plan) {
                Ok(count) => calls[index] = Some(count),
                Err(error) => {
                    interrupt::check()?;
                    let label = format!("counting system calls of {}", entry.label());
                    failures.add(entry.contender.name(), label, error.to_string());
                }
            }
        }
    }
    let mut rows = Vec::new();
    for ((entry, found), calls) in entries.iter().zip(&found).zip(calls) {
        rows.push(match found.reason() {
            Some(reason) => Row::missing(entry, reason),
            None => Row::new(entry, &found.rounds, calls),
        });
    }
    relate(&mut rows);
    remarks.extend(timers(entries, &rows));
    let complete = failures.0.is_empty();
    remarks.extend(failures.remarks());
    Ok(Race { rows, remarks, complete, distance: distance.map(|distance| distance.usual()) })
}

/// What failed. One cause is told once, however many trials it spoils.
#[derive(Debug, Default)]
struct Failures(Vec<Failure>);

#[derive(Debug)]
struct Failure {
    /// Who failed.
    who: &'static str,
    error: String,
    /// Where: labels of rows, in their order.
    labels: Vec<String>,
}

impl Failures {
    fn add(&mut self, who: &'static str, label: String, error: String) {
        let same = |failure: &&mut Failure| failure.who == who && failure.error == error;
        match self.0.iter_mut().find(same) {
            Some(failure) => failure.labels.push(label),
            None => self.0.push(Failure { who, error, labels: vec![label] }),
        }
    }

    fn remarks(self) -> impl Iterator<Item = String> {
        self.0.into_iter().map(|Failure { who, error, labels }| {
            let rows: BTreeSet<&String> = labels.iter().collect();
            match (rows.len(), labels.len()) {
                (1, 1) => format!("{}: {error}", labels[0]),
                (1, times) => format!("{}: {error} ({times} times)", labels[0]),
                (rows, _) => format!("{who}: {error} ({rows} rows, {} the first)", labels[0]),
            }
        })
    }
}

/// How many sleeps a timer ended where that is counted: for each system, in all its rows.
fn timers(entries: &[Entry], rows: &[Row]) -> Vec<String> {
    let mut systems: BTreeMap<&str, (u64, usize)> = BTreeMap::new();
    for (entry, row) in entries.iter().zip(rows) {
        if let Some(timers) = row.timer_wakes {
            let of = systems.entry(entry.contender.name()).or_default();
            *of = (of.0 + timers, of.1 + 1);
        }
    }
    systems
        .into_iter()
        .map(|(name, (timers, rows))| {
            format!("{name}: {timers} sleeps ended by a timer, in {rows} rows")
        })
        .collect()
}

/// Whether the next round would leave too little of the budget for counting system calls, which
/// takes as long as a round at most.
fn is_too_long(elapsed: Duration, round: u32, budget: Duration) -> bool {
    round > 1 && elapsed / (round - 1) * (round + 1) > budget
}

/// What came of an entry so far.
#[derive(Debug, Default)]
struct Found {
    rounds: Vec<Findings>,
    failures: Vec<String>,
    absence: Option<String>,
}

impl Found {
    /// Whether further rounds are a waste of time.
    fn is_hopeless(&self) -> bool {
        self.absence.is_some() || self.rounds.is_empty() && self.failures.len() > 1
    }

    /// Why there is no figure, if there is none.
    fn reason(&self) -> Option<String> {
        if !self.rounds.is_empty() {
            return None;
        }
        let failed = || self.failures.first().map(|failure| format!("does not run: {failure}"));
        let discarded =
            || "two CPUs that are not siblings of one core were not to be had".to_owned();
        Some(self.absence.clone().or_else(failed).unwrap_or_else(discarded))
    }
}

/// A trial during which the CPUs stayed at their usual distance, if that is to be had; else the
/// last one that ran, and where they were.
fn settled(
    entry: &Entry,
    cpus: &Cpus,
    plan: &Plan,
    distance: Option<&Distance>,
) -> Outcome<(Findings, Apart)> {
    let timing = plan.timing(&entry.case);
    let Some(distance) = distance else {
        return Ok((trial::run(entry, cpus, timing, false)?, Apart::Usual));
    };
    let mut attempt = 1;
    loop {
        let before = distance.settle(plan.patience)?;
        let findings = trial::run(entry, cpus, timing, false)?;
        let worst = before.max(distance.now()?);
        if worst == Apart::Usual || attempt == plan.attempts {
            return Ok((findings, worst));
        }
        attempt += 1;
    }
}

/// A short run of the entry, only to count system calls.
fn calls_per_operation(entry: &Entry, cpus: &Cpus, plan: &Plan) -> Outcome<Calls<f64>> {
    // Paced cases have few operations, so that the referee's own calls would weigh.
    let paced = entry.case.scenario == Scenario::Paced;
    let idle = entry.case.scenario == Scenario::Idle;
    let run = Duration::from_millis(if paced || idle { 200 } else { 20 });
    let findings = trial::run(entry, cpus, Timing { run, warm_up: plan.warm_up }, true)?;
    let operations: u64 = findings.clients.iter().map(|figures| figures.since_start).sum();
    let mut own = u64::from(entry.case.callers()) * syscalls::REFEREE_PER_CLIENT;
    let waits =
        matches!(entry.contender, Contender::System(system) if system.work(&entry.case).waits());
    if idle {
        // The two pauses.
        own += 2;
    }
    if paced || waits {
        // The pause before each call, or in its handler.
        own += operations;
    }
    let counted = findings.syscalls.ok_or("nobody counted")?;
    #[expect(clippy::cast_precision_loss, reason = "counts of a second are far below 2^52")]
    let ratio = |calls: u64| calls as f64 / operations.max(1) as f64;
    Ok(Calls { all: ratio(counted.all.saturating_sub(own)), wakes: counted.wakes.map(ratio) })
}

/// A seed that differs from run to run.
pub(crate) fn seed_from_clock() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(1, |since| since.as_secs() ^ u64::from(since.subsec_nanos()))
}

/// splitmix64: enough to shuffle with.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            // usize is 64 bits wide wherever this runs; the remainder is at most `last`.
            let other = usize::try_from(self.next() % (last as u64 + 1)).unwrap_or(last);
            items.swap(last, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_bounds_the_rounds() {
        let second = Duration::from_secs;
        assert!(!is_too_long(second(0), 1, second(1)));
        assert!(!is_too_long(second(10), 2, second(30)));
        assert!(is_too_long(second(11), 2, second(30)));
    }

    #[test]
    fn one_cause_is_told_once() {
        let mut failures = Failures::default();
        for (label, error) in [("a/x/1", "gone"), ("a/x/2", "gone"), ("a/x/1", "other")] {
            failures.add("x", label.to_owned(), error.to_owned());
        }
        failures.add("x", "a/x/1".to_owned(), "other".to_owned());
        let remarks: Vec<String> = failures.remarks().collect();
        assert_eq!(remarks, ["x: gone (2 rows, a/x/1 the first)", "a/x/1: other (2 times)"]);
    }

    #[test]
    fn a_shuffle_keeps_everything() {
        let mut items: Vec<u32> = (0..100).collect();
        Random(1).shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
