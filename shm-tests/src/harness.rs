//! The `main` of a test program.
//!
//! Tests run one after the other: many of them measure time or fill both CPUs. A test returns what
//! it did ([`Ran`]), which is printed, so that counts and skips are seen. Arguments are those of
//! the standard harness as far as they make sense (filters, `--exact`, `--skip`, `--list`); others
//! are ignored.

use crate::process::{self, Arguments};
use crate::run::seed;
use crate::transport::{self, Carrier};
use crate::{observe, progress, server};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// What a test did.
#[derive(Debug)]
pub enum Ran {
    /// It passed; what and how much it ran.
    Done(String),
    /// It could not run here, and why.
    Skipped(String),
}

/// The result of a test that passed: what and how much it ran.
#[macro_export]
macro_rules! done {
    ($($text:tt)*) => { $crate::harness::Ran::Done(format!($($text)*)) };
}

/// A test: its name, its body, and what carries its sessions.
pub type Test = (&'static str, fn() -> Ran, Carrier);
/// A role of another process: its name and its body.
pub type Role = (&'static str, fn(&Arguments));
/// The roles that every test program has.
const ROLES: &[Role] = &[("server", server::serve)];

/// Makes the `main` of a test program from the functions that are its tests and roles.
///
/// Those in `both` are run twice: as `name`, and as `name_over_socket` with clients whose sessions
/// the socket carries. Those in `tests` are run once: they are about rings, or about memory that is
/// shared.
#[macro_export]
macro_rules! suite {
    (
        $(both: [$($both:ident),* $(,)?],)?
        tests: [$($test:ident),* $(,)?],
        roles: [$($role:ident),* $(,)?] $(,)?
    ) => {
        fn main() -> std::process::ExitCode {
            use $crate::transport::Carrier::{Shared, Socket};
            // A suite may have no test of either kind.
            let _ = (Shared, Socket);
            $crate::harness::main(
                &[
                    $($(
                        (stringify!($both), $both as fn() -> $crate::harness::Ran, Shared),
                        (concat!(stringify!($both), "_over_socket"), $both, Socket),
                    )*)?
                    $((stringify!($test), $test, Shared)),*
                ],
                &[$((stringify!($role), $role)),*],
            )
        }
    };
}

/// How long a test may go without [`tick`](progress::tick) before the watchdog ends it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the role that the environment names, or the tests that the arguments name.
pub fn main(tests: &[Test], roles: &[Role]) -> ExitCode {
    if let Some(role) = process::role() {
        let all = roles.iter().chain(ROLES);
        let (_, body) = all
            .into_iter()
            .find(|(name, _)| *name == role)
            .unwrap_or_else(|| panic!("no role {role}"));
        process::live_with_the_parent();
        body(&Arguments::of_this_process());
        return ExitCode::SUCCESS;
    }
    let options = Options::parse();
    let chosen: Vec<&Test> = tests.iter().filter(|(name, ..)| options.chooses(name)).collect();
    if options.list {
        for (name, ..) in chosen {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    run(&chosen)
}

fn run(tests: &[&Test]) -> ExitCode {
    std::thread::spawn(watch);
    println!("\nrunning {} test{}", tests.len(), if tests.len() == 1 { "" } else { "s" });
    let (mut passed, mut skipped, mut failed) = (0, 0, Vec::new());
    for (name, body, carrier) in tests {
        println!("test {name} ...");
        transport::carry_by(*carrier);
        let began = Instant::now();
        let worked = observe::cpu_time_with_children();
        progress::tick();
        let result = catch_unwind(AssertUnwindSafe(body));
        progress::rest();
        let took = format!(
            "{:.1} s, {:.1} s of CPU",
            began.elapsed().as_secs_f64(),
            (observe::cpu_time_with_children() - worked).as_secs_f64()
        );
        match result {
            Ok(Ran::Done(what)) => {
                passed += 1;
                println!("test {name} ... ok ({took}): {what}");
            }
            Ok(Ran::Skipped(why)) => {
                skipped += 1;
                println!("test {name} ... SKIPPED: {why}");
            }
            Err(_) => {
                failed.push(*name);
                println!("test {name} ... FAILED ({took}, seed {})", seed());
            }
        }
    }
    let result = if failed.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {result}. {passed} passed; {} failed; {skipped} SKIPPED",
        failed.len()
    );
    for name in &failed {
        println!("    failed: {name}");
    }
    println!();
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(101) }
}

/// The watchdog: ends a test that makes no progress, having said what is known. It is the canary,
/// too.
fn watch() {
    loop {
        let over = progress::nap();
        let stuck = progress::stuck_for();
        if over > Duration::from_millis(500) {
            println!("    this machine stood still for {over:?}");
            // Nor could the test: its time begins anew.
            if stuck.is_some() {
                progress::tick();
            }
        } else if stuck.is_some_and(|stuck| stuck > PATIENCE) {
            println!("\nWATCHDOG: no progress for {} s (seed {})", PATIENCE.as_secs(), seed());
            println!("{}", process::diagnose_all());
            // The children die with this process.
            std::process::exit(101);
        }
    }
}

#[derive(Debug, Default)]
struct Options {
    filters: Vec<String>,
    skips: Vec<String>,
    exact: bool,
    list: bool,
    ignored_only: bool,
}

impl Options {
    fn parse() -> Self {
        let mut options = Self::default();
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match &*argument {
                "--exact" => options.exact = true,
                "--list" => options.list = true,
                "--ignored" => options.ignored_only = true,
                "--skip" => options.skips.extend(arguments.next()),
                "--format" | "--color" | "--test-threads" | "--logfile" | "-Z" => {
                    let _ = arguments.next();
                }
                argument if argument.starts_with('-') => {}
                _ => options.filters.push(argument),
            }
        }
        options
    }

    fn chooses(&self, name: &str) -> bool {
        let matches =
            |text: &String| if self.exact { name == text } else { name.contains(&**text) };
        !self.ignored_only
            && (self.filters.is_empty() || self.filters.iter().any(matches))
            && !self.skips.iter().any(matches)
    }
}
