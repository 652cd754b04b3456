//! What looking costs the target: one server and one client at full load, and, in slices that take
//! turns within one run, somebody who looks or nobody. Each slice with the tool is compared with
//! those before and after it, and the median of many such comparisons is told with the range that
//! holds it in 95 of 100 runs: noise that lasts longer than a slice meets both sides. Slices in
//! which others used the CPUs do not count; it waits for a quiet moment, for two minutes in each
//! line.
//!
//! ```sh
//! cargo build --release --bin ring-dump && cargo run --release -p ringbell-tools --example dump_cost -- 100
//! ```
//!
//! `show` runs once in each of its slices, so that what one costs is seen, and what one a second
//! costs is a tenth of that or so; `watch` and `tap` run all the time and are stopped (SIGSTOP) in
//! the slices without them. The last column is the CPU time of the tool itself: on a machine with
//! two CPUs, both of which the pair needs, that is in the figures, too. Names behind the number of
//! slices choose what is measured.

#[allow(dead_code, reason = "the tests read the screen, too")]
#[path = "../tests/pty/mod.rs"]
mod pty;
#[path = "../tests/slices/mod.rs"]
mod slices;

use ringbell::{Client, ConnectOptions, Server};
use ringbell_shm_tests::observe;
use rustix::process::{Pid, Signal, kill_process};
use slices::{Comparison, Others, Triple};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long one slice takes.
const SLICE: Duration = Duration::from_millis(150);
/// How long to try for quiet slices of one kind.
const PATIENCE: Duration = Duration::from_secs(120);

/// How the target is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looked {
    Not,
    Show,
    Watch(&'static str),
    Tap(&'static [&'static str]),
    /// Nobody looks; of so many calls one is timed.
    Sampled(u32),
}

const ALL: [(&str, Looked); 9] = [
    ("nobody looks", Looked::Not),
    ("show", Looked::Show),
    ("watch", Looked::Watch("1s")),
    ("watch --interval 100ms", Looked::Watch("100ms")),
    ("tap", Looked::Tap(&[])),
    ("tap --budget 10", Looked::Tap(&["--budget", "10"])),
    ("tap --all", Looked::Tap(&["--all"])),
    ("every 64th call timed", Looked::Sampled(64)),
    ("every call timed", Looked::Sampled(1)),
];

fn ring_dump(arguments: &[&str]) -> Command {
    let here = std::env::current_exe().expect("this program has a path");
    // target/release/examples/dump_cost
    let program: PathBuf = here.ancestors().nth(2).expect("a directory").join("ring-dump");
    assert!(program.exists(), "there is no {}: build it first", program.display());
    let mut command = Command::new(&program);
    command.args(arguments);
    command
}

/// Starts it, what it prints going nowhere.
fn silent(arguments: &[&str]) -> Child {
    ring_dump(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started")
}

/// Calls for the time of a slice, and as long as `more` says so; calls a second.
#[allow(clippy::cast_precision_loss, reason = "a rate")]
fn slice(client: &mut Client, mut more: impl FnMut() -> bool) -> f64 {
    let request = [7; 64];
    let began = Instant::now();
    let mut calls = 0u64;
    while began.elapsed() < SLICE || more() {
        for _ in 0..1000 {
            assert_eq!(client.call(&request).expect("answered").len(), request.len());
        }
        calls += 1000;
    }
    calls as f64 / began.elapsed().as_secs_f64()
}

/// A tool that runs all the time, but for the slices without it.
struct Companion {
    tap: Option<Child>,
    screen: Option<pty::Screen>,
}

impl Companion {
    fn begin(looked: Looked, pid: u32) -> Self {
        let target = pid.to_string();
        let tap = match looked {
            Looked::Tap(options) => Some(silent(&[&["tap", &target], options].concat())),
            _ => None,
        };
        let screen = match looked {
            Looked::Watch(interval) => Some(pty::Screen::start(
                ring_dump(&["watch", &target, "--interval", interval]),
                110,
                30,
            )),
            _ => None,
        };
        // Beginning is not looking.
        std::thread::sleep(Duration::from_millis(500));
        Self { tap, screen }
    }

    fn id(&self) -> Option<u32> {
        self.tap.as_ref().map(Child::id).or_else(|| self.screen.as_ref().map(pty::Screen::id))
    }

    fn send(&self, signal: Signal) {
        let pid = self.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            kill_process(pid, signal).expect("it is our own, and not waited for");
        }
    }

    /// A terminal that takes nothing would hold it up.
    fn attend(&self) {
        if let Some(screen) = &self.screen {
            screen.skip();
        }
    }
}

impl Drop for Companion {
    fn drop(&mut self) {
        self.send(Signal::CONT);
        if let Some(mut tap) = self.tap.take() {
            let _ = tap.kill();
            let _ = tap.wait();
        }
    }
}

