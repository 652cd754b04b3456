//! Tests of Ringbell with real processes.
//!
//! Each file or folder under `tests/` is a program: its tests, and the roles that its other
//! processes play. A test starts the program again in a role ([`process`]). So client and server
//! are what they are in production: two processes that share only the memory that was handed over a
//! socket.
//!
//! Layers, lowest first:
//!
//! ```text
//! locks             locking in spite of poison
//! waiting           waiting for conditions
//! progress          whether the test makes progress, and for how long the machine stood still
//! transport         what carries the sessions of the test that runs: shared memory or the socket
//! run               scale and seed of this run
//! observe           what /proc says of a process
//! pattern           what is sent and what must come back, computed on both sides from a seed
//! raw               the handshake by hand, for peers that are not honest
//! trace_capture     a subscriber of `tracing` that keeps all spans and events
//! process           starting, talking to, stopping and killing other processes
//! sandbox           seccomp filters and limits that a role puts on itself
//! signals           signal handlers, timers and forks
//! driver            the ways to drive a concurrent server
//! verified          a client that checks every answer
//! reactor_requests  what the concurrent server is asked, and what it answers
//! reactor_server    a concurrent server that is driven by its requests
//! reactor_client    its client, which knows which answer belongs to which call
//! server            a server in a process of its own, and the role that it plays
//! chatter           a process that says lines in pieces of any size
//! harness           the `main` of a test program: tests, roles, visible skips, the watchdog
//! ```
//!
//! No test sleeps and hopes: it waits for a condition, and the watchdog ends a test that makes no
//! progress, with what is known of every process.
//!
//! | variable | what it does |
//! |---|---|
//! | `RINGBELL_TEST_SCALE` | multiplies all counts: 0.1 for a quick look, 100 for a soak |
//! | `RINGBELL_TEST_SEED` | the seed of all patterns and choices, which is printed on failure |
//! | `RINGBELL_TEST_DRIVER` | the driver of servers: `thread`, `loop`, `edges`, `task` or `tasks` |

pub mod chatter;
pub mod driver;
pub mod harness;
mod locks;
pub mod observe;
pub mod pattern;
pub mod process;
pub mod progress;
pub mod raw;
pub mod reactor_client;
pub mod reactor_requests;
pub mod reactor_server;
pub mod run;
pub mod sandbox;
pub mod server;
pub mod signals;
pub mod trace_capture;
pub mod transport;
pub mod verified;
pub mod waiting;

pub use run::{scaled, scaled_for, seed};
pub use transport::options;
pub use waiting::{becomes_true, busy_for, wait_until};
