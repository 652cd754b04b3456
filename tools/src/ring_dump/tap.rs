//! Records as they pass, as tcpdump shows packets. The target does not notice: it is looked at from time to time, and
//! what it has overwritten in between is counted as missed, not waited for.
//!
//! A look takes the line with the tail from the producer, and the lines of the new records; nothing else. A ring
//! holds its last lap at most, so a stream that goes round it between two looks is seen in part.

use crate::cli::{Tap, Which};
use crate::frames::{Frame, Origin};
use crate::source::{self, Handle, Target};
use crate::style::{DIM, END};
use crate::{Failure, Healthy, Usage, print};
use ringbell::inspect::{Ring, Segment, intact, lap_start};
use ringbell::layout::{self, Kind, offset};
use ringbell::sync::{Ordering, PlainBool, fence};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often sessions are looked for that began or ended.
const REFRESH: Duration = Duration::from_millis(500);

/// One ring that is followed.
struct Followed {
    /// The producer's segment, and that of the consumer.
    own: Handle,
    other: Handle,
    capacity: u64,
    /// Up to where records were seen.
    next: u64,
    /// The segment as far as it was copied; the control page is left out.
    copy: Vec<u8>,
}

/// What was seen so far.
#[derive(Debug, Default)]
struct Seen {
    records: u64,
    bytes: u64,
    missed: u64,
}

fn word(handle: &Handle, at: usize) -> Option<u64> {
    handle.read(at as u64, 8).try_into().ok().map(u64::from_le_bytes)
}

#[allow(clippy::cast_possible_truncation, reason = "a capacity is at most 1 GiB")]
impl Followed {
    /// Follows a ring from where it is now.
    fn new(own: &Handle, other: &Handle, capacity: u64) -> Option<Self> {
        if !layout::is_capacity(capacity) {
            return None;
        }
        let next = word(own, offset::TAIL)?;
        let copy = vec![0; layout::CONTROL + capacity as usize];
        Some(Self { own: own.clone(), other: other.clone(), capacity, next, copy })
    }

    /// Copies a range of the ring to its place, in the order in which it was written.
    fn copy(&mut self, mut from: u64, to: u64) {
        while from < to {
            let index = from & (self.capacity - 1);
            let length = (to - from).min(self.capacity - index);
            let at = layout::CONTROL as u64 + index;
            let bytes = self.own.read(at, length);
            self.copy[at as usize..][..bytes.len()].copy_from_slice(&bytes);
            from += length;
        }
    }

    /// The records that came since the last look.
    fn look(&mut self, origin: Origin, max_bytes: usize, seen: &mut Seen) -> Vec<Frame> {
        let Some(tail) = word(&self.own, offset::TAIL) else { return Vec::new() };
        if tail == self.next {
            return Vec::new();
        }
        if tail.wrapping_sub(self.next) > self.capacity {
            self.skip_to_lap_of(tail, seen);
        }
        // The tail says that the records before it are there.
        fence(Ordering::Acquire);
        self.copy(self.next, tail);
        // And these positions say which of them have not been overwritten.
        fence(Ordering::Acquire);
        let (Some(tail_after), Some(head_after)) =
            (word(&self.own, offset::TAIL), word(&self.other, offset::HEAD))
        else {
            return Vec::new();
        };
        let Some(ring) = Ring::new(&self.copy, self.capacity) else { return Vec::new() };
        let mut frames = Vec::new();
        let mut lost = false;
        let mut walk = ring.walk(self.next, tail);
        for record in walk.by_ref() {
            if !intact(self.capacity, record.position, head_after, tail_after) {
                lost = true;
                break;
            }
            if record.header.kind() != Some(Kind::Padding) {
                seen.records += 1;
                seen.bytes += record.size;
                frames.push(Frame::of(&record, origin, max_bytes, false, false));
            }
            if record.flaw.is_some() {
                lost = true;
            }
        }
        self.next = walk.position();
        if lost {
            self.skip_to_lap_of(tail_after, seen);
        }
        frames
    }

