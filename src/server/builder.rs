//! Settings of a server.

use crate::base::clock::FOR_EVER;
use crate::handshake::AnswerOrder;
use crate::handshake::{
    BindError, Credentials, InvalidSetting, ListenOptions, Listener, host_of, is_same_place,
    listen, listen_fds, listen_for_parent,
};
use crate::link::held::HeldLimits;
use crate::link::segment::{Segment, SegmentError};
use crate::memory::layout::Facts;
use crate::memory::{Window, layout};
use crate::os::calls;
use crate::os::program::program_name;
use crate::os::{environment, memory_group};
use crate::protocol::wait::WaitSettings;
use crate::server::Server;
use crate::server::dispatch::Inline;
use crate::server::facts;
use crate::server::porter::{
    self, Isolation, Outbox, PeerInfo, PorterConfig, PorterHandle, PorterMode, StatusInfo,
};
use crate::server::reactor::Limits;
use crate::server::status::Status;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Settings of a server. The defaults are good for most.
#[derive(Debug, Clone)]
#[must_use = "settings do nothing until `bind`"]
pub struct ServerBuilder {
    pub(super) porter: PorterConfig,
    listen: ListenOptions,
    pub(super) limits: Limits,
    held: HeldSettings,
    ring_bytes: Option<u64>,
    pub(super) inline: Inline,
}

/// How much may be held for clients, in bytes; `None` for the default.
#[derive(Debug, Clone, Default)]
struct HeldSettings {
    client: Option<u64>,
    uid: Option<u64>,
    total: Option<u64>,
}

impl ServerBuilder {
    /// `slow_client_timeout` and `stream_stall_timeout`, where they are not set.
    pub(crate) fn usual_limits() -> (Option<Duration>, Option<Duration>) {
        (Some(Duration::from_secs(30)), Some(Duration::from_secs(5)))
    }

    pub(super) fn new() -> Self {
        let (slow_client, stream_stall) = Self::usual_limits();
        Self {
            porter: PorterConfig::default(),
            listen: ListenOptions::default(),
            limits: Limits {
                turn: 32,
                queue: 64,
                in_flight: 1024,
                events: 1024,
                slow_client,
                stream_stall,
                wait: WaitSettings::server(),
            },
            held: HeldSettings::default(),
            ring_bytes: None,
            inline: Inline::default(),
        }
    }

    /// How many clients may be connected at once. Default 64.
    pub fn max_clients(mut self, clients: u32) -> Self {
        self.porter.max_clients = clients;
        self
    }

    /// How many clients of one uid may be connected at once. Default: no limit of its own.
    ///
    /// Where several users are served ([`Credentials`]), each may have at most half of the places
    /// that are free to it, whatever this says.
    pub fn max_clients_per_uid(mut self, clients: u32) -> Self {
        self.porter.max_clients_per_uid = clients;
        self
    }

    /// Capacity of each ring in bytes, for clients that do not ask: a power of two from 2 KiB to 1
    /// GiB. Default 64 KiB.
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

    /// Which clients share a bell, and so can disturb each other's wake-ups. Default: those of one
    /// uid.
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

    /// Shared memory of all clients in bytes. Default: half of what is free, at the time of `bind`,
    /// in the memory group (cgroup) of this process; without a limit there, no limit of its own.
    ///
    /// A client allocates its rings, so they are charged to its own group. If that is this
    /// process's group as well, too many rings would have the kernel kill a process of the group.
    /// Where several users are served ([`Credentials`]), each may have at most half of what is free
    /// to it. Beyond this a client gets the socket ([`Self::fallback`]).
    pub fn max_ring_bytes(mut self, bytes: u64) -> Self {
        self.ring_bytes = Some(bytes);
        self
    }

    /// Whether shared memory is offered at all. Without it every client gets the socket as
    /// transport. Default: yes.
    ///
    /// A server that may not make memfds goes on as if this were off, if [`Self::fallback`] is on.
    pub fn shared_memory(mut self, offered: bool) -> Self {
        self.porter.shared_memory = offered;
        self
    }

    /// Whether the socket is offered as transport: to clients that ask for it, or for whom there is
    /// no shared memory, because of a limit or because the system refuses it. Without it they are
    /// rejected. Clients beyond [`Self::max_clients`] are rejected in any case. Default: yes.
    pub fn fallback(mut self, offered: bool) -> Self {
        self.porter.fallback = offered;
        self
    }

    /// How many handshakes may be under way at once. Default 16.
    pub fn max_handshakes(mut self, handshakes: u32) -> Self {
        self.porter.max_handshakes = handshakes;
        self
    }

