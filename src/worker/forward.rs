//! Showing what workers print on this process's standard error, at no cost to anybody else.
//!
//! The standard error may be a pipe that nobody reads, and a thread may hold the standard library's
//! lock of it for as long as it likes. So one thread writes to the descriptor, without that lock;
//! it may wait for ever, and nobody waits for it. What is to be shown waits in a buffer. When that
//! is full, more is dropped, and the thread says how much that was as soon as it can.

use super::per_process::PerProcess;
use crate::base::sync::{Condvar, Mutex, lock};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::{Arc, PoisonError};

/// Most bytes that wait.
const MOST: usize = 256 << 10;
/// Bytes of a write: a pipe takes them as a whole, so that lines of others do not come between.
const AT_ONCE: usize = 4096;

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<u8>,
    /// Bytes that were dropped since it was last said.
    dropped: u64,
    running: bool,
}

static FORWARDER: PerProcess<Forwarder> = PerProcess::new();

#[derive(Debug, Default)]
struct Forwarder {
    state: Mutex<State>,
    wanted: Condvar,
}

/// Has `bytes` shown. Never waits for whoever reads them.
pub(super) fn show(bytes: &[u8]) {
    FORWARDER.get_or_make(Forwarder::default).show(bytes);
}

impl Forwarder {
    fn show(self: &Arc<Self>, bytes: &[u8]) {
        let mut state = lock(&self.state);
        state.take(bytes);
        if !state.running {
            let own = self.clone();
            let thread = std::thread::Builder::new().name("ringbell-stderr".into());
            // If there can be no thread now, the next call tries again.
            state.running = thread.spawn(move || own.run()).is_ok();
        }
        drop(state);
        self.wanted.notify_one();
    }

    fn run(&self) {
        struct Ended<'a>(&'a Forwarder);
        impl Drop for Ended<'_> {
            fn drop(&mut self) {
                lock(&self.0.state).running = false;
            }
        }
        let _ended = Ended(self);
        // SIGPIPE among them: whoever read the standard error may be gone.
        super::signals::block_all_signals();
        loop {
            let mut state = lock(&self.state);
            while state.waiting.is_empty() && state.dropped == 0 {
                state = self.wanted.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let chunk = state.next_chunk();
            drop(state);
            write(std::io::stderr().as_fd(), &chunk);
        }
    }
}

impl State {
    fn take(&mut self, bytes: &[u8]) {
        let room = MOST - self.waiting.len();
        // While something is missing, nothing is added: its place would be wrong.
        let taken = if self.dropped == 0 { bytes.len().min(room) } else { 0 };
        self.waiting.extend(&bytes[..taken]);
        self.dropped += (bytes.len() - taken) as u64;
    }

    fn next_chunk(&mut self) -> Vec<u8> {
        let count = self.waiting.len().min(AT_ONCE);
        if count > 0 {
            return self.waiting.drain(..count).collect();
        }
        let dropped = std::mem::take(&mut self.dropped);
        format!("\n[ringbell: {dropped} bytes that workers printed were dropped here]\n")
            .into_bytes()
    }
}

/// Writes all of it, however long that takes; none of the rest if nobody can read it.
fn write(to: std::os::fd::BorrowedFd<'_>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                // Somebody has made the standard error non-blocking.
                if poll(&mut [PollFd::from_borrowed_fd(to, PollFlags::OUT)], None).is_err() {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
            }
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted() {
        let mut state = State::default();
        state.take(&vec![b'a'; MOST - 1]);
        state.take(b"bcd");
        state.take(b"e");
        assert_eq!((state.waiting.len(), state.dropped), (MOST, 3));
        let mut shown = Vec::new();
        while state.dropped > 0 || !state.waiting.is_empty() {
            shown.extend(state.next_chunk());
        }
        assert_eq!(shown[MOST - 2..MOST], *b"ab");
        assert_eq!(
            String::from_utf8_lossy(&shown[MOST..]),
            "\n[ringbell: 3 bytes that workers printed were dropped here]\n"
        );
        state.take(b"again");
        assert_eq!(state.next_chunk(), b"again");
    }

    #[test]
    fn w3_a_reader_that_is_gone_or_slow_harms_nobody() {
        let (from, to) = rustix::pipe::pipe().expect("a pipe");
        rustix::io::ioctl_fionbio(&to, true).expect("its flag");
        let writing = std::thread::spawn(move || write(to.as_fd(), &vec![b'x'; 1 << 20]));
        let mut read = 0;
        let mut bytes = vec![0; 1 << 16];
        while read < 1 << 20 {
            read += rustix::io::read(&from, &mut bytes).expect("read");
        }
        writing.join().expect("no panic");
        let (from, to) = rustix::pipe::pipe().expect("a pipe");
        drop(from);
        write(to.as_fd(), b"for nobody");
    }
}
