//! L3: one attachment of a client to a server, seen from either side: a state machine that never waits.
//!
//! It sends messages as records or fragments, receives and reassembles them, and rings the peer. Publishing and
//! ringing are one operation for every caller that does not say otherwise ([`Session::post`] leaves the ring to a
//! later [`Session::flush`]). Who waits, and how, is the drivers' business: `client.rs` and `reactor.rs`.
//!
//! # Fragments
//!
//! A message that does not fit one record travels as fragments: the first carries `MORE` and the total length,
//! those behind it `CONTINUED`, all but the last `MORE`. Between them only control frames may stand. A message
//! that is given up half-way is ended by an empty fragment with `ABORT`. Memory for a message grows as its bytes
//! arrive, whatever total was claimed.

use crate::bell::Ringer;
use crate::layout::{HeaderWord, Interest, Kind, Mode, flag};
use crate::ring::{self, ClaimError, Consumer, Polled, Producer, Record, Released};
use crate::stats::{SessionCounters, Words};
use crate::sync::{Ordering, PlainU64};
use rustix::fd::OwnedFd;
use std::sync::Arc;

/// The peer broke the protocol. The session is over; nothing else is affected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerFault {
    /// An impossible position or record in a ring.
    Ring(ring::Fault),
    /// A kind of message that this side never receives.
    UnexpectedKind(Kind),
    /// A fragment out of place.
    Fragment,
    /// A message longer than was agreed.
    TooLong,
    /// An answer to a call that was never made, or to one that was answered already.
    UnknownCall(u64),
    /// Noise on the control socket.
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
            Self::UnexpectedKind(kind) => write!(f, "a message of kind {kind:?} was not to be expected"),
            Self::Fragment => f.write_str("a fragment is out of place"),
            Self::TooLong => f.write_str("a message is longer than was agreed"),
            Self::UnknownCall(id) => write!(f, "an answer to call {id}, which is not waiting for one"),
            Self::Lifeline => f.write_str("noise on the control socket"),
        }
    }
}

impl std::error::Error for PeerFault {}

/// What a message is, apart from its payload. Two words, so that it travels in registers: built from its parts in
/// memory it would be read back before the parts have arrived there, at each hand-over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// A header word without flags and length.
    word: HeaderWord,
    pub(crate) call: u64,
}

impl Head {
    #[inline(always)]
    pub(crate) fn new(kind: Kind, call: u64) -> Self {
        Self { word: HeaderWord::new(kind, 0, 0, 0), call }
    }

    pub(crate) fn error(code: u16, call: u64) -> Self {
        Self { word: HeaderWord::new(Kind::Error, 0, code, 0), call }
    }

    /// Of a record whose kind was found valid.
    #[inline(always)]
    fn of(header: HeaderWord, call: u64) -> Self {
        Self { word: header.without_flags_and_length(), call }
    }

    #[inline(always)]
    pub(crate) fn kind(self) -> Kind {
        // Only valid kinds come in, by `new` and `of`.
        self.word.kind().unwrap_or(Kind::Padding)
    }

    #[inline(always)]
    pub(crate) fn code(self) -> u16 {
        self.word.code()
    }

