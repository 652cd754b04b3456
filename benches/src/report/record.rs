//! What a race left in its JSON file, as far as a report needs it.

use serde::{Deserialize, Deserializer};

use crate::machine::Machine;

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Record {
    #[serde(default)]
    pub(super) machine: Machine,
    pub(super) run: Run,
    /// Where the curves of the rows have their points.
    #[serde(default)]
    pub(super) quantiles: Vec<f64>,
    pub(super) rows: Vec<Line>,
}

/// How the race was run.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Run {
    pub(super) began: u64,
    pub(super) quick: bool,
    pub(super) rounds: u32,
    pub(super) millis: u64,
    pub(super) seed: u64,
    pub(super) atomic_round_trip_ns: Option<f64>,
    pub(super) seconds: u64,
    pub(super) remarks: Vec<String>,
}

/// One row. A figure that is null in the file is NaN here, which is neither better nor worse than
/// anything.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Line {
    pub(super) scenario: String,
    pub(super) system: String,
    pub(super) size: u64,
    pub(super) in_flight: u32,
    pub(super) clients: u32,
    pub(super) placement: String,
    #[serde(deserialize_with = "figure")]
    pub(super) p50_ns: f64,
    #[serde(deserialize_with = "figure")]
    pub(super) p99_ns: f64,
    #[serde(deserialize_with = "figure")]
    pub(super) p999_ns: f64,
    #[serde(deserialize_with = "figure")]
    pub(super) per_second: f64,
    #[serde(deserialize_with = "figure")]
    pub(super) cpu_ns_per_op: f64,
    #[serde(default)]
    pub(super) syscalls_per_op: Option<f64>,
    #[serde(default)]
    pub(super) wake_calls_per_op: Option<f64>,
    #[serde(default)]
    pub(super) ratio_to_limit: Option<f64>,
    #[serde(default)]
    pub(super) quantiles_ns: Vec<f64>,
    #[serde(default)]
    pub(super) wakes_per_sleep: Option<f64>,
    #[serde(default)]
    pub(super) by_rate: bool,
    #[serde(default)]
    pub(super) error: Option<String>,
}

fn figure<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

impl Line {
    /// Whether two rows are of one case.
    pub(super) fn is_of_case_of(&self, other: &Self) -> bool {
        self.case() == other.case()
    }

    fn case(&self) -> (&str, u64, u32, u32, &str) {
        (&self.scenario, self.size, self.in_flight, self.clients, &self.placement)
    }

    /// The case in words, without the scenario.
    pub(super) fn details(&self) -> String {
        let mut words = vec![crate::table::bytes(self.size)];
        if self.in_flight > 1 {
            words.push(format!("{} in flight", self.in_flight));
        }
        if self.clients > 1 {
            words.push(format!("{} clients", self.clients));
        }
        words.push(self.placement.replace('-', " "));
        words.join(", ")
    }

    /// Whether it is a bound and no competitor.
    pub(super) fn is_limit(&self) -> bool {
        self.system.starts_with("limit-")
    }

    /// Whether it is somebody else than Ringbell who moves requests between processes.
    pub(super) fn is_peer(&self) -> bool {
        let own =
            ["ringbell", "in-process", "sockets-"].iter().any(|name| self.system.starts_with(name));
        // Other protocols over a byte stream of Ringbell.
        !self.is_limit() && !own && !self.system.contains("-bytes")
    }
}
