//! Servers of the usual kind, driven by a loop or by tasks.

use ringbell_shm_tests::driver::Driver;
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::{Chance, mix};
use ringbell_shm_tests::process::{Arguments, Start, hear, say};
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::reactor_client::Asking;
use ringbell_shm_tests::reactor_requests::{StreamEnd, stream_of};
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::{busy_for, done, observe, options, scaled, scaled_for, seed, wait_until};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

fn reacting(driver: Driver) -> Server {
    Server::prepare("react").with("driver", driver.name()).start()
}

fn connect(server: &Server) -> Asking {
    Asking::connect(server.path(), options())
}

/// Runs a test with each driver.
fn each(mut test: impl FnMut(Driver)) {
    for driver in Driver::WITHOUT_THREAD {
        test(driver);
        tick();
    }
}

pub(crate) fn many_clients_at_once() -> Ran {
    let calls = scaled_for(20_000, 5_000);
    let mut told = String::new();
    each(|driver| {
        let server = reacting(driver);
        let path = server.path();
        std::thread::scope(|scope| {
            for client in 0..4 {
                scope.spawn(move || {
                    let mut client =
                        (Asking::connect(path, options()), Chance::new(seed() + client));
                    for call in 0..calls / 4 {
                        one_of_many(&mut client.0, &mut client.1, call);
                    }
                    client.0.finish();
                });
            }
        });
        let stats = server.shut_down();
        assert_eq!((stats.accepted, stats.peer_faults, stats.sessions), (4, 0, 0));
        told += &format!(
            "; {}: slept {}, called off {}",
            driver.name(),
            stats.parks,
            stats.arms_called_off
        );
    });
    done!("{calls} calls of 4 clients each{told}")
}

/// A call, several in flight, a stream, or nothing for a while.
fn one_of_many(client: &mut Asking, chance: &mut Chance, call: u64) {
    tick();
    match chance.below(40) {
        0 => {
            for _ in 0..chance.below(30) {
                client.send(b't', chance.below(100), b"later", None).expect("send");
            }
            client.recv_all();
        }
        1 => {
            let items = chance.below(200);
            let request = client.request(b's', items, &stream_of(300, StreamEnd::Good));
            let number = client.next_number() - 1;
            let stream = client.client().open_stream(&request, None).expect("a stream");
            assert_eq!(client.read_stream(stream, number, 300).expect("its end"), items);
        }
        2 => {
            client.echoes(b'e', 0, &vec![7; usize::try_from(chance.below(200_000)).expect("small")])
        }
        3 => busy_for(Duration::from_micros(chance.below(200))),
        4 if call.is_multiple_of(10) => {
            std::thread::sleep(Duration::from_micros(chance.below(3000)))
        }
        _ => client.echoes(b'e', 0, b"at once"),
    }
}

pub(crate) fn both_sides_asleep_again_and_again() -> Ran {
    let calls = scaled_for(4000, 2000).max(300);
    let mut told = String::new();
    each(|driver| {
        let server = reacting(driver);
        let mut client = connect(&server);
        for call in 0..calls {
            // Around the time at which the server falls asleep.
            busy_for(Duration::from_nanos(mix(seed(), call) % 120_000));
            client.echoes(b'e', 0, b"again");
            tick();
        }
        client.finish();
        let stats = server.shut_down();
        told += &format!(
            "; {}: slept {}, called off {}",
            driver.name(),
            stats.parks,
            stats.arms_called_off
        );
    });
    done!("{calls} calls each{told}")
}

/// A client that has calls in flight until it is killed.
pub(crate) fn asks_and_waits(arguments: &Arguments) {
    let mut client = Asking::connect(Path::new(arguments.text("path")), options());
    for _ in 0..arguments.number("calls") {
        client.send(b'h', 1, b"", None).expect("send");
    }
    client.echoes(b'e', 0, b"read so far");
    say("waiting");
    let _ = hear();
}

pub(crate) fn deaths_are_seen() -> Ran {
    let rounds = scaled(10).max(3);
    each(|driver| {
        let mut server = reacting(driver);
        for round in 0..rounds {
            let mut client = Start::role("asks_and_waits")
                .with("path", server.path().display())
                .with("calls", round % 3)
                .start();
            client.expect("waiting");
            server.wait_for_sessions(1);
            client.kill();
            server.wait_for_sessions(0);
        }
        let mut after = connect(&server);
        after.words(b'r', 1, b"");
        after.finish();
        server.wait_for_sessions(0);
        assert_eq!(server.shut_down().hung_up, rounds + 1);
    });
    done!("{rounds} deaths each")
}

