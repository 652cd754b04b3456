//! Warm pools whose callers are tasks: on both flavours of runtime, in one line with threads, and dropped at any moment.
//! A wake that is lost hangs the test, and the watchdog says so.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use ringbell::pool::{
    Acquire, AcquireError, Cancel, CloseReason, Guard, Manager, OpenFailure, Pool, Settings,
};
use ringbell::sync::{Ordering, PlainBool, PlainU64};
use ringbell::{ConnectionPool, pool};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::{Chance, mix};
use ringbell_shm_tests::process::{Arguments, Start, say};
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::reactor_server::ask;
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::{done, options, scaled, scaled_for, seed, signals, suite, wait_until};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;

suite! {
    both: [connections_for_tasks],
    tests: [
        tasks_and_threads_stand_in_one_line,
        what_a_dropped_future_was_handed_goes_to_the_next,
        tasks_that_give_up_at_any_moment_take_nothing_with_them,
        waits_of_tasks_end_in_time,
        a_pool_that_closes_ends_the_waits_of_tasks,
        failures_reach_tasks,
        nothing_is_opened_on_the_runtimes_thread,
        a_runtime_that_goes_leaves_no_trace,
        a_forked_child_leaves_the_wait_alone,
        futures_agree_with_a_model,
    ],
    roles: [forking],
}

// ---- things to keep ----

/// Opens numbers, and counts those that are open.
#[derive(Default)]
struct Numbers {
    opened: PlainU64,
    open: PlainU64,
    most_open: PlainU64,
    failing: PlainBool,
    hopeless: PlainBool,
    /// Each opening waits for a word, if there is one to wait for.
    gate: Mutex<Option<Receiver<()>>>,
}

#[derive(Debug, PartialEq, Eq)]
struct NoNumber;

impl std::fmt::Display for NoNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("there is no number")
    }
}

impl std::error::Error for NoNumber {}

#[derive(Clone, Default)]
struct Shop(Arc<Numbers>);

impl Manager for Shop {
    type Item = u64;
    type Error = NoNumber;

    fn open(&self) -> Result<u64, NoNumber> {
        let open = self.0.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most_open.fetch_max(open, Ordering::SeqCst);
        if let Some(gate) = &*self.0.gate.lock().expect("the gate") {
            let _ = gate.recv();
        }
        if self.0.failing.load(Ordering::Relaxed) {
            self.0.open.fetch_sub(1, Ordering::SeqCst);
            return Err(NoNumber);
        }
        Ok(self.0.opened.fetch_add(1, Ordering::Relaxed))
    }

    fn is_permanent(&self, _error: &NoNumber) -> bool {
        self.0.hopeless.load(Ordering::Relaxed)
    }

