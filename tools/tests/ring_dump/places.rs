//! Servers and clients in containers, of other users, dead, hidden, hostile: what is said of them
//! is true, and no command waits for them.

use crate::scene::{Scene, finds, report, ring_dump, text};
use ringbell::{Server, layout};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, Process, Start, hear, say};
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::{becomes_true, done, observe, wait_until};
use rustix::fs::{CWD, FileType, MemfdFlags, Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// A pid namespace of its own; with a user namespace around it.
const CONTAINER: &[&str] = &["--pid", "--fork", "--kill-child", "--mount-proc"];
const USER: &[&str] =
    &["--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"];

/// Why there are no such namespaces here, if there are none.
fn refusal(namespaces: &[&str]) -> Option<String> {
    let tried = Command::new("unshare").args(namespaces).arg("true").output();
    match tried {
        Ok(tried) if tried.status.success() => None,
        tried => Some(format!("it takes namespaces ({namespaces:?}): {tried:?}")),
    }
}

/// A process that does what servers and clients do not.
pub(crate) fn outlaw(arguments: &Arguments) {
    let path = arguments.get("path").map(PathBuf::from);
    let path = || path.clone().expect("a path");
    let mut kept: Vec<OwnedFd> = Vec::new();
    match arguments.text("does") {
        // Listens and never accepts.
        "listen" => kept.push(UnixListener::bind(path()).expect("bound").into()),
        // Takes the place of another socket.
        "take" => {
            std::fs::remove_file(path()).expect("removed");
            kept.push(UnixListener::bind(path()).expect("bound").into());
        }
        // Holds a descriptor of another process, as a child does that inherited it.
        "hold" => {
            let file = std::fs::File::open(path()).expect("opened");
            kept.push(file.into());
        }
        // Says that it is another server.
        "forge" => {
            let page = std::fs::read(path()).expect("read");
            let name = arguments.get("name").unwrap_or("ringbell:status");
            for _ in 0..arguments.maybe_number("times").unwrap_or(1) {
                let memfd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC).expect("a memfd");
                rustix::io::pwrite(&memfd, &page, 0).expect("written");
                kept.push(memfd);
            }
        }
        // Has a pipe that seems to be a segment, and that lets those wait who open it.
        "pipe" => {
            let directory = path();
            let mount = |arguments: &[&OsStr]| {
                let done = Command::new(arguments[0]).args(&arguments[1..]).status();
                assert!(done.expect("started").success());
            };
            let [directory, tmpfs] = [directory.as_os_str(), OsStr::new("tmpfs")];
            mount(&["mount".as_ref(), "-t".as_ref(), tmpfs, tmpfs, directory]);
            let pipe = Path::new(directory).join("memfd:ringbell:status");
            let mode = Mode::RUSR | Mode::WUSR;
            rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, mode, 0).expect("a pipe");
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            kept.push(rustix::fs::openat(CWD, &pipe, flags, Mode::empty()).expect("opened"));
            mount(&["umount".as_ref(), "-l".as_ref(), directory]);
        }
        other => panic!("what is {other}?"),
    }
    say("ready");
    while hear().is_some() {}
    drop(kept);
}

/// Two servers of one process, at `path` and `path.2`.
pub(crate) fn pair(arguments: &Arguments) {
    let paths = [arguments.text("path").to_owned(), format!("{}.2", arguments.text("path"))];
    let threads = paths.map(|path| {
        let server = Server::builder().bind(path).expect("bound");
        std::thread::spawn(move || {
            server.run(|request, response| {
                response.extend_from_slice(request.payload());
                Ok(())
            })
        })
    });
    say("ready");
    while hear().is_some() {}
    drop(threads);
    std::process::exit(0);
}

fn outlaw_that(does: &str, path: &Path, more: &[(&str, &str)]) -> Process {
    outlaw_from(Start::role("outlaw"), does, path, more)
}

fn outlaw_from(start: Start, does: &str, path: &Path, more: &[(&str, &str)]) -> Process {
    let mut start = start.with("does", does).with("path", path.display());
    for (key, value) in more {
        start = start.with(key, value);
    }
    let mut process = start.start();
    process.expect("ready");
    process
}

