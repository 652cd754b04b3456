//! Things kept ready, so that nobody waits for a connection to be made or a process to be
//! started.
//!
//! A [`Pool`] holds items of whatever kind its [`Manager`] opens. It is a sliding window:
//! `min_idle` of them are kept ready; as soon as one is taken out, its replacement is opened by
//! threads of the pool's own, `max_starting` side by side, and never are there more than
//! `max_size`. The item that was used last is taken first, so that the others may grow old and go.
//!
//! What comes with Ringbell: [`ConnectionPool`] (sessions for many threads) and
//! [`WorkerPool`](crate::WorkerPool) (processes).
//!
//! ```
//! use ringbell::pool::{Manager, Pool, Settings};
//! use std::io;
//! use std::net::UdpSocket;
//!
//! struct Sockets;
//!
//! impl Manager for Sockets {
//!     type Item = UdpSocket;
//!     type Error = io::Error;
//!
//!     fn open(&self) -> io::Result<UdpSocket> {
//!         UdpSocket::bind("127.0.0.1:0")
//!     }
//! }
//!
//! let pool = Pool::new(Sockets, Settings { max_size: 4, ..Settings::default() })?;
//! let socket = pool.acquire()?;
//! println!("{}", socket.local_addr()?);
//! drop(socket); // Ready for the next one.
//! pool.close(None)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(all(feature = "tokio", not(ringbell_loom)))]
mod acquire;
mod callbacks;
#[cfg(not(ringbell_loom))]
mod connection;
mod core;
mod error;
mod guard;
mod keeper;
mod manager;
#[cfg(all(test, not(ringbell_loom)))]
mod model;
mod openers;
mod seam;
mod settings;
mod shared;
mod stats;
mod taking;
#[cfg(all(test, not(ringbell_loom)))]
mod tests;
#[cfg(all(feature = "config", not(ringbell_loom)))]
pub(crate) mod time;
mod waiter;

use self::core::Core;
use crate::base::sync::thread::{self, JoinHandle};
use crate::base::sync::{Condvar, Mutex, lock};
use seam::{Origin, now_ns};
use shared::{Crew, PoolInner, State};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[cfg(all(feature = "tokio", not(ringbell_loom)))]
pub use acquire::Acquire;
#[cfg(not(ringbell_loom))]
pub use connection::{ConnectionPool, Connections, PoolCallError, PooledConnection};
pub use error::{AcquireError, BuildError, LastFailure, NotDrained, OpenFailure, Shortage};
pub use guard::Guard;
#[cfg(not(ringbell_loom))]
use guard::Lent;
pub use manager::{Idle, Manager};
pub use settings::{Backoff, Settings, SettingsError};
pub use stats::{CloseReason, ClosedCounts, PoolStats, WaitTimes};
pub use waiter::Cancel;

/// A warm pool. Clones are the same pool; any thread may use it.
///
/// When the last clone is dropped the pool is closed: what is ready at once, what is in use when it
/// comes back. In a forked child it hands out nothing ([`AcquireError::Forked`]), and dropping it
/// or its guards touches nothing.
pub struct Pool<M: Manager>(Arc<Handle<M>>);

struct Handle<M: Manager> {
    shared: Arc<PoolInner<M>>,
    thread: Option<JoinHandle<()>>,
}

impl<M: Manager> Clone for Pool<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<M: Manager> std::fmt::Debug for Pool<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl<M: Manager> Pool<M> {
    /// A pool of what `manager` opens. The first items are opened at once, by threads of the pool's
    /// own.
    ///
    /// # Errors
    /// [`BuildError`], if a setting makes no sense or there can be no thread.
    pub fn new(manager: M, settings: Settings) -> Result<Self, BuildError> {
        settings.check()?;
        let (keeps, acquire_timeout) = (settings.enabled, settings.acquire_timeout);
        let core = Core::new(settings, now_ns());
        let shared = Arc::new(PoolInner {
            state: Mutex::new(State { core, failure: None, crew: Crew::default() }),
            keeper: Condvar::new(),
            openers: Condvar::new(),
            drained: Condvar::new(),
            origin: Origin::here(),
            acquire_timeout,
            manager,
        });
        // Without items to keep there is nothing to do for it.
        let thread =
            keeps.then(|| keeper::start(shared.clone())).transpose().map_err(BuildError::Io)?;
        Ok(Self(Arc::new(Handle { shared, thread })))
    }

    fn shared(&self) -> &Arc<PoolInner<M>> {
        &self.0.shared
    }

