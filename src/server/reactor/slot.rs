//! One session, as the reactor keeps it: what waits to be sent, and what waits to be answered.

use super::Limits;
use crate::base::clock::now_ns;
use crate::base::sync::Ordering;
use crate::link::samples::Samples;
use crate::link::segment::Segment;
use crate::link::session::{Head, SendProgress, SessionCore};
use crate::link::side::PeerHints;
use crate::memory::Window;
use crate::memory::layout::Kind;
use crate::server::flight::{Caller, Flight, StreamOver};
use crate::server::porter::Death;
use crate::server::service;
use rustix::fd::OwnedFd;
use std::collections::VecDeque;
use std::sync::Arc;

/// An answer that found no room yet.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) head: Head,
    pub(super) payload: Vec<u8>,
    pub(super) progress: SendProgress,
}

/// What only a session in shared memory has.
#[derive(Debug)]
pub(super) struct ClientMemory {
    pub(super) domain: u32,
    pub(super) hints: PeerHints,
    pub(super) _domain_bell: Window,
    /// Their descriptors stay open: tools find them there.
    pub(super) _segments: [Segment; 2],
}

/// Requests that were read while too many were in flight.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    requests: VecDeque<(Head, u64, Vec<u8>)>,
    /// What they take.
    bytes: usize,
}

/// What a request in the backlog takes beside its payload, about, in bytes.
const BACKLOG_ENTRY: usize = 64;

impl Backlog {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Bounded by memory alone: how many requests stand before the credit of a stream is the
    /// client's choice.
    fn has_room(&self, limits: &Limits) -> bool {
        self.bytes < limits.in_flight_bytes
    }

    pub(super) fn add(&mut self, head: Head, until: u64, payload: Vec<u8>) {
        self.bytes += payload.len() + BACKLOG_ENTRY;
        self.requests.push_back((head, until, payload));
    }

    pub(super) fn next(&mut self) -> Option<(Head, u64, Vec<u8>)> {
        let next = self.requests.pop_front()?;
        self.bytes -= next.2.len() + BACKLOG_ENTRY;
        Some(next)
    }
}

/// How a client that is gone is parted from.
#[derive(Debug, Clone, Copy)]
pub(super) struct GoneClient {
    pub(super) why: Death,
    /// How many more turns it has.
    pub(super) turns: u32,
    pub(super) since: u64,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) id: u64,
    pub(super) session: SessionCore,
    /// If client and server have agreed on some.
    pub(super) samples: Option<Box<Samples>>,
    pub(super) caller: service::Session,
    pub(super) lifeline: Arc<OwnedFd>,
    pub(super) shared: Option<ClientMemory>,
    pub(super) queue: VecDeque<Queued>,
    pub(super) queue_bytes: usize,
    /// Since when neither the queue nor what the socket has not taken yet has moved.
    pub(super) stuck_since: Option<u64>,
    /// How many bytes the socket had taken then, if some were unsent.
    pub(super) stuck_behind: Option<u64>,
    /// Shutting down: since when the last of its answers are there.
    pub(super) last_since: Option<u64>,
    /// Streams in a row that it has left unread.
    pub(super) stalled: u32,
    pub(super) flights: Flights,
    pub(super) backlog: Backlog,
    /// The client said goodbye on its lifeline.
    pub(super) said_goodbye: bool,
    /// The client is gone; what it sent before is still read.
    pub(super) gone: Option<GoneClient>,
    /// Shutting down, and what it had sent before was read.
    pub(super) drained: bool,
    /// Turns since the order to shut down.
    pub(super) drain_turns: u64,
    /// Frames that may have been sent before the order to shut down, at most.
    pub(super) records_most: u64,
}

impl Slot {
    /// Whether a request may be taken: its answer might have to be queued.
    #[inline]
    pub(super) fn may_read(&self, limits: &Limits) -> bool {
        (self.queue.is_empty()
            || (self.queue.len() < limits.queue && self.queue_bytes < limits.queue_bytes))
            && (self.may_begin(limits) && self.backlog.is_empty()
                // A stream waits for credit, which stands behind requests: those are set aside.
                || self.flights.streams != 0 && self.backlog.has_room(limits))
    }

