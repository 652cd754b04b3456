//! Settings from YAML files (feature `config`).
//!
//! ```yaml
//! ipc:
//!   socket_dir: /run/app
//!   pool: { min_idle: 2, max_size: 16, idle_timeout: 30s }
//! ```
//!
//! The README has the full reference. Everything is plain structs with serde, so a program may have
//! [`Ipc`] in a configuration of its own, in whatever format. Times are written with their unit
//! (`30s`, `5ms`, `1m 30s`); `never` stands for none. A key that is not known is an error, which
//! names the key and the line.

pub(crate) use crate::client::ConnectOptions;
use crate::handshake::TransportChoice;
use crate::pool::time;
use crate::pool::{Backoff, BuildError, ConnectionPool, Settings, SettingsError};
use crate::server::{Server, ServerBuilder};
use crate::worker::{Attach, LineWorkers, Pools, WorkerCommand, WorkerSpec};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// All that Ringbell is told.
    pub ipc: Ipc,
}

/// Where sockets are, how large pools are, which workers there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ipc {
    /// The directory of all sockets.
    pub socket_dir: PathBuf,
    /// Whether `socket_dir` is made if it is missing, for this user only (mode 0700). Nothing above
    /// it is made. Default: no.
    #[serde(default)]
    pub create_directory: bool,
    /// What carries sessions.
    #[serde(default)]
    pub transport: TransportChoice,
    /// Pools of connections and of workers that say nothing else.
    #[serde(default)]
    pub pool: Settings,
    /// Limits of a server.
    #[serde(default)]
    pub server: ServerLimits,
    /// The workers, by id.
    #[serde(default)]
    pub workers: BTreeMap<String, Worker>,
}

/// Limits of a server: those that are there. See the methods of the same names of
/// [`ServerBuilder`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are methods of `ServerBuilder`")]
pub struct ServerLimits {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_clients_per_uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_handshakes_per_uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ring_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_held_bytes_per_client: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_held_bytes_per_uid: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_held_bytes: Option<u64>,
    /// How long a client may leave answers unread; `None` for ever. Default 30 s.
    #[serde(with = "time::optional")]
    pub slow_client_timeout: Option<Duration>,
    /// How long a handler waits for a client that takes no more items of its stream; `None` for
    /// ever. Default 5 s.
    #[serde(with = "time::optional")]
    pub stream_stall_timeout: Option<Duration>,
}

impl Default for ServerLimits {
    fn default() -> Self {
        let (slow_client_timeout, stream_stall_timeout) = ServerBuilder::usual_limits();
        Self {
            max_clients_per_uid: None,
            max_handshakes_per_uid: None,
            max_ring_bytes: None,
            max_held_bytes_per_client: None,
            max_held_bytes_per_uid: None,
            max_held_bytes: None,
            slow_client_timeout,
            stream_stall_timeout,
        }
    }
}

impl ServerLimits {
    /// `builder`, with the limits that are here.
    pub fn over(&self, mut builder: ServerBuilder) -> ServerBuilder {
        if let Some(clients) = self.max_clients_per_uid {
            builder = builder.max_clients_per_uid(clients);
        }
        if let Some(handshakes) = self.max_handshakes_per_uid {
            builder = builder.max_handshakes_per_uid(handshakes);
        }
        if let Some(bytes) = self.max_ring_bytes {
            builder = builder.max_ring_bytes(bytes);
        }
        if let Some(bytes) = self.max_held_bytes_per_client {
            builder = builder.max_held_bytes_per_client(bytes);
        }
        if let Some(bytes) = self.max_held_bytes_per_uid {
            builder = builder.max_held_bytes_per_uid(bytes);
        }
        if let Some(bytes) = self.max_held_bytes {
            builder = builder.max_held_bytes(bytes);
        }
        builder
            .slow_client_timeout(self.slow_client_timeout)
            .stream_stall_timeout(self.stream_stall_timeout)
    }
}

/// What a worker speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkerKind {
    /// It serves Ringbell sessions on a socket.
    #[default]
    Serving,
    /// Lines, over its standard input and output.
    Lines,
}

