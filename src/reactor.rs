//! L4: the one thread that owns all I/O of established sessions. A driver of `session.rs`: it takes turns between
//! sessions, hands requests to an [`Engine`], sends what the engine answers, and sleeps when there is nothing to do.
//!
//! It never waits for one client: an answer that finds no room is queued, up to a bound; a session with answers in
//! its queue is not read from; one that stays so for too long is disconnected.

mod embedded;
mod mailbox;
mod slot;
mod turns;

use crate::bell::{Rescue, Ringer};
use crate::clock::now_ns;
use crate::flight::{
    AnswerOrder, Caller, Completion, Completions, Flight, Here, StreamOver, To, Transport, is_final,
};
use crate::fork::Origin;
use crate::handshake::lifeline::{self, Farewell};
use crate::handshake::{FallbackReason, RejectReason};
use crate::layout::{self, Hints, Interest, Kind, code, offset};
use crate::memory::{OwnWord, Window};
use crate::park::{PORTER, Parker, Slept};
use crate::porter::{Death, Event, Joined, Link, PorterHandle};
use crate::ring::{Consumer, Producer};
use crate::samples::Samples;
use crate::service;
use crate::session::{
    Budget, Head, Parts, PeerFault, Progress, Readiness, Received, Rings, Sent, Session, send_byte,
};
use crate::stats::{ServerCounters, Words};
use crate::sync::{Ordering, PlainBool, PlainU64, spin_hint};
use crate::trace;
use crate::wait::{Step, Surroundings, WaitSettings, Waiter};
use slot::{Backlog, Flights, Queued, Shared, Slot};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use turns::Turns;

#[cfg(feature = "tokio")]
pub(crate) use embedded::Idling;
pub(crate) use embedded::Pumped;
pub(crate) use mailbox::Mailbox;

/// What answers requests.
pub(crate) trait Engine {
    /// Whether answers may come later than the handler returns. Then every request gets a [`Flight`].
    const LATER: bool;

    /// A session begins.
    fn opened(&mut self, session: &service::Session);

    /// Handles one request. The answer's payload goes to `response`, which is empty.
    fn request(&mut self, request: Incoming<'_>, response: &mut Vec<u8>) -> Outcome;

    /// A session is over: no request of it follows.
    fn closed(&mut self, session: &service::Session);
}

/// A request that was taken from a ring.
#[derive(Debug)]
pub(crate) struct Incoming<'a> {
    pub(crate) session: &'a service::Session,
    pub(crate) call: u64,
    /// CLOCK_MONOTONIC ns; 0 for none.
    pub(crate) until: u64,
    pub(crate) one_way: bool,
    pub(crate) payload: &'a mut Vec<u8>,
    /// If answers may come later.
    pub(crate) flight: Option<&'a Arc<Flight>>,
    /// Nothing else of this session is in flight or waits. Only if answers may come later.
    pub(crate) alone: bool,
}

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The answer is in the buffer.
    Answer,
    /// An error is the answer; its text is in the buffer.
    Error(u16),
    /// The answer comes through the completions.
    Later,
    /// None is wanted, and the handler is done.
    Nothing,
}

impl Outcome {
    /// For subscribers.
    fn name(&self) -> &'static str {
        match self {
            Self::Answer => "response",
            Self::Error(_) => "error",
            Self::Later => "later",
            Self::Nothing => "nothing",
        }
    }
}

/// Limits of one reactor.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Requests of one session that are handled before the next session has its turn.
    pub(crate) turn: u32,
    /// Answers that may wait for room in a session's ring before its requests are left unread.
    pub(crate) queue: usize,
    /// Bytes of such answers from which on no more requests are read. One answer may exceed it.
    pub(crate) queue_bytes: usize,
    /// Requests of one session that may be without an answer before no more are read.
    pub(crate) in_flight: usize,
    /// Bytes of those requests, and of answers that wait for their turn, from which on no more are read.
    pub(crate) in_flight_bytes: usize,
    /// Events of one session that may wait to be sent.
    pub(crate) events: u64,
    /// How long a session may leave answers unread before it is disconnected; `None` for ever.
    pub(crate) slow_client: Option<Duration>,
    pub(crate) wait: WaitSettings,
}

/// Why a session is taken down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Gone(Death),
    Fault(PeerFault),
    Slow,
    ShutDown,
    /// A handler has forked, and this is the child: nothing here belongs to it.
    Forked,
}

/// A handler has forked, and this is the child, which has nothing to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forked;

/// All sessions of one server, and the thread's state.
pub(crate) struct Reactor<E> {
    engine: E,
    origin: Origin,
    slots: Vec<Slot>,
    /// Where each session is among the slots.
    places: HashMap<u64, usize>,
    /// How many of them are carried by sockets.
    sockets: usize,
    turns: Turns,
    /// When the last pass began, while there are cold ones. CLOCK_MONOTONIC ns.
    passed_at: u64,
    completions: Arc<Completions>,
    /// Completions that are being sent; empty in between.
    batch: Vec<Completion>,
    /// Whose they were; empty in between.
    answered: Vec<usize>,
    /// What the kernel said of sockets and lifelines; empty in between.
    woken: Vec<(u64, Readiness)>,
    mailbox: Arc<Mailbox>,
    parker: Parker,
    porter: PorterHandle,
    waiter: Waiter,
    limits: Limits,
    budget: Arc<Budget>,
    /// Average time of a request in a turn of several, in ns: how long a ring may be put off.
    pace_ns: u64,
    request: Vec<u8>,
    response: Vec<u8>,
    hints: OwnWord,
    cpu: Option<u32>,
    cpus: u32,
    passes: u64,
    counts: ServerCounters,
    /// Wake calls made to clients of sessions that are over.
    wakes_of_the_gone: u64,
    stored: ServerCounters,
    words: Words,
    /// How far a reactor without a thread has come; `None` for one that has a thread.
    stage: Option<embedded::Stage>,
    /// The porter has something to do: only without a thread.
    porter_is_due: bool,
}

