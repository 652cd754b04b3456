//! The ring against an oracle: everything in one process, with a queue that says what must come
//! out.
//!
//! Positions start anywhere, near the wraps of 32 and 64 bits above all. Bodies are full of words
//! that look like headers, so that a stale byte that is taken for one shows.

use proptest::prelude::*;
use ringbell::layout::{self, HeaderWord, Kind, LINE, flag};
use ringbell::memory::{lines_pair, word_pair};
use ringbell::ring::{ClaimError, Consumer, Polled, Producer, Released};
use ringbell::sync::Ordering;
use ringbell_shm_tests::pattern::{Chance, mix};
use ringbell_shm_tests::scaled;
use std::collections::VecDeque;

const KINDS: [Kind; 11] = [
    Kind::Request,
    Kind::Response,
    Kind::Error,
    Kind::OneWay,
    Kind::Event,
    Kind::StreamItem,
    Kind::StreamEnd,
    Kind::Cancel,
    Kind::Ping,
    Kind::Pong,
    Kind::Goodbye,
];

fn config(cases: u64) -> ProptestConfig {
    let cases = u32::try_from(scaled(cases)).unwrap_or(u32::MAX);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// A position from which wraps are near, whatever is wide enough to wrap.
fn start() -> impl Strategy<Value = u64> {
    let lines = prop_oneof![3 => 0..200u64, 1 => 0..(1u64 << 20)];
    (prop_oneof![Just(0u64), Just(1 << 31), Just(1 << 32), Just(1 << 63), any::<u64>()], lines)
        .prop_map(|(wrap, back)| (wrap & !(LINE - 1)).wrapping_sub(back * LINE))
}

fn capacity() -> impl Strategy<Value = u64> {
    prop_oneof![4 => Just(2048u64), 2 => Just(4096), 1 => Just(8192), 1 => Just(65_536)]
}

#[derive(Debug, Clone)]
enum Op {
    /// Claims `claimed` per mille of the longest body, commits so much of it, and zeroes ahead or
    /// not.
    Send { claimed: u32, used: u32, flags: u8, ahead: bool },
    /// The same without publishing anything, having scribbled over all of it.
    Drop { claimed: u32 },
    /// Pushes a record of so many per mille of the longest body, in one go.
    Push { body: u32, ahead: bool },
    /// Reads so many records.
    Take { count: u8 },
    /// The same in the way that is short for plain records.
    TakePlain { count: u8 },
    /// Looks, and takes nothing.
    Look,
    /// Asks whether there is room.
    Ask { body: u32 },
    /// Zeroes ahead.
    Ahead,
}

fn op() -> impl Strategy<Value = Op> {
    // Short ones, those that fill a line exactly, and all others.
    let body = || prop_oneof![0..100u32, Just(0), Just(1000), 0..=1000u32];
    prop_oneof![
        6 => (
            body(),
            prop_oneof![2 => Just(1000u32), 1 => 0..=1000u32],
            0..=flag::ALL,
            any::<bool>(),
        )
            .prop_map(|(claimed, used, flags, ahead)| Op::Send { claimed, used, flags, ahead }),
        1 => body().prop_map(|claimed| Op::Drop { claimed }),
        4 => (body(), any::<bool>()).prop_map(|(body, ahead)| Op::Push { body, ahead }),
        3 => (1..5u8).prop_map(|count| Op::Take { count }),
        3 => (1..5u8).prop_map(|count| Op::TakePlain { count }),
        1 => Just(Op::Look),
        1 => body().prop_map(|body| Op::Ask { body }),
        1 => Just(Op::Ahead),
    ]
}

/// A record as the oracle knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sent {
    header: HeaderWord,
    call: u64,
    body: Vec<u8>,
}

struct Oracle {
    producer: Producer,
    consumer: Consumer,
    queue: VecDeque<Sent>,
    calls: u64,
    /// Where the record after the last released one begins. Padding in front of it belongs to it.
    released: u64,
    /// The consumer has found it empty, and nothing was sent since.
    emptied: bool,
}

/// Words that would all be headers of records.
fn scribble(bytes: &mut [u8], salt: u64) {
    for (index, chunk) in (0u64..).zip(bytes.chunks_mut(8)) {
        let kind = KINDS[usize::try_from(mix(salt, index) % 11).expect("small")];
        let word =
            HeaderWord::new(kind, 0, 0, u32::try_from(mix(index, salt) % 64).expect("small"));
        chunk.copy_from_slice(&word.0.to_le_bytes()[..chunk.len()]);
    }
}

