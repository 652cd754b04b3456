//! Sockets of one process that live in another: what the example `guest_sockets` and the referee's
//! rows share.
//!
//! A program is written against [`Network`]: one thread, one event loop, [`News`] one at a time. It
//! runs on sockets of its own ([`own::Own`]), or in a guest that has none ([`guest::Guest`]) and
//! asks a host ([`host::Host`]) over Ringbell.
//!
//! ```text
//!   guest process                         host process
//!  +---------+  one-way messages: Order  +-------------------------+
//!  | program | ------------------------> | reactor: carries it out |
//!  | Guest   |  events: News             |   at once, never waits  |
//!  |  epoll: | <------------------------ | socket thread: epoll,   | <---> UDP, TCP, Unix
//!  | session |                           |   reads, pushes News    |
//!  +---------+                           +-------------------------+
//! ```
//!
//! Nobody polls: the guest sleeps in its epoll until the host pushes something, the host's thread
//! in its own until a socket has something. What is not taken is not read, so that the kernel holds
//! it back: three windows bound what may be under way ([`protocol`]).

pub(crate) mod guest;
pub(crate) mod host;
pub(crate) mod own;
pub(crate) mod program;
pub(crate) mod protocol;
mod socket;

use std::error::Error;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Deref;

/// A result whose error is only ever shown to a person.
pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// A socket, by the number that whoever opened it gave it: the program those that it opens, the
/// network those that it accepts. Not used again before [`News::Closed`].
pub(crate) type Id = u32;

/// From here on the numbers of accepted sockets.
pub(crate) const ACCEPTED: Id = 1 << 31;

/// Where a socket is, or what it is to be connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Datagrams.
    Udp(SocketAddr),
    /// A stream.
    Tcp(SocketAddr),
    /// A stream, by its name in a directory that the program does not choose.
    Unix(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(address) => write!(f, "udp {address}"),
            Self::Tcp(address) => write!(f, "tcp {address}"),
            Self::Unix(name) => write!(f, "unix {name}"),
        }
    }
}

/// What a socket is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To be there: connections are accepted, datagrams received.
    Listen,
    /// To reach somebody.
    Connect,
}

/// Bytes that came, to be given back with [`Network::took`].
#[derive(Debug)]
pub(crate) struct Bytes {
    whole: Vec<u8>,
    start: usize,
    /// What they weigh in the socket's window.
    cost: u32,
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.whole[self.start..]
    }
}

/// What happened.
#[derive(Debug)]
pub(crate) enum News {
    /// A socket listens, or can send datagrams; where, should the program have left that open.
    Listening { socket: Id, at: Place },
    /// A socket is connected.
    Connected { socket: Id },
    /// Somebody has connected to a listening socket: here is the new one.
    Accepted { listener: Id, socket: Id },
    /// Bytes of a stream.
    Data { socket: Id, bytes: Bytes },
    /// A datagram.
    Datagram { socket: Id, from: SocketAddr, bytes: Bytes },
    /// The other side sends no more. It may still be sent to.
    Ended { socket: Id },
    /// There is room again, after a send that was not taken in full.
    Room { socket: Id },
    /// The last word of a socket, by whomever it was closed; with the reason, an errno, unless the
    /// program asked for it.
    Closed { socket: Id, why: Option<i32> },
}

/// How a program slept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sleeps {
    /// Times it went to sleep in its epoll.
    pub(crate) sleeps: u64,
    /// Times it was about to, and found something.
    pub(crate) called_off: u64,
    /// Sleeps that a timer ended. None unless it polls: there is no other timer.
    pub(crate) by_timer: u64,
    /// Sleeps that ended without anything: as a timeout would end them.
    pub(crate) for_nothing: u64,
}

impl Sleeps {
    /// What [`program::Offer::Sleeps`] says.
    pub(crate) fn line(&self) -> String {
        let Self { sleeps, called_off, by_timer, for_nothing } = self;
        format!(
            "{sleeps} sleeps, {called_off} called off, {by_timer} by timer, {for_nothing} for nothing\n"
        )
    }

    /// Reads such a line.
    pub(crate) fn read(line: &str) -> Option<Self> {
        let mut numbers = line.split(", ").map(|part| part.split(' ').next()?.parse().ok());
        let mut next = || numbers.next().flatten();
        Some(Self { sleeps: next()?, called_off: next()?, by_timer: next()?, for_nothing: next()? })
    }
}

/// Sockets, wherever they are. Nothing but [`Self::next`] waits.
pub(crate) trait Network {
    /// Opens a socket. What became of it is news.
    fn open(&mut self, place: &Place, purpose: Purpose) -> Outcome<Id>;

    /// Sends bytes of a stream, or a datagram to whom the socket is connected: as many as there is
    /// room for, a datagram whole or not at all. The program then waits for [`News::Room`].
    fn send(&mut self, socket: Id, bytes: &[u8]) -> Outcome<usize>;

    /// Sends a datagram. Whether there was room.
    fn send_to(&mut self, socket: Id, to: SocketAddr, bytes: &[u8]) -> Outcome<bool>;

    /// Done with what came: without this no more comes from that socket at some point.
    fn took(&mut self, socket: Id, bytes: Bytes) -> Outcome<()>;

    /// Closes the sending half, when what was sent before is on its way.
    fn finish(&mut self, socket: Id) -> Outcome<()>;

    /// Closes it, when what was sent before is on its way.
    fn close(&mut self, socket: Id) -> Outcome<()>;

    /// Waits for the next news, as long as it takes.
    fn next(&mut self) -> Outcome<News>;

    /// How it has slept.
    fn sleeps(&self) -> Sleeps;
}
