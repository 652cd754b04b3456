//! A server that is none, for clients to meet.

use crate::CAPACITY;
use ringbell::layout;
use ringbell::memory::OwnLines;
use ringbell::{Client, ConnectError, ConnectOptions};
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::raw::{self, Segments};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

/// A server that is none, at a path of its own.
pub(crate) struct Fake {
    pub(crate) listener: UnixListener,
    dir: tempfile::TempDir,
}

impl Fake {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(dir.path().join("fake.sock")).expect("bind");
        Self { listener, dir }
    }

    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("fake.sock")
    }

    /// What a client comes to that connects while `answer` is the server's part.
    pub(crate) fn greets(&self, answer: impl FnOnce(UnixStream)) -> Result<(), ConnectError> {
        tick();
        let path = self.path();
        std::thread::scope(|scope| {
            let client = scope.spawn(move || connect(&path).map(drop));
            answer(raw::accept(&self.listener));
            client.join().expect("the client does not panic")
        })
    }
}

fn connect(path: &Path) -> Result<Client, ConnectError> {
    ConnectOptions::new().timeout(Some(Duration::from_millis(300))).connect(path)
}

/// Sends a Welcome with these segments, and waits for the client's end.
pub(crate) fn welcome_with(
    stream: &UnixStream,
    welcome: &raw::Welcome,
    segments: &[std::os::fd::OwnedFd],
) {
    let descriptors: Vec<_> = segments.iter().map(AsFd::as_fd).collect();
    raw::send(stream, &welcome.encode(), &descriptors);
    let _ = raw::last_words(stream);
}

/// A client with a session at a server that does what it likes.
pub(crate) struct Attached {
    pub(crate) client: Client,
    pub(crate) stream: UnixStream,
    pub(crate) segments: Segments,
    pub(crate) lines: OwnLines,
}

pub(crate) fn attached(fake: &Fake) -> Attached {
    tick();
    let welcome = raw::welcome(CAPACITY);
    let path = fake.path();
    std::thread::scope(|scope| {
        let client = scope.spawn(move || ConnectOptions::new().connect(path));
        let stream = raw::accept(&fake.listener);
        let segments = Segments::honest(&welcome);
        let descriptors: Vec<_> = segments.descriptors.iter().map(AsFd::as_fd).collect();
        raw::send(&stream, &welcome.encode(), &descriptors);
        let client = client.join().expect("the client does not panic").expect("connect");
        let lines =
            segments.response.own_lines(layout::CONTROL, usize::try_from(CAPACITY).expect("small"));
        Attached { client, stream, segments, lines }
    })
}
