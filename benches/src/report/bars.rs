//! The bars: what Ringbell has to reach, computed from the rows of one race.

use std::fmt;

use super::record::{Line, Record};

/// A figure of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Figure {
    P50,
    P99,
    Rate,
    Cpu,
    Calls,
    WakeCalls,
    WakesPerSleep,
}

impl Figure {
    /// In nanoseconds, in operations a second, or a plain number. NaN if it was not measured.
    fn of(self, line: &Line) -> f64 {
        match self {
            Self::P50 => line.p50_ns,
            Self::P99 => line.p99_ns,
            Self::Rate => line.per_second,
            Self::Cpu => line.cpu_ns_per_op,
            Self::Calls => line.syscalls_per_op.unwrap_or(f64::NAN),
            Self::WakeCalls => line.wake_calls_per_op.unwrap_or(f64::NAN),
            Self::WakesPerSleep => line.wakes_per_sleep.unwrap_or(f64::NAN),
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::P50 => "p50",
            Self::P99 => "worst p99",
            Self::Rate => "rate",
            Self::Cpu => "CPU",
            Self::Calls => "system calls",
            Self::WakeCalls => "futex and socket calls",
            Self::WakesPerSleep => "wakes for each sleep",
        })
    }
}

/// A case, as the rows name it.
#[derive(Clone, Copy, Debug)]
struct Place {
    scenario: &'static str,
    size: u64,
    in_flight: u32,
    clients: u32,
    placement: &'static str,
}

