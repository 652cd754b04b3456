//! Byte streams: a session as a pipe in each direction.
//!
//! ```text
//!   client  --- chunks, as one-way messages ---> request ring  --->  server
//!   client  <--- response ring  <--- chunks, as events -----------   server
//! ```
//!
//! A chunk is one frame: on rings up to 8 KiB, over a socket up to 64 KiB. An empty chunk ends its
//! direction; the other goes on. Nothing else travels, so nothing has to be told apart, numbered or
//! acknowledged, and the frames are those that every session has. Client and server agree in the
//! handshake on what the session is (`FEATURE_BYTES`).
//!
//! # Why this is right
//!
//! - **Flow control is the ring.** A reader takes a chunk when somebody reads. One that does not
//!   read leaves the ring full, and the writer waits for space, as the ring's own argument says
//!   (`ring.rs`). No credits: each ring carries one direction and nothing of the other one, so no
//!   frame that one side waits for can stand behind what the other does not read. Between the two
//!   rings there is no dependency, hence no deadlock that a pair of pipes would not have. Over the
//!   socket the kernel's two buffers take the place of the rings.
//! - **Memory is bounded:** two rings, and on each side the chunk that is being read and one that
//!   is put together of small pieces.
//! - **An end is said, not concluded.** Only the empty chunk is an end. A peer that goes without
//!   it, whichever way, leaves [`ByteStreamError::Gone`], after everything that it wrote before:
//!   what it published stays readable, and that it is gone is acted on only after a look at the
//!   ring that came later.
//! - **Each end sleeps on a bell of its own.** The sessions of a [`ByteListener`] have a domain
//!   each ([`Isolation::Session`](crate::Isolation::Session)), hence an armed word and a bell each,
//!   so the server's end waits like the client's: `bell.rs` makes no difference between them. There
//!   is no reactor, and no thread between two ends: an end is read and written by whoever holds it.
//!   (Byte streams over the reactor would cross one more thread each way, and need credits, since
//!   its one sleeper serves all sessions and their rings have to be emptied whoever reads.)

mod end;
mod inbox;
mod listener;
mod readiness;
mod stream;
#[cfg(feature = "tokio")]
mod tasks;

#[cfg(test)]
mod tests;

use crate::link::session::PeerFault;
use std::io;

#[cfg(feature = "tokio")]
pub(crate) use end::{ByteEndpoint, Direction, Wanted};
pub use listener::ByteListener;
pub use stream::ByteStream;

/// Why a byte stream does not go on: what stands in the [`std::io::Error`]s of [`ByteStream`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ByteStreamError {
    /// The peer is gone without having ended its side: it died, or dropped the stream. Reading
    /// fails with `ConnectionReset`, once all that was written before has been read; writing fails
    /// with `BrokenPipe`.
    Gone,
    /// This side was ended before. Writing fails with `BrokenPipe`.
    Finished,
    /// The peer broke the protocol. Both fail with `InvalidData`.
    PeerFault(PeerFault),
    /// This process is a fork of the one that connected or accepted. Both fail with `Unsupported`.
    Forked,
    /// The listener was closed. Accepting fails with `ConnectionAborted`.
    Closed,
}

impl ByteStreamError {
    fn while_reading(self) -> io::Error {
        io::Error::new(self.kind(io::ErrorKind::ConnectionReset), self)
    }

    fn while_writing(self) -> io::Error {
        io::Error::new(self.kind(io::ErrorKind::BrokenPipe), self)
    }

    fn kind(self, gone: io::ErrorKind) -> io::ErrorKind {
        match self {
            Self::Gone | Self::Finished => gone,
            Self::PeerFault(_) => io::ErrorKind::InvalidData,
            Self::Forked => io::ErrorKind::Unsupported,
            Self::Closed => io::ErrorKind::ConnectionAborted,
        }
    }
}

impl std::fmt::Display for ByteStreamError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gone => f.write_str("the peer is gone, and did not end its side of the stream"),
            Self::Finished => f.write_str("this side of the stream was ended before"),
            Self::PeerFault(fault) => fault.fmt(f),
            Self::Forked => f.write_str("the stream belongs to the parent process"),
            Self::Closed => f.write_str("the listener was closed"),
        }
    }
}

impl std::error::Error for ByteStreamError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::PeerFault(fault) => Some(fault),
            _ => None,
        }
    }
}
