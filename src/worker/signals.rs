//! Sets of signals, and the mask of a thread.

#![allow(unsafe_code, reason = "sets of signals")]

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::ptr;

/// A set of signals.
pub(super) fn signals(wanted: impl IntoIterator<Item = c_int>) -> libc::sigset_t {
    let mut set = MaybeUninit::zeroed();
    // SAFETY: there is room for a set.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for signal in wanted {
        // SAFETY: the set was made above. A number that is no signal's is refused.
        unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
    }
    // SAFETY: made above.
    unsafe { set.assume_init() }
}

/// Blocks all signals in this thread; those that were blocked before.
pub(super) fn block_all_signals() -> libc::sigset_t {
    let (all, mut before) = (signals(1..=64), signals([]));
    // SAFETY: both sets are valid, and the mask of a thread is its own.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before) };
    before
}

pub(super) fn set_signal_mask(mask: &libc::sigset_t) {
    // SAFETY: the set is valid, and the mask of a thread is its own.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, ptr::null_mut()) };
}
