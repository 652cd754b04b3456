//! Streams inside event loops: epoll without a timeout, level- and edge-triggered, so that what is
//! not reported hangs the test (and the watchdog says so). The peers are threads that block, and
//! that are not rescued by a backstop either.

use crate::forks::{Heir, leave_a_child};
use crate::looping::{TRIGGERS, Traffic, Trigger, Watch, is_refused};
use crate::serving::Serving;
use crate::traffic::{Any, Bytes, ask, is_reset};
use ringbell::{Arming, ByteListener, ByteStream, ByteStreamError, Server, WaitSettings};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, PATIENCE, Process, Start, hear, readable, say};
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::server::waiting;
use ringbell_shm_tests::transport::over_socket;
use ringbell_shm_tests::{done, observe, options, scaled_for, seed, signals, wait_until};
use rustix::fd::AsFd;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{ErrorKind, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

/// Bytes on their way from which on no piece is sent: one piece, some, and as many as fit.
const WINDOWS: [u64; 3] = [1, 20_000, u64::MAX];

fn patient_server() -> Serving {
    Serving::prepare("blocking", |start| start.with("wait", "patient"))
}

fn connect(serving: &Serving) -> ByteStream {
    let Any::Blocking(stream) = serving.connect("blocking") else { unreachable!("asked for") };
    stream
}

/// A listener in this process.
struct Listening {
    listener: ByteListener,
    directory: tempfile::TempDir,
}

impl Listening {
    fn new(ring: u64) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let builder = Server::builder().ring_capacity(ring);
        let listener = builder.bind_bytes(directory.path().join("s")).expect("bind");
        Self { listener, directory }
    }

    /// What starts a client of it in `role`.
    fn client(&self, role: &str) -> Start {
        Start::role(role).with("path", self.listener.path().display()).with("flavour", "blocking")
    }

    /// The server's end of the client that was just started.
    fn accept(&self) -> ByteStream {
        self.listener.accept().expect("a stream")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

pub(crate) fn a_client_in_a_loop_is_told_of_every_byte() -> Ran {
    let count = scaled_for(300_000, 100_000);
    let mut told = String::new();
    for ring in [64 << 10, 4096] {
        let serving =
            Serving::prepare("blocking", |start| start.with("wait", "patient").with("ring", ring));
        for trigger in TRIGGERS {
            let mut reports = 0;
            let mut round = |verb, traffic: Traffic, seed| {
                let mut stream = connect(&serving);
                stream.write_all(&ask(verb, seed, count)).expect("room");
                let mut watch = Watch::new(&stream, trigger);
                traffic.run(&stream, &mut watch);
                reports += watch.reports;
            };
            round(b'x', Traffic::exchanged(seed(), count, true), seed());
            for window in WINDOWS {
                // Such small pieces take long.
                let count = if window == 1 { count / 10 } else { count };
                let seed = seed() ^ window;
                round(b'e', Traffic::echoed(seed, count, window), seed);
            }
            assert!(reports > 0, "it never slept");
            told += &format!("; {trigger:?}, rings of {ring}: {reports} reports");
        }
        serving.stop();
    }
    done!("{count} bytes each way, 4 times for each{told}")
}

pub(crate) fn an_accepted_stream_in_a_loop_is_told_of_every_byte() -> Ran {
    let count = scaled_for(300_000, 100_000);
    let mut told = String::new();
    for ring in [64 << 10, 4096] {
        let listening = Listening::new(ring);
        for trigger in TRIGGERS {
            let mut reports = 0;
            let mut round = |what, traffic: Traffic, seed| {
                let start = listening.client("connect").with("do", what).with("seed", seed);
                let mut client = start.with("count", count).start();
                let stream = listening.accept();
                let mut watch = Watch::new(&stream, trigger);
                traffic.run(&stream, &mut watch);
                client.succeed();
                reports += watch.reports;
            };
            round("exchange", Traffic::exchanged(seed(), count, false), seed());
            for window in WINDOWS {
                let count = if window == 1 { count / 10 } else { count };
                let seed = seed() ^ window;
                round("echo", Traffic::echoed(seed, count, window), seed);
            }
            assert!(reports > 0, "it never slept");
            told += &format!("; {trigger:?}, rings of {ring}: {reports} reports");
        }
    }
    done!("{count} bytes each way, 4 times for each{told}")
}

/// A server that reads nothing before a file is there.
struct Gate {
    number: u64,
    file: PathBuf,
}

impl Gate {
    fn new(number: u64) -> Self {
        // Not those of other tests.
        let number = (1 << 50) + (u64::from(std::process::id()) << 20) + number;
        Self { number, file: PathBuf::from(format!("/tmp/.ringbell-bytes-{number}")) }
    }

    /// Asks the server to wait for it. Nothing is left to be read then.
    fn shut(&self, stream: &mut ByteStream, seed: u64) {
        stream.write_all(&ask(b's', seed, self.number)).expect("room");
        stream.read_exact(&mut [0]).expect("a mark");
    }

    fn open(&self) {
        std::fs::write(&self.file, "").expect("a file");
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

/// Writes until there is no room; how many bytes.
fn fill(stream: &ByteStream, bytes: &mut Bytes) -> usize {
    let mut taken = 0;
    loop {
        let mut some = [0; 700];
        bytes.fill(&mut some);
        let mut from = 0;
        while from < some.len() {
            match stream.write(&some[from..]) {
                Ok(count) => from += count,
                refused => {
                    assert!(is_refused(refused));
                    return taken + from;
                }
            }
        }
        taken += some.len();
    }
}

/// Turns until the server has said how many bytes it read, and ended.
fn read_count(stream: &ByteStream, watch: &mut Watch) -> u64 {
    let mut answer = Vec::new();
    loop {
        let mut some = [0; 16];
        match stream.read(&mut some) {
            Ok(0) => return u64::from_le_bytes(answer.try_into().expect("eight bytes")),
            Ok(count) => answer.extend_from_slice(&some[..count]),
            refused => {
                assert!(is_refused(refused));
                watch.turn(stream, || {});
            }
        }
    }
}

pub(crate) fn a_loop_is_told_of_room() -> Ran {
    let mut serving = patient_server();
    let mut told = String::new();
    for (number, trigger) in (0..).zip(TRIGGERS) {
        let gate = Gate::new(number);
        let mut stream = connect(&serving);
        gate.shut(&mut stream, 3);
        serving.process.expect("asked");
        let mut watch = Watch::new(&stream, trigger);
        let taken = fill(&stream, &mut Bytes::new(3));
        assert_eq!(stream.wants_writable(), over_socket());
        watch.arm(&stream);
        gate.open();
        let mut turns = 0;
        let rest = {
            // The bytes that were drawn and not taken.
            let mut bytes = vec![0; taken + 5000];
            Bytes::new(3).fill(&mut bytes);
            bytes.split_off(taken)
        };
        // The first sleep is armed already.
        watch.wait(&stream);
        stream.disarm();
        let mut from = 0;
        while from < rest.len() {
            match stream.write(&rest[from..]) {
                Ok(count) => from += count,
                refused => {
                    assert!(is_refused(refused));
                    watch.turn(&stream, || {});
                    turns += 1;
                    tick();
                }
            }
        }
        while is_refused(stream.shutdown_write()) {
            watch.turn(&stream, || {});
        }
        assert_eq!(read_count(&stream, &mut watch), (taken + rest.len()) as u64);
        told += &format!("; {trigger:?}: no room after {taken} bytes, {turns} more sleeps");
    }
    serving.stop();
    done!("2 writers{told}")
}

/// Who reads less than there is, or has not seen the end that came along, is not armed.
pub(crate) fn a_loop_is_told_of_what_it_left_unread() -> Ran {
    let listening = Listening::new(64 << 10);
    let client = options().connect_bytes(listening.listener.path()).expect("connect");
    let stream = listening.accept();
    let mut watch = Watch::new(&stream, Trigger::Edge);
    client.write(b"some bytes").expect("room");
    let mut some = [0; 64];
    while is_refused(stream.read(&mut some[..1])) {
        watch.turn(&stream, || {});
    }
    for _ in 0..2 {
        assert_eq!(stream.arm(), Arming::Busy, "nine bytes are there");
    }
    assert_eq!(stream.read(&mut some).expect("the rest"), 9);
    watch.arm(&stream);
    stream.disarm();
    // As much as there is, and the end behind it.
    client.write(b"more").expect("room");
    client.shutdown_write().expect("an end");
    assert_eq!(stream.read(&mut some).expect("bytes"), 4);
    for _ in 0..2 {
        assert_eq!(stream.arm(), Arming::Busy, "the end is there, and was not read");
    }
    assert_eq!(stream.read(&mut some).expect("the end"), 0);
    // From now on only its own side matters: an end that was read is not told again and again.
    assert_eq!(stream.arm(), Arming::Armed);
    stream.disarm();
    stream.write(b"back").expect("room");
    assert_eq!(client.read(&mut some).expect("bytes"), 4);
    // It goes, and that is told.
    assert_eq!(stream.arm(), Arming::Armed);
    drop(client);
    watch.wait(&stream);
    stream.disarm();
    wait_until("it is over", || stream.arm() == Arming::Busy);
    assert_eq!(stream.read(&mut some).expect("the end"), 0);
    done!("bytes and an end that were left")
}

/// Turns until the stream fails; how many bytes came before.
fn until_it_fails(stream: &ByteStream, watch: &mut Watch) -> (u64, std::io::Error) {
    let mut total = 0;
    let mut bytes = Bytes::new(9);
    loop {
        let mut some = [0; 5000];
        match stream.read(&mut some) {
            Ok(0) => panic!("an end, behind {total} bytes, that nobody has set"),
            Ok(count) => {
                bytes.check(&some[..count]);
                total += count as u64;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => watch.turn(stream, || {}),
            Err(error) => return (total, error),
        }
    }
}

/// The stream is over, behind so many bytes, and stays so.
fn is_over(stream: &ByteStream, watch: &mut Watch, count: u64) {
    let (total, error) = until_it_fails(stream, watch);
    assert_eq!(total, count);
    is_reset(&error);
    for _ in 0..2 {
        assert_eq!(stream.arm(), Arming::Busy, "it is over");
        is_reset(&stream.read(&mut [0; 8]).expect_err("the same"));
        let error = stream.write(&[0; 100]).expect_err("nobody reads");
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        assert_eq!(ByteStreamError::of(&error), Some(ByteStreamError::Gone));
    }
}

/// Kills `process` and waits for its end while a loop is armed, or some time after it began to
/// sleep.
fn kill_in(process: &mut Process, delay: Option<Duration>, mut while_that: impl FnMut()) {
    let Some(delay) = delay else {
        process.kill();
        return while_that();
    };
    let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw).expect("a pid");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(delay);
            kill_process(pid, Signal::KILL).expect("kill");
        });
        while_that();
    });
    process.is_killed();
}

