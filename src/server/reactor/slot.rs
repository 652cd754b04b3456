//! One session, as the reactor keeps it: what waits to be sent, and what waits to be answered.

use super::Limits;
use crate::base::clock::now_ns;
use crate::base::sync::Ordering;
use crate::link::held::{Account, Held, Total};
use crate::link::samples::Samples;
use crate::link::segment::Segment;
use crate::link::session::{Head, SendProgress, SessionCore};
use crate::link::side::PeerHints;
use crate::memory::Window;
use crate::memory::layout::Kind;
use crate::os::peer_socket::PeerSocket;
use crate::server::facts::Oldest;
use crate::server::flight::{Caller, FLIGHT, Flight, StreamOver};
use crate::server::porter::Death;
use crate::server::service;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// An answer that found no room yet.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) head: Head,
    pub(super) payload: Held,
    pub(super) progress: SendProgress,
}

/// What only a session in shared memory has.
#[derive(Debug)]
pub(super) struct ClientMemory {
    pub(super) domain: u32,
    pub(super) hints: PeerHints,
    pub(super) _domain_bell: Window,
    /// Their descriptors stay open: tools find them there.
    pub(super) segments: [Segment; 2],
}

impl ClientMemory {
    /// How much memory the session has.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.window.len() as u64).sum()
    }
}

/// Requests that were read while too many were in flight.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    requests: VecDeque<(Head, u64, Held)>,
    /// What they take.
    bytes: u64,
}

impl Backlog {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Bounded by memory alone: how many requests stand before the credit of a stream is the
    /// client's choice.
    pub(super) fn add(&mut self, head: Head, until: u64, payload: Held) {
        self.bytes += payload.charge.bytes();
        self.requests.push_back((head, until, payload));
    }

    pub(super) fn next(&mut self) -> Option<(Head, u64, Held)> {
        let next = self.requests.pop_front()?;
        self.bytes -= next.2.charge.bytes();
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
    pub(super) lifeline: Arc<PeerSocket>,
    pub(super) shared: Option<ClientMemory>,
    /// What is held for all clients.
    pub(super) held: Arc<Total>,
    pub(super) queue: VecDeque<Queued>,
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
    /// It is not read from, since too much is held.
    pub(super) is_held_up: bool,
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
        (self.queue.is_empty() || self.queue.len() < limits.queue)
            && (self.backlog.is_empty() && self.may_begin(limits)
                // A stream waits for credit, which stands behind requests: those are set aside.
                || self.flights.streams != 0)
            && (!self.held.is_tight() || self.has_room())
    }

    /// Whether what is held leaves room for one more request. What has arrived in part is read to
    /// its end: otherwise its memory would never come back.
    #[cold]
    pub(super) fn has_room(&self) -> bool {
        self.may_run()
            || (self.flights.streams != 0 && self.caller.0.account.may_set_aside())
            || self.session.is_arriving()
    }

    /// Whether what is held lets a request begin that was read.
    #[cold]
    pub(super) fn may_run(&self) -> bool {
        // Flights that are kept to be used again hold nothing back either.
        let buffer = match self.session.large_buffer() {
            0 => 0,
            buffer => buffer + self.flights.spare_bytes(),
        };
        self.caller.0.account.may_read(buffer)
    }

    /// Whether a request of the backlog may begin: it is charged already.
    pub(super) fn may_begin_next(&self, limits: &Limits) -> bool {
        let account = &self.caller.0.account;
        self.flights.len() == 0
            || (self.may_begin(limits)
                && account.held().saturating_sub(self.backlog.bytes) < account.soft())
    }

    /// The client is gone. Nobody waits for answers, and none may wait for the client.
    pub(super) fn mark_gone(&mut self, why: Death, turns: u32) {
        self.flights.give_up();
        self.gone.get_or_insert(GoneClient { why, turns, since: now_ns() });
    }

    /// Whether one more request may be in flight.
    #[inline]
    pub(super) fn may_begin(&self, limits: &Limits) -> bool {
        self.flights.len() < limits.in_flight
    }

