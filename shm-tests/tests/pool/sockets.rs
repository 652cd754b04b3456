//! The sockets of workers: who listens at them, what is left of them, and whose end a worker sees.

use crate::connections::{answered_by, serve};
use crate::workers::{is_gone, process, worker_command, zombies};
use crate::{limit_descriptors, settings};
use ringbell::pool::{AcquireError, Manager, Settings};
use ringbell::worker::{Attach, SocketWorkers, Worker, WorkerError};
use ringbell::{Client, ConnectError, Pools, WorkerCommand, WorkerPool};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, Process, Start, hear, say};
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::{done, observe, scaled, signals, wait_until};
use rustix::process::{Pid, Signal};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A worker that outlives its parent if it can: the signal that comes with a parent's death is off.
pub(crate) fn socket_worker(arguments: &Arguments) {
    if arguments.get("mute").is_some() {
        return std::thread::sleep(Duration::from_secs(600));
    }
    rustix::process::set_parent_process_death_signal(None).expect("prctl");
    if let Some(place) = arguments.get("late").map(Path::new) {
        // Its test is told who it is, and says when to go on.
        std::fs::write(place.join("worker.new"), std::process::id().to_string()).expect("written");
        std::fs::rename(place.join("worker.new"), place.join("worker")).expect("renamed");
        while !place.join("go").exists() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let refused = ringbell::Server::builder().for_parent().map(drop);
        std::fs::write(place.join("refused"), format!("{refused:?}")).expect("written");
        return;
    }
    // A server needs a few more than its parent may have in one of the tests.
    limit_descriptors(None);
    if arguments.get("real").is_some() {
        let path = PathBuf::from(std::env::var_os("RINGBELL_SOCKET").expect("it is told where"));
        let directory = path.parent().expect("a directory").canonicalize().expect("it is there");
        let real = directory.join(path.file_name().expect("a name"));
        assert_ne!(real, path, "there is a link on the way");
        return serve(ringbell::Server::builder().bind(real).expect("a place to serve"));
    }
    // A pool of root may have workers of another user.
    let users = ringbell::Credentials::Uids(vec![0, rustix::process::geteuid().as_raw()]);
    let server = ringbell::Server::builder().credentials(users).for_parent();
    serve(server.expect("a place to serve"));
}

