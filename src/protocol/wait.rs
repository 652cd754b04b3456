//! L2: the waiting policy. When to spin, when to yield, when to park: a pure function of the settings, the state,
//! the clock and what came of the last step. It never touches memory that is shared, never waits itself, and is
//! tested without threads.
//!
//! # The idea
//!
//! With a CPU for each side, an answer comes within a microsecond, and a sleeper costs a hundred times that: so
//! **spin**. When both sides share a CPU, every spin is time taken from the peer: so **yield** at once. When
//! nothing comes for long, burn nothing: **park**.
//!
//! Which of these is the case is learnt from what happened, not asked: spinning that did not pay is not tried
//! again until a rare probe finds that it would pay. Three corrections make one setting good everywhere:
//!
//! - **Turns.** Two processes that spin happily on two CPUs starve a third until the scheduler's slice ends. So
//!   now and then a waiter that would spin yields first. If the yield comes back at once nobody else was there,
//!   and the interval grows fourfold; otherwise it shrinks, faster.
//! - **Spins between yields.** A yield that comes back at once has found nobody who wants the CPU. If spinning has
//!   paid until now, the waiter then spins again before it yields again, twice as long each time: a peer that
//!   is held up for a while (by its own work, or by whoever runs the machine) costs a few system calls, not one per
//!   look.
//! - **Hints.** Each side says which CPU it runs on. A peer on the waiter's own CPU cannot answer while the waiter
//!   spins.
//! - **Slow yields.** On a crowded machine a yield gives the CPU away for whole time slices. Lost time is
//!   counted in a leaky bucket, whether or not something was found behind the yield; when it overflows yields are
//!   given up for a while, turns included: the waiter spins for as long as spinning pays, and else parks, which the
//!   scheduler rewards with an early wake-up.

use std::time::Duration;

/// Settings of the waiting policy. The defaults were tuned by measurement and hold for every scenario of the
/// benchmarks; change them only with a benchmark in hand.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WaitSettings {
    /// How often a waiter looks before it yields. Default 150 looks, one to two microseconds.
    pub spin_polls: u32,
    /// The same for a server whose clients run on every CPU, its own included. Default 20 looks.
    pub crowded_spin_polls: u32,
    /// How long a waiter keeps yielding before it parks. Default 150 us for a client that waits for an answer,
    /// 50 us for a server that waits for requests.
    pub yield_for: Duration,
    /// A waiter halves its time of yielding with each wait that ends in a sleep, down to this, and lengthens it again
    /// when yielding pays, or a sleep was so short that yielding would have paid. Default 5 us.
    pub yield_for_least: Duration,
    /// Every so many waits a spinner yields first, as long as others want the CPU. Default 16 for a client, 4
    /// for a server; 0 for never.
    pub turn_every: u32,
    /// The largest interval between turns while nobody else wants the CPU. Default 4096 waits.
    pub turn_every_most: u32,
    /// After so many waits in a row in which spinning did not pay, it is given up. Default 4.
    pub futile_spins: u32,
    /// Once given up, spinning is tried again every so many waits. Default 64.
    pub spin_probe: u32,
    /// A yield of at least this length counts as slow. Default 2 ms: more than the turns of many clients who yield as
    /// well, and not more than somebody who computes takes (on 2 CPUs or more; its slice ends with a tick of the scheduler).
    pub slow_yield: Duration,
    /// Time lost in slow yields, drained at a quarter of wall time, after which yields are given up. Default 5 ms.
    pub slow_budget: Duration,
    /// For how long yields are given up the first time; doubles each time. Default 20 ms: short, as a machine looks
    /// crowded whenever processes start on it.
    pub slow_pause: Duration,
    /// The longest time for which yields are given up. Default 4 s.
    pub slow_pause_most: Duration,
    /// A parked client looks for the first time after so long whether its server is still there, then after as long again
    /// as it has slept, up to `backstop`: so it learns of a death within about twice the time that it has waited, and a
    /// long wait costs few looks. Default 2 ms. Of no meaning to a server, whose porter is told of deaths.
    pub first_look: Duration,
    /// A parked thread looks again at least this often, whatever happens. Default 50 ms.
    pub backstop: Duration,
}

impl WaitSettings {
    /// The defaults for a caller that waits for an answer.
    pub fn client() -> Self {
        Self {
            spin_polls: 150,
            crowded_spin_polls: 20,
            yield_for: Duration::from_micros(150),
            yield_for_least: Duration::from_micros(5),
            turn_every: 16,
            turn_every_most: 4096,
            futile_spins: 4,
            spin_probe: 64,
            slow_yield: Duration::from_millis(2),
            slow_budget: Duration::from_millis(5),
            slow_pause: Duration::from_millis(20),
            slow_pause_most: Duration::from_secs(4),
            first_look: Duration::from_millis(2),
            backstop: Duration::from_millis(50),
        }
    }