impl Oracle {
    fn new(capacity: u64, start: u64) -> Self {
        let (own, peer) = lines_pair(usize::try_from(capacity).expect("small"));
        let (tail, _) = word_pair();
        let (head, head_seen) = word_pair();
        head.store(start, Ordering::Relaxed);
        Self {
            producer: Producer::new(own, tail, head_seen, start),
            consumer: Consumer::new(peer, head, start),
            queue: VecDeque::new(),
            calls: 0,
            released: start,
            emptied: true,
        }
    }

    fn body(&self, per_mille: u32) -> usize {
        self.producer.max_body() * per_mille as usize / 1000
    }

    /// Refusing `body` bytes is right: the consumer has not found the ring empty, and so much is
    /// unread that they do not fit, give or take the quarter that the consumer may keep to itself.
    fn is_full_for(&mut self, body: usize) {
        let capacity = self.producer.capacity();
        let size = layout::record_size(body);
        let to_end = capacity - (self.producer.tail() & (capacity - 1));
        let padding = if size > to_end { to_end } else { 0 };
        let unread = self.producer.tail().wrapping_sub(self.released);
        let known = self.producer.fill().expect("an honest consumer");
        let state = format!(
            "{size} and {padding} of padding in {capacity}: {unread} unread, {known} as the producer knows, emptied {}",
            self.emptied
        );
        assert!(!self.emptied, "an empty ring is said to be full: {state}");
        assert!(
            unread + capacity / 4 + padding + size + layout::zero_window(capacity) > capacity,
            "full too early: {state}"
        );
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Send { claimed, used, flags, ahead } => self.send(claimed, used, flags, ahead),
            Op::Drop { claimed } => {
                let body = self.body(claimed);
                match self.producer.try_claim(body) {
                    Ok(claim) => {
                        scribble(self.producer.body_mut(&claim), 1);
                        drop(claim);
                    }
                    Err(ClaimError::Full) => self.is_full_for(body),
                    Err(error) => panic!("{error:?}"),
                }
            }
            Op::Push { body, ahead } => self.push(body, ahead),
            Op::Take { count } => (0..count).for_each(|_| self.take()),
            Op::TakePlain { count } => (0..count).for_each(|_| self.take_plain()),
            Op::Look => {
                let found = self.consumer.peek().expect("an honest producer");
                assert_eq!(found.is_some(), !self.queue.is_empty());
                assert_eq!(self.consumer.has_pending(), !self.queue.is_empty());
                self.emptied |= found.is_none();
            }
            Op::Ask { body } => {
                let body = self.body(body);
                let said = self.producer.has_room(body).expect("an honest consumer");
                if !said {
                    self.is_full_for(body);
                }
            }
            Op::Ahead => self.producer.zero_ahead(),
        }
    }

    fn send(&mut self, claimed: u32, used: u32, flags: u8, ahead: bool) {
        let claimed = self.body(claimed);
        let used = claimed * used as usize / 1000;
        let call = self.calls;
        let claim = match self.producer.try_claim(claimed) {
            Ok(claim) => claim,
            Err(ClaimError::Full) => {
                self.is_full_for(claimed);
                return;
            }
            Err(error) => panic!("{error:?}"),
        };
        self.calls += 1;
        assert_eq!(claim.len(), claimed);
        scribble(self.producer.body_mut(&claim), call);
        let mark = call.to_le_bytes();
        let mark = &mark[..used.min(8)];
        self.producer.write(&claim, 0, mark);
        let body = self.producer.body(&claim)[..used].to_vec();
        let kind = KINDS[usize::try_from(call % 11).expect("small")];
        let code = u16::try_from(call & 0xffff).expect("16 bits");
        let header = HeaderWord::new(kind, flags, code, u32::try_from(used).expect("small"));
        self.producer.commit(claim, header, call);
        if ahead {
            self.producer.zero_ahead();
        }
        self.queue.push_back(Sent { header, call, body });
        self.emptied = false;
    }

    fn push(&mut self, body: u32, ahead: bool) {
        let len = self.body(body);
        let call = self.calls;
        let mut body = vec![0; len];
        scribble(&mut body, call);
        let kind = KINDS[usize::try_from(call % 11).expect("small")];
        let header = HeaderWord::new(kind, 0, 7, u32::try_from(len).expect("small"));
        match self.producer.try_push(header, call, &body) {
            Ok(()) => {}
            Err(ClaimError::Full) => return self.is_full_for(len),
            Err(error) => panic!("{error:?}"),
        }
        self.calls += 1;
        if ahead {
            self.producer.zero_ahead();
        }
        self.queue.push_back(Sent { header, call, body });
        self.emptied = false;
    }

    fn take_plain(&mut self) {
        match self.consumer.poll_plain() {
            Polled::Nothing => {
                assert!(self.queue.is_empty(), "{} records are lost", self.queue.len());
                self.emptied = true;
            }
            Polled::Plain(plain) => {
                let wanted = self.queue.pop_front().expect("nothing was sent");
                let mut body = vec![1; 3];
                let header = plain.header().word();
                let (call, _) = self.consumer.take_plain(plain, &mut body);
                self.released = self.consumer.head();
                assert_eq!(Sent { header, call, body }, wanted);
            }
            Polled::Other => self.take(),
        }
    }

    fn take(&mut self) {
        let Some(record) = self.consumer.peek().expect("an honest producer") else {
            assert!(self.queue.is_empty(), "{} records are lost", self.queue.len());
            self.emptied = true;
            return;
        };
        let wanted = self.queue.pop_front().expect("nothing was sent");
        let mut body = Vec::new();
        self.consumer.read(&record, 0, &mut body);
        assert_eq!(Sent { header: record.header.word(), call: record.call, body }, wanted);
        assert_eq!(Some(record.header.kind()), wanted.header.kind());
        if wanted.body.len() >= 16 {
            let word = u64::from_le_bytes(wanted.body[8..16].try_into().expect("eight bytes"));
            assert_eq!(self.consumer.word(&record, 8), word);
            let mut part = vec![0; wanted.body.len() - 9];
            self.consumer.read_to(&record, 9, &mut part);
            assert_eq!(part, wanted.body[9..]);
        }
        let _: Released = self.consumer.release(record);
        self.released = self.consumer.head();
    }

    fn drain(&mut self) {
        while !self.queue.is_empty() {
            self.take();
        }
        self.take();
        // A ring that was found empty takes the longest record there is, told or not.
        let longest = self.producer.max_body();
        assert!(self.producer.try_claim(longest).is_ok());
        self.consumer.settle();
        let padding = self.producer.tail().wrapping_sub(self.consumer.head());
        assert_eq!(self.producer.fill(), Ok(padding));
    }
}

