//! Loops in which messages follow each other without waiting for answers.

use std::time::Instant;

use super::{Caller, Figures, Meter, Start};
use crate::outcome::Outcome;
use crate::payload::Payload;
use crate::system::Client;

/// One call in so many is timed in pipelined cases. Prime, so that it meets every place in a
/// window.
const SAMPLE: u64 = 61;

/// Records between two readings of the clock in stream cases.
const STREAM_BATCH: u64 = 1 << 13;

/// Keeps up to `window` calls in flight: whenever half of them are answered, as many new ones go
/// out.
pub(super) fn pipelined(
    client: &mut dyn Client,
    caller: &mut Caller,
    window: u64,
    mut meter: Meter,
    start: Start<'_>,
) -> Outcome<Figures> {
    let mut pipe =
        Pipe { sent: 0, expected: Payload::new(caller.payload.bytes().len(), 0), sample: None };
    // Both payloads have the pattern of salt 0: there is one client.
    let warm = meter.warm_up_end();
    pipe.send(client, caller, window)?;
    while Instant::now() < warm {
        pipe.receive(client, caller, window / 2, None)?;
        pipe.send(client, caller, window / 2)?;
    }
    pipe.receive(client, caller, window, None)?;
    start()?;
    pipe.send(client, caller, window)?;
    meter.begin()?;
    while !meter.is_over() {
        pipe.receive(client, caller, window / 2, Some(&mut meter))?;
        pipe.send(client, caller, window / 2)?;
        meter.look();
    }
    let uncounted = window;
    let figures = meter.finish(uncounted)?;
    pipe.receive(client, caller, window, None)?;
    Ok(figures)
}

/// The state of a pipeline.
struct Pipe {
    sent: u64,
    expected: Payload,
    /// The call that is being timed, and when it was sent.
    sample: Option<(u64, Instant)>,
}

impl Pipe {
    fn send(&mut self, client: &mut dyn Client, caller: &mut Caller, count: u64) -> Outcome<()> {
        for _ in 0..count {
            self.sent += 1;
            if self.sent.is_multiple_of(SAMPLE) && self.sample.is_none() {
                self.sample = Some((self.sent, Instant::now()));
            }
            client.send(caller.payload.stamp(self.sent))?;
        }
        client.flush()
    }

    fn receive(
        &mut self,
        client: &mut dyn Client,
        caller: &mut Caller,
        count: u64,
        mut meter: Option<&mut Meter>,
    ) -> Outcome<()> {
        for _ in 0..count {
            client.receive(&mut caller.answer)?;
            caller.number += 1;
            if caller.answer != self.expected.stamp(caller.number) {
                return Err(format!("wrong answer to call {}", caller.number).into());
            }
            let sampled = self.sample.take_if(|(number, _)| *number == caller.number);
            if let Some(meter) = &mut meter {
                match sampled {
                    Some((_, begun)) => meter.single(begun)?,
                    None => meter.untimed(),
                }
            }
        }
        Ok(())
    }
}

/// Hands over `window` calls at once, and waits for all answers.
pub(super) fn batches(
    client: &mut dyn Client,
    caller: &mut Caller,
    window: u64,
    mut meter: Meter,
    start: Start<'_>,
) -> Outcome<Figures> {
    let size = caller.payload.bytes().len();
    // Both have the pattern of salt 0: there is one client.
    let mut requests: Vec<Payload> = (0..window).map(|_| Payload::new(size, 0)).collect();
    let mut batch =
        |client: &mut dyn Client, caller: &mut Caller, meter: Option<&mut Meter>| -> Outcome<()> {
            let numbers = caller.number + 1..=caller.number + window;
            let stamped: Vec<&[u8]> = requests
                .iter_mut()
                .zip(numbers)
                .map(|(payload, number)| payload.stamp(number))
                .collect();
            let begun = Instant::now();
            client.send_all(&stamped)?;
            for _ in 0..window {
                client.receive(&mut caller.answer)?;
                caller.stamp();
                caller.check()?;
            }
            meter.map_or(Ok(()), |meter| meter.batch(begun, window))
        };
    let warm = meter.warm_up_end();
    while Instant::now() < warm {
        batch(client, caller, None)?;
    }
    start()?;
    batch(client, caller, None)?;
    meter.begin()?;
    while !meter.is_over() {
        batch(client, caller, Some(&mut meter))?;
    }
    meter.finish(window)
}

/// Calls that each task makes between two readings of the clock: what it costs to start a task is
/// shared by so many.
const CALLS_OF_A_TASK: u64 = 16;

/// Many tasks, each of which calls again as soon as it is answered.
pub(super) fn tasks(
    client: &mut dyn Client,
    caller: &mut Caller,
    tasks: u64,
    mut meter: Meter,
    start: Start<'_>,
) -> Outcome<Figures> {
    let size = caller.payload.bytes().len();
    let mut payloads: Vec<Payload> = (0..tasks).map(|_| Payload::new(size, 0)).collect();
    let calls = tasks * CALLS_OF_A_TASK;
    let mut all = |client: &mut dyn Client, meter: Option<&mut Meter>| -> Outcome<()> {
        let begun = Instant::now();
        payloads =
            client.tasks(std::mem::take(&mut payloads), caller.number + 1, CALLS_OF_A_TASK)?;
        caller.number += calls;
        meter.map_or(Ok(()), |meter| meter.batch(begun, calls))
    };
    let warm = meter.warm_up_end();
    while Instant::now() < warm {
        all(client, None)?;
    }
    start()?;
    all(client, None)?;
    meter.begin()?;
    while !meter.is_over() {
        all(client, Some(&mut meter))?;
    }
    meter.finish(calls)
}

/// One-way messages.
pub(super) fn streamed(
    client: &mut dyn Client,
    caller: &mut Caller,
    mut meter: Meter,
    start: Start<'_>,
) -> Outcome<Figures> {
    let payload = &mut caller.payload;
    let mut first = 0;
    let mut send = |client: &mut dyn Client, payload: &mut Payload| -> Outcome<()> {
        client.stream(payload, first, STREAM_BATCH)?;
        first += STREAM_BATCH;
        Ok(())
    };
    let warm = meter.warm_up_end();
    while Instant::now() < warm {
        send(client, payload)?;
    }
    client.drain(payload)?;
    start()?;
    meter.begin()?;
    while !meter.is_over() {
        let begun = Instant::now();
        send(client, payload)?;
        meter.batch(begun, STREAM_BATCH)?;
    }
    client.drain(payload)?;
    meter.finish(0)
}
