//! P1: a client `write`s to a memfd of its session from a page whose fault never ends, and so keeps
//! the lock of the inode. Who waits for that lock sleeps uninterruptibly.

use crate::faults::NeverFilled;
use crate::users::{HONEST, HOSTILE, become_the_user, name, only_one_user, open_server, visit};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, PATIENCE, Process, Start, hear, readable, say};
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::{done, raw, wait_until};
use rustix::fd::AsFd;
use rustix::fs::SealFlags;
use rustix::process::Signal;
use std::io::Read;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// What a locker does before it locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sealing {
    /// Nothing: the server finds a request segment that can still be written.
    Never,
    /// It seals its request segment, as an honest client does.
    First,
}

/// Starts a locker, which then holds the locks that it can get, and has sent READY. What it holds,
/// or what is missing.
fn lock(server: &Server, uid: u32, sealing: Sealing) -> Result<(Process, String), Ran> {
    let mut locker = Start::role("locker")
        .with("path", server.path().display())
        .with("uid", uid)
        .with("seal", u8::from(sealing == Sealing::First))
        .start();
    let said = locker.hear();
    if said.starts_with("missing") {
        return Err(Ran::Skipped(said));
    }
    let held = said.strip_prefix("holds").expect("what it holds").trim().to_owned();
    if sealing == Sealing::Never {
        assert!(held.contains("request"), "the lock of the request segment is not held: {held:?}");
    }
    Ok((locker, held))
}

/// The role: locks, sends READY, says `closed` when the server hangs up, and leaves (but for the
/// locks) when it is told to.
pub(crate) fn locker(arguments: &Arguments) {
    // Before this process gives up its privileges: they are needed to stop the kernel's faults.
    let pages = match NeverFilled::new(8) {
        Ok(pages) => Arc::new(pages),
        Err(missing) => return say(&missing),
    };
    become_the_user(arguments);
    let stream = raw::connect(arguments.text("path").as_ref());
    raw::send(&stream, &raw::hello(2048), &[]);
    let answer = raw::receive(&stream).expect("an answer");
    assert_eq!(answer.kind, raw::kind::WELCOME, "{answer:?}");
    let memfds: Vec<_> = answer.descriptors.into_iter().map(|fd| (name(&fd), fd)).collect();
    let request = memfds.iter().position(|(name, _)| name == "request").expect("a request segment");
    if arguments.number("seal") != 0 {
        // A session begins only if all of its pages are there.
        for (name, fd) in &memfds {
            if ["request", "response"].contains(&&**name) {
                raw::touch_all(fd);
            }
        }
        let seals = SealFlags::FUTURE_WRITE | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&memfds[request].1, seals).expect("a client may do that");
    }
    // Each write either waits in the fault, with the lock held, or is refused.
    let (returns, returned) = channel();
    let mut writes = 0;
    for (page, (name, fd)) in memfds.iter().enumerate() {
        if !["request", "response", "status", "bell"].contains(&&**name) {
            continue;
        }
        let (pages, fd, returns) =
            (pages.clone(), fd.try_clone().expect("a descriptor"), returns.clone());
        std::thread::spawn(move || {
            let result = pages.write_to(fd.as_fd(), page);
            let _ = returns.send((page, result));
        });
        writes += 1;
    }
    let (mut held, mut refused) = (Vec::new(), Vec::new());
    let until = Instant::now() + PATIENCE;
    while held.len() + refused.len() < writes {
        assert!(Instant::now() < until, "a write neither waits nor returns: {held:?} {refused:?}");
        held.extend(pages.next_fault(Duration::from_millis(1)).map(|page| memfds[page].0.clone()));
        refused.extend(returned.try_iter().map(|(page, result)| {
            assert!(result.is_err(), "a page that is never filled was written");
            memfds[page].0.clone()
        }));
    }
    raw::send(&stream, &[raw::READY], &[]);
    say(&format!("holds {}", held.join(" and ")));
    let watched = stream.try_clone().expect("a descriptor");
    std::thread::spawn(move || {
        let mut bytes = [0; 64];
        loop {
            if readable(&watched, Duration::from_secs(1))
                && !matches!((&watched).read(&mut bytes), Ok(1..))
            {
                return say("closed");
            }
        }
    });
    if hear().is_none() {
        return;
    }
    stream.shutdown(std::net::Shutdown::Both).expect("it is connected");
    // The locks are held until this process is killed.
    while hear().is_some() {}
}

/// Shuts the server down, without owning it: the caller drops its locker first.
fn shut_down(server: &mut Server) {
    server.process().tell("shutdown 1000");
    server.ended();
}

/// Every lock in turn, beside a client that was there before; others come, and the locker goes.
fn beside_locks(driver: &str) -> Ran {
    if let Some(skipped) = only_one_user() {
        return skipped;
    }
    let own = rustix::process::geteuid().as_raw();
    let mut told = Vec::new();
    for (uid, sealing) in
        [(HOSTILE, Sealing::Never), (HOSTILE, Sealing::First), (own, Sealing::Never)]
    {
        let (mut server, _dir) = open_server(driver);
        let mut caller = Start::role("caller")
            .with("path", server.path().display())
            .with("uid", HONEST)
            .with("what", "calls")
            .start();
        caller.expect("ready");
        let (mut locker, held) = match lock(&server, uid, sealing) {
            Ok(locked) => locked,
            Err(skipped) => return skipped,
        };
        let mut others_are_served = |server: &Server| {
            for what in ["calls", "loop", "calls"] {
                visit(server.path(), HONEST, what);
            }
            caller.tell("measure 50 5000 100");
            caller.expect("took");
        };
        others_are_served(&server);
        match sealing {
            Sealing::Never => assert_eq!(locker.hear(), "closed", "it is not let in"),
            Sealing::First => {
                wait_until("the locker and the caller are in", || server.stats().sessions == 2);
            }
        }
        locker.tell("leave");
        wait_until("the locker is gone", || server.stats().sessions == 1);
        others_are_served(&server);
        told.push(format!("{sealing:?} by {uid}: {held}"));
        caller.hang_up();
        caller.succeed();
        shut_down(&mut server);
        // Only now the locks are freed. On a panic, too, the locker is dropped before the server:
        // a server that sleeps uninterruptibly cannot be waited for before.
        drop(locker);
    }
    done!("locks held, by sealing and uid: {}", told.join("; "))
}

pub(crate) fn p1_a_write_lock_on_the_request_memfd_stops_nobody() -> Ran {
    beside_locks("thread")
}

pub(crate) fn p1_a_write_lock_on_the_request_memfd_stops_no_embedded_server() -> Ran {
    beside_locks("loop")
}

pub(crate) fn p1_a_server_ends_while_a_write_lock_is_held() -> Ran {
    if let Some(skipped) = only_one_user() {
        return skipped;
    }
    for sealing in [Sealing::Never, Sealing::First] {
        for killed in [false, true] {
            let (mut server, _dir) = open_server("thread");
            let _locker = match lock(&server, HOSTILE, sealing) {
                Ok((locker, _)) => locker,
                Err(skipped) => return skipped,
            };
            if sealing == Sealing::First {
                server.wait_for_sessions(1);
            }
            if killed {
                server.process().signal(Signal::KILL);
                server.process().is_killed();
            } else {
                shut_down(&mut server);
            }
        }
    }
    done!("by shutdown and by SIGKILL")
}
