//! The handshake by hand, from its description in `src/handshake/wire.rs`, and memory that is written at will: for
//! peers that are not honest. Nothing of the library's own handshake is used, so the two check each other.

#![allow(unsafe_code, reason = "maps memory that others write, as hostile peers do")]

use ringbell::layout::{self, Identity, SegmentKind, offset};
use ringbell::memory::Window;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

/// First eight bytes of a handshake message.
pub const MAGIC: u64 = u64::from_le_bytes(*b"RINGHELO");
/// Kinds of handshake messages.
pub mod kind {
    /// The client's opening.
    pub const HELLO: u16 = 1;
    /// The server's consent.
    pub const WELCOME: u16 = 2;
    /// The server offers its socket only.
    pub const FALLBACK: u16 = 3;
    /// The server does not want this client.
    pub const REJECT: u16 = 4;
}
/// The byte with which a client says that it has mapped everything.
pub const READY: u8 = b'R';
/// The byte with which either side wakes the other in its event loop.
pub const WAKE: u8 = b'W';
/// The byte with which a client leaves.
pub const GOODBYE: u8 = b'G';
/// All seals that a segment has which its maker alone writes.
pub const CLOSED: SealFlags =
    SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::FUTURE_WRITE).union(SealFlags::SEAL);

/// A handshake message.
#[must_use]
pub fn message(kind: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a short body");
    [&MAGIC.to_le_bytes()[..], &length.to_le_bytes(), &kind.to_le_bytes(), &1u16.to_le_bytes(), body].concat()
}

/// Where the features stand in a Hello.
const FEATURES: usize = 16 + 8;
/// The feature of a session that is a byte stream.
pub const BYTES: u8 = 4;

/// A Hello as an honest client sends it.
#[must_use]
pub fn hello(capacity: u64) -> Vec<u8> {
    let mut body = vec![0; 88];
    body[0..2].copy_from_slice(&1u16.to_le_bytes());
    body[2..4].copy_from_slice(&1u16.to_le_bytes());
    body[4] = 1; // a client
    body[5] = 1; // that wants shared memory
    body[6] = 3; // whose name has three letters
    body[16..24].copy_from_slice(&capacity.to_le_bytes());
    body[24..32].copy_from_slice(&capacity.to_le_bytes());
    body[40..43].copy_from_slice(b"raw");
    message(kind::HELLO, &body)
}

/// What a Welcome says.
#[derive(Debug, Clone, Copy)]
pub struct Welcome {
    /// Index of the client's armed word in the status segment.
    pub domain: u32,
    /// The server's generation.
    pub generation: u64,
    /// The session.
    pub session: u64,
    /// Capacity of the request ring in bytes.
    pub request_capacity: u64,
    /// Capacity of the response ring in bytes.
    pub response_capacity: u64,
    /// Armed words in the status segment.
    pub armed_words: u64,
    /// Whether a pidfd follows the segments.
    pub has_pidfd: bool,
}

impl Welcome {
    /// The message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let body = [
            &1u16.to_le_bytes()[..],
            &u16::from(self.has_pidfd).to_le_bytes(),
            &self.domain.to_le_bytes(),
            &self.generation.to_le_bytes(),
            &self.session.to_le_bytes(),
            &self.request_capacity.to_le_bytes(),
            &self.response_capacity.to_le_bytes(),
            &(1u64 << 20).to_le_bytes(),
            &layout::status_segment_size(self.armed_words).to_le_bytes(),
            &self.armed_words.to_le_bytes(),
            &std::process::id().to_le_bytes(),
            &0u32.to_le_bytes(),
        ]
        .concat();
        assert_eq!(body.len(), 72);
        message(kind::WELCOME, &body)
    }

    fn parse(body: &[u8]) -> Self {
        let u64_at = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().expect("eight bytes"));
        Self {
            domain: u32::from_le_bytes(body[4..8].try_into().expect("four bytes")),
            generation: u64_at(8),
            session: u64_at(16),
            request_capacity: u64_at(24),
            response_capacity: u64_at(32),
            armed_words: u64_at(56),
            has_pidfd: body[2] & 1 != 0,
        }
    }
}

/// A handshake message that was received.
#[derive(Debug)]
pub struct Received {
    /// Its kind.
    pub kind: u16,
    /// Its body.
    pub body: Vec<u8>,
    /// The descriptors that came with it.
    pub descriptors: Vec<OwnedFd>,
}

impl Received {
    /// The reason of a refusal, as a number.
    ///
    /// # Panics
    /// If it is no refusal.
    #[must_use]
    pub fn reason(&self) -> u32 {
        assert!([kind::FALLBACK, kind::REJECT].contains(&self.kind), "{self:?}");
        u32::from_le_bytes(self.body[..4].try_into().expect("four bytes"))
    }
}

/// Connects, whoever listens.
///
/// # Panics
/// If nobody does.
#[must_use]
pub fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).expect("connect");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream
}

