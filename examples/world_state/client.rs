//! A client that knows what every answer must be.
//!
//! A [`Player`] makes requests and checks answers; it keeps its own picture of its forks, the
//! plainest there is: a copy of the whole state for each version. It needs no transport, so the
//! tests play it against the service directly. [`play`] plays it over a session, many requests in
//! flight.

use crate::world::protocol::{Answer, Failure, Op, Request};
use crate::world::store::{Change, ROOT, StoreError};
use ringbell::{CallId, Client};
use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::rc::Rc;
use std::time::Duration;

type State = BTreeMap<Vec<u8>, Vec<u8>>;

/// What all players count together in the fork that they share.
pub(crate) const TOTAL: &[u8] = b"total";

/// A fork that nobody else writes.
struct Fork {
    id: u64,
    /// The state at each version, as it will be when all that was sent is done.
    versions: Vec<Rc<State>>,
    /// Up to here the server has said that it is done: a snapshot read does not wait for writes.
    done: usize,
}

/// What the answer to a request must be.
#[derive(Debug)]
pub(crate) enum Expected {
    /// A fork that begins with these versions.
    Forked(Vec<Rc<State>>),
    /// This version of the player's fork with this index.
    Written {
        fork: usize,
        version: usize,
    },
    Values {
        version: u64,
        values: Vec<Option<Vec<u8>>>,
        snapshot: bool,
    },
    Failure(Failure),
    /// In the shared fork: a version that is later than all that were known when this was sent.
    SharedWritten {
        after: u64,
    },
    /// In the shared fork, latest: the total is the version, and this many are the player's own.
    SharedValues {
        after: u64,
        own: u64,
    },
    /// In the shared fork, at a version: the total is that version.
    SharedSnapshot {
        version: u64,
    },
}

/// How many requests of each kind were answered, correctly.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    pub(crate) forks: u64,
    pub(crate) writes: u64,
    pub(crate) reads: u64,
    pub(crate) snapshots: u64,
    pub(crate) refusals: u64,
}

impl Tally {
    pub(crate) fn sum(&self) -> u64 {
        self.forks + self.writes + self.reads + self.snapshots + self.refusals
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.forks += other.forks;
        self.writes += other.writes;
        self.reads += other.reads;
        self.snapshots += other.snapshots;
        self.refusals += other.refusals;
    }
}

/// Numbers at random, the same for the same seed (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32;
        usize::try_from(number % bound as u64).expect("less than the bound")
    }
}

pub(crate) struct Player {
    dice: Dice,
    forks: Vec<Fork>,
    shared: u64,
    /// This player's own count in the shared fork: its key, and how many additions were sent.
    own: (Vec<u8>, u64),
    /// The latest version of the shared fork that is known.
    known: u64,
    pub(crate) tally: Tally,
}

const MOST_FORKS: usize = 12;
const KEYS: usize = 12;

