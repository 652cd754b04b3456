//! The porter against clients, good ones and others.

use super::*;
use crate::handshake::tests::{PATIENCE, Scratch, a_hello, alone, attach, soon};
use crate::handshake::{
    self, Attached, Attachment, ConnectError, FEATURE_ORDERED, FEATURE_SAMPLES, Fallback, FallbackReason,
    Hello, HelloOptions, Host, ListenOptions, Offer, Role, SocketAttachment, Transport, TransportChoice,
    lifeline, listen,
};
use crate::layout::{HeaderWord, Kind, NAME, Peer, offset};
use crate::uds::{Filled, Pushed, SocketLink};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

impl Outbox for Sender<Event> {
    fn deliver(&self, event: Event) {
        // A test that is over does not care.
        let _ = self.send(event);
    }
}

/// A server without a reactor: events lie in a channel.
struct House {
    path: PathBuf,
    handle: Option<PorterHandle>,
    events: Receiver<Event>,
    _status: Segment,
    _scratch: Scratch,
}

const GENERATION: u64 = 42;
const SMALL: u64 = 4096;

/// Small rings, so that tests are quick, and nothing in their place.
fn settings() -> PorterConfig {
    PorterConfig {
        request_capacity: SMALL,
        response_capacity: SMALL,
        fallback: false,
        ..PorterConfig::default()
    }
}

/// As [`settings`], with the socket for those who cannot have rings.
fn lenient() -> PorterConfig {
    PorterConfig { fallback: PorterConfig::default().fallback, ..settings() }
}

impl House {
    fn new(config: PorterConfig) -> Self {
        let scratch = Scratch::new();
        let path = scratch.path("s");
        let listener = listen(&path, &ListenOptions::default()).expect("bound");
        let me = Peer { pid: 0, uid: 0, name: [0; NAME] };
        let armed_words = config.max_clients;
        let status = Segment::status(GENERATION, armed_words.into(), &me).expect("made");
        let (outbox, events) = channel();
        let info = StatusInfo { segment: Some(&status), generation: GENERATION, armed_words };
        let handle = Some(start(Lodging::Thread, listener, config, &info, outbox).expect("started"));
        Self { path, handle, events, _status: status, _scratch: scratch }
    }

    fn handle(&self) -> &PorterHandle {
        self.handle.as_ref().expect("it runs")
    }

    fn attach(&self) -> Result<Attachment, ConnectError> {
        attach(&self.path, &HelloOptions::default(), soon())
    }

    /// Attaches with whatever transport it gets.
    fn attach_somehow(&self, transport: TransportChoice) -> Result<Attached, ConnectError> {
        handshake::attach(&self.path, &HelloOptions { transport, ..HelloOptions::default() }, soon())
    }

    /// A session over the socket, for a client that would have liked rings.
    fn join_by_socket(&self) -> (SocketAttachment, Box<Joined>) {
        match self.attach_somehow(TransportChoice::Auto).expect("attached") {
            Attached::Socket(client) => (client, self.joined()),
            Attached::Shared(_) => panic!("shared memory"),
        }
    }

    fn event(&self) -> Event {
        self.events.recv_timeout(PATIENCE).expect("an event")
    }

    fn joined(&self) -> Box<Joined> {
        match self.event() {
            Event::Joined(joined) => joined,
            other => panic!("{other:?}"),
        }
    }

    fn died(&self) -> (u64, Death) {
        match self.event() {
            Event::Died { session, why } => (session, why),
            other => panic!("{other:?}"),
        }
    }

    fn join(&self) -> (Attachment, Box<Joined>) {
        let attachment = self.attach().expect("attached");
        (attachment, self.joined())
    }

    fn rejected(&self, reason: RejectReason) -> u64 {
        self.handle().counters().rejected[reason.number() as usize].load(Ordering::Relaxed)
    }

    fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream
    }

    /// What the server answers to these bytes, to its last byte.
    fn answer(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.raw();
        // It may have hung up in the middle.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer
    }

    fn refusal(&self, hello: Hello) -> Vec<u8> {
        self.answer(&hello.encode())
    }
}

/// The server's part of shared memory.
struct Shared<'a> {
    request: &'a Segment,
    response: &'a Segment,
    domain: u32,
    domain_bell: &'a crate::memory::Window,
    request_capacity: u64,
    response_capacity: u64,
}

fn shared(joined: &Joined) -> Shared<'_> {
    match &joined.link {
        Link::Shared { request, response, domain, domain_bell, request_capacity, response_capacity } => {
            Shared {
                request,
                response,
                domain: *domain,
                domain_bell,
                request_capacity: *request_capacity,
                response_capacity: *response_capacity,
            }
        }
        Link::Socket { reason } => panic!("a socket: {reason}"),
    }
}

/// Why a session goes over the socket.
fn by_socket(joined: &Joined) -> RejectReason {
    match joined.link {
        Link::Socket { reason } => reason,
        Link::Shared { .. } => panic!("shared memory"),
    }
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < give_up, "never: {what}");
        std::thread::yield_now();
    }
}

