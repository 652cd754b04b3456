//! Server and client under valgrind: they run, and memcheck finds nothing.

use ringbell_shm_tests::done;
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Process, Start};
use ringbell_shm_tests::progress::tick;
use std::path::Path;
use std::process::Command;

/// An error that memcheck finds is the exit code; leaks of what lives as long as the process are
/// not looked for.
const VALGRIND: &[&str] = &["-q", "--error-exitcode=99", "--leak-check=no"];

fn start(role: &str, path: &Path, more: &[(&str, &str)]) -> Process {
    let mut start = Start::role_under("valgrind", VALGRIND, role).with("path", path.display());
    for (key, value) in more {
        start = start.with(key, value);
    }
    start.start()
}

pub(super) fn h6_a_server_and_a_client_run_under_valgrind() -> Ran {
    if let Err(error) = Command::new("valgrind").arg("--version").output() {
        return Ran::Skipped(format!("valgrind cannot be started: {error}"));
    }
    // Rings, on a thread and in a loop; the socket, which a server without memfds offers; and byte
    // streams.
    let bytes = ("bytes", "1");
    let kinds: [&[(&str, &str)]; 4] =
        [&[], &[("driver", "loop")], &[("refuse", "memfd_create"), ("errno", "1")], &[bytes]];
    let mut carried = Vec::new();
    for kind in kinds {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("s");
        let mut host = start("host", &path, kind);
        host.expect("ready");
        tick();
        let is_bytes = kind.contains(&bytes);
        let of_guest: &[_] = if is_bytes { &[bytes] } else { &[] };
        let mut guest = start("guest", &path, of_guest);
        carried.push(guest.expect("transport"));
        tick();
        guest.expect("done");
        guest.hang_up();
        guest.succeed();
        host.hang_up();
        host.expect(if is_bytes { "over" } else { "paused" });
        host.succeed();
        tick();
    }
    assert_eq!(carried[..2], ["shared memory", "shared memory"]);
    assert!(carried[2].starts_with("socket") && carried[3] == "shared memory", "{carried:?}");
    done!("{}", carried.join(", "))
}
