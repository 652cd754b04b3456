//! `race`: the referee. It runs Ringbell, its peers and the bare machine through the same
//! scenarios, in the same minutes, with the same clock, and prints one table.
//!
//! How a figure comes about:
//!
//! 1. [`scenario`] lists the cases: what is done, with which size, by how many clients, on which
//!    CPUs.
//! 2. [`systems`] and [`limits`] list who competes, [`work`] what their handlers do, and
//!    [`world_state`] the store behind the service scenarios. Both are [`system::System`]s: the
//!    limits are the least that the hardware and the kernel allow, written out by hand. Single
//!    costs without a partner are in [`limits::costs`].
//! 3. [`trial`] runs one case once: the server and every client are processes of their own (this
//!    binary again, with the hidden subcommand `role`), pinned by [`pin`].
//! 4. [`measure`] is the only code that reads clocks, so that all competitors are timed alike.
//! 5. [`distance`] watches how far apart the two CPUs are, since virtual ones move.
//! 6. [`rounds`] repeats all trials in random order; [`row`] takes the medians; [`table`] prints.
//! 7. [`report`] makes BENCHMARKS.md with its plots from the JSON file, in which [`machine`] says
//!    where it was made.
//!
//! The sockets scenarios drive the example `guest_sockets`: [`guest_sockets`]. Warm pools have a
//! table of their own: `race pool`, from [`warm`].
//!
//! Layers, lowest first. A module imports only from modules that stand above it in this list:
//!
//! ```text
//! outcome        results whose errors are shown to a person
//! only           the patterns of --only
//! interrupt      signals that end a race
//! results        the file of --json
//! progress       what is going on, on a terminal
//! busy           whether others want the CPUs
//! scenario       what is measured
//! payload        what is sent, and how it is checked
//! pause          waiting for a time
//! cpu            CPU time of a process
//! pin            which CPUs a process may use
//! pool           threads and queues for handlers that wait
//! descriptors    handing descriptors to another process
//! syscalls       counting system calls
//! work           what handlers do
//! system         what a competitor is
//! guest_sockets  the example of that name
//! world_state    the example of that name
//! limits         the least that this machine allows
//! systems        the competitors
//! machine        where a race was run
//! contender      limits, costs and systems
//! entries        the rows to be measured
//! distance       how far apart two CPUs are
//! measure        the clock
//! role           a process of a trial
//! trial          one case, once
//! row            a row of the table
//! rounds         all trials, several times
//! table          the table for people
//! report         BENCHMARKS.md
//! warm           warm pools
//! ```

#[path = "../../tools/src/busy.rs"]
mod busy;
mod contender;
mod cpu;
mod descriptors;
mod distance;
mod entries;
mod guest_sockets;
mod interrupt;
mod limits;
mod machine;
mod measure;
mod only;
mod outcome;
mod pause;
mod payload;
mod pin;
mod pool;
mod progress;
mod report;
mod results;
mod role;
mod rounds;
mod row;
mod scenario;
mod syscalls;
mod system;
mod systems;
mod table;
mod trial;
mod warm;
mod work;
mod world_state;

use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{Parser, Subcommand};
use serde::Serialize;

use crate::busy::{Busy, Ticks, steal_remark};
use crate::interrupt::Interrupted;
use crate::machine::Machine;
use crate::only::Unmatched;
use crate::outcome::Outcome;
use crate::pin::Cpus;
use crate::report::Report;
use crate::results::Results;
use crate::rounds::Plan;
use crate::row::Row;

/// Request/response between two processes: limits of this machine, Ringbell and its peers in one
/// table.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER)]
struct Cli {
    /// How often every row is measured; figures are medians over the rounds [default: 9, with
    /// --quick 3, but no more than there is time for: ten minutes, with --quick one]
    #[arg(long, global = true, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Short trials of most rows in under a minute, for a look, not for publication; of all that
    /// --only selects
    #[arg(long, global = true)]
    quick: bool,
    /// Length of one measurement in milliseconds [default: 100, with --quick 20]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=60_000))]
    millis: Option<u64>,
    /// Only rows whose `scenario/system/size...` label (see --list) contains this; may be repeated.
    /// A pattern that selects no row is an error
    #[arg(long, value_name = "PATTERN", global = true)]
    only: Vec<String>,
    /// Print the labels of the rows and stop
    #[arg(long)]
    list: bool,
    /// Also write machine, method and rows to this file, as JSON. It is replaced in one step at the
    /// end: a race that fails leaves the old one
    #[arg(long, value_name = "FILE", global = true)]
    json: Option<PathBuf>,
    /// Seed of the order in which trials run [default: from the clock]
    #[arg(long)]
    seed: Option<u64>,
    #[command(subcommand)]
    command: Option<Command>,
}