    /// Whether a turn would find something to do: the second look before a sleep.
    pub(super) fn has_work(&mut self, limits: &Limits) -> bool {
        (self.gone.is_some() && (self.is_read_to_its_end() || !self.queue.is_empty()))
            || (self.gone.is_none() && self.session.has_hung_up() && !self.may_read(limits))
            || (!self.backlog.is_empty() && self.may_begin_next(limits))
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

    /// Takes note of what is in flight, for tools, at `now`; which request is known to be in flight
    /// for the longest.
    pub(super) fn note_oldest(&mut self, now: u64) -> Oldest {
        let counts = &mut self.session.counts;
        counts.in_flight = self.flights.len() as u64;
        match self.flights.note_oldest() {
            Noted::Same => {}
            Noted::Other(call) => (counts.oldest_call, counts.oldest_sent_ns) = (call, now),
            Noted::Nothing => (counts.oldest_call, counts.oldest_sent_ns) = (0, 0),
        }
        Oldest { session: self.id, call: counts.oldest_call, since_ns: counts.oldest_sent_ns }
    }

    /// The session is over.
    pub(super) fn nothing_in_flight(&mut self) {
        let counts = &mut self.session.counts;
        (counts.in_flight, counts.oldest_call, counts.oldest_sent_ns) = (0, 0, 0);
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
    /// Items of it were sent.
    streams: bool,
    /// Answers before their turn.
    held: VecDeque<(Head, Held)>,
    /// The last of them is among those.
    complete: bool,
    /// It is the one that tools are told of.
    noted: bool,
}

impl Entry {
    /// Whether somebody may wait for its handler. Not for one that has answered, or that sends
    /// items.
    fn is_waited_for(&self) -> bool {
        !self.complete && !self.streams && !self.flight.one_way
    }
}

/// Places of the table that are looked at for a request to tell tools of, each time.
const NOTED_AT_ONCE: usize = 32;

/// The request of which tools are told that it is in flight for long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Noted {
    Nothing,
    Same,
    Other(u64),
}

/// The requests of one session that are being answered.
#[derive(Debug, Default)]
pub(super) struct Flights {
    table: Vec<Option<Entry>>,
    /// How many of them are answered by streams.
    streams: usize,
    free: Vec<u32>,
    /// To be used again, and how many at most.
    spare: Vec<Arc<Flight>>,
    spare_most: usize,
    /// An item of a stream waits for room.
    wants_room: bool,
    /// Places in the order of the requests, if that is the order of the answers.
    turns: VecDeque<u32>,
    in_order: bool,
    /// The place of the one that tools are told of, or where it was.
    noted: usize,
    /// Where each call is, once somebody has asked while there were many.
    index: Option<CallIndex>,
}

/// Most flights that are kept to be used again; and what part of what the client may hold.
const SPARE: usize = 64;
const SPARE_PART: u64 = 4;
/// In a table of so many places a call is searched for one by one.
const SEARCHED: usize = 32;

/// The place of each call that wants an answer. Only a client that cancels calls, or takes streams,
/// while it has many in flight has one: what it costs is charged to no other.
///
/// Who uses a number twice finds one of the two.
#[derive(Debug, Default)]
struct CallIndex(HashMap<u64, u32>);

impl CallIndex {
    fn of(table: &[Option<Entry>]) -> Self {
        let mut index = Self::default();
        for (place, entry) in (0..).zip(table) {
            if let Some(entry) = entry {
                index.add(&entry.flight, place);
            }
        }
        index
    }

    #[cold]
    fn add(&mut self, flight: &Flight, place: u32) {
        if !flight.one_way {
            self.0.insert(flight.call, place);
        }
    }

