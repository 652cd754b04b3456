//! Whether this machine, as this process sees it, is good for rings; what each finding means, and
//! what to do.

mod cgroups;
mod host;

use crate::export;
use crate::report::JSON_VERSION;
use crate::style::{BAD, DIM, END, GOOD, WARN};
use cgroups::{Cgroups, Limit};
use host::{fallocate, file_size, flock, memlock, namespaces, peer_pidfd, ppoll, timerfd, whole};
use ringbell::WaitSettings;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Resource, getrlimit};
use rustix::thread::futex;
use serde::Serialize;
use std::fmt::Write;
use std::fs::read_to_string;
use std::os::fd::AsFd;

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Level {
    /// As it should be.
    Good,
    /// Good to know.
    Note,
    /// It works, with less than it could.
    Poor,
    /// It does not work.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
struct Check {
    name: &'static str,
    level: Level,
    /// What was found.
    found: String,
    /// What that means, if it is not as it should be.
    means: Option<String>,
    /// What to do about it.
    remedy: Option<String>,
}

/// All of it.
#[derive(Debug, Serialize)]
pub(crate) struct Health {
    version: u32,
    /// When, in ms since 1970.
    unix_ms: u64,
    /// The same as a date: RFC 3339, UTC.
    date: String,
    checks: Vec<Check>,
}

fn good(name: &'static str, found: impl Into<String>) -> Check {
    Check { name, level: Level::Good, found: found.into(), means: None, remedy: None }
}

impl Check {
    fn but(mut self, level: Level, means: impl Into<String>, remedy: impl Into<String>) -> Self {
        self.level = level;
        self.means = Some(means.into());
        let remedy = remedy.into();
        self.remedy = (!remedy.is_empty()).then_some(remedy);
        self
    }

    /// There is another way.
    fn no_worse_than(mut self, level: Level) -> Self {
        self.level = self.level.min(level);
        self
    }
}

/// Oldest kernel that has all calls: `futex_waitv`. MADV_POPULATE_READ came in 5.14.
const KERNEL: (u32, u32) = (5, 16);
/// Descriptors that a server has for one session: two segments, the lifeline, the client's pidfd.
const PER_SESSION: u64 = 4;
/// Sessions that a server admits unless configured.
const SESSIONS: u64 = 64;

/// Looks at everything.
pub(crate) fn examine() -> Health {
    let checks = vec![
        kernel(&rustix::system::uname().release().to_string_lossy()),
        memfd(),
        call("futex", futex_wait(), "rings need futexes; clients fall back to the socket"),
        call("futex_waitv", futex_waitv(), "servers sleep in epoll; waking one costs a byte more")
            .no_worse_than(Level::Poor),
        call("eventfd", eventfd(0, EventfdFlags::CLOEXEC).map(drop), "no server can be bound"),
        call("timerfd", timerfd(), "no server can live in an event loop, or in tasks"),
        call("fallocate", fallocate(), "sessions run over the socket"),
        call("flock", flock(), "no server can be bound at a path"),
        call("pidfd", pidfd(), "deaths are seen by hang-up alone, which a forked child can hide"),
        call(
            "SO_PEERPIDFD",
            peer_pidfd(),
            "peers are known by their pids, which say nothing across pid namespaces",
        )
        .no_worse_than(Level::Note),
        call("ppoll", ppoll(), "who waits for a socket looks again every few milliseconds")
            .no_worse_than(Level::Poor),
        call("epoll", epoll(), "no server can be bound"),
        whole("all that rings need", ringbell::rings_work(), "sessions run over the socket"),
        whole("all that servers need", ringbell::servers_work(), "no server can be bound"),
        file_size(getrlimit(Resource::Fsize).current),
        descriptors(getrlimit(Resource::Nofile).current),
        memlock(getrlimit(Resource::Memlock).current),
        namespaces(|kind| std::fs::read_link(format!("/proc/self/ns/{kind}")).ok()),
        mappings(number("/proc/sys/vm/max_map_count")),
        seccomp(&read_to_string("/proc/self/status").unwrap_or_default()),
        cpus(
            rustix::thread::sched_getaffinity(None).map_or(0, |set| set.count()),
            &WaitSettings::client(),
        ),
        siblings(),
        cpu_quota(&Cgroups::of_this_process().cpu()),
        memory_limit(&Cgroups::of_this_process().memory()),
        tracing(read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok()),
        core_dumps(&read_to_string("/proc/self/coredump_filter").unwrap_or_default()),
    ];
    let unix_ms = export::now_unix_ms();
    Health { version: JSON_VERSION, unix_ms, date: export::date(unix_ms), checks }
}

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

fn memfd() -> Check {
    let try_it = || {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create(c"ringbell-doctor", flags)?;
        rustix::fs::ftruncate(&fd, 4096)?;
        rustix::fs::fcntl_add_seals(
            &fd,
            SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL,
        )?;
        match rustix::io::pwrite(fd.as_fd(), &[1], 0) {
            Err(_) => Ok(()),
            Ok(_) => Err(Errno::NOTSUP),
        }
    };
    call(
        "memfd and seals",
        try_it(),
        "there is no shared memory that is safe; sessions run over the socket",
    )
}

fn call(name: &'static str, result: Result<(), Errno>, means: &str) -> Check {
    match result {
        Ok(()) => good(name, "works"),
        Err(Errno::NOSYS) => good(name, "not there").but(Level::Bad, means, "use a newer kernel"),
        Err(errno @ (Errno::PERM | Errno::ACCESS)) => good(name, format!("refused: {errno}")).but(
            Level::Bad,
            means,
            "allow the call in the sandbox or seccomp profile of this process",
        ),
        Err(errno) => good(name, format!("fails: {errno}")).but(Level::Bad, means, ""),
    }
}

/// A wait that must return at once, since the word has another value.
#[allow(
    clippy::disallowed_types,
    reason = "the kernel takes a plain word, and no protocol is in it"
)]
fn futex_wait() -> Result<(), Errno> {
    let word = std::sync::atomic::AtomicU32::new(1);
    match futex::wait(&word, futex::Flags::empty(), 0, None) {
        Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {
            futex::wake(&word, futex::Flags::empty(), 1).map(drop)
        }
        Err(errno) => Err(errno),
    }
}

