//! Where a process listens, and whether its clients still find it there.
//!
//! A socket lives on when its path is deleted or given to another one: new clients then find
//! nothing, or somebody else. The kernel tells which file a listening socket was bound to
//! (`sock_diag`).

use crate::{process, text};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What is at the path of a socket that listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Spot {
    /// The socket.
    There,
    /// Nothing.
    Deleted,
    /// Something else; the process that listens there, if one does and can be seen.
    TakenOver {
        /// Its number here.
        by: Option<u32>,
    },
    /// That cannot be seen.
    Unknown,
}

/// A listening socket that has a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listening {
    /// Its path, as its process sees it and a terminal shows it.
    pub(crate) path: String,
    /// What is there.
    pub(crate) spot: Spot,
    /// The server that answers there, if the process has several.
    pub(crate) generation: Option<u64>,
    /// The path as it is.
    #[serde(skip)]
    pub(crate) raw: PathBuf,
    /// Inode and device of the file that it was bound to, if the kernel told.
    #[serde(skip)]
    file: Option<(u32, u32)>,
}

impl Listening {
    /// A socket at which a server was found.
    pub(crate) fn there(path: &Path) -> Self {
        let (path, raw) = (text::of_path(path), path.to_owned());
        Self { path, spot: Spot::There, generation: None, raw, file: None }
    }

    /// Whether it is bound to the file at `path`, as far as can be known.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        let Some((inode, _)) = self.file else { return self.raw == path };
        #[allow(clippy::cast_possible_truncation, reason = "the kernel tells no more of it")]
        let is_it = |stat: std::fs::Metadata| stat.ino() as u32 == inode;
        std::fs::metadata(path).is_ok_and(is_it)
    }
}

/// A socket of a net namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Socket {
    path: PathBuf,
    /// Inode and device of the file that it was bound to.
    file: Option<(u32, u32)>,
}

/// Listening sockets by their inodes.
type Sockets = BTreeMap<u64, Socket>;

/// The listening sockets that have a path, by net namespace. For one look.
#[derive(Debug, Default)]
pub(crate) struct Listeners(BTreeMap<Option<PathBuf>, Sockets>);

impl Listeners {
    fn of(&mut self, pid: u32) -> &Sockets {
        let namespace = process::namespace(pid, "net");
        self.0.entry(namespace.clone()).or_insert_with(|| {
            let same =
                namespace.is_some() && namespace == process::namespace(std::process::id(), "net");
            let told = if same { ask() } else { ask_in(pid) };
            told.unwrap_or_else(|_| {
                let table = std::fs::read(format!("/proc/{pid}/net/unix")).unwrap_or_default();
                in_table(&table)
            })
        })
    }

    /// Where a process listens.
    pub(crate) fn at(&mut self, pid: u32) -> Vec<Listening> {
        let held = held(pid);
        if held.is_empty() {
            return Vec::new();
        }
        let sockets = self.of(pid);
        let own = held.iter().filter_map(|inode| sockets.get(inode));
        let listening = own.map(|socket| Listening {
            path: text::of_path(&socket.path),
            spot: spot(pid, socket, sockets),
            generation: None,
            raw: socket.path.clone(),
            file: socket.file,
        });
        listening.collect()
    }
}

/// The inodes of the sockets of a process.
fn held(pid: u32) -> BTreeSet<u64> {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return BTreeSet::new() };
    let sockets = entries.flatten().filter_map(|entry| {
        let link = std::fs::read_link(entry.path()).ok()?;
        link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    });
    sockets.collect()
}

/// The process that has a socket.
fn holder(inode: u64) -> Option<u32> {
    process::all().into_iter().find(|pid| held(*pid).contains(&inode))
}

/// What is at the path of a socket of a process.
fn spot(pid: u32, socket: &Socket, all: &Sockets) -> Spot {
    let found = match lookup(pid, &socket.path) {
        Ok(found) => found,
        Err(Errno::NOENT | Errno::NOTDIR) => return Spot::Deleted,
        Err(_) => return Spot::Unknown,
    };
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let Ok(stat) = rustix::fs::statx(&found, "", flags, StatxFlags::BASIC_STATS) else {
        return Spot::Unknown;
    };
    if u32::from(stat.stx_mode) & libc::S_IFMT != libc::S_IFSOCK {
        return Spot::TakenOver { by: None };
    }
    // As the kernel writes it in a word of 32 bits.
    let device = stat.stx_dev_major << 20 | stat.stx_dev_minor;
    #[allow(clippy::cast_possible_truncation, reason = "the kernel tells no more of it")]
    let inode = stat.stx_ino as u32;
    match socket.file {
        Some((own, _)) if own == inode => Spot::There,
        // A file system of several layers says something else of its devices.
        Some((_, on)) if on == device => {
            let other = all.iter().find(|(_, other)| other.file == Some((inode, device)));
            Spot::TakenOver { by: other.and_then(|(inode, _)| holder(*inode)) }
        }
        _ => Spot::Unknown,
    }
}

