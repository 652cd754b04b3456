//! Threads that open items side by side. The keeper starts them, and hands them what is to be
//! opened; so it is free for whatever is wanted next, however long an item takes to open.
//!
//! A thread that has opened its item looks for the next one itself. If there is none it rests for a
//! while, since a pool that is used opens a replacement now and then, and ends.

use super::Manager;
use super::core::Opening;
use super::seam::now_ns;
use super::shared::{PoolInner, State};
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

    /// Has an item opened: by a thread that rests, by a new one, or else by this one.
    pub(super) fn open(&mut self, mut state: MutexGuard<'_, State<M>>, opening: Opening) {
        if state.core.opens_alone() {
            drop(state);
            self.shared.open_one(opening);
            return;
        }
        state.crew.handed.push_back(opening);
        let enough = state.crew.resting >= state.crew.handed.len();
        let ended = std::mem::take(&mut state.crew.ended);
        drop(state);
        self.join(|thread| ended.contains(&thread.thread().id()));
        if enough {
            self.shared.openers.notify_one();
            return;
        }
        match self.start() {
            Ok(thread) => self.threads.push(thread),
            // There can be no thread now. Another one may have taken it meanwhile.
            Err(_) => {
                // Alone in its statement: nothing is opened under the lock.
                let opening = lock(&self.shared.state).crew.handed.pop_back();
                if let Some(opening) = opening {
                    self.shared.open_one(opening);
                }
            }
        }
    }

    fn start(&self) -> std::io::Result<JoinHandle<()>> {
        let shared = self.shared.clone();
        thread::Builder::new().name("ringbell-opener".into()).spawn(move || {
            lock(&shared.state).crew.alive.push(thread::current().id());
            while let Some(opening) = shared.next_opening() {
                shared.open_one(opening);
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
    /// What a thread that opens is to open next, which it may have to wait for; `None` if it is to
    /// end.
    fn next_opening(&self) -> Option<Opening> {
        let mut state = lock(&self.state);
        let mut rested = false;
        loop {
            if state.core.is_closed() {
                while let Some(opening) = state.crew.handed.pop_front() {
                    state.core.open_forgone(opening);
                }
                break;
            }
            let handed = state.crew.handed.pop_front();
            let next = handed.or_else(|| state.core.next_opening(now_ns()));
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
        state.crew.alive.retain(|other| *other != this);
        state.crew.ended.push(this);
        self.unlock_and_wake(state);
        None
    }
}
