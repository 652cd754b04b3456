//! Clients that introduce themselves, and clients that wait for a server.

use crate::{SHORT, at_once, connect, doing, finish, takes};
use ringbell::ConnectError;
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::{done, options};
use std::time::Duration;

pub(crate) fn who_asks() -> Ran {
    let server = doing();
    let mut sessions = Vec::new();
    for name in ["", "somebody", "ünïcödé", &"x".repeat(48)] {
        let mut client = options().name(name).connect(server.path()).expect("connect");
        let session = client.session();
        let who = String::from_utf8(client.call(b"w").expect("a call").to_vec()).expect("UTF-8");
        let uid = rustix::process::getuid().as_raw();
        assert_eq!(who, format!("{session} {} {uid} {name}", std::process::id()));
        sessions.push(session);
        finish(client);
    }
    let mut client = connect(&server);
    let who = String::from_utf8(client.call(b"w").expect("a call").to_vec()).expect("UTF-8");
    let name = who.splitn(4, ' ').nth(3).unwrap_or_default().to_owned();
    let program = std::env::current_exe().expect("a path");
    let program = program.file_name().expect("a name").to_string_lossy();
    assert!(
        !name.is_empty() && program.starts_with(&name),
        "the default is the name of the program, not {name:?}"
    );
    finish(client);
    sessions.dedup();
    assert_eq!(sessions.len(), 4, "no session comes twice");
    server.shut_down();
    done!("5 clients")
}

pub(crate) fn waiting_for_a_server() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("test.sock");
    let waiting = |timeout| options().wait_for_server(true).timeout(timeout);
    let waited = takes(Duration::from_millis(100), || {
        waiting(Some(Duration::from_millis(100))).connect(&path)
    });
    assert!(matches!(waited, Err(ConnectError::NoSuchSocket(_))), "{waited:?}");
    at_once(|| assert!(waiting(Some(Duration::ZERO)).connect(&path).is_err()));
    std::thread::scope(|scope| {
        let clients: Vec<_> =
            (0..8).map(|_| scope.spawn(|| waiting(None).connect(&path))).collect();
        std::thread::sleep(Duration::from_millis(30));
        assert!(clients.iter().all(|client| !client.is_finished()));
        let server = Server::prepare_at(&path, "do").start();
        for client in clients {
            let mut client = client.join().expect("a thread").expect("connect");
            assert_eq!(&*client.call(b"ehere").expect("a call"), b"here");
        }
        server.shut_down();
    });
    done!("8 clients")
}

pub(crate) fn clients_wait_for_a_server_that_does_not_serve_yet() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("test.sock");
    let server = ringbell::Server::bind(&path).expect("bind");
    let handle = server.handle();
    let early = options().timeout(Some(SHORT)).connect(&path);
    assert!(matches!(early, Err(ConnectError::TimedOut)), "{early:?}");
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut client = options().connect(&path).expect("connect");
            client.call(b"x").expect("a call").len()
        });
        std::thread::sleep(SHORT);
        assert!(!client.is_finished());
        let serving = scope.spawn(|| server.run(|_, _| Ok(())));
        assert_eq!(client.join().expect("a thread"), 0);
        handle.shutdown(None);
        serving.join().expect("a thread").expect("run");
    });
    done!("two")
}
