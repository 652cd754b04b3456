//! The socket that clients connect to: made at a path, or inherited from a service manager.

mod host;
mod place;

use super::sockopt::{is_bound_to, take_inherited};
use super::{BadPath, MAX_PATH};
use crate::base::sync::PlainBool;
use crate::os::calls::Failed;
use crate::os::peer_socket::{PeerSocket, Rights, refuse_rights};
use host::host_behind;
pub(crate) use host::{host_of, is_same_place};
use place::{FileId, Lock, Place, parent};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::ffi::{OsStr, OsString};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A setting that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidSetting(pub(crate) String);

impl std::fmt::Display for InvalidSetting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidSetting {}

/// Why a server has no socket.
#[derive(Debug)]
#[non_exhaustive]
pub enum BindError {
    /// No socket can have so long a path.
    PathTooLong {
        /// Length of the path in bytes.
        len: usize,
        /// Longest possible path in bytes.
        max: usize,
    },
    /// The path is empty or has a NUL byte.
    InvalidPath,
    /// Something else than a socket is at this path; it is left alone.
    PathIsNotASocket(PathBuf),
    /// The directory of the socket does not exist
    /// ([`create_directory`](crate::ServerBuilder::create_directory) makes it), or the one that it
    /// would be made in.
    ParentMissing(PathBuf),
    /// This process may not make a socket there.
    PermissionDenied(PathBuf),
    /// The file system of this path is read-only.
    ReadOnly(PathBuf),
    /// The file system of this path is full, or a quota on it is used up: there is no room for the
    /// socket or its lock.
    FileSystemFull(PathBuf),
    /// Another server listens at this path.
    AlreadyListening(PathBuf),
    /// Another process holds the lock of the socket's path and has not released it. This is the
    /// path of the lock.
    Locked(PathBuf),
    /// The lock beside the socket cannot be used: a file of somebody else, or no plain file.
    LockUnusable {
        /// The path of the lock.
        lock: PathBuf,
        /// The uid that owns what is there.
        owner: u32,
        /// Why it cannot be used.
        error: std::io::Error,
    },
    /// Somebody else put something at the path while the socket was being made there.
    PathReplaced(PathBuf),
    /// What the service manager passed on is no listening stream socket of the Unix domain.
    NotAListener,
    /// Neither a service manager nor a pool of workers passed a socket to this process.
    NoSocketPassed,
    /// The process that started this one as a worker has ended, or does not want it any more: its
    /// socket says so.
    HostEnded(PathBuf),
    /// A setting makes no sense.
    InvalidSetting(InvalidSetting),
    /// The limit of open files is too low for `max_clients`.
    TooFewDescriptors {
        /// Descriptors that the server may need.
        need: u64,
        /// The soft limit of this process (RLIMIT_NOFILE).
        limit: u64,
    },
    /// No descriptor is left, in this process or in the system.
    OutOfDescriptors,
    /// No memory is left.
    OutOfMemory,
    /// The kernel refuses a system call that a server needs: a seccomp profile forbids it, or the
    /// kernel is too old.
    CallFailed {
        /// The name of the call.
        call: &'static str,
        /// What the kernel says.
        error: std::io::Error,
    },
    /// Any other failure of the system.
    Io(std::io::Error),
}

impl From<Failed> for BindError {
    fn from(failed: Failed) -> Self {
        if !failed.is_refusal() {
            return failed.errno.into();
        }
        Self::CallFailed { call: failed.call, error: failed.errno.into() }
    }
}

impl From<InvalidSetting> for BindError {
    fn from(setting: InvalidSetting) -> Self {
        Self::InvalidSetting(setting)
    }
}

impl From<crate::link::segment::SegmentError> for BindError {
    fn from(error: crate::link::segment::SegmentError) -> Self {
        use crate::link::segment::SegmentError;
        match error {
            SegmentError::OutOfMemory => Self::OutOfMemory,
            SegmentError::OutOfDescriptors => Self::OutOfDescriptors,
            other => Self::Io(std::io::Error::other(other)),
        }
    }
}

