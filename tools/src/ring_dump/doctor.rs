//! Whether this machine, as this process sees it, is good for rings, or what limits another
//! process; what each finding means, and what to do.

mod calls;
mod cgroups;
mod limits;
mod machine;
mod process;

use crate::export;
use crate::report::JSON_VERSION;
use crate::source::Target;
use crate::style::{BAD, DIM, END, GOOD, HEAD, WARN};
use crate::{Failure, Unattachable, Usage};
use cgroups::Cgroups;
use process::{Process, Rlimit};
use ringbell::inspect::Inspector;
use serde::Serialize;
use std::fmt::Write;
use std::fs::read_to_string;
use std::time::Duration;

/// How long a connection to a socket may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Level {
    /// As it should be.
    Good,
    /// It could not be looked at.
    Unknown,
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
    /// Whose limits these are; none for the machine, as this process sees it.
    process: Option<Subject>,
    checks: Vec<Check>,
}

/// A process that is looked at.
#[derive(Debug, Serialize)]
struct Subject {
    pid: u32,
    /// Its name, without control characters.
    name: String,
    /// Its effective user.
    uid: Option<u64>,
}

fn good(name: &'static str, found: impl Into<String>) -> Check {
    Check { name, level: Level::Good, found: found.into(), means: None, remedy: None }
}

fn unknown(name: &'static str) -> Check {
    good(name, "unknown").but(Level::Unknown, "not shown to us: needs its user or root", "")
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

/// Looks at the machine, as this process sees it, and at its own limits.
pub(crate) fn examine() -> Result<Health, Failure> {
    let own = Process::own()?;
    let allowed = rustix::thread::sched_getaffinity(None).map_or(0, |set| set.count());
    let mut checks = machine::looked_at(allowed);
    checks.extend(calls::tried());
    checks.extend(of_process(&own, None));
    Ok(Health::new(None, checks))
}

/// Looks at what limits another process: a pid, or the one that listens at a socket.
pub(crate) fn examine_target(word: &str) -> Result<Health, Failure> {
    let pid = match Target::of(word)? {
        Target::Process(pid) => pid,
        Target::Socket(path) => {
            let refused = |why: &dyn std::fmt::Display| {
                let (why, path) = (why.to_string(), path.display().to_string());
                let named = if why.contains(&path) { why } else { format!("{path}: {why}") };
                Unattachable(crate::text::of_str(&named))
            };
            let inspector =
                Inspector::connect(&path, Some(PATIENCE)).map_err(|error| refused(&error))?;
            let unseen = "its server cannot be seen from this pid namespace";
            inspector.listener().ok_or_else(|| refused(&unseen))?
        }
        Target::Saved(_) | Target::Core(_) => {
            let what = "the doctor looks at a process: a pid, or the socket of a server";
            return Err(Usage(format!("{}: {what}", crate::text::of_str(word))).into());
        }
    };
    let (process, own) = (Process::of(pid)?, Process::own()?);
    let uids = process.field("Uid");
    let uid = uids.and_then(|uids| uids.split_ascii_whitespace().nth(1)?.parse().ok());
    let subject = Subject { pid, name: process.name(), uid };
    Ok(Health::new(Some(subject), of_process(&process, Some(&own))))
}

/// What limits a process. `ours` is this one, if it is another.
fn of_process(process: &Process, ours: Option<&Process>) -> Vec<Check> {
    let is_other = ours.is_some();
    let ours_of = |kind: &str| ours.and_then(|ours| ours.namespace(kind));
    let groups = Cgroups::of(process.text("cgroup").unwrap_or_default());
    let pattern = read_to_string("/proc/sys/kernel/core_pattern").ok();
    let files = process.limit("Max open files");
    let open = process.descriptors().filter(|_| is_other);
    let mapped = process.number("VmSize", 10).map(|kib| kib << 10).filter(|_| is_other);
    let mut checks = vec![limits::descriptors(files, open)];
    if is_other && open.is_none() && files != Rlimit::Unseen {
        checks.push(unknown("descriptors in use"));
    }
    checks.extend([
        limits::file_size(process.limit("Max file size")),
        limits::memlock(process.limit("Max locked memory")),
        limits::address_space(process.limit("Max address space"), mapped),
        limits::core_dumps(
            process.limit("Max core file size"),
            pattern.as_deref(),
            process.text("coredump_filter").as_deref(),
        ),
        limits::seccomp(process),
        limits::namespaces(
            |kind| process.namespace(kind),
            is_other.then_some(&ours_of as &dyn Fn(&str) -> Option<String>),
        ),
        limits::cpu_quota(&groups.cpu()),
        limits::memory_limit(&groups.memory()),
    ]);
    if is_other {
        checks.push(groups.named());
        checks.push(limits::capabilities(process));
        checks.push(limits::oom(process.text("oom_score_adj").as_deref()));
        let cpus = process.field("Cpus_allowed_list");
        checks.push(cpus.map_or_else(|| unknown("CPUs"), |list| good("CPUs", list)));
    }
    checks
}

impl Health {
    fn new(process: Option<Subject>, checks: Vec<Check>) -> Self {
        let unix_ms = export::now_unix_ms();
        let date = export::date(unix_ms);
        Self { version: JSON_VERSION, unix_ms, date, process, checks }
    }

    /// Whether nothing needs to be done.
    pub(crate) fn is_good(&self) -> bool {
        self.checks.iter().all(|check| check.level < Level::Poor)
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        if let Some(Subject { pid, name, uid }) = &self.process {
            let uid = uid.map_or_else(|| "unknown".to_owned(), |uid| uid.to_string());
            let _ = writeln!(out, "{HEAD}process {pid} {name}{END}, uid {uid}");
        }
        for Check { name, level, found, means, remedy } in &self.checks {
            let (style, word) = match level {
                Level::Good => (GOOD, "good"),
                Level::Unknown => (DIM, "?"),
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
