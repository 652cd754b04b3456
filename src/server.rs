//! L4: the server. Settings, the way in for a serial handler, and the handle that other threads hold.

use crate::bytes::{self, ByteListener};
use crate::dispatch::{Dispatched, Inline};
use crate::executor::Executor;
use crate::flight::{AnswerOrder, Completions};
use crate::handler::{Closure, Handler, HandlerError, Request, Serial};
use crate::handshake::{
    BindError, Credentials, ListenOptions, Listener, listen, listen_fds, listen_for_parent,
};
use crate::layout;
use crate::memory::{PeerWord, Window};
use crate::park::Parker;
use crate::porter::{self, Isolation, Lodging, PeerInfo, PorterConfig, StatusInfo};
use crate::reactor::{Engine, Limits, Mailbox, Reactor, ReactorParts};
use crate::segment::{Segment, SegmentError};
use crate::service::{Concurrent, OwnedRequest, Responder, Service};
use crate::session::Budget;
use crate::stats::ServerCounters;
use crate::wait::WaitSettings;
use crate::worker;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Settings of a server. The defaults are good for most.
#[derive(Debug, Clone)]
#[must_use = "settings do nothing until `bind`"]
pub struct ServerBuilder {
    porter: PorterConfig,
    listen: ListenOptions,
    limits: Limits,
    budget: u64,
    inline: Inline,
}

/// A setting that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidSetting(pub(crate) String);

impl std::fmt::Display for InvalidSetting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidSetting {}

impl ServerBuilder {
    fn new() -> Self {
        Self {
            porter: PorterConfig::default(),
            listen: ListenOptions::default(),
            limits: Limits {
                turn: 32,
                queue: 64,
                queue_bytes: 1 << 20,
                in_flight: 1024,
                in_flight_bytes: 64 << 20,
                events: 1024,
                slow_client: Some(Duration::from_secs(30)),
                wait: WaitSettings::server(),
            },
            budget: 1 << 30,
            inline: Inline::default(),
        }
    }

    /// How many clients may be connected at once. Default 64.
    pub fn max_clients(mut self, clients: u32) -> Self {
        self.porter.max_clients = clients;
        self
    }

    /// Capacity of each ring in bytes, for clients that do not ask: a power of two from 2 KiB to 1 GiB. Default
    /// 64 KiB.
    pub fn ring_capacity(mut self, bytes: u64) -> Self {
        self.porter.request_capacity = bytes;
        self.porter.response_capacity = bytes;
        self
    }

    /// Largest message either way in bytes. Default 64 MiB.
    pub fn max_message(mut self, bytes: u64) -> Self {
        self.porter.max_message = bytes;
        self
    }

