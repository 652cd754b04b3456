//! The ring alone: PUBLISH, RELEASE, Z.

use crate::explore;
use loom::cell::UnsafeCell;
use loom::thread;
use ringbell::layout::{FRAME_HEADER, HeaderWord, Kind, LINE, record_size, zero_window};
use ringbell::memory::{lines_pair, word_pair};
use ringbell::ring::{ClaimError, Consumer, PlainHeader, Polled, Producer, Released};
use std::sync::Arc;

/// What the old records of a worn ring carry as call id.
const OLD: u64 = u64::MAX;

/// One loom cell for each line of the ring, touched by whoever uses the line: two uses that the
/// protocol does not order are reported as a data race. That is how a missing RELEASE shows: loom
/// never lets a load see a store that is made later.
struct Shadow(Vec<UnsafeCell<()>>);

impl Shadow {
    fn lines(&self, position: u64, bytes: u64) -> impl Iterator<Item = &UnsafeCell<()>> {
        let first = position / LINE;
        (0..bytes / LINE).map(move |i| &self.0[usize::try_from(first + i).unwrap() % self.0.len()])
    }

    fn write(&self, position: u64, bytes: u64) {
        self.lines(position, bytes).for_each(|line| line.with_mut(|_| ()));
    }

    fn read(&self, position: u64, bytes: u64) {
        self.lines(position, bytes).for_each(|line| line.with(|_| ()));
    }
}

/// A producer that knows what its consumer expects: the body of call `c` is the words
/// from `c * 100` on.
pub(crate) struct Out {
    pub(crate) ring: Producer,
    shadow: Arc<Shadow>,
}

/// The consumer that expects it.
pub(crate) struct In {
    pub(crate) ring: Consumer,
    shadow: Arc<Shadow>,
}

/// An empty ring with both positions at `start`, all bytes zero.
#[allow(clippy::arc_with_non_send_sync, reason = "loom's threads need no Send")]
pub(crate) fn fresh(capacity: usize, start: u64) -> (Out, In) {
    let (own_lines, peer_lines) = lines_pair(capacity);
    let (tail, _) = word_pair();
    let (own_head, peer_head) = word_pair();
    let shadow = Arc::new(Shadow((0..capacity / 64).map(|_| UnsafeCell::new(())).collect()));
    let out =
        Out { ring: Producer::new(own_lines, tail, peer_head, start), shadow: shadow.clone() };
    (out, In { ring: Consumer::new(peer_lines, own_head, start), shadow })
}

/// An empty ring with both positions at `at` that has been filled once, so that every line start
/// but the zeroed ones holds the header word of an old record.
pub(crate) fn worn(capacity: usize, at: u64) -> (Out, In) {
    let (mut out, mut input) = fresh(capacity, at.wrapping_sub(capacity as u64));
    while out.ring.tail() != at {
        assert!(out.try_send(0, OLD));
        assert_eq!(input.try_receive(0), Some(OLD));
    }
    (out, input)
}

impl Out {
    /// Sends a record with a body of so many words, if there is room.
    pub(crate) fn try_send(&mut self, words: usize, call: u64) -> bool {
        let committed = self.try_commit(words, call);
        if committed {
            self.zero_ahead();
        }
        committed
    }

    /// The same, and leaves the zeroing for after the ringing.
    pub(crate) fn try_commit(&mut self, words: usize, call: u64) -> bool {
        self.try_commit_kind(Kind::Request, words, call)
    }

    pub(crate) fn try_commit_kind(&mut self, kind: Kind, words: usize, call: u64) -> bool {
        let claim = match self.ring.try_claim(8 * words) {
            Ok(claim) => claim,
            Err(ClaimError::Full) => return false,
            Err(error) => panic!("{error:?}"),
        };
        self.shadow.write(self.ring.tail(), record_size(8 * words));
        for i in 0..words {
            self.ring.write(&claim, 8 * i, &(call * 100 + i as u64).to_le_bytes());
        }
        self.ring.commit(claim, header(kind, words), call);
        true
    }