    /// How many handshakes of one uid may be under way at once. Default: no limit of its own.
    ///
    /// Where several users are served ([`Credentials`]), each may have at most half of those that
    /// are free to it, whatever this says.
    pub fn max_handshakes_per_uid(mut self, handshakes: u32) -> Self {
        self.porter.max_handshakes_per_uid = handshakes;
        self
    }

    /// How long a handshake may take. Default 5 s.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.porter.handshake_deadline = timeout.min(FOR_EVER);
        self
    }

    /// Private memory that may be held for one client, in bytes: requests that arrive, wait, or are
    /// with their handlers, answers that are not sent yet, and events. Buffers count by their
    /// capacity, until they are freed; each request in flight counts some 9 KiB more.
    ///
    /// Default: 64 MiB and twice [`Self::max_message`]. No more requests are read once so much is
    /// held that a largest request and its answer just find room (64 MiB, by default), but at least
    /// a quarter of this. What one message that is arriving takes may exceed it. An answer for
    /// which there is no room becomes an error
    /// ([`code::EXHAUSTED`](crate::layout::code::EXHAUSTED)); an item of a stream waits; an event
    /// is refused ([`PushError::NoRoom`](crate::PushError::NoRoom)). What is larger than all of
    /// this, less what its request takes, is too large at once.
    pub fn max_held_bytes_per_client(mut self, bytes: u64) -> Self {
        self.held.client = Some(bytes);
        self
    }

    /// The same for all clients of one uid together. Default: 512 MiB and twice
    /// [`Self::max_message`], so that a few clients at their limits leave room for others.
    ///
    /// Once half of this is held, requests are read only from clients that hold less than 256 KiB.
    /// Once three quarters are held, a request that has arrived in part is refused
    /// ([`code::EXHAUSTED`](crate::layout::code::EXHAUSTED)): it might wait for others that wait
    /// for it. The rest is for answers.
    pub fn max_held_bytes_per_uid(mut self, bytes: u64) -> Self {
        self.held.uid = Some(bytes);
        self
    }

    /// The same for all clients together. Default: 1 GiB and twice [`Self::max_message`], but at
    /// most a quarter of what is free in the memory group (cgroup) at the time of `bind`. Where
    /// several uids may connect ([`Self::credentials`]), each of them holds at most as much as it
    /// leaves free. Of `n` that are listed each has the `2 n`-th part of this to itself.
    pub fn max_held_bytes(mut self, bytes: u64) -> Self {
        self.held.total = Some(bytes);
        self
    }

    /// How many answers may wait for room in a client's ring before its requests are left unread.
    /// Default 64.
    pub fn max_queued_answers(mut self, answers: usize) -> Self {
        self.limits.queue = answers;
        self
    }

    /// How many requests of one client may be without an answer before no more are handled; they
    /// wait in its ring, or, while an answer to it is streamed, in memory
    /// ([`Self::max_held_bytes_per_client`]). Only for concurrent handlers
    /// ([`Server::run_reactor`]). Default 1024.
    pub fn max_in_flight(mut self, requests: usize) -> Self {
        self.limits.in_flight = requests;
        self
    }

    /// Whether handlers of [`Server::run_on`] may run on the reactor's own thread. Default
    /// [`Inline::Never`].
    pub fn inline(mut self, inline: Inline) -> Self {
        self.inline = inline;
        self
    }

    /// How many events ([`Session::push`](crate::Session::push)) of one client may wait to be sent.
    /// Default 1024.
    pub fn max_queued_events(mut self, events: u64) -> Self {
        self.limits.events = events;
        self
    }

    /// In which order the answers of each session are sent. A client may ask for
    /// [`AnswerOrder::Request`] for itself. Default [`AnswerOrder::Completion`].
    pub fn answer_order(mut self, order: AnswerOrder) -> Self {
        self.porter.ordered = order == AnswerOrder::Request;
        self
    }

    /// Of so many calls of each client one is timed on its way, for `ring-dump` to tell waiting in
    /// the rings from working in the handler, for clients that do not say otherwise
    /// ([`ConnectOptions::sample_calls`](crate::ConnectOptions::sample_calls), which says what it
    /// costs). 0: none. Default 0.
    pub fn sample_calls(mut self, every: u32) -> Self {
        self.porter.sample_every = every;
        self
    }

    /// How long a client may leave answers unread before it is disconnected: while it takes none,
    /// neither those that are queued nor, over a socket, bytes that are unsent. `None`: for ever.
    /// Default 30 s.
    ///
    /// This bounds what clients can add to a shutdown, too: see
    /// [`ServerHandle::shutdown`](crate::ServerHandle::shutdown).
    pub fn slow_client_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.limits.slow_client = timeout;
        self
    }

    /// How long a handler waits for a client that takes no more items of its stream
    /// ([`ResponseStream::send`]), or for room for an item while the client takes nothing
    /// ([`Self::max_held_bytes_per_client`]). Then the stream is over: the handler gets
    /// [`StreamError::SlowClient`], the client an error as the stream's end; its other calls go on.
    /// If there is no room only since other clients hold too much, that is
    /// [`StreamError::NoRoom`].
    /// A warning (feature `tracing`) and [`ServerStats::stalled_streams`] tell of it. `None`: for
    /// ever. Default 5 s.
    ///
    /// A client says that it took items when it has taken 32 of them. So one that takes longer than
    /// this over 32 items loses streams that are produced faster.
    ///
    /// **Streams and [`Server::run_on`].** A handler that sends a stream keeps its thread until the
    /// client has taken nearly all of it. So clients that open streams and do not read them can
    /// keep all threads for this long; who calls then waits for a thread. With N such clients, T
    /// threads, and one stream each, that is this time once for each T of the N. A client that
    /// leaves several streams unread in a row has half as long for each one more, down to some 10
    /// ms. Where that is too long, make this time shorter, have [`ResponseStream::send_timeout`]
    /// wait for less, or serve by async handlers, which keep no thread.
    ///
    /// [`ResponseStream::send`]: crate::ResponseStream::send
    /// [`ResponseStream::send_timeout`]: crate::ResponseStream::send_timeout
    /// [`StreamError::NoRoom`]: crate::StreamError::NoRoom
    /// [`StreamError::SlowClient`]: crate::StreamError::SlowClient
    /// [`ServerStats::stalled_streams`]: crate::ServerStats::stalled_streams
    pub fn stream_stall_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.limits.stream_stall = timeout;
        self
    }

    /// Access mode of the socket. Default 0600.
    pub fn socket_mode(mut self, mode: u32) -> Self {
        self.listen.mode = mode;
        self
    }

    /// Whether the directory of the socket is made if it is missing, for this user only (mode
    /// 0700). Nothing above it is made. Default: no.
    pub fn create_directory(mut self, create: bool) -> Self {
        self.listen.create_directory = create;
        self
    }

    /// The waiting policy of the reactor. Default [`WaitSettings::server`].
    pub fn wait(mut self, settings: WaitSettings) -> Self {
        self.limits.wait = settings;
        self
    }

    /// How much may be held for clients.
    pub(crate) fn held_limits(&self) -> HeldLimits {
        let HeldSettings { client, uid, total } = self.held;
        let max_message = self.porter.max_message;
        let beside = |bytes: u64| bytes.saturating_add(2 * max_message);
        HeldLimits {
            client: client.unwrap_or_else(|| beside(64 << 20)),
            uid: uid.unwrap_or_else(|| beside(512 << 20)),
            total: total.unwrap_or_else(|| beside(1 << 30)),
            max_message,
            sharing: self.porter.credentials.sharing(),
        }
    }

    /// The limits, for tools. Byte streams have no requests, so the limits of those are 0.
    pub(super) fn facts(&self) -> Facts {
        let max_clients = self.porter.max_clients.into();
        if self.porter.bytes {
            return Facts { max_clients, ..Facts::default() };
        }
        let held = self.held_limits();
        Facts {
            max_clients,
            max_in_flight: self.limits.in_flight as u64,
            max_held_bytes: held.total,
            max_held_bytes_per_client: held.client,
            ..Facts::default()
        }
    }

    /// Sets what was left to the memory group of this process, in which so many bytes are free.
    pub(super) fn fit(mut self, free: Option<u64>) -> Self {
        let free = free.unwrap_or(u64::MAX);
        let part = |of: u64| if free == u64::MAX { u64::MAX } else { (free / of).max(1) };
        self.porter.ring_bytes = self.ring_bytes.unwrap_or_else(|| part(2));
        let usual = self.held_limits().total;
        self.held.total = Some(self.held.total.unwrap_or_else(|| usual.min(part(4))));
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
            ("max_ring_bytes", self.ring_bytes == Some(0)),
            ("max_handshakes", self.porter.max_handshakes == 0),
            ("max_clients_per_uid", self.porter.max_clients_per_uid == 0),
            ("max_handshakes_per_uid", self.porter.max_handshakes_per_uid == 0),
            ("max_held_bytes_per_client", self.held.client == Some(0)),
            ("max_held_bytes_per_uid", self.held.uid == Some(0)),
            ("max_held_bytes", self.held.total == Some(0)),
            ("max_queued_answers", self.limits.queue == 0),
            ("max_in_flight", self.limits.in_flight == 0),
            ("max_queued_events", self.limits.events == 0),
            ("stream_stall_timeout", self.limits.stream_stall == Some(Duration::ZERO)),
            ("handshake_timeout", self.porter.handshake_deadline.is_zero()),
        ] {
            if zero {
                return wrong(format!("{name} is 0"));
            }
        }
        if self.porter.max_clients > MAX_CLIENTS {
            return wrong(format!(
                "max_clients is {}: at most {MAX_CLIENTS}",
                self.porter.max_clients
            ));
        }
        if self.porter.max_message > u64::from(u32::MAX) {
            return wrong(format!("max_message is {}: at most 4 GiB - 1", self.porter.max_message));
        }
        if !self.porter.shared_memory && !self.porter.fallback {
            return wrong(
                "shared_memory and fallback are both off: nothing is left to offer".into(),
            );
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

    /// Whether the settings make sense, and the kernel allows what a server needs.
    fn check_all(&self) -> Result<(), BindError> {
        self.check()?;
        Ok(calls::check_server()?)
    }

    /// Listens at `path`. A socket that an earlier server left behind is replaced; one on which
    /// somebody listens is not.
    ///
    /// The directory must be there ([`Self::create_directory`] makes it). The socket is removed at
    /// the end, whatever becomes of the working directory. No symbolic link at `path` is followed.
    ///
    /// A process that a pool started as a worker and that binds the path it was given
    /// (`RINGBELL_SOCKET`) serves that pool's process only as long as it lives: see
    /// [`worker`](crate::worker).
    ///
    /// # Errors
    /// [`BindError`] says what is in the way.
    pub fn bind(mut self, path: impl AsRef<Path>) -> Result<Server, BindError> {
        self.check_all()?;
        let path = path.as_ref();
        let own = worker_socket().filter(|own| is_same_place(own, path));
        // Its host makes the directory, and removes it when no worker is to serve there.
        self.listen.create_directory &= own.is_none();
        let host = own.map_or(Ok(None), |own| host_of(&own))?;
        let mut listener = listen(path, &self.listen)?;
        listener.host = host;
        Server::new(self, listener, Some(path.to_owned()))
    }

    /// Listens at `path` for sessions that are byte streams, each with a bell of its own.
    pub(crate) fn listen_for_bytes(self, path: &Path) -> Result<BytePorter, BindError> {
        self.check_all()?;
        let mut this = self.fit(memory_group::free());
        let listener = listen(path, &this.listen)?;
        check_descriptors(this.porter.max_clients, this.porter.max_handshakes)?;
        this.porter.isolation = Isolation::Session;
        this.porter.bytes = true;
        let (status, generation) = this.status()?;
        facts::tell_limits(status.window(), &this.facts());
        facts::tell_engine(status.window(), layout::Engine::Bytes);
        Ok(BytePorter { listener, config: this.porter, status, generation, wait: this.limits.wait })
    }

    /// The page in which the server tells of itself, and its generation.
    pub(super) fn status(&self) -> Result<(Status, u64), BindError> {
        let generation = porter::generation();
        let me = PeerInfo {
            pid: std::process::id(),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            name: program_name(),
        };
        let armed_words = u64::from(self.porter.max_clients);
        // A server that may not use futexes, for one, can wake nobody on rings.
        let status = calls::check_rings()
            .map_err(|failed| SegmentError::Io(failed.into()))
            .and_then(|()| Segment::status(generation, armed_words, &me.cell()));
        let status = Status::new(status, armed_words, self.porter.fallback);
        Ok((status.map_err(why_no_memory)?, generation))
    }

    /// Serves on the listening socket that systemd passed (`LISTEN_FDS`).
    ///
    /// # Errors
    /// [`BindError`], also if none was passed.
    pub fn from_systemd(self) -> Result<Server, BindError> {
        self.check_all()?;
        let listener = listen_fds()?.ok_or(BindError::NoSocketPassed)?;
        Server::new(self, listener, None)
    }

    /// Serves the process that started this one as a worker (see [`worker`](crate::worker)): on the
    /// socket that it passed, or at the path that it named. When that process ends, however that
    /// happens, the server shuts down at once, also if it runs behind a wrapper script.
    ///
    /// # Errors
    /// [`BindError`]; [`BindError::NoSocketPassed`] if this process was not started as a worker.
    pub fn for_parent(self) -> Result<Server, BindError> {
        self.check_all()?;
        let path = worker_socket().ok_or(BindError::NoSocketPassed)?;
        let descriptor = std::env::var_os(environment::LISTEN_FD);
        if let Some(listener) = listen_for_parent(descriptor, &path)? {
            return Server::new(self, listener, None);
        }
        self.bind(path)
    }
}

