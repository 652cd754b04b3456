//! Sleeping and waking, at every moment: pauses of about the time after which the other side falls
//! asleep. A wake that is lost is found by the backstop, and counted; there must be none.

use ringbell::{Client, ConnectOptions, WaitSettings};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::{Chance, Pattern};
use ringbell_shm_tests::process::{Arguments, Start, hear, say};
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::server::{Server, waiting};
use ringbell_shm_tests::verified::{Verified, no_wake_was_lost};
use ringbell_shm_tests::{busy_for, done, observe, scaled, seed, suite, wait_until};
use std::path::Path;
use std::time::{Duration, Instant};

suite! {
    tests: [
        wakes_at_any_moment,
        several_ringers_of_one_bell,
        room_is_rung_for,
        more_domains_than_one_futex_wait_takes,
    ],
    roles: [paced],
}

/// Calls with pauses of up to `pause_us`, one or a few at a time.
fn pace(client: &mut Verified, count: u64, pause_us: u64, depth: u64, chance: &mut Chance) {
    let end = client.sent() + count;
    while client.sent() < end {
        for _ in 0..=chance.below(depth) {
            client.send(None).expect("send");
        }
        while client.in_flight() > 0 {
            client.recv(None).expect("recv");
        }
        busy_for(Duration::from_nanos(chance.below(pause_us * 1000 + 1)));
        tick();
    }
}

fn wakes_at_any_moment() -> Ran {
    let count = scaled(25_000);
    let mut told = String::new();
    let mut chance = Chance::new(seed());
    for (server_waits, client_waits) in
        [("default", "default"), ("park", "default"), ("default", "park"), ("park", "park")]
    {
        let server =
            Server::prepare("verify").with("wait", server_waits).with("dawdle_us", 40).start();
        let options = ConnectOptions::new().wait(waiting(client_waits, WaitSettings::client()));
        let mut client = Verified::connect(server.path(), options, Pattern::new(1, 300));
        pace(&mut client, count, 120, 3, &mut chance);
        let counts = client.finish();
        let stats = server.shut_down();
        assert_eq!((stats.pauses, counts.pauses), (0, 0), "no sleep was for nothing");
        told += &format!(
            "\n    server {server_waits}, client {client_waits}: sleeps {} and {}, called off {} and {}, wakes {} and {}, late rings {} and {}",
            stats.parks,
            counts.parks,
            stats.arms_called_off,
            counts.arms_called_off,
            counts.wakes_sent,
            stats.wakes_sent,
            stats.late_rings,
            counts.late_rings
        );
    }
    done!("{count} calls for each of 4 ways to wait{told}")
}

/// Calls with pauses, in a process of its own.
fn paced(arguments: &Arguments) {
    let sender = arguments.number("sender");
    let options =
        ConnectOptions::new().wait(waiting(arguments.text("wait"), WaitSettings::client()));
    let mut client =
        Verified::connect(Path::new(arguments.text("path")), options, Pattern::new(sender, 300));
    say("ready");
    let _ = hear();
    let mut chance = Chance::new(sender);
    let mut left = arguments.number("count");
    while left > 0 {
        let some = left.min(500);
        pace(&mut client, some, arguments.number("pause_us"), 3, &mut chance);
        say("goes on");
        left -= some;
    }
    client.finish();
    say("done");
}

fn several_ringers_of_one_bell() -> Ran {
    let count = scaled(15_000);
    let mut told = String::new();
    for isolation in ["uid", "session"] {
        let server =
            Server::prepare("verify").with("wait", "park").with("isolation", isolation).start();
        let mut clients: Vec<_> = ["default", "park", "yield", "park"]
            .iter()
            .zip(0u64..)
            .map(|(wait, sender)| {
                Start::role("paced")
                    .with("path", server.path().display())
                    .with("sender", sender)
                    .with("wait", wait)
                    .with("count", count)
                    .with("pause_us", 150)
                    .start()
            })
            .collect();
        for client in &mut clients {
            client.expect("ready");
            client.tell("go");
        }
        for client in &mut clients {
            while client.hear() != "done" {}
            client.succeed();
        }
        let stats = server.shut_down();
        assert_eq!(stats.pauses, 0, "no sleep was for nothing");
        told += &format!(
            "; by {isolation}: {} sleeps, {} called off, late rings {}",
            stats.parks, stats.arms_called_off, stats.late_rings
        );
    }
    done!("4 clients with {count} calls each{told}")
}

