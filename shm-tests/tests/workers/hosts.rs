//! Hosts that ignore or reap their children, that fork, and whose standard error is not read.

use crate::{SOON, echoes, has_ended, lines, settings, shell, zombies};
use ringbell::WorkerCommand;
use ringbell::pool::{AcquireError, OpenFailure, Settings};
use ringbell::sync::{Ordering, PlainBool};
use ringbell::worker::WorkerError;
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, Start, hear, say};
use ringbell_shm_tests::{done, observe, signals, wait_until};
use rustix::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Waits for every child, whosever it is, while `on`.
pub(crate) fn reap_all(on: Arc<PlainBool>) {
    std::thread::spawn(move || {
        loop {
            // SAFETY: waits for children; where their status would go is null.
            let waited = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) };
            if waited <= 0 || !on.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_micros(200));
            }
            while !on.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
}

fn ignore_children() {
    // SAFETY: no handler is involved.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// A missing program is told to its own pool, and all others go on.
pub(crate) fn odd_host(arguments: &Arguments) {
    match arguments.text("kind") {
        "ignores" => ignore_children(),
        _ => reap_all(Arc::new(PlainBool::new(true))),
    }
    let cats = lines(WorkerCommand::new("cat"), settings(1, 4));
    let mut first = cats.acquire().expect("a cat");
    let before = first.id();
    for round in 0..20 {
        let waits = Settings { acquire_timeout: None, ..settings(0, 1) };
        for enabled in [true, false] {
            let missing = lines(
                WorkerCommand::new("/nonexistent/program"),
                Settings { enabled, ..waits.clone() },
            );
            match missing.acquire().map(drop) {
                Err(AcquireError::Open(OpenFailure::Error(error))) => match &*error {
                    WorkerError::Start { program, error } => {
                        assert_eq!(program, "/nonexistent/program");
                        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
                    }
                    error => panic!("{error:?}"),
                },
                other => panic!("{other:?}"),
            }
            missing.close(None).expect("nothing is in use");
        }
        echoes(&mut first, "the others go on");
        // One that dies is found out, and another one starts.
        let second = cats.acquire().expect("another cat");
        rustix::process::kill_process(pid(second.id()), rustix::process::Signal::KILL)
            .expect("it lives");
        let id = second.id();
        wait_until("it is dead", || has_ended(id));
        drop(second);
        let fresh = lines(WorkerCommand::new("cat"), Settings { enabled: round % 2 == 0, ..waits });
        echoes(&mut fresh.acquire().expect("a new pool has workers"), "so does a new one");
        fresh.close(None).expect("nothing is in use");
    }
    assert_eq!(first.id(), before);
    drop(first);
    cats.close(None).expect("nothing is in use");
    wait_until("the cat has ended", || has_ended(before));
    wait_until("there is no zombie", || zombies().is_empty());
    say("done");
}

fn pid(id: u32) -> rustix::process::Pid {
    i32::try_from(id).ok().and_then(rustix::process::Pid::from_raw).expect("a process id")
}

fn odd(kind: &str) -> Ran {
    let mut host = Start::role("odd_host").with("kind", kind).start();
    host.expect("done");
    host.succeed();
    done!("20 rounds of a missing program, a killed worker and a new pool")
}

pub(crate) fn w1_a_missing_program_where_children_are_ignored() -> Ran {
    odd("ignores")
}

pub(crate) fn w1_a_missing_program_where_a_thread_reaps_all() -> Ran {
    odd("reaps")
}

/// Forks while its threads start workers: the locks of these are held by somebody then.
pub(crate) fn forking_host(_: &Arguments) {
    let stop = Arc::new(PlainBool::new(false));
    let start_one = || {
        let cats = lines(WorkerCommand::new("cat"), Settings { enabled: false, ..settings(0, 1) });
        echoes(&mut cats.acquire().expect("a cat"), "hello");
    };
    start_one();
    let busy: Vec<_> = (0..3)
        .map(|_| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    start_one();
                }
            })
        })
        .collect();
    let of_parent = lines(WorkerCommand::new("cat"), settings(1, 1));
    for _ in 0..40 {
        let status = signals::in_a_fork(|| {
            assert!(matches!(of_parent.acquire().map(drop), Err(AcquireError::Forked)));
            start_one();
            0
        });
        assert_eq!(status, 0);
    }
    stop.store(true, Ordering::Relaxed);
    for thread in busy {
        thread.join().expect("no panic");
    }
    say("done");
}

pub(crate) fn w1_a_forked_child_starts_workers_of_its_own() -> Ran {
    let mut host = Start::role("forking_host").start();
    host.expect("done");
    host.succeed();
    done!("40 children of a host whose threads start workers")
}

/// A worker dies, and what it has started holds its pipes.
pub(crate) fn grouping_host(arguments: &Arguments) {
    if arguments.text("kind") == "reaped" {
        reap_all(Arc::new(PlainBool::new(true)));
    }
    let script = "sleep 600 & echo $!; echo the last words >&2; read x; kill -9 $$";
    let pool = lines(shell(script), settings(0, 1));
    for _ in 0..20 {
        let mut worker = pool.acquire().expect("a shell");
        let id = worker.id();
        let sleeper: u32 = worker.read_line(SOON).expect("a line").parse().expect("a pid");
        worker.write_line("x", SOON).expect("it takes a line");
        wait_until("it is dead", || match arguments.text("kind") {
            "reaped" => observe::state(id).is_none(),
            _ => has_ended(id),
        });
        // The pipe is open still, and nobody waits for its end.
        assert_eq!(worker.printed(), ["the last words"]);
        assert!(!has_ended(sleeper), "its pipes are held");
        drop(worker);
        wait_until("its child has ended, too", || has_ended(sleeper));
    }
    pool.close(None).expect("nothing is in use");
    wait_until("there is no zombie", || zombies().is_empty());
    say("done");
}

