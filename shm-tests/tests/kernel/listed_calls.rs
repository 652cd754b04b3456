//! After a descriptor has left the server, the server makes only a few calls on it, none of which
//! takes the lock of its inode: DESIGN.md has the list. Here a server is traced for the life of
//! sessions of all kinds.

use crate::strace::{Call, parse};
use crate::users::{HONEST, only_one_user, open_directory, open_to_all, visit};
use ringbell::{Credentials, Server};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, Start, hear, say};
use ringbell_shm_tests::{done, server};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::ops::Range;
use std::path::Path;

/// What strace is told: all threads, with what each descriptor stands for.
const STRACE: [&str; 8] = ["-f", "-y", "-s", "16", "-e", "signal=none", "-q", "-o"];

/// Why nothing can be traced here, if so.
fn nothing_to_trace_with() -> Option<Ran> {
    let run = |arguments: &[&str]| std::process::Command::new("strace").args(arguments).output();
    match run(&["-o", "/dev/null", "true"]) {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(Ran::Skipped(format!(
            "missing: the right to trace ({})",
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
        Err(error) => Some(Ran::Skipped(format!("missing: strace ({error})"))),
    }
}

/// A memfd of the server.
#[derive(Debug, Clone)]
struct Memfd {
    kind: String,
    /// It was sent to a client.
    left: bool,
}

/// A mapping of a memfd.
#[derive(Debug)]
struct Mapping {
    range: Range<u64>,
    /// The descriptor from which it was made, until that is closed.
    fd: Option<i32>,
    kind: String,
    /// It had left when it was closed.
    left: bool,
}

/// What the server has, and what it did.
#[derive(Debug, Default)]
struct Trace {
    /// By descriptor.
    memfds: BTreeMap<i32, Memfd>,
    mappings: Vec<Mapping>,
    /// How many of each kind left.
    left: BTreeMap<String, usize>,
    /// What was done with those that had left, and how often.
    done: BTreeMap<String, usize>,
    /// What is not on the list.
    faults: Vec<String>,
}

impl Trace {
    fn follow(&mut self, call: &Call) {
        for (fd, kind) in call.memfds() {
            let memfd = self.memfds.entry(fd).or_insert(Memfd { kind, left: false });
            let kind = memfd.kind.clone();
            if memfd.left {
                let what = is_listed(call, &kind);
                self.note(call, &kind, what);
            } else if call.name == "sendmsg" && call.succeeded() {
                memfd.left = true;
                *self.left.entry(kind).or_default() += 1;
            }
        }
        if let Some(kind) = self.mapping_of(call).map(|mapping| mapping.kind.clone()) {
            let what = match &*call.name {
                "futex" | "futex_waitv" | "munmap" => Some(call.name.clone()),
                "mincore" if ["request", "response"].contains(&&*kind) => Some(call.name.clone()),
                "mprotect" if kind == "request" && call.text.contains("PROT_READ)") => {
                    Some("mprotect read-only".to_owned())
                }
                "mprotect" if kind == "response" => Some(call.name.clone()),
                _ => None,
            };
            self.note(call, &kind, what);
        }
        self.changes(call);
    }

    fn note(&mut self, call: &Call, kind: &str, what: Option<String>) {
        match what {
            Some(what) => *self.done.entry(format!("{kind} {what}")).or_default() += 1,
            None => self.faults.push(format!("{kind}: {}", call.text)),
        }
    }

    /// Descriptors and mappings that come and go.
    fn changes(&mut self, call: &Call) {
        match &*call.name {
            "memfd_create" => {
                call.made().map(|fd| self.memfds.remove(&fd));
            }
            "close" => {
                for (fd, _) in call.memfds() {
                    let left = self.memfds.remove(&fd).is_some_and(|memfd| memfd.left);
                    for mapping in &mut self.mappings {
                        if mapping.fd == Some(fd) {
                            mapping.fd = None;
                            mapping.left = left;
                        }
                    }
                }
            }
            "munmap" => {
                let from = call.addresses().first().copied();
                self.mappings.retain(|mapping| Some(mapping.range.start) != from);
            }
            "mmap" => {
                if let (Some((fd, kind)), Some(range)) = (call.memfds().pop(), call.mapped()) {
                    self.mappings.push(Mapping { range, fd: Some(fd), kind, left: false });
                }
            }
            _ => {}
        }
    }

    /// The mapping of a memfd that has left in which an address of this call lies.
    fn mapping_of(&self, call: &Call) -> Option<&Mapping> {
        let left = |fd: i32| self.memfds.get(&fd).is_some_and(|memfd| memfd.left);
        let addresses = call.addresses();
        self.mappings
            .iter()
            .filter(|mapping| mapping.fd.map_or(mapping.left, left))
            .find(|mapping| addresses.iter().any(|address| mapping.range.contains(address)))
    }
}

/// What this call does with a descriptor that has left, if it is on the list.
fn is_listed(call: &Call, kind: &str) -> Option<String> {
    let has = |text: &str| call.text.contains(text);
    let request = kind == "request";
    match &*call.name {
        "close" => Some("close".to_owned()),
        // To further clients, and to inspectors.
        "sendmsg" if !request => Some("sendmsg".to_owned()),
        "fcntl" if request && has("F_GET_SEALS") => Some("F_GET_SEALS".to_owned()),
        "mmap" if request && has("PROT_NONE, MAP_SHARED,") => Some("mmap hidden".to_owned()),
        _ => None,
    }
}

/// Follows a trace to its end.
///
/// # Panics
/// If a call is not on the list, or something else was seen to leave than the segments of so many
/// sessions, and bell pages if they get such.
fn check(file: &Path, sessions: usize, bells: bool) -> String {
    let text = std::fs::read_to_string(file).expect("a trace");
    let mut trace = Trace::default();
    for call in parse(&text) {
        trace.follow(&call);
    }
    let faults = &trace.faults;
    assert!(
        faults.is_empty(),
        "{} calls that are not listed:\n  {}",
        faults.len(),
        faults[..faults.len().min(20)].join("\n  ")
    );
    let left = |kind| trace.left.get(kind).copied().unwrap_or(0);
    let seen = ["request", "response", "status"].map(left);
    assert_eq!(seen, [sessions, sessions, 1], "segments that left: {:?}", trace.left);
    assert_eq!(left("bell") > 0, bells, "bell pages that left: {:?}", trace.left);
    let done = |what: &str| trace.done.get(what).copied().unwrap_or(0);
    let of_requests =
        ["F_GET_SEALS", "mmap hidden", "mincore", "mprotect read-only", "munmap", "close"];
    for what in of_requests {
        let count = done(&format!("request {what}"));
        assert_eq!(count, sessions, "{what} of request segments: {:?}", trace.done);
    }
    for what in ["mincore", "mprotect"] {
        assert_eq!(done(&format!("response {what}")), sessions, "{what}: {:?}", trace.done);
    }
    format!("left: {:?}; then: {:?}", trace.left, trace.done)
}

pub(crate) fn a_session_makes_only_the_listed_calls_on_its_descriptors() -> Ran {
    if let Some(skipped) = only_one_user().or_else(nothing_to_trace_with) {
        return skipped;
    }
    let own = rustix::process::geteuid().as_raw();
    let mut told = String::new();
    // A server in somebody's loop gives each session a bell word of its own.
    for (driver, bells) in [("thread", true), ("loop", false)] {
        let dir = open_directory();
        let (socket, file) = (dir.path().join("test.sock"), dir.path().join("trace"));
        let strace: Vec<&str> =
            STRACE.into_iter().chain([file.to_str().expect("a plain name")]).collect();
        let traced = server::Server::prepare_under_at(&socket, "strace", &strace, "react");
        let mut server = open_to_all(traced).with("driver", driver).start();
        for uid in [HONEST, own] {
            for what in ["calls", "loop"] {
                visit(&socket, uid, what);
            }
        }
        server.wait_for_sessions(0);
        server.shut_down();
        told += &format!("{driver}: {}; ", check(&file, 4, bells));
    }
    done!("{told}")
}

pub(crate) fn a_byte_stream_makes_only_the_listed_calls_on_its_descriptors() -> Ran {
    if let Some(skipped) = only_one_user().or_else(nothing_to_trace_with) {
        return skipped;
    }
    let dir = open_directory();
    let (socket, file) = (dir.path().join("test.sock"), dir.path().join("trace"));
    let strace: Vec<&str> =
        STRACE.into_iter().chain([file.to_str().expect("a plain name")]).collect();
    let mut server =
        Start::role_under("strace", &strace, "byte_server").with("path", socket.display()).start();
    server.expect("ready");
    for uid in [HONEST, rustix::process::geteuid().as_raw()] {
        visit(&socket, uid, "bytes");
        server.expect("over");
    }
    server.hang_up();
    server.succeed();
    done!("{}", check(&file, 2, false))
}

/// The role: echoes each byte stream, and says when one is over.
pub(crate) fn byte_server(arguments: &Arguments) {
    let builder = Server::builder().socket_mode(0o666).credentials(Credentials::Anyone);
    let listener = builder.bind_bytes(arguments.text("path")).expect("bind");
    say("ready");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while let Ok(mut stream) = listener.accept() {
                let mut all = Vec::new();
                stream.read_to_end(&mut all).expect("to the end");
                stream.write_all(&all).expect("room");
                stream.shutdown_write().expect("an end");
                drop(stream);
                say("over");
            }
        });
        while hear().is_some() {}
        listener.close();
    });
}
