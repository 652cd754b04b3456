//! `pool-workers`: a worker that takes long to be ready, out of a pool and started for each use.

use std::path::Path;

use ringbell::pool::Settings;
use ringbell::{WorkerCommand, WorkerPool};

use super::Extent;
use super::figures::{Found, Row, time};
use super::requests::{request, settings, verify};
use crate::outcome::Outcome;

pub(super) fn measure(extent: Extent, directory: &Path, rows: &mut Vec<Row>) -> Outcome<()> {
    let command = || WorkerCommand::new("/proc/self/exe").arg("pool-worker");
    let (mut warm, mut spawned) = (Found::default(), Found::default());
    let pool = WorkerPool::new(command(), directory, settings(1, 1))?;
    let per_use =
        WorkerPool::new(command(), directory, Settings { enabled: false, ..settings(0, 1) })?;
    drop(pool.acquire()?);
    for _ in 0..extent.rounds {
        let (times, wall) = time(extent.requests / 10, |number| {
            let mut worker = pool.acquire()?;
            // Used, so that it is not the same untouched one every time; not timed beside the
            // others.
            if number % 64 == 0 {
                let request = request(0, number);
                verify(&request, &worker.call(&request, None)?)?;
            }
            Ok(())
        })?;
        warm.add(times, wall);
        let (times, wall) = time(2, |_| {
            drop(per_use.acquire()?);
            Ok(())
        })?;
        spawned.add(times, wall);
    }
    rows.push(warm.row("pool-workers", "warm", "unpinned"));
    let mut row = spawned.row("pool-workers", "spawned", "unpinned");
    row.ratio = Some(row.p50_ns / warm.median(|found| found.0));
    "acquire, use nothing, release; the worker takes 300 ms to be ready"
        .clone_into(&mut row.remark);
    rows.push(row);
    Ok(())
}
