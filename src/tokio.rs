//! The client of many tasks, on a tokio runtime (feature `tokio`).
//!
//! ```text
//!   Call, ItemStream, ..  --lock-->  Core { Client, who waits for what }  <--lock--  Driver (a task)
//!                                                                                      | AsyncFd
//!                                                                                      lifeline, or socket
//! ```
//!
//! One session, one [`Client`], behind a lock that is held for as long as it takes to write a
//! request or to read what has come: nothing waits under it. Futures send for themselves. The
//! **driver**, a task of the runtime, is who sleeps: it arms the client and waits for its
//! descriptor in the runtime's epoll, hands out what comes, and wakes. No threads, and no timers
//! but those of calls with a deadline.
//!
//! A call that is alone in flight looks out for its answer for the few microseconds in which a
//! server that is awake gives it, as the waiting policy has learnt that it pays. For that the
//! client is not armed, so neither side makes a system call; the driver is told, and arms when the
//! task lets it run. Where there are other threads, which that task must not hold up, a call that
//! was answered arms itself.
//!
//! **Invariant.** The client is armed, or the driver has been woken, and will look. So nothing that
//! comes is overlooked. Over rings nothing that was sent lies there, either: it was rung for. Over
//! a socket the driver may write it.

#![cfg(feature = "tokio")]

mod bytes;
mod call;
mod driver;
mod entries;
mod foreign;
mod line;
mod serve;
mod shared;
mod stream;
#[cfg(feature = "tower")]
mod tower;
mod watched;

use crate::client::Client;
use crate::client::ConnectOptions;
use crate::handshake::ConnectError;
use crate::handshake::Transport;
use crate::link::stats::SessionCounters;
use ::tokio::runtime::RuntimeFlavor;
use driver::Driver;
use shared::{Handle, SharedClient};
use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use bytes::{AsyncByteListener, AsyncByteStream};
pub use call::{Call, OpenStream, SendOneWay};
pub use line::AsyncLineWorker;
pub use serve::AsyncService;
pub use stream::{EventStream, ItemStream};
#[cfg(feature = "tower")]
pub use tower::TowerService;

/// A session that many tasks use at once: their calls are pipelined, answers come as they are
/// ready.
///
/// `Clone`, `Send` and `Sync`; clones are the same session. It belongs to the runtime on which it
/// was connected, of either flavour: a task of it, the driver, does the waiting. Futures may be
/// polled elsewhere. The session ends with the last clone, call and stream. When the runtime is
/// dropped first, calls in flight end with
/// [`CallError::Disconnected`](crate::CallError::Disconnected). What was sent over a socket that
/// takes no more is pushed out for five seconds after the session's last user is gone.
///
/// Any future may be dropped at any time; each says what that does.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = ringbell::AsyncClient::connect("/run/app/echo.sock").await?;
/// let (one, two) = (client.clone(), client.clone());
/// let first = tokio::spawn(async move { one.call(b"one").await });
/// let second = tokio::spawn(async move { two.call(b"two").await });
/// assert_eq!(first.await??, b"one");
/// assert_eq!(second.await??, b"two");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct AsyncClient {
    handle: Arc<Handle>,
}

impl AsyncClient {
    /// Connects to the server that listens at `path`, with the defaults of [`ConnectOptions`].
    ///
    /// # Errors
    /// [`ConnectError`] says what is in the way.
    ///
    /// # Panics
    /// Outside of a tokio runtime, or if its I/O is not enabled.
    ///
    /// # Cancel safety
    /// A connection that nobody waits for any more is closed as soon as it is made.
    pub async fn connect(path: impl AsRef<Path>) -> Result<Self, ConnectError> {
        ConnectOptions::new().connect_async(path).await
    }

    fn new(mut client: Client) -> std::io::Result<Self> {
        client.follow_streams();
        client.never_yields();
        let (descriptor, process) = client.descriptors();
        let alone =
            ::tokio::runtime::Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread;
        let shared = SharedClient::new(client, alone);
        let driver = Driver::new(shared.clone(), descriptor, process.transpose()?, alone)?;
        ::tokio::spawn(driver);
        Ok(Self { handle: Arc::new(Handle::new(shared)) })
    }

