//! Many requests at once: answers from other threads, in any order; streams, events, one-way messages, cancellation.

use ringbell::layout::{STREAM_WINDOW, code};
use ringbell::{AnswerOrder, CallError, CallId, EventError, RecvError, RemoteError, SendError};
use ringbell_shm_tests::pattern::Chance;
use ringbell_shm_tests::process::{Arguments, Start, hear, say};
use ringbell_shm_tests::reacting::{Asking, Count, StreamEnd, ask, item, stream_of, words};
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::suite::{Ran, stalled, tick};
use ringbell_shm_tests::{done, observe, options, scaled, scaled_for, seed, suite, wait_until};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

suite! {
    both: [
        answers_in_the_order_of_their_completion,
        answers_in_the_order_of_the_requests,
        a_client_asks_for_answers_in_order,
        streams_and_errors_in_order,
        responders_dropped_and_leaked,
        panics_of_the_handler,
        answers_whose_client_has_died,
        answers_whose_server_has_returned,
        sessions_one_after_the_other_with_answers_under_way,
        bursts,
        a_full_response_queue_beside_others,
        too_large_either_way,
        no_length_either_way,
        timeouts_race_answers,
        handlers_see_that_they_are_cancelled,
        what_has_expired_is_not_run,
        what_expires_before_its_turn_is_not_run,
        requests_tell_of_themselves,
        at_most_so_many_in_flight,
        streams_arrive_in_order,
        a_stream_waits_for_its_client,
        streams_and_calls_at_once,
        a_stream_that_is_dropped_is_cancelled,
        streams_that_end_badly,
        a_stream_that_was_not_asked_for,
        one_response_is_a_stream_of_one_item,
        a_stream_from_the_reactor_itself,
        one_way_messages,
        events_between_answers,
        events_that_find_no_room,
        events_that_nobody_asks_for,
        events_for_another_session,
        shutdown_waits_for_answers,
        shutdown_cuts_off_what_is_leaked,
        shutdown_in_the_midst_of_streams,
        handlers_on_an_executor,
        short_handlers_on_an_executor,
        clients_at_once,
    ],
    // About the smallest ring; and about times: over the socket an answer's wake-up may take longer than what counts as
    // short, and five seconds are enough once.
    tests: [pipelined_through_the_smallest_ring, measured_handlers_on_an_executor, timeouts_of_more_than_five_seconds],
    roles: [dies],
}

const SOON: Duration = Duration::from_secs(20);
fn reacting() -> Server {
    Server::prepare("react").start()
}

fn connect(server: &Server) -> Asking {
    Asking::connect(server.path(), options())
}

fn remote(error: &CallError) -> u16 {
    match error {
        CallError::Remote(error) => error.code,
        error => panic!("{error:?}"),
    }
}

/// Sends eight requests of which each is answered after the next one; their numbers.
fn reversed(client: &mut Asking, gate: u64) -> Vec<u64> {
    (0..8)
        .map(|index| {
            let number = client.next_number();
            let after = if index == 0 { 0 } else { gate + index };
            let before = if index == 7 { 0 } else { gate + index + 1 };
            client.send(b'k', before, &after.to_le_bytes(), None).expect("send");
            number
        })
        .collect()
}

fn answers_in_the_order_of_their_completion() -> Ran {
    let rounds = scaled(3000);
    let server = reacting();
    let mut client = connect(&server);
    assert_eq!(client.client().answer_order(), AnswerOrder::Completion);
    for round in 0..rounds {
        let mut numbers = reversed(&mut client, 16 * round);
        numbers.reverse();
        assert_eq!(client.recv_all(), numbers, "round {round}");
    }
    client.finish();
    let stats = server.shut_down();
    assert_eq!((stats.dispatched, stats.inline, stats.stashed), (8 * rounds, 0, 0));
    done!("{rounds} rounds of 8 answers, each complete after the one behind it")
}

fn answers_in_the_order_of_the_requests() -> Ran {
    let rounds = scaled(3000);
    let server = Server::prepare("react").with("ordered", 1).start();
    let mut client = connect(&server);
    assert_eq!(client.client().answer_order(), AnswerOrder::Request);
    for round in 0..rounds {
        let mut numbers = reversed(&mut client, 16 * round);
        // Answered at once, and to be sent last.
        numbers.push(client.next_number());
        client.send(b'e', 0, b"", None).expect("send");
        assert_eq!(client.recv_all(), numbers, "round {round}");
    }
    client.finish();
    let stats = server.shut_down();
    // The last to be complete is the first to be sent.
    assert!(stats.stashed >= 7 * rounds, "{stats:?}");
    done!("{rounds} rounds of 9 answers, {} of them kept until their turn", stats.stashed)
}

