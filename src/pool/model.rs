//! The state machine against a model that is too simple to be wrong, and its clockwork under a clock that stands still
//! unless it is moved.

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
        idle_timeout: None,
        max_lifetime: None,
        health_check_interval: None,
        backoff: Backoff { first: Duration::from_millis(10), longest: Duration::from_millis(200) },
        ..Settings::default()
    }
}

/// Does what the keeper would do now, until it would sleep; until when. Opening brings `next`, and counts it up.
fn keep(pool: &mut Pool, now: u64, next: &mut u64) -> u64 {
    loop {
        match pool.next_job(now) {
            Job::Open(opening) => {
                let placed = pool.opened(opening, *next, 0, now);
                *next += 1;
                close(pool, placed);
            }
            Job::Check(entry) => {
                let placed = pool.checked(entry, true, now);
                close(pool, placed);
            }
            Job::Close(_, reason) => pool.closed(reason),
            Job::Sleep(until) => return until,
            Job::End => return u64::MAX,
        }
    }
}

fn close(pool: &mut Pool, placed: Placed<u64, u64>) -> Option<CloseReason> {
    match placed {
        Placed::Close(_, reason) => {
            pool.closed(reason);
            Some(reason)
        }
        Placed::Kept => None,
        Placed::Handed(..) => panic!("nobody waits"),
    }
}

fn taken(pool: &mut Pool) -> Held<u64> {
    match pool.take() {
        Taken::Item(entry) => entry,
        other => panic!("something is ready, but: {other:?}"),
    }
}

#[test]
fn pauses_grow_while_opening_fails_and_end_with_success() {
    let mut pool = Pool::new(settings(), 7);
    let mut now = 0;
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let Job::Open(opening) = pool.next_job(now) else { panic!("it is time") };
        pool.open_failed(opening, now);
        let Job::Sleep(until) = pool.next_job(now) else { panic!("not at once") };
        pauses.push(until - now);
        // A moment earlier it is still too early, whoever asks.
        assert!(matches!(pool.next_job(until - 1), Job::Sleep(same) if same == until));
        now = until;
    }
    for (pause, most) in pauses.iter().zip([10, 20, 40, 80, 160, 200, 200, 200]) {
        assert!((most * MS / 2..=most * MS).contains(pause), "{pauses:?}");
    }
    let Job::Open(opening) = pool.next_job(now) else { panic!("it is time") };
    let placed = pool.opened(opening, 1, 0, now);
    assert!(matches!(placed, Placed::Kept));
    let _held = taken(&mut pool);
    let Job::Open(opening) = pool.next_job(now) else { panic!("after a success there is no pause") };
    pool.open_failed(opening, now);
    assert!(matches!(pool.next_job(now), Job::Sleep(until) if until <= now + 10 * MS), "it begins anew");
}

#[test]
fn one_is_opened_at_a_time() {
    let mut pool = Pool::new(Settings { min_idle: 3, ..settings() }, 0);
    let Job::Open(opening) = pool.next_job(0) else { panic!("it is empty") };
    assert!(matches!(pool.next_job(0), Job::Sleep(_)), "while one is being opened no other is");
    pool.opened(opening, 0, 0, 0);
    assert!(matches!(pool.next_job(0), Job::Open(_)));
}

#[test]
fn what_is_taken_out_is_replaced_as_long_as_there_is_room() {
    let (mut pool, mut next) = (Pool::new(settings(), 0), 0);
    let mut held = Vec::new();
    for total in 1..=4 {
        keep(&mut pool, 0, &mut next);
        assert_eq!((pool.stats().idle, pool.total()), (1, total));
        held.push(taken(&mut pool));
        assert_eq!(pool.disturb(), total < 4, "the keeper is woken for a replacement, not for nothing");
        assert!(!pool.disturb(), "and once");
    }
    keep(&mut pool, 0, &mut next);
    assert_eq!((pool.stats().idle, pool.total(), pool.stats().peak), (0, 4, 4));
}

#[test]
fn the_last_used_is_taken_first() {
    let (mut pool, mut next) = (Pool::new(Settings { min_idle: 3, ..settings() }, 0), 0);
    keep(&mut pool, 0, &mut next);
    let first = taken(&mut pool);
    let second = taken(&mut pool);
    let (name, _) = (first.item, second.item);
    pool.release(second, None, 1);
    pool.release(first, None, 2);
    assert_eq!(taken(&mut pool).item, name);
}

