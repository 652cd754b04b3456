//! Byte streams in a runtime: an end whose tasks sleep in the runtime's epoll. No driver and no
//! thread stand between: who polls the stream drives it.
//!
//! **Invariant.** Of the two tasks that may wait, one to read and one to write, each is armed for,
//! or has been woken and will look. The runtime knows one waker for both ([`Sleepers`]), since one
//! descriptor tells of data and of room.

use super::watched::{Watched, drain, look_read, look_write};
use crate::base::clock::now_ns;
use crate::base::sync::lock;
use crate::base::wakers::{enter, wake_all};
use crate::bytes::ByteListener;
use crate::bytes::ByteStream;
use crate::bytes::{ByteEndpoint, Direction, Wanted};
use crate::client::ConnectOptions;
use crate::handshake::Transport;
use crate::handshake::{BindError, ConnectError};
use crate::link::stats::SessionCounters;
use crate::os::peer_socket::PeerSocket;
use crate::protocol::bell::Arming;
use crate::protocol::wait::{Step, WaitSettings, Waiter};
use futures_core::Stream;
use rustix::fd::OwnedFd;
use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

/// The tasks that wait to read and to write.
#[derive(Debug, Default)]
struct Sleepers([Mutex<Option<Waker>>; 2]);

impl Sleepers {
    fn set(&self, direction: Direction, waker: &Waker) {
        let mut own = None;
        while !enter(lock(&self.0[direction as usize]), |cell| cell, waker, &mut own) {
            own = Some(waker.clone());
        }
    }

    fn wake_one(&self, direction: Direction) {
        // Not under the lock: whoever is woken may poll at once.
        let waker = lock(&self.0[direction as usize]).take();
        wake_all(waker);
    }
}

impl Wake for Sleepers {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Not under the locks: whoever is woken may poll at once.
        let wakers = [Direction::Read, Direction::Write]
            .map(|direction| lock(&self.0[direction as usize]).take());
        wake_all(wakers.into_iter().flatten());
    }
}

/// Attempts of one poll, before others get their turn.
const ROUNDS: u32 = 8;

/// How long to look out. A reader that keeps up makes room for a quarter of the ring at a time,
/// which takes it longer than what answers are worth waiting for, and spares both sides a sleep
/// each time (`benchmarks/notes.md`).
fn look_outs(direction: Direction) -> WaitSettings {
    match direction {
        Direction::Read => WaitSettings::client(),
        Direction::Write => WaitSettings { spin_polls: 600, ..WaitSettings::client() },
    }
}

/// A stream of bytes each way between two processes, for tasks of a tokio runtime: [`AsyncRead`]
/// and [`AsyncWrite`].
///
/// As [`ByteStream`], with the same rules for the end and for back-pressure; `shutdown` is what
/// ends this side. For two tasks `tokio::io::split` makes halves of it. It belongs to the runtime
/// on which it was made, of either flavour.
///
/// Over shared memory nothing is left to be flushed; over the socket what was written goes on with
/// the next poll of any kind, so that a writer who stops using the stream should flush it, as with
/// every buffered writer.
///
/// # Cancel safety
/// A read or write that is dropped before it is ready has taken nothing. `write_all`, `read_exact`
/// and the like may have done a part.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
/// let mut stream = ringbell::AsyncByteStream::connect("/run/app/bytes.sock").await?;
/// stream.write_all(b"how are you?").await?;
/// stream.shutdown().await?;
/// let mut answer = Vec::new();
/// stream.read_to_end(&mut answer).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct AsyncByteStream {
    descriptor: Watched<Arc<PeerSocket>>,
    /// The server's process, for a server that leaves forked children behind.
    process: Option<Watched<Arc<OwnedFd>>>,
    end: ByteEndpoint,
    sleepers: Arc<Sleepers>,
    /// Wakes them.
    waker: Waker,
    /// Who waits.
    wanted: Wanted,
    is_socket: bool,
    /// Know whether it pays to look out before arming: for bytes, and for room.
    waiters: [Waiter; 2],
}

