//! Every byte of segments and frames. Constants, packed words and compile-time checks; no
//! behaviour.
//!
//! # A segment
//!
//! Every segment begins with one control page of the same shape, whatever its kind. Each field
//! stands in a 128-byte cell of its own (two cache lines, since processors fetch pairs), so that no
//! two fields that different events change share a line. All-zero bytes are a valid, empty segment.
//!
//! ```text
//!  offset  cell        request          response         status            bell
//!  ------  ----------  ---------------  ---------------  ----------------  ----------------
//!       0  identity    written by the server before the segment is handed out
//!     128  producer    tail (lazy)      tail (lazy)      -                 -
//!     256  consumer    head of the      head of the      -                 -
//!                      response ring    request ring
//!     384  sleeper     armed, cpu, off  -                cpu, off          -
//!     512  bell        seq (client      seq (server      -                 seq (the clients of
//!                      rings server)    rings client)                      the domain ring)
//!     640  counters    client's         server's, for    server's          -
//!                                       this session
//!    1152  peer        -                pid, uid, name,  pid, uid, name    -
//!                                       domain
//!    1280  samples     calls, as the    calls, as the    facts             -
//!                      client saw them  server saw them
//!    4096  body        request ring     response ring    armed words, one  -
//!                                                        per domain
//! ```
//!
//! Written by: request, the client; response and status, the server; bell, the clients of one
//! domain. Everyone else maps read-only. A client has a bell segment or rings the word of its own
//! request segment, as its Welcome says.
//!
//! # A record
//!
//! A record starts on a 64-byte line and is contiguous; its size is its header and body rounded up
//! to lines.
//!
//! ```text
//!   byte 0        4      5       6      8                16
//!        +--------+------+-------+------+----------------+----------------------------
//!        | length | kind | flags | code | call id        | extensions, then payload
//!        | u32    | u8   | u8    | u16  | u64            | `length` bytes in all
//!        +--------+------+-------+------+----------------+----------------------------
//!        '------- header word ----------'
//! ```
//!
//! The header word is one little-endian u64, always accessed as such and stored last: it publishes
//! the record. Kinds start at 1, so a header word of 0 means "not published". Extensions are u64
//! words in this order, each present if its condition holds: total length (first fragment),
//! deadline (flag), send stamp (flag).

use core::mem::size_of;

/// First eight bytes of every segment: `RINGBEL1` in ASCII, little-endian.
pub const MAGIC: u64 = u64::from_le_bytes(*b"RINGBEL1");
/// Version of the layout in this file. A segment of another version is refused.
pub const LAYOUT_VERSION: u32 = 2;

/// A cache line: the unit of positions in a ring.
pub const LINE: u64 = 64;
/// The distance between fields that must not share a line.
pub const CELL: usize = 128;
/// Size of the control page, and offset of the body.
pub const CONTROL: usize = 4096;

/// Smallest capacity of a ring in bytes.
pub const MIN_CAPACITY: u64 = 2 * 1024;
/// Largest capacity of a ring in bytes.
pub const MAX_CAPACITY: u64 = 1 << 30;
/// Capacity of a ring in bytes unless configured.
pub const DEFAULT_CAPACITY: u64 = 64 * 1024;

/// Largest message in bytes unless configured.
pub const DEFAULT_MAX_MESSAGE: u64 = 64 << 20;

/// How far the producer of a ring keeps line starts zeroed ahead of its position, in bytes.
pub const fn zero_window(capacity: u64) -> u64 {
    if capacity / 4 < 8 * LINE { capacity / 4 } else { 8 * LINE }
}

/// Largest body of one fragment in bytes; smaller rings use less (see [`max_record`]).
pub const FRAGMENT: usize = 8 * 1024;

/// Largest record of a ring in bytes, header included. Padding (less than a record), the record and
/// the zero window take at most three quarters of the ring: so every claim succeeds in the end, and
/// a producer that cannot claim has more than a quarter unread (`ring.rs` builds on that).
pub const fn max_record(capacity: u64) -> u64 {
    ((capacity / 4 * 3 - zero_window(capacity)) / 2) & !(LINE - 1)
}

