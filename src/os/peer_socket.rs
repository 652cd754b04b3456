//! A socket whose other end may send what nobody asked for: descriptors.
//!
//! The kernel hands a descriptor that is not wanted back to nobody: whoever reads the bytes beside
//! it without room for it drops it, and so does whoever closes the socket with it in the queue.
//! The drop of the last reference is a close, in that thread, and a close may wait for as long as
//! the sender likes ([`closer`](super::closer)). So:
//!
//! - **Where the kernel can, it refuses them at the sender** (`SO_PASSRIGHTS = 0`, Linux 6.16). A
//!   listener hands that on to every connection at the time of `connect`, so that nothing can be
//!   sent before the connection is accepted. At a client it is set once the answer of the server is
//!   read; what was sent before that is looked for then. A socket that is known to be
//!   [`Rights::Refused`] is read and closed like any other.
//! - **Elsewhere nothing is taken that was not looked at first.** `MSG_PEEK` without room for
//!   descriptors says by `MSG_CTRUNC` whether there are some, and takes nothing: the queue still
//!   has its references. (It says so as well if they stand behind the bytes that were asked for.)
//!   Bytes that were found clean are then taken, exactly as many. This needs no free descriptor, so
//!   it holds at the limit of RLIMIT_NOFILE, where a receive with room for descriptors would drop
//!   those that do not fit. Its price, a second system call for each read that finds something, is
//!   paid on older kernels only.
//! - **A byte out of band is like any other** (`SO_OOBINLINE`). Without the option a look passes it
//!   over, and the receive behind the look drops it, with the descriptors that it may have.
//! - **The last owner shuts the socket down**, so that no more can come, looks at what is left, and
//!   has it closed elsewhere if that is not clean.

#![allow(unsafe_code, reason = "SO_PASSRIGHTS and the like through libc")]

use super::closer;
use super::fork::Origin;
use crate::base::sync::{Mutex, lock};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvAncillaryBuffer, RecvFlags, ReturnFlags, Shutdown};
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

#[cfg(test)]
pub(crate) mod tests;

/// Since Linux 6.16; `asm-generic/socket.h`.
const SO_PASSRIGHTS: libc::c_int = 83;
/// Since Linux 6.5; `asm-generic/socket.h`.
const SO_PASSPIDFD: libc::c_int = 76;
/// Size of `int` as the kernel wants it.
const INT: libc::socklen_t = libc::c_int::BITS / 8;
/// Bytes that are looked at in one go.
const LOOK: usize = 4096;
/// Looks at what a peer has left behind. What is not found clean by then is closed elsewhere.
const LOOKS: u32 = 16;

/// Whether descriptors may be in the queue of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rights {
    /// None is there, and none can come.
    Refused,
    /// The peer may have sent some.
    Possible,
}

/// What a receive came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "the end and a fault are told here alone"]
pub(crate) enum Received {
    /// So many bytes; 0 is the end.
    Bytes(usize),
    /// There are descriptors in the queue. Nothing was taken, and nothing more can be.
    Descriptors,
}

/// A socket of a peer that is not trusted. Its drop never waits.
#[derive(Debug)]
pub(crate) struct PeerSocket {
    /// Taken when it is dropped only.
    fd: Option<OwnedFd>,
    rights: Rights,
    /// Listeners have connections in their queue, which cannot be looked at.
    listens: bool,
    /// Held from the look to the receive, where both are needed: another thread would take what
    /// was looked at, and leave what was not.
    reading: Mutex<()>,
    origin: Origin,
}

impl PeerSocket {
    fn new(fd: OwnedFd, rights: Rights, listens: bool) -> Self {
        if !listens {
            // Cannot fail: every socket has the option.
            let _ = rustix::net::sockopt::set_socket_oobinline(&fd, true);
        }
        Self { fd: Some(fd), rights, listens, reading: Mutex::new(()), origin: Origin::here() }
    }

    /// A socket that was connected by this process.
    pub(crate) fn connected(fd: OwnedFd) -> Self {
        Self::new(fd, Rights::Possible, false)
    }

    /// A connection that was accepted from a listener.
    pub(crate) fn accepted(fd: OwnedFd) -> Self {
        // Refused by the listener, and so before the peer could send.
        let rights = if rights_are_refused(&fd) { Rights::Refused } else { Rights::Possible };
        if rights == Rights::Possible {
            // Some may be there; at least no more come.
            let _ = set_refused(&fd);
            // A service manager may have set these on the listener. It would look as if there were
            // descriptors with all that comes.
            for option in [libc::SO_PASSCRED, libc::SO_PASSSEC, SO_PASSPIDFD] {
                let _ = switch_off(&fd, option);
            }
        }
        Self::new(fd, rights, false)
    }

    /// A socket that is about to listen, or listens and was passed to this process. In the second
    /// case (`listens`) there may be connections already.
    pub(crate) fn listener(fd: OwnedFd, listens: bool) -> Self {
        // With an option that stands, every connection was refused them from the start.
        let stood = listens && rights_are_refused(&fd);
        let refused = set_refused(&fd).is_ok() && (stood || !listens);
        Self::new(fd, if refused { Rights::Refused } else { Rights::Possible }, true)
    }

