//! How to connect.

use super::Client;
use crate::handshake::AnswerOrder;
use crate::handshake::{
    self, Attached, ConnectError, HelloOptions, RejectReason, ServerProcess, TransportChoice,
};
use crate::os::program::program_name;
use crate::protocol::wait::WaitSettings;
use std::path::Path;
use std::time::{Duration, Instant};

/// How to connect. The defaults are good for most.
#[derive(Debug, Clone)]
#[must_use = "options do nothing until `connect`"]
pub struct ConnectOptions {
    hello: HelloOptions,
    timeout: Option<Duration>,
    wait_for_server: bool,
    pub(super) max_in_flight: usize,
    pub(super) max_events: usize,
    max_held_bytes: Option<usize>,
    pub(super) send_deadlines: bool,
    pub(super) wait: WaitSettings,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl ConnectOptions {
    /// The defaults: the server's sizes, five seconds for the handshake, 1024 calls in flight.
    pub fn new() -> Self {
        Self {
            hello: HelloOptions { name: program_name(), ..HelloOptions::default() },
            timeout: Some(Duration::from_secs(5)),
            wait_for_server: false,
            max_in_flight: 1024,
            max_events: 1024,
            max_held_bytes: None,
            send_deadlines: true,
            wait: WaitSettings::client(),
        }
    }

    /// Capacity of each ring in bytes: a power of two from 2 KiB to 1 GiB. Default: the server's
    /// choice.
    pub fn ring_capacity(mut self, bytes: u64) -> Self {
        self.hello.request_capacity = bytes;
        self.hello.response_capacity = bytes;
        self
    }

    /// Largest message either way in bytes. The server's limit holds if it is smaller.
    pub fn max_message(mut self, bytes: u64) -> Self {
        self.hello.max_message = bytes;
        self
    }

    /// A name for tools to show, at most 48 bytes. Default: the name of the program.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.hello.name = name.into();
        self
    }

