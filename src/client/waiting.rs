//! How a client waits: for rings it spins, yields and parks on its bell; for a socket it polls.

use super::error::{SessionEnd, WaitEnd};
use super::{CHECK_EVERY_NS, Client};
use crate::base::clock::{Deadline, now_ns, timespec};
use crate::base::kill_point::kill_point;
use crate::base::sync::spin_hint;
use crate::client::calls::{CallId, Waiting};
use crate::link::lifeline::{Farewell, Said};
use crate::link::readiness::{Readiness, wait_ready};
use crate::link::session::{PeerFault, SessionCore};
use crate::link::side::Side;
use crate::memory::layout::{Interest, Mode};
use crate::os::serving;
use crate::protocol::bell::Arming;
use crate::protocol::wait::{Step, Surroundings};
use crate::trace;
use rustix::event::PollFlags;
use std::time::Duration;

/// A client that does not sleep stores its counters every so many yields.
const STORE_YIELDS: u64 = 64;

/// How a sleep ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slept {
    /// It was called off.
    Not,
    /// By a ring, or for no reason.
    Rung,
    /// By the clock.
    Out,
}

impl Client {
    /// Waits until `look` finds something: spins, yields and parks as the policy says. Before the
    /// time is said to be over all is looked at that is there by then.
    #[inline]
    pub(super) fn wait<T>(
        &mut self,
        deadline: &mut Deadline,
        interest: Interest,
        mut look: impl FnMut(&mut Self) -> Result<Option<T>, SessionEnd>,
    ) -> Result<T, WaitEnd> {
        if *deadline == Deadline::Now && self.session.is_socket() {
            // Nobody asks the kernel before the one look that there will be.
            self.session.ready(Readiness::UNKNOWN);
        }
        let mut extent = None;
        loop {
            match look(self) {
                Ok(Some(found)) => {
                    self.waited();
                    return Ok(found);
                }
                Ok(None) => {}
                Err(over) => {
                    self.waiter.given_up();
                    return Err(WaitEnd::SessionEnd(self.fail(over)));
                }
            }
            if self.session.has_ended() {
                self.waiter.given_up();
                return Err(WaitEnd::SessionEnd(self.fail(SessionEnd::Disconnected)));
            }
            if *deadline == Deadline::Now {
                if self.is_left(&mut extent) {
                    continue;
                }
                return self.without_waiting();
            }
            if self.side.is_none() {
                self.wait_for_socket(deadline)?;
                continue;
            }
            let around = self.surroundings();
            match self.waiter.step(around, now_ns) {
                Step::Spin(polls) => self.spin(polls),
                step => self.wait_slowly(step, deadline, interest)?,
            }
        }
    }

    #[inline]
    fn waited(&mut self) {
        if self.waiter.is_off_cpu() {
            let parked = self.side.as_ref().is_some_and(Side::is_off);
            self.hint(false);
            if parked {
                // It may be long until the next wait: what was in flight at the last sleep no
                // longer is.
                self.forget_oldest();
                self.store_counts();
            }
        }
        self.waiter.found(now_ns);
    }

    #[inline]
    fn spin(&self, polls: u32) {
        self.session.watch(polls, || {
            spin_hint();
            false
        });
    }

    #[inline]
    pub(super) fn surroundings(&self) -> Surroundings {
        self.side.as_ref().map_or_else(Surroundings::default, Side::surroundings)
    }

    /// Nothing is there and nothing is waited for: the one moment at which a client that only ever
    /// polls learns that the server is gone.
    #[cold]
    fn without_waiting<T>(&mut self) -> Result<T, WaitEnd> {
        self.waiter.given_up();
        self.session.flush();
        Err(self.timed_out(now_ns()))
    }

    /// A wait ends without a result. Now and then that is the moment to see whether the server is
    /// still there, for clients that never wait for long.
    pub(super) fn timed_out(&mut self, now: u64) -> WaitEnd {
        self.waiter.given_up();
        if self.verdict.is_none() && now.saturating_sub(self.checked_at) < CHECK_EVERY_NS {
            return WaitEnd::TimedOut;
        }
        self.checked_at = now;
        match self.check_server() {
            Ok(()) => WaitEnd::TimedOut,
            Err(_) if self.session.has_pending() => WaitEnd::TimedOut,
            Err(over) => WaitEnd::SessionEnd(self.fail(over)),
        }
    }

