//! The two ways to count the instructions of a thread in user mode.

use std::fmt;
use std::hint::black_box;
use std::io;

use perf_event::events::Hardware;
use perf_event::{Builder, Counter};

use crate::steps;

/// How instructions are counted. Both ways find the same figures: what the CPU retires in user
/// mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// By the CPU's own counter.
    Counter,
    /// By single steps, see [`steps`].
    Steps,
}

impl fmt::Display for Way {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Counter => "by the CPU's counter",
            Self::Steps => "by single steps",
        })
    }
}

impl Way {
    /// How often each path is counted; the least counts. The counter also sees what interrupts do
    /// to it; steps are disturbed only by what the threads themselves find, but are slow.
    pub(crate) fn repetitions(self) -> usize {
        match self {
            Self::Counter => 40,
            Self::Steps => 2,
        }
    }

    /// How often a path is taken each time.
    pub(crate) fn times(self) -> u32 {
        match self {
            Self::Counter => 1024,
            Self::Steps => 16,
        }
    }
}

/// Counts the instructions of the thread that made it, and that alone may use it.
#[derive(Debug)]
pub(crate) struct Meter {
    counter: Option<Counter>,
    /// What is counted between a beginning and an end with nothing between them.
    overhead: u64,
}

impl Meter {
    pub(crate) fn new(way: Way) -> io::Result<Self> {
        let counter = match way {
            Way::Counter => Some(counter()?),
            Way::Steps => None,
        };
        let mut meter = Self { counter, overhead: 0 };
        let mut overhead = u64::MAX;
        for _ in 0..way.repetitions() {
            meter.begin()?;
            overhead = overhead.min(meter.end()?);
        }
        meter.overhead = overhead;
        Ok(meter)
    }

    /// Begins to count.
    pub(crate) fn begin(&mut self) -> io::Result<()> {
        match &mut self.counter {
            Some(counter) => {
                counter.reset()?;
                counter.enable()
            }
            None => steps::begin(),
        }
    }

    /// Ends counting: how many instructions the thread executed since it began.
    pub(crate) fn end(&mut self) -> io::Result<u64> {
        let count = match &mut self.counter {
            Some(counter) => {
                counter.disable()?;
                counter.read()?
            }
            None => steps::end()?,
        };
        Ok(count.saturating_sub(self.overhead))
    }
}

/// A counter of the calling thread's instructions in user mode.
fn counter() -> io::Result<Counter> {
    Builder::new(Hardware::INSTRUCTIONS).exclude_kernel(true).exclude_hv(true).build()
}

/// Whether the counter counts, or why not: under some hypervisors it can be opened and stays at 0.
pub(crate) fn try_counter() -> Result<(), String> {
    let count = || -> io::Result<u64> {
        let mut counter = counter()?;
        counter.enable()?;
        black_box((0..10_000_u64).fold(0, |sum, number| black_box(sum + number)));
        counter.disable()?;
        counter.read()
    };
    match count() {
        Ok(count) if count >= 10_000 => Ok(()),
        Ok(_) => Err("the CPU's counter does not count".to_owned()),
        Err(error) => Err(format!("the CPU's counter cannot be used: {error}")),
    }
}