proptest! {
    #![proptest_config(config(6000))]

    /// What was sent comes out: once, whole, in order, and nothing else does.
    #[test]
    fn a_ring_is_a_queue(
        capacity in capacity(),
        start in start(),
        ops in prop::collection::vec(op(), 1..400),
    ) {
        let mut oracle = Oracle::new(capacity, start);
        for op in &ops {
            oracle.step(op);
        }
        oracle.drain();
    }

    /// A producer that writes whatever it likes makes its consumer say so, and nothing worse.
    #[test]
    fn a_consumer_survives_any_bytes(
        capacity in capacity(),
        start in start(),
        seed in any::<u64>(),
        writes in 1..400usize,
    ) {
        let (mut lines, peer) = lines_pair(usize::try_from(capacity).expect("small"));
        let (head, _) = word_pair();
        let mut consumer = Consumer::new(peer, head, start);
        let mut chance = Chance::new(seed);
        let mut out = Vec::new();
        for _ in 0..writes {
            for _ in 0..chance.below(4) {
                let position = consumer.head().wrapping_add(chance.below(capacity / 8) * 8);
                lines.store(position, hostile_word(&mut chance, capacity), Ordering::Relaxed);
            }
            // Often where it will be seen.
            if chance.below(2) == 0 {
                let word = hostile_word(&mut chance, capacity);
                lines.store(consumer.head(), word, Ordering::Relaxed);
            }
            let _ = consumer.has_pending();
            if chance.below(2) == 0
                && let Polled::Plain(header) = consumer.poll_plain()
            {
                // Meanwhile everything changes.
                lines.store(consumer.head(), chance.draw(), Ordering::Relaxed);
                let _ = consumer.take_plain(header, &mut out);
                prop_assert!(out.len() <= layout::max_body(capacity));
                continue;
            }
            match consumer.peek() {
                Ok(Some(record)) => {
                    prop_assert!(record.header.kind() != Kind::Padding);
                    prop_assert!(record.len() <= layout::max_body(capacity));
                    // Meanwhile everything changes.
                    lines.store(consumer.head(), chance.draw(), Ordering::Relaxed);
                    out.clear();
                    consumer.read(&record, 0, &mut out);
                    prop_assert_eq!(out.len(), record.len());
                    if record.len() >= 8 {
                        let _ = consumer.word(&record, 0);
                    }
                    let before = consumer.head();
                    let _ = consumer.release(record);
                    let moved = consumer.head().wrapping_sub(before);
                    prop_assert!(moved <= layout::max_record(capacity));
                }
                Ok(None) => {}
                Err(_) => return Ok(()),
            }
        }
    }

    /// A consumer that publishes whatever it likes makes its producer say so, and nothing worse.
    #[test]
    fn a_producer_survives_any_head(
        capacity in capacity(),
        start in start(),
        seed in any::<u64>(),
        sends in 1..400usize,
    ) {
        let (own, _peer) = lines_pair(usize::try_from(capacity).expect("small"));
        let (tail, tail_seen) = word_pair();
        let (head, head_seen) = word_pair();
        head.store(start, Ordering::Relaxed);
        let mut producer = Producer::new(own, tail, head_seen, start);
        let mut chance = Chance::new(seed);
        let mut honest = start;
        for _ in 0..sends {
            let lie = match chance.below(12) {
                0 => producer.tail().wrapping_add(chance.below(4) * LINE),
                1 => chance.draw(),
                2 => honest.wrapping_sub(chance.below(1000)),
                3 => producer.tail().wrapping_sub(chance.below(2 * capacity)),
                _ => producer.tail(),
            };
            head.store(lie, Ordering::Relaxed);
            let body = chance.below(layout::max_body(capacity) as u64 + 1);
            let body = usize::try_from(body).expect("small");
            match producer.try_claim(body) {
                Ok(claim) => {
                    let before = claim.len();
                    producer.body_mut(&claim).fill(0xff);
                    let length = u32::try_from(before).expect("small");
                    producer.commit(claim, HeaderWord::new(Kind::Request, 0, 0, length), 1);
                    producer.zero_ahead();
                }
                Err(ClaimError::Full) => {}
                Err(ClaimError::Fault(_)) => return Ok(()),
                Err(error) => panic!("{error:?}"),
            }
            let _ = (producer.has_room(body), producer.fill());
            prop_assert_eq!(tail_seen.load(), producer.tail());
            honest = producer.tail();
        }
    }
}

