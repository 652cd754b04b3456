//! Sessions with one server, kept ready: for many threads that call one server.

use super::{
    AcquireError, BuildError, Guard, Idle, Manager, NotDrained, Pool, PoolStats, Settings,
};
use crate::base::sync::{Ordering, PlainU64};
use crate::client::{CallError, Client, ConnectOptions};
use crate::handshake::{ConnectError, RejectReason};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A session that was ready for longer is looked at before it is handed out; one that was used just
/// now is taken to be alive, since looking costs as much as some calls do.
const TRUSTED: Duration = Duration::from_millis(20);

/// Opens sessions with the server at one path: the manager behind a [`ConnectionPool`].
#[derive(Debug)]
pub struct Connections {
    path: PathBuf,
    options: ConnectOptions,
}

impl Connections {
    /// Sessions with the server at `path`, made as `options` say: over shared memory or over the
    /// socket.
    pub fn new(path: impl Into<PathBuf>, options: ConnectOptions) -> Self {
        Self { path: path.into(), options }
    }

    /// Where the server listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Manager for Connections {
    type Item = Client;
    type Error = ConnectError;

    fn open(&self) -> Result<Client, ConnectError> {
        self.options.clone().connect(&self.path)
    }

    /// A server that is not there may come; one that does not want us, or speaks something else,
    /// will not change.
    fn is_permanent(&self, error: &ConnectError) -> bool {
        match error {
            ConnectError::NotASocket(_)
            | ConnectError::PermissionDenied(_)
            | ConnectError::PathTooLong { .. }
            | ConnectError::NotRingbell
            | ConnectError::VersionMismatch { .. }
            | ConnectError::SharedMemoryRefused(_)
            | ConnectError::FutexRefused
            | ConnectError::InvalidOption(_) => true,
            ConnectError::Rejected(reason) => matches!(
                reason,
                RejectReason::PermissionDenied
                    | RejectReason::BytesPerClient { .. }
                    | RejectReason::BadHello
                    | RejectReason::BadCapacity
                    | RejectReason::SharedMemoryOff
                    | RejectReason::SocketOff
                    | RejectReason::ByteStreamsOnly
            ),
            _ => false,
        }
    }

    fn generation(&self, client: &Client) -> u64 {
        client.generation()
    }

    fn is_ready(&self, client: &mut Client, idle: Idle) -> bool {
        idle.time() < TRUSTED || client.check().is_ok()
    }

    fn is_clean(&self, client: &mut Client) -> bool {
        client.clean_up()
    }

    /// Whether the server is there. One that is stopped or busy is: a session is not given up for
    /// that.
    fn check(&self, client: &mut Client) -> bool {
        client.check().is_ok()
    }
}

/// Why a call through a pool brought no answer.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum PoolCallError {
    /// There was no connection for it. It was not sent.
    Acquire(AcquireError<ConnectError>),
    /// There was, and it failed: the error says whether the request may have been executed.
    Call(CallError),
}

impl PoolCallError {
    /// Whether the server may have executed the request, or answered it.
    pub fn maybe_executed(&self) -> bool {
        match self {
            Self::Acquire(_) => false,
            Self::Call(error) => match error {
                CallError::TimedOut { maybe_executed }
                | CallError::Disconnected { maybe_executed }
                | CallError::ShutDown { maybe_executed } => *maybe_executed,
                CallError::Remote(_) | CallError::PeerFault(_) | CallError::WouldDeadlock => true,
                CallError::TooLarge { .. }
                | CallError::TooManyInFlight { .. }
                | CallError::NotAStream
                | CallError::Forked => false,
            },
        }
    }
}

impl From<AcquireError<ConnectError>> for PoolCallError {
    fn from(error: AcquireError<ConnectError>) -> Self {
        match error {
            AcquireError::Forked => Self::Call(CallError::Forked),
            error => Self::Acquire(error),
        }
    }
}

impl std::fmt::Display for PoolCallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Acquire(error) => write!(f, "no connection: {error}"),
            Self::Call(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for PoolCallError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Acquire(error) => Some(error),
            Self::Call(error) => Some(error),
        }
    }
}

/// A connection that was taken out of a [`ConnectionPool`]: a [`Client`] to be used as one's own,
/// until this is dropped.
///
/// It goes back into the pool only if it is [clean](Client::is_clean) then. After an error that
/// ends the session, call [`flush`](Guard::flush), so that nobody else gets a session that ended
/// with it.
pub type PooledConnection = Guard<Connections>;

/// Connections to one server, for any number of threads.
///
/// ```no_run
/// use ringbell::ConnectionPool;
/// use ringbell::pool::Settings;
///
/// let pool = ConnectionPool::connect("/run/app/echo.sock", Settings::default())?;
/// std::thread::scope(|scope| {
///     for _ in 0..100 {
///         scope.spawn(|| assert_eq!(pool.call(b"hello").expect("an answer"), b"hello"));
///     }
/// });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ConnectionPool {
    pool: Pool<Connections>,
    retried: PlainU64,
}

