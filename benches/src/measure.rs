//! The clock: the only code that times anything, so that every competitor is timed alike.
//!
//! A single reading of the clock costs some 20 ns, which would be a tenth of the fastest round
//! trips. So small messages (up to [`LARGE`] bytes, in the echo, one-CPU and canary scenarios) are
//! timed in two ways, in turn:
//!
//! * sixteen consecutive round trips between two readings, check of every answer included: gives
//!   `p50_ns` as the median of the batches' means, as long as that is under 5 us;
//! * sixteen round trips one by one, each between two readings, which are not subtracted: gives
//!   `p90_ns` to `max_ns`, and `p50_ns` where the batches do not.
//!
//! Everything else is timed one by one, and answers are checked outside the timed part. Pipelined
//! cases stamp one call in 61; their main figure is the rate. Where handlers wait, every call is
//! stamped.

mod bursts;
mod quiet;

use std::io;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::cpu::CpuClock;
use crate::limits::costs::Cost;
use crate::outcome::Outcome;
use crate::payload::{Payload, sequence};
use crate::scenario::{LARGE, Scenario};
use crate::system::{Client, Counts, Setup, System};
use crate::work::Work;
use crate::world_state::VALUES;

/// Round trips between two readings of the clock where single ones are too short.
const BATCH: u64 = 16;

/// Calls after the common start that are not counted: the peer may have gone to sleep while the
/// processes of the trial waited for each other.
const UNCOUNTED: u64 = 32;

/// The same where handlers wait: everybody has been asleep before by the first call.
const UNCOUNTED_WAITS: u64 = 4;

/// From this p50 on, in nanoseconds, the clock no longer distorts single round trips.
const CLOCK_INVISIBLE_NS: f64 = 5000.0;

/// How long to measure.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Timing {
    /// Before the common start, not counted.
    pub(crate) warm_up: Duration,
    /// The measurement itself.
    pub(crate) run: Duration,
}

/// What one client found out. Times are in nanoseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// Operations in the measured time.
    pub(crate) operations: u64,
    /// Operations since the common start, the uncounted ones included.
    pub(crate) since_start: u64,
    /// The measured time.
    pub(crate) wall: f64,
    /// CPU time of the client in the measured time.
    pub(crate) client_cpu: f64,
    /// CPU time of the server in the measured time, over all its clients.
    pub(crate) server_cpu: f64,
    /// Percentiles of one operation.
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
    /// One operation at each of the [`QUANTILES`].
    pub(crate) curve: Vec<f64>,
    /// What the client counted since it was connected, if it can tell.
    pub(crate) counts: Option<Counts>,
}

/// The points at which distributions are drawn.
pub(crate) const QUANTILES: [f64; 16] = [
    0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999,
    1.0,
];

/// Waits for the common start of all clients of a trial.
pub(crate) type Start<'a> = &'a mut dyn FnMut() -> Outcome<()>;

/// The client role: puts the system through the case.
pub(crate) fn system(
    system: &dyn System,
    setup: &Setup,
    timing: Timing,
    server: CpuClock,
    salt: u8,
    start: Start<'_>,
) -> Outcome<Figures> {
    let work = system.work(&setup.case);
    let mut caller = Caller {
        payload: Payload::new(setup.case.size, salt),
        answer: Vec::new(),
        number: 0,
        numbers: if work == Work::World { VALUES } else { u64::MAX },
        number_only: setup.case.scenario == Scenario::OneWay,
    };
    let server = match system.helper(setup)? {
        Some(helper) => server.and(CpuClock::of(helper)?),
        None => server,
    };
    let meter = Meter::new(timing, server)?;
    let window = u64::from(setup.case.in_flight);
    let uncounted = if work.waits() { UNCOUNTED_WAITS } else { UNCOUNTED };
    let scenario = setup.case.scenario;
    if scenario == Scenario::Setup {
        return set_ups(system, setup, &mut caller, meter, start);
    }
    let mut attached = system.connect(setup)?;
    let client = &mut *attached;
    let mut figures = match scenario {
        Scenario::Paced => quiet::paced(client, &mut caller, meter, start),
        Scenario::PacedFast => quiet::paced_fast(client, &mut caller, meter, start),
        Scenario::Idle => quiet::idle(client, &mut caller, meter, start),
        Scenario::Pipelined => bursts::pipelined(client, &mut caller, window, meter, start),
        Scenario::Batch => bursts::batches(client, &mut caller, window, meter, start),
        Scenario::Tasks => bursts::tasks(client, &mut caller, window, meter, start),
        Scenario::ServiceEmpty if window > 1 => {
            bursts::pipelined(client, &mut caller, window, meter, start)
        }
        Scenario::ServiceDepth => topped_up(client, &mut caller, window, meter, start),
        Scenario::Stream => bursts::streamed(client, &mut caller, meter, start),
        Scenario::Canary | Scenario::Echo | Scenario::OneCpu | Scenario::ServiceEmpty
            if setup.case.size <= LARGE && setup.case.clients == 1 =>
        {
            round_trips::<true>(client, &mut caller, uncounted, meter, start)
        }
        _ => round_trips::<false>(client, &mut caller, uncounted, meter, start),
    }?;
    figures.counts = client.counts();
    Ok(figures)
}

