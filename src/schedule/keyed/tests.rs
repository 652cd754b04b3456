//! The scheduler against a sequential oracle, on threads and on an executor that picks at random;
//! and its edges.

use super::*;
use crate::base::sync::PlainBool;
use proptest::prelude::*;
use std::sync::{Barrier, Condvar, mpsc};
use std::thread;

// ---- executors ----

/// Threads over one queue. They end when the executor is dropped.
fn pool(threads: usize) -> impl Executor {
    let (sender, receiver) = mpsc::channel::<Task>();
    let receiver = Arc::new(Mutex::new(receiver));
    for _ in 0..threads {
        let receiver = receiver.clone();
        thread::spawn(move || {
            loop {
                let task = lock(&receiver).recv();
                let Ok(task) = task else { return };
                task.run();
            }
        });
    }
    move |task| sender.send(task).unwrap()
}

/// Keeps tasks until it is told to run one.
#[derive(Clone, Default)]
struct Deck(Arc<Mutex<Vec<Task>>>);

impl Executor for Deck {
    fn execute(&self, task: Task) {
        lock(&self.0).push(task);
    }
}

impl Deck {
    fn len(&self) -> usize {
        lock(&self.0).len()
    }

    fn pick(&self, number: usize) -> Option<Task> {
        let mut tasks = lock(&self.0);
        let len = tasks.len();
        (len > 0).then(|| tasks.swap_remove(number % len))
    }

    fn run_all(&self) {
        while let Some(task) = self.pick(0) {
            task.run();
        }
    }
}

fn meant() {
    std::panic::resume_unwind(Box::new("meant"));
}

// ---- the oracle ----

/// What one key guards. Enters and leaves by itself, so that the scheduler alone keeps it
/// consistent.
#[derive(Default)]
struct Thing {
    readers: usize,
    writing: bool,
    /// The numbers of the writes so far.
    written: Vec<usize>,
}

struct World {
    things: Vec<Mutex<Thing>>,
    /// For each operation: how often it ran, and what it saw.
    ran: Mutex<Vec<(usize, Vec<usize>)>>,
}

impl World {
    fn run(&self, number: usize, access: Access, key: usize) {
        let thing = &self.things[key];
        let saw = {
            let mut thing = lock(thing);
            match access {
                Access::SnapshotRead => {}
                Access::Read => {
                    assert!(!thing.writing, "a read beside a write");
                    thing.readers += 1;
                }
                Access::Write => {
                    assert!(!thing.writing && thing.readers == 0, "a write that is not alone");
                    thing.writing = true;
                }
            }
            thing.written.clone()
        };
        for _ in 0..number % 4 {
            thread::yield_now();
        }
        let mut thing = lock(thing);
        match access {
            Access::SnapshotRead => {}
            Access::Read => {
                assert_eq!(thing.written, saw, "a write beside a read");
                thing.readers -= 1;
            }
            Access::Write => {
                thing.writing = false;
                thing.written.push(number);
            }
        }
        drop(thing);
        let ran = &mut lock(&self.ran)[number];
        *ran = (ran.0 + 1, saw);
    }
}

#[derive(Debug, Clone, Copy)]
struct Operation {
    access: Access,
    key: usize,
    panics: bool,
    /// How many tasks the deck runs next.
    run: usize,
}

const KEYS: usize = 3;

fn program() -> impl Strategy<Value = Vec<Operation>> {
    let access = prop_oneof![
        1 => Just(Access::SnapshotRead),
        3 => Just(Access::Read),
        3 => Just(Access::Write),
    ];
    let operation = (access, 0..KEYS, prop::bool::weighted(0.1), 0..3_usize)
        .prop_map(|(access, key, panics, run)| Operation { access, key, panics, run });
    prop::collection::vec(operation, 1..80)
}

