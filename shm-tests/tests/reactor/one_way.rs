//! One-way messages: in order, without an answer whatever the handler does, and handled when their
//! client has left.

use crate::{
    SOON, connect, connect_without_rescue, with_and_without_executor, without_rescue,
    without_rescue_options,
};
use ringbell::{RecvError, TransportChoice};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, Start};
use ringbell_shm_tests::reactor_client::Asking;
use ringbell_shm_tests::reactor_requests::{Count, StreamEnd, ask, stream_of};
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::{done, scaled, wait_until};
use std::path::Path;

pub(crate) fn one_way_messages() -> Ran {
    // Many times what may be sent without credit: one-way messages get none.
    const ITEMS: u64 = 200;
    let count = scaled(50_000);
    let mut server = Server::prepare("react").with("ring_capacity", 4096).start();
    let mut client = connect(&server);
    let mut sent = Vec::new();
    for number in 0..count {
        sent.push(client.next_number());
        let message = client.request(b'L', 0, &[1; 100]);
        client.client().send_one_way(&message, None).expect("send");
        if number % 1000 == 0 {
            client.echoes(b'e', 0, b"on");
        }
    }
    assert_eq!(client.words(b'q', 0, b""), sent, "each once and in order");
    // Whatever a handler does with one, nothing comes back.
    for verb in *b"etdDpPxXzZ" {
        for _ in 0..10 {
            let message = client.request(verb, 1, b"");
            client.client().send_one_way(&message, None).expect("send");
        }
        client.echoes(b't', 0, b"on");
    }
    for end in [StreamEnd::Good, StreamEnd::Dropped, StreamEnd::Error, StreamEnd::Panic] {
        let message = client.request(b's', ITEMS, &stream_of(10, end));
        client.client().send_one_way(&message, None).expect("send");
    }
    wait_until("streams to no client have ended", || client.count(Count::Items) == 4 * ITEMS);
    assert_eq!(client.count(Count::Blocked), 0, "there is no client to be waited for");
    wait_until("nothing is in flight", || server.stats().in_flight == 0);
    assert_eq!(client.client().recv(None).unwrap_err(), RecvError::NothingInFlight);
    let counts = client.client().stats();
    assert_eq!(counts.errors, 0);
    client.finish();
    server.shut_down();
    done!("{count} in order, and some of every kind")
}

pub(crate) fn a_refused_one_way_message_hurts_nothing() -> Ran {
    for handler in ["do", "react"] {
        let server = without_rescue(handler).with("max_held_bytes", 64 << 10).start();
        let mut client = without_rescue_options().connect(server.path()).expect("connect");
        client.send_one_way(&vec![1; 1 << 20], Some(SOON)).expect("send");
        for _ in 0..2 {
            // Both handlers echo the end of it.
            let answer =
                client.call_timeout(&ask(b'e', 1, 0, b"on"), Some(SOON)).expect("an answer");
            assert!(answer.ends_with(b"on"), "{answer:?}");
        }
        drop(client);
        let stats = server.shut_down();
        assert_eq!((stats.requests, stats.errors), (2, 1), "{handler}");
    }
    done!("1 MiB of 64 KiB that may be held, serial and concurrent")
}

/// Messages of verbs that take their time, from a client that does not wait for them.
pub(crate) fn what_was_sent_before_a_drop_is_handled() -> Ran {
    // More than are read in one turn.
    const SMALL: u64 = 200;
    const LARGE: u64 = 4;
    let large = |message: Vec<u8>| [message, vec![1; 100_000]].concat();
    // A serial server, which counts all requests.
    let mut server = without_rescue("do").start();
    let mut watcher = without_rescue_options().connect(server.path()).expect("connect");
    let mut looks = 0;
    let mut handled = || {
        looks += 1;
        let answer = watcher.call_timeout(b"n", Some(SOON)).expect("an answer");
        u64::from_le_bytes(answer.payload().try_into().expect("eight bytes")) - looks
    };
    let slow = [&b"s"[..], &1u64.to_le_bytes()].concat();
    let no_zeros = [&b"l"[..], &0u64.to_le_bytes()].concat();
    let mut client = without_rescue_options().connect(server.path()).expect("connect");
    for _ in 0..LARGE {
        client.send_one_way(&large(slow.clone()), Some(SOON)).expect("send");
    }
    for _ in 0..SMALL {
        client.send_one_way(&slow, Some(SOON)).expect("send");
    }
    drop(client);
    wait_until("one-way messages are handled", || handled() == LARGE + SMALL);
    let mut client = without_rescue_options().connect(server.path()).expect("connect");
    client.post(&slow).expect("post");
    for _ in 0..LARGE {
        client.post(&large(no_zeros.clone())).expect("post");
    }
    drop(client);
    wait_until("what was posted is handled", || handled() == LARGE + SMALL + 1 + LARGE);
    drop(watcher);
    server.wait_for_sessions(0);
    server.shut_down();
    // A concurrent one, whose handler takes its time on the reactor's thread.
    let mut server = without_rescue("react").start();
    let mut watcher = connect_without_rescue(&server);
    let mut client = connect_without_rescue(&server);
    for (count, filler) in [(LARGE, 100_000), (SMALL, 1)] {
        for _ in 0..count {
            let message = client.request(b'b', 500, &vec![1; filler]);
            client.client().send_one_way(&message, Some(SOON)).expect("send");
        }
    }
    drop(client);
    wait_until("one-way messages are handled", || watcher.count(Count::Busy) == LARGE + SMALL);
    watcher.finish();
    server.wait_for_sessions(0);
    server.shut_down();
    done!("{LARGE} large and {SMALL} small messages; serial: {LARGE} large requests, too")
}

