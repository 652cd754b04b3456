//! The blocking client. A driver of `session.rs`: it adds waiting, deadlines and the pairing of
//! answers.

mod call;
pub(crate) mod calls;
mod error;
mod health;
mod held;
mod options;
mod readiness;
mod receive;
mod sampling;
mod send;
#[cfg(feature = "tokio")]
pub(crate) mod shared_use;
mod stream;
mod view;
mod waiting;

use crate::base::calm::Calm;
use crate::base::clock::{Deadline, now_ns};
use crate::handshake::AnswerOrder;
use crate::handshake::Transport;
use crate::handshake::{Attached, Attachment, ConnectError, SocketAttachment};
use crate::link::held::Account;
use crate::link::lifeline;
use crate::link::session::{Head, Parts, SendProgress, SessionCore};
use crate::link::side::Side;
use crate::link::stats::{SessionCounters, Words};
use crate::memory::layout::Kind;
use crate::os::fork::Origin;
use crate::protocol::wait::Waiter;
use crate::trace;
use calls::Calls;
use sampling::Sampling;
use std::cell::Cell;
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use stream::{Events, Streams};

pub use calls::CallId;
pub(crate) use error::SessionEnd;
pub use error::{CallError, RecvError, RemoteError, SendError};
pub use options::ConnectOptions;
pub use stream::{EventError, EventIter, Stream};
pub use view::{Claim, View};

/// An answer. Its bytes are a private copy in the client's buffer, good until the client is used
/// again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response<'a> {
    call: CallId,
    payload: &'a [u8],
}

impl<'a> Response<'a> {
    /// The call that this answers.
    pub fn call(&self) -> CallId {
        self.call
    }

    /// The bytes.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

impl std::ops::Deref for Response<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.payload
    }
}

/// What one call in flight came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The call.
    pub call: CallId,
    /// The response, or the error that the server answered.
    pub outcome: Result<Response<'a>, RemoteError>,
}

/// An answer that was set aside.
#[derive(Debug)]
struct SetAside {
    head: Head,
    payload: Vec<u8>,
}

/// Records that are looked at between two looks at the clock.
const LOOK_MOST: u32 = 1024;

/// How long a client that is dropped tries to get rid of what it has sent over a socket that takes
/// no more.
const LAST_PUSH: Duration = Duration::from_secs(1);

/// How often a client that only polls looks whether the server is there.
const CHECK_EVERY_NS: u64 = 20_000_000;

/// What the server said of itself and the session.
#[derive(Debug)]
struct ServerInfo {
    session: u64,
    generation: u64,
    server_pid: u32,
    ordered: bool,
}

impl ServerInfo {
    /// For subscribers.
    fn tag(&self) -> trace::SessionTag {
        trace::SessionTag { session: self.session, server_pid: self.server_pid }
    }
}

/// One attachment to a server, for one thread at a time.
///
/// `Send`, not `Sync`: it may move between threads, and each method takes `&mut self`. Threads that
/// want to call at the same time connect once each. A forked child cannot use its parent's client
/// ([`CallError::Forked`]).
///
/// Dropping it says goodbye and gives everything back.
#[derive(Debug)]
pub struct Client {
    session: SessionCore,
    /// What it sleeps on over rings; `None` over a socket.
    side: Option<Side>,
    transport: Transport,
    waiter: Waiter,
    calm: Calm,
    calls: Calls,
    max_in_flight: usize,
    set_aside: VecDeque<SetAside>,
    /// Bytes of answers and items that were not asked for, by capacity.
    held: usize,
    /// Most bytes of those and of events.
    max_held: usize,
    streams: Streams,
    /// Cancels and credits that found no room, at most one or two for each call in flight.
    unsent_control: Vec<Head>,
    /// Something that was to be sent without waiting found no room, and nobody was told of room
    /// since.
    wants_room: bool,
    /// An item or an event was kept for later since [`Client::arm`] was called last.
    has_kept: bool,
    events: Events,
    send_deadlines: bool,
    /// Calls to the next one that is sampled. Without samples a number that is never counted down
    /// to 0.
    until_sample: u64,
    sampling: Option<Box<Sampling>>,
    /// Tools are to be told of an answer: calls are timed, or tools were told of calls in flight.
    tells_answers: bool,
    buffer: Vec<u8>,
    over: Option<SessionEnd>,
    /// What the lifeline said of the server, once it said so: what is left in the ring is still
    /// read.
    verdict: Option<SessionEnd>,
    origin: Origin,
    server_info: ServerInfo,
    /// When a client that only polls last looked whether the server is there.
    checked_at: u64,
    /// Signs of life that were asked for, and the last that came.
    pings: u64,
    last_pong: u64,
    _not_sync: PhantomData<Cell<()>>,
}

impl Client {
    /// Connects to the server that listens at `path`, with the defaults of [`ConnectOptions`].
    ///
    /// # Errors
    /// [`ConnectError`] says what is in the way.
    pub fn connect(path: impl AsRef<Path>) -> Result<Self, ConnectError> {
        ConnectOptions::new().connect(path)
    }

    fn new(attached: Attached, options: &ConnectOptions) -> Self {
        let mut client = match attached {
            Attached::Shared(attachment) => Self::over_rings(attachment, options),
            Attached::Socket(attachment) => Self::over_socket(attachment, options),
        };
        client.hint(false);
        trace::client_joined(client.server_info.tag(), &client.transport);
        client
    }

