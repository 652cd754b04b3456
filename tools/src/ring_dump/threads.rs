//! What the threads of a process do, as /proc says: whether they run, or what they wait for.

use crate::{stat, text};
use serde::{Deserialize, Serialize};
use std::fs;

/// Threads of one process that are looked at. A process with more is a rare one, and each takes
/// some files to read.
const MOST: usize = 256;

/// A thread, as it was at one moment. What could not be read is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Thread {
    /// Its number, as seen from here.
    pub(crate) tid: u32,
    /// Its number in its own pid namespace.
    pub(crate) own_tid: Option<u32>,
    /// Its name: it may contain anything that is printable.
    pub(crate) name: String,
    /// The letter of its state: `R`, `S`, `D` and so on.
    pub(crate) state: Option<char>,
    /// CPU time that it has had, in ns.
    pub(crate) cpu_ns: Option<u64>,
    /// The function of the kernel in which it waits.
    pub(crate) wait_channel: Option<String>,
    /// The system call in which it is, by name.
    pub(crate) call: Option<String>,
}

/// The threads of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Threads {
    /// Those that were looked at.
    pub(crate) seen: Vec<Thread>,
    /// How many were not, since there are too many.
    pub(crate) left_out: u64,
}

/// What a thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Doing {
    /// It has a CPU, or waits for one.
    Runs,
    /// It waits for a futex: a lock, a condition, a channel.
    Lock,
    /// It waits for bytes, a connection or readiness.
    Io,
    /// It waits for a disk or the like, and no signal wakes it.
    Disk,
    /// It waits for a time.
    Sleeps,
    /// It waits for another process to end.
    Child,
    /// A signal or a debugger keeps it from running.
    Stopped,
    /// It is in another system call.
    Call,
    /// That cannot be seen from here.
    Unknown,
}

impl Doing {
    /// For people: what follows "the thread", with one (`waits`) or several (`wait`).
    pub(crate) fn words(self, one: bool) -> &'static str {
        match (self, one) {
            (Self::Runs, true) => "loops or computes",
            (Self::Runs, false) => "loop or compute",
            (Self::Lock, true) => "waits for a lock or a condition",
            (Self::Lock, false) => "wait for a lock or a condition",
            (Self::Io, true) => "waits for I/O",
            (Self::Io, false) => "wait for I/O",
            (Self::Disk, true) => "waits for a disk or the like",
            (Self::Disk, false) => "wait for a disk or the like",
            (Self::Sleeps, true) => "waits for a time (it sleeps)",
            (Self::Sleeps, false) => "wait for a time (they sleep)",
            (Self::Child, true) => "waits for another process to end",
            (Self::Child, false) => "wait for another process to end",
            (Self::Stopped, true) => "is stopped by a signal or a debugger",
            (Self::Stopped, false) => "are stopped by a signal or a debugger",
            (Self::Call, true) => "is in a system call",
            (Self::Call, false) => "are in a system call",
            (Self::Unknown, true) => "does something that cannot be seen from here",
            (Self::Unknown, false) => "do something that cannot be seen from here",
        }
    }
}

