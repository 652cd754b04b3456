//! Memory that the two sides of a limit share: a memfd, handed over through a socket, mapped by
//! both.
#![allow(
    unsafe_code,
    reason = "maps memory that another process writes, and copies to and from it"
)]
#![allow(
    clippy::disallowed_types,
    reason = "the limits are written without the library, and so without its seam"
)]

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::descriptors;
use crate::outcome::Outcome;
use crate::system::{Ready, Setup};

/// Bytes of a cache line.
pub(super) const LINE: usize = 64;

/// A shared, writable mapping of a whole memfd.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    length: usize,
}

impl Mapping {
    /// New zeroed memory, and the descriptor with which another process maps the same.
    pub(super) fn create(length: usize) -> Outcome<(Self, OwnedFd)> {
        let memory = memfd_create("race-limit", MemfdFlags::CLOEXEC)?;
        ftruncate(&memory, u64::try_from(length)?)?;
        Ok((Self::of(&memory, length)?, memory))
    }

    /// Maps the first `length` bytes of a memfd.
    pub(super) fn of(memory: &OwnedFd, length: usize) -> Outcome<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: the kernel chooses a free address range, so no existing memory of this process
        // changes.
        let base = unsafe { mmap(ptr::null_mut(), length, protection, flags, memory, 0) }?;
        let base = NonNull::new(base.cast()).ok_or("the kernel mapped memory at address 0")?;
        Ok(Self { base, length })
    }

    /// Keeps the mapping for as long as the process lives, which is one trial.
    pub(super) fn leak(self) -> &'static Self {
        Box::leak(Box::new(self))
    }

    /// The address of a range, after the check that it lies within the mapping and is aligned for a
    /// u64.
    fn at(&self, offset: usize, length: usize) -> NonNull<u8> {
        assert!(offset.is_multiple_of(8), "words are aligned");
        assert!(
            offset.checked_add(length).is_some_and(|end| end <= self.length),
            "within the mapping"
        );
        // SAFETY: `offset` is at most `length`, so the result lies within the mapping, or one past
        // its end.
        unsafe { self.base.add(offset) }
    }

    /// The eight-byte word at `offset`.
    pub(super) fn word(&self, offset: usize) -> &AtomicU64 {
        let word = self.at(offset, size_of::<AtomicU64>()).cast().as_ptr();
        // SAFETY: `at` checked bounds and alignment; the mapping outlives the reference; both
        // processes access this word with eight-byte atomics only.
        unsafe { AtomicU64::from_ptr(word) }
    }

    /// The four-byte word at `offset`, for a futex.
    pub(super) fn futex(&self, offset: usize) -> &AtomicU32 {
        let word = self.at(offset, size_of::<AtomicU32>()).cast().as_ptr();
        // SAFETY: as in `word`; both processes access this one with four-byte atomics only.
        unsafe { AtomicU32::from_ptr(word) }
    }

    /// The plain bytes of a range, owned by whichever side the protocol says.
    pub(super) fn area(&self, offset: usize, length: usize) -> Area {
        Area { start: self.at(offset, length), length }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is the one that `mmap` returned. References borrow from the mapping, so
        // none is left; of areas the users of `Area` promise it.
        if let Err(error) = unsafe { munmap(self.base.as_ptr().cast(), self.length) } {
            eprintln!("race: munmap: {error}");
        }
    }
}

/// Plain bytes in shared memory. At any time one side owns them, and a flag that is stored with
/// Release and seen with Acquire hands them over: that is the contract of every method.
#[derive(Clone, Copy, Debug)]
pub(super) struct Area {
    start: NonNull<u8>,
    length: usize,
}

impl Area {
    /// A piece of the area.
    #[inline(always)]
    pub(super) fn part(&self, offset: usize, length: usize) -> Self {
        assert!(offset + length <= self.length, "within the area");
        // SAFETY: `offset` is at most `length`, so the result lies within the mapping, or one past
        // its end.
        Self { start: unsafe { self.start.add(offset) }, length }
    }