impl<E> std::fmt::Debug for Reactor<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reactor").field("sessions", &self.slots.len()).field("stage", &self.stage).finish()
    }
}

impl<E> Drop for Reactor<E> {
    fn drop(&mut self) {
        // However it ends: nobody is left waiting in the mailbox of a reactor that is gone.
        if self.origin.is_here() {
            self.porter.end();
            drop(self.mailbox.close());
            for slot in &mut self.slots {
                slot.caller.0.open.store(false, Ordering::Relaxed);
                slot.flights.give_up();
            }
            drop(self.completions.close());
        }
    }
}

/// The time for which answers may be published without a ring, while more requests are there.
const PUT_OFF_NS: u64 = 5_000;
/// Only if requests take less than this on average is a ring put off at all: behind a handler that takes its time
/// every answer is rung for at once.
const SHORT_NS: u64 = 1_000;
/// A busy reactor looks which CPU it is on every so many passes.
const REFRESH_PASSES: u64 = 1024;
/// Turns that a client has after it is gone: a full ring's worth, or what a socket's buffers hold.
const LAST_TURNS: u32 = 1 << 16;
/// For how long at most: handlers may never come to an end.
const LAST_TIME: Duration = Duration::from_secs(30);
/// How long to sleep at most while draining.
const DRAIN_NAP: Duration = Duration::from_millis(5);
/// Passes between two looks at sockets while there is other work.
const SOCKET_PASSES: u64 = 16;
/// Frames of a socket that may have been sent before the order to shut down came: there is no telling.
const SOCKET_FRAMES: u64 = 4096;
/// Buffers larger than this are not kept when they are no longer needed.
const KEEP_BUFFER: usize = 4 << 20;

/// What a reactor is made of.
pub(crate) struct ReactorParts<E> {
    pub(crate) engine: E,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) completions: Arc<Completions>,
    pub(crate) parker: Parker,
    pub(crate) porter: PorterHandle,
    pub(crate) status: Window,
    pub(crate) limits: Limits,
    pub(crate) budget: Arc<Budget>,
}

impl<E: Engine> Reactor<E> {
    pub(crate) fn new(parts: ReactorParts<E>) -> Self {
        let cpus =
            std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
        Self {
            engine: parts.engine,
            origin: Origin::here(),
            slots: Vec::new(),
            places: HashMap::new(),
            sockets: 0,
            turns: Turns::default(),
            passed_at: 0,
            completions: parts.completions,
            batch: Vec::new(),
            answered: Vec::new(),
            woken: Vec::new(),
            mailbox: parts.mailbox,
            parker: parts.parker,
            porter: parts.porter,
            waiter: Waiter::new(parts.limits.wait.clone()),
            limits: parts.limits,
            budget: parts.budget,
            pace_ns: PUT_OFF_NS,
            request: Vec::new(),
            response: Vec::new(),
            hints: parts.status.own_word(offset::HINTS),
            cpu: None,
            cpus,
            passes: 0,
            counts: ServerCounters::default(),
            wakes_of_the_gone: 0,
            stored: ServerCounters::default(),
            words: Words::new(&parts.status),
            stage: None,
            porter_is_due: false,
        }
    }

    /// Serves until asked to stop; what was counted.
    pub(crate) fn run(mut self) -> Result<ServerCounters, Forked> {
        let _here = Here::enter_reactor();
        self.hint(false);
        while self.mailbox.stop_at().is_none() {
            if self.mailbox.has_mail() {
                self.read_mail()?;
                continue;
            }
            let completed = self.completions.any() && self.read_completions();
            if self.sockets != 0 && self.passes.is_multiple_of(SOCKET_PASSES) {
                self.poll_sockets();
            }
            if self.pass()? || completed {
                self.worked();
            } else {
                self.wait();
            }
        }
        self.shut_down()?;
        self.store_counts();
        Ok(self.counts)
    }

    #[inline]
    fn worked(&mut self) {
        self.passes += 1;
        if self.waiter.is_off_cpu() {
            self.hint(false);
        }
        // Also where it yields before each request, as it does beside busy clients.
        if self.passes.is_multiple_of(REFRESH_PASSES) {
            self.hint(false);
            // For tools that look at a server which never sleeps.
            self.store_counts();
            let Self { turns, slots, .. } = self;
            turns.cool(now_ns(), |place| slots[place].session.settle());
        }
        self.waiter.found(now_ns);
    }

    /// One turn for every session that did something lately, and for some of the others; whether anything happened.
    #[inline]
    fn pass(&mut self) -> Result<bool, Forked> {
        let mut worked = false;
        self.turns.begin();
        let hot = self.turns.hot().len();
        let mut over: Vec<(u64, End)> = Vec::new();
        let cold = if self.turns.any_cold() {
            let now = now_ns();
            let since = now.saturating_sub(std::mem::replace(&mut self.passed_at, now));
            self.turns.cold_turns(since)
        } else {
            0
        };
        for step in 0..hot + cold {
            let index = if step < hot { self.turns.at(step) } else { self.turns.next_cold() };
            match self.turn(index) {
                Ok(false) => {}
                Ok(true) => {
                    worked = true;
                    self.turns.heat(index);
                }
                Err(End::Forked) => return Err(Forked),
                Err(end) => over.push((self.slots[index].id, end)),
            }
        }
        for (id, end) in over {
            worked = true;
            self.take_down(id, end);
        }
        Ok(worked)
    }

