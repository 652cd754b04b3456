//! Sessions that are made by hand, over rings and over the socket.

use super::frames::{Frame, frame, receive_frame};
use super::memory::map;
use super::messages::{FEATURES, READY, WAKE, Welcome, connect, hello, kind, receive, send};
use ringbell::layout::{self, offset};
use ringbell::memory::Window;
use rustix::fd::OwnedFd;
use rustix::fs::SealFlags;
use rustix::net::SendFlags;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// A session that was made by hand, of a client that may do what it likes.
#[derive(Debug)]
pub struct Session {
    /// The lifeline.
    pub stream: UnixStream,
    /// What the server said.
    pub welcome: Welcome,
    /// The segments' descriptors: request, response, status, and the bell if the server gives one;
    /// then the server's pidfd.
    pub descriptors: Vec<OwnedFd>,
    /// The request segment, writable.
    pub request: Window,
    /// The response segment.
    pub response: Window,
    /// The status segment.
    pub status: Window,
    /// Where the bell word is that wakes the server, writable: the bell page of the server's own
    /// user, or this session's request segment.
    pub bell: Window,
}

impl Session {
    /// Goes through an honest handshake, up to READY, which is sent.
    ///
    /// # Panics
    /// If the server does not consent.
    #[must_use]
    pub fn open(path: &Path, capacity: u64) -> Self {
        Self::open_for(path, capacity, 0)
    }

    /// The same, asking for these features.
    ///
    /// # Panics
    /// If the server does not consent.
    #[must_use]
    pub fn open_for(path: &Path, capacity: u64, features: u8) -> Self {
        let session = Self::greet(path, capacity, features);
        session.say_ready();
        session
    }

    /// Allocates all pages, seals the request segment and says READY, as an honest client does.
    ///
    /// # Panics
    /// If it is sealed already, or READY cannot be sent.
    pub fn say_ready(&self) {
        touch(&self.request);
        touch(&self.response);
        let seals = SealFlags::FUTURE_WRITE | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&self.descriptors[0], seals).expect("sealed");
        send(&self.stream, &[READY], &[]);
    }

    /// The same without READY.
    ///
    /// # Panics
    /// If the server does not consent.
    #[must_use]
    pub fn open_but_for_ready(path: &Path, capacity: u64) -> Self {
        Self::greet(path, capacity, 0)
    }

    fn greet(path: &Path, capacity: u64, features: u8) -> Self {
        let stream = connect(path);
        let mut hello = hello(capacity);
        hello[FEATURES] = features;
        send(&stream, &hello, &[]);
        let answer = receive(&stream).expect("an answer");
        assert_eq!(answer.kind, kind::WELCOME, "{answer:?}");
        let welcome = Welcome::parse(&answer.body);
        let descriptors = answer.descriptors;
        let beside = usize::from(welcome.has_bell) + usize::from(welcome.has_pidfd);
        assert_eq!(descriptors.len(), 3 + beside);
        let request_size = layout::ring_segment_size(welcome.request_capacity);
        let response_size = layout::ring_segment_size(welcome.response_capacity);
        let status_size = layout::status_segment_size(welcome.armed_words);
        let request = map(&descriptors[0], request_size, true).expect("map");
        let bell = match welcome.has_bell {
            true => map(&descriptors[3], layout::BELL_SEGMENT_SIZE, true).expect("map"),
            false => request.clone(),
        };
        Self {
            request,
            bell,
            response: map(&descriptors[1], response_size, false).expect("map"),
            status: map(&descriptors[2], status_size, false).expect("map"),
            stream,
            welcome,
            descriptors,
        }
    }

    /// Makes the server look at its rings, as an honest client does, and by a byte on the lifeline.
    pub fn ring(&self) {
        let seq = self.bell.bell_word(offset::SEQ);
        seq.advance(seq.load());
        seq.wake();
        // Without waiting: a server that sleeps on its futex does not read them.
        let _ = rustix::net::send(&self.stream, &[WAKE], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}

/// Has the kernel allocate the pages of a segment that are missing, as an honest client does before
/// READY.
///
/// # Panics
/// If it cannot be mapped.
pub fn touch_all(fd: &OwnedFd) {
    let size = rustix::fs::fstat(fd).expect("fstat").st_size;
    touch(&map(fd, u64::try_from(size).expect("positive"), false).expect("map"));
}

/// Has the kernel allocate the pages of a segment that are missing: a load from a hole does that.
fn touch(window: &Window) {
    for page in (0..window.len()).step_by(4096) {
        let _ = window.peer_word(page).load();
    }
}

/// A session over the socket that was made by hand, of a client that may do what it likes.
#[derive(Debug)]
pub struct SocketSession {
    /// The socket: frames in both directions.
    pub stream: UnixStream,
    /// Largest message in bytes.
    pub max_message: u64,
}

impl SocketSession {
    /// Goes through an honest handshake, up to READY, which is sent.
    ///
    /// # Panics
    /// If the server does not consent.
    #[must_use]
    pub fn open(path: &Path) -> Self {
        Self::open_for(path, 0)
    }

    /// The same, asking for these features.
    ///
    /// # Panics
    /// If the server does not consent.
    #[must_use]
    pub fn open_for(path: &Path, features: u8) -> Self {
        let stream = connect(path);
        let mut hello = hello(0);
        hello[FEATURES] = features;
        // The transport: behind the header, two versions and the role.
        hello[16 + 5] = 2;
        send(&stream, &hello, &[]);
        let answer = receive(&stream).expect("an answer");
        assert_eq!(answer.kind, kind::FALLBACK, "{answer:?}");
        assert!(answer.descriptors.is_empty());
        let max_message = u64::from_le_bytes(answer.body[48..56].try_into().expect("eight bytes"));
        send(&stream, &[READY], &[]);
        Self { stream, max_message }
    }

    /// Sends bytes; whether the server took them.
    pub fn send(&self, bytes: &[u8]) -> bool {
        (&self.stream).write_all(bytes).is_ok()
    }

    /// Sends a request.
    ///
    /// # Panics
    /// If it cannot be sent.
    pub fn request(&self, call: u64, payload: &[u8]) {
        assert!(self.send(&frame(layout::Kind::Request, 0, 0, call, payload)));
    }

    /// The next frame, see [`receive_frame`].
    #[must_use]
    pub fn receive(&self) -> Option<Frame> {
        receive_frame(&self.stream)
    }
}
