//! Mappings that show nothing before they are told to.
//!
//! A process that locks all that it maps (`mlockall` with `MCL_FUTURE` and without `MCL_ONFAULT`)
//! has the kernel allocate every missing page of a mapping when it is made, at its own cost. Not
//! those of a mapping that may be neither read nor written, and not when that changes. So the
//! server maps the segments of a session this way, and shows them once it knows that no page is
//! missing.

#![allow(unsafe_code, reason = "mmap without rights, mprotect, munmap")]

use super::segment_error::SegmentError;
use core::ffi::c_void;
use core::ptr::{self, NonNull};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap, mmap_anonymous, mprotect, munmap};
use std::os::fd::OwnedFd;

/// A range of addresses.
#[derive(Debug)]
pub(super) struct Mapping {
    at: NonNull<c_void>,
    len: usize,
}

// SAFETY: nothing is read or written through it. It may be changed and unmapped by any thread.
unsafe impl Send for Mapping {}
// SAFETY: a shared reference to it can only give its pages rights, which any thread may do.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Addresses that a mapping will take. A process that locks all that it maps may be refused a
    /// mapping; with this it learns that before a client relies on it.
    pub(super) fn reserved(size: u64) -> Result<Self, SegmentError> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping, wherever there is room, which nobody may read or write.
        Self::new(size, |len| unsafe {
            mmap_anonymous(ptr::null_mut(), len, ProtFlags::empty(), flags)
        })
    }

    /// A whole memfd, shared, which nobody may read or write yet. No page of it is allocated.
    pub(super) fn hidden(fd: &OwnedFd, size: u64) -> Result<Self, SegmentError> {
        // SAFETY: a new mapping, wherever there is room, which nobody may read or write.
        Self::new(size, |len| unsafe {
            mmap(ptr::null_mut(), len, ProtFlags::empty(), MapFlags::SHARED, fd, 0)
        })
    }

    fn new(
        size: u64,
        make: impl FnOnce(usize) -> rustix::io::Result<*mut c_void>,
    ) -> Result<Self, SegmentError> {
        let len = usize::try_from(size).map_err(|_| SegmentError::OutOfMemory)?;
        let at = NonNull::new(make(len)?).expect("a mapping is never at address 0");
        Ok(Self { at, len })
    }

    /// Lets it be read, and written if `writable`. No page is allocated.
    pub(super) fn show(&self, writable: bool) -> Result<(), SegmentError> {
        let rights =
            if writable { MprotectFlags::READ | MprotectFlags::WRITE } else { MprotectFlags::READ };
        // SAFETY: the range is mapped as long as `self` lives. Rights are only added.
        unsafe { mprotect(self.at.as_ptr(), self.len, rights) }?;
        Ok(())
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.at.cast()
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and only here unmapped; what points into it keeps it.
        let _ = unsafe { munmap(self.at.as_ptr(), self.len) };
    }
}
