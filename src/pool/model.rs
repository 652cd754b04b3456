//! The state machine against a model that is too simple to be wrong.

mod clockwork;

use super::core::{Core, Held, Job, Opening, Placed, Taken};
use super::settings::{Backoff, Settings};
use super::stats::CloseReason;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::time::Duration;

const MS: u64 = 1_000_000;

type Pool = Core<u64, u64>;

fn settings() -> Settings {
    Settings {
        min_idle: 1,
        max_size: 4,
        max_starting: 1,
        idle_timeout: None,
        max_lifetime: None,
        health_check_interval: None,
        backoff: Backoff { first: Duration::from_millis(10), longest: Duration::from_millis(200) },
        ..Settings::default()
    }
}

#[derive(Debug, Clone)]
enum Step {
    Acquire,
    Try,
    GiveUp(usize),
    Release {
        which: usize,
        poisoned: bool,
    },
    Flush(usize),
    /// A job for the keeper: what it does, if it is something that can go wrong.
    Keep {
        well: bool,
        generation: u64,
    },
    FinishOpen {
        well: bool,
        generation: u64,
    },
    FinishCheck {
        fit: bool,
    },
    FinishClose(usize),
    Wait(u64),
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => Just(Step::Acquire),
        2 => Just(Step::Try),
        3 => any::<usize>().prop_map(Step::GiveUp),
        10 => (any::<usize>(), prop::bool::weighted(0.2))
            .prop_map(|(which, poisoned)| Step::Release { which, poisoned }),
        1 => any::<usize>().prop_map(Step::Flush),
        12 => (prop::bool::weighted(0.8), 0_u64..2)
            .prop_map(|(well, generation)| Step::Keep { well, generation }),
        8 => (prop::bool::weighted(0.8), prop::bool::weighted(0.1))
            .prop_map(|(well, other)| Step::FinishOpen { well, generation: u64::from(other) }),
        6 => prop::bool::weighted(0.8).prop_map(|fit| Step::FinishCheck { fit }),
        8 => any::<usize>().prop_map(Step::FinishClose),
        4 => (1_u64..40).prop_map(Step::Wait),
        1 => prop::bool::weighted(0.1)
            .prop_map(|close| if close { Step::Close } else { Step::Acquire }),
    ]
}

fn any_settings() -> impl Strategy<Value = Settings> {
    let time = || prop::option::of((1_u64..60).prop_map(Duration::from_millis));
    (1_usize..6, any::<u64>(), time(), time(), time(), prop::bool::weighted(0.85)).prop_map(
        |(max_size, random, idle_timeout, max_lifetime, health_check_interval, enabled)| Settings {
            enabled,
            min_idle: usize::try_from(random % (max_size as u64 + 1)).expect("small"),
            min_size: usize::try_from(random / 7 % (max_size as u64 + 1)).expect("small"),
            max_size,
            max_starting: usize::try_from(random / 49 % 4 + 1).expect("small"),
            idle_timeout,
            max_lifetime,
            health_check_interval,
            ..settings()
        },
    )
}

/// What a pool is: the items that users hold, those that are on their way somewhere, the line.
#[derive(Default)]
struct Model {
    now: u64,
    next_item: u64,
    next_waiter: u64,
    in_use: Vec<Held<u64>>,
    line: VecDeque<u64>,
    opening: Vec<Opening>,
    own_openings: Vec<Opening>,
    checking: Option<Held<u64>>,
    closing: Vec<(u64, CloseReason)>,
    gone: Vec<u64>,
    served: Vec<u64>,
    given_up: Vec<u64>,
    opened: u64,
    closed: bool,
}

impl Model {
    fn place(&mut self, placed: Placed<u64, u64>) {
        match placed {
            Placed::Kept => assert!(self.line.is_empty(), "an item became ready past the line"),
            Placed::Handed(waiter, entry) => {
                assert_eq!(self.line.pop_front(), Some(waiter), "served out of turn");
                self.served.push(waiter);
                self.hold(entry);
            }
            Placed::Close(entry, reason) => self.closing.push((entry.item, reason)),
        }
    }

    fn hold(&mut self, entry: Held<u64>) {
        assert!(!self.gone.contains(&entry.item), "one that was closed is handed out");
        assert!(self.in_use.iter().all(|other| other.item != entry.item), "handed out twice");
        self.in_use.push(entry);
    }

