//! Saved files and core dumps read as live targets, whatever is in them.

use crate::scene::{Scene, codes, finds, output, report, ring_dump, say_of, stopped_pair, text};
use ringbell::layout::{self, HeaderWord, Interest, Kind, Mode, SegmentKind, offset};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::{done, wait_until};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// A saved file, taken apart: header and blobs.
pub(crate) struct Saved {
    pub(crate) version: u32,
    pub(crate) header: Value,
    pub(crate) blobs: Vec<Vec<u8>>,
}

impl Saved {
    pub(crate) fn read(path: &str) -> Self {
        let bytes = std::fs::read(path).expect("read");
        assert_eq!(&bytes[..8], b"RINGSAVE");
        let length = u32::from_le_bytes(bytes[12..16].try_into().expect("4 bytes")) as usize;
        let header: Value = serde_json::from_slice(&bytes[16..16 + length]).expect("JSON");
        let mut rest = &bytes[16 + length..];
        let mut blobs = Vec::new();
        for take in header["takes"].as_array().expect("takes") {
            for image in take["images"].as_array().expect("images") {
                for blob in ["control", "body", "after"] {
                    let (blob, left) =
                        rest.split_at(image[blob].as_u64().expect("a length") as usize);
                    blobs.push(blob.to_vec());
                    rest = left;
                }
            }
        }
        assert!(rest.is_empty());
        let version = u32::from_le_bytes(bytes[8..12].try_into().expect("4 bytes"));
        Self { version, header, blobs }
    }

    pub(crate) fn write(&self, path: &str) {
        let header = serde_json::to_vec(&self.header).expect("JSON");
        let length = u32::try_from(header.len()).expect("short");
        let head = [&b"RINGSAVE"[..], &self.version.to_le_bytes(), &length.to_le_bytes(), &header]
            .concat();
        std::fs::write(path, [head, self.blobs.concat()].concat()).expect("written");
    }

    /// Whether the processes had a thread that ran or waited for a CPU.
    fn set_busy(&mut self, busy: bool) {
        for take in self.header["takes"].as_array_mut().expect("takes") {
            for process in take["processes"].as_array_mut().expect("processes") {
                process["busy"] = busy.into();
            }
        }
    }

    /// Control page, ring and second control page of every image of a kind.
    fn of_kind(&mut self, kind: SegmentKind) -> impl Iterator<Item = &mut [Vec<u8>]> {
        let at = offset::IDENTITY + std::mem::offset_of!(layout::Identity, kind);
        self.blobs.chunks_mut(3).filter(move |image| {
            image[0].get(at..at + 4).is_some_and(|bytes| bytes == (kind as u32).to_le_bytes())
        })
    }
}

