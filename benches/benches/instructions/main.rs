//! How many instructions the paths take that every message takes: a gate for noisy machines, too.
//!
//! `cargo bench -p ringbell-benches --bench instructions` counts instructions in user mode,
//! compares them with the budgets in `instructions.json`, and fails if one is exceeded. There are
//! two ways to count ([`meter::Way`]): the CPU's own counter, and single steps where that counter
//! is missing or not permitted. Where neither works, and on an architecture without budgets, the
//! gate fails.
//!
//! Flags, after `--`:
//!
//! | flag | what it does |
//! |---|---|
//! | `--steps` | counts by single steps even where there is a counter |
//! | `--update` | writes the budgets of this architecture anew |
//! | `--self-check` | also lowers each budget in turn and fails unless that is noticed |
//! | `--allow-skip` | passes where nothing can be checked, and says so |
//!
//! Layers, lowest first. A module imports only from modules that stand above it in this list:
//!
//! ```text
//! outcome  results whose errors are shown to a person
//! budgets  the budgets, and how counts are compared with them
//! steps    counting by single steps
//! meter    the two ways to count
//! paths    what is counted
//! ```

mod budgets;
mod meter;
#[path = "../../src/outcome.rs"]
mod outcome;
mod paths;
#[cfg_attr(not(target_arch = "x86_64"), path = "no_steps.rs")]
mod steps;

use std::collections::BTreeSet;
use std::env;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use crate::budgets::{Budgets, Counts, Verdict};
use crate::meter::Way;
use crate::outcome::Outcome;

const USAGE: &str = "the flags are --steps, --update, --self-check and --allow-skip";

/// The C library chooses its `memcpy` by the CPU: some have instructions that copy all at once,
/// others wider registers. The paths of larger messages would take another number of instructions
/// on each. Budgets are for AVX2, which all x86_64 servers of the last ten years have.
const SAME_COPIES: (&str, &str) =
    ("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-ERMS,-FSRM");

/// Starts this program anew, so that the C library copies as where the budgets were made.
fn with_same_copies() -> Outcome<()> {
    let (name, value) = SAME_COPIES;
    if env::var_os(name).is_some_and(|set| set == value) {
        return Ok(());
    }
    let program = env::current_exe()?;
    // Returns only if it failed.
    Err(Command::new(program).args(env::args_os().skip(1)).env(name, value).exec().into())
}

fn main() -> ExitCode {
    match with_same_copies().and_then(|()| run()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

/// False: the gate is shut.
fn run() -> Outcome<bool> {
    let mut flags: BTreeSet<String> = env::args().skip(1).collect();
    // Cargo's own.
    flags.remove("--bench");
    let mut given = |flag| flags.remove(flag);
    let (steps, update) = (given("--steps"), given("--update"));
    let (self_check, allow_skip) = (given("--self-check"), given("--allow-skip"));
    if let Some(flag) = flags.first() {
        return Err(format!("unknown flag {flag}: {USAGE}").into());
    }
    match gate(steps, update, self_check)? {
        Gate::Open => Ok(true),
        Gate::Shut => Ok(false),
        Gate::Blind(why) if allow_skip => {
            println!("SKIPPED: {why}; nothing was checked");
            Ok(true)
        }
        Gate::Blind(why) => {
            Err(format!("{why}; nothing was checked, which only --allow-skip lets pass").into())
        }
    }
}

/// What the gate says.
enum Gate {
    /// Every path is within its budget.
    Open,
    /// One is not.
    Shut,
    /// Nothing could be checked, and why.
    Blind(String),
}

fn gate(steps: bool, update: bool, self_check: bool) -> Outcome<Gate> {
    let (way, why) = match way(steps) {
        Ok(chosen) => chosen,
        Err(why) => return Ok(Gate::Blind(format!("instructions cannot be counted here: {why}"))),
    };
    println!("counted {way}{why}");
    let counts = paths::all(way)?;
    let mut all = budgets::read()?;
    if update {
        all.insert(env::consts::ARCH.to_owned(), budgets::of(&counts));
        budgets::write(&all)?;
    }
    let Some(budgets) = all.get(env::consts::ARCH) else {
        return Ok(Gate::Blind(format!("there are no budgets for {}", env::consts::ARCH)));
    };
    let lines = budgets::compare(&counts, budgets);
    println!("{:<36} {:>12} {:>8}", "path", "instructions", "budget");
    for line in &lines {
        println!("{line}");
    }
    if self_check {
        check_itself(&counts, budgets)?;
    }
    let open = lines.iter().all(|line| line.verdict == Verdict::Kept);
    Ok(if open { Gate::Open } else { Gate::Shut })
}

/// How to count, and a remark on why; or why it cannot be done.
fn way(steps: bool) -> Result<(Way, String), String> {
    let no_counter = if steps { Err("--steps".to_owned()) } else { meter::try_counter() };
    let Err(no_counter) = no_counter else { return Ok((Way::Counter, String::new())) };
    match steps::try_steps() {
        Ok(()) => Ok((Way::Steps, format!(" ({no_counter})"))),
        Err(no_steps) => Err(format!("{no_counter}; single steps do not work: {no_steps}")),
    }
}

/// Fails unless each path alone is found out when its budget is too low, or is not there.
fn check_itself(counts: &Counts, budgets: &Budgets) -> Outcome<()> {
    println!("\n{:<36} {:>12} {:>8}", "with one budget lowered", "instructions", "budget");
    let before = budgets::compare(counts, budgets);
    for path in counts.keys() {
        let mut lowered = budgets.clone();
        lowered.insert(path.clone(), budgets::too_low(counts[path])?);
        let mut missing = budgets.clone();
        missing.remove(path);
        for (budgets, expected) in [(lowered, Verdict::Exceeded), (missing, Verdict::NoBudget)] {
            for (line, before) in budgets::compare(counts, &budgets).iter().zip(&before) {
                if line.path == *path {
                    println!("{line}");
                }
                let expected = if line.path == *path { expected } else { before.verdict };
                if line.verdict != expected {
                    let (path, verdict) = (&line.path, line.verdict);
                    return Err(
                        format!("{path}: {expected:?} was expected, not {verdict:?}").into()
                    );
                }
            }
        }
    }
    Ok(())
}
