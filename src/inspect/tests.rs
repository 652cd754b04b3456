//! The decoder against what the library itself makes of the same bytes.

#![allow(clippy::cast_possible_truncation, reason = "small rings, and noise")]

use super::*;
use crate::base::sync::Ordering;
use crate::link::segment::Segment as Made;
use crate::link::segment_pair::SegmentPair;
use crate::memory::Window;
use crate::memory::layout::{self, HeaderWord, Kind, LINE, SegmentKind, offset};
use crate::protocol::ring::{ClaimError, Consumer, Producer};
use crate::testing::fuzzing;
use proptest::prelude::*;

/// The bytes of a window, as a tool would copy them.
fn copy(window: &Window) -> Vec<u8> {
    (0..window.len()).step_by(8).flat_map(|at| window.peer_word(at).load().to_le_bytes()).collect()
}

#[test]
fn what_the_library_made_is_decoded() {
    let mut name = [0; layout::NAME];
    name[..7].copy_from_slice(b"a\x1b[31mb");
    let me = layout::Peer { pid: 11, uid: 22, name };
    let status = Made::status(99, 3, &me).expect("made");
    status.window.own_word(layout::CONTROL + layout::ARMED_STRIDE).store(
        layout::Armed::new(layout::Mode::Event, layout::Interest::SPACE, 7).0,
        Ordering::Relaxed,
    );
    status
        .window
        .own_word(offset::HINTS)
        .store(layout::Hints::new(Some(5), true).0, Ordering::Relaxed);
    status.window.own_word(offset::COUNTERS + 8 * 8).store(1234, Ordering::Relaxed);
    let Segment::Status(decoded) = decode(&copy(&status.window)).expect("a segment") else {
        panic!("a status segment")
    };
    assert_eq!((decoded.identity.generation, decoded.identity.capacity), (99, 3));
    assert!(decoded.identity.flaws.is_empty() && decoded.identity.created_ns > 0);
    assert_eq!((decoded.server.pid, decoded.server.uid), (11, 22));
    assert_eq!(decoded.server.name, "a\u{fffd}[31mb", "no escape sequence reaches a terminal");
    assert_eq!(decoded.place, Place { cpu: Some(5), off: true });
    assert_eq!(decoded.counters.requests, 1234);
    assert_eq!(decoded.sleeps[0], Sleep::Awake);
    let armed = Sleep::Armed { mode: layout::Mode::Event, data: false, space: true, ticket: 7 };
    assert_eq!(decoded.sleeps[1..], [armed, Sleep::Awake]);

    let pair = SegmentPair::create(4096, 2048).expect("made");
    let (_, (_, response)) = pair.assign(99, 5, me, layout::Domain::new(7, true)).complete();
    response.window.own_word(offset::TAIL).store(640, Ordering::Relaxed);
    response.window.own_word(offset::HEAD).store(64, Ordering::Relaxed);
    let Segment::Response(decoded) = decode(&copy(&response.window)).expect("a segment") else {
        panic!("a response segment")
    };
    assert_eq!((decoded.identity.session, decoded.identity.capacity), (5, 2048));
    assert_eq!((decoded.tail, decoded.request_head, decoded.client.pid), (640, 64, 11));
    assert_eq!((decoded.domain, decoded.own_bell), (7, true));
    assert_eq!(name_of(SegmentKind::Bell), "ringbell:bell");
}

#[test]
fn what_is_no_segment_is_refused_and_what_is_half_one_is_described() {
    assert_eq!(decode(&[]), Err(Unreadable::Short(0)));
    assert_eq!(decode(&[0; layout::CONTROL]), Err(Unreadable::Magic(0)));
    let status = Made::status(1, 3, &layout::Peer { pid: 1, uid: 2, name: [0; layout::NAME] })
        .expect("made");
    let good = copy(&status.window);
    let change = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        decode(&bytes)
    };
    assert_eq!(change(8, 9), Err(Unreadable::Version(9)));
    assert_eq!(change(12, 77), Err(Unreadable::Kind(77)));
    for (version, newer) in [(9, true), (1, false)] {
        let other = change(8, version).expect_err("another version");
        assert_eq!(other.is_newer(), newer);
        assert!(other.to_string().contains(if newer { "newer" } else { "older" }), "{other}");
    }
    let mut start = good[..16].to_vec();
    assert_eq!(decode(&start), Err(Unreadable::Short(16)));
    start[8] = 9;
    assert_eq!(decode(&start), Err(Unreadable::Version(9)), "also of a cut or smaller page");
    start[0] = 0;
    assert!(matches!(decode(&start), Err(Unreadable::Magic(_))));
    let flaws = |decoded: Result<Segment, _>| decoded.expect("recognized").identity().flaws.clone();
    assert_eq!(flaws(change(40, 1)), ["a size of 8193 bytes, where its capacity makes 8192"]);
    assert_eq!(flaws(change(38, 1)).len(), 1, "an impossible capacity");
    assert_eq!(flaws(decode(&good[..layout::CONTROL])), [""; 0], "a control page is enough");
}

