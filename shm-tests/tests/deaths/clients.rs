//! Clients that die, at every named point and at any moment.

use crate::{Holdings, Times, who};
use ringbell::sync::{Ordering, PlainU64};
use ringbell::{ConnectOptions, WaitSettings, kill_point};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::{Chance, Pattern, mix};
use ringbell_shm_tests::process::{Arguments, Process, Start, say};
use ringbell_shm_tests::progress::{Stopwatch, tick};
use ringbell_shm_tests::server::{Server, waiting};
use ringbell_shm_tests::verified::Verified;
use ringbell_shm_tests::{done, scaled, seed, wait_until};
use std::path::Path;
use std::time::Duration;

/// A client that goes on until it is killed.
pub(crate) fn victim(arguments: &Arguments) {
    let settings = waiting(arguments.text("wait"), WaitSettings::client());
    let pattern = Pattern::new(arguments.number("sender"), 700).with_large(20, 10_000);
    let mut client = Verified::connect(
        Path::new(arguments.text("path")),
        ConnectOptions::new().wait(settings),
        pattern,
    );
    say("ready");
    // A pause lets the server fall asleep, so that there is somebody to ring for.
    let pause = Duration::from_micros(arguments.number("pause_us"));
    let depth = usize::try_from(arguments.number("depth")).expect("small");
    loop {
        client.pipeline(depth as u64, depth);
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }
}

pub(crate) fn start_victim(
    server: &Server,
    sender: u64,
    wait: &str,
    depth: u64,
    kill_at: Option<String>,
) -> Process {
    let start = Start::role("victim")
        .with("path", server.path().display())
        .with("sender", sender)
        .with("wait", wait)
        .with("depth", depth)
        .with("pause_us", if depth == 1 { 300 } else { 0 });
    match kill_at {
        Some(point) => start.env("RINGBELL_KILL_AT", point),
        None => start,
    }
    .start()
}

/// Calls until it is told to stop; how many calls. It must not notice anything.
fn witness(path: &Path, stop: &PlainU64) -> u64 {
    let mut client = Verified::connect(
        path,
        ConnectOptions::new(),
        Pattern::new(1 << 32, 700).with_large(50, 20_000),
    );
    while stop.load(Ordering::Relaxed) == 0 {
        client.call(None).expect("the witness notices nothing");
        std::thread::sleep(Duration::from_micros(500));
    }
    let calls = client.sent();
    client.finish();
    calls
}

pub(crate) fn clients_die() -> Ran {
    let rounds = scaled(500);
    let mut chance = Chance::new(mix(seed(), 1));
    let mut server = Server::prepare("verify")
        .with("ring_capacity", 2048)
        .with("wait", "park")
        .with("sigpipe", 1)
        .start();
    let stop = PlainU64::new(0);
    let path = server.path().to_owned();
    let points: Vec<&str> =
        kill_point::ALL.iter().copied().filter(|point| who(point).contains(&"client")).collect();
    let mut times = Times::default();
    let mut killed_at = vec![0u64; points.len() + 1];
    let witnessed = std::thread::scope(|scope| {
        let witness = scope.spawn(|| witness(&path, &stop));
        let stop = StopOnDrop(&stop);
        server.wait_for_sessions(1);
        let mut round =
            |number: u64, server: &mut Server, chance: &mut Chance, times: &mut Times| {
                tick();
                // Every second round at a point, the others whenever it happens to be.
                let point = usize::try_from(number / 2).expect("small") % points.len();
                let at_point = number.is_multiple_of(2).then(|| points[point]);
                let alone = matches!(at_point, Some("rung" | "client-armed"));
                let depth = if alone || chance.below(2) == 0 { 1 } else { 1 + chance.below(30) };
                let wait = if at_point == Some("client-armed") {
                    "park"
                } else {
                    ["default", "park", "spin", "yield"]
                        [usize::try_from(chance.below(4)).expect("small")]
                };
                let count =
                    if at_point.is_some_and(once_a_session) { 1 } else { 1 + chance.below(60) };
                let mut victim = start_victim(
                    server,
                    number,
                    wait,
                    depth,
                    at_point.map(|at| format!("{at}:{count}")),
                );
                if at_point.is_none() {
                    victim.expect("ready");
                    std::thread::sleep(Duration::from_micros(chance.below(5000)));
                    victim.kill();
                } else {
                    victim.is_killed();
                }
                let died = Stopwatch::start();
                wait_until("the server is rid of the dead client", || server.stats().sessions == 1);
                times.add(died.elapsed(), died.elapsed().saturating_sub(died.awake()), || {
                    format!("the server, of a client at {at_point:?}:{count}")
                });
                killed_at[if at_point.is_some() { point } else { points.len() }] += 1;
            };
        // Whatever the server keeps from a first client on it has after these.
        for number in 0..2 * points.len() as u64 {
            round(number, &mut server, &mut chance, &mut times);
        }
        let before = Holdings::of(server.id());
        for number in 0..rounds {
            round(number, &mut server, &mut chance, &mut times);
        }
        let mut after = Holdings::of(server.id());
        // The porter lets go of a descriptor a moment after the reactor has counted.
        wait_until("the server has what it had before", || {
            after = Holdings::of(server.id());
            after.descriptors.len() <= before.descriptors.len() && after.mappings <= before.mappings
        });
        assert!(
            after.shared_bytes <= before.shared_bytes + 256 * 1024,
            "{before:?}, then {after:?}"
        );
        assert!(
            after.private_bytes <= before.private_bytes + 4 * 1024 * 1024,
            "{before:?}, then {after:?}"
        );
        drop(stop);
        witness.join().expect("the witness")
    });
    let stats = server.shut_down();
    assert_eq!((stats.peer_faults, stats.slow_clients, stats.panics, stats.errors), (0, 0, 0, 0));
    let killed: Vec<String> =
        points.iter().zip(&killed_at).map(|(point, count)| format!("{point} {count}")).collect();
    done!(
        "{} clients killed ({}, at any moment {}); {}; {witnessed} calls of a witness; late rings {}",
        killed_at.iter().sum::<u64>(),
        killed.join(", "),
        killed_at[points.len()],
        times.summary(),
        stats.late_rings
    )
}

/// Tells the witness to stop, also when the test fails.
struct StopOnDrop<'a>(&'a PlainU64);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(1, Ordering::Relaxed);
    }
}

/// Whether a client comes by this point once only, while it connects.
fn once_a_session(point: &str) -> bool {
    point.starts_with("client-") && point != "client-armed"
}
