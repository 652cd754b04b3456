//! How a client waits: for rings it spins, yields and parks on its bell; for a socket it polls.

use super::error::{Over, WaitEnd};
use super::{CHECK_EVERY_NS, Client};
use crate::bell::{Rescue, Sleeper, Ticket, before_looking_again};
use crate::calls::Waiting;
use crate::clock::{Deadline, now_ns, timespec};
use crate::handshake::lifeline::{Farewell, WAKE};
use crate::layout::{Hints, Interest, Mode};
use crate::memory::{OwnWord, PeerWord};
use crate::session::{PeerFault, Readiness, Session};
use crate::sync::{Ordering, spin_hint};
use crate::trace;
use crate::wait::{Step, Surroundings};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use std::time::Duration;

/// A client that does not sleep stores its counters every so many yields.
const STORE_YIELDS: u64 = 64;

/// What a client sleeps on.
#[derive(Debug)]
pub(super) enum Bed {
    Shared(SharedBed),
    /// The socket that carries the session.
    Socket,
}

#[derive(Debug)]
pub(super) struct SharedBed {
    pub(super) sleeper: Sleeper,
    pub(super) hints: OwnWord,
    pub(super) server_hints: PeerWord,
    pub(super) cpu: Option<u32>,
    /// The server's pidfd.
    pub(super) server: Option<OwnedFd>,
    /// Armed in event mode, by [`Client::arm`].
    pub(super) armed: bool,
    /// Wake bytes that may have come since the lifeline was read last.
    pub(super) unread: u32,
    /// The last sleep that was counted as a lost wake.
    pub(super) not_rung: Option<Ticket>,
}

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
    /// Waits until `look` finds something: spins, yields and parks as the policy says.
    #[inline]
    pub(super) fn wait<T>(
        &mut self,
        deadline: &mut Deadline,
        interest: Interest,
        mut look: impl FnMut(&mut Self) -> Result<Option<T>, Over>,
    ) -> Result<T, WaitEnd> {
        if *deadline == Deadline::Now && self.session.is_socket() {
            // Nobody asks the kernel before the one look that there will be.
            self.session.ready(Readiness { readable: true, writable: true, hung_up: false });
        }
        loop {
            match look(self) {
                Ok(Some(found)) => {
                    self.waited();
                    return Ok(found);
                }
                Ok(None) => {}
                Err(over) => {
                    self.waiter.given_up();
                    return Err(WaitEnd::Over(self.fail(over)));
                }
            }
            if self.session.has_ended() {
                self.waiter.given_up();
                return Err(WaitEnd::Over(self.fail(Over::Disconnected)));
            }
            if *deadline == Deadline::Now {
                return self.without_waiting();
            }
            if let Bed::Socket = self.bed {
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
            let parked = matches!(&self.bed, Bed::Shared(bed) if Hints(bed.hints.get()).off());
            self.hint(false);
            if parked {
                // It may be long until the next wait: what was in flight at the last sleep no longer is.
                self.note_oldest(0);
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
        let Bed::Shared(bed) = &self.bed else { return Surroundings::default() };
        let server = Hints(bed.server_hints.load());
        Surroundings { peer_cannot_run: server.cpu().is_some() && server.cpu() == bed.cpu, crowded: false }
    }

    /// Nothing is there and nothing is waited for: the one moment at which a client that only ever polls learns
    /// that the server is gone.
    #[cold]
    fn without_waiting<T>(&mut self) -> Result<T, WaitEnd> {
        self.waiter.given_up();
        self.session.flush();
        Err(self.timed_out(now_ns()))
    }

    /// A wait ends without a result. Now and then that is the moment to see whether the server is still there, for
    /// clients that never wait for long.
    pub(super) fn timed_out(&mut self, now: u64) -> WaitEnd {
        self.waiter.given_up();
        if self.verdict.is_none() && now.saturating_sub(self.checked_at) < CHECK_EVERY_NS {
            return WaitEnd::TimedOut;
        }
        self.checked_at = now;
        match self.check_server() {
            Ok(()) => WaitEnd::TimedOut,
            Err(_) if self.session.has_pending() => WaitEnd::TimedOut,
            Err(over) => WaitEnd::Over(self.fail(over)),
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
            return Err(self.timed_out(now));
        }
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
            // The server is known to be gone: what it published is read, and nobody will publish more.
            if self.session.has_pending() {
                return Ok(());
            }
            self.waiter.given_up();
            return Err(WaitEnd::Over(self.fail(over)));
        }
        self.session.retry_abort().map_err(|fault| WaitEnd::Over(self.fail(fault.into())))?;
        self.retry_owed();
        let interest = if self.owed.is_empty() { interest } else { Interest::BOTH };
        self.session.settle();
        self.note_oldest(now);
        self.store_counts();
        let span = trace::client_park(self.names.session, "futex");
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
                    return Err(WaitEnd::Over(self.fail(over)));
                }
            }
        }
        Ok(())
    }

    fn park(&mut self, now: u64, deadline: Deadline, interest: Interest) -> Slept {
        self.hint(true);
        let until = deadline.within(now, self.waiter.longest_sleep(now));
        let Self { bed: Bed::Shared(bed), session, .. } = self else { return Slept::Not };
        let ticket = bed.sleeper.arm(Mode::Futex, interest);
        crate::kill_point!("client-armed");
        before_looking_again();
        if something_came(session, interest) || bed.sleeper.rung(ticket) {
            bed.sleeper.disarm();
            session.counts.arms_called_off += 1;
            return Slept::Not;
        }
        session.counts.parks += 1;
        bed.sleeper.seq().wait(ticket.0, Some(timespec(until)));
        let slept = if now_ns() < until { Slept::Rung } else { Slept::Out };
        let rescue = if slept == Slept::Out && something_came(session, interest) {
            // Still armed: whoever published it rings, now or in a moment.
            Some(bed.sleeper.rescue(ticket))
        } else {
            None
        };
        bed.sleeper.disarm();
        match rescue {
            None => {}
            Some(Rescue::LateRing) => session.counts.late_rings += 1,
            Some(Rescue::LostWake) => {
                session.counts.backstop_rescues += 1;
                bed.not_rung = Some(ticket);
            }
        }
        slept
    }

    /// Sleeps until the socket has something, or takes what is unsent, at most until `deadline`. A socket's wake-up
    /// costs so much that looking out for it brings little; and the kernel tells of every death.
    #[cold]
    fn wait_for_socket(&mut self, deadline: &mut Deadline) -> Result<(), WaitEnd> {
        self.session.retry_abort().map_err(|fault| WaitEnd::Over(self.fail(fault.into())))?;
        self.retry_owed();
        self.session.flush();
        let now = now_ns();
        if deadline.passed(now) {
            return Err(self.timed_out(now));
        }
        if self.session.has_pending() {
            // It was looked at often enough for one look at the clock.
            return Ok(());
        }
        let wanted = PollFlags::IN | PollFlags::RDHUP;
        let wanted = if self.session.has_unsent() { wanted | PollFlags::OUT } else { wanted };
        let left = match *deadline {
            Deadline::At(at) => rustix::event::Timespec::try_from(Duration::from_nanos(at - now)).ok(),
            _ => None,
        };
        self.session.counts.parks += 1;
        let mut polled = [PollFd::new(self.session.lifeline(), wanted)];
        let span = trace::client_park(self.names.session, "socket");
        // EINTR and every other error: look again.
        let _ = span.inside(|| poll(&mut polled, left.as_ref()));
        let found = polled[0].revents();
        span.ended(if found.is_empty() { "clock" } else { "rung" });
        self.session.ready(Readiness {
            readable: found.contains(PollFlags::IN),
            writable: found.contains(PollFlags::OUT),
            hung_up: found.intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR),
        });
        Ok(())
    }

    /// Whether the server is still there, by its lifeline and its pidfd.
    pub(super) fn check_server(&mut self) -> Result<(), Over> {
        if let Some(verdict) = self.verdict {
            return Err(verdict);
        }
        // A socket that carries the session says so itself, in turn with what it carries.
        let Bed::Shared(bed) = &mut self.bed else { return Ok(()) };
        let checked = check_lifeline(self.session.lifeline(), bed.server.as_ref());
        self.verdict = checked.err();
        // A ring that died with its ringer was not lost. Dying takes time, so the death may become
        // known only now, after the ring was counted as lost. A server that rang since then had
        // lived on.
        if checked.is_err()
            && let Some(ticket) = bed.not_rung.take()
            && !bed.sleeper.rung(ticket)
        {
            self.session.counts.backstop_rescues -= 1;
            self.session.counts.late_rings += 1;
        }
        checked
    }

    #[allow(clippy::cast_possible_truncation, reason = "CPU numbers are small")]
    pub(super) fn hint(&mut self, off: bool) {
        let Bed::Shared(bed) = &mut self.bed else { return };
        bed.cpu = Some(rustix::thread::sched_getcpu() as u32);
        // Relaxed: advice.
        bed.hints.store(Hints::new(bed.cpu, off).0, Ordering::Relaxed);
    }

    /// Remembers for tools a call that waits, and since when it does so at least: `now`, the time of a sleep. Behind
    /// a sleep there is no time, and a call that is no longer there is not replaced.
    fn note_oldest(&mut self, now: u64) {
        let counts = &mut self.session.counts;
        if self.calls.state(counts.oldest_call) != Some(Waiting::Wanted) {
            let found = if now == 0 { None } else { self.calls.waiting_behind(counts.oldest_call) };
            counts.oldest_call = found.map_or(0, |call| call.0);
            counts.oldest_sent_ns = if found.is_some() { now } else { 0 };
        }
    }

    pub(super) fn store_counts(&mut self) {
        self.session.counts.in_flight = self.calls.wanted() as u64;
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
    }
}

