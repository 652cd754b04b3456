//! What /proc says of processes.

use crate::stat::{parse, read};
use crate::text;
use crate::threads::Threads;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::PathBuf;

/// How a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// It runs or waits for something.
    Alive,
    /// A signal (SIGSTOP, SIGTSTP) keeps it from running.
    Stopped,
    /// A debugger keeps it from running.
    Traced,
    /// It is gone, or about to be; or its number belongs to another process now.
    Dead,
    /// It cannot be seen from here.
    Unknown,
}

impl State {
    /// Whether it is kept from running.
    pub(crate) fn is_halted(self) -> bool {
        matches!(self, Self::Stopped | Self::Traced)
    }

    /// For people.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Stopped => "stopped",
            Self::Traced => "stopped by a debugger",
            Self::Dead => "dead",
            Self::Unknown => "not visible from here",
        }
    }
}

/// A process, as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    /// Its number.
    pub(crate) pid: u32,
    /// How it is.
    pub(crate) state: State,
    /// Its name, if it is there.
    pub(crate) name: String,
    /// When it began: CLOCK_MONOTONIC, ns.
    pub(crate) started_ns: u64,
    /// Whether one of its threads runs, or would run if it had a CPU.
    #[serde(default)]
    pub(crate) busy: bool,
    /// What its threads do, if it is alive and serves.
    #[serde(default)]
    pub(crate) threads: Threads,
}

/// How much earlier than its process a segment may seem to be: the clock of processes is coarse.
const START_SLACK_NS: u64 = 50_000_000;

#[allow(clippy::cast_sign_loss, reason = "these clocks are never negative")]
fn clock(id: ClockId) -> u64 {
    let now = clock_gettime(id);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// CLOCK_MONOTONIC in nanoseconds, the clock of segments.
pub(crate) fn now_ns() -> u64 {
    clock(ClockId::Monotonic)
}

/// Looks at a process that had its number at `since_ns` (CLOCK_MONOTONIC); a later one is not it.
pub(crate) fn look(pid: u32, since_ns: u64) -> Process {
    let gone = |state| Process {
        pid,
        state,
        name: String::new(),
        started_ns: 0,
        busy: false,
        threads: Threads::default(),
    };
    if pid == 0 {
        return gone(State::Unknown);
    }
    let stat = match read(&format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return gone(State::Unknown);
        }
        Err(_) => return gone(State::Dead),
    };
    let Some(parsed) = parse(&stat) else { return gone(State::Unknown) };
    let (name, letter, ticks) = parsed;
    let started_ns = started(ticks);
    let state = match letter {
        'T' => State::Stopped,
        't' => State::Traced,
        'Z' | 'X' | 'x' => State::Dead,
        _ if started_ns > since_ns.saturating_add(START_SLACK_NS) => State::Dead,
        _ => State::Alive,
    };
    let busy = state == State::Alive && is_busy(pid);
    let name = text::of_str(name);
    Process { pid, state, name, started_ns, busy, threads: Threads::default() }
}

/// Whether a process has ended, or began only after `since_ns` (CLOCK_MONOTONIC).
pub(crate) fn is_gone(pid: u32, since_ns: u64) -> bool {
    let Ok(stat) = read(&format!("/proc/{pid}/stat")) else { return numbers(pid).is_none() };
    parse(&stat).is_some_and(|(_, letter, ticks)| {
        matches!(letter, 'Z' | 'X' | 'x')
            || started(ticks) > since_ns.saturating_add(START_SLACK_NS)
    })
}

/// When a process began, by CLOCK_MONOTONIC.
fn started(ticks: u64) -> u64 {
    let hz = rustix::param::clock_ticks_per_second().max(1);
    // Processes are timed by the clock that goes on while the machine sleeps.
    let asleep = clock(ClockId::Boottime).saturating_sub(now_ns());
    ticks.saturating_mul(1_000_000_000 / hz).saturating_sub(asleep)
}

/// Whether a thread of a process runs, or would run if it had a CPU.
fn is_busy(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().any(|thread| {
        let stat = fs::read(thread.path().join("stat")).unwrap_or_default();
        let stat = String::from_utf8_lossy(&stat);
        parse(&stat).is_some_and(|(_, letter, _)| letter == 'R')
    })
}

/// The numbers of all processes that can be seen.
pub(crate) fn all() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut pids: Vec<u32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

/// The numbers of one process: in this pid namespace first, in its own last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Numbers {
    pids: Vec<u32>,
    /// The user whose process it is: the effective one.
    pub(crate) uid: Option<u32>,
}

impl Numbers {
    /// Its number in its own namespace.
    pub(crate) fn own(&self) -> u32 {
        self.pids.last().copied().unwrap_or(0)
    }

    /// How deep its namespace lies: 1 if it is that of this process.
    pub(crate) fn depth(&self) -> usize {
        self.pids.len()
    }

    /// Its number in the namespace of that depth.
    pub(crate) fn at(&self, depth: usize) -> Option<u32> {
        self.pids.get(depth.checked_sub(1)?).copied()
    }

    /// Whether it has this number in any namespace.
    pub(crate) fn has(&self, pid: u32) -> bool {
        self.pids.contains(&pid)
    }

    /// Out of `/proc/PID/status`. A process chooses its name, in which line feeds are escaped.
    fn parse(status: &str) -> Option<Self> {
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        let words = |name| field(name).unwrap_or_default().split_ascii_whitespace();
        let pids: Vec<u32> = words("NSpid:").filter_map(|pid| pid.parse().ok()).collect();
        let uid = words("Uid:").nth(1).and_then(|uid| uid.parse().ok());
        (!pids.is_empty()).then_some(Self { pids, uid })
    }
}

/// The numbers of a process; `None` if there is none that can be seen.
pub(crate) fn numbers(pid: u32) -> Option<Numbers> {
    let status = fs::read(format!("/proc/{pid}/status")).ok()?;
    Numbers::parse(&String::from_utf8_lossy(&status))
}

/// A namespace of a process, `pid`, `mnt` or `net`: the same text is the same namespace.
pub(crate) fn namespace(pid: u32, kind: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_its_number_was_not_always_its_own() {
        let me = look(std::process::id(), now_ns());
        assert_eq!((me.state, me.busy), (State::Alive, true));
        assert!(me.started_ns > 0 && me.started_ns <= now_ns());
        assert_eq!(look(std::process::id(), 0).state, State::Dead, "segments are older than it");
        assert!(is_gone(std::process::id(), 0) && !is_gone(std::process::id(), now_ns()));
        assert!(is_gone(u32::MAX, now_ns()));
        assert_eq!(look(u32::MAX, now_ns()).state, State::Dead);
        assert_eq!(look(0, now_ns()).state, State::Unknown);
    }

    #[test]
    fn d4_a_process_has_a_number_in_each_namespace() {
        let status = "Name:\tNSpid: 7\\nUid:\nUid:\t0\t5\t0\t0\nNSpid:\t4711\t12\t1\nNSpgid:\t1\n";
        let numbers = Numbers::parse(status).expect("numbers");
        assert_eq!((numbers.own(), numbers.depth(), numbers.uid), (1, 3, Some(5)));
        assert_eq!((numbers.at(2), numbers.at(0), numbers.at(4)), (Some(12), None, None));
        assert!(numbers.has(4711) && !numbers.has(7));
        assert_eq!(Numbers::parse("Name:\tx\n"), None);
        assert_eq!(super::numbers(std::process::id()).map(|me| me.depth()), Some(1));
    }
}
