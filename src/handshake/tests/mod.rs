//! The wire, the listener, and the client against servers that do it wrong.

mod answers;
mod binding;
mod connecting;
mod fallbacks;
pub(crate) mod golden;
mod in_transit;
mod messages;
mod segments;
mod segments_received;

use super::*;
use crate::handshake::wire::{self, HEADER, Header, MessageKind};
use crate::link::segment::{Segment, SegmentError};
use crate::link::segment_pair::SegmentPair;
use crate::memory::layout::{self, Peer};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Long enough for any machine; no test waits for it to pass.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A directory of this test's own.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static NEXT: crate::base::sync::PlainU64 = crate::base::sync::PlainU64::new(0);
        let number = NEXT.fetch_add(1, crate::base::sync::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ringbell-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).expect("a directory for the test");
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs a test again in a process of its own, for what is counted per process. True in that
/// process.
///
/// `module` is the `module_path!()` of the test.
pub(crate) fn alone(module: &str, test: &str) -> bool {
    const ALONE: &str = "RINGBELL_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let (_crate, module) = module.split_once("::").expect("a module of this crate");
    let test = format!("{module}::{test}");
    let exe = std::env::current_exe().expect("the test binary");
    let run = std::process::Command::new(exe)
        .args([&test, "--exact", "--test-threads=1", "--nocapture"])
        .env(ALONE, "1")
        .output()
        .expect("the test binary runs");
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(
        run.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&run.stderr)
    );
    false
}

pub(crate) fn soon() -> Option<Instant> {
    Some(Instant::now() + PATIENCE)
}

pub(crate) fn a_hello() -> Hello {
    Hello {
        versions: wire::VERSIONS,
        role: Role::Client,
        transport: TransportAsked::Shared,
        features: 0,
        request_capacity: 0,
        response_capacity: 0,
        max_message: 0,
        name: "test".into(),
    }
}

fn a_welcome() -> Welcome {
    Welcome {
        version: wire::VERSIONS.1,
        has_pidfd: true,
        has_bell: true,
        domain: 3,
        generation: 77,
        session: 5,
        request_capacity: 4096,
        response_capacity: 8192,
        max_message: 1 << 20,
        armed_words: 64,
        pid: 1234,
        features: 0,
        sample_every: 9,
        server_ns: 11,
    }
}

pub(crate) fn a_fallback() -> Fallback {
    Fallback {
        reason: RejectReason::BytesPerUid { limit: 1000 },
        version: wire::VERSIONS.1,
        features: 0,
        generation: 77,
        session: 5,
        max_message: 1 << 20,
        pid: 1234,
        server_ns: 11,
    }
}

const REASONS: [RejectReason; 21] = [
    RejectReason::VersionUnsupported { min: 2, max: 3 },
    RejectReason::PermissionDenied,
    RejectReason::TooManyClients { limit: 64 },
    RejectReason::BytesPerClient { limit: 1 },
    RejectReason::BytesPerUid { limit: u64::MAX },
    RejectReason::TooManyHandshakes { limit: 16 },
    RejectReason::ShuttingDown,
    RejectReason::OutOfMemory,
    RejectReason::OutOfDescriptors,
    RejectReason::BadHello,
    RejectReason::BadCapacity,
    RejectReason::SharedMemoryOff,
    RejectReason::SocketOff,
    RejectReason::SocketAsked,
    RejectReason::InspectorUnsupported,
    RejectReason::ByteStreamsOnly,
    RejectReason::Unknown(0),
    RejectReason::TooManyClientsOfUid { limit: 8 },
    RejectReason::TooManyHandshakesOfUid { limit: 4 },
    RejectReason::RingBytes { limit: 1 << 20 },
    RejectReason::FileSizeLimit { limit: 0 },
];

fn split(message: &[u8]) -> (Header, &[u8]) {
    let (head, body) = message.split_first_chunk::<HEADER>().expect("a header");
    let header = Header::parse(head).expect("a valid header");
    assert_eq!(header.length, body.len());
    (header, body)
}

