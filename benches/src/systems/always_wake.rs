//! A wake call for nobody.
#![allow(clippy::disallowed_types, reason = "what a system costs that is not Ringbell")]

use std::sync::atomic::AtomicU32;

use rustix::thread::futex;

/// Nobody waits here. In memory of this process, which the kernel looks up as it looks up shared
/// memory.
static WORD: AtomicU32 = AtomicU32::new(0);

/// What a sender costs that does not know whether somebody sleeps.
#[inline]
pub(super) fn wake_nobody() {
    let woken = futex::wake(&WORD, futex::Flags::empty(), 1);
    debug_assert_eq!(woken, Ok(0), "nobody waits there");
}