/// Largest body (extensions and payload) of one record in bytes.
#[allow(clippy::cast_possible_truncation, reason = "a record is far below 4 GiB")]
pub const fn max_body(capacity: u64) -> usize {
    let whole = max_record(capacity) as usize - FRAME_HEADER;
    if whole < FRAGMENT { whole } else { FRAGMENT }
}

/// Size of the record that holds `body` bytes.
pub const fn record_size(body: usize) -> u64 {
    ((FRAME_HEADER + body) as u64 + (LINE - 1)) & !(LINE - 1)
}

/// Whether a ring may have this capacity.
pub const fn is_capacity(bytes: u64) -> bool {
    bytes.is_power_of_two() && bytes >= MIN_CAPACITY && bytes <= MAX_CAPACITY
}

/// Offsets of the cells of the control page.
pub mod offset {
    /// [`super::Identity`].
    pub const IDENTITY: usize = 0;
    /// u64: the producer's position, stored lazily, for tools.
    pub const TAIL: usize = 128;
    /// u64: the consumer's position in the ring of the *other* segment.
    pub const HEAD: usize = 256;
    /// u64: 0, or what the sleeper waits for ([`super::Armed`]).
    pub const ARMED: usize = 384;
    /// u64: the hints of the sleeper's side ([`super::Hints`]).
    pub const HINTS: usize = 392;
    /// u32: the bell word.
    pub const SEQ: usize = 512;
    /// [`super::COUNTERS`] u64 counters.
    pub const COUNTERS: usize = 640;
    /// [`super::Peer`].
    pub const PEER: usize = 1152;
    /// u64, in a response segment: the domain of the session ([`super::Domain`]), for tools.
    pub const DOMAIN: usize = 1216;
    /// [`super::SAMPLES`] of [`super::Sample`], if the session has agreed on them.
    pub const SAMPLES: usize = 1280;
    /// [`super::Facts`], in a status segment.
    pub const FACTS: usize = 1280;
}

/// How many u64 counters a control page holds.
pub const COUNTERS: usize = 64;

/// How many samples a control page holds.
pub const SAMPLES: usize = 64;

/// One call on its way, as one side saw it. Client and server each keep their own table, for tools:
/// nobody else looks at it. The two halves of a call have call id and time of sending in common.
/// Times are nanoseconds of the server's CLOCK_MONOTONIC, in both tables, as everywhere in a
/// segment: a client in another time namespace converts its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Sample {
    /// The call id; 0 if there is no sample here.
    pub call: u64,
    /// When the client set out to send it: the record's [`flag::STAMP`].
    pub sent_ns: u64,
    /// When the server took it from the ring (server); 0 (client).
    pub taken_ns: u64,
    /// When its answer was complete (server), or taken from the ring (client); 0 if that is still
    /// to come.
    pub done_ns: u64,
}

/// What a server tells tools of itself, beside its counters: written by the server, in the place
/// that samples have in other segments. Times are nanoseconds of the server's CLOCK_MONOTONIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "inspect", derive(serde::Serialize, serde::Deserialize), serde(default))]
#[repr(C)]
pub struct Facts {
    /// Most sessions at once.
    pub max_clients: u64,
    /// Most requests of one client in flight. 0 for byte streams, as the next two.
    pub max_in_flight: u64,
    /// Most bytes that are held for all clients.
    pub max_held_bytes: u64,
    /// Most bytes that are held for one client.
    pub max_held_bytes_per_client: u64,
    /// How requests are served: an [`Engine`] as a number; 0 before the server serves.
    pub engine: u64,
    /// The thread that serves, by its number in its own pid namespace; 0 before it serves. With an
    /// embedded server it is the thread that pumped last. 0 for byte streams, as all that follows:
    /// threads of the program serve them.
    pub thread: u64,
    /// When the serving thread was last seen outside of handlers: whenever it goes to sleep or
    /// wakes, and while it is busy every 64 turns of all sessions, or every 0.5 s, or behind each
    /// turn, whichever comes last. So a thread that is awake, and whose time here is old by a
    /// second, is in one handler for about so long. An exception are slow turns that follow quick
    /// ones without a sleep: up to 64 of them, until it has measured how long they take. The clock
    /// is that of the look before each sleep, and of the end of each sleep; none is read for it
    /// while requests are short.
    pub stored_ns: u64,
    /// The session of the request that is in flight for the longest, as far as that is known; 0 if
    /// none was in flight when the serving thread last stored its counters. Those that want no
    /// answer, and those whose answer comes in items, are left out. A serial server has none in
    /// flight: there a handler that takes long shows in `stored_ns`. Sessions over sockets count.
    pub oldest_session: u64,
    /// Its call id.
    pub oldest_call: u64,
    /// Since when it is in flight at least: when the serving thread first stored its counters while
    /// it was; 0 if there is none.
    pub oldest_since_ns: u64,
}

