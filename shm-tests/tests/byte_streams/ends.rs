//! Ends that nobody says: of streams that are dropped, of processes that are killed, of listeners
//! that are closed.

use crate::serving::Serving;
use crate::traffic::{Any, Bytes, FLAVOURS, ask, is_reset, runtime};
use ringbell::{AsyncByteListener, ByteListener, ByteStreamError, ConnectError};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, PATIENCE, Start, hear, say};
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::transport::over_socket;
use ringbell_shm_tests::{done, observe, options, wait_until};
use std::io::{ErrorKind, Read, Write};
use std::time::Duration;
use tokio::io::AsyncWrite;

/// Whatever a peer that is gone wrote is read, and the error is said again and again.
fn ends_badly(stream: &mut Any, count: u64) {
    let (all, error) = stream.read_to_error();
    assert_eq!(all.len() as u64, count);
    Bytes::new(9).check(&all);
    is_reset(&error);
    is_reset(&stream.read(&mut [0; 8]).expect_err("the same"));
    let error = stream.write_all(&[0; 100]).expect_err("nobody reads");
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
}

pub(crate) fn a_stream_that_is_dropped_has_no_end() -> Ran {
    let mut streams = 0;
    for server in FLAVOURS {
        let serving = Serving::start(server);
        for client in FLAVOURS {
            // Less than a ring holds, and a lot more.
            for count in [0, 10_000, 1 << 20] {
                let mut stream = serving.connect(client);
                stream.write_all(&ask(b'd', 9, count)).expect("room");
                ends_badly(&mut stream, count);
                streams += 1;
            }
        }
        serving.stop();
    }
    done!("{streams} streams")
}

pub(crate) fn a_killed_peer_has_no_end() -> Ran {
    let mut streams = 0;
    for server in FLAVOURS {
        for client in FLAVOURS {
            let mut serving = Serving::start(server);
            let count = 30_000;
            let mut reading = serving.connect(client);
            reading.write_all(&ask(b'k', 9, count)).expect("room");
            serving.process.expect("written");
            let mut waiting = serving.connect(client);
            waiting.write_all(&ask(b's', 3, u64::MAX)).expect("room");
            serving.process.expect("asked");
            waiting.read_exact(&mut [0]).expect("a mark");
            std::thread::scope(|scope| {
                // One that waits to read, and one that waits for room.
                let writer = serving.connect(client);
                let reader = scope.spawn(move || waiting.read_to_error());
                let writer = scope.spawn(move || {
                    let mut writer = writer;
                    writer.write_all(&ask(b's', 3, u64::MAX)).expect("room");
                    writer.write_all(&vec![0; 16 << 20]).expect_err("nobody reads").kind()
                });
                serving.process.expect("asked");
                wait_until("all is quiet", || observe::all_threads_sleep(serving.process.id()));
                serving.process.kill();
                serving.process.is_killed();
                let (rest, error) = reader.join().expect("the reader");
                assert!(rest.is_empty());
                is_reset(&error);
                assert_eq!(writer.join().expect("the writer"), ErrorKind::BrokenPipe);
            });
            ends_badly(&mut reading, count);
            streams += 3;
        }
    }
    done!("{streams} streams")
}

pub(crate) fn what_a_client_wrote_before_it_went_is_read() -> Ran {
    let mut clients = 0;
    for server in FLAVOURS {
        let mut serving = Serving::start(server);
        for client in FLAVOURS {
            for kill in [false, true] {
                let count = 40_000;
                let mut process = Start::role("connect")
                    .with("path", serving.path().display())
                    .with("flavour", client)
                    .with("do", "write")
                    .with("seed", 9)
                    .with("count", count)
                    .start();
                process.expect("written");
                if kill {
                    process.kill();
                    process.is_killed();
                } else {
                    process.hang_up();
                    process.succeed();
                }
                let heard = serving.process.expect("read");
                assert_eq!(heard, format!("{count} Err(Some(Gone))"));
                clients += 1;
            }
        }
        serving.stop();
    }
    done!("{clients} clients")
}

/// The role: reads to the end, and stays.
pub(crate) fn reads_to_the_end(arguments: &Arguments) {
    let mut stream = options().connect_bytes(arguments.text("path")).expect("connect");
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("an end");
    say(&format!("read {}", all.len()));
    let _ = hear();
}

