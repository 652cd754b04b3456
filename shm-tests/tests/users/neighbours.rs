//! What one user's doings cost another: the victim's 99th percentile beside a neighbour that does
//! harm, against the same beside the same neighbour while it makes harmless calls.

use super::shares::{become_its_user, start};
use super::{USERS, only_one_user, open_directory};
use ringbell::Client;
use ringbell::layout::Kind;
use ringbell::sync::{Ordering, PlainU64};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, Process, hear, readable, say};
use ringbell_shm_tests::reactor_requests::ask;
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::{done, raw, scaled, wait_until};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const ROUNDS: usize = 9;
/// How much slower the victim may be beside harm than beside calls.
const MOST: f64 = 2.0;

/// Calls so often whenever it is told to; says the 99th percentile in nanoseconds.
pub(super) fn victim(arguments: &Arguments) {
    become_its_user(arguments);
    let calls = arguments.number("calls");
    let mut client = Client::connect(arguments.text("path")).expect("a session");
    say("connected");
    while hear().is_some() {
        let mut times: Vec<u128> = (0..calls)
            .map(|call| {
                let began = Instant::now();
                client.call(&ask(b'e', call, 0, b"")).expect("a call");
                began.elapsed().as_nanos()
            })
            .collect();
        times.sort_unstable();
        say(&times[times.len() * 99 / 100].to_string());
    }
}

/// What a neighbour does, over and over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
enum Doing {
    Calls,
    Harm,
}

struct EndsWithAPanic;

impl Drop for EndsWithAPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::exit(101);
        }
    }
}

/// Does what it was told last, and says so when it has begun. What it does is told whether there is
/// another order.
fn keep_doing(mut once: impl FnMut(Doing, &dyn Fn() -> bool) + Send) {
    // A number of the order, doubled, and what to do; 0 before the first order.
    let order = PlainU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // A panic ends the process: its test would wait for it for ever.
            let _end = EndsWithAPanic;
            let mut begun = 0;
            loop {
                // Relaxed: a number, which orders nothing.
                let now = order.load(Ordering::Relaxed);
                if now == 0 {
                    std::thread::yield_now();
                    continue;
                }
                if now != begun {
                    begun = now;
                    say(&format!("does {}", now % 2));
                }
                let over = || order.load(Ordering::Relaxed) != now;
                once(if now.is_multiple_of(2) { Doing::Calls } else { Doing::Harm }, &over);
            }
        });
        let mut orders = 0;
        while let Some(line) = hear() {
            orders += 2;
            let doing: u64 = line.parse().expect("a number");
            order.store(orders + doing, Ordering::Relaxed);
        }
        std::process::exit(0);
    });
}

/// Harm: asks for rings of 16 and 32 MiB, and hangs up when it has them. Its calls are at least as
/// many, and leave most of the time to the victim.
pub(super) fn asks_for_large_rings(arguments: &Arguments) {
    become_its_user(arguments);
    let path = PathBuf::from(arguments.text("path"));
    let mut client = Client::connect(&path).expect("a session");
    let mut hello = raw::hello(16 << 20);
    hello[16 + 24..16 + 32].copy_from_slice(&(32u64 << 20).to_le_bytes());
    say("connected");
    keep_doing(|doing, over| match doing {
        Doing::Calls => {
            client.call(&ask(b'e', 7, 0, b"")).expect("a call");
            std::thread::sleep(Duration::from_millis(1));
        }
        Doing::Harm => {
            let stream = raw::connect(&path);
            raw::send(&stream, &hello, &[]);
            // It may have to wait for that: its user has used up its time.
            while !readable(&stream, Duration::from_millis(5)) {
                if over() {
                    return;
                }
            }
            // A Reject has no READY: the server has hung up behind it.
            let answer = raw::receive(&stream).expect("an answer");
            assert_eq!(answer.kind, raw::kind::WELCOME, "{answer:?}");
            raw::send(&stream, &[raw::READY], &[]);
        }
    });
}

/// How many frames a neighbour sends in one go.
const BATCH: u64 = 256;
/// How many calls it has in flight. Many times the default of `max_in_flight`: a search one by one
/// among a thousand takes a microsecond, which the noise of a busy machine hides.
const IN_FLIGHT: u64 = 20_000;