/// How a server serves requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    feature = "inspect",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case")
)]
#[repr(u64)]
pub enum Engine {
    /// One after the other, on one thread.
    Serial = 1,
    /// Answers may come later, from any thread.
    Concurrent = 2,
    /// As [`Self::Serial`], in somebody's loop.
    EmbeddedSerial = 3,
    /// As [`Self::Concurrent`], in somebody's loop.
    EmbeddedConcurrent = 4,
    /// Byte streams: each session has a thread or a task of the program.
    Bytes = 5,
}

impl Engine {
    /// The engine with this number, if there is one.
    pub const fn from_u64(raw: u64) -> Option<Self> {
        match raw {
            1 => Some(Self::Serial),
            2 => Some(Self::Concurrent),
            3 => Some(Self::EmbeddedSerial),
            4 => Some(Self::EmbeddedConcurrent),
            5 => Some(Self::Bytes),
            _ => None,
        }
    }
}

/// Bytes from one armed word of the status segment to the next: a line each, so that arming for one
/// domain is not seen by the others.
pub const ARMED_STRIDE: usize = 64;

/// Where the armed word of a domain is in the status segment.
pub const fn armed(domain: u32) -> usize {
    CONTROL + domain as usize * ARMED_STRIDE
}

/// What a segment is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    feature = "inspect",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case")
)]
#[repr(u32)]
pub enum SegmentKind {
    /// Client to server: written by the client.
    Request = 1,
    /// Server to client: written by the server.
    Response = 2,
    /// One for each server: written by the server.
    Status = 3,
    /// For the clients of the server's own user, where they share a domain: they all write it.
    Bell = 4,
}

impl SegmentKind {
    /// The kind with this number, if there is one.
    pub const fn from_u32(raw: u32) -> Option<Self> {
        match raw {
            1 => Some(Self::Request),
            2 => Some(Self::Response),
            3 => Some(Self::Status),
            4 => Some(Self::Bell),
            _ => None,
        }
    }
}

/// The first cell of every segment. Written once, by the server, before the segment is handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Identity {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`LAYOUT_VERSION`].
    pub version: u32,
    /// A [`SegmentKind`] as a number.
    pub kind: u32,
    /// The server's generation: differs between any two starts of a server.
    pub generation: u64,
    /// The session, or the domain for a bell; 0 for the status segment.
    pub session: u64,
    /// Capacity of the ring in bytes; for the status segment the number of armed words; 0 for a
    /// bell.
    pub capacity: u64,
    /// Size of the segment in bytes.
    pub total: u64,
    /// When the segment was made, CLOCK_MONOTONIC, in nanoseconds.
    pub created_ns: u64,
}

/// Who is at the other end, as the kernel told the server at connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Peer {
    /// Process id; 0 if it cannot be seen from the server's pid namespace.
    pub pid: u32,
    /// User id.
    pub uid: u32,
    /// A name for people, UTF-8, padded with zeros; chosen by the client, so not to be trusted.
    pub name: [u8; NAME],
}

/// The domain of a session, as the server tells tools.
///
/// ```text
///  63..33   32         31..0
///  0        own bell   index of the armed word
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Domain(pub u64);

impl Domain {
    /// The domain with this armed word. `own_bell`: its bell word is in the request segment of its
    /// one session, and not in a bell segment.
    pub const fn new(index: u32, own_bell: bool) -> Self {
        Self(index as u64 | (own_bell as u64) << 32)
    }

    /// Index of its armed word in the status segment.
    #[allow(clippy::cast_possible_truncation, reason = "the index is the low half")]
    pub const fn index(self) -> u32 {
        self.0 as u32
    }

    /// Whether its bell word is in the request segment of its one session.
    pub const fn has_own_bell(self) -> bool {
        self.0 >> 32 & 1 != 0
    }
}

