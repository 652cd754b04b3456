//! Loops in which the client does not call all the time.

use std::time::{Duration, Instant};

use rustix::thread::ClockId;
use rustix::time::clock_gettime;

use super::{Caller, Figures, Meter, Start, UNCOUNTED, in_nanoseconds, nanoseconds};
use crate::outcome::Outcome;
use crate::pause::{after, sleep, sleep_until};
use crate::system::Client;

/// Pause between the calls of paced cases, in nanoseconds.
const PACE_NS: i64 = 1_000_000;

/// Pause between the calls of the faster ones.
const FAST_PACE: Duration = Duration::from_micros(20);

/// How long everybody may take to fall asleep before idleness is measured, in nanoseconds.
const CALMING_NS: i64 = 20_000_000;

/// A call every millisecond, each timed from when it really began.
pub(super) fn paced(
    client: &mut dyn Client,
    caller: &mut Caller,
    mut meter: Meter,
    start: Start<'_>,
) -> Outcome<Figures> {
    for _ in 0..UNCOUNTED {
        caller.exchange(client)?;
    }
    start()?;
    meter.begin()?;
    let mut next = clock_gettime(ClockId::Monotonic);
    while !meter.is_over() {
        next = after(next, PACE_NS);
        sleep_until(next)?;
        caller.stamp();
        let begun = Instant::now();
        caller.call(client)?;
        meter.single(begun)?;
        caller.check()?;
    }
    meter.finish(0)
}

/// A call every 20 us, if the last one has been answered by then; else as soon as it is. The pauses
/// are spent spinning, and count neither as time nor as CPU time of a call.
pub(super) fn paced_fast(
    client: &mut dyn Client,
    caller: &mut Caller,
    mut meter: Meter,
    start: Start<'_>,
) -> Outcome<Figures> {
    let warm = meter.warm_up_end();
    while Instant::now() < warm || caller.number < UNCOUNTED {
        caller.exchange(client)?;
    }
    start()?;
    meter.begin()?;
    let mut paused = Duration::ZERO;
    let mut next = Instant::now();
    while !meter.is_over() {
        let free = Instant::now();
        let mut now = free;
        while now < next {
            std::hint::spin_loop();
            now = Instant::now();
        }
        paused += now - free;
        next = now.max(next) + FAST_PACE;
        caller.stamp();
        let begun = Instant::now();
        caller.call(client)?;
        meter.single(begun)?;
        caller.check()?;
    }
    let mut figures = meter.finish(0)?;
    figures.client_cpu = (figures.client_cpu - in_nanoseconds(nanoseconds(paused))).max(0.0);
    Ok(figures)
}

/// Nothing, and a call after it.
pub(super) fn idle(
    client: &mut dyn Client,
    caller: &mut Caller,
    mut meter: Meter,
    start: Start<'_>,
) -> Outcome<Figures> {
    for _ in 0..UNCOUNTED {
        caller.exchange(client)?;
    }
    start()?;
    sleep(CALMING_NS)?;
    meter.begin()?;
    let run = i64::try_from(meter.timing.run.as_nanos())?;
    let mut end = clock_gettime(ClockId::Monotonic);
    for _ in 0..run / PACE_NS {
        end = after(end, PACE_NS);
    }
    sleep_until(end)?;
    let quiet = meter.pause()?;
    caller.stamp();
    let begun = Instant::now();
    caller.call(client)?;
    meter.single(begun)?;
    caller.check()?;
    let mut figures = meter.finish(0)?;
    (figures.client_cpu, figures.server_cpu) = quiet;
    figures.operations = u64::try_from(run / PACE_NS)?.max(1);
    figures.since_start = figures.operations + u64::try_from(CALMING_NS / PACE_NS)?;
    Ok(figures)
}
