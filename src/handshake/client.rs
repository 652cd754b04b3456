//! The client's side: blocking, with an absolute deadline.

use super::transport::FallbackReason;
use super::wire::{
    self, FEATURE_BYTES, FEATURE_ORDERED, FEATURE_SAMPLES, Fallback, Header, Hello, Malformed, MessageKind,
    RejectReason, Role, TransportAsked, Welcome,
};
use super::{BadPath, MAX_PATH};
use crate::base::kill_point::kill_point;
use crate::base::sync::AtomicU32;
use crate::link::lifeline;
use crate::link::segment::{Label, Segment, SegmentError};
use crate::memory::layout::{self, NAME, SegmentKind};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags,
    SocketAddrUnix, SocketFlags, SocketType, sockopt,
};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long to yield for an answer before sleeping: a CPU that sleeps takes 50 us to wake.
const YIELD: Duration = Duration::from_micros(150);
/// The request, response, status and bell segments.
const SEGMENTS: usize = 4;
/// Most descriptors of a Welcome: the segments and the server's pidfd.
const DESCRIPTORS: usize = SEGMENTS + 1;

/// Why there is no session.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// Nothing is at this path.
    NoSuchSocket(PathBuf),
    /// Something else than a socket is at this path.
    NotASocket(PathBuf),
    /// The socket is there, its server is not.
    NobodyListens(PathBuf),
    /// This process may not connect to the socket.
    PermissionDenied(PathBuf),
    /// No socket can have so long a path.
    PathTooLong {
        /// Length of the path in bytes.
        len: usize,
        /// Longest possible path in bytes.
        max: usize,
    },
    /// The server did not answer before the deadline.
    TimedOut,
    /// The server hung up before the session began.
    ServerDied,
    /// The other end speaks, but not this protocol.
    NotRingbell,
    /// The two have no version of the protocol in common.
    VersionMismatch {
        /// First and last version that this library speaks.
        ours: (u16, u16),
        /// First and last version that the server speaks.
        theirs: (u16, u16),
    },
    /// The server does not accept this client.
    Rejected(RejectReason),
    /// The server answers calls; byte streams are not what it takes.
    NoByteStreams,
    /// The server offers this client its socket as transport only, and the client takes nothing but shared memory
    /// ([`TransportChoice::SharedMemory`]).
    SharedMemoryRefused(RejectReason),
    /// This process may not use futexes, without which there is no shared memory as transport, and takes nothing
    /// else ([`TransportChoice::SharedMemory`]).
    FutexRefused,
    /// The server sent another number of descriptors than it announced.
    BadDescriptors {
        /// How many were announced.
        want: usize,
        /// How many came.
        have: usize,
    },
    /// A segment of the server failed its checks, or could not be mapped.
    BadSegment(SegmentError),
    /// No descriptor is left, in this process or in the system.
    OutOfDescriptors,
    /// No memory is left.
    OutOfMemory,
    /// An option that cannot be; what is wrong with it is given.
    InvalidOption(&'static str),
    /// Any other failure of the system.
    Io(std::io::Error),
}

