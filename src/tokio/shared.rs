//! What futures and the driver share.

use super::entries::{Entries, Sent};
use super::foreign::{Caller, Wakes, WakesBehind};
use crate::base::clock::now_ns;
use crate::base::sync::lock;
use crate::client::CallError;
use crate::client::CallId;
use crate::client::Client;
use crate::client::SendError;
use crate::client::SessionEnd;
use crate::client::shared_use::{LookOut, Sending};
use crate::handshake::Transport;
use crate::os::fork::Origin;
use crate::protocol::bell::Arming;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

/// A session, and who waits for what of it.
#[derive(Debug)]
pub(super) struct SharedClient {
    core: Mutex<Core>,
    /// Whose session it is. Looked at before the lock is taken: in a forked child it may be held
    /// for ever by a thread that is not there.
    origin: Origin,
    facts: Facts,
}

/// What never changes.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) session: u64,
    pub(super) transport: Transport,
    pub(super) max_message: usize,
}

#[derive(Debug)]
pub(super) struct Core {
    pub(super) client: Client,
    /// Why it is over.
    over: Option<SessionEnd>,
    /// Nobody holds it any more.
    abandoned: bool,
    /// Tasks run on one thread, so that nobody else runs while one computes.
    alone: bool,
    /// The driver, unless it has been woken.
    driver: Option<Waker>,
    /// When the socket was written to last, since the driver looked last. CLOCK_MONOTONIC ns.
    told_at: Option<u64>,
    /// Turns of the driver in a row that found something.
    busy_turns: u32,
    calls: Entries,
    /// Who waits for room, in order. Only the first may send.
    queue: VecDeque<Queued>,
    next_ticket: u64,
    items: HashMap<u64, Waker>,
    /// Streams of events that wait, by their numbers.
    events: HashMap<u64, Waker>,
    next_listener: u64,
}

/// Somebody who waits for room.
#[derive(Debug)]
struct Queued {
    ticket: u64,
    /// Unless it was woken, and did not look since.
    waker: Option<Waker>,
}

/// For how long requests are left to the driver before one of them is written for all.
const PUT_OFF_NS: u64 = 50_000;
/// A call that was answered tries so often to arm, if something else comes each time.
const ARM_MOST: u32 = 4;
/// A driver that always finds something shows tools how far it has come every so many turns.
const STORE_TURNS: u32 = 64;

/// What came of an attempt to send.
pub(super) enum Offered {
    Sent(CallId),
    /// There was no room.
    Queued,
}

impl SharedClient {
    /// `alone`: on a runtime with one thread.
    pub(super) fn new(client: Client, alone: bool) -> Arc<Self> {
        let facts = Facts {
            session: client.session(),
            transport: client.transport().clone(),
            max_message: client.max_message(),
        };
        let core = Core {
            client,
            over: None,
            abandoned: false,
            alone,
            driver: None,
            told_at: None,
            busy_turns: 0,
            calls: Entries::default(),
            queue: VecDeque::new(),
            next_ticket: 0,
            items: HashMap::new(),
            events: HashMap::new(),
            next_listener: 0,
        };
        Arc::new(Self { core: Mutex::new(core), origin: Origin::here(), facts })
    }

    pub(super) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Does something under the lock, and wakes behind it. `None` in a forked child: the session is
    /// the parent's.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Core, &mut Wakes) -> T) -> Option<T> {
        self.with_room(&mut Wakes::default(), work)
    }

    /// The same for a task, which may have to be woken later. `poll` is made once more if it needs
    /// a clone of the waker: that is made between the two, without the lock.
    pub(super) fn poll<T>(
        &self,
        waker: &Waker,
        mut poll: impl FnMut(&mut Core, &mut Caller<'_>, &mut Wakes) -> T,
    ) -> Option<T> {
        let mut caller = Caller::new(waker);
        let polled = self.with(|core, wakes| poll(core, &mut caller, wakes));
        if !caller.lacks_own {
            return polled;
        }
        let mut caller = Caller::with_own(waker);
        self.with(|core, wakes| poll(core, &mut caller, wakes))
    }

    /// As [`Self::with`], for somebody who wakes many, again and again, and has kept the memory for
    /// that.
    pub(super) fn with_room<T>(
        &self,
        wakes: &mut Wakes,
        work: impl FnOnce(&mut Core, &mut Wakes) -> T,
    ) -> Option<T> {
        if !self.origin.is_here() {
            return None;
        }
        // Dropped behind the lock, which is a temporary of the next line.
        let wakes = WakesBehind(wakes);
        let result = work(&mut lock(&self.core), wakes.0);
        drop(wakes);
        Some(result)
    }
}

