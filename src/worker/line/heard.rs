//! What a worker said and its user has not taken.

use std::ops::Range;

/// Bytes that are read at a time, at least.
const CHUNK: usize = 16 << 10;
/// A larger buffer is freed as soon as it is empty.
const KEPT: usize = 64 << 10;

/// Bytes in the order of their coming, given out line by line.
///
/// Linear: each byte is looked at once, and moved a bounded number of times. The ones in front are
/// dropped only when they are at least as many as those that have to move for that.
#[derive(Debug, Default)]
pub(super) struct Heard {
    bytes: Vec<u8>,
    /// So many in front were given out.
    given: usize,
    /// So many in front have no line break that is not given out.
    looked: usize,
    /// Bytes that were moved, those included that a growing buffer may have moved.
    #[cfg(test)]
    moved: usize,
}

/// Where a line stands in [`Heard`], until more is read.
#[derive(Debug, Clone)]
pub(super) struct Line {
    place: Range<usize>,
    /// It had a line break, not only an end.
    broken_off: bool,
}

impl Line {
    pub(super) fn len(&self) -> usize {
        self.place.len()
    }
}

impl Heard {
    /// How many bytes were not given out.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.given
    }

    /// The next line, if its line break is there.
    pub(super) fn take_line(&mut self) -> Option<Line> {
        let Some(length) = self.bytes[self.looked..].iter().position(|byte| *byte == b'\n') else {
            self.looked = self.bytes.len();
            return None;
        };
        let end = self.looked + length;
        let place = self.given..end;
        self.given = end + 1;
        self.looked = self.given;
        Some(Line { place, broken_off: true })
    }

    /// All that is left, as the last line; `None` if nothing is.
    pub(super) fn take_rest(&mut self) -> Option<Line> {
        let place = self.given..self.bytes.len();
        self.given = place.end;
        self.looked = place.end;
        (!place.is_empty()).then_some(Line { place, broken_off: false })
    }

    /// The line without its line feed.
    pub(super) fn bytes(&self, line: &Line) -> &[u8] {
        &self.bytes[line.place.clone()]
    }

    /// The line without its line break, which may be a line feed or a carriage return and one.
    pub(super) fn text(&self, line: &Line) -> &[u8] {
        let bytes = self.bytes(line);
        match bytes.strip_suffix(b"\r") {
            Some(text) if line.broken_off => text,
            _ => bytes,
        }
    }

    /// What was not given out.
    pub(super) fn left(&self) -> &[u8] {
        &self.bytes[self.given..]
    }

    /// The buffer, with room for a chunk behind what is there.
    pub(super) fn room(&mut self) -> &mut Vec<u8> {
        self.tidy();
        if self.given > 0 && self.given >= self.len() {
            #[cfg(test)]
            {
                self.moved += self.len();
            }
            self.bytes.drain(..self.given);
            self.looked -= self.given;
            self.given = 0;
        }
        #[cfg(test)]
        if self.bytes.capacity() - self.bytes.len() < CHUNK {
            self.moved += self.bytes.len();
        }
        self.bytes.reserve(CHUNK);
        &mut self.bytes
    }

    /// Forgets what was given out, if that is all, and frees a large buffer then.
    pub(super) fn tidy(&mut self) {
        if self.len() == 0 {
            self.given = 0;
            self.looked = 0;
            self.bytes.clear();
            if self.bytes.capacity() > KEPT {
                self.bytes = Vec::new();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w4_bytes_are_moved_a_bounded_number_of_times() {
        // All that was pipelined is there before the first line is taken, or comes in between.
        for between in [80_000, 1000, 100, 1] {
            let mut heard = Heard::default();
            let (mut said, mut taken) = (0, 0);
            while taken < 80_000 {
                for _ in 0..between.min(80_000 - said) {
                    heard.room().extend_from_slice(format!("{said:099}\n").as_bytes());
                    said += 1;
                }
                assert!(heard.bytes.len() <= 2 * heard.len() + CHUNK);
                // Half of them stay, until no more comes.
                let most = if said == 80_000 { usize::MAX } else { between / 2 + 1 };
                for _ in 0..most {
                    let Some(line) = heard.take_line() else { break };
                    assert_eq!(heard.bytes(&line), format!("{taken:099}").as_bytes());
                    taken += 1;
                }
            }
            assert!(heard.moved <= 3 * 8_000_000, "{} bytes moved, {between}", heard.moved);
            heard.tidy();
            assert!(heard.bytes.capacity() <= KEPT, "{} bytes kept", heard.bytes.capacity());
        }
    }

    #[test]
    fn w4_a_long_line_is_moved_a_bounded_number_of_times() {
        let mut heard = Heard::default();
        heard.room().extend_from_slice(b"short\n");
        let short = heard.take_line().expect("a line");
        assert_eq!(heard.bytes(&short), b"short");
        for _ in 0..1000 {
            heard.room().extend_from_slice(&[b'x'; 1000]);
            assert!(heard.take_line().is_none());
        }
        heard.room().push(b'\n');
        assert_eq!(heard.take_line().expect("a line").len(), 1_000_000);
        assert!(heard.moved <= 3 * 1_000_000, "{} bytes moved", heard.moved);
    }

    #[test]
    fn w5_line_breaks_of_both_kinds_and_none() {
        let mut heard = Heard::default();
        heard.room().extend_from_slice(b"a\r\n\r\n\nb\rc\r\r\nlast\r");
        let mut lines = Vec::new();
        while let Some(line) = heard.take_line() {
            lines.push((heard.bytes(&line).to_vec(), heard.text(&line).to_vec()));
        }
        let expected: [(&[u8], &[u8]); 4] =
            [(b"a\r", b"a"), (b"\r", b""), (b"", b""), (b"b\rc\r\r", b"b\rc\r")];
        assert_eq!(lines.len(), expected.len());
        for ((bytes, text), (expected_bytes, expected_text)) in lines.iter().zip(expected) {
            assert_eq!((&bytes[..], &text[..]), (expected_bytes, expected_text));
        }
        assert_eq!(heard.left(), b"last\r");
        let last = heard.take_rest().expect("the last line");
        assert_eq!(heard.text(&last), b"last\r", "there is no line break");
        assert!(heard.take_rest().is_none());
    }
}