pub(crate) fn put(bytes: &mut [u8], at: usize, word: u64) {
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

pub(crate) fn a_lost_wake_made_by_hand() -> Ran {
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
    saved.set_busy(false);
    let rung = scene.file("rung");
    saved.write(&rung);
    let texts = finds(&rung, "lost-wake", "problem");
    assert!(texts.contains("server asleep although the bell was rung: lost wake"), "{texts}");

    // A server with a thread that is ready to run may have been woken just now.
    saved.set_busy(true);
    let woken = scene.file("woken");
    saved.write(&woken);
    let texts = finds(&woken, "lost-wake", "note");
    assert!(texts.contains("so the wake may be under way"), "{texts}");

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
    done!("one not rung, one rung in vain, one that is under way, and one of a client")
}

/// Without what depends on when it was looked.
fn without_times(mut report: Value) -> Value {
    let top = report.as_object_mut().expect("an object");
    for key in ["unix_ms", "date", "at_ns", "between_ns", "target"] {
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

pub(crate) fn a_saved_file_reads_as_the_live_target() -> Ran {
    let (scene, client) = stopped_pair("4096");
    let file = scene.file("saved");
    say_of(&["save", &scene.pid(), &file]);
    let mode = std::fs::metadata(&file).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "what passes through rings is private");
    assert_eq!(without_times(report(&file).0), without_times(report(&scene.pid()).0));
    let frames = |target: &str| say_of(&["frames", target, "--all", "--max-bytes", "999"]).0;
    assert_eq!(frames(&file), frames(&scene.pid()));
    assert!(frames(&file).contains("|echo the last wo|"), "{}", frames(&file));
    let (responses, _) = say_of(&["frames", &file, "--all", "--kind", "response"]);
    assert!(responses.contains("  response ") && !responses.contains("  request "), "{responses}");
    // The client sees the same rings.
    assert_eq!(frames(&file), frames(&client.id().to_string()));
    done!("report and frames of a stopped pair: live by both pids, and saved")
}

pub(crate) fn h1_a_file_beyond_the_limit_on_files_is_an_error() -> Ran {
    let (scene, _client) = stopped_pair("4096");
    let whole = scene.file("whole");
    say_of(&["save", &scene.pid(), &whole]);
    let size = std::fs::metadata(&whole).expect("there").len();
    let mut tried = 0;
    // In blocks of 512 bytes: nothing at all, a part, and all but the end.
    for blocks in [0, size / 1024, (size - 1) / 512] {
        let file = scene.file(&format!("cut-{blocks}"));
        let script = format!("ulimit -f {blocks} && exec \"$0\" \"$@\"");
        let program = env!("CARGO_BIN_EXE_ring-dump");
        let saved = Command::new("sh")
            .args(["-c", &script, program, "save", &scene.pid(), &file])
            .output()
            .expect("started");
        tick();
        let told = text(&saved.stderr);
        // Not by SIGXFSZ.
        assert_eq!(saved.status.code(), Some(3), "{blocks} blocks: {}: {told}", saved.status);
        assert!(told.contains(&file) && told.contains("File too large"), "{told}");
        let left = std::fs::read_dir(scene.directory.path()).expect("there").flatten();
        let names: Vec<_> = left.map(|entry| entry.file_name()).collect();
        let known = |name: &std::ffi::OsString| name == "s" || name == "whole" || name == "s.lock";
        assert!(names.iter().all(known), "something was left behind: {names:?}");
        tried += 1;
    }
    done!("{tried} limits below {size} bytes")
}

/// What ring-dump must print of a file that was saved once. `RINGBELL_BLESS=1` writes it anew.
pub(crate) fn golden_files() -> Ran {
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
        let printed = text(&output.stdout);
        // How long ago that was changes.
        let lines = printed.split_inclusive('\n');
        let printed: String =
            lines.filter(|line| !line.starts_with("saved file; taken ")).collect();
        if bless {
            std::fs::write(&path, &printed).expect("written");
        }
        let expected = std::fs::read_to_string(&path).expect("read");
        assert_eq!(printed, expected, "{golden}");
        let status = i32::from(golden.starts_with("show"));
        assert_eq!(output.status.code(), Some(status), "{golden}");
    }
    done!("{} outputs of one saved file", commands.len())
}

pub(crate) fn a_core_dump_reads_as_the_live_target() -> Ran {
    let (scene, client) = stopped_pair("4096");
    let prefix = scene.file("core");
    let mut compared = 0;
    for pid in [scene.pid(), client.id().to_string()] {
        let made = Command::new("gcore").args(["-o", &prefix, &pid]).output();
        let core = format!("{prefix}.{pid}");
        match made {
            Ok(made) if made.status.success() && Path::new(&core).exists() => {}
            Ok(made) => {
                return Ran::Skipped(format!("gcore makes no dump here: {}", text(&made.stderr)));
            }
            Err(error) => return Ran::Skipped(format!("no gcore here: {error}")),
        }
        tick();
        // A debugger leaves a stopped process running.
        let frames = |target: &str| say_of(&["frames", target, "--all"]).0;
        let listed = frames(&core);
        assert!(
            listed.contains("|echo answered by|") && listed.contains("|echo taken by no|"),
            "{listed}"
        );
        let (report, _) = report(&core);
        assert_eq!(report["sessions"][0]["peer"]["pid"], client.id());
        assert_eq!(report["servers"][0]["peer"]["pid"], scene.server.id());
        compared += 1;
    }
    done!("{compared} dumps: of the server and of the client")
}

pub(crate) fn what_changed_between_two_files() -> Ran {
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
    let session = |number: &str| {
        let mut all = diff["sessions"].as_array().expect("an array").iter();
        all.find(|session| session["session"] == number).expect("a session")
    };
    assert_eq!(session("2")["presence"], "began");
    assert_eq!(session("1")["numbers"]["request.tail"], serde_json::json!(["0", "64"]));
    assert_eq!(session("1")["words"]["process"], serde_json::json!(["alive", "stopped"]));
    assert_eq!(diff["new_findings"][0]["code"], "client-stopped");
    let (text, _) = say_of(&["diff", &after, &before, "--color", "never"]);
    assert!(text.contains("session 2 ended") && text.contains("gone  session 1"), "{text}");
    // Asleep or not, it is said as in `show`.
    assert!(!text.contains("Armed {"), "{text}");
    let (text, _) = say_of(&["diff", &before, &before]);
    assert!(text.contains("nothing changed"), "{text}");
    done!("a call, a new session, a stopped client: forwards and backwards")
}

pub(crate) fn garbage_is_described_and_not_believed() -> Ran {
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
            put(
                &mut image[page],
                offset::IDENTITY + std::mem::offset_of!(layout::Identity, total),
                3,
            );
        }
    }
    saved.write(&bad);
    let texts = finds(&bad, "damaged", "problem");
    assert!(
        texts.contains("impossible positions") && texts.contains("a size of 3 bytes"),
        "{texts}"
    );
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