    /// Sends what is queued, then handles requests.
    #[inline]
    fn turn(&mut self, index: usize) -> Result<bool, End> {
        let slot = &mut self.slots[index];
        let mut moved = false;
        if slot.dying.is_some() {
            self.linger(index)?;
        } else if !slot.queue.is_empty() {
            moved = self.send_queue(index)?;
        }
        if !self.slots[index].backlog.is_empty() {
            moved |= self.read_backlog(index)?;
        }
        let slot = &mut self.slots[index];
        if !slot.may_read(&self.limits) || !slot.session.has_pending() {
            if slot.dying.is_none() && slot.session.has_hung_up() {
                // It is not read to its end, and nobody takes the answers that would be needed for that.
                slot.begin_dying(Death::HungUp, LAST_TURNS);
                moved = true;
            }
            return Ok(moved);
        }
        let handled = self.handle(index)?;
        if self.slots[index].session.has_ended() {
            self.part_at_the_end(index, Death::HungUp)?;
        }
        Ok(moved || handled)
    }

    /// Nothing more comes from a client. What was set aside of it is still handled.
    #[cold]
    fn part_at_the_end(&mut self, index: usize, why: Death) -> Result<(), End> {
        let slot = &mut self.slots[index];
        if slot.backlog.is_empty() {
            return Err(End::Gone(why));
        }
        slot.begin_dying(why, LAST_TURNS);
        Ok(())
    }

    /// One more turn for a client that is gone; nobody takes its answers.
    #[cold]
    fn linger(&mut self, index: usize) -> Result<(), End> {
        let slot = &mut self.slots[index];
        slot.queue.clear();
        slot.queue_bytes = 0;
        slot.stuck_since = None;
        let is_read = slot.is_read_to_its_end();
        let Some(dying) = &mut slot.dying else { return Ok(()) };
        let too_long = u128::from(now_ns().saturating_sub(dying.since)) > LAST_TIME.as_nanos();
        if dying.turns == 0 || too_long || is_read {
            return Err(End::Gone(dying.why));
        }
        dying.turns -= 1;
        Ok(())
    }

    #[inline]
    fn handle(&mut self, index: usize) -> Result<bool, End> {
        let mut handled = 0;
        let mut unrung = 0;
        let mut began = 0;
        while handled < self.limits.turn {
            let slot = &mut self.slots[index];
            if !slot.may_read(&self.limits) {
                break;
            }
            match slot.session.receive(&mut self.request).map_err(End::Fault)? {
                Received::Nothing => break,
                Received::Partial => {}
                Received::Refused(head) => {
                    self.refuse(
                        index,
                        head,
                        code::EXHAUSTED,
                        "the server has no memory to spare for this request",
                    )?;
                }
                Received::Message(head)
                    if !E::LATER && head.kind() == Kind::Request && !self.slots[index].drained =>
                {
                    self.serve(index, head)?;
                }
                Received::Message(head) => self.message(index, head, 0)?,
                Received::Until(head, until) => {
                    self.slots[index].sample(head);
                    self.message(index, head, until)?;
                }
            }
            handled += 1;
            // The first answer is rung for at once. While more requests are there and are short, one ring then
            // serves several answers.
            let slot = &mut self.slots[index];
            if slot.session.is_owed() {
                unrung += 1;
                let put_off = handled > 1
                    && self.pace_ns < SHORT_NS
                    && slot.session.has_pending()
                    && unrung * self.pace_ns < PUT_OFF_NS
                    && !slot.session.peer_looks_asleep();
                if !put_off {
                    slot.session.flush();
                    unrung = 0;
                }
            }
            if handled == 1 && self.slots[index].session.has_pending() {
                began = now_ns();
            }
        }
        self.slots[index].session.flush();
        if handled > 1 && began != 0 {
            self.pace_ns = (now_ns().saturating_sub(began)) / u64::from(handled - 1) + 1;
        }
        if self.request.capacity() > KEEP_BUFFER {
            self.request = Vec::new();
        }
        if self.response.capacity() > KEEP_BUFFER {
            self.response = Vec::new();
        }
        Ok(handled != 0)
    }

    /// A request that is answered before anything else happens, all in one piece: what [`Self::message`] and those that
    /// it calls do for all kinds of requests and answers takes half as long again.
    #[inline(always)]
    fn serve(&mut self, index: usize, head: Head) -> Result<(), End> {
        crate::kill_point!("request-taken");
        self.counts.requests += 1;
        self.response.clear();
        let request = Incoming {
            session: &self.slots[index].caller,
            call: head.call,
            until: 0,
            one_way: false,
            payload: &mut self.request,
            flight: None,
            alone: false,
        };
        let about = (self.slots[index].id, head.call, request.payload.len(), false);
        let outcome =
            trace::handle(about, || self.engine.request(request, &mut self.response), Outcome::name);
        if !self.origin.is_here() {
            return Err(End::Forked);
        }
        let slot = &mut self.slots[index];
        let answer = Head::new(Kind::Response, head.call);
        if outcome != Outcome::Answer
            || !slot.queue.is_empty()
            || self.response.len() > slot.session.max_message()
        {
            return self.answer_with(index, head.call, outcome);
        }
        let mut progress = Progress::default();
        match slot.session.post(answer, 0, &self.response, &mut progress) {
            Ok(Sent::Done) => {
                crate::kill_point!("response-posted");
            }
            Ok(Sent::Full) => self.queue(index, answer, progress),
            Err(fault) => return Err(End::Fault(fault)),
        }
        Ok(())
    }

    /// Answers a request that nothing else is known of, with what is in the response buffer.
    fn answer_with(&mut self, index: usize, call: u64, outcome: Outcome) -> Result<(), End> {
        match outcome {
            Outcome::Answer => self.answer(index, Head::new(Kind::Response, call)),
            Outcome::Error(code) => self.answer(index, Head::error(code, call)),
            Outcome::Nothing | Outcome::Later => Ok(()),
        }
    }

