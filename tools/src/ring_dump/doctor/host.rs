//! What the host of a process forbids or limits.

use super::{Check, Level, good};
use rustix::fs::{FallocateFlags, FlockOperation, MemfdFlags};
use rustix::io::Errno;
use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

const ALLOW: &str =
    "allow the call in the sandbox or seccomp profile of this process, or use a newer kernel";

pub(super) fn timerfd() -> Result<(), Errno> {
    timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC).map(drop)
}

pub(super) fn fallocate() -> Result<(), Errno> {
    let fd = rustix::fs::memfd_create(c"ringbell-doctor", MemfdFlags::CLOEXEC)?;
    // Nothing is allocated, so that no limit of this process is met.
    match rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, 0) {
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(errno) => Err(errno),
    }
}

pub(super) fn flock() -> Result<(), Errno> {
    let fd = rustix::fs::memfd_create(c"ringbell-doctor", MemfdFlags::CLOEXEC)?;
    rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)
}

/// Whether the kernel tells which process is at the other end of a socket (Linux 6.5).
#[allow(unsafe_code, reason = "getsockopt(SO_PEERPIDFD), which rustix does not know")]
pub(super) fn peer_pidfd() -> Result<(), Errno> {
    const SO_PEERPIDFD: libc::c_int = 77;
    let failed = |error: &std::io::Error| Errno::from_io_error(error).unwrap_or(Errno::IO);
    let (socket, _peer) = UnixStream::pair().map_err(|error| failed(&error))?;
    let mut found: libc::c_int = -1;
    let mut length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or_default();
    let to = (&raw mut found).cast();
    // SAFETY: `to` has room for `length` bytes, which are those of an int.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_PEERPIDFD, to, &raw mut length)
    };
    if result != 0 {
        return Err(failed(&std::io::Error::last_os_error()));
    }
    // SAFETY: the kernel has just made it for this call, and nobody else knows of it.
    drop(unsafe { OwnedFd::from_raw_fd(found) });
    Ok(())
}

pub(super) fn ppoll() -> Result<(), Errno> {
    let at_once = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut [], Some(&at_once)).map(drop)
}

/// What the library itself says.
pub(super) fn whole(name: &'static str, result: std::io::Result<()>, means: &str) -> Check {
    match result {
        Ok(()) => good(name, "works"),
        Err(error) => good(name, error.to_string()).but(Level::Bad, means, ALLOW),
    }
}

/// Shared memory is a file to this limit.
pub(super) fn file_size(limit: Option<u64>) -> Check {
    let Some(limit) = limit else { return good("RLIMIT_FSIZE", "unlimited") };
    let check = good("RLIMIT_FSIZE", format!("{limit} bytes"));
    // Two rings of 64 KiB, and the page in which a server tells of itself.
    if limit >= 1 << 20 {
        return check.but(
            Level::Note,
            "no ring is larger: sessions that ask for more run over the socket, or are refused",
            "",
        );
    }
    check.but(
        Level::Poor,
        "shared memory counts as a file: sessions may have to run over the socket",
        "raise the limit (ulimit -f, LimitFSIZE=)",
    )
}

pub(super) fn memlock(limit: Option<u64>) -> Check {
    // Enough for the stacks of some threads and the rings of many sessions.
    const PLENTY: u64 = 64 << 20;
    let Some(limit) = limit else {
        return good("RLIMIT_MEMLOCK", "unlimited; nothing is locked");
    };
    let check = good("RLIMIT_MEMLOCK", format!("{limit} bytes; nothing is locked"));
    if limit >= PLENTY {
        return check;
    }
    check.but(
        Level::Note,
        "a program that locks all its memory (mlockall) has no more than this: then no thread starts, and sessions \
         run over the socket",
        "",
    )
}

/// Namespaces that are not those in which the machine started. `link` is that of a kind in /proc.
pub(super) fn namespaces(link: impl Fn(&str) -> Option<PathBuf>) -> Check {
    // Source: include/uapi/linux/nsfs.h, `init_ns_ino`; the same since Linux 3.8.
    const KINDS: [(&str, u64, &str); 3] = [
        ("user", 0xEFFF_FFFD, "users without a mapping here are nobody, and refused"),
        (
            "pid",
            0xEFFF_FFFC,
            "peers outside show as pid 0; deaths are seen by pidfd, and by hang-up",
        ),
        ("time", 0xEFFF_FFFA, "clocks differ from those of peers outside; deadlines are converted"),
    ];
    let mut own = Vec::new();
    let mut means = Vec::new();
    let mut seen = false;
    for (kind, first, what) in KINDS {
        let Some(is) = link(kind) else { continue };
        seen = true;
        if is.to_str() != Some(&*format!("{kind}:[{first}]")) {
            own.push(kind);
            means.push(what);
        }
    }
    match (seen, own.is_empty()) {
        (false, _) => good("namespaces", "not to be seen"),
        (true, true) => good("namespaces", "those of the machine"),
        (true, false) => good("namespaces", format!("its own: {}", own.join(", "))).but(
            Level::Note,
            means.join("; "),
            "",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h2_what_is_refused_is_named_with_what_follows() {
        let error = std::io::Error::other("futex: Operation not permitted");
        let check = whole("all that rings need", Err(error), "sessions run over the socket");
        assert!(
            check.level == Level::Bad && check.found.contains("futex") && check.remedy.is_some()
        );
        for works in [timerfd(), fallocate(), flock(), ppoll()] {
            works.expect("not refused here");
        }
        // NOPROTOOPT: a kernel before 6.5.
        assert!(matches!(peer_pidfd(), Ok(()) | Err(Errno::NOPROTOOPT)));
        assert_eq!(whole("x", ringbell::rings_work(), "").level, Level::Good);
        assert_eq!(whole("x", ringbell::servers_work(), "").level, Level::Good);
    }

    #[test]
    fn h5_limits_say_what_follows() {
        assert_eq!(file_size(None).level, Level::Good);
        assert_eq!(file_size(Some(4 << 20)).level, Level::Note);
        assert_eq!(file_size(Some(0)).level, Level::Poor);
        assert_eq!((memlock(None).level, memlock(Some(1 << 30)).level), (Level::Good, Level::Good));
        let low = memlock(Some(300 << 10));
        assert!(low.level == Level::Note && low.found.starts_with("307200 bytes"));
        assert!(low.means.is_some_and(|means| means.contains("mlockall")));
    }

    #[test]
    fn h5_namespaces_are_told_apart() {
        let first = |kind: &str| {
            let number = match kind {
                "user" => 4_026_531_837_u64,
                "pid" => 4_026_531_836,
                _ => 4_026_531_834,
            };
            Some(PathBuf::from(format!("{kind}:[{number}]")))
        };
        assert_eq!(namespaces(first).level, Level::Good);
        assert_eq!(namespaces(|_| None).found, "not to be seen");
        let own =
            namespaces(
                |kind| {
                    if kind == "pid" { Some("pid:[4026532000]".into()) } else { first(kind) }
                },
            );
        assert_eq!((own.level, &*own.found), (Level::Note, "its own: pid"));
        assert!(own.means.is_some_and(|means| means.contains("pid 0")));
    }
}
