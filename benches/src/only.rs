//! The patterns of `--only`: which labels they select.

use std::collections::BTreeSet;
use std::fmt;

/// Whether a label is selected: it contains one of the patterns, or there are none.
pub(crate) fn selects(only: &[String], label: &str) -> bool {
    only.is_empty() || only.iter().any(|pattern| label.contains(pattern.as_str()))
}

/// Fails unless each pattern selects one of the labels. `known` tells the user where
/// they are listed.
pub(crate) fn check<'a>(
    only: &[String],
    labels: impl Iterator<Item = &'a str> + Clone,
    known: &str,
) -> Result<(), Unmatched> {
    let is_unmatched =
        |pattern: &&String| !labels.clone().any(|label| label.contains(pattern.as_str()));
    let patterns: Vec<String> = only.iter().filter(is_unmatched).cloned().collect();
    if patterns.is_empty() {
        return Ok(());
    }
    let mut near: Vec<String> =
        patterns.iter().flat_map(|pattern| near(pattern, labels.clone())).collect();
    near.dedup();
    Err(Unmatched { patterns, near, known: known.to_owned() })
}

/// How many labels are suggested for a pattern.
const SUGGESTIONS: usize = 3;

/// The parts of labels, cut at slashes, that differ least from a pattern, if any is near.
fn near<'a>(pattern: &str, labels: impl Iterator<Item = &'a str>) -> Vec<String> {
    let pattern = pattern.trim_matches('/');
    let wanted = pattern.split('/').count();
    let mut parts = BTreeSet::new();
    for label in labels {
        let words: Vec<&str> = label.split('/').collect();
        parts.extend(words.windows(wanted).map(|words| words.join("/")));
    }
    let farthest = (pattern.chars().count() / 3).max(1);
    let mut near: Vec<(usize, String)> = parts
        .into_iter()
        .map(|part| (distance(pattern, &part), part))
        .filter(|(distance, _)| *distance <= farthest)
        .collect();
    near.sort();
    let least = near.first().map_or(0, |(distance, _)| *distance);
    near.retain(|(distance, _)| *distance <= least + 1);
    near.into_iter().take(SUGGESTIONS).map(|(_, part)| part).collect()
}

/// Characters that are to be added, removed, replaced, or swapped with the next one (the
/// Damerau-Levenshtein distance, in which no part is changed twice).
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut rows = vec![(0..=to.len()).collect::<Vec<usize>>()];
    for (i, a) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in to.iter().enumerate() {
            let replaced = rows[i][j] + usize::from(a != b);
            let mut least = replaced.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == to[j - 1] && from[i - 1] == *b {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

/// Patterns of `--only` that select nothing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unmatched {
    patterns: Vec<String>,
    /// Parts of labels that are nearly the patterns.
    near: Vec<String>,
    known: String,
}

impl fmt::Display for Unmatched {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let patterns: Vec<String> =
            self.patterns.iter().map(|pattern| format!("`{pattern}`")).collect();
        write!(out, "nothing matches --only {}", patterns.join(", "))?;
        if !self.near.is_empty() {
            let near: Vec<String> = self.near.iter().map(|part| format!("`{part}`")).collect();
            write!(out, " (near: {})", near.join(", "))?;
        }
        write!(out, "; {}", self.known)
    }
}

impl std::error::Error for Unmatched {}

#[cfg(test)]
mod tests {
    use super::*;

    const LABELS: [&str; 3] = ["echo/ringbell/64", "echo/tcp/64", "setup/tcp/8"];

    fn owned(only: &[&str]) -> Vec<String> {
        only.iter().map(|&pattern| pattern.to_owned()).collect()
    }

    fn said(only: &[&str]) -> Option<String> {
        check(&owned(only), LABELS.into_iter(), "see --list").err().map(|error| error.to_string())
    }

    #[test]
    fn every_pattern_must_select_something() {
        assert_eq!(said(&[]), None);
        assert_eq!(said(&["tcp", "setup/"]), None);
        assert_eq!(said(&["quic"]).as_deref(), Some("nothing matches --only `quic`; see --list"));
        let near = |only| said(&[only]).expect("no such label");
        assert_eq!(near("ehco"), "nothing matches --only `ehco` (near: `echo`); see --list");
        assert!(near("echo/rngbell/").contains("(near: `echo/ringbell`)"));
        // One by itself is enough, and a pattern that is part of no single label.
        let several = said(&["tcp", "quic", "echo/tcp/8"]);
        assert_eq!(
            several.as_deref(),
            Some("nothing matches --only `quic`, `echo/tcp/8` (near: `echo/tcp/64`); see --list")
        );
    }

    #[test]
    fn a_label_is_selected_by_any_pattern() {
        assert!(selects(&[], LABELS[0]));
        assert!(selects(&owned(&["setup", "echo/ring"]), LABELS[0]));
        assert!(!selects(&owned(&["setup", "echo/tcp"]), LABELS[0]));
    }
}