/// Longest name of a client in bytes.
pub const NAME: usize = 48;

/// Size of a segment with a ring of `capacity` bytes.
pub const fn ring_segment_size(capacity: u64) -> u64 {
    page_up(CONTROL as u64 + capacity)
}

/// Size of a status segment with `domains` armed words.
pub const fn status_segment_size(domains: u64) -> u64 {
    page_up(CONTROL as u64 + domains * ARMED_STRIDE as u64)
}

/// Size of a bell segment.
pub const BELL_SEGMENT_SIZE: u64 = CONTROL as u64;

const fn page_up(bytes: u64) -> u64 {
    (bytes + (CONTROL as u64 - 1)) & !(CONTROL as u64 - 1)
}

/// The word in which a sleeper declares that it is about to sleep.
///
/// ```text
///  63..40   39..36   35..32     31..0
///  0        mode     interest   ticket: the value of `seq` that it saw
/// ```
///
/// | word | state |
/// |---|---|
/// | 0 | awake: nobody rings |
/// | mode `FUTEX` | about to sleep, or asleep, in a futex wait on `seq == ticket` |
/// | mode `EVENT` | about to sleep, or asleep, in an event loop that has a descriptor for this |
///
/// Anything else is impossible; a ringer that reads it wakes nobody (the sleeper has hurt itself
/// only).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Armed(pub u64);

/// How a sleeper sleeps, and so how it is to be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    feature = "inspect",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case")
)]
pub enum Mode {
    /// In a futex wait on the bell word.
    Futex,
    /// In an event loop: epoll, and what is built on it.
    Event,
}

/// What a sleeper wants to be woken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest(u64);

impl Interest {
    /// A record was published in the ring that the sleeper consumes.
    pub const DATA: Self = Self(1);
    /// Space was released in the ring that the sleeper fills.
    pub const SPACE: Self = Self(2);
    /// Either of them.
    pub const BOTH: Self = Self(3);

    /// Whether the two have anything in common.
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl Armed {
    /// Nobody sleeps.
    pub const AWAKE: Self = Self(0);

    /// Asleep in `mode` for `interest`, having seen `ticket`.
    pub const fn new(mode: Mode, interest: Interest, ticket: u32) -> Self {
        let mode = match mode {
            Mode::Futex => 1,
            Mode::Event => 2,
        };
        Self(mode << 36 | interest.0 << 32 | ticket as u64)
    }

    /// How to wake the sleeper; `None` if it is awake, or the word is impossible.
    pub const fn mode(self) -> Option<Mode> {
        match self.0 >> 36 {
            1 => Some(Mode::Futex),
            2 => Some(Mode::Event),
            _ => None,
        }
    }

    /// What the sleeper waits for.
    pub const fn interest(self) -> Interest {
        Interest(self.0 >> 32 & 3)
    }

    /// The value of `seq` that the sleeper saw.
    #[allow(clippy::cast_possible_truncation, reason = "the ticket is the low half")]
    pub const fn ticket(self) -> u32 {
        self.0 as u32
    }
}

/// Where a side runs: advice for the other side's waiting, never trusted. And whether it sleeps:
/// for tools.
///
/// ```text
///  63..33   32    31..0
///  0        off   CPU number + 1, or 0 if unknown
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hints(pub u64);

impl Hints {
    /// Running on `cpu`; `off` if parked.
    pub const fn new(cpu: Option<u32>, off: bool) -> Self {
        let cpu = match cpu {
            Some(cpu) => cpu as u64 + 1,
            None => 0,
        };
        Self(cpu | (off as u64) << 32)
    }

    /// The CPU that the side ran on when it last looked.
    #[allow(clippy::cast_possible_truncation, reason = "the CPU is the low half")]
    pub const fn cpu(self) -> Option<u32> {
        (self.0 as u32).checked_sub(1)
    }

