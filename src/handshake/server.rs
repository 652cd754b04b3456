//! The server's side: a state machine for each half-open connection, which never waits.

use super::peer::PeerInfo;
use super::sockopt;
use super::transport::{FallbackReason, Transport};
use super::wire::{
    self, FEATURE_BYTES, FEATURE_ORDERED, FEATURE_SAMPLES, Fallback, HEADER, Header, Hello,
    Malformed, MessageKind, RejectReason, Role, Segments, Welcome,
};
use crate::base::kill_point::kill_point;
use crate::link::lifeline;
use crate::link::segment::{PendingRequest, Segment};
use crate::memory::Window;
use crate::memory::layout::{self, HeaderWord};
use crate::os::peer_socket::{PeerSocket, Received};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::{Pid, PidfdFlags};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

/// A pidfd of the process that connected; `None` if it is gone, or the kernel cannot tell.
fn pidfd(socket: &OwnedFd, peer: &PeerInfo) -> Result<Option<OwnedFd>, Errno> {
    let result = match sockopt::peer_pidfd(socket) {
        // A kernel before 6.5.
        Err(Errno::NOPROTOOPT) => match i32::try_from(peer.pid).ok().and_then(Pid::from_raw) {
            Some(pid) => rustix::process::pidfd_open(pid, PidfdFlags::empty()),
            None => return Ok(None),
        },
        other => other,
    };
    match result {
        Ok(pidfd) => Ok(Some(pidfd)),
        Err(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => Err(errno),
        Err(_) => Ok(None),
    }
}

/// Tells a client that it is not served. The connection is to be closed.
pub(crate) fn reject(socket: &OwnedFd, reason: RejectReason) {
    say(socket, &reason.encode_reject());
}

/// One try: a fresh socket has room, and whoever has filled it does not deserve an answer.
fn say(socket: &OwnedFd, bytes: &[u8]) {
    let _ = rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}

/// What an admitted client gets.
#[derive(Debug)]
pub(crate) enum Offer {
    Shared(Box<SharedOffer>),
    /// The socket itself.
    Socket(Fallback),
}

impl Offer {
    fn session(&self) -> u64 {
        match self {
            Self::Shared(offer) => offer.welcome.session,
            Self::Socket(fallback) => fallback.session,
        }
    }

    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Shared(offer) => offer.welcome.encode(),
            Self::Socket(fallback) => fallback.encode(),
        }
    }
}

/// Shared memory, as it is offered to a client.
#[derive(Debug)]
pub(crate) struct SharedOffer {
    pub(crate) welcome: Welcome,
    pub(crate) request: PendingRequest,
    pub(crate) response: Segment,
    pub(crate) status: Arc<OwnedFd>,
    pub(crate) bell: Arc<Segment>,
    /// The server's own pidfd.
    pub(crate) server: Option<Arc<OwnedFd>>,
}

/// What an inspector gets.
#[derive(Debug)]
pub(crate) struct InspectorReply {
    /// The session protocol that was chosen.
    pub(crate) version: u16,
    pub(crate) generation: u64,
    pub(crate) pid: u32,
    /// Sessions that have no shared memory.
    pub(crate) sockets: u32,
    /// Segments that are sealed against writing.
    pub(crate) segments: Vec<Arc<OwnedFd>>,
}

impl InspectorReply {
    /// The messages that carry them, each with its descriptors; the last one first.
    fn messages(&self) -> Vec<(Vec<u8>, Vec<Arc<OwnedFd>>)> {
        let count = self.segments.len().div_ceil(wire::BATCH).max(1);
        let message = |index: usize| {
            let from = index * wire::BATCH;
            let batch = &self.segments[from..self.segments.len().min(from + wire::BATCH)];
            let head = Segments {
                version: self.version,
                more: index + 1 < count,
                count: u32::try_from(batch.len()).unwrap_or(0),
                generation: self.generation,
                pid: self.pid,
                sockets: self.sockets,
            };
            (head.encode(), batch.to_vec())
        };
        (0..count).rev().map(message).collect()
    }
}