impl ConnectionPool {
    /// A pool of connections to the server at `path`, with the defaults of [`ConnectOptions`]. The
    /// server need not be there yet.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn connect(path: impl Into<PathBuf>, settings: Settings) -> Result<Self, BuildError> {
        Self::with_options(path, ConnectOptions::new(), settings)
    }

    /// As [`Self::connect`], with options: over the socket, say, or with other ring sizes. That
    /// they wait for the server ([`ConnectOptions::wait_for_server`]) is of no use here: the pool
    /// does.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn with_options(
        path: impl Into<PathBuf>,
        options: ConnectOptions,
        settings: Settings,
    ) -> Result<Self, BuildError> {
        let pool = Pool::new(Connections::new(path, options), settings)?;
        Ok(Self { pool, retried: PlainU64::new(0) })
    }

    /// One call, over whichever connection is ready. Waits for a connection at most
    /// `acquire_timeout`, and for the answer for ever.
    ///
    /// If the server has gone, the other connections to it are closed. A request that was certainly
    /// not executed is then sent once more, over a fresh connection; one that may have been is not:
    /// the caller gets `Disconnected { maybe_executed: true }`.
    ///
    /// # Errors
    /// [`PoolCallError`].
    pub fn call(&self, request: &[u8]) -> Result<Vec<u8>, PoolCallError> {
        let mut response = Vec::new();
        let usual = || self.pool.default_deadline();
        self.call_with(request, &mut response, usual, None)?;
        Ok(response)
    }

    /// As [`Self::call`]; connection and answer together may take `timeout`: `None` waits for ever,
    /// zero does not wait. The `acquire_timeout` is for callers without a time of their own.
    ///
    /// # Errors
    /// [`PoolCallError`].
    pub fn call_timeout(
        &self,
        request: &[u8],
        timeout: Option<Duration>,
    ) -> Result<Vec<u8>, PoolCallError> {
        self.call_deadline(request, timeout.and_then(|timeout| Instant::now().checked_add(timeout)))
    }

    /// As [`Self::call_timeout`], until `deadline`; `None` waits for ever.
    ///
    /// # Errors
    /// [`PoolCallError`].
    pub fn call_deadline(
        &self,
        request: &[u8],
        deadline: Option<Instant>,
    ) -> Result<Vec<u8>, PoolCallError> {
        let mut response = Vec::new();
        self.call_into(request, &mut response, deadline)?;
        Ok(response)
    }

    /// As [`Self::call_deadline`], replacing the content of `response`; its length in bytes.
    ///
    /// # Errors
    /// [`PoolCallError`].
    pub fn call_into(
        &self,
        request: &[u8],
        response: &mut Vec<u8>,
        deadline: Option<Instant>,
    ) -> Result<usize, PoolCallError> {
        self.call_with(request, response, || deadline, deadline)
    }

    /// `acquire_by` says until when to wait for a connection, if there is none.
    fn call_with(
        &self,
        request: &[u8],
        response: &mut Vec<u8>,
        acquire_by: impl Fn() -> Option<Instant>,
        deadline: Option<Instant>,
    ) -> Result<usize, PoolCallError> {
        let mut first = true;
        loop {
            let mut connection = self.pool.lend(&acquire_by)?;
            let error = match connection.item().call_deadline(request, deadline) {
                Ok(answer) => {
                    response.clear();
                    response.extend_from_slice(&answer);
                    return Ok(response.len());
                }
                Err(error) => error,
            };
            match error {
                CallError::Disconnected { maybe_executed }
                | CallError::ShutDown { maybe_executed } => {
                    connection.flush();
                    if first && !maybe_executed {
                        first = false;
                        // Relaxed: a counter.
                        self.retried.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                }
                // The answer was an error, and complete; or nothing was sent.
                CallError::Remote(_) | CallError::TooLarge { .. } => {}
                _ => connection.poison(),
            }
            return Err(PoolCallError::Call(error));
        }
    }

    /// Takes a connection out, for several calls, streams or events. Waits at most
    /// `acquire_timeout`.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub fn acquire(&self) -> Result<PooledConnection, AcquireError<ConnectError>> {
        self.pool.acquire()
    }

    /// How many requests were sent a second time, because the first time they certainly were not
    /// executed.
    pub fn retried(&self) -> u64 {
        self.retried.load(Ordering::Relaxed)
    }

    /// What the pool counted so far, and what is in it now.
    pub fn stats(&self) -> PoolStats {
        self.pool.stats()
    }

    /// As [`Pool::close`].
    ///
    /// # Errors
    /// [`NotDrained`] if connections were still in use when the time was over.
    pub fn close(&self, timeout: Option<Duration>) -> Result<(), NotDrained> {
        self.pool.close(timeout)
    }

    /// The pool itself: deadlines, cancelling, [`Pool::try_acquire`].
    pub fn pool(&self) -> &Pool<Connections> {
        &self.pool
    }
}
