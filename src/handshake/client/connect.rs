//! Connecting a socket, with a deadline and with what is wrong at the path.

use super::error::ConnectError;
use crate::handshake::{BadPath, MAX_PATH, address};
use crate::os::peer_socket::PeerSocket;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A connected, non-blocking socket.
pub(in crate::handshake) fn connect(
    path: &Path,
    deadline: Option<Instant>,
) -> Result<PeerSocket, ConnectError> {
    let address = address(path).map_err(|bad| match bad {
        BadPath::TooLong(len) => ConnectError::PathTooLong { len, max: MAX_PATH },
        BadPath::Invalid => {
            ConnectError::InvalidOption("the path of the socket is empty or has a NUL byte")
        }
    })?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let socket = PeerSocket::connected(socket);
    let mut result = rustix::net::connect(&socket, &address);
    if result == Err(Errno::AGAIN) {
        // The server's backlog is full.
        rustix::io::ioctl_fionbio(&socket, false)?;
        result = connect_in_turn(&socket, &address, deadline);
        rustix::io::ioctl_fionbio(&socket, true)?;
    }
    let path = || path.to_owned();
    match result {
        Ok(()) => Ok(socket),
        Err(Errno::NOENT | Errno::NOTDIR) => Err(ConnectError::NoSuchSocket(path())),
        Err(Errno::CONNREFUSED | Errno::NOTSOCK) => Err(refused(path())),
        Err(Errno::ACCESS | Errno::PERM) => Err(ConnectError::PermissionDenied(path())),
        // A datagram socket, for one.
        Err(Errno::PROTOTYPE) => Err(ConnectError::NotRingbell),
        Err(Errno::AGAIN) => Err(ConnectError::TimedOut),
        Err(other) => Err(other.into()),
    }
}

/// Waits in the kernel for room in the backlog. There, and not by asking again: nothing would tell
/// when.
fn connect_in_turn(
    socket: &PeerSocket,
    address: &SocketAddrUnix,
    deadline: Option<Instant>,
) -> Result<(), Errno> {
    loop {
        let left = match deadline {
            None => None,
            Some(deadline) => match deadline.saturating_duration_since(Instant::now()) {
                Duration::ZERO => return Err(Errno::AGAIN),
                // A kernel timeout below its resolution would mean none at all.
                left => Some(left.max(Duration::from_millis(1))),
            },
        };
        sockopt::set_socket_timeout(socket, sockopt::Timeout::Send, left)?;
        match rustix::net::connect(socket, address) {
            Err(Errno::INTR | Errno::AGAIN) => {}
            other => return other,
        }
    }
}

/// Why the kernel says that nobody listens, which it says of a file that is no socket, too.
fn refused(path: PathBuf) -> ConnectError {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::metadata(&path) {
        Ok(meta) if !meta.file_type().is_socket() => ConnectError::NotASocket(path),
        // A new server has removed what an old one had left.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            ConnectError::NoSuchSocket(path)
        }
        _ => ConnectError::NobodyListens(path),
    }
}
