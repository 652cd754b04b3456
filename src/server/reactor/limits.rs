//! What a client may keep a server waiting for, and for how long: answers that it does not read,
//! and streams of which it takes no item.
//!
//! Who waits for a client never waits in the reactor's thread. So the reactor can look, before it
//! sleeps and every few milliseconds while it is busy, who has waited for too long. A clock starts
//! at such a look, so the ordinary path pays nothing for it.

use super::slot::Slot;
use super::{LAST_TIME, Limits, Reactor};
use crate::base::clock::now_ns;
use crate::memory::layout::Interest;
use crate::server::engine::Engine;
use crate::server::flight::{Flight, StreamOver};
use crate::trace;
use std::sync::Arc;
use std::time::Duration;

/// What a client has at shutdown, if it has for ever before; and for all that is left, however
/// busily it reads.
const LAST_PATIENCE: Duration = Duration::from_secs(10);
/// What a time limit is exceeded by for certain when its time has come.
const MARGIN: Duration = Duration::from_millis(1);
/// Nanoseconds after which the buffers of a large message are given back if no other one came:
/// between once and twice this.
const QUIET_NS: u64 = 16_000_000;
/// Nanoseconds between two looks at the streams, while items are sent.
const LOOK_NS: u64 = 10_000_000;
/// A client that leaves several streams unread has half as long for each one more; so often at
/// most.
const HALVINGS: u32 = 10;

