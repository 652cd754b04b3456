//! Hosts that cannot do all that a kernel offers: under valgrind, or with calls that are refused.

use crate::{SOON, echoes, has_ended, lines, settings, shell, zombies};
use ringbell::WorkerCommand;
use ringbell::pool::{AcquireError, OpenFailure, Settings};
use ringbell::worker::WorkerError;
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, Start, say};
use ringbell_shm_tests::{done, sandbox, wait_until};
use std::io::ErrorKind;

/// Starts a worker and ends it, and cannot start others.
pub(crate) fn emulated_host(_: &Arguments) {
    for _ in 0..2 {
        let refused = |command| {
            let once = Settings { acquire_timeout: None, enabled: false, ..settings(0, 1) };
            match lines(command, once).acquire().map(drop) {
                Err(AcquireError::Open(OpenFailure::Error(error))) => error,
                other => panic!("{other:?}"),
            }
        };
        let missing = refused(WorkerCommand::new("/nonexistent/program"));
        assert!(
            matches!(&*missing, WorkerError::Start { error, .. }
                if error.kind() == ErrorKind::NotFound),
            "{missing:?}"
        );
        let nowhere = refused(WorkerCommand::new("cat").current_dir("/nonexistent"));
        assert!(matches!(&*nowhere, WorkerError::WorkingDirectory { .. }), "{nowhere:?}");
        let cats = lines(WorkerCommand::new("cat"), settings(0, 1));
        let mut cat = cats.acquire().expect("a cat");
        echoes(&mut cat, "hello");
        let id = cat.id();
        drop(cat);
        cats.close(None).expect("nothing is in use");
        wait_until("it has ended", || has_ended(id));
    }
    wait_until("there is no zombie", || zombies().is_empty());
    say("done");
}

/// valgrind makes a fork of a child that is to share the memory.
pub(crate) fn w1_a_missing_program_is_told_under_valgrind() -> Ran {
    if let Err(error) = std::process::Command::new("valgrind").arg("--version").output() {
        return Ran::Skipped(format!("valgrind cannot be started: {error}"));
    }
    let arguments = ["-q", "--error-exitcode=99", "--leak-check=no"];
    let mut host = Start::role_under("valgrind", &arguments, "emulated_host").start();
    host.expect("done");
    host.succeed();
    done!("a program and a directory that are missing, and a worker, twice")
}

/// Ends workers, dead or alive, and what they have started.
pub(crate) fn refused_host(arguments: &Arguments) {
    sandbox::refuse("pidfd_send_signal", arguments.number("errno").try_into().expect("small"));
    let pool = lines(
        shell("sleep 600 & echo $!; read x; [ \"$x\" = die ] && kill -9 $$; exec sleep 600"),
        settings(0, 1),
    );
    for order in ["die", "stay"] {
        let mut worker = pool.acquire().expect("a shell");
        let id = worker.id();
        let sleeper: u32 = worker.read_line(SOON).expect("a line").parse().expect("a pid");
        worker.write_line(order, SOON).expect("it takes a line");
        if order == "die" {
            wait_until("it is dead", || has_ended(id));
        }
        assert!(!has_ended(sleeper));
        drop(worker);
        wait_until("it has ended", || has_ended(id));
        wait_until("what it has started has ended, too", || has_ended(sleeper));
    }
    pool.close(None).expect("nothing is in use");
    wait_until("there is no zombie", || zombies().is_empty());
    say("done");
}

pub(crate) fn w2_a_worker_ends_where_a_pidfd_takes_no_signal() -> Ran {
    for errno in [libc::EPERM, libc::ENOSYS] {
        let mut host = Start::role("refused_host").with("errno", errno).start();
        host.expect("done");
        host.succeed();
    }
    done!("refused, and unknown: a worker that was dead, one that lived")
}
