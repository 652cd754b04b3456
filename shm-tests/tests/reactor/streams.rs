//! Streams of items: their order, their window, and their ends.

use crate::{SOON, connect, connect_without_rescue, reacting, remote, with_and_without_executor};
use ringbell::layout::{STREAM_WINDOW, code};
use ringbell::{CallError, CallId, RecvError};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::Chance;
use ringbell_shm_tests::reactor_requests::{Count, StreamEnd, item, stream_of};
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::{done, scaled, scaled_for, seed, wait_until};
use std::time::{Duration, Instant};

pub(crate) fn streams_arrive_in_order() -> Ran {
    let items = scaled(50_000);
    let server = Server::prepare("react").with("ring_capacity", 16 * 1024).start();
    let mut client = connect(&server);
    for (items, longest) in
        [(items, 300), (items / 20 + 1, 20_000), (0, 10), (1, 10), (64, 0), (65, 0)]
    {
        let number = client.next_number();
        let request = client.request(b's', items, &stream_of(longest, StreamEnd::Good));
        let call = client.client().open_stream(&request, None).expect("send");
        assert_eq!(client.read_stream(call, number, longest.into()), Ok(items));
        assert_eq!(
            client.client().next_item(call, &mut Vec::new(), None),
            Err(CallError::NotAStream)
        );
    }
    client.finish();
    server.shut_down();
    done!("{items} items, and {} large ones", items / 20)
}

pub(crate) fn a_stream_waits_for_its_client() -> Ran {
    let window = u64::from(STREAM_WINDOW);
    let server = reacting();
    let mut client = connect(&server);
    let mut watcher = connect(&server);
    let number = client.next_number();
    let session = client.session();
    let request = client.request(b's', 1000, &stream_of(50, StreamEnd::Good));
    let call = client.client().open_stream(&request, None).expect("send");
    wait_until("the producer waits", || watcher.count(Count::Blocked) == 1);
    assert_eq!(watcher.count(Count::Items), window);
    // Taking a few is not enough to be granted more; what is granted is sent, and no more.
    let mut got = Vec::new();
    for index in 0..window / 2 - 1 {
        assert_eq!(client.client().next_item(call, &mut got, Some(SOON)), Ok(true));
        assert_eq!(got, item(session, number, index, 50));
    }
    client.echoes(b'e', 0, b"a call in between takes no items");
    assert_eq!((watcher.count(Count::Items), watcher.count(Count::Blocked)), (window, 1));
    assert_eq!(client.client().next_item(call, &mut got, Some(SOON)), Ok(true));
    wait_until("the producer waits again", || watcher.count(Count::Blocked) == 2);
    assert_eq!(watcher.count(Count::Items), window + window / 2);
    let mut index = window / 2;
    while client.client().next_item(call, &mut got, Some(SOON)).expect("an item") {
        assert_eq!(got, item(session, number, index, 50));
        index += 1;
    }
    assert_eq!((index, watcher.count(Count::Items)), (1000, 1000));
    for client in [client, watcher] {
        client.finish();
    }
    server.shut_down();
    done!("1000 items, {window} at a time")
}