/// What is known of one way of looking.
#[derive(Default)]
struct Found {
    comparison: Comparison,
    /// CPU time of the tool, and the time of the slices with it, also of those that were not quiet.
    used: Duration,
    looked: Duration,
    slices: u32,
}

/// Compares rates with somebody who looks with those without, until `wanted` slices were quiet or
/// the time is up.
fn compare(connect: &impl Fn(u32) -> Client, server: u32, looked: Looked, wanted: usize) -> Found {
    let mut found = Found::default();
    let mut client = connect(0);
    let mut sampled = if let Looked::Sampled(every) = looked { Some(connect(every)) } else { None };
    let companion = Companion::begin(looked, server);
    let tool = || companion.id().map_or(Duration::ZERO, observe::cpu_time);
    let ours =
        |shows| observe::cpu_time(server) + observe::cpu_time(std::process::id()) + tool() + shows;
    companion.send(Signal::STOP);
    let until = Instant::now() + PATIENCE;
    while found.comparison.ratios().len() < wanted && Instant::now() < until {
        let mut shows = Duration::ZERO;
        Others::wait_for_quiet(PATIENCE / 4);
        let others = Others::since(ours(shows));
        let before = slice(&mut client, || false);
        let began = Instant::now();
        let tool_before = tool();
        let with = match looked {
            Looked::Show => {
                let mut show = silent(&["show", &server.to_string()]);
                let id = show.id();
                let rate = slice(&mut client, || observe::state(id) != Some('Z'));
                shows = observe::cpu_time(id);
                show.wait().expect("waited for");
                rate
            }
            Looked::Sampled(_) => slice(sampled.as_mut().unwrap_or(&mut client), || false),
            _ => {
                companion.send(Signal::CONT);
                let rate = slice(&mut client, || false);
                companion.send(Signal::STOP);
                rate
            }
        };
        found.looked += began.elapsed();
        found.used += tool() - tool_before + shows;
        found.slices += 1;
        companion.attend();
        let after = slice(&mut client, || false);
        if others.are_quiet(ours(shows)) {
            found.comparison.add(Triple { before, with, after });
        }
    }
    found
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next().unwrap_or_else(|| "50".to_owned());
    if first == "serve" {
        let server = Server::bind(arguments.next().expect("a path")).expect("bound");
        let served = server.run(|request, response| {
            response.extend_from_slice(request.payload());
            Ok(())
        });
        drop(served);
        return;
    }
    let slices: usize = first.parse().expect("a number of slices");
    let chosen: Vec<String> = arguments.collect();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("s");
    let mut server = Command::new(std::env::current_exe().expect("this program has a path"))
        .arg("serve")
        .arg(&path)
        .spawn()
        .expect("started");
    let connect = |every| {
        let options = ConnectOptions::new().wait_for_server(true).sample_calls(every);
        options.connect(&path).expect("connected")
    };
    println!("{slices} quiet slices of {} ms each, between two without", SLICE.as_millis());
    println!(
        "{:<24} {:>12} {:>16} {:>18} {:>10} {:>12}",
        "", "alone, k/s", "% of it, median", "95 of 100 runs", "slower in", "% of one CPU"
    );
    for (name, looked) in ALL {
        if !chosen.is_empty() && !chosen.iter().any(|chosen| chosen == name) {
            continue;
        }
        let found = compare(&connect, server.id(), looked, slices);
        let each = found.looked.as_secs_f64() / f64::from(found.slices);
        let once_a_second = looked == Looked::Show;
        // What one look costs, spread over a second.
        let share = |ratio: f64| if once_a_second { 1.0 - (1.0 - ratio) * each } else { ratio };
        let label = if once_a_second { format!("{name} once a second") } else { name.to_owned() };
        let quiet = found.comparison.ratios();
        let slower = quiet.iter().filter(|ratio| **ratio < 1.0).count();
        let (middle, range) = match found.comparison.median() {
            Some(ratios) => {
                let [low, middle, high] = ratios.map(|ratio| 100.0 * share(ratio));
                (format!("{middle:.1}"), format!("{low:.1} to {high:.1}"))
            }
            None => ("too few".to_owned(), "-".to_owned()),
        };
        let used = if once_a_second {
            found.used.as_secs_f64() / f64::from(found.slices)
        } else {
            found.used.as_secs_f64() / found.looked.as_secs_f64()
        };
        println!(
            "{label:<24} {:>12.0} {middle:>16} {range:>18} {:>10} {:>12.2}",
            found.comparison.alone() / 1e3,
            format!("{slower} of {}", quiet.len()),
            100.0 * used,
        );
    }
    let _ = server.kill();
    let _ = server.wait();
}
