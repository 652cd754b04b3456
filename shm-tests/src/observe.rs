//! What /proc says of a process.

use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs;
use std::time::Duration;

fn read(pid: u32, file: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default()
}

/// The state letter: `R` running, `S` sleeping, `T` stopped, `Z` dead and not waited for; `None` if
/// there is no such process.
#[must_use]
pub fn state(pid: u32) -> Option<char> {
    after_name(&read(pid, "stat"))?.chars().next()
}

/// The fields of a `stat` line from the state on: the name before it may hold anything.
fn after_name(stat: &str) -> Option<&str> {
    stat.rsplit_once(") ").map(|(_, rest)| rest)
}

/// A descriptor that becomes readable when the process ends.
///
/// # Panics
/// If there is no such process.
#[must_use]
pub fn open_pidfd(pid: u32) -> OwnedFd {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    pidfd_open(pid, PidfdFlags::empty()).expect("the process lives")
}

/// What a server may have besides that of its sessions, at one moment and not at another: the
/// segments of the next session, which are made when there is nothing else to do. So many
/// descriptors, and as many mappings at most.
pub const SPARE: usize = 2;

/// How many descriptors it has open.
///
/// # Panics
/// If there is no such process.
#[must_use]
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the process lives").count()
}

/// What its descriptors stand for, sorted.
#[must_use]
pub fn descriptor_targets(pid: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut targets: Vec<String> = entries
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .map(|path| path.to_string_lossy().into_owned())
        .collect();
    targets.sort();
    targets
}

/// How many mappings of memfds it has.
#[must_use]
pub fn memfd_mappings(pid: u32) -> usize {
    read(pid, "maps").lines().filter(|line| line.contains("/memfd:")).count()
}

/// How many bytes of shared memory it has mapped and touched.
///
/// # Panics
/// If there is no such process.
#[must_use]
pub fn shared_bytes(pid: u32) -> u64 {
    status_kib(pid, "RssShmem:").expect("the process lives") * 1024
}

/// How many bytes of private memory it has touched.
///
/// # Panics
/// If there is no such process.
#[must_use]
pub fn private_bytes(pid: u32) -> u64 {
    status_kib(pid, "RssAnon:").expect("the process lives") * 1024
}

fn status_kib(pid: u32, name: &str) -> Option<u64> {
    let status = read(pid, "status");
    let line = status.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// The CPU time that it has used, of all threads, to a microsecond or so.
///
/// # Panics
/// If there is no such process.
#[must_use]
pub fn cpu_time(pid: u32) -> Duration {
    // schedstat counts nanoseconds; stat counts ticks of 10 ms only.
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives").flatten();
    let nanoseconds = tasks
        .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .sum();
    Duration::from_nanos(nanoseconds)
}

fn ticks(count: u64) -> Duration {
    // USER_HZ is 100 on all supported machines.
    Duration::from_millis(count * 10)
}

/// CPU time of this process and of all its children that have ended.
#[must_use]
pub fn cpu_time_with_children() -> Duration {
    let stat = read(std::process::id(), "stat");
    // utime, stime, cutime, cstime; the state is field 0.
    let fields = after_name(&stat).unwrap_or_default().split(' ').skip(11).take(4);
    ticks(fields.filter_map(|field| field.parse::<u64>().ok()).sum())
}

/// CPU time that was used on this machine since it started, by anybody.
#[must_use]
pub fn busy_time() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let fields: Vec<u64> =
        line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user, nice, system, and irq, softirq, steal; not idle and iowait between them.
    ticks(fields.iter().take(3).chain(fields.iter().skip(5).take(3)).sum())
}

/// For how long a thread of this process was ready to run and had no CPU, since it started: time
/// that belongs to whatever else runs on this machine.
#[must_use]
pub fn time_without_cpu(thread: Pid) -> Duration {
    schedstat(thread, 1)
}

/// For how long a thread of this process has run, since it started.
#[must_use]
pub fn time_on_cpu(thread: Pid) -> Duration {
    schedstat(thread, 0)
}

fn schedstat(thread: Pid, index: usize) -> Duration {
    let path = format!("/proc/self/task/{}/schedstat", thread.as_raw_nonzero());
    let numbers = fs::read_to_string(path).unwrap_or_default();
    let time = numbers.split_whitespace().nth(index).and_then(|number| number.parse().ok());
    Duration::from_nanos(time.unwrap_or(0))
}

/// Whether all of its threads sleep.
#[must_use]
pub fn all_threads_sleep(pid: u32) -> bool {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    tasks.flatten().all(|task| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        after_name(&stat).is_some_and(|rest| rest.starts_with('S'))
    })
}

/// How often its threads have gone to sleep, each of them since it started.
#[must_use]
pub fn voluntary_switches(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let status =
        tasks.map(|task| fs::read_to_string(task.path().join("status")).unwrap_or_default());
    let count = |status: String| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:").map(str::trim));
        line.and_then(|count| count.parse::<u64>().ok()).unwrap_or(0)
    };
    status.map(count).sum()
}

/// Whether its main thread sleeps in a futex.
#[must_use]
pub fn main_thread_in_futex(pid: u32) -> bool {
    // x86-64 and aarch64: futex 202 and 98, futex_waitv 449 on both.
    let call = read(pid, "syscall");
    ["202 ", "98 ", "449 "].iter().any(|number| call.starts_with(number))
}

/// What can be said of a process that does not do what it should.
#[must_use]
pub fn diagnose(pid: u32) -> String {
    let mut text = String::new();
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return "  there is no such process\n".into();
    };
    for task in tasks.flatten() {
        let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let stat = read("stat");
        let state = after_name(&stat).and_then(|rest| rest.chars().next()).unwrap_or('?');
        text += &format!(
            "  thread {}: state {state}, wchan {}, syscall {}, schedstat {}\n",
            task.file_name().to_string_lossy(),
            read("wchan"),
            read("syscall").trim_end(),
            read("schedstat").trim_end(),
        );
    }
    text += &format!("  descriptors: {}\n", descriptor_targets(pid).join(", "));
    text
}
