//! What the machine is like: its kernel, its CPUs, and who else uses them.

use super::{Check, Level, good, unknown};
use crate::busy::{Busy, MUCH_STEAL};
use ringbell::WaitSettings;
use std::fs::read_to_string;

/// Looks at all of it. This process may use `allowed` CPUs.
pub(super) fn looked_at(allowed: u32) -> Vec<Check> {
    vec![
        kernel(&rustix::system::uname().release().to_string_lossy()),
        mappings(number("/proc/sys/vm/max_map_count")),
        cpus(allowed, &WaitSettings::client()),
        siblings(),
        others(&Busy::look()),
        huge_pages(
            read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled").ok().as_deref(),
        ),
        tracing(read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok()),
    ]
}

/// Who else wants the CPUs.
fn others(busy: &Busy) -> Check {
    const NAME: &str = "load and steal";
    let Some(load) = busy.load else { return unknown(NAME) };
    let Some(remark) = busy.remark(true) else {
        return good(NAME, format!("load average {load:.2}, nothing stolen, nobody else runs"));
    };
    let check = good(NAME, remark);
    if busy.steal_percent.is_some_and(|stolen| stolen >= MUCH_STEAL) {
        return check.but(
            Level::Poor,
            "a hypervisor gives the CPUs to other machines: both sides are late by milliseconds \
             at times, whatever they do",
            "move to a machine with CPUs of its own",
        );
    }
    check.but(
        Level::Note,
        "who spins is preempted, and wakes are late: measure on an idle machine",
        "",
    )
}

/// Whether a small segment takes a huge page.
///
/// Source: Documentation/admin-guide/mm/transhuge.rst, `shmem_enabled`, which holds for memfds.
fn huge_pages(setting: Option<&str>) -> Check {
    const NAME: &str = "huge pages of memfds";
    // A kernel without them has no such file.
    let Some(setting) = setting else { return good(NAME, "none") };
    let chosen = setting.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    match chosen.map(|(chosen, _)| chosen) {
        Some(chosen @ ("always" | "force")) => good(NAME, chosen).but(
            Level::Note,
            "each segment may take a whole huge page (2 MiB), however small its ring is: count 4 \
             MiB for a session where memory is limited",
            "set /sys/kernel/mm/transparent_hugepage/shmem_enabled to within_size or never",
        ),
        Some(chosen) => good(NAME, chosen),
        None => unknown(NAME),
    }
}

/// Oldest kernel that has all calls: `futex_waitv`. MADV_POPULATE_READ came in 5.14.
const KERNEL: (u32, u32) = (5, 16);
fn kernel(release: &str) -> Check {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let check = good("kernel", format!("Linux {release}"));
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= KERNEL => check,
        (Some(Ok(_)), Some(Ok(_))) => check.but(
            Level::Poor,
            format!(
                "older than {}.{}: servers sleep in epoll, and before 5.14 sessions run over the socket",
                KERNEL.0, KERNEL.1
            ),
            "use a newer kernel",
        ),
        _ => check.but(Level::Note, "not a version number that is understood", ""),
    }
}

fn mappings(limit: Option<u64>) -> Check {
    let Some(limit) = limit else { return unknown("max_map_count") };
    let check =
        good("max_map_count", format!("{limit} mappings; a session takes two in the server"));
    if limit >= 4096 {
        return check;
    }
    check.but(
        Level::Poor,
        "a server with many clients runs out of mappings",
        "raise vm.max_map_count",
    )
}

fn cpus(count: u32, wait: &WaitSettings) -> Check {
    let looks = wait.spin_polls;
    let yields = wait.yield_for.as_micros();
    match count {
        0 => unknown("CPUs and spinning"),
        1 => good("CPUs and spinning", format!("one CPU, for this process; a waiter looks {looks} times, unless configured"))
            .but(
                Level::Note,
                "two sides on one CPU cannot spin for each other: the waiting policy notices, and yields at once",
                "give client and server a CPU each for the lowest latency; spin_polls 0 in WaitSettings saves the try",
            ),
        count => good(
            "CPUs and spinning",
            format!(
                "{count} CPUs, for this process: {} at full speed; a waiter looks {looks} times, then yields for \
                 {yields} us, then sleeps, unless configured",
                crate::words::count(u64::from(count / 2), "busy pair")
            ),
        ),
    }
}

/// Hyperthreads of one core take turns at it.
fn siblings() -> Check {
    let path = "/sys/devices/system/cpu/cpu0/topology/thread_siblings_list";
    let siblings = read_to_string(path).unwrap_or_default();
    let online = read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    match (siblings.trim(), online.trim()) {
        ("", _) => unknown("cores"),
        (siblings, online) if siblings == online && online != "0" => good("cores", "one core").but(
            Level::Poor,
            "all CPUs are hyperthreads of one core: whoever spins slows the other side down",
            "measure with lower spin settings (WaitSettings::spin_polls)",
        ),
        (siblings, _) => good("cores", format!("several; the first has the CPUs {siblings}")),
    }
}

fn tracing(scope: Option<String>) -> Check {
    let me = rustix::process::geteuid().is_root();
    match scope.as_deref().map(str::trim) {
        None | Some("0") => good("looking into processes", "allowed for one's own"),
        Some(_) if me => good("looking into processes", "restricted, but this is root"),
        Some(scope) => good("looking into processes", format!("yama's ptrace_scope is {scope}"))
            .but(
                Level::Note,
                "ring-dump may look at servers through their socket, not by pid",
                "run it as root, or set kernel.yama.ptrace_scope to 0",
            ),
    }
}

fn number(path: &str) -> Option<u64> {
    read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_found_and_has_a_remedy() {
        let stolen = Busy { load: Some(0.0), steal_percent: Some(25.0), ..Busy::default() };
        for check in [kernel("5.10.0-generic"), mappings(Some(100)), others(&stolen)] {
            assert!(
                check.level >= Level::Poor && check.means.is_some() && check.remedy.is_some(),
                "{check:?}"
            );
        }
        assert_eq!(cpus(1, &WaitSettings::client()).level, Level::Note);
        assert!(
            cpus(4, &WaitSettings::client())
                .found
                .contains("2 busy pairs at full speed; a waiter looks 150 times")
        );
        assert!(!tracing(Some("3".into())).found.is_empty());
        assert_eq!(huge_pages(Some("[always] within_size never\n")).level, Level::Note);
        let loaded = Busy { load: Some(3.5), ..Busy::default() };
        assert_eq!(others(&loaded).level, Level::Note);
        assert_eq!(others(&Busy::default()).level, Level::Unknown);
    }

    #[test]
    fn what_is_good_is_let_alone() {
        let idle = Busy { load: Some(0.1), steal_percent: Some(0.0), ..Busy::default() };
        let fine = [
            kernel("6.18.44-fc-v595"),
            kernel("5.16.0"),
            mappings(Some(65530)),
            others(&idle),
            huge_pages(None),
            huge_pages(Some("always within_size [advise] never")),
        ];
        for check in fine {
            assert_eq!(check.level, Level::Good, "{check:?}");
        }
    }
}
