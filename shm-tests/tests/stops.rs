//! Processes that stop for a while, and system calls that are interrupted: neither is a death, a
//! timeout or an error.

use ringbell::{CallError, Client, ConnectOptions, RecvError, WaitSettings};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::{Chance, Pattern};
use ringbell_shm_tests::process::{Arguments, Start, say};
use ringbell_shm_tests::progress::{Stopwatch, tick};
use ringbell_shm_tests::server::{Server, waiting};
use ringbell_shm_tests::verified::{Verified, no_wake_was_lost};
use ringbell_shm_tests::{done, observe, scaled, seed, signals, suite, wait_until};
use std::path::Path;
use std::time::{Duration, Instant};

suite! {
    tests: [
        a_stopped_server_is_not_dead,
        a_stopped_client_is_not_dead,
        timeouts_at_a_stopped_server,
        both_stop_again_and_again,
        signals_interrupt_everything,
        timeouts_hold_under_signals,
    ],
    roles: [self_stopping, on_and_on, stormy],
}

const WAYS: [&str; 4] = ["default", "park", "spin", "yield"];

fn a_stopped_server_is_not_dead() -> Ran {
    let rounds = scaled(2).clamp(1, 100);
    let mut server = Server::verifying();
    for _ in 0..rounds {
        let mut clients: Vec<Verified> = WAYS
            .iter()
            .zip(0..)
            .map(|(wait, sender)| {
                let options = ConnectOptions::new().wait(waiting(wait, WaitSettings::client()));
                Verified::connect(server.path(), options, Pattern::new(sender, 700))
            })
            .collect();
        // Asleep: so that it is not stopped between publishing and ringing, which would look like a
        // lost wake.
        wait_until("the server sleeps", || observe::main_thread_in_futex(server.id()));
        server.process().stop();
        std::thread::scope(|scope| {
            let calls: Vec<_> = clients
                .iter_mut()
                .map(|client| {
                    scope.spawn(|| {
                        let began = Instant::now();
                        client.call(None).expect("a stopped server is not dead");
                        began.elapsed()
                    })
                })
                .collect();
            let until = Instant::now() + Duration::from_secs(1);
            while Instant::now() < until {
                assert!(
                    calls.iter().all(|call| !call.is_finished()),
                    "a stopped server does not answer"
                );
                std::thread::sleep(Duration::from_millis(10));
                tick();
            }
            server.process().go_on();
            for call in calls {
                assert!(call.join().expect("a client") >= Duration::from_millis(900));
            }
        });
        for mut client in clients {
            client.pipeline(100, 10);
            client.finish();
        }
    }
    server.shut_down();
    done!("{rounds} stops of 1 s, with 4 ways to wait")
}

/// Sends, stops itself, and receives when it is continued; again and again.
fn self_stopping(arguments: &Arguments) {
    let settings = waiting(arguments.text("wait"), WaitSettings::client());
    let options = ConnectOptions::new().wait(settings);
    let mut client = Verified::connect(
        Path::new(arguments.text("path")),
        options,
        Pattern::new(arguments.number("sender"), 700),
    );
    for _ in 0..arguments.number("rounds") {
        for _ in 0..40 {
            client.send(None).expect("send");
        }
        say("stops");
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP)
            .expect("kill");
        for _ in 0..40 {
            client.recv(None).expect("recv");
        }
    }
    client.finish();
    say("done");
}

