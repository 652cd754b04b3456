//! The patterns of `--only`: which labels they select.

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
    if patterns.is_empty() { Ok(()) } else { Err(Unmatched { patterns, known: known.to_owned() }) }
}

/// Patterns of `--only` that select nothing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unmatched {
    patterns: Vec<String>,
    known: String,
}

impl fmt::Display for Unmatched {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let patterns: Vec<String> =
            self.patterns.iter().map(|pattern| format!("`{pattern}`")).collect();
        write!(out, "nothing matches --only {}; {}", patterns.join(", "), self.known)
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
        // One by itself is enough, and a pattern that is part of no single label.
        let several = said(&["tcp", "quic", "echo/tcp/8"]);
        assert_eq!(
            several.as_deref(),
            Some("nothing matches --only `quic`, `echo/tcp/8`; see --list")
        );
    }

    #[test]
    fn a_label_is_selected_by_any_pattern() {
        assert!(selects(&[], LABELS[0]));
        assert!(selects(&owned(&["setup", "echo/ring"]), LABELS[0]));
        assert!(!selects(&owned(&["setup", "echo/tcp"]), LABELS[0]));
    }
}