/// Submits `program`, with `between` after each operation, then `finish`; compares with the
/// sequential run.
fn check(
    program: &[Operation],
    scheduler: &KeyedScheduler<usize>,
    mut between: impl FnMut(usize),
    finish: impl FnOnce(),
) {
    let world = Arc::new(World {
        things: (0..KEYS).map(|_| Mutex::default()).collect(),
        ran: Mutex::new(vec![(0, Vec::new()); program.len()]),
    });
    for (number, operation) in program.iter().copied().enumerate() {
        let world = world.clone();
        let task = move || {
            world.run(number, operation.access, operation.key);
            if operation.panics {
                meant();
            }
        };
        scheduler.submit(operation.key, operation.access, task).unwrap();
        between(operation.run);
    }
    finish();
    assert!(scheduler.wait_idle(Some(Duration::from_secs(60))));
    let mut written = [const { Vec::new() }; KEYS];
    for (number, (operation, (runs, saw))) in program.iter().zip(&*lock(&world.ran)).enumerate() {
        assert_eq!(*runs, 1, "operation {number} ran {runs} times");
        match operation.access {
            Access::SnapshotRead => {}
            Access::Read => assert_eq!(*saw, written[operation.key], "read {number}"),
            Access::Write => {
                assert_eq!(*saw, written[operation.key], "write {number}");
                written[operation.key].push(number);
            }
        }
    }
    let stats = scheduler.stats();
    let panics = program.iter().filter(|operation| operation.panics).count() as u64;
    // That panics with an assertion would count, too: none did.
    assert_eq!(stats.panicked, panics);
    assert_eq!((stats.keys, stats.queued, stats.running, stats.dropped), (0, 0, 0, 0));
    assert!(stats.peak_keys <= KEYS as u64);
    assert!(stats.peak_running > 0 && stats.peak_queued + stats.peak_running >= stats.peak_keys);
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(300)
    })]

    #[test]
    fn oracle_on_threads(program in program(), threads in 1..6_usize) {
        check(&program, &KeyedScheduler::new(pool(threads)), |_| {}, || {});
    }

    #[test]
    fn oracle_in_random_order(
        program in program(),
        picks in prop::collection::vec(any::<usize>(), 256),
    ) {
        let deck = Deck::default();
        let scheduler = KeyedScheduler::new(deck.clone());
        let mut picks = picks.into_iter().cycle();
        let mut run = |count| {
            for _ in 0..count {
                let Some(task) = deck.pick(picks.next().unwrap()) else { return };
                task.run();
            }
        };
        let between = |count| run(count);
        check(&program, &scheduler, between, || deck.run_all());
    }

    #[test]
    fn oracle_inline(program in program()) {
        check(&program, &KeyedScheduler::new(|task: Task| task.run()), |_| {}, || {});
    }
}

/// Several submitters; each thread's own operations are in order.
#[test]
fn submitters_do_not_disturb_each_other() {
    let scheduler = KeyedScheduler::new(pool(4));
    type Log = Mutex<Vec<(usize, usize)>>;
    let logs: Arc<[Log; 2]> = Arc::default();
    thread::scope(|scope| {
        for submitter in 0..4 {
            let (scheduler, logs) = (&scheduler, &logs);
            scope.spawn(move || {
                for number in 0..2_000 {
                    let logs = logs.clone();
                    let key = number % 2;
                    let write = move || {
                        logs[key].try_lock().expect("a write is alone").push((submitter, number));
                    };
                    scheduler.write(key, write).unwrap();
                }
            });
        }
    });
    assert!(scheduler.wait_idle(None));
    for log in logs.iter() {
        let log = lock(log);
        assert_eq!(log.len(), 4_000);
        for submitter in 0..4 {
            assert!(log.iter().filter(|(by, _)| *by == submitter).is_sorted());
        }
    }
    assert_eq!(scheduler.stats().panicked, 0);
}

// ---- who runs beside whom ----

#[test]
fn reads_of_a_key_run_together() {
    let scheduler = KeyedScheduler::new(pool(3));
    let barrier = Arc::new(Barrier::new(3));
    let (open, opened) = mpsc::channel::<()>();
    // These come out of the line as one batch.
    scheduler.write(0, move || opened.recv().unwrap()).unwrap();
    for _ in 0..3 {
        let barrier = barrier.clone();
        scheduler.read(0, move || _ = barrier.wait()).unwrap();
    }
    assert_eq!(scheduler.stats().queued, 3);
    open.send(()).unwrap();
    assert!(scheduler.wait_idle(None));
    // And these never were in it.
    for _ in 0..3 {
        let barrier = barrier.clone();
        scheduler.read(0, move || _ = barrier.wait()).unwrap();
    }
    assert!(scheduler.wait_idle(None));
}

#[test]
fn snapshot_reads_and_other_keys_do_not_wait() {
    let scheduler = KeyedScheduler::new(pool(2));
    let (open, opened) = mpsc::channel::<()>();
    scheduler.write("a", move || opened.recv().unwrap()).unwrap();
    scheduler.write("a", || {}).unwrap();
    let (done, finished) = mpsc::channel();
    let other = done.clone();
    scheduler.snapshot_read("a", move || done.send(()).unwrap()).unwrap();
    scheduler.write("b", move || other.send(()).unwrap()).unwrap();
    finished.recv().unwrap();
    finished.recv().unwrap();
    assert_eq!(scheduler.stats().queued, 1);
    open.send(()).unwrap();
    assert!(scheduler.wait_idle(None));
}

