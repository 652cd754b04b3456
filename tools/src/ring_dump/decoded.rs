//! The segments of one moment, decoded, and their rings.

use crate::capture::Take;
use crate::handle::is_made_as;
use crate::image::Image;
use crate::report::{Memory, Party, RingState, Stray};
use crate::text;
use crate::who::Who;
use ringbell::inspect::{
    self, BellSegment, Flaw, Peer, RequestSegment, ResponseSegment, Ring, Segment, StatusSegment,
    Unreadable, intact, lap_start,
};
use ringbell::layout::{self, Kind};
use std::collections::{BTreeMap, BTreeSet};
/// The segments of one moment, decoded and by what they belong to.
#[derive(Default)]
pub(crate) struct Decoded<'a> {
    pub(crate) statuses: BTreeMap<u64, (StatusSegment, &'a Image)>,
    pub(crate) bells: BTreeMap<(u64, u64), BellSegment>,
    pub(crate) requests: BTreeMap<(u64, u64), (RequestSegment, &'a Image)>,
    pub(crate) responses: BTreeMap<(u64, u64), (ResponseSegment, &'a Image)>,
    pub(crate) strays: Vec<Stray>,
    /// Who the processes are that status segments (without a session) and response segments name.
    pub(crate) parties: BTreeMap<(u64, Option<u64>), Identified>,
}

/// A process that a segment names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identified {
    /// Its number as the server sees it.
    pub(crate) named: u32,
    /// Who that is.
    pub(crate) who: Who,
    /// Where the segment was found.
    holder: Option<u32>,
}

impl Identified {
    /// Its number here, if it can be seen.
    pub(crate) fn host_pid(&self) -> Option<u32> {
        match self.who {
            Who::Here(pid) => Some(pid),
            _ => None,
        }
    }

    /// The number that stands for it in what is told.
    fn pid(&self) -> u32 {
        match self.who {
            Who::Here(pid) => pid,
            Who::Gone => self.named,
            Who::Other | Who::Unknown => 0,
        }
    }

    /// Whether it is certain that it is gone, or was never there.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.who, Who::Gone)
    }

    /// The process that has the segment, if it is another one.
    pub(crate) fn held_by(&self) -> Option<u32> {
        self.holder.filter(|holder| self.who != Who::Here(*holder))
    }
}

impl<'a> Decoded<'a> {
    pub(crate) fn of(take: &'a Take) -> Self {
        let mut all = Self::default();
        // Requests last: which of several is a session's is told by its response.
        let is_request = |image: &&Image| {
            let segment = inspect::decode(&image.control);
            matches!(segment, Ok(Segment::Request(_)))
        };
        let (requests, others): (Vec<_>, Vec<_>) = take.images.iter().partition(is_request);
        for image in others.into_iter().chain(requests) {
            let mut segment = match inspect::decode(&image.control) {
                Ok(segment) => segment,
                Err(why) => {
                    let foreign = match why {
                        Unreadable::Version(version) => Some((version, generation(&image.control))),
                        _ => None,
                    };
                    all.strays.push(Stray {
                        found: image.found.clone(),
                        why: why.to_string(),
                        spare: why == Unreadable::Magic(0) || foreign.is_some(),
                        foreign,
                    });
                    continue;
                }
            };
            let identity = segment.identity();
            let key = (identity.generation, identity.session);
            if !is_made_as(image.made.as_deref(), identity.kind) {
                let found = image.found.clone();
                let why = format!(
                    "it was made as {}, and says that it is another",
                    text::of_str(image.made.as_deref().unwrap_or_default())
                );
                all.strays.push(Stray { found, why, spare: false, foreign: None });
                continue;
            }
            if all.has(&segment) {
                // Nobody makes two, unless to deceive. Of two requests the one that was made with
                // its response is shown, whose page only the server writes; otherwise the first.
                let mut found = image.found.clone();
                if let Segment::Request(request) = &segment
                    && let Some((response, _)) = all.responses.get(&key)
                    && let Some(shown) = all.requests.get_mut(&key)
                {
                    let apart = |one: &RequestSegment| {
                        one.identity.created_ns.abs_diff(response.identity.created_ns)
                    };
                    if apart(request) < apart(&shown.0) {
                        found.clone_from(&shown.1.found);
                        *shown = (request.clone(), image);
                    }
                }
                let why = "there is another segment of the same server, session and kind".into();
                all.strays.push(Stray { found, why, spare: false, foreign: None });
                continue;
            }
            let mut identify = |key, pid: &mut u32| {
                let known = take.named.iter().find(|named| named.inode == image.inode);
                let who = known.map_or(Who::Here(*pid), |named| named.who);
                let holder = known.and_then(|named| named.holder);
                let identified = Identified { named: *pid, who, holder };
                *pid = identified.pid();
                all.parties.insert(key, identified);
            };
            match &mut segment {
                Segment::Status(status) => identify((key.0, None), &mut status.server.pid),
                Segment::Response(response) => {
                    identify((key.0, Some(key.1)), &mut response.client.pid)
                }
                _ => {}
            }
            match segment {
                Segment::Status(status) => drop(all.statuses.insert(key.0, (status, image))),
                Segment::Bell(bell) => drop(all.bells.insert(key, bell)),
                Segment::Request(request) => drop(all.requests.insert(key, (request, image))),
                Segment::Response(response) => drop(all.responses.insert(key, (response, image))),
            }
        }
        all
    }