    fn close(&self, _item: u64, _reason: CloseReason) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Exactly so many are kept, for ever.
fn settings(size: usize) -> Settings {
    Settings {
        min_idle: size,
        max_size: size,
        idle_timeout: None,
        health_check_interval: None,
        acquire_timeout: None,
        ..Settings::default()
    }
}

fn shop(settings: Settings) -> (Pool<Shop>, Shop) {
    let shop = Shop::default();
    let filled = if settings.enabled { settings.min_idle } else { 0 };
    let pool = Pool::new(shop.clone(), settings).expect("settings that make sense");
    wait_until("it is filled", || pool.stats().idle == filled);
    (pool, shop)
}

/// Every opening waits for a word from the sender.
fn gated(settings: Settings) -> (Pool<Shop>, Shop, Sender<()>) {
    let shop = Shop::default();
    let (sender, receiver) = channel();
    *shop.0.gate.lock().expect("the gate") = Some(receiver);
    (Pool::new(shop.clone(), settings).expect("settings that make sense"), shop, sender)
}

fn flavours() -> [Runtime; 2] {
    [
        Builder::new_current_thread().enable_all().build().expect("a runtime"),
        Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime"),
    ]
}

/// Counts how often it is rung.
#[derive(Default)]
struct Bell(PlainU64);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Bell {
    fn rings(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

type Polled = Poll<Result<Guard<Shop>, AcquireError<NoNumber>>>;

fn poll(future: &mut Acquire<Shop>, bell: &Arc<Bell>) -> Polled {
    let waker = Waker::from(bell.clone());
    Pin::new(future).poll(&mut Context::from_waker(&waker))
}

// ---- order, and handing over ----

fn tasks_and_threads_stand_in_one_line() -> Ran {
    let rounds = scaled(20);
    for runtime in flavours() {
        for round in 0..rounds {
            tick();
            let (pool, _) = shop(settings(1));
            let held = pool.acquire().expect("the only one");
            let served = Arc::new(Mutex::new(Vec::new()));
            let mut tasks = Vec::new();
            std::thread::scope(|scope| {
                for number in 0_usize..24 {
                    let (pool, served) = (pool.clone(), served.clone());
                    if mix(round, number as u64).is_multiple_of(2) {
                        scope.spawn({
                            let pool = pool.clone();
                            move || {
                                let _guard = pool.acquire().expect("no deadline");
                                served.lock().expect("sound").push(number);
                            }
                        });
                    } else {
                        tasks.push(runtime.spawn({
                            let pool = pool.clone();
                            async move {
                                let _guard = pool.acquire_async().await.expect("no deadline");
                                served.lock().expect("sound").push(number);
                            }
                        }));
                    }
                    let stands = || pool.stats().waiting == number + 1;
                    runtime.block_on(async {
                        while !stands() {
                            // So that a runtime of one thread polls the others.
                            yield_now().await;
                        }
                    });
                }
                drop(held);
                runtime.block_on(async {
                    for task in tasks {
                        task.await.expect("a task");
                    }
                });
            });
            assert_eq!(*served.lock().expect("sound"), (0..24).collect::<Vec<_>>());
            assert_eq!(pool.stats().wait_times.count(), 24);
        }
    }
    done!("{rounds} lines of 24 on each flavour")
}

fn what_a_dropped_future_was_handed_goes_to_the_next() -> Ran {
    let (pool, _) = shop(settings(1));
    let bells: Vec<Arc<Bell>> = (0..3).map(|_| Arc::default()).collect();
    let held = pool.acquire().expect("the only one");
    let item = *held;
    let mut line: VecDeque<_> = (0..3).map(|_| pool.acquire_async()).collect();
    for (future, bell) in line.iter_mut().zip(&bells) {
        assert!(poll(future, bell).is_pending());
        assert!(poll(future, bell).is_pending(), "a second look changes nothing");
    }
    assert_eq!(pool.stats().waiting, 3);
    // The second leaves the line, the first after it was served.
    drop(line.remove(1));
    assert_eq!((pool.stats().waiting, pool.stats().cancelled), (2, 1));
    drop(held);
    assert_eq!((bells[0].rings(), bells[2].rings()), (1, 0));
    drop(line.pop_front());
    assert_eq!((bells[1].rings(), bells[2].rings()), (0, 1), "who has left is not rung for");
    let Poll::Ready(Ok(guard)) = poll(&mut line[0], &bells[2]) else { panic!("it was handed over") };
    assert_eq!((*guard, pool.stats().in_use, pool.stats().waiting), (item, 1, 0));
    drop(guard);
    // A thread after a task.
    let held = pool.acquire().expect("ready");
    let mut future = pool.acquire_async();
    assert!(poll(&mut future, &bells[0]).is_pending());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.acquire().map(|guard| *guard));
        wait_until("it stands behind", || pool.stats().waiting == 2);
        drop(held);
        drop(future);
        assert_eq!(waiting.join().expect("no panic").expect("passed on"), item);
    });
    // Another task polls than the one before: that one is woken.
    let held = pool.acquire().expect("ready");
    let mut future = pool.acquire_async();
    let (before, after) = (Arc::<Bell>::default(), Arc::<Bell>::default());
    assert!(poll(&mut future, &before).is_pending());
    assert!(poll(&mut future, &after).is_pending());
    drop(held);
    assert_eq!((before.rings(), after.rings()), (0, 1));
    drop(future);
    // One that was never polled, and one that is over, leave nothing behind.
    drop(pool.acquire_async());
    let mut future = pool.acquire_async();
    assert!(poll(&mut future, &before).is_ready());
    drop(future);
    let stats = pool.stats();
    assert_eq!((stats.idle, stats.in_use, stats.waiting, stats.cancelled), (1, 0, 0, 4), "{stats:?}");
    done!("left, served, passed on; to tasks and to threads")
}

