//! What a handler waits for when there is no room for an item of its stream has a time limit, also
//! where a slow client may stay for ever.

use ringbell::{
    Client, ConnectOptions, OwnedRequest, Responder, Server, ServerHandle, StreamError,
    TransportChoice,
};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

const BOTH: [TransportChoice; 2] = [TransportChoice::SharedMemory, TransportChoice::Socket];
const KIB: usize = 1 << 10;
/// What a client may hold.
const HELD: usize = 256 * KIB;
/// A limit for what must come.
const SOON: Duration = Duration::from_secs(20);

/// A server of streams whose items have the length that the request says.
struct Serving {
    directory: tempfile::TempDir,
    handle: ServerHandle,
    thread: Option<JoinHandle<()>>,
    /// How streams end.
    ends: Receiver<(u64, StreamError)>,
}

impl Serving {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let server = Server::builder()
            .max_message(HELD as u64 / 4)
            .max_held_bytes_per_client(HELD as u64)
            .ring_capacity(64 * KIB as u64)
            .slow_client_timeout(None)
            .stream_stall_timeout(Some(Duration::from_millis(300)))
            .bind(directory.path().join("socket"))
            .expect("bound");
        let (handle, (ended, ends)) = (server.handle(), channel());
        let thread = std::thread::spawn(move || {
            let answer = |request: OwnedRequest, responder: Responder| {
                let ended = ended.clone();
                std::thread::spawn(move || {
                    let len = usize::from_le_bytes(request.payload().try_into().expect("a length"));
                    let mut stream = responder.stream();
                    let mut sent = 0;
                    while stream.send_timeout(&vec![7; len], Some(Duration::ZERO)).is_ok() {
                        sent += 1;
                    }
                    // The reactor has nothing more to do, nor to look at, when the wait begins.
                    std::thread::sleep(Duration::from_millis(50));
                    for sent in sent.. {
                        if let Err(error) = stream.send(&vec![7; len]) {
                            let _ = ended.send((sent, error));
                            break;
                        }
                    }
                });
            };
            server.run_reactor(answer).expect("served");
        });
        Self { directory, handle, thread: Some(thread), ends }
    }

    fn connect(&self, transport: TransportChoice) -> Client {
        let path = self.directory.path().join("socket");
        ConnectOptions::new().transport(transport).connect(path).expect("connected")
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
fn c8_a_stream_that_waits_for_room_ends_when_its_client_takes_nothing() {
    for transport in BOTH {
        let serving = Serving::new();
        let mut client = serving.connect(transport);
        let len = 32 * KIB;
        let stream = client.open_stream(&len.to_le_bytes(), None).expect("sent");
        let (sent, error) = serving.ends.recv_timeout(SOON).expect("it ends");
        assert_eq!(error, StreamError::SlowClient);
        assert!(sent < 64, "{sent} items: credit was left, room was not");
        // Its connection goes on, and the next stream is read.
        client.close_stream(stream);
        let stream = client.open_stream(&1usize.to_le_bytes(), None).expect("sent");
        let mut item = Vec::new();
        for _ in 0..200 {
            assert_eq!(client.next_item(stream, &mut item, Some(SOON)), Ok(true));
        }
        client.close_stream(stream);
    }
}
