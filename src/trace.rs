//! Spans and events, for subscribers of `tracing` (feature `tracing`). The only file that names
//! that crate.
//!
//! | what | name | target | level | fields |
//! |---|---|---|---|---|
//! | span | `call` | `ringbell::client` | DEBUG | `session`, `bytes`; `call` once it is sent; then `outcome`, and `answer_bytes` of a response |
//! | span | `park` | `ringbell::client` | TRACE | `session`, `on`; then `ended` |
//! | event | `armed` | `ringbell::client` | TRACE | `session` |
//! | event | `session_begun` | `ringbell::client` | DEBUG | `session`, `server_pid`, `transport` |
//! | event | `fallback` | `ringbell::client` | WARN; DEBUG if it was asked for | `session`, `server_pid`, `reason` |
//! | event | `death` | `ringbell::client` | WARN | `session`, `server_pid`, `reason`, `in_flight` |
//! | event | `session_ended` | `ringbell::client` | DEBUG | `session`, `server_pid`, `reason`, `in_flight` |
//! | span | `request` | `ringbell::server` | DEBUG | `session`, `call`, `bytes`, `one_way`; then `outcome` |
//! | span | `park` | `ringbell::server` | TRACE | `sessions`; then `ended` |
//! | event | `armed` | `ringbell::server` | TRACE | `sessions` |
//! | event | `session_begun` | `ringbell::server` | DEBUG | `session`, `client_pid`, `uid`, `client`, `transport` |
//! | event | `fallback` | `ringbell::server` | WARN; DEBUG if it was asked for | `session`, `client_pid`, `reason` |
//! | event | `death` | `ringbell::server` | WARN | `session`, `client_pid`, `reason` |
//! | event | `session_ended` | `ringbell::server` | DEBUG | `session`, `client_pid`, `reason` |
//! | event | `rejected` | `ringbell::server` | WARN | `reason` |
//! | event | `shutdown` | `ringbell::server` | INFO | `sessions` |
//! | event | `stopped` | `ringbell::server` | INFO | `accepted`, `requests` |
//! | event | `armed` | `ringbell::bytes` | TRACE | `session` |
//! | event | `session_begun` | `ringbell::bytes` | DEBUG | `session`, `transport` |
//! | event | `fallback` | `ringbell::bytes` | WARN; DEBUG if it was asked for | `session`, `reason` |
//! | event | `death` | `ringbell::bytes` | WARN | `session`, `reason` |
//! | event | `session_ended` | `ringbell::bytes` | DEBUG | `session` |
//!
//! Bodies are in none of them, nor texts of errors that a handler answered. `client` is a name that
//! the peer chose.
//!
//! A `call` lasts from before its request is sent until its answer is there, and is entered while
//! its caller is inside; that of [`AsyncClient`](crate::AsyncClient) is entered in each poll. What
//! is sent and received apart has none. A `request` lasts as long as its handler, on whichever
//! thread or task. A `park` is a thread that sleeps; `armed` says that an event loop is about to.
//!
//! # What it costs
//!
//! Without the feature nothing: everything here is empty then. With it, and nobody who wants spans
//! of this level, a call and a request cost a relaxed load and a comparison each ([`wants_calls`]);
//! what is rarer costs as much each time.
//!
//! Some events come while a lock of the session is held: a subscriber must not use the session that
//! it is told of.

#![cfg_attr(
    not(feature = "tracing"),
    allow(unused_variables, dead_code, reason = "nobody is told")
)]

use crate::handshake::Transport;
use crate::handshake::{FallbackReason, PeerInfo, RejectReason};
use std::fmt::Display;

/// An event, whose fields are looked at only if somebody wants it.
macro_rules! event {
    ($level:ident, $target:literal, $name:literal, $($fields:tt)*) => {
        #[cfg(feature = "tracing")]
        ::tracing::event!(name: $name, target: $target, ::tracing::Level::$level, $($fields)*);
    };
}

/// That the socket carries a session.
macro_rules! fallback {
    ($target:literal, $transport:expr, $($fields:ident),*) => {
        match $transport {
            Transport::SharedMemory => {}
            Transport::Socket { reason: reason @ FallbackReason::Asked } => {
                event!(DEBUG, $target, "fallback", $($fields,)* %reason, "the socket carries the session");
            }
            Transport::Socket { reason } => {
                event!(WARN, $target, "fallback", $($fields,)* %reason, "the socket carries the session");
            }
        }
    };
}

