//! L2: the single-producer single-consumer ring. No I/O, no system calls, no unsafe code.
//!
//! # Protocol
//!
//! Records are published **in band**: the consumer polls the header word of the next record, at its own
//! position, and the producer stores that word last. A short message so costs one cache-line transfer.
//!
//! Stale bytes must never be read as a header word. The consumer only looks at the line at its head, which after
//! the last record is the producer's tail. Hence the invariant
//!
//! > **Z**: when the header word of a record that ends at `T` is stored, the header word at `T` is already 0.
//!
//! The producer keeps **Z** by zeroing line starts ahead of its position: a window of a few lines after each
//! commit, off the critical path; only a record longer than the window zeroes its successor's place before it is
//! published. Every claim asks for its size plus the window, so the zeroed lines are always free ones.
//!
//! # Orderings
//!
//! | edge | Release | Acquire | without it |
//! |---|---|---|---|
//! | **PUBLISH** | header word, in [`Producer::commit`] | fence, in [`Consumer::peek`] | a body is read before it is written; a stale header word behind it is read as a record |
//! | **RELEASE** | head, in `Consumer::publish_head` | fence, in `Producer::refresh_head` | bytes are overwritten while they are still being read |
//!
//! Loads are relaxed with a fence behind, because the peer's memory is mapped read-only, where only relaxed loads
//! are allowed.
//!
//! # Space
//!
//! The head is published lazily: after a quarter of the ring, when a producer that sleeps for space must also be rung
//! ([`Consumer::release`] says so); and before its consumer sleeps on an empty ring, for tools. That is enough:
//!
//! - A claim takes at most three quarters of the ring (`layout::max_record`), so a producer that cannot claim has
//!   more than a quarter unread beyond the head `H` that it saw after it had armed.
//! - `H` is at least `R`, the head of the last ring: of the two fences of `bell.rs` one comes first; if the
//!   consumer's did, the producer sees `R`; if the producer's did, the consumer saw it armed and rang.
//! - So more than a quarter lies beyond `R`, and the consumer rings when it has gone through a quarter of it.
//!
//! # Hostile peers
//!
//! Each side keeps its position privately. What the peer wrote (head, header word) is loaded once, at one place,
//! and checked; an impossible value is a [`Fault`], after which the ring must not be used.

use crate::base::sync::{Ordering, fence};
use crate::memory::layout::{self, FRAME_HEADER, HeaderWord, Kind, LINE};
use crate::memory::{OwnLines, OwnWord, PeerLines, PeerWord};

/// The peer wrote something that no implementation of the protocol writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A head that went backwards or beyond what was published.
    Position,
    /// A header word with an unknown kind or flag.
    Kind,
    /// A length that no record of this ring can have.
    Length,
    /// Padding that does not reach to the end, or follows padding.
    Padding,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Position => "an impossible position",
            Self::Kind => "a record of unknown kind",
            Self::Length => "a record of impossible length",
            Self::Padding => "misplaced padding",
        })
    }
}

impl std::error::Error for Fault {}

/// Why nothing was claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimError {
    /// No room until the consumer releases some. Never said of a ring that its consumer found empty.
    Full,
    /// A record of this ring cannot be that long; the limit in bytes of body is given.
    TooLarge(usize),
    /// The consumer wrote an impossible head.
    Fault(Fault),
}

/// Space in the ring that is not published yet. Dropping it gives the space back.
#[derive(Debug)]
#[must_use = "a claim that is not committed is given back"]
pub struct RingClaim {
    position: u64,
    body: usize,
}

impl RingClaim {
    /// Bytes of body that were claimed.
    pub fn len(&self) -> usize {
        self.body
    }

    /// Whether no body was claimed.
    pub fn is_empty(&self) -> bool {
        self.body == 0
    }
}

/// The side that writes records. `Send`; every operation takes `&mut self`.
#[derive(Debug)]
pub struct Producer {
    lines: OwnLines,
    tail_word: OwnWord,
    head_word: PeerWord,
    capacity: u64,
    window: u64,
    max_body: usize,
    /// Where the next record goes.
    tail: u64,
    /// The line starts in the next so many bytes behind the tail are 0.
    ahead: u64,
    /// So many bytes behind the tail may have been written through a claim, line starts but the first included.
    dirty: u64,
    /// The consumer's head when it was last looked at.
    head: u64,
    paddings: u64,
    /// The most that was unreleased when the head was looked at.
    fill_peak: u64,
}