impl std::fmt::Display for BindError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::PathTooLong { len, max } => {
                write!(
                    f,
                    "the path of the socket has {len} bytes, more than the {max} that are possible"
                )
            }
            Self::InvalidPath => f.write_str("the path of the socket is empty or has a NUL byte"),
            Self::PathIsNotASocket(path) => {
                write!(f, "{} exists and is not a socket", path.display())
            }
            Self::ParentMissing(path) => {
                write!(f, "the directory {} does not exist", path.display())
            }
            Self::PermissionDenied(path) => {
                write!(f, "no permission to make a socket at {}", path.display())
            }
            Self::ReadOnly(path) => {
                write!(f, "the file system of {} is read-only", path.display())
            }
            Self::FileSystemFull(path) => {
                write!(f, "the file system of {} is full, or its quota is used up", path.display())
            }
            Self::AlreadyListening(path) => {
                write!(f, "another server listens at {}", path.display())
            }
            Self::Locked(path) => write!(
                f,
                "another process holds the lock {} and has not released it",
                path.display()
            ),
            Self::LockUnusable { lock, owner, error } => write!(
                f,
                "the lock {}, which uid {owner} owns, cannot be used: {error}",
                lock.display()
            ),
            Self::PathReplaced(path) => write!(
                f,
                "somebody else put something at {} while the socket was being made there",
                path.display()
            ),
            Self::NotAListener => {
                f.write_str("the inherited descriptor is not a listening Unix stream socket")
            }
            Self::NoSocketPassed => f.write_str("nobody passed a socket to this process"),
            Self::HostEnded(socket) => write!(
                f,
                "the process that this worker was started for has ended, or wants it no more: nobody \
                 listens at {}",
                socket.display()
            ),
            Self::InvalidSetting(setting) => setting.fmt(f),
            Self::TooFewDescriptors { need, limit } => write!(
                f,
                "max_clients may need {need} descriptors, and this process may open {limit}: raise RLIMIT_NOFILE or \
                 lower max_clients"
            ),
            Self::OutOfDescriptors => f.write_str("no descriptor is left"),
            Self::OutOfMemory => f.write_str("no memory is left"),
            Self::CallFailed { call, error } => write!(
                f,
                "the system call {call}, which a server needs, fails: {error} (a seccomp profile \
                 may refuse it, or the kernel may be too old)"
            ),
            Self::Io(error) => write!(f, "the server could not be made: {error}"),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) | Self::LockUnusable { error, .. } | Self::CallFailed { error, .. } => {
                Some(error)
            }
            _ => None,
        }
    }
}

impl From<Errno> for BindError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::MFILE | Errno::NFILE => Self::OutOfDescriptors,
            Errno::NOMEM | Errno::NOBUFS | Errno::NOSPC => Self::OutOfMemory,
            other => Self::Io(other.into()),
        }
    }
}

impl From<std::io::Error> for BindError {
    fn from(error: std::io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(errno) => errno.into(),
            None => Self::Io(error),
        }
    }
}

/// How the socket is made.
#[derive(Debug, Clone)]
pub(crate) struct ListenOptions {
    /// Its permissions.
    pub(crate) mode: u32,
    /// Whether its directory is made if it is missing, for this user only (0700).
    pub(crate) create_directory: bool,
    /// How many connections may wait to be accepted.
    pub(crate) backlog: i32,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self { mode: 0o600, create_directory: false, backlog: 128 }
    }
}

/// A listening socket, non-blocking. Its path goes with it.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) socket: PeerSocket,
    /// The process that this server is a worker of, if it is one: a pidfd. The server ends with it.
    pub(crate) host: Option<OwnedFd>,
    bound: Option<Bound>,
}

/// What was bound where, and by whom: a forked child must not remove its parent's socket.
#[derive(Debug)]
struct Bound {
    place: Place,
    file: FileId,
    pid: rustix::process::Pid,
}

impl Listener {
    /// Takes a listening socket over, from a service manager: its path is not this process's to
    /// remove.
    ///
    /// # Errors
    /// [`BindError::NotAListener`] if it is something else.
    pub(crate) fn inherited(socket: OwnedFd) -> Result<Self, BindError> {
        let is = |fact: Result<bool, Errno>| match fact {
            Ok(true) => Ok(()),
            Ok(false) | Err(Errno::NOTSOCK | Errno::BADF) => Err(BindError::NotAListener),
            Err(errno) => Err(errno.into()),
        };
        is(sockopt::socket_domain(&socket).map(|domain| domain == AddressFamily::UNIX))?;
        is(sockopt::socket_type(&socket).map(|kind| kind == SocketType::STREAM))?;
        is(sockopt::socket_acceptconn(&socket))?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self { socket: PeerSocket::listener(socket, true), host: None, bound: None })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let Some(bound) = &self.bound else { return };
        if rustix::process::getpid() != bound.pid {
            return;
        }
        if self.socket.rights() == Rights::Possible {
            // It is closed elsewhere, some time. Whoever connects until then is refused at once.
            let _ = rustix::net::shutdown(&*self.socket, rustix::net::Shutdown::Both);
        }
        // Without the lock a server that replaces this one could lose its new socket here; so
        // rather leave a stale one behind, which the next server replaces.
        let Ok(_lock) = Lock::take(&bound.place) else { return };
        let _ = bound.place.remove(bound.file);
    }
}

