//! All trials, several times, in an order that is random anew in every round: so that a slow minute of the machine
//! falls on everybody.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::distance::Distance;
use crate::limits;
use crate::limits::costs::{COSTS, Cost};
use crate::measure::Timing;
use crate::pin::{Cpus, pin};
use crate::row::{Row, relate};
use crate::scenario::{Case, Placement, Scenario};
use crate::syscalls;
use crate::systems::{self, Outcome, System};
use crate::trial::{self, Findings};

/// Something that has rows in the table.
#[derive(Clone, Copy)]
pub(crate) enum Contender {
    /// A server and clients.
    System(&'static dyn System),
    /// One operation, one process.
    Cost(&'static Cost),
}

impl Contender {
    /// The name in the table.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::System(system) => system.name(),
            Self::Cost(cost) => cost.name,
        }
    }
}

/// Limits first, then costs, then the systems.
fn contenders() -> impl Iterator<Item = Contender> {
    let limits = limits::all().into_iter().map(Contender::System);
    let systems = systems::all().into_iter().map(Contender::System);
    limits.chain(COSTS.iter().map(Contender::Cost)).chain(systems)
}

/// The contender of that name.
pub(crate) fn contender(name: &str) -> Option<Contender> {
    contenders().find(|contender| contender.name() == name)
}

/// A row to be measured.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    /// Who.
    pub(crate) contender: Contender,
    /// What.
    pub(crate) case: Case,
}

impl Entry {
    /// What `--only` searches and `--list` prints.
    pub(crate) fn label(&self) -> String {
        let Case { scenario, size, in_flight, clients, placement } = self.case;
        let name = self.contender.name();
        format!("{scenario}/{name}/{size}/in-flight-{in_flight}/clients-{clients}/{placement}")
    }
}

/// Whether a row is worth its time where there is little. The service scenarios and the socket show there that they
/// work.
fn in_short(entry: &Entry) -> bool {
    let Case { scenario, size, in_flight, clients, placement } = entry.case;
    match scenario {
        Scenario::ServiceDepth => in_flight == 16,
        Scenario::ServiceClients => clients == 7,
        Scenario::ServiceEmpty => placement == Placement::TwoCpus,
        Scenario::Echo if entry.contender.name() == "ringbell-uds" => size == 64,
        Scenario::Pipelined if entry.contender.name() == "ringbell-uds" => in_flight == 16,
        _ => entry.contender.name() != "ringbell-uds",
    }
}

/// The rows that any of the patterns selects; if there is no pattern all, or, in short, a choice. In the order of the
/// table.
pub(crate) fn entries(only: &[String], short: bool) -> Vec<Entry> {
    let cases = |contender: &Contender| match contender {
        Contender::System(system) => system.cases(),
        Contender::Cost(cost) => vec![cost.case()],
    };
    let mut entries: Vec<Entry> = contenders()
        .flat_map(|contender| cases(&contender).into_iter().map(move |case| Entry { contender, case }))
        .filter(|entry| match only {
            [] => !short || in_short(entry),
            only => only.iter().any(|pattern| entry.label().contains(pattern)),
        })
        .collect();
    entries.sort_by_key(|entry| entry.case);
    entries
}

/// How the race is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// How often each row is measured.
    pub(crate) rounds: u32,
    /// Length of a measurement.
    pub(crate) run: Duration,
    /// Length of what precedes it.
    pub(crate) warm_up: Duration,
    /// How often a trial is tried until the CPUs stay at their usual distance, and how long to wait for that each time.
    pub(crate) attempts: u32,
    pub(crate) patience: Duration,
    /// Whether the system calls of limits are counted too, which is to say verified: what they do is known.
    pub(crate) count_limits: bool,
    /// Decides the order.
    pub(crate) seed: u64,
}

impl Plan {
    fn timing(&self) -> Timing {
        Timing { warm_up: self.warm_up, run: self.run }
    }
}

/// Above this load average somebody else wants the CPUs too.
const CROWDED: f64 = 0.7;

/// How busy the machine was in the last minute, if it says so.
fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
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
}

