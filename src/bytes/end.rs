//! One end of a byte stream: the driver of its session, which never waits. Both sides are the same
//! but for what they sleep on. `waiting` is how an end gets ready to sleep.

mod waiting;

use super::ByteStreamError;
use super::inbox::DeathWatch;
use crate::base::clock::ClockOffset;
use crate::handshake::rings::{server_rings, server_side};
use crate::handshake::{Attached, Carrier, Joined, SocketAttachment, Transport};
use crate::link::held::Account;
use crate::link::segment::Segment;
use crate::link::session::{
    Head, Parts, PeerFault, Received, Rings, SendProgress, Sent, SessionCore,
};
use crate::link::side::Side;
use crate::link::socket;
use crate::link::stats::{SessionCounters, Words};
use crate::memory::Window;
use crate::memory::layout::{self, Interest, Kind};
use crate::os::fork::Origin;
use crate::os::peer_socket::PeerSocket;
use crate::trace;
use rustix::fd::OwnedFd;
use std::io;
use std::sync::Arc;

/// Reading, or writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Read = 0,
    Write = 1,
}

/// Who waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

impl Wanted {
    pub(crate) fn one(direction: Direction) -> Self {
        let mut wanted = Self::default();
        wanted.set(direction, true);
        wanted
    }

