//! Whatever a peer, a file or a dump may hold, through every decoder that meets it: the bodies of
//! the fuzz targets.
//!
//! Each takes any bytes and must return, in bounded time. `fuzz/` calls them with what libFuzzer
//! thinks up; the tests below with noise and with good bytes that were changed, so that they are
//! run with every change, by a stable compiler.

use crate::base::clock::ClockOffset;
use crate::base::sync::Ordering;
use crate::handshake::fuzzed;
use crate::inspect::{Ring, Segment, decode, intact, lap_start};
use crate::link::held::Account;
use crate::link::readiness::Readiness;
use crate::link::session::{Parts, Received, Rings, SessionCore};
use crate::memory::layout::{self, LINE, offset};
use crate::memory::{BellWord, Window, word_pair};
use crate::os::peer_socket::PeerSocket;
use crate::protocol::bell::Ringer;
use crate::protocol::ring::{Consumer, Producer};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// Capacity of the rings that are tried, in bytes.
const CAPACITY: usize = 4096;
/// Longest message that is taken, in bytes.
const MAX_MESSAGE: usize = 20_000;

/// A copy of a segment, as tools decode it: whether it is one, and how many messages were found in
/// it; of a status segment, whether it tells how requests are served.
#[allow(clippy::missing_panics_doc, reason = "it must not")]
pub fn image(bytes: &[u8]) -> (bool, u64) {
    let decoded = decode(bytes);
    let (capacity, tail) = match &decoded {
        Ok(Segment::Request(segment)) => (segment.identity.capacity, segment.tail),
        Ok(Segment::Response(segment)) => (segment.identity.capacity, segment.tail),
        _ => (CAPACITY as u64, 0),
    };
    if let Ok(Segment::Request(_) | Segment::Response(_)) = &decoded {
        assert!(bytes.len() >= layout::CONTROL);
    }
    let mut found = 0;
    if let Ok(Segment::Status(segment)) = &decoded {
        assert!(segment.sleeps.len() <= bytes.len() / layout::ARMED_STRIDE);
        found += u64::from(layout::Engine::from_u64(segment.facts.engine).is_some());
    }
    if let Some(ring) = Ring::new(bytes, capacity) {
        let head = tail.wrapping_sub(CAPACITY as u64 / 2);
        for (from, to) in [(head, tail), (0, CAPACITY as u64), (lap_start(tail, capacity), tail)] {
            let mut walked = 0;
            for record in ring.walk(from, to) {
                assert!(record.payload.len() <= bytes.len());
                assert!(
                    record.size.is_multiple_of(LINE) && (record.size != 0) == record.flaw.is_none()
                );
                walked += record.size;
                found += u64::from(
                    record.begins_message() && intact(capacity, record.position, from, to),
                );
            }
            assert!(walked <= capacity);
        }
    }
    (decoded.is_ok(), found)
}

/// The content of a ring, as a server or a client reads what its peer wrote: how many messages came
/// of it before a fault, or before nothing was left. The first byte chooses what was agreed.
#[allow(clippy::missing_panics_doc, reason = "it must not")]
pub fn ring(bytes: &[u8]) -> u64 {
    let (choice, bytes) = bytes.split_first().map_or((0, bytes), |(first, rest)| (*first, rest));
    let window = Window::heap(CAPACITY);
    for (index, word) in bytes.chunks(8).take(CAPACITY / 8).enumerate() {
        let mut whole = [0; 8];
        whole[..word.len()].copy_from_slice(word);
        window.own_word(8 * index).store(u64::from_le_bytes(whole), Ordering::Relaxed);
    }
    let (own, _) = word_pair();
    let (tail, _) = word_pair();
    let (_, peer) = word_pair();
    let (_, armed) = word_pair();
    let out = Window::heap(CAPACITY);
    let rings = Rings {
        out: Producer::new(out.own_lines(0, CAPACITY), tail, peer, 0),
        incoming: Consumer::new(window.peer_lines(0, CAPACITY), own, 0),
        ringer: Ringer::new(armed, BellWord::private()),
    };
    let Ok((lifeline, _other)) = UnixStream::pair() else { return 0 };
    receive_all(&mut session(Some(rings), lifeline, choice))
}

