//! Workers that speak lines: unmodified programs, through their standard input and output.

use super::process::{Process, Streams, readable};
use super::{WorkerCommand, WorkerError, error};
use crate::pool::{BuildError, Guard, Idle, Manager, Pool, Settings};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::process::{ChildStdin, ChildStdout};
use std::time::{Duration, Instant};

/// Starts programs that speak lines: the manager behind a [`LineWorkerPool`].
#[derive(Debug, Clone)]
pub struct LineWorkers {
    command: WorkerCommand,
    ready_line: Option<String>,
    probe: Option<(String, String)>,
    max_line: usize,
}

/// Longest line of a worker in bytes, unless set otherwise.
const MAX_LINE: usize = 1 << 20;

impl LineWorkers {
    /// Workers that `command` starts. They are ready as soon as they run.
    pub fn new(command: WorkerCommand) -> Self {
        Self { command, ready_line: None, probe: None, max_line: MAX_LINE }
    }

    /// A worker is ready when it has said this line; what it says before is dropped.
    #[must_use]
    pub fn ready_line(mut self, line: impl Into<String>) -> Self {
        self.ready_line = Some(line.into());
        self
    }

    /// How to ask a worker for a sign of life: a line to it, and the line that it answers. Without
    /// this a worker is healthy while it runs.
    #[must_use]
    pub fn probe(mut self, ask: impl Into<String>, answer: impl Into<String>) -> Self {
        self.probe = Some((ask.into(), answer.into()));
        self
    }

    /// Longest line that a worker may say, in bytes. Default 1 MiB.
    #[must_use]
    pub fn max_line(mut self, bytes: usize) -> Self {
        self.max_line = bytes;
        self
    }

    fn wait_until_ready(&self, worker: &mut LineWorker) -> Result<(), WorkerError> {
        let Some(ready) = &self.ready_line else { return Ok(()) };
        let timeout = self.command.start_timeout;
        let deadline = Instant::now().checked_add(timeout);
        loop {
            match worker.next_line(deadline) {
                Ok(line) if line == ready.as_bytes() => return Ok(()),
                Ok(_) => {}
                Err(LineError::Ended { printed }) => {
                    return Err(WorkerError::Ended { status: worker.process.kill(), printed });
                }
                Err(_) => {
                    return Err(WorkerError::NotReady {
                        after: timeout,
                        printed: worker.printed(),
                    });
                }
            }
        }
    }
}

impl Manager for LineWorkers {
    type Item = LineWorker;
    type Error = WorkerError;

    fn open(&self) -> Result<LineWorker, WorkerError> {
        let started = Process::start(&self.command, None, Streams::Piped, None);
        let mut process = started.map_err(|error| self.command.not_started(error))?;
        let streams =
            process.take_streams().ok_or_else(|| std::io::Error::other("a pipe is missing"));
        let (input, output) = streams.map_err(|error| self.command.not_started(error))?;
        for result in
            [rustix::io::ioctl_fionbio(&input, true), rustix::io::ioctl_fionbio(&output, true)]
        {
            result.map_err(|errno| self.command.not_started(errno.into()))?;
        }
        let mut worker = LineWorker {
            input,
            output,
            process,
            heard: Vec::new(),
            looked: 0,
            max_line: self.max_line,
            between: true,
            broken: false,
        };
        self.wait_until_ready(&mut worker)?;
        worker.between = true;
        Ok(worker)
    }

    fn is_permanent(&self, error: &WorkerError) -> bool {
        error.is_permanent()
    }

    /// Whether it lives, and has said nothing since.
    fn is_ready(&self, worker: &mut LineWorker, _idle: Idle) -> bool {
        worker.is_quiet()
    }

    fn is_clean(&self, worker: &mut LineWorker) -> bool {
        worker.between && !worker.broken && worker.is_quiet()
    }

    fn check(&self, worker: &mut LineWorker) -> bool {
        if !worker.is_quiet() {
            return false;
        }
        let Some((ask, answer)) = &self.probe else { return true };
        let timeout = Some(self.command.ping_timeout);
        if worker.write_line(ask, timeout).is_err() {
            return false;
        }
        let well = worker.read_line(timeout).is_ok_and(|line| line == *answer);
        worker.complete();
        well && worker.is_quiet()
    }
}

