//! How many instructions the paths take that every message takes: a gate that does not mind a noisy machine.
//!
//! `cargo bench -p ringbell-benches --bench instructions` counts retired instructions in user mode with the CPU's own
//! counter, compares them with the budgets in `instructions.json`, and fails if one is exceeded. With `-- --update` it
//! writes the budgets anew. Where the machine has no such counter, or nobody may use it, and on architectures without
//! budgets, it says so and passes.
//!
//! Ring and bell are counted on one thread, to the instruction. The client's paths are counted in the client's thread,
//! which neither waits nor spins in between; the server's on its own thread, which parks at once, while many requests lie
//! in its ring. Of many repetitions the least counts: what is above it was a disturbance.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use perf_event::events::Hardware;
use perf_event::{Builder, Counter};
use ringbell::bell::{Ringer, Sleeper, before_looking_again};
use ringbell::layout::{HeaderWord, Interest, Kind, Mode};
use ringbell::memory::{BellWord, lines_pair, word_pair};
use ringbell::ring::{Consumer, Polled, Producer};
use ringbell::{Client, ConnectOptions, Server, WaitSettings};
use std::hint::black_box;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// How often each path is counted.
const REPETITIONS: usize = 40;

/// How often it is taken each time.
const TIMES: u32 = 1024;

/// Calls under way at once in the paths that need a server: they fit in the rings.
const BURST: u32 = 256;

/// A count may exceed its budget by this factor and this many instructions: compilers change.
const TOLERANCE: f64 = 1.03;
const SLACK: f64 = 1.5;

/// The same for the server, whose way to sleep and back is in the count too.
const SERVER_TOLERANCE: f64 = 1.15;

/// Instructions for each path, by architecture.
type Budgets = BTreeMap<String, BTreeMap<String, f64>>;

fn main() -> ExitCode {
    match gate(std::env::args().any(|argument| argument == "--update")) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Where the budgets lie.
fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("instructions.json")
}

/// Counts and compares. False: a budget is exceeded.
fn gate(update: bool) -> Outcome<bool> {
    if let Err(why) = works() {
        println!("SKIPPED: instructions cannot be counted here ({why}); nothing was checked");
        return Ok(true);
    }
    let mut counts = BTreeMap::new();
    ring(&mut counts)?;
    bell(&mut counts)?;
    calls(&mut counts)?;

    let mut budgets: Budgets = serde_json::from_str(&fs::read_to_string(file())?)?;
    let here = std::env::consts::ARCH;
    if update {
        budgets.insert(
            here.to_owned(),
            counts.iter().map(|(path, count)| (path.clone(), count.ceil())).collect(),
        );
        fs::write(file(), serde_json::to_string_pretty(&budgets)? + "\n")?;
    }
    let Some(budgets) = budgets.get(here) else {
        println!("SKIPPED: there are no budgets for {here}; nothing was checked");
        return Ok(true);
    };
    let mut kept = true;
    println!("{:<36} {:>12} {:>8}", "path", "instructions", "budget");
    for (path, count) in &counts {
        let Some(budget) = budgets.get(path) else {
            println!("{path:<36} {count:>12.1}        - no budget: run with --update");
            kept = false;
            continue;
        };
        let tolerance = if path.starts_with("server/") { SERVER_TOLERANCE } else { TOLERANCE };
        let exceeded = *count > budget * tolerance + SLACK;
        kept &= !exceeded;
        println!("{path:<36} {count:>12.1} {budget:>8}{}", if exceeded { " EXCEEDED" } else { "" });
    }
    for path in budgets.keys().filter(|path| !counts.contains_key(*path)) {
        println!("{path:<36} has a budget, but is not counted any more");
        kept = false;
    }
    Ok(kept)
}

/// A counter of the calling thread's instructions in user mode, or of another thread's of this process.
fn counter(thread: Option<i32>) -> std::io::Result<Counter> {
    let mut builder = Builder::new(Hardware::INSTRUCTIONS);
    builder.exclude_kernel(true).exclude_hv(true);
    if let Some(thread) = thread {
        builder.observe_pid(thread);
    }
    builder.build()
}

/// Whether the counter counts: under some hypervisors it can be opened and stays at 0.
fn works() -> std::io::Result<()> {
    let mut counter = counter(None)?;
    counter.enable()?;
    black_box((0..10_000_u64).fold(0, |sum, number| black_box(sum + number)));
    counter.disable()?;
    if counter.read()? < 10_000 { Err(std::io::Error::other("the counter does not count")) } else { Ok(()) }
}

fn number(count: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts of milliseconds are far below 2^52")]
    let number = count as f64;
    number
}

/// The least number of instructions that `path` takes, of many times.
fn least(mut path: impl FnMut()) -> Outcome<f64> {
    let mut counter = counter(None)?;
    let mut count = |times: u32, path: &mut dyn FnMut()| -> Outcome<f64> {
        counter.reset()?;
        counter.enable()?;
        for _ in 0..times {
            path();
        }
        counter.disable()?;
        Ok(number(counter.read()?))
    };
    let mut best = f64::INFINITY;
    for _ in 0..REPETITIONS {
        let twice = count(2 * TIMES, &mut path)?;
        let once = count(TIMES, &mut path)?;
        // The difference: switching the counter on and off costs instructions too.
        best = best.min((twice - once) / f64::from(TIMES));
    }
    Ok(best)
}

