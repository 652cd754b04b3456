//! The bytes of the handshake. Little-endian, fixed layout.
//!
//! ```text
//! header      0 magic u64 | 8 length of the body u32 | 12 kind u16 | 14 always 1 u16 | 16
//!
//! hello       0 min version u16 | 2 max version u16 | 4 role u8 | 5 transport u8 | 6 length of name u8
//!             7 - | 8 features u32 | 12 - | 16 request capacity u64 | 24 response capacity u64
//!            32 max message u64 | 40 name, 48 bytes | 88
//!
//! welcome     0 version u16 | 2 flags u16 (1: a pidfd comes along; 2: a bell segment comes along)
//!             4 domain u32 | 8 generation u64 | 16 session u64
//!            24 request capacity u64 | 32 response capacity u64 | 40 max message u64
//!            48 size of the status segment u64 | 56 armed words u64 | 64 pid u32 | 68 features u32
//!            72 calls to each that is sampled u32 | 76 - | 80 server time u64 | 88
//!
//! reject      0 reason u32 | 4 - | 8 first parameter u64 | 16 second parameter u64 | 24
//!
//! fallback    0 as a reject | 24 version u16 | 26 - | 28 features u32 | 32 generation u64 | 40 session u64
//!            48 max message u64 | 56 pid u32 | 60 - | 64 server time u64 | 72
//!
//! segments    0 version u16 | 2 flags u16 (1: another one follows) | 4 number of descriptors u32
//!             8 generation u64 | 16 pid u32 | 20 sessions over sockets u32 | 24 server time u64 | 32
//! ```
//!
//! **What never changes, in any version:** the header, the whole reject, the two versions at the
//! beginning of a hello, and the version in a welcome (0), a fallback (24) and segments (0). By
//! these a peer of another version is recognised, and told so in bytes that it can read. `golden/`
//! has the bytes of each version.
//!
//! Server time is the server's CLOCK_MONOTONIC, in nanoseconds, at some moment between the arrival
//! of the hello and the answer ([`crate::base::clock::ClockOffset`]).
//!
//! Features are bits: a client sets those that it asks for, a server those that it grants. Unknown
//! ones are ignored, and not granted.
//!
//! `-` is sent as 0 and ignored. A body may be longer than this version knows; the rest is ignored.

mod envelope;

use crate::memory::layout::{self, NAME};
use envelope::{Reader, Writer};

#[cfg(any(feature = "fuzzing", all(test, feature = "inspect")))]
pub(crate) use envelope::MAX_BODY;
pub(crate) use envelope::{HEADER, Header, Malformed, MessageKind};

/// The range of session protocols that this library speaks.
pub(crate) const VERSIONS: (u16, u16) = (2, 2);
const HELLO: usize = 88;
const WELCOME: usize = 88;
const REFUSAL: usize = 24;
const FALLBACK: usize = 72;
const SEGMENTS: usize = 32;
/// Most descriptors of one segments message; the kernel takes 253.
pub(crate) const BATCH: usize = 64;

/// Feature: the server answers the session's requests strictly in their order.
pub(crate) const FEATURE_ORDERED: u32 = 1;
/// Feature: requests may say when they were sent, and both sides keep samples of such calls. Shared
/// memory only.
pub(crate) const FEATURE_SAMPLES: u32 = 2;
/// Feature: the session is a byte stream: see `bytes.rs`. A server that does not say so serves
/// calls.
pub(crate) const FEATURE_BYTES: u32 = 4;
/// Feature: the client converts the times that it sends to the server's clock, which it learns from
/// the server time of the answer. Without it the two are taken for one clock.
pub(crate) const FEATURE_CLOCK: u32 = 8;

/// The version of an answer, at this place of its body.
fn spoken(body: &[u8], at: usize) -> Result<u16, Malformed> {
    if body.len() < at + size_of::<u16>() {
        return Err(Malformed::Content);
    }
    let version = Reader(body).u16(at);
    let (min, max) = VERSIONS;
    if (min..=max).contains(&version) { Ok(version) } else { Err(Malformed::Speaks(version)) }
}

