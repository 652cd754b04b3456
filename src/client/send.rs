//! Sending: requests, one-way messages, claims; and control frames that found no room.

use super::Client;
use super::calls::CallId;
use super::error::{SendError, SessionEnd, WaitEnd};
use super::view::Claim;
use crate::base::clock::{Deadline, now_ns};
use crate::base::kill_point::kill_point;
use crate::link::readiness::Readiness;
use crate::link::session::{Head, PeerFault, SendProgress, Sent};
use crate::memory::layout::{Interest, Kind};
use std::time::Duration;

impl Client {
    /// Sends a request without waiting for its answer, which [`Self::recv`] brings. Waits for room
    /// as long as it takes; answers that arrive meanwhile are set aside.
    ///
    /// # Errors
    /// [`SendError`]; the request will not be executed.
    #[inline]
    pub fn send(&mut self, request: &[u8]) -> Result<CallId, SendError> {
        self.send_until(request, &mut Deadline::Never)
    }

    /// As [`Self::send`], waiting for room at most `timeout`: `None` waits for ever, zero does not
    /// wait.
    ///
    /// # Errors
    /// As [`Self::send`], and [`SendError::TimedOut`].
    pub fn send_timeout(
        &mut self,
        request: &[u8],
        timeout: Option<Duration>,
    ) -> Result<CallId, SendError> {
        self.send_until(request, &mut Deadline::after(timeout))
    }

    /// Sends a request, and leaves waking the server to [`Self::flush`]: cheaper than
    /// [`Self::send`] where several follow each other. A server that is awake sees it at once; one
    /// that sleeps, when the client flushes, waits for an answer, or is dropped.
    ///
    /// # Errors
    /// As [`Self::send`].
    #[inline]
    pub fn post(&mut self, request: &[u8]) -> Result<CallId, SendError> {
        let call = self.post_until(request, &mut Deadline::Never)?;
        // A server that sleeps already, and not just now falls asleep, need not wait for the flush.
        if self.session.peer_looks_asleep() {
            self.session.flush();
        }
        Ok(call)
    }

    /// Wakes the server if it sleeps and something was posted.
    #[inline]
    pub fn flush(&mut self) {
        if self.origin.is_here() {
            self.session.flush();
            self.session.ready(Readiness { writable: true, ..Readiness::default() });
        }
    }

