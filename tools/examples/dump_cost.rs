//! What looking costs the target: one server and one client at full load, and in turns, within one run, nothing,
//! `show` once a second and `tap` beside them. Figures are ratios to the rounds without anybody looking.
//!
//! ```sh
//! cargo build --release --bin ring-dump && cargo run --release -p ringbell-tools --example dump_cost -- 9
//! ```
//!
//! On a machine with two CPUs, both of which the pair needs, the CPU time of the tool itself is in the figures, too.

use ringbell::{Client, Server};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long one round takes.
const ROUND: Duration = Duration::from_secs(3);

/// How the target is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looked {
    Not,
    ShowEverySecond,
    Tap,
    TapClosely,
}

const ALL: [Looked; 4] = [Looked::Not, Looked::ShowEverySecond, Looked::Tap, Looked::TapClosely];

impl Looked {
    fn name(self) -> &'static str {
        match self {
            Self::Not => "nobody looks",
            Self::ShowEverySecond => "show once a second",
            Self::Tap => "tap (1 ms)",
            Self::TapClosely => "tap --every 50us",
        }
    }
}

/// The tool, at work.
struct Tool {
    looked: Looked,
    pid: u32,
    tap: Option<Child>,
    shown: Instant,
    shows: Vec<Child>,
}

fn ring_dump(arguments: &[&str]) -> Child {
    let here = std::env::current_exe().expect("this program has a path");
    // target/release/examples/dump_cost
    let program: PathBuf = here.ancestors().nth(2).expect("a directory").join("ring-dump");
    let mut command = Command::new(&program);
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap_or_else(|error| panic!("{}: {error}; build it first", program.display()))
}

impl Tool {
    fn begin(looked: Looked, pid: u32) -> Self {
        let target = pid.to_string();
        let tap = match looked {
            Looked::Tap => Some(ring_dump(&["tap", &target])),
            Looked::TapClosely => Some(ring_dump(&["tap", &target, "--every", "50us"])),
            _ => None,
        };
        Self { looked, pid, tap, shown: Instant::now(), shows: Vec::new() }
    }

    /// Called often.
    fn work(&mut self) {
        if self.looked == Looked::ShowEverySecond && self.shown.elapsed() >= Duration::from_secs(1) {
            self.shown = Instant::now();
            self.shows.push(ring_dump(&["show", &self.pid.to_string()]));
        }
    }

    fn end(mut self) {
        for mut child in self.shows.drain(..) {
            let _ = child.wait();
        }
        if let Some(mut tap) = self.tap.take() {
            let _ = tap.kill();
            let _ = tap.wait();
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "a rate")]
fn round(client: &mut Client, server: u32, looked: Looked) -> f64 {
    let mut tool = Tool::begin(looked, server);
    let request = [7; 64];
    let began = Instant::now();
    let mut calls = 0u64;
    while began.elapsed() < ROUND {
        for _ in 0..1000 {
            assert_eq!(client.call(&request).expect("answered").len(), request.len());
        }
        calls += 1000;
        tool.work();
    }
    let rate = calls as f64 / began.elapsed().as_secs_f64();
    tool.end();
    rate
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next().unwrap_or_else(|| "5".to_owned());
    if first == "serve" {
        let server = Server::bind(arguments.next().expect("a path")).expect("bound");
        let served = server.run(|request, response| {
            response.extend_from_slice(request.payload());
            Ok(())
        });
        drop(served);
        return;
    }
    let rounds: usize = first.parse().expect("a number of rounds");
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("s");
    let mut server = Command::new(std::env::current_exe().expect("this program has a path"))
        .arg("serve")
        .arg(&path)
        .spawn()
        .expect("started");
    let options = ringbell::ConnectOptions::new().wait_for_server(true);
    let mut client = options.connect(&path).expect("connected");
    let mut ratios: Vec<Vec<f64>> = vec![Vec::new(); ALL.len()];
    let mut plain = Vec::new();
    for _ in 0..rounds {
        let rates: Vec<f64> = ALL.iter().map(|looked| round(&mut client, server.id(), *looked)).collect();
        plain.push(rates[0]);
        for (ratios, rate) in ratios.iter_mut().zip(&rates) {
            ratios.push(rate / rates[0]);
        }
    }
    println!(
        "{rounds} interleaved rounds of {} s; {:.0} calls/s alone (median)",
        ROUND.as_secs(),
        median(plain)
    );
    for (looked, ratios) in ALL.iter().zip(ratios) {
        println!("{:<20} {:6.1} % of the rate alone (median)", looked.name(), 100.0 * median(ratios));
    }
    drop(client);
    let _ = server.kill();
    let _ = server.wait();
}
