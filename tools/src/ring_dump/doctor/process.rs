//! What /proc says of a process: this one, or another one.

use crate::{Unattachable, text};
use rustix::fd::OwnedFd;
use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::Read;

/// The most that a file of /proc is read: a process chooses some of the text.
const MOST: u64 = 64 << 10;

/// A process. Its directory is held open: what is read later is of this process or fails, also if
/// its number belongs to another one by then.
#[derive(Debug)]
pub(super) struct Process {
    directory: OwnedFd,
    /// None for this process.
    pub(super) pid: Option<u32>,
    status: String,
    limits: String,
}

/// A limit, as a process has it now (the soft one).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rlimit {
    Unlimited,
    Is(u64),
    /// It cannot be read.
    Unseen,
}

impl Process {
    pub(super) fn own() -> Result<Self, Unattachable> {
        Self::at("/proc/self", None)
    }

    pub(super) fn of(pid: u32) -> Result<Self, Unattachable> {
        Self::at(&format!("/proc/{pid}"), Some(pid))
    }

    fn at(path: &str, pid: Option<u32>) -> Result<Self, Unattachable> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| {
            Unattachable(match (errno, pid) {
                (Errno::NOENT, Some(pid)) => format!("there is no process {pid}"),
                _ => format!("{path}: {errno}"),
            })
        })?;
        let mut process = Self { directory, pid, status: String::new(), limits: String::new() };
        process.status = process.text("status").unwrap_or_default();
        if let (Some("Z" | "X"), Some(pid)) =
            (process.field("State").and_then(|state| state.split(' ').next()), pid)
        {
            return Err(Unattachable(format!("process {pid} has ended")));
        }
        process.limits = process.text("limits").unwrap_or_default();
        Ok(process)
    }

    /// A file of it, as far as it is text.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, name, flags, Mode::empty()).ok()?;
        let mut bytes = Vec::new();
        File::from(file).take(MOST).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Its name. It chooses that itself, so what a terminal obeys is replaced.
    pub(super) fn name(&self) -> String {
        text::of_str(self.text("comm").unwrap_or_default().trim_end())
    }

    /// A field of its status.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        field(&self.status, name)
    }

    /// A number of its status: the first, without its unit.
    pub(super) fn number(&self, name: &str, radix: u32) -> Option<u64> {
        u64::from_str_radix(self.field(name)?.split_ascii_whitespace().next()?, radix).ok()
    }

    /// A limit, by its name in /proc/PID/limits.
    pub(super) fn limit(&self, name: &str) -> Rlimit {
        limit(&self.limits, name)
    }

    /// Its namespace of a kind: `pid:[4026531836]`.
    pub(super) fn namespace(&self, kind: &str) -> Option<String> {
        let link = rustix::fs::readlinkat(&self.directory, format!("ns/{kind}"), Vec::new());
        link.ok()?.into_string().ok()
    }

    /// Descriptors that are open.
    pub(super) fn descriptors(&self) -> Option<u64> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(&self.directory, "fd", flags, Mode::empty()).ok()?;
        let is_number = |name: &std::ffi::CStr| name.to_bytes().iter().all(u8::is_ascii_digit);
        let mut count = 0;
        for entry in Dir::read_from(&directory).ok()? {
            count += u64::from(is_number(entry.ok()?.file_name()));
        }
        Some(count)
    }
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// Source: proc_pid_limits(5): a name, the soft limit, the hard one and a unit, in columns.
fn limit(limits: &str, name: &str) -> Rlimit {
    let line = limits.lines().find_map(|line| line.strip_prefix(name));
    match line.and_then(|rest| rest.split_ascii_whitespace().next()) {
        Some("unlimited") => Rlimit::Unlimited,
        Some(number) => number.parse().map_or(Rlimit::Unseen, Rlimit::Is),
        None => Rlimit::Unseen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_proc_are_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max file size             unlimited            unlimited            bytes\n\
                      Max open files            1024                 4096                 files\n";
        assert_eq!(limit(limits, "Max open files"), Rlimit::Is(1024));
        assert_eq!(limit(limits, "Max file size"), Rlimit::Unlimited);
        assert_eq!(limit(limits, "Max locked memory"), Rlimit::Unseen);
        assert_eq!(limit("", "Max open files"), Rlimit::Unseen);
        assert_eq!(field("Name:\tx\nSeccomp:\t2\n", "Seccomp"), Some("2"));
        assert_eq!(field("Seccomp_filters:\t1\n", "Seccomp"), None);
    }

    #[test]
    fn this_process_is_seen() {
        let own = Process::own().expect("it is there");
        assert_eq!(own.number("Pid", 10), Some(std::process::id().into()));
        assert!(own.descriptors().is_some_and(|count| count > 3), "{:?}", own.descriptors());
        assert!(own.namespace("pid").is_some_and(|link| link.starts_with("pid:[")));
        assert_ne!(own.limit("Max open files"), Rlimit::Unseen);
        let gone = Process::of(u32::MAX).expect_err("there is none");
        assert_eq!(gone.to_string(), "there is no process 4294967295");
    }
}
