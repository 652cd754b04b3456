//! How the interface behaves, seen from outside: timeouts, limits, errors, both rings full, shutdown.

use ringbell::layout::code;
use ringbell::{
    CallError, CallId, Client, ConnectError, ConnectOptions, RecvError, RemoteError, SendError, WaitSettings,
};
use ringbell_shm_tests::pattern::{Chance, Pattern};
use ringbell_shm_tests::process::{Arguments, Start, hear, say};
use ringbell_shm_tests::server::{Server, waiting};
use ringbell_shm_tests::suite::{Ran, tick};
use ringbell_shm_tests::verified::{Verified, no_wake_was_lost};
use ringbell_shm_tests::{done, observe, options, scaled, seed, suite, wait_until};
use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

suite! {
    both: [
        nothing_there_and_every_timeout,
        a_stopped_handler_and_every_timeout,
        a_request_that_is_too_large_is_not_written,
        an_answer_that_is_too_large_is_an_error,
        messages_of_no_length,
        errors_and_panics_of_the_handler,
        too_many_in_flight,
        answers_set_aside_by_calls_count_as_in_flight,
        answers_are_set_aside,
        answers_set_aside_outlive_the_session,
        both_rings_full,
        claims,
        views_and_buffers,
        batches,
        posts_and_flushes,
        sent_and_dropped,
        who_asks,
        waiting_for_a_server,
        shutdown_with_calls_in_flight,
        shutdown_without_draining,
        shutdown_while_clients_connect,
        shutdown_from_a_signal_handler,
        a_client_that_does_not_read_is_put_out,
        numbers_of_both_sides_agree,
        timeouts_at_any_moment,
        memory_for_requests_is_limited,
        clients_wait_for_a_server_that_does_not_serve_yet,
    ],
    // About rings that are full, about their sizes, and about a server that has no clients.
    tests: [
        no_room_and_every_timeout,
        answers_set_aside_for_room_count_as_in_flight,
        limits_of_options,
        shutdown_before_serving,
    ],
    roles: [lazy],
}

const SHORT: Duration = Duration::from_millis(30);

fn doing() -> Server {
    Server::prepare("do").start()
}

fn connect(server: &Server) -> Client {
    options().connect(server.path()).expect("connect")
}

fn finish(mut client: Client) {
    no_wake_was_lost(&client.stats());
}

/// `verb`, a number, and more.
fn ask(verb: u8, number: u64, rest: &[u8]) -> Vec<u8> {
    [&[verb][..], &number.to_le_bytes(), rest].concat()
}

/// That `body` takes about `time`: not less, and not so much more that it waited for something else.
fn takes<T>(time: Duration, body: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let result = body();
    let took = began.elapsed();
    assert!(took >= time, "took {took:?} instead of {time:?}");
    assert!(took < time * 2 + Duration::from_millis(500), "took {took:?} instead of {time:?}");
    result
}

/// That `body` does not wait, but for the CPU.
fn at_once<T>(body: impl FnOnce() -> T) -> T {
    takes(Duration::ZERO, body)
}

