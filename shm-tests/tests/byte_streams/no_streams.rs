//! Peers that speak of something else than chunks, or send any bytes.

use crate::traffic::{Bytes, size};
use ringbell::layout::{self, HeaderWord, Kind, flag, offset};
use ringbell::pool::Settings;
use ringbell::ring::Producer;
use ringbell::{
    ByteListener, ByteStream, ByteStreamError, ConnectError, ConnectionPool, PeerFault,
    PoolCallError, RejectReason, Server, TransportChoice,
};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::Chance;
use ringbell_shm_tests::process::PATIENCE;
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::{done, raw, scaled, seed};
use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

pub(crate) fn calls_and_streams_do_not_meet() -> Ran {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("s");
    for choice in [TransportChoice::Auto, TransportChoice::Socket] {
        let options = || ringbell::ConnectOptions::new().transport(choice);
        let server = Server::bind(&path).expect("bind");
        let handle = server.handle();
        let serving = std::thread::spawn(move || server.run(|_, _| Ok(())));
        assert!(matches!(options().connect_bytes(&path), Err(ConnectError::NoByteStreams)));
        handle.shutdown(None);
        serving.join().expect("a thread").expect("it served");
    }
    done!("by both transports")
}

/// A client that makes calls is told by a listener of byte streams what to use, however it
/// connects.
pub(crate) fn c4_calls_are_refused_by_a_listener_of_streams() -> Ran {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("s");
    let listener = ByteListener::bind(&path).expect("bind");
    let refused = |error: ConnectError| {
        let reason = matches!(error, ConnectError::Rejected(RejectReason::ByteStreamsOnly));
        assert!(reason, "{error:?}");
        assert!(error.to_string().contains("ByteStream::connect"), "{error}");
        tick();
    };
    for choice in [TransportChoice::Auto, TransportChoice::SharedMemory, TransportChoice::Socket] {
        let options = || ringbell::ConnectOptions::new().transport(choice);
        refused(options().connect(&path).expect_err("refused"));
        let runtime = ringbell_shm_tests::driver::runtime_of_one();
        let tried = runtime.block_on(options().connect_async(&path));
        refused(tried.expect_err("refused"));
        // A pool says so at once, and does not try until its caller's time is over.
        let pool = ConnectionPool::with_options(&path, options(), Settings::default());
        let pool = pool.expect("a pool");
        match pool.call_timeout(b"hello?", None) {
            Err(PoolCallError::Acquire(error)) => {
                assert!(format!("{error} {error:?}").contains("ByteStreamsOnly"), "{error:?}");
            }
            other => panic!("{other:?}"),
        }
        pool.close(None).expect("drained");
        // The listener serves what it is for.
        let stream = options().connect_bytes(&path).expect("a stream");
        let accepted = listener.accept_timeout(Some(PATIENCE)).expect("the same");
        drop((stream, accepted));
    }
    let nobody = listener.accept_timeout(Some(Duration::ZERO));
    assert_eq!(nobody.expect_err("no caller is a stream").kind(), ErrorKind::TimedOut);
    done!("by each transport: a client, an async one, a pool")
}

/// What no chunk is: kind, flags, body. The last column is what it is called.
fn no_chunks() -> Vec<(Kind, u8, Vec<u8>, PeerFault)> {
    let fragment = [100u64.to_le_bytes(), [0; 8]].concat();
    let mut all: Vec<_> =
        [Kind::Request, Kind::Response, Kind::Error, Kind::Event, Kind::StreamItem]
            .into_iter()
            .chain([Kind::StreamEnd, Kind::Cancel, Kind::Ping, Kind::Pong, Kind::Credit])
            .map(|kind| (kind, 0, vec![1, 2, 3], PeerFault::UnexpectedKind(kind)))
            .collect();
    let deadline = PeerFault::UnexpectedKind(Kind::OneWay);
    all.push((Kind::OneWay, flag::DEADLINE, vec![1; 9], deadline));
    all.push((Kind::OneWay, flag::STAMP, vec![1; 9], deadline));
    all.push((Kind::OneWay, flag::MORE, fragment, PeerFault::Fragment));
    all.push((Kind::OneWay, flag::CONTINUED, vec![1; 9], PeerFault::Fragment));
    all.push((Kind::OneWay, flag::CONTINUED | flag::ABORT, vec![], PeerFault::Fragment));
    let lie = [u64::MAX.to_le_bytes(), [0; 8]].concat();
    all.push((Kind::OneWay, flag::MORE, lie, PeerFault::TooLong));
    all
}