/// Makes a socket at `path` and listens. A stale socket is replaced.
pub(crate) fn listen(path: &Path, options: &ListenOptions) -> Result<Listener, BindError> {
    let address = address(path)?;
    if options.create_directory {
        make_directory(parent(path))?;
    }
    let place = Place::of(path)?;
    let lock = Lock::take(&place)?;
    // From here to `listen` nobody else binds this path: a socket that is bound and does not listen
    // yet looks like a stale one.
    place.make_room(&address)?;
    let socket = PeerSocket::listener(new_socket()?, false);
    let file = place.bind(&socket, &address, options.mode)?;
    // The permissions stand: until now nobody could connect with others.
    if let Err(errno) = rustix::net::listen(&*socket, options.backlog) {
        let _ = place.remove(file);
        return Err(errno.into());
    }
    drop(lock);
    let bound = Some(Bound { place, file, pid: rustix::process::getpid() });
    Ok(Listener { socket, host: None, bound })
}

/// Makes a socket at a path that nobody else uses, for this user only, and listens. Who calls it
/// removes the path.
pub(crate) fn listen_for_child(path: &Path) -> Result<OwnedFd, BindError> {
    let address = address(path)?;
    let place = Place::of(path)?;
    let socket = new_socket()?;
    refuse_rights(&socket);
    let options = ListenOptions::default();
    let file = place.bind(&socket, &address, options.mode)?;
    if let Err(errno) = rustix::net::listen(&socket, options.backlog) {
        let _ = place.remove(file);
        return Err(errno.into());
    }
    Ok(socket)
}

fn address(path: &Path) -> Result<rustix::net::SocketAddrUnix, BindError> {
    super::address(path).map_err(|bad| match bad {
        BadPath::TooLong(len) => BindError::PathTooLong { len, max: MAX_PATH },
        BadPath::Invalid => BindError::InvalidPath,
    })
}

fn new_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Makes the last directory of a path if it is missing, for this user only; nothing above it.
fn make_directory(directory: &Path) -> Result<(), BindError> {
    match std::fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists && !directory.is_dir() => {
            Err(match Errno::from_io_error(&error) {
                Some(errno) => place::at(directory, errno),
                None => BindError::Io(error),
            })
        }
        _ => Ok(()),
    }
}

/// The socket that a service manager (systemd and others) passed on by socket activation, if there
/// is one for this process. It can be taken once.
///
/// Source: sd_listen_fds(3): `LISTEN_PID` is this process, `LISTEN_FDS` counts descriptors from 3.
pub(crate) fn listen_fds() -> Result<Option<Listener>, BindError> {
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    if !meant_for(pid, std::env::var_os("LISTEN_PID"), std::env::var_os("LISTEN_FDS")) {
        return Ok(None);
    }
    static TAKEN: PlainBool = PlainBool::new(false);
    const FIRST: RawFd = 3;
    take_over(FIRST, &TAKEN)
}

fn take_over(fd: RawFd, taken: &PlainBool) -> Result<Option<Listener>, BindError> {
    match take_inherited(fd, taken) {
        None => Ok(None),
        Some(Ok(socket)) => Listener::inherited(socket).map(Some),
        Some(Err(Errno::BADF)) => Err(BindError::NotAListener),
        Some(Err(errno)) => Err(errno.into()),
    }
}

/// The socket that a pool left open in what it started, if it did. It can be taken once.
///
/// `descriptor` is what the environment says, and `path` is what that socket must be bound to. A
/// program in between, such as a shell, may have passed the descriptor on, or have closed it and
/// opened something else under its number.
pub(crate) fn listen_for_parent(
    descriptor: Option<OsString>,
    path: &Path,
) -> Result<Option<Listener>, BindError> {
    static TAKEN: PlainBool = PlainBool::new(false);
    match number(descriptor) {
        Some(fd) if fd > 2 && is_bound_to(fd, path) => {
            let Some(mut listener) = take_over(fd, &TAKEN)? else { return Ok(None) };
            listener.host = host_behind(&*listener.socket, path)?;
            Ok(Some(listener))
        }
        _ => Ok(None),
    }
}

fn number(text: Option<OsString>) -> Option<i32> {
    text.as_deref().and_then(OsStr::to_str)?.parse().ok()
}

fn meant_for(pid: i32, listen_pid: Option<OsString>, listen_fds: Option<OsString>) -> bool {
    number(listen_pid) == Some(pid) && number(listen_fds).is_some_and(|count| count >= 1)
}
