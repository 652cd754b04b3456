//! Giving back large memory on a thread that serves nobody: to unmap and free tens of mebibytes
//! takes milliseconds.
//!
//! The thread is there while there is something to give back, and ends then. What is small is given
//! back at once, by whoever has it.
//!
//! A forked child has a queue of its own. The parent's lock may be held for ever by a thread that
//! the child does not have, and what the parent has queued is the parent's.

use crate::os::fork::Origin;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// From this size on memory is given back elsewhere: starting a thread costs about as much as
/// freeing this much.
const LARGE: u64 = 1 << 20;

type Thing = Box<dyn Send>;

#[derive(Default)]
struct Disposal {
    /// What is to be dropped.
    things: VecDeque<Thing>,
    /// Whether the thread is there.
    running: bool,
}

/// The queue of a process, and that of a child that was forked from its process.
struct Node {
    origin: Origin,
    disposal: Mutex<Disposal>,
    child: OnceLock<Box<Node>>,
}

impl Node {
    fn new() -> Self {
        Self { origin: Origin::here(), disposal: Mutex::default(), child: OnceLock::new() }
    }
}

fn disposal() -> MutexGuard<'static, Disposal> {
    static FIRST: OnceLock<Node> = OnceLock::new();
    let mut node = FIRST.get_or_init(Node::new);
    while !node.origin.is_here() {
        node = node.child.get_or_init(|| Box::new(Node::new()));
    }
    // The queue is valid after every step.
    node.disposal.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Drops `thing`, which keeps so many bytes of memory alive. If they are many this is done on
/// another thread, soon. To be called by the process that made it only.
pub(crate) fn dispose(bytes: u64, thing: impl Send + 'static) {
    if bytes < LARGE {
        return;
    }
    let mut disposal = disposal();
    if !disposal.running {
        let thread = std::thread::Builder::new().name("ringbell-free".into());
        if thread.spawn(run).is_err() {
            // No thread is to be had: it takes its time here.
            drop(disposal);
            drop(thing);
            return;
        }
        disposal.running = true;
    }
    disposal.things.push_back(Box::new(thing));
}

fn run() {
    loop {
        let mut disposal = disposal();
        let Some(thing) = disposal.things.pop_front() else {
            disposal.running = false;
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
    #[allow(unsafe_code, reason = "fork, and _exit")]
    fn a_forked_child_does_not_wait_for_its_parents_lock() {
        let held = disposal();
        // SAFETY: the child calls nothing but what is below, and ends without destructors. It may
        // allocate: the allocator is usable in the child of a process with threads.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let (tell, told) = channel();
            // One that waits for ever is ended by the signal.
            // SAFETY: no memory is passed.
            unsafe { libc::alarm(20) };
            dispose(LARGE, Tells(tell));
            let elsewhere = told.recv().is_ok_and(|thread| thread != std::thread::current().id());
            // SAFETY: it ends the child here and now.
            unsafe { libc::_exit(if elsewhere { 0 } else { 1 }) }
        }
        assert!(child > 0, "fork");
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        drop(held);
        assert_eq!(status, 0, "the child hung, or dropped it on its own thread");
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
