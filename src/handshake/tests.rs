//! The wire, the listener, and the client against servers that do it wrong.

use super::client::{attach_here, connect};
use super::wire::{self, HEADER, Header, Kind, Malformed};
use super::*;
use crate::layout::{self, Peer, SegmentKind};
use crate::segment::{Label, Segment, SegmentError, SegmentPair};
use crate::sync::Ordering;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Long enough for any machine; no test waits for it to pass.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A directory of this test's own.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static NEXT: crate::sync::PlainU64 = crate::sync::PlainU64::new(0);
        let number = NEXT.fetch_add(1, crate::sync::Ordering::Relaxed);
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

/// Runs a test again in a process of its own, for what is counted per process. True in that process.
pub(crate) fn alone(test: &str) -> bool {
    const ALONE: &str = "RINGBELL_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let exe = std::env::current_exe().expect("the test binary");
    let run = std::process::Command::new(exe)
        .args([test, "--exact", "--test-threads=1", "--nocapture"])
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
        transport: Transport::Shared,
        features: 0,
        request_capacity: 0,
        response_capacity: 0,
        max_message: 0,
        name: "test".into(),
    }
}

fn a_welcome() -> Welcome {
    Welcome {
        version: 1,
        has_pidfd: true,
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
    }
}

pub(crate) fn a_fallback() -> Fallback {
    Fallback {
        reason: RejectReason::BytesPerUid { limit: 1000 },
        version: 1,
        features: 0,
        generation: 77,
        session: 5,
        max_message: 1 << 20,
        pid: 1234,
    }
}

const REASONS: [RejectReason; 16] = [
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
    RejectReason::Unknown(0),
];

fn split(message: &[u8]) -> (Header, &[u8]) {
    let (head, body) = message.split_first_chunk::<HEADER>().expect("a header");
    let header = Header::parse(head).expect("a valid header");
    assert_eq!(header.length, body.len());
    (header, body)
}

#[test]
fn messages_survive_the_wire() {
    let hello =
        Hello { features: 9, request_capacity: 4096, max_message: 7, name: "ä".repeat(24), ..a_hello() };
    let bytes = hello.encode();
    let (header, body) = split(&bytes);
    assert_eq!((header.kind, Hello::parse(body)), (Kind::Hello, Ok(hello)));

    let bytes = a_welcome().encode();
    let (header, body) = split(&bytes);
    assert_eq!((header.kind, Welcome::parse(body)), (Kind::Welcome, Ok(a_welcome())));

    let mut numbers = Vec::new();
    for reason in REASONS {
        let reject = reason.encode_reject();
        assert_eq!(
            (split(&reject).0.kind, RejectReason::parse(split(&reject).1)),
            (Kind::Reject, Ok(reason))
        );
        let fallback = Fallback { reason, features: 9, ..a_fallback() };
        let bytes = fallback.encode();
        let (header, body) = split(&bytes);
        assert_eq!((header.kind, Fallback::parse(body)), (Kind::Fallback, Ok(fallback)));
        assert_eq!(body[..24], *split(&reject).1, "begins as a reject");
        assert!(!reason.to_string().is_empty() && (reason.number() as usize) < RejectReason::COUNT);
        numbers.push(reason.number());
    }
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), RejectReason::COUNT, "every number once");
}

#[test]
fn a_longer_body_of_a_later_version_is_understood() {
    let mut bytes = a_hello().encode();
    bytes.extend([7; 100]);
    assert_eq!(Hello::parse(&bytes[HEADER..]), Ok(a_hello()));
}

#[test]
fn a_long_name_is_cut_at_a_character() {
    let hello = Hello { name: format!("x{}", "ä".repeat(24)), ..a_hello() };
    let parsed = Hello::parse(&hello.encode()[HEADER..]).expect("valid");
    assert_eq!(parsed.name, format!("x{}", "ä".repeat(23)));
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_a_parser_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        if let Some(head) = bytes.first_chunk() {
            let _ = Header::parse(head);
        }
        let _ = Hello::parse(&bytes);
        let _ = Welcome::parse(&bytes);
        let _ = RejectReason::parse(&bytes);
        let _ = Fallback::parse(&bytes);
    }

    #[test]
    fn no_change_of_a_valid_message_makes_a_parser_panic(at in 0usize..88, value in proptest::num::u8::ANY) {
        for mut body in [a_hello().encode(), a_welcome().encode(), a_fallback().encode()] {
            body.drain(..HEADER);
            if let Some(byte) = body.get_mut(at) {
                *byte = value;
            }
            if let Ok(hello) = Hello::parse(&body) {
                assert!(hello.name.len() <= layout::NAME);
            }
            if let Ok(welcome) = Welcome::parse(&body) {
                assert!(u64::from(welcome.domain) < welcome.armed_words);
                assert!(layout::is_capacity(welcome.request_capacity));
            }
            if let Ok(fallback) = Fallback::parse(&body) {
                assert!(fallback.session != 0 && fallback.max_message != 0);
            }
        }
    }
}

