//! Why a line was not written or read.

use crate::worker::error;

/// Why a line was not written or read. Whatever it is, the worker is not used again. The only
/// exception is a wait that ended: then it is up to whether the caller says that the answer is
/// complete.
#[derive(Debug)]
#[non_exhaustive]
pub enum LineError {
    /// The worker did not take the line, or say one, in time.
    TimedOut,
    /// The worker has ended, or has closed its end. All that it said before was read.
    Ended {
        /// The last lines that it printed to its standard error.
        printed: Vec<String>,
    },
    /// The worker says a line that is too long.
    TooLong {
        /// The limit in bytes.
        max: usize,
    },
    /// The worker said a line that is no UTF-8;
    /// [`LineWorker::read_line_bytes`](super::LineWorker::read_line_bytes) takes it.
    NotText,
    /// What was to be written has a line break in it.
    NotALine,
    /// The worker's input was closed by
    /// [`LineWorker::close_input`](super::LineWorker::close_input).
    InputClosed,
    /// Any other failure of the system.
    Io(std::io::Error),
}

impl std::fmt::Display for LineError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TimedOut => f.write_str("the worker did not go on in time"),
            Self::Ended { printed } => {
                f.write_str("the worker has ended")?;
                error::write_printed(f, printed)
            }
            Self::TooLong { max } => write!(f, "the worker says a line of more than {max} bytes"),
            Self::NotText => f.write_str("the worker said a line that is no UTF-8"),
            Self::NotALine => f.write_str("a line has a line break in it"),
            Self::InputClosed => f.write_str("the input of the worker was closed before"),
            Self::Io(error) => write!(f, "the pipe to the worker failed: {error}"),
        }
    }
}

impl std::error::Error for LineError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}