    /// What the driver does whenever it leaves the lock. If the keeper is to be woken it is awake
    /// from then on.
    fn leave(&mut self, pool: &mut Pool) {
        let _ = pool.disturb();
        while let Some((waiter, opening)) = pool.admit(|| 0) {
            assert_eq!(self.line.pop_front(), Some(waiter), "admitted out of turn");
            self.served.push(waiter);
            self.own_openings.push(opening);
        }
    }

    fn fresh(&mut self) -> u64 {
        self.next_item += 1;
        self.opened += 1;
        self.next_item
    }

    fn apply(&mut self, pool: &mut Pool, step: Step) {
        match step {
            Step::Acquire => match pool.take(|| 0) {
                Taken::Item(entry) => {
                    assert!(self.line.is_empty(), "somebody jumped the line");
                    self.hold(entry);
                    assert!(pool.is_short() || !pool.disturb(), "the keeper is not told of a want");
                }
                Taken::Open(opening) => self.own_openings.push(opening),
                Taken::Nothing => {
                    self.next_waiter += 1;
                    self.line.push_back(self.next_waiter);
                    pool.enqueue(self.next_waiter, false);
                }
                Taken::Closed => assert!(self.closed),
            },
            Step::Try => match pool.take(|| 0) {
                Taken::Item(entry) => self.hold(entry),
                Taken::Open(opening) => self.own_openings.push(opening),
                Taken::Nothing => pool.miss(),
                Taken::Closed => assert!(self.closed),
            },
            Step::GiveUp(which) => {
                // Of those that ever waited: most have been served.
                let waiter = which as u64 % (self.next_waiter + 1);
                let waits = self.line.contains(&waiter);
                assert_eq!(pool.give_up(|other| *other == waiter), waits);
                self.line.retain(|other| *other != waiter);
                if waits {
                    self.given_up.push(waiter);
                }
            }
            Step::Release { which, poisoned } if !self.in_use.is_empty() => {
                let entry = self.in_use.swap_remove(which % self.in_use.len());
                let placed =
                    pool.release(entry, poisoned.then_some(CloseReason::Poisoned), self.now);
                if let Placed::Kept = placed {
                    assert!(
                        pool.is_due_sooner() || !pool.disturb(),
                        "the keeper is not told of what is due"
                    );
                }
                self.place(placed);
            }
            Step::Flush(which) if !self.in_use.is_empty() => {
                pool.flush(self.in_use[which % self.in_use.len()].epoch());
            }
            Step::Keep { well, generation } => {
                match pool.next_job(self.now) {
                    Job::Open(opening) => {
                        self.opening.push(opening);
                        // Often it is quick.
                        if well {
                            self.finish_open(pool, true, generation);
                        }
                    }
                    Job::Check(entry) => {
                        let other = self.checking.replace(entry);
                        assert!(other.is_none(), "one is looked at at a time");
                    }
                    Job::Close(entry, reason) => {
                        if matches!(reason, CloseReason::Idle | CloseReason::Lifetime) {
                            assert!(self.now > 0, "nothing expires at once");
                        }
                        self.closing.push((entry.item, reason));
                    }
                    Job::Sleep(until) => assert!(until > self.now, "sleep that does not pass"),
                    Job::End => assert!(self.closed && pool.total() == 0),
                }
            }
            Step::FinishOpen { well, generation } => self.finish_open(pool, well, generation),
            Step::FinishCheck { fit } => {
                if let Some(entry) = self.checking.take() {
                    let placed = pool.checked(entry, fit, self.now);
                    self.place(placed);
                }
            }
            Step::FinishClose(which) if !self.closing.is_empty() => {
                let (item, reason) = self.closing.swap_remove(which % self.closing.len());
                self.gone.push(item);
                pool.closed(reason);
            }
            Step::Wait(ms) => self.now += ms * MS,
            Step::Close => {
                let dismissed = pool.close();
                assert_eq!(dismissed, Vec::from(std::mem::take(&mut self.line)));
                self.given_up.extend(dismissed);
                self.closed = true;
            }
            Step::Release { .. } | Step::Flush(_) | Step::FinishClose(_) => {}
        }
        self.leave(pool);
    }

    /// The opening that ends next: now the oldest, now the newest.
    fn next_ended(&mut self) -> Option<Opening> {
        let newest = self.next_item.is_multiple_of(2);
        if newest || self.opening.is_empty() {
            self.opening.pop()
        } else {
            Some(self.opening.remove(0))
        }
    }

