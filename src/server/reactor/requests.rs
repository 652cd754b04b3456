//! What a client asks: taken from its ring or socket, looked at, and handed to the engine.

use super::limits::LargeUntil;
use super::{End, PUT_OFF_NS, Reactor};
use crate::base::clock::now_ns;
use crate::base::kill_point::kill_point;
use crate::link::held::{Charge, Held, KEPT, SMALL, trim};
use crate::link::session::{Head, PeerFault, Received, SendProgress, Sent};
use crate::memory::layout::{Kind, code};
use crate::server::answer::refusal;
use crate::server::engine::Engine;
use crate::server::engine::Incoming;
use crate::server::engine::Outcome;
use crate::server::flight::{FLIGHT, StreamOver};
use crate::server::porter::Death;
use crate::trace;

/// Only if requests take less than this on average is a ring put off at all: behind a handler that
/// takes its time every answer is rung for at once.
const SHORT_NS: u64 = 1_000;

/// Behind requests that take so long on average, tools are told each time that the thread is not in
/// a handler, and not only at the end of a turn: a whole turn of 32 would take a second.
const SLOW_NS: u64 = 31_000_000;

impl<E: Engine> Reactor<E> {
    #[inline]
    pub(super) fn handle(&mut self, index: usize) -> Result<bool, End> {
        let handled = self.handle_some(index);
        self.put_away(index);
        handled
    }

