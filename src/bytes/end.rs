//! One end of a byte stream: the driver of its session, which never waits. Both sides are the same but for what they
//! sleep on.

use super::ByteStreamError;
use super::listener::DeathWatch;
use crate::base::sync::{Ordering, spin_hint};
use crate::handshake::Transport;
use crate::handshake::{Attached, Attachment, Carrier, Joined, SocketAttachment};
use crate::link::lifeline;
use crate::link::segment::Segment;
use crate::link::session::{
    Budget, Head, Parts, PeerFault, Readiness, Received, Rings, SendProgress, Sent, SessionCore,
};
use crate::link::socket;
use crate::link::stats::{SessionCounters, Words};
use crate::memory::layout::{self, Hints, Interest, Kind, Mode, offset};
use crate::memory::{OwnWord, PeerWord};
use crate::os::fork::Origin;
use crate::protocol::bell::{Ringer, Sleeper, Ticket, before_looking_again};
use crate::protocol::wait::Surroundings;
use crate::trace;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use std::io;
use std::sync::Arc;

/// Reading, or writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Read = 0,
    Write = 1,
}

impl Way {
    #[cfg(feature = "tokio")]
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Read => Self::Write,
            Self::Write => Self::Read,
        }
    }
}

/// Who waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

impl Wanted {
    pub(crate) fn one(way: Way) -> Self {
        let mut wanted = Self::default();
        wanted.set(way, true);
        wanted
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn has(self, way: Way) -> bool {
        match way {
            Way::Read => self.read,
            Way::Write => self.write,
        }
    }

    pub(crate) fn set(&mut self, way: Way, wanted: bool) {
        match way {
            Way::Read => self.read = wanted,
            Way::Write => self.write = wanted,
        }
    }

    pub(crate) fn any(self) -> bool {
        self.read || self.write
    }

    fn interest(self) -> Interest {
        match (self.read, self.write) {
            (true, true) => Interest::BOTH,
            (false, true) => Interest::SPACE,
            _ => Interest::DATA,
        }
    }
}

/// Wake bytes that may be on their way to an end that is always called off: it empties its lifeline now and then.
#[cfg(feature = "tokio")]
const UNREAD_MOST: u32 = 16;

/// What an end over rings sleeps on.
#[derive(Debug)]
struct Bed {
    sleeper: Sleeper,
    hints: OwnWord,
    peer_hints: PeerWord,
    cpu: Option<u32>,
    /// Armed in event mode.
    #[cfg(feature = "tokio")]
    armed: bool,
    /// Wake bytes that may have come since the lifeline was read last.
    #[cfg(feature = "tokio")]
    unread: u32,
    /// Their descriptors stay open in the server: tools find them there.
    _segments: Option<[Segment; 2]>,
}

/// How an end knows the process at the other one, beside the socket.
#[derive(Debug)]
enum Peer {
    /// A server, by its pidfd.
    Server(Option<OwnedFd>),
    /// A client, of whose death the porter tells.
    Client(DeathWatch),
}

/// One end.
#[derive(Debug)]
pub(crate) struct End {
    session: SessionCore,
    /// `None`: the socket that carries the session.
    bed: Option<Bed>,
    peer: Peer,
    transport: Transport,
    number: u64,
    /// The chunk that is being read, and how much of it has been.
    chunk: Vec<u8>,
    taken: usize,
    /// Small pieces that travel in one chunk.
    gathered: Vec<u8>,
    /// The peer has ended its side.
    ended: bool,
    /// This side was ended.
    finished: bool,
    /// The peer is gone; what it published before is still there.
    gone: bool,
    /// The session is over.
    over: Option<ByteStreamError>,
    origin: Origin,
}

impl End {
    pub(super) fn of_client(attached: Attached) -> Self {
        match attached {
            Attached::Socket(SocketAttachment { socket, session, reason, .. }) => {
                let transport = Transport::Socket { reason };
                Self::assemble(Arc::new(socket), None, None, Peer::Server(None), transport, session)
            }
            Attached::Shared(attachment) => {
                let Attachment { request, response, status, bell, lifeline, server, .. } = attachment;
                let (request, response, status) = (request.window, response.window, status.window);
                let armed = status.peer_word(layout::armed(attachment.domain));
                let rings = Rings::between(
                    (&request, attachment.request_capacity),
                    (&response, attachment.response_capacity),
                    Ringer::new(armed, bell.window.bell_word(offset::SEQ)),
                );
                let bed = Bed {
                    sleeper: Sleeper::new(request.own_word(offset::ARMED), response.bell_word(offset::SEQ)),
                    hints: request.own_word(offset::HINTS),
                    peer_hints: status.peer_word(offset::HINTS),
                    cpu: None,
                    #[cfg(feature = "tokio")]
                    armed: false,
                    #[cfg(feature = "tokio")]
                    unread: 0,
                    _segments: None,
                };
                let rings = Some((rings, Words::new(&request)));
                let peer = Peer::Server(server);
                let session = attachment.session;
                Self::assemble(Arc::new(lifeline), rings, Some(bed), peer, Transport::SharedMemory, session)
            }
        }
    }

