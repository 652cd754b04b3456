//! A forked child beside its parent's pool.

use crate::connections::{connections, start_server};
use crate::settings;
use crate::workers::worker_command;
use ringbell::pool::AcquireError;
use ringbell::sync::{Ordering, PlainBool};
use ringbell::worker::{LineWorkers, PoolsError, line_workers};
use ringbell::{CallError, PoolCallError, Pools, WorkerCommand, WorkerPool};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, Start, say};
use ringbell_shm_tests::{done, scaled, signals};
use std::path::Path;

pub(crate) fn forking(arguments: &Arguments) {
    let path = Path::new(arguments.text("path"));
    let pool = connections(path, settings(1, 4));
    let workers =
        WorkerPool::new(worker_command(), path.parent().expect("a directory"), settings(1, 2));
    let workers = workers.expect("a pool");
    let mut lines = Vec::new();
    for _ in 0..arguments.number("rounds") {
        let mut connection = pool.acquire().expect("a connection");
        connection.call(b"x").expect("an answer");
        let worker = workers.acquire().expect("a worker");
        let id = worker.id();
        let line = line_workers(LineWorkers::new(WorkerCommand::new("cat")), settings(1, 1))
            .expect("a pool");
        let mut cat = line.acquire().expect("a cat");
        cat.write_line("before", None).expect("it takes it");
        let mut parents = Some((connection, worker, cat));
        let has = &mut parents;
        let (pool_has, workers_have, line_has) = (&pool, &workers, &line);
        let status = signals::in_a_fork(move || {
            let refused = matches!(pool_has.acquire(), Err(AcquireError::Forked))
                && matches!(pool_has.call(b"x"), Err(PoolCallError::Call(CallError::Forked)))
                && matches!(workers_have.acquire(), Err(AcquireError::Forked))
                && matches!(line_has.try_acquire(), Err(AcquireError::Forked));
            // Guards, and clones of the pools: nothing of the parent's ends with them.
            drop(has.take());
            drop((workers_have.clone(), line_has.clone(), pool_has.pool().clone()));
            let _ = (pool_has.close(None), workers_have.close(None));
            u8::from(!refused)
        });
        assert_eq!(status, 0, "a forked child got something");
        let (mut connection, mut worker, mut cat) = parents.expect("this is the parent");
        connection.call(b"y").expect("the parent's session goes on");
        assert_eq!(worker.id(), id);
        worker.call(b"z", None).expect("the parent's worker goes on");
        assert_eq!(cat.read_line(None).expect("so does the cat"), "before");
        cat.complete();
        lines.push(line);
    }
    assert_eq!((pool.stats().closed.total(), workers.stats().closed.total()), (0, 0));
    say("done");
}

pub(crate) fn a_forked_child_touches_nothing() -> Ran {
    let rounds = scaled(10).max(2);
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("test.sock");
    let _server = start_server(&path);
    let mut process =
        Start::role("forking").with("path", path.display()).with("rounds", rounds).start();
    process.expect("done");
    process.succeed();
    done!("{rounds} children that dropped guards and pools")
}

/// Forks while another thread uses the pools of the process.
pub(crate) fn forking_global(arguments: &Arguments) {
    let pools = || Pools::new("/nonexistent", settings(0, 1));
    assert!(Pools::init(pools()).is_none());
    let stop = PlainBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                std::hint::black_box(Pools::global()).expect("they are there");
            }
        });
        for _ in 0..arguments.number("rounds") {
            let status = signals::in_a_fork(|| {
                let parents = Pools::global();
                let forked = parents.is_some_and(|parents| {
                    matches!(parents.acquire("a"), Err(PoolsError::Forked))
                        && parents.close(None).is_ok()
                        && parents.stats().is_empty()
                });
                let left_alone = Pools::shutdown(None).is_ok();
                // Its own, like those of any process.
                let first = Pools::init(pools()).is_none();
                let own = Pools::global().is_some_and(|own| {
                    matches!(own.acquire("a"), Err(PoolsError::UnknownWorker(_)))
                });
                u8::from(!(forked && left_alone && first && own))
            });
            assert_eq!(status, 0);
        }
        stop.store(true, Ordering::Relaxed);
    });
    let pools = Pools::global().expect("they are the parent's still");
    assert!(matches!(pools.acquire("a"), Err(PoolsError::UnknownWorker(_))));
    say("done");
}

pub(crate) fn a_forked_child_never_waits_for_the_pools_of_its_parent() -> Ran {
    let rounds = scaled(300).max(50);
    let mut process = Start::role("forking_global").with("rounds", rounds).start();
    process.expect("done");
    process.succeed();
    done!("{rounds} children of a busy parent")
}
