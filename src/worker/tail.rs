//! The last lines that a worker printed.

use super::forward;
use crate::base::sync::{Mutex, MutexGuard, lock};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How many lines are kept, and how many bytes of each.
const LINES: usize = 20;
const WIDTH: usize = 512;
/// How much is read at a time, and how often for the last lines: more than a pipe holds, and no
/// more, since a child of the worker may print without end.
const CHUNK: usize = 8192;
const LAST_CHUNKS: usize = 256;

/// The pipe that a worker prints into, and the last of what came out of it. What is in it was
/// written by the worker.
///
/// The attendant reads it whenever something is there. Whoever wants the last lines of a process
/// that has ended reads what is left himself: all that it has printed is in the pipe by then, so
/// nobody waits for the end of the pipe, which a child of the worker may hold open.
#[derive(Debug)]
pub(super) struct Tail {
    /// Does not block. Read under the lock, so that the order of what is read is kept.
    pipe: OwnedFd,
    state: Mutex<LastLines>,
    /// Whether it is shown on this process's standard error as well.
    forward: bool,
}

/// The last lines of what is added.
#[derive(Debug, Default)]
pub(super) struct LastLines {
    lines: VecDeque<String>,
    partial: Vec<u8>,
    ended: bool,
}

/// What a read has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pulled {
    Something,
    NothingNow,
    End,
}

impl LastLines {
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

    pub(super) fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                byte if self.partial.len() < WIDTH => self.partial.push(byte),
                _ => {}
            }
        }
    }

    /// Nothing more will come.
    pub(super) fn end(&mut self) {
        if !self.partial.is_empty() {
            self.end_line();
        }
        self.ended = true;
    }

    /// The oldest first.
    pub(super) fn lines(&self) -> Vec<String> {
        let partial = String::from_utf8_lossy(&self.partial).into_owned();
        self.lines.iter().cloned().chain((!partial.is_empty()).then_some(partial)).collect()
    }
}

impl Tail {
    /// What comes out of `pipe`, the reading end.
    pub(super) fn new(pipe: OwnedFd, forward: bool) -> Result<Self, Errno> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(Self { pipe, state: Mutex::default(), forward })
    }

    pub(super) fn pipe(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// Reads once, without waiting.
    pub(super) fn pull(&self) -> Pulled {
        self.pull_into(&mut lock(&self.state))
    }

    fn pull_into(&self, state: &mut MutexGuard<'_, LastLines>) -> Pulled {
        if state.ended {
            return Pulled::End;
        }
        let mut bytes = [0; CHUNK];
        match rustix::io::read(&self.pipe, &mut bytes) {
            Ok(count @ 1..) => {
                if self.forward {
                    forward::show(&bytes[..count]);
                }
                state.add(&bytes[..count]);
                Pulled::Something
            }
            Err(Errno::AGAIN | Errno::INTR) => Pulled::NothingNow,
            Ok(0) | Err(_) => {
                state.end();
                Pulled::End
            }
        }
    }

    /// The last lines, the oldest first.
    pub(super) fn lines(&self) -> Vec<String> {
        lock(&self.state).lines()
    }

    /// The same of a process that has ended. Does not wait.
    pub(super) fn last_lines(&self) -> Vec<String> {
        self.drain();
        self.lines()
    }

    /// Reads what is there, without waiting.
    pub(super) fn drain(&self) {
        let mut state = lock(&self.state);
        for _ in 0..LAST_CHUNKS {
            if self.pull_into(&mut state) != Pulled::Something {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail() -> (Tail, OwnedFd) {
        let (from, to) = rustix::pipe::pipe().expect("a pipe");
        (Tail::new(from, false).expect("a tail"), to)
    }

    fn write(to: &OwnedFd, mut bytes: &[u8], tail: &Tail) {
        rustix::io::ioctl_fionbio(to, true).expect("its flag");
        while !bytes.is_empty() {
            let count = rustix::io::write(to, bytes).unwrap_or(0);
            bytes = &bytes[count..];
            while tail.pull() == Pulled::Something {}
        }
    }

    #[test]
    fn the_last_lines_are_kept() {
        let (tail, to) = tail();
        for number in 0..100 {
            write(&to, format!("line {number}\n").as_bytes(), &tail);
        }
        write(&to, b"and", &tail);
        assert_eq!(tail.lines().len(), LINES + 1);
        assert_eq!((&*tail.lines()[0], &*tail.lines()[LINES]), ("line 80", "and"));
        rustix::io::write(&to, b" more").expect("written");
        // Another one may hold the pipe for as long as it likes.
        assert_eq!(tail.last_lines().last().map(String::as_str), Some("and more"));
        drop(to);
        assert_eq!(tail.pull(), Pulled::End);
        assert_eq!(tail.lines().last().map(String::as_str), Some("and more"));
    }

    #[test]
    fn long_and_strange_lines_are_bounded_and_harmless() {
        let (tail, to) = tail();
        write(&to, &vec![b'x'; 1 << 20], &tail);
        write(&to, b"\n\x1b[2J\xff\n", &tail);
        let lines = tail.lines();
        assert_eq!(lines[0].len(), WIDTH);
        assert_eq!(lines[1], " [2J\u{fffd}");
    }
}