/// All clients of a system that is one process, each on a thread of its own.
pub(crate) fn together(
    system: &dyn System,
    setup: &Setup,
    timing: Timing,
    start: Start<'_>,
) -> Outcome<Vec<Figures>> {
    // Should a client fail before it is ready the others wait for it in vain, until the parent
    // loses patience.
    let gate = Barrier::new(usize::try_from(setup.case.callers())? + 1);
    thread::scope(|scope| {
        let gate = &gate;
        let mut clients = Vec::new();
        for number in 0..setup.case.callers() {
            let salt = u8::try_from(number % 251)?;
            clients.push(scope.spawn(move || {
                let mut start = || {
                    gate.wait();
                    gate.wait();
                    Ok(())
                };
                self::system(system, setup, timing, CpuClock::own(), salt, &mut start)
            }));
        }
        gate.wait();
        let started = start();
        gate.wait();
        let mut all = Vec::new();
        for client in clients {
            let mut figures = client.join().map_err(|_| "a client panicked")??;
            // Both clocks are of this process: its time is to be counted once.
            figures.client_cpu = 0.0;
            all.push(figures);
        }
        started.map(|()| all)
    })
}

/// The client role where there is no server: repeats one operation.
pub(crate) fn cost(cost: &Cost, timing: Timing, start: Start<'_>) -> Outcome<Figures> {
    const BATCH: u64 = 256;
    let mut repeat = cost.prepare();
    let mut meter = Meter::new(timing, CpuClock::own())?;
    repeat(BATCH);
    start()?;
    meter.begin()?;
    while !meter.is_over() {
        let begun = Instant::now();
        repeat(BATCH);
        meter.batch(begun, BATCH)?;
    }
    let mut figures = meter.finish(0)?;
    figures.server_cpu = 0.0;
    Ok(figures)
}

/// Makes calls and checks what comes back.
struct Caller {
    payload: Payload,
    answer: Vec<u8>,
    number: u64,
    /// So many there are; then they begin again.
    numbers: u64,
    /// The answer is the sequence number alone.
    number_only: bool,
}

impl Caller {
    /// The next request.
    fn stamp(&mut self) -> &[u8] {
        self.number = (self.number + 1) % self.numbers;
        self.payload.stamp(self.number)
    }

    /// Calls with the request as last stamped.
    fn call(&mut self, client: &mut dyn Client) -> Outcome<()> {
        client.call(self.payload.bytes(), &mut self.answer)
    }

    /// Whether the answer belongs to the request: its number and every byte.
    fn check(&self) -> Outcome<()> {
        let expected =
            if self.number_only { &self.payload.bytes()[..8] } else { self.payload.bytes() };
        if self.answer == expected {
            return Ok(());
        }
        let (number, answered) = (self.number, sequence(&self.answer));
        let length = self.answer.len();
        Err(format!("wrong answer to call {number}: {length} bytes with number {answered:?}")
            .into())
    }

    /// A whole call, untimed.
    fn exchange(&mut self, client: &mut dyn Client) -> Outcome<()> {
        self.stamp();
        self.call(client)?;
        self.check()
    }
}

