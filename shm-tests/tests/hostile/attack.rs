//! What the attacks have in common: an honest client beside them, and records that are written by
//! hand.

use ringbell::ConnectOptions;
use ringbell::layout::{self, HeaderWord, Kind, offset};
use ringbell::memory::OwnLines;
use ringbell::ring::Producer;
use ringbell::sync::{Ordering, PlainU64};
use ringbell_shm_tests::pattern::{Chance, Pattern};
use ringbell_shm_tests::progress::Stopwatch;
use ringbell_shm_tests::raw::{self, Session};
use ringbell_shm_tests::server::{Prepared, Server};
use ringbell_shm_tests::verified::Verified;
use rustix::io::Errno;
use std::os::unix::net::UnixStream;
use std::time::Duration;

pub(crate) const PEER_FAULT: u8 = 0x81;

/// Runs `attack` on a server that an honest client uses all the while; what the attack says.
pub(crate) fn beside_an_honest_client<T>(attack: impl FnOnce(&mut Server) -> T) -> (T, String) {
    beside(Server::prepare("verify"), attack)
}

/// The same on a server of the test's choice.
pub(crate) fn beside<T>(server: Prepared, attack: impl FnOnce(&mut Server) -> T) -> (T, String) {
    struct Stop<'a>(&'a PlainU64);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(1, Ordering::Relaxed);
        }
    }
    let mut server = server.with("max_clients", 16).start();
    let path = server.path().to_owned();
    let stop = PlainU64::new(0);
    let (result, calls, slowest) = std::thread::scope(|scope| {
        let honest = scope.spawn(|| {
            let mut client = Verified::connect(
                &path,
                ConnectOptions::new(),
                Pattern::new(9, 700).with_large(50, 20_000),
            );
            let mut slowest = Duration::ZERO;
            while stop.load(Ordering::Relaxed) == 0 {
                let watch = Stopwatch::start();
                client.call(None).expect("the honest client notices nothing");
                slowest = slowest.max(watch.awake());
                std::thread::sleep(Duration::from_micros(200));
            }
            let calls = client.sent();
            client.finish();
            (calls, slowest)
        });
        let stop = Stop(&stop);
        server.wait_for_sessions(1);
        let result = attack(&mut server);
        server.wait_for_sessions(1);
        drop(stop);
        let (calls, slowest) = honest.join().expect("the honest client");
        (result, calls, slowest)
    });
    assert!(slowest < Duration::from_secs(2), "an honest call took {slowest:?}");
    let stats = server.shut_down();
    assert_eq!(stats.panics, 0);
    (result, format!("; beside {calls} honest calls, the slowest of {slowest:?}"))
}

pub(crate) fn word(kind: Kind, flags: u8, length: u32) -> u64 {
    HeaderWord::new(kind, flags, 0, length).0
}

/// The server ends the session with a fault. It is rung again and again, as a client would.
pub(crate) fn is_put_out(session: &Session, what: &str) {
    session.ring();
    let words = raw::last_words(&session.stream);
    assert_eq!(words.last(), Some(&PEER_FAULT), "{what}: {words:02x?}");
}

/// The request ring, to be written at will.
pub(crate) fn lines(session: &Session) -> OwnLines {
    session.request.own_lines(
        layout::CONTROL,
        usize::try_from(session.welcome.request_capacity).expect("small"),
    )
}

/// The same, to be written as it should be.
pub(crate) fn producer(session: &Session) -> Producer {
    Producer::new(
        lines(session),
        session.request.own_word(offset::TAIL),
        session.response.peer_word(offset::HEAD),
        0,
    )
}

/// Publishes a record as it should be.
pub(crate) fn publish(producer: &mut Producer, header: u64, call: u64, body: &[u8]) {
    let claim = producer.try_claim(body.len()).expect("room");
    producer.write(&claim, 0, body);
    producer.commit(claim, HeaderWord(header), call);
}

/// Header words and bodies.
pub(crate) type Records = Vec<(u64, Vec<u8>)>;

/// Whether the other end has hung up; takes what it has said.
pub(crate) fn hung_up(stream: &UnixStream) -> bool {
    let mut bytes = [0; 256];
    loop {
        match rustix::net::recv(stream, &mut bytes[..], rustix::net::RecvFlags::DONTWAIT) {
            Ok((_, 0)) | Err(Errno::CONNRESET) => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}

pub(crate) fn hostile_word(chance: &mut Chance) -> u64 {
    match chance.below(8) {
        0 => chance.draw(),
        1 => 0,
        2 => word(Kind::Padding, 0, u32::try_from(chance.below(2048)).expect("small")),
        3 => chance.below(600) | chance.below(256) << 32,
        4 => word(
            Kind::Request,
            u8::try_from(chance.below(256)).expect("a byte"),
            u32::try_from(chance.below(500)).expect("small"),
        ),
        5 => word(Kind::Ping, 0, u32::try_from(chance.below(100)).expect("small")),
        _ => word(Kind::Request, 0, u32::try_from(chance.below(500)).expect("small")),
    }
}
