//! Requests whose answer comes later, possibly from another thread, and the queue on which
//! answers come back to the reactor.
//!
//! # Why no answer is missed
//!
//! A completer pushes under the lock, stores `any` and rings the reactor's private bell; the ring
//! begins with a fence. A reactor that is about to sleep arms, fences, and looks at `any` again. Of
//! the two fences one comes first: either the reactor sees `any`, or the completer sees the bell
//! armed and wakes it, once for each arm. This is the argument of `bell.rs` for a queue instead of
//! a ring; `loom-tests/src/notify.rs` checks it.

use crate::base::clock::now_ns;
use crate::base::sync::{Ordering, PlainBool, PlainU64};
use crate::base::wakers;
use crate::handshake::AnswerOrder;
use crate::handshake::{PeerInfo, Transport};
use crate::link::held::{Account, Charge, ENTRY, Held, KEPT, SMALL};
use crate::memory::layout::{self, Kind};
use crate::os::fork::Origin;
use crate::os::serving::{Served, ServingThread};
use crate::server::park::Notifier;
use std::cell::{Cell, RefCell};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Instant;

/// What all threads know of one session.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) id: u64,
    pub(crate) peer: PeerInfo,
    pub(crate) transport: Transport,
    pub(crate) order: AnswerOrder,
    pub(crate) max_message: usize,
    pub(crate) open: PlainBool,
    /// Events that were pushed and not sent yet, and how many there may be.
    pub(crate) events: PlainU64,
    pub(crate) events_most: u64,
    pub(crate) completions: Arc<Completions>,
    /// What is held for the client.
    pub(crate) account: Arc<Account>,
}

impl Caller {
    /// A copy of these bytes that is to be sent.
    pub(crate) fn copy(&self, bytes: &[u8], mut charge: Charge) -> Held {
        let mut payload = self.completions.buffers().take(bytes.len());
        payload.extend_from_slice(bytes);
        charge.set(&self.account, payload.capacity() + ENTRY);
        Held { bytes: payload, charge }
    }
}

/// What a request in flight takes, its own small buffers included: that of the request, and that
/// of the answer. In bytes.
pub(crate) const FLIGHT: usize = 2 * SMALL + std::mem::size_of::<Flight>() + ENTRY;

/// The handler's bytes are not in the account: see [`Flight::taken`].
const NONE_TAKEN: u64 = u64::MAX;

/// One request that was taken, until its last answer.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) caller: Arc<Caller>,
    pub(crate) call: u64,
    /// CLOCK_MONOTONIC ns; 0 for none.
    pub(crate) deadline_ns: u64,
    /// Index in the session's table. The reactor's own: no other thread looks at it.
    table_index: PlainU64,
    /// Wants no answer.
    pub(crate) one_way: bool,
    cancelled: PlainBool,
    credit: Mutex<Credit>,
    more: Condvar,
    /// Bytes of the request that its handler took out of it, in the account until the flight is
    /// over; [`NONE_TAKEN`] if there is nothing to take, or the flight is over.
    taken: PlainU64,
    _charge: Charge,
}

/// How many items of a streamed answer may be sent.
#[derive(Debug)]
struct Credit {
    left: u64,
    /// Since when its producer has waited for more, in CLOCK_MONOTONIC ns; 0 if it does not.
    waits_since: u64,
    /// What it waits for is room for an item of so many bytes, which it may send; 0 if not.
    for_room: u64,
    /// Nobody wants more items.
    over: Option<StreamOver>,
    /// The task that handles the request, and the one that sends items of the answer. A thread that
    /// sends waits for `more` instead.
    tasks: Tasks,
}

/// Tasks that are to be woken.
#[derive(Debug, Default)]
struct Tasks {
    handler: Option<Waker>,
    sender: Option<Waker>,
}

impl Credit {
    fn fresh() -> Self {
        let left = layout::STREAM_WINDOW.into();
        Self { left, waits_since: 0, for_room: 0, over: None, tasks: Tasks::default() }
    }

