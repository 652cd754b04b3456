//! ring-dump against servers and clients that are well, stopped, stuck, slow and dead: real processes each time.

#![allow(clippy::cast_possible_truncation, reason = "positions in small rings")]

#[allow(dead_code, reason = "an example uses the rest")]
mod pty;

use ringbell::layout::{self, HeaderWord, Interest, Kind, Mode, SegmentKind, offset};
use ringbell::{AnswerOrder, Client, ConnectOptions, Credentials, Server, TransportChoice, WaitSettings};
use ringbell_shm_tests::process::{Arguments, Process, Start, hear, say};
use ringbell_shm_tests::suite::{Ran, tick};
use ringbell_shm_tests::{becomes_true, busy_for, done, observe, suite, wait_until};
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

suite! {
    tests: [
        a_busy_server_is_well,
        a_server_that_is_idle_is_well,
        a_stopped_server,
        a_stopped_client,
        a_full_ring_before_a_long_handler,
        a_slow_client,
        a_dead_client_of_a_stopped_server,
        a_dead_server,
        a_call_that_takes_long,
        waiting_is_told_from_working,
        calls_are_timed_on_all_ways,
        nothing_is_timed_unless_asked_for,
        a_lost_wake_made_by_hand,
        a_saved_file_reads_as_the_live_target,
        golden_files,
        a_core_dump_reads_as_the_live_target,
        nothing_is_written_and_nothing_is_mapped,
        other_users_are_refused,
        tap_sees_what_passes,
        tap_says_what_it_missed,
        watch_on_a_terminal,
        the_list_and_its_directory,
        what_changed_between_two_files,
        garbage_is_described_and_not_believed,
        wrong_use_has_its_status,
        help_for_shells_and_manuals,
    ],
    roles: [service, caller],
}

// The other processes.

/// A server that does what it is told by requests: `echo ...`, `sleep MS`, `await PATH` (until there is such a file),
/// `size BYTES`.
fn service(arguments: &Arguments) {
    let mut builder = Server::builder().slow_client_timeout(None);
    if let Some(bytes) = arguments.maybe_number("ring") {
        builder = builder.ring_capacity(bytes);
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
            Some(("sleep", ms)) => std::thread::sleep(Duration::from_millis(ms.parse().expect("a number"))),
            Some(("await", path)) => wait_until("the gate is open", || Path::new(path).exists()),
            Some(("size", bytes)) => response.resize(bytes.parse().expect("a number"), b'x'),
            _ => response.extend_from_slice(request.payload()),
        }
        Ok(())
    });
    drop(result);
}

/// A client that does what it is told by lines.
fn caller(arguments: &Arguments) {
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
            "load" => load(&mut client, rest.parse().expect("microseconds")),
            other => panic!("no order {other}"),
        }
        say("done");
    }
}

fn load(client: &mut Client, pause_us: u64) {
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
}

/// A server at a path of its own.
struct Scene {
    server: Process,
    path: PathBuf,
    directory: TempDir,
}

impl Scene {
    fn new() -> Self {
        Self::with(&[])
    }

    fn with(options: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("s");
        let mut start = Start::role("service").with("path", path.display());
        for (key, value) in options {
            start = start.with(key, value);
        }
        let mut server = start.start();
        server.expect("ready");
        Self { server, path, directory }
    }

    fn client(&self) -> Process {
        self.client_with(&[])
    }

    fn client_with(&self, options: &[(&str, &str)]) -> Process {
        let mut start = Start::role("caller").with("path", self.path.display());
        for (key, value) in options {
            start = start.with(key, value);
        }
        let mut client = start.start();
        client.expect("connected");
        client
    }

    fn pid(&self) -> String {
        self.server.id().to_string()
    }

    fn socket(&self) -> String {
        self.path.display().to_string()
    }

    fn file(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }
}

// What is asked of ring-dump.

fn ring_dump(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ring-dump"));
    command.args(arguments).env_remove("NO_COLOR").stdin(Stdio::null());
    command
}

