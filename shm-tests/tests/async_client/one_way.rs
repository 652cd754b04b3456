//! One-way messages.

use crate::flavours;
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::reactor_requests::ask;
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::{done, options, scaled_for, wait_until};

pub(crate) fn one_way_messages() -> Ran {
    let messages = scaled_for(50_000, 10_000);
    for (_, runtime) in flavours() {
        let server = Server::prepare("react").with("ring_capacity", 2048).start();
        runtime.block_on(async {
            let client = options().connect_async(server.path()).await.expect("connect");
            for number in 0..messages {
                client.send_one_way(&ask(b'L', number, 0, b"")).await.expect("send");
                tick();
            }
            // What was sent before is executed before.
            let notes = client.call(&ask(b'q', messages, 0, b"")).await.expect("an answer");
            let noted = notes[16..]
                .chunks_exact(8)
                .map(|word| u64::from_le_bytes(word.try_into().expect("8")));
            assert!(noted.eq(0..messages), "they are executed in order");
        });
        server.shut_down();
    }
    done!("{messages} messages")
}

/// Whoever sends one is done with it: nobody need run for it to arrive, not even the driver.
pub(crate) fn one_way_messages_need_nobody_to_run_behind_them() -> Ran {
    for (_, runtime) in flavours() {
        let mut server = Server::prepare("react").start();
        let client = runtime.block_on(options().connect_async(server.path())).expect("connect");
        for number in 0..3 {
            runtime.block_on(async {
                for half in 0..2 {
                    client.send_one_way(&ask(b'L', 2 * number + half, 0, b"")).await.expect("send");
                }
            });
            wait_until("both messages are there", || server.stats().requests == 2 * number + 2);
            // It falls asleep again.
            let parks = server.stats().parks;
            wait_until("the server sleeps", || server.stats().parks > parks || number == 2);
        }
        drop(client);
        runtime.block_on(tokio::task::yield_now());
        server.shut_down();
    }
    done!("both flavours")
}
