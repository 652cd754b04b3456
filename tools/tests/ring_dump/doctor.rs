//! The doctor: what it says of this machine, and of a process that somebody limits.

use crate::scene::{Scene, output, ring_dump, say_of, text};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::{done, wait_until};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// What the doctor says, by the names of its checks.
fn checks(arguments: &[&str]) -> (Value, Vec<Value>) {
    let mut all = vec!["doctor", "--json"];
    all.extend(arguments);
    let (text, status) = say_of(&all);
    let health: Value = serde_json::from_str(&text).expect("JSON");
    let checks = health["checks"].as_array().expect("an array").clone();
    let needs_work = |check: &Value| check["level"] == "poor" || check["level"] == "bad";
    assert_eq!(status == 1, checks.iter().any(needs_work), "{health:#}");
    for check in &checks {
        // What is not as it should be says what that means.
        assert_eq!(check["level"] == "good", check["means"].is_null(), "{check}");
    }
    (health, checks)
}

fn check<'a>(checks: &'a [Value], name: &str) -> &'a Value {
    let found: Vec<_> = checks.iter().filter(|check| check["name"] == name).collect();
    assert_eq!(found.len(), 1, "{name}: once: {checks:#?}");
    found[0]
}

/// A process that a shell limits, and that waits until it is killed.
struct Limited(Child);

