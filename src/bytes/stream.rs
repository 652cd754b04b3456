//! The blocking form: an end behind a lock, and how its threads wait.
//!
//! One thread may read while another writes, and an end has one bell. So who wants to sleep when
//! somebody sleeps already adds what it wants to what is armed for, looks again, and waits for the
//! sleeper, who wakes all others: `Inner::asleep`. Adding is arming anew, which is the argument of
//! `bell.rs` once more: either the ringer sees the new interest, or the second look sees what it
//! published.

use super::ByteStreamError;
use super::end::{ByteEndpoint, Direction, Wanted};
use crate::base::calm::Calm;
use crate::base::clock::{Deadline, now_ns, timespec};
use crate::base::sync::lock;
use crate::client::ConnectOptions;
use crate::handshake::Transport;
use crate::handshake::{Attached, ConnectError};
use crate::link::readiness::{Readiness, wait_ready};
use crate::link::stats::SessionCounters;
use crate::memory::layout::Mode;
use crate::os::fork::Origin;
use crate::os::peer_socket::PeerSocket;
use crate::protocol::bell::Arming;
use crate::protocol::wait::{Step, WaitSettings, Waiter};
use rustix::event::{PollFlags, Timespec};
use rustix::fd::OwnedFd;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A stream of bytes each way between two processes: [`Read`] and [`Write`], blocking.
///
/// `Send` and `Sync`: `&ByteStream` reads and writes as well, so that one thread may read while
/// another writes. Two threads that write at once mix their bytes at the bounds of calls, at best.
/// It belongs to the process that connected or accepted: in a forked child it returns errors
/// ([`ByteStreamError::Forked`]).
///
/// - **The end.** [`Self::shutdown_write`] ends this side: the peer reads what was written, then
///   the end (0 bytes); the other direction goes on. A stream whose peer goes without that ends
///   with an error, never with an end: [`ByteStreamError::Gone`], behind everything that came
///   before. So does one that is dropped: whoever wants the peer to take what it got for all there
///   is says so.
/// - **Back-pressure.** A write waits while the peer does not read: rings have a fixed size
///   ([`ConnectOptions::ring_capacity`]). At least as much as a ring holds may be on its way.
/// - **Flushing** is not needed: what a write has taken is on its way when it returns. It tells of
///   a peer that has gone and left something unread (`BrokenPipe`). A write may take up to 30 ms to
///   learn that nobody reads any more, [`Self::shutdown_write`] learns of it at once.
///
/// ```no_run
/// use std::io::{Read, Write};
/// let mut stream = ringbell::ByteStream::connect("/run/app/bytes.sock")?;
/// stream.write_all(b"how are you?")?;
/// stream.shutdown_write()?;
/// let mut answer = Vec::new();
/// stream.read_to_end(&mut answer)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ByteStream {
    pub(super) inner: Mutex<Inner>,
    awake: Condvar,
    /// The lifeline, or the socket that carries the session: polled outside of the lock.
    pub(super) lifeline: Arc<PeerSocket>,
    pub(super) is_socket: bool,
    /// The server's pidfd.
    pub(super) process: Option<Arc<OwnedFd>>,
    transport: Transport,
    number: u64,
    /// Looked at before the lock is taken, which a thread may have held that a forked child does
    /// not have.
    pub(super) origin: Origin,
}

/// How often a stream that an event loop looks after sees by itself whether the peer is there.
const CHECK_EVERY_NS: u64 = 20_000_000;

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) end: ByteEndpoint,
    waiters: [Waiter; 2],
    /// Threads that wait to read, and to write.
    waiting: [u32; 2],
    /// One of them sleeps on the bell; the others wait for it.
    pub(super) asleep: bool,
    /// Threads that wait without the bell: they yield, or sleep on the socket.
    waiting_otherwise: u32,
    /// A write that did not wait found no room, and nobody was told of room since.
    pub(super) wants_room: bool,
    /// [`ByteStream::arm`] was called: an event loop looks after the stream.
    pub(super) in_loop: bool,
    /// When a call that did not wait looked at the peer. CLOCK_MONOTONIC ns.
    pub(super) checked_at: u64,
    timeouts: [Option<Duration>; 2],
}

impl Inner {
    fn waited(&mut self, direction: Direction) {
        if self.waiters[direction as usize].is_off_cpu() && !self.asleep {
            self.end.hint(false);
        }
        self.waiters[direction as usize].found(now_ns);
    }

