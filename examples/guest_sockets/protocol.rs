//! The bytes between guest and host, and how many of them may be under way.
//!
//! ```text
//!   byte 0   kind u8 | flag u8 | zero u16 | socket u32     then, by kind:
//!   address: family u8 (4, 6) | zero u8 | port u16 | 16 bytes
//! ```
//!
//! All integers are little-endian. Orders are one-way messages, news are events; neither side waits
//! for an answer.
//!
//! **Windows**, each kept by both sides, so that what is not taken is not read, and nothing is lost
//! or grows without end:
//!
//! | what | at most | given back by |
//! |---|---|---|
//! | bytes of one socket that the host read and the program did not take | [`WINDOW`] | [`Order::Took`] |
//! | bytes of one socket that the guest sent and the kernel did not take | [`WINDOW`] | [`Sign::Room`] |
//! | news of one guest that it did not look at | [`NEWS_MOST`] | [`Order::Seen`] |
//!
//! A side gives back a quarter of a window at a time, or more.

use super::{ACCEPTED, Id, Place, Purpose};
use std::net::{IpAddr, SocketAddr};

/// Bytes of a socket that may be under way in one direction.
pub(crate) const WINDOW: u32 = 256 << 10;
/// News that may be under way to one guest: less than Ringbell keeps on either side.
pub(crate) const NEWS_MOST: u32 = 256;
/// Bytes of a stream in one piece of news, at most.
pub(crate) const PIECE: usize = 64 << 10;
/// A window is given back when so much of it is free.
pub(crate) const QUARTER: u32 = WINDOW / 4;
/// What a datagram weighs beyond its length.
const DATAGRAM: u32 = 64;

/// Bytes in front of what a message carries.
pub(crate) const HEAD: usize = 8;
/// Bytes of an address.
pub(crate) const ADDRESS: usize = 20;
/// Longest name of a Unix socket.
const NAME_MOST: usize = 64;

/// What a datagram of so many bytes takes of a window.
pub(crate) fn datagram_cost(len: usize) -> u32 {
    // Longer ones than 64 KiB there are not.
    u32::try_from(len).unwrap_or(u32::MAX / 2) + DATAGRAM
}

/// What a guest asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order<'a> {
    /// Open a socket, which the guest numbers, below [`ACCEPTED`].
    Open { socket: Id, place: Place, purpose: Purpose },
    /// Send; more of the same follows at once, if so.
    Send { socket: Id, more: bool, bytes: &'a [u8] },
    /// Send a datagram.
    SendTo { socket: Id, to: SocketAddr, bytes: &'a [u8] },
    /// Close the sending half.
    Finish { socket: Id },
    /// Close.
    Close { socket: Id },
    /// The program took so much of what this socket received.
    Took { socket: Id, cost: u32 },
    /// The guest has looked at so many news.
    Seen { news: u32 },
}

/// What a host tells, bytes received apart: those are written in place behind their head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sign<'a> {
    Listening {
        socket: Id,
        at: Place,
    },
    Connected {
        socket: Id,
    },
    Accepted {
        listener: Id,
        socket: Id,
    },
    /// What lies behind [`HEAD`] bytes.
    Data {
        socket: Id,
        bytes: &'a [u8],
    },
    /// What lies behind head and address.
    Datagram {
        socket: Id,
        from: SocketAddr,
        bytes: &'a [u8],
    },
    Ended {
        socket: Id,
    },
    /// The kernel took so much of what was sent.
    Room {
        socket: Id,
        cost: u32,
    },
    Closed {
        socket: Id,
        why: Option<i32>,
    },
    /// The guest broke the rules. All its sockets are closed, and nothing more is done for it.
    Dismissed {
        why: Offence,
    },
}

/// How a guest broke the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Offence {
    /// Bytes that are no order.
    NoOrder = 1,
    /// A number for a new socket that is in use, or not the guest's to choose.
    Number = 2,
    /// More was sent than the window holds.
    Overrun = 3,
    /// More was given back than was out.
    Credit = 4,
    /// So much that the host would have to tell, and so little looked at.
    Deaf = 5,
}

impl Offence {
    const ALL: [Self; 5] = [Self::NoOrder, Self::Number, Self::Overrun, Self::Credit, Self::Deaf];
}

