//! The client's side: blocking, with an absolute deadline.

mod connect;
mod descriptors;
mod error;
mod options;
mod patience;
mod process;

use super::peer::is_user;
use super::sockopt;
use super::transport::FallbackReason;
use super::wire::{
    FEATURE_CLOCK, FEATURE_ORDERED, FEATURE_SAMPLES, Fallback, MessageKind, RejectReason,
    TransportAsked, Welcome,
};
use crate::base::clock::{ClockOffset, now_ns};
use crate::base::kill_point::kill_point;
use crate::link::lifeline;
use crate::link::segment::{Label, Segment, SegmentError};
use crate::memory::layout::SegmentKind;
use crate::os::calls;
use crate::os::peer_socket::PeerSocket;
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Instant;

pub(super) use connect::connect;
pub(super) use descriptors::Descriptors;
pub use error::ConnectError;
pub(crate) use options::HelloOptions;
pub use options::TransportChoice;
pub(super) use patience::Patience;
pub(crate) use process::ServerProcess;

/// The request, response and status segments.
const SEGMENTS: usize = 3;

/// A session over shared memory, as the client holds it: everything checked and mapped.
#[derive(Debug)]
pub(crate) struct Attachment {
    /// The connected socket, non-blocking.
    pub(crate) lifeline: PeerSocket,
    /// The server's pidfd, if its kernel has such.
    pub(crate) server: Option<OwnedFd>,
    /// Mapped writable.
    pub(crate) request: Segment,
    /// Mapped read-only.
    pub(crate) response: Segment,
    /// Mapped read-only.
    pub(crate) status: Segment,
    /// Mapped writable; `None` if the bell word is in the request segment.
    pub(crate) bell: Option<Segment>,
    pub(crate) session: u64,
    pub(crate) generation: u64,
    /// Index of the server's armed word for this client in the status segment.
    pub(crate) domain: u32,
    pub(crate) request_capacity: u64,
    pub(crate) response_capacity: u64,
    /// Largest message in bytes, either way.
    pub(crate) max_message: u64,
    /// The server's pid as the server sees it.
    pub(crate) server_pid: u32,
    /// Whether the server answers strictly in order.
    pub(crate) ordered: bool,
    /// Of so many calls one is to be sampled; 0 for none.
    pub(crate) sample_every: u32,
    /// How the server's clock differs.
    pub(crate) clock: ClockOffset,
}

/// A session over the socket, as the client holds it. What comes next on the socket are frames.
#[derive(Debug)]
pub(crate) struct SocketAttachment {
    /// The connected socket, non-blocking.
    pub(crate) socket: PeerSocket,
    pub(crate) session: u64,
    pub(crate) generation: u64,
    /// Largest message in bytes, either way.
    pub(crate) max_message: u64,
    /// The server's pid as the server sees it.
    pub(crate) server_pid: u32,
    /// Whether the server answers strictly in order.
    pub(crate) ordered: bool,
    /// Why it is not shared memory.
    pub(crate) reason: FallbackReason,
    /// How the server's clock differs.
    pub(crate) clock: ClockOffset,
}

/// A session, as the client holds it.
#[allow(clippy::large_enum_variant, reason = "taken apart at once")]
#[derive(Debug)]
pub(crate) enum Attached {
    Shared(Attachment),
    Socket(SocketAttachment),
}

/// Connects to the server at `path` and agrees on a session. Blocks until `deadline`, for ever if
/// there is none.
///
/// # Errors
/// See [`ConnectError`]. Nothing is left behind, here or (once it notices) at the server.
pub(crate) fn attach(
    path: &Path,
    options: &HelloOptions,
    deadline: Option<Instant>,
) -> Result<Attached, ConnectError> {
    attach_here(path, options, deadline, !calls::futex_works())
}

/// As [`attach`], for a process that may use futexes or not.
pub(super) fn attach_here(
    path: &Path,
    options: &HelloOptions,
    deadline: Option<Instant>,
    futex_refused: bool,
) -> Result<Attached, ConnectError> {
    let reason = match options.transport {
        TransportChoice::Socket => FallbackReason::Asked,
        TransportChoice::Auto if futex_refused => FallbackReason::FutexRefused,
        TransportChoice::SharedMemory if futex_refused => return Err(ConnectError::FutexRefused),
        choice => {
            let (reason, error) = match attach_shared(path, options, deadline)? {
                Tried::Attached(attached) => return Ok(attached),
                Tried::Unmapped(reason, error) => (reason, error),
            };
            if choice == TransportChoice::SharedMemory {
                return Err(error);
            }
            return match attach_socket(path, options, deadline, reason) {
                // What was wrong in the first place says more.
                Err(ConnectError::Rejected(RejectReason::SocketOff)) => Err(error),
                other => other,
            };
        }
    };
    attach_socket(path, options, deadline, reason)
}

