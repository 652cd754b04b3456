//! L4: the one thread that owns all I/O of established sessions. A driver of `session.rs`: it takes turns between
//! sessions, hands requests to an [`Engine`], sends what the engine answers, and sleeps when there is nothing to do.
//!
//! It never waits for one client: an answer that finds no room is queued, up to a bound; a session with answers in
//! its queue is not read from; one that stays so for too long is disconnected.

use crate::bell::{Rescue, Ringer};
use crate::clock::now_ns;
use crate::fork::Origin;
use crate::handshake::lifeline::Farewell;
use crate::layout::{self, Hints, Interest, Kind, code, offset};
use crate::memory::{OwnWord, PeerWord, Window};
use crate::park::{Notifier, Parker, Slept};
use crate::porter::{Death, Event, Joined, Link, PeerInfo, PorterHandle};
use crate::ring::{Consumer, Producer};
use crate::segment::Segment;
use crate::session::{Budget, Head, Parts, PeerFault, Progress, Received, Sent, Session, send_byte};
use crate::stats::{ServerCounters, Words};
use crate::sync::{Ordering, PlainBool, PlainU64, spin_hint};
use crate::wait::{Step, Surroundings, WaitSettings, Waiter};
use rustix::fd::OwnedFd;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What answers requests.
pub(crate) trait Engine {
    /// Handles one request. The answer's payload goes to `response`, which is empty.
    fn request(&mut self, request: Incoming<'_>, response: &mut Vec<u8>) -> Outcome;

    /// A session is over: no request of it follows.
    fn closed(&mut self, session: u64);
}

/// A request that was taken from a ring.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Incoming<'a> {
    pub(crate) session: u64,
    pub(crate) peer: &'a PeerInfo,
    pub(crate) call: u64,
    pub(crate) payload: &'a [u8],
}

/// What came of a request.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The answer is in the buffer.
    Answer,
    /// An error is the answer; its text is in the buffer.
    Error(u16),
}

/// What other threads tell a reactor.
#[derive(Debug)]
pub(crate) struct Mailbox {
    /// `None` once nobody reads them any more.
    events: Mutex<Option<VecDeque<Event>>>,
    /// Whether there are any: looked at in each pass, so not behind the lock.
    full: PlainBool,
    /// 0, or 1 + the absolute time in ns at which draining ends.
    stop: PlainU64,
    notifier: Arc<Notifier>,
}

impl Mailbox {
    pub(crate) fn new(notifier: Arc<Notifier>) -> Self {
        Self {
            events: Mutex::new(Some(VecDeque::new())),
            full: PlainBool::new(false),
            stop: PlainU64::new(0),
            notifier,
        }
    }

    /// Asks the reactor to shut down, having drained until `deadline_ns`. Async-signal-safe.
    pub(crate) fn stop(&self, deadline_ns: u64) {
        // Release: nothing is handed over with it, but it must not be delayed behind the ring.
        self.stop.store(deadline_ns.saturating_add(1), Ordering::Release);
        self.notifier.notify();
    }

    #[inline]
    fn stop_at(&self) -> Option<u64> {
        self.stop.load(Ordering::Relaxed).checked_sub(1)
    }

    #[inline]
    fn has_mail(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    fn take(&self) -> VecDeque<Event> {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        self.full.store(false, Ordering::Relaxed);
        events.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Nobody will read what comes from now on: it is dropped. What came before is returned.
    fn close(&self) -> VecDeque<Event> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
    }
}

impl crate::porter::Outbox for Arc<Mailbox> {
    fn deliver(&self, event: Event) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        // A session that nobody will serve is hung up on by being dropped.
        let Some(queue) = events.as_mut() else { return };
        queue.push_back(event);
        // Relaxed: the events are behind the lock, and a sleeping reactor is rung.
        self.full.store(true, Ordering::Relaxed);
        drop(events);
        self.notifier.notify();
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
    /// How long a session may leave answers unread before it is disconnected; `None` for ever.
    pub(crate) slow_client: Option<Duration>,
    pub(crate) wait: WaitSettings,
}

/// An answer that found no room yet.
#[derive(Debug)]
struct Queued {
    head: Head,
    payload: Vec<u8>,
    progress: Progress,
}

#[derive(Debug)]
struct Slot {
    id: u64,
    domain: u32,
    session: Session,
    peer: PeerInfo,
    lifeline: Arc<OwnedFd>,
    hints: PeerWord,
    queue: VecDeque<Queued>,
    queue_bytes: usize,
    /// Since when the queue has not moved.
    stuck_since: Option<u64>,
    /// Shutting down, and its ring was found empty, or gone through once.
    drained: bool,
    /// Turns since the order to shut down.
    drain_turns: u64,
    /// Records that the request ring can hold at most.
    records_most: u64,
    _domain_bell: Window,
    /// Their descriptors stay open: tools find them there.
    _segments: [Segment; 2],
}

impl Slot {
    /// Whether a request may be taken: its answer might have to be queued.
    #[inline]
    fn may_read(&self, limits: &Limits) -> bool {
        self.queue.is_empty() || (self.queue.len() < limits.queue && self.queue_bytes < limits.queue_bytes)
    }

