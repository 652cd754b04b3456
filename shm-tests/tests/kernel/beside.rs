//! A client beside an attack, and the same client beside a process that makes as many harmless
//! calls.

use crate::users::{HONEST, HOSTILE, become_the_user};
use ringbell::Client;
use ringbell::sync::{Ordering, PlainBool};
use ringbell_shm_tests::process::{Arguments, Process, Start, hear, say};
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::reactor_requests::ask;
use std::path::Path;
use std::time::{Duration, Instant};

/// Rounds of a comparison; their median counts.
const ROUNDS: usize = 9;
/// How many times as long the client's p99 may be beside the attack.
const MOST: f64 = 2.0;
/// Comparisons, one of which must find that.
const TRIES: usize = 3;
/// How long one measurement may have to wait: longer than a hole was ever seen to take.
const ONE_WAIT: Duration = Duration::from_secs(45);

/// A client that measures. Told `measure COUNT MS PAUSE`, it says the median and the p99, in ns, of
/// so many samples, with so many us in between, or of as many as it could take in so many ms. A
/// sample is a call (`what=calls`), or a whole session with one call (`what=sessions`).
pub(crate) fn caller(arguments: &Arguments) {
    become_the_user(arguments);
    let path = arguments.text("path").to_owned();
    let connect = || {
        Client::connect(&path).unwrap_or_else(|error| panic!("cannot connect: {error} ({error:?})"))
    };
    let mut client = (arguments.text("what") == "calls").then(connect);
    let request = ask(b'e', 1, 0, b"measured");
    say("ready");
    while let Some(line) = hear() {
        let mut words = line.split(' ').skip(1).map(|word| word.parse::<u64>().expect("a number"));
        let mut next = || words.next().expect("a number");
        let (count, ms, pause) = (next(), next(), next());
        let until = Instant::now() + Duration::from_millis(ms);
        let mut samples = Vec::new();
        for _ in 0..count {
            std::thread::sleep(Duration::from_micros(pause));
            let began = Instant::now();
            match &mut client {
                Some(client) => drop(client.call(&request).expect("an answer")),
                None => drop(connect().call(&request).expect("an answer")),
            }
            samples.push(began.elapsed());
            if Instant::now() > until {
                break;
            }
        }
        samples.sort_unstable();
        let at = |percent: usize| samples[(samples.len() * percent).div_ceil(100) - 1].as_nanos();
        say(&format!("took {} {}", at(50), at(99)));
    }
}

/// Whether this process is between `go` and `rest`.
static GOING: PlainBool = PlainBool::new(false);

/// Whether the test wants this process to do its work.
pub(crate) fn is_going() -> bool {
    GOING.load(Ordering::Relaxed)
}

/// Does `work` again and again while the test says so: between `go` and `rest`, which are both
/// confirmed. After each `go` there is something to `prepare`, which is dropped before the rest.
pub(crate) fn in_turns<T>(mut prepare: impl FnMut() -> T, mut work: impl FnMut(&mut T)) {
    std::thread::spawn(|| {
        while let Some(line) = hear() {
            GOING.store(line == "go", Ordering::Relaxed);
        }
        std::process::exit(0);
    });
    say("ready");
    let mut rounds = 0u64;
    loop {
        while !is_going() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut prepared = prepare();
        say("going");
        while is_going() {
            work(&mut prepared);
            rounds += 1;
        }
        drop(prepared);
        say(&format!("rests {rounds}"));
    }
}

/// An honest client and what it measures in each round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measure {
    /// `calls` or `sessions`.
    pub(crate) what: &'static str,
    /// How many of them.
    pub(crate) count: u64,
    /// With so many us in between, in which the server goes to sleep.
    pub(crate) pause: u64,
}

/// Median and p99 of what an honest client measured, in us; or how many times as long they are.
#[derive(Debug, Clone, Copy)]
struct Times {
    median: f64,
    p99: f64,
}

/// The honest client's median and p99 beside an attack must be at most [`MOST`] times those beside
/// as many harmless calls: beside the same role with `harmless=1`. An attack that reaches the
/// client does so at each try; noise of this machine does not, so there are [`TRIES`].
///
/// # Panics
/// If they are longer at each try, or the honest client gets no answer.
pub(crate) fn is_not_reached(
    path: &Path,
    measure: Measure,
    attacker: impl Fn() -> Start,
) -> String {
    let mut told = String::new();
    for _ in 0..TRIES {
        let (ratio, text) = compare(path, measure, &attacker);
        let Times { median, p99 } = ratio;
        told += &format!("{median:.2} and {p99:.2} times median and p99 beside harmless calls:");
        told += &text;
        if median <= MOST && p99 <= MOST {
            return told;
        }
    }
    panic!("the honest client waits: {told}");
}

/// How many times as long the honest client waits, by the median of all rounds; and what there is
/// to say of them.
fn compare(path: &Path, measure: Measure, attacker: &impl Fn() -> Start) -> (Times, String) {
    let start = |harmless: u8| {
        let mut process = attacker()
            .with("path", path.display())
            .with("uid", HOSTILE)
            .with("harmless", harmless)
            .start();
        process.expect("ready");
        process
    };
    let (mut hostile, mut harmless) = (start(0), start(1));
    let mut honest = Start::role("caller")
        .with("path", path.display())
        .with("uid", HONEST)
        .with("what", measure.what)
        .start();
    honest.expect("ready");
    let mut done = 0;
    let mut measured = |beside: &mut Process| {
        beside.tell("go");
        beside.expect("going");
        honest.tell(&format!("measure {} 3000 {}", measure.count, measure.pause));
        let said = honest.hear_within(ONE_WAIT).expect("the honest client is answered");
        let mut us = said.split(' ').skip(1).map(|ns| ns.parse::<f64>().expect("a time") / 1000.0);
        let times = Times { median: us.next().expect("a median"), p99: us.next().expect("a p99") };
        beside.tell("rest");
        let said = beside.hear_within(ONE_WAIT).expect("an end of the round");
        done += said.strip_prefix("rests ").expect("a count").parse::<u64>().expect("a number");
        tick();
        times
    };
    let (mut medians, mut p99s, mut text) = (Vec::new(), Vec::new(), String::new());
    for _ in 0..ROUNDS {
        let (bad, good) = (measured(&mut hostile), measured(&mut harmless));
        text += &format!(
            " {:.0} and {:.0} for {:.0} and {:.0} us;",
            bad.median, bad.p99, good.median, good.p99
        );
        medians.push(bad.median / good.median);
        p99s.push(bad.p99 / good.p99);
    }
    assert!(done > 0, "nothing was done beside the client:{text}");
    let middle = |ratios: &mut Vec<f64>| {
        ratios.sort_unstable_by(f64::total_cmp);
        ratios[ROUNDS / 2]
    };
    (Times { median: middle(&mut medians), p99: middle(&mut p99s) }, text)
}
