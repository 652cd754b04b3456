//! One worker that speaks lines.

use super::error::LineError;
use super::heard::Line;
use super::pipes::{Pipes, Stop, Until};
use crate::worker::process::Process;
#[cfg(feature = "tokio")]
use std::os::fd::BorrowedFd;
use std::process::ExitStatus;
#[cfg(feature = "tokio")]
use std::task::Poll;
use std::time::Duration;

/// A program that speaks lines. Dropping it kills it.
///
/// After the first line was written or read it is in the middle of an answer, until
/// [`complete`](Self::complete), or a last line of [`read_until`](Self::read_until), says
/// otherwise: given back to the pool before that it is killed.
///
/// When its process is dead, what it said is read to its end; then there is [`LineError::Ended`],
/// even if a child that it started holds its pipes. The last line may have no line break: if the
/// program was killed, it may be incomplete.
#[derive(Debug)]
pub struct LineWorker {
    pipes: Pipes,
    process: Process,
    between: bool,
    broken: bool,
    /// How often it was given back.
    uses: u64,
    /// What it printed, once it has ended.
    last_words: Option<Vec<String>>,
}

impl LineWorker {
    pub(super) fn new(process: Process, pipes: Pipes) -> Self {
        Self { pipes, process, between: true, broken: false, uses: 0, last_words: None }
    }

    /// Writes a line; the line break is added. Waits at most `timeout` until the worker takes it:
    /// `None` waits for ever, zero does not wait. What the worker says meanwhile is kept up to the
    /// longest line that it may say; if it says more, this waits until the time is over.
    ///
    /// No SIGPIPE is raised, whatever this process does about that signal.
    ///
    /// # Errors
    /// [`LineError`]. If it is [`LineError::TimedOut`] and a part of the line was written, then the
    /// rest goes before the next line, and the worker is not used again. If nothing of it was
    /// written, nothing will be.
    pub fn write_line(
        &mut self,
        line: impl AsRef<[u8]>,
        timeout: Option<Duration>,
    ) -> Result<(), LineError> {
        let mut until = Until::after(timeout);
        let line = line.as_ref();
        check_line(line)?;
        self.between = false;
        // The rest of a line before this one.
        self.flush(&mut until)?;
        if !self.pipes.put(line) {
            return Err(LineError::InputClosed);
        }
        self.flush(&mut until)
    }

    fn flush(&mut self, until: &mut Until) -> Result<(), LineError> {
        let sent = self.pipes.flush(self.process.pidfd(), until);
        self.stop_sending();
        sent.map_err(|stop| self.error(stop))
    }

    /// What is on its way is given up: if nothing of it was written, nothing will be.
    pub(crate) fn stop_sending(&mut self) {
        if !self.pipes.take_back() {
            self.broken = true;
        }
    }

    /// Closes the worker's standard input: it sees the end of its input, and is not used again.
    /// Some programs answer only then; what they say is read as before, until
    /// [`LineError::Ended`].
    pub fn close_input(&mut self) {
        self.between = false;
        self.pipes.close_input();
    }

    /// The next line, without its line break, which may be `\n` or `\r\n`. Waits at most `timeout`:
    /// `None` waits for ever, zero does not wait. What has come of a line that is not complete in
    /// time is kept.
    ///
    /// # Errors
    /// [`LineError`].
    pub fn read_line(&mut self, timeout: Option<Duration>) -> Result<String, LineError> {
        let line = self.next_line(&mut Until::after(timeout))?;
        let text = self.owned_text(&line);
        self.pipes.tidy();
        text
    }

    /// As [`Self::read_line`], whatever its bytes are. Only the `\n` is taken off: a `\r` before it
    /// is a byte like any other.
    ///
    /// # Errors
    /// [`LineError`].
    pub fn read_line_bytes(&mut self, timeout: Option<Duration>) -> Result<Vec<u8>, LineError> {
        let line = self.next_line(&mut Until::after(timeout))?;
        let bytes = self.pipes.heard().bytes(&line).to_vec();
        self.pipes.tidy();
        Ok(bytes)
    }

    /// Shows each line to `look` as it comes, until that says that it was the last one of the
    /// answer. Lines are those of [`Self::read_line`]. Waits at most `timeout` for all of it:
    /// `None` waits for ever, zero does not wait.
    ///
    /// # Errors
    /// [`LineError`]. The answer is not complete then.
    pub fn read_until(
        &mut self,
        timeout: Option<Duration>,
        mut look: impl FnMut(&str) -> bool,
    ) -> Result<(), LineError> {
        let mut until = Until::after(timeout);
        loop {
            let line = self.next_line(&mut until)?;
            if self.show(&line, &mut look)? {
                self.complete();
                return Ok(());
            }
        }
    }

