//! Descriptors that came with the answer of a server, before they were checked.

use super::error::ConnectError;
use crate::link::segment::SegmentError;
use crate::os::closer;
use crate::os::peer_socket::{PeerSocket, Rights};
use rustix::fs::SealFlags;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

/// Most descriptors that the kernel sends with one message (`SCM_MAX_FD`). With less room it would
/// drop the rest in this thread.
const MOST: usize = 253;

/// Segments, with the seals that they had, and a pidfd.
pub(in crate::handshake) type Taken = (Vec<(OwnedFd, SealFlags)>, Option<OwnedFd>);

/// Descriptors of a peer, which may be anything: the close of each may wait. Those that are not
/// taken are closed elsewhere, unless they are memory.
#[derive(Debug, Default)]
pub(in crate::handshake) struct Descriptors(Vec<OwnedFd>);

impl Descriptors {
    pub(in crate::handshake) fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes them, if they are what a server offers: so many segments, and then its pidfd, if
    /// `pidfd` says so. The pidfd is left out where this process may not learn what it is.
    ///
    /// Checked here is what they are, so that their close does not wait. What is in them is not.
    pub(in crate::handshake) fn take(
        mut self,
        segments: usize,
        pidfd: bool,
    ) -> Result<Taken, ConnectError> {
        let (want, have) = (segments + usize::from(pidfd), self.len());
        if want != have {
            return Err(ConnectError::BadDescriptors { want, have });
        }
        let seals: Result<Vec<_>, _> = self.0[..segments].iter().map(seals).collect();
        let Ok(seals) = seals else {
            return Err(ConnectError::BadSegment(SegmentError::NotMemory));
        };
        match self.0.get(segments).map(is_pidfd) {
            None | Some(Ok(true)) => {}
            Some(Ok(false)) => return Err(ConnectError::NotAProcess),
            // It cannot be told what it is, in a sandbox for one. A client does without.
            Some(Err(_)) => self.0.drain(segments..).for_each(closer::close),
        }
        let pidfd = self.0.drain(segments..).next();
        Ok((self.0.drain(..).zip(seals).collect(), pidfd))
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        for fd in self.0.drain(..) {
            if seals(&fd).is_ok() {
                drop(fd);
            } else {
                closer::close(fd);
            }
        }
    }
}

/// Only files that live in memory have seals. Their close does not wait.
fn seals(fd: &OwnedFd) -> Result<SealFlags, Errno> {
    rustix::fs::fcntl_get_seals(fd)
}

/// Nothing else can be waited for. A process that is no child of this one gives ECHILD; one that is
/// stays to be waited for.
fn is_pidfd(fd: &OwnedFd) -> Result<bool, Errno> {
    let how = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    match retry_on_intr(|| waitid(WaitId::PidFd(fd.as_fd()), how)) {
        Ok(_) | Err(Errno::CHILD) => Ok(true),
        Err(Errno::BADF) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Bytes of an answer, and what came with them.
pub(super) struct Piece {
    pub(super) bytes: usize,
    pub(super) descriptors: Result<Descriptors, ConnectError>,
}

/// Receives bytes of an answer and the descriptors on them, without waiting.
///
/// They are looked at first, which gives this process references of its own, and leaves those in
/// the queue. Where not all of them fit, for want of free descriptors, the bytes stay where they
/// are: those that do not fit would be dropped with them, by this thread. Then `descriptors` is an
/// error, and nothing more can be read.
///
/// The kernel's look ends with the first message that has descriptors, which may stand behind the
/// bytes that are asked for. So those of later bytes may be among the descriptors, as copies.
pub(super) fn receive(socket: &PeerSocket, into: &mut [u8]) -> Result<Piece, Errno> {
    if socket.rights() == Rights::Refused {
        // None is there, and none can come.
        let (_, bytes) = rustix::net::recv(&**socket, into, RecvFlags::DONTWAIT)?;
        return Ok(Piece { bytes, descriptors: Ok(Descriptors::default()) });
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK | RecvFlags::CMSG_CLOEXEC;
    let seen = rustix::net::recvmsg(&**socket, &mut [IoSliceMut::new(into)], &mut control, flags)?;
    let mut descriptors = Descriptors::default();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.0.extend(rights);
        }
    }
    let bytes = seen.bytes;
    if seen.flags.contains(ReturnFlags::CTRUNC) {
        return Ok(Piece { bytes, descriptors: Err(ConnectError::OutOfDescriptors) });
    }
    // Exactly what was seen: the references that are dropped with it are not the last ones.
    let (_, taken) = rustix::net::recv(&**socket, &mut into[..bytes], RecvFlags::DONTWAIT)?;
    debug_assert_eq!(taken, bytes, "nobody else reads this socket");
    Ok(Piece { bytes: taken, descriptors: Ok(descriptors) })
}
