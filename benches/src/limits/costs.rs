//! Operations without a partner: copies, system calls, fences, clocks. One process, one CPU.
#![allow(
    clippy::disallowed_types,
    reason = "the limits are written without the library, and so without its seam"
)]

use std::hint::{black_box, spin_loop};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicU32, AtomicU64, fence};
use std::time::Instant;

use rustix::io::Errno;
use rustix::process::getppid;
use rustix::thread::{futex, sched_yield};

use crate::scenario::{Case, Scenario};

/// Does an operation so many times.
pub(crate) type Repeat = Box<dyn FnMut(u64)>;

/// One operation.
#[derive(Debug)]
pub(crate) struct Cost {
    /// The name in the table.
    pub(crate) name: &'static str,
    size: usize,
    prepare: fn() -> Repeat,
}

impl Cost {
    /// The one case of this cost.
    pub(crate) const fn case(&self) -> Case {
        Case::new(Scenario::Cost, self.size)
    }

    /// Makes what the operation needs, outside the timed part.
    pub(crate) fn prepare(&self) -> Repeat {
        (self.prepare)()
    }
}

/// Bytes of a copy.
const COPY: usize = 64 << 10;

/// Bytes that the cold copy walks through: twice the last-level cache of the machines at hand.
const WALK: usize = 64 << 20;

/// All costs.
pub(crate) static COSTS: [Cost; 9] = [
    Cost { name: "limit-memcpy-hot", size: COPY, prepare: || copy_through(COPY) },
    Cost { name: "limit-memcpy-cold", size: COPY, prepare: || copy_through(WALK) },
    Cost {
        name: "limit-syscall",
        size: 0,
        prepare: || {
            repeat(|| {
                black_box(getppid());
            })
        },
    },
    Cost {
        name: "limit-futex-wake-nobody",
        size: 0,
        prepare: || {
            let word = AtomicU32::new(0);
            repeat(move || {
                let woken = futex::wake(&word, futex::Flags::empty(), 1);
                assert_eq!(woken, Ok(0), "nobody waits on a private word");
            })
        },
    },
    Cost {
        name: "limit-futex-wait-changed",
        size: 0,
        prepare: || {
            let word = AtomicU32::new(0);
            repeat(move || {
                let waited = futex::wait(&word, futex::Flags::empty(), 1, None);
                assert_eq!(waited, Err(Errno::AGAIN), "the word has another value");
            })
        },
    },
    Cost { name: "limit-yield-nobody", size: 0, prepare: || repeat(sched_yield) },
    Cost {
        name: "limit-fence",
        size: 0,
        prepare: || {
            // With a store before it, since that is what the fence has to wait for.
            let word = AtomicU64::new(0);
            repeat(move || {
                black_box(&word).store(1, std::sync::atomic::Ordering::Relaxed);
                fence(SeqCst);
            })
        },
    },
    Cost { name: "limit-pause", size: 0, prepare: || repeat(spin_loop) },
    Cost {
        name: "limit-clock",
        size: 0,
        prepare: || {
            repeat(|| {
                black_box(Instant::now());
            })
        },
    },
];

/// The operation, in a loop that the compiler sees whole.
fn repeat(mut operation: impl FnMut() + 'static) -> Repeat {
    Box::new(move |count| (0..count).for_each(|_| operation()))
}

/// Copies [`COPY`] bytes from one place to the next stretch of a destination of `length` bytes,
/// which is touched beforehand: page faults are not part of the figure.
fn copy_through(length: usize) -> Repeat {
    let source = vec![1_u8; COPY];
    let mut destination = vec![2_u8; length];
    let mut next = 0;
    repeat(move || {
        destination[next..next + COPY].copy_from_slice(black_box(&source));
        black_box(&mut destination[next..next + COPY]);
        next = (next + COPY) % length;
    })
}