    /// The defaults for a server that waits for requests.
    pub fn server() -> Self {
        Self { yield_for: Duration::from_micros(50), turn_every: 4, ..Self::client() }
    }

    /// Settings that park at once: for machines where no CPU time may be spent on waiting.
    #[must_use]
    pub fn park_at_once(mut self) -> Self {
        self.spin_polls = 0;
        self.crowded_spin_polls = 0;
        self.yield_for = Duration::ZERO;
        self.yield_for_least = Duration::ZERO;
        self.turn_every = 0;
        self
    }
}

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

/// A yield this short gave the CPU to nobody, or to one who had next to nothing to do. Generous, since a tool that
/// counts system calls makes each take several times as long.
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

#[allow(clippy::cast_possible_truncation, reason = "584 years of nanoseconds")]
fn ns(duration: Duration) -> u64 {
    duration.as_nanos() as u64
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
        let polls = if around.crowded { self.settings.crowded_spin_polls } else { self.settings.spin_polls };
        let given_up = self.futile >= self.settings.futile_spins && self.unspun < self.settings.spin_probe;
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
            // No turns either while yields are given up: whoever else wants the CPU waits for a slice's end as it is.
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
                let calm = now.saturating_sub(self.no_yield_until) > self.slow_pause.saturating_mul(16);
                if calm {
                    self.slow_pause = ns(self.settings.slow_pause);
                }
                self.no_yield_until = now.saturating_add(self.slow_pause);
                self.slow_pause = self.slow_pause.saturating_mul(2).min(ns(self.settings.slow_pause_most));
                self.slow_ns = 0;
                self.counts.slow_episodes += 1;
            }
        }
        // What a yield to nobody costs differs between machines by a factor of five, so it is learnt.
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
                // What was waited for came during the yield. A slow one counts all the same: on a crowded machine
                // most answers come so.
                if self.yield_from != 0 {
                    self.yielded(now());
                }
                self.yield_longer();
            }
            Phase::Park => {
                // Had it yielded for the full time it would not have slept: a sleep that short does not pay.
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

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: Surroundings = Surroundings { peer_cannot_run: false, crowded: false };

    /// Runs one wait in which nothing is ever found until it parks; the steps, with a clock that a yield advances
    /// by `yield_ns`.
    fn steps_to_park(waiter: &mut Waiter, clock: &mut u64, yield_ns: u64) -> Vec<Step> {
        let mut steps = Vec::new();
        loop {
            let step = waiter.step(FREE, || *clock);
            steps.push(step);
            match step {
                Step::Spin(_) => *clock += 1_500,
                Step::Yield => *clock += yield_ns,
                Step::Park => break,
            }
        }
        waiter.found(|| u64::MAX);
        steps
    }

    #[test]
    fn spins_then_yields_then_parks() {
        let mut waiter = Waiter::new(WaitSettings::client());
        let mut clock = 1;
        let steps = steps_to_park(&mut waiter, &mut clock, 10_000);
        assert_eq!(steps[0], Step::Spin(150));
        assert_eq!(steps.iter().filter(|s| **s == Step::Yield).count(), 15);
        assert_eq!(*steps.last().unwrap(), Step::Park);
        assert_eq!(waiter.counts(), WaitCounts { yields: 15, parks: 1, ..Default::default() });
    }

    #[test]
    fn a_peer_that_is_held_up_costs_few_yields() {
        let mut waiter = Waiter::new(WaitSettings { turn_every: 0, ..WaitSettings::client() });
        for _ in 0..100 {
            waiter.step(FREE, || 1);
            waiter.found(|| u64::MAX); // while spinning
        }
        let mut clock = 1;
        let mut steps = Vec::new();
        while clock < 100_000 {
            let step = waiter.step(FREE, || clock);
            steps.push(step);
            clock += match step {
                Step::Spin(polls) => u64::from(polls) * 35,
                Step::Yield => 700,
                Step::Park => break,
            };
        }
        let yields = steps.iter().filter(|step| **step == Step::Yield).count();
        assert!(yields <= 8, "{steps:?}");
        // Whoever takes the CPU during a yield gets it: no spinning after that.
        let mut waiter = Waiter::new(WaitSettings { turn_every: 0, ..WaitSettings::client() });
        assert_eq!(waiter.step(FREE, || 0), Step::Spin(150));
        assert_eq!(waiter.step(FREE, || 0), Step::Yield);
        assert_eq!(waiter.step(FREE, || 30_000), Step::Yield);
    }

    #[test]
    fn futile_spinning_is_given_up_and_probed() {
        let mut waiter = Waiter::new(WaitSettings { turn_every: 0, ..WaitSettings::client() });
        let mut clock = 1;
        let mut spun = 0;
        for _ in 0..1000 {
            if waiter.step(FREE, || clock) == Step::Spin(150) {
                spun += 1;
                assert_eq!(waiter.step(FREE, || clock), Step::Yield);
            }
            clock += 1_000;
            waiter.found(|| clock); // by the yield
        }
        assert!((5..=20).contains(&spun), "{spun}");
        // Once it pays again it is used every time.
        let mut paid = 0;
        for _ in 0..200 {
            if waiter.step(FREE, || clock) == Step::Spin(150) {
                paid += 1;
            }
            waiter.found(|| clock);
        }
        assert!(paid > 130, "{paid}");
    }

    #[test]
    fn a_peer_that_cannot_run_is_not_spun_for() {
        let mut waiter = Waiter::new(WaitSettings::client());
        let around = Surroundings { peer_cannot_run: true, crowded: false };
        assert_eq!(waiter.step(around, || 5), Step::Yield);
    }

    #[test]
    fn turns_become_rare_also_if_each_of_them_finds_something() {
        let mut waiter = Waiter::new(WaitSettings::client());
        let mut clock = 1;
        let mut yields = 0;
        for _ in 0..100_000 {
            if waiter.step(FREE, || clock) == Step::Yield {
                yields += 1;
                clock += 300;
            }
            waiter.found(|| clock);
        }
        assert!(yields < 40, "{yields}");
    }

    #[test]
    fn turns_become_rare_while_nobody_else_is_there() {
        let mut waiter = Waiter::new(WaitSettings::client());
        let mut clock = 1;
        let mut yields = 0;
        for _ in 0..100_000 {
            if waiter.step(FREE, || clock) == Step::Yield {
                yields += 1;
                clock += 300;
                assert!(matches!(waiter.step(FREE, || clock), Step::Spin(_)));
            }
            waiter.found(|| u64::MAX);
        }
        assert!(yields < 40, "{yields}");
        // Somebody else appears: the interval is short again.
        let mut yields = 0;
        for _ in 0..10_000 {
            if waiter.step(FREE, || clock) == Step::Yield {
                yields += 1;
                clock += 5_000;
                waiter.step(FREE, || clock);
            }
            waiter.found(|| u64::MAX);
        }
        assert!(yields > 300, "{yields}");
    }

    #[test]
    fn slow_yields_are_given_up_for_longer_and_longer() {
        let mut waiter = Waiter::new(WaitSettings::client());
        let mut clock = 1;
        for _ in 0..10 {
            steps_to_park(&mut waiter, &mut clock, 4_000_000);
        }
        assert!(waiter.counts().slow_episodes >= 1);
        let before = waiter.counts().yields;
        steps_to_park(&mut waiter, &mut clock, 4_000_000);
        assert_eq!(waiter.counts().yields, before, "yields are given up");
        clock += 10_000_000_000;
        steps_to_park(&mut waiter, &mut clock, 400);
        assert!(waiter.counts().yields > before, "and tried again");
    }

    #[test]
    fn a_slow_yield_behind_which_something_was_found_counts() {
        let mut waiter = Waiter::new(WaitSettings { turn_every: 0, ..WaitSettings::client() });
        let mut clock = 1;
        for _ in 0..2 {
            while waiter.step(FREE, || clock) != Step::Yield {}
            clock += 4_000_000;
            waiter.found(|| clock);
        }
        assert_eq!(waiter.counts().slow_episodes, 1);
    }

    #[test]
    fn no_turns_are_taken_while_yields_are_given_up() {
        let turns = WaitSettings { turn_every: 1, turn_every_most: 1, ..WaitSettings::client() };
        let mut waiter = Waiter::new(turns);
        let mut clock = 1;
        while waiter.counts().slow_episodes == 0 {
            let step = waiter.step(FREE, || clock);
            clock += if step == Step::Yield { 4_000_000 } else { 1_000 };
            waiter.found(|| clock);
        }
        let before = waiter.counts().yields;
        for _ in 0..100 {
            assert_eq!(waiter.step(FREE, || clock), Step::Spin(150));
            waiter.found(|| clock);
        }
        assert_eq!(waiter.counts().yields, before);
        clock += 10_000_000_000;
        let steps = [waiter.step(FREE, || clock), waiter.step(FREE, || clock)];
        assert_eq!(steps, [Step::Yield, Step::Spin(150)]);
    }

    #[test]
    fn one_slow_yield_changes_nothing() {
        let mut waiter = Waiter::new(WaitSettings::client());
        let mut clock = 1;
        steps_to_park(&mut waiter, &mut clock, 2_000_000);
        let before = waiter.counts().yields;
        steps_to_park(&mut waiter, &mut clock, 50_000);
        assert!(waiter.counts().yields > before);
        assert_eq!(waiter.counts().slow_episodes, 0);
    }

    #[test]
    fn a_server_yields_less_after_each_park() {
        let mut waiter = Waiter::new(WaitSettings { turn_every: 0, ..WaitSettings::server() });
        let mut clock = 1;
        let mut last = usize::MAX;
        for _ in 0..4 {
            let yields = steps_to_park(&mut waiter, &mut clock, 1_000).len();
            assert!(yields < last);
            last = yields;
        }
    }

    #[test]
    fn a_client_whose_answers_take_long_hardly_yields() {
        let mut waiter = Waiter::new(WaitSettings::client());
        let mut clock = 1;
        for _ in 0..8 {
            steps_to_park(&mut waiter, &mut clock, 1_000);
        }
        let steps = steps_to_park(&mut waiter, &mut clock, 1_000);
        assert!(steps.len() < 10, "{steps:?}");
    }

    #[test]
    fn a_client_that_is_answered_a_little_too_late_stops_yielding_too() {
        let mut waiter = Waiter::new(WaitSettings { turn_every: 0, ..WaitSettings::client() });
        let mut clock = 1;
        let mut steps = 0;
        for _ in 0..16 {
            // It yields for 150 us at first, and sleeps the rest of 200 us.
            let begun = clock;
            steps = 0;
            while waiter.step(FREE, || clock) != Step::Park {
                clock += 1_000;
                steps += 1;
            }
            clock = begun + 200_000;
            waiter.found(|| clock);
        }
        assert!(steps < 20, "{steps}");
    }

    #[test]
    fn a_server_that_was_woken_soon_yields_longer_again() {
        let mut waiter = Waiter::new(WaitSettings { turn_every: 0, ..WaitSettings::server() });
        let mut clock = 1;
        for _ in 0..8 {
            steps_to_park(&mut waiter, &mut clock, 1_000);
        }
        let idle = steps_to_park(&mut waiter, &mut clock, 1_000).len();
        for _ in 0..8 {
            while waiter.step(FREE, || clock) != Step::Park {
                clock += 1_000;
            }
            waiter.found(|| clock + 10_000);
        }
        assert!(steps_to_park(&mut waiter, &mut clock, 1_000).len() > 4 * idle);
    }

    #[test]
    fn an_idle_night_is_one_wait() {
        let mut waiter = Waiter::new(WaitSettings { turn_every: 0, ..WaitSettings::server() });
        let mut clock = 1;
        let before = steps_to_park(&mut waiter, &mut clock, 1_000).len();
        while waiter.step(FREE, || clock) != Step::Park {
            clock += 1_000;
        }
        for _ in 0..1000 {
            assert_eq!(waiter.step(FREE, || clock), Step::Park);
        }
        waiter.found(|| u64::MAX);
        let after = steps_to_park(&mut waiter, &mut clock, 1_000).len();
        assert!(after * 4 >= before, "halved twice, not a thousand times: {after} of {before}");
    }

    #[test]
    fn a_sleeper_looks_soon_and_then_ever_more_rarely() {
        let settings = WaitSettings { first_look: Duration::from_millis(2), ..WaitSettings::client() };
        let mut waiter = Waiter::new(settings.park_at_once());
        for begin in [7, 3_000_000_000] {
            let mut clock = begin;
            let mut sleeps = Vec::new();
            for _ in 0..8 {
                assert_eq!(waiter.step(FREE, || clock), Step::Park);
                let sleep = waiter.longest_sleep(clock);
                clock += ns(sleep);
                sleeps.push(sleep.as_millis());
            }
            assert_eq!(sleeps, [2, 2, 4, 8, 16, 32, 50, 50]);
            waiter.found(|| clock);
        }
        let late = WaitSettings { first_look: Duration::MAX, ..WaitSettings::client() };
        assert_eq!(
            Waiter::new(late).longest_sleep(0),
            Duration::from_millis(50),
            "never beyond the backstop"
        );
    }

    #[test]
    fn park_at_once_parks_at_once() {
        let mut waiter = Waiter::new(WaitSettings::server().park_at_once());
        assert_eq!(waiter.step(FREE, || 7), Step::Park);
    }
}
