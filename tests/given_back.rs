//! What a client is charged with for its turn is given back when the turn is over, whatever came
//! last in it: an answer in another buffer, an error, a message without an answer, or a part of
//! one.

use ringbell::{Client, ConnectOptions, Request, SendError, Server, ServerHandle, TransportChoice};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const BOTH: [TransportChoice; 2] = [TransportChoice::SharedMemory, TransportChoice::Socket];
const KIB: usize = 1 << 10;
/// What a client may hold: so much that a large answer does not end the turn.
const HELD: usize = 4096 * KIB;
/// An answer that is charged, since its buffer is not one that is kept.
const LARGE: usize = 150 * KIB;
const LONGEST: usize = 200 * KIB;
/// A limit for what must come.
const SOON: Duration = Duration::from_secs(20);

/// A server that has one buffer for all its answers.
struct Serving {
    directory: tempfile::TempDir,
    handle: ServerHandle,
    thread: Option<JoinHandle<()>>,
    /// Ends the wait of a request.
    go: Sender<()>,
}

impl Serving {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let server = Server::builder()
            .max_message(LONGEST as u64)
            .max_held_bytes_per_client(HELD as u64)
            .ring_capacity(1 << 20)
            .bind(directory.path().join("socket"))
            .expect("bound");
        let handle = server.handle();
        let (go, gone) = channel();
        let thread = std::thread::spawn(move || {
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
        Self { directory, handle, thread: Some(thread), go }
    }

    fn connect(&self, transport: TransportChoice) -> Client {
        let path = self.directory.path().join("socket");
        ConnectOptions::new().transport(transport).connect(path).expect("connected")
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
        while self.handle.stats().held_bytes != 0 {
            assert!(began.elapsed() < SOON, "{} bytes are held", self.handle.stats().held_bytes);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.handle.shutdown(None);
            self.thread.take().expect("runs").join().expect("no panic");
        }
    }
}

#[test]
fn p2_a_large_answer_is_charged_no_longer_than_it_is_there() {
    for transport in BOTH {
        for second in [b"r", b"t", b"e", b"l"] {
            let serving = Serving::new();
            let mut other = serving.connect(transport);
            let mut client = serving.connect(transport);
            serving.in_one_turn(&mut other, || {
                client.send(b"l").expect("sent");
                client.send(second).expect("sent");
            });
            assert_eq!(
                client.recv(Some(SOON)).expect("an answer").outcome.expect("good").len(),
                LARGE
            );
            client.recv(Some(SOON)).expect("an answer");
            client.call_timeout(b"e", Some(SOON)).expect("it is read from");
            serving.nothing_is_held();
        }
    }
}

#[test]
fn p2_a_message_without_an_answer_ends_a_charge_too() {
    for transport in BOTH {
        let serving = Serving::new();
        let mut other = serving.connect(transport);
        let mut client = serving.connect(transport);
        serving.in_one_turn(&mut other, || {
            client.send(b"l").expect("sent");
            client.send_one_way(b"l", None).expect("sent");
        });
        client.recv(Some(SOON)).expect("an answer");
        client.call_timeout(b"e", Some(SOON)).expect("it is read from");
        serving.nothing_is_held();
    }
}

#[test]
fn p2_a_large_request_is_charged_no_longer_than_it_is_there() {
    let serving = Serving::new();
    let mut other = serving.connect(TransportChoice::SharedMemory);
    let mut client = serving.connect(TransportChoice::SharedMemory);
    serving.in_one_turn(&mut other, || {
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
    serving.nothing_is_held();
}