    /// `status` is where this server tells of itself.
    pub(super) fn of_server(joined: Joined, status: &crate::memory::Window, death_watch: DeathWatch) -> Self {
        let Joined { session, lifeline, carrier, .. } = joined;
        let transport = carrier.transport();
        let (rings, bed) = match carrier {
            Carrier::Socket { .. } => (None, None),
            Carrier::Shared {
                request,
                response,
                domain,
                domain_bell,
                request_capacity,
                response_capacity,
            } => {
                let (from, to) = (&request.window, &response.window);
                let ringer = Ringer::new(from.peer_word(offset::ARMED), to.bell_word(offset::SEQ));
                let rings = Rings::between((to, response_capacity), (from, request_capacity), ringer);
                let words = Words::new(to);
                let armed = status.own_word(layout::armed(domain));
                let bed = Bed {
                    sleeper: Sleeper::new(armed, domain_bell.bell_word(offset::SEQ)),
                    hints: status.own_word(offset::HINTS),
                    peer_hints: from.peer_word(offset::HINTS),
                    cpu: None,
                    #[cfg(feature = "tokio")]
                    armed: false,
                    #[cfg(feature = "tokio")]
                    unread: 0,
                    _segments: Some([request, response]),
                };
                (Some((rings, words)), Some(bed))
            }
        };
        Self::assemble(lifeline, rings, bed, Peer::Client(death_watch), transport, session)
    }

    fn assemble(
        lifeline: Arc<OwnedFd>,
        rings: Option<(Rings, Words)>,
        bed: Option<Bed>,
        peer: Peer,
        transport: Transport,
        number: u64,
    ) -> Self {
        let (rings, words) = rings.unzip();
        // A chunk is one frame: so much, and no more, is ever kept of what the peer sends.
        let max_message = if rings.is_some() { layout::FRAGMENT } else { socket::MAX_BODY };
        let session = SessionCore::new(Parts {
            rings,
            lifeline,
            words,
            max_message,
            burst: usize::MAX,
            budget: Budget::new(max_message as u64),
            stamps: false,
        });
        let mut end = Self {
            session,
            bed,
            peer,
            transport,
            number,
            chunk: Vec::new(),
            taken: 0,
            gathered: Vec::new(),
            ended: false,
            finished: false,
            gone: false,
            over: None,
            origin: Origin::here(),
        };
        end.hint(false);
        trace::bytes_joined(end.number, &end.transport);
        end
    }