    #[inline]
    fn message(&mut self, index: usize, head: Head, until: u64) -> Result<(), End> {
        crate::kill_point!("request-taken");
        match head.kind() {
            Kind::Request => self.request(index, head, until, false),
            Kind::OneWay => self.request(index, head, until, true),
            Kind::Ping => self.send(index, Head::new(Kind::Pong, head.call)),
            Kind::Cancel => {
                if let Some(flight) = self.slots[index].flights.find(head.call)
                    && !flight.is_cancelled()
                {
                    flight.give_up(StreamOver::Cancelled);
                    self.counts.cancelled += 1;
                }
                Ok(())
            }
            Kind::Credit => {
                if let Some(flight) = self.slots[index].flights.find(head.call) {
                    flight.grant(head.code());
                }
                Ok(())
            }
            Kind::Pong => Ok(()),
            Kind::Goodbye => self.part_at_the_end(index, Death::Goodbye),
            kind => Err(End::Fault(PeerFault::UnexpectedKind(kind))),
        }
    }

    #[inline(always)]
    fn request(&mut self, index: usize, head: Head, until: u64, one_way: bool) -> Result<(), End> {
        if (until != 0 || self.slots[index].drained) && self.is_too_late(index, head, until)? {
            return Ok(());
        }
        if E::LATER {
            let slot = &mut self.slots[index];
            if !slot.backlog.is_empty() || !slot.may_begin(&self.limits) {
                slot.backlog.add(head, until, std::mem::take(&mut self.request));
                return Ok(());
            }
        }
        self.begin(index, head, until, one_way)
    }

    /// Handles requests that were set aside, as far as the limit allows.
    #[cold]
    fn read_backlog(&mut self, index: usize) -> Result<bool, End> {
        let mut moved = false;
        while self.slots[index].may_begin(&self.limits) {
            let Some((head, until, payload)) = self.slots[index].backlog.next() else { break };
            moved = true;
            self.request = payload;
            if until == 0 || !self.is_too_late(index, head, until)? {
                self.begin(index, head, until, head.kind() == Kind::OneWay)?;
            }
        }
        self.slots[index].session.flush();
        Ok(moved)
    }

    /// Gives a request to the engine.
    #[inline(always)]
    fn begin(&mut self, index: usize, head: Head, until: u64, one_way: bool) -> Result<(), End> {
        self.counts.requests += 1;
        self.response.clear();
        let slot = &mut self.slots[index];
        let alone = E::LATER && slot.flights.len() == 0 && !slot.session.has_pending();
        let len = self.request.len();
        let flight = E::LATER.then(|| slot.flights.prepare(&slot.caller.0, head.call, until, one_way));
        let place = match &flight {
            Some(flight) if slot.flights.are_in_order() => Some(slot.flights.enter(flight.clone(), len)),
            _ => None,
        };
        if let Some(flight) = &flight
            && slot.dying.is_some()
        {
            // As those that were in flight when the client went: nobody takes an answer.
            flight.give_up(StreamOver::Gone);
        }
        let request = Incoming {
            session: &slot.caller,
            call: head.call,
            until,
            one_way,
            payload: &mut self.request,
            flight: flight.as_ref(),
            alone,
        };
        let about = (slot.id, head.call, len, one_way);
        let outcome =
            trace::handle(about, || self.engine.request(request, &mut self.response), Outcome::name);
        if !self.origin.is_here() {
            return Err(End::Forked);
        }
        let answer = match outcome {
            Outcome::Answer => Some(Head::new(Kind::Response, head.call)),
            Outcome::Error(code) => Some(Head::error(code, head.call)),
            Outcome::Nothing => None,
            Outcome::Later => {
                self.counts.dispatched += 1;
                if let (Some(flight), None) = (flight, place) {
                    // What other threads say of it is read after this, on this thread.
                    self.slots[index].flights.enter(flight, len);
                }
                return Ok(());
            }
        };
        let Some(flight) = flight else {
            return if one_way { Ok(()) } else { answer.map_or(Ok(()), |answer| self.answer(index, answer)) };
        };
        self.counts.inline += 1;
        if let Some(place) = place {
            drop(flight);
            return self.answer_of(index, place, answer);
        }
        self.slots[index].flights.put_back(flight);
        answer.map_or(Ok(()), |answer| self.answer(index, answer))
    }

    /// Answers a request that came too late: after its deadline, or after the order to shut down.
    #[cold]
    fn is_too_late(&mut self, index: usize, head: Head, until: u64) -> Result<bool, End> {
        let (code, text) = if self.slots[index].drained {
            (code::SHUTTING_DOWN, "the server shuts down")
        } else if now_ns() >= until {
            self.counts.expired += 1;
            (code::DEADLINE_EXCEEDED, "the deadline passed before the request was run")
        } else {
            return Ok(false);
        };
        self.refuse(index, head, code, text)?;
        Ok(true)
    }

    /// Answers a request that is not run, in its turn. A one-way message is dropped.
    #[cold]
    fn refuse(&mut self, index: usize, head: Head, code: u16, text: &str) -> Result<(), End> {
        match head.kind() {
            Kind::Request => {}
            Kind::OneWay => {
                self.counts.errors += 1;
                return Ok(());
            }
            kind => return Err(End::Fault(PeerFault::UnexpectedKind(kind))),
        }
        self.response.clear();
        self.response.extend_from_slice(text.as_bytes());
        let error = Head::error(code, head.call);
        if !E::LATER {
            return self.answer(index, error);
        }
        let slot = &mut self.slots[index];
        let flight = slot.flights.prepare(&slot.caller.0, head.call, 0, false);
        let place = slot.flights.enter(flight, 0);
        self.answer_of(index, place, Some(error))
    }