    /// The answer is complete: the worker is between requests. If it says more all the same it is
    /// not used again.
    pub fn complete(&mut self) {
        self.between = true;
        self.pipes.tidy();
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The last lines that it printed to its standard error, the oldest first.
    pub fn printed(&self) -> Vec<String> {
        self.process.printed()
    }

    fn next_line(&mut self, until: &mut Until) -> Result<Line, LineError> {
        self.between = false;
        let line = self.pipes.next_line(self.process.pidfd(), until);
        line.map_err(|stop| self.error(stop))
    }

    fn owned_text(&mut self, line: &Line) -> Result<String, LineError> {
        let text = String::from_utf8(self.pipes.heard().text(line).to_vec());
        text.map_err(|_| self.not_text())
    }

    fn show(
        &mut self,
        line: &Line,
        look: &mut impl FnMut(&str) -> bool,
    ) -> Result<bool, LineError> {
        match std::str::from_utf8(self.pipes.heard().text(line)) {
            Ok(line) => Ok(look(line)),
            Err(_) => Err(self.not_text()),
        }
    }

    fn not_text(&mut self) -> LineError {
        self.broken = true;
        LineError::NotText
    }

    fn error(&mut self, stop: Stop) -> LineError {
        if matches!(stop, Stop::Ended) && self.last_words.is_none() {
            // Its output may be gone a moment before it is.
            let _ = self.process.ends_within(Duration::from_millis(100));
            self.last_words = Some(self.process.printed());
        }
        self.error_of(stop)
    }

    /// The error of `stop`, and as far as that is known, what the worker printed.
    fn error_of(&mut self, stop: Stop) -> LineError {
        self.broken |= !matches!(stop, Stop::TimedOut);
        match stop {
            Stop::TimedOut => LineError::TimedOut,
            Stop::Ended => {
                LineError::Ended { printed: self.last_words.clone().unwrap_or_default() }
            }
            Stop::TooLong => LineError::TooLong { max: self.pipes.max_line() },
            Stop::Failed(errno) => LineError::Io(errno.into()),
        }
    }
}

/// For the pool.
impl LineWorker {
    /// The next line as it is compared with one that is expected.
    pub(super) fn next_text(&mut self, until: &mut Until) -> Result<&[u8], LineError> {
        let line = self.next_line(until)?;
        Ok(self.pipes.heard().text(&line))
    }

    /// What has come of a line that is not complete.
    pub(super) fn left(&self) -> &[u8] {
        self.pipes.heard().left()
    }

    pub(super) fn kill(&mut self) -> Option<ExitStatus> {
        self.process.kill()
    }

    /// Whether it lives, and nothing that it said is left.
    pub(super) fn is_quiet(&self) -> bool {
        self.pipes.is_quiet(self.process.pidfd())
    }

    /// It is given back; whether it is between requests. How often that was is counted.
    pub(super) fn is_clean(&mut self) -> bool {
        self.uses += 1;
        self.pipes.tidy();
        self.between && !self.broken && self.is_quiet()
    }

    pub(super) fn uses(&self) -> u64 {
        self.uses
    }
}

/// For tasks: steps that do not wait.
#[cfg(feature = "tokio")]
impl LineWorker {
    /// Its input while that is open, its output, and its process: what to wait for when a step has
    /// to wait.
    pub(crate) fn descriptors(&self) -> (Option<BorrowedFd<'_>>, BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.pipes.input(), self.pipes.output(), self.process.pidfd())
    }

    /// A line to be sent by [`Self::try_flush`], which was ready before.
    pub(crate) fn put_line(&mut self, line: &[u8]) -> Result<(), LineError> {
        check_line(line)?;
        self.between = false;
        if self.pipes.put(line) { Ok(()) } else { Err(LineError::InputClosed) }
    }

    /// Writes what is on its way.
    pub(crate) fn try_flush(&mut self) -> Poll<Result<(), Stop>> {
        not_now(self.pipes.flush(self.process.pidfd(), &mut Until::now()))
    }

    /// The next line, as [`Self::read_line_bytes`] has it.
    pub(crate) fn try_line_bytes(&mut self) -> Poll<Result<Vec<u8>, Stop>> {
        self.try_line(|worker, line| worker.pipes.heard().bytes(line).to_vec())
    }

    /// The next line, as [`Self::read_line`] has it.
    pub(crate) fn try_text(&mut self) -> Poll<Result<Result<String, LineError>, Stop>> {
        self.try_line(Self::owned_text)
    }

    /// Shows the next line as [`Self::read_until`] does; whether it was the last one.
    pub(crate) fn try_show(
        &mut self,
        look: &mut impl FnMut(&str) -> bool,
    ) -> Poll<Result<Result<bool, LineError>, Stop>> {
        self.try_line(|worker, line| worker.show(line, look))
    }

    fn try_line<T>(&mut self, with: impl FnOnce(&mut Self, &Line) -> T) -> Poll<Result<T, Stop>> {
        self.between = false;
        let line = self.pipes.next_line(self.process.pidfd(), &mut Until::now());
        let taken = line.map(|line| with(self, &line));
        self.pipes.tidy();
        not_now(taken)
    }

    /// Whether a step would read what it says; one that writes reads up to a limit.
    pub(crate) fn listens(&self, writes: bool) -> bool {
        self.pipes.listens(writes)
    }

    /// Its output was found closed.
    pub(crate) fn output_is_closed(&mut self) {
        self.pipes.output_is_closed();
    }

    /// What brings the last lines that it printed, and waits for them for a moment.
    pub(crate) fn last_words(&self) -> Option<impl FnOnce() -> Vec<String> + Send + use<>> {
        self.last_words.is_none().then(|| self.process.last_words())
    }

    /// The error of `stop`, with what the worker printed.
    pub(crate) fn error_with(&mut self, stop: Stop, printed: Option<Vec<String>>) -> LineError {
        if printed.is_some() {
            self.last_words = printed;
        }
        self.error_of(stop)
    }
}

fn check_line(line: &[u8]) -> Result<(), LineError> {
    if line.contains(&b'\n') { Err(LineError::NotALine) } else { Ok(()) }
}

#[cfg(feature = "tokio")]
fn not_now<T>(result: Result<T, Stop>) -> Poll<Result<T, Stop>> {
    match result {
        Err(Stop::TimedOut) => Poll::Pending,
        result => Poll::Ready(result),
    }
}
