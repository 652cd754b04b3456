//! What carries a session's frames: two rings and a bell, or the socket itself. Both never wait.

use super::PeerFault;
use crate::link::held::Account;
use crate::link::readiness::Readiness;
use crate::link::socket::{self, Filled, Pushed, SocketLink};
use crate::memory::layout::{self, HeaderWord, offset};
use crate::memory::{FrameHeader, Window};
use crate::os::peer_socket::PeerSocket;
use crate::protocol::bell::Ringer;
use crate::protocol::ring::{self, ClaimError, Consumer, Producer, Record, Released};
use std::sync::Arc;

/// Messages that a socket that takes something again is taken to have room for.
const SOME: u64 = 32;

/// Shared memory.
#[derive(Debug)]
pub(crate) struct Rings {
    pub(crate) out: Producer,
    pub(crate) incoming: Consumer,
    pub(crate) ringer: Ringer,
}

impl Rings {
    /// What one side has: it writes one segment and reads the other one. Capacities in bytes, as
    /// they were checked.
    #[allow(clippy::cast_possible_truncation, reason = "usize is 64 bits; capacities were checked")]
    pub(crate) fn between(
        (own, own_capacity): (&Window, u64),
        (peer, peer_capacity): (&Window, u64),
        ringer: Ringer,
    ) -> Self {
        Self {
            out: Producer::new(
                own.own_lines(layout::CONTROL, own_capacity as usize),
                own.own_word(offset::TAIL),
                peer.peer_word(offset::HEAD),
                0,
            ),
            incoming: Consumer::new(
                peer.peer_lines(layout::CONTROL, peer_capacity as usize),
                own.own_word(offset::HEAD),
                0,
            ),
            ringer,
        }
    }
}

#[allow(
    clippy::large_enum_variant,
    reason = "most sessions have rings, and nothing may stand between them"
)]
#[derive(Debug)]
pub(super) enum Link {
    Rings(Rings),
    Socket(Socket),
}

/// A socket and what is known about it.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) link: SocketLink,
    ready: Readiness,
    /// It has taken what it takes for now.
    blocked: bool,
    /// Nothing more will come, or nothing more can be sent.
    ended: bool,
}

/// The next record or frame, not yet taken.
#[derive(Debug)]
pub(super) enum Piece {
    Record(Record),
    Frame(socket::Frame),
}

impl Piece {
    #[inline]
    pub(super) fn header(&self) -> FrameHeader {
        match self {
            Self::Record(record) => record.header,
            Self::Frame(frame) => frame.header,
        }
    }

    #[inline]
    pub(super) fn call(&self) -> u64 {
        match self {
            Self::Record(record) => record.call,
            Self::Frame(frame) => frame.call,
        }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.header().len()
    }
}

impl Link {
    pub(super) fn socket(socket: Arc<PeerSocket>) -> Self {
        Self::Socket(Socket {
            link: SocketLink::new(socket),
            ready: Readiness { readable: true, ..Readiness::default() },
            blocked: false,
            ended: false,
        })
    }

    /// Publishes a frame: `words` before the payload, which together fit one record.
    #[allow(clippy::cast_possible_truncation, reason = "a record's body is far below 4 GiB")]
    pub(super) fn push(
        &mut self,
        header: impl FnOnce(u32) -> HeaderWord,
        call: u64,
        words: &[u64],
        payload: &[u8],
    ) -> Result<(), ClaimError> {
        let len = payload.len() + 8 * words.len();
        match self {
            Self::Rings(rings) => {
                let claim = rings.out.try_claim(len)?;
                for (index, word) in words.iter().enumerate() {
                    rings.out.write(&claim, 8 * index, &word.to_le_bytes());
                }
                rings.out.write(&claim, 8 * words.len(), payload);
                rings.out.commit(claim, header(len as u32), call);
                Ok(())
            }
            Self::Socket(socket) => socket.push(header(len as u32), call, words, payload),
        }
    }

    /// The next frame, if it is there.
    #[inline]
    pub(super) fn peek(&mut self) -> Result<Option<Piece>, PeerFault> {
        match self {
            Self::Rings(rings) => Ok(rings.incoming.peek()?.map(Piece::Record)),
            Self::Socket(socket) => socket.peek(),
        }
    }

    /// The extension word at `offset` of a frame.
    pub(super) fn word(&self, piece: &Piece, offset: usize) -> u64 {
        match (self, piece) {
            (Self::Rings(rings), Piece::Record(record)) => rings.incoming.word(record, offset),
            (Self::Socket(socket), Piece::Frame(frame)) => {
                let mut word = [0; 8];
                word.copy_from_slice(&socket.link.body(frame)[offset..offset + 8]);
                u64::from_le_bytes(word)
            }
            _ => unreachable!("a piece belongs to the link that it came from"),
        }
    }

    /// Appends the bytes of a frame from `offset` on.
    pub(super) fn read(&self, piece: &Piece, offset: usize, out: &mut Vec<u8>) {
        match (self, piece) {
            (Self::Rings(rings), Piece::Record(record)) => rings.incoming.read(record, offset, out),
            (Self::Socket(socket), Piece::Frame(frame)) => {
                out.extend_from_slice(&socket.link.body(frame)[offset..]);
            }
            _ => unreachable!("a piece belongs to the link that it came from"),
        }
    }

    /// Gives the space of a frame back.
    pub(super) fn release(&mut self, piece: Piece) -> Released {
        match (self, piece) {
            (Self::Rings(rings), Piece::Record(record)) => rings.incoming.release(record),
            (Self::Socket(socket), Piece::Frame(frame)) => {
                socket.link.release(frame);
                Released::Quietly
            }
            _ => unreachable!("a piece belongs to the link that it came from"),
        }
    }

