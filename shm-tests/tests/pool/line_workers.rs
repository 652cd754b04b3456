//! Workers that speak lines.

use crate::settings;
use crate::workers::{is_gone, zombies};
use ringbell::WorkerCommand;
use ringbell::pool::{AcquireError, Settings};
use ringbell::worker::{LineError, LineWorkers, line_workers};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::{done, wait_until};
use std::time::Duration;

pub(crate) fn shell(script: &str) -> LineWorkers {
    LineWorkers::new(WorkerCommand::new("sh").args(["-c", script]))
}

pub(crate) fn line_workers_and_their_answers() -> Ran {
    let soon = Some(Duration::from_secs(30));
    let script = r#"echo starting; echo go; while read -r n; do i=0; while [ $i -lt $n ]; do echo "line $i in $HERE at $PWD"; i=$((i+1)); done; echo .; done"#;
    let command =
        WorkerCommand::new("sh").args(["-c", script]).env("HERE", "this test").current_dir("/");
    let pool =
        line_workers(LineWorkers::new(command).ready_line("go"), settings(1, 1)).expect("a pool");
    let mut worker = pool.acquire().expect("a shell");
    let id = worker.id();
    // An answer of known length, said to be complete.
    worker.write_line("1", soon).expect("it takes it");
    assert_eq!(worker.read_line(soon).expect("a line"), "line 0 in this test at /");
    assert_eq!(worker.read_line(soon).expect("a line"), ".");
    worker.complete();
    drop(worker);
    // A long one, until its end is recognised.
    let mut worker = pool.acquire().expect("the same");
    assert_eq!(worker.id(), id);
    worker.write_line("5000", soon).expect("it takes it");
    let mut count = 0;
    worker
        .read_until(soon, |line| {
            count += usize::from(line != ".");
            line == "."
        })
        .expect("to its end");
    assert_eq!(count, 5000);
    drop(worker);
    let mut worker = pool.acquire().expect("the same");
    assert_eq!(worker.id(), id);
    // Half read: never used again.
    worker.write_line("3", soon).expect("it takes it");
    assert!(worker.read_line(soon).expect("a line").starts_with("line 0"));
    drop(worker);
    assert!(is_gone(id));
    let worker = pool.acquire().expect("another one");
    assert_ne!(worker.id(), id);
    drop(worker);
    // Said to be complete, and it is not: more has come.
    let pool = line_workers(shell(r"while read -r x; do printf '1\n2\n'; done"), settings(1, 1))
        .expect("a pool");
    let mut worker = pool.acquire().expect("a shell");
    let id = worker.id();
    worker.write_line("x", soon).expect("it takes it");
    assert_eq!(worker.read_line(soon).expect("a line"), "1");
    worker.complete();
    drop(worker);
    assert_ne!(pool.acquire().expect("another one").id(), id);
    done!("5000 lines; 2 killed in the middle of an answer")
}

pub(crate) fn line_workers_that_misbehave() -> Ran {
    let soon = Some(Duration::from_secs(30));
    let quick = Some(Duration::from_millis(20));
    // Says nothing.
    let pool = line_workers(shell("sleep 600"), settings(0, 1)).expect("a pool");
    let mut worker = pool.acquire().expect("a shell");
    assert!(matches!(worker.read_line(quick), Err(LineError::TimedOut)));
    assert!(matches!(worker.write_line("two\nlines", soon), Err(LineError::NotALine)));
    // Takes nothing: the pipe is full some time.
    let full = worker.write_line(vec![b'x'; 1 << 20], quick);
    assert!(matches!(full, Err(LineError::TimedOut)), "{full:?}");
    worker.complete();
    drop(worker);
    assert_eq!(pool.stats().closed.poisoned, 1, "a part of a line was written");
    // Ends in the middle, and says why.
    let pool =
        line_workers(shell("read x; echo half; echo 'out of cheese' >&2; exit 4"), settings(0, 1));
    let pool = pool.expect("a pool");
    let mut worker = pool.acquire().expect("a shell");
    worker.write_line("x", soon).expect("it takes it");
    match worker.read_until(soon, |_| false) {
        Err(LineError::Ended { printed }) => assert_eq!(printed, ["out of cheese"]),
        other => panic!("{other:?}"),
    }
    drop(worker);
    // Says a line without an end, and what is no text.
    let endless = shell("while :; do printf xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done")
        .max_line(10_000);
    let pool = line_workers(endless, settings(0, 1)).expect("a pool");
    assert!(matches!(
        pool.acquire().map(|mut w| w.read_line(soon)),
        Ok(Err(LineError::TooLong { max: 10_000 })) | Err(AcquireError::TimedOut { .. })
    ));
    let pool =
        line_workers(shell(r"read x; printf '\377\n'; sleep 600"), settings(0, 1)).expect("a pool");
    let mut worker = pool.acquire().expect("a shell");
    worker.write_line("x", soon).expect("it takes it");
    assert!(matches!(worker.read_line(soon), Err(LineError::NotText)));
    drop(worker);
    // Does not become ready, and is healthy only while it answers.
    let command = WorkerCommand::new("sh").args(["-c", "exec sleep 600"]);
    let never = LineWorkers::new(command.start_timeout(Duration::from_millis(50))).ready_line("go");
    let short = Settings { acquire_timeout: Some(Duration::from_millis(500)), ..settings(0, 1) };
    match line_workers(never, short).expect("a pool").acquire() {
        Err(AcquireError::TimedOut { cause }) => {
            assert!(cause.to_string().contains("not ready after 50ms"), "{cause}");
        }
        other => panic!("{other:?}"),
    }
    let probed = shell("read x; echo yes; read x; echo no; sleep 600").probe("well?", "yes");
    let interval = Some(Duration::from_millis(5));
    let pool = line_workers(probed, Settings { health_check_interval: interval, ..settings(1, 2) });
    let pool = pool.expect("a pool");
    wait_until("some are found unhealthy and replaced", || {
        pool.stats().closed.unhealthy >= 2 && pool.stats().idle >= 1
    });
    drop(pool);
    assert_eq!(zombies(), [], "zombies");
    done!("8 ways to misbehave")
}
