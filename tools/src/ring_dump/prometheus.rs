//! A report in Prometheus's text format
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>), by its conventions for names
//! (<https://prometheus.io/docs/practices/naming/>).
//!
//! A monitor keeps each combination of labels for ever. So series have the name of their server,
//! which its next start has again, and what changes with each start stands in one series,
//! `ringbell_server_info`. Sessions with series of their own are limited. The others are left out
//! rather than summed: such a sum falls when a session ends, which a monitor takes for a restart.

use crate::export;
use crate::finding::{Code, Severity};
use crate::process::State;
use crate::report::{Report, Server, Session};
use crate::samples::Samples;
use ringbell::layout::Facts;
use ringbell::stats::{ServerCounters, SessionCounters};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Counters whose value goes up and down.
const GAUGES: [&str; 6] =
    ["sessions", "sessions_peak", "in_flight", "held_bytes", "fill_peak", "stash_peak"];
/// Name a call or a moment.
const LEFT_OUT: [&str; 2] = ["oldest_call", "oldest_sent_ns"];
/// Counters whose names do not end with their unit.
const UNITS: [(&str, &str); 3] = [
    ("bytes_sent", "sent_bytes"),
    ("bytes_received", "received_bytes"),
    ("fill_peak", "fill_peak_bytes"),
];

/// How values of a name behave.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// They only grow until the server or the session starts anew.
    Counter,
    /// They go up and down.
    Gauge,
}

/// The samples of one name.
#[derive(Debug)]
struct Family {
    kind: Kind,
    help: String,
    /// Labels and value of each.
    samples: Vec<(String, f64)>,
}

/// Samples by name: those of one name stand together.
#[derive(Debug, Default)]
struct Metrics(BTreeMap<String, Family>);

/// The labels of a sample, escaped.
#[derive(Debug, Clone)]
struct Labels(String);

impl Labels {
    fn new(name: &str, value: &str) -> Self {
        Self(format!("{name}=\"{}\"", escaped(value)))
    }

    fn and(&self, name: &str, value: &str) -> Self {
        Self(format!("{},{name}=\"{}\"", self.0, escaped(value)))
    }
}