pub(super) fn something_came(session: &mut Session, interest: Interest) -> bool {
    session.has_pending() || (interest.meets(Interest::SPACE) && session.room_appeared())
}

/// What the lifeline and the server's pidfd say. Two system calls, mostly.
fn check_lifeline(lifeline: &OwnedFd, server: Option<&OwnedFd>) -> Result<(), Over> {
    let mut bytes = [0; 64];
    // A bounded number of reads: a server that floods the lifeline gains no more of this thread's time.
    for _ in 0..4 {
        let received = rustix::net::recv(lifeline, &mut bytes[..], rustix::net::RecvFlags::DONTWAIT);
        match received.map(|(count, _)| count) {
            Ok(0) => return Err(Over::Disconnected),
            Ok(count) => {
                for byte in &bytes[..count] {
                    match *byte {
                        WAKE => {}
                        byte if Farewell::from_byte(byte) == Some(Farewell::ShutDown) => {
                            return Err(Over::ShutDown);
                        }
                        0x80.. => return Err(Over::Disconnected),
                        _ => return Err(PeerFault::Lifeline.into()),
                    }
                }
            }
            Err(rustix::io::Errno::AGAIN) => return check_process(server),
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return Err(Over::Disconnected),
        }
        // One look at both for what else there may be: an end of the lifeline, of which no other edge would tell.
        let wanted = PollFlags::IN | PollFlags::RDHUP;
        let mut polled =
            [PollFd::new(lifeline, wanted), PollFd::new(server.unwrap_or(lifeline), PollFlags::IN)];
        match poll(&mut polled[..if server.is_some() { 2 } else { 1 }], Some(&NOW)) {
            Ok(0) => return Ok(()),
            Ok(_) if polled[0].revents().is_empty() => return Err(Over::Disconnected),
            // Or it could not be asked: a read tells.
            _ => {}
        }
    }
    check_process(server)
}

const NOW: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };

/// What the server's pidfd says.
fn check_process(server: Option<&OwnedFd>) -> Result<(), Over> {
    let Some(server) = server else { return Ok(()) };
    match poll(&mut [PollFd::new(server, PollFlags::IN)], Some(&NOW)) {
        Ok(1..) => Err(Over::Disconnected),
        _ => Ok(()),
    }
}