/// Attaches with shared memory, or not at all.
pub(crate) fn attach(
    path: &Path,
    options: &HelloOptions,
    deadline: Option<Instant>,
) -> Result<Attachment, ConnectError> {
    let options = HelloOptions { transport: TransportChoice::SharedMemory, ..options.clone() };
    match super::attach(path, &options, deadline)? {
        Attached::Shared(attachment) => Ok(attachment),
        Attached::Socket(socket) => panic!("nobody asked for {socket:?}"),
    }
}

fn try_attach(path: &Path) -> Result<Attachment, ConnectError> {
    attach(path, &HelloOptions::default(), soon())
}

/// Lets `server` answer one client, and returns what the client made of it.
fn against(server: impl FnOnce(UnixStream) + Send) -> Result<Attachment, ConnectError> {
    against_as(&HelloOptions::default(), server)
}

fn against_as(
    options: &HelloOptions,
    server: impl FnOnce(UnixStream) + Send,
) -> Result<Attachment, ConnectError> {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    let listener = UnixListener::bind(&path).expect("bound");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            stream.set_read_timeout(Some(PATIENCE)).expect("set");
            let mut hello = vec![0; a_hello().encode().len()];
            stream.read_exact(&mut hello).expect("a hello");
            let (header, body) = split(&hello);
            assert_eq!(header.kind, MessageKind::Hello);
            Hello::parse(body).expect("a valid hello");
            server(stream);
        });
        attach(&path, options, soon())
    })
}

fn send(stream: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(32))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(descriptors.is_empty() || control.push(SendAncillaryMessage::ScmRights(descriptors)));
    let sent =
        rustix::net::sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
    assert_eq!(sent, Ok(bytes.len()));
}

/// What a good server would send.
struct SentSegments {
    welcome: Welcome,
    descriptors: Vec<OwnedFd>,
}

fn good_segments() -> SentSegments {
    let me = Peer { pid: 1, uid: 2, name: [0; layout::NAME] };
    let welcome = Welcome { has_pidfd: true, ..a_welcome() };
    let status = Segment::status(welcome.generation, welcome.armed_words, &me).expect("made");
    let bell = Segment::bell(welcome.generation, welcome.domain).expect("made");
    let pair =
        SegmentPair::create(welcome.request_capacity, welcome.response_capacity).expect("made");
    let pair = pair.assign(welcome.generation, welcome.session, me, layout::Domain::new(3, false));
    let pidfd = rustix::process::pidfd_open(
        rustix::process::getpid(),
        rustix::process::PidfdFlags::empty(),
    );
    let [response, status, bell] = [pair.response.fd, status.fd, bell.fd]
        .map(|fd| std::sync::Arc::into_inner(fd).expect("not shared yet"));
    let descriptors = vec![pair.request, response, status, bell, pidfd.expect("opened")];
    SentSegments { welcome, descriptors }
}

/// Sends segments that were spoilt in some way.
fn deliver(spoil: impl FnOnce(&mut SentSegments)) -> Result<Attachment, ConnectError> {
    deliver_to(&HelloOptions::default(), spoil)
}

fn deliver_to(
    options: &HelloOptions,
    spoil: impl FnOnce(&mut SentSegments),
) -> Result<Attachment, ConnectError> {
    let mut sent = good_segments();
    spoil(&mut sent);
    against_as(options, move |mut stream| {
        let descriptors: Vec<_> = sent.descriptors.iter().map(|fd| fd.as_fd()).collect();
        send(&stream, &sent.welcome.encode(), &descriptors);
        // READY, or the end.
        let _ = stream.read(&mut [0]);
    })
}

/// A memfd with a size and seals, and the identity of a segment if there is one.
fn memfd(size: u64, seals: SealFlags, like: Option<&OwnedFd>) -> OwnedFd {
    let fd = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .expect("made");
    rustix::fs::ftruncate(&fd, size).expect("sized");
    if let Some(like) = like {
        let mut head = [0; 64];
        rustix::io::pread(like, &mut head, 0).expect("read");
        rustix::io::pwrite(&fd, &head, 0).expect("written");
    }
    rustix::fs::fcntl_add_seals(&fd, seals).expect("sealed");
    fd
}

fn size_of_fd(fd: &OwnedFd) -> u64 {
    u64::try_from(rustix::fs::fstat(fd).expect("known").st_size).expect("positive")
}