/// A word that is impossible now and then, and possible but wrong otherwise.
fn hostile_word(chance: &mut Chance, capacity: u64) -> u64 {
    let length = u32::try_from(match chance.below(6) {
        0 => chance.draw() >> 32,
        1 => layout::max_body(capacity) as u64 + chance.below(3),
        2 => capacity - layout::FRAME_HEADER as u64 - chance.below(3) * LINE,
        _ => chance.below(layout::max_body(capacity) as u64 + 1),
    })
    .expect("32 bits");
    match chance.below(10) {
        0 => chance.draw(),
        1 => 0,
        2 => HeaderWord::new(Kind::Padding, 0, 0, length).0,
        3 => u64::from(length) | chance.below(256) << 32,
        4 => HeaderWord::new(Kind::Response, 0, 0, length).0 | chance.below(256) << 40,
        _ => {
            HeaderWord::new(KINDS[usize::try_from(chance.below(11)).expect("small")], 0, 0, length)
                .0
        }
    }
}

#[test]
fn lengths_at_the_limits_are_taken_and_those_beyond_refused() {
    for capacity in [2048u64, 4096, 65_536, 1 << 20] {
        let mut oracle = Oracle::new(capacity, 0);
        let max = oracle.producer.max_body();
        assert_eq!(oracle.producer.try_claim(max + 1).unwrap_err(), ClaimError::TooLarge(max));
        assert_eq!(oracle.producer.try_claim(usize::MAX).unwrap_err(), ClaimError::TooLarge(max));
        for round in 0..200 {
            oracle.step(&Op::Send {
                claimed: if round % 3 == 0 { 0 } else { 1000 },
                used: 1000,
                flags: 0,
                ahead: true,
            });
            oracle.step(&Op::Take { count: 2 });
        }
        oracle.drain();
    }
}

