//! Tasks, and the executors on which the caller lets them run. Ringbell starts no pool of its
//! own.

use crate::base::panics::quietly;
use std::sync::Arc;

/// Something to be run once, on any thread.
///
/// A task that is dropped instead is given up: what it holds is dropped with it, so that a
/// responder in it answers with an error.
#[must_use = "a task that is dropped does not run"]
pub struct Task(Box<dyn Run>);

/// What a task is inside; the scheduler has a second kind.
pub(crate) trait Run: Send {
    fn run(self: Box<Self>);
}

impl<F: FnOnce() + Send> Run for F {
    fn run(self: Box<Self>) {
        (*self)();
    }
}

impl Task {
    /// A task of one's own, for use of an [`Executor`] beside the scheduler.
    pub fn new(run: impl FnOnce() + Send + 'static) -> Self {
        Self(Box::new(run))
    }

    pub(crate) fn from_box(run: Box<dyn Run>) -> Self {
        Self(run)
    }

    /// Runs it on the calling thread.
    ///
    /// A panic ends here: the panic hook has reported it, and the executor's thread goes on.
    pub fn run(self) {
        quietly(|| self.0.run());
    }
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Task")
    }
}

/// Runs tasks somewhere: the way to the pool of the caller.
///
/// A closure that takes a [`Task`] is an executor; so is an `Arc` of one. Features bring two more:
/// `threadpool` (`threadpool::ThreadPool`: a fixed number of threads and one queue, first come,
/// first served: the one to take unless the program has another pool anyway) and `rayon`
/// (`RayonExecutor`).
///
/// ```
/// use ringbell::{Executor, Task};
///
/// let thread_per_task = |task: Task| {
///     std::thread::spawn(|| task.run());
/// };
/// thread_per_task.execute(Task::new(|| println!("elsewhere")));
/// ```
///
/// # How large a pool
///
/// As large as the caller's budget allows, and no function of the number of CPUs: in a container
/// that number is the machine's, not the container's share; and tasks that wait (for a disk, a
/// lock, another service) leave their CPU to others, so that more of them than CPUs are of use.
///
/// # Which pool
///
/// One on which nothing waits that its own tasks must finish. A handler that occupies a thread of
/// the pool, and waits there for a task that still has to get a thread of the same pool, waits for
/// ever as soon as enough of them do. The same holds for a task that waits for another one.
pub trait Executor: Send + Sync + 'static {
    /// Has `task` run, soon, on any thread. Called from any thread, those of the executor included,
    /// and by many at once.
    ///
    /// It should return without waiting for the executor's own threads, hence have a queue without
    /// a bound. An executor that runs tasks before it returns works, and makes the submitter wait.
    /// One that has shut down drops the task.
    fn execute(&self, task: Task);
}

impl<F: Fn(Task) + Send + Sync + 'static> Executor for F {
    fn execute(&self, task: Task) {
        self(task);
    }
}

impl<E: Executor + ?Sized> Executor for Arc<E> {
    fn execute(&self, task: Task) {
        (**self).execute(task);
    }
}

#[cfg(feature = "threadpool")]
impl Executor for threadpool::ThreadPool {
    fn execute(&self, task: Task) {
        threadpool::ThreadPool::execute(self, move || task.run());
    }
}

#[cfg(feature = "rayon")]
pub use of_rayon::RayonExecutor;

#[cfg(feature = "rayon")]
mod of_rayon {
    use super::{Executor, Task};
    use crate::base::sync::{Mutex, lock};
    use rayon_core::ThreadPool;
    use std::collections::VecDeque;
    use std::sync::Arc;

    /// A rayon pool as an [`Executor`], first come, first served.
    ///
    /// A rayon thread prefers what it started itself to what came from outside; one key whose
    /// writes never end could keep all others waiting for ever. So the tasks stand in a queue of
    /// their own, and each job given to rayon runs the task that is then the first.
    ///
    /// A task that waits inside rayon (`join`, a parallel iterator) may meanwhile run another task
    /// on the same stack: it should hold no lock then.
    #[derive(Debug, Clone)]
    pub struct RayonExecutor {
        pool: Arc<ThreadPool>,
        tasks: Arc<Mutex<VecDeque<Task>>>,
    }

