//! What the engine answers: sent in its turn, or queued until there is room.

use super::slot::Queued;
use super::{End, Reactor};
use crate::base::clock::now_ns;
use crate::base::kill_point::kill_point;
use crate::link::held::Held;
use crate::link::session::{Head, SendProgress, Sent};
use crate::memory::layout::{Kind, code};
use crate::server::answer::ERROR_TEXT;
use crate::server::engine::Engine;
use crate::server::flight::{Completion, To, is_final};

impl<E: Engine> Reactor<E> {
    /// Sends the answer in the response buffer that belongs to a flight, or keeps it until its
    /// turn. `None`: the flight is over without an answer.
    #[inline]
    pub(super) fn answer_of(
        &mut self,
        index: usize,
        table_index: u32,
        answer: Option<Head>,
    ) -> Result<(), End> {
        let flights = &mut self.slots[index].flights;
        let Some(head) = answer else {
            flights.end(table_index);
            return Ok(());
        };
        let last = is_final(head.kind());
        if !flights.is_its_turn(table_index) {
            self.slots[index].answered(head);
            let payload = self.take_response(index);
            self.slots[index].flights.hold(table_index, head, payload, last);
            self.counts.stashed += 1;
            return Ok(());
        }
        self.answer(index, head)?;
        if last {
            self.slots[index].flights.end(table_index);
            while let Some((head, payload)) = self.slots[index].flights.next_held() {
                (self.response, self.response_charge) = (payload.bytes, payload.charge);
                self.answer(index, head)?;
            }
            self.free_response();
        }
        Ok(())
    }

    /// Sends what other threads have completed; whether there was anything.
    #[cold]
    pub(super) fn read_completions(&mut self) -> bool {
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
            (self.response, self.response_charge) = (payload.bytes, payload.charge);
            match self.places.get(&id) {
                None => self.counts.orphans += 1,
                Some(&index) => {
                    if let Err(end) = self.complete(index, to, kind, code) {
                        over.push((id, end));
                    }
                    // It may go on now with what waited for that, and its client is likely to call
                    // again.
                    self.turns.heat(index);
                    // Rung for once, if those of one session follow each other.
                    if answered.last() != Some(&index) {
                        answered.push(index);
                    }
                }
            }
            self.completions.buffers().give(std::mem::take(&mut self.response));
            drop(std::mem::take(&mut self.response_charge));
        }
        self.response = own;
        self.batch = batch;
        for slot in answered.drain(..) {
            self.slots[slot].session.flush();
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
        let (table_index, call) = (flight.table_index(), flight.call);
        drop(flight);
        if matches!(kind, Kind::StreamItem | Kind::Credit) {
            self.slots[index].flights.streams(table_index);
            self.stream_looks.moved = true;
        }
        if kind == Kind::Credit {
            // Its producer waits for room.
            self.slots[index].flights.make_room();
            return Ok(());
        }
        let answer = (kind != Kind::OneWay).then(|| Head::with_code(kind, code, call));
        self.answer_of(index, table_index, answer)
    }

    /// Sends the answer in the response buffer, or an error in its place if it is too large.
    #[inline]
    pub(super) fn answer(&mut self, index: usize, mut head: Head) -> Result<(), End> {
        self.slots[index].answered(head);
        let max = self.slots[index].session.max_message();
        if head.kind() == Kind::Error {
            self.cut_error(index, head.code());
        } else if self.response.len() > max {
            let text =
                format!("the answer of {} bytes is too large: at most {max}", self.response.len());
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
        if code == crate::memory::layout::code::PANICKED {
            self.counts.panics += 1;
        }
        let session = &self.slots[index].session;
        let mut end =
            self.response.len().min(session.max_body()).min(session.max_message()).min(ERROR_TEXT);
        // Not in the middle of a character, if it is UTF-8.
        while end > 0 && self.response.get(end).is_some_and(|byte| byte & 0xc0 == 0x80) {
            end -= 1;
        }
        self.response.truncate(end);
    }

    /// Sends what is in the response buffer, or queues what finds no room. Rings later.
    #[inline]
    pub(super) fn send(&mut self, index: usize, head: Head) -> Result<(), End> {
        let slot = &mut self.slots[index];
        let payload = if head.kind() == Kind::Pong { &[][..] } else { &self.response[..] };
        let mut progress = SendProgress::default();
        if slot.queue.is_empty()
            && slot.session.post(head, 0, payload, &mut progress).map_err(End::Fault)? == Sent::Done
        {
            kill_point!("response-posted");
            slot.sent(head);
            return Ok(());
        }
        self.queue(index, head, progress);
        Ok(())
    }

    #[cold]
    pub(super) fn queue(&mut self, index: usize, head: Head, progress: SendProgress) {
        let payload =
            if head.kind() == Kind::Pong { Held::default() } else { self.take_response(index) };
        let slot = &mut self.slots[index];
        slot.queue.push_back(Queued { head, payload, progress });
        slot.stuck_since.get_or_insert_with(now_ns);
        self.counts.queued += 1;
    }

    /// The response, to be kept until it can be sent.
    fn take_response(&mut self, index: usize) -> Held {
        let account = &self.slots[index].caller.0.account;
        let charge = std::mem::take(&mut self.response_charge);
        Held::in_queue(account, std::mem::take(&mut self.response), charge)
    }

    /// The response was sent. What is left is the reactor's own buffer (see `free_large`).
    #[inline]
    pub(super) fn free_response(&mut self) {
        drop(std::mem::take(&mut self.response_charge));
    }

    pub(super) fn send_queue(&mut self, index: usize) -> Result<bool, End> {
        let slot = &mut self.slots[index];
        let mut moved = false;
        while let Some(queued) = slot.queue.front_mut() {
            let before = queued.progress;
            let sent = slot
                .session
                .send(queued.head, 0, &queued.payload.bytes, &mut queued.progress)
                .map_err(End::Fault)?;
            moved |= sent == Sent::Done || queued.progress != before;
            if sent == Sent::Full {
                break;
            }
            let head = queued.head;
            slot.queue.pop_front();
            slot.sent(head);
        }
        self.keep_time(index, moved)?;
        Ok(moved)
    }

    /// Disconnects a client that has left its answers unread for too long. `moved`: its queue has.
    pub(super) fn keep_time(&mut self, index: usize, moved: bool) -> Result<(), End> {
        let is_slow = self.slots[index].leaves_answers_for(self.limits.slow_client, moved);
        if is_slow { Err(End::Slow) } else { Ok(()) }
    }
}
