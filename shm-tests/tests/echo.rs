//! Millions of messages through the smallest ring, pipelined, each of them checked on both sides.

use ringbell::WaitSettings;
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::Pattern;
use ringbell_shm_tests::server::{Server, waiting};
use ringbell_shm_tests::transport::over_socket;
use ringbell_shm_tests::verified::Verified;
use ringbell_shm_tests::{done, options, scaled, scaled_for, suite};
use std::time::Instant;

suite! {
    both: [
        millions_pipelined,
        one_at_a_time_however_one_waits,
        large_messages_in_fragments,
        deep_pipeline_through_full_buffers,
    ],
    tests: [],
    roles: [],
}

/// Through the smallest ring, or over the socket.
fn millions_pipelined() -> Ran {
    let count = scaled_for(10_000_000, 500_000);
    let server = Server::prepare("verify").with("ring_capacity", 2048).start();
    let pattern = Pattern::new(1, 700).with_large(5000, 100 * 1024);
    let mut client = Verified::connect(server.path(), options(), pattern);
    let began = Instant::now();
    client.pipeline(count, 32);
    let took = began.elapsed().as_secs_f64();
    let counts = client.finish();
    assert_eq!(counts.received, count + 1);
    assert!(counts.fragments_sent > 0, "{counts:?}");
    assert_eq!(counts.paddings == 0, over_socket(), "only rings are padded: {counts:?}");
    let stats = server.shut_down();
    assert_eq!((stats.requests, stats.errors, stats.panics), (count + 1, 0, 0));
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    let rate = count as f64 / took / 1e6;
    done!(
        "{count} messages of 0 to 700 B, one in 5000 of up to 100 KiB, {rate:.2} M/s; fragments {}, full {}, parks {} and {}, late rings {} and {}",
        counts.fragments_sent,
        counts.full_stalls,
        counts.parks,
        stats.parks,
        counts.late_rings,
        stats.late_rings
    )
}

fn one_at_a_time_however_one_waits() -> Ran {
    let count = scaled_for(30_000, 3000);
    let mut told = String::new();
    for server_waits in ["default", "park", "spin", "yield"] {
        for client_waits in ["default", "park", "spin", "yield"] {
            let server = Server::prepare("verify").with("wait", server_waits).start();
            let options = options().wait(waiting(client_waits, WaitSettings::client()));
            let mut client = Verified::connect(server.path(), options, Pattern::new(2, 300));
            let began = Instant::now();
            for _ in 0..count {
                client.call(None).expect("a call");
            }
            let each = began.elapsed().as_nanos() / u128::from(count);
            let counts = client.finish();
            let stats = server.shut_down();
            told += &format!(
                "\n    server {server_waits}, client {client_waits}: {each} ns a call, parks {} and {}, late rings {} and {}",
                stats.parks, counts.parks, stats.late_rings, counts.late_rings
            );
        }
    }
    done!("{count} calls for each of 16 ways to wait{told}")
}

fn large_messages_in_fragments() -> Ran {
    let count = scaled(2_000);
    for capacity in [2048u64, 16 * 1024, 256 * 1024] {
        let server = Server::prepare("verify").with("ring_capacity", capacity).start();
        let pattern = Pattern::new(3, 100).with_large(2, 1 << 20);
        let mut client = Verified::connect(server.path(), options(), pattern);
        client.pipeline(count / 4, 1);
        client.pipeline(count / 2, 8);
        let counts = client.finish();
        assert!(counts.fragments_sent > count / 4);
        server.shut_down();
    }
    done!("3 * {count} messages, every second one of up to 1 MiB")
}

fn deep_pipeline_through_full_buffers() -> Ran {
    // Far more bytes than both directions and the server's queue (64 answers) hold, however fast
    // the server is: a socket has 208 KiB each way.
    let depth = if over_socket() { 8_000 } else { 1_000 };
    let count = scaled_for(1_000_000, 200_000).max(2 * depth as u64);
    let server = Server::prepare("verify").with("ring_capacity", 2048).start();
    let options = options().max_in_flight(depth);
    let mut client = Verified::connect(server.path(), options, Pattern::new(4, 700));
    client.pipeline(count, depth);
    let counts = client.finish();
    assert!(counts.stash_peak > 100, "the response ring never filled up: {counts:?}");
    let stats = server.shut_down();
    done!(
        "{count} messages, up to {depth} in flight; set aside at most {}, queued {}",
        counts.stash_peak,
        stats.queued
    )
}
