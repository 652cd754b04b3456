//! Receiving: answers in the order in which they come, and what is set aside for later.

use super::calls::{CallId, Waiting};
use super::error::{RecvError, RemoteError, SessionEnd, WaitEnd};
use super::{Answer, Client, LOOK_MOST, Response, SetAside};
use crate::base::clock::Deadline;
use crate::link::readiness::Readiness;
use crate::link::session::{Head, PeerFault, Received};
use crate::memory::layout::{Interest, Kind, code};
use std::time::Duration;

/// What was taken of what the server sent.
pub(super) enum Taken {
    Nothing,
    /// An answer that is wanted, in the client's buffer.
    Answer(Head),
    /// A fragment of a message that goes on.
    Partial,
    /// What is no answer that is wanted.
    Other,
}

/// What was there at one moment, in bytes of the ring or the socket since the session began.
#[derive(Debug)]
pub(crate) struct Extent {
    /// How far it is read.
    read: u64,
    /// Nothing of it lies behind.
    end: u64,
}

impl Client {
    /// The next answer, to whichever call. Waits at most `timeout`: `None` waits for ever, zero
    /// does not wait.
    ///
    /// # Errors
    /// [`RecvError`]; [`RecvError::NothingInFlight`] if there is no call to wait for.
    #[inline]
    pub fn recv(&mut self, timeout: Option<Duration>) -> Result<Answer<'_>, RecvError> {
        let head = self.recv_until(Deadline::after(timeout))?;
        Ok(Answer { call: CallId(head.call), outcome: Self::outcome(head, &self.buffer) })
    }

    /// The next answer if one is there.
    ///
    /// # Errors
    /// As [`Self::recv`], without [`RecvError::TimedOut`].
    #[inline]
    pub fn try_recv(&mut self) -> Result<Option<Answer<'_>>, RecvError> {
        match self.recv_until(Deadline::Now) {
            Ok(head) => Ok(Some(Answer {
                call: CallId(head.call),
                outcome: Self::outcome(head, &self.buffer),
            })),
            Err(RecvError::TimedOut) => Ok(None),
            Err(error) => Err(error),
        }
    }

    #[inline]
    pub(super) fn recv_until(&mut self, mut deadline: Deadline) -> Result<Head, RecvError> {
        let usable = self.usable();
        if usable != Err(SessionEnd::Forked) {
            // What was received before the session ended is still good.
            if let Some(answer) = self.set_aside.pop_front() {
                return Ok(self.take_up(answer));
            }
        }
        usable.map_err(SessionEnd::as_recv)?;
        if self.calls.wanted() <= self.streams.open() {
            // Answers to calls that were given up may have come: they are dropped here.
            self.drain_now().map_err(|over| self.fail(over).as_recv())?;
            if let Some(over) = self.has_heard_the_end() {
                return Err(self.fail(over).as_recv());
            }
            return Err(RecvError::NothingInFlight);
        }
        match self.wait(&mut deadline, Interest::DATA, |client| client.look(None)) {
            Ok(head) => Ok(head),
            Err(WaitEnd::TimedOut) => Err(RecvError::TimedOut),
            Err(WaitEnd::WouldDeadlock) => Err(RecvError::WouldDeadlock),
            Err(WaitEnd::SessionEnd(over)) => Err(over.as_recv()),
        }
    }

    /// Takes what is there until it is the answer to `wanted` (or any answer, if `None`); other
    /// answers are set aside, late ones dropped.
    ///
    /// At most [`LOOK_MOST`] messages, so that a server that floods its client with what leads
    /// nowhere cannot keep it from its deadline. [`Self::wait`] goes on as long as something is
    /// there.
    #[inline(always)]
    pub(super) fn look(&mut self, wanted: Option<CallId>) -> Result<Option<Head>, SessionEnd> {
        for _ in 0..LOOK_MOST {
            match self.take_next()? {
                Taken::Nothing => return Ok(None),
                Taken::Answer(head) => {
                    if wanted.is_none_or(|wanted| wanted.0 == head.call) {
                        return Ok(Some(head));
                    }
                    self.set_aside(head);
                }
                Taken::Partial | Taken::Other => {}
            }
        }
        Ok(None)
    }

    /// Takes the next message or fragment. An answer is for the caller to hand out or to set aside;
    /// anything else is put where it belongs.
    #[inline(always)]
    pub(super) fn take_next(&mut self) -> Result<Taken, SessionEnd> {
        let head = match self.session.receive(&mut self.buffer)? {
            Received::Nothing => return Ok(Taken::Nothing),
            Received::Partial => return Ok(Taken::Partial),
            // A deadline is nothing to a client.
            Received::Message(head) | Received::Until(head, _) => head,
            Received::Refused(head) => return Err(PeerFault::UnknownCall(head.call).into()),
        };
        Ok(if self.accept(head)? { Taken::Answer(head) } else { Taken::Other })
    }

    /// Whether a message is an answer that somebody wants. What belongs to streams and events is
    /// put there.
    #[inline(always)]
    pub(super) fn accept(&mut self, head: Head) -> Result<bool, SessionEnd> {
        self.tell_answered(head.call);
        match head.kind() {
            Kind::Response if self.streams.is_empty() => {}
            Kind::Error if self.streams.is_empty() => self.session.counts.errors += 1,
            Kind::Goodbye => return Err(SessionEnd::of_goodbye(head.code())),
            Kind::Pong => {
                self.last_pong = head.call;
                return Ok(false);
            }
            _ => return self.accept_other(head),
        }
        match self.calls.end(head.call) {
            Some(Waiting::Wanted) => Ok(true),
            Some(Waiting::Abandoned) => {
                self.session.counts.late_answers += 1;
                Ok(false)
            }
            None => Err(PeerFault::UnknownCall(head.call).into()),
        }
    }

    /// As [`Self::drain`], of a socket that nobody has asked the kernel about.
    pub(super) fn drain_now(&mut self) -> Result<(), SessionEnd> {
        self.session.ready(Readiness::UNKNOWN);
        self.drain()?;
        if self.session.has_ended() { Err(SessionEnd::Disconnected) } else { Ok(()) }
    }

    /// As [`Self::drain_now`], until `done` or all is taken in that was there at the beginning.
    pub(super) fn drain_all(&mut self, done: impl Fn(&Self) -> bool) -> Result<(), SessionEnd> {
        let mut extent = None;
        loop {
            self.drain_now()?;
            if done(self) || !self.is_left(&mut extent) {
                return Ok(());
            }
        }
    }

    /// Takes in what is there for a caller who does not depend on all of it: at most [`LOOK_MOST`]
    /// messages, of which answers are set aside; and no more after an item, while much is held.
    pub(super) fn drain(&mut self) -> Result<(), SessionEnd> {
        for _ in 0..LOOK_MOST {
            match self.take_next()? {
                Taken::Nothing => return Ok(()),
                Taken::Answer(head) => self.set_aside(head),
                Taken::Other if self.holds_much() => return Ok(()),
                Taken::Partial | Taken::Other => {}
            }
        }
        Ok(())
    }

    /// Takes in what has come and looks for something among it. What came before the session ended
    /// is still good. While much is held no more is taken in than leads to it.
    pub(super) fn drain_for<T>(
        &mut self,
        mut find: impl FnMut(&mut Self) -> Option<T>,
    ) -> Result<Option<T>, SessionEnd> {
        for _ in 0..LOOK_MOST {
            match self.take_next() {
                Ok(Taken::Nothing) => break,
                Ok(Taken::Partial) => {}
                Ok(Taken::Answer(head)) => self.set_aside(head),
                Ok(Taken::Other) => {
                    if (self.holds_much() || self.events.is_full())
                        && let Some(found) = find(self)
                    {
                        return Ok(Some(found));
                    }
                }
                Err(over) => {
                    let found = find(self).ok_or(over)?;
                    self.fail(over);
                    return Ok(Some(found));
                }
            }
        }
        Ok(find(self))
    }

    /// Whether something is left of what was there when this was asked first, with `None`. What
    /// comes later does not count, so that a search ends although the server goes on sending.
    #[inline]
    pub(crate) fn is_left(&self, extent: &mut Option<Extent>) -> bool {
        self.session.has_pending() && self.has_got_on(extent)
    }

    #[cold]
    fn has_got_on(&self, extent: &mut Option<Extent>) -> bool {
        let read = self.session.bytes_read();
        let Some(extent) = extent else {
            let end = read.saturating_add(self.session.most_bytes_there());
            *extent = Some(Extent { read, end });
            return true;
        };
        // A hostile server may show a message and take it back: then nothing was read.
        let got_on = std::mem::replace(&mut extent.read, read) != read;
        got_on && read < extent.end
    }

    /// The answer to `call`, if it was set aside. That may have happened before anything waited for
    /// it: while the rest of its request, or another message, was pushed out.
    #[inline]
    pub(super) fn take_aside(&mut self, call: CallId) -> Option<Head> {
        if self.set_aside.is_empty() { None } else { self.find_aside(call) }
    }

    #[cold]
    fn find_aside(&mut self, call: CallId) -> Option<Head> {
        let at = self.set_aside.iter().position(|answer| answer.head.call == call.0)?;
        let answer = self.set_aside.remove(at)?;
        Some(self.take_up(answer))
    }

    fn take_up(&mut self, answer: SetAside) -> Head {
        self.let_go(answer.payload.capacity());
        self.buffer = answer.payload;
        answer.head
    }

    pub(super) fn set_aside(&mut self, mut head: Head) {
        let mut payload = self.take_buffer();
        if !self.hold_answer(payload.capacity()) {
            head = Head::error(code::NOT_KEPT, head.call);
            payload = Vec::new();
        }
        self.set_aside.push_back(SetAside { head, payload });
        self.session.counts.stash_peak =
            self.session.counts.stash_peak.max(self.set_aside.len() as u64);
    }

    #[inline]
    pub(super) fn outcome(head: Head, payload: &[u8]) -> Result<Response<'_>, RemoteError> {
        if head.kind() != Kind::Response {
            return Err(RemoteError::of(head, payload));
        }
        Ok(Response { call: CallId(head.call), payload })
    }
}