/// A span, which is none if nobody wants it.
macro_rules! span {
    ($level:ident, $target:literal, $name:literal, $($fields:tt)*) => {
        Span {
            #[cfg(feature = "tracing")]
            inner: ::tracing::span!(target: $target, ::tracing::Level::$level, $name, $($fields)*),
        }
    };
}

/// Whether somebody may want to know of calls and requests. A relaxed load.
#[inline(always)]
pub(crate) fn wants_calls() -> bool {
    #[cfg(feature = "tracing")]
    {
        use tracing::level_filters::{LevelFilter, STATIC_MAX_LEVEL};
        LevelFilter::DEBUG <= STATIC_MAX_LEVEL && LevelFilter::DEBUG <= LevelFilter::current()
    }
    #[cfg(not(feature = "tracing"))]
    false
}

/// Something that lasts.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    #[cfg(feature = "tracing")]
    inner: tracing::Span,
}

impl Span {
    /// The span of the request that is being handled here, for whoever carries it elsewhere.
    #[inline]
    pub(crate) fn current() -> Self {
        Self {
            #[cfg(feature = "tracing")]
            inner: if wants_calls() { tracing::Span::current() } else { tracing::Span::none() },
        }
    }

    /// Does something inside of it.
    #[inline(always)]
    pub(crate) fn inside<T>(&self, work: impl FnOnce() -> T) -> T {
        #[cfg(feature = "tracing")]
        let _entered = self.inner.enter();
        work()
    }

    /// The request is on its way.
    pub(crate) fn sent(&self, call: u64) {
        #[cfg(feature = "tracing")]
        self.inner.record("call", call);
    }

    /// The call has come to its end.
    ///
    /// `outcome` has the length of the answer in bytes, or the name of the error.
    pub(crate) fn answered(&self, outcome: Result<usize, &'static str>) {
        #[cfg(feature = "tracing")]
        {
            if let Ok(bytes) = outcome {
                self.inner.record("answer_bytes", bytes);
            }
            self.inner.record("outcome", outcome.map_or_else(|name| name, |_| "response"));
        }
    }

    /// How it came out: of a request that is handled, or of a call that nobody waits for any more.
    pub(crate) fn came_to(&self, outcome: &str) {
        #[cfg(feature = "tracing")]
        self.inner.record("outcome", outcome);
    }

    /// What ended a sleep.
    pub(crate) fn ended(&self, by: &str) {
        #[cfg(feature = "tracing")]
        self.inner.record("ended", by);
    }
}

// -- The client.

/// A session, as a client names it in spans and events.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SessionTag {
    pub(crate) session: u64,
    pub(crate) server_pid: u32,
}

/// A call of so many bytes that is about to be sent.
#[cold]
pub(crate) fn call(session: u64, bytes: usize) -> Span {
    span!(
        DEBUG,
        "ringbell::client",
        "call",
        session,
        bytes,
        call = tracing::field::Empty,
        outcome = tracing::field::Empty,
        answer_bytes = tracing::field::Empty
    )
}

/// A client is about to sleep, on its bell (`futex`) or its socket.
pub(crate) fn client_park(session: u64, on: &'static str) -> Span {
    span!(TRACE, "ringbell::client", "park", session, on, ended = tracing::field::Empty)
}

/// A client's event loop is about to sleep.
pub(crate) fn client_armed(session: u64) {
    event!(TRACE, "ringbell::client", "armed", session, "armed for an event loop");
}

/// A client has a session.
pub(crate) fn client_joined(to: SessionTag, transport: &Transport) {
    let SessionTag { session, server_pid } = to;
    event!(DEBUG, "ringbell::client", "session_begun", session, server_pid, %transport, "a session begins");
    fallback!("ringbell::client", transport, session, server_pid);
}

/// A client finds its session over: its server is gone, or wrote something impossible.
#[cold]
pub(crate) fn client_lost(of: SessionTag, reason: &dyn Display, in_flight: usize) {
    let SessionTag { session, server_pid } = of;
    event!(WARN, "ringbell::client", "death", session, server_pid, %reason, in_flight, "the session is over");
}

/// A session of a client ends in good order.
pub(crate) fn client_left(of: SessionTag, reason: &'static str, in_flight: usize) {
    let SessionTag { session, server_pid } = of;
    event!(
        DEBUG,
        "ringbell::client",
        "session_ended",
        session,
        server_pid,
        reason,
        in_flight,
        "a session ends"
    );
}

// -- The server.