    #[cold]
    fn wait_slowly(
        &mut self,
        step: Step,
        deadline: &mut Deadline,
        interest: Interest,
    ) -> Result<(), WaitEnd> {
        self.session.flush();
        let now = now_ns();
        if deadline.passed(now) {
            self.hint(false);
            *deadline = Deadline::Now;
            return Ok(());
        }
        self.unless_it_waits_for_itself()?;
        if step == Step::Yield {
            self.hint(false);
            if self.waiter.counts().yields.is_multiple_of(STORE_YIELDS) {
                // For tools that look at a client which never sleeps.
                self.store_waits();
            }
            rustix::thread::sched_yield();
            return Ok(());
        }
        if let Some(over) = self.verdict {
            // The server is known to be gone: what it published is read, and nobody will publish
            // more.
            if self.session.has_pending() {
                return Ok(());
            }
            self.waiter.given_up();
            return Err(WaitEnd::SessionEnd(self.fail(over)));
        }
        self.session.retry_abort().map_err(|fault| WaitEnd::SessionEnd(self.fail(fault.into())))?;
        self.retry_control();
        let interest = if self.unsent_control.is_empty() { interest } else { Interest::BOTH };
        self.session.publish_head();
        self.note_oldest(|| now);
        self.store_counts();
        let span = trace::client_park(self.server_info.session, "futex");
        let slept = span.inside(|| self.park(now, *deadline, interest));
        span.ended(match slept {
            Slept::Not => "called_off",
            Slept::Rung => "rung",
            Slept::Out => "clock",
        });
        if slept == Slept::Out {
            // Time to see whether the server is still there.
            if let Err(over) = self.check_server() {
                // What it published before it went is still good.
                if !self.session.has_pending() {
                    self.waiter.given_up();
                    return Err(WaitEnd::SessionEnd(self.fail(over)));
                }
            }
        }
        Ok(())
    }

    /// Nothing comes from a server that is served by this thread, in whose handler it is: what was
    /// there has been looked at.
    fn unless_it_waits_for_itself(&mut self) -> Result<(), WaitEnd> {
        if !serving::serves(self.server_info.generation) || self.session.has_pending() {
            return Ok(());
        }
        self.hint(false);
        self.waiter.given_up();
        self.session.counts.refused += 1;
        self.store_waits();
        Err(WaitEnd::WouldDeadlock)
    }

    fn park(&mut self, now: u64, deadline: Deadline, interest: Interest) -> Slept {
        self.hint(true);
        let until = deadline.within(now, self.waiter.longest_sleep(now));
        let Self { side: Some(side), session, calm, .. } = self else { return Slept::Not };
        let look = || {
            kill_point!("client-armed");
            something_came(session, interest)
        };
        let (Arming::Armed, Some(ticket)) =
            (side.sleeper.arm(Mode::Futex, interest, look), side.sleeper.ticket())
        else {
            session.counts.arms_called_off += 1;
            return Slept::Not;
        };
        session.counts.parks += 1;
        let began = now_ns();
        let waited = side.sleeper.bell().seq().wait(ticket.0, Some(timespec(until)));
        let woke = now_ns();
        let left = until.saturating_sub(woke);
        calm.slept(waited.is_err(), woke.saturating_sub(began), left, || {
            side.sleeper.bell().rung(ticket)
        });
        session.counts.pauses = calm.pauses();
        let slept = if woke < until { Slept::Rung } else { Slept::Out };
        let rescue = if slept == Slept::Out && something_came(session, interest) {
            // Still armed: whoever published it rings, now or in a moment.
            Some(side.sleeper.bell().rescue(ticket))
        } else {
            None
        };
        side.sleeper.disarm();
        if let Some(rescue) = rescue {
            side.count_rescue(rescue, ticket, now_ns(), &mut session.counts);
        }
        slept
    }

    /// Sleeps until the socket has something, or takes what is unsent, at most until `deadline`. A
    /// socket's wake-up costs so much that looking out for it brings little; and the kernel tells
    /// of every death.
    #[cold]
    fn wait_for_socket(&mut self, deadline: &mut Deadline) -> Result<(), WaitEnd> {
        self.session.retry_abort().map_err(|fault| WaitEnd::SessionEnd(self.fail(fault.into())))?;
        self.retry_control();
        self.session.flush();
        let now = now_ns();
        if deadline.passed(now) {
            *deadline = Deadline::Now;
            self.session.ready(Readiness::UNKNOWN);
            return Ok(());
        }
        self.unless_it_waits_for_itself()?;
        if self.session.has_pending() {
            // It was looked at often enough for one look at the clock.
            return Ok(());
        }
        let wanted = PollFlags::IN | PollFlags::RDHUP;
        let wanted = if self.session.has_unsent() { wanted | PollFlags::OUT } else { wanted };
        let left = match *deadline {
            Deadline::At(at) => {
                rustix::event::Timespec::try_from(Duration::from_nanos(at - now)).ok()
            }
            _ => None,
        };
        self.session.counts.parks += 1;
        let span = trace::client_park(self.server_info.session, "socket");
        let waited = span.inside(|| wait_ready(self.session.lifeline(), wanted, left.as_ref()));
        let ready = waited.unwrap_or(Readiness::UNKNOWN);
        let woke = now_ns();
        let left = match *deadline {
            Deadline::At(at) => at.saturating_sub(woke),
            _ => u64::MAX,
        };
        self.calm.slept(waited.is_none(), woke.saturating_sub(now), left, || {
            waited.is_some_and(|ready| ready != Readiness::default())
        });
        self.session.counts.pauses = self.calm.pauses();
        span.ended(if ready == Readiness::default() { "clock" } else { "rung" });
        self.session.ready(ready);
        Ok(())
    }

