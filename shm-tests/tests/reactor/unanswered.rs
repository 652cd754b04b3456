//! Requests that are never answered, and answers that come when their client or their server is
//! gone.

use crate::{SOON, connect, reacting, remote};
use ringbell::layout::code;
use ringbell::{CallError, RecvError};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::Chance;
use ringbell_shm_tests::process::{Arguments, Start, hear, say};
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::reactor_client::Asking;
use ringbell_shm_tests::reactor_requests::{Count, StreamEnd, stream_of};
use ringbell_shm_tests::{done, observe, options, scaled, scaled_for, seed, wait_until};
use std::path::Path;
use std::time::Duration;

pub(crate) fn responders_dropped_and_leaked() -> Ran {
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

/// Leaves requests behind that are being answered, and waits for its death.
pub(crate) fn dies(arguments: &Arguments) {
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

pub(crate) fn answers_whose_client_has_died() -> Ran {
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
    wait_until("descriptors are closed", || {
        observe::descriptors(server.id()) <= before + observe::SPARE
    });
    client.finish();
    server.wait_for_sessions(0);
    let stats = server.shut_down();
    assert!(stats.orphans >= 11 * rounds, "{stats:?}");
    assert_eq!((stats.hung_up, stats.peer_faults), (rounds + 1, 0));
    done!("{rounds} clients, {} answers to nobody", stats.orphans)
}

/// The server's process uses them once it has returned: see `State::close`.
pub(crate) fn answers_whose_server_has_returned() -> Ran {
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
pub(crate) fn sessions_one_after_the_other_with_answers_under_way() -> Ran {
    let rounds = scaled_for(10_000, 3000);
    let mut server = reacting();
    let mut first = connect(&server);
    first.echoes(b'e', 0, b"");
    let before = observe::descriptors(server.id());
    let mut chance = Chance::new(seed());
    for round in 0..rounds {
        let mut client = connect(&server);
        for _ in 0..chance.below(12) {
            let verb =
                [b't', b't', b'e', b'D', b'L'][usize::try_from(chance.below(5)).expect("small")];
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
    wait_until("descriptors are closed", || {
        observe::descriptors(server.id()) <= before + observe::SPARE
    });
    wait_until("nothing is in flight", || server.stats().in_flight == 0);
    first.finish();
    // Its goodbye and the order to shut down take different ways.
    server.wait_for_sessions(0);
    let stats = server.shut_down();
    assert!(stats.orphans > 0, "{stats:?}");
    assert_eq!((stats.accepted, stats.hung_up, stats.peer_faults), (rounds + 1, rounds + 1, 0));
    done!("{rounds} sessions, {} answers to nobody", stats.orphans)
}