/// Who decides about a Hello: the porter.
pub(crate) trait Host {
    /// Admits the client, or says why not. What an offer takes from the limits is reserved under
    /// its session id, and given back by the caller of [`Handshake::advance`] if the handshake ends
    /// otherwise than Ready.
    fn admit(&mut self, peer: &PeerInfo, hello: &Hello) -> Result<Offer, RejectReason>;

    /// What an inspector gets, or why it gets nothing.
    fn inspect(&mut self, peer: &PeerInfo, hello: &Hello) -> Result<InspectorReply, RejectReason>;

    /// The Welcome of this session cannot be sent: offers the socket in its place, or says why not.
    /// The session keeps its id and its slot.
    fn offer_socket(
        &mut self,
        welcome: &Welcome,
        reason: RejectReason,
    ) -> Result<Fallback, RejectReason>;
}

/// A client that is ready, as the reactor gets it.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) session: u64,
    pub(crate) peer: PeerInfo,
    /// The socket. Over it go the frames of a session that has no shared memory.
    pub(crate) lifeline: Arc<PeerSocket>,
    /// Largest message in bytes, either way.
    pub(crate) max_message: u64,
    /// Whether the client was promised its answers strictly in order.
    pub(crate) ordered: bool,
    /// Whether its requests may say when they were sent.
    pub(crate) sampled: bool,
    /// Whether the session is a byte stream.
    pub(crate) bytes: bool,
    pub(crate) carrier: Carrier,
}

/// What carries the frames of a session.
#[derive(Debug)]
pub(crate) enum Carrier {
    /// Shared memory.
    Shared {
        /// Mapped read-only.
        request: Segment,
        /// Mapped writable.
        response: Segment,
        /// Index of the armed word for this client in the status segment.
        domain: u32,
        /// The bell page with which this client wakes the server, mapped read-only. Shared within
        /// the domain.
        domain_bell: Window,
        request_capacity: u64,
        response_capacity: u64,
    },
    /// The socket itself.
    Socket {
        /// Why it is not shared memory.
        reason: RejectReason,
    },
}

impl Carrier {
    /// The same, as it is told to people.
    pub(crate) fn transport(&self) -> Transport {
        match self {
            Self::Shared { .. } => Transport::SharedMemory,
            Self::Socket { reason: RejectReason::SocketAsked } => {
                Transport::Socket { reason: FallbackReason::Asked }
            }
            Self::Socket { reason } => {
                Transport::Socket { reason: FallbackReason::Server(*reason) }
            }
        }
    }
}

impl Joined {
    /// Tells a client for whom there will be no session after all.
    pub(crate) fn say_farewell(&self, farewell: lifeline::Farewell) {
        match self.carrier {
            Carrier::Shared { .. } => say(&self.lifeline, &[farewell as u8]),
            Carrier::Socket { .. } => say_goodbye(&self.lifeline, farewell),
        }
    }
}

/// In a frame, since frames are what the client reads next.
fn say_goodbye(socket: &OwnedFd, farewell: lifeline::Farewell) {
    let word = HeaderWord::new(layout::Kind::Goodbye, 0, farewell as u16, 0);
    say(socket, [word.0.to_le_bytes(), [0; 8]].as_flattened());
}

/// Where a handshake stands after a step.
#[derive(Debug)]
pub(crate) enum HandshakeProgress {
    /// Waits for the client to send.
    Reading,
    /// Waits for room to send.
    Writing,
    /// Done: the session, and the client's pidfd.
    Ready(Box<Joined>, Option<OwnedFd>),
    /// Over, for this reason; the client has been told as far as it could be.
    Closed(Closed),
}

