//! Workers that serve Ringbell sessions on a socket.

use super::place::{self, SocketPlace};
use super::process::{Process, Streams};
use super::{WorkerCallError, WorkerCommand, WorkerError};
use crate::base::clock::FOR_EVER;
use crate::base::sync::{Ordering, PlainBool};
use crate::client::{CallError, Client, ConnectOptions};
use crate::handshake::{ConnectError, ServerProcess};
use crate::pool::{
    AcquireError, BuildError, Guard, Idle, Manager, NotDrained, Pool, PoolStats, Settings,
};
use rustix::process::Pid;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How a worker learns where to serve.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "config",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "lowercase")
)]
pub enum Attach {
    /// By the path of a socket that it is to make: `{socket}` in its arguments, and the variable
    /// `RINGBELL_SOCKET`.
    #[default]
    Path,
    /// It inherits the descriptor of a socket that listens already (`RINGBELL_LISTEN_FD`). For
    /// workers that run as another user, or see other files.
    Descriptor,
}

/// Starts workers that serve: the manager behind a [`WorkerPool`].
#[derive(Debug)]
pub struct SocketWorkers {
    command: WorkerCommand,
    attach: Attach,
    directory: PathBuf,
    create_directory: bool,
    name: String,
    options: ConnectOptions,
    /// Whether what others have left in the directory was removed.
    swept: PlainBool,
}

/// A worker process and the session with it. Dropping it kills the process.
#[derive(Debug)]
pub struct Worker {
    // In this order: goodbye, then the end of the process.
    client: Client,
    process: Process,
}

impl Worker {
    /// The session with it. It belongs to whoever holds the worker.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// As [`Client::call_timeout`].
    ///
    /// # Errors
    /// [`WorkerCallError::Call`], with what the worker printed if it has ended.
    pub fn call(
        &mut self,
        request: &[u8],
        timeout: Option<Duration>,
    ) -> Result<Vec<u8>, WorkerCallError> {
        match self.client.call_timeout(request, timeout) {
            Ok(answer) => Ok(answer.to_vec()),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn failed(&self, error: CallError) -> WorkerCallError {
        // The session may be gone a moment before its process is.
        let gone = matches!(error, CallError::Disconnected { .. } | CallError::ShutDown { .. })
            && self.process.ends_within(Duration::from_millis(100));
        WorkerCallError::Call {
            error,
            printed: if gone { self.process.printed() } else { Vec::new() },
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The last lines that it printed, the oldest first.
    pub fn printed(&self) -> Vec<String> {
        self.process.printed()
    }
}

impl SocketWorkers {
    /// Workers that `command` starts. While one starts, its socket is in a directory of its own in
    /// `directory`, whose name begins with `name`, and which only this user may enter. As soon as
    /// there is a session with the worker, nothing of that is left.
    ///
    /// A session is had with the process that was started, or one that it started in turn (the same
    /// process group, or a descendant), and with no other
    /// ([`ConnectError::WrongServerProcess`](crate::ConnectError::WrongServerProcess)).
    ///
    /// `directory` must belong to this user or to root; others may have the right to write to it
    /// only with the sticky bit ([`WorkerError::UnsafeDirectory`]).
    pub fn new(command: WorkerCommand, directory: impl Into<PathBuf>, name: &str) -> Self {
        let directory = directory.into();
        let name = name.chars().map(|char| match char {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | '.' => char,
            _ => '_',
        });
        let name: String = name.take(32).collect();
        Self {
            command,
            attach: Attach::default(),
            // A worker may have another working directory, and this process may change its own.
            directory: std::path::absolute(&directory).unwrap_or(directory),
            create_directory: false,
            name: if name.is_empty() { "worker".into() } else { name },
            options: ConnectOptions::new(),
            swept: PlainBool::new(false),
        }
    }

    /// How a worker learns where to serve. Default: by a path.
    #[must_use]
    pub fn attach(mut self, attach: Attach) -> Self {
        self.attach = attach;
        self
    }

    /// Whether the directory is made if it is missing, for this user only (mode 0700). Nothing
    /// above it is made. Default: no.
    #[must_use]
    pub fn create_directory(mut self, create: bool) -> Self {
        self.create_directory = create;
        self
    }

    /// How the sessions with workers are made.
    #[must_use]
    pub fn connect_options(mut self, options: ConnectOptions) -> Self {
        self.options = options;
        self
    }

    /// Waits until the worker serves, and has a session with it.
    fn connect(&self, process: &mut Process, path: &Path) -> Result<Client, WorkerError> {
        let deadline = Instant::now() + self.command.start_timeout.min(FOR_EVER);
        let mut pause = Duration::from_millis(1);
        let not_ready = |process: &Process| WorkerError::NotReady {
            after: self.command.start_timeout,
            printed: process.printed(),
        };
        let started = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
        let Some(started) = started else { return Err(not_ready(process)) };
        let pidfd = process.shared_pidfd();
        let inherits = self.attach == Attach::Descriptor;
        let meant = ServerProcess { started, pidfd, inherits };
        let options = self.options.clone().server_process(meant);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(not_ready(process));
            }
            let error = match options.clone().timeout(Some(left)).connect(path) {
                Ok(mut client) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    match client.ping(Some(left)) {
                        Ok(()) => return Ok(client),
                        Err(CallError::TimedOut { .. }) => return Err(not_ready(process)),
                        Err(_) => ConnectError::ServerDied,
                    }
                }
                Err(error) => error,
            };
            match error {
                ConnectError::NoSuchSocket(_)
                | ConnectError::NobodyListens(_)
                | ConnectError::ServerDied
                | ConnectError::TimedOut => {}
                error => {
                    return Err(WorkerError::Connect { error, printed: process.printed() });
                }
            }
            if process.ends_within(pause.min(left)) {
                let printed = process.printed();
                return Err(WorkerError::Ended { status: process.kill(), printed });
            }
            pause = (2 * pause).min(Duration::from_millis(16));
        }
    }
}

impl Manager for SocketWorkers {
    type Item = Worker;
    type Error = WorkerError;

