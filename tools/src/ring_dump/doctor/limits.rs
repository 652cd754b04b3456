//! What a process is forbidden or limited in, and what that means for its rings.

use super::process::{Process, Rlimit};
use super::{Check, Level, good, unknown};
use crate::doctor::cgroups::Limit;

/// Descriptors that a server has for one session: two segments, the lifeline, the client's pidfd.
const PER_SESSION: u64 = 4;
/// Sessions that a server admits unless configured.
const SESSIONS: u64 = 64;

/// `used` are those of another process; one's own say nothing of a service.
pub(super) fn descriptors(limit: Rlimit, used: Option<u64>) -> Check {
    const NAME: &str = "RLIMIT_NOFILE";
    let limit = match limit {
        Rlimit::Unlimited => return good(NAME, "unlimited"),
        Rlimit::Unseen => return unknown(NAME),
        Rlimit::Is(limit) => limit,
    };
    let sessions = limit.saturating_sub(used.unwrap_or(32)) / PER_SESSION;
    let check = match used {
        None => good(NAME, format!("{limit} descriptors: about {sessions} sessions of one server")),
        Some(used) => good(
            NAME,
            format!(
                "{used} of {limit} descriptors in use: room for about {sessions} more sessions"
            ),
        ),
    };
    match used {
        Some(used) if used >= limit / 5 * 4 => check.but(
            Level::Poor,
            "it soon runs out of descriptors; then it refuses new clients",
            "raise the limit (LimitNOFILE=, prlimit), or find out which descriptors it leaks",
        ),
        None if sessions < SESSIONS => check.but(
            Level::Poor,
            format!(
                "a server admits {SESSIONS} clients unless configured, and refuses to bind with \
                 too few descriptors"
            ),
            "raise the limit (ulimit -n, LimitNOFILE=), or lower max_clients",
        ),
        _ => check,
    }
}

/// Shared memory is a file to this limit.
pub(super) fn file_size(limit: Rlimit) -> Check {
    const NAME: &str = "RLIMIT_FSIZE";
    let limit = match limit {
        Rlimit::Unlimited => return good(NAME, "unlimited"),
        Rlimit::Unseen => return unknown(NAME),
        Rlimit::Is(limit) => limit,
    };
    let check = good(NAME, format!("{limit} bytes"));
    // Two rings of 64 KiB, and the page in which a server tells of itself.
    if limit >= 1 << 20 {
        return check.but(
            Level::Note,
            "no ring is larger: sessions that ask for more run over the socket, or are refused",
            "",
        );
    }
    check.but(
        Level::Poor,
        "shared memory counts as a file: sessions may have to run over the socket",
        "raise the limit (ulimit -f, LimitFSIZE=)",
    )
}

pub(super) fn memlock(limit: Rlimit) -> Check {
    const NAME: &str = "RLIMIT_MEMLOCK";
    // Enough for the stacks of some threads and the rings of many sessions.
    const PLENTY: u64 = 64 << 20;
    let limit = match limit {
        Rlimit::Unlimited => return good(NAME, "unlimited; Ringbell locks nothing"),
        Rlimit::Unseen => return unknown(NAME),
        Rlimit::Is(limit) => limit,
    };
    let check = good(NAME, format!("{limit} bytes; Ringbell locks nothing"));
    if limit >= PLENTY {
        return check;
    }
    check.but(
        Level::Note,
        "a program that locks all its memory (mlockall) has no more than this: then no thread starts, and sessions \
         run over the socket",
        "",
    )
}

/// `used` is in bytes, and of another process.
pub(super) fn address_space(limit: Rlimit, used: Option<u64>) -> Check {
    const NAME: &str = "RLIMIT_AS";
    let limit = match limit {
        Rlimit::Unlimited => return good(NAME, "unlimited"),
        Rlimit::Unseen => return unknown(NAME),
        Rlimit::Is(limit) => limit,
    };
    let mib = limit >> 20;
    let check = match used {
        None => good(NAME, format!("{mib} MiB")),
        Some(used) => good(NAME, format!("{} of {mib} MiB in use", used >> 20)),
    };
    let is_near = used.is_some_and(|used| used >= limit / 5 * 4);
    if limit >= 1 << 30 && !is_near {
        return check.but(
            Level::Note,
            "each session maps its two rings, and each thread its stack: with many of them the \
             limit is met, and sessions run over the socket",
            "",
        );
    }
    check.but(
        Level::Poor,
        "soon no ring can be mapped and no thread started: sessions run over the socket",
        "raise the limit (ulimit -v, LimitAS=)",
    )
}

