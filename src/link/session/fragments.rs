//! Messages that arrive in fragments, put together within a budget.

use super::link::Piece;
use super::receive::{TIMES, size_of_times};
use super::{Head, PeerFault, Received, SessionCore, is_control};
use crate::base::sync::{Ordering, PlainU64};
use crate::memory::layout::flag;
use std::sync::Arc;

/// Memory that all incomplete messages of a process may take together, in bytes.
#[derive(Debug)]
pub(crate) struct Budget {
    left: PlainU64,
}

impl Budget {
    pub(crate) fn new(bytes: u64) -> Arc<Self> {
        Arc::new(Self { left: PlainU64::new(bytes) })
    }

    fn take(&self, bytes: u64) -> bool {
        // Relaxed: a count, which orders nothing.
        self.left.take(bytes, Ordering::Relaxed)
    }

    fn give_back(&self, bytes: u64) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A message that is arriving in fragments.
#[derive(Debug)]
pub(super) struct Assembly {
    head: Head,
    /// 0 for none.
    until: u64,
    stamp: u64,
    bytes: Vec<u8>,
    total: usize,
    got: usize,
    charged: u64,
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
            // The caller's buffer is warm, but large memory must be paid for before it is kept.
            let reused = into.capacity() as u64;
            let charged = if self.budget.take(reused) { reused } else { 0 };
            let mut bytes = if charged == reused { std::mem::take(into) } else { Vec::new() };
            bytes.clear();
            self.assembly = Some(Assembly {
                head,
                until,
                stamp,
                bytes,
                total,
                got: 0,
                charged,
                refused: false,
            });
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
            self.drop_assembly();
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
        let missing = (assembly.got as u64).saturating_sub(assembly.charged);
        if !assembly.refused && !self.budget.take(missing) {
            assembly.refused = true;
            assembly.bytes = Vec::new();
            self.budget.give_back(std::mem::take(&mut assembly.charged));
        }
        if !assembly.refused {
            assembly.charged += missing;
            self.link.read(&piece, offset, &mut assembly.bytes);
        }
        self.release(piece);
        if !last {
            return Ok(Received::Partial);
        }
        let assembly = self.drop_assembly().expect("looked at above");
        self.counts.received += 1;
        self.counts.bytes_received += assembly.got as u64;
        *into = assembly.bytes;
        Ok(if assembly.refused {
            Received::Refused(assembly.head)
        } else {
            self.message(assembly.head, assembly.until, assembly.stamp)
        })
    }

    fn drop_assembly(&mut self) -> Option<Assembly> {
        let assembly = self.assembly.take();
        if let Some(assembly) = &assembly {
            self.budget.give_back(assembly.charged);
        }
        assembly
    }
}

impl Drop for SessionCore {
    fn drop(&mut self) {
        self.drop_assembly();
    }
}
