//! Processes that fork while they have streams.

use crate::serving::Serving;
use crate::traffic::{Any, FLAVOURS, ask};
use ringbell::sync::{Ordering, PlainBool};
use ringbell::{ByteStream, ByteStreamError};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, Start, hear, say};
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::{becomes_true, done, observe, options, scaled, signals, wait_until};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

fn is_forked<T>(result: std::io::Result<T>) -> bool {
    result.err().as_ref().and_then(ByteStreamError::of) == Some(ByteStreamError::Forked)
}

/// One poll, by whoever does not wait.
fn polled<T>(
    poll: impl FnOnce(&mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<T>>,
) -> bool {
    let mut nobody = std::task::Context::from_waker(std::task::Waker::noop());
    match poll(&mut nobody) {
        std::task::Poll::Ready(result) => is_forked(result),
        std::task::Poll::Pending => false,
    }
}

/// Forks while other threads use a stream: one of them may hold its lock.
pub(crate) fn forking_beside_threads(arguments: &Arguments) {
    let stream = options().connect_bytes(arguments.text("path")).expect("connect");
    let (over, session) = (PlainBool::new(false), stream.session());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let _ = stream.stats();
                }
            });
        }
        for _ in 0..arguments.number("rounds") {
            let status = signals::in_a_fork(|| {
                let _ = (stream.transport(), stream.stats());
                stream.set_read_timeout(Some(Duration::ZERO));
                stream.set_write_timeout(None);
                u8::from(stream.session() != session || !is_forked(stream.read(&mut [0])))
            });
            assert_eq!(status, 0, "a forked child got something");
        }
        over.store(true, Ordering::Relaxed);
    });
    say("done");
}

pub(crate) fn a_child_beside_threads_that_use_a_stream_does_not_hang() -> Ran {
    let rounds = scaled(200).max(50);
    let serving = Serving::start("blocking");
    let start = Start::role("forking_beside_threads").with("path", serving.path().display());
    let mut process = start.with("rounds", rounds).start();
    process.expect("done");
    process.succeed();
    serving.stop();
    done!("{rounds} children beside two threads that use a stream")
}

/// Whether a forked child gets nothing out of what it has a copy of.
fn is_refused(stream: &mut Any) -> bool {
    match stream {
        Any::Blocking(stream) => {
            is_forked(ByteStream::read(stream, &mut [0]))
                && is_forked(stream.write(b"x"))
                && is_forked(stream.write(b""))
                && is_forked(stream.flush())
                && is_forked(stream.shutdown_write())
        }
        Any::Async(_, stream) => {
            let mut pin = std::pin::Pin::new(stream);
            let mut space = [0; 8];
            polled(|cx| pin.as_mut().poll_read(cx, &mut ReadBuf::new(&mut space)))
                && polled(|cx| pin.as_mut().poll_write(cx, b"x"))
                && polled(|cx| pin.as_mut().poll_flush(cx))
                && polled(|cx| pin.as_mut().poll_shutdown(cx))
        }
    }
}

/// Forks while a reader sleeps on the stream, and while nobody does; the children use and drop what
/// they have copies of.
pub(crate) fn forking(arguments: &Arguments) {
    let path = PathBuf::from(arguments.text("path"));
    let flavour = arguments.text("flavour");
    for round in 0..arguments.number("rounds") {
        let mut stream = Some(Any::connect(flavour, &path));
        let there = stream.as_mut().expect("there");
        there.write_all(&ask(b'h', round, 0)).expect("room");
        // What was written and not read is the parent's, too.
        there.write_all(b"one ").expect("room");
        let status = signals::in_a_fork(|| {
            let mut copy = stream.take();
            let refused = copy.as_mut().is_some_and(is_refused);
            if let Some(Any::Async(runtime, stream)) = copy.take() {
                drop(stream);
                // It has threads that do not exist here, and an epoll that is its parent's.
                std::mem::forget(runtime);
            }
            u8::from(!refused)
        });
        assert_eq!(status, 0, "a forked child got something");
        let mut stream = stream.expect("this is the parent");
        stream.write_all(b"two").expect("the stream goes on");
        stream.end().expect("an end");
        // Sleeps in between: what the child did must not keep this from being woken.
        assert_eq!(stream.read_to_end().expect("the end"), b"one two");
    }
    say("done");
}