/// What a client wants to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Role {
    /// It sends requests.
    Client = 1,
    /// It looks at the server and changes nothing.
    Inspector = 2,
}

/// What carries the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum TransportAsked {
    /// Shared memory.
    Shared = 1,
    /// The socket itself.
    Socket = 2,
}

/// The client's opening. Wishes of 0 leave the choice to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    /// First and last session protocol that the client speaks.
    pub(crate) versions: (u16, u16),
    pub(crate) role: Role,
    pub(crate) transport: TransportAsked,
    /// Bits of optional abilities that the client asks for, see [`FEATURE_ORDERED`].
    pub(crate) features: u32,
    /// Wanted capacities of the rings in bytes.
    pub(crate) request_capacity: u64,
    pub(crate) response_capacity: u64,
    /// Wanted limit of one message in bytes.
    pub(crate) max_message: u64,
    /// At most [`NAME`] bytes.
    pub(crate) name: String,
}

/// Where the role stands in a hello.
const ROLE: usize = 4;

impl Hello {
    pub(crate) fn encode(&self) -> Vec<u8> {
        // Cut, rather than sent wrong: the options were checked before.
        let length = (0..=NAME).rev().find(|&end| self.name.is_char_boundary(end)).unwrap_or(0);
        let mut name = [0; NAME];
        name[..length].copy_from_slice(&self.name.as_bytes()[..length]);
        let mut out = Writer::new(MessageKind::Hello, HELLO);
        out.u16(self.versions.0).u16(self.versions.1);
        #[allow(clippy::cast_possible_truncation, reason = "at most NAME")]
        out.bytes(&[self.role as u8, self.transport as u8, length as u8, 0]);
        out.u32(self.features).u32(0);
        out.u64(self.request_capacity)
            .u64(self.response_capacity)
            .u64(self.max_message)
            .bytes(&name);
        out.0
    }

    /// Whether it is an inspector's, as far as can be told of one that cannot be parsed: all
    /// versions so far have the role in the same place. For counters only.
    pub(crate) fn is_of_inspector(body: &[u8]) -> bool {
        body.get(ROLE) == Some(&(Role::Inspector as u8))
    }

    pub(crate) fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let at = Reader(body);
        // First of all: the rest of another version may be anything.
        let versions = match body.len() {
            0..4 => return Err(Malformed::Content),
            _ => (at.u16(0), at.u16(2)),
        };
        if versions.0 > versions.1 {
            return Err(Malformed::Content);
        }
        if versions.1 < VERSIONS.0 || versions.0 > VERSIONS.1 {
            return Err(Malformed::Version);
        }
        if body.len() < HELLO {
            return Err(Malformed::Content);
        }
        let role = match body[ROLE] {
            1 => Role::Client,
            2 => Role::Inspector,
            _ => return Err(Malformed::Content),
        };
        let transport = match body[5] {
            1 => TransportAsked::Shared,
            2 => TransportAsked::Socket,
            _ => return Err(Malformed::Content),
        };
        let name: [u8; NAME] = at.bytes(40);
        let name = name.get(..usize::from(body[6])).ok_or(Malformed::Content)?;
        let name = std::str::from_utf8(name).map_err(|_| Malformed::Content)?;
        Ok(Self {
            versions,
            role,
            transport,
            features: at.u32(8),
            request_capacity: at.u64(16),
            response_capacity: at.u64(24),
            max_message: at.u64(32),
            name: name.to_owned(),
        })
    }
}