/// Polls a future so many times at most, with other tasks between; `None` if it was dropped before its end.
async fn for_so_many_polls<F: Future + Unpin>(mut future: F, polls: u64) -> Option<F::Output> {
    for _ in 0..polls {
        let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut future).poll(cx))).await;
        if let Poll::Ready(output) = polled {
            return Some(output);
        }
        yield_now().await;
    }
    None
}

/// One caller's acquires, each given up in some way or not at all; how many brought something.
async fn fickle(pool: Pool<Shop>, caller: u64, rounds: u64) -> u64 {
    let mut chance = Chance::new(seed() ^ caller);
    let mut got = 0;
    for _ in 0..rounds {
        let random = chance.draw();
        let acquired = match random % 4 {
            0 => Some(pool.acquire_async().await),
            1 => for_so_many_polls(pool.acquire_async(), random / 4 % 12).await,
            2 => {
                let soon = Instant::now() + Duration::from_micros(random / 4 % 300);
                Some(pool.acquire_async_deadline(Some(soon)).await)
            }
            // Dropped by a timer, which may fire just when it is served.
            _ => tokio::time::timeout(Duration::from_micros(random / 4 % 2000), pool.acquire_async())
                .await
                .ok(),
        };
        match acquired {
            Some(Ok(mut guard)) => {
                got += 1;
                for _ in 0..random / 64 % 4 {
                    yield_now().await;
                }
                if random.is_multiple_of(31) {
                    guard.poison();
                }
            }
            None | Some(Err(AcquireError::TimedOut { .. })) => {}
            Some(Err(error)) => panic!("{error}"),
        }
        tick();
    }
    got
}

/// The same by a thread.
fn fickle_thread(pool: &Pool<Shop>, caller: u64, rounds: u64) -> u64 {
    let mut chance = Chance::new(seed() ^ caller);
    let mut got = 0;
    for _ in 0..rounds {
        let random = chance.draw();
        let cancel = Cancel::new();
        let acquired = match random % 3 {
            0 => pool.acquire(),
            1 => pool.acquire_deadline(Some(Instant::now() + Duration::from_micros(random / 4 % 300))),
            _ => std::thread::scope(|scope| {
                scope.spawn(|| {
                    for _ in 0..random / 4 % 3000 {
                        std::hint::spin_loop();
                    }
                    cancel.cancel();
                });
                pool.acquire_cancellable(None, &cancel)
            }),
        };
        match acquired {
            Ok(_guard) => got += 1,
            Err(AcquireError::TimedOut { .. } | AcquireError::Cancelled) => {}
            Err(error) => panic!("{error}"),
        }
    }
    got
}

fn tasks_that_give_up_at_any_moment_take_nothing_with_them() -> Ran {
    let rounds = scaled(400).max(30);
    let mut told = String::new();
    for enabled in [true, false] {
        for runtime in flavours() {
            let (pool, shop) = shop(Settings { enabled, ..settings(3) });
            let got = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4)
                    .map(|caller| {
                        scope.spawn({
                            let pool = &pool;
                            move || fickle_thread(pool, 1000 + caller, rounds)
                        })
                    })
                    .collect();
                let tasks: Vec<_> =
                    (0..40).map(|caller| runtime.spawn(fickle(pool.clone(), caller, rounds))).collect();
                let by_tasks = runtime.block_on(async {
                    let mut got = 0;
                    for task in tasks {
                        got += task.await.expect("a task");
                    }
                    got
                });
                by_tasks + threads.into_iter().map(|thread| thread.join().expect("no panic")).sum::<u64>()
            });
            // What was opened for those who gave up is on its way back.
            wait_until("all came back", || {
                let stats = pool.stats();
                (stats.in_use, stats.opening, stats.closing, stats.waiting) == (0, 0, 0, 0)
            });
            let stats = pool.stats();
            assert!(stats.cancelled > 0 && stats.timeouts > 0, "nobody gave up: {stats:?}");
            assert!(stats.acquired >= got, "{got} got something: {stats:?}");
            assert!(stats.peak <= 3 && shop.0.most_open.load(Ordering::SeqCst) <= 3, "{stats:?}");
            // Nothing was lost: all three can be had at once.
            let all: Vec<_> = (0..3).map(|_| pool.acquire().expect("no deadline")).collect();
            drop(all);
            told += &format!("; {got} got one, {} gave up, {} were late", stats.cancelled, stats.timeouts);
            pool.close(None).expect("nobody holds anything");
            assert_eq!(shop.0.open.load(Ordering::SeqCst), 0);
        }
    }
    done!("40 tasks and 4 threads, {rounds} acquires each, on both flavours, kept and not{told}")
}