#[test]
fn what_is_not_used_is_closed_and_replaced() {
    let idle_timeout = Some(Duration::from_millis(30));
    let (mut pool, mut next) = (Pool::new(Settings { idle_timeout, ..settings() }, 0), 0);
    let until = keep(&mut pool, 0, &mut next);
    let (one, two) = (taken(&mut pool), taken_after(&mut pool, &mut next));
    pool.release(one, None, MS);
    pool.release(two, None, 2 * MS);
    assert_eq!((pool.stats().idle, until), (2, 30 * MS));
    let until = keep(&mut pool, 31 * MS - 1, &mut next);
    assert_eq!((pool.stats().idle, pool.stats().closed.idle, until), (2, 0, 31 * MS), "not too early");
    keep(&mut pool, 31 * MS, &mut next);
    assert_eq!((pool.stats().idle, pool.stats().closed.idle, next), (1, 1, 2), "one more than is kept ready");
    // The other one is the last.
    let Job::Open(opening) = pool.next_job(32 * MS) else { panic!("its replacement comes first") };
    assert!(matches!(pool.opened(opening, next, 0, 32 * MS), Placed::Kept));
    assert_eq!(pool.stats().idle, 2);
    assert!(matches!(pool.next_job(32 * MS), Job::Close(_, CloseReason::Idle)));
    assert_eq!(taken(&mut pool).item, 2);

    fn taken_after(pool: &mut Pool, next: &mut u64) -> Held<u64> {
        keep(pool, 0, next);
        taken(pool)
    }
}

#[test]
fn without_room_for_its_replacement_an_expired_one_goes_first() {
    let idle_timeout = Some(Duration::from_millis(30));
    let settings = Settings { min_idle: 1, max_size: 1, idle_timeout, ..settings() };
    let (mut pool, mut next) = (Pool::new(settings, 0), 0);
    keep(&mut pool, 0, &mut next);
    keep(&mut pool, 30 * MS, &mut next);
    assert_eq!((pool.stats().idle, pool.stats().closed.idle, pool.stats().peak, next), (1, 1, 1, 2));
}

#[test]
fn nothing_lives_too_long() {
    let max_lifetime = Some(Duration::from_millis(50));
    let (mut pool, mut next) = (Pool::new(Settings { max_lifetime, ..settings() }, 0), 0);
    keep(&mut pool, 0, &mut next);
    let used = taken(&mut pool);
    keep(&mut pool, 1, &mut next);
    let placed = pool.release(used, None, 50 * MS);
    assert_eq!(close(&mut pool, placed), Some(CloseReason::Lifetime), "in use: when it comes back");
    keep(&mut pool, 60 * MS, &mut next);
    assert_eq!((pool.stats().closed.lifetime, pool.stats().idle), (2, 1), "ready: when it is time");
}

#[test]
fn ready_items_are_looked_at_and_those_that_fail_replaced() {
    let health_check_interval = Some(Duration::from_millis(5));
    let settings = Settings { min_idle: 2, health_check_interval, ..settings() };
    let (mut pool, mut next) = (Pool::new(settings, 0), 0);
    keep(&mut pool, 0, &mut next);
    assert!(matches!(pool.next_job(5 * MS - 1), Job::Sleep(until) if until == 5 * MS));
    let Job::Check(entry) = pool.next_job(5 * MS) else { panic!("it is time") };
    let failed = entry.item;
    let placed = pool.checked(entry, false, 5 * MS);
    assert_eq!(close(&mut pool, placed), Some(CloseReason::Unhealthy));
    keep(&mut pool, 5 * MS, &mut next);
    assert_eq!((pool.stats().idle, next), (2, 3));
    while let Taken::Item(entry) = pool.take() {
        assert_ne!(entry.item, failed);
    }
}