impl Producer {
    /// The producer of an empty ring: all bytes zero, both positions at `start` (0 but in tests).
    pub fn new(lines: OwnLines, tail_word: OwnWord, head_word: PeerWord, start: u64) -> Self {
        let capacity = lines.capacity();
        Self {
            lines,
            tail_word,
            head_word,
            capacity,
            window: layout::zero_window(capacity),
            max_body: layout::max_body(capacity),
            tail: start,
            ahead: capacity,
            dirty: 0,
            head: start,
            paddings: 0,
            fill_peak: 0,
        }
    }

    /// Largest body of one record in bytes.
    #[inline]
    pub fn max_body(&self) -> usize {
        self.max_body
    }

    /// Size of the ring in bytes.
    #[inline]
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Where the next record goes, in bytes since the start.
    #[inline]
    pub fn tail(&self) -> u64 {
        self.tail
    }

    /// How many padding records were written.
    pub fn paddings(&self) -> u64 {
        self.paddings
    }

    /// The fullest that the ring was found, in bytes. It is looked at when it seems to be full, once in a lap or so.
    pub fn fill_peak(&self) -> u64 {
        self.fill_peak
    }

    /// Claims room for a record with `body` bytes. Nothing is visible to the consumer before [`Self::commit`],
    /// except padding in front of it.
    #[inline(always)]
    pub fn try_claim(&mut self, body: usize) -> Result<RingClaim, ClaimError> {
        if body > self.max_body {
            return Err(ClaimError::TooLarge(self.max_body));
        }
        let size = layout::record_size(body);
        let to_end = self.capacity - (self.tail & (self.capacity - 1));
        if size > to_end {
            self.ensure_free(to_end + size + self.window)?;
            self.pad(to_end);
        } else {
            self.ensure_free(size + self.window)?;
        }
        self.dirty = self.dirty.max(size);
        Ok(RingClaim { position: self.tail, body })
    }

