//! Answers that come in several items, and events that belong to no call. Both arrive among the
//! answers, and are kept until they are asked for: items within the window that the client grants,
//! events up to a limit.

use super::Client;
use super::error::{CallError, RemoteError, SendError, SessionEnd, WOULD_DEADLOCK, WaitEnd};
use crate::base::clock::Deadline;
use crate::base::clock::coarse_ns;
use crate::client::calls::{CallId, Waiting};
use crate::link::session::{Head, PeerFault};
use crate::memory::layout::{Interest, Kind, STREAM_WINDOW};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// A reader that takes items more slowly than half a window in this time grants one by one.
const GRANT_NS: u64 = 20_000_000;
/// A reader whose window is made smaller grants one item in this time all the same: the server must
/// not take it for one that has stopped.
const STALL_NS: u64 = 100_000_000;

/// One streamed answer.
#[derive(Debug)]
struct Incoming {
    items: VecDeque<Vec<u8>>,
    /// Of the items, by capacity.
    bytes: usize,
    /// Items that the server may have sent, or may yet, and that were not granted anew: those that
    /// were taken included.
    window: u16,
    /// Items of these that were taken.
    taken: u16,
    /// Of those, in bytes.
    taken_bytes: usize,
    /// When items were granted last, or the first one was taken: coarse ns, 0 before that.
    granted_ns: u64,
    end: Option<Result<(), RemoteError>>,
}

impl Default for Incoming {
    fn default() -> Self {
        Self {
            items: VecDeque::new(),
            bytes: 0,
            window: STREAM_WINDOW,
            taken: 0,
            taken_bytes: 0,
            granted_ns: 0,
            end: None,
        }
    }
}

/// The streamed answers of one client that are not over, or not asked for to their end.
#[derive(Debug, Default)]
pub(super) struct Streams {
    of_calls: HashMap<u64, Incoming>,
    /// How many of them have not ended.
    open: usize,
    /// Of which something came, for a driver that asks.
    pub(super) news: Option<Vec<u64>>,
}

impl Streams {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.of_calls.is_empty()
    }

    /// A stream was asked for to its end.
    pub(super) fn forget(&mut self, call: CallId) {
        self.of_calls.remove(&call.as_u64());
    }

    /// Nobody wants a stream any more; what it was.
    pub(super) fn discard(&mut self, call: CallId) -> Option<Discarded> {
        let stream = self.of_calls.remove(&call.as_u64())?;
        let was_open = stream.end.is_none();
        self.open -= usize::from(was_open);
        Some(Discarded { was_open, bytes: stream.bytes })
    }

    /// Drops the items of a stream, and ends it with an error; what it was.
    pub(super) fn cut(&mut self, call: CallId, end: RemoteError) -> Option<Discarded> {
        let discarded = self.discard(call)?;
        let stream = Incoming { end: Some(Err(end)), ..Incoming::default() };
        self.of_calls.insert(call.as_u64(), stream);
        if let Some(news) = &mut self.news {
            news.push(call.as_u64());
        }
        Some(discarded)
    }

    /// Whether it is a stream of which something came: no call that waits for its answer.
    pub(super) fn has_moved(&self, call: CallId) -> bool {
        let moved = |stream: &Incoming| !stream.items.is_empty() || stream.granted_ns != 0;
        self.of_calls.get(&call.as_u64()).is_some_and(moved)
    }

    /// The stream that holds most, if one holds anything.
    pub(super) fn largest(&self) -> Option<CallId> {
        let held = self.of_calls.iter().filter(|(_, stream)| stream.bytes > 0);
        held.max_by_key(|(_, stream)| stream.bytes).map(|(call, _)| CallId(*call))
    }

    /// Streams that have not ended.
    pub(super) fn open(&self) -> usize {
        self.open
    }
}

/// What a stream was that is no longer wanted.
pub(super) struct Discarded {
    /// The server has not ended it.
    pub(super) was_open: bool,
    /// What it held.
    pub(super) bytes: usize,
}

