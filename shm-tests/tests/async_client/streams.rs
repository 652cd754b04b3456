//! Streams of items and of events.

use crate::calls::crowd;
use crate::{all, echo, flavours, next};
use futures_core::Stream;
use ringbell::EventStream;
use ringbell::sync::{Ordering, PlainU64};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::reactor_requests::{ask, item};
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::{done, options, scaled_for, wait_until};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use tokio::runtime::Builder;

pub(crate) fn streams_and_events() -> Ran {
    let items = scaled_for(5_000, 5_000);
    for (_, runtime) in flavours() {
        let server = Server::prepare("react").start();
        runtime.block_on(async {
            let options = options().max_events(1 << 20);
            let client = options.connect_async(server.path()).await.expect("connect");
            let rest = [&100_u32.to_le_bytes()[..], &[0]].concat();
            let read = |number: u64, most: u64| {
                let (client, rest) = (client.clone(), rest.clone());
                tokio::spawn(async move {
                    let request = ask(b's', number, items, &rest);
                    let mut stream = client.call_stream(&request).await.expect("a stream");
                    let mut got = 0;
                    while got < most
                        && let Some(found) = next(&mut stream).await
                    {
                        assert_eq!(
                            found.expect("an item"),
                            item(client.session(), number, got, 100)
                        );
                        got += 1;
                        tick();
                    }
                    // Those that are not read to their end are dropped.
                    assert_eq!(got, most.min(items));
                })
            };
            let mut tasks: Vec<_> = (1..9).map(|number| read(number, u64::MAX)).collect();
            tasks.extend((9..15).map(|number| read(number, number * items / 20)));
            let pushed = 4 * (items / 100 + 1);
            let events = client.events();
            tasks.push(tokio::spawn(async move {
                let mut events = events;
                for _ in 0..pushed {
                    next(&mut events).await.expect("more").expect("an event");
                    tick();
                }
            }));
            let pushing = client.call_owned(ask(b'v', 100, items / 100 + 1, &[4]));
            tasks.extend(crowd(&client, 20, 50, 100));
            pushing.await.expect("an answer");
            all(tasks).await;
            echo(&client, 12345, 10).await;
            assert_eq!(client.in_flight(), 0);
        });
        server.shut_down();
    }
    done!("14 streams of {items} items, events, and calls beside them")
}

/// Counts how often it wakes.
#[derive(Default)]
pub(crate) struct Bell(pub(crate) PlainU64);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

pub(crate) fn a_stream_of_events_keeps_one_waker() -> Ran {
    let polls = 1000;
    let server = Server::prepare("react").start();
    let runtime =
        Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = options().connect_async(server.path()).await.expect("connect");
        let mut streams = [client.events(), client.events()];
        let poll = |stream: &mut EventStream, bell: &Arc<Bell>| {
            let waker = Waker::from(bell.clone());
            Pin::new(stream).poll_next(&mut Context::from_waker(&waker))
        };
        // Each poll by another task, as in a `select!` of which the stream is a part.
        let bells: Vec<Arc<Bell>> = (0..polls).map(|_| Arc::default()).collect();
        for (number, bell) in bells.iter().enumerate() {
            assert!(poll(&mut streams[number % 2], bell).is_pending());
        }
        let kept = bells.iter().filter(|bell| Arc::strong_count(bell) > 1).count();
        assert_eq!(kept, 2, "the last one of each stream");
        // Which are woken, and no others.
        client.call_owned(ask(b'v', 1, 1, &[4])).await.expect("an answer");
        wait_until("both are woken", || {
            bells[polls - 2..].iter().all(|bell| bell.0.load(Ordering::SeqCst) > 0)
        });
        assert!(bells[..polls - 2].iter().all(|bell| bell.0.load(Ordering::SeqCst) == 0));
        let last = Arc::<Bell>::default();
        let [mut one, other] = streams;
        while poll(&mut one, &last).is_ready() {}
        drop(one);
        assert_eq!(Arc::strong_count(&last), 1, "a stream that is gone keeps nothing");
        drop(other);
    });
    server.shut_down();
    done!("{polls} polls of 2 streams")
}
