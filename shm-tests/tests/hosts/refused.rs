//! System calls that a seccomp profile refuses, or that an old kernel does not have.

use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::observe::{cpu_time, voluntary_switches};
use ringbell_shm_tests::process::{Process, Start};
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::sandbox::CALLS;
use ringbell_shm_tests::{done, options};
use std::path::{Path, PathBuf};

/// How a profile refuses a call, and how an old kernel does.
const ERRORS: [i32; 2] = [libc::EPERM, libc::ENOSYS];

/// What becomes of a process without a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Rings,
    /// The socket carries its sessions; the reason has these words.
    Socket(&'static str),
    /// An error with the name of the call.
    Named,
}

struct Host {
    process: Process,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

/// Starts a server role without a call; what it says first.
fn host(refuse: (&str, i32), more: &[(&str, &str)]) -> (Host, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("s");
    let mut start = Start::role("host").with("path", path.display());
    start = start.with("refuse", refuse.0).with("errno", refuse.1);
    for (key, value) in more {
        start = start.with(key, value);
    }
    let mut process = start.start();
    let said = process.hear();
    (Host { process, path, _directory: directory }, said)
}

pub(super) fn start_guest(path: &Path, more: &[(&str, &str)]) -> (Process, String) {
    let mut start = Start::role("guest").with("path", path.display());
    for (key, value) in more {
        start = start.with(key, value);
    }
    let mut process = start.start();
    let said = process.hear();
    (process, said)
}

fn is_carried(said: &str, fate: Fate, what: &str) {
    match fate {
        Fate::Rings => assert_eq!(said, "transport shared memory", "{what}"),
        Fate::Socket(reason) => assert!(
            said.starts_with("transport socket (") && said.contains(reason),
            "{what}: {said}"
        ),
        Fate::Named => panic!("{what}: {said}"),
    }
}

/// Whether these processes, which have nothing to do, use less than one that naps for a
/// millisecond, again and again.
fn are_idle(processes: &[(&str, u32)]) {
    let mut napper = Start::role("napper").start();
    napper.expect("ready");
    let look = |pid| (cpu_time(pid), voluntary_switches(pid));
    let of_napper = look(napper.id());
    let before: Vec<_> = processes.iter().map(|(_, pid)| look(*pid)).collect();
    napper.tell("nap");
    napper.expect("napped");
    let since = |pid, (cpu, switches)| {
        let now = look(pid);
        (now.0.saturating_sub(cpu), now.1.saturating_sub(switches))
    };
    let naps = since(napper.id(), of_napper);
    for ((name, pid), before) in processes.iter().zip(before) {
        let used = since(*pid, before);
        assert!(used.0 < naps.0 * 2 && used.1 < naps.1, "{name} is busy: {used:?}, {naps:?}");
    }
}

/// Serves requests without each call in turn, or says why not; and uses no CPU while idle.
fn each(more: &[(&str, &str)], is_bytes: bool, fate: impl Fn(&str) -> Option<Fate>) -> Ran {
    let mut count = 0;
    for (call, errno) in CALLS.iter().flat_map(|call| ERRORS.map(|errno| (call.name, errno))) {
        let Some(fate) = fate(call) else { continue };
        let what = format!("{call}, error {errno}");
        let (mut host, said) = host((call, errno), more);
        count += 1;
        tick();
        if fate == Fate::Named {
            let reason = std::io::Error::from_raw_os_error(errno).to_string();
            assert!(
                said.starts_with("error ") && said.contains(call) && said.contains(&reason),
                "{what}: {said}"
            );
            host.process.succeed();
            continue;
        }
        assert_eq!(said, "ready", "{what}");
        let (mut guest, said) =
            start_guest(&host.path, if is_bytes { &[("bytes", "1")] } else { &[] });
        is_carried(&said, fate, &what);
        guest.expect("done");
        are_idle(&[(&what, host.process.id()), ("its client", guest.id())]);
        guest.hang_up();
        guest.succeed();
        host.process.hang_up();
        host.process.expect(if is_bytes { "over" } else { "paused" });
        host.process.succeed();
    }
    done!("{count} servers without a call")
}

const NO_SHARED_MEMORY: Fate = Fate::Socket("offers no shared memory");

pub(super) fn h2_a_server_without_a_call_serves_or_names_it() -> Ran {
    each(&[], false, |call| match call {
        "futex_waitv" | "timerfd_create" | "pidfd_open" | "membarrier" | "SO_PEERPIDFD"
        | "cachestat" | "ppoll" => Some(Fate::Rings),
        "memfd_create" | "fallocate" | "MADV_POPULATE_READ" => Some(NO_SHARED_MEMORY),
        "eventfd2" | "epoll_create1" | "epoll_ctl" | "epoll_pwait" | "flock" => Some(Fate::Named),
        // Threads cannot be joined without futexes, and accepting is tested by itself.
        _ => None,
    })
}

/// It cannot tell whether a client has allocated its pages: by `cachestat` alone, or not at all.
pub(super) fn h2_a_server_that_cannot_see_pages_offers_the_socket() -> Ran {
    let mut told = Vec::new();
    for errno in ERRORS {
        for (calls, fate) in [("mincore", Fate::Rings), ("mincore+cachestat", NO_SHARED_MEMORY)] {
            if fate == Fate::Rings && !has_cachestat() {
                told.push("missing: cachestat (Linux 6.5)");
                continue;
            }
            let (mut host, said) = host((calls, errno), &[]);
            assert_eq!(said, "ready", "{calls}");
            let (mut guest, said) = start_guest(&host.path, &[]);
            is_carried(&said, fate, calls);
            guest.expect("done");
            guest.hang_up();
            guest.succeed();
            host.process.hang_up();
            host.process.expect("paused");
            host.process.succeed();
            tick();
        }
        let (mut host, said) = host(("mincore+cachestat", errno), &[("fallback", "off")]);
        assert!(said.starts_with("error ") && said.contains("mincore"), "{said}");
        host.process.succeed();
    }
    done!("the socket without mincore and cachestat {}", told.join(", "))
}

fn has_cachestat() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|it| it.parse().ok());
    let version: (Option<u32>, Option<u32>) = (numbers.next().flatten(), numbers.next().flatten());
    version >= (Some(6), Some(5))
}

