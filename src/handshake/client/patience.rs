//! Reading and writing with a deadline: yields first, then sleeps.

use super::error::ConnectError;
use crate::handshake::wire::{self, Header};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long to yield for an answer before sleeping: a CPU that sleeps takes 50 us to wake.
const YIELD: Duration = Duration::from_micros(150);

/// How long to wait, and how.
#[derive(Debug)]
pub(in crate::handshake) struct Patience {
    deadline: Option<Instant>,
    yield_until: Instant,
}

impl Patience {
    pub(in crate::handshake) fn new(deadline: Option<Instant>) -> Self {
        Self { deadline, yield_until: Instant::now() + YIELD }
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
        match rustix::event::poll(&mut [PollFd::new(socket, events)], timeout.as_ref()) {
            // Timed out, or not: the caller tries again, and comes back here.
            Ok(_) | Err(Errno::INTR) => Ok(()),
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
        socket: &OwnedFd,
        bytes: &mut [u8],
    ) -> Result<(), ConnectError> {
        let mut have = 0;
        while have < bytes.len() {
            match rustix::net::recv(socket, &mut bytes[have..], RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return Err(ConnectError::ServerDied),
                Ok((_, count)) => have += count,
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
        let mut byte = [0];
        loop {
            match rustix::net::recv(socket, &mut byte, RecvFlags::DONTWAIT) {
                // The end, or a farewell before it.
                Ok(_) | Err(Errno::CONNRESET) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(socket, PollFlags::IN)?,
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Reads the header of the answer, and at most `most` descriptors on its first byte. Whether
    /// these are good matters to a Welcome only, so their error is handed on beside the header.
    #[allow(clippy::type_complexity, reason = "a header and a result of descriptors")]
    pub(in crate::handshake) fn header(
        &self,
        socket: &OwnedFd,
        most: usize,
    ) -> Result<(Header, Result<Vec<OwnedFd>, ConnectError>), ConnectError> {
        let mut bytes = [0; wire::HEADER];
        let (have, descriptors) = loop {
            match first_bytes(socket, &mut bytes, most) {
                Ok((0, _)) => return Err(ConnectError::ServerDied),
                Ok(first) => break first,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(socket, PollFlags::IN)?,
                Err(errno) => return Err(errno.into()),
            }
        };
        self.read(socket, &mut bytes[have..])?;
        Ok((Header::parse(&bytes)?, descriptors))
    }
}

/// One receive with room for descriptors. More than there is room for is cut off by the kernel and
/// reported.
fn first_bytes(
    socket: &OwnedFd,
    bytes: &mut [u8],
    most: usize,
) -> Result<(usize, Result<Vec<OwnedFd>, ConnectError>), Errno> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(most))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received =
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut control, flags)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    let have = descriptors.len();
    let descriptors = if !received.flags.contains(ReturnFlags::CTRUNC) {
        Ok(descriptors)
    } else if have < most {
        // There was room: what was missing is descriptors in this process.
        Err(ConnectError::OutOfDescriptors)
    } else {
        Err(ConnectError::BadDescriptors { want: most, have: have + 1 })
    };
    Ok((received.bytes, descriptors))
}
