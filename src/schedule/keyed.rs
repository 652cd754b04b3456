//! Reads and writes of things that have a key, in order for each key, on an executor of the
//! caller.
//!
//! A key in use has a [`line::Line`], which knows who runs and who waits; lines stand in shards,
//! each behind a mutex. A task that the line lets in goes to the executor with a [`Permit`]; when
//! the permit is dropped, after the task ran or instead, the line lets the next ones in. An idle
//! key has no line.

mod gate;
mod line;
#[cfg(all(test, not(ringbell_loom)))]
mod tests;

use crate::base::sync::{Mutex, Ordering, PlainU64, lock, thread_local};
use crate::schedule::executor::{Executor, Run, Task};
use gate::Gate;
use line::{Line, Next};
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hash, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// What a task does with its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Reads something that no write changes, such as an old version: never waits, and keeps nobody
    /// waiting.
    SnapshotRead,
    /// Reads the latest state: sees what was submitted before it written, and nothing else.
    Read,
    /// Changes the state, alone.
    Write,
}

/// Runs tasks on an [`Executor`]: those of one key in order, where that matters, those of different
/// keys independently.
///
/// | | waits for, of the same key and submitted earlier |
/// |---|---|
/// | [`snapshot_read`](Self::snapshot_read) | nothing |
/// | [`read`](Self::read) | writes |
/// | [`write`](Self::write) | reads and writes |
///
/// Reads that nothing separates run concurrently. Nobody overtakes: a read that was submitted after
/// a write waits even while that write waits itself, so neither reads nor writes starve. Between
/// submissions by different threads at the same time, which is earlier is decided by a lock; a
/// thread's own are in its order.
///
/// Tasks are `FnOnce`, so a request and its responder are moved in, and the answer is given from
/// inside:
///
/// ```
/// use ringbell::{KeyedScheduler, Task};
/// use std::collections::HashMap;
/// use std::sync::{Arc, Mutex, mpsc};
///
/// // A pool of the caller; here, for brevity, a thread for each task.
/// let scheduler = KeyedScheduler::new(|task: Task| {
///     std::thread::spawn(|| task.run());
/// });
/// let balances = Arc::new(Mutex::new(HashMap::new()));
/// let (answer, answers) = mpsc::channel();
///
/// let accounts = balances.clone();
/// scheduler.write("alice", move || {
///     accounts.lock().unwrap().insert("alice", 70);
/// })?;
/// scheduler.read("alice", move || {
///     answer.send(balances.lock().unwrap()["alice"]).unwrap();
/// })?;
/// assert_eq!(answers.recv(), Ok(70));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Tasks
///
/// A task may submit others, to its own key too; it holds a clone of the scheduler for that, which
/// is cheap. It must not wait for them: those behind it in its line never run before it ends, and
/// the others need a thread of the same executor.
///
/// A task that panics gives its place up like any other, after what it owns is dropped. The panic
/// ends there (the hook has reported it): it is counted in [`SchedulerStats::panicked`], and the
/// executor does not see it. What the task left half-written is its author's concern. A task that
/// the executor drops gives its place up too. An executor whose `execute` panics counts as one that
/// dropped the task.
///
/// # Memory
///
/// A key is remembered while a task of it (no snapshot read) runs or waits, and forgotten then.
/// Nothing bounds the number of tasks that wait: who accepts requests must (a server does, for each
/// client).
///
/// # The end
///
/// The scheduler is a handle. Dropping the last one abandons nothing: what was submitted runs.
/// After [`close`](Self::close) nothing more can be submitted, and [`wait_idle`](Self::wait_idle)
/// waits for the rest. The executor is dropped when the last handle is gone and the last task has
/// ended, perhaps on one of its own threads.
///
/// # Keys
///
/// `Hash`, `Eq` and `Clone` of the key run under a lock: they must neither panic nor use the
/// scheduler.
pub struct KeyedScheduler<K> {
    shared: Arc<SchedulerInner<K>>,
}

/// The scheduler is closed. Has the task, which did not run; dropping it drops what it owns.
pub struct Closed<F>(pub F);