const SMALL: usize = 2048;

fn a_ring() -> impl Strategy<Value = (Vec<u8>, u64)> {
    // Words that are likely to mean something, at places where records begin.
    let word = prop_oneof![
        4 => (0u8..15, 0u8..40, 0u16..3, 0u32..600).prop_map(|(kind, flags, code, length)| {
            u64::from(length)
                | u64::from(kind) << 32
                | u64::from(flags) << 40
                | u64::from(code) << 48
        }),
        2 => (1u8..14, 0u32..600)
            .prop_map(|(kind, length)| u64::from(length) | u64::from(kind) << 32),
        1 => Just(0u64),
        1 => any::<u64>(),
    ];
    let lines = SMALL / LINE as usize;
    (prop::collection::vec(word, lines), 0..lines as u64).prop_map(|(words, start)| {
        let mut bytes = vec![0; SMALL];
        for (line, word) in bytes.chunks_exact_mut(LINE as usize).zip(words) {
            line[..8].copy_from_slice(&word.to_le_bytes());
        }
        (bytes, start * LINE)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The decoder takes for records what the ring itself takes for records.
    #[test]
    fn the_walk_agrees_with_the_consumer((bytes, start) in a_ring()) {
        let window = Window::heap(SMALL);
        for (at, word) in bytes.as_chunks().0.iter().enumerate() {
            window.own_word(8 * at).store(u64::from_le_bytes(*word), Ordering::Relaxed);
        }
        let (head_word, _) = crate::memory::word_pair();
        let mut consumer = Consumer::new(window.peer_lines(0, SMALL), head_word, start);
        let mut segment = vec![0; layout::CONTROL];
        segment.extend_from_slice(&bytes);
        let ring = Ring::new(&segment, SMALL as u64).expect("a capacity");
        let mut walk = ring.walk(start, start + SMALL as u64);
        loop {
            let mut found = walk.next();
            if found.is_some_and(|found| {
                found.flaw.is_none() && found.header.kind() == Some(Kind::Padding)
            }) {
                found = walk.next();
            }
            match (consumer.peek(), found) {
                (_, None) => break,
                (Ok(None), Some(found)) => {
                    prop_assert!(matches!(found.flaw, Some(Flaw::Unpublished)));
                    break;
                }
                (Err(_), Some(found)) => {
                    prop_assert!(found.flaw.is_some());
                    break;
                }
                (Ok(Some(record)), Some(found)) => {
                    // Extensions are the session's business; the range ends where the consumer
                    // would go on.
                    if matches!(found.flaw, Some(Flaw::Extension | Flaw::Length)) {
                        break;
                    }
                    prop_assert_eq!(found.flaw, None);
                    prop_assert_eq!(found.header.0, record.header.word().0);
                    prop_assert_eq!(found.call, record.call);
                    let _ = consumer.release(record);
                }
            }
        }
    }
}

#[test]
fn every_published_record_is_found_wherever_the_ring_stands() {
    for start in (0..SMALL as u64).step_by(LINE as usize) {
        let window = Window::heap(SMALL);
        let (tail_word, tail) = crate::memory::word_pair();
        let (own_head, head) = crate::memory::word_pair();
        let mut producer = Producer::new(window.own_lines(0, SMALL), tail_word, head, 0);
        while producer.tail() < start {
            producer.try_push(HeaderWord::new(Kind::Request, 0, 0, 0), 1, b"skip").expect("room");
            producer.zero_ahead();
            own_head.store(producer.tail(), Ordering::Relaxed);
        }
        let from = producer.tail();
        let mut sent = Vec::new();
        for call in 0.. {
            let payload = vec![call as u8; call as usize * 37 % 300];
            match producer.try_push(HeaderWord::new(Kind::Request, 0, 0, 0), call, &payload) {
                Ok(()) => sent.push((call, payload)),
                Err(ClaimError::Full) => break,
                Err(error) => panic!("{error:?}"),
            }
            producer.zero_ahead();
        }
        let mut segment = vec![0; layout::CONTROL];
        segment.extend(copy(&window));
        let ring = Ring::new(&segment, SMALL as u64).expect("a capacity");
        let found: Vec<_> = ring
            .walk(from, tail.load())
            .inspect(|record| assert_eq!(record.flaw, None))
            .filter(Record::begins_message)
            .map(|record| (record.call, record.payload.to_vec()))
            .collect();
        assert_eq!(found, sent, "from {start}");
        assert!(found.len() + start as usize / 64 > 4);
    }
}

#[test]
fn a_copy_is_good_where_the_producer_cannot_have_written() {
    let capacity = 64 * 1024;
    let writing = layout::max_record(capacity) + layout::zero_window(capacity);
    let tail = 10 * capacity;
    assert!(intact(capacity, tail - 4096, tail - 4096, tail), "not released");
    assert!(intact(capacity, tail - 4096, tail, tail), "released, and far from the tail");
    assert!(intact(capacity, tail - (capacity - writing), tail, tail));
    assert!(
        !intact(capacity, tail - (capacity - writing) - 64, tail, tail),
        "may be being overwritten"
    );
    assert!(
        intact(capacity, tail - (capacity - writing) - 64, tail - capacity, tail),
        "but not while unread"
    );
    assert!(
        !intact(capacity, tail - capacity - 64, tail - 2 * capacity, tail),
        "whatever the head says"
    );
    assert_eq!(lap_start(3 * capacity + 64, capacity), 3 * capacity);
}

/// Numbers without pattern, the same every time.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit
    }
}