#[test]
fn lifeline_bytes_are_what_they_say() {
    use lifeline::Farewell;
    for farewell in [
        Farewell::ShutDown,
        Farewell::PeerFault,
        Farewell::SlowClient,
        Farewell::Exhausted,
        Farewell::TooLate,
    ] {
        assert_eq!(Farewell::from_byte(farewell as u8), Some(farewell));
    }
    for byte in [lifeline::READY, lifeline::WAKE, lifeline::GOODBYE, 0xff] {
        assert_eq!(Farewell::from_byte(byte), None);
    }
}

// The listener.

fn bind(path: &Path) -> Result<Listener, BindError> {
    listen(path, &ListenOptions::default())
}

#[test]
fn a_socket_is_made_and_removed_with_its_directory_private() {
    let scratch = Scratch::new();
    let path = scratch.path("run/s");
    let listener = bind(&path).expect("bound");
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&scratch.path("run"))), (0o600, 0o700));
    UnixStream::connect(&path).expect("it listens");
    assert!(!scratch.path("run/s.lock").exists());
    drop(listener);
    assert!(!path.exists() && !scratch.path("run/s.lock").exists());
}

#[test]
fn the_mode_of_the_socket_is_configurable() {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    let _listener = listen(&path, &ListenOptions { mode: 0o666, ..ListenOptions::default() }).expect("bound");
    assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o666);
}

#[test]
fn a_live_server_is_not_replaced() {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    let _first = bind(&path).expect("bound");
    assert!(matches!(bind(&path), Err(BindError::AlreadyListening(at)) if at == path));
    UnixStream::connect(&path).expect("the first still listens");

    let other = scratch.path("datagram");
    let _datagram = UnixDatagram::bind(&other).expect("bound");
    assert!(matches!(bind(&other), Err(BindError::AlreadyListening(_))), "a socket of another type");

    let full = scratch.path("full");
    let _full = listen(&full, &ListenOptions { backlog: 0, ..ListenOptions::default() }).expect("bound");
    let _waiting = UnixStream::connect(&full).expect("the only place");
    assert!(matches!(bind(&full), Err(BindError::AlreadyListening(_))), "a full backlog");
}

#[test]
fn a_stale_socket_is_replaced() {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    drop(UnixListener::bind(&path).expect("bound"));
    assert!(path.exists(), "nobody removed it");
    let _listener = bind(&path).expect("replaced");
    UnixStream::connect(&path).expect("it listens");
}

#[test]
fn of_many_that_bind_one_wins() {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    drop(UnixListener::bind(&path).expect("a stale one"));
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| bind(&path))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
    assert!(results.iter().all(|result| matches!(result, Ok(_) | Err(BindError::AlreadyListening(_)))));
    UnixStream::connect(&path).expect("the winner listens");
}

#[test]
fn a_listener_leaves_the_socket_of_its_successor() {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    let first = bind(&path).expect("bound");
    std::fs::remove_file(&path).expect("somebody cleans up");
    let second = bind(&path).expect("bound anew");
    let inode = std::fs::metadata(&path).expect("there").ino();
    drop(first);
    assert_eq!(std::fs::metadata(&path).expect("still there").ino(), inode);
    drop(second);
    assert!(!path.exists());
}

#[test]
fn paths_that_cannot_be_bound() {
    let scratch = Scratch::new();
    let file = scratch.path("file");
    std::fs::write(&file, "precious").expect("written");
    assert!(matches!(bind(&file), Err(BindError::PathIsNotASocket(at)) if at == file));
    assert_eq!(std::fs::read(&file).expect("still there"), b"precious");
    let directory = scratch.path("directory");
    std::fs::create_dir(&directory).expect("made");
    assert!(matches!(bind(&directory), Err(BindError::PathIsNotASocket(_))));
    let link = scratch.path("link");
    std::os::unix::fs::symlink("nowhere", &link).expect("made");
    assert!(matches!(bind(&link), Err(BindError::PathIsNotASocket(_))));
    assert!(matches!(bind(&scratch.path("a/b/s")), Err(BindError::ParentMissing(_))));
    assert!(!scratch.path("a").exists(), "only the last directory is made");
    assert!(matches!(bind(&file.join("s")), Err(BindError::ParentMissing(_))));
    assert!(matches!(bind(Path::new("")), Err(BindError::InvalidPath)));
    assert!(matches!(bind(Path::new("/tmp/a\0b")), Err(BindError::InvalidPath)));
    let long = PathBuf::from(format!("/{}", "x".repeat(107)));
    assert!(matches!(bind(&long), Err(BindError::PathTooLong { len: 108, max: 107 })));
    let longest = "x".repeat(107 - scratch.path("").as_os_str().len());
    bind(&scratch.path(&longest)).expect("the longest that can be");
}

#[test]
fn an_inherited_socket_is_checked() {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    let good = UnixListener::bind(&path).expect("bound");
    let listener = Listener::inherited(good.into()).expect("accepted");
    drop(listener);
    assert!(path.exists(), "its path belongs to the service manager");

    let (connected, _other) = UnixStream::pair().expect("made");
    assert!(matches!(Listener::inherited(connected.into()), Err(BindError::NotAListener)));
    let datagram = UnixDatagram::unbound().expect("made");
    assert!(matches!(Listener::inherited(datagram.into()), Err(BindError::NotAListener)));
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    assert!(matches!(Listener::inherited(tcp.into()), Err(BindError::NotAListener)));
    let file = std::fs::File::open("/dev/null").expect("there");
    assert!(matches!(Listener::inherited(file.into()), Err(BindError::NotAListener)));
    assert!(matches!(listen_fds(), Ok(None)), "no service manager started the tests");
}

