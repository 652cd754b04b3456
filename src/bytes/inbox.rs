//! What the porter of a byte listener tells: sessions that wait to be accepted, and clients that
//! are gone.

use crate::base::sync::{Ordering, PlainBool, lock};
use crate::base::wakers::wake_all;
use crate::bytes::ByteStreamError;
use crate::handshake::Joined;
use crate::os::fork::Origin;
use crate::os::peer_socket::PeerSocket;
use crate::server::porter::{Event, Outbox, Releaser};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::task::Waker;

/// What the porter knows of a client: whether it is gone.
#[derive(Debug, Default)]
pub(super) struct PeerState {
    dead: PlainBool,
    pub(super) waker: Mutex<Option<Waker>>,
    /// Its end is what an event loop waits for, and whoever sleeps on a socket.
    lifeline: Weak<PeerSocket>,
}

/// Tells whether the client of a session is gone. Dropping it releases the session at the porter.
#[derive(Debug)]
pub(super) struct DeathWatch {
    pub(super) session: u64,
    pub(super) peer: Arc<PeerState>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) releaser: Releaser,
    pub(super) origin: Origin,
}

impl DeathWatch {
    /// Whether the porter has found the client gone.
    pub(super) fn is_dead(&self) -> bool {
        // Pairs with the store in `deliver`: what the client published before the kernel said that
        // it is gone is seen by a look behind this.
        self.peer.dead.load(Ordering::Acquire)
    }
}

impl Drop for DeathWatch {
    fn drop(&mut self) {
        if self.origin.is_here() {
            lock(&self.inbox.queue).peers.remove(&self.session);
            self.releaser.closed(self.session);
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) joined: VecDeque<(Box<Joined>, Arc<PeerState>)>,
    /// Of sessions that are not over.
    peers: HashMap<u64, Arc<PeerState>>,
    pub(super) wakers: Vec<Waker>,
    pub(super) closed: bool,
    /// Why nobody new comes, although nobody has closed it.
    pub(super) failed: Option<Arc<std::io::Error>>,
}

impl Queue {
    /// Why there is no next stream, if there is none.
    pub(super) fn over(&self) -> std::io::Result<()> {
        if self.closed {
            return Err(ByteStreamError::Closed.while_reading());
        }
        match &self.failed {
            // The same error for everybody, for as long as they ask.
            Some(error) => Err(std::io::Error::new(error.kind(), error.clone())),
            None => Ok(()),
        }
    }
}

/// Sessions that wait to be accepted.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    pub(super) queue: Mutex<Queue>,
    pub(super) arrived: Condvar,
}

impl Inbox {
    pub(super) fn wake(&self, mut queue: std::sync::MutexGuard<'_, Queue>) {
        let wakers = std::mem::take(&mut queue.wakers);
        drop(queue);
        self.arrived.notify_all();
        wake_all(wakers);
    }
}

impl Outbox for Arc<Inbox> {
    fn deliver(&self, event: Event) {
        let mut queue = lock(&self.queue);
        match event {
            // Bounded by `max_clients`.
            Event::Joined(joined) => {
                let lifeline = Arc::downgrade(&joined.lifeline);
                let peer = Arc::new(PeerState { lifeline, ..PeerState::default() });
                queue.peers.insert(joined.session, peer.clone());
                queue.joined.push_back((joined, peer));
                self.wake(queue);
            }
            Event::Failed(error) => {
                queue.failed = Some(Arc::new(error));
                self.wake(queue);
            }
            Event::Died { session, .. } => {
                let Some(peer) = queue.peers.get(&session).cloned() else { return };
                drop(queue);
                // Pairs with the load in `is_dead`.
                peer.dead.store(true, Ordering::Release);
                if let Some(lifeline) = peer.lifeline.upgrade() {
                    // A child of the client may hold it open. What was sent is still read.
                    let _ = rustix::net::shutdown(&lifeline, rustix::net::Shutdown::Both);
                }
                // Alone in its statement: the lock is gone before the task is told, which may look
                // at once.
                let waker = lock(&peer.waker).take();
                wake_all(waker);
            }
        }
    }
}
