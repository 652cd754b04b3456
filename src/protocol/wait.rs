//! The waiting policy. When to spin, when to yield, when to park: a pure function of the
//! settings, the state, the clock and what came of the last step. It never touches memory that is
//! shared, never waits itself, and is tested without threads.
//!
//! # The idea
//!
//! With a CPU for each side, an answer comes within a microsecond, and a sleeper costs a hundred
//! times that: so **spin**. When both sides share a CPU, every spin is time taken from the peer: so
//! **yield** at once. When nothing comes for long, burn nothing: **park**.
//!
//! Which of these is the case is learnt from what happened, not asked: spinning that did not pay is
//! not tried again until a rare probe finds that it would pay. Three corrections make one setting
//! good everywhere:
//!
//! - **Turns.** Two processes that spin happily on two CPUs starve a third until the scheduler's
//!   slice ends. So now and then a waiter that would spin yields first. If the yield comes back at
//!   once nobody else was there, and the interval grows fourfold; otherwise it shrinks, faster.
//! - **Spins between yields.** A yield that comes back at once has found nobody who wants the CPU.
//!   If spinning has paid until now, the waiter then spins again before it yields again, twice as
//!   long each time: a peer that is held up for a while (by its own work, or by whoever runs the
//!   machine) costs a few system calls, not one per look.
//! - **Hints.** Each side says which CPU it runs on. A peer on the waiter's own CPU cannot answer
//!   while the waiter spins.
//! - **Slow yields.** On a crowded machine a yield gives the CPU away for whole time slices. Lost
//!   time is counted in a leaky bucket, whether or not something was found behind the yield; when
//!   it overflows yields are given up for a while, turns included: the waiter spins for as long as
//!   spinning pays, and else parks, which the scheduler rewards with an early wake-up.

mod settings;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use settings::WaitSettings;

/// What a waiter should do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Look up to this many times, with a spin hint between.
    Spin(u32),
    /// Call `sched_yield`, then look once.
    Yield,
    /// Arm, look again, sleep.
    Park,
}

/// What is known of the surroundings when a wait begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The peer was last seen on the waiter's own CPU.
    pub peer_cannot_run: bool,
    /// Peers run on every CPU, the waiter's included.
    pub crowded: bool,
}

/// Counts of what waiting did, since the waiter was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WaitCounts {
    /// Waits that ended while spinning.
    pub spins_paid: u64,
    /// Calls of `sched_yield`.
    pub yields: u64,
    /// Times yields were given up because they were slow.
    pub slow_episodes: u64,
    /// Steps to park.
    pub parks: u64,
}

/// A yield this short gave the CPU to nobody, or to one who had next to nothing to do. Generous,
/// since a tool that counts system calls makes each take several times as long.
const BRIEF_NS: u64 = 5_000;

/// How many times `spin_polls` are spun at most between two yields.
const MOST_BETWEEN: u32 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No wait is going on.
    Idle,
    /// A turn is owed: yield once, then spin.
    Turn,
    Spin,
    Yield,
    Park,
}