    /// Whether a frame may be there. Changes nothing, and makes no system call.
    #[inline]
    pub(super) fn has_pending(&self) -> bool {
        match self {
            Self::Rings(rings) => rings.incoming.has_pending(),
            Self::Socket(socket) => socket.ready.readable || socket.link.has_frame(),
        }
    }

    /// Whether a socket has been read further than its frames were taken.
    pub(super) fn has_unread(&self) -> bool {
        matches!(self, Self::Socket(socket) if socket.link.has_unread())
    }

    /// How many bytes were read since the session began.
    pub(super) fn bytes_read(&self) -> u64 {
        match self {
            Self::Rings(rings) => rings.incoming.head(),
            Self::Socket(socket) => socket.link.released_bytes(),
        }
    }

    /// At least as many bytes as are there to be read.
    pub(super) fn most_bytes_there(&self) -> u64 {
        match self {
            Self::Rings(rings) => rings.incoming.capacity(),
            Self::Socket(socket) => socket.link.bytes_there(),
        }
    }

    /// How many messages of `body` bytes there is room for, more or less. A fault counts as room
    /// for one: it shows at the attempt.
    pub(super) fn room_for(&mut self, body: usize) -> u64 {
        match self {
            Self::Rings(rings) => {
                if !rings.out.has_room(body).unwrap_or(true) {
                    return 0;
                }
                let free = rings.out.fill().map_or(0, |fill| rings.out.capacity() - fill);
                (free / layout::record_size(body.min(rings.out.max_body()))).max(1)
            }
            Self::Socket(socket) if socket.has_room() => SOME,
            Self::Socket(_) => 0,
        }
    }
}

impl Socket {
    pub(super) fn push(
        &mut self,
        header: HeaderWord,
        call: u64,
        words: &[u64],
        payload: &[u8],
    ) -> Result<(), ClaimError> {
        if self.ended {
            // Nobody will read it: the driver learns that the peer is gone once all that came from
            // it is read.
            return Ok(());
        }
        match self.link.try_push(header, call, words, payload) {
            Pushed::Done => Ok(()),
            Pushed::Full => Err(ClaimError::Full),
        }
    }

    fn peek(&mut self) -> Result<Option<Piece>, PeerFault> {
        loop {
            if let Some(frame) = self.link.peek()? {
                return Ok(Some(Piece::Frame(frame)));
            }
            if !self.ready.readable {
                return Ok(None);
            }
            match self.link.fill() {
                // Less than there was space for is all that there was. An end of which the kernel
                // has told is still to be read: it tells once.
                Ok(Filled::Some(_)) => {
                    self.ready.readable = self.ready.hung_up || !self.link.has_space()
                }
                Ok(Filled::Nothing) => self.ready.readable = false,
                Ok(Filled::Full) => return Ok(None),
                Ok(Filled::End) | Err(_) => {
                    self.ready.readable = false;
                    self.ended = true;
                }
                Ok(Filled::Descriptors) => {
                    self.ready.readable = false;
                    self.ended = true;
                    return Err(PeerFault::Lifeline);
                }
            }
        }
    }

    /// Writes what the socket takes.
    pub(super) fn flush(&mut self) {
        if self.ended || self.blocked || !self.link.has_unsent() {
            return;
        }
        if self.link.flush().is_err() {
            self.ended = true;
            // What the peer sent before it closed its end is still read.
            self.ready.readable = true;
            self.ready.hung_up = true;
        }
        self.blocked = self.link.has_unsent();
    }

    /// As [`Self::flush`], whatever the kernel has said.
    pub(super) fn retry(&mut self) {
        self.blocked = false;
        self.flush();
    }

    pub(super) fn ready(&mut self, ready: Readiness) {
        self.ready.readable |= ready.readable || ready.hung_up;
        self.ready.hung_up |= ready.hung_up;
        self.blocked &= !ready.writable;
    }

    pub(super) fn has_room(&self) -> bool {
        self.link.has_room()
    }

    pub(super) fn has_unsent(&self) -> bool {
        !self.ended && self.link.has_unsent()
    }

    /// While bytes are unsent: how many the socket has taken so far.
    pub(super) fn unsent_behind(&self) -> Option<u64> {
        self.has_unsent().then(|| self.link.taken_bytes())
    }

    /// Charges large buffers to this account.
    pub(super) fn charge(&mut self, account: Arc<Account>) {
        self.link.charge(account);
    }

    /// Frees what it reads into, if that is empty, large, and charged.
    pub(super) fn free_charged(&mut self) {
        if self.large_buffer() != 0 {
            self.link.free_incoming();
        }
    }

    /// What is charged for the buffer that it reads into.
    pub(super) fn large_buffer(&self) -> u64 {
        self.link.large_buffer()
    }

    /// Whether the peer has closed its end, whatever is left to read.
    pub(super) fn has_hung_up(&self) -> bool {
        self.ready.hung_up
    }

    pub(super) fn is_broken(&self) -> bool {
        self.ended
    }

    /// Whether the peer is gone and nothing of it is left to read.
    pub(super) fn has_ended(&self) -> bool {
        self.ended && !self.ready.readable && !self.link.has_frame()
    }
}

/// Room for a message of one record that is being written.
#[derive(Debug)]
pub(crate) enum SessionClaim {
    /// In the ring.
    Ring(ring::RingClaim),
    /// On its way to a socket.
    Private(Vec<u8>),
}

impl SessionClaim {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Ring(claim) => claim.len(),
            Self::Private(bytes) => bytes.len(),
        }
    }
}