/// The next handshake message; `None` if the other end hung up.
///
/// # Panics
/// If nothing comes for 20 s, or what comes is no such message.
#[must_use]
pub fn receive(mut stream: &UnixStream) -> Option<Received> {
    let mut header = [0; 16];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let count = loop {
        let flags = RecvFlags::CMSG_CLOEXEC;
        match rustix::net::recvmsg(stream, &mut [IoSliceMut::new(&mut header)], &mut control, flags) {
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CONNRESET) => return None,
            other => break other.expect("recvmsg").bytes,
        }
    };
    if count == 0 {
        return None;
    }
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    stream.read_exact(&mut header[count..]).expect("a whole header");
    assert_eq!(header[..8], MAGIC.to_le_bytes());
    let mut body = vec![0; u32::from_le_bytes(header[8..12].try_into().expect("four bytes")) as usize];
    stream.read_exact(&mut body).expect("a whole body");
    let kind = u16::from_le_bytes(header[12..14].try_into().expect("two bytes"));
    Some(Received { kind, body, descriptors })
}

/// Waits until the other end hangs up; the bytes that came before.
///
/// # Panics
/// If it does not within 20 s.
#[must_use]
pub fn last_words(mut stream: &UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => {
            panic!("it does not hang up: {error}")
        }
        _ => bytes,
    }
}

/// Sends bytes, with descriptors on the first of them.
///
/// # Panics
/// If they cannot be sent.
pub fn send(mut stream: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    if descriptors.is_empty() {
        stream.write_all(bytes).expect("send");
        return;
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
    let sent = rustix::net::sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
    assert_eq!(sent, Ok(bytes.len()));
}

struct Mapping {
    base: NonNull<core::ffi::c_void>,
    len: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread.
unsafe impl Send for Mapping {}
// SAFETY: it is only ever unmapped, by its last owner.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing borrowed from it lives on: windows keep it alive.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr(), self.len) };
    }
}

/// Maps `len` bytes of a descriptor.
///
/// # Errors
/// Those of `mmap`.
pub fn map(fd: impl AsFd, len: u64, writable: bool) -> rustix::io::Result<Window> {
    let len = usize::try_from(len).expect("64 bits");
    let protection = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
    // SAFETY: a new mapping, which replaces nothing.
    let base = unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED, fd, 0) }?;
    let base = NonNull::new(base).expect("never at 0");
    let keep = Arc::new(Mapping { base, len });
    // SAFETY: mapped above and kept by `keep`; no reference to it exists. The descriptors of this file's users
    // cannot shrink, or are their own.
    Ok(unsafe { Window::new(base.cast(), len, writable, keep) })
}

/// Drops the pages of a mapping from the file beneath it; what `madvise(MADV_REMOVE)` says.
///
/// # Errors
/// Those of `madvise`.
pub fn punch(fd: impl AsFd, len: u64) -> rustix::io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    fallocate(fd, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, len)
}

