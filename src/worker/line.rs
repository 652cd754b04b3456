//! Workers that speak lines: unmodified programs, through their standard input and output.
//!
//! ```text
//!   manager   starts and judges them
//!   worker    one of them, as its user sees it
//!   pipes     both pipes and the process: what waits, reads and writes
//!   heard     what was read and not taken
//! ```

mod error;
mod heard;
mod manager;
mod pipes;
mod worker;

use crate::pool::{BuildError, Guard, Pool, Settings};

pub use error::LineError;
pub use manager::LineWorkers;
#[cfg(feature = "tokio")]
pub(crate) use pipes::Stop;
pub use worker::LineWorker;

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
    workers.check_all()?;
    Pool::new(workers, settings)
}
