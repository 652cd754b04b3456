//! Calls that rings need, tried out.

use super::{Check, Level, good};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{FallocateFlags, FlockOperation, MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::process::PidfdFlags;
use rustix::thread::futex;
use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

const ALLOW: &str =
    "allow the call in the sandbox or seccomp profile of this process, or use a newer kernel";

/// Tries all of them, in this process.
pub(super) fn tried() -> Vec<Check> {
    vec![
        memfd(),
        call("futex", futex_wait(), "rings need futexes; clients fall back to the socket"),
        call("futex_waitv", futex_waitv(), "servers sleep in epoll; waking one costs a byte more")
            .no_worse_than(Level::Poor),
        call("eventfd", eventfd(0, EventfdFlags::CLOEXEC).map(drop), "no server can be bound"),
        call("timerfd", timerfd(), "no server can live in an event loop, or in tasks"),
        call("fallocate", fallocate(), "sessions run over the socket"),
        call("flock", flock(), "no server can be bound at a path"),
        call("pidfd", pidfd(), "deaths are seen by hang-up alone, which a forked child can hide"),
        call(
            "SO_PEERPIDFD",
            peer_pidfd(),
            "peers are known by their pids, which say nothing across pid namespaces",
        )
        .no_worse_than(Level::Note),
        call(
            "SO_PASSRIGHTS",
            pass_rights(),
            "descriptors that a stranger sends are received and closed: the kernel cannot refuse \
             them (it can since Linux 6.16)",
        )
        .no_worse_than(Level::Note),
        call("ppoll", ppoll(), "who waits for a socket looks again every few milliseconds")
            .no_worse_than(Level::Poor),
        call("epoll", epoll(), "no server can be bound"),
        whole("all that rings need", ringbell::rings_work(), "sessions run over the socket"),
        whole("all that servers need", ringbell::servers_work(), "no server can be bound"),
    ]
}

fn memfd() -> Check {
    let try_it = || {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create(c"ringbell-doctor", flags)?;
        rustix::fs::ftruncate(&fd, 4096)?;
        rustix::fs::fcntl_add_seals(
            &fd,
            SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL,
        )?;
        match rustix::io::pwrite(fd.as_fd(), &[1], 0) {
            Err(_) => Ok(()),
            Ok(_) => Err(Errno::NOTSUP),
        }
    };
    call(
        "memfd and seals",
        try_it(),
        "there is no shared memory that is safe; sessions run over the socket",
    )
}

fn call(name: &'static str, result: Result<(), Errno>, means: &str) -> Check {
    match result {
        Ok(()) => good(name, "works"),
        Err(Errno::NOSYS | Errno::NOPROTOOPT) => {
            good(name, "not there").but(Level::Bad, means, "use a newer kernel")
        }
        Err(errno @ (Errno::PERM | Errno::ACCESS)) => good(name, format!("refused: {errno}")).but(
            Level::Bad,
            means,
            "allow the call in the sandbox or seccomp profile of this process",
        ),
        Err(errno) => good(name, format!("fails: {errno}")).but(Level::Bad, means, ""),
    }
}

/// A wait that must return at once, since the word has another value.
#[allow(
    clippy::disallowed_types,
    reason = "the kernel takes a plain word, and no protocol is in it"
)]
fn futex_wait() -> Result<(), Errno> {
    let word = std::sync::atomic::AtomicU32::new(1);
    match futex::wait(&word, futex::Flags::empty(), 0, None) {
        Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {
            futex::wake(&word, futex::Flags::empty(), 1).map(drop)
        }
        Err(errno) => Err(errno),
    }
}

#[allow(
    clippy::disallowed_types,
    reason = "the kernel takes a plain word, and no protocol is in it"
)]
fn futex_waitv() -> Result<(), Errno> {
    let word = std::sync::atomic::AtomicU32::new(1);
    let mut entry = futex::Wait::new();
    entry.val = 0;
    entry.uaddr = futex::WaitPtr::new(word.as_ptr().cast());
    entry.flags = futex::WaitFlags::SIZE_U32;
    match futex::waitv(
        &[entry],
        futex::WaitvFlags::empty(),
        None,
        rustix::thread::ClockId::Monotonic,
    ) {
        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn pidfd() -> Result<(), Errno> {
    rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).map(drop)
}

fn epoll() -> Result<(), Errno> {
    rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).map(drop)
}

