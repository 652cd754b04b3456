//! Warm pools with real processes: servers that die under load, workers that are killed, stopped or never ready,
//! descriptors that run out, forks, and parents that go.

use ringbell::pool::{AcquireError, BuildError, Settings, SettingsError};
use ringbell::sync::{Ordering, PlainBool, PlainU64};
use ringbell::worker::{Attach, LineError, LineWorkers, PoolsError, SocketWorkers, WorkerSpec};
use ringbell::worker::{WorkerCallError, line_workers};
use ringbell::{CallError, ConnectionPool, PoolCallError, Pools, WorkerCommand, WorkerPool};
use ringbell_shm_tests::process::{Arguments, Process, Start, hear, say};
use ringbell_shm_tests::suite::{Ran, tick};
use ringbell_shm_tests::{done, observe, options, scaled, signals, suite, wait_until};
use rustix::process::{Pid, Resource, Rlimit, Signal};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

suite! {
    both: [
        a_server_that_is_killed_again_and_again,
        a_hundred_callers_and_sixteen_connections,
        what_is_not_between_requests_is_not_used_again,
        an_idle_pool_survives_a_restart_unnoticed,
    ],
    tests: [
        descriptors_that_run_out,
        a_forked_child_touches_nothing,
        workers_are_replaced_when_they_die_or_hang,
        workers_that_never_serve_say_why,
        workers_die_with_their_parent,
        workers_outlive_the_thread_that_asked_for_them,
        a_worker_that_inherits_its_socket,
        line_workers_and_their_answers,
        line_workers_that_misbehave,
        pools_by_id,
        spawn_per_use,
    ],
    roles: [echo_server, worker, exhausted, forking, owner],
}

// ---- servers ----

