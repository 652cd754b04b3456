//! The side that reads: the check of what the peer wrote, RELEASE.

use super::Fault;
use crate::base::sync::{Ordering, fence};
use crate::memory::layout::{self, FRAME_HEADER, HeaderWord, Kind};
use crate::memory::{FrameHeader, OwnWord, PeerLines};

/// A record that was found and not released yet.
#[derive(Debug)]
#[must_use = "a record that is not released is found again"]
pub struct Record {
    /// Its header word, which was loaded once and checked.
    pub header: FrameHeader,
    /// The call id.
    pub call: u64,
    position: u64,
    size: u64,
}

impl Record {
    /// Length of the body in bytes.
    pub fn len(&self) -> usize {
        self.header.len()
    }

    /// Whether the body is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The header of a plain record that was found and not taken yet. Only [`Consumer::poll_plain`]
/// makes it, and [`Consumer::take_plain`] uses it up.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a record that is not taken is found again"]
pub struct PlainHeader(FrameHeader);

impl PlainHeader {
    /// What was checked.
    #[inline(always)]
    pub fn header(&self) -> FrameHeader {
        self.0
    }
}

/// What [`Consumer::poll_plain`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Polled {
    /// Nothing.
    Nothing,
    /// A plain record, with its header.
    Plain(PlainHeader),
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

    /// Capacity of the ring in bytes: no more is ever there at once.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Whether a record may be there. Changes nothing, promises nothing.
    #[inline]
    pub fn has_pending(&self) -> bool {
        self.lines.load(self.head) != 0
    }

    /// Looks for a record up to `looks` times; `between` is called between two looks and may end
    /// it. Changes nothing.
    #[cfg(not(ringbell_loom))]
    #[inline(always)]
    pub fn watch(&self, looks: u32, between: impl FnMut() -> bool) -> bool {
        self.lines.watch(self.head, looks, between)
    }

    /// The next header if its record is there and plain: of known kind, in one piece, without
    /// extensions and in bounds. After [`Polled::Other`], [`Self::peek`] loads the header word
    /// anew, checks that copy, and says what it is.
    ///
    /// Fast path of [`Self::peek`]; `peek` is the rule.
    #[inline(always)]
    pub fn poll_plain(&mut self) -> Polled {
        let Some(word) = self.load_header() else { return Polled::Nothing };
        match FrameHeader::check_plain(word) {
            Some(header) if self.may_be_here(header) => Polled::Plain(PlainHeader(header)),
            _ => Polled::Other,
        }
    }

    /// Takes the record that [`Self::poll_plain`] just found: replaces `out` with its body, and
    /// gives its space back.
    ///
    /// Fast path of [`Self::read`] and [`Self::release`]; they are the rule.
    #[inline(always)]
    pub fn take_plain(
        &mut self,
        PlainHeader(header): PlainHeader,
        out: &mut Vec<u8>,
    ) -> (u64, Released) {
        let call = self.lines.read_record(self.head, header.len(), out);
        (call, self.advance(layout::record_size(header.len())))
    }

    /// Publishes the head as far as it has come: for a consumer that found the ring empty and is
    /// about to wait for longer than a spin. No producer depends on it; tools then see an empty
    /// ring as empty.
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
        let Some(word) = self.load_header() else { return Ok(None) };
        if word.kind() == Some(Kind::Padding) {
            return self.peek_behind(word);
        }
        self.check(word).map(Some)
    }

    /// The record behind padding.
    #[cold]
    fn peek_behind(&mut self, padding: HeaderWord) -> Result<Option<Record>, Fault> {
        let to_end = self.to_end();
        if padding.0 >> 40 != 0 || u64::from(padding.length()) + FRAME_HEADER as u64 != to_end {
            return Err(Fault::Padding);
        }
        if to_end == self.capacity {
            return Err(Fault::Padding); // a record always fits at the start
        }
        self.head = self.head.wrapping_add(to_end);
        let Some(word) = self.load_header() else { return Ok(None) };
        self.check(word).map(Some)
    }

    /// The header word at the head, loaded once; `None` if no record is published there. What is
    /// made of the producer's header words is loaded here and nowhere else.
    #[inline(always)]
    fn load_header(&self) -> Option<HeaderWord> {
        let word = HeaderWord(self.lines.load(self.head));
        if word.0 == 0 {
            return None;
        }
        // PUBLISH: pairs with the store in `publish`. The body is there.
        fence(Ordering::Acquire);
        Some(word)
    }

    /// The one place where a header word of the peer becomes a record.
    #[inline]
    fn check(&self, word: HeaderWord) -> Result<Record, Fault> {
        let header = FrameHeader::check(word).ok_or_else(|| Fault::of_header(word))?;
        if !self.may_be_here(header) {
            return Err(Fault::Length);
        }
        let call = self.lines.load(self.head.wrapping_add(layout::CALL_ID as u64));
        Ok(Record { header, call, position: self.head, size: layout::record_size(header.len()) })
    }

    /// Whether a record of this length may be at the head: not too long, and not beyond the end.
    #[inline(always)]
    fn may_be_here(&self, header: FrameHeader) -> bool {
        header.len() <= self.max_body && layout::record_size(header.len()) <= self.to_end()
    }

    /// Bytes from the head to the end of the buffer.
    #[inline(always)]
    fn to_end(&self) -> u64 {
        self.capacity - (self.head & (self.capacity - 1))
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

    /// Appends the body of `record`, from `offset` on, to `out`. The copy is then the caller's to
    /// validate.
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
