//! How much of the porter's time the handshakes of each user take: a user who connects again and
//! again takes its own time, not that of others.
//!
//! Where one user is served nothing is held back. Where several are, a user has [`BURST`] at once,
//! and the [`PART`]th part of all time from then on. A handshake of a user who has used that up is
//! not begun before it is due, and counts among those of its user.
//!
//! What a handshake takes is estimated: measured, a busy machine would count against the user.

use crate::base::shares::Sharing;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// What one handshake takes.
const HANDSHAKE: Duration = Duration::from_micros(100);
/// So many bytes of rings are looked through in a microsecond.
const BYTES_PER_US: u64 = 128 << 10;
/// What a user gets without a wait, if it was idle: some 500 handshakes.
const BURST: Duration = Duration::from_millis(50);
/// From then on a user gets this part of the time: some 100 handshakes a second.
const PART: u32 = 100;
/// So many users are remembered before those are looked for that may be forgotten.
const REMEMBERED: usize = 64;

/// What a user used: so much at that time, and less with each second.
#[derive(Debug, Clone, Copy)]
struct Used {
    time: Duration,
    at: Instant,
}

impl Used {
    fn now(self, now: Instant) -> Duration {
        self.time.saturating_sub(now.saturating_duration_since(self.at) / PART)
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

    /// Charges a user for one more handshake; when that is due, if not at once.
    pub(super) fn begin(&mut self, uid: u32, now: Instant) -> Option<Instant> {
        let over = self.charge(uid, HANDSHAKE, now)?.checked_sub(BURST)?;
        (!over.is_zero()).then(|| now + over * PART)
    }

    /// Charges a user for rings of so many bytes: its next handshake waits the longer.
    pub(super) fn charge_bytes(&mut self, uid: u32, bytes: u64, now: Instant) {
        self.charge(uid, Duration::from_micros(bytes / BYTES_PER_US), now);
    }

    /// What the user has used then, if that is counted.
    fn charge(&mut self, uid: u32, time: Duration, now: Instant) -> Option<Duration> {
        if self.alone {
            return None;
        }
        let time = self.users.get(&uid).map_or(Duration::ZERO, |used| used.now(now)) + time;
        self.users.insert(uid, Used { time, at: now });
        if self.users.len() >= self.forget_at {
            self.users.retain(|_, used| !used.now(now).is_zero());
            self.forget_at = REMEMBERED.max(2 * self.users.len());
        }
        Some(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_connects_again_and_again_waits_and_others_do_not() {
        let mut pace = Pace::new(&Sharing::Strangers);
        let began = Instant::now();
        let (mut now, mut handshakes) = (began, 0);
        while now < began + Duration::from_secs(4) {
            if let Some(due) = pace.begin(1, now) {
                assert!(due > now, "it would be looked at for ever");
                assert_eq!(pace.begin(2 + handshakes, now), None, "another user");
                now = due;
            }
            handshakes += 1;
        }
        assert!((899..=901).contains(&handshakes), "{handshakes}");
        // Several at once are due one after the other.
        let due = [(); 3].map(|()| pace.begin(1, now).expect("later"));
        assert_eq!([due[1] - due[0], due[2] - due[1]], [HANDSHAKE * PART; 2]);
        let idle = due[2] + PART * BURST;
        assert_eq!(pace.begin(1, idle), None, "it was idle for long enough");
        pace.charge_bytes(1, 64 << 30, idle);
        assert!(pace.begin(1, idle).is_some_and(|due| due > idle + Duration::from_secs(40)));
    }

    #[test]
    fn users_who_did_nothing_for_long_are_forgotten() {
        let mut pace = Pace::new(&Sharing::Strangers);
        let now = Instant::now();
        for uid in 0..10_000 {
            let at = now + Duration::from_millis(u64::from(uid));
            assert_eq!(pace.begin(uid, at), None);
        }
        assert!(pace.users.len() <= 2 * REMEMBERED, "{}", pace.users.len());
    }

    #[test]
    fn one_user_alone_is_never_held_up() {
        let mut pace = Pace::new(&Sharing::One);
        let now = Instant::now();
        for _ in 0..10_000 {
            assert_eq!(pace.begin(1, now), None);
            pace.charge_bytes(1, 1 << 30, now);
        }
    }
}
