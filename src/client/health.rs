//! Whether a client is as good as new, and whether its server is still there: for pools, and
//! whoever keeps clients.

use super::Client;
use super::error::{CallError, RecvError, SessionEnd, WaitEnd};
use crate::base::clock::Deadline;
use crate::link::session::{Head, SendProgress};
use crate::memory::layout::{Interest, Kind};
use std::time::Duration;

impl Client {
    /// Whether the client could be given to somebody else: no call is in flight, wanted or given
    /// up; no answer and no stream is left to be read; nothing is left to be sent; the session is
    /// not known to be over.
    pub fn is_clean(&self) -> bool {
        self.origin.is_here()
            && self.over.is_none()
            && self.verdict.is_none()
            && self.calls.in_flight() == 0
            && self.set_aside.is_empty()
            && self.streams.is_empty()
            && self.unsent_control.is_empty()
            && !self.session.is_owed()
            && !self.session.owes_abort()
            && !self.session.has_unsent()
    }

    /// As [`Self::is_clean`], after whatever came by itself was taken in; events are dropped. A
    /// client is not clean whose server sends more events than can be taken in, or has sent one in
    /// part. Over a socket this asks the kernel once.
    pub(crate) fn clean_up(&mut self) -> bool {
        if !self.is_clean() {
            return false;
        }
        // Most sessions come back with nothing to take in. Rings say so by one load.
        let came = self.session.is_socket() || self.session.has_pending();
        if came {
            if let Err(over) = self.drain_to_end() {
                self.fail(over);
                return false;
            }
            if self.session.has_pending() || !self.is_clean() {
                return false;
            }
        }
        if self.session.has_begun_to_arrive() {
            return false;
        }
        self.events.clear();
        self.trim_buffer_for_others();
        !self.session.has_ended()
    }

    /// Takes in all that was there at the beginning, and asks for the end of a socket behind it,
    /// which the kernel tells only to a read that finds nothing before it.
    fn drain_to_end(&mut self) -> Result<(), SessionEnd> {
        let read = self.session.bytes_read();
        self.drain_all(|_| false)?;
        if self.session.is_socket() && self.session.bytes_read() != read {
            self.drain_now()?;
        }
        Ok(())
    }

    /// Looks whether the server is still there, without waiting: costs two system calls. A server
    /// that hangs is there; [`Self::ping`] tells.
    ///
    /// # Errors
    /// Why the session is over: as [`Self::recv`], of which neither [`RecvError::TimedOut`] nor
    /// [`RecvError::NothingInFlight`].
    pub fn check(&mut self) -> Result<(), RecvError> {
        self.usable().map_err(SessionEnd::as_recv)?;
        let there =
            if self.session.is_socket() { self.drain_to_end() } else { self.check_server() };
        match there {
            // What the server published before it went is still good, to whoever waits for it.
            Err(over) if self.calls.in_flight() > 0 && self.session.has_pending() => {
                Err(over.as_recv())
            }
            Err(over) => Err(self.fail(over).as_recv()),
            Ok(()) => Ok(()),
        }
    }

    /// Asks the server for a sign of life and waits for it at most `timeout`: `None` waits for
    /// ever, zero does not wait. No handler runs for it; a server whose thread is busy in a handler
    /// answers afterwards.
    ///
    /// # Errors
    /// As [`Self::call_timeout`], of which neither [`CallError::Remote`] nor
    /// [`CallError::TooLarge`]. Nothing is executed in any case.
    pub fn ping(&mut self, timeout: Option<Duration>) -> Result<(), CallError> {
        self.usable().map_err(|over| over.as_call(false))?;
        let mut deadline = Deadline::after(timeout);
        self.pings = self.pings.wrapping_add(1);
        let ping = self.pings;
        self.post_frame(
            Head::new(Kind::Ping, ping),
            0,
            &[],
            SendProgress::default(),
            &mut deadline,
        )?;
        self.session.flush();
        let answered = self.wait(&mut deadline, Interest::BOTH, |client| {
            client.drain()?;
            Ok((client.last_pong == ping).then_some(()))
        });
        match answered {
            Ok(()) => Ok(()),
            Err(WaitEnd::TimedOut) => Err(CallError::TimedOut { maybe_executed: false }),
            Err(WaitEnd::WouldDeadlock) => Err(CallError::WouldDeadlock),
            Err(WaitEnd::SessionEnd(over)) => Err(over.as_call(false)),
        }
    }
}