    /// Whether the side was parked.
    pub const fn off(self) -> bool {
        self.0 >> 32 & 1 != 0
    }
}

/// Size of a frame's header in bytes: the header word and the call id.
pub const FRAME_HEADER: usize = 16;
/// Offset of the call id in a frame.
pub const CALL_ID: usize = 8;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    feature = "inspect",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case")
)]
#[repr(u8)]
pub enum Kind {
    /// Client to server: wants one answer.
    Request = 1,
    /// Server to client: the answer.
    Response = 2,
    /// Server to client: the answer is an error; `code` says which, the payload is a short text.
    Error = 3,
    /// Client to server: wants no answer.
    OneWay = 4,
    /// Server to client: pushed, belongs to no call.
    Event = 5,
    /// One item of a streamed answer.
    StreamItem = 6,
    /// End of a streamed answer.
    StreamEnd = 7,
    /// Client to server: the answer to this call is no longer wanted.
    Cancel = 8,
    /// Are you there?
    Ping = 9,
    /// I am.
    Pong = 10,
    /// Nothing more comes from here.
    Goodbye = 11,
    /// Fills the rest of the buffer; carries nothing.
    Padding = 12,
    /// Client to server: `code` more items of this streamed answer may be sent.
    Credit = 13,
}

impl Kind {
    /// The kind with this number, if there is one.
    pub const fn from_u8(raw: u8) -> Option<Self> {
        Some(match raw {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Error,
            4 => Self::OneWay,
            5 => Self::Event,
            6 => Self::StreamItem,
            7 => Self::StreamEnd,
            8 => Self::Cancel,
            9 => Self::Ping,
            10 => Self::Pong,
            11 => Self::Goodbye,
            12 => Self::Padding,
            13 => Self::Credit,
            _ => return None,
        })
    }
}

/// Items of a streamed answer that may be sent before the client has granted more
/// ([`Kind::Credit`]). The client keeps items that were not asked for yet, and so bounds what it
/// keeps.
pub const STREAM_WINDOW: u16 = 64;

/// Flags of a frame.
pub mod flag {
    /// More fragments of this message follow.
    pub const MORE: u8 = 1;
    /// Not the first fragment of its message.
    pub const CONTINUED: u8 = 2;
    /// Ends a fragmented message that will not be completed.
    pub const ABORT: u8 = 4;
    /// An absolute deadline follows (the server's CLOCK_MONOTONIC, ns).
    pub const DEADLINE: u8 = 8;
    /// The time of sending follows (the server's CLOCK_MONOTONIC, ns).
    pub const STAMP: u8 = 16;
    /// All flags of this version.
    pub const ALL: u8 = MORE | CONTINUED | ABORT | DEADLINE | STAMP;
}

/// Codes of error frames. Those below [`code::APPLICATION`] are Ringbell's own.
pub mod code {
    /// The handler panicked.
    pub const PANICKED: u16 = 1;
    /// The answer is larger than a message may be.
    pub const TOO_LARGE: u16 = 2;
    /// The server has no memory to spare for this request.
    pub const EXHAUSTED: u16 = 3;
    /// The request's deadline had passed before it was run.
    pub const DEADLINE_EXCEEDED: u16 = 4;
    /// The server shuts down and takes no new requests.
    pub const SHUTTING_DOWN: u16 = 5;
    /// The responder was dropped without an answer.
    pub const DROPPED: u16 = 6;
    /// The answer is a stream, and the caller did not ask for one.
    pub const STREAMED: u16 = 7;
    /// A streamed answer was given up by the server half-way.
    pub const BROKEN_OFF: u16 = 8;
    /// The call was cancelled before its request was run.
    pub const CANCELLED: u16 = 9;
    /// The client had no room to keep this answer, or this stream, until it was asked for. Never
    /// sent: a client says so itself.
    pub const NOT_KEPT: u16 = 10;
    /// The first code that an application may use.
    pub const APPLICATION: u16 = 256;
}

/// The first eight bytes of a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HeaderWord(pub u64);

impl HeaderWord {
    /// Packs the four fields. `length` is that of the body: extensions and payload.
    pub const fn new(kind: Kind, flags: u8, code: u16, length: u32) -> Self {
        Self(length as u64 | (kind as u64) << 32 | (flags as u64) << 40 | (code as u64) << 48)
    }

    /// The same kind and code, with other flags and another length.
    #[must_use]
    #[inline(always)]
    pub const fn with(self, flags: u8, length: u32) -> Self {
        Self(self.without_flags_and_length().0 | length as u64 | (flags as u64) << 40)
    }

