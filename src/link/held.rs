//! Bytes that are held for a peer: charged by capacity, as long as their buffer lives.
//!
//! A [`Charge`] is a guard. It is taken before its buffer is allocated or grown, travels with the
//! buffer ([`Held`]), and gives the bytes back after the buffer is freed. It counts at three
//! levels: the client ([`Account`]), all clients of its uid ([`Share`]), and all clients
//! ([`Total`]).
//!
//! | what | at the limit |
//! |---|---|
//! | a request that is not begun | not read until bytes are back: [`Account::may_read`] |
//! | a request that is arriving | goes on; refused if its uid, or all, hold too much |
//! | an answer, an item, an event | refused, or waited for, by the thread that sends it |
//! | what is there already | charged all the same |
//!
//! Where several uids are served they share the total by the rule of `base/shares.rs`: none holds
//! more than it leaves free, and what is reserved for a listed uid is divided as the total is.
//!
//! So requests leave room for answers, and what is held shrinks as the client reads: no request
//! keeps an answer from its client for ever. A client exceeds its limit by the one message that is
//! arriving, at most; its uid, and all, by one buffer of a frame and one small request.
//!
//! Buffers of up to [`SMALL`] bytes are not charged one by one: a request in flight is charged
//! with a fixed size that covers its own small buffers.
//!
//! # Why no wait is missed
//!
//! A side that finds no room announces that it waits, and looks again. A side that gives bytes back
//! subtracts them, and then asks whether somebody waits: see [`room`](crate::protocol::room).

use crate::base::shares::{self, Sharing};
use crate::base::sync::{Ordering, PlainBool, PlainU64};
use crate::base::wakers::wake_all;
use crate::os::fork::Origin;
use crate::protocol::room::WantsRoom;
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

/// Largest buffer that a fixed charge covers, in bytes.
pub(crate) const SMALL: usize = 4 << 10;
/// Largest buffer that is kept for the next message, in bytes.
pub(crate) const KEPT: usize = 64 << 10;
/// What an entry of a queue takes beside its payload, in bytes.
pub(crate) const ENTRY: usize = 128;
/// A client that holds less is read from even if its uid holds much.
const LITTLE: u64 = 256 << 10;
/// More than the largest buffer that is read into and does not count, in bytes.
const FRAME: u64 = (KEPT + SMALL) as u64;
/// A thread that waits for room looks again after this time in any case.
const BACKSTOP: Duration = Duration::from_millis(50);

/// For what bytes are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// They are there already.
    Fact,
    /// A message that is arriving.
    Arrival,
    /// An answer, an item of one, or an event.
    Answer,
}

/// One level of the account.
#[derive(Debug)]
struct Level {
    /// How many bytes may be held.
    most: u64,
    /// How many are held when no more messages arrive, or, of one client, are set aside.
    arrivals: u64,
    /// How many are held when no more requests are read.
    soft: u64,
    held: PlainU64,
}

impl Level {
    /// Of several clients. One half is for requests, one quarter for the rest of those that have
    /// arrived in part, and one quarter for answers.
    fn of_several(most: u64) -> Self {
        let soft = (most / 2).max(1);
        Self { most, arrivals: most - most / 4, soft, held: PlainU64::new(0) }
    }

    // Relaxed: counts. What waits for them is ordered by the fences of this module.

    fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: u64) -> u64 {
        self.held.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes)
    }

    fn subtract(&self, bytes: u64) -> u64 {
        self.held.fetch_sub(bytes, Ordering::Relaxed).saturating_sub(bytes)
    }
}

/// How many bytes may be held, at each level.
#[derive(Debug, Clone)]
pub(crate) struct HeldLimits {
    pub(crate) client: u64,
    pub(crate) uid: u64,
    pub(crate) total: u64,
    /// Largest message in bytes.
    pub(crate) max_message: u64,
    /// Which uids are served.
    pub(crate) sharing: Sharing,
}

/// Who waits for bytes to come back.
#[derive(Debug, Default)]
struct Sleepers {
    /// How often they were woken.
    wakes: u64,
    /// By data and vtable of the waker: one entry for each task, found without a search.
    tasks: HashMap<(usize, usize), Waker>,
}