    fn finish_open(&mut self, pool: &mut Pool, well: bool, generation: u64) {
        if let Some(opening) = self.own_openings.pop() {
            if well {
                let item = self.fresh();
                let entry = pool.opened_by_user(opening, item, generation, self.now);
                self.hold(entry);
            } else {
                pool.open_failed(opening, self.now);
            }
        }
        if let Some(opening) = self.next_ended() {
            if well {
                let item = self.fresh();
                let placed = pool.opened(opening, item, generation, self.now);
                self.place(placed);
            } else {
                pool.open_failed(opening, self.now);
            }
            // As a thread that opens does.
            let failing = pool.next_try(self.now) > Duration::ZERO;
            if let Some(next) = pool.next_opening(self.now) {
                assert!(!failing, "an attempt within the pause");
                self.opening.push(next);
            }
        }
        self.leave(pool);
    }

    fn agree(&self, pool: &Pool, settings: &Settings) {
        let stats = pool.stats();
        let opening = self.opening.len() + self.own_openings.len();
        assert_eq!(stats.in_use, self.in_use.len());
        assert_eq!(stats.opening, opening);
        assert_eq!(stats.checking, usize::from(self.checking.is_some()));
        assert_eq!(stats.waiting, self.line.len());
        assert_eq!(stats.opened, self.opened);
        assert_eq!(stats.closed.total(), self.gone.len() as u64);
        assert!(self.opening.len() <= settings.max_starting, "{stats:?}");
        // Whatever was opened and is not gone is somewhere, once.
        let somewhere = stats.idle + stats.in_use + stats.checking + stats.closing;
        assert_eq!(somewhere as u64, self.opened - self.gone.len() as u64, "{stats:?}");
        assert_eq!(pool.total(), somewhere + opening);
        assert!(pool.total() <= settings.max_size && stats.peak <= settings.max_size, "{stats:?}");
        assert!(stats.idle == 0 || self.line.is_empty(), "ready, while somebody waits");
        if !settings.enabled {
            assert_eq!(stats.idle, 0, "nothing is kept");
            let room = pool.total() < settings.max_size;
            assert!(!room || self.line.is_empty(), "room, while somebody waits for it");
        }
    }

    /// Lets everything that is under way end well, and time pass as the keeper asks: then nobody
    /// waits any more.
    fn settle(&mut self, pool: &mut Pool, settings: &Settings) {
        for _ in 0..10_000 {
            self.finish_open(pool, true, 0);
            self.apply(pool, Step::FinishCheck { fit: true });
            self.apply(pool, Step::FinishClose(0));
            self.apply(pool, Step::Release { which: 0, poisoned: false });
            match pool.next_job(self.now) {
                Job::Open(opening) => self.opening.push(opening),
                Job::Check(entry) => self.checking = Some(entry),
                Job::Close(entry, reason) => self.closing.push((entry.item, reason)),
                Job::Sleep(until) => {
                    let busy = !self.in_use.is_empty()
                        || !self.closing.is_empty()
                        || !self.own_openings.is_empty()
                        || pool.stats().opening > 0;
                    if busy {
                        continue;
                    }
                    let full =
                        pool.stats().idle >= settings.min_idle && pool.total() >= settings.min_size;
                    if self.line.is_empty() && (full || self.closed || !settings.enabled) {
                        return;
                    }
                    assert_ne!(
                        until,
                        u64::MAX,
                        "something is wanted, and nothing will ever happen"
                    );
                    self.now = until;
                }
                Job::End => return,
            }
        }
        panic!("it does not settle: {:?}", pool.stats());
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(debug_assertions) { 300 } else { 3000 },
        ..ProptestConfig::default()
    })]

    #[test]
    fn agrees_with_the_model(
        settings in any_settings(),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut pool = Pool::new(settings.clone(), 1);
        let mut model = Model::default();
        for step in steps {
            model.apply(&mut pool, step);
            model.agree(&pool, &settings);
        }
        model.settle(&mut pool, &settings);
        model.agree(&pool, &settings);
        prop_assert!(model.line.is_empty());
        // Everybody who ever waited was served or gave up, and only once.
        let mut ended: Vec<u64> = model.served.iter().chain(&model.given_up).copied().collect();
        ended.sort_unstable();
        prop_assert_eq!(ended, (1..=model.next_waiter).collect::<Vec<_>>());
        if !model.closed && settings.enabled {
            prop_assert!(pool.stats().idle >= settings.min_idle);
            prop_assert!(pool.total() >= settings.min_size);
        }
        model.apply(&mut pool, Step::Close);
        model.settle(&mut pool, &settings);
        prop_assert_eq!(pool.total(), 0, "a closed pool that everybody has left is empty");
    }
}