    #[allow(clippy::cast_possible_truncation, reason = "usize is 64 bits; capacities were checked")]
    fn over_rings(mut attachment: Attachment, options: &ConnectOptions) -> Self {
        let (rings, side) = (attachment.rings(), attachment.side());
        let request = &attachment.request.window;
        let session = SessionCore::new(Parts {
            rings: Some(rings),
            lifeline: Arc::new(attachment.lifeline),
            words: Some(Words::new(request)),
            max_message: attachment.max_message as usize,
            burst: usize::MAX,
            // One incomplete answer at a time, which `max_message` bounds.
            account: Account::alone(u64::MAX),
            stamps: false,
            clock: attachment.clock,
        });
        let server_info = ServerInfo {
            session: attachment.session,
            generation: attachment.generation,
            server_pid: attachment.server_pid,
            ordered: attachment.ordered,
        };
        let sampling = Sampling::new(request, attachment.sample_every);
        let mut client =
            Self::assemble(session, Some(side), Transport::SharedMemory, server_info, options);
        client.until_sample = u64::from(sampling.is_some());
        client.tells_answers = sampling.is_some();
        client.sampling = sampling;
        client
    }

    #[allow(clippy::cast_possible_truncation, reason = "usize is 64 bits")]
    fn over_socket(attachment: SocketAttachment, options: &ConnectOptions) -> Self {
        let session = SessionCore::new(Parts {
            rings: None,
            lifeline: Arc::new(attachment.socket),
            words: None,
            max_message: attachment.max_message as usize,
            burst: usize::MAX,
            account: Account::alone(u64::MAX),
            stamps: false,
            clock: attachment.clock,
        });
        let server_info = ServerInfo {
            session: attachment.session,
            generation: attachment.generation,
            server_pid: attachment.server_pid,
            ordered: attachment.ordered,
        };
        let transport = Transport::Socket { reason: attachment.reason };
        Self::assemble(session, None, transport, server_info, options)
    }

    fn assemble(
        session: SessionCore,
        side: Option<Side>,
        transport: Transport,
        server_info: ServerInfo,
        options: &ConnectOptions,
    ) -> Self {
        let max_held = options.max_held(session.max_message());
        Self {
            session,
            side,
            transport,
            waiter: Waiter::new(options.wait.clone()),
            calm: Calm::default(),
            calls: Calls::new(options.max_in_flight),
            max_in_flight: options.max_in_flight,
            set_aside: VecDeque::new(),
            held: 0,
            max_held,
            streams: Streams::default(),
            unsent_control: Vec::new(),
            wants_room: false,
            has_kept: false,
            events: Events::new(options.max_events),
            send_deadlines: options.send_deadlines,
            until_sample: 0,
            sampling: None,
            tells_answers: false,
            buffer: Vec::new(),
            over: None,
            verdict: None,
            origin: Origin::here(),
            server_info,
            checked_at: 0,
            pings: 0,
            last_pong: 0,
            _not_sync: PhantomData,
        }
    }

    /// In which order answers come.
    pub fn answer_order(&self) -> AnswerOrder {
        if self.server_info.ordered { AnswerOrder::Request } else { AnswerOrder::Completion }
    }

    /// What carries the session, and if it is the socket, why.
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Calls without an answer, those included whose answer was set aside.
    pub fn in_flight(&self) -> usize {
        self.calls.wanted() + self.set_aside.len()
    }

    /// What this side of the session counted so far.
    pub fn stats(&mut self) -> SessionCounters {
        if self.origin.is_here() {
            if let Some(side) = &mut self.side {
                side.peer_lives(now_ns(), &mut self.session.counts);
            }
            self.store_counts();
        }
        self.session.counts
    }

    /// The generation of the server: differs after a restart.
    pub fn generation(&self) -> u64 {
        self.server_info.generation
    }

    /// The session's number, unique in the server's life.
    pub fn session(&self) -> u64 {
        self.server_info.session
    }

    /// The server's process id, as it said; 0 if unknown.
    pub fn server_pid(&self) -> u32 {
        self.server_info.server_pid
    }

    #[inline]
    fn usable(&mut self) -> Result<(), SessionEnd> {
        if !self.origin.is_here() {
            return Err(SessionEnd::Forked);
        }
        if let Some(over) = self.over {
            return Err(over);
        }
        if !self.unsent_control.is_empty() {
            // Whatever the client is used for: it may never wait for long, or at all.
            self.retry_control();
        }
        Ok(())
    }

    #[cold]
    fn fail(&mut self, over: SessionEnd) -> SessionEnd {
        if self.over.is_none() {
            let (tag, in_flight) = (self.server_info.tag(), self.in_flight());
            match over {
                SessionEnd::ShutDown => {
                    trace::client_left(tag, "the server has shut down", in_flight)
                }
                SessionEnd::Disconnected => {
                    trace::client_lost(tag, &"the server is gone", in_flight)
                }
                SessionEnd::PeerFault(fault) => trace::client_lost(tag, &fault, in_flight),
                SessionEnd::Forked => {}
            }
            // Nothing is waited for any more.
            self.nothing_in_flight();
        }
        self.over = Some(over);
        over
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // A forked child shares the socket and the memory with its parent, whose session goes on.
        if self.origin.is_here() {
            if let Some(side) = &mut self.side
                && self.verdict.is_none()
            {
                side.leave(&mut self.session.counts);
            }
            self.store_counts();
            if self.over.is_none() {
                trace::client_left(self.server_info.tag(), "closed", self.in_flight());
                self.session.flush();
                if self.session.is_socket() {
                    let goodbye = Head::new(Kind::Goodbye, 0);
                    let _ = self.session.send(goodbye, 0, &[], &mut SendProgress::default());
                    if self.session.has_unsent() {
                        self.push_out(&mut Deadline::In(LAST_PUSH));
                    }
                } else {
                    crate::link::session::send_byte(self.session.lifeline(), lifeline::GOODBYE);
                }
            }
        }
    }
}