fn nothing_there_and_every_timeout() -> Ran {
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

fn a_stopped_handler_and_every_timeout() -> Ran {
    for wait in ["default", "park", "spin", "yield"] {
        let server = doing();
        let options = options().wait(waiting(wait, WaitSettings::client()));
        let mut client = options.connect(server.path()).expect("connect");
        let late = CallError::TimedOut { maybe_executed: true };
        let slow = ask(b's', 400, b"late");
        // While the handler sleeps over the first of them, nothing is answered.
        assert_eq!(takes(SHORT, || client.call_timeout(&slow, Some(SHORT)).unwrap_err()), late);
        let past = Instant::now().checked_sub(Duration::from_secs(1));
        assert_eq!(at_once(|| client.call_deadline(b"e0", past).unwrap_err()), late);
        assert_eq!(at_once(|| client.call_timeout(b"e1", Some(Duration::ZERO)).unwrap_err()), late);
        assert_eq!(takes(SHORT, || client.call_into(b"e2", &mut Vec::new(), Some(SHORT)).unwrap_err()), late);
        assert_eq!(takes(SHORT, || client.call_view(b"e3", Some(SHORT), |_| ()).unwrap_err()), late);
        let call = at_once(|| client.send_timeout(b"e4", Some(Duration::ZERO)).expect("there is room"));
        assert_eq!(takes(SHORT, || client.recv(Some(SHORT)).unwrap_err()), RecvError::TimedOut);
        assert_eq!(at_once(|| client.recv(Some(Duration::ZERO)).unwrap_err()), RecvError::TimedOut);
        assert_eq!(at_once(|| client.try_recv()), Ok(None));
        let tiny = Duration::from_nanos(1);
        assert_eq!(takes(tiny, || client.recv(Some(tiny)).unwrap_err()), RecvError::TimedOut);
        assert_eq!(client.in_flight(), 1, "calls that timed out are no longer in flight");
        // The late answers are dropped, this one is not.
        let answer = client.recv(None).expect("recv");
        assert_eq!((answer.call, answer.outcome.as_deref()), (call, Ok(&b"4"[..])));
        assert_eq!(client.recv(None).unwrap_err(), RecvError::NothingInFlight);
        assert_eq!(&*client.call(b"efresh").expect("the session goes on"), b"fresh");
        let counts = client.stats();
        assert_eq!((counts.late_answers, counts.timeouts), (5, 5));
        finish(client);
        let counts = server.shut_down();
        // Those with a deadline were not run after it.
        assert_eq!((counts.requests, counts.expired), (5, 2));
    }
    done!("for 4 ways to wait")
}

fn no_room_and_every_timeout() -> Ran {
    let server = Server::prepare("do").with("ring_capacity", 2048).start();
    let mut client = connect(&server);
    client.send(&ask(b's', 1000, b"")).expect("send");
    let mut sent: u64 = 1;
    while client.send_timeout(&[b'e'; 400], Some(Duration::ZERO)).is_ok() {
        sent += 1;
        assert!(sent < 20, "a ring of 2 KiB does not fill up");
    }
    let full = || Err(SendError::TimedOut);
    assert_eq!(at_once(|| client.send_timeout(&[b'e'; 400], Some(Duration::ZERO))), full());
    assert_eq!(takes(SHORT, || client.send_timeout(&[b'e'; 400], Some(SHORT))), full());
    assert_eq!(at_once(|| client.claim(400, Some(Duration::ZERO)).map(drop)), Err(SendError::TimedOut));
    assert_eq!(takes(SHORT, || client.claim(400, Some(SHORT)).map(drop)), Err(SendError::TimedOut));
    let not_sent = CallError::TimedOut { maybe_executed: false };
    assert_eq!(takes(SHORT, || client.call_timeout(&[b'e'; 400], Some(SHORT)).unwrap_err()), not_sent);
    assert_eq!(at_once(|| client.call_timeout(&[b'e'; 400], Some(Duration::ZERO)).unwrap_err()), not_sent);
    // A message in fragments, given up half-way: its beginning is there, its end never comes.
    let long = vec![b'e'; 10_000];
    assert_eq!(takes(SHORT, || client.send_timeout(&long, Some(SHORT))), full());
    assert_eq!(client.in_flight() as u64, sent, "what was not sent is not in flight");
    // Now the handler wakes up, and the session goes on as if nothing had been.
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

fn a_request_that_is_too_large_is_not_written() -> Ran {
    let server = Server::prepare("do").with("max_message", 100_000).start();
    let mut client = connect(&server);
    assert_eq!(client.max_message(), 100_000);
    let most = vec![b'e'; 100_000];
    assert_eq!(client.call(&most).expect("as large as may be").len(), 99_999);
    let before = client.stats();
    let larger = vec![b'e'; 100_001];
    let (len, max) = (100_001, 100_000);
    assert_eq!(client.call(&larger).unwrap_err(), CallError::TooLarge { len, max });
    assert_eq!(
        client.call_into(&larger, &mut Vec::new(), None).unwrap_err(),
        CallError::TooLarge { len, max }
    );
    assert_eq!(client.call_view(&larger, None, |_| ()).unwrap_err(), CallError::TooLarge { len, max });
    assert_eq!(client.send(&larger).unwrap_err(), SendError::TooLarge { len, max });
    assert_eq!(
        client.send_timeout(&larger, Some(Duration::ZERO)).unwrap_err(),
        SendError::TooLarge { len, max }
    );
    let mut calls = Vec::new();
    let batch = client.send_batch([&b"e1"[..], &larger, b"e2"], &mut calls);
    assert_eq!((batch, calls.len()), (Err(SendError::TooLarge { len, max }), 1));
    client.recv(None).expect("the first of the batch");
    let claim_max = client.max_claim();
    assert_eq!(
        client.claim(claim_max + 1, None).map(drop),
        Err(SendError::TooLarge { len: claim_max + 1, max: claim_max })
    );
    let counts = client.stats();
    assert_eq!(
        (counts.sent, counts.fragments_sent),
        (before.sent + 1, before.fragments_sent),
        "something was written"
    );
    finish(client);
    // A client may ask for less, not for more.
    let client = options().max_message(1000).connect(server.path()).expect("connect");
    assert_eq!(client.max_message(), 1000);
    let client = options().max_message(1 << 40).connect(server.path()).expect("connect");
    assert_eq!(client.max_message(), 100_000);
    server.shut_down();
    done!("every way to send")
}

fn an_answer_that_is_too_large_is_an_error() -> Ran {
    let mut server = doing();
    let mut client = connect(&server);
    let max = client.max_message() as u64;
    assert_eq!(client.call(&ask(b'l', max, b"")).expect("as large as may be").len() as u64, max);
    for len in [max + 1, 1 << 30] {
        match client.call(&ask(b'l', len, b"")) {
            Err(CallError::Remote(RemoteError { code: code::TOO_LARGE, text })) => {
                assert!(text.contains(&len.to_string()) && text.contains(&max.to_string()), "{text}");
            }
            other => panic!("{:?}", other.map(|answer| answer.len())),
        }
    }
    assert_eq!(&*client.call(b"eon").expect("the session goes on"), b"on");
    finish(client);
    let stats = server.stats();
    server.wait_for_sessions(0);
    // What the large answers took is given back.
    assert!(observe::private_bytes(server.id()) < 100 << 20, "{} bytes", observe::private_bytes(server.id()));
    assert_eq!(server.shut_down().errors, 2);
    done!("1 GiB, and one byte too many; {stats:?}")
}

fn messages_of_no_length() -> Ran {
    let count = scaled(1000);
    let server = doing();
    let mut client = connect(&server);
    for _ in 0..count {
        assert_eq!(&*client.call(b"").expect("nothing for nothing"), b"");
        assert_eq!(&*client.call(b"e").expect("nothing for something"), b"");
        let call = client.claim(0, None).expect("room for nothing").commit();
        let answer = client.recv(None).expect("recv");
        assert_eq!((answer.call, answer.outcome.as_deref()), (call, Ok(&b""[..])));
        assert!(client.call_view(b"", None, |view| view.is_empty()).expect("a view of nothing"));
        let mut answer = vec![1; 9];
        assert_eq!(client.call_into(b"", &mut answer, None), Ok(0));
        assert!(answer.is_empty());
    }
    finish(client);
    server.shut_down();
    done!("{count} of each")
}

fn errors_and_panics_of_the_handler() -> Ran {
    let server = doing();
    let mut client = connect(&server);
    let error = |number: u16, text: &str| [&b"x"[..], &number.to_le_bytes(), text.as_bytes()].concat();
    let remote = |code, text: &str| CallError::Remote(RemoteError { code, text: text.into() });
    assert_eq!(client.call(&error(7, "seven")).unwrap_err(), remote(code::APPLICATION + 7, "seven"));
    assert_eq!(client.call(&error(0, "")).unwrap_err(), remote(code::APPLICATION, ""));
    assert_eq!(client.call(&error(65_279, "most")).unwrap_err(), remote(u16::MAX, "most"));
    assert_eq!(client.call(&error(u16::MAX, "beyond")).unwrap_err(), remote(u16::MAX, "beyond"));
    match client.call(&error(1, &"ä".repeat(2000))).unwrap_err() {
        CallError::Remote(error) => {
            assert!(error.text.len() >= 1000 && error.text.len() <= 1024, "{} bytes", error.text.len());
            assert!(error.text.chars().all(|c| c == 'ä'), "the text is cut between characters");
        }
        other => panic!("{other:?}"),
    }
    match client.call(b"pat the disco").unwrap_err() {
        CallError::Remote(RemoteError { code: code::PANICKED, text }) => {
            assert!(text.contains("at the disco"), "{text}")
        }
        other => panic!("{other:?}"),
    }
    // In every way to call.
    let view = client.call_view(&error(1, "one"), None, |_| ());
    assert_eq!(view.unwrap_err(), remote(code::APPLICATION + 1, "one"));
    let mut answer = Vec::new();
    assert_eq!(
        client.call_into(&error(2, "two"), &mut answer, None).unwrap_err(),
        remote(code::APPLICATION + 2, "two")
    );
    let call = client.send(&error(3, "three")).expect("send");
    let answer = client.recv(None).expect("recv");
    assert_eq!(answer.call, call);
    assert_eq!(answer.outcome, Err(RemoteError { code: code::APPLICATION + 3, text: "three".into() }));
    assert_eq!(&*client.call(b"eon").expect("the session goes on"), b"on");
    assert_eq!(client.stats().errors, 9);
    finish(client);
    let stats = server.shut_down();
    assert_eq!((stats.errors, stats.panics, stats.requests), (9, 1, 10));
    done!("all of them")
}

fn too_many_in_flight() -> Ran {
    let server = doing();
    let mut client = options().max_in_flight(3).connect(server.path()).expect("connect");
    let limit = 3;
    for _ in 0..3 {
        client.send(b"e").expect("up to the limit");
    }
    assert_eq!(client.send(b"e").unwrap_err(), SendError::TooManyInFlight { limit });
    assert_eq!(client.call(b"e").unwrap_err(), CallError::TooManyInFlight { limit });
    assert_eq!(client.claim(1, None).map(drop), Err(SendError::TooManyInFlight { limit }));
    assert_eq!(client.call_view(b"e", None, |_| ()).unwrap_err(), CallError::TooManyInFlight { limit });
    let mut calls = Vec::new();
    assert_eq!(client.send_batch([&b"e"[..]], &mut calls), Err(SendError::TooManyInFlight { limit }));
    client.recv(None).expect("recv");
    client.send(b"e").expect("room again");
    for _ in 0..3 {
        client.recv(None).expect("recv");
    }
    assert_eq!(client.in_flight(), 0);
    // Calls that timed out count until their answer has come, and no longer.
    let mut client = options().max_in_flight(2).connect(server.path()).expect("connect");
    assert!(client.call_timeout(&ask(b's', 300, b""), Some(Duration::from_millis(1))).is_err());
    assert!(client.call_timeout(b"e", Some(Duration::from_millis(1))).is_err());
    assert_eq!(client.send(b"e").unwrap_err(), SendError::TooManyInFlight { limit: 2 });
    // The way out: answers come in while one polls, or tries again.
    wait_until("the late answers have come", || {
        let _ = client.try_recv();
        client.send(b"elast").is_ok()
    });
    assert_eq!(client.recv(None).expect("recv").outcome.as_deref(), Ok(&b"last"[..]));
    assert_eq!(client.stats().late_answers, 2);
    finish(client);
    server.shut_down();
    done!("limits of 2 and 3")
}

/// The private memory of a client is bounded by its limit: what was set aside counts.
fn answers_set_aside_by_calls_count_as_in_flight() -> Ran {
    const LIMIT: usize = 3;
    let server = doing();
    let mut client = options().max_in_flight(LIMIT).connect(server.path()).expect("connect");
    let mut sent = 0;
    // Each answer to `send` is set aside by the `call` behind it.
    while client.send(b"e").is_ok() {
        sent += 1;
        assert!(client.in_flight() <= LIMIT, "{} calls are in flight, {LIMIT} may be", client.in_flight());
        let _ = client.call(b"e");
    }
    finish(client);
    server.shut_down();
    done!("after {sent} calls")
}

/// The same while `send` waits for room.
fn answers_set_aside_for_room_count_as_in_flight() -> Ran {
    const LIMIT: usize = 100;
    let server = Server::prepare("do").with("ring_capacity", 2048).start();
    let mut client = options().max_in_flight(LIMIT).connect(server.path()).expect("connect");
    let error = loop {
        if let Err(error) = client.send(&[b'e'; 200]) {
            break error;
        }
        assert!(client.in_flight() <= LIMIT, "{} calls are in flight, {LIMIT} may be", client.in_flight());
    };
    assert_eq!(error, SendError::TooManyInFlight { limit: LIMIT });
    for _ in 0..LIMIT {
        client.recv(None).expect("recv");
    }
    finish(client);
    server.shut_down();
    done!("{LIMIT} calls")
}

fn answers_are_set_aside() -> Ran {
    let rounds = scaled(30_000);
    let server = Server::prepare("do").with("ring_capacity", 4096).start();
    let mut client = connect(&server);
    let mut chance = Chance::new(seed());
    // What is in flight, and what its answer must be.
    let mut waiting: HashMap<CallId, Vec<u8>> = HashMap::new();
    let mut most = 0;
    for round in 0..rounds {
        if round % 1000 == 0 {
            tick();
        }
        let len =
            usize::try_from(if chance.below(50) == 0 { chance.below(20_000) } else { chance.below(300) })
                .expect("small");
        let mut body = vec![0; len];
        body.fill_with(|| chance.draw().to_le_bytes()[0]);
        let request = [b"e", &body[..]].concat();
        match chance.below(7) {
            0 | 1 if waiting.len() < 200 => {
                waiting.insert(client.send(&request).expect("send"), body);
            }
            2 if request.len() <= client.max_claim() && waiting.len() < 200 => {
                let mut claim = client.claim(request.len(), None).expect("claim");
                claim.copy_from_slice(&request);
                waiting.insert(claim.commit(), body);
            }
            3 => assert_eq!(&*client.call(&request).expect("call"), &body[..]),
            4 => {
                let mut seen = vec![0; body.len()];
                client.call_view(&request, None, |view| view.copy_to(0, &mut seen)).expect("call_view");
                assert_eq!(seen, body);
            }
            _ => {
                let answer = match chance.below(3) {
                    0 => client.try_recv().unwrap_or(None),
                    1 => client.recv(Some(Duration::from_micros(20))).ok(),
                    _ => client.recv(None).ok(),
                };
                if let Some(answer) = answer {
                    let wanted = waiting.remove(&answer.call).expect("the answer to a call in flight");
                    assert_eq!(answer.outcome.as_deref(), Ok(&wanted[..]));
                }
            }
        }
        assert_eq!(client.in_flight(), waiting.len());
        most = most.max(waiting.len());
    }
    while !waiting.is_empty() {
        let answer = client.recv(None).expect("recv");
        let wanted = waiting.remove(&answer.call).expect("the answer to a call in flight");
        assert_eq!(answer.outcome.as_deref(), Ok(&wanted[..]));
    }
    assert_eq!(client.recv(None).unwrap_err(), RecvError::NothingInFlight);
    let counts = client.stats();
    assert!(counts.stash_peak > 0);
    finish(client);
    server.shut_down();
    done!("{rounds} steps, at most {most} in flight, {} set aside", counts.stash_peak)
}

fn answers_set_aside_outlive_the_session() -> Ran {
    let mut server = doing();
    let mut client = connect(&server);
    let first = client.send(b"efirst").expect("send");
    client.call(b"esecond").expect("a call, for which the first answer is set aside");
    client.send(&ask(b's', 60_000, b"")).expect("send");
    server.process().kill();
    wait_until("the client knows", || {
        client.send_timeout(&[0; 16_000], Some(Duration::ZERO)) == Err(SendError::Disconnected)
    });
    let answer = client.recv(None).expect("what was received before is still good");
    assert_eq!((answer.call, answer.outcome.as_deref()), (first, Ok(&b"first"[..])));
    assert_eq!(client.recv(None).unwrap_err(), RecvError::Disconnected);
    finish(client);
    done!("one")
}

fn both_rings_full() -> Ran {
    let count = scaled(200_000);
    let server = Server::prepare("verify").with("ring_capacity", 2048).start();
    // All at once, as far as the limit goes: nothing is received before everything is sent.
    let options = options().max_in_flight(usize::try_from(count).expect("small"));
    let mut client = Verified::connect(server.path(), options, Pattern::new(1, 400).with_large(500, 5000));
    for number in 0..count {
        if number % 1024 == 0 {
            tick();
        }
        client.send(None).expect("send");
    }
    assert_eq!(client.in_flight() as u64, count);
    while client.in_flight() > 0 {
        client.recv(None).expect("recv");
    }
    let counts = client.finish();
    assert!(counts.stash_peak * 2 > count, "{counts:?}");
    let stats = server.shut_down();
    assert_eq!((stats.requests, stats.slow_clients), (count + 1, 0));
    done!("{count} calls, {} answers set aside; the server queued {}", counts.stash_peak, stats.queued)
}

fn claims() -> Ran {
    let count = scaled(20_000);
    let server = Server::prepare("do").with("ring_capacity", 2048).start();
    let mut client = connect(&server);
    let max = client.max_claim();
    let mut chance = Chance::new(seed());
    for number in 0..count {
        let len = 1 + usize::try_from(chance.below(max as u64)).expect("small");
        let mut claim = client.claim(len, None).expect("claim");
        assert_eq!(claim.len(), len);
        claim.fill(b'e');
        if chance.below(4) == 0 {
            // Given back: nothing of it is ever seen.
            claim.fill(0xff);
            drop(claim);
            assert_eq!(client.in_flight(), 0);
            assert_eq!(client.call(b"ex").expect("a call").payload(), b"x");
            continue;
        }
        let call = claim.commit();
        let answer = client.recv(None).expect("recv");
        assert_eq!(answer.call, call, "{number}");
        let payload = answer.outcome.expect("an answer");
        assert!(payload.len() == len - 1 && payload.iter().all(|byte| *byte == b'e'));
    }
    finish(client);
    server.shut_down();
    done!("{count} claims of up to {max} B")
}

fn views_and_buffers() -> Ran {
    let count = scaled(20_000);
    let server = Server::prepare("do").with("ring_capacity", 4096).start();
    let mut client = connect(&server);
    let mut chance = Chance::new(seed());
    let mut buffer = Vec::new();
    for _ in 0..count {
        let len =
            usize::try_from(if chance.below(20) == 0 { chance.below(10_000) } else { chance.below(1000) })
                .expect("small");
        let mut request = vec![b'e'; 1 + len];
        request[1..].fill_with(|| chance.draw().to_le_bytes()[0]);
        let from = usize::try_from(chance.below(len as u64 + 1)).expect("small");
        let matched = client.call_view(&request, None, |view| {
            let mut part = vec![0; view.len() - from];
            view.copy_to(from, &mut part);
            view.len() == len && part == request[1 + from..]
        });
        assert_eq!(matched, Ok(true));
        assert_eq!(client.call_into(&request, &mut buffer, None), Ok(len));
        assert_eq!(buffer, &request[1..]);
    }
    // Beyond the end it is a panic, not a read.
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let beyond = client.call_view(b"e1234", None, |view| {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| view.copy_to(2, &mut [0; 3]))).is_err()
    });
    std::panic::set_hook(loud);
    assert_eq!(beyond, Ok(true));
    assert_eq!(&*client.call(b"eon").expect("the session goes on"), b"on");
    finish(client);
    server.shut_down();
    done!("{count} of each")
}