fn ring(counts: &mut BTreeMap<String, f64>) -> Outcome<()> {
    const CAPACITY: usize = 256 * 1024;
    for size in [48, 64, 1024, 8 * 1024] {
        let (own, peer) = lines_pair(CAPACITY);
        let (tail, _) = word_pair();
        let (head, seen) = word_pair();
        let mut producer = Producer::new(own, tail, seen, 0);
        let mut consumer = Consumer::new(peer, head, 0);
        let payload = vec![7; size];
        let mut out = Vec::with_capacity(size);
        let count = least(|| {
            let header = HeaderWord::new(Kind::Request, 0, 0, 0);
            producer.try_push(header, 1, black_box(&payload)).expect("the ring is empty");
            producer.zero_ahead();
            match consumer.poll_plain() {
                Polled::Plain(header) => {
                    let _ = black_box(consumer.take_plain(header, &mut out));
                }
                _ => {
                    let record = consumer.peek().expect("no fault").expect("just pushed");
                    out.clear();
                    consumer.read(&record, 0, &mut out);
                    let _ = black_box(consumer.release(record));
                }
            }
        })?;
        counts.insert(format!("ring/push and take {size} B"), count);
    }
    Ok(())
}

fn bell(counts: &mut BTreeMap<String, f64>) -> Outcome<()> {
    let (armed, seen) = word_pair();
    let seq = BellWord::private();
    let sleeper = Sleeper::new(armed, seq.share());
    let ringer = Ringer::new(seen, seq);
    let count = least(|| assert_eq!(ringer.ring(Interest::DATA), None))?;
    counts.insert("bell/ring, nobody asleep".to_owned(), count);
    let count = least(|| {
        let ticket = sleeper.arm(Mode::Futex, Interest::DATA);
        before_looking_again();
        assert!(!sleeper.rung(ticket));
        sleeper.disarm();
    })?;
    counts.insert("bell/arm, look again, disarm".to_owned(), count);
    let count = least(|| {
        sleeper.arm(Mode::Futex, Interest::DATA);
        before_looking_again();
        assert_eq!(ringer.ring(Interest::DATA), Some(Mode::Futex));
        sleeper.disarm();
    })?;
    counts.insert("bell/arm, ring, disarm".to_owned(), count);
    Ok(())
}

/// A client and a server in this process, which sleep whenever they have nothing to do.
fn calls(counts: &mut BTreeMap<String, f64>) -> Outcome<()> {
    let directory = std::env::temp_dir().join(format!("ringbell-instructions-{}", std::process::id()));
    fs::create_dir(&directory)?;
    let path = directory.join("socket");
    let server = Server::builder().wait(WaitSettings::server().park_at_once()).bind(&path)?;
    let handle = server.handle();
    let (tell, told) = mpsc::channel();
    let gate = Arc::new(Mutex::new(()));
    let gated = gate.clone();
    let serving = thread::spawn(move || {
        let _ = tell.send(rustix::thread::gettid().as_raw_nonzero().get());
        server.run(|request, answer| {
            drop(gated.lock());
            answer.extend_from_slice(request.payload());
            Ok(())
        })
    });
    let thread = told.recv()?;
    let done = ConnectOptions::new()
        .wait(WaitSettings::client().park_at_once())
        .connect(&path)
        .map_err(Into::into)
        .and_then(|mut client| client_and_server(&mut client, thread, &gate, counts));
    handle.shutdown(Some(Duration::ZERO));
    serving.join().map_err(|_| "the server panicked")??;
    fs::remove_dir_all(&directory)?;
    done
}

fn client_and_server(
    client: &mut Client,
    thread: i32,
    gate: &Mutex<()>,
    counts: &mut BTreeMap<String, f64>,
) -> Outcome<()> {
    let (mut own, mut other) = (counter(None)?, counter(Some(thread))?);
    let request = [7; 64];
    let mut least = [f64::INFINITY; 3];
    for _ in 0..REPETITIONS {
        // The server waits in its handler until all requests are there. Else it would sleep in between, as often as the
        // machine happens to let it, and the client would ring.
        let closed = gate.lock().map_err(|_| "the server panicked")?;
        other.reset()?;
        other.enable()?;
        own.reset()?;
        own.enable()?;
        for _ in 0..BURST {
            client.post(black_box(&request))?;
        }
        own.disable()?;
        let post = own.read()?;
        client.flush();
        drop(closed);
        // Until all answers lie there: what the client then does is the same each time.
        thread::sleep(Duration::from_millis(5));
        other.disable()?;
        let serve = other.read()?;
        own.reset()?;
        own.enable()?;
        let mut taken = 0;
        while taken < BURST && client.try_recv()?.is_some() {
            taken += 1;
        }
        own.disable()?;
        let take = own.read()?;
        if taken == BURST {
            for (least, count) in least.iter_mut().zip([post, take, serve]) {
                *least = least.min(number(count) / f64::from(BURST));
            }
        } else {
            // Disturbed: the server was held up.
            for _ in taken..BURST {
                client.recv(None)?.outcome?;
            }
        }
    }
    let names = ["client/post 64 B", "client/take an answer of 64 B", "server/answer a request of 64 B"];
    for (name, count) in names.into_iter().zip(least) {
        if count.is_infinite() {
            return Err("the server was held up in every repetition".into());
        }
        counts.insert(name.to_owned(), count);
    }
    Ok(())
}