pub(crate) fn a_forked_child_touches_nothing() -> Ran {
    let rounds = scaled(20).max(3);
    for flavour in FLAVOURS {
        let serving = Serving::start("blocking");
        let start =
            Start::role("forking").with("path", serving.path().display()).with("flavour", flavour);
        let mut process = start.with("rounds", rounds).start();
        process.expect("done");
        process.succeed();
        serving.stop();
        tick();
    }
    done!("{rounds} children for each way to wait, that used streams and dropped them")
}

/// Forks a child that holds all descriptors until the file `over` is there.
pub(crate) fn leave_a_child(arguments: &Arguments) {
    let (born, over) = (arguments.text("born").to_owned(), arguments.text("over").to_owned());
    std::thread::spawn(move || {
        signals::in_a_fork(|| {
            std::fs::write(&born, std::process::id().to_string()).expect("told");
            // Without end it goes by itself.
            let _ = becomes_true(Duration::from_secs(25), || Path::new(&over).exists());
            0
        })
    });
}

/// A process that holds all descriptors of its parent until a file is there.
pub(crate) struct Heir {
    pid: u32,
    over: PathBuf,
}

impl Heir {
    pub(crate) fn born(born: &Path, over: &Path) -> Self {
        let mut pid = 0;
        wait_until("the child is there", || {
            pid = std::fs::read_to_string(born).ok().and_then(|pid| pid.parse().ok()).unwrap_or(0);
            pid != 0
        });
        Self { pid, over: over.to_owned() }
    }

    /// It is still there; and from now on not any more.
    pub(crate) fn end(self) {
        let state = observe::state(self.pid);
        assert!(!matches!(state, None | Some('Z')), "learnt only when the child let go: {state:?}");
        std::fs::write(&self.over, "").expect("told");
        wait_until("the child is gone", || observe::state(self.pid).is_none());
    }
}

/// Connects, forks a child that holds all descriptors until it is told to end, and waits for its
/// own end.
pub(crate) fn leaving(arguments: &Arguments) {
    let mut stream = options().connect_bytes(arguments.text("path")).expect("connect");
    stream.write_all(&ask(b'r', 9, 0)).expect("room");
    leave_a_child(arguments);
    say("ready");
    let _ = hear();
}

pub(crate) fn a_child_that_holds_the_socket_keeps_no_dead_client_alive() -> Ran {
    for flavour in FLAVOURS {
        let mut serving = Serving::start(flavour);
        let dir = tempfile::tempdir().expect("a directory");
        let (born, over) = (dir.path().join("born"), dir.path().join("over"));
        let start = Start::role("leaving").with("path", serving.path().display());
        let mut client = start.with("born", born.display()).with("over", over.display()).start();
        client.expect("ready");
        let heir = Heir::born(&born, &over);
        client.kill();
        assert_eq!(serving.process.expect("read").trim(), "0 Err(Some(Gone))");
        heir.end();
        serving.stop();
        tick();
    }
    done!("a reader of each kind, whose client left a child behind")
}

/// The child holds the lifeline, so only the process tells. There is room in the ring all the time:
/// a write learns of it all the same.
pub(crate) fn c11_a_writer_learns_of_a_server_that_left_a_child() -> Ran {
    for flavour in FLAVOURS {
        let dir = tempfile::tempdir().expect("a directory");
        let file = |name| dir.path().join(name);
        let start = Start::role("serve_and_fork").with("path", file("s").display());
        let start = start.with("born", file("born").display()).with("over", file("over").display());
        let mut server = start.start();
        server.expect("ready");
        let mut stream = Any::connect(flavour, &file("s"));
        stream.write_all(&ask(b'r', 9, 0)).expect("room");
        let heir = Heir::born(&file("born"), &file("over"));
        server.kill();
        server.is_killed();
        let mut error = None;
        // Each write takes a line of the ring, and there are a thousand.
        for _ in 0..100 {
            std::thread::sleep(Duration::from_millis(5));
            error = stream.write_all(b"x").err();
            if error.is_some() {
                break;
            }
        }
        let error = error.expect("a write that says that nobody reads");
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        heir.end();
        tick();
    }
    done!("a writer of each kind, whose server left a child behind")
}