    /// Fills the area.
    ///
    /// # Safety
    /// The mapping is still there and this side owns the area.
    #[inline(always)]
    pub(super) unsafe fn write(&self, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.length, "a payload fills its area");
        // SAFETY: lengths agree; private memory does not overlap a mapping; nobody else accesses it
        // (contract).
        unsafe { copy(bytes.as_ptr(), self.start.as_ptr(), self.length) }
    }

    /// Copies the area out, in place of what `bytes` held.
    ///
    /// # Safety
    /// The mapping is still there and this side owns the area.
    #[inline(always)]
    pub(super) unsafe fn read(&self, bytes: &mut Vec<u8>) {
        bytes.clear();
        bytes.reserve(self.length);
        // SAFETY: the vector has room for `length` bytes; it is private; nobody else writes the
        // area (contract).
        unsafe { copy(self.start.as_ptr(), bytes.as_mut_ptr(), self.length) };
        // SAFETY: the line above initialized exactly this many bytes.
        unsafe { bytes.set_len(self.length) };
    }

    /// Fills the area from another one of the same length.
    ///
    /// # Safety
    /// The mappings are still there, the areas do not overlap, and this side owns both.
    #[inline(always)]
    pub(super) unsafe fn copy_from(&self, other: &Self) {
        assert_eq!(self.length, other.length, "areas of one length");
        // SAFETY: lengths agree; disjoint and owned by this side (contract).
        unsafe { copy(other.start.as_ptr(), self.start.as_ptr(), self.length) }
    }

    /// Compares the area with `bytes`, in place.
    ///
    /// # Safety
    /// The mapping is still there and this side owns the area until the call returns.
    #[inline(always)]
    pub(super) unsafe fn holds(&self, bytes: &[u8]) -> bool {
        // SAFETY: `Mapping::area` checked the bounds, and nobody writes the area while the slice
        // lives (contract).
        let area = unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) };
        // As arrays where the length is that of a record: vector instructions in place of a call.
        match (<&[u8; LINE]>::try_from(area), <&[u8; LINE]>::try_from(bytes)) {
            (Ok(area), Ok(bytes)) => area == bytes,
            _ => area == bytes,
        }
    }
}

/// `memcpy`, with the short lengths known to the compiler: a call would be a tenth of a one-line
/// round trip.
///
/// # Safety
/// As of [`ptr::copy_nonoverlapping`].
#[inline(always)]
unsafe fn copy(from: *const u8, to: *mut u8, length: usize) {
    match length {
        // SAFETY: the caller's promise, for this very length.
        16 => unsafe { ptr::copy_nonoverlapping(from, to, 16) },
        // SAFETY: as above.
        48 => unsafe { ptr::copy_nonoverlapping(from, to, 48) },
        // SAFETY: as above.
        56 => unsafe { ptr::copy_nonoverlapping(from, to, 56) },
        // SAFETY: as above.
        64 => unsafe { ptr::copy_nonoverlapping(from, to, 64) },
        // SAFETY: as above.
        length => unsafe { ptr::copy_nonoverlapping(from, to, length) },
    }
}

/// Server side: announces itself, and gives the first client that comes memory of `length` bytes.
pub(super) fn offer(setup: &Setup, ready: Ready<'_>, length: usize) -> Outcome<&'static Mapping> {
    let listener = UnixListener::bind(&setup.path)?;
    let (mapping, memory) = Mapping::create(length)?;
    ready()?;
    descriptors::send(&listener.accept()?.0, &[memory.as_fd()])?;
    Ok(mapping.leak())
}

/// Client side: the memory that the server offers.
pub(super) fn adopt(setup: &Setup, length: usize) -> Outcome<&'static Mapping> {
    let [memory] = descriptors::receive(&UnixStream::connect(&setup.path)?)?;
    Ok(Mapping::of(&memory, length)?.leak())
}

/// Spins until the word has the wanted value.
#[inline(always)]
pub(super) fn spin_until(word: &AtomicU64, wanted: u64) {
    while word.load(std::sync::atomic::Ordering::Acquire) != wanted {
        std::hint::spin_loop();
    }
}