    /// Who may connect. Default: processes of the server's own uid.
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.porter.credentials = credentials;
        self
    }

    /// Which clients share a bell, and so can disturb each other's wake-ups. Default: those of one uid.
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.porter.isolation = isolation;
        self
    }

    /// Shared memory of one client in bytes, both rings together. Default 64 MiB.
    pub fn max_bytes_per_client(mut self, bytes: u64) -> Self {
        self.porter.bytes_per_client = bytes;
        self
    }

    /// Shared memory of all clients of one uid in bytes. Default 1 GiB.
    pub fn max_bytes_per_uid(mut self, bytes: u64) -> Self {
        self.porter.bytes_per_uid = bytes;
        self
    }

    /// Whether shared memory is offered at all. Without it every client gets the socket as transport. Default: yes.
    ///
    /// A server that may not make memfds goes on as if this were off, if [`Self::fallback`] is on.
    pub fn shared_memory(mut self, offered: bool) -> Self {
        self.porter.shared_memory = offered;
        self
    }

    /// Whether the socket is offered as transport: to clients that ask for it, or for whom there is no shared
    /// memory, because of a limit or because the system refuses it. Without it they are rejected. Clients beyond
    /// [`Self::max_clients`] are rejected in any case. Default: yes.
    pub fn fallback(mut self, offered: bool) -> Self {
        self.porter.fallback = offered;
        self
    }

    /// How many handshakes may be under way at once. Default 16.
    pub fn max_handshakes(mut self, handshakes: u32) -> Self {
        self.porter.max_handshakes = handshakes;
        self
    }

    /// How long a handshake may take. Default 5 s.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.porter.handshake_deadline = timeout;
        self
    }

    /// Private memory that incomplete messages of all clients may take together, in bytes. Default 1 GiB.
    pub fn max_incomplete_bytes(mut self, bytes: u64) -> Self {
        self.budget = bytes;
        self
    }

    /// How many answers may wait for room in a client's ring before its requests are left unread. Default 64.
    pub fn max_queued_answers(mut self, answers: usize) -> Self {
        self.limits.queue = answers;
        self
    }

    /// Bytes of such answers from which on the client's requests are left unread; one answer may exceed it.
    /// Default 1 MiB.
    pub fn max_queued_bytes(mut self, bytes: usize) -> Self {
        self.limits.queue_bytes = bytes;
        self
    }

    /// How many requests of one client may be without an answer before no more are handled; they wait in its ring, or,
    /// while an answer to it is streamed, in memory ([`Self::max_in_flight_bytes`]). Only for concurrent handlers
    /// ([`Server::run_reactor`]). Default 1024.
    pub fn max_in_flight(mut self, requests: usize) -> Self {
        self.limits.in_flight = requests;
        self
    }

    /// Whether handlers of [`Server::run_on`] may run on the reactor's own thread. Default [`Inline::Never`].
    pub fn inline(mut self, inline: Inline) -> Self {
        self.inline = inline;
        self
    }

    /// Bytes of the requests of one client without an answer, and of answers that wait for their turn, from which on
    /// no more are read; one request may exceed it. Only for concurrent handlers. Default 64 MiB.
    pub fn max_in_flight_bytes(mut self, bytes: usize) -> Self {
        self.limits.in_flight_bytes = bytes;
        self
    }

    /// How many events ([`Session::push`](crate::Session::push)) of one client may wait to be sent. Default 1024.
    pub fn max_queued_events(mut self, events: u64) -> Self {
        self.limits.events = events;
        self
    }

    /// In which order the answers of each session are sent. A client may ask for [`AnswerOrder::Request`] for itself.
    /// Default [`AnswerOrder::Completion`].
    pub fn answer_order(mut self, order: AnswerOrder) -> Self {
        self.porter.ordered = order == AnswerOrder::Request;
        self
    }

    /// Of so many calls of each client one is timed on its way, for `ring-dump` to tell waiting in the rings from working
    /// in the handler, for clients that do not say otherwise
    /// ([`ConnectOptions::sample_calls`](crate::ConnectOptions::sample_calls), which says what it costs). 0: none. Default 0.
    pub fn sample_calls(mut self, every: u32) -> Self {
        self.porter.sample_every = every;
        self
    }

    /// How long a client may leave answers unread before it is disconnected; `None` for ever. Default 30 s.
    pub fn slow_client_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.limits.slow_client = timeout;
        self
    }

    /// Access mode of the socket. Default 0600.
    pub fn socket_mode(mut self, mode: u32) -> Self {
        self.listen.mode = mode;
        self
    }

    /// The waiting policy of the reactor. Default [`WaitSettings::server`].
    pub fn wait(mut self, settings: WaitSettings) -> Self {
        self.limits.wait = settings;
        self
    }

    fn check(&self) -> Result<(), InvalidSetting> {
        let wrong = |text: String| Err(InvalidSetting(text));
        if !layout::is_capacity(self.porter.request_capacity) {
            return wrong(format!(
                "ring_capacity is {}: it must be a power of two from {} to {} bytes",
                self.porter.request_capacity,
                layout::MIN_CAPACITY,
                layout::MAX_CAPACITY
            ));
        }
        for (name, zero) in [
            ("max_clients", self.porter.max_clients == 0),
            ("max_message", self.porter.max_message == 0),
            ("max_bytes_per_client", self.porter.bytes_per_client == 0),
            ("max_bytes_per_uid", self.porter.bytes_per_uid == 0),
            ("max_handshakes", self.porter.max_handshakes == 0),
            ("max_incomplete_bytes", self.budget == 0),
            ("max_queued_answers", self.limits.queue == 0),
            ("max_queued_bytes", self.limits.queue_bytes == 0),
            ("max_in_flight", self.limits.in_flight == 0),
            ("max_in_flight_bytes", self.limits.in_flight_bytes == 0),
            ("max_queued_events", self.limits.events == 0),
            ("handshake_timeout", self.porter.handshake_deadline.is_zero()),
        ] {
            if zero {
                return wrong(format!("{name} is 0"));
            }
        }
        if self.porter.max_clients > MAX_CLIENTS {
            return wrong(format!("max_clients is {}: at most {MAX_CLIENTS}", self.porter.max_clients));
        }
        if self.porter.max_message > u64::from(u32::MAX) {
            return wrong(format!("max_message is {}: at most 4 GiB - 1", self.porter.max_message));
        }
        if !self.porter.shared_memory && !self.porter.fallback {
            return wrong("shared_memory and fallback are both off: nothing is left to offer".into());
        }
        let need = 2 * layout::ring_segment_size(self.porter.request_capacity);
        let too_much = need > self.porter.bytes_per_client || need > self.porter.bytes_per_uid;
        if self.porter.shared_memory && too_much {
            return wrong(format!(
                "two rings of {} bytes exceed the limit of one client",
                self.porter.request_capacity
            ));
        }
        Ok(())
    }

    /// Listens at `path`. A socket that an earlier server left behind is replaced; one on which somebody listens
    /// is not.
    ///
    /// # Errors
    /// [`BindError`] says what is in the way.
    pub fn bind(self, path: impl AsRef<Path>) -> Result<Server, BindError> {
        self.check()?;
        let listener = listen(path.as_ref(), &self.listen)?;
        Server::new(self, listener, Some(path.as_ref().to_owned()))
    }

    /// Listens at `path` for byte streams instead of calls. Each session has a bell of its own
    /// ([`Isolation::Session`]), and the waiting policy ([`Self::wait`]) is that of each stream; settings of calls, answers
    /// and events mean nothing.
    ///
    /// # Errors
    /// As [`Self::bind`].
    pub fn bind_bytes(mut self, path: impl AsRef<Path>) -> Result<ByteListener, BindError> {
        self.check()?;
        let listener = listen(path.as_ref(), &self.listen)?;
        check_descriptors(self.porter.max_clients, self.porter.max_handshakes)?;
        self.porter.isolation = Isolation::Session;
        self.porter.bytes = true;
        let (status, generation) = self.status()?;
        let opening = bytes::Opening {
            status: status.window().clone(),
            wait: self.limits.wait.clone(),
            path: path.as_ref().to_owned(),
        };
        bytes::open(opening, |outbox| {
            let armed_words = self.porter.max_clients;
            let status = StatusInfo { segment: status.segment(), generation, armed_words };
            porter::start(Lodging::Thread, listener, self.porter, &status, outbox)
        })
    }

    /// The page in which the server tells of itself, and its generation.
    fn status(&self) -> Result<(Status, u64), BindError> {
        let generation = porter::generation();
        let me = PeerInfo {
            pid: std::process::id(),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            name: program_name(),
        };
        let armed_words = u64::from(self.porter.max_clients);
        let status = Segment::status(generation, armed_words, &me.cell());
        Ok((Status::new(status, armed_words, self.porter.fallback)?, generation))
    }

    /// Serves on the listening socket that systemd passed (`LISTEN_FDS`).
    ///
    /// # Errors
    /// [`BindError`], also if none was passed.
    pub fn from_systemd(self) -> Result<Server, BindError> {
        self.check()?;
        let listener = listen_fds()?.ok_or(BindError::NoSocketPassed)?;
        Server::new(self, listener, None)
    }

    /// Serves the process that started this one as a worker (see [`worker`](crate::worker)): on the socket that it
    /// passed, or at the path that it named.
    ///
    /// # Errors
    /// [`BindError`]; [`BindError::NoSocketPassed`] if this process was not started as a worker.
    pub fn for_parent(self) -> Result<Server, BindError> {
        self.check()?;
        let variable = |name| std::env::var_os(name);
        if let Some(listener) =
            listen_for_parent(variable(worker::LISTEN_FD), variable(worker::LISTEN_PARENT))?
        {
            return Server::new(self, listener, None);
        }
        self.bind(PathBuf::from(variable(worker::SOCKET).ok_or(BindError::NoSocketPassed)?))
    }
}

