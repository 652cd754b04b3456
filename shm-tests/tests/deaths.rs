//! SIGKILL, at every named point of the protocol and at any moment, of clients and of servers.
//!
//! What must hold: no message is torn, comes twice, or is lost without an error; the survivor learns of it in
//! time, however it waits; the server goes on serving others, and has afterwards what it had before.

use ringbell::stats::SessionCounters;
use ringbell::sync::{Ordering, PlainU64};
use ringbell::{CallError, ConnectError, ConnectOptions, RecvError, SendError, WaitSettings, kill_point};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::{Chance, Pattern, mix};
use ringbell_shm_tests::process::{Arguments, Process, Start, hear, readable, say};
use ringbell_shm_tests::progress::{Stopwatch, stalled, tick};
use ringbell_shm_tests::server::{Server, read_ledger, waiting};
use ringbell_shm_tests::verified::Verified;
use ringbell_shm_tests::{done, observe, options, scaled, seed, signals, suite, wait_until};
use rustix::process::Pid;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

suite! {
    both: [sigpipe_kills_nobody],
    // About points of the protocol of rings and bells, and about rings that are full.
    tests: [
        clients_die,
        servers_die,
        a_ring_that_dies_with_its_ringer_is_no_lost_wake_of_the_server,
        a_ring_that_dies_with_its_ringer_is_no_lost_wake_of_the_client,
        a_lost_ring_does_not_delay_the_news,
        a_client_that_receives_with_short_timeouts_learns_of_the_death,
        a_client_that_calls_with_short_timeouts_learns_of_the_death,
        a_client_that_only_sends_learns_of_the_death,
    ],
    roles: [victim, bereaved],
}

/// How long a survivor may take to learn of a death.
const IN_TIME: Duration = Duration::from_millis(100);
/// Who comes by a point of the protocol.
fn who(point: &str) -> &'static [&'static str] {
    match point {
        "rung" => &["client", "server"],
        "request-claimed" | "request-posted" => &["client"],
        "response-posted" | "request-taken" => &["server"],
        point if point.starts_with("client-") => &["client"],
        point if ["server-", "porter-", "handshake-"].iter().any(|word| point.starts_with(word)) => {
            &["server"]
        }
        point => panic!("say who comes by the point {point}"),
    }
}

/// Times that survivors needed.
#[derive(Default)]
struct Times {
    needed: Vec<Duration>,
    late: Vec<String>,
    excused: usize,
}

impl Times {
    /// Takes note of a time, in which the machine stood still for `stalled`.
    fn add(&mut self, needed: Duration, stalled: Duration, what: impl FnOnce() -> String) {
        if needed.saturating_sub(stalled) > IN_TIME {
            self.late.push(format!("{}: after {needed:?}", what()));
        } else if needed > IN_TIME {
            self.excused += 1;
        }
        self.needed.push(needed);
    }

    fn summary(&mut self) -> String {
        assert!(
            self.late.is_empty(),
            "{} of {} learnt of it too late:\n{}",
            self.late.len(),
            self.needed.len(),
            self.late.join("\n")
        );
        self.needed.sort_unstable();
        let at = |part: usize| self.needed.get(self.needed.len() * part / 100).copied().unwrap_or_default();
        let most = self.needed.last().copied().unwrap_or_default();
        let excused = self.excused;
        format!(
            "learnt in {:?} (median), {:?} (99 %), {most:?} (most; {excused} over {IN_TIME:?} on a machine that stood still)",
            at(50),
            at(99)
        )
    }
}

/// A client that goes on until it is killed.
fn victim(arguments: &Arguments) {
    let settings = waiting(arguments.text("wait"), WaitSettings::client());
    let pattern = Pattern::new(arguments.number("sender"), 700).with_large(20, 10_000);
    let mut client =
        Verified::connect(Path::new(arguments.text("path")), ConnectOptions::new().wait(settings), pattern);
    say("ready");
    // A pause lets the server fall asleep, so that there is somebody to ring for.
    let pause = Duration::from_micros(arguments.number("pause_us"));
    let depth = usize::try_from(arguments.number("depth")).expect("small");
    loop {
        client.pipeline(depth as u64, depth);
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }
}