/// Events that were not asked for yet.
#[derive(Debug)]
pub(super) struct Events {
    pub(super) kept: VecDeque<Vec<u8>>,
    /// By capacity.
    pub(super) bytes: usize,
    most: usize,
    pub(super) missed: u64,
}

impl Events {
    pub(super) fn new(most: usize) -> Self {
        Self { kept: VecDeque::new(), bytes: 0, most, missed: 0 }
    }

    pub(super) fn add(&mut self, event: Vec<u8>) {
        self.bytes += event.capacity();
        self.kept.push_back(event);
    }

    /// Drops the oldest, unless there are few enough and they have at most so many bytes. The last
    /// one stays.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        while self.kept.len() > self.most || (self.bytes > bytes && self.kept.len() > 1) {
            self.bytes -= self.kept.pop_front().map_or(0, |event| event.capacity());
            self.missed += 1;
        }
    }

    /// Whether one more would have the oldest dropped, for their number.
    pub(super) fn is_full(&self) -> bool {
        self.kept.len() >= self.most
    }

    /// Forgets what was not asked for.
    pub(super) fn clear(&mut self) {
        if !self.kept.is_empty() {
            self.kept.clear();
            self.bytes = 0;
        }
        self.missed = 0;
    }

    pub(super) fn next(&mut self) -> Option<Result<Vec<u8>, u64>> {
        match std::mem::take(&mut self.missed) {
            0 => {
                let event = self.kept.pop_front()?;
                self.bytes -= event.capacity();
                Some(Ok(event))
            }
            missed => Some(Err(missed)),
        }
    }
}

/// Why there is no event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventError {
    /// None came in time.
    TimedOut,
    /// The oldest events were dropped, since more came than were asked for
    /// ([`ConnectOptions::max_events`](crate::ConnectOptions::max_events)). Said once; later events
    /// follow.
    Missed {
        /// How many.
        events: u64,
    },
    /// The server is gone.
    Disconnected,
    /// The server has shut down.
    ShutDown,
    /// The server broke the protocol; the session is over.
    PeerFault(PeerFault),
    /// This thread runs a handler of the server that it would wait for, and nobody else could push
    /// (see [`Server`](crate::Server)).
    WouldDeadlock,
    /// This process is a fork of the one that connected.
    Forked,
}

impl std::fmt::Display for EventError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TimedOut => f.write_str("no event in time"),
            Self::Missed { events } => {
                write!(f, "{events} events were dropped, which nobody had asked for")
            }
            Self::Disconnected => f.write_str("the server is gone"),
            Self::ShutDown => f.write_str("the server has shut down"),
            Self::PeerFault(fault) => fault.fmt(f),
            Self::WouldDeadlock => f.write_str(WOULD_DEADLOCK),
            Self::Forked => f.write_str("the session belongs to the parent process"),
        }
    }
}

impl std::error::Error for EventError {}

impl From<SessionEnd> for EventError {
    fn from(over: SessionEnd) -> Self {
        match over {
            SessionEnd::Disconnected => Self::Disconnected,
            SessionEnd::ShutDown => Self::ShutDown,
            SessionEnd::PeerFault(fault) => Self::PeerFault(fault),
            SessionEnd::Forked => Self::Forked,
        }
    }
}

/// A streamed answer, item by item. Dropping it before its end cancels the call.
#[derive(Debug)]
pub struct Stream<'a> {
    client: &'a mut Client,
    call: CallId,
    item: Vec<u8>,
}

impl Stream<'_> {
    /// The call that this answers.
    pub fn call(&self) -> CallId {
        self.call
    }

    /// The next item; `None` at the end. Waits at most `timeout`: `None` waits for ever, zero does
    /// not wait.
    ///
    /// # Errors
    /// As [`Client::next_item`].
    pub fn next(&mut self, timeout: Option<Duration>) -> Result<Option<&[u8]>, CallError> {
        let there = self.client.next_item(self.call, &mut self.item, timeout)?;
        Ok(there.then_some(&self.item[..]))
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        self.client.close_stream(self.call);
    }
}

/// Events, one after the other; ends with the session.
#[derive(Debug)]
pub struct EventIter<'a> {
    client: &'a mut Client,
    over: bool,
}