/// Why a line was not written or read. Whatever it is, the worker is not used again, a wait that
/// ended apart: then that is up to whether the caller says that the answer is complete.
#[derive(Debug)]
#[non_exhaustive]
pub enum LineError {
    /// The worker did not take the line, or say one, in time.
    TimedOut,
    /// The worker has closed its end, or ended.
    Ended {
        /// The last lines that it printed to its standard error.
        printed: Vec<String>,
    },
    /// The worker says a line that is too long.
    TooLong {
        /// The limit in bytes.
        max: usize,
    },
    /// The worker said a line that is no UTF-8; [`LineWorker::read_line_bytes`] takes it.
    NotText,
    /// What was to be written has a line break in it.
    NotALine,
    /// Any other failure of the system.
    Io(std::io::Error),
}

impl std::fmt::Display for LineError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TimedOut => f.write_str("the worker did not go on in time"),
            Self::Ended { printed } => {
                f.write_str("the worker has ended")?;
                error::write_printed(f, printed)
            }
            Self::TooLong { max } => write!(f, "the worker says a line of more than {max} bytes"),
            Self::NotText => f.write_str("the worker said a line that is no UTF-8"),
            Self::NotALine => f.write_str("a line has a line break in it"),
            Self::Io(error) => write!(f, "the pipe to the worker failed: {error}"),
        }
    }
}

impl std::error::Error for LineError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

/// A program that speaks lines. Dropping it kills it.
///
/// After the first line was written or read it is in the middle of an answer, until
/// [`complete`](Self::complete), or a last line of [`read_until`](Self::read_until), says
/// otherwise: given back to the pool before that it is killed.
#[derive(Debug)]
pub struct LineWorker {
    input: ChildStdin,
    output: ChildStdout,
    process: Process,
    /// Read and not taken: at most a line that is too long, and a chunk.
    heard: Vec<u8>,
    /// So many bytes of it have no line break.
    looked: usize,
    max_line: usize,
    between: bool,
    broken: bool,
}

/// Bytes that are read at a time.
const CHUNK: usize = 16 << 10;

impl LineWorker {
    /// Writes a line; the line break is added. Waits at most `timeout` until the worker takes it:
    /// `None` waits for ever, zero does not wait. What the worker says meanwhile is kept, as far as
    /// a line may be long.
    ///
    /// # Errors
    /// [`LineError`]. After [`LineError::TimedOut`] a part of the line may have been written.
    pub fn write_line(
        &mut self,
        line: impl AsRef<[u8]>,
        timeout: Option<Duration>,
    ) -> Result<(), LineError> {
        let line = line.as_ref();
        if line.contains(&b'\n') {
            return Err(LineError::NotALine);
        }
        self.between = false;
        let deadline = deadline(timeout);
        let mut left = Vec::with_capacity(line.len() + 1);
        left.extend_from_slice(line);
        left.push(b'\n');
        let mut left = &left[..];
        while !left.is_empty() {
            match rustix::io::write(&self.input, left) {
                Ok(count) => left = &left[count..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if let Err(error) = self.wait(PollFlags::OUT, deadline) {
                        // A part of it may be there.
                        self.broken = true;
                        return Err(error);
                    }
                    // A worker that waits until its answers are read does not read.
                    if self.heard.len() <= self.max_line {
                        self.hear()?;
                    }
                }
                Err(Errno::PIPE) => return Err(self.ended()),
                Err(errno) => return Err(self.failed(errno)),
            }
        }
        Ok(())
    }

    /// The next line, without its line break. Waits at most `timeout`: `None` waits for ever, zero
    /// does not wait.
    ///
    /// # Errors
    /// [`LineError`].
    pub fn read_line(&mut self, timeout: Option<Duration>) -> Result<String, LineError> {
        let line = self.read_line_bytes(timeout)?;
        String::from_utf8(line).map_err(|_| {
            self.broken = true;
            LineError::NotText
        })
    }

    /// As [`Self::read_line`], whatever its bytes are.
    ///
    /// # Errors
    /// [`LineError`].
    pub fn read_line_bytes(&mut self, timeout: Option<Duration>) -> Result<Vec<u8>, LineError> {
        self.next_line(deadline(timeout))
    }

    /// Shows each line to `look` as it comes, until that says that it was the last one of the
    /// answer. Waits at most `timeout` for all of it: `None` waits for ever, zero does not wait.
    ///
    /// # Errors
    /// [`LineError`]. The answer is not complete then.
    pub fn read_until(
        &mut self,
        timeout: Option<Duration>,
        mut look: impl FnMut(&str) -> bool,
    ) -> Result<(), LineError> {
        let deadline = deadline(timeout);
        loop {
            let line = self.next_line(deadline)?;
            let Ok(line) = std::str::from_utf8(&line) else {
                self.broken = true;
                return Err(LineError::NotText);
            };
            if look(line) {
                self.complete();
                return Ok(());
            }
        }
    }