    /// What this side sends, and what it receives.
    fn kinds(&self) -> (Kind, Kind) {
        match self.peer {
            Peer::Server(_) => (Kind::OneWay, Kind::Event),
            Peer::Client(_) => (Kind::Event, Kind::OneWay),
        }
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.transport
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn is_socket(&self) -> bool {
        self.bed.is_none()
    }

    pub(super) fn shared_lifeline(&self) -> Arc<OwnedFd> {
        self.session.shared_lifeline()
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }

    pub(crate) fn stats(&mut self) -> SessionCounters {
        if self.origin.is_here() {
            self.session.store_counts();
        }
        self.session.counts
    }

    /// The descriptor that an event loop watches, and that of the server's process.
    #[cfg(feature = "tokio")]
    pub(crate) fn descriptors(&mut self) -> (Arc<OwnedFd>, Option<OwnedFd>) {
        let process = match &mut self.peer {
            // From now on the event loop looks after it.
            Peer::Server(process) if self.bed.is_some() => process.take(),
            _ => None,
        };
        (self.session.shared_lifeline(), process)
    }

    /// Who is to be woken when the porter finds the client gone.
    #[cfg(feature = "tokio")]
    pub(crate) fn wake_at_death(&self, waker: &std::task::Waker) {
        if let Peer::Client(death_watch) = &self.peer {
            death_watch.wake_at_death(waker);
        }
    }

    /// Bytes of a chunk at most.
    fn longest(&self) -> usize {
        self.session.max_body()
    }

    fn fail(&mut self, error: ByteStreamError) -> ByteStreamError {
        if let ByteStreamError::PeerFault(_) = error {
            // Whatever it still sends nobody can make sense of.
            let _ = rustix::net::shutdown(self.session.lifeline(), rustix::net::Shutdown::Both);
        }
        if self.over.is_none() {
            trace::bytes_lost(self.number, &error);
        }
        *self.over.get_or_insert(error)
    }

    fn usable(&self) -> Result<(), ByteStreamError> {
        if !self.origin.is_here() {
            return Err(ByteStreamError::Forked);
        }
        self.over.map_or(Ok(()), Err)
    }

    /// Reads what is there: 0 at the end that the peer has set, `None` if there is nothing yet.
    pub(crate) fn read(&mut self, into: &mut [u8]) -> io::Result<Option<usize>> {
        let mut space = into;
        self.read_with(space.len(), |bytes| {
            let (now, later) = std::mem::take(&mut space).split_at_mut(bytes.len());
            now.copy_from_slice(bytes);
            space = later;
        })
    }

    /// As [`Self::read`], at most so many bytes, which `take` gets piece by piece.
    pub(crate) fn read_with(
        &mut self,
        most: usize,
        mut take: impl FnMut(&[u8]),
    ) -> io::Result<Option<usize>> {
        if !self.origin.is_here() {
            return Err(ByteStreamError::Forked.while_reading());
        }
        let mut count = 0;
        while count < most {
            if self.taken == self.chunk.len() {
                match self.next_chunk() {
                    Ok(true) => {}
                    // What was read before is good; the error, or the end, is found again.
                    Ok(false) | Err(_) if count > 0 => break,
                    Ok(false) if self.ended => return Ok(Some(0)),
                    Ok(false) => return Ok(None),
                    Err(error) => return Err(error.while_reading()),
                }
            }
            let some = (self.chunk.len() - self.taken).min(most - count);
            take(&self.chunk[self.taken..self.taken + some]);
            self.taken += some;
            count += some;
        }
        Ok(Some(count))
    }

    /// Takes the next chunk, if there is one.
    fn next_chunk(&mut self) -> Result<bool, ByteStreamError> {
        if self.ended {
            return Ok(false);
        }
        self.usable()?;
        self.taken = 0;
        let received = self.session.receive(&mut self.chunk);
        let refused = match received {
            Ok(Received::Nothing) => {
                self.chunk.clear();
                // What it published before it went was there at this look.
                let over = self.gone || self.session.has_ended();
                return if over { Err(self.fail(ByteStreamError::Gone)) } else { Ok(false) };
            }
            Ok(Received::Message(head)) if head.kind() == self.kinds().1 => {
                self.ended = self.chunk.is_empty();
                return Ok(!self.ended);
            }
            // Of a server that did not come to serve this one.
            Ok(Received::Message(head)) if head.kind() == Kind::Goodbye => {
                self.chunk.clear();
                return Err(self.fail(ByteStreamError::Gone));
            }
            Ok(Received::Message(head) | Received::Until(head, _) | Received::Refused(head)) => {
                PeerFault::UnexpectedKind(head.kind())
            }
            // A chunk is one frame.
            Ok(Received::Partial) => PeerFault::Fragment,
            Err(fault) => fault,
        };
        self.chunk.clear();
        Err(self.fail(ByteStreamError::PeerFault(refused)))
    }

    /// Writes as much as there is room for, one piece after the other; `None` if there is none. Small ones share a chunk.
    pub(crate) fn write_vectored(&mut self, pieces: &[io::IoSlice<'_>]) -> io::Result<Option<usize>> {
        self.writable().map_err(ByteStreamError::while_writing)?;
        let total = pieces.iter().fold(0usize, |total, piece| total.saturating_add(piece.len()));
        if total == 0 {
            return Ok(Some(0));
        }
        if self.session.has_unsent() {
            // At most one write is kept for a socket that takes no more.
            return Ok(None);
        }
        let mut gathered = std::mem::take(&mut self.gathered);
        let count = self.publish_pieces(pieces, total, &mut gathered);
        self.gathered = gathered;
        self.session.flush();
        let count = count.map_err(ByteStreamError::while_writing)?;
        Ok((count > 0).then_some(count))
    }

    fn publish_pieces(
        &mut self,
        pieces: &[io::IoSlice<'_>],
        total: usize,
        gathered: &mut Vec<u8>,
    ) -> Result<usize, ByteStreamError> {
        let mut pieces = pieces.iter();
        let mut piece: &[u8] = &[];
        let mut count = 0;
        while count < total {
            let len = self.longest().min(total - count);
            while piece.is_empty() {
                let Some(next) = pieces.next() else { return Ok(count) };
                piece = next;
            }
            let chunk = if piece.len() >= len {
                let (now, later) = piece.split_at(len);
                piece = later;
                now
            } else {
                gathered.clear();
                while gathered.len() < len {
                    let (now, later) = piece.split_at(piece.len().min(len - gathered.len()));
                    gathered.extend_from_slice(now);
                    piece = later;
                    if piece.is_empty() {
                        let Some(next) = pieces.next() else { break };
                        piece = next;
                    }
                }
                &*gathered
            };
            if !self.publish(chunk)? {
                break;
            }
            count += chunk.len();
            // The peer reads this chunk while the next one is written.
            if count < total {
                self.session.flush();
            }
        }
        Ok(count)
    }

    /// Ends this side: the peer will read what was written, and then the end. False if there is no room to say so.
    pub(crate) fn finish(&mut self) -> io::Result<bool> {
        if self.finished {
            return Ok(true);
        }
        self.writable().map_err(ByteStreamError::while_writing)?;
        self.finished = self.publish(&[]).map_err(ByteStreamError::while_writing)?;
        self.session.flush();
        Ok(self.finished)
    }

    /// Writes what the socket has not taken yet; whether it has taken all.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        if !self.origin.is_here() {
            return Err(ByteStreamError::Forked.while_writing());
        }
        if self.session.is_broken() {
            return Err(ByteStreamError::Gone.while_writing());
        }
        Ok(!self.session.has_unsent())
    }

    fn writable(&mut self) -> Result<(), ByteStreamError> {
        self.usable()?;
        if self.finished {
            return Err(ByteStreamError::Finished);
        }
        // What the peer sent before it went may still be read: the session is not over for that.
        if self.gone || self.session.is_broken() { Err(ByteStreamError::Gone) } else { Ok(()) }
    }

    fn publish(&mut self, chunk: &[u8]) -> Result<bool, ByteStreamError> {
        let head = Head::new(self.kinds().0, 0);
        match self.session.post(head, 0, chunk, &mut SendProgress::default()) {
            Ok(Sent::Done) => Ok(true),
            Ok(Sent::Full) => Ok(false),
            Err(fault) => Err(self.fail(ByteStreamError::PeerFault(fault))),
        }
    }

    /// Whether an attempt may find something now that the last one did not.
    fn may(&mut self, way: Way) -> bool {
        self.gone
            || match way {
                Way::Read => self.session.has_pending() || self.session.has_ended(),
                Way::Write => {
                    self.session.is_broken() || (self.session.room_appeared() && !self.session.has_unsent())
                }
            }
    }

    /// Which of those who wait may find something.
    pub(crate) fn came(&mut self, wanted: Wanted) -> Wanted {
        Wanted { read: wanted.read && self.may(Way::Read), write: wanted.write && self.may(Way::Write) }
    }

    /// Looks at the socket, or at the lifeline and the peer's process: whether the peer is gone is known afterwards.
    pub(crate) fn check_peer(&mut self) {
        if !self.origin.is_here() || self.gone {
            return;
        }
        if self.bed.is_none() {
            // It tells in turn with what it carries.
            return;
        }
        match self.read_lifeline() {
            Ok(hung_up) => self.gone |= hung_up,
            Err(fault) => {
                self.fail(ByteStreamError::PeerFault(fault));
                self.gone = true;
            }
        }
        self.gone |= match &self.peer {
            Peer::Client(death_watch) => death_watch.is_dead(),
            Peer::Server(None) => false,
            Peer::Server(Some(process)) => {
                let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
                matches!(poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&now)), Ok(1..))
            }
        };
    }