    pub(crate) fn set(&mut self, direction: Direction, wanted: bool) {
        match direction {
            Direction::Read => self.read = wanted,
            Direction::Write => self.write = wanted,
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

/// Who is at the other end.
#[derive(Debug)]
pub(super) enum Peer {
    /// A server. The side knows its process.
    Server,
    /// A client, of whose death the porter tells.
    Client(DeathWatch),
}

/// What an end has taken in of what its peer wrote, and no read has returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TakenIn {
    Nothing,
    /// The rest of a chunk, or the end that came behind one.
    Unread,
    /// A read has returned the end: nothing follows.
    All,
}

/// One end.
#[derive(Debug)]
pub(crate) struct ByteEndpoint {
    session: SessionCore,
    /// What it sleeps on over rings; `None` over a socket.
    pub(super) side: Option<Side>,
    pub(super) peer: Peer,
    /// Their descriptors stay open in the server: tools find them there.
    _segments: Option<[Segment; 2]>,
    transport: Transport,
    number: u64,
    /// The chunk that is being read, and how much of it has been.
    chunk: Vec<u8>,
    taken: usize,
    /// Small pieces that travel in one chunk.
    gathered: Vec<u8>,
    /// The peer has ended its side.
    ended: bool,
    /// A read has returned that end.
    told_end: bool,
    /// This side was ended.
    finished: bool,
    /// The peer is gone; what it published before is still there.
    pub(super) gone: bool,
    /// When a write looked last whether it is. CLOCK_MONOTONIC_COARSE ns.
    looked_at: u64,
    /// A write was refused because it is.
    refused: bool,
    /// The session is over.
    over: Option<ByteStreamError>,
    pub(super) origin: Origin,
}

impl ByteEndpoint {
    pub(super) fn of_client(attached: Attached) -> Self {
        match attached {
            Attached::Socket(SocketAttachment { socket, session, reason, .. }) => {
                let transport = Transport::Socket { reason };
                Self::assemble(Arc::new(socket), None, None, Peer::Server, transport, session)
            }
            Attached::Shared(mut attachment) => {
                let rings = (attachment.rings(), Words::new(&attachment.request.window));
                let side = attachment.side();
                let (lifeline, session) = (Arc::new(attachment.lifeline), attachment.session);
                let transport = Transport::SharedMemory;
                Self::assemble(lifeline, Some(rings), Some(side), Peer::Server, transport, session)
            }
        }
    }

    /// `status` is where this server tells of itself.
    pub(super) fn of_server(joined: Joined, status: &Window, death_watch: DeathWatch) -> Self {
        let Joined { session, lifeline, carrier, .. } = joined;
        let transport = carrier.transport();
        let peer = Peer::Client(death_watch);
        match carrier {
            Carrier::Socket { .. } => {
                Self::assemble(lifeline, None, None, peer, transport, session)
            }
            Carrier::Shared {
                request,
                response,
                domain,
                domain_bell,
                request_capacity,
                response_capacity,
            } => {
                let (from, to) = (&request.window, &response.window);
                let rings = (
                    server_rings((from, request_capacity), (to, response_capacity)),
                    Words::new(to),
                );
                let side = server_side(status, domain, &domain_bell, from);
                let mut end =
                    Self::assemble(lifeline, Some(rings), Some(side), peer, transport, session);
                end._segments = Some([request, response]);
                end
            }
        }
    }

    fn assemble(
        lifeline: Arc<PeerSocket>,
        rings: Option<(Rings, Words)>,
        side: Option<Side>,
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
            account: Account::alone(max_message as u64),
            stamps: false,
            // No times travel.
            clock: ClockOffset::NONE,
        });
        let mut end = Self {
            session,
            side,
            peer,
            _segments: None,
            transport,
            number,
            chunk: Vec::new(),
            taken: 0,
            gathered: Vec::new(),
            ended: false,
            told_end: false,
            finished: false,
            gone: false,
            looked_at: 0,
            refused: false,
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
            Peer::Server => (Kind::OneWay, Kind::Event),
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
        self.side.is_none()
    }

    pub(crate) fn shared_lifeline(&self) -> Arc<PeerSocket> {
        self.session.shared_lifeline()
    }

    /// The pidfd of the server's process, where this side knows it.
    pub(crate) fn process(&self) -> Option<Arc<OwnedFd>> {
        self.side.as_ref()?.process.clone()
    }

    pub(crate) fn stats(&mut self) -> SessionCounters {
        if self.origin.is_here() {
            self.session.store_counts();
        }
        self.session.counts
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
                    Ok(false) if self.ended => {
                        self.told_end = true;
                        return Ok(Some(0));
                    }
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

    /// What a read would find without a look at the session.
    fn taken_in(&self) -> TakenIn {
        match (self.taken < self.chunk.len(), self.ended, self.told_end) {
            (true, ..) | (_, true, false) => TakenIn::Unread,
            (false, true, true) => TakenIn::All,
            (false, false, _) => TakenIn::Nothing,
        }
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
                if self.ended {
                    // There will be no other reason to say how far this side has read.
                    self.session.publish_head();
                }
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

    /// Writes as much as there is room for, one piece after the other; `None` if there is none.
    /// Small ones share a chunk.
    pub(crate) fn write_vectored(
        &mut self,
        pieces: &[io::IoSlice<'_>],
    ) -> io::Result<Option<usize>> {
        self.look_now_and_then();
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

    /// Ends this side: the peer will read what was written, and then the end. False if there is no
    /// room to say so.
    pub(crate) fn finish(&mut self) -> io::Result<bool> {
        if self.finished {
            return Ok(true);
        }
        self.look_for_hang_up();
        self.writable().map_err(ByteStreamError::while_writing)?;
        self.finished = self.publish(&[]).map_err(ByteStreamError::while_writing)?;
        self.session.flush();
        Ok(self.finished)
    }

    /// Writes what the socket has not taken yet; whether it has taken all. An error if the peer has
    /// gone and left something unread.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        if !self.origin.is_here() {
            return Err(ByteStreamError::Forked.while_writing());
        }
        if self.session.is_unread() {
            self.look_for_hang_up();
        }
        // A peer that goes says before how far it has read.
        if self.refused || self.session.is_broken() || (self.gone && self.session.is_unread()) {
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
        self.refused |= self.gone || self.session.is_broken();
        if self.refused { Err(ByteStreamError::Gone) } else { Ok(()) }
    }

    fn publish(&mut self, chunk: &[u8]) -> Result<bool, ByteStreamError> {
        let head = Head::new(self.kinds().0, 0);
        match self.session.post(head, 0, chunk, &mut SendProgress::default()) {
            Ok(Sent::Done) => Ok(true),
            Ok(Sent::Full) => Ok(false),
            Err(fault) => Err(self.fail(ByteStreamError::PeerFault(fault))),
        }
    }
}

impl Drop for ByteEndpoint {
    fn drop(&mut self) {
        // A forked child shares socket and memory with its parent, whose stream goes on.
        if !self.origin.is_here() {
            return;
        }
        trace::bytes_left(self.number);
        self.session.flush();
        // For a peer that flushes, and asks whether all was read.
        self.publish_empty();
        if let Some(side) = &mut self.side
            && !self.gone
        {
            side.leave(&mut self.session.counts);
        }
        self.session.store_counts();
        if let Some(side) = &mut self.side {
            // Before the word is given to another session.
            side.sleeper.disarm();
        }
        // For all who hold the descriptor. Without an end before it the peer knows that something
        // is missing.
        let _ = rustix::net::shutdown(self.session.lifeline(), rustix::net::Shutdown::Both);
    }
}