/// What a server came to.
pub type ServerStats = ServerCounters;

/// Why a server stopped serving, other than by being told to.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServeError {
    /// There was no thread, no descriptor or no memory to begin with; or the runtime that it ran on goes down.
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

/// A server that listens; [`Self::run`] makes it serve. Clients that connect before that wait.
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
    origin: crate::fork::Origin,
}

/// The page in which a server tells of itself.
#[derive(Debug)]
pub(crate) enum Status {
    Shared(Segment),
    /// Memory of this process alone, where memfds are refused: no client maps it, and no tool sees it.
    Private(Window),
}

impl Status {
    /// What came of making the segment. Without memfds there may still be sessions over the socket.
    fn new(
        made: Result<Segment, SegmentError>,
        armed_words: u64,
        fallback: bool,
    ) -> Result<Self, SegmentError> {
        match made {
            Ok(segment) => Ok(Self::Shared(segment)),
            Err(SegmentError::Io(_)) if fallback => {
                let size = usize::try_from(layout::status_segment_size(armed_words));
                Ok(Self::Private(Window::heap(size.map_err(|_| SegmentError::OutOfMemory)?)))
            }
            Err(error) => Err(error),
        }
    }

    fn segment(&self) -> Option<&Segment> {
        match self {
            Self::Shared(segment) => Some(segment),
            Self::Private(_) => None,
        }
    }