    /// The process at the other end has ended, says the event loop.
    #[cfg(feature = "tokio")]
    pub(crate) fn process_ended(&mut self) {
        self.gone |= self.bed.is_some();
    }

    /// Takes the wake bytes; whether the peer has hung up.
    fn read_lifeline(&self) -> Result<bool, PeerFault> {
        let mut bytes = [0; 64];
        // A bounded number of reads: a peer that floods the lifeline gains no more of this thread's time.
        for _ in 0..4 {
            let flags = rustix::net::RecvFlags::DONTWAIT;
            let count = match rustix::net::recv(self.session.lifeline(), &mut bytes[..], flags) {
                Ok((0, _)) => return Ok(true),
                Ok((count, _)) => count,
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return Ok(true),
            };
            for byte in &bytes[..count] {
                match (*byte, &self.peer) {
                    (lifeline::WAKE, _) => {}
                    (lifeline::GOODBYE, Peer::Client(_)) | (0x80.., Peer::Server(_)) => return Ok(true),
                    _ => return Err(PeerFault::Lifeline),
                }
            }
        }
        Ok(false)
    }

    /// Takes note of what the kernel says of the socket.
    pub(crate) fn ready(&mut self, ready: Readiness) {
        // It writes what is unsent, which in a forked child is the parent's.
        if self.origin.is_here() {
            self.session.ready(ready);
        }
    }

