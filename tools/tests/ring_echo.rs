//! Runs ring-echo for real: its own processes, small counts.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn ring_echo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ring-echo"));
    command.args(arguments);
    command
}

fn output(arguments: &[&str]) -> Output {
    ring_echo(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The objects of a run that must succeed.
fn json(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}: {}", output.status, text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

const KEYS: [&str; 13] = [
    "transport",
    "size",
    "clients",
    "requests",
    "verified",
    "p50_ns",
    "p90_ns",
    "p99_ns",
    "p999_ns",
    "max_ns",
    "per_second",
    "cpu_ns_per_request",
    "syscalls_per_request",
];

fn check(object: &Value, transport: &str, requests: u64) {
    let mut keys: Vec<_> = object.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    let mut expected = KEYS;
    expected.sort_unstable();
    assert_eq!(keys, expected);
    assert_eq!(object["transport"], transport);
    assert_eq!(object["requests"], requests, "{transport}");
    assert_eq!(object["verified"], requests, "{transport}");
    let quantiles: Vec<_> = ["p50_ns", "p90_ns", "p99_ns", "p999_ns", "max_ns"]
        .map(|key| object[key].as_u64().unwrap())
        .into();
    assert!(quantiles.is_sorted() && quantiles[0] > 0, "{quantiles:?}");
    assert!(object["per_second"].as_f64().unwrap() > 0.0);
    assert!(object["cpu_ns_per_request"].as_f64().unwrap() > 0.0);
    let syscalls = &object["syscalls_per_request"];
    assert!(syscalls.is_null() || syscalls.as_f64().unwrap() >= 0.0);
}

fn check_all(output: &Output, requests: u64) {
    let objects = json(output);
    assert_eq!(objects.len(), 3);
    for (object, transport) in objects.iter().zip(["shm", "uds", "uds-dial"]) {
        check(object, transport, requests);
    }
}

#[test]
fn every_transport_verifies_every_answer() {
    check_all(&output(&["--requests", "1003", "--json"]), 1003);
}

#[test]
fn two_clients_with_requests_in_flight() {
    let output = output(&[
        "--requests",
        "600",
        "--clients",
        "2",
        "--pipeline",
        "8",
        "--size",
        "777",
        "--json",
    ]);
    check_all(&output, 600);
    assert!(json(&output).iter().all(|object| object["clients"] == 2 && object["size"] == 777));
}

#[test]
fn more_in_flight_than_a_socket_or_a_ring_takes() {
    check_all(
        &output(&["--requests", "400", "--pipeline", "300", "--size", "20000", "--json"]),
        400,
    );
}

#[test]
fn messages_of_no_bytes_and_of_more_than_a_ring() {
    check_all(&output(&["--requests", "50", "--size", "0", "--json"]), 50);
    check_all(&output(&["--requests", "20", "--size", "1000000", "--json"]), 20);
}

#[test]
fn fewer_requests_than_rounds() {
    check_all(&output(&["--requests", "2", "--clients", "2", "--json"]), 2);
}

#[test]
fn paced_requests_take_their_time() {
    let from = Instant::now();
    let output = output(&["--requests", "200", "--paced", "1000", "--transport", "shm", "--json"]);
    assert!(from.elapsed() >= Duration::from_millis(180));
    check(&json(&output)[0], "shm", 200);
}

#[test]
fn transports_are_chosen_and_pinned() {
    let output = output(&[
        "--requests",
        "30",
        "--transport",
        "uds,shm",
        "--transport",
        "shm",
        "--pin",
        "--json",
    ]);
    let objects = json(&output);
    assert_eq!(objects.len(), 2);
    check(&objects[0], "uds", 30);
    check(&objects[1], "shm", 30);
}

#[test]
fn the_table_has_a_line_for_each_transport() {
    let output = output(&["--requests", "100"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    for line in ["transport ", "shm ", "uds ", "uds-dial ", "Answers verified"] {
        assert!(shown.lines().any(|l| l.starts_with(line)), "{line:?} is missing:\n{shown}");
    }
    assert!(shown.contains("idle (virtual) CPU"), "{shown}");
    // No terminal, no progress.
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn without_tools_the_count_of_system_calls_is_null() {
    let output =
        ring_echo(&["--requests", "20", "--json"]).env("PATH", "/nonexistent").output().unwrap();
    check_all(&output, 20);
    assert!(json(&output).iter().all(|object| object["syscalls_per_request"].is_null()));
}

#[test]
fn nothing_stays_in_the_temporary_directory() {
    let directory = tempfile::tempdir().unwrap();
    let run =
        |arguments: &[&str]| ring_echo(arguments).env("TMPDIR", directory.path()).output().unwrap();
    assert!(run(&["--requests", "20"]).status.success());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);

    // Also when a signal ends it.
    let mut child = ring_echo(&["--requests", "1000000000"])
        .env("TMPDIR", directory.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    await_true("its directory", || std::fs::read_dir(directory.path()).unwrap().count() == 1);
    std::thread::sleep(Duration::from_millis(300));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn its_processes_die_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = ring_echo(&["--requests", "1000000000", "--transport", "shm"])
        .env("TMPDIR", directory.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let children = || std::fs::read_to_string(&children).unwrap_or_default();
    // The server and the client; before them the tool that is tried out.
    let is_ours = |pid: &str| {
        std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.contains("role-"))
    };
    await_true("two processes", || {
        children().split_whitespace().filter(|pid| is_ours(pid)).count() == 2
    });
    let pids: Vec<String> = children().split_whitespace().map(str::to_owned).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    await_true("their end", || !pids.iter().any(|pid| is_ours(pid)));
}

fn await_true(what: &str, condition: impl Fn() -> bool) {
    let patience = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < patience, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// `ring-echo serve`, killed when the test ends.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn serve_and_call_are_two_processes_and_a_signal_stops_the_server() {
    for signal in [Signal::TERM, Signal::INT] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("echo.sock");
        let path = path.to_str().unwrap();
        let mut served =
            Served(ring_echo(&["serve", path]).stdout(Stdio::piped()).spawn().unwrap());
        let mut said = BufReader::new(served.0.stdout.take().unwrap());
        let mut first = String::new();
        said.read_line(&mut first).unwrap();
        assert!(first.starts_with("serving at "), "{first}");

        let objects =
            json(&output(&["call", path, "--requests", "500", "--size", "100", "--json"]));
        assert_eq!(objects.len(), 1);
        check(&objects[0], "shm", 500);
        check(
            &json(&output(&["call", path, "--requests", "500", "--pipeline", "16", "--json"]))[0],
            "shm",
            500,
        );
        let shown = output(&["call", path, "--requests", "10"]);
        assert!(text(&shown.stdout).contains("10 of 10 over shm"), "{}", text(&shown.stdout));

        // A path where somebody listens is not taken away.
        let second = output(&["serve", path]);
        assert_eq!(second.status.code(), Some(1));
        assert!(
            text(&second.stderr).contains("another server listens"),
            "{}",
            text(&second.stderr)
        );

        kill_process(Pid::from_child(&served.0), signal).unwrap();
        let mut rest = String::new();
        said.read_to_string(&mut rest).unwrap();
        assert!(served.0.wait().unwrap().success());
        assert!(rest.contains("accepted           3\n"), "{rest}");
        assert!(rest.contains("backstop_rescues   0\n"), "{rest}");
        assert!(!std::path::Path::new(path).exists());
    }
}

#[test]
fn settings_from_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ringbell.yaml");
    let sockets = directory.path().join("sockets");
    let write = |pool: &str| {
        let socket_dir = sockets.display();
        std::fs::write(
            &file,
            format!(
                "ipc:\n  socket_dir: {socket_dir}\n  create_directory: true\n  transport: socket\n  \
                 pool: {pool}\n"
            ),
        )
        .unwrap();
    };
    write("{ min_idle: 1, max_size: 2 }");
    let file = file.to_str().unwrap();
    let mut served =
        Served(ring_echo(&["serve", "--config", file]).stdout(Stdio::piped()).spawn().unwrap());
    let mut first = String::new();
    BufReader::new(served.0.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.contains("/sockets/echo.sock"), "{first}");
    let objects = json(&output(&["call", "--config", file, "--requests", "500", "--json"]));
    check(&objects[0], "shm", 500);
    let named = output(&["call", "echo.sock", "--config", file, "--requests", "10"]);
    assert!(named.status.success(), "{}", text(&named.stderr));
    assert!(
        text(&named.stdout).contains("Through a pool, over the socket"),
        "{}",
        text(&named.stdout)
    );
    let pipelined = output(&["call", "--config", file, "--pipeline", "4"]);
    assert_eq!(pipelined.status.code(), Some(2), "{}", text(&pipelined.stderr));

    write("{ min_idle: 1, max_sise: 2 }");
    let wrong = output(&["call", "--config", file]);
    let error = text(&wrong.stderr);
    assert_eq!(wrong.status.code(), Some(2), "{error}");
    assert!(error.contains("max_sise") && error.contains("line 5"), "{error}");
    write("{ max_size: 0 }");
    assert!(text(&output(&["call", "--config", file]).stderr).contains("ipc.pool: max_size is 0"));
    let missing = output(&["call", "--config", "/nonexistent.yaml"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("/nonexistent.yaml"));
}

#[test]
fn calling_nobody_is_a_failure() {
    let output = output(&["call", "/nonexistent/socket", "--requests", "1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/nonexistent/socket"), "{}", text(&output.stderr));
}

#[test]
fn what_makes_no_sense_is_refused_with_status_2() {
    let long = "/tmp/".to_owned() + &"x".repeat(200);
    let cases: &[(&[&str], &str)] = &[
        (&["--requests", "0"], "--requests"),
        (&["--requests", "many"], "--requests"),
        (&["--clients", "0"], "--clients"),
        (&["--clients", "3", "--requests", "2"], "too few for 3 clients"),
        (&["--pipeline", "0"], "--pipeline"),
        (&["--pipeline", "4", "--paced", "10"], "--paced"),
        (&["--paced", "0"], "--paced"),
        (&["--size", "67108865"], "67108864"),
        (&["--size=-1"], "--size"),
        (&["--transport", "tcp"], "shm, uds, uds-dial"),
        (&["--nonsense"], "--nonsense"),
        (&["serve"], "PATH"),
        (&["serve", ""], "PATH"),
        (&["serve", &long], "at most 107"),
        (&["call", &long], "at most 107"),
        (&["call", "/tmp/x", "--requests", "0"], "--requests"),
        (&["call", "/tmp/x", "--clients", "2"], "--clients"),
    ];
    for (arguments, expected) in cases {
        let output = output(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(expected), "{arguments:?}: {}", text(&output.stderr));
        assert_eq!(text(&output.stdout), "");
    }
}

#[test]
fn a_temporary_directory_with_too_long_a_path_is_refused_with_status_2() {
    let outer = tempfile::tempdir().unwrap();
    let long = outer.path().join("y".repeat(100));
    std::fs::create_dir(&long).unwrap();
    let output = ring_echo(&["--requests", "1"]).env("TMPDIR", &long).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("TMPDIR"), "{}", text(&output.stderr));
    assert_eq!(std::fs::read_dir(&long).unwrap().count(), 0);
}

/// The one line that a failure says, and its status.
fn sentence(output: &Output) -> (String, Option<i32>) {
    let said = text(&output.stderr);
    assert_eq!(said.lines().count(), 1, "one sentence: {said}");
    let line = said.strip_prefix("ring-echo: ").expect("says who speaks").trim_end().to_owned();
    (line, output.status.code())
}

#[test]
fn a_missing_directory_is_an_error_that_says_how_to_make_it() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    let path = missing.join("x.sock").display().to_string();
    let (said, status) = sentence(&output(&["serve", &path]));
    let expected =
        format!("the directory {} does not exist; --create-directory makes it", missing.display());
    assert_eq!((said, status), (expected, Some(1)));
    assert!(!missing.exists(), "nothing is made unless asked for");

    // Nothing above the last directory is made, so nothing is promised.
    let deep = missing.join("deeper/x.sock").display().to_string();
    for arguments in [&["serve", &*deep][..], &["serve", &*deep, "--create-directory"][..]] {
        let (said, status) = sentence(&output(arguments));
        assert!(said.contains("does not exist") && status == Some(1), "{said}");
        assert!(!said.contains("--create-directory") && !missing.exists(), "{said}");
    }

    let mut served = Served(
        ring_echo(&["serve", &path, "--create-directory"]).stdout(Stdio::piped()).spawn().unwrap(),
    );
    let mut first = String::new();
    BufReader::new(served.0.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.contains(&path), "{first}");
    check(&json(&output(&["call", &path, "--requests", "10", "--json"]))[0], "shm", 10);
}

#[test]
fn a_failure_is_one_sentence_that_names_its_path_once() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    std::fs::write(at("file"), "").unwrap();
    drop(std::os::unix::net::UnixListener::bind(at("stale")).unwrap());
    let _taken = std::os::unix::net::UnixListener::bind(at("taken")).unwrap();
    let config = at("ringbell.yaml");
    let far = at(&"y".repeat(90));
    std::fs::write(&config, format!("ipc:\n  socket_dir: {far}\n")).unwrap();
    let cases: [(&str, String, &str); 6] = [
        ("call", at("none"), "there is no socket at"),
        ("call", at("file"), "is not a socket"),
        ("call", at("stale"), "no server listens at"),
        ("serve", at("file"), "is not a socket"),
        ("serve", at("taken"), "another server listens at"),
        ("serve", "/proc/none/x".into(), "/proc/none"),
    ];
    for (what, path, expected) in &cases {
        let (said, status) = sentence(&output(&[what, path]));
        assert!(said.contains(expected) && status == Some(1), "{what} {path}: {said}");
        assert!(said.matches(path.as_str()).count() <= 1, "{what} {path}: {said}");
        assert!(!said.contains("os error"), "{what} {path}: {said}");
    }
    let name = "z".repeat(20);
    let (said, _) = sentence(&output(&["serve", &name, "--config", &config]));
    assert!(said.contains(&format!("{far}/{name}")) && said.contains("107"), "{said}");
    // What steers a terminal does not reach it.
    let (said, _) = sentence(&output(&["call", &at("a\n\u{1b}[2Jb")]));
    assert!(said.contains("a\\n\\u{1b}[2Jb"), "{said}");
    let nowhere = ring_echo(&["--requests", "9"]).env("TMPDIR", "/nowhere").output().unwrap();
    let (said, _) = sentence(&nowhere);
    assert!(said.contains("/nowhere") && said.contains("TMPDIR"), "{said}");
}

#[test]
fn a_process_of_a_comparison_that_fails_is_told_once() {
    // Enough descriptors for everything but the server.
    let few = Command::new("sh")
        .args(["-c", "ulimit -n 40; exec \"$0\" --requests 10 --transport shm"])
        .arg(env!("CARGO_BIN_EXE_ring-echo"))
        .output()
        .unwrap();
    let (said, status) = sentence(&few);
    assert!(said.starts_with("the server of shm: max_clients") && status == Some(1), "{said}");
}

#[test]
fn numbers_have_units_and_a_wrong_one_shows_its_range() {
    let taken = output(&["--requests", "1k", "--size", "2K", "--transport", "uds", "--json"]);
    check(&json(&taken)[0], "uds", 1000);
    assert_eq!(json(&taken)[0]["size"], 2048);
    let cases: &[(&[&str], &str)] = &[
        (&["--requests", "0"], "from 1 to 10000000000"),
        (&["--requests", "5x"], "from 1 to 10000000000"),
        (&["--rounds", "0"], "from 1 to 1000"),
        (&["--clients", "0"], "from 1 to 1000"),
        (&["--clients", "1001"], "from 1 to 1000"),
        (&["--pipeline", "0"], "from 1 to 65536"),
        (&["--paced", "0"], "from 1 to 1000000"),
        (&["--size", "65M"], "from 0 to 67108864"),
        (&["call", "/tmp/x", "--rounds", "0"], "from 1 to 1000"),
    ];
    for (arguments, range) in cases {
        let output = output(arguments);
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(range), "{arguments:?}: {said}");
    }
}

