//! Control pages: the words of a segment, each under its name.

use crate::link::stats::{ServerCounters, SessionCounters};
use crate::memory::layout::{
    self, Armed, Domain, Facts, Hints, Interest, Mode, SegmentKind, offset,
};
use serde::{Deserialize, Serialize};

/// Why bytes are no segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unreadable {
    /// Shorter than a control page; the length in bytes is given.
    Short(usize),
    /// Not the magic number of segments. 0 is a segment that was made and not handed out yet.
    Magic(u64),
    /// Another version of the layout than this library's.
    Version(u32),
    /// A kind of segment that this version does not know.
    Kind(u32),
}

impl Unreadable {
    /// Whether it is a segment of a layout that is newer than this library's: a newer program can
    /// read it.
    #[must_use]
    pub fn is_newer(self) -> bool {
        matches!(self, Self::Version(found) if found > layout::LAYOUT_VERSION)
    }
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Short(have) => write!(f, "{have} bytes are too few for a segment"),
            Self::Magic(0) => f.write_str("a segment that is not in use"),
            Self::Magic(found) => write!(f, "no segment: it begins with {found:#018x}"),
            Self::Version(found) => {
                let age = if self.is_newer() { "newer" } else { "older" };
                write!(
                    f,
                    "a segment of a {age} layout: version {found}; this program knows {}",
                    layout::LAYOUT_VERSION
                )
            }
            Self::Kind(found) => write!(f, "a segment of unknown kind {found}"),
        }
    }
}

impl std::error::Error for Unreadable {}

/// The first cell of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Identity {
    /// What the segment is for.
    pub kind: SegmentKind,
    /// Version of the layout.
    pub version: u32,
    /// The server's generation.
    pub generation: u64,
    /// The session; the domain for a bell; 0 for the status segment.
    pub session: u64,
    /// Of the ring in bytes, or the number of armed words of a status segment; 0 if what stands
    /// there is impossible.
    pub capacity: u64,
    /// Size of the segment in bytes, as it says.
    pub total: u64,
    /// When it was made: CLOCK_MONOTONIC, ns.
    pub created_ns: u64,
    /// What is wrong with it.
    pub flaws: Vec<String>,
}

/// Whether a side sleeps, from its armed word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Sleep {
    /// It does not sleep, or not yet.
    Awake,
    /// It sleeps, or is about to.
    Armed {
        /// How it is to be woken.
        mode: Mode,
        /// Whether a record wakes it.
        data: bool,
        /// Whether space in the ring that it fills wakes it.
        space: bool,
        /// The bell word that it saw: while the bell still says so, nobody has rung.
        ticket: u32,
    },
    /// A word that no implementation stores.
    Impossible {
        /// The word.
        word: u64,
    },
}

impl Sleep {
    fn of(word: u64) -> Self {
        let armed = Armed(word);
        if armed == Armed::AWAKE {
            return Self::Awake;
        }
        match armed.mode() {
            Some(mode) => Self::Armed {
                mode,
                data: armed.interest().meets(Interest::DATA),
                space: armed.interest().meets(Interest::SPACE),
                ticket: armed.ticket(),
            },
            None => Self::Impossible { word },
        }
    }

    /// The ticket of a sleeper.
    #[must_use]
    pub fn ticket(self) -> Option<u32> {
        match self {
            Self::Armed { ticket, .. } => Some(ticket),
            _ => None,
        }
    }
}

/// Where a side ran when it last said so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Place {
    /// The CPU.
    pub cpu: Option<u32>,
    /// Whether it was going to sleep.
    pub off: bool,
}

/// Who is at the other end. The name is chosen by the client.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Peer {
    /// Process id, as the server sees it; 0 if it cannot.
    pub pid: u32,
    /// User id.
    pub uid: u32,
    /// What is printable of the name.
    pub name: String,
}

/// What one side says of a call that is timed on its way; the other side's half has the same call
/// id and time of sending. Times are ns of the server's clock, and what a peer says: they may
/// contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Sample {
    /// The call id.
    pub call: u64,
    /// When the client set out to send it.
    pub sent_ns: u64,
    /// When the server took it from the ring; 0 in the client's half.
    pub taken_ns: u64,
    /// When its answer was complete (server), or taken from the ring (client); 0 if that is still
    /// to come.
    pub done_ns: u64,
}

/// A request segment: the client writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RequestSegment {
    /// What it is.
    pub identity: Identity,
    /// Where the next request goes.
    pub tail: u64,
    /// How far the client has given back the response ring.
    pub response_head: u64,
    /// The bell word with which the client wakes the server, if it has no bell segment
    /// ([`ResponseSegment::own_bell`]).
    pub bell: u32,
    /// Whether the client sleeps.
    pub sleep: Sleep,
    /// Where the client runs.
    pub place: Place,
    /// What the client counted, as of its last sleep or so.
    pub counters: SessionCounters,
    /// Calls that are timed on their way, as the client saw them, in no order.
    pub samples: Vec<Sample>,
}

