//! A server and clients that do what they are told, and what ring-dump says of them.

use ringbell::{
    AnswerOrder, Client, ConnectOptions, Credentials, Server, TransportChoice, WaitSettings,
};
use ringbell_shm_tests::process::{Arguments, Process, Start, hear, say};
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::{becomes_true, busy_for, observe, wait_until};
use serde_json::Value;
use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// A server that does what it is told by requests: `crash HOW` (`segv`, `abort`), `echo ...`,
/// `sleep MS`, `await PATH` (until there is such a file), `size BYTES`.
pub(crate) fn service(arguments: &Arguments) {
    let mut builder = Server::builder().slow_client_timeout(None);
    if let Some(bytes) = arguments.maybe_number("ring") {
        builder = builder.ring_capacity(bytes);
    }
    if arguments.get("crowd").is_some() {
        builder = builder.max_clients(2000).max_clients_per_uid(2000);
    }
    if arguments.get("anyone").is_some() {
        builder = builder.credentials(Credentials::Anyone).socket_mode(0o666);
    }
    if let Some(every) = arguments.maybe_number("sample") {
        builder = builder.sample_calls(every.try_into().expect("small"));
    }
    if arguments.get("ordered").is_some() {
        builder = builder.answer_order(AnswerOrder::Request);
    }
    let server = builder.bind(arguments.text("path")).expect("bound");
    say("ready");
    let handle = server.handle();
    std::thread::spawn(move || {
        while hear().is_some() {}
        handle.shutdown(None);
    });
    if arguments.get("later").is_some() {
        let result = server.run_reactor(|request, responder| {
            std::thread::spawn(move || responder.reply(request.payload()));
        });
        return drop(result);
    }
    let result = server.run(|request, response| {
        let text = String::from_utf8_lossy(request.payload());
        match text.split_once(' ') {
            Some(("sleep", ms)) => {
                std::thread::sleep(Duration::from_millis(ms.parse().expect("a number")))
            }
            Some(("await", path)) => wait_until("the gate is open", || Path::new(path).exists()),
            Some(("crash", how)) => crash(how),
            Some(("size", bytes)) => response.resize(bytes.parse().expect("a number"), b'x'),
            _ => response.extend_from_slice(request.payload()),
        }
        Ok(())
    });
    drop(result);
}

/// Ends this process by a signal.
#[allow(unsafe_code, reason = "a fault")]
fn crash(how: &str) {
    match how {
        // SAFETY: it is not: nothing is mapped at this address, and that is what is wanted.
        "segv" => unsafe { std::ptr::without_provenance_mut::<u8>(0x10).write_volatile(1) },
        "abort" => std::process::abort(),
        other => panic!("no crash {other}"),
    }
}

/// A client that does what it is told by lines.
pub(crate) fn caller(arguments: &Arguments) {
    let mut wait = WaitSettings::client();
    if arguments.get("park").is_some() {
        wait = wait.park_at_once();
    }
    let mut options = ConnectOptions::new().name("caller").wait(wait).max_in_flight(1 << 16);
    if let Some(every) = arguments.maybe_number("sample") {
        options = options.sample_calls(every.try_into().expect("small"));
    }
    if arguments.get("socket").is_some() {
        options = options.transport(TransportChoice::Socket);
    }
    let mut client = options.connect(arguments.text("path")).expect("connected");
    say("connected");
    while let Some(line) = hear() {
        let (order, rest) = line.split_once(' ').unwrap_or((&line, ""));
        match order {
            // Waits for the answer, however long that takes.
            "call" => drop(client.call(rest.as_bytes()).expect("answered")),
            // The same with all that a request can have: a deadline, and more bytes than a record.
            "large" => {
                let request = vec![b'l'; rest.parse().expect("bytes")];
                let patience = Some(Duration::from_millis(900));
                // Late is as good: it is a busy machine.
                if let Ok(answer) = client.call_timeout(&request, patience) {
                    assert_eq!(&*answer, &request[..]);
                }
            }
            // The answer is looked at where it lies.
            "view" => client.call_view(rest.as_bytes(), None, |_| ()).expect("answered"),
            // Takes what was asked for and is there.
            "take" => drop(client.recv(None).expect("answered")),
            // Asks and does not wait.
            "post" => drop(client.send(rest.as_bytes()).expect("sent")),
            // Asks as long as there is room, and longer.
            "flood" => {
                say("flooding");
                let request = vec![b'f'; 100];
                while client.send(&request).is_ok() {}
            }
            // Calls until it is told to stop.
            "load" => {
                let calls = load(&mut client, rest.parse().expect("microseconds"));
                say(&format!("done {calls}"));
                continue;
            }
            // So many calls.
            "batch" => {
                for call in 0..rest.parse::<u64>().expect("a number") {
                    client.call(format!("echo {call}").as_bytes()).expect("answered");
                }
            }
            other => panic!("no order {other}"),
        }
        say("done");
    }
}

/// How many calls it was.
fn load(client: &mut Client, pause_us: u64) -> u64 {
    let mut sent = 0u64;
    while !ringbell_shm_tests::process::readable(std::io::stdin(), Duration::ZERO) {
        for _ in 0..64 {
            sent += 1;
            let request = format!("echo {sent}");
            assert_eq!(&*client.call(request.as_bytes()).expect("answered"), request.as_bytes());
            if pause_us != 0 {
                busy_for(Duration::from_micros(pause_us));
            }
        }
    }
    sent
}

