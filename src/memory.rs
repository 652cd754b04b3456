//! Memory that two processes share, as words and lines with one writer each.
//!
//! The types are the roles: what a process may write it holds as [`OwnWord`] and [`OwnLines`], what
//! its peer writes as [`PeerWord`] and [`PeerLines`], which can only load. [`BellWord`] is the one
//! word that several ringers change. No reference to shared bytes ever leaves this module in safe
//! code, except `&mut` to the process's own claimed space.
//!
//! Two implementations with one interface: `mapped` over real memory, `model` over loom's atomics.

mod header;
pub mod layout;

pub use header::FrameHeader;

#[cfg(not(ringbell_loom))]
mod mapped;
#[cfg(not(ringbell_loom))]
pub(crate) use mapped::wait_any;
#[cfg(not(ringbell_loom))]
pub use mapped::{BellWord, OwnLines, OwnWord, PeerLines, PeerWord, Window};

#[cfg(ringbell_loom)]
mod model;
#[cfg(ringbell_loom)]
pub use model::{BellWord, OwnLines, OwnWord, PeerLines, PeerWord};

/// A word and the peer's view of it, in private memory: for tests, models and benches with both
/// ends in one process.
pub fn word_pair() -> (OwnWord, PeerWord) {
    OwnWord::pair()
}

/// The bytes of a ring and the peer's view of them, in private memory.
///
/// # Panics
/// If `capacity` is no power of two or smaller than a word.
pub fn lines_pair(capacity: usize) -> (OwnLines, PeerLines) {
    OwnLines::pair(capacity)
}
