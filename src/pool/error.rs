//! Why there is no item.

use std::sync::Arc;
use std::time::Duration;

/// Why an item could not be opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenFailure<E> {
    /// What the manager said. Shared by all who waited for it.
    Error(Arc<E>),
    /// The manager panicked, which the panic hook has reported.
    Panicked,
}

impl<E> Clone for OpenFailure<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Error(error) => Self::Error(error.clone()),
            Self::Panicked => Self::Panicked,
        }
    }
}

impl<E: std::fmt::Display> std::fmt::Display for OpenFailure<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Error(error) => error.fmt(f),
            Self::Panicked => f.write_str("the pool's manager panicked"),
        }
    }
}

/// Why a pool handed out nothing.
#[derive(Debug)]
#[non_exhaustive]
pub enum AcquireError<E> {
    /// Nothing became ready in time.
    TimedOut {
        /// Why there was nothing.
        cause: Box<Shortage<E>>,
    },
    /// None can be opened, and trying again would not help.
    Open(OpenFailure<E>),
    /// The wait was cancelled ([`Cancel`](super::Cancel)).
    Cancelled,
    /// The pool was closed.
    Closed,
    /// This process is a fork of the one that the pool belongs to.
    Forked,
}

impl<E> Clone for AcquireError<E> {
    fn clone(&self) -> Self {
        match self {
            Self::TimedOut { cause } => Self::TimedOut { cause: cause.clone() },
            Self::Open(failure) => Self::Open(failure.clone()),
            Self::Cancelled => Self::Cancelled,
            Self::Closed => Self::Closed,
            Self::Forked => Self::Forked,
        }
    }
}

impl<E: std::fmt::Display> std::fmt::Display for AcquireError<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TimedOut { cause } => {
                write!(f, "the pool had nothing ready in time: {cause}")
            }
            Self::Open(failure) => failure.fmt(f),
            Self::Cancelled => f.write_str("waiting for the pool was cancelled"),
            Self::Closed => f.write_str("the pool was closed"),
            Self::Forked => f.write_str("the pool belongs to the parent process"),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for AcquireError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Open(OpenFailure::Error(error)) => Some(&**error),
            Self::TimedOut { cause } => match &cause.failure {
                Some(LastFailure { failure: OpenFailure::Error(error), .. }) => Some(&**error),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Why a pool had nothing for a caller whose time was over: what became of its items, and of its
/// last attempt to open one.
#[derive(Debug)]
#[non_exhaustive]
pub struct Shortage<E> {
    /// How many items there may be.
    pub max_size: usize,
    /// Items that others held.
    pub in_use: usize,
    /// Items that were being opened.
    pub opening: usize,
    /// For how long the oldest of those had been.
    pub oldest_opening: Option<Duration>,
    /// Items that were being checked or closed, or were ready for somebody who came earlier.
    pub others: usize,
    /// The last attempt to open an item, if it failed.
    pub failure: Option<LastFailure<E>>,
}

/// An attempt to open an item that failed.
#[derive(Debug)]
#[non_exhaustive]
pub struct LastFailure<E> {
    /// Why.
    pub failure: OpenFailure<E>,
    /// How long ago.
    pub ago: Duration,
    /// How long until the next attempt; zero if it is due, or under way.
    pub next_try: Duration,
}

impl<E> Clone for Shortage<E> {
    fn clone(&self) -> Self {
        Self { failure: self.failure.clone(), ..*self }
    }
}

impl<E> Clone for LastFailure<E> {
    fn clone(&self) -> Self {
        Self { failure: self.failure.clone(), ..*self }
    }
}

impl<E: std::fmt::Display> std::fmt::Display for Shortage<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { max_size, in_use, opening, others, .. } = *self;
        if in_use == max_size {
            write!(f, "all {max_size} are in use")?;
        } else if in_use + opening + others == 0 {
            f.write_str("none is open")?;
        } else {
            write!(f, "{in_use} of at most {max_size} are in use")?;
        }
        if let Some(oldest) = self.oldest_opening {
            write!(f, ", {opening} are being started, the oldest for {}", Seconds(oldest))?;
        }
        if others > 0 {
            write!(f, ", {others} are being checked or closed")?;
        }
        match &self.failure {
            Some(failure) => write!(f, "; {failure}"),
            None => Ok(()),
        }
    }
}

impl<E: std::fmt::Display> std::fmt::Display for LastFailure<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the last start failed {} ago, ", Seconds(self.ago))?;
        if self.next_try.is_zero() {
            f.write_str("the next try is due")?;
        } else {
            write!(f, "next try in {}", Seconds(self.next_try))?;
        }
        write!(f, ": {}", self.failure)
    }
}

/// A time for people: `3.1 s`, or milliseconds if it is short.
struct Seconds(Duration);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            time if time < Duration::from_millis(100) => write!(f, "{} ms", time.as_millis()),
            time => write!(f, "{:.1} s", time.as_secs_f64()),
        }
    }
}

/// Why there is no pool.
#[derive(Debug)]
#[non_exhaustive]
pub enum BuildError {
    /// A setting makes no sense.
    Settings(super::SettingsError),
    /// The pool's thread could not be started.
    Io(std::io::Error),
}

impl From<super::SettingsError> for BuildError {
    fn from(error: super::SettingsError) -> Self {
        Self::Settings(error)
    }
}

impl std::fmt::Display for BuildError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Settings(error) => write!(f, "a setting of the pool: {error}"),
            Self::Io(error) => write!(f, "the pool's thread cannot be started: {error}"),
        }
    }
}

impl std::error::Error for BuildError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Settings(error) => Some(error),
            Self::Io(error) => Some(error),
        }
    }
}

/// A pool that was closed and is not empty yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotDrained {
    /// Items that are still held by guards.
    pub in_use: usize,
    /// Items that were still being opened, checked or closed.
    pub others: usize,
}

impl std::fmt::Display for NotDrained {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { in_use, others } = self;
        write!(
            f,
            "the pool is closed, but {in_use} of its items are in use, and {others} on their way out"
        )
    }
}

impl std::error::Error for NotDrained {}
