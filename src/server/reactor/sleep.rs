//! The wait for something to do: spinning, yielding, the sleep, and what the kernel says after it.

use super::slot::Slot;
use super::turns::Turns;
use super::{Limits, Reactor};
use crate::base::clock::now_ns;
use crate::base::sync::spin_hint;
use crate::link::lifeline::{Hearing, Said};
use crate::memory::layout::Interest;
use crate::protocol::bell::Rescue;
use crate::protocol::wait::{Step, Surroundings};
use crate::server::engine::Engine;
use crate::server::park::{PORTER, Slept};
use crate::trace;
use std::time::Duration;

impl<E: Engine> Reactor<E> {
    /// Whether the porter or somebody else in this process has something to say.
    #[inline]
    fn has_news(&self) -> bool {
        self.mailbox.has_mail() || self.completions.any() || self.mailbox.is_stopping()
    }

    pub(super) fn wait(&mut self) {
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
    pub(super) fn spin(&mut self, polls: u32) -> bool {
        if let [slot] = &self.slots[..]
            && slot.may_read(&self.limits)
        {
            slot.session.watch(polls, || {
                spin_hint();
                self.has_news()
            });
            return true;
        }
        let limits = &self.limits;
        let has_pending = |slot: &Slot| slot.may_read(limits) && slot.session.has_pending();
        let cold = self.turns.cold_turns(0);
        for _ in 0..polls {
            if self.has_news()
                || self.turns.hot().iter().any(|place| has_pending(&self.slots[*place]))
            {
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
        let now = self.cool();
        self.publish_heads();
        self.store_counts(now);
        let (interest, next) = self.before_sleep();
        let backstop = Duration::from_nanos(next.saturating_sub(now_ns()));
        if backstop.is_zero() {
            return self.hint(false);
        }
        let backstop = backstop.min(self.limits.wait.backstop);
        let span = trace::server_park(self.slots.len());
        let slept = span.inside(|| self.sleep(interest, backstop, false));
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

    /// Lets those cool that did nothing for long. The time: CLOCK_MONOTONIC ns.
    pub(super) fn cool(&mut self) -> u64 {
        let Self { turns, slots, .. } = self;
        let now = now_ns();
        turns.cool(now, |place| slots[place].session.publish_head());
        self.look_at_streams(now);
        now
    }

    /// Publishes the heads of hot sessions. That of a cold one was published when it became cold.
    pub(super) fn publish_heads(&mut self) {
        for place in self.turns.hot() {
            self.slots[*place].session.publish_head();
        }
    }

    /// `stopping`: whether the order to stop is known.
    pub(super) fn sleep(
        &mut self,
        interest: Interest,
        backstop: Duration,
        stopping: bool,
    ) -> Slept {
        let Self { parker, slots, turns, mailbox, completions, limits, woken, .. } = self;
        let look = || {
            mailbox.has_mail()
                || completions.any()
                || mailbox.is_stopping() != stopping
                || find_work(slots, limits, turns)
        };
        let slept =
            parker.park(interest, backstop, look, |session, ready| woken.push((session, ready)));
        if let Some(failed) = self.parker.take_failure() {
            self.failure = Some(failed.into());
        }
        self.read_woken();
        if slept != Slept::Not {
            self.looks.slept(self.passes);
        }
        slept
    }

    /// Asks the kernel about sockets, without waiting.
    #[inline]
    pub(super) fn poll_sockets(&mut self) {
        if self.sockets != 0 {
            let Self { parker, woken, .. } = self;
            parker.poll(|session, ready| woken.push((session, ready)));
            self.read_woken();
        }
    }

    /// Passes on what the kernel said.
    pub(super) fn read_woken(&mut self) {
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

    /// Empties a lifeline of wake bytes, so that there is room for the next one. What else stands
    /// there the porter sees as well, when the client hangs up. Descriptors stay there, and what is
    /// behind them: they are dropped with the session, where nobody waits for that.
    fn read_wake_bytes(&mut self, session: u64) {
        let Some(slot) = self.places.get(&session).and_then(|index| self.slots.get_mut(*index))
        else {
            return;
        };
        // A goodbye the porter would look for in vain.
        slot.said_goodbye |= Hearing::glance(&slot.lifeline)
            .fold(false, |found, said| found | (said == Said::Goodbye));
    }

    /// Of those that did something lately.
    #[inline]
    pub(super) fn surroundings(&self) -> Surroundings {
        if let [place] = self.turns.hot()
            && let Some(shared) = &self.slots[*place].shared
        {
            return Surroundings {
                peer_cannot_run: shared.hints.shares_cpu_with(&self.hints),
                crowded: false,
            };
        }
        let mut on = 0u64;
        // A socket is not seen by spinning.
        let mut can_run = self.turns.hot().is_empty();
        let hot = self.turns.hot().iter().map(|place| &self.slots[*place]);
        for shared in hot.filter_map(|slot| slot.shared.as_ref()) {
            let cpu = shared.hints.cpu();
            if let Some(cpu) = cpu {
                on |= 1u64.checked_shl(cpu).unwrap_or(0);
            }
            can_run |= cpu != self.hints.cpu();
        }
        Surroundings { peer_cannot_run: !can_run, crowded: on.count_ones() >= self.cpus }
    }

    pub(super) fn hint(&mut self, off: bool) {
        self.hints.tell(off);
    }
}

/// Whether anybody has something to do: the second look before a sleep, at everybody. Who is found
/// is hot.
pub(super) fn find_work(slots: &mut [Slot], limits: &Limits, turns: &mut Turns) -> bool {
    let found = slots.iter_mut().position(|slot| slot.has_work(limits));
    if let Some(place) = found {
        turns.heat(place);
    }
    found.is_some()
}
