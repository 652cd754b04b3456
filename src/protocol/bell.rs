//! The doorbell. Whoever sleeps is woken once; whoever is awake is not disturbed.
//!
//! Two words: `armed`, which the sleeper writes, and `seq`, which ringers advance and the sleeper
//! waits on.
//!
//! ```text
//! sleeper                                    ringer
//! -------                                    ------
//! ticket = seq                               publish (record, head, completion)
//! armed = (mode, interest, ticket)           fence(SeqCst)                         SLEEP
//! fence(SeqCst)                     SLEEP    a = armed; 0 or not interested: done
//! look at every source again                 compare-exchange seq: a.ticket -> a.ticket + 1; lost: done
//! seq != ticket: rung already                fence(SeqCst)                         MODE
//! wait while seq == ticket                   a = armed again; 0: done
//! armed = 0                                  a newer ticket: done
//!                                            wake, in a's mode
//! ```
//!
//! # Why no wake is lost
//!
//! Both fences named SLEEP are `SeqCst`, so one comes first.
//!
//! - If the sleeper's does, the ringer sees `armed`. Its compare-exchange changes the word that the
//!   sleeper waits on, so the wait returns at once, or the wake call ends it.
//! - If the ringer's does, the sleeper's second look sees what was published, and it does not
//!   sleep.
//!
//! A compare-exchange that fails means that `seq` has left the ticket: some other ringer won and
//! wakes, or `armed` was stale, which is the second case.
//!
//! Between the compare-exchange and the wake the sleeper may have called off and armed again, in
//! the other mode, with the old ticket (its load of `seq` may be stale). The fence MODE pairs with
//! the sleeper's SLEEP: if the sleeper's comes first, the ringer sees the new mode and wakes in it;
//! if the ringer's does, the sleeper sees `seq != ticket` and does not sleep.
//!
//! # Why there is at most one wake per arm
//!
//! A wake needs a successful compare-exchange from the ticket of an arm, and `seq` never returns to
//! it (before 2^32 rings). A sleeper that is not armed has no ticket to be found.
//!
//! A ringer that is stopped between compare-exchange and wake delays a futex sleeper that was
//! already asleep, until the sleeper's own backstop; a sleeper that arrives later sees
//! `seq != ticket`.
//!
//! # Why a wake wakes one
//!
//! At most one thread waits on a word, so a futex wake asks the kernel for one:
//!
//! - A blocking client waits in a method that takes `&mut`, and its rescue on the same thread.
//! - Of the threads of a byte stream one waits on the bell. The others wait for that thread, in
//!   their own process (see `sleeper.rs`).
//! - `AsyncClient` and clients in event loops sleep in event mode: no thread waits on the word.
//! - The private bell and the bells of domains belong to one reactor, which waits on its thread
//!   only. A server in somebody's loop sleeps in event mode.
//! - A forked child does not use what it inherits, and a thread that was killed waits no longer.
//!
//! A wake that comes late, after its sleep has ended, may end the next sleep of the same thread. It
//! takes nothing from anybody: the ring that belongs to the next sleep has a wake of its own.
//!
//! Whoever else maps the word can wait on it, too, and take the wake: a client of its own response
//! segment delays itself only, and one that shares a bell page delays its own domain, until the
//! backstop. To wake all would let it delay the ringer, which serves everybody.
//!
//! Fences rather than `SeqCst` accesses, because pages mapped read-only allow relaxed loads only,
//! and because loom models nothing but the fence. The accesses themselves are relaxed: the models
//! in `loom-tests` need no more.

use crate::base::sync::{Ordering, fence};
use crate::memory::layout::{Armed, Interest, Mode};
use crate::memory::{BellWord, OwnWord, PeerWord};

/// How long a ringer that has published may take to ring before its ring counts as lost.
#[cfg(not(ringbell_loom))]
pub(crate) const GRACE_NS: u64 = 10_000_000;

/// What came of declaring that a side is about to sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a side that is `Busy` must not sleep: what came is not reported"]
pub enum Arming {
    /// Armed: whatever comes from now on is reported. The side may sleep.
    Armed,
    /// Not armed: something came, and is to be taken in first.
    Busy,
}

/// The sleeper's end of a bell.
#[derive(Debug)]
pub struct Sleeper {
    armed: OwnWord,
    seq: BellWord,
}

/// What a sleeper saw when it armed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(pub u32);

impl Sleeper {
    /// A sleeper that is awake.
    pub fn new(armed: OwnWord, seq: BellWord) -> Self {
        Self { armed, seq }
    }

