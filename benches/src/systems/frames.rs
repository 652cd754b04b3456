//! Length-prefixed frames over a byte stream: what a careful user of a socket or a pipe writes.
//!
//! Small frames: one write each, and a read takes whatever has arrived. Large frames: header and
//! payload in one vectored write, and the payload is read straight to its place.

use std::io::{self, IoSlice, Read, Write};

use crate::outcome::Outcome;

/// Bytes of the length in front of each payload.
const PREFIX: usize = 4;

/// Bytes that the reader of a connection that stays asks for at a time.
pub(super) const LASTING: usize = 64 << 10;

/// The same for a connection that carries one message: small, since it is made anew each time.
pub(super) const BRIEF: usize = 4 << 10;

/// Payloads up to this many bytes are copied behind their prefix and written with it.
const SMALL: usize = 4 << 10;

/// Reads frames.
#[derive(Debug)]
pub(super) struct FrameReader<R> {
    from: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl<R: Read> FrameReader<R> {
    /// A reader with a buffer of its own of `capacity` bytes.
    pub(super) fn new(from: R, capacity: usize) -> Self {
        Self { from, buffer: vec![0; capacity].into(), start: 0, end: 0 }
    }

    /// The next payload, into `payload`. False at an orderly end of the stream.
    pub(super) fn read(&mut self, payload: &mut Vec<u8>) -> Outcome<bool> {
        while self.end - self.start < PREFIX {
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            }
            match self.from.read(&mut self.buffer[self.end..])? {
                0 if self.end == 0 => return Ok(false),
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                count => self.end += count,
            }
        }
        let mut prefix = [0; PREFIX];
        prefix.copy_from_slice(&self.buffer[self.start..self.start + PREFIX]);
        self.start += PREFIX;
        let length = usize::try_from(u32::from_le_bytes(prefix))?;
        let buffered = length.min(self.end - self.start);
        // `resize` writes zeros only where the vector grows: not at all when frames are of one
        // size.
        payload.resize(length, 0);
        payload[..buffered].copy_from_slice(&self.buffer[self.start..self.start + buffered]);
        self.start += buffered;
        self.from.read_exact(&mut payload[buffered..])?;
        Ok(true)
    }

    /// Whether nothing that has been read waits to be looked at.
    pub(super) fn is_drained(&self) -> bool {
        self.start == self.end
    }
}

/// Writes frames.
#[derive(Debug)]
pub(super) struct FrameWriter<W> {
    to: W,
    buffer: Vec<u8>,
}

impl<W: Write> FrameWriter<W> {
    /// A writer with nothing pending.
    pub(super) fn new(to: W) -> Self {
        Self { to, buffer: Vec::new() }
    }

    /// Keeps a frame for the next [`FrameWriter::flush`].
    pub(super) fn push(&mut self, payload: &[u8]) -> Outcome<()> {
        self.buffer.extend_from_slice(&u32::try_from(payload.len())?.to_le_bytes());
        self.buffer.extend_from_slice(payload);
        Ok(())
    }

    /// Bytes that wait for that.
    pub(super) fn pending(&self) -> usize {
        self.buffer.len()
    }

    /// Writes what is pending, in one call if the kernel takes it.
    pub(super) fn flush(&mut self) -> Outcome<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.to.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// Writes one frame at once.
    pub(super) fn write(&mut self, payload: &[u8]) -> Outcome<()> {
        if payload.len() <= SMALL {
            self.push(payload)?;
            return self.flush();
        }
        let prefix = u32::try_from(payload.len())?.to_le_bytes();
        let mut slices = &mut [IoSlice::new(&prefix), IoSlice::new(payload)][..];
        while !slices.is_empty() {
            match self.to.write_vectored(slices)? {
                0 => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                count => IoSlice::advance_slices(&mut slices, count),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_split() {
        /// Gives out its bytes a few at a time.
        struct Dribble(Vec<u8>, usize);
        impl Read for Dribble {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let count = self.1.min(buffer.len()).min(self.0.len());
                buffer[..count].copy_from_slice(&self.0[..count]);
                self.0.drain(..count);
                Ok(count)
            }
        }

        let payloads = [vec![1; 3], vec![], vec![2; 200_000], vec![3; 64]];
        let mut bytes = Vec::new();
        for payload in &payloads {
            FrameWriter::new(&mut bytes).write(payload).expect("a vector takes all");
        }
        for step in [1, 3, 7, 70_000] {
            let mut reader = FrameReader::new(Dribble(bytes.clone(), step), BRIEF);
            let mut got = Vec::new();
            for payload in &payloads {
                assert!(reader.read(&mut got).expect("whole frames"));
                assert_eq!(&got, payload);
            }
            assert!(!reader.read(&mut got).expect("an orderly end"));
        }
    }
}
