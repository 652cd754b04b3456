//! Waiting told from working: calls that were timed on their way, put together from the client's
//! half and the server's.

use crate::image::Image;
use ringbell::inspect::{self, Sample, Segment};
use ringbell::layout;
use serde::Serialize;
use std::collections::BTreeMap;

/// Where a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Stage {
    /// Sent, or waiting for room to be, and not taken by the server.
    RequestRing,
    /// Taken by the server, without an answer: waiting for a thread, or being worked on.
    Handler,
    /// Answered, and not taken by the client.
    ResponseRing,
}

impl Stage {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::RequestRing => "request ring",
            Self::Handler => "handler",
            Self::ResponseRing => "response ring",
        }
    }
}

/// How long calls stayed at one place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Spread {
    /// Of how many calls this is known.
    pub(crate) calls: u64,
    /// Half of them stayed no longer, in ns.
    pub(crate) median_ns: u64,
    /// Nine of ten.
    pub(crate) p90_ns: u64,
    /// The longest.
    pub(crate) most_ns: u64,
}

impl Spread {
    fn of(mut spans: Vec<u64>) -> Self {
        spans.sort_unstable();
        // Of n values in order, the one below which no less than that share lies.
        let at = |tenths: usize| {
            spans.get((spans.len() * tenths).div_ceil(10).saturating_sub(1)).copied()
        };
        Self {
            calls: spans.len() as u64,
            median_ns: at(5).unwrap_or(0),
            p90_ns: at(9).unwrap_or(0),
            most_ns: at(10).unwrap_or(0),
        }
    }
}

/// A call that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct OnItsWay {
    /// Its id.
    #[serde(serialize_with = "crate::export::decimal")]
    pub(crate) call: u64,
    /// Where it is.
    pub(crate) stage: Stage,
    /// Since when it is there, in ns before the look.
    pub(crate) age_ns: u64,
}

/// The latest calls of a session that were timed: 64 at most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Samples {
    /// How long ago the last of them was sent, in ns, and the first.
    pub(crate) newest_ns: u64,
    pub(crate) oldest_ns: u64,
    /// From sending to being taken by the server: waiting.
    pub(crate) request_ring: Spread,
    /// From there to the answer (of a stream, its first item): working, and waiting for a thread.
    pub(crate) handler: Spread,
    /// From there to the client's taking it: waiting.
    pub(crate) response_ring: Spread,
    /// The one under way that is where it is for the longest time.
    pub(crate) on_its_way: Option<OnItsWay>,
}

/// A time that is later than that of the look by more is none.
const AHEAD_NS: u64 = 1_000_000_000;

/// The latest time that segments tell of: of those in a core dump nobody knows when they were
/// written.
pub(crate) fn latest(images: &[Image]) -> Option<u64> {
    let times = |image: &Image| {
        let segment = inspect::decode(&image.control).ok()?;
        let created = segment.identity().created_ns;
        let (counters, samples) = match &segment {
            Segment::Request(segment) => (segment.counters, &segment.samples[..]),
            Segment::Response(segment) => (segment.counters, &segment.samples[..]),
            Segment::Status(segment) => {
                let layout::Facts { stored_ns, oldest_since_ns, .. } = segment.facts;
                return Some(created.max(stored_ns).max(oldest_since_ns));
            }
            Segment::Bell(_) => return Some(created),
        };
        let sampled =
            samples.iter().flat_map(|sample| [sample.sent_ns, sample.taken_ns, sample.done_ns]);
        sampled.chain([created, counters.oldest_sent_ns]).max()
    };
    images.iter().filter_map(times).max()
}

/// The samples of a segment that were the same at both ends of a look: others were being written.
pub(crate) fn settled(image: &Image) -> Vec<Sample> {
    let of = |page: &[u8]| match inspect::decode(page) {
        Ok(Segment::Request(segment)) => segment.samples,
        Ok(Segment::Response(segment)) => segment.samples,
        _ => Vec::new(),
    };
    let samples = of(&image.control);
    if image.after.is_empty() {
        return samples;
    }
    let after = of(&image.after);
    // What is written word by word may gain its end in between, and nothing else.
    let same =
        |a: &Sample, b: &Sample| (a.call, a.sent_ns, a.taken_ns) == (b.call, b.sent_ns, b.taken_ns);
    let again =
        |before: &Sample| after.iter().find(|now| same(before, now)).map(|now| (*before, *now));
    let kept = samples
        .iter()
        .filter_map(again)
        .filter(|(before, now)| before == now || before.done_ns == 0);
    kept.map(|(_, now)| now).collect()
}