/// Bytes on a socket that carries a session: as [`ring`].
#[allow(clippy::missing_panics_doc, reason = "it must not")]
pub fn socket(bytes: &[u8]) -> u64 {
    let (choice, bytes) = bytes.split_first().map_or((0, bytes), |(first, rest)| (*first, rest));
    let Ok((ours, mut theirs)) = UnixStream::pair() else { return 0 };
    if ours.set_nonblocking(true).is_err() || theirs.set_nonblocking(true).is_err() {
        return 0;
    }
    let mut session = session(None, ours, choice);
    let mut messages = 0;
    // In pieces: a socket cuts wherever it likes.
    for piece in bytes.chunks(1 + usize::from(choice) * 16) {
        if theirs.write_all(piece).is_err() {
            break;
        }
        session.ready(Readiness { readable: true, ..Readiness::default() });
        messages += receive_all(&mut session);
    }
    messages
}

fn session(rings: Option<Rings>, lifeline: UnixStream, choice: u8) -> SessionCore {
    SessionCore::new(Parts {
        rings,
        lifeline: Arc::new(PeerSocket::connected(lifeline.into())),
        words: None,
        max_message: MAX_MESSAGE,
        burst: usize::MAX,
        // Sometimes less than a message takes.
        account: Account::alone(if choice & 2 == 0 { u64::MAX } else { 10_000 }),
        stamps: choice & 1 != 0,
        clock: ClockOffset::NONE,
    })
}

fn receive_all(session: &mut SessionCore) -> u64 {
    let mut into = Vec::new();
    let mut messages = 0;
    // A ring can go round and round in what nobody overwrites.
    for _ in 0..4 * CAPACITY / 16 {
        match session.receive(&mut into) {
            Ok(Received::Message(_) | Received::Until(..)) => {
                assert!(into.len() <= MAX_MESSAGE);
                messages += 1;
            }
            Ok(Received::Refused(_)) => messages += 1,
            Ok(Received::Partial) => {}
            Ok(Received::Nothing) | Err(_) => break,
        }
    }
    messages
}

/// A message of the handshake, as server, client and inspector parse it: how many of the parsers
/// took it.
pub fn handshake(bytes: &[u8]) -> usize {
    fuzzed(bytes)
}

/// Good bytes to begin with: those that [`image`], [`ring`], [`socket`] and [`handshake`] make most
/// of, each with its target.
#[must_use]
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let frames = frames();
    let mut seeds = vec![
        ("ring", [&[1], &frames[..]].concat()),
        ("socket", [&[1], &frames_unaligned()[..]].concat()),
    ];
    seeds.push(("image", segment(&frames)));
    seeds.push(("image", status()));
    seeds.extend(crate::handshake::fuzz_seeds().into_iter().map(|bytes| ("handshake", bytes)));
    seeds
}

/// Header, flags and extensions of every shape: one message each.
fn records() -> Vec<Vec<u8>> {
    use layout::{HeaderWord, Kind, flag};
    let record = |kind, flags, call: u64, body: &[u8]| {
        let word = HeaderWord::new(kind, flags, 0, u32::try_from(body.len()).unwrap_or(0));
        [&word.0.to_le_bytes()[..], &call.to_le_bytes(), body].concat()
    };
    let word = |value: u64| value.to_le_bytes();
    vec![
        record(Kind::Request, 0, 1, b"hello"),
        record(Kind::Request, flag::DEADLINE, 2, &[word(77), *b"deadline"].concat()),
        record(Kind::Request, flag::STAMP, 3, &[word(78), *b"is timed"].concat()),
        record(
            Kind::Request,
            flag::DEADLINE | flag::STAMP,
            4,
            &[word(77), word(78), *b"has both"].concat(),
        ),
        record(
            Kind::Request,
            flag::MORE | flag::STAMP,
            5,
            &[word(16), word(79), *b"fragment"].concat(),
        ),
        record(Kind::Ping, 0, 9, &[]),
        record(Kind::Request, flag::CONTINUED, 5, b"the rest"),
        record(Kind::OneWay, 0, 0, &[7; 100]),
        record(Kind::Request, flag::MORE, 6, &[&word(100)[..], b"given up"].concat()),
        record(Kind::Request, flag::CONTINUED | flag::ABORT, 6, &[]),
        record(Kind::Credit, 0, 1, &[]),
    ]
}

/// As they stand in a ring: each on a line of its own.
fn frames() -> Vec<u8> {
    let mut out = Vec::new();
    for record in records() {
        out.extend(record);
        out.resize(out.len().next_multiple_of(64), 0);
    }
    out
}

fn frames_unaligned() -> Vec<u8> {
    records().concat()
}

