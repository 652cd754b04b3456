//! Threads that open items side by side, and look at one that is ready. The keeper starts them, and
//! hands them their work; so it is free for whatever is wanted next, however long that takes.
//!
//! A thread that has done its work looks for more itself. If there is none it rests for a while,
//! since a pool that is used opens a replacement now and then, and ends. There are no more threads
//! than can have work at once: `max_starting` that open, one that looks at an item, and those that
//! close what turned out to be of no use.

use super::Manager;
use super::seam::now_ns;
use super::shared::{PoolInner, State, Work};
use crate::base::sync::thread::{self, JoinHandle};
use crate::base::sync::{MutexGuard, lock};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// How long a thread that has nothing to open stays.
const REST: Duration = Duration::from_secs(1);

/// The threads, as the keeper holds them.
pub(super) struct Openers<'a, M: Manager> {
    shared: &'a Arc<PoolInner<M>>,
    threads: Vec<JoinHandle<()>>,
}

impl<'a, M: Manager> Openers<'a, M> {
    pub(super) fn new(shared: &'a Arc<PoolInner<M>>) -> Self {
        Self { shared, threads: Vec::new() }
    }

    /// Has work done: by a thread that rests, by a new one, or else by this one.
    pub(super) fn hand(&mut self, mut state: MutexGuard<'_, State<M>>, work: Work<M::Item>) {
        if state.core.opens_alone() {
            drop(state);
            self.shared.carry_out(work);
            return;
        }
        state.crew.handed.push_back(work);
        // With so many threads there is one for each piece of work: it rests, or looks for work
        // before it does.
        let enough = state.crew.resting >= state.crew.handed.len()
            || state.crew.threads >= state.core.most_at_work();
        state.crew.threads += usize::from(!enough);
        let ended = std::mem::take(&mut state.crew.ended);
        drop(state);
        self.join(|thread| ended.contains(&thread.thread().id()));
        if enough {
            self.shared.openers.notify_one();
            return;
        }
        match self.start() {
            Ok(thread) => self.threads.push(thread),
            // There can be no thread now. Another one may have taken the work already.
            Err(_) => {
                let mut state = lock(&self.shared.state);
                state.crew.threads -= 1;
                let work = state.crew.handed.pop_back();
                drop(state);
                if let Some(work) = work {
                    self.shared.carry_out(work);
                }
            }
        }
    }

    fn start(&self) -> std::io::Result<JoinHandle<()>> {
        let shared = self.shared.clone();
        thread::Builder::new().name("ringbell-opener".into()).spawn(move || {
            lock(&shared.state).crew.alive.push(thread::current().id());
            while let Some(work) = shared.next_work() {
                shared.carry_out(work);
            }
        })
    }

    /// Waits until all have ended, so that nothing of the pool is left with them. They end when the
    /// pool is closed.
    pub(super) fn join_all(mut self) {
        self.join(|_| true);
    }

    fn join(&mut self, which: impl Fn(&JoinHandle<()>) -> bool) {
        let (ended, alive) = self.threads.drain(..).partition(which);
        self.threads = alive;
        let ended: Vec<_> = ended;
        for thread in ended {
            // It has panicked, if anything; then the hook has reported it.
            let _ = thread.join();
        }
    }
}

impl<M: Manager> PoolInner<M> {
    fn carry_out(&self, work: Work<M::Item>) {
        match work {
            Work::Open(opening) => self.open_one(opening),
            Work::Check(entry) => self.check_one(entry),
        }
    }

    /// What a thread is to do next, which it may have to wait for; `None` if it is to end.
    fn next_work(&self) -> Option<Work<M::Item>> {
        let mut state = lock(&self.state);
        let mut rested = false;
        loop {
            if state.core.is_closed() {
                match state.crew.handed.pop_front() {
                    Some(Work::Open(opening)) => state.core.open_forgone(opening),
                    // It is closed as soon as it was looked at.
                    Some(check) => return Some(check),
                    None => break,
                }
                continue;
            }
            let handed = state.crew.handed.pop_front();
            let next = handed.or_else(|| state.core.next_opening(now_ns()).map(Work::Open));
            // What this thread has opened before may have made room for more than it takes now.
            if state.core.disturb() {
                self.keeper.notify_one();
            }
            if next.is_some() {
                return next;
            }
            if rested {
                break;
            }
            state.crew.resting += 1;
            let waited = self.openers.wait_timeout(state, REST);
            let (guard, result) = waited.unwrap_or_else(PoisonError::into_inner);
            state = guard;
            state.crew.resting -= 1;
            rested = result.timed_out();
        }
        let this = thread::current().id();
        state.crew.threads -= 1;
        state.crew.alive.retain(|other| *other != this);
        state.crew.ended.push(this);
        self.unlock_and_wake(state);
        None
    }
}
