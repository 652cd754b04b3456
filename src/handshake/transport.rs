//! What carries a session, and why it is not shared memory.

use super::wire::RejectReason;

/// What carries a session.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transport {
    /// Two rings in shared memory.
    SharedMemory,
    /// The Unix domain socket itself.
    Socket {
        /// Why not shared memory.
        reason: FallbackReason,
    },
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::SharedMemory => f.write_str("shared memory"),
            Self::Socket { reason } => write!(f, "socket ({reason})"),
        }
    }
}

/// Why a session runs over the socket instead of shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FallbackReason {
    /// The client asked for it ([`TransportChoice::Socket`](crate::TransportChoice::Socket)).
    Asked,
    /// The server refused shared memory, for this reason.
    Server(RejectReason),
    /// This process may not use futexes.
    FutexRefused,
    /// This process could not map the segments, for want of memory, descriptors or permission: the
    /// system's error number (`errno`).
    MapFailed(i32),
}

impl std::fmt::Display for FallbackReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Asked => f.write_str("the client asked for the socket"),
            Self::Server(reason) => write!(f, "the server offers no shared memory: {reason}"),
            Self::FutexRefused => f.write_str("this process may not use futexes"),
            Self::MapFailed(errno) => {
                write!(
                    f,
                    "the segments cannot be mapped: {}",
                    std::io::Error::from_raw_os_error(*errno)
                )
            }
        }
    }
}