    /// Goes on with the lap that the producer is in: the only place at which a record is known to begin.
    fn skip_to_lap_of(&mut self, tail: u64, seen: &mut Seen) {
        let to = lap_start(tail, self.capacity).max(self.next);
        // Who follows a garbled ring does not stand still.
        let to = if to == self.next { tail } else { to };
        seen.missed = seen.missed.saturating_add(to.wrapping_sub(self.next));
        self.next = to;
    }
}

type Rings = BTreeMap<(u64, u64), [Option<Followed>; 2]>;

/// Brings the rings that are followed up to date.
fn refresh(rings: &mut Rings, target: &Target, session: Option<u64>) -> Result<(), Failure> {
    let found = source::find(target)?;
    let mut requests = BTreeMap::new();
    let mut responses = BTreeMap::new();
    for handle in &found.handles {
        match handle.decode() {
            Some(Segment::Request(segment)) => {
                let identity = segment.identity;
                requests.insert((identity.generation, identity.session), (handle, identity.capacity));
            }
            Some(Segment::Response(segment)) => {
                let identity = segment.identity;
                responses.insert((identity.generation, identity.session), (handle, identity.capacity));
            }
            _ => {}
        }
    }
    rings.retain(|key, _| requests.contains_key(key) && responses.contains_key(key));
    for (key, (request, request_capacity)) in requests {
        let Some((response, response_capacity)) = responses.get(&key) else { continue };
        if session.is_none_or(|session| session == key.1) {
            rings.entry(key).or_insert_with(|| {
                [
                    Followed::new(request, response, request_capacity),
                    Followed::new(response, request, *response_capacity),
                ]
            });
        }
    }
    Ok(())
}

/// Follows the rings of a target until something ends it.
pub(crate) fn run(asked: &Tap) -> Result<Healthy, Failure> {
    let target = Target::of(&asked.target)?;
    if !target.is_live() {
        return Err(Box::new(Usage("tap follows what is alive: see frames for files".into())));
    }
    let over = Arc::new(PlainBool::new(false));
    let told = over.clone();
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            told.store(true, Ordering::Relaxed);
        }
    });
    let began = Instant::now();
    let mut rings = Rings::new();
    refresh(&mut rings, &target, asked.choice.session)?;
    // Whoever waits for the first record to send something needs to know.
    anstream::eprintln!("{DIM}following {} sessions of {target}{END}", rings.len());
    let mut refreshed = Instant::now();
    let mut seen = Seen::default();
    let done = |seen: &Seen| {
        over.load(Ordering::Relaxed)
            || asked.count.is_some_and(|count| seen.records >= count)
            || asked.time.is_some_and(|time| began.elapsed() >= time)
    };
    while !done(&seen) {
        let mut text = String::new();
        for (key, both) in &mut rings {
            for (followed, ring) in both.iter_mut().zip([Which::Request, Which::Response]) {
                let Some(followed) = followed else { continue };
                if asked.choice.ring.is_some_and(|wanted| wanted != ring) {
                    continue;
                }
                let origin = Origin { generation: key.0, session: key.1, ring };
                for frame in followed.look(origin, asked.choice.max_bytes, &mut seen) {
                    text += &line(&frame, origin, began, asked.choice.json)?;
                }
            }
        }
        if !text.is_empty() {
            print(&text)?;
        }
        if refreshed.elapsed() >= REFRESH {
            refreshed = Instant::now();
            if refresh(&mut rings, &target, asked.choice.session).is_err() {
                anstream::eprintln!("{DIM}the target is gone{END}");
                break;
            }
        }
        std::thread::sleep(asked.every);
    }
    let Seen { records, bytes, missed } = seen;
    anstream::eprintln!(
        "{DIM}{records} records, {bytes} bytes of the rings; missed {missed} bytes, at most {} records{END}",
        missed / layout::LINE
    );
    Ok(true)
}

fn line(frame: &Frame, origin: Origin, began: Instant, json: bool) -> Result<String, Failure> {
    if json {
        return Ok(serde_json::to_string(frame)? + "\n");
    }
    let arrow = match origin.ring {
        Which::Request => '>',
        Which::Response => '<',
    };
    let at = began.elapsed().as_secs_f64();
    Ok(format!("{DIM}{at:10.6}{END} {arrow} session {} {}", origin.session, frame.text().trim_start()))
}
