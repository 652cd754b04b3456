//! The second transport: the frames of `layout.rs` over a stream socket, for clients that
//! cannot have shared memory. A state machine that never waits: who waits for the socket, and how,
//! is the drivers' business.
//!
//! ```text
//!   byte 0             8              16
//!        +-------------+--------------+----------------------------
//!        | header word | call id      | extensions, then payload
//!        | u64         | u64          | `length` bytes in all
//!        +-------------+--------------+----------------------------
//! ```
//!
//! Little-endian, one frame directly behind the other: no alignment and no padding. A body has at
//! most [`MAX_BODY`] bytes of payload and [`EXTENSIONS`] of extensions; longer messages travel as
//! the same fragments as in the rings. So the length of a frame is checked as soon as its header is
//! there, and a length that lies costs nothing: memory is taken for frames of an acceptable length
//! only, one at a time.
//!
//! The two directions are independent. A peer that reads no more has not taken back what it sent
//! before: after [`Broken`] of [`SocketLink::flush`] there may be frames to read, and what is
//! pushed then goes nowhere.
//!
//! # Memory
//!
//! Each direction has one buffer, which grows to at most [`OUT_LIMIT`] and a frame, or to one
//! frame. A buffer of up to [`KEEP`] bytes is a part of what a session costs. A server charges a
//! larger one to its client ([`SocketLink::charge`]), by capacity, before it grows, until it is
//! freed. The outgoing one is freed when it is empty, the incoming one when it is empty and nothing
//! more is there, or before the server sleeps.
//!
//! | there is no room for | then |
//! |---|---|
//! | what is to be sent | this frame is taken, and no other until the socket has taken something |
//! | what arrives | one frame is read all the same: none is begun where requests find no room |

use crate::link::held::{Account, Charge};
use crate::memory::FrameHeader;
use crate::memory::layout::{FRAME_HEADER, HeaderWord};
use crate::os::peer_socket::{PeerSocket, Received};
use crate::protocol::ring::Fault;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::SendFlags;
use std::sync::Arc;

#[cfg(test)]
mod tests;

/// Largest payload of one frame in bytes.
pub(crate) const MAX_BODY: usize = 64 * 1024;
/// Most bytes of extensions in one frame.
pub(crate) const EXTENSIONS: usize = 24;
/// Size of the largest frame in bytes.
const MAX_FRAME: usize = FRAME_HEADER + MAX_BODY + EXTENSIONS;
/// Unsent bytes from which on no more frames are taken. The frame that reaches the limit may exceed
/// it.
pub(crate) const OUT_LIMIT: usize = 256 * 1024;
/// Size in bytes that a buffer may keep while it is empty, and has for frames that are no larger.
const KEEP: usize = 16 * 1024;
/// Most bytes that the outgoing buffer ever has.
const OUT_MOST: usize = OUT_LIMIT + MAX_FRAME;

/// What came of [`SocketLink::try_push`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a frame that found no room is still to be sent"]
pub(crate) enum Pushed {
    /// The frame is in the buffer, to be flushed.
    Done,
    /// Too much is unsent; try again when [`SocketLink::has_room`].
    Full,
}

/// What came of [`SocketLink::fill`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "the end of the stream is told here alone"]
pub(crate) enum Filled {
    /// So many bytes came, at least one.
    Some(usize),
    /// Nothing is there yet.
    Nothing,
    /// The buffer holds all that it may: take a frame (or a fault) first.
    Full,
    /// The peer sends no more. What it sent before is in the buffer.
    End,
    /// The peer has sent descriptors, which no session has. Nothing behind them is read.
    Descriptors,
}

/// The socket cannot be used any more, in the direction in which this was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The peer is gone, or reads no more.
    HungUp,
    /// Any other failure of the system.
    Io(Errno),
}

/// The next frame, complete in the buffer and checked. Its bytes are had from [`SocketLink::body`].
#[derive(Debug)]
#[must_use = "a frame that is not released is found again"]
pub(crate) struct Frame {
    /// Its header word, which was checked; the length is acceptable.
    pub(crate) header: FrameHeader,
    /// The call id.
    pub(crate) call: u64,
}

