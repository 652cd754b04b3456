//! Why there is no session.

use crate::handshake::wire::{self, Malformed, RejectReason};
use crate::link::segment::SegmentError;
use rustix::io::Errno;
use std::path::PathBuf;

/// Why there is no session.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// Nothing is at this path.
    NoSuchSocket(PathBuf),
    /// Something else than a socket is at this path.
    NotASocket(PathBuf),
    /// The socket is there, its server is not.
    NobodyListens(PathBuf),
    /// This process may not connect to the socket.
    PermissionDenied(PathBuf),
    /// No socket can have so long a path.
    PathTooLong {
        /// Length of the path in bytes.
        len: usize,
        /// Longest possible path in bytes.
        max: usize,
    },
    /// The process that listens runs as another user than it should
    /// ([`ConnectOptions::server_uid`](crate::ConnectOptions::server_uid)). Nothing was sent to it.
    WrongServerUid {
        /// The user that was asked for.
        want: u32,
        /// The user that the kernel names.
        have: u32,
    },
    /// Another process listens than the worker that a pool started. Nothing was sent to it.
    WrongServerProcess {
        /// The process that was started.
        want: u32,
        /// The process that the kernel names; 0 for one of another pid namespace.
        have: u32,
    },
    /// The server did not answer before the deadline, or its rings were not allocated before.
    TimedOut,
    /// The server hung up before the session began.
    ServerDied,
    /// The other end speaks, but not this protocol.
    NotRingbell,
    /// The two have no version of the protocol in common.
    VersionMismatch {
        /// First and last version that this library speaks.
        ours: (u16, u16),
        /// First and last version that the server speaks.
        theirs: (u16, u16),
    },
    /// The server does not accept this client.
    Rejected(RejectReason),
    /// The server answers calls; byte streams are not what it takes.
    NoByteStreams,
    /// The server offers this client its socket as transport only, and the client takes nothing but
    /// shared memory ([`TransportChoice::SharedMemory`](crate::TransportChoice::SharedMemory)).
    SharedMemoryRefused(RejectReason),
    /// This process may not use futexes, without which there is no shared memory as transport, and
    /// takes nothing else
    /// ([`TransportChoice::SharedMemory`](crate::TransportChoice::SharedMemory)).
    FutexRefused,
    /// The server sent another number of descriptors than it announced.
    BadDescriptors {
        /// How many were announced.
        want: usize,
        /// How many came.
        have: usize,
    },
    /// The server sent descriptors where none were announced.
    UnaskedDescriptors,
    /// What the server sent for its own process is no pidfd.
    NotAProcess,
    /// A segment of the server failed its checks, or could not be mapped.
    BadSegment(SegmentError),
    /// No descriptor is left, in this process or in the system.
    OutOfDescriptors,
    /// No memory is left.
    OutOfMemory,
    /// An option that cannot be; what is wrong with it is given.
    InvalidOption(&'static str),
    /// Any other failure of the system.
    Io(std::io::Error),
}

impl std::fmt::Display for ConnectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoSuchSocket(path) => write!(f, "there is no socket at {}", path.display()),
            Self::NotASocket(path) => write!(f, "{} is not a socket", path.display()),
            Self::NobodyListens(path) => write!(f, "no server listens at {}", path.display()),
            Self::PermissionDenied(path) => {
                write!(f, "no permission to connect to {}", path.display())
            }
            Self::PathTooLong { len, max } => {
                write!(
                    f,
                    "the path of the socket has {len} bytes, more than the {max} that are possible"
                )
            }
            Self::WrongServerUid { want, have } => {
                write!(f, "the server runs as user {have}, not as user {want}")
            }
            Self::WrongServerProcess { want, have } => write!(
                f,
                "process {have} listens at the socket, not process {want} or one that it started"
            ),
            Self::TimedOut => f.write_str("there was no session in time"),
            Self::ServerDied => f.write_str("the server hung up during the handshake"),
            Self::NotRingbell => f.write_str("what answers at the socket is no Ringbell server"),
            Self::VersionMismatch { ours, theirs } => write!(
                f,
                "this library speaks versions {} to {} of the protocol, the server {} to {}",
                ours.0, ours.1, theirs.0, theirs.1
            ),
            Self::Rejected(reason) => write!(f, "the server rejects this client: {reason}"),
            Self::NoByteStreams => f.write_str(
                "the server takes calls, not byte streams; connect with Client::connect",
            ),
            Self::SharedMemoryRefused(reason) => {
                write!(f, "the server offers this client no shared memory: {reason}")
            }
            Self::FutexRefused => {
                f.write_str("this process may not use futexes, which shared memory needs")
            }
            Self::UnaskedDescriptors => {
                f.write_str("the server sent descriptors that it had not announced")
            }
            Self::NotAProcess => {
                f.write_str("what the server sent for its own process is no pidfd")
            }
            Self::BadDescriptors { want, have } => {
                write!(f, "the server sent {have} descriptors, not {want}")
            }
            Self::BadSegment(error) => {
                write!(f, "the server's memory is not what it should be: {error}")
            }
            Self::OutOfDescriptors => f.write_str("no descriptor is left"),
            Self::OutOfMemory => f.write_str("no memory is left"),
            Self::InvalidOption(what) => f.write_str(what),
            Self::Io(error) => write!(f, "the connection failed: {error}"),
        }
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::BadSegment(error) => Some(error),
            _ => None,
        }
    }
}

impl From<Errno> for ConnectError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::MFILE | Errno::NFILE => Self::OutOfDescriptors,
            Errno::NOMEM | Errno::NOBUFS => Self::OutOfMemory,
            Errno::PIPE | Errno::CONNRESET => Self::ServerDied,
            other => Self::Io(other.into()),
        }
    }
}

impl From<SegmentError> for ConnectError {
    fn from(error: SegmentError) -> Self {
        match error {
            SegmentError::OutOfMemory => Self::OutOfMemory,
            SegmentError::OutOfDescriptors => Self::OutOfDescriptors,
            SegmentError::TimedOut => Self::TimedOut,
            other => Self::BadSegment(other),
        }
    }
}

impl From<Malformed> for ConnectError {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::Speaks(version) => {
                Self::VersionMismatch { ours: wire::VERSIONS, theirs: (version, version) }
            }
            Malformed::Magic | Malformed::Version | Malformed::Content => Self::NotRingbell,
        }
    }
}

impl From<RejectReason> for ConnectError {
    fn from(reason: RejectReason) -> Self {
        match reason {
            RejectReason::VersionUnsupported { min, max } => {
                Self::VersionMismatch { ours: wire::VERSIONS, theirs: (min, max) }
            }
            other => Self::Rejected(other),
        }
    }
}