mod order {
    pub(super) const OPEN: u8 = 1;
    pub(super) const SEND: u8 = 2;
    pub(super) const SEND_TO: u8 = 3;
    pub(super) const FINISH: u8 = 4;
    pub(super) const CLOSE: u8 = 5;
    pub(super) const TOOK: u8 = 6;
    pub(super) const SEEN: u8 = 7;
}

pub(crate) mod sign {
    pub(super) const LISTENING: u8 = 1;
    pub(super) const CONNECTED: u8 = 2;
    pub(super) const ACCEPTED: u8 = 3;
    pub(crate) const DATA: u8 = 4;
    pub(crate) const DATAGRAM: u8 = 5;
    pub(super) const ENDED: u8 = 6;
    pub(super) const ROOM: u8 = 7;
    pub(super) const CLOSED: u8 = 8;
    pub(super) const DISMISSED: u8 = 9;
}

/// The first bytes of a message.
pub(crate) fn head(kind: u8, flag: u8, socket: Id) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[0] = kind;
    head[1] = flag;
    head[4..].copy_from_slice(&socket.to_le_bytes());
    head
}

/// An address in bytes.
pub(crate) fn address(of: SocketAddr) -> [u8; ADDRESS] {
    let mut bytes = [0; ADDRESS];
    bytes[2..4].copy_from_slice(&of.port().to_le_bytes());
    match of.ip() {
        IpAddr::V4(ip) => {
            bytes[0] = 4;
            bytes[4..8].copy_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes[0] = 6;
            bytes[4..].copy_from_slice(&ip.octets());
        }
    }
    bytes
}

fn read_address(bytes: &[u8; ADDRESS]) -> Option<SocketAddr> {
    let port = u16::from_le_bytes([bytes[2], bytes[3]]);
    let ip: [u8; 16] = *bytes.last_chunk()?;
    let ip = match bytes[0] {
        4 => IpAddr::from(*ip.first_chunk::<4>()?),
        6 => IpAddr::from(ip),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn write_place(place: &Place, out: &mut Vec<u8>) -> u8 {
    match place {
        Place::Udp(at) => {
            out.extend_from_slice(&address(*at));
            1
        }
        Place::Tcp(at) => {
            out.extend_from_slice(&address(*at));
            2
        }
        Place::Unix(name) => {
            out.extend_from_slice(name.as_bytes());
            3
        }
    }
}

fn read_place(kind: u8, bytes: &[u8]) -> Option<Place> {
    match kind {
        1 => Some(Place::Udp(read_address(bytes.try_into().ok()?)?)),
        2 => Some(Place::Tcp(read_address(bytes.try_into().ok()?)?)),
        3 => {
            let name = std::str::from_utf8(bytes).ok()?;
            // One step in a directory, and no way out of it.
            let plain = !name.is_empty() && name.len() <= NAME_MOST && !name.starts_with('.');
            let fits = name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
            (plain && fits).then(|| Place::Unix(name.to_owned()))
        }
        _ => None,
    }
}

/// Kind, flag, socket, and what follows.
fn split(bytes: &[u8]) -> Option<(u8, u8, Id, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
    if head[2..4] != [0, 0] {
        return None;
    }
    Some((head[0], head[1], Id::from_le_bytes(*head.last_chunk()?), rest))
}

fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

impl<'a> Order<'a> {
    /// Replaces `out` by the order's bytes.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        let mut begin = |kind, flag, socket| out.extend_from_slice(&head(kind, flag, socket));
        match self {
            Self::Open { socket, place, purpose } => {
                begin(order::OPEN, 0, *socket);
                let kind = write_place(place, out);
                out[1] = kind | if *purpose == Purpose::Connect { 16 } else { 0 };
            }
            Self::Send { socket, more, bytes } => {
                begin(order::SEND, u8::from(*more), *socket);
                out.extend_from_slice(bytes);
            }
            Self::SendTo { socket, to, bytes } => {
                begin(order::SEND_TO, 0, *socket);
                out.extend_from_slice(&address(*to));
                out.extend_from_slice(bytes);
            }
            Self::Finish { socket } => begin(order::FINISH, 0, *socket),
            Self::Close { socket } => begin(order::CLOSE, 0, *socket),
            Self::Took { socket, cost } => {
                begin(order::TOOK, 0, *socket);
                out.extend_from_slice(&cost.to_le_bytes());
            }
            Self::Seen { news } => {
                begin(order::SEEN, 0, 0);
                out.extend_from_slice(&news.to_le_bytes());
            }
        }
    }

    /// The order in these bytes, which a guest wrote: `None` if there is none.
    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (kind, flag, socket, rest) = split(bytes)?;
        match (kind, flag) {
            (order::OPEN, _) if flag & !0x1f == 0 && socket < ACCEPTED => {
                let purpose = if flag & 16 == 0 { Purpose::Listen } else { Purpose::Connect };
                Some(Self::Open { socket, place: read_place(flag & 15, rest)?, purpose })
            }
            (order::SEND, 0 | 1) => Some(Self::Send { socket, more: flag == 1, bytes: rest }),
            (order::SEND_TO, 0) => {
                let (to, bytes) = rest.split_first_chunk()?;
                Some(Self::SendTo { socket, to: read_address(to)?, bytes })
            }
            (order::FINISH, 0) if rest.is_empty() => Some(Self::Finish { socket }),
            (order::CLOSE, 0) if rest.is_empty() => Some(Self::Close { socket }),
            (order::TOOK, 0) => Some(Self::Took { socket, cost: number(rest)? }),
            (order::SEEN, 0) => Some(Self::Seen { news: number(rest)? }),
            _ => None,
        }
    }
}

