//! A payload and a flag in a few cache lines: what a message costs without any ring around it.
//!
//! The writer fills the payload in place, then stores the flag with Release. The reader spins on
//! the flag with Acquire, then uses the payload. Requests and answers have lines of their own. What
//! varies is where the flag lies.
#![allow(unsafe_code, reason = "payloads lie in memory that another process writes")]
#![allow(
    clippy::disallowed_types,
    reason = "the limits are written without the library, and so without its seam"
)]

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Release;

use super::mapping::{Area, LINE, Mapping, adopt, offer, spin_until};
use crate::outcome::Outcome;
use crate::payload::Payload;
use crate::scenario::{Case, Scenario};
use crate::system::{Client, Ready, Setup, System};

/// All limits of this kind.
pub(crate) static LIMITS: [Lines; 6] = [
    // The flag ends the line that the payload begins.
    Lines {
        name: "limit-one-line",
        sizes: &[16, 48, 56],
        flag: Flag::At(56),
        answer: Answer::Echo,
    },
    // The payload fills a line; the flag lies in the next one, written last.
    Lines {
        name: "limit-two-lines-flag-last",
        sizes: &[64],
        flag: Flag::Behind,
        answer: Answer::Echo,
    },
    // The flag leads the first line; the payload spills into the second. Still the flag is stored
    // last.
    Lines {
        name: "limit-two-lines-flag-first",
        sizes: &[64],
        flag: Flag::Front,
        answer: Answer::Echo,
    },
    Lines {
        name: "limit-in-place",
        sizes: &[256, 1 << 10, 4 << 10],
        flag: Flag::Behind,
        answer: Answer::Echo,
    },
    // Written whole, then read whole.
    Lines {
        name: "limit-one-way",
        sizes: &LARGE_SIZES,
        flag: Flag::Behind,
        answer: Answer::Number,
    },
    // Published every 8 KiB, so that reading overlaps with writing.
    Lines {
        name: "limit-one-way-chunked",
        sizes: &LARGE_SIZES,
        flag: Flag::Behind,
        answer: Answer::Chunks,
    },
];

/// What no system can return faster than it crosses once.
const LARGE_SIZES: [usize; 4] = [16 << 10, 64 << 10, 256 << 10, 1 << 20];

/// Bytes published at a time by the chunked limit.
const CHUNK: usize = 8 << 10;

/// A message of one payload and one flag, each way.
#[derive(Debug)]
pub(crate) struct Lines {
    name: &'static str,
    sizes: &'static [usize],
    flag: Flag,
    answer: Answer,
}

/// Where the flag lies.
#[derive(Clone, Copy, Debug)]
enum Flag {
    /// At this offset, in the payload's own line.
    At(usize),
    /// In the first word of the line after the payload.
    Behind,
    /// In the first word, the payload right after it.
    Front,
}

/// What the server sends back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// The payload, copied from the request's place to the answer's.
    Echo,
    /// The flag alone, after the server has compared the payload in place with what it must be.
    Number,
    /// As `Number`, checked chunk by chunk as they are published.
    Chunks,
}

/// One direction's payload and flag.
struct Slot {
    payload: Area,
    flag: &'static AtomicU64,
}

impl Lines {
    /// Bytes of one direction, an even number of pages: so that no prefetcher pairs lines of both
    /// directions.
    fn slot_length(size: usize) -> usize {
        (size + 2 * LINE).next_multiple_of(8 << 10)
    }

    fn length(size: usize) -> usize {
        2 * Self::slot_length(size)
    }

    /// The slots of requests and of answers.
    fn slots(&self, mapping: &'static Mapping, size: usize) -> [Slot; 2] {
        [0, Self::slot_length(size)].map(|start| {
            let (payload, flag) = match self.flag {
                Flag::At(offset) => (0, offset),
                Flag::Behind => (0, size.next_multiple_of(LINE)),
                Flag::Front => (size_of::<u64>(), 0),
            };
            Slot { payload: mapping.area(start + payload, size), flag: mapping.word(start + flag) }
        })
    }
}