/// What is held for all clients.
pub(crate) struct Total {
    limits: HeldLimits,
    level: Level,
    /// What is reserved for a listed uid.
    floor: u64,
    /// How much of what is reserved for all listed uids they do not hold. While several threads
    /// change it, it may be negative for a moment, as two's complement.
    unused: PlainU64,
    /// Some level may hold so much that no more requests are read.
    tight: PlainBool,
    waiting: WantsRoom,
    sleepers: Mutex<Sleepers>,
    room: Condvar,
    /// Wakes the thread that reads requests.
    wake: Box<dyn Fn() + Send + Sync>,
    origin: Origin,
    refused: PlainU64,
}

impl std::fmt::Debug for Total {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Total").field("limits", &self.limits).field("level", &self.level).finish()
    }
}

impl Total {
    /// Nothing is held. `wake` is called when bytes come back that the reader of requests waits
    /// for.
    pub(crate) fn new(limits: HeldLimits, wake: Box<dyn Fn() + Send + Sync>) -> Arc<Self> {
        let level = Level::of_several(limits.total);
        // No more than it may hold in any case.
        let floor = limits.sharing.floor(limits.total).min(limits.uid);
        Arc::new(Self {
            level,
            floor,
            // No overflow: floors are parts of the total.
            unused: PlainU64::new(limits.sharing.listed() * floor),
            limits,
            tight: PlainBool::new(false),
            waiting: WantsRoom::new(),
            sleepers: Mutex::default(),
            room: Condvar::new(),
            wake,
            origin: Origin::here(),
            refused: PlainU64::new(0),
        })
    }

    /// For the clients of this uid, which has one share at a time.
    pub(crate) fn share(self: &Arc<Self>, uid: u32) -> Arc<Share> {
        let reserved = if self.limits.sharing.lists(uid) { self.floor } else { 0 };
        let level = Level::of_several(self.limits.uid);
        Arc::new(Share { total: self.clone(), level, reserved })
    }

    /// Bytes held now.
    pub(crate) fn held(&self) -> u64 {
        self.level.held()
    }

    /// Answers, items, events and arriving requests that were refused.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Whether [`Account::may_read`] has to be asked.
    #[inline]
    pub(crate) fn is_tight(&self) -> bool {
        // Relaxed: set by whoever charges, and set again by the next charge.
        self.tight.load(Ordering::Relaxed)
    }

    /// Says whether some client is at its limit.
    pub(crate) fn set_tight(&self, tight: bool) {
        self.tight.store(tight, Ordering::Relaxed);
    }

    fn sleepers(&self) -> MutexGuard<'_, Sleepers> {
        self.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something changed that others may wait for.
    fn rouse(&self) {
        if self.waiting.take() {
            self.rouse_sleepers();
        }
    }

    #[cold]
    fn rouse_sleepers(&self) {
        // In a forked child nobody waits, and the bell is the parent's.
        if !self.origin.is_here() {
            return;
        }
        (self.wake)();
        let mut sleepers = self.sleepers();
        sleepers.wakes = sleepers.wakes.wrapping_add(1);
        let tasks = std::mem::take(&mut sleepers.tasks);
        drop(sleepers);
        self.room.notify_all();
        wake_all(tasks.into_values());
    }
}

/// What is held for all clients of one uid.
#[derive(Debug)]
pub(crate) struct Share {
    total: Arc<Total>,
    level: Level,
    /// What no other uid may hold; 0 if this one is not listed.
    reserved: u64,
}

impl Share {
    // Relaxed, as at each level.

    fn add(&self, bytes: u64) -> u64 {
        let now = self.level.add(bytes);
        let used = self.unused_at(now - bytes) - self.unused_at(now);
        if used != 0 {
            self.total.unused.fetch_sub(used, Ordering::Relaxed);
        }
        now
    }

    fn subtract(&self, bytes: u64) {
        let now = self.level.subtract(bytes);
        let unused = self.unused_at(now) - self.unused_at(now.saturating_add(bytes));
        if unused != 0 {
            self.total.unused.fetch_add(unused, Ordering::Relaxed);
        }
    }

