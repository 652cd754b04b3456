//! What futures and the driver share.

use crate::client::Over;
use crate::client::pump::{LookOut, Sending};
use crate::sync::lock;
use crate::{CallError, CallId, Client, SendError};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

/// A session, and who waits for what of it.
#[derive(Debug)]
pub(super) struct Shared(Mutex<Core>);

#[derive(Debug)]
pub(super) struct Core {
    pub(super) client: Client,
    /// Why it is over.
    over: Option<Over>,
    /// Nobody holds it any more.
    abandoned: bool,
    /// The driver, unless it has been woken.
    driver: Option<Waker>,
    calls: HashMap<u64, Entry>,
    /// Who waits for room, in order. Only the first may send.
    queue: VecDeque<(u64, Waker)>,
    next_place: u64,
    items: HashMap<u64, Waker>,
    /// Streams of events that wait, by their numbers.
    events: HashMap<u64, Waker>,
    next_listener: u64,
}

#[derive(Debug)]
enum Entry {
    Waiting(Waker),
    Done(Result<Vec<u8>, CallError>),
}

/// Who is to be woken once the lock is given back.
#[derive(Debug, Default)]
pub(super) struct Wakes(Vec<Waker>);

impl Wakes {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What came of an attempt to send.
pub(super) enum Offered {
    Sent(CallId),
    /// There was no room; the place in the queue.
    Queued(u64),
}

impl Shared {
    pub(super) fn new(client: Client) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Core {
            client,
            over: None,
            abandoned: false,
            driver: None,
            calls: HashMap::new(),
            queue: VecDeque::new(),
            next_place: 0,
            items: HashMap::new(),
            events: HashMap::new(),
            next_listener: 0,
        })))
    }

    /// Does something under the lock, and wakes behind it.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Core, &mut Wakes) -> T) -> T {
        let mut wakes = Wakes::default();
        let result = work(&mut lock(&self.0), &mut wakes);
        for waker in wakes.0 {
            waker.wake();
        }
        result
    }
}

/// A session that somebody holds: with the last clone it is closed.
#[derive(Debug)]
pub(super) struct Handle(Arc<Shared>);

impl Handle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.0
    }

    pub(super) fn with<T>(&self, look: impl FnOnce(&mut Client) -> T) -> T {
        self.0.with(|core, _| look(&mut core.client))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.with(|core, wakes| {
            core.abandoned = true;
            core.wake_driver(wakes);
        });
    }
}

impl Core {
    /// Has the driver look, and arm again.
    pub(super) fn wake_driver(&mut self, wakes: &mut Wakes) {
        wakes.0.extend(self.driver.take());
    }

    /// The driver is about to look, and is woken by this from then on.
    pub(super) fn driven_by(&mut self, waker: &Waker) {
        self.driver = Some(waker.clone());
    }

    pub(super) fn over(&self) -> Option<Over> {
        self.over
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned
    }

    /// Whether nobody waits for an answer or an item.
    fn is_quiet(&self) -> bool {
        self.calls.is_empty() && self.queue.is_empty() && self.items.is_empty()
    }

    pub(super) fn has_calls(&self) -> bool {
        !self.calls.is_empty()
    }

    /// Sends, or goes on with what was begun. Only who is first in the queue may.
    pub(super) fn offer(
        &mut self,
        sending: &mut Sending,
        payload: &[u8],
        place: Option<u64>,
        waker: &Waker,
        wakes: &mut Wakes,
    ) -> Result<Offered, SendError> {
        if let Some(over) = self.over {
            return Err(over.as_send());
        }
        let first = self.queue.front().is_none_or(|(first, _)| Some(*first) == place);
        if first {
            match self.client.offer(sending, payload) {
                Ok(None) => {
                    // Armed for data at most: the driver has to arm for room.
                    self.wake_driver(wakes);
                }
                Ok(Some(call)) => {
                    self.leave_queue(place, wakes);
                    return Ok(Offered::Sent(call));
                }
                Err(error) => {
                    self.leave_queue(place, wakes);
                    // If the session is over, the driver tells everybody.
                    self.wake_driver(wakes);
                    return Err(error);
                }
            }
        }
        let found = place.and_then(|place| self.queue.iter_mut().find(|(there, _)| *there == place));
        if let Some((place, there)) = found {
            there.clone_from(waker);
            return Ok(Offered::Queued(*place));
        }
        let place = self.next_place;
        self.next_place += 1;
        self.queue.push_back((place, waker.clone()));
        Ok(Offered::Queued(place))
    }

    /// Gives up a place in the queue, and lets the next one try.
    pub(super) fn leave_queue(&mut self, place: Option<u64>, wakes: &mut Wakes) {
        let Some(index) = self.queue.iter().position(|(there, _)| Some(*there) == place) else { return };
        self.queue.remove(index);
        if index == 0 {
            self.wake_first(wakes);
        }
    }

    /// What was to be told and found no room, the driver tells.
    fn pay(&mut self, wakes: &mut Wakes) {
        if self.client.owes() {
            self.wake_driver(wakes);
        }
    }

    /// Gives up a message that was not sent to its end.
    pub(super) fn withdraw(&mut self, sending: &mut Sending, place: Option<u64>, wakes: &mut Wakes) {
        self.client.withdraw(sending);
        self.leave_queue(place, wakes);
        self.pay(wakes);
    }

    fn wake_first(&self, wakes: &mut Wakes) {
        wakes.0.extend(self.queue.front().map(|(_, waker)| waker.clone()));
    }

