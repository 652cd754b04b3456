//! The bytes in `golden/`: those of today, and peers that speak those of before.

use super::*;
use crate::base::clock::ClockOffset;
use crate::link::held::Account;
use crate::link::session::{Head, Parts, Received, SendProgress, SessionCore};
use crate::memory::layout::{Kind, code};
use std::io::Write;
use std::sync::Arc;

/// The file of this name.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

pub(crate) fn golden(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Compares with the file of this name, or writes it if the test is told so.
fn check(name: &str, bytes: &[u8]) {
    let name = format!("wire-2/{name}.bin");
    if std::env::var_os("RINGBELL_GOLDEN").is_some_and(|what| what == "write") {
        std::fs::write(path(&name), bytes).expect("written");
    }
    assert_eq!(bytes, golden(&name), "{name}: see golden/wire-2/README.md");
}

const FEATURES: u32 = FEATURE_ORDERED | FEATURE_SAMPLES | FEATURE_CLOCK;
const MAX_MESSAGE: u64 = 1 << 20;

#[test]
fn the_handshake_is_these_bytes() {
    let hello = |role, transport, features, name: &str| Hello {
        versions: (2, 2),
        role,
        transport,
        features,
        request_capacity: 4096,
        response_capacity: 8192,
        max_message: MAX_MESSAGE,
        name: name.into(),
    };
    for (name, hello) in [
        ("hello-client", hello(Role::Client, TransportAsked::Shared, FEATURES, "a client")),
        ("hello-socket", hello(Role::Client, TransportAsked::Socket, FEATURE_CLOCK, "a client")),
        ("hello-bytes", hello(Role::Client, TransportAsked::Shared, FEATURE_BYTES, "ä")),
        ("hello-inspector", hello(Role::Inspector, TransportAsked::Shared, 0, "")),
    ] {
        check(name, &hello.encode());
        assert_eq!(Hello::parse(split(&hello.encode()).1), Ok(hello));
    }
    let welcome = Welcome {
        version: 2,
        has_pidfd: true,
        has_bell: true,
        domain: 3,
        generation: 77,
        session: 5,
        request_capacity: 4096,
        response_capacity: 8192,
        max_message: MAX_MESSAGE,
        armed_words: 64,
        pid: 1234,
        features: FEATURES,
        sample_every: 64,
        server_ns: 1_000_000_007,
    };
    check("welcome", &welcome.encode());
    assert_eq!(Welcome::parse(split(&welcome.encode()).1), Ok(welcome));
    let own_bell = Welcome { has_bell: false, ..welcome };
    check("welcome-own-bell", &own_bell.encode());
    assert_eq!(Welcome::parse(split(&own_bell.encode()).1), Ok(own_bell));
    let fallback = Fallback {
        reason: RejectReason::BytesPerUid { limit: 1000 },
        version: 2,
        features: FEATURE_ORDERED | FEATURE_CLOCK,
        generation: 77,
        session: 5,
        max_message: MAX_MESSAGE,
        pid: 1234,
        server_ns: 1_000_000_007,
    };
    check("fallback", &fallback.encode());
    assert_eq!(Fallback::parse(split(&fallback.encode()).1), Ok(fallback));
    let segments = wire::Segments {
        version: 2,
        more: false,
        count: 3,
        generation: 77,
        pid: 1234,
        sockets: 1,
        server_ns: 1_000_000_007,
    };
    check("segments", &segments.encode());
    for (name, reason) in [
        ("reject", RejectReason::TooManyClients { limit: 64 }),
        ("reject-version", RejectReason::VersionUnsupported { min: 2, max: 2 }),
        ("reject-byte-streams-only", RejectReason::ByteStreamsOnly),
        ("reject-clients-of-uid", RejectReason::TooManyClientsOfUid { limit: 8 }),
        ("reject-handshakes-of-uid", RejectReason::TooManyHandshakesOfUid { limit: 4 }),
    ] {
        check(name, &reason.encode_reject());
        assert_eq!(RejectReason::parse(split(&reason.encode_reject()).1), Ok(reason));
    }
    assert_eq!(golden("wire-1/reject.bin"), golden("wire-2/reject.bin"), "for ever");
}

#[cfg(feature = "inspect")]
#[test]
fn an_inspector_reads_these_bytes() {
    let segments = wire::Segments::parse(split(&golden("wire-2/segments.bin")).1).expect("valid");
    assert_eq!((segments.version, segments.count, segments.sockets), (2, 3, 1));
    assert_eq!(segments.encode(), golden("wire-2/segments.bin"));
    let old = golden("wire-1/segments.bin");
    assert_eq!(wire::Segments::parse(split(&old).1), Err(wire::Malformed::Speaks(1)));
}

/// The first cell of a segment, but for when it was made.
fn identity(fd: &OwnedFd) -> Vec<u8> {
    let mut bytes = vec![0; size_of::<layout::Identity>()];
    assert_eq!(rustix::io::pread(fd, &mut bytes, 0), Ok(bytes.len()));
    let made = std::mem::offset_of!(layout::Identity, created_ns);
    bytes[made..].copy_from_slice(&1_000_000_007u64.to_le_bytes());
    bytes
}

#[test]
fn the_segments_begin_with_these_bytes() {
    let SentSegments { welcome, descriptors } = good_segments();
    let me = Peer { pid: 1, uid: 2, name: [0; layout::NAME] };
    let pair = SegmentPair::create(welcome.request_capacity, welcome.response_capacity);
    let pair = pair.expect("made").assign(77, 5, me, layout::Domain::new(3, false));
    // The client has labelled the one, the server the other.
    let (_, (request, response)) = pair.complete();
    let fds = [&*request.fd, &*response.fd, &descriptors[2], &descriptors[3]];
    for (name, fd) in ["request", "response", "status", "bell"].iter().zip(fds) {
        let bytes = identity(fd);
        check(&format!("identity-{name}"), &bytes);
        let old = golden(&format!("wire-1/identity-{name}.bin"));
        assert_eq!(
            (&bytes[..8], bytes[8], old[8]),
            (&old[..8], 2, 1),
            "known as a segment, and of another layout"
        );
    }
}

/// A session over the socket whose server's clock is ahead by 1000 s, and the bare other end.
fn session() -> (SessionCore, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("made");
    ours.set_nonblocking(true).expect("set");
    let parts = Parts {
        rings: None,
        lifeline: Arc::new(ours.into()),
        words: None,
        max_message: 1 << 20,
        burst: usize::MAX,
        account: Account::alone(1 << 40),
        stamps: true,
        clock: ClockOffset::between(0, 0, 1_000_000_000_000),
    };
    (SessionCore::new(parts), theirs)
}

#[test]
fn frames_are_these_bytes() {
    const CALL: u64 = 1 << 32;
    let long = vec![b'x'; (64 << 10) + 1];
    let (mut session, mut theirs) = session();
    let mut send = |head, until, payload: &[u8], mut progress| {
        session.send(head, until, payload, &mut progress).expect("no fault");
    };
    let none = SendProgress::default();
    send(Head::new(Kind::Request, CALL), 0, b"a request", none);
    send(Head::new(Kind::Request, CALL + 1), 5_000_000_000, b"in time", none);
    send(Head::new(Kind::Request, CALL + 2), 7, b"both", SendProgress::stamped(9));
    send(Head::new(Kind::OneWay, 0), 0, b"one way", none);
    send(Head::new(Kind::Cancel, CALL + 1), 0, b"", none);
    send(Head::with_code(Kind::Credit, 3, CALL + 1), 0, b"", none);
    send(Head::new(Kind::Ping, 9), 0, b"", none);
    send(Head::new(Kind::Request, CALL + 3), 0, &long, none);
    send(Head::new(Kind::Goodbye, 0), 0, b"", none);
    drop(session);
    let mut sent = Vec::new();
    theirs.read_to_end(&mut sent).expect("read");
    // Two fragments, of which the file has the headers: their payload is `x` without end.
    let payload = sent.windows(100).position(|bytes| bytes == &long[..100]).expect("sent");
    sent.drain(payload..payload + (64 << 10) - 8);
    check("frames-client", &sent);
    let text = |bytes: &[u8]| bytes.windows(4).any(|four| four == b"both");
    assert!(text(&sent));

    // A client reads what a server sends.
    let mut bytes = Vec::new();
    let mut frame = |kind, code, call: u64, payload: &[u8]| {
        let len = u32::try_from(payload.len()).expect("short");
        bytes.extend(layout::HeaderWord::new(kind, 0, code, len).0.to_le_bytes());
        bytes.extend(call.to_le_bytes());
        bytes.extend(payload);
    };
    frame(Kind::Response, 0, CALL, b"an answer");
    frame(Kind::Error, code::APPLICATION + 422, CALL + 1, b"an error");
    frame(Kind::Event, 0, 0, b"an event");
    frame(Kind::Pong, 0, 9, b"");
    frame(Kind::Goodbye, crate::link::lifeline::Farewell::ShutDown as u16, 0, b"");
    check("frames-server", &bytes);
    let (mut session, mut theirs) = self::session();
    theirs.write_all(&golden("wire-2/frames-server.bin")).expect("written");
    session.ready(crate::link::readiness::Readiness { readable: true, ..Default::default() });
    let mut payload = Vec::new();
    let mut heads = Vec::new();
    while let Received::Message(head) = session.receive(&mut payload).expect("no fault") {
        heads.push((head.kind(), head.code(), head.call, payload.clone()));
    }
    assert_eq!(heads.len(), 5);
    assert_eq!(heads[1], (Kind::Error, code::APPLICATION + 422, CALL + 1, b"an error".to_vec()));
}

/// What a client makes of a server that answers with these bytes, and stays.
fn told(
    transport: TransportChoice,
    bytes: &[u8],
    descriptors: &[OwnedFd],
) -> Result<Attached, ConnectError> {
    served(bytes, descriptors, |path| {
        let options = HelloOptions { transport, ..HelloOptions::default() };
        super::super::attach(path, &options, soon())
    })
}

fn served<T>(bytes: &[u8], descriptors: &[OwnedFd], client: impl FnOnce(&Path) -> T) -> T {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    let listener = UnixListener::bind(&path).expect("bound");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().expect("a client");
            stream.set_read_timeout(Some(PATIENCE)).expect("set");
            stream.read_exact(&mut vec![0; a_hello().encode().len()]).expect("a hello");
            let rights: Vec<_> = descriptors.iter().map(|fd| fd.as_fd()).collect();
            send(&stream, bytes, &rights);
            // The client goes, without a word.
            assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
        });
        client(&path)
    })
}