impl Player {
    /// One of several players of one server; `number` tells them apart, `shared` is the fork that
    /// they share. Its version counts additions: nobody else may write it.
    pub(crate) fn new(number: u64, shared: u64) -> Self {
        let root = Fork { id: ROOT, versions: vec![Rc::default()], done: 0 };
        Self {
            dice: Dice(number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            forks: vec![root],
            shared,
            own: (format!("player {number}").into_bytes(), 0),
            known: 0,
            tally: Tally::default(),
        }
    }

    /// Additions to the shared fork that were sent.
    pub(crate) fn added(&self) -> u64 {
        self.own.1
    }

    fn key(&mut self) -> Vec<u8> {
        format!("key {}", self.dice.below(KEYS)).into_bytes()
    }

    fn keys(&mut self) -> Vec<Vec<u8>> {
        (0..self.dice.below(4)).map(|_| self.key()).collect()
    }

    /// Most requests take no time; some take long enough to meet others.
    fn take(&mut self) -> Duration {
        match self.dice.below(4) {
            0 => Duration::from_micros(self.dice.below(200) as u64),
            _ => Duration::ZERO,
        }
    }

    /// Appends a request to `out`; what is to come back.
    pub(crate) fn request(&mut self, out: &mut Vec<u8>) -> Expected {
        let take = self.take();
        match self.dice.below(20) {
            0 if self.forks.len() < MOST_FORKS => self.fork(out, take),
            0..=6 if self.forks.len() > 1 => self.write(out, take),
            7..=10 => self.read(out, take),
            11..=13 => self.snapshot(out, take),
            14 => self.refused(out, take),
            15..=16 => self.shared_read(out, take),
            17 => self.shared_snapshot(out, take),
            _ => self.shared_add(out, take),
        }
    }

    /// Any of its forks, the root included, which nobody writes.
    fn any(&mut self) -> &Fork {
        let index = self.dice.below(self.forks.len());
        &self.forks[index]
    }

    fn fork(&mut self, out: &mut Vec<u8>, take: Duration) -> Expected {
        let parent = self.any();
        Request { fork: parent.id, take, op: Op::Fork }.encode(out);
        Expected::Forked(parent.versions.clone())
    }

    fn write(&mut self, out: &mut Vec<u8>, take: Duration) -> Expected {
        let index = 1 + self.dice.below(self.forks.len() - 1);
        let mut state =
            State::clone(self.forks[index].versions.last().expect("at least version 0"));
        let mut numbers = true;
        let mut changes = Vec::new();
        for _ in 0..=self.dice.below(3) {
            let key = self.key();
            let value = match self.dice.below(4) {
                0 => None,
                1 => Some(vec![b'v'; self.dice.below(40)]),
                _ => Some((self.dice.below(1000) as u64).to_le_bytes().to_vec()),
            };
            let adds = self.dice.below(2) == 0;
            changes.push((key, value, adds));
        }
        let changes: Vec<_> = changes
            .iter()
            .map(|(key, value, adds)| {
                let number = value
                    .as_deref()
                    .and_then(|value| Some(u64::from_le_bytes(value.try_into().ok()?)));
                let change = match (value, number) {
                    (Some(_), Some(more)) if *adds => {
                        let old = match state.get(key) {
                            Some(old) => old.as_slice().try_into().ok().map(u64::from_le_bytes),
                            None => Some(0),
                        };
                        numbers &= old.is_some();
                        state.insert(key.clone(), (old.unwrap_or(0) + more).to_le_bytes().to_vec());
                        Change::Add(more)
                    }
                    (Some(value), _) => {
                        state.insert(key.clone(), value.clone());
                        Change::Put(value)
                    }
                    (None, _) => {
                        state.remove(key);
                        Change::Remove
                    }
                };
                (key.as_slice(), change)
            })
            .collect();
        let fork = &mut self.forks[index];
        Request { fork: fork.id, take, op: Op::Write(changes) }.encode(out);
        if !numbers {
            // All of it is refused.
            return Expected::Failure(Failure::Store(StoreError::NotANumber));
        }
        fork.versions.push(Rc::new(state));
        Expected::Written { fork: index, version: fork.versions.len() - 1 }
    }

    fn read(&mut self, out: &mut Vec<u8>, take: Duration) -> Expected {
        let keys = self.keys();
        let fork = self.any();
        let op = Op::Read(keys.iter().map(Vec::as_slice).collect());
        Request { fork: fork.id, take, op }.encode(out);
        fork.expect(fork.versions.len() - 1, &keys, false)
    }

    fn snapshot(&mut self, out: &mut Vec<u8>, take: Duration) -> Expected {
        let keys = self.keys();
        let index = self.dice.below(self.forks.len());
        let version = self.dice.below(self.forks[index].done + 1);
        let fork = &self.forks[index];
        let op = Op::Snapshot {
            version: version as u64,
            keys: keys.iter().map(Vec::as_slice).collect(),
        };
        Request { fork: fork.id, take, op }.encode(out);
        fork.expect(version, &keys, true)
    }

    fn refused(&mut self, out: &mut Vec<u8>, take: Duration) -> Expected {
        let fork = self.any().id;
        let (fork, op, failure) = match self.dice.below(3) {
            0 => (u64::MAX, Op::Fork, Failure::Store(StoreError::NoSuchFork)),
            1 => {
                let op = Op::Snapshot { version: u64::MAX, keys: Vec::new() };
                (fork, op, Failure::Store(StoreError::NoSuchVersion))
            }
            _ => {
                out.extend(b"no request");
                return Expected::Failure(Failure::Malformed);
            }
        };
        Request { fork, take, op }.encode(out);
        Expected::Failure(failure)
    }

    fn shared_add(&mut self, out: &mut Vec<u8>, take: Duration) -> Expected {
        let op = Op::Write(vec![(TOTAL, Change::Add(1)), (&self.own.0, Change::Add(1))]);
        Request { fork: self.shared, take, op }.encode(out);
        self.own.1 += 1;
        Expected::SharedWritten { after: self.known }
    }

    fn shared_read(&mut self, out: &mut Vec<u8>, take: Duration) -> Expected {
        let op = Op::Read(vec![TOTAL, &self.own.0]);
        Request { fork: self.shared, take, op }.encode(out);
        Expected::SharedValues { after: self.known, own: self.own.1 }
    }

    fn shared_snapshot(&mut self, out: &mut Vec<u8>, take: Duration) -> Expected {
        let version =
            self.dice.below(usize::try_from(self.known).expect("not that many") + 1) as u64;
        let op = Op::Snapshot { version, keys: vec![TOTAL] };
        Request { fork: self.shared, take, op }.encode(out);
        Expected::SharedSnapshot { version }
    }

    /// Whether `answer` is what was expected.
    pub(crate) fn check(
        &mut self,
        expected: Expected,
        answer: Result<Answer<&[u8]>, Failure>,
    ) -> Result<(), Box<dyn Error>> {
        let right = match (&expected, &answer) {
            (Expected::Forked(versions), Ok(Answer::Forked { fork, version })) => {
                let done = versions.len() - 1;
                self.forks.push(Fork { id: *fork, versions: versions.clone(), done });
                self.tally.forks += 1;
                *version == done as u64
            }
            (Expected::Written { fork, version }, Ok(Answer::Written { version: is })) => {
                let fork = &mut self.forks[*fork];
                fork.done = fork.done.max(*version);
                self.tally.writes += 1;
                *is == *version as u64
            }
            (
                Expected::Values { version, values, snapshot },
                Ok(Answer::Values { version: is, values: are }),
            ) => {
                self.tally.reads += u64::from(!snapshot);
                self.tally.snapshots += u64::from(*snapshot);
                is == version && are.iter().copied().eq(values.iter().map(Option::as_deref))
            }
            (Expected::Failure(failure), Err(is)) => {
                self.tally.refusals += 1;
                is == failure
            }
            (Expected::SharedWritten { after }, Ok(Answer::Written { version })) => {
                self.known = self.known.max(*version);
                self.tally.writes += 1;
                version > after
            }
            (Expected::SharedValues { after, own }, Ok(Answer::Values { version, values })) => {
                self.known = self.known.max(*version);
                self.tally.reads += 1;
                version >= after && numbers(values) == Some(vec![*version, *own])
            }
            (Expected::SharedSnapshot { version }, Ok(Answer::Values { version: is, values })) => {
                self.tally.snapshots += 1;
                is == version && numbers(values) == Some(vec![*version])
            }
            _ => false,
        };
        if right { Ok(()) } else { Err(format!("expected {expected:?}, got {answer:?}").into()) }
    }
}

impl Fork {
    fn expect(&self, version: usize, keys: &[Vec<u8>], snapshot: bool) -> Expected {
        let state = &self.versions[version];
        let values = keys.iter().map(|key| state.get(key).cloned()).collect();
        Expected::Values { version: version as u64, values, snapshot }
    }
}

/// Values that are numbers; a missing one is 0.
fn numbers(values: &[Option<&[u8]>]) -> Option<Vec<u64>> {
    let number = |value: &Option<&[u8]>| match value {
        Some(value) => (*value).try_into().ok().map(u64::from_le_bytes),
        None => Some(0),
    };
    values.iter().map(number).collect()
}

/// Sends `requests` requests of `player`, up to `depth` in flight, and checks all answers.
pub(crate) fn play(
    player: &mut Player,
    client: &mut Client,
    requests: u64,
    depth: usize,
) -> Result<(), Box<dyn Error>> {
    let mut open: HashMap<CallId, Expected> = HashMap::new();
    let mut request = Vec::new();
    let mut left = requests;
    while left > 0 || !open.is_empty() {
        while left > 0 && open.len() < depth {
            request.clear();
            let expected = player.request(&mut request);
            open.insert(client.post(&request)?, expected);
            left -= 1;
        }
        client.flush();
        let answer = client.recv(None)?;
        let expected = open.remove(&answer.call).ok_or("an answer to no call")?;
        match answer.outcome {
            Ok(response) => {
                let answer = Answer::decode(response.payload()).ok_or("an answer that is none")?;
                player.check(expected, Ok(answer))?;
            }
            Err(error) => {
                let failure = error.application_code().and_then(Failure::from_code);
                player.check(expected, Err(failure.ok_or(error)?))?;
            }
        }
    }
    Ok(())
}

/// One request, its answer handed to `read`.
pub(crate) fn ask<R>(
    client: &mut Client,
    request: &Request<'_>,
    read: impl FnOnce(Answer<&[u8]>) -> Option<R>,
) -> Result<R, Box<dyn Error>> {
    let mut bytes = Vec::new();
    request.encode(&mut bytes);
    let response = client.call(&bytes)?;
    Ok(Answer::decode(response.payload()).and_then(read).ok_or("an answer of the wrong kind")?)
}
