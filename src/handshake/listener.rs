//! The socket that clients connect to: made at a path, or inherited from a service manager.

use super::sockopt::{refuse_rights, take_inherited};
use super::{BadPath, MAX_PATH};
use crate::base::sync::PlainBool;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use std::ffi::{OsStr, OsString};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long to wait for another process that is just binding, or going away from, the same path.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

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
    /// The directory of the directory of the socket does not exist. (Only the last one is made.)
    ParentMissing(PathBuf),
    /// This process may not make a socket there.
    PermissionDenied(PathBuf),
    /// Another server listens at this path.
    AlreadyListening(PathBuf),
    /// Another process holds the lock of this path, and does not go on.
    Locked(PathBuf),
    /// What the service manager passed on is no listening stream socket of the Unix domain.
    NotAListener,
    /// Neither a service manager nor a pool of workers passed a socket to this process.
    NoSocketPassed,
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
    /// Any other failure of the system.
    Io(std::io::Error),
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
            Self::AlreadyListening(path) => {
                write!(f, "another server listens at {}", path.display())
            }
            Self::Locked(path) => write!(f, "another process holds the lock {}", path.display()),
            Self::NotAListener => {
                f.write_str("the inherited descriptor is not a listening Unix stream socket")
            }
            Self::NoSocketPassed => f.write_str("nobody passed a socket to this process"),
            Self::InvalidSetting(setting) => setting.fmt(f),
            Self::TooFewDescriptors { need, limit } => write!(
                f,
                "max_clients may need {need} descriptors, and this process may open {limit}: raise RLIMIT_NOFILE or \
                 lower max_clients"
            ),
            Self::OutOfDescriptors => f.write_str("no descriptor is left"),
            Self::OutOfMemory => f.write_str("no memory is left"),
            Self::Io(error) => write!(f, "the socket could not be made: {error}"),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
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

/// An error that concerns this path.
fn at(path: &Path, errno: Errno) -> BindError {
    match errno {
        Errno::ACCESS | Errno::PERM | Errno::ROFS => BindError::PermissionDenied(path.to_owned()),
        Errno::NOENT | Errno::NOTDIR => {
            BindError::ParentMissing(path.parent().unwrap_or(Path::new("/")).to_owned())
        }
        other => other.into(),
    }
}

fn at_io(path: &Path, error: std::io::Error) -> BindError {
    match Errno::from_io_error(&error) {
        Some(errno) => at(path, errno),
        None => BindError::Io(error),
    }
}

/// How the socket is made.
#[derive(Debug, Clone)]
pub(crate) struct ListenOptions {
    /// Its permissions. A directory that has to be made gets 0700.
    pub(crate) mode: u32,
    /// How many connections may wait to be accepted.
    pub(crate) backlog: i32,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self { mode: 0o600, backlog: 128 }
    }
}

/// A listening socket, non-blocking. Its path goes with it.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) socket: OwnedFd,
    bound: Option<BoundPath>,
}

/// What was bound where, and by whom: a forked child must not remove its parent's socket.
#[derive(Debug)]
struct BoundPath {
    path: PathBuf,
    device: u64,
    inode: u64,
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
        refuse_rights(&socket);
        Ok(Self { socket, bound: None })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let Some(bound) = &self.bound else { return };
        if rustix::process::getpid() != bound.pid {
            return;
        }
        // Without the lock a server that replaces this one could lose its new socket here; so
        // rather leave a stale one behind, which the next server replaces.
        let Ok(_lock) = Lock::take(&bound.path) else { return };
        let own = std::fs::symlink_metadata(&bound.path)
            .is_ok_and(|meta| (meta.dev(), meta.ino()) == (bound.device, bound.inode));
        if own {
            let _ = std::fs::remove_file(&bound.path);
        }
    }
}

