//! Workers that speak lines, for tasks.

use crate::shop::flavours;
use ringbell::pool::Settings;
use ringbell::worker::{LineError, LineWorkerPool, LineWorkers, line_workers};
use ringbell::{AsyncLineWorker, WorkerCommand};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::{Chance, mix};
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::{chatter, done, observe, scaled, seed, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use tokio::task::yield_now;
use tokio::time::timeout;

const QUICK: Duration = Duration::from_millis(20);

fn pool_of(workers: LineWorkers) -> LineWorkerPool {
    let settings = Settings {
        min_idle: 0,
        max_size: 1,
        acquire_timeout: Some(Duration::from_secs(30)),
        ..Settings::default()
    };
    line_workers(workers, settings).expect("a pool")
}

fn shell(script: &str) -> LineWorkers {
    LineWorkers::new(WorkerCommand::new("sh").args(["-c", script]))
}

async fn from(pool: &LineWorkerPool) -> AsyncLineWorker {
    let worker = pool.acquire_async().await.expect("a worker");
    AsyncLineWorker::new(worker).expect("the runtime watches it")
}

fn is_ended<T>(result: Result<T, LineError>) -> bool {
    matches!(result, Err(LineError::Ended { .. }))
}

fn process(id: u32) -> Pid {
    i32::try_from(id).ok().and_then(Pid::from_raw).expect("a process id")
}

pub(crate) fn line_workers_for_tasks() -> Ran {
    for runtime in flavours() {
        runtime.block_on(async {
            let script = r"while read n; do i=0; while [ $i -lt $n ]; do echo $i; i=$((i+1)); done; echo .; done";
            let pool = pool_of(shell(script));
            let mut worker = from(&pool).await;
            let id = worker.id();
            assert!(matches!(worker.write_line("1\n2").await, Err(LineError::NotALine)));
            worker.write_line("1").await.expect("it takes it");
            assert_eq!(worker.read_line().await.expect("a line"), "0");
            assert_eq!(worker.read_line_bytes().await.expect("a line"), b".");
            worker.complete();
            drop(worker);
            let mut worker = from(&pool).await;
            worker.write_line("2000").await.expect("it takes it");
            let mut count = 0;
            worker
                .read_until(|line| {
                    count += usize::from(line != ".");
                    line == "."
                })
                .await
                .expect("to its end");
            assert_eq!((count, worker.id()), (2000, id));
            // A thread goes on with it.
            let mut thread = worker.into_inner();
            thread.write_line("0", None).expect("it takes it");
            assert_eq!(thread.read_line(None).expect("a line"), ".");
            thread.complete();
            let mut worker = AsyncLineWorker::new(thread).expect("and a task again");
            // Half read: never used again.
            worker.write_line("3").await.expect("it takes it");
            assert_eq!(worker.read_line().await.expect("a line"), "0");
            drop(worker);
            assert_ne!(from(&pool).await.id(), id);
            assert_eq!(pool.stats().closed.poisoned, 1);
        });
    }
    done!("on both flavours")
}

pub(crate) fn a_read_that_is_dropped_keeps_what_has_come() -> Ran {
    for runtime in flavours() {
        runtime.block_on(async {
            let pool = pool_of(shell(r"printf hel; read x; printf 'lo\n'; read x"));
            let mut worker = from(&pool).await;
            assert!(timeout(QUICK, worker.read_line()).await.is_err());
            worker.write_line("x").await.expect("it takes it");
            assert_eq!(worker.read_line().await.expect("all of it"), "hello");
            // A write that is dropped in the middle: the rest goes first, and it is poisoned.
            let pool = pool_of(LineWorkers::new(WorkerCommand::new("cat")));
            let mut worker = from(&pool).await;
            let id = worker.id();
            kill_process(process(id), Signal::STOP).expect("kill");
            wait_until("it is stopped", || observe::state(id) == Some('T'));
            let long = vec![b'a'; 200_000];
            assert!(timeout(QUICK, worker.write_line(&long)).await.is_err());
            assert!(timeout(QUICK, worker.write_line("never")).await.is_err());
            kill_process(process(id), Signal::CONT).expect("kill");
            worker.write_line("next").await.expect("it takes it");
            assert_eq!(worker.read_line_bytes().await.expect("the long one"), long);
            assert_eq!(worker.read_line().await.expect("the next one"), "next");
            worker.complete();
            drop(worker);
            assert_eq!(pool.stats().closed.poisoned, 1);
        });
    }
    done!("reads and writes, on both flavours")
}

pub(crate) fn w2_tasks_learn_of_the_end_whoever_holds_the_pipes() -> Ran {
    for runtime in flavours() {
        runtime.block_on(async {
            // Dead while it is waited for, before it is, and while a line is written.
            for script in [
                "sleep 300 <&0 & read x; printf last; kill -9 $$",
                "sleep 300 <&0 & printf last; kill -9 $$",
                "exec sleep 300 <&0 & read x; printf last; exit 3",
            ] {
                let pool = pool_of(shell(script));
                let mut worker = from(&pool).await;
                let _ = worker.write_line("x").await;
                assert_eq!(worker.read_line().await.expect("what was there"), "last");
                assert!(is_ended(worker.read_line().await));
                assert!(is_ended(worker.read_until(|_| false).await));
            }
            let pool = pool_of(shell("sleep 300 <&0 & read x; kill -9 $$"));
            let mut worker = from(&pool).await;
            worker.write_line("x").await.expect("it takes it");
            assert!(is_ended(worker.write_line(vec![b'x'; 1 << 20]).await));
            let pool = pool_of(shell("yes & kill -9 $$"));
            assert!(is_ended(from(&pool).await.read_until(|_| false).await));
            // It told why.
            let pool = pool_of(shell("read x; echo 'out of cheese' >&2; exit 4"));
            let mut worker = from(&pool).await;
            worker.write_line("x").await.expect("it takes it");
            match worker.read_line().await {
                Err(LineError::Ended { printed }) => assert_eq!(printed, ["out of cheese"]),
                other => panic!("{other:?}"),
            }
            // Its output is closed, and it takes nothing: no work while that is so.
            let pool = pool_of(shell("exec >&-; exec sleep 600"));
            let mut worker = from(&pool).await;
            let before = observe::cpu_time(std::process::id());
            let wait = Duration::from_millis(400);
            assert!(timeout(wait, worker.write_line(vec![b'x'; 1 << 20])).await.is_err());
            let worked = observe::cpu_time(std::process::id()) - before;
            assert!(worked < wait / 2, "busy for {worked:?} of {wait:?}");
            // A worker that talks without end does not hold up the other tasks.
            let pool = pool_of(shell("exec yes"));
            let mut worker = from(&pool).await;
            assert!(timeout(QUICK, worker.read_until(|_| false)).await.is_err());
            tick();
        });
    }
    done!("on both flavours")
}

pub(crate) fn a_task_that_writes_lets_others_run() -> Ran {
    for runtime in flavours() {
        runtime.block_on(tokio::task::LocalSet::new().run_until(async {
            // Fewer bytes than a pipe holds.
            let pool = pool_of(shell("exec sleep 600"));
            let mut worker = from(&pool).await;
            let other = tokio::task::spawn_local(async {});
            for _ in 0..1000 {
                worker.write_line("x").await.expect("it takes it");
            }
            assert!(other.is_finished(), "it had its turn");
        }));
    }
    done!("on both flavours")
}

pub(crate) fn a_task_closes_the_input_of_its_worker() -> Ran {
    for runtime in flavours() {
        runtime.block_on(async {
            let pool = pool_of(LineWorkers::new(WorkerCommand::new("sort")));
            let mut sort = from(&pool).await;
            for line in ["pear", "apple", "fig"] {
                sort.write_line(line).await.expect("it takes it");
            }
            sort.close_input();
            assert!(matches!(sort.write_line("late").await, Err(LineError::InputClosed)));
            for line in ["apple", "fig", "pear"] {
                assert_eq!(sort.read_line().await.expect("a line"), line);
            }
            assert!(is_ended(sort.read_line().await));
        });
    }
    done!("on both flavours")
}

/// Polls so many times at most; `None` if it was given up.
async fn with_polls<F: Future>(future: F, polls: u64) -> Option<F::Output> {
    let mut future = pin!(future);
    for _ in 0..polls {
        let polled = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
        if let Poll::Ready(output) = polled {
            return Some(output);
        }
        yield_now().await;
    }
    None
}

pub(crate) fn lines_for_tasks_that_give_up_agree_with_a_model() -> Ran {
    let rounds = scaled(6).max(2);
    let (mut count, mut given_up) = (0_u64, 0_u64);
    for runtime in flavours() {
        for round in 0..rounds {
            let seed = mix(seed(), 1000 + round);
            let mut chance = Chance::new(seed ^ 2);
            let program = std::env::current_exe().expect("this program has a path");
            let command = WorkerCommand::new(program)
                .env("RINGBELL_TEST_ROLE", "chatter")
                .env("RINGBELL_TEST_PARENT", std::process::id().to_string())
                .arg(format!("seed={seed}"));
            let pool = pool_of(LineWorkers::new(command));
            runtime.block_on(async {
                let mut worker = from(&pool).await;
                for line in chatter::lines(seed) {
                    let text = chatter::without_break(&line, true);
                    let polls = match chance.below(3) {
                        0 => chance.below(4),
                        _ => u64::MAX,
                    };
                    let as_text = chance.below(2) == 0;
                    if as_text && let Some(read) = with_polls(worker.read_line(), polls).await {
                        assert_eq!(read.expect("a line").as_bytes(), text);
                    } else {
                        given_up += u64::from(as_text);
                        let read = worker.read_line_bytes().await.expect("a line");
                        assert_eq!(read, chatter::without_break(&line, false));
                    }
                    count += 1;
                }
                assert!(is_ended(worker.read_line().await));
                tick();
            });
        }
    }
    done!("{count} lines; {given_up} reads were given up")
}
