//! Segments: memfds that are created, sized, sealed, mapped, and verified before they are
//! mapped.
//!
//! Descriptors flow from the server to the client only. What one end guarantees by seals, the other
//! end checks:
//!
//! | kind | seals when sent | mapped by the server | mapped by the client |
//! |---|---|---|---|
//! | request | `SHRINK GROW`; its client adds `FUTURE_WRITE SEAL` | read-only, after Ready | writable, before it adds them |
//! | response | `SHRINK GROW FUTURE_WRITE SEAL` | writable, before it is sealed | read-only |
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
//! has the kernel populate the mapping (`MADV_POPULATE_READ`, which takes no inode lock either).
//!
//! **Punch holes.** A load from a hole waits until the punch is over, which its author can stretch
//! to seconds, and allocates a page at the reader's cost. Seals are set under the inode's lock:
//! once `FUTURE_WRITE` shows, no punch runs and none can begin. So the server touches a request
//! segment only behind its check, and populates it before anything else, so that a lack of memory
//! is an error there and not a SIGBUS later.
//!
//! **A bell page** that many clients map cannot carry `FUTURE_WRITE`, since each new client needs a
//! new writable mapping. Only clients of the server's own user share one. They could stop the
//! server in other ways (they may trace it). The bell of every other session is a word of its own
//! request segment.
//!
//! # Memory
//!
//! All pages are allocated by `fallocate` before a descriptor is sent, where a lack of memory is an
//! error. A new segment is not populated: that costs 400 us instead of 160 us for 260 KiB, and a
//! short session touches few pages.

#![allow(
    unsafe_code,
    reason = "a window is made over a mapping whose seals and size were checked here"
)]

use crate::base::sync::Ordering;
use crate::memory::Window;
use crate::memory::layout::{self, Domain, Identity, Peer, SegmentKind};
use core::ptr::NonNull;
use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, FileType, MemfdFlags, SealFlags};
use rustix::io::Errno;
use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Neither size can change: a mapping of exactly this length never reads beyond the end.
const SIZED: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);
/// What turns a sized segment into one that only its present mappings can write.
const CLOSED: SealFlags = SealFlags::FUTURE_WRITE.union(SealFlags::SEAL);

/// Why a segment was not made or not accepted.
#[derive(Debug)]
pub enum SegmentError {
    /// No memory (or swap, or quota) for it.
    OutOfMemory,
    /// No descriptor left, in this process or in the system.
    OutOfDescriptors,
    /// The descriptor is not that of sealable memory.
    NotMemory,
    /// Seals, as bits of `F_GET_SEALS`: those that its kind needs, and those it has (too few, or
    /// one that makes it useless).
    Seals {
        /// Seals that were expected.
        want: u32,
        /// Seals that were found.
        have: u32,
    },
    /// Size in bytes.
    Size {
        /// The size that was announced.
        want: u64,
        /// The size that it has.
        have: u64,
    },
    /// Its first bytes do not say what was announced; the field that differs is given.
    Identity(&'static str),
    /// Any other failure of the system.
    Io(std::io::Error),
}

impl std::fmt::Display for SegmentError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OutOfMemory => f.write_str("no memory for a shared segment"),
            Self::OutOfDescriptors => f.write_str("no descriptor left for a shared segment"),
            Self::NotMemory => f.write_str("the descriptor is not that of shared memory"),
            Self::Seals { want, have } => {
                write!(f, "the segment has the seals {have:#x}, not {want:#x}")
            }
            Self::Size { want, have } => write!(f, "the segment has {have} bytes, not {want}"),
            Self::Identity(field) => {
                write!(f, "the segment is another one than announced: its {field} differs")
            }
            Self::Io(error) => write!(f, "a shared segment could not be made or mapped: {error}"),
        }
    }
}

impl std::error::Error for SegmentError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<Errno> for SegmentError {
    fn from(errno: Errno) -> Self {
        match errno {
            // A memfd lives in memory: to it, the disk that is full is the memory.
            Errno::NOMEM | Errno::NOSPC | Errno::DQUOT => Self::OutOfMemory,
            Errno::MFILE | Errno::NFILE => Self::OutOfDescriptors,
            other => Self::Io(other.into()),
        }
    }
}