impl AsyncByteStream {
    /// Connects to the [`ByteListener`] or [`AsyncByteListener`] that listens at `path`, with the
    /// defaults of [`ConnectOptions`].
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
        ConnectOptions::new().connect_bytes_async(path).await
    }

    fn new(end: ByteEndpoint) -> io::Result<Self> {
        let is_socket = end.is_socket();
        let (descriptor, process) = (end.shared_lifeline(), end.process());
        let interest =
            if is_socket { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        let sleepers = Arc::new(Sleepers::default());
        let waker = Waker::from(sleepers.clone());
        end.wake_at_death(&waker);
        let waiter = |direction| {
            Waiter::new(WaitSettings {
                turn_every: 0,
                yield_for: Duration::ZERO,
                ..look_outs(direction)
            })
        };
        Ok(Self {
            descriptor: Watched::new(descriptor, interest)?,
            process: process.map(|fd| Watched::new(fd, Interest::READABLE)).transpose()?,
            end,
            sleepers,
            waker,
            wanted: Wanted::default(),
            is_socket,
            waiters: [Direction::Read, Direction::Write].map(waiter),
        })
    }

    /// What carries the stream, and if it is the socket, why.
    pub fn transport(&self) -> &Transport {
        self.end.transport()
    }

    /// The session's number, unique in the listener's life and the same at both ends.
    pub fn session(&self) -> u64 {
        self.end.number()
    }

    /// What this side counted so far: chunks, parks, wakes.
    pub fn stats(&mut self) -> SessionCounters {
        self.end.stats()
    }

    /// Whether a descriptor was reported; from now on it wakes the sleepers. Fails when the runtime
    /// shuts down.
    fn was_reported(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let descriptor = &self.descriptor;
        let mut reported = drain(|| look_read(descriptor, cx))?;
        if self.is_socket {
            reported |= drain(|| look_write(descriptor, cx))?;
        }
        if let Some(process) = &self.process
            && process.poll_read_ready(cx)?.is_ready()
        {
            // Once, and for ever: a process that has ended stays so.
            self.end.process_ended();
        }
        Ok(reported)
    }

    /// Looks out for microseconds, if that has paid lately: an answer that comes at once, or a
    /// reader that keeps up, needs no sleep, and no wake call. Whether something came. What the
    /// other task is armed for it stays armed for. Whoever waits already does not look out again:
    /// it was polled for something else.
    fn look_out(&mut self, direction: Direction) -> bool {
        // Bytes may be long in coming while this side writes; room is not, while the other side
        // reads.
        let others = direction == Direction::Read && self.wanted.any();
        if self.is_socket || others || self.wanted.has(direction) {
            return false;
        }
        let around = self.end.surroundings();
        while let Step::Spin(polls) = self.waiters[direction as usize].step(around, now_ns) {
            self.end.spin(direction, polls);
            if self.end.came(Wanted::one(direction)).any() {
                self.waiters[direction as usize].found(now_ns);
                return true;
            }
        }
        self.waiters[direction as usize].given_up();
        false
    }

    /// Does something, or waits until it can be done.
    fn poll_direction<T>(
        &mut self,
        cx: &mut Context<'_>,
        direction: Direction,
        mut attempt: impl FnMut(&mut ByteEndpoint) -> io::Result<Option<T>>,
    ) -> Poll<io::Result<T>> {
        // A task that always finds something lets others run now and then.
        let budget = ready!(tokio::task::coop::poll_proceed(cx));
        let mut tried = attempt(&mut self.end).transpose();
        if tried.is_none() && self.look_out(direction) {
            tried = attempt(&mut self.end).transpose();
        }
        if let Some(done) = tried {
            self.wanted.set(direction, false);
            if !self.wanted.any() {
                // Nobody sleeps: the peer need not wake anybody.
                self.end.call_off();
            }
            budget.made_progress();
            return Poll::Ready(done);
        }
        self.sleepers.set(direction, cx.waker());
        self.wanted.set(direction, true);
        let waker = self.waker.clone();
        for _ in 0..ROUNDS {
            // Registered before anything is looked at: what is reported later wakes the sleepers.
            if self.was_reported(&mut Context::from_waker(&waker))? {
                self.end.disarm();
            } else {
                self.end.call_off();
            }
            if let Some(done) = attempt(&mut self.end).transpose() {
                self.wanted.set(direction, false);
                if !self.is_socket && self.wanted.has(direction.other()) {
                    // It is no longer armed for.
                    self.wake(direction.other());
                }
                budget.made_progress();
                return Poll::Ready(done);
            }
            if self.end.arm(self.wanted) == Arming::Armed {
                return Poll::Pending;
            }
            let other = direction.other();
            if self.wanted.has(other) && self.end.came(Wanted::one(other)).any() {
                self.wake(other);
            }
        }
        // Not armed, but woken.
        self.wake(Direction::Read);
        self.wake(Direction::Write);
        Poll::Pending
    }

    fn wake(&mut self, direction: Direction) {
        self.wanted.set(direction, false);
        self.sleepers.wake_one(direction);
    }
}

