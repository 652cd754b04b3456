//! How an end gets ready to sleep, and what it learns of its peer. Sleeping is its driver's
//! business: a thread, or an event loop.

use super::{ByteEndpoint, Direction, Peer, TakenIn, Wanted};
use crate::base::clock::{coarse_ns, now_ns};
use crate::base::sync::spin_hint;
use crate::bytes::ByteStreamError;
use crate::link::lifeline::Said;
use crate::link::readiness::Readiness;
use crate::link::session::{PeerFault, SessionCore};
use crate::link::side::Side;
use crate::link::stats::SessionCounters;
use crate::memory::layout::Mode;
use crate::protocol::bell::{Arming, Ticket};
use crate::protocol::sleeper::SideSleeper;
use crate::protocol::wait::Surroundings;
use crate::trace;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How often a write looks whether its reader is still there.
const LOOK_EVERY_NS: u64 = 20_000_000;

/// Which of those who wait may find something now that they did not find before. `gone`: the peer
/// is.
fn came(session: &mut SessionCore, gone: bool, taken_in: TakenIn, wanted: Wanted) -> Wanted {
    let found = match taken_in {
        TakenIn::Unread => true,
        // No read looks at the session any more.
        TakenIn::All => session.has_hung_up(),
        TakenIn::Nothing => session.has_pending() || session.has_ended(),
    };
    let read = wanted.read && (gone || found);
    let write = wanted.write
        && (gone || session.is_broken() || (session.room_appeared() && !session.has_unsent()));
    Wanted { read, write }
}

impl ByteEndpoint {
    /// Which of those who wait may find something now that they did not find before.
    pub(crate) fn came(&mut self, wanted: Wanted) -> Wanted {
        let taken_in = self.taken_in();
        came(&mut self.session, self.gone, taken_in, wanted)
    }

    /// Looks at the lifeline and the peer's process: whether the peer is gone is known afterwards.
    /// A socket that carries the session tells in turn with what it carries.
    pub(crate) fn check_peer(&mut self) {
        if !self.origin.is_here() || self.gone {
            return;
        }
        let Some(side) = &self.side else { return };
        let over_to = &self.peer;
        let heard = side.hear(self.session.lifeline()).find_map(|said| match (said, over_to) {
            (Said::Wake, _) => None,
            (Said::HungUp, _)
            | (Said::Goodbye, Peer::Client(_))
            | (Said::Farewell(_), Peer::Server) => Some(Ok(())),
            _ => Some(Err(PeerFault::Lifeline)),
        });
        if let Some(Err(fault)) = heard {
            self.fail(ByteStreamError::PeerFault(fault));
        }
        self.gone |= heard.is_some() || self.porter_found_it_dead();
        if let Some(side) = &mut self.side {
            if self.gone {
                side.peer_is_gone(&mut self.session.counts);
            } else {
                side.peer_lives(now_ns(), &mut self.session.counts);
            }
        }
    }

    /// A write is about to be taken into the ring: looks now and then whether anybody is there to
    /// read it. Between two looks it costs a glance at the clock.
    pub(super) fn look_now_and_then(&mut self) {
        if self.side.is_none() || self.gone {
            return;
        }
        let now = coarse_ns();
        if now.saturating_sub(self.looked_at) >= LOOK_EVERY_NS {
            self.looked_at = now;
            self.look_for_hang_up();
        }
    }