pub(super) fn h2_a_server_without_the_socket_as_transport_names_the_call() -> Ran {
    each(&[("fallback", "off")], false, |call| match call {
        "futex" | "memfd_create" | "fallocate" | "MADV_POPULATE_READ" => Some(Fate::Named),
        _ => None,
    })
}

pub(super) fn h2_a_server_in_a_loop_without_a_call_serves_or_names_it() -> Ran {
    each(&[("driver", "loop")], false, |call| match call {
        "futex_waitv" => Some(Fate::Rings),
        "futex" => Some(NO_SHARED_MEMORY),
        _ => None,
    })
}

pub(super) fn h2_a_listener_for_bytes_without_a_call_serves_or_names_it() -> Ran {
    each(&[("bytes", "1")], true, |call| match call {
        "futex_waitv" | "pidfd_open" => Some(Fate::Rings),
        "memfd_create" => Some(NO_SHARED_MEMORY),
        "eventfd2" | "epoll_create1" | "epoll_pwait" | "flock" => Some(Fate::Named),
        _ => None,
    })
}

pub(super) fn h2_a_client_without_a_call_is_served() -> Ran {
    let (mut host, said) = host(("membarrier", libc::EPERM), &[]);
    assert_eq!(said, "ready");
    let mut count = 0;
    for (call, errno) in CALLS.iter().flat_map(|call| ERRORS.map(|errno| (call.name, errno))) {
        let fate = match call {
            "futex" => Fate::Socket("may not use futexes"),
            // It cannot allocate its rings so that a lack of memory is an error.
            "MADV_POPULATE_READ" => Fate::Socket("cannot be mapped"),
            _ => Fate::Rings,
        };
        let what = format!("{call}, error {errno}");
        let errno = errno.to_string();
        let more = [("refuse", call), ("errno", &errno), ("await", "1")];
        let (mut guest, said) = start_guest(&host.path, &more);
        is_carried(&said, fate, &what);
        guest.expect("done");
        guest.expect("waiting");
        // It waits for an answer that does not come.
        are_idle(&[(&what, guest.id()), ("the server", host.process.id())]);
        let mut opener = options().connect(&host.path).expect("connected");
        opener.call(b"open").expect("answered");
        guest.expect("opened");
        guest.hang_up();
        guest.succeed();
        count += 1;
        tick();
    }
    host.process.hang_up();
    host.process.expect("paused");
    host.process.succeed();
    done!("{count} clients without a call")
}

