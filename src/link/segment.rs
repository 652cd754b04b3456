//! Segments: memfds that are created, sized, sealed, mapped, and verified before they are
//! mapped.
//!
//! Descriptors flow from the server to the client only. What one end guarantees by seals, the other
//! end checks:
//!
//! | kind | seals when sent | mapped by the server | mapped by the client |
//! |---|---|---|---|
//! | request | `SHRINK GROW`; its client adds `FUTURE_WRITE SEAL` | read-only, after Ready | writable, before it adds them |
//! | response | `SHRINK GROW FUTURE_WRITE SEAL` | before it is sealed; writable after Ready | read-only |
//! | status | `SHRINK GROW FUTURE_WRITE SEAL` | writable, before it is sealed | read-only |
//! | bell (own user only) | `SHRINK GROW SEAL` | read-only | writable |
//!
//! # What a peer can do to a file that it holds
//!
//! **Keep its inode's lock.** A client that calls `write` on a memfd, from a buffer whose page
//! fault never returns, holds the lock for as long as it likes. Any other thread that wants it
//! sleeps uninterruptibly. So once a descriptor has been sent, the server makes no call on it that
//! takes this lock: no `F_ADD_SEALS`, `fallocate`, `ftruncate`, `write`. That is why the *client*
//! seals its request segment. The server reads the seals (`F_GET_SEALS` takes no lock), maps, and
//! asks which pages are there (`mincore` takes no inode lock either, nor does `mprotect`).
//!
//! **Punch holes.** A load from a hole waits until the punch is over, which its author can stretch
//! to seconds, and allocates a page at the reader's cost. Seals are set under the inode's lock:
//! once `FUTURE_WRITE` shows, no punch runs and none can begin. So the server touches a request
//! segment only behind its check, and begins a session only if no page of it is missing.
//!
//! **A bell page** that many clients map cannot carry `FUTURE_WRITE`, since each new client needs a
//! new writable mapping. Only clients of the server's own user share one. They could stop the
//! server in other ways (they may trace it). The bell of every other session is a word of its own
//! request segment.
//!
//! # Memory
//!
//! The kernel charges a page to the memory group of the process that touches it first, for as long
//! as anybody holds it. So **the client allocates the pages of its session**, of both segments,
//! before it says that it is ready: it writes zeros to its request segment, and populates both
//! (`MADV_POPULATE_READ`; `MADV_POPULATE_WRITE` where it may not write). There a lack of memory is
//! an error. The server makes and sizes both files and touches no page of them. It writes the
//! identity of the response segment once the session begins; the client writes that of the request
//! segment.
//!
//! A mapping alone must not allocate them either, as it does in a process that locks all that it
//! maps: both mappings of the server show nothing yet (`mapping.rs`).
//!
//! Before that the server asks whether every page is there (`segment_pair.rs`): from then on
//! no access of either side meets a hole, which could be SIGBUS and would be charged to the server.
//! None can be made any more, as both files are sealed against it. What can happen to a page is
//! that it is swapped out. Then the fault that brings it back is charged to the group that it was
//! charged to before, and it is not a hole: see [`are_allocated`].
//!
//! The status page and the bell page are the server's own: they are allocated by `fallocate` before
//! they are sent.

#![allow(
    unsafe_code,
    reason = "a window is made over a mapping whose seals and size were checked here"
)]

use super::mapping::Mapping;
pub use super::segment_error::SegmentError;
use crate::base::sync::Ordering;
use crate::memory::Window;
use crate::memory::layout::{self, Identity, Peer, SegmentKind};
use core::ops::Range;
use core::ptr::NonNull;
use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, FileType, MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use std::any::Any;
use std::ffi::CStr;
use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

/// Neither size can change: a mapping of exactly this length never reads beyond the end.
pub(super) const SIZED: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);
/// What turns a sized segment into one that only its present mappings can write.
pub(super) const CLOSED: SealFlags = SealFlags::FUTURE_WRITE.union(SealFlags::SEAL);

