//! L0: the seam. The only file that names `std::sync::atomic` or loom; `clippy.toml` keeps it so.
//!
//! A build with `--cfg ringbell_loom` swaps the primitives for loom's, and nothing else: ring and bell are the
//! same code in the model checker as in production.

#![allow(clippy::disallowed_types, reason = "this is the seam")]

#[cfg(ringbell_loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, fence};
#[cfg(not(ringbell_loom))]
pub use std::sync::atomic::{AtomicU32, AtomicU64, fence};

pub use std::sync::atomic::Ordering;

/// Atomics that belong to one process and to no modelled protocol: flags between threads and signal handlers.
pub use std::sync::atomic::{AtomicBool, AtomicU64 as PlainU64};

/// Tells the CPU (or the model checker) that this thread waits for another one.
#[inline]
pub fn spin_hint() {
    #[cfg(ringbell_loom)]
    loom::thread::yield_now();
    #[cfg(not(ringbell_loom))]
    std::hint::spin_loop();
}