    /// Sends the answer in the response buffer that belongs to a flight, or keeps it until its turn. `None`: the
    /// flight is over without an answer.
    #[inline]
    fn answer_of(&mut self, index: usize, place: u32, answer: Option<Head>) -> Result<(), End> {
        let flights = &mut self.slots[index].flights;
        let Some(head) = answer else {
            flights.end(place);
            return Ok(());
        };
        let last = is_final(head.kind());
        if !flights.is_its_turn(place) {
            self.slots[index].answered(head);
            let flights = &mut self.slots[index].flights;
            flights.hold(place, head, std::mem::take(&mut self.response), last);
            self.counts.stashed += 1;
            return Ok(());
        }
        self.answer(index, head)?;
        if last {
            self.slots[index].flights.end(place);
            while let Some((head, payload)) = self.slots[index].flights.next_held() {
                self.response = payload;
                self.answer(index, head)?;
            }
        }
        Ok(())
    }

    /// Sends what other threads have completed; whether there was anything.
    #[cold]
    fn read_completions(&mut self) -> bool {
        let mut batch = std::mem::take(&mut self.batch);
        self.completions.take(&mut batch);
        let any = !batch.is_empty();
        let own = std::mem::take(&mut self.response);
        let (mut over, mut answered) = (Vec::new(), std::mem::take(&mut self.answered));
        for Completion { to, kind, code, payload } in batch.drain(..) {
            let id = match &to {
                To::Flight(flight) => flight.caller.id,
                To::Caller(caller) => caller.id,
            };
            self.response = payload;
            match self.places.get(&id) {
                None => self.counts.orphans += 1,
                Some(&index) => {
                    if let Err(end) = self.complete(index, to, kind, code) {
                        over.push((id, end));
                    }
                    // It may go on now with what waited for that, and its client is likely to call again.
                    self.turns.heat(index);
                    // Rung for once, if those of one session follow each other.
                    if answered.last() != Some(&index) {
                        answered.push(index);
                    }
                }
            }
            self.completions.buffers().give(std::mem::take(&mut self.response));
        }
        self.response = own;
        self.batch = batch;
        for place in answered.drain(..) {
            self.slots[place].session.flush();
        }
        self.answered = answered;
        for (id, end) in over {
            self.take_down(id, end);
        }
        any
    }

    fn complete(&mut self, index: usize, to: To, kind: Kind, code: u16) -> Result<(), End> {
        let flight = match to {
            To::Flight(flight) => flight,
            To::Caller(_) => {
                self.counts.events += 1;
                return self.answer(index, Head::new(kind, 0));
            }
        };
        if !self.slots[index].flights.has(&flight) {
            self.counts.orphans += 1;
            return Ok(());
        }
        let (place, call) = (flight.place(), flight.call);
        drop(flight);
        if kind == Kind::StreamItem {
            self.slots[index].flights.streams(place);
        }
        let answer = (kind != Kind::OneWay).then(|| Head::with_code(kind, code, call));
        self.answer_of(index, place, answer)
    }

    /// Sends the answer in the response buffer, or an error in its place if it is too large.
    #[inline]
    fn answer(&mut self, index: usize, mut head: Head) -> Result<(), End> {
        self.slots[index].answered(head);
        let max = self.slots[index].session.max_message();
        if head.kind() == Kind::Error {
            self.cut_error(index, head.code());
        } else if self.response.len() > max {
            let text = format!("the answer of {} bytes is too large: at most {max}", self.response.len());
            self.response = text.into_bytes();
            self.cut_error(index, code::TOO_LARGE);
            head = Head::error(code::TOO_LARGE, head.call);
        }
        self.send(index, head)
    }

    #[cold]
    fn cut_error(&mut self, index: usize, code: u16) {
        self.counts.errors += 1;
        self.slots[index].session.counts.errors += 1;
        if code == crate::layout::code::PANICKED {
            self.counts.panics += 1;
        }
        let session = &self.slots[index].session;
        let mut end = self.response.len().min(session.max_body()).min(session.max_message()).min(1024);
        // Not in the middle of a character, if it is UTF-8.
        while end > 0 && self.response.get(end).is_some_and(|byte| byte & 0xc0 == 0x80) {
            end -= 1;
        }
        self.response.truncate(end);
    }

    /// Sends what is in the response buffer, or queues what finds no room. Rings later.
    #[inline]
    fn send(&mut self, index: usize, head: Head) -> Result<(), End> {
        let slot = &mut self.slots[index];
        let payload = if head.kind() == Kind::Pong { &[][..] } else { &self.response[..] };
        let mut progress = Progress::default();
        if slot.queue.is_empty()
            && slot.session.post(head, 0, payload, &mut progress).map_err(End::Fault)? == Sent::Done
        {
            crate::kill_point!("response-posted");
            slot.sent(head);
            return Ok(());
        }
        self.queue(index, head, progress);
        Ok(())
    }

    #[cold]
    fn queue(&mut self, index: usize, head: Head, progress: Progress) {
        let payload = if head.kind() == Kind::Pong { Vec::new() } else { std::mem::take(&mut self.response) };
        let slot = &mut self.slots[index];
        slot.queue_bytes += payload.len();
        slot.queue.push_back(Queued { head, payload, progress });
        slot.stuck_since.get_or_insert_with(now_ns);
        self.counts.queued += 1;
    }

    fn send_queue(&mut self, index: usize) -> Result<bool, End> {
        let slot = &mut self.slots[index];
        let mut moved = false;
        while let Some(queued) = slot.queue.front_mut() {
            let before = queued.progress;
            let sent = slot
                .session
                .send(queued.head, 0, &queued.payload, &mut queued.progress)
                .map_err(End::Fault)?;
            moved |= sent == Sent::Done || queued.progress != before;
            if sent == Sent::Full {
                break;
            }
            slot.queue_bytes -= queued.payload.len();
            let head = queued.head;
            slot.queue.pop_front();
            slot.sent(head);
        }
        if slot.queue.is_empty() {
            slot.stuck_since = None;
        } else if moved {
            slot.stuck_since = Some(now_ns());
        } else if let (Some(since), Some(limit)) = (slot.stuck_since, self.limits.slow_client)
            && u128::from(now_ns().saturating_sub(since)) > limit.as_nanos()
        {
            return Err(End::Slow);
        }
        Ok(moved)
    }