/// The value of a label: backslash, quote and line feed are escaped. The format knows no escape for
/// other control characters, which a path may have and a terminal obeys: a mark stands for each.
fn escaped(value: &str) -> String {
    let harmless = value.replace(|c: char| c.is_control() && c != '\n', "\u{fffd}");
    harmless.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[allow(clippy::cast_precision_loss, reason = "the format's numbers are f64")]
fn float(value: u64) -> f64 {
    value as f64
}

fn seconds(ns: u64) -> f64 {
    float(ns) / 1e9
}

impl Metrics {
    fn add(&mut self, kind: Kind, name: &str, help: &str, labels: &Labels, value: f64) {
        let family = self.0.entry(name.to_owned()).or_insert_with(|| Family {
            kind,
            help: help.to_owned(),
            samples: Vec::new(),
        });
        family.samples.push((labels.0.clone(), value));
    }

    fn gauge(&mut self, name: &str, help: &str, labels: &Labels, value: f64) {
        self.add(Kind::Gauge, name, help, labels, value);
    }

    /// Whether a process runs. Of one that cannot be seen from here nothing is said.
    fn running(&mut self, name: &str, help: &str, labels: &Labels, state: State) {
        let value = match state {
            State::Alive => 1.0,
            State::Stopped | State::Traced | State::Dead => 0.0,
            State::Unknown => return,
        };
        self.gauge(name, help, labels, value);
    }

    /// Counters, with what they mean in the same order.
    fn counters(
        &mut self,
        prefix: &str,
        labels: &Labels,
        counters: impl Iterator<Item = (&'static str, u64)>,
        meanings: &[&str],
    ) {
        for ((name, value), meaning) in counters.zip(meanings) {
            if LEFT_OUT.contains(&name) {
                continue;
            }
            let unit = UNITS.iter().find(|(counter, _)| *counter == name);
            let named = unit.map_or(name, |(_, named)| named);
            if GAUGES.contains(&name) {
                self.gauge(&format!("{prefix}_{named}"), meaning, labels, float(value));
            } else {
                let name = format!("{prefix}_{named}_total");
                self.add(Kind::Counter, &name, meaning, labels, float(value));
            }
        }
    }

    fn server(&mut self, report: &Report, server: &Server, labels: &Labels) {
        let info = labels
            .and("generation", &export::generation(server.generation))
            .and("pid", &server.peer.pid.to_string())
            .and("uid", &server.peer.uid.to_string())
            .and("name", &server.peer.name)
            .and("layout", &server.layout.to_string());
        self.gauge(
            "ringbell_server_info",
            "Always 1. The labels say which process this server is now.",
            &info,
            1.0,
        );
        self.running(
            "ringbell_server_running",
            "1 if the process of the server runs, 0 if it is stopped or dead.",
            labels,
            server.state,
        );
        self.gauge(
            "ringbell_server_uptime_seconds",
            "Time since the server was bound.",
            labels,
            seconds(server.age_ns),
        );
        let meanings = ServerCounters::MEANINGS;
        self.counters("ringbell_server", labels, server.counters.iter(), meanings);
        self.limits(&server.facts, labels);
        let of_it =
            report.sessions.iter().filter(|session| session.generation == server.generation);
        let told = match server.facts.oldest_since_ns {
            0 => None,
            since => Some(report.at_ns.saturating_sub(since)),
        };
        let oldest = of_it.filter_map(|session| session.oldest_age_ns).chain(told).max();
        self.gauge(
            "ringbell_server_oldest_call_seconds",
            "How long the oldest call of all sessions is known to wait for its answer; 0 if none.",
            labels,
            seconds(oldest.unwrap_or(0)),
        );
    }

    /// The limits of a server, as far as it says so.
    fn limits(&mut self, facts: &Facts, labels: &Labels) {
        for (name, help, limit) in [
            ("max_clients", "Most sessions at once.", facts.max_clients),
            ("max_in_flight", "Most requests of one client in flight.", facts.max_in_flight),
            ("max_held_bytes", "Most bytes that are held for all clients.", facts.max_held_bytes),
            (
                "max_held_per_client_bytes",
                "Most bytes that are held for one client.",
                facts.max_held_bytes_per_client,
            ),
        ] {
            let value = match limit {
                0 => continue,
                u64::MAX => f64::INFINITY,
                limit => float(limit),
            };
            self.gauge(&format!("ringbell_server_{name}"), help, labels, value);
        }
    }

    fn session(&mut self, session: &Session, labels: &Labels) {
        let info = labels
            .and("pid", &session.peer.pid.to_string())
            .and("uid", &session.peer.uid.to_string())
            .and("name", &session.peer.name);
        self.gauge(
            "ringbell_session_info",
            "Always 1. The labels say who the client of this session is.",
            &info,
            1.0,
        );
        self.running(
            "ringbell_session_client_running",
            "1 if the process of the client runs, 0 if it is stopped or dead.",
            labels,
            session.state,
        );
        self.gauge(
            "ringbell_session_oldest_call_seconds",
            "How long a call of this session is known to wait for its answer; 0 if none.",
            labels,
            seconds(session.oldest_age_ns.unwrap_or(0)),
        );
        if let Some(samples) = &session.samples {
            self.samples(labels, samples);
        }
        for (ring, name) in [(&session.request, "request"), (&session.response, "response")] {
            let labels = labels.and("ring", name);
            for (name, help, value) in [
                ("capacity_bytes", "Size of the ring.", ring.capacity),
                ("fill_bytes", "Bytes of the ring that are not given back.", ring.fill),
                (
                    "high_water_bytes",
                    "The most that was ever not given back, as far as known.",
                    ring.high_water,
                ),
                ("messages", "Messages in the ring that may be unread.", ring.messages),
            ] {
                let name = format!("ringbell_session_ring_{name}");
                self.gauge(&name, help, &labels, float(value));
            }
            self.add(
                Kind::Counter,
                "ringbell_session_ring_written_bytes_total",
                "Bytes that were written to the ring: headers and padding, too.",
                &labels,
                float(ring.tail),
            );
        }
        for (side, counters) in [("client", session.client), ("server", session.server)] {
            let labels = labels.and("side", side);
            let meanings = SessionCounters::MEANINGS;
            self.counters("ringbell_session", &labels, counters.iter(), meanings);
        }
    }

    /// Where the time of calls went. They are no summary: that would count all calls, and these are
    /// the last few that were timed.
    fn samples(&mut self, labels: &Labels, samples: &Samples) {
        for (part, spread) in [
            ("request-ring", &samples.request_ring),
            ("handler", &samples.handler),
            ("response-ring", &samples.response_ring),
        ] {
            let labels = labels.and("part", part);
            self.gauge(
                "ringbell_session_timed_calls",
                "Calls that the times are known of: of the last 64 that were timed.",
                &labels,
                float(spread.calls),
            );
            if spread.calls == 0 {
                continue;
            }
            for (name, help, ns) in [
                ("median", "Half of the last timed calls spent no longer here.", spread.median_ns),
                ("p90", "Nine of ten of the last timed calls spent no longer here.", spread.p90_ns),
                (
                    "longest",
                    "The longest that one of the last timed calls spent here.",
                    spread.most_ns,
                ),
            ] {
                let name = format!("ringbell_session_timed_call_{name}_seconds");
                self.gauge(&name, help, &labels, seconds(ns));
            }
        }
    }

    /// How often each finding is made, 0 included: an alert needs a series that is there before.
    fn findings(&mut self, report: &Report, names: &BTreeMap<u64, String>) {
        let other = || match &report.servers[..] {
            [server] => names[&server.generation].clone(),
            _ => report.target.clone(),
        };
        let of = |generation: Option<u64>| {
            generation.and_then(|generation| names.get(&generation)).cloned().unwrap_or_else(other)
        };
        let servers: BTreeSet<String> = names.values().cloned().collect();
        let mut counts = BTreeMap::new();
        for server in servers {
            for code in Code::ALL {
                counts.insert((server.clone(), *code, Severity::Note), 0);
                counts.insert((server.clone(), *code, Severity::Problem), 0);
            }
        }
        for finding in &report.findings {
            let key = (of(finding.generation), finding.code, finding.severity);
            *counts.entry(key).or_insert(0) += 1;
        }
        for ((server, code, severity), count) in counts {
            let severity = match severity {
                Severity::Note => "note",
                Severity::Problem => "problem",
            };
            let labels =
                Labels::new("server", &server).and("severity", severity).and("code", code.word());
            self.gauge(
                "ringbell_findings",
                "What ring-dump finds now. ring-dump.md explains the codes.",
                &labels,
                float(count),
            );
        }
    }

    fn text(&self) -> String {
        let mut out = String::new();
        for (name, Family { kind, help, samples }) in &self.0 {
            let kind = match kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
            };
            let help = help.replace('\\', "\\\\").replace('\n', "\\n");
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in samples {
                let value = if value.is_infinite() { "+Inf".into() } else { value.to_string() };
                let _ = writeln!(out, "{name}{{{labels}}} {value}");
            }
        }
        out
    }
}

/// What the servers of a report are called: where they listen, otherwise by their names. Two that
/// would be called the same have their generation behind it.
fn names(report: &Report) -> BTreeMap<u64, String> {
    let servers = report.servers.iter().map(|server| {
        let name = match (&report.servers[..], &report.listens_at[..], &server.listens_at[..]) {
            ([_], [path, ..], _) | (_, _, [path]) => path.clone(),
            _ if server.peer.name.is_empty() => report.target.clone(),
            _ => server.peer.name.clone(),
        };
        (server.generation, name)
    });
    let mut names: BTreeMap<u64, String> = servers.collect();
    // Of a client's sessions the server cannot be seen.
    for generation in report.sessions.iter().map(|session| session.generation) {
        names.entry(generation).or_insert_with(|| report.target.clone());
    }
    let mut uses = BTreeMap::new();
    for name in names.values() {
        *uses.entry(name.clone()).or_insert(0) += 1;
    }
    for (generation, name) in &mut names {
        if uses[name] > 1 {
            *name = format!("{name} {}", export::generation(*generation));
        }
    }
    names
}

/// The whole report, with at most `max_sessions` sessions of each server: the oldest ones, which
/// stay the same for longest.
pub(crate) fn text(report: &Report, max_sessions: usize) -> String {
    let mut metrics = Metrics::default();
    let names = names(report);
    for server in &report.servers {
        let labels = Labels::new("server", &names[&server.generation]);
        metrics.server(report, server, &labels);
    }
    for (generation, name) in &names {
        let labels = Labels::new("server", name);
        let mut sessions: Vec<&Session> =
            report.sessions.iter().filter(|session| session.generation == *generation).collect();
        sessions.sort_by_key(|session| session.session);
        for session in sessions.iter().take(max_sessions) {
            metrics.session(session, &labels.and("session", &session.session.to_string()));
        }
        metrics.gauge(
            "ringbell_sessions_left_out",
            "Sessions over shared memory without series here: see --max-sessions.",
            &labels,
            float(sessions.len().saturating_sub(max_sessions) as u64),
        );
    }
    metrics.findings(report, &names);
    metrics.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_known_has_no_series() {
        let saved = include_bytes!("../../tests/data/stopped.ringsave");
        let saved = crate::capture::Capture::read(saved).expect("a saved file");
        let mut report = crate::assemble::report(&saved);
        let running = |report: &Report| {
            let text = text(report, 100);
            let lines = text.lines().filter(|line| line.contains("_running{"));
            lines.map(|line| line.rsplit(' ').next().expect("a value").to_owned()).collect()
        };
        let said: Vec<_> = running(&report);
        assert_eq!(said, ["0", "0"]);
        report.servers[0].state = State::Unknown;
        report.sessions[0].state = State::Alive;
        let said: Vec<_> = running(&report);
        assert_eq!(said, ["1"]);
        // Limits that are not told, and one that is none.
        assert!(!text(&report, 100).contains("_max_clients"));
        report.servers[0].facts.max_clients = u64::MAX;
        assert!(text(&report, 100).contains("\"} +Inf\n"));
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(Labels::new("a", "a\"b\\c\nd").0, "a=\"a\\\"b\\\\c\\nd\"");
        assert_eq!(Labels::new("a", "\u{1b}]0;title\u{7}").0, "a=\"\u{fffd}]0;title\u{fffd}\"");
    }

    #[test]
    fn every_counter_that_is_named_here_is_one() {
        let fields = [ServerCounters::FIELDS, SessionCounters::FIELDS].concat();
        let is_one = |name: &str| fields.iter().any(|(field, _)| *field == name);
        let units = UNITS.iter().map(|(name, _)| name);
        for name in GAUGES.iter().chain(&LEFT_OUT).chain(units) {
            assert!(is_one(name), "{name}");
        }
    }
}