/// The path of the socket at which this process is to serve as a worker, if it was started as one.
fn worker_socket() -> Option<PathBuf> {
    std::env::var_os(environment::SOCKET).map(PathBuf::from)
}

/// What a listener for byte streams is made of, before its porter runs.
#[derive(Debug)]
pub(crate) struct BytePorter {
    listener: Listener,
    config: PorterConfig,
    status: Status,
    generation: u64,
    wait: WaitSettings,
}

impl BytePorter {
    /// The page in which the server tells of itself.
    pub(crate) fn status(&self) -> &Window {
        self.status.window()
    }

    /// The waiting policy of each stream.
    pub(crate) fn wait(&self) -> &WaitSettings {
        &self.wait
    }

    /// Starts the porter, on a thread of its own.
    pub(crate) fn start(self, outbox: impl Outbox + 'static) -> io::Result<PorterHandle> {
        let armed_words = self.config.max_clients;
        let status =
            StatusInfo { segment: self.status.segment(), generation: self.generation, armed_words };
        porter::start(PorterMode::Thread, self.listener, self.config, &status, outbox)
    }
}

/// Descriptors of one client: lifeline, request and response segment, pidfd; and a bell, if it has
/// one of its own.
const DESCRIPTORS_PER_CLIENT: u64 = 5;
/// Descriptors of one handshake under way.
const DESCRIPTORS_PER_HANDSHAKE: u64 = 2;
/// Descriptors that a server has anyway, and room for those of the program around it.
const DESCRIPTORS_OF_THE_SERVER: u64 = 32;
/// Most clients of one server: every client maps the armed words of all domains.
const MAX_CLIENTS: u32 = 1 << 16;

