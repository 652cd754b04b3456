//! Runtimes: nothing is opened on their threads, they may go, and they may be forked.

use crate::shop::{Bell, Shop, flavours, gated, poll, settings, shop};
use ringbell::pool::{Acquire, AcquireError, Settings};
use ringbell::sync::Ordering;
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, Start, say};
use ringbell_shm_tests::{done, signals, wait_until};
use std::sync::Arc;
use std::task::Poll;
use tokio::runtime::Builder;
use tokio::task::yield_now;

pub(crate) fn nothing_is_opened_on_the_runtimes_thread() -> Ran {
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

pub(crate) fn a_runtime_that_goes_leaves_no_trace() -> Ran {
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

pub(crate) fn forking(_: &Arguments) {
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

pub(crate) fn a_forked_child_leaves_the_wait_alone() -> Ran {
    let mut process = Start::role("forking").start();
    process.expect("done");
    process.succeed();
    done!("a wait, and one that had not begun")
}
