//! One attachment of a client to a server, seen from either side: a state machine that never
//! waits.
//!
//! It sends messages as records or fragments, receives and reassembles them, and rings the peer.
//! Publishing and ringing are one operation for every caller that does not say otherwise
//! ([`SessionCore::post`] leaves the ring to a later [`SessionCore::flush`]). Who waits, and how,
//! is the drivers' business: `client.rs` and `reactor.rs`.
//!
//! # Fragments
//!
//! A message that does not fit one record travels as fragments: the first carries `MORE` and the
//! total length, those behind it `CONTINUED`, all but the last `MORE`. Between them only control
//! frames may stand. A message that is given up half-way is ended by an empty fragment with
//! `ABORT`. Memory for a message grows as its bytes arrive, whatever total was claimed.

mod fragments;
mod link;
mod receive;
mod send;

use crate::base::clock::ClockOffset;
use crate::base::kill_point::kill_point;
use crate::link::held::{Account, Charge, KEPT};
use crate::link::readiness::Readiness;
use crate::link::socket;
use crate::link::stats::{SessionCounters, Words};
use crate::memory::FrameHeader;
use crate::memory::layout::{HeaderWord, Kind, Mode};
use crate::os::peer_socket::PeerSocket;
use crate::protocol::ring::{self, Consumer};
use fragments::Assembly;
use link::Link;
use rustix::fd::OwnedFd;
use std::sync::Arc;

pub(crate) use link::{Rings, SessionClaim};

/// The peer broke the protocol. The session is over; nothing else is affected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerFault {
    /// An impossible position or record in a ring, or an impossible frame on a socket.
    Ring(ring::Fault),
    /// A kind of message that this side never receives.
    UnexpectedKind(Kind),
    /// A fragment out of place.
    Fragment,
    /// A message longer than was agreed.
    TooLong,
    /// An answer to a call that was never made, or to one that was answered already.
    UnknownCall(u64),
    /// More items of a streamed answer than were asked for.
    TooManyItems(u64),
    /// Noise on the control socket, or descriptors where none are to come.
    Lifeline,
}

impl From<ring::Fault> for PeerFault {
    fn from(fault: ring::Fault) -> Self {
        Self::Ring(fault)
    }
}

impl std::fmt::Display for PeerFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the peer broke the protocol: ")?;
        match self {
            Self::Ring(fault) => fault.fmt(f),
            Self::UnexpectedKind(kind) => {
                write!(f, "a message of kind {kind:?} was not to be expected")
            }
            Self::Fragment => f.write_str("a fragment is out of place"),
            Self::TooLong => f.write_str("a message is longer than was agreed"),
            Self::UnknownCall(id) => {
                write!(f, "an answer to call {id}, which is not waiting for one")
            }
            Self::TooManyItems(id) => write!(f, "more items for call {id} than were asked for"),
            Self::Lifeline => f.write_str("noise or descriptors on the control socket"),
        }
    }
}

impl std::error::Error for PeerFault {}

/// What a message is, apart from its payload. Two words, so that it travels in registers: built
/// from its parts in memory it would be read back before the parts have arrived there, at each
/// hand-over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// Without flags and length.
    header: FrameHeader,
    pub(crate) call: u64,
}

impl Head {
    #[inline(always)]
    pub(crate) fn new(kind: Kind, call: u64) -> Self {
        Self::with_code(kind, 0, call)
    }

    pub(crate) fn error(code: u16, call: u64) -> Self {
        Self::with_code(Kind::Error, code, call)
    }

    #[inline(always)]
    pub(crate) fn with_code(kind: Kind, code: u16, call: u64) -> Self {
        Self { header: FrameHeader::new(kind, code), call }
    }

    /// Of a record or frame that carries (a part of) the message.
    #[inline(always)]
    fn of(header: FrameHeader, call: u64) -> Self {
        Self { header: header.without_flags_and_length(), call }
    }

    #[inline(always)]
    pub(crate) fn kind(self) -> Kind {
        self.header.kind()
    }

