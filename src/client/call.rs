//! Calls: a request, and the wait for its answer.

use super::calls::CallId;
use super::error::{CallError, RemoteError, SessionEnd, WaitEnd};
use super::view::{Shown, View, ViewOf};
use super::{Client, Response};
use crate::base::clock::Deadline;
use crate::link::session::Head;
use crate::memory::layout::{Interest, Kind};
use crate::protocol::ring::Record;
use crate::trace;
use std::time::{Duration, Instant};

/// An answer that is to be shown.
enum Found {
    /// In the client's buffer.
    Taken(Head),
    /// Where it lies.
    InRing(Record),
}

impl Client {
    /// Sends a request and waits for its answer, for ever.
    ///
    /// # Errors
    /// [`CallError`]; the answer of the server may itself be one.
    #[inline]
    pub fn call(&mut self, request: &[u8]) -> Result<Response<'_>, CallError> {
        self.call_until(request, Deadline::Never)
    }

    /// Sends a request and waits for its answer, `timeout` long: `None` waits for ever, zero does
    /// not wait.
    ///
    /// After [`CallError::TimedOut`] the session goes on; an answer that still comes is dropped.
    ///
    /// # Errors
    /// As [`Self::call`], and [`CallError::TimedOut`].
    #[inline]
    pub fn call_timeout(
        &mut self,
        request: &[u8],
        timeout: Option<Duration>,
    ) -> Result<Response<'_>, CallError> {
        self.call_until(request, Deadline::after(timeout))
    }

    /// Sends a request and waits for its answer until `deadline`; `None` waits for ever.
    ///
    /// # Errors
    /// As [`Self::call_timeout`].
    pub fn call_deadline(
        &mut self,
        request: &[u8],
        deadline: Option<Instant>,
    ) -> Result<Response<'_>, CallError> {
        self.call_until(request, Deadline::at(deadline))
    }

    /// Sends a request and replaces the content of `response` with the answer; its length in bytes.
    ///
    /// # Errors
    /// As [`Self::call_timeout`].
    pub fn call_into(
        &mut self,
        request: &[u8],
        response: &mut Vec<u8>,
        timeout: Option<Duration>,
    ) -> Result<usize, CallError> {
        let mut deadline = Deadline::after(timeout);
        if trace::wants_calls() {
            let answer = self.call_until(request, deadline)?.payload;
            response.clear();
            response.extend_from_slice(answer);
            return Ok(response.len());
        }
        let call = self.send_timed(request, &mut deadline)?;
        // The buffers change places, so the answer is copied out of the ring once.
        std::mem::swap(&mut self.buffer, response);
        let result = self.answer_to(call, deadline).map(|response| response.len());
        std::mem::swap(&mut self.buffer, response);
        result
    }

    /// Sends a request and shows the answer to `look` where it lies, if it lies in one piece.
    ///
    /// # Errors
    /// As [`Self::call_timeout`].
    pub fn call_view<R>(
        &mut self,
        request: &[u8],
        timeout: Option<Duration>,
        look: impl FnOnce(View<'_>) -> R,
    ) -> Result<R, CallError> {
        let mut deadline = Deadline::after(timeout);
        if self.session.is_socket() {
            let response = self.call_until(request, deadline)?;
            let seen = look(View(ViewOf::Private(response.payload)));
            return self.unless_forked(seen);
        }
        if !trace::wants_calls() {
            let call = self.send_timed(request, &mut deadline)?;
            return self.show_answer(call, deadline, look);
        }
        let span = trace::call(self.server_info.session, request.len());
        let mut len = 0;
        let result = span.inside(|| {
            let call = self.send_timed(request, &mut deadline)?;
            span.sent(call.0);
            self.show_answer(call, deadline, |view| {
                len = view.len();
                look(view)
            })
        });
        span.answered(result.as_ref().map(|_| len).map_err(CallError::name));
        result
    }

    pub(super) fn show_answer<R>(
        &mut self,
        call: CallId,
        mut deadline: Deadline,
        look: impl FnOnce(View<'_>) -> R,
    ) -> Result<R, CallError> {
        let aside = self.take_aside(call);
        let waited = self.wait(&mut deadline, Interest::DATA, |client| {
            if let Some(head) = aside {
                return Ok(Some(Found::Taken(head)));
            }
            // It is looked at once: a server that changes it afterwards changes nothing here.
            if let Some(record) = client.peek(call)? {
                return Ok(Some(Found::InRing(record)));
            }
            Ok(client.look(Some(call))?.map(Found::Taken))
        });
        match waited {
            Err(end) => Err(self.call_failed(call, end)),
            // It came in pieces, behind other messages, or after the look at the ring, and so was
            // taken.
            Ok(Found::Taken(head)) if head.kind() == Kind::Response => {
                let seen = look(View(ViewOf::Private(&self.buffer)));
                self.unless_forked(seen)
            }
            Ok(Found::Taken(head)) => Err(self.refused(head)),
            Ok(Found::InRing(record)) => {
                self.tell_answered(call.0);
                self.calls.end(call.0);
                let shown =
                    Shown { session: &mut self.session, record: Some(record), origin: self.origin };
                let (Some(record), Some(ring)) = (shown.record.as_ref(), shown.session.incoming())
                else {
                    unreachable!("records lie in rings")
                };
                let seen = look(View(ViewOf::Ring(ring, record)));
                drop(shown);
                self.unless_forked(seen)
            }
        }
    }

    /// What was made of an answer, unless the process forked meanwhile and this is the child.
    pub(super) fn unless_forked<R>(&self, seen: R) -> Result<R, CallError> {
        if self.origin.is_here() { Ok(seen) } else { Err(CallError::Forked) }
    }

    /// The response to `call`, if it is the next message and lies in one piece.
    pub(super) fn peek(&mut self, call: CallId) -> Result<Option<Record>, SessionEnd> {
        let Some((head, record)) = self.session.peek()? else { return Ok(None) };
        let is_it = head.call == call.0
            && head.kind() == Kind::Response
            && self.calls.state(call.0).is_some();
        Ok(is_it.then_some(record))
    }

    #[inline(always)]
    pub(super) fn call_until(
        &mut self,
        request: &[u8],
        mut deadline: Deadline,
    ) -> Result<Response<'_>, CallError> {
        if trace::wants_calls() {
            return self.call_traced(request, deadline);
        }
        let call = self.send_timed(request, &mut deadline)?;
        self.answer_to(call, deadline)
    }

    #[cold]
    #[inline(never)]
    pub(super) fn call_traced(
        &mut self,
        request: &[u8],
        mut deadline: Deadline,
    ) -> Result<Response<'_>, CallError> {
        let span = trace::call(self.server_info.session, request.len());
        let result = span.inside(|| {
            let call = self.send_timed(request, &mut deadline)?;
            span.sent(call.0);
            self.answer_to(call, deadline)
        });
        span.answered(
            result.as_ref().map(|response| response.payload.len()).map_err(CallError::name),
        );
        result
    }

    #[inline(always)]
    pub(super) fn answer_to(
        &mut self,
        call: CallId,
        mut deadline: Deadline,
    ) -> Result<Response<'_>, CallError> {
        let head = match self.take_aside(call) {
            Some(head) => head,
            None => {
                match self.wait(&mut deadline, Interest::DATA, |client| client.look(Some(call))) {
                    Ok(head) => head,
                    Err(end) => return Err(self.call_failed(call, end)),
                }
            }
        };
        if head.kind() != Kind::Response {
            return Err(self.refused(head));
        }
        Ok(Response { call, payload: &self.buffer })
    }

    /// What an answer that is no response means to a caller.
    #[cold]
    pub(super) fn refused(&mut self, head: Head) -> CallError {
        let error = CallError::of(RemoteError::of(head, &self.buffer));
        if matches!(error, CallError::TimedOut { .. }) {
            self.session.counts.timeouts += 1;
        }
        error
    }

    #[cold]
    pub(super) fn call_failed(&mut self, call: CallId, end: WaitEnd) -> CallError {
        match end {
            WaitEnd::TimedOut => {
                self.abandon(call);
                self.cancel(call);
                self.session.counts.timeouts += 1;
                CallError::TimedOut { maybe_executed: true }
            }
            WaitEnd::WouldDeadlock => {
                self.abandon(call);
                self.cancel(call);
                CallError::WouldDeadlock
            }
            WaitEnd::SessionEnd(over) => over.as_call(true),
        }
    }
}
