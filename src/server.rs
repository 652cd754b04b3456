//! The server: it answers the requests of all clients.
//!
//! [`Server`] and its settings stand at the top. A porter lets clients in, a reactor moves requests
//! and answers, an engine hands requests to the code that answers them. From the bottom up:
//!
//! `facts`, `porter`, `park`, `flight`, `answer`, `service`, `handler`, `engine`, `adapters`,
//! `dispatch`, `reactor`, `status`, `builder`, `handle`, `embedded`.

pub(crate) mod adapters;
mod answer;
mod builder;
pub(crate) mod dispatch;
pub(crate) mod embedded;
mod engine;
mod facts;
pub(crate) mod flight;
mod handle;
pub(crate) mod handler;
mod park;
pub(crate) mod porter;
pub(crate) mod reactor;
pub(crate) mod service;
pub(crate) mod status;

use crate::handshake::{BindError, Listener};
use crate::link::held::Total;
use crate::link::stats::ServerCounters;
use crate::memory::{PeerWord, layout};
use crate::os::memory_group;
use crate::schedule::executor::Executor;
use adapters::{Closure, Concurrent, Serial};
use builder::check_descriptors;
use dispatch::{Dispatched, Inline};
use engine::Engine;
use flight::Completions;
use handler::{Handler, Request};
use park::Parker;
use porter::{Isolation, PorterMode, StatusInfo};
use reactor::{Halt, Mailbox, Reactor, ReactorParts};
use service::{OwnedRequest, Responder, Service};
use status::Status;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use answer::HandlerError;
pub use builder::ServerBuilder;
pub use handle::ServerHandle;

/// What a server came to.
pub type ServerStats = ServerCounters;

/// Why a server stopped serving, other than by being told to.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServeError {
    /// There was no thread, no descriptor or no memory to begin with; or it could not go on: no
    /// more clients can be accepted, the kernel refuses a call that it needs, the thread that makes
    /// the handshakes panicked, or the runtime that it ran on goes down. All sessions have ended.
    Io(std::io::Error),
    /// This process is a fork of the one that bound.
    Forked,
}

impl std::fmt::Display for ServeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => write!(f, "the server cannot serve: {error}"),
            Self::Forked => f.write_str("the server belongs to the parent process"),
        }
    }
}

impl std::error::Error for ServeError {}

impl From<Halt> for ServeError {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::Forked => Self::Forked,
            Halt::Failed(error) => Self::Io(error),
        }
    }
}

/// A server that listens; [`Self::run`] makes it serve. Clients that connect before that wait.
///
/// **A handler that calls its own server** waits for itself, if nobody but its own thread reads
/// requests: in [`Self::run`] and [`Self::run_with`], in the callbacks of [`Self::run_reactor`] and
/// [`Self::run_service`], in handlers that run inline ([`ServerBuilder::inline`]), in
/// [`EmbeddedServer::pump`](crate::EmbeddedServer::pump), and where [`Self::serve`] runs on a
/// runtime of one thread. Such a wait of a [`Client`](crate::Client) ends with
/// [`CallError::WouldDeadlock`](crate::CallError::WouldDeadlock) at once. On threads of
/// [`Self::run_on`] it is allowed; it needs a free thread of the pool, or waits for one.
#[derive(Debug)]
pub struct Server {
    settings: ServerBuilder,
    listener: Listener,
    status: Status,
    generation: u64,
    parker: Parker,
    mailbox: Arc<Mailbox>,
    completions: Arc<Completions>,
    counters: Arc<Vec<PeerWord>>,
    path: Option<PathBuf>,
    origin: crate::os::fork::Origin,
}