    fn window(&self) -> &Window {
        match self {
            Self::Shared(segment) => &segment.window,
            Self::Private(window) => window,
        }
    }
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

    fn new(settings: ServerBuilder, listener: Listener, path: Option<PathBuf>) -> Result<Self, BindError> {
        check_descriptors(settings.porter.max_clients, settings.porter.max_handshakes)?;
        let (status, generation) = settings.status()?;
        let (parker, notifier) =
            Parker::new(status.window().clone()).map_err(|error| BindError::Io(error.into()))?;
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
            origin: crate::fork::Origin::here(),
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

    /// Serves on the calling thread until it is told to stop; what was counted. `handler` answers one request at a
    /// time: it appends the answer to the buffer, which is empty and reused, or returns an error.
    ///
    /// A handler that panics answers that request with an error and goes on.
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
    /// [`ServeError`], before anything was served.
    pub fn run<H>(self, handler: H) -> Result<ServerStats, ServeError>
    where
        H: FnMut(Request<'_>, &mut Vec<u8>) -> Result<(), HandlerError>,
    {
        self.run_with(Closure(handler))
    }

    /// As [`Self::run`], for a handler that keeps state for each session and wants to know when one ends.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_with(self, handler: impl Handler) -> Result<ServerStats, ServeError> {
        self.run_engine(Serial { handler })
    }

    /// Serves many requests at once, on the calling thread, until it is told to stop. `handler` is called for each
    /// request on that thread, and must not wait there: it answers at once, or moves the [`Responder`] to any other
    /// thread, pool or task, which answers later. Answers go out as they are completed.
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

    /// Serves many requests at once, each by `handler` on a thread of `executor`, where it may wait. With
    /// [`ServerBuilder::inline`] short handlers run on the calling thread instead.
    ///
    /// A request that nobody waits for any more by the time that it has a thread (its deadline has passed, the call
    /// was cancelled, the client is gone) is not run. One-way messages are.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_on<H>(self, executor: impl Executor, handler: H) -> Result<ServerStats, ServeError>
    where
        H: Fn(OwnedRequest, Responder) + Send + Sync + 'static,
    {
        let inline = self.settings.inline;
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
        let (reactor, _status) = self.reactor(engine, Lodging::Thread)?;
        reactor.run().map_err(|_| ServeError::Forked)
    }

    /// The reactor, and the page in which it tells of itself, whose descriptor stays open as long as it lives.
    pub(crate) fn reactor<E: Engine>(
        self,
        engine: E,
        lodging: Lodging,
    ) -> Result<(Reactor<E>, Status), ServeError> {
        if !self.origin.is_here() {
            return Err(ServeError::Forked);
        }
        let status = StatusInfo {
            segment: self.status.segment(),
            generation: self.generation,
            armed_words: self.settings.porter.max_clients,
        };
        let mut config = self.settings.porter;
        if lodging == Lodging::Loop {
            // There is no backstop: a client that is stopped while it rings must not keep others waiting.
            config.isolation = Isolation::Session;
        }
        let porter = porter::start(lodging, self.listener, config, &status, self.mailbox.clone())
            .map_err(ServeError::Io)?;
        let reactor = Reactor::new(ReactorParts {
            engine,
            mailbox: self.mailbox,
            completions: self.completions,
            parker: self.parker,
            porter,
            status: self.status.window().clone(),
            limits: self.settings.limits,
            budget: Budget::new(self.settings.budget),
        });
        Ok((reactor, self.status))
    }

    /// Whether handlers may run where requests are read.
    #[cfg(feature = "tokio")]
    pub(crate) fn inlining(&self) -> Inline {
        self.settings.inline
    }
}

/// Descriptors of one client: lifeline, request and response segment, pidfd; and a bell, if it has one of its own.
const DESCRIPTORS_PER_CLIENT: u64 = 5;
/// Descriptors of one handshake under way.
const DESCRIPTORS_PER_HANDSHAKE: u64 = 2;
/// Descriptors that a server has anyway, and room for those of the program around it.
const DESCRIPTORS_OF_THE_SERVER: u64 = 32;
/// Most clients of one server: every client maps the armed words of all domains.
const MAX_CLIENTS: u32 = 1 << 16;

fn check_descriptors(max_clients: u32, max_handshakes: u32) -> Result<(), BindError> {
    use rustix::process::{Resource, getrlimit};
    let Some(limit) = getrlimit(Resource::Nofile).current else { return Ok(()) };
    let need = u64::from(max_clients) * DESCRIPTORS_PER_CLIENT
        + u64::from(max_handshakes) * DESCRIPTORS_PER_HANDSHAKE
        + DESCRIPTORS_OF_THE_SERVER;
    if need > limit { Err(BindError::TooFewDescriptors { need, limit }) } else { Ok(()) }
}

/// The name of this program, for tools to show.
pub(crate) fn program_name() -> String {
    let path = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let mut name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    while name.len() > layout::NAME {
        name.pop();
    }
    name
}

/// A running, or not yet running, server, for other threads. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ServerHandle {
    mailbox: Arc<Mailbox>,
    counters: Arc<Vec<PeerWord>>,
}

