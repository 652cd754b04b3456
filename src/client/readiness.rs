//! Plain readiness: a client inside somebody's event loop, which never parks in a futex and needs
//! no timer.
//!
//! ```text
//!   loop      pump: try_recv, next_event(0), .. until nothing is there
//!             arm() says Busy: something came, pump again
//!             wait for as_fd() (epoll, mio, ..), as long as it takes
//!             disarm()
//! ```
//!
//! Over rings the server wakes a client that is armed in event mode by one byte on the lifeline.
//! Why no wake is lost is in `bell.rs`; what the descriptor adds is in
//! `loom-tests/src/event_loop.rs`: [`Client::disarm`] reads the lifeline empty *before* the pump,
//! so a byte that it throws away belongs to something that the pump finds; and so the lifeline
//! never fills up, which would keep an edge-triggered watcher from being told.
//!
//! What comes is taken in by whichever method of the pump looks first, and kept for the others: so
//! [`Client::arm`] says that something came, once, if anything was kept since, and as long as an
//! answer is set aside.
//!
//! Over a socket [`Client::arm`] asks the kernel, and an edge that comes later is an edge of the
//! descriptor.

use super::Client;
use super::error::SessionEnd;
use super::waiting::something_came;
use crate::base::clock::now_ns;
use crate::base::kill_point::kill_point;
use crate::link::readiness::{Readiness, wait_ready};
use crate::memory::layout::{Interest, Mode};
use crate::protocol::bell::Arming;
use crate::trace;
use rustix::event::{PollFlags, Timespec};
use rustix::fd::{AsFd, BorrowedFd};

/// The descriptor that an event loop watches: the lifeline, or the socket that carries the session.
///
/// Watch it edge-triggered for reading and writing, or level-triggered for reading, and for writing
/// while [`Client::wants_writable`]. It is reported when the client was armed and something came,
/// when the server is gone or has shut down, and now and then for nothing. Do not read or write it.
///
/// It stays the same while the client lives. A forked child must not use it.
impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.session.lifeline().as_fd()
    }
}

