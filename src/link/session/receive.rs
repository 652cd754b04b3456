//! Receiving: whole messages at once, anything else piece by piece.

use super::link::{Link, Piece};
use super::{Head, PeerFault, Received, SessionCore, is_control};
use crate::link::held::{Charge, KEPT};
use crate::memory::layout::{Interest, Kind, flag};
use crate::protocol::ring::{Polled, Record, Released};

/// Most bytes of extensions in a record.
const EXTENSIONS: usize = 24;
/// Extensions that any message may have, and that stand in its first record.
pub(super) const TIMES: u8 = flag::DEADLINE | flag::STAMP;

/// Bytes of these, by the flags of the record.
pub(super) fn size_of_times(flags: u8) -> usize {
    8 * (flags & TIMES).count_ones() as usize
}

impl SessionCore {
    /// Takes the next message, or the next fragment. On [`Received::Message`] `into` holds the
    /// payload: a private copy, which the peer cannot change any more.
    ///
    /// Fast path of [`Self::receive_slowly`]; `receive_slowly` is the rule.
    #[inline(always)]
    pub(crate) fn receive(&mut self, into: &mut Vec<u8>) -> Result<Received, PeerFault> {
        let Link::Rings(rings) = &mut self.link else { return self.receive_slowly(into) };
        match rings.incoming.poll_plain() {
            Polled::Nothing => Ok(Received::Nothing),
            Polled::Plain(plain)
                if self.assembly.is_none() && plain.header().len() <= self.max_plain =>
            {
                let header = plain.header();
                let (call, released) = rings.incoming.take_plain(plain, into);
                let head = Head::of(header, call);
                if !is_control(head.kind()) {
                    self.counts.received += 1;
                    self.counts.bytes_received += header.len() as u64;
                }
                if released == Released::Quarter {
                    self.ring_for_space();
                }
                Ok(Received::Message(head))
            }
            Polled::Plain(_) | Polled::Other => self.receive_slowly(into),
        }
    }

    /// The next message without taking it, if it is there, lies in a ring, and in one piece.
    pub(crate) fn peek(&mut self) -> Result<Option<(Head, Record)>, PeerFault> {
        let Link::Rings(rings) = &mut self.link else { return Ok(None) };
        let Some(record) = rings.incoming.peek()? else { return Ok(None) };
        if record.header.flags() != 0 || self.assembly.is_some() || record.len() > self.max_message
        {
            return Ok(None);
        }
        let head = Head::of(record.header, record.call);
        Ok(Some((head, record)))
    }

    /// Takes a record that was peeked at.
    pub(crate) fn take(&mut self, record: Record) {
        let piece = Piece::Record(record);
        self.took(&piece, piece.len());
        self.release(piece);
    }

    #[inline]
    fn took(&mut self, piece: &Piece, payload: usize) -> Head {
        let head = Head::of(piece.header(), piece.call());
        if !is_control(head.kind()) {
            self.counts.received += 1;
            self.counts.bytes_received += payload as u64;
        }
        head
    }

    #[inline]
    pub(super) fn release(&mut self, piece: Piece) {
        if self.link.release(piece) == Released::Quarter {
            self.ring_for_space();
        }
    }

    #[cold]
    fn ring_for_space(&mut self) {
        let Link::Rings(rings) = &self.link else { return };
        if let Some(mode) = rings.ringer.ring(Interest::SPACE) {
            super::wake(rings, &self.lifeline, &mut self.counts, mode);
        }
    }

    #[cold]
    fn receive_slowly(&mut self, into: &mut Vec<u8>) -> Result<Received, PeerFault> {
        let Some(piece) = self.link.peek()? else { return Ok(Received::Nothing) };
        let flags = piece.header().flags();
        let head = Head::of(piece.header(), piece.call());
        if piece.len() > self.max_message.saturating_add(EXTENSIONS) {
            return Err(PeerFault::TooLong);
        }
        if flags & flag::STAMP != 0 && (!self.stamps || head.kind() != Kind::Request) {
            return Err(PeerFault::UnexpectedKind(head.kind())); // not agreed in the handshake
        }
        let whole = flags & !TIMES == 0;
        if whole && (self.assembly.is_none() || is_control(head.kind())) {
            return self.receive_whole(piece, into);
        }
        self.receive_fragment(head, piece, into)
    }

    /// A message in one piece.
    fn receive_whole(&mut self, piece: Piece, into: &mut Vec<u8>) -> Result<Received, PeerFault> {
        let flags = piece.header().flags();
        let offset = size_of_times(flags);
        if piece.len() < offset {
            return Err(PeerFault::Fragment);
        }
        if piece.len() - offset > self.max_message {
            return Err(PeerFault::TooLong);
        }
        let (until, stamp) = self.times(&piece, 0);
        into.clear();
        let len = piece.len() - offset;
        let refused = len > KEPT && !self.charge_whole(len, into);
        if !refused {
            self.link.read(&piece, offset, into);
        }
        let head = self.took(&piece, len);
        self.release(piece);
        Ok(if refused { Received::Refused(head) } else { self.message(head, until, stamp) })
    }

    /// Pays for a message that comes in one piece and is large; false if there is no room for it.
    #[cold]
    fn charge_whole(&mut self, len: usize, into: &mut Vec<u8>) -> bool {
        let size = len.max(into.capacity());
        // That of the message before was for the same buffer.
        let mut charge = self.take_charge();
        let fits = charge.grow_to(&self.account, size);
        if fits {
            into.reserve_exact(size);
            self.arrived = charge;
        } else {
            self.account.count_refusal();
        }
        fits
    }

    /// Deadline and stamp of a message, whose words begin at `offset` of its first piece. 0 for
    /// none.
    pub(super) fn times(&self, piece: &Piece, mut offset: usize) -> (u64, u64) {
        let mut word = |flag| {
            if piece.header().flags() & flag == 0 {
                return 0;
            }
            offset += 8;
            self.link.word(piece, offset - 8)
        };
        (word(flag::DEADLINE), word(flag::STAMP))
    }

    /// The charge of the message that was received last, if its buffer is larger than one that is
    /// kept.
    pub(crate) fn take_charge(&mut self) -> Charge {
        std::mem::take(&mut self.arrived)
    }

    /// Whether there is such a charge.
    #[inline]
    pub(crate) fn holds_charge(&self) -> bool {
        self.arrived.bytes() != 0
    }

    /// Whether a message has arrived in part.
    pub(crate) fn is_arriving(&self) -> bool {
        self.assembly.is_some()
    }

    /// As [`Self::is_arriving`], or a frame has arrived in part. Rings have none of these.
    pub(crate) fn has_begun_to_arrive(&self) -> bool {
        self.is_arriving() || self.link.has_unread()
    }

    /// When the message was sent that was received last, as its sender says; 0 if it says nothing,
    /// or that was asked before.
    pub(crate) fn take_stamp(&mut self) -> u64 {
        std::mem::take(&mut self.stamp)
    }

    #[inline]
    pub(super) fn message(&mut self, head: Head, until: u64, stamp: u64) -> Received {
        self.stamp = stamp;
        if until == 0 && stamp == 0 {
            Received::Message(head)
        } else {
            Received::Until(head, until)
        }
    }
}