fn batches() -> Ran {
    let rounds = scaled(2000);
    let server = Server::prepare("do").with("ring_capacity", 2048).start();
    let mut client = connect(&server);
    let mut calls = Vec::new();
    for round in 0..rounds {
        let requests: Vec<Vec<u8>> =
            (0..round % 60).map(|n| [&b"e"[..], &n.to_le_bytes(), &[7; 90]].concat()).collect();
        calls.clear();
        client.send_batch(requests.iter().map(|request| &request[..]), &mut calls).expect("a batch");
        assert_eq!(calls.len(), requests.len());
        for (call, request) in calls.iter().zip(&requests) {
            let answer = client.recv(None).expect("recv");
            assert_eq!((answer.call, answer.outcome.as_deref()), (*call, Ok(&request[1..])));
        }
    }
    finish(client);
    server.shut_down();
    done!("{rounds} batches of up to 59")
}

fn posts_and_flushes() -> Ran {
    let rounds = scaled(3000);
    let server = Server::prepare("do").with("wait", "park").with("ring_capacity", 4096).start();
    let mut client = connect(&server);
    let mut chance = Chance::new(seed());
    for round in 0..rounds {
        if round % 256 == 0 {
            tick();
        }
        let count = chance.below(50);
        let calls: Vec<CallId> = (0..count)
            .map(|number| client.post(&[&b"e"[..], &number.to_le_bytes(), &[1; 100]].concat()).expect("post"))
            .collect();
        // Flushed, or not: whoever waits for an answer has flushed.
        if chance.below(2) == 0 {
            client.flush();
        }
        for (call, number) in calls.into_iter().zip(0u64..) {
            let answer = client.recv(None).expect("recv");
            let payload = answer.outcome.expect("an answer");
            assert_eq!((answer.call, &payload[..8]), (call, &number.to_le_bytes()[..]));
        }
    }
    finish(client);
    server.shut_down();
    done!("{rounds} rounds of up to 49 posts")
}