/// File systems whose names the kernel looks up without asking a process or another machine.
const LOCAL: [&str; 10] =
    ["tmpfs", "ext4", "ext3", "ext2", "xfs", "btrfs", "f2fs", "bcachefs", "zfs", "ramfs"];

/// What a process finds at a path, without waiting for anybody: a name is in the kernel's cache as
/// long as a socket is bound to it. Otherwise it is looked up where no process serves it.
fn lookup(pid: u32, path: &Path) -> Result<OwnedFd, Errno> {
    if !path.is_absolute() {
        // It was bound in a working directory of which nothing is known.
        return Err(Errno::AGAIN);
    }
    let place = OFlags::PATH | OFlags::CLOEXEC;
    let root = format!("/proc/{pid}/root");
    let root = rustix::fs::openat(CWD, root, place | OFlags::DIRECTORY, Mode::empty())?;
    let look = |how| {
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | how;
        rustix::fs::openat2(&root, path, place | OFlags::NOFOLLOW, Mode::empty(), how)
    };
    match look(ResolveFlags::CACHED) {
        Err(Errno::AGAIN) => {}
        result => return result,
    }
    let mounts = std::fs::read(format!("/proc/{pid}/mountinfo")).map_err(|_| Errno::AGAIN)?;
    if is_local(&String::from_utf8_lossy(&mounts), path) {
        look(ResolveFlags::NO_SYMLINKS)
    } else {
        Err(Errno::AGAIN)
    }
}

/// Whether all mounts on the way to a path are of disks or memory, out of `/proc/PID/mountinfo`.
fn is_local(mounts: &str, path: &Path) -> bool {
    let on_the_way = |line: &str| {
        let point = line.split(' ').nth(4)?;
        let kind = line.split_once(" - ")?.1.split(' ').next()?;
        // A point that is written with escapes might be on the way.
        (path.starts_with(point) || point.contains('\\')).then(|| kind.to_owned())
    };
    let mut kinds = mounts.lines().filter_map(on_the_way).peekable();
    kinds.peek().is_some() && kinds.all(|kind| LOCAL.contains(&&*kind))
}

/// Asks the kernel for the listening Unix sockets of this net namespace.
fn ask() -> Result<Sockets, Errno> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    // `struct nlmsghdr`, then `struct unix_diag_req`: all listening ones, with names and files.
    let mut request = [0; 40];
    let mut put = |at: usize, bytes: &[u8]| request[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &40u32.to_ne_bytes());
    put(4, &20u16.to_ne_bytes());
    put(6, &0x301u16.to_ne_bytes());
    put(16, &[1, 0]);
    put(20, &(1u32 << 10).to_ne_bytes());
    put(28, &3u32.to_ne_bytes());
    rustix::net::send(&socket, &request, SendFlags::empty())?;
    let mut sockets = Sockets::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        // The kernel answers in the call: if there is nothing now, nothing comes.
        let (count, _) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::DONTWAIT)?;
        if count == 0 || read_answer(&buffer[..count], &mut sockets)? {
            return Ok(sockets);
        }
    }
}

