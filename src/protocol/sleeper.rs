//! One side of a session that sleeps on one bell: it arms, looks again, and sleeps or calls the
//! sleep off.
//!
//! ```text
//! arm(mode, interest, look)     ticket = seq; armed = (mode, interest, ticket); fence SLEEP
//!                               look() at every source; seq != ticket: rung already
//!   Busy                        armed = 0: the sleep is called off
//!   Armed                       sleep: on `seq` (futex), or on the descriptor of wake bytes (event)
//! disarm                        armed = 0
//! ```
//!
//! The argument that no wake is lost is that of `bell.rs`. Two things stand here beside it.
//!
//! # A second thread of this side
//!
//! Two threads may wait on one bell, one for data and one for room. The second one does not sleep
//! on the bell: it adds its interest to what is armed ([`SideSleeper::arm_for_more`]), looks again,
//! and waits for the first one. It arms with the **ticket of the sleep that goes on**. A ringer
//! that has advanced `seq` and not woken yet compares tickets behind its second fence: with a newer
//! one it would take the arm for a later sleep, which has seen its ring, and not wake.
//!
//! # Wake bytes
//!
//! In event mode a ringer wakes by one byte on a descriptor. If arming is called off, or the loop
//! wakes for something else, that byte may stay unread, or come later. A descriptor that is full
//! drops a wake, and makes no edge. So a side reads it empty now and then: whoever sends a byte has
//! advanced `seq` before, by one for each byte, so at most `seq - seq at the last read` bytes are
//! unread, and one more for a ringer that was about to send then ([`SideSleeper::must_read`]).

use crate::memory::layout::{Interest, Mode};
use crate::protocol::bell::{Arming, Sleeper, Ticket, before_looking_again};

/// Unread wake bytes from which on the descriptor is read before the next sleep. A socket holds
/// some hundred.
#[cfg(not(ringbell_loom))]
pub const UNREAD_MOST: u32 = 16;
/// The same for models, which send few.
#[cfg(ringbell_loom)]
pub const UNREAD_MOST: u32 = 2;

/// The sleeping end of one side.
#[derive(Debug)]
pub struct SideSleeper {
    bell: Sleeper,
    /// The sleep that was not called off, until this side disarms.
    asleep: Option<(Mode, Ticket)>,
    /// `seq` when the descriptor was read last.
    read_at: u32,
}

impl SideSleeper {
    /// A side that is awake.
    pub fn new(bell: Sleeper) -> Self {
        let read_at = bell.seq().load();
        Self { bell, asleep: None, read_at }
    }

    /// Declares that this side is about to sleep. `look` looks at every source, behind the fence.
    ///
    /// `Armed`: whatever comes from now on is rung for, in this mode. `Busy`: something came, or
    /// the bell was rung; the side is awake.
    #[inline]
    pub fn arm(&mut self, mode: Mode, interest: Interest, look: impl FnOnce() -> bool) -> Arming {
        let ticket = self.bell.arm(mode, interest);
        before_looking_again();
        if look() || self.bell.rung(ticket) {
            self.disarm();
            return Arming::Busy;
        }
        self.asleep = Some((mode, ticket));
        Arming::Armed
    }

    /// Another thread of this side sleeps: has it woken for `interest`, too. `Busy`: `look` found
    /// something for the calling thread, or no thread sleeps. The side stays armed in any case.
    pub fn arm_for_more(&mut self, interest: Interest, look: impl FnOnce() -> bool) -> Arming {
        let Some((mode, ticket)) = self.asleep else { return Arming::Busy };
        self.bell.arm_for_more(ticket, mode, interest);
        before_looking_again();
        if look() { Arming::Busy } else { Arming::Armed }
    }

    /// Awake again.
    #[inline]
    pub fn disarm(&mut self) {
        self.bell.disarm();
        self.asleep = None;
    }

    /// Awake again, and about to read all that is in the descriptor.
    pub fn disarm_to_read(&mut self) {
        self.read_at = self.bell.seq().load();
        self.disarm();
    }

    /// The ticket with which this side is armed, if it is.
    #[inline]
    pub fn ticket(&self) -> Option<Ticket> {
        self.asleep.map(|(_, ticket)| ticket)
    }

    /// Whether this side is armed in event mode.
    pub fn is_armed_for_event(&self) -> bool {
        matches!(self.asleep, Some((Mode::Event, _)))
    }

    /// Whether the descriptor is to be read before this side arms in event mode again.
    pub fn must_read(&self) -> bool {
        self.bell.seq().load().wrapping_sub(self.read_at) >= UNREAD_MOST
    }

    /// The end of the bell itself: its word to wait on, and the rescue.
    #[inline]
    pub fn bell(&self) -> &Sleeper {
        &self.bell
    }
}
