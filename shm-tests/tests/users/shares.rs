//! Shares of clients and of half-open handshakes.

use super::{USERS, only_one_user, open_directory, uids};
use ringbell::{Client, ConnectError, ConnectOptions, RejectReason};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, Process, Start, hear, say};
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::{done, raw, signals, wait_until};
use std::path::Path;
use std::time::Duration;

/// Longer than any test: what is silent stays.
const NEVER_MS: u64 = 600_000;

pub(super) fn become_its_user(arguments: &Arguments) {
    signals::become_user(u32::try_from(arguments.number("uid")).expect("a uid"));
}

/// Connects so often and says nothing.
pub(super) fn silent(arguments: &Arguments) {
    become_its_user(arguments);
    let path = Path::new(arguments.text("path"));
    let streams: Vec<_> =
        (0..arguments.number("connections")).map(|_| raw::connect(path)).collect();
    say("connected");
    let _ = hear();
    drop(streams);
}

/// Connects until it is refused for another reason than too many handshakes.
pub(super) fn clients(arguments: &Arguments) {
    become_its_user(arguments);
    let mut clients = Vec::new();
    let error = loop {
        match Client::connect(arguments.text("path")) {
            Ok(client) => clients.push(client),
            Err(error) => break error,
        }
    };
    say(&format!("{} {error:?}", clients.len()));
    let _ = hear();
    for client in &mut clients {
        assert_eq!(&*client.call(b"e?").expect("a call"), b"?");
    }
}

/// Connects and calls once; says what came of it.
pub(super) fn asks(arguments: &Arguments) {
    if arguments.get("uid").is_some() {
        become_its_user(arguments);
    }
    let options = ConnectOptions::new().timeout(Some(Duration::from_secs(10)));
    match options.connect(arguments.text("path")) {
        Ok(mut client) => match client.call(b"e?") {
            Ok(answer) => say(&format!("answer {}", String::from_utf8_lossy(&answer))),
            Err(error) => say(&format!("call {error:?}")),
        },
        Err(error) => say(&format!("connect {error:?}")),
    }
}

pub(super) fn start(role: &str, path: &Path, uid: u32) -> Start {
    Start::role(role).with("path", path.display()).with("uid", uid)
}

pub(super) fn asked(path: &Path, uid: u32) -> String {
    let mut process = start("asks", path, uid).start();
    let said = process.hear();
    process.succeed();
    said
}

/// Two users with so many silent connections each.
fn two_silent_users(path: &Path, connections: u64) -> Vec<Process> {
    let silent = |uid: &u32| {
        let mut process = start("silent", path, *uid).with("connections", connections).start();
        process.expect("connected");
        process
    };
    USERS[..2].iter().map(silent).collect()
}

/// A third user connects beside two with eight silent connections each; so many of these are
/// rejected.
fn beside_silent_users(mut server: Server, rejected: u64) -> Ran {
    let silent = two_silent_users(server.path(), 8);
    // Connections are taken in the order in which they came, so all the silent ones before it.
    assert_eq!(asked(server.path(), USERS[2]), "answer ?");
    wait_until("those beyond the shares are rejected", || server.stats().rejected == rejected);
    let stats = server.stats();
    assert_eq!(stats.rejected_of_uid, rejected);
    assert_eq!(stats.handshakes_failed, 0, "the silent ones are still there");
    drop(silent);
    server.shut_down();
    done!("beside 16 silent connections of two users, {rejected} of them rejected")
}

pub(super) fn p8_silent_connections_leave_room_for_a_third_user() -> Ran {
    if let Some(skipped) = only_one_user() {
        return skipped;
    }
    let dir = open_directory();
    let server = Server::prepare_at(&dir.path().join("test.sock"), "do")
        .with("mode", 0o666)
        .with("uids", uids(&USERS))
        .with("handshake_ms", NEVER_MS)
        .start();
    // Of 16 each of three users has two reserved. 6 of 12 for the first, 4 of 8 for the second.
    beside_silent_users(server, 2 + 4)
}

pub(super) fn p8_silent_connections_leave_room_for_strangers() -> Ran {
    if let Some(skipped) = only_one_user() {
        return skipped;
    }
    let dir = open_directory();
    let server = Server::prepare_at(&dir.path().join("test.sock"), "do")
        .with("mode", 0o666)
        .with("anyone", 1)
        .with("handshake_ms", NEVER_MS)
        .start();
    // 8 of 16 for the first, 4 of 8 for the second.
    beside_silent_users(server, 4)
}

pub(super) fn p8_clients_leave_room_for_a_third_user() -> Ran {
    if let Some(skipped) = only_one_user() {
        return skipped;
    }
    let dir = open_directory();
    let path = dir.path().join("test.sock");
    let mut had = Vec::new();
    // Of 12 clients each of three listed users has two reserved.
    for (policy, users, expected) in
        [("uids", uids(&USERS), [4, 3, 3]), ("anyone", "1".to_owned(), [6, 3, 2])]
    {
        let server = Server::prepare_at(&path, "do")
            .with("mode", 0o666)
            .with("max_clients", 12)
            .with(policy, users)
            .start();
        let mut processes = Vec::new();
        for (uid, expected) in USERS.into_iter().zip(expected) {
            let mut process = start("clients", &path, uid).start();
            let said = process.hear();
            let reason = RejectReason::TooManyClientsOfUid { limit: expected };
            assert_eq!(said, format!("{expected} {:?}", ConnectError::Rejected(reason)));
            processes.push(process);
        }
        for mut process in processes {
            process.tell("go");
            process.succeed();
        }
        server.shut_down();
        had.push(expected);
    }
    done!("of 12 clients: {had:?}")
}

pub(super) fn p8_each_user_has_limits_of_its_own() -> Ran {
    if let Some(skipped) = only_one_user() {
        return skipped;
    }
    let dir = open_directory();
    let path = dir.path().join("test.sock");
    let server = Server::prepare_at(&path, "do")
        .with("mode", 0o666)
        .with("anyone", 1)
        .with("max_clients_per_uid", 2)
        .with("max_handshakes_per_uid", 1)
        .with("handshake_ms", NEVER_MS)
        .start();
    let mut first = start("clients", &path, USERS[0]).start();
    assert_eq!(first.hear(), "2 Rejected(TooManyClientsOfUid { limit: 2 })");
    assert_eq!(asked(&path, USERS[1]), "answer ?");
    let silent = start("silent", &path, USERS[1]).with("connections", 1).start();
    let mut silent = silent;
    silent.expect("connected");
    let mut impatient = start("impatient", &path, USERS[1]).start();
    assert_eq!(impatient.hear(), "connect Rejected(TooManyHandshakesOfUid { limit: 1 })");
    assert_eq!(asked(&path, USERS[2]), "answer ?");
    first.tell("go");
    first.succeed();
    server.shut_down();
    done!("2 clients and 1 handshake of each user")
}

/// Tries to connect for a moment.
pub(super) fn impatient(arguments: &Arguments) {
    become_its_user(arguments);
    let options = ConnectOptions::new().timeout(Some(Duration::from_millis(100)));
    match options.connect(arguments.text("path")) {
        Ok(_) => say("connected"),
        Err(error) => say(&format!("connect {error:?}")),
    }
}
