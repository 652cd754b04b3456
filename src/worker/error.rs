//! Why there is no worker, or no answer of one.

use crate::client::CallError;
use crate::handshake::ConnectError;
use crate::pool::AcquireError;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// Why there is no worker. Where it printed something, the last lines of that are told.
#[derive(Debug)]
#[non_exhaustive]
pub enum WorkerError {
    /// The program could not be started.
    Start {
        /// The program.
        program: String,
        /// Why not.
        error: std::io::Error,
    },
    /// Its working directory could not be entered.
    WorkingDirectory {
        /// The program.
        program: String,
        /// The directory.
        directory: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// The system had not started it in time: its file system may not answer. If it is started
    /// later it is killed.
    NotStarted {
        /// The program.
        program: String,
        /// How long that was.
        after: Duration,
    },
    /// The thread that was to start it has ended. There will be another one.
    ThreadEnded {
        /// The program.
        program: String,
    },
    /// It ended before it was ready.
    Ended {
        /// How, if that could be learnt.
        status: Option<ExitStatus>,
        /// The last lines that it printed.
        printed: Vec<String>,
    },
    /// It was not ready in time, and was killed.
    NotReady {
        /// How long that was.
        after: Duration,
        /// The last lines that it printed.
        printed: Vec<String>,
    },
    /// It serves, and there can be no session with it all the same.
    Connect {
        /// Why not.
        error: ConnectError,
        /// The last lines that it printed.
        printed: Vec<String>,
    },
    /// There is no place for its socket.
    Socket {
        /// What could not be used or made.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// No socket in this directory can have so long a path.
    PathTooLong {
        /// The directory.
        directory: PathBuf,
        /// The least length of the path of a worker's socket in bytes.
        len: usize,
        /// The longest possible path in bytes.
        max: usize,
    },
    /// The directory of its socket is one in which others may put a socket of theirs in its place.
    UnsafeDirectory {
        /// The directory.
        directory: PathBuf,
        /// The uid that owns it.
        owner: u32,
        /// Its permissions, with the sticky bit.
        mode: u32,
    },
}

pub(super) fn write_printed(
    f: &mut std::fmt::Formatter<'_>,
    printed: &[String],
) -> std::fmt::Result {
    if !printed.is_empty() {
        f.write_str("; it said last:")?;
        for line in printed {
            write!(f, "\n  {line}")?;
        }
    }
    Ok(())
}

impl std::fmt::Display for WorkerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Start { program, error } => write!(f, "{program} cannot be started: {error}"),
            Self::WorkingDirectory { program, directory, error } => {
                let directory = directory.display();
                write!(f, "the working directory {directory} of {program}: {error}")
            }
            Self::NotStarted { program, after } => {
                write!(f, "the system had not started {program} after {after:?}")
            }
            Self::ThreadEnded { program } => {
                write!(f, "the thread that was to start {program} has ended")
            }
            Self::Ended { status, printed } => {
                match status {
                    Some(status) => write!(f, "the worker ended before it was ready ({status})")?,
                    None => f.write_str("the worker ended before it was ready")?,
                }
                write_printed(f, printed)
            }
            Self::NotReady { after, printed } => {
                write!(f, "the worker was not ready after {after:?}")?;
                write_printed(f, printed)
            }
            Self::Connect { error, printed } => {
                write!(f, "no session with the worker: {error}")?;
                write_printed(f, printed)
            }
            Self::Socket { path, error } => {
                write!(f, "no place for the worker's socket: {}: {error}", path.display())
            }
            Self::PathTooLong { directory, len, max } => write!(
                f,
                "the socket of a worker in the directory {} would have a path of {len} bytes, more \
                 than the {max} that are possible",
                directory.display()
            ),
            Self::UnsafeDirectory { directory, owner, mode } => write!(
                f,
                "the directory {} (uid {owner}, mode {mode:04o}) is not safe for the sockets of \
                 workers: it must belong to this user or to root, and others may write to it only \
                 with the sticky bit",
                directory.display()
            ),
        }
    }
}

