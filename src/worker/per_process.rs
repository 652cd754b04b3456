//! A value of the process that a forked child never waits for.
//!
//! A child has copies of its parent's locks, and some may be held by threads that it does not have:
//! it would wait for ever. So each process that sets a value takes a slot of its own, and only
//! tries the locks of its ancestors.

use crate::base::sync::{Mutex, Ordering, PlainU64, lock};
use crate::os::fork::Origin;
use std::sync::{Arc, PoisonError, TryLockError};

/// How many processes, each a fork of the one before, may have set a value. Beyond that a slot of
/// the oldest is used again.
const GENERATIONS: usize = 32;

#[derive(Debug)]
struct Slot<T> {
    /// The token of the process that it belongs to; 0 for none. Never changes again, but for those
    /// that are used again.
    owner: PlainU64,
    value: Mutex<Option<Arc<T>>>,
}

/// What a process finds.
#[derive(Debug)]
pub(super) enum Found<T> {
    /// Its own value, or that of the ancestor which set one last.
    Value(Arc<T>),
    /// There is none.
    Nothing,
    /// An ancestor was just reading or setting it when it forked.
    Unknown,
}

/// A value of the process.
#[derive(Debug)]
pub(super) struct PerProcess<T>([Slot<T>; GENERATIONS]);

impl<T> PerProcess<T> {
    pub(super) const fn new() -> Self {
        Self([const { Slot { owner: PlainU64::new(0), value: Mutex::new(None) } }; GENERATIONS])
    }

    /// The slot of this process, taken now if need be.
    fn own(&self) -> &Slot<T> {
        let me = Origin::here().token();
        // Relaxed throughout: the values are behind locks, and threads of one process take the same
        // slot, whichever is first.
        let own = self.0.iter().find(|slot| {
            let owner = slot.owner.load(Ordering::Relaxed);
            let taken = match owner {
                0 => slot.owner.compare_exchange(0, me, Ordering::Relaxed, Ordering::Relaxed),
                owner => Err(owner),
            };
            taken.is_ok() || taken == Err(me)
        });
        own.unwrap_or_else(|| {
            self.0[0].owner.store(me, Ordering::Relaxed);
            &self.0[0]
        })
    }

    /// The value of this process, made now if it has none; never that of an ancestor.
    pub(super) fn get_or_make(&self, make: impl FnOnce() -> T) -> Arc<T> {
        lock(&self.own().value).get_or_insert_with(|| Arc::new(make())).clone()
    }

    /// The value of this process, never that of an ancestor. `Unknown` if a thread of it, which may
    /// be the one that asks, is just reading or setting it.
    pub(super) fn try_own(&self) -> Found<T> {
        let me = Origin::here().token();
        // Relaxed: as above.
        let own = self.0.iter().find(|slot| slot.owner.load(Ordering::Relaxed) == me);
        let value = match own.map(|slot| slot.value.try_lock()) {
            None => None,
            Some(Ok(value)) => value.clone(),
            Some(Err(TryLockError::Poisoned(value))) => PoisonError::into_inner(value).clone(),
            Some(Err(TryLockError::WouldBlock)) => return Found::Unknown,
        };
        value.map_or(Found::Nothing, Found::Value)
    }

    /// Sets the value of this process, and returns the one before.
    pub(super) fn replace(&self, value: Arc<T>) -> Option<Arc<T>> {
        lock(&self.own().value).replace(value)
    }

    /// Takes the value of this process away. Values of ancestors stay theirs.
    pub(super) fn take(&self) -> Option<Arc<T>> {
        let me = Origin::here().token();
        // Relaxed: as above.
        let own = self.0.iter().find(|slot| slot.owner.load(Ordering::Relaxed) == me)?;
        lock(&own.value).take()
    }

    /// The value of this process, or of the nearest ancestor that had one.
    pub(super) fn get(&self) -> Found<T> {
        let me = Origin::here().token();
        let mut found = Found::Nothing;
        for slot in &self.0 {
            // Relaxed: as above.
            let owner = slot.owner.load(Ordering::Relaxed);
            if owner == 0 {
                break;
            }
            let value = if owner == me {
                lock(&slot.value).clone()
            } else {
                match slot.value.try_lock() {
                    Ok(value) => value.clone(),
                    Err(TryLockError::Poisoned(value)) => PoisonError::into_inner(value).clone(),
                    Err(TryLockError::WouldBlock) => {
                        found = Found::Unknown;
                        continue;
                    }
                }
            };
            found = value.map_or(Found::Nothing, Found::Value);
            if owner == me {
                break;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_an_ancestor_is_seen_and_not_waited_for() {
        let values = PerProcess::new();
        assert!(matches!(values.get(), Found::Nothing));
        // As a child finds it: the slot of another process, whose lock is held.
        values.0[0].owner.store(u64::MAX, Ordering::Relaxed);
        *lock(&values.0[0].value) = Some(Arc::new(1));
        assert!(matches!(values.get(), Found::Value(value) if *value == 1));
        assert!(values.take().is_none(), "it is not this process's");
        let held = lock(&values.0[0].value);
        assert!(matches!(values.get(), Found::Unknown));
        assert!(values.take().is_none());
        assert!(matches!(values.try_own(), Found::Nothing));
        assert!(values.replace(Arc::new(2)).is_none());
        assert!(matches!(values.try_own(), Found::Value(value) if *value == 2));
        assert!(matches!(values.get(), Found::Value(value) if *value == 2));
        assert_eq!(values.take().as_deref(), Some(&2));
        assert!(matches!(values.get(), Found::Nothing), "it was taken away here");
        drop(held);
    }
}