impl Frame {
    /// Length of the body in bytes, extensions included.
    pub(crate) fn len(&self) -> usize {
        self.header.len()
    }

    fn size(&self) -> usize {
        FRAME_HEADER + self.len()
    }
}

/// One end of a stream of frames.
#[derive(Debug)]
pub(crate) struct SocketLink {
    socket: Arc<PeerSocket>,
    outgoing: Vec<u8>,
    /// How much of `outgoing` the socket has taken.
    sent: usize,
    /// How many bytes the socket has taken since the session began.
    taken: u64,
    /// Why nothing is sent any more.
    broken: Option<Broken>,
    incoming: Vec<u8>,
    /// How much of `incoming` was released.
    read: usize,
    /// How many bytes were released since the session began.
    released: u64,
    /// The peer sends no more.
    ended: bool,
    /// To which large buffers are charged; `None` if they are not.
    account: Option<Arc<Account>>,
    // Behind the buffers: bytes are freed before they are given back.
    outgoing_charge: Charge,
    incoming_charge: Charge,
    /// There was no room for the last growth of `outgoing`, and the socket has taken nothing since.
    over: bool,
}

impl SocketLink {
    /// Nothing is under way yet: what came before the first frame has been read from the socket.
    pub(crate) fn new(socket: Arc<PeerSocket>) -> Self {
        Self {
            socket,
            outgoing: Vec::new(),
            sent: 0,
            taken: 0,
            broken: None,
            incoming: Vec::new(),
            read: 0,
            released: 0,
            ended: false,
            account: None,
            outgoing_charge: Charge::default(),
            incoming_charge: Charge::default(),
            over: false,
        }
    }

    /// From now on large buffers are charged.
    pub(crate) fn charge(&mut self, account: Arc<Account>) {
        self.account = Some(account);
    }

    /// What is charged for the incoming buffer: 0 unless it is a large one.
    pub(crate) fn large_buffer(&self) -> u64 {
        self.incoming_charge.bytes()
    }

    /// The socket, to wait for.
    #[cfg(test)]
    pub(crate) fn socket(&self) -> &Arc<PeerSocket> {
        &self.socket
    }

    /// Appends a frame to what is to be sent: `header` (its length is set here), then `words` as
    /// the extensions that its flags announce, then `payload`, of at most [`MAX_BODY`] bytes. Makes
    /// no system call.
    ///
    /// Once the outgoing direction is broken the frame is dropped: nobody will read it.
    #[allow(clippy::cast_possible_truncation, reason = "a frame's body is far below 4 GiB")]
    pub(crate) fn try_push(
        &mut self,
        header: HeaderWord,
        call: u64,
        words: &[u64],
        payload: &[u8],
    ) -> Pushed {
        debug_assert!(
            payload.len() <= MAX_BODY && words.len() * 8 <= EXTENSIONS,
            "fragments are cut to fit"
        );
        if self.broken.is_some() {
            return Pushed::Done;
        }
        if !self.has_room() {
            return Pushed::Full;
        }
        let body = words.len() * 8 + payload.len();
        if self.outgoing.len() + FRAME_HEADER + body > self.outgoing.capacity() {
            self.grow_outgoing(FRAME_HEADER + body);
        }
        self.outgoing.extend_from_slice(&header.with(header.flags(), body as u32).0.to_le_bytes());
        self.outgoing.extend_from_slice(&call.to_le_bytes());
        for word in words {
            self.outgoing.extend_from_slice(&word.to_le_bytes());
        }
        self.outgoing.extend_from_slice(payload);
        Pushed::Done
    }

    /// Makes space for so many bytes more.
    #[cold]
    fn grow_outgoing(&mut self, more: usize) {
        // Before more memory is taken.
        self.outgoing.drain(..self.sent);
        self.sent = 0;
        let need = self.outgoing.len() + more;
        let has = self.outgoing.capacity();
        if need <= has {
            return;
        }
        let size = need.max(2 * has).min(OUT_MOST);
        if let Some(account) = self.account.as_ref().filter(|_| size > KEEP)
            && !self.outgoing_charge.grow_for_answer(account, size)
        {
            self.outgoing_charge.set(account, size);
            self.over = true;
        }
        self.outgoing.reserve_exact(size - self.outgoing.len());
    }

