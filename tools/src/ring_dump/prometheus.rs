//! A report in Prometheus's text format:
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use crate::finding::Severity;
use crate::process::State;
use crate::report::Report;
use crate::samples::Samples;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Counters whose value goes up and down.
const GAUGES: [&str; 8] = [
    "sessions",
    "sessions_peak",
    "in_flight",
    "held_bytes",
    "oldest_call",
    "oldest_sent_ns",
    "fill_peak",
    "stash_peak",
];
/// Of no use to a monitor.
const LEFT_OUT: [&str; 2] = ["oldest_call", "oldest_sent_ns"];

/// The samples of one name: its type, then labels and value of each.
type Family = (&'static str, Vec<(String, f64)>);

/// Samples by name: those of one name stand together.
#[derive(Default)]
struct Metrics(BTreeMap<String, Family>);

impl Metrics {
    fn add(&mut self, name: &str, kind: &'static str, labels: &str, value: f64) {
        let (_, samples) = self.0.entry(name.to_owned()).or_insert_with(|| (kind, Vec::new()));
        samples.push((labels.to_owned(), value));
    }

    #[allow(clippy::cast_precision_loss, reason = "the format's numbers are f64")]
    fn counters(
        &mut self,
        prefix: &str,
        labels: &str,
        counters: impl Iterator<Item = (&'static str, u64)>,
    ) {
        for (name, value) in counters.filter(|(name, _)| !LEFT_OUT.contains(name)) {
            if GAUGES.contains(&name) {
                self.add(&format!("{prefix}_{name}"), "gauge", labels, value as f64);
            } else {
                self.add(&format!("{prefix}_{name}_total"), "counter", labels, value as f64);
            }
        }
    }
}

impl Metrics {
    /// Where the time of calls went: quantiles of the last few that were timed.
    #[allow(clippy::cast_precision_loss, reason = "the format's numbers are f64")]
    fn samples(&mut self, labels: &str, samples: &Samples) {
        for (part, spread) in [
            ("request-ring", &samples.request_ring),
            ("handler", &samples.handler),
            ("response-ring", &samples.response_ring),
        ] {
            let labels = format!("{labels},part=\"{part}\"");
            self.add("ringbell_timed_calls", "gauge", &labels, spread.calls as f64);
            if spread.calls == 0 {
                continue;
            }
            for (quantile, ns) in
                [("0.5", spread.median_ns), ("0.9", spread.p90_ns), ("1", spread.most_ns)]
            {
                let labels = format!("{labels},quantile=\"{quantile}\"");
                self.add("ringbell_timed_call_seconds", "gauge", &labels, ns as f64 / 1e9);
            }
        }
    }
}

/// A label's value: backslash, quote and line feed are escaped.
fn label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The whole report.
#[allow(clippy::cast_precision_loss, reason = "the format's numbers are f64")]
pub(crate) fn text(report: &Report) -> String {
    let mut metrics = Metrics::default();
    let runs = |state: State| f64::from(u8::from(state == State::Alive));
    for server in &report.servers {
        let labels = format!(
            "generation=\"{:016x}\",pid=\"{}\",name=\"{}\"",
            server.generation,
            server.peer.pid,
            label(&server.peer.name)
        );
        metrics.add("ringbell_server_running", "gauge", &labels, runs(server.state));
        metrics.counters("ringbell_server", &labels, server.counters.iter());
    }
    for session in &report.sessions {
        let labels = format!(
            "generation=\"{:016x}\",session=\"{}\",pid=\"{}\",name=\"{}\"",
            session.generation,
            session.session,
            session.peer.pid,
            label(&session.peer.name)
        );
        metrics.add("ringbell_client_running", "gauge", &labels, runs(session.state));
        let oldest = session.oldest_age_ns.unwrap_or(0) as f64 / 1e9;
        metrics.add("ringbell_oldest_call_seconds", "gauge", &labels, oldest);
        if let Some(samples) = &session.samples {
            metrics.samples(&labels, samples);
        }
        for (ring, name) in [(&session.request, "request"), (&session.response, "response")] {
            let labels = format!("{labels},ring=\"{name}\"");
            metrics.add("ringbell_ring_capacity_bytes", "gauge", &labels, ring.capacity as f64);
            metrics.add("ringbell_ring_fill_bytes", "gauge", &labels, ring.fill as f64);
            metrics.add("ringbell_ring_high_water_bytes", "gauge", &labels, ring.high_water as f64);
            metrics.add("ringbell_ring_messages", "gauge", &labels, ring.messages as f64);
            metrics.add("ringbell_ring_tail_bytes_total", "counter", &labels, ring.tail as f64);
        }
        for (side, counters) in [("client", session.client), ("server", session.server)] {
            let labels = format!("{labels},side=\"{side}\"");
            metrics.counters("ringbell_session", &labels, counters.iter());
        }
    }
    for (name, severity) in [("note", Severity::Note), ("problem", Severity::Problem)] {
        let count = report.findings.iter().filter(|finding| finding.severity == severity).count();
        metrics.add("ringbell_findings", "gauge", &format!("severity=\"{name}\""), count as f64);
    }
    let mut out = String::new();
    for (name, (kind, samples)) in &metrics.0 {
        let _ = writeln!(out, "# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(out, "{name}{{{labels}}} {value}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        assert_eq!(label("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
