//! The bytes of requests and answers. All numbers are little-endian.
//!
//! ```text
//! request:  op u8 | 0 0 0 | take u32, us | fork u64 | what follows depends on op
//!           1 fork
//!           2 write           count u16, changes: key | 1, value    put
//!                                                 key | 2           remove
//!                                                 key | 3, u64      add
//!           3 read            count u16, keys
//!           4 snapshot read   version u64 | count u16, keys
//! answer:   1 forked          fork u64, version u64
//!           2 written         version u64
//!           3 values          version u64 | count u16, values: 0      none
//!                                                              1, value
//! key:      length u16, bytes                value: length u32, bytes
//! ```
//!
//! Errors travel as errors of Ringbell: a code of the application, and a text.

use super::store::{Change, StoreError};
use ringbell::Access;
use std::fmt::{self, Display};
use std::time::Duration;

/// A request may ask to take no longer than this: nobody occupies the pool for long.
pub(crate) const LONGEST: Duration = Duration::from_secs(1);

/// The first 16 bytes of a request: all that is needed to know whom it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) access: Access,
    pub(crate) fork: u64,
    /// How long the request is to take, as if it had to wait for a disk.
    pub(crate) take: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    pub(crate) fork: u64,
    /// In whole microseconds.
    pub(crate) take: Duration,
    pub(crate) op: Op<'a>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op<'a> {
    /// A new fork of the latest state.
    Fork,
    Write(Vec<(&'a [u8], Change<'a>)>),
    Read(Vec<&'a [u8]>),
    Snapshot {
        version: u64,
        keys: Vec<&'a [u8]>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer<V> {
    Forked { fork: u64, version: u64 },
    Written { version: u64 },
    Values { version: u64, values: Vec<Option<V>> },
}

/// What is answered instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    Malformed,
    Store(StoreError),
}

impl Failure {
    pub(crate) const ALL: [Self; 6] = [
        Self::Malformed,
        Self::Store(StoreError::NoSuchFork),
        Self::Store(StoreError::NoSuchVersion),
        Self::Store(StoreError::NotANumber),
        Self::Store(StoreError::Full),
        Self::Store(StoreError::Conflict),
    ];

    /// The code of the application.
    pub(crate) fn code(self) -> u16 {
        match self {
            Self::Malformed => 1,
            Self::Store(StoreError::NoSuchFork) => 2,
            Self::Store(StoreError::NoSuchVersion) => 3,
            Self::Store(StoreError::NotANumber) => 4,
            Self::Store(StoreError::Full) => 5,
            Self::Store(StoreError::Conflict) => 6,
        }
    }

    pub(crate) fn from_code(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|failure| failure.code() == code)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "a malformed request",
            Self::Store(StoreError::NoSuchFork) => "no such fork",
            Self::Store(StoreError::NoSuchVersion) => "no such version, or not yet",
            Self::Store(StoreError::NotANumber) => "the value is no number",
            Self::Store(StoreError::Full) => "a limit of the store is reached",
            Self::Store(StoreError::Conflict) => "another write came between",
        })
    }
}

/// Takes fields off the front; `None` where the bytes end too early.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    fn key(&mut self) -> Option<&'a [u8]> {
        let len = self.u16()?;
        self.bytes(len.into())
    }

    fn value(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.bytes(len.try_into().ok()?)
    }

    /// A count, and so many items. Nothing is set aside for items that do not come.
    fn list<T>(&mut self, item: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.u16()?;
        (0..count).map(|_| item(self)).collect()
    }

    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

fn push_count(out: &mut Vec<u8>, count: usize) {
    out.extend(u16::try_from(count).expect("at most 65535 items").to_le_bytes());
}

fn push_key(out: &mut Vec<u8>, key: &[u8]) {
    out.extend(u16::try_from(key.len()).expect("keys of at most 65535 bytes").to_le_bytes());
    out.extend(key);
}

fn push_value(out: &mut Vec<u8>, value: &[u8]) {
    out.extend(u32::try_from(value.len()).expect("values of less than 4 GiB").to_le_bytes());
    out.extend(value);
}

const FORK: u8 = 1;
const WRITE: u8 = 2;
const READ: u8 = 3;
const SNAPSHOT: u8 = 4;

