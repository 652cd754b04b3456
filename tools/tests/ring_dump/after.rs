//! What ring-dump says after death: of core dumps, of files that were saved long ago, of files that
//! are cut, of what is newer than it, and of a server that was restarted.

use crate::files::{Saved, put};
use crate::scene::{Scene, codes, finds, output, report, say_of, stopped_pair, text};
use crate::schema::Schema;
use ringbell::layout::{self, offset};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, Process, Start, hear, say};
use ringbell_shm_tests::{done, observe, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

/// Where a process that crashes leaves its dump.
struct Grave {
    directory: TempDir,
    script: String,
}

impl Grave {
    /// None if dumps go elsewhere on this machine. `first`: what the shell does before.
    fn new(first: &str) -> Result<Self, Ran> {
        let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
        if !pattern.starts_with("core") || pattern.contains('/') {
            return Err(Ran::Skipped(format!("dumps go elsewhere here: {}", pattern.trim())));
        }
        let directory = tempfile::tempdir().expect("a directory");
        let script = format!(
            "ulimit -c unlimited && {first} && cd {} && exec \"$0\" \"$@\"",
            directory.path().display()
        );
        Ok(Self { directory, script })
    }

    fn server(&self, options: &[(&str, &str)]) -> Scene {
        Scene::under("sh", &["-c", &self.script], options)
    }

    fn role(&self, role: &str) -> Start {
        Start::role_under("sh", &["-c", &self.script], role)
    }

    /// The dump of a process, once it has ended by `signal`.
    fn dump(&self, process: &mut Process, signal: Signal) -> String {
        let status = process.wait();
        assert_eq!(status.signal(), Some(signal.as_raw()), "{status}");
        self.dumps().pop().expect("a dump").display().to_string()
    }

    fn dumps(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.directory.path()).expect("there").flatten();
        let names = files.map(|file| file.path());
        names
            .filter(|path| {
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("core"))
            })
            .collect()
    }
}

macro_rules! grave {
    ($first:expr) => {
        match Grave::new($first) {
            Ok(grave) => grave,
            Err(skipped) => return skipped,
        }
    };
}

fn crashed(report: &Value) -> String {
    let findings = report["findings"].as_array().expect("an array");
    let all: Vec<_> = findings.iter().filter(|one| one["code"] == "crashed").collect();
    assert_eq!(all.len(), 1, "{report:#}");
    assert_eq!(all[0], &findings[0], "it is said first");
    assert_eq!(all[0]["severity"], "problem");
    all[0]["text"].as_str().expect("a text").to_owned()
}

/// What is said of where something is from, and when.
fn header(shown: &str) -> &str {
    let is_it = |line: &&str| line.starts_with("core dump of ") || line.starts_with("saved file; ");
    shown.lines().find(is_it).unwrap_or_else(|| panic!("no header: {shown}"))
}

/// What is said of `target`, which cannot be looked at.
fn refused(target: &str) -> String {
    let output = output(&["show", target]);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{told}\n{}", text(&output.stdout));
    assert!(!told.contains("panicked"), "{told}");
    told
}

