//! The place of a socket: a name in a directory, and the lock beside it.
//!
//! Others may have the right to write to the directory. So nothing here follows a symbolic link at
//! the socket's name or at the lock's, what was looked at is what is used (by its descriptor), and
//! the directory is opened once: whatever becomes of the working directory or of the directory's
//! own path, the server removes its socket at the end.

use super::BindError;
use crate::handshake::sockopt::change_mode;
use crate::os::calls::Failed;
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long to wait for another process that is just binding, or going away from, the same path.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Which file a name stood for.
pub(super) type FileId = (u64, u64);

fn id(stat: &Stat) -> FileId {
    (stat.st_dev, stat.st_ino)
}

/// A name in a directory.
#[derive(Debug)]
pub(super) struct Place {
    directory: OwnedFd,
    name: OsString,
    /// As the caller wrote it, for errors.
    path: PathBuf,
}

/// An error that concerns this path.
pub(super) fn at(path: &Path, errno: Errno) -> BindError {
    match errno {
        Errno::ACCESS | Errno::PERM => BindError::PermissionDenied(path.to_owned()),
        Errno::ROFS => BindError::ReadOnly(path.to_owned()),
        Errno::NOSPC | Errno::DQUOT => BindError::FileSystemFull(path.to_owned()),
        Errno::NOENT | Errno::NOTDIR => BindError::ParentMissing(parent(path).to_owned()),
        other => other.into(),
    }
}

/// The directory of a path.
pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("/"),
    }
}

impl Place {
    /// The place that `path` names now.
    pub(super) fn of(path: &Path) -> Result<Self, BindError> {
        // A root, or `..`: a directory.
        let name = path.file_name().ok_or_else(|| BindError::PathIsNotASocket(path.to_owned()))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(parent(path), flags, Mode::empty())
            .map_err(|errno| at(path, errno))?;
        Ok(Self { directory, name: name.to_owned(), path: path.to_owned() })
    }

    fn stat(&self, name: &OsStr) -> Result<Stat, Errno> {
        rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// What is at the name itself, and not behind it.
    fn open(&self) -> Result<(OwnedFd, Stat), Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, &self.name, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&file)?;
        Ok((file, stat))
    }

    /// Removes the name if it stands for this file.
    pub(super) fn remove(&self, file: FileId) -> Result<(), Errno> {
        match self.stat(&self.name) {
            Ok(stat) if id(&stat) == file => {
                rustix::fs::unlinkat(&self.directory, &self.name, AtFlags::empty())
            }
            Ok(_) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Removes a socket that nobody listens at. The lock is held.
    pub(super) fn make_room(&self, address: &SocketAddrUnix) -> Result<(), BindError> {
        let failed = |errno| at(&self.path, errno);
        let (file, stat) = match self.open() {
            Err(Errno::NOENT) => return Ok(()),
            opened => opened.map_err(failed)?,
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
            return Err(BindError::PathIsNotASocket(self.path.clone()));
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let probe = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let mut result = rustix::net::connect(&probe, &by_descriptor(&file)?);
        if result == Err(Errno::NOENT) {
            // There is no /proc.
            result = rustix::net::connect(&probe, address);
        }
        match result {
            Err(Errno::CONNREFUSED) => {}
            Err(Errno::NOENT) => return Ok(()),
            // A full backlog, or a socket of another type: somebody is there.
            Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => {
                return Err(BindError::AlreadyListening(self.path.clone()));
            }
            Err(errno) => return Err(failed(errno)),
        }
        self.remove(id(&stat)).map_err(failed)
    }

    /// Binds a socket that is not bound yet. `mode` are the permissions of its file.
    pub(super) fn bind(
        &self,
        socket: &OwnedFd,
        address: &SocketAddrUnix,
        mode: u32,
    ) -> Result<FileId, BindError> {
        let mode = Mode::from_raw_mode(mode);
        // The file gets the mode of the socket, less the umask: never more than it is to have.
        let _ = rustix::fs::fchmod(socket, mode);
        rustix::net::bind(socket, address).map_err(|errno| match errno {
            Errno::ADDRINUSE => BindError::PathReplaced(self.path.clone()),
            other => at(&self.path, other),
        })?;
        let replaced = || BindError::PathReplaced(self.path.clone());
        let (file, stat) = self.open().map_err(|_| replaced())?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
            return Err(replaced());
        }
        if Mode::from_raw_mode(stat.st_mode) != mode {
            // What is changed is what was looked at. A socket of this user with one name is, but
            // for one that this user puts there at the same time, the one that was just made.
            let own = stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_nlink == 1;
            let changed = if own { change_mode(&file, mode) } else { Err(Errno::PERM) };
            if let Err(errno) = changed {
                let _ = self.remove(id(&stat));
                return Err(if own { at(&self.path, errno) } else { replaced() });
            }
        }
        Ok(id(&stat))
    }
}

/// The address of a file that is open, whatever becomes of its name.
fn by_descriptor(file: &OwnedFd) -> Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// The lock on a place: a file beside it, which exists only while somebody holds it.
#[derive(Debug)]
pub(super) struct Lock<'a> {
    place: &'a Place,
    name: OsString,
    /// Closing it gives the lock back.
    file: OwnedFd,
}

