//! A process of a worker: started so that it dies with this one, and never left as a zombie.

#![allow(unsafe_code, reason = "what a child does between fork and exec")]

use super::tail::Tail;
use super::{WorkerCommand, attendant};
use crate::os::environment;
use crate::os::fork::Origin;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long to wait for the end of a process that was killed. One that the kernel does not let go
/// is left to the attendant.
const KILL_WAIT: Duration = Duration::from_secs(1);

/// A process, and what it printed. Dropping it kills it and waits for its end; not in a forked
/// child.
#[derive(Debug)]
pub(super) struct Process {
    child: Option<Child>,
    pid: Pid,
    pidfd: OwnedFd,
    tail: Arc<Tail>,
    origin: Origin,
}

/// What becomes of a worker's standard input and output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Streams {
    /// No input; the output is kept with the standard error.
    Kept,
    /// Both lead here.
    Piped,
}

impl Process {
    /// Starts a process. `listener` is left open in it.
    pub(super) fn start(
        worker: &WorkerCommand,
        socket: Option<&std::path::Path>,
        streams: Streams,
        listener: Option<&OwnedFd>,
    ) -> io::Result<Self> {
        let mut command = worker.command(socket);
        let (from, to) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        match streams {
            Streams::Kept => command.stdin(Stdio::null()).stdout(Stdio::from(to.try_clone()?)),
            Streams::Piped => command.stdin(Stdio::piped()).stdout(Stdio::piped()),
        };
        command.stderr(Stdio::from(to));
        if let Some(listener) = listener {
            command.env(environment::LISTEN_FD, listener.as_raw_fd().to_string());
            command.env(environment::LISTEN_PARENT, std::process::id().to_string());
        }
        // A group of its own: a signal from the terminal is this process's to handle, and what the
        // worker starts can be killed with it.
        command.process_group(0);
        prepare(&mut command, listener.map(AsRawFd::as_raw_fd));
        // The command has a copy of the pipe's other end, which goes with it.
        let child = attendant::spawn(command)?;
        Self::adopt(child, from, worker.forward_stderr)
    }

    fn adopt(mut child: Child, errors: OwnedFd, forward: bool) -> io::Result<Self> {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("a process has no number"))?;
        // It has not been waited for, so the number is still its own.
        let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(errno) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(errno.into());
            }
        };
        let tail = Arc::new(Tail::new(forward));
        let process =
            Self { child: Some(child), pid, pidfd, tail: tail.clone(), origin: Origin::here() };
        attendant::read(errors, tail)?;
        Ok(process)
    }

    /// The ends of its standard input and output, once.
    pub(super) fn take_streams(&mut self) -> Option<(ChildStdin, ChildStdout)> {
        let child = self.child.as_mut()?;
        Some((child.stdin.take()?, child.stdout.take()?))
    }

    pub(super) fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Readable when it has ended.
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&self) -> bool {
        readable(&self.pidfd, Duration::ZERO)
    }

    /// Waits for its end, at most so long; whether it has ended.
    pub(super) fn ends_within(&self, time: Duration) -> bool {
        readable(&self.pidfd, time)
    }

    /// The last lines that it printed, the oldest first.
    pub(super) fn printed(&self) -> Vec<String> {
        if self.has_ended() { self.tail.last_lines() } else { self.tail.lines() }
    }

    /// What brings the last lines that it printed: for a process that has ended, and another thread.
    #[cfg(feature = "tokio")]
    pub(super) fn last_words(&self) -> impl FnOnce() -> Vec<String> + Send + use<> {
        let tail = self.tail.clone();
        move || tail.last_lines()
    }

    /// Kills it and whatever it started, and waits for its end, not for long. How it ended, if it
    /// has.
    pub(super) fn kill(&mut self) -> Option<ExitStatus> {
        let mut child = self.child.take()?;
        // While it is not waited for, its number and its group's are its own; a program that waits
        // for any child may have taken it away.
        if rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL).is_ok() {
            let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        }
        if readable(&self.pidfd, KILL_WAIT) {
            return child.wait().ok();
        }
        if let Ok(pidfd) = self.pidfd.try_clone() {
            attendant::reap(child, pidfd);
        }
        None
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A forked child has a copy of this, not of the process.
        if self.origin.is_here() {
            self.kill();
        }
    }
}

/// What the child does before it becomes the worker.
fn prepare(command: &mut Command, listener: Option<RawFd>) {
    let parent = rustix::process::getpid();
    let before_exec = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the call.
        if rustix::process::getppid() != Some(parent) {
            return Err(io::Error::from_raw_os_error(Errno::SRCH.raw_os_error()));
        }
        if let Some(listener) = listener {
            // SAFETY: the parent keeps it open until the child was started.
            let listener = unsafe { BorrowedFd::borrow_raw(listener) };
            rustix::io::fcntl_setfd(listener, rustix::io::FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: system calls only, made directly; nothing is allocated or locked.
    unsafe { command.pre_exec(before_exec) };
}

/// Whether `fd` becomes readable, or hangs up, within `time`.
pub(super) fn readable(fd: impl AsFd, time: Duration) -> bool {
    let until = Instant::now().checked_add(time);
    loop {
        let left = match until {
            _ if time.is_zero() => Some(Duration::ZERO),
            Some(until) => Some(until.saturating_duration_since(Instant::now())),
            None => None,
        };
        let left = left.and_then(|left| rustix::event::Timespec::try_from(left).ok());
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], left.as_ref()) {
            Ok(ready) => return ready > 0,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}
