//! The paths that are counted.
//!
//! Ring and bell are counted on one thread, to the instruction. The client's paths are counted in
//! the client's thread, which neither waits nor spins in between; the server's on its own thread,
//! from one burst of requests to the next, so its sleep between them is in the count. Of all
//! repetitions the least counts: what is above it was a disturbance.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use ringbell::bell::{Ringer, Sleeper, before_looking_again};
use ringbell::layout::{HeaderWord, Interest, Kind, Mode};
use ringbell::memory::{BellWord, lines_pair, word_pair};
use ringbell::ring::{Consumer, Polled, Producer};
use ringbell::{Client, ConnectOptions, Server, ServerHandle, WaitSettings};

use crate::budgets::Counts;
use crate::meter::{Meter, Way};
use crate::outcome::Outcome;

/// Counts all paths.
pub(crate) fn all(way: Way) -> Outcome<Counts> {
    let mut counts = Counts::new();
    ring(way, &mut counts)?;
    bell(way, &mut counts)?;
    calls(way, &mut counts)?;
    Ok(counts)
}

fn number(count: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts of seconds are far below 2^52")]
    let number = count as f64;
    number
}

// ---- ring and bell ----

/// The least number of instructions that a path takes, of all repetitions. Each repetition has a
/// path that `make` made for it. It is taken `before` times, then counted `times` times, and twice
/// as often.
fn least<P: FnMut()>(way: Way, before: u32, times: u32, make: impl Fn() -> P) -> Outcome<f64> {
    let mut meter = Meter::new(way)?;
    let mut best = f64::INFINITY;
    for _ in 0..way.repetitions() {
        let mut path = make();
        // Once at least: what the linker binds at its first use is bound then.
        repeat(&mut path, before.max(1));
        let mut count = |times: u32| -> Outcome<f64> {
            meter.begin()?;
            repeat(&mut path, times);
            Ok(number(meter.end()?))
        };
        let (once, twice) = (count(times)?, count(2 * times)?);
        // The difference: the way into the loop and out of it costs instructions too.
        best = best.min((twice - once) / f64::from(times));
    }
    Ok(best)
}

/// The one place where a path is called, so that all counts are of the same code.
#[inline(never)]
fn repeat(path: &mut impl FnMut(), times: u32) {
    for _ in 0..times {
        path();
    }
}

/// Of the rings that are counted.
const CAPACITY: usize = 256 * 1024;

/// A ring whose memory is fresh: the producer has nothing to zero in its first lap, in which all
/// counted records fit. And the same in the second lap, where it has.
fn ring(way: Way, counts: &mut Counts) -> Outcome<()> {
    for (size, laps) in [(48, 0), (64, 0), (1024, 0), (8 * 1024, 0), (64, 1)] {
        // Header and padding of a record are less than 128 bytes.
        let records = u32::try_from(CAPACITY / (size + 128))?;
        // All counts of a repetition together.
        let times = way.times().min((records - 1) / 3);
        let count = least(way, laps * 2 * records, times, || push_and_take(size))?;
        let lap = if laps == 0 { "" } else { ", later laps" };
        counts.insert(format!("ring/push and take {size} B{lap}"), count);
    }
    Ok(())
}

/// Pushes a record of so many bytes and takes it out again.
fn push_and_take(size: usize) -> impl FnMut() {
    let (own, peer) = lines_pair(CAPACITY);
    let (tail, _) = word_pair();
    let (head, seen) = word_pair();
    let mut producer = Producer::new(own, tail, seen, 0);
    let mut consumer = Consumer::new(peer, head, 0);
    let payload = vec![7; size];
    let mut out = Vec::with_capacity(size);
    move || {
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
    }
}

fn bell(way: Way, counts: &mut Counts) -> Outcome<()> {
    let (armed, seen) = word_pair();
    let seq = BellWord::private();
    let sleeper = Sleeper::new(armed, seq.share());
    let ringer = Ringer::new(seen, seq);
    let nobody_asleep = || assert_eq!(ringer.ring(Interest::DATA), None);
    let count = least(way, 0, way.times(), || nobody_asleep)?;
    counts.insert("bell/ring, nobody asleep".to_owned(), count);
    let look_again = || {
        let ticket = sleeper.arm(Mode::Futex, Interest::DATA);
        before_looking_again();
        assert!(!sleeper.rung(ticket));
        sleeper.disarm();
    };
    let count = least(way, 0, way.times(), || look_again)?;
    counts.insert("bell/arm, look again, disarm".to_owned(), count);
    let rung = || {
        sleeper.arm(Mode::Futex, Interest::DATA);
        before_looking_again();
        assert_eq!(ringer.ring(Interest::DATA), Some(Mode::Futex));
        sleeper.disarm();
    };
    let count = least(way, 0, way.times(), || rung)?;
    counts.insert("bell/arm, ring, disarm".to_owned(), count);
    Ok(())
}

// ---- calls ----

/// Calls of a burst, all under way at once: they fit in the rings.
const BURST: u32 = 256;

/// Bytes of a request.
const SIZE: usize = 64;

/// How long to wait for the server. Single steps make it slow.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the first byte of a request tells the handler.
const ANSWER: u8 = 0;
/// To say that it is there, and to wait until the whole burst is.
const HOLD: u8 = 1;
/// To count the server's thread, too, from here to the next request that holds it.
const COUNT: u8 = 2;

/// What the handler says when it holds: how many instructions it took from the last time on, if
/// that was counted.
type Held = Result<Option<u64>, String>;

/// The server's side of a burst.
struct Doorman {
    meter: Meter,
    counting: bool,
    held: Sender<Held>,
    go_on: Receiver<()>,
}

