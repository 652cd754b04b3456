//! The pool with its thread, its lock and its waiters.

mod side_by_side;

use super::*;
use crate::base::sync::{Ordering, PlainBool, PlainU64};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

/// Opens numbers, and knows of each whether it is open.
#[derive(Default)]
struct Numbers {
    opened: PlainU64,
    open: PlainU64,
    most_open: PlainU64,
    attempts: PlainU64,
    failing: PlainBool,
    hopeless: PlainBool,
    panicking: PlainBool,
    unfit: PlainBool,
    unready: PlainBool,
    unclean: PlainBool,
    closing_panics: PlainBool,
    /// Each opening waits for a word, if there is one to wait for.
    gate: Mutex<Option<Receiver<()>>>,
    closed: Mutex<Vec<CloseReason>>,
}

#[derive(Debug, PartialEq, Eq)]
struct NoNumber;

impl std::fmt::Display for NoNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("there is no number")
    }
}

impl std::error::Error for NoNumber {}

fn is(flag: &PlainBool) -> bool {
    flag.load(Ordering::Relaxed)
}

/// Ends the thread's work here, without a message of the panic hook.
fn panic_quietly() -> ! {
    std::panic::resume_unwind(Box::new("meant"))
}

impl Manager for Arc<Numbers> {
    type Item = u64;
    type Error = NoNumber;

    fn open(&self) -> Result<u64, NoNumber> {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        // From here on it may take room.
        let open = self.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_open.fetch_max(open, Ordering::SeqCst);
        if let Some(gate) = &*lock(&self.gate) {
            let _ = gate.recv();
        }
        if is(&self.failing) {
            self.open.fetch_sub(1, Ordering::SeqCst);
            return Err(NoNumber);
        }
        if is(&self.panicking) {
            self.open.fetch_sub(1, Ordering::SeqCst);
            panic_quietly();
        }
        Ok(self.opened.fetch_add(1, Ordering::Relaxed))
    }

    fn is_permanent(&self, _error: &NoNumber) -> bool {
        is(&self.hopeless)
    }

    fn is_ready(&self, _item: &mut u64, _idle: Idle) -> bool {
        !self.unready.swap(false, Ordering::Relaxed)
    }

    fn is_clean(&self, _item: &mut u64) -> bool {
        if is(&self.panicking) {
            panic_quietly();
        }
        !is(&self.unclean)
    }

    fn check(&self, _item: &mut u64) -> bool {
        if is(&self.panicking) {
            panic_quietly();
        }
        !self.unfit.swap(false, Ordering::Relaxed)
    }

    fn close(&self, _item: u64, reason: CloseReason) {
        lock(&self.closed).push(reason);
        self.open.fetch_sub(1, Ordering::SeqCst);
        if is(&self.closing_panics) {
            panic_quietly();
        }
    }
}

type Numbered = Pool<Arc<Numbers>>;

fn settings(min_idle: usize, max_size: usize) -> Settings {
    Settings {
        min_idle,
        max_size,
        acquire_timeout: Some(Duration::from_secs(60)),
        ..Settings::default()
    }
}

fn pool(settings: Settings) -> (Numbered, Arc<Numbers>) {
    let numbers = Arc::new(Numbers::default());
    (Pool::new(numbers.clone(), settings).expect("settings that make sense"), numbers)
}

/// Every opening of the pool waits for a word from the sender.
fn gated(settings: Settings) -> (Numbered, Arc<Numbers>, Sender<()>) {
    let numbers = Arc::new(Numbers::default());
    let (sender, receiver) = channel();
    *lock(&numbers.gate) = Some(receiver);
    (Pool::new(numbers.clone(), settings).expect("settings that make sense"), numbers, sender)
}

#[track_caller]
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < until, "waited in vain until {what}");
        thread::sleep(Duration::from_micros(200));
    }
}

#[test]
fn it_is_filled_and_replenished() {
    let (pool, numbers) = pool(settings(3, 8));
    wait_until("three are ready", || pool.stats().idle == 3);
    let first = pool.acquire().expect("one is ready");
    wait_until("it has a replacement", || pool.stats().idle == 3);
    assert_eq!((pool.stats().in_use, pool.stats().opened), (1, 4));
    drop(first);
    assert_eq!(pool.stats().idle, 4);
    assert_eq!(pool.stats().waits, 0);
    drop(pool);
    assert_eq!(numbers.open.load(Ordering::SeqCst), 0);
    assert_eq!(*lock(&numbers.closed), [CloseReason::Shutdown; 4]);
}