/// What a segment is: the part of its identity that both ends know beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) kind: SegmentKind,
    pub(crate) generation: u64,
    /// The session; the domain for a bell; 0 for the status segment.
    pub(crate) session: u64,
    /// Of the ring, in bytes; the number of armed words for the status segment; 0 for a bell.
    pub(crate) capacity: u64,
}

impl Label {
    /// Size of the segment in bytes.
    pub(crate) fn size(&self) -> u64 {
        size(self.kind, self.capacity)
    }

    pub(super) fn identity(&self) -> Identity {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let now = std::time::Duration::try_from(now).unwrap_or_default();
        Identity {
            magic: layout::MAGIC,
            version: layout::LAYOUT_VERSION,
            kind: self.kind as u32,
            generation: self.generation,
            session: self.session,
            capacity: self.capacity,
            total: self.size(),
            created_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    /// Whether the identity of a segment is the announced one.
    fn check(&self, found: &Identity) -> Result<(), SegmentError> {
        let differs = |field| Err(SegmentError::Identity(field));
        match *found {
            Identity { magic, .. } if magic != layout::MAGIC => differs("magic"),
            Identity { version, .. } if version != layout::LAYOUT_VERSION => {
                differs("layout version")
            }
            Identity { kind, .. } if kind != self.kind as u32 => differs("kind"),
            Identity { generation, .. } if generation != self.generation => differs("generation"),
            Identity { session, .. } if session != self.session => differs("session"),
            Identity { capacity, .. } if capacity != self.capacity => differs("capacity"),
            Identity { total, .. } if total != self.size() => differs("size"),
            _ => Ok(()),
        }
    }
}

pub(super) fn size(kind: SegmentKind, capacity: u64) -> u64 {
    match kind {
        SegmentKind::Request | SegmentKind::Response => layout::ring_segment_size(capacity),
        SegmentKind::Status => layout::status_segment_size(capacity),
        SegmentKind::Bell => layout::BELL_SEGMENT_SIZE,
    }
}

/// A segment and this process's mapping of it.
#[derive(Debug)]
pub(crate) struct Segment {
    /// Shared with whoever hands it out.
    pub(crate) fd: Arc<OwnedFd>,
    pub(crate) window: Window,
}

impl Segment {
    /// Makes the status segment of a server, mapped writable. `me` describes the server to tools.
    pub(crate) fn status(
        generation: u64,
        armed_words: u64,
        me: &Peer,
    ) -> Result<Self, SegmentError> {
        let label =
            Label { kind: SegmentKind::Status, generation, session: 0, capacity: armed_words };
        let fd = create(&label)?;
        let window = window(map(&fd, label.size(), true)?, true);
        // From here on this mapping is the only one that can write.
        rustix::fs::fcntl_add_seals(&fd, SIZED | CLOSED)?;
        let segment = Self { fd: Arc::new(fd), window };
        put(&segment.window, layout::offset::IDENTITY, &identity_words(&label.identity()));
        put(&segment.window, layout::offset::PEER, &peer_words(me));
        Ok(segment)
    }

    /// Makes the bell page of the server's own user, mapped read-only: its clients write it.
    pub(crate) fn bell(generation: u64, domain: u32) -> Result<Self, SegmentError> {
        let label =
            Label { kind: SegmentKind::Bell, generation, session: domain.into(), capacity: 0 };
        check_limit(label.size())?;
        let fd = memfd(label.kind, label.size())?;
        // Allocates its one page.
        write_identity(&fd, &label)?;
        rustix::fs::fcntl_add_seals(&fd, SIZED | SealFlags::SEAL)?;
        let window = window(map(&fd, label.size(), false)?, false);
        Ok(Self { fd: Arc::new(fd), window })
    }

    /// Accepts a segment from the server, which has these seals: checks them and the size, and maps
    /// exactly that.
    ///
    /// Request segments and bells are mapped writable, the others read-only. Of what the server has
    /// written the identity is checked.
    ///
    /// The two segments of a session are populated here, so that their pages are this process's. A
    /// request segment is labelled and sealed then: from there on this mapping is the only one that
    /// can write it. The server maps it only after that.
    ///
    /// # Errors
    /// [`SegmentError::TimedOut`] if `deadline` passes while it populates, among others.
    pub(crate) fn adopt(
        fd: OwnedFd,
        seals: SealFlags,
        label: &Label,
        deadline: Option<Instant>,
    ) -> Result<Self, SegmentError> {
        check_seals(seals, label.kind)?;
        check_size(&fd, label.size())?;
        let writable = matches!(label.kind, SegmentKind::Request | SegmentKind::Bell);
        let mapping = map(&fd, label.size(), writable)?;
        match label.kind {
            SegmentKind::Request => {
                let window = populated(&fd, mapping, true, deadline)?;
                put(&window, layout::offset::IDENTITY, &identity_words(&label.identity()));
                rustix::fs::fcntl_add_seals(&fd, CLOSED)?;
                Ok(Self { fd: Arc::new(fd), window })
            }
            SegmentKind::Response => {
                let window = populated(&fd, mapping, false, deadline)?;
                Ok(Self { fd: Arc::new(fd), window })
            }
            SegmentKind::Status | SegmentKind::Bell => {
                let window = window(mapping, writable);
                label.check(&read_identity(&window))?;
                Ok(Self { fd: Arc::new(fd), window })
            }
        }
    }
}

/// The name of a segment's memfd, by which tools find it.
pub(crate) fn name(kind: SegmentKind) -> &'static CStr {
    match kind {
        SegmentKind::Request => c"ringbell:request",
        SegmentKind::Response => c"ringbell:response",
        SegmentKind::Status => c"ringbell:status",
        SegmentKind::Bell => c"ringbell:bell",
    }
}

/// A memfd with all its memory, not sealed yet.
fn create(label: &Label) -> Result<OwnedFd, SegmentError> {
    check_limit(label.size())?;
    let fd = memfd(label.kind, label.size())?;
    let flags = FallocateFlags::empty();
    rustix::io::retry_on_intr(|| rustix::fs::fallocate(&fd, flags, 0, label.size()))?;
    Ok(fd)
}

/// Whether this process may make a file of this size. Growing one beyond the limit is not an error
/// but a signal, of which processes die.
pub(super) fn check_limit(want: u64) -> Result<(), SegmentError> {
    match getrlimit(Resource::Fsize).current.filter(|limit| *limit < want) {
        Some(limit) => Err(SegmentError::FileSizeLimit { limit, want }),
        None => Ok(()),
    }
}

/// A memfd of this size, without memory. [`check_limit`] comes first.
pub(super) fn memfd(kind: SegmentKind, size: u64) -> Result<OwnedFd, SegmentError> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = match rustix::fs::memfd_create(name(kind), flags | MemfdFlags::NOEXEC_SEAL) {
        // A kernel before 6.3.
        Err(Errno::INVAL) => rustix::fs::memfd_create(name(kind), flags),
        other => other,
    }?;
    rustix::fs::ftruncate(&fd, size)?;
    Ok(fd)
}

