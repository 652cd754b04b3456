//! Knowing that this process is a fork of the one that made something, without a system call.
//!
//! A private page is marked to be wiped on fork: in a child it reads as zero. Each process that
//! asks gets a token of its own, which is what the page holds while that process lives.

#![allow(unsafe_code, reason = "a page with MADV_WIPEONFORK")]

use crate::base::sync::{Ordering, PlainU64};
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::sync::OnceLock;

/// Stands for one process: differs in a forked child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin(u64);

static PAGE: OnceLock<Option<&'static PlainU64>> = OnceLock::new();
static LAST: PlainU64 = PlainU64::new(0);

fn page() -> Option<&'static PlainU64> {
    *PAGE.get_or_init(|| {
        const LEN: usize = 4096;
        // SAFETY: a fresh private mapping; nothing else is replaced.
        let page = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                LEN,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }
        .ok()?;
        // SAFETY: the range is the mapping just made.
        if unsafe { rustix::mm::madvise(page, LEN, Advice::LinuxWipeOnFork) }.is_err() {
            // Without the advice a child cannot be told from its parent; leave the page unused.
            return None;
        }
        // SAFETY: page-aligned, zeroed, readable and writable, and never unmapped.
        Some(unsafe { &*page.cast::<PlainU64>() })
    })
}

impl Origin {
    /// The calling process.
    pub(crate) fn here() -> Self {
        let Some(page) = page() else { return Self(0) };
        // Relaxed throughout: threads of one process may race to set the token; the first one wins.
        let seen = page.load(Ordering::Relaxed);
        if seen != 0 {
            return Self(seen);
        }
        let fresh = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        match page.compare_exchange(0, fresh, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => Self(fresh),
            Err(other) => Self(other),
        }
    }

    /// What stands for nobody: it is never here, where processes can be told apart.
    pub(crate) const NOWHERE: Self = Self(u64::MAX);

    /// A number for the process, never 0; greater in each child than in its parent.
    pub(crate) fn token(self) -> u64 {
        // 0 where processes cannot be told apart.
        self.0.max(1)
    }

    /// Whether the calling process is the one that this stands for.
    #[inline]
    pub(crate) fn is_here(self) -> bool {
        match PAGE.get() {
            Some(Some(page)) => page.load(Ordering::Relaxed) == self.0,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_process_is_here() {
        let origin = Origin::here();
        assert!(origin.is_here());
        assert_eq!(origin, Origin::here());
    }
}