/// What becomes of requests whose client is dropped behind them is nowhere promised: this tells how it is.
fn sent_and_dropped() -> Ran {
    let rounds = scaled(100);
    let (mut sent, mut executed) = (0, 0);
    let mut server = doing();
    for _ in 0..rounds {
        let mut client = connect(&server);
        for _ in 0..10 {
            client.send(b"e").expect("send");
            sent += 1;
        }
        drop(client);
        server.wait_for_sessions(0);
    }
    let mut client = connect(&server);
    let handled = client.call(b"n").expect("a call");
    executed += u64::from_le_bytes(handled.payload().try_into().expect("eight bytes")) - 1;
    assert!(executed <= sent);
    finish(client);
    server.shut_down();
    done!("{sent} requests sent and dropped, {executed} of them executed")
}

fn who_asks() -> Ran {
    let server = doing();
    let mut sessions = Vec::new();
    for name in ["", "somebody", "ünïcödé", &"x".repeat(48)] {
        let mut client = options().name(name).connect(server.path()).expect("connect");
        let session = client.session();
        let who = String::from_utf8(client.call(b"w").expect("a call").to_vec()).expect("UTF-8");
        let uid = rustix::process::getuid().as_raw();
        assert_eq!(who, format!("{session} {} {uid} {name}", std::process::id()));
        sessions.push(session);
        finish(client);
    }
    let mut client = connect(&server);
    let who = String::from_utf8(client.call(b"w").expect("a call").to_vec()).expect("UTF-8");
    let name = who.splitn(4, ' ').nth(3).unwrap_or_default().to_owned();
    let program = std::env::current_exe().expect("a path");
    let program = program.file_name().expect("a name").to_string_lossy();
    assert!(
        !name.is_empty() && program.starts_with(&name),
        "the default is the name of the program, not {name:?}"
    );
    finish(client);
    sessions.dedup();
    assert_eq!(sessions.len(), 4, "no session comes twice");
    server.shut_down();
    done!("5 clients")
}

