//! Writing to a pipe whose reader may be gone.

#![allow(unsafe_code, reason = "the signal mask of the thread")]

use crate::base::sync::{Ordering, PlainBool};
use rustix::io::{Errno, ReadWriteFlags};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

/// Whether the kernel has turned [`NO_SIGNAL`] down, or a filter of system calls has.
static REFUSED: PlainBool = PlainBool::new(false);

/// `RWF_NOSIGNAL` of Linux 6.18 (`include/uapi/linux/fs.h`), which rustix has no name for.
const NO_SIGNAL: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x100);
/// The offset of `pwritev2` that stands for a stream.
const STREAM: u64 = u64::MAX;

/// Writes to a pipe, and never raises SIGPIPE: without a reader it is `EPIPE` and nothing more,
/// whatever this process does about that signal.
///
/// A socket in place of the pipe would do it as well, and would change what the reader sees:
/// `/dev/stdin` cannot be opened again then. So it is a flag, and [`write_masked`] on kernels that
/// do not know it, which takes two more system calls.
pub(crate) fn write_quietly(pipe: impl AsFd, bytes: &[u8]) -> rustix::io::Result<usize> {
    // Relaxed: whoever has not seen it yet asks once more.
    if !REFUSED.load(Ordering::Relaxed) {
        let result = rustix::io::pwritev2(&pipe, &[IoSlice::new(bytes)], STREAM, NO_SIGNAL);
        match result {
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM | Errno::INVAL) => {
                REFUSED.store(true, Ordering::Relaxed);
            }
            result => return result,
        }
    }
    write_masked(&pipe, bytes)
}

/// The signal is blocked in this thread for the time of the write, and the one that the write
/// raised is taken. It was sent to this thread alone, and `sigtimedwait` takes those first: one
/// that was sent to the whole process stays where it is. If the signal was blocked and pending
/// before, it merges with that one, or stands beside it, and none is taken.
fn write_masked(pipe: impl AsFd, bytes: &[u8]) -> rustix::io::Result<usize> {
    let broken_pipe = broken_pipe();
    let mut before = MaybeUninit::uninit();
    // SAFETY: reads one set, writes the other one; both live here. It only fails for an unknown
    // first argument, so `before` is written.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const broken_pipe, before.as_mut_ptr()) };
    // SAFETY: written by the call above.
    let before: libc::sigset_t = unsafe { before.assume_init() };
    let was_blocked = has_broken_pipe(&before);
    // Without a block of its own it would have been delivered to this thread: none can be pending.
    let was_pending = was_blocked && is_pending();
    let written = rustix::io::write(pipe, bytes);
    if written == Err(Errno::PIPE) && !was_pending {
        take(&broken_pipe);
    }
    if !was_blocked {
        // SAFETY: as above; no set is written.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut())
        };
    }
    written
}

/// The set of SIGPIPE alone.
fn broken_pipe() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: writes the set.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: the set was written, and this is a signal.
    unsafe { libc::sigaddset(set.as_mut_ptr(), libc::SIGPIPE) };
    // SAFETY: written above.
    unsafe { set.assume_init() }
}

fn has_broken_pipe(set: &libc::sigset_t) -> bool {
    // SAFETY: reads the set.
    unsafe { libc::sigismember(set, libc::SIGPIPE) == 1 }
}

/// Whether a SIGPIPE of this thread or of the process waits.
fn is_pending() -> bool {
    let mut pending = MaybeUninit::uninit();
    // SAFETY: writes the set; it does not fail with a place to write to.
    unsafe { libc::sigpending(pending.as_mut_ptr()) };
    // SAFETY: written above.
    has_broken_pipe(&unsafe { pending.assume_init() })
}

/// Takes the signal that a write of this thread raised.
fn take(set: &libc::sigset_t) {
    let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    loop {
        // SAFETY: reads the set and the time; nothing is told of the signal.
        let taken = unsafe { libc::sigtimedwait(set, std::ptr::null_mut(), &raw const at_once) };
        // Another signal may have interrupted it.
        if taken != -1 || std::io::Error::last_os_error().kind() != std::io::ErrorKind::Interrupted
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{BorrowedFd, OwnedFd};

    type Write = fn(&BorrowedFd<'_>, &[u8]) -> rustix::io::Result<usize>;
    /// Whatever this kernel knows, both ways are tried.
    const WAYS: [Write; 2] =
        [|pipe, bytes| write_quietly(pipe, bytes), |pipe, bytes| write_masked(pipe, bytes)];

    fn without_a_reader() -> OwnedFd {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        writer.into()
    }

    /// Runs `with` on a thread of its own whose mask has SIGPIPE blocked.
    fn with_the_signal_blocked(with: impl FnOnce() + Send) {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let set = broken_pipe();
                // SAFETY: blocks a signal in this thread, which ends with this function.
                unsafe {
                    libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut())
                };
                with();
            });
        });
    }

    #[test]
    fn h7_nothing_is_left_pending_where_it_was_blocked() {
        with_the_signal_blocked(|| {
            let pipe = without_a_reader();
            for write in WAYS {
                assert_eq!(write(&pipe.as_fd(), b"x"), Err(Errno::PIPE));
                assert!(!is_pending(), "its own signal was taken");
            }
        });
    }

    #[test]
    fn h7_a_signal_that_was_pending_stays() {
        with_the_signal_blocked(|| {
            let pipe = without_a_reader();
            // An ordinary write raises one for this thread.
            assert_eq!(rustix::io::write(&pipe, b"x"), Err(Errno::PIPE));
            assert!(is_pending());
            for write in WAYS {
                assert_eq!(write(&pipe.as_fd(), b"x"), Err(Errno::PIPE));
                assert!(is_pending(), "it is the host's");
            }
            take(&broken_pipe());
            assert!(!is_pending());
        });
    }

    #[test]
    fn h7_the_mask_is_what_it_was_and_bytes_arrive() {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        for write in WAYS {
            assert_eq!(write(&writer.as_fd(), b"here"), Ok(4));
            let mut bytes = [0; 8];
            assert_eq!(rustix::io::read(&reader, &mut bytes), Ok(4));
        }
        let mut mask = MaybeUninit::uninit();
        // SAFETY: reads the mask of this thread into a place for it.
        unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), mask.as_mut_ptr());
        }
        // SAFETY: written above.
        assert!(!has_broken_pipe(&unsafe { mask.assume_init() }));
    }
}
