//! `pool-acquire`: taking an item or a connection out of a pool and giving it back.

use std::convert::Infallible;
use std::hint::black_box;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use ringbell::pool::{Manager, Pool};
use ringbell::{ConnectionPool, TransportChoice};

use super::Extent;
use super::figures::{Found, Row, nanoseconds};
use super::processes::ServerProcess;
use super::requests::{options, settings};
use crate::outcome::Outcome;

/// Items about as large as a client.
struct Blocks;

impl Manager for Blocks {
    type Item = [u64; 128];
    type Error = Infallible;

    fn open(&self) -> Result<[u64; 128], Infallible> {
        Ok([7; 128])
    }
}

pub(super) fn measure(extent: Extent, directory: &Path, rows: &mut Vec<Row>) -> Outcome<()> {
    /// Operations between two readings of the clock.
    const BATCH: u32 = 1000;
    let (one, other) = (Mutex::new(1_u64), Mutex::new(2_u64));
    let pool = Pool::new(Blocks, settings(1, 2))?;
    drop((pool.acquire()?, pool.acquire()?));
    // Connections are judged each time, when they are taken and when they come back.
    let path = directory.join("acquire");
    let _server = ServerProcess::start(&path, None)?;
    let connections = ConnectionPool::with_options(
        &path,
        options(TransportChoice::SharedMemory),
        settings(1, 2),
    )?;
    drop((connections.acquire()?, connections.acquire()?));
    let (mut by_mutexes, mut by_pool, mut by_connections) =
        (Found::default(), Found::default(), Found::default());
    let batch = |operation: &mut dyn FnMut() -> Outcome<()>| -> Outcome<u64> {
        let from = Instant::now();
        for _ in 0..BATCH {
            operation()?;
        }
        Ok(nanoseconds(from.elapsed() / BATCH))
    };
    for _ in 0..extent.rounds {
        let (mut mutexes, mut pooled, mut connected) = (Vec::new(), Vec::new(), Vec::new());
        let began = Instant::now();
        for _ in 0..100 {
            mutexes.push(batch(&mut || {
                *black_box(&one).lock().map_err(|_| "poisoned")? += 1;
                *black_box(&other).lock().map_err(|_| "poisoned")? += 1;
                Ok(())
            })?);
            pooled.push(batch(&mut || {
                black_box(pool.acquire()?[0]);
                Ok(())
            })?);
            connected.push(batch(&mut || {
                black_box(connections.acquire()?.session());
                Ok(())
            })?);
        }
        by_mutexes.add(mutexes, began.elapsed());
        by_pool.add(pooled, began.elapsed());
        by_connections.add(connected, began.elapsed());
    }
    let mut row = by_mutexes.row("pool-acquire", "two-mutexes", "unpinned");
    row.per_second = None;
    let limit = row.p50_ns;
    rows.push(row);
    for (name, found) in [("pool", by_pool), ("connections", by_connections)] {
        let mut row = found.row("pool-acquire", name, "unpinned");
        row.per_second = None;
        row.ratio = Some(row.p50_ns / limit);
        rows.push(row);
    }
    Ok(())
}