fn a_client_asks_for_answers_in_order() -> Ran {
    let server = reacting();
    let mut ordered = Asking::connect(server.path(), options().answer_order(AnswerOrder::Request));
    let mut other = connect(&server);
    assert_eq!(ordered.client().answer_order(), AnswerOrder::Request);
    assert_eq!(other.client().answer_order(), AnswerOrder::Completion);
    for round in 0..10 {
        let mut numbers = reversed(&mut ordered, 1000 + 16 * round);
        assert_eq!(ordered.recv_all(), numbers);
        numbers = reversed(&mut other, 1000 + 16 * round);
        numbers.reverse();
        assert_eq!(other.recv_all(), numbers);
    }
    for client in [ordered, other] {
        client.finish();
    }
    server.shut_down();
    done!("beside one that does not")
}

/// Items, ends, errors, and answers that nobody gives: all of them have a turn.
fn streams_and_errors_in_order() -> Ran {
    let rounds = scaled(500);
    let server = Server::prepare("react").with("ordered", 1).start();
    let mut client = connect(&server);
    let mut opener = connect(&server);
    for round in 1..=rounds {
        let gate = 7_000_000 + round;
        let slow = client.client().send(&ask(b'k', 0, gate, &[0; 8])).expect("send");
        let number = client.next_number();
        let request = client.request(b's', 20, &stream_of(100, StreamEnd::Good));
        let stream = client.client().open_stream(&request, None).expect("send");
        let dropped = client.client().send(&ask(b'D', 0, 0, b"")).expect("send");
        let panicked = client.client().send(&ask(b'p', 0, 0, b"")).expect("send");
        client.client().send_one_way(&ask(b't', 0, 0, b""), None).expect("send");
        let last = client.client().send(&ask(b'e', 0, 0, b"")).expect("send");
        opener.echoes(b'o', gate, b"");
        let mut order = Vec::new();
        for _ in 0..4 {
            let answer = client.client().recv(Some(SOON)).expect("an answer");
            order.push((answer.call, answer.outcome.as_ref().err().map_or(0, |error| error.code)));
        }
        assert_eq!(order, [(slow, 0), (dropped, code::DROPPED), (panicked, code::PANICKED), (last, 0)]);
        assert_eq!(client.read_stream(stream, number, 100), Ok(20));
    }
    for client in [client, opener] {
        client.finish();
    }
    let stats = server.shut_down();
    assert!(stats.stashed >= rounds, "{stats:?}");
    done!("{rounds} rounds, {} answers and items kept", stats.stashed)
}

fn responders_dropped_and_leaked() -> Ran {
    let rounds = scaled(2000);
    let mut server = reacting();
    // Without deadlines: a request that is late before it is read would not be run.
    let mut client = Asking::connect(server.path(), options().send_deadlines(false));
    for _ in 0..rounds {
        for verb in [b'd', b'D'] {
            let error = client.ask(verb, 0, b"").expect_err("dropped");
            assert_eq!(remote(&error), code::DROPPED, "{error}");
            client.echoes(b'e', 0, b"on");
        }
    }
    // What is leaked is never answered. That harms nobody.
    for _ in 0..10 {
        let leaked = client.ask_within(b'l', 0, b"", Some(Duration::from_millis(5)));
        assert!(matches!(leaked, Err(CallError::TimedOut { maybe_executed: true })), "{leaked:?}");
        client.echoes(b't', 0, b"on");
    }
    wait_until("leaked requests are in flight", || server.stats().in_flight == 10);
    client.finish();
    server.wait_for_sessions(0);
    assert_eq!(server.stats().in_flight, 0, "they go with their session");
    let stats = server.shut_down();
    assert_eq!((stats.errors, stats.cancelled), (2 * rounds, 10));
    done!("{rounds} of each, 10 leaked")
}