// ---- ends of waits ----

fn waits_of_tasks_end_in_time() -> Ran {
    for runtime in flavours() {
        runtime.block_on(async {
            let (pool, _) = shop(Settings { acquire_timeout: Some(Duration::from_millis(5)), ..settings(1) });
            let held = pool.acquire_async().await.expect("the only one");
            let began = Instant::now();
            let late = pool.acquire_async().await.map(drop);
            assert!(matches!(late, Err(AcquireError::TimedOut { cause: None })), "{late:?}");
            assert!(began.elapsed() >= Duration::from_millis(5));
            let soon = Some(Instant::now() + Duration::from_millis(3));
            let late = pool.acquire_async_deadline(soon).await.map(drop);
            assert!(matches!(late, Err(AcquireError::TimedOut { .. })), "{late:?}");
            let stats = pool.stats();
            assert_eq!((stats.timeouts, stats.waits, stats.waiting), (2, 2, 0));
            drop(held);
            drop(pool.acquire_async_deadline(soon).await.expect("one is ready, however late it is"));
        });
    }
    // Without a clock: zero does not wait, and who waits for ever needs none.
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let (pool, _) = shop(Settings { acquire_timeout: Some(Duration::ZERO), ..settings(1) });
        let held = pool.acquire_async().await.expect("the only one");
        assert!(matches!(pool.acquire_async().await, Err(AcquireError::TimedOut { cause: None })));
        let past = Some(Instant::now());
        assert!(matches!(pool.acquire_async_deadline(past).await, Err(AcquireError::TimedOut { .. })));
        let waiting = tokio::spawn({
            let pool = pool.clone();
            async move { pool.acquire_async_deadline(None).await.map(|guard| *guard) }
        });
        while pool.stats().waiting == 0 {
            yield_now().await;
        }
        drop(held);
        waiting.await.expect("no panic").expect("served");
    });
    done!("timeouts and deadlines, zero, none")
}

fn a_pool_that_closes_ends_the_waits_of_tasks() -> Ran {
    for runtime in flavours() {
        let (pool, shop) = shop(settings(2));
        let held = [pool.acquire().expect("ready"), pool.acquire().expect("ready")];
        let tasks: Vec<_> = (0..5)
            .map(|_| {
                let pool = pool.clone();
                runtime.spawn(async move { pool.acquire_async().await.map(drop) })
            })
            .collect();
        runtime.block_on(async {
            while pool.stats().waiting < 5 {
                yield_now().await;
            }
            assert!(pool.close(Some(Duration::ZERO)).is_err(), "two are in use");
            for task in tasks {
                let ended = task.await.expect("no panic");
                assert!(matches!(ended, Err(AcquireError::Closed)), "{ended:?}");
            }
            assert!(matches!(pool.acquire_async().await, Err(AcquireError::Closed)));
        });
        drop(held);
        pool.close(None).expect("all came back");
        assert_eq!(shop.0.open.load(Ordering::SeqCst), 0);
    }
    done!("5 waits, and one that never began")
}