#[test]
fn what_was_used_last_is_taken_first() {
    let (pool, _) = pool(settings(0, 8));
    let held: Vec<_> = (0..4).map(|_| pool.acquire().expect("room")).collect();
    let order: Vec<u64> = held.iter().map(|guard| **guard).collect();
    held.into_iter().for_each(drop);
    let again: Vec<_> = (0..4).map(|_| pool.acquire().expect("ready")).collect();
    let reversed: Vec<u64> = again.iter().rev().map(|guard| **guard).collect();
    assert_eq!(reversed, order);
}

#[test]
fn the_cap_holds_under_a_thousand_threads() {
    let (pool, numbers) = pool(Settings { acquire_timeout: None, ..settings(2, 7) });
    thread::scope(|scope| {
        for number in 0_u64..1000 {
            let pool = &pool;
            let started =
                thread::Builder::new().stack_size(128 << 10).spawn_scoped(scope, move || {
                    for round in 0..5 {
                        let mut guard = pool.acquire().expect("no deadline");
                        // Any hold from none to some hundred microseconds, and now and then a
                        // poisoned one.
                        let random = (number * 5 + round).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
                        for _ in 0..random % 20_000 {
                            std::hint::spin_loop();
                        }
                        if random % 16 == 0 {
                            guard.poison();
                        }
                    }
                });
            started.expect("a thread");
        }
    });
    let stats = pool.stats();
    assert_eq!((stats.in_use, stats.waiting, stats.acquired), (0, 0, 5000));
    assert!(stats.peak <= 7 && numbers.most_open.load(Ordering::SeqCst) <= 7, "{stats:?}");
    assert!(stats.closed.poisoned > 0);
    assert_eq!(stats.waits, stats.wait_times.count());
    pool.close(None).expect("nobody holds anything");
    assert_eq!(numbers.open.load(Ordering::SeqCst), 0);
}

#[test]
fn waiters_are_served_in_order() {
    let (pool, _) = pool(settings(1, 1));
    let held = pool.acquire().expect("the only one");
    let served = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for number in 0..20 {
            let (pool, served) = (&pool, &served);
            scope.spawn(move || {
                let _guard = pool.acquire().expect("in time");
                lock(served).push(number);
            });
            wait_until("it stands in line", || pool.stats().waiting == number + 1);
        }
        drop(held);
    });
    assert_eq!(*lock(&served), (0..20).collect::<Vec<_>>());
}

/// Waiters that time out or are cancelled at any moment neither lose an item nor a wake of others.
#[test]
fn waiters_that_give_up_take_nothing_with_them() {
    let (pool, numbers) = pool(Settings { acquire_timeout: None, ..settings(1, 2) });
    let got = PlainU64::new(0);
    let gave_up = PlainU64::new(0);
    thread::scope(|scope| {
        for number in 0_u64..16 {
            let (pool, got, gave_up) = (&pool, &got, &gave_up);
            scope.spawn(move || {
                for round in 0..300 {
                    let random = (number * 300 + round).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
                    let cancel = Cancel::new();
                    let result = match random % 3 {
                        0 => pool.acquire(),
                        1 => {
                            let soon = Instant::now() + Duration::from_micros(random % 200);
                            pool.acquire_deadline(Some(soon))
                        }
                        _ => thread::scope(|inner| {
                            let cancelling = inner.spawn(|| {
                                for _ in 0..random % 3000 {
                                    std::hint::spin_loop();
                                }
                                cancel.cancel();
                            });
                            let result = pool.acquire_cancellable(None, &cancel);
                            cancelling.join().expect("no panic");
                            result
                        }),
                    };
                    match result {
                        Ok(_guard) => got.fetch_add(1, Ordering::Relaxed),
                        Err(AcquireError::TimedOut { .. } | AcquireError::Cancelled) => {
                            gave_up.fetch_add(1, Ordering::Relaxed)
                        }
                        Err(error) => panic!("{error}"),
                    };
                }
            });
        }
    });
    let stats = pool.stats();
    assert_eq!((stats.in_use, stats.waiting), (0, 0));
    assert_eq!(got.load(Ordering::Relaxed) + gave_up.load(Ordering::Relaxed), 16 * 300);
    assert!(gave_up.load(Ordering::Relaxed) > 0, "nobody gave up: {stats:?}");
    assert!(stats.timeouts + stats.cancelled <= gave_up.load(Ordering::Relaxed));
    assert!(numbers.most_open.load(Ordering::SeqCst) <= 2);
    // Nothing was lost: both can still be had.
    let _both = (pool.acquire().expect("one"), pool.acquire().expect("the other"));
}