/// A server at a path of its own.
pub(crate) struct Scene {
    pub(crate) server: Process,
    pub(crate) path: PathBuf,
    pub(crate) directory: TempDir,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    pub(crate) fn with(options: &[(&str, &str)]) -> Self {
        Self::start(Start::role("service"), options)
    }

    /// A server that another program starts.
    pub(crate) fn under(program: &str, arguments: &[&str], options: &[(&str, &str)]) -> Self {
        Self::start(Start::role_under(program, arguments, "service"), options)
    }

    fn start(start: Start, options: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("s");
        let mut start = start.with("path", path.display());
        for (key, value) in options {
            start = start.with(key, value);
        }
        let mut server = start.start();
        server.expect("ready");
        Self { server, path, directory }
    }

    /// Ends the server, and starts another one at the same path.
    pub(crate) fn restarted(self) -> Self {
        let Self { server, path, directory } = self;
        drop(server);
        let mut server = Start::role("service").with("path", path.display()).start();
        server.expect("ready");
        Self { server, path, directory }
    }

    pub(crate) fn client(&self) -> Process {
        self.client_with(&[])
    }

    pub(crate) fn client_with(&self, options: &[(&str, &str)]) -> Process {
        let mut start = Start::role("caller").with("path", self.path.display());
        for (key, value) in options {
            start = start.with(key, value);
        }
        let mut client = start.start();
        client.expect("connected");
        client
    }

    pub(crate) fn pid(&self) -> String {
        self.server.id().to_string()
    }

    pub(crate) fn socket(&self) -> String {
        self.path.display().to_string()
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }
}

pub(crate) fn ring_dump(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ring-dump"));
    command.args(arguments).env_remove("NO_COLOR").stdin(Stdio::null());
    command
}

pub(crate) fn output(arguments: &[&str]) -> Output {
    tick();
    ring_dump(arguments).output().expect("started")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What it prints and its status; it must neither crash nor complain.
pub(crate) fn say_of(arguments: &[&str]) -> (String, i32) {
    let output = output(arguments);
    let status = output.status.code().unwrap_or_else(|| panic!("{arguments:?}: {}", output.status));
    assert!(status <= 1, "{arguments:?}: {}", text(&output.stderr));
    (text(&output.stdout), status)
}

pub(crate) fn report(target: &str) -> (Value, i32) {
    let (text, status) = say_of(&["show", target, "--json"]);
    (serde_json::from_str(&text).expect("JSON"), status)
}

/// Code and severity of everything that is wrong.
pub(crate) fn codes(report: &Value) -> BTreeSet<(String, String)> {
    let findings = report["findings"].as_array().expect("an array");
    let word = |finding: &Value, key: &str| finding[key].as_str().expect("a word").to_owned();
    findings.iter().map(|finding| (word(finding, "code"), word(finding, "severity"))).collect()
}

pub(crate) fn has(report: &Value, code: &str, severity: &str) -> bool {
    codes(report).contains(&(code.to_owned(), severity.to_owned()))
}

/// Looks until a finding is there; its text.
pub(crate) fn finds(target: &str, code: &str, severity: &str) -> String {
    let mut last = Value::Null;
    let found = becomes_true(Duration::from_secs(30), || {
        let (report, status) = report(target);
        let found = has(&report, code, severity);
        assert!(!found || severity != "problem" || status == 1);
        last = report;
        found
    });
    assert!(found, "no {code} of severity {severity}: {last:#}");
    let findings = last["findings"].as_array().expect("an array").iter();
    let of_it = findings.filter(|finding| finding["code"] == code);
    let texts: Vec<&str> = of_it.map(|finding| finding["text"].as_str().expect("a text")).collect();
    texts.join("\n")
}

/// Waits until the server of a target is seen asleep, not rung.
pub(crate) fn sleeps(target: &str) {
    wait_until("the server is seen asleep, not rung", || {
        let (report, _) = report(target);
        let domain = &report["servers"][0]["domains"][0];
        domain["sleep"]["state"] == "armed" && domain["rung"] == false
    });
}

/// A server and a client, both stopped, with a request and an answer in their rings.
pub(crate) fn stopped_pair(ring: &str) -> (Scene, Process) {
    let scene = Scene::with(&[("ring", ring)]);
    let mut client = scene.client_with(&[("park", "yes")]);
    for order in ["call echo Hello, rings!", "post echo taken by nobody", "call echo 1"] {
        client.tell(order);
        client.expect("done");
    }
    scene.server.stop();
    client.tell("post echo answered by nobody");
    client.expect("done");
    client.tell("call echo the last words");
    wait_until("the client sleeps", || observe::all_threads_sleep(client.id()));
    wait_until("the calls are told", || {
        report(&scene.pid()).0["sessions"][0]["oldest_age_ns"].as_u64().is_some()
    });
    client.stop();
    (scene, client)
}

/// Where the segments of a process are.
pub(crate) fn segment_paths(pid: u32) -> Vec<PathBuf> {
    let directory = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a process of our own");
    let mut paths: Vec<_> = directory.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let ours = paths.into_iter().filter(|path| {
        std::fs::read_link(path)
            .is_ok_and(|link| link.to_string_lossy().starts_with("/memfd:ringbell:"))
    });
    ours.collect()
}

/// The bytes of all segments of a process.
pub(crate) fn segments(pid: u32) -> Vec<Vec<u8>> {
    let ours = segment_paths(pid).into_iter();
    ours.map(|path| {
        let file = std::fs::File::open(path).expect("opened");
        let mut bytes =
            vec![0; usize::try_from(file.metadata().expect("a file").len()).expect("small")];
        file.read_exact_at(&mut bytes, 0).expect("read");
        bytes
    })
    .collect()
}
