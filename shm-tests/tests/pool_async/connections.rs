//! Connections to a real server.

use crate::shop::flavours;
use ringbell::{ConnectionPool, pool};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::reactor_requests::ask;
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::{done, options, scaled_for};
use std::sync::Arc;

pub(crate) fn connections_for_tasks() -> Ran {
    let calls = scaled_for(200, 40).max(5);
    for runtime in flavours() {
        let server = Server::prepare("react").start();
        let settings = pool::Settings {
            min_idle: 0,
            max_size: 4,
            acquire_timeout: None,
            ..pool::Settings::default()
        };
        let pool = Arc::new(
            ConnectionPool::with_options(server.path(), options(), settings).expect("a pool"),
        );
        runtime.block_on(async {
            let tasks: Vec<_> = (0..32_u64)
                .map(|task| {
                    let pool = pool.clone();
                    tokio::spawn(async move {
                        for call in 0..calls {
                            let mut connection =
                                pool.pool().acquire_async().await.expect("no deadline");
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
                            assert_eq!(
                                answer,
                                [&session.to_le_bytes()[..], &bytes, &bytes].concat()
                            );
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