    /// The producer has to wait.
    fn wait(&mut self) {
        if self.waits_since == 0 {
            self.waits_since = now_ns();
        }
    }
}

/// Why a streamed answer cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamOver {
    Cancelled,
    Gone,
    /// The client took no item for too long.
    Stalled,
    /// Other clients held too much for too long.
    NoRoom,
}

impl Flight {
    pub(crate) fn new(caller: Arc<Caller>, call: u64, deadline_ns: u64, one_way: bool) -> Self {
        Self {
            _charge: caller.account.charge(FLIGHT),
            taken: PlainU64::new(NONE_TAKEN),
            caller,
            call,
            deadline_ns,
            table_index: PlainU64::new(0),
            one_way,
            cancelled: PlainBool::new(false),
            credit: Mutex::new(Credit::fresh()),
            more: Condvar::new(),
        }
    }

    // Relaxed: one thread writes and reads it.

    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "it was a u32")]
    pub(crate) fn table_index(&self) -> u32 {
        self.table_index.load(Ordering::Relaxed) as u32
    }

    #[inline]
    pub(crate) fn set_table_index(&self, table_index: u32) {
        self.table_index.store(table_index.into(), Ordering::Relaxed);
    }

    /// Makes it another request of the same session.
    #[inline]
    pub(crate) fn renew(&mut self, call: u64, deadline_ns: u64, one_way: bool) {
        (self.call, self.deadline_ns, self.one_way) = (call, deadline_ns, one_way);
        // Relaxed: this thread has it to itself.
        self.cancelled.store(false, Ordering::Relaxed);
        let credit = self.credit.get_mut().unwrap_or_else(PoisonError::into_inner);
        *credit = Credit::fresh();
        self.forget_taken();
    }

    /// The handler may take bytes that are charged out of the request.
    #[cold]
    pub(crate) fn may_be_taken(&self) {
        // Relaxed, here and below: what matters is the order at this one word.
        self.taken.store(0, Ordering::Relaxed);
    }

    /// The handler takes the bytes out of the request. They stay in the account until the flight
    /// is over. If it is over already they are the handler's own, and the charge ends.
    #[cold]
    pub(crate) fn keep_charge(&self, charge: Charge) {
        let mut taken = self.taken.load(Ordering::Relaxed);
        while taken != NONE_TAKEN {
            let more = taken + charge.bytes();
            let relaxed = Ordering::Relaxed;
            match self.taken.compare_exchange(taken, more, relaxed, relaxed) {
                Ok(_) => {
                    charge.leave();
                    return;
                }
                Err(there) => taken = there,
            }
        }
    }

    /// The flight is over: what its handler still has is the handler's own.
    #[inline]
    pub(crate) fn forget_taken(&self) {
        // What another thread added before it answered is ordered by the queue of answers; what it
        // adds later finds that the flight is over.
        if self.taken.load(Ordering::Relaxed) != NONE_TAKEN {
            let taken = self.taken.swap(NONE_TAKEN, Ordering::Relaxed);
            if taken != 0 {
                self.caller.account.take_back(taken);
            }
        }
    }

    /// Whether nobody wants the answer any more.
    pub(crate) fn is_cancelled(&self) -> bool {
        // Relaxed: advice.
        self.cancelled.load(Ordering::Relaxed)
    }

    pub(crate) fn is_expired(&self) -> bool {
        self.deadline_ns != 0 && now_ns() >= self.deadline_ns
    }

    fn credit(&self) -> MutexGuard<'_, Credit> {
        self.credit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client takes more items.
    pub(crate) fn grant(&self, items: u16) {
        // Never more than the window: who grants without end would fill this process's memory.
        let mut credit = self.credit();
        credit.left = credit.left.saturating_add(items.into()).min(layout::STREAM_WINDOW.into());
        credit.waits_since = if credit.for_room != 0 { now_ns() } else { 0 };
        let sender = credit.tasks.sender.take();
        drop(credit);
        self.more.notify_all();
        wakers::wake_all(sender);
    }

    /// Nobody wants the answer any more.
    pub(crate) fn give_up(&self, why: StreamOver) {
        self.cancelled.store(true, Ordering::Relaxed);
        let mut credit = self.credit();
        credit.over.get_or_insert(why);
        let Tasks { handler, sender } = std::mem::take(&mut credit.tasks);
        drop(credit);
        self.more.notify_all();
        wakers::wake_all(handler.into_iter().chain(sender));
        // A thread that sends an item may wait for room instead.
        self.caller.account.rouse();
    }

    /// Why nobody wants the answer any more.
    pub(crate) fn over(&self) -> Option<StreamOver> {
        self.credit().over
    }

    /// The same; `None` in a forked child, where any lock may be held for ever.
    pub(crate) fn over_here(&self) -> Option<StreamOver> {
        if self.caller.completions.is_here() { self.over() } else { None }
    }

    /// Whether nobody wants the answer any more. If not, `waker` is woken when that changes: the
    /// lock orders this before or behind [`Self::give_up`].
    #[cfg_attr(
        not(feature = "tokio"),
        expect(dead_code, reason = "only tasks of a runtime wait for it")
    )]
    pub(crate) fn is_over(&self, waker: &Waker) -> bool {
        let mut own = None;
        loop {
            let credit = self.credit();
            if credit.over.is_some() {
                return true;
            }
            if wakers::enter(credit, |credit| &mut credit.tasks.handler, waker, &mut own) {
                return false;
            }
            own = Some(waker.clone());
        }
    }

    /// The client's credit is used up, or there is no room for an item: since when the producer has
    /// waited, `now` if it does not wait. `is_counted`: it is the client's doing; if not, the time
    /// begins anew. `moved_at`: when the client has taken something else, which makes room.
    pub(crate) fn stalled_since(&self, now: u64, is_counted: bool, moved_at: u64) -> Option<u64> {
        let mut credit = self.credit();
        if (credit.left > 0 && credit.for_room == 0) || credit.over.is_some() {
            return None;
        }
        if credit.waits_since != 0 && !is_counted {
            credit.waits_since = now;
        }
        if credit.for_room != 0 {
            credit.waits_since = credit.waits_since.max(moved_at);
        }
        Some(if credit.waits_since == 0 { now } else { credit.waits_since })
    }

    /// Whether a producer waits for credit.
    pub(crate) fn is_waiting(&self) -> bool {
        self.credit().waits_since != 0
    }

    /// The producer waits no longer.
    pub(crate) fn waits_no_longer(&self) {
        let mut credit = self.credit();
        (credit.waits_since, credit.for_room) = (0, 0);
    }

    /// Whether the producer waits for room that its client would have, if others held less.
    pub(crate) fn is_held_up_by_others(&self) -> bool {
        let wanted = self.credit().for_room;
        wanted != 0 && !self.caller.account.is_full_for(wanted)
    }

    /// The most bytes of an item or answer, with what belongs to it, for which there can ever be
    /// room.
    #[cold]
    pub(crate) fn most_of_answer(&self) -> usize {
        let most = self.caller.account.most_of_answer().saturating_sub(FLIGHT as u64);
        usize::try_from(most).unwrap_or(usize::MAX)
    }

    /// The producer has to wait for room for so many bytes. The reactor is told: it has not seen
    /// the item, and ends the stream after too long a time.
    #[cold]
    pub(crate) fn wait_for_room(self: &Arc<Self>, bytes: usize) {
        let mut credit = self.credit();
        credit.wait();
        credit.for_room = bytes as u64;
        drop(credit);
        self.caller.completions.push(Completion {
            to: To::Flight(self.clone()),
            kind: Kind::Credit,
            code: 0,
            payload: Held::default(),
        });
    }

    /// Takes the right to send one item; if there is none `waker` is woken when there may be.
    pub(crate) fn poll_credit(&self, waker: &Waker) -> Poll<Result<(), StreamOver>> {
        let mut own = None;
        loop {
            let mut credit = self.credit();
            if let Some(over) = credit.over {
                return Poll::Ready(Err(over));
            }
            if credit.left > 0 {
                credit.left -= 1;
                return Poll::Ready(Ok(()));
            }
            credit.wait();
            if wakers::enter(credit, |credit| &mut credit.tasks.sender, waker, &mut own) {
                return Poll::Pending;
            }
            own = Some(waker.clone());
        }
    }

    /// Takes the right to send one item, waiting until `deadline`. `Ok(false)` if there is none in
    /// time.
    pub(crate) fn take_credit(&self, deadline: Option<Instant>) -> Result<bool, StreamOver> {
        let mut credit = self.credit();
        loop {
            if let Some(over) = credit.over {
                return Err(over);
            }
            if credit.left > 0 {
                credit.left -= 1;
                return Ok(true);
            }
            credit = match deadline {
                None => {
                    credit.wait();
                    self.more.wait(credit).unwrap_or_else(PoisonError::into_inner)
                }
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        credit.waits_since = 0;
                        return Ok(false);
                    }
                    credit.wait();
                    self.more.wait_timeout(credit, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.forget_taken();
    }
}

/// To whom something is to be sent.
#[derive(Debug)]
pub(crate) enum To {
    Flight(Arc<Flight>),
    Caller(Arc<Caller>),
}

/// What is to be sent.
#[derive(Debug)]
pub(crate) struct Completion {
    pub(crate) to: To,
    /// [`Kind::OneWay`]: nothing, the handler is done with a request that wants no answer.
    /// [`Kind::Credit`]: nothing, a producer waits for room.
    pub(crate) kind: Kind,
    pub(crate) code: u16,
    pub(crate) payload: Held,
}

/// Whether this is the last frame of an answer.
pub(crate) fn is_final(kind: Kind) -> bool {
    matches!(kind, Kind::Response | Kind::Error | Kind::StreamEnd | Kind::OneWay)
}

/// What comes back to the reactor from whichever threads handle requests.
#[derive(Debug)]
pub(crate) struct Completions {
    /// `None` once nobody reads them any more.
    queue: Mutex<Option<Vec<Completion>>>,
    any: PlainBool,
    notifier: Arc<Notifier>,
    buffers: Buffers,
    origin: Origin,
}

impl Completions {
    pub(crate) fn new(notifier: Arc<Notifier>) -> Self {
        Self {
            queue: Mutex::new(Some(Vec::new())),
            any: PlainBool::new(false),
            notifier,
            buffers: Buffers::default(),
            origin: Origin::here(),
        }
    }

    /// False in a forked child, where nobody reads them and any lock may be held for ever.
    #[inline]
    pub(crate) fn is_here(&self) -> bool {
        self.origin.is_here()
    }

    /// Hands over; false if nobody is there any more.
    pub(crate) fn push(&self, completion: Completion) -> bool {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(items) = queue.as_mut() else { return false };
        items.push(completion);
        // Relaxed: see the module's text; the fence is in `notify`.
        self.any.store(true, Ordering::Relaxed);
        drop(queue);
        self.notifier.notify();
        true
    }

    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// All that there is, in exchange for an empty `into`.
    pub(crate) fn take(&self, into: &mut Vec<Completion>) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        self.any.store(false, Ordering::Relaxed);
        if let Some(items) = queue.as_mut() {
            std::mem::swap(items, into);
        }
    }

    /// Nobody will read what comes from now on: it is dropped. What came before is returned.
    pub(crate) fn close(&self) -> Vec<Completion> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
    }

    /// What wakes the reactor.
    pub(crate) fn notifier(&self) -> Arc<Notifier> {
        self.notifier.clone()
    }

    pub(crate) fn buffers(&self) -> &Buffers {
        &self.buffers
    }
}