impl From<std::io::Error> for SegmentError {
    fn from(error: std::io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(errno) => errno.into(),
            None => Self::Io(error),
        }
    }
}

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

    fn identity(&self) -> Identity {
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
        let segment = Self::writable(SegmentKind::Status, armed_words)?;
        put(&segment.window, layout::offset::IDENTITY, &identity_words(&label.identity()));
        put(&segment.window, layout::offset::PEER, &peer_words(me));
        Ok(segment)
    }

    /// Makes the bell page of the server's own user, mapped read-only: its clients write it.
    pub(crate) fn bell(generation: u64, domain: u32) -> Result<Self, SegmentError> {
        let label =
            Label { kind: SegmentKind::Bell, generation, session: domain.into(), capacity: 0 };
        let fd = create(SegmentKind::Bell, label.size())?;
        write_identity(&fd, &label)?;
        rustix::fs::fcntl_add_seals(&fd, SIZED | SealFlags::SEAL)?;
        let window = window(map(&fd, label.size(), false)?, false);
        Ok(Self { fd: Arc::new(fd), window })
    }

    /// Makes a segment that the server alone writes. Its identity is still to be written.
    fn writable(kind: SegmentKind, capacity: u64) -> Result<Self, SegmentError> {
        let size = size(kind, capacity);
        Self::writable_of(create(kind, size)?, size)
    }

    /// The same of a memfd that has all its pages.
    fn writable_of(fd: OwnedFd, size: u64) -> Result<Self, SegmentError> {
        let mapping = map(&fd, size, true)?;
        // Its page tables are filled as the ring is first gone through: a short session touches few
        // pages.
        let window = window(mapping, true);
        // From here on this mapping is the only one that can write.
        rustix::fs::fcntl_add_seals(&fd, SIZED | CLOSED)?;
        Ok(Self { fd: Arc::new(fd), window })
    }

    /// Accepts a segment from the server: checks seals and size, maps exactly that, and checks its
    /// identity.
    ///
    /// Request segments and bells are mapped writable, the others read-only.
    ///
    /// A request segment is sealed here: from then on this mapping is the only one that can write
    /// it. The server maps it only after that.
    pub(crate) fn adopt(fd: OwnedFd, label: &Label) -> Result<Self, SegmentError> {
        check_seals(&fd, label.kind)?;
        check_size(&fd, label.size())?;
        let writable = matches!(label.kind, SegmentKind::Request | SegmentKind::Bell);
        let window = window(map(&fd, label.size(), writable)?, writable);
        label.check(&read_identity(&window))?;
        if label.kind == SegmentKind::Request {
            rustix::fs::fcntl_add_seals(&fd, CLOSED)?;
        }
        Ok(Self { fd: Arc::new(fd), window })
    }
}

/// The two segments of a session, made ahead of time: a handshake then only sends their
/// descriptors.
#[derive(Debug)]
pub(crate) struct SegmentPair {
    request: OwnedFd,
    response: Segment,
    request_capacity: u64,
    response_capacity: u64,
}

impl SegmentPair {
    /// Makes both, all memory allocated, but for their identities.
    #[cfg(test)]
    pub(crate) fn create(
        request_capacity: u64,
        response_capacity: u64,
    ) -> Result<Self, SegmentError> {
        let request = create(SegmentKind::Request, size(SegmentKind::Request, request_capacity))?;
        let size = size(SegmentKind::Response, response_capacity);
        let response = create(SegmentKind::Response, size)?;
        Self::of((request, request_capacity), (response, response_capacity))
    }

    /// Of two memfds that have all their pages, with their capacities.
    pub(super) fn of(
        (request, request_capacity): (OwnedFd, u64),
        (response, response_capacity): (OwnedFd, u64),
    ) -> Result<Self, SegmentError> {
        rustix::fs::fcntl_add_seals(&request, SIZED)?;
        let size = size(SegmentKind::Response, response_capacity);
        let response = Segment::writable_of(response, size)?;
        Ok(Self { request, response, request_capacity, response_capacity })
    }

    /// Whether the pair has these capacities.
    pub(crate) fn fits(&self, request_capacity: u64, response_capacity: u64) -> bool {
        (self.request_capacity, self.response_capacity) == (request_capacity, response_capacity)
    }

    /// Bytes of both segments.
    pub(crate) fn bytes(request_capacity: u64, response_capacity: u64) -> u64 {
        layout::ring_segment_size(request_capacity) + layout::ring_segment_size(response_capacity)
    }

    /// Writes the identities: the pair now belongs to this session of this client.
    pub(crate) fn assign(
        self,
        generation: u64,
        session: u64,
        client: &Peer,
        domain: Domain,
    ) -> Result<(PendingRequest, Segment), SegmentError> {
        let label = |kind, capacity| Label { kind, generation, session, capacity };
        let request = label(SegmentKind::Request, self.request_capacity);
        write_identity(&self.request, &request)?;
        let response = label(SegmentKind::Response, self.response_capacity);
        put(&self.response.window, layout::offset::IDENTITY, &identity_words(&response.identity()));
        put(&self.response.window, layout::offset::PEER, &peer_words(client));
        put(&self.response.window, layout::offset::DOMAIN, &[domain.0]);
        let request =
            PendingRequest { fd: self.request, size: request.size(), mapping: None, there: 0 };
        Ok((request, self.response))
    }
}

