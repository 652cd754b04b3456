//! Both ways at once, in turn, and one after the other; writers and readers that wait.

use crate::serving::Serving;
use crate::traffic::{Any, Bytes, FLAVOURS, ask, exchange, exchange_in_tasks, runtime};
use ringbell::{ByteStream, ByteStreamError};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::transport::over_socket;
use ringbell_shm_tests::{done, observe, options, scaled, scaled_for, seed, wait_until};
use std::io::{ErrorKind, Read, Write};
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;

pub(crate) fn both_ways_at_once() -> Ran {
    let (mut rounds, mut bytes) = (0, 0);
    for server in FLAVOURS {
        // Small rings wrap often, and are often full.
        for ring in [64 << 10, 4096] {
            let serving = Serving::prepare(server, |start| start.with("ring", ring));
            for client in FLAVOURS {
                for count in [1, 100_000, scaled(20 << 20).max(1 << 20)] {
                    let seed = seed() ^ rounds;
                    let mut stream = serving.connect(client);
                    stream.write_all(&ask(b'x', seed, count)).expect("room");
                    match stream {
                        Any::Blocking(stream) => exchange(&stream, seed, count, true),
                        Any::Async(runtime, stream) => {
                            runtime.block_on(exchange_in_tasks(stream, seed, count, true));
                        }
                    }
                    (rounds, bytes) = (rounds + 1, bytes + 2 * count);
                }
            }
            serving.stop();
        }
    }
    done!("{rounds} streams, {bytes} bytes, each of them checked")
}

/// As HTTP and gRPC do it: one task polls both ways.
pub(crate) fn one_task_that_writes_and_reads() -> Ran {
    let rounds = scaled_for(20_000, 5_000);
    for server in FLAVOURS {
        let serving = Serving::start(server);
        for client in FLAVOURS {
            let mut stream = serving.connect(client);
            stream.write_all(&ask(b'x', 5, 8 * rounds)).expect("room");
            let (mut ours, mut theirs) = (Bytes::new(5), Bytes::new(4));
            let mut word = [0; 8];
            for _ in 0..rounds {
                ours.fill(&mut word);
                stream.write_all(&word).expect("room");
                stream.read_exact(&mut word).expect("bytes");
                theirs.check(&word);
            }
            stream.end().expect("an end");
            assert!(stream.read_to_end().expect("the end").is_empty());
        }
        serving.stop();
    }
    done!("{rounds} times to and fro, 9 times")
}

pub(crate) fn an_end_of_one_side_leaves_the_other() -> Ran {
    let count = 300_000;
    for server in FLAVOURS {
        let serving = Serving::start(server);
        for client in FLAVOURS {
            let mut stream = serving.connect(client);
            stream.write_all(&ask(b'h', 0, 0)).expect("room");
            let mut all = vec![0; count];
            Bytes::new(seed()).fill(&mut all);
            stream.write_all(&all).expect("room");
            stream.end().expect("an end");
            stream.end().expect("the same end");
            let error = stream.write_all(b"more").expect_err("behind the end");
            assert_eq!(error.kind(), ErrorKind::BrokenPipe);
            assert_eq!(ByteStreamError::of(&error), Some(ByteStreamError::Finished));
            // The server saw the end, and answers only then.
            let back = stream.read_to_end().expect("to the end");
            assert_eq!(back.len(), count);
            Bytes::new(seed()).check(&back);
            assert_eq!(stream.read(&mut [0; 9]).expect("the end again"), 0);
        }
        serving.stop();
    }
    done!("{count} bytes each way, 9 times")
}

