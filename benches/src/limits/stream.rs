//! One-way records of one cache line through a ring with cursors: the rate at which two CPUs can
//! hand lines over.
#![allow(unsafe_code, reason = "records lie in memory that another process writes")]
#![allow(
    clippy::disallowed_types,
    reason = "the limits are written without the library, and so without its seam"
)]

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};

use super::mapping::{Area, LINE, Mapping, adopt, offer, spin_until};
use crate::outcome::Outcome;
use crate::payload::Payload;
use crate::scenario::{Case, STREAMED, Scenario};
use crate::system::{Client, Ready, Setup, System};

/// The cursor is published after each record, or after every sixteenth.
pub(crate) static LIMITS: [Stream; 2] =
    [Stream { name: "limit-stream", every: 1 }, Stream { name: "limit-stream-by-16", every: 16 }];

/// Records in the ring: 64 KiB, which both CPUs' second-level caches hold easily.
const RECORDS: usize = 1024;

/// The same, as a distance between positions.
const CAPACITY: u64 = RECORDS as u64;

/// Bytes of a record.
const RECORD: usize = LINE;

/// Offsets of the cursors, each in a page of its own, and of the ring.
const TAIL: usize = 0;
const HEAD: usize = 4 << 10;
const RING: usize = 8 << 10;
const LENGTH: usize = RING + RECORDS * RECORD;

/// Record number `position`. Made anew on both sides, in registers: a template in memory would
/// stall them, since its eight-byte stamp and its vector-wide load do not match.
#[inline(always)]
fn record(position: u64) -> [u8; RECORD] {
    let words = [position, !position, 2, 3, 5, 7, 11, position ^ 0x5555_5555_5555_5555];
    let mut bytes = [0; RECORD];
    for (to, word) in bytes.chunks_exact_mut(size_of::<u64>()).zip(words) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

/// A stream whose cursor is published after every so many records.
#[derive(Debug)]
pub(crate) struct Stream {
    name: &'static str,
    every: u64,
}

/// What both sides know. Positions count records and are never masked.
struct Ring {
    tail: &'static AtomicU64,
    head: &'static AtomicU64,
    records: Area,
}

impl Ring {
    fn new(mapping: &'static Mapping) -> Self {
        let records = mapping.area(RING, RECORDS * RECORD);
        Self { tail: mapping.word(TAIL), head: mapping.word(HEAD), records }
    }

    #[inline(always)]
    fn place(&self, position: u64) -> Area {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "only the low bits matter, the ring's size is a power of two"
        )]
        let place = position as usize % RECORDS;
        self.records.part(place * RECORD, RECORD)
    }
}

impl System for Stream {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cases(&self) -> Vec<Case> {
        // A message with its header fills a line whether it has 48 bytes, or 64 of which nothing is
        // left for a header.
        [STREAMED, RECORD].map(|size| Case::new(Scenario::Stream, size)).to_vec()
    }

    fn serve(&self, setup: &Setup, ready: Ready<'_>) -> Outcome<()> {
        let ring = Ring::new(offer(setup, ready, LENGTH)?);
        let (mut head, mut shown) = (0, 0);
        loop {
            let tail = ring.tail.load(Acquire);
            if tail == head {
                if shown != head {
                    ring.head.store(head, Release);
                    shown = head;
                }
                std::hint::spin_loop();
                continue;
            }
            while head < tail {
                // SAFETY: the mapping is leaked; records below `tail` are written, and the producer
                // leaves them alone until `head` has passed them.
                let holds = unsafe { ring.place(head).holds(&record(head)) };
                assert!(holds, "record {head} arrived damaged");
                head += 1;
                if head - shown >= CAPACITY / 8 {
                    ring.head.store(head, Release);
                    shown = head;
                }
            }
        }
    }

    fn connect(&self, setup: &Setup) -> Outcome<Box<dyn Client>> {
        let ring = Ring::new(adopt(setup, LENGTH)?);
        Ok(Box::new(Producer { ring, every: self.every, tail: 0, seen_head: 0 }))
    }
}

/// The writing side.
struct Producer {
    ring: Ring,
    every: u64,
    tail: u64,
    seen_head: u64,
}

impl Producer {
    /// Spins until the ring, which was full, is not.
    #[cold]
    fn await_space(&mut self) {
        loop {
            self.seen_head = self.ring.head.load(Acquire);
            if self.tail - self.seen_head < CAPACITY {
                return;
            }
            std::hint::spin_loop();
        }
    }
}

impl Client for Producer {
    fn call(&mut self, _request: &[u8], _answer: &mut Vec<u8>) -> Outcome<()> {
        Err("this limit has no answers".into())
    }

    fn stream(&mut self, _payload: &mut Payload, first: u64, count: u64) -> Outcome<()> {
        assert_eq!(first, self.tail, "sequence numbers are positions");
        for _ in 0..count {
            if self.tail - self.seen_head == CAPACITY {
                self.ring.tail.store(self.tail, Release);
                self.await_space();
            }
            // SAFETY: the mapping is leaked; the consumer has passed this place and will not read
            // it before `tail` has passed it too.
            unsafe { self.ring.place(self.tail).write(&record(self.tail)) };
            self.tail += 1;
            if self.tail.is_multiple_of(self.every) {
                self.ring.tail.store(self.tail, Release);
            }
        }
        Ok(())
    }

    fn drain(&mut self, _payload: &mut Payload) -> Outcome<()> {
        self.ring.tail.store(self.tail, Release);
        spin_until(self.ring.head, self.tail);
        Ok(())
    }
}