/// One call after the other. `BATCHED`: see the module's text.
fn round_trips<const BATCHED: bool>(
    client: &mut dyn Client,
    caller: &mut Caller,
    uncounted: u64,
    mut meter: Meter,
    start: Start<'_>,
) -> Outcome<Figures> {
    let warm = meter.warm_up_end();
    while Instant::now() < warm || caller.number < uncounted {
        caller.exchange(client)?;
    }
    start()?;
    for _ in 0..uncounted {
        caller.exchange(client)?;
    }
    meter.begin()?;
    while !meter.is_over() {
        if BATCHED {
            let begun = Instant::now();
            for _ in 0..BATCH {
                caller.exchange(client)?;
            }
            meter.batch(begun, BATCH)?;
        }
        for _ in 0..if BATCHED { BATCH } else { 1 } {
            caller.stamp();
            let begun = Instant::now();
            caller.call(client)?;
            meter.single(begun)?;
            caller.check()?;
        }
    }
    meter.finish(uncounted)
}

/// Connect and one call, again and again. Detaching is not timed.
fn set_ups(
    system: &dyn System,
    setup: &Setup,
    caller: &mut Caller,
    mut meter: Meter,
    start: Start<'_>,
) -> Outcome<Figures> {
    const UNCOUNTED: u64 = 8;
    for _ in 0..UNCOUNTED {
        caller.exchange(&mut *system.connect(setup)?)?;
    }
    start()?;
    meter.begin()?;
    while !meter.is_over() {
        caller.stamp();
        let begun = Instant::now();
        let mut client = system.connect(setup)?;
        caller.call(&mut *client)?;
        meter.single(begun)?;
        caller.check()?;
    }
    meter.finish(0)
}

/// Keeps `window` calls in flight, whatever the order of the answers: a new one goes out for each
/// that is answered.
fn topped_up(
    client: &mut dyn Client,
    caller: &mut Caller,
    window: u64,
    mut meter: Meter,
    start: Start<'_>,
) -> Outcome<Figures> {
    let mut flight = Vec::new();
    let warm = meter.warm_up_end();
    for _ in 0..window {
        caller.launch(client, &mut flight)?;
    }
    while Instant::now() < warm {
        caller.land(client, &mut flight)?;
        caller.launch(client, &mut flight)?;
    }
    while !flight.is_empty() {
        caller.land(client, &mut flight)?;
    }
    start()?;
    meter.begin()?;
    for _ in 0..window {
        caller.launch(client, &mut flight)?;
    }
    while !meter.is_over() {
        meter.single(caller.land(client, &mut flight)?)?;
        caller.launch(client, &mut flight)?;
    }
    let figures = meter.finish(window)?;
    while !flight.is_empty() {
        caller.land(client, &mut flight)?;
    }
    Ok(figures)
}

/// A call in flight: its number, and when it was sent.
type Launched = (u64, Instant);

impl Caller {
    /// Sends the next call.
    fn launch(&mut self, client: &mut dyn Client, flight: &mut Vec<Launched>) -> Outcome<()> {
        self.stamp();
        flight.push((self.number, Instant::now()));
        client.send(self.payload.bytes())?;
        client.flush()
    }

    /// Takes any answer; when its call was sent.
    fn land(&mut self, client: &mut dyn Client, flight: &mut Vec<Launched>) -> Outcome<Instant> {
        client.receive(&mut self.answer)?;
        let answered = sequence(&self.answer);
        let place = flight.iter().position(|(number, _)| Some(*number) == answered);
        let Some(place) = place else {
            return Err(format!("an answer to call {answered:?}").into());
        };
        let (number, begun) = flight.swap_remove(place);
        if self.answer != self.payload.stamp(number) {
            return Err(format!("wrong answer to call {number}").into());
        }
        Ok(begun)
    }
}

/// Counts and clocks of one measurement.
struct Meter {
    timing: Timing,
    server: CpuClock,
    /// Nanoseconds of single operations.
    singles: Histogram<u64>,
    /// Sixteenths of a nanosecond for each operation of a batch.
    batches: Histogram<u64>,
    operations: u64,
    begun: Instant,
    last: Instant,
    client_cpu: Duration,
    server_cpu: Duration,
}

/// Units of the batches' histogram in a nanosecond.
const FINE: u64 = 16;

impl Meter {
    fn new(timing: Timing, server: CpuClock) -> Outcome<Self> {
        let minute = 60_000_000_000;
        let mut singles = Histogram::new_with_bounds(1, minute, 3)?;
        let mut batches = Histogram::new_with_bounds(1, minute, 3)?;
        // Touches the counters' memory now, and not in the middle of the measurement.
        for histogram in [&mut singles, &mut batches] {
            for shift in 0..35 {
                histogram.record(1 << shift)?;
            }
            histogram.reset();
        }
        let now = Instant::now();
        Ok(Self {
            timing,
            server,
            singles,
            batches,
            operations: 0,
            begun: now,
            last: now,
            client_cpu: Duration::ZERO,
            server_cpu: Duration::ZERO,
        })
    }

