//! Pools of connections to a server that dies, restarts, or is used by many.

use crate::settings;
use ringbell::pool::Settings;
use ringbell::sync::{Ordering, PlainBool, PlainU64};
use ringbell::{CallError, ConnectionPool, PoolCallError};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, Process, Start, say};
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::{done, options, scaled, wait_until};
use std::path::Path;
use std::time::{Duration, Instant};

/// Echoes, and adds its process id.
pub(crate) fn serve(server: ringbell::Server) {
    let me = std::process::id().to_le_bytes();
    let served = server.run(|request, response| {
        if request.payload() == b"die" {
            eprintln!("dying as asked");
            std::process::exit(7);
        }
        if request.payload() == b"hang" {
            std::thread::sleep(Duration::from_secs(600));
        }
        response.extend_from_slice(request.payload());
        response.extend_from_slice(&me);
        Ok(())
    });
    served.expect("serve");
}

pub(crate) fn echo_server(arguments: &Arguments) {
    let server =
        ringbell::Server::builder().max_clients(256).bind(arguments.text("path")).expect("bind");
    say("ready");
    serve(server);
}

pub(crate) fn start_server(path: &Path) -> Process {
    let mut server = Start::role("echo_server").with("path", path.display()).start();
    server.expect("ready");
    server
}

pub(crate) fn connections(path: &Path, settings: Settings) -> ConnectionPool {
    ConnectionPool::with_options(path, options(), settings).expect("settings that make sense")
}

/// The server that answered, if the answer is the one to this request.
pub(crate) fn answered_by(request: &[u8], answer: &[u8]) -> u32 {
    let (echo, pid) = answer.split_at_checked(request.len()).expect("long enough");
    assert_eq!(echo, request, "the answer to another request");
    u32::from_le_bytes(pid.try_into().expect("a process id"))
}

pub(crate) fn a_server_that_is_killed_again_and_again() -> Ran {
    const CALLERS: u64 = 8;
    let restarts = scaled(100).max(10);
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("test.sock");
    let mut server = start_server(&path);
    let pool = connections(&path, settings(2, 6));
    let (stop, calls, lost, unsent) =
        (PlainBool::new(false), PlainU64::new(0), PlainU64::new(0), PlainU64::new(0));
    // The server that each caller's last answer came from.
    let last: Vec<PlainU64> = (0..CALLERS).map(|_| PlainU64::new(0)).collect();
    let mut recoveries = Vec::new();
    std::thread::scope(|scope| {
        struct Stop<'a>(&'a PlainBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let stopper = Stop(&stop);
        for caller in 0..CALLERS {
            let (pool, stop, calls, lost, unsent, last) =
                (&pool, &stop, &calls, &lost, &unsent, &last);
            scope.spawn(move || {
                let mut number = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    let request = [caller.to_le_bytes(), number.to_le_bytes()].concat();
                    match pool.call(&request) {
                        Ok(answer) => {
                            let server = answered_by(&request, &answer);
                            last[usize::try_from(caller).expect("few")]
                                .store(server.into(), Ordering::Relaxed);
                            calls.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(PoolCallError::Call(
                            CallError::Disconnected { maybe_executed }
                            | CallError::ShutDown { maybe_executed },
                        )) => {
                            let count = if maybe_executed { lost } else { unsent };
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => panic!("{error:?}"),
                    }
                }
            });
        }
        let everybody_reached = |server: &Process| {
            let id = u64::from(server.id());
            last.iter().all(|last| last.load(Ordering::Relaxed) == id)
        };
        for _ in 0..restarts {
            wait_until("all callers reach this server", || everybody_reached(&server));
            server.kill();
            server = start_server(&path);
            let began = Instant::now();
            let id = u64::from(server.id());
            wait_until("somebody reaches the next one", || {
                last.iter().any(|last| last.load(Ordering::Relaxed) == id)
            });
            recoveries.push(began.elapsed());
            tick();
        }
        wait_until("all callers reach the last server", || everybody_reached(&server));
        drop(stopper);
    });
    let stats = pool.stats();
    assert!(stats.peak <= 6, "{stats:?}");
    assert_eq!((stats.in_use, stats.waiting, stats.timeouts), (0, 0, 0));
    // Each connection that was in use at a death lost the one request that was on its way, and no
    // more.
    let (lost, unsent) = (lost.load(Ordering::Relaxed), unsent.load(Ordering::Relaxed));
    assert!(lost <= restarts * 6, "{lost} requests were lost in {restarts} restarts: {stats:?}");
    assert!(stats.opened > restarts, "{stats:?}");
    recoveries.sort_unstable();
    let percent = |percent: usize| recoveries[(recoveries.len() - 1) * percent / 100];
    done!(
        "{restarts} restarts, {} calls of {CALLERS} callers over 6 connections, all answers right; {lost} lost and {unsent} \
         not sent, all told; recovered after p50 {:.1?}, p99 {:.1?}",
        calls.load(Ordering::Relaxed),
        percent(50),
        percent(99)
    )
}

pub(crate) fn a_hundred_callers_and_sixteen_connections() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("test.sock");
    let _server = start_server(&path);
    let pool = connections(
        &path,
        Settings { health_check_interval: None, idle_timeout: None, ..settings(0, 16) },
    );
    let calls = scaled(200).max(20);
    std::thread::scope(|scope| {
        for caller in 0_u64..100 {
            let pool = &pool;
            scope.spawn(move || {
                for number in 0..calls {
                    let request = [caller.to_le_bytes(), number.to_le_bytes()].concat();
                    answered_by(&request, &pool.call(&request).expect("an answer"));
                }
            });
        }
    });
    let stats = pool.stats();
    assert!(stats.opened <= 16 && stats.peak <= 16, "{stats:?}");
    assert_eq!(stats.closed.total(), 0, "nobody dialled twice: {stats:?}");
    assert_eq!(stats.acquired, 100 * calls);
    let opened = stats.opened;
    // All warm: no more dials, whatever happens.
    for _ in 0..scaled(1000) {
        pool.call(b"more").expect("an answer");
    }
    assert_eq!(pool.stats().opened, opened);
    done!("{} calls, {opened} dials, {} waited", 100 * calls, stats.waits)
}