#[test]
fn a_wait_ends_in_time_or_when_it_is_cancelled() {
    let (pool, _) = pool(settings(1, 1));
    wait_until("it is ready", || pool.stats().idle == 1);
    let held = pool.acquire().expect("the only one");
    let deadline = Some(Instant::now() + Duration::from_millis(5));
    assert!(matches!(pool.acquire_deadline(deadline), Err(AcquireError::TimedOut { .. })));
    assert!(matches!(pool.try_acquire(), Ok(None)));
    let cancel = Cancel::new();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.acquire_cancellable(None, &cancel).map(drop));
        wait_until("it waits", || pool.stats().waiting == 1);
        cancel.clone().cancel();
        assert!(matches!(waiting.join().expect("no panic"), Err(AcquireError::Cancelled)));
    });
    assert!(
        matches!(pool.acquire_cancellable(None, &cancel), Err(AcquireError::Cancelled)),
        "for good"
    );
    let stats = pool.stats();
    assert_eq!((stats.timeouts, stats.cancelled, stats.waiting, stats.waits), (1, 1, 0, 2));
    drop(held);
    assert!(pool.try_acquire().expect("open").is_some());
}

#[test]
fn who_never_waits_finds_something_the_next_time() {
    let patience = Settings { acquire_timeout: Some(Duration::ZERO), ..settings(0, 4) };
    // The gate keeps the opening from ending before the first caller has given up.
    let (pool, _numbers, gate) = gated(patience);
    assert!(matches!(pool.acquire(), Err(AcquireError::TimedOut { .. })), "nothing is kept ready");
    gate.send(()).expect("it listens");
    wait_until("one is opened all the same", || pool.acquire().is_ok());
}

#[test]
fn poisoned_items_are_never_used_again() {
    let (pool, numbers) = pool(settings(0, 4));
    let mut guard = pool.acquire().expect("room");
    let first = *guard;
    guard.poison();
    assert!(guard.is_poisoned());
    drop(guard);
    let second = pool.acquire().expect("room");
    assert_ne!(*second, first);
    // By a panic of its user.
    let panicked = thread::scope(|scope| {
        scope
            .spawn(|| {
                let _guard = second;
                panic_quietly();
            })
            .join()
            .is_err()
    });
    assert!(panicked);
    // Because the manager does not find it clean.
    numbers.unclean.store(true, Ordering::Relaxed);
    drop(pool.acquire().expect("room"));
    assert_eq!(*lock(&numbers.closed), [CloseReason::Poisoned; 3]);
    assert_eq!((pool.stats().idle, pool.stats().closed.poisoned), (0, 3));
}

#[test]
fn an_item_that_is_not_ready_after_all_is_replaced() {
    let (pool, numbers) = pool(settings(2, 4));
    wait_until("two are ready", || pool.stats().idle == 2);
    numbers.unready.store(true, Ordering::Relaxed);
    let guard = pool.acquire().expect("the other one");
    assert_ne!(*guard, 1, "the last one was closed");
    assert_eq!(*lock(&numbers.closed), [CloseReason::Unhealthy]);
}

#[test]
fn ready_items_are_checked_and_expire() {
    let short = Some(Duration::from_millis(1));
    let (pool, numbers) = pool(Settings { health_check_interval: short, ..settings(1, 4) });
    wait_until("one is ready", || pool.stats().idle == 1);
    numbers.unfit.store(true, Ordering::Relaxed);
    wait_until("an unhealthy one is replaced", || {
        pool.stats().closed.unhealthy == 1 && pool.stats().idle == 1
    });
    drop(pool);
    let (pool, _) = self::pool(Settings { idle_timeout: short, ..settings(1, 4) });
    wait_until("idle ones are replaced", || {
        pool.stats().closed.idle >= 3 && pool.stats().idle >= 1
    });
    drop(pool);
    let (pool, _) = self::pool(Settings { max_lifetime: short, ..settings(1, 4) });
    wait_until("old ones are replaced", || {
        pool.stats().closed.lifetime >= 3 && pool.stats().idle >= 1
    });
}

