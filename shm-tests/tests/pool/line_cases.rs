//! Workers that speak lines: how they end, what their lines look like, and how fast they are read.

use crate::line_workers::shell;
use crate::settings;
use crate::workers::{is_gone, process, worker_command, zombies};
use ringbell::WorkerCommand;
use ringbell::pool::{AcquireError, Manager, Pool, Settings};
use ringbell::worker::{
    LineError, LineWorker, LineWorkers, PooledLineWorker, WorkerError, line_workers,
};
use ringbell_shm_tests::chatter;
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::{Chance, mix};
use ringbell_shm_tests::process::{Arguments, Start, hear, say};
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::{done, observe, sandbox, scaled, seed, signals, wait_until};
use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SOON: Option<Duration> = Some(Duration::from_secs(30));

/// A worker of a pool of its own.
fn one(workers: LineWorkers) -> PooledLineWorker {
    line_workers(workers, settings(0, 1)).expect("a pool").acquire().expect("a worker")
}

/// Why there is none, of the only attempt.
fn none(workers: LineWorkers) -> WorkerError {
    let once = Settings { enabled: false, ..settings(0, 1) };
    match line_workers(workers, once).expect("a pool").acquire() {
        Err(AcquireError::Open(ringbell::pool::OpenFailure::Error(error))) => {
            std::sync::Arc::into_inner(error).expect("the only one")
        }
        other => panic!("{other:?}"),
    }
}

fn is_ended<T>(result: Result<T, LineError>) -> bool {
    matches!(result, Err(LineError::Ended { .. }))
}

// ---- W4 ----

const LINE: usize = 99;

/// All lines are written before the first one is read. The time that this thread worked: how long
/// it waited is up to what else the machine does.
fn pipelined(lines: usize) -> f64 {
    let cat = LineWorkers::new(WorkerCommand::new("cat")).max_line(lines * (LINE + 1));
    let mut worker = one(cat);
    let line = [b'x'; LINE];
    let worked = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::try_from(time).expect("it began at zero")
    };
    let began = worked();
    for _ in 0..lines {
        worker.write_line(line, None).expect("it takes it");
    }
    for _ in 0..lines {
        assert_eq!(worker.read_line(None).expect("a line").len(), LINE);
    }
    tick();
    (worked() - began).as_secs_f64()
}

/// As many lines in a row as fit into a pipe, so that std can do it on one thread.
const BATCH: usize = 500;

fn batches(worker: &mut LineWorker, lines: usize) -> f64 {
    let line = [b'x'; LINE];
    let began = Instant::now();
    for _ in 0..lines / BATCH {
        for _ in 0..BATCH {
            worker.write_line(line, None).expect("it takes it");
        }
        for _ in 0..BATCH {
            assert_eq!(worker.read_line(None).expect("a line").len(), LINE);
        }
    }
    tick();
    began.elapsed().as_secs_f64()
}

/// The same with std.
fn std_batches(lines: usize) -> f64 {
    let mut cat = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("there is a cat");
    let mut input = cat.stdin.take().expect("piped");
    let mut output = BufReader::new(cat.stdout.take().expect("piped")).lines();
    let line = [[b'x'; LINE].as_slice(), b"\n"].concat();
    let began = Instant::now();
    for _ in 0..lines / BATCH {
        for _ in 0..BATCH {
            input.write_all(&line).expect("it takes it");
        }
        for _ in 0..BATCH {
            assert_eq!(output.next().expect("a line").expect("text").len(), LINE);
        }
    }
    let took = began.elapsed().as_secs_f64();
    drop(input);
    cat.wait().expect("it ends");
    tick();
    took
}

/// Lines that are there already, read to their end.
fn reading(file: &Path, lines: usize) -> f64 {
    let command = WorkerCommand::new("cat").arg(file);
    let mut worker = one(LineWorkers::new(command));
    let began = Instant::now();
    let mut count = 0;
    while let Ok(line) = worker.read_line(None) {
        assert_eq!(line.len(), LINE);
        count += 1;
        if count == lines {
            break;
        }
    }
    assert_eq!(count, lines);
    tick();
    began.elapsed().as_secs_f64()
}

