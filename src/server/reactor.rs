//! The one thread that owns all I/O of established sessions. A driver of `session.rs`: it takes
//! turns between sessions, hands requests to an [`Engine`], sends what the engine answers, and
//! sleeps when there is nothing to do.
//!
//! It never waits for one client: an answer that finds no room is queued, up to a bound; a session
//! with answers in its queue is not read from; one that stays so for too long is disconnected.

mod answers;
mod embedded;
mod ending;
#[cfg(feature = "tokio")]
pub(crate) mod idle;
mod limits;
mod looks;
mod mailbox;
mod membership;
#[cfg(test)]
mod pairing;
mod requests;
mod sleep;
mod slot;
mod turns;

use crate::base::clock::now_ns;
use crate::base::sync::Ordering;
use crate::link::held::{Charge, Held, Share, Total};
use crate::link::readiness::Readiness;
use crate::link::session::PeerFault;
use crate::link::side::OwnHints;
use crate::link::stats::{ServerCounters, Words};
use crate::memory::Window;
use crate::os::fork::Origin;
use crate::os::serving::Served;
use crate::protocol::wait::{WaitSettings, Waiter};
use crate::server::engine::Engine;
use crate::server::facts::{Oldest, ServingFacts};
use crate::server::flight::{Completion, Completions, enter_reactor_thread};
use crate::server::park::Parker;
use crate::server::porter::{Death, PorterHandle};
use limits::{LargeUntil, StreamLooks};
use looks::Looks;
use slot::Slot;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;
use turns::Turns;

pub(crate) use embedded::Pumped;
pub(crate) use mailbox::Mailbox;

/// Limits of one reactor.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Requests of one session that are handled before the next session has its turn.
    pub(crate) turn: u32,
    /// Answers that may wait for room in a session's ring before its requests are left unread.
    pub(crate) queue: usize,
    /// Requests of one session that may be without an answer before no more are read.
    pub(crate) in_flight: usize,
    /// Events of one session that may wait to be sent.
    pub(crate) events: u64,
    /// How long a session may leave answers unread before it is disconnected; `None` for ever.
    pub(crate) slow_client: Option<Duration>,
    /// How long a producer of a stream waits for a client that takes no item; `None` for ever.
    pub(crate) stream_stall: Option<Duration>,
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

/// Why a reactor has ended before it was told to.
#[derive(Debug)]
pub(crate) enum Halt {
    Forked,
    /// The porter, or the kernel's word on sockets, is gone: nobody new would be served.
    Failed(std::io::Error),
}

impl From<Forked> for Halt {
    fn from(_: Forked) -> Self {
        Self::Forked
    }
}

/// All sessions of one server, and the thread's state.
pub(crate) struct Reactor<E> {
    engine: E,
    generation: u64,
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
    /// What is held for all clients, and for those of each uid.
    held: Arc<Total>,
    shares: HashMap<u32, Weak<Share>>,
    /// Average time of a request in a turn of several, in ns: how long a ring may be put off.
    pace_ns: u64,
    request: Held,
    response: Vec<u8>,
    /// Of a response that came from another thread, or was kept.
    response_charge: Charge,
    hints: OwnHints,
    cpus: u32,
    passes: u64,
    looks: Looks,
    facts: ServingFacts,
    counts: ServerCounters,
    /// Wake calls made to clients of sessions that are over.
    wakes_of_the_gone: u64,
    stored: ServerCounters,
    words: Words,
    /// How far a reactor without a thread has come; `None` for one that has a thread.
    stage: Option<embedded::Stage>,
    /// Its loop may sleep: only without a thread.
    sleeps: bool,
    /// The porter has something to do: only without a thread.
    porter_is_due: bool,
    stream_looks: StreamLooks,
    large_until: LargeUntil,
    /// Why it cannot go on. It is told once.
    failure: Option<std::io::Error>,
}