/// Whether a crash would leave something for `ring-dump show CORE`. `pattern` is that of the
/// kernel, `filter` that of the process.
///
/// Source: core(5). A program or a socket that takes the dump is not bound by the limit.
pub(super) fn core_dumps(limit: Rlimit, pattern: Option<&str>, filter: Option<&str>) -> Check {
    const NAME: &str = "core dumps";
    /// Anonymous shared mappings, which memfds are.
    const SHARED: u64 = 1 << 1;
    let Some(pattern) = pattern.map(|pattern| crate::text::of_str(pattern.trim())) else {
        return unknown(NAME);
    };
    let to = match pattern.as_bytes() {
        [] => "a file named core".to_owned(),
        [b'|', ..] => format!("the program {}", &pattern[1..]),
        [b'@', ..] => format!("the socket {}", pattern.trim_start_matches('@')),
        _ => format!("the file {pattern}"),
    };
    let is_file = !pattern.starts_with(['|', '@']);
    match limit {
        Rlimit::Is(0) if is_file => {
            return good(NAME, "a crash leaves none: RLIMIT_CORE is 0").but(
                Level::Note,
                "after a crash there is nothing to look at but what the clients still hold",
                "raise the limit (ulimit -c unlimited, LimitCORE=infinity)",
            );
        }
        Rlimit::Unseen if is_file => return unknown(NAME),
        Rlimit::Is(bytes) if is_file => {
            return good(NAME, format!("at most {bytes} bytes, to {to}")).but(
                Level::Note,
                "a dump is cut there, and may lack the rings",
                "raise the limit (ulimit -c unlimited, LimitCORE=infinity)",
            );
        }
        _ => {}
    }
    match filter.map(|filter| u64::from_str_radix(filter.trim(), 16)) {
        Some(Ok(bits)) if bits & SHARED != 0 => good(NAME, format!("with the rings, to {to}")),
        Some(Ok(bits)) => good(NAME, format!("to {to}; coredump_filter is {bits:#x}")).but(
            Level::Note,
            "they would not contain the rings: those are shared memory",
            "set bit 1 of /proc/PID/coredump_filter (CoredumpFilter=shared-anonymous and those \
             that are set)",
        ),
        _ => unknown(NAME),
    }
}

/// Of this process, the calls that were tried say more than the mode.
pub(super) fn seccomp(process: &Process) -> Check {
    judge_seccomp(process.field("Seccomp"), process.pid.is_none())
}

fn judge_seccomp(mode: Option<&str>, is_own: bool) -> Check {
    const NAME: &str = "seccomp";
    match mode {
        Some("0") => good(NAME, "off"),
        Some("1" | "2") if is_own => good(NAME, "a filter is on").but(
            Level::Note,
            "the calls above passed it in this process; that of the service may have another one",
            "ring-dump doctor PID, and run the doctor where the service runs",
        ),
        Some("1" | "2") => good(NAME, "a filter is on").but(
            Level::Note,
            "it may refuse calls that rings need: then sessions run over the socket, or no server \
             can be bound",
            "run ring-dump doctor inside of the same sandbox: it tries the calls",
        ),
        _ => unknown(NAME),
    }
}

/// What it may do beyond its user.
pub(super) fn capabilities(process: &Process) -> Check {
    judge_capabilities(process.number("CapEff", 16), process.field("NoNewPrivs"))
}

fn judge_capabilities(effective: Option<u64>, no_new: Option<&str>) -> Check {
    const NAME: &str = "capabilities";
    // Source: include/uapi/linux/capability.h.
    const THAT_MATTER: [(u32, &str); 5] = [
        (1, "CAP_DAC_OVERRIDE"),
        (14, "CAP_IPC_LOCK"),
        (19, "CAP_SYS_PTRACE"),
        (23, "CAP_SYS_NICE"),
        (24, "CAP_SYS_RESOURCE"),
    ];
    let Some(effective) = effective else { return unknown(NAME) };
    let has: Vec<&str> = THAT_MATTER
        .into_iter()
        .filter(|(bit, _)| effective & (1 << bit) != 0)
        .map(|(_, name)| name)
        .collect();
    let what = match (effective, has.len()) {
        (0, _) => "none".to_owned(),
        (_, 5) => "those of root".to_owned(),
        (_, 0) => "some, none of which matters here".to_owned(),
        _ => format!("{} among them", has.join(", ")),
    };
    match no_new {
        Some("1") => good(NAME, what + "; no new ones (NoNewPrivs)").but(
            Level::Note,
            "workers that it starts gain nothing from set-uid programs or file capabilities",
            "",
        ),
        _ => good(NAME, what),
    }
}