/// A server that sleeps by its one descriptor beside a socket must look at its rings, too.
pub(crate) fn a_goodbye_is_noticed_beside_a_socket() -> Ran {
    const CLIENTS: u64 = 40;
    const EACH: u64 = 500;
    let mut server = without_rescue("react").start();
    let mut watcher = connect_without_rescue(&server);
    let beside = without_rescue_options()
        .transport(TransportChoice::Socket)
        .connect(server.path())
        .expect("connect");
    for _ in 0..CLIENTS {
        let mut client = connect_without_rescue(&server);
        for _ in 0..EACH {
            let message = client.request(b'b', 10, b"x");
            client.client().send_one_way(&message, Some(SOON)).expect("send");
        }
        drop(client);
    }
    wait_until("one-way messages are handled", || watcher.count(Count::Busy) == CLIENTS * EACH);
    watcher.finish();
    server.wait_for_sessions(1);
    drop(beside);
    server.wait_for_sessions(0);
    server.shut_down();
    done!("{CLIENTS} clients over rings with {EACH} messages each")
}

/// A client that sends, and exits.
pub(crate) fn sends_and_exits(arguments: &Arguments) {
    let mut client = Asking::connect(Path::new(arguments.text("path")), without_rescue_options());
    for _ in 0..arguments.number("messages") {
        let message = client.request(b'b', 200, b"x");
        client.client().send_one_way(&message, Some(SOON)).expect("send");
    }
    drop(client);
    std::process::exit(0);
}

pub(crate) fn one_way_messages_of_processes_that_exit_are_handled() -> Ran {
    const PROCESSES: u64 = 5;
    const EACH: u64 = 200;
    let mut server = without_rescue("react").start();
    let mut watcher = connect_without_rescue(&server);
    for _ in 0..PROCESSES {
        let path = server.path().display().to_string();
        Start::role("sends_and_exits").with("path", path).with("messages", EACH).start().succeed();
    }
    wait_until("all are handled", || watcher.count(Count::Busy) == PROCESSES * EACH);
    server.wait_for_sessions(1);
    watcher.finish();
    server.wait_for_sessions(0);
    assert_eq!(server.shut_down().accepted, PROCESSES + 1);
    done!("{PROCESSES} processes with {EACH} messages each")
}

pub(crate) fn one_way_messages_that_were_set_aside_outlive_their_client() -> Ran {
    const SENT: u64 = 20;
    with_and_without_executor(|prepared| {
        let mut server = prepared.with("max_in_flight", 1).start();
        let mut watcher = connect_without_rescue(&server);
        let mut client = connect_without_rescue(&server);
        // Until the client is gone: so the only place is taken.
        let request = client.request(b's', u64::MAX, &stream_of(10, StreamEnd::Good));
        let stream = client.client().open_stream(&request, None).expect("send");
        // The server knows that it streams.
        assert_eq!(client.client().next_item(stream, &mut Vec::new(), Some(SOON)), Ok(true));
        for _ in 0..SENT {
            let message = client.request(b't', 0, b"message");
            client.client().send_one_way(&message, Some(SOON)).expect("send");
        }
        drop(client);
        wait_until("all are handled", || watcher.count(Count::Moved) == SENT);
        server.wait_for_sessions(1);
        watcher.finish();
        server.shut_down();
    });
    done!("{SENT} behind a stream that takes the only place")
}
