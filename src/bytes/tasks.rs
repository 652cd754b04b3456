//! What tasks need of byte streams beside `arm` and `disarm`: wakers of those who wait.

use super::end::{ByteEndpoint, Direction, Peer, Wanted};
use super::inbox::DeathWatch;
use super::listener::ByteListener;
use super::stream::ByteStream;
use crate::base::sync::lock;
use crate::base::wakers::enter;
use std::io;
use std::sync::PoisonError;
use std::task::{Poll, Waker};

impl Direction {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Read => Self::Write,
            Self::Write => Self::Read,
        }
    }
}

impl Wanted {
    pub(crate) fn has(self, direction: Direction) -> bool {
        match direction {
            Direction::Read => self.read,
            Direction::Write => self.write,
        }
    }
}

impl ByteEndpoint {
    /// The process at the other end has ended, says an event loop that looks after it.
    pub(crate) fn process_ended(&mut self) {
        self.gone |= self.side.is_some();
    }

    /// Awake again, without a look at the lifeline.
    pub(crate) fn call_off(&mut self) {
        if !self.origin.is_here() {
            // The armed word is the parent's.
            return;
        }
        if let Some(side) = &mut self.side
            && side.sleeper.is_armed_for_event()
        {
            side.sleeper.disarm();
        }
    }

    /// Wakes `waker` when the porter finds the client gone.
    pub(crate) fn wake_at_death(&self, waker: &Waker) {
        if let Peer::Client(death_watch) = &self.peer {
            death_watch.wake_at_death(waker);
        }
    }
}

impl DeathWatch {
    fn wake_at_death(&self, waker: &Waker) {
        let mut own = None;
        while !enter(lock(&self.peer.waker), |cell| cell, waker, &mut own) {
            own = Some(waker.clone());
        }
        if self.is_dead() {
            // It came before there was a task to wake.
            waker.wake_by_ref();
        }
    }
}

impl ByteStream {
    pub(crate) fn into_endpoint(self) -> ByteEndpoint {
        self.inner.into_inner().unwrap_or_else(PoisonError::into_inner).end
    }
}

impl ByteListener {
    /// The next end that is there; otherwise `waker` is woken when one comes.
    pub(crate) fn poll_accept(&self, waker: &Waker) -> Poll<io::Result<ByteEndpoint>> {
        if let Err(error) = self.usable() {
            return Poll::Ready(Err(error));
        }
        let mut own = None;
        loop {
            let mut queue = lock(&self.inbox.queue);
            if let Some(next) = queue.joined.pop_front() {
                drop(queue);
                match self.accept_session(next) {
                    Some(end) => return Poll::Ready(Ok(end)),
                    None => continue,
                }
            }
            if let Err(error) = queue.over() {
                return Poll::Ready(Err(error));
            }
            if queue.wakers.iter().any(|there| there.will_wake(waker)) {
                return Poll::Pending;
            }
            if let Some(own) = own.take() {
                queue.wakers.push(own);
                return Poll::Pending;
            }
            drop(queue);
            // Not under the lock: it is other people's code.
            own = Some(waker.clone());
        }
    }
}