/// Why a handshake ended without a session.
#[derive(Debug)]
pub(crate) enum Closed {
    /// The client hung up.
    HungUp,
    /// The client was refused.
    Refused(RejectReason),
    /// The client answered the offer with something else than READY.
    NotReady,
    /// The client sent descriptors, which no client does.
    Descriptors,
    /// The client tampered with its segment, or the server could not map it.
    Segment,
    /// It was an inspector, and has what it came for.
    Inspected,
    /// Any other failure.
    Failed,
}

impl From<Errno> for Closed {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::PIPE | Errno::CONNRESET => Self::HungUp,
            _ => Self::Failed,
        }
    }
}

#[derive(Debug)]
enum State {
    /// Collects header and body of the Hello.
    ReadHello(Vec<u8>),
    SendOffer {
        bytes: Vec<u8>,
        sent: usize,
        offer: Offer,
    },
    AwaitReady(Offer),
    /// Messages for an inspector, the next one last, of which so much was sent.
    SendInspectorReply {
        messages: Vec<(Vec<u8>, Vec<Arc<OwnedFd>>)>,
        sent: usize,
    },
    Over,
}

/// One half-open connection.
#[derive(Debug)]
pub(crate) struct Handshake {
    /// Goes on as the lifeline.
    socket: Arc<PeerSocket>,
    peer: PeerInfo,
    pidfd: Option<OwnedFd>,
    deadline: Instant,
    /// Once it was admitted.
    session: Option<u64>,
    state: State,
}

impl Handshake {
    /// Begins with a connection that was just accepted from a peer that the policy allows.
    ///
    /// # Errors
    /// Gives the connection back if there is no descriptor left for the client's pidfd.
    pub(crate) fn new(
        socket: PeerSocket,
        peer: PeerInfo,
        deadline: Instant,
    ) -> Result<Self, (PeerSocket, Errno)> {
        match pidfd(&socket, &peer) {
            Ok(pidfd) => {
                let state = State::ReadHello(Vec::new());
                Ok(Self { socket: Arc::new(socket), peer, pidfd, deadline, session: None, state })
            }
            Err(errno) => Err((socket, errno)),
        }
    }

    /// The socket to watch.
    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Who connected. The name is known after the Hello only.
    pub(crate) fn peer(&self) -> &PeerInfo {
        &self.peer
    }

    /// When it is to be given up.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The session id under which the client was admitted, if it was.
    pub(crate) fn session(&self) -> Option<u64> {
        self.session
    }

    /// Gives up, and tells the client in the way that fits the state.
    pub(crate) fn abandon(self, reason: Option<RejectReason>, farewell: lifeline::Farewell) {
        match (self.state, reason) {
            (State::ReadHello(_), Some(reason)) => reject(&self.socket, reason),
            (State::AwaitReady(Offer::Shared(_)), _) => say(&self.socket, &[farewell as u8]),
            (State::AwaitReady(Offer::Socket(_)), _) => say_goodbye(&self.socket, farewell),
            // In the middle of a message nothing can be said.
            _ => {}
        }
    }

    /// Goes as far as possible without waiting. After `Ready` or `Closed` it must not be called
    /// again.
    pub(crate) fn advance(&mut self, host: &mut impl Host) -> HandshakeProgress {
        loop {
            match self.step(host) {
                Ok(None) => {}
                Ok(Some(progress)) => return progress,
                Err(closed) => {
                    if let Closed::Refused(reason) = closed {
                        reject(&self.socket, reason);
                    }
                    return HandshakeProgress::Closed(closed);
                }
            }
        }
    }