    fn read_mail(&mut self) -> Result<(), Forked> {
        for event in self.mailbox.take() {
            match event {
                Event::Joined(joined) => self.join(*joined),
                Event::Died { session, why } => {
                    self.part_from(session, why);
                }
            }
        }
        self.store_counts();
        Ok(())
    }

    /// A client is gone. Who said goodbye may have sent requests before: they are handled, if nobody waits for the
    /// answers. So are the last ones over a socket, where a goodbye stands among them.
    fn part_from(&mut self, session: u64, why: Death) {
        let Some(&index) = self.places.get(&session) else { return };
        let slot = &mut self.slots[index];
        let why = if why == Death::HungUp && slot.said_goodbye { Death::Goodbye } else { why };
        if why != Death::Goodbye && !slot.session.is_socket() {
            return self.take_down(session, End::Gone(why));
        }
        slot.session.ready(Readiness { readable: true, ..Readiness::default() });
        slot.begin_dying(why, LAST_TURNS);
        self.turns.heat(index);
    }

    #[allow(clippy::cast_possible_truncation, reason = "usize is 64 bits; capacities were checked")]
    fn join(&mut self, joined: Joined) {
        let Joined { session: id, peer, lifeline, max_message, ordered: in_order, sampled, link, .. } =
            joined;
        let caller = service::Session(Arc::new(Caller {
            id,
            peer,
            transport: match &link {
                Link::Shared { .. } => Transport::SharedMemory,
                Link::Socket { reason: RejectReason::SocketAsked } => {
                    Transport::Socket { reason: FallbackReason::Asked }
                }
                Link::Socket { reason } => Transport::Socket { reason: FallbackReason::Server(*reason) },
            },
            order: if in_order { AnswerOrder::Request } else { AnswerOrder::Completion },
            max_message: max_message as usize,
            open: PlainBool::new(true),
            events: PlainU64::new(0),
            events_most: self.limits.events,
            slow_client: self.limits.slow_client,
            completions: self.completions.clone(),
        }));
        let mut records_most = SOCKET_FRAMES;
        let mut burst = 16 * layout::FRAGMENT;
        let mut samples = None;
        let (rings, words, shared) = match link {
            Link::Socket { .. } => {
                if self.parker.join_socket(id, &lifeline).is_err() {
                    // Out of memory: nobody would notice what it sends.
                    let _ = rustix::net::shutdown(&lifeline, rustix::net::Shutdown::Both);
                    return self.porter.closed(id);
                }
                self.sockets += 1;
                (None, None, None)
            }
            Link::Shared { request, response, domain, domain_bell, request_capacity, response_capacity } => {
                let watched = self.parker.join(domain, &domain_bell.bell_word(offset::SEQ), id, &lifeline);
                if !watched && self.stage.is_some() {
                    // With a backstop it could be served all the same.
                    self.parker.leave(Some(domain), &lifeline);
                    let _ = rustix::net::shutdown(&lifeline, rustix::net::Shutdown::Both);
                    return self.porter.closed(id);
                }
                records_most = request_capacity / layout::LINE;
                burst = response_capacity as usize;
                let (from, to) = (&request.window, &response.window);
                let rings = Rings {
                    out: Producer::new(
                        to.own_lines(layout::CONTROL, response_capacity as usize),
                        to.own_word(offset::TAIL),
                        from.peer_word(offset::HEAD),
                        0,
                    ),
                    incoming: Consumer::new(
                        from.peer_lines(layout::CONTROL, request_capacity as usize),
                        to.own_word(offset::HEAD),
                        0,
                    ),
                    ringer: Ringer::new(from.peer_word(offset::ARMED), to.bell_word(offset::SEQ)),
                };
                let (words, hints) = (Words::new(to), from.peer_word(offset::HINTS));
                samples = sampled.then(|| Box::new(Samples::new(to)));
                let shared =
                    Shared { domain, hints, _domain_bell: domain_bell, _segments: [request, response] };
                (Some(rings), Some(words), Some(shared))
            }
        };
        let session = Session::new(Parts {
            rings,
            lifeline: lifeline.clone(),
            words,
            max_message: max_message as usize,
            burst,
            budget: self.budget.clone(),
            stamps: samples.is_some(),
        });
        trace::server_joined(id, &caller.0.peer, &caller.0.transport);
        self.engine.opened(&caller);
        self.places.insert(id, self.slots.len());
        self.turns.join();
        self.slots.push(Slot {
            id,
            session,
            samples,
            caller,
            lifeline,
            shared,
            queue: VecDeque::new(),
            queue_bytes: 0,
            stuck_since: None,
            flights: Flights::new(in_order),
            backlog: Backlog::default(),
            said_goodbye: false,
            dying: None,
            drained: false,
            drain_turns: 0,
            records_most,
        });
        self.counts.accepted += 1;
        self.counts.sessions = self.slots.len() as u64;
        self.counts.sessions_peak = self.counts.sessions_peak.max(self.counts.sessions);
    }

