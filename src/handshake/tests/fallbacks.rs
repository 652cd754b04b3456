//! The client on its way to the socket.

use super::*;
use crate::handshake::client::attach_here;
use crate::link::lifeline;
use crate::link::segment::SegmentError;
use std::io::Write;

type Server = Box<dyn FnOnce(UnixStream, Hello) + Send>;

/// Lets `servers` answer one connection each, and returns what the client made of it. Every one of
/// them must be needed, and none is there beyond them.
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
fn falls_back(asked: TransportAsked, fallback: Fallback) -> Server {
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
        let server = falls_back(TransportAsked::Shared, Fallback { reason, ..a_fallback() });
        let got = by_socket(against_each(&HelloOptions::default(), false, vec![server]));
        assert_eq!(got.reason, FallbackReason::Server(reason));
        assert_eq!(
            (got.session, got.generation, got.max_message, got.server_pid),
            (5, 77, 1 << 20, 1234)
        );
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
    let server = || vec![falls_back(TransportAsked::Socket, asked)];
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
                let asked = if ordered { FEATURE_ORDERED } else { 0 };
                assert_eq!(hello.features, asked | wire::FEATURE_CLOCK);
                let fallback = Fallback { features: granted, ..a_fallback() };
                stream.write_all(&fallback.encode()).expect("written");
                stream.read_exact(&mut [0]).expect("the client goes on");
            });
            let got = by_socket(against_each(&options, false, vec![server]));
            assert_eq!(got.ordered, granted & FEATURE_ORDERED != 0);
        }
    }
    assert!(!deliver(|_| {}).expect("accepted").ordered);
    assert!(deliver(|sent| sent.welcome.features = FEATURE_ORDERED).expect("accepted").ordered);
}

#[test]
fn c3_the_clocks_are_compared_where_the_server_grants_it() {
    use crate::base::clock::{ClockOffset, now_ns};
    const AHEAD: u64 = 100_000_000_000_000;
    let told = |granted, ahead: u64| {
        let server: Server = Box::new(move |mut stream, hello| {
            assert_ne!(hello.features & wire::FEATURE_CLOCK, 0);
            let server_ns = now_ns() + ahead;
            // An answer that is long on its way makes nothing of one clock.
            std::thread::sleep(Duration::from_millis(50));
            let fallback = Fallback { features: granted, server_ns, ..a_fallback() };
            stream.write_all(&fallback.encode()).expect("written");
            stream.read_exact(&mut [0]).expect("the client goes on");
        });
        let before = now_ns();
        let got = by_socket(against_each(&choosing(TransportChoice::Auto), false, vec![server]));
        (got.clock, now_ns() - before)
    };
    assert_eq!(told(wire::FEATURE_CLOCK, 0).0, ClockOffset::NONE);
    assert_eq!(told(0, AHEAD).0, ClockOffset::NONE, "not granted");
    let (clock, took) = told(wire::FEATURE_CLOCK, AHEAD);
    let at = now_ns();
    assert!(clock.time(at).abs_diff(at + AHEAD) <= took, "{clock:?}");
    assert!(clock.deadline(at) >= at + AHEAD && clock.deadline(at) <= at + AHEAD + took);
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
    let later = answers(Fallback { version: 3, ..a_fallback() }.encode());
    let later = against_each(&socket, false, later);
    assert!(matches!(later, Err(ConnectError::VersionMismatch { theirs: (3, 3), .. })));
    let more = HelloOptions { max_message: 1000, ..socket };
    let more = against_each(&more, false, answers(a_fallback().encode()));
    assert!(matches!(more, Err(ConnectError::NotRingbell)), "a larger message than asked for");
}

/// Sends segments whose request segment this process may not write, and sees that the client gives
/// them up before it lets go of its end.
fn unwritable() -> Server {
    Box::new(|mut stream, hello| {
        assert_eq!(hello.transport, TransportAsked::Shared);
        let mut sent = good_segments();
        let path =
            format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&sent.descriptors[0]));
        sent.descriptors[0] = std::fs::File::open(path).expect("opened read-only").into();
        let descriptors: Vec<_> = sent.descriptors.iter().map(|fd| fd.as_fd()).collect();
        send(&stream, &sent.welcome.encode(), &descriptors);
        assert_eq!(stream.read(&mut [0]).expect("the end"), 0, "not ready");
        // It waits until it is let go of.
        stream.write_all(&[lifeline::Farewell::TooLate as u8]).expect("still there");
    })
}

#[test]
fn a_client_that_cannot_map_asks_for_the_socket() {
    let asked = Fallback { reason: RejectReason::SocketAsked, ..a_fallback() };
    let servers = vec![unwritable(), falls_back(TransportAsked::Socket, asked)];
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
    assert!(
        matches!(got, Err(ConnectError::Rejected(RejectReason::TooManyClients { .. }))),
        "{got:?}"
    );
}

#[test]
fn spoilt_segments_are_not_followed_by_another_try() {
    fn spoilt(spoil: fn(&mut SentSegments)) -> Result<Attached, ConnectError> {
        let server: Server = Box::new(move |mut stream, _| {
            let mut sent = good_segments();
            spoil(&mut sent);
            let descriptors: Vec<_> = sent.descriptors.iter().map(|fd| fd.as_fd()).collect();
            send(&stream, &sent.welcome.encode(), &descriptors);
            assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
        });
        against_each(&HelloOptions::default(), false, vec![server])
    }
    let unsealed = spoilt(|sent| {
        let real = &sent.descriptors[1];
        sent.descriptors[1] = memfd(size_of_fd(real), SealFlags::empty(), Some(real));
    });
    assert!(
        matches!(unsealed, Err(ConnectError::BadSegment(SegmentError::Seals { .. }))),
        "{unsealed:?}"
    );
    let another = spoilt(|sent| sent.welcome.generation += 1);
    assert!(
        matches!(another, Err(ConnectError::BadSegment(SegmentError::Identity(_)))),
        "{another:?}"
    );
    let fewer = spoilt(|sent| sent.descriptors.truncate(2));
    assert!(matches!(fewer, Err(ConnectError::BadDescriptors { .. })), "{fewer:?}");
}