pub(crate) fn d5_a_crash_in_a_handler() -> Ran {
    let grave = grave!("true");
    let mut scene = grave.server(&[]);
    let mut idle = scene.client();
    let mut client = scene.client();
    for client in [&mut idle, &mut client] {
        client.tell("call echo well");
        client.expect("done");
    }
    client.tell("post crash segv");
    client.expect("done");
    let pid = scene.server.id();
    let core = grave.dump(&mut scene.server, Signal::SEGV);
    let caller = client.id();
    // Both are gone when somebody looks. Then, they were there.
    idle.kill();
    client.kill();
    let (report, status) = report(&core);
    assert_eq!(status, 1);
    Schema::read().assert("show", &report);
    let told = crashed(&report);
    assert!(told.contains(&format!("core dump of pid {pid} (")), "{told}");
    assert!(told.contains(&format!("ended by SIGSEGV in thread {pid} (the serving thread) at address 0x10; in its handler: call ")), "{told}");
    let request = format!(" of session 2 (pid {caller}), 10 bytes |crash segv|");
    assert!(told.contains(&request), "{told}");
    for dead in ["client-dead", "server-dead", "lost-wake", "damaged"] {
        assert!(!codes(&report).iter().any(|(code, _)| code == dead), "{report:#}");
    }
    let dumped = &report["core"];
    assert_eq!(dumped["thread"], dumped["serving_thread"]);
    assert_eq!(dumped["requests"].as_array().expect("an array").len(), 1);
    assert_eq!(dumped["requests"][0]["certainty"], "only");
    assert_eq!(dumped["requests"][0]["session"], "2");
    assert_eq!(report["findings"][0]["session"], "2");
    assert_eq!(report["host"], Value::Null, "a dump does not say where it is from");
    let (shown, _) = say_of(&["show", &core, "--color", "never"]);
    assert!(shown.starts_with("problem  core dump of pid "), "{shown}");
    let first = header(&shown);
    assert!(first.contains(&format!("core dump of pid {pid} (")), "{first}");
    assert!(first.contains("; written ") && first.contains(" ago ("), "{first}");
    assert!(shown.contains(", crashed") && shown.contains(", then unknown,"), "{shown}");

    // Saved, it says the same.
    let saved = scene.file("saved");
    say_of(&["save", &core, &saved]);
    let (again, _) = crate::scene::report(&saved);
    assert_eq!(crashed(&again), told);
    assert_eq!(again["core"], report["core"]);
    assert_eq!(again["unix_ms"], report["unix_ms"], "of the time of the dump");
    done!("SIGSEGV while {request}")
}

pub(crate) fn d5_an_abort_in_one_of_several_handlers() -> Ran {
    let grave = grave!("true");
    let mut scene = grave.server(&[]);
    let mut clients = [scene.client(), scene.client()];
    let gate = scene.file("gate");
    clients[0].tell(&format!("post await {gate}"));
    clients[0].expect("done");
    wait_until("the handler runs", || {
        report(&scene.pid()).0["sessions"][0]["server"]["received"] != 1
    });
    // Behind the one that runs, one that ends the server, and another one of another session.
    clients[0].tell("post crash abort");
    clients[0].expect("done");
    clients[1].tell("post echo next");
    clients[1].expect("done");
    std::fs::write(&gate, "").expect("written");
    let pid = scene.server.id();
    let core = grave.dump(&mut scene.server, Signal::ABORT);
    let (report, _) = report(&core);
    let told = crashed(&report);
    assert!(
        told.contains(&format!(
            "ended by SIGABRT in thread {pid} (the serving thread), which it raised itself"
        )),
        "{told}"
    );
    // The rings do not tell which of the two, unless the other one was answered before.
    assert!(told.contains("in its handler") && told.contains("|crash abort|"), "{told}");
    let one_of = told.contains("one of: ");
    assert_eq!(one_of, told.contains("|echo next|"), "{told}");
    done!("{}", if one_of { "one of two" } else { "the other one was answered" })
}

pub(crate) fn d5_a_server_that_is_ended_while_requests_are_elsewhere() -> Ran {
    let grave = grave!("true");
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("s");
    let mut server =
        grave.role("engine").with("path", path.display()).with("engine", "reactor").start();
    server.expect("ready");
    let mut client = Start::role("caller").with("path", path.display()).start();
    client.expect("connected");
    client.tell("post keep");
    client.expect("done");
    let pid = server.id().to_string();
    wait_until("the server sleeps over it", || {
        let (report, _) = report(&pid);
        report["sessions"][0]["server"]["in_flight"] == 1
            && report["servers"][0]["domains"][0]["sleep"]["state"] == "armed"
    });
    server.signal(Signal::ABORT);
    let core = grave.dump(&mut server, Signal::ABORT);
    client.kill();
    let (report, status) = report(&core);
    assert_eq!(status, 1);
    let told = crashed(&report);
    assert!(told.contains(&format!(", sent by pid {}", std::process::id())), "{told}");
    assert!(told.contains("; in handlers: call ") && told.contains("|keep|"), "{told}");
    assert_eq!(report["core"]["requests"][0]["certainty"], "told");
    done!("{told}")
}