fn waiting_for_a_server() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("test.sock");
    let waiting = |timeout| options().wait_for_server(true).timeout(timeout);
    let waited =
        takes(Duration::from_millis(100), || waiting(Some(Duration::from_millis(100))).connect(&path));
    assert!(matches!(waited, Err(ConnectError::NoSuchSocket(_))), "{waited:?}");
    at_once(|| assert!(waiting(Some(Duration::ZERO)).connect(&path).is_err()));
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(|| waiting(None).connect(&path))).collect();
        std::thread::sleep(Duration::from_millis(30));
        assert!(clients.iter().all(|client| !client.is_finished()));
        let server = Server::prepare_at(&path, "do").start();
        for client in clients {
            let mut client = client.join().expect("a thread").expect("connect");
            assert_eq!(&*client.call(b"ehere").expect("a call"), b"here");
        }
        server.shut_down();
    });
    done!("8 clients")
}

fn shutdown_with_calls_in_flight() -> Ran {
    let rounds = scaled(30);
    for round in 0..rounds {
        let wait = ["default", "park", "spin", "yield"][usize::try_from(round).expect("small") % 4];
        let mut server = doing();
        let options = options().wait(waiting(wait, WaitSettings::client()));
        let mut client = options.connect(server.path()).expect("connect");
        client.call(b"e").expect("the session is open");
        client.send(&ask(b's', 30, b"0")).expect("send");
        for number in 1..20u8 {
            client.send(&[b'e', b'0' + number]).expect("send");
        }
        server.process().tell("shutdown 5000");
        // What was received before the shutdown is answered, then the server says goodbye.
        for number in 0..20u8 {
            let answer = client.recv(None).unwrap_or_else(|error| panic!("answer {number}: {error}"));
            assert_eq!(answer.outcome.as_deref(), Ok(&[b'0' + number][..]));
        }
        let (more, error) = until_the_goodbye(&mut client);
        assert!(matches!(error, CallError::ShutDown { .. }), "{error:?}");
        assert!(matches!(client.send(b"e"), Err(SendError::ShutDown)));
        assert!(matches!(client.recv(None), Err(RecvError::ShutDown)));
        let stats = server.ended();
        assert_eq!(stats.requests, 21 + more, "all that were sent, and none after the goodbye");
        assert!(
            matches!(Client::connect(server.path()), Err(ConnectError::NoSuchSocket(_))),
            "the socket is gone"
        );
        finish(client);
    }
    done!("{rounds} servers")
}