    /// How much of what is reserved for this uid is not held when it holds so much.
    fn unused_at(&self, held: u64) -> u64 {
        self.reserved.saturating_sub(held)
    }

    /// What of the total is reserved for others, and not held by them.
    fn unused_by_others(&self) -> u64 {
        let unused = self.total.unused.load(Ordering::Relaxed).cast_signed().max(0).cast_unsigned();
        unused.saturating_sub(self.unused_at(self.level.held()))
    }

    /// Whether a uid that holds so much, of so much that all hold, leaves as much free for others,
    /// where there may be others.
    fn is_fair(&self, held: u64, all: u64) -> bool {
        let limits = &self.total.limits;
        limits.sharing == Sharing::One || {
            let others = all.saturating_sub(held).saturating_add(self.unused_by_others());
            held <= shares::most(limits.total, others, self.reserved)
        }
    }

    /// For one of them.
    pub(crate) fn account(self: &Arc<Self>) -> Arc<Account> {
        let HeldLimits { client: most, max_message, .. } = self.total.limits;
        // A request that arrives when this is nearly reached, and its answer, still find room.
        let soft = most.saturating_sub(2 * max_message).max(most / 4).max(1);
        Arc::new(Account {
            share: self.clone(),
            level: Level { most, arrivals: most - most / 4, soft, held: PlainU64::new(0) },
        })
    }
}

/// What is held for one client.
#[derive(Debug)]
pub(crate) struct Account {
    share: Arc<Share>,
    level: Level,
}

impl Account {
    /// Of a side that serves nobody, or of a test: so many bytes.
    pub(crate) fn alone(bytes: u64) -> Arc<Self> {
        // A quarter is for answers.
        let bytes = bytes.saturating_add(bytes / 2);
        let limits = HeldLimits {
            client: bytes,
            uid: bytes,
            total: bytes,
            max_message: 0,
            sharing: Sharing::One,
        };
        Total::new(limits, Box::new(|| {})).share(0).account()
    }

    /// Bytes held for this client now.
    pub(crate) fn held(&self) -> u64 {
        self.level.held()
    }

    /// How much of this client's may be held before no more requests are begun.
    pub(crate) fn soft(&self) -> u64 {
        self.level.soft
    }

    /// Whether a request may be read. If not, the reader is woken when that may have changed.
    ///
    /// A client that holds next to nothing is read from as long as its uid has anything left; where
    /// that is more than its uid leaves free, only in the first half of the total. `buffer`: what
    /// of its bytes is the buffer that is read into, which must not keep itself from being read.
    /// For a client that holds nothing else the limits are so much higher that buffers alone never
    /// reach them. Others may have begun more since: what comes back only if it is read is fair all
    /// the same while its uid holds no more than a quarter of all.
    #[cold]
    pub(crate) fn may_read(&self, buffer: u64) -> bool {
        let (share, total) = (&self.share.level, &self.share.total.level);
        self.finds_room(|[own, shared, all]| {
            let own = own.saturating_sub(buffer);
            let waits_for_itself = buffer != 0 && own == 0;
            let (over, unfair) =
                if waits_for_itself { (FRAME, total.arrivals) } else { (0, total.soft) };
            let [shared, all] = [shared, all].map(|held| held.saturating_sub(over));
            let begun = waits_for_itself && shared <= total.most / 4;
            let is_fair = begun || self.share.is_fair(shared, all);
            let room = shared < share.most && all < total.most;
            let little = own < LITTLE && room && (is_fair || all < unfair);
            let usual = (is_fair && all < total.soft) || shared < self.share.reserved / 2;
            own < self.level.soft && (little || (shared < share.soft && usual))
        })
    }

    /// The same for a request that is only set aside, so that what stands behind it is found. Of
    /// each limit a quarter is left: without room for its items no stream comes to its end.
    #[cold]
    pub(crate) fn may_set_aside(&self) -> bool {
        let (share, total) = (&self.share.level, &self.share.total.level);
        self.finds_room(|[own, shared, all]| {
            let usual = all < total.arrivals && self.share.is_fair(shared, all);
            let reserved = shared < self.share.reserved - self.share.reserved / 4;
            own < self.level.arrivals && shared < share.arrivals && (usual || reserved)
        })
    }