pub(crate) fn d5_an_idle_server_that_is_ended_had_nothing_in_its_handler() -> Ran {
    let grave = grave!("true");
    let mut scene = grave.server(&[]);
    let mut client = scene.client();
    client.tell("call echo well");
    client.expect("done");
    crate::scene::sleeps(&scene.pid());
    scene.server.signal(Signal::QUIT);
    let core = grave.dump(&mut scene.server, Signal::QUIT);
    let (report, _) = report(&core);
    let told = crashed(&report);
    assert!(told.contains("ended by SIGQUIT"), "{told}");
    assert!(told.ends_with("; no request was in its handler"), "{told}");
    assert_eq!(report["core"]["requests"], json!([]));
    done!("{told}")
}

pub(crate) fn d5_the_dump_of_a_client() -> Ran {
    let grave = grave!("true");
    let scene = Scene::new();
    let start = grave.role("caller").with("path", scene.path.display()).with("park", "yes");
    let mut client = start.start();
    client.expect("connected");
    let gate = scene.file("gate");
    client.tell(&format!("call await {gate}"));
    wait_until("the client waits", || {
        report(&scene.pid()).0["sessions"][0]["oldest_call"].is_string()
    });
    client.signal(Signal::ABORT);
    let core = grave.dump(&mut client, Signal::ABORT);
    std::fs::write(&gate, "").expect("written");
    let (report, _) = report(&core);
    let told = crashed(&report);
    assert!(
        told.contains("; it was the client of session 1, with 1 call in flight when it last slept"),
        "{told}"
    );
    assert_eq!(report["core"]["serving_thread"], Value::Null);
    assert!(!codes(&report).iter().any(|(code, _)| code == "server-dead"), "{report:#}");
    done!("{told}")
}

pub(crate) fn d5_a_server_that_is_killed_leaves_no_dump() -> Ran {
    let grave = grave!("true");
    let mut scene = grave.server(&[]);
    let pid = scene.pid();
    let _client = scene.client();
    scene.server.kill();
    assert!(grave.dumps().is_empty());
    assert!(refused(&pid).contains(&format!("there is no process {pid}")));
    done!("SIGKILL")
}

pub(crate) fn d5_a_dump_without_shared_memory_says_so() -> Ran {
    let grave = grave!("echo 0x1 > /proc/self/coredump_filter");
    let mut scene = grave.server(&[]);
    let mut client = scene.client();
    client.tell("post crash segv");
    client.expect("done");
    let pid = scene.server.id();
    let core = grave.dump(&mut scene.server, Signal::SEGV);
    let told = refused(&core);
    assert!(told.contains(&format!("pid {pid} (")), "{told}");
    assert!(
        told.contains("their bytes were not dumped") && told.contains("coredump_filter"),
        "{told}"
    );
    done!("{told}")
}

pub(crate) fn d5_a_dump_that_is_cut_or_of_another_machine() -> Ran {
    let grave = grave!("true");
    let mut scene = grave.server(&[("ring", "4096")]);
    let mut client = scene.client();
    client.tell("post crash segv");
    client.expect("done");
    let core = grave.dump(&mut scene.server, Signal::SEGV);
    let whole = std::fs::read(&core).expect("read");
    let part = scene.file("part");
    let (mut refusals, mut shown) = (0, 0);
    let cuts = (0..48).map(|part| whole.len() * part / 48).chain([7, 63, 64, 100, 1000, 5000]);
    for cut in cuts {
        std::fs::write(&part, &whole[..cut]).expect("written");
        let output = output(&["show", &part, "--json"]);
        let told = text(&output.stderr);
        match output.status.code() {
            Some(3) => {
                let is_none = cut < 8 && told.contains("neither a saved file nor a core dump");
                assert!(is_none || told.contains(&format!("cut: {cut} of ")), "{cut}: {told}");
                refusals += 1;
            }
            Some(1) => {
                let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
                assert!(codes(&report).contains(&("cut".into(), "problem".into())), "{report:#}");
                assert!(crashed(&report).contains("ended by SIGSEGV"));
                shown += 1;
            }
            _ => panic!("{cut}: {}: {told}", output.status),
        }
    }
    for (at, byte, why) in [
        (4, 1, "a dump of a 32-bit process"),
        (5, 2, "a dump of a big-endian machine"),
        (18, 243, "a dump of another machine (RISC-V)"),
        (16, 3, "an ELF file, but no core dump"),
    ] {
        let mut foreign = whole.clone();
        foreign[at] = byte;
        std::fs::write(&part, foreign).expect("written");
        let told = refused(&part);
        assert!(told.contains(why), "{told}");
    }
    done!("{refusals} cuts refused, {shown} shown; 4 that are something else")
}

