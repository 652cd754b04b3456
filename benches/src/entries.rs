//! The rows to be measured, and how they are chosen.

use crate::contender::{Contender, contenders};
use crate::only::{self, Unmatched};
use crate::scenario::{Case, Placement, Scenario};

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

/// The systems that are shown as a whole where there is little time.
const WHOLE: [&str; 2] = ["ringbell", "uds-stream"];

/// Whether a row is worth its time where there is little. The service scenarios, the socket and the
/// peers show there that they work.
fn in_short(entry: &Entry) -> bool {
    let Case { scenario, size, in_flight, clients, placement } = entry.case;
    let name = entry.contender.name();
    let whole = WHOLE.contains(&name);
    match scenario {
        Scenario::ServiceDepth => in_flight == 16,
        Scenario::ServiceClients => clients == 7,
        Scenario::ServiceEmpty => placement == Placement::TwoCpus,
        _ if name.starts_with("limit-") => ![16, 256, 4 << 10, 16 << 10, 256 << 10].contains(&size),
        Scenario::Echo => size == 64 || whole && [48, 1 << 10, 64 << 10, 1 << 20].contains(&size),
        Scenario::Request10us => placement == Placement::TwoCpus,
        Scenario::Request1us | Scenario::Request50us | Scenario::Request200us => false,
        Scenario::Pipelined => in_flight == 64,
        Scenario::Batch => in_flight == 16 && (whole || name == "ringbell-batch"),
        Scenario::Clients => whole && [1, 8, 32].contains(&clients),
        Scenario::Crowded => whole && clients == 4,
        Scenario::Attached => name == "ringbell" && clients == 128,
        Scenario::OneCpu | Scenario::Setup => whole || name == "uds-dial",
        Scenario::Parked
        | Scenario::Paced
        | Scenario::PacedFast
        | Scenario::Idle
        | Scenario::Stream => whole,
        _ => true,
    }
}

/// The rows that any of the patterns selects, in the order of the table. Without patterns these are
/// all, or, in short, a choice.
///
/// # Errors
/// [`Unmatched`] if a pattern selects no row.
pub(crate) fn selected(only: &[String], short: bool) -> Result<Vec<Entry>, Unmatched> {
    let all = all();
    let labels: Vec<String> = all.iter().map(Entry::label).collect();
    only::check(only, labels.iter().map(String::as_str), "see --list")?;
    let is_selected = |entry: &Entry| match only {
        [] => !short || in_short(entry),
        only => only::selects(only, &entry.label()),
    };
    Ok(all.into_iter().filter(is_selected).collect())
}

/// All rows, in the order of the table.
pub(crate) fn all() -> Vec<Entry> {
    let cases = |contender: &Contender| match contender {
        Contender::System(system) => system.cases(),
        Contender::Cost(cost) => vec![cost.case()],
    };
    let mut entries: Vec<Entry> = contenders()
        .flat_map(|contender| {
            cases(&contender).into_iter().map(move |case| Entry { contender, case })
        })
        .collect();
    entries.sort_by_key(|entry| entry.case);
    entries
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_pattern_without_a_row_is_an_error_that_names_it() {
        let only = |patterns: &[&str]| -> Vec<String> {
            patterns.iter().map(|&pattern| pattern.to_owned()).collect()
        };
        for short in [false, true] {
            let echoes =
                selected(&only(&["echo/ringbell/64/"]), short).expect("there is such a row");
            assert_eq!(
                echoes.iter().map(Entry::label).filter(|label| label.contains("ringbell")).count(),
                echoes.len()
            );
            assert!(!echoes.is_empty());
            for patterns in [only(&["echo/nobody/"]), only(&["echo/ringbell/64/", "echo/nobody/"])]
            {
                let error = selected(&patterns, short).err().expect("nobody runs");
                assert_eq!(error.to_string(), "nothing matches --only `echo/nobody/`; see --list");
            }
        }
    }

    #[test]
    fn every_row_has_a_label_of_its_own() {
        let entries = all();
        let labels: BTreeSet<String> = entries.iter().map(Entry::label).collect();
        assert_eq!(labels.len(), entries.len());
    }

    #[test]
    fn every_bounded_case_has_a_limit() {
        let entries = all();
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
            let entries = selected(&[], short).expect("no pattern");
            for entry in &entries {
                let Some(yardstick) = entry.case.yardstick(entry.contender.name()) else {
                    continue;
                };
                let found =
                    entries.iter().any(|other| (other.contender.name(), other.case) == yardstick);
                assert!(found, "{}", entry.label());
            }
        }
    }
}
