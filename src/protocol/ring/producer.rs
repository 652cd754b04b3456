//! The side that writes: claims, the zeroed window, PUBLISH.

use super::Fault;
use crate::base::sync::{Ordering, fence};
use crate::memory::layout::{self, FRAME_HEADER, HeaderWord, Kind, LINE};
use crate::memory::{OwnLines, OwnWord, PeerWord};

/// Why nothing was claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimError {
    /// No room until the consumer releases some. Never said of a ring that its consumer found
    /// empty.
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
    /// So many bytes behind the tail may have been written through a claim, line starts but the
    /// first included.
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

    /// The fullest that the ring was found, in bytes. It is looked at when it seems to be full,
    /// once in a lap or so.
    pub fn fill_peak(&self) -> u64 {
        self.fill_peak
    }

    /// Claims room for a record with `body` bytes. Nothing is visible to the consumer before
    /// [`Self::commit`], except padding in front of it.
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

    /// Claims, copies and commits a record in one go; the header's length is set to that of `body`.
    /// The caller rings, and then calls [`Self::zero_ahead`].
    ///
    /// Fast path of [`Self::try_claim`], [`Self::write`] and [`Self::commit`]; they are the rule.
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "a record's body is far below 4 GiB")]
    pub fn try_push(
        &mut self,
        header: HeaderWord,
        call: u64,
        body: &[u8],
    ) -> Result<(), ClaimError> {
        let size = layout::record_size(body.len());
        let to_end = self.capacity - (self.tail & (self.capacity - 1));
        let free = self.capacity
            - self.window
            - self.tail.wrapping_sub(self.head).min(self.capacity - self.window);
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

    /// Publishes a claim; the header's length may be shorter than what was claimed. The consumer
    /// may be asleep: the caller rings, and then calls [`Self::zero_ahead`].
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

    /// Zeroes the line starts of the window behind the last record, off the critical path. Not
    /// calling it costs time, not correctness.
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
        // As if the record needed the most padding it can need; only a waiter asks, so too late
        // does no harm as long as it is not never, which `max_record` sees to.
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
        // RELEASE: pairs with the store in `publish_head`. What the consumer read before, it has
        // read.
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
            // Z, for a record longer than the window or shorter than what was claimed. Relaxed:
            // PUBLISH orders it.
            self.lines.store(end, 0, Ordering::Relaxed);
            self.ahead = size + LINE;
        }
        // PUBLISH: pairs with the fence in `load_header`.
        self.lines.store(self.tail, header.0, Ordering::Release);
        self.tail = end;
        self.ahead -= size;
        self.dirty = 0;
        // Relaxed: for tools only, nobody acts on it.
        self.tail_word.store(end, Ordering::Relaxed);
    }
}
