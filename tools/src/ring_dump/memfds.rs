//! Segments in other processes: among their descriptors, and among their mappings.
//!
//! What a process has under a number or a name is its own choice: a pipe, a device, a file that it
//! serves itself, and it can change that between two looks. So nothing is opened before the kernel
//! has said that it is a memfd: a descriptor that cannot read (`O_PATH`) pins the object, and what
//! kind of object that is takes no question to anybody (`AT_STATX_DONT_SYNC`).

use crate::aside::{self, PATIENCE};
use crate::handle::Handle;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, MemfdFlags, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, LazyLock};

/// What the names of our segments begin with.
const PREFIX: &[u8] = b"/memfd:ringbell:";
/// Segments of one process that are looked at. A server has two for each session.
pub(crate) const MOST: usize = 20_000;

/// The device that all memfds of this machine are on.
static DEVICE: LazyLock<(u32, u32)> = LazyLock::new(|| {
    let own = rustix::fs::memfd_create("ring-dump", MemfdFlags::CLOEXEC);
    let stat = own.and_then(|own| stat(own.as_fd()));
    // The first one without a disk, on every kernel so far.
    stat.map_or((0, 1), |stat| (stat.stx_dev_major, stat.stx_dev_minor))
});

/// What the kernel knows of an object without asking who serves it.
pub(crate) fn stat(object: BorrowedFd<'_>) -> Result<Statx, Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    rustix::fs::statx(object, "", flags, StatxFlags::BASIC_STATS)
}

/// A memfd that was found, held in place.
#[derive(Debug)]
pub(crate) struct Memfd {
    place: OwnedFd,
    pub(crate) inode: u64,
}

impl Memfd {
    /// What is behind a link of /proc, if it is a memfd.
    fn at(link: &str) -> Result<Self, Errno> {
        let place = rustix::fs::openat(CWD, link, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let stat = stat(place.as_fd())?;
        if (stat.stx_dev_major, stat.stx_dev_minor) != *DEVICE
            || u32::from(stat.stx_mode) & libc::S_IFMT != libc::S_IFREG
        {
            return Err(Errno::NXIO);
        }
        Ok(Self { place, inode: stat.stx_ino })
    }

    /// Opens it for reading alone.
    fn open(&self) -> Result<File, Errno> {
        let link = format!("/proc/self/fd/{}", self.place.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        Ok(File::from(rustix::fs::openat(CWD, link, flags, Mode::empty())?))
    }
}

/// Our memfds among the descriptors of a process, each once, with their places there.
fn each(pid: u32, mut found: impl FnMut(&str, Memfd) -> Result<(), Errno>) -> std::io::Result<()> {
    let mut seen = BTreeSet::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let Ok(entry) = entry else { continue };
        let Ok(link) = std::fs::read_link(entry.path()) else { continue };
        if !link.as_os_str().as_bytes().starts_with(PREFIX) || seen.len() >= MOST {
            continue;
        }
        let number = entry.file_name();
        let Some(number) = number.to_str() else { continue };
        let memfd = match Memfd::at(&format!("/proc/{pid}/fd/{number}")) {
            Err(error @ (Errno::MFILE | Errno::NFILE)) => return Err(error.into()),
            Err(_) => continue,
            Ok(memfd) => memfd,
        };
        if seen.insert(memfd.inode) {
            found(number, memfd)?;
        }
    }
    Ok(())
}

/// The inodes of our memfds among the descriptors of a process.
pub(crate) fn held(pid: u32) -> std::io::Result<Vec<u64>> {
    let mut inodes = Vec::new();
    each(pid, |_, memfd| {
        inodes.push(memfd.inode);
        Ok(())
    })?;
    Ok(inodes)
}

/// Our segments among the descriptors of a process.
pub(crate) fn descriptors(pid: u32) -> std::io::Result<Vec<Handle>> {
    let mut handles = Vec::new();
    each(pid, |number, memfd| {
        let file = match memfd.open() {
            Err(error @ (Errno::MFILE | Errno::NFILE)) => return Err(error),
            Err(_) => return Ok(()),
            Ok(file) => file,
        };
        handles.extend(Handle::memfd(file, format!("fd {number}")));
        Ok(())
    })?;
    Ok(handles)
}

/// One of our segments in the memory of a process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    from: u64,
    to: u64,
    pub(crate) inode: u64,
}