fn start_victim(server: &Server, sender: u64, wait: &str, depth: u64, kill_at: Option<String>) -> Process {
    let start = Start::role("victim")
        .with("path", server.path().display())
        .with("sender", sender)
        .with("wait", wait)
        .with("depth", depth)
        .with("pause_us", if depth == 1 { 300 } else { 0 });
    match kill_at {
        Some(point) => start.env("RINGBELL_KILL_AT", point),
        None => start,
    }
    .start()
}

/// Calls until it is told to stop; how many calls. It must not notice anything.
fn witness(path: &Path, stop: &PlainU64) -> u64 {
    let mut client =
        Verified::connect(path, ConnectOptions::new(), Pattern::new(1 << 32, 700).with_large(50, 20_000));
    while stop.load(Ordering::Relaxed) == 0 {
        client.call(None).expect("the witness notices nothing");
        std::thread::sleep(Duration::from_micros(500));
    }
    let calls = client.sent();
    client.finish();
    calls
}

fn clients_die() -> Ran {
    let rounds = scaled(500);
    let mut chance = Chance::new(mix(seed(), 1));
    let mut server =
        Server::prepare("verify").with("ring_capacity", 2048).with("wait", "park").with("sigpipe", 1).start();
    let stop = PlainU64::new(0);
    let path = server.path().to_owned();
    let points: Vec<&str> =
        kill_point::ALL.iter().copied().filter(|point| who(point).contains(&"client")).collect();
    let mut times = Times::default();
    let mut killed_at = vec![0u64; points.len() + 1];
    let witnessed = std::thread::scope(|scope| {
        let witness = scope.spawn(|| witness(&path, &stop));
        let stop = StopOnDrop(&stop);
        server.wait_for_sessions(1);
        let mut round = |number: u64, server: &mut Server, chance: &mut Chance, times: &mut Times| {
            tick();
            // Every second round at a point, the others whenever it happens to be.
            let point = usize::try_from(number / 2).expect("small") % points.len();
            let at_point = number.is_multiple_of(2).then(|| points[point]);
            let alone = matches!(at_point, Some("rung" | "client-armed"));
            let depth = if alone || chance.below(2) == 0 { 1 } else { 1 + chance.below(30) };
            let wait = if at_point == Some("client-armed") {
                "park"
            } else {
                ["default", "park", "spin", "yield"][usize::try_from(chance.below(4)).expect("small")]
            };
            let count = if at_point.is_some_and(once_a_session) { 1 } else { 1 + chance.below(60) };
            let mut victim =
                start_victim(server, number, wait, depth, at_point.map(|at| format!("{at}:{count}")));
            if at_point.is_none() {
                victim.expect("ready");
                std::thread::sleep(Duration::from_micros(chance.below(5000)));
                victim.kill();
            } else {
                victim.is_killed();
            }
            let died = Stopwatch::start();
            wait_until("the server is rid of the dead client", || server.stats().sessions == 1);
            times.add(died.elapsed(), died.elapsed().saturating_sub(died.awake()), || {
                format!("the server, of a client at {at_point:?}:{count}")
            });
            killed_at[if at_point.is_some() { point } else { points.len() }] += 1;
        };
        // Whatever the server keeps from a first client on it has after these.
        for number in 0..2 * points.len() as u64 {
            round(number, &mut server, &mut chance, &mut times);
        }
        let before = Holdings::of(server.id());
        for number in 0..rounds {
            round(number, &mut server, &mut chance, &mut times);
        }
        let mut after = Holdings::of(server.id());
        // The porter lets go of a descriptor a moment after the reactor has counted.
        wait_until("the server has what it had before", || {
            after = Holdings::of(server.id());
            after.descriptors.len() <= before.descriptors.len() && after.mappings <= before.mappings
        });
        assert!(after.shared_bytes <= before.shared_bytes + 256 * 1024, "{before:?}, then {after:?}");
        assert!(after.private_bytes <= before.private_bytes + 4 * 1024 * 1024, "{before:?}, then {after:?}");
        drop(stop);
        witness.join().expect("the witness")
    });
    let stats = server.shut_down();
    assert_eq!((stats.peer_faults, stats.slow_clients, stats.panics, stats.errors), (0, 0, 0, 0));
    let killed: Vec<String> =
        points.iter().zip(&killed_at).map(|(point, count)| format!("{point} {count}")).collect();
    done!(
        "{} clients killed ({}, at any moment {}); {}; {witnessed} calls of a witness; late rings {}",
        killed_at.iter().sum::<u64>(),
        killed.join(", "),
        killed_at[points.len()],
        times.summary(),
        stats.late_rings
    )
}

