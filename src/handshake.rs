//! The handshake: the only parser of a peer that is not accepted yet.
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
//! There is no answer to READY, so a session costs one round trip. Afterwards the socket is the
//! session's lifeline: whoever closes it ends the session, and single bytes on it ([`lifeline`])
//! wake a peer that sleeps in an event loop, or say why the session ends.
//!
//! After a Fallback there is nothing to map: READY is followed by frames (`link/socket.rs`), and
//! the socket carries nothing else from there on. A client that cannot use what came with a
//! Welcome, for want of memory, descriptors or permission, shuts its side down, waits until the
//! server has let go of it, and connects once more to ask for the socket.
//!
//! An inspector says Hello, too, and gets the descriptors of everything that is sealed against
//! writing, in as many messages as it takes; then the server hangs up.
//!
//! [`wire`] has the bytes, `server` the state machine that the porter drives, [`client`] the
//! blocking driver, [`listener`] the socket, and `sockopt` the options that rustix does not know.

use rustix::net::SocketAddrUnix;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

mod client;
#[cfg(any(feature = "fuzzing", all(test, feature = "inspect")))]
mod fuzzed;
#[cfg(feature = "inspect")]
mod inspector;
mod inspector_reply;
mod listener;
mod order;
mod peer;
mod reading;
mod reasons;
pub(crate) mod rings;
mod server;
mod sockopt;
mod transport;
mod wire;

#[cfg(test)]
pub(crate) mod tests;

pub(crate) use client::{
    Attached, Attachment, HelloOptions, ServerProcess, SocketAttachment, attach,
};
pub use client::{ConnectError, TransportChoice};
#[cfg(any(feature = "fuzzing", all(test, feature = "inspect")))]
pub(crate) use fuzzed::{fuzz_seeds, fuzzed};
#[cfg(feature = "inspect")]
pub use inspector::{Inspector, Survey};
pub(crate) use inspector_reply::InspectorReply;
pub use listener::{BindError, InvalidSetting};
pub(crate) use listener::{
    ListenOptions, Listener, host_of, is_same_place, listen, listen_fds, listen_for_child,
    listen_for_parent,
};
pub use order::AnswerOrder;
pub use peer::Credentials;
pub(crate) use peer::{PeerInfo, identify};
pub(crate) use reading::Closed;
pub(crate) use server::{
    Carrier, Handshake, HandshakeProgress, Host, Joined, Offer, SharedOffer, reject,
};
pub use transport::{FallbackReason, Transport};
pub use wire::RejectReason;
#[cfg(test)]
pub(crate) use wire::Role;
pub(crate) use wire::{
    FEATURE_BYTES, FEATURE_CLOCK, FEATURE_ORDERED, FEATURE_SAMPLES, Fallback, Hello,
    TransportAsked, VERSIONS, Welcome,
};

/// Longest path of a socket in bytes: `sun_path` with its final NUL.
pub(crate) const MAX_PATH: usize = 107;

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
