//! Server and client in different namespaces.

use ringbell_shm_tests::done;
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Process, Start};
use ringbell_shm_tests::progress::tick;
use std::path::Path;
use std::process::Command;

/// Arguments of `unshare`: what each of them has for itself.
const KINDS: &[&[&str]] = &[
    &["--pid", "--fork", "--kill-child", "--mount-proc"],
    &["--user", "--map-root-user"],
    &["--mount", "--ipc", "--uts"],
    &["--time", "--monotonic", "5000"],
    &[
        "--user",
        "--map-root-user",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--ipc",
        "--time",
        "--monotonic",
        "5000",
    ],
];

fn start(role: &str, kind: Option<&[&str]>, path: &Path) -> Process {
    let start = match kind {
        Some(kind) => Start::role_under("unshare", kind, role),
        None => Start::role(role),
    };
    start.with("path", path.display()).start()
}

/// Why there cannot be namespaces of these kinds; `None` if there can.
fn missing(kind: &[&str]) -> Option<String> {
    match Command::new("unshare").args(kind).arg("true").output() {
        Ok(tried) if tried.status.success() => None,
        Ok(tried) => Some(String::from_utf8_lossy(&tried.stderr).trim().to_owned()),
        Err(error) => Some(format!("unshare (util-linux) cannot be started: {error}")),
    }
}

pub(super) fn h5_peers_in_different_namespaces_exchange_requests() -> Ran {
    let mut skipped = Vec::new();
    let mut kinds = vec![None];
    for kind in KINDS {
        match missing(kind) {
            None => kinds.push(Some(*kind)),
            Some(missing) => skipped.push(format!("{}: {missing}", kind.join(" "))),
        }
    }
    if kinds.len() == 1 {
        return Ran::Skipped(skipped.join("; "));
    }
    let mut pairs = 0;
    for server in &kinds {
        for client in &kinds {
            let what = format!("server {server:?}, client {client:?}");
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join("s");
            let mut host = start("host", *server, &path);
            host.expect("ready");
            let mut guest = start("guest", *client, &path);
            assert_eq!(guest.hear(), "transport shared memory", "{what}");
            guest.expect("done");
            guest.hang_up();
            guest.succeed();
            host.hang_up();
            host.expect("paused");
            host.succeed();
            pairs += 1;
            tick();
        }
    }
    let skipped = skipped.iter().map(|skipped| format!("; not {skipped}")).collect::<String>();
    done!("{pairs} pairs{skipped}")
}
