//! What carries the sessions of the test that runs: shared memory, or the socket.

use ringbell::sync::{Ordering, PlainBool};
use ringbell::{ConnectOptions, TransportChoice};
use std::process::Command;

/// Set to `socket` in the processes of a test over the socket.
const VARIABLE: &str = "RINGBELL_TEST_CARRIER";

/// What carries sessions that are made with [`options`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// Shared memory.
    Shared,
    /// The socket.
    Socket,
}

/// Whether the socket carries the sessions of the test that runs.
static OVER_SOCKET: PlainBool = PlainBool::new(false);

/// From now on sessions are carried by this, here and in roles that are started.
pub(crate) fn carry_by(carrier: Carrier) {
    OVER_SOCKET.store(carrier == Carrier::Socket, Ordering::Relaxed);
}

/// Tells a process that is to be started what carries its sessions.
pub(crate) fn tell(command: &mut Command) {
    if over_socket() {
        command.env(VARIABLE, "socket");
    }
}

/// Whether the socket is to carry the sessions of this test, or of the test that started this role.
#[must_use]
pub fn over_socket() -> bool {
    OVER_SOCKET.load(Ordering::Relaxed) || std::env::var_os(VARIABLE).is_some()
}

/// How the clients of a test connect: the defaults, over what carries the sessions of this test.
pub fn options() -> ConnectOptions {
    let options = ConnectOptions::new();
    if over_socket() { options.transport(TransportChoice::Socket) } else { options }
}
