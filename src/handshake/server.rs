//! The server's side: a state machine for each half-open connection, which never waits.

use super::inspector_reply::InspectorReply;
use super::peer::PeerInfo;
use super::reading::{Closed, expected, read_more, refusal};
use super::sockopt;
use super::transport::{FallbackReason, Transport};
use super::wire::{
    self, FEATURE_BYTES, FEATURE_ORDERED, FEATURE_SAMPLES, Fallback, HEADER, Hello, RejectReason,
    Role, Welcome,
};
use crate::base::kill_point::kill_point;
use crate::link::lifeline;
use crate::link::segment::{Segment, SegmentError};
use crate::link::segment_pair::{PendingPair, SegmentPair};
use crate::memory::Window;
use crate::memory::layout::{self, HeaderWord};
use crate::os::closer;
use crate::os::peer_socket::PeerSocket;
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
        // A kernel before 6.5, or a seccomp profile.
        Err(Errno::NOPROTOOPT | Errno::NOSYS | Errno::PERM | Errno::ACCESS) => {
            match i32::try_from(peer.pid).ok().and_then(Pid::from_raw) {
                Some(pid) => rustix::process::pidfd_open(pid, PidfdFlags::empty()),
                None => return Ok(None),
            }
        }
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

fn bytes_of(welcome: &Welcome) -> u64 {
    SegmentPair::bytes(welcome.request_capacity, welcome.response_capacity)
}

/// Shared memory, as it is offered to a client.
#[derive(Debug)]
pub(crate) struct SharedOffer {
    pub(crate) welcome: Welcome,
    pub(crate) pair: PendingPair,
    pub(crate) status: Arc<OwnedFd>,
    /// For a client that shares its bell with others.
    pub(crate) bell: Option<Arc<Segment>>,
    /// The server's own pidfd.
    pub(crate) server: Option<Arc<OwnedFd>>,
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
        /// Where the bell word is with which this client wakes the server, mapped read-only: the
        /// bell page of its domain, or its own request segment.
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
    /// Waits for nothing, and has more to do: others have their turn before that.
    Working,
    /// Done: the session, and the client's pidfd.
    Ready(Box<Joined>, Option<OwnedFd>),
    /// Over, for this reason; the client has been told as far as it could be.
    Closed(Closed),
}

#[derive(Debug)]
enum State {
    /// Collects header and body of the Hello.
    ReadHello(Vec<u8>),
    /// Of the encoded offer so much was sent.
    SendOffer {
        bytes: Vec<u8>,
        sent: usize,
    },
    AwaitReady,
    /// READY came, and the segments are checked, in slices.
    Check,
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
    /// What the client is offered, from `SendOffer` on. Here, so that it is there still when a
    /// step fails: large memory is not given back on the porter's thread.
    offer: Option<Offer>,
}