fn a_stopped_client_is_not_dead() -> Ran {
    let rounds = scaled(2).clamp(1, 100);
    // So small that the server has answers that it cannot send while the client is stopped.
    let mut server = Server::prepare("verify").with("ring_capacity", 2048).start();
    let mut others = Verified::connect(server.path(), ConnectOptions::new(), Pattern::new(99, 700));
    let mut stopping: Vec<_> = WAYS
        .iter()
        .zip(0u64..)
        .map(|(wait, sender)| {
            Start::role("self_stopping")
                .with("path", server.path().display())
                .with("wait", wait)
                .with("sender", sender)
                .with("rounds", rounds)
                .start()
        })
        .collect();
    for _ in 0..rounds {
        for client in &mut stopping {
            client.expect("stops");
            wait_until("the client is stopped", || observe::state(client.id()) == Some('T'));
        }
        let until = Instant::now() + Duration::from_secs(1);
        while Instant::now() < until {
            others.call(None).expect("others do not notice");
            tick();
        }
        assert_eq!(server.stats().sessions, 5, "stopped clients are not dead");
        for client in &stopping {
            client.go_on();
        }
    }
    for client in &mut stopping {
        client.expect("done");
        client.succeed();
    }
    others.finish();
    let stats = server.shut_down();
    assert_eq!((stats.slow_clients, stats.peer_faults), (0, 0));
    done!("{rounds} stops of 1 s, of 4 clients at once; late rings {}", stats.late_rings)
}

fn timeouts_at_a_stopped_server() -> Ran {
    let timeout = Duration::from_millis(200);
    let mut slowest = Duration::ZERO;
    for wait in WAYS {
        let mut server = Server::verifying();
        let options = ConnectOptions::new().wait(waiting(wait, WaitSettings::client()));
        let mut client = Verified::connect(server.path(), options, Pattern::new(1, 300));
        wait_until("the server sleeps", || observe::main_thread_in_futex(server.id()));
        server.process().stop();
        for _ in 0..3 {
            let watch = Stopwatch::start();
            assert_eq!(
                client.call(Some(timeout)),
                Err(CallError::TimedOut { maybe_executed: true })
            );
            let took = watch.elapsed();
            assert!(
                took >= timeout && watch.awake() < timeout * 2,
                "{wait}: {took:?} instead of {timeout:?}"
            );
            slowest = slowest.max(took);
            tick();
        }
        server.process().go_on();
        // The answers that come late are dropped, whatever they are; this one is checked.
        client.call(None).expect("the session goes on");
        client.pipeline(100, 10);
        let counts = client.finish();
        assert_eq!((counts.timeouts, counts.late_answers), (3, 3));
        assert_eq!(server.shut_down().requests, 1 + 3 + 1 + 100);
    }
    done!("4 * 3 timeouts of {timeout:?}, the slowest after {slowest:?}")
}

/// Calls as fast as it can, and says how far it is; until it has made all calls.
fn on_and_on(arguments: &Arguments) {
    let pattern = Pattern::new(arguments.number("sender"), 700).with_large(100, 20_000);
    let mut client =
        Verified::connect(Path::new(arguments.text("path")), ConnectOptions::new(), pattern);
    say("ready");
    for _ in 0..arguments.number("count") / 100 {
        client.pipeline(100, 1 + usize::try_from(arguments.number("sender")).expect("small") % 10);
    }
    let counts = client.finish();
    say(&format!("done {}", counts.late_rings));
}

fn both_stop_again_and_again() -> Ran {
    let stops = scaled(600);
    let mut chance = Chance::new(seed());
    let mut server = Server::prepare("verify").with("ring_capacity", 4096).start();
    let start = |sender: u64| {
        let mut client = Start::role("on_and_on")
            .with("path", server.path().display())
            .with("sender", sender)
            .with("count", 1_000_000_000u64)
            .start();
        client.expect("ready");
        client
    };
    let clients = [start(1), start(2), start(3)];
    for _ in 0..stops {
        // Shorter than the time for which a sleeper waits for a ring that is overdue.
        let pause = Duration::from_micros(chance.below(4000));
        match chance.below(4) {
            0 => {
                server.process().stop();
                std::thread::sleep(pause);
                server.process().go_on();
            }
            one => {
                let client = &clients[usize::try_from(one - 1).expect("small")];
                client.stop();
                std::thread::sleep(pause);
                client.go_on();
            }
        }
        std::thread::sleep(Duration::from_micros(chance.below(2000)));
        tick();
    }
    // They still answer.
    let mut other = Verified::connect(server.path(), ConnectOptions::new(), Pattern::new(9, 100));
    other.call(None).expect("a call");
    other.finish();
    assert!(server.stats().sessions >= 3, "{:?}", server.stats());
    drop(clients);
    server.wait_for_sessions(0);
    let stats = server.shut_down();
    assert_eq!((stats.peer_faults, stats.slow_clients, stats.errors), (0, 0, 0));
    done!(
        "{stops} stops, {} requests; late rings of the server {}",
        stats.requests,
        stats.late_rings
    )
}