/// What a figure is held against.
#[derive(Clone, Copy, Debug)]
enum Against {
    /// The best of the systems whose name is this, or begins with this and a dash, in the same
    /// case.
    System(&'static str),
    /// The same in another case: limits carry eight bytes, or come under another scenario.
    Elsewhere(&'static str, Place),
    /// The best of all peers in the same case.
    EveryPeer,
    /// A number.
    Number,
}

/// One comparison. `most`: the figure may be at most so many times the other; else it must be at
/// least that.
#[derive(Clone, Copy, Debug)]
struct Bar {
    who: &'static str,
    place: Place,
    figure: Figure,
    most: bool,
    factor: f64,
    against: Against,
}

/// What came of a comparison.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    /// The case.
    pub(super) case: String,
    /// What was asked.
    pub(super) bar: String,
    /// What was found, as a factor.
    pub(super) found: String,
    /// None if it could not be compared.
    pub(super) met: Option<bool>,
}

const fn at(scenario: &'static str, size: u64) -> Place {
    Place { scenario, size, in_flight: 1, clients: 1, placement: "two-cpus" }
}

const fn many(scenario: &'static str, clients: u32) -> Place {
    Place { clients, placement: "unpinned", ..at(scenario, 64) }
}

const fn on_one(place: Place) -> Place {
    Place { placement: "one-cpu", ..place }
}

const fn most(place: Place, figure: Figure, factor: f64, against: Against) -> Bar {
    Bar { who: "ringbell", place, figure, most: true, factor, against }
}

const fn least(place: Place, figure: Figure, factor: f64, against: Against) -> Bar {
    Bar { who: "ringbell", place, figure, most: false, factor, against }
}

/// The same bar for another of our systems.
const fn of(who: &'static str, bar: Bar) -> Bar {
    Bar { who, ..bar }
}

/// A guest that is told, beside the same program on sockets of its own, and beside one that polls.
const fn guest(place: Place) -> [Bar; 2] {
    [
        of("sockets-guest-push", most(place, Figure::P50, 2.5, Against::System("sockets-native"))),
        of(
            "sockets-guest-push",
            most(place, Figure::P50, 0.2, Against::System("sockets-guest-poll")),
        ),
    ]
}

const AERON: Against = Against::System("aeron");
const ICEORYX2: Against = Against::System("iceoryx2");
const UDS: Against = Against::System("uds-stream");
const TOKIO: Against = Against::System("tokio-uds");
const TASKS: Place = Place { in_flight: 1000, ..at("tasks", 64) };
const DEEP: Place = Place { in_flight: 64, ..at("pipelined", 64) };

/// Those of the transport.
const BARS: [Bar; 37] = [
    most(at("echo", 48), Figure::P50, 1.15, Against::System("limit-one-line")),
    most(at("echo", 48), Figure::P50, 0.8, AERON),
    most(at("echo", 64), Figure::P50, 1.1, Against::System("limit-two-lines-flag-last")),
    most(at("echo", 64), Figure::P50, 0.85, AERON),
    most(at("echo", 1 << 10), Figure::P50, 1.1, Against::System("limit-in-place")),
    most(at("echo", 1 << 10), Figure::P50, 0.65, AERON),
    most(at("echo", 64 << 10), Figure::P50, 0.75, ICEORYX2),
    most(at("echo", 64 << 10), Figure::P50, 0.55, AERON),
    most(at("echo", 1 << 20), Figure::P50, 0.95, ICEORYX2),
    most(at("echo", 1 << 20), Figure::P50, 0.55, AERON),
    least(DEEP, Figure::Rate, 1.7, AERON),
    least(DEEP, Figure::Rate, 0.08, Against::Elsewhere("limit-stream-by-16", at("stream", 64))),
    least(at("stream", 48), Figure::Rate, 0.35, Against::System("limit-stream-by-16")),
    most(
        on_one(at("one-cpu", 64)),
        Figure::P50,
        1.2,
        Against::Elsewhere("limit-yield", on_one(at("one-cpu", 8))),
    ),
    most(on_one(at("one-cpu", 64)), Figure::P50, 1.0, Against::EveryPeer),
    most(at("parked", 64), Figure::P50, 1.0, Against::Elsewhere("limit-futex", at("parked", 8))),
    most(at("parked", 64), Figure::WakesPerSleep, 1.0, Against::Number),
    most(at("paced", 64), Figure::P50, 0.55, UDS),
    most(at("paced", 64), Figure::Cpu, 1.1, UDS),
    least(many("clients", 8), Figure::Rate, 4.0, UDS),
    most(many("clients", 8), Figure::P99, 0.5, UDS),
    least(
        many("clients", 32),
        Figure::Rate,
        0.75,
        Against::Elsewhere("ringbell", many("clients", 8)),
    ),
    most(many("clients", 32), Figure::P99, 0.5, UDS),
    most(many("crowded", 1), Figure::P99, 1.0, UDS),
    most(many("crowded", 4), Figure::P99, 1.0, UDS),
    most(on_one(at("setup", 64)), Figure::P50, 1.3, UDS),
    most(at("setup", 64), Figure::P50, 1.5, UDS),
    most(at("echo", 48), Figure::WakeCalls, 0.0, Against::Number),
    most(at("echo", 48), Figure::Calls, 0.01, Against::Number),
    most(at("echo", 64), Figure::WakeCalls, 0.0, Against::Number),
    most(at("echo", 64), Figure::Calls, 0.01, Against::Number),
    most(at("echo", 1 << 10), Figure::WakeCalls, 0.0, Against::Number),
    most(at("echo", 1 << 10), Figure::Calls, 0.01, Against::Number),
    most(DEEP, Figure::WakeCalls, 0.0, Against::Number),
    most(DEEP, Figure::Calls, 0.01, Against::Number),
    most(at("stream", 48), Figure::WakeCalls, 0.0, Against::Number),
    most(at("stream", 48), Figure::Calls, 0.01, Against::Number),
];

/// Those of the asynchronous client.
const ASYNC_BARS: [Bar; 4] = [
    of("ringbell-async", most(at("echo", 64), Figure::P50, 1.0, TOKIO)),
    of("ringbell-async", most(at("paced", 64), Figure::P50, 1.05, TOKIO)),
    of("ringbell-async", most(at("paced", 64), Figure::Cpu, 1.05, TOKIO)),
    of("ringbell-async", least(TASKS, Figure::Rate, 3.0, TOKIO)),
];

/// Scenarios of programs whose sockets live in a host.
const SOCKETS: [(&str, u64); 5] = [
    ("udp_echo_small", 64),
    ("unix_echo_small", 64),
    ("unix_accept", 64),
    ("tcp_echo_64k", 64 << 10),
    ("http_loopback_get", 64),
];

/// All bars, in the order of the table.
fn bars() -> Vec<Bar> {
    let mut bars = [&BARS[..], &ASYNC_BARS].concat();
    for (scenario, size) in SOCKETS {
        for placement in ["one-cpu", "unpinned"] {
            bars.extend(guest(Place { placement, ..at(scenario, size) }));
        }
    }
    bars
}

/// Calls and wakes are counted in one run of a few thousand operations, in which the machine may
/// disturb somebody once or twice: so little is none.
const TOLERANCE: f64 = 0.0005;

impl Place {
    fn holds(&self, line: &Line) -> bool {
        let Self { scenario, size, in_flight, clients, placement } = *self;
        (line.scenario.as_str(), line.size, line.in_flight, line.clients, line.placement.as_str())
            == (scenario, size, in_flight, clients, placement)
    }
}

/// The best of some figures, and whose it is.
fn best<'a>(figure: Figure, lines: impl Iterator<Item = &'a Line>) -> Option<(&'a str, f64)> {
    lines
        .map(|line| (line.system.as_str(), figure.of(line)))
        .filter(|(_, value)| !value.is_nan())
        .reduce(
            |best, next| if (next.1 < best.1) != (figure == Figure::Rate) { next } else { best },
        )
}