// The client, by itself.

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

#[test]
fn a_stale_socket_that_vanishes_meanwhile() {
    let scratch = Scratch::new();
    let stale = scratch.path("stale");
    let stop = crate::sync::PlainBool::new(false);
    /// However the test ends, so that the other thread does too.
    struct Stopper<'a>(&'a crate::sync::PlainBool);
    impl Drop for Stopper<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        let replacing = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                drop(UnixListener::bind(&stale).expect("bound"));
                std::fs::remove_file(&stale).expect("removed");
            }
        });
        let _stopper = Stopper(&stop);
        let (mut left, mut gone) = (0, 0);
        while left < 10_000 || gone < 10_000 {
            match connect(&stale, soon()).map(drop) {
                // A moment in which it is listened at.
                Ok(()) => {}
                Err(ConnectError::NobodyListens(_)) => left += 1,
                Err(ConnectError::NoSuchSocket(_)) => gone += 1,
                Err(other) => panic!("{other:?}"),
            }
            assert!(!replacing.is_finished(), "it is replaced again and again");
        }
    });
}

#[test]
fn paths_that_cannot_be_connected_to() {
    let scratch = Scratch::new();
    let missing = scratch.path("missing");
    assert!(matches!(try_attach(&missing), Err(ConnectError::NoSuchSocket(at)) if at == missing));
    assert!(matches!(try_attach(&scratch.path("a/b")), Err(ConnectError::NoSuchSocket(_))));
    let file = scratch.path("file");
    std::fs::write(&file, "").expect("written");
    assert!(matches!(try_attach(&file), Err(ConnectError::NotASocket(at)) if at == file));
    assert!(matches!(try_attach(&scratch.path("")), Err(ConnectError::NotASocket(_))), "a directory");
    let stale = scratch.path("stale");
    drop(UnixListener::bind(&stale).expect("bound"));
    assert!(matches!(try_attach(&stale), Err(ConnectError::NobodyListens(_))));
    let datagram = scratch.path("datagram");
    let _datagram = UnixDatagram::bind(&datagram).expect("bound");
    assert!(matches!(try_attach(&datagram), Err(ConnectError::NotRingbell)));
    let long = PathBuf::from(format!("/{}", "x".repeat(200)));
    assert!(matches!(try_attach(&long), Err(ConnectError::PathTooLong { len: 201, max: 107 })));
    assert!(matches!(try_attach(Path::new("")), Err(ConnectError::InvalidOption(_))));
}

#[test]
fn options_that_cannot_be() {
    let try_options = |options| attach(Path::new("/nonexistent"), &options, soon());
    for capacity in [1, 3, 2048 + 1, 1 << 31, 1 << 63] {
        let options = HelloOptions { request_capacity: capacity, ..HelloOptions::default() };
        assert!(matches!(try_options(options), Err(ConnectError::InvalidOption(_))));
        let options = HelloOptions { response_capacity: capacity, ..HelloOptions::default() };
        assert!(matches!(try_options(options), Err(ConnectError::InvalidOption(_))));
    }
    let options = HelloOptions { name: "x".repeat(49), ..HelloOptions::default() };
    assert!(matches!(try_options(options), Err(ConnectError::InvalidOption(_))));
}

#[test]
fn a_server_that_never_accepts_or_never_answers_is_left_at_the_deadline() {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    let listener = listen(&path, &ListenOptions { backlog: 0, ..ListenOptions::default() }).expect("bound");
    let briefly = || Some(Instant::now() + Duration::from_millis(30));
    let silent = attach(&path, &HelloOptions::default(), briefly());
    assert!(matches!(silent, Err(ConnectError::TimedOut)), "{silent:?}");
    let full = attach(&path, &HelloOptions::default(), briefly());
    assert!(matches!(full, Err(ConnectError::TimedOut)), "{full:?}");
    let past = attach(&path, &HelloOptions::default(), Some(Instant::now()));
    assert!(matches!(past, Err(ConnectError::TimedOut)), "{past:?}");
    drop(listener);
}

#[test]
fn a_client_gets_its_turn_when_the_backlog_is_full() {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    let bound = listen(&path, &ListenOptions { backlog: 0, ..ListenOptions::default() }).expect("bound");
    let listener = UnixListener::from(bound.socket.try_clone().expect("duplicated"));
    let _first = UnixStream::connect(&path).expect("the only place");
    std::thread::scope(|scope| {
        let client = scope.spawn(|| try_attach(&path));
        // Whether it waits already or not: accepting the first makes room for it.
        listener.set_nonblocking(false).expect("set");
        drop(listener.accept().expect("the first"));
        drop(listener.accept().expect("the client"));
        assert!(matches!(client.join().expect("no panic"), Err(ConnectError::ServerDied)));
    });
}

// The client, against servers that do it wrong.

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
            assert_eq!(header.kind, Kind::Hello);
            Hello::parse(body).expect("a valid hello");
            server(stream);
        });
        attach(&path, options, soon())
    })
}

