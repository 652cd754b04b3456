//! Shared memory for the model checker: loom's atomics, one per word. Bytes are copied word by
//! word, relaxed, so that nothing but the protocol orders them.

use crate::base::sync::{AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;

/// A u64 that this side alone writes.
#[derive(Debug)]
pub struct OwnWord(Arc<AtomicU64>);

impl OwnWord {
    pub(super) fn pair() -> (Self, PeerWord) {
        let cell = Arc::new(AtomicU64::new(0));
        (Self(cell.clone()), PeerWord(cell))
    }

    /// What this side stored last.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Stores with the ordering that the caller has argued for.
    pub fn store(&self, value: u64, ordering: Ordering) {
        self.0.store(value, ordering);
    }
}

/// A u64 that the other side writes.
#[derive(Debug, Clone)]
pub struct PeerWord(Arc<AtomicU64>);

impl PeerWord {
    /// Loads it once, relaxed.
    pub fn load(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The word that a sleeper waits on and its ringers advance. The kernel's part, waiting and waking,
/// belongs to the model that uses it.
#[derive(Debug)]
pub struct BellWord(Arc<AtomicU32>);

impl BellWord {
    /// A bell word.
    pub fn private() -> Self {
        Self(Arc::new(AtomicU32::new(0)))
    }

    /// The same word for a second holder.
    pub fn share(&self) -> Self {
        Self(self.0.clone())
    }

    /// Loads it, relaxed.
    pub fn load(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Advances it from `ticket` to `ticket + 1`; false if it holds something else.
    pub fn advance(&self, ticket: u32) -> bool {
        self.0
            .compare_exchange(ticket, ticket.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }
}

/// The ring that this side fills.
#[derive(Debug)]
pub struct OwnLines(Arc<Vec<AtomicU64>>);

#[allow(clippy::cast_possible_truncation, reason = "masked below the capacity")]
fn index(words: &[AtomicU64], position: u64) -> usize {
    (position as usize / 8) & (words.len() - 1)
}

impl OwnLines {
    pub(super) fn pair(capacity: usize) -> (Self, PeerLines) {
        assert!(capacity.is_power_of_two() && capacity >= 8);
        let words = Arc::new((0..capacity / 8).map(|_| AtomicU64::new(0)).collect::<Vec<_>>());
        (Self(words.clone()), PeerLines(words))
    }

    /// Size of the ring in bytes, a power of two.
    pub fn capacity(&self) -> u64 {
        self.0.len() as u64 * 8
    }

    /// Stores the word at `position`.
    pub fn store(&mut self, position: u64, word: u64, ordering: Ordering) {
        self.0[index(&self.0, position)].store(word, ordering);
    }

    /// Copies `bytes` to `position`, whole words only.
    ///
    /// # Panics
    /// If the length is no multiple of 8.
    pub fn write(&mut self, position: u64, bytes: &[u8]) {
        assert!(bytes.len().is_multiple_of(8), "the model has words only");
        for (i, word) in bytes.chunks_exact(8).enumerate() {
            let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
            self.store(position + 8 * i as u64, word, Ordering::Relaxed);
        }
    }
}

impl OwnLines {
    /// Writes all of a record but its first word: its second word and the bytes behind it.
    pub fn write_record(&mut self, position: u64, second: u64, bytes: &[u8]) {
        self.store(position.wrapping_add(8), second, Ordering::Relaxed);
        self.write(position.wrapping_add(16), bytes);
    }
}

/// The ring that the other side fills.
#[derive(Debug)]
pub struct PeerLines(Arc<Vec<AtomicU64>>);

impl PeerLines {
    /// Size of the ring in bytes, a power of two.
    pub fn capacity(&self) -> u64 {
        self.0.len() as u64 * 8
    }

    /// Loads the word at `position`, relaxed.
    pub fn load(&self, position: u64) -> u64 {
        self.0[index(&self.0, position)].load(Ordering::Relaxed)
    }

    /// Replaces `out` with the `len` bytes of a record's body, and returns its second word.
    pub fn read_record(&self, position: u64, len: usize, out: &mut Vec<u8>) -> u64 {
        out.clear();
        let second = self.load(position.wrapping_add(8));
        self.read(position.wrapping_add(16), len, out);
        second
    }

    /// Appends `len` bytes at `position` to `out`, whole words only.
    ///
    /// # Panics
    /// If the length is no multiple of 8.
    pub fn read(&self, position: u64, len: usize, out: &mut Vec<u8>) {
        assert!(len.is_multiple_of(8), "the model has words only");
        for i in 0..len / 8 {
            out.extend_from_slice(&self.load(position + 8 * i as u64).to_le_bytes());
        }
    }
}
