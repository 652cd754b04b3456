//! Starts and kills of workers, with all that is odd at the same time.

use crate::hosts::{fill_standard_error, reap_all};
use crate::{SOON, lines, settings, shell, zombies};
use ringbell::WorkerCommand;
use ringbell::pool::{AcquireError, OpenFailure, Settings};
use ringbell::sync::{Ordering, PlainBool, PlainU64};
use ringbell::worker::{LineWorkerPool, WorkerError};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, Start, say};
use ringbell_shm_tests::{done, observe, progress, scaled, signals, wait_until};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

/// A user that has no processes elsewhere.
const USER: u32 = 64_321;
const THREADS: u64 = 4;
/// What a worker starts itself, and how /proc shows it: the number is no one else's.
const SLEEPER: &str = "sleep 98761";
const SLEEPER_LINE: &[u8] = b"sleep\x0098761\0";

#[derive(Default)]
struct Counts {
    started: PlainU64,
    refused: PlainU64,
    missing: PlainU64,
    /// Waited in vain, and no start had failed.
    late: PlainU64,
}

fn is_missing(error: &WorkerError) -> bool {
    matches!(error, WorkerError::Start { error, .. } if error.kind() == ErrorKind::NotFound)
}

fn is_refusal(error: &WorkerError) -> bool {
    matches!(error, WorkerError::Start { error, .. } if error.kind() == ErrorKind::WouldBlock)
}

/// One start, and one end of some kind.
fn round(number: u64, pools: &[LineWorkerPool; 2], missing: &LineWorkerPool, counts: &Counts) {
    if number % 16 == 3 {
        match missing.acquire().map(drop) {
            Err(AcquireError::Open(OpenFailure::Error(error))) if is_missing(&error) => {
                counts.missing.fetch_add(1, Ordering::Relaxed);
            }
            // The system makes no process at the moment, and so does not find out.
            Err(AcquireError::Open(OpenFailure::Error(error))) => assert!(is_refusal(&error)),
            Err(AcquireError::TimedOut { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    let pool = &pools[usize::from(number.is_multiple_of(3))];
    let mut worker = loop {
        let failure = match pool.acquire() {
            Ok(worker) => break worker,
            Err(AcquireError::TimedOut { cause }) => cause.failure.map(|last| last.failure),
            Err(AcquireError::Open(failure)) => Some(failure),
            Err(error) => panic!("{error:?}"),
        };
        match failure {
            Some(OpenFailure::Error(error)) => {
                assert!(is_refusal(&error), "{error:?}");
                counts.refused.fetch_add(1, Ordering::Relaxed);
                // The limit is lifted in a moment.
                std::thread::sleep(Duration::from_millis(5));
            }
            Some(failure) => panic!("{failure:?}"),
            None => {
                counts.late.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    counts.started.fetch_add(1, Ordering::Relaxed);
    let line = format!("line {number}");
    worker.write_line(&line, SOON).expect("it takes a line");
    assert_eq!(worker.read_line(SOON).expect("it answers"), line, "a wrong answer");
    if number % 5 == 1 {
        let id = i32::try_from(worker.id()).expect("a pid");
        let id = rustix::process::Pid::from_raw(id).expect("a pid");
        rustix::process::kill_process(id, Signal::KILL).expect("it lives");
    }
}

fn limit_processes(limit: Option<u64>) {
    let maximum = getrlimit(Resource::Nproc).maximum;
    setrlimit(Resource::Nproc, Rlimit { current: limit.or(maximum), maximum }).expect("a limit");
}

/// Processes that workers have started, which were to end with them.
fn left_behind() -> usize {
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| line.starts_with(SLEEPER_LINE)).count()
}

pub(crate) fn tortured(arguments: &Arguments) {
    let _unread = fill_standard_error();
    // The standard error is full: what fails is told to the test.
    std::panic::set_hook(Box::new(|panic| {
        say(&format!("failed: {}", panic.to_string().replace('\n', " ")));
        std::process::exit(1);
    }));
    let limited = rustix::process::geteuid().is_root();
    if limited {
        signals::become_user(USER);
    }
    let reaping = Arc::new(PlainBool::new(false));
    reap_all(reaping.clone());
    let each = Settings {
        enabled: false,
        acquire_timeout: Some(Duration::from_millis(100)),
        ..settings(0, 8)
    };
    let loud = format!("head -c 3000 /dev/zero >&2; {SLEEPER} & while read x; do echo $x; done");
    let pools = [
        lines(WorkerCommand::new("cat"), each.clone()),
        lines(shell(&loud).forward_stderr(true), each.clone()),
    ];
    let missing = lines(WorkerCommand::new("/nonexistent/program"), each);
    let (counts, next, total) = (Counts::default(), PlainU64::new(0), arguments.number("rounds"));
    let work = |until: u64| {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= until {
                break;
            }
            round(number, &pools, &missing, &counts);
        }
    };
    let run = |until: u64, meanwhile: &dyn Fn()| {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| work(until))).collect();
            while !threads.iter().all(std::thread::ScopedJoinHandle::is_finished) {
                meanwhile();
            }
        });
    };
    // The threads that start workers, and the one that reads them, stay.
    run(32, &|| std::thread::sleep(Duration::from_millis(1)));
    // Each thread has taken one more, which is none.
    next.store(32, Ordering::Relaxed);
    let before = observe::descriptors(std::process::id());
    run(total, &|| {
        let phase = next.load(Ordering::Relaxed) / 40;
        reaping.store(phase % 2 == 1, Ordering::Relaxed);
        if limited && phase % 4 >= 2 {
            limit_processes(Some(1));
            std::thread::sleep(Duration::from_millis(130));
            limit_processes(None);
        }
        std::thread::sleep(Duration::from_millis(50));
        say(&format!("made {}", next.load(Ordering::Relaxed)));
    });
    reaping.store(false, Ordering::Relaxed);
    for pool in pools.iter().chain([&missing]) {
        pool.close(None).expect("nothing is in use");
    }
    wait_until("there is no zombie", || zombies().is_empty());
    wait_until("nothing of a worker is left open", || {
        observe::descriptors(std::process::id()) <= before
    });
    wait_until("what workers have started has ended", || left_behind() == 0);
    let of = |counter: &PlainU64| counter.load(Ordering::Relaxed);
    let Counts { started, refused, missing, late } = &counts;
    assert_eq!(of(started), total);
    assert!(!limited || of(refused) > 0, "no start was refused by the system");
    assert!(of(missing) > 0);
    say(&format!(
        "done {total} rounds: {} started and ended, {} refused by the system, {} missing programs \
         told, {} late; 0 zombies, descriptors, processes left",
        of(started),
        of(refused),
        of(missing),
        of(late)
    ));
}

pub(crate) fn worker_torture() -> Ran {
    let rounds = std::env::var("RINGBELL_TEST_TORTURE").ok().map(|rounds| {
        rounds.parse().unwrap_or_else(|_| panic!("RINGBELL_TEST_TORTURE is no number: {rounds}"))
    });
    let rounds: u64 = rounds.unwrap_or_else(|| scaled(400).max(240));
    let mut host = Start::role("tortured").with("rounds", rounds).start();
    loop {
        let line = host.hear();
        progress::tick();
        assert!(!line.starts_with("failed"), "{line}");
        if let Some(told) = line.strip_prefix("done ") {
            host.succeed();
            return done!("{told}");
        }
    }
}
