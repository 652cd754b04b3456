//! The handshake by hand, from its description in `src/handshake/wire.rs`, and memory that is
//! written at will: for peers that are not honest. Nothing of the library's own handshake is used,
//! so the two check each other.
//!
//! Layers, lowest first:
//!
//! ```text
//! messages  the messages of the handshake
//! frames    frames as they travel over a socket
//! memory    memory that is written at will, and segments
//! in_transit  descriptors whose close waits, for peers that did not ask
//! sessions  sessions that are made by hand, over rings and over the socket
//! ```

mod frames;
mod in_transit;
mod memory;
mod messages;
mod sessions;

pub use frames::{Frame, frame, receive_frame};
pub use in_transit::{Lingering, become_an_older_kernel, rights_can_be_refused};
pub use memory::{CLOSED, KINDS, Segments, identity, map, punch, seals, segment};
pub use messages::{
    BYTES, GOODBYE, MAGIC, READY, Received, WAKE, Welcome, accept, connect, fallback, hello, kind,
    last_words, message, receive, send, welcome,
};
pub use sessions::{Session, SocketSession, touch_all};
