//! The line of one key: who runs, and who waits in which order. No locks, no threads.

use super::Access;
use std::collections::VecDeque;

/// `T` is a task that waits.
///
/// While nobody runs, nobody waits: whoever leaves last lets the next in.
#[derive(Debug)]
pub(super) struct Line<T> {
    running: Running,
    waiting: VecDeque<(Access, T)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Running {
    Nobody,
    /// At least one.
    Readers(usize),
    Writer,
}

/// Who may run next; they count as running already.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<T> {
    Nobody,
    One(T),
    /// All reads up to the next write.
    Many(Vec<T>),
}

/// A queue of so many tasks keeps its memory.
const KEEP: usize = 64;

impl<T> Line<T> {
    pub(super) fn new() -> Self {
        Self { running: Running::Nobody, waiting: VecDeque::new() }
    }

    /// Whether a task may run at once; it counts as running then. Otherwise it is to
    /// [`Self::wait`].
    pub(super) fn enter(&mut self, access: Access) -> bool {
        if !self.waiting.is_empty() {
            return false;
        }
        self.running = match (self.running, access) {
            (Running::Nobody, Access::Write) => Running::Writer,
            (Running::Nobody, _) => Running::Readers(1),
            (Running::Readers(readers), Access::Read) => Running::Readers(readers + 1),
            _ => return false,
        };
        true
    }

    /// Goes to the end of the line.
    pub(super) fn wait(&mut self, access: Access, task: T) {
        self.waiting.push_back((access, task));
    }

    /// One that ran does so no more.
    pub(super) fn leave(&mut self) -> Next<T> {
        if let Running::Readers(readers @ 2..) = self.running {
            self.running = Running::Readers(readers - 1);
            return Next::Nobody;
        }
        self.running = Running::Nobody;
        let next = self.let_in();
        if self.waiting.capacity() > KEEP && self.waiting.len() < self.waiting.capacity() / 4 {
            self.waiting.shrink_to(self.waiting.capacity() / 2);
        }
        next
    }

    fn let_in(&mut self) -> Next<T> {
        let reads = self.waiting.iter().take_while(|(access, _)| *access != Access::Write).count();
        match reads {
            0 => {
                let Some((_, task)) = self.waiting.pop_front() else { return Next::Nobody };
                self.running = Running::Writer;
                Next::One(task)
            }
            1 => {
                self.running = Running::Readers(1);
                self.waiting.pop_front().map_or(Next::Nobody, |(_, task)| Next::One(task))
            }
            _ => {
                self.running = Running::Readers(reads);
                Next::Many(self.waiting.drain(..reads).map(|(_, task)| task).collect())
            }
        }
    }

    /// Nobody runs, and so nobody waits.
    pub(super) fn is_idle(&self) -> bool {
        self.running == Running::Nobody
    }
}

#[cfg(all(test, not(ringbell_loom)))]
mod tests {
    use super::*;
    use Access::{Read, Write};

    fn come(line: &mut Line<u32>, access: Access, task: u32) -> bool {
        let runs = line.enter(access);
        if !runs {
            line.wait(access, task);
        }
        runs
    }

    #[test]
    fn reads_run_together_and_a_write_alone() {
        let mut line = Line::new();
        assert!(come(&mut line, Read, 1));
        assert!(come(&mut line, Read, 2));
        assert!(!come(&mut line, Write, 3));
        assert!(!come(&mut line, Read, 4), "a read does not overtake a write");
        assert!(!come(&mut line, Read, 5));
        assert!(!come(&mut line, Write, 6));
        assert!(!come(&mut line, Read, 7));
        assert_eq!(line.leave(), Next::Nobody);
        assert_eq!(line.leave(), Next::One(3));
        assert_eq!(line.leave(), Next::Many(vec![4, 5]));
        assert!(!come(&mut line, Read, 8), "nor does it join reads that a write waits for");
        assert_eq!(line.leave(), Next::Nobody);
        assert_eq!(line.leave(), Next::One(6));
        assert_eq!(line.leave(), Next::Many(vec![7, 8]));
        assert!(come(&mut line, Read, 9), "but it joins those that nobody waits for");
        for _ in 0..3 {
            assert!(!line.is_idle());
            assert_eq!(line.leave(), Next::Nobody);
        }
        assert!(line.is_idle());
    }

    #[test]
    fn a_long_line_gives_its_memory_back() {
        let mut line = Line::new();
        for task in 0..10_000 {
            assert_eq!(come(&mut line, Write, task), task == 0);
        }
        for task in 1..10_000 {
            assert_eq!(line.leave(), Next::One(task));
        }
        assert!(line.waiting.capacity() <= KEEP);
    }
}