    /// Looks at what is held, and if it is too much once more, as somebody who waits.
    fn finds_room(&self, look: impl Fn([u64; 3]) -> bool) -> bool {
        let share = &self.share;
        let held = || [&self.level, &share.level, &share.total.level].map(Level::held);
        look(held()) || {
            share.total.waiting.announce();
            look(held())
        }
    }

    fn take(&self, bytes: u64, purpose: Purpose) -> bool {
        let (share, total) = (&self.share, &self.share.total);
        let levels = [&self.level, &share.level, &total.level];
        // What does not fit is not even added: giving it back would wake those who wait for room,
        // this thread among them, and they would never sleep.
        if !self.fits(levels.map(|level| level.held().saturating_add(bytes)), purpose) {
            return false;
        }
        let own = self.level.add(bytes);
        let shared = share.add(bytes);
        let all = total.level.add(bytes);
        if !self.fits([own, shared, all], purpose) {
            self.give_back(bytes);
            return false;
        }
        if own >= self.level.soft
            || shared >= share.level.soft
            || all >= total.level.soft
            || !share.is_fair(shared, all)
        {
            total.set_tight(true);
        }
        true
    }

    /// Whether so much may be held, for this purpose.
    fn fits(&self, [own, shared, all]: [u64; 3], purpose: Purpose) -> bool {
        let (share, total) = (&self.share.level, &self.share.total.level);
        let reserved = self.share.reserved;
        let (client, uid, total, reserved) = match purpose {
            Purpose::Fact => return true,
            Purpose::Arrival => (u64::MAX, share.arrivals, total.arrivals, reserved - reserved / 4),
            Purpose::Answer => (self.level.most, share.most, total.most, reserved),
        };
        let has_room = || all <= total && self.share.is_fair(shared, all);
        own <= client && shared <= uid && (shared <= reserved || has_room())
    }

    fn give_back(&self, bytes: u64) {
        self.level.subtract(bytes);
        self.share.subtract(bytes);
        self.share.total.level.subtract(bytes);
        self.share.total.rouse();
    }

    /// Takes back what was left in the account.
    #[cold]
    pub(crate) fn take_back(&self, bytes: u64) {
        self.give_back(bytes);
    }

    /// The most bytes of an answer, an item or an event for which there can ever be room.
    #[cold]
    pub(crate) fn most_of_answer(&self) -> u64 {
        let (share, total) = (&self.share, &self.share.total);
        let HeldLimits { total: all, sharing, .. } = &total.limits;
        let fair = if *sharing == Sharing::One {
            *all
        } else {
            let others = (sharing.listed() * total.floor).saturating_sub(share.reserved);
            shares::most(*all, others, share.reserved)
        };
        self.level.most.min(share.level.most).min(fair)
    }

    /// Whether the client itself holds so much that so many bytes more find no room.
    #[cold]
    pub(crate) fn is_full_for(&self, bytes: u64) -> bool {
        self.held().saturating_add(bytes) > self.level.most
    }

    /// Something was refused for lack of room.
    pub(crate) fn count_refusal(&self) {
        self.share.total.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Lets those look again who wait for room and for something else.
    pub(crate) fn rouse(&self) {
        self.share.total.rouse();
    }

    /// Charges what is there already.
    pub(crate) fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        let mut charge = Charge::default();
        charge.set(self, bytes);
        charge
    }

    /// Charges an answer, an item or an event, if there is room for it.
    pub(crate) fn charge_answer(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        let bytes = bytes as u64;
        self.take(bytes, Purpose::Answer).then(|| Charge { account: Some(self.clone()), bytes })
    }