/// What a scheduler does and did. Read without a lock: while tasks come and go, the numbers need
/// not fit together exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SchedulerStats {
    /// Keys that are remembered: those with a read or a write that runs or waits.
    pub keys: u64,
    /// Tasks that wait for others of their key.
    pub queued: u64,
    /// Tasks that the executor has, running or about to.
    pub running: u64,
    /// Most keys at once, so far.
    pub peak_keys: u64,
    /// Most tasks waiting at once, so far.
    pub peak_queued: u64,
    /// Most tasks with the executor at once, so far.
    pub peak_running: u64,
    /// Tasks that panicked.
    pub panicked: u64,
    /// Tasks that the executor dropped without running them.
    pub dropped: u64,
}

impl<K: Hash + Eq + Clone + Send + 'static> KeyedScheduler<K> {
    /// A scheduler whose tasks run on `executor`. See [`Executor`] for which one, and of what size.
    pub fn new(executor: impl Executor) -> Self {
        let shared = SchedulerInner {
            shards: (0..SHARDS).map(|_| Shard(Mutex::new(HashMap::new()))).collect(),
            hasher: RandomState::new(),
            executor: Box::new(executor),
            gate: Gate::new(),
            keys: Gauge::default(),
            queued: Gauge::default(),
            running: Gauge::default(),
            panicked: PlainU64::new(0),
            dropped: PlainU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Runs `task` at once, whatever else runs or waits. It should read only what no write changes.
    ///
    /// May be called from any thread, like all of these; returns without waiting for any task.
    ///
    /// # Errors
    /// [`Closed`] gives the task back.
    pub fn snapshot_read<F: FnOnce() + Send + 'static>(
        &self,
        key: K,
        task: F,
    ) -> Result<(), Closed<F>> {
        self.submit(key, Access::SnapshotRead, task)
    }

    /// Runs `task` after all writes of `key` that were submitted before, and before all that
    /// follow; concurrently with other reads.
    ///
    /// # Errors
    /// [`Closed`] gives the task back.
    pub fn read<F: FnOnce() + Send + 'static>(&self, key: K, task: F) -> Result<(), Closed<F>> {
        self.submit(key, Access::Read, task)
    }

    /// Runs `task` after all reads and writes of `key` that were submitted before, and before all
    /// that follow.
    ///
    /// # Errors
    /// [`Closed`] gives the task back.
    pub fn write<F: FnOnce() + Send + 'static>(&self, key: K, task: F) -> Result<(), Closed<F>> {
        self.submit(key, Access::Write, task)
    }

    /// One of the three above, as `access` says.
    ///
    /// # Errors
    /// [`Closed`] gives the task back.
    pub fn submit<F: FnOnce() + Send + 'static>(
        &self,
        key: K,
        access: Access,
        task: F,
    ) -> Result<(), Closed<F>> {
        let shared = &self.shared;
        if !shared.gate.enter() {
            return Err(Closed(task));
        }
        let mut job = Box::new(Job { task: Some(task), permit: None });
        let key = match access {
            Access::SnapshotRead => None,
            Access::Read | Access::Write => {
                let mut lines = lock(&shared.shard(&key).0);
                let line = match lines.get_mut(&key) {
                    Some(line) => line,
                    None => {
                        shared.keys.up();
                        lines.entry(key.clone()).or_insert_with(Line::new)
                    }
                };
                if !line.enter(access) {
                    shared.queued.up();
                    line.wait(access, job);
                    return Ok(());
                }
                Some(key)
            }
        };
        job.permit = Some(Permit::new(shared, key));
        shared.execute(Task::from_box(job));
        Ok(())
    }

    /// Lets nothing more be submitted. What was submitted runs; what its tasks submit is refused,
    /// too.
    ///
    /// May be called any number of times.
    pub fn close(&self) {
        self.shared.gate.close();
    }

    /// Waits until every task that was submitted has ended, at most `timeout`: `None` waits for
    /// ever, zero does not wait. Whether that came about; what the tasks did is visible then.
    /// Without [`close`](Self::close) the next task may come at any time.
    ///
    /// A task that calls this waits for itself.
    pub fn wait_idle(&self, timeout: Option<Duration>) -> bool {
        self.shared.gate.wait_empty(timeout)
    }

    /// What it does, and did so far.
    pub fn stats(&self) -> SchedulerStats {
        let shared = &self.shared;
        SchedulerStats {
            keys: shared.keys.now(),
            queued: shared.queued.now(),
            running: shared.running.now(),
            peak_keys: shared.keys.peak(),
            peak_queued: shared.queued.peak(),
            peak_running: shared.running.peak(),
            panicked: shared.panicked.load(Ordering::Relaxed),
            dropped: shared.dropped.load(Ordering::Relaxed),
        }
    }
}