#[allow(
    clippy::disallowed_types,
    reason = "the kernel takes a plain word, and no protocol is in it"
)]
fn futex_waitv() -> Result<(), Errno> {
    let word = std::sync::atomic::AtomicU32::new(1);
    let mut entry = futex::Wait::new();
    entry.val = 0;
    entry.uaddr = futex::WaitPtr::new(word.as_ptr().cast());
    entry.flags = futex::WaitFlags::SIZE_U32;
    match futex::waitv(
        &[entry],
        futex::WaitvFlags::empty(),
        None,
        rustix::thread::ClockId::Monotonic,
    ) {
        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn pidfd() -> Result<(), Errno> {
    rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).map(drop)
}

fn epoll() -> Result<(), Errno> {
    rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).map(drop)
}

fn descriptors(limit: Option<u64>) -> Check {
    let Some(limit) = limit else { return good("RLIMIT_NOFILE", "unlimited") };
    let sessions = limit.saturating_sub(32) / PER_SESSION;
    let check = good(
        "RLIMIT_NOFILE",
        format!("{limit} descriptors: about {sessions} sessions of one server"),
    );
    if sessions >= SESSIONS {
        return check;
    }
    check.but(
        Level::Poor,
        format!("a server admits {SESSIONS} clients unless configured, and refuses to bind with too few descriptors"),
        "raise the limit (ulimit -n, LimitNOFILE=), or lower max_clients",
    )
}