/// What a command says, which must end by itself.
fn ends(arguments: &[&str]) -> Output {
    tick();
    let mut child = ring_dump(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let (mut out, mut errors) = (child.stdout.take(), child.stderr.take());
    let read = |from: Option<&mut dyn std::io::Read>| {
        let mut bytes = Vec::new();
        from.expect("piped").read_to_end(&mut bytes).expect("read");
        bytes
    };
    let pid = Pid::from_child(&child);
    let done = std::thread::spawn(move || child.wait().expect("waited for"));
    let (stdout, stderr) = std::thread::scope(|scope| {
        let stderr = scope.spawn(|| read(errors.as_mut().map(|from| from as _)));
        let stdout = scope.spawn(|| read(out.as_mut().map(|from| from as _)));
        let ended = becomes_true(Duration::from_secs(40), || done.is_finished());
        if !ended {
            // It is stuck in the kernel at worst; the test says so and goes on.
            let _ = kill_process(pid, Signal::KILL);
        }
        assert!(ended, "{arguments:?} does not end");
        (stdout.join().expect("read"), stderr.join().expect("read"))
    });
    Output { status: done.join().expect("ended"), stdout, stderr }
}

fn listing(arguments: &[&str]) -> Value {
    let output = ends(&[&["list", "--json"], arguments].concat());
    assert!(output.status.code().is_some_and(|code| code <= 1), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The lines of a listing that `wanted` is true of.
fn lines(listing: &Value, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
    let servers = listing["servers"].as_array().expect("an array");
    servers.iter().filter(|line| wanted(line)).cloned().collect()
}

/// The process that `unshare` started.
fn inner(process: &Process) -> u32 {
    let id = process.id();
    let children = || std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
    let child = || children().ok()?.split_whitespace().next()?.parse().ok();
    wait_until("it has a child", || child().is_some());
    child().expect("a child")
}

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("small")).expect("a process");
    kill_process(pid, signal).expect("sent");
}

fn stop(pid: u32) {
    signal(pid, Signal::STOP);
    wait_until("it is stopped", || observe::state(pid) == Some('T'));
}

pub(crate) fn d4_a_server_in_a_container_is_listed_and_told_by_its_number_here() -> Ran {
    for namespaces in [CONTAINER, USER] {
        if let Some(why) = refusal(namespaces) {
            return Ran::Skipped(why);
        }
        let scene = Scene::under("unshare", namespaces, &[]);
        let mut client = scene.client();
        client.tell("call echo 1");
        client.expect("done");
        let pid = inner(&scene.server);
        let lines = lines(&listing(&[]), |line| line["host_pid"] == pid);
        assert_eq!(lines.len(), 1, "{namespaces:?}: {lines:?}");
        assert_eq!((&lines[0]["pid"], &lines[0]["state"]), (&1.into(), &"alive".into()));
        assert_eq!(lines[0]["listens_at"][0], scene.socket());
        for target in [pid.to_string(), scene.socket()] {
            let (seen, status) = report(&target);
            let (server, session) = (&seen["servers"][0], &seen["sessions"][0]);
            assert_eq!((&server["peer"]["pid"], &server["host_pid"]), (&1.into(), &pid.into()));
            assert_eq!(server["state"], "alive");
            // The server cannot see its client; this program can.
            assert_eq!(session["peer"]["pid"], 0);
            assert_eq!(session["host_pid"], client.id(), "{target}: {session:#}");
            assert_eq!((&session["state"], status), (&"alive".into(), 0));
            let shown = text(&ends(&["show", &target]).stdout);
            assert!(shown.contains(&format!("pid {pid} (1 in its container)")), "{shown}");
        }
        scene.server.signal(Signal::KILL);
    }
    done!("a pid namespace, and one in a user namespace")
}

pub(crate) fn d4_a_server_that_is_stopped_in_a_container_is_stopped() -> Ran {
    if let Some(why) = refusal(CONTAINER) {
        return Ran::Skipped(why);
    }
    let scene = Scene::under("unshare", CONTAINER, &[]);
    let mut client = scene.client_with(&[("park", "yes")]);
    client.tell("call echo 1");
    client.expect("done");
    let pid = inner(&scene.server);
    crate::scene::sleeps(&pid.to_string());
    stop(pid);
    client.tell("post echo nobody takes this");
    client.expect("done");
    for target in [pid.to_string(), scene.socket()] {
        let why = finds(&target, "server-stopped", "problem");
        assert!(why.contains(&format!("pid {pid} (1 in its container)")), "{why}");
        let (seen, _) = report(&target);
        assert_eq!(seen["servers"][0]["state"], "stopped");
        assert!(!seen.to_string().contains("lost-wake"), "{seen:#}");
    }
    let lines = lines(&listing(&[]), |line| line["host_pid"] == pid);
    assert_eq!(lines[0]["state"], "stopped");
    signal(pid, Signal::CONT);
    done!("stopped, by pid, by socket and in the list")
}

pub(crate) fn d4_a_client_in_another_container_is_the_right_process() -> Ran {
    if let Some(why) = refusal(CONTAINER) {
        return Ran::Skipped(why);
    }
    let contained = Scene::under("unshare", CONTAINER, &[]);
    let open = Scene::new();
    for scene in [&contained, &open] {
        let start = Start::role_under("unshare", CONTAINER, "caller");
        let mut client = start.with("path", scene.path.display()).start();
        client.expect("connected");
        let pid = inner(&client);
        let target = scene.socket();
        let (seen, _) = report(&target);
        assert_eq!(seen["sessions"][0]["host_pid"], pid, "{seen:#}");
        stop(pid);
        let why = finds(&target, "client-stopped", "problem");
        assert!(why.contains(&format!("pid {pid}")), "{why}");
        signal(pid, Signal::CONT);
        // By the client's own number, too.
        let (seen, _) = report(&pid.to_string());
        assert_eq!(seen["sessions"][0]["host_pid"], pid, "{seen:#}");
        client.kill();
    }
    contained.server.signal(Signal::KILL);
    done!("a server beside it, and one outside")
}

pub(crate) fn two_servers_of_one_process_are_told_apart() -> Ran {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("s");
    let mut process = Start::role("pair").with("path", path.display()).start();
    process.expect("ready");
    let mut client = Start::role("caller").with("path", path.display()).start();
    client.expect("connected");
    client.tell("batch 7");
    client.expect("done");
    let lines = lines(&listing(&[]), |line| line["host_pid"] == process.id());
    assert_eq!(lines.len(), 2, "{lines:?}");
    for (end, sessions) in [("s", 1), ("s.2", 0)] {
        let at = directory.path().join(end).display().to_string();
        let of_it: Vec<_> =
            lines.iter().filter(|line| line["listens_at"] == serde_json::json!([at])).collect();
        assert_eq!(of_it.len(), 1, "{lines:#?}");
        assert_eq!(of_it[0]["sessions"], sessions);
        let (seen, _) = report(&at);
        assert_eq!(seen["servers"].as_array().map(Vec::len), Some(1));
        assert_eq!(seen["servers"][0]["generation"], of_it[0]["generation"]);
    }
    let (seen, _) = report(&process.id().to_string());
    assert_eq!(seen["servers"].as_array().map(Vec::len), Some(2));
    done!("by their sockets and sessions")
}

pub(crate) fn a_deleted_socket_is_a_problem() -> Ran {
    let scene = Scene::new();
    let mut client = scene.client();
    std::fs::remove_file(&scene.path).expect("removed");
    let why = finds(&scene.pid(), "socket-deleted", "problem");
    assert!(why.contains(&scene.socket()), "{why}");
    client.tell("call echo 1");
    client.expect("done");
    let lines = lines(&listing(&[]), |line| line["host_pid"] == scene.server.id());
    assert_eq!(lines[0]["problems"], 1, "{lines:?}");
    if refusal(CONTAINER).is_none() {
        // Where its paths are others than here.
        let mounted = Scene::under("unshare", &["--mount", "--net"], &[]);
        std::fs::remove_file(&mounted.path).expect("removed");
        finds(&mounted.pid(), "socket-deleted", "problem");
    }
    done!("in show and in the list, while its client goes on")
}

pub(crate) fn a_socket_that_is_taken_over_names_who_took_it() -> Ran {
    let scene = Scene::new();
    let thief = outlaw_that("take", &scene.path, &[]);
    let why = finds(&scene.pid(), "socket-taken-over", "problem");
    assert!(why.contains(&format!("process {} listens there", thief.id())), "{why}");
    // The socket leads to the other one, which does not answer: no word of the first.
    let output = ends(&["show", &scene.socket()]);
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(3) && said.contains(&thief.id().to_string()), "{said}");
    std::fs::remove_file(&scene.path).expect("removed");
    std::fs::write(&scene.path, "").expect("written");
    let why = finds(&scene.pid(), "socket-taken-over", "problem");
    assert!(why.contains("something else"), "{why}");
    done!("by a process, and by a file")
}