    /// Sends a request and waits for its answer, for ever.
    ///
    /// If there is no room for the request, or as much in flight as the session allows, the future
    /// waits; requests are sent in the order in which their futures were first polled. Over a
    /// socket requests of several tasks go out together, as soon as the runtime runs the driver:
    /// who polls a call and then computes without awaiting it holds them back so long.
    ///
    /// # Errors
    /// [`CallError`](crate::CallError); the answer of the server may itself be one. Never
    /// `TooManyInFlight`.
    ///
    /// # Cancel safety
    /// Dropping the future before its first poll does nothing. Dropped before the request was sent,
    /// the server does not see it. After that the server is told that nobody waits; it may have
    /// executed the request all the same, and its answer is dropped. No other call is affected.
    pub fn call<'a>(&self, request: &'a [u8]) -> Call<'a> {
        Call::new(self.handle.clone(), Cow::Borrowed(request), None)
    }

    /// As [`Self::call`], with a request that the future owns.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn call_owned(&self, request: Vec<u8>) -> Call<'static> {
        Call::new(self.handle.clone(), Cow::Owned(request), None)
    }

    /// As [`Self::call`], for at most `timeout` from its first poll on: `None` waits for ever, zero
    /// does not wait. The server is told, as far as [`ConnectOptions::send_deadlines`] says so.
    ///
    /// # Errors
    /// As [`Self::call`], and [`CallError::TimedOut`](crate::CallError::TimedOut).
    ///
    /// # Panics
    /// The future does if time is not enabled on the runtime that polls it.
    pub fn call_timeout<'a>(&self, request: &'a [u8], timeout: Option<Duration>) -> Call<'a> {
        Call::new(self.handle.clone(), Cow::Borrowed(request), timeout)
    }

    /// Sends a request whose answer comes in items. The future ends when it was sent, with the
    /// stream.
    ///
    /// # Errors
    /// [`SendError`](crate::SendError).
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the server does not see the request.
    pub fn call_stream<'a>(&self, request: &'a [u8]) -> OpenStream<'a> {
        OpenStream::new(self.handle.clone(), request)
    }

    /// Sends a message that wants no answer. Whether the server did anything with it nobody says.
    ///
    /// # Errors
    /// [`SendError`](crate::SendError).
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the server does not see the message.
    pub fn send_one_way<'a>(&self, message: &'a [u8]) -> SendOneWay<'a> {
        SendOneWay::new(self.handle.clone(), message)
    }

    /// The events that the server pushes, until the session is over. Those that came before are
    /// kept up to [`ConnectOptions::max_events`]. If there are several such streams each event goes
    /// to one of them.
    pub fn events(&self) -> EventStream {
        EventStream::new(self.handle.clone())
    }

    /// What carries the session, and if it is the socket, why.
    pub fn transport(&self) -> Transport {
        self.handle.shared().facts().transport.clone()
    }

    /// Calls without an answer. None in a forked child.
    pub fn in_flight(&self) -> usize {
        self.handle.with(|client| client.in_flight()).unwrap_or(0)
    }

    /// Longest message either way in bytes.
    pub fn max_message(&self) -> usize {
        self.handle.shared().facts().max_message
    }

    /// The session's number, unique in the server's life.
    pub fn session(&self) -> u64 {
        self.handle.shared().facts().session
    }

    #[cfg(feature = "metrics")]
    pub(crate) fn with_client<T>(&self, look: impl FnOnce(&mut Client) -> T) -> Option<T> {
        self.handle.with(look)
    }

    /// What this side of the session counted so far. Nothing in a forked child.
    pub fn stats(&self) -> SessionCounters {
        self.handle.with(Client::stats).unwrap_or_default()
    }
}

impl ConnectOptions {
    /// As [`connect`](Self::connect), for the tasks of the tokio runtime on which it is polled
    /// (feature `tokio`).
    ///
    /// The handshake, a matter of some hundred microseconds that maps and touches memory, runs on
    /// the runtime's pool for blocking work; nothing does afterwards.
    ///
    /// # Errors
    /// [`ConnectError`] says what is in the way.
    ///
    /// # Panics
    /// Outside of a tokio runtime, or if its I/O is not enabled.
    ///
    /// # Cancel safety
    /// A connection that nobody waits for any more is closed as soon as it is made.
    pub async fn connect_async(self, path: impl AsRef<Path>) -> Result<AsyncClient, ConnectError> {
        let path = path.as_ref().to_owned();
        match ::tokio::task::spawn_blocking(move || self.connect(path)).await {
            Ok(client) => AsyncClient::new(client?).map_err(ConnectError::Io),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(error) => Err(ConnectError::Io(std::io::Error::other(error))),
        }
    }
}