fn answer(bytes: Vec<u8>) -> Result<Attachment, ConnectError> {
    against(move |mut stream| {
        // The client may be gone before it has all.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read(&mut [0]);
    })
}

fn send(stream: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(32))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(descriptors.is_empty() || control.push(SendAncillaryMessage::ScmRights(descriptors)));
    let sent = rustix::net::sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
    assert_eq!(sent, Ok(bytes.len()));
}

#[test]
fn a_server_that_hangs_up() {
    assert!(matches!(against(drop), Err(ConnectError::ServerDied)));
    assert!(matches!(answer(vec![]), Err(ConnectError::ServerDied)));
    let reject = RejectReason::BadHello.encode_reject();
    assert!(matches!(answer(reject[..5].to_vec()), Err(ConnectError::ServerDied)));
    assert!(matches!(answer(reject[..HEADER + 3].to_vec()), Err(ConnectError::ServerDied)));
}

#[test]
fn a_server_that_talks_nonsense() {
    let garbage = |bytes: Vec<u8>| assert!(matches!(answer(bytes), Err(ConnectError::NotRingbell)));
    garbage(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec());
    garbage(vec![0; 64]);
    garbage(vec![0xff; 64 * 1024]);
    garbage(a_hello().encode());
    let change = |at: usize, byte: u8| {
        let mut bytes = RejectReason::BadHello.encode_reject();
        bytes[at] = byte;
        bytes
    };
    garbage(change(10, 0xff)); // a huge length
    garbage(change(12, 9)); // an unknown kind
    garbage(change(14, 9)); // another version of the page
    let mut short = RejectReason::BadHello.encode_reject();
    short[8] = 4;
    garbage(short[..HEADER + 4].to_vec());
}

#[test]
fn every_reason_reaches_the_client() {
    for reason in REASONS {
        let result = answer(reason.encode_reject());
        match reason {
            RejectReason::VersionUnsupported { .. } => {
                assert!(matches!(
                    result,
                    Err(ConnectError::VersionMismatch { ours: wire::VERSIONS, theirs: (2, 3) })
                ));
            }
            _ => assert!(matches!(result, Err(ConnectError::Rejected(got)) if got == reason)),
        }
        let result = answer(Fallback { reason, ..a_fallback() }.encode());
        assert!(matches!(result, Err(ConnectError::SharedMemoryRefused(got)) if got == reason));
    }
}

#[test]
fn an_answer_byte_by_byte_is_an_answer() {
    let result = against(|mut stream| {
        for byte in RejectReason::ShuttingDown.encode_reject() {
            stream.write_all(&[byte]).expect("written");
            std::thread::yield_now();
        }
    });
    assert!(matches!(result, Err(ConnectError::Rejected(RejectReason::ShuttingDown))));
}

#[test]
fn a_rejection_before_the_hello_was_read_is_understood() {
    // A full server answers and closes at once: the Hello then hits a closed socket, or is thrown away unread.
    let scratch = Scratch::new();
    let path = scratch.path("s");
    let listener = UnixListener::bind(&path).expect("bound");
    std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            for _ in 0..200 {
                let (stream, _) = listener.accept().expect("a client");
                reject(&stream.into(), RejectReason::ShuttingDown);
            }
        });
        for _ in 0..200 {
            let result = try_attach(&path);
            assert!(matches!(result, Err(ConnectError::Rejected(RejectReason::ShuttingDown))), "{result:?}");
        }
        server.join().expect("no panic");
    });
}

/// What a good server would send.
struct Goods {
    welcome: Welcome,
    descriptors: Vec<OwnedFd>,
}

fn goods() -> Goods {
    let me = Peer { pid: 1, uid: 2, name: [0; layout::NAME] };
    let welcome = Welcome { has_pidfd: true, ..a_welcome() };
    let status = Segment::status(welcome.generation, welcome.armed_words, &me).expect("made");
    let bell = Segment::bell(welcome.generation, welcome.domain).expect("made");
    let pair = SegmentPair::create(welcome.request_capacity, welcome.response_capacity).expect("made");
    let (request, response) = pair.assign(welcome.generation, welcome.session, &me).expect("labelled");
    let pidfd = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty());
    let [response, status, bell] = [response, status, bell]
        .map(|segment| std::sync::Arc::into_inner(segment.fd).expect("not shared yet"));
    let descriptors = vec![request.fd, response, status, bell, pidfd.expect("opened")];
    Goods { welcome, descriptors }
}

/// Sends goods that were spoilt in some way.
fn deliver(spoil: impl FnOnce(&mut Goods)) -> Result<Attachment, ConnectError> {
    deliver_to(&HelloOptions::default(), spoil)
}

fn deliver_to(options: &HelloOptions, spoil: impl FnOnce(&mut Goods)) -> Result<Attachment, ConnectError> {
    let mut goods = goods();
    spoil(&mut goods);
    against_as(options, move |mut stream| {
        let descriptors: Vec<_> = goods.descriptors.iter().map(|fd| fd.as_fd()).collect();
        send(&stream, &goods.welcome.encode(), &descriptors);
        // READY, or the end.
        let _ = stream.read(&mut [0]);
    })
}