fn timerfd() -> Result<(), Errno> {
    timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC).map(drop)
}

fn fallocate() -> Result<(), Errno> {
    let fd = rustix::fs::memfd_create(c"ringbell-doctor", MemfdFlags::CLOEXEC)?;
    // Nothing is allocated, so that no limit of this process is met.
    match rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, 0) {
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn flock() -> Result<(), Errno> {
    let fd = rustix::fs::memfd_create(c"ringbell-doctor", MemfdFlags::CLOEXEC)?;
    rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)
}

/// Reads a socket option that is an int.
#[allow(unsafe_code, reason = "options that rustix does not know")]
fn option(socket: &UnixStream, option: libc::c_int) -> Result<libc::c_int, Errno> {
    let mut value: libc::c_int = -1;
    let mut length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or_default();
    let (fd, to) = (socket.as_raw_fd(), (&raw mut value).cast());
    // SAFETY: `to` has room for `length` bytes, which are those of an int.
    let result = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, option, to, &raw mut length) };
    if result == 0 { Ok(value) } else { Err(errno(&std::io::Error::last_os_error())) }
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// Whether the kernel tells which process is at the other end of a socket (Linux 6.5).
#[allow(unsafe_code, reason = "owns the descriptor that getsockopt makes")]
fn peer_pidfd() -> Result<(), Errno> {
    const SO_PEERPIDFD: libc::c_int = 77;
    let (socket, _peer) = UnixStream::pair().map_err(|error| errno(&error))?;
    let found = option(&socket, SO_PEERPIDFD)?;
    // SAFETY: the kernel has just made it for this call, and nobody else knows of it.
    drop(unsafe { OwnedFd::from_raw_fd(found) });
    Ok(())
}

/// Whether the kernel refuses descriptors that peers send, if it is told to (Linux 6.16).
fn pass_rights() -> Result<(), Errno> {
    const SO_PASSRIGHTS: libc::c_int = 83;
    let (socket, _peer) = UnixStream::pair().map_err(|error| errno(&error))?;
    option(&socket, SO_PASSRIGHTS).map(drop)
}

fn ppoll() -> Result<(), Errno> {
    let at_once = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut [], Some(&at_once)).map(drop)
}

/// What the library itself says.
fn whole(name: &'static str, result: std::io::Result<()>, means: &str) -> Check {
    match result {
        Ok(()) => good(name, "works"),
        Err(error) => good(name, error.to_string()).but(Level::Bad, means, ALLOW),
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
        for refused in [Errno::NOSYS, Errno::NOPROTOOPT, Errno::PERM] {
            let check = call("futex_waitv", Err(refused), "x");
            assert!(check.level == Level::Bad && check.remedy.is_some(), "{check:?}");
        }
        assert_eq!(call("x", Err(Errno::NOSYS), "y").no_worse_than(Level::Note).level, Level::Note);
    }

    #[test]
    fn what_works_is_good() {
        for works in [timerfd(), fallocate(), flock(), ppoll()] {
            works.expect("not refused here");
        }
        // NOPROTOOPT: a kernel before 6.5, or before 6.16.
        assert!(matches!(peer_pidfd(), Ok(()) | Err(Errno::NOPROTOOPT)));
        assert!(matches!(pass_rights(), Ok(()) | Err(Errno::NOPROTOOPT)));
        let fine = [
            whole("x", ringbell::rings_work(), ""),
            whole("x", ringbell::servers_work(), ""),
            memfd(),
            call("futex", futex_wait(), ""),
            call("futex_waitv", futex_waitv(), ""),
            call("pidfd", pidfd(), ""),
        ];
        for check in fine {
            assert_eq!(check.level, Level::Good, "{check:?}");
        }
    }
}