pub(super) fn h2_a_call_that_is_refused_later_costs_no_cpu() -> Ran {
    for errno in ERRORS {
        let (mut host, said) = host(("futex_waitv", errno), &[("when", "bound")]);
        assert_eq!(said, "ready");
        let (mut guest, said) = start_guest(&host.path, &[("await", "1")]);
        is_carried(&said, Fate::Rings, "refused when it had bound");
        guest.expect("done");
        guest.expect("waiting");
        are_idle(&[("the server", host.process.id()), ("its client", guest.id())]);
        let mut opener = options().connect(&host.path).expect("connected");
        opener.call(b"open").expect("answered");
        guest.expect("opened");
        guest.hang_up();
        guest.succeed();
        host.process.hang_up();
        host.process.expect("paused");
        host.process.succeed();
        tick();
    }
    done!("futex_waitv refused behind bind")
}

/// A server that is refused a call when it has bound, as one that enters its sandbox then.
pub(super) fn h2_a_server_that_loses_a_call_serves_or_names_it() -> Ran {
    let mut count = 0;
    for (call, errno) in CALLS.iter().flat_map(|call| ERRORS.map(|errno| (call.name, errno))) {
        let fate = match call {
            "futex" | "accept4" => continue,
            "eventfd2" | "epoll_create1" | "epoll_ctl" | "epoll_pwait" => Fate::Named,
            // What is allocated by fallocate was so at bind; it is the clients that populate.
            "memfd_create" => NO_SHARED_MEMORY,
            _ => Fate::Rings,
        };
        for driver in ["thread", "bytes"] {
            let bytes: &[_] = if driver == "bytes" { &[("bytes", "1")] } else { &[] };
            if driver == "bytes" && !matches!(call, "futex_waitv" | "ppoll" | "flock") {
                // The thread that makes its handshakes runs when it has bound.
                continue;
            }
            let what = format!("{driver}, {call}, error {errno}");
            let (mut host, said) = host((call, errno), &[bytes, &[("when", "bound")]].concat());
            assert_eq!(said, "ready", "{what}");
            let (mut guest, said) = start_guest(&host.path, bytes);
            count += 1;
            tick();
            if fate == Fate::Named {
                assert!(said.starts_with("error "), "{what}: {said}");
                let said = host.process.hear();
                assert!(said.starts_with("error ") && said.contains(call), "{what}: {said}");
            } else {
                is_carried(&said, fate, &what);
                guest.expect("done");
                are_idle(&[(&what, host.process.id()), ("its client", guest.id())]);
                host.process.hang_up();
                host.process.expect(if bytes.is_empty() { "paused" } else { "over" });
            }
            guest.hang_up();
            guest.succeed();
            host.process.succeed();
        }
    }
    done!("{count} servers that lost a call")
}