/// A page, or a part of a larger one.
const PAGE: usize = 4096;
/// How much of a segment is populated, or checked, at a time, in bytes: that takes some hundred
/// microseconds, and some 50.
pub(super) const SLICE: u64 = 2 << 20;
pub(super) const SLICE_PAGES: usize = 512;
const _: () = assert!(SLICE == (SLICE_PAGES * PAGE) as u64);

/// The mapping, with all its pages: they are allocated here, and charged to this process's memory
/// group, if they are not there yet. In slices, between which the deadline is looked at.
fn populated(
    fd: &OwnedFd,
    mapping: MmapRaw,
    writable: bool,
    deadline: Option<Instant>,
) -> Result<Window, SegmentError> {
    let mapping = Arc::new(mapping);
    let window = of(mapping.clone(), writable);
    let slice = usize::try_from(SLICE).map_err(|_| SegmentError::OutOfMemory)?;
    for from in (0..window.len()).step_by(slice) {
        if from > 0 && deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(SegmentError::TimedOut);
        }
        let len = slice.min(window.len() - from);
        let write = writable && !write_zeros(fd, from, len, window.len());
        let how = if write { Advice::PopulateWrite } else { Advice::PopulateRead };
        let done = mapping.advise_range(how, from, len);
        match done.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)) {
            Ok(()) => {}
            // A kernel before 5.14. A lack of memory is SIGBUS there.
            Err(Errno::INVAL) => touch(&window, from..from + len, write),
            // Also under strict overcommit, when nothing is left.
            Err(Errno::FAULT | Errno::NOMEM | Errno::AGAIN) => {
                return Err(SegmentError::OutOfMemory);
            }
            Err(other) => return Err(other.into()),
        }
    }
    Ok(window)
}

