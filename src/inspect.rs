//! What is in segments and rings, looked at from outside: for tools (feature `inspect`).
//!
//! Nothing here maps, writes or wakes anything. A tool copies the bytes of segments from wherever
//! it finds them (the descriptors that an [`Inspector`] is shown, the descriptors or the memory of
//! a process, a file, a core dump), and hands the copy to [`decode`]. Copies are hostile: any bytes
//! whatsoever give a value or an error, in bounded time, without a panic. Every offset is that of
//! [`crate::layout`].
//!
//! A copy of memory that others go on writing is no snapshot: positions are to be read before and
//! after, and [`intact`] tells which records of it are what was published.

mod control;
mod records;
#[cfg(test)]
mod tests;

pub use crate::handshake::{Inspector, Survey};
pub use control::{
    BellSegment, Identity, Peer, Place, RequestSegment, ResponseSegment, Sample, Segment, Sleep,
    StatusSegment, Unreadable, decode, name_of,
};
pub use records::{Flaw, Record, Ring, Walk, intact, lap_start};