impl<'a> Sign<'a> {
    /// Replaces `out` by the sign's bytes.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        let mut begin = |kind, flag, socket| out.extend_from_slice(&head(kind, flag, socket));
        match self {
            Self::Listening { socket, at } => {
                begin(sign::LISTENING, 0, *socket);
                out[1] = write_place(at, out);
            }
            Self::Connected { socket } => begin(sign::CONNECTED, 0, *socket),
            Self::Accepted { listener, socket } => {
                begin(sign::ACCEPTED, 0, *socket);
                out.extend_from_slice(&listener.to_le_bytes());
            }
            Self::Data { socket, bytes } => {
                begin(sign::DATA, 0, *socket);
                out.extend_from_slice(bytes);
            }
            Self::Datagram { socket, from, bytes } => {
                begin(sign::DATAGRAM, 0, *socket);
                out.extend_from_slice(&address(*from));
                out.extend_from_slice(bytes);
            }
            Self::Ended { socket } => begin(sign::ENDED, 0, *socket),
            Self::Room { socket, cost } => {
                begin(sign::ROOM, 0, *socket);
                out.extend_from_slice(&cost.to_le_bytes());
            }
            Self::Closed { socket, why } => {
                begin(sign::CLOSED, 0, *socket);
                out.extend_from_slice(&why.unwrap_or(0).to_le_bytes());
            }
            Self::Dismissed { why } => begin(sign::DISMISSED, *why as u8, 0),
        }
    }

    /// The sign in these bytes, which a host wrote.
    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (kind, flag, socket, rest) = split(bytes)?;
        match (kind, flag) {
            (sign::LISTENING, _) => Some(Self::Listening { socket, at: read_place(flag, rest)? }),
            (sign::CONNECTED, 0) if rest.is_empty() => Some(Self::Connected { socket }),
            (sign::ACCEPTED, 0) => Some(Self::Accepted { listener: number(rest)?, socket }),
            (sign::DATA, 0) => Some(Self::Data { socket, bytes: rest }),
            (sign::DATAGRAM, 0) => {
                let (from, bytes) = rest.split_first_chunk()?;
                Some(Self::Datagram { socket, from: read_address(from)?, bytes })
            }
            (sign::ENDED, 0) if rest.is_empty() => Some(Self::Ended { socket }),
            (sign::ROOM, 0) => Some(Self::Room { socket, cost: number(rest)? }),
            (sign::CLOSED, 0) => {
                let why = i32::from_le_bytes(rest.try_into().ok()?);
                Some(Self::Closed { socket, why: (why != 0).then_some(why) })
            }
            (sign::DISMISSED, _) if rest.is_empty() => {
                let why = Offence::ALL.into_iter().find(|offence| *offence as u8 == flag)?;
                Some(Self::Dismissed { why })
            }
            _ => None,
        }
    }
}
