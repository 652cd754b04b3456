//! Shared memory as it is: raw pointers into mappings, kept alive by their owner.

#![allow(unsafe_code, reason = "this is where typed roles are laid over raw shared memory")]

use crate::base::sync::{AtomicU32, AtomicU64, Ordering};
use core::ptr::NonNull;
use rustix::thread::futex;
use std::any::Any;
use std::sync::Arc;

/// What keeps the memory mapped.
type Keep = Arc<dyn Any + Send + Sync>;

/// A range of mapped memory from which words and lines are taken.
#[derive(Clone)]
pub struct Window {
    base: NonNull<u8>,
    len: usize,
    writable: bool,
    keep: Keep,
}

// SAFETY: a window is an address range that `keep` keeps mapped, from whichever thread it is used.
unsafe impl Send for Window {}
// SAFETY: a shared window only hands out words and lines, whose accesses are atomic or exclusive by
// `&mut`.
unsafe impl Sync for Window {}

impl std::fmt::Debug for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Window")
            .field("len", &self.len)
            .field("writable", &self.writable)
            .finish_non_exhaustive()
    }
}

impl Window {
    /// Makes a window over `len` bytes at `base`.
    ///
    /// # Safety
    /// The range must be mapped readable (and writable, if `writable`), backed to its end (no
    /// SIGBUS), 128-byte aligned, and stay so for as long as `keep` lives. No Rust reference to the
    /// range may exist.
    pub unsafe fn new(base: NonNull<u8>, len: usize, writable: bool, keep: Keep) -> Self {
        debug_assert!(base.addr().get().is_multiple_of(128));
        Self { base, len, writable, keep }
    }

    /// Zeroed private memory.
    pub fn heap(len: usize) -> Self {
        #[derive(Clone)]
        #[repr(C, align(128))]
        struct Cell([AtomicCell; 16]);
        #[repr(transparent)]
        struct AtomicCell(AtomicU64);
        impl Clone for AtomicCell {
            fn clone(&self) -> Self {
                Self(AtomicU64::new(0))
            }
        }
        let zero = Cell([const { AtomicCell(AtomicU64::new(0)) }; 16]);
        let cells: Arc<Vec<Cell>> = Arc::new(vec![zero; len.div_ceil(128).max(1)]);
        let base = NonNull::from(cells.as_slice()).cast::<u8>();
        // SAFETY: the vector is never resized or touched through a reference again; `keep` owns it.
        // Its cells are atomics, so writing through a pointer derived from a shared reference is
        // allowed.
        unsafe { Self::new(base, len, true, cells) }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the window is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn at<T>(&self, offset: usize) -> NonNull<T> {
        assert!(
            offset.is_multiple_of(size_of::<T>()) && offset + size_of::<T>() <= self.len,
            "outside the window"
        );
        // SAFETY: the assertion keeps the result inside the window; its alignment follows from that
        // of the base and of the offset.
        unsafe { self.base.byte_add(offset).cast() }
    }

    fn writable(&self) {
        assert!(self.writable, "the window is mapped read-only");
    }

    /// The u64 at `offset`, which this process alone writes.
    ///
    /// # Panics
    /// If the offset is misaligned or outside, or the window is read-only.
    pub fn own_word(&self, offset: usize) -> OwnWord {
        self.writable();
        OwnWord { cell: self.at(offset), _keep: self.keep.clone() }
    }

    /// The u64 at `offset`, which another process writes.
    ///
    /// # Panics
    /// If the offset is misaligned or outside.
    pub fn peer_word(&self, offset: usize) -> PeerWord {
        PeerWord { cell: self.at(offset), _keep: self.keep.clone() }
    }

    /// The u32 bell word at `offset`.
    ///
    /// # Panics
    /// If the offset is misaligned or outside.
    pub fn bell_word(&self, offset: usize) -> BellWord {
        BellWord { cell: self.at(offset), writable: self.writable, _keep: self.keep.clone() }
    }

    /// The ring of `capacity` bytes at `offset`, which this process alone writes.
    ///
    /// # Panics
    /// If the range is outside, the capacity no power of two, or the window read-only.
    pub fn own_lines(&self, offset: usize, capacity: usize) -> OwnLines {
        self.writable();
        OwnLines { lines: self.lines(offset, capacity) }
    }

    /// The ring of `capacity` bytes at `offset`, which another process writes.
    ///
    /// # Panics
    /// If the range is outside, or the capacity no power of two.
    pub fn peer_lines(&self, offset: usize, capacity: usize) -> PeerLines {
        PeerLines { lines: self.lines(offset, capacity) }
    }

    fn lines(&self, offset: usize, capacity: usize) -> Lines {
        assert!(capacity.is_power_of_two() && capacity >= 8 && offset.is_multiple_of(64));
        assert!(
            offset.checked_add(capacity).is_some_and(|end| end <= self.len),
            "outside the window"
        );
        // SAFETY: `offset` is inside the window.
        let base = unsafe { self.base.byte_add(offset) };
        Lines { base, mask: capacity - 1, _keep: self.keep.clone() }
    }
}

macro_rules! word_is_send {
    ($($word:ty),*) => {$(
        // SAFETY: the pointer is to memory that `_keep` keeps mapped for all threads.
        unsafe impl Send for $word {}
        // SAFETY: every access through a shared reference is atomic.
        unsafe impl Sync for $word {}
        impl std::fmt::Debug for $word {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let value = self.cell().load(Ordering::Relaxed);
                f.debug_tuple(stringify!($word)).field(&value).finish()
            }
        }
    )*};
}
word_is_send!(OwnWord, PeerWord, BellWord);