    /// Takes an item out, waiting for one at most `acquire_timeout`.
    ///
    /// # Errors
    /// [`AcquireError`].
    #[inline]
    pub fn acquire(&self) -> Result<Guard<M>, AcquireError<M::Error>> {
        match self.shared().take_ready()? {
            Some(guard) => Ok(guard),
            None => self.shared().acquire(self.default_deadline(), None),
        }
    }

    /// Takes an item out, waiting for one until `deadline`; `None` waits for ever.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub fn acquire_deadline(
        &self,
        deadline: Option<Instant>,
    ) -> Result<Guard<M>, AcquireError<M::Error>> {
        self.shared().acquire(deadline, None)
    }

    /// As [`Self::acquire_deadline`], until `cancel` is cancelled; without either for ever.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub fn acquire_cancellable(
        &self,
        deadline: Option<Instant>,
        cancel: &Cancel,
    ) -> Result<Guard<M>, AcquireError<M::Error>> {
        self.shared().acquire(deadline, Some(cancel))
    }

    /// Takes an item out if one is ready. If none is, one is opened for the next caller, as far as
    /// there is room.
    ///
    /// # Errors
    /// [`AcquireError::Closed`] and [`AcquireError::Forked`]. Where nothing is kept
    /// (`enabled: false`) it opens one if there is room, hence also [`AcquireError::Open`].
    pub fn try_acquire(&self) -> Result<Option<Guard<M>>, AcquireError<M::Error>> {
        self.shared().try_acquire()
    }

    /// Takes an item out for as long as this is borrowed. Waits until `deadline`, which is asked
    /// for only if it has to; `None` waits for ever.
    #[cfg(not(ringbell_loom))]
    #[inline]
    pub(crate) fn lend(
        &self,
        deadline: impl FnOnce() -> Option<Instant>,
    ) -> Result<Lent<'_, M>, AcquireError<M::Error>> {
        let shared = self.shared();
        if let Some(entry) = shared.take_ready_entry()? {
            return Ok(Lent::new(entry, shared));
        }
        let guard = shared.acquire(deadline(), None)?;
        Ok(guard.into_lent(shared))
    }

    /// When an acquire without a deadline of its own gives up.
    pub(crate) fn default_deadline(&self) -> Option<Instant> {
        let timeout = self.shared().acquire_timeout;
        timeout.and_then(|timeout| Instant::now().checked_add(timeout))
    }

    /// Closes all ready items, and those in use when they come back: what they lead to is gone.
    pub fn flush(&self) {
        if self.shared().origin.is_here() {
            let mut state = lock(&self.shared().state);
            let epoch = state.core.epoch();
            state.core.flush(epoch);
            self.shared().unlock_and_wake(state);
        }
    }

    /// What the pool counted so far, and what is in it now.
    pub fn stats(&self) -> PoolStats {
        if !self.shared().origin.is_here() {
            // Its lock may have been held by a thread that does not exist here.
            return PoolStats::default();
        }
        lock(&self.shared().state).core.stats()
    }

    /// The manager.
    pub fn manager(&self) -> &M {
        &self.shared().manager
    }

    /// Closes the pool, for all its clones: those who wait get [`AcquireError::Closed`], ready
    /// items are closed, and those in use when they come back, for which this waits at most
    /// `timeout`: `None` waits for ever, zero does not wait.
    ///
    /// # Errors
    /// [`NotDrained`] if some were still there then. They are closed when they come back all the
    /// same.
    pub fn close(&self, timeout: Option<Duration>) -> Result<(), NotDrained> {
        let shared = self.shared();
        if !shared.origin.is_here() {
            return Ok(());
        }
        shared.shut_down();
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        shared.drain(deadline)
    }
}

impl<M: Manager> Drop for Handle<M> {
    fn drop(&mut self) {
        if !self.shared.origin.is_here() {
            // The items are the parent's: nothing of them may be dropped here.
            std::mem::forget(self.shared.clone());
            return;
        }
        self.shared.shut_down();
        let state = lock(&self.shared.state);
        let PoolStats { in_use, opening, closing, .. } = state.core.stats();
        let inside = state.crew.has_this_thread();
        drop(state);
        // Otherwise it ends when those have come back, or are closed: maybe by this thread, which
        // is doing just that.
        if let Some(thread) = self.thread.take()
            && in_use + opening + closing == 0
            && !inside
            && thread.thread().id() != thread::current().id()
        {
            let _ = thread.join();
        }
    }
}
