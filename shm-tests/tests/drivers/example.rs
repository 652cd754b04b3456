//! The example `embedded`, as a process of its own.

use crate::embedded;
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, Start, say};
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::{done, options, scaled_for};

/// `examples/embedded.rs` as a process of its own.
pub(crate) fn serves_in_its_loop(arguments: &Arguments) {
    let server = ringbell::Server::bind(arguments.text("path")).expect("bind");
    say("ready");
    let stats = embedded::serve(server).expect("served");
    let threads = std::fs::read_dir("/proc/self/task").expect("threads").count();
    say(&format!("served {} {} {} {threads}", stats.requests, stats.parks, stats.backstop_rescues));
}

pub(crate) fn the_example_serves_in_its_loop() -> Ran {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("s");
    let mut process = Start::role("serves_in_its_loop").with("path", path.display()).start();
    process.expect("ready");
    let calls = scaled_for(20_000, 2_000);
    let number = |answer: &[u8]| u64::from_le_bytes(answer.try_into().expect("a number"));
    let mut client = options().connect(&path).expect("connect");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut other = options().connect(&path).expect("connect");
            for call in 0..calls / 2 {
                assert_eq!(*other.call(&call.to_le_bytes()).expect("a call"), call.to_le_bytes());
                tick();
            }
        });
        // Answers that are kept until a tick, one after the other; echoes in between.
        let mut last = number(&client.call(b"ticks").expect("a call"));
        for _ in 0..10 {
            let next = number(&client.call(b"next tick").expect("a call"));
            assert!(next > last, "tick {next} after {last}");
            last = next;
            for call in 0..calls / 20 {
                assert_eq!(*client.call(&call.to_le_bytes()).expect("a call"), call.to_le_bytes());
            }
            tick();
        }
    });
    client.call(b"stop").expect("a call");
    let said = process.expect("served");
    process.succeed();
    let counts: Vec<u64> =
        said.split_whitespace().map(|word| word.parse().expect("a number")).collect();
    let [requests, parks, rescues, threads] = counts[..] else { panic!("{said}") };
    assert_eq!(requests, calls / 2 + 10 * (calls / 20) + 12);
    assert!(parks > 0 && rescues == 0 && threads == 1, "{said}");
    done!("{requests} requests, {parks} sleeps, 1 thread")
}