impl std::fmt::Display for ConnectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoSuchSocket(path) => write!(f, "there is no socket at {}", path.display()),
            Self::NotASocket(path) => write!(f, "{} is not a socket", path.display()),
            Self::NobodyListens(path) => write!(f, "no server listens at {}", path.display()),
            Self::PermissionDenied(path) => write!(f, "no permission to connect to {}", path.display()),
            Self::PathTooLong { len, max } => {
                write!(f, "the path of the socket has {len} bytes, more than the {max} that are possible")
            }
            Self::TimedOut => f.write_str("the server did not answer in time"),
            Self::ServerDied => f.write_str("the server hung up during the handshake"),
            Self::NotRingbell => f.write_str("what answers at the socket is no Ringbell server"),
            Self::VersionMismatch { ours, theirs } => write!(
                f,
                "this library speaks versions {} to {} of the protocol, the server {} to {}",
                ours.0, ours.1, theirs.0, theirs.1
            ),
            Self::Rejected(reason) => write!(f, "the server rejects this client: {reason}"),
            Self::NoByteStreams => f.write_str("the server takes calls, not byte streams"),
            Self::SharedMemoryRefused(reason) => {
                write!(f, "the server offers this client no shared memory: {reason}")
            }
            Self::FutexRefused => f.write_str("this process may not use futexes, which shared memory needs"),
            Self::BadDescriptors { want, have } => {
                write!(f, "the server sent {have} descriptors, not {want}")
            }
            Self::BadSegment(error) => write!(f, "the server's memory is not what it should be: {error}"),
            Self::OutOfDescriptors => f.write_str("no descriptor is left"),
            Self::OutOfMemory => f.write_str("no memory is left"),
            Self::InvalidOption(what) => f.write_str(what),
            Self::Io(error) => write!(f, "the connection failed: {error}"),
        }
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::BadSegment(error) => Some(error),
            _ => None,
        }
    }
}

impl From<Errno> for ConnectError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::MFILE | Errno::NFILE => Self::OutOfDescriptors,
            Errno::NOMEM | Errno::NOBUFS => Self::OutOfMemory,
            Errno::PIPE | Errno::CONNRESET => Self::ServerDied,
            other => Self::Io(other.into()),
        }
    }
}

impl From<SegmentError> for ConnectError {
    fn from(error: SegmentError) -> Self {
        match error {
            SegmentError::OutOfMemory => Self::OutOfMemory,
            SegmentError::OutOfDescriptors => Self::OutOfDescriptors,
            other => Self::BadSegment(other),
        }
    }
}

impl From<Malformed> for ConnectError {
    fn from(_: Malformed) -> Self {
        Self::NotRingbell
    }
}

impl From<RejectReason> for ConnectError {
    fn from(reason: RejectReason) -> Self {
        match reason {
            RejectReason::VersionUnsupported { min, max } => {
                Self::VersionMismatch { ours: wire::VERSIONS, theirs: (min, max) }
            }
            other => Self::Rejected(other),
        }
    }
}

/// Which transport a client takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "config",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case")
)]
pub enum TransportChoice {
    /// Shared memory; if that is not to be had, here or at the server, the socket.
    #[default]
    Auto,
    /// Shared memory, or no session at all.
    SharedMemory,
    /// The socket, or no session at all.
    Socket,
}

/// What a client asks for. Zeros leave the choice to the server.
#[derive(Debug, Clone, Default)]
pub(crate) struct HelloOptions {
    /// A name for people and tools, at most [`NAME`] bytes.
    pub(crate) name: String,
    /// Wanted capacities of the rings in bytes, or 0.
    pub(crate) request_capacity: u64,
    pub(crate) response_capacity: u64,
    /// Wanted limit of one message in bytes, or 0. The server may lower it.
    pub(crate) max_message: u64,
    pub(crate) transport: TransportChoice,
    /// Whether answers are to come strictly in the order of their requests.
    pub(crate) ordered: bool,
    /// Of so many calls one is to be sampled, 0 for none; `None` leaves it to the server.
    pub(crate) sample_every: Option<u32>,
    /// Whether the session is to be a byte stream.
    pub(crate) bytes: bool,
}

impl HelloOptions {
    fn hello(&self, transport: TransportAsked) -> Result<Hello, ConnectError> {
        let capacity = |wanted| wanted == 0 || layout::is_capacity(wanted);
        if !capacity(self.request_capacity) || !capacity(self.response_capacity) {
            let what = "the capacity of a ring must be a power of two from 2 KiB to 1 GiB";
            return Err(ConnectError::InvalidOption(what));
        }
        if self.name.len() > NAME {
            return Err(ConnectError::InvalidOption("the name of a client has at most 48 bytes"));
        }
        let ordered = if self.ordered { FEATURE_ORDERED } else { 0 };
        let sampled = if self.sample_every.unwrap_or(0) == 0 { 0 } else { FEATURE_SAMPLES };
        Ok(Hello {
            versions: wire::VERSIONS,
            role: Role::Client,
            transport,
            features: ordered | sampled | if self.bytes { FEATURE_BYTES } else { 0 },
            request_capacity: self.request_capacity,
            response_capacity: self.response_capacity,
            max_message: self.max_message,
            name: self.name.clone(),
        })
    }

