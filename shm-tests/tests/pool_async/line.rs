//! The line of those who wait: its order, and what is handed over to a future that is dropped.

use crate::shop::{Bell, Shop, flavours, gated, poll, settings, shop};
use ringbell::pool::{AcquireError, Cancel, Pool, Settings};
use ringbell::sync::Ordering;
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::{Chance, mix};
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::{done, scaled, seed, wait_until};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::task::yield_now;

pub(crate) fn tasks_and_threads_stand_in_one_line() -> Ran {
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

pub(crate) fn what_a_dropped_future_was_handed_goes_to_the_next() -> Ran {
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
    let Poll::Ready(Ok(guard)) = poll(&mut line[0], &bells[2]) else {
        panic!("it was handed over")
    };
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
    assert_eq!(
        (stats.idle, stats.in_use, stats.waiting, stats.cancelled),
        (1, 0, 0, 4),
        "{stats:?}"
    );
    done!("left, served, passed on; to tasks and to threads")
}

/// Polls a future so many times at most, with other tasks between; `None` if it was dropped before
/// its end.
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
            _ => {
                tokio::time::timeout(Duration::from_micros(random / 4 % 2000), pool.acquire_async())
                    .await
                    .ok()
            }
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
            1 => pool
                .acquire_deadline(Some(Instant::now() + Duration::from_micros(random / 4 % 300))),
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

pub(crate) fn tasks_that_give_up_at_any_moment_take_nothing_with_them() -> Ran {
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
                let tasks: Vec<_> = (0..40)
                    .map(|caller| runtime.spawn(fickle(pool.clone(), caller, rounds)))
                    .collect();
                let by_tasks = runtime.block_on(async {
                    let mut got = 0;
                    for task in tasks {
                        got += task.await.expect("a task");
                    }
                    got
                });
                by_tasks
                    + threads
                        .into_iter()
                        .map(|thread| thread.join().expect("no panic"))
                        .sum::<u64>()
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
            told += &format!(
                "; {got} got one, {} gave up, {} were late",
                stats.cancelled, stats.timeouts
            );
            pool.close(None).expect("nobody holds anything");
            assert_eq!(shop.0.open.load(Ordering::SeqCst), 0);
        }
    }
    done!("40 tasks and 4 threads, {rounds} acquires each, on both flavours, kept and not{told}")
}

pub(crate) fn w7_a_burst_of_tasks_is_served_by_starts_side_by_side() -> Ran {
    for runtime in flavours() {
        let several = Settings { min_idle: 0, max_starting: 4, ..settings(16) };
        let (pool, shop, gate) = gated(several);
        let tasks: Vec<_> = (0..16)
            .map(|_| {
                let pool = pool.clone();
                runtime.spawn(async move { pool.acquire_async().await })
            })
            .collect();
        let at_gate = || shop.0.at_gate.load(Ordering::SeqCst);
        let held: Vec<_> = runtime.block_on(async {
            while pool.stats().waiting < 16 || at_gate() < 4 {
                yield_now().await;
            }
            // How long it waits is of no account: it is told what goes on.
            let error = pool.acquire_async_deadline(Some(Instant::now())).await.map(drop);
            let text = error.expect_err("nothing is ready").to_string();
            assert!(text.contains("4 are being started, the oldest for "), "{text}");
            drop(gate);
            let mut held = Vec::new();
            for task in tasks {
                held.push(task.await.expect("no panic").expect("served"));
            }
            held
        });
        let most = shop.0.most_at_gate.load(Ordering::SeqCst);
        assert_eq!((held.len(), most, pool.stats().peak_opening), (16, 4, 4));
    }
    done!("16 tasks, 4 starts side by side")
}