    #[cold]
    fn take_down(&mut self, id: u64, end: End) {
        let Some(index) = self.places.remove(&id) else { return };
        let mut slot = self.slots.swap_remove(index);
        if let Some(moved) = self.slots.get(index) {
            self.places.insert(moved.id, index);
        }
        self.turns.leave(index);
        // Relaxed: advice.
        slot.caller.0.open.store(false, Ordering::Relaxed);
        slot.flights.give_up();
        self.parker.leave(slot.shared.as_ref().map(|shared| shared.domain), &slot.lifeline);
        self.sockets -= usize::from(slot.shared.is_none());
        let peer = &slot.caller.0.peer;
        match end {
            End::Fault(fault) => trace::server_lost(id, peer, &fault),
            End::Gone(Death::HungUp) => trace::server_lost(id, peer, &"the client hung up"),
            End::Gone(Death::ProcessDied) => trace::server_lost(id, peer, &"the client's process has ended"),
            End::Slow => trace::server_lost(id, peer, &"the client does not read its answers"),
            End::Gone(Death::Goodbye) => trace::server_left(id, peer, "goodbye"),
            End::ShutDown => trace::server_left(id, peer, "the server shuts down"),
            End::Forked => {}
        }
        let goodbye = match end {
            End::Fault(_) => {
                self.counts.peer_faults += 1;
                Some(Farewell::PeerFault)
            }
            End::Gone(_) => {
                self.counts.hung_up += 1;
                None
            }
            End::Slow => {
                self.counts.slow_clients += 1;
                Some(Farewell::SlowClient)
            }
            End::ShutDown => Some(Farewell::ShutDown),
            End::Forked => unreachable!("a child takes nothing down"),
        };
        if let Some(reason) = goodbye {
            if slot.shared.is_some() {
                send_byte(&slot.lifeline, reason as u8);
            }
            if end == End::ShutDown || slot.shared.is_none() {
                // In the ring as well: a client that sleeps there is woken at once. Without room it learns from
                // the lifeline.
                let goodbye = Head::with_code(Kind::Goodbye, reason as u16, 0);
                let _ = slot.session.send(goodbye, 0, &[], &mut Progress::default());
            }
        }
        if goodbye.is_some() || slot.shared.is_none() {
            // Hangs up for all holders of the descriptor, the porter included.
            let _ = rustix::net::shutdown(&slot.lifeline, rustix::net::Shutdown::Both);
        }
        slot.session.store_counts();
        self.wakes_of_the_gone += slot.session.counts.wakes_sent;
        self.counts.sessions = self.slots.len() as u64;
        self.porter.closed(id);
        self.engine.closed(&slot.caller);
    }

    /// Whether the porter or somebody else in this process has something to say.
    #[inline]
    fn has_news(&self) -> bool {
        self.mailbox.has_mail() || self.completions.any() || self.mailbox.is_stopping()
    }

    fn wait(&mut self) {
        let around = self.surroundings();
        match self.waiter.step(around, now_ns) {
            Step::Spin(polls) => {
                if !self.spin(polls) {
                    self.poll_sockets();
                }
            }
            Step::Yield => {
                self.hint(false);
                rustix::thread::sched_yield();
                self.poll_sockets();
            }
            Step::Park => self.park(),
        }
    }

    /// Looks so often; true if it need not look at sockets as well.
    #[inline]
    fn spin(&mut self, polls: u32) -> bool {
        if let [slot] = &self.slots[..]
            && slot.queue.is_empty()
        {
            slot.session.watch(polls, || {
                spin_hint();
                self.has_news()
            });
            return true;
        }
        let has_pending = |slot: &Slot| slot.queue.is_empty() && slot.session.has_pending();
        let cold = self.turns.cold_turns(0);
        for _ in 0..polls {
            if self.has_news() || self.turns.hot().iter().any(|place| has_pending(&self.slots[*place])) {
                return true;
            }
            for _ in 0..cold {
                let place = self.turns.next_cold();
                if has_pending(&self.slots[place]) {
                    self.turns.heat(place);
                    return true;
                }
            }
            spin_hint();
        }
        false
    }

    fn park(&mut self) {
        self.hint(true);
        self.settle();
        self.store_counts();
        let span = trace::server_park(self.slots.len());
        let slept = span.inside(|| self.sleep(self.interest(), self.limits.wait.backstop, false));
        span.ended(match slept {
            Slept::Not => {
                self.counts.arms_called_off += 1;
                "called_off"
            }
            Slept::Rung | Slept::Out => {
                self.counts.parks += 1;
                if slept == Slept::Rung { "rung" } else { "clock" }
            }
            Slept::Rescued(rescue) => {
                match rescue {
                    Rescue::LateRing => self.counts.late_rings += 1,
                    Rescue::LostWake => self.counts.backstop_rescues += 1,
                }
                "clock"
            }
        });
    }

    /// Publishes how far everybody was read. Who is cold was settled when it became so.
    fn settle(&mut self) {
        for place in self.turns.hot() {
            self.slots[*place].session.settle();
        }
    }

    /// What the reactor is to be rung for.
    fn interest(&self) -> Interest {
        let stuck = self.slots.iter().any(|slot| !slot.queue.is_empty());
        if stuck { Interest::BOTH } else { Interest::DATA }
    }

    /// `stopping`: whether the order to stop is known.
    fn sleep(&mut self, interest: Interest, backstop: Duration, stopping: bool) -> Slept {
        let Self { parker, slots, turns, mailbox, completions, limits, woken, .. } = self;
        let look = || {
            mailbox.has_mail()
                || completions.any()
                || mailbox.is_stopping() != stopping
                || find_work(slots, limits, turns)
        };
        let slept = parker.park(interest, backstop, look, |session, ready| woken.push((session, ready)));
        self.read_woken();
        slept
    }

    /// Asks the kernel about sockets, without waiting.
    #[inline]
    fn poll_sockets(&mut self) {
        if self.sockets != 0 {
            let Self { parker, woken, .. } = self;
            parker.poll(|session, ready| woken.push((session, ready)));
            self.read_woken();
        }
    }

    /// Passes on what the kernel said.
    fn read_woken(&mut self) {
        let mut woken = std::mem::take(&mut self.woken);
        for (id, ready) in woken.drain(..) {
            self.porter_is_due |= id == PORTER;
            let Some(&index) = self.places.get(&id) else { continue };
            self.turns.heat(index);
            let slot = &mut self.slots[index];
            if slot.session.is_socket() {
                slot.session.ready(ready);
            } else {
                self.read_wake_bytes(id);
            }
        }
        self.woken = woken;
    }

