//! Those who connect and do not behave, beside those who do; and the limits that a server sets.

use ringbell::sync::{Ordering, PlainU64};
use ringbell::{Client, ConnectError, ConnectOptions, RejectReason};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::{Chance, Pattern, mix};
use ringbell_shm_tests::process::{Arguments, Start, say};
use ringbell_shm_tests::progress::{Stopwatch, tick};
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::verified::Verified;
use ringbell_shm_tests::{done, observe, raw, scaled, seed, signals, suite, wait_until};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

suite! {
    tests: [
        garbage_beside_honest_clients,
        silence_is_ended_in_time,
        half_open_handshakes_are_limited,
        clients_are_limited,
        memory_is_limited,
        descriptors_are_limited,
        other_users_are_refused,
        other_users_are_served_if_allowed,
        sessions_come_and_go,
    ],
    roles: [other_user, crowded_server],
}

struct Stop<'a>(&'a PlainU64);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(1, Ordering::Relaxed);
    }
}

/// Calls one after the other until told to stop; how many, and the slowest of them.
fn honest(path: &Path, stop: &PlainU64) -> (u64, Duration) {
    let mut client = Verified::connect(path, ConnectOptions::new(), Pattern::new(5, 700));
    let mut slowest = Duration::ZERO;
    while stop.load(Ordering::Relaxed) == 0 {
        let began = Instant::now();
        client.call(None).expect("an honest call");
        slowest = slowest.max(began.elapsed());
    }
    let calls = client.sent();
    client.finish();
    (calls, slowest)
}

fn garbage_beside_honest_clients() -> Ran {
    let rounds = scaled(600);
    let mut server = Server::prepare("verify").with("handshake_ms", 1000).start();
    let stop = PlainU64::new(0);
    let path = server.path().to_owned();
    let (calls, slowest, connects) = std::thread::scope(|scope| {
        let stopper = Stop(&stop);
        let calling = scope.spawn(|| honest(&path, &stop));
        server.wait_for_sessions(1);
        let before = observe::descriptors(server.id());
        let mut connects = 0;
        for round in 0..rounds {
            tick();
            let mut chance = Chance::new(mix(seed(), round));
            let mut noise = vec![0; 1 << 16];
            noise.fill_with(|| chance.draw().to_le_bytes()[0]);
            let hello = raw::hello(2048);
            let stream = raw::connect(server.path());
            stream.set_nonblocking(true).expect("nonblocking");
            let mut stream = &stream;
            // What cannot be written the server did not want.
            let _ = match round % 10 {
                0 => stream.write(&noise),
                1 => stream.write(&noise[..usize::try_from(chance.below(200)).expect("small")]),
                2 => stream.write(&hello[..usize::try_from(chance.below(104)).expect("small")]),
                3 => Ok(0),
                4 => stream.write(&raw::message(raw::kind::HELLO, &noise[..88])),
                5 => stream.write(&raw::message(raw::kind::HELLO, &noise[..4096])),
                6 => stream.write(&raw::message(raw::kind::WELCOME, &noise[..72])),
                7 => stream.write(&[&hello[..], &noise[..1000]].concat()),
                8 => {
                    // A Hello, a byte at a time.
                    for byte in hello.chunks(1) {
                        let _ = stream.write(byte);
                    }
                    Ok(0)
                }
                _ => {
                    let mut bent = hello.clone();
                    let at = usize::try_from(chance.below(104)).expect("small");
                    bent[at] ^= chance.draw().to_le_bytes()[0];
                    stream.write(&bent)
                }
            };
            if round % 7 == 0 {
                Client::connect(server.path()).expect("honest clients still get in");
                connects += 1;
            }
        }
        wait_until("nothing is left of the others", || {
            observe::descriptors(server.id()) <= before + observe::SPARE
                && server.stats().sessions == 1
        });
        drop(stopper);
        let (calls, slowest) = calling.join().expect("the honest client");
        (calls, slowest, connects)
    });
    let stats = server.shut_down();
    assert!(stats.rejected + stats.handshakes_failed > rounds / 3, "{stats:?}");
    done!(
        "{rounds} bad connections ({} rejected, {} failed) and {connects} good ones, beside {calls} honest calls, the slowest of {slowest:?}",
        stats.rejected,
        stats.handshakes_failed
    )
}

fn silence_is_ended_in_time() -> Ran {
    let mut server = Server::prepare("verify").with("handshake_ms", 300).start();
    for bytes in [&b""[..], &raw::hello(2048)[..10], &raw::hello(2048)[..50]] {
        let stream = raw::connect(server.path());
        raw::send(&stream, bytes, &[]);
        let watch = Stopwatch::start();
        let _ = raw::last_words(&stream);
        let took = watch.elapsed();
        assert!(
            took > Duration::from_millis(200) && watch.awake() < Duration::from_secs(2),
            "{took:?}"
        );
    }
    // With a Welcome in hand, and no READY.
    let session = raw::Session::open_but_for_ready(server.path(), 2048);
    let watch = Stopwatch::start();
    let words = raw::last_words(&session.stream);
    assert_eq!(words, [0x84], "too late");
    assert!(watch.awake() < Duration::from_secs(2), "{:?}", watch.elapsed());
    assert_eq!(server.stats().sessions, 0);
    let stats = server.shut_down();
    assert_eq!(stats.handshakes_failed, 4);
    done!("4 silent clients")
}

