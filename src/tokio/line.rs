//! Workers that speak lines, for tasks.

use super::watched::{Watched, drain, look_read, look_write};
use crate::worker::{LineError, LineWorker, LineWorkerStop as Stop, PooledLineWorker};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::task::{Context, Poll};
use tokio::io::Interest;

/// A descriptor of the worker, which is registered for no longer than the worker is there.
#[derive(Debug)]
struct Lent(RawFd);

impl AsRawFd for Lent {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

fn watch(descriptor: BorrowedFd<'_>, interest: Interest) -> io::Result<Watched<Lent>> {
    Watched::new(Lent(descriptor.as_raw_fd()), interest)
}

/// A program that speaks lines, for a task (feature `tokio`): a [`LineWorker`] that was taken out
/// of its pool, whose waits hold up no thread. Dropping it gives it back, as its guard does: killed
/// if it is in the middle of an answer, on this thread, which takes a moment.
///
/// There are no timeouts here: `tokio::time::timeout` around any of these futures does it.
///
/// ```no_run
/// # async fn ask(pool: ringbell::worker::LineWorkerPool) -> Result<(), Box<dyn std::error::Error>> {
/// let mut bc = ringbell::AsyncLineWorker::new(pool.acquire_async().await?)?;
/// bc.write_line("6 * 7").await?;
/// assert_eq!(bc.read_line().await?, "42");
/// bc.complete();
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct AsyncLineWorker {
    // These first: the runtime forgets descriptors before they are closed.
    input: Option<Watched<Lent>>,
    output: Watched<Lent>,
    process: Watched<Lent>,
    worker: PooledLineWorker,
}

impl AsyncLineWorker {
    /// The worker of a guard, for the tasks of this runtime.
    ///
    /// # Errors
    /// The runtime cannot watch its pipes. The worker goes back to its pool.
    ///
    /// # Panics
    /// Outside of a tokio runtime, or if its I/O is not enabled.
    pub fn new(worker: PooledLineWorker) -> io::Result<Self> {
        let (input, output, process) = worker.descriptors();
        Ok(Self {
            input: input.map(|input| watch(input, Interest::WRITABLE)).transpose()?,
            output: watch(output, Interest::READABLE)?,
            process: watch(process, Interest::READABLE)?,
            worker,
        })
    }

    /// The guard, for a thread.
    pub fn into_inner(self) -> PooledLineWorker {
        let Self { input, output, process, worker } = self;
        drop((input, output, process));
        worker
    }