impl Drop for Handshake {
    fn drop(&mut self) {
        if let Some(Offer::Shared(offer)) = self.offer.take() {
            closer::free(bytes_of(&offer.welcome), offer);
        }
    }
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
                let (socket, session, offer) = (Arc::new(socket), None, None);
                Ok(Self { socket, peer, pidfd, deadline, session, state, offer })
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
        match (&self.state, &self.offer, reason) {
            (State::ReadHello(_), _, Some(reason)) => reject(&self.socket, reason),
            (State::AwaitReady | State::Check, Some(Offer::Shared(_)), _) => {
                say(&self.socket, &[farewell as u8]);
            }
            (State::AwaitReady, Some(Offer::Socket(_)), _) => say_goodbye(&self.socket, farewell),
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
                    if let Closed::Refused(reason) | Closed::InspectorRefused(reason) = closed {
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
                let hello = Hello::parse(body).map_err(|bad| {
                    // One of another version is told from a client, too.
                    let inspects = Hello::is_of_inspector(body);
                    let closed = if inspects { Closed::InspectorRefused } else { Closed::Refused };
                    closed(refusal(bad))
                })?;
                self.peer.name.clone_from(&hello.name);
                if hello.role == Role::Inspector {
                    let reply = host.inspect(&self.peer, &hello);
                    let reply = reply.map_err(Closed::InspectorRefused)?;
                    self.state = State::SendInspectorReply { messages: reply.messages(), sent: 0 };
                    return Ok(None);
                }
                let offer = host.admit(&self.peer, &hello).map_err(Closed::Refused)?;
                self.admitted(offer);
                Ok(None)
            }
            State::SendOffer { bytes, mut sent } => {
                let result = match &self.offer {
                    Some(Offer::Shared(shared)) if sent == 0 => {
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
                        let (Some(Offer::Shared(shared)), 0, Some(reason)) =
                            (&self.offer, sent, unsent(errno))
                        else {
                            return Err(errno.into());
                        };
                        let fallback =
                            host.offer_socket(&shared.welcome, reason).map_err(Closed::Refused)?;
                        self.admitted(Offer::Socket(fallback));
                        return Ok(None);
                    }
                };
                if sent < bytes.len() {
                    self.state = State::SendOffer { bytes, sent };
                    return Ok(progress);
                }
                kill_point!("handshake-welcome-sent");
                self.state = State::AwaitReady;
                Ok(None)
            }
            State::AwaitReady => {
                let mut byte = Vec::new();
                if !read_more(&self.socket, &mut byte, 1)? {
                    self.state = State::AwaitReady;
                    return Ok(Some(HandshakeProgress::Reading));
                }
                kill_point!("handshake-ready-read");
                match byte[..] {
                    [lifeline::READY] => {
                        self.state = State::Check;
                        Ok(None)
                    }
                    _ => Err(Closed::NotReady),
                }
            }
            State::Check => {
                if !self.check()? {
                    self.state = State::Check;
                    return Ok(Some(HandshakeProgress::Working));
                }
                self.join().map(Some)
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

    /// Goes on with what came of a Hello.
    fn admitted(&mut self, offer: Offer) {
        self.session = Some(offer.session());
        self.state = State::SendOffer { bytes: offer.encode(), sent: 0 };
        if let Some(Offer::Shared(old)) = self.offer.replace(offer) {
            closer::free(bytes_of(&old.welcome), old);
        }
    }

    /// Checks a slice of the segments; whether that was the last one.
    fn check(&mut self) -> Result<bool, Closed> {
        let Some(Offer::Shared(offer)) = &mut self.offer else { return Ok(true) };
        offer.pair.check().map_err(|error| {
            let farewell = match error {
                SegmentError::Seals { .. } | SegmentError::Incomplete => {
                    lifeline::Farewell::PeerFault
                }
                _ => lifeline::Farewell::Exhausted,
            };
            say(&self.socket, &[farewell as u8]);
            Closed::Segment
        })
    }

    fn join(&mut self) -> Result<HandshakeProgress, Closed> {
        let offer = self.offer.take().ok_or(Closed::Failed)?;
        let (max_message, features, carrier) = match offer {
            Offer::Shared(offer) => {
                let (request, response) = offer.pair.accept().ok_or(Closed::Segment)?;
                kill_point!("handshake-mapped");
                let domain_bell = match &offer.bell {
                    Some(bell) => bell.window.clone(),
                    None => request.window.clone(),
                };
                let carrier = Carrier::Shared {
                    request,
                    response,
                    domain: offer.welcome.domain,
                    domain_bell,
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

fn send_with_descriptors(
    socket: &OwnedFd,
    bytes: &[u8],
    offer: &SharedOffer,
) -> Result<usize, Errno> {
    let segments =
        [offer.pair.request.as_fd(), offer.pair.response.fd.as_fd(), offer.status.as_fd()];
    let bell = offer.bell.as_ref().map(|bell| bell.fd.as_fd());
    let server = offer.server.as_ref().map(|server| server.as_fd());
    let rights: Vec<BorrowedFd<'_>> = segments.into_iter().chain(bell).chain(server).collect();
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
