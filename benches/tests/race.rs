//! Runs race for real: a few rows, short measurements.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// One row that needs one CPU only, and a short measurement of it.
const ONE_ROW: [&str; 6] = ["--only", "one-cpu/ringbell/64/", "--rounds", "1", "--millis", "2"];

fn race(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_race"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn output(arguments: &[&str]) -> Output {
    race(arguments).output().expect("started")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn await_true(what: &str, condition: impl Fn() -> bool) {
    let patience = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < patience, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Names in a directory.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    entries.map(|entry| entry.expect("an entry").file_name().display().to_string()).collect()
}

#[test]
fn numbers_out_of_range_are_refused_with_the_range() {
    for (arguments, range) in [
        (&["--rounds", "0"][..], "1..=1000"),
        (&["pool", "--rounds", "0"], "1..=1000"),
        (&["--millis", "0"], "1..=60000"),
        (&["--millis", "soon"], "--millis"),
    ] {
        let output = output(arguments);
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(range), "{arguments:?}: {said}");
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
    }
}

#[test]
fn a_row_that_does_not_exist_suggests_those_that_do() {
    for (arguments, near) in [
        (&["--only", "ehco/ringbell/"][..], "(near: `echo/ringbell`)"),
        (&["--list", "--only", "uds-steam"], "(near: `uds-stream`"),
        (&["pool", "--only", "pool-frist"], "(near: `pool-first`)"),
    ] {
        let output = output(arguments);
        let said = text(&output.stderr);
        assert!(said.contains(near) && said.lines().count() == 1, "{arguments:?}: {said}");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn a_file_that_cannot_be_written_is_an_error_before_anything_is_measured() {
    let directory = tempfile::tempdir().expect("made");
    let is_a_directory = directory.path().display().to_string();
    for path in ["/nowhere/race.json", &is_a_directory] {
        for command in [&[][..], &["pool"]] {
            let mut arguments = command.to_vec();
            // Whatever is measured would take minutes.
            arguments.extend(["--rounds", "1000", "--json", path]);
            let output = output(&arguments);
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.contains(path) && said.lines().count() == 1, "{said}");
            assert_eq!(text(&output.stdout), "");
        }
    }
    assert!(names(directory.path()).is_empty());
}

#[test]
fn results_replace_a_file_in_one_step() {
    let directory = tempfile::tempdir().expect("made");
    let file = directory.path().join("race.json");
    std::fs::write(&file, "the old one").expect("written");
    let link = directory.path().join("link.json");
    std::os::unix::fs::symlink(&file, &link).expect("linked");
    let mut arguments = ONE_ROW.to_vec();
    let path = link.display().to_string();
    arguments.extend(["--json", &path]);
    let done = output(&arguments);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let record: Value = serde_json::from_slice(&std::fs::read(&file).expect("read")).expect("JSON");
    assert_eq!(record["rows"].as_array().expect("an array").len(), 1);
    let busy = &record["run"]["busy"];
    assert!(busy["is_busy"].is_boolean() && busy["before"]["load"].is_number(), "{busy}");
    // The table and the file agree.
    let foot = text(&done.stdout).contains("the machine was busy");
    assert_eq!(busy["is_busy"], foot, "{}", text(&done.stdout));
    assert!(link.is_symlink() && names(directory.path()).len() == 2);

    // /dev/stdout and pipes are no files to be replaced.
    arguments.pop();
    arguments.push("/dev/stdout");
    let done = output(&arguments);
    assert!(text(&done.stdout).contains("\"one-cpu\""), "{}", text(&done.stderr));
}

#[test]
fn a_busy_machine_is_said_before_and_under_the_table() {
    let mut hogs: Vec<Child> = (0..std::thread::available_parallelism().expect("known").get())
        .map(|_| Command::new("sh").args(["-c", "while :; do :; done"]).spawn().expect("started"))
        .collect();
    let done = output(&ONE_ROW);
    for hog in &mut hogs {
        hog.kill().expect("killed");
        hog.wait().expect("gone");
    }
    let (table, said) = (text(&done.stdout), text(&done.stderr));
    assert!(
        said.contains("the machine is busy: ") && said.contains("other programs use"),
        "{said}"
    );
    let foot = table.lines().last().expect("a foot");
    assert!(foot.starts_with("the machine was busy (before: "), "{table}");
    assert!(foot.ends_with("do not publish these figures"), "{table}");
}

#[test]
fn one_cpu_is_told_once_and_rows_that_can_run_do() {
    let cpus = std::fs::read_to_string("/proc/self/status").expect("read");
    let list = cpus.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let first = list.expect("known").trim().split([',', '-']).next().expect("a CPU").to_owned();
    let mut command = Command::new("taskset");
    command.args(["-c", &first, env!("CARGO_BIN_EXE_race")]).args(ONE_ROW);
    let Ok(done) = command.args(["--only", "echo/ringbell/"]).output() else {
        return println!("taskset is missing");
    };
    let (table, said) = (text(&done.stdout), text(&done.stderr));
    assert_eq!(said.matches("this process may use one CPU").count(), 1, "{said}");
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(table.contains("echo (not measured)"), "{table}");
    assert!(table.contains("one-cpu (one round)"), "{table}");
}

#[test]
fn nothing_is_drawn_where_there_is_no_terminal() {
    let mut arguments = ONE_ROW.to_vec();
    arguments.push("--quick");
    let done = output(&arguments);
    for said in [done.stdout, done.stderr] {
        assert!(!said.contains(&b'\r') && !said.contains(&0x1b), "{}", text(&said));
    }
}

/// Processes that were started as `arguments` begin, by their command lines.
fn children_of(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let list = std::fs::read_to_string(path).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn is_race(pid: &u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|line| text(&line).contains("race") || text(&line).contains("self/exe"))
}

#[test]
fn ctrl_c_leaves_no_processes_and_no_files() {
    let directory = tempfile::tempdir().expect("made");
    let shared = || names(Path::new("/dev/shm")).len();
    let file = directory.path().join("race.json");
    std::fs::write(&file, "the old one").expect("written");
    let json = file.display().to_string();
    let race_of_long = ["--only", "echo/ringbell/64/", "--only", "clients/ringbell/", "--rounds"];
    let shm_before = shared();
    for (arguments, signal, status) in [
        (&race_of_long[..], Signal::INT, 130),
        (&race_of_long, Signal::TERM, 143),
        (&["pool", "--only", "pool-callers", "--rounds"], Signal::INT, 130),
    ] {
        let mut arguments = arguments.to_vec();
        arguments.extend(["1000", "--json", &json]);
        let mut child = race(&arguments)
            .env("TMPDIR", directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        await_true("its processes", || children_of(child.id()).iter().any(is_race));
        let children = children_of(child.id());
        kill_process(Pid::from_child(&child), signal).expect("sent");
        let ended = child.wait().expect("waited for");
        let mut said = String::new();
        child.stderr.take().expect("piped").read_to_string(&mut said).expect("read");
        assert_eq!(ended.code(), Some(status), "{arguments:?}: {said}");
        let last = said.lines().last().expect("a line");
        assert!(last.starts_with("race: ended by SIG"), "{said}");
        await_true("the end of its processes", || !children.iter().any(is_race));
        assert_eq!(names(directory.path()), ["race.json"], "{arguments:?}");
        assert_eq!(std::fs::read_to_string(&file).expect("read"), "the old one");
    }
    assert!(shared() <= shm_before, "{:?}", names(Path::new("/dev/shm")));
}

#[test]
fn help_has_examples_and_exit_statuses() {
    let help = text(&output(&["--help"]).stdout);
    for word in ["Examples:", "Exit status:", "130", "race pool", "race report"] {
        assert!(help.contains(word), "{word}: {help}");
    }
}