    /// Whether there is such a segment already.
    fn has(&self, segment: &Segment) -> bool {
        let identity = segment.identity();
        let key = (identity.generation, identity.session);
        match segment {
            Segment::Status(_) => self.statuses.contains_key(&key.0),
            Segment::Bell(_) => self.bells.contains_key(&key),
            Segment::Request(_) => self.requests.contains_key(&key),
            Segment::Response(_) => self.responses.contains_key(&key),
        }
    }

    /// A process, as it is told of.
    pub(crate) fn party(&self, key: (u64, Option<u64>), peer: &Peer) -> Party {
        Party::new(peer, self.parties.get(&key).map_or(peer.pid, |known| known.named))
    }

    /// The bell word of a domain: its bell segment's, or that of the one session which has a bell
    /// of its own.
    pub(crate) fn bell(&self, generation: u64, domain: u64) -> Option<u32> {
        if let Some(bell) = self.bells.get(&(generation, domain)) {
            return Some(bell.bell);
        }
        let (key, _) = self.responses.iter().find(|(key, (response, _))| {
            key.0 == generation && response.own_bell && u64::from(response.domain) == domain
        })?;
        self.requests.get(key).map(|(request, _)| request.bell)
    }

    /// Sessions of which both halves are there.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = (u64, u64)> {
        self.requests.keys().filter(|key| self.responses.contains_key(key)).copied()
    }
}

/// The generation in the first cell of a segment, which all versions of the layout have.
fn generation(control: &[u8]) -> u64 {
    let at = layout::offset::IDENTITY + std::mem::offset_of!(layout::Identity, generation);
    let bytes = control.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u64::from_le_bytes)
}

/// One ring, at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RingImage<'a> {
    pub(crate) image: &'a Image,
    pub(crate) capacity: u64,
    pub(crate) tail: u64,
    pub(crate) head: u64,
    /// After the ring was copied.
    pub(crate) tail_after: u64,
    pub(crate) head_after: u64,
}

/// Between looks that are closer to each other nothing is called stuck.
const PATIENT_NS: u64 = 20_000_000;

/// Both rings of a session.
pub(crate) fn rings<'a>(decoded: &Decoded<'a>, key: (u64, u64)) -> Option<[RingImage<'a>; 2]> {
    let (request, request_image) = decoded.requests.get(&key)?;
    let (response, response_image) = decoded.responses.get(&key)?;
    let after = |image: &Image| inspect::decode(&image.after).ok();
    let (request_after, response_after) = match (after(request_image), after(response_image)) {
        (Some(Segment::Request(request)), Some(Segment::Response(response))) => (request, response),
        _ => (request.clone(), response.clone()),
    };
    Some([
        RingImage {
            image: request_image,
            capacity: request.identity.capacity,
            tail: request.tail,
            head: response.request_head,
            tail_after: request_after.tail,
            head_after: response_after.request_head,
        },
        RingImage {
            image: response_image,
            capacity: response.identity.capacity,
            tail: response.tail,
            head: request.response_head,
            tail_after: response_after.tail,
            head_after: request_after.response_head,
        },
    ])
}