/// The stream has this fault, for reads and for writes, and for good.
fn is_at_fault(stream: &mut ByteStream, fault: PeerFault) {
    let mut good = [0; 4];
    stream.read_exact(&mut good).expect("what came before is good");
    assert_eq!(&good, b"good");
    for _ in 0..2 {
        for error in [
            stream.read(&mut [0; 8]).expect_err("a fault"),
            stream.write(b"!").expect_err("a fault"),
        ] {
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{error:?}");
            assert_eq!(ByteStreamError::of(&error), Some(ByteStreamError::PeerFault(fault)));
        }
    }
}

/// A listener, and a stream of it that goes on whatever others do.
struct Beside {
    listener: ByteListener,
    client: ByteStream,
    server: ByteStream,
    directory: tempfile::TempDir,
}

impl Beside {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let listener = ByteListener::bind(directory.path().join("s")).expect("bind");
        let client = ByteStream::connect(listener.path()).expect("connect");
        let server = listener.accept().expect("a stream");
        Self { listener, client, server, directory }
    }

    fn goes_on(&mut self) {
        self.client.write_all(b"hello").expect("room");
        let mut bytes = [0; 5];
        self.server.read_exact(&mut bytes).expect("bytes");
        assert_eq!(&bytes, b"hello");
        assert!(self.directory.path().join("s").exists());
        tick();
    }
}

pub(crate) fn clients_that_send_what_is_no_stream() -> Ran {
    let mut beside = Beside::new();
    let mut cases = 0;
    for (kind, flags, body, fault) in no_chunks() {
        let session = raw::SocketSession::open_for(beside.listener.path(), raw::BYTES);
        let mut stream = beside.listener.accept().expect("a stream");
        assert!(session.send(&raw::frame(Kind::OneWay, 0, 0, 0, b"good")));
        assert!(session.send(&raw::frame(kind, flags, 0, 1, &body)));
        is_at_fault(&mut stream, fault);

        let session = raw::Session::open_for(beside.listener.path(), 4096, raw::BYTES);
        let mut stream = beside.listener.accept().expect("a stream");
        let mut ring = Producer::new(
            session.request.own_lines(layout::CONTROL, 4096),
            session.request.own_word(offset::TAIL),
            session.response.peer_word(offset::HEAD),
            0,
        );
        for (kind, flags, body) in [(Kind::OneWay, 0, &b"good"[..]), (kind, flags, &body)] {
            let claim = ring.try_claim(body.len()).expect("room");
            ring.write(&claim, 0, body);
            let len = u32::try_from(body.len()).expect("short");
            ring.commit(claim, HeaderWord::new(kind, flags, 0, len), 1);
        }
        is_at_fault(&mut stream, fault);
        cases += 2;
        beside.goes_on();
    }
    // A byte on the lifeline that means nothing.
    let session = raw::Session::open_for(beside.listener.path(), 4096, raw::BYTES);
    let stream = beside.listener.accept().expect("a stream");
    stream.set_read_timeout(Some(Duration::from_secs(20)));
    raw::send(&session.stream, b"?", &[]);
    let error = stream.read(&mut [0]).expect_err("noise");
    assert_eq!(ByteStreamError::of(&error), Some(ByteStreamError::PeerFault(PeerFault::Lifeline)));
    // A head that cannot be: whoever claims to have read what was never written.
    let session = raw::Session::open_for(beside.listener.path(), 4096, raw::BYTES);
    let mut stream = beside.listener.accept().expect("a stream");
    session.request.own_word(offset::HEAD).store(1 << 40, ringbell::sync::Ordering::Relaxed);
    let error = stream.write_all(&[0; 20_000]).expect_err("an impossible head");
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error:?}");
    assert!(matches!(
        ByteStreamError::of(&error),
        Some(ByteStreamError::PeerFault(PeerFault::Ring(_)))
    ));
    beside.goes_on();
    done!("{} cases", cases + 2)
}