pub(crate) fn a_writer_that_is_not_read_waits() -> Ran {
    let mut told = String::new();
    let mut number = u64::from(std::process::id()) << 8;
    for server in FLAVOURS {
        let mut serving = Serving::start(server);
        for client in FLAVOURS {
            number += 1;
            let file = PathBuf::from(format!("/tmp/.ringbell-bytes-{number}"));
            let mut stream = serving.connect(client);
            stream.write_all(&ask(b's', 3, number)).expect("room");
            serving.process.expect("asked");
            let memory = observe::private_bytes(serving.process.id());
            // Far more than rings and sockets hold.
            let (mut bytes, mut taken) = (Bytes::new(3), 0u64);
            let mut all = vec![0; 8 << 20];
            bytes.fill(&mut all);
            let refused = match &mut stream {
                Any::Blocking(stream) => {
                    stream.set_write_timeout(Some(Duration::from_millis(300)));
                    loop {
                        match ByteStream::write(
                            stream,
                            &all[usize::try_from(taken).expect("64 bits")..],
                        ) {
                            Ok(count) => taken += count as u64,
                            Err(error) => break error.kind(),
                        }
                    }
                }
                Any::Async(runtime, stream) => runtime.block_on(async {
                    loop {
                        let write = stream.write(&all[usize::try_from(taken).expect("64 bits")..]);
                        match tokio::time::timeout(Duration::from_millis(300), write).await {
                            Ok(count) => taken += count.expect("room") as u64,
                            Err(_) => break ErrorKind::TimedOut,
                        }
                    }
                }),
            };
            assert_eq!(refused, ErrorKind::TimedOut);
            let bound = if over_socket() { 2 << 20 } else { 128 << 10 };
            assert!((1000..bound).contains(&taken), "{taken} bytes were taken");
            let grown = observe::private_bytes(serving.process.id()).saturating_sub(memory);
            assert!(grown < 4 << 20, "the server, which does not read, took {grown} bytes");
            // The other direction goes on.
            let mut mark = [0];
            stream.read_exact(&mut mark).expect("a mark");
            std::fs::write(&file, "").expect("a file");
            if let Any::Blocking(stream) = &mut stream {
                stream.set_write_timeout(None);
            }
            stream
                .write_all(&all[usize::try_from(taken).expect("64 bits")..])
                .expect("room, in time");
            stream.end().expect("an end");
            let counted = stream.read_to_end().expect("a count");
            assert_eq!(counted, (all.len() as u64).to_le_bytes());
            let _ = std::fs::remove_file(file);
            told = format!("{taken} bytes");
        }
        serving.stop();
    }
    done!("writers stopped after {told}")
}

pub(crate) fn rounds_leave_nothing_behind() -> Ran {
    let rounds = scaled_for(3_000, 3_000);
    let mut told = String::new();
    for flavour in FLAVOURS {
        let serving = Serving::start(flavour);
        let path = serving.path();
        let round = |number: u64, runtime: Option<&Runtime>| {
            let text = number.to_le_bytes();
            match runtime {
                None => {
                    let mut stream = options().connect_bytes(&path).expect("connect");
                    stream.write_all(&ask(b'h', 0, 0)).expect("room");
                    stream.write_all(&text).expect("room");
                    // Some say goodbye properly, others do not.
                    if number.is_multiple_of(3) {
                        return;
                    }
                    stream.shutdown_write().expect("an end");
                    let mut back = Vec::new();
                    stream.read_to_end(&mut back).expect("to the end");
                    assert_eq!(back, text);
                }
                Some(runtime) => runtime.block_on(async {
                    let mut stream = options().connect_bytes_async(&path).await.expect("connect");
                    stream.write_all(&ask(b'h', 0, 0)).await.expect("room");
                    stream.write_all(&text).await.expect("room");
                    if number.is_multiple_of(3) {
                        return;
                    }
                    stream.shutdown().await.expect("an end");
                    let mut back = Vec::new();
                    stream.read_to_end(&mut back).await.expect("to the end");
                    assert_eq!(back, text);
                }),
            }
            tick();
        };
        let runtime = (flavour != "blocking").then(|| runtime(flavour));
        for number in 0..30 {
            round(number, runtime.as_ref());
        }
        let us = std::process::id();
        let them = serving.process.id();
        let sessions = || {
            observe::descriptor_targets(them).iter().filter(|name| name.contains("memfd:")).count()
        };
        wait_until("the warm-up is over", || sessions() <= 5);
        let before =
            (observe::descriptors(us), observe::descriptors(them), observe::memfd_mappings(us));
        for number in 0..rounds {
            round(number, runtime.as_ref());
        }
        wait_until("nothing is left", || {
            (observe::descriptors(us), observe::memfd_mappings(us)) == (before.0, before.2)
                && observe::descriptors(them) <= before.1 + observe::SPARE
        });
        told += &format!("; {flavour}: {} and {} descriptors", before.0, before.1);
        serving.stop();
    }
    done!("{rounds} rounds{told}")
}

pub(crate) fn timeouts() -> Ran {
    let serving = Serving::start("blocking");
    let Any::Blocking(mut stream) = serving.connect("blocking") else { unreachable!("asked for") };
    stream.write_all(&ask(b'h', 0, 0)).expect("room");
    stream.set_read_timeout(Some(Duration::ZERO));
    assert_eq!(stream.read(&mut [0]).expect_err("nothing").kind(), ErrorKind::WouldBlock);
    stream.set_read_timeout(Some(Duration::from_millis(20)));
    assert_eq!(stream.read(&mut [0]).expect_err("nothing").kind(), ErrorKind::TimedOut);
    stream.write_all(b"back").expect("room");
    stream.shutdown_write().expect("an end");
    stream.set_read_timeout(None);
    let mut back = Vec::new();
    stream.read_to_end(&mut back).expect("to the end");
    assert_eq!(back, b"back");
    serving.stop();
    done!("two timeouts, and a stream that goes on")
}