/// The same in the net namespace of a process. A thread goes there, asks, and ends.
fn ask_in(pid: u32) -> Result<Sockets, Errno> {
    let link = format!("/proc/{pid}/ns/net");
    let there = rustix::fs::openat(CWD, link, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let visit = move || {
        move_into_link_name_space(there.as_fd(), Some(LinkNameSpaceType::Network))?;
        ask()
    };
    std::thread::spawn(visit).join().unwrap_or(Err(Errno::IO))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Takes the sockets of some messages; whether these are the last ones.
fn read_answer(mut bytes: &[u8], sockets: &mut Sockets) -> Result<bool, Errno> {
    while let (Some(length), Some(kind)) = (word(bytes, 0), half(bytes, 4)) {
        match kind {
            2 => return Err(Errno::OPNOTSUPP),
            3 => return Ok(true),
            _ => {}
        }
        let length = length as usize;
        let Some(message) = bytes.get(16..length) else { return Ok(true) };
        if let Some((inode, socket)) = read_socket(message) {
            sockets.insert(inode, socket);
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// One socket: `struct unix_diag_msg` and its attributes.
fn read_socket(message: &[u8]) -> Option<(u64, Socket)> {
    let inode = word(message, 4)?;
    let mut attributes = message.get(16..)?;
    let (mut path, mut file) = (None, None);
    while let (Some(length), Some(kind)) = (half(attributes, 0), half(attributes, 2)) {
        let length = usize::from(length);
        let value = attributes.get(4..length)?;
        match kind {
            0 => path = path_of(value),
            1 => file = word(value, 0).zip(word(value, 4)),
            _ => {}
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some((inode.into(), Socket { path: path?, file }))
}

/// A name of a socket, if it is a path.
fn path_of(name: &[u8]) -> Option<PathBuf> {
    let name = name.split(|byte| *byte == 0).next()?;
    (!name.is_empty()).then(|| PathBuf::from(OsStr::from_bytes(name)))
}

/// Paths of listening sockets, out of `/proc/PID/net/unix`. A path may contain line feeds, and what
/// looks like other lines: of an inode that is told twice nothing is known.
fn in_table(table: &[u8]) -> Sockets {
    const LISTENS: u32 = 1 << 16;
    let mut sockets = Sockets::new();
    let mut twice = BTreeSet::new();
    for line in table.split(|byte| *byte == b'\n') {
        let parse = || {
            // Num RefCount Protocol Flags Type St Inode Path
            let head = std::str::from_utf8(line.get(..line.len().min(80))?).ok();
            let head = head.map_or_else(|| String::from_utf8_lossy(line), Into::into);
            let mut fields = head.split_ascii_whitespace();
            let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
            let inode = fields.nth(2)?;
            let mark = format!(" {inode} ");
            let at = line.windows(mark.len()).position(|window| window == mark.as_bytes())?;
            let path = line.get(at + mark.len()..)?;
            let inode: u64 = inode.parse().ok()?;
            Some((inode, (flags & LISTENS != 0).then(|| path_of(path)).flatten()))
        };
        let Some((inode, path)) = parse() else { continue };
        if !twice.insert(inode) {
            sockets.remove(&inode);
        } else if let Some(path) =
            path.filter(|path| !path.as_os_str().as_bytes().starts_with(b"@"))
        {
            sockets.insert(inode, Socket { path, file: None });
        }
    }
    sockets
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixListener;

    #[test]
    fn sockets_are_found_in_the_table() {
        let table = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
            ffff9d: 00000002 00000000 00010000 0001 01 23296 /run/a b.sock\n\
            ffff9e: 00000003 00000000 00000000 0001 03 23297 /run/a.sock\n\
            ffff9f: 00000002 00000000 00010000 0001 01 23298 /run/b.sock\n\
            ffff9f: 00000002 00000000 00010000 0001 01 23299 /tmp/x\n\
            ffff9f: 00000002 00000000 00010000 0001 01 23298 /evil\n";
        let found = in_table(table);
        let paths: Vec<_> = found.iter().map(|(inode, socket)| (*inode, &*socket.path)).collect();
        let expected = [(23296, Path::new("/run/a b.sock")), (23299, Path::new("/tmp/x"))];
        assert_eq!(paths, expected, "what is told twice is not believed");
    }

    #[test]
    fn answers_of_the_kernel_may_be_cut_anywhere() {
        let mut message = vec![0u8; 16];
        message[4..8].copy_from_slice(&77u32.to_ne_bytes());
        for (kind, value) in [(0u16, &b"/s\0\0"[..]), (1, &[1, 0, 0, 0, 2, 0, 0, 0])] {
            message.extend(u16::try_from(4 + value.len()).expect("short").to_ne_bytes());
            message.extend(kind.to_ne_bytes());
            message.extend(value);
        }
        let file = Some((u32::from_ne_bytes([1, 0, 0, 0]), u32::from_ne_bytes([2, 0, 0, 0])));
        assert_eq!(read_socket(&message), Some((77, Socket { path: "/s".into(), file })));
        for cut in 0..message.len() {
            let _ = read_socket(&message[..cut]);
            let _ = read_answer(&message[..cut], &mut Sockets::new());
        }
    }

    #[test]
    fn mounts_on_the_way_decide_whether_a_name_is_looked_up() {
        let mounts = "22 1 254:0 / / rw - ext4 /dev/vda rw\n\
            23 22 0:21 / /run rw - tmpfs tmpfs rw\n\
            24 23 0:30 / /run/evil rw - fuse.x x rw\n\
            25 22 0:31 / /m\\040t rw - tmpfs x rw\n";
        assert!(is_local(mounts, Path::new("/run/evi/s")));
        assert!(!is_local(mounts, Path::new("/run/evil/s")));
        assert!(!is_local("", Path::new("/s")));
        assert!(!is_local(&mounts.replace("tmpfs x", "fuse x"), Path::new("/m t/s")));
    }

    #[test]
    fn a_socket_is_there_deleted_or_taken_over() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).expect("bound");
        let me = std::process::id();
        let own = || {
            let all = Listeners::default().at(me);
            all.into_iter().filter(|one| one.raw == path).map(|one| one.spot).collect::<Vec<_>>()
        };
        let Ok(known) = ask() else { return };
        assert!(known.values().any(|socket| socket.path == path));
        assert_eq!(own(), [Spot::There]);
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(own(), [Spot::Deleted]);
        let other = UnixListener::bind(&path).expect("bound");
        let mut spots = own();
        spots.sort_by_key(|spot| *spot == Spot::There);
        assert_eq!(spots, [Spot::TakenOver { by: Some(me) }, Spot::There]);
        drop(other);
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, "").expect("written");
        assert_eq!(own(), [Spot::TakenOver { by: None }]);
        assert!(listener.as_raw_fd() >= 0);
    }
}
