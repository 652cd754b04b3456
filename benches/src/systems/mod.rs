//! Who competes, limits apart.
//!
//! To add a system: write `systems/<name>.rs` with a type that implements [`System`] and a client
//! that implements [`Client`](crate::system::Client), and put it into [`all`].

mod always_wake;
mod frames;
mod guest_sockets;
mod in_process;
mod peers;
mod pipe;
mod ringbell;
mod seqpacket;
mod stream;
mod tcp;

use crate::system::System;

/// All competitors, limits apart.
pub(crate) fn all() -> Vec<&'static dyn System> {
    let light: Vec<&'static dyn System> = vec![
        &in_process::InProcess,
        &ringbell::SERIAL,
        &ringbell::BATCH,
        &ringbell::ALWAYS_WAKE,
        &ringbell::INLINE,
        &ringbell::REACTOR,
        &ringbell::REACTOR_UDS,
        &ringbell::SERIAL_UDS,
        &stream::STREAM,
        &stream::BATCHED,
        &stream::DIAL,
        &seqpacket::SeqPacket,
        &tcp::DEFAULT,
        &tcp::NODELAY,
        &pipe::Pipe,
        &guest_sockets::NATIVE,
        &guest_sockets::PUSH,
        &guest_sockets::POLL,
    ];
    [light, peers::all()].concat()
}

/// The peers with which this program was built.
pub(crate) fn features() -> Vec<String> {
    peers::features()
}
