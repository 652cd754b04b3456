//! Reasons of a refusal, as people read them.

use super::wire::RejectReason;

impl std::fmt::Display for RejectReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::VersionUnsupported { min, max } => {
                write!(f, "it speaks versions {min} to {max} of the protocol only")
            }
            Self::PermissionDenied => f.write_str("it does not serve this user"),
            Self::TooManyClients { limit } => {
                write!(f, "it has all of the {limit} clients that it may have")
            }
            Self::BytesPerClient { limit } => {
                write!(
                    f,
                    "the wanted rings are larger than the {limit} bytes that one client may have"
                )
            }
            Self::BytesPerUid { limit } => {
                write!(
                    f,
                    "the clients of this user have all of the {limit} bytes that one user may have"
                )
            }
            Self::TooManyHandshakes { limit } => {
                write!(f, "more than {limit} clients are connecting at this moment")
            }
            Self::ShuttingDown => f.write_str("it is shutting down"),
            Self::OutOfMemory => f.write_str("it has no memory for another client"),
            Self::OutOfDescriptors => f.write_str("it has no descriptors for another client"),
            Self::BadHello => f.write_str("it did not understand the opening message"),
            Self::BadCapacity => {
                f.write_str("a wanted capacity is not a power of two within its limits")
            }
            Self::SharedMemoryOff => f.write_str("it does not offer shared memory"),
            Self::SocketOff => f.write_str("it does not offer its socket as transport"),
            Self::SocketAsked => f.write_str("the client asked for the socket as transport"),
            Self::ByteStreamsOnly => f.write_str(
                "it serves byte streams, not calls; connect with ByteStream::connect or \
                 ConnectOptions::connect_bytes",
            ),
            Self::InspectorUnsupported => f.write_str("it does not serve inspectors"),
            Self::TooManyClientsOfUid { limit } => {
                write!(f, "this user has all of the {limit} clients that it may have at present")
            }
            Self::TooManyHandshakesOfUid { limit } => {
                write!(
                    f,
                    "more than {limit} clients of this user are connecting at this moment, or they \
                     connect faster than one user may"
                )
            }
            Self::RingBytes { limit } => {
                write!(
                    f,
                    "its clients have of the {limit} bytes that the rings of all of them may have \
                     as much as this user may take"
                )
            }
            Self::FileSizeLimit { limit } => {
                write!(
                    f,
                    "the wanted rings are larger than the {limit} bytes that a file of its process \
                     may have (RLIMIT_FSIZE, ulimit -f)"
                )
            }
            Self::Unknown(number) => {
                write!(f, "for reason number {number}, which this version does not know")
            }
        }
    }
}