pub(crate) fn what_is_not_between_requests_is_not_used_again() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("test.sock");
    let mut server = start_server(&path);
    let pool = connections(&path, settings(0, 4));
    let session_of = |pool: &ConnectionPool| pool.acquire().expect("a connection").session();
    let kept = session_of(&pool);
    assert_eq!(session_of(&pool), kept, "one that was not used comes back");
    pool.acquire().expect("a connection").call(b"x").expect("an answer");
    assert_eq!(session_of(&pool), kept, "so does one whose call is over");
    // An answer that nobody took.
    pool.acquire().expect("a connection").send(b"x").expect("sent");
    let second = session_of(&pool);
    assert_ne!(second, kept);
    // A call that was given up.
    server.stop();
    let mut connection = pool.acquire().expect("a connection");
    let error = connection.call_timeout(b"x", Some(Duration::from_millis(5))).map(drop);
    assert_eq!(error, Err(CallError::TimedOut { maybe_executed: true }));
    server.go_on();
    drop(connection);
    let third = session_of(&pool);
    assert_ne!(third, second);
    // A stream that was not read to its end.
    let mut connection = pool.acquire().expect("a connection");
    connection.call_stream(b"no stream").expect("sent");
    drop(connection);
    assert_ne!(session_of(&pool), third);
    // A caller that panicked.
    let fourth = session_of(&pool);
    let panicked = std::thread::scope(|scope| {
        let panicking = scope.spawn(|| {
            let _connection = pool.acquire().expect("a connection");
            std::panic::resume_unwind(Box::new("meant"));
        });
        panicking.join().is_err()
    });
    assert!(panicked);
    assert_ne!(session_of(&pool), fourth);
    let stats = pool.stats();
    assert_eq!((stats.closed.poisoned, stats.closed.total()), (4, 4), "{stats:?}");
    // A remote error is an answer like any other; and a request that is too large was not sent.
    let fifth = session_of(&pool);
    let mut connection = pool.acquire().expect("a connection");
    let max = connection.max_message();
    let error = connection.call(&vec![0; max + 1]).map(drop);
    assert!(matches!(error, Err(CallError::TooLarge { .. })));
    drop(connection);
    assert_eq!(session_of(&pool), fifth);
    server.kill();
    done!("4 closed, 5 kept")
}

pub(crate) fn an_idle_pool_survives_a_restart_unnoticed() -> Ran {
    let rounds = scaled(20).max(3);
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("test.sock");
    let mut server = start_server(&path);
    let pool = connections(&path, settings(2, 4));
    for _ in 0..rounds {
        wait_until("connections are ready", || pool.stats().idle >= 2);
        server.kill();
        server = start_server(&path);
        // Longer than a connection is trusted without being looked at.
        std::thread::sleep(Duration::from_millis(40));
        let answer = pool.call(b"hello").expect("no request was on its way when the server died");
        assert_eq!(answered_by(b"hello", &answer), server.id());
        tick();
    }
    done!("{rounds} restarts, no error")
}