impl<'a> Lock<'a> {
    pub(super) fn take(place: &'a Place) -> Result<Self, BindError> {
        let mut name = place.name.clone();
        name.push(".lock");
        let give_up = Instant::now() + LOCK_PATIENCE;
        // Not to wait for the other end of a FIFO, and not to get a terminal.
        let calm = OFlags::NONBLOCK | OFlags::NOCTTY;
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | calm;
        loop {
            let file = rustix::fs::openat(&place.directory, &name, flags, Mode::RUSR | Mode::WUSR)
                .map_err(|errno| unusable(place, &name, errno))?;
            if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
                return Err(unusable(place, &name, Errno::INVAL));
            }
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    let lock = Self { place, name, file };
                    if lock.is_in_place() {
                        return Ok(lock);
                    }
                    // The last holder has removed it: a lock on a file that nobody can find locks
                    // nobody out. It must not remove the one that is there now.
                    name = lock.forget();
                    if Instant::now() >= give_up {
                        return Err(BindError::Locked(place.path.with_file_name(&name)));
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) if Instant::now() < give_up => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(Errno::WOULDBLOCK) => {
                    return Err(BindError::Locked(place.path.with_file_name(&name)));
                }
                Err(errno) => {
                    drop(file);
                    return Err(unlockable(place, &name, errno));
                }
            }
        }
    }

    /// Whether the file that is locked is the one that others find.
    fn is_in_place(&self) -> bool {
        match (rustix::fs::fstat(&self.file), self.place.stat(&self.name)) {
            (Ok(held), Ok(found)) => id(&held) == id(&found),
            _ => false,
        }
    }

    /// Lets go without removing anything.
    fn forget(mut self) -> OsString {
        // An empty name is none to remove.
        std::mem::take(&mut self.name)
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        // While it is still held: who waits for this file sees that it is gone, and makes a new
        // one.
        if !self.name.is_empty() {
            let _ = rustix::fs::unlinkat(&self.place.directory, &self.name, AtFlags::empty());
        }
    }
}

/// Why a lock cannot be taken. What is in the way is the lock itself, if it is there, and else the
/// directory.
fn unusable(place: &Place, name: &OsStr, errno: Errno) -> BindError {
    let Ok(stat) = place.stat(name) else { return at(&place.path, errno) };
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => None,
        FileType::Symlink => Some("it is a symbolic link"),
        FileType::Directory => Some("it is a directory"),
        _ => Some("it is no plain file"),
    };
    BindError::LockUnusable {
        lock: place.path.with_file_name(name),
        owner: stat.st_uid,
        error: kind.map_or_else(|| errno.into(), std::io::Error::other),
    }
}

/// The lock is a good file, and cannot be locked: the call is refused, or the file system has none.
fn unlockable(place: &Place, name: &OsStr, errno: Errno) -> BindError {
    let failed = Failed { call: "flock", errno };
    match unusable(place, name, errno) {
        BindError::LockUnusable { lock, owner, .. } => {
            BindError::LockUnusable { lock, owner, error: failed.into() }
        }
        other => other,
    }
}
