//! `pool-first`: a single request over a connection held open, out of a pool, and dialled for.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::Instant;

use ringbell::ConnectionPool;

use super::Extent;
use super::figures::{Found, Row, time};
use super::processes::ServerProcess;
use super::requests::{TRANSPORTS, options, request, settings, verify};
use crate::outcome::Outcome;
use crate::pin::{Cpus, pin};
use crate::scenario::Placement;

pub(super) fn measure(extent: Extent, directory: &Path, rows: &mut Vec<Row>) -> Outcome<()> {
    let cpus = Cpus::allowed()?;
    for (placement, place) in [("one-cpu", Placement::OneCpu), ("two-cpus", Placement::TwoCpus)] {
        if !cpus.allow(place) {
            continue;
        }
        let path = directory.join(placement);
        let _server = ServerProcess::start(&path, cpus.of_server(place).first().copied())?;
        let own = cpus.of_client(place);
        // On a thread of its own, which alone is pinned, with what it starts.
        let found = thread::scope(|scope| scope.spawn(|| first_on(own, extent, &path)).join());
        let (found, dials) = found.map_err(|_| "a thread panicked")??;
        for (transport, _) in TRANSPORTS {
            let held = found[&format!("held-{transport}")].median(|found| found.0);
            for kind in ["held", "pooled", "dialled"] {
                let name = format!("{kind}-{transport}");
                let mut row = found[&name].row("pool-first", &name, placement);
                row.ratio = Some(row.p50_ns / held);
                if kind == "pooled" {
                    row.remark = format!("{} dials while measuring", dials[transport]);
                }
                rows.push(row);
            }
        }
    }
    Ok(())
}

type First = (BTreeMap<String, Found>, BTreeMap<&'static str, u64>);

fn first_on(cpus: &[usize], extent: Extent, path: &Path) -> Outcome<First> {
    pin(cpus)?;
    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    let mut dials = BTreeMap::new();
    for (name, transport) in TRANSPORTS {
        let mut held = options(transport).connect(path)?;
        let pool = ConnectionPool::with_options(path, options(transport), settings(1, 2))?;
        // Both of them are there: nothing more is opened.
        drop((pool.acquire()?, pool.acquire()?));
        let opened = pool.stats().opened;
        let mut answer = Vec::new();
        for _ in 0..extent.rounds {
            // Small turns: the three are compared within the same moments.
            let (mut by_held, mut by_pool, mut by_dial) = (Vec::new(), Vec::new(), Vec::new());
            let began = Instant::now();
            for turn in 0..extent.requests / 10 {
                by_held.extend(
                    time(10, |number| {
                        let request = request(turn, number);
                        verify(&request, &held.call(&request)?)
                    })?
                    .0,
                );
                by_pool.extend(
                    time(10, |number| {
                        let request = request(turn, number);
                        pool.call_into(&request, &mut answer, None)?;
                        verify(&request, &answer)
                    })?
                    .0,
                );
                if turn % 10 == 0 {
                    by_dial.extend(
                        time(10, |number| {
                            let request = request(turn, number);
                            let mut client = options(transport).connect(path)?;
                            verify(&request, &client.call(&request)?)
                        })?
                        .0,
                    );
                }
            }
            let wall = began.elapsed();
            for (kind, times) in [("held", by_held), ("pooled", by_pool), ("dialled", by_dial)] {
                found.entry(format!("{kind}-{name}")).or_default().add(times, wall);
            }
        }
        dials.insert(name, pool.stats().opened - opened);
    }
    // These took turns: a rate says nothing.
    for found in found.values_mut() {
        found.0.iter_mut().for_each(|figures| figures.2 = 1e9 / figures.0);
    }
    Ok((found, dials))
}