pub(crate) fn a_dump_by_a_debugger_is_no_crash() -> Ran {
    let (scene, client) = stopped_pair("4096");
    let prefix = scene.file("core");
    let made = Command::new("gcore").args(["-o", &prefix, &scene.pid()]).output();
    if !made.as_ref().is_ok_and(|made| made.status.success()) {
        return Ran::Skipped(format!("no gcore here: {made:?}"));
    }
    let core = format!("{prefix}.{}", scene.pid());
    drop(client);
    let (report, _) = report(&core);
    assert!(!codes(&report).iter().any(|(code, _)| code == "crashed" || code.ends_with("-dead")));
    assert_eq!(report["core"]["signal"], Value::Null);
    let (shown, _) = say_of(&["show", &core, "--color", "never"]);
    let first = header(&shown);
    assert!(first.contains("no signal ended"), "{first}");
    assert!(shown.contains(", dumped") && shown.contains(", then unknown,"), "{shown}");
    done!("{first}")
}

pub(crate) fn a_file_is_judged_by_the_time_when_it_was_saved() -> Ran {
    let (mut scene, mut client) = stopped_pair("4096");
    let file = scene.file("saved");
    say_of(&["save", &scene.pid(), &file]);
    let (before, _) = report(&file);
    Schema::read().assert("show", &before);
    scene.server.kill();
    client.kill();
    let (after, _) = report(&file);
    assert_eq!(before, after, "who is alive today is not asked");
    assert!(codes(&after).contains(&("server-stopped".into(), "problem".into())), "{after:#}");
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("an id");
    assert_eq!(after["host"], json!({"name": name.trim(), "boot": boot.trim()}));
    // Three hours and three days ago.
    let mut saved = Saved::read(&file);
    for (ms, said) in [(3 * 3_600_000, "3 h ago"), (73 * 3_600_000, "3 days ago")] {
        let taken = after["unix_ms"].as_u64().expect("a time") - ms;
        saved.header["takes"][1]["unix_ms"] = taken.into();
        saved.write(&file);
        let (shown, _) = say_of(&["show", &file, "--color", "never"]);
        let first = header(&shown);
        assert!(first.starts_with(&format!("saved file; taken {said} (")), "{first}");
        assert!(first.ends_with(&format!("on {}, boot {}", name.trim(), boot.trim())), "{first}");
    }
    done!("a stopped pair, killed meanwhile")
}

pub(crate) fn a_file_of_another_version() -> Ran {
    let (scene, _client) = stopped_pair("2048");
    let file = scene.file("saved");
    say_of(&["save", &scene.pid(), &file]);
    let (good, _) = report(&file);
    let mut bytes = std::fs::read(&file).expect("read");
    bytes[8..12].copy_from_slice(&3u32.to_le_bytes());
    let other = scene.file("other");
    std::fs::write(&other, &bytes).expect("written");
    let told = refused(&other);
    assert!(told.contains("newer: version 3, this program knows 2"), "{told}");
    // The first version says less.
    let mut saved = Saved::read(&file);
    for field in ["host", "dump"] {
        saved.header.as_object_mut().expect("an object").remove(field).expect("there");
    }
    saved.version = 1;
    saved.write(&other);
    let (older, _) = report(&other);
    assert_eq!(older["host"], Value::Null);
    assert_eq!(older["findings"], good["findings"]);
    done!("version 3 is refused, version 1 is read")
}

/// Sets the version of the layout in a segment.
fn set_layout(segment: &mut [u8], version: u32) {
    let at = offset::IDENTITY + std::mem::offset_of!(layout::Identity, version);
    if segment.len() >= layout::CONTROL {
        segment[at..at + 4].copy_from_slice(&version.to_le_bytes());
    }
}

