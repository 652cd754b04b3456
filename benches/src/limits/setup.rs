//! The least that a set-up over a socket costs: connect, take over a memfd, map it, and one message
//! each way in it.
#![allow(
    clippy::disallowed_types,
    reason = "the limits are written without the library, and so without its seam"
)]

use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};

use rustix::thread::sched_yield;

use super::mapping::{LINE, Mapping};
use crate::descriptors;
use crate::outcome::Outcome;
use crate::payload::sequence;
use crate::scenario::{Case, Placement, Scenario};
use crate::system::{Client, Ready, Setup, System};

/// Bytes shared: two lines, and a page is the least that can be mapped.
const LENGTH: usize = 4 << 10;

/// Where the answer lies; the request lies at 0.
const ANSWER: usize = 2 * LINE;

/// The only limit of this kind.
pub(crate) static SETUP: BareSetup = BareSetup;

/// New memory for each client, made by the server. Once both have it they wait by yielding, which
/// is right on one CPU and nearly as good as spinning on two.
#[derive(Debug)]
pub(crate) struct BareSetup;

/// Yields until the word is not zero, and returns it.
fn yield_until_set(word: &AtomicU64) -> u64 {
    loop {
        match word.load(Acquire) {
            0 => sched_yield(),
            value => return value,
        }
    }
}

impl System for BareSetup {
    fn name(&self) -> &'static str {
        "limit-setup"
    }

    fn cases(&self) -> Vec<Case> {
        let case = Case::new(Scenario::Setup, size_of::<u64>());
        vec![case, case.on(Placement::OneCpu)]
    }

    fn serve(&self, setup: &Setup, ready: Ready<'_>) -> Outcome<()> {
        let listener = UnixListener::bind(&setup.path)?;
        ready()?;
        loop {
            let (introduction, _) = listener.accept()?;
            let (mapping, memory) = Mapping::create(LENGTH)?;
            descriptors::send(&introduction, &[memory.as_fd()])?;
            let number = yield_until_set(mapping.word(0));
            mapping.word(ANSWER).store(number, Release);
        }
    }

    fn connect(&self, setup: &Setup) -> Outcome<Box<dyn Client>> {
        let introduction = UnixStream::connect(&setup.path)?;
        let [memory] = descriptors::receive(&introduction)?;
        Ok(Box::new(Attached {
            mapping: Mapping::of(&memory, LENGTH)?,
            _introduction: introduction,
        }))
    }
}

/// A client that can make one call.
struct Attached {
    mapping: Mapping,
    _introduction: UnixStream,
}

impl Client for Attached {
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()> {
        let number = sequence(request).ok_or("a request without a number")?;
        self.mapping.word(0).store(number, Release);
        let echoed = yield_until_set(self.mapping.word(ANSWER));
        answer.clear();
        answer.extend_from_slice(&echoed.to_le_bytes());
        Ok(())
    }
}
