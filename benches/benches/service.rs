//! A service whose requests wait: the store of the example `world_state` with a pool of 16 threads,
//! called in its own process, and by a client process over shared memory and over the socket; alone
//! and with sixteen calls in flight. The server is this program once more. For regression work:
//! `race` has the same rows with rounds that interleave.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

#[path = "../src/pool.rs"]
mod pool;
#[allow(dead_code, reason = "the example's client uses the rest")]
#[path = "../../examples/world_state/world/mod.rs"]
mod world;

use criterion::{BenchmarkId, Criterion, Throughput};
use pool::{Pool, Queue};
use ringbell::{Client, ConnectOptions, OwnedRequest, Responder, Server, Task, TransportChoice};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use world::protocol::{Answer, Failure, Op, Request};
use world::serve::{Call, World};
use world::store::{Change, Limits, ROOT};

/// Tells this program to be the server, and where.
const SERVE: &str = "RINGBELL_BENCH_SERVE";
const THREADS: usize = 16;
const DEPTHS: [u64; 2] = [1, 16];
const KEY: &[u8] = b"key";
const VALUE: &[u8] = &[7; 64];

fn store() -> World {
    let pool = Pool::new(THREADS, || Ok(())).expect("a process may have a few threads");
    let world = World::new(Limits::default(), move |task: Task| pool.execute(move || task.run()));
    let answers = Arc::new(Queue::new());
    let write = Op::Write(vec![(KEY, Change::Put(VALUE))]);
    world.serve(Queued { request: encode(write, Duration::ZERO), answers: answers.clone() });
    assert!(matches!(Answer::decode(&answers.pop()), Some(Answer::Written { version: 1 })));
    world
}

fn encode(op: Op<'_>, take: Duration) -> Vec<u8> {
    let mut bytes = Vec::new();
    Request { fork: ROOT, take, op }.encode(&mut bytes);
    bytes
}

fn check(answer: &[u8]) {
    let values = vec![Some(VALUE)];
    assert_eq!(Answer::decode(answer), Some(Answer::Values { version: 1, values }));
}

struct Queued {
    request: Vec<u8>,
    answers: Arc<Queue<Vec<u8>>>,
}

impl Call for Queued {
    fn request(&self) -> &[u8] {
        &self.request
    }

    fn answer(self, answer: Result<&[u8], Failure>) {
        self.answers.push(answer.unwrap_or_default().to_vec());
    }
}

struct Asked(OwnedRequest, Responder);

impl Call for Asked {
    fn request(&self) -> &[u8] {
        self.0.payload()
    }

    fn answer(self, answer: Result<&[u8], Failure>) {
        match answer {
            Ok(answer) => self.1.reply(answer),
            Err(failure) => self.1.error(failure.to_string()),
        }
    }
}

/// Serves until standard input ends, which it does at the latest when the parent is gone.
fn serve(path: &Path) {
    let world = store();
    let server = Server::bind(path).expect("a socket in a directory of its own");
    let handle = server.handle();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        handle.shutdown(Some(Duration::ZERO));
    });
    server
        .run_reactor(|request, responder| world.serve(Asked(request, responder)))
        .expect("served");
}

struct Serving {
    child: Child,
    path: PathBuf,
}

impl Serving {
    fn start() -> Self {
        let directory =
            std::env::temp_dir().join(format!("ringbell-bench-service-{}", std::process::id()));
        let path = directory.join("service.sock");
        let child = Command::new(std::env::current_exe().expect("this program"))
            .env(SERVE, &path)
            .stdin(Stdio::piped())
            .spawn()
            .expect("this program runs");
        Self { child, path }
    }

    fn connect(&self, transport: TransportChoice) -> Client {
        ConnectOptions::new()
            .wait_for_server(true)
            .transport(transport)
            .connect(&self.path)
            .expect("it serves")
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
        let _ = self.path.parent().map(std::fs::remove_dir_all);
    }
}

fn in_process(criterion: &mut Criterion) {
    let world = store();
    let answers = Arc::new(Queue::new());
    let request = encode(Op::Read(vec![KEY]), Duration::from_micros(100));
    for depth in DEPTHS {
        measure(criterion, "in process", depth, || {
            for _ in 0..depth {
                world.serve(Queued { request: request.clone(), answers: answers.clone() });
            }
            (0..depth).for_each(|_| check(&answers.pop()));
        });
    }
}

fn across(criterion: &mut Criterion, name: &str, mut client: Client) {
    let request = encode(Op::Read(vec![KEY]), Duration::from_micros(100));
    for depth in DEPTHS {
        measure(criterion, name, depth, || {
            for _ in 0..depth {
                client.post(&request).expect("there is room");
            }
            client.flush();
            for _ in 0..depth {
                check(&client.recv(None).expect("answered").outcome.expect("no error"));
            }
        });
    }
}

/// `depth` requests at once, and all their answers.
fn measure(criterion: &mut Criterion, name: &str, depth: u64, mut burst: impl FnMut()) {
    let mut group = criterion.benchmark_group("world state, pool of 16");
    group.throughput(Throughput::Elements(depth));
    group.bench_function(BenchmarkId::new(name, depth), |b| b.iter(&mut burst));
    group.finish();
}

fn main() {
    if let Some(path) = std::env::var_os(SERVE) {
        return serve(Path::new(&path));
    }
    let mut criterion = Criterion::default().configure_from_args();
    in_process(&mut criterion);
    let serving = Serving::start();
    across(&mut criterion, "rings", serving.connect(TransportChoice::SharedMemory));
    across(&mut criterion, "socket", serving.connect(TransportChoice::Socket));
    criterion.final_summary();
}