/// Tells the witness to stop, also when the test fails.
struct StopOnDrop<'a>(&'a PlainU64);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(1, Ordering::Relaxed);
    }
}

/// Whether a client comes by this point once only, while it connects.
fn once_a_session(point: &str) -> bool {
    point.starts_with("client-") && point != "client-armed"
}

/// What a process holds.
#[derive(Debug)]
#[allow(dead_code, reason = "shown in messages")]
struct Holdings {
    descriptors: Vec<String>,
    mappings: usize,
    shared_bytes: u64,
    private_bytes: u64,
}

impl Holdings {
    fn of(pid: u32) -> Self {
        Self {
            descriptors: observe::descriptor_targets(pid),
            mappings: observe::memfd_mappings(pid),
            shared_bytes: observe::shared_bytes(pid),
            private_bytes: observe::private_bytes(pid),
        }
    }
}

/// How a survivor of a server spends its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    /// One call after the other, waiting as named.
    Call(&'static str),
    /// Pipelined, waiting as named.
    Pipeline(&'static str),
    /// Sends, then looks again and again.
    Poll,
    /// Calls with a pause in between, so that both fall asleep.
    Paced,
}

const HABITS: [Habit; 9] = [
    Habit::Call("default"),
    Habit::Call("spin"),
    Habit::Pipeline("park"),
    Habit::Call("park"),
    Habit::Poll,
    Habit::Call("yield"),
    Habit::Paced,
    Habit::Pipeline("default"),
    Habit::Pipeline("yield"),
];

/// How it went with a survivor.
struct Survived {
    answered: u64,
    /// Requests that the library says were, or may have been, sent.
    sent: u64,
    /// When the last use of the library began, and when it said that the server is gone.
    asked: Instant,
    learnt: Instant,
    /// For how long the thread had no CPU until then.
    without_cpu: Duration,
    rescues: u64,
    counts: SessionCounters,
}

/// Talks to the server until it is gone; `None` if it was gone already.
fn survive(path: &Path, sender: u64, habit: Habit) -> Option<Survived> {
    let wait = match habit {
        Habit::Call(wait) | Habit::Pipeline(wait) => wait,
        Habit::Poll | Habit::Paced => "default",
    };
    let options = ConnectOptions::new().wait(waiting(wait, WaitSettings::client()));
    let client = match options.connect(path) {
        Ok(client) => client,
        Err(ConnectError::ServerDied | ConnectError::NobodyListens(_)) => return None,
        Err(error) => panic!("an unexpected error of connect: {error:?}"),
    };
    let mut client = match Verified::open(client, Pattern::new(sender, 700).with_large(30, 20_000)) {
        Ok(client) => client,
        Err(CallError::Disconnected { .. }) => return None,
        Err(error) => panic!("an unexpected error of the first call: {error:?}"),
    };
    let mut asked = Instant::now();
    let error = loop {
        let result = match habit {
            Habit::Call(_) => at(&mut asked, || client.call(None)),
            Habit::Paced => {
                std::thread::sleep(Duration::from_micros(200));
                at(&mut asked, || client.call(None))
            }
            Habit::Pipeline(_) => pipeline(&mut client, &mut asked),
            Habit::Poll => poll(&mut client, &mut asked),
        };
        if let Err(error) = result {
            break error;
        }
    };
    let learnt = Instant::now();
    let without_cpu = observe::time_without_cpu(rustix::thread::gettid());
    assert!(matches!(error, CallError::Disconnected { .. }), "{habit:?}: {error:?}");
    // What was set aside before is still good. Then what is over stays over, and says so at once.
    loop {
        match client.try_recv() {
            Ok(true) => {}
            Err(RecvError::Disconnected) => break,
            other => panic!("{habit:?}: {other:?}"),
        }
    }
    let inner = client.client();
    assert_eq!(inner.send(b"x"), Err(SendError::Disconnected));
    assert_eq!(inner.call(b"x").unwrap_err(), CallError::Disconnected { maybe_executed: false });
    assert!(matches!(inner.try_recv(), Err(RecvError::Disconnected)));
    let sent = client.sent();
    let answered = sent
        - client.in_flight() as u64
        - u64::from(
            error == CallError::Disconnected { maybe_executed: true }
                && matches!(habit, Habit::Call(_) | Habit::Paced),
        );
    let counts = client.abandon();
    let rescues = counts.backstop_rescues;
    // The server may have died between publishing and ringing: see `a_ring_that_dies_with_its_ringer`.
    assert!(rescues <= 1, "{habit:?}: {rescues} lost wakes");
    Some(Survived { answered, sent, asked, learnt, without_cpu, rescues, counts })
}

/// Uses the library, having noted when.
fn at<T>(asked: &mut Instant, body: impl FnOnce() -> T) -> T {
    *asked = Instant::now();
    body()
}

fn pipeline(client: &mut Verified, asked: &mut Instant) -> Result<(), CallError> {
    while client.in_flight() < 12 {
        at(asked, || client.send(None))?;
    }
    while client.in_flight() > 4 {
        at(asked, || client.recv(None)).map_err(received)?;
    }
    Ok(())
}

fn poll(client: &mut Verified, asked: &mut Instant) -> Result<(), CallError> {
    at(asked, || client.send(None))?;
    // The whole of the polling is one wait.
    *asked = Instant::now();
    while client.in_flight() > 0 {
        client.try_recv().map_err(received)?;
    }
    Ok(())
}

fn received(error: RecvError) -> CallError {
    match error {
        RecvError::Disconnected => CallError::Disconnected { maybe_executed: true },
        other => panic!("an unexpected error of recv: {other:?}"),
    }
}

fn servers_die() -> Ran {
    let rounds = scaled(500);
    let mut chance = Chance::new(mix(seed(), 2));
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("test.sock");
    let ledger = dir.path().join("ledger");
    let points: Vec<&str> =
        kill_point::ALL.iter().copied().filter(|point| who(point).contains(&"server")).collect();
    let mut times = Times::default();
    let (mut at_connect, mut answered, mut lost, mut rescues) = (0u64, 0, 0, 0);
    let mut before = None;
    for number in 0..rounds {
        tick();
        let point = points[usize::try_from(number / 2).expect("small") % points.len()];
        let at_point = number.is_multiple_of(2).then_some(point);
        let habits = [
            HABITS[usize::try_from(number).expect("small") % HABITS.len()],
            // To ring for a client takes one that sleeps.
            if at_point == Some("rung") {
                Habit::Call("park")
            } else {
                HABITS[usize::try_from(chance.below(9)).expect("small")]
            },
        ];
        let wait = if at_point == Some("server-armed") {
            "park"
        } else {
            ["default", "park", "spin", "yield"][usize::try_from(chance.below(4)).expect("small")]
        };
        let count = if at_point.is_some_and(|at| at.starts_with("handshake-") || at.starts_with("porter-")) {
            1
        } else {
            1 + chance.below(100)
        };
        let _ = std::fs::remove_file(&ledger);
        // At the path, and over the stale socket, of the server that died before.
        let mut prepared = Server::prepare_at(&path, "verify")
            .with("ring_capacity", 2048)
            .with("wait", wait)
            .with("ledger", ledger.display());
        if let Some(at) = at_point {
            prepared = prepared.env("RINGBELL_KILL_AT", format!("{at}:{count}"));
        }
        let mut server = prepared.start();
        let watched = observe::open_pidfd(server.id());
        let threads = [const { OnceLock::new() }; 2];
        let survivors = std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                assert!(
                    readable(&watched, Duration::from_secs(50)),
                    "{at_point:?}:{count} was never reached"
                );
                let died = Instant::now();
                let waited = threads.each_ref().map(|thread: &OnceLock<Pid>| {
                    thread.get().map_or(Duration::ZERO, |thread| observe::time_without_cpu(*thread))
                });
                (died, stalled(), waited)
            });
            let clients = [0, 1].map(|sender: usize| {
                let (path, habit, thread) = (&path, habits[sender], &threads[sender]);
                scope.spawn(move || {
                    thread.set(rustix::thread::gettid()).expect("once");
                    survive(path, sender as u64, habit)
                })
            });
            if at_point.is_none() {
                std::thread::sleep(Duration::from_micros(2000 + chance.below(8000)));
                server.process().kill();
            }
            let (died, stood, waited) = watcher.join().expect("the watcher");
            let survived = clients.map(|client| client.join().expect("a survivor"));
            let stood = stalled().saturating_sub(stood);
            survived.into_iter().zip(waited).map(move |(survived, waited)| {
                let without_cpu = survived.as_ref().map_or(waited, |survived| survived.without_cpu);
                (died, stood.max(without_cpu.saturating_sub(waited)), survived)
            })
        });
        server.process().is_killed();
        let executed = read_ledger(&ledger);
        for (sender, (died, stood, survived)) in (0u64..).zip(survivors) {
            let Some(survived) = survived else {
                at_connect += 1;
                continue;
            };
            let habit = habits[usize::try_from(sender).expect("small")];
            let needed = survived.learnt.saturating_duration_since(died.max(survived.asked));
            times.add(needed, stood, || {
                format!("{habit:?} after {at_point:?}:{count}, {:?}", survived.counts)
            });
            let own: Vec<u64> =
                executed.iter().filter(|(by, _)| *by == sender).map(|(_, seq)| *seq).collect();
            assert!(own.iter().copied().eq(0..own.len() as u64), "executed in order and once: {own:?}");
            let count = own.len() as u64;
            assert!(
                survived.answered <= count && count <= survived.sent,
                "{habit:?} after {at_point:?}: {} answered, {count} executed, {} sent",
                survived.answered,
                survived.sent
            );
            answered += survived.answered;
            lost += survived.sent - survived.answered;
            rescues += survived.rescues;
        }
        drop(watched);
        drop(server);
        if number == 20 {
            before =
                Some((observe::descriptors(std::process::id()), observe::memfd_mappings(std::process::id())));
        }
    }
    if let Some(before) = before {
        let after = (observe::descriptors(std::process::id()), observe::memfd_mappings(std::process::id()));
        assert_eq!(after, before, "descriptors and mappings of the survivor");
    }
    done!(
        "{rounds} servers killed with two clients each ({at_connect} of them were still connecting); {}; {answered} calls answered, {lost} ended with an error, {rescues} rings died with their ringer",
        times.summary()
    )
}