    fn open(&self) -> Result<Worker, WorkerError> {
        if self.create_directory {
            place::create(&self.directory)?;
        }
        place::check(&self.directory)?;
        // Relaxed: once is enough, and a second time does no harm.
        if !self.swept.swap(true, Ordering::Relaxed) {
            place::sweep(&self.directory);
        }
        // The process is declared later, and so it is dead when the place goes.
        let mut place = SocketPlace::make(&self.directory, &self.name)?;
        let listener = match self.attach {
            Attach::Path => None,
            Attach::Descriptor => Some(place.listen()?),
        };
        let started =
            Process::start(&self.command, Some(place.socket()), Streams::Kept, listener.as_ref());
        let mut process = started.map_err(|error| self.command.not_started(error))?;
        // Held by the worker alone, so that nobody waits at the socket of one that is dead.
        drop(listener);
        let client = self.connect(&mut process, place.socket())?;
        place.leave();
        Ok(Worker { client, process })
    }

    fn is_permanent(&self, error: &WorkerError) -> bool {
        error.is_permanent()
    }

    /// Whether its process lives: one system call.
    fn is_ready(&self, worker: &mut Worker, _idle: Idle) -> bool {
        !worker.process.has_ended()
    }

    fn is_clean(&self, worker: &mut Worker) -> bool {
        worker.client.clean_up()
    }

    /// Whether it answers in time. One that does not is wedged, or stopped, and of no use either
    /// way.
    fn check(&self, worker: &mut Worker) -> bool {
        !worker.process.has_ended() && worker.client.ping(Some(self.command.ping_timeout)).is_ok()
    }
}

/// A worker that was taken out of a [`WorkerPool`]. It goes back into the pool only if it is
/// between requests then.
pub type PooledWorker = Guard<SocketWorkers>;

/// Worker processes kept ready. Clones are the same pool.
///
/// ```no_run
/// use ringbell::pool::Settings;
/// use ringbell::{WorkerCommand, WorkerPool};
///
/// let command = WorkerCommand::new("/usr/lib/app/renderer").args(["--serve", "{socket}"]);
/// let pool = WorkerPool::new(command, "/run/app", Settings::default())?;
/// let picture = pool.call(b"a request", None)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct WorkerPool(Pool<SocketWorkers>);

impl WorkerPool {
    /// A pool of workers that `command` starts, whose sockets are made in `directory`.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn new(
        command: WorkerCommand,
        directory: impl Into<PathBuf>,
        settings: Settings,
    ) -> Result<Self, BuildError> {
        let name = command.name();
        Self::of(SocketWorkers::new(command, directory, &name), settings)
    }