/// Calls, while the order is on its way; how often that went well, and how it ended.
fn until_the_goodbye(client: &mut Client) -> (u64, CallError) {
    let began = Instant::now();
    let mut calls = 0;
    loop {
        match client.call(b"e").map(|answer| answer.len()) {
            Ok(_) => calls += 1,
            Err(error) => break (calls, error),
        }
        assert!(began.elapsed() < Duration::from_secs(5), "the server does not stop");
    }
}

fn shutdown_without_draining() -> Ran {
    let mut server = doing();
    let mut sleeping = connect(&server);
    let mut client = connect(&server);
    for client in [&mut sleeping, &mut client] {
        client.call(b"e").expect("the session is open");
    }
    std::thread::scope(|scope| {
        let asleep = scope.spawn(|| {
            let error = sleeping.call(&ask(b's', 300, b"")).map(|answer| answer.len());
            // The order may be late, and the call have been answered.
            (error, until_the_goodbye(&mut sleeping).1)
        });
        for _ in 0..100 {
            client.send(b"e").expect("send");
        }
        server.process().tell("shutdown 0");
        let mut answered = 0;
        let error = loop {
            match client.recv(None).map(drop) {
                Ok(()) => answered += 1,
                Err(RecvError::NothingInFlight) => break until_the_goodbye(&mut client).1,
                Err(RecvError::ShutDown) => break CallError::ShutDown { maybe_executed: true },
                Err(error) => panic!("after {answered} answers: {error:?}"),
            }
        };
        assert!(matches!(error, CallError::ShutDown { .. }), "{error:?}");
        let (first, second) = asleep.join().expect("a thread");
        assert!(matches!(first, Ok(0) | Err(CallError::ShutDown { maybe_executed: true })), "{first:?}");
        assert!(matches!(second, CallError::ShutDown { .. }), "{second:?}");
    });
    server.ended();
    done!("one")
}