impl AsyncRead for AsyncByteStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if into.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        // Not into the buffer as a slice: it would have to be filled with zeros first, each time.
        let read = self.poll_direction(cx, Direction::Read, |end| {
            end.read_with(into.remaining(), |bytes| into.put_slice(bytes))
        });
        read.map_ok(|_| ())
    }
}

impl AsyncWrite for AsyncByteStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_direction(cx, Direction::Write, |end| end.write_vectored(buffers))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_direction(cx, Direction::Write, |end| Ok(end.flush()?.then_some(())))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_direction(cx, Direction::Write, |end| Ok(end.finish()?.then_some(()))))?;
        self.poll_flush(cx)
    }
}

impl ByteStream {
    /// Makes it a stream of the runtime on which this is called (feature `tokio`). Timeouts are
    /// forgotten.
    ///
    /// # Errors
    /// If the runtime cannot watch its descriptor.
    ///
    /// # Panics
    /// Outside of a tokio runtime, or if its I/O is not enabled.
    pub fn into_async(self) -> io::Result<AsyncByteStream> {
        AsyncByteStream::new(self.into_endpoint())
    }
}

impl ConnectOptions {
    /// As [`connect_bytes`](Self::connect_bytes), for the tasks of the tokio runtime on which it is
    /// polled (feature `tokio`). The handshake runs on the runtime's pool for blocking work, as
    /// that of [`connect_async`](Self::connect_async).
    ///
    /// # Errors
    /// As [`connect_bytes`](Self::connect_bytes).
    ///
    /// # Panics
    /// Outside of a tokio runtime, or if its I/O is not enabled.
    ///
    /// # Cancel safety
    /// A connection that nobody waits for any more is closed as soon as it is made.
    pub async fn connect_bytes_async(
        self,
        path: impl AsRef<Path>,
    ) -> Result<AsyncByteStream, ConnectError> {
        let path = path.as_ref().to_owned();
        match ::tokio::task::spawn_blocking(move || self.connect_bytes(path)).await {
            Ok(stream) => stream?.into_async().map_err(ConnectError::Io),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(error) => Err(ConnectError::Io(io::Error::other(error))),
        }
    }
}

/// Listens for [`AsyncByteStream`]s: a [`ByteListener`] for tasks. As a [`Stream`] of streams it
/// never ends but with an error.
///
/// Not bound to a runtime; what it accepts is, to the one on which it is polled.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let listener = ringbell::AsyncByteListener::bind("/run/app/bytes.sock")?;
/// loop {
///     let mut stream = listener.accept().await?;
///     tokio::spawn(async move {
///         use tokio::io::{AsyncReadExt, AsyncWriteExt};
///         let mut question = Vec::new();
///         stream.read_to_end(&mut question).await?;
///         stream.write_all(b"fine").await?;
///         stream.shutdown().await
///     });
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct AsyncByteListener {
    listener: ByteListener,
}

impl From<ByteListener> for AsyncByteListener {
    fn from(listener: ByteListener) -> Self {
        Self { listener }
    }
}

impl AsyncByteListener {
    /// Listens at `path` with the default settings. Others:
    /// [`ServerBuilder::bind_bytes`](crate::ServerBuilder::bind_bytes), and `into()`.
    ///
    /// # Errors
    /// As [`ServerBuilder::bind_bytes`](crate::ServerBuilder::bind_bytes).
    pub fn bind(path: impl AsRef<Path>) -> Result<Self, BindError> {
        ByteListener::bind(path).map(Self::from)
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        self.listener.path()
    }

    /// The next stream.
    ///
    /// # Errors
    /// As [`ByteListener::accept`], and if the runtime cannot watch the stream's descriptor.
    ///
    /// # Panics
    /// Outside of a tokio runtime, or if its I/O is not enabled.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, it has accepted nobody.
    pub async fn accept(&self) -> io::Result<AsyncByteStream> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// As [`Self::accept`], for futures written by hand. Every task that polls is woken.
    ///
    /// # Errors
    /// As [`Self::accept`].
    ///
    /// # Panics
    /// As [`Self::accept`].
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<AsyncByteStream>> {
        Poll::Ready(AsyncByteStream::new(ready!(self.listener.poll_accept(cx.waker()))?))
    }

    /// As [`ByteListener::close`].
    pub fn close(&self) {
        self.listener.close();
    }
}

impl Stream for AsyncByteListener {
    type Item = io::Result<AsyncByteStream>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_accept(cx).map(Some)
    }
}