#[test]
fn ctrl_c_ends_a_comparison_with_status_130_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let files = || std::fs::read_dir(directory.path()).unwrap().count();
    let mut child = ring_echo(&["--requests", "1G", "--transport", "shm"])
        .env("TMPDIR", directory.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    await_true("its directory", || files() == 1);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((said.as_str(), files()), ("", 0));
}

#[test]
fn a_busy_machine_is_said() {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let others = std::thread::available_parallelism().unwrap().get();
    let stopped = std::sync::Arc::new(std::sync::Mutex::new(stopped));
    let hogs: Vec<_> = (0..others)
        .map(|_| {
            let stopped = stopped.clone();
            std::thread::spawn(move || {
                while matches!(
                    stopped.lock().unwrap().try_recv(),
                    Err(std::sync::mpsc::TryRecvError::Empty)
                ) {
                    (0..10_000).for_each(|_| std::hint::spin_loop());
                }
            })
        })
        .collect();
    let table = output(&["--requests", "10", "--transport", "uds"]);
    let objects = output(&["--requests", "10", "--transport", "uds", "--json"]);
    drop(stop);
    hogs.into_iter().for_each(|hog| hog.join().unwrap());
    let said = text(&table.stdout);
    assert!(said.contains("the machine was busy (before: "), "{said}");
    assert!(said.contains("other programs use"), "{said}");
    // On standard error, so that standard output stays JSON.
    assert!(text(&objects.stderr).contains("the machine was busy"), "{}", text(&objects.stderr));
    check(&json(&objects)[0], "uds", 10);
}

#[test]
fn help_has_examples_and_exit_statuses() {
    let help = text(&output(&["--help"]).stdout);
    for word in ["Examples:", "Exit status:", "130", "ring-echo serve", "--rounds", "KiB"] {
        assert!(help.contains(word), "{word}: {help}");
    }
}