fn count(counter: &PlainU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[test]
fn a_client_joins_and_both_see_the_same_memory() {
    let house = House::new(settings());
    let options = HelloOptions { name: "tester".into(), max_message: 1000, ..HelloOptions::default() };
    let client = attach(&house.path, &options, soon()).expect("attached");
    let server = house.joined();
    assert_eq!((client.session, server.session, client.generation), (1, 1, GENERATION));
    assert_eq!((client.domain, shared(&server).domain), (0, 0));
    assert_eq!((client.request_capacity, shared(&server).request_capacity), (SMALL, SMALL));
    assert_eq!((client.response_capacity, shared(&server).response_capacity), (SMALL, SMALL));
    assert_eq!((client.max_message, server.max_message), (1000, 1000));
    assert_eq!((server.peer.pid, &*server.peer.name), (std::process::id(), "tester"));
    assert_eq!(server.peer.uid, rustix::process::getuid().as_raw());
    assert_eq!(server.peer.gid, rustix::process::getgid().as_raw());
    assert_eq!(client.server_pid, std::process::id());
    assert!(client.server.is_some());

    client.request.window.own_word(offset::TAIL).store(7, Ordering::Relaxed);
    assert_eq!(shared(&server).request.window.peer_word(offset::TAIL).load(), 7);
    shared(&server).response.window.own_word(offset::TAIL).store(8, Ordering::Relaxed);
    assert_eq!(client.response.window.peer_word(offset::TAIL).load(), 8);
    client.bell.window.own_word(offset::SEQ).store(9, Ordering::Relaxed);
    assert_eq!(shared(&server).domain_bell.peer_word(offset::SEQ).load(), 9);
    let name = client.response.window.peer_word(offset::PEER + 8).load();
    assert_eq!(name, u64::from_ne_bytes(*b"tester\0\0"));
}

#[test]
fn wanted_capacities_are_granted() {
    let house = House::new(settings());
    let mut clients = Vec::new();
    for (request, response) in [(2048, 1 << 20), (0, 8192), (SMALL, 0)] {
        let options = HelloOptions {
            request_capacity: request,
            response_capacity: response,
            max_message: u64::MAX,
            ..HelloOptions::default()
        };
        let client = attach(&house.path, &options, soon()).expect("attached");
        let or = |wanted| if wanted == 0 { SMALL } else { wanted };
        assert_eq!((client.request_capacity, client.response_capacity), (or(request), or(response)));
        assert_eq!(client.max_message, 64 << 20, "no more than the server's");
        let server = house.joined();
        assert_eq!(shared(&server).request.window.len() as u64, layout::ring_segment_size(or(request)));
        assert_eq!(shared(&server).response.window.len() as u64, layout::ring_segment_size(or(response)));
        clients.push(client);
    }
}

#[test]
fn a_hang_up_and_a_goodbye_are_told_apart() {
    let house = House::new(settings());
    let (client, server) = house.join();
    drop(client);
    assert_eq!(house.died(), (server.session, Death::HungUp));
    house.handle().closed(server.session);

    let (client, server) = house.join();
    rustix::io::write(&client.lifeline, &[lifeline::WAKE, lifeline::GOODBYE]).expect("written");
    drop(client);
    assert_eq!(house.died(), (server.session, Death::Goodbye));
    assert_eq!(count(&house.handle().counters().deaths), 2);
}

#[test]
fn a_half_closed_lifeline_ends_the_session_too() {
    // What a client can do while a forked child of its own holds the descriptor.
    let house = House::new(settings());
    let (client, server) = house.join();
    rustix::io::write(&client.lifeline, &[lifeline::GOODBYE]).expect("written");
    rustix::net::shutdown(&client.lifeline, rustix::net::Shutdown::Write).expect("shut");
    assert_eq!(house.died(), (server.session, Death::Goodbye));
}

#[test]
fn wake_bytes_are_left_to_the_reactor() {
    let house = House::new(settings());
    let (client, server) = house.join();
    rustix::io::write(&client.lifeline, &[lifeline::WAKE]).expect("written");
    // Whatever the porter does about it, it has done when it has let the next client in.
    let _next = house.join();
    let mut bytes = [0; 8];
    assert_eq!(rustix::io::read(&server.lifeline, &mut bytes), Ok(1));
    assert_eq!(bytes[0], lifeline::WAKE);
}

#[test]
fn sessions_are_numbered_and_domains_shared_by_a_user() {
    let house = House::new(settings());
    let guests: Vec<_> = (0..5).map(|_| house.join()).collect();
    let sessions: Vec<_> = guests.iter().map(|(_, server)| server.session).collect();
    assert_eq!(sessions, [1, 2, 3, 4, 5]);
    assert!(guests.iter().all(|(client, server)| (client.domain, shared(server).domain) == (0, 0)));
    guests[0].0.bell.window.own_word(offset::SEQ).store(5, Ordering::Relaxed);
    assert_eq!(shared(&guests[4].1).domain_bell.peer_word(offset::SEQ).load(), 5, "one bell");
}

#[test]
fn isolated_sessions_have_domains_of_their_own_which_are_used_again() {
    let house = House::new(PorterConfig { isolation: Isolation::Session, max_clients: 3, ..settings() });
    let mut guests: Vec<_> = (0..3).map(|_| house.join()).collect();
    let domains = |guests: &[(Attachment, Box<Joined>)]| -> Vec<_> {
        guests.iter().map(|(client, _)| client.domain).collect()
    };
    assert_eq!(domains(&guests), [0, 1, 2]);
    guests[1].0.bell.window.own_word(offset::SEQ).store(5, Ordering::Relaxed);
    assert_eq!(shared(&guests[2].1).domain_bell.peer_word(offset::SEQ).load(), 0, "a bell each");
    let (client, server) = guests.remove(1);
    drop(client);
    assert_eq!(house.died().0, server.session);
    house.handle().closed(server.session);
    let (client, server) = house.join();
    assert_eq!((client.domain, client.session), (1, 4));
    assert_eq!(shared(&server).domain_bell.peer_word(offset::SEQ).load(), 0, "a new bell");
}

#[test]
fn unknown_sessions_cannot_be_closed() {
    let house = House::new(PorterConfig { max_clients: 1, ..settings() });
    let (_client, server) = house.join();
    house.handle().closed(server.session + 1);
    house.handle().closed(0);
    assert!(matches!(house.attach(), Err(ConnectError::Rejected(RejectReason::TooManyClients { limit: 1 }))));
    house.handle().closed(server.session);
    house.handle().closed(server.session);
    house.join();
}

// Every reason.

fn reason(config: PorterConfig) -> RejectReason {
    match House::new(config).attach() {
        Err(ConnectError::Rejected(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn other_users_are_rejected() {
    let me = rustix::process::getuid().as_raw();
    let others = Credentials::Uids(vec![me + 1, me + 2]);
    assert_eq!(reason(PorterConfig { credentials: others, ..settings() }), RejectReason::PermissionDenied);
    for credentials in [Credentials::SameUid, Credentials::Anyone, Credentials::Uids(vec![me])] {
        House::new(PorterConfig { credentials, ..settings() }).join();
    }
}

#[test]
fn one_client_too_many_is_rejected_until_there_is_room() {
    let house = House::new(PorterConfig { max_clients: 2, ..settings() });
    let (first, server) = house.join();
    let _second = house.join();
    for _ in 0..3 {
        let result = house.attach();
        let full = RejectReason::TooManyClients { limit: 2 };
        assert!(matches!(result, Err(ConnectError::Rejected(reason)) if reason == full), "{result:?}");
    }
    assert_eq!(house.rejected(RejectReason::TooManyClients { limit: 0 }), 3);
    drop(first);
    assert_eq!(house.died(), (server.session, Death::HungUp));
    // The place is the dead client's until the reactor has let go of it.
    assert!(house.attach().is_err());
    house.handle().closed(server.session);
    house.join();
}

#[test]
fn too_many_bytes_are_rejected() {
    let pair = crate::segment::SegmentPair::bytes(SMALL, SMALL);
    let limit = pair - 1;
    let config = PorterConfig { bytes_per_client: limit, ..settings() };
    assert_eq!(reason(config), RejectReason::BytesPerClient { limit });

    let house = House::new(PorterConfig { bytes_per_uid: 2 * pair, ..settings() });
    let (_first, server) = house.join();
    let _second = house.join();
    let full = RejectReason::BytesPerUid { limit: 2 * pair };
    assert!(matches!(house.attach(), Err(ConnectError::Rejected(reason)) if reason == full));
    house.handle().closed(server.session);
    house.join();
}

#[test]
fn too_many_handshakes_are_rejected() {
    let house = House::new(PorterConfig { max_handshakes: 3, ..settings() });
    let silent: Vec<_> = (0..3).map(|_| house.raw()).collect();
    eventually("three half-open", || count(&house.handle().counters().half_open) == 3);
    let result = house.attach();
    let full = RejectReason::TooManyHandshakes { limit: 3 };
    assert!(matches!(result, Err(ConnectError::Rejected(reason)) if reason == full), "{result:?}");
    drop(silent);
    eventually("none half-open", || count(&house.handle().counters().half_open) == 0);
    house.join();
}

#[test]
fn one_of_several_users_gets_half_the_handshakes() {
    let config = PorterConfig { max_handshakes: 4, credentials: Credentials::Anyone, ..settings() };
    let house = House::new(config);
    let _silent: Vec<_> = (0..2).map(|_| house.raw()).collect();
    eventually("two half-open", || count(&house.handle().counters().half_open) == 2);
    let full = RejectReason::TooManyHandshakes { limit: 2 };
    assert!(matches!(house.attach(), Err(ConnectError::Rejected(reason)) if reason == full));
}

#[test]
fn a_server_that_stops_rejects_and_goes() {
    let mut house = House::new(settings());
    let (client, _server) = house.join();
    let mut silent = house.raw();
    eventually("half-open", || count(&house.handle().counters().half_open) == 1);
    let (mut greeted, _) = welcomed(&house);
    house.handle().stop();
    let mut answer = Vec::new();
    silent.read_to_end(&mut answer).expect("an answer, and the end");
    assert_eq!(answer, RejectReason::ShuttingDown.encode_reject());
    answer.clear();
    greeted.read_to_end(&mut answer).expect("an answer, and the end");
    assert_eq!(answer, [lifeline::Farewell::ShutDown as u8]);
    assert!(matches!(house.attach(), Err(ConnectError::Rejected(RejectReason::ShuttingDown))));
    let mut byte = [0];
    assert_eq!(
        rustix::io::read(&client.lifeline, &mut byte),
        Err(rustix::io::Errno::AGAIN),
        "sessions go on"
    );
    drop(house.handle.take().expect("running"));
    assert!(!house.path.exists());
    assert!(matches!(house.attach(), Err(ConnectError::NoSuchSocket(_))));
}

#[test]
fn garbage_is_rejected() {
    let house = House::new(settings());
    let good = a_hello().encode();
    let change = |at: usize, bytes: &[u8]| {
        let mut hello = good.clone();
        hello[at..at + bytes.len()].copy_from_slice(bytes);
        hello
    };
    let bad = RejectReason::BadHello.encode_reject();
    let version = RejectReason::VersionUnsupported { min: 1, max: 1 }.encode_reject();
    const BODY: usize = 16;
    for (what, bytes, answer) in [
        ("wrong magic", change(0, b"X"), &bad),
        ("another protocol", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), &bad),
        ("huge length", change(8, &[0xff; 4]), &bad),
        ("length above the limit", change(8, &4097u32.to_le_bytes()), &bad),
        ("short body", change(8, &87u32.to_le_bytes()), &bad),
        ("no body", change(8, &[0; 4]), &bad),
        ("unknown kind", change(12, &[9]), &bad),
        ("a welcome", change(12, &[2]), &bad),
        ("a later page", change(14, &[2]), &version),
        ("version 0", change(BODY, &[0; 4]), &version),
        ("version 999", change(BODY, &[0xe7, 3, 0xe7, 3]), &version),
        ("versions backwards", change(BODY, &[2, 0, 1, 0]), &bad),
        ("bad role", change(BODY + 4, &[0]), &bad),
        ("bad role", change(BODY + 4, &[77]), &bad),
        ("bad transport", change(BODY + 5, &[77]), &bad),
        ("long name", change(BODY + 6, &[49]), &bad),
        ("name not UTF-8", change(BODY + 40, &[0xff]), &bad),
        ("64 KiB of zeros", vec![0; 64 << 10], &bad),
        ("64 KiB of noise", noise(64 << 10), &bad),
    ] {
        assert_eq!(&house.answer(&bytes), answer, "{what}");
    }
    eventually("nothing half-open", || count(&house.handle().counters().half_open) == 0);
    assert_eq!(house.rejected(RejectReason::BadHello), 16);
    assert_eq!(house.handle().counters().rejected_total(), 19);
    house.join();
}

/// Numbers without pattern, the same every time.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn wishes_are_checked() {
    let house = House::new(settings());
    let bad = RejectReason::BadCapacity.encode_reject();
    for wanted in [1, 3, 1024, 2048 + 64, 1 << 31, 1 << 63, u64::MAX] {
        assert_eq!(house.refusal(Hello { request_capacity: wanted, ..a_hello() }), bad, "{wanted}");
        assert_eq!(house.refusal(Hello { response_capacity: wanted, ..a_hello() }), bad, "{wanted}");
    }
    let much = RejectReason::BytesPerClient { limit: 64 << 20 }.encode_reject();
    assert_eq!(house.refusal(Hello { request_capacity: 1 << 30, ..a_hello() }), much);
    let socket = Hello { transport: Transport::Socket, ..a_hello() };
    assert_eq!(house.refusal(socket.clone()), RejectReason::SocketOff.encode_reject());
    let features = Hello { features: u32::MAX, versions: (0, 999), ..a_hello() };
    let mut stream = house.raw();
    stream.write_all(&features.encode()).expect("written");
    let mut head = [0; 16];
    stream.read_exact(&mut head).expect("an answer");
    assert_eq!(head[12], 2, "welcome: unknown features and further versions are no obstacle");

    assert_eq!(reason(PorterConfig { shared_memory: false, ..settings() }), RejectReason::SharedMemoryOff);
    assert_eq!(house.rejected(RejectReason::SocketOff), 1);
}

// The socket as transport.

/// Sends a frame each way, between two ends that have nothing but the socket.
fn frames_travel(client: SocketAttachment, server: &Joined) {
    let ends = [SocketLink::new(Arc::new(client.socket)), SocketLink::new(server.lifeline.clone())];
    let [mut from, mut to] = ends;
    for _ in 0..2 {
        let word = HeaderWord::new(Kind::Request, 0, 0, 0);
        assert_eq!(from.try_push(word, 7, &[], b"over the socket"), Pushed::Done);
        from.flush().expect("sent");
        eventually("a frame", || to.fill().expect("alive") != Filled::Nothing);
        let frame = to.peek().expect("no fault").expect("a frame");
        assert_eq!((frame.call, to.body(&frame)), (7, &b"over the socket"[..]));
        to.release(frame);
        std::mem::swap(&mut from, &mut to);
    }
}

#[test]
fn a_client_that_asks_for_the_socket_gets_it() {
    assert!(PorterConfig::default().fallback && PorterConfig::default().shared_memory);
    let house = House::new(lenient());
    let options = HelloOptions {
        name: "tester".into(),
        max_message: 1000,
        transport: TransportChoice::Socket,
        ..HelloOptions::default()
    };
    let Attached::Socket(client) = handshake::attach(&house.path, &options, soon()).expect("attached") else {
        panic!("shared memory");
    };
    let server = house.joined();
    assert_eq!(by_socket(&server), RejectReason::SocketAsked);
    assert_eq!((client.session, client.generation, client.reason), (1, GENERATION, FallbackReason::Asked));
    assert_eq!((client.max_message, client.server_pid), (1000, std::process::id()));
    assert_eq!((server.session, server.max_message), (1, 1000));
    assert_eq!((server.peer.pid, &*server.peer.name), (std::process::id(), "tester"));
    frames_travel(client, &server);
    assert_eq!(count(&house.handle().counters().fallbacks), 1);
    assert_eq!(count(&house.handle().counters().joined), 1);

    let (client, server) = house.join();
    assert_eq!((client.session, shared(&server).domain), (2, 0), "others still get shared memory");
    assert_eq!(count(&house.handle().counters().fallbacks), 1);
}

#[test]
fn without_shared_memory_every_client_gets_the_socket() {
    let house = House::new(PorterConfig { shared_memory: false, ..lenient() });
    for _ in 0..2 {
        let (client, server) = house.join_by_socket();
        assert_eq!(client.reason, FallbackReason::Server(RejectReason::SharedMemoryOff));
        assert_eq!(by_socket(&server), RejectReason::SharedMemoryOff);
        frames_travel(client, &server);
    }
    let result = house.attach();
    let refused = matches!(result, Err(ConnectError::SharedMemoryRefused(RejectReason::SharedMemoryOff)));
    assert!(refused, "{result:?}");
    eventually("its place is free", || count(&house.handle().counters().half_open) == 0);
    assert_eq!(count(&house.handle().counters().fallbacks), 2);
    // What would be wrong with rings is no matter then.
    let Attached::Socket(_) = handshake::attach(
        &house.path,
        &HelloOptions { request_capacity: 1 << 30, ..HelloOptions::default() },
        soon(),
    )
    .expect("attached") else {
        panic!("shared memory");
    };
}

#[test]
fn a_server_without_memfds_has_the_socket() {
    let house = House::new(lenient());
    let info = StatusInfo { segment: None, generation: 1, armed_words: 1 };
    let mut desk = desk::Desk::new(&lenient(), &info).expect("made");
    let peer = PeerInfo { pid: 1, uid: rustix::process::geteuid().as_raw(), gid: 3, name: String::new() };
    let offer = desk.admit(&peer, &a_hello());
    let off = RejectReason::SharedMemoryOff;
    assert!(matches!(offer, Ok(Offer::Socket(Fallback { reason, .. })) if reason == off), "{offer:?}");
    let mut desk = desk::Desk::new(&settings(), &info).expect("made");
    assert_eq!(desk.admit(&peer, &a_hello()).err(), Some(off));
    drop(house);
}

#[test]
fn limits_of_memory_lead_to_the_socket() {
    let pair = crate::segment::SegmentPair::bytes(SMALL, SMALL);
    let limit = pair - 1;
    let house = House::new(PorterConfig { bytes_per_client: limit, ..lenient() });
    let (client, server) = house.join_by_socket();
    assert_eq!(by_socket(&server), RejectReason::BytesPerClient { limit });
    assert_eq!(client.reason, FallbackReason::Server(RejectReason::BytesPerClient { limit }));

    let house = House::new(PorterConfig { bytes_per_uid: pair, ..lenient() });
    let (_first, server) = house.join();
    let full = RejectReason::BytesPerUid { limit: pair };
    let others: Vec<_> = (0..3).map(|_| house.join_by_socket()).collect();
    assert!(others.iter().all(|(_, server)| by_socket(server) == full));
    assert!(matches!(house.attach(), Err(ConnectError::SharedMemoryRefused(reason)) if reason == full));
    for (_, other) in &others {
        house.handle().closed(other.session);
    }
    let (_, other) = house.join_by_socket();
    assert_eq!(by_socket(&other), full, "they had no memory to give back");
    house.handle().closed(server.session);
    house.join();
    assert_eq!(house.handle().counters().rejected_total(), 0);
}

#[test]
fn clients_on_the_socket_are_clients() {
    let house = House::new(PorterConfig { max_clients: 2, shared_memory: false, ..lenient() });
    let (_first, server) = house.join_by_socket();
    let _second = house.join_by_socket();
    let full = RejectReason::TooManyClients { limit: 2 };
    for transport in [TransportChoice::Auto, TransportChoice::Socket, TransportChoice::SharedMemory] {
        let result = house.attach_somehow(transport);
        assert!(matches!(result, Err(ConnectError::Rejected(reason)) if reason == full), "{result:?}");
    }
    house.handle().closed(server.session);
    house.join_by_socket();

    let house = House::new(PorterConfig { max_clients: 1, bytes_per_client: 1, ..lenient() });
    house.join_by_socket();
    let full = RejectReason::TooManyClients { limit: 1 };
    let result = house.attach_somehow(TransportChoice::Auto);
    assert!(matches!(result, Err(ConnectError::Rejected(reason)) if reason == full), "{result:?}");
}

#[test]
fn a_socket_is_left_to_the_reactor() {
    let house = House::new(PorterConfig { shared_memory: false, ..lenient() });
    let (client, server) = house.join_by_socket();
    rustix::io::write(&client.socket, &[lifeline::GOODBYE]).expect("written");
    drop(client);
    // Whatever the porter does about it, it has done when it has let the next client in.
    let (_next, _) = house.join_by_socket();
    assert!(house.events.try_recv().is_err(), "it says nothing");
    let mut bytes = [0; 8];
    assert_eq!(rustix::io::read(&server.lifeline, &mut bytes), Ok(1), "and has read nothing");
    assert_eq!(rustix::io::read(&server.lifeline, &mut bytes), Ok(0));
    let epoll = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).expect("made");
    let (data, flags) = (rustix::event::epoll::EventData::new_u64(1), rustix::event::epoll::EventFlags::IN);
    rustix::event::epoll::add(&epoll, &server.lifeline, data, flags).expect("watched by somebody else");
    house.handle().closed(server.session);
    assert_eq!(count(&house.handle().counters().deaths), 0);
}

/// A client that was offered the socket, and has not answered yet.
fn offered(house: &House) -> UnixStream {
    let mut stream = house.raw();
    stream.write_all(&Hello { transport: Transport::Socket, ..a_hello() }.encode()).expect("written");
    let mut message = [0; 16 + 64];
    stream.read_exact(&mut message).expect("an answer");
    assert_eq!((message[12], message[8]), (3, 64), "a fallback");
    stream
}

#[test]
fn whoever_was_offered_the_socket_and_does_not_come_leaves_its_place() {
    let house = House::new(PorterConfig { max_clients: 1, ..lenient() });
    for _ in 0..3 {
        let stream = offered(&house);
        assert!(matches!(house.attach(), Err(ConnectError::Rejected(RejectReason::TooManyClients { .. }))));
        drop(stream);
        eventually("the place is free", || count(&house.handle().counters().half_open) == 0);
    }
    for byte in [lifeline::WAKE, lifeline::GOODBYE, 0] {
        let mut stream = offered(&house);
        stream.write_all(&[byte]).expect("written");
        assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
    }
    assert_eq!(count(&house.handle().counters().failed), 6);
    assert_eq!(count(&house.handle().counters().fallbacks), 0, "none began");
    let (_client, server) = house.join();
    assert_eq!(server.session, 7, "ids are not used again");
}

#[test]
fn whoever_leaves_has_left_when_its_connection_ends() {
    // So a client that cannot map asks for the socket in time for its own place.
    let house = House::new(PorterConfig { max_clients: 1, ..lenient() });
    for _ in 0..100 {
        let (mut stream, _) = welcomed(&house);
        stream.shutdown(std::net::Shutdown::Write).expect("shut");
        assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
    }
    house.attach_somehow(TransportChoice::Socket).expect("there is room");
}

#[test]
fn a_farewell_before_the_first_frame_is_a_frame() {
    let mut house = House::new(PorterConfig { handshake_deadline: Duration::from_millis(100), ..lenient() });
    let goodbye = |stream: UnixStream| {
        stream.set_nonblocking(true).expect("set");
        let mut link = SocketLink::new(Arc::new(stream.into()));
        eventually("the end", || link.fill().expect("alive") == Filled::End);
        let frame = link.peek().expect("no fault").expect("a frame");
        assert_eq!((frame.header.kind(), frame.call, frame.len()), (Some(Kind::Goodbye), 0, 0));
        let code = frame.header.code();
        link.release(frame);
        assert!(!link.is_truncated());
        code
    };
    assert_eq!(goodbye(offered(&house)), lifeline::Farewell::TooLate as u16);
    house = House::new(lenient());
    let stream = offered(&house);
    house.handle().stop();
    assert_eq!(goodbye(stream), lifeline::Farewell::ShutDown as u16);
}

#[test]
fn frames_may_follow_at_once() {
    let house = House::new(lenient());
    let mut stream = offered(&house);
    stream.write_all(&[lifeline::READY, 1, 2, 3]).expect("written");
    let server = house.joined();
    let mut bytes = [0; 8];
    assert_eq!(rustix::io::read(&server.lifeline, &mut bytes), Ok(3), "READY alone was read");
}

#[test]
fn features_are_granted_as_far_as_they_are_known() {
    let house = House::new(lenient());
    let mut clients = Vec::new();
    for transport in [TransportChoice::SharedMemory, TransportChoice::Socket] {
        for ordered in [false, true] {
            let options = HelloOptions { ordered, transport, ..HelloOptions::default() };
            let client = handshake::attach(&house.path, &options, soon()).expect("attached");
            let granted = match &client {
                Attached::Shared(client) => client.ordered,
                Attached::Socket(client) => client.ordered,
            };
            assert_eq!((granted, house.joined().ordered), (ordered, ordered));
            clients.push(client);
        }
    }
    for (transport, at) in [(Transport::Shared, 16 + 68), (Transport::Socket, 16 + 28)] {
        let mut stream = house.raw();
        stream.write_all(&Hello { features: u32::MAX, transport, ..a_hello() }.encode()).expect("written");
        let mut message = [0; 16 + 64];
        stream.read_exact(&mut message).expect("an answer");
        let mut rest = [0; 8];
        let message = match transport {
            Transport::Shared => {
                stream.read_exact(&mut rest).expect("the rest");
                [&message[..], &rest].concat()
            }
            Transport::Socket => message.to_vec(),
        };
        // A socket has no page for samples.
        let granted =
            if transport == Transport::Shared { FEATURE_ORDERED | FEATURE_SAMPLES } else { FEATURE_ORDERED };
        assert_eq!(message[at..at + 4], granted.to_le_bytes(), "{transport:?}");
    }
}

#[test]
fn no_memory_for_segments_is_a_reason() {
    use crate::segment::SegmentError;
    let errors = [
        (SegmentError::OutOfMemory, RejectReason::OutOfMemory),
        (SegmentError::OutOfDescriptors, RejectReason::OutOfDescriptors),
        (SegmentError::Io(rustix::io::Errno::NOSYS.into()), RejectReason::SharedMemoryOff),
    ];
    for (error, reason) in errors {
        assert_eq!(desk::reason_of(&error), reason);
    }
}

#[test]
fn a_welcome_that_cannot_be_sent_is_replaced() {
    let house = House::new(settings());
    let info = StatusInfo { segment: Some(&house._status), generation: GENERATION, armed_words: 2 };
    let peer = PeerInfo { pid: 1, uid: rustix::process::geteuid().as_raw(), gid: 3, name: String::new() };
    let bytes_per_uid = crate::segment::SegmentPair::bytes(SMALL, SMALL);
    let config = PorterConfig { max_clients: 2, bytes_per_uid, ..lenient() };
    let mut desk = desk::Desk::new(&config, &info).expect("made");
    let welcome = |offer: Result<Offer, RejectReason>| match offer {
        Ok(Offer::Shared(offer)) => offer.welcome,
        other => panic!("{other:?}"),
    };
    let hello = Hello { features: FEATURE_ORDERED, ..a_hello() };
    let first = welcome(desk.admit(&peer, &hello));
    let fallback = desk.offer_socket(&first, RejectReason::OutOfDescriptors).expect("offered");
    assert_eq!((fallback.session, fallback.reason), (first.session, RejectReason::OutOfDescriptors));
    assert_eq!((fallback.features, fallback.max_message), (FEATURE_ORDERED, first.max_message));
    // Its memory is free, its slot is not.
    welcome(desk.admit(&peer, &hello));
    assert_eq!(desk.admit(&peer, &hello).err(), Some(RejectReason::TooManyClients { limit: 2 }));
    desk.leave(first.session);
    assert!(matches!(desk.admit(&peer, &hello), Ok(Offer::Socket(_))));

    let mut desk = desk::Desk::new(&settings(), &info).expect("made");
    let first = welcome(desk.admit(&peer, &hello));
    let refused = desk.offer_socket(&first, RejectReason::OutOfDescriptors);
    assert_eq!(refused, Err(RejectReason::OutOfDescriptors));
}

// Slow and hostile clients.

/// A client that got its Welcome, and has not answered yet.
fn welcomed(house: &House) -> (UnixStream, Vec<u8>) {
    let mut stream = house.raw();
    stream.write_all(&a_hello().encode()).expect("written");
    let mut head = [0; 16];
    stream.read_exact(&mut head).expect("an answer");
    assert_eq!(head[12], 2, "a welcome");
    let mut body = vec![0; usize::from(head[8])];
    stream.read_exact(&mut body).expect("its body");
    (stream, body)
}

#[test]
fn a_silent_client_is_left_at_the_deadline() {
    let house = House::new(PorterConfig { handshake_deadline: Duration::from_millis(20), ..settings() });
    assert_eq!(house.answer(&[]), []);
    assert_eq!(house.answer(b"RING"), [], "half a header");
    assert_eq!(house.answer(&a_hello().encode()[..50]), [], "half a hello");
    let (mut stream, _) = welcomed(&house);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer, and the end");
    assert_eq!(answer, [lifeline::Farewell::TooLate as u8]);
    assert_eq!(count(&house.handle().counters().timeouts), 4);
    assert_eq!(count(&house.handle().counters().half_open), 0);
}

#[test]
fn whoever_was_admitted_and_does_not_come_leaves_its_place() {
    let house = House::new(PorterConfig { max_clients: 1, ..settings() });
    for _ in 0..3 {
        let (stream, _) = welcomed(&house);
        assert!(matches!(house.attach(), Err(ConnectError::Rejected(RejectReason::TooManyClients { .. }))));
        drop(stream);
        eventually("the place is free", || count(&house.handle().counters().half_open) == 0);
    }
    for byte in [lifeline::WAKE, lifeline::GOODBYE, 0] {
        let (mut stream, _) = welcomed(&house);
        stream.write_all(&[byte]).expect("written");
        assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
    }
    assert_eq!(count(&house.handle().counters().failed), 6);
    let (_client, server) = house.join();
    assert_eq!(server.session, 7, "ids are not used again");
}

#[test]
fn a_hello_byte_by_byte_is_a_hello() {
    let house = House::new(settings());
    let mut stream = house.raw();
    for byte in a_hello().encode() {
        stream.write_all(&[byte]).expect("written");
        std::thread::yield_now();
    }
    let mut head = [0; 16];
    stream.read_exact(&mut head).expect("an answer");
    assert_eq!(head[12], 2, "a welcome");
}

#[test]
fn slow_clients_do_not_delay_others() {
    let house = House::new(settings());
    let _silent: Vec<_> = (0..8).map(|_| house.raw()).collect();
    let _welcomed: Vec<_> = (0..7).map(|_| welcomed(&house)).collect();
    house.join();
}

#[test]
fn descriptors_from_a_client_are_refused() {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
    let house = House::new(settings());
    let stream = house.raw();
    let rights = [stream.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&rights)));
    let hello = a_hello().encode();
    match rustix::net::sendmsg(&stream, &[std::io::IoSlice::new(&hello)], &mut control, SendFlags::NOSIGNAL) {
        // The kernel knows SO_PASSRIGHTS.
        Err(rustix::io::Errno::PERM) => {}
        // It does not: there is no room for them.
        Ok(sent) => assert_eq!(sent, hello.len()),
        other => panic!("{other:?}"),
    }
    house.join();
}