    /// Whether what the server chose is acceptable. It may lower what was asked for, and choose what was not.
    fn check(&self, version: u16, features: u32, max_message: u64) -> Result<(), ConnectError> {
        let (min, max) = wire::VERSIONS;
        if !(min..=max).contains(&version) {
            return Err(ConnectError::VersionMismatch { ours: wire::VERSIONS, theirs: (version, version) });
        }
        if self.bytes && features & FEATURE_BYTES == 0 {
            return Err(ConnectError::NoByteStreams);
        }
        if self.max_message != 0 && max_message > self.max_message {
            return Err(ConnectError::NotRingbell);
        }
        Ok(())
    }
}

/// A session over shared memory, as the client holds it: everything checked and mapped.
#[derive(Debug)]
pub(crate) struct Attachment {
    /// The connected socket, non-blocking.
    pub(crate) lifeline: OwnedFd,
    /// The server's pidfd, if its kernel has such.
    pub(crate) server: Option<OwnedFd>,
    /// Mapped writable.
    pub(crate) request: Segment,
    /// Mapped read-only.
    pub(crate) response: Segment,
    /// Mapped read-only.
    pub(crate) status: Segment,
    /// Mapped writable.
    pub(crate) bell: Segment,
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
}

/// A session over the socket, as the client holds it. What comes next on the socket are frames.
#[derive(Debug)]
pub(crate) struct SocketAttachment {
    /// The connected socket, non-blocking.
    pub(crate) socket: OwnedFd,
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
}

/// A session, as the client holds it.
#[derive(Debug)]
pub(crate) enum Attached {
    Shared(Attachment),
    Socket(SocketAttachment),
}

/// Connects to the server at `path` and agrees on a session. Blocks until `deadline`, for ever if there is none.
///
/// # Errors
/// See [`ConnectError`]. Nothing is left behind, here or (once it notices) at the server.
pub(crate) fn attach(
    path: &Path,
    options: &HelloOptions,
    deadline: Option<Instant>,
) -> Result<Attached, ConnectError> {
    attach_here(path, options, deadline, futex_refused())
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
    let Answer { socket, patience, kind, body, descriptors } =
        ask(path, &options.hello(TransportAsked::Shared)?, deadline)?;
    match kind {
        MessageKind::Welcome => {
            let welcome = Welcome::parse(&body)?;
            options.check(welcome.version, welcome.features, welcome.max_message)?;
            let received = match descriptors.and_then(|descriptors| adopt(&welcome, descriptors)) {
                Ok(received) => received,
                Err(error) => {
                    let Some(reason) = unmapped(&error) else { return Err(error) };
                    if options.transport == TransportChoice::Auto {
                        patience.leave(&socket)?;
                    }
                    return Ok(Tried::Unmapped(reason, error));
                }
            };
            kill_point!("client-mapped");
            patience.send(&socket, &[lifeline::READY])?;
            kill_point!("client-ready-sent");
            Ok(Tried::Attached(Attached::Shared(attachment(socket, options, &welcome, received))))
        }
        MessageKind::Fallback => {
            let fallback = Fallback::parse(&body)?;
            if options.transport == TransportChoice::SharedMemory {
                return Err(ConnectError::SharedMemoryRefused(fallback.reason));
            }
            let reason = FallbackReason::Server(fallback.reason);
            accept(socket, &patience, options, &fallback, reason).map(Tried::Attached)
        }
        MessageKind::Reject => Err(RejectReason::parse(&body)?.into()),
        MessageKind::Hello | MessageKind::Segments => Err(ConnectError::NotRingbell),
    }
}

