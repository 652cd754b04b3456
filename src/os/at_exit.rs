//! What is done when the process ends by `exit`, or by the return of its `main`.

#![allow(unsafe_code, reason = "atexit through libc")]

/// Has `hook` called then, in this process and in its forked children. The threads go on meanwhile,
/// and may hold locks. If there is no memory for that, it is not called.
pub(crate) fn at_exit(hook: extern "C" fn()) {
    // SAFETY: the function is one of this program's, which is never unloaded while it is needed: a
    // library that is unloaded has its hooks called then.
    let _ = unsafe { libc::atexit(hook) };
}