    /// Whether this is a record of known kind, not padding, without flags.
    #[inline(always)]
    pub const fn is_plain(self) -> bool {
        // Kind and flags as one number: so a flag makes it too large.
        (self.0 >> 32 & 0xffff).wrapping_sub(Kind::Request as u64)
            <= Kind::Goodbye as u64 - Kind::Request as u64
    }

    /// Kind and code alone.
    #[must_use]
    #[inline(always)]
    pub const fn without_flags_and_length(self) -> Self {
        Self(self.0 & 0xffff_00ff_0000_0000)
    }

    /// Length of the body in bytes.
    #[allow(clippy::cast_possible_truncation, reason = "the length is the low half")]
    pub const fn length(self) -> u32 {
        self.0 as u32
    }

    /// The kind, if it is one of this version.
    #[allow(clippy::cast_possible_truncation, reason = "one byte of the word")]
    pub const fn kind(self) -> Option<Kind> {
        Kind::from_u8((self.0 >> 32) as u8)
    }

    /// The flags, see [`flag`].
    #[allow(clippy::cast_possible_truncation, reason = "one byte of the word")]
    pub const fn flags(self) -> u8 {
        (self.0 >> 40) as u8
    }

    /// The code of an error; 0 elsewhere.
    #[allow(clippy::cast_possible_truncation, reason = "the upper two bytes of the word")]
    pub const fn code(self) -> u16 {
        (self.0 >> 48) as u16
    }
}

impl core::fmt::Debug for HeaderWord {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("HeaderWord")
            .field("kind", &self.kind())
            .field("flags", &self.flags())
            .field("code", &self.code())
            .field("length", &self.length())
            .finish()
    }
}

const _: () = {
    assert!(size_of::<Identity>() == 56 && size_of::<Identity>() <= CELL);
    assert!(size_of::<Peer>() == 56 && size_of::<Peer>() <= CELL);
    assert!(core::mem::offset_of!(Identity, version) == 8);
    assert!(core::mem::offset_of!(Identity, kind) == 12);
    assert!(core::mem::offset_of!(Identity, generation) == 16);
    assert!(core::mem::offset_of!(Identity, session) == 24);
    assert!(core::mem::offset_of!(Identity, capacity) == 32);
    assert!(core::mem::offset_of!(Identity, total) == 40);
    assert!(core::mem::offset_of!(Identity, created_ns) == 48);
    assert!(core::mem::offset_of!(Peer, uid) == 4);
    assert!(core::mem::offset_of!(Peer, name) == 8);
    assert!(offset::TAIL == CELL && offset::HEAD == 2 * CELL && offset::ARMED == 3 * CELL);
    assert!(offset::SEQ == 4 * CELL && offset::COUNTERS == 5 * CELL);
    assert!(offset::COUNTERS + COUNTERS * 8 == offset::PEER);
    assert!(offset::PEER + CELL == offset::SAMPLES);
    assert!(offset::PEER + size_of::<Peer>() <= offset::DOMAIN && offset::DOMAIN.is_multiple_of(8));
    assert!(offset::DOMAIN + 8 <= offset::SAMPLES);
    assert!(
        offset::SAMPLES + SAMPLES * size_of::<Sample>() <= CONTROL && size_of::<Sample>() == 32
    );
    assert!(core::mem::offset_of!(Sample, sent_ns) == 8);
    assert!(core::mem::offset_of!(Sample, taken_ns) == 16);
    assert!(core::mem::offset_of!(Sample, done_ns) == 24);
    assert!(zero_window(MIN_CAPACITY) == 512 && zero_window(DEFAULT_CAPACITY) == 512);
    assert!(max_record(MIN_CAPACITY) == 512 && max_body(DEFAULT_CAPACITY) == FRAGMENT);
    assert!(
        HeaderWord::new(Kind::Request, 0, 7, 9).is_plain()
            && HeaderWord::new(Kind::Goodbye, 0, 0, 0).is_plain()
    );
    assert!(!HeaderWord::new(Kind::Padding, 0, 0, 0).is_plain() && !HeaderWord(1 << 56).is_plain());
    assert!(!HeaderWord::new(Kind::Request, flag::MORE, 0, 0).is_plain());
    assert!(record_size(0) == LINE && record_size(48) == LINE && record_size(49) == 2 * LINE);
};