/// Buffers of payloads, used again and again: a warm server allocates nothing for a small request.
/// Small ones and larger ones apart, so that no small payload holds a large buffer.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    small: Mutex<Vec<Vec<u8>>>,
    large: Mutex<Vec<Vec<u8>>>,
}

/// Most buffers of each kind that are kept.
const SMALL_KEPT: usize = 256;
const LARGE_KEPT: usize = 32;

impl Buffers {
    fn of(&self, size: usize) -> (MutexGuard<'_, Vec<Vec<u8>>>, usize) {
        let (buffers, most) =
            if size <= SMALL { (&self.small, SMALL_KEPT) } else { (&self.large, LARGE_KEPT) };
        (buffers.lock().unwrap_or_else(PoisonError::into_inner), most)
    }

    /// An empty buffer for so many bytes.
    pub(crate) fn take(&self, len: usize) -> Vec<u8> {
        if len > KEPT {
            return Vec::with_capacity(len);
        }
        self.of(len).0.pop().unwrap_or_default()
    }

    /// Takes a buffer back. A large one is freed.
    pub(crate) fn give(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() == 0 || buffer.capacity() > KEPT {
            return;
        }
        buffer.clear();
        let (mut kept, most) = self.of(buffer.capacity());
        if kept.len() < most {
            kept.push(buffer);
        }
    }
}