#[test]
fn good_goods_are_accepted() {
    let attachment = deliver(|_| {}).expect("accepted");
    assert_eq!((attachment.session, attachment.generation, attachment.domain), (5, 77, 3));
    assert_eq!((attachment.request_capacity, attachment.response_capacity), (4096, 8192));
    assert!(attachment.server.is_some());
    attachment.request.window.own_word(layout::offset::TAIL);
    attachment.bell.window.own_word(layout::offset::SEQ);
    let without = deliver(|goods| {
        goods.welcome.has_pidfd = false;
        goods.descriptors.pop();
    });
    assert!(without.expect("accepted").server.is_none());
}

#[test]
fn a_wrong_number_of_descriptors_is_refused() {
    for keep in 0..5 {
        let result = deliver(|goods| goods.descriptors.truncate(keep));
        assert!(matches!(result, Err(ConnectError::BadDescriptors { want: 5, have }) if have == keep));
    }
    for extra in [1, 2, 20] {
        let result = deliver(|goods| {
            for _ in 0..extra {
                let more = goods.descriptors[0].try_clone().expect("duplicated");
                goods.descriptors.push(more);
            }
        });
        assert!(matches!(result, Err(ConnectError::BadDescriptors { want: 5, .. })), "{extra}: {result:?}");
    }
    let unannounced = deliver(|goods| goods.welcome.has_pidfd = false);
    assert!(matches!(unannounced, Err(ConnectError::BadDescriptors { want: 4, have: 5 })));
    let late = against(|mut stream| {
        let goods = goods();
        let bytes = goods.welcome.encode();
        let descriptors: Vec<_> = goods.descriptors.iter().map(|fd| fd.as_fd()).collect();
        send(&stream, &bytes[..HEADER], &[]);
        send(&stream, &bytes[HEADER..], &descriptors);
        let _ = stream.read(&mut [0]);
    });
    assert!(matches!(late, Err(ConnectError::BadDescriptors { want: 5, have: 0 })), "not on the first byte");
}