fn attach_socket(
    path: &Path,
    options: &HelloOptions,
    deadline: Option<Instant>,
    reason: FallbackReason,
) -> Result<Attached, ConnectError> {
    let Answer { socket, patience, kind, body, .. } =
        ask(path, &options.hello(TransportAsked::Socket)?, deadline)?;
    match kind {
        MessageKind::Fallback => accept(socket, &patience, options, &Fallback::parse(&body)?, reason),
        MessageKind::Reject => Err(RejectReason::parse(&body)?.into()),
        MessageKind::Hello | MessageKind::Welcome | MessageKind::Segments => Err(ConnectError::NotRingbell),
    }
}

/// Begins a session over the socket.
fn accept(
    socket: OwnedFd,
    patience: &Patience,
    options: &HelloOptions,
    fallback: &Fallback,
    reason: FallbackReason,
) -> Result<Attached, ConnectError> {
    options.check(fallback.version, fallback.features, fallback.max_message)?;
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
    }))
}

/// What a server answered to a Hello.
struct Answer {
    socket: OwnedFd,
    patience: Patience,
    kind: MessageKind,
    body: Vec<u8>,
    /// Whether they are good matters to a Welcome only.
    descriptors: Result<Vec<OwnedFd>, ConnectError>,
}

/// Connects, says Hello and reads the answer.
fn ask(path: &Path, hello: &Hello, deadline: Option<Instant>) -> Result<Answer, ConnectError> {
    let socket = connect(path, deadline)?;
    kill_point!("client-connected");
    let patience = Patience::new(deadline);
    match patience.send(&socket, &hello.encode()) {
        // It may have answered before it hung up: a server that is full does not wait for the Hello.
        Ok(()) | Err(ConnectError::ServerDied) => {}
        Err(error) => return Err(error),
    }
    kill_point!("client-hello-sent");
    let (header, descriptors) = patience.header(&socket, DESCRIPTORS)?;
    let mut body = vec![0; header.length];
    patience.read(&socket, &mut body)?;
    kill_point!("client-answer-read");
    Ok(Answer { socket, patience, kind: header.kind, body, descriptors })
}

/// What comes with a Welcome.
struct ReceivedSegments {
    request: Segment,
    response: Segment,
    status: Segment,
    bell: Segment,
    server: Option<OwnedFd>,
}

/// Checks and maps what came with a Welcome.
fn adopt(welcome: &Welcome, descriptors: Vec<OwnedFd>) -> Result<ReceivedSegments, ConnectError> {
    let want = SEGMENTS + usize::from(welcome.has_pidfd);
    let have = descriptors.len();
    if have != want {
        return Err(ConnectError::BadDescriptors { want, have });
    }
    let mut descriptors = descriptors.into_iter();
    let mut adopt = |kind, session, capacity| {
        let fd = descriptors.next().ok_or(ConnectError::BadDescriptors { want, have })?;
        let label = Label { kind, generation: welcome.generation, session, capacity };
        Ok::<_, ConnectError>(Segment::adopt(fd, &label)?)
    };
    Ok(ReceivedSegments {
        request: adopt(SegmentKind::Request, welcome.session, welcome.request_capacity)?,
        response: adopt(SegmentKind::Response, welcome.session, welcome.response_capacity)?,
        status: adopt(SegmentKind::Status, 0, welcome.armed_words)?,
        bell: adopt(SegmentKind::Bell, welcome.domain.into(), 0)?,
        server: descriptors.next(),
    })
}

fn attachment(
    lifeline: OwnedFd,
    options: &HelloOptions,
    welcome: &Welcome,
    received: ReceivedSegments,
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
        sample_every: if may_sample { options.sample_every.unwrap_or(welcome.sample_every) } else { 0 },
    }
}