/// A u64 that this process alone writes.
pub struct OwnWord {
    cell: NonNull<AtomicU64>,
    _keep: Keep,
}

impl OwnWord {
    pub(super) fn pair() -> (Self, PeerWord) {
        let window = Window::heap(8);
        (window.own_word(0), window.peer_word(0))
    }

    #[inline]
    fn cell(&self) -> &AtomicU64 {
        // SAFETY: mapped, aligned and in bounds by `Window::at`, alive by `_keep`; other processes
        // access it with atomic operations of this size only (what a hostile one does cannot be
        // seen by the compiler).
        unsafe { self.cell.as_ref() }
    }

    /// What this process stored last.
    #[inline]
    pub fn get(&self) -> u64 {
        self.cell().load(Ordering::Relaxed)
    }

    /// Stores with the ordering that the caller has argued for.
    #[inline]
    pub fn store(&self, value: u64, ordering: Ordering) {
        self.cell().store(value, ordering);
    }
}

/// A u64 that another process writes. The mapping may be read-only, which allows relaxed loads
/// only; callers put a fence behind where they need more.
pub struct PeerWord {
    cell: NonNull<AtomicU64>,
    _keep: Keep,
}

impl PeerWord {
    #[inline]
    fn cell(&self) -> &AtomicU64 {
        // SAFETY: as for `OwnWord::cell`; only relaxed loads are done through it.
        unsafe { self.cell.as_ref() }
    }

    /// Loads it once, relaxed. The value is whatever the peer wants it to be.
    #[inline]
    pub fn load(&self) -> u64 {
        self.cell().load(Ordering::Relaxed)
    }
}

/// The word that a sleeper waits on and its ringers advance.
pub struct BellWord {
    cell: NonNull<AtomicU32>,
    writable: bool,
    _keep: Keep,
}

impl BellWord {
    /// A bell word in private memory.
    pub fn private() -> Self {
        Window::heap(4).bell_word(0)
    }

    /// The same word for a second holder in this process.
    pub fn share(&self) -> Self {
        Self { cell: self.cell, writable: self.writable, _keep: self._keep.clone() }
    }

    #[inline]
    fn cell(&self) -> &AtomicU32 {
        // SAFETY: as for `OwnWord::cell`.
        unsafe { self.cell.as_ref() }
    }

    /// Loads it, relaxed.
    #[inline]
    pub fn load(&self) -> u32 {
        self.cell().load(Ordering::Relaxed)
    }