    pub(crate) fn zero_ahead(&mut self) {
        self.ring.zero_ahead();
        // The zeroed lines were free.
        self.shadow.write(self.ring.tail(), zero_window(self.ring.capacity()));
    }

    fn send(&mut self, words: usize, call: u64) {
        while !self.try_send(words, call) {
            thread::yield_now();
        }
    }
}

impl In {
    /// Reads and checks the next record, if there is one, and releases it.
    pub(crate) fn try_receive(&mut self, words: usize) -> Option<u64> {
        let (_, call, _) = self.try_take(words)?;
        Some(call)
    }

    pub(crate) fn try_take(&mut self, words: usize) -> Option<(Kind, u64, Released)> {
        let record = self.ring.peek().expect("a fault")?;
        let call = record.call;
        assert_eq!(record.len(), 8 * words, "call {call}");
        self.shadow.read(self.ring.head(), record_size(8 * words));
        for i in 0..words {
            assert_eq!(
                self.ring.word(&record, 8 * i),
                call * 100 + i as u64,
                "word {i} of call {call}"
            );
        }
        let kind = record.header.kind();
        Some((kind, call, self.ring.release(record)))
    }

    /// Takes the record that the short path found; its call id.
    fn take(&mut self, plain: PlainHeader, body: &mut Vec<u8>) -> u64 {
        self.shadow.read(self.ring.head(), record_size(plain.header().len()));
        let (call, _) = self.ring.take_plain(plain, body);
        call
    }

    fn receive(&mut self, words: usize, call: u64) {
        loop {
            match self.try_receive(words) {
                Some(found) => return assert_eq!(found, call),
                None => thread::yield_now(),
            }
        }
    }

    fn expect_empty(&mut self) {
        assert_eq!(self.ring.peek().expect("a fault").map(|record| record.call), None);
    }
}

fn header(kind: Kind, words: usize) -> HeaderWord {
    HeaderWord::new(kind, 0, 0, u32::try_from(8 * words).unwrap())
}

/// PUBLISH, Z: a body is read as it was written, and nothing old behind it is read as a record.
/// Three records round the end of a 256-byte ring that is also the end of the u64. No bound.
#[test]
fn publish_then_consume() {
    explore(None, || {
        let (mut out, mut input) = worn(256, 0_u64.wrapping_sub(LINE));
        let producer = thread::spawn(move || {
            for call in 1..=3 {
                assert!(out.try_send(1, call));
            }
        });
        for call in 1..=3 {
            input.receive(1, call);
        }
        input.expect_empty();
        producer.join().unwrap();
    });
}

/// PUBLISH, RELEASE, Z, by the short path: what it finds is there and is not written again before
/// it is taken; what is not plain it leaves alone. Bound 3.
#[test]
fn publish_then_take_plain() {
    explore(Some(3), || {
        let (mut out, mut input) = worn(512, 512 - 5 * LINE);
        for call in 1..=4 {
            assert!(out.try_send(0, call));
        }
        let producer = thread::spawn(move || {
            out.send(8, 5);
            out
        });
        let mut body = Vec::new();
        for call in 1..=4 {
            let Polled::Plain(plain) = input.ring.poll_plain() else { panic!("not there") };
            assert_eq!((input.take(plain, &mut body), body.len()), (call, 0));
        }
        loop {
            match input.ring.poll_plain() {
                Polled::Plain(..) => panic!("padding is not plain"),
                Polled::Other => break,
                Polled::Nothing => thread::yield_now(),
            }
        }
        input.receive(8, 5);
        let mut out = producer.join().unwrap();
        let again = thread::spawn(move || {
            assert!(out.try_send(1, 6));
            out
        });
        loop {
            match input.ring.poll_plain() {
                Polled::Plain(plain) => {
                    assert_eq!(input.take(plain, &mut body), 6);
                    break assert_eq!(body, 600_u64.to_le_bytes());
                }
                Polled::Nothing => thread::yield_now(),
                found => panic!("{found:?}"),
            }
        }
        assert_eq!(input.ring.poll_plain(), Polled::Nothing);
        input.ring.settle();
        assert_eq!(again.join().unwrap().ring.fill(), Ok(0), "the consumer found it empty");
    });
}

