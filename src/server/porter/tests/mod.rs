//! The porter against clients, good ones and others.

mod counted;
mod fallback;
#[cfg(feature = "inspect")]
mod inspectors;
mod large;
mod refusals;
mod sessions;
mod strangers;
mod versions;

use super::*;
use crate::handshake::tests::{PATIENCE, Scratch, a_hello, attach, soon};
use crate::handshake::{
    self, Attached, Attachment, ConnectError, Hello, HelloOptions, ListenOptions, SocketAttachment,
    TransportChoice, listen,
};
use crate::memory::layout::{NAME, Peer};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

impl Outbox for Sender<Event> {
    fn deliver(&self, event: Event) {
        // A test that is over does not care.
        let _ = self.send(event);
    }
}

/// A server without a reactor: events lie in a channel.
struct Fixture {
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

impl Fixture {
    fn new(config: PorterConfig) -> Self {
        Self::run(PorterMode::Thread, config)
    }

    fn run(mode: PorterMode, config: PorterConfig) -> Self {
        Self::listening(mode, config, |_| {})
    }

    /// As [`Self::run`], after something was done to the listener.
    fn listening(mode: PorterMode, config: PorterConfig, prepare: impl FnOnce(&Listener)) -> Self {
        let scratch = Scratch::new();
        let path = scratch.path("s");
        let listener = listen(&path, &ListenOptions::default()).expect("bound");
        prepare(&listener);
        let me = Peer { pid: 0, uid: 0, name: [0; NAME] };
        let armed_words = config.max_clients;
        let status = Segment::status(GENERATION, armed_words.into(), &me).expect("made");
        let (outbox, events) = channel();
        let info = StatusInfo { segment: Ok(&status), generation: GENERATION, armed_words };
        let handle = Some(start(mode, listener, config, &info, outbox).expect("started"));
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
        handshake::attach(
            &self.path,
            &HelloOptions { transport, ..HelloOptions::default() },
            soon(),
        )
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
struct SharedCarrier<'a> {
    request: &'a Segment,
    response: &'a Segment,
    domain: u32,
    domain_bell: &'a crate::memory::Window,
    request_capacity: u64,
    response_capacity: u64,
}

fn shared(joined: &Joined) -> SharedCarrier<'_> {
    match &joined.carrier {
        Carrier::Shared {
            request,
            response,
            domain,
            domain_bell,
            request_capacity,
            response_capacity,
        } => SharedCarrier {
            request,
            response,
            domain: *domain,
            domain_bell,
            request_capacity: *request_capacity,
            response_capacity: *response_capacity,
        },
        Carrier::Socket { reason } => panic!("a socket: {reason}"),
    }
}

/// Where the bell word is that a client rings.
fn own_bell(client: &Attachment) -> &crate::memory::Window {
    &client.bell.as_ref().unwrap_or(&client.request).window
}

/// Why a session goes over the socket.
fn by_socket(joined: &Joined) -> RejectReason {
    match joined.carrier {
        Carrier::Socket { reason } => reason,
        Carrier::Shared { .. } => panic!("shared memory"),
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

/// A client that got its Welcome, and has not answered yet.
fn welcomed(fixture: &Fixture) -> (UnixStream, Vec<u8>) {
    let mut stream = fixture.raw();
    stream.write_all(&a_hello().encode()).expect("written");
    let mut head = [0; 16];
    stream.read_exact(&mut head).expect("an answer");
    assert_eq!(head[12], 2, "a welcome");
    let mut body = vec![0; usize::from(head[8])];
    stream.read_exact(&mut body).expect("its body");
    (stream, body)
}