    impl RayonExecutor {
        /// Tasks run on the threads of `pool`, which others may use too.
        pub fn new(pool: impl Into<Arc<ThreadPool>>) -> Self {
            Self { pool: pool.into(), tasks: Arc::default() }
        }
    }

    impl Executor for RayonExecutor {
        fn execute(&self, task: Task) {
            lock(&self.tasks).push_back(task);
            let tasks = self.tasks.clone();
            self.pool.spawn_fifo(move || {
                // Alone in its statement: the lock is not held while the task runs.
                let first = lock(&tasks).pop_front();
                if let Some(task) = first {
                    task.run();
                }
            });
        }
    }
}

#[cfg(all(test, not(ringbell_loom)))]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    /// A payload that panics when it is dropped.
    struct Spiteful;

    impl Drop for Spiteful {
        fn drop(&mut self) {
            std::panic::resume_unwind(Box::new("again"));
        }
    }

    #[test]
    fn a_panic_ends_in_run() {
        Task::new(|| std::panic::resume_unwind(Box::new("meant"))).run();
        Task::new(|| std::panic::resume_unwind(Box::new(Spiteful))).run();
    }

    #[test]
    fn closures_and_arcs_execute() {
        let inline = Arc::new(|task: Task| task.run());
        let (sender, receiver) = channel();
        inline.execute(Task::new(move || sender.send(1).unwrap()));
        assert_eq!(receiver.recv(), Ok(1));
        let shared: Arc<dyn Executor> = inline;
        let (sender, receiver) = channel();
        shared.execute(Task::new(move || sender.send(2).unwrap()));
        assert_eq!(receiver.recv(), Ok(2));
    }

    #[cfg(any(feature = "threadpool", feature = "rayon"))]
    fn survives_panics(pool: &dyn Executor) {
        let (sender, receiver) = channel();
        for i in 0..100 {
            let sender = sender.clone();
            pool.execute(Task::new(move || {
                if i % 2 == 0 {
                    std::panic::resume_unwind(Box::new("meant"));
                }
                sender.send(i).unwrap();
            }));
        }
        drop(sender);
        assert_eq!(receiver.iter().sum::<i32>(), (0..100).filter(|i| i % 2 == 1).sum());
    }

    #[cfg(feature = "threadpool")]
    #[test]
    fn threadpool_survives_panics() {
        let pool = threadpool::ThreadPool::new(2);
        survives_panics(&pool);
        pool.join();
        assert_eq!(pool.panic_count(), 0);
    }

    #[cfg(feature = "rayon")]
    fn one_rayon_thread() -> RayonExecutor {
        RayonExecutor::new(rayon_core::ThreadPoolBuilder::new().num_threads(1).build().unwrap())
    }

    #[cfg(feature = "rayon")]
    #[test]
    fn rayon_survives_panics() {
        survives_panics(&one_rayon_thread());
    }

    /// A task that always starts its successor does not keep out those of others.
    #[cfg(feature = "rayon")]
    #[test]
    fn rayon_is_fair() {
        fn forever(pool: RayonExecutor, stop: Arc<crate::base::sync::PlainBool>) {
            if !stop.load(crate::base::sync::Ordering::Relaxed) {
                let again = pool.clone();
                pool.execute(Task::new(move || forever(again, stop)));
            }
        }
        let pool = one_rayon_thread();
        let stop = Arc::new(crate::base::sync::PlainBool::new(false));
        forever(pool.clone(), stop.clone());
        let (sender, receiver) = channel();
        pool.execute(Task::new(move || sender.send(()).unwrap()));
        assert_eq!(receiver.recv(), Ok(()));
        stop.store(true, crate::base::sync::Ordering::Relaxed);
    }
}
