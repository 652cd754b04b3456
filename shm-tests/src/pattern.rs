//! What is sent and what must come back. Both sides compute it from a seed, a sender and a sequence
//! number, so that every byte of every message is checked, and a message that belongs elsewhere is
//! recognised.

use crate::run;

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From client to server.
    Request,
    /// From server to client.
    Response,
}

/// The messages of one sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pattern {
    /// The seed of the run.
    pub seed: u64,
    /// Who sends.
    pub sender: u64,
    /// Longest usual message in bytes; lengths are even from 0 to this.
    pub usual: u64,
    /// One message in so many is large, on average; 0 for none.
    pub large_every: u64,
    /// Longest large message in bytes.
    pub large: u64,
}

/// A message that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch(pub String);

const OPENING: u64 = 0x4f50_454e_494e_4721;

/// A number that looks like chance, from two others.
#[must_use]
pub fn mix(a: u64, b: u64) -> u64 {
    // The finaliser of SplitMix64.
    let mut z = a ^ b.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x2545_f491_4f6c_dd1d);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A sequence of numbers that look like chance.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// The sequence of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0, 0)
    }

    /// The next number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.draw() % limit
    }
}

#[inline]
fn word(key: u64, index: u64) -> u64 {
    let z = key.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    (z ^ (z >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

impl Pattern {
    /// Messages of up to `usual` bytes, none of them large.
    #[must_use]
    pub fn new(sender: u64, usual: u64) -> Self {
        Self { seed: run::seed(), sender, usual, large_every: 0, large: 0 }
    }

    /// One message in `every` is up to `bytes` long.
    #[must_use]
    pub fn with_large(self, every: u64, bytes: u64) -> Self {
        Self { large_every: every, large: bytes, ..self }
    }

    fn key(&self, seq: u64, way: Way) -> u64 {
        mix(mix(mix(self.seed, self.sender), seq), way as u64)
    }

    /// The length of a message in bytes.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "lengths of messages")]
    pub fn len(&self, seq: u64, way: Way) -> usize {
        let chance = mix(self.key(seq, way), 1);
        if self.large_every != 0 && (chance >> 40).is_multiple_of(self.large_every) {
            return (chance % (self.large + 1)) as usize;
        }
        (chance % (self.usual + 1)) as usize
    }

    /// Word `index` of a message: those who fit say whose message it is.
    #[inline]
    fn word(&self, key: u64, seq: u64, len: usize, index: u64) -> u64 {
        match index {
            0 if len >= 16 => self.sender,
            1 if len >= 16 => seq,
            _ => word(key, index),
        }
    }

    /// Appends a message to `out`.
    pub fn fill(&self, seq: u64, way: Way, out: &mut Vec<u8>) {
        let len = self.len(seq, way);
        let from = out.len();
        out.resize(from + len, 0);
        self.fill_slice(seq, way, &mut out[from..]);
    }

    /// Writes a message to all of `out`, which has its length.
    ///
    /// # Panics
    /// If it has not.
    pub fn fill_slice(&self, seq: u64, way: Way, out: &mut [u8]) {
        let key = self.key(seq, way);
        let len = out.len();
        assert_eq!(len, self.len(seq, way));
        for (index, chunk) in (0..).zip(out.chunks_mut(8)) {
            let word = self.word(key, seq, len, index).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }

    /// Whether `bytes` are the message.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn check(&self, seq: u64, way: Way, bytes: &[u8]) -> Result<(), Mismatch> {
        let key = self.key(seq, way);
        let len = self.len(seq, way);
        let same = bytes.len() == len
            && (0..).zip(bytes.chunks(8)).all(|(index, chunk)| {
                let word = self.word(key, seq, len, index);
                match <[u8; 8]>::try_from(chunk) {
                    Ok(chunk) => chunk == word.to_le_bytes(),
                    Err(_) => chunk == &word.to_le_bytes()[..chunk.len()],
                }
            });
        if same { Ok(()) } else { Err(self.mismatch(seq, way, bytes)) }
    }

    #[cold]
    fn mismatch(&self, seq: u64, way: Way, bytes: &[u8]) -> Mismatch {
        let mut wanted = Vec::new();
        self.fill(seq, way, &mut wanted);
        let at = bytes.iter().zip(&wanted).position(|(got, wanted)| got != wanted);
        let mut text = format!(
            "{way:?} {seq} of sender {}: {} bytes instead of {}, first difference at {at:?}",
            self.sender,
            bytes.len(),
            wanted.len()
        );
        if let Some((head, _)) = bytes.split_at_checked(16) {
            let word =
                |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
            text += &format!("; it says that it is {} of sender {}", word(8), word(0));
        }
        if let Some(at) = at {
            let end = |len: usize| len.min(at + 32);
            text += &format!(
                "; {:02x?} instead of {:02x?}",
                &bytes[at..end(bytes.len())],
                &wanted[at..end(wanted.len())]
            );
        }
        Mismatch(text)
    }

    /// The message with which a client tells the server what it is going to send.
    #[must_use]
    pub fn opening(&self) -> Vec<u8> {
        [OPENING, self.seed, self.sender, self.usual, self.large_every, self.large]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect()
    }

    /// The pattern that an opening tells of.
    #[must_use]
    pub fn from_opening(bytes: &[u8]) -> Option<Self> {
        let words: Vec<u64> = bytes
            .chunks(8)
            .map(|chunk| chunk.try_into().map(u64::from_le_bytes))
            .collect::<Result<_, _>>()
            .ok()?;
        match words[..] {
            [OPENING, seed, sender, usual, large_every, large] => {
                Some(Self { seed, sender, usual, large_every, large })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_itself_and_no_other() {
        let pattern = Pattern::new(7, 700).with_large(50, 100_000);
        assert_eq!(Pattern::from_opening(&pattern.opening()), Some(pattern));
        let mut large = 0;
        for seq in 0..2000 {
            let mut bytes = Vec::new();
            pattern.fill(seq, Way::Request, &mut bytes);
            pattern.check(seq, Way::Request, &bytes).unwrap();
            large += usize::from(bytes.len() > 700);
            if bytes.len() >= 4 {
                assert!(pattern.check(seq, Way::Response, &bytes).is_err());
                assert!(pattern.check(seq + 1, Way::Request, &bytes).is_err());
                assert!(Pattern { sender: 8, ..pattern }.check(seq, Way::Request, &bytes).is_err());
                let at = bytes.len() / 2;
                bytes[at] ^= 1;
                assert!(pattern.check(seq, Way::Request, &bytes).is_err());
            }
        }
        assert!((20..80).contains(&large), "{large} large messages of 2000");
    }
}