#[test]
fn those_who_wait_survive_failures_and_learn_their_cause() {
    let (pool, numbers) = pool(settings(1, 4));
    wait_until("one is ready", || pool.stats().idle == 1);
    numbers.failing.store(true, Ordering::Relaxed);
    let _held = pool.acquire().expect("the ready one");
    wait_until("an attempt failed", || pool.stats().open_failures > 0);
    let soon = Some(Instant::now() + Duration::from_millis(5));
    let error = pool.acquire_deadline(soon).expect_err("there is none");
    assert!(error.to_string().ends_with(": there is no number"), "{error}");
    assert!(std::error::Error::source(&error).is_some());
    thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.acquire().map(|guard| *guard));
        wait_until("it waits", || pool.stats().waiting == 1);
        numbers.failing.store(false, Ordering::Relaxed);
        assert_eq!(waiting.join().expect("no panic").expect("when it works again"), 1);
    });
}

#[test]
fn a_permanent_failure_reaches_all_who_wait_at_once() {
    let (pool, numbers, gate) = gated(settings(0, 4));
    numbers.failing.store(true, Ordering::Relaxed);
    numbers.hopeless.store(true, Ordering::Relaxed);
    thread::scope(|scope| {
        let waiting: Vec<_> =
            (0..3).map(|_| scope.spawn(|| pool.acquire_deadline(None).map(drop))).collect();
        wait_until("they wait", || pool.stats().waiting == 3);
        gate.send(()).expect("it listens");
        for waiting in waiting {
            let error = waiting.join().expect("no panic").expect_err("there is none");
            assert!(
                matches!(error, AcquireError::Open(OpenFailure::Error(error)) if *error == NoNumber)
            );
        }
    });
    drop(gate);
}

#[test]
fn panics_of_the_manager_stay_with_their_item() {
    let (pool, numbers) = pool(settings(1, 4));
    wait_until("one is ready", || pool.stats().idle == 1);
    numbers.panicking.store(true, Ordering::Relaxed);
    drop(pool.acquire().expect("the ready one"));
    wait_until("opening panicked", || pool.stats().open_failures > 0);
    assert_eq!(pool.stats().closed.poisoned, 1, "its cleanness could not be found out");
    let soon = Some(Instant::now() + Duration::from_millis(5));
    let Err(AcquireError::TimedOut { cause }) = pool.acquire_deadline(soon) else {
        panic!("none can be opened")
    };
    let failure = cause.failure.expect("an attempt failed").failure;
    assert!(matches!(failure, OpenFailure::Panicked));
    numbers.panicking.store(false, Ordering::Relaxed);
    numbers.closing_panics.store(true, Ordering::Relaxed);
    pool.acquire().expect("it goes on").poison();
    wait_until("there is a new one", || pool.stats().idle == 1);
    pool.close(None).expect("empty");
    assert_eq!(numbers.open.load(Ordering::SeqCst), 0);
}

#[test]
fn a_flush_closes_what_is_ready_and_what_comes_back() {
    let (pool, numbers) = pool(settings(2, 8));
    wait_until("two are ready", || pool.stats().idle == 2);
    let (mut one, two) = (pool.acquire().expect("ready"), pool.acquire().expect("ready"));
    wait_until("they have replacements", || pool.stats().idle == 2);
    one.flush();
    drop((one, two));
    wait_until("there are fresh ones", || pool.stats().idle == 2 && pool.stats().closing == 0);
    assert_eq!((pool.stats().closed.stale, pool.stats().closed.poisoned), (3, 1));
    assert!(*pool.acquire().expect("ready") >= 4);
    pool.flush();
    wait_until("these are stale too", || pool.stats().closed.stale >= 5 && pool.stats().idle == 2);
    assert!(numbers.most_open.load(Ordering::SeqCst) <= 8);
}

