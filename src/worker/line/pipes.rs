//! The pipes to a worker, and its death.

use super::heard::{Heard, Line};
use crate::os::pipe::write_quietly;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{ChildStdin, ChildStdout};
use std::time::{Duration, Instant};

/// Why a step did not come to its end.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Nothing more in time; for a step that does not wait: now.
    TimedOut,
    /// The worker is dead or has hung up, and there is nothing left of it.
    Ended,
    /// A line is too long.
    TooLong,
    /// The system failed.
    Failed(Errno),
}

/// Until when to wait.
#[derive(Debug)]
pub(super) struct Until {
    deadline: Option<Instant>,
    is_late: bool,
    /// So many bytes are still read that are there after the deadline. A worker that talks without
    /// end does not put it off.
    late_bytes: usize,
}

/// As much as a pipe holds that was not enlarged.
const PIPE: usize = 64 << 10;
/// A larger buffer for a line on its way out is freed when it is empty.
const KEPT: usize = 64 << 10;

impl Until {
    /// `None` waits for ever, zero does not wait.
    pub(super) fn after(timeout: Option<Duration>) -> Self {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        Self { deadline, is_late: false, late_bytes: PIPE }
    }

    /// Does not wait, and reads all that is there.
    #[cfg(feature = "tokio")]
    pub(super) fn now() -> Self {
        Self { deadline: Some(Instant::now()), is_late: true, late_bytes: usize::MAX }
    }

    /// The time that is left.
    fn left(&mut self) -> Result<Option<Timespec>, Stop> {
        let Some(deadline) = self.deadline else { return Ok(None) };
        if !self.is_late {
            let left = deadline.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                return Ok(Timespec::try_from(left).ok());
            }
            self.is_late = true;
        }
        if self.late_bytes == 0 {
            return Err(Stop::TimedOut);
        }
        Ok(Some(Timespec { tv_sec: 0, tv_nsec: 0 }))
    }

    fn heard(&mut self, bytes: usize) {
        if self.is_late {
            self.late_bytes = self.late_bytes.saturating_sub(bytes);
        }
    }
}

/// What a wait has found.
struct Found {
    /// There is something to read, or an end.
    output: bool,
    /// The process is dead.
    dead: bool,
}

/// Both pipes, what is under way in them, and whether the process lives.
///
/// The process is asked beside its output, since a child that it started may hold the other end of
/// both pipes for as long as it likes. What is in the output when the process is found dead is
/// read; what others write afterwards is not the worker's.
#[derive(Debug)]
pub(super) struct Pipes {
    input: Option<ChildStdin>,
    output: ChildStdout,
    max_line: usize,
    /// Read and not taken: at most a line that is too long, and a chunk.
    heard: Heard,
    /// A line on its way out.
    outgoing: Vec<u8>,
    /// So many bytes of it were written.
    sent: usize,
    /// The process is dead; so many bytes of its output are left, or none that were there then.
    remains: Option<usize>,
    /// Nothing more will be read.
    over: bool,
}

impl Pipes {
    /// Both ends are made not to block.
    pub(super) fn new(
        input: ChildStdin,
        output: ChildStdout,
        max_line: usize,
    ) -> std::io::Result<Self> {
        rustix::io::ioctl_fionbio(&input, true)?;
        rustix::io::ioctl_fionbio(&output, true)?;
        Ok(Self {
            input: Some(input),
            output,
            max_line,
            heard: Heard::default(),
            outgoing: Vec::new(),
            sent: 0,
            remains: None,
            over: false,
        })
    }

    pub(super) fn heard(&self) -> &Heard {
        &self.heard
    }

    pub(super) fn max_line(&self) -> usize {
        self.max_line
    }

