//! What a client could not send at once, since there was no room: it is sent later, by whatever the
//! client does next.

use crate::{NO_TIME, SOON, without_rescue, without_rescue_options};
use ringbell::layout::STREAM_WINDOW;
use ringbell::sync::{Ordering, PlainU64};
use ringbell::{CallError, Client, SendError};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::Arguments;
use ringbell_shm_tests::server::{Server, serve_with};
use ringbell_shm_tests::transport::over_socket;
use ringbell_shm_tests::{done, wait_until};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

/// Holds one-way messages up until it is opened.
static GATE: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());
/// Streams that are being sent.
static STREAMS: PlainU64 = PlainU64::new(0);
/// One-way messages that have passed the gate.
static ONE_WAY: PlainU64 = PlainU64::new(0);

/// A server whose one-way messages wait at a gate, and whose streams never end.
pub(crate) fn holds_one_way_messages(arguments: &Arguments) {
    serve_with(arguments, |server| {
        server.run_reactor(|request, responder| match request.payload() {
            // At once, so that the client need not sleep.
            b"call" => responder.reply(b"answer"),
            b"open" => {
                *GATE.0.lock().expect("the gate") = true;
                GATE.1.notify_all();
                responder.reply(b"");
            }
            b"counts" => {
                let counts =
                    [&STREAMS, &ONE_WAY].map(|count| count.load(Ordering::SeqCst).to_le_bytes());
                responder.reply(&counts.concat());
            }
            b"stream" => {
                STREAMS.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || {
                    let mut stream = responder.stream();
                    while stream.send(b"item").is_ok() {}
                    STREAMS.fetch_sub(1, Ordering::SeqCst);
                });
            }
            _ => {
                std::thread::spawn(move || {
                    let open = GATE.0.lock().expect("the gate");
                    drop(GATE.1.wait_while(open, |open| !*open).expect("the gate"));
                    ONE_WAY.fetch_add(1, Ordering::SeqCst);
                    drop(responder);
                });
            }
        })
    });
}

/// Such a server, a client that fills its way to it, and one that looks on.
struct Held {
    server: Server,
    client: Client,
    watcher: Client,
}

impl Held {
    fn start() -> Self {
        let server = Server::prepare_role("holds_one_way_messages")
            .with("wait", "patient")
            .with("max_in_flight", 2)
            .with("max_held_bytes_per_client", 80_000)
            .start();
        let connect = || without_rescue_options().connect(server.path()).expect("connect");
        let (client, watcher) = (connect(), connect());
        Self { server, client, watcher }
    }

    /// How many streams are being sent, and how many one-way messages were handled.
    fn counts(&mut self) -> (u64, u64) {
        let answer = self.watcher.call_timeout(b"counts", Some(SOON)).expect("an answer");
        let count =
            |at: usize| u64::from_le_bytes(answer[at..at + 8].try_into().expect("eight bytes"));
        (count(0), count(8))
    }

    fn open_the_gate(&mut self) {
        self.watcher.call_timeout(b"open", Some(SOON)).expect("an answer");
    }

    /// Sends until there is no room for the least frame; how many were sent.
    fn fill(&mut self) -> u64 {
        let mut sent = 0;
        for size in [2000, 0] {
            loop {
                match self.client.send_one_way(&vec![1; size], NO_TIME) {
                    Ok(()) => sent += 1,
                    // The server may still be reading.
                    Err(SendError::TimedOut) => {
                        match self
                            .client
                            .send_one_way(&vec![1; size], Some(Duration::from_millis(50)))
                        {
                            Ok(()) => sent += 1,
                            Err(SendError::TimedOut) => break,
                            Err(error) => panic!("{error}"),
                        }
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
        sent
    }

    fn finish(mut self) -> ringbell::ServerStats {
        drop(self.client);
        wait_until("the client's session is over", || self.server.stats().sessions == 1);
        drop(self.watcher);
        self.server.shut_down()
    }
}

pub(crate) fn a_cancel_that_found_no_room_is_sent_later() -> Ran {
    let mut held = Held::start();
    let stream = held.client.open_stream(b"stream", None).expect("send");
    assert_eq!(held.client.next_item(stream, &mut Vec::new(), Some(SOON)), Ok(true));
    let sent = held.fill();
    held.client.close_stream(stream);
    assert_eq!(held.counts().0, 1, "there was room for the cancel");
    held.open_the_gate();
    if !over_socket() {
        // Over a socket nothing is read on behalf of a client that does nothing.
        wait_until("one-way messages are handled", || held.counts().1 == sent);
    }
    wait_until("the stream is cancelled", || {
        let answer = held.client.call_timeout(b"call", Some(SOON)).expect("an answer");
        assert_eq!(answer.payload(), b"answer");
        held.counts().0 == 0
    });
    assert_eq!(held.finish().cancelled, 1);
    done!("behind {sent} one-way messages")
}

pub(crate) fn credit_that_found_no_room_is_sent_by_a_client_that_polls() -> Ran {
    let window = u64::from(STREAM_WINDOW);
    let mut held = Held::start();
    let stream = held.client.open_stream(b"stream", None).expect("send");
    let mut item = Vec::new();
    assert_eq!(held.client.next_item(stream, &mut item, Some(SOON)), Ok(true));
    let sent = held.fill();
    let mut take = |client: &mut Client, most: u64| {
        let mut taken = 0;
        wait_until("items come", || {
            match client.next_item(stream, &mut item, NO_TIME) {
                Ok(true) => taken += 1,
                Err(CallError::TimedOut { .. }) => {}
                other => panic!("{other:?}"),
            }
            taken == most
        });
    };
    // All that there are: credit was due, and found no room.
    take(&mut held.client, window - 1);
    held.open_the_gate();
    take(&mut held.client, 4 * window);
    held.finish();
    done!("behind {sent} one-way messages, then {} items", 4 * window)
}

pub(crate) fn a_client_that_polls_gets_rid_of_what_it_sent() -> Ran {
    const GATE: u64 = 5;
    let mut server = without_rescue("do").start();
    let mut client = without_rescue_options().connect(server.path()).expect("connect");
    // The reactor's thread is held up, so that the way to it fills up.
    let mut sent = vec![client.send(&[&b"g"[..], &GATE.to_le_bytes()].concat()).expect("send")];
    loop {
        match client.send_timeout(&[b'n'; 8000], NO_TIME) {
            Ok(call) => sent.push(call),
            Err(SendError::TimedOut) => break,
            Err(error) => panic!("{error}"),
        }
    }
    server.process().tell(&format!("open {GATE}"));
    let mut received = 0;
    wait_until("all are answered", || {
        if let Some(answer) = client.try_recv().expect("the session goes on") {
            assert_eq!(answer.call, sent[received]);
            let answer = answer.outcome.expect("no error").payload().to_vec();
            received += 1;
            let handled = if received == 1 { Vec::new() } else { received.to_le_bytes().to_vec() };
            assert_eq!(answer, handled, "each says how many were handled");
        }
        received == sent.len()
    });
    drop(client);
    server.wait_for_sessions(0);
    server.shut_down();
    done!("{} requests of 8000 bytes", sent.len())
}