pub(super) fn ns(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

impl Limits {
    /// The server shuts down: no client may keep it waiting for ever.
    pub(super) fn last_for_all(&mut self) {
        self.slow_client.get_or_insert(LAST_PATIENCE);
        self.stream_stall.get_or_insert(LAST_PATIENCE);
    }
}

/// When to look at the streams again. All times are CLOCK_MONOTONIC ns.
#[derive(Debug)]
pub(super) struct StreamLooks {
    /// Items were sent since the last look.
    pub(super) moved: bool,
    looked_at: u64,
    /// When the limit of a stream without credit is over; `u64::MAX` if there is none.
    due: u64,
    /// When the order to shut down was seen; 0 before.
    drains_since: u64,
}

impl Default for StreamLooks {
    fn default() -> Self {
        Self { moved: false, looked_at: 0, due: u64::MAX, drains_since: 0 }
    }
}

impl StreamLooks {
    /// When the next look is due; `u64::MAX` for never.
    fn next(&self) -> u64 {
        let busy = if self.moved { self.looked_at.saturating_add(LOOK_NS) } else { u64::MAX };
        self.due.min(busy)
    }
}

/// Until when the reactor keeps the buffers of a large message for the next one: CLOCK_MONOTONIC
/// ns, `u64::MAX` if there is none. A multiple of a long step, so that a loop that sleeps between
/// large messages does not set its timer anew each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LargeUntil(u64);

impl LargeUntil {
    pub(super) const NONE: Self = Self(u64::MAX);

    pub(super) fn from(now: u64) -> Self {
        Self((now / QUIET_NS).saturating_add(2).saturating_mul(QUIET_NS))
    }
}

impl Slot {
    /// Keeps the time for which the client has left its answers unread: those in the queue, and,
    /// over a socket, those that it has not taken. `moved`: the queue did. True once that is longer
    /// than `limit`.
    pub(super) fn leaves_answers_for(&mut self, limit: Option<Duration>, moved: bool) -> bool {
        let now = now_ns();
        if self.answers_are_due(limit).is_some_and(|due| due <= now) {
            self.session.retry_unsent();
        }
        let unsent = self.session.unsent_behind();
        if self.queue.is_empty() && unsent.is_none() {
            self.stuck_since = None;
            return false;
        }
        let moved = moved || unsent != self.stuck_behind;
        self.stuck_behind = unsent;
        if self.drained && self.flights.len() == 0 && self.backlog.is_empty() {
            self.last_since.get_or_insert(now);
        }
        if moved || self.stuck_since.is_none() {
            self.stuck_since = Some(now);
        }
        self.answers_are_due(limit).is_some_and(|due| due <= now)
    }

    /// Until when the client has to have taken something, as far as that is known; or all, if these
    /// are the last answers before the server ends.
    fn answers_are_due(&self, limit: Option<Duration>) -> Option<u64> {
        let limit = limit?;
        let since = self.stuck_since?;
        let some = since.saturating_add(ns(limit.saturating_add(MARGIN)));
        let last = limit.max(LAST_PATIENCE);
        let all = self.last_since.map_or(u64::MAX, |since| since.saturating_add(ns(last)));
        Some(some.min(all))
    }

    /// When a limit of this session's is over at the earliest.
    fn due(&self, limits: &Limits) -> Option<u64> {
        let gone = self.gone.map(|gone| gone.since.saturating_add(ns(LAST_TIME + MARGIN)));
        self.answers_are_due(limits.slow_client).into_iter().chain(gone).min()
    }
}

impl<E: Engine> Reactor<E> {
    /// What the reactor is to be rung for, and when it has to look at the clock again at the
    /// latest: CLOCK_MONOTONIC ns, `u64::MAX` for never. If that has come, those whose time it is
    /// have the next turn.
    pub(super) fn before_sleep(&mut self) -> (Interest, u64) {
        let now = now_ns();
        self.look_at_streams(now);
        if self.large_until.0 <= now {
            self.free_large(usize::MAX);
        }
        let Self { slots, turns, limits, sockets, .. } = self;
        if self.held.is_tight() {
            // Also of those that have no turn now.
            slots.iter_mut().for_each(|slot| slot.flights.free_spare());
        }
        let mut next = self.stream_looks.next().min(self.large_until.0);
        let mut interest = Interest::DATA;
        for (place, slot) in slots.iter_mut().enumerate() {
            if !slot.queue.is_empty() {
                interest = Interest::BOTH;
            } else if *sockets != 0 && slot.stuck_since.is_none() && slot.session.has_unsent() {
                // Its clock starts here.
                slot.leaves_answers_for(None, false);
            }
            if let Some(due) = slot.due(limits) {
                next = next.min(due);
                if due <= now {
                    turns.heat(place);
                }
            }
        }
        (interest, next)
    }

    /// Ends streams whose producers have waited for too long for a client that takes no item.
    pub(super) fn look_at_streams(&mut self, now: u64) {
        let looks = &mut self.stream_looks;
        if looks.next() > now {
            return;
        }
        // Stopped, or busy in a handler, for so long that the clients had no time to be heard.
        let late = self.limits.stream_stall.map_or(u64::MAX, ns);
        let is_late = looks.due.saturating_add(late) < now;
        (looks.moved, looks.looked_at, looks.due) = (false, now, u64::MAX);
        let Some(limit) = self.limits.stream_stall else { return };
        let mut over = Vec::new();
        for (index, slot) in self.slots.iter().enumerate() {
            let limit = limit / 2u32.pow(slot.stalled.min(HALVINGS));
            let moved_at = slot.stuck_since.unwrap_or(0);
            for (flight, is_its_turn) in slot.flights.streaming() {
                let is_counted = is_its_turn && !is_late;
                let Some(since) = flight.stalled_since(now, is_counted, moved_at) else {
                    continue;
                };
                let mut due = since.saturating_add(ns(limit));
                if looks.drains_since != 0 {
                    // Not once more for each item.
                    due = due.min(looks.drains_since.saturating_add(ns(limit.max(LAST_PATIENCE))));
                }
                if due <= now && flight.is_waiting() {
                    over.push((index, flight.clone()));
                } else {
                    looks.due = looks.due.min(due.max(now + LOOK_NS));
                }
            }
        }
        for (index, flight) in over {
            self.stalled(index, &flight);
        }
    }

    #[cold]
    fn stalled(&mut self, index: usize, flight: &Arc<Flight>) {
        let slot = &mut self.slots[index];
        if flight.is_held_up_by_others() {
            slot.caller.0.account.count_refusal();
            trace::stream_without_room(slot.id, &slot.caller.0.peer, flight.call);
            return flight.give_up(StreamOver::NoRoom);
        }
        slot.stalled = slot.stalled.saturating_add(1);
        self.counts.stalled_streams += 1;
        trace::stream_stalled(slot.id, &slot.caller.0.peer, flight.call);
        flight.give_up(StreamOver::Stalled);
    }

    /// The order to shut down has come.
    pub(super) fn begin_to_drain(&mut self) {
        trace::shutdown(self.slots.len());
        self.limits.last_for_all();
        self.stream_looks.drains_since = now_ns();
        self.stream_looks.moved = true;
        self.porter.stop();
    }
}