    /// Claims, copies and commits a record in one go; the header's length is set to that of `body`. The caller rings, and then calls [`Self::zero_ahead`].
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "a record's body is far below 4 GiB")]
    pub fn try_push(&mut self, header: HeaderWord, call: u64, body: &[u8]) -> Result<(), ClaimError> {
        let size = layout::record_size(body.len());
        let to_end = self.capacity - (self.tail & (self.capacity - 1));
        let free =
            self.capacity - self.window - self.tail.wrapping_sub(self.head).min(self.capacity - self.window);
        if body.len() > self.max_body || size > to_end || size > free {
            // Too long, at the end of the buffer, or possibly full.
            let _ = self.try_claim(body.len())?;
        }
        self.lines.write_record(self.tail, call, body);
        self.publish(header.with(header.flags(), body.len() as u32), size);
        Ok(())
    }

    /// The claimed bytes, to be written in place. Their content is arbitrary.
    #[cfg(not(ringbell_loom))]
    #[inline]
    pub fn body_mut(&mut self, claim: &RingClaim) -> &mut [u8] {
        debug_assert_eq!(claim.position, self.tail, "a claim of another place");
        self.lines.slice_mut(claim.position.wrapping_add(FRAME_HEADER as u64), claim.body)
    }

    /// The claimed bytes as they are.
    #[cfg(not(ringbell_loom))]
    pub fn body(&self, claim: &RingClaim) -> &[u8] {
        self.lines.slice(claim.position.wrapping_add(FRAME_HEADER as u64), claim.body)
    }

    /// Copies `bytes` to `offset` in the claimed bytes.
    ///
    /// # Panics
    /// If they do not fit.
    #[inline]
    pub fn write(&mut self, claim: &RingClaim, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= claim.body, "outside the claim");
        self.lines.write(claim.position.wrapping_add((FRAME_HEADER + offset) as u64), bytes);
    }

    /// Publishes a claim; the header's length may be shorter than what was claimed. The consumer may be asleep:
    /// the caller rings, and then calls [`Self::zero_ahead`].
    ///
    /// # Panics
    /// If the header's length is larger than the claim.
    #[inline]
    pub fn commit(&mut self, claim: RingClaim, header: HeaderWord, call: u64) {
        let body = header.length() as usize;
        assert!(body <= claim.body, "longer than the claim");
        assert_eq!(claim.position, self.tail, "a claim of another place");
        self.lines.store(self.tail.wrapping_add(layout::CALL_ID as u64), call, Ordering::Relaxed);
        self.publish(header, layout::record_size(body));
    }

    /// Zeroes the line starts of the window behind the last record, off the critical path. Not calling it costs
    /// time, not correctness.
    #[inline]
    pub fn zero_ahead(&mut self) {
        while self.ahead < self.window {
            // Relaxed: PUBLISH of the next record orders it.
            self.lines.store(self.tail.wrapping_add(self.ahead), 0, Ordering::Relaxed);
            self.ahead += LINE;
        }
    }

    /// Whether `body` bytes can be claimed now; looks at the consumer's head if need be.
    pub fn has_room(&mut self, body: usize) -> Result<bool, Fault> {
        // As if the record needed the most padding it can need; only a waiter asks, so too late does no harm
        // as long as it is not never, which `max_record` sees to.
        let size = layout::record_size(body.min(self.max_body));
        let to_end = self.capacity - (self.tail & (self.capacity - 1));
        let padding = if size > to_end { to_end } else { 0 };
        match self.ensure_free(padding + size + self.window) {
            Ok(()) => Ok(true),
            Err(ClaimError::Fault(fault)) => Err(fault),
            Err(_) => Ok(false),
        }
    }

    /// Bytes that the consumer has not released, as far as is known.
    pub fn fill(&mut self) -> Result<u64, Fault> {
        self.refresh_head()?;
        Ok(self.tail.wrapping_sub(self.head))
    }

    #[inline(always)]
    fn ensure_free(&mut self, bytes: u64) -> Result<(), ClaimError> {
        // Possibly full by the cached head; refresh; really full.
        if self.tail.wrapping_sub(self.head) + bytes <= self.capacity {
            return Ok(());
        }
        self.ensure_free_really(bytes)
    }

    #[cold]
    fn ensure_free_really(&mut self, bytes: u64) -> Result<(), ClaimError> {
        self.refresh_head().map_err(ClaimError::Fault)?;
        if self.tail.wrapping_sub(self.head) + bytes <= self.capacity {
            return Ok(());
        }
        Err(ClaimError::Full)
    }

    /// The one place where the consumer's head is read.
    fn refresh_head(&mut self) -> Result<(), Fault> {
        let head = self.head_word.load();
        // RELEASE: pairs with the store in `publish_head`. What the consumer read before, it has read.
        fence(Ordering::Acquire);
        let advanced = head.wrapping_sub(self.head);
        if advanced > self.tail.wrapping_sub(self.head) || !head.is_multiple_of(LINE) {
            return Err(Fault::Position);
        }
        self.head = head;
        self.fill_peak = self.fill_peak.max(self.tail.wrapping_sub(head));
        Ok(())
    }

    #[cold]
    fn pad(&mut self, size: u64) {
        #[allow(clippy::cast_possible_truncation, reason = "less than a record")]
        let header = HeaderWord::new(Kind::Padding, 0, 0, (size - FRAME_HEADER as u64) as u32);
        self.publish(header, size);
        self.paddings += 1;
    }

    /// Stores the header word of the record at the tail, and moves the tail behind it.
    #[inline(always)]
    fn publish(&mut self, header: HeaderWord, size: u64) {
        let end = self.tail.wrapping_add(size);
        if self.ahead < size + LINE || size < self.dirty {
            // Z, for a record longer than the window or shorter than what was claimed. Relaxed: PUBLISH orders it.
            self.lines.store(end, 0, Ordering::Relaxed);
            self.ahead = size + LINE;
        }
        // PUBLISH: pairs with the fence in `peek`.
        self.lines.store(self.tail, header.0, Ordering::Release);
        self.tail = end;
        self.ahead -= size;
        self.dirty = 0;
        // Relaxed: for tools only, nobody acts on it.
        self.tail_word.store(end, Ordering::Relaxed);
    }
}

