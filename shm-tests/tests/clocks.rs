//! Client and server in different time namespaces: their clocks differ, deadlines mean the same.

use ringbell::pool::Settings;
use ringbell::{CallError, Client, ConnectionPool};
use ringbell_shm_tests::driver::runtime_of_one;
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, Process, Start};
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::server::serve_with;
use ringbell_shm_tests::{done, options, suite, wait_until};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

suite! {
    both: [
        c3_a_call_is_answered_whatever_the_clocks_say,
        c3_tasks_and_pools_have_the_same_deadlines,
        c3_what_came_too_late_is_not_run,
    ],
    tests: [],
    roles: [timekeeper],
}

/// Seconds by which the clock of the server's namespace is ahead. The clock of a namespace cannot
/// be before its beginning, so it is not put back as far as forward.
const AHEAD: [i64; 2] = [100_000, -100];
const TIMEOUT: Duration = Duration::from_millis(500);

/// Answers how long the caller will still wait, in ns; 0 for no deadline. `await PATH`: answers
/// when there is such a file. `count`: answers how many requests were run before.
fn timekeeper(arguments: &Arguments) {
    let mut run = 0u64;
    serve_with(arguments, |server| {
        server.run(|request, response| {
            let answer = match std::str::from_utf8(request.payload()) {
                Ok("count") => run,
                Ok(path) if path.starts_with("await ") => {
                    wait_until("the gate is open", || Path::new(&path[6..]).exists());
                    0
                }
                _ => request.deadline().map_or(0, |deadline| {
                    // A deadline of that very moment is one all the same.
                    let left = deadline.saturating_duration_since(Instant::now());
                    u64::try_from(left.as_nanos()).expect("short").max(1)
                }),
            };
            run += 1;
            response.extend_from_slice(&answer.to_le_bytes());
            Ok(())
        })
    });
}

/// A server whose clock is ahead by so many seconds.
struct Elsewhere {
    process: Process,
    path: PathBuf,
    directory: tempfile::TempDir,
}

impl Elsewhere {
    fn new(ahead: i64) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("s");
        let ahead = ahead.to_string();
        let arguments = ["--time", "--monotonic", &ahead];
        let mut process = Start::role_under("unshare", &arguments, "timekeeper")
            .with("path", path.display())
            .start();
        process.expect("ready");
        let [ours, theirs] = ["self", &process.id().to_string()]
            .map(|of| std::fs::read_link(format!("/proc/{of}/ns/time")).expect("a namespace"));
        assert_ne!(ours, theirs, "the server is in a time namespace of its own");
        Self { process, path, directory }
    }

    fn end(mut self) {
        self.process.hang_up();
        self.process.succeed();
    }
}

/// Why there can be no server in a time namespace of its own; `None` if there can.
fn missing() -> Option<String> {
    let tried = Command::new("unshare").args(["--time", "--monotonic", "1", "true"]).output();
    match tried {
        Ok(tried) if tried.status.success() => None,
        Ok(tried) => Some(format!(
            "a time namespace takes CAP_SYS_ADMIN and Linux 5.6: {}",
            String::from_utf8_lossy(&tried.stderr).trim()
        )),
        Err(error) => Some(format!("unshare (util-linux) cannot be started: {error}")),
    }
}

/// Runs a test with a server ahead, and with one behind.
fn elsewhere(test: impl Fn(&Elsewhere)) -> Ran {
    if let Some(missing) = missing() {
        return Ran::Skipped(missing);
    }
    for ahead in AHEAD {
        let server = Elsewhere::new(ahead);
        test(&server);
        server.end();
    }
    done!("with the server's clock ahead by {AHEAD:?} s")
}

fn number(answer: &[u8]) -> u64 {
    u64::from_le_bytes(answer.try_into().expect("a number"))
}