    /// The answer is complete: the worker is between requests. If it says more all the same it is
    /// not used again.
    pub fn complete(&mut self) {
        self.between = true;
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The last lines that it printed to its standard error, the oldest first.
    pub fn printed(&self) -> Vec<String> {
        self.process.printed()
    }

    fn next_line(&mut self, deadline: Option<Instant>) -> Result<Vec<u8>, LineError> {
        self.between = false;
        loop {
            if let Some(end) = self.heard[self.looked..].iter().position(|byte| *byte == b'\n') {
                let end = self.looked + end;
                let rest = self.heard.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.heard, rest);
                self.looked = 0;
                line.pop();
                if line.len() > self.max_line {
                    return Err(self.too_long());
                }
                return Ok(line);
            }
            self.looked = self.heard.len();
            if self.heard.len() > self.max_line {
                return Err(self.too_long());
            }
            if !self.hear()? {
                self.wait(PollFlags::IN, deadline)?;
            }
        }
    }

    /// Takes in what the worker says; whether that was anything.
    fn hear(&mut self) -> Result<bool, LineError> {
        let mut bytes = [0; CHUNK];
        loop {
            match rustix::io::read(&self.output, &mut bytes) {
                Ok(0) => return Err(self.ended()),
                Ok(count) => {
                    self.heard.extend_from_slice(&bytes[..count]);
                    return Ok(true);
                }
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.failed(errno)),
            }
        }
    }

    /// Waits until the worker takes or says something, or hangs up.
    fn wait(&mut self, wanted: PollFlags, deadline: Option<Instant>) -> Result<(), LineError> {
        loop {
            let left = match deadline {
                None => None,
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(LineError::TimedOut);
                    }
                    Timespec::try_from(left).ok()
                }
            };
            let input =
                if wanted.contains(PollFlags::OUT) { PollFlags::OUT } else { PollFlags::empty() };
            let output =
                if self.heard.len() <= self.max_line { PollFlags::IN } else { PollFlags::empty() };
            let mut polled = [
                PollFd::from_borrowed_fd(self.output.as_fd(), output),
                PollFd::from_borrowed_fd(self.input.as_fd(), input),
            ];
            // A worker that has closed its input may still say something.
            let count = if input.is_empty() { 1 } else { 2 };
            match poll(&mut polled[..count], left.as_ref()) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(self.failed(errno)),
            }
        }
    }

    /// Whether it lives, and nothing that it said is left.
    fn is_quiet(&self) -> bool {
        self.heard.is_empty()
            && !readable(&self.output, Duration::ZERO)
            && !self.process.has_ended()
    }

    fn too_long(&mut self) -> LineError {
        self.broken = true;
        LineError::TooLong { max: self.max_line }
    }

    fn ended(&mut self) -> LineError {
        self.broken = true;
        // Its output may be gone a moment before it is.
        let _ = self.process.ends_within(Duration::from_millis(100));
        LineError::Ended { printed: self.process.printed() }
    }

    fn failed(&mut self, errno: Errno) -> LineError {
        self.broken = true;
        LineError::Io(errno.into())
    }
}

fn deadline(timeout: Option<Duration>) -> Option<Instant> {
    timeout.and_then(|timeout| Instant::now().checked_add(timeout))
}

/// A program that was taken out of a [`LineWorkerPool`].
pub type PooledLineWorker = Guard<LineWorkers>;

/// Programs that speak lines, kept ready. Clones are the same pool.
///
/// ```no_run
/// use ringbell::pool::Settings;
/// use ringbell::worker::{LineWorkers, line_workers};
/// use ringbell::WorkerCommand;
///
/// let pool = line_workers(LineWorkers::new(WorkerCommand::new("bc").arg("-q")), Settings::default())?;
/// let mut bc = pool.acquire()?;
/// bc.write_line("6 * 7", None)?;
/// assert_eq!(bc.read_line(None)?, "42");
/// bc.complete(); // Otherwise it would not be used again.
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub type LineWorkerPool = Pool<LineWorkers>;

/// A pool of programs that speak lines.
///
/// # Errors
/// [`BuildError`].
pub fn line_workers(
    workers: LineWorkers,
    settings: Settings,
) -> Result<LineWorkerPool, BuildError> {
    workers.command.check()?;
    Pool::new(workers, settings)
}