/// Harm: cancels calls that it never made, with many others in flight. Its calls are one-way, as
/// cancels are, and as many.
pub(super) fn cancels_unknown_calls(arguments: &Arguments) {
    become_its_user(arguments);
    let path = Path::new(arguments.text("path"));
    let [calling, cancelling] = [(); 2].map(|()| raw::SocketSession::open(path));
    for call in 1..=IN_FLIGHT {
        // Held by the server.
        cancelling.request(call, &ask(b'h', 5, 0, b""));
    }
    // Behind an answer all that was sent before was read, so that no harm is left over for the next
    // round of calls.
    let settle = |session: &raw::SocketSession| {
        session.request(1 << 30, &ask(b'e', 7, 0, b""));
        assert_eq!(session.receive().expect("an answer").call, 1 << 30);
    };
    settle(&cancelling);
    let frames = |kind, body: &[u8]| -> Vec<u8> {
        (0..BATCH).flat_map(|n| raw::frame(kind, 0, 0, (1 << 40) + n, body)).collect()
    };
    let calls = frames(Kind::OneWay, &ask(b'e', 7, 0, b""));
    let cancels = frames(Kind::Cancel, b"");
    say("connected");
    keep_doing(|doing, _| {
        let (session, frames) = match doing {
            Doing::Calls => (&calling, &calls),
            Doing::Harm => (&cancelling, &cancels),
        };
        assert!(session.send(frames), "the server takes them");
        settle(session);
    });
}

fn told(neighbour: &mut Process, doing: Doing) {
    let doing = (doing as u64).to_string();
    neighbour.tell(&doing);
    assert_eq!(neighbour.expect("does"), doing);
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The victim of one user beside the neighbour of another, in rounds of calls and of harm that take
/// turns.
fn beside(driver: &str, neighbour: &str) -> String {
    let dir = open_directory();
    let path = dir.path().join("test.sock");
    let server = Server::prepare_at(&path, "react")
        .with("mode", 0o666)
        .with("anyone", 1)
        .with("driver", driver)
        .with("max_in_flight", 2 * IN_FLIGHT)
        .with("max_held_bytes_per_client", 1u64 << 30)
        .with("max_held_bytes_per_uid", 1u64 << 31)
        .with("max_held_bytes", 1u64 << 33)
        .start();
    let mut victim = start("victim", &path, USERS[0]).with("calls", scaled(4000)).start();
    victim.expect("connected");
    let mut neighbour = start(neighbour, &path, USERS[1]).start();
    neighbour.expect("connected");
    let mut round = |doing| -> f64 {
        told(&mut neighbour, doing);
        victim.tell("go");
        victim.hear().parse().expect("a number")
    };
    // Not counted: everything is cold.
    round(Doing::Calls);
    let (mut calls, mut harm) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        calls.push(round(Doing::Calls));
        harm.push(round(Doing::Harm));
    }
    let ratios = harm.iter().zip(&calls).map(|(harm, calls)| harm / calls).collect();
    let ratio = median(ratios);
    let (calls, harm) = (median(calls) / 1000.0, median(harm) / 1000.0);
    let text = format!("{driver}: p99 {calls:.0} us beside calls, {harm:.0} us beside harm");
    println!("    {text}, median of the ratios {ratio:.2}");
    assert!(ratio <= MOST, "{text}: {ratio:.2} times as much");
    // It may be in the middle of whatever it does.
    neighbour.kill();
    victim.hang_up();
    victim.succeed();
    drop(server);
    format!("{text} ({ratio:.2})")
}

pub(super) fn p6_large_rings_cost_the_user_that_asks_for_them() -> Ran {
    if let Some(skipped) = only_one_user() {
        return skipped;
    }
    let texts = ["loop", "thread"].map(|driver| beside(driver, "asks_for_large_rings"));
    done!("{}", texts.join("; "))
}

pub(super) fn p7_cancels_cost_the_user_that_sends_them() -> Ran {
    if let Some(skipped) = only_one_user() {
        return skipped;
    }
    let texts = ["thread", "loop"].map(|driver| beside(driver, "cancels_unknown_calls"));
    done!("{}", texts.join("; "))
}

/// With a thousand calls in flight the right one is cancelled.
pub(super) fn p7_a_cancel_among_many_finds_its_call() -> Ran {
    let mut server = Server::prepare("react").with("driver", "thread").start();
    let session = raw::SocketSession::open(server.path());
    for call in 1..=1000 {
        session.request(call, &ask(b'h', 5, 0, b""));
    }
    let cancel = |call| assert!(session.send(&raw::frame(Kind::Cancel, 0, 0, call, b"")));
    // Of these the last two do not count: one is cancelled already, one is unknown.
    for call in [1, 500, 1000, 500, 1001] {
        cancel(call);
    }
    // Behind a request that is answered all of them were read.
    let settled = |call| {
        session.request(call, &ask(b'e', 7, 0, b""));
        assert_eq!(session.receive().expect("an answer").call, call);
    };
    settled(2000);
    wait_until("three are cancelled", || server.stats().cancelled == 3);
    // It is known as long as it is in flight, and no longer; so is what came when there was an
    // index.
    cancel(2000);
    session.request(3000, &ask(b'h', 5, 0, b""));
    cancel(3000);
    settled(4000);
    wait_until("four are cancelled", || server.stats().cancelled == 4);
    done!("4 of 1001 calls in flight")
}
