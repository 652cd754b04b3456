//! How users share something of which there is a fixed total: places for clients, half-open
//! handshakes, bytes.
//!
//! # The rule
//!
//! *Free* to a user is what the others do not hold, less what is reserved for others. Where several
//! users are served, a user may hold at most half of what is free to it, rounded up: see [`most`].
//! So a stranger who takes all that it can leaves half to those who come after it.
//!
//! Halves become small. If the users are known beforehand, each of them therefore has a **floor**,
//! which is reserved for it while it holds less: of `n` users the `2 n`-th part of the total each,
//! so that the other half of the total is shared by the rule above. The floors and what is held
//! above them never exceed the total, whoever takes how much in which order. Hence a listed user
//! always gets its floor.
//!
//! A server that serves one user has nothing to share out: that user may hold everything.

use std::collections::{HashMap, HashSet};

/// Among whom something is shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// One user, who may hold everything; or several who are not kept apart.
    One,
    /// Any number of users, who are not known beforehand.
    Strangers,
    /// These users.
    Listed(HashSet<u32>),
}

impl Sharing {
    /// Among these users.
    pub(crate) fn among(uids: HashSet<u32>) -> Self {
        if uids.len() == 1 { Self::One } else { Self::Listed(uids) }
    }

    /// What is reserved of `total` for each user that is listed.
    pub(crate) fn floor(&self, total: u64) -> u64 {
        match self {
            Self::One | Self::Strangers => 0,
            Self::Listed(uids) => match uids.len() as u64 {
                0 => 0,
                users if users > total => 0,
                users => (total / (2 * users)).max(1),
            },
        }
    }

    /// How many users are listed.
    pub(crate) fn listed(&self) -> u64 {
        match self {
            Self::Listed(uids) => uids.len() as u64,
            Self::One | Self::Strangers => 0,
        }
    }

    pub(crate) fn lists(&self, uid: u32) -> bool {
        matches!(self, Self::Listed(uids) if uids.contains(&uid))
    }
}

/// The most that a user may hold, of a total of which `others` is held by or reserved for others.
/// `floor` is what is reserved for this user.
pub(crate) fn most(total: u64, others: u64, floor: u64) -> u64 {
    let free = total.saturating_sub(others);
    free.div_ceil(2).max(floor).min(free)
}

/// Why a user gets no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// All is taken.
    Total,
    /// The user holds its share, which is this much at present.
    OfUid { limit: u64 },
}

/// Who holds how much. Each step takes constant time.
#[derive(Debug)]
pub(crate) struct Shares {
    total: u64,
    /// What a user may hold at most, whatever is free.
    per_uid: u64,
    sharing: Sharing,
    floor: u64,
    held: HashMap<u32, u64>,
    held_by_all: u64,
    /// The sum over all users of what is held or, if that is more, reserved.
    committed: u64,
}

impl Shares {
    pub(crate) fn new(total: u64, per_uid: u64, sharing: Sharing) -> Self {
        let floor = sharing.floor(total);
        let listed = sharing.listed();
        Self {
            total,
            per_uid,
            sharing,
            floor,
            held: HashMap::new(),
            held_by_all: 0,
            // No overflow: floors are parts of the total.
            committed: listed * floor,
        }
    }

    /// What there is.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// What all users hold together.
    #[cfg(test)]
    fn held_by_all(&self) -> u64 {
        self.held_by_all
    }

    /// Whether anything is left of the total.
    pub(crate) fn has_room(&self) -> bool {
        self.held_by_all < self.total
    }

    fn held(&self, uid: u32) -> u64 {
        self.held.get(&uid).copied().unwrap_or(0)
    }

    fn floor_of(&self, uid: u32) -> u64 {
        if self.sharing.lists(uid) { self.floor } else { 0 }
    }

    /// The most that this user may hold at present.
    pub(crate) fn most_of(&self, uid: u32) -> u64 {
        let floor = self.floor_of(uid);
        let others = self.committed - self.held(uid).max(floor);
        let share = match self.sharing {
            Sharing::One => self.total.saturating_sub(others),
            _ => most(self.total, others, floor),
        };
        share.min(self.per_uid)
    }

    /// Whether a user may hold `amount` more.
    pub(crate) fn check(&self, uid: u32, amount: u64) -> Result<(), Refused> {
        if self.held_by_all.saturating_add(amount) > self.total {
            return Err(Refused::Total);
        }
        let limit = self.most_of(uid);
        if self.held(uid).saturating_add(amount) > limit {
            return Err(Refused::OfUid { limit });
        }
        Ok(())
    }

    /// A user takes `amount`, if it may.
    #[cfg(test)]
    fn take(&mut self, uid: u32, amount: u64) -> Result<(), Refused> {
        self.check(uid, amount)?;
        self.count(uid, amount);
        Ok(())
    }

    /// A user has taken `amount`, whether it may or not.
    pub(crate) fn count(&mut self, uid: u32, amount: u64) {
        self.set(uid, self.held(uid).saturating_add(amount));
    }

