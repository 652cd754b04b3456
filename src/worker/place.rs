//! Where the socket of a worker stands while the worker starts.
//!
//! Each start has a directory of its own in the pool's: for this user only (0700), with a name that
//! cannot be foreseen. So two pools never meet, whatever their process ids, and nothing that others
//! have in the pool's directory is touched. It goes as soon as there is a session with the worker,
//! or none will be: nothing else connects there.
//!
//! This process holds a lock (`flock`) on the directory as long as it needs it. The kernel lets go
//! of that lock when the process ends, however it ends and in whatever namespaces. So a directory
//! of this kind that can be locked was left behind by a dead process, and [`sweep`] removes it. A
//! file system or a sandbox may have refused the lock to a process that lives; it listens there.

use super::WorkerError;
use super::per_process::{Found, PerProcess};
use crate::base::sync::{Mutex, lock};
use crate::handshake::{BindError, MAX_PATH, listen_for_child};
use crate::os::at_exit::at_exit;
use crate::os::environment::{PLACE_SUFFIX, host_socket};
use crate::os::fork::Origin;
use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, Stat, Statx, StatxFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, getpid};
use std::hash::{BuildHasher, Hasher};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, TryLockError};
use std::time::{Duration, Instant};

/// The socket's name in its directory; short, since the path of a socket is.
const SOCKET: &str = "s";
/// How many characters of the name are random, of five bits each.
const RANDOM: usize = 12;
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// How many names are tried. They meet by chance once in 2^60 times; but others may be made to
/// take one, or a sweeper may have just locked a new directory.
const ATTEMPTS: usize = 16;

/// The place of one worker's socket. It goes with this value.
#[derive(Debug)]
pub(super) struct SocketPlace {
    /// Where a worker listens: absolute.
    socket: PathBuf,
    directory: OwnDirectory,
    /// Those of the process, with this one.
    starting: Arc<Mutex<Starting>>,
    /// Whether the socket at the path is known to be the worker's.
    ours: bool,
    /// Listens beside it, and accepts nothing: tells the worker who its host is.
    _host: OwnedFd,
    origin: Origin,
}

impl SocketPlace {
    /// Makes a place in `directory`, whose name begins with `name`.
    pub(super) fn make(directory: &Path, name: &str) -> Result<Self, WorkerError> {
        let name = fitting(directory, name)?;
        let starting = STARTING.get_or_make(|| {
            at_exit(remove_all);
            Mutex::new(Starting::here())
        });
        let ending = || WorkerError::Socket {
            path: directory.to_owned(),
            error: std::io::Error::other("the process is ending"),
        };
        let making = Making::begin(&starting).ok_or_else(ending)?;
        let own = OwnDirectory::make(directory, name)?;
        let socket = own.path.join(SOCKET);
        let host = listen(&host_socket(&socket)).inspect_err(|_| own.remove())?;
        if !making.end(&own.path) {
            remove_in_use(&own.path);
            return Err(ending());
        }
        drop(making);
        let (directory, origin) = (own, Origin::here());
        Ok(Self { socket, directory, starting, ours: false, _host: host, origin })
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Makes the socket itself, for a worker that inherits it.
    pub(super) fn listen(&mut self) -> Result<OwnedFd, WorkerError> {
        let listener = listen(&self.socket)?;
        self.ours = true;
        Ok(listener)
    }

    /// Removes everything: there is a session with the worker.
    pub(super) fn leave(mut self) {
        self.ours = true;
    }
}

impl Drop for SocketPlace {
    fn drop(&mut self) {
        // A forked child has a copy of this, and its parent may still need the place.
        if !self.origin.is_here() {
            return;
        }
        if self.ours || is_left_behind(&self.socket) {
            self.directory.unlink(SOCKET);
        }
        self.directory.unlink_all_but_the_socket();
        self.directory.remove();
        lock(&self.starting).forget(&self.directory.path);
    }
}

/// The places of this process, for its end: threads that start workers are not waited for then.
#[derive(Debug)]
struct Starting {
    /// Whose they are. A child of `vfork` shares this memory, and is no other [`Origin`].
    process: Pid,
    places: Vec<PathBuf>,
    /// How many are being made. Not under the lock: a file system may take its time, or for ever.
    making: usize,
    /// The process ends: no more are made.
    over: bool,
}

impl Starting {
    fn here() -> Self {
        Self { process: getpid(), places: Vec::new(), making: 0, over: false }
    }