/// The state of one waiting thread.
#[derive(Debug)]
pub struct Waiter {
    settings: WaitSettings,
    phase: Phase,
    spin_polls: u32,
    /// Waits until the next turn, and the interval.
    turn_in: u32,
    turn_every: u32,
    /// Waits in a row in which spinning did not pay; waits since it was last tried.
    futile: u32,
    unspun: u32,
    yield_for: u64,
    /// When this wait began to yield, and until when it may.
    yield_began: u64,
    yield_until: u64,
    parked_at: u64,
    /// How long to spin after the next quick yield; 0 where spinning makes no sense.
    spin_between: u32,
    /// When the last yield was started; 0 if no yield is out.
    yield_from: u64,
    /// The shortest yield seen, which found nobody else; forgotten slowly.
    least_yield: u64,
    slow_ns: u64,
    slow_at: u64,
    no_yield_until: u64,
    slow_pause: u64,
    counts: WaitCounts,
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Waiter {
    /// A waiter that has not waited yet.
    pub fn new(settings: WaitSettings) -> Self {
        Self {
            phase: Phase::Idle,
            spin_polls: 0,
            spin_between: 0,
            turn_in: settings.turn_every,
            turn_every: settings.turn_every,
            futile: 0,
            unspun: 0,
            yield_for: ns(settings.yield_for),
            yield_began: 0,
            yield_until: 0,
            parked_at: 0,
            yield_from: 0,
            least_yield: u64::MAX / 4,
            slow_ns: 0,
            slow_at: 0,
            no_yield_until: 0,
            slow_pause: ns(settings.slow_pause),
            counts: WaitCounts::default(),
            settings,
        }
    }

    /// The settings.
    pub fn settings(&self) -> &WaitSettings {
        &self.settings
    }

    /// What waiting did so far.
    pub fn counts(&self) -> WaitCounts {
        self.counts
    }

    /// Whether a wait has gone beyond spinning.
    #[inline]
    pub fn is_off_cpu(&self) -> bool {
        matches!(self.phase, Phase::Turn | Phase::Yield | Phase::Park)
    }

    /// The next step of this wait. The first call after [`Self::found`] begins a new wait. `now` is
    /// CLOCK_MONOTONIC in nanoseconds, asked for only when it matters.
    #[inline]
    pub fn step(&mut self, around: Surroundings, now: impl FnOnce() -> u64) -> Step {
        if self.phase == Phase::Idle {
            return self.begin(around, now);
        }
        self.go_on(now)
    }

    #[inline]
    fn begin(&mut self, around: Surroundings, now: impl FnOnce() -> u64) -> Step {
        let polls = if around.crowded {
            self.settings.crowded_spin_polls
        } else {
            self.settings.spin_polls
        };
        let given_up =
            self.futile >= self.settings.futile_spins && self.unspun < self.settings.spin_probe;
        self.spin_polls = if around.peer_cannot_run || given_up { 0 } else { polls };
        // Only if the last wait's spin paid: this one is an exception then.
        self.spin_between = if around.crowded || self.futile != 0 { 0 } else { self.spin_polls };
        if self.spin_polls == 0 {
            self.unspun += 1;
            self.phase = Phase::Spin;
            return self.go_on(now);
        }
        self.unspun = 0;
        if self.settings.turn_every != 0 {
            self.turn_in -= 1;
            if self.turn_in == 0 {
                self.turn_in = self.turn_every;
                self.phase = Phase::Turn;
                return self.go_on(now);
            }
        }
        self.phase = Phase::Spin;
        Step::Spin(self.spin_polls)
    }

    fn go_on(&mut self, now: impl FnOnce() -> u64) -> Step {
        if matches!(self.phase, Phase::Idle | Phase::Park) {
            // The backstop ended a sleep, nothing came: the same wait goes on.
            self.counts.parks += 1;
            return Step::Park;
        }
        let now = now();
        match self.phase {
            // No turns either while yields are given up: whoever else wants the CPU waits for a
            // slice's end as it is.
            Phase::Turn if self.yield_from == 0 && now >= self.no_yield_until => self.yield_at(now),
            Phase::Turn if self.yield_from == 0 => {
                self.phase = Phase::Spin;
                Step::Spin(self.spin_polls)
            }
            Phase::Turn => {
                self.turn_taken(now);
                self.phase = Phase::Spin;
                Step::Spin(self.spin_polls)
            }
            Phase::Spin => {
                if self.spin_polls != 0 {
                    self.futile = self.futile.saturating_add(1);
                }
                self.yield_began = now;
                self.yield_until = now.saturating_add(self.yield_for);
                self.phase = Phase::Yield;
                if self.yield_for == 0 || now < self.no_yield_until {
                    return self.park(now);
                }
                self.yield_at(now)
            }
            Phase::Yield => {
                let brief = self.yield_from != 0 && now.saturating_sub(self.yield_from) < BRIEF_NS;
                if self.yield_from != 0 {
                    self.yielded(now);
                }
                if now >= self.yield_until || now < self.no_yield_until {
                    return self.park(now);
                }
                if brief && self.spin_between != 0 {
                    let polls = self.spin_between;
                    self.spin_between =
                        polls.saturating_mul(2).min(self.spin_polls.saturating_mul(MOST_BETWEEN));
                    return Step::Spin(polls);
                }
                self.yield_at(now)
            }
            Phase::Idle | Phase::Park => unreachable!("seen above"),
        }
    }

    fn yield_at(&mut self, now: u64) -> Step {
        self.yield_from = now;
        self.counts.yields += 1;
        Step::Yield
    }

    /// Sets the interval to the next turn by what came of this one.
    fn turn_taken(&mut self, now: u64) {
        self.turn_every = if self.yielded(now) {
            self.turn_every.saturating_mul(4).min(self.settings.turn_every_most).max(1)
        } else {
            // Not at once down to the shortest: the clock's tick makes a yield look long, too.
            (self.turn_every / 16).max(self.settings.turn_every)
        };
        self.turn_in = self.turn_every;
    }

    /// Takes note of a yield that came back; whether it was quick.
    fn yielded(&mut self, now: u64) -> bool {
        let took = now.saturating_sub(self.yield_from);
        self.yield_from = 0;
        if took >= ns(self.settings.slow_yield) {
            let drained = now.saturating_sub(self.slow_at) / 4;
            self.slow_ns = self.slow_ns.saturating_sub(drained) + took;
            self.slow_at = now;
            if self.slow_ns > ns(self.settings.slow_budget) {
                let calm =
                    now.saturating_sub(self.no_yield_until) > self.slow_pause.saturating_mul(16);
                if calm {
                    self.slow_pause = ns(self.settings.slow_pause);
                }
                self.no_yield_until = now.saturating_add(self.slow_pause);
                self.slow_pause =
                    self.slow_pause.saturating_mul(2).min(ns(self.settings.slow_pause_most));
                self.slow_ns = 0;
                self.counts.slow_episodes += 1;
            }
        }
        // What a yield to nobody costs differs between machines by a factor of five, so it is
        // learnt.
        self.least_yield = took.min(self.least_yield + self.least_yield / 1024 + 1);
        took < 2 * self.least_yield
    }

    fn park(&mut self, now: u64) -> Step {
        self.phase = Phase::Park;
        self.parked_at = now;
        self.counts.parks += 1;
        let least = self.settings.yield_for_least.min(self.settings.yield_for);
        self.yield_for = (self.yield_for / 2).max(ns(least));
        Step::Park
    }

    /// How long the sleep may be that begins now, in a wait that has come to parking.
    pub fn longest_sleep(&self, now: u64) -> Duration {
        let slept = Duration::from_nanos(now.saturating_sub(self.parked_at));
        slept.max(self.settings.first_look).min(self.settings.backstop)
    }

    /// The wait is over: something was found. `now` is asked for only after a sleep or a yield.
    #[inline]
    pub fn found(&mut self, now: impl FnOnce() -> u64) {
        match self.phase {
            Phase::Idle => return,
            Phase::Spin => {
                self.futile = 0;
                self.counts.spins_paid += 1;
            }
            Phase::Turn => {
                // What was waited for came during the yield.
                self.turn_taken(now());
            }
            Phase::Yield => {
                // What was waited for came during the yield. A slow one counts all the same: on a
                // crowded machine most answers come so.
                if self.yield_from != 0 {
                    self.yielded(now());
                }
                self.yield_longer();
            }
            Phase::Park => {
                // Had it yielded for the full time it would not have slept: a sleep that short does
                // not pay.
                if now().saturating_sub(self.yield_began) < ns(self.settings.yield_for) {
                    self.yield_longer();
                    self.yield_longer();
                }
            }
        }
        self.phase = Phase::Idle;
    }

    fn yield_longer(&mut self) {
        self.yield_for = self.yield_for.saturating_mul(2).min(ns(self.settings.yield_for));
    }

    /// The wait is over without a result: a timeout, or an error.
    pub fn given_up(&mut self) {
        self.yield_from = 0;
        self.phase = Phase::Idle;
    }
}
