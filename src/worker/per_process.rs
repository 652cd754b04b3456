//! A value of the process that a forked child never waits for.
//!
//! A child has copies of its parent's locks, and some may be held by threads that it does not have:
//! it would wait for ever. The same goes for values that are made once (`OnceLock`). So each
//! process that sets a value has a node of its own in a list, which is added without waiting, and
//! only tries the locks of its ancestors.

#![allow(unsafe_code, reason = "a list whose nodes are never freed")]

use crate::base::sync::{Mutex, Ordering, PlainPtr, lock};
use crate::os::fork::Origin;
use std::sync::{Arc, PoisonError, TryLockError};

#[derive(Debug)]
struct Node<T> {
    /// The token of the process that it belongs to.
    owner: u64,
    value: Mutex<Option<Arc<T>>>,
    /// That of a child, or of one of its descendants.
    next: PlainPtr<Node<T>>,
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

/// A value of the process, for a `static`: a node for each generation of forks that has set a value
/// is never freed.
#[derive(Debug)]
pub(super) struct PerProcess<T>(PlainPtr<Node<T>>);

impl<T: Send + Sync> PerProcess<T> {
    pub(super) const fn new() -> Self {
        Self(PlainPtr::null())
    }

    /// All nodes, the oldest ancestor's first. At most one is of this process, and it is the last.
    fn nodes(&self) -> impl Iterator<Item = &Node<T>> {
        std::iter::successors(pointee(&self.0), |node| pointee(&node.next))
    }

    fn existing(&self) -> Option<&Node<T>> {
        let me = Origin::here().token();
        self.nodes().find(|node| node.owner == me)
    }

    /// The node of this process, made now if need be.
    fn own(&self) -> &Node<T> {
        loop {
            if let Some(own) = self.existing() {
                return own;
            }
            let place = self.nodes().last().map_or(&self.0, |last| &last.next);
            let owner = Origin::here().token();
            let node = Node { owner, value: Mutex::new(None), next: PlainPtr::null() };
            let node = Box::into_raw(Box::new(node));
            // Release: meets the Acquire in `pointee`.
            if !place.set_once(node, Ordering::Release) {
                // SAFETY: made above, and nothing else has a pointer to it.
                drop(unsafe { Box::from_raw(node) });
            }
        }
    }

    /// The value of this process, made now if it has none; never that of an ancestor.
    pub(super) fn get_or_make(&self, make: impl FnOnce() -> T) -> Arc<T> {
        lock(&self.own().value).get_or_insert_with(|| Arc::new(make())).clone()
    }

    /// The value of this process, never that of an ancestor. `Unknown` if a thread of it, which may
    /// be the one that asks, is just reading or setting it.
    pub(super) fn try_own(&self) -> Found<T> {
        let value = match self.existing().map(|node| node.value.try_lock()) {
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
        lock(&self.existing()?.value).take()
    }

    /// The value of this process, or of the nearest ancestor that had one.
    pub(super) fn get(&self) -> Found<T> {
        let me = Origin::here().token();
        let mut found = Found::Nothing;
        for node in self.nodes() {
            let value = if node.owner == me {
                lock(&node.value).clone()
            } else {
                match node.value.try_lock() {
                    Ok(value) => value.clone(),
                    Err(TryLockError::Poisoned(value)) => PoisonError::into_inner(value).clone(),
                    Err(TryLockError::WouldBlock) => {
                        found = Found::Unknown;
                        continue;
                    }
                }
            };
            found = value.map_or(Found::Nothing, Found::Value);
        }
        found
    }
}

/// What the pointer of a list points to.
fn pointee<T>(pointer: &PlainPtr<Node<T>>) -> Option<&Node<T>> {
    // Acquire: meets the Release in `own`, so that the node is seen as it was made.
    // SAFETY: null, or a node that was leaked in `own`: it is never freed, and changed through
    // shared references only.
    unsafe { pointer.load(Ordering::Acquire).as_ref() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a child finds it: the node of another process.
    fn of_another<T: Send + Sync>(values: &PerProcess<T>, value: T) -> &Node<T> {
        let place = values.nodes().last().map_or(&values.0, |last| &last.next);
        let value = Mutex::new(Some(Arc::new(value)));
        let node = Node { owner: u64::MAX, value, next: PlainPtr::null() };
        assert!(place.set_once(Box::into_raw(Box::new(node)), Ordering::Release));
        values.nodes().last().expect("it was added")
    }

    /// However many generations there were, each has its own value, and waits for none before it.
    #[test]
    fn w1_each_of_many_generations_has_a_value_of_its_own() {
        let values = PerProcess::new();
        let nodes: Vec<_> = (0..100).map(|number| of_another(&values, number)).collect();
        let held: Vec<_> = nodes.iter().map(|node| lock(&node.value)).collect();
        assert_eq!(*values.get_or_make(|| 100), 100);
        assert_eq!(*values.get_or_make(|| 101), 100);
        assert!(matches!(values.get(), Found::Value(value) if *value == 100));
        assert!(held.iter().zip(0..).all(|(value, number)| value.as_deref() == Some(&number)));
    }

    #[test]
    fn threads_that_come_first_together_find_one_value() {
        for _ in 0..200 {
            let values = PerProcess::new();
            let start = std::sync::Barrier::new(4);
            let found = std::thread::scope(|scope| {
                let get = |number| {
                    start.wait();
                    values.get_or_make(|| number)
                };
                let threads: Vec<_> = (0..4).map(|n| scope.spawn(move || get(n))).collect();
                threads.into_iter().map(|thread| *thread.join().expect("a value")).collect()
            });
            let found: Vec<i32> = found;
            assert!(found.iter().all(|value| *value == found[0]), "{found:?}");
            assert_eq!(values.nodes().count(), 1);
        }
    }

    #[test]
    fn a_value_of_an_ancestor_is_seen_and_not_waited_for() {
        let values = PerProcess::new();
        assert!(matches!(values.get(), Found::Nothing));
        let other = of_another(&values, 1);
        assert!(matches!(values.get(), Found::Value(value) if *value == 1));
        assert!(values.take().is_none(), "it is not this process's");
        let held = lock(&other.value);
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