    /// Whether the server is still there, by its lifeline and its pidfd.
    pub(super) fn check_server(&mut self) -> Result<(), SessionEnd> {
        if let Some(verdict) = self.verdict {
            return Err(verdict);
        }
        // A socket that carries the session says so itself, in turn with what it carries.
        let Some(side) = &mut self.side else { return Ok(()) };
        self.verdict = side.hear(self.session.lifeline()).find_map(end_of_session);
        let Some(verdict) = self.verdict else {
            side.peer_lives(now_ns(), &mut self.session.counts);
            return Ok(());
        };
        side.peer_is_gone(&mut self.session.counts);
        Err(verdict)
    }

    pub(super) fn hint(&mut self, off: bool) {
        if let Some(side) = &mut self.side {
            side.hint(off);
        }
    }

    /// Whether the call that tools are told of still waits. A stream of which something came does
    /// not.
    fn oldest_waits(&self) -> bool {
        let call = self.session.counts.oldest_call;
        self.calls.state(call) == Some(Waiting::Wanted) && !self.streams.has_moved(CallId(call))
    }

    /// Remembers for tools a call that waits, and since when it does so at least: the time of a
    /// sleep, which is asked for only if it is another call than before.
    pub(super) fn note_oldest(&mut self, now: impl FnOnce() -> u64) {
        // A socket's session has no page.
        if self.session.is_socket() || self.oldest_waits() {
            return;
        }
        let (calls, streams) = (&mut self.calls, &self.streams);
        let before = self.session.counts.oldest_call;
        let found = calls.waiting_behind(before, |call| !streams.has_moved(call));
        let since = found.map_or(0, |_| self.session.clock().time(now()));
        let counts = &mut self.session.counts;
        (counts.oldest_call, counts.oldest_sent_ns) = (found.map_or(0, |call| call.0), since);
    }

    /// Behind a sleep a call that no longer waits is not replaced: there is no time.
    pub(super) fn forget_oldest(&mut self) {
        if !self.oldest_waits() {
            (self.session.counts.oldest_call, self.session.counts.oldest_sent_ns) = (0, 0);
        }
    }

    /// The answer to the last call is there, or nobody wants one any more. Tools are told at once:
    /// it may be long until this client sleeps again.
    #[cold]
    pub(super) fn less_in_flight(&mut self) {
        self.forget_oldest();
        self.tell_in_flight(self.calls.wanted());
    }

    /// The answer to the last call is being taken.
    pub(super) fn nothing_in_flight(&mut self) {
        (self.session.counts.oldest_call, self.session.counts.oldest_sent_ns) = (0, 0);
        self.tell_in_flight(0);
    }

    /// A call was sent while the client is armed, and nothing else says so.
    #[cfg(feature = "tokio")]
    pub(crate) fn more_in_flight(&mut self) {
        self.note_oldest(now_ns);
        self.tell_in_flight(self.calls.wanted());
    }

    fn tell_in_flight(&mut self, calls: usize) {
        if !self.origin.is_here() {
            // In a forked child the page is the parent's.
            return;
        }
        self.session.counts.in_flight = calls as u64;
        self.session.store_in_flight();
        self.tells_answers = self.sampling.is_some() || self.session.shows_in_flight();
    }

    /// A call ended otherwise than by a plain answer: if none is waited for any more, and tools are
    /// told otherwise, that is put right.
    pub(super) fn one_less_in_flight(&mut self) {
        if self.calls.wanted() == 0 && self.session.shows_in_flight() {
            self.less_in_flight();
        }
    }

    /// The caller no longer wants the answer, which may still come.
    #[cold]
    pub(super) fn abandon(&mut self, call: CallId) {
        self.calls.abandon(call);
        self.less_in_flight();
    }

    pub(super) fn store_counts(&mut self) {
        let waited_for = if self.over.is_some() { 0 } else { self.calls.wanted() };
        self.session.counts.in_flight = waited_for as u64;
        self.store_waits();
    }

    /// As [`Self::store_counts`], but for the calls in flight: they are about to change.
    fn store_waits(&mut self) {
        let waits = self.waiter.counts();
        let counts = &mut self.session.counts;
        counts.spins_paid = waits.spins_paid;
        counts.yields = waits.yields;
        counts.slow_episodes = waits.slow_episodes;
        self.session.store_counts();
        self.tells_answers = self.sampling.is_some() || self.session.shows_in_flight();
    }
}

pub(super) fn something_came(session: &mut SessionCore, interest: Interest) -> bool {
    session.has_pending() || (interest.meets(Interest::SPACE) && session.room_appeared())
}

/// How something that the server says ends the session, if it does.
fn end_of_session(said: Said) -> Option<SessionEnd> {
    match said {
        Said::Wake => None,
        Said::Farewell(Some(Farewell::ShutDown)) => Some(SessionEnd::ShutDown),
        Said::Farewell(_) | Said::HungUp => Some(SessionEnd::Disconnected),
        Said::Goodbye | Said::Impossible => Some(SessionEnd::PeerFault(PeerFault::Lifeline)),
    }
}
