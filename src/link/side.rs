//! One side of a session over rings: how it sleeps, where it runs, and how it knows that its peer
//! lives.
//!
//! The blocking client and both ends of a byte stream are such a side. A reactor sleeps on many
//! bells (`bells.rs`), and uses the hints and the lifeline alone.

use crate::base::sync::Ordering;
use crate::link::lifeline::Hearing;
use crate::link::stats::SessionCounters;
use crate::memory::layout::{Hints, offset};
use crate::memory::{OwnWord, PeerWord, Window};
use crate::os::peer_socket::PeerSocket;
use crate::protocol::bell::{Rescue, Sleeper, Ticket};
use crate::protocol::sleeper::SideSleeper;
use crate::protocol::wait::Surroundings;
use rustix::fd::OwnedFd;
use std::sync::Arc;

/// The word in which this side says where it runs, and whether it sleeps. Advice: no side trusts
/// it.
#[derive(Debug)]
pub(crate) struct OwnHints {
    word: OwnWord,
    cpu: Option<u32>,
}

impl OwnHints {
    /// The hints in this side's own page.
    pub(crate) fn new(page: &Window) -> Self {
        Self { word: page.own_word(offset::HINTS), cpu: None }
    }

    /// Says on which CPU this thread runs; `off`: that it is parked, or about to.
    #[allow(clippy::cast_possible_truncation, reason = "CPU numbers are small")]
    pub(crate) fn tell(&mut self, off: bool) {
        self.cpu = Some(rustix::thread::sched_getcpu() as u32);
        // Relaxed: advice.
        self.word.store(Hints::new(self.cpu, off).0, Ordering::Relaxed);
    }

    /// The CPU that was told last.
    #[inline]
    pub(crate) fn cpu(&self) -> Option<u32> {
        self.cpu
    }

    fn is_off(&self) -> bool {
        Hints(self.word.get()).off()
    }
}

/// The same word of the peer.
#[derive(Debug)]
pub(crate) struct PeerHints(PeerWord);

impl PeerHints {
    /// The hints in the peer's page.
    pub(crate) fn new(page: &Window) -> Self {
        Self(page.peer_word(offset::HINTS))
    }

    /// The CPU that the peer named.
    #[inline]
    pub(crate) fn cpu(&self) -> Option<u32> {
        Hints(self.0.load()).cpu()
    }

    /// Whether the peer runs on this side's CPU, and so cannot while this side spins.
    #[inline]
    pub(crate) fn shares_cpu_with(&self, own: &OwnHints) -> bool {
        let cpu = self.cpu();
        cpu.is_some() && cpu == own.cpu
    }
}

/// A peer that has not rung, and is alive so long after, was not about to die.
const DYING_NS: u64 = 1_000_000_000;

/// One side of a session over rings.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) sleeper: SideSleeper,
    hints: OwnHints,
    peer_hints: PeerHints,
    /// The peer's pidfd, where this side watches it.
    pub(crate) process: Option<Arc<OwnedFd>>,
    /// The ticket of a sleep that looks like a lost wake, and when it ended.
    lost: Option<(Ticket, u64)>,
}

impl Side {
    pub(crate) fn new(
        bell: Sleeper,
        hints: OwnHints,
        peer_hints: PeerHints,
        process: Option<OwnedFd>,
    ) -> Self {
        Self {
            sleeper: SideSleeper::new(bell),
            hints,
            peer_hints,
            process: process.map(Arc::new),
            lost: None,
        }
    }

    /// Says where this side runs; `off`: that it is about to sleep.
    pub(crate) fn hint(&mut self, off: bool) {
        self.hints.tell(off);
    }

    /// Whether it said that it sleeps.
    pub(crate) fn is_off(&self) -> bool {
        self.hints.is_off()
    }

    /// What the waiting policy needs to know.
    #[inline]
    pub(crate) fn surroundings(&self) -> Surroundings {
        Surroundings {
            peer_cannot_run: self.peer_hints.shares_cpu_with(&self.hints),
            crowded: false,
        }
    }

    /// What the peer has said, and whether it is still there.
    pub(crate) fn hear<'a>(&'a self, lifeline: &'a PeerSocket) -> Hearing<'a> {
        Hearing::of_peer(lifeline, self.process.as_deref())
    }

    /// Counts what the sleep with `ticket`, which the backstop ended at `now`, turned out to be.
    ///
    /// A lost wake is not counted at once: a ring that died with its ringer was not lost, since
    /// nobody lived to make it, and dying takes time.
    pub(crate) fn count_rescue(
        &mut self,
        rescue: Rescue,
        ticket: Ticket,
        now: u64,
        counts: &mut SessionCounters,
    ) {
        match rescue {
            Rescue::LateRing => counts.late_rings += 1,
            Rescue::LostWake => {
                // Something was published since the one before: the peer had lived on.
                counts.backstop_rescues += u64::from(self.lost.replace((ticket, now)).is_some());
            }
        }
    }

    /// The peer is found alive at `now`. It has lived on if it rang since, or is alive for long.
    pub(crate) fn peer_lives(&mut self, now: u64, counts: &mut SessionCounters) {
        if let Some((ticket, at)) = self.lost
            && (self.sleeper.bell().rung(ticket) || now.saturating_sub(at) >= DYING_NS)
        {
            self.lost = None;
            counts.backstop_rescues += 1;
        }
    }

    /// The peer is found gone.
    pub(crate) fn peer_is_gone(&mut self, counts: &mut SessionCounters) {
        if let Some((ticket, _)) = self.lost.take() {
            // A peer that rang since had lived on.
            let lived = self.sleeper.bell().rung(ticket);
            counts.backstop_rescues += u64::from(lived);
            counts.late_rings += u64::from(!lived);
        }
    }

    /// This side leaves, and has not found the peer gone.
    pub(crate) fn leave(&mut self, counts: &mut SessionCounters) {
        counts.backstop_rescues += u64::from(self.lost.take().is_some());
    }
}