/// When to kill: before the loop sleeps, and at any time.
fn delays() -> Vec<Option<Duration>> {
    let rounds = scaled_for(20, 20).max(4);
    let delay =
        |round: u64| (!round.is_multiple_of(4)).then(|| Duration::from_micros(round * 137 % 1000));
    (0..rounds).map(delay).collect()
}

pub(crate) fn a_loop_is_told_of_a_killed_server() -> Ran {
    let delays = delays();
    for (round, delay) in delays.iter().enumerate() {
        let mut serving = patient_server();
        let mut stream = connect(&serving);
        let (verb, word, count) = [(b'k', "written", 30_000), (b'r', "", 0)][round / 2 % 2];
        stream.write_all(&ask(verb, 9, count)).expect("room");
        if !word.is_empty() {
            serving.process.expect(word);
        }
        let mut watch = Watch::new(&stream, TRIGGERS[round % 2]);
        if count == 0 {
            watch.arm(&stream);
        }
        kill_in(&mut serving.process, *delay, || {
            if count == 0 {
                // Armed already: this is the report of the death.
                watch.wait(&stream);
                stream.disarm();
            }
            is_over(&stream, &mut watch, count);
        });
        assert!(watch.reports <= 8, "{} reports", watch.reports);
        tick();
    }
    done!("{} servers", delays.len())
}