fn failures_reach_tasks() -> Ran {
    for runtime in flavours() {
        let (pool, shop) = shop(settings(1));
        let mut held = pool.acquire().expect("the only one");
        shop.0.failing.store(true, Ordering::Relaxed);
        held.poison();
        drop(held);
        wait_until("an attempt failed", || pool.stats().open_failures > 0);
        runtime.block_on(async {
            let soon = Some(Instant::now() + Duration::from_millis(5));
            let late = pool.acquire_async_deadline(soon).await.map(drop);
            assert!(
                matches!(&late, Err(AcquireError::TimedOut { cause: Some(OpenFailure::Error(error)) }) if **error == NoNumber),
                "{late:?}"
            );
            shop.0.hopeless.store(true, Ordering::Relaxed);
            let ended = pool.acquire_async().await.map(drop);
            assert!(matches!(ended, Err(AcquireError::Open(OpenFailure::Error(_)))), "{ended:?}");
            shop.0.failing.store(false, Ordering::Relaxed);
            pool.acquire_async().await.expect("it works again");
        });
    }
    done!("those that pass, and those that do not")
}

// ---- opening ----

fn nothing_is_opened_on_the_runtimes_thread() -> Ran {
    for enabled in [true, false] {
        for runtime in flavours() {
            let (pool, shop, gate) = gated(Settings { enabled, min_idle: 0, ..settings(2) });
            runtime.block_on(async {
                let acquiring = tokio::spawn({
                    let pool = pool.clone();
                    async move { pool.acquire_async().await.map(|guard| *guard) }
                });
                // With one thread for all, this runs only if that one does not open.
                while pool.stats().opening == 0 {
                    yield_now().await;
                }
                assert!(!acquiring.is_finished());
                gate.send(()).expect("it listens");
                assert_eq!(acquiring.await.expect("no panic").expect("opened"), 0);
                if enabled {
                    return;
                }
                // Given up while it is opened.
                let acquiring = tokio::spawn({
                    let pool = pool.clone();
                    async move { pool.acquire_async().await.map(drop) }
                });
                while pool.stats().opening == 0 {
                    yield_now().await;
                }
                acquiring.abort();
                assert!(acquiring.await.expect_err("aborted").is_cancelled());
                assert_eq!(
                    (pool.stats().opening, pool.stats().cancelled),
                    (1, 1),
                    "it is opened all the same"
                );
                gate.send(()).expect("it listens");
                while shop.0.open.load(Ordering::SeqCst) > 0 || pool.stats().closed.used < 2 {
                    yield_now().await;
                }
            });
            let stats = pool.stats();
            assert_eq!((stats.opening, stats.in_use, stats.waiting), (0, 0, 0), "{stats:?}");
        }
    }
    done!("kept and not, on both flavours")
}

fn a_runtime_that_goes_leaves_no_trace() -> Ran {
    // With waits in the line.
    for runtime in flavours() {
        let (pool, _) = shop(settings(1));
        let held = pool.acquire().expect("the only one");
        for _ in 0..5 {
            let pool = pool.clone();
            runtime.spawn(async move { pool.acquire_async().await.map(drop) });
        }
        runtime.block_on(async {
            while pool.stats().waiting < 5 {
                yield_now().await;
            }
        });
        drop(runtime);
        assert_eq!((pool.stats().waiting, pool.stats().cancelled), (0, 5));
        drop(held);
        pool.acquire().expect("ready");
    }
    // With an opening that is under way.
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    let (pool, shop, gate) = gated(Settings { enabled: false, ..settings(2) });
    runtime.spawn({
        let pool = pool.clone();
        async move { pool.acquire_async().await.map(drop) }
    });
    runtime.block_on(async {
        while shop.0.open.load(Ordering::SeqCst) == 0 {
            yield_now().await;
        }
    });
    let handle = runtime.handle().clone();
    runtime.shutdown_background();
    // And one that never begins: nobody runs anything there any more.
    let entered = handle.enter();
    let bell = Arc::<Bell>::default();
    let mut future = pool.acquire_async();
    let ended = poll(&mut future, &bell);
    assert!(matches!(ended, Poll::Ready(Err(AcquireError::Cancelled))), "{ended:?}");
    assert_eq!(pool.stats().opening, 1, "the one that is under way");
    drop(entered);
    drop(gate);
    wait_until("there is room again", || {
        let stats = pool.stats();
        stats.opening + stats.in_use + stats.closing == 0
    });
    assert_eq!((shop.0.opened.load(Ordering::SeqCst), shop.0.open.load(Ordering::SeqCst)), (1, 0));
    let both = (pool.acquire().expect("room"), pool.acquire().expect("room"));
    drop(both);
    done!("5 waits on each flavour; an opening under way, and one that never begins")
}

