//! An in-memory key-value store that keeps every version, and forks.
//!
//! A fork begins as the latest state of its parent and goes on by itself. Each write makes one
//! version; numbers go on from the parent's, so that a version before the fork is the parent's
//! version of that number.
//!
//! All methods take `&self`, and no lock is held between two calls. A write is two calls,
//! [`Store::prepare`] and [`Store::commit`]; that no other write of the fork comes between them is
//! for the caller to see to. If one does, the commit fails.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The fork that is there from the beginning. Its version 0 is empty, as is that of all others.
pub(crate) const ROOT: u64 = 0;

pub(crate) type Value = Arc<[u8]>;

/// What one write does to one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change<'a> {
    Put(&'a [u8]),
    Remove,
    /// Adds to a number (u64, little-endian, wrapping); a missing one counts as 0.
    Add(u64),
}

/// What a store refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreError {
    NoSuchFork,
    NoSuchVersion,
    /// The value to be added to has not 8 bytes.
    NotANumber,
    /// One of the [`Limits`].
    Full,
    /// Another write of the fork came between.
    Conflict,
}

/// What clients can make a store remember.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) forks: usize,
    /// Forks of forks: each level costs time in a read.
    pub(crate) depth: usize,
    /// Keys and values of all versions that a fork made itself.
    pub(crate) bytes_per_fork: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { forks: 1 << 16, depth: 256, bytes_per_fork: 64 << 20 }
    }
}

pub(crate) struct Store {
    limits: Limits,
    /// Numbered by their place.
    forks: RwLock<Vec<Arc<Fork>>>,
}

struct Fork {
    depth: usize,
    /// The parent, and its version at that time.
    origin: Option<(u64, u64)>,
    history: RwLock<History>,
}

struct History {
    version: u64,
    bytes: usize,
    keys: HashMap<Box<[u8]>, Vec<Entry>>,
}

/// The version at which a fork wrote a key, and what; `None` where it removed. The oldest comes
/// first.
type Entry = (u64, Option<Value>);

/// A write that is worked out, and not made yet.
#[must_use = "nothing is written until it is committed"]
pub(crate) struct Prepared {
    fork: u64,
    version: u64,
    bytes: usize,
    changed: BTreeMap<Box<[u8]>, Option<Value>>,
}

// What is locked is consistent between any two statements, so a panic elsewhere is no reason to
// stop.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Fork {
    fn new(origin: Option<(u64, u64)>, depth: usize) -> Arc<Self> {
        let version = origin.map_or(0, |(_, version)| version);
        let history = RwLock::new(History { version, bytes: 0, keys: HashMap::new() });
        Arc::new(Self { depth, origin, history })
    }
}

impl History {
    /// What this fork itself wrote to `key` last, at `version` or before.
    fn at(&self, version: u64, key: &[u8]) -> Option<Option<Value>> {
        let entries = self.keys.get(key)?;
        let until = entries.partition_point(|(written, _)| *written <= version);
        Some(entries[..until].last()?.1.clone())
    }
}