    /// One state; `None` if there may be more to do at once.
    fn step(&mut self, host: &mut impl Host) -> Result<Option<HandshakeProgress>, Closed> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::ReadHello(mut bytes) => {
                let body = loop {
                    // Only ever asks for what it expects.
                    let want = expected(&bytes).map_err(|bad| Closed::Refused(refusal(bad)))?;
                    if bytes.len() == want {
                        break &bytes[HEADER..];
                    }
                    if !read_more(&self.socket, &mut bytes, want)? {
                        self.state = State::ReadHello(bytes);
                        return Ok(Some(HandshakeProgress::Reading));
                    }
                };
                kill_point!("handshake-hello-read");
                let hello = Hello::parse(body).map_err(|bad| Closed::Refused(refusal(bad)))?;
                self.peer.name.clone_from(&hello.name);
                if hello.role == Role::Inspector {
                    let reply = host.inspect(&self.peer, &hello).map_err(Closed::Refused)?;
                    self.state = State::SendInspectorReply { messages: reply.messages(), sent: 0 };
                    return Ok(None);
                }
                let offer = host.admit(&self.peer, &hello).map_err(Closed::Refused)?;
                self.session = Some(offer.session());
                self.state = State::SendOffer { bytes: offer.encode(), sent: 0, offer };
                Ok(None)
            }
            State::SendOffer { bytes, mut sent, offer } => {
                let result = match &offer {
                    Offer::Shared(shared) if sent == 0 => {
                        send_with_descriptors(&self.socket, &bytes, shared)
                    }
                    _ => {
                        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                        rustix::net::send(&self.socket, &bytes[sent..], flags)
                    }
                };
                let progress = match result {
                    Ok(count) => {
                        sent += count;
                        None
                    }
                    Err(Errno::INTR) => None,
                    Err(Errno::AGAIN) => Some(HandshakeProgress::Writing),
                    Err(errno) => {
                        let (Offer::Shared(shared), 0, Some(reason)) =
                            (&offer, sent, unsent(errno))
                        else {
                            return Err(errno.into());
                        };
                        let fallback =
                            host.offer_socket(&shared.welcome, reason).map_err(Closed::Refused)?;
                        let offer = Offer::Socket(fallback);
                        self.state = State::SendOffer { bytes: offer.encode(), sent: 0, offer };
                        return Ok(None);
                    }
                };
                self.state = if sent < bytes.len() {
                    State::SendOffer { bytes, sent, offer }
                } else {
                    kill_point!("handshake-welcome-sent");
                    State::AwaitReady(offer)
                };
                Ok(progress)
            }
            State::AwaitReady(offer) => {
                let mut byte = Vec::new();
                if !read_more(&self.socket, &mut byte, 1)? {
                    self.state = State::AwaitReady(offer);
                    return Ok(Some(HandshakeProgress::Reading));
                }
                kill_point!("handshake-ready-read");
                match byte[..] {
                    [lifeline::READY] => self.join(offer).map(Some),
                    _ => Err(Closed::NotReady),
                }
            }
            State::SendInspectorReply { mut messages, mut sent } => {
                let Some((bytes, segments)) = messages.last() else {
                    return Err(Closed::Inspected);
                };
                let result = if sent == 0 {
                    let rights: Vec<_> = segments.iter().map(|segment| segment.as_fd()).collect();
                    send_rights(&self.socket, bytes, &rights)
                } else {
                    rustix::net::send(
                        &self.socket,
                        &bytes[sent..],
                        SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
                    )
                };
                let progress = match result {
                    Ok(count) => {
                        sent += count;
                        None
                    }
                    Err(Errno::INTR) => None,
                    Err(Errno::AGAIN) => Some(HandshakeProgress::Writing),
                    Err(errno) => return Err(errno.into()),
                };
                if sent == bytes.len() {
                    messages.pop();
                    sent = 0;
                }
                self.state = State::SendInspectorReply { messages, sent };
                Ok(progress)
            }
            State::Over => Err(Closed::HungUp),
        }
    }

    fn join(&mut self, offer: Offer) -> Result<HandshakeProgress, Closed> {
        let (max_message, features, carrier) = match offer {
            Offer::Shared(offer) => {
                let request = offer.request.accept().map_err(|_| Closed::Segment)?;
                kill_point!("handshake-mapped");
                let carrier = Carrier::Shared {
                    request,
                    response: offer.response,
                    domain: offer.welcome.domain,
                    domain_bell: offer.bell.window.clone(),
                    request_capacity: offer.welcome.request_capacity,
                    response_capacity: offer.welcome.response_capacity,
                };
                (offer.welcome.max_message, offer.welcome.features, carrier)
            }
            Offer::Socket(fallback) => (
                fallback.max_message,
                fallback.features,
                Carrier::Socket { reason: fallback.reason },
            ),
        };
        let joined = Joined {
            session: self.session.unwrap_or(0),
            peer: self.peer.clone(),
            lifeline: self.socket.clone(),
            max_message,
            ordered: features & FEATURE_ORDERED != 0,
            sampled: features & FEATURE_SAMPLES != 0,
            bytes: features & FEATURE_BYTES != 0,
            carrier,
        };
        Ok(HandshakeProgress::Ready(Box::new(joined), self.pidfd.take()))
    }
}