    /// Declares that this side is about to sleep. Then the caller calls [`before_looking_again`],
    /// looks at every source, and sleeps only if nothing is there and [`Self::rung`] is false. In
    /// between several bells may be armed: one fence serves all.
    pub fn arm(&self, mode: Mode, interest: Interest) -> Ticket {
        let ticket = self.seq.load();
        // Relaxed: the fence behind orders it.
        self.armed.store(Armed::new(mode, interest, ticket).0, Ordering::Relaxed);
        Ticket(ticket)
    }

    /// Arms anew with the ticket of a sleep that goes on: another thread of this side waits, too.
    /// With a newer ticket a ringer that has won, and not woken yet, would take it for a later
    /// sleep. Then as after [`Self::arm`].
    pub fn arm_for_more(&self, ticket: Ticket, mode: Mode, interest: Interest) {
        // Relaxed: the fence behind orders it.
        self.armed.store(Armed::new(mode, interest, ticket.0).0, Ordering::Relaxed);
    }

    /// Whether the bell was rung since it was armed.
    #[inline]
    pub fn rung(&self, ticket: Ticket) -> bool {
        self.seq.load() != ticket.0
    }

    /// The backstop ended a sleep, this side is still armed, and something was published: tells a
    /// lost wake from a ringer that was between publishing and waking. Waits a little for the
    /// latter.
    #[cfg(not(ringbell_loom))]
    pub(crate) fn rescue(&self, ticket: Ticket) -> Rescue {
        let until = crate::base::clock::now_ns() + GRACE_NS;
        while !self.rung(ticket) {
            if crate::base::clock::now_ns() >= until {
                return Rescue::LostWake;
            }
            // Where it is refused this loop still ends at `until`.
            let _ = self.seq.wait(ticket.0, Some(crate::base::clock::timespec(until)));
        }
        Rescue::LateRing
    }

    /// Awake again, or not going to sleep after all.
    pub fn disarm(&self) {
        // Relaxed: a ringer that still sees it armed makes a needless wake, nothing else.
        self.armed.store(Armed::AWAKE.0, Ordering::Relaxed);
    }

    /// The word to wait on.
    #[inline]
    pub fn seq(&self) -> &BellWord {
        &self.seq
    }
}

/// What a sleep that the backstop ended turned out to be.
#[cfg(not(ringbell_loom))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rescue {
    /// The bell was rung, but the wake came late: the ringer was preempted, stopped or killed.
    LateRing,
    /// Nobody rang for what was published. Never happens, by the argument above.
    LostWake,
}

/// The fence between arming and looking again.
#[inline]
pub fn before_looking_again() {
    // SLEEP: pairs with the first fence in `Ringer::ring`.
    fence(Ordering::SeqCst);
}

/// The ringer's end of a bell. Several ringers may share one bell.
#[derive(Debug)]
pub struct Ringer {
    armed: PeerWord,
    seq: BellWord,
}

impl Ringer {
    /// A ringer for the sleeper that writes `armed` and waits on `seq`.
    pub fn new(armed: PeerWord, seq: BellWord) -> Self {
        Self { armed, seq }
    }

    /// Rings after something was published. If it returns a mode, the caller owes exactly one wake
    /// in that mode ([`Self::seq`] for a futex sleeper).
    #[inline]
    #[must_use = "the sleeper must be woken"]
    pub fn ring(&self, what: Interest) -> Option<Mode> {
        // SLEEP: pairs with the fence in `before_looking_again`.
        fence(Ordering::SeqCst);
        let armed = Armed(self.armed.load());
        if armed == Armed::AWAKE {
            return None;
        }
        self.ring_armed(armed, what)
    }

    #[cold]
    fn ring_armed(&self, armed: Armed, what: Interest) -> Option<Mode> {
        armed.mode()?;
        if !armed.interest().meets(what) || !self.seq.advance(armed.ticket()) {
            return None;
        }
        // MODE: pairs with the fence in `before_looking_again`.
        fence(Ordering::SeqCst);
        let again = Armed(self.armed.load());
        // A newer ticket belongs to a later sleep, which has seen this ring.
        if again.ticket() == armed.ticket() { again.mode() } else { None }
    }

    /// Whether the sleeper seems to sleep. A hint: without a fence the answer may be old.
    #[inline]
    pub fn looks_armed(&self) -> bool {
        self.armed.load() != 0
    }

    /// The word to wake on.
    pub fn seq(&self) -> &BellWord {
        &self.seq
    }
}