impl Iterator for EventIter<'_> {
    type Item = Result<Vec<u8>, EventError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let event = self.client.next_event(None);
        self.over = !matches!(event, Ok(_) | Err(EventError::Missed { .. }));
        Some(event)
    }
}

impl Client {
    /// Sends a request whose answer comes in items. Waits for room as long as it takes.
    ///
    /// A server that answers with one response instead makes a stream of one item.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn call_stream(&mut self, request: &[u8]) -> Result<Stream<'_>, SendError> {
        let call = self.open_stream(request, None)?;
        Ok(Stream { client: self, call, item: Vec::new() })
    }

    /// As [`Self::call_stream`], for several streams and calls at a time: items are had by
    /// [`Self::next_item`]. Waits for room at most `timeout`: `None` waits for ever, zero does not
    /// wait.
    ///
    /// # Errors
    /// As [`Self::send_timeout`].
    pub fn open_stream(
        &mut self,
        request: &[u8],
        timeout: Option<Duration>,
    ) -> Result<CallId, SendError> {
        let mut deadline = Deadline::after(timeout);
        let call = self.begin_request(request)?;
        // Before anything is sent: items may come while the rest is pushed out.
        self.opened(call);
        if let Err(error) = self.post_begun(call, request, 0, &mut deadline) {
            self.discard_stream(call);
            return Err(error);
        }
        self.session.flush();
        if self.session.has_unsent() {
            self.push_out(&mut deadline);
        }
        Ok(call)
    }

    /// Forgets a stream and what it holds; whether the server has not ended it.
    pub(super) fn discard_stream(&mut self, call: CallId) -> bool {
        let Some(discarded) = self.streams.discard(call) else { return false };
        self.let_go(discarded.bytes);
        discarded.was_open
    }

    pub(super) fn opened(&mut self, call: CallId) {
        self.streams.of_calls.insert(call.as_u64(), Incoming::default());
        self.streams.open += 1;
    }

    /// Replaces the content of `item` with the next item of a stream; false at its end, after which
    /// the stream is closed. Waits at most `timeout`: `None` waits for ever, zero does not wait.
    /// Answers of other calls that arrive meanwhile are set aside.
    ///
    /// # Errors
    /// [`CallError::TimedOut`] with `maybe_executed` if no item came in time: the stream goes on.
    /// Every other error ends it. They are those of [`Self::call_timeout`]: a server that refuses
    /// the request since its deadline has passed, or since it shuts down, is
    /// [`CallError::TimedOut`] without `maybe_executed`, or [`CallError::ShutDown`].
    /// [`CallError::NotAStream`] if there is no such stream.
    pub fn next_item(
        &mut self,
        call: CallId,
        item: &mut Vec<u8>,
        timeout: Option<Duration>,
    ) -> Result<bool, CallError> {
        if !self.origin.is_here() {
            return Err(CallError::Forked);
        }
        let waited = match self.next_kept(call)? {
            Some(next) => Ok(next),
            None => match self.usable() {
                Err(over) => Err(WaitEnd::SessionEnd(over)),
                Ok(()) => self.wait(&mut Deadline::after(timeout), Interest::DATA, |client| {
                    client.drain_for(|client| client.next_kept(call).ok().flatten())
                }),
            },
        };
        match waited {
            Ok(Next::Item(next)) => {
                *item = next;
                self.grant(call);
                Ok(true)
            }
            Ok(Next::End(end)) => self.ended(call, end).map(|()| false),
            Err(WaitEnd::TimedOut) => {
                // Who only looks has not waited in vain.
                self.session.counts.timeouts += u64::from(timeout != Some(Duration::ZERO));
                Err(CallError::TimedOut { maybe_executed: true })
            }
            Err(WaitEnd::WouldDeadlock) => Err(CallError::WouldDeadlock),
            Err(WaitEnd::SessionEnd(over)) => Err(over.as_call(true)),
        }
    }

    /// A stream was asked for to its end. An error means what it does as the answer to a call.
    pub(super) fn ended(
        &mut self,
        call: CallId,
        end: Result<(), RemoteError>,
    ) -> Result<(), CallError> {
        self.streams.forget(call);
        let end = end.map_err(CallError::of);
        self.session.counts.timeouts += u64::from(matches!(end, Err(CallError::TimedOut { .. })));
        end
    }

    pub(super) fn next_kept(&mut self, call: CallId) -> Result<Option<Next>, CallError> {
        let stream = self.streams.of_calls.get_mut(&call.as_u64()).ok_or(CallError::NotAStream)?;
        let next = stream.next();
        if let Some(Next::Item(item)) = &next {
            self.let_go(item.capacity());
        }
        Ok(next)
    }

    /// Gives up a stream: the server is told, and items that still come are dropped. Nothing
    /// happens if it has ended.
    pub fn close_stream(&mut self, call: CallId) {
        if self.discard_stream(call) {
            self.abandon(call);
            if self.usable().is_ok() {
                self.cancel(call);
            }
        }
    }

    /// Lets the server send more items once half of the window was taken; and once in a while, so
    /// that a slow reader is not taken for one that has stopped.
    ///
    /// A window of large items may be more than the client may hold, and would be dropped while it
    /// waits for something else: fewer are granted then, so that the streams that are open take up
    /// one half of that.
    pub(super) fn grant(&mut self, call: CallId) {
        let share = self.max_held / 2 / self.streams.open.max(1);
        let Some(stream) = self.streams.of_calls.get_mut(&call.as_u64()) else { return };
        let now = coarse_ns();
        if stream.granted_ns == 0 {
            stream.granted_ns = now;
        }
        let is_due = now.saturating_sub(stream.granted_ns) >= GRANT_NS && stream.taken > 0;
        if stream.taken < stream.window / 2 && !is_due
            || stream.end.is_some()
            || self.over.is_some()
            || !self.origin.is_here()
        {
            return;
        }
        let is_overdue = now.saturating_sub(stream.granted_ns) >= STALL_NS;
        let granted = stream.grants(share, is_overdue);
        if granted == 0 {
            return;
        }
        stream.granted_ns = now;
        let credit = |items| Head::with_code(Kind::Credit, items, call.as_u64());
        // A server that reads nothing, and sends items all the same, must not make a queue of
        // these.
        let mut unsent = self.unsent_control.iter_mut();
        let one = unsent.find(|head| head.kind() == Kind::Credit && head.call == call.as_u64());
        match one {
            Some(one) => *one = credit(one.code().saturating_add(granted)),
            None => self.tell(credit(granted)),
        }
    }

    /// The next event that the server pushed. Waits at most `timeout`: `None` waits for ever, zero
    /// does not wait. Answers that arrive meanwhile are set aside.
    ///
    /// # Errors
    /// [`EventError`].
    pub fn next_event(&mut self, timeout: Option<Duration>) -> Result<Vec<u8>, EventError> {
        if !self.origin.is_here() {
            return Err(EventError::Forked);
        }
        let next = match self.events.next() {
            Some(next) => next,
            None => {
                self.usable()?;
                let waited = self.wait(&mut Deadline::after(timeout), Interest::DATA, |client| {
                    client.drain_for(|client| client.events.next())
                });
                match waited {
                    Ok(next) => next,
                    Err(WaitEnd::TimedOut) => return Err(EventError::TimedOut),
                    Err(WaitEnd::WouldDeadlock) => return Err(EventError::WouldDeadlock),
                    Err(WaitEnd::SessionEnd(over)) => return Err(over.into()),
                }
            }
        };
        next.map_err(|events| EventError::Missed { events })
    }

    /// All events that the server pushes, until the session is over. Waits for each as long as it
    /// takes.
    pub fn events(&mut self) -> EventIter<'_> {
        EventIter { client: self, over: false }
    }

    /// Takes in what is no plain answer. Whether it is an answer (an error, for a call that is no
    /// stream) all the same.
    #[cold]
    pub(super) fn accept_other(&mut self, head: Head) -> Result<bool, SessionEnd> {
        self.has_kept = true;
        let call = head.call;
        let kind = head.kind();
        match kind {
            Kind::Event => {
                self.keep_event();
                return Ok(false);
            }
            Kind::StreamItem | Kind::StreamEnd | Kind::Response | Kind::Error => {}
            kind => return Err(PeerFault::UnexpectedKind(kind).into()),
        }
        if kind == Kind::Error {
            self.session.counts.errors += 1;
        }
        let state = self.calls.state(call).ok_or(PeerFault::UnknownCall(call))?;
        if state == Waiting::Wanted && self.streams.of_calls.contains_key(&call) {
            self.accept_for_stream(head)?;
            return Ok(false);
        }
        match (state, kind) {
            (Waiting::Abandoned, Kind::StreamItem) => Ok(false),
            (Waiting::Abandoned, _) => {
                self.calls.end(call);
                self.session.counts.late_answers += 1;
                Ok(false)
            }
            (Waiting::Wanted, Kind::StreamItem) => {
                // The answer is a stream, which this caller did not ask for.
                self.abandon(CallId(call));
                self.cancel(CallId(call));
                Ok(true)
            }
            (Waiting::Wanted, _) => {
                self.calls.end(call);
                self.one_less_in_flight();
                Ok(true)
            }
        }
    }

    /// Takes in an item of a stream, its end, or both: a response is the one item of its stream.
    fn accept_for_stream(&mut self, head: Head) -> Result<(), SessionEnd> {
        let (call, kind) = (head.call, head.kind());
        if let Some(news) = &mut self.streams.news {
            news.push(call);
        }
        if matches!(kind, Kind::StreamItem | Kind::Response) {
            let items = self.streams.of_calls.get(&call).map_or(0, |stream| stream.items.len());
            if kind == Kind::StreamItem && items >= STREAM_WINDOW.into() {
                return Err(PeerFault::TooManyItems(call).into());
            }
            self.keep_item(CallId(call));
        }
        if kind == Kind::StreamItem {
            return Ok(());
        }
        self.calls.end(call);
        self.one_less_in_flight();
        let Self { streams: Streams { of_calls, open, .. }, buffer, .. } = self;
        // Unless it was given up just now, for want of room.
        if let Some(stream) = of_calls.get_mut(&call).filter(|stream| stream.end.is_none()) {
            stream.end = Some(match kind {
                Kind::Error => Err(RemoteError::of(head, buffer)),
                _ => Ok(()),
            });
            *open -= 1;
        }
        Ok(())
    }

    /// Keeps the item that was received last for its stream, which may be given up for it.
    fn keep_item(&mut self, call: CallId) {
        let item = self.take_buffer();
        let bytes = item.capacity();
        let held = self.hold(bytes);
        if !held {
            self.cut(call);
        }
        let stream = self.streams.of_calls.get_mut(&call.as_u64());
        match stream.filter(|stream| held && stream.end.is_none()) {
            Some(stream) => {
                stream.items.push_back(item);
                stream.bytes += bytes;
            }
            None if held => self.let_go(bytes),
            None => {}
        }
    }
}

/// What a stream has next.
pub(super) enum Next {
    Item(Vec<u8>),
    End(Result<(), RemoteError>),
}

impl Incoming {
    /// How many items are granted now: as many as keep the window at so many bytes, going by the
    /// size of those that were taken since the last time. One may always be on its way.
    fn grants(&mut self, share: usize, one_at_least: bool) -> u16 {
        let taken = std::mem::take(&mut self.taken);
        let average = std::mem::take(&mut self.taken_bytes) / usize::from(taken.max(1));
        let fit = u16::try_from(share / average.max(1)).unwrap_or(u16::MAX);
        let left = self.window.saturating_sub(taken);
        let least = if one_at_least { left.saturating_add(1) } else { left };
        self.window = least.max(fit.max(1)).min(STREAM_WINDOW);
        self.window - left
    }

    fn next(&mut self) -> Option<Next> {
        if let Some(item) = self.items.pop_front() {
            self.bytes -= item.capacity();
            self.taken = self.taken.saturating_add(1);
            self.taken_bytes = self.taken_bytes.saturating_add(item.len());
            return Some(Next::Item(item));
        }
        self.end.take().map(Next::End)
    }
}
