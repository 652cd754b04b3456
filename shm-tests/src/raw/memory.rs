//! Memory that is written at will, and segments as a server makes them.

#![allow(unsafe_code, reason = "maps memory that others write, as hostile peers do")]

use super::messages::Welcome;
use ringbell::layout::{self, Identity, SegmentKind, offset};
use ringbell::memory::Window;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use std::ptr::NonNull;
use std::sync::Arc;

/// All seals that a segment has which its maker alone writes.
pub const CLOSED: SealFlags =
    SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::FUTURE_WRITE).union(SealFlags::SEAL);

struct Mapping {
    base: NonNull<core::ffi::c_void>,
    len: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread.
unsafe impl Send for Mapping {}

// SAFETY: it is only ever unmapped, by its last owner.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing borrowed from it lives on: windows keep it alive.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr(), self.len) };
    }
}

/// Maps `len` bytes of a descriptor.
///
/// # Errors
/// Those of `mmap`.
pub fn map(fd: impl AsFd, len: u64, writable: bool) -> rustix::io::Result<Window> {
    let len = usize::try_from(len).expect("64 bits");
    let protection = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
    // SAFETY: a new mapping, which replaces nothing.
    let base = unsafe {
        rustix::mm::mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED, fd, 0)
    }?;
    let base = NonNull::new(base).expect("never at 0");
    let keep = Arc::new(Mapping { base, len });
    // SAFETY: mapped above and kept by `keep`; no reference to it exists. The descriptors of this
    // file's users cannot shrink, or are their own.
    Ok(unsafe { Window::new(base.cast(), len, writable, keep) })
}

/// Drops the pages of a mapping from the file beneath it; what `madvise(MADV_REMOVE)` says.
///
/// # Errors
/// Those of `madvise`.
pub fn punch(fd: impl AsFd, len: u64) -> rustix::io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    fallocate(fd, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, len)
}

/// The four segments of a server that may do what it likes.
#[derive(Debug)]
pub struct Segments {
    /// Request, response, status, bell.
    pub descriptors: Vec<OwnedFd>,
    /// The request segment.
    pub request: Window,
    /// The response segment, writable.
    pub response: Window,
    /// The status segment, writable.
    pub status: Window,
}

/// The descriptor of a segment with this size, these seals and this identity.
///
/// # Panics
/// If there can be none.
#[must_use]
pub fn segment(identity: &Identity, size: u64, seals: SealFlags) -> (OwnedFd, Window) {
    let fd = rustix::fs::memfd_create("fake", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .expect("memfd");
    rustix::fs::ftruncate(&fd, size.max(4096)).expect("ftruncate");
    let window = map(&fd, size.max(4096), true).expect("map");
    let pair = |first: u32, second: u32| u64::from(first) | u64::from(second) << 32;
    let words = [
        identity.magic,
        pair(identity.version, identity.kind),
        identity.generation,
        identity.session,
        identity.capacity,
        identity.total,
        identity.created_ns,
    ];
    for (index, word) in words.into_iter().enumerate() {
        window
            .own_word(offset::IDENTITY + 8 * index)
            .store(word, ringbell::sync::Ordering::Relaxed);
    }
    rustix::fs::ftruncate(&fd, size).expect("ftruncate");
    rustix::fs::fcntl_add_seals(&fd, seals).expect("seals");
    (fd, window)
}

/// What the identity of a segment of `welcome` is.
#[must_use]
pub fn identity(welcome: &Welcome, kind: SegmentKind) -> Identity {
    let (session, capacity, total) = match kind {
        SegmentKind::Request => (
            welcome.session,
            welcome.request_capacity,
            layout::ring_segment_size(welcome.request_capacity),
        ),
        SegmentKind::Response => (
            welcome.session,
            welcome.response_capacity,
            layout::ring_segment_size(welcome.response_capacity),
        ),
        SegmentKind::Status => {
            (0, welcome.armed_words, layout::status_segment_size(welcome.armed_words))
        }
        SegmentKind::Bell => (u64::from(welcome.domain), 0, layout::BELL_SEGMENT_SIZE),
    };
    Identity {
        magic: layout::MAGIC,
        version: layout::LAYOUT_VERSION,
        kind: kind as u32,
        generation: welcome.generation,
        session,
        capacity,
        total,
        created_ns: 1,
    }
}

/// The seals of a segment of this kind when it reaches the client.
#[must_use]
pub fn seals(kind: SegmentKind) -> SealFlags {
    match kind {
        SegmentKind::Request => SealFlags::SHRINK | SealFlags::GROW,
        SegmentKind::Response | SegmentKind::Status => CLOSED,
        SegmentKind::Bell => SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    }
}

/// All kinds, in the order of their descriptors.
pub const KINDS: [SegmentKind; 4] =
    [SegmentKind::Request, SegmentKind::Response, SegmentKind::Status, SegmentKind::Bell];

impl Segments {
    /// Honest segments for `welcome`.
    #[must_use]
    pub fn honest(welcome: &Welcome) -> Self {
        let make = |kind| {
            let identity = identity(welcome, kind);
            segment(&identity, identity.total, seals(kind))
        };
        let [request, response, status, bell] = KINDS.map(make);
        Self {
            descriptors: vec![request.0, response.0, status.0, bell.0],
            request: request.1,
            response: response.1,
            status: status.1,
        }
    }
}
