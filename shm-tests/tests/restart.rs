//! Servers that end and come back, and their sockets.

use ringbell::sync::{Ordering, PlainU64};
use ringbell::{BindError, CallError, Client, ConnectError, WaitSettings};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::Pattern;
use ringbell_shm_tests::process::{Arguments, Start, hear, say};
use ringbell_shm_tests::progress::{Stopwatch, tick};
use ringbell_shm_tests::server::{Server, waiting};
use ringbell_shm_tests::verified::Verified;
use ringbell_shm_tests::{done, options, scaled, signals, suite};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

suite! {
    both: [clients_outlive_their_server],
    // About the socket that is listened on.
    tests: [
        one_of_many_servers_wins,
        a_path_that_is_taken,
        a_socket_that_nobody_listens_on,
        c10_a_relative_path_is_cleaned_up,
        p9_a_foreign_lock_is_named,
        p10_no_link_at_the_path_is_followed,
    ],
    roles: [contender, stranger, wanderer],
}

/// Calls until told to stop, and connects anew whenever the server is gone. The generations that it
/// saw.
fn client(path: &Path, sender: u64, wait: &str, stop: &PlainU64) -> (Vec<u64>, u64) {
    let mut generations = Vec::new();
    let mut calls = 0;
    while stop.load(Ordering::Relaxed) == 0 {
        let options = options().wait(waiting(wait, WaitSettings::client()));
        let client = match options.connect(path) {
            Ok(client) => client,
            Err(
                ConnectError::NobodyListens(_)
                | ConnectError::NoSuchSocket(_)
                | ConnectError::ServerDied
                | ConnectError::Rejected(ringbell::RejectReason::ShuttingDown),
            ) => {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            Err(error) => panic!("an unexpected error of connect: {error:?}"),
        };
        generations.push(client.generation());
        let ended = |error: CallError| {
            assert!(
                matches!(error, CallError::Disconnected { .. } | CallError::ShutDown { .. }),
                "{error:?}"
            );
        };
        let mut client = match Verified::open(client, Pattern::new(sender, 500)) {
            Ok(client) => client,
            Err(error) => {
                ended(error);
                continue;
            }
        };
        loop {
            match client.call(None) {
                Ok(()) => calls += 1,
                Err(error) => {
                    ended(error);
                    break;
                }
            }
            if stop.load(Ordering::Relaxed) != 0 {
                break;
            }
        }
    }
    (generations, calls)
}

fn clients_outlive_their_server() -> Ran {
    let restarts = scaled(20).max(4);
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("test.sock");
    let stop = PlainU64::new(0);
    let mut server = Server::prepare_at(&path, "verify").start();
    let results = std::thread::scope(|scope| {
        struct Stop<'a>(&'a PlainU64);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(1, Ordering::Relaxed);
            }
        }
        let stopper = Stop(&stop);
        let clients = ["default", "park", "spin", "yield"].map(|wait| {
            let (path, stop) = (&path, &stop);
            scope.spawn(move || client(path, 1, wait, stop))
        });
        for number in 0..restarts {
            tick();
            server.wait_for_sessions(4);
            if number % 2 == 0 {
                server.process().kill();
            } else {
                server.process().tell("shutdown 1000");
                server.ended();
            }
            server = Server::prepare_at(&path, "verify").start();
        }
        server.wait_for_sessions(4);
        drop(stopper);
        clients.map(|client| client.join().expect("a client"))
    });
    let mut calls = 0;
    let mut seen = 0;
    for (mut generations, own_calls) in results {
        let connects = generations.len();
        // Each restart shows, and no generation comes back.
        generations.dedup();
        let distinct = generations.len();
        generations.sort_unstable();
        generations.dedup();
        assert_eq!(generations.len(), distinct, "a generation came back");
        assert!(connects as u64 > restarts / 2, "{connects} connects over {restarts} restarts");
        calls += own_calls;
        seen = seen.max(distinct);
    }
    assert!(seen as u64 > restarts / 2, "{seen} generations over {restarts} restarts");
    server.shut_down();
    done!(
        "{restarts} restarts, half of them by SIGKILL; {calls} calls of 4 clients, which saw up to {seen} generations"
    )
}