/// A session that somebody holds: with the last clone it is closed.
#[derive(Debug)]
pub(super) struct Handle(Arc<SharedClient>);

impl Handle {
    pub(super) fn new(shared: Arc<SharedClient>) -> Self {
        Self(shared)
    }

    pub(super) fn shared(&self) -> &SharedClient {
        &self.0
    }

    pub(super) fn with<T>(&self, look: impl FnOnce(&mut Client) -> T) -> Option<T> {
        self.0.with(|core, _| look(&mut core.client))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.with(|core, wakes| {
            core.abandoned = true;
            core.wake_driver(wakes);
        });
    }
}

impl Core {
    /// Has the driver look, and arm again.
    pub(super) fn wake_driver(&mut self, wakes: &mut Wakes) {
        wakes.others.extend(self.driver.take());
    }

    /// The driver is about to look, and is woken by this from then on.
    pub(super) fn driven_by(&mut self, waker: Waker, wakes: &mut Wakes) {
        wakes.retire(self.driver.replace(waker));
        self.told_at = None;
    }

    /// The driver looks once more, without being woken.
    pub(super) fn driver_comes_back(&mut self, wakes: &mut Wakes) {
        wakes.retire(self.driver.take());
    }

    pub(super) fn over(&self) -> Option<SessionEnd> {
        self.over
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned
    }

    /// Whether nobody waits for an answer or an item.
    fn is_quiet(&self) -> bool {
        self.calls.is_empty() && self.queue.is_empty() && self.items.is_empty()
    }

    /// Whether somebody waits for an answer that has not come.
    pub(super) fn has_calls(&self) -> bool {
        self.calls.waiting() != 0
    }

    /// Sends, or goes on with what was begun. Only who is first in the queue may. `ticket`: of the
    /// caller in the queue.
    pub(super) fn offer(
        &mut self,
        sending: &mut Sending,
        payload: &[u8],
        ticket: &mut Option<u64>,
        caller: &mut Caller<'_>,
        wakes: &mut Wakes,
    ) -> Result<Offered, SendError> {
        if let Some(over) = self.over {
            return Err(over.as_send());
        }
        let first = self.queue.front().is_none_or(|first| Some(first.ticket) == *ticket);
        if first {
            let put_off = sending.is_request() && self.may_put_off();
            match self.client.offer(sending, payload, put_off) {
                Ok(None) => {
                    // Armed for data at most: the driver has to arm for room.
                    self.wake_driver(wakes);
                }
                Ok(Some(call)) => {
                    self.leave_queue(*ticket, wakes);
                    return Ok(Offered::Sent(call));
                }
                Err(error) => {
                    self.leave_queue(*ticket, wakes);
                    // If the session is over, the driver tells everybody.
                    self.wake_driver(wakes);
                    return Err(error);
                }
            }
        }
        // It has its place before there is a clone of its waker, and is as one that was woken and
        // will look: a message that was begun lets no other begin.
        match self.find(*ticket).map(|index| &mut self.queue[index].waker) {
            Some(Some(there)) => caller.renew(there, wakes),
            Some(none) => *none = caller.own(),
            None => {
                let next = self.next_ticket;
                self.next_ticket += 1;
                self.queue.push_back(Queued { ticket: next, waker: caller.own() });
                *ticket = Some(next);
            }
        }
        Ok(Offered::Queued)
    }

    /// A call was sent, and nobody looks out for its answer: if the driver sleeps, nothing else
    /// tells tools that it is in flight. One that was woken does when it arms.
    pub(super) fn sleeps_over_calls(&mut self) {
        if self.driver.is_some() && self.over.is_none() {
            self.client.more_in_flight();
        }
    }

    /// Whether the write of a request may be left to the driver, which was woken and looks as soon
    /// as the task lets it: one system call for all. The first request since it looked is written
    /// at once, and one again when it has let them wait for long. Over rings each is rung for: that
    /// is a system call only if the server sleeps, and what is not rung for would lie there for as
    /// long as the task computes.
    fn may_put_off(&mut self) -> bool {
        if self.driver.is_some() || !self.client.is_socket() {
            return false;
        }
        let now = now_ns();
        if self.told_at.is_some_and(|at| now.saturating_sub(at) < PUT_OFF_NS) {
            return true;
        }
        self.told_at = Some(now);
        false
    }