    #[inline(always)]
    fn handle_some(&mut self, index: usize) -> Result<bool, End> {
        let mut handled = 0;
        let mut unrung = 0;
        let mut began = 0;
        while handled < self.limits.turn {
            let slot = &mut self.slots[index];
            if !slot.may_read(&self.limits) {
                break;
            }
            match slot.session.receive(&mut self.request.bytes).map_err(End::Fault)? {
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
                Received::Until(head, deadline_ns) => {
                    self.slots[index].sample(head);
                    self.message(index, head, deadline_ns)?;
                }
            }
            handled += 1;
            // The first answer is rung for at once. While more requests are there and are short,
            // one ring then serves several answers.
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
                    if handled > 1 && self.pace_ns >= SLOW_NS {
                        self.facts.stored(now_ns());
                    }
                }
            }
            if handled == 1 && self.slots[index].session.has_pending() {
                began = now_ns();
            }
        }
        self.slots[index].session.flush();
        if handled > 1 && began != 0 {
            let now = now_ns();
            self.pace_ns = now.saturating_sub(began) / u64::from(handled - 1) + 1;
            self.facts.stored(now);
        }
        Ok(handled != 0)
    }

    /// A turn of this session is over, however it ended. What its last messages were charged with
    /// is given back, also where their buffers are with somebody else; large buffers are kept for a
    /// while at most.
    #[inline(always)]
    fn put_away(&mut self, index: usize) {
        if self.request.bytes.capacity() > KEPT
            || self.response.capacity() > KEPT
            || self.response_charge.bytes() != 0
            || self.slots[index].session.holds_charge()
        {
            self.put_away_large(index);
        }
    }

    #[cold]
    fn put_away_large(&mut self, index: usize) {
        self.free_response();
        drop(self.slots[index].session.take_charge());
        self.request.charge = Charge::default();
        self.free_large(KEPT);
    }

    /// Frees the reactor's own two buffers, if they are too large to be kept and have at most so
    /// many bytes in them: those of the last message. So large messages that follow each other use
    /// one buffer, and the first small one, or a quiet while, gives it back. What is handed to
    /// somebody is not in these.
    #[cold]
    pub(super) fn free_large(&mut self, most: usize) {
        if self.request.bytes.capacity() > KEPT && self.request.bytes.len() <= most {
            self.request = Held::default();
        }
        if self.response.capacity() > KEPT && self.response.len() <= most {
            self.response = Vec::new();
        }
        let is_kept = self.request.bytes.capacity() > KEPT || self.response.capacity() > KEPT;
        self.large_until = if is_kept { LargeUntil::from(now_ns()) } else { LargeUntil::NONE };
    }

    /// A request whose buffer is larger than what its flight is charged with, and which may be kept
    /// for long: it gets a small one, or is charged.
    #[cold]
    fn charge_request(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let arrived = slot.session.take_charge();
        let Held { bytes, charge } = &mut self.request;
        if arrived.bytes() != 0 {
            *charge = arrived;
        }
        if bytes.len() <= SMALL {
            let mut small = self.completions.buffers().take(bytes.len());
            small.extend_from_slice(bytes);
            self.completions.buffers().give(std::mem::replace(bytes, small));
            *charge = Charge::default();
        } else {
            trim(bytes);
            charge.set(&slot.caller.0.account, bytes.capacity());
        }
    }

    /// A request that is answered before anything else happens, all in one piece: what
    /// [`Self::message`] and those that it calls do for all kinds of requests and answers takes
    /// half as long again.
    #[inline(always)]
    fn serve(&mut self, index: usize, head: Head) -> Result<(), End> {
        kill_point!("request-taken");
        self.counts.requests += 1;
        self.response.clear();
        let request = Incoming {
            session: &self.slots[index].caller,
            call: head.call,
            deadline_ns: 0,
            one_way: false,
            payload: &mut self.request,
            flight: None,
            alone: false,
        };
        let about = (self.slots[index].id, head.call, request.payload.bytes.len(), false);
        let outcome = trace::handle(
            about,
            || self.engine.request(request, &mut self.response),
            Outcome::name,
        );
        if !self.origin.is_here() {
            return Err(End::Forked);
        }
        let outcome = self.paid(index, outcome, false);
        let slot = &mut self.slots[index];
        let answer = Head::new(Kind::Response, head.call);
        if outcome != Outcome::Answer
            || !slot.queue.is_empty()
            || self.response.len() > slot.session.max_message()
        {
            return self.answer_with(index, head.call, outcome);
        }
        let mut progress = SendProgress::default();
        match slot.session.post(answer, 0, &self.response, &mut progress) {
            Ok(Sent::Done) => {
                kill_point!("response-posted");
            }
            Ok(Sent::Full) => self.queue(index, answer, progress),
            Err(fault) => return Err(End::Fault(fault)),
        }
        Ok(())
    }

    /// What came of a request, whose answer is charged if its buffer is too large to be kept.
    #[inline(always)]
    fn paid(&mut self, index: usize, outcome: Outcome, one_way: bool) -> Outcome {
        if self.response.capacity() > KEPT {
            self.pay_for_response(index, outcome, one_way)
        } else {
            outcome
        }
    }

    /// Charges a large answer that a handler has just written, until it is sent. Without room for
    /// it an error is the answer.
    #[cold]
    fn pay_for_response(&mut self, index: usize, outcome: Outcome, one_way: bool) -> Outcome {
        if one_way {
            self.response = Vec::new(); // nobody gets it
        }
        let (slot, len) = (&self.slots[index], self.response.len());
        // What is longer than a message becomes an error; a short text or answer is sent out of
        // what is left of a large buffer, or is trimmed when it is queued.
        if outcome != Outcome::Answer || len <= KEPT || len > slot.session.max_message() {
            return outcome;
        }
        trim(&mut self.response);
        let account = &slot.caller.0.account;
        if self.response_charge.grow_for_answer(account, self.response.capacity()) {
            return outcome;
        }
        account.count_refusal();
        let beside = if E::LATER { FLIGHT } else { 0 };
        let most = account.most_of_answer().saturating_sub(beside as u64);
        let (code, text) = refusal(len, usize::try_from(most).unwrap_or(usize::MAX));
        self.response = text.into_bytes();
        self.free_response();
        Outcome::Error(code)
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
    fn message(&mut self, index: usize, head: Head, deadline_ns: u64) -> Result<(), End> {
        kill_point!("request-taken");
        match head.kind() {
            Kind::Request => self.request(index, head, deadline_ns, false),
            Kind::OneWay => self.request(index, head, deadline_ns, true),
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
                    self.slots[index].stalled = 0;
                }
                Ok(())
            }
            Kind::Pong => Ok(()),
            Kind::Goodbye => self.part_at_the_end(index, Death::Goodbye),
            kind => Err(End::Fault(PeerFault::UnexpectedKind(kind))),
        }
    }

    #[inline(always)]
    fn request(
        &mut self,
        index: usize,
        head: Head,
        deadline_ns: u64,
        one_way: bool,
    ) -> Result<(), End> {
        if (deadline_ns != 0 || self.slots[index].drained)
            && self.is_too_late(index, head, deadline_ns)?
        {
            return Ok(());
        }
        if E::LATER {
            let slot = &self.slots[index];
            if !slot.backlog.is_empty()
                || !slot.may_begin(&self.limits)
                || (self.held.is_tight() && slot.flights.len() != 0 && !slot.may_run())
            {
                self.set_aside(index, head, deadline_ns);
                return Ok(());
            }
        }
        self.begin(index, head, deadline_ns, one_way)
    }

    #[cold]
    fn set_aside(&mut self, index: usize, head: Head, deadline_ns: u64) {
        if self.request.bytes.capacity() > SMALL {
            self.charge_request(index);
        }
        let Held { bytes, charge } = std::mem::take(&mut self.request);
        let slot = &mut self.slots[index];
        let request = Held::in_queue(&slot.caller.0.account, bytes, charge);
        slot.backlog.add(head, deadline_ns, request);
    }

    /// Handles requests that were set aside, as far as the limit and the turn allow.
    #[cold]
    pub(super) fn read_backlog(&mut self, index: usize) -> Result<bool, End> {
        let moved = self.read_some_of_backlog(index);
        if self.request.charge.bytes() != 0 {
            // Of a request that was not run.
            self.request = Held::default();
        }
        self.put_away(index);
        moved
    }

    fn read_some_of_backlog(&mut self, index: usize) -> Result<bool, End> {
        let mut moved = false;
        for _ in 0..self.limits.turn {
            if !self.slots[index].may_begin_next(&self.limits) {
                break;
            }
            let Some((head, deadline_ns, payload)) = self.slots[index].backlog.next() else {
                break;
            };
            moved = true;
            self.request = payload;
            if deadline_ns == 0 || !self.is_too_late(index, head, deadline_ns)? {
                self.begin(index, head, deadline_ns, head.kind() == Kind::OneWay)?;
            }
        }
        self.slots[index].session.flush();
        Ok(moved)
    }

    /// Gives a request to the engine.
    #[inline(always)]
    fn begin(
        &mut self,
        index: usize,
        head: Head,
        deadline_ns: u64,
        one_way: bool,
    ) -> Result<(), End> {
        self.counts.requests += 1;
        self.response.clear();
        if self.response_charge.bytes() != 0 {
            // Of the last answer, which was sent: this one needs room of its own.
            self.free_response();
        }
        let slot = &mut self.slots[index];
        let alone = E::LATER && slot.flights.len() == 0 && !slot.session.has_pending();
        let len = self.request.bytes.len();
        if E::LATER && self.request.bytes.capacity() > SMALL {
            self.charge_request(index);
        }
        let slot = &mut self.slots[index];
        let flight =
            E::LATER.then(|| slot.flights.prepare(&slot.caller.0, head.call, deadline_ns, one_way));
        let table_index = match &flight {
            Some(flight) if slot.flights.are_in_order() => Some(slot.flights.enter(flight.clone())),
            _ => None,
        };
        if let Some(flight) = &flight
            && slot.gone.is_some()
        {
            // As those that were in flight when the client went: nobody takes an answer.
            flight.give_up(StreamOver::Gone);
        }
        let request = Incoming {
            session: &slot.caller,
            call: head.call,
            deadline_ns,
            one_way,
            payload: &mut self.request,
            flight: flight.as_ref(),
            alone,
        };
        let about = (slot.id, head.call, len, one_way);
        let outcome = trace::handle(
            about,
            || self.engine.request(request, &mut self.response),
            Outcome::name,
        );
        if !self.origin.is_here() {
            return Err(End::Forked);
        }
        let outcome = self.paid(index, outcome, one_way);
        let answer = match outcome {
            Outcome::Answer => Some(Head::new(Kind::Response, head.call)),
            Outcome::Error(code) => Some(Head::error(code, head.call)),
            Outcome::Nothing => None,
            Outcome::Later => {
                self.counts.dispatched += 1;
                if let (Some(flight), None) = (flight, table_index) {
                    // What other threads say of it is read after this, on this thread.
                    self.slots[index].flights.enter(flight);
                }
                return Ok(());
            }
        };
        let Some(flight) = flight else {
            return if one_way {
                Ok(())
            } else {
                answer.map_or(Ok(()), |answer| self.answer(index, answer))
            };
        };
        self.counts.inline += 1;
        if let Some(table_index) = table_index {
            drop(flight);
            return self.answer_of(index, table_index, answer);
        }
        self.slots[index].flights.put_back(flight);
        answer.map_or(Ok(()), |answer| self.answer(index, answer))
    }

    /// Answers a request that came too late: after its deadline, or after the order to shut down.
    #[cold]
    fn is_too_late(&mut self, index: usize, head: Head, deadline_ns: u64) -> Result<bool, End> {
        let (code, text) = if self.slots[index].drained {
            (code::SHUTTING_DOWN, "the server shuts down")
        } else if now_ns() >= deadline_ns {
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
        let table_index = slot.flights.enter(flight);
        self.answer_of(index, table_index, Some(error))
    }
}
