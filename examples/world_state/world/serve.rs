//! Requests to the store, in the order that the keyed scheduler makes of them. The key is the fork.

use super::protocol::{Answer, Failure, Head, Op, Request};
use super::store::{Limits, Store, StoreError, Value};
use ringbell::{Executor, KeyedScheduler, SchedulerStats};
use std::sync::Arc;
use std::time::Duration;

/// A request and the way back, of any transport.
pub(crate) trait Call: Send + 'static {
    fn request(&self) -> &[u8];

    /// Whether somebody still waits for the answer.
    fn is_wanted(&self) -> bool {
        true
    }

    fn answer(self, answer: Result<&[u8], Failure>);
}

/// The store and who waits for whom.
pub(crate) struct World {
    store: Arc<Store>,
    scheduler: KeyedScheduler<u64>,
}

impl World {
    /// A service whose requests run on `executor`.
    pub(crate) fn new(limits: Limits, executor: impl Executor) -> Self {
        Self { store: Arc::new(Store::new(limits)), scheduler: KeyedScheduler::new(executor) }
    }

    /// Answers `call`, later and from another thread. Two calls of one thread to one fork are
    /// executed as if one after the other, unless they are snapshot reads.
    pub(crate) fn serve(&self, call: impl Call) {
        let head = match Head::decode(call.request()) {
            Ok(head) => head,
            Err(failure) => return call.answer(Err(failure)),
        };
        let store = self.store.clone();
        let task = move || {
            // A write that nobody waits for any more is dropped, too: it has not begun.
            if !call.is_wanted() {
                return;
            }
            match execute(&store, call.request()) {
                Ok(answer) => {
                    let mut bytes = Vec::new();
                    answer.encode(&mut bytes);
                    call.answer(Ok(&bytes));
                }
                Err(failure) => call.answer(Err(failure)),
            }
        };
        // A call that is refused is dropped, and its transport says so to the client.
        let _ = self.scheduler.submit(head.fork, head.access, task);
    }

    /// Takes no more calls and waits for those under way, for at most `timeout`; whether they all
    /// ended.
    pub(crate) fn close(&self, timeout: Option<Duration>) -> bool {
        self.scheduler.close();
        self.scheduler.wait_idle(timeout)
    }

    pub(crate) fn stats(&self) -> SchedulerStats {
        self.scheduler.stats()
    }
}

fn execute(store: &Store, request: &[u8]) -> Result<Answer<Value>, Failure> {
    let Request { fork, take, op } = Request::decode(request)?;
    let wait = || {
        if !take.is_zero() {
            std::thread::sleep(take);
        }
    };
    Ok(match op {
        Op::Fork => {
            wait();
            let (fork, version) = store.fork(fork)?;
            Answer::Forked { fork, version }
        }
        Op::Write(changes) => {
            let prepared = store.prepare(fork, changes)?;
            // In the middle: a second write of the fork beside this one would be a conflict.
            wait();
            Answer::Written { version: store.commit(prepared)? }
        }
        Op::Read(keys) => {
            let version = store.version(fork)?;
            wait();
            let values = store.read_at(fork, version, keys)?;
            // Still the latest: no write ran beside this.
            if store.version(fork)? != version {
                return Err(StoreError::Conflict.into());
            }
            Answer::Values { version, values }
        }
        Op::Snapshot { version, keys } => {
            wait();
            Answer::Values { version, values: store.read_at(fork, version, keys)? }
        }
    })
}
