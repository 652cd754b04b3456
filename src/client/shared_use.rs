//! What a driver that serves many callers at once needs of a client: sending with the progress kept
//! outside, and handing out what has come. Nothing here waits, and nothing is set aside.

use super::receive::Taken;
use super::stream::Next;
use super::{CallError, Client, LOOK_MOST, RemoteError, SendError, SessionEnd};
use crate::base::clock::{Deadline, now_ns};
use crate::base::sync::spin_hint;
use crate::client::calls::CallId;
use crate::link::lifeline;
use crate::link::readiness::Readiness;
use crate::link::session::{Head, SendProgress, Sent};
use crate::memory::layout::Kind;
use crate::os::peer_socket::PeerSocket;
use crate::protocol::wait::{Step, WaitSettings, Waiter};
use crate::trace;
use rustix::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    Request,
    /// A request whose answer comes in items.
    Stream,
    OneWay,
}

/// A look-out that is to be made.
#[derive(Debug)]
#[must_use = "the waiting policy learns from what comes of it"]
pub(crate) struct LookOut {
    polls: u32,
}

/// A message on its way into the ring, which may take several attempts.
#[derive(Debug)]
pub(crate) struct Sending {
    sort: Sort,
    deadline_ns: u64,
    head: Option<Head>,
    progress: SendProgress,
}

impl Sending {
    pub(crate) fn new(sort: Sort) -> Self {
        Self { sort, deadline_ns: 0, head: None, progress: SendProgress::default() }
    }

    /// Whether there will be an answer.
    pub(crate) fn has_answer(&self) -> bool {
        self.sort != Sort::OneWay
    }

    /// Whether whoever sends it waits for one answer.
    pub(crate) fn is_request(&self) -> bool {
        matches!(self.sort, Sort::Request)
    }
}

impl CallId {
    /// Its slot: below the limit of calls in flight, and its alone until it is answered.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "one half of an id")]
    pub(crate) fn slot(self) -> usize {
        self.0 as u32 as usize
    }
}

impl Client {
    /// Lets the server know until when the caller waits, as [`Client::call_timeout`] does.
    pub(crate) fn wait_until(&self, sending: &mut Sending, timeout: Duration) {
        if self.send_deadlines && sending.deadline_ns == 0 {
            sending.deadline_ns = Deadline::In(timeout).fix();
        }
    }

    /// Sends a message, or goes on with it; `None` if there is no room yet, or too much in flight.
    /// While one message is on its way no other may be begun. Its call, 0 for a one-way message.
    ///
    /// `put_off`: [`Self::arm`] or [`Self::stay_awake`] follows soon, and writes this and others
    /// together.
    pub(crate) fn offer(
        &mut self,
        sending: &mut Sending,
        payload: &[u8],
        put_off: bool,
    ) -> Result<Option<CallId>, SendError> {
        self.usable().map_err(SessionEnd::as_send)?;
        if payload.len() > self.session.max_message() {
            return Err(SendError::TooLarge {
                len: payload.len(),
                max: self.session.max_message(),
            });
        }
        let head = match sending.head {
            Some(head) => head,
            None if sending.sort == Sort::OneWay => Head::new(Kind::OneWay, 0),
            None => match self.calls.begin() {
                Some(call) => {
                    if self.is_sampled() {
                        sending.progress = self.stamp(call.0);
                    }
                    if sending.sort == Sort::Stream {
                        // Items may come while the rest is sent.
                        self.opened(call);
                    }
                    Head::new(Kind::Request, call.0)
                }
                None => return Ok(None),
            },
        };
        sending.head = Some(head);
        let sent = self.session.post(head, sending.deadline_ns, payload, &mut sending.progress);
        if !put_off {
            self.session.flush();
        }
        match sent {
            Ok(Sent::Done) if self.session.is_broken() => {
                // Why, the pump finds out.
                self.withdraw(sending);
                Err(SendError::Disconnected)
            }
            Ok(Sent::Done) => {
                sending.head = None;
                Ok(Some(CallId(head.call)))
            }
            Ok(Sent::Full) => {
                self.wants_room = true;
                Ok(None)
            }
            Err(fault) => Err(self.fail(fault.into()).as_send()),
        }
    }