pub(crate) fn c11_a_reader_that_is_killed_behind_the_end_has_read_all() -> Ran {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("s");
    let listener = ByteListener::bind(&path).expect("bind");
    let mut process = Start::role("reads_to_the_end").with("path", path.display()).start();
    let mut stream = listener.accept_timeout(Some(PATIENCE)).expect("a stream");
    stream.write_all(&[7; 1000]).expect("taken");
    stream.shutdown_write().expect("ended");
    assert_eq!(process.expect("read"), "1000");
    process.kill();
    process.is_killed();
    stream.read(&mut [0; 8]).expect_err("it did not end its side");
    // The kernel does not tell over the socket what its reader has read.
    if !over_socket() {
        stream.flush().expect("all was read, and the end");
    }
    done!("1000 bytes and the end")
}

pub(crate) fn a_listener_that_is_closed() -> Ran {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("s");
    let listener = ByteListener::bind(&path).expect("bind");
    assert_eq!(
        listener.accept_timeout(Some(Duration::ZERO)).expect_err("nobody").kind(),
        ErrorKind::TimedOut
    );
    let mut client = options().connect_bytes(&path).expect("connect");
    let mut stream = listener.accept().expect("a stream");
    std::thread::scope(|scope| {
        let accepting = scope.spawn(|| listener.accept().expect_err("closed"));
        std::thread::sleep(Duration::from_millis(5));
        listener.close();
        let error = accepting.join().expect("the thread");
        assert_eq!(ByteStreamError::of(&error), Some(ByteStreamError::Closed));
    });
    assert!(matches!(options().connect_bytes(&path), Err(ConnectError::Rejected(_))));
    drop(listener);
    assert!(!path.exists());
    // A stream that was accepted goes on.
    client.write_all(b"still there").expect("room");
    let mut bytes = [0; 11];
    stream.read_exact(&mut bytes).expect("bytes");
    assert_eq!(&bytes, b"still there");
    drop(stream);
    is_reset(&client.read(&mut [0]).expect_err("gone"));
    // One that nobody accepts is turned away.
    let listener = AsyncByteListener::bind(&path).expect("bind again");
    let late = options().connect_bytes(&path).expect("connect");
    drop(listener);
    is_reset(&late.read(&mut [0]).expect_err("turned away"));
    done!("accepting ends, streams go on")
}

/// Over the socket the last bytes are kept when the socket takes no more; they go with their
/// writer, and what the reader has then is no end, and no fault.
pub(crate) fn a_writer_that_goes_with_bytes_that_were_not_taken() -> Ran {
    let mut told = Vec::new();
    for flavour in FLAVOURS {
        let mut serving = Serving::start(flavour);
        let runtime = runtime("one");
        let mut written = 0;
        {
            let _entered = runtime.enter();
            let stream = serving.connect("blocking");
            let Any::Blocking(mut stream) = stream else { unreachable!("asked for") };
            stream.write_all(&ask(b'r', 5, 0)).expect("room");
            let mut stream = stream.into_async().expect("watched");
            serving.process.stop();
            let mut bytes = Bytes::new(5);
            let mut nobody = std::task::Context::from_waker(std::task::Waker::noop());
            let mut pin = std::pin::Pin::new(&mut stream);
            'full: loop {
                let mut some = vec![0; 7_777];
                bytes.fill(&mut some);
                let mut from = 0;
                while from < some.len() {
                    match pin.as_mut().poll_write(&mut nobody, &some[from..]) {
                        std::task::Poll::Ready(count) => {
                            let count = count.expect("room");
                            from += count;
                            written += count;
                        }
                        std::task::Poll::Pending => break 'full,
                    }
                }
            }
            // Nothing waits for it to be flushed.
        }
        serving.process.go_on();
        let said = serving.process.expect("read");
        let mut words = said.split_whitespace();
        let read: usize = words.next().expect("a count").parse().expect("a number");
        assert_eq!(words.next(), Some("Err(Some(Gone))"), "{said}");
        assert!(read <= written, "{read} of {written}");
        assert!(
            over_socket() || read == written,
            "rings keep what was written: {read} of {written}"
        );
        told.push(written - read);
        serving.stop();
        tick();
    }
    done!("{told:?} bytes went with their writers")
}