/// The server's consent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Welcome {
    /// The session protocol that both will speak.
    pub(crate) version: u16,
    /// Whether the server's pidfd is the last descriptor.
    pub(crate) has_pidfd: bool,
    /// Whether a bell segment follows the other three. Without one the client rings the bell word
    /// of its own request segment.
    pub(crate) has_bell: bool,
    /// Index of the armed word in the status segment.
    pub(crate) domain: u32,
    pub(crate) generation: u64,
    pub(crate) session: u64,
    pub(crate) request_capacity: u64,
    pub(crate) response_capacity: u64,
    pub(crate) max_message: u64,
    /// Armed words in the status segment.
    pub(crate) armed_words: u64,
    pub(crate) pid: u32,
    /// Bits of the abilities that the client asked for and gets.
    pub(crate) features: u32,
    /// Of so many calls the server would like one to be sampled, unless the client knows better; 0
    /// for none.
    pub(crate) sample_every: u32,
    /// The server's clock, see [`FEATURE_CLOCK`].
    pub(crate) server_ns: u64,
}

/// More domains than any server has; keeps a hostile one from asking for a huge mapping.
const MAX_ARMED_WORDS: u64 = 1 << 16;

impl Welcome {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(MessageKind::Welcome, WELCOME);
        out.u16(self.version)
            .u16(u16::from(self.has_pidfd) | u16::from(self.has_bell) << 1)
            .u32(self.domain)
            .u64(self.generation)
            .u64(self.session);
        out.u64(self.request_capacity).u64(self.response_capacity).u64(self.max_message);
        out.u64(layout::status_segment_size(self.armed_words)).u64(self.armed_words);
        out.u32(self.pid).u32(self.features).u32(self.sample_every).u32(0).u64(self.server_ns);
        out.0
    }

    pub(crate) fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let version = spoken(body, 0)?;
        if body.len() < WELCOME {
            return Err(Malformed::Content);
        }
        let at = Reader(body);
        let welcome = Self {
            version,
            has_pidfd: at.u16(2) & 1 != 0,
            has_bell: at.u16(2) & 2 != 0,
            domain: at.u32(4),
            generation: at.u64(8),
            session: at.u64(16),
            request_capacity: at.u64(24),
            response_capacity: at.u64(32),
            max_message: at.u64(40),
            armed_words: at.u64(56),
            pid: at.u32(64),
            features: at.u32(68),
            sample_every: at.u32(72),
            server_ns: at.u64(80),
        };
        let sane = layout::is_capacity(welcome.request_capacity)
            && layout::is_capacity(welcome.response_capacity)
            && welcome.armed_words <= MAX_ARMED_WORDS
            && u64::from(welcome.domain) < welcome.armed_words
            && at.u64(48) == layout::status_segment_size(welcome.armed_words)
            && welcome.generation != 0
            && welcome.session != 0
            && (1..=u64::from(u32::MAX)).contains(&welcome.max_message);
        if sane { Ok(welcome) } else { Err(Malformed::Content) }
    }
}

/// The server's consent to a session over the socket itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fallback {
    /// Why there is no shared memory.
    pub(crate) reason: RejectReason,
    /// The session protocol that both will speak.
    pub(crate) version: u16,
    /// Bits of the abilities that the client asked for and gets.
    pub(crate) features: u32,
    pub(crate) generation: u64,
    pub(crate) session: u64,
    pub(crate) max_message: u64,
    pub(crate) pid: u32,
    /// The server's clock, see [`FEATURE_CLOCK`].
    pub(crate) server_ns: u64,
}

impl Fallback {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(MessageKind::Fallback, FALLBACK);
        self.reason.put(&mut out);
        out.u16(self.version).u16(0).u32(self.features);
        out.u64(self.generation).u64(self.session).u64(self.max_message).u32(self.pid).u32(0);
        out.u64(self.server_ns);
        out.0
    }

    pub(crate) fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let version = spoken(body, REFUSAL)?;
        if body.len() < FALLBACK {
            return Err(Malformed::Content);
        }
        let at = Reader(body);
        let fallback = Self {
            reason: RejectReason::parse(body)?,
            version,
            features: at.u32(28),
            generation: at.u64(32),
            session: at.u64(40),
            max_message: at.u64(48),
            pid: at.u32(56),
            server_ns: at.u64(64),
        };
        let sane = fallback.generation != 0
            && fallback.session != 0
            && (1..=u64::from(u32::MAX)).contains(&fallback.max_message);
        if sane { Ok(fallback) } else { Err(Malformed::Content) }
    }
}