/// A memfd with a size and seals, and the identity of a segment if there is one.
fn memfd(size: u64, seals: SealFlags, like: Option<&OwnedFd>) -> OwnedFd {
    let fd = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("made");
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

#[test]
fn wrong_seals_are_refused() {
    use SealFlags as S;
    let sized = S::SHRINK | S::GROW;
    let all = sized | S::FUTURE_WRITE | S::SEAL;
    let wrong = [
        (0, vec![S::empty(), S::SHRINK, S::GROW, all, sized | S::WRITE, sized | S::FUTURE_WRITE]),
        (1, vec![S::empty(), sized, sized | S::SEAL, all - S::SHRINK, all - S::GROW, all - S::SEAL]),
        (2, vec![S::empty(), sized, sized | S::SEAL, all - S::SHRINK, all - S::GROW, all - S::FUTURE_WRITE]),
        (3, vec![S::empty(), sized, S::SHRINK | S::SEAL, S::GROW | S::SEAL, all]),
    ];
    for (index, seals) in wrong {
        for seals in seals {
            let result = deliver(|goods| {
                let real = &goods.descriptors[index];
                goods.descriptors[index] = memfd(size_of_fd(real), seals, Some(real));
            });
            assert!(
                matches!(&result, Err(ConnectError::BadSegment(SegmentError::Seals { have, .. }))
                    if *have & !0x20 == seals.bits()),
                "{index} {seals:?}: {result:?}"
            );
        }
    }
}

#[test]
fn a_wrong_size_is_refused() {
    use SealFlags as S;
    let sized = S::SHRINK | S::GROW;
    let seals =
        [sized, sized | S::FUTURE_WRITE | S::SEAL, sized | S::FUTURE_WRITE | S::SEAL, sized | S::SEAL];
    for (index, seals) in seals.into_iter().enumerate() {
        for change in [-4096, -1, 1, 4096] {
            let result = deliver(|goods| {
                let real = &goods.descriptors[index];
                let size = size_of_fd(real).saturating_add_signed(change);
                goods.descriptors[index] = memfd(size, seals, (size >= 64).then_some(real));
            });
            assert!(
                matches!(&result, Err(ConnectError::BadSegment(SegmentError::Size { want, have }))
                    if want.saturating_add_signed(change) == *have),
                "{index} {change}: {result:?}"
            );
        }
    }
}

#[test]
fn what_is_no_memory_is_refused() {
    let open = |path: &str| OwnedFd::from(std::fs::File::open(path).expect("there"));
    for index in 0..4 {
        let exe = std::env::current_exe().expect("there");
        let files = [open("/dev/null"), open("/"), open(exe.to_str().expect("utf-8")), {
            let (socket, _) = UnixStream::pair().expect("made");
            socket.into()
        }];
        for file in files {
            let result = deliver(|goods| goods.descriptors[index] = file);
            assert!(
                matches!(
                    result,
                    Err(ConnectError::BadSegment(SegmentError::NotMemory | SegmentError::Seals { .. }))
                ),
                "{result:?}"
            );
        }
    }
}

#[test]
fn a_segment_that_is_another_one_is_refused() {
    let identity = |result: Result<Attachment, ConnectError>| match result {
        Err(ConnectError::BadSegment(SegmentError::Identity(field))) => field,
        other => panic!("{other:?}"),
    };
    let swapped = |a: usize, b: usize| deliver(move |goods| goods.descriptors.swap(a, b));
    assert!(matches!(swapped(0, 1), Err(ConnectError::BadSegment(SegmentError::Seals { .. }))));
    assert!(matches!(swapped(1, 2), Err(ConnectError::BadSegment(SegmentError::Size { .. }))));
    assert_eq!(identity(deliver(|goods| goods.welcome.generation += 1)), "generation");
    assert_eq!(identity(deliver(|goods| goods.welcome.session += 1)), "session");
    assert_eq!(identity(deliver(|goods| goods.welcome.domain += 1)), "session");
    // Same size in pages, another number of words.
    assert_eq!(identity(deliver(|goods| goods.welcome.armed_words -= 1)), "capacity");
    let seals = SealFlags::SHRINK | SealFlags::GROW;
    let blank = deliver(|goods| {
        goods.descriptors[0] = memfd(size_of_fd(&goods.descriptors[0]), seals, None);
    });
    assert_eq!(identity(blank), "magic");
    let write = |at: u64, byte: u8| {
        identity(deliver(move |goods| {
            rustix::io::pwrite(&goods.descriptors[0], &[byte], at).expect("written");
        }))
    };
    assert_eq!(write(0, 0), "magic");
    assert_eq!(write(8, 99), "layout version");
    assert_eq!(write(12, 99), "kind");
    assert_eq!(write(40, 99), "size");
}

#[test]
fn a_welcome_that_cannot_be_is_refused() {
    let mangle = |change: fn(&mut Welcome)| {
        let mut welcome = a_welcome();
        change(&mut welcome);
        assert_eq!(Welcome::parse(&welcome.encode()[HEADER..]), Err(Malformed::Content));
    };
    mangle(|welcome| welcome.request_capacity = 3);
    mangle(|welcome| welcome.response_capacity = 1 << 40);
    mangle(|welcome| welcome.domain = 64);
    mangle(|welcome| welcome.armed_words = 1 << 20);
    mangle(|welcome| welcome.armed_words = 0);
    mangle(|welcome| welcome.generation = 0);
    mangle(|welcome| welcome.session = 0);
    mangle(|welcome| welcome.max_message = 0);
    let later = deliver(|goods| goods.welcome.version = 2);
    assert!(matches!(later, Err(ConnectError::VersionMismatch { theirs: (2, 2), .. })));
}

// The client, on its way to the socket.

type Server = Box<dyn FnOnce(UnixStream, Hello) + Send>;

/// Lets `servers` answer one connection each, and returns what the client made of it. Every one of them must be
/// needed, and none is there beyond them.
fn against_each(
    options: &HelloOptions,
    futex_refused: bool,
    servers: Vec<Server>,
) -> Result<Attached, ConnectError> {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    let listener = UnixListener::bind(&path).expect("bound");
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            for server in servers {
                let (mut stream, _) = listener.accept().expect("a client");
                stream.set_read_timeout(Some(PATIENCE)).expect("set");
                let mut hello = vec![0; a_hello().encode().len()];
                stream.read_exact(&mut hello).expect("a hello");
                server(stream, Hello::parse(split(&hello).1).expect("a valid hello"));
            }
        });
        let result = attach_here(&path, options, soon(), futex_refused);
        thread.join().expect("the servers are content");
        result
    })
}

fn choosing(transport: TransportChoice) -> HelloOptions {
    HelloOptions { transport, ..HelloOptions::default() }
}

/// Answers with a fallback if asked for this transport, and waits until the client is ready.
fn falls_back(asked: Transport, fallback: Fallback) -> Server {
    Box::new(move |mut stream, hello| {
        assert_eq!(hello.transport, asked);
        stream.write_all(&fallback.encode()).expect("written");
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("the client goes on");
        assert_eq!(byte, [lifeline::READY]);
        // The first frame follows at once.
        stream.write_all(b"frame").expect("written");
    })
}

fn by_socket(result: Result<Attached, ConnectError>) -> SocketAttachment {
    match result.expect("attached") {
        Attached::Socket(attachment) => attachment,
        Attached::Shared(_) => panic!("shared memory"),
    }
}

#[test]
fn the_socket_is_used_where_the_server_offers_no_shared_memory() {
    for reason in REASONS {
        let server = falls_back(Transport::Shared, Fallback { reason, ..a_fallback() });
        let got = by_socket(against_each(&HelloOptions::default(), false, vec![server]));
        assert_eq!(got.reason, FallbackReason::Server(reason));
        assert_eq!((got.session, got.generation, got.max_message, got.server_pid), (5, 77, 1 << 20, 1234));
        assert!(!got.ordered && !got.reason.to_string().is_empty());
        let mut bytes = [0; 5];
        assert_eq!(rustix::io::read(&got.socket, &mut bytes), Ok(5));
        assert_eq!(&bytes, b"frame", "nothing of it was read before");
        assert_eq!(rustix::io::read(&got.socket, &mut bytes), Ok(0));
    }
}