/// A client that publishes a request and dies before it rings: the sleeping server finds the request by its
/// backstop, and no wake was lost, since nobody lived to make it.
fn a_ring_that_dies_with_its_ringer_is_no_lost_wake_of_the_server() -> Ran {
    let rounds = scaled(20);
    let mut server = Server::prepare("verify").with("wait", "park").start();
    for number in 0..rounds {
        let mut victim = start_victim(&server, number, "park", 1, Some("request-posted:5".into()));
        victim.is_killed();
        server.wait_for_sessions(0);
    }
    let stats = server.stats();
    assert_eq!(stats.backstop_rescues, 0, "of {rounds} deaths: {stats:?}");
    server.shut_down();
    done!("{rounds} clients; late rings {}", stats.late_rings)
}

/// The same with a server that dies before it rings a sleeping client.
fn a_ring_that_dies_with_its_ringer_is_no_lost_wake_of_the_client() -> Ran {
    let rounds = scaled(20);
    let (mut rescues, mut late) = (0, 0);
    for _ in 0..rounds {
        let server = Server::prepare("verify").env("RINGBELL_KILL_AT", "response-posted:5").start();
        let options = ConnectOptions::new().wait(WaitSettings::client().park_at_once());
        let mut client = Verified::connect(server.path(), options, Pattern::new(0, 700));
        while client.call(None).is_ok() {}
        let counts = client.abandon();
        rescues += counts.backstop_rescues;
        late += counts.late_rings;
    }
    assert_eq!(rescues, 0, "lost wakes of clients after {rounds} deaths of servers");
    done!("{rounds} servers; late rings {late}")
}