#[test]
fn close_drains() {
    let (pool, numbers) = pool(settings(2, 2));
    wait_until("two are ready", || pool.stats().idle == 2);
    let held = pool.acquire().expect("ready");
    let other = pool.acquire().expect("ready");
    thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.acquire().map(drop));
        wait_until("it waits", || pool.stats().waiting == 1);
        assert_eq!(pool.close(Some(Duration::ZERO)), Err(NotDrained { in_use: 2, others: 0 }));
        assert!(matches!(waiting.join().expect("no panic"), Err(AcquireError::Closed)));
    });
    assert!(matches!(pool.acquire(), Err(AcquireError::Closed)));
    assert!(matches!(pool.try_acquire(), Err(AcquireError::Closed)));
    drop(other);
    thread::scope(|scope| {
        let closing = scope.spawn(|| pool.close(None));
        drop(held);
        assert_eq!(closing.join().expect("no panic"), Ok(()));
    });
    assert_eq!(numbers.open.load(Ordering::SeqCst), 0);
    assert_eq!(pool.stats().closed.shutdown, 2);
}

#[test]
fn an_item_that_is_opened_while_the_pool_closes_is_closed() {
    let (pool, numbers, gate) = gated(settings(1, 2));
    wait_until("it is being opened", || numbers.attempts.load(Ordering::Relaxed) == 1);
    assert_eq!(pool.close(Some(Duration::ZERO)), Err(NotDrained { in_use: 0, others: 1 }));
    gate.send(()).expect("it listens");
    assert_eq!(pool.close(None), Ok(()));
    assert_eq!(*lock(&numbers.closed), [CloseReason::Shutdown]);
}

/// Items, guards, manager: whatever goes first, the items go before their manager, each once.
#[test]
fn drop_order() {
    struct Tokens(Sender<&'static str>);
    struct Token(Sender<&'static str>);
    impl Drop for Token {
        fn drop(&mut self) {
            let _ = self.0.send("item");
        }
    }
    impl Drop for Tokens {
        fn drop(&mut self) {
            let _ = self.0.send("manager");
        }
    }
    impl Manager for Tokens {
        type Item = Token;
        type Error = NoNumber;
        fn open(&self) -> Result<Token, NoNumber> {
            Ok(Token(self.0.clone()))
        }
    }
    for guard_first in [false, true] {
        let (sender, receiver) = channel();
        let pool = Pool::new(Tokens(sender), settings(1, 2)).expect("a pool");
        let guard = pool.acquire().expect("one");
        wait_until("it has a replacement", || pool.stats().idle == 1);
        if guard_first {
            drop(guard);
            assert!(receiver.try_recv().is_err(), "it is kept");
            drop(pool);
            let heard: Vec<_> = receiver.iter().collect();
            assert_eq!(heard, ["item", "item", "manager"]);
        } else {
            let other = pool.clone();
            drop(pool);
            assert!(receiver.try_recv().is_err(), "there is another clone");
            drop(other);
            assert_eq!(receiver.recv(), Ok("item"), "what is ready goes with the pool");
            assert!(receiver.try_recv().is_err(), "what is in use does not");
            drop(guard);
            let heard: Vec<_> = receiver.iter().collect();
            assert_eq!(heard, ["item", "manager"]);
        }
    }
}

#[test]
fn where_nothing_is_kept_each_use_opens_one() {
    let (pool, numbers) = pool(Settings { enabled: false, ..settings(2, 3) });
    assert_eq!(pool.stats().opened, 0);
    for number in 0..5 {
        assert_eq!(*pool.acquire().expect("room"), number);
    }
    assert_eq!(*lock(&numbers.closed), [CloseReason::Used; 5]);
    // Side by side, and in order where there is no room.
    thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| drop(pool.acquire().expect("in time")));
        }
    });
    assert!(numbers.most_open.load(Ordering::SeqCst) <= 3);
    let held = (0..3).map(|_| pool.try_acquire().expect("open").expect("room")).collect::<Vec<_>>();
    assert!(pool.try_acquire().expect("open").is_none());
    drop(held);
    numbers.failing.store(true, Ordering::Relaxed);
    assert!(matches!(pool.acquire(), Err(AcquireError::Open(OpenFailure::Error(_)))), "at once");
    pool.close(None).expect("empty");
}

#[test]
fn nonsense_is_refused() {
    let numbers = Arc::new(Numbers::default());
    let refused = |settings| match Pool::new(numbers.clone(), settings) {
        Err(BuildError::Settings(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(settings(0, 0)), SettingsError::MaxSizeZero);
    assert_eq!(
        refused(settings(3, 2)),
        SettingsError::MinIdleAboveMaxSize { min_idle: 3, max_size: 2 }
    );
    assert_eq!(
        refused(Settings { max_starting: 0, ..settings(0, 1) }),
        SettingsError::MaxStartingZero
    );
}
