//! The single-producer single-consumer ring. No I/O, no system calls, no unsafe code.
//!
//! # Protocol
//!
//! Records are published **in band**: the consumer polls the header word of the next record, at its
//! own position, and the producer stores that word last. A short message so costs one cache-line
//! transfer.
//!
//! Stale bytes must never be read as a header word. The consumer only looks at the line at its
//! head, which after the last record is the producer's tail. Hence the invariant
//!
//! > **Z**: when the header word of a record that ends at `T` is stored, the header word at `T` is
//! > already 0.
//!
//! The producer keeps **Z** by zeroing line starts ahead of its position: a window of a few lines
//! after each commit, off the critical path; only a record longer than the window zeroes its
//! successor's place before it is published. Every claim asks for its size plus the window, so the
//! zeroed lines are always free ones.
//!
//! # Orderings
//!
//! | edge | Release | Acquire | without it |
//! |---|---|---|---|
//! | **PUBLISH** | header word, in [`Producer::commit`] | fence, in `Consumer::load_header` | a body is read before it is written; a stale header word behind it is read as a record |
//! | **RELEASE** | head, in `Consumer::publish_head` | fence, in `Producer::refresh_head` | bytes are overwritten while they are still being read |
//!
//! Loads are relaxed with a fence behind, because the peer's memory is mapped read-only, where only
//! relaxed loads are allowed.
//!
//! # Space
//!
//! The head is published lazily: after a quarter of the ring, when a producer that sleeps for space
//! must also be rung ([`Consumer::release`] says so); and before its consumer sleeps on an empty
//! ring, for tools. That is enough:
//!
//! - A claim takes at most three quarters of the ring (`layout::max_record`), so a producer that
//!   cannot claim has more than a quarter unread beyond the head `H` that it saw after it had
//!   armed.
//! - `H` is at least `R`, the head of the last ring: of the two fences of `bell.rs` one comes
//!   first; if the consumer's did, the producer sees `R`; if the producer's did, the consumer saw
//!   it armed and rang.
//! - So more than a quarter lies beyond `R`, and the consumer rings when it has gone through a
//!   quarter of it.
//!
//! # Hostile peers
//!
//! Each side keeps its position privately. What the peer wrote (head, header word) is loaded once,
//! at one place, and checked; an impossible value is a [`Fault`], after which the ring must not be
//! used. A header word that was checked is a [`FrameHeader`](crate::memory::FrameHeader): only the
//! check makes one of a peer's word.

mod consumer;
mod producer;

use crate::memory::layout::{HeaderWord, Kind};

pub use consumer::{Consumer, PlainHeader, Polled, Record, Released};
pub use producer::{ClaimError, Producer, RingClaim};

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

impl Fault {
    /// What is wrong with a header word that was checked and refused.
    pub(crate) fn of_header(refused: HeaderWord) -> Self {
        if refused.kind() == Some(Kind::Padding) { Self::Padding } else { Self::Kind }
    }
}
