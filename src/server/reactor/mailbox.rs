//! What other threads tell a reactor: the porter about clients, anybody to stop.

use crate::base::clock::now_ns;
use crate::base::sync::{Ordering, PlainBool, PlainU64};
use crate::server::park::Notifier;
use crate::server::porter::Event;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// What other threads tell a reactor.
#[derive(Debug)]
pub(crate) struct Mailbox {
    /// `None` once nobody reads them any more.
    events: Mutex<Option<VecDeque<Event>>>,
    /// Whether there are any: looked at in each pass, so not behind the lock.
    full: PlainBool,
    /// 0, or 1 + the absolute time in ns at which draining ends.
    stop: PlainU64,
    notifier: Arc<Notifier>,
}

impl Mailbox {
    pub(crate) fn new(notifier: Arc<Notifier>) -> Self {
        Self {
            events: Mutex::new(Some(VecDeque::new())),
            full: PlainBool::new(false),
            stop: PlainU64::new(0),
            notifier,
        }
    }

    /// Asks the reactor to shut down, having drained until `deadline_ns`. Async-signal-safe.
    pub(crate) fn stop(&self, deadline_ns: u64) {
        // Release: nothing is handed over with it, but it must not be delayed behind the ring.
        self.stop.store(deadline_ns.saturating_add(1), Ordering::Release);
        self.notifier.notify();
    }

    #[inline]
    pub(super) fn stop_at(&self) -> Option<u64> {
        self.stop.load(Ordering::Relaxed).checked_sub(1)
    }

    #[inline]
    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed) != 0
    }

    #[inline]
    pub(super) fn has_mail(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    pub(super) fn take(&self) -> VecDeque<Event> {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        self.full.store(false, Ordering::Relaxed);
        events.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Nobody will read what comes from now on: it is dropped. What came before is returned.
    pub(super) fn close(&self) -> VecDeque<Event> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
    }
}

impl crate::server::porter::Outbox for Arc<Mailbox> {
    fn deliver(&self, event: Event) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        // A session that nobody will serve is hung up on by being dropped.
        let Some(queue) = events.as_mut() else { return };
        queue.push_back(event);
        // Relaxed: the events are behind the lock, and a sleeping reactor is rung.
        self.full.store(true, Ordering::Relaxed);
        drop(events);
        self.notifier.notify();
    }

    fn host_ended(&self) {
        // All that was asked was asked by the dead process.
        self.stop(now_ns());
    }
}
