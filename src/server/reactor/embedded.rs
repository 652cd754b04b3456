//! A reactor without a thread: somebody's loop watches its epoll, and pumps.
//!
//! ```text
//!   loop      pump, as long as it says that it worked
//!             arm says that something came: pump again
//!             wait for the epoll's descriptor
//!             disarm
//! ```
//!
//! The parts are those of [`Reactor::run`]; what differs is who sleeps, and that there is no
//! backstop. So everything that the reactor waits for must show at the one descriptor: bells by a
//! byte on the lifeline, its own process by the notifier's eventfd, sockets, the porter's epoll,
//! and, only while something has a time limit (a handshake, a client that does not read its
//! answers, an order to shut down), a timer.
//!
//! # Why nothing is overlooked
//!
//! [`Reactor::disarm`] takes all edges out of the epoll before anything is looked at, so whatever
//! comes later makes a new one; what it took is remembered until a pump has looked there. Between
//! the last look and the sleep stand the arm, the fence and the second look of `bells.rs`.
//! `loom-tests/src/embedded.rs` has all of this as a model.

use super::limits::ns;
use super::sleep::find_work;
use super::{Forked, Halt, Reactor};
use crate::base::clock::{FOR_EVER, now_ns};
use crate::link::stats::ServerCounters;
use crate::protocol::bell::Arming;
use crate::server::engine::Engine;
use crate::server::flight::enter_reactor_thread;
use crate::server::park::ALARM;
use crate::trace;
use rustix::fd::{AsFd, BorrowedFd};

/// How far a reactor without a thread has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Serving,
    /// Told to stop: it answers what it has received.
    Draining,
    Over,
}

/// What came of a pump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pumped {
    /// There was something, and may be more.
    Worked,
    Idle,
    /// The server has shut down.
    Over,
}

/// Passes between two looks at the kernel while there is other work.
const HARVEST_PASSES: u64 = 16;

impl<E: Engine> Reactor<E> {
    /// Makes it one without a thread. Its porter has none either.
    pub(crate) fn embed(&mut self) -> std::io::Result<()> {
        if let Some(porter) = self.porter.descriptor() {
            self.parker.embed(porter)?;
        }
        self.stage = Some(Stage::Serving);
        self.porter_is_due = true;
        Ok(())
    }

    /// What answers requests.
    pub(crate) fn engine(&mut self) -> &mut E {
        &mut self.engine
    }