pub(crate) fn sessions_come_and_go() -> Ran {
    let rounds = scaled(200).max(20);
    each(|driver| {
        let mut server = reacting(driver);
        connect(&server).finish();
        server.wait_for_sessions(0);
        let before = observe::descriptors(server.id());
        for _ in 0..rounds {
            let mut client = connect(&server);
            client.echoes(b'e', 0, b"once");
            client.finish();
            tick();
        }
        server.wait_for_sessions(0);
        wait_until("no descriptor is left", || {
            observe::descriptors(server.id()) <= before + observe::SPARE
        });
        let stats = server.shut_down();
        assert_eq!(stats.accepted, rounds + 1);
    });
    done!("{rounds} sessions each")
}

pub(crate) fn who_does_not_read_is_disconnected() -> Ran {
    each(|driver| {
        let mut server = Server::prepare("react")
            .with("driver", driver.name())
            .with("ring_capacity", 2048)
            .with("slow_client_ms", 50)
            .start();
        let mut client = connect(&server);
        let mut sent = 0;
        // Until its own ring or socket is full, too.
        while client.send(b'z', 60_000, b"", Some(Duration::ZERO)).is_ok() && sent < 100_000 {
            sent += 1;
        }
        server.wait_for_sessions(0);
        assert_eq!(server.shut_down().slow_clients, 1);
    });
    done!("a client that leaves its answers, each")
}

pub(crate) fn a_server_sleeps_while_nothing_comes() -> Ran {
    each(|driver| {
        let server = reacting(driver);
        let mut client = connect(&server);
        client.echoes(b'e', 0, b"awake");
        let waits = || observe::voluntary_switches(server.id());
        wait_until("the server sleeps", || observe::all_threads_sleep(server.id()));
        // A timer of 50 ms or less would show: the runtime's own threads have time to settle
        // before.
        let quiet = (0..20).any(|_| {
            let before = waits();
            std::thread::sleep(Duration::from_millis(200));
            waits() == before
        });
        assert!(quiet, "something wakes it again and again");
        client.echoes(b'e', 0, b"awake again");
        client.finish();
        server.shut_down();
    });
    done!("200 ms without a wake-up, with a session open, each")
}

pub(crate) fn shutdown_drains() -> Ran {
    each(|driver| {
        let mut server = reacting(driver);
        let mut client = connect(&server);
        for _ in 0..50 {
            client.send(b't', 20_000, b"under way", None).expect("send");
        }
        client.echoes(b'e', 0, b"read so far");
        server.process().tell("shutdown 20000");
        assert_eq!(client.recv_all().len(), 50);
        server.ended();
        assert!(!server.path().exists(), "its socket is still there");
        // And one that does not drain, beside a request that is never answered.
        let mut server = reacting(driver);
        let mut client = connect(&server);
        client.send(b'l', 0, b"", None).expect("send");
        client.echoes(b'e', 0, b"read so far");
        server.process().tell("shutdown 50");
        server.ended();
    });
    done!("with and without an end, each")
}

pub(crate) fn a_handshake_that_does_not_end() -> Ran {
    each(|driver| {
        let server = Server::prepare("react")
            .with("driver", driver.name())
            .with("handshake_ms", 100)
            .start();
        let mut silent = std::os::unix::net::UnixStream::connect(server.path()).expect("connect");
        let mut heard = Vec::new();
        // Until the server hangs up.
        let _ = silent.read_to_end(&mut heard);
        let mut client = connect(&server);
        client.echoes(b'e', 0, b"others");
        client.finish();
        assert_eq!(server.shut_down().handshakes_failed, 1);
    });
    done!("a client that says nothing, each")
}

pub(crate) fn there_are_no_threads() -> Ran {
    let threads = |server: &Server| {
        let path = format!("/proc/{}/task", server.id());
        std::fs::read_dir(path).expect("proc").count()
    };
    let mut told = String::new();
    let [with, without] = [Driver::Thread, Driver::Loop].map(|driver| {
        let server = reacting(driver);
        connect(&server).finish();
        let count = threads(&server);
        server.shut_down();
        count
    });
    assert_eq!(with, without + 1, "one of them has a porter");
    for (driver, more) in [(Driver::Edges, 0), (Driver::Task, 0), (Driver::Tasks, 2)] {
        let server = reacting(driver);
        connect(&server).finish();
        assert_eq!(threads(&server), without + more, "{}", driver.name());
        told += &format!(", {} {}", driver.name(), threads(&server));
        server.shut_down();
    }
    done!("threads of a server's process: with a porter {with}, in a loop {without}{told}")
}