/// RELEASE: no line is written again, by a record or by the zeroing, before its reader has released
/// it. Five records through a ring that holds three. Bound 3.
#[test]
fn full_then_space() {
    explore(Some(3), || {
        let (mut out, mut input) = worn(256, 0);
        for call in 1..=3 {
            assert!(out.try_send(1, call));
        }
        assert!(!out.try_send(1, 4));
        let producer = thread::spawn(move || {
            out.send(1, 4);
            out.send(1, 5);
        });
        for call in 1..=5 {
            input.receive(1, call);
        }
        input.expect_empty();
        producer.join().unwrap();
    });
}

/// PUBLISH, the second fence, and Z at the start of the buffer: the record behind padding is not
/// read before it is there. One line is left before the end; a record of two lines goes to the
/// start. No bound.
#[test]
fn wrap_with_padding() {
    explore(None, || {
        let (mut out, mut input) = worn(512, 0_u64.wrapping_sub(LINE));
        let producer = thread::spawn(move || {
            assert!(out.try_send(8, 1));
            assert_eq!(out.ring.paddings(), 1);
        });
        input.receive(8, 1);
        input.expect_empty();
        producer.join().unwrap();
    });
}

/// PUBLISH, Z, RELEASE: the same, for a record pushed in one go into a ring that has room for it
/// only once the consumer has read. Bound 3.
#[test]
fn push_with_padding() {
    explore(Some(3), || {
        let (mut out, mut input) = worn(512, 512 - 5 * LINE);
        for call in 1..=4 {
            assert!(out.try_send(0, call));
        }
        let body: Vec<u8> = (0..8_u64).flat_map(|i| (500 + i).to_le_bytes()).collect();
        let producer = thread::spawn(move || {
            while out.ring.try_push(header(Kind::Request, 0), 5, &body).is_err() {
                thread::yield_now();
            }
            assert_eq!(out.ring.paddings(), 1);
        });
        for call in 1..=4 {
            input.receive(0, call);
        }
        input.receive(8, 5);
        input.expect_empty();
        producer.join().unwrap();
    });
}

/// RELEASE, with padding: neither the padding nor the record behind it goes where something is
/// unread. Bound 3.
#[test]
fn full_before_padding() {
    explore(Some(3), || {
        let (mut out, mut input) = worn(512, 512 - 5 * LINE);
        for call in 1..=4 {
            assert!(out.try_send(0, call));
        }
        assert!(!out.try_send(8, 5));
        let producer = thread::spawn(move || {
            out.send(8, 5);
            assert_eq!(out.ring.paddings(), 1);
        });
        for call in 1..=4 {
            input.receive(0, call);
        }
        input.receive(8, 5);
        input.expect_empty();
        producer.join().unwrap();
    });
}

/// Z, for a record longer than the zeroed window: the header word behind it, an old one, is zeroed
/// before the record is published. No bound.
#[test]
fn longer_than_the_window() {
    explore(None, || {
        let (mut out, mut input) = worn(512, LINE);
        let producer = thread::spawn(move || assert!(out.try_send(14, 1)));
        input.receive(14, 1);
        input.expect_empty();
        producer.join().unwrap();
        input.expect_empty();
    });
}

