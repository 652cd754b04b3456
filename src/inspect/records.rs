//! The records of a ring, in a copy of its segment.

use crate::memory::layout::{self, FRAME_HEADER, HeaderWord, Kind, LINE, flag};
use serde::{Deserialize, Serialize};

/// What is wrong with a record, or with the range that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Flaw {
    /// Positions that no ring of this capacity has: out of order, too far apart, or not on a line.
    Position,
    /// Nothing is published where a record should begin.
    Unpublished,
    /// An unknown kind or flag.
    Kind,
    /// A length that no record of this ring can have.
    Length,
    /// Padding that does not reach to the end, or follows padding.
    Padding,
    /// Too short for the extensions that its flags promise.
    Extension,
    /// The copy ends before it does.
    Cut,
}

impl std::fmt::Display for Flaw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Position => "impossible positions",
            Self::Unpublished => "nothing is published here",
            Self::Kind => "an unknown kind or flag",
            Self::Length => "an impossible length",
            Self::Padding => "misplaced padding",
            Self::Extension => "too short for its extensions",
            Self::Cut => "the copy ends here",
        })
    }
}

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record<'a> {
    /// Where it begins, in bytes since the start of the ring.
    pub position: u64,
    /// Bytes that it takes in the ring; 0 if that cannot be known.
    pub size: u64,
    /// Its first word.
    pub header: HeaderWord,
    /// The call id.
    pub call: u64,
    /// Length of the whole message, in its first fragment.
    pub total: Option<u64>,
    /// Until when the caller waits: CLOCK_MONOTONIC, ns.
    pub deadline: Option<u64>,
    /// When it was sent: CLOCK_MONOTONIC, ns.
    pub stamp: Option<u64>,
    /// The payload; what is left of its first line if the record has a flaw.
    pub payload: &'a [u8],
    /// What is wrong with it. Nothing can be said of what comes behind a flaw.
    pub flaw: Option<Flaw>,
}

impl Record<'_> {
    /// Whether it begins a message: so many of these, so many messages.
    #[must_use]
    pub fn begins_message(&self) -> bool {
        self.flaw.is_none()
            && self.header.kind() != Some(Kind::Padding)
            && self.header.flags() & flag::CONTINUED == 0
    }
}

/// A copy of a ring.
#[derive(Debug, Clone, Copy)]
pub struct Ring<'a> {
    body: &'a [u8],
    capacity: u64,
}

/// Where the lap begins that `position` belongs to. A record always begins there, since padding
/// reaches to the end.
#[must_use]
pub fn lap_start(position: u64, capacity: u64) -> u64 {
    if capacity.is_power_of_two() { position & !(capacity - 1) } else { position }
}

/// Whether what was copied at `position` is what was published there: `head` and `tail` are the
/// ring's positions after the copy was made. A producer may write up to a record and the zero
/// window beyond its tail, but never over what its consumer has not released.
#[must_use]
pub fn intact(capacity: u64, position: u64, head: u64, tail: u64) -> bool {
    let writing = layout::max_record(capacity) + layout::zero_window(capacity);
    let behind = tail.wrapping_sub(position);
    behind <= tail.wrapping_sub(head).min(capacity) || behind.saturating_add(writing) <= capacity
}

impl<'a> Ring<'a> {
    /// The ring in a copy of a segment, whole or cut; `None` if there can be no such ring.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "a capacity is at most 1 GiB")]
    pub fn new(segment: &'a [u8], capacity: u64) -> Option<Self> {
        if !layout::is_capacity(capacity) {
            return None;
        }
        let body = segment.get(layout::CONTROL..).unwrap_or_default();
        Some(Self { body: &body[..body.len().min(capacity as usize)], capacity })
    }