fn output(arguments: &[&str]) -> Output {
    tick();
    ring_dump(arguments).output().expect("started")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What it prints and its status; it must neither crash nor complain.
fn say_of(arguments: &[&str]) -> (String, i32) {
    let output = output(arguments);
    let status = output.status.code().unwrap_or_else(|| panic!("{arguments:?}: {}", output.status));
    assert!(status <= 1, "{arguments:?}: {}", text(&output.stderr));
    (text(&output.stdout), status)
}

fn report(target: &str) -> (Value, i32) {
    let (text, status) = say_of(&["show", target, "--json"]);
    (serde_json::from_str(&text).expect("JSON"), status)
}

/// Code and severity of everything that is wrong.
fn codes(report: &Value) -> BTreeSet<(String, String)> {
    let findings = report["findings"].as_array().expect("an array");
    let word = |finding: &Value, key: &str| finding[key].as_str().expect("a word").to_owned();
    findings.iter().map(|finding| (word(finding, "code"), word(finding, "severity"))).collect()
}

fn has(report: &Value, code: &str, severity: &str) -> bool {
    codes(report).contains(&(code.to_owned(), severity.to_owned()))
}

/// Looks until a finding is there; its text.
fn finds(target: &str, code: &str, severity: &str) -> String {
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
fn sleeps(target: &str) {
    wait_until("the server is seen asleep, not rung", || {
        let (report, _) = report(target);
        let domain = &report["servers"][0]["domains"][0];
        domain["sleep"]["state"] == "armed" && domain["rung"] == false
    });
}

// The tests.

fn a_busy_server_is_well() -> Ran {
    let scene = Scene::new();
    let mut clients = [scene.client(), scene.client()];
    for client in &mut clients {
        client.tell("load 0");
    }
    let looks = 10;
    for target in [scene.pid(), scene.socket(), clients[0].id().to_string()] {
        for _ in 0..looks {
            let (report, status) = report(&target);
            assert_eq!((codes(&report).len(), status), (0, 0), "{report:#}");
            let sessions = report["sessions"].as_array().expect("an array");
            assert_eq!(sessions.len(), if target == clients[0].id().to_string() { 1 } else { 2 });
            for session in sessions {
                assert_eq!(
                    (&session["state"], &session["peer"]["name"]),
                    (&"alive".into(), &"caller".into())
                );
                assert_eq!(session["request"]["capacity"], layout::DEFAULT_CAPACITY);
            }
        }
    }
    // It never sleeps, and yet its counters move: they are stored while it is busy, too.
    wait_until("rates are seen", || {
        let (report, _) = report(&scene.pid());
        report["servers"][0]["rates"]["requests"].as_f64().is_some_and(|rate| rate > 100.0)
    });
    for client in &mut clients {
        client.tell("stop");
        client.expect("done");
    }
    done!("{} looks at 2 clients under full load, through pid, socket and client", 3 * looks)
}

fn a_server_that_is_idle_is_well() -> Ran {
    let scene = Scene::new();
    let mut client = scene.client();
    client.tell("call echo 1");
    client.expect("done");
    for target in [scene.pid(), scene.socket()] {
        for _ in 0..5 {
            let (report, status) = report(&target);
            assert_eq!((codes(&report).len(), status), (0, 0), "{report:#}");
        }
    }
    sleeps(&scene.socket());
    done!("an idle server, asleep, with a session that is awake elsewhere")
}

fn a_stopped_server() -> Ran {
    let scene = Scene::new();
    let mut client = scene.client();
    client.tell("call echo 1");
    client.expect("done");
    // Then it has said how far it has read.
    sleeps(&scene.socket());
    scene.server.stop();
    client.tell("call echo 2");
    let pid = scene.pid();
    for target in [&pid, &scene.socket(), &client.id().to_string()] {
        wait_until("the oldest call is told", || {
            let texts = finds(target, "server-stopped", "problem");
            texts.contains("1 request queued, oldest at least")
                && texts.contains("server asleep although the bell was rung")
                && texts.contains(&format!("(pid {pid}) is stopped by a signal"))
                && texts.contains(&format!("session 1 (pid {})", client.id()))
        });
    }
    let (shown, status) = say_of(&["show", &pid, "--color", "never"]);
    assert!(status == 1 && shown.contains("problem  session 1") && !shown.contains('\x1b'), "{shown}");
    scene.server.go_on();
    client.expect("done");
    wait_until("all is well", || report(&pid).1 == 0);
    done!("found by pid, by socket (which does not answer), and by the client's pid")
}

fn a_stopped_client() -> Ran {
    let scene = Scene::new();
    let mut client = scene.client_with(&[("park", "yes")]);
    client.tell("call echo 1");
    client.expect("done");
    client.tell("post size 3000");
    client.expect("done");
    client.stop();
    let texts = finds(&scene.socket(), "client-stopped", "problem");
    assert!(texts.contains(&format!("session 1 (pid {}): the client is stopped", client.id())), "{texts}");
    assert!(texts.contains("1 answer unread") || texts.contains("2 answers unread"), "{texts}");
    client.go_on();
    wait_until("all is well", || report(&scene.pid()).1 == 0);
    done!("with an answer that it does not take")
}

fn a_full_ring_before_a_long_handler() -> Ran {
    let scene = Scene::with(&[("ring", "4096")]);
    let mut client = scene.client_with(&[("park", "yes")]);
    client.tell("post sleep 600000");
    client.expect("done");
    client.tell("flood");
    client.expect("flooding");
    let texts = finds(&scene.pid(), "full-ring", "problem");
    assert!(texts.contains("the request ring is full"), "{texts}");
    wait_until("it is seen to wait for room", || {
        finds(&scene.pid(), "full-ring", "problem").contains("and the client waits for room")
    });
    let texts = finds(&scene.pid(), "server-busy", "problem");
    assert!(texts.contains("a handler runs that long"), "{texts}");
    // The porter answers inspectors while the reactor is stuck.
    finds(&scene.socket(), "server-busy", "problem");
    done!("a ring of 4 KiB, and a handler of 10 minutes")
}

fn a_slow_client() -> Ran {
    let scene = Scene::with(&[("ring", "4096")]);
    let mut client = scene.client();
    for _ in 0..10 {
        client.tell("post size 1000");
        client.expect("done");
    }
    // It now waits for its next order, and takes no answer.
    let texts = finds(&scene.socket(), "slow-client", "problem");
    assert!(texts.contains("the client is busy elsewhere; the ring is full"), "{texts}");
    assert!(texts.contains(&format!("pid {}", client.id())), "{texts}");
    done!("10 answers of 1000 bytes for a ring of 4 KiB")
}

fn a_dead_client_of_a_stopped_server() -> Ran {
    let scene = Scene::new();
    let mut client = scene.client();
    let other = scene.client();
    let id = client.id();
    scene.server.stop();
    client.kill();
    let texts = finds(&scene.pid(), "client-dead", "problem");
    assert!(texts.contains(&format!("(pid {id}): the client is dead")), "{texts}");
    assert_eq!(texts.lines().count(), 1, "{} lives: {texts}", other.id());
    scene.server.go_on();
    wait_until("the session is gone", || {
        report(&scene.pid()).0["sessions"].as_array().is_some_and(|all| all.len() == 1)
    });
    assert_eq!(report(&scene.pid()).1, 0);
    done!("one of two clients, while its server is stopped")
}

fn a_dead_server() -> Ran {
    let mut scene = Scene::new();
    let mut client = scene.client();
    client.tell("call echo 1");
    client.expect("done");
    client.stop();
    let pid = scene.pid();
    scene.server.kill();
    let texts = finds(&client.id().to_string(), "server-dead", "problem");
    assert!(texts.contains(&format!("the server (pid {pid}) is dead; 1 session left")), "{texts}");
    assert_eq!(output(&["show", &pid]).status.code(), Some(3), "there is no such process");
    done!("seen in the memory of its client")
}

fn a_call_that_takes_long() -> Ran {
    let scene = Scene::with(&[("ring", "4096")]);
    let mut client = scene.client_with(&[("park", "yes")]);
    client.tell("call echo 1");
    client.expect("done");
    client.tell("call sleep 600000");
    // One request: it was read, and its place not given back, since the server does not sleep meanwhile.
    let texts = finds(&scene.pid(), "server-busy", "problem");
    assert!(texts.contains("in its rings: a handler runs that long"), "{texts}");
    wait_until("its age is told", || {
        let (report, _) = report(&scene.pid());
        report["sessions"][0]["oldest_age_ns"].as_u64().is_some_and(|age| age > 1_000_000_000)
            && report["sessions"][0]["in_flight"] == 1
    });
    done!("one call in a handler of 10 minutes, over a second old")
}

// Saved files.

/// A saved file, taken apart: header and blobs.
struct Saved {
    header: Value,
    blobs: Vec<Vec<u8>>,
}

impl Saved {
    fn read(path: &str) -> Self {
        let bytes = std::fs::read(path).expect("read");
        assert_eq!(&bytes[..8], b"RINGSAVE");
        let length = u32::from_le_bytes(bytes[12..16].try_into().expect("4 bytes")) as usize;
        let header: Value = serde_json::from_slice(&bytes[16..16 + length]).expect("JSON");
        let mut rest = &bytes[16 + length..];
        let mut blobs = Vec::new();
        for take in header["takes"].as_array().expect("takes") {
            for image in take["images"].as_array().expect("images") {
                for blob in ["control", "body", "after"] {
                    let (blob, left) = rest.split_at(image[blob].as_u64().expect("a length") as usize);
                    blobs.push(blob.to_vec());
                    rest = left;
                }
            }
        }
        assert!(rest.is_empty());
        Self { header, blobs }
    }

    fn write(&self, path: &str) {
        let header = serde_json::to_vec(&self.header).expect("JSON");
        let length = u32::try_from(header.len()).expect("short");
        let head = [&b"RINGSAVE"[..], &1u32.to_le_bytes(), &length.to_le_bytes(), &header].concat();
        std::fs::write(path, [head, self.blobs.concat()].concat()).expect("written");
    }

    /// Control page, ring and second control page of every image of a kind.
    fn of_kind(&mut self, kind: SegmentKind) -> impl Iterator<Item = &mut [Vec<u8>]> {
        let at = offset::IDENTITY + std::mem::offset_of!(layout::Identity, kind);
        self.blobs.chunks_mut(3).filter(move |image| {
            image[0].get(at..at + 4).is_some_and(|bytes| bytes == (kind as u32).to_le_bytes())
        })
    }
}

fn put(bytes: &mut [u8], at: usize, word: u64) {
    if bytes.len() >= at + 8 {
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
}

fn get(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

/// Puts a request into the request ring of a file, as if it had been there at both looks.
fn plant_request(saved: &mut Saved) {
    for image in saved.of_kind(SegmentKind::Request) {
        let tail = get(&image[0], offset::TAIL);
        for page in [0, 2] {
            put(&mut image[page], offset::TAIL, tail + layout::LINE);
        }
        let ring = image[1].len() as u64;
        if ring != 0 {
            let index = (tail % ring) as usize;
            put(&mut image[1], index, HeaderWord::new(Kind::Request, 0, 0, 4).0);
            put(&mut image[1], index + layout::CALL_ID, 4711);
        }
    }
}

/// What is known of the timed calls of the first session.
fn samples(target: &str) -> Value {
    report(target).0["sessions"][0]["samples"].clone()
}

fn waiting_is_told_from_working() -> Ran {
    const LONG: Duration = Duration::from_millis(200);
    let long = u64::try_from(LONG.as_nanos()).expect("small");
    let scene = Scene::with(&[("sample", "1")]);
    let mut client = scene.client();
    let gate = scene.file("gate");
    let on_its_way = |target: &str| samples(target)["on_its_way"].clone();
    // Two requests, of which the first is worked on and the second waits until it is done.
    client.tell(&format!("post await {gate}"));
    client.expect("done");
    for target in [scene.pid(), scene.socket(), client.id().to_string()] {
        wait_until("it is in the handler", || on_its_way(&target)["stage"] == "handler");
    }
    client.tell("post echo behind it");
    client.expect("done");
    let note = finds(&scene.pid(), "late-answer", "note");
    assert!(note.contains("was taken") && note.contains("its handler is not done"), "{note}");
    let (shown, _) = say_of(&["show", &scene.pid(), "--color", "never"]);
    assert!(shown.contains(" is in the handler for "), "{shown}");
    std::thread::sleep(LONG);
    std::fs::write(&gate, b"").expect("opened");
    // Both are answered, and nobody takes the answers.
    wait_until("an answer lies there", || on_its_way(&scene.pid())["stage"] == "response-ring");
    wait_until("both are answered", || samples(&scene.pid())["handler"]["calls"] == 2);
    assert_eq!(samples(&scene.pid())["response_ring"]["calls"], 0);
    std::thread::sleep(LONG);
    for _ in 0..2 {
        client.tell("take");
        client.expect("done");
    }
    let most = |part: &str| samples(&scene.pid())[part]["most_ns"].as_u64().expect("a number");
    for part in ["handler", "request_ring", "response_ring"] {
        assert_eq!(samples(&scene.pid())[part]["calls"], 2, "{part}");
        assert!(most(part) >= long, "{part}: {} ns", most(part));
    }
    // Of the two, one was worked on for long, and one waited for long.
    let short = |part: &str| samples(&scene.pid())[part]["median_ns"].as_u64().expect("a number");
    assert!(short("handler") < most("handler") && short("request_ring") < most("request_ring"));
    assert!(on_its_way(&scene.pid()).is_null());
    let (shown, _) = say_of(&["show", &scene.pid(), "--color", "never"]);
    assert!(
        shown.contains("  split     request ring ") && shown.contains("median of 2 timed calls"),
        "{shown}"
    );
    let (metrics, _) = say_of(&["show", &scene.pid(), "--prometheus"]);
    for part in ["request-ring", "handler", "response-ring"] {
        let labels = format!("part=\"{part}\",quantile=\"1\"}} ");
        let of_it = |line: &str| {
            line.starts_with("ringbell_timed_call_seconds{")
                .then(|| line.split_once(&labels))
                .flatten()
                .map(|pair| pair.1.to_owned())
        };
        let seconds: f64 = metrics.lines().find_map(of_it).expect("a metric").parse().expect("a number");
        assert!(seconds >= LONG.as_secs_f64(), "{part}: {seconds}");
    }
    // And from a file.
    let file = scene.file("saved");
    say_of(&["save", &scene.pid(), &file]);
    assert_eq!(samples(&file)["handler"]["most_ns"].as_u64(), Some(most("handler")));
    let mut screen = pty::Screen::start(ring_dump(&["watch", &scene.pid(), "--interval", "100ms"]), 110, 30);
    screen.wait_for("the columns", |text| text.contains("WAIT  WORK  WAIT") && text.contains("all is well"));
    screen.press(b"\r");
    screen.wait_for("one session", |text| text.contains("split    request ring "));
    screen.press(b"q");
    assert!(screen.end().success());
    done!("a request behind one that takes {} ms and more, an answer that lies as long", LONG.as_millis())
}

fn calls_are_timed_on_all_ways() -> Ran {
    let ways: [&[(&str, &str)]; 4] =
        [&[], &[("later", "yes")], &[("ordered", "yes")], &[("later", "yes"), ("ordered", "yes")]];
    let mut timed = 0;
    for way in ways {
        // The client asks, the server does not.
        let scene = Scene::with(&[way, &[("ring", "4096")]].concat());
        let mut client = scene.client_with(&[("sample", "1")]);
        for order in ["call echo", "large 3000", "large 100000", "large 0", "view echo", "post echo", "take"]
        {
            client.tell(order);
            client.expect("done");
        }
        wait_until("all have come to their end", || {
            let samples = samples(&scene.pid());
            samples["handler"]["calls"] == 6
                && samples["response_ring"]["calls"] == 6
                && samples["on_its_way"].is_null()
        });
        // More than there are places for.
        client.tell("load 0");
        wait_until("all places are taken", || {
            let samples = samples(&scene.pid());
            samples["handler"]["calls"].as_u64() >= Some(60) && samples["request_ring"]["most_ns"] != 0
        });
        client.tell("stop");
        client.expect("done");
        timed += 6 + 64;
    }
    // Of every tenth call one, as the server would like it; a client may know better.
    let scene = Scene::with(&[("sample", "10")]);
    let calls = |options: &[(&str, &str)]| {
        let mut client = scene.client_with(options);
        for _ in 0..21 {
            client.tell("call echo");
            client.expect("done");
        }
        samples(&client.id().to_string())["handler"]["calls"].clone()
    };
    assert_eq!(calls(&[]), 3, "the first, the eleventh, the twenty-first");
    assert_eq!(calls(&[("sample", "20")]), 2);
    assert_eq!(calls(&[("sample", "0")]), Value::Null);
    done!("{} ways of answering, {timed} calls and more", ways.len())
}

fn nothing_is_timed_unless_asked_for() -> Ran {
    let scene = Scene::new();
    let mut client = scene.client();
    client.tell("call echo");
    client.expect("done");
    assert!(samples(&scene.pid()).is_null());
    let (shown, _) = say_of(&["show", &scene.pid()]);
    assert!(!shown.contains("split"), "{shown}");
    // Nothing was written there, by either side.
    for image in segments(scene.server.id()) {
        let table = &image[offset::SAMPLES..offset::SAMPLES + 32 * layout::SAMPLES];
        assert!(table.iter().all(|byte| *byte == 0));
    }
    // A socket has no place for it, and goes without.
    let scene = Scene::with(&[("sample", "1")]);
    let mut client = scene.client_with(&[("socket", "yes"), ("sample", "1")]);
    client.tell("call echo");
    client.expect("done");
    assert_eq!(report(&scene.socket()).0["over_sockets"], 1);
    done!("no samples by default, none over a socket")
}

fn a_lost_wake_made_by_hand() -> Ran {
    let scene = Scene::new();
    let mut client = scene.client();
    client.tell("call echo 1");
    client.expect("done");
    let file = scene.file("idle");
    // Asleep at both looks, for data.
    wait_until("it is saved asleep", || {
        say_of(&["save", &scene.pid(), &file]);
        let (report, _) = report(&file);
        let domain = &report["servers"][0]["domains"][0];
        domain["since_before"] == true && domain["sleep"]["data"] == true
    });
    let (good, status) = report(&file);
    assert_eq!((codes(&good).len(), status), (0, 0));

    let mut saved = Saved::read(&file);
    plant_request(&mut saved);
    let lost = scene.file("lost");
    saved.write(&lost);
    let texts = finds(&lost, "lost-wake", "problem");
    assert!(
        texts.contains("1 request queued, server asleep and nobody has rung the bell: lost wake"),
        "{texts}"
    );
    let (frames, _) = say_of(&["frames", &lost, "--ring", "request"]);
    assert!(frames.contains("call 4711"), "{frames}");

    for image in saved.of_kind(SegmentKind::Bell) {
        let bell = get(&image[0], offset::SEQ);
        put(&mut image[0], offset::SEQ, bell + 1);
    }
    let rung = scene.file("rung");
    saved.write(&rung);
    let texts = finds(&rung, "lost-wake", "problem");
    assert!(texts.contains("server asleep although the bell was rung: lost wake"), "{texts}");

    // The other way round: an answer, and a client that sleeps.
    let mut saved = Saved::read(&file);
    for image in saved.of_kind(SegmentKind::Response) {
        let tail = get(&image[0], offset::TAIL);
        for page in [0, 2] {
            put(&mut image[page], offset::TAIL, tail + layout::LINE);
        }
        let ring = image[1].len() as u64;
        if ring != 0 {
            put(&mut image[1], (tail % ring) as usize, HeaderWord::new(Kind::Response, 0, 0, 0).0);
        }
    }
    let bell: Vec<u64> =
        saved.of_kind(SegmentKind::Response).map(|image| get(&image[0], offset::SEQ)).collect();
    let armed = layout::Armed::new(Mode::Futex, Interest::DATA, bell[0] as u32).0;
    for image in saved.of_kind(SegmentKind::Request) {
        put(&mut image[0], offset::ARMED, armed);
    }
    let deaf = scene.file("deaf");
    saved.write(&deaf);
    let texts = finds(&deaf, "lost-wake", "problem");
    assert!(texts.contains("client asleep and nobody has rung its bell: lost wake"), "{texts}");
    done!("one that was not rung, one that was rung in vain, and one of a client")
}

/// Without what depends on when it was looked.
fn without_times(mut report: Value) -> Value {
    let top = report.as_object_mut().expect("an object");
    for key in ["unix_ms", "at_ns", "between_ns", "target"] {
        top.remove(key);
    }
    for list in ["servers", "sessions"] {
        for one in top[list].as_array_mut().expect("an array") {
            let one = one.as_object_mut().expect("an object");
            for key in ["age_ns", "oldest_age_ns", "rates"] {
                one.remove(key);
            }
        }
    }
    for finding in top["findings"].as_array_mut().expect("an array") {
        finding.as_object_mut().expect("an object").remove("text");
    }
    report
}

/// A server and a client, both stopped, with a request and an answer in their rings.
fn stopped_pair(ring: &str) -> (Scene, Process) {
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

fn a_saved_file_reads_as_the_live_target() -> Ran {
    let (scene, client) = stopped_pair("4096");
    let file = scene.file("saved");
    say_of(&["save", &scene.pid(), &file]);
    let mode = std::fs::metadata(&file).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "what passes through rings is private");
    assert_eq!(without_times(report(&file).0), without_times(report(&scene.pid()).0));
    let frames = |target: &str| say_of(&["frames", target, "--all", "--max-bytes", "999"]).0;
    assert_eq!(frames(&file), frames(&scene.pid()));
    assert!(frames(&file).contains("|echo the last wo|"), "{}", frames(&file));
    // The client sees the same rings.
    assert_eq!(frames(&file), frames(&client.id().to_string()));
    done!("report and frames of a stopped pair: live by both pids, and saved")
}

/// What ring-dump must print of a file that was saved once. `RINGBELL_BLESS=1` writes it anew.
fn golden_files() -> Ran {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let bless = std::env::var_os("RINGBELL_BLESS").is_some();
    if bless && !data.join("stopped.ringsave").exists() {
        let (scene, _client) = stopped_pair("2048");
        let file = scene.file("saved");
        say_of(&["save", &scene.pid(), &file]);
        std::fs::copy(file, data.join("stopped.ringsave")).expect("copied");
    }
    let commands: [(&str, &[&str]); 5] = [
        ("show.txt", &["show", "stopped.ringsave"]),
        ("show.json", &["show", "stopped.ringsave", "--json"]),
        ("show.prom", &["show", "stopped.ringsave", "--prometheus"]),
        ("frames.txt", &["frames", "stopped.ringsave", "--all"]),
        ("frames.json", &["frames", "stopped.ringsave", "--all", "--json"]),
    ];
    for (golden, arguments) in commands {
        let output = ring_dump(arguments).current_dir(&data).output().expect("started");
        let path = data.join(golden);
        if bless {
            std::fs::write(&path, &output.stdout).expect("written");
        }
        let expected = std::fs::read_to_string(&path).expect("read");
        assert_eq!(text(&output.stdout), expected, "{golden}");
        let status = i32::from(golden.starts_with("show"));
        assert_eq!(output.status.code(), Some(status), "{golden}");
    }
    done!("{} outputs of one saved file", commands.len())
}

fn a_core_dump_reads_as_the_live_target() -> Ran {
    let (scene, client) = stopped_pair("4096");
    let prefix = scene.file("core");
    let mut compared = 0;
    for pid in [scene.pid(), client.id().to_string()] {
        let made = Command::new("gcore").args(["-o", &prefix, &pid]).output();
        let core = format!("{prefix}.{pid}");
        match made {
            Ok(made) if made.status.success() && Path::new(&core).exists() => {}
            Ok(made) => return Ran::Skipped(format!("gcore makes no dump here: {}", text(&made.stderr))),
            Err(error) => return Ran::Skipped(format!("no gcore here: {error}")),
        }
        tick();
        // A debugger leaves a stopped process running.
        let frames = |target: &str| say_of(&["frames", target, "--all"]).0;
        let listed = frames(&core);
        assert!(listed.contains("|echo answered by|") && listed.contains("|echo taken by no|"), "{listed}");
        let (report, _) = report(&core);
        assert_eq!(report["sessions"][0]["peer"]["pid"], client.id());
        assert_eq!(report["servers"][0]["peer"]["pid"], scene.server.id());
        compared += 1;
    }
    done!("{compared} dumps: of the server and of the client")
}

// What it does to its target: nothing.

/// The bytes of all segments of a process.
fn segments(pid: u32) -> Vec<Vec<u8>> {
    let directory = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a process of our own");
    let mut paths: Vec<_> = directory.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let ours = paths.into_iter().filter(|path| {
        std::fs::read_link(path).is_ok_and(|link| link.to_string_lossy().starts_with("/memfd:ringbell:"))
    });
    ours.map(|path| {
        let file = std::fs::File::open(path).expect("opened");
        let mut bytes = vec![0; usize::try_from(file.metadata().expect("a file").len()).expect("small")];
        file.read_exact_at(&mut bytes, 0).expect("read");
        bytes
    })
    .collect()
}

fn nothing_is_written_and_nothing_is_mapped() -> Ran {
    let (scene, client) = stopped_pair("4096");
    let before = segments(scene.server.id());
    assert!(before.len() >= 4);
    let file = scene.file("saved");
    let commands: [&[&str]; 6] = [
        &["show", &scene.pid()],
        &["show", &scene.socket()],
        &["show", &client.id().to_string()],
        &["frames", &scene.pid(), "--all"],
        &["save", &scene.socket(), &file],
        &["tap", &scene.pid(), "--time", "100ms"],
    ];
    for command in commands {
        say_of(command);
    }
    assert_eq!(segments(scene.server.id()), before);

    // While it looks it holds nothing that could be written, and maps nothing.
    let mut tap = ring_dump(&["tap", &scene.pid()]).stderr(Stdio::piped()).spawn().expect("started");
    let mut said = String::new();
    BufReader::new(tap.stderr.take().expect("piped")).read_line(&mut said).expect("read");
    assert!(said.contains("following 1 sessions"), "{said}");
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", tap.id())).expect("read");
    assert!(!maps.contains("memfd"), "{maps}");
    let mut held = 0;
    for entry in std::fs::read_dir(format!("/proc/{}/fd", tap.id())).expect("its descriptors").flatten() {
        let link = std::fs::read_link(entry.path()).unwrap_or_default();
        if link.to_string_lossy().starts_with("/memfd:ringbell:") {
            let info = format!("/proc/{}/fdinfo/{}", tap.id(), entry.file_name().to_string_lossy());
            let info = std::fs::read_to_string(info).expect("read");
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags");
            let flags = u32::from_str_radix(flags.trim(), 8).expect("octal");
            assert_eq!(flags & 3, 0, "opened for reading alone: {info}");
            held += 1;
        }
    }
    assert!(held >= 2);
    tap.kill().expect("killed");
    tap.wait().expect("waited for");
    done!(
        "{} commands and {} segments, byte for byte; {held} descriptors, read-only",
        commands.len(),
        before.len()
    )
}

fn other_users_are_refused() -> Ran {
    const NOBODY: u32 = 65534;
    if !rustix::process::geteuid().is_root() {
        return Ran::Skipped("it takes root to become somebody else".into());
    }
    let scene = Scene::with(&[("anyone", "yes")]);
    let _client = scene.client();
    std::fs::set_permissions(scene.directory.path(), PermissionsExt::from_mode(0o755)).expect("set");
    // Where everybody may start it.
    let program = scene.directory.path().join("ring-dump");
    std::fs::copy(env!("CARGO_BIN_EXE_ring-dump"), &program).expect("copied");
    let as_nobody = |arguments: &[&str]| {
        let output =
            Command::new(&program).args(arguments).uid(NOBODY).gid(NOBODY).output().expect("started");
        (output.status.code(), text(&output.stderr))
    };
    let (status, why) = as_nobody(&["show", &scene.pid()]);
    assert!(status == Some(3) && why.contains("may not be looked into"), "{status:?} {why}");
    let (status, why) = as_nobody(&["show", &scene.socket()]);
    assert!(status == Some(3) && why.contains("rejects this client"), "{status:?} {why}");
    assert_eq!(report(&scene.socket()).1, 0, "but not for root");
    done!("another uid, by pid and by socket of a server that serves anyone")
}

fn tap_sees_what_passes() -> Ran {
    let scene = Scene::new();
    let mut client = scene.client();
    let mut tap = ring_dump(&["tap", &scene.socket(), "--count", "40", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let mut errors = BufReader::new(tap.stderr.take().expect("piped"));
    let mut said = String::new();
    errors.read_line(&mut said).expect("read");
    for call in 0..20 {
        client.tell(&format!("call echo number {call}"));
        client.expect("done");
    }
    let mut lines = String::new();
    tap.stdout.take().expect("piped").read_to_string(&mut lines).expect("read");
    errors.read_to_string(&mut said).expect("read");
    assert!(tap.wait().expect("waited for").success());
    let records: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    for (ring, kind) in [("request", "request"), ("response", "response")] {
        let of_it: Vec<&Value> = records.iter().filter(|record| record["ring"] == ring).collect();
        assert_eq!(of_it.len(), 20, "{ring}");
        for (call, record) in of_it.iter().enumerate() {
            let payload: String =
                format!("echo number {call}").bytes().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!((&record["kind"], &record["payload"]), (&kind.into(), &payload.into()));
            assert!(record["flaw"].is_null());
        }
    }
    assert!(said.contains("40 records") && said.contains("missed 0 bytes"), "{said}");
    done!("20 calls, 40 records, none missed")
}

fn tap_says_what_it_missed() -> Ran {
    let scene = Scene::with(&[("ring", "4096")]);
    let mut client = scene.client();
    client.tell("load 0");
    let output = output(&["tap", &scene.pid(), "--time", "500ms", "--every", "20ms", "--json"]);
    client.tell("stop");
    client.expect("done");
    assert!(output.status.success());
    let said = text(&output.stderr);
    let missed = said.split("missed ").nth(1).and_then(|rest| rest.split(' ').next()).expect("it says so");
    let missed: u64 = missed.parse().expect("a number");
    assert!(missed > 0, "{said}");
    let mut shown = 0;
    for line in text(&output.stdout).lines() {
        let record: Value = serde_json::from_str(line).expect("JSON");
        // What it shows is what was there, although the ring is overwritten all the time.
        assert!(record["flaw"].is_null(), "{record}");
        let payload = record["payload"].as_str().expect("hex");
        assert!(payload.starts_with("6563686f20"), "{record}");
        shown += 1;
    }
    done!("{shown} records of a small ring at full load, all sound; {missed} bytes missed")
}

fn watch_on_a_terminal() -> Ran {
    let scene = Scene::with(&[("sample", "16")]);
    let mut client = scene.client();
    let mut other = scene.client_with(&[("park", "yes")]);
    client.tell("load 5");
    // A picture is for people, who look for longer.
    let picture = std::env::var_os("RINGBELL_SCREENSHOT");
    let interval = if picture.is_some() { "1s" } else { "100ms" };
    let mut screen = pty::Screen::start(ring_dump(&["watch", &scene.pid(), "--interval", interval]), 110, 30);
    screen.wait_for("both sessions", |text| {
        text.contains(" 2 sessions ")
            && text.contains(&client.id().to_string())
            && text.contains("all is well")
    });
    screen.wait_for("rates", |text| {
        let line = text.lines().find(|line| line.contains(&client.id().to_string()));
        line.is_some_and(|line| line.contains('█') || line.contains('▇'))
    });
    if let Some(path) = picture {
        for seconds in 0..15 {
            std::thread::sleep(Duration::from_secs(1));
            screen.wait_for("more", |text| !text.is_empty() || seconds == 0);
        }
        screen.wait_for("a picture", |_| true);
        std::fs::write(path, screen.svg()).expect("written");
    }
    screen.press(b"s");
    screen.wait_for("another order", |text| text.contains("sort: fill"));
    screen.press(b"ss");
    screen.wait_for("the order after that", |text| text.contains("sort: oldest call"));
    screen.press(b"s");
    screen.wait_for("the first order", |text| text.contains("sort: session"));
    screen.press(b"\x1b[B\r");
    screen.wait_for("the second session alone", |text| {
        text.contains(" session 2 caller") && text.contains("request ring, B")
    });
    // What is wrong appears by itself, and a pause holds it.
    scene.server.stop();
    screen.wait_for("the verdict", |text| text.contains("is stopped by a signal"));
    screen.press(b"p");
    screen.wait_for("the pause", |text| text.contains("PAUSED"));
    scene.server.go_on();
    other.tell("call echo 1");
    other.expect("done");
    assert!(screen.text().contains("is stopped by a signal"), "nothing changes in a pause");
    screen.press(b"p");
    screen.wait_for("the end of the pause", |text| !text.contains("PAUSED") && text.contains("all is well"));
    screen.press(b"q");
    assert!(screen.end().success());
    client.tell("stop");
    client.expect("done");
    done!("a terminal of 110 x 30: table, order, one session, a verdict, a pause, the end")
}

// The rest.

fn the_list_and_its_directory() -> Ran {
    let scenes = [Scene::new(), Scene::new()];
    let _client = scenes[0].client();
    let directory = scenes[1].directory.path();
    let not_ours = directory.join("other");
    let listener = std::os::unix::net::UnixListener::bind(&not_ours).expect("bound");
    drop(listener);
    let (text, _) = say_of(&["list", "--json", &directory.display().to_string()]);
    let listing: Value = serde_json::from_str(&text).expect("JSON");
    let servers = listing["servers"].as_array().expect("an array");
    for (scene, sessions) in scenes.iter().zip([1, 0]) {
        let lines: Vec<_> = servers.iter().filter(|line| line["pid"] == scene.server.id()).collect();
        assert_eq!(lines.len(), 1, "found in its process, and once only: {listing:#}");
        assert_eq!((&lines[0]["sessions"], &lines[0]["problems"]), (&sessions.into(), &0.into()));
        assert_eq!(lines[0]["listens_at"][0], scene.socket());
    }
    assert_eq!(listing["sockets"][0][0], not_ours.display().to_string());
    scenes[0].server.stop();
    let (text, now) = say_of(&[]);
    let line = text.lines().find(|line| line.contains(&scenes[0].socket())).expect("a line");
    assert!(line.contains("stopped") && line.contains("1 wrong") && now == 1, "{text}");
    done!("2 servers among {}, and a socket that is none", servers.len())
}

fn what_changed_between_two_files() -> Ran {
    let scene = Scene::new();
    let mut first = scene.client();
    let [before, after] = ["before", "after"].map(|name| scene.file(name));
    say_of(&["save", &scene.pid(), &before]);
    first.tell("call echo 1");
    first.expect("done");
    let _second = scene.client();
    first.stop();
    wait_until("the server has counted it", || {
        report(&scene.pid()).0["servers"][0]["counters"]["requests"] == 1
    });
    say_of(&["save", &scene.pid(), &after]);
    let (text, status) = say_of(&["diff", &before, &after, "--json"]);
    assert_eq!(status, 1, "as the later one");
    let diff: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(diff["sessions"]["2"]["presence"], "began");
    assert_eq!(diff["sessions"]["1"]["numbers"]["request.tail"], serde_json::json!([0, 64]));
    assert_eq!(diff["sessions"]["1"]["words"]["process"], serde_json::json!(["alive", "stopped"]));
    assert_eq!(diff["new_findings"][0]["code"], "client-stopped");
    let (text, _) = say_of(&["diff", &after, &before, "--color", "never"]);
    assert!(text.contains("session 2 ended") && text.contains("gone  session 1"), "{text}");
    let (text, _) = say_of(&["diff", &before, &before]);
    assert!(text.contains("nothing changed"), "{text}");
    done!("a call, a new session, a stopped client: forwards and backwards")
}

fn garbage_is_described_and_not_believed() -> Ran {
    let (scene, _client) = stopped_pair("2048");
    let file = scene.file("good");
    say_of(&["save", &scene.pid(), &file]);
    let mut saved = Saved::read(&file);
    for image in saved.of_kind(SegmentKind::Request) {
        for (at, byte) in image[1].iter_mut().enumerate() {
            *byte = u8::try_from(at * 31 % 251).expect("a byte");
        }
    }
    let bad = scene.file("bad");
    saved.write(&bad);
    let (frames, status) = say_of(&["frames", &bad, "--color", "never"]);
    assert!(status == 1 && frames.contains("an unknown kind or flag"), "{frames}");
    assert!(finds(&bad, "damaged", "problem").contains("the request ring is damaged"));
    for image in saved.of_kind(SegmentKind::Response) {
        for page in [0, 2] {
            put(&mut image[page], offset::HEAD, u64::MAX);
            put(&mut image[page], offset::IDENTITY + std::mem::offset_of!(layout::Identity, total), 3);
        }
    }
    saved.write(&bad);
    let texts = finds(&bad, "damaged", "problem");
    assert!(texts.contains("impossible positions") && texts.contains("a size of 3 bytes"), "{texts}");
    // Whatever is missing, nothing crashes.
    let whole = std::fs::read(&file).expect("read");
    let cuts = 60;
    for cut in 0..cuts {
        std::fs::write(&bad, &whole[..whole.len() * cut / cuts]).expect("written");
        for command in ["show", "frames"] {
            let output = output(&[command, &bad]);
            assert!(output.status.code().is_some_and(|code| code <= 3), "{}", text(&output.stderr));
            assert!(!text(&output.stderr).contains("panicked"), "{}", text(&output.stderr));
        }
    }
    done!("a ring of noise, impossible positions, {cuts} cuts")
}

fn wrong_use_has_its_status() -> Ran {
    let cases: [(&[&str], i32); 9] = [
        (&["show"], 2),
        (&["show", "1", "--interval", "soon"], 2),
        (&["show", "1", "--json", "--prometheus"], 2),
        (&["nonsense"], 2),
        (&["show", "/nowhere/at/all"], 3),
        (&["show", "/dev/null"], 3),
        (&["show", "4294967295"], 3),
        (&["show", &std::process::id().to_string()], 3),
        (&["list", "/nowhere/at/all"], 3),
    ];
    for (arguments, status) in cases {
        let output = output(arguments);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {}", text(&output.stderr));
        assert!(!output.stderr.is_empty());
    }
    let scene = Scene::new();
    assert_eq!(output(&["watch", &scene.pid()]).status.code(), Some(2), "no terminal");
    let file = scene.file("saved");
    say_of(&["save", &scene.pid(), &file]);
    assert_eq!(output(&["tap", &file]).status.code(), Some(2), "nothing passes in a file");
    // The sentence about NO_COLOR.
    let coloured = |command: &mut Command| text(&command.output().expect("started").stdout).contains('\x1b');
    assert!(coloured(&mut ring_dump(&["show", &file, "--color", "always"])));
    assert!(!coloured(&mut ring_dump(&["show", &file])), "not a terminal");
    assert!(!coloured(ring_dump(&["show", &file]).env("NO_COLOR", "1")));
    scene.server.signal(Signal::KILL);
    done!("{} wrong uses", cases.len() + 2)
}

fn help_for_shells_and_manuals() -> Ran {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (script, _) = say_of(&["completions", shell]);
        for word in ["doctor", "prometheus", "max-bytes"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let (page, _) = say_of(&["man"]);
    for word in [".TH ring-dump 1", "Status: 0", "TAP", "\\-\\-every", "\\-\\-prometheus"] {
        assert!(page.contains(word), "{word}");
    }
    let (health, _) = say_of(&["doctor", "--json"]);
    let health: Value = serde_json::from_str(&health).expect("JSON");
    let checks = health["checks"].as_array().expect("an array");
    assert!(checks.iter().any(|check| check["name"] == "futex_waitv" && check["level"] == "good"));
    done!("5 shells, the manual page, {} checks of the doctor", checks.len())
}