fn half_open_handshakes_are_limited() -> Ran {
    let mut server =
        Server::prepare("verify").with("max_handshakes", 4).with("handshake_ms", 3000).start();
    let impatient = || ConnectOptions::new().timeout(Some(Duration::from_millis(100)));
    let mut old = Verified::connect(server.path(), ConnectOptions::new(), Pattern::new(1, 100));
    let silent: Vec<_> = (0..4).map(|_| raw::connect(server.path())).collect();
    // The porter takes them in the order in which they came.
    let error = impatient().connect(server.path()).map(drop);
    assert!(
        matches!(error, Err(ConnectError::Rejected(RejectReason::TooManyHandshakes { limit: 4 }))),
        "{error:?}"
    );
    old.call(None).expect("sessions go on");
    // As soon as one of them goes, or its time is over, there is room again.
    let watch = Stopwatch::start();
    drop(silent);
    Client::connect(server.path()).expect("there is room again");
    assert!(watch.awake() < Duration::from_millis(2500), "{:?}", watch.elapsed());
    let _silent: Vec<_> = (0..4).map(|_| raw::connect(server.path())).collect();
    // Who has time waits for that.
    Client::connect(server.path()).expect("their time is over");
    old.finish();
    wait_until("it is counted", || server.stats().rejected >= 1);
    server.shut_down();
    done!("4 at a time")
}

fn clients_are_limited() -> Ran {
    let mut server = Server::prepare("verify").with("max_clients", 3).start();
    let mut clients: Vec<Verified> = (0..3)
        .map(|sender| {
            Verified::connect(server.path(), ConnectOptions::new(), Pattern::new(sender, 100))
        })
        .collect();
    for _ in 0..5 {
        let error = Client::connect(server.path()).map(drop);
        assert!(
            matches!(error, Err(ConnectError::Rejected(RejectReason::TooManyClients { limit: 3 }))),
            "{error:?}"
        );
    }
    for client in &mut clients {
        client.call(None).expect("the others go on");
    }
    drop(clients.pop());
    wait_until("the place is free", || Client::connect(server.path()).is_ok());
    wait_until("they are counted", || server.stats().rejected >= 5);
    drop(clients);
    server.shut_down();
    done!("3 clients")
}

fn memory_is_limited() -> Ran {
    // Two segments of 68 KiB each, for a client with rings of 64 KiB.
    let server = Server::prepare("verify")
        .with("ring_capacity", 65_536)
        .with("max_bytes_per_client", 300_000)
        .with("max_bytes_per_uid", 450_000)
        .with("fallback", "off")
        .start();
    let error = ConnectOptions::new().ring_capacity(1 << 20).connect(server.path()).map(drop);
    assert!(
        matches!(
            error,
            Err(ConnectError::Rejected(RejectReason::BytesPerClient { limit: 300_000 }))
        ),
        "{error:?}"
    );
    let clients: Vec<Client> =
        (0..3).map(|_| Client::connect(server.path()).expect("room for three")).collect();
    let error = Client::connect(server.path()).map(drop);
    assert!(
        matches!(error, Err(ConnectError::Rejected(RejectReason::BytesPerUid { limit: 450_000 }))),
        "{error:?}"
    );
    let small = ConnectOptions::new().ring_capacity(2048).connect(server.path());
    assert!(small.is_ok(), "a smaller one fits: {small:?}");
    drop((clients, small));
    wait_until("memory is free again", || {
        let three: Vec<_> = (0..3).map(|_| Client::connect(server.path())).collect();
        three.iter().all(Result::is_ok)
    });
    server.shut_down();
    done!("by client and by user")
}

/// A server with so few descriptors that not all clients find one.
fn crowded_server(arguments: &Arguments) {
    let limit = rustix::process::Rlimit {
        current: Some(arguments.number("descriptors")),
        maximum: Some(arguments.number("descriptors")),
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).expect("setrlimit");
    match ringbell::Server::builder().max_clients(64).bind(arguments.text("path")) {
        // The builder may say so at once.
        Err(error) => say(&format!("refused {error}")),
        Ok(server) => {
            let handle = server.handle();
            std::thread::spawn(move || {
                let _ = ringbell_shm_tests::process::hear();
                handle.shutdown(Some(Duration::ZERO));
            });
            say("ready");
            server
                .run(|request, response| {
                    response.extend_from_slice(request.payload());
                    Ok(())
                })
                .expect("serve");
            say("done");
        }
    }
}