pub(crate) fn a_loop_is_told_of_a_killed_client() -> Ran {
    let delays = delays();
    let listening = Listening::new(64 << 10);
    for (round, delay) in delays.iter().enumerate() {
        let count = [30_000, 0][round / 2 % 2];
        let start = listening.client("connect").with("do", "write").with("seed", 9);
        let mut client = start.with("count", count).start();
        let mut stream = listening.accept();
        stream.read_exact(&mut [0; 17]).expect("an ask");
        client.expect("written");
        let mut watch = Watch::new(&stream, TRIGGERS[round % 2]);
        let waits_for_room = round % 3 == 0;
        if waits_for_room {
            fill(&stream, &mut Bytes::new(0));
        }
        if count == 0 {
            watch.arm(&stream);
        }
        kill_in(&mut client, *delay, || {
            if count == 0 {
                watch.wait(&stream);
                stream.disarm();
            }
            is_over(&stream, &mut watch, count);
        });
        assert!(watch.reports <= 8, "{} reports", watch.reports);
        tick();
    }
    done!("{} clients", delays.len())
}

/// The porter, which watches the client's process, has the descriptor reported.
pub(crate) fn a_loop_is_told_of_a_client_that_left_a_child() -> Ran {
    for trigger in TRIGGERS {
        let listening = Listening::new(64 << 10);
        let (born, over) = (listening.file("born"), listening.file("over"));
        let start =
            listening.client("leaving").with("born", born.display()).with("over", over.display());
        let mut client = start.start();
        let mut stream = listening.accept();
        stream.read_exact(&mut [0; 17]).expect("an ask");
        client.expect("ready");
        let heir = Heir::born(&born, &over);
        let mut watch = Watch::new(&stream, trigger);
        watch.arm(&stream);
        client.kill();
        watch.wait(&stream);
        stream.disarm();
        is_over(&stream, &mut watch, 0);
        heir.end();
        tick();
    }
    done!("2 clients that left a child behind, which held their socket")
}

