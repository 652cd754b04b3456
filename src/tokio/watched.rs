//! Descriptors that the runtime watches.

use crate::os::fork::Origin;
use std::io;
use std::os::fd::AsRawFd;
use std::task::{Context, Poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor that the runtime watches. Not touched in a forked child, where the runtime's epoll
/// is still the parent's: taking the descriptor out would be taking it out for both.
#[derive(Debug)]
pub(super) struct Watched<T: AsRawFd> {
    descriptor: Option<AsyncFd<T>>,
    origin: Origin,
}

impl<T: AsRawFd> Watched<T> {
    pub(super) fn new(descriptor: T, interest: Interest) -> io::Result<Self> {
        Ok(Self { descriptor: Some(watch(descriptor, interest)?), origin: Origin::here() })
    }
}

impl<T: AsRawFd> std::ops::Deref for Watched<T> {
    type Target = AsyncFd<T>;

    fn deref(&self) -> &AsyncFd<T> {
        self.descriptor.as_ref().expect("taken when it is dropped only")
    }
}

impl<T: AsRawFd> Drop for Watched<T> {
    fn drop(&mut self) {
        if !self.origin.is_here() {
            std::mem::forget(self.descriptor.take());
        }
    }
}

/// Every type of descriptor here is the same for as long as it lives, which is what the successor
/// of this function wants its caller to promise.
#[allow(
    deprecated,
    reason = "the successor is unsafe, and newer than the oldest tokio that will do"
)]
fn watch<T: AsRawFd>(descriptor: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(descriptor, interest)
}

/// Asks until there is nothing more; whether there was anything. `look` says whether the direction
/// is closed: that is told for ever, whatever is cleared.
pub(super) fn drain(mut look: impl FnMut() -> Poll<io::Result<bool>>) -> io::Result<bool> {
    let mut reported = false;
    loop {
        match look() {
            Poll::Ready(closed) => {
                if closed? {
                    return Ok(true);
                }
            }
            Poll::Pending => return Ok(reported),
        }
        reported = true;
    }
}

/// One look of [`drain`] at what may be read.
pub(super) fn look_read<T: AsRawFd>(
    descriptor: &AsyncFd<T>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<bool>> {
    descriptor.poll_read_ready(cx).map_ok(|mut guard| {
        let closed = guard.ready().is_read_closed();
        guard.clear_ready();
        closed
    })
}

/// The same for writing.
pub(super) fn look_write<T: AsRawFd>(
    descriptor: &AsyncFd<T>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<bool>> {
    descriptor.poll_write_ready(cx).map_ok(|mut guard| {
        let closed = guard.ready().is_write_closed();
        guard.clear_ready();
        closed
    })
}
