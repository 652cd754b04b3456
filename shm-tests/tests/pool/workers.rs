//! Workers that serve: killed, stopped, never ready, and left by their parent.

use crate::connections::{answered_by, serve};
use crate::{limit_descriptors, settings};
use ringbell::pool::{AcquireError, BuildError, Settings, SettingsError};
use ringbell::worker::{Attach, LineWorkers, SocketWorkers, WorkerCallError, line_workers};
use ringbell::{CallError, WorkerCommand, WorkerPool};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, Start, hear, say};
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::{done, observe, scaled, wait_until};
use rustix::process::{Pid, Signal};
use std::collections::BTreeSet;
use std::time::Duration;

/// A worker of this program: serves wherever its parent wants it to.
pub(crate) fn worker(arguments: &Arguments) {
    match arguments.get("kind") {
        Some("crash") => {
            eprintln!("first line");
            eprintln!("no such table: users");
            std::process::exit(3);
        }
        Some("mute") => std::thread::sleep(Duration::from_secs(600)),
        _ => {}
    }
    // A server needs a few more than its parent may have in one of the tests.
    limit_descriptors(None);
    serve(ringbell::Server::builder().for_parent().expect("a place to serve"));
}

pub(crate) fn worker_command() -> WorkerCommand {
    WorkerCommand::new(std::env::current_exe().expect("this program has a path"))
        .env("RINGBELL_TEST_ROLE", "worker")
        .env("RINGBELL_TEST_PARENT", std::process::id().to_string())
        .start_timeout(Duration::from_secs(30))
}

pub(crate) fn process(id: u32) -> Pid {
    i32::try_from(id).ok().and_then(Pid::from_raw).expect("a process id")
}

pub(crate) fn is_gone(id: u32) -> bool {
    observe::state(id).is_none()
}

/// Children of this process that have ended and were not waited for.
pub(crate) fn zombies() -> Vec<u32> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let children =
        tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let children: Vec<u32> = children
        .flat_map(|text| {
            text.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>()
        })
        .collect();
    children.into_iter().filter(|id| observe::state(*id) == Some('Z')).collect()
}

pub(crate) fn workers_are_replaced_when_they_die_or_hang() -> Ran {
    let rounds = scaled(20).max(4);
    let dir = tempfile::tempdir().expect("a directory");
    let command = worker_command().ping_timeout(Duration::from_millis(300));
    let interval = Some(Duration::from_millis(50));
    let pool = WorkerPool::new(
        command,
        dir.path(),
        Settings { health_check_interval: interval, ..settings(2, 4) },
    );
    let pool = pool.expect("a pool");
    let mut seen = BTreeSet::new();
    for round in 0..rounds {
        wait_until("workers are ready", || pool.stats().idle >= 2);
        let mut worker = pool.acquire().expect("a worker");
        seen.insert(worker.id());
        let id = worker.id();
        let signal = if round % 2 == 0 { Signal::KILL } else { Signal::STOP };
        match round % 4 {
            // Ready: it is found dead or stopped sooner or later, and replaced.
            0 | 1 => {
                drop(worker);
                rustix::process::kill_process(process(id), signal).expect("kill");
                wait_until("it is found out", || is_gone(id));
            }
            // In use, by its own doing.
            2 => {
                let error = worker.call(b"die", None).expect_err("it dies of it");
                match error {
                    WorkerCallError::Call {
                        error: CallError::Disconnected { maybe_executed: true },
                        printed,
                    } => {
                        assert_eq!(printed, ["dying as asked"]);
                    }
                    error => panic!("{error:?}"),
                }
                drop(worker);
            }
            // In use, and it does not answer.
            _ => {
                let error = worker.call(b"hang", Some(Duration::from_millis(20)));
                assert!(matches!(
                    error,
                    Err(WorkerCallError::Call { error: CallError::TimedOut { .. }, .. })
                ));
                drop(worker);
                assert!(is_gone(id), "a guard that is not clean takes its worker with it");
            }
        }
        // Whatever happens, calls are answered; the request goes to another worker if it was not
        // executed.
        let answer = pool.call(b"hello", Some(Duration::from_secs(30))).expect("an answer");
        answered_by(b"hello", &answer);
        wait_until("it is gone, and no zombie", || is_gone(id));
        tick();
    }
    wait_until("workers are ready", || pool.stats().idle >= 2);
    wait_until("no zombie is left", || zombies().is_empty());
    let stats = pool.stats();
    assert!(
        stats.closed.unhealthy > 0 && stats.closed.poisoned > 0 && stats.peak <= 4,
        "{stats:?}"
    );
    let worker = pool.acquire().expect("a worker");
    let id = worker.id();
    drop(worker);
    drop(pool);
    // The keeper may be checking its health at this moment, and closes it afterwards.
    wait_until("a pool that is dropped takes its workers with it", || is_gone(id));
    // One may have been starting when the pool was dropped.
    wait_until("their sockets are gone", || {
        std::fs::read_dir(dir.path()).expect("it").next().is_none()
    });
    wait_until("no zombie is left", || zombies().is_empty());
    done!("{rounds} workers killed, stopped, dead or hanging; {} opened", stats.opened)
}