impl Client {
    /// The descriptor of the server's process: readable once that has ended. `None` if it is
    /// unknown, and over a socket.
    ///
    /// A second descriptor to watch, for those whose server may leave forked children behind that
    /// hold its sockets: in every other case [`Client::as_fd`](Self::as_fd) tells of its end, too.
    pub fn server_process(&self) -> Option<BorrowedFd<'_>> {
        self.side.as_ref()?.process.as_ref().map(AsFd::as_fd)
    }

    /// Declares that this thread is about to wait for [`as_fd`](Self::as_fd) in an event loop of
    /// its own.
    ///
    /// - [`Arming::Busy`]: something came, or the session is over. The client is not armed: pump it
    ///   again.
    /// - [`Arming::Armed`]: whatever comes from now on makes the descriptor readable. No timer is
    ///   needed.
    ///
    /// Never waits.
    ///
    /// To pump is to call those methods that may have something, without waiting, until they have
    /// nothing more: [`try_recv`](Self::try_recv), and with a timeout of zero
    /// [`next_event`](Self::next_event) and [`next_item`](Self::next_item) for each stream.
    /// [`RecvError::TimedOut`](crate::RecvError::TimedOut) and its like mean that nothing is there.
    /// A method that fails otherwise has found the session over: do not arm again.
    ///
    /// A request that found no room ([`send_timeout`](Self::send_timeout) or [`claim`](Self::claim)
    /// with a timeout of zero) is to be tried again whenever the descriptor is reported or this
    /// says `Busy`; room counts as something that comes. Messages that do not fit the ring cannot
    /// be sent without waiting.
    ///
    /// ```no_run
    /// # use ringbell::{Arming, Client, RecvError};
    /// # fn wait_for(_: rustix::fd::BorrowedFd<'_>) {}
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use rustix::fd::AsFd;
    ///
    /// let mut client = Client::connect("/run/app/echo.sock")?;
    /// client.send(b"hello")?;
    /// loop {
    ///     while let Some(answer) = client.try_recv()? {
    ///         println!("{:?}", answer.outcome);
    ///     }
    ///     if client.arm() == Arming::Armed {
    ///         wait_for(client.as_fd()); // epoll, mio, ..
    ///         client.disarm();
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// Costs no system call over rings, unless there is something to tell a server that sleeps.
    pub fn arm(&mut self) -> Arming {
        if !self.origin.is_here() || self.over.is_some() {
            return Arming::Busy;
        }
        if let Some(side) = &self.side
            && (side.sleeper.is_armed_for_event() || side.sleeper.must_read())
        {
            self.disarm();
        }
        let owed = self.session.retry_abort().and_then(|()| self.try_control());
        if let Err(fault) = owed {
            self.fail(fault.into());
            return Arming::Busy;
        }
        self.session.flush();
        self.session.publish_head();
        self.note_oldest(now_ns);
        self.store_counts();
        // What one method of the pump found may be for another one, which was asked before.
        let kept = std::mem::take(&mut self.has_kept) || !self.set_aside.is_empty();
        if kept || self.verdict.is_some() || self.session.has_ended() {
            return Arming::Busy;
        }
        let arming = if self.session.is_socket() { self.arm_socket() } else { self.arm_bell() };
        match arming {
            Arming::Armed => {
                self.session.counts.parks += 1;
                trace::client_armed(self.server_info.session);
            }
            Arming::Busy => self.session.counts.arms_called_off += 1,
        }
        arming
    }

    fn arm_bell(&mut self) -> Arming {
        let wants_room =
            self.wants_room || !self.unsent_control.is_empty() || self.session.owes_abort();
        let interest = if wants_room { Interest::BOTH } else { Interest::DATA };
        self.hint(true);
        let Self { side: Some(side), session, .. } = self else { return Arming::Busy };
        let arming = side.sleeper.arm(Mode::Event, interest, || {
            kill_point!("client-armed");
            something_came(session, interest)
        });
        if arming == Arming::Busy {
            self.hint(false);
            self.look_for_room();
        }
        arming
    }

    fn arm_socket(&mut self) -> Arming {
        let wanted = PollFlags::IN | PollFlags::RDHUP | PollFlags::OUT;
        // EINTR cannot be, and whatever else: take it for ready, a read or a write tells.
        let ready =
            wait_ready(self.session.lifeline(), wanted, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        self.session.ready(ready.unwrap_or(Readiness::UNKNOWN));
        let room = self.look_for_room();
        if room || self.session.has_pending() || self.session.has_ended() {
            return Arming::Busy;
        }
        Arming::Armed
    }

    /// Ends what [`arm`](Self::arm) began, and takes in what the descriptor has to say. To be
    /// called when the descriptor was reported, or when the loop woke for something else and is
    /// about to use the client; then the client is to be pumped. Calls that wait may be made only
    /// in this state: one that is made while the client is armed ends that, without a word of the
    /// descriptor.
    ///
    /// Never waits. Costs two or three system calls over rings, none over a socket.
    pub fn disarm(&mut self) {
        if !self.origin.is_here() || self.over.is_some() {
            return;
        }
        match &mut self.side {
            None => {
                self.session.ready(Readiness::UNKNOWN);
            }
            Some(side) => {
                side.sleeper.disarm_to_read();
                side.hint(false);
                // What it says is kept, until all that came before it is read.
                let _ = self.check_server();
            }
        }
        // Whether there is room is said once, and `arm` is who says it.
    }

    /// Whether the socket that carries the session has to become writable before all that was sent
    /// is on its way: for level-triggered loops, which watch for that only while it is so. Never
    /// over rings.
    pub fn wants_writable(&self) -> bool {
        self.session.has_unsent()
    }

    /// Whether there is room now for what found none; said once.
    pub(super) fn look_for_room(&mut self) -> bool {
        let room = self.wants_room && self.session.room_appeared();
        self.wants_room &= !room;
        room
    }

    /// Why the session is over, if the lifeline has said so and all that came before it is read.
    pub(super) fn has_heard_the_end(&self) -> Option<SessionEnd> {
        self.verdict.filter(|_| !self.session.has_pending())
    }
}
