//! One pool for each kind of worker, made at first use.

use super::per_process::{Found, PerProcess};
use super::{
    LineWorkerPool, LineWorkers, PooledLineWorker, PooledWorker, SocketWorkers, WorkerError,
    WorkerPool, line_workers,
};
use crate::base::sync::{Mutex, lock};
use crate::os::fork::Origin;
use crate::pool::{AcquireError, BuildError, NotDrained, PoolStats, Settings};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a worker id stands for.
#[derive(Debug, Clone)]
pub enum WorkerSpec {
    /// Workers that serve; their sockets are made under the `socket_dir`, and begin with the id.
    Serving(super::WorkerCommand, super::Attach),
    /// Workers that speak lines.
    Lines(LineWorkers),
}

/// Why there is no worker of an id.
#[derive(Debug)]
#[non_exhaustive]
pub enum PoolsError {
    /// No worker of this id was defined.
    UnknownWorker(String),
    /// A worker of this id was defined already.
    DefinedTwice(String),
    /// The workers of this id are of the other kind: they speak lines, or they do not.
    OtherKind(String),
    /// All pools were closed.
    Closed,
    /// This process is a fork of the one that the pools belong to.
    Forked,
    /// The pool could not be made.
    Build(BuildError),
    /// The pool had no worker.
    Acquire(AcquireError<WorkerError>),
}

impl std::fmt::Display for PoolsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UnknownWorker(id) => write!(f, "there is no worker {id:?}"),
            Self::DefinedTwice(id) => write!(f, "the worker {id:?} was defined before"),
            Self::OtherKind(id) => write!(f, "the worker {id:?} is of the other kind"),
            Self::Closed => f.write_str("the pools were closed"),
            Self::Forked => f.write_str("the pools belong to the parent process"),
            Self::Build(error) => error.fmt(f),
            Self::Acquire(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for PoolsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Build(error) => Some(error),
            Self::Acquire(error) => Some(error),
            _ => None,
        }
    }
}

impl From<BuildError> for PoolsError {
    fn from(error: BuildError) -> Self {
        Self::Build(error)
    }
}

impl From<AcquireError<WorkerError>> for PoolsError {
    fn from(error: AcquireError<WorkerError>) -> Self {
        Self::Acquire(error)
    }
}

#[derive(Debug)]
enum Entry {
    /// Not used yet.
    Defined(Box<(WorkerSpec, Settings)>),
    Serving(WorkerPool),
    Lines(LineWorkerPool),
}

#[derive(Debug)]
struct State {
    workers: BTreeMap<String, Entry>,
    closed: bool,
}

/// One pool for each worker id (`node:api`), made when a worker of it is first asked for. Any
/// thread may use it.
///
/// ```no_run
/// use ringbell::pool::Settings;
/// use ringbell::{Pools, WorkerCommand};
///
/// let pools = Pools::new("/run/app", Settings { min_idle: 1, ..Settings::default() });
/// pools.define("node:api", WorkerCommand::new("/usr/lib/app/api").arg("{socket}"))?;
/// let mut worker = pools.acquire("node:api")?;
/// let answer = worker.call(b"a request", None)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Pools {
    socket_dir: PathBuf,
    create_directory: bool,
    settings: Settings,
    state: Mutex<State>,
    origin: Origin,
}

/// The pools of the process.
static GLOBAL: PerProcess<Pools> = PerProcess::new();

impl Pools {
    /// No workers yet. Their sockets will be made in `socket_dir`, and their pools have these
    /// settings, unless they have their own. A relative path is one of the working directory of
    /// now.
    pub fn new(socket_dir: impl Into<PathBuf>, settings: Settings) -> Self {
        let socket_dir = socket_dir.into();
        Self {
            // The first use of a pool may come after a change of the working directory.
            socket_dir: std::path::absolute(&socket_dir).unwrap_or(socket_dir),
            create_directory: false,
            settings,
            state: Mutex::new(State { workers: BTreeMap::new(), closed: false }),
            origin: Origin::here(),
        }
    }

    /// Whether `socket_dir` is made if it is missing, for this user only (mode 0700). Nothing above
    /// it is made. Default: no.
    #[must_use]
    pub fn create_directory(mut self, create: bool) -> Self {
        self.create_directory = create;
        self
    }

    /// Where sockets are made.
    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// Says how workers of an id that serve are started. Nothing is started yet.
    ///
    /// # Errors
    /// [`PoolsError::DefinedTwice`], [`PoolsError::Closed`], [`PoolsError::Forked`];
    /// [`PoolsError::Build`] with the setting that makes no sense.
    pub fn define(
        &self,
        id: impl Into<String>,
        command: super::WorkerCommand,
    ) -> Result<(), PoolsError> {
        self.define_with(
            id,
            WorkerSpec::Serving(command, super::Attach::Path),
            self.settings.clone(),
        )
    }