/// A process with segments of another layout, and with a server of this one if it is given a path.
pub(crate) fn stranger(arguments: &Arguments) {
    let version = u32::try_from(arguments.number("layout")).expect("small");
    let segments: Vec<_> = [b'1', b'2']
        .into_iter()
        .map(|generation| {
            let mut bytes = vec![0; 8192];
            put(&mut bytes, offset::IDENTITY, layout::MAGIC);
            put(&mut bytes, offset::IDENTITY + 16, u64::from(generation));
            set_layout(&mut bytes, version);
            let flags = rustix::fs::MemfdFlags::CLOEXEC;
            let file = rustix::fs::memfd_create("ringbell:status", flags).expect("a memfd");
            assert_eq!(rustix::io::write(&file, &bytes).expect("written"), bytes.len());
            file
        })
        .collect();
    let server =
        arguments.get("path").map(|path| ringbell::Server::builder().bind(path).expect("bound"));
    say("ready");
    while hear().is_some() {}
    drop((segments, server));
}

pub(crate) fn a_server_of_another_layout() -> Ran {
    let (scene, _client) = stopped_pair("2048");
    let file = scene.file("saved");
    say_of(&["save", &scene.pid(), &file]);
    let mut tried = 0;
    for (version, which) in
        [(layout::LAYOUT_VERSION + 1, "newer"), (layout::LAYOUT_VERSION - 1, "older")]
    {
        let words = format!(
            "{which}: layout version {version}, this program knows {}",
            layout::LAYOUT_VERSION
        );
        let mut saved = Saved::read(&file);
        for blob in &mut saved.blobs {
            if blob.starts_with(&layout::MAGIC.to_le_bytes()) {
                set_layout(blob, version);
            }
        }
        let other = scene.file("other");
        saved.write(&other);
        let told = refused(&other);
        assert!(told.contains(&words) && told.contains(&scene.pid()), "{told}");

        let mut alone = Start::role("stranger").with("layout", version).start();
        alone.expect("ready");
        let told = refused(&alone.id().to_string());
        assert!(told.contains(&format!("process {}: ", alone.id())), "{told}");
        assert!(told.contains(&words), "{told}");
        let (list, _) = say_of(&["list", "--color", "never"]);
        let line = list
            .lines()
            .find(|line| line.split_ascii_whitespace().next() == Some(&alone.id().to_string()));
        assert!(line.is_some_and(|line| line.contains(&words)), "{list}");
        let (list, _) = say_of(&["list", "--json"]);
        let list: Value = serde_json::from_str(&list).expect("JSON");
        Schema::read().assert("list", &list);

        let path = scene.file("both");
        let mut both = Start::role("stranger").with("layout", version).with("path", &path).start();
        both.expect("ready");
        let (report, _) = report(&both.id().to_string());
        assert_eq!(report["servers"][0]["peer"]["pid"], both.id());
        let findings = report["findings"].as_array().expect("an array").iter();
        let others: Vec<_> = findings.filter(|one| one["code"] == "other-layout").collect();
        assert_eq!(others.len(), 2, "{report:#}");
        assert_eq!(others[0]["severity"], "note");
        assert_eq!(others[0]["generation"], "0000000000000031");
        assert!(!codes(&report).iter().any(|(code, _)| code == "damaged"), "{report:#}");
        tried += 1;
    }
    done!("{tried} layouts: saved, alone, and beside a server of this one")
}

pub(crate) fn a_file_that_is_cut_anywhere() -> Ran {
    let (scene, _client) = stopped_pair("2048");
    let file = scene.file("saved");
    say_of(&["save", &scene.pid(), &file]);
    let whole = std::fs::read(&file).expect("read");
    let part = scene.file("part");
    let (mut refusals, mut shown) = (0, 0);
    for cut in (8..whole.len()).step_by(1000) {
        std::fs::write(&part, &whole[..cut]).expect("written");
        let output = output(&["show", &part, "--json"]);
        let told = text(&output.stderr);
        match output.status.code() {
            Some(3) => {
                assert!(told.contains(&format!("it is cut: {cut} of ")), "{cut}: {told}");
                refusals += 1;
            }
            Some(1) => {
                let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
                let texts = report["findings"].to_string();
                let words = format!("the file is cut: {cut} of {} bytes", whole.len());
                assert!(texts.contains(&words), "{cut}: {texts}");
                assert!(!texts.contains("\"damaged\""), "what is missing is not damaged: {texts}");
                shown += 1;
            }
            _ => panic!("{cut}: {}: {told}", output.status),
        }
    }
    assert!(refusals > 0 && shown > 0);
    done!("{refusals} refused, {shown} shown")
}

