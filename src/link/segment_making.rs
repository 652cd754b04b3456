//! Making the memory of a session in slices, so that others have their turns in between: pages are
//! allocated and zeroed, which takes some hundred microseconds for each mebibyte.

use super::segment::{SegmentError, SegmentPair, allocate, memfd, size};
use crate::memory::layout::SegmentKind;
use std::os::fd::OwnedFd;

/// Bytes of memory that are made at a time. A pair of rings of the default size needs one slice.
pub(crate) const SLICE: u64 = 256 << 10;

/// A segment of which not all pages exist.
#[derive(Debug)]
struct Part {
    fd: OwnedFd,
    size: u64,
    made: u64,
}

impl Part {
    fn begin(kind: SegmentKind, capacity: u64) -> Result<Self, SegmentError> {
        let size = size(kind, capacity);
        Ok(Self { fd: memfd(kind, size)?, size, made: 0 })
    }

    /// Makes at most `most` bytes; how many.
    fn step(&mut self, most: u64) -> Result<u64, SegmentError> {
        let slice = most.min(self.size - self.made);
        if slice > 0 {
            allocate(&self.fd, self.made, slice)?;
            self.made += slice;
        }
        Ok(slice)
    }

    fn is_made(&self) -> bool {
        self.made == self.size
    }
}

/// The two segments of a session, of which not all pages exist. Nobody else has their descriptors.
#[derive(Debug)]
pub(crate) struct PairInMaking {
    request: Part,
    response: Part,
    capacities: (u64, u64),
}

impl PairInMaking {
    /// Makes the descriptors. No memory is allocated yet.
    pub(crate) fn begin(
        request_capacity: u64,
        response_capacity: u64,
    ) -> Result<Self, SegmentError> {
        Ok(Self {
            request: Part::begin(SegmentKind::Request, request_capacity)?,
            response: Part::begin(SegmentKind::Response, response_capacity)?,
            capacities: (request_capacity, response_capacity),
        })
    }

    /// How many bytes the next slice has.
    #[cfg(test)]
    fn next_slice(&self) -> u64 {
        let left = |part: &Part| part.size - part.made;
        SLICE.min(left(&self.request) + left(&self.response))
    }

    /// Allocates the next slice; whether that was the last one.
    pub(crate) fn step(&mut self) -> Result<bool, SegmentError> {
        let made = self.request.step(SLICE)?;
        self.response.step(SLICE - made)?;
        Ok(self.request.is_made() && self.response.is_made())
    }

    /// The pair, when all of it was made.
    pub(crate) fn finish(self) -> Result<SegmentPair, SegmentError> {
        debug_assert!(self.request.is_made() && self.response.is_made(), "there is more to make");
        let (request, response) = self.capacities;
        SegmentPair::of((self.request.fd, request), (self.response.fd, response))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(fd: &OwnedFd) -> u64 {
        let stat = rustix::fs::fstat(fd).expect("fstat");
        u64::try_from(stat.st_blocks).expect("positive") * 512
    }

    #[test]
    fn a_pair_is_made_slice_by_slice() {
        let mut making = PairInMaking::begin(1 << 20, 2 << 20).expect("begun");
        let whole = SegmentPair::bytes(1 << 20, 2 << 20);
        let mut made = 0;
        loop {
            let next = making.next_slice();
            let last = making.step().expect("made");
            made += next;
            let there = pages(&making.request.fd) + pages(&making.response.fd);
            assert_eq!(there, made, "no more than a slice");
            if last {
                break;
            }
            assert_eq!(next, SLICE);
        }
        assert_eq!(made, whole);
        let pair = making.finish().expect("a pair");
        assert!(pair.fits(1 << 20, 2 << 20));
    }

    #[test]
    fn the_default_is_made_at_once() {
        use crate::memory::layout::DEFAULT_CAPACITY;
        let mut making = PairInMaking::begin(DEFAULT_CAPACITY, DEFAULT_CAPACITY).expect("begun");
        assert!(making.step().expect("made"));
    }
}
