//! A stateful service: an in-memory key-value store that keeps every version, with forks that go
//! their own ways.
//!
//! ```text
//! cargo run --release --example world_state                   # shows itself: a server and a client process
//! cargo run --release --example world_state -- serve PATH     # one terminal, until end of input
//! cargo run --release --example world_state -- play PATH      # another: plays against it, checks every answer
//! ```
//!
//! The server's one thread for I/O never waits: it looks at the head of each request and gives it
//! to the keyed scheduler, with the fork as key. Writes of a fork run alone, reads wait for the
//! writes before them, reads of old versions wait for nobody, and forks do not wait for each other.
//! The store has no order of its own to keep.
//!
//! - `world/store.rs`: the data.
//! - `world/protocol.rs`: the bytes.
//! - `world/serve.rs`: which request waits for which; any transport.
//! - `client.rs`: a client that knows what every answer must be.

mod client;
mod world;

use client::{Player, TOTAL, Tally, ask, play};
use ringbell::{ConnectOptions, HandlerError, OwnedRequest, Responder, Server, Task};
use std::error::Error;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};
use world::protocol::{Answer, Failure, Op, Request};
use world::serve::{Call, World};
use world::store::{Limits, ROOT};

// ---- the server ----

/// The budget of this service, and no function of the machine's size: its requests mostly wait.
const WORKERS: usize = 8;

/// Threads over one queue; they end when the executor is dropped. A program that has a pool uses
/// that.
fn workers(count: usize) -> impl ringbell::Executor {
    let (sender, tasks) = mpsc::channel::<Task>();
    let tasks = Arc::new(Mutex::new(tasks));
    for _ in 0..count {
        let tasks = tasks.clone();
        std::thread::spawn(move || {
            loop {
                let next = tasks.lock().expect("tasks do not panic while they are taken").recv();
                let Ok(task) = next else { return };
                task.run();
            }
        });
    }
    // The workers live as long as this sender.
    move |task| sender.send(task).expect("somebody receives")
}

/// A request of Ringbell.
struct Asked {
    request: OwnedRequest,
    responder: Responder,
}

impl Call for Asked {
    fn request(&self) -> &[u8] {
        self.request.payload()
    }

    fn is_wanted(&self) -> bool {
        !self.request.is_cancelled()
    }

    fn answer(self, answer: Result<&[u8], Failure>) {
        match answer {
            Ok(answer) => self.responder.reply(answer),
            Err(failure) => {
                self.responder.error(HandlerError::new(failure.code(), failure.to_string()))
            }
        }
    }
}

/// Serves until standard input ends.
fn serve(path: &Path) -> Result<(), Box<dyn Error>> {
    let world = Arc::new(World::new(Limits::default(), workers(WORKERS)));
    let server = Server::bind(path)?;
    let handle = server.handle();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        handle.shutdown(Some(Duration::from_secs(5)));
    });
    let serving = world.clone();
    let served = server
        .run_reactor(move |request, responder| serving.serve(Asked { request, responder }))?;
    world.close(Some(Duration::from_secs(5)));
    let stats = world.stats();
    println!(
        "server: {} requests; at most {} forks in use, {} requests let in, {} waiting for others of their fork",
        served.requests, stats.peak_keys, stats.peak_running, stats.peak_queued
    );
    Ok(())
}

// ---- the client ----

const PLAYERS: u64 = 4;
const REQUESTS: u64 = 2_000;
/// Requests of one player in flight.
const DEPTH: usize = 16;

/// Plays with several sessions at once, each of which checks all that it is answered; then checks
/// what all of them did together.
fn play_all(path: &Path) -> Result<(), Box<dyn Error>> {
    let connect = || ConnectOptions::new().wait_for_server(true).connect(path);
    let mut client = connect()?;
    let fork = Request { fork: ROOT, take: Duration::ZERO, op: Op::Fork };
    let shared = ask(&mut client, &fork, |answer| match answer {
        Answer::Forked { fork, .. } => Some(fork),
        _ => None,
    })?;
    let begin = Instant::now();
    let played = std::thread::scope(|scope| {
        let play_one = |number| {
            let mut player = Player::new(number, shared);
            // Errors as text: they cross threads.
            let done = connect()
                .map_err(Into::into)
                .and_then(|mut client| play(&mut player, &mut client, REQUESTS, DEPTH));
            done.map(|()| (player.added(), player.tally))
                .map_err(|error| format!("player {number}: {error}"))
        };
        let players: Vec<_> =
            (0..PLAYERS).map(|number| scope.spawn(move || play_one(number))).collect();
        let ended = players.into_iter().map(|player| player.join().expect("players do not panic"));
        ended.collect::<Result<Vec<(u64, Tally)>, String>>()
    })?;
    let took = begin.elapsed();
    let mut tally = Tally::default();
    let mut added = 0;
    for (of_one, its_tally) in played {
        tally += its_tally;
        added += of_one;
    }
    let read = Request { fork: shared, take: Duration::ZERO, op: Op::Read(vec![TOTAL]) };
    let counted = ask(&mut client, &read, |answer| match answer {
        Answer::Values { version, values } => {
            let total =
                values.first()?.map_or(Some(0), |v| v.try_into().ok().map(u64::from_le_bytes))?;
            (total == version).then_some(total)
        }
        _ => None,
    })?;
    if counted != added {
        return Err(
            format!("the players added {added} together, the server counted {counted}").into()
        );
    }
    println!(
        "client: {} requests by {PLAYERS} players in {took:.1?}, every answer correct",
        tally.sum()
    );
    println!(
        "        {} writes, {} reads, {} snapshot reads, {} forks, {} refused as they should be",
        tally.writes, tally.reads, tally.snapshots, tally.forks, tally.refusals
    );
    Ok(())
}

