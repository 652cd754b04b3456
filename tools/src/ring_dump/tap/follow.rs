//! One ring that is followed. A look reads the tail, and if it moved the head and a bounded stretch
//! of what is new; what lies behind that waits for the next look, and what the producer overwrites
//! until then was missed.

use crate::cli::{Choice, Which};
use crate::frames::{Frame, Origin};
use crate::handle::Handle;
use crate::report::JSON_VERSION;
use ringbell::inspect::{Ring, intact, lap_start};
use ringbell::layout::{self, FRAME_HEADER, Kind, offset};
use ringbell::sync::{Ordering, fence};
use serde::Serialize;

/// How much of one ring a look reads at most, so that it takes few lines from those who use them,
/// and little time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Burst {
    pub(super) records: u64,
    pub(super) bytes: u64,
}

impl Burst {
    pub(super) const SMALL: Self = Self { records: 64, bytes: 8 << 10 };
    pub(super) const ALL: Self = Self { records: u64::MAX, bytes: u64::MAX };
}

/// What passed through the rings that are followed. All bytes of it are in one of the parts, and in
/// one only.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Passed {
    /// How far the rings went forward.
    pub(super) bytes: u64,
    /// Records that were shown.
    pub(super) records: u64,
    /// Their bytes in the rings.
    pub(super) shown_bytes: u64,
    /// Records of kinds that were not asked for, and their bytes.
    pub(super) left_out: u64,
    pub(super) left_out_bytes: u64,
    /// Bytes at the ends of rings that carry nothing.
    pub(super) padding_bytes: u64,
    /// Bytes of records that were not seen.
    pub(super) missed_bytes: u64,
    /// How many records that can have been.
    pub(super) missed_records_at_most: u64,
}

impl Passed {
    fn miss(&mut self, bytes: u64) {
        self.bytes = self.bytes.wrapping_add(bytes);
        self.missed_bytes = self.missed_bytes.saturating_add(bytes);
        self.missed_records_at_most = self.missed_bytes / layout::LINE;
    }
}

/// Records of one ring that were not seen.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Gap {
    version: u32,
    #[serde(serialize_with = "crate::export::hex")]
    generation: u64,
    #[serde(serialize_with = "crate::export::decimal")]
    pub(super) session: u64,
    ring: Which,
    /// Where it begins, in bytes since the start of the ring.
    #[serde(serialize_with = "crate::export::decimal")]
    position: u64,
    pub(super) missed_bytes: u64,
    pub(super) missed_records_at_most: u64,
}

/// What there is to print of a look.
#[derive(Debug)]
pub(super) enum Event {
    Frame(Box<Frame>),
    Gap(Gap),
}

#[derive(Debug)]
pub(super) struct Followed {
    origin: Origin,
    /// The producer's segment, and that of the consumer.
    own: Handle,
    other: Handle,
    capacity: u64,
    /// Up to where records were seen, or missed.
    next: u64,
    /// Where a gap began that was not told yet.
    gap: Option<u64>,
    /// The segment as far as it was copied; the control page is left out.
    copy: Vec<u8>,
}

#[allow(clippy::cast_possible_truncation, reason = "a capacity is at most 1 GiB")]
impl Followed {
    /// Follows a ring from where it is now, or from its first record.
    pub(super) fn new(
        origin: Origin,
        [own, other]: [&Handle; 2],
        capacity: u64,
        from_the_first: bool,
    ) -> Option<Self> {
        if !layout::is_capacity(capacity) {
            return None;
        }
        let next = if from_the_first { 0 } else { own.word(offset::TAIL)? };
        let copy = vec![0; layout::CONTROL + capacity as usize];
        Some(Self {
            origin,
            own: own.clone(),
            other: other.clone(),
            capacity,
            next,
            gap: None,
            copy,
        })
    }

    pub(super) fn ring(&self) -> Which {
        self.origin.ring
    }

    /// Where the ring is now: tail and head.
    fn positions(&self) -> Option<(u64, u64)> {
        Some((self.own.word(offset::TAIL)?, self.other.word(offset::HEAD)?))
    }

    /// Copies a range of the ring to its place, in the order in which it was written.
    fn copy(&mut self, mut from: u64, to: u64) {
        while from != to {
            let index = from & (self.capacity - 1);
            let length = to.wrapping_sub(from).min(self.capacity - index);
            let at = layout::CONTROL as u64 + index;
            self.own.read_into(at, &mut self.copy[at as usize..][..length as usize]);
            from = from.wrapping_add(length);
        }
    }

