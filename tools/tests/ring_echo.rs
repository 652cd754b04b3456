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