impl std::error::Error for WorkerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Start { error, .. }
            | Self::WorkingDirectory { error, .. }
            | Self::Socket { error, .. } => Some(error),
            Self::Connect { error, .. } => Some(error),
            Self::NotStarted { .. }
            | Self::ThreadEnded { .. }
            | Self::Ended { .. }
            | Self::NotReady { .. }
            | Self::PathTooLong { .. }
            | Self::UnsafeDirectory { .. } => None,
        }
    }
}

impl WorkerError {
    /// Whether trying again is of no use.
    pub(super) fn is_permanent(&self) -> bool {
        use std::io::ErrorKind::{
            InvalidFilename, InvalidInput, NotADirectory, NotFound, PermissionDenied,
            ReadOnlyFilesystem,
        };
        // No program, an environment that is too large, links in a circle, a name that is too long.
        const OTHERS: [i32; 4] = [libc::ENOEXEC, libc::E2BIG, libc::ELOOP, libc::ENAMETOOLONG];
        match self {
            Self::Start { error, .. }
            | Self::WorkingDirectory { error, .. }
            | Self::Socket { error, .. } => {
                matches!(
                    error.kind(),
                    NotFound
                        | PermissionDenied
                        | NotADirectory
                        | InvalidInput
                        | InvalidFilename
                        | ReadOnlyFilesystem
                ) || error.raw_os_error().is_some_and(|errno| OTHERS.contains(&errno))
            }
            Self::PathTooLong { .. } | Self::UnsafeDirectory { .. } => true,
            Self::NotStarted { .. }
            | Self::ThreadEnded { .. }
            | Self::Ended { .. }
            | Self::NotReady { .. }
            | Self::Connect { .. } => false,
        }
    }
}

/// Why a call to a worker brought no answer.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum WorkerCallError {
    /// There was no worker for it. It was not sent.
    Acquire(AcquireError<WorkerError>),
    /// There was, and the call failed.
    Call {
        /// Why, and whether the request may have been executed.
        error: CallError,
        /// The last lines that the worker printed, if it has ended.
        printed: Vec<String>,
    },
}

impl From<AcquireError<WorkerError>> for WorkerCallError {
    fn from(error: AcquireError<WorkerError>) -> Self {
        Self::Acquire(error)
    }
}

impl std::fmt::Display for WorkerCallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Acquire(error) => write!(f, "no worker: {error}"),
            Self::Call { error, printed } => {
                error.fmt(f)?;
                write_printed(f, printed)
            }
        }
    }
}

impl std::error::Error for WorkerCallError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Acquire(error) => Some(error),
            Self::Call { error, .. } => Some(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::spawn::{Failure, Step};
    use crate::worker::starter::StartError;
    use rustix::io::Errno;

    /// What may get better is tried again, and what cannot is told at once.
    #[test]
    fn w1_a_lack_of_processes_or_descriptors_is_not_permanent() {
        let is_permanent = |step, errno| {
            let error = StartError::Failed(Failure { step, errno }).into();
            WorkerError::Start { program: "cat".into(), error }.is_permanent()
        };
        for errno in [Errno::AGAIN, Errno::NOMEM, Errno::MFILE, Errno::NFILE, Errno::TXTBSY] {
            assert!(!is_permanent(Step::Clone, errno), "{errno}");
            assert!(!is_permanent(Step::Exec, errno), "{errno}");
            let error = StartError::Prepare("a pipe", errno).into();
            assert!(!WorkerError::Start { program: "cat".into(), error }.is_permanent(), "{errno}");
        }
        for errno in [Errno::NOENT, Errno::ACCESS, Errno::NOTDIR] {
            assert!(is_permanent(Step::Exec, errno), "{errno}");
        }
    }
}