/// A response segment: the server writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ResponseSegment {
    /// What it is.
    pub identity: Identity,
    /// Where the next response goes.
    pub tail: u64,
    /// How far the server has given back the request ring.
    pub request_head: u64,
    /// The bell word that the client sleeps on.
    pub bell: u32,
    /// What the server counted for this session.
    pub counters: SessionCounters,
    /// Calls that are timed on their way, as the server saw them, in no order.
    pub samples: Vec<Sample>,
    /// The client.
    pub client: Peer,
    /// The domain of the session: index of the server's armed word for it.
    pub domain: u32,
    /// Whether the client wakes the server by the bell word of its request segment, and so has a
    /// domain for itself.
    pub own_bell: bool,
}

/// A status segment: one for each server, which writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StatusSegment {
    /// What it is.
    pub identity: Identity,
    /// Where the reactor runs.
    pub place: Place,
    /// Whether the reactor sleeps, by domain; as many as the copy has.
    pub sleeps: Vec<Sleep>,
    /// What the server counted.
    pub counters: ServerCounters,
    /// What the server tells of itself beside that.
    pub facts: Facts,
    /// The server.
    pub server: Peer,
}

/// A bell: that of the server's own user, whose clients write it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BellSegment {
    /// What it is.
    pub identity: Identity,
    /// The bell word that the server sleeps on.
    pub bell: u32,
}

/// A decoded control page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "segment")]
pub enum Segment {
    /// Client to server.
    Request(RequestSegment),
    /// Server to client.
    Response(ResponseSegment),
    /// The server.
    Status(StatusSegment),
    /// A domain.
    Bell(BellSegment),
}

impl Segment {
    /// The first cell.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        match self {
            Self::Request(segment) => &segment.identity,
            Self::Response(segment) => &segment.identity,
            Self::Status(segment) => &segment.identity,
            Self::Bell(segment) => &segment.identity,
        }
    }
}

/// The name under which segments of a kind are found among the descriptors of a process.
#[must_use]
pub fn name_of(kind: SegmentKind) -> &'static str {
    // Plain ASCII, so never anything else.
    crate::link::segment::name(kind).to_str().unwrap_or_default()
}

/// A copy of a segment, at least its control page.
struct Page<'a>(&'a [u8]);

