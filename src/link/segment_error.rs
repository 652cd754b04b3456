//! Why there is no segment.

use rustix::io::Errno;

/// Why a segment was not made or not accepted.
#[derive(Debug)]
pub enum SegmentError {
    /// No memory (or swap, or quota) for it.
    OutOfMemory,
    /// No descriptor left, in this process or in the system.
    OutOfDescriptors,
    /// The descriptor is not that of sealable memory.
    NotMemory,
    /// Seals, as bits of `F_GET_SEALS`: those that its kind needs, and those it has (too few, or
    /// one that makes it useless).
    Seals {
        /// Seals that were expected.
        want: u32,
        /// Seals that were found.
        have: u32,
    },
    /// Size in bytes.
    Size {
        /// The size that was announced.
        want: u64,
        /// The size that it has.
        have: u64,
    },
    /// Its first bytes do not say what was announced; the field that differs is given.
    Identity(&'static str),
    /// It is larger than a file of this process may be (`RLIMIT_FSIZE`, `ulimit -f`). Both in
    /// bytes.
    FileSizeLimit {
        /// The limit.
        limit: u64,
        /// The size that was wanted.
        want: u64,
    },
    /// The client did not allocate all of its pages before it said that it is ready.
    Incomplete,
    /// The deadline passed while the client allocated its pages.
    TimedOut,
    /// Any other failure of the system.
    Io(std::io::Error),
}

impl std::fmt::Display for SegmentError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OutOfMemory => f.write_str("no memory for a shared segment"),
            Self::OutOfDescriptors => f.write_str("no descriptor left for a shared segment"),
            Self::NotMemory => f.write_str("the descriptor is not that of shared memory"),
            Self::Seals { want, have } => {
                write!(f, "the segment has the seals {have:#x}, not {want:#x}")
            }
            Self::Size { want, have } => write!(f, "the segment has {have} bytes, not {want}"),
            Self::Identity(field) => {
                write!(f, "the segment is another one than announced: its {field} differs")
            }
            Self::FileSizeLimit { limit, want } => write!(
                f,
                "a shared segment of {want} bytes exceeds the limit of {limit} bytes on the size \
                 of files (RLIMIT_FSIZE, ulimit -f)"
            ),
            Self::Incomplete => f.write_str("pages of the segment were not allocated"),
            Self::TimedOut => f.write_str("the pages of the segment were not allocated in time"),
            Self::Io(error) => write!(f, "a shared segment could not be made or mapped: {error}"),
        }
    }
}

impl std::error::Error for SegmentError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<Errno> for SegmentError {
    fn from(errno: Errno) -> Self {
        match errno {
            // A memfd lives in memory: to it, the disk that is full is the memory.
            Errno::NOMEM | Errno::NOSPC | Errno::DQUOT => Self::OutOfMemory,
            Errno::MFILE | Errno::NFILE => Self::OutOfDescriptors,
            other => Self::Io(other.into()),
        }
    }
}

impl From<std::io::Error> for SegmentError {
    fn from(error: std::io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(errno) => errno.into(),
            None => Self::Io(error),
        }
    }
}