/// Two threads: the producer as fast as it can, the consumer as well, both yielding when there is
/// nothing to do.
#[test]
fn two_threads_agree() {
    let count = scaled(3_000_000);
    let starts = [0, 0u64.wrapping_sub(64 * 1000), (1 << 32) - 64 * 1000, (1 << 63) - 64];
    for (index, start) in (0u64..).zip(starts) {
        let capacity = [2048u64, 4096, 16_384, 262_144][usize::try_from(index).expect("small")];
        let (own, peer) = lines_pair(usize::try_from(capacity).expect("small"));
        let (tail, _) = word_pair();
        let (head, head_seen) = word_pair();
        head.store(start, Ordering::Relaxed);
        let producer = Producer::new(own, tail, head_seen, start);
        let consumer = Consumer::new(peer, head, start);
        let seed = mix(ringbell_shm_tests::seed(), index);
        std::thread::scope(|scope| {
            scope.spawn(move || produce(producer, count, seed));
            scope.spawn(move || consume(consumer, count, seed));
        });
    }
    println!("two threads: {} records over {} rings", count * 4, starts.len());
}

fn stress_len(seed: u64, call: u64, max: usize) -> usize {
    let chance = mix(seed, call);
    // Short ones mostly; there a line more or less makes the difference.
    let limit = if chance >> 60 == 0 { max as u64 + 1 } else { 200.min(max as u64 + 1) };
    usize::try_from(chance % limit).expect("small")
}

fn produce(mut producer: Producer, count: u64, seed: u64) {
    let mut chance = Chance::new(seed);
    let mut body = Vec::new();
    for call in 0..count {
        let len = stress_len(seed, call, producer.max_body());
        // Claims more now and then, and drops a claim that it has scribbled over.
        let extra = if chance.below(16) == 0 { (producer.max_body() - len) / 2 } else { 0 };
        if chance.below(64) == 0
            && let Ok(claim) = producer.try_claim(producer.max_body())
        {
            scribble(producer.body_mut(&claim), call);
        }
        let header = HeaderWord::new(Kind::Request, 0, 7, u32::try_from(len).expect("small"));
        body.resize(len, 0);
        scribble(&mut body, mix(seed, call));
        // In one go, or in steps.
        let whole = extra == 0 && chance.below(2) == 0;
        loop {
            let result = if whole {
                producer.try_push(header, call, &body)
            } else {
                producer.try_claim(len + extra).map(|claim| {
                    producer.write(&claim, 0, &body);
                    producer.commit(claim, header, call);
                })
            };
            match result {
                Ok(()) => break,
                Err(ClaimError::Full) => std::thread::yield_now(),
                Err(error) => panic!("{error:?}"),
            }
        }
        if chance.below(4) != 0 {
            producer.zero_ahead();
        }
    }
}

fn consume(mut consumer: Consumer, count: u64, seed: u64) {
    let (mut body, mut wanted) = (Vec::new(), Vec::new());
    let mut call = 0;
    let mut max = 0;
    let mut chance = Chance::new(!seed);
    while call < count {
        if chance.below(2) == 0 {
            match consumer.poll_plain() {
                Polled::Nothing => {
                    std::thread::yield_now();
                    continue;
                }
                Polled::Plain(plain) => {
                    let header = plain.header();
                    let (found, _) = consumer.take_plain(plain, &mut body);
                    assert_eq!((found, header.kind(), header.code()), (call, Kind::Request, 7));
                }
                Polled::Other => continue,
            }
        } else {
            let Some(record) = consumer.peek().expect("an honest producer") else {
                std::thread::yield_now();
                continue;
            };
            assert_eq!(
                (record.call, record.header.kind(), record.header.code()),
                (call, Kind::Request, 7)
            );
            body.clear();
            consumer.read(&record, 0, &mut body);
            let _ = consumer.release(record);
        }
        wanted.resize(body.len(), 0);
        scribble(&mut wanted, mix(seed, call));
        assert!(body == wanted, "record {call} is torn");
        max = max.max(body.len());
        call += 1;
    }
    assert_eq!(consumer.peek().expect("an honest producer").map(|record| record.call), None);
    assert!(max > 100);
}