/// What an inspector gets: descriptors on the first byte, and how many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segments {
    /// The session protocol of the inspector's choice that the server speaks.
    pub(crate) version: u16,
    /// Whether another such message follows.
    pub(crate) more: bool,
    /// Descriptors of this message, at most [`BATCH`].
    pub(crate) count: u32,
    pub(crate) generation: u64,
    pub(crate) pid: u32,
    /// Sessions that have no shared memory.
    pub(crate) sockets: u32,
    /// The server's clock.
    pub(crate) server_ns: u64,
}

impl Segments {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(MessageKind::Segments, SEGMENTS);
        out.u16(self.version).u16(self.more.into()).u32(self.count);
        out.u64(self.generation).u32(self.pid).u32(self.sockets).u64(self.server_ns);
        out.0
    }

    #[cfg(feature = "inspect")]
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let version = spoken(body, 0)?;
        if body.len() < SEGMENTS {
            return Err(Malformed::Content);
        }
        let at = Reader(body);
        let segments = Self {
            version,
            more: at.u16(2) & 1 != 0,
            count: at.u32(4),
            generation: at.u64(8),
            pid: at.u32(16),
            sockets: at.u32(20),
            server_ns: at.u64(24),
        };
        let sane = segments.count as usize <= BATCH && segments.generation != 0;
        if sane { Ok(segments) } else { Err(Malformed::Content) }
    }
}

/// Why a server refuses a client, or refuses it shared memory. Limits are the server's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RejectReason {
    /// The two have no version of the protocol in common.
    VersionUnsupported {
        /// First version that the server speaks.
        min: u16,
        /// Last version that the server speaks.
        max: u16,
    },
    /// The server does not serve this user.
    PermissionDenied,
    /// The server has as many clients as it may have.
    TooManyClients {
        /// How many that is.
        limit: u64,
    },
    /// The wanted rings are larger than one client's may be.
    BytesPerClient {
        /// How many bytes both segments may have.
        limit: u64,
    },
    /// The clients of this user have all the shared memory that one user may have.
    BytesPerUid {
        /// How many bytes that is.
        limit: u64,
    },
    /// Too many clients are connecting just now; try again.
    TooManyHandshakes {
        /// How many may connect at a time.
        limit: u64,
    },
    /// The server is shutting down.
    ShuttingDown,
    /// The server has no memory for another client.
    OutOfMemory,
    /// The server has no descriptors for another client.
    OutOfDescriptors,
    /// The server did not understand the client's opening message.
    BadHello,
    /// A wanted capacity is no power of two, too small or too large.
    BadCapacity,
    /// The server does not offer shared memory.
    SharedMemoryOff,
    /// The server does not offer its socket as transport.
    SocketOff,
    /// The client asked for the socket as transport.
    SocketAsked,
    /// The server does not serve inspectors.
    InspectorUnsupported,
    /// This user has as many clients as it may have at present.
    TooManyClientsOfUid {
        /// How many that is. Where several users are served it depends on how many the others have.
        limit: u64,
    },
    /// Too many clients of this user are connecting just now, or faster than one user may; try
    /// again.
    TooManyHandshakesOfUid {
        /// How many may connect at a time, at present.
        limit: u64,
    },
    /// The server is a [`ByteListener`](crate::ByteListener), the client makes calls.
    ByteStreamsOnly,
    /// The rings of all clients together would have more bytes than the server's memory group, or
    /// its operator, allows, or the others leave this user less
    /// ([`max_ring_bytes`](crate::ServerBuilder::max_ring_bytes)).
    RingBytes {
        /// How many bytes the rings of all clients may have.
        limit: u64,
    },
    /// The server's process may not make files as large as the rings (`RLIMIT_FSIZE`, `ulimit -f`).
    FileSizeLimit {
        /// How many bytes a file may have.
        limit: u64,
    },
    /// A reason that this version of the library does not know.
    Unknown(u32),
}