impl Limited {
    fn by(script: &str) -> Self {
        let mut child = Command::new("sh")
            .args(["-c", &format!("{script} && echo ready && exec cat")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let mut line = String::new();
        let said = child.stdout.take().expect("piped");
        BufReader::new(said).read_line(&mut line).expect("read");
        assert_eq!(line, "ready\n", "{script}");
        Self(child)
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn the_doctor_looks_at_the_machine() -> Ran {
    let (health, checks) = checks(&[]);
    assert!(health["process"].is_null());
    let names = ["load and steal", "huge pages of memfds", "RLIMIT_AS", "core dumps"];
    for name in names.into_iter().chain(["SO_PASSRIGHTS", "futex_waitv", "pidfd"]) {
        check(&checks, name);
    }
    assert_eq!(check(&checks, "futex_waitv")["level"], "good");
    done!("{} checks", checks.len())
}

pub(crate) fn the_doctor_judges_the_limits_of_a_process_not_its_own() -> Ran {
    let limits = "ulimit -n 20; ulimit -f 8; ulimit -v 400000; ulimit -c 0";
    let limited = Limited::by(limits);
    let (health, found) = checks(&[&limited.pid()]);
    assert_eq!(health["process"]["pid"], limited.0.id());
    assert!(health["process"]["uid"].is_u64(), "{health:#}");
    let files = check(&found, "RLIMIT_NOFILE")["found"].as_str().expect("a text");
    assert!(files.contains("of 20 descriptors in use"), "{files}");
    for name in ["RLIMIT_FSIZE", "RLIMIT_AS"] {
        let check = check(&found, name);
        assert!(check["level"] == "poor" && check["remedy"].is_string(), "{check}");
    }
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    if !pattern.starts_with(['|', '@']) {
        let core = check(&found, "core dumps");
        let says = core["found"].as_str().expect("a text");
        assert!(core["level"] == "note" && says.contains("RLIMIT_CORE is 0"), "{core}");
    }
    // What this machine is like is not asked of a process.
    assert!(found.iter().all(|check| check["name"] != "futex_waitv"));
    let (shown, status) = say_of(&["doctor", &limited.pid()]);
    assert!(shown.starts_with(&format!("process {} cat, uid ", limited.pid())), "{shown}");
    assert_eq!(status, 1);
    done!("{} checks of a process with limits", found.len())
}

pub(crate) fn a_process_that_runs_out_of_descriptors_is_seen() -> Ran {
    let script = "ulimit -n 20; exec 3</dev/null 4</dev/null 5</dev/null 6</dev/null 7</dev/null \
                  8</dev/null 9</dev/null; ulimit -n 12";
    let limited = Limited::by(script);
    let (_, found) = checks(&[&limited.pid()]);
    let files = check(&found, "RLIMIT_NOFILE");
    assert_eq!(files["level"], "poor", "{files}");
    assert!(files["means"].as_str().is_some_and(|means| means.contains("refuses new clients")));
    done!("{}", files["found"])
}

pub(crate) fn the_doctor_of_a_socket_looks_at_its_server() -> Ran {
    let scene = Scene::new();
    let of_socket = checks(&[&scene.socket()]).0;
    assert_eq!(of_socket["process"]["pid"], scene.server.id());
    // Also while the server does not answer: the kernel knows who listens.
    scene.server.stop();
    let stopped = checks(&[&scene.socket()]).0;
    assert_eq!(stopped["process"], of_socket["process"]);
    let in_use = check(stopped["checks"].as_array().expect("an array"), "RLIMIT_NOFILE")["found"]
        .as_str()
        .expect("a text")
        .to_owned();
    assert!(in_use.contains("in use"), "{in_use}");
    done!("{in_use}")
}

pub(crate) fn namespaces_other_than_ours_are_told() -> Ran {
    let same = Limited::by("true");
    let (_, found) = checks(&[&same.pid()]);
    assert_eq!(check(&found, "namespaces")["found"], "the same as ours");
    let other = Command::new("unshare").args(["--mount", "--pid", "--fork", "true"]).status();
    if !other.is_ok_and(|status| status.success()) {
        return Ran::Skipped("unshare --mount --pid is not allowed".to_owned());
    }
    // `unshare --mount` execs its program: the process is the one that was started.
    let limited = Limited::by("exec unshare --mount sh -c 'echo ready; exec cat' #");
    let (_, found) = checks(&[&limited.pid()]);
    let namespaces = check(&found, "namespaces");
    assert_eq!(namespaces["found"], "other than ours: mnt", "{namespaces}");
    assert!(namespaces["means"].as_str().is_some_and(|means| means.contains("/proc/PID/root")));
    done!("none and one")
}

pub(crate) fn what_another_user_may_not_see_is_unknown() -> Ran {
    if !rustix::process::geteuid().is_root() {
        return Ran::Skipped("needs root, to become somebody else".to_owned());
    }
    // Of root, for another user: its limits are public, its descriptors and namespaces are not.
    let limited = Limited::by("true");
    // The program itself, in a place that anybody may enter.
    let place = tempfile::tempdir_in("/tmp").expect("made");
    let program = place.path().join("ring-dump");
    std::fs::copy(env!("CARGO_BIN_EXE_ring-dump"), &program).expect("copied");
    let anybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(place.path(), anybody).expect("opened");
    let output = Command::new(&program)
        .args(["doctor", &limited.pid()])
        .uid(65_534)
        .gid(65_534)
        .output()
        .expect("started");
    let shown = text(&output.stdout);
    assert!(output.status.code().is_some_and(|status| status <= 1), "{}", text(&output.stderr));
    for name in ["descriptors in use", "namespaces"] {
        let at = shown.lines().position(|line| line.starts_with('?') && line.contains(name));
        let at = at.unwrap_or_else(|| panic!("{name} is known: {shown}"));
        let means = shown.lines().nth(at + 1).expect("a line");
        assert!(means.contains("needs its user or root"), "{shown}");
    }
    assert!(shown.contains("RLIMIT_FSIZE"), "{shown}");
    done!("2 unknown")
}

pub(crate) fn the_name_of_a_process_does_not_reach_the_terminal_raw() -> Ran {
    let mut limited =
        Limited::by("printf 'x\\033[2Jy' > /proc/$$/comm && echo ready && read x; true");
    let pid = limited.pid();
    let (shown, _) = say_of(&["doctor", &pid]);
    assert!(shown.starts_with(&format!("process {pid} x\\x1b[2Jy, uid ")), "{shown:?}");
    let (json, _) = checks(&[&pid]);
    assert_eq!(json["process"]["name"], "x\\x1b[2Jy");
    limited.0.stdin.take().expect("piped").write_all(b"\n").expect("written");
    done!("a name that clears screens")
}

pub(crate) fn the_doctor_says_why_it_cannot_look() -> Ran {
    let scene = Scene::new();
    let file = scene.file("saved");
    say_of(&["save", &scene.pid(), &file]);
    let stale = scene.file("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).expect("bound"));
    for (target, status, why) in [
        ("4294967295", 3, "there is no process 4294967295"),
        (&stale, 3, "no server listens at"),
        (&file, 2, "a pid, or the socket of a server"),
        ("/nowhere/at/all", 3, "/nowhere/at/all"),
    ] {
        let output = output(&["doctor", target]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{target}: {said}");
        assert!(said.contains(why) && said.lines().count() == 1, "{target}: {said}");
        assert!(said.matches(target).count() <= 1, "named once: {said}");
    }
    let mut ended = Command::new("true").spawn().expect("started");
    let is_zombie = || {
        std::fs::read_to_string(format!("/proc/{}/stat", ended.id()))
            .is_ok_and(|stat| stat.contains(") Z "))
    };
    wait_until("it has ended", is_zombie);
    let of_it = output(&["doctor", &ended.id().to_string()]);
    assert_eq!(of_it.status.code(), Some(3), "{}", text(&of_it.stdout));
    assert!(text(&of_it.stderr).contains("has ended"), "{}", text(&of_it.stderr));
    ended.wait().expect("waited for");
    let help = ring_dump(&["doctor", "--help"]).output().expect("started");
    for word in ["Examples:", "Exit status:", "ring-dump doctor /run"] {
        assert!(text(&help.stdout).contains(word), "{word}");
    }
    done!("5 reasons")
}
