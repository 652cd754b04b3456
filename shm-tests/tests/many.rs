//! Many clients at once.

use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::Pattern;
use ringbell_shm_tests::process::{Arguments, Process, Start, hear, say};
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::verified::Verified;
use ringbell_shm_tests::{done, options, scaled, scaled_for, suite};
use std::path::Path;
use std::time::Instant;

suite! {
    both: [sixty_four_clients_at_once, threads_with_a_client_each],
    // About bells.
    tests: [clients_in_domains_of_their_own],
    roles: [client],
}

/// Connects, waits for the start, makes its calls, and says how long they took.
fn client(arguments: &Arguments) {
    let sender = arguments.number("sender");
    let pattern = Pattern::new(sender, 700).with_large(1000, 50_000);
    let mut client = Verified::connect(Path::new(arguments.text("path")), options(), pattern);
    say("ready");
    let _ = hear();
    let began = Instant::now();
    client.pipeline(
        arguments.number("count"),
        usize::try_from(arguments.number("depth")).expect("small"),
    );
    let took = began.elapsed().as_micros();
    let counts = client.finish();
    say(&format!("done {took} {}", counts.late_rings));
}

fn start_clients(server: &Server, clients: u64, count: u64) -> Vec<Process> {
    let mut processes: Vec<Process> = (0..clients)
        .map(|sender| {
            Start::role("client")
                .with("path", server.path().display())
                .with("sender", sender)
                .with("count", count)
                .with("depth", 1 + sender % 8)
                .start()
        })
        .collect();
    for process in &mut processes {
        process.expect("ready");
    }
    processes
}

/// Lets them all go at once; the times they took in us, and late rings.
fn race(processes: &mut [Process]) -> (Vec<u64>, u64) {
    for process in &mut *processes {
        process.tell("go");
    }
    let mut times = Vec::new();
    let mut late = 0;
    for process in processes {
        let told = process.expect("done");
        let (took, rings) = told.split_once(' ').expect("two numbers");
        times.push(took.parse().expect("a number"));
        late += rings.parse::<u64>().expect("a number");
        process.succeed();
    }
    times.sort_unstable();
    (times, late)
}

fn sixty_four_clients_at_once() -> Ran {
    const CLIENTS: u64 = 64;
    let count = scaled_for(40_000, 5000);
    let mut server = Server::verifying();
    let mut processes = start_clients(&server, CLIENTS, count);
    server.wait_for_sessions(CLIENTS);
    let (times, late) = race(&mut processes);
    let (first, last) = (times[0], times[times.len() - 1]);
    server.wait_for_sessions(0);
    let stats = server.shut_down();
    assert_eq!(stats.requests, CLIENTS * (count + 1));
    assert_eq!((stats.accepted, stats.sessions_peak, stats.hung_up), (CLIENTS, CLIENTS, CLIENTS));
    assert_eq!((stats.errors, stats.peer_faults, stats.slow_clients), (0, 0, 0));
    done!(
        "{CLIENTS} clients with {count} messages each; the first took {} ms, the last {} ms; late rings {late} and {}",
        first / 1000,
        last / 1000,
        stats.late_rings
    )
}

fn clients_in_domains_of_their_own() -> Ran {
    const CLIENTS: u64 = 16;
    let count = scaled(20_000);
    let mut server = Server::prepare("verify").with("isolation", "session").start();
    let mut processes = start_clients(&server, CLIENTS, count);
    let (times, _) = race(&mut processes);
    server.wait_for_sessions(0);
    assert_eq!(server.shut_down().requests, CLIENTS * (count + 1));
    done!("{CLIENTS} clients with {count} messages each, in {} ms", times[times.len() - 1] / 1000)
}

fn threads_with_a_client_each() -> Ran {
    const THREADS: u64 = 8;
    let count = scaled_for(20_000, 10_000);
    let server = Server::verifying();
    std::thread::scope(|scope| {
        for sender in 0..THREADS {
            let path = server.path();
            scope.spawn(move || {
                let mut client = Verified::connect(path, options(), Pattern::new(sender, 300));
                client.pipeline(count, 4);
                client.finish();
            });
        }
    });
    assert_eq!(server.shut_down().requests, THREADS * (count + 1));
    done!("{THREADS} threads with {count} messages each")
}
