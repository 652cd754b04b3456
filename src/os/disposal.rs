//! Giving back large memory on a thread that serves nobody: to unmap and free tens of mebibytes
//! takes milliseconds.
//!
//! The thread is there while there is something to give back, and ends then. What is small is given
//! back at once, by whoever has it.

use crate::os::fork::Origin;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// From this size on memory is given back elsewhere: starting a thread costs about as much as
/// freeing this much.
const LARGE: u64 = 1 << 20;

type Thing = Box<dyn Send>;

struct Disposal {
    /// What is to be dropped.
    things: VecDeque<Thing>,
    /// The process in which the thread runs; `None` if it does not.
    running: Option<Origin>,
}

static DISPOSAL: Mutex<Disposal> = Mutex::new(Disposal { things: VecDeque::new(), running: None });

fn disposal() -> MutexGuard<'static, Disposal> {
    // The queue is valid after every step.
    DISPOSAL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Drops `thing`, which keeps so many bytes of memory alive. If they are many this is done on
/// another thread, soon. To be called by the process that made it only.
pub(crate) fn dispose(bytes: u64, thing: impl Send + 'static) {
    if bytes < LARGE {
        return;
    }
    let mut disposal = disposal();
    if !disposal.running.is_some_and(Origin::is_here) {
        // After a fork the queue is a copy of the parent's, and these things are the parent's.
        std::mem::forget(std::mem::take(&mut disposal.things));
        let thread = std::thread::Builder::new().name("ringbell-free".into());
        if thread.spawn(run).is_err() {
            // No thread is to be had: it takes its time here.
            drop(disposal);
            drop(thing);
            return;
        }
        disposal.running = Some(Origin::here());
    }
    disposal.things.push_back(Box::new(thing));
}

fn run() {
    loop {
        let mut disposal = disposal();
        let Some(thing) = disposal.things.pop_front() else {
            disposal.running = None;
            return;
        };
        drop(disposal);
        drop(thing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};
    use std::thread::ThreadId;

    struct Tells(Sender<ThreadId>);

    impl Drop for Tells {
        fn drop(&mut self) {
            let _ = self.0.send(std::thread::current().id());
        }
    }

    #[test]
    fn the_large_is_dropped_elsewhere_and_the_small_here() {
        let (tell, told) = channel();
        let here = std::thread::current().id();
        dispose(LARGE - 1, Tells(tell.clone()));
        assert_eq!(told.try_recv(), Ok(here));
        for _ in 0..100 {
            dispose(LARGE, Tells(tell.clone()));
            assert_ne!(told.recv().expect("it is dropped"), here);
        }
    }
}
