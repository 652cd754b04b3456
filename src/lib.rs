//! Requests and responses between processes on one Linux machine, through shared memory.
//!
//! A client writes a request into a ring that it shares with the server, and rings a bell if (and
//! only if) the server is asleep; the response comes back through a second ring. While both sides
//! are busy there is no system call at all. A Unix domain socket makes the introduction and stays
//! open as the lease on the session's life.
//!
//! ```no_run
//! // One process:
//! let server = ringbell::Server::bind("/run/app/echo.sock")?;
//! server.run(|request, response| {
//!     response.extend_from_slice(request.payload());
//!     Ok(())
//! })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! ```no_run
//! // Another one:
//! let mut client = ringbell::Client::connect("/run/app/echo.sock")?;
//! assert_eq!(&*client.call(b"hello")?, b"hello");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Time
//!
//! One convention at every level: `Option<Duration>` (or a deadline), where `None` waits for ever
//! and zero does not wait.
//!
//! # Threads and processes
//!
//! A [`Client`] belongs to one thread at a time (`Send`, not `Sync`) and to the process that
//! connected: in a forked child it returns `Forked`. A [`Server`] serves on the thread that calls
//! [`Server::run`] (or [`Server::run_reactor`], [`Server::run_on`]), with one helper thread for
//! handshakes; a [`Responder`], a [`ResponseStream`] and a [`Session`] may be used from any thread;
//! a [`ServerHandle`] may be used from any thread and from signal handlers.
//!
//! # The layers
//!
//! Layers, lowest first. A module imports only from modules that stand above it in this list. A
//! test (`tests/layers`) reads the list and the sources.
//!
//! ```text
//! base      atomics and locks behind the seam to loom; time, kill points, panics and wakers
//! memory    every byte of segments and frames; shared words and lines, with one writer each
//! protocol  the ring, the bell, and the waiting policy
//! schedule  tasks on the caller's pool; reads and writes in order, key by key
//! os        what a process knows of itself: forks, its name; sockets of peers, and their close
//! link      what carries a session, rings or the socket; the session, which never waits
//! handshake the only parser of a peer that is not accepted yet
//! trace     what subscribers of `tracing` are told (feature)
//! client    the blocking client
//! server    the server: porter, reactor, and the ways to answer requests
//! bytes     byte streams and their listener
//! pool      things kept ready: sessions with one server, or anything else
//! worker    processes kept ready: those that serve, and those that speak lines
//! tokio     clients, servers and byte streams for tasks (feature)
//! config    settings from YAML files (feature)
//! inspect   what is in segments and rings, looked at from outside (feature)
//! metrics   what is counted, for recorders of that facade (feature)
//! testing   what fuzz targets call (feature)
//! ```
//!
//! The model checker sees the first four, and of the pool what waits and hands over. Modules marked
//! hidden in the source are for Ringbell's own tests, models and tools, and no part of its
//! interface.

#[cfg(not(target_os = "linux"))]
compile_error!("Ringbell is made of Linux: futexes, memfds and seals");

mod base;
#[doc(hidden)]
pub mod memory;
mod protocol;
mod schedule;

#[cfg(not(ringbell_loom))]
mod bytes;
#[cfg(not(ringbell_loom))]
mod client;
#[cfg(all(feature = "config", not(ringbell_loom)))]
pub mod config;
#[cfg(not(ringbell_loom))]
mod handshake;
#[cfg(all(feature = "inspect", not(ringbell_loom)))]
pub mod inspect;
#[cfg(not(ringbell_loom))]
mod link;
#[cfg(all(feature = "metrics", not(ringbell_loom)))]
pub mod metrics;
#[cfg(not(ringbell_loom))]
mod os;
pub mod pool;
#[cfg(not(ringbell_loom))]
mod server;
#[cfg(all(any(feature = "fuzzing", all(test, feature = "inspect")), not(ringbell_loom)))]
mod testing;
#[cfg(not(ringbell_loom))]
mod tokio;
#[cfg(not(ringbell_loom))]
mod trace;
#[cfg(not(ringbell_loom))]
pub mod worker;

#[doc(hidden)]
pub use base::sync;
pub use memory::layout;
pub use protocol::bell::Arming;
pub use protocol::wait;
#[doc(hidden)]
pub use protocol::{bell, bells, ring, room, sleeper};
#[cfg(feature = "rayon")]
pub use schedule::executor::RayonExecutor;
pub use schedule::executor::{Executor, Task};
pub use schedule::{Access, Closed, KeyedScheduler, SchedulerStats};

#[cfg(not(ringbell_loom))]
mod reexports {
    #[doc(hidden)]
    pub use crate::base::kill_point;
    pub use crate::bytes::{ByteListener, ByteStream, ByteStreamError};
    pub use crate::client::{
        Answer, CallError, CallId, Claim, Client, ConnectOptions, EventError, EventIter, RecvError,
        RemoteError, Response, SendError, Stream, View,
    };
    pub use crate::handshake::{
        AnswerOrder, BindError, ConnectError, Credentials, FallbackReason, InvalidSetting,
        RejectReason, Transport, TransportChoice,
    };
    pub use crate::link::segment::SegmentError;
    pub use crate::link::session::PeerFault;
    pub use crate::link::stats;
    #[doc(hidden)]
    pub use crate::os::calls::{rings_work, servers_work};
    #[doc(hidden)]
    pub use crate::os::closer::{Closings, closings};
    pub use crate::pool::{ConnectionPool, PoolCallError, PooledConnection};
    pub use crate::protocol::ring::Fault as RingFault;
    pub use crate::protocol::wait::WaitSettings;
    pub use crate::server::dispatch::Inline;
    pub use crate::server::embedded::{EmbeddedServer, Turn};
    pub use crate::server::handler::{Handler, Request};
    pub use crate::server::porter::Isolation;
    pub use crate::server::service::{
        OwnedRequest, PushError, Responder, ResponseStream, Service, Session, StreamError,
    };
    pub use crate::server::{
        HandlerError, ServeError, Server, ServerBuilder, ServerHandle, ServerStats,
    };
    #[cfg(any(feature = "fuzzing", all(test, feature = "inspect")))]
    #[doc(hidden)]
    pub use crate::testing::fuzzing;
    #[cfg(feature = "tower")]
    pub use crate::tokio::TowerService;
    #[cfg(feature = "tokio")]
    pub use crate::tokio::{
        AsyncByteListener, AsyncByteStream, AsyncClient, AsyncLineWorker, AsyncService, Call,
        EventStream, ItemStream, OpenStream, SendOneWay,
    };
    pub use crate::worker::{Pools, WorkerCommand, WorkerPool};
}
#[cfg(not(ringbell_loom))]
pub use reexports::*;