/// A response segment with these bytes in its ring, and samples.
fn segment(frames: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; layout::CONTROL + CAPACITY];
    let mut put = |at: usize, word: u64| bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    put(offset::IDENTITY, layout::MAGIC);
    put(8, u64::from(layout::LAYOUT_VERSION) | (layout::SegmentKind::Response as u64) << 32);
    put(16, 99);
    put(24, 5);
    put(32, CAPACITY as u64);
    put(40, layout::ring_segment_size(CAPACITY as u64));
    put(offset::TAIL, frames.len() as u64);
    for (index, word) in [7, 10, 11, 12].into_iter().enumerate() {
        put(offset::SAMPLES + 8 * index, word);
    }
    bytes[layout::CONTROL..][..frames.len()].copy_from_slice(frames);
    bytes
}

/// A status segment with one domain, and facts.
fn status() -> Vec<u8> {
    let mut bytes = vec![0; layout::CONTROL + layout::ARMED_STRIDE];
    let mut put = |at: usize, word: u64| bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    put(offset::IDENTITY, layout::MAGIC);
    put(8, u64::from(layout::LAYOUT_VERSION) | (layout::SegmentKind::Status as u64) << 32);
    put(16, 99);
    put(32, 1);
    put(40, layout::status_segment_size(1));
    put(layout::armed(0), layout::Armed::AWAKE.0);
    for field in 0..size_of::<layout::Facts>() / 8 {
        put(offset::FACTS + 8 * field, field as u64);
    }
    put(offset::FACTS + std::mem::offset_of!(layout::Facts, engine), layout::Engine::Serial as u64);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers without pattern, the same every time.
    struct Noise(u64);

    impl Noise {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }

        #[allow(clippy::cast_possible_truncation, reason = "noise")]
        fn below(&mut self, limit: usize) -> usize {
            (self.next() >> 33) as usize % limit
        }
    }

    fn try_it(target: &str, bytes: &[u8]) -> u64 {
        match target {
            "image" => image(bytes).1,
            "ring" => ring(bytes),
            "socket" => socket(bytes),
            "handshake" => handshake(bytes) as u64,
            other => panic!("no target {other}"),
        }
    }

    #[test]
    fn seeds_are_understood() {
        let of = |target: &str| {
            let mut seeds = seeds().into_iter().filter(|(name, _)| *name == target).peekable();
            assert!(seeds.peek().is_some(), "{target}");
            seeds.map(|(_, bytes)| try_it(target, &bytes)).collect::<Vec<_>>()
        };
        // Two in fragments, of which one is given up.
        assert_eq!((of("ring"), of("socket")), (vec![8], vec![8]));
        assert!(of("image")[0] >= 9 && of("image")[1] != 0);
        assert!(of("handshake").iter().all(|parsers| *parsers > 0));
        // Without the agreement the first stamp ends it.
        for target in ["ring", "socket"] {
            let (_, mut bytes) =
                seeds().into_iter().find(|(name, _)| *name == target).expect("there is one");
            bytes[0] = 0;
            assert_eq!(try_it(target, &bytes), 2, "{target}");
        }
    }

    #[test]
    #[allow(clippy::cast_possible_truncation, reason = "noise")]
    fn no_bytes_do_harm() {
        // For longer runs, that try what shorter ones do and more.
        let asked =
            std::env::var("RINGBELL_FUZZ_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
        let rounds = asked.unwrap_or(if cfg!(debug_assertions) { 20_000 } else { 400_000 });
        let seeds = seeds();
        let mut noise = Noise(0x2545_f491_4f6c_dd1d);
        let mut understood = 0;
        for round in 0..rounds {
            let (target, seed) = &seeds[round % seeds.len()];
            let mut bytes = seed.clone();
            for _ in 0..=noise.below(6) {
                let at = match noise.below(3) {
                    0 => noise.below(bytes.len()),
                    // Where header words are.
                    _ => (1 + 64 * noise.below(bytes.len().div_ceil(64)) + noise.below(24))
                        .min(bytes.len() - 1),
                };
                match noise.below(8) {
                    0 => bytes.truncate(at.max(1)),
                    1 => drop(bytes.splice(at..at, [noise.next() as u8; 8])),
                    2 => bytes[at] ^= 1 << noise.below(8),
                    3 => bytes[at] = 0xff,
                    _ => bytes[at] = noise.next() as u8,
                }
            }
            understood += u64::from(try_it(target, &bytes) != 0);
        }
        assert!(understood > rounds as u64 / 8, "it was not all refused at the door: {understood}");
    }
}