    /// Gives up a message that was not sent to its end. Its call, if it had begun.
    pub(crate) fn withdraw(&mut self, sending: &mut Sending) -> Option<CallId> {
        let head = sending.head.take()?;
        let call = CallId(head.call);
        self.forget_sample(head.call);
        self.discard_stream(call);
        self.calls.end(head.call);
        self.less_in_flight();
        if sending.progress.is_partial()
            && self.usable().is_ok()
            && let Err(fault) = self.session.abort(head)
        {
            self.fail(fault.into());
        }
        Some(call)
    }

    /// Whether a cancel, a credit or an abort waits for room: [`Client::arm`] sends them.
    pub(crate) fn owes(&self) -> bool {
        !self.unsent_control.is_empty() || self.session.owes_abort()
    }

    /// Calls that count towards the limit.
    pub(crate) fn taken(&self) -> usize {
        self.calls.in_flight()
    }

    /// Nobody wants the answer to a call any more.
    pub(crate) fn give_up(&mut self, call: CallId, timed_out: bool) {
        self.session.counts.timeouts += u64::from(timed_out);
        self.abandon(call);
        if self.usable().is_ok() {
            self.cancel(call);
        }
    }

    /// Takes in what has come, at most so much at a time, and hands out the answers, which count as
    /// held until [`Self::asked_for`] says otherwise. The rest is found by [`Client::arm`].
    ///
    /// # Errors
    /// The session is over, and everything that came before has been handed out.
    pub(crate) fn pump(
        &mut self,
        mut answered: impl FnMut(CallId, Result<Vec<u8>, CallError>),
    ) -> Result<(), SessionEnd> {
        self.usable()?;
        for _ in 0..LOOK_MOST {
            let head = match self.take_next() {
                Ok(Taken::Answer(head)) => head,
                Ok(Taken::Nothing) => break,
                // Whoever reads a stream takes items before more come.
                Ok(Taken::Other) if self.holds_much() => break,
                Ok(Taken::Partial | Taken::Other) => continue,
                Err(over) => return Err(self.fail(over)),
            };
            let outcome = match head.kind() {
                Kind::Response => {
                    let answer = self.take_buffer();
                    if self.hold_answer(answer.capacity()) {
                        Ok(answer)
                    } else {
                        Err(CallError::Remote(RemoteError::not_kept()))
                    }
                }
                _ => Err(CallError::of(RemoteError::of(head, &self.buffer))),
            };
            answered(CallId(head.call), outcome);
        }
        // The caller asks for what was kept, now.
        self.has_kept = false;
        if self.session.has_ended() {
            return Err(self.fail(SessionEnd::Disconnected));
        }
        match self.has_heard_the_end() {
            Some(over) => Err(self.fail(over)),
            None => Ok(()),
        }
    }

    /// An answer that was handed out is with the caller who wants it, or dropped.
    pub(crate) fn asked_for(&mut self, outcome: &Result<Vec<u8>, CallError>) {
        if let Ok(answer) = outcome {
            self.let_go(answer.capacity());
        }
    }

    /// The next item of a stream that has come; `Some(None)` for its end. Never looks for more.
    pub(crate) fn kept_item(&mut self, call: CallId) -> Result<Option<Option<Vec<u8>>>, CallError> {
        match self.next_kept(call)? {
            None => Ok(None),
            Some(Next::Item(item)) => {
                self.grant(call);
                Ok(Some(Some(item)))
            }
            Some(Next::End(end)) => self.ended(call, end).map(|()| Some(None)),
        }
    }

    /// The next event that has come, or how many were dropped.
    pub(crate) fn kept_event(&mut self) -> Option<Result<Vec<u8>, u64>> {
        self.events.next()
    }

    /// Whether [`Self::kept_event`] has something.
    pub(crate) fn has_event(&self) -> bool {
        !self.events.kept.is_empty() || self.events.missed != 0
    }

    /// From now on [`Self::news_of_streams`] has something to say.
    pub(crate) fn follow_streams(&mut self) {
        self.streams.news.get_or_insert_default();
    }

