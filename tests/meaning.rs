//! What is said means what it seems to: timeouts, codes, and the end of a byte stream.

use ringbell::layout::code;
use ringbell::{
    ByteListener, ByteStream, ByteStreamError, CallError, Client, ConnectOptions, HandlerError,
    OwnedRequest, Responder, Server, ServerHandle, TransportChoice,
};
use std::io::{ErrorKind, Read, Write};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const BOTH: [TransportChoice; 2] = [TransportChoice::SharedMemory, TransportChoice::Socket];

/// A server with a handler.
struct Serving {
    directory: tempfile::TempDir,
    handle: ServerHandle,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    fn new(answer: fn(OwnedRequest, Responder)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let server = Server::bind(directory.path().join("socket")).expect("bound");
        let handle = server.handle();
        let thread = std::thread::spawn(move || {
            server.run_reactor(answer).expect("served");
        });
        Self { directory, handle, thread: Some(thread) }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    fn connect(&self, transport: TransportChoice) -> Client {
        ConnectOptions::new().transport(transport).connect(self.path()).expect("connected")
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.handle.shutdown(None);
            self.thread.take().expect("runs").join().expect("no panic");
        }
    }
}

/// Answers with the seconds that are left until the deadline, rounded up; nothing if there is none.
fn seconds_left(request: OwnedRequest, responder: Responder) {
    let left = request.deadline().map(|deadline| deadline.duration_since(Instant::now()));
    match left {
        Some(left) => responder.reply(&(left.as_secs() + 1).to_le_bytes()),
        None => responder.reply(b""),
    }
}

const TIMEOUTS: [Duration; 6] = [
    Duration::from_millis(999),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(3600),
    Duration::from_secs(400 * 24 * 3600),
    Duration::MAX,
];

fn is_told(answer: &[u8], timeout: Duration) {
    let left = u64::from_le_bytes(answer.try_into().expect("a deadline"));
    // A stopped machine may make it less, nothing makes it more.
    assert!((1..=timeout.as_secs().saturating_add(1)).contains(&left), "{left} of {timeout:?}");
    let wanted = timeout.as_secs().min(500 * 365 * 24 * 3600) / 2;
    assert!(left >= wanted, "{left} of {timeout:?}");
}

#[test]
fn c2_every_timeout_is_told_to_the_server() {
    let serving = Serving::new(seconds_left);
    for transport in BOTH {
        let mut client = serving.connect(transport);
        for timeout in TIMEOUTS {
            is_told(&client.call_timeout(b"", Some(timeout)).expect("an answer"), timeout);
            let mut answer = Vec::new();
            client.call_into(b"", &mut answer, Some(timeout)).expect("an answer");
            is_told(&answer, timeout);
            let answer = client.call_view(b"", Some(timeout), |view| {
                let mut seen = vec![0; view.len()];
                view.copy_to(0, &mut seen);
                seen
            });
            is_told(&answer.expect("an answer"), timeout);
            if let Some(deadline) = Instant::now().checked_add(timeout) {
                let answer = client.call_deadline(b"", Some(deadline)).expect("an answer");
                is_told(&answer, timeout);
            }
        }
        assert_eq!(client.call(b"").expect("an answer").payload(), b"");
        assert_eq!(client.call_timeout(b"", None).expect("an answer").payload(), b"");
        let silent = ConnectOptions::new().transport(transport).send_deadlines(false);
        let mut silent = silent.connect(serving.path()).expect("connected");
        let answer = silent.call_timeout(b"", Some(Duration::from_secs(5))).expect("an answer");
        assert_eq!(answer.payload(), b"");
    }
}

/// 422 of the application for requests, and for streams; no answer at all; a panic.
fn failing(request: OwnedRequest, responder: Responder) {
    match request.payload() {
        b"stream" => responder.stream().error(HandlerError::new(422, "no such thing")),
        b"drop" => drop(responder),
        b"serial" => responder.error("some text"),
        _ => responder.error(HandlerError::new(422, "no such thing")),
    }
}

/// In every way in which an error is shown.
fn shows(error: &(impl std::fmt::Display + std::fmt::Debug), code: &str, never: &str) {
    for shown in [format!("{error}"), format!("{error:?}"), format!("{error:#?}")] {
        assert!(shown.contains(code) && !shown.contains(never), "{shown}");
    }
}

