//! What a client does: sends requests, times each, and compares every answer.

use crate::Failure;
use crate::channel::{Call, Pipeline};
use crate::pattern::Message;
use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What to send.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) client: u32,
    pub(crate) size: usize,
    pub(crate) requests: u64,
    /// Requests in flight.
    pub(crate) pipeline: usize,
    /// Requests a second.
    pub(crate) paced: Option<u32>,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) requests: u64,
    pub(crate) verified: u64,
    /// CLOCK_MONOTONIC at the first request and after the last answer.
    pub(crate) started_ns: u64,
    pub(crate) ended_ns: u64,
    /// CPU time of this process meanwhile.
    pub(crate) cpu_ns: u64,
    pub(crate) max_ns: u64,
    /// Latencies in nanoseconds, and how many requests had each.
    pub(crate) latencies: Vec<(u64, u64)>,
}

/// Three digits, up to a minute.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds make sense")
}

fn read_clock(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000
        + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// CPU time of this process in nanoseconds.
pub(crate) fn cpu_ns() -> u64 {
    read_clock(ClockId::ProcessCPUTime)
}

/// What is measured while a load runs.
struct Meter {
    latencies: Histogram<u64>,
    requests: u64,
    verified: u64,
    max_ns: u64,
    started_ns: u64,
    cpu_before: u64,
}

impl Meter {
    fn start() -> Self {
        Self {
            latencies: histogram(),
            requests: 0,
            verified: 0,
            max_ns: 0,
            cpu_before: cpu_ns(),
            started_ns: read_clock(ClockId::Monotonic),
        }
    }

    #[inline]
    fn answered(&mut self, took: Duration, correct: bool) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.latencies.saturating_record(ns);
        self.max_ns = self.max_ns.max(ns);
        self.requests += 1;
        self.verified += u64::from(correct);
    }

    fn report(self) -> Report {
        Report {
            ended_ns: read_clock(ClockId::Monotonic),
            cpu_ns: cpu_ns() - self.cpu_before,
            requests: self.requests,
            verified: self.verified,
            started_ns: self.started_ns,
            max_ns: self.max_ns,
            latencies: self
                .latencies
                .iter_recorded()
                .map(|bucket| (bucket.value_iterated_to(), bucket.count_at_value()))
                .collect(),
        }
    }
}

/// Sends the requests one after the other.
pub(crate) fn one_by_one(channel: &mut impl Call, load: &Load) -> Result<Report, Failure> {
    let mut message = Message::new(load.client, load.size);
    let mut meter = Meter::start();
    let mut pace = load.paced.map(Pace::start);
    for sequence in 0..load.requests {
        message.stamp(sequence);
        let from = pace.as_mut().map_or_else(Instant::now, Pace::next);
        let answer = channel.call(message.bytes())?;
        let took = from.elapsed();
        let correct = answer == message.bytes();
        meter.answered(took, correct);
    }
    Ok(meter.report())
}

/// When requests are due.
struct Pace {
    due: Instant,
    every: Duration,
}

impl Pace {
    fn start(rate: u32) -> Self {
        Self { due: Instant::now(), every: Duration::from_secs(1) / rate }
    }

    /// Waits until the next request is due; from when it is to be timed. That the sleep takes
    /// longer than asked is not the transport's doing; that the answer before came too late is.
    fn next(&mut self) -> Instant {
        let due = self.due;
        self.due += self.every;
        match due.checked_duration_since(Instant::now()) {
            Some(early) => {
                std::thread::sleep(early);
                Instant::now()
            }
            None => due,
        }
    }
}

/// A request in flight.
struct Flying {
    ticket: u64,
    slot: usize,
    from: Instant,
}

/// Keeps `load.pipeline` requests in flight: sends as many as there is room for at once, waits for
/// an answer, and takes those that came with it.
pub(crate) fn pipelined(channel: &mut impl Pipeline, load: &Load) -> Result<Report, Failure> {
    let mut messages: Vec<_> =
        (0..load.pipeline).map(|_| Message::new(load.client, load.size)).collect();
    let mut free: Vec<usize> = (0..load.pipeline).rev().collect();
    let mut flying: VecDeque<Flying> = VecDeque::with_capacity(load.pipeline);
    let mut tickets = Vec::with_capacity(load.pipeline);
    let mut sequence = 0;
    let mut meter = Meter::start();
    while meter.requests < load.requests {
        let room = usize::try_from(load.requests - sequence)
            .map_or(free.len(), |left| left.min(free.len()));
        let slots = free.split_off(free.len() - room);
        for slot in &slots {
            messages[*slot].stamp(sequence);
            sequence += 1;
        }
        if !slots.is_empty() {
            tickets.clear();
            let from = Instant::now();
            channel.send(slots.iter().map(|slot| messages[*slot].bytes()), &mut tickets)?;
            flying.extend(tickets.iter().zip(slots).map(|(&ticket, slot)| Flying {
                ticket,
                slot,
                from,
            }));
        }
        let mut wait = true;
        while !flying.is_empty()
            && let Some((ticket, answer)) = channel.receive(wait)?
        {
            wait = false;
            let now = Instant::now();
            // In order from a serial server: the first.
            let at = flying.iter().position(|flying| flying.ticket == ticket);
            let request = at.and_then(|at| flying.remove(at)).ok_or("an answer to no request")?;
            meter.answered(now - request.from, answer == messages[request.slot].bytes());
            free.push(request.slot);
        }
    }
    Ok(meter.report())
}
