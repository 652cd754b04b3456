//! The last lines that a worker printed.

use crate::base::sync::{Condvar, Mutex, lock};
use std::collections::VecDeque;
use std::io::Write;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// How many lines are kept, and how many bytes of each.
const LINES: usize = 20;
const WIDTH: usize = 512;

/// Is filled by the attendant, and read by whoever tells of a failure. What is in it was written by
/// the worker.
#[derive(Debug)]
pub(super) struct Tail {
    state: Mutex<State>,
    ended: Condvar,
    /// Whether it is shown on this process's standard error as well.
    forward: bool,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<String>,
    partial: Vec<u8>,
    ended: bool,
}

impl State {
    fn end_line(&mut self) {
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        let line = String::from_utf8_lossy(&self.partial);
        // It may end up on a terminal.
        self.lines.push_back(
            line.chars().map(|char| if char.is_control() { ' ' } else { char }).collect(),
        );
        self.partial.clear();
    }
}

impl Tail {
    pub(super) fn new(forward: bool) -> Self {
        Self { state: Mutex::default(), ended: Condvar::new(), forward }
    }

    pub(super) fn add(&self, bytes: &[u8]) {
        if self.forward {
            // Nobody may be there to see it.
            let _ = std::io::stderr().write_all(bytes);
        }
        let mut state = lock(&self.state);
        for &byte in bytes {
            match byte {
                b'\n' => state.end_line(),
                byte if state.partial.len() < WIDTH => state.partial.push(byte),
                _ => {}
            }
        }
    }

    /// Nothing more will come.
    pub(super) fn end(&self) {
        let mut state = lock(&self.state);
        if !state.partial.is_empty() {
            state.end_line();
        }
        state.ended = true;
        drop(state);
        self.ended.notify_all();
    }

    /// The last lines, the oldest first.
    pub(super) fn lines(&self) -> Vec<String> {
        let state = lock(&self.state);
        let partial = String::from_utf8_lossy(&state.partial).into_owned();
        state.lines.iter().cloned().chain((!partial.is_empty()).then_some(partial)).collect()
    }

    /// The same of a process that has ended: waits a moment for what is still under way. A child of
    /// it may hold the pipe for longer.
    pub(super) fn last_lines(&self) -> Vec<String> {
        let until = Instant::now() + Duration::from_millis(200);
        let mut state = lock(&self.state);
        while !state.ended {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.ended.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        self.lines()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept() {
        let tail = Tail::new(false);
        for number in 0..100 {
            tail.add(format!("line {number}\n").as_bytes());
        }
        tail.add(b"and");
        assert_eq!(tail.lines().len(), LINES + 1);
        assert_eq!((&*tail.lines()[0], &*tail.lines()[LINES]), ("line 80", "and"));
        tail.add(b" more");
        tail.end();
        assert_eq!(tail.last_lines().last().map(String::as_str), Some("and more"));
    }

    #[test]
    fn long_and_strange_lines_are_bounded_and_harmless() {
        let tail = Tail::new(false);
        tail.add(&vec![b'x'; 1 << 20]);
        tail.add(b"\n\x1b[2J\xff\n");
        let lines = tail.lines();
        assert_eq!(lines[0].len(), WIDTH);
        assert_eq!(lines[1], " [2J\u{fffd}");
    }
}