    /// Whether the socket has to become writable.
    pub(crate) fn has_unsent(&self) -> bool {
        self.session.has_unsent()
    }

    #[inline]
    pub(crate) fn surroundings(&self) -> Surroundings {
        let Some(bed) = &self.bed else { return Surroundings::default() };
        let peer = Hints(bed.peer_hints.load());
        Surroundings { peer_cannot_run: peer.cpu().is_some() && peer.cpu() == bed.cpu, crowded: false }
    }

    #[allow(clippy::cast_possible_truncation, reason = "CPU numbers are small")]
    pub(super) fn hint(&mut self, off: bool) {
        if !self.origin.is_here() {
            return;
        }
        let Some(bed) = &mut self.bed else { return };
        bed.cpu = Some(rustix::thread::sched_getcpu() as u32);
        // Relaxed: advice.
        bed.hints.store(Hints::new(bed.cpu, off).0, Ordering::Relaxed);
    }

    /// Looks out for what `way` waits for, for a moment.
    pub(crate) fn spin(&mut self, way: Way, polls: u32) {
        if way == Way::Read {
            self.session.watch(polls, || {
                spin_hint();
                false
            });
            return;
        }
        for _ in 0..polls {
            if self.session.room_appeared() {
                return;
            }
            spin_hint();
        }
    }

    pub(super) fn sleeper(&self) -> Option<&Sleeper> {
        self.bed.as_ref().map(|bed| &bed.sleeper)
    }

    pub(super) fn counts(&mut self) -> &mut SessionCounters {
        &mut self.session.counts
    }

