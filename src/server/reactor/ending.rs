//! The end of a server: what is there is answered, and everybody is told.

use super::slot::Slot;
use super::{End, Forked, Halt, Reactor};
use crate::base::clock::now_ns;
use crate::link::lifeline::Farewell;
use crate::memory::layout::Interest;
use crate::server::engine::Engine;
use crate::server::flight::Completion;
use crate::server::porter::Event;
use crate::trace;
use std::time::Duration;

/// How long to sleep at most while draining.
const DRAIN_NAP: Duration = Duration::from_millis(5);

impl<E: Engine> Reactor<E> {
    /// Answers what is there, sends what is queued, says goodbye.
    pub(super) fn shut_down(&mut self) -> Result<(), Halt> {
        self.begin_to_drain();
        loop {
            if self.mailbox.has_mail() {
                self.read_mail()?;
            }
            let completed = self.completions.any() && self.read_completions();
            self.poll_sockets();
            // Looked at anew each time: a second order to stop may be more urgent. And before
            // anything more is handled: who gives no time to drain wants none of it.
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
                if let Some(error) = self.failure.take() {
                    // Nothing tells of sockets any more, and there may be no time limit.
                    self.say_goodbye();
                    return Err(Halt::Failed(error));
                }
            }
        }
        self.say_goodbye();
        Ok(())
    }

    /// Parts from everybody.
    pub(super) fn say_goodbye(&mut self) {
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

    pub(super) fn drain(&mut self) -> Result<bool, Forked> {
        let mut worked = false;
        let mut over = Vec::new();
        let now = now_ns();
        self.facts.stored(now);
        self.look_at_streams(now);
        for index in 0..self.slots.len() {
            let turn = self.turn(index);
            match turn.and_then(|moved| self.keep_time(index, false).map(|()| moved)) {
                Ok(moved) => {
                    worked |= moved;
                    let slot = &mut self.slots[index];
                    // What was in the ring when the order came is a ring's worth of records at
                    // most.
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
}