fn std_reading(file: &Path, lines: usize) -> f64 {
    let cat = Command::new("cat").arg(file).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut cat = cat.expect("there is a cat");
    let output = BufReader::new(cat.stdout.take().expect("piped"));
    let began = Instant::now();
    assert_eq!(
        output.lines().map(|line| assert_eq!(line.expect("text").len(), LINE)).count(),
        lines
    );
    let took = began.elapsed().as_secs_f64();
    cat.wait().expect("it ends");
    tick();
    took
}

fn best<const N: usize>(times: [f64; N]) -> f64 {
    times.into_iter().fold(f64::INFINITY, f64::min)
}

/// The best times of both, after as many rounds as it takes, up to a limit: on a busy machine most
/// rounds tell of the machine.
fn beside_std(mut round: impl FnMut() -> (f64, f64)) -> (f64, f64) {
    let mut both = (f64::INFINITY, f64::INFINITY);
    for rounds in 1..=25 {
        let (ours, std) = round();
        both = (both.0.min(ours), both.1.min(std));
        if rounds >= 5 && both.0 <= 3.0 * both.1 {
            break;
        }
    }
    both
}

pub(crate) fn w4_many_pipelined_lines_are_read_in_linear_time() -> Ran {
    const LINES: usize = 80_000;
    // Linear: 4 times the lines in 4 times the time, not in 16 times.
    let rounds = [(); 5].map(|()| (pipelined(LINES), pipelined(LINES / 4)));
    let (all, quarter) = (best(rounds.map(|pair| pair.0)), best(rounds.map(|pair| pair.1)));
    assert!(all <= 8.0 * quarter, "{all:.3} s, a quarter of it in {quarter:.3} s");
    // Beside std on the same child.
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("lines");
    let line = [[b'x'; LINE].as_slice(), b"\n"].concat();
    std::fs::write(&file, line.repeat(LINES)).expect("written");
    let (read, std_read) = beside_std(|| (reading(&file, LINES), std_reading(&file, LINES)));
    assert!(read <= 3.0 * std_read, "read in {read:.3} s, by std in {std_read:.3} s");
    let (both, std_both) = beside_std(|| {
        let mut worker = one(LineWorkers::new(WorkerCommand::new("cat")));
        (batches(&mut worker, LINES), std_batches(LINES))
    });
    assert!(both <= 3.0 * std_both, "there and back in {both:.3} s, by std in {std_both:.3} s");
    done!(
        "80 000 lines in {all:.3} s, 20 000 in {quarter:.3} s; read in {read:.3} s, by std in \
         {std_read:.3} s; there and back in {both:.3} s, by std in {std_both:.3} s"
    )
}

// ---- W5 ----

pub(crate) fn w5_the_last_line_needs_no_line_break() -> Ran {
    let mut worker = one(shell(r"printf 'one\ntwo\r\n\nlast\r'"));
    let mut lines = Vec::new();
    let end = worker.read_until(SOON, |line| {
        lines.push(line.to_owned());
        false
    });
    assert!(is_ended(end));
    assert_eq!(lines, ["one", "two", "", "last\r"], "as `BufRead::lines` has it");
    // Bytes lose their line feed only.
    let mut worker = one(shell(r"printf '\377\r\n\377'"));
    assert_eq!(worker.read_line_bytes(SOON).expect("a line"), b"\xff\r");
    assert_eq!(worker.read_line_bytes(SOON).expect("the last line"), b"\xff");
    assert!(is_ended(worker.read_line_bytes(SOON)));
    assert!(is_ended(worker.read_line_bytes(SOON)), "and so it stays");
    // A line is not over because time is.
    let mut worker = one(shell(r"printf hel; read x; printf 'lo\n'; read x"));
    let quick = Some(Duration::from_millis(20));
    assert!(matches!(worker.read_line(quick), Err(LineError::TimedOut)));
    worker.write_line("x", SOON).expect("it takes it");
    assert_eq!(worker.read_line(SOON).expect("all of it"), "hello");
    // A last line that is too long is no line.
    let mut worker = one(shell("printf 123456789").max_line(8));
    assert!(matches!(worker.read_line(SOON), Err(LineError::TooLong { max: 8 })));
    let mut worker = one(shell("printf 12345678").max_line(8));
    assert_eq!(worker.read_line(SOON).expect("just short enough"), "12345678");
    done!("without a line break, with one of both kinds, in two pieces")
}

