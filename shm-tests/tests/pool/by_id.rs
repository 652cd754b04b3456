//! Pools by id, and a worker for each use.

use crate::connections::answered_by;
use crate::settings;
use crate::workers::{is_gone, worker_command};
use ringbell::pool::{AcquireError, Settings};
use ringbell::worker::{LineWorkers, PoolsError, WorkerSpec};
use ringbell::{Pools, WorkerCommand, WorkerPool};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::{done, wait_until};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

pub(crate) fn pools_by_id() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let sockets = dir.path().join("made");
    let pools = Pools::new(&sockets, settings(1, 2)).create_directory(true);
    pools.define("node:api", worker_command()).expect("it is new");
    pools
        .define_with(
            "cat",
            WorkerSpec::Lines(LineWorkers::new(WorkerCommand::new("cat"))),
            settings(0, 1),
        )
        .expect("new");
    assert!(
        matches!(pools.define("cat", worker_command()), Err(PoolsError::DefinedTwice(id)) if id == "cat")
    );
    assert!(matches!(pools.acquire("nobody"), Err(PoolsError::UnknownWorker(_))));
    assert!(pools.stats().is_empty() && !sockets.exists(), "nothing is made before it is used");
    assert!(Pools::init(pools).is_none());
    let ids = Mutex::new(BTreeSet::new());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let pools = Pools::global().expect("they are there");
                for _ in 0..20 {
                    let mut worker = pools.acquire("node:api").expect("a worker");
                    answered_by(b"x", &worker.call(b"x", None).expect("an answer"));
                    ids.lock().expect("no panic").insert(worker.id());
                }
                let mut cat = pools.acquire_line("cat").expect("a cat");
                cat.write_line("miaow", None).expect("it takes it");
                assert_eq!(cat.read_line(None).expect("a line"), "miaow");
                cat.complete();
            });
        }
    });
    let pools = Pools::global().expect("they are there");
    assert!(matches!(pools.acquire_line("node:api"), Err(PoolsError::OtherKind(_))));
    let stats = pools.stats();
    assert_eq!(stats.keys().collect::<Vec<_>>(), ["cat", "node:api"]);
    assert_eq!(stats["cat"].opened, 1);
    assert!(stats["node:api"].peak <= 2);
    let held = pools.acquire("node:api").expect("a worker");
    let left = Pools::shutdown(Some(Duration::ZERO)).expect_err("one is in use");
    assert_eq!(left.in_use, 1);
    assert!(Pools::global().is_none());
    assert!(matches!(pools.acquire("node:api"), Err(PoolsError::Closed)));
    drop(held);
    let ids = ids.into_inner().expect("no panic");
    for id in &ids {
        wait_until("its worker is gone", || is_gone(*id));
    }
    done!("{} workers of one id, one cat", ids.len())
}

pub(crate) fn spawn_per_use() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let pool = WorkerPool::new(
        worker_command(),
        dir.path(),
        Settings { enabled: false, ..settings(2, 3) },
    );
    let pool = pool.expect("a pool");
    let ids = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..2 {
                    let mut worker = pool.acquire().expect("a worker");
                    worker.call(b"x", None).expect("an answer");
                    ids.lock().expect("no panic").push(worker.id());
                }
            });
        }
    });
    let mut ids = ids.into_inner().expect("no panic");
    let stats = pool.stats();
    assert_eq!((stats.opened, stats.closed.used, stats.idle), (12, 12, 0));
    assert!(stats.peak <= 3, "{stats:?}");
    assert!(ids.iter().all(|id| is_gone(*id)));
    ids.sort_unstable();
    ids.dedup();
    let missing = WorkerPool::new(
        WorkerCommand::new("/nonexistent/program"),
        dir.path(),
        Settings { enabled: false, ..settings(0, 1) },
    );
    assert!(matches!(missing.expect("a pool").acquire(), Err(AcquireError::Open(_))));
    done!("12 uses, {} processes, 3 at most at once", ids.len())
}