/// How a worker is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Worker {
    /// The program and its arguments. In these, `{socket}` stands for the path of the worker's
    /// socket.
    pub command: Vec<String>,
    /// What it speaks. Default: it serves.
    #[serde(default)]
    pub kind: WorkerKind,
    /// How a worker that serves learns where. Default: by a path.
    #[serde(default)]
    pub attach: Attach,
    /// Whether it starts with an empty environment. Default: with that of the program.
    #[serde(default)]
    pub clear_env: bool,
    /// Variables to be set.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Its working directory. Default: that of the program.
    #[serde(default)]
    pub directory: Option<PathBuf>,
    /// The CPUs that it may run on. Default: those of the program.
    #[serde(default)]
    pub cpus: Option<Vec<usize>>,
    /// Its nice value. Default: that of the program.
    #[serde(default)]
    pub nice: Option<i32>,
    /// The signals that are blocked in it when it starts. Default: as in the program's main thread.
    #[serde(default)]
    pub blocked_signals: Option<Vec<i32>>,
    /// How long it may take to be ready.
    #[serde(default = "ten_seconds", with = "time")]
    pub start_timeout: Duration,
    /// How long it may take to answer when its health is checked.
    #[serde(default = "one_second", with = "time")]
    pub ping_timeout: Duration,
    /// Whether what it prints to its standard error is shown on the program's.
    #[serde(default)]
    pub forward_stderr: bool,
    /// A worker that speaks lines is ready when it has said this one.
    #[serde(default)]
    pub ready_line: Option<String>,
    /// How a worker that speaks lines is asked for a sign of life.
    #[serde(default)]
    pub probe: Option<Probe>,
    /// Longest line that a worker may say, in bytes. Default 1 MiB.
    #[serde(default = "a_mebibyte")]
    pub max_line: usize,
    /// How often a worker that speaks lines is used before another one takes its place. Default:
    /// any number of times.
    #[serde(default)]
    pub max_uses: Option<u64>,
    /// What is different about its pool.
    #[serde(default)]
    pub pool: Overrides,
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

fn one_second() -> Duration {
    Duration::from_secs(1)
}

fn a_mebibyte() -> usize {
    1 << 20
}

/// A question for a worker that speaks lines, and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// The line that is written to it.
    pub ask: String,
    /// The line that it says then.
    pub answer: String,
}

/// A time that a pool of workers has instead of that of all pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Limit(#[serde(with = "time::optional")] pub Option<Duration>);

/// Settings of one pool that differ from those of all pools: those that are there. See
/// [`Settings`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are those of `Settings`")]
pub struct Overrides {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_idle: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_size: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_starting: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Limit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_lifetime: Option<Limit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acquire_timeout: Option<Limit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check_interval: Option<Limit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Backoff>,
}

impl Overrides {
    /// `settings`, with what is different here.
    #[must_use]
    pub fn over(&self, settings: &Settings) -> Settings {
        let time = |limit: Option<Limit>, usual| limit.map_or(usual, |limit| limit.0);
        Settings {
            enabled: self.enabled.unwrap_or(settings.enabled),
            min_idle: self.min_idle.unwrap_or(settings.min_idle),
            min_size: self.min_size.unwrap_or(settings.min_size),
            max_size: self.max_size.unwrap_or(settings.max_size),
            max_starting: self.max_starting.unwrap_or(settings.max_starting),
            idle_timeout: time(self.idle_timeout, settings.idle_timeout),
            max_lifetime: time(self.max_lifetime, settings.max_lifetime),
            acquire_timeout: time(self.acquire_timeout, settings.acquire_timeout),
            health_check_interval: time(self.health_check_interval, settings.health_check_interval),
            backoff: self.backoff.clone().unwrap_or_else(|| settings.backoff.clone()),
        }
    }
}

/// What is wrong with a configuration.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    Io {
        /// Which one.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// It is no YAML, has an unknown key, lacks one, or has a value of the wrong kind.
    Syntax {
        /// The line, counted from 1; 0 if there is none.
        line: u64,
        /// The column, counted from 1; 0 if there is none.
        column: u64,
        /// What is wrong.
        message: String,
    },
    /// The settings of a pool make no sense.
    Settings {
        /// Whose: `ipc.pool`, or `ipc.workers.<id>.pool`.
        at: String,
        /// What is wrong.
        error: SettingsError,
    },
    /// A worker makes no sense.
    Worker {
        /// Its id.
        id: String,
        /// What is wrong.
        message: &'static str,
    },
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io { path, error } => write!(f, "{}: {error}", path.display()),
            Self::Syntax { line: 0, message, .. } => f.write_str(message),
            Self::Syntax { line, column, message } => {
                write!(f, "line {line}, column {column}: {message}")
            }
            Self::Settings { at, error } => write!(f, "{at}: {error}"),
            Self::Worker { id, message } => write!(f, "ipc.workers.{id}: {message}"),
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { error, .. } => Some(error),
            Self::Settings { error, .. } => Some(error),
            Self::Syntax { .. } | Self::Worker { .. } => None,
        }
    }
}

impl Config {
    /// The configuration in `text`, checked.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn from_yaml(text: &str) -> Result<Self, ConfigError> {
        let config: Self = serde_saphyr::from_str(text).map_err(|error| {
            let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
            let message = error.without_snippet().to_string();
            // The place is told once.
            let message = match message.split_once(": ") {
                Some((place, rest)) if place.starts_with("line ") => rest.to_owned(),
                _ => message,
            };
            ConfigError::Syntax { line, column, message }
        })?;
        config.ipc.check()?;
        Ok(config)
    }

    /// The configuration in a file, checked.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Io { path: path.to_owned(), error })?;
        Self::from_yaml(&text)
    }
}

