//! Records as they pass.

use crate::scene::{Scene, report, ring_dump};
use ringbell::layout;
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::{done, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, ChildStdout, Stdio};

pub(crate) fn tap_sees_what_passes() -> Ran {
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
    let mut records: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(records.pop().expect("the end")["end"]["records"], 40);
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

/// A tap that prints JSON, at work.
struct Tap {
    child: Child,
    lines: BufReader<ChildStdout>,
    errors: BufReader<ChildStderr>,
}

impl Tap {
    /// Starts it, and waits until it follows what there is.
    fn start(target: &str, options: &[&str]) -> Self {
        let mut child = ring_dump(&[&["tap", target, "--json"], options].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        let mut errors = BufReader::new(child.stderr.take().expect("piped"));
        let mut said = String::new();
        errors.read_line(&mut said).expect("read");
        assert!(said.contains("following"), "{said}");
        Self { child, lines, errors }
    }

    /// The next line that it prints: a record, a gap or the end.
    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("read");
        tick();
        let value: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(value["version"], 2);
        value
    }

    /// All that it prints from now on, and the end.
    fn rest(mut self) -> (Vec<Value>, Value) {
        let mut all = Vec::new();
        loop {
            let line = self.line();
            if !line["end"].is_null() {
                let mut said = String::new();
                self.errors.read_to_string(&mut said).expect("read");
                let missed = line["end"]["missed_bytes"].as_u64().expect("a number");
                assert!(said.contains(&format!("missed {missed} bytes")), "{said}");
                assert!(self.child.wait().expect("waited for").success());
                return (all, line);
            }
            all.push(line);
        }
    }

    fn interrupt(&self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::INT).expect("it is there");
    }
}

fn sum(of: &[Value], field: &str) -> u64 {
    of.iter().filter_map(|line| line[field].as_u64()).sum()
}

/// Waits until the server sleeps behind all of `calls` calls: a producer says how far it has come
/// behind the record itself, which its peer may have read by then.
fn settled(scene: &Scene, calls: u64) {
    let requests =
        || report(&scene.pid()).0["servers"][0]["counters"]["requests"].as_u64().expect("a number");
    wait_until("the server has counted all of it", || requests() >= calls);
}

/// That a tap which was there all the time accounts for every byte of `calls` calls, each a line
/// each way.
fn accounts_for(calls: u64, lines: &[Value], last: &Value) {
    let end = &last["end"];
    let part = |name: &str| end[name].as_u64().expect("a number");
    assert_eq!(part("bytes"), 2 * calls * layout::LINE, "{end}");
    let parts = ["shown_bytes", "left_out_bytes", "padding_bytes", "missed_bytes"].map(part);
    assert_eq!(parts.iter().sum::<u64>(), part("bytes"), "{end}");
    assert_eq!(part("missed_records_at_most") * layout::LINE, part("missed_bytes"));
    assert_eq!(sum(lines, "missed_bytes"), part("missed_bytes"), "gaps are told where they are");
    assert_eq!(sum(lines, "size"), part("shown_bytes"));
    // Each ring in order, without a hole.
    for ring in ["request", "response"] {
        let mut next = 0u64;
        for line in lines.iter().filter(|line| line["ring"] == ring) {
            assert_eq!(line["position"], next.to_string(), "{line}");
            next += line["size"].as_u64().or(line["missed_bytes"].as_u64()).expect("a length");
        }
        assert_eq!(next, calls * layout::LINE);
    }
    for record in lines.iter().filter(|line| line["missed_bytes"].is_null()) {
        // What it shows is what was there, although the ring is overwritten all the time.
        let payload = record["payload"].as_str().expect("hex");
        assert!(record["flaw"].is_null() && payload.starts_with("6563686f20"), "{record}");
    }
}

pub(crate) fn tap_misses_nothing_of_slow_traffic() -> Ran {
    let scene = Scene::new();
    let mut tap = Tap::start(&scene.pid(), &[]);
    // A session that begins later is followed from its first record.
    let mut client = scene.client();
    let (batches, each) = (10, 60);
    let mut lines = Vec::new();
    for _ in 0..batches {
        client.tell(&format!("batch {each}"));
        client.expect("done");
        // No faster than it is read: then it does not matter how crowded the machine is.
        lines.extend((0..2 * each).map(|_| tap.line()));
    }
    tap.interrupt();
    let (more, last) = tap.rest();
    assert_eq!((more.len(), &last["end"]["missed_bytes"]), (0, &0.into()));
    assert_eq!(last["end"]["records"], 2 * batches * each);
    accounts_for(batches * each, &lines, &last);
    done!("{} calls in {batches} batches, each record shown", batches * each)
}