    /// What came since the last look, as far as `burst` goes; no more than `limit` records of it
    /// are shown.
    pub(super) fn look(
        &mut self,
        choice: &Choice,
        burst: Burst,
        limit: u64,
        passed: &mut Passed,
        events: &mut Vec<Event>,
    ) {
        match self.own.word(offset::TAIL) {
            // The ring went back: it is another session's now.
            Some(tail) if tail != self.next && tail.wrapping_sub(self.next) < 1 << 63 => {}
            _ => return,
        }
        // What is overwritten while it is copied is not believed. Who is overtaken again and again
        // gives up until the next look.
        for _ in 0..3 {
            let Some((tail, head)) = self.positions() else { return };
            if !self.is_intact(head, tail) {
                self.skip(head, tail, passed);
            }
            // The tail says that the records before it are there.
            fence(Ordering::Acquire);
            let beginning =
                (FRAME_HEADER + 24).saturating_add(choice.max_bytes).saturating_add(64) as u64;
            let most = burst.bytes.max(beginning) & !(layout::LINE - 1);
            let end = self.next.wrapping_add(tail.wrapping_sub(self.next).min(most));
            self.copy(self.next, end);
            // And these positions say whether they have been overwritten.
            fence(Ordering::Acquire);
            let Some((tail_after, head_after)) = self.positions() else { return };
            // What comes behind it will be overwritten later than it.
            if self.is_intact(head_after, tail_after) {
                self.take([tail, end], choice, burst.records.min(limit), passed, events);
                return;
            }
        }
    }

    fn is_intact(&self, head: u64, tail: u64) -> bool {
        tail.wrapping_sub(self.next) <= self.capacity
            && intact(self.capacity, self.next, head, tail)
    }

    /// Takes records out of the copy, which ends at `end`: earlier than the ring, perhaps.
    fn take(
        &mut self,
        [tail, end]: [u64; 2],
        choice: &Choice,
        most: u64,
        passed: &mut Passed,
        events: &mut Vec<Event>,
    ) {
        let Some(ring) = Ring::new(&self.copy, self.capacity) else { return };
        let from = self.next;
        let copied = end.wrapping_sub(from);
        let mut walk = ring.walk(from, tail);
        let (mut shown, mut flawed) = (0, false);
        while shown < most && self.next.wrapping_sub(from) < copied {
            let Some(record) = walk.next() else { break };
            // Of a record that is longer than the copy, what is printed of it is there: see `look`.
            let begins = record.position.wrapping_sub(from);
            let printed = (FRAME_HEADER + 24).saturating_add(choice.max_bytes) as u64;
            if begins != 0 && begins.saturating_add(printed.min(record.size)) > copied {
                break;
            }
            let kind = record.header.kind();
            flawed = record.flaw.is_some();
            if kind == Some(Kind::Padding) && !flawed {
                passed.padding_bytes += record.size;
            } else if flawed || choice.wants(kind) {
                if let Some(gap) = self.gap.take() {
                    events.push(Event::Gap(gap_of(self.origin, gap, record.position)));
                }
                let frame = Frame::of(&record, self.origin, choice.max_bytes, false, false);
                events.push(Event::Frame(Box::new(frame)));
                shown += 1;
                passed.records += 1;
                passed.shown_bytes += record.size;
            } else {
                passed.left_out += 1;
                passed.left_out_bytes += record.size;
            }
            passed.bytes = passed.bytes.wrapping_add(record.size);
            self.next = walk.position();
            if flawed {
                break;
            }
        }
        if flawed && let Some((tail, head)) = self.positions() {
            self.skip(head, tail, passed);
        }
    }

    /// Goes on at the first place of which it is known that a record begins there, and that is not
    /// about to be overwritten: the start of a lap, or the head; else the tail, where the next one
    /// will.
    fn skip(&mut self, head: u64, tail: u64, passed: &mut Passed) {
        let behind = tail.wrapping_sub(self.next);
        if behind == 0 || behind >= 1 << 63 {
            return;
        }
        let soon = tail.wrapping_add(self.capacity / 8);
        let places = [lap_start(tail, self.capacity), head].into_iter().filter(|place| {
            // Who follows a garbled ring does not stand still.
            (1..behind).contains(&place.wrapping_sub(self.next))
                && place.is_multiple_of(layout::LINE)
                && soon.wrapping_sub(*place) <= self.capacity
                && intact(self.capacity, *place, head, soon)
        });
        let to = places.min_by_key(|place| place.wrapping_sub(self.next)).unwrap_or(tail);
        passed.miss(to.wrapping_sub(self.next));
        self.gap.get_or_insert(self.next);
        self.next = to;
    }

    /// What is there and was not seen until the end was missed.
    pub(super) fn end(&mut self, passed: &mut Passed, events: &mut Vec<Event>) {
        if let Some(tail) = self.own.word(offset::TAIL) {
            self.skip(tail, tail, passed);
        }
        if let Some(gap) = self.gap.take() {
            events.push(Event::Gap(gap_of(self.origin, gap, self.next)));
        }
    }
}

fn gap_of(origin: Origin, from: u64, to: u64) -> Gap {
    let missed_bytes = to.wrapping_sub(from);
    Gap {
        version: JSON_VERSION,
        generation: origin.generation,
        session: origin.session,
        ring: origin.ring,
        position: from,
        missed_bytes,
        missed_records_at_most: missed_bytes / layout::LINE,
    }
}