impl Page<'_> {
    /// 0 beyond the end: all-zero bytes are an empty segment.
    fn u64(&self, at: usize) -> u64 {
        let bytes = self.0.get(at..at.saturating_add(8));
        bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
    }

    fn u32(&self, at: usize) -> u32 {
        let bytes = self.0.get(at..at.saturating_add(4));
        bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
    }

    fn place(&self) -> Place {
        let hints = Hints(self.u64(offset::HINTS));
        Place { cpu: hints.cpu(), off: hints.off() }
    }

    fn peer(&self) -> Peer {
        let at = offset::PEER;
        let name = core::mem::offset_of!(layout::Peer, name);
        let name = self.0.get(at + name..at + name + layout::NAME).unwrap_or_default();
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        let name = String::from_utf8_lossy(&name[..end]);
        Peer {
            pid: self.u32(at + core::mem::offset_of!(layout::Peer, pid)),
            uid: self.u32(at + core::mem::offset_of!(layout::Peer, uid)),
            // It goes to terminals.
            name: name
                .chars()
                .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
                .collect(),
        }
    }

    fn counter(&self, index: usize) -> u64 {
        self.u64(offset::COUNTERS + 8 * index)
    }

    fn samples(&self) -> Vec<Sample> {
        use core::mem::offset_of;
        let places =
            (0..layout::SAMPLES).map(|place| offset::SAMPLES + place * size_of::<layout::Sample>());
        let sample = |at| Sample {
            call: self.u64(at + offset_of!(layout::Sample, call)),
            sent_ns: self.u64(at + offset_of!(layout::Sample, sent_ns)),
            taken_ns: self.u64(at + offset_of!(layout::Sample, taken_ns)),
            done_ns: self.u64(at + offset_of!(layout::Sample, done_ns)),
        };
        places.map(sample).filter(|sample| sample.call != 0).collect()
    }

    fn facts(&self) -> Facts {
        use core::mem::offset_of;
        let word = |field| self.u64(offset::FACTS + field);
        Facts {
            max_clients: word(offset_of!(Facts, max_clients)),
            max_in_flight: word(offset_of!(Facts, max_in_flight)),
            max_held_bytes: word(offset_of!(Facts, max_held_bytes)),
            max_held_bytes_per_client: word(offset_of!(Facts, max_held_bytes_per_client)),
            engine: word(offset_of!(Facts, engine)),
            thread: word(offset_of!(Facts, thread)),
            stored_ns: word(offset_of!(Facts, stored_ns)),
            oldest_session: word(offset_of!(Facts, oldest_session)),
            oldest_call: word(offset_of!(Facts, oldest_call)),
            oldest_since_ns: word(offset_of!(Facts, oldest_since_ns)),
        }
    }

    fn identity(&self) -> Result<Identity, Unreadable> {
        use core::mem::offset_of;
        let short = Err(Unreadable::Short(self.0.len()));
        // What follows the version is the version's own business, the size of a page included.
        if self.0.len() < VERSIONED {
            return short;
        }
        let at = |field| offset::IDENTITY + field;
        match self.u64(at(offset_of!(layout::Identity, magic))) {
            layout::MAGIC => {}
            other => return Err(Unreadable::Magic(other)),
        }
        let version = self.u32(at(offset_of!(layout::Identity, version)));
        if version != layout::LAYOUT_VERSION {
            return Err(Unreadable::Version(version));
        }
        if self.0.len() < layout::CONTROL {
            return short;
        }
        let kind = self.u32(at(offset_of!(layout::Identity, kind)));
        let kind = SegmentKind::from_u32(kind).ok_or(Unreadable::Kind(kind))?;
        let says = self.u64(at(offset_of!(layout::Identity, capacity)));
        let possible = match kind {
            SegmentKind::Request | SegmentKind::Response => layout::is_capacity(says),
            SegmentKind::Status => says <= MAX_ARMED_WORDS,
            SegmentKind::Bell => says == 0,
        };
        let capacity = if possible { says } else { 0 };
        let size = match kind {
            SegmentKind::Request | SegmentKind::Response => layout::ring_segment_size(capacity),
            SegmentKind::Status => layout::status_segment_size(capacity),
            SegmentKind::Bell => layout::BELL_SEGMENT_SIZE,
        };
        let total = self.u64(at(offset_of!(layout::Identity, total)));
        let mut flaws = Vec::new();
        if !possible {
            flaws.push(format!("an impossible capacity of {says}"));
        } else if total != size {
            flaws.push(format!("a size of {total} bytes, where its capacity makes {size}"));
        }
        Ok(Identity {
            kind,
            version,
            generation: self.u64(at(offset_of!(layout::Identity, generation))),
            session: self.u64(at(offset_of!(layout::Identity, session))),
            capacity,
            total,
            created_ns: self.u64(at(offset_of!(layout::Identity, created_ns))),
            flaws,
        })
    }
}

/// Bytes in which magic and version stand, in every version of the layout.
const VERSIONED: usize = 16;

/// More domains than any server has.
const MAX_ARMED_WORDS: u64 = 1 << 16;

/// Decodes the control page in a copy of a segment, or of its first bytes.
///
/// # Errors
/// [`Unreadable`] if the bytes are no segment of this layout. What is wrong with a segment that can
/// be recognized stands in [`Identity::flaws`].
#[allow(clippy::cast_possible_truncation, reason = "at most MAX_ARMED_WORDS")]
pub fn decode(bytes: &[u8]) -> Result<Segment, Unreadable> {
    let page = Page(bytes);
    let identity = page.identity()?;
    Ok(match identity.kind {
        SegmentKind::Request => Segment::Request(RequestSegment {
            identity,
            tail: page.u64(offset::TAIL),
            response_head: page.u64(offset::HEAD),
            bell: page.u32(offset::SEQ),
            sleep: Sleep::of(page.u64(offset::ARMED)),
            place: page.place(),
            counters: SessionCounters::read(|index| page.counter(index)),
            samples: page.samples(),
        }),
        SegmentKind::Response => Segment::Response(ResponseSegment {
            identity,
            tail: page.u64(offset::TAIL),
            request_head: page.u64(offset::HEAD),
            bell: page.u32(offset::SEQ),
            counters: SessionCounters::read(|index| page.counter(index)),
            samples: page.samples(),
            client: page.peer(),
            domain: Domain(page.u64(offset::DOMAIN)).index(),
            own_bell: Domain(page.u64(offset::DOMAIN)).has_own_bell(),
        }),
        SegmentKind::Status => {
            let have = bytes.len().saturating_sub(layout::CONTROL).div_ceil(layout::ARMED_STRIDE);
            let words = have.min(identity.capacity as usize);
            let word = |index| page.u64(layout::CONTROL + index * layout::ARMED_STRIDE);
            Segment::Status(StatusSegment {
                place: page.place(),
                sleeps: (0..words).map(|index| Sleep::of(word(index))).collect(),
                counters: ServerCounters::read(|index| page.counter(index)),
                facts: page.facts(),
                server: page.peer(),
                identity,
            })
        }
        SegmentKind::Bell => Segment::Bell(BellSegment { bell: page.u32(offset::SEQ), identity }),
    })
}