    /// The client is gone. Nobody waits for answers, and none may wait for the client.
    pub(super) fn mark_gone(&mut self, why: Death, turns: u32) {
        self.flights.give_up();
        self.gone.get_or_insert(GoneClient { why, turns, since: now_ns() });
    }

    /// Whether one more request may be in flight.
    #[inline]
    pub(super) fn may_begin(&self, limits: &Limits) -> bool {
        self.flights.len() == 0
            || (self.flights.len() < limits.in_flight
                && self.flights.bytes < limits.in_flight_bytes)
    }

    /// Whether a turn would find something to do: the second look before a sleep.
    pub(super) fn has_work(&mut self, limits: &Limits) -> bool {
        (self.gone.is_some() && (self.is_read_to_its_end() || !self.queue.is_empty()))
            || (self.gone.is_none() && self.session.has_hung_up() && !self.may_read(limits))
            || (!self.backlog.is_empty() && self.may_begin(limits))
            || (self.may_read(limits) && self.session.has_pending())
            || (!self.queue.is_empty() && self.session.room_appeared())
    }

    /// A request was taken that says something of time.
    #[cold]
    pub(super) fn sample(&mut self, head: Head) {
        if let (Some(samples), stamp @ 1..) = (&mut self.samples, self.session.take_stamp()) {
            // Without a place it is not sampled here; the client's half says so much at least.
            samples.begin(head.call, stamp, now_ns());
        }
    }

    /// An answer is complete, though it may have to wait for its turn, or for room. Of several the
    /// first counts.
    #[inline]
    pub(super) fn answered(&mut self, head: Head) {
        if let Some(samples) = &mut self.samples {
            samples.end(head.call, now_ns);
        }
    }

    /// A message was sent in full.
    #[inline]
    pub(super) fn sent(&self, head: Head) {
        if head.kind() == Kind::Event {
            // Relaxed: a count, which orders nothing.
            self.caller.0.events.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether nothing is left of what the client sent.
    pub(super) fn is_read_to_its_end(&self) -> bool {
        !self.session.has_pending() && self.backlog.is_empty()
    }

    /// Whether nothing is left to be said to the client.
    pub(super) fn is_done(&self) -> bool {
        self.drained
            && self.backlog.is_empty()
            && self.queue.is_empty()
            && self.flights.len() == 0
            && !self.session.has_unsent()
    }
}

/// One request that is being answered.
#[derive(Debug)]
pub(super) struct Entry {
    flight: Arc<Flight>,
    /// Of the request, and of the answers below.
    bytes: usize,
    /// Items of it were sent.
    streams: bool,
    /// Answers before their turn.
    held: Vec<(Head, Vec<u8>)>,
    /// The last of them is among those.
    complete: bool,
}

/// The requests of one session that are being answered.
#[derive(Debug, Default)]
pub(super) struct Flights {
    table: Vec<Option<Entry>>,
    /// Of all entries.
    bytes: usize,
    /// How many of them are answered by streams.
    streams: usize,
    free: Vec<u32>,
    /// To be used again.
    spare: Vec<Arc<Flight>>,
    /// Places in the order of the requests, if that is the order of the answers.
    turns: VecDeque<u32>,
    in_order: bool,
}

/// Most flights that are kept to be used again.
const SPARE: usize = 64;

impl Flights {
    pub(super) fn new(in_order: bool) -> Self {
        Self { in_order, ..Self::default() }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.table.len() - self.free.len()
    }

    /// A flight that has no place yet: an answer that is given at once needs none.
    #[inline]
    pub(super) fn prepare(
        &mut self,
        caller: &Arc<Caller>,
        call: u64,
        until: u64,
        one_way: bool,
    ) -> Arc<Flight> {
        // Somebody may still hold one that is over: a request that outlives its answer.
        while let Some(mut flight) = self.spare.pop() {
            if let Some(spare) = Arc::get_mut(&mut flight) {
                spare.renew(call, until, one_way);
                return flight;
            }
        }
        Arc::new(Flight::new(caller.clone(), call, until, one_way))
    }

    /// Enters a flight into the table; its place.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "bounded by the limit of requests in flight"
    )]
    pub(super) fn enter(&mut self, flight: Arc<Flight>, bytes: usize) -> u32 {
        let place = self.free.pop().unwrap_or_else(|| {
            self.table.push(None);
            self.table.len() as u32 - 1
        });
        self.bytes += bytes;
        flight.set_table_index(place);
        if self.in_order && !flight.one_way {
            self.turns.push_back(place);
        }
        self.table[place as usize] =
            Some(Entry { flight, bytes, streams: false, held: Vec::new(), complete: false });
        place
    }