/// Whether segments could not be had for a reason that lies in this process, and not in the segments: a server
/// whose segments are not what they should be is not to be trusted with another try.
fn unmapped(error: &ConnectError) -> Option<FallbackReason> {
    let errno = match error {
        ConnectError::OutOfMemory => Errno::NOMEM.raw_os_error(),
        ConnectError::OutOfDescriptors => Errno::MFILE.raw_os_error(),
        ConnectError::BadSegment(SegmentError::Io(error)) => error.raw_os_error()?,
        _ => return None,
    };
    Some(FallbackReason::MapFailed(errno))
}

/// Whether this process may not use futexes, as in some sandboxes. Asked of the kernel once.
fn futex_refused() -> bool {
    static REFUSED: OnceLock<bool> = OnceLock::new();
    *REFUSED.get_or_init(|| {
        // Nobody waits on it. Not as a private futex: those of a session are shared.
        let word = AtomicU32::new(0);
        let woken = rustix::thread::futex::wake(word.as_futex(), rustix::thread::futex::Flags::empty(), 1);
        matches!(woken, Err(Errno::NOSYS | Errno::PERM | Errno::ACCESS))
    })
}

/// A connected, non-blocking socket.
pub(super) fn connect(path: &Path, deadline: Option<Instant>) -> Result<OwnedFd, ConnectError> {
    let address = super::address(path).map_err(|bad| match bad {
        BadPath::TooLong(len) => ConnectError::PathTooLong { len, max: MAX_PATH },
        BadPath::Invalid => ConnectError::InvalidOption("the path of the socket is empty or has a NUL byte"),
    })?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let mut result = rustix::net::connect(&socket, &address);
    if result == Err(Errno::AGAIN) {
        // The server's backlog is full.
        rustix::io::ioctl_fionbio(&socket, false)?;
        result = connect_in_turn(&socket, &address, deadline);
        rustix::io::ioctl_fionbio(&socket, true)?;
    }
    let path = || path.to_owned();
    match result {
        Ok(()) => Ok(socket),
        Err(Errno::NOENT | Errno::NOTDIR) => Err(ConnectError::NoSuchSocket(path())),
        Err(Errno::CONNREFUSED | Errno::NOTSOCK) => Err(refused(path())),
        Err(Errno::ACCESS | Errno::PERM) => Err(ConnectError::PermissionDenied(path())),
        // A datagram socket, for one.
        Err(Errno::PROTOTYPE) => Err(ConnectError::NotRingbell),
        Err(Errno::AGAIN) => Err(ConnectError::TimedOut),
        Err(other) => Err(other.into()),
    }
}

/// Waits in the kernel for room in the backlog. There, and not by asking again: nothing would tell when.
fn connect_in_turn(
    socket: &OwnedFd,
    address: &SocketAddrUnix,
    deadline: Option<Instant>,
) -> Result<(), Errno> {
    loop {
        let left = match deadline {
            None => None,
            Some(deadline) => match deadline.saturating_duration_since(Instant::now()) {
                Duration::ZERO => return Err(Errno::AGAIN),
                // A kernel timeout below its resolution would mean none at all.
                left => Some(left.max(Duration::from_millis(1))),
            },
        };
        sockopt::set_socket_timeout(socket, sockopt::Timeout::Send, left)?;
        match rustix::net::connect(socket, address) {
            Err(Errno::INTR | Errno::AGAIN) => {}
            other => return other,
        }
    }
}

/// Why the kernel says that nobody listens, which it says of a file that is no socket, too.
fn refused(path: PathBuf) -> ConnectError {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::metadata(&path) {
        Ok(meta) if !meta.file_type().is_socket() => ConnectError::NotASocket(path),
        // A new server has removed what an old one had left.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => ConnectError::NoSuchSocket(path),
        _ => ConnectError::NobodyListens(path),
    }
}