/// A request segment that was sent to its client and is not mapped by the server yet.
#[derive(Debug)]
pub(crate) struct PendingRequest {
    pub(crate) fd: OwnedFd,
    size: u64,
    /// Once the client has sealed it.
    mapping: Option<MmapRaw>,
    /// Bytes from the beginning whose pages are known to be there for good.
    there: u64,
}

impl PendingRequest {
    /// The client says that it has mapped and sealed it. Checks the seals, maps it here only then,
    /// and populates at most `most` bytes of it; whether those were the last.
    ///
    /// # Errors
    /// [`SegmentError::Seals`] if the seals are not exactly those that they should be; lack of
    /// memory for the pages that the client has punched out.
    pub(crate) fn prepare(&mut self, most: u64) -> Result<bool, SegmentError> {
        let mapping = match &self.mapping {
            Some(mapping) => mapping,
            None => {
                let (want, have) = (SIZED | CLOSED, seals(&self.fd)?);
                // The kernel has added EXEC for `MFD_NOEXEC_SEAL`.
                if have.difference(SealFlags::EXEC) != want {
                    return Err(SegmentError::Seals { want: want.bits(), have: have.bits() });
                }
                self.mapping.insert(map(&self.fd, self.size, false)?)
            }
        };
        // The client could punch holes until it sealed, and no longer.
        let slice = most.min(self.size - self.there);
        populate(mapping, self.there, slice)?;
        self.there += slice;
        Ok(self.there == self.size)
    }

    /// The segment, when it was prepared to its end; `None` if it was not.
    pub(crate) fn accept(self) -> Option<Segment> {
        let mapping = self.mapping.filter(|_| self.there == self.size)?;
        Some(Segment { fd: Arc::new(self.fd), window: window(mapping, false) })
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
fn create(kind: SegmentKind, size: u64) -> Result<OwnedFd, SegmentError> {
    let fd = memfd(kind, size)?;
    allocate(&fd, 0, size)?;
    Ok(fd)
}

/// A memfd of this size, without memory.
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

/// Makes sure that every page of a range exists.
pub(super) fn allocate(fd: &OwnedFd, from: u64, size: u64) -> Result<(), SegmentError> {
    let flags = FallocateFlags::empty();
    Ok(rustix::io::retry_on_intr(|| rustix::fs::fallocate(fd, flags, from, size))?)
}

/// Has the kernel fill the page tables of a range of a read-only mapping, and allocate what is a
/// hole.
///
/// No page of it has been touched before, so a lack of memory is an error here and no SIGBUS.
fn populate(mapping: &MmapRaw, from: u64, len: u64) -> Result<(), SegmentError> {
    let size = |bytes| usize::try_from(bytes).map_err(|_| SegmentError::OutOfMemory);
    let done = mapping.advise_range(Advice::PopulateRead, size(from)?, size(len)?);
    done.map_err(|error| match Errno::from_io_error(&error) {
        // Also under strict overcommit, when nothing is left.
        Some(Errno::FAULT | Errno::NOMEM | Errno::AGAIN) => SegmentError::OutOfMemory,
        _ => error.into(),
    })
}

fn map(fd: &OwnedFd, size: u64, writable: bool) -> Result<MmapRaw, SegmentError> {
    let len = usize::try_from(size).map_err(|_| SegmentError::OutOfMemory)?;
    let mut options = MmapOptions::new();
    options.len(len);
    Ok(if writable { options.map_raw(fd) } else { options.map_raw_read_only(fd) }?)
}

fn window(mapping: MmapRaw, writable: bool) -> Window {
    let len = mapping.len();
    let base = NonNull::new(mapping.as_mut_ptr()).expect("a mapping is never at address 0");
    // SAFETY: the range is mapped as long as `mapping` lives, which the window keeps; page-aligned,
    // so 128-byte aligned. It is backed to its end: its maker allocated it, and the seals (put on
    // by the maker, checked by the receiver) keep the file from shrinking. `MmapRaw` hands out no
    // references.
    unsafe { Window::new(base, len, writable, Arc::new(mapping)) }
}

fn seals(fd: &OwnedFd) -> Result<SealFlags, SegmentError> {
    rustix::fs::fcntl_get_seals(fd).map_err(|errno| match errno {
        Errno::INVAL => SegmentError::NotMemory,
        other => other.into(),
    })
}

/// Checks the seals that a segment of this kind has when it reaches the client.
fn check_seals(fd: &OwnedFd, kind: SegmentKind) -> Result<(), SegmentError> {
    let have = seals(fd)?;
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

fn identity_words(identity: &Identity) -> [u64; IDENTITY_WORDS] {
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

fn peer_words(peer: &Peer) -> [u64; PEER_WORDS] {
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
fn put(window: &Window, offset: usize, words: &[u64]) {
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