    /// Removes them all, and has no more made. Whether that is all: a thread that is just making
    /// one removes it itself.
    fn end(&mut self) -> bool {
        if self.process != getpid() {
            return true;
        }
        self.over = true;
        for place in self.places.drain(..) {
            remove_in_use(&place);
        }
        self.making == 0
    }

    fn forget(&mut self, path: &Path) {
        self.places.retain(|place| place != path);
    }
}

/// A place that is being made.
#[derive(Debug)]
struct Making<'a>(&'a Mutex<Starting>);

impl<'a> Making<'a> {
    /// `None` if the process is ending.
    fn begin(starting: &'a Mutex<Starting>) -> Option<Self> {
        let mut list = lock(starting);
        if list.over {
            return None;
        }
        list.making += 1;
        Some(Self(starting))
    }

    /// It was made. False if the process is ending, and its caller is to remove it.
    fn end(&self, place: &Path) -> bool {
        let mut list = lock(self.0);
        if !list.over {
            list.places.push(place.to_owned());
        }
        !list.over
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        lock(self.0).making -= 1;
    }
}

static STARTING: PerProcess<Mutex<Starting>> = PerProcess::new();

/// Removes what workers that are starting have, at the end of the process. They die with it.
extern "C" fn remove_all() {
    /// Another thread may be making a place at this moment, which most often takes microseconds.
    const PATIENCE: Duration = Duration::from_millis(100);
    let give_up = Instant::now() + PATIENCE;
    // Nothing here waits for a lock: the very thread that ends the process may hold it, in a
    // handler of a signal.
    loop {
        match STARTING.try_own() {
            // A forked child has none of its parent's.
            Found::Nothing => return,
            Found::Unknown => {}
            Found::Value(starting) => {
                let ended = match starting.try_lock() {
                    Ok(mut list) => list.end(),
                    Err(TryLockError::Poisoned(list)) => list.into_inner().end(),
                    Err(TryLockError::WouldBlock) => false,
                };
                if ended {
                    return;
                }
            }
        }
        if Instant::now() >= give_up {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Removes a place while its worker, or a thread that starts one, may still make files in it. They
/// can no more once it is gone.
fn remove_in_use(place: &Path) {
    /// Each of them makes three files at most.
    const ATTEMPTS: usize = 64;
    let socket = place.join(SOCKET);
    let files = [host_socket(&socket), place.join(format!("{SOCKET}.lock")), socket];
    for _ in 0..ATTEMPTS {
        // The directory is this process's, has been private from the start, and nobody but its
        // worker was told of it.
        for file in &files {
            let _ = rustix::fs::unlink(file);
        }
        if !matches!(rustix::fs::rmdir(place), Err(Errno::NOTEMPTY | Errno::EXIST)) {
            return;
        }
    }
}

/// As much of `name` as fits into the path of a socket in `directory`.
fn fitting<'a>(directory: &Path, name: &'a str) -> Result<&'a str, WorkerError> {
    let longest = host_socket(Path::new(SOCKET));
    let least = directory.as_os_str().len() + "/-/".len() + RANDOM + PLACE_SUFFIX.len();
    let least = least + longest.as_os_str().len();
    let room = MAX_PATH.saturating_sub(least).min(name.len());
    match name.get(..room) {
        Some(name) if room > 0 => Ok(name),
        _ => Err(WorkerError::PathTooLong {
            directory: directory.to_owned(),
            len: least + 1,
            max: MAX_PATH,
        }),
    }
}

fn listen(path: &Path) -> Result<OwnedFd, WorkerError> {
    listen_for_child(path).map_err(|error| {
        let error = match error {
            BindError::Io(error) => error,
            BindError::PermissionDenied(_) => std::io::ErrorKind::PermissionDenied.into(),
            other => std::io::Error::other(other),
        };
        WorkerError::Socket { path: path.to_owned(), error }
    })
}

/// Whether a socket is at this path at which no process listens any more.
fn is_left_behind(socket: &Path) -> bool {
    let is_socket = rustix::fs::lstat(socket)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    match (is_socket, probe, SocketAddrUnix::new(socket)) {
        (true, Ok(probe), Ok(address)) => {
            rustix::net::connect(&probe, &address) == Err(Errno::CONNREFUSED)
        }
        _ => false,
    }
}

/// A directory that this process has locked.
#[derive(Debug)]
struct OwnDirectory {
    path: PathBuf,
    /// Closing it gives the lock back.
    file: OwnedFd,
}

impl OwnDirectory {
    fn make(parent: &Path, name: &str) -> Result<Self, WorkerError> {
        let mut path = parent.to_owned();
        for _ in 0..ATTEMPTS {
            path = parent.join(format!("{name}-{}{PLACE_SUFFIX}", random()));
            let failed = |error| Err(WorkerError::Socket { path: path.clone(), error });
            match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(error) => return failed(error),
                Ok(()) => {}
            }
            match Self::lock(path.clone(), IfUnlockable::Use) {
                Ok(Some(own)) => match own.make_private() {
                    Ok(()) => return Ok(own),
                    Err(error) => {
                        own.remove();
                        return failed(error);
                    }
                },
                // A sweeper was faster, and removes it.
                Ok(None) | Err(Errno::NOENT) => {}
                Err(errno) => {
                    let _ = rustix::fs::rmdir(&path);
                    return failed(errno.into());
                }
            }
        }
        Err(WorkerError::Socket { path, error: Errno::EXIST.into() })
    }

    /// Locks a directory; `None` if another process has it, or it is at its path no more.
    fn lock(path: PathBuf, unlockable: IfUnlockable) -> Result<Option<Self>, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::empty())?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            // Some network file systems lock no directories, and some sandboxes lock nothing.
            Err(_) if unlockable == IfUnlockable::Use => {}
            Err(errno) => return Err(errno),
        }
        let own = Self { path, file };
        let stat = rustix::fs::fstat(&own.file)?;
        Ok(own.is_in_place(&stat).then_some(own))
    }

    /// Whether it is this user's, and others may not enter it.
    fn is_private(&self) -> bool {
        rustix::fs::fstat(&self.file).is_ok_and(|stat| {
            stat.st_uid == rustix::process::geteuid().as_raw()
                && Mode::from_raw_mode(stat.st_mode) & Mode::from_raw_mode(0o777) == Mode::RWXU
        })
    }

    /// A umask may take rights of this user's away. A file system may give what it likes.
    fn make_private(&self) -> std::io::Result<()> {
        if self.is_private() {
            return Ok(());
        }
        rustix::fs::fchmod(&self.file, Mode::RWXU)?;
        if self.is_private() {
            return Ok(());
        }
        let why = "the file system makes no directory for this user only";
        Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, why))
    }

    /// Whether its path still leads to it.
    fn is_in_place(&self, own: &Stat) -> bool {
        rustix::fs::lstat(&self.path)
            .is_ok_and(|found| (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino))
    }

    fn unlink(&self, name: impl AsRef<Path>) {
        let _ = rustix::fs::unlinkat(&self.file, name.as_ref(), AtFlags::empty());
    }

    /// Removes what hosts and servers have beside the socket.
    fn unlink_all_but_the_socket(&self) {
        self.unlink(host_socket(Path::new(SOCKET)));
        // The lock that a server holds while it binds. One that is killed then leaves it behind.
        self.unlink(format!("{SOCKET}.lock"));
    }

    /// Removes it, if nothing else is in it.
    fn remove(&self) {
        if rustix::fs::fstat(&self.file).is_ok_and(|own| self.is_in_place(&own)) {
            let _ = rustix::fs::rmdir(&self.path);
        }
    }
}