/// How early the kernel kills it when memory runs out.
pub(super) fn oom(adjustment: Option<&str>) -> Check {
    const NAME: &str = "oom_score_adj";
    match adjustment.map(|text| text.trim().parse::<i32>()) {
        Some(Ok(number @ 1..)) => good(NAME, number.to_string()).but(
            Level::Note,
            "it is killed before others when memory runs out, and its sessions die with it",
            "lower it (OOMScoreAdjust=)",
        ),
        Some(Ok(number)) => good(NAME, number.to_string()),
        _ => unknown(NAME),
    }
}

/// Kinds of namespaces, the number of the one in which the machine started, what another one means
/// here, and what it means that another process has another one than we.
///
/// Source: include/uapi/linux/nsfs.h, `init_ns_ino`; the same since Linux 3.8.
const KINDS: [(&str, Option<u64>, &str, &str); 4] = [
    (
        "user",
        Some(0xEFFF_FFFD),
        "users without a mapping here are nobody, and refused",
        "its user ids are others than ours: credentials are those of the mapping",
    ),
    (
        "pid",
        Some(0xEFFF_FFFC),
        "peers outside show as pid 0; deaths are seen by pidfd, and by hang-up",
        "its pids are others than ours; peers outside show as pid 0 in it",
    ),
    (
        "time",
        Some(0xEFFF_FFFA),
        "clocks differ from those of peers outside; deadlines are converted",
        "its clocks may differ from ours; deadlines are converted",
    ),
    (
        "mnt",
        None,
        "",
        "paths are others than ours: its sockets lie under /proc/PID/root, if they are not mounted here",
    ),
];

/// What a namespace of this process is, by its kind.
type NameOf<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Namespaces that are not those in which the machine started, or, of another process, not `ours`.
pub(super) fn namespaces(of: impl Fn(&str) -> Option<String>, ours: Option<NameOf<'_>>) -> Check {
    const NAME: &str = "namespaces";
    let (mut own, mut means, mut unseen) = (Vec::new(), Vec::new(), 0);
    for (kind, first, alone, beside) in KINDS {
        let expected = match ours {
            Some(ours) => ours(kind),
            None => match first {
                Some(first) => Some(format!("{kind}:[{first}]")),
                None => continue,
            },
        };
        match (of(kind), expected) {
            (Some(is), Some(expected)) if is == expected => {}
            (Some(_), Some(_)) => {
                own.push(kind);
                means.push(if ours.is_some() { beside } else { alone });
            }
            _ => unseen += 1,
        }
    }
    match (own.is_empty(), ours.is_some()) {
        // A kernel may lack a kind. One that is not to be seen in full is not known.
        (true, _) if unseen > 1 => unknown(NAME),
        (true, false) => good(NAME, "those of the machine"),
        (true, true) => good(NAME, "the same as ours"),
        (false, beside) => {
            let whose = if beside { "other than ours" } else { "its own" };
            let found = format!("{whose}: {}", own.join(", "));
            good(NAME, found).but(Level::Note, means.join("; "), "")
        }
    }
}

