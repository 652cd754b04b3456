//! The threads that start workers.
//!
//! A parent's death signal goes by thread: a worker is killed when the thread that started it ends.
//! So workers are started by threads that never end before the process. There is one, and another
//! one whenever something is to be started while all of them are busy: to start a process can take
//! for as long as the file system of its program likes, and workers of other pools do not wait for
//! that. Nor does whoever asked: after a time it is told that there is no worker, and the process
//! is killed if it comes to be.

use super::attendant;
use super::per_process::PerProcess;
use super::signals::block_all_signals;
use super::spawn::{self, Child, Failure, Plan, Step, readable};
use crate::base::panics::quietly;
use crate::base::sync::{Condvar, Mutex, lock};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// Most threads, and so most starts that may wait for a file system without delaying others.
const MAX_THREADS: usize = 16;

/// How long to wait for the end of a process that was killed. One that the kernel does not let go
/// is left to the attendant.
const KILL_WAIT: Duration = Duration::from_secs(1);

/// Why a process was not started. Travels inside of an [`io::Error`], to
/// [`WorkerCommand::not_started`].
#[derive(Debug)]
pub(super) enum StartError {
    /// By the kernel: what could not be done, and why not.
    Failed(Failure),
    /// What it needs could not be made.
    Prepare(&'static str, Errno),
    /// A setting of the command makes no sense.
    Invalid(&'static str),
    /// The thread that starts workers is as busy as that.
    TimedOut { after: Duration },
    /// The thread that was to start it has ended.
    ThreadDied,
    /// There is no thread that starts workers, and none could be started.
    NoThread(io::Error),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failed(Failure { step, errno }) => {
                let what = match step {
                    Step::Clone => "the system makes no process (clone)",
                    Step::Parent => "this process has ended meanwhile",
                    Step::Setup => "its process group or descriptors cannot be set",
                    Step::Placement => "the CPUs or the nice value asked for cannot be set",
                    Step::Directory => "its working directory cannot be entered",
                    Step::Exec => "it cannot be executed",
                };
                write!(f, "{what}: {}", io::Error::from(*errno))
            }
            Self::Prepare(what, errno) => write!(f, "{what}: {}", io::Error::from(*errno)),
            Self::Invalid(why) => f.write_str(why),
            Self::TimedOut { after } => {
                write!(f, "the system had not started it after {after:?}")
            }
            Self::ThreadDied => f.write_str("the thread that was to start it has ended"),
            Self::NoThread(error) => write!(f, "the thread that starts workers: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl From<StartError> for io::Error {
    fn from(error: StartError) -> Self {
        let kind = match &error {
            StartError::Failed(Failure { errno, .. }) | StartError::Prepare(_, errno) => {
                Self::from(*errno).kind()
            }
            StartError::Invalid(_) => io::ErrorKind::InvalidInput,
            StartError::TimedOut { .. } => io::ErrorKind::TimedOut,
            StartError::ThreadDied => io::ErrorKind::Other,
            StartError::NoThread(error) => error.kind(),
        };
        Self::new(kind, error)
    }
}

/// Kills a process and its group, and waits for its end; the attendant does, if that takes long.
///
/// The group is killed while the process was not waited for, or by its pidfd, so that no other one
/// is meant.
pub(super) fn end(child: &mut Child) {
    child.kill();
    if readable(child.pidfd(), KILL_WAIT) {
        child.status();
    } else {
        attendant::reap(child.clone());
    }
}

/// A process to be started, and who is to get it.
#[derive(Debug)]
struct Request {
    number: u64,
    plan: Plan,
    answer: SyncSender<Result<Unclaimed, StartError>>,
}

#[derive(Debug, Default)]
struct State {
    /// Those that no thread has begun.
    waiting: VecDeque<Request>,
    /// The number of the last request.
    last: u64,
    threads: usize,
    /// Threads that wait for something to do. Each takes one of `waiting`.
    idle: usize,
}

static STARTER: PerProcess<Starter> = PerProcess::new();

#[derive(Debug, Default)]
struct Starter {
    state: Mutex<State>,
    wanted: Condvar,
}

/// A process on its way to whoever asked for it. If it does not get there it is killed.
#[derive(Debug)]
struct Unclaimed(Option<Child>);

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            end(&mut child);
        }
    }
}

/// Starts a process on one of the threads. Waits for that at most `timeout`.
pub(super) fn start(plan: Plan, timeout: Duration) -> Result<Child, StartError> {
    STARTER.get_or_make(Starter::default).start(plan, timeout)
}

