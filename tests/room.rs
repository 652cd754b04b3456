//! What a handler waits for when there is no room for an item of its stream has a time limit, also
//! where a slow client may stay for ever. What idle clients keep takes no room from others.

mod common;

use common::{BOTH, Serving};
use ringbell::{
    Client, ConnectOptions, OwnedRequest, Responder, Server, StreamError, TransportChoice,
};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const KIB: usize = 1 << 10;
/// What a client may hold.
const HELD: usize = 256 * KIB;
/// A limit for what must come.
const SOON: Duration = Duration::from_secs(20);

/// A server of streams whose items have the length that the request says.
struct Streaming {
    serving: Serving,
    /// How streams end.
    ends: Receiver<(u64, StreamError)>,
}

impl Streaming {
    fn new() -> Self {
        let builder = Server::builder()
            .max_message(HELD as u64 / 4)
            .max_held_bytes_per_client(HELD as u64)
            .ring_capacity(64 * KIB as u64)
            .slow_client_timeout(None)
            .stream_stall_timeout(Some(Duration::from_millis(300)));
        let (ended, ends) = channel();
        let serving = Serving::start(builder, move |server| {
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
        Self { serving, ends }
    }

    fn connect(&self, transport: TransportChoice) -> Client {
        self.serving.connect(ConnectOptions::new(), transport)
    }
}

#[test]
fn c8_a_stream_that_waits_for_room_ends_when_its_client_takes_nothing() {
    for transport in BOTH {
        let server = Streaming::new();
        let mut client = server.connect(transport);
        let len = 32 * KIB;
        let stream = client.open_stream(&len.to_le_bytes(), None).expect("sent");
        let (sent, error) = server.ends.recv_timeout(SOON).expect("it ends");
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

/// Requests in flight at once: they are charged with more than a client that holds little.
const AT_ONCE: usize = 40;

/// Sends so many requests, and takes the answers, which come once all requests are there.
fn ask_at_once(client: &mut Client) {
    for _ in 0..AT_ONCE {
        client.send(b"").expect("sent");
    }
    for _ in 0..AT_ONCE {
        client.recv(Some(SOON)).expect("an answer").outcome.expect("good");
    }
}

/// A session keeps what its requests were charged with, for the next ones.
#[test]
fn p2_what_idle_clients_keep_for_their_next_requests_stops_nobody() {
    for transport in BOTH {
        // Requests are read up to one half of it: what two or three of the clients keep.
        let builder = Server::builder()
            .max_message(KIB as u64)
            .max_held_bytes(2 * KIB as u64 * KIB as u64)
            .ring_capacity(64 * KIB as u64);
        let serving = Serving::start(builder, |server| {
            let mut waiting = Vec::new();
            let answer = |_: OwnedRequest, responder: Responder| {
                waiting.push(responder);
                if waiting.len() == AT_ONCE {
                    waiting.drain(..).for_each(|responder| responder.reply(b""));
                }
            };
            server.run_reactor(answer).expect("served");
        });
        let mut clients: Vec<_> =
            (0..12).map(|_| serving.connect(ConnectOptions::new(), transport)).collect();
        for _ in 0..3 {
            clients.iter_mut().for_each(ask_at_once);
        }
    }
}
