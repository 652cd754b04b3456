//! How fast memory is made for each user: what a user asks for again and again takes its own time,
//! not that of others.
//!
//! Where one user is served nothing is held back. Where several are, a user has [`BURST`] bytes at
//! once and [`RATE`] bytes a second from then on, and a pause after each slice; a client that
//! wants more waits in its handshake, which counts among those of its user.
//!
//! A client is charged once, before its memory is begun, for all of it. So a wait costs its user
//! nothing, and who has been let in waits no more: a client may be larger than what is left, and
//! those who come after it wait the longer.

use crate::base::shares::Sharing;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// What a user gets without a wait, if it was idle: as much as one client may have by default.
const BURST: u64 = 64 << 20;
/// What it gets each second from then on: less than a hundredth of a CPU's time.
const RATE: u64 = 16 << 20;
/// A slice of a user is followed by a pause of so many times its length.
const PAUSE: u32 = 4;
/// So many users are remembered before those are looked for that may be forgotten.
const REMEMBERED: usize = 64;

/// What a user used: this many bytes at that time, and [`RATE`] fewer with each second.
#[derive(Debug, Clone, Copy)]
struct Used {
    bytes: u64,
    at: Instant,
}

fn bytes_in(span: Duration) -> u64 {
    u64::try_from(span.as_nanos() * u128::from(RATE) / 1_000_000_000).unwrap_or(u64::MAX)
}

impl Used {
    fn now(self, now: Instant) -> u64 {
        self.bytes.saturating_sub(bytes_in(now.saturating_duration_since(self.at)))
    }
}

#[derive(Debug)]
pub(super) struct Pace {
    /// Whether one user cannot hold up others.
    alone: bool,
    users: HashMap<u32, Used>,
    forget_at: usize,
}

impl Pace {
    pub(super) fn new(sharing: &Sharing) -> Self {
        Self { alone: *sharing == Sharing::One, users: HashMap::new(), forget_at: REMEMBERED }
    }

    /// Charges a user for `bytes` that are made for it now; or says when to ask again.
    pub(super) fn charge(&mut self, uid: u32, bytes: u64, now: Instant) -> Result<(), Instant> {
        if self.alone {
            return Ok(());
        }
        let used = self.users.get(&uid).map_or(0, |used| used.now(now));
        if let Some(over @ 1..) = used.checked_sub(BURST) {
            return Err(now + Duration::from_nanos(over * 1_000_000_000 / RATE + 1));
        }
        self.users.insert(uid, Used { bytes: used + bytes, at: now });
        if self.users.len() >= self.forget_at {
            self.users.retain(|_, used| used.now(now) > 0);
            self.forget_at = REMEMBERED.max(2 * self.users.len());
        }
        Ok(())
    }

    /// When the next slice of the same handshake is due, if one took from `began` to `now`.
    pub(super) fn next(&self, began: Instant, now: Instant) -> Instant {
        if self.alone { now } else { now + PAUSE * now.saturating_duration_since(began) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_again_and_again_waits_and_others_do_not() {
        let mut pace = Pace::new(&Sharing::Strangers);
        let mut now = Instant::now();
        let began = now;
        let (slice, mut made) = (256 << 10, 0);
        while now < began + Duration::from_secs(4) {
            match pace.charge(1, slice, now) {
                Ok(()) => made += slice,
                Err(due) => {
                    assert!(due > now, "it would be asked for ever");
                    assert!(pace.charge(2, 1 << 10, now).is_ok(), "another user");
                    now = due;
                }
            }
        }
        assert!((BURST + 4 * RATE..=BURST + 4 * RATE + 2 * slice).contains(&made), "{made}");
        let later = now + Duration::from_secs(5);
        assert!(pace.charge(1, BURST, later).is_ok(), "it was idle for long enough");
        assert!(pace.charge(1, BURST, later).is_ok(), "used up, not exceeded");
        assert!(pace.charge(1, 1, later).is_err());
    }

    #[test]
    fn users_who_did_nothing_for_long_are_forgotten() {
        let mut pace = Pace::new(&Sharing::Strangers);
        let now = Instant::now();
        for uid in 0..10_000 {
            let at = now + Duration::from_millis(u64::from(uid));
            assert!(pace.charge(uid, 1 << 20, at).is_ok());
        }
        assert!(pace.users.len() <= 2 * REMEMBERED, "{}", pace.users.len());
    }

    #[test]
    fn one_user_alone_is_never_held_up() {
        let mut pace = Pace::new(&Sharing::One);
        let now = Instant::now();
        for _ in 0..1000 {
            assert!(pace.charge(1, BURST, now).is_ok());
        }
        assert_eq!(pace.next(now, now + Duration::from_secs(1)), now + Duration::from_secs(1));
    }
}