/// A session that was made by hand, of a client that may do what it likes.
#[derive(Debug)]
pub struct Session {
    /// The lifeline.
    pub stream: UnixStream,
    /// What the server said.
    pub welcome: Welcome,
    /// The segments' descriptors: request, response, status, bell; then the server's pidfd.
    pub descriptors: Vec<OwnedFd>,
    /// The request segment, writable.
    pub request: Window,
    /// The response segment.
    pub response: Window,
    /// The status segment.
    pub status: Window,
    /// The domain's bell page, writable.
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
        send(&session.stream, &[READY], &[]);
        session
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
        assert_eq!(descriptors.len(), 4 + usize::from(welcome.has_pidfd));
        let request_size = layout::ring_segment_size(welcome.request_capacity);
        let response_size = layout::ring_segment_size(welcome.response_capacity);
        let status_size = layout::status_segment_size(welcome.armed_words);
        Self {
            request: map(&descriptors[0], request_size, true).expect("map"),
            response: map(&descriptors[1], response_size, false).expect("map"),
            status: map(&descriptors[2], status_size, false).expect("map"),
            bell: map(&descriptors[3], layout::BELL_SEGMENT_SIZE, true).expect("map"),
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

/// The four segments of a server that may do what it likes.
#[derive(Debug)]
pub struct Segments {
    /// Request, response, status, bell.
    pub descriptors: Vec<OwnedFd>,
    /// The request segment.
    pub request: Window,
    /// The response segment, writable.
    pub response: Window,
    /// The status segment, writable.
    pub status: Window,
}

/// The descriptor of a segment with this size, these seals and this identity.
///
/// # Panics
/// If there can be none.
#[must_use]
pub fn segment(identity: &Identity, size: u64, seals: SealFlags) -> (OwnedFd, Window) {
    let fd =
        rustix::fs::memfd_create("fake", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("memfd");
    rustix::fs::ftruncate(&fd, size.max(4096)).expect("ftruncate");
    let window = map(&fd, size.max(4096), true).expect("map");
    let pair = |first: u32, second: u32| u64::from(first) | u64::from(second) << 32;
    let words = [
        identity.magic,
        pair(identity.version, identity.kind),
        identity.generation,
        identity.session,
        identity.capacity,
        identity.total,
        identity.created_ns,
    ];
    for (index, word) in words.into_iter().enumerate() {
        window.own_word(offset::IDENTITY + 8 * index).store(word, ringbell::sync::Ordering::Relaxed);
    }
    rustix::fs::ftruncate(&fd, size).expect("ftruncate");
    rustix::fs::fcntl_add_seals(&fd, seals).expect("seals");
    (fd, window)
}

/// What the identity of a segment of `welcome` is.
#[must_use]
pub fn identity(welcome: &Welcome, kind: SegmentKind) -> Identity {
    let (session, capacity, total) = match kind {
        SegmentKind::Request => {
            (welcome.session, welcome.request_capacity, layout::ring_segment_size(welcome.request_capacity))
        }
        SegmentKind::Response => {
            (welcome.session, welcome.response_capacity, layout::ring_segment_size(welcome.response_capacity))
        }
        SegmentKind::Status => (0, welcome.armed_words, layout::status_segment_size(welcome.armed_words)),
        SegmentKind::Bell => (u64::from(welcome.domain), 0, layout::BELL_SEGMENT_SIZE),
    };
    Identity {
        magic: layout::MAGIC,
        version: layout::LAYOUT_VERSION,
        kind: kind as u32,
        generation: welcome.generation,
        session,
        capacity,
        total,
        created_ns: 1,
    }
}

/// The seals of a segment of this kind when it reaches the client.
#[must_use]
pub fn seals(kind: SegmentKind) -> SealFlags {
    match kind {
        SegmentKind::Request => SealFlags::SHRINK | SealFlags::GROW,
        SegmentKind::Response | SegmentKind::Status => CLOSED,
        SegmentKind::Bell => SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    }
}

/// All kinds, in the order of their descriptors.
pub const KINDS: [SegmentKind; 4] =
    [SegmentKind::Request, SegmentKind::Response, SegmentKind::Status, SegmentKind::Bell];

/// A Welcome for `capacity`.
#[must_use]
pub fn welcome(capacity: u64) -> Welcome {
    Welcome {
        domain: 0,
        generation: 77,
        session: 5,
        request_capacity: capacity,
        response_capacity: capacity,
        armed_words: 4,
        has_pidfd: false,
    }
}

impl Segments {
    /// Honest segments for `welcome`.
    #[must_use]
    pub fn honest(welcome: &Welcome) -> Self {
        let make = |kind| {
            let identity = identity(welcome, kind);
            segment(&identity, identity.total, seals(kind))
        };
        let [request, response, status, bell] = KINDS.map(make);
        Self {
            descriptors: vec![request.0, response.0, status.0, bell.0],
            request: request.1,
            response: response.1,
            status: status.1,
        }
    }
}

/// Accepts one client and reads its Hello.
///
/// # Panics
/// If it sends something else.
#[must_use]
pub fn accept(listener: &UnixListener) -> UnixStream {
    let (stream, _) = listener.accept().expect("accept");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let hello = receive(&stream).expect("a Hello");
    assert_eq!(hello.kind, kind::HELLO);
    stream
}

/// A frame as it travels over a socket.
#[must_use]
pub fn frame(kind: layout::Kind, flags: u8, code: u16, call: u64, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a short body");
    let header = layout::HeaderWord::new(kind, flags, code, length);
    [&header.0.to_le_bytes()[..], &call.to_le_bytes(), body].concat()
}

/// A frame that was received over a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its header.
    pub header: layout::HeaderWord,
    /// Its call id.
    pub call: u64,
    /// Extensions and payload.
    pub body: Vec<u8>,
}

impl Frame {
    /// Its kind; `None` if there is no such kind.
    #[must_use]
    pub fn kind(&self) -> Option<layout::Kind> {
        self.header.kind()
    }
}

/// The next frame; `None` at the end of the stream, also within a frame.
///
/// # Panics
/// If nothing comes for 20 s.
#[must_use]
pub fn receive_frame(mut stream: &UnixStream) -> Option<Frame> {
    let mut header = [0; 16];
    let mut whole = |bytes: &mut [u8]| match stream.read_exact(bytes) {
        Ok(()) => true,
        Err(error)
            if [std::io::ErrorKind::UnexpectedEof, std::io::ErrorKind::ConnectionReset]
                .contains(&error.kind()) =>
        {
            false
        }
        Err(error) => panic!("no frame comes: {error}"),
    };
    if !whole(&mut header) {
        return None;
    }
    let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    let (header, call) = (layout::HeaderWord(word(0)), word(8));
    let mut body = vec![0; header.length() as usize];
    whole(&mut body).then_some(Frame { header, call, body })
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

/// What a server sends to offer its socket, asked or not.
#[must_use]
pub fn fallback(max_message: u64) -> Vec<u8> {
    let body = [
        &14u32.to_le_bytes()[..], // the client asked for it
        &[0; 20],
        &1u16.to_le_bytes(),
        &[0; 6],
        &77u64.to_le_bytes(),
        &5u64.to_le_bytes(),
        &max_message.to_le_bytes(),
        &std::process::id().to_le_bytes(),
        &[0; 4],
    ]
    .concat();
    assert_eq!(body.len(), 64);
    message(kind::FALLBACK, &body)
}
