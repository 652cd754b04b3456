//! Plain readiness: a byte stream inside somebody's event loop, without a thread that waits.
//!
//! The protocol is that of [`Client::arm`](crate::Client::arm); `protocol/sleeper.rs` has the
//! argument.

use super::end::{Direction, Wanted};
use super::stream::ByteStream;
use crate::base::sync::lock;
use crate::link::readiness::{Readiness, wait_ready};
use crate::protocol::bell::Arming;
use rustix::event::{PollFlags, Timespec};
use rustix::fd::{AsFd, BorrowedFd};

/// The descriptor that an event loop watches: the lifeline, or the socket that carries the stream.
///
/// Watch it edge-triggered for reading and writing, or level-triggered for reading, and for writing
/// while [`ByteStream::wants_writable`]. It is reported when the stream was armed and something
/// came, when the peer is gone, and now and then for nothing. Do not read or write it.
///
/// It stays the same while the stream lives. A forked child must not use it.
impl AsFd for ByteStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.lifeline.as_fd()
    }
}

impl ByteStream {
    /// The descriptor of the server's process: readable once that has ended. `None` if it is
    /// unknown, over a socket, and for a stream that was accepted.
    ///
    /// A second descriptor to watch, for those whose server may leave forked children behind that
    /// hold its sockets: in every other case [`as_fd`](AsFd::as_fd) tells of its end, too.
    pub fn server_process(&self) -> Option<BorrowedFd<'_>> {
        self.process.as_ref().map(AsFd::as_fd)
    }

    /// Declares that this thread is about to wait for [`as_fd`](AsFd::as_fd) in an event loop of
    /// its own.
    ///
    /// - [`Arming::Busy`]: there is something to read, or room for a write that found none, or the
    ///   stream is over. It is not armed: read and write again.
    /// - [`Arming::Armed`]: whatever comes from now on makes the descriptor readable. No timer is
    ///   needed.
    ///
    /// Room counts for a write that found none, or not enough for all of its bytes.
    ///
    /// Never waits. Both timeouts are to be zero ([`set_read_timeout`](Self::set_read_timeout),
    /// [`set_write_timeout`](Self::set_write_timeout)). Other threads may read and write without
    /// waiting. A thread that waits on this stream has this say `Busy`; one that begins to wait
    /// while the stream is armed ends that, without a word of the descriptor.
    ///
    /// ```no_run
    /// # use ringbell::{Arming, ByteStream};
    /// # use std::time::Duration;
    /// # fn wait_for(_: rustix::fd::BorrowedFd<'_>) {}
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use rustix::fd::AsFd;
    ///
    /// let stream = ByteStream::connect("/run/app/bytes.sock")?;
    /// stream.set_read_timeout(Some(Duration::ZERO));
    /// let mut buffer = [0; 4096];
    /// loop {
    ///     match stream.read(&mut buffer) {
    ///         Ok(0) => break,
    ///         Ok(count) => println!("{count} bytes"),
    ///         Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
    ///             if stream.arm() == Arming::Armed {
    ///                 wait_for(stream.as_fd()); // epoll, mio, ..
    ///                 stream.disarm();
    ///             }
    ///         }
    ///         Err(error) => return Err(error.into()),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Costs no system call over rings, and one over a socket.
    pub fn arm(&self) -> Arming {
        if !self.origin.is_here() {
            return Arming::Busy;
        }
        let mut inner = lock(&self.inner);
        if inner.has_waiters() {
            return Arming::Busy;
        }
        if self.is_socket {
            let wanted = PollFlags::IN | PollFlags::RDHUP | PollFlags::OUT;
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            let mut ready =
                wait_ready(&self.lifeline, wanted, Some(&now)).unwrap_or(Readiness::UNKNOWN);
            // Where nobody is left to take what is unsent, it is a write that says so.
            ready.writable |= ready.hung_up;
            inner.end.ready(ready);
        }
        inner.in_loop = true;
        let mut wanted = Wanted::one(Direction::Read);
        wanted.set(Direction::Write, inner.wants_room);
        let arming = inner.end.arm(wanted);
        if arming == Arming::Busy && inner.wants_room {
            // Room is told of once.
            inner.wants_room = !inner.end.came(Wanted::one(Direction::Write)).any();
        }
        arming
    }

    /// Ends what [`arm`](Self::arm) began, and takes in what the descriptor has to say. To be
    /// called when the descriptor was reported, or when the loop woke for something else and is
    /// about to use the stream.
    ///
    /// Never waits. Does nothing while another thread sleeps on this stream. Costs two or three
    /// system calls over rings, none over a socket.
    pub fn disarm(&self) {
        if !self.origin.is_here() {
            return;
        }
        let mut inner = lock(&self.inner);
        if inner.asleep {
            // What is armed then is the sleep of that thread.
            inner.end.check_peer();
        } else {
            inner.end.disarm();
        }
    }

    /// Whether the socket that carries the stream has to become writable before a write finds room,
    /// or all that was written is on its way: for level-triggered loops, which watch for that only
    /// while it is so. Never over rings, and never in a forked child.
    pub fn wants_writable(&self) -> bool {
        self.is_socket && self.origin.is_here() && {
            let inner = lock(&self.inner);
            inner.wants_room || inner.end.has_unsent()
        }
    }
}