// ---- the stack ----

/// On a thread whose stack is too small for a recursion.
fn with_little_stack(run: impl FnOnce() + Send + 'static) {
    thread::Builder::new().stack_size(128 << 10).spawn(run).unwrap().join().unwrap();
}

const LONG: u64 = 100_000;

#[test]
fn a_long_line_on_an_inline_executor() {
    with_little_stack(|| {
        let scheduler = KeyedScheduler::new(|task: Task| task.run());
        let ran = Arc::new(PlainU64::new(0));
        let (again, counter) = (scheduler.clone(), ran.clone());
        let first = move || {
            for number in 0..LONG {
                let counter = counter.clone();
                let task = move || assert_eq!(counter.fetch_add(1, Ordering::Relaxed), number);
                again
                    .submit(0, if number % 3 == 0 { Access::Read } else { Access::Write }, task)
                    .unwrap();
            }
        };
        scheduler.write(0, first).unwrap();
        assert_eq!(ran.load(Ordering::Relaxed), LONG);
        assert_eq!(
            scheduler.stats(),
            SchedulerStats {
                peak_keys: 1,
                peak_queued: LONG,
                peak_running: scheduler.stats().peak_running,
                ..SchedulerStats::default()
            }
        );
    });
}

/// Each write submits the next one.
#[test]
fn a_chain_on_an_inline_executor() {
    fn link(scheduler: &KeyedScheduler<u8>, left: u64) {
        if left > 0 {
            let again = scheduler.clone();
            scheduler.write(0, move || link(&again, left - 1)).unwrap();
        }
    }
    with_little_stack(|| {
        let scheduler = KeyedScheduler::new(|task: Task| task.run());
        link(&scheduler, LONG);
        assert!(scheduler.wait_idle(Some(Duration::ZERO)));
    });
}

#[test]
fn a_long_line_on_an_executor_that_drops_tasks() {
    with_little_stack(|| {
        let (deck, closed) = (Deck::default(), Arc::new(PlainBool::new(false)));
        let (inner, flag) = (deck.clone(), closed.clone());
        let scheduler = KeyedScheduler::new(move |task: Task| {
            if !flag.load(Ordering::Relaxed) {
                inner.execute(task);
            }
        });
        let owned = Arc::new(());
        for _ in 0..LONG {
            let owned = owned.clone();
            scheduler.write(0, move || drop(owned)).unwrap();
        }
        closed.store(true, Ordering::Relaxed);
        drop(deck.pick(0));
        assert!(scheduler.wait_idle(Some(Duration::ZERO)));
        assert_eq!(scheduler.stats().dropped, LONG);
        assert_eq!(Arc::strong_count(&owned), 1, "what the tasks owned is dropped");
    });
}

/// Two schedulers with inline executors, each of whose tasks submits to the other one and relies on
/// it.
#[test]
fn schedulers_nest() {
    let outer = KeyedScheduler::new(|task: Task| task.run());
    let inner = KeyedScheduler::new(|task: Task| task.run());
    let ran = Arc::new(PlainU64::new(0));
    let (again, other, counter) = (outer.clone(), inner.clone(), ran.clone());
    let task = move || {
        for _ in 0..10 {
            let (other, counter) = (other.clone(), counter.clone());
            let nested = move || {
                let again = other.clone();
                let task = move || {
                    for _ in 0..10 {
                        let counter = counter.clone();
                        again
                            .write(0, move || _ = counter.fetch_add(1, Ordering::Relaxed))
                            .unwrap();
                    }
                };
                other.write(0, task).unwrap();
                assert!(
                    other.wait_idle(Some(Duration::ZERO)),
                    "not put off by the outer scheduler"
                );
            };
            again.write(0, nested).unwrap();
        }
    };
    outer.write(0, task).unwrap();
    assert_eq!(ran.load(Ordering::Relaxed), 100);
    assert_eq!(outer.stats().panicked, 0);
}

// ---- tasks that do not end well ----

/// Says when it is dropped.
struct Responder(mpsc::Sender<&'static str>, &'static str);

impl Drop for Responder {
    fn drop(&mut self) {
        let _ = self.0.send(self.1);
    }
}