pub(crate) fn w5_a_ready_line_may_end_with_crlf() -> Ran {
    for ready in ["go", "go\n", "go\r\n"] {
        let windows = shell(r"printf 'hello\r\ngo\r\n'; read x; printf 'got %s\r\n' $x; read x");
        let mut worker = one(windows.ready_line(ready));
        worker.write_line("it", SOON).expect("it takes it");
        assert_eq!(worker.read_line(SOON).expect("a line"), "got it");
    }
    let many = shell("echo go; read x").ready_line("go\nnow");
    let error = line_workers(many, settings(0, 1)).map(drop).expect_err("it can never be said");
    assert!(error.to_string().contains("ready_line has more than one line"), "{error}");
    // So may the answer to a probe.
    let probed = shell(r"while read x; do printf 'yes\r\n'; done").probe("well?\n", "yes\n");
    let interval = Some(Duration::from_millis(5));
    let often = Settings { health_check_interval: interval, ..settings(1, 1) };
    let pool = line_workers(probed, often).expect("a pool");
    let id = pool.acquire().expect("a worker").id();
    std::thread::sleep(Duration::from_millis(50));
    let mut worker = pool.acquire().expect("the same");
    worker.write_line("x", SOON).expect("it takes it");
    assert_eq!(worker.read_line(SOON).expect("a line"), "yes");
    worker.complete();
    assert_eq!((worker.id(), pool.stats().closed.unhealthy), (id, 0));
    done!("with and without a line break in the setting")
}

pub(crate) fn w5_what_was_printed_before_readiness_is_told() -> Ran {
    let script = r"echo 'error: no licence'; echo 'and no file' >&2; printf 'bye'; exit 3";
    match none(shell(script).ready_line("go")) {
        WorkerError::Ended { status, printed } => {
            assert_eq!(status.and_then(|status| status.code()), Some(3));
            assert_eq!(printed, ["error: no licence", "bye", "and no file"]);
        }
        other => panic!("{other:?}"),
    }
    // Not in time, after more lines than are told, each too long.
    let script = r"i=0; while [ $i -lt 100 ]; do printf 'waiting %s %01000d\n' $i 0; i=$((i+1)); done; printf 'half a line'; exec sleep 600";
    let command = WorkerCommand::new("sh").args(["-c", script]);
    let never =
        LineWorkers::new(command.start_timeout(Duration::from_millis(700))).ready_line("go");
    match none(never) {
        WorkerError::NotReady { printed, .. } => {
            assert_eq!(printed.len(), 20, "the last ones");
            assert!(printed.iter().all(|line| line.len() <= 512));
            assert!(printed[0].starts_with("waiting 81 0000"), "{}", &printed[0][..20]);
            assert_eq!(printed.last().map(String::as_str), Some("half a line"));
        }
        other => panic!("{other:?}"),
    }
    // A worker that says an endless line is not merely late.
    let endless = shell("while :; do printf xxxxxxxx; done").max_line(1000).ready_line("go");
    let error = none(endless).to_string();
    assert!(error.contains("a line of more than 1000 bytes"), "{error}");
    done!("by one that ends, one that is late, one without an end")
}

// ---- W2 ----

/// A worker that answers a line with `echo`, whose child holds all its pipes when it is killed.
const LEAVES_A_CHILD: &str = r#"sleep 300 <&0 & while read x; do case $x in die) printf last; kill -9 $$;; esac; echo "$x"; done"#;

