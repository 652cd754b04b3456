//! L3: the handshake: the only parser of a peer that is not accepted yet.
//!
//! ```text
//! client                                        server
//! ------                                        ------
//! connect                                       accept; credentials against the policy
//! Hello      versions, sizes, name       --->   limits; segments
//!                                        <---   Welcome, with descriptors on its first byte,
//!                                               or Fallback, or Reject, both with a reason
//! map and check the segments
//! READY (one byte)                       --->   seal the request segment for good, and map it
//! ```
//!
//! There is no answer to READY, so a session costs one round trip. Afterwards the socket is the session's
//! lifeline: whoever closes it ends the session, and single bytes on it ([`lifeline`]) wake a peer that sleeps in
//! an event loop, or say why the session ends.
//!
//! After a Fallback there is nothing to map: READY is followed by frames (`uds.rs`), and the socket carries
//! nothing else from there on. A client that cannot use what came with a Welcome, for want of memory, descriptors
//! or permission, shuts its side down, waits until the server has let go of it, and connects once more to ask for
//! the socket.
//!
//! An inspector says Hello, too, and gets the descriptors of everything that is sealed against writing, in as many
//! messages as it takes; then the server hangs up.
//!
//! [`wire`] has the bytes, `server` the state machine that the porter drives, [`client`] the blocking driver,
//! [`listener`] the socket, and `socket` the options that rustix does not know.

use rustix::net::SocketAddrUnix;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

mod client;
#[cfg(any(feature = "fuzzing", all(test, feature = "inspect")))]
mod fuzzed;
#[cfg(feature = "inspect")]
mod inspector;
mod listener;
mod server;
mod socket;
mod wire;

#[cfg(test)]
pub(crate) mod tests;

pub(crate) use client::{Attached, Attachment, HelloOptions, SocketAttachment, attach};
pub use client::{ConnectError, FallbackReason, TransportChoice};
#[cfg(any(feature = "fuzzing", all(test, feature = "inspect")))]
pub(crate) use fuzzed::{fuzz_seeds, fuzzed};
#[cfg(feature = "inspect")]
pub use inspector::{Inspector, Survey};
pub use listener::BindError;
pub(crate) use listener::{ListenOptions, Listener, listen, listen_fds, listen_for_parent};
pub use server::Credentials;
pub(crate) use server::{
    Closed, Exhibits, Handshake, Host, Joined, Link, Offer, PeerInfo, Progress, SharedOffer, identify, reject,
};
pub use wire::RejectReason;
#[cfg(test)]
pub(crate) use wire::Role;
pub(crate) use wire::{
    FEATURE_BYTES, FEATURE_ORDERED, FEATURE_SAMPLES, Fallback, Hello, Transport, VERSIONS, Welcome,
};

/// Longest path of a socket in bytes: `sun_path` with its final NUL.
const MAX_PATH: usize = 107;

/// Why a path cannot be the address of a socket.
enum BadPath {
    TooLong(usize),
    /// Empty, or with a NUL inside.
    Invalid,
}

fn address(path: &Path) -> Result<SocketAddrUnix, BadPath> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() > MAX_PATH {
        return Err(BadPath::TooLong(bytes.len()));
    }
    if bytes.is_empty() {
        return Err(BadPath::Invalid);
    }
    SocketAddrUnix::new(path).map_err(|_| BadPath::Invalid)
}

/// The bytes that the two ends of a session exchange on its lifeline.
pub(crate) mod lifeline {
    /// Client to server, once: I have mapped everything.
    pub(crate) const READY: u8 = b'R';
    /// Either way: look at your rings.
    pub(crate) const WAKE: u8 = b'W';
    /// Client to server: nothing more comes from here.
    pub(crate) const GOODBYE: u8 = b'G';

    /// Server to client: why the session ends, as the byte `0x80 | reason`; to a client that was offered the socket
    /// as transport, as the code of a goodbye frame.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    #[repr(u8)]
    pub(crate) enum Farewell {
        /// The server shuts down.
        ShutDown = 0x80,
        /// The client wrote something impossible.
        PeerFault = 0x81,
        /// The client did not drain its responses in time.
        SlowClient = 0x82,
        /// The server could not go on with this session: memory, descriptors.
        Exhausted = 0x83,
        /// The handshake was not finished in time.
        TooLate = 0x84,
    }

    impl Farewell {
        /// The reason in a byte of the server, if it is one. Any other byte with the top bit is a goodbye for a
        /// reason that this version does not know.
        pub(crate) fn from_byte(byte: u8) -> Option<Self> {
            Some(match byte {
                0x80 => Self::ShutDown,
                0x81 => Self::PeerFault,
                0x82 => Self::SlowClient,
                0x83 => Self::Exhausted,
                0x84 => Self::TooLate,
                _ => return None,
            })
        }
    }
}