// ---- both, to be seen at work ----

/// A process that ends with this value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// This program again, in a role.
#[cfg(not(test))]
fn again(role: &str, path: &Path) -> std::io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(role).arg(path);
    Ok(command)
}

#[cfg(test)]
use tests::again;

fn demonstrate() -> Result<(), Box<dyn Error>> {
    let directory = std::env::temp_dir().join(format!("ringbell-world-{}", std::process::id()));
    std::fs::DirBuilder::new().mode(0o700).create(&directory)?;
    let shown = demonstrate_in(&directory);
    std::fs::remove_dir_all(&directory)?;
    shown
}

fn demonstrate_in(directory: &Path) -> Result<(), Box<dyn Error>> {
    let path = directory.join("world.sock");
    let mut server = Process(again("serve", &path)?.stdin(Stdio::piped()).spawn()?);
    let mut client = Process(again("play", &path)?.spawn()?);
    let played = client.0.wait()?;
    // The end of its input ends the server; it has nothing else to end it.
    drop(server.0.stdin.take());
    let served = server.0.wait()?;
    if !played.success() || !served.success() {
        return Err(format!("the client ended with {played}, the server with {served}").into());
    }
    Ok(())
}

fn run(arguments: &[PathBuf]) -> Result<(), Box<dyn Error>> {
    match arguments {
        [] => demonstrate(),
        [role, path] if role.as_os_str() == "serve" => serve(path),
        [role, path] if role.as_os_str() == "play" => play_all(path),
        _ => Err("usage: world_state | world_state serve PATH | world_state play PATH".into()),
    }
}

fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("world_state: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// Where the test binary finds its role when it is run again.
    const ROLE: &str = "WORLD_STATE_ROLE";
    const PATH: &str = "WORLD_STATE_PATH";

    pub(super) fn again(role: &str, path: &Path) -> std::io::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["--exact", "tests::role", "--ignored", "--nocapture"])
            .env(ROLE, role)
            .env(PATH, path);
        Ok(command)
    }

    #[test]
    #[ignore = "a process of `demonstration`"]
    fn role() {
        let Some(role) = std::env::var_os(ROLE) else { return };
        run(&[role.into(), std::env::var_os(PATH).expect("a path").into()]).unwrap();
    }

    #[test]
    fn demonstration() {
        demonstrate().unwrap();
    }

    /// A call without a transport.
    struct Direct {
        request: Vec<u8>,
        number: usize,
        answers: mpsc::Sender<(usize, Result<Vec<u8>, Failure>)>,
    }

    impl Call for Direct {
        fn request(&self) -> &[u8] {
            &self.request
        }

        fn answer(self, answer: Result<&[u8], Failure>) {
            self.answers.send((self.number, answer.map(<[u8]>::to_vec))).unwrap();
        }
    }

    fn play_directly(world: &World, player: &mut Player, requests: usize, depth: usize) {
        let (answers, receiver) = mpsc::channel();
        let mut open = VecDeque::new();
        for number in 0..requests + depth {
            if number < requests {
                let mut request = Vec::new();
                open.push_back((number, player.request(&mut request)));
                world.serve(Direct { request, number, answers: answers.clone() });
            }
            if number >= depth {
                let (number, answer) = receiver.recv().unwrap();
                let index = open.iter().position(|(open, _)| *open == number).expect("asked");
                let (_, expected) = open.remove(index).expect("it is there");
                let answer = answer.as_deref().map(|answer| Answer::decode(answer).unwrap());
                player.check(expected, answer.map_err(|failure| *failure)).unwrap();
            }
        }
    }

    #[test]
    fn players_without_a_transport() {
        let world = World::new(Limits::default(), workers(4));
        let (answers, receiver) = mpsc::channel();
        let mut request = Vec::new();
        Request { fork: ROOT, take: Duration::ZERO, op: Op::Fork }.encode(&mut request);
        world.serve(Direct { request, number: 0, answers });
        let (_, answer) = receiver.recv().unwrap();
        let answer = answer.unwrap();
        let Some(Answer::Forked { fork: shared, version: 0 }) = Answer::decode(&answer) else {
            panic!()
        };
        std::thread::scope(|scope| {
            for number in 0..3 {
                let world = &world;
                scope.spawn(move || {
                    play_directly(world, &mut Player::new(number, shared), 1_500, 12)
                });
            }
        });
        assert!(world.close(None));
        assert_eq!(world.stats().keys, 0);
    }

    /// The player is not satisfied by anything.
    #[test]
    fn a_wrong_answer_is_noticed() {
        let mut player = Player::new(0, 1);
        let mut noticed = 0;
        for _ in 0..100 {
            let expected = player.request(&mut Vec::new());
            noticed +=
                u32::from(player.check(expected, Ok(Answer::Written { version: 0 })).is_err());
        }
        assert_eq!(noticed, 100);
    }
}
