//! Waits that end without an item: by time, by the pool's end, by failures.

use crate::shop::{NoNumber, flavours, settings, shop};
use ringbell::pool::{AcquireError, OpenFailure, Settings};
use ringbell::sync::Ordering;
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::{done, wait_until};
use std::time::{Duration, Instant};
use tokio::runtime::Builder;
use tokio::task::yield_now;

pub(crate) fn waits_of_tasks_end_in_time() -> Ran {
    for runtime in flavours() {
        runtime.block_on(async {
            let (pool, _) =
                shop(Settings { acquire_timeout: Some(Duration::from_millis(5)), ..settings(1) });
            let held = pool.acquire_async().await.expect("the only one");
            let began = Instant::now();
            let late = pool.acquire_async().await.map(drop);
            assert!(matches!(late, Err(AcquireError::TimedOut { .. })), "{late:?}");
            let text = late.expect_err("seen above").to_string();
            assert!(text.ends_with(": all 1 are in use"), "{text}");
            assert!(began.elapsed() >= Duration::from_millis(5));
            let soon = Some(Instant::now() + Duration::from_millis(3));
            let late = pool.acquire_async_deadline(soon).await.map(drop);
            assert!(matches!(late, Err(AcquireError::TimedOut { .. })), "{late:?}");
            let stats = pool.stats();
            assert_eq!((stats.timeouts, stats.waits, stats.waiting), (2, 2, 0));
            drop(held);
            drop(
                pool.acquire_async_deadline(soon).await.expect("one is ready, however late it is"),
            );
        });
    }
    // Without a clock: zero does not wait, and who waits for ever needs none.
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let (pool, _) = shop(Settings { acquire_timeout: Some(Duration::ZERO), ..settings(1) });
        let held = pool.acquire_async().await.expect("the only one");
        assert!(matches!(pool.acquire_async().await, Err(AcquireError::TimedOut { .. })));
        let past = Some(Instant::now());
        assert!(matches!(
            pool.acquire_async_deadline(past).await,
            Err(AcquireError::TimedOut { .. })
        ));
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

pub(crate) fn a_pool_that_closes_ends_the_waits_of_tasks() -> Ran {
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

pub(crate) fn failures_reach_tasks() -> Ran {
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
            let Err(AcquireError::TimedOut { cause }) = &late else { panic!("{late:?}") };
            let failure = cause.failure.as_ref().map(|last| &last.failure);
            assert!(
                matches!(failure, Some(OpenFailure::Error(error)) if **error == NoNumber),
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