/// System calls in which threads wait, by the numbers of this architecture.
const CALLS: &[(libc::c_long, &str)] = &[
    (libc::SYS_futex, "futex"),
    (libc::SYS_read, "read"),
    (libc::SYS_readv, "readv"),
    (libc::SYS_pread64, "pread"),
    (libc::SYS_write, "write"),
    (libc::SYS_writev, "writev"),
    (libc::SYS_pwrite64, "pwrite"),
    (libc::SYS_recvfrom, "recv"),
    (libc::SYS_recvmsg, "recvmsg"),
    (libc::SYS_recvmmsg, "recvmmsg"),
    (libc::SYS_sendto, "send"),
    (libc::SYS_sendmsg, "sendmsg"),
    (libc::SYS_connect, "connect"),
    (libc::SYS_accept, "accept"),
    (libc::SYS_accept4, "accept"),
    (libc::SYS_ppoll, "poll"),
    (libc::SYS_pselect6, "select"),
    (libc::SYS_epoll_pwait, "epoll_wait"),
    (libc::SYS_epoll_pwait2, "epoll_wait"),
    (libc::SYS_io_uring_enter, "io_uring_enter"),
    (libc::SYS_openat, "open"),
    (libc::SYS_close, "close"),
    (libc::SYS_fsync, "fsync"),
    (libc::SYS_fdatasync, "fdatasync"),
    (libc::SYS_flock, "flock"),
    (libc::SYS_fcntl, "fcntl"),
    (libc::SYS_nanosleep, "nanosleep"),
    (libc::SYS_clock_nanosleep, "clock_nanosleep"),
    (libc::SYS_wait4, "wait4"),
    (libc::SYS_waitid, "waitid"),
    (libc::SYS_sched_yield, "sched_yield"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_poll, "poll"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_select, "select"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_epoll_wait, "epoll_wait"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_pause, "pause"),
];

impl Thread {
    /// What it does.
    pub(crate) fn doing(&self) -> Doing {
        match self.state {
            Some('R') => return Doing::Runs,
            Some('D') => return Doing::Disk,
            Some('T' | 't') => return Doing::Stopped,
            None => return Doing::Unknown,
            Some(_) => {}
        }
        let waits_in = self.wait_channel.as_deref().unwrap_or_default();
        match self.call.as_deref() {
            Some("futex") => Doing::Lock,
            Some("flock" | "fcntl") => Doing::Lock,
            Some("nanosleep" | "clock_nanosleep") => Doing::Sleeps,
            Some("wait4" | "waitid") => Doing::Child,
            Some("fsync" | "fdatasync") => Doing::Disk,
            Some("pause" | "sched_yield" | "fork" | "close") => Doing::Call,
            Some(call) if CALLS.iter().any(|(_, name)| *name == call) => Doing::Io,
            Some(_) => Doing::Call,
            None if waits_in.starts_with("futex") => Doing::Lock,
            None if waits_in.contains("nanosleep") => Doing::Sleeps,
            None if ["pipe", "poll", "skb", "unix_stream", "sock", "inet", "ep_"]
                .iter()
                .any(|part| waits_in.contains(part)) =>
            {
                Doing::Io
            }
            None => Doing::Unknown,
        }
    }

    /// In which call or function it waits, if that says more than [`Self::doing`].
    pub(crate) fn place(&self) -> Option<&str> {
        match self.doing() {
            Doing::Io | Doing::Disk | Doing::Call => {
                self.call.as_deref().or(self.wait_channel.as_deref())
            }
            _ => None,
        }
    }
}

/// Looks at the threads of a process. Nothing that is read here waits for the process.
pub(crate) fn look(pid: u32) -> Threads {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return Threads::default() };
    let mut tids: Vec<u32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    tids.sort_unstable();
    let left_out = tids.len().saturating_sub(MOST) as u64;
    tids.truncate(MOST);
    Threads { seen: tids.into_iter().filter_map(|tid| thread(pid, tid)).collect(), left_out }
}

fn thread(pid: u32, tid: u32) -> Option<Thread> {
    let read = |name: &str| stat::read(&format!("/proc/{pid}/task/{tid}/{name}")).ok();
    let stat = read("stat")?;
    let (name, state, _) = stat::parse(&stat)?;
    Some(Thread {
        tid,
        own_tid: read("status").as_deref().and_then(own_tid),
        name: text::of_str(name),
        state: Some(state),
        cpu_ns: read("schedstat")
            .and_then(|text| text.split_ascii_whitespace().next()?.parse().ok()),
        wait_channel: read("wchan").filter(|name| !name.is_empty() && name != "0"),
        call: read("syscall").as_deref().and_then(call),
    })
}

/// The number of a thread in its own pid namespace, out of `/proc/PID/task/TID/status`.
fn own_tid(status: &str) -> Option<u32> {
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    numbers.split_ascii_whitespace().next_back()?.parse().ok()
}

