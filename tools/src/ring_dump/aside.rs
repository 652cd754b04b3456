//! Work that others can make wait, done aside: the command goes on without it.
//!
//! Reading `/proc/PID/maps` or `/proc/PID/mem` takes a lock of that process, which it can hold for
//! as long as it likes (a page fault that it serves itself). Such a wait ends with this process, so
//! a thread that is left behind keeps nothing alive.

use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long a process may keep others waiting that look at it.
pub(crate) const PATIENCE: Duration = Duration::from_millis(500);

type Job = Box<dyn FnOnce() + Send>;

/// The thread that does it, unless the last one was left behind.
static HELPER: Mutex<Option<Sender<Job>>> = Mutex::new(None);

fn start() -> Option<Sender<Job>> {
    let (jobs, todo) = mpsc::channel::<Job>();
    let work = move || todo.into_iter().for_each(|job| job());
    std::thread::Builder::new().name("aside".into()).spawn(work).ok()?;
    Some(jobs)
}

/// What `work` gives; `None` if it takes longer than `limit`.
pub(crate) fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (done, result) = mpsc::channel();
    let mut helper = HELPER.lock().unwrap_or_else(PoisonError::into_inner);
    let jobs = helper.take().or_else(start)?;
    jobs.send(Box::new(move || drop(done.send(work())))).ok()?;
    let result = result.recv_timeout(limit).ok();
    if result.is_some() {
        *helper = Some(jobs);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_ever_is_left_behind() {
        assert_eq!(within(Duration::from_secs(60), || 1), Some(1));
        let (keep, hold) = mpsc::channel::<()>();
        assert_eq!(within(Duration::from_millis(1), move || hold.recv().is_ok()), None);
        assert_eq!(within(Duration::from_secs(60), || 2), Some(2));
        drop(keep);
    }
}