    /// A pool of workers that are started as `workers` says.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn of(workers: SocketWorkers, settings: Settings) -> Result<Self, BuildError> {
        workers.command.check()?;
        Ok(Self(Pool::new(workers, settings)?))
    }

    /// Takes a worker out. Waits at most `acquire_timeout`.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub fn acquire(&self) -> Result<PooledWorker, AcquireError<WorkerError>> {
        self.0.acquire()
    }

    /// One call to whichever worker is ready. Waits for a worker at most `acquire_timeout`, and
    /// then for the answer at most `timeout`: `None` waits for ever, zero does not wait. If the
    /// worker turns out to be dead, and the request was certainly not executed, it is sent to
    /// another one, once.
    ///
    /// # Errors
    /// [`WorkerCallError`].
    pub fn call(
        &self,
        request: &[u8],
        timeout: Option<Duration>,
    ) -> Result<Vec<u8>, WorkerCallError> {
        let mut first = true;
        loop {
            let mut worker = self.acquire()?;
            match worker.call(request, timeout) {
                Err(WorkerCallError::Call {
                    error:
                        CallError::Disconnected { maybe_executed: false }
                        | CallError::ShutDown { maybe_executed: false },
                    ..
                }) if first => {
                    worker.poison();
                    first = false;
                }
                done => return done,
            }
        }
    }

    /// What the pool counted so far, and what is in it now.
    pub fn stats(&self) -> PoolStats {
        self.0.stats()
    }

    /// As [`Pool::close`].
    ///
    /// # Errors
    /// [`NotDrained`] if workers were still in use when the time was over.
    pub fn close(&self, timeout: Option<Duration>) -> Result<(), NotDrained> {
        self.0.close(timeout)
    }

    /// The pool itself: deadlines, cancelling, [`Pool::try_acquire`].
    pub fn pool(&self) -> &Pool<SocketWorkers> {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handshake::tests::Scratch;
    use crate::handshake::{BindError, listen_for_child};
    use std::os::unix::fs::PermissionsExt;

    fn open_in(directory: &Path) -> Result<Worker, WorkerError> {
        SocketWorkers::new(WorkerCommand::new("/bin/false"), directory, "test").open()
    }

    fn is_refused(directory: &Path) -> bool {
        match open_in(directory) {
            Err(error @ WorkerError::UnsafeDirectory { .. }) => {
                assert!(error.is_permanent());
                assert!(error.to_string().contains(&*directory.to_string_lossy()), "{error}");
                true
            }
            // The program does nothing.
            Err(WorkerError::Ended { .. }) => false,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn p11_a_directory_that_others_may_write_to_needs_the_sticky_bit() {
        let scratch = Scratch::new();
        let directory = scratch.path("workers");
        std::fs::create_dir(&directory).expect("made");
        for (mode, refused) in
            [(0o700, false), (0o755, false), (0o770, true), (0o777, true), (0o1777, false)]
        {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&directory, permissions).expect("set");
            assert_eq!(is_refused(&directory), refused, "{mode:o}");
        }
    }

    #[test]
    fn p11_a_directory_of_another_user_is_refused() {
        let scratch = Scratch::new();
        let directory = scratch.path("workers");
        std::fs::create_dir(&directory).expect("made");
        if let Err(error) = std::os::unix::fs::chown(&directory, Some(12345), None) {
            eprintln!("not run: no directory of another user: {error}");
            return;
        }
        assert!(is_refused(&directory));
        std::os::unix::fs::chown(&directory, Some(0), None).expect("root's again");
        assert!(!is_refused(&directory));
    }

    #[test]
    fn c10_a_directory_of_workers_is_made_if_asked_only() {
        let scratch = Scratch::new();
        let directory = scratch.path("workers");
        let missing = open_in(&directory);
        let not_found = std::io::ErrorKind::NotFound;
        assert!(
            matches!(&missing, Err(WorkerError::Socket { path, error })
                if *path == directory && error.kind() == not_found),
            "{missing:?}"
        );
        let workers = SocketWorkers::new(WorkerCommand::new("/bin/false"), &directory, "test");
        let ended = workers.create_directory(true).open();
        assert!(matches!(ended, Err(WorkerError::Ended { .. })), "{ended:?}");
        let mode = std::fs::metadata(&directory).expect("made").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn w9_a_name_may_be_empty() {
        let scratch = Scratch::new();
        let workers = SocketWorkers::new(WorkerCommand::new("/bin/false"), scratch.path(""), "");
        let ended = workers.open();
        assert!(matches!(ended, Err(WorkerError::Ended { .. })), "{ended:?}");
    }

    /// Something that it started holds the socket which it inherited, and accepts nobody.
    #[test]
    fn w2_the_end_of_a_worker_is_seen_whoever_holds_its_socket() {
        let scratch = Scratch::new();
        let command = WorkerCommand::new("sh")
            .args(["-c", "sleep 600 & sleep 0.1; exit 3"])
            .start_timeout(Duration::from_secs(60));
        let workers = SocketWorkers::new(command, scratch.path(""), "test");
        let ended = workers.attach(Attach::Descriptor).open();
        match ended {
            Err(WorkerError::Ended { status: Some(status), .. }) => {
                assert_eq!(status.code(), Some(3));
            }
            other => panic!("{other:?}"),
        }
    }

    /// The socket of a worker that inherits it: its file is for this user only from the start.
    #[test]
    fn p10_a_socket_for_a_worker_is_private() {
        let scratch = Scratch::new();
        let path = scratch.path("s");
        std::os::unix::fs::symlink(scratch.path("victim"), &path).expect("made");
        assert!(matches!(listen_for_child(&path), Err(BindError::PathReplaced(at)) if at == path));
        std::fs::remove_file(&path).expect("removed");
        let _socket = listen_for_child(&path).expect("bound");
        let mode = std::fs::symlink_metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
