//! Every way to wait, with every timeout.

use crate::{SHORT, ask, at_once, connect, doing, finish, takes};
use ringbell::{CallError, RecvError, SendError, WaitSettings};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::Chance;
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::server::{Server, waiting};
use ringbell_shm_tests::{done, options, scaled, seed};
use std::time::{Duration, Instant};

pub(crate) fn nothing_there_and_every_timeout() -> Ran {
    let server = doing();
    let mut client = connect(&server);
    for timeout in [None, Some(Duration::ZERO), Some(SHORT), Some(Duration::MAX)] {
        assert_eq!(at_once(|| client.recv(timeout).unwrap_err()), RecvError::NothingInFlight);
    }
    assert_eq!(client.try_recv().unwrap_err(), RecvError::NothingInFlight);
    assert_eq!(client.in_flight(), 0);
    // And timeouts that do not matter, since the answer comes.
    for timeout in [None, Some(Duration::from_secs(20)), Some(Duration::MAX)] {
        assert_eq!(&*client.call_timeout(b"ehello", timeout).expect("a call"), b"hello");
        let mut answer = vec![1; 100];
        assert_eq!(client.call_into(b"ethere", &mut answer, timeout), Ok(5));
        assert_eq!(answer, b"there");
        let call = client.send_timeout(b"e!", timeout).expect("send");
        let answer = client.recv(timeout).expect("recv");
        assert_eq!((answer.call, answer.outcome.as_deref()), (call, Ok(&b"!"[..])));
        assert_eq!(client.call_view(b"eview", timeout, |view| view.len()), Ok(4));
    }
    let far = Instant::now().checked_add(Duration::from_secs(1 << 32));
    for deadline in [None, Some(Instant::now() + Duration::from_secs(20)), far] {
        assert_eq!(&*client.call_deadline(b"ehello", deadline).expect("a call"), b"hello");
    }
    finish(client);
    server.shut_down();
    done!("all of them")
}

pub(crate) fn a_stopped_handler_and_every_timeout() -> Ran {
    for wait in ["default", "park", "spin", "yield"] {
        let mut server = doing();
        let options = options().wait(waiting(wait, WaitSettings::client()));
        let mut client = options.connect(server.path()).expect("connect");
        let late = CallError::TimedOut { maybe_executed: true };
        // While the handler waits over this one, nothing is answered. It has no deadline: a request
        // whose deadline has passed before the server takes it is not given to the handler.
        let held = client.send(&ask(b'g', 1, b"held")).expect("there is room");
        assert_eq!(takes(SHORT, || client.call_timeout(b"e", Some(SHORT)).unwrap_err()), late);
        let past = Instant::now().checked_sub(Duration::from_secs(1));
        assert_eq!(at_once(|| client.call_deadline(b"e0", past).unwrap_err()), late);
        assert_eq!(at_once(|| client.call_timeout(b"e1", Some(Duration::ZERO)).unwrap_err()), late);
        assert_eq!(
            takes(SHORT, || client.call_into(b"e2", &mut Vec::new(), Some(SHORT)).unwrap_err()),
            late
        );
        assert_eq!(
            takes(SHORT, || client.call_view(b"e3", Some(SHORT), |_| ()).unwrap_err()),
            late
        );
        let call =
            at_once(|| client.send_timeout(b"e4", Some(Duration::ZERO)).expect("there is room"));
        assert_eq!(takes(SHORT, || client.recv(Some(SHORT)).unwrap_err()), RecvError::TimedOut);
        assert_eq!(at_once(|| client.recv(Some(Duration::ZERO)).unwrap_err()), RecvError::TimedOut);
        assert_eq!(at_once(|| client.try_recv()), Ok(None));
        let tiny = Duration::from_nanos(1);
        assert_eq!(takes(tiny, || client.recv(Some(tiny)).unwrap_err()), RecvError::TimedOut);
        assert_eq!(client.in_flight(), 2, "calls that timed out are no longer in flight");
        // The late answers are dropped, these two are not.
        server.process().tell("open 1");
        let answer = client.recv(None).expect("recv");
        assert_eq!((answer.call, answer.outcome.as_deref()), (held, Ok(&b"held"[..])));
        let answer = client.recv(None).expect("recv");
        assert_eq!((answer.call, answer.outcome.as_deref()), (call, Ok(&b"4"[..])));
        assert_eq!(client.recv(None).unwrap_err(), RecvError::NothingInFlight);
        assert_eq!(&*client.call(b"efresh").expect("the session goes on"), b"fresh");
        let counts = client.stats();
        assert_eq!((counts.late_answers, counts.timeouts), (5, 5));
        finish(client);
        let counts = server.shut_down();
        // Those with a deadline were not run after it.
        assert_eq!((counts.requests, counts.expired), (5, 3));
    }
    done!("for 4 ways to wait")
}