    /// A call that was sent waits from now on.
    pub(super) fn enter(&mut self, call: CallId, waker: &Waker) {
        self.calls.insert(call.as_u64(), Entry::Waiting(waker.clone()));
    }

    /// Whether a call that is sent now may look out for its answer. Then the client is not armed, and the driver will be
    /// woken by [`Self::looked_out`].
    pub(super) fn may_look_out(&mut self) -> Option<LookOut> {
        if !self.is_quiet() || self.over.is_some() {
            return None;
        }
        let may = self.client.may_look_out()?;
        self.client.call_off();
        Some(may)
    }

    /// Looks out for a while; afterwards the driver arms, in its own time.
    pub(super) fn look_out(&mut self, look_out: LookOut, wakes: &mut Wakes) {
        if self.client.look_out(look_out) {
            self.pump(wakes);
        }
        self.wake_driver(wakes);
    }

    /// The answer to a call, if it has come.
    pub(super) fn poll_answer(&mut self, call: CallId, waker: &Waker) -> Poll<Result<Vec<u8>, CallError>> {
        match self.calls.get_mut(&call.as_u64()) {
            Some(Entry::Waiting(there)) => {
                there.clone_from(waker);
                Poll::Pending
            }
            Some(Entry::Done(_)) => match self.calls.remove(&call.as_u64()) {
                Some(Entry::Done(outcome)) => Poll::Ready(outcome),
                _ => unreachable!("it was just there"),
            },
            None => unreachable!("a call is entered when it is sent, and leaves with its answer"),
        }
    }

    /// Nobody wants the answer any more.
    pub(super) fn give_up(&mut self, call: CallId, timed_out: bool, wakes: &mut Wakes) {
        if let Some(Entry::Waiting(_)) = self.calls.remove(&call.as_u64()) {
            self.client.give_up(call, timed_out);
            self.pay(wakes);
        }
    }

    /// The next item of a stream.
    pub(super) fn poll_item(
        &mut self,
        call: CallId,
        waker: &Waker,
        wakes: &mut Wakes,
    ) -> Poll<Option<Result<Vec<u8>, CallError>>> {
        let next = match self.client.kept_item(call) {
            Ok(Some(item)) => item.map(Ok),
            Ok(None) => match self.over {
                Some(over) => Some(Err(over.as_call(true))),
                None => {
                    self.items.insert(call.as_u64(), waker.clone());
                    return Poll::Pending;
                }
            },
            Err(error) => Some(Err(error)),
        };
        self.items.remove(&call.as_u64());
        self.pay(wakes);
        Poll::Ready(next)
    }

    pub(super) fn close_stream(&mut self, call: CallId, wakes: &mut Wakes) {
        self.items.remove(&call.as_u64());
        self.client.close_stream(call);
        self.pay(wakes);
    }

    /// A number for a stream of events.
    pub(super) fn new_listener(&mut self) -> u64 {
        self.next_listener += 1;
        self.next_listener
    }

    pub(super) fn forget_listener(&mut self, listener: u64, wakes: &mut Wakes) {
        self.events.remove(&listener);
        if self.client.has_event() {
            // It may have been the one that was woken for it.
            wakes.0.extend(self.events.drain().map(|(_, waker)| waker));
        }
    }

    /// The next event, or how many were dropped; `Err` if the session is over.
    pub(super) fn poll_event(
        &mut self,
        listener: u64,
        waker: &Waker,
    ) -> Poll<Result<Result<Vec<u8>, u64>, Over>> {
        match (self.client.kept_event(), self.over) {
            (Some(event), _) => Poll::Ready(Ok(event)),
            (None, Some(over)) => Poll::Ready(Err(over)),
            (None, None) => {
                self.events.entry(listener).or_insert_with(|| waker.clone()).clone_from(waker);
                Poll::Pending
            }
        }
    }

    /// Takes in what has come, and hands it out.
    pub(super) fn pump(&mut self, wakes: &mut Wakes) {
        if self.over.is_some() {
            return;
        }
        let Self { client, calls, .. } = self;
        let taken = client.taken();
        let pumped = client.pump(|call, outcome| {
            if let Some(entry) = calls.get_mut(&call)
                && let Entry::Waiting(waker) = std::mem::replace(entry, Entry::Done(outcome))
            {
                wakes.0.push(waker);
            }
        });
        for call in self.client.news_of_streams() {
            wakes.0.extend(self.items.remove(&call));
        }
        if self.client.has_event() {
            wakes.0.extend(self.events.drain().map(|(_, waker)| waker));
        }
        if let Err(over) = pumped {
            self.end(over, wakes);
        } else if self.client.taken() < taken {
            // There may have been too much in flight.
            self.wake_first(wakes);
        }
    }

    /// Lets whoever waits for room try again.
    pub(super) fn retry(&self, wakes: &mut Wakes) {
        self.wake_first(wakes);
    }

    /// The session is over: everybody learns of it.
    pub(super) fn end(&mut self, over: Over, wakes: &mut Wakes) {
        self.over.get_or_insert(over);
        for entry in self.calls.values_mut() {
            if let Entry::Waiting(waker) = entry {
                wakes.0.push(waker.clone());
                *entry = Entry::Done(Err(over.as_call(true)));
            }
        }
        wakes.0.extend(self.queue.drain(..).map(|(_, waker)| waker));
        wakes.0.extend(self.items.drain().map(|(_, waker)| waker));
        wakes.0.extend(self.events.drain().map(|(_, waker)| waker));
        self.wake_driver(wakes);
    }
}