    #[cold]
    fn remove(&mut self, flight: &Flight, place: u32) {
        if self.0.get(&flight.call) == Some(&place) {
            self.0.remove(&flight.call);
        }
    }
}

impl Flights {
    #[allow(clippy::cast_possible_truncation, reason = "at most `SPARE`")]
    pub(super) fn new(in_order: bool, account: &Account) -> Self {
        let part = account.soft() / SPARE_PART / FLIGHT as u64;
        Self { in_order, spare_most: part.min(SPARE as u64) as usize, ..Self::default() }
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
    pub(super) fn enter(&mut self, flight: Arc<Flight>) -> u32 {
        let place = self.free.pop().unwrap_or_else(|| {
            self.table.push(None);
            self.table.len() as u32 - 1
        });
        flight.set_table_index(place);
        if self.in_order && !flight.one_way {
            self.turns.push_back(place);
        }
        if let Some(index) = &mut self.index {
            index.add(&flight, place);
        }
        self.table[place as usize] = Some(Entry {
            flight,
            streams: false,
            held: VecDeque::new(),
            complete: false,
            noted: false,
        });
        place
    }

    /// A request stays noted until it is answered. Then it is another one that is in flight now,
    /// the next one in the table: over many rounds every one that stays is found.
    pub(super) fn note_oldest(&mut self) -> Noted {
        if self.len() == 0 {
            return Noted::Nothing;
        }
        if let Some(Some(entry)) = self.table.get_mut(self.noted) {
            if entry.noted && entry.is_waited_for() {
                return Noted::Same;
            }
            entry.noted = false;
        }
        // So many at a time: how many there are the client chooses.
        let (len, from) = (self.table.len(), self.noted);
        let most = len.min(NOTED_AT_ONCE);
        for place in (1..=most).map(|step| (from + step) % len) {
            if let Some(entry) = &mut self.table[place]
                && entry.is_waited_for()
            {
                entry.noted = true;
                self.noted = place;
                return Noted::Other(entry.flight.call);
            }
        }
        self.noted = (from + most) % len;
        Noted::Nothing
    }

    /// Takes a flight back that is over.
    #[inline]
    pub(super) fn put_back(&mut self, flight: Arc<Flight>) {
        flight.forget_taken();
        if self.spare.len() < self.spare_most && !self.wants_room {
            self.spare.push(flight);
        }
    }

    /// What flights that are kept to be used again are charged with.
    fn spare_bytes(&self) -> u64 {
        (self.spare.len() * FLIGHT) as u64
    }

    /// An item of a stream waits for room: from now on, as long as there are streams, no flights
    /// are kept to be used again. They are charged.
    pub(super) fn make_room(&mut self) {
        self.wants_room = self.streams != 0;
        self.spare = Vec::new();
    }

    /// Somebody may find no room: what is kept to be used again is given back, which an idle client
    /// would keep for ever.
    #[cold]
    pub(super) fn free_spare(&mut self) {
        self.spare = Vec::new();
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

    /// The flight of a call. Takes constant time: how many calls are in flight, and how often it is
    /// asked, the client chooses.
    pub(super) fn find(&mut self, call: u64) -> Option<&Arc<Flight>> {
        let entry = if self.table.len() <= SEARCHED {
            let wanted = |entry: &&Entry| entry.flight.call == call && !entry.flight.one_way;
            self.table.iter().flatten().find(wanted)
        } else {
            let index = self.index.get_or_insert_with(|| CallIndex::of(&self.table));
            self.table[*index.0.get(&call)? as usize].as_ref()
        };
        entry.map(|entry| &entry.flight)
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
    pub(super) fn hold(&mut self, place: u32, head: Head, payload: Held, last: bool) {
        if let Some(Some(entry)) = self.table.get_mut(place as usize) {
            entry.held.push_back((head, payload));
            entry.complete |= last;
        }
    }

    /// The last answer was sent.
    #[inline]
    pub(super) fn end(&mut self, place: u32) {
        let Some(entry) = self.table.get_mut(place as usize).and_then(Option::take) else { return };
        self.free.push(place);
        if let Some(index) = &mut self.index {
            index.remove(&entry.flight, place);
        }
        self.streams -= usize::from(entry.streams);
        self.wants_room &= self.streams != 0;
        if self.in_order && self.turns.front() == Some(&place) {
            self.turns.pop_front();
        }
        self.put_back(entry.flight);
    }

    /// The next answer that was kept and may be sent now.
    pub(super) fn next_held(&mut self) -> Option<(Head, Held)> {
        loop {
            let place = *self.turns.front()?;
            let entry = self.table.get_mut(place as usize)?.as_mut()?;
            if let Some(held) = entry.held.pop_front() {
                return Some(held);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::sync::{PlainBool, PlainU64};
    use crate::handshake::{AnswerOrder, PeerInfo, Transport};
    use crate::server::flight::Completions;
    use crate::server::park::Parker;
    use crate::server::service::OwnedRequest;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::hint::black_box;
    use std::time::Instant;

    fn caller() -> Arc<Caller> {
        let (_, notifier) = Parker::new(Window::heap(4096)).expect("made");
        Arc::new(Caller {
            id: 1,
            peer: PeerInfo { pid: 1, uid: 2, gid: 3, name: String::new() },
            transport: Transport::SharedMemory,
            order: AnswerOrder::Completion,
            max_message: 1 << 20,
            open: PlainBool::new(true),
            events: PlainU64::new(0),
            events_most: 1,
            account: Account::alone(1 << 30),
            completions: Arc::new(Completions::new(notifier)),
        })
    }

    fn enter(flights: &mut Flights, caller: &Arc<Caller>, call: u64, one_way: bool) -> u32 {
        let flight = flights.prepare(caller, call, 0, one_way);
        flights.enter(flight)
    }

    proptest! {
        #[test]
        fn p7_each_call_is_found_while_it_is_in_flight(
            steps in proptest::collection::vec((0..6u8, 0..150u64), 1..600),
        ) {
            let caller = caller();
            let mut flights = Flights::new(false, &caller.account);
            let mut there = BTreeMap::new();
            let mut one_way = Vec::new();
            for (what, call) in steps {
                match what {
                    0..=2 => {
                        there.entry(call).or_insert_with(|| {
                            enter(&mut flights, &caller, call, false)
                        });
                    }
                    3 => {
                        if let Some(place) = there.remove(&call) {
                            flights.end(place);
                        }
                    }
                    4 => one_way.push(enter(&mut flights, &caller, call, true)),
                    _ => {
                        let found = flights.find(call).map(|flight| (flight.call, flight.one_way));
                        prop_assert_eq!(found, there.get(&call).map(|_| (call, false)));
                        one_way.drain(..).for_each(|place| flights.end(place));
                    }
                }
            }
        }
    }

    #[test]
    fn what_a_handler_takes_out_behind_its_answer_is_its_own() {
        let caller = caller();
        let mut flights = Flights::new(false, &caller.account);
        for answered_first in [true, false, true] {
            let flight = flights.prepare(&caller, 1, 0, false);
            let free = caller.account.held();
            let charge = caller.account.charge(1 << 20);
            let request =
                OwnedRequest::new(Held { bytes: vec![1; 1 << 20], charge }, flight.clone(), false);
            let place = flights.enter(flight);
            if answered_first {
                flights.end(place);
                assert_eq!(caller.account.held(), free + (1 << 20), "its buffer is there");
                assert_eq!(request.into_payload().len(), 1 << 20);
            } else {
                assert_eq!(request.into_payload().len(), 1 << 20);
                assert_eq!(caller.account.held(), free + (1 << 20), "it is not answered");
                flights.end(place);
            }
            assert_eq!(caller.account.held(), free);
        }
    }

    /// The time of many searches for calls that are not in flight, beside so many that are.
    fn searching(caller: &Arc<Caller>, calls: u64) -> f64 {
        let mut flights = Flights::new(false, &caller.account);
        for call in 0..calls {
            enter(&mut flights, caller, call, false);
        }
        let began = Instant::now();
        for call in 0..20_000 {
            assert!(black_box(&mut flights).find(calls + call).is_none());
        }
        began.elapsed().as_secs_f64()
    }

    #[test]
    fn p7_a_search_among_a_thousand_takes_no_longer_than_among_few() {
        let caller = caller();
        let mut ratios: Vec<f64> =
            (0..9).map(|_| searching(&caller, 1000) / searching(&caller, 40)).collect();
        ratios.sort_unstable_by(f64::total_cmp);
        println!("among 1000 against among 40: {ratios:.2?}");
        assert!(ratios[4] < 5.0, "{ratios:.2?}");
    }
}