    /// The driver found something, and looks again. Whether tools are to see how far it has come.
    pub(super) fn was_busy(&mut self) -> bool {
        self.busy_turns = (self.busy_turns + 1) % STORE_TURNS;
        self.busy_turns == 0
    }

    /// The index in the queue of the caller with this ticket.
    fn find(&self, ticket: Option<u64>) -> Option<usize> {
        let (ticket, first) = (ticket?, self.queue.front()?.ticket);
        if ticket == first {
            return Some(0);
        }
        self.queue.binary_search_by_key(&ticket, |queued| queued.ticket).ok()
    }

    /// Takes the caller with this ticket out of the queue, and lets the next one try.
    pub(super) fn leave_queue(&mut self, ticket: Option<u64>, wakes: &mut Wakes) {
        let Some(index) = self.find(ticket) else { return };
        wakes.retire(self.queue.remove(index).and_then(|queued| queued.waker));
        if index == 0 {
            self.retry(wakes);
        }
    }

    /// What was to be told and found no room, the driver tells.
    fn pay(&mut self, wakes: &mut Wakes) {
        if self.client.owes() {
            self.wake_driver(wakes);
        }
    }

    /// Gives up a message that was not sent to its end.
    pub(super) fn withdraw(
        &mut self,
        sending: &mut Sending,
        ticket: Option<u64>,
        wakes: &mut Wakes,
    ) {
        if let Some(call) = self.client.withdraw(sending)
            && let Some(answer) = self.calls.forget_early(call)
        {
            self.client.asked_for(&answer);
        }
        self.leave_queue(ticket, wakes);
        self.pay(wakes);
    }

    /// Lets those try again that wait for room: the first, and as many behind it as there is room
    /// for. They have their turns as those before them leave. One by one, a queue would move by one
    /// message in a turn of the runtime, and whoever calls anew would join it for ever.
    pub(super) fn retry(&mut self, wakes: &mut Wakes) {
        // One that was woken and did not look yet will leave, or wake the driver: those behind it
        // need not be woken now.
        if self.queue.front().is_some_and(|first| first.waker.is_some()) {
            let room = self.client.room().max(1);
            wakes
                .queued
                .extend(self.queue.iter_mut().take(room).filter_map(|queued| queued.waker.take()));
        }
    }

    /// A call that was sent waits from now on.
    ///
    /// # Panics
    /// If the caller has no clone of its waker any more.
    pub(super) fn enter(
        &mut self,
        call: CallId,
        caller: &mut Caller<'_>,
        wakes: &mut Wakes,
    ) -> Sent {
        let waker = caller.own().expect("a call has a clone until it waits for room or an answer");
        let (sent, unneeded) = self.calls.enter(call, waker);
        wakes.retire(unneeded);
        sent
    }

    /// Whether a call that is sent now may look out for its answer. Then the client is not armed,
    /// and the driver will be woken by [`Self::looked_out`].
    pub(super) fn may_look_out(&mut self) -> Option<LookOut> {
        if !self.is_quiet() || self.over.is_some() {
            return None;
        }
        let may = self.client.may_look_out()?;
        self.client.call_off();
        Some(may)
    }

    /// Looks out for a while. Afterwards the driver arms, in its own time; where there are other
    /// threads the call does if it was answered. The driver would run behind the task that called,
    /// on the same thread: while that computes, nobody on the others would learn of an answer.
    pub(super) fn look_out(&mut self, look_out: LookOut, wakes: &mut Wakes) {
        let mut came = self.client.look_out(look_out);
        for _ in 0..ARM_MOST {
            if !came {
                break;
            }
            self.pump(wakes);
            if self.alone || self.over.is_some() || self.driver.is_none() || self.has_calls() {
                break;
            }
            came = self.client.arm() == Arming::Busy;
            if !came {
                return;
            }
        }
        self.wake_driver(wakes);
    }