const AFTER: &str = "\
Examples:
  race --quick                             a look at most rows, in under a minute
  race --list --only echo/                 labels of rows
  race --only echo/ringbell --only echo/uds-stream --rounds 3
  race --json race.json && race report --json race.json
  race pool --quick                        warm pools

Exit status:
  0    Every row was measured.
  1    It failed, or a row or a part of one is missing. Standard error says why.
  2    Wrong use: an option, a number outside its range, an --only that selects nothing.
  129, 130, 143
       SIGHUP, SIGINT or SIGTERM ended it. Its processes and files are gone.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Make BENCHMARKS.md with its plots from a JSON file
    Report(Report),
    /// One of the processes of a trial; started by `race` itself.
    #[command(hide = true)]
    Role {
        /// What to do, as JSON of [`role::Order`].
        order: String,
    },
    /// Warm pools: what they cost and spare
    Pool,
    /// The server of `race pool`.
    #[command(hide = true)]
    PoolServer {
        /// Where to listen.
        path: PathBuf,
        /// The CPU to stay on.
        #[arg(long)]
        cpu: Option<usize>,
    },
    /// The guest of a host: the program of the sockets scenarios.
    #[command(hide = true)]
    Guest {
        /// Where its host is.
        path: PathBuf,
        /// What it serves, as JSON.
        scenario: String,
        /// Whether it polls.
        #[arg(long)]
        poll: bool,
    },
    /// A worker of `race pool`.
    #[command(hide = true)]
    PoolWorker,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.command {
        Some(Command::Report(report)) => report::write(report).map(|()| true),
        Some(Command::Role { order }) => role::end(role::play(order)),
        Some(Command::Pool) => race_pools(&cli).map(|()| true),
        Some(Command::PoolServer { path, cpu }) => warm::serve(path, *cpu).map(|()| true),
        Some(Command::Guest { path, scenario, poll }) => {
            guest_sockets::guest(path, scenario, *poll).map(|()| true)
        }
        Some(Command::PoolWorker) => warm::work().map(|()| true),
        None => race(&cli),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("race: {error}");
            match (error.downcast_ref::<Interrupted>(), error.is::<Unmatched>()) {
                (Some(interrupted), _) => interrupted.status().into(),
                (None, true) => ExitCode::from(2),
                (None, false) => ExitCode::FAILURE,
            }
        }
    }
}

/// Writes to standard output. That its reader has seen enough is no error.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}

/// Measures warm pools.
fn race_pools(cli: &Cli) -> Outcome<()> {
    let extent = warm::Extent {
        rounds: cli.rounds.unwrap_or(if cli.quick { 2 } else { 5 }),
        requests: if cli.quick { 500 } else { 5000 },
        restarts: if cli.quick { 5 } else { 100 },
    };
    warm::check(&cli.only)?;
    let results = cli.json.as_deref().map(Results::open).transpose()?;
    let watch = Watch::start();
    let (table, json) = warm::run(extent, &cli.only)?;
    print(&(table + &watch.end().foot()))?;
    results.map_or(Ok(()), |results| results.write(&json))
}

