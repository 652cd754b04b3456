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
//! Layers, lowest first. A module imports only from modules that stand above it in this list. A test
//! checks that; `tests/layers/allowed.txt` has the exceptions.
//!
//! ```text
//! sync        the only file that names atomics or loom
//! memory      shared words and lines, each with one writer
//! layout      every byte of segments and frames
//! clock       time
//! fork        knowing that this process is a forked child
//! kill_point  points at which tests kill the process
//! wait        the waiting policy
//! stats       counters
//! samples     calls that are timed on their way
//! ring        the single-producer single-consumer protocol
//! bell        arm, park, ring
//! bells       many bells at once
//! segment     memfds: made, sealed, mapped, verified
//! wakers      wakers of tasks
//! calls       the calls of a client that wait for an answer
//! uds         the same frames over the socket, where there is no shared memory
//! executor    tasks on the caller's pool
//! schedule    reads and writes in order, key by key
//! handshake   the only parser of a peer that is not accepted yet
//! session     one attachment: a state machine that never waits
//! park        how a server sleeps
//! flight      requests whose answer comes later, and the queue of answers
//! trace       what subscribers of `tracing` are told (feature `tracing`)
//! client      the blocking client
//! porter      the server's thread for handshakes and deaths
//! service     what a handler has in hand that answers many requests at once
//! reactor     the server's thread for requests and answers
//! dispatch    handlers on an executor
//! handler     handlers of one request at a time
//! pool        things kept ready: sessions with one server, anything else
//! worker      processes kept ready: those that serve, and those that speak lines
//! server      the server: settings, start, handle
//! embedded    the server without threads, in the caller's event loop
//! bytes       byte streams and their listener
//! tokio       clients and servers for tasks (feature `tokio`)
//! config      settings from YAML files (feature `config`)
//! inspect     what is in segments and rings, seen from outside (feature `inspect`)
//! metrics     what is counted, for recorders of `metrics` (feature `metrics`)
//! fuzzing     what the fuzz targets call (feature `fuzzing`)
//! ```
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