    /// The header word of a record that carries (a part of) this message.
    #[inline(always)]
    fn record(self, flags: u8, length: u32) -> HeaderWord {
        self.word.with(flags, length)
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
pub(crate) struct Progress {
    sent: usize,
    begun: bool,
}

impl Progress {
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
    /// A message whose payload was dropped, since the budget has no room for it.
    Refused(Head),
}

/// Memory that all incomplete messages of a process may take together, in bytes.
#[derive(Debug)]
pub(crate) struct Budget {
    left: PlainU64,
}

impl Budget {
    pub(crate) fn new(bytes: u64) -> Arc<Self> {
        Arc::new(Self { left: PlainU64::new(bytes) })
    }

    fn take(&self, bytes: u64) -> bool {
        // Relaxed: a count, which orders nothing.
        self.left.take(bytes, Ordering::Relaxed)
    }

    fn give_back(&self, bytes: u64) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A message that is arriving in fragments.
#[derive(Debug)]
struct Assembly {
    head: Head,
    bytes: Vec<u8>,
    total: usize,
    got: usize,
    charged: u64,
    refused: bool,
}

/// The two rings and the bell of one attachment, and what is under way in them.
#[derive(Debug)]
pub(crate) struct Session {
    out: Producer,
    incoming: Consumer,
    ringer: Ringer,
    lifeline: Arc<OwnedFd>,
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
    max_body: usize,
    budget: Arc<Budget>,
    pub(crate) counts: SessionCounters,
    stored: SessionCounters,
    words: Words,
}

/// What a session is made of.
pub(crate) struct Parts {
    pub(crate) out: Producer,
    pub(crate) incoming: Consumer,
    pub(crate) ringer: Ringer,
    pub(crate) lifeline: Arc<OwnedFd>,
    pub(crate) words: Words,
    pub(crate) max_message: usize,
    /// Bytes of one message that are sent in one go, so that a server comes to its other sessions.
    pub(crate) burst: usize,
    pub(crate) budget: Arc<Budget>,
}

impl Session {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            max_body: parts.out.max_body(),
            out: parts.out,
            incoming: parts.incoming,
            ringer: parts.ringer,
            lifeline: parts.lifeline,
            burst: parts.burst,
            owed: false,
            wanted: 0,
            assembly: None,
            abort: None,
            max_message: parts.max_message,
            budget: parts.budget,
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
    pub(crate) fn lifeline(&self) -> &OwnedFd {
        &self.lifeline
    }

    /// Sends a message, or as much of it as there is room for, and rings.
    #[inline(always)]
    pub(crate) fn send(
        &mut self,
        head: Head,
        payload: &[u8],
        progress: &mut Progress,
    ) -> Result<Sent, PeerFault> {
        let sent = self.post(head, payload, progress)?;
        self.flush();
        Ok(sent)
    }

    /// Sends without ringing. A peer that sleeps learns of it at the next [`Self::flush`], which the caller owes
    /// before it does anything else that may take time.
    #[inline(always)]
    pub(crate) fn post(
        &mut self,
        head: Head,
        payload: &[u8],
        progress: &mut Progress,
    ) -> Result<Sent, PeerFault> {
        debug_assert!(payload.len() <= self.max_message, "checked by the driver, before anything is written");
        if payload.len() > self.max_body || self.abort.is_some() {
            return self.post_slowly(head, payload, progress);
        }
        match self.record(head, 0, payload)? {
            Sent::Full => return Ok(Sent::Full),
            Sent::Done => {}
        }
        self.count_sent(head, payload.len());
        Ok(Sent::Done)
    }

    #[inline]
    fn count_sent(&mut self, head: Head, len: usize) {
        if !is_control(head.kind()) {
            self.counts.sent += 1;
            self.counts.bytes_sent += len as u64;
        }
    }

    #[cold]
    fn post_slowly(
        &mut self,
        head: Head,
        payload: &[u8],
        progress: &mut Progress,
    ) -> Result<Sent, PeerFault> {
        if let Some(aborted) = self.abort {
            if self.record_of(aborted, flag::CONTINUED | flag::ABORT, None, &[])? == Sent::Full {
                return Ok(Sent::Full);
            }
            self.abort = None;
        }
        if payload.len() <= self.max_body {
            return self.post(head, payload, progress);
        }
        let mut burst = 0;
        while progress.sent < payload.len() || !progress.begun {
            let from = progress.sent;
            let total = if progress.begun { None } else { Some(payload.len() as u64) };
            let room = self.max_body - if total.is_some() { 8 } else { 0 };
            let end = payload.len().min(progress.sent + room);
            let mut flags = if progress.begun { flag::CONTINUED } else { 0 };
            if end < payload.len() {
                flags |= flag::MORE;
            }
            if self.record_of(head, flags, total, &payload[progress.sent..end])? == Sent::Full {
                return Ok(Sent::Full);
            }
            progress.begun = true;
            progress.sent = end;
            self.counts.fragments_sent += 1;
            // The peer reads this fragment while the next one is written.
            self.flush();
            burst += end - from;
            if burst >= self.burst && progress.sent < payload.len() {
                return Ok(Sent::Full);
            }
        }
        self.count_sent(head, payload.len());
        Ok(Sent::Done)
    }

    /// Gives up a message that was sent in part. The abort travels before the next message at the latest.
    pub(crate) fn abort(&mut self, head: Head) -> Result<(), PeerFault> {
        self.counts.aborts += 1;
        if self.record_of(head, flag::CONTINUED | flag::ABORT, None, &[])? == Sent::Full {
            self.abort = Some(head);
        }
        self.flush();
        Ok(())
    }

    #[inline(always)]
    fn record(&mut self, head: Head, flags: u8, payload: &[u8]) -> Result<Sent, PeerFault> {
        match self.out.try_push(head.record(flags, 0), head.call, payload) {
            Ok(()) => {
                self.owed = true;
                Ok(Sent::Done)
            }
            Err(error) => self.not_claimed(error, payload.len()),
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "a record's body is far below 4 GiB")]
    fn record_of(
        &mut self,
        head: Head,
        flags: u8,
        total: Option<u64>,
        payload: &[u8],
    ) -> Result<Sent, PeerFault> {
        let Some(total) = total else { return self.record(head, flags, payload) };
        let len = payload.len() + 8;
        let claim = match self.out.try_claim(len) {
            Ok(claim) => claim,
            Err(error) => return self.not_claimed(error, len),
        };
        self.out.write(&claim, 0, &total.to_le_bytes());
        self.out.write(&claim, 8, payload);
        self.out.commit(claim, head.record(flags, len as u32), head.call);
        self.owed = true;
        Ok(Sent::Done)
    }

    #[cold]
    fn not_claimed(&mut self, error: ClaimError, wanted: usize) -> Result<Sent, PeerFault> {
        match error {
            ClaimError::Full => {
                self.wanted = wanted;
                self.counts.full_stalls += 1;
                // What is published must not wait for room.
                self.flush();
                Ok(Sent::Full)
            }
            ClaimError::Fault(fault) => Err(fault.into()),
            ClaimError::TooLarge(_) => unreachable!("fragments are cut to fit"),
        }
    }

    /// Claims room for a message of one record, to be written in place.
    pub(crate) fn claim(&mut self, len: usize) -> Result<Option<ring::Claim>, PeerFault> {
        if let Some(aborted) = self.abort {
            if self.record_of(aborted, flag::CONTINUED | flag::ABORT, None, &[])? == Sent::Full {
                return Ok(None);
            }
            self.abort = None;
        }
        let paddings = self.out.paddings();
        let claimed = self.out.try_claim(len);
        // Padding is published at once, whatever becomes of the claim.
        self.owed |= self.out.paddings() != paddings;
        match claimed {
            Ok(claim) => Ok(Some(claim)),
            Err(error) => self.not_claimed(error, len).map(|_| None),
        }
    }

    /// The bytes of a claim, to read what was written.
    pub(crate) fn claimed_so_far(&self, claim: &ring::Claim) -> &[u8] {
        self.out.body(claim)
    }

    /// The bytes of a claim.
    pub(crate) fn claimed(&mut self, claim: &ring::Claim) -> &mut [u8] {
        self.out.body_mut(claim)
    }

    /// Publishes a claim and rings.
    #[allow(clippy::cast_possible_truncation, reason = "a record's body is far below 4 GiB")]
    pub(crate) fn commit(&mut self, claim: ring::Claim, head: Head) {
        let len = claim.len();
        self.out.commit(claim, head.record(0, len as u32), head.call);
        self.owed = true;
        self.count_sent(head, len);
        self.flush();
    }

    /// Rings for what was published, and prepares the ring for the next message, off the critical path.
    #[inline(always)]
    pub(crate) fn flush(&mut self) {
        if self.owed {
            self.owed = false;
            if let Some(mode) = self.ringer.ring(Interest::DATA) {
                self.wake(mode);
            }
            self.out.zero_ahead();
        }
    }

    /// Sends an abort that found no room, if one is owed: for a side that waits and may not send again for long.
    pub(crate) fn retry_abort(&mut self) -> Result<(), PeerFault> {
        if let Some(aborted) = self.abort
            && self.record_of(aborted, flag::CONTINUED | flag::ABORT, None, &[])? == Sent::Done
        {
            self.abort = None;
            self.flush();
        }
        Ok(())
    }

    /// Whether something is published that was not rung for.
    #[inline]
    pub(crate) fn is_owed(&self) -> bool {
        self.owed
    }

    /// Whether the peer looks asleep: a hint, without a fence.
    #[inline]
    pub(crate) fn peer_looks_asleep(&self) -> bool {
        self.ringer.looks_armed()
    }

    #[cold]
    fn wake(&mut self, mode: Mode) {
        crate::kill_point!("rung");
        self.counts.wakes_sent += 1;
        match mode {
            Mode::Futex => {
                self.ringer.seq().wake();
            }
            Mode::Event => send_byte(&self.lifeline, crate::handshake::lifeline::WAKE),
        }
    }

    /// Whether a record may be there. Changes nothing.
    #[inline]
    pub(crate) fn has_pending(&self) -> bool {
        self.incoming.has_pending()
    }

    /// Looks for a record up to `looks` times; `between` is called between two looks and may end it.
    #[inline(always)]
    pub(crate) fn watch(&self, looks: u32, between: impl FnMut() -> bool) -> bool {
        self.incoming.watch(looks, between)
    }

    /// Publishes how far the incoming ring was read, before a wait that is longer than a spin.
    pub(crate) fn settle(&mut self) {
        self.incoming.settle();
    }

    /// Whether there is room for what last found the ring full. A fault counts as yes: it shows at the attempt.
    pub(crate) fn room_appeared(&mut self) -> bool {
        self.out.has_room(self.wanted).unwrap_or(true)
    }

    /// Takes the next message, or the next fragment. On [`Received::Message`] `into` holds the payload: a private
    /// copy, which the peer cannot change any more.
    #[inline(always)]
    pub(crate) fn receive(&mut self, into: &mut Vec<u8>) -> Result<Received, PeerFault> {
        match self.incoming.poll_plain() {
            Polled::Nothing => Ok(Received::Nothing),
            Polled::Plain(header)
                if self.assembly.is_none() && header.length() as usize <= self.max_message =>
            {
                let (call, released) = self.incoming.take_plain(header, into);
                let head = Head::of(header, call);
                if !is_control(head.kind()) {
                    self.counts.received += 1;
                    self.counts.bytes_received += u64::from(header.length());
                }
                if released == Released::Quarter {
                    self.ring_for_space();
                }
                Ok(Received::Message(head))
            }
            Polled::Plain(_) | Polled::Other => self.receive_slowly(into),
        }
    }

    /// The next message without taking it, if it is there and fits one record.
    pub(crate) fn peek(&mut self) -> Result<Option<(Head, Record)>, PeerFault> {
        let Some(record) = self.incoming.peek()? else { return Ok(None) };
        if record.header.flags() != 0 || self.assembly.is_some() || record.len() > self.max_message {
            return Ok(None);
        }
        let head = Head::of(record.header, record.call);
        Ok(Some((head, record)))
    }

    /// Takes a record that was peeked at.
    pub(crate) fn take(&mut self, record: Record) {
        self.took(&record);
        self.release(record);
    }

    /// The ring that is read, for a view of a record.
    pub(crate) fn incoming(&self) -> &Consumer {
        &self.incoming
    }

    #[inline]
    fn took(&mut self, record: &Record) -> Head {
        if !is_control(record.kind) {
            self.counts.received += 1;
            self.counts.bytes_received += record.len() as u64;
        }
        Head::of(record.header, record.call)
    }

    #[inline]
    fn release(&mut self, record: Record) {
        if self.incoming.release(record) == Released::Quarter {
            self.ring_for_space();
        }
    }

    #[cold]
    fn ring_for_space(&mut self) {
        if let Some(mode) = self.ringer.ring(Interest::SPACE) {
            self.wake(mode);
        }
    }

    #[cold]
    fn receive_slowly(&mut self, into: &mut Vec<u8>) -> Result<Received, PeerFault> {
        let Some(record) = self.incoming.peek()? else { return Ok(Received::Nothing) };
        let flags = record.header.flags();
        if record.len() > self.max_message.saturating_add(EXTENSIONS) {
            return Err(PeerFault::TooLong);
        }
        if flags == 0 && self.assembly.is_none() {
            // It stood behind padding.
            into.clear();
            self.incoming.read(&record, 0, into);
            let head = self.took(&record);
            self.release(record);
            return if into.len() > self.max_message {
                Err(PeerFault::TooLong)
            } else {
                Ok(Received::Message(head))
            };
        }
        if flags == 0 && is_control(record.kind) {
            into.clear();
            self.incoming.read(&record, 0, into);
            let head = self.took(&record);
            self.release(record);
            return Ok(Received::Message(head));
        }
        let head = Head::of(record.header, record.call);
        if flags & (flag::DEADLINE | flag::STAMP) != 0 {
            return Err(PeerFault::UnexpectedKind(record.kind)); // not agreed in the handshake
        }
        let mut offset = 0;
        if flags & flag::CONTINUED == 0 {
            // The first fragment.
            if self.assembly.is_some() || flags != flag::MORE || is_control(record.kind) || record.len() < 8 {
                return Err(PeerFault::Fragment);
            }
            let total = usize::try_from(self.incoming.word(&record, 0)).map_err(|_| PeerFault::TooLong)?;
            if total > self.max_message {
                return Err(PeerFault::TooLong);
            }
            offset = 8;
            // The caller's buffer is warm, but large memory must be paid for before it is kept.
            let reused = into.capacity() as u64;
            let charged = if self.budget.take(reused) { reused } else { 0 };
            let mut bytes = if charged == reused { std::mem::take(into) } else { Vec::new() };
            bytes.clear();
            self.assembly = Some(Assembly { head, bytes, total, got: 0, charged, refused: false });
        }
        let Some(assembly) = &mut self.assembly else { return Err(PeerFault::Fragment) };
        if assembly.head != head {
            return Err(PeerFault::Fragment);
        }
        if flags & flag::ABORT != 0 {
            if flags & flag::MORE != 0 || !record.is_empty() {
                return Err(PeerFault::Fragment);
            }
            self.counts.aborts += 1;
            self.drop_assembly();
            self.release(record);
            return Ok(Received::Partial);
        }
        let len = record.len() - offset;
        assembly.got += len;
        let last = flags & flag::MORE == 0;
        // Each fragment brings something, and only the last one completes the message.
        if len == 0 || assembly.got > assembly.total || (assembly.got == assembly.total) != last {
            return Err(PeerFault::Fragment);
        }
        let missing = (assembly.got as u64).saturating_sub(assembly.charged);
        if !assembly.refused && !self.budget.take(missing) {
            assembly.refused = true;
            assembly.bytes = Vec::new();
            self.budget.give_back(std::mem::take(&mut assembly.charged));
        }
        if !assembly.refused {
            assembly.charged += missing;
            self.incoming.read(&record, offset, &mut assembly.bytes);
        }
        self.release(record);
        if !last {
            return Ok(Received::Partial);
        }
        let assembly = self.drop_assembly().expect("looked at above");
        self.counts.received += 1;
        self.counts.bytes_received += assembly.got as u64;
        *into = assembly.bytes;
        Ok(if assembly.refused { Received::Refused(assembly.head) } else { Received::Message(assembly.head) })
    }

    fn drop_assembly(&mut self) -> Option<Assembly> {
        let assembly = self.assembly.take();
        if let Some(assembly) = &assembly {
            self.budget.give_back(assembly.charged);
        }
        assembly
    }

    /// Stores the counters where tools find them.
    pub(crate) fn store_counts(&mut self) {
        self.counts.paddings = self.out.paddings();
        self.counts.store(&mut self.stored, &self.words);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.drop_assembly();
    }
}

/// Most bytes of extensions in a record.
const EXTENSIONS: usize = 24;

/// Frames that may stand between fragments, and are not counted as messages.
#[inline(always)]
fn is_control(kind: Kind) -> bool {
    matches!(kind, Kind::Cancel | Kind::Ping | Kind::Pong | Kind::Goodbye)
}

/// Sends one byte on a lifeline. It never blocks: a full socket buffer means that unread bytes, and so a wake-up,
/// are there already; a broken one that nobody is there to be told.
pub(crate) fn send_byte(lifeline: &OwnedFd, byte: u8) {
    use rustix::net::{SendFlags, send};
    let _ = send(lifeline, &[byte], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}
