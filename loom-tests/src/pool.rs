//! The pool with its keeper and its threads that open. What the model checker adds to the tests of
//! the state machine is what happens between two locks: an item on its way to a waiter that gives
//! up, a pool that is closed while an item is opened. Time stands still: a deadline has passed, or
//! never will.
//!
//! A lost item or a lost wake is a deadlock: at the end of each model somebody takes all that
//! there may be, and closing waits until all have come back.

use crate::explore;
use loom::thread;
use ringbell::pool::{
    AcquireError, Cancel, CloseReason, Guard, Manager, OpenFailure, Pool, Settings,
};
use ringbell::sync::{Ordering, PlainU64};
use std::sync::Arc;
use std::time::Instant;

const RELAXED: Ordering = Ordering::Relaxed;

/// Opens what its server is now, and counts. The counters are not modelled.
#[derive(Default)]
struct Shop {
    server: PlainU64,
    open: PlainU64,
    most: PlainU64,
    opened: PlainU64,
    gone: PlainU64,
}

#[derive(Debug)]
struct Gone;

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("gone for ever")
    }
}

impl std::error::Error for Gone {}

struct Clerk(Arc<Shop>);

impl Manager for Clerk {
    type Item = u64;
    type Error = Gone;

    fn open(&self) -> Result<u64, Gone> {
        if self.0.gone.load(RELAXED) != 0 {
            return Err(Gone);
        }
        self.0.opened.fetch_add(1, RELAXED);
        let open = self.0.open.fetch_add(1, RELAXED) + 1;
        self.0.most.fetch_max(open, RELAXED);
        let server = self.0.server.load(RELAXED);
        // As long as it takes.
        thread::yield_now();
        Ok(server)
    }

    fn is_permanent(&self, _error: &Gone) -> bool {
        true
    }

    fn generation(&self, item: &u64) -> u64 {
        *item
    }

    fn close(&self, _item: u64, _reason: CloseReason) {
        self.0.open.fetch_sub(1, RELAXED);
    }
}

type Till = Pool<Clerk>;

fn settings(max_size: usize) -> Settings {
    Settings {
        min_idle: 0,
        max_size,
        max_starting: 1,
        idle_timeout: None,
        health_check_interval: None,
        acquire_timeout: None,
        ..Settings::default()
    }
}

fn pool(settings: Settings) -> (Till, Arc<Shop>) {
    let shop = Arc::new(Shop::default());
    (Pool::new(Clerk(shop.clone()), settings).unwrap(), shop)
}

fn take(pool: &Till) -> Guard<Clerk> {
    pool.acquire().map_err(|error| error.to_string()).unwrap()
}

/// All come back, and are closed.
fn end(pool: Till, shop: &Shop, max_size: u64) {
    pool.close(None).unwrap();
    let stats = pool.stats();
    assert_eq!((stats.in_use, stats.waiting, stats.opening), (0, 0, 0));
    assert_eq!(shop.open.load(RELAXED), 0, "closed as often as opened");
    assert!(shop.most.load(RELAXED) <= max_size, "never more than there is room for");
}

/// A returned item goes to the one who waits. Bound 3.
#[test]
fn an_item_is_handed_over() {
    explore(Some(3), || {
        let (pool, shop) = pool(settings(1));
        let held = take(&pool);
        let waiting = thread::spawn({
            let pool = pool.clone();
            move || drop(take(&pool))
        });
        drop(held);
        waiting.join().unwrap();
        assert_eq!(shop.opened.load(RELAXED), 1);
        end(pool, &shop, 1);
    });
}