#[test]
fn a_look_does_not_make_an_item_young() {
    let settings = Settings {
        min_idle: 2,
        health_check_interval: Some(Duration::from_millis(7)),
        idle_timeout: Some(Duration::from_millis(30)),
        ..settings()
    };
    let (mut pool, mut next) = (Pool::new(settings, 0), 0);
    keep(&mut pool, 0, &mut next);
    for now in 1..30 {
        keep(&mut pool, now * MS, &mut next);
    }
    assert_eq!(pool.stats().closed.total(), 0);
    keep(&mut pool, 30 * MS, &mut next);
    assert_eq!((pool.stats().closed.idle, pool.stats().idle), (2, 2));
}

#[test]
fn a_restart_makes_all_stale_once() {
    let (mut pool, mut next) = (Pool::new(Settings { min_idle: 2, ..settings() }, 0), 0);
    keep(&mut pool, 0, &mut next);
    let (one, two) = (taken(&mut pool), taken(&mut pool));
    keep(&mut pool, 0, &mut next);
    pool.flush(one.epoch());
    assert_eq!(pool.stats().idle, 0, "none that is stale is handed out");
    keep(&mut pool, 0, &mut next);
    let opened = next;
    pool.flush(two.epoch());
    assert_eq!(pool.stats().idle, 2, "those that were opened since are fresh");
    for stale in [one, two] {
        let placed = pool.release(stale, None, 0);
        assert_eq!(close(&mut pool, placed), Some(CloseReason::Stale));
    }
    keep(&mut pool, 0, &mut next);
    assert_eq!((pool.stats().closed.stale, next), (4, opened));
}

#[test]
fn an_item_that_leads_elsewhere_makes_those_before_it_stale() {
    let mut pool = Pool::new(Settings { min_idle: 2, ..settings() }, 0);
    let open = |pool: &mut Pool, item, generation| {
        let Job::Open(opening) = pool.next_job(0) else { panic!("too few are ready") };
        assert!(matches!(pool.opened(opening, item, generation, 0), Placed::Kept));
    };
    open(&mut pool, 1, 100);
    open(&mut pool, 2, 200);
    assert!(matches!(pool.next_job(0), Job::Close(entry, CloseReason::Stale) if entry.item == 1));
    assert_eq!(taken(&mut pool).item, 2);
}

#[test]
fn what_was_being_opened_during_a_restart_is_judged_by_where_it_leads() {
    for (generation, kept) in [(100, false), (200, true)] {
        let mut pool = Pool::new(settings(), 0);
        let Job::Open(opening) = pool.next_job(0) else { panic!("it is empty") };
        pool.opened(opening, 1, 100, 0);
        let old = taken(&mut pool);
        let Job::Open(opening) = pool.next_job(0) else { panic!("none is ready") };
        pool.flush(old.epoch());
        let placed = pool.opened(opening, 2, generation, 0);
        assert_eq!(matches!(placed, Placed::Kept), kept);
    }
}

#[test]
fn an_attempt_that_nobody_waited_for_opens_one() {
    let (mut pool, mut next) = (Pool::new(Settings { min_idle: 0, ..settings() }, 0), 0);
    assert_eq!(keep(&mut pool, 0, &mut next), u64::MAX);
    assert!(matches!(pool.take(), Taken::Nothing));
    pool.miss();
    assert!(pool.disturb());
    keep(&mut pool, 0, &mut next);
    assert_eq!((pool.stats().idle, next), (1, 1));
}

#[test]
fn a_least_size_counts_those_in_use() {
    let (mut pool, mut next) = (Pool::new(Settings { min_idle: 0, min_size: 2, ..settings() }, 0), 0);
    keep(&mut pool, 0, &mut next);
    assert_eq!(pool.stats().idle, 2);
    let _held = taken(&mut pool);
    keep(&mut pool, 0, &mut next);
    assert_eq!((pool.total(), next), (2, 2));
}

#[test]
fn where_nothing_is_kept_each_opens_its_own_in_order() {
    let mut pool = Pool::new(Settings { enabled: false, max_size: 1, ..settings() }, 0);
    assert!(matches!(pool.next_job(0), Job::Sleep(u64::MAX)), "nothing is opened ahead");
    let Taken::Open(opening) = pool.take() else { panic!("there is room") };
    let used = pool.opened_by_user(opening, 1, 0, 0);
    assert!(matches!(pool.take(), Taken::Nothing));
    pool.enqueue(10, false);
    pool.enqueue(11, false);
    assert!(pool.admit().is_none(), "there is no room");
    let placed = pool.release(used, None, 0);
    assert!(matches!(placed, Placed::Close(_, CloseReason::Used)));
    assert!(pool.admit().is_none(), "one that is being closed takes room");
    pool.closed(CloseReason::Used);
    let Some((10, opening)) = pool.admit() else { panic!("the first in line") };
    assert!(matches!(pool.take(), Taken::Nothing), "nobody jumps the line");
    pool.open_failed(opening, 0);
    assert!(matches!(pool.admit(), Some((11, _))));
}

