//! A server in an event loop: pump, arm, wait for the one descriptor, disarm, as
//! `src/server/reactor/embedded.rs` and `src/server/embedded.rs` do it. Arming is the reactor's
//! own: `bells.rs`.
//!
//! Nearer to the kernel than `event_loop.rs`, since a server has many sources behind one
//! descriptor: an epoll in which each source makes edges, and which the loop watches itself, level-
//! or edge-triggered. Who asks the epoll takes the edges; they are told once. Three kinds of
//! sources:
//!
//! - a session over rings: its client publishes, and wakes an armed server by a byte on the
//!   lifeline, which the server does not read before it looks;
//! - answers that other threads complete: a flag, and the private bell with its eventfd;
//! - a session over a socket: no bell. What the kernel told of it is remembered until the socket is
//!   read empty.

use crate::explore;
use loom::sync::{Condvar, Mutex};
use loom::thread;
use ringbell::bell::{Arming, Ringer, Sleeper};
use ringbell::bells::Bells;
use ringbell::layout::{Interest, Mode};
use ringbell::memory::{BellWord, OwnWord, PeerWord, word_pair};
use ringbell::sync::Ordering;
use std::sync::Arc;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Trigger {
    Level,
    Edge,
}

/// The epoll, whose sources are the bits of a word, and the loop's watch over it.
struct Epoll {
    state: Mutex<State>,
    woken: Condvar,
    trigger: Trigger,
}

#[derive(Default)]
struct State {
    /// Sources with an edge that nobody has asked for yet.
    edges: u32,
    /// There was one since the loop was last told.
    edge: bool,
    /// The loop has something else to do.
    other: bool,
    /// Bytes in the socket.
    unread: u64,
    wakes: usize,
}

/// Sources in the epoll.
const LIFELINE: u32 = 1;
const EVENTFD: u32 = 2;
const SOCKET: u32 = 4;

impl Epoll {
    fn new(trigger: Trigger) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), woken: Condvar::new(), trigger })
    }

    fn tell(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
        self.woken.notify_all();
    }

    /// Something was written to a source.
    fn edge(&self, source: u32) {
        self.tell(|state| (state.edges, state.edge) = (state.edges | source, true));
    }

    /// A byte on a lifeline, or in the eventfd.
    fn wake(&self, source: u32) {
        self.state.lock().unwrap().wakes += 1;
        self.edge(source);
    }

    /// A frame of a client that the socket carries.
    fn send(&self) {
        self.state.lock().unwrap().unread += 1;
        self.edge(SOCKET);
    }

    /// The loop waits for the epoll's descriptor.
    fn wait(&self) {
        let mut state = self.state.lock().unwrap();
        while !(state.other || state.edges != 0 && (self.trigger == Trigger::Level || state.edge)) {
            state = self.woken.wait(state).unwrap();
        }
        (state.other, state.edge) = (false, false);
    }

    /// Asks the epoll: takes its edges.
    fn harvest(&self) -> u32 {
        std::mem::take(&mut self.state.lock().unwrap().edges)
    }

    /// Reads the socket empty.
    fn receive(&self) -> u64 {
        std::mem::take(&mut self.state.lock().unwrap().unread)
    }
}

/// The server's side.
struct Embedded {
    bells: Bells,
    epoll: Arc<Epoll>,
    /// The ring of the session that has one: how far it was read.
    ring: PeerWord,
    read: u64,
    /// Completed answers, and how many were sent.
    completions: PeerWord,
    sent: u64,
    /// What the kernel has said of the socket, and how much was read of it.
    readable: bool,
    received: u64,
    arms: usize,
}

impl Embedded {
    /// Takes one look at each source, in turn: something may come to one that it has passed.
    /// Whether there was anything.
    fn pump(&mut self) -> bool {
        let ring = self.ring.load();
        let completed = self.completions.load();
        let received = if std::mem::take(&mut self.readable) { self.epoll.receive() } else { 0 };
        let worked = (ring, completed) != (self.read, self.sent) || received != 0;
        (self.read, self.sent) = (ring, completed);
        self.received += received;
        worked
    }

    fn arm(&mut self) -> bool {
        self.arms += 1;
        let Self { bells, ring, read, completions, sent, readable, .. } = self;
        let look = || ring.load() != *read || completions.load() != *sent || *readable;
        bells.arm(Mode::Event, Interest::DATA, look) == Arming::Busy
    }