    /// Hands the socket as much as it takes. Something may be left ([`Self::has_unsent`]): then go
    /// on when the socket is writable.
    ///
    /// # Errors
    /// The outgoing direction is broken; what was unsent is dropped. Said again by every later
    /// call.
    pub(crate) fn flush(&mut self) -> Result<(), Broken> {
        if let Some(broken) = self.broken {
            return Err(broken);
        }
        while self.has_unsent() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let rest = &self.outgoing[self.sent..];
            match retry_on_intr(|| rustix::net::send(&**self.socket, rest, flags)) {
                Ok(sent) => {
                    self.sent += sent;
                    self.taken += sent as u64;
                    self.over = false;
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(errno) => {
                    let broken = match errno {
                        Errno::PIPE | Errno::CONNRESET => Broken::HungUp,
                        other => Broken::Io(other),
                    };
                    self.broken = Some(broken);
                    self.outgoing = Vec::new();
                    self.outgoing_charge = Charge::default();
                    self.sent = 0;
                    return Err(broken);
                }
            }
        }
        self.sent = 0;
        self.outgoing.clear();
        give_back(&mut self.outgoing, &mut self.outgoing_charge);
        Ok(())
    }

    /// Whether [`Self::flush`] has something to do.
    #[inline]
    pub(crate) fn has_unsent(&self) -> bool {
        self.sent != self.outgoing.len()
    }

    /// How many bytes the socket has taken since the session began.
    pub(crate) fn taken_bytes(&self) -> u64 {
        self.taken
    }