/// A server that dies having rung, or published, a part of a long answer: the sleeping client finds that part by its
/// backstop, and must not sleep for as long once more.
fn a_lost_ring_does_not_delay_the_news() -> Ran {
    let rounds = scaled(20);
    let mut slowest = Duration::ZERO;
    for round in 0..rounds {
        tick();
        // The first ring is for the answer to the opening.
        let point = if round % 2 == 0 { "rung:2" } else { "rung:3" };
        let server =
            Server::prepare("verify").with("ring_capacity", 2048).env("RINGBELL_KILL_AT", point).start();
        let watched = observe::open_pidfd(server.id());
        let options = ConnectOptions::new().wait(WaitSettings::client().park_at_once());
        // All messages are long.
        let mut client =
            Verified::connect(server.path(), options, Pattern::new(round, 0).with_large(1, 20_000));
        let own = rustix::thread::gettid();
        let (died, learnt, stood) = std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                assert!(readable(&watched, Duration::from_secs(50)), "{point} was never reached");
                (Instant::now(), stalled(), observe::time_without_cpu(own))
            });
            while client.call(None).is_ok() {}
            let learnt = Instant::now();
            let without_cpu = observe::time_without_cpu(own);
            let (died, stood, waited) = watcher.join().expect("the watcher");
            (died, learnt, stalled().saturating_sub(stood).max(without_cpu.saturating_sub(waited)))
        });
        slowest = slowest.max(learnt.saturating_duration_since(died).saturating_sub(stood));
    }
    // A tenth is the scheduler's: two whole sleeps would leave it nothing.
    assert!(slowest < IN_TIME * 9 / 10, "a client in a call learnt of it after {slowest:?} only");
    done!("{rounds} servers, learnt after {slowest:?} at most")
}