    /// All edges are taken before anything is looked at; what they said is remembered.
    fn disarm(&mut self) {
        self.bells.disarm();
        self.readable |= self.epoll.harvest() & SOCKET != 0;
    }

    /// Serves until so much has come of each source.
    fn run_until(&mut self, last: [u64; 3]) {
        loop {
            if self.pump() {
                continue;
            }
            if [self.read, self.sent, self.received] == last {
                break;
            }
            if !self.arm() {
                self.epoll.wait();
                self.disarm();
            }
        }
        // Two bells: at most two wakes for each arm.
        let wakes = self.epoll.state.lock().unwrap().wakes;
        assert!(wakes <= 2 * self.arms, "{wakes} wakes for {} arms", self.arms);
    }
}

/// Whoever publishes for the server.
struct Publisher {
    word: OwnWord,
    ringer: Ringer,
    epoll: Arc<Epoll>,
    source: u32,
}

impl Publisher {
    fn publish(&self, value: u64) {
        self.word.store(value, Ordering::Relaxed);
        if let Some(mode) = self.ringer.ring(Interest::DATA) {
            assert_eq!(mode, Mode::Event);
            self.epoll.wake(self.source);
        }
    }
}

/// A server, a client over rings, and a thread that completes answers.
fn server(trigger: Trigger) -> (Embedded, Publisher, Publisher) {
    let epoll = Epoll::new(trigger);
    let bell = |source| {
        let (own, armed) = word_pair();
        let seq = BellWord::private();
        let sleeper = Sleeper::new(own, seq.share());
        let (word, seen) = word_pair();
        let ringer = Ringer::new(armed, seq);
        (sleeper, seen, Publisher { word, ringer, epoll: epoll.clone(), source })
    };
    let (private, completions, completer) = bell(EVENTFD);
    let (domain, ring, client) = bell(LIFELINE);
    let mut bells = Bells::new(private);
    bells.watch(0, || domain);
    let embedded = Embedded {
        bells,
        epoll: epoll.clone(),
        ring,
        read: 0,
        completions,
        sent: 0,
        readable: false,
        received: 0,
        arms: 0,
    };
    (embedded, client, completer)
}

fn requests_and_answers(trigger: Trigger) {
    let (mut server, client, completer) = server(trigger);
    let client = thread::spawn(move || (1..=2).for_each(|value| client.publish(value)));
    let completer = thread::spawn(move || completer.publish(1));
    server.run_until([2, 1, 0]);
    client.join().unwrap();
    completer.join().unwrap();
}

/// SLEEP: requests that come in the middle of a pump, and answers that other threads complete
/// meanwhile, are found or reported, by a loop whose epoll is level-triggered. Bound 2.
#[test]
fn requests_and_answers_level_triggered() {
    explore(Some(2), || requests_and_answers(Trigger::Level));
}

/// SLEEP: the same, edge-triggered. Bound 2.
#[test]
fn requests_and_answers_edge_triggered() {
    explore(Some(2), || requests_and_answers(Trigger::Edge));
}

/// SLEEP: beside rings a socket, which has no bell: what the kernel told of it before a pump is
/// remembered, and what comes in the middle is told of afterwards. Bound 2.
#[test]
fn a_socket_beside_rings() {
    for trigger in [Trigger::Level, Trigger::Edge] {
        explore(Some(2), move || {
            let (mut server, client, _completer) = server(trigger);
            let epoll = server.epoll.clone();
            let frames = thread::spawn(move || (0..2).for_each(|_| epoll.send()));
            let client = thread::spawn(move || client.publish(1));
            server.run_until([1, 0, 2]);
            frames.join().unwrap();
            client.join().unwrap();
        });
    }
}

/// SLEEP: a loop that wakes for something else while the server is rung takes edges out of the
/// epoll that belong to what the pump behind it finds. Bound 2.
#[test]
fn woken_for_something_else() {
    for trigger in [Trigger::Level, Trigger::Edge] {
        explore(Some(2), move || {
            let (mut server, client, _completer) = server(trigger);
            let epoll = server.epoll.clone();
            let client = thread::spawn(move || {
                client.publish(1);
                client.publish(2);
            });
            let other = thread::spawn(move || epoll.tell(|state| state.other = true));
            server.run_until([2, 0, 0]);
            client.join().unwrap();
            other.join().unwrap();
        });
    }
}