/// What to do with a directory if its file system, or a sandbox, refuses to lock it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IfUnlockable {
    Use,
    LeaveAlone,
}

fn random() -> String {
    // The standard library seeds its hash maps from the kernel's random numbers.
    let mut bits = std::hash::RandomState::new().build_hasher().finish();
    let mut text = String::with_capacity(RANDOM);
    for _ in 0..RANDOM {
        text.push(char::from(ALPHABET[(bits % 32) as usize]));
        bits /= 32;
    }
    text
}

/// Whether a name is of the kind that [`random`] makes.
fn is_of_a_place(name: &[u8]) -> bool {
    let Some(name) = name.strip_suffix(PLACE_SUFFIX.as_bytes()) else { return false };
    let Some(at) = name.len().checked_sub(RANDOM + 1) else { return false };
    name[at] == b'-' && name[at + 1..].iter().all(|byte| ALPHABET.contains(byte))
}

/// Removes what hosts of this user have left in `directory` that ended while a worker started.
pub(super) fn sweep(directory: &Path) {
    let Some(here) = seen(directory, AtFlags::empty()) else { return };
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if !is_of_a_place(entry.file_name().as_bytes()) || !may_be_opened(&entry.path(), &here) {
            continue;
        }
        let left = match OwnDirectory::lock(entry.path(), IfUnlockable::LeaveAlone) {
            Ok(Some(left)) if left.is_private() => left,
            _ => continue,
        };
        let socket = left.path.join(SOCKET);
        let host = host_socket(&socket);
        if std::fs::symlink_metadata(&host).is_ok() && !is_left_behind(&host) {
            // It lives, and could not lock it.
            continue;
        }
        if std::fs::symlink_metadata(&socket).is_ok() {
            // An orphan may serve there, or somebody else may.
            if !is_left_behind(&socket) {
                continue;
            }
            left.unlink(SOCKET);
        }
        left.unlink_all_but_the_socket();
        left.remove();
    }
}