/// Echoes, and adds its process id.
fn serve(server: ringbell::Server) {
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

fn echo_server(arguments: &Arguments) {
    let server = ringbell::Server::builder().max_clients(256).bind(arguments.text("path")).expect("bind");
    say("ready");
    serve(server);
}

fn start_server(path: &Path) -> Process {
    let mut server = Start::role("echo_server").with("path", path.display()).start();
    server.expect("ready");
    server
}

fn settings(min_idle: usize, max_size: usize) -> Settings {
    Settings { min_idle, max_size, acquire_timeout: Some(Duration::from_secs(30)), ..Settings::default() }
}

fn connections(path: &Path, settings: Settings) -> ConnectionPool {
    ConnectionPool::with_options(path, options(), settings).expect("settings that make sense")
}

/// The server that answered, if the answer is the one to this request.
fn answered_by(request: &[u8], answer: &[u8]) -> u32 {
    let (echo, pid) = answer.split_at_checked(request.len()).expect("long enough");
    assert_eq!(echo, request, "the answer to another request");
    u32::from_le_bytes(pid.try_into().expect("a process id"))
}

fn a_server_that_is_killed_again_and_again() -> Ran {
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
            let (pool, stop, calls, lost, unsent, last) = (&pool, &stop, &calls, &lost, &unsent, &last);
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
    // Each connection that was in use at a death lost the one request that was on its way, and no more.
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

fn a_hundred_callers_and_sixteen_connections() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("test.sock");
    let _server = start_server(&path);
    let pool =
        connections(&path, Settings { health_check_interval: None, idle_timeout: None, ..settings(0, 16) });
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

fn what_is_not_between_requests_is_not_used_again() -> Ran {
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

fn an_idle_pool_survives_a_restart_unnoticed() -> Ran {
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

// ---- a process without descriptors ----

fn open_all_but(spare: usize) -> Vec<std::fs::File> {
    let mut files = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        files.push(file);
    }
    files.truncate(files.len().saturating_sub(spare));
    files
}

/// Sets the soft limit, for this process and those it starts; `None` for as many as it may.
fn limit_descriptors(limit: Option<u64>) {
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    let current = limit.or(maximum);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current, maximum }).expect("limit");
}

fn exhausted(arguments: &Arguments) {
    let path = Path::new(arguments.text("path"));
    limit_descriptors(Some(32));
    let pool =
        connections(path, Settings { acquire_timeout: Some(Duration::from_millis(300)), ..settings(0, 4) });
    let first = pool.acquire().expect("descriptors are left");
    let files = open_all_but(0);
    match pool.acquire() {
        Err(AcquireError::TimedOut { cause: Some(cause) }) => {
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
    assert!(matches!(workers.acquire(), Err(AcquireError::TimedOut { cause: Some(_) })));
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

fn descriptors_that_run_out() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("test.sock");
    let _server = start_server(&path);
    let mut process = Start::role("exhausted").with("path", path.display()).start();
    process.expect("done");
    process.succeed();
    done!("errors of connections and of workers, and recovery")
}

// ---- forks ----

fn forking(arguments: &Arguments) {
    let path = Path::new(arguments.text("path"));
    let pool = connections(path, settings(1, 4));
    let workers = WorkerPool::new(worker_command(), path.parent().expect("a directory"), settings(1, 2));
    let workers = workers.expect("a pool");
    let mut lines = Vec::new();
    for _ in 0..arguments.number("rounds") {
        let mut connection = pool.acquire().expect("a connection");
        connection.call(b"x").expect("an answer");
        let worker = workers.acquire().expect("a worker");
        let id = worker.id();
        let line = line_workers(LineWorkers::new(WorkerCommand::new("cat")), settings(1, 1)).expect("a pool");
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

fn a_forked_child_touches_nothing() -> Ran {
    let rounds = scaled(10).max(2);
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("test.sock");
    let _server = start_server(&path);
    let mut process = Start::role("forking").with("path", path.display()).with("rounds", rounds).start();
    process.expect("done");
    process.succeed();
    done!("{rounds} children that dropped guards and pools")
}

// ---- workers that serve ----

/// A worker of this program: serves wherever its parent wants it to.
fn worker(arguments: &Arguments) {
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

fn worker_command() -> WorkerCommand {
    WorkerCommand::new(std::env::current_exe().expect("this program has a path"))
        .env("RINGBELL_TEST_ROLE", "worker")
        .env("RINGBELL_TEST_PARENT", std::process::id().to_string())
        .start_timeout(Duration::from_secs(30))
}

fn process(id: u32) -> Pid {
    i32::try_from(id).ok().and_then(Pid::from_raw).expect("a process id")
}

fn is_gone(id: u32) -> bool {
    observe::state(id).is_none()
}

/// Children of this process that have ended and were not waited for.
fn zombies() -> Vec<u32> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let children = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let children: Vec<u32> = children
        .flat_map(|text| text.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>())
        .collect();
    children.into_iter().filter(|id| observe::state(*id) == Some('Z')).collect()
}

fn workers_are_replaced_when_they_die_or_hang() -> Ran {
    let rounds = scaled(20).max(4);
    let dir = tempfile::tempdir().expect("a directory");
    let command = worker_command().ping_timeout(Duration::from_millis(300));
    let interval = Some(Duration::from_millis(50));
    let pool =
        WorkerPool::new(command, dir.path(), Settings { health_check_interval: interval, ..settings(2, 4) });
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
        // Whatever happens, calls are answered; the request goes to another worker if it was not executed.
        let answer = pool.call(b"hello", Some(Duration::from_secs(30))).expect("an answer");
        answered_by(b"hello", &answer);
        wait_until("it is gone, and no zombie", || is_gone(id));
        tick();
    }
    wait_until("workers are ready", || pool.stats().idle >= 2);
    assert_eq!(zombies(), [], "zombies");
    let stats = pool.stats();
    assert!(stats.closed.unhealthy > 0 && stats.closed.poisoned > 0 && stats.peak <= 4, "{stats:?}");
    let worker = pool.acquire().expect("a worker");
    let id = worker.id();
    drop(worker);
    drop(pool);
    // The keeper may be checking its health at this moment, and closes it afterwards.
    wait_until("a pool that is dropped takes its workers with it", || is_gone(id));
    // One may have been starting when the pool was dropped.
    wait_until("their sockets are gone", || std::fs::read_dir(dir.path()).expect("it").next().is_none());
    assert_eq!(zombies(), [], "zombies");
    done!("{rounds} workers killed, stopped, dead or hanging; {} opened", stats.opened)
}

fn workers_that_never_serve_say_why() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let short = Settings { acquire_timeout: Some(Duration::from_secs(2)), ..settings(0, 2) };
    let pool = |command| WorkerPool::new(command, dir.path(), short.clone()).expect("a pool");
    let error = pool(worker_command().arg("kind=crash")).acquire().map(drop).expect_err("it crashes");
    assert!(matches!(error, AcquireError::TimedOut { cause: Some(_) }), "{error:?}");
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
            assert!(failure.to_string().contains("/nonexistent/program cannot be started"), "{failure}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(zombies(), [], "zombies");
    let nonsense = WorkerPool::new(worker_command(), dir.path(), settings(3, 2)).map(drop);
    assert!(matches!(nonsense, Err(BuildError::Settings(SettingsError::MinIdleAboveMaxSize { .. }))));
    done!("crashed, mute and missing")
}

/// Has workers of each kind, tells who they are, and waits for its end.
fn owner(arguments: &Arguments) {
    let pool = WorkerPool::new(worker_command(), arguments.text("dir"), settings(2, 4)).expect("a pool");
    let lines = line_workers(LineWorkers::new(WorkerCommand::new("cat")), settings(1, 2)).expect("a pool");
    let first = pool.acquire().expect("a worker");
    let second = pool.acquire().expect("another");
    let cat = lines.acquire().expect("a cat");
    say(&format!("workers {} {} {}", first.id(), second.id(), cat.id()));
    let _ = hear();
}

fn workers_die_with_their_parent() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let mut owner = Start::role("owner").with("dir", dir.path().display()).start();
    let workers: Vec<u32> = owner.expect("workers").split(' ').map(|id| id.parse().expect("an id")).collect();
    assert!(workers.iter().all(|id| !is_gone(*id)));
    owner.kill();
    for worker in &workers {
        // Whoever adopts it may take its time to wait for it.
        wait_until("it is dead", || matches!(observe::state(*worker), None | Some('Z')));
    }
    done!("{} workers of a parent that was killed", workers.len())
}

fn workers_outlive_the_thread_that_asked_for_them() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    // Kept or not: where nothing is kept, the caller's own thread opens them.
    for enabled in [true, false] {
        let pool = WorkerPool::new(worker_command(), dir.path(), Settings { enabled, ..settings(0, 1) });
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

fn a_worker_that_inherits_its_socket() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let workers = SocketWorkers::new(worker_command(), dir.path(), "node:api").attach(Attach::Descriptor);
    let pool = WorkerPool::of(workers, settings(1, 2)).expect("a pool");
    for _ in 0..10 {
        pool.call(b"hello", None).expect("an answer");
    }
    let name = std::fs::read_dir(dir.path()).expect("it").flatten().next().expect("a socket").file_name();
    assert!(name.to_string_lossy().starts_with("node_api-"), "{name:?}");
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

// ---- workers that speak lines ----

fn shell(script: &str) -> LineWorkers {
    LineWorkers::new(WorkerCommand::new("sh").args(["-c", script]))
}

fn line_workers_and_their_answers() -> Ran {
    let soon = Some(Duration::from_secs(30));
    let script = r#"echo starting; echo go; while read -r n; do i=0; while [ $i -lt $n ]; do echo "line $i in $HERE at $PWD"; i=$((i+1)); done; echo .; done"#;
    let command = WorkerCommand::new("sh").args(["-c", script]).env("HERE", "this test").current_dir("/");
    let pool = line_workers(LineWorkers::new(command).ready_line("go"), settings(1, 1)).expect("a pool");
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
    let pool =
        line_workers(shell(r"while read -r x; do printf '1\n2\n'; done"), settings(1, 1)).expect("a pool");
    let mut worker = pool.acquire().expect("a shell");
    let id = worker.id();
    worker.write_line("x", soon).expect("it takes it");
    assert_eq!(worker.read_line(soon).expect("a line"), "1");
    worker.complete();
    drop(worker);
    assert_ne!(pool.acquire().expect("another one").id(), id);
    done!("5000 lines; 2 killed in the middle of an answer")
}

fn line_workers_that_misbehave() -> Ran {
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
    let pool = line_workers(shell("read x; echo half; echo 'out of cheese' >&2; exit 4"), settings(0, 1));
    let pool = pool.expect("a pool");
    let mut worker = pool.acquire().expect("a shell");
    worker.write_line("x", soon).expect("it takes it");
    match worker.read_until(soon, |_| false) {
        Err(LineError::Ended { printed }) => assert_eq!(printed, ["out of cheese"]),
        other => panic!("{other:?}"),
    }
    drop(worker);
    // Says a line without an end, and what is no text.
    let endless =
        shell("while :; do printf xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done").max_line(10_000);
    let pool = line_workers(endless, settings(0, 1)).expect("a pool");
    assert!(matches!(
        pool.acquire().map(|mut w| w.read_line(soon)),
        Ok(Err(LineError::TooLong { max: 10_000 })) | Err(AcquireError::TimedOut { .. })
    ));
    let pool = line_workers(shell(r"read x; printf '\377\n'; sleep 600"), settings(0, 1)).expect("a pool");
    let mut worker = pool.acquire().expect("a shell");
    worker.write_line("x", soon).expect("it takes it");
    assert!(matches!(worker.read_line(soon), Err(LineError::NotText)));
    drop(worker);
    // Does not become ready, and is healthy only while it answers.
    let command = WorkerCommand::new("sh").args(["-c", "exec sleep 600"]);
    let never = LineWorkers::new(command.start_timeout(Duration::from_millis(50))).ready_line("go");
    let short = Settings { acquire_timeout: Some(Duration::from_millis(500)), ..settings(0, 1) };
    match line_workers(never, short).expect("a pool").acquire() {
        Err(AcquireError::TimedOut { cause: Some(cause) }) => {
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

// ---- pools by id ----

fn pools_by_id() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let sockets = dir.path().join("made");
    let pools = Pools::new(&sockets, settings(1, 2));
    pools.define("node:api", worker_command()).expect("it is new");
    pools
        .define_with("cat", WorkerSpec::Lines(LineWorkers::new(WorkerCommand::new("cat"))), settings(0, 1))
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

fn spawn_per_use() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let pool = WorkerPool::new(worker_command(), dir.path(), Settings { enabled: false, ..settings(2, 3) });
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
