//! `pool-restart`: the server is killed under load, again and again.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use ringbell::sync::{PlainBool, PlainU64};
use ringbell::{CallError, ConnectionPool, PoolCallError};

use super::Extent;
use super::figures::{Row, nanoseconds, percentile};
use super::processes::ServerProcess;
use super::requests::{TRANSPORTS, options, request, settings};
use crate::outcome::Outcome;

const CALLERS: u64 = 8;

pub(super) fn measure(extent: Extent, directory: &Path, rows: &mut Vec<Row>) -> Outcome<()> {
    for (name, transport) in TRANSPORTS {
        let path = directory.join(format!("restart-{name}"));
        let mut server = ServerProcess::start(&path, None)?;
        let pool = ConnectionPool::with_options(&path, options(transport), settings(2, 4))?;
        let stop = PlainBool::new(false);
        let (calls, lost, unsent) = (PlainU64::new(0), PlainU64::new(0), PlainU64::new(0));
        let mut recoveries = Vec::new();
        let wrong = thread::scope(|scope| -> Outcome<u64> {
            let callers: Vec<_> = (0..CALLERS)
                .map(|caller| {
                    let (pool, stop, calls, lost, unsent) = (&pool, &stop, &calls, &lost, &unsent);
                    scope.spawn(move || -> Result<u64, String> {
                        let (mut number, mut wrong) = (0, 0);
                        while !stop.load(Ordering::Relaxed) {
                            number += 1;
                            let request = request(caller, number);
                            match pool.call(&request) {
                                Ok(answer) => {
                                    wrong += u64::from(answer != request);
                                    calls.fetch_add(1, Ordering::Relaxed);
                                }
                                Err(PoolCallError::Call(
                                    CallError::Disconnected { maybe_executed }
                                    | CallError::ShutDown { maybe_executed },
                                )) => {
                                    let count = if maybe_executed { lost } else { unsent };
                                    count.fetch_add(1, Ordering::Relaxed);
                                }
                                Err(error) => return Err(error.to_string()),
                            }
                        }
                        Ok(wrong)
                    })
                })
                .collect();
            let killed = (0..extent.restarts).try_for_each(|_| -> Outcome<()> {
                more_than(&calls, calls.load(Ordering::Relaxed) + 200)?;
                server.0.kill()?;
                server.0.wait()?;
                server = ServerProcess::start(&path, None)?;
                // What is answered from now on is answered by this one.
                let before = calls.load(Ordering::Relaxed);
                let began = Instant::now();
                more_than(&calls, before)?;
                recoveries.push(nanoseconds(began.elapsed()));
                Ok(())
            });
            stop.store(true, Ordering::Relaxed);
            let mut wrong = 0;
            for caller in callers {
                wrong += caller.join().map_err(|_| "a caller panicked")??;
            }
            killed.map(|()| wrong)
        })?;
        recoveries.sort_unstable();
        rows.push(Row {
            scenario: "pool-restart",
            system: format!("pooled-{name}"),
            placement: "unpinned",
            p50_ns: percentile(&recoveries, 50),
            p99_ns: percentile(&recoveries, 99),
            per_second: None,
            ratio: None,
            remark: format!(
                "{} restarts; {} answers, {wrong} of them wrong; told as lost: {} maybe executed, {} not",
                extent.restarts,
                calls.load(Ordering::Relaxed),
                lost.load(Ordering::Relaxed),
                unsent.load(Ordering::Relaxed)
            ),
        });
        if wrong > 0 {
            return Err(format!("{wrong} wrong answers after restarts").into());
        }
    }
    Ok(())
}

fn more_than(count: &PlainU64, least: u64) -> Outcome<()> {
    let patience = Instant::now() + Duration::from_secs(60);
    while count.load(Ordering::Relaxed) <= least {
        if Instant::now() > patience {
            return Err("no caller gets an answer any more".into());
        }
        thread::sleep(Duration::from_micros(100));
    }
    Ok(())
}