fn shutdown_from_a_signal_handler() -> Ran {
    let rounds = scaled(20);
    for busy in 0..rounds {
        let mut server = Server::prepare("verify").with("sigterm", 1).start();
        let mut client = Verified::connect(server.path(), options(), Pattern::new(1, 300));
        if busy % 2 == 0 {
            wait_until("the server sleeps", || observe::all_threads_sleep(server.id()));
        }
        let end = std::thread::scope(|scope| {
            let calling = scope.spawn(|| {
                loop {
                    if busy % 2 == 0 {
                        // Only when told: a sleeping server is to be woken by the signal alone.
                        let quiet = client.client().send(b"").map(drop);
                        let _ = quiet;
                        break CallError::ShutDown { maybe_executed: false };
                    }
                    if let Err(error) = client.call(None) {
                        break error;
                    }
                }
            });
            server.process().signal(rustix::process::Signal::TERM);
            calling.join().expect("a thread")
        });
        assert!(matches!(end, CallError::ShutDown { .. }), "{end:?}");
        let began = Instant::now();
        server.process().expect("complaints");
        server.process().expect("done");
        server.process().succeed();
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
    done!("{rounds} servers, half of them asleep")
}

/// A server that is told to stop while clients connect: each of them either has a session that ends with a
/// goodbye, or hears at once that the server goes.
fn shutdown_while_clients_connect() -> Ran {
    let rounds = scaled(50);
    let (mut with_session, mut without, mut refused) = (0, 0, 0);
    for _ in 0..rounds {
        let mut server = doing();
        server.process().tell("shutdown 1000");
        match options().connect(server.path()) {
            Ok(mut client) => {
                let (calls, error) = until_the_goodbye(&mut client);
                assert!(matches!(error, CallError::ShutDown { .. }), "after {calls} calls: {error:?}");
                with_session += u64::from(calls > 0);
                without += u64::from(calls == 0);
            }
            Err(
                ConnectError::Rejected(ringbell::RejectReason::ShuttingDown)
                | ConnectError::ServerDied
                | ConnectError::NobodyListens(_)
                | ConnectError::NoSuchSocket(_),
            ) => refused += 1,
            Err(error) => panic!("{error:?}"),
        }
        server.ended();
    }
    done!("{rounds} servers: {with_session} calls, {without} goodbyes, {refused} refusals")
}

/// Sends and never reads, until it is put out.
fn lazy(arguments: &Arguments) {
    let mut client = options().connect(Path::new(arguments.text("path"))).expect("connect");
    // Short requests, which never find their ring full: then `send` would set answers aside. Long answers, which
    // fill the response ring, and then the server's queue.
    let mut sent = 0;
    while sent < 400 {
        client.send_timeout(&ask(b'l', 3000, b""), Some(Duration::ZERO)).expect("room for 400 lines");
        sent += 1;
    }
    say(&format!("sent {sent}"));
    let _ = hear();
    let error = loop {
        match client.recv(None) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    say(&format!("ended {error:?}"));
}

fn a_client_that_does_not_read_is_put_out() -> Ran {
    let mut server = Server::prepare("do")
        .with("ring_capacity", 64 * 1024)
        .with("max_queued_answers", 8)
        .with("slow_client_ms", 200)
        .start();
    let mut honest = connect(&server);
    let mut lazy = Start::role("lazy").with("path", server.path().display()).start();
    let sent: u64 = lazy.expect("sent").parse().expect("a number");
    let began = Instant::now();
    let mut calls = 0;
    while server.stats().slow_clients == 0 {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "it is never put out; it has sent {sent}: {:?}",
            server.stats()
        );
        honest.call(b"ehonest").expect("others do not notice");
        calls += 1;
        tick();
    }
    lazy.tell("read");
    assert_eq!(lazy.expect("ended"), "Disconnected");
    assert_eq!(server.stats().sessions, 1);
    finish(honest);
    server.shut_down();
    done!("after {sent} requests and {:?}; {calls} calls of an honest client", began.elapsed())
}

fn numbers_of_both_sides_agree() -> Ran {
    let count = scaled(5000);
    let mut server = Server::verifying();
    let mut client = Verified::connect(server.path(), options().name("counted"), Pattern::new(1, 700));
    assert_eq!(client.client().server_pid(), server.id());
    assert_ne!(client.client().generation(), 0);
    client.pipeline(count, 10);
    let counts = client.client().stats();
    assert_eq!((counts.sent, counts.received, counts.in_flight, counts.errors), (count + 1, count + 1, 0, 0));
    assert!(counts.bytes_sent > count * 100 && counts.bytes_received > count * 100);
    let stats = server.stats();
    assert_eq!((stats.sessions, stats.accepted), (1, 1));
    client.finish();
    server.wait_for_sessions(0);
    let stats = server.shut_down();
    assert_eq!((stats.requests, stats.sessions_peak, stats.hung_up), (count + 1, 1, 1));
    assert_eq!((stats.rejected, stats.handshakes_failed, stats.peer_faults), (0, 0, 0));
    done!("{count} messages")
}

fn limits_of_options() -> Ran {
    let server = Server::prepare("do").with("ring_capacity", 16 * 1024).with("fallback", "off").start();
    let with = |options: ConnectOptions| options.connect(server.path());
    for bytes in [1, 1024, 3000, (2 << 30), u64::MAX] {
        assert!(
            matches!(with(options().ring_capacity(bytes)), Err(ConnectError::InvalidOption(_))),
            "{bytes}"
        );
    }
    assert!(matches!(with(options().max_in_flight(0)), Err(ConnectError::InvalidOption(_))));
    assert!(matches!(with(options().name("n".repeat(49))), Err(ConnectError::InvalidOption(_))));
    for name in ["", "n", &"n".repeat(48), "ünïcödé"] {
        let mut client = with(options().name(name)).expect("connect");
        client.call(b"e").expect("a call");
    }
    for bytes in [2048, 4096, 1 << 20] {
        let mut client = with(options().ring_capacity(bytes)).expect("connect");
        client.call(&vec![b'e'; 100_000]).expect("a call");
        finish(client);
    }
    assert!(
        matches!(with(options().ring_capacity(1 << 30)), Err(ConnectError::Rejected(_))),
        "beyond 64 MiB"
    );
    assert!(matches!(Client::connect("/no/such/socket"), Err(ConnectError::NoSuchSocket(_))));
    assert!(matches!(Client::connect("/etc/passwd"), Err(ConnectError::NotASocket(_))));
    assert!(matches!(
        Client::connect(format!("/{}", "x".repeat(200))),
        Err(ConnectError::PathTooLong { .. })
    ));
    assert!(matches!(Client::connect(""), Err(ConnectError::InvalidOption(_))));
    for (name, builder) in [
        ("ring_capacity", ringbell::Server::builder().ring_capacity(3000)),
        ("max_clients", ringbell::Server::builder().max_clients(0)),
        ("max_message", ringbell::Server::builder().max_message(0)),
        ("max_message", ringbell::Server::builder().max_message(1 << 32)),
        ("rings", ringbell::Server::builder().ring_capacity(1 << 30)),
    ] {
        let error = builder.bind(server.path().with_extension("other")).err().map(|error| error.to_string());
        assert!(error.as_ref().is_some_and(|text| text.contains(name)), "{name}: {error:?}");
    }
    assert!(matches!(ringbell::Server::bind(server.path()), Err(ringbell::BindError::AlreadyListening(_))));
    server.shut_down();
    done!("options of client and server")
}

/// Timeouts cut calls of any length at any point: no session is harmed, no answer goes astray.
fn timeouts_at_any_moment() -> Ran {
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
            not_sent += u64::from(client.send_timeout(&ask(b's', 1, b""), Some(Duration::ZERO)).is_err());
        }
        let timeout = Duration::from_nanos(chance.below(60_000));
        match client.call_timeout(&body, Some(timeout)) {
            Ok(answer) => {
                answered += 1;
                assert!(answer.payload() == &body[1..], "the answer to call {round} is another's, or torn");
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

fn memory_for_requests_is_limited() -> Ran {
    let rounds = scaled(50);
    let mut server =
        Server::prepare("do").with("ring_capacity", 16_384).with("max_incomplete_bytes", 300_000).start();
    let large = vec![b'e'; 250_000];
    let larger = vec![b'e'; 350_000];
    let mut client = connect(&server);
    for _ in 0..rounds {
        assert_eq!(client.call(&large).expect("within the budget").len(), large.len() - 1);
        match client.call(&larger) {
            Err(CallError::Remote(RemoteError { code: code::EXHAUSTED, .. })) => {}
            other => panic!("{:?}", other.map(|answer| answer.len())),
        }
        assert_eq!(&*client.call(b"eon").expect("the session goes on"), b"on");
        // Half of a message, which takes its part of the budget with it when its client goes.
        let mut quitter = connect(&server);
        quitter.call(b"e").expect("its session counts from now on");
        quitter.send(&ask(b's', 2, b"")).expect("send");
        let _ = quitter.send_timeout(&large, Some(Duration::from_millis(1)));
        drop(quitter);
        server.wait_for_sessions(1);
    }
    finish(client);
    server.wait_for_sessions(0);
    let stats = server.shut_down();
    assert_eq!((stats.errors, stats.peer_faults), (rounds, 0));
    done!("{rounds} refusals, and as many clients that went half-way")
}

fn shutdown_before_serving() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let server = ringbell::Server::bind(dir.path().join("test.sock")).expect("bind");
    let handle = server.handle();
    handle.shutdown(None);
    handle.shutdown(Some(Duration::ZERO));
    let stats = at_once(|| server.run(|_, _| Ok(()))).expect("run");
    assert_eq!(stats.requests, 0);
    handle.shutdown(None);
    done!("one")
}

fn clients_wait_for_a_server_that_does_not_serve_yet() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("test.sock");
    let server = ringbell::Server::bind(&path).expect("bind");
    let handle = server.handle();
    let early = options().timeout(Some(SHORT)).connect(&path);
    assert!(matches!(early, Err(ConnectError::TimedOut)), "{early:?}");
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut client = options().connect(&path).expect("connect");
            client.call(b"x").expect("a call").len()
        });
        std::thread::sleep(SHORT);
        assert!(!client.is_finished());
        let serving = scope.spawn(|| server.run(|_, _| Ok(())));
        assert_eq!(client.join().expect("a thread"), 0);
        handle.shutdown(None);
        serving.join().expect("a thread").expect("run");
    });
    done!("two")
}