    /// Takes a flight back that is over.
    #[inline]
    pub(super) fn put_back(&mut self, flight: Arc<Flight>) {
        if self.spare.len() < SPARE {
            self.spare.push(flight);
        }
    }

    /// Whether answers have to wait for their turn.
    #[inline]
    pub(super) fn are_in_order(&self) -> bool {
        self.in_order
    }

    /// Whether the flight is one of these, and not over.
    pub(super) fn has(&self, flight: &Arc<Flight>) -> bool {
        let entry = self.table.get(flight.table_index() as usize);
        matches!(entry, Some(Some(entry)) if Arc::ptr_eq(&entry.flight, flight))
    }

    /// The flight of a call. For frames that are rare: it searches.
    pub(super) fn find(&self, call: u64) -> Option<&Arc<Flight>> {
        self.table
            .iter()
            .flatten()
            .map(|entry| &entry.flight)
            .find(|flight| flight.call == call && !flight.one_way)
    }

    /// An item of its answer came.
    pub(super) fn streams(&mut self, place: u32) {
        if let Some(Some(entry)) = self.table.get_mut(place as usize)
            && !entry.streams
        {
            entry.streams = true;
            self.streams += 1;
        }
    }

    /// Those that are answered by streams, and whether it is the turn of their answers.
    pub(super) fn streaming(&self) -> impl Iterator<Item = (&Arc<Flight>, bool)> {
        let table = if self.streams == 0 { &[][..] } else { &self.table[..] };
        let entries = table.iter().flatten().filter(|entry| entry.streams);
        entries.map(|entry| (&entry.flight, self.is_its_turn(entry.flight.table_index())))
    }

    /// Whether its answer may be sent now.
    #[inline]
    pub(super) fn is_its_turn(&self, place: u32) -> bool {
        !self.in_order || self.turns.front() == Some(&place)
    }

    /// Keeps an answer until its turn.
    pub(super) fn hold(&mut self, place: u32, head: Head, payload: Vec<u8>, last: bool) {
        if let Some(Some(entry)) = self.table.get_mut(place as usize) {
            entry.bytes += payload.len();
            self.bytes += payload.len();
            entry.held.push((head, payload));
            entry.complete |= last;
        }
    }

    /// The last answer was sent.
    #[inline]
    pub(super) fn end(&mut self, place: u32) {
        let Some(entry) = self.table.get_mut(place as usize).and_then(Option::take) else { return };
        self.free.push(place);
        self.bytes -= entry.bytes;
        self.streams -= usize::from(entry.streams);
        if self.in_order && self.turns.front() == Some(&place) {
            self.turns.pop_front();
        }
        self.put_back(entry.flight);
    }

    /// The next answer that was kept and may be sent now.
    pub(super) fn next_held(&mut self) -> Option<(Head, Vec<u8>)> {
        loop {
            let place = *self.turns.front()?;
            let entry = self.table.get_mut(place as usize)?.as_mut()?;
            if !entry.held.is_empty() {
                return Some(entry.held.remove(0));
            }
            if !entry.complete {
                return None;
            }
            self.end(place);
        }
    }

    /// The client is gone.
    pub(super) fn give_up(&mut self) {
        for entry in self.table.iter().flatten() {
            entry.flight.give_up(StreamOver::Gone);
        }
    }
}
