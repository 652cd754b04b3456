//! One socket, without waiting: made, read, written. What its news are is its owner's concern.

use super::{Place, Purpose};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType,
    accept_with, bind, connect, getsockname, listen, recv, recvfrom, send, sendto, shutdown,
    socket_with, sockopt,
};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Connections that the kernel keeps for a listening socket.
const BACKLOG: i32 = 128;

/// What a socket is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Listening,
    Connecting,
    Stream,
    /// Datagrams, of anybody or of one.
    Datagrams,
}

/// A socket that does not block. What it left in the file system goes with it.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    pub(super) state: State,
    bound: Option<PathBuf>,
    udp: bool,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(path) = &self.bound {
            // Somebody else may have removed it.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

fn inet(kind: SocketType, address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    socket_with(family, kind, FLAGS, None)
}

/// Connections under way are no failure.
fn begun(connected: Result<(), Errno>) -> Result<State, Errno> {
    match connected {
        Ok(()) => Ok(State::Stream),
        Err(Errno::INPROGRESS) => Ok(State::Connecting),
        Err(error) => Err(error),
    }
}

impl Socket {
    /// Opens a socket. Unix sockets are in `directory`.
    pub(super) fn open(place: &Place, purpose: Purpose, directory: &Path) -> Result<Self, Errno> {
        let socket = |fd, state, udp| Self { fd, state, bound: None, udp };
        match (place, purpose) {
            (Place::Udp(at), _) => {
                let fd = inet(SocketType::DGRAM, *at)?;
                match purpose {
                    Purpose::Listen => bind(&fd, at)?,
                    Purpose::Connect => connect(&fd, at)?,
                }
                Ok(socket(fd, State::Datagrams, true))
            }
            (Place::Tcp(at), Purpose::Listen) => {
                let fd = inet(SocketType::STREAM, *at)?;
                sockopt::set_socket_reuseaddr(&fd, true)?;
                bind(&fd, at)?;
                listen(&fd, BACKLOG)?;
                Ok(socket(fd, State::Listening, false))
            }
            (Place::Tcp(to), Purpose::Connect) => {
                let fd = inet(SocketType::STREAM, *to)?;
                sockopt::set_tcp_nodelay(&fd, true)?;
                let state = begun(connect(&fd, to))?;
                Ok(socket(fd, state, false))
            }
            (Place::Unix(name), _) => {
                let path = directory.join(name);
                let address = SocketAddrUnix::new(&path)?;
                let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)?;
                if purpose == Purpose::Connect {
                    let state = begun(connect(&fd, &address))?;
                    return Ok(socket(fd, state, false));
                }
                bind(&fd, &address)?;
                let socket =
                    Self { fd, state: State::Listening, bound: Some(path.clone()), udp: false };
                // Before anybody can connect.
                rustix::fs::chmod(&path, Mode::RUSR | Mode::WUSR)?;
                listen(&socket.fd, BACKLOG)?;
                Ok(socket)
            }
        }
    }

    /// Where it is. `asked` is what it was opened with.
    pub(super) fn place(&self, asked: Place) -> Result<Place, Errno> {
        let here = || SocketAddr::try_from(getsockname(&self.fd)?);
        Ok(match asked {
            Place::Udp(_) => Place::Udp(here()?),
            Place::Tcp(_) => Place::Tcp(here()?),
            unix @ Place::Unix(_) => unix,
        })
    }

    /// The next connection; `None` if there is none now.
    pub(super) fn accept(&self) -> Result<Option<Self>, Errno> {
        loop {
            match accept_with(&self.fd, FLAGS) {
                Ok(fd) => {
                    if self.bound.is_none() {
                        sockopt::set_tcp_nodelay(&fd, true)?;
                    }
                    return Ok(Some(Self { fd, state: State::Stream, bound: None, udp: false }));
                }
                Err(Errno::AGAIN) => return Ok(None),
                // Given up by whoever connected, before anybody looked.
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// What became of connecting, now that the kernel says that it is over.
    pub(super) fn connected(&mut self) -> Result<(), Errno> {
        sockopt::socket_error(&self.fd)??;
        self.state = State::Stream;
        Ok(())
    }

    /// Bytes of a stream; `None` if there are none now, 0 at its end.
    pub(super) fn recv(&self, into: &mut [u8]) -> Result<Option<usize>, Errno> {
        loop {
            match recv(&self.fd, &mut *into, RecvFlags::DONTWAIT) {
                Ok((count, _)) => return Ok(Some(count)),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// A datagram and its sender; `None` if there is none now. What an earlier one met elsewhere is
    /// no failure of the socket.
    pub(super) fn recv_from(&self, into: &mut [u8]) -> Result<Option<(usize, SocketAddr)>, Errno> {
        loop {
            match recvfrom(&self.fd, &mut *into, RecvFlags::DONTWAIT) {
                Ok((count, _, Some(from))) => {
                    return Ok(Some((count, SocketAddr::try_from(from)?)));
                }
                Ok((_, _, None)) => return Err(Errno::INVAL),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::CONNREFUSED | Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// How many bytes the kernel takes now.
    pub(super) fn send(&self, bytes: &[u8]) -> Result<usize, Errno> {
        match send(&self.fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            sent => sent,
        }
    }

    /// Whether the kernel takes this datagram now. One that cannot be delivered is lost, as
    /// datagrams are.
    pub(super) fn send_datagram(
        &self,
        to: Option<SocketAddr>,
        bytes: &[u8],
    ) -> Result<bool, Errno> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = match to {
            Some(to) => sendto(&self.fd, bytes, flags, &to),
            None => send(&self.fd, bytes, flags),
        };
        match sent {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(Errno::CONNREFUSED | Errno::MSGSIZE | Errno::NETUNREACH | Errno::HOSTUNREACH) => {
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether it is for datagrams.
    pub(super) fn is_udp(&self) -> bool {
        self.udp
    }

    /// No more will be sent.
    pub(super) fn finish(&self) {
        // The other side may have hung up already.
        let _ = shutdown(&self.fd, Shutdown::Write);
    }
}
