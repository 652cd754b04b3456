//! The kernel's part of a sleep: a futex and an event descriptor, each a mutex and a condition
//! variable. A wake wakes one thread, and at most one waits: that of the side that sleeps.

use loom::sync::{Condvar, Mutex, MutexGuard};
use ringbell::bell::{Arming, Ringer, Sleeper, Ticket};
use ringbell::layout::{Interest, Mode};
use ringbell::memory::{BellWord, PeerWord, word_pair};
use ringbell::sleeper::SideSleeper;
use std::sync::Arc;

/// What one sleeper sleeps in. One mode's wake never ends the other mode's wait.
pub(crate) struct Kernel {
    futex: Queue,
    event: Queue,
}

struct Queue {
    state: Mutex<State>,
    woken: Condvar,
}

#[derive(Default)]
struct State {
    /// An eventfd that is not read yet, or a byte in the lifeline socket. The futex does not use
    /// it.
    latched: bool,
    /// A thread waits here.
    taken: bool,
    wakes: usize,
}

impl Queue {
    fn new() -> Self {
        Self { state: Mutex::new(State::default()), woken: Condvar::new() }
    }

    fn wake(&self) {
        let mut state = self.state.lock().unwrap();
        state.latched = true;
        state.wakes += 1;
        // As the library asks the kernel for it: one.
        self.woken.notify_one();
    }

    /// Waits once.
    ///
    /// # Panics
    /// If another thread waits: a wake wakes one.
    fn wait<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        assert!(!state.taken, "a second thread waits on the word");
        state.taken = true;
        state = self.woken.wait(state).unwrap();
        state.taken = false;
        state
    }
}

impl Kernel {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { futex: Queue::new(), event: Queue::new() })
    }

    /// Sleeps in `mode`; a futex only while `unchanged`, which is asked under its lock. Any wake
    /// ends it, as a spurious return would: the caller looks again.
    ///
    /// The word is loaded relaxed: the model's kernel promises less than Linux does.
    pub(crate) fn wait(&self, mode: Mode, unchanged: impl Fn() -> bool) {
        match mode {
            Mode::Futex => {
                let state = self.futex.state.lock().unwrap();
                if unchanged() {
                    drop(self.futex.wait(state));
                }
            }
            Mode::Event => {
                let mut state = self.event.state.lock().unwrap();
                while !state.latched {
                    state = self.event.wait(state);
                }
                state.latched = false;
            }
        }
    }

    pub(crate) fn wake(&self, mode: Mode) {
        match mode {
            Mode::Futex => self.futex.wake(),
            Mode::Event => self.event.wake(),
        }
    }

    /// Wake calls so far.
    pub(crate) fn wakes(&self) -> usize {
        self.futex.state.lock().unwrap().wakes + self.event.state.lock().unwrap().wakes
    }
}

/// A sleeper and its place in the kernel.
pub(crate) struct SleepingSide {
    pub(crate) sleeper: SideSleeper,
    pub(crate) kernel: Arc<Kernel>,
    /// How often it armed.
    pub(crate) arms: usize,
}

/// A ringer and the kernel in which it wakes.
pub(crate) struct Bell {
    ringer: Ringer,
    armed: PeerWord,
    seq: BellWord,
    kernel: Arc<Kernel>,
}

/// A bell whose sleeper sleeps in `kernel`.
pub(crate) fn bell_in(kernel: Arc<Kernel>) -> (SleepingSide, Bell) {
    let (own, armed) = word_pair();
    let seq = BellWord::private();
    let sleeping = SleepingSide {
        sleeper: SideSleeper::new(Sleeper::new(own, seq.share())),
        kernel: kernel.clone(),
        arms: 0,
    };
    let ringer = Ringer::new(armed.clone(), seq.share());
    (sleeping, Bell { ringer, armed, seq, kernel })
}

/// A bell and a kernel of its own.
pub(crate) fn bell() -> (SleepingSide, Bell) {
    bell_in(Kernel::new())
}

impl Bell {
    /// A second ringer of the same bell.
    pub(crate) fn share(&self) -> Self {
        let ringer = Ringer::new(self.armed.clone(), self.seq.share());
        Self {
            ringer,
            armed: self.armed.clone(),
            seq: self.seq.share(),
            kernel: self.kernel.clone(),
        }
    }

    /// Rings, and wakes if that is owed; whether it was.
    pub(crate) fn ring(&self, what: Interest) -> bool {
        let owed = self.ring_and_stop(what);
        if let Some(mode) = owed {
            self.kernel.wake(mode);
        }
        owed.is_some()
    }

    /// Rings and never wakes, as if killed before the system call.
    pub(crate) fn ring_and_stop(&self, what: Interest) -> Option<Mode> {
        self.ringer.ring(what)
    }

    /// How often the bell was rung.
    pub(crate) fn rings(&self) -> u32 {
        self.seq.load()
    }

    pub(crate) fn wakes(&self) -> usize {
        self.kernel.wakes()
    }
}

impl SleepingSide {
    /// Arms the bell alone, without a second look.
    pub(crate) fn arm(&mut self, mode: Mode, interest: Interest) -> Ticket {
        self.arms += 1;
        self.sleeper.bell().arm(mode, interest)
    }

    /// Sleeps until `look` says so, without a look before the first arm. `mode` is asked at each
    /// arm.
    pub(crate) fn sleep_until(
        &mut self,
        mut mode: impl FnMut(usize) -> Mode,
        interest: Interest,
        mut look: impl FnMut() -> bool,
    ) {
        loop {
            let mode = mode(self.arms);
            self.arms += 1;
            let mut found = false;
            let arming = self.sleeper.arm(mode, interest, || {
                found = look();
                found
            });
            if arming == Arming::Armed {
                let ticket = self.sleeper.ticket().expect("armed");
                self.kernel.wait(mode, || !self.sleeper.bell().rung(ticket));
                self.sleeper.disarm();
            }
            if found {
                return;
            }
        }
    }

    /// At most one wake call for each arm.
    pub(crate) fn check_wakes(&self) {
        let wakes = self.kernel.wakes();
        assert!(wakes <= self.arms, "{wakes} wakes for {} arms", self.arms);
    }
}