pub(crate) fn w2_ended_at_once_whoever_holds_the_pipes() -> Ran {
    let rounds = scaled(10).max(3);
    for _ in 0..rounds {
        // It is waited for when it dies.
        let mut worker = one(shell(LEAVES_A_CHILD));
        worker.write_line("1", None).expect("it takes it");
        assert_eq!(worker.read_line(None).expect("a line"), "1");
        worker.write_line("die", None).expect("it takes it");
        assert_eq!(worker.read_line(None).expect("what was there"), "last");
        assert!(is_ended(worker.read_line(None)));
        assert!(is_ended(worker.read_until(None, |_| false)));
        // It is dead before it is read from; what it said comes first.
        let mut worker = one(shell(LEAVES_A_CHILD));
        worker.write_line("2", None).expect("it takes it");
        worker.write_line("die", None).expect("it takes it");
        wait_until("it is dead", || observe::state(worker.id()) == Some('Z'));
        let mut lines = Vec::new();
        assert!(is_ended(worker.read_until(None, |line| {
            lines.push(line.to_owned());
            false
        })));
        assert_eq!(lines, ["2", "last"]);
        // It dies while a line is written that the pipe cannot hold.
        let mut worker = one(shell("sleep 300 <&0 & read x; kill -9 $$"));
        worker.write_line("x", None).expect("it takes it");
        assert!(is_ended(worker.write_line(vec![b'x'; 1 << 20], None)));
        assert!(is_ended(worker.read_line(None)));
        tick();
    }
    // Its child goes on talking: that is not the worker's.
    let mut worker = one(shell("yes & kill -9 $$"));
    let mut lines = 0_u64;
    assert!(is_ended(worker.read_until(None, |_| {
        lines += 1;
        false
    })));
    drop(worker);
    assert_eq!(zombies(), [], "zombies");
    done!("{rounds} rounds of 3 deaths; {lines} lines of a child that talks without end")
}

pub(crate) fn w2_time_is_up_while_a_worker_talks_without_end() -> Ran {
    let mut worker = one(shell("exec yes"));
    let mut lines = 0_u64;
    let late = worker.read_until(Some(Duration::from_millis(50)), |_| {
        lines += 1;
        false
    });
    assert!(matches!(late, Err(LineError::TimedOut)), "{late:?}");
    // Zero does not wait, and takes what is there.
    wait_until("a line is there", || worker.read_line(Some(Duration::ZERO)).is_ok());
    // Nor does it end a write for which it is not read from.
    let late = worker.write_line(vec![b'x'; 1 << 20], Some(Duration::from_millis(50)));
    assert!(matches!(late, Err(LineError::TimedOut)), "{late:?}");
    // A worker that closes its output, and takes nothing, is waited for without work.
    let mut worker = one(shell("exec >&-; exec sleep 600"));
    let before = observe::cpu_time(std::process::id());
    let late = worker.write_line(vec![b'x'; 1 << 20], Some(Duration::from_millis(400)));
    assert!(matches!(late, Err(LineError::TimedOut)), "{late:?}");
    let worked = observe::cpu_time(std::process::id()) - before;
    assert!(worked < Duration::from_millis(200), "busy for {worked:?} of 400 ms");
    assert!(is_ended(worker.read_line(SOON)), "its output is over");
    done!("{lines} lines in time")
}

// ---- H7 ----

/// A host that dies of SIGPIPE, as those do that are not written in Rust.
pub(crate) fn dies_of_sigpipe(arguments: &Arguments) {
    signals::die_of_sigpipe();
    if let Some(errno) = arguments.maybe_number("refuse") {
        sandbox::refuse("pwritev2", i32::try_from(errno).expect("a small number"));
    }
    // It has exited; it has closed its input and lives; it dies while a line is written.
    for script in ["read x; exit 0", "exec <&-; echo closed; exec sleep 600", "head -c 100000"] {
        let mut worker = one(shell(script));
        let error = loop {
            if let Err(error) = worker.write_line(vec![b'x'; 50_000], SOON) {
                break error;
            }
        };
        assert!(matches!(error, LineError::Ended { .. }), "{script}: {error:?}");
    }
    // So does the health check of a pool, on a thread of its own.
    let pool = line_workers(
        shell("head -c 100; exec <&-; sleep 600").probe("x".repeat(200_000), "yes"),
        Settings { health_check_interval: Some(Duration::from_millis(5)), ..settings(1, 1) },
    );
    let pool = pool.expect("a pool");
    wait_until("some are found unhealthy", || pool.stats().closed.unhealthy >= 3);
    say("alive");
    let _ = hear();
    // What this process does about the signal is still its own.
    let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
    drop(reader);
    let _ = rustix::io::write(&writer, b"x");
    say("not reached");
}