#[test]
fn what_a_task_owns_is_dropped_before_the_next_one_runs() {
    let deck = Deck::default();
    let scheduler = KeyedScheduler::new(deck.clone());
    let (sender, drops) = mpsc::channel();
    let first = Responder(sender.clone(), "first");
    let panicking = move || {
        let _first = &first;
        meant();
    };
    scheduler.write(0, panicking).unwrap();
    let second = Responder(sender.clone(), "second");
    scheduler.write(0, move || drop(second)).unwrap();
    let third = Responder(sender, "third");
    scheduler.read(0, move || drop(third)).unwrap();
    deck.pick(0).unwrap().run();
    assert_eq!(drops.try_iter().collect::<Vec<_>>(), ["first"]);
    // The second is dropped by the executor.
    drop(deck.pick(0));
    assert_eq!(drops.try_iter().collect::<Vec<_>>(), ["second"]);
    deck.run_all();
    assert_eq!(drops.iter().collect::<Vec<_>>(), ["third"]);
    let stats = scheduler.stats();
    assert_eq!((stats.panicked, stats.dropped, stats.keys, stats.running), (1, 1, 0, 0));
}

#[test]
fn an_executor_that_panics_drops_the_task() {
    let scheduler = KeyedScheduler::new(|_: Task| meant());
    for access in [Access::Write, Access::Read, Access::SnapshotRead] {
        scheduler.submit(0, access, || unreachable!()).unwrap();
    }
    assert!(scheduler.wait_idle(Some(Duration::ZERO)));
    assert_eq!(scheduler.stats().dropped, 3);
}

// ---- the end ----

#[test]
fn close_refuses_and_the_rest_runs() {
    let deck = Deck::default();
    let scheduler = KeyedScheduler::new(deck.clone());
    let again = scheduler.clone();
    let (sender, refused) = mpsc::channel();
    scheduler.write(0, move || sender.send(again.write(0, || {}).is_err()).unwrap()).unwrap();
    scheduler.read(0, || {}).unwrap();
    scheduler.close();
    scheduler.close();
    let (sender, receiver) = mpsc::channel();
    let Err(Closed(task)) = scheduler.snapshot_read(0, move || sender.send(7).unwrap()) else {
        panic!()
    };
    task();
    assert_eq!(receiver.recv(), Ok(7), "the refused task is the one that was given");
    assert!(!scheduler.wait_idle(Some(Duration::ZERO)));
    assert!(!scheduler.wait_idle(Some(Duration::from_millis(1))));
    assert_eq!(deck.len(), 1);
    deck.run_all();
    assert_eq!(refused.recv(), Ok(true));
    assert!(scheduler.wait_idle(Some(Duration::MAX)));
}

#[test]
fn what_was_submitted_outlives_the_handle() {
    let (pool, ended) = (pool(1), Arc::new((Mutex::new(false), Condvar::new())));
    let scheduler = KeyedScheduler::new(pool);
    let (open, opened) = mpsc::channel::<()>();
    scheduler.write(0, move || opened.recv().unwrap()).unwrap();
    scheduler.write(0, || {}).unwrap();
    let last = ended.clone();
    let task = move || {
        *lock(&last.0) = true;
        last.1.notify_all();
    };
    scheduler.read(0, task).unwrap();
    let shared = Arc::downgrade(&scheduler.shared);
    drop(scheduler);
    open.send(()).unwrap();
    drop(ended.1.wait_while(lock(&ended.0), |ended| !*ended).unwrap());
    while shared.strong_count() > 0 {
        thread::yield_now();
    }
}

// ---- memory ----

fn capacity<K>(scheduler: &KeyedScheduler<K>) -> usize {
    scheduler.shared.shards.iter().map(|shard| lock(&shard.0).capacity()).sum()
}

const MILLION: u64 = 1_000_000;

#[test]
fn a_million_keys_one_after_the_other() {
    let scheduler = KeyedScheduler::new(|task: Task| task.run());
    for key in 0..MILLION {
        scheduler.write(key, || {}).unwrap();
    }
    assert_eq!((scheduler.stats().keys, scheduler.stats().peak_keys), (0, 1));
    assert!(capacity(&scheduler) <= 4 * SHARDS);
}

#[test]
fn a_million_keys_at_once() {
    let deck = Deck::default();
    let scheduler = KeyedScheduler::new(deck.clone());
    for key in 0..MILLION {
        scheduler.write(key, || {}).unwrap();
    }
    assert_eq!(scheduler.stats().keys, MILLION);
    assert_eq!(deck.len() as u64, MILLION);
    deck.run_all();
    assert_eq!((scheduler.stats().keys, scheduler.stats().peak_keys), (0, MILLION));
    assert!(capacity(&scheduler) <= 2 * KEEP * SHARDS, "{}", capacity(&scheduler));
}