#[test]
fn the_socket_is_used_where_it_is_asked_for() {
    let asked = Fallback { reason: RejectReason::SocketAsked, ..a_fallback() };
    let server = || vec![falls_back(Transport::Socket, asked)];
    let options = choosing(TransportChoice::Socket);
    assert_eq!(by_socket(against_each(&options, false, server())).reason, FallbackReason::Asked);
    assert_eq!(by_socket(against_each(&options, true, server())).reason, FallbackReason::Asked);
    let without_futexes = against_each(&HelloOptions::default(), true, server());
    assert_eq!(by_socket(without_futexes).reason, FallbackReason::FutexRefused);
    let shared_only = against_each(&choosing(TransportChoice::SharedMemory), true, vec![]);
    assert!(matches!(shared_only, Err(ConnectError::FutexRefused)));
}

#[test]
fn the_order_of_answers_is_asked_for_and_granted() {
    for (ordered, granted) in [(false, 0), (true, 0), (true, FEATURE_ORDERED), (true, u32::MAX)] {
        for transport in [TransportChoice::Auto, TransportChoice::Socket] {
            let options = HelloOptions { ordered, ..choosing(transport) };
            let server: Server = Box::new(move |mut stream, hello| {
                assert_eq!(hello.features, if ordered { FEATURE_ORDERED } else { 0 });
                let fallback = Fallback { features: granted, ..a_fallback() };
                stream.write_all(&fallback.encode()).expect("written");
                stream.read_exact(&mut [0]).expect("the client goes on");
            });
            let got = by_socket(against_each(&options, false, vec![server]));
            assert_eq!(got.ordered, granted & FEATURE_ORDERED != 0);
        }
    }
    assert!(!deliver(|_| {}).expect("accepted").ordered);
    assert!(deliver(|goods| goods.welcome.features = FEATURE_ORDERED).expect("accepted").ordered);
}

#[test]
fn samples_are_taken_where_either_side_wants_them() {
    // What the client says, what the server grants, what the server would like: what comes of it.
    for (own, features, wish, every) in [
        (None, 0, 0, 0),
        (None, 0, 9, 0),
        (None, FEATURE_SAMPLES, 9, 9),
        (Some(3), FEATURE_SAMPLES, 0, 3),
        (Some(3), FEATURE_SAMPLES, 9, 3),
        (Some(3), FEATURE_ORDERED, 9, 0),
        (Some(0), FEATURE_SAMPLES, 9, 0),
    ] {
        let options = HelloOptions { sample_every: own, ..HelloOptions::default() };
        let got = deliver_to(&options, |goods| {
            (goods.welcome.features, goods.welcome.sample_every) = (features, wish);
        });
        assert_eq!(got.expect("accepted").sample_every, every, "{own:?} {features} {wish}");
    }
    // A server that does not know of it says less.
    let bytes = Welcome { features: FEATURE_SAMPLES, ..a_welcome() }.encode();
    for missing in [4, 8] {
        let body = &bytes[HEADER..bytes.len() - missing];
        assert_eq!(Welcome::parse(body).expect("valid").sample_every, 0);
    }
    assert_eq!(Welcome::parse(&bytes[HEADER..]).expect("valid").sample_every, 9);
}

#[test]
fn a_server_that_gives_something_else_than_the_socket() {
    let socket = choosing(TransportChoice::Socket);
    let answers = |bytes: Vec<u8>| -> Vec<Server> {
        vec![Box::new(move |mut stream, _| stream.write_all(&bytes).expect("written"))]
    };
    let memory = against_each(&socket, false, answers(a_welcome().encode()));
    assert!(matches!(memory, Err(ConnectError::NotRingbell)), "{memory:?}");
    let off = against_each(&socket, false, answers(RejectReason::SocketOff.encode_reject()));
    assert!(matches!(off, Err(ConnectError::Rejected(RejectReason::SocketOff))));
    let cut = against_each(&socket, false, answers(a_fallback().encode()[..50].to_vec()));
    assert!(matches!(cut, Err(ConnectError::ServerDied)));
    let mut short = a_fallback().encode();
    short[8] = 24;
    let short = against_each(&socket, false, answers(short));
    assert!(matches!(short, Err(ConnectError::NotRingbell)), "a body without a session");
    for (wrong, fallback) in [
        ("generation", Fallback { generation: 0, ..a_fallback() }),
        ("session", Fallback { session: 0, ..a_fallback() }),
        ("max message", Fallback { max_message: 0, ..a_fallback() }),
        ("max message", Fallback { max_message: 1 << 32, ..a_fallback() }),
    ] {
        let result = against_each(&socket, false, answers(fallback.encode()));
        assert!(matches!(result, Err(ConnectError::NotRingbell)), "{wrong}: {result:?}");
    }
    let later = answers(Fallback { version: 2, ..a_fallback() }.encode());
    let later = against_each(&socket, false, later);
    assert!(matches!(later, Err(ConnectError::VersionMismatch { theirs: (2, 2), .. })));
    let more = HelloOptions { max_message: 1000, ..socket };
    let more = against_each(&more, false, answers(a_fallback().encode()));
    assert!(matches!(more, Err(ConnectError::NotRingbell)), "a larger message than asked for");
}