    #[inline(always)]
    pub(crate) fn code(self) -> u16 {
        self.header.code()
    }

    /// The header word of a record that carries (a part of) this message.
    #[inline(always)]
    fn record(self, flags: u8, length: u32) -> HeaderWord {
        self.header.word().with(flags, length)
    }
}

impl std::fmt::Debug for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Head")
            .field("kind", &self.kind())
            .field("code", &self.code())
            .field("call", &self.call)
            .finish()
    }
}

/// How far a message has been sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SendProgress {
    sent: usize,
    begun: bool,
    /// The time of sending, to travel with it: ns of the server's clock; 0 for none.
    stamp: u64,
}

impl SendProgress {
    /// A message that says when it was sent, in ns of the server's clock. Only requests, and only
    /// where that was agreed.
    pub(crate) fn stamped(stamp: u64) -> Self {
        Self { stamp, ..Self::default() }
    }

    /// Whether the peer has seen a part of it, so that it must be completed or aborted.
    pub(crate) fn is_partial(self) -> bool {
        self.begun
    }
}

/// What came of an attempt to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// All of it is published.
    Done,
    /// The ring is full; go on later with the same progress.
    Full,
}

/// What came of an attempt to receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received {
    /// Nothing is there.
    Nothing,
    /// A fragment was taken in; the message is not complete.
    Partial,
    /// A message; its payload is in the caller's buffer.
    Message(Head),
    /// The same, with a deadline (nanoseconds of the server's clock, 0 for none), a stamp
    /// ([`SessionCore::take_stamp`]), or both.
    Until(Head, u64),
    /// A message whose payload was dropped, since there is no room for it.
    Refused(Head),
}

/// The link of one attachment, and what is under way in it.
#[derive(Debug)]
pub(crate) struct SessionCore {
    link: Link,
    lifeline: Arc<PeerSocket>,
    /// Bytes of one message that are sent in one go, even if there is room for more.
    burst: usize,
    /// Something was published and not rung for.
    owed: bool,
    /// Length of the body that last found the ring full.
    wanted: usize,
    assembly: Option<Assembly>,
    /// A message that must be aborted before anything else is sent.
    abort: Option<Head>,
    max_message: usize,
    /// Largest message that the fast path takes: its memory is not charged.
    max_plain: usize,
    max_body: usize,
    account: Arc<Account>,
    /// Of the message that was received last.
    arrived: Charge,
    /// Whether requests may say when they were sent, and when the last one that did was.
    stamps: bool,
    stamp: u64,
    clock: ClockOffset,
    pub(crate) counts: SessionCounters,
    stored: SessionCounters,
    words: Option<Words>,
}

/// What a session is made of.
pub(crate) struct Parts {
    /// `None` for the socket itself.
    pub(crate) rings: Option<Rings>,
    pub(crate) lifeline: Arc<PeerSocket>,
    pub(crate) words: Option<Words>,
    pub(crate) max_message: usize,
    /// Bytes of one message that are sent in one go, so that a server comes to its other sessions.
    pub(crate) burst: usize,
    /// To which the memory of messages that arrive is charged.
    pub(crate) account: Arc<Account>,
    /// Whether requests that are received may say when they were sent.
    pub(crate) stamps: bool,
    /// How the peer's clock differs, in which it is told of times.
    pub(crate) clock: ClockOffset,
}

impl SessionCore {
    pub(crate) fn new(parts: Parts) -> Self {
        let (link, max_body) = match parts.rings {
            Some(rings) => {
                let max_body = rings.out.max_body();
                (Link::Rings(rings), max_body)
            }
            None => (Link::socket(parts.lifeline.clone()), socket::MAX_BODY),
        };
        Self {
            max_body,
            link,
            lifeline: parts.lifeline,
            burst: parts.burst,
            owed: false,
            wanted: 0,
            assembly: None,
            abort: None,
            max_message: parts.max_message,
            max_plain: parts.max_message.min(KEPT),
            account: parts.account,
            arrived: Charge::default(),
            stamps: parts.stamps,
            stamp: 0,
            clock: parts.clock,
            counts: SessionCounters::default(),
            stored: SessionCounters::default(),
            words: parts.words,
        }
    }

