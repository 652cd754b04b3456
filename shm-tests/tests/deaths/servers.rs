//! Servers that die, at every named point and at any moment; what clients of every habit learn.

use crate::{Times, who};
use ringbell::stats::SessionCounters;
use ringbell::{
    CallError, ConnectError, ConnectOptions, RecvError, SendError, WaitSettings, kill_point,
};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::{Chance, Pattern, mix};
use ringbell_shm_tests::process::readable;
use ringbell_shm_tests::progress::{stalled, tick};
use ringbell_shm_tests::server::{Server, read_ledger, waiting};
use ringbell_shm_tests::verified::Verified;
use ringbell_shm_tests::{done, observe, scaled, seed};
use rustix::process::Pid;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

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
    let mut client = match Verified::open(client, Pattern::new(sender, 700).with_large(30, 20_000))
    {
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
    // The server may have died between publishing and ringing: see
    // `a_ring_that_dies_with_its_ringer`.
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

pub(crate) fn servers_die() -> Ran {
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
        let count = if at_point
            .is_some_and(|at| at.starts_with("handshake-") || at.starts_with("porter-"))
        {
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
            assert!(
                own.iter().copied().eq(0..own.len() as u64),
                "executed in order and once: {own:?}"
            );
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
            before = Some((
                observe::descriptors(std::process::id()),
                observe::memfd_mappings(std::process::id()),
            ));
        }
    }
    if let Some(before) = before {
        let after =
            (observe::descriptors(std::process::id()), observe::memfd_mappings(std::process::id()));
        assert_eq!(after, before, "descriptors and mappings of the survivor");
    }
    done!(
        "{rounds} servers killed with two clients each ({at_connect} of them were still connecting); {}; {answered} calls answered, {lost} ended with an error, {rescues} rings died with their ringer",
        times.summary()
    )
}