#[test]
fn a_client_that_seals_its_segment_is_turned_out() {
    use std::io::IoSliceMut;
    let house = House::new(settings());
    let mut stream = house.raw();
    stream.write_all(&a_hello().encode()).expect("written");
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(5))];
    let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 256];
    let flags = rustix::net::RecvFlags::CMSG_CLOEXEC;
    let got = rustix::net::recvmsg(&stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags);
    assert!(got.expect("a welcome").bytes > 16);
    let fds: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            rustix::net::RecvAncillaryMessage::ScmRights(rights) => Some(rights),
            _ => None,
        })
        .flatten()
        .collect();
    rustix::fs::fcntl_add_seals(&fds[0], rustix::fs::SealFlags::SEAL).expect("sealed");
    stream.write_all(&[lifeline::READY]).expect("written");
    assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
    eventually("counted", || count(&house.handle().counters().failed) == 1);
    house.join();
}

#[test]
fn many_join_at_once() {
    let house = House::new(PorterConfig { max_clients: 1024, max_handshakes: 64, ..settings() });
    let path = &house.path;
    let attach = || attach(path, &HelloOptions::default(), soon()).expect("attached");
    let clients: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| (0..16).map(|_| attach()).collect::<Vec<_>>())).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    let mut sessions: Vec<_> = clients.iter().map(|client| client.session).collect();
    sessions.sort_unstable();
    assert_eq!(sessions, (1..=128).collect::<Vec<_>>());
    for _ in 0..128 {
        house.joined();
    }
}