/// Accepts a stream, forks a child that holds all descriptors, and waits for its own end.
pub(crate) fn serve_and_fork(arguments: &Arguments) {
    let listener = ByteListener::bind(arguments.text("path")).expect("bind");
    say("ready");
    let mut stream = listener.accept().expect("a stream");
    stream.read_exact(&mut [0; 17]).expect("an ask");
    leave_a_child(arguments);
    let _ = hear();
}

/// Nothing is reported on the lifeline, which the child holds: it is for this that a loop watches
/// the process, too.
pub(crate) fn a_loop_is_told_of_a_server_that_left_a_child() -> Ran {
    for trigger in TRIGGERS {
        let directory = tempfile::tempdir().expect("a directory");
        let file = |name| directory.path().join(name);
        let start = Start::role("serve_and_fork").with("path", file("s").display());
        let start = start.with("born", file("born").display()).with("over", file("over").display());
        let mut server = start.start();
        server.expect("ready");
        let mut stream = options().connect_bytes(file("s")).expect("connect");
        stream.write_all(&ask(b'r', 9, 0)).expect("room");
        let heir = Heir::born(&file("born"), &file("over"));
        let mut watch = Watch::new(&stream, trigger).and_process(&stream);
        watch.arm(&stream);
        server.kill();
        watch.wait(&stream);
        stream.disarm();
        is_over(&stream, &mut watch, 0);
        heir.end();
        tick();
    }
    done!("2 servers that left a child behind, which held their sockets")
}

/// Another thread reads, and `waits` once it certainly waits: `arm` says so, and neither it nor
/// `disarm` keeps that thread from being woken. Without a backstop a lost wake hangs.
fn arm_beside_a_reader(
    serving: &Serving,
    wait: WaitSettings,
    round: u64,
    waits: impl Fn(&ByteStream, Pid),
) {
    let options = options().wait(waiting("patient", wait));
    let mut stream = options.connect_bytes(serving.path()).expect("connect");
    stream.write_all(&ask(b'e', round, 0)).expect("room");
    std::thread::scope(|scope| {
        let (begin, begins) = std::sync::mpsc::channel();
        let stream = &stream;
        let reader = scope.spawn(move || {
            let mut some = [0; 64];
            begin.send(rustix::thread::gettid()).expect("heard");
            let count = stream.read(&mut some).expect("bytes");
            some[..count].to_vec()
        });
        waits(stream, begins.recv().expect("a thread"));
        let armings = [(); 3].map(|()| {
            let arming = stream.arm();
            stream.disarm();
            arming
        });
        let mut writer = stream;
        writer.write_all(b"wake").expect("room");
        let mut got = reader.join().expect("the reader");
        let mut rest = vec![0; 4 - got.len()];
        writer.read_exact(&mut rest).expect("bytes");
        got.append(&mut rest);
        assert_eq!(got, b"wake");
        assert_eq!(armings, [Arming::Busy; 3], "another thread waits");
        tick();
    });
    // It waits no more.
    let mut watch = Watch::new(&stream, TRIGGERS[(round % 2) as usize]);
    watch.arm(&stream);
    stream.disarm();
    Traffic::echoed(round, 5000, 100).run(&stream, &mut watch);
}

