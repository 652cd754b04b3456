//! Events: what a server sends unasked.

use crate::{SOON, connect, reacting};
use ringbell::EventError;
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::reactor_client::Asking;
use ringbell_shm_tests::reactor_requests::{Count, words};
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::{done, options, scaled, wait_until};
use std::time::Duration;

pub(crate) fn events_between_answers() -> Ran {
    const THREADS: u64 = 4;
    let rounds = scaled(100);
    let each = 500;
    let server =
        Server::prepare("react").with("ring_capacity", 8192).with("max_queued_events", 64).start();
    // Events that come while a call is waited for are kept.
    let most = usize::try_from(THREADS * each).expect("small");
    let mut client = Asking::connect(server.path(), options().max_events(most));
    let session = client.session();
    for _ in 0..rounds {
        let number = client.next_number();
        client.send(b'v', each, &[4], None).expect("send");
        let mut next = [0; 4];
        let mut got = 0;
        while got < THREADS * each {
            if got % 7 == 0 {
                client.echoes(if got % 2 == 0 { b'e' } else { b't' }, 0, b"between");
            }
            let event = words(&client.client().next_event(Some(SOON)).expect("an event"));
            let thread = usize::try_from(event[2]).expect("small");
            assert_eq!((event[0], event[1]), (session, number), "an event went astray");
            assert_eq!(event[3], next[thread], "events of thread {thread} are out of order");
            next[thread] += 1;
            got += 1;
        }
        assert_eq!(client.recv_all(), [number]);
        assert_eq!(client.client().next_event(Some(Duration::ZERO)), Err(EventError::TimedOut));
    }
    client.finish();
    let stats = server.shut_down();
    assert_eq!(stats.events, rounds * THREADS * each);
    done!("{rounds} rounds of {} events from {THREADS} threads", THREADS * each)
}

pub(crate) fn events_that_find_no_room() -> Ran {
    let mut server =
        Server::prepare("react").with("ring_capacity", 2048).with("max_queued_events", 4).start();
    let mut client = connect(&server);
    // None is sent while the handler pushes them.
    assert_eq!(client.words(b'V', 10, &500u32.to_le_bytes()), [4, 6, 0, 0]);
    for index in 0..4u64 {
        let event = client.client().next_event(Some(SOON)).expect("an event");
        assert_eq!((event.len(), words(&event)[0]), (500, index));
    }
    // Into a ring that is full, from another thread: those that find no room are tried again.
    let mut watcher = connect(&server);
    client.send(b'v', 20_000, &[1], None).expect("send");
    wait_until("there is no room", || watcher.count(Count::Blocked) > 0);
    watcher.echoes(b't', 0, b"others do not notice");
    for index in 0..20_000u64 {
        let event = client.client().next_event(Some(SOON)).expect("an event");
        assert_eq!(words(&event)[3], index);
    }
    assert_eq!(client.recv_all().len(), 1);
    client.echoes(b't', 0, b"on");
    for client in [client, watcher] {
        client.finish();
    }
    assert_eq!(server.stats().slow_clients, 0);
    server.shut_down();
    done!("limit of 4, a full ring")
}

pub(crate) fn events_that_nobody_asks_for() -> Ran {
    let server = reacting();
    let mut client = Asking::connect(server.path(), options().max_events(5));
    assert_eq!(client.words(b'V', 20, &8u32.to_le_bytes()), [20, 0, 0, 0]);
    client.echoes(b'e', 0, b"behind them");
    assert_eq!(client.client().next_event(None), Err(EventError::Missed { events: 15 }));
    for index in 15..20u64 {
        assert_eq!(client.client().next_event(None), Ok(index.to_le_bytes().to_vec()));
    }
    assert_eq!(client.client().next_event(Some(Duration::ZERO)), Err(EventError::TimedOut));
    // An iterator says so, too, and goes on; it ends with the session.
    assert_eq!(client.words(b'V', 6, &8u32.to_le_bytes()), [6, 0, 0, 0]);
    client.echoes(b'e', 0, b"behind them");
    let mut events = client.client().events();
    assert_eq!(events.next(), Some(Err(EventError::Missed { events: 1 })));
    assert_eq!(events.by_ref().take(5).filter(Result::is_ok).count(), 5);
    server.shut_down();
    assert_eq!(events.next(), Some(Err(EventError::ShutDown)));
    assert_eq!(events.next(), None);
    client.finish();
    done!("15 of 20 missed")
}

pub(crate) fn events_for_another_session() -> Ran {
    let mut server = reacting();
    let (mut first, mut second) = (connect(&server), connect(&server));
    first.echoes(b'm', 0, b"");
    assert_eq!(second.words(b'y', first.session(), b""), [1, 0, 0, 0]);
    assert_eq!(first.client().next_event(Some(SOON)), Ok(b"from another".to_vec()));
    assert_eq!(second.client().next_event(Some(Duration::ZERO)), Err(EventError::TimedOut));
    // A sleeping client is woken by an event.
    std::thread::scope(|scope| {
        let session = first.session();
        let waiting = scope.spawn(|| first.client().next_event(Some(SOON)));
        assert_eq!(second.words(b'y', session, b""), [1, 0, 0, 0]);
        assert_eq!(waiting.join().expect("a thread"), Ok(b"from another".to_vec()));
    });
    let session = first.session();
    first.finish();
    server.wait_for_sessions(1);
    assert_eq!(second.words(b'y', session, b""), [0, 0, 1, 0], "the session is over");
    second.finish();
    server.shut_down();
    done!("one")
}