    #[cfg(feature = "tokio")]
    pub(super) fn input(&self) -> Option<BorrowedFd<'_>> {
        self.input.as_ref().map(AsFd::as_fd)
    }

    #[cfg(feature = "tokio")]
    pub(super) fn output(&self) -> BorrowedFd<'_> {
        self.output.as_fd()
    }

    /// Closes the input. The rest of a line that was written in part is not written.
    pub(super) fn close_input(&mut self) {
        self.input = None;
    }

    /// The other end of the output was closed: what is there is all.
    #[cfg(feature = "tokio")]
    pub(super) fn output_is_closed(&mut self) {
        self.over |= rustix::io::ioctl_fionread(&self.output).is_ok_and(|left| left == 0);
    }

    /// Frees what an exchange left behind that is large.
    pub(super) fn tidy(&mut self) {
        self.heard.tidy();
    }

    /// Nothing is left of an exchange, the process lives, and both pipes are open at both ends, as
    /// far as the kernel knows: a child of the process may hold them.
    pub(super) fn is_quiet(&self, process: BorrowedFd<'_>) -> bool {
        if self.heard.len() > 0 || self.sent < self.outgoing.len() || self.over {
            return false;
        }
        let Some(input) = &self.input else { return false };
        if self.remains.is_some() {
            return false;
        }
        let mut polled = [
            PollFd::from_borrowed_fd(process, PollFlags::IN),
            PollFd::from_borrowed_fd(self.output.as_fd(), PollFlags::IN),
            // Only that nobody reads it any more, which is told in any case.
            PollFd::from_borrowed_fd(input.as_fd(), PollFlags::empty()),
        ];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        loop {
            match poll(&mut polled, Some(&at_once)) {
                Err(Errno::INTR) => {}
                result => return result == Ok(0),
            }
        }
    }

    /// The next line: the last one may have no line break.
    pub(super) fn next_line(
        &mut self,
        process: BorrowedFd<'_>,
        until: &mut Until,
    ) -> Result<Line, Stop> {
        loop {
            if let Some(line) = self.take_line()? {
                return Ok(line);
            }
            if self.wait(process, false, until)?.output {
                until.heard(self.hear()?);
            }
        }
    }

    fn take_line(&mut self) -> Result<Option<Line>, Stop> {
        let line = match self.heard.take_line() {
            Some(line) => line,
            None if self.heard.len() > self.max_line => return Err(Stop::TooLong),
            None if !self.over => return Ok(None),
            None => self.heard.take_rest().ok_or(Stop::Ended)?,
        };
        if line.len() > self.max_line { Err(Stop::TooLong) } else { Ok(Some(line)) }
    }

    /// Puts a line on its way; [`Self::flush`] before this, and after it. Whether the input is
    /// open.
    pub(super) fn put(&mut self, line: &[u8]) -> bool {
        debug_assert!(self.outgoing.is_empty(), "a line at a time");
        if self.input.is_some() {
            self.outgoing.reserve(line.len() + 1);
            self.outgoing.extend_from_slice(line);
            self.outgoing.push(b'\n');
        }
        self.input.is_some()
    }

    /// A line that is on its way is not to be, if nothing of it was written. Whether no part of a
    /// line is left.
    pub(super) fn take_back(&mut self) -> bool {
        if self.sent == 0 {
            self.outgoing.clear();
        }
        self.outgoing.is_empty()
    }

    /// Writes what is on its way. What the worker says meanwhile is kept, as far as a line may be
    /// long: a worker that waits until its answers are read does not read.
    pub(super) fn flush(&mut self, process: BorrowedFd<'_>, until: &mut Until) -> Result<(), Stop> {
        while !self.send()? {
            let found = self.wait(process, true, until)?;
            if found.output && self.listens(true) {
                until.heard(self.hear()?);
            }
            if found.dead {
                // A child of it may hold the other end.
                return Err(Stop::Ended);
            }
        }
        Ok(())
    }

    /// Writes as much as the pipe takes; whether that was all.
    fn send(&mut self) -> Result<bool, Stop> {
        let Some(input) = &self.input else {
            return if self.outgoing.is_empty() { Ok(true) } else { Err(Stop::Ended) };
        };
        while self.sent < self.outgoing.len() {
            match write_quietly(input, &self.outgoing[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::PIPE) => return Err(Stop::Ended),
                Err(errno) => return Err(Stop::Failed(errno)),
            }
        }
        self.sent = 0;
        self.outgoing.clear();
        if self.outgoing.capacity() > KEPT {
            self.outgoing = Vec::new();
        }
        Ok(true)
    }

    /// Whether the output is read: while it writes, up to a limit.
    pub(super) fn listens(&self, writes: bool) -> bool {
        !self.over && (!writes || self.heard.len() <= self.max_line)
    }

    /// Takes in what the worker says; how much that was.
    fn hear(&mut self) -> Result<usize, Stop> {
        if self.remains == Some(0) {
            self.over = true;
        }
        if self.over {
            return Ok(0);
        }
        loop {
            let room = self.heard.room();
            match rustix::io::read(&self.output, rustix::buffer::spare_capacity(room)) {
                Ok(0) => {
                    self.over = true;
                    return Ok(0);
                }
                Ok(count) => {
                    if let Some(remains) = &mut self.remains {
                        *remains = remains.saturating_sub(count);
                    }
                    return Ok(count);
                }
                Err(Errno::AGAIN) => {
                    self.over = self.remains.is_some();
                    return Ok(0);
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Stop::Failed(errno)),
            }
        }
    }

    /// Waits until the worker says something or dies; if one writes to it, until it takes something
    /// as well.
    fn wait(
        &mut self,
        process: BorrowedFd<'_>,
        writes: bool,
        until: &mut Until,
    ) -> Result<Found, Stop> {
        if self.remains.is_some() {
            return Ok(Found { output: true, dead: true });
        }
        // A pipe that is not asked for must not be there at all: a hang-up is told all the same.
        let hears = self.listens(writes);
        let input = self.input.as_ref().filter(|_| writes);
        let mut polled = [(); 3].map(|()| PollFd::from_borrowed_fd(process, PollFlags::IN));
        let mut count = 1;
        if hears {
            polled[count] = PollFd::from_borrowed_fd(self.output.as_fd(), PollFlags::IN);
            count += 1;
        }
        if let Some(input) = input {
            polled[count] = PollFd::from_borrowed_fd(input.as_fd(), PollFlags::OUT);
            count += 1;
        }
        loop {
            let left = until.left()?;
            match poll(&mut polled[..count], left.as_ref()) {
                Ok(0) if until.is_late => return Err(Stop::TimedOut),
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => break,
                Err(errno) => return Err(Stop::Failed(errno)),
            }
        }
        let dead = !polled[0].revents().is_empty();
        let output = hears && !polled[1].revents().is_empty();
        if dead {
            // It wrote before it died, so that is there by now.
            let remains = rustix::io::ioctl_fionread(&self.output).map_err(Stop::Failed)?;
            self.remains = Some(usize::try_from(remains).unwrap_or(usize::MAX));
        }
        Ok(Found { output: output || dead, dead })
    }
}