pub(crate) fn arming_leaves_a_thread_that_sleeps_alone() -> Ran {
    let serving = patient_server();
    let rounds = scaled_for(50, 50).max(4);
    for round in 0..rounds {
        let wait = WaitSettings::client().park_at_once();
        arm_beside_a_reader(&serving, wait, round, |stream, _| {
            wait_until("a thread sleeps", || stream.stats().parks > 0);
        });
    }
    serving.stop();
    done!("{rounds} threads")
}

pub(crate) fn arming_leaves_a_thread_that_yields_alone() -> Ran {
    let serving = patient_server();
    let rounds = scaled_for(50, 50).max(4);
    for round in 0..rounds {
        let mut wait = waiting("yield", WaitSettings::client());
        (wait.yield_for, wait.yield_for_least) = (PATIENCE, PATIENCE);
        arm_beside_a_reader(&serving, wait, round, |stream, reader| {
            // It has begun to read, and what it does since is to yield; or, on a crowded machine,
            // on which the policy gives yields up, to sleep.
            let before = observe::time_on_cpu(reader);
            wait_until("a thread yields", || {
                observe::time_on_cpu(reader) > before + Duration::from_millis(2)
                    || stream.stats().parks > 0
            });
        });
    }
    serving.stop();
    done!("{rounds} threads")
}

/// What a forked child gets out of a copy of a stream that its parent has armed.
fn is_refused_to_a_child(stream: &ByteStream) -> bool {
    let armed = (0..3).any(|_| {
        let armed = stream.arm() == Arming::Armed;
        stream.disarm();
        armed
    });
    !armed && !stream.wants_writable()
}

/// Forks while its stream is armed; the child arms, disarms and drops its copy. Then the parent is
/// woken, or was before.
pub(crate) fn looping_and_forking(arguments: &Arguments) {
    let path = PathBuf::from(arguments.text("path"));
    for number in 0..arguments.number("rounds") {
        let trigger = TRIGGERS[(number % 2) as usize];
        let (full, woken) = (number & 2 != 0, number & 4 != 0);
        let gate = Gate::new(number);
        let mut stream = options().connect_bytes(&path).expect("connect");
        gate.shut(&mut stream, 3);
        let mut watch = Watch::new(&stream, trigger);
        let mut count = 0;
        if full {
            count = fill(&stream, &mut Bytes::new(3));
            assert_eq!(stream.wants_writable(), over_socket());
        } else {
            stream.shutdown_write().expect("room");
        }
        watch.arm(&stream);
        if woken {
            gate.open();
            // It is reported, and the parent has not looked. Over the socket room has no such mark.
            let told = (full && over_socket()) || readable(stream.as_fd(), PATIENCE);
            assert!(told, "nothing is reported");
        }
        let mut stream = Some(stream);
        let status = signals::in_a_fork(|| {
            let copy = stream.take();
            u8::from(!copy.as_ref().is_some_and(is_refused_to_a_child))
        });
        assert_eq!(status, 0, "a forked child got something");
        let stream = stream.expect("this is the parent");
        if !woken {
            gate.open();
        }
        watch.wait(&stream);
        stream.disarm();
        while full && is_refused(stream.shutdown_write()) {
            watch.turn(&stream, || {});
        }
        assert_eq!(read_count(&stream, &mut watch), count as u64);
    }
    say("done");
}

pub(crate) fn a_forked_child_arms_nothing() -> Ran {
    let rounds = scaled_for(40, 40).max(8);
    let serving = patient_server();
    let start = Start::role("looping_and_forking").with("path", serving.path().display());
    let mut process = start.with("rounds", rounds).start();
    process.expect("done");
    process.succeed();
    serving.stop();
    done!("{rounds} children, of a parent that waited for bytes or for room, or was just told")
}