pub(crate) fn memory_of_a_dead_server_is_an_orphan() -> Ran {
    let scene = Scene::new();
    let client = scene.client();
    let server = scene.server.id();
    client.stop();
    let status = crate::scene::segment_paths(server).into_iter().find(|path| {
        let link = std::fs::read_link(path).unwrap_or_default();
        link.to_string_lossy().starts_with("/memfd:ringbell:status")
    });
    let heir = outlaw_that("hold", &status.expect("a status segment"), &[]);
    let alive = lines(&listing(&[]), |line| line["pid"] == server);
    assert!(alive.len() == 1 && alive[0]["state"] == "alive", "{alive:?}");
    // Dead is dead, also while its parent has not waited for it.
    scene.server.signal(Signal::KILL);
    wait_until("it has ended", || observe::state(server) == Some('Z'));
    for holders in [vec![heir.id(), client.id()], vec![client.id()]] {
        let found = lines(&listing(&[]), |line| line["pid"] == server);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((&found[0]["state"], &found[0]["host_pid"]), (&"dead".into(), &Value::Null));
        assert!(
            holders
                .iter()
                .any(|pid| found[0]["held_by"].as_array().expect("pids").contains(&(*pid).into())),
            "{holders:?}: {found:?}"
        );
        let holder = holders[0].to_string();
        let why = finds(&holder, "orphan", "problem");
        assert!(why.contains(&format!("process {holder} holds")), "{why}");
        if holders.len() == 2 {
            signal(heir.id(), Signal::KILL);
            wait_until("the heir is gone", || observe::descriptor_targets(heir.id()).is_empty());
        }
    }
    let shown = text(&ends(&["list"]).stdout);
    assert!(shown.contains(&format!("memory held by process {}", client.id())), "{shown}");
    done!("held by an inherited descriptor, and by a client that is stopped")
}

