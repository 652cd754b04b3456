//! `pool-callers`: many callers at once, with few connections and with one for each request.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use ringbell::ConnectionPool;

use super::Extent;
use super::figures::{Found, Row, time};
use super::processes::ServerProcess;
use super::requests::{TRANSPORTS, options, request, settings, verify};
use crate::outcome::Outcome;

const CALLERS: u64 = 100;
const CONNECTIONS: usize = 16;

pub(super) fn measure(extent: Extent, directory: &Path, rows: &mut Vec<Row>) -> Outcome<()> {
    let path = directory.join("callers");
    let _server = ServerProcess::start(&path, None)?;
    let each = (extent.requests / 20).max(5);
    for (name, transport) in TRANSPORTS {
        let (mut pooled, mut dialled) = (Found::default(), Found::default());
        let mut remark = String::new();
        for _ in 0..extent.rounds {
            let pool =
                ConnectionPool::with_options(&path, options(transport), settings(0, CONNECTIONS))?;
            let (times, wall) = crowd(each, |request| Ok(pool.call(request)?))?;
            pooled.add(times, wall);
            let stats = pool.stats();
            if stats.opened != CONNECTIONS as u64 {
                return Err(format!("{} dials for {CONNECTIONS} connections", stats.opened).into());
            }
            remark = format!(
                "{} dials; waited p99 {:.1?}",
                stats.opened,
                stats.wait_times.percentile(99.0)
            );
            drop(pool);
            // A caller who is turned away at the door comes again.
            let (times, wall) = crowd((each / 4).max(2), |request| {
                loop {
                    match options(transport).connect(&path) {
                        Ok(mut client) => return Ok(client.call(request)?.to_vec()),
                        Err(ringbell::ConnectError::Rejected(
                            ringbell::RejectReason::TooManyHandshakes { .. }
                            // Those who have hung up count until the server has noticed.
                            | ringbell::RejectReason::TooManyClients { .. },
                        )) => {
                            thread::yield_now();
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
            })?;
            dialled.add(times, wall);
        }
        let mut row = pooled.row("pool-callers", &format!("pooled-{name}"), "unpinned");
        row.remark = remark;
        rows.push(row);
        let mut row = dialled.row("pool-callers", &format!("dialled-{name}"), "unpinned");
        row.ratio = Some(pooled.median(|found| found.2) / dialled.median(|found| found.2));
        "ratio: how many times its rate the pool has".clone_into(&mut row.remark);
        rows.push(row);
    }
    Ok(())
}

/// All callers at once, each with so many requests, timed one by one.
fn crowd(
    each: u64,
    call: impl Fn(&[u8]) -> Outcome<Vec<u8>> + Sync,
) -> Outcome<(Vec<u64>, Duration)> {
    let began = Instant::now();
    let times = thread::scope(|scope| -> Outcome<Vec<u64>> {
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let call = &call;
                scope.spawn(move || {
                    time(each, |number| {
                        let request = request(caller, number);
                        verify(&request, &call(&request)?)
                    })
                })
            })
            .collect();
        let mut all = Vec::new();
        for caller in callers {
            all.extend(caller.join().map_err(|_| "a caller panicked")??.0);
        }
        Ok(all)
    })?;
    Ok((times, began.elapsed()))
}