/// The system call that a thread is in, out of `/proc/PID/task/TID/syscall`.
fn call(line: &str) -> Option<String> {
    let mut fields = line.split_ascii_whitespace();
    let number: libc::c_long = fields.next()?.parse().ok()?;
    if number < 0 {
        return None;
    }
    let hex = |field: &str| u64::from_str_radix(field.strip_prefix("0x")?, 16).ok();
    let stack = hex(fields.nth(6)?)?;
    if stack <= u64::from(u32::MAX) && cfg!(target_pointer_width = "64") {
        // A program of 32 bits has other numbers.
        return None;
    }
    let known = CALLS.iter().find(|(known, _)| *known == number);
    Some(known.map_or_else(|| format!("system call {number}"), |(_, name)| (*name).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_apart() {
        let line = |number: libc::c_long| {
            format!("{number} 0x3 0x0 0x1 0x0 0x0 0x0 0x7f6420d9aa30 0x7f6421d162ec")
        };
        let doing = |line: &str, state| {
            Thread { state: Some(state), call: call(line), ..Thread::default() }.doing()
        };
        assert_eq!(doing(&line(libc::SYS_futex), 'S'), Doing::Lock);
        assert_eq!(doing(&line(libc::SYS_read), 'S'), Doing::Io);
        assert_eq!(doing(&line(libc::SYS_clock_nanosleep), 'S'), Doing::Sleeps);
        assert_eq!(doing(&line(999), 'S'), Doing::Call);
        assert_eq!(doing("running", 'R'), Doing::Runs);
        assert_eq!(doing("running", 'S'), Doing::Unknown);
        assert_eq!(doing(&line(libc::SYS_read), 'D'), Doing::Disk);
        assert_eq!(doing("-1 0x7fff5d6b6a60 0x7f6421d162ec", 'S'), Doing::Unknown);
        let narrow = "202 0x3 0x0 0x1 0x0 0x0 0x0 0xffd9aa30 0xf7d162ec";
        assert_eq!(doing(narrow, 'S'), Doing::Unknown, "the numbers of 32 bits are others");
        for cut in 0..narrow.len() {
            let _ = call(&narrow[..cut]);
        }
    }

    #[test]
    fn a_wait_channel_is_enough() {
        let of = |name: &str| {
            let wait_channel = Some(name.to_owned());
            Thread { state: Some('S'), wait_channel, ..Thread::default() }.doing()
        };
        assert_eq!(of("futex_do_wait"), Doing::Lock);
        assert_eq!(of("anon_pipe_read"), Doing::Io);
        assert_eq!(of("hrtimer_nanosleep"), Doing::Sleeps);
        assert_eq!(of("something_else"), Doing::Unknown);
    }

    #[test]
    fn the_innermost_number_is_its_own() {
        assert_eq!(own_tid("Name:\tx\nNSpid:\t4711\t12\t1\n"), Some(1));
        assert_eq!(own_tid("Name:\tx\n"), None);
    }

    #[test]
    fn this_thread_runs_and_another_waits_for_a_lock() {
        let (send, receive) = std::sync::mpsc::channel::<()>();
        let other = std::thread::Builder::new().name("waits\x1b[1m".into());
        let other = other.spawn(move || receive.recv()).expect("a thread");
        let of = |name: &str| {
            let threads = look(std::process::id()).seen;
            threads.into_iter().find(|thread| thread.name.starts_with(name))
        };
        let me = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        let all = look(std::process::id()).seen;
        let this = all.iter().find(|thread| thread.own_tid == Some(me)).expect("this thread");
        assert_eq!(this.doing(), Doing::Runs);
        while of("waits").is_none_or(|thread| thread.doing() != Doing::Lock) {
            std::thread::yield_now();
        }
        assert!(of("waits").is_some_and(|thread| !thread.name.contains('\x1b')));
        drop(send);
        let _ = other.join();
    }
}