    /// Advances it from `ticket` to `ticket + 1`; false if it holds something else.
    ///
    /// # Panics
    /// If the word is mapped read-only: only a ringer may do this.
    #[inline]
    pub fn advance(&self, ticket: u32) -> bool {
        assert!(self.writable, "a sleeper does not ring");
        // Relaxed: the fences of `bell.rs` order it; the model check shows that no more is needed.
        let next = ticket.wrapping_add(1);
        self.cell().compare_exchange(ticket, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Sleeps while the word holds `ticket`, until woken, until the absolute `until`
    /// (CLOCK_MONOTONIC), or for no reason at all. The caller looks again in every case.
    ///
    /// # Errors
    /// The kernel does not sleep on this word: the call is refused, or the page is one that its
    /// owner punched (EFAULT).
    pub fn wait(
        &self,
        ticket: u32,
        until: Option<rustix::thread::futex::Timespec>,
    ) -> rustix::io::Result<()> {
        // Never PRIVATE: the waker is another process.
        ended(futex::wait_bitset(
            self.cell().as_futex(),
            futex::Flags::empty(),
            ticket,
            until.as_ref(),
            core::num::NonZeroU32::MAX,
        ))
    }

    /// Wakes the thread that waits on the word, if one does; how many it woke.
    ///
    /// One, since at most one thread of the sleeping side waits on its word (see `bell.rs`). Others
    /// may be there: every process that maps the word can wait on it, tens of thousands of times,
    /// and a call that wakes them all takes its caller about a microsecond for each.
    pub fn wake(&self) -> usize {
        futex::wake(self.cell().as_futex(), futex::Flags::empty(), 1).unwrap_or(0)
    }

    /// This word as one entry of a `futex_waitv`.
    pub fn entry(&self, ticket: u32) -> futex::Wait {
        let mut entry = futex::Wait::new();
        entry.val = u64::from(ticket);
        entry.uaddr = futex::WaitPtr::new(self.cell.as_ptr().cast());
        entry.flags = futex::WaitFlags::SIZE_U32;
        entry
    }
}

/// Sleeps until one of the words differs from its ticket, as [`BellWord::wait`] does for one.
///
/// `entries` come from [`BellWord::entry`] of words that outlive the call. Errors as there.
pub(crate) fn wait_any(
    entries: &[futex::Wait],
    until: Option<futex::Timespec>,
) -> rustix::io::Result<()> {
    // The kernel checks the addresses itself.
    let woken = futex::waitv(
        entries,
        futex::WaitvFlags::empty(),
        until.as_ref(),
        rustix::thread::ClockId::Monotonic,
    );
    ended(woken.map(drop))
}

/// What a wait came to: how the kernel says that a sleep is over, and that there was none.
fn ended(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    use rustix::io::Errno;
    match result {
        // The value differed, a signal came, the time was over.
        Err(Errno::AGAIN | Errno::INTR | Errno::TIMEDOUT) => Ok(()),
        other => other,
    }
}

/// Copies `len` bytes, short ones in moves of falling powers of two.
///
/// The moves do not overlap, so that a copy of the copy, made right behind it by this same
/// function, loads exactly what was stored: a load that spans two stores waits until both have left
/// the store buffer, which was measured at 10 ns a time. `memcpy` covers short lengths with two
/// overlapping moves.
///
/// # Safety
/// As for `copy_nonoverlapping`.
#[inline(always)]
#[allow(clippy::multiple_unsafe_ops_per_block, reason = "one argument for all of one move")]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    if len > 64 {
        // SAFETY: the caller's.
        unsafe { core::ptr::copy_nonoverlapping(from, to, len) };
        return;
    }
    let mut done = 0;
    macro_rules! moves {
        ($($width:literal)*) => {$(
            if len & $width != 0 {
                // SAFETY: the widths that are set in `len` add up to it, so each move lies within
                // the bytes that the caller vouches for; the accesses are unaligned ones.
                unsafe {
                    let block = from.add(done).cast::<[u8; $width]>().read_unaligned();
                    to.add(done).cast::<[u8; $width]>().write_unaligned(block);
                }
                done += $width;
            }
        )*};
    }
    moves!(64 32 16 8 4 2 1);
    debug_assert_eq!(done, len);
}

/// The bytes of a ring, addressed by position: masked inside, so in bounds by construction.
struct Lines {
    base: NonNull<u8>,
    mask: usize,
    _keep: Keep,
}

// SAFETY: the pointer is to memory that `_keep` keeps mapped for all threads.
unsafe impl Send for Lines {}