pub(crate) fn h7_a_worker_that_has_exited_is_no_sigpipe() -> Ran {
    // As this kernel has it; without its flag for that, as older ones and filters answer.
    for refused in [None, Some(libc::EOPNOTSUPP), Some(libc::ENOSYS), Some(libc::EPERM)] {
        let start = Start::role("dies_of_sigpipe");
        let mut host = match refused {
            Some(errno) => start.with("refuse", errno).start(),
            None => start.start(),
        };
        let said = host.hear_if_any();
        assert_eq!(said.as_deref(), Some("alive"), "{refused:?}: {}", host.diagnose());
        host.tell("go on");
        assert_eq!(host.hear_if_any(), None);
        let status = host.wait();
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        assert_eq!(signal, Some(Signal::PIPE.as_raw()), "{status}");
    }
    done!("3 ways to be gone, and a health check, with the flag of the kernel and without it")
}

// ---- what is not handed out ----

pub(crate) fn a_worker_that_has_closed_its_input_is_not_handed_out() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().display();
    let script = format!(
        "if mkdir {path}/first; then exec <&-; mkdir {path}/closed; exec sleep 600; fi; exec cat"
    );
    let pool = line_workers(shell(&script), settings(1, 1)).expect("a pool");
    wait_until("the first one has closed it", || dir.path().join("closed").exists());
    let mut worker = pool.acquire().expect("another one");
    worker.write_line("x", SOON).expect("it takes it");
    assert_eq!(worker.read_line(SOON).expect("a line"), "x");
    assert_eq!(pool.stats().closed.unhealthy, 1);
    done!("nor one whose reader is gone")
}

// ---- a process that can have no more threads ----

/// Says on which thread it was opened, and on which it was looked at.
struct Threads;

impl Manager for Threads {
    type Item = bool;
    type Error = std::io::Error;

    fn open(&self) -> Result<bool, std::io::Error> {
        Ok(is_keeper())
    }

    fn check(&self, _item: &mut bool) -> bool {
        !is_keeper()
    }
}

fn is_keeper() -> bool {
    std::thread::current().name() == Some("ringbell-pool")
}

pub(crate) fn without_threads(_arguments: &Arguments) {
    let often = Some(Duration::from_millis(1));
    let pool = Pool::new(
        Threads,
        Settings { max_starting: 4, health_check_interval: often, ..settings(0, 8) },
    );
    let pool = pool.expect("a pool");
    sandbox::refuse_everywhere("clone3", libc::EAGAIN);
    assert!(std::thread::Builder::new().spawn(|| ()).is_err(), "there can be none");
    let held: Vec<_> = (0..8).map(|_| pool.acquire().expect("the keeper opens")).collect();
    assert!(held.iter().all(|by_keeper| **by_keeper));
    drop(held);
    wait_until("the keeper looks at them", || pool.stats().closed.unhealthy == 8);
    pool.close(None).expect("empty");
    drop(pool);
    say("done");
}

pub(crate) fn w7_where_there_can_be_no_thread_the_keeper_works() -> Ran {
    let mut process = Start::role("without_threads").start();
    process.expect("done");
    process.succeed();
    done!("8 opened, 8 looked at")
}

// ---- the end of its input, and how often it is used ----

pub(crate) fn a_worker_may_answer_at_the_end_of_its_input() -> Ran {
    let pool = line_workers(LineWorkers::new(WorkerCommand::new("sort")), settings(1, 1));
    let pool = pool.expect("a pool");
    let mut sort = pool.acquire().expect("a worker");
    let id = sort.id();
    for line in ["pear", "apple", "fig"] {
        sort.write_line(line, SOON).expect("it takes it");
    }
    assert!(matches!(sort.read_line(Some(Duration::from_millis(20))), Err(LineError::TimedOut)));
    sort.close_input();
    assert!(matches!(sort.write_line("late", SOON), Err(LineError::InputClosed)));
    let mut sorted = Vec::new();
    assert!(is_ended(sort.read_until(SOON, |line| {
        sorted.push(line.to_owned());
        false
    })));
    assert_eq!(sorted, ["apple", "fig", "pear"]);
    sort.complete();
    drop(sort);
    assert!(is_gone(id));
    // One that lives on all the same is not used again either.
    let pool = line_workers(shell("exec sleep 600"), settings(1, 1)).expect("a pool");
    let mut worker = pool.acquire().expect("a worker");
    let id = worker.id();
    worker.close_input();
    worker.complete();
    drop(worker);
    assert_ne!(pool.acquire().expect("another one").id(), id);
    done!("sorted")
}