/// Allocates the pages of a slice that this process may write; false if they are still to be
/// populated, which says then what is wrong.
///
/// By one call, which costs a fifth less than as many faults: those that map the pages take 16 at a
/// time, once these are there. A write beyond RLIMIT_FSIZE would be a signal, also within a file.
fn write_zeros(fd: &OwnedFd, from: usize, len: usize, size: usize) -> bool {
    static ZEROS: [u8; PAGE] = [0; PAGE];
    // Whoever shares the descriptor may have made it append: then it is written at its end.
    if check_limit(size as u64 + 1).is_err() {
        return false;
    }
    let mut parts = [IoSlice::new(&ZEROS); SLICE_PAGES];
    let count = len.div_ceil(PAGE);
    let Some(last) = parts[..count].last_mut() else { return false };
    *last = IoSlice::new(&ZEROS[..len - (count - 1) * PAGE]);
    rustix::io::pwritev(fd, &parts[..count], from as u64) == Ok(len)
}

/// Touches each page of a range.
fn touch(window: &Window, range: Range<usize>, write: bool) {
    for page in range.step_by(PAGE) {
        match write {
            // Relaxed: no other process reads it before the handshake is done.
            true => window.own_word(page).store(0, Ordering::Relaxed),
            false => drop(window.peer_word(page).load()),
        }
    }
}

pub(super) fn map(fd: &OwnedFd, size: u64, writable: bool) -> Result<MmapRaw, SegmentError> {
    let len = usize::try_from(size).map_err(|_| SegmentError::OutOfMemory)?;
    let mut options = MmapOptions::new();
    options.len(len);
    Ok(if writable { options.map_raw(fd) } else { options.map_raw_read_only(fd) }?)
}

/// A window over a mapping of a segment that can be read, and written if `writable`.
pub(super) fn window(mapping: MmapRaw, writable: bool) -> Window {
    of(Arc::new(mapping), writable)
}

fn of(mapping: Arc<MmapRaw>, writable: bool) -> Window {
    let base = NonNull::new(mapping.as_mut_ptr()).expect("a mapping is never at address 0");
    over(base, mapping.len(), writable, mapping)
}

/// As [`window`], over a mapping that was shown after its pages were checked.
pub(super) fn shown(mapping: Mapping, writable: bool) -> Window {
    over(mapping.base(), mapping.len(), writable, Arc::new(mapping))
}

fn over(base: NonNull<u8>, len: usize, writable: bool, keep: Arc<dyn Any + Send + Sync>) -> Window {
    // SAFETY: the range is mapped, with these rights, as long as `keep` lives, which the window
    // keeps; page-aligned, so 128-byte aligned. It is backed to its end: the seals (put on by the
    // maker, checked by the receiver) keep the file from shrinking. The pages exist before anything
    // is read or written through the window: those of a status or bell page were allocated by its
    // maker; those of a session by its client, which the server has checked. Neither owner hands
    // out references.
    unsafe { Window::new(base, len, writable, keep) }
}

