//! Requests and responses between processes on one Linux machine, through shared memory.
//!
//! A client writes a request into a ring that it shares with the server, and rings a bell if (and only if) the
//! server is asleep; the response comes back through a second ring. While both sides are busy there is no system
//! call at all. A Unix domain socket makes the introduction and stays open as the lease on the session's life.
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
//! One convention at every level: `Option<Duration>` (or a deadline), where `None` waits for ever and zero does not
//! wait.
//!
//! # Threads and processes
//!
//! A [`Client`] belongs to one thread at a time (`Send`, not `Sync`) and to the process that connected: in a forked
//! child it returns `Forked`. A [`Server`] serves on the thread that calls [`Server::run`] (or
//! [`Server::run_reactor`], [`Server::run_on`]), with one helper thread for handshakes; a [`Responder`], a
//! [`ResponseStream`] and a [`Session`] may be used from any thread; a [`ServerHandle`] may be used from any thread and from signal handlers.
//!
//! # The modules, in layers
//!
//! Imports go down only.
//!
//! | layer | module | what it is |
//! |---|---|---|
//! | L0 | `sync` | the seam: the only file that names atomics or loom |
//! | L0 | `memory` | shared words and lines, with one writer each |
//! | L1 | [`layout`] | every byte of segments and frames |
//! | L1 | `clock`, `fork` | time; knowing that this is a forked child |
//! | L2 | `ring` | the single-producer single-consumer protocol |
//! | L2 | `bell`, `bells` | arm, park, ring; many at once |
//! | L2 | [`wait`] | the waiting policy |
//! | L2 | `segment` | memfds: made, sealed, mapped, verified |
//! | L2 | [`stats`], `samples` | counters; calls that are timed on their way |
//! | L3 | `session`, `calls` | one attachment: a state machine that never waits |
//! | L3 | `uds` | the same frames over the socket, where shared memory is not to be had |
//! | L3 | `handshake` | the only parser of a peer that is not accepted yet |
//! | L4 | `client` | the blocking client |
//! | L4 | `server`, `reactor`, `porter`, `park` | the server, its two threads, and how they sleep |
//! | L4 | `embedded` | the server without threads, in somebody's event loop |
//! | L4 | `handler`, `service`, `dispatch` | what answers requests: one at a time, many at once, on an executor |
//! | L4 | `flight` | requests whose answer comes later, and the queue on which answers come back |
//! | L4 | `bytes` | byte streams and their listener |
//! | L5 | `metrics` (feature) | what is counted, for recorders of that facade |
//! | L4 | `trace` | what subscribers of `tracing` are told, behind a feature |
//! | L4 | `inspect` (feature) | what is in segments and rings, looked at from outside |
//! | L4 | [`pool`] | things kept ready: sessions with one server, whatever else |
//! | L4 | [`worker`] | processes kept ready: those that serve, and those that speak lines |
//! | L5 | `config` (feature) | settings from YAML files |
//! | L4 | `executor`, `schedule` | tasks on the caller's pool; reads and writes in order, key by key |
//! | L5 | `tokio` | the client of many tasks, behind a feature |
//!
//! Modules marked hidden in the source are for Ringbell's own tests, models and tools, and no part of its interface.

#[cfg(not(target_os = "linux"))]
compile_error!("Ringbell is made of Linux: futexes, memfds and seals");

#[doc(hidden)]
pub mod bell;
#[doc(hidden)]
pub mod bells;
mod executor;
pub mod layout;
#[doc(hidden)]
pub mod memory;
#[doc(hidden)]
pub mod ring;
mod schedule;
#[doc(hidden)]
pub mod sync;

#[cfg(feature = "rayon")]
pub use executor::RayonExecutor;
pub use executor::{Executor, Task};
pub use schedule::{Access, Closed, KeyedScheduler, SchedulerStats};

