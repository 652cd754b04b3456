//! Where and how a worker runs: its CPUs, its nice value, its scheduling policy, and the signals
//! that are blocked in it.
//!
//! A thread hands all of these on to what it starts. The thread that starts workers has them from
//! whichever thread first made a pool, which has nothing to do with the workers. So a worker gets
//! those of the process: the ones of its main thread, as they are when the worker is started.

#![allow(unsafe_code, reason = "the scheduling policy of a thread")]

use super::signals::signals;
use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::CpuSet;
use std::ffi::c_int;

/// What the user wants to be otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) cpus: Option<Vec<usize>>,
    pub(super) nice: Option<i32>,
    pub(super) blocked: Option<Vec<i32>>,
}

/// What a child sets in itself.
pub(super) struct Placement {
    cpus: Option<CpuSet>,
    /// Whether the user has named the CPUs. If not, it is no error if they cannot be set.
    cpus_wanted: bool,
    nice: Option<i32>,
    nice_wanted: bool,
    /// A policy and its priority, if they differ from those of the thread that starts workers.
    policy: Option<(c_int, libc::sched_param)>,
    pub(super) blocked: libc::sigset_t,
}

impl std::fmt::Debug for Placement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Placement").field("nice", &self.nice).finish_non_exhaustive()
    }
}

impl Placement {
    /// What is wanted, and for the rest what the main thread has now. To be called on the thread
    /// that starts workers.
    pub(super) fn of_the_process(wanted: &Wanted) -> Self {
        let main = rustix::process::getpid();
        let cpus = match &wanted.cpus {
            Some(cpus) => Some(set_of(cpus)),
            None => rustix::thread::sched_getaffinity(Some(main)).ok(),
        };
        let nice = match wanted.nice {
            Some(nice) => Some(nice),
            None => rustix::process::getpriority_process(Some(main)).ok(),
        };
        let (theirs, ours) = (policy(main), policy(rustix::thread::gettid()));
        let differs = theirs.map(|(policy, param)| (policy, param.sched_priority))
            != ours.map(|(policy, param)| (policy, param.sched_priority));
        let blocked = match &wanted.blocked {
            Some(blocked) => blocked.clone(),
            None => blocked_in(main),
        };
        Self {
            cpus,
            cpus_wanted: wanted.cpus.is_some(),
            nice,
            nice_wanted: wanted.nice.is_some(),
            policy: theirs.filter(|_| differs),
            blocked: signals(blocked),
        }
    }

    /// Sets all but the blocked signals, in the child: system calls only.
    pub(super) fn apply(&self) -> Result<(), Errno> {
        if let Some((policy, param)) = &self.policy {
            // SAFETY: a policy and its parameters, of the calling thread. It is no error if the
            // system does not allow it: the worker runs all the same.
            unsafe { libc::sched_setscheduler(0, *policy, param) };
        }
        if let Some(nice) = self.nice
            && let Err(errno) = rustix::process::setpriority_process(None, nice)
            && self.nice_wanted
        {
            return Err(errno);
        }
        if let Some(cpus) = &self.cpus
            && let Err(errno) = rustix::thread::sched_setaffinity(None, cpus)
            && self.cpus_wanted
        {
            return Err(errno);
        }
        Ok(())
    }
}

fn set_of(cpus: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    // Larger numbers are refused before.
    for cpu in cpus.iter().filter(|cpu| **cpu < CpuSet::MAX_CPU) {
        set.set(*cpu);
    }
    set
}

/// The policy of a thread.
fn policy(thread: Pid) -> Option<(c_int, libc::sched_param)> {
    // SAFETY: a number of a thread; nothing is written.
    let policy = unsafe { libc::sched_getscheduler(thread.as_raw_nonzero().get()) };
    let mut param = libc::sched_param { sched_priority: 0 };
    // SAFETY: `param` has room for the answer.
    let read = unsafe { libc::sched_getparam(thread.as_raw_nonzero().get(), &raw mut param) };
    (policy >= 0 && read == 0).then_some((policy, param))
}

/// The signals that are blocked in a thread of this process; none if /proc does not tell.
fn blocked_in(thread: Pid) -> Vec<c_int> {
    let path = format!("/proc/self/task/{}/status", thread.as_raw_nonzero());
    let status = std::fs::read_to_string(path).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
    let mask = line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    (1..=64).filter(|signal| mask >> (signal - 1) & 1 == 1).collect()
}
