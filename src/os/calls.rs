//! Which system calls this process may make. A seccomp profile or an old kernel refuses some; each
//! is asked for here by a call that does nothing.
//!
//! Asked anew whenever a server binds or a client connects: a process may enter its sandbox at any
//! time. One that does so later is found by the waits themselves ([`crate::base::calm`]).

use super::page_cache;
use crate::base::sync::AtomicU32;
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::Errno;
use rustix::thread::futex;

/// A system call failed; its name goes with the error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) call: &'static str,
    pub(crate) errno: Errno,
}

impl Failed {
    /// For `map_err`: this call failed.
    pub(crate) fn of(call: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self { call, errno }
    }

    /// Whether the call itself is refused, and not what it was asked for.
    pub(crate) fn is_refusal(self) -> bool {
        is_refusal(self.errno)
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.call, std::io::Error::from(self.errno))
    }
}

impl std::error::Error for Failed {}

impl From<Failed> for std::io::Error {
    fn from(failed: Failed) -> Self {
        Self::new(Self::from(failed.errno).kind(), failed)
    }
}

/// Whether this is how a call is refused as such: by a seccomp profile, or by a kernel that lacks
/// it.
pub(crate) fn is_refusal(errno: Errno) -> bool {
    matches!(errno, Errno::NOSYS | Errno::PERM | Errno::ACCESS)
}

/// Whether futexes may be used at all.
pub(crate) fn futex_works() -> bool {
    check_futex().is_ok()
}

/// As [`futex_works`].
pub(crate) fn check_futex() -> Result<(), Failed> {
    // Nobody waits on it. Not as a private futex: those of a session are shared.
    let word = AtomicU32::new(0);
    match futex::wake(word.as_futex(), futex::Flags::empty(), 1) {
        Err(errno) if is_refusal(errno) => Err(Failed { call: "futex", errno }),
        _ => Ok(()),
    }
}

/// Whether several futexes can be waited on at once (`futex_waitv`, Linux 5.16).
pub(crate) fn futex_waitv_works() -> bool {
    // No entries are an error of the call's own (EINVAL), where the call is there. Valgrind and
    // some sandboxes say ENOSYS, whatever the kernel has.
    let none =
        futex::waitv(&[], futex::WaitvFlags::empty(), None, rustix::thread::ClockId::Monotonic);
    !none.is_err_and(is_refusal)
}

/// What no server can do without.
pub(crate) fn check_server() -> Result<(), Failed> {
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(Failed::of("eventfd2"))?;
    let watched =
        epoll::create(epoll::CreateFlags::CLOEXEC).map_err(Failed::of("epoll_create1"))?;
    let data = epoll::EventData::new_u64(0);
    epoll::add(&watched, &event, data, epoll::EventFlags::IN).map_err(Failed::of("epoll_ctl"))?;
    let mut events = [epoll::Event { flags: epoll::EventFlags::empty(), data }];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    match epoll::wait(&watched, &mut events[..], Some(&now)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(Failed { call: "epoll_pwait", errno }),
    }
}

/// Why no session of a process like this one runs over rings; `Ok` if they can. For ring-dump.
///
/// # Errors
/// Its text names the call that is refused.
pub fn rings_work() -> std::io::Result<()> {
    Ok(check_rings()?)
}

/// Why no server can be bound in a process like this one; `Ok` if one can. For ring-dump.
///
/// # Errors
/// Its text names the call that fails.
pub fn servers_work() -> std::io::Result<()> {
    Ok(check_server()?)
}

/// What rings are made with, where it is refused as such. A lack of memory or descriptors is no
/// matter here.
pub(crate) fn check_rings() -> Result<(), Failed> {
    check_futex()?;
    match check_memory() {
        // A kernel before 5.14 does not know the advice.
        Err(failed) if failed.is_refusal() || failed.errno == Errno::INVAL => Err(failed),
        _ => Ok(()),
    }
}

fn check_memory() -> Result<(), Failed> {
    use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd =
        rustix::fs::memfd_create(c"ringbell:probe", flags).map_err(Failed::of("memfd_create"))?;
    rustix::fs::ftruncate(&fd, 0).map_err(Failed::of("ftruncate"))?;
    match rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, 0) {
        // Nothing is to be allocated, so that no limit is met: the call is there, and says so.
        Ok(()) | Err(Errno::INVAL) => {}
        Err(errno) => return Err(Failed { call: "fallocate", errno }),
    }
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK)
        .map_err(Failed::of("fcntl(F_ADD_SEALS)"))?;
    let failed = |call| {
        move |error: std::io::Error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            Failed { call, errno }
        }
    };
    let page = memmap2::MmapOptions::new().len(4096).map_anon().map_err(failed("mmap"))?;
    page.advise_range(memmap2::Advice::PopulateRead, 0, 4096)
        .map_err(failed("madvise(MADV_POPULATE_READ)"))?;
    // Without either a server cannot tell whether a client has allocated its pages.
    match page_cache::all_in_memory(page.as_ptr(), 4096, &mut [0]) {
        Err(errno) if page_cache::allocated_pages(&fd, 0, 4096).is_none() => {
            Err(Failed { call: "mincore", errno })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h2_what_works_here_is_found_to_work() {
        assert!(futex_works());
        check_server().expect("epoll and eventfd are there");
        check_rings().expect("memfds are there");
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
        let (Some(Ok(major)), Some(Ok(minor))) = (parts.next(), parts.next()) else { return };
        assert_eq!(futex_waitv_works(), (major, minor) >= (5, 16), "{release}");
    }

    #[test]
    fn h2_an_error_names_the_call() {
        let error = std::io::Error::from(Failed { call: "eventfd2", errno: Errno::PERM });
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
        assert_eq!(error.to_string(), "eventfd2: Operation not permitted (os error 1)");
    }
}
