//! Timeouts, deadlines and cancellation.

use crate::{SOON, connect, connect_without_rescue, reacting, without_rescue};
use ringbell::CallError;
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::Chance;
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::reactor_client::Asking;
use ringbell_shm_tests::reactor_requests::{Count, words};
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::{done, options, scaled, seed, wait_until};
use std::collections::HashSet;
use std::time::{Duration, Instant};

pub(crate) fn timeouts_of_more_than_five_seconds() -> Ran {
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
pub(crate) fn timeouts_race_answers() -> Ran {
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
    done!(
        "{answered} answered, {late} too late, {} cancelled, {} expired",
        stats.cancelled,
        stats.expired
    )
}

pub(crate) fn handlers_see_that_they_are_cancelled() -> Ran {
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
pub(crate) fn what_has_expired_is_not_run() -> Ran {
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
pub(crate) fn what_expires_before_its_turn_is_not_run() -> Ran {
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

pub(crate) fn requests_tell_of_themselves() -> Ran {
    let server = reacting();
    let mut client = connect(&server);
    let told = client.words(b'a', 0, b"");
    assert_eq!(told[1..], [0, u64::MAX, 0]);
    let call = told[0];
    let told =
        words(&client.ask_within(b'a', 0, b"", Some(Duration::from_millis(999))).expect("a call"));
    assert!(
        told[0] != call && told[1] == 0 && (1..=999).contains(&told[2]) && told[3] == 0,
        "{told:?}"
    );
    // However far off.
    for far in [Duration::from_secs(1), Duration::MAX] {
        let told = words(&client.ask_within(b'a', 0, b"", Some(far)).expect("a call"));
        assert!(told[1] == 0 && (1..u64::MAX).contains(&told[2]) && told[3] == 0, "{told:?}");
    }
    client.finish();
    let mut silent = Asking::connect(server.path(), options().send_deadlines(false));
    let told = silent.ask_within(b'a', 0, b"", Some(SOON)).expect("a call");
    assert_eq!(words(&told)[1..], [0, u64::MAX, 0], "no deadline was sent");
    silent.finish();
    server.shut_down();
    done!("call, deadline")
}

pub(crate) fn a_view_with_no_time_ends() -> Ran {
    let server = without_rescue("react").start();
    let mut client = connect_without_rescue(&server);
    for timeout in [Duration::ZERO, Duration::from_millis(1)] {
        // Held until they are released below.
        let request = client.request(b'h', 1, b"");
        let viewed = client.client().call_view(&request, Some(timeout), |_| ());
        // A server that is slow finds that the deadline has passed, and does not run it.
        let told = !timeout.is_zero();
        assert!(
            matches!(viewed, Err(CallError::TimedOut { maybe_executed }) if maybe_executed || told),
            "{viewed:?}"
        );
    }
    client.echoes(b'e', 0, b"on");
    client.words(b'r', 1, b"");
    client.finish();
    server.shut_down();
    done!("with none, and with 1 ms")
}
