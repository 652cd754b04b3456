//! `race pool`: what warm pools cost and spare, with a server in a process of its own.
//!
//! * `pool-acquire`: taking an item or a connection out and giving it back, beside locking and
//!   unlocking two mutexes.
//! * `pool-first`: one request over a connection held open, out of a warm pool, and over one that
//!   is dialled for it.
//! * `pool-callers`: 100 callers at once, with 16 connections and with one for each request.
//! * `pool-workers`: a worker that takes 300 ms to be ready, out of a warm pool and started for
//!   each use.
//! * `pool-restart`: the server is killed under load, again and again.
//!
//! Systems of a scenario take turns in every round, so that a slow minute falls on all of them;
//! figures are medians over the rounds. Every answer is compared with its request.
//!
//! Layers, lowest first:
//!
//! ```text
//! figures    what is measured, and the table
//! processes  the server, and workers
//! requests   what all scenarios share
//! acquire    pool-acquire
//! first      pool-first
//! callers    pool-callers
//! workers    pool-workers
//! restart    pool-restart
//! ```

mod acquire;
mod callers;
mod figures;
mod first;
mod processes;
mod requests;
mod restart;
mod workers;

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use self::figures::{Row, table};
use crate::interrupt;
use crate::only;
use crate::outcome::Outcome;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    /// How often each row is measured.
    pub(crate) rounds: u32,
    /// Requests of a row and round.
    pub(crate) requests: u64,
    /// Times the server is killed.
    pub(crate) restarts: u32,
}

/// The server's process.
pub(crate) fn serve(path: &Path, cpu: Option<usize>) -> Outcome<()> {
    processes::serve(path, cpu)
}

/// A worker's process.
pub(crate) fn work() -> Outcome<()> {
    processes::work()
}

/// Measures one scenario, and adds its rows.
type Measure = fn(Extent, &Path, &mut Vec<Row>) -> Outcome<()>;

/// In the order in which they run.
const SCENARIOS: [(&str, Measure); 5] = [
    ("pool-acquire", acquire::measure),
    ("pool-first", first::measure),
    ("pool-callers", callers::measure),
    ("pool-workers", workers::measure),
    ("pool-restart", restart::measure),
];

/// Fails if a pattern selects no scenario.
pub(crate) fn check(only: &[String]) -> Outcome<()> {
    selected(only)?;
    Ok(())
}

/// Measures all scenarios, or those whose name contains one of `only`; the table, and the rows as
/// JSON.
///
/// # Errors
/// Also if a pattern selects no scenario.
pub(crate) fn run(extent: Extent, only: &[String]) -> Outcome<(String, String)> {
    let scenarios = selected(only)?;
    let directory = Directory::new()?;
    interrupt::is_temporary(directory.0.clone());
    interrupt::exit_on_signals()?;
    let mut rows = Vec::new();
    for measure in scenarios {
        let measured = measure(extent, &directory.0, &mut rows);
        interrupt::await_exit();
        measured?;
    }
    Ok((table(&rows), serde_json::to_string_pretty(&rows)? + "\n"))
}

/// The scenarios that the patterns select.
fn selected(only: &[String]) -> Result<Vec<Measure>, only::Unmatched> {
    let names = SCENARIOS.iter().map(|(name, _)| *name);
    let known = format!("the scenarios are {}", names.clone().collect::<Vec<_>>().join(", "));
    only::check(only, names, &known)?;
    let wanted = SCENARIOS.iter().filter(|(name, _)| only::selects(only, name));
    Ok(wanted.map(|(_, measure)| *measure).collect())
}

/// A directory for the sockets, which goes with this value.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Outcome<Self> {
        let path = std::env::temp_dir().join(format!("ringbell-race-pool-{}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_without_a_scenario_is_an_error_that_names_it() {
        let only = |patterns: &[&str]| -> Vec<String> {
            patterns.iter().map(|&pattern| pattern.to_owned()).collect()
        };
        assert_eq!(selected(&[]).map(|all| all.len()), Ok(SCENARIOS.len()));
        assert_eq!(selected(&only(&["first", "restart"])).map(|two| two.len()), Ok(2));
        let error = selected(&only(&["first", "echo"])).expect_err("there is no such scenario");
        assert!(
            error.to_string().starts_with("nothing matches --only `echo`; the scenarios are pool-")
        );
    }
}