fn is_422(error: CallError) {
    shows(&error, "422", "678");
    let CallError::Remote(error) = error else { panic!("{error}") };
    shows(&error, "422", "678");
    assert_eq!(error.application_code(), Some(422));
}

#[test]
fn c7_codes_are_shown_as_the_application_gave_them() {
    let error = HandlerError::new(422, "no such thing");
    shows(&error, "422", "678");
    assert_eq!(error.application_code(), 422);
    let serving = Serving::new(failing);
    for transport in BOTH {
        let mut client = serving.connect(transport);
        is_422(client.call(b"").expect_err("an error"));
        is_422(client.call_view(b"", None, |_| ()).expect_err("an error"));
        is_422(client.call_stream(b"stream").expect("sent").next(None).expect_err("an error"));
        client.send(b"").expect("sent");
        let error = client.recv(None).expect("an answer").outcome.expect_err("an error");
        shows(&error, "422", "678");
        let error = client.call(b"serial").expect_err("an error");
        shows(&error, "0", "256");
        // Ringbell's own, which no application gave.
        let CallError::Remote(error) = client.call(b"drop").expect_err("an error") else {
            panic!("another error")
        };
        shows(&error, "code", "application");
        assert_eq!((error.code, error.application_code()), (code::DROPPED, None));
    }
}

/// Both ends of a byte stream.
fn pair(transport: TransportChoice) -> (ByteStream, ByteStream, ByteListener, tempfile::TempDir) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let listener = ByteListener::bind(&path).expect("bound");
    let options = ConnectOptions::new().transport(transport);
    let client = options.connect_bytes(&path).expect("connected");
    let server = listener.accept().expect("accepted");
    (client, server, listener, directory)
}

fn is_broken_pipe<T: std::fmt::Debug>(result: std::io::Result<T>) {
    let error = result.expect_err("nobody reads it");
    assert_eq!(error.kind(), ErrorKind::BrokenPipe, "{error}");
    assert_eq!(ByteStreamError::of(&error), Some(ByteStreamError::Gone));
}

/// For each transport, and with either end as the one that writes.
fn each(test: impl Fn(ByteStream, ByteStream, TransportChoice)) {
    for transport in BOTH {
        for swap in [false, true] {
            let (client, server, _listener, _directory) = pair(transport);
            let (writer, reader) = if swap { (server, client) } else { (client, server) };
            test(writer, reader, transport);
        }
    }
}

#[test]
fn c11_a_write_to_a_reader_that_is_gone_is_a_broken_pipe() {
    each(|mut writer, mut reader, _| {
        writer.write_all(b"x").expect("taken");
        reader.read_exact(&mut [0]).expect("read");
        drop(reader);
        // For as long as a write may not know, it is taken; a ring is not full by then.
        let taken = (0..500).take_while(|_| {
            std::thread::sleep(Duration::from_millis(1));
            writer.write(b"x").is_ok()
        });
        assert!(taken.count() < 500, "it fills the ring");
        is_broken_pipe(writer.write(b"x"));
        is_broken_pipe(writer.flush());
        is_broken_pipe(writer.shutdown_write());
    });
}

#[test]
fn c11_ending_a_stream_whose_reader_is_gone_is_a_broken_pipe() {
    each(|writer, reader, _| {
        drop(reader);
        is_broken_pipe(writer.shutdown_write());
    });
    each(|mut writer, mut reader, _| {
        writer.write_all(b"x").expect("taken");
        reader.read_exact(&mut [0]).expect("read");
        drop(reader);
        is_broken_pipe(writer.shutdown_write());
        // Nothing is unread, but something could not be said.
        is_broken_pipe(writer.flush());
    });
}

#[test]
fn c11_a_flush_tells_of_what_was_left_unread() {
    each(|mut writer, reader, transport| {
        writer.write_all(b"x").expect("taken");
        writer.flush().expect("somebody may read it");
        drop(reader);
        // The kernel does not tell of it over the socket before the next write.
        if transport == TransportChoice::SharedMemory {
            is_broken_pipe(writer.flush());
        }
    });
}

