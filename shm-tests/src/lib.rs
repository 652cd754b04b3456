//! Tests of Ringbell with real processes.
//!
//! Each file under `tests/` is a program: its tests, and the roles that its other processes play. A test starts
//! the program again in a role ([`process`]); so client and server are what they are in production, two processes
//! that share nothing but memory that was handed over a socket.
//!
//! | module | what it is |
//! |---|---|
//! | [`suite!`] | the `main` of a test program: tests one after the other, roles, visible skips, the watchdog |
//! | [`process`] | starting, talking to, stopping and killing other processes |
//! | [`server`] | a server in a process of its own, and the role that it plays |
//! | [`pattern`] | what is sent and what must come back, computed on both sides from a seed |
//! | [`reacting`] | a concurrent server that is driven by its requests, and its client |
//! | [`verified`] | a client that checks every answer |
//! | [`observe`] | what /proc says of a process |
//! | [`raw`] | the handshake by hand, for peers that are not honest |
//! | [`traced`] | a subscriber of `tracing` that keeps what it is told |
//! | [`signals`] | signal handlers, timers and forks |
//!
//! No test sleeps and hopes: it waits for a condition, and the watchdog ends a test that makes no progress, with
//! what is known of every process.
//!
//! | variable | what it does |
//! |---|---|
//! | `RINGBELL_TEST_SCALE` | multiplies all counts: 0.1 for a quick look, 100 for a soak |
//! | `RINGBELL_TEST_SEED` | the seed of all patterns and choices, which is printed on failure |

pub mod driver;
pub mod observe;
pub mod pattern;
pub mod process;
pub mod raw;
pub mod reacting;
pub mod server;
pub mod signals;
pub mod suite;
pub mod traced;
pub mod verified;

use std::time::{Duration, Instant};

/// A count of a test: `release` as it is in release builds, a twentieth in debug builds, times
/// `RINGBELL_TEST_SCALE`; at least 1.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "counts"
)]
#[must_use]
pub fn scaled(release: u64) -> u64 {
    let scale: f64 = std::env::var("RINGBELL_TEST_SCALE").map_or(1.0, |scale| {
        scale.parse().unwrap_or_else(|_| panic!("RINGBELL_TEST_SCALE is {scale:?}, not a number"))
    });
    let build = if cfg!(debug_assertions) { 0.05 } else { 1.0 };
    ((release as f64 * scale * build) as u64).max(1)
}

/// How the clients of a test connect: the defaults, over what carries the sessions of this test (see [`suite!`]).
pub fn options() -> ringbell::ConnectOptions {
    let options = ringbell::ConnectOptions::new();
    if process::over_socket() { options.transport(ringbell::TransportChoice::Socket) } else { options }
}

/// As [`scaled`], with a count of its own for sessions over the socket, where each message costs system calls.
#[must_use]
pub fn scaled_for(rings: u64, socket: u64) -> u64 {
    scaled(if process::over_socket() { socket } else { rings })
}

/// The seed of all patterns and choices of this run.
#[must_use]
pub fn seed() -> u64 {
    std::env::var("RINGBELL_TEST_SEED").map_or(0x5249_4e47_4245_4c4c, |seed| {
        seed.parse().unwrap_or_else(|_| panic!("RINGBELL_TEST_SEED is {seed:?}, not a number"))
    })
}

/// Uses the CPU for so long: shorter than any sleep can be.
pub fn busy_for(time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}

/// Waits until `condition` holds, at most `limit`; whether it came to hold.
///
/// Looks every millisecond: for conditions in other processes, of which nobody tells.
pub fn becomes_true(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until `condition` holds.
///
/// # Panics
/// After 30 s, with `what`.
pub fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    assert!(becomes_true(Duration::from_secs(30), condition), "waited 30 s in vain until {what}");
}