impl ServerHandle {
    /// Makes the server stop: it takes no new clients, answers what it has received, for at most `drain`, says
    /// goodbye and returns from its `run`. `None` drains as long as it takes, zero not at all.
    ///
    /// Returns at once. May be called from any thread and from a signal handler, any number of times.
    pub fn shutdown(&self, drain: Option<Duration>) {
        let deadline = match drain {
            None => u64::MAX - 1,
            Some(drain) => crate::clock::now_ns()
                .saturating_add(u64::try_from(drain.as_nanos()).unwrap_or(u64::MAX / 2))
                .min(u64::MAX - 1),
        };
        self.mailbox.stop(deadline);
    }

    /// What the server counted so far. Brought up to date when it sleeps and when clients come and go.
    pub fn stats(&self) -> ServerStats {
        ServerCounters::read(|index| self.counters[index].load())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_must_be_offered() {
        let nothing = Server::builder().shared_memory(false).fallback(false);
        assert!(matches!(nothing.bind("/nonexistent/s"), Err(BindError::InvalidSetting(_))));
        // Limits of memory are no matter where none is offered.
        let little = Server::builder().max_bytes_per_client(1);
        assert!(little.check().is_err());
        assert!(little.shared_memory(false).check().is_ok());
    }

    #[test]
    fn a_server_that_may_not_make_memfds_goes_on_without() {
        let refused = || Err(SegmentError::Io(rustix::io::Errno::PERM.into()));
        let status = Status::new(refused(), 64, true).expect("private");
        assert!(status.segment().is_none());
        assert_eq!(status.window().len() as u64, layout::status_segment_size(64));
        assert!(matches!(Status::new(refused(), 64, false), Err(SegmentError::Io(_))));
        let lack = Status::new(Err(SegmentError::OutOfMemory), 64, true);
        assert!(matches!(lack, Err(SegmentError::OutOfMemory)));
    }
}