pub(crate) fn a_worker_is_replaced_after_so_many_uses() -> Ran {
    let ids = |most: Option<u64>, uses: usize| {
        let cat = LineWorkers::new(WorkerCommand::new("cat")).max_uses(most);
        let pool = line_workers(cat, settings(1, 1)).expect("a pool");
        let mut ids = Vec::new();
        for _ in 0..uses {
            let mut worker = pool.acquire().expect("a worker");
            worker.write_line("x", SOON).expect("it takes it");
            assert_eq!(worker.read_line(SOON).expect("a line"), "x");
            worker.complete();
            ids.push(worker.id());
        }
        ids.dedup();
        let stats = pool.stats();
        assert_eq!(stats.closed.poisoned, 0);
        (ids.len(), stats.closed.used)
    };
    assert_eq!(ids(Some(3), 12), (4, 4));
    assert_eq!(ids(Some(1), 3), (3, 3));
    assert_eq!(ids(Some(0), 3), (3, 3));
    assert_eq!(ids(None, 20), (1, 0));
    done!("3, 1, 0 and any number of uses")
}

// ---- a line that was written in part ----

pub(crate) fn a_line_in_part_is_never_two_lines() -> Ran {
    let mut worker = one(LineWorkers::new(WorkerCommand::new("cat")));
    let stopped = process(worker.id());
    rustix::process::kill_process(stopped, Signal::STOP).expect("kill");
    wait_until("it is stopped", || observe::state(worker.id()) == Some('T'));
    let long = vec![b'a'; 200_000];
    let quick = Some(Duration::from_millis(20));
    assert!(matches!(worker.write_line(&long, quick), Err(LineError::TimedOut)));
    // The pipe is full: of this one nothing is written, and nothing will be.
    assert!(matches!(worker.write_line("never", quick), Err(LineError::TimedOut)));
    rustix::process::kill_process(stopped, Signal::CONT).expect("kill");
    worker.write_line("next", SOON).expect("it takes it");
    assert_eq!(worker.read_line_bytes(SOON).expect("the long one"), long);
    assert_eq!(worker.read_line(SOON).expect("the next one"), "next");
    worker.complete();
    let id = worker.id();
    drop(worker);
    assert!(is_gone(id), "whether its user knows that, the pool does not");
    done!("200 000 bytes in two pieces")
}

// ---- lines in pieces of any size ----

fn chatter_command(seed: u64) -> LineWorkers {
    let command = worker_command().env("RINGBELL_TEST_ROLE", "chatter");
    LineWorkers::new(command.arg(format!("seed={seed}")))
}

/// The next line in one of the ways to read it.
fn next(worker: &mut LineWorker, chance: &mut Chance, expected: &[u8]) -> Result<(), LineError> {
    let timeout = match chance.below(4) {
        0 => Some(Duration::ZERO),
        1 => Some(Duration::from_micros(chance.below(300))),
        2 => SOON,
        _ => None,
    };
    let text = chatter::without_break(expected, true);
    match chance.below(3) {
        0 => assert_eq!(worker.read_line(timeout)?.as_bytes(), text),
        1 => {
            let bytes = worker.read_line_bytes(timeout)?;
            assert_eq!(bytes, chatter::without_break(expected, false));
        }
        _ => worker.read_until(timeout, |line| {
            assert_eq!(line.as_bytes(), text);
            true
        })?,
    }
    Ok(())
}

pub(crate) fn lines_in_pieces_of_any_size_agree_with_a_model() -> Ran {
    let rounds = scaled(12).max(3);
    let (mut count, mut late) = (0, 0);
    for round in 0..rounds {
        let seed = mix(seed(), round);
        let mut chance = Chance::new(seed ^ 1);
        let mut worker = one(chatter_command(seed));
        for line in chatter::lines(seed) {
            while let Err(error) = next(&mut worker, &mut chance, &line) {
                assert!(matches!(error, LineError::TimedOut), "{error:?}");
                late += 1;
            }
            count += 1;
        }
        assert!(is_ended(worker.read_line(None)));
        tick();
    }
    done!("{count} lines; {late} reads were late")
}