impl Lines {
    #[inline]
    #[allow(
        clippy::cast_possible_truncation,
        reason = "usize is 64 bits on the supported targets; it is masked"
    )]
    fn word(&self, position: u64) -> &AtomicU64 {
        let index = position as usize & self.mask & !7;
        // SAFETY: masked below the capacity and to a multiple of 8, in memory that `_keep` keeps
        // mapped; header words are accessed as u64 atomics only while they are header words (see
        // `OwnLines::write`).
        let word = unsafe { self.base.byte_add(index) }.cast::<AtomicU64>();
        // SAFETY: as above; nothing but atomic accesses through shared references is done with it.
        unsafe { word.as_ref() }
    }

    /// The address of `len` contiguous bytes at `position`.
    #[inline]
    #[allow(
        clippy::cast_possible_truncation,
        reason = "usize is 64 bits on the supported targets; it is masked"
    )]
    fn bytes(&self, position: u64, len: usize) -> NonNull<u8> {
        let index = position as usize & self.mask;
        assert!(len <= self.mask + 1 - index, "bytes of one record are contiguous");
        // SAFETY: the assertion keeps the range inside the ring.
        unsafe { self.base.byte_add(index) }
    }
}

/// The ring that this process fills.
pub struct OwnLines {
    lines: Lines,
}

impl std::fmt::Debug for OwnLines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnLines").field("capacity", &self.capacity()).finish_non_exhaustive()
    }
}

impl OwnLines {
    pub(super) fn pair(capacity: usize) -> (Self, PeerLines) {
        let window = Window::heap(capacity);
        (window.own_lines(0, capacity), window.peer_lines(0, capacity))
    }

    /// Size of the ring in bytes, a power of two.
    pub fn capacity(&self) -> u64 {
        self.lines.mask as u64 + 1
    }

    /// Stores the word at `position`.
    #[inline]
    pub fn store(&mut self, position: u64, word: u64, ordering: Ordering) {
        self.lines.word(position).store(word, ordering);
    }

    /// Copies `bytes` to `position`.
    ///
    /// # Panics
    /// If they would cross the end of the ring.
    #[inline]
    pub fn write(&mut self, position: u64, bytes: &[u8]) {
        let to = self.lines.bytes(position, bytes.len());
        // SAFETY: in bounds by `bytes`; private and shared memory do not overlap. The peer maps
        // this memory read-only and, by the ring's protocol, reads these bytes only after the
        // header that publishes them (Release) and not any more once it has released them, so no
        // well-behaved access races; a hostile peer's reads are outside this program and change
        // nothing in it.
        unsafe { copy(bytes.as_ptr(), to.as_ptr(), bytes.len()) };
    }

    /// Writes all of a record but its first word: its second word and the bytes behind it.
    ///
    /// # Panics
    /// If it would cross the end of the ring.
    #[inline(always)]
    pub fn write_record(&mut self, position: u64, second: u64, bytes: &[u8]) {
        let to = self.lines.bytes(position, 16 + bytes.len());
        // SAFETY: in bounds, as `bytes` found, and a record's position is a multiple of 64, so the
        // word is aligned.
        let word = unsafe { to.byte_add(8) }.cast::<AtomicU64>();
        // SAFETY: as above; alive while `lines` is borrowed.
        unsafe { word.as_ref() }.store(second, Ordering::Relaxed);
        // SAFETY: in bounds.
        let body = unsafe { to.byte_add(16) };
        // SAFETY: as for `write`.
        unsafe { copy(bytes.as_ptr(), body.as_ptr(), bytes.len()) };
    }

    /// `len` bytes at `position` as they are.
    ///
    /// # Panics
    /// If they would cross the end of the ring.
    pub fn slice(&self, position: u64, len: usize) -> &[u8] {
        let from = self.lines.bytes(position, len);
        // SAFETY: in bounds and initialised; only this process writes here, through `&mut self`.
        unsafe { core::slice::from_raw_parts(from.as_ptr(), len) }
    }