impl<K> Clone for KeyedScheduler<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<K> std::fmt::Debug for KeyedScheduler<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let SchedulerInner { keys, queued, running, .. } = &*self.shared;
        f.debug_struct("KeyedScheduler")
            .field("keys", keys)
            .field("queued", queued)
            .field("running", running)
            .finish_non_exhaustive()
    }
}

impl<F> std::fmt::Debug for Closed<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Closed(..)")
    }
}

impl<F> std::fmt::Display for Closed<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the scheduler is closed")
    }
}

impl<F> std::error::Error for Closed<F> {}

/// Enough that few threads meet in one. Under the model checker they all do.
const SHARDS: usize = if cfg!(ringbell_loom) { 1 } else { 16 };

/// A map of so many keys keeps its memory.
const KEEP: usize = 64;

type Lines<K> = HashMap<K, Line<Box<dyn Waiting<K>>>>;

/// Two lines: the next one is fetched along with its neighbour.
#[repr(align(128))]
struct Shard<K>(Mutex<Lines<K>>);

struct SchedulerInner<K> {
    shards: Box<[Shard<K>]>,
    /// Picks the shard; the maps have their own, so that the keys of a shard differ there.
    hasher: RandomState,
    executor: Box<dyn Executor>,
    gate: Gate,
    keys: Gauge,
    queued: Gauge,
    running: Gauge,
    panicked: PlainU64,
    dropped: PlainU64,
}

/// A number that goes up and down, and its peak. One's own ups come before one's downs, so it never
/// wraps.
#[derive(Default)]
struct Gauge {
    now: PlainU64,
    peak: PlainU64,
}

impl Gauge {
    fn up(&self) {
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        // The look first leaves the line shared where there is no new peak.
        if now > self.peak() {
            self.peak.fetch_max(now, Ordering::Relaxed);
        }
    }

    fn down(&self, by: usize) {
        self.now.fetch_sub(by as u64, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for Gauge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (peak {})", self.now(), self.peak())
    }
}

/// A submitted task, in the one allocation that it costs.
struct Job<K, F>
where
    K: Hash + Eq + Clone + Send + 'static,
{
    // Before the permit: what a task owns is dropped before its successors run.
    task: Option<F>,
    /// `None` while it waits.
    permit: Option<Permit<K>>,
}

/// A job in a line.
trait Waiting<K: Hash + Eq + Clone + Send + 'static>: Run {
    /// It may run.
    fn give(&mut self, permit: Permit<K>);
}

impl<K, F> Waiting<K> for Job<K, F>
where
    K: Hash + Eq + Clone + Send + 'static,
    F: FnOnce() + Send,
{
    fn give(&mut self, permit: Permit<K>) {
        self.permit = Some(permit);
    }
}

impl<K, F> Run for Job<K, F>
where
    K: Hash + Eq + Clone + Send + 'static,
    F: FnOnce() + Send,
{
    fn run(mut self: Box<Self>) {
        let (Some(task), Some(permit)) = (self.task.take(), &mut self.permit) else { return };
        permit.ran = true;
        // Unwind safety: as for a handler, what a panic leaves half-done is its author's concern.
        if let Err(payload) = catch_unwind(AssertUnwindSafe(task)) {
            permit.shared.panicked.fetch_add(1, Ordering::Relaxed);
            drop(payload);
        }
    }
}

/// The permit of a task that the executor has: from being let in until it is dropped.
struct Permit<K: Hash + Eq + Clone + Send + 'static> {
    shared: Arc<SchedulerInner<K>>,
    /// In whose line; none for a snapshot read.
    key: Option<K>,
    ran: bool,
}