/// A record that was found and not released yet.
#[derive(Debug)]
#[must_use = "a record that is not released is found again"]
pub struct Record {
    /// What kind of frame it is; never padding.
    pub kind: Kind,
    /// The whole header word, loaded once.
    pub header: HeaderWord,
    /// The call id.
    pub call: u64,
    position: u64,
    size: u64,
}

impl Record {
    /// Length of the body in bytes.
    pub fn len(&self) -> usize {
        self.header.length() as usize
    }

    /// Whether the body is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What [`Consumer::poll_plain`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Polled {
    /// Nothing.
    Nothing,
    /// A plain record, with its header word.
    Plain(HeaderWord),
    /// Something that [`Consumer::peek`] must look at: padding, a fragment, or a fault.
    Other,
}

/// What the caller of [`Consumer::release`] owes the producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a producer that sleeps for space may have to be rung"]
pub enum Released {
    /// Nothing.
    Quietly,
    /// A quarter of the ring was published as free: ring for space.
    Quarter,
}

/// The side that reads records. `Send`; every operation takes `&mut self`.
#[derive(Debug)]
pub struct Consumer {
    lines: PeerLines,
    head_word: OwnWord,
    capacity: u64,
    quarter: u64,
    max_body: usize,
    /// Where the next record is.
    head: u64,
    /// What `head_word` says.
    published: u64,
    /// The head for which the producer was last rung.
    rung: u64,
}

impl Consumer {
    /// The consumer of an empty ring: all bytes zero, both positions at `start` (0 but in tests).
    pub fn new(lines: PeerLines, head_word: OwnWord, start: u64) -> Self {
        let capacity = lines.capacity();
        head_word.store(start, Ordering::Relaxed);
        let max_body = layout::max_body(capacity);
        Self {
            lines,
            head_word,
            capacity,
            quarter: capacity / 4,
            max_body,
            head: start,
            published: start,
            rung: start,
        }
    }

    /// Where the next record is, in bytes since the start.
    #[inline]
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Whether a record may be there. Changes nothing, promises nothing.
    #[inline]
    pub fn has_pending(&self) -> bool {
        self.lines.load(self.head) != 0
    }

    /// Looks for a record up to `looks` times; `between` is called between two looks and may end it. Changes nothing.
    #[cfg(not(ringbell_loom))]
    #[inline(always)]
    pub fn watch(&self, looks: u32, between: impl FnMut() -> bool) -> bool {
        self.lines.watch(self.head, looks, between)
    }

    /// The next header word if its record is there and plain: of known kind, in one piece, without extensions and
    /// in bounds; 0 if nothing is there. Anything else is left to [`Self::peek`], which says what it is.
    ///
    /// The same look as `peek`'s, for the path of short messages. Behind [`Polled::Other`] `peek` loads the header word
    /// anew, and checks that copy.
    #[inline(always)]
    pub fn poll_plain(&mut self) -> Polled {
        let header = HeaderWord(self.lines.load(self.head));
        if header.0 == 0 {
            return Polled::Nothing;
        }
        // PUBLISH: pairs with the store in `publish`. The body is there.
        fence(Ordering::Acquire);
        let body = header.length() as usize;
        let to_end = self.capacity - (self.head & (self.capacity - 1));
        if header.is_plain() && body <= self.max_body && layout::record_size(body) <= to_end {
            Polled::Plain(header)
        } else {
            Polled::Other
        }
    }

    /// Takes the record that [`Self::poll_plain`] just found: replaces `out` with its body, and gives its space back.
    #[inline(always)]
    pub fn take_plain(&mut self, header: HeaderWord, out: &mut Vec<u8>) -> (u64, Released) {
        let body = header.length() as usize;
        let call = self.lines.read_record(self.head, body, out);
        (call, self.advance(layout::record_size(body)))
    }

    /// Publishes the head as far as it has come: for a consumer that found the ring empty and is about to wait for
    /// longer than a spin. No producer depends on it; tools then see an empty ring as empty.
    pub fn settle(&mut self) {
        if self.head != self.published {
            self.publish_head();
        }
    }

    /// The next record, if there is one.
    ///
    /// # Errors
    /// If the producer wrote an impossible header; the ring must not be used any more.
    #[inline]
    pub fn peek(&mut self) -> Result<Option<Record>, Fault> {
        let header = HeaderWord(self.lines.load(self.head));
        if header.0 == 0 {
            return Ok(None);
        }
        // PUBLISH: pairs with the store in `publish`. The body is there.
        fence(Ordering::Acquire);
        if header.kind() == Some(Kind::Padding) {
            return self.peek_behind(header);
        }
        self.check(header).map(Some)
    }

