//! A server sleeps on as many bells as one system call takes, and no more: around that bound it
//! sleeps, and hears every bell.

use ringbell::{Client, Isolation, Server, WaitSettings};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// Sessions with a bell each, around the bound of `futex_waitv`: 128 with the server's own.
const SESSIONS: std::ops::RangeInclusive<u32> = 125..=130;

fn calls_of_all(sessions: u32, alive: &impl Fn()) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    // Nothing but a bell ends a sleep.
    let mut wait = WaitSettings::server();
    wait.backstop = Duration::from_secs(3600);
    let server = Server::builder().isolation(Isolation::Session).max_clients(sessions).wait(wait);
    let server = server.bind(&path).expect("bound");
    let handle = server.handle();
    let serving = std::thread::spawn(move || {
        let echo = |request: ringbell::Request<'_>, answer: &mut Vec<u8>| {
            answer.extend_from_slice(request.payload());
            Ok(())
        };
        server.run(echo).expect("served");
    });
    let mut clients = Vec::new();
    for _ in 0..sessions {
        clients.push(Client::connect(&path).expect("connected"));
        alive();
    }
    let before = handle.stats().parks;
    for client in &mut clients {
        // Time to fall asleep.
        std::thread::sleep(Duration::from_millis(3));
        assert_eq!(client.call(b"awake?").expect("an answer").payload(), b"awake?");
        alive();
    }
    let parks = handle.stats().parks - before;
    // One that cannot sleep tries again and again.
    assert!(parks <= 10 * u64::from(sessions), "{parks} sleeps of {sessions} calls");
    assert_eq!(handle.stats().backstop_rescues, 0);
    drop(clients);
    handle.shutdown(None);
    serving.join().expect("no panic");
}

#[test]
fn a_server_sleeps_and_hears_every_bell() {
    let (told, alive) = channel();
    let thread = std::thread::spawn(move || {
        for sessions in SESSIONS {
            calls_of_all(sessions, &|| told.send(()).expect("the watch"));
        }
    });
    loop {
        match alive.recv_timeout(Duration::from_secs(60)) {
            Ok(()) => {}
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => panic!("a bell is not heard"),
        }
    }
    thread.join().expect("no panic");
}