/// Full rings in both directions, and pauses of both sides: each waits for room again and again.
fn room_is_rung_for() -> Ran {
    let count = scaled(40_000);
    let mut told = String::new();
    for (server_waits, client_waits) in
        [("park", "park"), ("default", "default"), ("park", "yield"), ("yield", "park")]
    {
        let server = Server::prepare("verify")
            .with("ring_capacity", 2048)
            .with("wait", server_waits)
            .with("dawdle_us", 20)
            .with("max_queued_answers", 4)
            .start();
        let options = ConnectOptions::new().wait(waiting(client_waits, WaitSettings::client()));
        let mut client =
            Verified::connect(server.path(), options, Pattern::new(1, 490).with_large(40, 6000));
        let mut chance = Chance::new(seed());
        let mut slowest = Duration::ZERO;
        while client.sent() < count {
            tick();
            let began = Instant::now();
            for _ in 0..chance.below(20) {
                client.send(None).expect("send");
            }
            slowest = slowest.max(began.elapsed());
            busy_for(Duration::from_nanos(chance.below(150_000)));
            for _ in 0..chance.below(20) {
                if client.in_flight() > 0 {
                    client.recv(None).expect("recv");
                    if chance.below(4) == 0 {
                        busy_for(Duration::from_nanos(chance.below(30_000)));
                    }
                }
            }
            while client.in_flight() > 200 {
                client.recv(None).expect("recv");
            }
        }
        while client.in_flight() > 0 {
            client.recv(None).expect("recv");
        }
        let counts = client.finish();
        let stats = server.shut_down();
        assert_eq!((stats.pauses, counts.pauses), (0, 0), "no sleep was for nothing");
        told += &format!(
            "\n    server {server_waits}, client {client_waits}: full {}, queued {}, sleeps {} and {}, late rings {} and {}, slowest 20 sends {slowest:?}",
            counts.full_stalls,
            stats.queued,
            counts.parks,
            stats.parks,
            counts.late_rings,
            stats.late_rings
        );
    }
    done!("{count} calls for each of 4 ways to wait{told}")
}

/// More bells than one `futex_waitv` takes: then the server sleeps in epoll, and clients wake it
/// through sockets.
fn more_domains_than_one_futex_wait_takes() -> Ran {
    const CLIENTS: usize = 140;
    let rounds = scaled(600);
    let limit =
        rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    if limit < 2000 {
        return Ran::Skipped(format!("only {limit} descriptors may be open"));
    }
    let mut server = Server::prepare("do")
        .with("isolation", "session")
        .with("max_clients", 150)
        .with("ring_capacity", 2048)
        .start();
    let mut clients: Vec<Client> = Vec::new();
    let mut chance = Chance::new(seed());
    let mut slowest = Duration::ZERO;
    let mut calls = 0u64;
    // Up beyond the limit, and down again, with calls to a sleeping server in between.
    for target in [100, CLIENTS, 110, CLIENTS, 20] {
        while clients.len() < target {
            clients.push(Client::connect(server.path()).expect("connect"));
        }
        clients.truncate(target);
        server.wait_for_sessions(target as u64);
        for _ in 0..rounds / 5 {
            tick();
            let one = usize::try_from(chance.below(target as u64)).expect("small");
            if chance.below(3) == 0 {
                wait_until("the server sleeps", || observe::all_threads_sleep(server.id()));
            } else {
                busy_for(Duration::from_nanos(chance.below(150_000)));
            }
            let began = Instant::now();
            assert_eq!(&*clients[one].call(b"ehello").expect("a call"), b"hello");
            slowest = slowest.max(began.elapsed());
            calls += 1;
        }
        // One of them rings so often that its socket would be full if nobody read it.
        for _ in 0..600 {
            clients[0].call(b"e").expect("a call");
            busy_for(Duration::from_micros(40));
            calls += 1;
        }
        tick();
    }
    for client in &mut clients {
        no_wake_was_lost(&client.stats());
    }
    drop(clients);
    server.wait_for_sessions(0);
    let stats = server.shut_down();
    assert_eq!(stats.peer_faults, 0);
    done!(
        "{CLIENTS} clients, {calls} calls, the slowest of {slowest:?}; {} sleeps, late rings {}",
        stats.parks,
        stats.late_rings
    )
}
