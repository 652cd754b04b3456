//! Answers find their calls, whatever else a client does in between.

use ringbell::{
    CallError, CallId, Client, ConnectOptions, RecvError, Server, TransportChoice, WaitSettings,
};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// A small generator of numbers that look random.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    /// Up to `more` bytes beyond `least`.
    fn payload(&mut self, least: u64, more: u64) -> Vec<u8> {
        let (len, first) = (least + self.below(more), self.below(256));
        (0..len).map(|at| u8::try_from((first + at) % 251).expect("a byte")).collect()
    }
}

/// What a client must find: the answers to calls that it sent and did not give up.
#[derive(Default)]
struct Oracle(HashMap<CallId, Vec<u8>>);

impl Oracle {
    fn check(&mut self, call: CallId, answer: &[u8]) {
        let sent = self.0.remove(&call).expect("an answer to a call that waits for one");
        assert!(answer == sent, "the answer to another call");
    }
}

/// One random step of a client. Everything that the server answers is an echo.
fn step(client: &mut Client, chance: &mut Chance, oracle: &mut Oracle) {
    match chance.below(10) {
        0..=2 => {
            let request = chance.payload(0, 200);
            let timeout = Duration::from_nanos(chance.below(3_000));
            match client.call_timeout(&request, Some(timeout)) {
                Ok(answer) => assert_eq!(*answer, request[..]),
                Err(CallError::TimedOut { .. } | CallError::TooManyInFlight { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        3..=5 => {
            // Now and then so many that the next call finds many answers in its way.
            for _ in 0..[1, 1, 100][usize::try_from(chance.below(3)).expect("small")] {
                let request = chance.payload(0, 2_000);
                if let Ok(call) = client.send_timeout(&request, Some(Duration::ZERO)) {
                    assert!(oracle.0.insert(call, request).is_none(), "an id that is in use");
                }
            }
        }
        6 => {
            let request = chance.payload(100_000, 300_000);
            match client.call(&request) {
                Ok(answer) => assert!(*answer == request[..], "the answer to another call"),
                Err(CallError::TooManyInFlight { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        7 => {
            let request = chance.payload(100_000, 300_000);
            match client.call_view(&request, None, |view| view.len() == request.len()) {
                Ok(same) => assert!(same, "the answer to another call"),
                Err(CallError::TooManyInFlight { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        8 => while client.next_event(Some(Duration::ZERO)).is_ok() {},
        _ => match client.recv(Some(Duration::from_micros(chance.below(50)))) {
            Ok(answer) => oracle.check(answer.call, &answer.outcome.expect("an echo")),
            Err(RecvError::TimedOut | RecvError::NothingInFlight) => {}
            Err(error) => panic!("{error}"),
        },
    }
}

/// Has the calling thread run on one CPU, the same for all that call this.
fn pin() {
    let mut cpus = sched_getaffinity(None).expect("its CPUs");
    let first = (0..CpuSet::MAX_CPU).find(|cpu| cpus.is_set(*cpu)).expect("one");
    cpus.clear();
    cpus.set(first);
    sched_setaffinity(None, &cpus).expect("one of its CPUs");
}

fn steps(transport: TransportChoice, one_cpu: bool, steps: u32, alive: &mpsc::Sender<()>) {
    if one_cpu {
        // The server answers as soon as the last byte of a request is there, before its client
        // goes on.
        pin();
    }
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let server = Server::builder().wait(WaitSettings::server()).bind(&path).expect("bound");
    let handle = server.handle();
    let serving = std::thread::spawn(move || {
        server.run(|request, answer| {
            // Events stand between answers.
            let _ = request.session().push(b"an event");
            answer.extend_from_slice(request.payload());
            Ok(())
        })
    });
    let options = ConnectOptions::new().transport(transport).max_in_flight(200);
    let mut client = options.connect(&path).expect("connected");
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    let mut oracle = Oracle::default();
    for _ in 0..steps {
        step(&mut client, &mut chance, &mut oracle);
        alive.send(()).expect("the watch");
    }
    loop {
        match client.recv(None) {
            Ok(answer) => oracle.check(answer.call, &answer.outcome.expect("an echo")),
            Err(RecvError::NothingInFlight) => break,
            Err(error) => panic!("{error}"),
        }
        alive.send(()).expect("the watch");
    }
    assert!(oracle.0.is_empty(), "{} calls were never answered", oracle.0.len());
    assert_eq!(client.in_flight(), 0);
    drop(client);
    handle.shutdown(None);
    serving.join().expect("no panic").expect("served");
}

/// Runs `body`, which says that it is alive after each step. One that hangs ends the test.
fn watched(body: impl FnOnce(&mpsc::Sender<()>) + Send + 'static) {
    let (alive, heard) = mpsc::channel();
    let alive = Arc::new(alive);
    let thread = std::thread::spawn(move || body(&alive));
    loop {
        match heard.recv_timeout(Duration::from_secs(60)) {
            Ok(()) => {}
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => panic!("a call waits for ever"),
        }
    }
    thread.join().expect("no panic");
}

#[test]
fn c1_an_answer_that_is_there_is_found_over_a_socket() {
    for one_cpu in [false, true] {
        watched(move |alive| steps(TransportChoice::Socket, one_cpu, 12_000, alive));
    }
}

#[test]
fn c1_an_answer_that_is_there_is_found_over_rings() {
    for one_cpu in [false, true] {
        watched(move |alive| steps(TransportChoice::SharedMemory, one_cpu, 12_000, alive));
    }
}
