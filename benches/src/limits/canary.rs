//! Atomic ping-pong: what a cache line costs when it travels.
#![allow(
    clippy::disallowed_types,
    reason = "the limits are written without the library, and so without its seam"
)]

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Release;

use super::mapping::{LINE, Mapping, adopt, offer, spin_until};
use crate::outcome::Outcome;
use crate::payload::sequence;
use crate::scenario::{Case, Scenario};
use crate::system::{Client, Ready, Setup, System};

/// One word, written by both sides in turn.
pub(crate) static CANARY: PingPong = PingPong { name: "limit-canary", answer_at: 0 };

/// A line for each direction, as every message protocol needs.
pub(crate) static LINE_EACH_WAY: PingPong =
    PingPong { name: "limit-atomic-line-each-way", answer_at: 64 * LINE };

/// Bytes shared.
const LENGTH: usize = 2 * 64 * LINE;

/// Ping-pong with a request word at offset 0 and an answer word that may be the same one.
#[derive(Debug)]
pub(crate) struct PingPong {
    name: &'static str,
    answer_at: usize,
}

impl PingPong {
    fn words(&self, mapping: &'static Mapping) -> Words {
        Words { request: mapping.word(0), answer: mapping.word(self.answer_at) }
    }
}

/// Call `n` is the value `2n + 1`, its answer `2n`: so they differ even where they share a word.
struct Words {
    request: &'static AtomicU64,
    answer: &'static AtomicU64,
}

impl System for PingPong {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cases(&self) -> Vec<Case> {
        vec![Case::new(Scenario::Canary, size_of::<u64>())]
    }

    fn serve(&self, setup: &Setup, ready: Ready<'_>) -> Outcome<()> {
        let words = self.words(offer(setup, ready, LENGTH)?);
        for number in 1_u64.. {
            spin_until(words.request, 2 * number + 1);
            words.answer.store(2 * number, Release);
        }
        Ok(())
    }

    fn connect(&self, setup: &Setup) -> Outcome<Box<dyn Client>> {
        Ok(Box::new(self.words(adopt(setup, LENGTH)?)))
    }
}

impl Client for Words {
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()> {
        let number = sequence(request).ok_or("a request without a number")?;
        self.request.store(2 * number + 1, Release);
        spin_until(self.answer, 2 * number);
        answer.clear();
        answer.extend_from_slice(&number.to_le_bytes());
        Ok(())
    }
}