// What is counted per process runs in one of its own.

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("procfs").count()
}

fn mappings(kind: &str) -> usize {
    std::fs::read_to_string("/proc/self/maps")
        .expect("procfs")
        .matches(&format!("memfd:ringbell:{kind}"))
        .count()
}

#[test]
fn a_thousand_rounds_leave_nothing_behind() {
    if !alone("porter::tests::a_thousand_rounds_leave_nothing_behind") {
        return;
    }
    let before = descriptors();
    let house = House::new(settings());
    let round = || {
        let (client, server) = house.join();
        drop(client);
        assert_eq!(house.died(), (server.session, Death::HungUp));
        let session = server.session;
        drop(server);
        house.handle().closed(session);
    };
    let settled = |fds, maps| eventually("nothing left", || (descriptors(), mappings("")) == (fds, maps));
    round();
    // The spare, which it makes when it has time, and no domain.
    eventually("idle, with a spare", || (mappings("response"), mappings("bell")) == (1, 0));
    let (fds, maps) = (descriptors(), mappings(""));
    for _ in 0..1000 {
        round();
    }
    settled(fds, maps);
    // Failed handshakes leave nothing, either.
    for _ in 0..100 {
        drop(welcomed(&house));
        house.answer(&noise(100));
    }
    settled(fds, maps);
    drop(house);
    assert_eq!((descriptors(), mappings("")), (before, 0));
}

