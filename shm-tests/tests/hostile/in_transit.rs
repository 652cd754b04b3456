//! Peers that send descriptors which nobody asked for, and whose close waits for an hour. Nobody
//! waits: neither on a kernel that refuses them nor on one that does not.

use crate::CAPACITY;
use crate::fake::Fake;
use ringbell::layout::Kind;
use ringbell::{CallError, ConnectError, ConnectOptions, PeerFault};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::Pattern;
use ringbell_shm_tests::process::Arguments;
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::raw::{self, Lingering, Segments};
use ringbell_shm_tests::server::{Server, serve};
use ringbell_shm_tests::verified::Verified;
use ringbell_shm_tests::{done, scaled};
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

/// A server on a kernel that cannot refuse descriptors.
pub(crate) fn old_server(arguments: &Arguments) {
    raw::become_an_older_kernel();
    serve(arguments);
}

/// The same on this kernel.
pub(crate) fn new_server(arguments: &Arguments) {
    serve(arguments);
}

/// Others connect and call, and one that was there goes on.
fn others_go_on(path: &Path, one: &mut Verified, seed: u64) {
    for round in 0..3 {
        tick();
        one.call(None).expect("who was there goes on");
        let options = ConnectOptions::new();
        let mut other = Verified::connect(path, options, Pattern::new(100 + seed + round, 300));
        other.call(None).expect("a call of who comes");
        other.finish();
    }
}

/// What a hostile client does with a socket whose close waits; what came of sending it, and what
/// has to stay open.
type Attack = fn(&Path, &mut Lingering) -> (Result<usize, Errno>, UnixStream);

const ATTACKS: [(&str, Attack); 6] = [
    ("with a Hello", |path, socket| {
        let stream = raw::connect(path);
        (socket.send(&stream, &raw::hello(CAPACITY)), stream)
    }),
    ("inside a Hello", |path, socket| {
        let stream = raw::connect(path);
        let hello = raw::hello(CAPACITY);
        raw::send(&stream, &hello[..20], &[]);
        (socket.send(&stream, &hello[20..]), stream)
    }),
    ("with READY", |path, socket| {
        let session = raw::Session::open_but_for_ready(path, CAPACITY);
        (socket.send(&session.stream, &[raw::READY]), session.stream)
    }),
    ("on the lifeline", |path, socket| {
        let session = raw::Session::open(path, CAPACITY);
        (socket.send(&session.stream, &[raw::WAKE]), session.stream)
    }),
    ("with a frame", |path, socket| {
        let session = raw::SocketSession::open(path);
        let frame = raw::frame(Kind::Request, 0, 0, 1, b"request");
        (socket.send(&session.stream, &frame), session.stream)
    }),
    ("behind a frame", |path, socket| {
        let session = raw::SocketSession::open(path);
        session.request(1, b"request");
        (socket.send(&session.stream, &[0]), session.stream)
    }),
];

fn attacked(role: &str, refused: bool) -> u64 {
    let mut attacks = 0;
    let mut server = Server::prepare_role(role).with("handler", "verify").start();
    let mut one = Verified::connect(server.path(), ConnectOptions::new(), Pattern::new(1, 300));
    let mut left = Vec::new();
    for round in 0..scaled(4) {
        for (how, attack) in ATTACKS {
            let mut socket = Lingering::new();
            let (sent, stream) = attack(server.path(), &mut socket);
            assert_eq!(sent.is_err(), refused, "{how}: {sent:?}");
            if round % 2 == 0 {
                drop(stream);
            } else {
                left.push(stream);
            }
            others_go_on(server.path(), &mut one, attacks * 10);
            left.truncate(20);
            attacks += 1;
            drop(socket);
        }
    }
    // One more of each, which are there when the server ends.
    let last: Vec<_> = ATTACKS
        .iter()
        .map(|(_, attack)| {
            let mut socket = Lingering::new();
            let (_, stream) = attack(server.path(), &mut socket);
            (socket, stream)
        })
        .collect();
    one.finish();
    server.process().tell("shutdown 1000");
    server.ended();
    drop(last);
    attacks
}

pub(crate) fn p4_nobody_waits_for_descriptors_of_a_client() -> Ran {
    let attacks = attacked("old_server", false);
    done!("{attacks} attacks")
}