impl<E> std::fmt::Debug for Reactor<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reactor")
            .field("sessions", &self.slots.len())
            .field("stage", &self.stage)
            .finish()
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
/// A busy reactor looks which CPU it is on every so many passes.
const REFRESH_PASSES: u64 = 1024;
/// Turns that a client has after it is gone: a full ring's worth, or what a socket's buffers hold.
const LAST_TURNS: u32 = 1 << 16;
/// For how long at most: handlers may never come to an end.
const LAST_TIME: Duration = Duration::from_secs(30);
/// Passes between two looks at sockets while there is other work.
const SOCKET_PASSES: u64 = 16;

/// What a reactor is made of.
pub(crate) struct ReactorParts<E> {
    pub(crate) engine: E,
    pub(crate) generation: u64,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) completions: Arc<Completions>,
    pub(crate) parker: Parker,
    pub(crate) porter: PorterHandle,
    pub(crate) status: Window,
    pub(crate) limits: Limits,
    pub(crate) held: Arc<Total>,
}

impl<E: Engine> Reactor<E> {
    pub(crate) fn new(parts: ReactorParts<E>) -> Self {
        let cpus = std::thread::available_parallelism()
            .map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
        Self {
            engine: parts.engine,
            generation: parts.generation,
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
            held: parts.held,
            shares: HashMap::new(),
            pace_ns: PUT_OFF_NS,
            request: Held::default(),
            response: Vec::new(),
            response_charge: Charge::default(),
            hints: OwnHints::new(&parts.status),
            cpus,
            passes: 0,
            looks: Looks::default(),
            facts: ServingFacts::new(&parts.status),
            counts: ServerCounters::default(),
            wakes_of_the_gone: 0,
            stored: ServerCounters::default(),
            words: Words::new(&parts.status),
            stage: None,
            sleeps: false,
            porter_is_due: false,
            stream_looks: StreamLooks::default(),
            large_until: LargeUntil::NONE,
            failure: None,
        }
    }

    /// Whom the thread that drives it serves.
    pub(crate) fn served(&self) -> Served {
        Served { generation: self.generation, origin: self.origin }
    }