fn panics_of_the_handler() -> Ran {
    let rounds = scaled(1000);
    let server = reacting();
    let mut client = connect(&server);
    for _ in 0..rounds {
        match client.ask(b'p', 0, b"at the disco") {
            Err(CallError::Remote(RemoteError { code: code::PANICKED, text })) => {
                assert!(text.contains("inline: at the disco"), "{text}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(remote(&client.ask(b'P', 0, b"").expect_err("a panic")), code::PANICKED);
        // The worker that panicked is there for the next one.
        client.echoes(b't', 0, b"on");
    }
    for (verb, number) in [(b'x', 3), (b'X', 4)] {
        let error = client.ask(verb, number, b"text").expect_err("an error");
        let CallError::Remote(error) = error else { panic!("{error:?}") };
        assert_eq!((error.application_code(), &*error.text), (u16::try_from(number).ok(), "text"));
    }
    client.finish();
    let stats = server.shut_down();
    assert_eq!((stats.panics, stats.errors), (2 * rounds, 2 * rounds + 2));
    done!("{rounds} inline and as many on threads")
}

/// Leaves requests behind that are being answered, and waits for its death.
fn dies(arguments: &Arguments) {
    let mut client = Asking::connect(Path::new(arguments.text("path")), options());
    for _ in 0..10 {
        client.send(b'h', 1, b"held", None).expect("send");
    }
    let request = client.request(b's', 1_000_000, &stream_of(100, StreamEnd::Good));
    client.client().open_stream(&request, None).expect("send");
    client.send(b'w', 0, b"", None).expect("send");
    client.echoes(b'e', 0, b"");
    say("ready");
    let _ = hear();
}

fn answers_whose_client_has_died() -> Ran {
    let rounds = scaled(40);
    let mut server = reacting();
    let mut client = connect(&server);
    client.echoes(b'e', 0, b"");
    let before = observe::descriptors(server.id());
    for round in 1..=rounds {
        let mut doomed = Start::role("dies").with("path", server.path().display()).start();
        doomed.expect("ready");
        wait_until("its stream waits for it", || client.count(Count::Blocked) == round);
        doomed.kill();
        wait_until("its session is over", || client.count(Count::Closed) == round);
        assert_eq!(client.words(b'r', 1, b""), [10, 10], "held, and said to be cancelled");
        wait_until("its stream has ended", || client.count(Count::Gone) == round);
        wait_until("its handler has seen it", || client.count(Count::CancelSeen) == round);
    }
    wait_until("descriptors are closed", || observe::descriptors(server.id()) <= before + observe::SPARE);
    client.finish();
    server.wait_for_sessions(0);
    let stats = server.shut_down();
    assert!(stats.orphans >= 11 * rounds, "{stats:?}");
    assert_eq!((stats.hung_up, stats.peer_faults), (rounds + 1, 0));
    done!("{rounds} clients, {} answers to nobody", stats.orphans)
}

/// The server's process uses them once it has returned: see `State::close`.
fn answers_whose_server_has_returned() -> Ran {
    let mut server = reacting();
    let mut client = connect(&server);
    for _ in 0..20 {
        client.send(b'h', 1, b"held", None).expect("send");
    }
    client.echoes(b'e', 0, b"");
    server.process().tell("shutdown 0");
    assert!(matches!(client.recv(Some(SOON)), Err(RecvError::ShutDown)));
    client.finish();
    server.ended();
    done!("20")
}

/// No answer reaches a later session, however late it is complete.
fn sessions_one_after_the_other_with_answers_under_way() -> Ran {
    let rounds = scaled_for(10_000, 3000);
    let mut server = reacting();
    let mut first = connect(&server);
    first.echoes(b'e', 0, b"");
    let before = observe::descriptors(server.id());
    let mut chance = Chance::new(seed());
    for round in 0..rounds {
        let mut client = connect(&server);
        for _ in 0..chance.below(12) {
            let verb = [b't', b't', b'e', b'D', b'L'][usize::try_from(chance.below(5)).expect("small")];
            client.send(verb, chance.below(300), b"left behind", None).expect("send");
        }
        if chance.below(4) == 0 {
            let request = client.request(b's', 200, &stream_of(300, StreamEnd::Good));
            client.client().open_stream(&request, None).expect("send");
        }
        for _ in 0..chance.below(3) {
            client.echoes(b't', chance.below(50), b"mine");
        }
        client.finish();
        if round % 64 == 0 {
            tick();
        }
    }
    first.echoes(b't', 0, b"still there");
    wait_until("all sessions are over", || first.count(Count::Closed) == rounds);
    wait_until("descriptors are closed", || observe::descriptors(server.id()) <= before + observe::SPARE);
    wait_until("nothing is in flight", || server.stats().in_flight == 0);
    first.finish();
    // Its goodbye and the order to shut down take different ways.
    server.wait_for_sessions(0);
    let stats = server.shut_down();
    assert!(stats.orphans > 0, "{stats:?}");
    assert_eq!((stats.accepted, stats.hung_up, stats.peer_faults), (rounds + 1, rounds + 1, 0));
    done!("{rounds} sessions, {} answers to nobody", stats.orphans)
}

fn bursts() -> Ran {
    const DEPTH: u64 = 512;
    let rounds = scaled_for(400, 100);
    let server = reacting();
    let mut client = connect(&server);
    let mut chance = Chance::new(seed());
    for _ in 0..rounds {
        for _ in 0..DEPTH {
            let verb = if chance.below(2) == 0 { b'e' } else { b't' };
            client.send(verb, 0, b"burst", None).expect("send");
        }
        assert_eq!(client.recv_all().len() as u64, DEPTH);
    }
    client.finish();
    let stats = server.shut_down();
    assert_eq!((stats.requests, stats.inline + stats.dispatched), (rounds * DEPTH, rounds * DEPTH));
    assert!(stats.inline > 0 && stats.dispatched > 0, "{stats:?}");
    done!("{rounds} bursts of {DEPTH}")
}

fn pipelined_through_the_smallest_ring() -> Ran {
    let receive = |client: &mut Asking| match client.recv(None).expect("recv").1 {
        Ok(rest) => assert!(rest.iter().all(|byte| *byte == 7)),
        Err(error) => assert_eq!(error.code, code::DROPPED),
    };
    let count = scaled(200_000);
    let server = Server::prepare("react").with("ring_capacity", 2048).start();
    let mut client = connect(&server);
    let mut chance = Chance::new(seed());
    let filler = [7; 600];
    for _ in 0..count {
        let verb = [b'e', b't', b'D'][usize::try_from(chance.below(3)).expect("small")];
        let len = usize::try_from(chance.below(600)).expect("small");
        client.send(verb, 0, &filler[..len], None).expect("send");
        while client.waiting() > 256 {
            receive(&mut client);
        }
    }
    while client.waiting() > 0 {
        receive(&mut client);
    }
    client.finish();
    let stats = server.shut_down();
    assert_eq!(stats.requests, count);
    assert!(stats.queued > 0, "the ring never filled up: {stats:?}");
    done!("{count} calls, {} inline, {} answers queued", stats.inline, stats.queued)
}

fn a_full_response_queue_beside_others() -> Ran {
    const LAZY: u64 = 400;
    let calls = scaled(10_000);
    let mut server =
        Server::prepare("react").with("ring_capacity", 64 * 1024).with("max_queued_answers", 8).start();
    let mut lazy = connect(&server);
    for number in 0..LAZY {
        // 1.2 MB of answers, which nobody reads.
        lazy.client().send(&ask(b'Z', number, 3000, b"")).expect("room for 400 lines");
    }
    wait_until("answers are queued", || server.stats().queued > 0);
    let mut slowest = Duration::ZERO;
    let mut others = [connect(&server), connect(&server)];
    for number in 0..calls {
        for other in &mut others {
            let began = Instant::now();
            other.echoes(if number % 2 == 0 { b'e' } else { b't' }, 0, b"on");
            slowest = slowest.max(began.elapsed());
        }
        if number % 256 == 0 {
            tick();
        }
    }
    assert!(server.stats().queued > 0);
    for _ in 0..LAZY {
        let answer = lazy.client().recv(Some(SOON)).expect("an answer");
        assert_eq!(answer.outcome.expect("zeros").payload(), &[0; 3000]);
    }
    lazy.echoes(b't', 0, b"on");
    for client in others {
        client.finish();
    }
    lazy.finish();
    assert_eq!(server.shut_down().slow_clients, 0);
    done!("{LAZY} answers waited while two others made {calls} calls each, the slowest in {slowest:?}")
}

fn too_large_either_way() -> Ran {
    const MOST: u64 = 100_000;
    let server = Server::prepare("react").with("max_message", MOST).start();
    let mut client = connect(&server);
    let request = vec![b'e'; 100_001];
    let too_large = CallError::TooLarge { len: 100_001, max: 100_000 };
    assert_eq!(client.client().call(&request).unwrap_err(), too_large);
    assert_eq!(
        client.client().send_one_way(&request, None),
        Err(SendError::TooLarge { len: 100_001, max: 100_000 })
    );
    for verb in [b'z', b'Z', b'Z', b'Z'] {
        let request = client.request(verb, MOST, b"");
        assert_eq!(client.client().call(&request).expect("as large as may be").payload(), &[0; 100_000]);
        let error = client.ask(verb, MOST + 1, b"").expect_err("too large");
        assert_eq!(remote(&error), code::TOO_LARGE, "{error}");
        client.echoes(b'e', 0, b"on");
    }
    // An item that is too large is told to its producer, and the stream goes on.
    let too_long = stream_of(100_001, StreamEnd::Good);
    let request = client.request(b'S', 5, &too_long);
    let mut stream = client.client().call_stream(&request).expect("send");
    assert_eq!(stream.next(Some(SOON)), Ok(None));
    drop(stream);
    assert_eq!(client.count(Count::TooLarge), 5);
    let request = client.request(b'S', 5, &stream_of(100_000, StreamEnd::Good));
    let mut stream = client.client().call_stream(&request).expect("send");
    for _ in 0..5 {
        assert_eq!(stream.next(Some(SOON)).expect("an item"), Some(&[0; 100_000][..]));
    }
    assert_eq!(stream.next(Some(SOON)), Ok(None));
    drop(stream);
    assert_eq!(client.words(b'V', 2, &100_001u32.to_le_bytes()), [0, 0, 0, 2]);
    client.finish();
    server.shut_down();
    done!("requests, answers, items and events")
}

fn no_length_either_way() -> Ran {
    let rounds = scaled(5000);
    let server = reacting();
    let mut client = connect(&server);
    for _ in 0..rounds {
        // Inline and on a thread in turn.
        assert_eq!(client.client().call(b"").expect("nothing for nothing").payload(), b"");
        let request = client.request(b'Z', 0, b"");
        assert_eq!(client.client().call(&request).expect("nothing for something").payload(), b"");
    }
    let request = client.request(b'S', 300, &stream_of(0, StreamEnd::Good));
    let mut stream = client.client().call_stream(&request).expect("send");
    for _ in 0..300 {
        assert_eq!(stream.next(Some(SOON)).expect("an item"), Some(&b""[..]));
    }
    assert_eq!(stream.next(Some(SOON)), Ok(None));
    drop(stream);
    assert_eq!(client.words(b'V', 1, &0u32.to_le_bytes()), [1, 0, 0, 0]);
    assert_eq!(client.client().next_event(Some(SOON)), Ok(Vec::new()));
    client.client().send_one_way(b"", None).expect("send");
    client.echoes(b'e', 0, b"");
    client.finish();
    server.shut_down();
    done!("{rounds} of each")
}

fn timeouts_of_more_than_five_seconds() -> Ran {
    let server = reacting();
    let (mut first, mut second) = (connect(&server), connect(&server));
    let mut third = connect(&server);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let limit = Duration::from_millis(5300);
        let never = scope.spawn(move || {
            let error = first.ask_within(b'l', 0, b"", Some(limit)).expect_err("it is leaked");
            assert_eq!(error, CallError::TimedOut { maybe_executed: true });
            assert!(began.elapsed() >= limit, "{:?}", began.elapsed());
            first.echoes(b'e', 0, b"on");
            first
        });
        let late = scope.spawn(move || {
            let answer = second.ask_within(b'k', 42, &[0; 8], Some(Duration::from_secs(30)));
            assert_eq!(answer.expect("it comes in time"), [0; 8]);
            second
        });
        // It is not the time that is waited for, but that somebody waits for so long.
        std::thread::sleep(Duration::from_millis(5100));
        assert!(!late.is_finished() && !never.is_finished());
        third.echoes(b'o', 42, b"");
        for client in [late.join().expect("a thread"), never.join().expect("a thread"), third] {
            client.finish();
        }
    });
    server.shut_down();
    done!("an answer after 5.1 s, and none in 5.3 s")
}

/// Calls that end at the very moment at which they are answered.
fn timeouts_race_answers() -> Ran {
    let rounds = scaled(20_000);
    let server = reacting();
    let mut client = connect(&server);
    let mut chance = Chance::new(seed());
    let (mut answered, mut late) = (0u64, 0u64);
    for round in 0..rounds {
        let verb = [b't', b't', b'e', b'b'][usize::try_from(chance.below(4)).expect("small")];
        let time = chance.below(80);
        let timeout = Duration::from_nanos(chance.below(150_000));
        let rest = round.to_le_bytes();
        match client.ask_within(verb, time, &rest, Some(timeout)) {
            Ok(answer) => {
                assert_eq!(answer, rest);
                answered += 1;
            }
            Err(CallError::TimedOut { .. }) => late += 1,
            Err(CallError::TooManyInFlight { .. }) => while client.client().recv(None).is_ok() {},
            Err(error) => panic!("call {round}: {error:?}"),
        }
        if round % 256 == 0 {
            tick();
            client.echoes(b't', 0, &rest);
        }
    }
    client.echoes(b't', 0, b"the session goes on");
    assert!(answered > 0 && late > 0, "{answered} answered, {late} late");
    let counts = client.client().stats();
    assert_eq!(counts.timeouts, late);
    client.finish();
    let stats = server.shut_down();
    assert_eq!((stats.peer_faults, stats.panics), (0, 0));
    assert!(stats.cancelled > 0, "{stats:?}");
    done!("{answered} answered, {late} too late, {} cancelled, {} expired", stats.cancelled, stats.expired)
}

fn handlers_see_that_they_are_cancelled() -> Ran {
    let rounds = scaled(200);
    let server = reacting();
    // Without deadlines: a request that is late before it is read would not be run.
    let mut client = Asking::connect(server.path(), options().send_deadlines(false));
    for round in 1..=rounds {
        let error = client.ask_within(b'w', 0, b"", Some(Duration::from_millis(1)));
        assert!(matches!(error, Err(CallError::TimedOut { .. })), "{error:?}");
        wait_until("the handler has seen it", || client.count(Count::CancelSeen) == round);
    }
    // So does one whose client goes.
    let mut quitter = connect(&server);
    quitter.send(b'w', 0, b"", None).expect("send");
    quitter.echoes(b'e', 0, b"");
    quitter.finish();
    wait_until("the handler has seen it", || client.count(Count::CancelSeen) == rounds + 1);
    client.finish();
    assert_eq!(server.shut_down().cancelled, rounds);
    done!("{rounds}, and one whose client left")
}

/// Requests are executed or not, and who is told that one was not can rely on it.
fn what_has_expired_is_not_run() -> Ran {
    let rounds = scaled(20_000);
    let server = reacting();
    let mut client = connect(&server);
    let mut chance = Chance::new(seed());
    let (mut answered, mut not_executed, mut maybe) = (Vec::new(), Vec::new(), 0u64);
    for round in 0..rounds {
        let number = client.next_number();
        let timeout = Duration::from_nanos(1 + chance.below(60_000));
        match client.ask_within(b'L', chance.below(60), b"", Some(timeout)) {
            Ok(_) => answered.push(number),
            Err(CallError::TimedOut { maybe_executed: true }) => maybe += 1,
            Err(CallError::TimedOut { maybe_executed: false }) => not_executed.push(number),
            Err(CallError::TooManyInFlight { .. }) => {
                not_executed.push(number);
                client.echoes(b'e', 0, b"");
            }
            Err(error) => panic!("{error:?}"),
        }
        if round % 256 == 0 {
            tick();
        }
    }
    let list = client.words(b'q', 0, b"");
    let executed: HashSet<u64> = list.iter().copied().collect();
    assert_eq!(executed.len(), list.len(), "a request was executed twice");
    assert!(list.is_sorted(), "requests were executed out of order");
    for number in &answered {
        assert!(executed.contains(number), "request {number} was answered and not executed");
    }
    for number in &not_executed {
        assert!(!executed.contains(number), "request {number} was executed");
    }
    client.finish();
    let stats = server.shut_down();
    assert!(stats.expired > 0, "{stats:?}");
    assert!(executed.len() as u64 + stats.expired <= rounds);
    done!(
        "{} answered, {maybe} too late, {} not sent; {} executed, {} expired",
        answered.len(),
        not_executed.len(),
        executed.len(),
        stats.expired
    )
}

/// On an executor a request may wait for a thread for longer than its caller waits for it.
fn what_expires_before_its_turn_is_not_run() -> Ran {
    let rounds = scaled(100);
    let mut server = Server::prepare("react").with("pool", 1).start();
    let (mut blocking, mut client) = (connect(&server), connect(&server));
    for round in 1..=rounds {
        // The counts lag behind: not that of the last round.
        wait_until("nothing is in flight", || server.stats().in_flight == 0);
        blocking.send(b'K', round, b"", None).expect("send");
        wait_until("the only thread is taken", || server.stats().in_flight == 1);
        let error = client.ask_within(b'L', 0, b"", Some(Duration::from_millis(3)));
        assert!(matches!(error, Err(CallError::TimedOut { .. })), "{error:?}");
        // One that is cancelled, without a deadline.
        let request = client.request(b'L', 0, b"");
        let call = client.client().open_stream(&request, None).expect("send");
        client.client().close_stream(call);
        let number = client.next_number();
        client.send(b'L', 0, b"", None).expect("send");
        // The one with a deadline may have been late already when it was read.
        wait_until("both are given up", || {
            let counts = server.stats();
            counts.cancelled + counts.expired >= 2 * round
        });
        server.process().tell(&format!("open {round}"));
        assert_eq!(client.recv_all(), [number]);
        assert_eq!(client.words(b'q', 0, b"").last(), Some(&number));
        assert_eq!(blocking.recv_all().len(), 1);
    }
    assert_eq!(client.words(b'q', 0, b"").len() as u64, rounds, "what nobody waits for is not run");
    for client in [blocking, client] {
        client.finish();
    }
    server.shut_down();
    done!("{rounds} of either kind")
}

fn requests_tell_of_themselves() -> Ran {
    let server = reacting();
    let mut client = connect(&server);
    let told = client.words(b'a', 0, b"");
    assert_eq!(told[1..], [0, u64::MAX, 0]);
    let call = told[0];
    let told = words(&client.ask_within(b'a', 0, b"", Some(Duration::from_millis(999))).expect("a call"));
    assert!(told[0] != call && told[1] == 0 && (1..=999).contains(&told[2]) && told[3] == 0, "{told:?}");
    // So far off that the server is not told.
    let told = words(&client.ask_within(b'a', 0, b"", Some(Duration::from_secs(1))).expect("a call"));
    assert_eq!(told[1..], [0, u64::MAX, 0]);
    let far = Some(Duration::MAX);
    assert_eq!(words(&client.ask_within(b'a', 0, b"", far).expect("a call"))[3], 0);
    client.finish();
    let mut silent = Asking::connect(server.path(), options().send_deadlines(false));
    let told = silent.ask_within(b'a', 0, b"", Some(SOON)).expect("a call");
    assert_eq!(words(&told)[1..], [0, u64::MAX, 0], "no deadline was sent");
    silent.finish();
    server.shut_down();
    done!("call, deadline")
}

fn at_most_so_many_in_flight() -> Ran {
    const LIMIT: u64 = 5;
    let mut server = Server::prepare("react").with("max_in_flight", LIMIT).start();
    let (mut client, mut other) = (connect(&server), connect(&server));
    let mut numbers = Vec::new();
    for _ in 0..4 * LIMIT {
        numbers.push(client.next_number());
        client.send(b'h', 1, b"", None).expect("send");
    }
    for round in 0..4 {
        wait_until("as many as may be are held", || server.stats().dispatched == (round + 1) * LIMIT);
        // More are not even read, while others are served.
        for _ in 0..20 {
            other.echoes(b'e', 0, b"");
        }
        assert_eq!(other.words(b'r', 1, b""), [LIMIT, 0]);
    }
    assert_eq!(client.recv_all(), numbers);
    for client in [client, other] {
        client.finish();
    }
    server.shut_down();
    done!("{LIMIT} of {}", 4 * LIMIT)
}

fn streams_arrive_in_order() -> Ran {
    let items = scaled(50_000);
    let server = Server::prepare("react").with("ring_capacity", 16 * 1024).start();
    let mut client = connect(&server);
    for (items, longest) in [(items, 300), (items / 20 + 1, 20_000), (0, 10), (1, 10), (64, 0), (65, 0)] {
        let number = client.next_number();
        let request = client.request(b's', items, &stream_of(longest, StreamEnd::Good));
        let call = client.client().open_stream(&request, None).expect("send");
        assert_eq!(client.read_stream(call, number, longest.into()), Ok(items));
        assert_eq!(client.client().next_item(call, &mut Vec::new(), None), Err(CallError::NotAStream));
    }
    client.finish();
    server.shut_down();
    done!("{items} items, and {} large ones", items / 20)
}

fn a_stream_waits_for_its_client() -> Ran {
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

fn streams_and_calls_at_once() -> Ran {
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

fn a_stream_that_is_dropped_is_cancelled() -> Ran {
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

fn streams_that_end_badly() -> Ran {
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
                assert_eq!(remote(&stream.next(Some(SOON)).expect_err("an end")), wanted, "{end:?}");
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

fn a_stream_that_was_not_asked_for() -> Ran {
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

fn one_response_is_a_stream_of_one_item() -> Ran {
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
    for (verb, wanted) in [(b'x', code::APPLICATION), (b'd', code::DROPPED), (b'p', code::PANICKED)] {
        let request = client.request(verb, 0, b"");
        let mut stream = client.client().call_stream(&request).expect("send");
        assert_eq!(remote(&stream.next(Some(SOON)).expect_err("an error")), wanted);
    }
    client.finish();
    server.shut_down();
    done!("responses and errors")
}

fn a_stream_from_the_reactor_itself() -> Ran {
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

fn one_way_messages() -> Ran {
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
        let message = client.request(b's', 10, &stream_of(10, end));
        client.client().send_one_way(&message, None).expect("send");
    }
    wait_until("streams to nobody have ended", || client.count(Count::Items) == 40);
    wait_until("nothing is in flight", || server.stats().in_flight == 0);
    assert_eq!(client.client().recv(None).unwrap_err(), RecvError::NothingInFlight);
    let counts = client.client().stats();
    assert_eq!(counts.errors, 0);
    client.finish();
    server.shut_down();
    done!("{count} in order, and some of every kind")
}

fn events_between_answers() -> Ran {
    const THREADS: u64 = 4;
    let rounds = scaled(100);
    let each = 500;
    let server = Server::prepare("react").with("ring_capacity", 8192).with("max_queued_events", 64).start();
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

fn events_that_find_no_room() -> Ran {
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

fn events_that_nobody_asks_for() -> Ran {
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

fn events_for_another_session() -> Ran {
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

fn shutdown_waits_for_answers() -> Ran {
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

fn shutdown_cuts_off_what_is_leaked() -> Ran {
    for pool in [None, Some(2)] {
        let mut prepared = Server::prepare("react");
        if let Some(threads) = pool {
            prepared = prepared.with("pool", threads);
        }
        let mut server = prepared.start();
        let mut client = connect(&server);
        client.send(b'l', 0, b"", None).expect("send");
        client.echoes(b'e', 0, b"");
        let (began, held) = (Instant::now(), stalled());
        server.process().tell("shutdown 300");
        assert!(matches!(client.recv(Some(SOON)), Err(RecvError::ShutDown)));
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(299), "{took:?}");
        // Of what the machine stood still the server could not make use.
        assert!(took.saturating_sub(stalled() - held) < Duration::from_secs(5), "{took:?}");
        server.ended();
        client.finish();
    }
    done!("after 300 ms, with and without an executor")
}

fn shutdown_in_the_midst_of_streams() -> Ran {
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

fn handlers_on_an_executor() -> Ran {
    let count = scaled(20_000);
    let mut server = Server::prepare("react").with("pool", 4).start();
    let mut client = connect(&server);
    for number in 0..count {
        client.send(b'e', 0, b"pooled", None).expect("send");
        if number % 100 == 99 {
            client.recv_all();
        }
    }
    client.recv_all();
    client.echoes(b'b', 100, b"on");
    assert_eq!(remote(&client.ask(b'p', 0, b"").expect_err("a panic")), code::PANICKED);
    assert_eq!(remote(&client.ask(b'd', 0, b"").expect_err("dropped")), code::DROPPED);
    client.echoes(b'e', 0, b"on");
    let number = client.next_number();
    let request = client.request(b'i', 1000, b"");
    let call = client.client().open_stream(&request, None).expect("send");
    // Here it may wait.
    assert_eq!(client.read_stream(call, number, 0), Ok(1000));
    client.finish();
    server.wait_for_sessions(0);
    let stats = server.shut_down();
    assert_eq!((stats.inline, stats.dispatched), (0, count + 5));
    done!("{count} calls")
}

fn short_handlers_on_an_executor() -> Ran {
    let count = scaled(20_000);
    let server = Server::prepare("react").with("pool", 2).with("inline", "short").start();
    let mut client = connect(&server);
    for _ in 0..count {
        client.echoes(b'e', 0, b"alone");
    }
    client.finish();
    let stats = server.shut_down();
    assert_eq!((stats.inline, stats.dispatched), (count, 0), "each was alone");
    let server = Server::prepare("react").with("pool", 2).with("inline", "short").start();
    let mut client = connect(&server);
    client.send(b'h', 1, b"", None).expect("send");
    for _ in 0..100 {
        client.echoes(b'e', 0, b"not alone");
    }
    assert_eq!(client.words(b'r', 1, b""), [1, 0]);
    client.recv_all();
    client.finish();
    let stats = server.shut_down();
    assert_eq!((stats.inline, stats.dispatched), (0, 102), "one was in flight all the time");
    done!("{count} calls that are alone, 100 that are not")
}

fn measured_handlers_on_an_executor() -> Ran {
    let mut server = Server::prepare("react").with("pool", 2).with("inline", "measured").start();
    let mut client = connect(&server);
    // Until 64 in a row have been short: a handler that is held up may take more.
    let mut calls = 0;
    while server.stats().inline < 200 {
        assert!(calls < 1_000_000, "never: {:?}", server.stats());
        for _ in 0..200 {
            client.echoes(b'e', 0, b"short");
        }
        calls += 200;
        tick();
    }
    assert!(server.stats().dispatched >= 64, "nothing is known of the first 64");
    // Long runs go to the executor again. The first of them may run here.
    client.echoes(b'b', 2000, b"long");
    wait_until("the server sleeps, its counts told", || observe::all_threads_sleep(server.id()));
    let before = server.stats();
    for _ in 0..50 {
        client.echoes(b'b', 200, b"long");
    }
    client.finish();
    server.wait_for_sessions(0);
    let stats = server.shut_down();
    assert_eq!((stats.inline, stats.dispatched), (before.inline, before.dispatched + 50));
    done!("inline after {calls} calls at most; 50 long ones not")
}

/// Several clients of one server, each with its own answers, streams, events and timeouts.
fn clients_at_once() -> Ran {
    const CLIENTS: u64 = 6;
    let rounds = scaled(1500);
    let mut server = Server::prepare("react").with("ring_capacity", 16 * 1024).start();
    let path = server.path().to_owned();
    let told: Vec<(u64, u64)> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|index| {
                let path = &path;
                scope.spawn(move || a_bit_of_everything(path, index, rounds))
            })
            .collect();
        clients.into_iter().map(|client| client.join().expect("a thread")).collect()
    });
    server.wait_for_sessions(0);
    wait_until("nothing is in flight", || server.stats().in_flight == 0);
    let stats = server.shut_down();
    assert_eq!((stats.accepted, stats.peer_faults, stats.slow_clients), (CLIENTS, 0, 0));
    let answered: u64 = told.iter().map(|(answered, _)| answered).sum();
    let late: u64 = told.iter().map(|(_, late)| late).sum();
    done!("{CLIENTS} clients with {rounds} steps each: {answered} answers, {late} timeouts")
}

fn a_bit_of_everything(path: &Path, index: u64, rounds: u64) -> (u64, u64) {
    let mut client = Asking::connect(path, options());
    let session = client.session();
    let mut chance = Chance::new(seed() ^ index);
    let (mut answered, mut late) = (0, 0);
    let mut filler = HashMap::new();
    for _ in 0..rounds {
        let len = usize::try_from(chance.below(2000)).expect("small");
        let rest = vec![chance.draw().to_le_bytes()[0]; len];
        let us = chance.below(100);
        match chance.below(8) {
            0 => client.echoes(b'e', 0, &rest),
            1 => client.echoes(b't', us, &rest),
            2 | 3 if client.waiting() < 100 => {
                let number = client.next_number();
                client.send(b't', us, &rest, None).expect("send");
                filler.insert(number, rest);
            }
            4 => match client.ask_within(b't', us, &rest, Some(Duration::from_micros(chance.below(150)))) {
                Ok(answer) => assert_eq!(answer, rest),
                Err(CallError::TimedOut { .. } | CallError::TooManyInFlight { .. }) => late += 1,
                Err(error) => panic!("{error:?}"),
            },
            5 => {
                let (number, items) = (client.next_number(), chance.below(100));
                let request = client.request(b's', items, &stream_of(200, StreamEnd::Good));
                let call = client.client().open_stream(&request, None).expect("send");
                if chance.below(4) == 0 {
                    client.client().close_stream(call);
                } else {
                    assert_eq!(client.read_stream(call, number, 200), Ok(items));
                }
            }
            6 => {
                let number = client.next_number();
                client.send(b'v', 3, &[1], None).expect("send");
                filler.insert(number, vec![1]);
                for index in 0..3 {
                    let event = client.client().next_event(Some(SOON)).expect("an event");
                    assert_eq!(words(&event), [session, number, 0, index]);
                }
            }
            _ => {
                if let Ok((number, outcome)) = client.recv(Some(Duration::from_micros(50))) {
                    assert_eq!(outcome.expect("an answer"), filler.remove(&number).expect("a request"));
                    answered += 1;
                }
            }
        }
    }
    while client.waiting() > 0 {
        let (number, outcome) = client.recv(Some(SOON)).expect("an answer");
        assert_eq!(outcome.expect("an answer"), filler.remove(&number).expect("a request"));
        answered += 1;
    }
    client.finish();
    (answered, late)
}