pub(crate) fn any_bytes_over_the_socket() -> Ran {
    let mut beside = Beside::new();
    let mut chance = Chance::new(seed());
    let (rounds, mut faults) = (scaled(4000), 0);
    for round in 0..rounds {
        let session = raw::SocketSession::open_for(beside.listener.path(), raw::BYTES);
        let mut stream = beside.listener.accept().expect("a stream");
        let mut sent = Vec::new();
        // Good chunks, then nonsense: of any bytes, or of a frame with a bit that is not what it
        // was.
        for _ in 0..chance.below(4) {
            let mut body = vec![0; size(&mut chance).min(60_000)];
            Bytes::new(round).fill(&mut body);
            assert!(session.send(&raw::frame(Kind::OneWay, 0, 0, 0, &body)));
            sent.extend_from_slice(&body);
        }
        let nonsense: Vec<u8> = if chance.below(2) == 0 {
            (0..chance.below(60)).map(|_| chance.draw().to_le_bytes()[0]).collect()
        } else {
            let mut frame = raw::frame(Kind::OneWay, 0, 0, 0, &[5; 40]);
            frame[usize::try_from(chance.below(8)).expect("small")] ^= 1 << chance.below(8);
            frame
        };
        let _ = session.send(&nonsense);
        drop(session);
        let mut got = Vec::new();
        stream.set_read_timeout(Some(Duration::from_secs(20)));
        // An end is possible: nonsense may be an empty chunk. Anything else is an error that says
        // what it is.
        if let Err(error) = stream.read_to_end(&mut got) {
            assert!(
                matches!(
                    ByteStreamError::of(&error),
                    Some(ByteStreamError::Gone | ByteStreamError::PeerFault(_))
                ),
                "{error:?}"
            );
            faults += u64::from(error.kind() == ErrorKind::InvalidData);
        }
        assert!(
            got.starts_with(&sent) && got.len() <= sent.len() + 64,
            "{} of {}",
            got.len(),
            sent.len()
        );
        tick();
    }
    beside.goes_on();
    assert!(faults > 0);
    done!("{rounds} streams, {faults} faults")
}

pub(crate) fn servers_that_send_what_is_no_stream() -> Ran {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("bind");
    let mut cases = no_chunks();
    for (kind, ..) in &mut cases {
        // What clients receive are events; one-way messages are what they send.
        *kind = match *kind {
            Kind::OneWay => Kind::Event,
            Kind::Event => Kind::OneWay,
            kind => kind,
        };
    }
    let count = cases.len();
    for (kind, flags, body, fault) in cases {
        let connecting = std::thread::spawn({
            let path = path.clone();
            move || {
                ringbell::ConnectOptions::new()
                    .transport(TransportChoice::Socket)
                    .connect_bytes(path)
            }
        });
        let server = raw::accept(&listener);
        let mut answer = raw::fallback(1 << 20);
        // Behind the header, the reason, the version.
        answer[16 + 28] = raw::BYTES;
        raw::send(&server, &answer, &[]);
        let mut stream = connecting.join().expect("a thread").expect("a stream");
        raw::send(&server, &raw::frame(Kind::Event, 0, 0, 0, b"good"), &[]);
        raw::send(&server, &raw::frame(kind, flags, 0, 1, &body), &[]);
        let fault = match fault {
            PeerFault::UnexpectedKind(_) => PeerFault::UnexpectedKind(kind),
            fault => fault,
        };
        is_at_fault(&mut stream, fault);
    }
    done!("{count} cases")
}