/// How many bytes of a Hello to have next: the header, then all of it.
fn expected(bytes: &[u8]) -> Result<usize, Malformed> {
    let Some(header) = bytes.first_chunk::<HEADER>() else {
        return Ok(HEADER);
    };
    match Header::parse(header)? {
        Header { kind: MessageKind::Hello, length } => Ok(HEADER + length),
        _ => Err(Malformed::Content),
    }
}

fn refusal(malformed: Malformed) -> RejectReason {
    let (min, max) = wire::VERSIONS;
    match malformed {
        Malformed::Version => RejectReason::VersionUnsupported { min, max },
        Malformed::Magic | Malformed::Content => RejectReason::BadHello,
    }
}

/// Reads until there are `want` bytes; false if the client has not sent them yet.
fn read_more(socket: &PeerSocket, bytes: &mut Vec<u8>, want: usize) -> Result<bool, Closed> {
    let mut have = bytes.len();
    // Bounded: `want` is at most a header and MAX_BODY.
    bytes.resize(want, 0);
    let result = loop {
        if have == want {
            break Ok(true);
        }
        match socket.receive(&mut bytes[have..]) {
            Ok(Received::Bytes(0)) => break Err(Closed::HungUp),
            Ok(Received::Bytes(count)) => have += count,
            Ok(Received::Descriptors) => break Err(Closed::Descriptors),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => break Ok(false),
            Err(errno) => break Err(errno.into()),
        }
    };
    bytes.truncate(have);
    result
}

fn send_with_descriptors(
    socket: &OwnedFd,
    bytes: &[u8],
    offer: &SharedOffer,
) -> Result<usize, Errno> {
    let segments = [
        offer.request.fd.as_fd(),
        offer.response.fd.as_fd(),
        offer.status.as_fd(),
        offer.bell.fd.as_fd(),
    ];
    let server = offer.server.as_ref().map(|server| server.as_fd());
    let rights: Vec<BorrowedFd<'_>> = segments.into_iter().chain(server).collect();
    send_rights(socket, bytes, &rights)
}

/// Sends descriptors on the first of `bytes`, in one try; without any, the bytes alone.
fn send_rights(socket: &OwnedFd, bytes: &[u8], rights: &[BorrowedFd<'_>]) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(wire::BATCH))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !rights.is_empty() && !control.push(SendAncillaryMessage::ScmRights(rights)) {
        return Err(Errno::NOBUFS);
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)
}

/// What a client is short of whose Welcome could not be sent at all; `None` if the socket itself is
/// broken.
fn unsent(errno: Errno) -> Option<RejectReason> {
    match errno {
        // Too many descriptors of this user are on their way.
        Errno::TOOMANYREFS => Some(RejectReason::OutOfDescriptors),
        Errno::NOMEM | Errno::NOBUFS => Some(RejectReason::OutOfMemory),
        _ => None,
    }
}
