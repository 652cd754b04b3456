//! A process that runs out of descriptors.

use crate::connections::{connections, start_server};
use crate::workers::worker_command;
use crate::{limit_descriptors, settings};
use ringbell::pool::{AcquireError, Settings};
use ringbell::{PoolCallError, WorkerPool};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, Start, say};
use ringbell_shm_tests::{done, observe};
use std::path::Path;
use std::time::{Duration, Instant};

fn open_all_but(spare: usize) -> Vec<std::fs::File> {
    let mut files = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        files.push(file);
    }
    files.truncate(files.len().saturating_sub(spare));
    files
}

pub(crate) fn exhausted(arguments: &Arguments) {
    let path = Path::new(arguments.text("path"));
    limit_descriptors(Some(32));
    let pool = connections(
        path,
        Settings { acquire_timeout: Some(Duration::from_millis(300)), ..settings(0, 4) },
    );
    let first = pool.acquire().expect("descriptors are left");
    let files = open_all_but(0);
    match pool.acquire() {
        Err(AcquireError::TimedOut { cause }) => {
            assert!(cause.to_string().contains("descriptor"), "{cause}");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(pool.call(b"x"), Err(PoolCallError::Acquire(AcquireError::TimedOut { .. }))));
    assert!(pool.stats().open_failures > 0);
    drop(first);
    for _ in 0..100 {
        pool.call(b"x").expect("the connection that is there goes on");
    }
    let first = pool.acquire().expect("it is ready");
    drop(files);
    // The next attempt may be put off by more than the usual timeout.
    let late = || Some(Instant::now() + Duration::from_secs(20));
    let second = pool.pool().acquire_deadline(late()).expect("descriptors are back");
    drop((first, second));
    // Workers need several: they fail as cleanly, and leave nothing behind.
    let files = open_all_but(3);
    let before = observe::descriptors(std::process::id());
    let workers = WorkerPool::new(
        worker_command(),
        path.parent().expect("a directory"),
        Settings { acquire_timeout: Some(Duration::from_millis(300)), ..settings(0, 2) },
    );
    let workers = workers.expect("a pool");
    assert!(matches!(
        workers.acquire(),
        Err(AcquireError::TimedOut { cause }) if cause.failure.is_some()
    ));
    drop(files);
    let worker = workers.pool().acquire_deadline(late()).expect("descriptors are back");
    drop(worker);
    drop(workers);
    pool.close(None).expect("nothing is in use");
    drop(pool);
    // What is left is the thread that starts workers: its bell and its poll.
    let left = observe::descriptors(std::process::id());
    assert!(
        left <= before,
        "{left} descriptors are left: {:?}",
        observe::descriptor_targets(std::process::id())
    );
    say("done");
}

pub(crate) fn descriptors_that_run_out() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("test.sock");
    let _server = start_server(&path);
    let mut process = Start::role("exhausted").with("path", path.display()).start();
    process.expect("done");
    process.succeed();
    done!("errors of connections and of workers, and recovery")
}
