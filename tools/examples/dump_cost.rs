//! What looking costs the target: one server and clients at full load, and in turns, within one run, nothing, `show` once a
//! second, `watch` on a terminal and `tap` beside them; and what calls cost that are timed on their way. Figures are ratios to
//! the rounds without anybody looking, of which there is one before and one after each of the others.
//!
//! ```sh
//! cargo build --release --bin ring-dump && cargo run --release -p ringbell-tools --example dump_cost -- 9
//! ```
//!
//! On a machine with two CPUs, both of which the pair needs, the CPU time of the tool itself is in the figures, too.

#[allow(dead_code, reason = "the tests read the screen, too")]
#[path = "../tests/pty/mod.rs"]
mod pty;

use ringbell::{Client, ConnectOptions, Server};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long one round takes.
const ROUND: Duration = Duration::from_millis(1500);

/// How the target is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looked {
    Not,
    ShowEverySecond,
    Watch,
    WatchClosely,
    Tap,
    TapClosely,
    /// Nobody looks; of so many calls one is timed.
    Sampled(u32),
}

const ALL: [Looked; 7] = [
    Looked::ShowEverySecond,
    Looked::Watch,
    Looked::WatchClosely,
    Looked::Tap,
    Looked::TapClosely,
    Looked::Sampled(64),
    Looked::Sampled(1),
];

impl Looked {
    fn name(self) -> &'static str {
        match self {
            Self::Not => "nobody looks",
            Self::ShowEverySecond => "show once a second",
            Self::Watch => "watch (1 s)",
            Self::WatchClosely => "watch --interval 100ms",
            Self::Tap => "tap (1 ms)",
            Self::TapClosely => "tap --every 50us",
            Self::Sampled(1) => "every call timed",
            Self::Sampled(_) => "every 64th call timed",
        }
    }
}

/// The tool, at work.
struct Tool {
    looked: Looked,
    pid: u32,
    tap: Option<Child>,
    screen: Option<pty::Screen>,
    shown: Instant,
    shows: Vec<Child>,
}

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

impl Tool {
    fn begin(looked: Looked, pid: u32) -> Self {
        let target = pid.to_string();
        let tap = match looked {
            Looked::Tap => Some(silent(&["tap", &target])),
            Looked::TapClosely => Some(silent(&["tap", &target, "--every", "50us"])),
            _ => None,
        };
        let interval = match looked {
            Looked::Watch => Some("1s"),
            Looked::WatchClosely => Some("100ms"),
            _ => None,
        };
        let screen = interval.map(|interval| {
            pty::Screen::start(ring_dump(&["watch", &target, "--interval", interval]), 110, 30)
        });
        // The first at once: a round is short.
        let shown = Instant::now().checked_sub(Duration::from_secs(1)).unwrap_or_else(Instant::now);
        Self { looked, pid, tap, screen, shown, shows: Vec::new() }
    }

    /// Called often.
    fn work(&mut self) {
        if self.looked == Looked::ShowEverySecond && self.shown.elapsed() >= Duration::from_secs(1) {
            self.shown = Instant::now();
            self.shows.push(silent(&["show", &self.pid.to_string()]));
        }
        // A terminal that takes nothing would hold it up.
        if let Some(screen) = &self.screen
            && self.shown.elapsed() >= Duration::from_millis(50)
        {
            self.shown = Instant::now();
            screen.skip();
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
    let client = |every| {
        let options = ConnectOptions::new().wait_for_server(true).sample_calls(every);
        options.connect(&path).expect("connected")
    };
    let mut ratios: Vec<Vec<f64>> = vec![Vec::new(); ALL.len()];
    let mut plain = Vec::new();
    for _ in 0..rounds {
        let mut alone = round(&mut client(0), server.id(), Looked::Not);
        for (ratios, looked) in ratios.iter_mut().zip(ALL) {
            let every = if let Looked::Sampled(every) = looked { every } else { 0 };
            let rate = round(&mut client(every), server.id(), looked);
            let after = round(&mut client(0), server.id(), Looked::Not);
            ratios.push(2.0 * rate / (alone + after));
            plain.push(alone);
            alone = after;
        }
    }
    // How far rounds without anybody looking are apart from each other.
    let undisturbed = plain.windows(3).map(|three| 2.0 * three[1] / (three[0] + three[2])).collect();
    println!(
        "{rounds} interleaved rounds of {} ms each; {:.0} calls/s alone (median)",
        ROUND.as_millis(),
        median(plain.clone())
    );
    println!("{:<24} {:>18} {:>8} {:>8}", "", "% of the rate alone", "least", "most");
    let named = ALL.iter().map(|looked| looked.name()).zip(ratios);
    for (name, ratios) in std::iter::once((Looked::Not.name(), undisturbed)).chain(named) {
        let ratios: Vec<f64> = ratios;
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = ratios.iter().copied().fold(0.0, f64::max);
        println!("{name:<24} {:>18.1} {:>8.1} {:>8.1}", 100.0 * median(ratios), 100.0 * least, 100.0 * most);
    }
    let _ = server.kill();
    let _ = server.wait();
}