/// The answer of a handler that runs on the reactor's own thread: it needs no queue, no lock and no
/// wake.
#[derive(Debug)]
pub(crate) struct InlineReply {
    /// Address of the flight that is being handled.
    flight: usize,
    /// The answer's kind and code, once given.
    pub(crate) answer: Option<(Kind, u16)>,
    pub(crate) response: Vec<u8>,
    /// The request's buffer, once it is no longer needed.
    pub(crate) request: Option<Vec<u8>>,
}

thread_local! {
    static INLINE_REPLY: RefCell<Option<InlineReply>> = const { RefCell::new(None) };
    /// Whether this thread is a reactor, which must not wait.
    static IS_REACTOR: Cell<bool> = const { Cell::new(false) };
}

/// While it lives the thread is a reactor.
#[derive(Debug)]
pub(crate) struct ReactorThread {
    /// Of the server whose handler runs this one.
    outer: (bool, Option<InlineReply>),
    _serving: ServingThread,
}

impl Drop for ReactorThread {
    fn drop(&mut self) {
        let _ = IS_REACTOR.try_with(|reactor| reactor.set(self.outer.0));
        let _ = INLINE_REPLY.try_with(|cell| *cell.borrow_mut() = self.outer.1.take());
    }
}

/// This thread is the reactor of `served` until the guard is dropped.
pub(crate) fn enter_reactor_thread(served: Served) -> ReactorThread {
    ReactorThread {
        outer: (IS_REACTOR.replace(true), InlineReply::take()),
        _serving: ServingThread::begin(served),
    }
}

