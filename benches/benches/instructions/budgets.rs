//! The budgets, and how counts are compared with them.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::PathBuf;

use crate::outcome::Outcome;

/// A count may exceed its budget by this factor and this many instructions: compilers change.
const TOLERANCE: f64 = 1.03;
const SLACK: f64 = 1.5;

/// What was counted: instructions, by path.
pub(crate) type Counts = BTreeMap<String, f64>;

/// What may be counted: instructions, by path.
pub(crate) type Budgets = BTreeMap<String, f64>;

/// Where the budgets lie.
fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("instructions.json")
}

/// The budgets of all architectures.
pub(crate) fn read() -> Outcome<BTreeMap<String, Budgets>> {
    let file = file();
    let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))?)
}

/// Replaces the budgets of all architectures.
pub(crate) fn write(budgets: &BTreeMap<String, Budgets>) -> Outcome<()> {
    let file = file();
    let text = serde_json::to_string_pretty(budgets)? + "\n";
    Ok(fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?)
}

/// The budgets that just allow these counts.
pub(crate) fn of(counts: &Counts) -> Budgets {
    counts.iter().map(|(path, count)| (path.clone(), count.ceil())).collect()
}

/// How a path stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Kept,
    Exceeded,
    /// It is counted, but has no budget.
    NoBudget,
    /// It has a budget, but is not counted any more.
    NotCounted,
}

/// A path with its count and its budget.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) path: String,
    count: Option<f64>,
    budget: Option<f64>,
    pub(crate) verdict: Verdict,
}

impl fmt::Display for Line {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, count, budget, verdict } = self;
        let count = count.map_or_else(|| "-".to_owned(), |count| format!("{count:.1}"));
        let budget = budget.map_or_else(|| "-".to_owned(), |budget| budget.to_string());
        let remark = match verdict {
            Verdict::Kept => "",
            Verdict::Exceeded => " EXCEEDED",
            Verdict::NoBudget => " has no budget: run with --update",
            Verdict::NotCounted => " has a budget, but is not counted any more",
        };
        write!(out, "{path:<36} {count:>12} {budget:>8}{remark}")
    }
}

/// All paths that are counted or have a budget, by name.
pub(crate) fn compare(counts: &Counts, budgets: &Budgets) -> Vec<Line> {
    let line = |path: &String| {
        let (count, budget) = (counts.get(path).copied(), budgets.get(path).copied());
        let verdict = match (count, budget) {
            (Some(count), Some(budget)) if count <= budget * TOLERANCE + SLACK => Verdict::Kept,
            (Some(_), Some(_)) => Verdict::Exceeded,
            (_, None) => Verdict::NoBudget,
            (None, Some(_)) => Verdict::NotCounted,
        };
        Line { path: path.clone(), count, budget, verdict }
    };
    let only_budgets = budgets.keys().filter(|path| !counts.contains_key(*path));
    counts.keys().chain(only_budgets).map(line).collect()
}

/// The largest whole budget that this count exceeds by an instruction or more.
pub(crate) fn too_low(count: f64) -> Outcome<f64> {
    let budget = ((count - 1.0 - SLACK) / TOLERANCE).floor();
    if budget < 0.0 {
        Err(format!("{count:.1} instructions exceed no budget").into())
    } else {
        Ok(budget)
    }
}