pub(crate) fn tap_says_what_it_missed() -> Ran {
    let scene = Scene::new();
    let mut client = scene.client();
    let mut tap = Tap::start(&scene.pid(), &[]);
    client.tell("load 0");
    let mut lines = Vec::new();
    while lines.len() < 1000 || sum(&lines, "missed_bytes") == 0 {
        lines.push(tap.line());
    }
    client.tell("stop");
    let calls = client.expect("done").parse().expect("a number");
    settled(&scene, calls);
    tap.interrupt();
    let (more, last) = tap.rest();
    lines.extend(more);
    accounts_for(calls, &lines, &last);
    // Looking, printing and looking for sessions, but for the last look.
    let time = |name: &str| last[name].as_f64().expect("a number");
    let (cpu, wall) = (time("cpu_ns"), time("wall_ns"));
    assert!(cpu <= 0.01 * wall + 20e6, "{cpu} ns of {wall}");
    done!(
        "{} of {} records of a client at full load, and where the others were, with {:.2} % of a CPU",
        last["end"]["records"],
        2 * calls,
        100.0 * cpu / wall
    )
}

pub(crate) fn tap_waits_for_nobody() -> Ran {
    let scene = Scene::new();
    let mut client = scene.client();
    let tap = Tap::start(&scene.pid(), &["--budget", "50"]);
    // One page, which what it prints at one look fills, or leaves no room in for the next: pages
    // are not shared by writes that do not fit.
    rustix::pipe::fcntl_setpipe_size(tap.lines.get_ref(), 4096).expect("a pipe");
    client.tell("load 0");
    // Nobody reads what it prints.
    wait_until("it prints", || {
        rustix::io::ioctl_fionread(tap.lines.get_ref()).expect("a pipe") > 0
    });
    let requests =
        || report(&scene.pid()).0["servers"][0]["counters"]["requests"].as_u64().expect("a number");
    let before = requests();
    wait_until("the target goes on", || requests() > before + 10_000);
    client.tell("stop");
    let calls = client.expect("done").parse().expect("a number");
    settled(&scene, calls);
    tap.interrupt();
    let (lines, last) = tap.rest();
    accounts_for(calls, &lines, &last);
    assert!(
        last["end"]["missed_bytes"].as_u64() > Some(10_000 * layout::LINE),
        "nothing was queued: {last}"
    );
    done!("{calls} calls beside a tap that cannot print")
}

pub(crate) fn tap_shows_what_was_asked_for() -> Ran {
    let scene = Scene::new();
    let mut clients = [scene.client(), scene.client()];
    let mut batch = || {
        for client in &mut clients {
            client.tell("batch 20");
            client.expect("done");
        }
    };
    let tap = Tap::start(
        &scene.socket(),
        &["--kind", "response,error", "--session", "2", "--count", "15"],
    );
    batch();
    let (lines, last) = tap.rest();
    assert_eq!((lines.len(), &last["end"]["records"]), (15, &15.into()), "no more than that");
    for line in &lines {
        assert_eq!((&line["kind"], &line["session"]), (&"response".into(), &"2".into()));
    }
    assert!(last["end"]["left_out"].as_u64() > Some(0), "{last}");
    let tap = Tap::start(&scene.pid(), &["--ring", "request", "--max-bytes", "2", "--all"]);
    batch();
    tap.interrupt();
    let (lines, last) = tap.rest();
    assert_eq!((lines.len(), &last["end"]["missed_bytes"]), (40, &0.into()));
    for line in &lines {
        assert_eq!((&line["ring"], &line["payload"]), (&"request".into(), &"6563".into()));
    }
    done!("by kind, session, ring and count; greedily")
}

pub(crate) fn tap_follows_large_records_and_small_rings() -> Ran {
    let scene = Scene::with(&[("ring", "65536")]);
    let mut client = scene.client();
    let mut tap = Tap::start(&scene.pid(), &["--ring", "request"]);
    let sizes = [100, 9_000, 20_000, 30_000];
    let mut shown = 0;
    for _ in 0..3 {
        for size in sizes {
            client.tell(&format!("large {size}"));
            client.expect("done");
            // All of it is there: what is long is not copied to be shown in part.
            let mut seen = 0;
            while seen < size {
                let line = tap.line();
                assert!(line["missed_bytes"].is_null() && line["flaw"].is_null(), "{line}");
                if line["kind"] == "request" {
                    assert_eq!(line["payload"], "6c".repeat(64), "{line}");
                    seen += line["payload_bytes"].as_u64().expect("a number");
                    shown += 1;
                }
            }
            assert_eq!(seen, size);
        }
    }
    tap.interrupt();
    let (_, last) = tap.rest();
    assert_eq!(last["end"]["missed_bytes"], 0);
    done!("{shown} records of up to 30000 bytes, across the end of a ring of 64 KiB")
}