/// A deadline is what it is in the caller's clock: never early, and late by no more than what
/// connecting took.
fn is_right(left: u64, began: Instant, connecting: Duration) {
    let left = Duration::from_nanos(left);
    assert!(left + began.elapsed() >= TIMEOUT, "too early: {left:?} left");
    assert!(left <= TIMEOUT + connecting, "too late: {left:?} left");
    tick();
}

fn connect(server: &Elsewhere) -> (Client, Duration) {
    let began = Instant::now();
    let client = options().connect(&server.path).expect("connected");
    (client, began.elapsed())
}

fn c3_a_call_is_answered_whatever_the_clocks_say() -> Ran {
    elsewhere(|server| {
        let (mut client, connecting) = connect(server);
        for _ in 0..100 {
            let began = Instant::now();
            let answer = client.call_timeout(b"left", Some(TIMEOUT)).expect("in time");
            is_right(number(&answer), began, connecting);
        }
        // In the midst of others, and larger than a record.
        let began = Instant::now();
        let request = vec![0xff; 100_000];
        let answer = client.call_timeout(&request, Some(TIMEOUT)).expect("in time");
        is_right(number(&answer), began, connecting);
        let began = Instant::now();
        let mut into = Vec::new();
        client.call_into(b"left", &mut into, Some(TIMEOUT)).expect("in time");
        is_right(number(&into), began, connecting);
        let began = Instant::now();
        let until = Some(began + TIMEOUT);
        let answer = client.call_deadline(b"left", until).expect("in time");
        is_right(number(&answer), began, connecting);
        assert_eq!(number(&client.call(b"left").expect("answered")), 0, "no deadline is none");
    })
}

fn c3_tasks_and_pools_have_the_same_deadlines() -> Ran {
    elsewhere(|server| {
        runtime_of_one().block_on(async {
            let began = Instant::now();
            let client = options().connect_async(&server.path).await.expect("connected");
            let connecting = began.elapsed();
            for _ in 0..100 {
                let began = Instant::now();
                let answer = client.call_timeout(b"left", Some(TIMEOUT)).await.expect("in time");
                is_right(number(&answer), began, connecting);
            }
        });
        let began = Instant::now();
        let pool = ConnectionPool::with_options(&server.path, options(), Settings::default());
        let pool = pool.expect("a pool");
        for _ in 0..100 {
            let call = Instant::now();
            let answer = pool.call_timeout(b"left", Some(TIMEOUT)).expect("in time");
            // It connects whenever it likes.
            is_right(number(&answer), call, began.elapsed());
        }
        pool.close(None).expect("drained");
    })
}

fn c3_what_came_too_late_is_not_run() -> Ran {
    elsewhere(|server| {
        let (mut client, connecting) = connect(server);
        let gate = |name| server.directory.path().join(name);
        let wait_for = |name| format!("await {}", gate(name).display());
        // A handler that goes on beyond the deadline.
        let limit = Some(Duration::from_millis(200));
        let late = client.call_timeout(wait_for("first").as_bytes(), limit).map(drop);
        assert_eq!(late, Err(CallError::TimedOut { maybe_executed: true }));
        std::fs::write(gate("first"), b"").expect("opened");
        let before = number(&client.call(b"count").expect("answered"));
        // A request that stands behind another one until nobody waits for it any more.
        let first = client.send(wait_for("second").as_bytes()).expect("sent");
        let late = client.call_timeout(b"left", Some(Duration::from_millis(20))).map(drop);
        assert_eq!(late, Err(CallError::TimedOut { maybe_executed: true }));
        std::thread::sleep(connecting);
        std::fs::write(gate("second"), b"").expect("opened");
        assert_eq!(client.recv(None).expect("answered").call, first);
        let after = number(&client.call(b"count").expect("answered"));
        assert_eq!(
            after,
            before + 2,
            "the first count and the first request: the late one was run"
        );
        let began = Instant::now();
        let answer = client.call_timeout(b"left", Some(TIMEOUT)).expect("in time");
        is_right(number(&answer), began, connecting);
    })
}