    /// Declares that this side is about to sleep on its bell, over rings; the ticket to sleep with. `None` if
    /// something came for one of those who wait.
    pub(super) fn arm_bell(&mut self, wanted: Wanted, mode: Mode) -> Option<Ticket> {
        self.session.flush();
        self.settle();
        self.session.store_counts();
        self.hint(true);
        let bed = self.bed.as_ref()?;
        let ticket = bed.sleeper.arm(mode, wanted.interest());
        before_looking_again();
        let rung = bed.sleeper.rung(ticket);
        if rung || self.came(wanted).any() {
            self.session.counts.arms_called_off += 1;
            let Some(bed) = &mut self.bed else { return None };
            bed.sleeper.disarm();
            #[cfg(feature = "tokio")]
            {
                // Whoever rang sends a byte, now or in a moment.
                bed.unread += u32::from(rung && mode == Mode::Event);
            }
            self.hint(false);
            return None;
        }
        trace::bytes_armed(self.number);
        Some(ticket)
    }
}

impl End {
    /// Publishes how far an empty ring was read. The head of any other is published with a ring for space, or not at all:
    /// a writer that slept for it would find room that nobody rang for.
    fn settle(&mut self) {
        if !self.session.has_pending() {
            self.session.publish_head();
        }
    }

    /// Another thread sleeps with `ticket` already: has it woken for all of those who wait. False if something came for
    /// `way`. Stays armed in any case.
    pub(super) fn arm_for_more(&mut self, ticket: Ticket, wanted: Wanted, way: Way) -> bool {
        self.session.flush();
        self.settle();
        if let Some(bed) = &self.bed {
            bed.sleeper.arm_for_more(ticket, Mode::Futex, wanted.interest());
        }
        before_looking_again();
        !self.may(way)
    }
}

#[cfg(feature = "tokio")]
impl End {
    /// As [`Client::arm`](crate::Client::arm), for those who wait: true if this side may sleep in its event loop.
    pub(crate) fn arm(&mut self, wanted: Wanted) -> bool {
        if !self.origin.is_here() || self.over.is_some() {
            return false;
        }
        if let Some(bed) = &self.bed {
            if let Peer::Client(death_watch) = &self.peer {
                self.gone |= death_watch.is_dead();
            }
            if bed.armed || bed.unread >= UNREAD_MOST {
                self.disarm();
            }
            let armed = self.arm_bell(wanted, Mode::Event).is_some();
            if let Some(bed) = &mut self.bed {
                bed.armed = armed;
            }
            self.session.counts.parks += u64::from(armed);
            return armed;
        }
        // The kernel tells of every edge since the descriptor was last reported, and what it told is known.
        if self.came(wanted).any() {
            return false;
        }
        self.session.counts.parks += 1;
        true
    }

    /// The descriptor was reported.
    pub(crate) fn disarm(&mut self) {
        if !self.origin.is_here() {
            return;
        }
        let Some(bed) = &mut self.bed else {
            return self.session.ready(Readiness { readable: true, writable: true, hung_up: false });
        };
        bed.sleeper.disarm();
        bed.armed = false;
        bed.unread = 0;
        self.hint(false);
        self.check_peer();
    }

    /// Awake again, without a look at the lifeline.
    pub(crate) fn call_off(&mut self) {
        if !self.origin.is_here() {
            // The armed word is the parent's.
            return;
        }
        let Some(bed) = &mut self.bed else { return };
        if bed.armed {
            bed.sleeper.disarm();
            bed.armed = false;
            bed.unread += 1;
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // A forked child shares socket and memory with its parent, whose stream goes on.
        if !self.origin.is_here() {
            return;
        }
        trace::bytes_left(self.number);
        self.session.flush();
        self.session.store_counts();
        if let Some(bed) = &self.bed {
            // Before the word is given to another session.
            bed.sleeper.disarm();
        }
        // For all who hold the descriptor. Without an end before it the peer knows that something is missing.
        let _ = rustix::net::shutdown(self.session.lifeline(), rustix::net::Shutdown::Both);
    }
}