    /// The record behind padding.
    #[cold]
    fn peek_behind(&mut self, padding: HeaderWord) -> Result<Option<Record>, Fault> {
        let to_end = self.capacity - (self.head & (self.capacity - 1));
        if padding.0 >> 40 != 0 || u64::from(padding.length()) + FRAME_HEADER as u64 != to_end {
            return Err(Fault::Padding);
        }
        if to_end == self.capacity {
            return Err(Fault::Padding); // a record always fits at the start
        }
        self.head = self.head.wrapping_add(to_end);
        let header = HeaderWord(self.lines.load(self.head));
        if header.0 == 0 {
            return Ok(None);
        }
        // PUBLISH, as above.
        fence(Ordering::Acquire);
        if header.kind() == Some(Kind::Padding) {
            return Err(Fault::Padding);
        }
        self.check(header).map(Some)
    }

    /// The one place where a header word of the peer becomes a record.
    #[inline]
    fn check(&self, header: HeaderWord) -> Result<Record, Fault> {
        let Some(kind) = header.kind() else { return Err(Fault::Kind) };
        if header.flags() & !layout::flag::ALL != 0 {
            return Err(Fault::Kind);
        }
        let body = header.length() as usize;
        if body > self.max_body {
            return Err(Fault::Length);
        }
        let size = layout::record_size(body);
        if size > self.capacity - (self.head & (self.capacity - 1)) {
            return Err(Fault::Length);
        }
        let call = self.lines.load(self.head.wrapping_add(layout::CALL_ID as u64));
        Ok(Record { kind, header, call, position: self.head, size })
    }

    /// The u64 at `offset` in the body of `record`, loaded once.
    ///
    /// # Panics
    /// If it is outside the body.
    #[inline]
    pub fn word(&self, record: &Record, offset: usize) -> u64 {
        assert!(offset + 8 <= record.len() && offset.is_multiple_of(8), "outside the record");
        self.lines.load(record.position.wrapping_add((FRAME_HEADER + offset) as u64))
    }

    /// Appends the body of `record`, from `offset` on, to `out`. The copy is then the caller's to validate.
    ///
    /// # Panics
    /// If `offset` is beyond the body.
    #[inline]
    pub fn read(&self, record: &Record, offset: usize, out: &mut Vec<u8>) {
        let len = record.len() - offset;
        self.lines.read(record.position.wrapping_add((FRAME_HEADER + offset) as u64), len, out);
    }

    /// Copies bytes of the body of `record`, from `offset` on, to all of `out`.
    ///
    /// # Panics
    /// If they are beyond the body.
    #[cfg(not(ringbell_loom))]
    pub fn read_to(&self, record: &Record, offset: usize, out: &mut [u8]) {
        assert!(offset + out.len() <= record.len(), "outside the record");
        self.lines.read_to(record.position.wrapping_add((FRAME_HEADER + offset) as u64), out);
    }

    /// The address of the body of `record`, valid until it is released.
    #[cfg(not(ringbell_loom))]
    pub fn address(&self, record: &Record) -> core::ptr::NonNull<u8> {
        self.lines.address(record.position.wrapping_add(FRAME_HEADER as u64), record.len())
    }

    /// Gives the space of `record`, and of all before it, back.
    #[inline]
    #[allow(clippy::needless_pass_by_value, reason = "a released record must not be read any more")]
    pub fn release(&mut self, record: Record) -> Released {
        debug_assert_eq!(record.position, self.head, "records are released in order");
        self.advance(record.size)
    }

    #[inline(always)]
    fn advance(&mut self, size: u64) -> Released {
        self.head = self.head.wrapping_add(size);
        if self.head.wrapping_sub(self.rung) < self.quarter {
            return Released::Quietly;
        }
        self.publish_head();
        self.rung = self.head;
        Released::Quarter
    }

    #[inline]
    fn publish_head(&mut self) {
        // RELEASE: pairs with the fence in `refresh_head`. What was read is no longer needed.
        self.head_word.store(self.head, Ordering::Release);
        self.published = self.head;
    }
}