/// A waiter gives up, since its time is over, when an item may just have been handed to it. The one
/// behind it gets the item, whatever happens. Bound 2.
#[test]
fn time_is_over_as_an_item_is_handed_over() {
    explore(Some(2), || {
        let (pool, shop) = pool(settings(1));
        let held = take(&pool);
        let late = thread::spawn({
            let pool = pool.clone();
            move || match pool.acquire_deadline(Some(Instant::now())) {
                Ok(_) | Err(AcquireError::TimedOut { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        });
        let patient = thread::spawn({
            let pool = pool.clone();
            move || drop(take(&pool))
        });
        drop(held);
        late.join().unwrap();
        patient.join().unwrap();
        drop(take(&pool));
        end(pool, &shop, 1);
    });
}

/// A waiter is cancelled when an item may just have been handed to it. The item goes back. Bound 2.
#[test]
fn cancelled_as_an_item_is_handed_over() {
    explore(Some(2), || {
        let (pool, shop) = pool(settings(1));
        let held = take(&pool);
        let cancel = Cancel::new();
        let waiting = thread::spawn({
            let (pool, cancel) = (pool.clone(), cancel.clone());
            move || match pool.acquire_cancellable(None, &cancel) {
                Ok(_) | Err(AcquireError::Cancelled) => {}
                Err(error) => panic!("{error}"),
            }
        });
        let returning = thread::spawn(move || drop(held));
        cancel.cancel();
        waiting.join().unwrap();
        returning.join().unwrap();
        drop(take(&pool));
        end(pool, &shop, 1);
    });
}

/// A wait ends when it is cancelled, also if that came first, though nothing comes back. Bound 3.
#[test]
fn cancelled_as_nothing_comes_back() {
    explore(Some(3), || {
        let (pool, shop) = pool(settings(1));
        let held = take(&pool);
        let cancel = Cancel::new();
        let waiting = thread::spawn({
            let (pool, cancel) = (pool.clone(), cancel.clone());
            move || pool.acquire_cancellable(None, &cancel).map(drop)
        });
        cancel.cancel();
        assert!(matches!(waiting.join().unwrap(), Err(AcquireError::Cancelled)));
        drop(held);
        end(pool, &shop, 1);
    });
}

/// A waiter is cancelled when an item may just have been handed to it. One who waits behind it gets
/// the item. Bound 2.
#[test]
fn what_a_cancelled_one_was_handed_goes_to_the_next() {
    explore(Some(2), || {
        let (pool, shop) = pool(settings(1));
        let held = take(&pool);
        let cancel = Cancel::new();
        let waiting = thread::spawn({
            let (pool, cancel) = (pool.clone(), cancel.clone());
            move || drop(pool.acquire_cancellable(None, &cancel))
        });
        let patient = thread::spawn({
            let pool = pool.clone();
            move || drop(take(&pool))
        });
        drop(held);
        cancel.cancel();
        waiting.join().unwrap();
        patient.join().unwrap();
        end(pool, &shop, 1);
    });
}

/// Where nothing is kept the right to open is handed over, also by one who is cancelled. Bound 3.
#[test]
fn a_right_to_open_is_handed_over() {
    explore(Some(3), || {
        let (pool, shop) = pool(Settings { enabled: false, ..settings(1) });
        let held = take(&pool);
        let cancel = Cancel::new();
        let waiting = thread::spawn({
            let (pool, cancel) = (pool.clone(), cancel.clone());
            move || drop(pool.acquire_cancellable(None, &cancel))
        });
        let returning = thread::spawn(move || drop(held));
        cancel.cancel();
        waiting.join().unwrap();
        returning.join().unwrap();
        drop(take(&pool));
        end(pool, &shop, 1);
    });
}

/// Where nothing is kept, who waits may open when the item before is closed. Bound 3.
#[test]
fn a_right_to_open_is_waited_for() {
    explore(Some(3), || {
        let (pool, shop) = pool(Settings { enabled: false, ..settings(1) });
        let held = take(&pool);
        let waiting = thread::spawn({
            let pool = pool.clone();
            move || drop(take(&pool))
        });
        drop(held);
        waiting.join().unwrap();
        end(pool, &shop, 1);
    });
}

/// The pool is closed while the keeper opens, or before it does. Bound 3.
#[test]
fn closed_as_the_keeper_opens() {
    explore(Some(3), || {
        let (pool, shop) = pool(Settings { min_idle: 1, ..settings(1) });
        end(pool, &shop, 1);
    });
}

/// The pool is closed while somebody waits for what the keeper opens. Bound 3.
#[test]
fn closed_as_somebody_acquires() {
    explore(Some(3), || {
        let (pool, shop) = pool(settings(1));
        let acquiring = thread::spawn({
            let pool = pool.clone();
            move || match pool.acquire() {
                Ok(_) | Err(AcquireError::Closed) => {}
                Err(error) => panic!("{error}"),
            }
        });
        end(pool.clone(), &shop, 1);
        acquiring.join().unwrap();
        assert!(matches!(pool.acquire(), Err(AcquireError::Closed)));
    });
}

/// The pool is closed while one is in use and somebody waits for it. Bound 2.
#[test]
fn closed_as_an_item_is_handed_over() {
    explore(Some(2), || {
        let (pool, shop) = pool(settings(1));
        let held = take(&pool);
        let waiting = thread::spawn({
            let pool = pool.clone();
            move || match pool.acquire() {
                Ok(_) | Err(AcquireError::Closed) => {}
                Err(error) => panic!("{error}"),
            }
        });
        let returning = thread::spawn(move || drop(held));
        end(pool, &shop, 1);
        waiting.join().unwrap();
        returning.join().unwrap();
    });
}

/// Two callers at a cold pool: the keeper has both items opened, by threads of their own. Bound 1.
#[test]
fn two_are_opened_side_by_side() {
    explore(Some(1), || {
        let (pool, shop) = pool(Settings { max_starting: 2, ..settings(2) });
        let other = thread::spawn({
            let pool = pool.clone();
            move || take(&pool)
        });
        let both = (take(&pool), other.join().unwrap());
        assert_eq!(shop.opened.load(RELAXED), 2);
        drop(both);
        end(pool, &shop, 2);
    });
}

/// The pool is closed while a thread opens for it, takes what the keeper hands it, or rests.
/// Bound 3.
#[test]
fn closed_as_another_thread_opens() {
    explore(Some(3), || {
        let (pool, shop) = pool(Settings { max_starting: 2, min_idle: 1, ..settings(1) });
        end(pool, &shop, 1);
    });
}

/// A thread that has opened an item rests, and is handed the next one. Bound 2.
#[test]
fn one_that_rests_opens_the_next() {
    explore(Some(2), || {
        let (pool, shop) = pool(Settings { max_starting: 2, ..settings(1) });
        for opened in 1..=2 {
            take(&pool).poison();
            assert_eq!(shop.opened.load(RELAXED), opened);
        }
        end(pool, &shop, 1);
    });
}

/// An error that no other attempt can mend reaches those who wait, whenever they came. Bound 3.
#[test]
fn a_permanent_failure_ends_the_wait() {
    explore(Some(3), || {
        let (pool, shop) = pool(settings(1));
        shop.gone.fetch_add(1, RELAXED);
        let ended = pool.acquire().map(drop);
        assert!(matches!(ended, Err(AcquireError::Open(OpenFailure::Error(_)))));
        end(pool, &shop, 1);
    });
}

/// The server is started anew, and one of its users says so, while an item is being opened or comes
/// back: who asks from then on gets none of the old ones. Bound 2.
#[test]
fn none_of_before_a_flush_is_handed_out() {
    explore(Some(2), || {
        let (pool, shop) = pool(settings(2));
        let user = thread::spawn({
            let pool = pool.clone();
            move || drop(take(&pool))
        });
        thread::yield_now();
        shop.server.fetch_add(1, RELAXED);
        pool.flush();
        assert_eq!(*take(&pool), 1, "one that was opened since");
        user.join().unwrap();
        end(pool, &shop, 2);
    });
}