pub(crate) fn p4_descriptors_of_a_client_are_refused() -> Ran {
    if !raw::rights_can_be_refused() {
        return Ran::Skipped("this kernel cannot refuse descriptors (Linux 6.16)".into());
    }
    let attacks = attacked("new_server", true);
    done!("{attacks} attacks")
}

/// A hostile server's part: makes a session, and sends a socket on it once there is one.
type Server1 = fn(&Fake, &mut Lingering) -> (Result<usize, Errno>, UnixStream, Option<Segments>);

const SERVERS: [(&str, Server1); 2] = [
    ("rings", |fake, socket| {
        let welcome = raw::welcome(CAPACITY);
        let stream = raw::accept(&fake.listener);
        let segments = Segments::honest(&welcome);
        let descriptors: Vec<_> = segments.descriptors.iter().map(AsFd::as_fd).collect();
        raw::send(&stream, &welcome.encode(), &descriptors);
        ready(&stream);
        (socket.send(&stream, &[raw::WAKE]), stream, Some(segments))
    }),
    ("socket", |fake, socket| {
        let stream = raw::accept(&fake.listener);
        raw::send(&stream, &raw::fallback(1 << 20), &[]);
        ready(&stream);
        let frame = raw::frame(Kind::Event, 0, 0, 0, b"event");
        (socket.send(&stream, &frame), stream, None)
    }),
];

fn ready(mut stream: &UnixStream) {
    let mut byte = [0];
    std::io::Read::read_exact(&mut stream, &mut byte).expect("READY");
    assert_eq!(byte, [raw::READY]);
}

/// A call to a hostile server that sends no answer, but a socket whose close waits.
fn called(older: bool, server: Server1) -> (Result<usize, Errno>, CallError) {
    tick();
    let fake = Fake::new();
    let path = fake.path();
    let mut socket = Lingering::new();
    let (go, may_go) = channel();
    std::thread::scope(|scope| {
        let client = scope.spawn(move || {
            if older {
                raw::become_an_older_kernel();
            }
            let mut client = ConnectOptions::new().connect(path).expect("a session");
            may_go.recv().expect("the socket is sent");
            let error = client
                .call_timeout(b"request", Some(Duration::from_millis(500)))
                .expect_err("nobody answers");
            // And its end: what is still unread is let go here.
            drop(client);
            error
        });
        let (sent, _stream, _segments) = server(&fake, &mut socket);
        go.send(()).expect("the client waits");
        (sent, client.join().expect("the client does not panic"))
    })
}

pub(crate) fn p5_no_call_waits_for_descriptors_of_a_server() -> Ran {
    for (how, server) in SERVERS {
        let (sent, error) = called(true, server);
        assert!(sent.is_ok(), "{how}: {sent:?}");
        assert!(matches!(error, CallError::PeerFault(PeerFault::Lifeline)), "{how}: {error:?}");
        if raw::rights_can_be_refused() {
            let (sent, error) = called(false, server);
            assert_eq!(sent, Err(Errno::PERM), "{how}");
            assert!(matches!(error, CallError::TimedOut { .. }), "{how}: {error:?}");
        }
    }
    done!("over rings and over the socket")
}

/// Descriptors that stand behind the answer before the client can refuse any.
pub(crate) fn p5_no_connect_waits_for_descriptors_of_a_server() -> Ran {
    for older in [true, false] {
        tick();
        let fake = Fake::new();
        let path = fake.path();
        let mut socket = Lingering::new();
        std::thread::scope(|scope| {
            let client = scope.spawn(move || {
                if older {
                    raw::become_an_older_kernel();
                }
                ConnectOptions::new().connect(path).map(drop)
            });
            let stream = raw::accept(&fake.listener);
            let answer = raw::fallback(1 << 20);
            let (most, last) = answer.split_at(answer.len() - 1);
            raw::send(&stream, most, &[]);
            // Its first byte ends the answer. What is behind it stays in the queue.
            let bytes = [last, &[0; 8]].concat();
            match socket.send(&stream, &bytes) {
                Ok(count) => assert_eq!(count, bytes.len()),
                // The client was faster.
                Err(Errno::PERM) if !older => raw::send(&stream, last, &[]),
                Err(errno) => panic!("{errno}"),
            }
            let result = client.join().expect("the client does not panic");
            assert!(matches!(result, Ok(()) | Err(ConnectError::UnaskedDescriptors)), "{result:?}");
        });
    }
    done!("on a kernel that can refuse, and on one that cannot")
}
