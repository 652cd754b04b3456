//! The pool's one thread: it opens, looks at and closes items, one after the other.

use super::Manager;
use super::callbacks::{open, quiet};
use super::core::Job;
use super::shared::PoolInner;
use crate::base::clock::now_ns;
use crate::base::sync::lock;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// Starts the thread. It lives until the pool is closed and its last item gone.
pub(super) fn start<M: Manager>(
    shared: Arc<PoolInner<M>>,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name("ringbell-pool".into()).spawn(move || keep(&shared))
}

fn keep<M: Manager>(shared: &PoolInner<M>) {
    loop {
        let mut state = lock(&shared.state);
        match state.core.next_job(now_ns()) {
            Job::End => return,
            Job::Sleep(until) => {
                // Whoever disturbs holds the lock, so nothing is missed between the decision and
                // the sleep.
                let time = Duration::from_nanos(until.saturating_sub(now_ns()));
                drop(
                    shared.keeper.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner),
                );
            }
            Job::Close(entry, reason) => {
                drop(state);
                shared.close_item(entry, reason);
            }
            Job::Check(mut entry) => {
                drop(state);
                let fit = quiet(|| shared.manager.check(&mut entry.item)).unwrap_or(false);
                let mut state = lock(&shared.state);
                let placed = state.core.checked(entry, fit, now_ns());
                shared.act_on_placed(state, placed);
            }
            Job::Open(opening) => {
                drop(state);
                let made = open(&shared.manager);
                let mut state = lock(&shared.state);
                match made {
                    Ok((item, generation)) => {
                        state.failure = None;
                        let placed = state.core.opened(opening, item, generation, now_ns());
                        shared.act_on_placed(state, placed);
                    }
                    Err((failure, permanent)) => {
                        state.core.open_failed(opening, now_ns());
                        shared.failed(state, failure, permanent);
                    }
                }
            }
        }
    }
}