    /// How long connecting may take: `None` waits for ever, zero does not wait. Default 5 s. As
    /// long, a client tries again that is turned away because too many others are connecting at
    /// this moment.
    pub fn timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeout = timeout;
        self
    }

    /// Whether to wait for a server that does not listen yet, within [`Self::timeout`]: for
    /// programs that start their server themselves. Looks every few milliseconds. Default: no.
    pub fn wait_for_server(mut self, wait: bool) -> Self {
        self.wait_for_server = wait;
        self
    }

    /// How many calls may be without an answer at once. Default 1024.
    pub fn max_in_flight(mut self, calls: usize) -> Self {
        self.max_in_flight = calls;
        self
    }

    /// What carries the session. Default [`TransportChoice::Auto`].
    pub fn transport(mut self, transport: TransportChoice) -> Self {
        self.hello.transport = transport;
        self
    }

    /// The user that the server must run as: that of the process which called `listen`, as the
    /// kernel says. Another one is refused with [`ConnectError::WrongServerUid`] before anything is
    /// sent to it. For clients of a socket in a directory that others may write. Default: any user.
    pub fn server_uid(mut self, uid: u32) -> Self {
        self.hello.server_uid = Some(uid);
        self
    }

    /// The process that must listen.
    pub(crate) fn server_process(mut self, process: ServerProcess) -> Self {
        self.hello.server_process = Some(process);
        self
    }

    /// In which order answers come. With [`AnswerOrder::Request`] a slow request holds up the
    /// answers behind it. Default: the server's choice, which is [`AnswerOrder::Completion`] unless
    /// set otherwise.
    pub fn answer_order(mut self, order: AnswerOrder) -> Self {
        self.hello.ordered = order == AnswerOrder::Request;
        self
    }

    /// How many events are kept until they are asked for; the oldest are dropped beyond that, and
    /// [`Client::next_event`] says how many. Default 1024.
    pub fn max_events(mut self, events: usize) -> Self {
        self.max_events = events;
        self
    }

    /// Most bytes of answers, items of streams and events that a client holds until they are asked
    /// for, by the capacity of their buffers. Never less than one message. Default: four messages
    /// of the largest size, and 64 MiB at least.
    ///
    /// Beyond that the oldest events are dropped ([`EventError::Missed`](crate::EventError)); then
    /// the stream that holds most ends with an error; then an answer does. The code of these errors
    /// is [`NOT_KEPT`](crate::layout::code::NOT_KEPT). Answers of up to 4 KiB are kept in any case:
    /// calls in flight bound them.
    ///
    /// A server sends up to 64 items ahead ([`STREAM_WINDOW`](crate::layout::STREAM_WINDOW)). They
    /// are held while the client waits for something behind them, so an honest stream may be given
    /// up if 64 of its items are more than this: with the default, if they are larger than 1 MiB.
    /// Set more if you read such a stream beside other calls. Later in a stream the client asks for
    /// no more items than fit one half of this.
    pub fn max_held_bytes(mut self, bytes: usize) -> Self {
        self.max_held_bytes = Some(bytes);
        self
    }

    /// The same for a session with messages of so many bytes.
    pub(super) fn max_held(&self, max_message: usize) -> usize {
        let default = max_message.saturating_mul(4).max(64 << 20);
        self.max_held_bytes.unwrap_or(default).max(max_message)
    }

    /// Whether the server is told until when a call waits, so that it need not run what nobody
    /// waits for any more: for every call with a deadline or a timeout, however long. Calls that
    /// wait for ever tell nothing, nor do those of a [`Client`] that do not wait. Costs 8 bytes a
    /// request, and a look at the clock on both sides. Default: yes.
    pub fn send_deadlines(mut self, send: bool) -> Self {
        self.send_deadlines = send;
        self
    }

    /// Of so many calls one is timed on its way: when it was sent, taken by the server, answered,
    /// and received, for `ring-dump` to tell waiting from working. 0: none, whatever the server
    /// would like. Nothing is timed over a socket, nor what is written in place
    /// ([`Client::claim`]). Default: as the server likes
    /// ([`ServerBuilder::sample_calls`](crate::ServerBuilder::sample_calls)), which is none unless
    /// set.
    ///
    /// A call that is timed costs two looks at the clock on either side, 8 bytes, and a slower way
    /// through the ring; the others cost nothing.
    pub fn sample_calls(mut self, every: u32) -> Self {
        self.hello.sample_every = Some(every);
        self
    }

    /// The waiting policy. Default [`WaitSettings::client`].
    pub fn wait(mut self, settings: WaitSettings) -> Self {
        self.wait = settings;
        self
    }

    /// Has a session made for a byte stream instead of calls, and tells how each end waits.
    pub(crate) fn attach_bytes(
        mut self,
        path: &Path,
    ) -> Result<(Attached, WaitSettings), ConnectError> {
        self.hello.bytes = true;
        Ok((self.attach(path)?, self.wait))
    }

    /// Connects to the server that listens at `path`.
    ///
    /// # Errors
    /// [`ConnectError`] says what is in the way.
    pub fn connect(self, path: impl AsRef<Path>) -> Result<Client, ConnectError> {
        if self.max_in_flight == 0 {
            return Err(ConnectError::InvalidOption("max_in_flight is 0"));
        }
        if self.max_events == 0 {
            return Err(ConnectError::InvalidOption("max_events is 0"));
        }
        let attached = self.attach(path.as_ref())?;
        Ok(Client::new(attached, &self))
    }

    fn attach(&self, path: &Path) -> Result<Attached, ConnectError> {
        let deadline = self.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut pause = Duration::from_millis(1);
        let mut obstacle = None;
        loop {
            let error = match handshake::attach(path, &self.hello, deadline) {
                Ok(attached) => return Ok(attached),
                // What was in the way all the time says more.
                Err(ConnectError::TimedOut) => {
                    return Err(obstacle.unwrap_or(ConnectError::TimedOut));
                }
                Err(error) => error,
            };
            if !self.will_pass(&error)
                || deadline.is_some_and(|deadline| Instant::now() >= deadline)
            {
                return Err(error);
            }
            obstacle = Some(error);
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            std::thread::sleep(left.map_or(pause, |left| pause.min(left)));
            pause = (2 * pause).min(Duration::from_millis(16));
        }
    }

    /// Whether to try again after this error.
    fn will_pass(&self, error: &ConnectError) -> bool {
        match error {
            ConnectError::NoSuchSocket(_) | ConnectError::NobodyListens(_) => self.wait_for_server,
            // Of as many as come at the same moment, each is let in within milliseconds.
            ConnectError::Rejected(
                RejectReason::TooManyHandshakes { .. }
                | RejectReason::TooManyHandshakesOfUid { .. },
            ) => true,
            _ => false,
        }
    }
}