fn forking(_: &Arguments) {
    let (pool, _) = shop(settings(1));
    let held = pool.acquire().expect("the only one");
    let bell = Arc::<Bell>::default();
    let (mut waiting, mut asking) = (Some(pool.acquire_async()), Some(pool.acquire_async()));
    assert!(poll(waiting.as_mut().expect("there"), &bell).is_pending());
    let (waiting_has, asking_has, bell_has) = (&mut waiting, &mut asking, &bell);
    let status = signals::in_a_fork(move || {
        let refused = |future: &mut Option<Acquire<Shop>>| {
            let refused = matches!(
                poll(future.as_mut().expect("there"), bell_has),
                Poll::Ready(Err(AcquireError::Forked))
            );
            drop(future.take());
            refused
        };
        u8::from(!(refused(asking_has) && refused(waiting_has)))
    });
    assert_eq!(status, 0, "a forked child got something");
    assert_eq!(pool.stats().waiting, 1);
    drop(held);
    assert_eq!(bell.rings(), 1);
    assert!(matches!(poll(waiting.as_mut().expect("there"), &bell), Poll::Ready(Ok(_))));
    say("done");
}

fn a_forked_child_leaves_the_wait_alone() -> Ran {
    let mut process = Start::role("forking").start();
    process.expect("done");
    process.succeed();
    done!("a wait, and one that had not begun")
}

// ---- against a model ----

#[derive(Debug, Clone)]
enum Step {
    Start,
    Poll(usize),
    Drop(usize),
    Release { which: usize, poisoned: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Start),
        3 => any::<usize>().prop_map(Step::Poll),
        2 => any::<usize>().prop_map(Step::Drop),
        3 => (any::<usize>(), prop::bool::weighted(0.1))
            .prop_map(|(which, poisoned)| Step::Release { which, poisoned }),
    ]
}

struct Wait {
    number: u64,
    future: Acquire<Shop>,
    bell: Arc<Bell>,
    served: bool,
}

/// A pool that is full, seen by its users: what is free, who waits in which order, what is held.
struct Model {
    pool: Pool<Shop>,
    free: usize,
    started: u64,
    line: VecDeque<u64>,
    waits: Vec<Wait>,
    held: Vec<Guard<Shop>>,
    poisoned: u64,
}

impl Model {
    fn new(size: usize) -> Self {
        let (pool, _) = shop(settings(size));
        Self {
            pool,
            free: size,
            started: 0,
            line: VecDeque::new(),
            waits: Vec::new(),
            held: Vec::new(),
            poisoned: 0,
        }
    }