impl Store {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, forks: RwLock::new(vec![Fork::new(None, 0)]) }
    }

    fn get(&self, fork: u64) -> Result<Arc<Fork>, StoreError> {
        let index = usize::try_from(fork).map_err(|_| StoreError::NoSuchFork)?;
        read(&self.forks).get(index).cloned().ok_or(StoreError::NoSuchFork)
    }

    /// Forks `parent` as it is now; the new fork, and the version at which it begins.
    pub(crate) fn fork(&self, parent: u64) -> Result<(u64, u64), StoreError> {
        let of = self.get(parent)?;
        let version = read(&of.history).version;
        let mut forks = write(&self.forks);
        if forks.len() >= self.limits.forks || of.depth >= self.limits.depth {
            return Err(StoreError::Full);
        }
        forks.push(Fork::new(Some((parent, version)), of.depth + 1));
        Ok((forks.len() as u64 - 1, version))
    }

    /// The latest version of `fork`.
    pub(crate) fn version(&self, fork: u64) -> Result<u64, StoreError> {
        Ok(read(&self.get(fork)?.history).version)
    }

    /// The values of `keys` in `fork` at `version`.
    pub(crate) fn read_at<'k>(
        &self,
        fork: u64,
        version: u64,
        keys: impl IntoIterator<Item = &'k [u8]>,
    ) -> Result<Vec<Option<Value>>, StoreError> {
        if version > self.version(fork)? {
            return Err(StoreError::NoSuchVersion);
        }
        keys.into_iter().map(|key| self.value_at(fork, version, key)).collect()
    }

    fn value_at(
        &self,
        mut fork: u64,
        mut version: u64,
        key: &[u8],
    ) -> Result<Option<Value>, StoreError> {
        loop {
            let of = self.get(fork)?;
            if let Some(value) = read(&of.history).at(version, key) {
                return Ok(value);
            }
            let Some((parent, begin)) = of.origin else { return Ok(None) };
            (fork, version) = (parent, version.min(begin));
        }
    }

    /// Works out a write to the latest version of `fork`: all of `changes`, one after the other, or
    /// none.
    pub(crate) fn prepare<'c>(
        &self,
        fork: u64,
        changes: impl IntoIterator<Item = (&'c [u8], Change<'c>)>,
    ) -> Result<Prepared, StoreError> {
        let version = self.version(fork)?;
        let mut changed: BTreeMap<Box<[u8]>, Option<Value>> = BTreeMap::new();
        for (key, change) in changes {
            let value = match change {
                Change::Put(value) => Some(value.into()),
                Change::Remove => None,
                Change::Add(more) => {
                    let old = match changed.get(key) {
                        Some(old) => old.clone(),
                        None => self.value_at(fork, version, key)?,
                    };
                    let old = match old {
                        Some(old) => u64::from_le_bytes(
                            (*old).try_into().map_err(|_| StoreError::NotANumber)?,
                        ),
                        None => 0,
                    };
                    Some(old.wrapping_add(more).to_le_bytes().as_slice().into())
                }
            };
            changed.insert(key.into(), value);
        }
        let bytes = changed
            .iter()
            .map(|(key, value)| key.len() + value.as_ref().map_or(0, |v| v.len()))
            .sum();
        Ok(Prepared { fork, version, bytes, changed })
    }

    /// Makes a write that was prepared; the version that it made.
    pub(crate) fn commit(&self, prepared: Prepared) -> Result<u64, StoreError> {
        let fork = self.get(prepared.fork)?;
        let mut history = write(&fork.history);
        if history.version != prepared.version {
            return Err(StoreError::Conflict);
        }
        if history.bytes + prepared.bytes > self.limits.bytes_per_fork {
            return Err(StoreError::Full);
        }
        history.bytes += prepared.bytes;
        history.version += 1;
        let version = history.version;
        for (key, value) in prepared.changed {
            history.keys.entry(key).or_default().push((version, value));
        }
        Ok(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put(store: &Store, fork: u64, key: &str, value: &str) -> u64 {
        let change = (key.as_bytes(), Change::Put(value.as_bytes()));
        store.commit(store.prepare(fork, [change]).unwrap()).unwrap()
    }

    fn get(store: &Store, fork: u64, version: u64, key: &str) -> Option<String> {
        let mut values = store.read_at(fork, version, [key.as_bytes()]).unwrap();
        values.pop().unwrap().map(|value| String::from_utf8(value.to_vec()).unwrap())
    }

    #[test]
    fn a_fork_goes_its_own_way() {
        let store = Store::new(Limits::default());
        assert_eq!(put(&store, ROOT, "a", "1"), 1);
        let (child, begin) = store.fork(ROOT).unwrap();
        assert_eq!((child, begin), (1, 1));
        assert_eq!(put(&store, ROOT, "a", "root"), 2);
        assert_eq!(put(&store, child, "b", "child"), 2);
        assert_eq!(
            get(&store, child, 2, "a").as_deref(),
            Some("1"),
            "the parent's later writes are not seen"
        );
        assert_eq!(get(&store, ROOT, 2, "a").as_deref(), Some("root"));
        assert_eq!(get(&store, ROOT, 2, "b"), None);
        assert_eq!(get(&store, child, 0, "a"), None, "before the fork: the parent's versions");
    }

    #[test]
    fn two_writes_at_once_conflict() {
        let store = Store::new(Limits::default());
        let [first, second] =
            [1, 2].map(|n| store.prepare(ROOT, [(b"n".as_slice(), Change::Add(n))]).unwrap());
        assert_eq!(store.commit(second), Ok(1));
        assert_eq!(store.commit(first), Err(StoreError::Conflict));
    }

    #[test]
    fn limits_hold() {
        let store = Store::new(Limits { forks: 4, depth: 2, bytes_per_fork: 10 });
        let (child, _) = store.fork(ROOT).unwrap();
        let (grandchild, _) = store.fork(child).unwrap();
        assert_eq!(store.fork(grandchild), Err(StoreError::Full), "too deep");
        store.fork(ROOT).unwrap();
        assert_eq!(store.fork(ROOT), Err(StoreError::Full), "too many");
        assert_eq!(put(&store, ROOT, "key", "12345"), 1);
        let large = store.prepare(ROOT, [(b"key".as_slice(), Change::Remove)]).unwrap();
        assert_eq!(store.commit(large), Err(StoreError::Full), "too large");
        assert_eq!(store.version(ROOT), Ok(1));
        assert_eq!(store.version(4), Err(StoreError::NoSuchFork));
        assert_eq!(store.read_at(ROOT, 2, []), Err(StoreError::NoSuchVersion));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Fork { parent: usize },
        Write { fork: usize, changes: Vec<(u8, Option<Vec<u8>>)> },
        Add { fork: usize, key: u8, more: u64 },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let change =
            (0..4_u8, prop::option::weighted(0.8, prop::collection::vec(any::<u8>(), 0..9)));
        let step = prop_oneof![
            1 => any::<usize>().prop_map(|parent| Step::Fork { parent }),
            3 => (any::<usize>(), prop::collection::vec(change, 0..4))
                .prop_map(|(fork, changes)| Step::Write { fork, changes }),
            1 => (any::<usize>(), 0..4_u8, any::<u64>())
                .prop_map(|(fork, key, more)| Step::Add { fork, key, more }),
        ];
        prop::collection::vec(step, 0..60)
    }

    type State = BTreeMap<u8, Vec<u8>>;

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        /// The oracle copies the whole state for each version of each fork.
        #[test]
        fn as_if_everything_were_copied(steps in steps()) {
            let store = Store::new(Limits::default());
            let mut oracle: Vec<Vec<State>> = vec![vec![State::new()]];
            for step in steps {
                match step {
                    Step::Fork { parent } => {
                        let parent = parent % oracle.len();
                        let versions = oracle[parent].clone();
                        let expected = (oracle.len() as u64, versions.len() as u64 - 1);
                        prop_assert_eq!(store.fork(parent as u64), Ok(expected));
                        oracle.push(versions);
                    }
                    Step::Write { fork, changes } => {
                        let fork = fork % oracle.len();
                        let mut state = oracle[fork].last().unwrap().clone();
                        for (key, value) in &changes {
                            match value {
                                Some(value) => state.insert(*key, value.clone()),
                                None => state.remove(key),
                            };
                        }
                        let changes = changes.iter().map(|(key, value)| {
                            let change =
                                value.as_ref().map_or(Change::Remove, |value| Change::Put(value));
                            (std::slice::from_ref(key), change)
                        });
                        let prepared = store.prepare(fork as u64, changes).unwrap();
                        prop_assert_eq!(store.commit(prepared), Ok(oracle[fork].len() as u64));
                        oracle[fork].push(state);
                    }
                    Step::Add { fork, key, more } => {
                        let fork = fork % oracle.len();
                        let mut state = oracle[fork].last().unwrap().clone();
                        let old = match state.get(&key) {
                            None => Some(0),
                            Some(old) => old.as_slice().try_into().ok().map(u64::from_le_bytes),
                        };
                        let slice = [key];
                        let changes = [(slice.as_slice(), Change::Add(more))];
                        let prepared = store.prepare(fork as u64, changes);
                        let Some(old) = old else {
                            prop_assert_eq!(prepared.err(), Some(StoreError::NotANumber));
                            continue;
                        };
                        state.insert(key, old.wrapping_add(more).to_le_bytes().to_vec());
                        let committed = store.commit(prepared.unwrap());
                        prop_assert_eq!(committed, Ok(oracle[fork].len() as u64));
                        oracle[fork].push(state);
                    }
                }
            }
            for (fork, versions) in oracle.iter().enumerate() {
                for (version, state) in versions.iter().enumerate() {
                    let keys = [[0], [1], [2], [3]];
                    let keys = keys.iter().map(|key| key.as_slice());
                    let values = store.read_at(fork as u64, version as u64, keys).unwrap();
                    for (key, value) in (0..4).zip(values) {
                        prop_assert_eq!(value.as_deref(), state.get(&key).map(Vec::as_slice));
                    }
                }
            }
        }
    }
}