    /// The descriptor that the loop watches.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.parker.as_fd()
    }

    /// What was counted.
    pub(crate) fn counts(&self) -> ServerCounters {
        self.counts
    }

    /// Whether this is the process that the server belongs to.
    pub(crate) fn is_here(&self) -> bool {
        self.origin.is_here()
    }

    /// One turn for everybody.
    pub(crate) fn pump(&mut self) -> Result<Pumped, Halt> {
        if !self.origin.is_here() {
            return Err(Forked.into());
        }
        if self.stage == Some(Stage::Over) {
            return Ok(Pumped::Over);
        }
        let pumped = self.pump_once();
        if matches!(pumped, Err(Halt::Failed(_))) {
            self.parker.disarm();
            self.stage = Some(Stage::Over);
        }
        pumped
    }

    fn pump_once(&mut self) -> Result<Pumped, Halt> {
        self.check_failure()?;
        let _guard = enter_reactor_thread(self.served());
        self.facts.served_here();
        let mut worked = false;
        if self.stage == Some(Stage::Serving) && self.mailbox.is_stopping() {
            self.stage = Some(Stage::Draining);
            self.begin_to_drain();
            self.porter_is_due = true;
        }
        if self.porter_is_due {
            self.porter_is_due = self.porter.turn();
            worked |= self.porter_is_due;
        }
        if self.mailbox.has_mail() {
            self.read_mail()?;
            worked = true;
        }
        worked |= self.completions.any() && self.read_completions();
        if self.stage == Some(Stage::Draining) {
            // Before anything more is handled: who gives no time to drain wants none of it.
            let is_late = now_ns() >= self.mailbox.stop_at().unwrap_or(0);
            if !is_late {
                worked |= self.drain()?;
            }
            if is_late || self.slots.iter().all(super::Slot::is_done) {
                self.say_goodbye();
                self.store_counts(now_ns());
                self.parker.disarm();
                self.stage = Some(Stage::Over);
                return Ok(Pumped::Over);
            }
        } else {
            worked |= self.pass()?;
        }
        if !worked {
            return Ok(Pumped::Idle);
        }
        self.worked();
        if self.passes.is_multiple_of(HARVEST_PASSES) {
            // A loop that is never idle does not wait for the descriptor.
            self.harvest();
        }
        Ok(Pumped::Worked)
    }

    /// Sends what was answered since the last pump.
    pub(crate) fn send_answers(&mut self) {
        if self.origin.is_here() && self.completions.any() {
            let _guard = enter_reactor_thread(self.served());
            self.read_completions();
        }
    }

    /// Declares that the loop is about to wait for the descriptor. `Busy` if there is something to
    /// do: then nothing is armed, and the next thing is a pump.
    pub(crate) fn arm(&mut self) -> Arming {
        if !self.origin.is_here() || self.stage == Some(Stage::Over) {
            return Arming::Busy;
        }
        let cannot_go_on = self.failure.is_some();
        if cannot_go_on || self.porter_is_due || self.porter.use_spare_time() {
            return Arming::Busy;
        }
        self.hint(true);
        let now = self.cool();
        self.publish_heads();
        self.store_counts(now);
        let stop_at = self.mailbox.stop_at();
        let (interest, next) = self.before_sleep();
        let alarm = self.next_alarm(next, stop_at);
        if alarm != 0 && alarm <= now_ns() {
            self.porter_is_due = true;
            return Arming::Busy;
        }
        self.parker.set_alarm(alarm);
        let knows_the_end = self.stage == Some(Stage::Draining);
        let Self { parker, slots, turns, mailbox, completions, limits, .. } = self;
        let look = || {
            mailbox.has_mail()
                || completions.any()
                || mailbox.stop_at() != stop_at
                || mailbox.is_stopping() != knows_the_end
                || find_work(slots, limits, turns)
        };
        let arming = parker.arm_for_loop(interest, look);
        match arming {
            Arming::Armed => {
                self.sleeps = true;
                self.counts.parks += 1;
                trace::server_armed(self.slots.len());
            }
            Arming::Busy => {
                self.counts.arms_called_off += 1;
                self.hint(false);
            }
        }
        arming
    }

    /// When a time limit is over at the earliest, `sessions` being that of a session; 0 if there is
    /// none.
    fn next_alarm(&self, sessions: u64, stop_at: Option<u64>) -> u64 {
        let porter = self.porter.time_left().map(|left| now_ns().saturating_add(ns(left)));
        let earliest = [sessions].into_iter().chain(porter).chain(stop_at).min();
        earliest.filter(|at| *at < now_ns().saturating_add(ns(FOR_EVER))).map_or(0, |at| at.max(1))
    }

    /// Ends what [`Self::arm`] began, and takes in what the descriptor has to say.
    pub(crate) fn disarm(&mut self) {
        if !self.origin.is_here() || self.stage == Some(Stage::Over) {
            return;
        }
        self.wake_up();
        self.harvest();
    }

    /// The loop goes on. If it slept, tools are told since when it no longer does.
    pub(super) fn wake_up(&mut self) {
        if std::mem::take(&mut self.sleeps) {
            self.parker.wake_up(now_ns());
            self.looks.slept(self.passes);
        } else {
            self.parker.disarm();
        }
    }

    fn harvest(&mut self) {
        let Self { parker, woken, .. } = self;
        let more = parker.harvest(|session, ready| woken.push((session, ready)));
        if self.woken.iter().any(|(from, _)| *from == ALARM) {
            // Whose it was a pump finds out.
            self.parker.alarm_went_off();
            self.porter_is_due = true;
        }
        // More is found by a harvest that follows the next turn.
        self.porter_is_due |= more;
        if let Some(failed) = self.parker.take_failure() {
            self.failure = Some(failed.into());
        }
        self.read_woken();
    }
}