/// Whether this thread is a reactor.
pub(crate) fn on_reactor_thread() -> bool {
    IS_REACTOR.try_with(Cell::get).unwrap_or(false)
}

impl InlineReply {
    /// A handler begins on this thread: its answer is expected here. `response` is empty.
    #[inline]
    pub(crate) fn expect(flight: &Arc<Flight>, response: Vec<u8>) {
        let reply =
            Self { flight: Arc::as_ptr(flight).addr(), answer: None, response, request: None };
        INLINE_REPLY.with(|cell| *cell.borrow_mut() = Some(reply));
    }

    /// The handler has returned: what it left.
    #[inline]
    pub(crate) fn take() -> Option<Self> {
        INLINE_REPLY.with(|cell| cell.borrow_mut().take())
    }

    /// Runs `change` on the reply, if the flight is being handled on this thread.
    #[inline]
    pub(crate) fn with<R>(flight: &Arc<Flight>, change: impl FnOnce(&mut Self) -> R) -> Option<R> {
        // A destructor may run while the thread ends, when there is nothing any more.
        INLINE_REPLY
            .try_with(|cell| {
                let mut cell = cell.try_borrow_mut().ok()?;
                let reply =
                    cell.as_mut().filter(|reply| reply.flight == Arc::as_ptr(flight).addr())?;
                Some(change(reply))
            })
            .ok()
            .flatten()
    }
}
