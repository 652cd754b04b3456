//! Messages that arrive in fragments, put together in memory that is charged as it grows.

use super::link::Piece;
use super::receive::{TIMES, size_of_times};
use super::{Head, PeerFault, Received, SessionCore, is_control};
use crate::link::held::{Charge, Held, KEPT};
use crate::memory::layout::flag;

/// A message that is arriving in fragments.
#[derive(Debug)]
pub(super) struct Assembly {
    head: Head,
    /// 0 for none.
    until: u64,
    stamp: u64,
    held: Held,
    total: usize,
    got: usize,
    refused: bool,
}

impl SessionCore {
    /// Takes a fragment in, and returns the message that it completes.
    pub(super) fn receive_fragment(
        &mut self,
        head: Head,
        piece: Piece,
        into: &mut Vec<u8>,
    ) -> Result<Received, PeerFault> {
        let flags = piece.header().flags();
        let mut offset = 0;
        if flags & flag::CONTINUED == 0 {
            offset = 8 + size_of_times(flags);
            // The first fragment.
            if self.assembly.is_some()
                || flags & !TIMES != flag::MORE
                || is_control(head.kind())
                || piece.len() < offset
            {
                return Err(PeerFault::Fragment);
            }
            let total =
                usize::try_from(self.link.word(&piece, 0)).map_err(|_| PeerFault::TooLong)?;
            if total > self.max_message {
                return Err(PeerFault::TooLong);
            }
            let (until, stamp) = self.times(&piece, 8);
            // The caller's buffer is warm, but it must be paid for before it is kept, and a message
            // that is much smaller is not to pay for it.
            let mut held = Held { charge: self.take_charge(), ..Held::default() };
            let fits_in = into.capacity() <= KEPT || into.capacity() / 2 <= total;
            if fits_in && held.charge.grow_to(&self.account, into.capacity()) {
                held.bytes = std::mem::take(into);
                held.bytes.clear();
            } else {
                held.charge = Charge::default();
            }
            self.assembly =
                Some(Assembly { head, until, stamp, held, total, got: 0, refused: false });
        }
        let Some(assembly) = &mut self.assembly else { return Err(PeerFault::Fragment) };
        if assembly.head != head {
            return Err(PeerFault::Fragment);
        }
        if flags & flag::CONTINUED != 0 && flags & TIMES != 0 {
            return Err(PeerFault::Fragment);
        }
        if flags & flag::ABORT != 0 {
            if flags & flag::MORE != 0 || piece.len() != 0 {
                return Err(PeerFault::Fragment);
            }
            self.counts.aborts += 1;
            self.assembly = None;
            self.release(piece);
            return Ok(Received::Partial);
        }
        let len = piece.len() - offset;
        assembly.got += len;
        let last = flags & flag::MORE == 0;
        // Each fragment brings something, and only the last one completes the message.
        if len == 0 || assembly.got > assembly.total || (assembly.got == assembly.total) != last {
            return Err(PeerFault::Fragment);
        }
        if !assembly.refused {
            let (held, need) = (&mut assembly.held, assembly.got);
            if need > held.bytes.capacity() {
                // By doubling, but to no more than the message takes.
                let size = need.max(2 * held.bytes.capacity()).min(assembly.total);
                if held.charge.grow_to(&self.account, size) {
                    held.bytes.reserve_exact(size - held.bytes.len());
                } else {
                    self.account.count_refusal();
                    assembly.refused = true;
                    assembly.held = Held::default();
                }
            }
        }
        if !assembly.refused {
            self.link.read(&piece, offset, &mut assembly.held.bytes);
        }
        self.release(piece);
        if !last {
            return Ok(Received::Partial);
        }
        let Some(assembly) = self.assembly.take() else { return Err(PeerFault::Fragment) };
        self.counts.received += 1;
        self.counts.bytes_received += assembly.got as u64;
        let Held { bytes, charge } = assembly.held;
        // A buffer that may be kept is the driver's own, until it is handed to somebody.
        self.arrived = if bytes.capacity() > KEPT { charge } else { Default::default() };
        *into = bytes;
        Ok(if assembly.refused {
            Received::Refused(assembly.head)
        } else {
            self.message(assembly.head, assembly.until, assembly.stamp)
        })
    }
}