/// What came of asking for shared memory.
#[allow(clippy::large_enum_variant, reason = "taken apart at once")]
enum Tried {
    Attached(Attached),
    /// The server granted it, this process cannot have it.
    Unmapped(FallbackReason, ConnectError),
}

fn attach_shared(
    path: &Path,
    options: &HelloOptions,
    deadline: Option<Instant>,
) -> Result<Tried, ConnectError> {
    let Answer { socket, patience, kind, body, descriptors, asked } =
        ask(path, options, TransportAsked::Shared, deadline)?;
    let descriptors = match descriptors {
        Ok(descriptors) => descriptors,
        Err(error) => return give_up(&socket, &patience, options, error),
    };
    match kind {
        MessageKind::Welcome => {
            let welcome = Welcome::parse(&body)?;
            options.check(welcome.features, welcome.max_message)?;
            options.check_rings(&welcome)?;
            let received = match adopt(&welcome, descriptors, deadline) {
                Ok(received) => received,
                Err(error) => return give_up(&socket, &patience, options, error),
            };
            kill_point!("client-mapped");
            patience.send(&socket, &[lifeline::READY])?;
            kill_point!("client-ready-sent");
            let clock = asked.clock(welcome.features, welcome.server_ns);
            let attachment = attachment(socket, options, &welcome, received, clock);
            Ok(Tried::Attached(Attached::Shared(attachment)))
        }
        MessageKind::Fallback => {
            let fallback = Fallback::parse(&body)?;
            if options.transport == TransportChoice::SharedMemory {
                return Err(ConnectError::SharedMemoryRefused(fallback.reason));
            }
            let reason = FallbackReason::Server(fallback.reason);
            accept(socket, &patience, options, &fallback, reason, asked).map(Tried::Attached)
        }
        MessageKind::Reject => Err(RejectReason::parse(&body)?.into()),
        MessageKind::Hello | MessageKind::Segments => Err(ConnectError::NotRingbell),
    }
}

/// Shared memory was granted and cannot be had: says whether the socket is to be tried.
fn give_up(
    socket: &PeerSocket,
    patience: &Patience,
    options: &HelloOptions,
    error: ConnectError,
) -> Result<Tried, ConnectError> {
    let Some(reason) = unmapped(&error) else { return Err(error) };
    if options.transport == TransportChoice::Auto {
        patience.leave(socket)?;
    }
    Ok(Tried::Unmapped(reason, error))
}

fn attach_socket(
    path: &Path,
    options: &HelloOptions,
    deadline: Option<Instant>,
    reason: FallbackReason,
) -> Result<Attached, ConnectError> {
    let Answer { socket, patience, kind, body, asked, .. } =
        ask(path, options, TransportAsked::Socket, deadline)?;
    match kind {
        MessageKind::Fallback => {
            accept(socket, &patience, options, &Fallback::parse(&body)?, reason, asked)
        }
        MessageKind::Reject => Err(RejectReason::parse(&body)?.into()),
        MessageKind::Hello | MessageKind::Welcome | MessageKind::Segments => {
            Err(ConnectError::NotRingbell)
        }
    }
}

/// Begins a session over the socket.
fn accept(
    socket: PeerSocket,
    patience: &Patience,
    options: &HelloOptions,
    fallback: &Fallback,
    reason: FallbackReason,
    asked: Asked,
) -> Result<Attached, ConnectError> {
    options.check(fallback.features, fallback.max_message)?;
    patience.send(&socket, &[lifeline::READY])?;
    kill_point!("client-ready-sent");
    Ok(Attached::Socket(SocketAttachment {
        socket,
        session: fallback.session,
        generation: fallback.generation,
        max_message: fallback.max_message,
        server_pid: fallback.pid,
        ordered: fallback.features & FEATURE_ORDERED != 0,
        reason,
        clock: asked.clock(fallback.features, fallback.server_ns),
    }))
}

/// What a server answered to a Hello.
struct Answer {
    socket: PeerSocket,
    patience: Patience,
    kind: MessageKind,
    body: Vec<u8>,
    /// With an error there is no body.
    descriptors: Result<Descriptors, ConnectError>,
    asked: Asked,
}

/// When a Hello was sent, and when its answer was there: CLOCK_MONOTONIC ns.
#[derive(Debug, Clone, Copy)]
struct Asked {
    sent: u64,
    received: u64,
}

impl Asked {
    /// How the clock of a server that granted these features differs.
    fn clock(self, features: u32, server_ns: u64) -> ClockOffset {
        if features & FEATURE_CLOCK == 0 {
            return ClockOffset::NONE;
        }
        ClockOffset::between(self.sent, self.received, server_ns)
    }
}

