//! A ring that dies with its ringer is no lost wake, and delays no news.

use crate::IN_TIME;
use crate::clients::start_victim;
use ringbell::{ConnectOptions, WaitSettings};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::Pattern;
use ringbell_shm_tests::process::readable;
use ringbell_shm_tests::progress::{stalled, tick};
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::verified::Verified;
use ringbell_shm_tests::{done, observe, scaled};
use std::time::{Duration, Instant};

/// A client that publishes a request and dies before it rings: the sleeping server finds the
/// request by its backstop, and no wake was lost, since nobody lived to make it.
pub(crate) fn a_ring_that_dies_with_its_ringer_is_no_lost_wake_of_the_server() -> Ran {
    let rounds = scaled(20);
    let mut server = Server::prepare("verify").with("wait", "park").start();
    for number in 0..rounds {
        let mut victim = start_victim(&server, number, "park", 1, Some("request-posted:5".into()));
        victim.is_killed();
        server.wait_for_sessions(0);
    }
    let stats = server.stats();
    assert_eq!(stats.backstop_rescues, 0, "of {rounds} deaths: {stats:?}");
    server.shut_down();
    done!("{rounds} clients; late rings {}", stats.late_rings)
}

/// The same with a server that dies before it rings a sleeping client.
pub(crate) fn a_ring_that_dies_with_its_ringer_is_no_lost_wake_of_the_client() -> Ran {
    let rounds = scaled(20);
    let (mut rescues, mut late) = (0, 0);
    for _ in 0..rounds {
        let server = Server::prepare("verify").env("RINGBELL_KILL_AT", "response-posted:5").start();
        let options = ConnectOptions::new().wait(WaitSettings::client().park_at_once());
        let mut client = Verified::connect(server.path(), options, Pattern::new(0, 700));
        while client.call(None).is_ok() {}
        let counts = client.abandon();
        rescues += counts.backstop_rescues;
        late += counts.late_rings;
    }
    assert_eq!(rescues, 0, "lost wakes of clients after {rounds} deaths of servers");
    done!("{rounds} servers; late rings {late}")
}

/// A server that dies having rung, or published, a part of a long answer: the sleeping client finds
/// that part by its backstop, and must not sleep for as long once more.
pub(crate) fn a_lost_ring_does_not_delay_the_news() -> Ran {
    let rounds = scaled(20);
    let mut slowest = Duration::ZERO;
    for round in 0..rounds {
        tick();
        // The first ring is for the answer to the opening.
        let point = if round % 2 == 0 { "rung:2" } else { "rung:3" };
        let server = Server::prepare("verify")
            .with("ring_capacity", 2048)
            .env("RINGBELL_KILL_AT", point)
            .start();
        let watched = observe::open_pidfd(server.id());
        let options = ConnectOptions::new().wait(WaitSettings::client().park_at_once());
        // All messages are long.
        let mut client =
            Verified::connect(server.path(), options, Pattern::new(round, 0).with_large(1, 20_000));
        let own = rustix::thread::gettid();
        let (died, learnt, stood) = std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                assert!(readable(&watched, Duration::from_secs(50)), "{point} was never reached");
                (Instant::now(), stalled(), observe::time_without_cpu(own))
            });
            while client.call(None).is_ok() {}
            let learnt = Instant::now();
            let without_cpu = observe::time_without_cpu(own);
            let (died, stood, waited) = watcher.join().expect("the watcher");
            (died, learnt, stalled().saturating_sub(stood).max(without_cpu.saturating_sub(waited)))
        });
        slowest = slowest.max(learnt.saturating_duration_since(died).saturating_sub(stood));
    }
    // A tenth is the scheduler's: two whole sleeps would leave it nothing.
    assert!(slowest < IN_TIME * 9 / 10, "a client in a call learnt of it after {slowest:?} only");
    done!("{rounds} servers, learnt after {slowest:?} at most")
}