    /// The answer to a call, if it has come; if not, `caller` is woken when it does, or whose waker
    /// is there already.
    pub(super) fn poll_answer(
        &mut self,
        sent: Sent,
        caller: Option<(&mut Caller<'_>, &mut Wakes)>,
    ) -> Poll<Result<Vec<u8>, CallError>> {
        let polled = self.calls.poll(sent, |there| {
            if let Some((caller, wakes)) = caller {
                caller.renew(there, wakes);
            }
        });
        if let Poll::Ready(answer) = &polled {
            self.client.asked_for(answer);
        }
        polled
    }

    /// The time of a call is over: its answer may be there, and not be taken in. All is looked at
    /// that is there by now. A call without an answer is to be given up.
    pub(super) fn poll_last(
        &mut self,
        sent: Sent,
        wakes: &mut Wakes,
    ) -> Poll<Result<Vec<u8>, CallError>> {
        self.client.call_off();
        self.client.ask_the_kernel();
        let mut extent = None;
        let polled = loop {
            self.pump(wakes);
            let polled = self.poll_answer(sent, None);
            if polled.is_ready() || self.over.is_some() || !self.client.is_left(&mut extent) {
                break polled;
            }
        };
        self.wake_driver(wakes);
        polled
    }

    /// Nobody wants the answer any more.
    pub(super) fn give_up(&mut self, sent: Sent, timed_out: bool, wakes: &mut Wakes) {
        match self.calls.give_up(sent) {
            Ok(answer) => self.client.asked_for(&answer),
            Err(waker) => {
                wakes.retire(Some(waker));
                self.client.give_up(sent.call, timed_out);
                self.pay(wakes);
            }
        }
    }

    /// The next item of a stream.
    pub(super) fn poll_item(
        &mut self,
        call: CallId,
        caller: &mut Caller<'_>,
        wakes: &mut Wakes,
    ) -> Poll<Option<Result<Vec<u8>, CallError>>> {
        let next = match self.client.kept_item(call) {
            Ok(Some(item)) => item.map(Ok),
            Ok(None) => match self.over {
                Some(over) => Some(Err(over.as_call(true))),
                None => {
                    caller.wait_in(&mut self.items, call.as_u64(), wakes);
                    return Poll::Pending;
                }
            },
            Err(error) => Some(Err(error)),
        };
        wakes.retire(self.items.remove(&call.as_u64()));
        self.pay(wakes);
        Poll::Ready(next)
    }

    pub(super) fn close_stream(&mut self, call: CallId, wakes: &mut Wakes) {
        wakes.retire(self.items.remove(&call.as_u64()));
        self.client.close_stream(call);
        self.pay(wakes);
    }

    /// A number for a stream of events.
    pub(super) fn new_listener(&mut self) -> u64 {
        self.next_listener += 1;
        self.next_listener
    }

    pub(super) fn forget_listener(&mut self, listener: u64, wakes: &mut Wakes) {
        wakes.retire(self.events.remove(&listener));
        if self.client.has_event() {
            // It may have been the one that was woken for it.
            wakes.others.extend(self.events.drain().map(|(_, waker)| waker));
        }
    }

    /// The next event, or how many were dropped; `Err` if the session is over.
    pub(super) fn poll_event(
        &mut self,
        listener: u64,
        caller: &mut Caller<'_>,
        wakes: &mut Wakes,
    ) -> Poll<Result<Result<Vec<u8>, u64>, SessionEnd>> {
        match (self.client.kept_event(), self.over) {
            (Some(event), _) => Poll::Ready(Ok(event)),
            (None, Some(over)) => Poll::Ready(Err(over)),
            (None, None) => {
                caller.wait_in(&mut self.events, listener, wakes);
                Poll::Pending
            }
        }
    }

    /// Takes in what has come, and hands it out.
    pub(super) fn pump(&mut self, wakes: &mut Wakes) {
        if self.over.is_some() {
            return;
        }
        let Self { client, calls, .. } = self;
        let taken = client.taken();
        let pumped = client.pump(|call, outcome| {
            wakes.others.extend(calls.answer(call, outcome));
        });
        for call in self.client.news_of_streams() {
            wakes.others.extend(self.items.remove(&call));
        }
        if self.client.has_event() {
            wakes.others.extend(self.events.drain().map(|(_, waker)| waker));
        }
        if let Err(over) = pumped {
            self.end(over, wakes);
        } else if self.client.taken() < taken {
            // There may have been too much in flight.
            self.retry(wakes);
        }
    }

    /// The session is over: everybody learns of it.
    pub(super) fn end(&mut self, over: SessionEnd, wakes: &mut Wakes) {
        self.over.get_or_insert(over);
        wakes.others.append(&mut self.calls.fail(&over.as_call(true)));
        wakes.others.extend(self.queue.drain(..).filter_map(|queued| queued.waker));
        wakes.others.extend(self.items.drain().map(|(_, waker)| waker));
        wakes.others.extend(self.events.drain().map(|(_, waker)| waker));
        self.wake_driver(wakes);
    }
}
