//! ring-echo: verified requests over Ringbell, and over plain Unix domain sockets beside it, in one
//! table.
//!
//! [`compare`] starts the processes of a comparison ([`role`]): servers ([`service`]) and clients
//! ([`caller`]), which send a [`load`] of requests ([`pattern`]) over a [`channel`] or its baseline
//! ([`uds`]). What they report becomes a measurement in [`measure`], with the system calls from
//! [`syscalls`], and is shown by [`table`] or as JSON. [`say`] makes a sentence of an error.

#[path = "../busy.rs"]
mod busy;
mod caller;
mod canary;
mod channel;
mod cli;
mod compare;
mod load;
mod measure;
mod pattern;
mod role;
mod say;
mod service;
mod syscalls;
mod table;
mod uds;

use clap::Parser;
use cli::{Cli, Command, Compare, LoadArgs, Place, Transport};
use compare::Comparison;
use measure::Measurement;
use ringbell::Server;
use std::io::Write;
use std::process::ExitCode;

/// Any reason why the program does not do what it was asked for; it ends with status 1.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// It was asked for something that makes no sense; it ends with status 2.
#[derive(Debug)]
struct Usage(String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.command {
        None => run_compare(&cli.compare),
        Some(Command::Serve { place, create_directory, sample }) => {
            place.resolve().and_then(|(path, ipc)| {
                let mut builder = ipc.map_or_else(Server::builder, |ipc| ipc.server());
                if *create_directory {
                    builder = builder.create_directory(true);
                }
                service::serve(&path, builder.sample_calls(*sample))
            })
        }
        Some(Command::Call { place, load, json }) => run_call(place, load, *json),
        Some(Command::RoleServe(role)) => return role::end(service::run_role(role)),
        Some(Command::RoleCall(role)) => return role::end(caller::run_role(role)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("ring-echo: {}", say::line(&failure.to_string()));
            ExitCode::from(if failure.is::<Usage>() { 2 } else { 1 })
        }
    }
}

fn run_compare(asked: &Compare) -> Result<(), Failure> {
    let comparison = compare::compare(asked)?;
    if comparison.lost_wakes > 0 {
        eprintln!("ring-echo: {} wakes were lost: a bug in Ringbell", comparison.lost_wakes);
    }
    if asked.json {
        if let Some(busy) = &comparison.busy {
            eprintln!("ring-echo: {busy}");
        }
        show(&(serde_json::to_string_pretty(&comparison.measurements)? + "\n"))?;
    } else {
        show(&describe(asked, &comparison))?;
    }
    verified(&comparison.measurements)
}

fn run_call(place: &Place, load: &LoadArgs, json: bool) -> Result<(), Failure> {
    let (path, ipc) = place.resolve()?;
    let (measured, note) = match &ipc {
        None => (caller::call(&path, load)?, String::new()),
        Some(ipc) => {
            caller::call_pooled(&path, ipc, load).map(|(measured, note)| (measured, note + "\n"))?
        }
    };
    let measured = [measured];
    if json {
        show(&(serde_json::to_string_pretty(&measured)? + "\n"))?;
    } else {
        let (table, histogram) = (table::table(&measured), table::histograms(&measured));
        show(&format!(
            "{table}\n{histogram}\n{note}CPU is the client's alone. {}\n",
            counts(&measured)
        ))?;
    }
    verified(&measured)
}

/// Prints to a reader who may have seen enough: `ring-echo | head`.
fn show(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(format!("standard output: {error}").into())
        }
        _ => Ok(()),
    }
}

/// An error if an answer was wrong.
fn verified(measurements: &[Measurement]) -> Result<(), Failure> {
    match measurements.iter().find(|m| m.verified != m.requests) {
        Some(m) => {
            let wrong = m.requests - m.verified;
            Err(format!("{}: {wrong} of {} answers are not what was sent", m.transport, m.requests)
                .into())
        }
        None => Ok(()),
    }
}

fn counts(measurements: &[Measurement]) -> String {
    let counts: Vec<String> = measurements
        .iter()
        .map(|m| format!("{} of {} over {}", m.verified, m.requests, m.transport))
        .collect();
    format!("Answers verified byte for byte: {}.", counts.join(", "))
}

fn describe(asked: &Compare, comparison: &Comparison) -> String {
    let load = &asked.load;
    let clients = if asked.clients == 1 {
        "1 client".to_owned()
    } else {
        format!("{} clients", asked.clients)
    };
    let manner = match (load.paced, load.pipeline) {
        (Some(rate), _) => format!("{rate} requests/s each"),
        (None, 1) => "one request at a time".to_owned(),
        (None, pipeline) => format!("{pipeline} requests in flight each"),
    };
    let pinned = if asked.pin { ", pinned" } else { "" };
    let mut text = format!(
        "{clients}, {} bytes, {manner}{pinned}; medians of {} interleaved rounds\n{}\n{}\n{}\n{}\n",
        load.size,
        comparison.rounds,
        canary_line(),
        comparison.busy.as_ref().map_or_else(String::new, |busy| busy.clone() + "\n"),
        table::table(&comparison.measurements),
        table::histograms(&comparison.measurements)
    );
    for note in notes(asked, comparison) {
        text += &note;
        text.push('\n');
    }
    text
}

fn canary_line() -> String {
    let cpus = role::cpus().len();
    match canary::ping_pong() {
        None => format!("{cpus} CPU: client and server take turns on it"),
        Some(took) if took < canary::SIBLINGS => format!(
            "{cpus} CPUs, {} ns for a word to another one and back: these are hyperthreads of one core, and the \
             figures say little",
            took.as_nanos()
        ),
        Some(took) => {
            format!("{cpus} CPUs, {} ns for a word to another one and back", took.as_nanos())
        }
    }
}

fn notes(asked: &Compare, comparison: &Comparison) -> Vec<String> {
    let mut notes = vec![counts(&comparison.measurements)];
    notes.push(match &comparison.tool {
        Ok(syscalls::Tool::Perf) => "System calls of client and server were counted by perf in a round apart.".to_owned(),
        Ok(syscalls::Tool::Strace) => {
            "System calls of client and server were counted by strace in a round apart. It slows the processes, which \
             then wait in the kernel more often than they would: install perf for true figures."
                .to_owned()
        }
        Err(why) => format!("System calls were not counted; it takes perf or strace, which is optional ({why})."),
    });
    let sockets = comparison.measurements.iter().any(|m| m.transport != Transport::Shm);
    if sockets {
        notes.push(
            "Between two idle CPUs the latency of a socket is mostly that of waking an idle (virtual) CPU: take the \
             ratios of one run, not absolute figures."
                .to_owned(),
        );
    }
    if asked.load.pipeline > 1
        && comparison.measurements.iter().any(|m| m.transport == Transport::UdsDial)
    {
        notes.push(
            "uds-dial has one request per connection, and one connection at a time.".to_owned(),
        );
    }
    notes
}
