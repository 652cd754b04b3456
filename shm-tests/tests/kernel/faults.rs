//! Pages whose fault nobody ever ends: a `write` from there keeps the lock of its file.

#![allow(unsafe_code, reason = "userfaultfd has no safe interface")]

use ringbell_shm_tests::process::readable;
use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use std::time::Duration;

const PAGE: usize = 4096;

/// `struct uffdio_api`.
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

const UFFD_API: u64 = 0xaa;
const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
/// Faults on pages that are missing are told.
const MODE_MISSING: u64 = 1;
/// The event that tells of a fault, and its size.
const PAGEFAULT: u8 = 0x12;
const EVENT: usize = 32;

/// Private pages that are registered with a userfaultfd and never filled. A fault on them, in the
/// kernel, too, ends when the process is killed or this is dropped.
pub(crate) struct NeverFilled {
    faults: OwnedFd,
    base: u64,
    pages: usize,
}

impl NeverFilled {
    /// So many pages; what is missing if there can be none.
    pub(crate) fn new(pages: usize) -> Result<Self, String> {
        let missing = |what: &str, errno: Errno| format!("missing: userfaultfd ({what}: {errno})");
        // Without UFFD_USER_MODE_ONLY: faults of the kernel are the point. Needs a privilege.
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: makes a descriptor, touches no memory.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
        let fd = i32::try_from(fd).unwrap_or(-1);
        if fd < 0 {
            return Err(missing("userfaultfd", last_error()));
        }
        // SAFETY: just made, and nobody else's.
        let faults = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut api = Api { api: UFFD_API, features: 0, ioctls: 0 };
        // SAFETY: the structure is the one of this call.
        if unsafe { libc::ioctl(fd, UFFDIO_API as _, &raw mut api) } != 0 {
            return Err(missing("UFFDIO_API", last_error()));
        }
        let len = pages * PAGE;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, which replaces nothing.
        let base =
            unsafe { mmap_anonymous(std::ptr::null_mut(), len, protection, MapFlags::PRIVATE) };
        let base = base.expect("memory") as u64;
        let mut register = Register { start: base, len: len as u64, mode: MODE_MISSING, ioctls: 0 };
        // SAFETY: the structure is the one of this call, the range is mapped and nobody's.
        if unsafe { libc::ioctl(fd, UFFDIO_REGISTER as _, &raw mut register) } != 0 {
            return Err(missing("UFFDIO_REGISTER", last_error()));
        }
        Ok(Self { faults, base, pages })
    }

    /// Writes page `page` to `fd`, once: does not return while the fault goes on.
    pub(crate) fn write_to(&self, fd: BorrowedFd<'_>, page: usize) -> Result<usize, Errno> {
        assert!(page < self.pages);
        let base = usize::try_from(self.base).expect("64 bits");
        let from = (base + page * PAGE) as *const libc::c_void;
        // SAFETY: the page is mapped, and no reference to it exists.
        let count = unsafe { libc::pwrite(fd.as_raw_fd(), from, PAGE, 0) };
        usize::try_from(count).map_err(|_| last_error())
    }

    /// The next page at which somebody waits, within `limit`.
    pub(crate) fn next_fault(&self, limit: Duration) -> Option<usize> {
        if !readable(&self.faults, limit) {
            return None;
        }
        let mut event = [0; EVENT];
        match rustix::io::read(&self.faults, &mut event) {
            Ok(EVENT) => {}
            Err(Errno::AGAIN) => return None,
            other => panic!("an event of a userfaultfd: {other:?}"),
        }
        assert_eq!(event[0], PAGEFAULT);
        let address = u64::from_ne_bytes(event[16..24].try_into().expect("eight bytes"));
        usize::try_from(address - self.base).ok().map(|at| at / PAGE)
    }
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
