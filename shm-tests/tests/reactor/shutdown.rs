//! A server that stops while answers are under way.

use crate::{SOON, connect, reacting, without_rescue_options};
use ringbell::{CallError, RecvError, SendError, WaitSettings};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::progress::{Stopwatch, tick};
use ringbell_shm_tests::reactor_client::Asking;
use ringbell_shm_tests::reactor_requests::{Count, StreamEnd, stream_of};
use ringbell_shm_tests::server::{Server, waiting};
use ringbell_shm_tests::{busy_for, done, scaled, wait_until};
use std::time::{Duration, Instant};

/// Calls until the server says that it takes no more; the error.
fn until_refused(client: &mut Asking) -> CallError {
    let began = Instant::now();
    loop {
        if let Err(error) = client.ask(b'e', 0, b"") {
            break error;
        }
        assert!(began.elapsed() < SOON, "the server does not stop");
    }
}

pub(crate) fn shutdown_waits_for_answers() -> Ran {
    let rounds = scaled(40);
    for _ in 0..rounds {
        let mut server = reacting();
        let mut client = connect(&server);
        let mut other = connect(&server);
        other.echoes(b'e', 0, b"");
        let numbers: Vec<u64> = (1..=5)
            .map(|gate| {
                let number = client.next_number();
                client.send(b'k', gate, &[0; 8], None).expect("send");
                number
            })
            .collect();
        client.echoes(b'e', 0, b"");
        server.process().tell("shutdown 20000");
        assert_eq!(until_refused(&mut client), CallError::ShutDown { maybe_executed: false });
        // The order has been heard, and five are in flight.
        for gate in [3, 1, 5, 2, 4] {
            server.process().tell(&format!("open {gate}"));
            let (number, outcome) = client.recv(Some(SOON)).expect("answers are waited for");
            assert_eq!((number, outcome), (numbers[gate - 1], Ok(vec![0; 8])));
        }
        wait_until("it says goodbye", || {
            matches!(client.ask(b'e', 0, b""), Err(CallError::ShutDown { .. }))
                && matches!(client.client().send(b""), Err(SendError::ShutDown))
        });
        server.ended();
        for client in [client, other] {
            client.finish();
        }
    }
    done!("{rounds} servers with 5 answers")
}

pub(crate) fn shutdown_cuts_off_what_is_leaked() -> Ran {
    for pool in [None, Some(2)] {
        let mut prepared = Server::prepare("react");
        if let Some(threads) = pool {
            prepared = prepared.with("pool", threads);
        }
        let mut server = prepared.start();
        let mut client = connect(&server);
        client.send(b'l', 0, b"", None).expect("send");
        client.echoes(b'e', 0, b"");
        let watch = Stopwatch::start();
        server.process().tell("shutdown 300");
        assert!(matches!(client.recv(Some(SOON)), Err(RecvError::ShutDown)));
        let took = watch.elapsed();
        assert!(took >= Duration::from_millis(299), "{took:?}");
        // Of what the machine stood still the server could not make use.
        assert!(watch.awake() < Duration::from_secs(5), "{took:?}");
        server.ended();
        client.finish();
    }
    done!("after 300 ms, with and without an executor")
}

pub(crate) fn shutdown_in_the_midst_of_streams() -> Ran {
    let mut server = reacting();
    let (mut reading, mut idle) = (connect(&server), connect(&server));
    let number = reading.next_number();
    let request = reading.request(b's', 1000, &stream_of(50, StreamEnd::Good));
    let call = reading.client().open_stream(&request, None).expect("send");
    wait_until("the producer waits", || idle.count(Count::Blocked) == 1);
    server.process().tell("shutdown 20000");
    // Who has nothing in flight may be told that no more is taken.
    assert!(matches!(until_refused(&mut idle), CallError::ShutDown { .. }));
    assert_eq!(reading.read_stream(call, number, 50), Ok(1000), "what is in flight is completed");
    server.ended();
    // And the same without the time for it.
    let mut server = reacting();
    let mut client = connect(&server);
    let request = client.request(b's', 1000, &stream_of(50, StreamEnd::Good));
    let mut stream = client.client().call_stream(&request).expect("send");
    server.process().tell("shutdown 0");
    let error = loop {
        match stream.next(Some(SOON)) {
            Ok(Some(_)) => {}
            Ok(None) => panic!("1000 items before the end"),
            Err(error) => break error,
        }
        // Not faster than the order to stop arrives.
        std::thread::sleep(Duration::from_millis(1));
    };
    assert!(matches!(error, CallError::ShutDown { .. }), "{error:?}");
    drop(stream);
    server.ended();
    done!("one that is completed, one that is cut off")
}

/// The order falls on every moment between two sleeps. The server is in this process: no other way
/// to give the order is exact enough.
pub(crate) fn an_order_to_stop_is_seen_at_once() -> Ran {
    let rounds = u32::try_from(scaled(1000)).expect("few");
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("s");
    for round in 0..rounds {
        let wait = waiting("patient", WaitSettings::server()).park_at_once();
        let server = ringbell::Server::builder().wait(wait).bind(&path).expect("bind");
        let handle = server.handle();
        let serving = std::thread::spawn(move || server.run(|_, _| Ok(())));
        let mut client = without_rescue_options().connect(&path).expect("connect");
        for _ in 0..5 {
            client.call_timeout(b"", Some(SOON)).expect("an answer");
        }
        // A few microseconds after an answer the server falls asleep.
        busy_for(Duration::from_nanos(50) * (round % 100));
        handle.shutdown(Some(Duration::ZERO));
        wait_until("the server stops", || serving.is_finished());
        let stats = serving.join().expect("no panic").expect("served");
        assert_eq!((stats.peer_faults, stats.backstop_rescues), (0, 0));
        tick();
    }
    done!("{rounds} servers")
}