impl Bar {
    fn judge(&self, record: &Record) -> Verdict {
        let here = |line: &&Line| self.place.holds(line);
        let own = record.rows.iter().filter(here).find(|line| line.system == self.who);
        let value = own.map_or(f64::NAN, |line| self.figure.of(line));
        let is = |line: &Line, name: &str| {
            line.system
                .strip_prefix(name)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        let other = match self.against {
            Against::System(name) => {
                best(self.figure, record.rows.iter().filter(here).filter(|line| is(line, name)))
            }
            Against::Elsewhere(name, place) => best(
                self.figure,
                record.rows.iter().filter(|line| place.holds(line) && line.system == name),
            ),
            Against::EveryPeer => {
                best(self.figure, record.rows.iter().filter(here).filter(|line| line.is_peer()))
            }
            Against::Number => None,
        };
        let sign = if self.most { "<=" } else { ">=" };
        let Bar { figure, factor, .. } = *self;
        let (bar, found) = match (self.against, other) {
            (Against::Number, _) => {
                let number = if factor > 0.0 { factor.to_string() } else { "none".to_owned() };
                (format!("{figure} {sign} {number}"), value)
            }
            (Against::Elsewhere("ringbell", place), other) => (
                format!("{figure} {sign} {factor} x that of {} clients", place.clients),
                value / other.map_or(f64::NAN, |(_, value)| value),
            ),
            (Against::System(name) | Against::Elsewhere(name, _), None) => {
                (format!("{figure} {sign} {factor} x `{name}`"), f64::NAN)
            }
            (Against::EveryPeer, None) => (format!("{figure} better than every peer's"), f64::NAN),
            (Against::EveryPeer, Some((name, other))) => {
                (format!("{figure} better than every peer's (`{name}`)"), value / other)
            }
            (_, Some((name, other))) => {
                (format!("{figure} {sign} {factor} x `{name}`"), value / other)
            }
        };
        let met = if found.is_nan() {
            None
        } else if self.most {
            Some(
                found
                    <= factor
                        + if matches!(self.against, Against::Number) { TOLERANCE } else { 0.0 },
            )
        } else {
            Some(found >= factor)
        };
        let mut case = record.rows.iter().find(here).map_or_else(
            || format!("`{}` {}", self.place.scenario, crate::table::bytes(self.place.size)),
            |line| format!("`{}` {}", line.scenario, line.details()),
        );
        if self.who != "ringbell" {
            case += &format!(", `{}`", self.who);
        }
        let found = if found.is_nan() { "not measured".to_owned() } else { format!("{found:.3}") };
        Verdict { case, bar, found, met }
    }
}

/// What came of each bar.
pub(super) fn judge(record: &Record) -> Vec<Verdict> {
    bars().iter().map(|bar| bar.judge(record)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{line, record};

    #[test]
    fn a_bar_is_met_or_missed_or_neither() {
        let bar = most(at("echo", 64), Figure::P50, 0.5, Against::System("peer"));
        let judged = |rows| bar.judge(&record(rows)).met;
        let ours = |p50| line("echo", "ringbell", 64, p50, 1.0);
        let theirs = |name, p50| line("echo", name, 64, p50, 1.0);
        assert_eq!(
            judged(vec![ours(40.0), theirs("peer-a", 100.0), theirs("peer", 120.0)]),
            Some(true)
        );
        assert_eq!(
            judged(vec![ours(55.0), theirs("peer-a", 100.0), theirs("peer", 120.0)]),
            Some(false)
        );
        assert_eq!(judged(vec![ours(40.0), theirs("peerless", 1.0)]), None);
        assert_eq!(judged(vec![ours(40.0), theirs("peer", f64::NAN)]), None);
        assert_eq!(judged(vec![theirs("peer", 1.0)]), None);
    }

    #[test]
    fn rates_are_held_against_the_highest() {
        let bar = least(at("stream", 48), Figure::Rate, 2.0, Against::System("peer"));
        let row = |name, rate| line("stream", name, 48, 1.0, rate);
        let rows =
            |own| record(vec![row("ringbell", own), row("peer-a", 10.0), row("peer-b", 20.0)]);
        assert_eq!(bar.judge(&rows(39.0)).met, Some(false));
        assert_eq!(bar.judge(&rows(41.0)).met, Some(true));
    }

    #[test]
    fn every_bar_names_a_row_that_the_race_has() {
        let entries = crate::entries::all();
        // Some of ours are built with the peers that they are compared with.
        let is_built = |bar: &Bar| bar.who != "ringbell-async" || cfg!(feature = "peer-tokio");
        for bar in bars().into_iter().filter(is_built) {
            let found = entries.iter().any(|entry| {
                let case = entry.case;
                entry.contender.name() == bar.who
                    && case.scenario.to_string() == bar.place.scenario
                    && case.size as u64 == bar.place.size
                    && (case.in_flight, case.clients) == (bar.place.in_flight, bar.place.clients)
                    && case.placement.to_string() == bar.place.placement
            });
            assert!(found, "{:?}", bar.place);
        }
    }
}
