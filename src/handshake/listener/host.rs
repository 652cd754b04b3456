//! The process that a worker serves.
//!
//! A pool listens at a second socket beside the worker's, and accepts nothing there. What connects
//! to it learns from the kernel which process listens, whatever pid namespaces lie in between and
//! whatever programs: they need not pass a descriptor on.

use super::BindError;
use crate::handshake::sockopt::{peer_credentials, peer_pidfd};
use crate::os::environment;
use rustix::io::Errno;
use rustix::net::SocketAddrUnix;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::OwnedFd;
use std::path::Path;

/// A pidfd of the process that started this one to serve at `path`; `None` if no pool did, or if
/// the kernel cannot tell.
///
/// # Errors
/// [`BindError::HostEnded`] if that process is gone already.
pub(crate) fn host_of(path: &Path) -> Result<Option<OwnedFd>, BindError> {
    let host = environment::host_socket(path);
    let ended = || BindError::HostEnded(host.clone());
    let Ok(address) = SocketAddrUnix::new(&host) else { return Ok(None) };
    let socket = super::new_socket()?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) => {}
        Err(Errno::CONNREFUSED) => return Err(ended()),
        Err(_) => return Ok(None),
    }
    // Somebody else's socket is no reason to end.
    let found = peer_credentials(&socket)?;
    let own = rustix::process::geteuid().as_raw();
    if found.uid != own && found.uid != 0 && own != 0 {
        return Ok(None);
    }
    match peer_pidfd(&socket) {
        Ok(pidfd) => Ok(Some(pidfd)),
        // Before Linux 6.5. The process listens, so it lives, and the number is its own.
        Err(Errno::NOPROTOOPT) => match Pid::from_raw(found.pid) {
            Some(pid) => match pidfd_open(pid, PidfdFlags::empty()) {
                Ok(pidfd) => Ok(Some(pidfd)),
                Err(Errno::SRCH) => Err(ended()),
                Err(_) => Ok(None),
            },
            None => Ok(None),
        },
        Err(Errno::SRCH | Errno::INVAL) => Err(ended()),
        Err(errno) => Err(errno.into()),
    }
}