fn dead_server() -> (Server, ringbell::Client) {
    let mut server = Server::verifying();
    let mut client = ConnectOptions::new().connect(server.path()).expect("connect");
    let opening = Pattern::new(1, 10).opening();
    client.call(&opening).expect("the first call");
    server.process().kill();
    (server, client)
}

/// What `attempt` says at last, and after how long. It is tried for two seconds at most.
fn until_it_says<E>(mut attempt: impl FnMut() -> Result<(), E>) -> (Option<E>, Duration) {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        if let Err(error) = attempt() {
            return (Some(error), began.elapsed());
        }
    }
    (None, began.elapsed())
}

fn a_client_that_receives_with_short_timeouts_learns_of_the_death() -> Ran {
    let (_server, mut client) = dead_server();
    client.send(b"").expect("there is room");
    let (said, after) = until_it_says(|| match client.recv(Some(Duration::from_micros(50))) {
        Err(RecvError::TimedOut) => Ok(()),
        Err(error) => Err(error),
        Ok(answer) => panic!("{answer:?}"),
    });
    assert_eq!(said, Some(RecvError::Disconnected), "recv(50 us) again and again, for {after:?}");
    assert!(after < IN_TIME * 5, "after {after:?}");
    done!("recv(50 us) says so after {after:?}")
}

fn a_client_that_calls_with_short_timeouts_learns_of_the_death() -> Ran {
    let (_server, mut client) = dead_server();
    let (said, after) = until_it_says(|| match client.call_timeout(b"", Some(Duration::from_micros(50))) {
        Err(CallError::TimedOut { .. }) => Ok(()),
        Err(error) => Err(error),
        Ok(answer) => panic!("{answer:?}"),
    });
    assert!(
        matches!(said, Some(CallError::Disconnected { .. })),
        "call(50 us) again and again, for {after:?}: {said:?}"
    );
    assert!(after < IN_TIME * 5, "after {after:?}");
    done!("call(50 us) says so after {after:?}")
}

fn a_client_that_only_sends_learns_of_the_death() -> Ran {
    let (_server, mut client) = dead_server();
    let (said, after) = until_it_says(|| {
        std::thread::sleep(Duration::from_millis(1));
        client.send_timeout(&[0; 1000], Some(Duration::ZERO)).map(drop).or_else(|error| match error {
            SendError::TimedOut => Ok(()),
            error => Err(error),
        })
    });
    assert_eq!(said, Some(SendError::Disconnected), "after {after:?}");
    done!("send says so after {after:?}")
}

/// Outlives its server in a process that SIGPIPE would kill.
fn bereaved(arguments: &Arguments) {
    signals::die_of_sigpipe();
    let connect = || options().connect(arguments.text("path")).expect("connect");
    let mut clients = [connect(), connect(), connect()];
    say("ready");
    let _ = hear();
    let [talking, sending, _silent] = &mut clients;
    assert!(matches!(talking.call(b"x"), Err(CallError::Disconnected { .. })));
    while sending.send_timeout(&[0; 1000], Some(Duration::ZERO)).is_ok() {}
    // And their goodbyes.
    drop(clients);
    say("done");
}

fn sigpipe_kills_nobody() -> Ran {
    let mut server = Server::verifying();
    let mut client = Start::role("bereaved").with("path", server.path().display()).start();
    client.expect("ready");
    server.process().kill();
    client.tell("go");
    client.expect("done");
    client.succeed();
    done!("3 clients; and see the server of `clients_die`")
}