const PUT: u8 = 1;
const REMOVE: u8 = 2;
const ADD: u8 = 3;

fn head(fields: &mut Fields<'_>) -> Option<(u8, Head)> {
    let [op, 0, 0, 0] = fields.array()? else { return None };
    let access = match op {
        // A fork reads the latest state of its parent.
        FORK | READ => Access::Read,
        WRITE => Access::Write,
        SNAPSHOT => Access::SnapshotRead,
        _ => return None,
    };
    let take = Duration::from_micros(fields.u32()?.into());
    let fork = fields.u64()?;
    (take <= LONGEST).then_some((op, Head { access, fork, take }))
}

impl Head {
    /// Reads no further than the head.
    pub(crate) fn decode(request: &[u8]) -> Result<Self, Failure> {
        head(&mut Fields(request)).map(|(_, head)| head).ok_or(Failure::Malformed)
    }
}

impl<'a> Request<'a> {
    /// Appends the request to `out`.
    ///
    /// # Panics
    /// If it takes longer than a u32 of microseconds, or has more or longer items than their counts
    /// can say.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let op = match self.op {
            Op::Fork => FORK,
            Op::Write(_) => WRITE,
            Op::Read(_) => READ,
            Op::Snapshot { .. } => SNAPSHOT,
        };
        out.extend([op, 0, 0, 0]);
        out.extend(u32::try_from(self.take.as_micros()).expect("at most an hour").to_le_bytes());
        out.extend(self.fork.to_le_bytes());
        match &self.op {
            Op::Fork => {}
            Op::Write(changes) => {
                push_count(out, changes.len());
                for (key, change) in changes {
                    push_key(out, key);
                    match change {
                        Change::Put(value) => {
                            out.push(PUT);
                            push_value(out, value);
                        }
                        Change::Remove => out.push(REMOVE),
                        Change::Add(more) => {
                            out.push(ADD);
                            out.extend(more.to_le_bytes());
                        }
                    }
                }
            }
            Op::Read(keys) => {
                push_count(out, keys.len());
                keys.iter().for_each(|key| push_key(out, key));
            }
            Op::Snapshot { version, keys } => {
                out.extend(version.to_le_bytes());
                push_count(out, keys.len());
                keys.iter().for_each(|key| push_key(out, key));
            }
        }
    }

    pub(crate) fn decode(request: &'a [u8]) -> Result<Self, Failure> {
        Self::parse(&mut Fields(request)).ok_or(Failure::Malformed)
    }

    fn parse(fields: &mut Fields<'a>) -> Option<Self> {
        let (op, Head { fork, take, .. }) = head(fields)?;
        let op = match op {
            FORK => Op::Fork,
            WRITE => Op::Write(fields.list(|fields| {
                let key = fields.key()?;
                let change = match fields.u8()? {
                    PUT => Change::Put(fields.value()?),
                    REMOVE => Change::Remove,
                    ADD => Change::Add(fields.u64()?),
                    _ => return None,
                };
                Some((key, change))
            })?),
            READ => Op::Read(fields.list(Fields::key)?),
            SNAPSHOT => Op::Snapshot { version: fields.u64()?, keys: fields.list(Fields::key)? },
            _ => return None,
        };
        fields.end()?;
        Some(Self { fork, take, op })
    }
}

const FORKED: u8 = 1;
const WRITTEN: u8 = 2;
const VALUES: u8 = 3;

impl<V: AsRef<[u8]>> Answer<V> {
    /// Appends the answer to `out`.
    ///
    /// # Panics
    /// If it has more or longer values than their counts can say.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Forked { fork, version } => {
                out.push(FORKED);
                out.extend(fork.to_le_bytes());
                out.extend(version.to_le_bytes());
            }
            Self::Written { version } => {
                out.push(WRITTEN);
                out.extend(version.to_le_bytes());
            }
            Self::Values { version, values } => {
                out.push(VALUES);
                out.extend(version.to_le_bytes());
                push_count(out, values.len());
                for value in values {
                    out.push(u8::from(value.is_some()));
                    if let Some(value) = value {
                        push_value(out, value.as_ref());
                    }
                }
            }
        }
    }
}

