//! Round trips between two sides of which at least one sleeps in the kernel, by every means there
//! is, or yields.
#![allow(
    clippy::disallowed_types,
    reason = "the limits are written without the library, and so without its seam"
)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Release};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::thread::{futex, sched_yield};

use super::mapping::{LINE, Mapping, adopt, offer};
use crate::descriptors;
use crate::outcome::Outcome;
use crate::payload::sequence;
use crate::scenario::{Case, Placement, Scenario};
use crate::system::{Client, Ready, Setup, System};

/// All limits of this kind.
pub(crate) static LIMITS: [Asleep; 5] = [
    Asleep {
        name: "limit-futex",
        means: Means::Words { server: Wait::Futex, client: Wait::Futex },
    },
    // One wake for each call, the least that an idle server costs: the caller spins for the answer.
    Asleep {
        name: "limit-one-wake",
        means: Means::Words { server: Wait::Futex, client: Wait::Spin },
    },
    Asleep {
        name: "limit-yield",
        means: Means::Words { server: Wait::Yield, client: Wait::Yield },
    },
    Asleep { name: "limit-eventfd", means: Means::Eventfd },
    Asleep { name: "limit-pipe", means: Means::Pipe },
];

/// Bytes shared.
const LENGTH: usize = 2 * 64 * LINE;

/// A round trip of eight bytes: the call's number.
#[derive(Debug)]
pub(crate) struct Asleep {
    name: &'static str,
    means: Means,
}

/// What carries the number and the wake-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Means {
    /// A word in shared memory for each direction.
    Words { server: Wait, client: Wait },
    /// An eventfd for each direction; the number is what is added to it.
    Eventfd,
    /// A pipe for each direction.
    Pipe,
}

/// How a side waits for a word to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// Asleep at once.
    Futex,
    /// Without giving up its CPU.
    Spin,
    /// Awake, but letting others run.
    Yield,
}

/// Waits until the word has the wanted value.
fn wait_until(word: &AtomicU32, wanted: u32, how: Wait) -> Outcome<()> {
    loop {
        let seen = word.load(Acquire);
        if seen == wanted {
            return Ok(());
        }
        match how {
            Wait::Spin => std::hint::spin_loop(),
            Wait::Yield => sched_yield(),
            Wait::Futex => match futex::wait(word, futex::Flags::empty(), seen, None) {
                // Changed already, or woken for nothing: look again.
                Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            },
        }
    }
}

/// Publishes a value, and wakes the other side if it may be asleep.
fn publish(word: &AtomicU32, value: u32, peer: Wait) -> Outcome<()> {
    word.store(value, Release);
    if peer == Wait::Futex {
        futex::wake(word, futex::Flags::empty(), 1)?;
    }
    Ok(())
}

/// The words of requests and of answers.
fn words(mapping: &'static Mapping) -> (&'static AtomicU32, &'static AtomicU32) {
    (mapping.futex(0), mapping.futex(LENGTH / 2))
}

impl System for Asleep {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cases(&self) -> Vec<Case> {
        let number = size_of::<u64>();
        let parked = Case::new(Scenario::Parked, number);
        match self.means {
            Means::Words { server: Wait::Yield, .. } => vec![Case::new(Scenario::OneCpu, number)],
            Means::Words { client: Wait::Spin, .. } => vec![Case::new(Scenario::Paced, number)],
            _ => vec![parked, parked.on(Placement::OneCpu)],
        }
    }

    fn serve(&self, setup: &Setup, ready: Ready<'_>) -> Outcome<()> {
        match self.means {
            Means::Words { server, client } => {
                let (request, answer) = words(offer(setup, ready, LENGTH)?);
                for number in (1..=u32::MAX).cycle() {
                    wait_until(request, number, server)?;
                    publish(answer, number, client)?;
                }
                Ok(())
            }
            Means::Eventfd => {
                let make = || eventfd(0, EventfdFlags::CLOEXEC);
                let (requests, answers) = (make()?, make()?);
                let (theirs_out, theirs_in) = (requests.try_clone()?, answers.try_clone()?);
                hand_over(setup, ready, &theirs_out, &theirs_in)?;
                answer_all(requests, answers)
            }
            Means::Pipe => {
                let (requests, theirs_out) = io::pipe()?;
                let (theirs_in, answers) = io::pipe()?;
                hand_over(setup, ready, &theirs_out, &theirs_in)?;
                answer_all(OwnedFd::from(requests), OwnedFd::from(answers))
            }
        }
    }

    fn connect(&self, setup: &Setup) -> Outcome<Box<dyn Client>> {
        if let Means::Words { server, client } = self.means {
            let (request, answer) = words(adopt(setup, LENGTH)?);
            return Ok(Box::new(WordCaller { request, answer, server, client, number: 0 }));
        }
        let [requests, answers]: [OwnedFd; 2] =
            descriptors::receive(&UnixStream::connect(&setup.path)?)?;
        Ok(Box::new(FileCaller { requests: requests.into(), answers: answers.into() }))
    }
}

/// Gives the first client that comes its two descriptors.
fn hand_over(
    setup: &Setup,
    ready: Ready<'_>,
    requests: &impl AsFd,
    answers: &impl AsFd,
) -> Outcome<()> {
    let listener = UnixListener::bind(&setup.path)?;
    ready()?;
    descriptors::send(&listener.accept()?.0, &[requests.as_fd(), answers.as_fd()])
}

/// Sends back every eight bytes that come.
fn answer_all(requests: OwnedFd, answers: OwnedFd) -> Outcome<()> {
    let (mut requests, mut answers) = (File::from(requests), File::from(answers));
    let mut number = [0; size_of::<u64>()];
    loop {
        requests.read_exact(&mut number)?;
        answers.write_all(&number)?;
    }
}

/// Calls through shared words.
struct WordCaller {
    request: &'static AtomicU32,
    answer: &'static AtomicU32,
    server: Wait,
    client: Wait,
    number: u32,
}

impl Client for WordCaller {
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()> {
        // The same cycle as the server's: 1 to u32::MAX, and again.
        self.number = self.number.checked_add(1).unwrap_or(1);
        publish(self.request, self.number, self.server)?;
        wait_until(self.answer, self.number, self.client)?;
        answer.clear();
        answer.extend_from_slice(request);
        Ok(())
    }
}

/// Calls through descriptors.
struct FileCaller {
    requests: File,
    answers: File,
}

impl Client for FileCaller {
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()> {
        let number = sequence(request).ok_or("a request without a number")?;
        // In native order, since an eventfd takes the bytes for a u64 of this machine.
        self.requests.write_all(&number.to_ne_bytes())?;
        let mut echoed = [0; size_of::<u64>()];
        self.answers.read_exact(&mut echoed)?;
        answer.clear();
        answer.extend_from_slice(&u64::from_ne_bytes(echoed).to_le_bytes());
        Ok(())
    }
}