impl Doorman {
    #[cold]
    fn hold(&mut self, order: u8) {
        let ended = self.counting.then(|| self.meter.end()).transpose();
        // If the client has gone there is nothing to count, and nothing to wait for.
        let _ = self.held.send(ended.map_err(|error| error.to_string()));
        let _ = self.go_on.recv();
        self.counting = order == COUNT;
        if self.counting
            && let Err(error) = self.meter.begin()
        {
            self.counting = false;
            let _ = self.held.send(Err(error.to_string()));
        }
    }
}

/// A client and a server in this process, which sleep whenever they have nothing to do.
fn calls(way: Way, counts: &mut Counts) -> Outcome<()> {
    let name = format!("ringbell-instructions-{}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    fs::create_dir(&directory)?;
    let counted = client_and_server(way, &directory.join("socket"), counts);
    fs::remove_dir_all(&directory)?;
    counted
}

fn client_and_server(way: Way, path: &Path, counts: &mut Counts) -> Outcome<()> {
    let server = Server::builder().wait(WaitSettings::server().park_at_once()).bind(path)?;
    let handle = server.handle();
    let (held, holds) = mpsc::channel();
    let (lets_go, go_on) = mpsc::channel();
    let (says_ready, ready) = mpsc::channel();
    let serving = thread::spawn(move || -> Outcome<()> {
        let mut doorman = Doorman { meter: Meter::new(way)?, counting: false, held, go_on };
        says_ready.send(())?;
        server.run(|request, answer| {
            if let Some(&order) = request.payload().first()
                && order != ANSWER
            {
                doorman.hold(order);
            }
            answer.extend_from_slice(request.payload());
            Ok(())
        })?;
        Ok(())
    });
    let counted = ready.recv().map_err(Into::into).and_then(|()| {
        let client =
            ConnectOptions::new().wait(WaitSettings::client().park_at_once()).connect(path)?;
        let meter = Meter::new(way)?;
        let server = handle.clone();
        Bursts { client, meter, server, holds, lets_go, requests: 0 }.count(way, counts)
    });
    handle.shutdown(Some(Duration::ZERO));
    // The server's own error comes first: it is why the client failed, if both did.
    serving.join().map_err(|_| "the server panicked")??;
    counted
}

/// The client's side of all bursts.
struct Bursts {
    client: Client,
    meter: Meter,
    server: ServerHandle,
    holds: Receiver<Held>,
    lets_go: Sender<()>,
    /// So far.
    requests: u64,
}

impl Bursts {
    fn count(mut self, way: Way, counts: &mut Counts) -> Outcome<()> {
        // The first burst is not counted.
        self.burst(HOLD, false)?;
        let (mut post, mut take) = (u64::MAX, u64::MAX);
        for _ in 0..way.repetitions() {
            let burst = self.burst(HOLD, true)?;
            (post, take) = (post.min(burst.post), take.min(burst.take));
        }
        let mut serve = u64::MAX;
        self.burst(COUNT, false)?;
        for repetition in 1..=way.repetitions() {
            let order = if repetition < way.repetitions() { COUNT } else { HOLD };
            let served = self.burst(order, false)?.served;
            serve = serve.min(served.ok_or("the server did not count")?);
        }
        counts.insert("client/post 64 B".to_owned(), number(post) / f64::from(BURST - 1));
        counts.insert("client/take an answer of 64 B".to_owned(), number(take) / f64::from(BURST));
        counts
            .insert("server/answer a request of 64 B".to_owned(), number(serve) / f64::from(BURST));
        Ok(())
    }

    /// A burst of requests of which the first holds the server, which goes on when all are there.
    fn burst(&mut self, order: u8, count: bool) -> Outcome<Burst> {
        let mut request = [7; SIZE];
        request[0] = order;
        self.client.post(&request)?;
        self.client.flush();
        let served =
            self.holds.recv_timeout(PATIENCE).map_err(|_| "the server does not answer")??;
        // The server is awake by now. Before it has taken back its armed word, each post would look
        // at the bell more closely, and how soon that is is the machine's business.
        request[0] = ANSWER;
        let post = self.metered(count, |client| {
            for _ in 1..BURST {
                client.post(black_box(&request))?;
            }
            Ok(())
        })?;
        self.client.flush();
        self.requests += u64::from(BURST);
        self.lets_go.send(())?;
        self.wait_for_all_answers()?;
        let take = self.metered(count, |client| {
            let mut taken = 0;
            while taken < BURST && client.try_recv()?.is_some() {
                taken += 1;
            }
            if taken == BURST { Ok(()) } else { Err("the server sleeps and owes answers".into()) }
        })?;
        Ok(Burst { post, take, served })
    }

    /// The instructions of this thread, if they are to be counted.
    fn metered(
        &mut self,
        count: bool,
        work: impl FnOnce(&mut Client) -> Outcome<()>,
    ) -> Outcome<u64> {
        if !count {
            return work(&mut self.client).map(|()| 0);
        }
        self.meter.begin()?;
        let done = work(&mut self.client);
        let count = self.meter.end()?;
        done.map(|()| count)
    }

    /// Waits until the server sleeps again, having handled all requests: it brings its counts up to
    /// date when it does. All answers lie there then, so taking them is the same each time.
    fn wait_for_all_answers(&self) -> Outcome<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.server.stats().requests < self.requests {
            if Instant::now() > deadline {
                return Err("the server does not answer all requests".into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// What came of a burst: instructions of all its posts, of taking all its answers, and of the
/// server for the burst before.
struct Burst {
    post: u64,
    take: u64,
    served: Option<u64>,
}
