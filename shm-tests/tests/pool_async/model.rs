//! Futures of a pool against a model.

use crate::shop::{Bell, Shop, poll, settings, shop};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use ringbell::pool::{Acquire, Guard, Pool};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::{done, scaled, wait_until};
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;

#[derive(Debug, Clone)]
enum Step {
    Start,
    Poll(usize),
    Drop(usize),
    Release { which: usize, poisoned: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Start),
        3 => any::<usize>().prop_map(Step::Poll),
        2 => any::<usize>().prop_map(Step::Drop),
        3 => (any::<usize>(), prop::bool::weighted(0.1))
            .prop_map(|(which, poisoned)| Step::Release { which, poisoned }),
    ]
}

struct Wait {
    number: u64,
    future: Acquire<Shop>,
    bell: Arc<Bell>,
    served: bool,
}

/// A pool that is full, seen by its users: what is free, who waits in which order, what is held.
struct Model {
    pool: Pool<Shop>,
    free: usize,
    started: u64,
    line: VecDeque<u64>,
    waits: Vec<Wait>,
    held: Vec<Guard<Shop>>,
    poisoned: u64,
}

impl Model {
    fn new(size: usize) -> Self {
        let (pool, _) = shop(settings(size));
        Self {
            pool,
            free: size,
            started: 0,
            line: VecDeque::new(),
            waits: Vec::new(),
            held: Vec::new(),
            poisoned: 0,
        }
    }

    /// An item became free.
    fn freed(&mut self) {
        match self.line.pop_front() {
            Some(number) => {
                let wait =
                    self.waits.iter_mut().find(|wait| wait.number == number).expect("it waits");
                wait.served = true;
                wait_until("the first in line is woken", || wait.bell.rings() == 1);
            }
            None => self.free += 1,
        }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Start => {
                let (mut future, bell) = (self.pool.acquire_async(), Arc::<Bell>::default());
                match poll(&mut future, &bell) {
                    Poll::Ready(acquired) => {
                        assert!(self.free > 0, "it got one that is not there");
                        self.free -= 1;
                        self.held.push(acquired.expect("open"));
                    }
                    Poll::Pending => {
                        assert_eq!(self.free, 0, "it waits although one is ready");
                        self.started += 1;
                        self.line.push_back(self.started);
                        self.waits.push(Wait { number: self.started, future, bell, served: false });
                    }
                }
            }
            Step::Poll(which) if !self.waits.is_empty() => {
                let which = which % self.waits.len();
                let wait = &mut self.waits[which];
                match poll(&mut wait.future, &wait.bell) {
                    Poll::Ready(acquired) => {
                        assert!(wait.served, "served out of turn");
                        self.held.push(acquired.expect("open"));
                        self.waits.swap_remove(which);
                    }
                    Poll::Pending => {
                        assert!(!wait.served, "it was handed something, and does not have it")
                    }
                }
            }
            Step::Drop(which) if !self.waits.is_empty() => {
                let Wait { number, future, served, .. } =
                    self.waits.swap_remove(which % self.waits.len());
                drop(future);
                if served {
                    self.freed();
                } else {
                    self.line.retain(|other| *other != number);
                }
            }
            Step::Release { which, poisoned } if !self.held.is_empty() => {
                let mut guard = self.held.swap_remove(which % self.held.len());
                if poisoned {
                    guard.poison();
                    self.poisoned += 1;
                }
                drop(guard);
                if poisoned {
                    let (pool, opened) =
                        (&self.pool, self.pool.stats().peak as u64 + self.poisoned);
                    wait_until("it is replaced", || pool.stats().opened == opened);
                }
                self.freed();
            }
            Step::Poll(_) | Step::Drop(_) | Step::Release { .. } => {}
        }
        let stats = self.pool.stats();
        assert_eq!(stats.waiting, self.line.len());
        let limbo = self.waits.iter().filter(|wait| wait.served).count();
        assert_eq!((stats.idle, stats.in_use), (self.free, self.held.len() + limbo), "{stats:?}");
        for wait in &self.waits {
            assert_eq!(wait.bell.rings(), u64::from(wait.served), "woken for nothing, or not");
        }
    }
}

pub(crate) fn futures_agree_with_a_model() -> Ran {
    let cases = u32::try_from(scaled(2000).max(50)).expect("few");
    let mut runner = TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let strategy = (1_usize..4, prop::collection::vec(step(), 1..80));
    let agreed = runner.run(&strategy, |(size, steps)| {
        tick();
        let mut model = Model::new(size);
        for step in &steps {
            model.apply(step);
        }
        // All give up or give back: everything is there again.
        while !model.waits.is_empty() {
            model.apply(&Step::Drop(0));
        }
        while !model.held.is_empty() {
            model.apply(&Step::Release { which: 0, poisoned: false });
        }
        assert_eq!(model.free, size);
        Ok(())
    });
    agreed.expect("agrees");
    done!("{cases} cases")
}