/// Z, without the zeroing ahead: not calling `zero_ahead` costs time, not correctness. No bound.
#[test]
fn never_zeroed_ahead() {
    explore(None, || {
        let (mut out, mut input) = worn(512, 0_u64.wrapping_sub(LINE));
        let producer = thread::spawn(move || {
            for call in 1..=3 {
                assert!(out.try_commit(0, call));
            }
        });
        for call in 1..=3 {
            input.receive(0, call);
        }
        input.expect_empty();
        producer.join().unwrap();
        input.expect_empty();
    });
}

/// PUBLISH: an empty body still brings its call id, which is not part of the header word. No bound.
#[test]
fn zero_length() {
    explore(None, || {
        let (mut out, mut input) = worn(256, 256);
        let producer = thread::spawn(move || {
            assert!(out.try_send(0, 1));
            out.ring.try_push(header(Kind::Request, 0), 2, &[]).unwrap();
        });
        input.receive(0, 1);
        input.receive(0, 2);
        input.expect_empty();
        producer.join().unwrap();
    });
}

/// Z, for a claim that was written and given back: what it left on the next line start, here a
/// valid header word, is not read as a record behind the shorter one that takes its place. No
/// bound.
#[test]
fn claim_given_back() {
    explore(None, || {
        let (mut out, mut input) = worn(512, 512);
        let producer = thread::spawn(move || {
            let claim = out.ring.try_claim(112).unwrap();
            let at_line_start = 64 - FRAME_HEADER;
            out.ring.write(&claim, at_line_start, &header(Kind::Event, 0).0.to_le_bytes());
            drop(claim);
            assert!(out.try_send(1, 1));
        });
        input.receive(1, 1);
        input.expect_empty();
        producer.join().unwrap();
        input.expect_empty();
    });
}

/// Z, for a record that became shorter than its claim. No bound.
#[test]
fn committed_shorter() {
    explore(None, || {
        let (mut out, mut input) = worn(512, 512);
        let producer = thread::spawn(move || {
            let claim = out.ring.try_claim(112).unwrap();
            for word in 0..14 {
                out.ring.write(&claim, 8 * word, &header(Kind::Event, 0).0.to_le_bytes());
            }
            out.ring.commit(claim, header(Kind::Request, 0), 1);
            out.zero_ahead();
            assert!(out.try_send(1, 2));
        });
        input.receive(0, 1);
        input.receive(1, 2);
        input.expect_empty();
        producer.join().unwrap();
        input.expect_empty();
    });
}

/// Z and the claim's arithmetic, in one thread, against an oracle: every mix of sizes up to four
/// records, from every line of the buffer. The ring is never full once its consumer has found it
/// empty, whether or not the consumer has settled; once it has, its head is known to the producer.
#[test]
fn every_start() {
    for capacity in [256_usize, 512, 1024] {
        for start in 0..capacity as u64 / LINE {
            explore(None, move || {
                let (mut out, mut input) = worn(capacity, 0_u64.wrapping_sub(start * LINE));
                let longest = out.ring.max_body() / 8;
                for (i, words) in [longest, 0, longest, longest, 6, longest].into_iter().enumerate()
                {
                    let call = i as u64;
                    assert!(out.try_send(words, call), "full, but found empty");
                    assert_eq!(input.try_receive(words), Some(call));
                    input.expect_empty();
                    if i % 2 == 1 {
                        input.ring.settle();
                        assert_eq!(
                            out.ring.fill(),
                            Ok(0),
                            "the consumer found it empty, and said so"
                        );
                    }
                }
            });
        }
    }
}

/// Lazy head, in one thread: the producer is to be rung once for each quarter of the ring, no more
/// and no less.
#[test]
fn one_ring_for_each_quarter() {
    explore(None, || {
        let (mut out, mut input) = worn(1024, 0);
        for i in 0..32 {
            assert!(out.try_send(0, i));
            let (_, _, released) = input.try_take(0).unwrap();
            let quarter = i % 4 == 3;
            assert_eq!(
                released,
                if quarter { Released::Quarter } else { Released::Quietly },
                "record {i}"
            );
        }
    });
}