impl System for Lines {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cases(&self) -> Vec<Case> {
        let scenario = if self.answer == Answer::Echo { Scenario::Echo } else { Scenario::OneWay };
        self.sizes.iter().map(|&size| Case::new(scenario, size)).collect()
    }

    fn serve(&self, setup: &Setup, ready: Ready<'_>) -> Outcome<()> {
        let size = setup.case.size;
        let mapping = offer(setup, ready, Self::length(size))?;
        let [request, answer] = self.slots(mapping, size);
        let chunks = chunks(mapping, size);
        let mut expected = Payload::new(size, 0);
        for number in 1_u64.. {
            match self.answer {
                Answer::Echo => {
                    spin_until(request.flag, number);
                    // SAFETY: the mapping is leaked. The flag said that the request is written, and
                    // the client waits for the answer before it writes another or reads the
                    // answer's place: both are this side's.
                    unsafe { answer.payload.copy_from(&request.payload) };
                }
                Answer::Number => {
                    let expected = expected.stamp(number);
                    spin_until(request.flag, number);
                    // SAFETY: as above, for the request's place.
                    let holds = unsafe { request.payload.holds(expected) };
                    assert!(holds, "message {number} arrived damaged");
                }
                Answer::Chunks => {
                    let expected = expected.stamp(number);
                    for (step, (chunk, expected)) in
                        (0..).zip(chunks.iter().zip(expected.chunks(CHUNK)))
                    {
                        spin_past(request.flag, step_flag(number, chunks.len(), step));
                        // SAFETY: as above, for as much of the request's place as the flag has
                        // announced.
                        let holds = unsafe { chunk.holds(expected) };
                        assert!(holds, "message {number} arrived damaged");
                    }
                }
            }
            answer.flag.store(number, Release);
        }
        Ok(())
    }

    fn connect(&self, setup: &Setup) -> Outcome<Box<dyn Client>> {
        let size = setup.case.size;
        let mapping = adopt(setup, Self::length(size))?;
        let [request, answer] = self.slots(mapping, size);
        let chunks = chunks(mapping, size);
        Ok(Box::new(Caller { request, answer, kind: self.answer, chunks, number: 0 }))
    }
}

/// The request's payload in pieces of [`CHUNK`] bytes.
fn chunks(mapping: &'static Mapping, size: usize) -> Vec<Area> {
    (0..size).step_by(CHUNK).map(|start| mapping.area(start, CHUNK.min(size - start))).collect()
}

/// The flag that announces chunk number `step` of message `number`. Flags only grow.
fn step_flag(number: u64, chunks: usize, step: u64) -> u64 {
    // A count of chunks is far below 2^32.
    (number - 1) * chunks as u64 + step + 1
}

/// Spins until the word has reached a value.
#[inline(always)]
fn spin_past(word: &AtomicU64, wanted: u64) {
    while word.load(std::sync::atomic::Ordering::Acquire) < wanted {
        std::hint::spin_loop();
    }
}

/// The client's side.
struct Caller {
    request: Slot,
    answer: Slot,
    kind: Answer,
    chunks: Vec<Area>,
    number: u64,
}

impl Client for Caller {
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()> {
        self.number += 1;
        if self.kind == Answer::Chunks {
            for (step, (area, bytes)) in (0..).zip(self.chunks.iter().zip(request.chunks(CHUNK))) {
                // SAFETY: the mapping is leaked; the server has answered all earlier requests, and
                // of this one it reads only what the flag has announced: this chunk is the
                // client's.
                unsafe { area.write(bytes) };
                self.request.flag.store(step_flag(self.number, self.chunks.len(), step), Release);
            }
        } else {
            // SAFETY: the mapping is leaked; the server has answered all earlier requests, so this
            // place is the client's until the flag is stored.
            unsafe { self.request.payload.write(request) };
            self.request.flag.store(self.number, Release);
        }
        spin_until(self.answer.flag, self.number);
        if self.kind == Answer::Echo {
            // SAFETY: the flag said that the answer is written; the server leaves it alone until
            // the next request.
            unsafe { self.answer.payload.read(answer) };
        } else {
            answer.clear();
            answer.extend_from_slice(&self.number.to_le_bytes());
        }
        Ok(())
    }
}
