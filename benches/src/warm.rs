//! `race pool`: what warm pools cost and spare, with a server in a process of its own.
//!
//! | scenario | what it is |
//! |---|---|
//! | `pool-first` | one request over a connection held open, out of a warm pool, and over one that is dialled for it |
//! | `pool-callers` | 100 callers at once, with 16 connections and with one for each request |
//! | `pool-restart` | the server is killed under load, again and again |
//! | `pool-workers` | a worker that takes 300 ms to be ready: out of a warm pool, and started for each use |
//! | `pool-acquire` | taking an item or a connection out and giving it back, beside locking and unlocking two mutexes |
//!
//! Systems of a scenario take turns in every round, so that a slow minute falls on all of them; figures are medians over
//! the rounds. Every answer is compared with its request.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::hint::black_box;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use ringbell::pool::{Manager, Pool, Settings};
use ringbell::sync::{PlainBool, PlainU64};
use ringbell::{
    CallError, ConnectOptions, ConnectionPool, PoolCallError, Server, TransportChoice, WorkerCommand,
    WorkerPool,
};
use serde::Serialize;

use crate::outcome::Outcome;
use crate::pin::{Cpus, pin};
use crate::scenario::Placement;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    /// How often each row is measured.
    pub(crate) rounds: u32,
    /// Requests of a row and round.
    pub(crate) requests: u64,
    /// Times the server is killed.
    pub(crate) restarts: u32,
}

/// A row of the table. `None` where a figure makes no sense.
#[derive(Clone, Debug, Serialize)]
struct Row {
    scenario: &'static str,
    system: String,
    placement: &'static str,
    p50_ns: f64,
    p99_ns: f64,
    per_second: Option<f64>,
    /// How many times the p50 (or the part of the rate) of the row that this one is judged by.
    ratio: Option<f64>,
    remark: String,
}

/// Bytes of a request.
const SIZE: usize = 64;
/// The load of `pool-callers`.
const CALLERS: u64 = 100;
const CONNECTIONS: usize = 16;
/// The load of `pool-restart`.
const RESTART_CALLERS: u64 = 8;

// ---- the other processes ----

/// The server's process: echoes at `path` until it is killed.
pub(crate) fn serve(path: &Path, cpu: Option<usize>) -> Outcome<()> {
    live_with_the_parent()?;
    if let Some(cpu) = cpu {
        pin(&[cpu])?;
    }
    // As many come at once as there are callers.
    let server = Server::builder().max_clients(256).max_handshakes(128).bind(path)?;
    println!("ready");
    echo(server)
}

/// A worker that takes its time to be ready.
pub(crate) fn work() -> Outcome<()> {
    thread::sleep(Duration::from_millis(300));
    echo(Server::builder().for_parent()?)
}

fn echo(server: Server) -> Outcome<()> {
    server.run(|request, answer| {
        answer.extend_from_slice(request.payload());
        Ok(())
    })?;
    Ok(())
}

fn live_with_the_parent() -> Outcome<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?)
}

struct ServerProcess(Child);