    /// Largest message either way in bytes.
    #[inline]
    pub(crate) fn max_message(&self) -> usize {
        self.max_message
    }

    /// Largest payload of one record in bytes.
    #[inline]
    pub(crate) fn max_body(&self) -> usize {
        self.max_body
    }

    #[inline]
    pub(crate) fn lifeline(&self) -> &PeerSocket {
        &self.lifeline
    }

    /// The lifeline, for whoever watches it without the session.
    pub(crate) fn shared_lifeline(&self) -> Arc<PeerSocket> {
        self.lifeline.clone()
    }

    /// How the peer's clock differs: what tools and the peer are told is in the server's clock.
    pub(crate) fn clock(&self) -> ClockOffset {
        self.clock
    }

    /// Whether something is published that was not rung for.
    #[inline]
    pub(crate) fn is_owed(&self) -> bool {
        self.owed
    }

    /// Whether the peer looks asleep: a hint, without a fence. A socket's peer always may be.
    #[inline]
    pub(crate) fn peer_looks_asleep(&self) -> bool {
        match &self.link {
            Link::Rings(rings) => rings.ringer.looks_armed(),
            Link::Socket(_) => false,
        }
    }

    /// Whether a record may be there. Changes nothing.
    #[inline]
    pub(crate) fn has_pending(&self) -> bool {
        self.link.has_pending()
    }

    /// Looks for a record up to `looks` times; `between` is called between two looks and may end
    /// it.
    #[inline(always)]
    pub(crate) fn watch(&self, looks: u32, between: impl FnMut() -> bool) -> bool {
        match &self.link {
            Link::Rings(rings) => rings.incoming.watch(looks, between),
            Link::Socket(_) => self.link.has_pending(),
        }
    }

    /// Publishes how far the incoming ring was read, before a wait that is longer than a spin. A
    /// socket's empty buffer is given back, if it is charged.
    pub(crate) fn publish_head(&mut self) {
        match &mut self.link {
            Link::Rings(rings) => rings.incoming.settle(),
            Link::Socket(socket) => socket.free_charged(),
        }
    }

    /// Whether there is room for what last found the link full. A fault counts as yes: it shows at
    /// the attempt.
    pub(crate) fn room_appeared(&mut self) -> bool {
        self.room() > 0
    }

    /// How many messages such as the one that last found the link full there is room for, more or
    /// less.
    pub(crate) fn room(&mut self) -> u64 {
        self.link.room_for(self.wanted)
    }

