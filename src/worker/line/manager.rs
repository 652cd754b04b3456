//! How workers that speak lines are started and judged.

use super::error::LineError;
use super::pipes::{Pipes, Until};
use super::worker::LineWorker;
use crate::pool::{Idle, Manager, SettingsError};
use crate::worker::process::{Process, Streams};
use crate::worker::tail::LastLines;
use crate::worker::{WorkerCommand, WorkerError};
use std::io::ErrorKind::InvalidInput;

/// Starts programs that speak lines: the manager behind a
/// [`LineWorkerPool`](super::LineWorkerPool).
#[derive(Debug, Clone)]
pub struct LineWorkers {
    pub(super) command: WorkerCommand,
    ready_line: Option<String>,
    probe: Option<(String, String)>,
    max_line: usize,
    max_uses: Option<u64>,
}

/// Longest line of a worker in bytes, unless set otherwise.
const MAX_LINE: usize = 1 << 20;

impl LineWorkers {
    /// Workers that `command` starts. They are ready as soon as they run.
    pub fn new(command: WorkerCommand) -> Self {
        Self { command, ready_line: None, probe: None, max_line: MAX_LINE, max_uses: None }
    }

    /// A worker is ready when it has said this line on its standard output. What it says before is
    /// told if it does not become ready, and dropped otherwise. A line break at the end of `line`
    /// is no part of it.
    #[must_use]
    pub fn ready_line(mut self, line: impl Into<String>) -> Self {
        self.ready_line = Some(one_line(line.into()));
        self
    }

    /// How to ask a worker for a sign of life: a line to it, and the line that it answers. Without
    /// this a worker is healthy while it runs. A line break at their end is no part of them.
    #[must_use]
    pub fn probe(mut self, ask: impl Into<String>, answer: impl Into<String>) -> Self {
        self.probe = Some((one_line(ask.into()), one_line(answer.into())));
        self
    }

    /// Longest line that a worker may say, in bytes without the `\n`. Default 1 MiB.
    #[must_use]
    pub fn max_line(mut self, bytes: usize) -> Self {
        self.max_line = bytes;
        self
    }

    /// How often a worker is handed out before another one takes its place, for programs that grow
    /// or age: it is closed when it was given back so often, which is counted as
    /// [`Used`](crate::pool::CloseReason::Used). `None` for ever, which is the default.
    /// Zero is as one: each worker is used once.
    #[must_use]
    pub fn max_uses(mut self, uses: Option<u64>) -> Self {
        self.max_uses = uses;
        self
    }

    /// Whether its settings make sense, those of its command among them.
    pub(in crate::worker) fn check_all(&self) -> Result<(), SettingsError> {
        self.command.check()?;
        self.check().map_err(SettingsError::Worker)
    }

    /// What is wrong with the lines that a worker is to say or to be told, if anything is.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.max_line == 0 {
            return Err("max_line is 0");
        }
        let has_break = |line: &String| line.contains('\n');
        if self.ready_line.as_ref().is_some_and(has_break) {
            return Err("ready_line has more than one line");
        }
        match &self.probe {
            Some((ask, _)) if has_break(ask) => Err("probe.ask has more than one line"),
            Some((_, answer)) if has_break(answer) => Err("probe.answer has more than one line"),
            _ => Ok(()),
        }
    }

    fn wait_until_ready(&self, worker: &mut LineWorker) -> Result<(), WorkerError> {
        let Some(ready) = &self.ready_line else { return Ok(()) };
        let timeout = self.command.start_timeout;
        let mut until = Until::after(Some(timeout));
        let mut said = LastLines::default();
        let error = loop {
            match worker.next_text(&mut until) {
                Ok(line) if line == ready.as_bytes() => return Ok(()),
                Ok(line) => {
                    said.add(line);
                    said.add(b"\n");
                }
                Err(error) => break error,
            }
        };
        said.add(worker.left());
        said.end();
        // Programs tell the reason on either stream.
        let with = |printed| said.lines().into_iter().chain(printed).collect();
        Err(match error {
            LineError::Ended { printed } => {
                WorkerError::Ended { status: worker.kill(), printed: with(printed) }
            }
            LineError::TimedOut => {
                WorkerError::NotReady { after: timeout, printed: with(worker.printed()) }
            }
            other => self.command.not_started(std::io::Error::other(other)),
        })
    }
}

/// A line that may have been given with its line break, as by a block scalar in YAML.
fn one_line(mut line: String) -> String {
    line.truncate(line.trim_end_matches(['\r', '\n']).len());
    line
}

impl Manager for LineWorkers {
    type Item = LineWorker;
    type Error = WorkerError;

    fn open(&self) -> Result<LineWorker, WorkerError> {
        let failed = |error| self.command.not_started(error);
        self.check().map_err(|message| failed(std::io::Error::new(InvalidInput, message)))?;
        let mut process =
            Process::start(&self.command, None, Streams::Piped, None).map_err(failed)?;
        let streams =
            process.take_streams().ok_or_else(|| std::io::Error::other("a pipe is missing"));
        let (input, output) = streams.map_err(failed)?;
        let pipes = Pipes::new(input, output, self.max_line).map_err(failed)?;
        let mut worker = LineWorker::new(process, pipes);
        self.wait_until_ready(&mut worker)?;
        worker.complete();
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
        worker.is_clean()
    }

    fn is_used_up(&self, worker: &mut LineWorker) -> bool {
        self.max_uses.is_some_and(|most| worker.uses() >= most)
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
