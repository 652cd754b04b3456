//! Where and with what a race was run: what a reader has to know to compare it with another one.

use std::fs;
use std::process::Command;

use rustix::system::uname;
use serde::{Deserialize, Serialize};

/// The machine and the versions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Machine {
    /// As the CPU calls itself.
    pub(crate) cpu: String,
    /// CPUs that the race could use.
    pub(crate) cpus: usize,
    /// Threads on a core, as the kernel knows.
    pub(crate) threads_per_core: Option<usize>,
    /// The hypervisor, if the CPU says that there is one.
    pub(crate) virtual_machine: bool,
    /// Memory in MiB.
    pub(crate) memory_mib: Option<u64>,
    /// Release of the kernel, without what its builder appends, and version.
    pub(crate) kernel: String,
    /// `x86_64`, ...
    pub(crate) architecture: String,
    /// What the kernel does between two requests to sleep, if it can be told.
    pub(crate) frequency_governor: Option<String>,
    /// Of the library.
    pub(crate) ringbell: String,
    /// The compiler that is found now, which built the race if it was built just now.
    pub(crate) rustc: Option<String>,
    /// The commit that is checked out, with a mark if files differ from it.
    pub(crate) commit: Option<String>,
    /// The peers that were built.
    pub(crate) features: Vec<String>,
}

impl Machine {
    /// This one, of which so many CPUs may be used.
    pub(crate) fn here(cpus: usize) -> Self {
        let name = uname();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let of_cpu = |key: &str| {
            cpuinfo
                .lines()
                .find(|line| line.starts_with(key))
                .and_then(|line| line.split_once(':'))
                .map(|(_, value)| value.trim())
        };
        let topology =
            fs::read_to_string("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list");
        Self {
            cpu: of_cpu("model name")
                .or_else(|| of_cpu("CPU part"))
                .unwrap_or("unknown")
                .to_owned(),
            cpus,
            threads_per_core: topology.ok().map(|list| siblings(list.trim())),
            virtual_machine: of_cpu("flags")
                .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            memory_mib: memory(),
            kernel: format!(
                "{} {}",
                upstream(&name.release().to_string_lossy()),
                name.version().to_string_lossy()
            ),
            architecture: name.machine().to_string_lossy().into_owned(),
            frequency_governor: fs::read_to_string(
                "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
            )
            .ok()
            .map(|governor| governor.trim().to_owned()),
            ringbell: env!("CARGO_PKG_VERSION").to_owned(),
            rustc: said_by("rustc", &["--version"]),
            commit: said_by("git", &["describe", "--always", "--dirty", "--abbrev=12"]),
            features: crate::systems::features(),
        }
    }
}

/// How many CPUs a list like `0-1,4` has.
fn siblings(list: &str) -> usize {
    list.split(',')
        .map(|range| match range.split_once('-') {
            Some((first, last)) => match (first.parse::<usize>(), last.parse::<usize>()) {
                (Ok(first), Ok(last)) => last.saturating_sub(first) + 1,
                _ => 1,
            },
            None => 1,
        })
        .sum()
}

/// Memory in MiB.
fn memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
}

/// The first line that a program says, if it is there.
fn said_by(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().next().filter(|_| output.status.success()).map(str::to_owned)
}

/// The kernel's own part of a release: `6.1.0` of `6.1.0-18-amd64`.
fn upstream(release: &str) -> &str {
    release.split('-').next().unwrap_or(release)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(siblings("0"), 1);
        assert_eq!(siblings("0,4"), 2);
        assert_eq!(siblings("0-3,8-9"), 6);
    }

    #[test]
    fn this_machine_is_known() {
        let here = Machine::here(1);
        assert!(!here.kernel.is_empty());
        assert_eq!(upstream("6.1.0-18-amd64"), "6.1.0");
    }
}