impl<K: Hash + Eq + Clone + Send + 'static> Permit<K> {
    fn new(shared: &Arc<SchedulerInner<K>>, key: Option<K>) -> Self {
        shared.running.up();
        Self { shared: shared.clone(), key, ran: false }
    }
}

impl<K: Hash + Eq + Clone + Send + 'static> Drop for Permit<K> {
    fn drop(&mut self) {
        if !self.ran {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.shared.running.down(1);
        if let Some(key) = self.key.take() {
            self.shared.leave(key);
        }
        self.shared.gate.leave();
    }
}

impl<K: Hash + Eq + Clone + Send + 'static> SchedulerInner<K> {
    fn shard(&self, key: &K) -> &Shard<K> {
        // The remainder is less than the number of shards.
        #[allow(clippy::cast_possible_truncation)]
        let index = (self.hasher.hash_one(key) % self.shards.len() as u64) as usize;
        &self.shards[index]
    }

    /// A task of `key` ended: its successors start.
    fn leave(self: &Arc<Self>, key: K) {
        let mut lines = lock(&self.shard(&key).0);
        let line = lines.get_mut(&key).expect("a key with a task is remembered");
        let next = line.leave();
        let forgotten = if line.is_idle() {
            self.keys.down(1);
            let forgotten = lines.remove_entry(&key);
            if lines.capacity() > KEEP && lines.len() < lines.capacity() / 4 {
                let half = lines.capacity() / 2;
                lines.shrink_to(half);
            }
            forgotten
        } else {
            None
        };
        drop(lines);
        // What is the caller's is dropped without the lock.
        drop(forgotten);
        let start = |mut job: Box<dyn Waiting<K>>, key: K| {
            self.queued.down(1);
            job.give(Permit::new(self, Some(key)));
            Task::from_box(job)
        };
        match next {
            Next::Nobody => {}
            Next::One(job) => self.start([start(job, key)]),
            Next::Many(jobs) => self.start(jobs.into_iter().map(|job| start(job, key.clone()))),
        }
    }

    /// Gives successors to the executor. One that runs or drops them before it returns gets here
    /// again, while still in here: they are put off then, and the outer call goes through them. So
    /// a long line is a loop, and no recursion.
    fn start(self: &Arc<Self>, tasks: impl IntoIterator<Item = Task>) {
        let scheduler = Arc::as_ptr(self).addr();
        let mut tasks = Some(tasks);
        let nested = STARTING.try_with(|starting| match &mut *starting.borrow_mut() {
            Some(outer) if outer.scheduler == scheduler => {
                outer.put_off.extend(tasks.take().into_iter().flatten());
                None
            }
            other => Some(other.replace(Starting { scheduler, put_off: VecDeque::new() })),
        });
        let Some(tasks) = tasks else { return };
        for task in tasks {
            self.execute(task);
        }
        // A thread that is ending has no such variable any more, and recurses.
        let Ok(Some(outer)) = nested else { return };
        while let Some(task) = put_off() {
            self.execute(task);
        }
        // Of another scheduler, or none.
        let _ = STARTING.try_with(|starting| starting.replace(outer));
    }

    fn execute(&self, task: Task) {
        // After a panic the task is dropped already, and gave its permit up.
        let _ = catch_unwind(AssertUnwindSafe(|| self.executor.execute(task)));
    }
}

/// A thread that is giving successors to an executor.
struct Starting {
    scheduler: usize,
    /// Successors of those that were run meanwhile, on this very thread.
    put_off: VecDeque<Task>,
}

thread_local! {
    #[allow(clippy::missing_const_for_thread_local, reason = "loom's macro takes no const block")]
    static STARTING: RefCell<Option<Starting>> = RefCell::new(None);
}

/// The next one that was put off. The variable is not borrowed when this returns.
fn put_off() -> Option<Task> {
    let next =
        |starting: &RefCell<Option<Starting>>| starting.borrow_mut().as_mut()?.put_off.pop_front();
    STARTING.try_with(next).ok().flatten()
}