/// Whether a terminal would do anything with this but show it.
fn is_plain(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let harmful = |c: char| (c.is_control() && c != '\n') || ('\u{202a}'..='\u{202e}').contains(&c);
    !text.contains(harmful)
}

pub(crate) fn d6_names_and_paths_of_others_reach_no_terminal_raw() -> Ran {
    let directory = tempfile::tempdir().expect("a directory");
    let evil = "\x1b]0;owned\x07\u{202e}\r\n\u{9b}31m x";
    let path = directory.path().join(evil);
    let mut server = Start::role("service").with("path", path.display()).start();
    server.expect("ready");
    let other = directory.path().join(format!("{evil}2"));
    let _deaf = outlaw_that("listen", &other, &[]);
    // A name that decodes, and one that does not.
    let page = directory.path().join("page");
    std::fs::write(&page, crate::scene::segments(server.id()).concat()).expect("written");
    let _forger = outlaw_that("forge", &page, &[("name", "ringbell:\x1b]0;owned\x07")]);
    let pid = server.id().to_string();
    let [at, there] = [path, directory.path().to_owned()].map(|path| path.display().to_string());
    let missing = format!("{at}.not");
    let saved = directory.path().join("saved\x1b[2J").display().to_string();
    let commands: [&[&str]; 11] = [
        &["list", &there],
        &["list", "--json", &there],
        &["list", &missing],
        &["show", &at],
        &["show", &at, "--json"],
        &["show", &at, "--prometheus"],
        &["show", &pid],
        &["show", &missing],
        &["frames", &at],
        &["save", &at, &saved],
        &["show", &page.display().to_string()],
    ];
    for arguments in commands {
        let output = ends(arguments);
        for stream in [&output.stdout, &output.stderr] {
            assert!(is_plain(stream), "{arguments:?}: {:?}", text(stream));
        }
    }
    let shown = text(&ends(&["show", &pid]).stdout);
    assert!(shown.contains("\\x1b]0;owned\\x07\\u{202e}\\x0d\\x0a\\u{9b}31m x"), "{shown}");
    std::fs::write(&saved, "x").expect("written");
    let output = ends(&["show", &saved]);
    assert!(is_plain(&output.stderr) && text(&output.stderr).contains("\\x1b[2J"));
    done!("{} commands", commands.len() + 2)
}