/// What is at a path, without a question to whoever serves its file system: another user may serve
/// it (FUSE), and never answer.
fn seen(path: &Path, flags: AtFlags) -> Option<Statx> {
    let flags = flags | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    rustix::fs::statx(CWD, path, flags, StatxFlags::BASIC_STATS).ok()
}

/// Whether this is a directory of this user, in the file system of the pool's directory, `here`.
/// Nothing else is opened. Others can neither mount anything at such a directory nor put something
/// else in its place afterwards.
fn may_be_opened(path: &Path, here: &Statx) -> bool {
    seen(path, AtFlags::SYMLINK_NOFOLLOW).is_some_and(|found| {
        found.stx_uid == rustix::process::geteuid().as_raw()
            && FileType::from_raw_mode(found.stx_mode.into()) == FileType::Directory
            && (found.stx_dev_major, found.stx_dev_minor)
                == (here.stx_dev_major, here.stx_dev_minor)
    })
}

/// Makes the directory of a pool, for this user only, if it is missing; nothing above it.
pub(super) fn create(directory: &Path) -> Result<(), WorkerError> {
    match std::fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(WorkerError::Socket { path: directory.to_owned(), error })
        }
        _ => Ok(()),
    }
}

/// Refuses a directory in which others may remove what a worker has there, and put theirs in its
/// place. Root may do so anywhere.
pub(super) fn check(directory: &Path) -> Result<(), WorkerError> {
    const STICKY: u32 = 0o1000;
    const OTHERS_WRITE: u32 = 0o022;
    let unusable = |error| WorkerError::Socket { path: directory.to_owned(), error };
    let found = std::fs::metadata(directory).map_err(unusable)?;
    if !found.is_dir() {
        return Err(unusable(std::io::ErrorKind::NotADirectory.into()));
    }
    let (owner, mode) = (found.uid(), found.mode() & 0o7777);
    let ours = owner == rustix::process::geteuid().as_raw() || owner == 0;
    if ours && (mode & OTHERS_WRITE == 0 || mode & STICKY != 0) {
        return Ok(());
    }
    Err(WorkerError::UnsafeDirectory { directory: directory.to_owned(), owner, mode })
}

#[cfg(test)]
mod tests;