#[test]
fn without_descriptors_clients_are_told_so_and_the_porter_does_not_spin() {
    if !alone("porter::tests::without_descriptors_clients_are_told_so_and_the_porter_does_not_spin") {
        return;
    }
    let house = House::new(settings());
    let (_client, server) = house.join();
    eventually("a spare beside the two ends of the session", || mappings("response") == 3);
    let old = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    // One for the client's socket.
    let limit = highest_descriptor() + 2;
    let set = |current| {
        let new = rustix::process::Rlimit { current, maximum: old.maximum };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, new).expect("set");
    };
    set(Some(limit));
    let fill: Vec<_> = std::iter::from_fn(|| server.lifeline.try_clone().ok()).collect();
    drop(fill.last().expect("room for one").try_clone());
    let mut fill = fill;
    for _ in 0..5 {
        fill.pop();
        let open = || std::fs::read_dir("/proc/self/fd").map(Iterator::count).ok();
        let before = open();
        let result = house.attach();
        // Until the porter has its reserve again, one descriptor less is open; filled up now, there would be none.
        eventually("settled", || before.is_some() && open() == before);
        let got = matches!(
            result,
            Err(ConnectError::Rejected(RejectReason::OutOfDescriptors) | ConnectError::OutOfDescriptors)
        );
        assert!(got, "{result:?}");
        while let Ok(one) = server.lifeline.try_clone() {
            fill.push(one);
        }
    }
    assert!(house.rejected(RejectReason::OutOfDescriptors) > 0);
    drop(fill);
    set(old.current);
    eventually("it lets clients in again", || house.attach().is_ok());
}