fn descriptors_are_limited() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("test.sock");
    let mut server =
        Start::role("crowded_server").with("path", path.display()).with("descriptors", 60).start();
    let said = server.hear();
    if let Some(reason) = said.strip_prefix("refused") {
        server.succeed();
        return done!("the server says so when it binds:{reason}");
    }
    let mut clients = Vec::new();
    let error = loop {
        assert!(clients.len() < 64, "60 descriptors cannot do for 64 clients");
        match Client::connect(&path) {
            Ok(client) => clients.push(client),
            Err(error) => break error,
        }
        tick();
    };
    assert!(
        matches!(error, ConnectError::Rejected(RejectReason::OutOfDescriptors)),
        "after {} clients: {error:?}",
        clients.len()
    );
    for client in &mut clients {
        assert_eq!(&*client.call(b"still").expect("those who are in go on"), b"still");
    }
    let had = clients.len();
    clients.truncate(had / 2);
    let cpu = observe::cpu_time(server.id());
    wait_until("there is room again", || Client::connect(&path).is_ok());
    assert!(
        observe::cpu_time(server.id()) - cpu < Duration::from_secs(2),
        "the porter runs in circles"
    );
    server.hang_up();
    server.expect("done");
    done!("{had} clients with 60 descriptors")
}

/// Connects as another user, and says what came of it.
fn other_user(arguments: &Arguments) {
    signals::become_user(u32::try_from(arguments.number("uid")).expect("a uid"));
    if arguments.number("by_hand") == 1 {
        let session = raw::Session::open(Path::new(arguments.text("path")), 2048);
        return say(&format!("own bell {}", !session.welcome.has_bell));
    }
    match Client::connect(arguments.text("path")) {
        Ok(mut client) => match client.call(b"e?") {
            Ok(answer) => say(&format!("answer {}", String::from_utf8_lossy(&answer))),
            Err(error) => say(&format!("call {error:?}")),
        },
        Err(error) => say(&format!("connect {error:?}")),
    }
}

fn as_other_user(path: &Path, uid: u32) -> String {
    become_and_connect(path, uid, 0)
}

fn become_and_connect(path: &Path, uid: u32, by_hand: u32) -> String {
    let mut process = Start::role("other_user")
        .with("path", path.display())
        .with("uid", uid)
        .with("by_hand", by_hand)
        .start();
    let said = process.hear();
    process.succeed();
    said
}

fn may_change_user() -> bool {
    rustix::process::geteuid().is_root()
}

/// A directory that everybody may enter.
fn open_directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("chmod");
    dir
}

fn other_users_are_refused() -> Ran {
    if !may_change_user() {
        return Ran::Skipped("only root can become another user".into());
    }
    let dir = open_directory();
    let path = dir.path().join("test.sock");
    // By the file system: the socket is the server's own.
    let server = Server::prepare_at(&path, "do").start();
    let said = as_other_user(&path, 12_345);
    assert!(said.starts_with("connect PermissionDenied"), "{said}");
    server.shut_down();
    // By the server: the socket is open, the policy is not.
    let mut server = Server::prepare_at(&path, "do").with("mode", 0o666).start();
    let mut own = Client::connect(&path).expect("the server's own user");
    let said = as_other_user(&path, 12_345);
    assert_eq!(said, "connect Rejected(PermissionDenied)");
    assert_eq!(&*own.call(b"eon").expect("others go on"), b"on");
    wait_until("it is counted", || server.stats().rejected == 1);
    drop(own);
    server.shut_down();
    done!("by the socket's mode and by the server's policy")
}

fn other_users_are_served_if_allowed() -> Ran {
    if !may_change_user() {
        return Ran::Skipped("only root can become another user".into());
    }
    let dir = open_directory();
    let path = dir.path().join("test.sock");
    let server = Server::prepare_at(&path, "do").with("mode", 0o666).with("anyone", 1).start();
    assert_eq!(as_other_user(&path, 12_345), "answer ?");
    assert_eq!(as_other_user(&path, 54_321), "answer ?");
    // A bell page that they map could be punched while the server looks at it (case P12).
    assert_eq!(become_and_connect(&path, 12_345, 1), "own bell true");
    assert!(raw::Session::open(&path, 2048).welcome.has_bell, "the server's own user");
    server.shut_down();
    done!("2 users")
}

fn sessions_come_and_go() -> Ran {
    let rounds = scaled(2000);
    let mut server = Server::verifying();
    let mut before = None;
    let began = Instant::now();
    for round in 0..rounds {
        tick();
        let mut client =
            Verified::connect(server.path(), ConnectOptions::new(), Pattern::new(round, 300));
        client.call(None).expect("a call");
        client.finish();
        if round == 20.min(rounds - 1) {
            server.wait_for_sessions(0);
            before = Some((
                observe::descriptors(server.id()),
                observe::memfd_mappings(server.id()),
                observe::private_bytes(server.id()),
            ));
        }
    }
    let each = began.elapsed() / u32::try_from(rounds).expect("small");
    server.wait_for_sessions(0);
    let before = before.expect("looked");
    wait_until("the server has what it had before", || {
        observe::descriptors(server.id()) <= before.0 + observe::SPARE
            && observe::memfd_mappings(server.id()) <= before.1 + observe::SPARE
    });
    let grown = observe::private_bytes(server.id()).saturating_sub(before.2);
    assert!(grown < 2 << 20, "{grown} B more after {rounds} sessions");
    assert_eq!(server.shut_down().accepted, rounds);
    done!("{rounds} sessions, {each:?} each, {grown} B more at the end")
}