/// Makes a socket at `path` and listens. A stale socket is replaced.
///
/// If the directory of the path is missing it is made, for this user only; nothing above it is.
pub(crate) fn listen(path: &Path, options: &ListenOptions) -> Result<Listener, BindError> {
    let address = super::address(path).map_err(|bad| match bad {
        BadPath::TooLong(len) => BindError::PathTooLong { len, max: MAX_PATH },
        BadPath::Invalid => BindError::InvalidPath,
    })?;
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        match std::fs::DirBuilder::new().mode(0o700).create(parent) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists && !parent.is_dir() => {
                return Err(at_io(parent, error));
            }
            _ => {}
        }
    }
    // From here to `listen` nobody else binds this path: a socket that is bound and does not listen
    // yet looks like a stale one.
    let _lock = Lock::take(path)?;
    make_room(path, &address)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &address).map_err(|errno| at(path, errno))?;
    let meta = std::fs::symlink_metadata(path)?;
    let bound = BoundPath {
        path: path.to_owned(),
        device: meta.dev(),
        inode: meta.ino(),
        pid: rustix::process::getpid(),
    };
    // Before it listens: until then nobody can connect with other permissions.
    let ready = std::fs::set_permissions(path, std::fs::Permissions::from_mode(options.mode))
        .map_err(|error| at_io(path, error))
        .and_then(|()| {
            refuse_rights(&socket);
            Ok(rustix::net::listen(&socket, options.backlog)?)
        });
    if let Err(error) = ready {
        let _ = std::fs::remove_file(path);
        return Err(error);
    }
    Ok(Listener { socket, bound: Some(bound) })
}

/// Removes a socket that nobody listens at. The lock is held.
fn make_room(path: &Path, address: &SocketAddrUnix) -> Result<(), BindError> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(at_io(path, error)),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(BindError::PathIsNotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&probe, address) {
        Err(Errno::CONNREFUSED) => {}
        Err(Errno::NOENT) => return Ok(()),
        // A full backlog, or a socket of another type: somebody is there.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => {
            return Err(BindError::AlreadyListening(path.to_owned()));
        }
        Err(errno) => return Err(at(path, errno)),
    }
    std::fs::remove_file(path).map_err(|error| at_io(path, error))
}

/// The lock on a path: a file beside it, which exists only while somebody holds it.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    /// Closing it gives the lock back.
    _file: OwnedFd,
}

impl Lock {
    fn take(path: &Path) -> Result<Self, BindError> {
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let lock = PathBuf::from(name);
        let give_up = Instant::now() + LOCK_PATIENCE;
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        loop {
            let file = rustix::fs::open(&lock, flags, Mode::RUSR | Mode::WUSR)
                .map_err(|errno| at(path, errno))?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // The last holder has removed it: a lock on a file that nobody can find locks
                // nobody out.
                Ok(()) if !is_at(&file, &lock) => continue,
                Ok(()) => return Ok(Self { path: lock, _file: file }),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) if Instant::now() < give_up => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(Errno::WOULDBLOCK) => return Err(BindError::Locked(lock)),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is still held: whoever waits for this file sees that it is gone, and makes a new
        // one.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn is_at(file: &OwnedFd, path: &Path) -> bool {
    let Ok(meta) = std::fs::symlink_metadata(path) else { return false };
    rustix::fs::fstat(file).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (meta.dev(), meta.ino()))
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

/// The socket that the process left open which started this one as a worker, if it did. It can be
/// taken once.
///
/// `descriptor` and `parent` are what the environment says: which one, and who passed it, so that
/// what the worker starts does not take it for its own.
pub(crate) fn listen_for_parent(
    descriptor: Option<OsString>,
    parent: Option<OsString>,
) -> Result<Option<Listener>, BindError> {
    static TAKEN: PlainBool = PlainBool::new(false);
    let ours = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    match number(descriptor) {
        Some(fd) if fd > 2 && ours.is_some() && number(parent) == ours => take_over(fd, &TAKEN),
        _ => Ok(None),
    }
}

fn number(text: Option<OsString>) -> Option<i32> {
    text.as_deref().and_then(OsStr::to_str)?.parse().ok()
}

fn meant_for(pid: i32, listen_pid: Option<OsString>, listen_fds: Option<OsString>) -> bool {
    number(listen_pid) == Some(pid) && number(listen_fds).is_some_and(|count| count >= 1)
}