    /// The streams of which something came since this was asked last.
    pub(crate) fn news_of_streams(&mut self) -> Vec<u64> {
        self.streams.news.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// No longer armed, without a look at the lifeline: for a driver that goes on watching it.
    pub(crate) fn call_off(&mut self) {
        if !self.origin.is_here() {
            // The armed word is the parent's.
            return;
        }
        let Some(side) = &mut self.side else { return };
        if side.sleeper.is_armed_for_event() {
            side.sleeper.disarm();
        }
    }

    /// What is there is looked for, whatever the kernel has said of a socket.
    pub(crate) fn ask_the_kernel(&mut self) {
        self.session.ready(Readiness::UNKNOWN);
    }

    /// From now on it looks out and parks, and nothing between: whoever drives it has other things
    /// to do than to yield.
    pub(crate) fn never_yields(&mut self) {
        let settings = self.waiter.settings().clone();
        self.waiter =
            Waiter::new(WaitSettings { turn_every: 0, yield_for: Duration::ZERO, ..settings });
    }

    /// Whether it pays to look out for an answer without arming, as the waiting policy has learnt;
    /// then [`Self::look_out`] is to follow. Never for sockets, and never in a forked child.
    pub(crate) fn may_look_out(&mut self) -> Option<LookOut> {
        if self.session.is_socket() || !self.origin.is_here() {
            return None;
        }
        match self.waiter.step(self.surroundings(), now_ns) {
            Step::Spin(polls) => Some(LookOut { polls }),
            _ => {
                self.waiter.given_up();
                None
            }
        }
    }

    /// Nothing was looked out for after all.
    pub(crate) fn gives_up_looking(&mut self) {
        self.waiter.given_up();
    }

    /// Rings for what was published, and does not arm: somebody goes on looking. Whether there is
    /// room now for what found none.
    pub(crate) fn stay_awake(&mut self) -> bool {
        if let Err(fault) = self.session.retry_abort().and_then(|()| self.try_control()) {
            self.fail(fault.into());
            return true;
        }
        self.session.flush();
        self.look_for_room()
    }

    /// How far it has come, for tools that look at a client which never sleeps.
    pub(crate) fn show_tools(&mut self) {
        self.session.publish_head();
        self.note_oldest(now_ns);
        self.store_counts();
    }

    /// How many messages such as the one that last found no room there is room for now, more or
    /// less.
    pub(crate) fn room(&mut self) -> usize {
        let in_flight = self.max_in_flight.saturating_sub(self.calls.in_flight());
        usize::try_from(self.session.room()).unwrap_or(usize::MAX).min(in_flight)
    }

    /// Looks out for something to come: for microseconds. Whether something came.
    pub(crate) fn look_out(&mut self, LookOut { mut polls }: LookOut) -> bool {
        self.session.flush();
        let around = self.surroundings();
        loop {
            self.session.watch(polls, || {
                spin_hint();
                false
            });
            if self.session.has_pending() {
                self.waiter.found(now_ns);
                return true;
            }
            match self.waiter.step(around, now_ns) {
                Step::Spin(more) => polls = more,
                _ => break,
            }
        }
        self.waiter.given_up();
        false
    }

    /// The descriptor that is watched, and that of the server's process.
    pub(crate) fn descriptors(&self) -> (Arc<PeerSocket>, Option<std::io::Result<OwnedFd>>) {
        (
            self.session.shared_lifeline(),
            self.server_process().map(|process| process.try_clone_to_owned()),
        )
    }

    /// Whether the socket itself carries the session.
    pub(crate) fn is_socket(&self) -> bool {
        self.session.is_socket()
    }

    /// Says goodbye and ends the session, without waiting for a socket that takes no more.
    pub(crate) fn end_session(&mut self) {
        if !self.origin.is_here() || self.over.is_some() {
            return;
        }
        self.call_off();
        self.store_counts();
        self.session.flush();
        if self.session.is_socket() {
            let goodbye = Head::new(Kind::Goodbye, 0);
            let _ = self.session.send(goodbye, 0, &[], &mut SendProgress::default());
        } else {
            crate::link::session::send_byte(self.session.lifeline(), lifeline::GOODBYE);
        }
        // The descriptor stays open as long as somebody holds the client; what was sent is still
        // read.
        let _ = rustix::net::shutdown(self.session.lifeline(), rustix::net::Shutdown::Both);
        trace::client_left(self.server_info.tag(), "closed", self.in_flight());
        self.over = Some(SessionEnd::Disconnected);
    }
}