pub(crate) fn workers_that_never_serve_say_why() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let short = Settings { acquire_timeout: Some(Duration::from_secs(2)), ..settings(0, 2) };
    let pool = |command| WorkerPool::new(command, dir.path(), short.clone()).expect("a pool");
    let error =
        pool(worker_command().arg("kind=crash")).acquire().map(drop).expect_err("it crashes");
    let failed = matches!(&error, AcquireError::TimedOut { cause } if cause.failure.is_some());
    assert!(failed, "{error:?}");
    let text = error.to_string();
    assert!(text.contains("first line") && text.contains("no such table: users"), "{text}");
    assert!(text.contains("exit status: 3"), "{text}");
    let mute = worker_command().arg("kind=mute").start_timeout(Duration::from_millis(100));
    let error = pool(mute).acquire().map(drop).expect_err("it never serves").to_string();
    assert!(error.contains("not ready after 100ms"), "{error}");
    // Trying again is of no use: told at once.
    let missing = WorkerPool::new(
        WorkerCommand::new("/nonexistent/program"),
        dir.path(),
        Settings { acquire_timeout: None, ..settings(0, 2) },
    );
    match missing.expect("a pool").acquire() {
        Err(AcquireError::Open(failure)) => {
            assert!(
                failure.to_string().contains("/nonexistent/program cannot be started"),
                "{failure}"
            );
        }
        other => panic!("{other:?}"),
    }
    wait_until("no zombie is left", || zombies().is_empty());
    let nonsense = WorkerPool::new(worker_command(), dir.path(), settings(3, 2)).map(drop);
    assert!(matches!(
        nonsense,
        Err(BuildError::Settings(SettingsError::MinIdleAboveMaxSize { .. }))
    ));
    done!("crashed, mute and missing")
}

/// Has workers of each kind, tells who they are, and waits for its end.
pub(crate) fn owner(arguments: &Arguments) {
    let pool =
        WorkerPool::new(worker_command(), arguments.text("dir"), settings(2, 4)).expect("a pool");
    let lines =
        line_workers(LineWorkers::new(WorkerCommand::new("cat")), settings(1, 2)).expect("a pool");
    let first = pool.acquire().expect("a worker");
    let second = pool.acquire().expect("another");
    let cat = lines.acquire().expect("a cat");
    say(&format!("workers {} {} {}", first.id(), second.id(), cat.id()));
    let _ = hear();
}

pub(crate) fn workers_die_with_their_parent() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let mut owner = Start::role("owner").with("dir", dir.path().display()).start();
    let workers: Vec<u32> =
        owner.expect("workers").split(' ').map(|id| id.parse().expect("an id")).collect();
    assert!(workers.iter().all(|id| !is_gone(*id)));
    owner.kill();
    for worker in &workers {
        // Whoever adopts it may take its time to wait for it.
        wait_until("it is dead", || matches!(observe::state(*worker), None | Some('Z')));
    }
    done!("{} workers of a parent that was killed", workers.len())
}

pub(crate) fn workers_outlive_the_thread_that_asked_for_them() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    // Kept or not: where nothing is kept, the caller's own thread opens them.
    for enabled in [true, false] {
        let pool =
            WorkerPool::new(worker_command(), dir.path(), Settings { enabled, ..settings(0, 1) });
        let pool = pool.expect("a pool");
        let asking = std::thread::spawn(move || pool.acquire().expect("a worker"));
        let mut worker = asking.join().expect("no panic");
        for _ in 0..20 {
            // The thread, and its pool, are gone.
            std::thread::sleep(Duration::from_millis(1));
            worker.call(b"x", None).expect("it lives on");
        }
        let id = worker.id();
        drop(worker);
        assert!(is_gone(id), "its pool was gone already");
    }
    done!("one that was kept, one that was not")
}

pub(crate) fn a_worker_that_inherits_its_socket() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let workers =
        SocketWorkers::new(worker_command(), dir.path(), "node:api").attach(Attach::Descriptor);
    let pool = WorkerPool::of(workers, settings(1, 2)).expect("a pool");
    for _ in 0..10 {
        pool.call(b"hello", None).expect("an answer");
    }
    let crashing = SocketWorkers::new(worker_command().arg("kind=crash"), dir.path(), "x");
    let short = Settings { acquire_timeout: Some(Duration::from_secs(2)), ..settings(0, 1) };
    let crashing = WorkerPool::of(crashing.attach(Attach::Descriptor), short).expect("a pool");
    let error = crashing.acquire().map(drop).expect_err("it crashes").to_string();
    assert!(error.contains("no such table"), "{error}");
    assert!(matches!(
        ringbell::Server::builder().for_parent().map(drop),
        Err(ringbell::BindError::NoSocketPassed)
    ));
    done!("10 calls")
}
