//! What a client is charged with for its turn is given back when the turn is over, whatever came
//! last in it: an answer in another buffer, an error, a message without an answer, or a part of
//! one.

mod common;

use common::{BOTH, Serving};
use ringbell::{Client, ConnectOptions, Request, SendError, Server, TransportChoice};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

const KIB: usize = 1 << 10;
/// What a client may hold: so much that a large answer does not end the turn.
const HELD: usize = 4096 * KIB;
/// An answer that is charged, since its buffer is not one that is kept.
const LARGE: usize = 150 * KIB;
const LONGEST: usize = 200 * KIB;
/// A limit for what must come.
const SOON: Duration = Duration::from_secs(20);

/// A server that has one buffer for all its answers.
struct OneBuffer {
    serving: Serving,
    /// Ends the wait of a request.
    go: Sender<()>,
}

impl OneBuffer {
    fn new() -> Self {
        let builder = Server::builder()
            .max_message(LONGEST as u64)
            .max_held_bytes_per_client(HELD as u64)
            .ring_capacity(1 << 20);
        let (go, gone) = channel();
        let serving = Serving::start(builder, move |server| {
            let answer = |request: Request<'_>, response: &mut Vec<u8>| {
                match request.payload()[0] {
                    b'w' => gone.recv().expect("the test"),
                    b'l' => response.resize(LARGE, 7),
                    b't' => response.resize(LONGEST + 1, 7),
                    b'r' => *response = Vec::new(),
                    _ => {}
                }
                Ok(())
            };
            server.run(answer).expect("served");
        });
        Self { serving, go }
    }

    fn connect(&self, transport: TransportChoice) -> Client {
        self.serving.connect(ConnectOptions::new(), transport)
    }

    /// Runs `send` while the server is kept waiting by another client, so that all it sends is read
    /// in one turn.
    fn in_one_turn(&self, other: &mut Client, send: impl FnOnce()) {
        let waits = other.send(b"w").expect("sent");
        send();
        self.go.send(()).expect("served");
        assert_eq!(other.recv(Some(SOON)).expect("an answer").call, waits);
    }

    fn nothing_is_held(&self) {
        let began = Instant::now();
        let held = || self.serving.handle.stats().held_bytes;
        while held() != 0 {
            assert!(began.elapsed() < SOON, "{} bytes are held", held());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn p2_a_large_answer_is_charged_no_longer_than_it_is_there() {
    for transport in BOTH {
        for second in [b"r", b"t", b"e", b"l"] {
            let server = OneBuffer::new();
            let mut other = server.connect(transport);
            let mut client = server.connect(transport);
            server.in_one_turn(&mut other, || {
                client.send(b"l").expect("sent");
                client.send(second).expect("sent");
            });
            assert_eq!(
                client.recv(Some(SOON)).expect("an answer").outcome.expect("good").len(),
                LARGE
            );
            client.recv(Some(SOON)).expect("an answer");
            client.call_timeout(b"e", Some(SOON)).expect("it is read from");
            server.nothing_is_held();
        }
    }
}

#[test]
fn p2_a_message_without_an_answer_ends_a_charge_too() {
    for transport in BOTH {
        let server = OneBuffer::new();
        let mut other = server.connect(transport);
        let mut client = server.connect(transport);
        server.in_one_turn(&mut other, || {
            client.send(b"l").expect("sent");
            client.send_one_way(b"l", None).expect("sent");
        });
        client.recv(Some(SOON)).expect("an answer");
        client.call_timeout(b"e", Some(SOON)).expect("it is read from");
        server.nothing_is_held();
    }
}

#[test]
fn p2_a_large_request_is_charged_no_longer_than_it_is_there() {
    let server = OneBuffer::new();
    let mut other = server.connect(TransportChoice::SharedMemory);
    let mut client = server.connect(TransportChoice::SharedMemory);
    server.in_one_turn(&mut other, || {
        // More than a ring takes: the last one is sent in part, into the buffer of the one before,
        // and given up.
        for _ in 0..6 {
            client.send(&vec![b'e'; LARGE]).expect("sent");
        }
        let last = client.send_timeout(&vec![b'e'; LONGEST], Some(Duration::ZERO));
        assert_eq!(last.map(drop), Err(SendError::TimedOut));
    });
    for _ in 0..6 {
        client.recv(Some(SOON)).expect("an answer");
    }
    client.ping(Some(SOON)).expect("there");
    server.nothing_is_held();
}