pub(crate) fn streams_and_calls_at_once() -> Ran {
    let rounds = scaled_for(300, 100);
    let server = Server::prepare("react").with("ring_capacity", 8192).start();
    let mut client = connect(&server);
    let session = client.session();
    let mut chance = Chance::new(seed());
    let (mut all_items, mut calls) = (0, 0);
    for _ in 0..rounds {
        // Call, number, length of items, items so far, items in all.
        let mut streams: Vec<(CallId, u64, u64, u64, u64)> = Vec::new();
        for _ in 0..1 + chance.below(8) {
            let number = client.next_number();
            let (items, longest) = (chance.below(200), chance.below(500));
            let rest = stream_of(u32::try_from(longest).expect("small"), StreamEnd::Good);
            let request = client.request(b's', items, &rest);
            let call = client.client().open_stream(&request, None).expect("send");
            streams.push((call, number, longest, 0, items));
            all_items += items;
        }
        let mut got = Vec::new();
        while !streams.is_empty() {
            match chance.below(20) {
                0 => client.echoes(b'e', 0, b"between"),
                1 => client.echoes(b't', 0, b"between"),
                2 => {
                    client.send(b't', chance.below(100), b"aside", None).expect("send");
                    calls += 1;
                }
                3 => {
                    let _ = client.recv(Some(Duration::ZERO));
                }
                _ => {
                    let at = usize::try_from(chance.below(streams.len() as u64)).expect("small");
                    let (call, number, longest, index, items) = &mut streams[at];
                    if client.client().next_item(*call, &mut got, Some(SOON)).expect("an item") {
                        assert_eq!(got, item(session, *number, *index, *longest));
                        *index += 1;
                    } else {
                        assert_eq!(index, items, "items of request {number}");
                        streams.swap_remove(at);
                    }
                }
            }
        }
        client.recv_all();
        assert_eq!(client.client().recv(None).unwrap_err(), RecvError::NothingInFlight);
    }
    client.finish();
    server.shut_down();
    done!("{rounds} rounds of up to 8 streams: {all_items} items, {calls} calls in between")
}

pub(crate) fn a_stream_that_is_dropped_is_cancelled() -> Ran {
    let rounds = scaled(300);
    let server = reacting();
    let mut client = connect(&server);
    let mut chance = Chance::new(seed());
    for round in 1..=rounds {
        let request = client.request(b's', 1_000_000, &stream_of(20, StreamEnd::Good));
        let mut stream = client.client().call_stream(&request).expect("send");
        for _ in 0..chance.below(100) {
            assert!(stream.next(Some(SOON)).expect("an item").is_some());
        }
        drop(stream);
        client.echoes(b'e', 0, b"on");
        wait_until("the producer ends", || client.count(Count::Cancelled) == round);
    }
    wait_until("nothing is in flight", || {
        let _ = client.client().try_recv();
        client.client().stats().late_answers == rounds
    });
    client.finish();
    let stats = server.shut_down();
    assert_eq!(stats.cancelled, rounds);
    done!("{rounds} streams")
}

pub(crate) fn streams_that_end_badly() -> Ran {
    let rounds = scaled(200);
    let server = reacting();
    let mut client = connect(&server);
    for _ in 0..rounds {
        for (end, wanted) in [
            (StreamEnd::Dropped, code::BROKEN_OFF),
            (StreamEnd::Error, code::APPLICATION + 7),
            (StreamEnd::Panic, code::PANICKED),
        ] {
            for items in [0, 1, 100] {
                let request = client.request(b's', items, &stream_of(20, end));
                let mut stream = client.client().call_stream(&request).expect("send");
                for _ in 0..items {
                    assert!(stream.next(Some(SOON)).expect("an item").is_some());
                }
                assert_eq!(
                    remote(&stream.next(Some(SOON)).expect_err("an end")),
                    wanted,
                    "{end:?}"
                );
                assert_eq!(stream.next(Some(SOON)), Err(CallError::NotAStream));
            }
        }
    }
    // One that is leaked does not end, until nobody wants it.
    let request = client.request(b's', 3, &stream_of(20, StreamEnd::Leaked));
    let mut stream = client.client().call_stream(&request).expect("send");
    for _ in 0..3 {
        assert!(stream.next(Some(SOON)).expect("an item").is_some());
    }
    let short = Some(Duration::from_millis(5));
    assert_eq!(stream.next(short), Err(CallError::TimedOut { maybe_executed: true }));
    drop(stream);
    client.echoes(b'e', 0, b"on");
    client.finish();
    server.shut_down();
    done!("{rounds} of each")
}