pub(crate) fn no_room_and_every_timeout() -> Ran {
    let mut server = Server::prepare("do").with("ring_capacity", 2048).start();
    let mut client = connect(&server);
    client.send(&ask(b'g', 1, b"held")).expect("send");
    let mut sent: u64 = 1;
    while client.send_timeout(&[b'e'; 400], Some(Duration::ZERO)).is_ok() {
        sent += 1;
        assert!(sent < 20, "a ring of 2 KiB does not fill up");
    }
    let full = || Err(SendError::TimedOut);
    assert_eq!(at_once(|| client.send_timeout(&[b'e'; 400], Some(Duration::ZERO))), full());
    assert_eq!(takes(SHORT, || client.send_timeout(&[b'e'; 400], Some(SHORT))), full());
    assert_eq!(
        at_once(|| client.claim(400, Some(Duration::ZERO)).map(drop)),
        Err(SendError::TimedOut)
    );
    assert_eq!(takes(SHORT, || client.claim(400, Some(SHORT)).map(drop)), Err(SendError::TimedOut));
    let not_sent = CallError::TimedOut { maybe_executed: false };
    assert_eq!(
        takes(SHORT, || client.call_timeout(&[b'e'; 400], Some(SHORT)).unwrap_err()),
        not_sent
    );
    assert_eq!(
        at_once(|| client.call_timeout(&[b'e'; 400], Some(Duration::ZERO)).unwrap_err()),
        not_sent
    );
    // A message in fragments, given up half-way: its beginning is there, its end never comes.
    let long = vec![b'e'; 10_000];
    assert_eq!(takes(SHORT, || client.send_timeout(&long, Some(SHORT))), full());
    assert_eq!(client.in_flight() as u64, sent, "what was not sent is not in flight");
    // Now the handler goes on, and so does the session, as if nothing had been.
    server.process().tell("open 1");
    for _ in 0..sent {
        client.recv(None).expect("recv").outcome.expect("an answer");
    }
    assert_eq!(&*client.call(&long).expect("a call"), &long[1..]);
    let counts = client.stats();
    assert_eq!(counts.received, sent + 1);
    finish(client);
    let stats = server.shut_down();
    assert_eq!((stats.requests, stats.peer_faults), (sent + 1, 0));
    done!("{sent} requests filled the ring")
}

/// Timeouts cut calls of any length at any point: no session is harmed, no answer goes astray.
pub(crate) fn timeouts_at_any_moment() -> Ran {
    let rounds = scaled(20_000);
    let server = Server::prepare("do").with("ring_capacity", 2048).start();
    let mut client = connect(&server);
    let mut chance = Chance::new(seed());
    let (mut answered, mut not_sent, mut late) = (0u64, 0u64, 0u64);
    let mut body = Vec::new();
    for round in 0..rounds {
        if round % 256 == 0 {
            tick();
        }
        let limit = if chance.below(4) == 0 { 30_000 } else { 600 };
        let len = usize::try_from(chance.below(limit)).expect("small");
        let byte = chance.draw().to_le_bytes()[0];
        body.clear();
        body.push(b'e');
        body.extend_from_slice(&round.to_le_bytes());
        body.resize(9 + len, byte);
        if chance.below(100) == 0 {
            // Over this the handler sleeps for a while, and rings fill up.
            not_sent +=
                u64::from(client.send_timeout(&ask(b's', 1, b""), Some(Duration::ZERO)).is_err());
        }
        let timeout = Duration::from_nanos(chance.below(60_000));
        match client.call_timeout(&body, Some(timeout)) {
            Ok(answer) => {
                answered += 1;
                assert!(
                    answer.payload() == &body[1..],
                    "the answer to call {round} is another's, or torn"
                );
            }
            Err(CallError::TimedOut { maybe_executed: true }) => late += 1,
            Err(CallError::TimedOut { maybe_executed: false }) => not_sent += 1,
            Err(CallError::TooManyInFlight { .. }) => while client.recv(None).is_ok() {},
            Err(error) => panic!("call {round}: {error:?}"),
        }
        while let Ok(Some(_)) = client.try_recv() {}
    }
    while client.recv(None).is_ok() {}
    body.resize(100_000, 1);
    assert!(client.call(&body).expect("the session goes on").payload() == &body[1..]);
    assert!(answered > 0 && late > 0, "{answered} answered, {late} late");
    let counts = client.stats();
    assert_eq!(counts.timeouts, late + not_sent);
    finish(client);
    let stats = server.shut_down();
    assert_eq!((stats.peer_faults, stats.panics), (0, 0));
    done!(
        "{rounds} calls: {answered} answered, {late} too late, {not_sent} not sent, {} given up half-way",
        counts.aborts
    )
}