/// Sends goods whose request segment this process may not write, and sees that the client gives them up before it
/// lets go of its end.
fn unwritable() -> Server {
    Box::new(|mut stream, hello| {
        assert_eq!(hello.transport, Transport::Shared);
        let mut goods = goods();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&goods.descriptors[0]));
        goods.descriptors[0] = std::fs::File::open(path).expect("opened read-only").into();
        let descriptors: Vec<_> = goods.descriptors.iter().map(|fd| fd.as_fd()).collect();
        send(&stream, &goods.welcome.encode(), &descriptors);
        assert_eq!(stream.read(&mut [0]).expect("the end"), 0, "not ready");
        // It waits until it is let go of.
        stream.write_all(&[lifeline::Farewell::TooLate as u8]).expect("still there");
    })
}

#[test]
fn a_client_that_cannot_map_asks_for_the_socket() {
    let asked = Fallback { reason: RejectReason::SocketAsked, ..a_fallback() };
    let servers = vec![unwritable(), falls_back(Transport::Socket, asked)];
    let got = by_socket(against_each(&HelloOptions::default(), false, servers));
    assert_eq!(got.reason, FallbackReason::MapFailed(libc::EACCES));
    assert!(got.reason.to_string().contains("denied"), "{}", got.reason);

    let off: Server = Box::new(|mut stream, _| {
        stream.write_all(&RejectReason::SocketOff.encode_reject()).expect("written");
    });
    let got = against_each(&HelloOptions::default(), false, vec![unwritable(), off]);
    assert!(matches!(got, Err(ConnectError::BadSegment(SegmentError::Io(_)))), "{got:?}");
    let full: Server = Box::new(|mut stream, _| {
        let full = RejectReason::TooManyClients { limit: 1 };
        stream.write_all(&full.encode_reject()).expect("written");
    });
    let got = against_each(&HelloOptions::default(), false, vec![unwritable(), full]);
    assert!(matches!(got, Err(ConnectError::Rejected(RejectReason::TooManyClients { .. }))), "{got:?}");
}

#[test]
fn spoilt_goods_are_not_followed_by_another_try() {
    fn spoilt(spoil: fn(&mut Goods)) -> Result<Attached, ConnectError> {
        let server: Server = Box::new(move |mut stream, _| {
            let mut goods = goods();
            spoil(&mut goods);
            let descriptors: Vec<_> = goods.descriptors.iter().map(|fd| fd.as_fd()).collect();
            send(&stream, &goods.welcome.encode(), &descriptors);
            assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
        });
        against_each(&HelloOptions::default(), false, vec![server])
    }
    let unsealed = spoilt(|goods| {
        let real = &goods.descriptors[1];
        goods.descriptors[1] = memfd(size_of_fd(real), SealFlags::empty(), Some(real));
    });
    assert!(matches!(unsealed, Err(ConnectError::BadSegment(SegmentError::Seals { .. }))), "{unsealed:?}");
    let another = spoilt(|goods| goods.welcome.generation += 1);
    assert!(matches!(another, Err(ConnectError::BadSegment(SegmentError::Identity(_)))), "{another:?}");
    let fewer = spoilt(|goods| goods.descriptors.truncate(2));
    assert!(matches!(fewer, Err(ConnectError::BadDescriptors { .. })), "{fewer:?}");
}

// Segments.

#[test]
fn sealed_segments_cannot_be_written_by_others() {
    let goods = goods();
    for sealed in [&goods.descriptors[1], &goods.descriptors[2]] {
        assert!(rustix::io::pwrite(sealed, &[1], 0).is_err());
        let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        assert!(rustix::fs::fallocate(sealed, punch, 0, 4096).is_err());
    }
    for fd in &goods.descriptors[..4] {
        assert!(rustix::fs::ftruncate(fd, 4096 - 1).is_err());
        assert!(rustix::fs::ftruncate(fd, 1 << 20).is_err());
    }
}

#[test]
fn a_request_segment_is_accepted_whole_or_not_at_all() {
    let me = Peer { pid: 1, uid: 2, name: [7; layout::NAME] };
    let make = || SegmentPair::create(4096, 4096).expect("made").assign(9, 8, &me).expect("labelled");
    let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;

    let (request, response) = make();
    rustix::fs::fallocate(&request.fd, punch, 0, 8192).expect("the client may punch");
    let segment = request.accept().expect("accepted");
    assert_eq!(segment.window.peer_word(0).load(), 0, "punched, and there");
    assert_eq!(rustix::fs::fstat(&segment.fd).expect("known").st_blocks, 8192 / 512);
    assert!(rustix::fs::fallocate(&segment.fd, punch, 0, 8192).is_err());
    assert_eq!(response.window.peer_word(layout::offset::PEER + 8).load(), u64::from_ne_bytes([7; 8]));

    let (request, _) = make();
    rustix::fs::fcntl_add_seals(&request.fd, SealFlags::SEAL).expect("the client may seal");
    assert!(matches!(request.accept(), Err(SegmentError::Seals { .. })));
}

#[test]
fn sizes_follow_from_labels() {
    let label = |kind, capacity| Label { kind, generation: 1, session: 1, capacity }.size();
    assert_eq!(label(SegmentKind::Request, 4096), 8192);
    assert_eq!(label(SegmentKind::Status, 64), 8192);
    assert_eq!(label(SegmentKind::Bell, 0), 4096);
}