pub(crate) fn what_blocks_in_a_directory_keeps_no_list_waiting() -> Ran {
    let scene = Scene::new();
    let directory = scene.directory.path();
    for kind in ["a", "z"] {
        let pipe = directory.join(format!("{kind}.pipe"));
        rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).expect("a pipe");
    }
    let deaf: Vec<_> = (0..20)
        .map(|index| outlaw_that("listen", &directory.join(format!("a{index:02}")), &[]))
        .collect();
    let seen = listing(&[&directory.display().to_string()]);
    let at = lines(&seen, |line| line["listens_at"][0] == scene.socket());
    assert_eq!(at.len(), 1, "{seen:#}");
    let refused = seen["sockets"].as_array().expect("an array");
    assert_eq!(refused.len(), deaf.len(), "{seen:#}");
    for command in ["show", "tap", "frames"] {
        let pipe = directory.join("a.pipe").display().to_string();
        assert_eq!(ends(&[command, &pipe]).status.code(), Some(3));
    }
    done!("{} sockets that accept nothing, and 2 pipes", deaf.len())
}

pub(crate) fn d6_a_pipe_that_is_called_a_segment_keeps_nothing_waiting() -> Ran {
    if let Some(why) = refusal(&["--mount"]) {
        return Ran::Skipped(why);
    }
    let scene = Scene::new();
    let directory = tempfile::tempdir().expect("a directory");
    let start = Start::role_under("unshare", &["--mount"], "outlaw");
    let outlaw = outlaw_from(start, "pipe", directory.path(), &[]);
    let targets = observe::descriptor_targets(outlaw.id());
    assert!(
        targets.iter().any(|target| target.starts_with("/memfd:ringbell:status")),
        "{targets:?}"
    );
    let seen = listing(&[]);
    assert_eq!(lines(&seen, |line| line["host_pid"] == scene.server.id()).len(), 1);
    let output = ends(&["show", &outlaw.id().to_string()]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    done!("the list and a look at the process itself")
}

/// The status segment of a server, as a file that can be copied from.
fn status_of(scene: &Scene) -> PathBuf {
    let file = scene.directory.path().join("status");
    let path = crate::scene::segment_paths(scene.server.id()).into_iter().find(|path| {
        let link = std::fs::read_link(path).unwrap_or_default();
        link.to_string_lossy().starts_with("/memfd:ringbell:status")
    });
    let segment = std::fs::File::open(path.expect("a status segment")).expect("opened");
    let mut bytes =
        vec![0; usize::try_from(segment.metadata().expect("known").len()).expect("small")];
    segment.read_exact_at(&mut bytes, 0).expect("read");
    std::fs::write(&file, bytes).expect("written");
    file
}

pub(crate) fn d6_forged_segments_are_told_from_the_real_ones() -> Ran {
    // Started first, so that it is the first one that is found, too.
    let scene = Scene::new();
    let _client = scene.client();
    let page = status_of(&scene);
    let forger = outlaw_that("forge", &page, &[]);
    let server = scene.server.id();
    let seen = listing(&[]);
    let real = lines(&seen, |line| line["host_pid"] == server);
    assert_eq!((real.len(), &real[0]["problems"]), (1, &0.into()), "{real:?}");
    assert_eq!(real[0]["sessions"], 1);
    let forged = lines(&seen, |line| line["pid"] == server && line["host_pid"].is_null());
    assert_eq!(forged.len(), 1, "{seen:#}");
    assert_eq!(forged[0]["held_by"], serde_json::json!([forger.id()]));
    // It says nothing of the real one.
    let (of_forger, status) = report(&forger.id().to_string());
    let stated = &of_forger["servers"][0];
    assert_eq!((&stated["host_pid"], &stated["state"]), (&Value::Null, &"unknown".into()));
    assert_eq!(status, 1);
    let why = finds(&forger.id().to_string(), "orphan", "problem");
    assert!(why.contains("forged"), "{why}");
    for target in [scene.pid(), scene.socket()] {
        let (of_server, status) = report(&target);
        assert_eq!(of_server["servers"].as_array().map(Vec::len), Some(1));
        assert_eq!((&of_server["servers"][0]["host_pid"], status), (&server.into(), 0));
    }
    done!("a copy of a status segment in another process")
}

pub(crate) fn d6_thousands_of_forged_segments_hide_nothing() -> Ran {
    let scene = Scene::new();
    let page = status_of(&scene);
    let room = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let times = room.unwrap_or(4000).min(4000) - 100;
    let forger = outlaw_that("forge", &page, &[("times", &times.to_string())]);
    let seen = listing(&[]);
    assert_eq!(lines(&seen, |line| line["host_pid"] == scene.server.id()).len(), 1);
    let forged = lines(&seen, |line| line["held_by"] == serde_json::json!([forger.id()]));
    assert!(!forged.is_empty() && forged.len() <= 64, "{} lines", forged.len());
    let left_out = seen["left_out"].as_u64().expect("a number");
    assert!(left_out >= times - 64, "{left_out} of {times}");
    assert!(ends(&["show", &forger.id().to_string()]).status.code() == Some(1));
    done!("{times} copies of a status segment")
}

pub(crate) fn another_user_is_told_what_is_missing() -> Ran {
    const NOBODY: u32 = 65534;
    if !rustix::process::geteuid().is_root() {
        return Ran::Skipped("it takes root to become somebody else".into());
    }
    let scene = Scene::with(&[("anyone", "yes")]);
    std::fs::set_permissions(scene.directory.path(), PermissionsExt::from_mode(0o755))
        .expect("set");
    let program = scene.directory.path().join("ring-dump");
    std::fs::copy(env!("CARGO_BIN_EXE_ring-dump"), &program).expect("copied");
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        let output = command.args(arguments).uid(NOBODY).gid(NOBODY).output().expect("started");
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let (status, why) = as_nobody(&["show", &scene.pid()]);
    assert_eq!(status, Some(3));
    for part in [&*format!("process {} may not", scene.pid()), "uid 0", "root", "CAP_SYS_PTRACE"] {
        assert!(why.contains(part), "{part}: {why}");
    }
    let (status, why) = as_nobody(&["show", &scene.socket()]);
    assert!(status == Some(3) && why.contains("(uid 0), or root"), "{why}");
    scene.server.stop();
    let (status, why) = as_nobody(&["show", &scene.socket()]);
    assert!(status == Some(3) && why.contains("is stopped") && why.contains("uid 0"), "{why}");
    scene.server.go_on();
    let (_, said) = as_nobody(&["list"]);
    assert!(said.contains("of other users were not looked into"), "{said}");
    done!("by pid, by socket, of a server that is stopped, in the list")
}

pub(crate) fn a_process_without_segments_is_told_so() -> Ran {
    let other =
        outlaw_that("listen", &tempfile::tempdir().expect("a directory").path().join("x"), &[]);
    let said = text(&ends(&["show", &other.id().to_string()]).stderr);
    assert!(said.contains("has no segments of Ringbell"), "{said}");
    let mut child = Command::new("true").spawn().expect("started");
    wait_until("it has ended", || observe::state(child.id()) == Some('Z'));
    let said = text(&ends(&["show", &child.id().to_string()]).stderr);
    assert!(said.contains("has ended"), "{said}");
    child.wait().expect("waited for");
    let scene = Scene::new();
    let page = status_of(&scene);
    let mut bytes = std::fs::read(&page).expect("read");
    // The version stands behind the magic number.
    let at = bytes
        .windows(4)
        .position(|window| window == layout::LAYOUT_VERSION.to_ne_bytes())
        .expect("a version");
    assert!(at < 64);
    bytes[at] = 99;
    std::fs::write(&page, &bytes).expect("written");
    let newer = outlaw_that("forge", &page, &[]);
    let said = text(&ends(&["show", &newer.id().to_string()]).stderr);
    assert!(said.contains("newer: layout version 99"), "{said}");
    // Paths may be any bytes.
    let odd = OsStr::from_bytes(b"/nowhere/\xff\x1b");
    let output = Command::new(env!("CARGO_BIN_EXE_ring-dump")).arg("list").arg(odd).output();
    assert!(is_plain(&output.expect("started").stderr));
    done!("none, ended, newer")
}