/// Runs the race. False: it ran, but a row or a part of one is missing.
fn race(cli: &Cli) -> Outcome<bool> {
    let entries = entries::selected(&cli.only, cli.quick)?;
    if cli.list {
        let labels: String = entries.iter().map(|entry| entry.label() + "\n").collect();
        print(&labels)?;
        return Ok(true);
    }
    let plan = Plan {
        budget: cli.rounds.is_none().then(|| Duration::from_secs(if cli.quick { 52 } else { 600 })),
        rounds: cli.rounds.unwrap_or(if cli.quick { 3 } else { 9 }),
        run: Duration::from_millis(cli.millis.unwrap_or(if cli.quick { 20 } else { 100 })),
        warm_up: Duration::from_millis(if cli.quick { 4 } else { 20 }),
        attempts: if cli.quick { 2 } else { 4 },
        patience: Duration::from_millis(if cli.quick { 100 } else { 500 }),
        count_limits: !cli.quick,
        began: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
        seed: cli.seed.unwrap_or_else(rounds::seed_from_clock),
    };
    let results = cli.json.as_deref().map(Results::open).transpose()?;
    interrupt::unwind_on_signals()?;
    let watch = Watch::start();
    let machine = Machine::here(Cpus::allowed()?.number());
    let begun = Instant::now();
    let mut race = rounds::run(&entries, &plan)?;
    let busy = watch.end();
    print(&(table::render(&race.rows) + &busy.foot()))?;
    for remark in &race.remarks {
        eprintln!("race: {remark}");
    }
    race.remarks.splice(0..0, busy.remark());
    if let Some(results) = results {
        let record = Record {
            machine,
            run: Run {
                began: plan.began,
                quick: cli.quick,
                rounds: plan.rounds,
                millis: u64::try_from(plan.run.as_millis())?,
                seed: plan.seed,
                atomic_round_trip_ns: race.distance,
                seconds: begun.elapsed().as_secs(),
                busy: &busy,
                remarks: &race.remarks,
            },
            quantiles: measure::QUANTILES,
            rows: &race.rows,
        };
        results.write(&(serde_json::to_string_pretty(&record)? + "\n"))?;
    }
    Ok(race.complete)
}

/// What goes into the JSON file.
#[derive(Debug, Serialize)]
struct Record<'a> {
    machine: Machine,
    run: Run<'a>,
    /// Where the curves of the rows have their points.
    quantiles: [f64; measure::QUANTILES.len()],
    rows: &'a [Row],
}

/// How the race was run.
#[derive(Debug, Serialize)]
struct Run<'a> {
    /// Seconds since 1970.
    began: u64,
    quick: bool,
    rounds: u32,
    /// Length of a measurement.
    millis: u64,
    seed: u64,
    /// How far apart the two CPUs were; none if no row needed them.
    atomic_round_trip_ns: Option<f64>,
    /// How long it all took.
    seconds: u64,
    /// How busy other processes kept the machine.
    busy: &'a Busyness,
    remarks: &'a [String],
}

/// Looks for others who want the CPUs, before and after, when the race itself does nothing.
#[derive(Debug)]
struct Watch {
    before: Busy,
    ticks: Option<Ticks>,
}

impl Watch {
    /// Says at once that the machine is busy, so that the user can do something about it.
    fn start() -> Self {
        let before = Busy::look();
        if let Some(remark) = before.remark(true) {
            eprintln!("race: the machine is busy: {remark}");
        }
        Self { before, ticks: Ticks::now() }
    }

    fn end(self) -> Busyness {
        let steal_percent =
            self.ticks.zip(Ticks::now()).map(|(from, to)| to.steal_percent_since(from));
        let mut found =
            Busyness { is_busy: false, before: self.before, steal_percent, after: Busy::look() };
        found.is_busy = found.remark().is_some();
        found
    }
}

/// How busy other processes kept the machine during a race.
#[derive(Debug, Serialize)]
struct Busyness {
    /// Whether the machine was too busy for the figures to be published.
    is_busy: bool,
    before: Busy,
    after: Busy,
    /// Per cent of the CPU time that a hypervisor took away during the race.
    steal_percent: Option<f64>,
}

impl Busyness {
    fn remark(&self) -> Option<String> {
        let when = [
            self.before.remark(true).map(|what| format!("before: {what}")),
            steal_remark(self.steal_percent).map(|what| format!("meanwhile: {what}")),
            self.after.remark(false).map(|what| format!("after: {what}")),
        ];
        let when: Vec<String> = when.into_iter().flatten().collect();
        let text =
            || format!("the machine was busy ({}): do not publish these figures", when.join("; "));
        (!when.is_empty()).then(text)
    }

    /// The lines under the table.
    fn foot(&self) -> String {
        self.remark().map_or_else(String::new, |remark| format!("\n{remark}\n"))
    }
}
