//! What a pool costs: taking a ready item out and giving it back, beside locking and unlocking two
//! mutexes; and what it spares: the first call over a connection that is ready, beside one over a
//! connection held open, and beside dialling. Between threads of this process: for regression work;
//! two processes are `race`'s business.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use criterion::{Criterion, criterion_group, criterion_main};
use ringbell::pool::{Manager, Pool, Settings};
use ringbell::{Client, ConnectOptions, ConnectionPool, Server, TransportChoice};
use std::convert::Infallible;
use std::hint::black_box;
use std::path::Path;
use std::sync::Mutex;

/// Items about as large as a client.
struct Blocks;

impl Manager for Blocks {
    type Item = [u64; 128];
    type Error = Infallible;

    fn open(&self) -> Result<[u64; 128], Infallible> {
        Ok([7; 128])
    }
}

fn settings(min_idle: usize, max_size: usize) -> Settings {
    Settings { min_idle, max_size, ..Settings::default() }
}

fn acquire(c: &mut Criterion) {
    let mut group = c.benchmark_group("pool, acquire and release");
    let (one, other) = (Mutex::new(1_u64), Mutex::new(2_u64));
    group.bench_function("two mutexes", |b| {
        b.iter(|| {
            *black_box(&one).lock().expect("sound") += 1;
            *black_box(&other).lock().expect("sound") += 1;
        });
    });
    let pool = Pool::new(Blocks, settings(1, 2)).expect("a pool");
    // Both there: nothing more is opened.
    let both = (pool.acquire().expect("ready"), pool.acquire().expect("ready"));
    drop(both);
    group.bench_function("pool", |b| {
        b.iter(|| black_box(pool.acquire().expect("ready")[0]));
    });
    let opened = pool.stats().opened;
    assert_eq!(opened, 2, "nothing was opened meanwhile");
    group.finish();
}

/// Calls `measure` with the path of a server that echoes.
fn with_server(measure: impl FnOnce(&Path)) {
    let directory =
        std::env::temp_dir().join(format!("ringbell-bench-pool-{}", std::process::id()));
    let path = directory.join("echo.sock");
    let server = Server::bind(&path).expect("a socket in a directory of its own");
    let handle = server.handle();
    let serving = std::thread::spawn(move || {
        server.run(|request, response| {
            response.extend_from_slice(request.payload());
            Ok(())
        })
    });
    measure(&path);
    handle.shutdown(None);
    serving.join().expect("no panic").expect("served");
    let _ = std::fs::remove_dir_all(directory);
}

fn calls(c: &mut Criterion) {
    with_server(|path| {
        let request = [7; 64];
        for (name, transport) in
            [("shm", TransportChoice::SharedMemory), ("uds", TransportChoice::Socket)]
        {
            let mut group = c.benchmark_group(format!("pool, calls over {name}"));
            let options = || ConnectOptions::new().transport(transport);
            let mut client = options().connect(path).expect("it listens");
            group.bench_function("held open", |b| {
                b.iter(|| {
                    assert_eq!(client.call(black_box(&request)).expect("answered").len(), 64)
                });
            });
            drop(client);
            let pool =
                ConnectionPool::with_options(path, options(), settings(1, 2)).expect("a pool");
            drop((pool.acquire().expect("ready"), pool.acquire().expect("ready")));
            let mut answer = Vec::new();
            group.bench_function("pooled", |b| {
                b.iter(|| {
                    pool.call_into(black_box(&request), &mut answer, None).expect("answered")
                });
            });
            assert_eq!(pool.stats().opened, 2, "nobody dialled meanwhile");
            drop(pool);
            group.bench_function("dialled", |b| {
                b.iter(|| {
                    let mut client: Client = options().connect(path).expect("it listens");
                    assert_eq!(client.call(black_box(&request)).expect("answered").len(), 64);
                });
            });
            group.finish();
        }
    });
}

criterion_group!(benches, acquire, calls);
criterion_main!(benches);