    /// What a call that does not wait does when it has found nothing. Whether another attempt is
    /// worth while.
    fn look_again(&mut self, direction: Direction) -> bool {
        if self.end.is_armed_for_event() {
            // An event loop sleeps, or is about to. The wake byte in the descriptor is its own:
            // nothing is read here. And it is to be told of room, too, if this call wants some.
            let both = Wanted { read: true, write: true };
            return direction == Direction::Write
                && self.end.arm_for_more(both, direction) == Arming::Busy;
        }
        // In an event loop `disarm` looks at the peer. This is for those who do not come round for
        // long.
        let now = now_ns();
        if self.in_loop && now.saturating_sub(self.checked_at) < CHECK_EVERY_NS {
            return false;
        }
        self.checked_at = now;
        self.end.check_peer();
        true
    }

    /// Whether a thread waits, in any way.
    pub(super) fn has_waiters(&self) -> bool {
        self.waiting_otherwise > 0 || self.wanted().any()
    }

    fn wanted(&self) -> Wanted {
        Wanted { read: self.waiting[0] > 0, write: self.waiting[1] > 0 }
    }
}

type Guard<'a> = MutexGuard<'a, Inner>;

impl ConnectOptions {
    /// Connects a byte stream to the [`ByteListener`](crate::ByteListener) that listens at `path`.
    /// Options of calls, answers and events mean nothing.
    ///
    /// # Errors
    /// [`ConnectError`]; [`ConnectError::NoByteStreams`] if what listens is a server that answers
    /// calls.
    pub fn connect_bytes(self, path: impl AsRef<Path>) -> Result<ByteStream, ConnectError> {
        let (attached, wait) = self.attach_bytes(path.as_ref())?;
        Ok(ByteStream::of_client(attached, &wait))
    }
}

impl ByteStream {
    /// Connects to the [`ByteListener`](crate::ByteListener) that listens at `path`, with the
    /// defaults of [`ConnectOptions`].
    ///
    /// # Errors
    /// [`ConnectError`] says what is in the way.
    pub fn connect(path: impl AsRef<Path>) -> Result<Self, ConnectError> {
        ConnectOptions::new().connect_bytes(path)
    }

    pub(crate) fn of_client(attached: Attached, wait: &WaitSettings) -> Self {
        Self::new(ByteEndpoint::of_client(attached), wait)
    }

    pub(super) fn new(end: ByteEndpoint, wait: &WaitSettings) -> Self {
        let waiter = || Waiter::new(wait.clone());
        let (lifeline, is_socket, process) =
            (end.shared_lifeline(), end.is_socket(), end.process());
        let (transport, number) = (end.transport().clone(), end.number());
        let inner = Inner {
            end,
            waiters: [waiter(), waiter()],
            waiting: [0; 2],
            asleep: false,
            waiting_otherwise: 0,
            wants_room: false,
            in_loop: false,
            checked_at: 0,
            timeouts: [None; 2],
        };
        Self {
            inner: Mutex::new(inner),
            awake: Condvar::new(),
            lifeline,
            is_socket,
            process,
            transport,
            number,
            origin: Origin::here(),
        }
    }

    /// What carries the stream, and if it is the socket, why.
    pub fn transport(&self) -> Transport {
        self.transport.clone()
    }

    /// The session's number, unique in the listener's life and the same at both ends.
    pub fn session(&self) -> u64 {
        self.number
    }

    /// What this side counted so far: chunks, parks, wakes. Nothing in a forked child.
    pub fn stats(&self) -> SessionCounters {
        if self.origin.is_here() { lock(&self.inner).end.stats() } else { Default::default() }
    }

