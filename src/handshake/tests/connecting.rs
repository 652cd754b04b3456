//! The client by itself: paths, options, and servers that do not answer.

use super::*;
use crate::base::sync::Ordering;
use crate::handshake::client::connect;
use std::os::unix::net::UnixDatagram;

#[test]
fn a_stale_socket_that_vanishes_meanwhile() {
    let scratch = Scratch::new();
    let stale = scratch.path("stale");
    let stop = crate::base::sync::PlainBool::new(false);
    /// However the test ends, so that the other thread does too.
    struct Stopper<'a>(&'a crate::base::sync::PlainBool);
    impl Drop for Stopper<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        let replacing = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                drop(UnixListener::bind(&stale).expect("bound"));
                std::fs::remove_file(&stale).expect("removed");
            }
        });
        let _stopper = Stopper(&stop);
        let (mut left, mut gone) = (0, 0);
        while left < 10_000 || gone < 10_000 {
            match connect(&stale, soon()).map(drop) {
                // A moment in which it is listened at.
                Ok(()) => {}
                Err(ConnectError::NobodyListens(_)) => left += 1,
                Err(ConnectError::NoSuchSocket(_)) => gone += 1,
                Err(other) => panic!("{other:?}"),
            }
            assert!(!replacing.is_finished(), "it is replaced again and again");
        }
    });
}

#[test]
fn paths_that_cannot_be_connected_to() {
    let scratch = Scratch::new();
    let missing = scratch.path("missing");
    assert!(matches!(try_attach(&missing), Err(ConnectError::NoSuchSocket(at)) if at == missing));
    assert!(matches!(try_attach(&scratch.path("a/b")), Err(ConnectError::NoSuchSocket(_))));
    let file = scratch.path("file");
    std::fs::write(&file, "").expect("written");
    assert!(matches!(try_attach(&file), Err(ConnectError::NotASocket(at)) if at == file));
    assert!(
        matches!(try_attach(&scratch.path("")), Err(ConnectError::NotASocket(_))),
        "a directory"
    );
    let stale = scratch.path("stale");
    drop(UnixListener::bind(&stale).expect("bound"));
    assert!(matches!(try_attach(&stale), Err(ConnectError::NobodyListens(_))));
    let datagram = scratch.path("datagram");
    let _datagram = UnixDatagram::bind(&datagram).expect("bound");
    assert!(matches!(try_attach(&datagram), Err(ConnectError::NotRingbell)));
    let long = PathBuf::from(format!("/{}", "x".repeat(200)));
    assert!(matches!(try_attach(&long), Err(ConnectError::PathTooLong { len: 201, max: 107 })));
    assert!(matches!(try_attach(Path::new("")), Err(ConnectError::InvalidOption(_))));
}

#[test]
fn options_that_cannot_be() {
    let try_options = |options| attach(Path::new("/nonexistent"), &options, soon());
    for capacity in [1, 3, 2048 + 1, 1 << 31, 1 << 63] {
        let options = HelloOptions { request_capacity: capacity, ..HelloOptions::default() };
        assert!(matches!(try_options(options), Err(ConnectError::InvalidOption(_))));
        let options = HelloOptions { response_capacity: capacity, ..HelloOptions::default() };
        assert!(matches!(try_options(options), Err(ConnectError::InvalidOption(_))));
    }
    let options = HelloOptions { name: "x".repeat(49), ..HelloOptions::default() };
    assert!(matches!(try_options(options), Err(ConnectError::InvalidOption(_))));
}

#[test]
fn a_server_that_never_accepts_or_never_answers_is_left_at_the_deadline() {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    let listener =
        listen(&path, &ListenOptions { backlog: 0, ..ListenOptions::default() }).expect("bound");
    let briefly = || Some(Instant::now() + Duration::from_millis(30));
    let silent = attach(&path, &HelloOptions::default(), briefly());
    assert!(matches!(silent, Err(ConnectError::TimedOut)), "{silent:?}");
    let full = attach(&path, &HelloOptions::default(), briefly());
    assert!(matches!(full, Err(ConnectError::TimedOut)), "{full:?}");
    let past = attach(&path, &HelloOptions::default(), Some(Instant::now()));
    assert!(matches!(past, Err(ConnectError::TimedOut)), "{past:?}");
    drop(listener);
}

#[test]
fn a_client_gets_its_turn_when_the_backlog_is_full() {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    let bound =
        listen(&path, &ListenOptions { backlog: 0, ..ListenOptions::default() }).expect("bound");
    let listener = UnixListener::from(bound.socket.try_clone().expect("duplicated"));
    let _first = UnixStream::connect(&path).expect("the only place");
    std::thread::scope(|scope| {
        let client = scope.spawn(|| try_attach(&path));
        // Whether it waits already or not: accepting the first makes room for it.
        listener.set_nonblocking(false).expect("set");
        drop(listener.accept().expect("the first"));
        drop(listener.accept().expect("the client"));
        assert!(matches!(client.join().expect("no panic"), Err(ConnectError::ServerDied)));
    });
}