/// A client that is refused a call when it has connected, over rings and over the socket.
pub(super) fn h2_a_client_that_loses_a_call_is_served() -> Ran {
    let mut count = 0;
    for (refused_by_host, fate) in [("membarrier", Fate::Rings), ("memfd_create", NO_SHARED_MEMORY)]
    {
        let (mut host, said) = host((refused_by_host, libc::EPERM), &[]);
        assert_eq!(said, "ready");
        for (call, errno) in CALLS.iter().flat_map(|call| ERRORS.map(|errno| (call.name, errno))) {
            let what = format!("{fate:?}, {call}, error {errno}");
            let errno = errno.to_string();
            let more = [("refuse", call), ("errno", &errno), ("await", "1"), ("when", "connected")];
            let (mut guest, said) = start_guest(&host.path, &more);
            is_carried(&said, fate, &what);
            guest.expect("done");
            guest.expect("waiting");
            are_idle(&[(&what, guest.id()), ("the server", host.process.id())]);
            let mut opener = options().connect(&host.path).expect("connected");
            opener.call(b"open").expect("answered");
            guest.expect("opened");
            guest.hang_up();
            guest.succeed();
            count += 1;
            tick();
        }
        host.process.hang_up();
        host.process.expect("paused");
        host.process.succeed();
    }
    done!("{count} clients that lost a call")
}

/// A byte stream over each transport whose process is refused a wait when it has connected.
pub(super) fn h2_a_byte_stream_that_loses_a_call_goes_on() -> Ran {
    let mut count = 0;
    let bytes = ("bytes", "1");
    for (refused_by_host, fate) in [("pidfd_open", Fate::Rings), ("memfd_create", NO_SHARED_MEMORY)]
    {
        let (mut host, said) = host((refused_by_host, libc::EPERM), &[bytes]);
        assert_eq!(said, "ready");
        for (call, errno) in ["ppoll", "pidfd_open", "epoll_pwait"]
            .iter()
            .flat_map(|call| ERRORS.map(|errno| (*call, errno.to_string())))
        {
            let what = format!("{fate:?}, {call}, error {errno}");
            let more = [bytes, ("refuse", call), ("errno", &errno), ("when", "connected")];
            let (mut guest, said) = start_guest(&host.path, &more);
            is_carried(&said, fate, &what);
            guest.expect("done");
            guest.hang_up();
            guest.succeed();
            count += 1;
            tick();
        }
        host.process.hang_up();
        host.process.expect("over");
        host.process.succeed();
    }
    done!("{count} streams that lost a call")
}

/// A host that closes all descriptors, as one that becomes a daemon: its session ends, at once.
pub(super) fn h2_a_client_whose_host_closes_everything_learns_of_it() -> Ran {
    let mut told = Vec::new();
    for (refused_by_host, fate) in [("membarrier", Fate::Rings), ("memfd_create", NO_SHARED_MEMORY)]
    {
        let (mut host, said) = host((refused_by_host, libc::EPERM), &[]);
        assert_eq!(said, "ready");
        let (mut guest, said) = start_guest(&host.path, &[("close", "1")]);
        is_carried(&said, fate, "before");
        guest.expect("done");
        told.push(guest.expect("ended"));
        guest.hang_up();
        guest.succeed();
        host.process.hang_up();
        host.process.expect("paused");
        host.process.succeed();
        tick();
    }
    done!("{}", told.join("; "))
}

pub(super) fn h2_a_server_that_cannot_accept_any_more_says_so() -> Ran {
    for driver in ["thread", "loop", "task"] {
        for errno in ERRORS {
            let more = [("when", "bound"), ("driver", driver)];
            let (mut host, said) = host(("accept4", errno), &more);
            assert_eq!(said, "ready");
            let _waits = std::os::unix::net::UnixStream::connect(&host.path).expect("connected");
            let said = host.process.hear();
            assert!(said.starts_with("error ") && said.contains("accept4"), "{driver}: {said}");
            host.process.succeed();
            tick();
        }
    }
    done!("three drivers, two errors")
}