/// How long to wait, and how.
#[derive(Debug)]
pub(super) struct Patience {
    deadline: Option<Instant>,
    yield_until: Instant,
}

impl Patience {
    pub(super) fn new(deadline: Option<Instant>) -> Self {
        Self { deadline, yield_until: Instant::now() + YIELD }
    }

    /// Waits until the socket may be ready.
    fn wait(&self, socket: &OwnedFd, events: PollFlags) -> Result<(), ConnectError> {
        let now = Instant::now();
        if now < self.yield_until && self.deadline.is_none_or(|deadline| now < deadline) {
            rustix::thread::sched_yield();
            return Ok(());
        }
        let timeout = match self.deadline {
            None => None,
            Some(deadline) => match deadline.saturating_duration_since(now) {
                Duration::ZERO => return Err(ConnectError::TimedOut),
                left => Timespec::try_from(left).ok(),
            },
        };
        match rustix::event::poll(&mut [PollFd::new(socket, events)], timeout.as_ref()) {
            // Timed out, or not: the caller tries again, and comes back here.
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    pub(super) fn send(&self, socket: &OwnedFd, mut bytes: &[u8]) -> Result<(), ConnectError> {
        while !bytes.is_empty() {
            match rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(socket, PollFlags::OUT)?,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    pub(super) fn read(&self, socket: &OwnedFd, bytes: &mut [u8]) -> Result<(), ConnectError> {
        let mut have = 0;
        while have < bytes.len() {
            match rustix::net::recv(socket, &mut bytes[have..], RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return Err(ConnectError::ServerDied),
                Ok((_, count)) => have += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(socket, PollFlags::IN)?,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Gives a session up before it began, and waits until the server has given up what it holds for it: the next
    /// one may need its place.
    fn leave(&self, socket: &OwnedFd) -> Result<(), ConnectError> {
        match rustix::net::shutdown(socket, rustix::net::Shutdown::Write) {
            Ok(()) | Err(Errno::NOTCONN) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut byte = [0];
        loop {
            match rustix::net::recv(socket, &mut byte, RecvFlags::DONTWAIT) {
                // The end, or a farewell before it.
                Ok(_) | Err(Errno::CONNRESET) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(socket, PollFlags::IN)?,
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Reads the header of the answer, and at most `most` descriptors on its first byte. Whether these are good matters to
    /// a Welcome only, so their error is handed on beside the header.
    #[allow(clippy::type_complexity, reason = "a header and a result of descriptors")]
    pub(super) fn header(
        &self,
        socket: &OwnedFd,
        most: usize,
    ) -> Result<(Header, Result<Vec<OwnedFd>, ConnectError>), ConnectError> {
        let mut bytes = [0; wire::HEADER];
        let (have, descriptors) = loop {
            match first_bytes(socket, &mut bytes, most) {
                Ok((0, _)) => return Err(ConnectError::ServerDied),
                Ok(first) => break first,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(socket, PollFlags::IN)?,
                Err(errno) => return Err(errno.into()),
            }
        };
        self.read(socket, &mut bytes[have..])?;
        Ok((Header::parse(&bytes)?, descriptors))
    }
}

/// One receive with room for descriptors. More than there is room for is cut off by the kernel and reported.
fn first_bytes(
    socket: &OwnedFd,
    bytes: &mut [u8],
    most: usize,
) -> Result<(usize, Result<Vec<OwnedFd>, ConnectError>), Errno> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(most))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut control, flags)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    let have = descriptors.len();
    let descriptors = if !received.flags.contains(ReturnFlags::CTRUNC) {
        Ok(descriptors)
    } else if have < most {
        // There was room: what was missing is descriptors in this process.
        Err(ConnectError::OutOfDescriptors)
    } else {
        Err(ConnectError::BadDescriptors { want: most, have: have + 1 })
    };
    Ok((received.bytes, descriptors))
}