// What follows needs a kernel; the model checker has the protocols above.
#[cfg(not(ringbell_loom))]
mod bytes;
#[cfg(not(ringbell_loom))]
mod calls;
#[cfg(not(ringbell_loom))]
mod client;
#[cfg(not(ringbell_loom))]
mod clock;
#[cfg(all(feature = "config", not(ringbell_loom)))]
pub mod config;
#[cfg(not(ringbell_loom))]
mod dispatch;
#[cfg(not(ringbell_loom))]
mod embedded;
#[cfg(not(ringbell_loom))]
mod flight;
#[cfg(not(ringbell_loom))]
mod fork;
#[cfg(all(any(feature = "fuzzing", all(test, feature = "inspect")), not(ringbell_loom)))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(not(ringbell_loom))]
mod handler;
#[cfg(not(ringbell_loom))]
mod handshake;
#[cfg(all(feature = "inspect", not(ringbell_loom)))]
pub mod inspect;
#[cfg(not(ringbell_loom))]
#[doc(hidden)]
pub mod kill_point;
#[cfg(all(feature = "metrics", not(ringbell_loom)))]
pub mod metrics;
#[cfg(not(ringbell_loom))]
mod park;
#[cfg(not(ringbell_loom))]
pub mod pool;
#[cfg(not(ringbell_loom))]
mod porter;
#[cfg(not(ringbell_loom))]
mod reactor;
#[cfg(not(ringbell_loom))]
mod samples;
#[cfg(not(ringbell_loom))]
mod segment;
#[cfg(not(ringbell_loom))]
mod server;
#[cfg(not(ringbell_loom))]
mod service;
#[cfg(not(ringbell_loom))]
mod session;
#[cfg(not(ringbell_loom))]
pub mod stats;
#[cfg(all(feature = "tokio", not(ringbell_loom)))]
mod tokio;
#[cfg(not(ringbell_loom))]
mod trace;
#[cfg(not(ringbell_loom))]
mod uds;
#[cfg(not(ringbell_loom))]
pub mod wait;
#[cfg(not(ringbell_loom))]
mod wakers;
#[cfg(not(ringbell_loom))]
pub mod worker;

#[cfg(not(ringbell_loom))]
mod reexports {
    pub use crate::bytes::{ByteListener, ByteStream, ByteStreamError};
    pub use crate::calls::CallId;
    pub use crate::client::{
        Answer, CallError, Claim, Client, ConnectOptions, EventError, EventIter, RecvError, RemoteError,
        Response, SendError, Stream, View,
    };
    pub use crate::dispatch::Inline;
    pub use crate::embedded::{EmbeddedServer, Turn};
    pub use crate::flight::{AnswerOrder, Transport};
    pub use crate::handler::{Handler, HandlerError, Request};
    pub use crate::handshake::{
        BindError, ConnectError, Credentials, FallbackReason, RejectReason, TransportChoice,
    };
    pub use crate::pool::{ConnectionPool, PoolCallError, PooledConnection};
    pub use crate::porter::Isolation;
    pub use crate::ring::Fault as RingFault;
    pub use crate::segment::SegmentError;
    pub use crate::server::{InvalidSetting, ServeError, Server, ServerBuilder, ServerHandle, ServerStats};
    pub use crate::service::{
        OwnedRequest, PushError, Responder, ResponseStream, Service, Session, StreamError,
    };
    pub use crate::session::PeerFault;
    #[cfg(feature = "tower")]
    pub use crate::tokio::TowerService;
    #[cfg(feature = "tokio")]
    pub use crate::tokio::{
        AsyncByteListener, AsyncByteStream, AsyncClient, AsyncService, Call, EventStream, ItemStream,
        OpenStream, SendOneWay,
    };
    pub use crate::wait::WaitSettings;
    pub use crate::worker::{Pools, WorkerCommand, WorkerPool};
}
#[cfg(not(ringbell_loom))]
pub use reexports::*;