fn is_version_1<T: std::fmt::Debug>(what: &str, result: Result<T, ConnectError>) {
    match result {
        Err(ConnectError::VersionMismatch { ours: (2, 2), theirs: (1, 1) }) => {}
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn a_server_of_wire_1_is_refused_with_both_versions() {
    let segments = good_segments().descriptors;
    for transport in [TransportChoice::Auto, TransportChoice::SharedMemory, TransportChoice::Socket]
    {
        for (name, descriptors) in
            [("welcome", &segments[..]), ("fallback", &[]), ("reject-version", &[])]
        {
            // Nobody sends a Welcome to a client that asked for the socket.
            if name != "welcome" || transport != TransportChoice::Socket {
                let bytes = golden(&format!("wire-1/{name}.bin"));
                is_version_1(name, told(transport, &bytes, descriptors));
            }
        }
        let reject = told(transport, &golden("wire-1/reject.bin"), &[]);
        let full = RejectReason::TooManyClients { limit: 64 };
        assert!(matches!(reject, Err(ConnectError::Rejected(reason)) if reason == full));
    }
    let said = RejectReason::VersionUnsupported { min: 1, max: 1 };
    assert_eq!(
        ConnectError::from(said).to_string(),
        "this library speaks versions 2 to 2 of the protocol, the server 1 to 1"
    );
}

#[test]
fn c6_a_server_of_the_same_numbers_and_other_meanings_is_refused() {
    let segments = good_segments().descriptors;
    for transport in [TransportChoice::Auto, TransportChoice::SharedMemory] {
        let welcome = golden("wire-1/49f7a2e-welcome.bin");
        is_version_1("welcome", told(transport, &welcome, &segments));
    }
    for transport in [TransportChoice::Auto, TransportChoice::SharedMemory, TransportChoice::Socket]
    {
        for name in ["fallback", "reject-version"] {
            let bytes = golden(&format!("wire-1/49f7a2e-{name}.bin"));
            is_version_1(name, told(transport, &bytes, &[]));
        }
    }
}

#[cfg(feature = "inspect")]
#[test]
fn an_inspector_is_told_the_versions_too() {
    let survey = |path: &Path| Inspector::connect(path, Some(PATIENCE)).and_then(Inspector::survey);
    let descriptors = &good_segments().descriptors[1..4];
    let segments = served(&golden("wire-1/segments.bin"), descriptors, survey);
    is_version_1("segments", segments);
    is_version_1("reject", served(&golden("wire-1/reject-version.bin"), &[], survey));
    is_version_1("reject", served(&golden("wire-1/49f7a2e-reject-version.bin"), &[], survey));
}

#[test]
fn segments_of_layout_1_are_refused() {
    // Behind a Welcome of today: a server that mixes the two up.
    let result = deliver(|sent| {
        let fd = &sent.descriptors[3];
        let size = size_of_fd(fd);
        let forged = memfd(size, SealFlags::empty(), Some(fd));
        rustix::io::pwrite(&forged, &golden("wire-1/identity-bell.bin")[..16], 0).expect("written");
        rustix::fs::fcntl_add_seals(&forged, SealFlags::SHRINK | SealFlags::GROW).expect("sealed");
        sent.descriptors[3] = forged;
    });
    assert!(matches!(result, Err(ConnectError::BadSegment(_))), "{result:?}");
}