fn mappings(limit: Option<u64>) -> Check {
    let Some(limit) = limit else { return good("max_map_count", "not to be seen") };
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

fn seccomp(status: &str) -> Check {
    let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:")).map_or("", str::trim);
    match mode {
        "0" => good("seccomp", "off"),
        "2" => good("seccomp", "a filter is on").but(
            Level::Note,
            "the calls above passed it in this process; that of the service may have another one",
            "run the doctor where the service runs",
        ),
        _ => good("seccomp", "not to be seen"),
    }
}

fn cpus(count: u32, wait: &WaitSettings) -> Check {
    let looks = wait.spin_polls;
    let yields = wait.yield_for.as_micros();
    match count {
        0 => good("CPUs and spinning", "not to be seen"),
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
                crate::verdict::count(u64::from(count / 2), "busy pair")
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
        ("", _) => good("cores", "not to be seen"),
        (siblings, online) if siblings == online && online != "0" => good("cores", "one core").but(
            Level::Poor,
            "all CPUs are hyperthreads of one core: whoever spins slows the other side down",
            "measure with lower spin settings (WaitSettings::spin_polls)",
        ),
        (siblings, _) => good("cores", format!("several; the first has the CPUs {siblings}")),
    }
}

fn cpu_quota(limit: &Limit<(f64, f64)>) -> Check {
    let (cpus, period) = match *limit {
        Limit::Set(limit) => limit,
        Limit::None => return good("cgroup CPU limit", "none"),
        Limit::Unseen => return good("cgroup CPU limit", "not to be seen"),
    };
    let check = good("cgroup CPU limit", format!("{cpus:.2} CPUs"));
    if cpus >= 2.0 {
        return check;
    }
    check.but(
        Level::Poor,
        format!(
            "spinning uses up the quota, and then nothing runs for up to {:.0} ms: latencies have that tail",
            period / 1000.0
        ),
        "raise cpu.max, or lower spin_polls and the yield times in WaitSettings",
    )
}

fn memory_limit(limit: &Limit<u64>) -> Check {
    let bytes = match *limit {
        Limit::Set(bytes) => bytes,
        Limit::None => return good("cgroup memory limit", "none"),
        Limit::Unseen => return good("cgroup memory limit", "not to be seen"),
    };
    let check = good("cgroup memory limit", format!("{} MiB", bytes >> 20));
    // A session with default rings takes 136 KiB; messages may take 64 MiB each.
    if bytes >= 256 << 20 {
        return check.but(
            Level::Note,
            "shared memory is charged to the server, which makes it",
            "",
        );
    }
    check.but(
        Level::Poor,
        "shared memory is charged to the server, which makes it, and a message may have 64 MiB",
        "raise memory.max, or lower max_message, ring_capacity and max_clients",
    )
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

fn core_dumps(filter: &str) -> Check {
    const SHARED: u32 = 2;
    match u32::from_str_radix(filter.trim(), 16) {
        Ok(bits) if bits & SHARED != 0 => good("core dumps", "would contain the rings"),
        Ok(bits) => good("core dumps", format!("coredump_filter is {bits:#x}")).but(
            Level::Note,
            "they would not contain the rings",
            "set bit 1 of /proc/PID/coredump_filter in the service",
        ),
        Err(_) => good("core dumps", "not to be seen"),
    }
}

fn number(path: &str) -> Option<u64> {
    read_to_string(path).ok()?.trim().parse().ok()
}

impl Health {
    /// Whether nothing needs to be done.
    pub(crate) fn is_good(&self) -> bool {
        self.checks.iter().all(|check| check.level < Level::Poor)
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        for Check { name, level, found, means, remedy } in &self.checks {
            let (style, word) = match level {
                Level::Good => (GOOD, "good"),
                Level::Note => (WARN, "note"),
                Level::Poor => (WARN, "poor"),
                Level::Bad => (BAD, "bad"),
            };
            let _ = writeln!(out, "{style}{word:<5}{END} {name:<24} {found}");
            for (label, text) in [("means", means), ("do", remedy)] {
                if let Some(text) = text {
                    let _ = writeln!(out, "      {DIM}{label:<24}{END} {text}");
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_found_and_has_a_remedy() {
        let poor = [
            kernel("5.10.0-generic"),
            call("futex_waitv", Err(Errno::NOSYS), "x"),
            call("memfd and seals", Err(Errno::PERM), "x"),
            descriptors(Some(128)),
            mappings(Some(100)),
            cpu_quota(&Limit::Set((0.5, 100_000.0))),
            memory_limit(&Limit::Set(1 << 20)),
        ];
        for check in poor {
            assert!(
                check.level >= Level::Poor && check.means.is_some() && check.remedy.is_some(),
                "{check:?}"
            );
        }
        assert_eq!(
            descriptors(Some(128)).found,
            "128 descriptors: about 24 sessions of one server"
        );
        let quota = cpu_quota(&Limit::Set((0.5, 100_000.0)));
        assert!(
            quota.found == "0.50 CPUs" && quota.means.is_some_and(|text| text.contains("100 ms"))
        );
        assert_eq!(seccomp("Seccomp:\t2\n").level, Level::Note);
        assert_eq!(cpus(1, &WaitSettings::client()).level, Level::Note);
        assert!(
            cpus(4, &WaitSettings::client())
                .found
                .contains("2 busy pairs at full speed; a waiter looks 150 times")
        );
        assert_eq!(core_dumps("00000031").level, Level::Note);
        assert!(!tracing(Some("3".into())).found.is_empty());
    }

    #[test]
    fn what_is_good_is_let_alone() {
        let fine = [
            kernel("6.18.44-fc-v595"),
            kernel("5.16.0"),
            memfd(),
            call("futex", futex_wait(), ""),
            call("futex_waitv", futex_waitv(), ""),
            call("pidfd", pidfd(), ""),
            descriptors(None),
            descriptors(Some(1024)),
            mappings(Some(65530)),
            cpu_quota(&Limit::None),
            cpu_quota(&Limit::Unseen),
            cpu_quota(&Limit::Set((4.0, 100_000.0))),
            memory_limit(&Limit::None),
            core_dumps("00000033"),
            seccomp("Seccomp:\t0\n"),
        ];
        for check in fine {
            assert_eq!(check.level, Level::Good, "{check:?}");
        }
    }
}