    /// How many bytes were read since the session began, headers and padding included.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.link.bytes_read()
    }

    /// At least as many bytes as are there to be read. A bound of the ring's or the kernel's, not
    /// of the peer's.
    pub(crate) fn most_bytes_there(&self) -> u64 {
        self.link.most_bytes_there()
    }

    /// Whether the socket itself carries the session.
    #[inline]
    pub(crate) fn is_socket(&self) -> bool {
        matches!(self.link, Link::Socket(_))
    }

    /// Charges the buffers of a socket, if they are large, as what arrives is charged. For a
    /// server: they are what its clients make of them.
    pub(crate) fn charge_buffers(&mut self) {
        if let Link::Socket(socket) = &mut self.link {
            socket.charge(self.account.clone());
        }
    }

    /// What is charged for the buffer that a socket is read into.
    pub(crate) fn large_buffer(&self) -> u64 {
        match &self.link {
            Link::Rings(_) => 0,
            Link::Socket(socket) => socket.large_buffer(),
        }
    }

    /// Takes note of what the kernel says of the socket, and writes what waited for it. Not for
    /// rings.
    pub(crate) fn ready(&mut self, ready: Readiness) {
        if let Link::Socket(socket) = &mut self.link {
            socket.ready(ready);
            if ready.writable {
                socket.flush();
            }
        }
    }

    /// Whether bytes wait for a socket to take them.
    pub(crate) fn has_unsent(&self) -> bool {
        matches!(&self.link, Link::Socket(socket) if socket.has_unsent())
    }

    /// While bytes wait for a socket to take them: how many it has taken so far.
    pub(crate) fn unsent_behind(&self) -> Option<u64> {
        match &self.link {
            Link::Rings(_) => None,
            Link::Socket(socket) => socket.unsent_behind(),
        }
    }

    /// Writes what a socket takes, even if the kernel has not said that it takes something: it says
    /// so only once most of the socket's buffer is free.
    pub(crate) fn retry_unsent(&mut self) {
        if let Link::Socket(socket) = &mut self.link {
            socket.retry();
        }
    }

    /// Whether the peer has closed the socket, whatever is left to read.
    pub(crate) fn has_hung_up(&self) -> bool {
        matches!(&self.link, Link::Socket(socket) if socket.has_hung_up())
    }

    /// Whether what is sent goes nowhere. What the peer sent before may still be there. A ring
    /// takes everything.
    #[inline]
    pub(crate) fn is_broken(&self) -> bool {
        matches!(&self.link, Link::Socket(socket) if socket.is_broken())
    }

    /// Whether something lies in a ring that its peer has not read, or not said so. A fault counts
    /// as yes.
    pub(crate) fn is_unread(&mut self) -> bool {
        match &mut self.link {
            Link::Rings(rings) => rings.out.fill().map_or(true, |bytes| bytes > 0),
            Link::Socket(_) => false,
        }
    }

    /// Whether the peer has closed the socket and all it sent is read. A ring's peer is watched by
    /// its lifeline.
    #[inline]
    pub(crate) fn has_ended(&self) -> bool {
        matches!(&self.link, Link::Socket(socket) if socket.has_ended())
    }

    /// The ring that is read, for a view of a record.
    pub(crate) fn incoming(&self) -> Option<&Consumer> {
        match &self.link {
            Link::Rings(rings) => Some(&rings.incoming),
            Link::Socket(_) => None,
        }
    }

    /// Stores what is in flight where tools find it.
    #[cold]
    pub(crate) fn store_in_flight(&mut self) {
        if let Some(words) = &self.words {
            self.counts.store_in_flight(&mut self.stored, words);
        }
    }

    /// Whether tools are told that something is in flight.
    #[inline]
    pub(crate) fn shows_in_flight(&self) -> bool {
        self.stored.in_flight != 0
    }

    /// Stores the counters where tools find them.
    pub(crate) fn store_counts(&mut self) {
        if let Link::Rings(rings) = &self.link {
            self.counts.paddings = rings.out.paddings();
            self.counts.fill_peak = rings.out.fill_peak();
        }
        if let Some(words) = &self.words {
            self.counts.store(&mut self.stored, words);
        }
    }
}

#[cold]
fn wake(rings: &Rings, lifeline: &OwnedFd, counts: &mut SessionCounters, mode: Mode) {
    kill_point!("rung");
    counts.wakes_sent += 1;
    match mode {
        Mode::Futex => {
            rings.ringer.seq().wake();
        }
        Mode::Event => send_byte(lifeline, crate::link::lifeline::WAKE),
    }
}

/// Frames that may stand between fragments, and are not counted as messages.
#[inline(always)]
fn is_control(kind: Kind) -> bool {
    matches!(kind, Kind::Cancel | Kind::Ping | Kind::Pong | Kind::Goodbye | Kind::Credit)
}

/// Sends one byte on a lifeline. It never blocks: a full socket buffer means that unread bytes, and
/// so a wake-up, are there already; a broken one that nobody is there to be told.
pub(crate) fn send_byte(lifeline: &OwnedFd, byte: u8) {
    use rustix::net::{SendFlags, send};
    let _ = send(lifeline, &[byte], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}