    /// An item became free.
    fn freed(&mut self) {
        match self.line.pop_front() {
            Some(number) => {
                let wait = self.waits.iter_mut().find(|wait| wait.number == number).expect("it waits");
                wait.served = true;
                wait_until("the first in line is woken", || wait.bell.rings() == 1);
            }
            None => self.free += 1,
        }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Start => {
                let (mut future, bell) = (self.pool.acquire_async(), Arc::<Bell>::default());
                match poll(&mut future, &bell) {
                    Poll::Ready(acquired) => {
                        assert!(self.free > 0, "it got one that is not there");
                        self.free -= 1;
                        self.held.push(acquired.expect("open"));
                    }
                    Poll::Pending => {
                        assert_eq!(self.free, 0, "it waits although one is ready");
                        self.started += 1;
                        self.line.push_back(self.started);
                        self.waits.push(Wait { number: self.started, future, bell, served: false });
                    }
                }
            }
            Step::Poll(which) if !self.waits.is_empty() => {
                let which = which % self.waits.len();
                let wait = &mut self.waits[which];
                match poll(&mut wait.future, &wait.bell) {
                    Poll::Ready(acquired) => {
                        assert!(wait.served, "served out of turn");
                        self.held.push(acquired.expect("open"));
                        self.waits.swap_remove(which);
                    }
                    Poll::Pending => assert!(!wait.served, "it was handed something, and does not have it"),
                }
            }
            Step::Drop(which) if !self.waits.is_empty() => {
                let Wait { number, future, served, .. } = self.waits.swap_remove(which % self.waits.len());
                drop(future);
                if served {
                    self.freed();
                } else {
                    self.line.retain(|other| *other != number);
                }
            }
            Step::Release { which, poisoned } if !self.held.is_empty() => {
                let mut guard = self.held.swap_remove(which % self.held.len());
                if poisoned {
                    guard.poison();
                    self.poisoned += 1;
                }
                drop(guard);
                if poisoned {
                    let (pool, opened) = (&self.pool, self.pool.stats().peak as u64 + self.poisoned);
                    wait_until("it is replaced", || pool.stats().opened == opened);
                }
                self.freed();
            }
            Step::Poll(_) | Step::Drop(_) | Step::Release { .. } => {}
        }
        let stats = self.pool.stats();
        assert_eq!(stats.waiting, self.line.len());
        let limbo = self.waits.iter().filter(|wait| wait.served).count();
        assert_eq!((stats.idle, stats.in_use), (self.free, self.held.len() + limbo), "{stats:?}");
        for wait in &self.waits {
            assert_eq!(wait.bell.rings(), u64::from(wait.served), "woken for nothing, or not");
        }
    }
}

fn futures_agree_with_a_model() -> Ran {
    let cases = u32::try_from(scaled(2000).max(50)).expect("few");
    let mut runner =
        TestRunner::new(ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() });
    let strategy = (1_usize..4, prop::collection::vec(step(), 1..80));
    let agreed = runner.run(&strategy, |(size, steps)| {
        tick();
        let mut model = Model::new(size);
        for step in &steps {
            model.apply(step);
        }
        // All give up or give back: everything is there again.
        while !model.waits.is_empty() {
            model.apply(&Step::Drop(0));
        }
        while !model.held.is_empty() {
            model.apply(&Step::Release { which: 0, poisoned: false });
        }
        assert_eq!(model.free, size);
        Ok(())
    });
    agreed.expect("agrees");
    done!("{cases} cases")
}

// ---- a real server ----

fn connections_for_tasks() -> Ran {
    let calls = scaled_for(200, 40).max(5);
    for runtime in flavours() {
        let server = Server::prepare("react").start();
        let settings =
            pool::Settings { min_idle: 0, max_size: 4, acquire_timeout: None, ..pool::Settings::default() };
        let pool =
            Arc::new(ConnectionPool::with_options(server.path(), options(), settings).expect("a pool"));
        runtime.block_on(async {
            let tasks: Vec<_> = (0..32_u64)
                .map(|task| {
                    let pool = pool.clone();
                    tokio::spawn(async move {
                        for call in 0..calls {
                            let mut connection = pool.pool().acquire_async().await.expect("no deadline");
                            let number = task * 1_000_000 + call;
                            // A call blocks, and has a thread for that.
                            let called = tokio::task::spawn_blocking(move || {
                                let request = ask(b'e', number, 0, &number.to_le_bytes());
                                let session = connection.session();
                                let answer = connection.call(&request).expect("an answer").to_vec();
                                (session, answer)
                            });
                            let (session, answer) = called.await.expect("no panic");
                            let bytes = number.to_le_bytes();
                            assert_eq!(answer, [&session.to_le_bytes()[..], &bytes, &bytes].concat());
                            tick();
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.expect("a task");
            }
        });
        let stats = pool.stats();
        assert_eq!(stats.acquired, 32 * calls);
        assert!(stats.peak <= 4 && stats.closed.total() == 0, "{stats:?}");
        pool.close(None).expect("nobody holds one");
        server.shut_down();
    }
    done!("32 tasks with {calls} calls each over 4 connections")
}