/// Makes its calls while a timer interrupts it; then sees whether timeouts hold.
fn stormy(arguments: &Arguments) {
    signals::count(rustix::process::Signal::ALARM.as_raw());
    signals::storm(Duration::from_micros(arguments.number("storm_us")));
    let path = Path::new(arguments.text("path"));
    if arguments.get("timeouts").is_some() {
        let mut client = Client::connect(path).expect("connect");
        let sleep = [&b"s"[..], &600u64.to_le_bytes()].concat();
        let timeout = Duration::from_millis(100);
        for _ in 0..4 {
            let watch = Stopwatch::start();
            let error = client.call_timeout(&sleep, Some(timeout)).map(|answer| answer.len());
            let took = watch.elapsed();
            assert_eq!(error, Err(CallError::TimedOut { maybe_executed: true }));
            assert!(
                took >= timeout && watch.awake() < timeout * 3,
                "{took:?} instead of {timeout:?}"
            );
        }
        let call = client.send(b"elast").expect("send");
        let watch = Stopwatch::start();
        assert_eq!(client.recv(Some(timeout)).map(drop), Err(RecvError::TimedOut));
        let took = watch.elapsed();
        assert!(took >= timeout && watch.awake() < timeout * 3, "{took:?} instead of {timeout:?}");
        let answer = client.recv(None).expect("recv");
        assert_eq!((answer.call, answer.outcome.as_deref()), (call, Ok(&b"last"[..])));
        no_wake_was_lost(&client.stats());
    } else {
        for (wait, sender) in WAYS.iter().zip(0..) {
            let options = ConnectOptions::new().wait(waiting(wait, WaitSettings::client()));
            let mut client =
                Verified::connect(path, options, Pattern::new(sender, 500).with_large(500, 50_000));
            for _ in 0..arguments.number("count") / 8 {
                client.call(None).expect("a call under signals");
            }
            client.pipeline(arguments.number("count") / 8, 20);
            client.finish();
        }
    }
    say(&format!("done {}", signals::caught()));
}

fn signals_interrupt_everything() -> Ran {
    let count = scaled(100_000);
    let mut told = String::new();
    for wait in ["default", "park"] {
        let server = Server::prepare("verify")
            .with("wait", wait)
            .with("ring_capacity", 8192)
            .with("storm_us", 50)
            .start();
        let mut client = Start::role("stormy")
            .with("path", server.path().display())
            .with("storm_us", 50)
            .with("count", count / 2)
            .start();
        let caught: u64 = loop {
            // It takes long on a crowded machine.
            if let Some(line) = client.hear_within(Duration::from_secs(1)) {
                break line.strip_prefix("done ").expect("done").parse().expect("a number");
            }
            tick();
        };
        client.succeed();
        let stats = server.shut_down();
        assert!(caught > 0, "no signal was caught");
        told += &format!(
            "; server {wait}: {} requests, {caught} signals to the client",
            stats.requests
        );
    }
    done!("{count} calls{told}")
}

fn timeouts_hold_under_signals() -> Ran {
    let server = Server::prepare("do").with("storm_us", 100).start();
    let mut client = Start::role("stormy")
        .with("path", server.path().display())
        .with("storm_us", 100)
        .with("timeouts", 1)
        .start();
    let caught = client.expect("done");
    client.succeed();
    server.shut_down();
    done!("5 timeouts, {caught} signals")
}