/// Tries to bind when told to.
fn contender(arguments: &Arguments) {
    say("ready");
    let _ = hear();
    match ringbell::Server::bind(arguments.text("path")) {
        Ok(server) => {
            say("won");
            let handle = server.handle();
            std::thread::spawn(move || {
                let _ = hear();
                handle.shutdown(None);
            });
            server
                .run(|request, response| {
                    response.extend_from_slice(request.payload());
                    Ok(())
                })
                .expect("serve");
        }
        Err(BindError::AlreadyListening(_)) => say("lost"),
        Err(error) => say(&format!("failed {error:?}")),
    }
}

fn one_of_many_servers_wins() -> Ran {
    let rounds = scaled(20);
    for round in 0..rounds {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("test.sock");
        if round % 2 == 0 {
            // A socket that a dead server left.
            drop(UnixListener::bind(&path).expect("bind"));
        }
        let mut contenders: Vec<_> =
            (0..6).map(|_| Start::role("contender").with("path", path.display()).start()).collect();
        for contender in &mut contenders {
            contender.expect("ready");
        }
        for contender in &mut contenders {
            contender.tell("go");
        }
        let said: Vec<String> = contenders.iter_mut().map(|contender| contender.hear()).collect();
        assert_eq!(said.iter().filter(|line| *line == "won").count(), 1, "{said:?}");
        assert_eq!(said.iter().filter(|line| *line == "lost").count(), 5, "{said:?}");
        assert_eq!(&*Client::connect(&path).expect("connect").call(b"x").expect("a call"), b"x");
        for contender in &mut contenders {
            contender.hang_up();
            contender.succeed();
        }
        assert!(!path.exists(), "the socket goes with its server");
    }
    done!("{rounds} races of 6 servers")
}

fn a_path_that_is_taken() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("test.sock");
    std::fs::write(&path, "mine").expect("a file");
    assert!(matches!(ringbell::Server::bind(&path), Err(BindError::PathIsNotASocket(_))));
    assert_eq!(std::fs::read(&path).expect("the file"), b"mine", "it is left alone");
    assert!(matches!(Client::connect(&path), Err(ConnectError::NotASocket(_))));
    std::fs::remove_file(&path).expect("remove");
    std::fs::create_dir(&path).expect("a directory");
    assert!(matches!(ringbell::Server::bind(&path), Err(BindError::PathIsNotASocket(_))));
    let below = path.join("made").join("test.sock");
    assert!(matches!(ringbell::Server::bind(&below), Err(BindError::ParentMissing(_))));
    let server = ringbell::Server::builder().create_directory(true).bind(&below);
    let server = server.expect("the last directory is made if that is asked for");
    drop(server);
    assert!(!below.exists(), "the socket goes with its server");
    assert!(matches!(
        ringbell::Server::bind("/no/such/dir/test.sock"),
        Err(BindError::ParentMissing(_))
    ));
    assert!(matches!(
        ringbell::Server::bind(format!("/tmp/{}", "x".repeat(200))),
        Err(BindError::PathTooLong { .. })
    ));
    assert!(matches!(ringbell::Server::bind(""), Err(BindError::InvalidPath)));
    // Another program listens, which is no Ringbell server: it is not replaced.
    let other = dir.path().join("other.sock");
    let _listener = UnixListener::bind(&other).expect("bind");
    assert!(matches!(ringbell::Server::bind(&other), Err(BindError::AlreadyListening(_))));
    done!("files, directories and other servers")
}

fn a_socket_that_nobody_listens_on() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("test.sock");
    drop(UnixListener::bind(&path).expect("bind"));
    let watch = Stopwatch::start();
    assert!(matches!(Client::connect(&path), Err(ConnectError::NobodyListens(_))));
    assert!(watch.awake() < Duration::from_secs(1));
    let mut server = Server::prepare_at(&path, "do").start();
    server.process().kill();
    assert!(matches!(Client::connect(&path), Err(ConnectError::NobodyListens(_))));
    let server = Server::prepare_at(&path, "do").start();
    Client::connect(&path).expect("the stale socket was replaced");
    server.shut_down();
    assert!(matches!(Client::connect(&path), Err(ConnectError::NoSuchSocket(_))));
    done!("replaced twice")
}

/// Binds a relative path, goes elsewhere, and ends its server there.
fn wanderer(arguments: &Arguments) {
    std::env::set_current_dir(arguments.text("directory")).expect("chdir");
    let server = ringbell::Server::bind("relative.sock").expect("bind");
    std::env::set_current_dir("/").expect("chdir");
    say("bound");
    let _ = hear();
    drop(server);
}