impl RejectReason {
    /// More than the largest number of [`Self::number`].
    pub(crate) const COUNT: usize = 32;

    /// The number of the reason on the wire, from 1; 0 for an unknown one.
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::VersionUnsupported { .. } => 1,
            Self::PermissionDenied => 2,
            Self::TooManyClients { .. } => 3,
            Self::BytesPerClient { .. } => 4,
            Self::BytesPerUid { .. } => 5,
            Self::TooManyHandshakes { .. } => 6,
            Self::ShuttingDown => 7,
            Self::OutOfMemory => 8,
            Self::OutOfDescriptors => 9,
            Self::BadHello => 10,
            Self::BadCapacity => 11,
            Self::SharedMemoryOff => 12,
            Self::SocketOff => 13,
            Self::SocketAsked => 14,
            Self::InspectorUnsupported => 15,
            Self::TooManyClientsOfUid { .. } => 16,
            Self::TooManyHandshakesOfUid { .. } => 17,
            Self::RingBytes { .. } => 18,
            Self::FileSizeLimit { .. } => 19,
            Self::ByteStreamsOnly => 24,
            Self::Unknown(_) => 0,
        }
    }

    fn put(self, out: &mut Writer) {
        let (first, second) = match self {
            Self::VersionUnsupported { min, max } => (min.into(), max.into()),
            Self::TooManyClients { limit }
            | Self::BytesPerClient { limit }
            | Self::BytesPerUid { limit }
            | Self::TooManyHandshakes { limit }
            | Self::TooManyClientsOfUid { limit }
            | Self::TooManyHandshakesOfUid { limit }
            | Self::RingBytes { limit }
            | Self::FileSizeLimit { limit } => (limit, 0),
            _ => (0, 0),
        };
        out.u32(self.number()).u32(0).u64(first).u64(second);
    }

    /// As a reject message.
    pub(crate) fn encode_reject(self) -> Vec<u8> {
        let mut out = Writer::new(MessageKind::Reject, REFUSAL);
        self.put(&mut out);
        out.0
    }

    /// Parses the body of a reject message, or the beginning of that of a fallback.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Malformed> {
        if body.len() < REFUSAL {
            return Err(Malformed::Content);
        }
        let at = Reader(body);
        let limit = at.u64(8);
        let version = |at| u16::try_from(at).unwrap_or(u16::MAX);
        Ok(match at.u32(0) {
            1 => Self::VersionUnsupported { min: version(limit), max: version(at.u64(16)) },
            2 => Self::PermissionDenied,
            3 => Self::TooManyClients { limit },
            4 => Self::BytesPerClient { limit },
            5 => Self::BytesPerUid { limit },
            6 => Self::TooManyHandshakes { limit },
            7 => Self::ShuttingDown,
            8 => Self::OutOfMemory,
            9 => Self::OutOfDescriptors,
            10 => Self::BadHello,
            11 => Self::BadCapacity,
            12 => Self::SharedMemoryOff,
            13 => Self::SocketOff,
            14 => Self::SocketAsked,
            15 => Self::InspectorUnsupported,
            16 => Self::TooManyClientsOfUid { limit },
            17 => Self::TooManyHandshakesOfUid { limit },
            18 => Self::RingBytes { limit },
            19 => Self::FileSizeLimit { limit },
            24 => Self::ByteStreamsOnly,
            other => Self::Unknown(other),
        })
    }
}
