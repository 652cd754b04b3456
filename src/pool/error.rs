//! Why there is no item.

use std::sync::Arc;

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
        /// Why the last attempt to open one failed, if it did.
        cause: Option<OpenFailure<E>>,
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
            Self::TimedOut { cause: None } => f.write_str("the pool had nothing ready in time"),
            Self::TimedOut { cause: Some(cause) } => {
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
            Self::TimedOut { cause: Some(OpenFailure::Error(error)) }
            | Self::Open(OpenFailure::Error(error)) => Some(&**error),
            _ => None,
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
