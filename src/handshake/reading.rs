//! How the server reads a Hello, only ever as many bytes as it expects; and how that may end.

use super::wire::{self, HEADER, Header, Malformed, MessageKind, RejectReason};
use crate::os::peer_socket::{PeerSocket, Received};
use rustix::io::Errno;

/// Why a handshake ended without a session.
#[derive(Debug)]
pub(crate) enum Closed {
    /// The client hung up.
    HungUp,
    /// The client was refused.
    Refused(RejectReason),
    /// An inspector was refused.
    InspectorRefused(RejectReason),
    /// The client answered the offer with something else than READY.
    NotReady,
    /// The client sent descriptors, which no client does.
    Descriptors,
    /// The client tampered with its segment, or the server could not map it.
    Segment,
    /// It was an inspector, and has what it came for.
    Inspected,
    /// Any other failure.
    Failed,
}

impl From<Errno> for Closed {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::PIPE | Errno::CONNRESET => Self::HungUp,
            _ => Self::Failed,
        }
    }
}

/// How many bytes of a Hello to have next: the header, then all of it.
pub(super) fn expected(bytes: &[u8]) -> Result<usize, Malformed> {
    let Some(header) = bytes.first_chunk::<HEADER>() else {
        return Ok(HEADER);
    };
    match Header::parse(header)? {
        Header { kind: MessageKind::Hello, length } => Ok(HEADER + length),
        _ => Err(Malformed::Content),
    }
}

pub(super) fn refusal(malformed: Malformed) -> RejectReason {
    let (min, max) = wire::VERSIONS;
    match malformed {
        Malformed::Version => RejectReason::VersionUnsupported { min, max },
        Malformed::Magic | Malformed::Content | Malformed::Speaks(_) => RejectReason::BadHello,
    }
}

/// Reads until there are `want` bytes; false if the client has not sent them yet.
pub(super) fn read_more(
    socket: &PeerSocket,
    bytes: &mut Vec<u8>,
    want: usize,
) -> Result<bool, Closed> {
    let mut have = bytes.len();
    // Bounded: `want` is at most a header and MAX_BODY.
    bytes.resize(want, 0);
    let result = loop {
        if have == want {
            break Ok(true);
        }
        match socket.receive(&mut bytes[have..]) {
            Ok(Received::Bytes(0)) => break Err(Closed::HungUp),
            Ok(Received::Bytes(count)) => have += count,
            Ok(Received::Descriptors) => break Err(Closed::Descriptors),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => break Ok(false),
            Err(errno) => break Err(errno.into()),
        }
    };
    bytes.truncate(have);
    result
}