/// Ten million images in release builds: random ones, and good ones with changes of all sizes.
#[test]
fn no_image_can_harm_the_decoder() {
    let rounds: u64 = if cfg!(debug_assertions) { 200_000 } else { 10_000_000 };
    let me = layout::Peer {
        pid: 11,
        uid: 22,
        name: *b"a name as long as it may be, and not a byte less",
    };
    let pair = SegmentPair::create(2048, SMALL as u64).expect("made");
    let (_, (_, response)) = pair.assign(3, 5, me, layout::Domain::default()).complete();
    let window = &response.window;
    let (_, head) = crate::memory::word_pair();
    let mut producer = Producer::new(
        window.own_lines(layout::CONTROL, SMALL),
        window.own_word(offset::TAIL),
        head,
        0,
    );
    for call in 0..12 {
        let payload = [7; 100];
        let pushed = producer.try_push(
            HeaderWord::new(Kind::Response, 0, 0, 0),
            call,
            &payload[..call as usize * 8],
        );
        assert!(pushed.is_ok());
    }
    let good = copy(window);
    assert!(fuzzing::image(&good).0);
    let status = copy(&Made::status(3, 40, &me).expect("made").window);
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let mut images = [good.clone(), status];
    let (mut decoded, mut records) = (0u64, 0u64);
    for round in 0..rounds {
        let image = &mut images[usize::from(round % 8 == 0)];
        // Where it matters: the control page's words, and the first word of each line.
        let mut undo = [(0, [0; 8]); 6];
        let changes = 1 + noise.below(undo.len());
        for place in &mut undo[..changes] {
            let at = match noise.below(4) {
                0 => 8 * noise.below(7),
                1 => 8 * noise.below(layout::CONTROL / 8),
                _ => {
                    layout::CONTROL
                        + LINE as usize
                            * noise.below((image.len() - layout::CONTROL) / LINE as usize)
                }
            };
            let old: [u8; 8] = image[at..at + 8].try_into().expect("a word");
            *place = (at, old);
            let mut new = u64::from_le_bytes(old);
            match noise.below(6) {
                0 => new ^= 1 << noise.below(64),
                1 => new = noise.next(),
                2 => new = 0,
                3 => new = HeaderWord::new(Kind::Padding, 0, 0, noise.below(4096) as u32).0,
                4 => new = noise.next() >> 8 & 0x1f0f_0000_0fff,
                _ => new = new.wrapping_add(noise.below(200) as u64).wrapping_sub(100),
            }
            image[at..at + 8].copy_from_slice(&new.to_le_bytes());
        }
        let cut = if round % 4 == 0 { noise.below(image.len() + 1) } else { image.len() };
        let (is_segment, found) = fuzzing::image(&image[..cut]);
        decoded += u64::from(is_segment);
        records += found;
        for (at, old) in undo[..changes].iter().rev() {
            image[*at..*at + 8].copy_from_slice(old);
        }
        if round % 1000 == 0 {
            let bytes: Vec<u8> = (0..noise.below(5000)).map(|_| noise.next() as u8).collect();
            fuzzing::image(&bytes);
        }
    }
    assert_eq!(images[0], good, "every change was undone");
    // It was not all refused at the door.
    assert!(decoded > rounds / 8 && records > rounds / 8, "{decoded} segments, {records} records");
}

#[test]
fn segments_of_layout_1_are_told_from_those_of_today() {
    use crate::handshake::tests::golden::golden;
    let page = |name: &str| {
        let mut bytes = golden(name);
        bytes.resize(layout::CONTROL, 0);
        decode(&bytes).map(|segment| segment.identity().clone())
    };
    for kind in ["request", "response", "status", "bell"] {
        let identity = page(&format!("wire-2/identity-{kind}.bin")).expect("of today");
        assert_eq!((identity.generation, identity.created_ns), (77, 1_000_000_007));
        let old = page(&format!("wire-1/identity-{kind}.bin"));
        assert_eq!(old, Err(Unreadable::Version(1)), "{kind}");
    }
}