    /// How long a read waits: `None` waits for ever, zero does not wait. Then it fails with
    /// `TimedOut`, or `WouldBlock` if it did not wait. Default: for ever.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) {
        self.set_timeout(Direction::Read, timeout);
    }

    /// As [`Self::set_read_timeout`], for writes and for [`Self::shutdown_write`].
    pub fn set_write_timeout(&self, timeout: Option<Duration>) {
        self.set_timeout(Direction::Write, timeout);
    }

    fn set_timeout(&self, direction: Direction, timeout: Option<Duration>) {
        // In a forked child nothing waits.
        if self.origin.is_here() {
            lock(&self.inner).timeouts[direction as usize] = timeout;
        }
    }

    /// Ends this side: the peer reads what was written, and then the end. Reading goes on. Waits
    /// for room as a write does. Nothing happens if this side was ended before.
    ///
    /// # Errors
    /// As writing.
    pub fn shutdown_write(&self) -> io::Result<()> {
        self.wait(Direction::Write, |end| Ok(end.finish()?.then_some(())))?;
        self.push_out()
    }

    /// Reads into `into`: how many bytes; 0 at the end that the peer has set, or if there is no
    /// space. Waits for one byte at least.
    ///
    /// # Errors
    /// [`ByteStreamError`] inside of the [`io::Error`], and `TimedOut`.
    pub fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        self.wait(Direction::Read, |end| end.read(into))
    }

    /// Writes from `bytes`: how many were taken, at least one. Waits for room.
    ///
    /// # Errors
    /// As [`Self::read`]. If the peer dies, what was taken may be lost, as with every stream.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[io::IoSlice::new(bytes)])
    }

    /// As [`Self::write`], from several buffers, one after the other. Small ones travel together.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn write_vectored(&self, buffers: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let count = self.wait(Direction::Write, |end| end.write_vectored(buffers))?;
        if count < buffers.iter().map(|buffer| buffer.len()).sum() {
            // There was no room for the rest.
            lock(&self.inner).wants_room = true;
        }
        match self.push_out() {
            // They were taken, and go on when the stream is used next.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) =>
            {
                Ok(count)
            }
            pushed => pushed.map(|()| count),
        }
    }

    /// Has the socket take what it did not take at once. Nothing over rings.
    fn push_out(&self) -> io::Result<()> {
        if !self.is_socket {
            return Ok(());
        }
        self.wait(Direction::Write, |end| Ok(end.flush()?.then_some(())))
    }

    /// As [`Self::push_out`]; over rings looks whether the peer has left something unread.
    fn flush_out(&self) -> io::Result<()> {
        if !self.origin.is_here() {
            return Err(ByteStreamError::Forked.while_writing());
        }
        if self.is_socket { self.push_out() } else { lock(&self.inner).end.flush().map(drop) }
    }

    /// Waits until `attempt` comes to something: spins, yields and parks as the policy says.
    fn wait<T>(
        &self,
        direction: Direction,
        mut attempt: impl FnMut(&mut ByteEndpoint) -> io::Result<Option<T>>,
    ) -> io::Result<T> {
        if !self.origin.is_here() {
            return Err(match direction {
                Direction::Read => ByteStreamError::Forked.while_reading(),
                Direction::Write => ByteStreamError::Forked.while_writing(),
            });
        }
        let mut inner = lock(&self.inner);
        let timeout = inner.timeouts[direction as usize];
        let mut deadline = Deadline::after(timeout);
        let mut calm = Calm::default();
        if timeout == Some(Duration::ZERO) {
            inner.end.ready(Readiness::UNKNOWN);
        }
        loop {
            let found = attempt(&mut inner.end).transpose();
            if let Some(found) = found {
                inner.wants_room &= direction == Direction::Read;
                inner.waited(direction);
                return found;
            }
            if deadline == Deadline::Now {
                inner.waiters[direction as usize].given_up();
                // Once more, if that has changed what there is to say.
                if inner.look_again(direction)
                    && let Some(found) = attempt(&mut inner.end)?
                {
                    return Ok(found);
                }
                inner.wants_room |= direction == Direction::Write;
                return Err(io::ErrorKind::WouldBlock.into());
            }
            if self.is_socket {
                inner = self.wait_for_socket(inner, direction, &mut deadline, &mut calm)?;
                continue;
            }
            let around = inner.end.surroundings();
            match inner.waiters[direction as usize].step(around, now_ns) {
                Step::Spin(polls) => inner.end.spin(direction, polls),
                Step::Yield => {
                    timely(&mut inner, direction, &mut deadline)?;
                    inner.waiting_otherwise += 1;
                    drop(inner);
                    rustix::thread::sched_yield();
                    inner = lock(&self.inner);
                    inner.waiting_otherwise -= 1;
                }
                Step::Park => {
                    timely(&mut inner, direction, &mut deadline)?;
                    inner.waiting[direction as usize] += 1;
                    inner = self.park(inner, direction, deadline, &mut calm);
                    inner.waiting[direction as usize] -= 1;
                }
            }
        }
    }

    /// Sleeps on the bell, or until whoever sleeps there is awake.
    fn park<'a>(
        &'a self,
        mut inner: Guard<'a>,
        direction: Direction,
        deadline: Deadline,
        calm: &mut Calm,
    ) -> Guard<'a> {
        let now = now_ns();
        let backstop = inner.waiters[direction as usize].settings().backstop;
        let until = deadline.within(now, backstop);
        let wanted = inner.wanted();
        if inner.asleep {
            if inner.end.arm_for_more(wanted, direction) == Arming::Busy {
                return inner;
            }
            let left = Duration::from_nanos(until.saturating_sub(now));
            return self.awake.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        if inner.end.arm_bell(wanted, Mode::Futex) == Arming::Busy {
            if !inner.end.came(Wanted::one(direction)).any() {
                // It came for another thread, which is about to have the lock.
                drop(inner);
                std::thread::yield_now();
                return lock(&self.inner);
            }
            return inner;
        }
        inner.asleep = true;
        inner.end.counts().parks += 1;
        let sleeper = inner.end.sleeper();
        let Some((seq, ticket)) =
            sleeper.and_then(|side| Some((side.bell().seq().share(), side.ticket()?)))
        else {
            return inner;
        };
        drop(inner);
        let (began, pauses) = (now_ns(), calm.pauses());
        let waited = seq.wait(ticket.0, Some(timespec(until)));
        let woke = now_ns();
        let left = until.saturating_sub(woke);
        calm.slept(waited.is_err(), woke.saturating_sub(began), left, || seq.load() != ticket.0);
        let mut inner = lock(&self.inner);
        inner.asleep = false;
        inner.end.counts().pauses += calm.pauses() - pauses;
        let wanted = inner.wanted();
        inner.end.wake_up(ticket, wanted, woke >= until);
        self.awake.notify_all();
        inner
    }

    /// Sleeps until the socket has something, or takes what is unsent.
    fn wait_for_socket<'a>(
        &'a self,
        mut inner: Guard<'a>,
        direction: Direction,
        deadline: &mut Deadline,
        calm: &mut Calm,
    ) -> io::Result<Guard<'a>> {
        let now = now_ns();
        if deadline.passed(now) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let unsent = inner.end.has_unsent();
        inner.end.counts().parks += 1;
        inner.waiting_otherwise += 1;
        drop(inner);
        let wanted = match (direction, unsent) {
            // Not for what nobody reads. A death is reported in any case.
            (Direction::Write, _) => PollFlags::OUT,
            (Direction::Read, true) => PollFlags::IN | PollFlags::RDHUP | PollFlags::OUT,
            (Direction::Read, false) => PollFlags::IN | PollFlags::RDHUP,
        };
        let left = match *deadline {
            Deadline::At(at) => Timespec::try_from(Duration::from_nanos(at - now)).ok(),
            _ => None,
        };
        let pauses = calm.pauses();
        let waited = wait_ready(&self.lifeline, wanted, left.as_ref());
        let mut ready = waited.unwrap_or(Readiness::UNKNOWN);
        let woke = now_ns();
        let left = match *deadline {
            Deadline::At(at) => at.saturating_sub(woke),
            _ => u64::MAX,
        };
        calm.slept(waited.is_none(), woke.saturating_sub(now), left, || {
            waited.is_some_and(|ready| ready != Readiness::default())
        });
        // Where nobody is left to take what is unsent, it is a write that says so.
        ready.writable |= ready.hung_up;
        let mut inner = lock(&self.inner);
        inner.waiting_otherwise -= 1;
        inner.end.counts().pauses += calm.pauses() - pauses;
        inner.end.ready(ready);
        Ok(inner)
    }
}

fn timely(inner: &mut Guard<'_>, direction: Direction, deadline: &mut Deadline) -> io::Result<()> {
    if deadline.passed(now_ns()) {
        inner.waiters[direction as usize].given_up();
        inner.end.hint(false);
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(())
}

impl Read for &ByteStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        ByteStream::read(self, into)
    }
}

impl Read for ByteStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Self::read(self, into)
    }
}

impl Write for &ByteStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        ByteStream::write(self, bytes)
    }

    fn write_vectored(&mut self, buffers: &[io::IoSlice<'_>]) -> io::Result<usize> {
        ByteStream::write_vectored(self, buffers)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flush_out()
    }
}

impl Write for ByteStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Self::write(self, bytes)
    }

    fn write_vectored(&mut self, buffers: &[io::IoSlice<'_>]) -> io::Result<usize> {
        Self::write_vectored(self, buffers)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flush_out()
    }
}

/// Of an error of a [`ByteStream`], if it is one of those.
impl ByteStreamError {
    /// What stands in an [`io::Error`] of a byte stream; `None` for a timeout, and for errors of
    /// others.
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }
}