pub(super) fn seals(fd: &OwnedFd) -> Result<SealFlags, SegmentError> {
    rustix::fs::fcntl_get_seals(fd).map_err(|errno| match errno {
        Errno::INVAL => SegmentError::NotMemory,
        other => other.into(),
    })
}

/// Checks the seals that a segment of this kind has when it reaches the client.
fn check_seals(have: SealFlags, kind: SegmentKind) -> Result<(), SegmentError> {
    let (want, never) = match kind {
        SegmentKind::Response | SegmentKind::Status => (SIZED | CLOSED, SealFlags::empty()),
        // The client adds the rest itself.
        SegmentKind::Request => (SIZED, SealFlags::WRITE | CLOSED),
        SegmentKind::Bell => (SIZED | SealFlags::SEAL, SealFlags::WRITE | SealFlags::FUTURE_WRITE),
    };
    if have.contains(want) && !have.intersects(never) {
        Ok(())
    } else {
        Err(SegmentError::Seals { want: want.bits(), have: have.bits() })
    }
}

/// Checks that it is a plain file of exactly this size. Sealed against changes first, so that it
/// stays true.
fn check_size(fd: &OwnedFd, want: u64) -> Result<(), SegmentError> {
    let stat = rustix::fs::fstat(fd)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(SegmentError::NotMemory);
    }
    let have = u64::try_from(stat.st_size).unwrap_or(0);
    if have == want { Ok(()) } else { Err(SegmentError::Size { want, have }) }
}

const IDENTITY_WORDS: usize = size_of::<Identity>() / 8;
const PEER_WORDS: usize = size_of::<Peer>() / 8;

pub(super) fn identity_words(identity: &Identity) -> [u64; IDENTITY_WORDS] {
    [
        identity.magic,
        pack(identity.version, identity.kind),
        identity.generation,
        identity.session,
        identity.capacity,
        identity.total,
        identity.created_ns,
    ]
}

pub(super) fn peer_words(peer: &Peer) -> [u64; PEER_WORDS] {
    let mut words = [0; PEER_WORDS];
    words[0] = pack(peer.pid, peer.uid);
    for (word, bytes) in words[1..].iter_mut().zip(peer.name.as_chunks().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    words
}

/// Two u32 fields of a `repr(C)` struct as the word that they are in memory.
fn pack(first: u32, second: u32) -> u64 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_ne_bytes());
    bytes[4..].copy_from_slice(&second.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

fn unpack(word: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]))
}

/// Writes words before anybody else knows the segment.
pub(super) fn put(window: &Window, offset: usize, words: &[u64]) {
    for (index, word) in words.iter().enumerate() {
        // Relaxed: handing over the descriptor is a system call, which orders everything before it.
        window.own_word(offset + index * 8).store(*word, Ordering::Relaxed);
    }
}

/// Writes the identity of a segment that this process does not map writable.
fn write_identity(fd: &OwnedFd, label: &Label) -> Result<(), SegmentError> {
    let words = identity_words(&label.identity());
    let bytes = words.map(u64::to_ne_bytes);
    let at = layout::offset::IDENTITY as u64;
    let written = rustix::io::retry_on_intr(|| rustix::io::pwrite(fd, bytes.as_flattened(), at))?;
    if written == bytes.as_flattened().len() { Ok(()) } else { Err(SegmentError::OutOfMemory) }
}

/// Copies the identity out, once: what is checked is the copy.
fn read_identity(window: &Window) -> Identity {
    let word = |index: usize| window.peer_word(layout::offset::IDENTITY + index * 8).load();
    let (version, kind) = unpack(word(1));
    Identity {
        magic: word(0),
        version,
        kind,
        generation: word(2),
        session: word(3),
        capacity: word(4),
        total: word(5),
        created_ns: word(6),
    }
}
