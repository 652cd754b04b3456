//! The clockwork of the state machine, under a clock that stands still unless it is moved.

use super::{MS, Pool, settings};
use crate::pool::core::{Held, Job, Placed, Taken};
use crate::pool::settings::Settings;
use crate::pool::stats::CloseReason;
use std::time::Duration;

/// Does what the keeper would do now, until it would sleep; until when. Opening brings `next`, and
/// counts it up.
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
    match pool.take(|| 0) {
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
    let Job::Open(opening) = pool.next_job(now) else {
        panic!("after a success there is no pause")
    };
    pool.open_failed(opening, now);
    assert!(
        matches!(pool.next_job(now), Job::Sleep(until) if until <= now + 10 * MS),
        "it begins anew"
    );
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
        assert_eq!(
            pool.disturb(),
            total < 4,
            "the keeper is woken for a replacement, not for nothing"
        );
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
    assert_eq!(
        (pool.stats().idle, pool.stats().closed.idle, until),
        (2, 0, 31 * MS),
        "not too early"
    );
    keep(&mut pool, 31 * MS, &mut next);
    assert_eq!(
        (pool.stats().idle, pool.stats().closed.idle, next),
        (1, 1, 2),
        "one more than is kept ready"
    );
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
    assert_eq!(
        (pool.stats().idle, pool.stats().closed.idle, pool.stats().peak, next),
        (1, 1, 1, 2)
    );
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
    while let Taken::Item(entry) = pool.take(|| 0) {
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
    assert!(matches!(pool.take(|| 0), Taken::Nothing));
    pool.miss();
    assert!(pool.disturb());
    keep(&mut pool, 0, &mut next);
    assert_eq!((pool.stats().idle, next), (1, 1));
}

#[test]
fn a_least_size_counts_those_in_use() {
    let (mut pool, mut next) =
        (Pool::new(Settings { min_idle: 0, min_size: 2, ..settings() }, 0), 0);
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
    let Taken::Open(opening) = pool.take(|| 0) else { panic!("there is room") };
    let used = pool.opened_by_user(opening, 1, 0, 0);
    assert!(matches!(pool.take(|| 0), Taken::Nothing));
    pool.enqueue(10, false);
    pool.enqueue(11, false);
    assert!(pool.admit(|| 0).is_none(), "there is no room");
    let placed = pool.release(used, None, 0);
    assert!(matches!(placed, Placed::Close(_, CloseReason::Used)));
    assert!(pool.admit(|| 0).is_none(), "one that is being closed takes room");
    pool.closed(CloseReason::Used);
    let Some((10, opening)) = pool.admit(|| 0) else { panic!("the first in line") };
    assert!(matches!(pool.take(|| 0), Taken::Nothing), "nobody jumps the line");
    pool.open_failed(opening, 0);
    assert!(matches!(pool.admit(|| 0), Some((11, _))));
}
