//! Completions: a queue in the server's own memory and its private bell; and bytes that come back.

use crate::explore;
use crate::kernel::{Bell, bell};
use loom::sync::Mutex;
use loom::sync::atomic::{AtomicBool, AtomicU64};
use loom::thread;
use ringbell::layout::{Interest, Mode};
use ringbell::room::WantsRoom;
use ringbell::sync::Ordering;
use std::collections::VecDeque;
use std::sync::Arc;

type Queue = Arc<Mutex<VecDeque<u64>>>;

fn complete(queue: &Queue, bell: &Bell, call: u64) {
    queue.lock().unwrap().push_back(call);
    bell.ring(Interest::DATA);
}

/// Two completers, one completion each; the reactor takes one at a time and sleeps for the next.
fn two_completers(mode: fn(usize) -> Mode) {
    let queue = Queue::default();
    let (mut sleeping, bell) = bell();
    let completers = [1, 2].map(|call| {
        let (queue, bell) = (queue.clone(), bell.share());
        thread::spawn(move || complete(&queue, &bell, call))
    });
    let mut answered = 0;
    for _ in 0..2 {
        sleeping.sleep_until(mode, Interest::DATA, || {
            let call = queue.lock().unwrap().pop_front();
            answered += call.unwrap_or(0);
            call.is_some()
        });
    }
    assert_eq!(answered, 3);
    for completer in completers {
        completer.join().unwrap();
    }
    sleeping.check_wakes();
}

/// SLEEP: a completion that lands while the reactor is about to sleep is never missed; at most one
/// wake for each arm. A queue under a mutex needs the fences as much as a ring does: to skip the
/// wake is the ringer's own decision, outside the lock. Bound 3.
#[test]
fn two_completers_futex() {
    explore(Some(3), || two_completers(|_| Mode::Futex));
}

/// SLEEP and MODE: the same, with a reactor that sleeps in epoll at first and in a futex later.
/// Bound 3.
#[test]
fn two_completers_across_modes() {
    explore(Some(3), || {
        two_completers(|arms| if arms.is_multiple_of(2) { Mode::Event } else { Mode::Futex });
    });
}

/// SLEEP: one completer twice. Bound 4.
#[test]
fn one_completer_twice() {
    explore(Some(4), || {
        let queue = Queue::default();
        let (mut sleeping, bell) = bell();
        let completer = thread::spawn({
            let queue = queue.clone();
            move || (1..=2).for_each(|call| complete(&queue, &bell, call))
        });
        for call in 1..=2 {
            let look = || {
                let taken = queue.lock().unwrap().pop_front();
                assert!(taken.is_none() || taken == Some(call));
                taken.is_some()
            };
            sleeping.sleep_until(|_| Mode::Futex, Interest::DATA, look);
        }
        completer.join().unwrap();
        sleeping.check_wakes();
    });
}

/// SLEEP: as the reactor does it, which looks at a flag beside the queue instead of taking the
/// lock, and takes all that there is at once. The flag is relaxed: the fences order it. Bound 3.
#[test]
fn a_flag_beside_the_queue() {
    explore(Some(3), || {
        let any = Arc::new(AtomicBool::new(false));
        let queue = Queue::default();
        let (mut sleeping, bell) = bell();
        let completers = [1, 2].map(|call| {
            let (queue, any, bell) = (queue.clone(), any.clone(), bell.share());
            thread::spawn(move || {
                let mut queue = queue.lock().unwrap();
                queue.push_back(call);
                any.store(true, Ordering::Relaxed);
                drop(queue);
                bell.ring(Interest::DATA);
            })
        });
        let mut answered = 0;
        while answered != 3 {
            sleeping.sleep_until(|_| Mode::Futex, Interest::DATA, || any.load(Ordering::Relaxed));
            let mut queue = queue.lock().unwrap();
            any.store(false, Ordering::Relaxed);
            answered += queue.drain(..).sum::<u64>();
        }
        for completer in completers {
            completer.join().unwrap();
        }
        sleeping.check_wakes();
    });
}

/// ROOM: a reader that finds too much held announces that it waits, and looks again; a side that
/// gives bytes back asks whether somebody waits, and rings only then. The reader sleeps on a bell.
/// Bound 3.
#[test]
fn bytes_that_come_back() {
    explore(Some(3), || {
        let held = Arc::new(AtomicU64::new(2));
        let waiting = Arc::new(WantsRoom::new());
        let (mut sleeping, bell) = bell();
        let givers = [1, 1].map(|bytes| {
            let (held, waiting, bell) = (held.clone(), waiting.clone(), bell.share());
            thread::spawn(move || {
                held.fetch_sub(bytes, Ordering::Relaxed);
                if waiting.take() {
                    bell.ring(Interest::DATA);
                }
            })
        });
        for most in [1, 0] {
            let look = || held.load(Ordering::Relaxed) <= most;
            sleeping.sleep_until(
                |_| Mode::Futex,
                Interest::DATA,
                || {
                    look() || {
                        waiting.announce();
                        look()
                    }
                },
            );
        }
        for giver in givers {
            giver.join().unwrap();
        }
        sleeping.check_wakes();
    });
}