    /// The records between two positions. Ends behind `to`, or with the first flaw.
    #[must_use]
    pub fn walk(&self, from: u64, to: u64) -> Walk<'a> {
        let sane = to.wrapping_sub(from) <= self.capacity
            && from.is_multiple_of(LINE)
            && to.is_multiple_of(LINE);
        Walk { ring: *self, at: from, to, padded: false, insane: !sane, over: false }
    }

    /// What is left of the first line of a record, behind its header.
    #[allow(clippy::cast_possible_truncation, reason = "a capacity is at most 1 GiB")]
    fn bytes(&self, position: u64, from: usize, to: usize) -> &'a [u8] {
        let index = (position & (self.capacity - 1)) as usize;
        let end = index.saturating_add(to).min(self.body.len());
        self.body.get(index.saturating_add(from)..end).unwrap_or_default()
    }

    fn word(&self, position: u64, at: usize) -> Option<u64> {
        self.bytes(position, at, at + 8).try_into().ok().map(u64::from_le_bytes)
    }

    /// The record at `position`. The same checks as those of `ring.rs` and `session/receive.rs`.
    fn record(&self, position: u64, behind_padding: bool) -> Record<'a> {
        let header = HeaderWord(self.word(position, 0).unwrap_or(0));
        let call = self.word(position, layout::CALL_ID).unwrap_or(0);
        #[allow(clippy::cast_possible_truncation, reason = "a line")]
        let flawed = |flaw| Record {
            position,
            size: 0,
            header,
            call,
            total: None,
            deadline: None,
            stamp: None,
            payload: self.bytes(position, FRAME_HEADER, LINE as usize),
            flaw: Some(flaw),
        };
        let sound = |size, [total, deadline, stamp]: [Option<u64>; 3], payload| Record {
            position,
            size,
            header,
            call,
            total,
            deadline,
            stamp,
            payload,
            flaw: None,
        };
        if self.word(position, layout::CALL_ID).is_none() {
            return flawed(Flaw::Cut);
        }
        if header.0 == 0 {
            return flawed(Flaw::Unpublished);
        }
        let Some(kind) = header.kind() else { return flawed(Flaw::Kind) };
        let to_end = self.capacity - (position & (self.capacity - 1));
        let body = header.length() as usize;
        if kind == Kind::Padding {
            let exact = header.flags() == 0
                && header.code() == 0
                && u64::from(header.length()) + FRAME_HEADER as u64 == to_end;
            if !exact || to_end == self.capacity || behind_padding {
                return flawed(Flaw::Padding);
            }
            return sound(to_end, [None; 3], &[]);
        }
        if header.flags() & !flag::ALL != 0 {
            return flawed(Flaw::Kind);
        }
        let size = layout::record_size(body);
        if body > layout::max_body(self.capacity) || size > to_end {
            return flawed(Flaw::Length);
        }
        let flags = header.flags();
        let first_of_several = flags & flag::MORE != 0 && flags & flag::CONTINUED == 0;
        let mut at = FRAME_HEADER;
        let mut words = [None; 3];
        let wanted = [first_of_several, flags & flag::DEADLINE != 0, flags & flag::STAMP != 0];
        for (word, _) in words.iter_mut().zip(wanted).filter(|(_, wanted)| *wanted) {
            if at + 8 > FRAME_HEADER + body {
                return flawed(Flaw::Extension);
            }
            *word = self.word(position, at);
            at += 8;
        }
        let payload = self.bytes(position, at, FRAME_HEADER + body);
        if payload.len() != FRAME_HEADER + body - at {
            return flawed(Flaw::Cut);
        }
        sound(size, words, payload)
    }
}

/// The records of a range, see [`Ring::walk`].
#[derive(Debug, Clone)]
pub struct Walk<'a> {
    ring: Ring<'a>,
    at: u64,
    to: u64,
    padded: bool,
    insane: bool,
    over: bool,
}

impl Walk<'_> {
    /// How far it has come: behind the last record without a flaw.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.at
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        if self.over || self.at == self.to {
            return None;
        }
        let mut record = self.ring.record(self.at, self.padded);
        let left = self.to.wrapping_sub(self.at);
        if self.insane {
            record.flaw = Some(Flaw::Position);
        } else if record.flaw.is_none() && record.size > left {
            record.flaw = Some(Flaw::Length);
        }
        if record.flaw.is_some() {
            record.size = 0;
            self.over = true;
            return Some(record);
        }
        self.padded = record.header.kind() == Some(Kind::Padding);
        // At least a line each, and at most a ring in all: it ends.
        self.at = self.at.wrapping_add(record.size);
        Some(record)
    }
}