impl Ipc {
    /// Whether all of it makes sense.
    ///
    /// # Errors
    /// [`ConfigError`], neither [`ConfigError::Io`] nor [`ConfigError::Syntax`].
    pub fn check(&self) -> Result<(), ConfigError> {
        let settings = |at: String| |error| ConfigError::Settings { at, error };
        self.pool.check().map_err(settings("ipc.pool".into()))?;
        for (id, worker) in &self.workers {
            let pool = worker.pool.over(&self.pool);
            pool.check().map_err(settings(format!("ipc.workers.{id}.pool")))?;
            worker.check().map_err(|message| ConfigError::Worker { id: id.clone(), message })?;
            worker.start().check().map_err(settings(format!("ipc.workers.{id}")))?;
        }
        Ok(())
    }

    /// A server with the limits of this file, for a socket in [`Self::socket_dir`]. A limit that
    /// makes no sense is told of by `bind`.
    pub fn server(&self) -> ServerBuilder {
        self.server.over(Server::builder().create_directory(self.create_directory))
    }

    /// How connections are made.
    pub fn connect_options(&self) -> ConnectOptions {
        ConnectOptions::new().transport(self.transport)
    }

    /// A pool of connections to the server whose socket in `socket_dir` has this name.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn connections(&self, socket: impl AsRef<Path>) -> Result<ConnectionPool, BuildError> {
        ConnectionPool::with_options(
            self.socket_dir.join(socket),
            self.connect_options(),
            self.pool.clone(),
        )
    }

    /// The pools of all workers. Nothing is started before it is asked for.
    ///
    /// # Errors
    /// [`ConfigError`], as [`Self::check`].
    pub fn pools(&self) -> Result<Pools, ConfigError> {
        self.check()?;
        let pools =
            Pools::new(&self.socket_dir, self.pool.clone()).create_directory(self.create_directory);
        for (id, worker) in &self.workers {
            let defined = pools.define_with(id, worker.spec(), worker.pool.over(&self.pool));
            debug_assert!(
                defined.is_ok(),
                "each id is there once, and nobody else knows of these pools"
            );
        }
        Ok(pools)
    }
}

impl Worker {
    fn check(&self) -> Result<(), &'static str> {
        if self.command.first().is_none_or(String::is_empty) {
            return Err("command is empty");
        }
        match self.kind {
            WorkerKind::Serving if self.ready_line.is_some() => {
                Err("ready_line is for workers that speak lines")
            }
            WorkerKind::Serving if self.probe.is_some() => {
                Err("probe is for workers that speak lines")
            }
            WorkerKind::Serving if self.max_uses.is_some() => {
                Err("max_uses is for workers that speak lines")
            }
            WorkerKind::Lines if self.max_uses == Some(0) => Err("max_uses is 0"),
            WorkerKind::Lines if self.attach != Attach::Path => {
                Err("attach is for workers that serve")
            }
            WorkerKind::Lines if self.max_line == 0 => Err("max_line is 0"),
            WorkerKind::Serving => Ok(()),
            WorkerKind::Lines => self.line_workers(WorkerCommand::new("")).check(),
        }
    }

    fn line_workers(&self, command: WorkerCommand) -> LineWorkers {
        let mut workers = LineWorkers::new(command).max_line(self.max_line).max_uses(self.max_uses);
        if let Some(line) = &self.ready_line {
            workers = workers.ready_line(line);
        }
        if let Some(Probe { ask, answer }) = &self.probe {
            workers = workers.probe(ask, answer);
        }
        workers
    }

    fn start(&self) -> WorkerCommand {
        let program = self.command.first().cloned().unwrap_or_default();
        let mut command = WorkerCommand::new(program)
            .args(self.command.iter().skip(1))
            .start_timeout(self.start_timeout)
            .ping_timeout(self.ping_timeout)
            .forward_stderr(self.forward_stderr);
        if self.clear_env {
            command = command.env_clear();
        }
        for (name, value) in &self.env {
            command = command.env(name, value);
        }
        if let Some(directory) = &self.directory {
            command = command.current_dir(directory);
        }
        if let Some(cpus) = &self.cpus {
            command = command.cpus(cpus.iter().copied());
        }
        if let Some(nice) = self.nice {
            command = command.nice(nice);
        }
        if let Some(signals) = &self.blocked_signals {
            command = command.blocked_signals(signals.iter().copied());
        }
        command
    }

    fn spec(&self) -> WorkerSpec {
        let command = self.start();
        match self.kind {
            WorkerKind::Serving => WorkerSpec::Serving(command, self.attach),
            WorkerKind::Lines => WorkerSpec::Lines(self.line_workers(command)),
        }
    }
}

#[cfg(test)]
mod tests;