    /// Serves until asked to stop; what was counted.
    pub(crate) fn run(mut self) -> Result<ServerCounters, Halt> {
        let _guard = enter_reactor_thread(self.served());
        self.facts.served_here();
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
                self.check_failure()?;
            }
        }
        self.shut_down()?;
        self.store_counts(now_ns());
        Ok(self.counts)
    }

    /// Ends everything if the reactor cannot go on.
    #[inline]
    fn check_failure(&mut self) -> Result<(), Halt> {
        if self.failure.is_none() { Ok(()) } else { self.halt() }
    }

    #[cold]
    fn halt(&mut self) -> Result<(), Halt> {
        match self.failure.take() {
            // It ends in any case, and answers what it can.
            None => Ok(()),
            Some(_) if self.mailbox.is_stopping() => Ok(()),
            Some(error) => {
                self.say_goodbye();
                Err(Halt::Failed(error))
            }
        }
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
            self.store_counts(now_ns());
        }
        if self.passes >= self.looks.next {
            self.look_around();
        }
        self.waiter.found(now_ns);
    }

    /// While it is busy: who does nothing, and what tools are to know of a thread that serves
    /// slowly. The more often, the longer its passes take.
    #[cold]
    fn look_around(&mut self) {
        let now = self.cool();
        if self.looks.looked(now, self.passes, self.parker.woke()) {
            self.store_counts(now);
        } else {
            self.facts.stored(now);
        }
    }

    /// One turn for every session that did something lately, and for some of the others; whether
    /// anything happened.
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
        if slot.gone.is_some() {
            self.spend_last_turn(index)?;
        } else if !slot.queue.is_empty() {
            moved = self.send_queue(index)?;
        } else if slot.stuck_since.is_some() || slot.session.has_unsent() {
            // The clock of what a socket does not take starts here, or before a sleep.
            self.keep_time(index, false)?;
        }
        if !self.slots[index].backlog.is_empty() {
            moved |= self.read_backlog(index)?;
        }
        let slot = &mut self.slots[index];
        if self.held.is_tight() || slot.is_held_up {
            self.note_hold_up(index);
        }
        let slot = &mut self.slots[index];
        if !slot.may_read(&self.limits) || !slot.session.has_pending() {
            if slot.gone.is_none() && slot.session.has_hung_up() {
                // It is not read to its end, and nobody takes the answers that would be needed for
                // that.
                slot.mark_gone(Death::HungUp, LAST_TURNS);
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

    /// Counts how often a client that has sent something is not read from, since too much is held.
    #[cold]
    fn note_hold_up(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        slot.flights.free_spare();
        let was = slot.is_held_up;
        slot.is_held_up = slot.session.has_pending() && !slot.has_room();
        self.counts.held_stops += u64::from(slot.is_held_up && !was);
    }

    /// Nothing more comes from a client. What was set aside of it is still handled.
    #[cold]
    fn part_at_the_end(&mut self, index: usize, why: Death) -> Result<(), End> {
        let slot = &mut self.slots[index];
        if slot.backlog.is_empty() {
            return Err(End::Gone(why));
        }
        slot.mark_gone(why, LAST_TURNS);
        Ok(())
    }

    /// One more turn for a client that is gone; nobody takes its answers.
    #[cold]
    fn spend_last_turn(&mut self, index: usize) -> Result<(), End> {
        let slot = &mut self.slots[index];
        slot.queue.clear();
        slot.stuck_since = None;
        let is_read = slot.is_read_to_its_end();
        let Some(gone) = &mut slot.gone else { return Ok(()) };
        let too_long = u128::from(now_ns().saturating_sub(gone.since)) > LAST_TIME.as_nanos();
        if gone.turns == 0 || too_long || is_read {
            return Err(End::Gone(gone.why));
        }
        gone.turns -= 1;
        Ok(())
    }

    /// Stores what was counted where tools find it, at `now`: CLOCK_MONOTONIC ns.
    fn store_counts(&mut self, now: u64) {
        let waits = self.waiter.counts();
        self.counts.spins_paid = waits.spins_paid;
        self.counts.yields = waits.yields;
        self.counts.slow_episodes = waits.slow_episodes;
        let porter = self.porter.counters();
        self.counts.rejected = porter.rejected_total();
        self.counts.rejected_of_uid = porter.rejected_of_uid();
        self.counts.rejected_full = porter.rejected_full();
        self.counts.inspectors_refused = porter.inspectors_refused.load(Ordering::Relaxed);
        self.counts.handshakes_failed =
            porter.failed.load(Ordering::Relaxed) + porter.timeouts.load(Ordering::Relaxed);
        self.counts.fallbacks = porter.fallbacks.load(Ordering::Relaxed);
        self.counts.accept_pauses = porter.accept_pauses.load(Ordering::Relaxed);
        self.counts.pauses = self.parker.pauses() + porter.pauses.load(Ordering::Relaxed);
        let (mut wakes, mut in_flight, mut oldest) = (0, 0, Oldest::default());
        for slot in &mut self.slots {
            let noted = slot.note_oldest(now);
            if noted.since_ns != 0 && (oldest.since_ns == 0 || noted.since_ns < oldest.since_ns) {
                oldest = noted;
            }
            in_flight += slot.session.counts.in_flight;
            slot.session.store_counts();
            wakes += slot.session.counts.wakes_sent;
        }
        self.counts.wakes_sent = self.wakes_of_the_gone + wakes;
        self.counts.in_flight = in_flight;
        self.counts.held_bytes = self.held.held();
        self.counts.held_refusals = self.held.refused();
        if self.held.is_tight() {
            let tight = self.slots.iter().any(|slot| !slot.has_room());
            self.held.set_tight(tight);
        }
        self.counts.store(&mut self.stored, &self.words);
        self.facts.tell_oldest(oldest);
        self.facts.stored(now);
    }
}