fn highest_descriptor() -> u64 {
    let names = std::fs::read_dir("/proc/self/fd").expect("procfs");
    names.filter_map(|name| name.ok()?.file_name().to_str()?.parse().ok()).max().expect("some")
}

#[test]
fn an_idle_porter_sleeps() {
    if !alone("porter::tests::an_idle_porter_sleeps") {
        return;
    }
    let house = House::new(settings());
    let (_client, _server) = house.join();
    let task = porter_task();
    // In the kernel's epoll wait, without a timeout to come.
    eventually("asleep", || {
        let call = std::fs::read_to_string(task.join("syscall")).expect("readable");
        let fields: Vec<_> = call.split_whitespace().collect();
        let epoll = [libc::SYS_epoll_wait, libc::SYS_epoll_pwait].map(|number| number.to_string());
        fields.first().is_some_and(|number| epoll.iter().any(|epoll| epoll == number))
            && fields.get(4).is_some_and(|timeout| timeout.ends_with("ffffffff"))
    });
}

fn porter_task() -> PathBuf {
    let tasks = std::fs::read_dir("/proc/self/task").expect("procfs");
    let is_porter = |path: &Path| {
        std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == "ringbell-porter")
    };
    tasks.filter_map(|task| Some(task.ok()?.path())).find(|path| is_porter(path)).expect("it runs")
}