    /// A user gives back `amount` of what it took.
    pub(crate) fn give_back(&mut self, uid: u32, amount: u64) {
        let held = self.held(uid);
        debug_assert!(amount <= held, "nobody gives back more than it took");
        self.set(uid, held.saturating_sub(amount));
    }

    fn set(&mut self, uid: u32, now: u64) {
        let (before, floor) = (self.held(uid), self.floor_of(uid));
        self.held_by_all = (self.held_by_all - before).saturating_add(now);
        self.committed = (self.committed - before.max(floor)).saturating_add(now.max(floor));
        // Users who hold nothing are forgotten: there may be any number of strangers.
        if now == 0 {
            self.held.remove(&uid);
        } else {
            self.held.insert(uid, now);
        }
    }
}

#[cfg(all(test, not(ringbell_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NO_CAP: u64 = u64::MAX;

    fn listed(users: u32) -> Sharing {
        Sharing::Listed((0..users).collect())
    }

    /// Takes ones until it gets no more; how many it holds then.
    fn take_all(shares: &mut Shares, uid: u32) -> u64 {
        while shares.take(uid, 1).is_ok() {}
        shares.held(uid)
    }

    #[test]
    fn one_user_may_hold_everything() {
        let mut shares = Shares::new(10, NO_CAP, Sharing::One);
        assert_eq!(take_all(&mut shares, 0), 10);
        assert_eq!(shares.take(0, 1), Err(Refused::Total));
    }

    #[test]
    fn strangers_get_half_of_what_is_free() {
        let mut shares = Shares::new(16, NO_CAP, Sharing::Strangers);
        let each: Vec<u64> = (0..6).map(|uid| take_all(&mut shares, uid)).collect();
        assert_eq!(each, [8, 4, 2, 1, 1, 0]);
        assert_eq!(shares.take(9, 1), Err(Refused::Total));
        shares.give_back(0, 8);
        assert_eq!(take_all(&mut shares, 9), 4, "half of eight");
        assert_eq!(shares.take(9, 1), Err(Refused::OfUid { limit: 4 }));
    }

    #[test]
    fn a_limit_of_each_user_counts_as_well() {
        let mut shares = Shares::new(16, 3, Sharing::One);
        assert_eq!(take_all(&mut shares, 7), 3);
        assert_eq!(shares.take(7, 1), Err(Refused::OfUid { limit: 3 }));
        assert!(shares.take(8, 3).is_ok());
    }

    #[test]
    fn the_last_listed_user_gets_its_floor() {
        let mut shares = Shares::new(16, NO_CAP, listed(3));
        let each: Vec<u64> = (0..3).map(|uid| take_all(&mut shares, uid)).collect();
        assert!(each[2] >= 2, "{each:?}");
        assert_eq!(most(16, 14, 2), 2);
    }

    #[test]
    fn more_users_than_places_have_no_floors() {
        let mut shares = Shares::new(2, NO_CAP, listed(5));
        assert_eq!(take_all(&mut shares, 0), 1);
        assert_eq!(take_all(&mut shares, 4), 1);
    }

    proptest! {
        #[test]
        fn whoever_comes_last_gets_its_floor(
            total in 1..200u64,
            users in 2..12u32,
            steps in proptest::collection::vec((0..12u32, 1..40u64, any::<bool>()), 0..200),
            last in 0..12u32,
        ) {
            let last = last % users;
            let mut shares = Shares::new(total, NO_CAP, listed(users));
            let floor = shares.floor;
            for (uid, amount, takes) in steps {
                // All but the last do what they like. Some of them are not listed.
                if uid == last {
                    continue;
                }
                if takes {
                    let others = shares.held_by_all() - shares.held(uid);
                    if shares.take(uid, amount).is_ok() {
                        let half = (total - others).div_ceil(2);
                        let most = half.max(shares.floor_of(uid));
                        prop_assert!(shares.held(uid) <= most, "more than half of what is free");
                    }
                } else {
                    let held = shares.held(uid);
                    shares.give_back(uid, amount.min(held));
                }
                prop_assert!(shares.held_by_all() <= shares.committed);
                prop_assert!(shares.committed <= total);
                prop_assert_eq!(shares.held.values().sum::<u64>(), shares.held_by_all());
            }
            prop_assert!(u64::from(users) > total || floor > 0);
            prop_assert!(take_all(&mut shares, last) >= floor);
        }

        #[test]
        fn no_stranger_holds_more_than_half_of_what_is_free(
            total in 1..200u64,
            steps in proptest::collection::vec((0..12u32, 1..40u64), 0..100),
        ) {
            let mut shares = Shares::new(total, NO_CAP, Sharing::Strangers);
            for (uid, amount) in steps {
                let others = shares.held_by_all() - shares.held(uid);
                if shares.take(uid, amount).is_ok() {
                    prop_assert!(shares.held(uid) <= (total - others).div_ceil(2));
                }
            }
        }
    }
}