/// Starts [`socket_worker`], or a shell that runs it.
fn command(wrapper: &str) -> WorkerCommand {
    let program = std::env::current_exe().expect("this program has a path");
    let script = match wrapper {
        "none" => None,
        // The shell stays: there is something to be done afterwards.
        "shell" => Some(r#""$0" "$@"; true"#),
        "session" => Some(r#"setsid "$0" "$@" & wait"#),
        // As another user: what it may be told by is the descriptor alone. No signal comes with its
        // parent's death, since the kernel forgets that when the user changes.
        "user" => Some(r#"exec setpriv --reuid 12345 --regid 12345 --clear-groups "$0" "$@""#),
        other => panic!("no wrapper {other}"),
    };
    let command = match script {
        None => WorkerCommand::new(program),
        Some(script) => WorkerCommand::new("sh").arg("-c").arg(script).arg(program),
    };
    command
        .env("RINGBELL_TEST_ROLE", "socket_worker")
        .env_remove("RINGBELL_TEST_PARENT")
        .start_timeout(Duration::from_secs(30))
}

fn attach(name: &str) -> Attach {
    match name {
        "path" => Attach::Path,
        "descriptor" => Attach::Descriptor,
        other => panic!("no way {other}"),
    }
}

const WAYS: [&str; 2] = ["path", "descriptor"];

fn entries(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("it is there").flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Has a pool, and ends as it is told.
pub(crate) fn socket_host(arguments: &Arguments) {
    let directory = PathBuf::from(arguments.text("dir"));
    let mut command = command(arguments.get("wrapper").unwrap_or("none"));
    for key in ["late", "mute", "real"] {
        if let Some(value) = arguments.get(key) {
            command = command.arg(format!("{key}={value}"));
        }
    }
    let way = attach(arguments.get("attach").unwrap_or("path"));
    if arguments.get("end") == Some("global") {
        let pools = Pools::new(&directory, settings(0, 1));
        let spec = ringbell::worker::WorkerSpec::Serving(command, way);
        pools.define_with("a", spec, settings(0, 1)).expect("it is new");
        assert!(Pools::init(pools).is_none());
        let mut worker = Pools::global().expect("just made").acquire("a").expect("a worker");
        worker.call(b"x", None).expect("an answer");
        say("worker 0");
        let _ = hear();
        // The pools live on, and the worker is in use.
        std::process::exit(0);
    }
    let workers = SocketWorkers::new(command, &directory, "w").attach(way);
    let pool = WorkerPool::of(workers, settings(0, 1)).expect("a pool");
    let mut worker = pool.acquire().expect("a worker");
    let answer = worker.call(b"x", None).expect("an answer");
    say(&format!("worker {}", answered_by(b"x", &answer)));
    let _ = hear();
    match arguments.get("end") {
        Some("exit") => std::process::exit(0),
        Some("abort") => std::process::abort(),
        _ => drop((worker, pool)),
    }
}

fn host(directory: &Path) -> Start {
    Start::role("socket_host").with("dir", directory.display())
}

fn worker_of(host: &mut Process) -> u32 {
    host.expect("worker").parse().expect("a process id")
}

fn wait_for_the_end_of(worker: u32) {
    // A process that adopts it may take its time to wait for it.
    wait_until("it is dead", || matches!(observe::state(worker), None | Some('Z')));
}

pub(crate) fn w6_nothing_is_left_however_the_host_ends() -> Ran {
    let mut ends = 0;
    for way in WAYS {
        for end in ["exit", "abort", "global", "drop", "kill"] {
            let dir = tempfile::tempdir().expect("a directory");
            let mut host = host(dir.path()).with("attach", way).with("end", end).start();
            host.expect("worker");
            assert_eq!(entries(dir.path()), [""; 0], "{way}: while a worker is in use");
            if end == "kill" {
                host.kill();
            } else {
                host.tell("end");
                let _ = host.wait();
            }
            assert_eq!(entries(dir.path()), [""; 0], "{way}, {end}");
            ends += 1;
        }
    }
    done!("{ends} ends of a host")
}

pub(crate) fn w6_the_next_host_sweeps_what_a_killed_one_left() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let starting = || {
        let known = entries(dir.path());
        let host = host(dir.path()).with("mute", "yes").start();
        let mut place = None;
        wait_until("a worker starts", || {
            place = entries(dir.path()).into_iter().find(|name| !known.contains(name));
            place.as_ref().is_some_and(|place| dir.path().join(place).join("s.host").exists())
        });
        (host, place.expect("it was found"))
    };
    let (mut killed, left) = starting();
    let (mut alive, kept) = starting();
    killed.kill();
    assert!(dir.path().join(&left).exists(), "nobody was there to remove it");
    // Not even a pool that is alive may be mistaken for a dead one.
    let pool = WorkerPool::new(command("none"), dir.path(), settings(0, 1)).expect("a pool");
    drop(pool.acquire().expect("a worker"));
    assert_eq!(entries(dir.path()), std::slice::from_ref(&kept));
    alive.kill();
    let pool = WorkerPool::new(command("none"), dir.path(), settings(0, 1)).expect("a pool");
    drop(pool.acquire().expect("a worker"));
    assert_eq!(entries(dir.path()), [""; 0]);
    done!("one that was killed, one that lived meanwhile")
}

/// Sweeps a directory, and has a worker in it.
pub(crate) fn sweeping_host(arguments: &Arguments) {
    let pool = WorkerPool::new(command("none"), arguments.text("dir"), settings(0, 1));
    drop(pool.expect("a pool").acquire().expect("a worker"));
    say("swept");
}

/// What others may put into a directory that all may write to: whoever opens it, connects to it or
/// only asks for its owner waits for ever. Root is a user for whom a stranger's doors are open.
pub(crate) fn w6_a_sweep_waits_for_nothing_that_others_own() -> Ran {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a directory");
    let shared = std::fs::Permissions::from_mode(0o1777);
    std::fs::set_permissions(dir.path(), shared).expect("set");
    let planted = |name: &str| dir.path().join(format!("{name}-abcdefgh2345.ring"));
    let fifo = Command::new("mkfifo").arg(planted("fifo")).status().expect("coreutils");
    assert!(fifo.success());
    let _socket = UnixListener::bind(planted("socket")).expect("bound");
    for name in ["served", "shut"] {
        std::fs::create_dir(planted(name)).expect("made");
    }
    // A mount of a file system in user space, whose program never answers. The host has the
    // descriptor by which it would: it ends with the host.
    let options = "fd=9,rootmode=40000,user_id=12345,group_id=12345,allow_other";
    let mount = |place: PathBuf| format!("mount -i -t fuse -o {options} none {}", place.display());
    let script = format!("exec 9<>/dev/fuse && {} && exec \"$0\" \"$@\"", mount(planted("served")));
    let tried = format!("exec 9<>/dev/fuse && {}", mount(planted("shut")));
    let tried = Command::new("unshare").args(["--mount", "sh", "-c", &tried]).output();
    let missing = match tried {
        Ok(tried) if tried.status.success() => None,
        Ok(tried) => Some(String::from_utf8_lossy(&tried.stderr).trim().to_owned()),
        Err(error) => Some(format!("unshare (util-linux): {error}")),
    };
    let host = match missing {
        None => Start::role_under("unshare", &["--mount", "sh", "-c", &script], "sweeping_host"),
        Some(_) => Start::role("sweeping_host"),
    };
    let mut host = host.with("dir", dir.path().display()).start();
    host.expect("swept");
    host.succeed();
    // Of another user only if that is not this one: then it goes.
    for name in ["fifo", "socket"] {
        assert!(planted(name).symlink_metadata().is_ok(), "{name}");
    }
    match missing {
        None => done!("a FIFO, a socket and a file system that never answers"),
        Some(missing) => done!("a FIFO and a socket; missing: FUSE: {missing}"),
    }
}

pub(crate) fn w8_what_is_wrong_with_a_directory_is_told_at_once() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let marker = dir.path().join("started");
    let touch = || WorkerCommand::new("touch").arg(&marker);
    let missing = dir.path().join("no such").join("sockets");
    let long = dir.path().join("d".repeat(100));
    std::fs::create_dir(&long).expect("made");
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("made");
    let patient = || Settings { acquire_timeout: None, ..settings(0, 1) };
    let mut told = 0;
    for (directory, named, command) in [
        (missing.as_path(), missing.as_path(), touch()),
        (&long, &long, touch()),
        (&file, &file, touch()),
        (dir.path(), &missing, touch().current_dir(&missing)),
        (dir.path(), &file, touch().current_dir(&file)),
        (dir.path(), Path::new("/no/such/program"), WorkerCommand::new("/no/such/program")),
    ] {
        for create in [true, false] {
            for way in WAYS {
                let workers = SocketWorkers::new(command.clone(), directory, "w")
                    .create_directory(create)
                    .attach(attach(way));
                let pool = WorkerPool::of(workers, patient()).expect("a pool");
                match pool.acquire() {
                    Err(AcquireError::Open(failure)) => {
                        let text = failure.to_string();
                        assert!(text.contains(&*named.to_string_lossy()), "{named:?}: {text}");
                    }
                    other => panic!("{directory:?}: {other:?}"),
                }
                assert_eq!((pool.stats().opened, pool.stats().open_failures), (0, 1));
                told += 1;
                tick();
            }
        }
    }
    assert!(!marker.exists(), "no process was started");
    std::fs::remove_file(&file).expect("removed");
    std::fs::remove_dir(&long).expect("removed");
    assert_eq!(entries(dir.path()), [""; 0]);
    done!("{told} pools")
}

/// Ends, or has a child that ends, while a worker starts.
pub(crate) fn starting_host(arguments: &Arguments) {
    let directory = PathBuf::from(arguments.text("dir"));
    let command = command("none").arg("mute=yes");
    let pool = WorkerPool::new(command, &directory, settings(2, 2)).expect("a pool");
    wait_until("a worker starts", || {
        entries(&directory).pop().is_some_and(|place| directory.join(place).join("s.host").exists())
    });
    match arguments.text("end") {
        // The pool lives on meanwhile, as a global one would.
        "exit" => std::process::exit(0),
        "return" => std::mem::forget(pool),
        "child" => {
            let before = entries(&directory);
            match signals::fork() {
                None => std::process::exit(0),
                Some(child) => {
                    assert_eq!(signals::result_of(child), 0);
                    let now = entries(&directory);
                    assert!(before.iter().all(|place| now.contains(place)), "a child's end");
                    for place in before {
                        assert!(directory.join(place).join("s.host").exists());
                    }
                }
            }
            std::process::exit(0);
        }
        other => panic!("no end {other}"),
    }
}

pub(crate) fn w6_a_host_that_ends_while_a_worker_starts_leaves_nothing() -> Ran {
    let ends = ["exit", "return", "child"];
    for end in ends {
        let dir = tempfile::tempdir().expect("a directory");
        let host = Start::role("starting_host").with("dir", dir.path().display()).with("end", end);
        host.start().succeed();
        assert_eq!(entries(dir.path()), [""; 0], "{end}");
    }
    done!("{ends:?}")
}

/// Starts workers, and compares each with the process that answers.
pub(crate) fn comparing_host(arguments: &Arguments) {
    assert_eq!(std::process::id(), 1, "the first of its namespace");
    let command = worker_command();
    let settings = Settings { enabled: false, ..settings(0, 1) };
    let pool = WorkerPool::new(command, arguments.text("dir"), settings).expect("a pool");
    say("ready");
    let _ = hear();
    for _ in 0..arguments.number("rounds") {
        let mut worker = pool.acquire().expect("a worker");
        let answer = worker.call(b"x", None).expect("an answer");
        assert_eq!(answered_by(b"x", &answer), worker.id(), "another host's worker answered");
    }
    let stats = pool.stats();
    assert_eq!(stats.open_failures, 0);
    say(&format!("opened {}", stats.opened));
}

pub(crate) fn w9_two_hosts_that_are_both_pid_1_share_a_directory() -> Ran {
    if !unshare_works() {
        return Ran::Skipped("no right to make a pid namespace".into());
    }
    let rounds = scaled(20).max(5);
    let dir = tempfile::tempdir().expect("a directory");
    // What others have there: the names that pools once gave.
    let foreign: Vec<_> = ["w-1-0.sock", "w-1-1.sock"].map(|name| dir.path().join(name)).into();
    let listeners: Vec<_> =
        foreign.iter().map(|path| UnixListener::bind(path).expect("bound")).collect();
    let mut hosts: Vec<_> = (0..2)
        .map(|_| {
            Start::role_under("unshare", &["--pid", "--fork", "--kill-child"], "comparing_host")
                .with("dir", dir.path().display())
                .with("rounds", rounds)
                .start()
        })
        .collect();
    for host in &mut hosts {
        host.expect("ready");
    }
    for host in &mut hosts {
        host.tell("go");
    }
    for host in &mut hosts {
        assert_eq!(host.expect("opened"), rounds.to_string());
        host.succeed();
    }
    for path in &foreign {
        UnixStream::connect(path).expect("it is there, and its owner listens");
    }
    assert_eq!(entries(dir.path()).len(), foreign.len());
    drop(listeners);
    done!("two hosts, {rounds} workers each")
}

fn unshare_works() -> bool {
    let tried = std::process::Command::new("unshare").args(["--pid", "--fork", "true"]).output();
    tried.is_ok_and(|tried| tried.status.success())
}

fn open(directory: &Path, command: WorkerCommand, way: Attach) -> Result<Worker, WorkerError> {
    SocketWorkers::new(command, directory, "w").attach(way).open()
}

pub(crate) fn w9_a_stranger_at_the_workers_path_is_refused() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let opening = std::thread::spawn({
        let directory = dir.path().to_owned();
        move || open(&directory, command("none").arg("mute=yes"), Attach::Path)
    });
    let mut place = None;
    wait_until("the place is there", || {
        place = entries(dir.path()).pop().map(|name| dir.path().join(name));
        place.as_ref().is_some_and(|place| place.join("s.host").exists())
    });
    let path = place.expect("it was found").join("s");
    let mut stranger = Start::role("echo_server").with("path", path.display()).start();
    stranger.expect("ready");
    let id = stranger.id();
    match opening.join().expect("no panic") {
        Err(
            error @ WorkerError::Connect {
                error: ConnectError::WrongServerProcess { have, .. },
                ..
            },
        ) => {
            assert_eq!(have, id, "{error}");
        }
        other => panic!("{other:?}"),
    }
    // The stranger is none of the pool's business.
    let mut client = Client::connect(&path).expect("it serves");
    assert_eq!(answered_by(b"x", &client.call(b"x").expect("an answer")), id);
    assert_eq!(zombies(), [0; 0]);
    done!("process {id} was refused, and serves on")
}

pub(crate) fn w9_a_worker_behind_a_wrapper_is_ours() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let mut opened = 0;
    for wrapper in ["none", "shell", "session"] {
        for way in WAYS {
            let worker = open(dir.path(), command(wrapper), attach(way));
            let mut worker = worker.unwrap_or_else(|error| panic!("{wrapper}, {way}: {error}"));
            let server = answered_by(b"x", &worker.call(b"x", None).expect("an answer"));
            assert_eq!(server == worker.id(), wrapper == "none");
            assert_eq!(entries(dir.path()), [""; 0]);
            drop(worker);
            if wrapper == "session" {
                // Out of the reach of its group's end; its host still lives.
                let _ = rustix::process::kill_process(process(server), Signal::KILL);
            }
            wait_for_the_end_of(server);
            opened += 1;
        }
    }
    done!("{opened} workers")
}