impl Server {
    /// Settings to start from.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::new()
    }

    /// Listens at `path` with the default settings.
    ///
    /// # Errors
    /// As [`ServerBuilder::bind`].
    pub fn bind(path: impl AsRef<Path>) -> Result<Self, BindError> {
        Self::builder().bind(path)
    }

    fn new(
        settings: ServerBuilder,
        listener: Listener,
        path: Option<PathBuf>,
    ) -> Result<Self, BindError> {
        check_descriptors(settings.porter.max_clients, settings.porter.max_handshakes)?;
        let settings = settings.fit(memory_group::free());
        let (status, generation) = settings.status()?;
        facts::tell_limits(status.window(), &settings.facts());
        let (parker, notifier) = Parker::new(status.window().clone())?;
        let counters = (0..layout::COUNTERS)
            .map(|index| status.window().peer_word(layout::offset::COUNTERS + 8 * index))
            .collect();
        Ok(Self {
            path,
            settings,
            listener,
            status,
            generation,
            parker,
            completions: Arc::new(Completions::new(notifier.clone())),
            mailbox: Arc::new(Mailbox::new(notifier)),
            counters: Arc::new(counters),
            origin: crate::os::fork::Origin::here(),
        })
    }

    /// Where it listens; `None` if the socket was passed by systemd.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// A handle for other threads and for signal handlers.
    pub fn handle(&self) -> ServerHandle {
        ServerHandle { mailbox: self.mailbox.clone(), counters: self.counters.clone() }
    }

    /// Serves on the calling thread until it is told to stop; what was counted. `handler` answers
    /// one request at a time: it appends the answer to the buffer, which is empty and reused, or
    /// returns an error.
    ///
    /// A handler that panics answers that request with an error and goes on. One that calls this
    /// server itself gets an error, since nobody else could answer
    /// ([`CallError::WouldDeadlock`](crate::CallError::WouldDeadlock)).
    ///
    /// ```no_run
    /// ringbell::Server::bind("/run/app/echo.sock")?.run(|request, response| {
    ///     response.extend_from_slice(request.payload());
    ///     Ok(())
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ServeError`], before anything was served, or when nobody new can be served any more.
    pub fn run<H>(self, handler: H) -> Result<ServerStats, ServeError>
    where
        H: FnMut(Request<'_>, &mut Vec<u8>) -> Result<(), HandlerError>,
    {
        self.run_with(Closure(handler))
    }

    /// As [`Self::run`], for a handler that keeps state for each session and wants to know when one
    /// ends.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_with(self, handler: impl Handler) -> Result<ServerStats, ServeError> {
        self.run_engine(Serial { handler })
    }

    /// Serves many requests at once, on the calling thread, until it is told to stop. `handler` is
    /// called for each request on that thread, and must not wait there: it answers at once, or
    /// moves the [`Responder`] to any other thread, pool or task, which answers later. Answers go
    /// out as they are completed.
    ///
    /// A handler that may wait, or takes long, is better run by [`Self::run_on`].
    ///
    /// ```no_run
    /// ringbell::Server::bind("/run/app/slow.sock")?.run_reactor(|request, responder| {
    ///     std::thread::spawn(move || responder.reply(request.payload()));
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_reactor<H>(self, handler: H) -> Result<ServerStats, ServeError>
    where
        H: FnMut(OwnedRequest, Responder),
    {
        self.run_service(handler)
    }

    /// Serves many requests at once, each by `handler` on a thread of `executor`, where it may
    /// wait. With [`ServerBuilder::inline`] short handlers run on the calling thread instead.
    ///
    /// A request that nobody waits for any more by the time that it has a thread (its deadline has
    /// passed, the call was cancelled, the client is gone) is not run. One-way messages are.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_on<H>(self, executor: impl Executor, handler: H) -> Result<ServerStats, ServeError>
    where
        H: Fn(OwnedRequest, Responder) + Send + Sync + 'static,
    {
        let inline = self.inlining();
        self.run_service(Dispatched::new(executor, handler, inline))
    }

    /// As [`Self::run_reactor`], for a service that wants to know when sessions begin and end.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_service(self, service: impl Service) -> Result<ServerStats, ServeError> {
        self.run_engine(Concurrent::new(service))
    }

    fn run_engine<E: Engine>(self, engine: E) -> Result<ServerStats, ServeError> {
        let (reactor, _status) = self.reactor(engine, PorterMode::Thread)?;
        Ok(reactor.run()?)
    }

    /// The reactor, and the page in which it tells of itself, whose descriptor stays open as long
    /// as it lives.
    pub(crate) fn reactor<E: Engine>(
        self,
        engine: E,
        mode: PorterMode,
    ) -> Result<(Reactor<E>, Status), ServeError> {
        if !self.origin.is_here() {
            return Err(ServeError::Forked);
        }
        let status = StatusInfo {
            segment: self.status.segment(),
            generation: self.generation,
            armed_words: self.settings.porter.max_clients,
        };
        let held_limits = self.settings.held_limits();
        let mut config = self.settings.porter;
        if mode == PorterMode::Loop {
            // There is no backstop: a client that is stopped while it rings must not keep others
            // waiting.
            config.isolation = Isolation::Session;
        }
        facts::tell_engine(self.status.window(), engine_of::<E>(mode));
        let porter = porter::start(mode, self.listener, config, &status, self.mailbox.clone())
            .map_err(ServeError::Io)?;
        let notifier = self.completions.notifier();
        let held = Total::new(held_limits, Box::new(move || notifier.notify()));
        let reactor = Reactor::new(ReactorParts {
            engine,
            generation: self.generation,
            mailbox: self.mailbox,
            completions: self.completions,
            parker: self.parker,
            porter,
            status: self.status.window().clone(),
            limits: self.settings.limits,
            held,
        });
        Ok((reactor, self.status))
    }

    /// Whether handlers may run where requests are read.
    pub(crate) fn inlining(&self) -> Inline {
        self.settings.inline
    }
}

/// How requests are served, for tools.
fn engine_of<E: Engine>(mode: PorterMode) -> layout::Engine {
    match (E::LATER, mode) {
        (false, PorterMode::Thread) => layout::Engine::Serial,
        (true, PorterMode::Thread) => layout::Engine::Concurrent,
        (false, PorterMode::Loop) => layout::Engine::EmbeddedSerial,
        (true, PorterMode::Loop) => layout::Engine::EmbeddedConcurrent,
    }
}