    /// Looks whether the peer is gone, over rings. One system call. Nothing is read: a wake byte is
    /// for whoever sleeps, in whatever way.
    pub(super) fn look_for_hang_up(&mut self) {
        if !self.origin.is_here() || self.gone {
            return;
        }
        let Some(side) = &mut self.side else { return };
        let lifeline = self.session.lifeline();
        let process = side.process.as_deref();
        let mut polled = [
            PollFd::new(lifeline, PollFlags::RDHUP),
            PollFd::new(process.unwrap_or(lifeline), PollFlags::IN),
        ];
        let polled = &mut polled[..1 + usize::from(process.is_some())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let told = matches!(poll(polled, Some(&now)), Ok(1..));
        let dead = matches!(&self.peer, Peer::Client(death_watch) if death_watch.is_dead());
        if told || dead {
            self.gone = true;
            side.peer_is_gone(&mut self.session.counts);
        }
    }

    fn porter_found_it_dead(&self) -> bool {
        matches!(&self.peer, Peer::Client(death_watch) if death_watch.is_dead())
    }

    /// Takes note of what the kernel says of the socket.
    pub(crate) fn ready(&mut self, ready: Readiness) {
        // It writes what is unsent, which in a forked child is the parent's.
        if self.origin.is_here() {
            self.session.ready(ready);
        }
    }

    /// Whether the socket has to become writable.
    pub(crate) fn has_unsent(&self) -> bool {
        self.session.has_unsent()
    }

    #[inline]
    pub(crate) fn surroundings(&self) -> Surroundings {
        self.side.as_ref().map_or_else(Surroundings::default, Side::surroundings)
    }

    pub(in crate::bytes) fn hint(&mut self, off: bool) {
        if !self.origin.is_here() {
            return;
        }
        if let Some(side) = &mut self.side {
            side.hint(off);
        }
    }

    /// Looks out for what `direction` waits for, for a moment.
    pub(crate) fn spin(&mut self, direction: Direction, polls: u32) {
        if direction == Direction::Read {
            self.session.watch(polls, || {
                spin_hint();
                false
            });
            return;
        }
        for _ in 0..polls {
            if self.session.room_appeared() {
                return;
            }
            spin_hint();
        }
    }

    pub(in crate::bytes) fn sleeper(&self) -> Option<&SideSleeper> {
        self.side.as_ref().map(|side| &side.sleeper)
    }

    pub(in crate::bytes) fn counts(&mut self) -> &mut SessionCounters {
        &mut self.session.counts
    }

    /// Publishes how far an empty ring was read. The head of any other is published with a ring for
    /// space, or not at all: a writer that slept for it would find room that nobody rang for.
    pub(super) fn publish_empty(&mut self) {
        if !self.session.has_pending() {
            self.session.publish_head();
        }
    }

    /// Declares that this side is about to sleep on its bell, over rings. `Busy` if something came
    /// for one of those who wait.
    pub(in crate::bytes) fn arm_bell(&mut self, wanted: Wanted, mode: Mode) -> Arming {
        self.session.flush();
        self.publish_empty();
        self.session.store_counts();
        self.hint(true);
        let taken_in = self.taken_in();
        let Self { side: Some(side), session, gone, .. } = self else { return Arming::Busy };
        let arming = side
            .sleeper
            .arm(mode, wanted.interest(), || came(session, *gone, taken_in, wanted).any());
        match arming {
            Arming::Armed => trace::bytes_armed(self.number),
            Arming::Busy => {
                self.session.counts.arms_called_off += 1;
                self.hint(false);
            }
        }
        arming
    }

    /// Another thread sleeps already: has it woken for all of those who wait. `Busy` if something
    /// came for `direction`.
    pub(in crate::bytes) fn arm_for_more(
        &mut self,
        wanted: Wanted,
        direction: Direction,
    ) -> Arming {
        self.session.flush();
        self.publish_empty();
        let taken_in = self.taken_in();
        let Self { side: Some(side), session, gone, .. } = self else { return Arming::Busy };
        side.sleeper.arm_for_more(wanted.interest(), || {
            came(session, *gone, taken_in, Wanted::one(direction)).any()
        })
    }

    /// A sleep on the bell has ended, by the clock if `out`: awake again.
    pub(in crate::bytes) fn wake_up(&mut self, ticket: Ticket, wanted: Wanted, out: bool) {
        // Still armed: whoever published something rings, now or in a moment.
        let late = out && came(&mut self.session, false, TakenIn::Nothing, wanted).any();
        let Some(side) = &mut self.side else { return };
        let rescue = late.then(|| side.sleeper.bell().rescue(ticket));
        side.sleeper.disarm();
        side.hint(false);
        if let Some(rescue) = rescue {
            side.count_rescue(rescue, ticket, now_ns(), &mut self.session.counts);
        }
        if out {
            self.check_peer();
        }
    }

    /// As [`Client::arm`](crate::Client::arm), for those who wait. Over a socket what the kernel
    /// said of it must be known ([`Self::ready`]).
    pub(crate) fn arm(&mut self, wanted: Wanted) -> Arming {
        if !self.origin.is_here() || self.over.is_some() {
            return Arming::Busy;
        }
        let arming = if let Some(side) = &self.side {
            if side.sleeper.is_armed_for_event() || side.sleeper.must_read() {
                self.disarm();
            }
            self.gone |= self.porter_found_it_dead();
            self.arm_bell(wanted, Mode::Event)
        } else if self.came(wanted).any() {
            Arming::Busy
        } else {
            Arming::Armed
        };
        self.session.counts.parks += u64::from(arming == Arming::Armed);
        arming
    }

    /// Whether an event loop has armed this side, and sleeps or is about to.
    pub(in crate::bytes) fn is_armed_for_event(&self) -> bool {
        self.side.as_ref().is_some_and(|side| side.sleeper.is_armed_for_event())
    }

    /// The descriptor was reported.
    pub(crate) fn disarm(&mut self) {
        if !self.origin.is_here() {
            return;
        }
        let Some(side) = &mut self.side else {
            return self.session.ready(Readiness::UNKNOWN);
        };
        side.sleeper.disarm_to_read();
        side.hint(false);
        self.check_peer();
    }
}