pub(crate) fn a_server_that_was_restarted_between_two_files() -> Ran {
    let scene = Scene::new();
    let mut client = scene.client();
    let [before, after] = ["before", "after"].map(|name| scene.file(name));
    client.tell("call echo 1");
    client.expect("done");
    say_of(&["save", &scene.pid(), &before]);
    client.kill();
    let scene = scene.restarted();
    let mut client = scene.client();
    for _ in 0..3 {
        client.tell("call echo 1");
        client.expect("done");
    }
    wait_until("the server has counted them", || {
        report(&scene.pid()).0["servers"][0]["counters"]["requests"] == 3
    });
    say_of(&["save", &scene.pid(), &after]);
    let generation = |file: &str| report(file).0["servers"][0]["generation"].clone();
    let (text, _) = say_of(&["diff", &before, &after, "--json"]);
    let diff: Value = serde_json::from_str(&text).expect("JSON");
    Schema::read().assert("diff", &diff);
    let servers = diff["servers"].as_array().expect("an array");
    assert_eq!(servers.len(), 1, "{diff:#}");
    assert_eq!(servers[0]["presence"], "restarted");
    assert_eq!(servers[0]["generation"], generation(&after));
    assert_eq!(servers[0]["previous_generation"], generation(&before));
    assert_eq!(servers[0]["numbers"]["requests"], json!([0, 3]), "it began at 0");
    let mut presences: Vec<_> = diff["sessions"]
        .as_array()
        .expect("an array")
        .iter()
        .map(|one| {
            assert_eq!(one["session"], "1", "both have the same number");
            (one["generation"].clone(), one["presence"].clone())
        })
        .collect();
    presences.sort_by_key(|(_, presence)| presence.to_string());
    assert_eq!(
        presences,
        [(generation(&after), json!("began")), (generation(&before), json!("ended"))]
    );
    assert_eq!(diff["clock"], "monotonic");
    let (text, _) = say_of(&["diff", &before, &after, "--color", "never"]);
    let now = generation(&after);
    let now = now.as_str().expect("a string");
    assert!(text.contains(&format!("server {now}, formerly ")), "{text}");
    assert!(text.contains(" restarted\n"), "{text}");
    assert!(text.contains(&format!("session 1 of server {now} began")), "{text}");

    // As if the machine had been restarted in between, an hour ago.
    let mut saved = Saved::read(&before);
    saved.header["host"]["boot"] = "another".into();
    let hour = 3_600_000;
    let taken = report(&after).0["unix_ms"].as_u64().expect("a time") - hour;
    saved.header["takes"][1]["unix_ms"] = taken.into();
    saved.write(&before);
    let (text, _) = say_of(&["diff", &before, &after, "--json"]);
    let diff: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(diff["clock"], "calendar");
    assert_eq!(diff["between_ns"], hour * 1_000_000);
    assert!(observe::state(client.id()).is_some());
    done!("the same socket, another generation, the same number of a session")
}

pub(crate) fn findings_are_compared_by_what_they_are_about() -> Ran {
    let (scene, mut client) = stopped_pair("2048");
    let [before, after] = ["before", "after"].map(|name| scene.file(name));
    say_of(&["save", &scene.pid(), &before]);
    client.kill();
    finds(&scene.pid(), "client-dead", "problem");
    say_of(&["save", &scene.pid(), &after]);
    let (text, _) = say_of(&["diff", &before, &after, "--json"]);
    let diff: Value = serde_json::from_str(&text).expect("JSON");
    let codes = |list: &str| -> Vec<String> {
        let all = diff[list].as_array().expect("an array").iter();
        all.map(|one| one["code"].as_str().expect("a word").to_owned()).collect()
    };
    assert!(codes("new_findings").contains(&"client-dead".into()), "{diff:#}");
    assert!(codes("gone_findings").contains(&"client-stopped".into()), "{diff:#}");
    // The server is stopped in both, with other times in the text.
    assert!(!codes("new_findings").contains(&"server-stopped".into()), "{diff:#}");
    done!("a client that died, a server that stays stopped")
}
