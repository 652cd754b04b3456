//! What the protocol costs on one thread: a record through a ring, a ring that wakes nobody. For
//! regression work; what a request costs between processes is `race`'s business.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringbell::bell::{Ringer, Sleeper, before_looking_again};
use ringbell::layout::{HeaderWord, Interest, Kind, Mode};
use ringbell::memory::{BellWord, lines_pair, word_pair};
use ringbell::ring::{Consumer, Polled, Producer};
use std::hint::black_box;

const CAPACITY: usize = 256 * 1024;

fn ring_pair() -> (Producer, Consumer) {
    let (own, peer) = lines_pair(CAPACITY);
    let (tail, _) = word_pair();
    let (head, seen) = word_pair();
    (Producer::new(own, tail, seen, 0), Consumer::new(peer, head, 0))
}

fn ring(c: &mut Criterion) {
    let mut group = c.benchmark_group("ring");
    for size in [0, 48, 64, 1024, 16 * 1024 - 64] {
        let (mut producer, mut consumer) = ring_pair();
        let payload = vec![7; size];
        let mut out = Vec::new();
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_with_input(BenchmarkId::new("push and take", size), &payload, |b, payload| {
            b.iter(|| {
                let header = HeaderWord::new(Kind::Request, 0, 0, 0);
                producer.try_push(header, 1, black_box(payload)).expect("the ring is empty");
                producer.zero_ahead();
                // Behind padding it takes the long way.
                match consumer.poll_plain() {
                    Polled::Plain(header) => {
                        let _ = black_box(consumer.take_plain(header, &mut out));
                    }
                    _ => {
                        let record = consumer.peek().expect("no fault").expect("just pushed");
                        out.clear();
                        consumer.read(&record, 0, &mut out);
                        let _ = black_box(consumer.release(record));
                    }
                }
                assert_eq!(out.len(), payload.len());
            });
        });
    }
    group.finish();
}

fn bell(c: &mut Criterion) {
    let mut group = c.benchmark_group("bell");
    let (armed, seen) = word_pair();
    let seq = BellWord::private();
    let sleeper = Sleeper::new(armed, seq.share());
    let ringer = Ringer::new(seen, seq);
    group.bench_function("ring, nobody asleep", |b| {
        b.iter(|| assert_eq!(ringer.ring(Interest::DATA), None))
    });
    group.bench_function("arm, look again, disarm", |b| {
        b.iter(|| {
            let ticket = sleeper.arm(Mode::Futex, Interest::DATA);
            before_looking_again();
            assert!(!sleeper.rung(ticket));
            sleeper.disarm();
        });
    });
    group.bench_function("arm, ring, disarm", |b| {
        b.iter(|| {
            sleeper.arm(Mode::Futex, Interest::DATA);
            before_looking_again();
            assert_eq!(ringer.ring(Interest::DATA), Some(Mode::Futex));
            sleeper.disarm();
        });
    });
    group.finish();
}

criterion_group!(benches, ring, bell);
criterion_main!(benches);
