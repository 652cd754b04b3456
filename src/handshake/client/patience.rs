//! Reading and writing with a deadline: yields first, then sleeps.

use super::descriptors::{Descriptors, receive};
use super::error::ConnectError;
use super::process::ServerProcess;
use crate::handshake::wire::{self, Header};
use crate::os::calls;
use crate::os::peer_socket::PeerSocket;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::SendFlags;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long to yield for an answer before sleeping: a CPU that sleeps takes 50 us to wake.
const YIELD: Duration = Duration::from_micros(150);

/// Between two looks, where the kernel refuses to tell of sockets.
const NAP: Duration = Duration::from_millis(1);

/// How long to wait, and how.
#[derive(Debug)]
pub(in crate::handshake) struct Patience {
    deadline: Option<Instant>,
    yield_until: Instant,
    /// Nothing comes any more when it has ended, whoever else holds its sockets.
    process: Option<ServerProcess>,
}

impl Patience {
    pub(in crate::handshake) fn new(deadline: Option<Instant>) -> Self {
        Self { deadline, yield_until: Instant::now() + YIELD, process: None }
    }

    /// Waits no longer than this process lives.
    pub(super) fn with(self, process: Option<ServerProcess>) -> Self {
        Self { process, ..self }
    }

    /// Waits until the socket may be ready.
    fn wait(&self, socket: &OwnedFd, events: PollFlags) -> Result<(), ConnectError> {
        let now = Instant::now();
        if now < self.yield_until && self.deadline.is_none_or(|deadline| now < deadline) {
            rustix::thread::sched_yield();
            return Ok(());
        }
        let timeout = match self.deadline {
            None => None,
            Some(deadline) => match deadline.saturating_duration_since(now) {
                Duration::ZERO => return Err(ConnectError::TimedOut),
                left => Timespec::try_from(left).ok(),
            },
        };
        let pidfd = self.process.as_ref().map(|process| &*process.pidfd);
        let count = if pidfd.is_some() { 2 } else { 1 };
        let end = PollFd::new(pidfd.unwrap_or(socket), PollFlags::IN);
        let mut polled = [PollFd::new(socket, events), end];
        match rustix::event::poll(&mut polled[..count], timeout.as_ref()) {
            // What it said before its end is read first.
            Ok(1) if polled[0].revents().is_empty() => Err(ConnectError::ServerDied),
            // Timed out, or not: the caller tries again, and comes back here.
            Ok(_) | Err(Errno::INTR) => Ok(()),
            // Looks again by reading or writing, as a socket that carries a session does.
            Err(errno) if calls::is_refusal(errno) => {
                let left = self.deadline.map(|deadline| deadline.saturating_duration_since(now));
                std::thread::sleep(left.map_or(NAP, |left| left.min(NAP)));
                Ok(())
            }
            Err(errno) => Err(errno.into()),
        }
    }

    pub(in crate::handshake) fn send(
        &self,
        socket: &OwnedFd,
        mut bytes: &[u8],
    ) -> Result<(), ConnectError> {
        while !bytes.is_empty() {
            match rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(socket, PollFlags::OUT)?,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    pub(in crate::handshake) fn read(
        &self,
        socket: &PeerSocket,
        bytes: &mut [u8],
    ) -> Result<(), ConnectError> {
        let mut have = 0;
        while have < bytes.len() {
            match receive(socket, &mut bytes[have..]) {
                Ok(piece) if piece.bytes == 0 => return Err(ConnectError::ServerDied),
                Ok(piece) => {
                    // Nothing here has descriptors; some that are behind may have been copied.
                    drop(piece.descriptors?);
                    have += piece.bytes;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(socket, PollFlags::IN)?,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Gives a session up before it began, and waits until the server has given up what it holds
    /// for it: the next one may need its place.
    pub(super) fn leave(&self, socket: &OwnedFd) -> Result<(), ConnectError> {
        match rustix::net::shutdown(socket, rustix::net::Shutdown::Write) {
            Ok(()) | Err(Errno::NOTCONN) => {}
            Err(errno) => return Err(errno.into()),
        }
        // Nothing is read: what comes is of no interest, and may have descriptors with it. A
        // farewell stands before the end.
        let end = PollFlags::RDHUP;
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        loop {
            let mut polled = [PollFd::new(socket, end)];
            match rustix::event::poll(&mut polled, Some(&now)) {
                Ok(_) if polled[0].revents().intersects(gone) => return Ok(()),
                Ok(_) | Err(Errno::INTR) => self.wait(socket, end)?,
                // The server learns of it all the same; its place may not be free yet.
                Err(errno) if calls::is_refusal(errno) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Reads the header of the answer, and the descriptors on its first bytes. Whether these are
    /// good matters to a Welcome only, so their error is handed on beside the header; behind an
    /// error nothing can be read.
    #[allow(clippy::type_complexity, reason = "a header and a result of descriptors")]
    pub(in crate::handshake) fn header(
        &self,
        socket: &PeerSocket,
    ) -> Result<(Header, Result<Descriptors, ConnectError>), ConnectError> {
        let mut bytes = [0; wire::HEADER];
        let first = loop {
            match receive(socket, &mut bytes) {
                Ok(first) if first.bytes == 0 => return Err(ConnectError::ServerDied),
                Ok(first) => break first,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(socket, PollFlags::IN)?,
                Err(errno) => return Err(errno.into()),
            }
        };
        match &first.descriptors {
            Ok(_) => self.read(socket, &mut bytes[first.bytes..])?,
            Err(_) if first.bytes < bytes.len() => return Err(ConnectError::OutOfDescriptors),
            Err(_) => {}
        }
        Ok((Header::parse(&bytes)?, first.descriptors))
    }
}