#[test]
fn c11_a_reader_that_has_read_all_may_go() {
    each(|mut writer, mut reader, _| {
        writer.write_all(b"question").expect("taken");
        reader.read_exact(&mut [0; 8]).expect("read");
        reader.write_all(b"answer").expect("taken");
        reader.shutdown_write().expect("ended");
        drop(reader);
        writer.flush().expect("all was read");
        let mut answer = Vec::new();
        writer.read_to_end(&mut answer).expect("an answer");
        assert_eq!(answer, b"answer");
    });
    each(|mut writer, mut reader, _| {
        writer.write_all(b"question").expect("taken");
        writer.shutdown_write().expect("ended");
        reader.read_to_end(&mut Vec::new()).expect("read");
        drop(reader);
        writer.flush().expect("all was read");
        writer.shutdown_write().expect("it has ended");
    });
    each(|mut writer, mut reader, transport| {
        writer.write_all(b"question").expect("taken");
        reader.read_exact(&mut [0; 8]).expect("read");
        drop(reader);
        writer.read(&mut [0]).expect_err("no answer");
        // It is known to be gone by now, and has left nothing; over the socket nobody can tell.
        if transport == TransportChoice::SharedMemory {
            writer.flush().expect("all was read");
        }
    });
}

#[cfg(feature = "tokio")]
mod tasks {
    use super::*;
    use ringbell::{AsyncByteStream, AsyncClient};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn run(work: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(work);
    }

    #[test]
    fn c2_every_timeout_of_tasks_is_told_to_the_server() {
        let serving = Serving::new(seconds_left);
        for transport in BOTH {
            run(async {
                let options = ConnectOptions::new().transport(transport);
                let client: AsyncClient =
                    options.connect_async(serving.path()).await.expect("connected");
                for timeout in TIMEOUTS {
                    let answer = client.call_timeout(b"", Some(timeout)).await;
                    is_told(&answer.expect("an answer"), timeout);
                }
                assert_eq!(client.call(b"").await.expect("an answer"), b"");
            });
        }
    }

    #[test]
    fn c7_tasks_are_shown_codes_as_the_application_gave_them() {
        let serving = Serving::new(failing);
        run(async {
            let client = AsyncClient::connect(serving.path()).await.expect("connected");
            is_422(client.call(b"").await.expect_err("an error"));
        });
    }

    fn each(test: impl AsyncFn(AsyncByteStream, AsyncByteStream, TransportChoice)) {
        for transport in BOTH {
            for swap in [false, true] {
                let (client, server, _listener, _directory) = pair(transport);
                run(async {
                    let [client, server] = [client, server].map(|end| end.into_async());
                    let (client, server) = (client.expect("watched"), server.expect("watched"));
                    let (writer, reader) = if swap { (server, client) } else { (client, server) };
                    test(writer, reader, transport).await;
                });
            }
        }
    }

    #[test]
    fn c11_a_task_that_writes_to_a_reader_that_is_gone_learns_of_it() {
        each(async |mut writer, mut reader, _| {
            writer.write_all(b"x").await.expect("taken");
            reader.read_exact(&mut [0]).await.expect("read");
            drop(reader);
            let mut taken = 0;
            while taken < 500 && writer.write(b"x").await.is_ok() && writer.flush().await.is_ok() {
                taken += 1;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert!(taken < 500, "it fills the ring");
            is_broken_pipe(writer.write(b"x").await);
            is_broken_pipe(writer.flush().await);
            is_broken_pipe(writer.shutdown().await);
        });
    }

    #[test]
    fn c11_a_task_that_ends_a_stream_whose_reader_is_gone_learns_of_it() {
        each(async |mut writer, reader, _| {
            drop(reader);
            is_broken_pipe(writer.shutdown().await);
        });
    }

    #[test]
    fn c11_a_task_whose_reader_has_read_all_ends_in_peace() {
        each(async |mut writer, mut reader, _| {
            writer.write_all(b"question").await.expect("taken");
            writer.shutdown().await.expect("ended");
            reader.read_to_end(&mut Vec::new()).await.expect("read");
            drop(reader);
            writer.flush().await.expect("all was read");
        });
    }
}