fn group(kind: &str) -> Ran {
    let mut host = Start::role("grouping_host").with("kind", kind).start();
    host.expect("done");
    host.succeed();
    done!("20 workers that left a child behind")
}

pub(crate) fn w2_the_group_of_a_dead_worker_ends_with_it() -> Ran {
    group("dead")
}

pub(crate) fn w2_the_group_of_a_reaped_worker_ends_with_it() -> Ran {
    group("reaped")
}

/// The standard error of this process becomes a pipe that nobody reads, and is full. Its end to
/// read.
pub(crate) fn fill_standard_error() -> OwnedFd {
    let (from, to) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
    rustix::io::ioctl_fionbio(&to, true).expect("its flag");
    while rustix::io::write(&to, &[b'-'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&to, false).expect("its flag");
    // SAFETY: descriptor 2 is replaced; nothing else of this program uses it by its number.
    assert_eq!(unsafe { libc::dup2(to.as_raw_fd(), 2) }, 2);
    from
}

/// A worker prints a lot, and nobody reads what is shown of it.
pub(crate) fn unread_host(arguments: &Arguments) {
    let from = fill_standard_error();
    // What fails cannot be told there.
    std::panic::set_hook(Box::new(|panic| {
        say(&format!("failed: {panic}").replace('\n', " "));
        std::process::exit(1);
    }));
    let locked = (arguments.text("kind") == "locked").then(|| std::io::stderr().lock());
    let loud =
        shell("echo loud; while read x; do head -c 1000000 /dev/zero >&2; echo printed; done");
    let loud = lines(loud.forward_stderr(true), settings(1, 2));
    let cats = lines(WorkerCommand::new("cat"), settings(1, 2));
    let mut worker = loud.acquire().expect("a shell");
    assert_eq!(worker.read_line(SOON).expect("a line"), "loud");
    for _ in 0..3 {
        worker.write_line("x", SOON).expect("it takes a line");
        // Its own pipe is read all the same.
        assert_eq!(worker.read_line(SOON).expect("it goes on"), "printed");
        let mut cat = cats.acquire().expect("the other pool goes on");
        echoes(&mut cat, "hello");
    }
    drop(worker);
    loud.close(None).expect("nothing is in use");
    cats.close(None).expect("nothing is in use");
    drop(locked);
    // Somebody reads after all, and is told what is missing.
    let mut seen = String::new();
    while !seen.contains("bytes that workers printed were dropped") {
        let mut bytes = [0; 1 << 14];
        let count = rustix::io::read(&from, &mut bytes).expect("read");
        assert!(count > 0, "a line about what is missing");
        seen.push_str(&String::from_utf8_lossy(&bytes[..count]).replace(['-', '\0'], ""));
    }
    // Nobody reads any more: this process does not die of it.
    signals::die_of_sigpipe();
    drop(from);
    let loud = shell("read x; echo for nobody >&2; echo printed; read x");
    let loud = lines(loud.forward_stderr(true), settings(1, 2));
    for _ in 0..3 {
        let mut worker = loud.acquire().expect("a shell");
        worker.write_line("x", SOON).expect("it takes a line");
        assert_eq!(worker.read_line(SOON).expect("it goes on"), "printed");
        wait_until("it is read", || worker.printed() == ["for nobody"]);
    }
    say("done");
}

fn unread(kind: &str) -> Ran {
    let mut host = Start::role("unread_host").with("kind", kind).start();
    host.expect("done");
    host.succeed();
    done!("3 MB printed for a standard error that is full, then closed")
}

pub(crate) fn w3_a_standard_error_that_is_not_read() -> Ran {
    unread("full")
}

pub(crate) fn w3_a_standard_error_that_is_locked() -> Ran {
    unread("locked")
}

/// Has workers behind wrappers, says who is behind them, and waits to be killed.
pub(crate) fn wrapping_host(_: &Arguments) {
    // Shells give what they start in the background no input, unless it is told where from.
    let wrapped = shell("exec 3<&0; cat <&3 & echo $!; exec 3<&-; wait; :");
    let pool = lines(wrapped, settings(0, 2));
    let mut workers = [pool.acquire().expect("a shell"), pool.acquire().expect("another")];
    let ids = workers.each_mut().map(|worker| worker.read_line(SOON).expect("a line"));
    for worker in &mut workers {
        echoes(worker, "through the wrapper");
    }
    say(&format!("behind {}", ids.join(" ")));
    let _ = hear();
}

pub(crate) fn w11_the_end_of_its_input_reaches_behind_a_wrapper() -> Ran {
    let mut host = Start::role("wrapping_host").start();
    let ids: Vec<u32> =
        host.expect("behind").split(' ').map(|id| id.parse().expect("a pid")).collect();
    assert!(ids.iter().all(|id| !has_ended(*id)));
    host.kill();
    for id in &ids {
        wait_until("it has ended", || has_ended(*id));
    }
    done!("{} programs behind wrappers", ids.len())
}