#[test]
fn generations_differ() {
    let mut all: Vec<_> = (0..1000).map(|_| generation()).collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 1000);
    assert_ne!(all[0], 0);
}

// Inspectors.

#[cfg(feature = "inspect")]
mod inspectors {
    use super::*;
    use crate::handshake::{Inspector, Survey};
    use crate::inspect::{Segment as Decoded, decode};
    use crate::layout::CONTROL;
    use std::os::fd::OwnedFd;

    fn survey(house: &House) -> Survey {
        let inspector = Inspector::connect(&house.path, Some(PATIENCE)).expect("connected");
        assert_eq!(inspector.listener(), Some(std::process::id()));
        inspector.survey().expect("shown")
    }

    fn decoded(segment: &OwnedFd) -> Decoded {
        let mut page = vec![0; CONTROL];
        assert_eq!(rustix::io::pread(segment, &mut page, 0), Ok(CONTROL));
        decode(&page).expect("a segment")
    }

    #[test]
    fn an_inspector_sees_all_sessions_and_can_write_nothing() {
        let house = House::new(PorterConfig { fallback: true, ..settings() });
        // More than one message takes.
        let clients: Vec<_> = (0..40).map(|_| house.join()).collect();
        let shown = survey(&house);
        assert_eq!((shown.generation, shown.sockets, shown.pid), (GENERATION, 0, std::process::id()));
        assert_eq!(shown.segments.len(), 1 + 2 * clients.len());
        let mut sessions = Vec::new();
        for (index, segment) in shown.segments.iter().enumerate() {
            match decoded(segment) {
                Decoded::Status(_) => assert_eq!(index, 0),
                Decoded::Request(request) => sessions.push(request.identity.session),
                Decoded::Response(response) => assert_eq!(Some(&response.identity.session), sessions.last()),
                Decoded::Bell(bell) => panic!("whoever holds it can write it: {bell:?}"),
            }
            assert!(rustix::io::pwrite(segment, &[1], 0).is_err(), "it is sealed");
            assert!(memmap2::MmapOptions::new().map_raw(segment).is_err(), "for mappings, too");
        }
        let all: Vec<u64> = clients.iter().map(|(_, joined)| joined.session).collect();
        assert_eq!(sessions, all);
        assert_eq!(house.handle().counters().rejected_total(), 0);
        assert_eq!(count(&house.handle().counters().failed), 0);
        assert_eq!(count(&house.handle().counters().joined), 40);

        // What is closed is shown no more, and nobody but the server keeps it.
        house.handle().closed(clients[0].1.session);
        eventually("one session less", || survey(&house).segments.len() == 1 + 2 * 39);
    }

    #[test]
    fn whoever_could_trace_the_server_is_no_client_for_it() {
        let me = rustix::process::geteuid().as_raw();
        let house = House::new(PorterConfig { credentials: Credentials::Uids(vec![me + 1]), ..settings() });
        let denied = RejectReason::PermissionDenied.encode_reject();
        assert_eq!(house.refusal(a_hello()), denied);
        assert_eq!(survey(&house).segments.len(), 1);
        let shut = PeerInfo { pid: 1, uid: me.max(1) + 1, gid: 0, name: String::new() };
        assert!(!shut.may_inspect());
        assert_eq!(house.refusal(Hello { versions: (7, 9), role: Role::Inspector, ..a_hello() })[12], 4);
    }
}
