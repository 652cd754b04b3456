//! The pool's own thread: it closes items, and sees to it that items are opened and looked at.

use super::Manager;
use super::core::Job;
use super::openers::Openers;
use super::seam::now_ns;
use super::shared::{PoolInner, Work};
use crate::base::sync::{lock, thread};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// Starts the thread. It lives until the pool is closed and its last item gone.
pub(super) fn start<M: Manager>(
    shared: Arc<PoolInner<M>>,
) -> std::io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name("ringbell-pool".into()).spawn(move || keep(&shared))
}

fn keep<M: Manager>(shared: &Arc<PoolInner<M>>) {
    let mut openers = Openers::new(shared);
    loop {
        let mut state = lock(&shared.state);
        match state.core.next_job(now_ns()) {
            Job::End => break,
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
            Job::Check(entry) => openers.hand(state, Work::Check(entry)),
            Job::Open(opening) => openers.hand(state, Work::Open(opening)),
        }
    }
    openers.join_all();
}
