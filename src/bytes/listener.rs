//! The listener: a porter, and a queue of the sessions that it let in.

use super::end::ByteEndpoint;
use super::inbox::{DeathWatch, Inbox, PeerState};
use super::{ByteStream, ByteStreamError};
use crate::base::sync::lock;
use crate::handshake::{BindError, Joined};
use crate::link::lifeline::Farewell;
use crate::memory::Window;
use crate::os::fork::Origin;
use crate::protocol::wait::WaitSettings;
use crate::server::porter::PorterHandle;
use crate::server::{Server, ServerBuilder};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// Listens for [`ByteStream`]s. Made by [`ServerBuilder::bind_bytes`], or with the defaults by
/// [`Self::bind`].
///
/// `Send` and `Sync`; several threads may accept at once. The one helper thread is the porter,
/// which every server has: it does the handshakes, and serves all streams at once. It belongs to
/// the process that bound it.
///
/// Dropping it removes the socket and turns away who was not accepted. Streams that were accepted
/// go on.
///
/// ```no_run
/// let listener = ringbell::ByteListener::bind("/run/app/bytes.sock")?;
/// loop {
///     let mut stream = listener.accept()?;
///     std::thread::spawn(move || {
///         let copied = std::io::copy(&mut &stream, &mut &stream);
///         copied.and_then(|_| stream.shutdown_write())
///     });
/// }
/// # #[allow(unreachable_code)]
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ByteListener {
    pub(super) inbox: Arc<Inbox>,
    porter: PorterHandle,
    status: Window,
    wait: WaitSettings,
    path: PathBuf,
    origin: Origin,
}

impl ServerBuilder {
    /// Listens at `path` for byte streams instead of calls. Each session has a bell of its own
    /// ([`Isolation::Session`](crate::Isolation::Session)), and the waiting policy ([`Self::wait`])
    /// is that of each stream; settings of calls, answers and events mean nothing.
    ///
    /// # Errors
    /// As [`Self::bind`].
    pub fn bind_bytes(self, path: impl AsRef<Path>) -> Result<ByteListener, BindError> {
        let porter = self.listen_for_bytes(path.as_ref())?;
        let (status, wait) = (porter.status().clone(), porter.wait().clone());
        let inbox = Arc::new(Inbox::default());
        let porter = porter.start(inbox.clone()).map_err(BindError::Io)?;
        Ok(ByteListener {
            inbox,
            porter,
            status,
            wait,
            path: path.as_ref().to_owned(),
            origin: Origin::here(),
        })
    }
}

impl ByteListener {
    /// Listens at `path` with the default settings.
    ///
    /// # Errors
    /// As [`ServerBuilder::bind_bytes`].
    pub fn bind(path: impl AsRef<Path>) -> Result<Self, BindError> {
        Server::builder().bind_bytes(path)
    }

    /// Settings to start from. Those of calls, answers and events mean nothing here.
    pub fn builder() -> ServerBuilder {
        Server::builder()
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next stream. Waits as long as it takes. A client that is gone by then is accepted like
    /// any other: what it wrote can be read.
    ///
    /// # Errors
    /// [`ByteStreamError::Closed`] after [`Self::close`], [`ByteStreamError::Forked`], and, each
    /// time from then on, the error for which nobody new can be let in any more.
    pub fn accept(&self) -> io::Result<ByteStream> {
        self.accept_timeout(None)
    }

    /// As [`Self::accept`], for at most `timeout`: `None` waits for ever, zero does not wait.
    ///
    /// # Errors
    /// As [`Self::accept`], and `TimedOut`.
    pub fn accept_timeout(&self, timeout: Option<Duration>) -> io::Result<ByteStream> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        self.usable()?;
        let mut queue = lock(&self.inbox.queue);
        loop {
            while let Some(next) = queue.joined.pop_front() {
                drop(queue);
                if let Some(end) = self.accept_session(next) {
                    return Ok(ByteStream::new(end, &self.wait));
                }
                queue = lock(&self.inbox.queue);
            }
            queue.over()?;
            queue = match deadline {
                None => self.inbox.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    self.inbox
                        .arrived
                        .wait_timeout(queue, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
    }

    pub(super) fn usable(&self) -> io::Result<()> {
        if self.origin.is_here() { Ok(()) } else { Err(ByteStreamError::Forked.while_reading()) }
    }

    /// The server's end of a session; `None` for a client that wants calls.
    pub(super) fn accept_session(
        &self,
        (joined, peer): (Box<Joined>, Arc<PeerState>),
    ) -> Option<ByteEndpoint> {
        let death_watch = DeathWatch {
            session: joined.session,
            peer,
            inbox: self.inbox.clone(),
            releaser: self.porter.releaser(),
            origin: self.origin,
        };
        if !joined.bytes {
            turn_away(&joined, Farewell::PeerFault);
            return None;
        }
        Some(ByteEndpoint::of_server(*joined, &self.status, death_watch))
    }

    /// Turns away whoever connects from now on, and has [`Self::accept`] fail once nobody is left
    /// to be accepted. Any thread may call it.
    pub fn close(&self) {
        if self.origin.is_here() {
            self.porter.stop();
            let mut queue = lock(&self.inbox.queue);
            queue.closed = true;
            self.inbox.wake(queue);
        }
    }
}

fn turn_away(joined: &Joined, why: Farewell) {
    joined.say_farewell(why);
    let _ = rustix::net::shutdown(&joined.lifeline, rustix::net::Shutdown::Both);
}

impl Drop for ByteListener {
    fn drop(&mut self) {
        if !self.origin.is_here() {
            return;
        }
        // Removes the socket; nobody is delivered any more.
        self.porter.end();
        let left = std::mem::take(&mut lock(&self.inbox.queue).joined);
        for (joined, _) in left {
            turn_away(&joined, Farewell::ShutDown);
        }
    }
}
