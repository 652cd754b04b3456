//! Worker processes kept ready, so that nobody waits for one to start.
//!
//! Workers come in two kinds. Those that **serve** are Ringbell servers: they are told where, by a
//! path or an inherited descriptor ([`ServerBuilder::for_parent`](crate::ServerBuilder::for_parent)
//! understands both), and are ready when they answer; [`WorkerPool`] holds them. Those that **speak
//! lines** are any programs that read requests from their standard input and write answers to their
//! standard output; [`LineWorkerPool`] holds them.
//!
//! A worker is killed (SIGKILL, and what it started with it, as far as that stays in its process
//! group) when it is closed, when its pool is dropped, and by the kernel when this process ends,
//! however that happens. None is left as a zombie. All workers of a process are started, and their
//! standard error is read, by one thread, which starts with the first of them and stays.

mod attendant;
mod error;
mod line;
mod pools;
mod process;
mod socket;
mod tail;

use crate::os::environment::{LISTEN_FD, LISTEN_PARENT, SOCKET};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub use error::{WorkerCallError, WorkerError};
#[cfg(feature = "tokio")]
pub(crate) use line::Stop as LineWorkerStop;
pub use line::{
    LineError, LineWorker, LineWorkerPool, LineWorkers, PooledLineWorker, line_workers,
};
pub use pools::{Pools, PoolsError, WorkerSpec};
pub use socket::{Attach, PooledWorker, SocketWorkers, Worker, WorkerPool};

/// How a worker is started. The environment and the working directory are those of this process
/// unless set otherwise.
#[derive(Debug, Clone)]
#[must_use = "a command does nothing without a pool"]
pub struct WorkerCommand {
    program: OsString,
    arguments: Vec<OsString>,
    clear_env: bool,
    env: Vec<(OsString, Option<OsString>)>,
    directory: Option<PathBuf>,
    start_timeout: Duration,
    ping_timeout: Duration,
    forward_stderr: bool,
}

impl WorkerCommand {
    /// A worker that runs `program`, which is looked up in `PATH` if it is a mere name.
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            arguments: Vec::new(),
            clear_env: false,
            env: Vec::new(),
            directory: None,
            start_timeout: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(1),
            forward_stderr: false,
        }
    }

    /// Adds an argument. `{socket}` in it stands for the path of the worker's socket.
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments.
    pub fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), Some(value.into())));
        self
    }

    /// Removes an environment variable.
    pub fn env_remove(mut self, name: impl Into<OsString>) -> Self {
        self.env.push((name.into(), None));
        self
    }

    /// Starts from an empty environment.
    pub fn env_clear(mut self) -> Self {
        self.clear_env = true;
        self
    }

    /// Sets the working directory.
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// How long it may take to be ready. Default 10 s.
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.start_timeout = timeout;
        self
    }

    /// How long it may take to answer when its health is checked. Default 1 s.
    pub fn ping_timeout(mut self, timeout: Duration) -> Self {
        self.ping_timeout = timeout;
        self
    }

    /// Whether what it prints is shown on this process's standard error, beside being kept.
    /// Default: no.
    pub fn forward_stderr(mut self, forward: bool) -> Self {
        self.forward_stderr = forward;
        self
    }

    /// The last part of the program's path, for names.
    fn name(&self) -> String {
        let name = Path::new(&self.program).file_name().unwrap_or(OsStr::new("worker"));
        name.to_string_lossy().into_owned()
    }

    fn not_started(&self, error: std::io::Error) -> WorkerError {
        WorkerError::Start { program: self.program.to_string_lossy().into_owned(), error }
    }

    fn command(&self, socket: Option<&Path>) -> Command {
        let mut command = Command::new(&self.program);
        if self.clear_env {
            command.env_clear();
        }
        // Not those that were meant for this process.
        for name in [SOCKET, LISTEN_FD, LISTEN_PARENT] {
            command.env_remove(name);
        }
        if let Some(socket) = socket {
            command.env(SOCKET, socket);
        }
        for (name, value) in &self.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        for argument in &self.arguments {
            command.arg(with_socket(argument, socket));
        }
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command
    }
}

/// The argument, with the path of the socket where it says `{socket}`.
fn with_socket(argument: &OsStr, socket: Option<&Path>) -> OsString {
    const PLACE: &str = "{socket}";
    match (argument.to_str(), socket) {
        (Some(text), Some(socket)) if text.contains(PLACE) => {
            let mut parts = text.split(PLACE);
            let mut whole = OsString::from(parts.next().unwrap_or_default());
            for part in parts {
                whole.push(socket);
                whole.push(part);
            }
            whole
        }
        _ => argument.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_stands_where_it_is_asked_for() {
        let socket = Path::new("/run/a.sock");
        let with = |argument: &str| with_socket(OsStr::new(argument), Some(socket));
        assert_eq!(with("--serve={socket},{socket}"), "--serve=/run/a.sock,/run/a.sock");
        assert_eq!(with("{sock}"), "{sock}");
        assert_eq!(with_socket(OsStr::new("{socket}"), None), "{socket}", "line workers have none");
    }
}