impl<'a> Answer<&'a [u8]> {
    /// `None` if it is none.
    pub(crate) fn decode(answer: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(answer);
        let answer = match fields.u8()? {
            FORKED => Self::Forked { fork: fields.u64()?, version: fields.u64()? },
            WRITTEN => Self::Written { version: fields.u64()? },
            VALUES => {
                let version = fields.u64()?;
                let values = fields.list(|fields| match fields.u8()? {
                    0 => Some(None),
                    1 => Some(Some(fields.value()?)),
                    _ => None,
                })?;
                Self::Values { version, values }
            }
            _ => return None,
        };
        fields.end()?;
        Some(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Owned = (u8, Vec<u8>, u64);

    /// Requests over bytes that somebody else owns.
    fn request(
        op: u8,
        fork: u64,
        take: u32,
        version: u64,
        items: &[(Vec<u8>, Owned)],
    ) -> Request<'_> {
        let keys = || items.iter().map(|(key, _)| key.as_slice());
        let changes = || {
            items.iter().map(|(key, (kind, value, more))| {
                let change = match kind % 3 {
                    0 => Change::Put(value),
                    1 => Change::Remove,
                    _ => Change::Add(*more),
                };
                (key.as_slice(), change)
            })
        };
        let op = match op % 4 {
            0 => Op::Fork,
            1 => Op::Write(changes().collect()),
            2 => Op::Read(keys().collect()),
            _ => Op::Snapshot { version, keys: keys().collect() },
        };
        Request { fork, take: Duration::from_micros(take.into()), op }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn requests_come_back(
            op: u8,
            fork: u64,
            take in 0..=1_000_000_u32,
            version: u64,
            items in prop::collection::vec((any::<Vec<u8>>(), any::<Owned>()), 0..5),
            cut: prop::sample::Index,
        ) {
            let request = request(op, fork, take, version, &items);
            let mut bytes = Vec::new();
            request.encode(&mut bytes);
            prop_assert_eq!(Request::decode(&bytes), Ok(request.clone()));
            let head = Head::decode(&bytes).unwrap();
            prop_assert_eq!((head.fork, head.take), (request.fork, request.take));
            let cut = &bytes[..cut.index(bytes.len())];
            prop_assert_eq!(Request::decode(cut), Err(Failure::Malformed));
            bytes.push(0);
            prop_assert_eq!(Request::decode(&bytes), Err(Failure::Malformed));
        }

        #[test]
        fn answers_come_back(
            kind in 0..3,
            fork: u64,
            version: u64,
            values: Vec<Option<Vec<u8>>>,
            cut: prop::sample::Index,
        ) {
            let values: Vec<_> = values.iter().map(Option::as_deref).collect();
            let answer = match kind {
                0 => Answer::Forked { fork, version },
                1 => Answer::Written { version },
                _ => Answer::Values { version, values },
            };
            let mut bytes = Vec::new();
            answer.encode(&mut bytes);
            prop_assert_eq!(Answer::decode(&bytes), Some(answer));
            prop_assert_eq!(Answer::decode(&bytes[..cut.index(bytes.len())]), None);
        }

        #[test]
        fn any_bytes_are_a_request_or_none(bytes: Vec<u8>, op in 0..6_u8) {
            let _ = Request::decode(&bytes);
            let _ = Answer::decode(&bytes);
            let begun = [&[op, 0, 0, 0, 1, 0, 0, 0][..], &bytes].concat();
            if let Ok(request) = Request::decode(&begun) {
                let mut again = Vec::new();
                request.encode(&mut again);
                prop_assert_eq!(again, begun);
            }
        }
    }

    #[test]
    fn nobody_takes_too_long() {
        let mut bytes = Vec::new();
        let take = LONGEST + Duration::from_micros(1);
        Request { fork: 0, take, op: Op::Fork }.encode(&mut bytes);
        assert_eq!(Head::decode(&bytes), Err(Failure::Malformed));
    }

    #[test]
    fn failures_have_codes() {
        for failure in Failure::ALL {
            assert_eq!(Failure::from_code(failure.code()), Some(failure));
        }
    }
}
