//! Socket options and a call that rustix does not know, or reads wrongly.

#![allow(unsafe_code, reason = "getsockopt and fchmodat2 through libc")]

use crate::base::sync::{Ordering, PlainBool};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::SocketAddrUnix;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Since Linux 6.5; `asm-generic/socket.h`.
const SO_PEERPIDFD: libc::c_int = 77;

/// Since Linux 6.6; the number is the same on all architectures that Rust knows.
const FCHMODAT2: libc::c_long = 452;

/// Reads one option of level `SOL_SOCKET`.
///
/// # Safety
/// `T` must be the type that the kernel writes for `option`, and every bit pattern of it valid.
unsafe fn get<T>(socket: BorrowedFd<'_>, option: libc::c_int) -> Result<T, Errno> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<T>()).map_err(|_| Errno::INVAL)?;
    let to = value.as_mut_ptr().cast();
    // SAFETY: `to` has room for `length` bytes.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, to, &raw mut length)
    };
    if result != 0 {
        return Err(last_error());
    }
    // SAFETY: zeroed, then written by the kernel; any bits are a `T`, says the caller.
    Ok(unsafe { value.assume_init() })
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Who was at the other end at the time of connect (of `listen`, seen from the client).
///
/// Not rustix's, which reads the pid as non-zero: it is 0 for a process of another pid namespace.
pub(super) fn peer_credentials(socket: impl AsFd) -> Result<libc::ucred, Errno> {
    // SAFETY: SO_PEERCRED is a `ucred`, three integers.
    unsafe { get(socket.as_fd(), libc::SO_PEERCRED) }
}

/// A pidfd of the process that connected, if the kernel can tell. Works across pid namespaces.
pub(super) fn peer_pidfd(socket: impl AsFd) -> Result<OwnedFd, Errno> {
    // SAFETY: SO_PEERPIDFD is an int.
    let fd: RawFd = unsafe { get(socket.as_fd(), SO_PEERPIDFD) }?;
    // SAFETY: the kernel has just made it for us, close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Changes the permissions of a file that was opened with `O_PATH`: of that one, whatever its name
/// stands for by now.
pub(super) fn change_mode(file: &OwnedFd, mode: Mode) -> Result<(), Errno> {
    match rustix::fs::chmod(format!("/proc/self/fd/{}", file.as_raw_fd()), mode) {
        // There is no /proc.
        Err(Errno::NOENT) => {}
        done => return done,
    }
    let fd = libc::c_long::from(file.as_raw_fd());
    let mode = libc::c_long::from(mode.as_raw_mode());
    let flags = libc::c_long::from(libc::AT_EMPTY_PATH);
    // SAFETY: reads the empty string; the other arguments are numbers.
    match unsafe { libc::syscall(FCHMODAT2, fd, c"".as_ptr(), mode, flags) } {
        0 => Ok(()),
        _ => Err(last_error()),
    }
}

/// Whether this descriptor is a socket that was bound to `path`. Nothing is taken over.
pub(super) fn is_bound_to(fd: RawFd, path: &Path) -> bool {
    if fd < 0 {
        return false;
    }
    // SAFETY: only asked for its address; if it is not open, or no socket, that fails.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let address = rustix::net::getsockname(borrowed).ok();
    let address = address.and_then(|address| SocketAddrUnix::try_from(address).ok());
    address.as_ref().and_then(SocketAddrUnix::path_bytes) == Some(path.as_os_str().as_bytes())
}

/// Takes over a descriptor that was passed to this process at its start; once, of which `taken`
/// takes note.
///
/// The caller has checked that somebody says so who would know. `None` if it was taken before.
pub(super) fn take_inherited(fd: RawFd, taken: &PlainBool) -> Option<Result<OwnedFd, Errno>> {
    // Relaxed: whoever changes the flag owns the descriptor; nothing else is passed on.
    if taken.swap(true, Ordering::Relaxed) {
        return None;
    }
    // SAFETY: only asked for its flags; if it is not open that fails.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    if let Err(errno) = rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC) {
        return Some(Err(errno));
    }
    // SAFETY: it is open, it was made for this process's service socket, and it is taken once only.
    Some(Ok(unsafe { OwnedFd::from_raw_fd(fd) }))
}