/// Measures all entries.
pub(crate) fn run(entries: &[Entry], plan: &Plan) -> Outcome<Race> {
    let cpus = Cpus::allowed()?;
    // Beside the clients, who wait when this process works. Elsewhere it would wait behind a server that spins.
    pin(cpus.of_client(Placement::OneCpu))?;
    let mut remarks = Vec::new();
    if let Some(load) = load().filter(|&load| load > CROWDED) {
        remarks.push(format!(
            "the machine was busy when the race began (load {load}): do not publish these figures"
        ));
    }
    let mut failures = Vec::new();
    let timing = plan.timing();
    let wants_two = entries.iter().any(|entry| entry.case.placement == Placement::TwoCpus);
    let distance = if wants_two && cpus.allow(Placement::TwoCpus) { Distance::survey(&cpus)? } else { None };
    if let Some(distance) = &distance {
        remarks.push(format!("two-CPU rows: an atomic goes there and back in {:.0} ns", distance.usual()));
    }
    let mut order: Vec<usize> = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        if entry.case.placement == Placement::TwoCpus && distance.is_none() {
            failures.push(format!("{}: needs two CPUs that are not siblings of one core", entry.label()));
        } else {
            order.push(index);
        }
    }

    let mut found: Vec<Vec<Findings>> = entries.iter().map(|_| Vec::new()).collect();
    let (mut trials, mut unsettled) = (0, 0);
    let mut random = Random(plan.seed);
    for round in 1..=plan.rounds {
        random.shuffle(&mut order);
        for &index in &order {
            let entry = &entries[index];
            let distance = distance.as_ref().filter(|_| entry.case.placement == Placement::TwoCpus);
            match settled(entry, &cpus, plan, distance) {
                Ok((findings, settled)) => {
                    trials += 1;
                    unsettled += u32::from(!settled);
                    found[index].push(findings);
                }
                Err(error) => failures.push(format!("round {round}: {}: {error}", entry.label())),
            }
        }
    }
    if unsettled > 0 {
        remarks.push(format!(
            "in {unsettled} of {trials} trials the two CPUs did not stay at their usual distance"
        ));
    }

    let countable = syscalls::can_count();
    if !countable {
        remarks.push("system calls are not counted: perf cannot see raw_syscalls:sys_enter here".to_owned());
    }
    let mut rows = Vec::new();
    for (entry, findings) in entries.iter().zip(&found) {
        let mut calls = None;
        let wanted = plan.count_limits || !entry.contender.name().starts_with("limit-");
        if countable && wanted && !findings.is_empty() {
            match calls_per_operation(entry, &cpus, timing) {
                Ok(count) => calls = Some(count),
                Err(error) => failures.push(format!("counting: {}: {error}", entry.label())),
            }
        }
        rows.extend(Row::new(entry, findings, calls));
    }
    relate(&mut rows);
    let complete = failures.is_empty();
    remarks.extend(failures);
    Ok(Race { rows, remarks, complete })
}

/// A trial during which the CPUs stayed at their usual distance, if that is to be had; else the last one that ran, and
/// false.
fn settled(
    entry: &Entry,
    cpus: &Cpus,
    plan: &Plan,
    distance: Option<&Distance>,
) -> Outcome<(Findings, bool)> {
    let timing = plan.timing();
    let Some(distance) = distance else {
        return Ok((trial::run(entry, cpus, timing, false)?, true));
    };
    let mut attempt = 1;
    loop {
        let before = distance.settle(plan.patience)?;
        let findings = trial::run(entry, cpus, timing, false)?;
        let stayed = before && distance.is_usual()?;
        if stayed || attempt == plan.attempts {
            return Ok((findings, stayed));
        }
        attempt += 1;
    }
}

/// A short run of the entry, only to count system calls.
fn calls_per_operation(entry: &Entry, cpus: &Cpus, timing: Timing) -> Outcome<f64> {
    // Paced cases have few operations, so that the referee's own calls would weigh.
    let paced = entry.case.scenario == Scenario::Paced;
    let run = Duration::from_millis(if paced { 200 } else { 20 });
    let findings = trial::run(entry, cpus, Timing { run, ..timing }, true)?;
    let operations: u64 = findings.clients.iter().map(|figures| figures.since_start).sum();
    let mut own = u64::from(entry.case.callers()) * syscalls::REFEREE_PER_CLIENT;
    let waits = matches!(entry.contender, Contender::System(system) if system.work(&entry.case).waits());
    if paced || waits {
        // The pause before each call, or in its handler.
        own += operations;
    }
    let calls = findings.syscalls.unwrap_or(0).saturating_sub(own);
    #[expect(clippy::cast_precision_loss, reason = "counts of a second are far below 2^52")]
    let ratio = calls as f64 / operations.max(1) as f64;
    Ok(ratio)
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
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_row_has_a_label_of_its_own() {
        let entries = entries(&[], false);
        let labels: BTreeSet<String> = entries.iter().map(Entry::label).collect();
        assert_eq!(labels.len(), entries.len());
    }

    #[test]
    fn every_bounded_case_has_a_limit() {
        let entries = entries(&[], false);
        for entry in &entries {
            if let Some(bound) = entry.case.bound() {
                let limit = |other: &&Entry| {
                    other.contender.name().starts_with("limit-") && bound.covers(&other.case)
                };
                assert!(entries.iter().any(|other| limit(&other)), "{}", entry.label());
            }
        }
    }

    #[test]
    fn every_yardstick_is_measured() {
        for short in [false, true] {
            let entries = entries(&[], short);
            for entry in &entries {
                let Some(yardstick) = entry.case.yardstick(entry.contender.name()) else { continue };
                let found = entries.iter().any(|other| (other.contender.name(), other.case) == yardstick);
                assert!(found, "{}", entry.label());
            }
        }
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