/// Why there is no shared memory: the call that is refused, if one is.
fn why_no_memory(error: SegmentError) -> BindError {
    match calls::check_rings() {
        Err(failed) => BindError::CallFailed { call: failed.call, error: failed.errno.into() },
        Ok(()) => error.into(),
    }
}

pub(super) fn check_descriptors(max_clients: u32, max_handshakes: u32) -> Result<(), BindError> {
    use rustix::process::{Resource, getrlimit};
    let Some(limit) = getrlimit(Resource::Nofile).current else { return Ok(()) };
    let need = u64::from(max_clients) * DESCRIPTORS_PER_CLIENT
        + u64::from(max_handshakes) * DESCRIPTORS_PER_HANDSHAKE
        + DESCRIPTORS_OF_THE_SERVER;
    if need > limit { Err(BindError::TooFewDescriptors { need, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each of them is added to a time of the clock somewhere.
    #[test]
    fn times_may_be_as_long_as_they_like() {
        for time in [Duration::MAX, Duration::from_secs(1 << 60)] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("s");
            let mut wait = WaitSettings::server();
            (wait.backstop, wait.first_look, wait.yield_for) = (time, time, time);
            let server = Server::builder()
                .handshake_timeout(time)
                .slow_client_timeout(Some(time))
                .stream_stall_timeout(Some(time))
                .wait(wait)
                .bind(&path)
                .unwrap();
            let handle = server.handle();
            let serving = std::thread::spawn(move || server.run(|_, _| Ok(())));
            let connect = crate::ConnectOptions::new().timeout(Some(time));
            let mut client = connect.connect(&path).unwrap();
            client.call_timeout(b"", Some(time)).unwrap();
            client.ping(Some(time)).unwrap();
            handle.shutdown(Some(time));
            serving.join().unwrap().unwrap();
        }
    }

    #[test]
    fn something_must_be_offered() {
        let nothing = Server::builder().shared_memory(false).fallback(false);
        assert!(matches!(nothing.bind("/nonexistent/s"), Err(BindError::InvalidSetting(_))));
        // Limits of memory are no matter where none is offered.
        let little = Server::builder().max_bytes_per_client(1);
        assert!(little.check().is_err());
        assert!(little.shared_memory(false).check().is_ok());
    }
}
