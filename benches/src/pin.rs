//! Which CPU a process runs on.

use rustix::io;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::scenario::Placement;

/// The CPUs that the race may use.
#[derive(Clone, Debug)]
pub(crate) struct Cpus(Vec<usize>);

impl Cpus {
    /// All that the calling thread is allowed to run on: at least the one that it runs on.
    pub(crate) fn allowed() -> io::Result<Self> {
        let set = sched_getaffinity(None)?;
        Ok(Self((0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()))
    }

    /// How many there are.
    pub(crate) fn number(&self) -> usize {
        self.0.len()
    }

    /// Whether this machine has the CPUs that the placement needs.
    pub(crate) fn allow(&self, placement: Placement) -> bool {
        placement != Placement::TwoCpus || self.0.len() >= 2
    }

    /// The CPUs of the clients: the first, or all.
    pub(crate) fn of_client(&self, placement: Placement) -> &[usize] {
        match placement {
            Placement::TwoCpus | Placement::OneCpu => &self.0[..1],
            Placement::Unpinned => &self.0,
        }
    }

    /// The CPUs of the server: the first, the second, or all.
    pub(crate) fn of_server(&self, placement: Placement) -> &[usize] {
        match placement {
            Placement::TwoCpus => &self.0[1..2],
            Placement::OneCpu => &self.0[..1],
            Placement::Unpinned => &self.0,
        }
    }
}

/// Confines the calling thread, and all threads and processes that it starts later, to these CPUs.
pub(crate) fn pin(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu);
    }
    sched_setaffinity(None, &set)
}
