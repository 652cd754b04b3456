//! A round trip between two threads of this process, through the public interface. For regression
//! work; two processes, pinned and beside their limits, are `race`'s business.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringbell::{ConnectOptions, Server};
use std::hint::black_box;

fn round_trip(c: &mut Criterion) {
    let directory = std::env::temp_dir().join(format!("ringbell-bench-{}", std::process::id()));
    let path = directory.join("echo.sock");
    let server = Server::bind(&path).expect("a socket in a directory of its own");
    let handle = server.handle();
    let serving = std::thread::spawn(move || {
        server.run(|request, response| {
            response.extend_from_slice(request.payload());
            Ok(())
        })
    });
    let mut client = ConnectOptions::new().connect(&path).expect("it listens");
    let mut group = c.benchmark_group("round trip, two threads");
    for size in [0, 48, 64, 1024, 64 * 1024, 1 << 20] {
        let request = vec![7; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_with_input(BenchmarkId::from_parameter(size), &request, |b, request| {
            b.iter(|| {
                assert_eq!(client.call(black_box(request)).expect("answered").len(), request.len())
            });
        });
    }
    group.finish();
    drop(client);
    handle.shutdown(None);
    serving.join().expect("no panic").expect("served");
    let _ = std::fs::remove_dir_all(directory);
}

criterion_group!(benches, round_trip);
criterion_main!(benches);