/// How much the client's times have to be moved, in ns, so that no request was taken before it was
/// sent and no answer before it was there. A client in another time namespace knows its server's
/// clock to half of what its handshake took, which may be much longer than a call. 0 if nothing
/// contradicts.
fn shift(client: &BTreeMap<Key, &Sample>, server: &BTreeMap<Key, &Sample>) -> i64 {
    // What is further off is no matter of clocks.
    let gap = |from: u64, to: u64| {
        let gap = i64::try_from(i128::from(to) - i128::from(from)).ok()?;
        (gap.unsigned_abs() <= AHEAD_NS).then_some(gap)
    };
    let mut requests = Vec::new();
    let mut responses = Vec::new();
    for (key, sample) in server {
        requests.extend(gap(sample.sent_ns, sample.taken_ns));
        let received = client.get(key).map_or(0, |own| own.done_ns);
        if sample.done_ns != 0 && received != 0 {
            responses.extend(gap(sample.done_ns, received));
        }
    }
    match (requests.into_iter().min(), responses.into_iter().min()) {
        (_, Some(early)) if early < 0 => -early,
        (Some(early), _) if early < 0 => early,
        _ => 0,
    }
}

/// What the halves of a call have in common: its id, and when it was sent.
type Key = (u64, u64);

/// What the two halves say at `now`; `None` if no call was timed. Times that contradict each other
/// are left out.
pub(crate) fn join(client: &[Sample], server: &[Sample], now: u64) -> Option<Samples> {
    let latest = now.saturating_add(AHEAD_NS);
    let possible = |times: &[u64]| times.is_sorted() && times.iter().all(|at| *at <= latest);
    let key = |sample: &Sample| (sample.call, sample.sent_ns);
    let server: BTreeMap<Key, _> = server.iter().map(|sample| (key(sample), sample)).collect();
    let client: BTreeMap<Key, _> = client.iter().map(|sample| (key(sample), sample)).collect();
    let shift = shift(&client, &server);
    let (mut waited, mut worked, mut lay) = (Vec::new(), Vec::new(), Vec::new());
    let mut sent = Vec::new();
    for (key, sample) in server.iter().filter(|(_, sample)| sample.done_ns != 0) {
        let sent_ns = sample.sent_ns.saturating_add_signed(shift);
        if !possible(&[sent_ns, sample.taken_ns, sample.done_ns]) {
            continue;
        }
        sent.push(sent_ns);
        waited.push(sample.taken_ns - sent_ns);
        worked.push(sample.done_ns - sample.taken_ns);
        let received = client.get(key).map_or(0, |own| own.done_ns);
        let received_ns = received.saturating_add_signed(shift);
        if received != 0 && possible(&[sample.done_ns, received_ns]) {
            lay.push(received_ns - sample.done_ns);
        }
    }
    let on_its_way =
        client.iter().filter(|(_, sample)| sample.done_ns == 0).filter_map(|(key, own)| {
            let sent_ns = own.sent_ns.saturating_add_signed(shift);
            let (stage, since) = match server.get(key) {
                None => (Stage::RequestRing, sent_ns),
                Some(sample) if sample.done_ns == 0 => (Stage::Handler, sample.taken_ns),
                Some(sample) => (Stage::ResponseRing, sample.done_ns),
            };
            possible(&[sent_ns, since]).then(|| {
                sent.push(sent_ns);
                OnItsWay { call: own.call, stage, age_ns: now.saturating_sub(since) }
            })
        });
    let on_its_way = on_its_way.max_by_key(|call| call.age_ns);
    let (first, last) = (sent.iter().min()?, sent.iter().max()?);
    Some(Samples {
        newest_ns: now.saturating_sub(*last),
        oldest_ns: now.saturating_sub(*first),
        request_ring: Spread::of(waited),
        handler: Spread::of(worked),
        response_ring: Spread::of(lay),
        on_its_way,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples can be made by decoding only.
    fn samples(rows: &[[u64; 4]]) -> Vec<Sample> {
        use ringbell::layout::{CONTROL, LAYOUT_VERSION, MAGIC, offset};
        let mut page = vec![0; CONTROL];
        let mut put = |at: usize, word: u64| page[at..at + 8].copy_from_slice(&word.to_le_bytes());
        put(0, MAGIC);
        put(8, u64::from(LAYOUT_VERSION) | 1 << 32);
        for (place, row) in rows.iter().enumerate() {
            for (field, word) in row.iter().enumerate() {
                put(offset::SAMPLES + 32 * place + 8 * field, *word);
            }
        }
        settled(&Image { control: page, ..Image::default() })
    }

    #[test]
    fn halves_are_put_together() {
        let server = samples(&[[1, 10, 11, 111], [2, 20, 23, 223], [3, 30, 35, 335]]);
        let client = samples(&[[1, 10, 0, 112], [2, 20, 0, 225], [3, 30, 0, 0]]);
        let joined = join(&client, &server, 1000).expect("there are some");
        assert_eq!(joined.request_ring, Spread { calls: 3, median_ns: 3, p90_ns: 5, most_ns: 5 });
        assert_eq!(joined.handler, Spread { calls: 3, median_ns: 200, p90_ns: 300, most_ns: 300 });
        assert_eq!(joined.response_ring, Spread { calls: 2, median_ns: 1, p90_ns: 2, most_ns: 2 });
        let lies = OnItsWay { call: 3, stage: Stage::ResponseRing, age_ns: 665 };
        assert_eq!((joined.newest_ns, joined.oldest_ns, joined.on_its_way), (970, 990, Some(lies)));
    }

    #[test]
    fn a_call_is_where_it_was_seen_last() {
        let stage = |client: &[[u64; 4]], server: &[[u64; 4]]| {
            join(&samples(client), &samples(server), 100).and_then(|joined| joined.on_its_way)
        };
        let at = |stage, age_ns| Some(OnItsWay { call: 7, stage, age_ns });
        assert_eq!(stage(&[[7, 10, 0, 0]], &[]), at(Stage::RequestRing, 90));
        assert_eq!(
            stage(&[[7, 10, 0, 0]], &[[7, 9, 20, 0]]),
            at(Stage::RequestRing, 90),
            "another call"
        );
        assert_eq!(stage(&[[7, 10, 0, 0]], &[[7, 10, 20, 0]]), at(Stage::Handler, 80));
        assert_eq!(stage(&[[7, 10, 0, 0]], &[[7, 10, 20, 40]]), at(Stage::ResponseRing, 60));
        assert_eq!(stage(&[[7, 10, 0, 50]], &[[7, 10, 20, 40]]), None);
    }

    #[test]
    fn c3_clocks_that_differ_a_little_contradict_nothing() {
        // Each call waits for 3 us, is worked on for 2, and waits for 1; the client's clock is
        // ahead by this, or behind.
        for ahead in [0, 5_000, -5_000, 900_000_000, -900_000_000i64] {
            let own = |at: u64| at.saturating_add_signed(ahead);
            let at = |call: u64| 1_000_000_000 + call * 10_000;
            let server: Vec<[u64; 4]> = (1..=20)
                .map(|call| [call, own(at(call)), at(call) + 3_000, at(call) + 5_000])
                .collect();
            let mut client: Vec<[u64; 4]> =
                (1..=20).map(|call| [call, own(at(call)), 0, own(at(call) + 6_000)]).collect();
            client.push([21, own(at(21)), 0, 0]);
            let joined = join(&samples(&client), &samples(&server), at(100)).expect("some");
            for (what, spread, truly) in [
                ("request", &joined.request_ring, 3_000),
                ("handler", &joined.handler, 2_000),
                ("response", &joined.response_ring, 1_000),
            ] {
                // Not better than by what is between two looks at the two clocks.
                let wrong = spread.median_ns.abs_diff(truly);
                assert!(spread.calls == 20 && wrong <= 3_000, "{ahead} {what}: {spread:?}");
                assert!(wrong == 0 || what != "handler" && ahead != 0, "{ahead} {what}");
            }
            let waits = joined.on_its_way.expect("the last one");
            assert_eq!((waits.call, waits.stage), (21, Stage::RequestRing));
            assert!(waits.age_ns.abs_diff(at(100) - at(21)) <= 3_000, "{ahead}: {waits:?}");
        }
    }

    #[test]
    fn contradictions_are_left_out() {
        const LATE: u64 = AHEAD_NS + 10;
        let server = samples(&[
            [1, 10, 9, 8],
            [2, 20, u64::MAX, u64::MAX],
            [3, 1, 2, LATE],
            [0, 1, 2, 3],
            [5, LATE, 2, 0],
        ]);
        let client = samples(&[[3, 1, 0, 3], [5, LATE, 0, 0], [4, u64::MAX, 0, 0]]);
        let joined = join(&client, &server, 1000).expect("there is one");
        assert_eq!((joined.handler.calls, joined.response_ring.calls), (1, 0));
        assert_eq!(joined.on_its_way, None);
        assert_eq!(join(&[], &[], 1000), None);
    }
}