impl RingImage<'_> {
    /// Whether the positions can be those of one ring. They are read one after the other while the
    /// ring goes on; but a head never lies beyond a tail that was read later, nor a tail more than
    /// a ring beyond a head that was.
    fn is_possible(&self) -> bool {
        let at_most = |position: u64, limit: u64| limit.wrapping_sub(position) < 1 << 63;
        [self.head, self.tail, self.head_after, self.tail_after]
            .iter()
            .all(|at| at.is_multiple_of(layout::LINE))
            && at_most(self.head, self.tail_after)
            && at_most(self.tail, self.head_after.wrapping_add(self.capacity))
            && at_most(self.head, self.head_after)
            && at_most(self.tail, self.tail_after)
    }

    /// Bytes that are not given back, as far as can be said of a ring that moves.
    fn fill(&self) -> u64 {
        let fill = self.tail.wrapping_sub(self.head);
        // The head was read a moment later.
        if fill >= 1 << 63 { 0 } else { fill.min(self.capacity) }
    }

    /// The calls that answers in this ring belong to, as far as they are still there: those of this
    /// lap.
    pub(crate) fn answered(&self) -> BTreeSet<u64> {
        self.calls_of(|kind| {
            matches!(kind, Kind::Response | Kind::Error | Kind::StreamItem | Kind::StreamEnd)
        })
    }

    /// The calls of which there are items of streams in this ring, as far as they are still there.
    pub(crate) fn streams(&self) -> BTreeSet<u64> {
        self.calls_of(|kind| kind == Kind::StreamItem)
    }

    fn calls_of(&self, wanted: impl Fn(Kind) -> bool) -> BTreeSet<u64> {
        let whole = self.image.whole();
        let Some(ring) = Ring::new(&whole, self.capacity) else { return BTreeSet::new() };
        let good = |position| intact(self.capacity, position, self.head_after, self.tail_after);
        let start = lap_start(self.tail, self.capacity);
        let from = if good(start) { start } else { self.tail.wrapping_sub(self.fill()) };
        let records = ring
            .walk(from, self.tail)
            .filter(|record| record.flaw.is_none() && good(record.position));
        let of_kind = records.filter(|record| record.header.kind().is_some_and(&wanted));
        of_kind.map(|record| record.call).collect()
    }

    /// What it looked like; `before` is the same ring at the first look.
    ///
    /// `answered` are calls whose requests were read for certain. Records are read in order: so was
    /// all before them.
    pub(crate) fn state(
        &self,
        before: Option<&RingImage<'_>>,
        peak: u64,
        between_ns: u64,
        answered: &BTreeSet<u64>,
    ) -> RingState {
        let patient = between_ns >= PATIENT_NS;
        let whole = self.image.whole();
        let fill = self.fill();
        let mut flaw = None;
        let (mut messages, mut first_call) = (0, None);
        match Ring::new(&whole, self.capacity) {
            None => flaw = Some("an impossible capacity".into()),
            Some(_) if !self.is_possible() => {
                flaw = Some(format!("impossible positions: {} to {}", self.head, self.tail));
            }
            Some(_) if self.image.body.is_empty() => {}
            Some(ring) => {
                for record in ring.walk(self.tail.wrapping_sub(fill), self.tail) {
                    // What was overwritten while it was copied says nothing of the ring.
                    if !intact(self.capacity, record.position, self.head_after, self.tail_after) {
                        continue;
                    }
                    match record.flaw {
                        // The rest of a core dump or of a file may be missing.
                        Some(Flaw::Cut) => {}
                        // A head that was cut to the capacity is none.
                        Some(_) if fill == self.capacity => {}
                        Some(found) => flaw = Some(format!("{found} at {}", record.position)),
                        None if answered.contains(&record.call) => {
                            (messages, first_call) = (0, None)
                        }
                        None if record.begins_message() => {
                            messages += 1;
                            first_call = first_call.or(Some(record.call));
                        }
                        None => {}
                    }
                }
            }
        }
        let moved = |now: u64, then: fn(&RingImage<'_>) -> u64| {
            before.map_or(0, |before| now.wrapping_sub(then(before)))
        };
        let consumed = moved(self.head, |ring| ring.head);
        let stuck = fill != 0
            && patient
            && before.is_some_and(|before| before.head == self.head && before.fill() != 0);
        let most = layout::max_record(self.capacity.max(layout::MIN_CAPACITY));
        RingState {
            capacity: self.capacity,
            tail: self.tail,
            head: self.head,
            fill,
            high_water: peak.min(self.capacity).max(fill),
            messages,
            first_call,
            produced: moved(self.tail, |ring| ring.tail),
            consumed,
            stuck,
            full: self.capacity.saturating_sub(fill) < most + layout::zero_window(self.capacity),
            consistent: self.tail == self.tail_after && self.head == self.head_after,
            flaw,
            memory: Memory::of(self.image),
        }
    }
}