pub(super) fn cpu_quota(limit: &Limit<(f64, f64)>) -> Check {
    const NAME: &str = "cgroup CPU limit";
    let (cpus, period) = match *limit {
        Limit::Set(limit) => limit,
        Limit::None => return good(NAME, "none"),
        Limit::Unseen => return unknown(NAME),
    };
    let check = good(NAME, format!("{cpus:.2} CPUs"));
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

pub(super) fn memory_limit(limit: &Limit<u64>) -> Check {
    const NAME: &str = "cgroup memory limit";
    let bytes = match *limit {
        Limit::Set(bytes) => bytes,
        Limit::None => return good(NAME, "none"),
        Limit::Unseen => return unknown(NAME),
    };
    let check = good(NAME, format!("{} MiB", bytes >> 20));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h5_limits_say_what_follows() {
        assert_eq!(file_size(Rlimit::Unlimited).level, Level::Good);
        assert_eq!(file_size(Rlimit::Is(4 << 20)).level, Level::Note);
        assert_eq!(file_size(Rlimit::Is(0)).level, Level::Poor);
        assert_eq!(memlock(Rlimit::Unlimited).level, Level::Good);
        assert_eq!(memlock(Rlimit::Is(1 << 30)).level, Level::Good);
        let low = memlock(Rlimit::Is(300 << 10));
        assert!(low.level == Level::Note && low.found.starts_with("307200 bytes"));
        assert!(low.means.is_some_and(|means| means.contains("mlockall")));
        assert_eq!(
            descriptors(Rlimit::Is(128), None).found,
            "128 descriptors: about 24 sessions of one server"
        );
        assert_eq!(descriptors(Rlimit::Is(128), None).level, Level::Poor);
        assert_eq!(descriptors(Rlimit::Is(1024), None).level, Level::Good);
        let used = descriptors(Rlimit::Is(1024), Some(24));
        assert_eq!((used.level, used.found.starts_with("24 of 1024")), (Level::Good, true));
        assert_eq!(descriptors(Rlimit::Is(100), Some(90)).level, Level::Poor);
        assert_eq!(address_space(Rlimit::Unlimited, None).level, Level::Good);
        assert_eq!(address_space(Rlimit::Is(4 << 30), Some(1 << 30)).level, Level::Note);
        assert_eq!(address_space(Rlimit::Is(4 << 30), Some(4 << 30)).level, Level::Poor);
        assert_eq!(address_space(Rlimit::Is(1 << 20), None).level, Level::Poor);
        let quota = cpu_quota(&Limit::Set((0.5, 100_000.0)));
        assert!(quota.level == Level::Poor && quota.found == "0.50 CPUs");
        assert!(quota.means.is_some_and(|text| text.contains("100 ms")));
        assert_eq!(cpu_quota(&Limit::Set((4.0, 100_000.0))).level, Level::Good);
        assert_eq!(memory_limit(&Limit::Set(1 << 20)).level, Level::Poor);
        assert_eq!((oom(Some("500\n")).level, oom(Some("0")).level), (Level::Note, Level::Good));
    }

    #[test]
    fn what_cannot_be_read_is_unknown() {
        let unseen = [
            descriptors(Rlimit::Unseen, None),
            file_size(Rlimit::Unseen),
            memlock(Rlimit::Unseen),
            address_space(Rlimit::Unseen, None),
            core_dumps(Rlimit::Unseen, Some("core"), Some("33")),
            core_dumps(Rlimit::Unlimited, Some("core"), None),
            judge_seccomp(None, false),
            judge_capabilities(None, None),
            oom(None),
            namespaces(|_| None, None),
            cpu_quota(&Limit::Unseen),
            memory_limit(&Limit::Unseen),
        ];
        for check in unseen {
            assert_eq!(check.level, Level::Unknown, "{check:?}");
            assert!(check.means.is_some(), "{check:?}");
        }
    }

    #[test]
    fn a_crash_leaves_the_rings_or_it_is_said_why_not() {
        let all = Rlimit::Unlimited;
        let fine = core_dumps(all, Some("core.%p\n"), Some("00000033\n"));
        assert_eq!(
            (fine.level, &*fine.found),
            (Level::Good, "with the rings, to the file core.%p")
        );
        assert_eq!(core_dumps(all, Some("core"), Some("31")).level, Level::Note);
        assert_eq!(core_dumps(Rlimit::Is(0), Some("core"), Some("33")).level, Level::Note);
        assert_eq!(core_dumps(Rlimit::Is(4096), Some(""), Some("33")).level, Level::Note);
        // A program takes it whatever the limit.
        let piped = core_dumps(Rlimit::Is(0), Some("|/bin/dumper \u{1b} %P"), Some("33"));
        assert_eq!(piped.level, Level::Good);
        assert!(piped.found.contains("/bin/dumper \\x"), "{piped:?}");
    }

    #[test]
    fn a_filter_and_capabilities_are_told() {
        assert_eq!(judge_seccomp(Some("0"), false).level, Level::Good);
        assert_eq!(judge_seccomp(Some("2"), true).level, Level::Note);
        assert!(judge_seccomp(Some("2"), false).remedy.is_some());
        assert_eq!(judge_capabilities(Some(0), Some("0")).found, "none");
        assert_eq!(judge_capabilities(Some(u64::MAX), Some("0")).found, "those of root");
        assert!(judge_capabilities(Some(1 << 19), None).found.starts_with("CAP_SYS_PTRACE"));
        assert_eq!(judge_capabilities(Some(0), Some("1")).level, Level::Note);
    }

    #[test]
    fn h5_namespaces_are_told_apart() {
        let first = |kind: &str| {
            let number = match kind {
                "user" => 4_026_531_837_u64,
                "pid" => 4_026_531_836,
                "time" => 4_026_531_834,
                _ => 7,
            };
            Some(format!("{kind}:[{number}]"))
        };
        let other = |kind: &str| {
            if kind == "pid" { Some("pid:[4026532000]".to_owned()) } else { first(kind) }
        };
        assert_eq!(namespaces(first, None).level, Level::Good);
        let own = namespaces(other, None);
        assert_eq!((own.level, &*own.found), (Level::Note, "its own: pid"));
        assert!(own.means.is_some_and(|means| means.contains("pid 0")));
        assert_eq!(namespaces(other, Some(&other)).found, "the same as ours");
        let differs = namespaces(other, Some(&first));
        assert_eq!((differs.level, &*differs.found), (Level::Note, "other than ours: pid"));
    }
}