    /// `len` bytes at `position` to write in place. Their content is arbitrary.
    ///
    /// # Panics
    /// If they would cross the end of the ring.
    #[inline]
    pub fn slice_mut(&mut self, position: u64, len: usize) -> &mut [u8] {
        let to = self.lines.bytes(position, len);
        // SAFETY: in bounds, initialised (a memfd reads as zeros), exclusively ours to write by the
        // one-writer rule, and borrowed from `&mut self`; the peer only reads, as argued at
        // `write`.
        unsafe { core::slice::from_raw_parts_mut(to.as_ptr(), len) }
    }
}

/// The ring that the peer fills. Bytes are only ever copied out, or loaded as words.
pub struct PeerLines {
    lines: Lines,
}

impl std::fmt::Debug for PeerLines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerLines").field("capacity", &self.capacity()).finish_non_exhaustive()
    }
}

impl PeerLines {
    /// Size of the ring in bytes, a power of two.
    pub fn capacity(&self) -> u64 {
        self.lines.mask as u64 + 1
    }

    /// Loads the word at `position`, relaxed.
    #[inline]
    pub fn load(&self, position: u64) -> u64 {
        self.lines.word(position).load(Ordering::Relaxed)
    }

    /// Looks at the word at `position` up to `looks` times, until it is not 0; `between` is called
    /// between two looks. Whether it was found so. The address is worked out once.
    #[inline(always)]
    pub fn watch(&self, position: u64, looks: u32, mut between: impl FnMut() -> bool) -> bool {
        let word = self.lines.word(position);
        for _ in 0..looks {
            if word.load(Ordering::Relaxed) != 0 || between() {
                return true;
            }
        }
        false
    }

    /// Appends `len` bytes at `position` to `out`.
    ///
    /// # Panics
    /// If they would cross the end of the ring.
    #[inline]
    pub fn read(&self, position: u64, len: usize, out: &mut Vec<u8>) {
        out.reserve(len);
        let from = self.lines.bytes(position, len);
        // SAFETY: the spare capacity holds `len` bytes, and private memory does not overlap shared
        // memory.
        //
        // The source is in bounds. By the protocol the peer wrote these bytes before it published
        // them and does not touch them until they are released. A hostile peer may write them
        // meanwhile: the abstract machine has no word for a race with another process
        // (unsafe-code-guidelines #152); what the copy does on every supported target is to yield
        // arbitrary initialised bytes, and the caller validates the copy.
        unsafe { copy(from.as_ptr(), out.spare_capacity_mut().as_mut_ptr().cast(), len) };
        // SAFETY: the bytes up to the new length were just written.
        unsafe { out.set_len(out.len() + len) };
    }

    /// Replaces `out` with the `len` bytes of a record's body, and returns its second word.
    ///
    /// # Panics
    /// If the record would cross the end of the ring.
    #[inline(always)]
    pub fn read_record(&self, position: u64, len: usize, out: &mut Vec<u8>) -> u64 {
        out.clear();
        out.reserve(len);
        let from = self.lines.bytes(position, 16 + len);
        // SAFETY: in bounds, and aligned as in `write_record`; only loaded.
        let word = unsafe { from.byte_add(8) }.cast::<AtomicU64>();
        // SAFETY: as above; alive while `lines` is borrowed.
        let second = unsafe { word.as_ref() }.load(Ordering::Relaxed);
        // SAFETY: in bounds.
        let body = unsafe { from.byte_add(16) };
        // SAFETY: as for `read`.
        unsafe { copy(body.as_ptr(), out.as_mut_ptr(), len) };
        // SAFETY: so many bytes were just written.
        unsafe { out.set_len(len) };
        second
    }

    /// Copies `out.len()` bytes at `position`.
    ///
    /// # Panics
    /// If they would cross the end of the ring.
    #[inline]
    pub fn read_to(&self, position: u64, out: &mut [u8]) {
        let from = self.lines.bytes(position, out.len());
        // SAFETY: as for `read`.
        unsafe { copy(from.as_ptr(), out.as_mut_ptr(), out.len()) };
    }

    /// The address of `len` bytes at `position`, for a caller that vouches for the peer.
    ///
    /// # Panics
    /// If they would cross the end of the ring.
    pub fn address(&self, position: u64, len: usize) -> NonNull<u8> {
        self.lines.bytes(position, len)
    }
}
