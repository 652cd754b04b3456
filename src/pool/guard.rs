//! An item in use.

use super::Manager;
use super::core::Held;
use super::shared::PoolInner;
use std::sync::Arc;

/// An item that was taken out of a pool; dropping this gives it back.
///
/// It is closed instead, and never used again, if the guard was [poisoned](Self::poison), if the
/// thread panics, if the manager does not find the item [clean](Manager::is_clean), or if it is
/// stale or too old. That happens on the thread that drops the guard. In a forked child nothing
/// happens.
pub struct Guard<M: Manager> {
    /// Until it is given back.
    entry: Option<Held<M::Item>>,
    shared: Arc<PoolInner<M>>,
}

impl<M: Manager> Guard<M> {
    #[inline]
    pub(super) fn new(entry: Held<M::Item>, shared: Arc<PoolInner<M>>) -> Self {
        Self { entry: Some(entry), shared }
    }

    /// The item is not to be used again: something went wrong with it.
    pub fn poison(&mut self) {
        if let Some(entry) = &mut self.entry {
            entry.poisoned = true;
        }
    }

    /// Whether it was poisoned.
    pub fn is_poisoned(&self) -> bool {
        self.entry.as_ref().is_some_and(|entry| entry.poisoned)
    }

    /// What the item leads to is gone: poisons it, and closes all that were opened before this was
    /// known. Told by many guards of one restart, it happens once.
    pub fn flush(&mut self) {
        if let Some(entry) = &mut self.entry {
            self.shared.flush_with(entry);
        }
    }

    /// The item, for `pool` to hold.
    #[cfg(not(ringbell_loom))]
    pub(super) fn into_lent(mut self, shared: &PoolInner<M>) -> Lent<'_, M> {
        Lent { entry: self.entry.take(), shared }
    }
}

/// As [`Guard`], for as long as the pool is borrowed: it counts no reference.
#[cfg(not(ringbell_loom))]
pub(crate) struct Lent<'a, M: Manager> {
    entry: Option<Held<M::Item>>,
    shared: &'a PoolInner<M>,
}

#[cfg(not(ringbell_loom))]
impl<'a, M: Manager> Lent<'a, M> {
    #[inline]
    pub(super) fn new(entry: Held<M::Item>, shared: &'a PoolInner<M>) -> Self {
        Self { entry: Some(entry), shared }
    }

    /// The item.
    #[inline]
    pub(crate) fn item(&mut self) -> &mut M::Item {
        match &mut self.entry {
            Some(entry) => &mut entry.item,
            None => unreachable!("taken when it is dropped only"),
        }
    }

    /// As [`Guard::poison`].
    pub(crate) fn poison(&mut self) {
        if let Some(entry) = &mut self.entry {
            entry.poisoned = true;
        }
    }

    /// As [`Guard::flush`].
    pub(crate) fn flush(&mut self) {
        if let Some(entry) = &mut self.entry {
            self.shared.flush_with(entry);
        }
    }
}

#[cfg(not(ringbell_loom))]
impl<M: Manager> Drop for Lent<'_, M> {
    #[inline]
    fn drop(&mut self) {
        let Some(entry) = self.entry.take() else { return };
        if self.shared.origin.is_here() {
            self.shared.judge_and_return(entry);
        } else {
            // The item is the parent's.
            std::mem::forget(entry);
        }
    }
}

impl<M: Manager> std::ops::Deref for Guard<M> {
    type Target = M::Item;

    fn deref(&self) -> &M::Item {
        match &self.entry {
            Some(entry) => &entry.item,
            None => unreachable!("taken when it is dropped only"),
        }
    }
}

impl<M: Manager> std::ops::DerefMut for Guard<M> {
    fn deref_mut(&mut self) -> &mut M::Item {
        match &mut self.entry {
            Some(entry) => &mut entry.item,
            None => unreachable!("taken when it is dropped only"),
        }
    }
}

impl<M: Manager> Drop for Guard<M> {
    #[inline]
    fn drop(&mut self) {
        let Some(entry) = self.entry.take() else { return };
        if !self.shared.origin.is_here() {
            // The item is the parent's, and so may the last hold on the others be.
            std::mem::forget((entry, self.shared.clone()));
            return;
        }
        self.shared.judge_and_return(entry);
    }
}

impl<M: Manager> std::fmt::Debug for Guard<M>
where
    M::Item: std::fmt::Debug,
{
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let item: &M::Item = self;
        f.debug_struct("Guard")
            .field("item", item)
            .field("poisoned", &self.is_poisoned())
            .finish_non_exhaustive()
    }
}
