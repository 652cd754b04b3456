//! One process of a trial. It gets an [`Order`] on its command line and talks to its parent in
//! lines: `ready` out, `go <nanoseconds of the monotonic clock>` in, and the figures, as JSON, out.

use std::io::{self, BufRead, Read, Write};
use std::process;
use std::thread;
use std::time::Duration;

use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{ClockId, Timespec, clock_nanosleep_absolute};
use serde::{Deserialize, Serialize};

use crate::contender::{Contender, contender};
use crate::cpu::CpuClock;
use crate::measure::{self, Timing};
use crate::outcome::Outcome;
use crate::payload::Payload;
use crate::pin::pin;
use crate::system::{Counts, Setup};

/// What a process of a trial is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The name of the system, limit or cost.
    pub(crate) system: String,
    /// The CPUs to stay on.
    pub(crate) cpus: Vec<usize>,
    /// What server and clients have in common.
    pub(crate) setup: Setup,
    /// Which of them this one is.
    pub(crate) part: Part,
}

/// A part in a trial.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Part {
    /// Answers until it is killed.
    Server,
    /// Calls, and reports.
    Client {
        /// How long.
        timing: Timing,
        /// The server's process, or none where a cost is measured.
        server: Option<u32>,
        /// Makes this client's payload its own.
        salt: u8,
    },
    /// Is all clients and what they call, and reports for each.
    Together {
        /// How long.
        timing: Timing,
    },
    /// Computes until it is killed.
    Hog,
    /// Is ready when the server takes no more of it, and stays.
    Flood,
}

/// Plays a part. Returns when that is over, which for a server is never.
pub(crate) fn play(order: &str) -> Outcome<()> {
    // Should the parent be killed, nobody else would end this process.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let order: Order = serde_json::from_str(order)?;
    pin(&order.cpus)?;
    if matches!(order.part, Part::Hog) {
        say("ready")?;
        loop {
            std::hint::black_box(());
        }
    }
    let contender = contender(&order.system).ok_or("no system of that name")?;
    let done = match (&order.part, contender) {
        (Part::Server, Contender::System(system)) => {
            if let Some(counts) = system.server_counts() {
                thread::spawn(move || tell(counts));
            }
            system.serve(&order.setup, &mut || say("ready"))
        }
        (Part::Server, Contender::Cost(_)) => Err("a cost has no server".into()),
        (Part::Together { timing }, Contender::System(system)) => {
            measure::together(system, &order.setup, *timing, &mut wait_for_start).and_then(
                |figures| {
                    for figures in figures {
                        say(&serde_json::to_string(&figures)?)?;
                    }
                    stay()
                },
            )
        }
        (Part::Flood, Contender::System(system)) => {
            system.connect(&order.setup).and_then(|mut client| {
                client.flood(Payload::new(order.setup.case.size, u8::MAX).stamp(1))?;
                say("ready")?;
                stay()
            })
        }
        (Part::Together { .. } | Part::Flood, Contender::Cost(_)) => {
            Err("a cost has no clients".into())
        }
        (Part::Hog, _) => Err("a hog has no contender".into()),
        (Part::Client { timing, server, salt }, contender) => {
            let figures = match contender {
                Contender::System(system) => {
                    let server = CpuClock::of(server.ok_or("no server to attach to")?)?;
                    let idle = 0..order.setup.case.idle_connections();
                    let _idle =
                        idle.map(|_| system.connect(&order.setup)).collect::<Outcome<Vec<_>>>()?;
                    measure::system(
                        system,
                        &order.setup,
                        *timing,
                        server,
                        *salt,
                        &mut wait_for_start,
                    )
                }
                Contender::Cost(cost) => measure::cost(cost, *timing, &mut wait_for_start),
            };
            figures.and_then(|figures| {
                say(&serde_json::to_string(&figures)?)?;
                stay()
            })
        }
    };
    done.map_err(|error| format!("{} (process {}): {error}", order.system, process::id()).into())
}

/// Tells the parent what the server counted, whenever it asks.
fn tell(counts: fn() -> Option<Counts>) {
    for line in io::stdin().lines() {
        let told = line.map_err(Into::into).and_then(|_| say(&serde_json::to_string(&counts())?));
        if let Err(error) = told {
            eprintln!("race: cannot tell counts: {error}");
            return;
        }
    }
}

/// Stays until the parent has counted system calls, and says so by closing the pipe.
fn stay() -> Outcome<()> {
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// What a process says instead of figures when it fails; the reason follows. Its parent tells the
/// user, once.
pub(crate) const FAILED: &str = "failed: ";

/// Ends a part: tells the parent of a failure.
pub(crate) fn end(played: Outcome<()>) -> Outcome<bool> {
    let Err(error) = played else { return Ok(true) };
    let line = error.to_string().replace(char::is_control, " ");
    // A parent that does not listen has gone, and nobody else wants to know.
    let _ = say(&format!("{FAILED}{line}"));
    Ok(false)
}

/// Writes a line to the parent.
fn say(line: &str) -> Outcome<()> {
    let mut out = io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Tells the parent that everything is ready, and waits for the moment that it names.
fn wait_for_start() -> Outcome<()> {
    say("ready")?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    let nanos = line.trim().strip_prefix("go ").ok_or("the parent gave up")?.parse()?;
    let moment = Timespec::try_from(Duration::from_nanos(nanos))?;
    // Early by an interruption does no harm: the start need not be exact.
    clock_nanosleep_absolute(ClockId::Monotonic, &moment)?;
    Ok(())
}