/// A line of `/proc/PID/maps`, if it is the mapping of a whole segment.
fn parse(line: &str, device: (u32, u32)) -> Option<Mapping> {
    let mut fields = line.split_ascii_whitespace();
    let (from, to) = fields.next()?.split_once('-')?;
    let offset = fields.nth(1)?;
    let (major, minor) = fields.next()?.split_once(':')?;
    let inode = fields.next()?.parse().ok()?;
    let name = fields.next()?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let (from, to) = (hex(from)?, hex(to)?);
    let on = (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
    let whole = hex(offset) == Some(0) && from < to;
    let ours = name.as_bytes().starts_with(PREFIX) && on == device;
    (whole && ours).then_some(Mapping { from, to, inode })
}

/// Our segments in the memory of a process, each once. The process can make this wait.
pub(crate) fn mapped(pid: u32) -> std::io::Result<Vec<Mapping>> {
    let maps = std::fs::read(format!("/proc/{pid}/maps"))?;
    let mut seen = BTreeSet::new();
    let maps = String::from_utf8_lossy(&maps);
    let all = maps.lines().filter_map(|line| parse(line, *DEVICE));
    Ok(all.filter(|mapping| seen.insert(mapping.inode)).take(MOST).collect())
}

/// The same, opened as files, if this process may: then seals can be seen. As memory of the process
/// otherwise. `None` if the process does not let itself be looked at.
pub(crate) fn mappings(pid: u32) -> Option<Vec<Handle>> {
    let look = move || {
        let Ok(mappings) = mapped(pid) else { return Vec::new() };
        let memory = File::open(format!("/proc/{pid}/mem")).ok().map(Arc::new);
        let handle = |mapping: Mapping| {
            let Mapping { from, to, inode } = mapping;
            let found = format!("mapped at {from:x}");
            let link = format!("/proc/{pid}/map_files/{from:x}-{to:x}");
            let file = Memfd::at(&link).ok().filter(|memfd| memfd.inode == inode);
            let file = file.and_then(|memfd| memfd.open().ok());
            if let Some(handle) = file.and_then(|file| Handle::memfd(file, found.clone()).ok()) {
                return Some(handle);
            }
            Some(Handle::memory(memory.clone()?, from, to - from, inode, found))
        };
        mappings.into_iter().filter_map(handle).collect()
    };
    let handles: Vec<Handle> = aside::within(PATIENCE, look)?;
    // The first read says whether the others would wait, too.
    let reads = handles.first().is_none_or(|handle| handle.word(0).is_some() || !handle.is_stuck());
    reads.then_some(handles)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_of_whole_segments_are_found() {
        let line = "7f1200000000-7f1200011000 rw-s 00000000 00:01 4242   /memfd:ringbell:request (deleted)";
        let mapping = Mapping { from: 0x7f12_0000_0000, to: 0x7f12_0001_1000, inode: 4242 };
        let parse = |line: &str| parse(line, (0, 1));
        assert_eq!(parse(line), Some(mapping));
        assert_eq!(parse(&line.replace("ringbell", "other")), None);
        assert_eq!(parse(&line.replace(" 00000000 ", " 00001000 ")), None);
        assert_eq!(parse(&line.replace("00:01", "00:2a")), None, "a file that is called so");
        for cut in 0..line.len() {
            let _ = parse(&line[..cut]);
        }
    }

    #[test]
    fn d6_only_memfds_are_taken_for_such() {
        let memfd = rustix::fs::memfd_create("ringbell:x", MemfdFlags::CLOEXEC).expect("a memfd");
        let link = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
        assert!(Memfd::at(&link(&memfd)).and_then(|memfd| memfd.open()).is_ok());
        let (pipe, _other_end) = rustix::pipe::pipe().expect("a pipe");
        assert_eq!(Memfd::at(&link(&pipe)).err(), Some(Errno::NXIO));
        assert_eq!(Memfd::at("/proc/self/exe").err(), Some(Errno::NXIO));
    }
}
