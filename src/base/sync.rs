//! The seam. The only file that names `std::sync::atomic` or loom; `clippy.toml` keeps it so.
//!
//! A build with `--cfg ringbell_loom` swaps the primitives for loom's, and nothing else: ring and
//! bell are the same code in the model checker as in production. Natively they are newtypes, so
//! that clippy can tell an atomic of the seam from a raw one.

#![allow(clippy::disallowed_types, reason = "this is the seam")]

pub use std::sync::atomic::Ordering;

#[cfg(ringbell_loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, fence};
#[cfg(not(ringbell_loom))]
pub use std::sync::atomic::fence;

#[cfg(ringbell_loom)]
pub(crate) use loom::{
    sync::{Condvar, Mutex, MutexGuard},
    thread, thread_local,
};
#[cfg(not(ringbell_loom))]
pub(crate) use std::{
    sync::{Condvar, Mutex, MutexGuard},
    thread, thread_local,
};

macro_rules! atomic {
    ($(#[$doc:meta])* $name:ident, $std:path, $value:ty) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        #[repr(transparent)]
        pub struct $name($std);

        impl $name {
            /// Makes one.
            pub const fn new(value: $value) -> Self {
                Self(<$std>::new(value))
            }

            /// As `std::sync::atomic` has it.
            #[inline]
            pub fn load(&self, ordering: Ordering) -> $value {
                self.0.load(ordering)
            }

            /// As `std::sync::atomic` has it.
            #[inline]
            pub fn store(&self, value: $value, ordering: Ordering) {
                self.0.store(value, ordering);
            }

            /// As `std::sync::atomic` has it.
            #[inline]
            #[allow(clippy::missing_errors_doc, reason = "see the standard library")]
            pub fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.0.compare_exchange(current, new, success, failure)
            }
        }
    };
}

#[cfg(not(ringbell_loom))]
atomic!(
    /// A 32-bit atomic of the protocol; also a futex word.
    AtomicU32, std::sync::atomic::AtomicU32, u32
);
#[cfg(not(ringbell_loom))]
atomic!(
    /// A 64-bit atomic of the protocol.
    AtomicU64, std::sync::atomic::AtomicU64, u64
);
atomic!(
    /// A number that belongs to one process and to no modelled protocol: counters, and what signal
    /// handlers say.
    PlainU64, std::sync::atomic::AtomicU64, u64
);
atomic!(
    /// A flag that belongs to one process and to no modelled protocol.
    PlainBool, std::sync::atomic::AtomicBool, bool
);

/// A pointer that belongs to one process and to no modelled protocol.
#[cfg(not(ringbell_loom))]
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct PlainPtr<T>(std::sync::atomic::AtomicPtr<T>);

#[cfg(not(ringbell_loom))]
impl<T> PlainPtr<T> {
    /// Points nowhere.
    pub(crate) const fn null() -> Self {
        Self(std::sync::atomic::AtomicPtr::new(std::ptr::null_mut()))
    }

    /// As `std::sync::atomic` has it.
    pub(crate) fn load(&self, ordering: Ordering) -> *mut T {
        self.0.load(ordering)
    }

    /// Sets it if it points nowhere; whether it did.
    pub(crate) fn set_once(&self, new: *mut T, success: Ordering) -> bool {
        self.0.compare_exchange(std::ptr::null_mut(), new, success, Ordering::Relaxed).is_ok()
    }
}

#[cfg(not(ringbell_loom))]
impl AtomicU64 {
    /// As `std::sync::atomic` has it.
    #[inline]
    pub fn fetch_add(&self, value: u64, ordering: Ordering) -> u64 {
        self.0.fetch_add(value, ordering)
    }

    /// As `std::sync::atomic` has it.
    #[inline]
    pub fn fetch_sub(&self, value: u64, ordering: Ordering) -> u64 {
        self.0.fetch_sub(value, ordering)
    }

    /// As `std::sync::atomic` has it.
    #[inline]
    pub fn fetch_or(&self, value: u64, ordering: Ordering) -> u64 {
        self.0.fetch_or(value, ordering)
    }
}

#[cfg(not(ringbell_loom))]
impl AtomicU32 {
    /// As the kernel interface wants it.
    pub(crate) fn as_futex(&self) -> &std::sync::atomic::AtomicU32 {
        &self.0
    }
}

impl PlainBool {
    /// As `std::sync::atomic` has it.
    pub fn swap(&self, value: bool, ordering: Ordering) -> bool {
        self.0.swap(value, ordering)
    }
}

impl PlainU64 {
    /// As `std::sync::atomic` has it.
    pub fn fetch_add(&self, value: u64, ordering: Ordering) -> u64 {
        self.0.fetch_add(value, ordering)
    }

    /// As `std::sync::atomic` has it.
    pub fn fetch_sub(&self, value: u64, ordering: Ordering) -> u64 {
        self.0.fetch_sub(value, ordering)
    }

    /// As `std::sync::atomic` has it.
    pub fn swap(&self, value: u64, ordering: Ordering) -> u64 {
        self.0.swap(value, ordering)
    }

    /// As `std::sync::atomic` has it.
    pub fn fetch_max(&self, value: u64, ordering: Ordering) -> u64 {
        self.0.fetch_max(value, ordering)
    }

    /// Subtracts `value` unless that is more than there is; whether it did.
    pub fn take(&self, value: u64, ordering: Ordering) -> bool {
        self.0.fetch_update(ordering, ordering, |there| there.checked_sub(value)).is_ok()
    }
}

/// Tells the CPU (or the model checker) that this thread waits for another one.
#[inline]
pub fn spin_hint() {
    #[cfg(ringbell_loom)]
    loom::thread::yield_now();
    #[cfg(not(ringbell_loom))]
    std::hint::spin_loop();
}

/// Locks. A lock that a panic left behind is as good as any other: what is locked here is
/// consistent between any two statements that can panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