    /// When warming up is over, if it begins now.
    fn warm_up_end(&self) -> Instant {
        Instant::now() + self.timing.warm_up
    }

    /// The measurement begins.
    fn begin(&mut self) -> io::Result<()> {
        self.server_cpu = self.server.read()?;
        self.client_cpu = CpuClock::own().read()?;
        self.begun = Instant::now();
        self.last = self.begun;
        Ok(())
    }

    /// CPU time of client and server so far, in nanoseconds.
    fn pause(&self) -> io::Result<(f64, f64)> {
        let server = self.server.read()? - self.server_cpu;
        let client = CpuClock::own().read()? - self.client_cpu;
        Ok((in_nanoseconds(nanoseconds(client)), in_nanoseconds(nanoseconds(server))))
    }

    /// Whether the time is up, as of the last reading.
    fn is_over(&self) -> bool {
        self.last - self.begun >= self.timing.run
    }

    /// Reads the clock only to learn whether the time is up.
    fn look(&mut self) {
        self.last = Instant::now();
    }

    /// An operation that began at `begun` ends now.
    #[inline(always)]
    fn single(&mut self, begun: Instant) -> Outcome<()> {
        self.last = Instant::now();
        self.operations += 1;
        self.singles.record(nanoseconds(self.last - begun).max(1))?;
        Ok(())
    }

    /// `count` operations that began at `begun` end now.
    fn batch(&mut self, begun: Instant, count: u64) -> Outcome<()> {
        self.last = Instant::now();
        self.operations += count;
        self.batches.record((nanoseconds(self.last - begun) * FINE / count).max(1))?;
        Ok(())
    }

    /// An operation ended that nobody timed.
    #[inline(always)]
    fn untimed(&mut self) {
        self.operations += 1;
    }

    /// The measurement ends.
    fn finish(self, uncounted: u64) -> Outcome<Figures> {
        let ended = Instant::now();
        let client_cpu = CpuClock::own().read()? - self.client_cpu;
        let server_cpu = self.server.read()? - self.server_cpu;
        let batched = |quantile| {
            in_nanoseconds(self.batches.value_at_quantile(quantile)) / in_nanoseconds(FINE)
        };
        let single = |quantile| in_nanoseconds(self.singles.value_at_quantile(quantile));
        let wall = in_nanoseconds(nanoseconds(ended - self.begun));
        // Where nothing was sampled, in a pipeline that stood still, the mean is all there is.
        let mean = wall / in_nanoseconds(self.operations.max(1));
        let quantile = |point| match (self.singles.is_empty(), self.batches.is_empty()) {
            (false, _) => single(point),
            (true, false) => batched(point),
            (true, true) => mean,
        };
        let batches_count = !self.batches.is_empty() && batched(0.5) < CLOCK_INVISIBLE_NS;
        Ok(Figures {
            operations: self.operations,
            since_start: self.operations + uncounted,
            wall,
            client_cpu: in_nanoseconds(nanoseconds(client_cpu)),
            server_cpu: in_nanoseconds(nanoseconds(server_cpu)),
            p50: if batches_count { batched(0.5) } else { quantile(0.5) },
            p90: quantile(0.9),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: quantile(1.0),
            curve: QUANTILES.map(quantile).to_vec(),
            counts: None,
        })
    }
}

/// A duration as a whole number of nanoseconds; 584 years are the most.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A count as a figure that can be divided.
fn in_nanoseconds(count: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "exact up to 104 days")]
    let figure = count as f64;
    figure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_batches_give_the_median_and_singles_the_tail() {
        let timing = Timing { warm_up: Duration::ZERO, run: Duration::ZERO };
        let mut meter = Meter::new(timing, CpuClock::own()).expect("a meter");
        meter.batches.record(300 * FINE).expect("in range");
        meter.singles.record(350).expect("in range");
        let figures = meter.finish(0).expect("figures");
        assert!((299.0..302.0).contains(&figures.p50), "{}", figures.p50);
        assert!((350.0..352.0).contains(&figures.p90), "{}", figures.p90);
    }
}
