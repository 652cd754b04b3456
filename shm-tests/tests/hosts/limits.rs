//! Low limits of the process.

use crate::refused::start_guest;
use ringbell_shm_tests::done;
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Process, Start};
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::wait_until;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// Any user that is not root, whom limits of locked memory do not concern.
const USER: &str = "54321";

struct Place {
    path: PathBuf,
    _directory: tempfile::TempDir,
}

/// A place where every user may bind.
fn place() -> Place {
    let directory = tempfile::tempdir().expect("a directory");
    let mode = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(directory.path(), mode).expect("changed");
    Place { path: directory.path().join("s"), _directory: directory }
}

fn host(place: &Place, more: &[(&str, &str)]) -> (Process, String) {
    let mut start = Start::role("host").with("path", place.path.display());
    for (key, value) in more {
        start = start.with(key, value);
    }
    let mut process = start.start();
    let said = process.hear();
    (process, said)
}

pub(super) fn h5_locked_memory_with_a_low_limit_is_an_error_or_the_socket() -> Ran {
    if !rustix::process::geteuid().is_root() {
        return Ran::Skipped("becoming another user takes root".into());
    }
    let limits = [("uid", USER), ("lock_kib", "300"), ("when", "bound")];
    // No stack of a thread can be locked.
    let place = place();
    let (mut process, said) = host(&place, &limits);
    assert_eq!(said, "ready");
    let said = process.hear();
    assert!(said.contains("thread") && said.contains("RLIMIT_MEMLOCK"), "{said}");
    process.succeed();
    tick();
    // Without a thread it serves: over rings while they fit, and then over the socket.
    let more = [&limits[..], &[("driver", "loop")]].concat();
    let (mut process, said) = host(&self::place_again(&place), &more);
    assert_eq!(said, "ready");
    let mut carried = Vec::new();
    let mut guests = Vec::new();
    for _ in 0..4 {
        let (mut guest, said) = start_guest(&place.path, &[("uid", USER), ("most", "600")]);
        assert!(said.starts_with("transport"), "{said}");
        guest.expect("done");
        carried.push(said);
        guests.push(guest);
        tick();
    }
    let last = carried.last().expect("four");
    assert!(last.contains("socket (") && last.contains("no memory"), "{carried:?}");
    for mut guest in guests {
        guest.hang_up();
        guest.succeed();
    }
    process.hang_up();
    process.expect("paused");
    process.succeed();
    done!("a thread is refused; sessions: {}", carried.join(", "))
}

/// The same place; nothing must be left there.
fn place_again(place: &Place) -> Place {
    assert!(!place.path.exists(), "the socket of a server that failed");
    Place { path: place.path.clone(), _directory: tempfile::tempdir().expect("a directory") }
}

pub(super) fn h2_a_lack_of_descriptors_is_waited_out() -> Ran {
    let place = place();
    let (mut process, said) = host(&place, &[]);
    assert_eq!(said, "ready");
    // It serves, and may open no descriptor any more.
    let (mut first, _) = start_guest(&place.path, &[]);
    first.expect("done");
    process.tell("3");
    process.expect("counted");
    let waits = UnixStream::connect(&place.path).expect("in the backlog");
    let mut pauses = 0;
    wait_until("accepting has paused", || {
        process.tell("3");
        pauses = process.expect("counted").parse::<u64>().expect("a number");
        pauses > 0
    });
    // There are descriptors again: the server goes on by itself.
    process.tell("1024");
    process.expect("counted");
    drop(waits);
    let (mut guest, said) = start_guest(&place.path, &[]);
    assert!(said.starts_with("transport"), "{said}");
    guest.expect("done");
    for mut guest in [first, guest] {
        guest.hang_up();
        guest.succeed();
    }
    process.hang_up();
    process.expect("paused");
    process.succeed();
    done!("{pauses} pauses")
}