pub(crate) fn a_stream_that_was_not_asked_for() -> Ran {
    let rounds = scaled(200);
    let server = reacting();
    let mut client = connect(&server);
    let mut cancelled = 0;
    for round in 0..rounds {
        let items = [1, 10, 1_000_000][usize::try_from(round % 3).expect("small")];
        let error = client.ask(b's', items, &stream_of(20, StreamEnd::Good)).expect_err("a stream");
        assert_eq!(remote(&error), code::STREAMED);
        cancelled += u64::from(items == 1_000_000);
        client.echoes(b'e', 0, b"on");
        client.send(b's', items, &stream_of(20, StreamEnd::Good), None).expect("send");
        let (_, outcome) = client.recv(Some(SOON)).expect("an answer");
        assert_eq!(outcome.expect_err("a stream").code, code::STREAMED);
        cancelled += u64::from(items == 1_000_000);
        client.echoes(b't', 0, b"on");
    }
    wait_until("endless ones have ended", || client.count(Count::Cancelled) >= cancelled);
    // One without items is an answer without a response, too.
    let error = client.ask(b's', 0, &stream_of(20, StreamEnd::Good)).expect_err("a stream");
    assert_eq!(remote(&error), code::STREAMED);
    client.finish();
    server.shut_down();
    done!("{rounds} calls, and as many sent")
}

pub(crate) fn one_response_is_a_stream_of_one_item() -> Ran {
    let server = reacting();
    let mut client = connect(&server);
    let session = client.session();
    for verb in [b'e', b't'] {
        let number = client.next_number();
        let request = client.request(verb, 0, b"single");
        let mut stream = client.client().call_stream(&request).expect("send");
        let wanted = [&session.to_le_bytes()[..], &number.to_le_bytes(), b"single"].concat();
        assert_eq!(stream.next(Some(SOON)), Ok(Some(&wanted[..])));
        assert_eq!(stream.next(Some(SOON)), Ok(None));
        assert_eq!(stream.next(Some(SOON)), Err(CallError::NotAStream));
    }
    for (verb, wanted) in [(b'x', code::APPLICATION), (b'd', code::DROPPED), (b'p', code::PANICKED)]
    {
        let request = client.request(verb, 0, b"");
        let mut stream = client.client().call_stream(&request).expect("send");
        assert_eq!(remote(&stream.next(Some(SOON)).expect_err("an error")), wanted);
    }
    client.finish();
    server.shut_down();
    done!("responses and errors")
}

pub(crate) fn a_stream_from_the_reactor_itself() -> Ran {
    let window = u64::from(STREAM_WINDOW);
    let server = reacting();
    let mut client = connect(&server);
    for (items, sent) in [(0, 0), (5, 5), (window, window), (window + 1, window), (1000, window)] {
        let number = client.next_number();
        let request = client.request(b'i', items, b"");
        let call = client.client().open_stream(&request, None).expect("send");
        assert_eq!(client.read_stream(call, number, 0), Ok(sent));
    }
    assert_eq!(client.count(Count::Blocked), 2, "there it does not wait");
    client.finish();
    server.shut_down();
    done!("up to {window} items")
}

pub(crate) fn a_producer_does_not_wait_for_ever_for_a_client_that_takes_nothing() -> Ran {
    const PATIENCE: Duration = Duration::from_millis(100);
    with_and_without_executor(|prepared| {
        let server = prepared.with("stream_stall_ms", PATIENCE.as_millis()).start();
        let mut client = connect_without_rescue(&server);
        let began = Instant::now();
        let request = client.request(b's', 1000, &stream_of(10, StreamEnd::Good));
        let stream = client.client().open_stream(&request, None).expect("send");
        wait_until("the stream is broken off", || client.count(Count::Slow) == 1);
        assert!(began.elapsed() >= PATIENCE, "{:?}", began.elapsed());
        // A timeout of the producer's own, which it tried first, does not end the stream.
        assert_eq!(client.count(Count::Blocked), 1);
        assert_eq!(client.count(Count::Items), u64::from(STREAM_WINDOW));
        // The session goes on, and the stream says that it was broken off.
        client.echoes(b't', 0, b"on");
        for _ in 0..STREAM_WINDOW {
            assert_eq!(client.client().next_item(stream, &mut Vec::new(), Some(SOON)), Ok(true));
        }
        let end =
            client.client().next_item(stream, &mut Vec::new(), Some(SOON)).expect_err("an end");
        assert_eq!(remote(&end), code::BROKEN_OFF);
        client.finish();
        server.shut_down();
    });
    done!("but for {PATIENCE:?}")
}