    /// The same, waiting until `deadline`, or until it is `over`.
    pub(crate) fn wait_for_answer(
        self: &Arc<Self>,
        bytes: usize,
        deadline: Option<Instant>,
        over: impl Fn() -> bool,
    ) -> Option<Charge> {
        let total = &self.share.total;
        loop {
            let seen = total.sleepers().wakes;
            total.waiting.announce();
            let charge = self.charge_answer(bytes);
            if charge.is_some() || over() {
                return charge;
            }
            let now = Instant::now();
            let left = deadline.map_or(BACKSTOP, |deadline| deadline.duration_since(now));
            if left.is_zero() {
                return None;
            }
            let sleepers = total.sleepers();
            if sleepers.wakes == seen {
                // What happened meanwhile is looked at by the next round.
                let _ = total.room.wait_timeout(sleepers, left.min(BACKSTOP));
            }
        }
    }

    /// The same for a task, which is woken when there may be room.
    pub(crate) fn poll_answer(self: &Arc<Self>, bytes: usize, waker: &Waker) -> Option<Charge> {
        if let Some(charge) = self.charge_answer(bytes) {
            return Some(charge);
        }
        let total = &self.share.total;
        let key = (waker.data().addr(), std::ptr::from_ref(waker.vtable()).addr());
        let is_known = total.sleepers().tasks.contains_key(&key);
        if !is_known {
            // Neither cloned nor dropped under the lock: it is other people's code.
            let own = waker.clone();
            let _same = total.sleepers().tasks.insert(key, own);
        }
        total.waiting.announce();
        self.charge_answer(bytes)
    }
}

/// Bytes that are charged, until it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Charge {
    /// `None` if there are none.
    account: Option<Arc<Account>>,
    bytes: u64,
}

impl Charge {
    /// Makes it so many bytes, which are there already, or not any more.
    pub(crate) fn set(&mut self, account: &Arc<Account>, bytes: usize) {
        if self.account.as_ref().is_some_and(|own| !Arc::ptr_eq(own, account)) {
            *self = Self::default(); // of another client
        }
        let bytes = bytes as u64;
        if bytes >= self.bytes {
            account.take(bytes - self.bytes, Purpose::Fact);
        } else {
            account.give_back(self.bytes - bytes);
        }
        self.bytes = bytes;
        self.account.get_or_insert_with(|| account.clone());
    }

    /// Makes it so many bytes, for a message that is arriving; false if there is no room.
    pub(crate) fn grow_to(&mut self, account: &Arc<Account>, bytes: usize) -> bool {
        let more = (bytes as u64).saturating_sub(self.bytes);
        let fits = account.take(more, Purpose::Arrival);
        if fits {
            self.bytes += more;
            self.account.get_or_insert_with(|| account.clone());
        }
        fits
    }

    /// Makes it at least so many bytes, for an answer, an item or an event; false if there is no
    /// room.
    pub(crate) fn grow_for_answer(&mut self, account: &Arc<Account>, bytes: usize) -> bool {
        if self.account.as_ref().is_some_and(|own| !Arc::ptr_eq(own, account)) {
            *self = Self::default(); // of another client
        }
        let more = (bytes as u64).saturating_sub(self.bytes);
        let fits = more == 0 || account.take(more, Purpose::Answer);
        if fits {
            self.bytes += more;
            self.account.get_or_insert_with(|| account.clone());
        }
        fits
    }

    /// How many they are.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Leaves the bytes in the account: how many are to be taken back
    /// ([`Account::take_back`]).
    pub(crate) fn leave(mut self) -> u64 {
        self.account = None;
        self.bytes
    }
}

impl Drop for Charge {
    #[inline]
    fn drop(&mut self) {
        if let Some(account) = self.account.take() {
            account.give_back(self.bytes);
        }
    }
}

/// A buffer and its charge. In this order: the bytes are freed before they are given back.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) bytes: Vec<u8>,
    pub(crate) charge: Charge,
}

impl Held {
    /// A buffer in a queue, which is charged whatever its size.
    pub(crate) fn in_queue(account: &Arc<Account>, mut bytes: Vec<u8>, mut charge: Charge) -> Self {
        trim(&mut bytes);
        charge.set(account, bytes.capacity() + ENTRY);
        Self { bytes, charge }
    }
}

/// Frees what a large buffer has beyond its bytes, if that is most of it.
pub(crate) fn trim(bytes: &mut Vec<u8>) {
    if bytes.capacity() > KEPT && bytes.capacity() / 2 > bytes.len() {
        bytes.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests;
