//! A header word that was checked. What a peer wrote becomes one here and nowhere else, whether it
//! came through a ring or a socket.

#![allow(
    unsafe_code,
    reason = "the kind is checked once, where the header is made, and not at each use"
)]

use super::layout::{HeaderWord, Kind, flag};

/// A header word with a known kind and known flags. It is made from a kind, or from a word of the
/// peer by [`Self::check`] or [`Self::check_plain`], which refuse padding as well. It is one word,
/// so that it travels in a register.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader(HeaderWord);

impl FrameHeader {
    /// Of a message of this process, without flags and length.
    #[inline(always)]
    pub const fn new(kind: Kind, code: u16) -> Self {
        Self(HeaderWord::new(kind, 0, code, 0))
    }

    /// Checks a word that the peer wrote; `None` if its kind or a flag is unknown, or it is
    /// padding. Whether the length is possible depends on where the frame is: the caller checks
    /// that.
    #[inline]
    pub const fn check(word: HeaderWord) -> Option<Self> {
        match word.kind() {
            None | Some(Kind::Padding) => None,
            Some(_) if word.flags() & !flag::ALL != 0 => None,
            Some(_) => Some(Self(word)),
        }
    }

    /// The same for plain records, `None` for others too. Fast path of [`Self::check`]; `check` is
    /// the rule.
    #[inline(always)]
    pub const fn check_plain(word: HeaderWord) -> Option<Self> {
        if word.is_plain() { Some(Self(word)) } else { None }
    }

    /// The same kind and code, without flags and length.
    #[must_use]
    #[inline(always)]
    pub const fn without_flags_and_length(self) -> Self {
        Self(self.0.without_flags_and_length())
    }

    /// The word as it is in memory.
    #[inline(always)]
    pub const fn word(self) -> HeaderWord {
        self.0
    }

    /// What kind of frame it is.
    #[inline(always)]
    pub const fn kind(self) -> Kind {
        #[allow(clippy::cast_possible_truncation, reason = "one byte of the word")]
        let kind = (self.0.0 >> 32) as u8;
        // SAFETY: `Kind` is one byte, and this byte is the number of a kind in every `FrameHeader`.
        // The field is private to this file, where `new` is given a kind, `check` and `check_plain`
        // let only known ones pass (a test tries all), and `without_flags_and_length` keeps the
        // kind. The word is a copy in private memory: no peer can change it.
        unsafe { core::mem::transmute::<u8, Kind>(kind) }
    }

    /// The flags, see [`flag`].
    #[inline(always)]
    pub const fn flags(self) -> u8 {
        self.0.flags()
    }

    /// The code of an error; 0 elsewhere.
    #[inline(always)]
    pub const fn code(self) -> u16 {
        self.0.code()
    }

    /// Length of the body in bytes.
    #[inline(always)]
    pub const fn len(self) -> usize {
        self.0.length() as usize
    }

    /// Whether the body is empty.
    #[inline(always)]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }
}

impl core::fmt::Debug for FrameHeader {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(all(test, not(ringbell_loom)))]
mod tests {
    use super::*;

    #[test]
    fn only_known_kinds_and_flags_pass() {
        let mut plain = 0;
        for kind_and_flags in 0..=u16::MAX {
            let word = HeaderWord(u64::from(kind_and_flags) << 32 | 7 << 48 | 99);
            let checked = FrameHeader::check(word);
            let known = word.flags() & !flag::ALL == 0
                && word.kind().is_some_and(|kind| kind != Kind::Padding);
            assert_eq!(checked.is_some(), known, "{word:?}");
            if let Some(header) = FrameHeader::check_plain(word) {
                assert_eq!((Some(header), header.flags()), (checked, 0));
                plain += 1;
            }
            if let Some(header) = checked {
                assert_eq!((Some(header.kind()), header.word()), (word.kind(), word));
                assert_eq!(header.without_flags_and_length(), FrameHeader::new(header.kind(), 7));
            }
        }
        assert_eq!(plain, 11, "from a request to a goodbye");
    }
}
