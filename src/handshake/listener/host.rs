//! The process that a worker serves.
//!
//! A pool listens at a second socket beside the worker's, and accepts nothing there. What connects
//! to it learns from the kernel which process listens, whatever pid namespaces lie in between and
//! whatever programs: they need not pass a descriptor on.

//!
//! A worker that inherits its socket asks that: it may be another user's, or see other files.

use super::BindError;
use super::place::parent;
use crate::handshake::sockopt::{peer_credentials, peer_pidfd};
use crate::os::environment;
use rustix::io::Errno;
use rustix::net::SocketAddrUnix;
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Whether two paths name one place for a socket, however its directory is written.
pub(crate) fn is_same_place(one: &Path, other: &Path) -> bool {
    let directory = |path| std::fs::metadata(parent(path)).map(|it| (it.dev(), it.ino())).ok();
    let is_same = || directory(one).is_some_and(|it| directory(other) == Some(it));
    one == other || (one.file_name() == other.file_name() && is_same())
}

/// A pidfd of the process that made `listener`, which was started to serve at `path`, and left it
/// to this one; `None` if the kernel cannot tell.
///
/// # Errors
/// As [`host_of`].
pub(super) fn host_behind(listener: impl AsFd, path: &Path) -> Result<Option<OwnedFd>, BindError> {
    // Of a socket that listens, these are of the process that called `listen`.
    let maker = peer_credentials(&listener)?;
    if Pid::from_raw(maker.pid) == Some(getpid()) {
        // This process has called it again.
        return host_of(path);
    }
    pidfd_of(listener, maker.pid, || BindError::HostEnded(path.to_owned()))
}

/// A pidfd of the process that started this one to serve at `path`; `None` if no pool did, or if
/// the kernel cannot tell.
///
/// # Errors
/// [`BindError::HostEnded`] if that process is gone already, or does not want this one any more.
pub(crate) fn host_of(path: &Path) -> Result<Option<OwnedFd>, BindError> {
    let host = environment::host_socket(path);
    let ended = || BindError::HostEnded(host.clone());
    let Ok(address) = SocketAddrUnix::new(&host) else { return Ok(None) };
    let socket = super::new_socket()?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) => {}
        Err(Errno::CONNREFUSED) => return Err(ended()),
        // Only a pool makes such a directory, and it removes both together.
        Err(Errno::NOENT | Errno::NOTDIR) if is_made_by_a_pool(parent(path)) => {
            return Err(ended());
        }
        // It lives, but this process would not see its end.
        Err(Errno::AGAIN) => {
            let why = format!("too many connections wait at {}", host.display());
            return Err(BindError::Io(std::io::Error::other(why)));
        }
        Err(_) => return Ok(None),
    }
    // Somebody else's socket is no reason to end.
    let found = peer_credentials(&socket)?;
    let own = rustix::process::geteuid().as_raw();
    if found.uid != own && found.uid != 0 && own != 0 {
        return Ok(None);
    }
    pidfd_of(socket, found.pid, ended)
}

fn is_made_by_a_pool(directory: &Path) -> bool {
    directory.as_os_str().as_bytes().ends_with(environment::PLACE_SUFFIX.as_bytes())
}

/// A pidfd of the process that called `listen`, whose number is `pid`.
fn pidfd_of(
    socket: impl AsFd,
    pid: i32,
    ended: impl Fn() -> BindError,
) -> Result<Option<OwnedFd>, BindError> {
    match peer_pidfd(socket) {
        Ok(pidfd) => Ok(Some(pidfd)),
        // Before Linux 6.5. The process has the socket, so it lives, and the number is its own.
        Err(Errno::NOPROTOOPT) => match Pid::from_raw(pid) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handshake::listen_for_child;
    use crate::handshake::tests::Scratch;

    #[test]
    fn w11_a_worker_whose_place_is_gone_does_not_serve() {
        let scratch = Scratch::new();
        let place = scratch.path("w-abcdefgh2345.ring");
        let socket = place.join("s");
        // Its host has removed all, or is just doing so.
        assert!(matches!(host_of(&socket), Err(BindError::HostEnded(_))));
        std::fs::create_dir(&place).expect("made");
        assert!(matches!(host_of(&socket), Err(BindError::HostEnded(_))));
        let _host = listen_for_child(&environment::host_socket(&socket)).expect("it listens");
        assert!(matches!(host_of(&socket), Ok(Some(_))));
        assert!(matches!(host_of(&scratch.path("s")), Ok(None)), "no pool's");
    }

    #[test]
    fn w11_a_host_that_cannot_be_asked_is_an_error() {
        let scratch = Scratch::new();
        let socket = scratch.path("s");
        let _host = listen_for_child(&environment::host_socket(&socket)).expect("it listens");
        let refused = (0..100_000).find_map(|_| host_of(&socket).err());
        let refused = refused.expect("the backlog has an end").to_string();
        assert!(refused.contains("s.host"), "{refused}");
    }

    #[test]
    fn w11_a_place_is_the_same_through_a_link() {
        let scratch = Scratch::new();
        let directory = scratch.path("directory");
        std::fs::create_dir(&directory).expect("made");
        std::os::unix::fs::symlink(&directory, scratch.path("link")).expect("made");
        let place = directory.join("s");
        assert!(is_same_place(&place, &scratch.path("link").join("s")));
        assert!(is_same_place(&place, &directory.join(".").join("..").join("link").join("s")));
        assert!(!is_same_place(&place, &directory.join("t")));
        assert!(!is_same_place(&place, &scratch.path("s")));
        assert!(!is_same_place(Path::new("/no/such/s"), Path::new("/nor/such/s")));
    }
}
