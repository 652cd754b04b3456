//! What cannot be started, and why.

use crate::{echoes, lines, settings};
use ringbell::WorkerCommand;
use ringbell::WorkerPool;
use ringbell::pool::{AcquireError, BuildError, OpenFailure, Settings, SettingsError};
use ringbell::worker::{LineWorkers, SocketWorkers, WorkerError, line_workers};
use ringbell_shm_tests::done;
use ringbell_shm_tests::harness::Ran;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

/// Why no worker of it can ever be started. Without waiting, though there is no timeout.
fn refused(command: WorkerCommand) -> Arc<WorkerError> {
    let pool = lines(command, Settings { acquire_timeout: None, ..settings(0, 1) });
    match pool.acquire().map(drop) {
        Err(AcquireError::Open(OpenFailure::Error(error))) => error,
        other => panic!("{other:?}"),
    }
}

fn says(error: &WorkerError, parts: &[&str]) {
    let text = error.to_string();
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
}

pub(crate) fn w8_errors_name_the_path_and_are_permanent() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("set");
        path
    };
    let missing = dir.path().join("missing");
    let error = refused(WorkerCommand::new("cat").current_dir(&missing));
    assert!(
        matches!(&*error, WorkerError::WorkingDirectory { directory, .. } if *directory == missing)
    );
    says(&error, &["working directory", &missing.display().to_string(), "cat", "No such file"]);
    let plain = file("plain", "");
    says(&refused(WorkerCommand::new("cat").current_dir(&plain)), &["plain of cat: Not a dir"]);
    says(&refused(WorkerCommand::new("no-such-program-1")), &["no-such-program-1", "of PATH"]);
    says(&refused(WorkerCommand::new("/etc/passwd")), &["/etc/passwd cannot", "denied"]);
    let orphan = file("orphan", "#!/nonexistent/interpreter\n");
    says(&refused(WorkerCommand::new(&orphan)), &["orphan", "interpreter"]);
    says(&refused(WorkerCommand::new("cat").arg("a\0b")), &["cat cannot", "NUL"]);
    says(&refused(WorkerCommand::new("cat").arg("x".repeat(1 << 20))), &["cat cannot", "too long"]);
    says(&refused(WorkerCommand::new("cat").cpus([1023])), &["cat cannot", "CPUs"]);
    // A script without a first line runs in a shell, as everywhere.
    let script = file("script", "while read x; do echo $x; done\n");
    let pool = lines(WorkerCommand::new(script), settings(0, 1));
    echoes(&mut pool.acquire().expect("a script"), "hello");
    // The search goes on after what is no program; a name is looked up in the worker's own PATH.
    let path = format!("{}:/nonexistent:/usr/bin:/bin", dir.path().display());
    std::fs::create_dir(dir.path().join("cat")).expect("made");
    let pool = lines(WorkerCommand::new("cat").env("PATH", path), settings(0, 1));
    echoes(&mut pool.acquire().expect("a cat"), "hello");
    done!("8 ways not to start, 2 to start")
}

pub(crate) fn w8_nonsense_is_refused_when_a_pool_is_built() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let cat = || WorkerCommand::new("cat");
    let too_long = |name| SettingsError::TooLong { name, time: Duration::MAX };
    for (command, expected) in [
        (cat().start_timeout(Duration::ZERO), SettingsError::ZeroTime("start_timeout")),
        (cat().ping_timeout(Duration::ZERO), SettingsError::ZeroTime("ping_timeout")),
        (cat().start_timeout(Duration::MAX), too_long("start_timeout")),
        (cat().ping_timeout(Duration::MAX), too_long("ping_timeout")),
        (cat().cpus([]), SettingsError::Worker("cpus is empty")),
        (cat().nice(20), SettingsError::Worker("nice is not between -20 and 19")),
        (WorkerCommand::new(""), SettingsError::Worker("the program has no name")),
    ] {
        let built = line_workers(LineWorkers::new(command.clone()), settings(0, 1)).map(drop);
        assert!(matches!(&built, Err(BuildError::Settings(error)) if *error == expected));
        let workers = SocketWorkers::new(command, dir.path(), "x");
        let built = WorkerPool::of(workers, settings(0, 1)).map(drop);
        assert!(matches!(&built, Err(BuildError::Settings(error)) if *error == expected));
    }
    done!("7 settings, 2 kinds of pools")
}