    /// Sends many requests and rings once: cheaper than [`Self::send`] for each. Stops at the first
    /// that cannot be sent; the ids of those that were are appended to `calls` in every case.
    ///
    /// # Errors
    /// As [`Self::send`], for the first request that was not sent.
    pub fn send_batch<'r>(
        &mut self,
        requests: impl IntoIterator<Item = &'r [u8]>,
        calls: &mut Vec<CallId>,
    ) -> Result<(), SendError> {
        let mut result = Ok(());
        for request in requests {
            match self.post_until(request, &mut Deadline::Never) {
                Ok(call) => calls.push(call),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        self.flush();
        result
    }

    /// Sends a request and tells the server until when the caller waits.
    #[inline]
    pub(super) fn send_timed(
        &mut self,
        request: &[u8],
        deadline: &mut Deadline,
    ) -> Result<CallId, SendError> {
        let until = match deadline {
            Deadline::Never | Deadline::Now => 0,
            _ if self.send_deadlines => deadline.fix(),
            _ => 0,
        };
        let call = self.post_request(request, until, deadline)?;
        kill_point!("request-posted");
        self.session.flush();
        if self.session.has_unsent() {
            self.push_out(deadline);
        }
        Ok(call)
    }

    #[inline]
    pub(super) fn send_until(
        &mut self,
        request: &[u8],
        deadline: &mut Deadline,
    ) -> Result<CallId, SendError> {
        let call = self.post_until(request, deadline)?;
        kill_point!("request-posted");
        self.session.flush();
        if self.session.has_unsent() {
            self.push_out(deadline);
        }
        Ok(call)
    }

    /// Publishes a request; the ring is owed.
    #[inline]
    pub(super) fn post_until(
        &mut self,
        request: &[u8],
        deadline: &mut Deadline,
    ) -> Result<CallId, SendError> {
        self.post_request(request, 0, deadline)
    }

    #[inline(always)]
    pub(super) fn post_request(
        &mut self,
        request: &[u8],
        until: u64,
        deadline: &mut Deadline,
    ) -> Result<CallId, SendError> {
        let call = self.begin_request(request)?;
        self.post_begun(call, request, until, deadline)
    }

    /// A call for a request that can be sent.
    #[inline(always)]
    pub(super) fn begin_request(&mut self, request: &[u8]) -> Result<CallId, SendError> {
        self.usable().map_err(SessionEnd::as_send)?;
        if request.len() > self.session.max_message() {
            return Err(SendError::TooLarge {
                len: request.len(),
                max: self.session.max_message(),
            });
        }
        self.trim_buffer();
        self.begin()
    }

    /// Publishes the request of a call that has begun; the ring is owed. The call is over if it
    /// cannot be sent.
    #[inline(always)]
    pub(super) fn post_begun(
        &mut self,
        call: CallId,
        request: &[u8],
        until: u64,
        deadline: &mut Deadline,
    ) -> Result<CallId, SendError> {
        kill_point!("request-claimed");
        let head = Head::new(Kind::Request, call.0);
        if self.is_sampled() {
            return self.post_sampled(call, until, request, deadline);
        }
        match self.post_frame(head, until, request, SendProgress::default(), deadline) {
            Ok(()) => Ok(call),
            Err(error) => {
                self.not_sent(call);
                Err(error)
            }
        }
    }

    /// The request of a call could not be sent.
    #[cold]
    pub(super) fn not_sent(&mut self, call: CallId) {
        self.calls.end(call.0);
        self.one_less_in_flight();
        // The server may have answered a part of it: with an error, for instance.
        let _ = self.take_aside(call);
    }

    #[inline(always)]
    pub(super) fn post_frame(
        &mut self,
        head: Head,
        until: u64,
        payload: &[u8],
        mut progress: SendProgress,
        deadline: &mut Deadline,
    ) -> Result<(), SendError> {
        match self.session.post(head, until, payload, &mut progress) {
            Ok(Sent::Done) if self.session.is_broken() => Err(self.goes_nowhere()),
            Ok(Sent::Done) => Ok(()),
            Ok(Sent::Full) => self.post_when_room(head, until, payload, progress, deadline),
            Err(fault) => Err(self.fail(fault.into()).as_send()),
        }
    }

    /// The socket takes nothing any more. What the server said before is set aside, and may say
    /// why.
    #[cold]
    pub(super) fn goes_nowhere(&mut self) -> SendError {
        match self.drain_all(|_| false) {
            Ok(()) => self.fail(SessionEnd::Disconnected).as_send(),
            Err(over) => self.fail(over).as_send(),
        }
    }

    /// Sends a message that wants no answer. Waits for room at most `timeout`: `None` waits for
    /// ever, zero does not wait. Whether the server did anything with it nobody says.
    ///
    /// # Errors
    /// As [`Self::send_timeout`].
    pub fn send_one_way(
        &mut self,
        message: &[u8],
        timeout: Option<Duration>,
    ) -> Result<(), SendError> {
        self.usable().map_err(SessionEnd::as_send)?;
        if message.len() > self.session.max_message() {
            return Err(SendError::TooLarge {
                len: message.len(),
                max: self.session.max_message(),
            });
        }
        let mut deadline = Deadline::after(timeout);
        self.post_frame(
            Head::new(Kind::OneWay, 0),
            0,
            message,
            SendProgress::default(),
            &mut deadline,
        )?;
        self.session.flush();
        if self.session.has_unsent() {
            self.push_out(&mut deadline);
        }
        Ok(())
    }

    /// Tells the server that an answer is no longer wanted. It may come all the same.
    pub(super) fn cancel(&mut self, call: CallId) {
        self.tell(Head::new(Kind::Cancel, call.0));
    }

    /// Sends a frame without payload, later if there is no room now.
    pub(super) fn tell(&mut self, head: Head) {
        self.unsent_control.push(head);
        self.retry_control();
    }

    /// Sends the control frames that found no room. A fault shows at the next use.
    #[cold]
    pub(super) fn retry_control(&mut self) {
        let _ = self.try_control();
    }

    pub(super) fn try_control(&mut self) -> Result<(), PeerFault> {
        while let Some(&head) = self.unsent_control.first() {
            match self.session.send(head, 0, &[], &mut SendProgress::default())? {
                Sent::Done => drop(self.unsent_control.remove(0)),
                Sent::Full => break,
            }
        }
        Ok(())
    }

    /// Over a socket that takes no more just now: waits until all that was sent is on its way, at
    /// most until the deadline. It goes on then when the client is used again.
    #[cold]
    pub(super) fn push_out(&mut self, deadline: &mut Deadline) {
        // What is in the way shows at the next use.
        let _ = self.wait(deadline, Interest::BOTH, |client| {
            client.drain()?;
            Ok((!client.session.has_unsent()).then_some(()))
        });
    }

    /// What the limit bounds: calls without an answer, abandoned ones included, and answers set
    /// aside.
    pub(super) fn in_flight_or_kept(&self) -> usize {
        self.calls.in_flight() + self.set_aside.len()
    }

    #[inline(always)]
    pub(super) fn begin(&mut self) -> Result<CallId, SendError> {
        if self.set_aside.is_empty()
            && let Some(call) = self.calls.begin()
        {
            return Ok(call);
        }
        if self.in_flight_or_kept() >= self.max_in_flight {
            self.make_place()?;
        }
        Ok(self.calls.begin().expect("less than the limit"))
    }

    /// Takes in what has come: late answers to calls that were given up no longer count then, nor
    /// do streams that have ended. No answer that is wanted makes a place, so nothing is searched
    /// for if all calls want theirs.
    #[cold]
    pub(super) fn make_place(&mut self) -> Result<(), SendError> {
        let has_place = |client: &Self| {
            client.in_flight_or_kept() < client.max_in_flight
                || client.calls.in_flight() == client.calls.wanted() && client.streams.open() == 0
        };
        self.drain_all(has_place).map_err(|over| self.fail(over).as_send())?;
        if self.in_flight_or_kept() >= self.max_in_flight {
            if let WaitEnd::SessionEnd(over) = self.timed_out(now_ns()) {
                return Err(over.as_send());
            }
            self.session.counts.refused += 1;
            return Err(SendError::TooManyInFlight { limit: self.max_in_flight });
        }
        Ok(())
    }

    #[cold]
    pub(super) fn post_when_room(
        &mut self,
        head: Head,
        until: u64,
        payload: &[u8],
        mut progress: SendProgress,
        deadline: &mut Deadline,
    ) -> Result<(), SendError> {
        let waited = self.wait(deadline, Interest::BOTH, |client| {
            // The server may be unable to take requests because its answers find no room: make
            // some.
            client.drain()?;
            match client.session.send(head, until, payload, &mut progress)? {
                Sent::Done => Ok(Some(())),
                Sent::Full => Ok(None),
            }
        });
        match waited {
            Ok(()) => Ok(()),
            Err(WaitEnd::SessionEnd(over)) => Err(over.as_send()),
            Err(end) => {
                if progress.is_partial() {
                    self.session.abort(head).map_err(|fault| self.fail(fault.into()).as_send())?;
                }
                self.wants_room = true;
                if end == WaitEnd::WouldDeadlock {
                    return Err(SendError::WouldDeadlock);
                }
                self.session.counts.timeouts += 1;
                Err(SendError::TimedOut)
            }
        }
    }

    /// Claims room for a request of `len` bytes in the ring, to be written in place and committed.
    /// Waits for room at most `timeout`: `None` waits for ever, zero does not wait.
    ///
    /// # Errors
    /// As [`Self::send_timeout`]. A request that does not fit one record cannot be claimed
    /// ([`SendError::TooLarge`] with that limit); send it instead.
    pub fn claim(&mut self, len: usize, timeout: Option<Duration>) -> Result<Claim<'_>, SendError> {
        self.usable().map_err(SessionEnd::as_send)?;
        let max = self.max_claim();
        if len > max {
            return Err(SendError::TooLarge { len, max });
        }
        if self.in_flight_or_kept() >= self.max_in_flight {
            self.make_place()?;
        }
        let mut deadline = Deadline::after(timeout);
        let claimed = self.wait(&mut deadline, Interest::BOTH, |client| {
            if let Some(claim) = client.session.claim(len)? {
                return Ok(Some(claim));
            }
            client.drain()?;
            Ok(client.session.claim(len)?)
        });
        match claimed {
            Ok(claim) => Ok(Claim { client: self, claim: Some(claim) }),
            Err(WaitEnd::TimedOut) => {
                self.wants_room = true;
                Err(SendError::TimedOut)
            }
            Err(WaitEnd::WouldDeadlock) => Err(SendError::WouldDeadlock),
            Err(WaitEnd::SessionEnd(over)) => Err(over.as_send()),
        }
    }

    /// Longest request that [`Self::claim`] takes, in bytes.
    pub fn max_claim(&self) -> usize {
        self.session.max_body().min(self.session.max_message())
    }

    /// Longest message either way in bytes.
    pub fn max_message(&self) -> usize {
        self.session.max_message()
    }
}