    /// Empties a lifeline of wake bytes, so that there is room for the next one. What else stands there the porter
    /// sees as well, when the client hangs up.
    fn read_wake_bytes(&mut self, session: u64) {
        let Some(slot) = self.places.get(&session).and_then(|index| self.slots.get_mut(*index)) else {
            return;
        };
        let mut bytes = [0; 256];
        // A bounded number of reads: a client that floods its lifeline gains no more of the reactor's time.
        for _ in 0..4 {
            match rustix::net::recv(&slot.lifeline, &mut bytes[..], rustix::net::RecvFlags::DONTWAIT) {
                Ok((count @ 1.., _)) => {
                    // The porter would look for it in vain.
                    slot.said_goodbye |= bytes[..count].contains(&lifeline::GOODBYE);
                    if count < bytes.len() {
                        // There is room, and whatever comes now makes a new edge.
                        break;
                    }
                }
                _ => break,
            }
        }
    }

    /// Of those that did something lately.
    #[inline]
    fn surroundings(&self) -> Surroundings {
        if let [place] = self.turns.hot()
            && let Some(shared) = &self.slots[*place].shared
        {
            let client = Hints(shared.hints.load());
            return Surroundings {
                peer_cannot_run: client.cpu().is_some() && client.cpu() == self.cpu,
                crowded: false,
            };
        }
        let mut on = 0u64;
        // A socket is not seen by spinning.
        let mut can_run = self.turns.hot().is_empty();
        let hot = self.turns.hot().iter().map(|place| &self.slots[*place]);
        for shared in hot.filter_map(|slot| slot.shared.as_ref()) {
            let client = Hints(shared.hints.load());
            if let Some(cpu) = client.cpu() {
                on |= 1u64.checked_shl(cpu).unwrap_or(0);
            }
            can_run |= client.cpu() != self.cpu;
        }
        Surroundings { peer_cannot_run: !can_run, crowded: on.count_ones() >= self.cpus }
    }

    #[allow(clippy::cast_possible_truncation, reason = "CPU numbers are small")]
    fn hint(&mut self, off: bool) {
        self.cpu = Some(rustix::thread::sched_getcpu() as u32);
        // Relaxed: advice.
        self.hints.store(Hints::new(self.cpu, off).0, Ordering::Relaxed);
    }

    /// Answers what is there, sends what is queued, says goodbye.
    fn shut_down(&mut self) -> Result<(), Forked> {
        trace::shutdown(self.slots.len());
        self.porter.stop();
        loop {
            if self.mailbox.has_mail() {
                self.read_mail()?;
            }
            let completed = self.completions.any() && self.read_completions();
            self.poll_sockets();
            // Looked at anew each time: a second order to stop may be more urgent. And before anything more is handled:
            // who gives no time to drain wants none of it.
            if now_ns() >= self.mailbox.stop_at().unwrap_or(0) {
                break;
            }
            let worked = self.drain()? || completed;
            if self.slots.iter().all(Slot::is_done) {
                break;
            }
            if !worked {
                // Rung for answers that are complete, and for room.
                self.sleep(Interest::BOTH, DRAIN_NAP, true);
            }
        }
        self.say_goodbye();
        Ok(())
    }

    /// Parts from everybody.
    fn say_goodbye(&mut self) {
        while let Some(slot) = self.slots.first() {
            let id = slot.id;
            self.take_down(id, End::ShutDown);
        }
        // The porter may have let somebody in meanwhile.
        self.porter.end();
        for Completion { payload, .. } in self.completions.close() {
            self.counts.orphans += 1;
            drop(payload);
        }
        for event in self.mailbox.close() {
            if let Event::Joined(joined) = event {
                joined.say_farewell(Farewell::ShutDown);
            }
        }
        trace::stopped(self.counts.accepted, self.counts.requests);
    }

    fn drain(&mut self) -> Result<bool, Forked> {
        let mut worked = false;
        let mut over = Vec::new();
        for index in 0..self.slots.len() {
            match self.turn(index) {
                Ok(moved) => {
                    worked |= moved;
                    let slot = &mut self.slots[index];
                    // What was in the ring when the order came is a ring's worth of records at most.
                    slot.drain_turns += 1;
                    let ringful = slot.records_most / u64::from(self.limits.turn) + 1;
                    slot.drained |= !slot.session.has_pending() || slot.drain_turns > ringful;
                }
                Err(End::Forked) => return Err(Forked),
                Err(end) => over.push((self.slots[index].id, end)),
            }
        }
        for (id, end) in over {
            self.take_down(id, end);
        }
        Ok(worked)
    }

    fn store_counts(&mut self) {
        let waits = self.waiter.counts();
        self.counts.spins_paid = waits.spins_paid;
        self.counts.yields = waits.yields;
        self.counts.slow_episodes = waits.slow_episodes;
        let porter = self.porter.counters();
        self.counts.rejected = porter.rejected_total();
        self.counts.handshakes_failed =
            porter.failed.load(Ordering::Relaxed) + porter.timeouts.load(Ordering::Relaxed);
        self.counts.fallbacks = porter.fallbacks.load(Ordering::Relaxed);
        let mut wakes = 0;
        for slot in &mut self.slots {
            slot.session.store_counts();
            wakes += slot.session.counts.wakes_sent;
        }
        self.counts.wakes_sent = self.wakes_of_the_gone + wakes;
        self.counts.in_flight = self.slots.iter().map(|slot| slot.flights.len() as u64).sum();
        self.counts.store(&mut self.stored, &self.words);
    }
}

/// Whether anybody has something to do: the second look before a sleep, at everybody. Who is found is hot.
fn find_work(slots: &mut [Slot], limits: &Limits, turns: &mut Turns) -> bool {
    let found = slots.iter_mut().position(|slot| slot.has_work(limits));
    if let Some(place) = found {
        turns.heat(place);
    }
    found.is_some()
}