fn c10_a_relative_path_is_cleaned_up() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let mut process = Start::role("wanderer").with("directory", dir.path().display()).start();
    process.expect("bound");
    let path = dir.path().join("relative.sock");
    assert!(path.exists());
    process.tell("end");
    process.succeed();
    let left: Vec<_> = std::fs::read_dir(dir.path()).expect("there").collect();
    assert!(left.is_empty(), "{left:?}");
    done!("nothing is left")
}

/// Another user who binds a path; what came of it.
fn stranger(arguments: &Arguments) {
    signals::become_user(u32::try_from(arguments.number("uid")).expect("a uid"));
    match ringbell::Server::bind(arguments.text("path")) {
        Ok(_) => say("bound"),
        Err(error) => {
            let kind = match &error {
                BindError::LockUnusable { .. } => "LockUnusable",
                BindError::Locked(_) => "Locked",
                _ => "other",
            };
            say(&format!("{kind} {error}"));
        }
    }
}

fn p9_a_foreign_lock_is_named() -> Ran {
    if !rustix::process::geteuid().is_root() {
        return Ran::Skipped("only root can become another user".into());
    }
    let dir = tempfile::tempdir().expect("a directory");
    let sticky = std::fs::Permissions::from_mode(0o1777);
    std::fs::set_permissions(dir.path(), sticky).expect("chmod");
    let path = dir.path().join("test.sock");
    let lock = dir.path().join("test.sock.lock");
    let bind = || {
        let start = Start::role("stranger").with("path", path.display()).with("uid", 12_345);
        let mut process = start.start();
        let said = process.hear();
        process.succeed();
        said
    };
    assert_eq!(bind(), "bound");
    // A file of somebody else that this user may not open.
    let file = std::fs::File::create(&lock).expect("made");
    std::fs::set_permissions(&lock, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    std::os::unix::fs::chown(&lock, Some(54_321), None).expect("chown");
    let said = bind();
    let named = format!("the lock {}, which uid 54321 owns,", lock.display());
    assert!(said.starts_with("LockUnusable") && said.contains(&named), "{said}");
    // One that it may open, and that somebody else holds.
    std::fs::set_permissions(&lock, std::fs::Permissions::from_mode(0o666)).expect("chmod");
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).expect("locked");
    let said = bind();
    // Some kernels are set up not to let it be opened (fs.protected_regular).
    assert!(said.starts_with("Locked") || said.starts_with("LockUnusable"), "{said}");
    assert!(said.contains(&*lock.to_string_lossy()), "{said}");
    drop(file);
    std::fs::remove_file(&lock).expect("removed");
    std::os::unix::fs::symlink(dir.path().join("target"), &lock).expect("made");
    let said = bind();
    assert!(said.contains("it is a symbolic link") && said.contains(&*lock.to_string_lossy()));
    assert!(!dir.path().join("target").exists(), "the link was not followed");
    done!("of three kinds")
}

/// Somebody always has a link at the path of the socket, to a file of this user.
fn p10_no_link_at_the_path_is_followed() -> Ran {
    let rounds = scaled(500);
    let dir = tempfile::tempdir().expect("a directory");
    let (path, link) = (dir.path().join("test.sock"), dir.path().join("link"));
    let victim = dir.path().join("victim");
    std::fs::write(&victim, "precious").expect("written");
    std::fs::set_permissions(&victim, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    let stop = PlainU64::new(0);
    let replaced = std::thread::scope(|scope| {
        scope.spawn(|| {
            while stop.load(Ordering::Relaxed) == 0 {
                let _ = std::os::unix::fs::symlink(&victim, &link);
                if std::fs::symlink_metadata(&path).is_ok() {
                    let _ = std::fs::rename(&link, &path);
                }
            }
        });
        let mut replaced = 0;
        for _ in 0..rounds {
            tick();
            match ringbell::Server::builder().socket_mode(0o666).bind(&path) {
                Ok(server) => drop(server),
                Err(BindError::PathReplaced(_)) => replaced += 1,
                Err(BindError::PathIsNotASocket(_)) => {}
                Err(error) => panic!("{error}"),
            }
            let _ = std::fs::remove_file(&path);
        }
        stop.store(1, Ordering::Relaxed);
        replaced
    });
    let mode = std::fs::metadata(&victim).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "of the file behind the link");
    assert_eq!(std::fs::read(&victim).expect("there"), b"precious");
    done!("{rounds} servers, {replaced} of which found a link in place of their socket")
}