/// Connects, says Hello and reads the answer.
///
/// A client trusts the user that its server runs as: a hostile one can make the call sleep that
/// seals the request segment. So who it is, is checked before anything is said or taken.
fn ask(
    path: &Path,
    options: &HelloOptions,
    transport: TransportAsked,
    deadline: Option<Instant>,
) -> Result<Answer, ConnectError> {
    let hello = options.hello(transport)?;
    let mut socket = connect(path, deadline)?;
    if let Some(want) = options.server_uid {
        let have = sockopt::peer_credentials(&socket)?.uid;
        if !is_user(have, want) {
            return Err(ConnectError::WrongServerUid { want, have });
        }
    }
    if let Some(process) = &options.server_process {
        process.check(&socket)?;
    }
    kill_point!("client-connected");
    let patience = Patience::new(deadline).with(options.server_process.clone());
    let sent = now_ns();
    match patience.send(&socket, &hello.encode()) {
        // It may have answered before it hung up: a server that is full does not wait for the
        // Hello.
        Ok(()) | Err(ConnectError::ServerDied) => {}
        Err(error) => return Err(error),
    }
    kill_point!("client-hello-sent");
    let (header, descriptors) = patience.header(&socket)?;
    let asked = Asked { sent, received: now_ns() };
    let mut body = Vec::new();
    if descriptors.is_ok() {
        // No more are to come, neither with the rest of the answer nor in a session.
        if !socket.refuse_rights() {
            return Err(ConnectError::UnaskedDescriptors);
        }
        body.resize(header.length, 0);
        patience.read(&socket, &mut body)?;
    }
    kill_point!("client-answer-read");
    Ok(Answer { socket, patience, kind: header.kind, body, descriptors, asked })
}

/// What comes with a Welcome.
struct ReceivedSegments {
    request: Segment,
    response: Segment,
    status: Segment,
    bell: Option<Segment>,
    server: Option<OwnedFd>,
}

/// Checks, maps and populates what came with a Welcome.
fn adopt(
    welcome: &Welcome,
    descriptors: Descriptors,
    deadline: Option<Instant>,
) -> Result<ReceivedSegments, ConnectError> {
    let segments = SEGMENTS + usize::from(welcome.has_bell);
    let (segments, server) = descriptors.take(segments, welcome.has_pidfd)?;
    let (want, have) = (segments.len(), segments.len());
    let mut segments = segments.into_iter();
    let mut adopt = |kind, session, capacity| {
        let (fd, seals) = segments.next().ok_or(ConnectError::BadDescriptors { want, have })?;
        let label = Label { kind, generation: welcome.generation, session, capacity };
        Ok::<_, ConnectError>(Segment::adopt(fd, seals, &label, deadline)?)
    };
    Ok(ReceivedSegments {
        request: adopt(SegmentKind::Request, welcome.session, welcome.request_capacity)?,
        response: adopt(SegmentKind::Response, welcome.session, welcome.response_capacity)?,
        status: adopt(SegmentKind::Status, 0, welcome.armed_words)?,
        bell: match welcome.has_bell {
            true => Some(adopt(SegmentKind::Bell, welcome.domain.into(), 0)?),
            false => None,
        },
        server,
    })
}

fn attachment(
    lifeline: PeerSocket,
    options: &HelloOptions,
    welcome: &Welcome,
    received: ReceivedSegments,
    clock: ClockOffset,
) -> Attachment {
    let may_sample = welcome.features & FEATURE_SAMPLES != 0;
    Attachment {
        lifeline,
        server: received.server,
        request: received.request,
        response: received.response,
        status: received.status,
        bell: received.bell,
        session: welcome.session,
        generation: welcome.generation,
        domain: welcome.domain,
        request_capacity: welcome.request_capacity,
        response_capacity: welcome.response_capacity,
        max_message: welcome.max_message,
        server_pid: welcome.pid,
        ordered: welcome.features & FEATURE_ORDERED != 0,
        sample_every: if may_sample {
            options.sample_every.unwrap_or(welcome.sample_every)
        } else {
            0
        },
        clock,
    }
}

/// Whether segments could not be had for a reason that lies in this process, and not in the
/// segments: a server whose segments are not what they should be is not to be trusted with another
/// try.
fn unmapped(error: &ConnectError) -> Option<FallbackReason> {
    let errno = match error {
        ConnectError::OutOfMemory => Errno::NOMEM.raw_os_error(),
        ConnectError::OutOfDescriptors => Errno::MFILE.raw_os_error(),
        ConnectError::BadSegment(SegmentError::Io(error)) => error.raw_os_error()?,
        _ => return None,
    };
    Some(FallbackReason::MapFailed(errno))
}