impl Starter {
    fn start(self: &Arc<Self>, plan: Plan, timeout: Duration) -> Result<Child, StartError> {
        let (answer, answered) = sync_channel(1);
        let number = self.add(plan, answer)?;
        match answered.recv_timeout(timeout) {
            Ok(Ok(mut unclaimed)) => unclaimed.0.take().ok_or(StartError::ThreadDied),
            Ok(Err(error)) => Err(error),
            Err(RecvTimeoutError::Timeout) => {
                self.withdraw(number);
                // A process that comes later is dropped with the channel.
                Err(StartError::TimedOut { after: timeout })
            }
            Err(RecvTimeoutError::Disconnected) => Err(StartError::ThreadDied),
        }
    }

    /// What no thread has begun need not be begun any more. Its descriptors are closed.
    fn withdraw(&self, number: u64) {
        let mut state = lock(&self.state);
        let place = state.waiting.iter().position(|request| request.number == number);
        let request = place.and_then(|place| state.waiting.remove(place));
        drop(state);
        drop(request);
    }

    /// The number of the request.
    fn add(
        self: &Arc<Self>,
        plan: Plan,
        answer: SyncSender<Result<Unclaimed, StartError>>,
    ) -> Result<u64, StartError> {
        let mut state = lock(&self.state);
        state.last += 1;
        let number = state.last;
        state.waiting.push_back(Request { number, plan, answer });
        if state.idle >= state.waiting.len() || state.threads >= MAX_THREADS {
            drop(state);
            self.wanted.notify_one();
            return Ok(number);
        }
        match self.start_thread(&mut state) {
            // One that is busy now takes it later.
            Err(_) if state.threads > 0 => Ok(number),
            Err(error) => {
                state.waiting.pop_back();
                Err(StartError::NoThread(error))
            }
            Ok(()) => Ok(number),
        }
    }

    fn start_thread(self: &Arc<Self>, state: &mut State) -> io::Result<()> {
        let own = self.clone();
        let thread = std::thread::Builder::new().name("ringbell-starter".into());
        thread.spawn(move || {
            let ended = Ended(own);
            ended.0.run();
        })?;
        state.threads += 1;
        Ok(())
    }

    fn run(&self) {
        block_all_signals();
        loop {
            let mut state = lock(&self.state);
            state.idle += 1;
            let request = loop {
                if let Some(request) = state.waiting.pop_front() {
                    break request;
                }
                state = self.wanted.wait(state).unwrap_or_else(PoisonError::into_inner);
            };
            state.idle -= 1;
            drop(state);
            // If it panics, whoever waits for the answer is told: the sender is gone.
            quietly(|| request.carry_out());
        }
    }
}

/// A thread that ends all the same is replaced. Whoever it was to answer is told: the sender is
/// gone.
struct Ended(Arc<Starter>);

impl Drop for Ended {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.threads -= 1;
        if !state.waiting.is_empty()
            && self.0.start_thread(&mut state).is_err()
            && state.threads == 0
        {
            state.waiting.clear();
        }
    }
}

impl Request {
    fn carry_out(self) {
        let result = spawn::start(&self.plan);
        let result = result.map(|child| Unclaimed(Some(child))).map_err(StartError::Failed);
        // Its ends of the pipes are closed before anybody waits for their end.
        drop(self.plan);
        // If the one who asked has given up, this drops it.
        let _ = self.answer.send(result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::placement::Wanted;
    use rustix::pipe::pipe;

    /// All threads may wait for a file system for as long as it likes: those who ask in vain leave
    /// nothing behind.
    #[test]
    fn w1_a_start_that_is_given_up_holds_no_descriptors() {
        let threads = State { threads: MAX_THREADS, ..State::default() };
        let starter = Arc::new(Starter { state: Mutex::new(threads), ..Starter::default() });
        let ((input, held), (output, errors)) = (pipe().expect("a pipe"), pipe().expect("a pipe"));
        let plan = Plan {
            paths: vec![c"/bin/true".into()],
            arguments: vec![c"true".into()],
            environment: Vec::new(),
            directory: None,
            stdio: [input, output, errors],
            inherited: None,
            wanted: Wanted::default(),
        };
        let after = Duration::from_millis(1);
        let started = starter.start(plan, after);
        assert!(matches!(started, Err(StartError::TimedOut { .. })), "{started:?}");
        assert!(lock(&starter.state).waiting.is_empty());
        let written = rustix::io::write(&held, b"x");
        assert_eq!(written, Err(Errno::PIPE), "the end to read is closed");
    }
}