/// Has a request handled inside of its span, if somebody wants that; `name` says what came of it.
#[inline(always)]
pub(crate) fn handle<T>(
    (session, call, bytes, one_way): (u64, u64, usize, bool),
    handle: impl FnOnce() -> T,
    name: impl FnOnce(&T) -> &'static str,
) -> T {
    if !wants_calls() {
        return handle();
    }
    let span = request(session, call, bytes, one_way);
    let outcome = span.inside(handle);
    span.came_to(name(&outcome));
    outcome
}

#[cold]
fn request(session: u64, call: u64, bytes: usize, one_way: bool) -> Span {
    span!(
        DEBUG,
        "ringbell::server",
        "request",
        session,
        call,
        bytes,
        one_way,
        outcome = tracing::field::Empty
    )
}

/// A reactor is about to sleep.
pub(crate) fn server_park(sessions: usize) -> Span {
    span!(TRACE, "ringbell::server", "park", sessions, ended = tracing::field::Empty)
}

/// The event loop of a reactor is about to sleep.
pub(crate) fn server_armed(sessions: usize) {
    event!(TRACE, "ringbell::server", "armed", sessions, "armed for an event loop");
}

/// A session begins.
pub(crate) fn server_joined(session: u64, peer: &PeerInfo, transport: &Transport) {
    let PeerInfo { pid: client_pid, uid, name, .. } = peer;
    event!(
        DEBUG,
        "ringbell::server",
        "session_begun",
        session,
        client_pid,
        uid,
        // A stranger's text, with whatever it has in it escaped.
        client = ?name,
        %transport,
        "a session begins"
    );
    fallback!("ringbell::server", transport, session, client_pid);
}

/// A client is gone without a word, or is sent away.
pub(crate) fn server_lost(session: u64, peer: &PeerInfo, reason: &dyn Display) {
    let client_pid = peer.pid;
    event!(WARN, "ringbell::server", "death", session, client_pid, %reason, "a session is over");
}

/// A client takes no more items of a stream, which is ended.
#[cold]
pub(crate) fn stream_stalled(session: u64, peer: &PeerInfo, call: u64) {
    let client_pid = peer.pid;
    event!(
        WARN,
        "ringbell::server",
        "stream_stalled",
        session,
        client_pid,
        call,
        "a client takes no more items of a stream, which is ended"
    );
}

/// There was no room for an item of a stream for too long, since other clients hold too much.
pub(crate) fn stream_without_room(session: u64, peer: &PeerInfo, call: u64) {
    let client_pid = peer.pid;
    event!(
        WARN,
        "ringbell::server",
        "stream_without_room",
        session,
        client_pid,
        call,
        "a stream is ended: other clients hold what its next item needs"
    );
}

/// A session ends in good order.
pub(crate) fn server_left(session: u64, peer: &PeerInfo, reason: &'static str) {
    let client_pid = peer.pid;
    event!(
        DEBUG,
        "ringbell::server",
        "session_ended",
        session,
        client_pid,
        reason,
        "a session ends"
    );
}

/// The porter of a server has ended, and was not told to.
pub(crate) fn porter_failed(error: &std::io::Error) {
    event!(ERROR, "ringbell::server", "failed", %error, "the server cannot go on");
}

/// Somebody who wanted to connect is turned away.
pub(crate) fn rejected(reason: RejectReason) {
    event!(WARN, "ringbell::server", "rejected", %reason, "a client is turned away");
}

/// A server was told to stop.
pub(crate) fn shutdown(sessions: usize) {
    event!(INFO, "ringbell::server", "shutdown", sessions, "the server shuts down");
}

/// A server has stopped.
pub(crate) fn stopped(accepted: u64, requests: u64) {
    event!(INFO, "ringbell::server", "stopped", accepted, requests, "the server has stopped");
}

// -- Byte streams, either end.

/// An end's event loop, or its thread, is about to sleep.
pub(crate) fn bytes_armed(session: u64) {
    event!(TRACE, "ringbell::bytes", "armed", session, "about to sleep");
}

/// A byte stream begins.
pub(crate) fn bytes_joined(session: u64, transport: &Transport) {
    event!(DEBUG, "ringbell::bytes", "session_begun", session, %transport, "a byte stream begins");
    fallback!("ringbell::bytes", transport, session);
}

/// The peer is gone without having ended its side.
pub(crate) fn bytes_lost(session: u64, reason: &dyn Display) {
    event!(WARN, "ringbell::bytes", "death", session, %reason, "a byte stream breaks off");
}

/// A byte stream is let go of.
pub(crate) fn bytes_left(session: u64) {
    event!(DEBUG, "ringbell::bytes", "session_ended", session, "a byte stream ends");
}
