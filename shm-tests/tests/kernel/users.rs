//! Servers for clients of any uid, and clients of other uids.

use ringbell::{Arming, ByteStream, Client};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, PATIENCE, Start, readable, say};
use ringbell_shm_tests::reactor_requests::ask;
use ringbell_shm_tests::server::{Prepared, Server};
use ringbell_shm_tests::signals::become_user;
use rustix::fd::{AsFd, AsRawFd};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::TempDir;

/// A client that means no harm.
pub(crate) const HONEST: u32 = 12_345;
/// A client that does.
pub(crate) const HOSTILE: u32 = 54_321;

/// Why a test with several users cannot run here, if it cannot.
pub(crate) fn only_one_user() -> Option<Ran> {
    let root = rustix::process::geteuid().is_root();
    (!root).then(|| Ran::Skipped("missing: root, who alone can become another user".into()))
}

/// A directory that everybody may enter.
pub(crate) fn open_directory() -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("chmod");
    dir
}

/// Lets clients of any uid in.
pub(crate) fn open_to_all(server: Prepared) -> Prepared {
    server.with("mode", 0o666).with("anyone", 1)
}

/// A server that reacts, for clients of any uid, and the directory of its socket.
pub(crate) fn open_server(driver: &str) -> (Server, TempDir) {
    let dir = open_directory();
    let server = Server::prepare_at(&dir.path().join("test.sock"), "react").with("driver", driver);
    (open_to_all(server).start(), dir)
}

/// The uid of a role, which it becomes.
pub(crate) fn become_the_user(arguments: &Arguments) {
    become_user(u32::try_from(arguments.number("uid")).expect("a uid"));
}

/// What a descriptor stands for: the name of a memfd, without what the kernel puts around it.
pub(crate) fn name(fd: impl AsFd) -> String {
    let link = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    let target = std::fs::read_link(link).expect("an open descriptor");
    let target = target.to_string_lossy();
    let name = target.strip_prefix("/memfd:ringbell:").unwrap_or(&target);
    name.strip_suffix(" (deleted)").unwrap_or(name).to_owned()
}

/// Has a client of `uid` come, do `what` and go.
///
/// # Panics
/// If it does not get through.
pub(crate) fn visit(path: &Path, uid: u32, what: &str) {
    let mut visitor = Start::role("visitor")
        .with("path", path.display())
        .with("uid", uid)
        .with("do", what)
        .start();
    visitor.expect("served");
    visitor.succeed();
}

/// The role of such a client. It does `calls`, `loop` or `bytes`.
pub(crate) fn visitor(arguments: &Arguments) {
    become_the_user(arguments);
    let path = arguments.text("path");
    match arguments.text("do") {
        "calls" => calls(&mut connect(path)),
        "loop" => calls_in_a_loop(&mut connect(path)),
        "bytes" => echo(&ByteStream::connect(path).expect("connect")),
        other => panic!("no such thing to do: {other}"),
    }
    say("served");
}

fn connect(path: &str) -> Client {
    Client::connect(path).unwrap_or_else(|error| panic!("cannot connect: {error} ({error:?})"))
}

/// Requests, and how long the answer of each is at least: one that fits the ring, one
/// that travels in fragments, and one with a large answer.
fn requests() -> [(Vec<u8>, usize); 3] {
    let large = vec![7; 300_000];
    let echo = |number, rest: &[u8]| (ask(b'e', number, 0, rest), 16 + rest.len());
    [echo(1, b"small"), echo(2, &large), (ask(b'z', 3, 300_000, &[]), 300_000)]
}

fn calls(client: &mut Client) {
    for (request, _) in requests().iter().cycle().take(30) {
        assert!(!client.call(request).expect("an answer").is_empty());
    }
}

fn calls_in_a_loop(client: &mut Client) {
    for (request, least) in requests().iter().cycle().take(30) {
        client.send(request).expect("room");
        loop {
            if let Some(answer) = client.try_recv().expect("a session") {
                let answer = answer.outcome.expect("no error");
                assert!(answer.payload().len() >= *least);
                break;
            }
            if client.arm() == Arming::Armed {
                assert!(readable(client.as_fd(), PATIENCE), "an armed client is told");
                client.disarm();
            }
        }
    }
}

fn echo(stream: &ByteStream) {
    let sent = vec![7; 100_000];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = stream;
            stream.write_all(&sent).expect("room");
            stream.shutdown_write().expect("an end");
        });
        let mut back = Vec::new();
        { stream }.read_to_end(&mut back).expect("to the end");
        assert!(back == sent, "{} bytes of {}", back.len(), sent.len());
    });
}
