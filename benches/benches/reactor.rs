//! What it costs that answers may come later: an empty handler under the serial server, on the
//! reactor's own thread, and on a thread of a pool; alone and with sixteen calls in flight. Between
//! two threads of this process: for regression work; two processes are `race`'s business.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

#[path = "../src/pool.rs"]
mod pool;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pool::Pool;
use ringbell::{Client, OwnedRequest, Responder, ServeError, Server, ServerStats, Task};
use std::hint::black_box;

const IN_FLIGHT: u64 = 16;

/// How requests are served.
type Serve = fn(Server) -> Result<ServerStats, ServeError>;

fn answer(request: OwnedRequest, responder: Responder) {
    responder.reply(request.payload());
}

fn serial(server: Server) -> Result<ServerStats, ServeError> {
    server.run(|request, response| {
        response.extend_from_slice(request.payload());
        Ok(())
    })
}

fn inline(server: Server) -> Result<ServerStats, ServeError> {
    server.run_reactor(answer)
}

fn pooled(server: Server) -> Result<ServerStats, ServeError> {
    let pool = Pool::new(1, || Ok(())).map_err(ServeError::Io)?;
    server.run_on(move |task: Task| pool.execute(move || task.run()), answer)
}

/// Calls `measure` with a client of a server that serves so.
fn with_client(name: &str, serve: Serve, measure: impl FnOnce(&mut Client)) {
    let directory =
        std::env::temp_dir().join(format!("ringbell-bench-{name}-{}", std::process::id()));
    let path = directory.join("echo.sock");
    let server = Server::bind(&path).expect("a socket in a directory of its own");
    let handle = server.handle();
    let serving = std::thread::spawn(move || serve(server));
    let mut client = Client::connect(&path).expect("it listens");
    measure(&mut client);
    drop(client);
    handle.shutdown(None);
    serving.join().expect("no panic").expect("served");
    let _ = std::fs::remove_dir_all(directory);
}

fn reactor(c: &mut Criterion) {
    let ways: [(&str, Serve); 3] = [("serial", serial), ("inline", inline), ("pool", pooled)];
    let request = [7; 64];
    for (name, serve) in ways {
        with_client(name, serve, |client| {
            let mut group = c.benchmark_group("reactor, two threads");
            group.throughput(Throughput::Elements(1));
            group.bench_function(BenchmarkId::new(name, 1), |b| {
                b.iter(|| {
                    assert_eq!(
                        client.call(black_box(&request)).expect("answered").len(),
                        request.len()
                    )
                });
            });
            group.throughput(Throughput::Elements(IN_FLIGHT));
            group.bench_function(BenchmarkId::new(name, IN_FLIGHT), |b| {
                b.iter(|| {
                    for _ in 0..IN_FLIGHT {
                        client.post(black_box(&request)).expect("there is room");
                    }
                    client.flush();
                    for _ in 0..IN_FLIGHT {
                        let answer =
                            client.recv(None).expect("answered").outcome.expect("no error");
                        assert_eq!(answer.len(), request.len());
                    }
                });
            });
            group.finish();
        });
    }
}

criterion_group!(benches, reactor);
criterion_main!(benches);