    /// Whether another frame would be taken.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        self.unsent_bytes() < OUT_LIMIT && !self.over
    }

    /// Bytes that the socket has not taken yet.
    #[inline]
    pub(crate) fn unsent_bytes(&self) -> usize {
        self.outgoing.len() - self.sent
    }

    /// Reads once from the socket. There may be more to read after it.
    ///
    /// # Errors
    /// The incoming direction is broken. What came before is in the buffer.
    pub(crate) fn fill(&mut self) -> Result<Filled, Broken> {
        if self.ended {
            return Ok(Filled::End);
        }
        if !self.make_space() {
            return Ok(Filled::Full);
        }
        let Self { socket, incoming, .. } = self;
        match retry_on_intr(|| socket.receive_more(incoming)) {
            // A reset means that the peer is gone and had not read everything: an end, too, for
            // this direction.
            Ok(Received::Bytes(0)) | Err(Errno::CONNRESET) => {
                self.ended = true;
                Ok(Filled::End)
            }
            Ok(Received::Bytes(count)) => Ok(Filled::Some(count)),
            Ok(Received::Descriptors) => {
                self.ended = true;
                Ok(Filled::Descriptors)
            }
            Err(Errno::AGAIN) => {
                self.free_incoming();
                Ok(Filled::Nothing)
            }
            Err(errno) => Err(Broken::Io(errno)),
        }
    }

    /// Frees the buffer of what comes, if it is empty and too large to be kept.
    #[inline]
    pub(crate) fn free_incoming(&mut self) {
        if self.incoming.is_empty() {
            give_back(&mut self.incoming, &mut self.incoming_charge);
        }
    }

    /// Whether the buffer has space left, so that the last [`Self::fill`] took all that there was.
    pub(crate) fn has_space(&self) -> bool {
        self.incoming.len() < self.incoming.capacity()
    }

    /// Makes space for what is to come; false if there must be none.
    fn make_space(&mut self) -> bool {
        let held = self.unread().len();
        // As much as the next frame needs. One whose header is bad needs no more.
        let need = match self.front() {
            Ok(Some(frame)) => frame.size(),
            Ok(None) | Err(_) => FRAME_HEADER,
        };
        let complete = held >= need;
        let spare = self.incoming.capacity() - self.incoming.len();
        if self.read > 0 && (!complete || (spare == 0 && self.read >= held)) {
            // What is moved is a part of one frame, which is moved once, or less than what was read
            // before.
            self.incoming.drain(..self.read);
            self.read = 0;
        }
        let want = need.max(KEEP);
        if !complete && self.incoming.capacity() < want {
            if let Some(account) = self.account.as_ref().filter(|_| want > KEEP) {
                // Whether there is room the reactor asks before anything is read.
                self.incoming_charge.set(account, want);
            }
            self.incoming.reserve_exact(want - held);
        }
        self.incoming.len() < self.incoming.capacity()
    }

    /// The next frame, if all of it is in the buffer. Makes no system call. Found again until it is
    /// released.
    ///
    /// # Errors
    /// What comes next is no frame: of unknown kind, padding, with unknown flags, or longer than a
    /// frame may be. Said as soon as the header is there; nothing behind it can be read any more.
    pub(crate) fn peek(&mut self) -> Result<Option<Frame>, Fault> {
        let held = self.unread().len();
        Ok(self.front()?.filter(|frame| frame.size() <= held))
    }

    /// The body of the frame that was peeked at: extensions, then payload.
    pub(crate) fn body(&self, frame: &Frame) -> &[u8] {
        &self.incoming[self.read + FRAME_HEADER..self.read + frame.size()]
    }

    /// Gives the space of the frame that was peeked at back.
    #[allow(clippy::needless_pass_by_value, reason = "a frame is released once")]
    pub(crate) fn release(&mut self, frame: Frame) {
        self.read += frame.size();
        self.released += frame.size() as u64;
        if self.read == self.incoming.len() {
            self.incoming.clear();
            self.read = 0;
        }
    }

    /// How many bytes were released since the session began.
    pub(crate) fn released_bytes(&self) -> u64 {
        self.released
    }

    /// How many bytes are there and not released: in the buffer, and in the kernel.
    pub(crate) fn bytes_there(&self) -> u64 {
        // The kernel answers this for every socket; whatever else: as much as a peer has unsent.
        let in_kernel = rustix::io::ioctl_fionread(&**self.socket).unwrap_or(OUT_LIMIT as u64);
        self.unread().len() as u64 + in_kernel
    }

    /// Whether [`Self::peek`] would find something: a frame, or a fault.
    #[inline]
    pub(crate) fn has_frame(&self) -> bool {
        match self.front() {
            Ok(Some(frame)) => frame.size() <= self.unread().len(),
            Ok(None) => false,
            Err(_) => true,
        }
    }

    /// Whether bytes are there that were not released: a frame, or a part of one.
    pub(crate) fn has_unread(&self) -> bool {
        !self.unread().is_empty()
    }

    /// Whether the stream ended inside a frame. Known once all complete frames are released.
    #[cfg(test)]
    pub(crate) fn is_truncated(&self) -> bool {
        self.ended && !self.unread().is_empty() && !self.has_frame()
    }

    #[inline]
    fn unread(&self) -> &[u8] {
        &self.incoming[self.read..]
    }

    /// The next frame, as its header announces it, if that is there. Bytes of the peer become a
    /// frame here and nowhere else.
    #[inline]
    fn front(&self) -> Result<Option<Frame>, Fault> {
        let [word, call, ..] = self.unread().as_chunks().0 else { return Ok(None) };
        let word = HeaderWord(u64::from_le_bytes(*word));
        let header = FrameHeader::check(word).ok_or_else(|| Fault::of_header(word))?;
        let frame = Frame { header, call: u64::from_le_bytes(*call) };
        if frame.size() > MAX_FRAME { Err(Fault::Length) } else { Ok(Some(frame)) }
    }
}

/// An empty buffer that is large is not kept.
#[inline]
fn give_back(buffer: &mut Vec<u8>, charge: &mut Charge) {
    if buffer.capacity() > KEEP {
        *buffer = Vec::new();
        *charge = Charge::default();
    }
}
