//! What /proc says of processes.

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
    let hz = rustix::param::clock_ticks_per_second().max(1);
    // Processes are timed by the clock that goes on while the machine sleeps.
    let asleep = clock(ClockId::Boottime).saturating_sub(now_ns());
    let started_ns = ticks.saturating_mul(1_000_000_000 / hz).saturating_sub(asleep);
    let state = match letter {
        'T' => State::Stopped,
        't' => State::Traced,
        'Z' | 'X' | 'x' => State::Dead,
        _ if started_ns > since_ns.saturating_add(START_SLACK_NS) => State::Dead,
        _ => State::Alive,
    };
    let busy = state == State::Alive && is_busy(pid);
    Process { pid, state, name: name.to_owned(), started_ns, busy, threads: Threads::default() }
}

/// What is in a file of /proc. Names in it may be any bytes.
pub(crate) fn read(path: &str) -> std::io::Result<String> {
    Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned())
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

/// Name, state and start time in ticks, out of `/proc/PID/stat`. The name may contain anything.
pub(crate) fn parse(stat: &str) -> Option<(&str, char, u64)> {
    let (from, to) = (stat.find('(')?, stat.rfind(')')?);
    let name = stat.get(from + 1..to)?;
    let mut rest = stat.get(to + 1..)?.split_ascii_whitespace();
    let letter = rest.next()?.chars().next()?;
    let ticks = rest.nth(18)?.parse().ok()?;
    Some((name, letter, ticks))
}

/// The numbers of all processes that can be seen.
pub(crate) fn all() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut pids: Vec<u32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

/// The paths of Unix sockets at which a process listens, as far as they have one.
pub(crate) fn listens_at(pid: u32) -> Vec<PathBuf> {
    let Ok(table) = fs::read_to_string(format!("/proc/{pid}/net/unix")) else { return Vec::new() };
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let inodes: Vec<String> = entries
        .flatten()
        .filter_map(|entry| {
            let link = fs::read_link(entry.path()).ok()?;
            Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect();
    listening(&table, &inodes)
}

/// Paths of listening sockets among `inodes`, out of `/proc/net/unix`.
fn listening(table: &str, inodes: &[String]) -> Vec<PathBuf> {
    const LISTENS: u32 = 1 << 16;
    table
        .lines()
        .filter_map(|line| {
            // Num RefCount Protocol Flags Type St Inode Path
            let fields: Vec<&str> = line.split_ascii_whitespace().take(7).collect();
            let flags = u32::from_str_radix(fields.get(3)?, 16).ok()?;
            let inode = *fields.get(6)?;
            // The path may have spaces.
            let path = line.split_once(&format!(" {inode} "))?.1;
            (flags & LISTENS != 0 && inodes.iter().any(|known| known == inode))
                .then(|| PathBuf::from(path))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_contain_anything() {
        let stat =
            "812 (a ) (b)) T 1 812 812 0 -1 4194560 110 0 0 0 0 0 0 0 20 0 1 0 4321 2936832 177";
        assert_eq!(parse(stat), Some(("a ) (b)", 'T', 4321)));
        for cut in 0..stat.len() {
            let _ = parse(&stat[..cut]);
        }
    }

    #[test]
    fn this_process_is_alive_and_its_number_was_not_always_its_own() {
        let me = look(std::process::id(), now_ns());
        assert_eq!((me.state, me.busy), (State::Alive, true));
        assert!(me.started_ns > 0 && me.started_ns <= now_ns());
        assert_eq!(look(std::process::id(), 0).state, State::Dead, "segments are older than it");
        assert_eq!(look(u32::MAX, now_ns()).state, State::Dead);
        assert_eq!(look(0, now_ns()).state, State::Unknown);
    }

    #[test]
    fn sockets_are_found_in_the_table() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            ffff9d: 00000002 00000000 00010000 0001 01 23296 /run/a.sock\n\
            ffff9e: 00000003 00000000 00000000 0001 03 23297 /run/a.sock\n\
            ffff9f: 00000002 00000000 00010000 0001 01 23298 /run/b.sock\n";
        assert_eq!(
            listening(table, &["23296".into(), "23297".into()]),
            [PathBuf::from("/run/a.sock")]
        );
    }
}