pub(crate) fn w11_a_worker_behind_a_wrapper_ends_with_its_host() -> Ran {
    let mut ended = 0;
    for wrapper in ["shell", "session"] {
        for way in WAYS {
            let dir = tempfile::tempdir().expect("a directory");
            let mut host = host(dir.path()).with("wrapper", wrapper).with("attach", way).start();
            let worker = worker_of(&mut host);
            assert!(!is_gone(worker));
            host.kill();
            wait_for_the_end_of(worker);
            ended += 1;
        }
    }
    done!("{ended} workers")
}

pub(crate) fn w11_a_worker_of_another_user_ends_with_its_host() -> Ran {
    let can = std::process::Command::new("setpriv")
        .args(["--reuid", "12345", "--regid", "12345", "--clear-groups"])
        .arg(std::env::current_exe().expect("this program has a path"))
        .arg("--list")
        .output();
    if !can.is_ok_and(|ran| ran.status.success()) {
        return Ran::Skipped("no right to be another user, or it may not run this program".into());
    }
    let dir = tempfile::tempdir().expect("a directory");
    let mut host = host(dir.path()).with("wrapper", "user").with("attach", "descriptor").start();
    let worker = worker_of(&mut host);
    assert!(!is_gone(worker));
    host.kill();
    wait_for_the_end_of(worker);
    done!("worker {worker}")
}

