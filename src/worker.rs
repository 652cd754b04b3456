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
//! however that happens. No worker is left as a zombie.
//!
//! The kernel kills only what this process has started itself. A worker that serves also watches
//! this process: its server shuts down when this process is dead. So that holds behind a wrapper
//! (a shell script, say) as well; the wrapper must pass the environment on (`RINGBELL_SOCKET`), and
//! the worker serve where it was told to. A handler that is running is not interrupted. A program
//! that speaks lines is told behind a wrapper by the end of its standard input: it has to end then,
//! as programs of this kind do. The same goes for a program that gains privileges (setuid, file
//! capabilities) or changes its user: the kernel forgets for it that it dies with this process, and
//! may refuse to kill it.
//!
//! What a worker has started and left behind becomes a child of this process if that is pid 1 of a
//! container or a subreaper (`PR_SET_CHILD_SUBREAPER`). It is killed with the worker's group. To
//! wait for it is the duty of such a process; an init process does it (`docker run --init`).
//!
//! Threads of this library start the workers, read what they print, and show it, if that is wanted.
//! They start with the first worker and stay. None of them waits for another one, so that a program
//! that the file system does not deliver, or a standard error that is not read, delays no other
//! pool. This process may ignore SIGCHLD, or wait for children that are not its own: then how a
//! worker has ended may not be known, and that it has ended always is.

mod attendant;
mod error;
mod forward;
mod line;
mod per_process;
mod place;
mod placement;
mod pools;
mod process;
mod signals;
mod socket;
mod spawn;
mod starter;
mod tail;

use crate::base::clock::FOR_EVER;
use crate::os::environment::{LISTEN_FD, SOCKET};
use crate::pool::SettingsError;
use spawn::{Failure, Step};
use starter::StartError;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
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
    wanted: placement::Wanted,
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
            wanted: placement::Wanted::default(),
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

    /// The CPUs that it may run on, by number. Default: those of this process, which are those of
    /// its main thread when the worker is started.
    pub fn cpus(mut self, cpus: impl IntoIterator<Item = usize>) -> Self {
        self.wanted.cpus = Some(cpus.into_iter().collect());
        self
    }

    /// Its nice value: -20 (first) to 19 (last). Default: that of this process's main thread when
    /// the worker is started, as is its scheduling policy. To be lower than the thread that first
    /// started a worker takes a privilege (`CAP_SYS_NICE`); without it the default is not met, and
    /// a value that was set is an error.
    pub fn nice(mut self, nice: i32) -> Self {
        self.wanted.nice = Some(nice);
        self
    }

    /// The signals that are blocked in it when it starts, by number. Default: those that this
    /// process's main thread blocks then. A host that blocks signals in its main thread, to wait
    /// for them (`sigwait`, `signalfd`), may want none for its workers.
    ///
    /// What this process handles does what it does by default in a worker; what it ignores is
    /// ignored, except for SIGCHLD and SIGPIPE.
    pub fn blocked_signals(mut self, signals: impl IntoIterator<Item = i32>) -> Self {
        self.wanted.blocked = Some(signals.into_iter().collect());
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

    /// Whether its settings make sense. Is asked when a pool is built.
    ///
    /// # Errors
    /// [`SettingsError`] says which one does not.
    pub fn check(&self) -> Result<(), SettingsError> {
        for (name, time) in
            [("start_timeout", self.start_timeout), ("ping_timeout", self.ping_timeout)]
        {
            if time.is_zero() {
                return Err(SettingsError::ZeroTime(name));
            }
            if time > FOR_EVER {
                return Err(SettingsError::TooLong { name, time });
            }
        }
        let refused = |why| Err(SettingsError::Worker(why));
        if self.program.is_empty() {
            return refused("the program has no name");
        }
        match &self.wanted.cpus {
            Some(cpus) if cpus.is_empty() => return refused("cpus is empty"),
            Some(cpus) if cpus.iter().any(|cpu| *cpu >= rustix::thread::CpuSet::MAX_CPU) => {
                return refused("cpus has a number of 1024 or more");
            }
            _ => {}
        }
        if self.wanted.nice.is_some_and(|nice| !(-20..20).contains(&nice)) {
            return refused("nice is not between -20 and 19");
        }
        let blocked = self.wanted.blocked.iter().flatten();
        if blocked.clone().any(|signal| !(1..=64).contains(signal)) {
            return refused("blocked_signals has a number that is no signal's");
        }
        Ok(())
    }

    /// What became of a start that failed.
    fn not_started(&self, error: std::io::Error) -> WorkerError {
        let program = self.program.to_string_lossy().into_owned();
        let error = match error.downcast::<StartError>() {
            Ok(error) => error,
            Err(error) => return WorkerError::Start { program, error },
        };
        match (error, &self.directory) {
            (StartError::Failed(Failure { step: Step::Directory, errno }), Some(directory)) => {
                WorkerError::WorkingDirectory {
                    program,
                    directory: directory.clone(),
                    error: errno.into(),
                }
            }
            (StartError::Failed(Failure { step: Step::Exec, errno }), _) => {
                WorkerError::Start { program, error: self.not_executed(errno) }
            }
            (StartError::TimedOut { after }, _) => WorkerError::NotStarted { program, after },
            (StartError::ThreadDied, _) => WorkerError::ThreadEnded { program },
            (error, _) => WorkerError::Start { program, error: error.into() },
        }
    }

    /// Why the kernel does not execute the program.
    fn not_executed(&self, errno: rustix::io::Errno) -> std::io::Error {
        let plain = std::io::Error::from(errno);
        if plain.kind() != std::io::ErrorKind::NotFound {
            return plain;
        }
        let path = match &self.directory {
            Some(directory) => directory.join(&self.program),
            None => PathBuf::from(&self.program),
        };
        if !self.program.as_encoded_bytes().contains(&b'/') {
            std::io::Error::new(plain.kind(), format!("it is in no directory of PATH: {plain}"))
        } else if path.exists() {
            let text = "it is there, but the interpreter that it names is not";
            std::io::Error::new(plain.kind(), format!("{text}: {plain}"))
        } else {
            plain
        }
    }

    fn program(&self) -> &OsStr {
        &self.program
    }

    fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    fn wanted(&self) -> &placement::Wanted {
        &self.wanted
    }

    fn arguments(&self, socket: Option<&Path>) -> impl Iterator<Item = OsString> {
        self.arguments.iter().map(move |argument| with_socket(argument, socket))
    }

    fn environment(&self, socket: Option<&Path>) -> BTreeMap<OsString, OsString> {
        let mut environment: BTreeMap<_, _> =
            if self.clear_env { BTreeMap::new() } else { std::env::vars_os().collect() };
        // Not those that were meant for this process.
        for name in [SOCKET, LISTEN_FD] {
            environment.remove(OsStr::new(name));
        }
        if let Some(socket) = socket {
            environment.insert(SOCKET.into(), socket.into());
        }
        for (name, value) in &self.env {
            match value {
                Some(value) => environment.insert(name.clone(), value.clone()),
                None => environment.remove(name),
            };
        }
        environment
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