    /// As [`Self::define`], of either kind, with settings of its own.
    ///
    /// # Errors
    /// As [`Self::define`].
    pub fn define_with(
        &self,
        id: impl Into<String>,
        worker: WorkerSpec,
        settings: Settings,
    ) -> Result<(), PoolsError> {
        let mut state = self.state()?;
        settings.check().map_err(BuildError::from)?;
        let checked = match &worker {
            WorkerSpec::Serving(command, _) => command.check(),
            WorkerSpec::Lines(workers) => workers.check_all(),
        };
        checked.map_err(BuildError::from)?;
        let id = id.into();
        if state.workers.contains_key(&id) {
            return Err(PoolsError::DefinedTwice(id));
        }
        state.workers.insert(id, Entry::Defined(Box::new((worker, settings))));
        Ok(())
    }

    fn state(&self) -> Result<crate::base::sync::MutexGuard<'_, State>, PoolsError> {
        if !self.origin.is_here() {
            return Err(PoolsError::Forked);
        }
        let state = lock(&self.state);
        if state.closed { Err(PoolsError::Closed) } else { Ok(state) }
    }

    /// Calls `with` with the pool of an id, which is made now if this is its first use. Whoever
    /// comes meanwhile waits for that, which does not wait for a worker.
    fn with_pool<R>(
        &self,
        id: &str,
        with: impl FnOnce(&Entry) -> Result<R, PoolsError>,
    ) -> Result<R, PoolsError> {
        let mut state = self.state()?;
        let Some(entry) = state.workers.get_mut(id) else {
            return Err(PoolsError::UnknownWorker(id.to_owned()));
        };
        if let Entry::Defined(defined) = entry {
            // The definition stays if there is no thread at this moment.
            let (spec, settings) = defined.as_ref().clone();
            *entry = match spec {
                WorkerSpec::Serving(command, attach) => {
                    let workers = SocketWorkers::new(command, &self.socket_dir, id)
                        .create_directory(self.create_directory)
                        .attach(attach);
                    Entry::Serving(WorkerPool::of(workers, settings)?)
                }
                WorkerSpec::Lines(workers) => Entry::Lines(line_workers(workers, settings)?),
            };
        }
        with(entry)
    }

    /// The pool of an id whose workers serve.
    ///
    /// # Errors
    /// [`PoolsError`].
    pub fn pool(&self, id: &str) -> Result<WorkerPool, PoolsError> {
        self.with_pool(id, |entry| match entry {
            Entry::Serving(pool) => Ok(pool.clone()),
            _ => Err(PoolsError::OtherKind(id.to_owned())),
        })
    }

    /// The pool of an id whose workers speak lines.
    ///
    /// # Errors
    /// [`PoolsError`].
    pub fn line_pool(&self, id: &str) -> Result<LineWorkerPool, PoolsError> {
        self.with_pool(id, |entry| match entry {
            Entry::Lines(pool) => Ok(pool.clone()),
            _ => Err(PoolsError::OtherKind(id.to_owned())),
        })
    }

    /// Takes out a worker that serves. Waits at most `acquire_timeout`.
    ///
    /// # Errors
    /// [`PoolsError`].
    pub fn acquire(&self, id: &str) -> Result<PooledWorker, PoolsError> {
        Ok(self.pool(id)?.acquire()?)
    }

    /// Takes out a worker that speaks lines. Waits at most `acquire_timeout`.
    ///
    /// # Errors
    /// [`PoolsError`].
    pub fn acquire_line(&self, id: &str) -> Result<PooledLineWorker, PoolsError> {
        Ok(self.line_pool(id)?.acquire()?)
    }

    /// What the pools counted that were used so far, by id.
    pub fn stats(&self) -> BTreeMap<String, PoolStats> {
        let Ok(state) = self.state() else { return BTreeMap::new() };
        let stats = state.workers.iter().filter_map(|(id, entry)| match entry {
            Entry::Defined(..) => None,
            Entry::Serving(pool) => Some((id.clone(), pool.stats())),
            Entry::Lines(pool) => Some((id.clone(), pool.stats())),
        });
        stats.collect()
    }

    /// Closes all pools, and waits at most `timeout` altogether for workers in use: `None` waits
    /// for ever, zero does not wait.
    ///
    /// # Errors
    /// [`NotDrained`] if some were still in use then: how many, of all pools.
    pub fn close(&self, timeout: Option<Duration>) -> Result<(), NotDrained> {
        if !self.origin.is_here() {
            return Ok(());
        }
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let workers = {
            let mut state = lock(&self.state);
            state.closed = true;
            std::mem::take(&mut state.workers)
        };
        let close = |entry: &Entry, timeout| match entry {
            Entry::Defined(..) => Ok(()),
            Entry::Serving(pool) => pool.close(timeout),
            Entry::Lines(pool) => pool.close(timeout),
        };
        // First all are told, so that they drain side by side.
        for entry in workers.values() {
            let _ = close(entry, Some(Duration::ZERO));
        }
        let mut left = NotDrained { in_use: 0, others: 0 };
        for entry in workers.values() {
            let remaining =
                deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if let Err(NotDrained { in_use, others }) = close(entry, remaining) {
                left.in_use += in_use;
                left.others += others;
            }
        }
        if left.in_use + left.others == 0 { Ok(()) } else { Err(left) }
    }

    /// Makes these the pools of the process; the ones before, if there were any, are handed back.
    pub fn init(pools: Self) -> Option<Arc<Self>> {
        GLOBAL.replace(Arc::new(pools))
    }

    /// The pools of the process, if [`Self::init`] was called. In a forked child that has none of
    /// its own, those of its parent: they say [`PoolsError::Forked`]. Never waits for a lock that
    /// the parent held when it forked.
    pub fn global() -> Option<Arc<Self>> {
        match GLOBAL.get() {
            Found::Value(pools) => Some(pools),
            Found::Nothing => None,
            Found::Unknown => {
                let nobodys = Self::new(PathBuf::new(), Settings::default());
                Some(Arc::new(Self { origin: Origin::NOWHERE, ..nobodys }))
            }
        }
    }

    /// Takes the pools of the process away and closes them, as [`Self::close`].
    ///
    /// # Errors
    /// As [`Self::close`].
    pub fn shutdown(timeout: Option<Duration>) -> Result<(), NotDrained> {
        GLOBAL.take().map_or(Ok(()), |pools| pools.close(timeout))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WorkerCommand;
    use crate::pool::SettingsError;

    #[test]
    fn nonsense_is_told_at_definition() {
        let pools = Pools::new("/run/app", Settings::default());
        let none = Settings { max_size: 0, ..Settings::default() };
        let lines = WorkerSpec::Lines(LineWorkers::new(WorkerCommand::new("cat")));
        assert!(matches!(
            pools.define_with("a", lines, none),
            Err(PoolsError::Build(BuildError::Settings(SettingsError::MaxSizeZero)))
        ));
        for (command, name) in [
            (WorkerCommand::new("x").start_timeout(Duration::ZERO), "start_timeout"),
            (WorkerCommand::new("x").ping_timeout(Duration::ZERO), "ping_timeout"),
        ] {
            let workers = SocketWorkers::new(command.clone(), "/run/app", "x");
            let built = WorkerPool::of(workers, Settings::default());
            assert!(matches!(
                built,
                Err(BuildError::Settings(SettingsError::ZeroTime(zero))) if zero == name
            ));
            assert!(matches!(
                pools.define("a", command.clone()),
                Err(PoolsError::Build(BuildError::Settings(SettingsError::ZeroTime(zero))))
                    if zero == name
            ));
            let lines = WorkerSpec::Lines(LineWorkers::new(command));
            assert!(matches!(
                pools.define_with("a", lines, Settings::default()),
                Err(PoolsError::Build(BuildError::Settings(SettingsError::ZeroTime(zero))))
                    if zero == name
            ));
        }
        let cat = || LineWorkers::new(WorkerCommand::new("cat"));
        for lines in [cat().max_line(0), cat().ready_line("two\nlines"), cat().probe("a\nb", "c")] {
            assert!(matches!(
                line_workers(lines.clone(), Settings::default()),
                Err(BuildError::Settings(SettingsError::Worker(_)))
            ));
            assert!(matches!(
                pools.define_with("a", WorkerSpec::Lines(lines), Settings::default()),
                Err(PoolsError::Build(BuildError::Settings(SettingsError::Worker(_))))
            ));
        }
        assert!(matches!(pools.acquire("a"), Err(PoolsError::UnknownWorker(_))));
    }

    #[test]
    fn w8_a_relative_directory_is_that_of_the_definition() {
        let here = std::env::current_dir().expect("there");
        let pools = Pools::new("sockets", Settings::default());
        assert_eq!(pools.socket_dir(), here.join("sockets"));
    }
}