// ---- against a model ----

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
        12 => (prop::bool::weighted(0.8), 0_u64..2).prop_map(|(well, generation)| Step::Keep { well, generation }),
        8 => (prop::bool::weighted(0.8), prop::bool::weighted(0.1))
            .prop_map(|(well, other)| Step::FinishOpen { well, generation: u64::from(other) }),
        6 => prop::bool::weighted(0.8).prop_map(|fit| Step::FinishCheck { fit }),
        8 => any::<usize>().prop_map(Step::FinishClose),
        4 => (1_u64..40).prop_map(Step::Wait),
        1 => prop::bool::weighted(0.1).prop_map(|close| if close { Step::Close } else { Step::Acquire }),
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
    opening: Option<Opening>,
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

    /// What the driver does whenever it leaves the lock. If the keeper is to be woken it is awake from then on.
    fn leave(&mut self, pool: &mut Pool) {
        let _ = pool.disturb();
        while let Some((waiter, opening)) = pool.admit() {
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
            Step::Acquire => match pool.take() {
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
            Step::Try => match pool.take() {
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
                let placed = pool.release(entry, poisoned.then_some(CloseReason::Poisoned), self.now);
                if let Placed::Kept = placed {
                    assert!(pool.is_due_sooner() || !pool.disturb(), "the keeper is not told of what is due");
                }
                self.place(placed);
            }
            Step::Flush(which) if !self.in_use.is_empty() => {
                pool.flush(self.in_use[which % self.in_use.len()].epoch());
            }
            Step::Keep { well, generation } if self.opening.is_none() && self.checking.is_none() => {
                match pool.next_job(self.now) {
                    Job::Open(opening) => {
                        self.opening = Some(opening);
                        // Often it is quick.
                        if well {
                            self.finish_open(pool, true, generation);
                        }
                    }
                    Job::Check(entry) => self.checking = Some(entry),
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
            Step::Release { .. } | Step::Flush(_) | Step::Keep { .. } | Step::FinishClose(_) => {}
        }
        self.leave(pool);
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
        if let Some(opening) = self.opening.take() {
            if well {
                let item = self.fresh();
                let placed = pool.opened(opening, item, generation, self.now);
                self.place(placed);
            } else {
                pool.open_failed(opening, self.now);
            }
        }
        self.leave(pool);
    }

    fn agree(&self, pool: &Pool, settings: &Settings) {
        let stats = pool.stats();
        let opening = usize::from(self.opening.is_some()) + self.own_openings.len();
        assert_eq!(stats.in_use, self.in_use.len());
        assert_eq!(stats.opening, opening);
        assert_eq!(stats.checking, usize::from(self.checking.is_some()));
        assert_eq!(stats.waiting, self.line.len());
        assert_eq!(stats.opened, self.opened);
        assert_eq!(stats.closed.total(), self.gone.len() as u64);
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

    /// Lets everything that is under way end well, and time pass as the keeper asks: then nobody waits any more.
    fn settle(&mut self, pool: &mut Pool, settings: &Settings) {
        for _ in 0..10_000 {
            self.finish_open(pool, true, 0);
            self.apply(pool, Step::FinishCheck { fit: true });
            self.apply(pool, Step::FinishClose(0));
            self.apply(pool, Step::Release { which: 0, poisoned: false });
            match pool.next_job(self.now) {
                Job::Open(opening) => self.opening = Some(opening),
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
                    let full = pool.stats().idle >= settings.min_idle && pool.total() >= settings.min_size;
                    if self.line.is_empty() && (full || self.closed || !settings.enabled) {
                        return;
                    }
                    assert_ne!(until, u64::MAX, "something is wanted, and nothing will ever happen");
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
    fn agrees_with_the_model(settings in any_settings(), steps in prop::collection::vec(step(), 1..200)) {
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
