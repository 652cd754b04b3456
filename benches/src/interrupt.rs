//! Signals that end a race. It unwinds, so that its processes, sockets and shared memory go with
//! it.

#![allow(
    clippy::disallowed_types,
    reason = "signal-hook sets a plain word, and no protocol is in it"
)]

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::{flag, low_level::pipe};

use crate::outcome::Outcome;

const ENDING: [i32; 3] = [SIGHUP, SIGINT, SIGTERM];

/// The signals that were caught. The handlers write it.
#[derive(Debug)]
struct Caught {
    /// The last signal, or 0.
    signal: Arc<AtomicUsize>,
    /// Readable from the first signal on.
    readable: UnixStream,
}

static CAUGHT: OnceLock<Caught> = OnceLock::new();

/// From now on a signal is an error of the trial that runs. A second one ends this process at once,
/// and the kernel its children.
pub(crate) fn unwind_on_signals() -> Outcome<()> {
    let (readable, written) = UnixStream::pair()?;
    let signal = Arc::new(AtomicUsize::new(0));
    let again = Arc::new(AtomicBool::new(false));
    for number in ENDING {
        // The order counts: at the first signal `again` is set behind the look at it.
        flag::register_conditional_shutdown(number, 128 + number, again.clone())?;
        flag::register(number, again.clone())?;
        flag::register_usize(number, signal.clone(), usize::try_from(number)?)?;
        pipe::register(number, written.try_clone()?)?;
    }
    CAUGHT.set(Caught { signal, readable }).map_err(|_| "signals are caught already")?;
    Ok(())
}

/// Files and directories that must not stay behind.
static TEMPORARY: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Has [`exit_on_signals`] remove a path.
pub(crate) fn is_temporary(path: PathBuf) {
    TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner).push(path);
}

/// Set when [`exit_on_signals`] is about to end this process.
static EXITING: OnceLock<()> = OnceLock::new();

/// Returns unless a signal is about to end this process: what failed then did so because its files
/// are being removed.
pub(crate) fn await_exit() {
    while EXITING.get().is_some() {
        thread::park();
    }
}

/// Removes what is temporary and ends this process at a signal, for what does not wait as a trial
/// does and so cannot unwind. The kernel ends its children.
pub(crate) fn exit_on_signals() -> io::Result<()> {
    let mut signals = Signals::new(ENDING)?;
    thread::spawn(move || {
        let Some(signal) = signals.forever().next() else { return };
        EXITING.get_or_init(|| ());
        // A process that is just starting may still put its socket there.
        for path in TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            for _ in 0..100 {
                let removed =
                    if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
                if removed.is_ok() || !path.exists() {
                    break;
                }
                thread::sleep(Duration::from_millis(1));
            }
        }
        eprintln!("race: {}", Interrupted(signal));
        std::process::exit(128 + signal);
    });
    Ok(())
}

/// Fails if a signal has come.
pub(crate) fn check() -> Result<(), Interrupted> {
    // Relaxed: the handler runs on a thread of this process and guards nothing with the word.
    let signal = CAUGHT.get().map_or(0, |caught| caught.signal.load(Ordering::Relaxed));
    match i32::try_from(signal) {
        Ok(0) | Err(_) => Ok(()),
        Ok(signal) => Err(Interrupted(signal)),
    }
}

/// Readable once a signal has come.
pub(crate) fn descriptor() -> Option<BorrowedFd<'static>> {
    CAUGHT.get().map(|caught| caught.readable.as_fd())
}

/// The signal that ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interrupted(i32);

impl Interrupted {
    /// As shells count.
    pub(crate) fn status(self) -> u8 {
        u8::try_from(128 + self.0).unwrap_or(1)
    }
}

impl fmt::Display for Interrupted {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            SIGHUP => "SIGHUP",
            SIGINT => "SIGINT",
            _ => "SIGTERM",
        };
        write!(out, "ended by {name}; there are no results")
    }
}

impl std::error::Error for Interrupted {}