    /// As [`LineWorker::write_line`].
    ///
    /// # Errors
    /// [`LineError`], never [`LineError::TimedOut`].
    ///
    /// # Cancel safety
    /// If it is dropped and nothing of the line was written, nothing will be. If a part was, the
    /// rest goes before the next line, and the worker is not used again by others.
    pub async fn write_line(&mut self, line: impl AsRef<[u8]>) -> Result<(), LineError> {
        // The rest of a line before this one.
        self.flush().await?;
        self.worker.put_line(line.as_ref())?;
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), LineError> {
        struct Sending<'a>(&'a mut AsyncLineWorker);
        impl Drop for Sending<'_> {
            fn drop(&mut self) {
                self.0.worker.stop_sending();
            }
        }
        let sending = Sending(self);
        let flushed = std::future::poll_fn(|cx| sending.0.poll_flush(cx)).await;
        drop(sending);
        match flushed {
            Ok(()) => Ok(()),
            Err(stop) => Err(self.error(stop).await),
        }
    }

    /// As [`LineWorker::close_input`].
    pub fn close_input(&mut self) {
        self.input = None;
        self.worker.close_input();
    }

    /// As [`LineWorker::read_line`].
    ///
    /// # Errors
    /// [`LineError`], never [`LineError::TimedOut`].
    ///
    /// # Cancel safety
    /// Nothing that the worker said is lost.
    pub async fn read_line(&mut self) -> Result<String, LineError> {
        match self.line(LineWorker::try_text).await {
            Ok(text) => text,
            Err(stop) => Err(self.error(stop).await),
        }
    }

    /// As [`LineWorker::read_line_bytes`].
    ///
    /// # Errors
    /// [`LineError`], never [`LineError::TimedOut`].
    ///
    /// # Cancel safety
    /// Nothing that the worker said is lost.
    pub async fn read_line_bytes(&mut self) -> Result<Vec<u8>, LineError> {
        match self.line(LineWorker::try_line_bytes).await {
            Ok(bytes) => Ok(bytes),
            Err(stop) => Err(self.error(stop).await),
        }
    }

    /// As [`LineWorker::read_until`].
    ///
    /// # Errors
    /// [`LineError`], never [`LineError::TimedOut`]. The answer is not complete then.
    ///
    /// # Cancel safety
    /// Lines that were shown are not shown again. None is lost.
    pub async fn read_until(
        &mut self,
        mut look: impl FnMut(&str) -> bool,
    ) -> Result<(), LineError> {
        loop {
            match self.line(|worker| worker.try_show(&mut look)).await {
                Ok(Ok(false)) => {}
                Ok(Ok(true)) => {
                    self.complete();
                    return Ok(());
                }
                Ok(Err(error)) => return Err(error),
                Err(stop) => return Err(self.error(stop).await),
            }
        }
    }

    /// As [`LineWorker::complete`].
    pub fn complete(&mut self) {
        self.worker.complete();
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.worker.id()
    }

    /// What one step brings, as soon as it does not have to wait.
    async fn line<T>(
        &mut self,
        mut step: impl FnMut(&mut LineWorker) -> Poll<Result<T, Stop>>,
    ) -> Result<T, Stop> {
        std::future::poll_fn(|cx| {
            // Lines that are there already would otherwise be taken without end.
            let budget = std::task::ready!(tokio::task::coop::poll_proceed(cx));
            loop {
                if let Poll::Ready(done) = step(&mut self.worker) {
                    budget.made_progress();
                    return Poll::Ready(done);
                }
                if !self.has_moved(cx, false)? {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        // A worker that takes all at once would otherwise be written to without end.
        let budget = std::task::ready!(tokio::task::coop::poll_proceed(cx));
        loop {
            if let Poll::Ready(done) = self.worker.try_flush() {
                budget.made_progress();
                return Poll::Ready(done);
            }
            let mut closed = false;
            let taken = match &self.input {
                Some(input) => drain(|| {
                    let looked = look_write(input, cx);
                    closed |= matches!(looked, Poll::Ready(Ok(true)));
                    looked
                }),
                None => Ok(false),
            };
            if closed {
                // The runtime tells that for ever. So it is over, whatever is opened again.
                return Poll::Ready(Err(Stop::Ended));
            }
            if !taken.map_err(failed)? & !self.has_moved(cx, true)? {
                return Poll::Pending;
            }
        }
    }

    /// Whether the worker said something, as far as a step listens, or died; if not, the task is
    /// woken then. Both are asked in any case, so that either wakes it.
    fn has_moved(&mut self, cx: &mut Context<'_>, writes: bool) -> Result<bool, Stop> {
        let died = drain(|| look_read(&self.process, cx)).map_err(failed)?;
        if !self.worker.listens(writes) {
            return Ok(died);
        }
        let mut closed = false;
        let said = drain(|| {
            let looked = look_read(&self.output, cx);
            closed |= matches!(looked, Poll::Ready(Ok(true)));
            looked
        });
        if closed {
            // The runtime tells that for ever. So it is over when all was read, whatever is opened
            // again.
            self.worker.output_is_closed();
        }
        Ok(said.map_err(failed)? || died)
    }

    async fn error(&mut self, stop: Stop) -> LineError {
        let mut printed = None;
        if let (Stop::Ended, Some(last_words)) = (&stop, self.worker.last_words()) {
            // It waits for a moment for what is still under way.
            printed = tokio::task::spawn_blocking(last_words).await.ok();
        }
        self.worker.error_with(stop, printed)
    }
}

fn failed(error: io::Error) -> Stop {
    let errno = rustix::io::Errno::from_io_error(&error);
    Stop::Failed(errno.unwrap_or(rustix::io::Errno::IO))
}