    /// Asks for no more descriptors: what the peer is to send from now on has none. False if some
    /// are there already, which is the peer's fault.
    pub(crate) fn refuse_rights(&mut self) -> bool {
        let refused = set_refused(self.fd()).is_ok();
        let mut space = [0; 256];
        match look(self.fd(), &mut space) {
            Ok(Received::Descriptors) => return false,
            // All of the queue was seen, or there is none.
            Ok(Received::Bytes(count)) if count < space.len() && refused => {
                self.rights = Rights::Refused;
            }
            Err(Errno::AGAIN) if refused => self.rights = Rights::Refused,
            // The reader looks for itself.
            Ok(Received::Bytes(_)) | Err(_) => {}
        }
        true
    }

    /// Whether descriptors may be in the queue.
    #[inline]
    pub(crate) fn rights(&self) -> Rights {
        self.rights
    }

    #[inline]
    fn fd(&self) -> &OwnedFd {
        self.fd.as_ref().expect("taken when it is dropped only")
    }

    /// Receives once, without waiting.
    pub(crate) fn receive(&self, into: &mut [u8]) -> Result<Received, Errno> {
        if self.rights == Rights::Refused {
            // Fast path of the look below: there is nothing to be found.
            let (_, count) = rustix::net::recv(self.fd(), into, RecvFlags::DONTWAIT)?;
            return Ok(Received::Bytes(count));
        }
        let _reading = lock(&self.reading);
        match look(self.fd(), into)? {
            Received::Bytes(clean) if clean > 0 => {
                let (_, count) =
                    rustix::net::recv(self.fd(), &mut into[..clean], RecvFlags::DONTWAIT)?;
                Ok(Received::Bytes(count))
            }
            end_or_descriptors => Ok(end_or_descriptors),
        }
    }

    /// Receives once, without waiting, into the spare capacity of a buffer, which must have some.
    pub(crate) fn receive_more(&self, buffer: &mut Vec<u8>) -> Result<Received, Errno> {
        if self.rights == Rights::Refused {
            // Fast path, as above.
            let spare = rustix::buffer::spare_capacity(buffer);
            let (_, count) = rustix::net::recv(self.fd(), spare, RecvFlags::DONTWAIT)?;
            return Ok(Received::Bytes(count));
        }
        let had = buffer.len();
        buffer.resize(buffer.capacity(), 0);
        let received = self.receive(&mut buffer[had..]);
        let count = if let Ok(Received::Bytes(count)) = received { count } else { 0 };
        buffer.truncate(had + count);
        received
    }
}

/// Has the kernel refuse descriptors on every connection of a listener that is passed on to another
/// process. On a kernel that cannot, that process looks for itself.
pub(crate) fn refuse_rights(listener: &OwnedFd) {
    let _ = set_refused(listener);
}

/// What is in the queue, and stays there. What is not descriptors is safe to take, so many bytes.
fn look(socket: &OwnedFd, into: &mut [u8]) -> Result<Received, Errno> {
    let mut no_room = RecvAncillaryBuffer::default();
    let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK | RecvFlags::CMSG_CLOEXEC;
    let seen = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(into)], &mut no_room, flags)?;
    if seen.flags.contains(ReturnFlags::CTRUNC) {
        Ok(Received::Descriptors)
    } else {
        Ok(Received::Bytes(seen.bytes))
    }
}

/// Takes what is left in the queue of a socket to which nothing more can come; false if there are
/// descriptors, or too much.
fn empty(socket: &OwnedFd) -> bool {
    let mut space = [0; LOOK];
    for _ in 0..LOOKS {
        match retry_on_intr(|| look(socket, &mut space)) {
            Ok(Received::Bytes(0)) | Err(Errno::CONNRESET | Errno::NOTCONN | Errno::INVAL) => {
                return true;
            }
            Ok(Received::Bytes(clean)) => {
                let taken = rustix::net::recv(socket, &mut space[..clean], RecvFlags::DONTWAIT);
                if taken.is_err() {
                    return false;
                }
            }
            Ok(Received::Descriptors) | Err(_) => return false,
        }
    }
    false
}

fn set_refused(socket: &OwnedFd) -> Result<(), Errno> {
    switch_off(socket, SO_PASSRIGHTS)
}

fn switch_off(socket: &OwnedFd, option: libc::c_int) -> Result<(), Errno> {
    let off: libc::c_int = 0;
    let value = (&raw const off).cast();
    // SAFETY: reads an int.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, value, INT) };
    if result == 0 { Ok(()) } else { Err(last_error()) }
}

fn rights_are_refused(socket: &OwnedFd) -> bool {
    let mut on: libc::c_int = 1;
    let mut length = INT;
    let value = (&raw mut on).cast();
    // SAFETY: writes an int.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            value,
            &raw mut length,
        )
    };
    result == 0 && on == 0
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

impl Drop for PeerSocket {
    fn drop(&mut self) {
        let Some(fd) = self.fd.take() else { return };
        // A forked child has a reference beside its parent's, and must not shut that down.
        if self.rights == Rights::Refused || !self.origin.is_here() {
            return drop(fd);
        }
        if !self.listens {
            let _ = rustix::net::shutdown(&fd, Shutdown::Both);
            if empty(&fd) {
                return drop(fd);
            }
        }
        closer::close(fd);
    }
}

impl std::ops::Deref for PeerSocket {
    type Target = OwnedFd;

    fn deref(&self) -> &OwnedFd {
        self.fd()
    }
}

impl AsFd for PeerSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd().as_fd()
    }
}

impl AsRawFd for PeerSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd().as_raw_fd()
    }
}

#[cfg(test)]
impl From<std::os::unix::net::UnixStream> for PeerSocket {
    fn from(stream: std::os::unix::net::UnixStream) -> Self {
        Self::connected(stream.into())
    }
}
