//! The messages of the handshake, and how they are sent and received.

use ringbell::layout::{self};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

/// First eight bytes of a handshake message.
pub const MAGIC: u64 = u64::from_le_bytes(*b"RINGHELO");

/// The version of the session protocol.
const VERSION: u16 = 2;

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

/// A handshake message.
#[must_use]
pub fn message(kind: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a short body");
    [
        &MAGIC.to_le_bytes()[..],
        &length.to_le_bytes(),
        &kind.to_le_bytes(),
        &1u16.to_le_bytes(),
        body,
    ]
    .concat()
}

/// Where the features stand in a Hello.
pub(crate) const FEATURES: usize = 16 + 8;
/// The feature of a session that is a byte stream.
pub const BYTES: u8 = 4;

/// A Hello as an honest client sends it.
#[must_use]
pub fn hello(capacity: u64) -> Vec<u8> {
    let mut body = vec![0; 88];
    body[0..2].copy_from_slice(&VERSION.to_le_bytes());
    body[2..4].copy_from_slice(&VERSION.to_le_bytes());
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
    /// Whether a bell segment follows the other three.
    pub has_bell: bool,
}

impl Welcome {
    /// The message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let body = [
            &VERSION.to_le_bytes()[..],
            &(u16::from(self.has_pidfd) | u16::from(self.has_bell) << 1).to_le_bytes(),
            &self.domain.to_le_bytes(),
            &self.generation.to_le_bytes(),
            &self.session.to_le_bytes(),
            &self.request_capacity.to_le_bytes(),
            &self.response_capacity.to_le_bytes(),
            &(1u64 << 20).to_le_bytes(),
            &layout::status_segment_size(self.armed_words).to_le_bytes(),
            &self.armed_words.to_le_bytes(),
            &std::process::id().to_le_bytes(),
            &[0; 4 + 4 + 4 + 8],
        ]
        .concat();
        assert_eq!(body.len(), 88);
        message(kind::WELCOME, &body)
    }

    pub(crate) fn parse(body: &[u8]) -> Self {
        let u64_at =
            |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().expect("eight bytes"));
        Self {
            domain: u32::from_le_bytes(body[4..8].try_into().expect("four bytes")),
            generation: u64_at(8),
            session: u64_at(16),
            request_capacity: u64_at(24),
            response_capacity: u64_at(32),
            armed_words: u64_at(56),
            has_pidfd: body[2] & 1 != 0,
            has_bell: body[2] & 2 != 0,
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

/// Connects to any listener.
///
/// # Panics
/// If there is none.
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
        match rustix::net::recvmsg(stream, &mut [IoSliceMut::new(&mut header)], &mut control, flags)
        {
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
    let mut body =
        vec![0; u32::from_le_bytes(header[8..12].try_into().expect("four bytes")) as usize];
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
    let sent =
        rustix::net::sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
    assert_eq!(sent, Ok(bytes.len()));
}

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
        has_bell: true,
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

/// What a server sends to offer its socket, asked or not.
#[must_use]
pub fn fallback(max_message: u64) -> Vec<u8> {
    let body = [
        &14u32.to_le_bytes()[..], // the client asked for it
        &[0; 20],
        &VERSION.to_le_bytes(),
        &[0; 6],
        &77u64.to_le_bytes(),
        &5u64.to_le_bytes(),
        &max_message.to_le_bytes(),
        &std::process::id().to_le_bytes(),
        &[0; 4 + 8],
    ]
    .concat();
    assert_eq!(body.len(), 72);
    message(kind::FALLBACK, &body)
}
