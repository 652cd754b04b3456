//! Signal handlers, timers and forks: what the standard library has no words for.

#![allow(unsafe_code, reason = "sigaction, timers and fork are unsafe by nature")]

use crate::process::live_with_the_parent;
use ringbell::ServerHandle;
use ringbell::sync::{Ordering, PlainU64};
use std::sync::OnceLock;
use std::time::Duration;

static HANDLE: OnceLock<ServerHandle> = OnceLock::new();
static CAUGHT: PlainU64 = PlainU64::new(0);

/// SIGTERM shuts the server down from within the signal handler.
pub fn shut_down_on_sigterm(handle: ServerHandle) {
    extern "C" fn on_signal(_: libc::c_int) {
        if let Some(handle) = HANDLE.get() {
            handle.shutdown(Some(Duration::from_secs(1)));
        }
    }
    HANDLE.set(handle).expect("once");
    install(libc::SIGTERM, on_signal);
}

/// Counts `signal` from now on, and lets it interrupt system calls: the handler is installed
/// without SA_RESTART.
pub fn count(signal: libc::c_int) {
    extern "C" fn on_signal(_: libc::c_int) {
        CAUGHT.fetch_add(1, Ordering::Relaxed);
    }
    install(signal, on_signal);
}

/// SIGPIPE kills from now on, as it does in programs that are not Rust's.
pub fn die_of_sigpipe() {
    // SAFETY: restores the default action; no handler of this process is involved.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// How many signals were counted.
#[must_use]
pub fn caught() -> u64 {
    CAUGHT.load(Ordering::Relaxed)
}

fn install(signal: libc::c_int, handler: extern "C" fn(libc::c_int)) {
    // SAFETY: all-zero bytes are a valid `sigaction`: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as libc::sighandler_t;
    // SAFETY: the handler does only what is async-signal-safe: atomics, and `shutdown`, which
    // promises to be.
    let result = unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    assert_eq!(result, 0, "sigaction");
}

/// Runs `body` in a forked child; the status that it exits with.
///
/// Only in processes with one thread, or for bodies that neither allocate nor lock more than the
/// child may: the test programs call it from roles whose other threads hold no locks then.
///
/// # Panics
/// If there can be no child, or it dies of a signal.
pub fn in_a_fork(body: impl FnOnce() -> u8) -> u8 {
    let Some(child) = fork() else {
        leave(std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(99))
    };
    result_of(child)
}

/// Forks; the child in the parent, `None` in the child, which has to [`leave`]. For the same
/// callers as [`in_a_fork`].
///
/// # Panics
/// If there can be no child.
#[must_use]
pub fn fork() -> Option<i32> {
    // SAFETY: see above: the callers take care of what the child does.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork");
    (pid != 0).then_some(pid)
}

/// Ends this process at once, running nothing of its parent's.
pub fn leave(status: u8) -> ! {
    // SAFETY: as said.
    unsafe { libc::_exit(i32::from(status)) }
}

/// How a child of [`fork`] has left.
///
/// # Panics
/// If it dies of a signal.
#[must_use]
pub fn result_of(pid: i32) -> u8 {
    let mut status = 0;
    // SAFETY: waits for the child just made.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(waited, pid, "waitpid");
    assert!(libc::WIFEXITED(status), "the forked child died of a signal: {status}");
    u8::try_from(libc::WEXITSTATUS(status)).expect("a byte")
}

/// Becomes the user `uid`, for good.
///
/// # Panics
/// If that is not allowed.
pub fn become_user(uid: u32) {
    // SAFETY: changes the credentials of all threads; nothing else is affected.
    assert_eq!(unsafe { libc::setgid(uid) }, 0, "setgid");
    // SAFETY: as above.
    assert_eq!(unsafe { libc::setuid(uid) }, 0, "setuid");
    live_with_the_parent();
}

/// Sends this process `signal` every `interval` of real time.
///
/// # Panics
/// If there can be no timer.
pub fn storm(interval: Duration) {
    let time = libc::timeval {
        tv_sec: 0,
        tv_usec: interval.as_micros().try_into().expect("a short time"),
    };
    let timer = libc::itimerval { it_interval: time, it_value: time };
    // SAFETY: the structure is valid for the call.
    let result =
        unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
    assert_eq!(result, 0, "setitimer");
}
