//! Threads that take jobs from one queue: the very same pool under every system of the service
//! scenarios.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// First in, first out, between threads. Costs a system call only where somebody sleeps or goes to
/// sleep.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    line: Mutex<Line<T>>,
    more: Condvar,
}

#[derive(Debug)]
struct Line<T> {
    items: VecDeque<T>,
    asleep: usize,
}

impl<T> Queue<T> {
    /// An empty queue.
    pub(crate) fn new() -> Self {
        Self { line: Mutex::new(Line { items: VecDeque::new(), asleep: 0 }), more: Condvar::new() }
    }

    fn line(&self) -> MutexGuard<'_, Line<T>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts one at the end.
    pub(crate) fn push(&self, item: T) {
        let mut line = self.line();
        line.items.push_back(item);
        let asleep = line.asleep > 0;
        drop(line);
        // std's condition variable makes the call whether anybody waits or not.
        if asleep {
            self.more.notify_one();
        }
    }

    /// Takes the first, waiting for it if need be.
    pub(crate) fn pop(&self) -> T {
        let mut line = self.line();
        loop {
            if let Some(item) = line.items.pop_front() {
                return item;
            }
            line.asleep += 1;
            line = self.more.wait(line).unwrap_or_else(PoisonError::into_inner);
            line.asleep -= 1;
        }
    }
}

/// Something to do, once.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// The pool. Its threads live as long as the process.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Queue<Job>>);

impl Pool {
    /// Starts so many threads, each of which begins with `prepare`.
    pub(crate) fn new(threads: usize, prepare: fn() -> io::Result<()>) -> io::Result<Self> {
        let jobs = Arc::new(Queue::<Job>::new());
        for _ in 0..threads {
            let jobs = jobs.clone();
            thread::Builder::new().name("pool".to_owned()).spawn(move || {
                if let Err(error) = prepare() {
                    eprintln!("pool: {error}");
                }
                loop {
                    jobs.pop()();
                }
            })?;
        }
        Ok(Self(jobs))
    }

    /// Has a job done, after those that came before.
    pub(crate) fn execute(&self, job: impl FnOnce() + Send + 'static) {
        self.0.push(Box::new(job));
    }
}