pub(crate) fn w11_a_worker_that_binds_its_place_by_another_path_ends_with_its_host() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let (real, link) = (dir.path().join("real"), dir.path().join("link"));
    std::fs::create_dir(&real).expect("made");
    std::os::unix::fs::symlink(&real, &link).expect("made");
    let mut host = host(&link).with("wrapper", "session").with("real", "yes").start();
    let worker = worker_of(&mut host);
    assert!(!is_gone(worker));
    host.kill();
    wait_for_the_end_of(worker);
    done!("worker {worker}")
}

pub(crate) fn w11_a_worker_that_comes_too_late_does_not_serve() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let notes = tempfile::tempdir().expect("another");
    let notes = notes.path();
    let mut host =
        host(dir.path()).with("wrapper", "session").with("late", notes.display()).start();
    wait_until("the worker runs", || notes.join("worker").exists());
    let worker: u32 =
        std::fs::read_to_string(notes.join("worker")).expect("read").parse().expect("a number");
    assert!(Pid::from_raw(worker.cast_signed()).is_some() && !is_gone(worker));
    host.kill();
    std::fs::write(notes.join("go"), "").expect("written");
    wait_for_the_end_of(worker);
    let refused = std::fs::read_to_string(notes.join("refused")).expect("it was refused");
    assert!(refused.contains("HostEnded"), "{refused}");
    done!("{refused}")
}