impl ServerProcess {
    fn start(path: &Path, cpu: Option<usize>) -> Outcome<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.arg("pool-server").arg(path);
        if let Some(cpu) = cpu {
            command.arg("--cpu").arg(cpu.to_string());
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().ok_or("no pipe from the server")?;
        let process = Self(child);
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        if line.trim() == "ready" { Ok(process) } else { Err("the server is not ready".into()) }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

// ---- measuring ----

/// What was found of one row: p50, p99 and rate of each round.
#[derive(Default)]
struct Found(Vec<(f64, f64, f64)>);

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of one operation")]
fn percentile(sorted: &[u64], percent: usize) -> f64 {
    sorted[(sorted.len() - 1) * percent / 100] as f64
}

#[expect(clippy::cast_precision_loss, reason = "counts of a trial")]
impl Found {
    fn add(&mut self, mut times: Vec<u64>, wall: Duration) {
        times.sort_unstable();
        let rate = times.len() as f64 / wall.as_secs_f64();
        self.0.push((percentile(&times, 50), percentile(&times, 99), rate));
    }

    fn median(&self, of: impl Fn(&(f64, f64, f64)) -> f64) -> f64 {
        let mut figures: Vec<f64> = self.0.iter().map(of).collect();
        figures.sort_by(f64::total_cmp);
        figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn row(&self, scenario: &'static str, system: &str, placement: &'static str) -> Row {
        Row {
            scenario,
            system: system.to_owned(),
            placement,
            p50_ns: self.median(|found| found.0),
            p99_ns: self.median(|found| found.1),
            per_second: Some(self.median(|found| found.2)),
            ratio: None,
            remark: String::new(),
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Times `count` operations one by one.
fn time(count: u64, mut operation: impl FnMut(u64) -> Outcome<()>) -> Outcome<(Vec<u64>, Duration)> {
    let mut times = Vec::with_capacity(usize::try_from(count)?);
    let began = Instant::now();
    for number in 0..count {
        let from = Instant::now();
        operation(number)?;
        times.push(nanoseconds(from.elapsed()));
    }
    Ok((times, began.elapsed()))
}

fn request(caller: u64, number: u64) -> [u8; SIZE] {
    let mut request = [7; SIZE];
    request[..8].copy_from_slice(&caller.to_le_bytes());
    request[8..16].copy_from_slice(&number.to_le_bytes());
    request
}

fn verify(request: &[u8], answer: &[u8]) -> Outcome<()> {
    if request == answer { Ok(()) } else { Err("a wrong answer".into()) }
}

fn options(transport: TransportChoice) -> ConnectOptions {
    ConnectOptions::new().transport(transport)
}

const TRANSPORTS: [(&str, TransportChoice); 2] =
    [("shm", TransportChoice::SharedMemory), ("uds", TransportChoice::Socket)];

fn settings(min_idle: usize, max_size: usize) -> Settings {
    Settings { min_idle, max_size, acquire_timeout: Some(Duration::from_secs(60)), ..Settings::default() }
}

// ---- the scenarios ----

fn first(extent: Extent, directory: &Path, rows: &mut Vec<Row>) -> Outcome<()> {
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

fn callers(extent: Extent, directory: &Path, rows: &mut Vec<Row>) -> Outcome<()> {
    let path = directory.join("callers");
    let _server = ServerProcess::start(&path, None)?;
    let each = (extent.requests / 20).max(5);
    for (name, transport) in TRANSPORTS {
        let (mut pooled, mut dialled) = (Found::default(), Found::default());
        let mut remark = String::new();
        for _ in 0..extent.rounds {
            let pool = ConnectionPool::with_options(&path, options(transport), settings(0, CONNECTIONS))?;
            let (times, wall) = crowd(each, |request| Ok(pool.call(request)?))?;
            pooled.add(times, wall);
            let stats = pool.stats();
            if stats.opened != CONNECTIONS as u64 {
                return Err(format!("{} dials for {CONNECTIONS} connections", stats.opened).into());
            }
            remark = format!("{} dials; waited p99 {:.1?}", stats.opened, stats.wait_times.percentile(99.0));
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
fn crowd(each: u64, call: impl Fn(&[u8]) -> Outcome<Vec<u8>> + Sync) -> Outcome<(Vec<u64>, Duration)> {
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

fn restart(extent: Extent, directory: &Path, rows: &mut Vec<Row>) -> Outcome<()> {
    for (name, transport) in TRANSPORTS {
        let path = directory.join(format!("restart-{name}"));
        let mut server = ServerProcess::start(&path, None)?;
        let pool = ConnectionPool::with_options(&path, options(transport), settings(2, 4))?;
        let stop = PlainBool::new(false);
        let (calls, lost, unsent) = (PlainU64::new(0), PlainU64::new(0), PlainU64::new(0));
        let mut recoveries = Vec::new();
        let wrong = thread::scope(|scope| -> Outcome<u64> {
            let callers: Vec<_> = (0..RESTART_CALLERS)
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

fn workers(extent: Extent, directory: &Path, rows: &mut Vec<Row>) -> Outcome<()> {
    let command = || WorkerCommand::new("/proc/self/exe").arg("pool-worker");
    let (mut warm, mut spawned) = (Found::default(), Found::default());
    let pool = WorkerPool::new(command(), directory, settings(1, 1))?;
    let per_use = WorkerPool::new(command(), directory, Settings { enabled: false, ..settings(0, 1) })?;
    drop(pool.acquire()?);
    for _ in 0..extent.rounds {
        let (times, wall) = time(extent.requests / 10, |number| {
            let mut worker = pool.acquire()?;
            // Used, so that it is not the same untouched one every time; not timed beside the others.
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
    "acquire, use nothing, release; the worker takes 300 ms to be ready".clone_into(&mut row.remark);
    rows.push(row);
    Ok(())
}

/// Items about as large as a client.
struct Blocks;

impl Manager for Blocks {
    type Item = [u64; 128];
    type Error = Infallible;

    fn open(&self) -> Result<[u64; 128], Infallible> {
        Ok([7; 128])
    }
}

fn acquire(extent: Extent, directory: &Path, rows: &mut Vec<Row>) -> Outcome<()> {
    /// Operations between two readings of the clock.
    const BATCH: u32 = 1000;
    let (one, other) = (Mutex::new(1_u64), Mutex::new(2_u64));
    let pool = Pool::new(Blocks, settings(1, 2))?;
    drop((pool.acquire()?, pool.acquire()?));
    // Connections are judged each time, when they are taken and when they come back.
    let path = directory.join("acquire");
    let _server = ServerProcess::start(&path, None)?;
    let connections =
        ConnectionPool::with_options(&path, options(TransportChoice::SharedMemory), settings(1, 2))?;
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

/// Measures all of it, or the scenarios whose name contains one of `only`; the table, and the rows as JSON.
pub(crate) fn run(extent: Extent, only: &[String]) -> Outcome<(String, String)> {
    let directory = Directory::new()?;
    let mut rows = Vec::new();
    let wanted = |name: &str| only.is_empty() || only.iter().any(|pattern| name.contains(pattern.as_str()));
    if wanted("pool-acquire") {
        acquire(extent, &directory.0, &mut rows)?;
    }
    if wanted("pool-first") {
        first(extent, &directory.0, &mut rows)?;
    }
    if wanted("pool-callers") {
        callers(extent, &directory.0, &mut rows)?;
    }
    if wanted("pool-workers") {
        workers(extent, &directory.0, &mut rows)?;
    }
    if wanted("pool-restart") {
        restart(extent, &directory.0, &mut rows)?;
    }
    Ok((table(&rows), serde_json::to_string_pretty(&rows)? + "\n"))
}

fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<13} {:<12} {:<9} {:>11} {:>11} {:>10} {:>8}  {}\n",
        "scenario", "system", "CPUs", "p50 us", "p99 us", "per s", "ratio", "remark"
    );
    let maybe = |figure: Option<f64>, digits: usize| {
        figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.digits$}"))
    };
    for row in rows {
        text += &format!(
            "{:<13} {:<12} {:<9} {:>11.3} {:>11.3} {:>10} {:>8}  {}\n",
            row.scenario,
            row.system,
            row.placement,
            row.p50_ns / 1000.0,
            row.p99_ns / 1000.0,
            maybe(row.per_second, 0),
            maybe(row.ratio, 2),
            row.remark
        );
    }
    text
}

/// A directory for the sockets, which goes with this value.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Outcome<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let path = std::env::temp_dir().join(format!("ringbell-race-pool-{}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