    /// Whether a turn would find something to do: the second look before a sleep.
    fn has_work(&mut self, limits: &Limits) -> bool {
        (self.may_read(limits) && self.session.has_pending())
            || (!self.queue.is_empty() && self.session.room_appeared())
    }
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
    first: usize,
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
}

impl<E> Drop for Reactor<E> {
    fn drop(&mut self) {
        // However it ends: nobody is left waiting in the mailbox of a reactor that is gone.
        if self.origin.is_here() {
            self.porter.end();
            drop(self.mailbox.close());
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
/// Buffers larger than this are not kept when they are no longer needed.
const KEEP_BUFFER: usize = 4 << 20;

/// What a reactor is made of.
pub(crate) struct ReactorParts<E> {
    pub(crate) engine: E,
    pub(crate) mailbox: Arc<Mailbox>,
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
            first: 0,
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
        }
    }

    /// Serves until asked to stop; what was counted.
    pub(crate) fn run(mut self) -> Result<ServerCounters, Forked> {
        self.hint(false);
        while self.mailbox.stop_at().is_none() {
            if self.mailbox.has_mail() {
                self.read_mail()?;
                continue;
            }
            if self.pass()? {
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
        if self.waiter.is_off_cpu() || self.passes.is_multiple_of(REFRESH_PASSES) {
            self.hint(false);
        }
        self.waiter.found(now_ns);
    }

    /// One turn for every session; whether anything happened.
    #[inline]
    fn pass(&mut self) -> Result<bool, Forked> {
        let mut worked = false;
        let count = self.slots.len();
        if count > 1 {
            self.first = (self.first + 1) % count;
        }
        let mut over: Vec<(u64, End)> = Vec::new();
        for step in 0..count {
            let mut index = self.first + step;
            if index >= count {
                index -= count;
            }
            match self.turn(index) {
                Ok(moved) => worked |= moved,
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
        if !slot.queue.is_empty() {
            moved = self.send_queue(index)?;
        }
        let slot = &mut self.slots[index];
        if !slot.may_read(&self.limits) || !slot.session.has_pending() {
            return Ok(moved);
        }
        let handled = self.handle(index)?;
        Ok(moved || handled)
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
                    self.response.clear();
                    self.response.extend_from_slice(b"the server has no memory to spare for this request");
                    self.answer(index, head, Outcome::Error(code::EXHAUSTED))?;
                }
                Received::Message(head) => self.message(index, head)?,
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

    #[inline]
    fn message(&mut self, index: usize, head: Head) -> Result<(), End> {
        crate::kill_point!("request-taken");
        match head.kind() {
            Kind::Request => {
                let slot = &self.slots[index];
                self.response.clear();
                let request =
                    Incoming { session: slot.id, peer: &slot.peer, call: head.call, payload: &self.request };
                let outcome = self.engine.request(request, &mut self.response);
                if !self.origin.is_here() {
                    return Err(End::Forked);
                }
                self.counts.requests += 1;
                self.answer(index, head, outcome)
            }
            Kind::Ping => self.send(index, Head::new(Kind::Pong, head.call)),
            // Nothing in flight can be cancelled: requests are answered before the next one is read.
            Kind::Cancel | Kind::Pong => Ok(()),
            Kind::Goodbye => Err(End::Gone(Death::Goodbye)),
            kind => Err(End::Fault(PeerFault::UnexpectedKind(kind))),
        }
    }

    #[inline]
    fn answer(&mut self, index: usize, to: Head, outcome: Outcome) -> Result<(), End> {
        let max = self.slots[index].session.max_message();
        let head = match outcome {
            Outcome::Answer if self.response.len() <= max => Head::new(Kind::Response, to.call),
            Outcome::Answer => {
                let text = format!("the answer of {} bytes is too large: at most {max}", self.response.len());
                self.response = text.into_bytes();
                self.error_head(index, to, code::TOO_LARGE)
            }
            Outcome::Error(code) => self.error_head(index, to, code),
        };
        self.send(index, head)
    }

    #[cold]
    fn error_head(&mut self, index: usize, to: Head, code: u16) -> Head {
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
        Head::error(code, to.call)
    }

    /// Sends what is in the response buffer, or queues what finds no room. Rings later.
    #[inline]
    fn send(&mut self, index: usize, head: Head) -> Result<(), End> {
        let slot = &mut self.slots[index];
        let payload = if head.kind() == Kind::Pong { &[][..] } else { &self.response[..] };
        let mut progress = Progress::default();
        if slot.queue.is_empty()
            && slot.session.post(head, payload, &mut progress).map_err(End::Fault)? == Sent::Done
        {
            crate::kill_point!("response-posted");
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
            let sent =
                slot.session.send(queued.head, &queued.payload, &mut queued.progress).map_err(End::Fault)?;
            moved |= sent == Sent::Done || queued.progress != before;
            if sent == Sent::Full {
                break;
            }
            slot.queue_bytes -= queued.payload.len();
            slot.queue.pop_front();
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
                    // Who said goodbye may have sent requests before: they are handled, if nobody waits for the answers.
                    if why == Death::Goodbye
                        && let Some(index) = self.slots.iter().position(|slot| slot.id == session)
                        && let Err(End::Forked) = self.turn(index)
                    {
                        return Err(Forked);
                    }
                    self.take_down(session, End::Gone(why));
                }
            }
        }
        self.store_counts();
        Ok(())
    }

    #[allow(clippy::cast_possible_truncation, reason = "usize is 64 bits; capacities were checked")]
    fn join(&mut self, joined: Joined) {
        let Link::Shared {
            request,
            response,
            domain,
            domain_bell: bell,
            request_capacity,
            response_capacity,
        } = joined.link
        else {
            // Not served yet: hung up on.
            let _ = rustix::net::shutdown(&joined.lifeline, rustix::net::Shutdown::Both);
            return self.porter.closed(joined.session);
        };
        self.parker.join(domain, &bell.bell_word(offset::SEQ), joined.session, &joined.lifeline);
        let segments = [request, response];
        let [request, response] = [&segments[0].window, &segments[1].window];
        let session = Session::new(Parts {
            out: Producer::new(
                response.own_lines(layout::CONTROL, response_capacity as usize),
                response.own_word(offset::TAIL),
                request.peer_word(offset::HEAD),
                0,
            ),
            incoming: Consumer::new(
                request.peer_lines(layout::CONTROL, request_capacity as usize),
                response.own_word(offset::HEAD),
                0,
            ),
            ringer: Ringer::new(request.peer_word(offset::ARMED), response.bell_word(offset::SEQ)),
            lifeline: joined.lifeline.clone(),
            words: Words::new(response),
            max_message: joined.max_message as usize,
            burst: response_capacity as usize,
            budget: self.budget.clone(),
        });
        self.slots.push(Slot {
            id: joined.session,
            domain,
            session,
            peer: joined.peer,
            lifeline: joined.lifeline,
            hints: request.peer_word(offset::HINTS),
            queue: VecDeque::new(),
            queue_bytes: 0,
            stuck_since: None,
            drained: false,
            drain_turns: 0,
            records_most: request_capacity / layout::LINE,
            _domain_bell: bell,
            _segments: segments,
        });
        self.counts.accepted += 1;
        self.counts.sessions = self.slots.len() as u64;
        self.counts.sessions_peak = self.counts.sessions_peak.max(self.counts.sessions);
    }

    #[cold]
    fn take_down(&mut self, id: u64, end: End) {
        let Some(index) = self.slots.iter().position(|slot| slot.id == id) else { return };
        let mut slot = self.slots.swap_remove(index);
        self.first = 0;
        self.parker.leave(slot.domain, &slot.lifeline);
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
            send_byte(&slot.lifeline, reason as u8);
            if end == End::ShutDown {
                // In the ring as well: a client that sleeps there is woken at once. Without room it learns from
                // the lifeline.
                let _ = slot.session.send(Head::new(Kind::Goodbye, 0), &[], &mut Progress::default());
            }
            // Hangs up for all holders of the descriptor, the porter included.
            let _ = rustix::net::shutdown(&slot.lifeline, rustix::net::Shutdown::Both);
        }
        slot.session.store_counts();
        self.wakes_of_the_gone += slot.session.counts.wakes_sent;
        self.counts.sessions = self.slots.len() as u64;
        self.porter.closed(id);
        self.engine.closed(id);
    }

    #[inline]
    fn any_pending(&self) -> bool {
        self.has_news() || self.slots.iter().any(|slot| slot.queue.is_empty() && slot.session.has_pending())
    }

    /// Whether the porter or somebody else in this process has something to say.
    #[inline]
    fn has_news(&self) -> bool {
        self.mailbox.has_mail() || self.mailbox.stop.load(Ordering::Relaxed) != 0
    }

    fn wait(&mut self) {
        let around = self.surroundings();
        match self.waiter.step(around, now_ns) {
            Step::Spin(polls) => {
                if let [slot] = &self.slots[..]
                    && slot.queue.is_empty()
                {
                    slot.session.watch(polls, || {
                        spin_hint();
                        self.has_news()
                    });
                    return;
                }
                for _ in 0..polls {
                    if self.any_pending() {
                        return;
                    }
                    spin_hint();
                }
            }
            Step::Yield => {
                self.hint(false);
                rustix::thread::sched_yield();
            }
            Step::Park => self.park(),
        }
    }

    fn park(&mut self) {
        self.hint(true);
        for slot in &mut self.slots {
            slot.session.settle();
        }
        self.store_counts();
        let stuck = self.slots.iter().any(|slot| !slot.queue.is_empty());
        let interest = if stuck { Interest::BOTH } else { Interest::DATA };
        let backstop = self.limits.wait.backstop;
        let Self { parker, slots, mailbox, limits, .. } = self;
        let look = || {
            mailbox.has_mail()
                || mailbox.stop.load(Ordering::Relaxed) != 0
                || slots.iter_mut().any(|slot| slot.has_work(limits))
        };
        let mut woken = Vec::new();
        let slept = parker.park(interest, backstop, look, |session| woken.push(session));
        for session in woken {
            self.read_wake_bytes(session);
        }
        match slept {
            Slept::Not => self.counts.arms_called_off += 1,
            Slept::Rung | Slept::Out => self.counts.parks += 1,
            Slept::Rescued(Rescue::LateRing) => self.counts.late_rings += 1,
            Slept::Rescued(Rescue::LostWake) => self.counts.backstop_rescues += 1,
        }
    }

    /// Empties a lifeline of wake bytes, so that there is room for the next one. What else stands there the porter
    /// sees as well, when the client hangs up.
    fn read_wake_bytes(&mut self, session: u64) {
        let Some(slot) = self.slots.iter().find(|slot| slot.id == session) else { return };
        let mut bytes = [0; 256];
        // A bounded number of reads: a client that floods its lifeline gains no more of the reactor's time.
        for _ in 0..4 {
            match rustix::net::recv(&slot.lifeline, &mut bytes[..], rustix::net::RecvFlags::DONTWAIT) {
                Ok((1.., _)) => {}
                _ => break,
            }
        }
    }

    #[inline]
    fn surroundings(&self) -> Surroundings {
        if let [slot] = &self.slots[..] {
            let client = Hints(slot.hints.load());
            return Surroundings {
                peer_cannot_run: client.cpu().is_some() && client.cpu() == self.cpu,
                crowded: false,
            };
        }
        let mut on = 0u64;
        let mut can_run = self.slots.is_empty();
        for slot in &self.slots {
            let client = Hints(slot.hints.load());
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
        self.porter.stop();
        loop {
            if self.mailbox.has_mail() {
                self.read_mail()?;
            }
            // Nobody is spoken to after this, so there is nothing to wait for but room in the rings.
            let worked = self.drain()?;
            let done = self.slots.iter().all(|slot| slot.drained && slot.queue.is_empty());
            // Looked at anew each time: a second order to stop may be more urgent.
            if done || now_ns() >= self.mailbox.stop_at().unwrap_or(0) {
                break;
            }
            if !worked {
                self.park_briefly();
            }
        }
        while let Some(slot) = self.slots.first() {
            let id = slot.id;
            self.take_down(id, End::ShutDown);
        }
        // The porter may have let somebody in meanwhile.
        self.porter.end();
        for event in self.mailbox.close() {
            if let Event::Joined(joined) = event {
                send_byte(&joined.lifeline, Farewell::ShutDown as u8);
            }
        }
        Ok(())
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

    fn park_briefly(&mut self) {
        let Self { parker, slots, mailbox, limits, .. } = self;
        let look = || mailbox.has_mail() || slots.iter_mut().any(|slot| slot.has_work(limits));
        parker.park(Interest::BOTH, Duration::from_millis(5), look, |_| {});
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
        self.counts.store(&mut self.stored, &self.words);
    }
}
