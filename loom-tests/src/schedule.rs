//! The keyed scheduler, with a thread for each task. What the tasks guard is relaxed, so only the
//! scheduler orders it: a write that is not alone loses one, a read that does not come after a
//! write may miss it.

use crate::explore;
use loom::thread;
use ringbell::sync::{AtomicU64, Ordering};
use ringbell::{KeyedScheduler, Task};
use std::sync::Arc;

const RELAXED: Ordering = Ordering::Relaxed;

fn scheduler() -> KeyedScheduler<u8> {
    KeyedScheduler::new(|task: Task| {
        thread::spawn(move || task.run());
    })
}

/// Twice the number of writes; odd during one.
#[derive(Clone)]
struct Thing(Arc<AtomicU64>);

impl Thing {
    fn new() -> Self {
        Self(Arc::new(AtomicU64::new(0)))
    }

    /// A write that comes after so many, or after any number of them.
    fn write(&self, after: Option<u64>) -> impl FnOnce() + Send + use<> {
        let thing = self.0.clone();
        move || {
            let now = thing.load(RELAXED);
            assert!(
                now.is_multiple_of(2) && after.is_none_or(|after| now == 2 * after),
                "a write after {now}/2 writes"
            );
            thing.store(now + 1, RELAXED);
            assert_eq!(thing.load(RELAXED), now + 1);
            thing.store(now + 2, RELAXED);
        }
    }

    /// A read that sees so many writes.
    fn read(&self, after: u64) -> impl FnOnce() + Send + use<> {
        let thing = self.0.clone();
        move || (0..2).for_each(|_| assert_eq!(thing.load(RELAXED), 2 * after, "a read"))
    }

    /// All have ended, so many of them writes, and left nothing behind.
    fn check(&self, scheduler: &KeyedScheduler<u8>, writes: u64) {
        assert!(scheduler.wait_idle(None));
        let stats = scheduler.stats();
        // A failed assertion of a task counts as its panic.
        assert_eq!((stats.panicked, stats.dropped), (0, 0));
        assert_eq!((stats.keys, stats.queued, stats.running), (0, 0, 0));
        assert_eq!(self.0.load(RELAXED), 2 * writes);
    }
}

/// A line: a write, two reads that wait for it, a write that waits for them. Bound 3.
#[test]
fn write_reads_write() {
    explore(Some(3), || {
        let (scheduler, thing) = (scheduler(), Thing::new());
        scheduler.write(0, thing.write(Some(0))).unwrap();
        scheduler.read(0, thing.read(1)).unwrap();
        scheduler.read(0, thing.read(1)).unwrap();
        scheduler.write(0, thing.write(Some(1))).unwrap();
        thing.check(&scheduler, 2);
    });
}

/// A line: a read, a write that waits for it, a read that does not overtake the write. Bound 4.
#[test]
fn read_write_read() {
    explore(Some(4), || {
        let (scheduler, thing) = (scheduler(), Thing::new());
        scheduler.read(0, thing.read(0)).unwrap();
        scheduler.write(0, thing.write(Some(0))).unwrap();
        scheduler.read(0, thing.read(1)).unwrap();
        thing.check(&scheduler, 1);
    });
}

/// Two submitters of one key, which is forgotten and made again, or not, as it comes. Bound 4.
#[test]
fn two_submitters() {
    explore(Some(4), || {
        let (scheduler, thing) = (scheduler(), Thing::new());
        let other = thread::spawn({
            let (scheduler, write) = (scheduler.clone(), thing.write(None));
            move || scheduler.write(0, write).unwrap()
        });
        scheduler.write(0, thing.write(None)).unwrap();
        other.join().unwrap();
        thing.check(&scheduler, 2);
    });
}

/// A task that submits to its own key.
#[test]
fn submitted_from_within() {
    explore(None, || {
        let (scheduler, thing) = (scheduler(), Thing::new());
        let (again, first, second) =
            (scheduler.clone(), thing.write(Some(0)), thing.write(Some(1)));
        let task = move || {
            again.write(0, second).unwrap();
            first();
        };
        scheduler.write(0, task).unwrap();
        thing.check(&scheduler, 2);
    });
}

/// IDLE: who waited until all had ended sees what each of them did, though no line connects them.
#[test]
fn idle_comes_after_all() {
    explore(None, || {
        let scheduler = scheduler();
        let words = [0, 1].map(|_| Arc::new(AtomicU64::new(0)));
        for word in words.clone() {
            scheduler.snapshot_read(0, move || word.store(1, RELAXED)).unwrap();
        }
        assert!(scheduler.wait_idle(None));
        assert_eq!(words.map(|word| word.load(RELAXED)), [1, 1]);
    });
}

/// After `close` and `wait_idle` nothing runs: what got in has ended, what did not is refused.
#[test]
fn close_against_submit() {
    explore(None, || {
        let (scheduler, thing) = (scheduler(), Thing::new());
        let submitter = thread::spawn({
            let (scheduler, write) = (scheduler.clone(), thing.write(Some(0)));
            move || scheduler.write(0, write).is_ok()
        });
        scheduler.close();
        assert!(scheduler.wait_idle(None));
        let written = thing.0.load(RELAXED);
        assert_eq!(written, if submitter.join().unwrap() { 2 } else { 0 });
    });
}
