//! Limits that control groups set, of version 1 and of version 2.

use super::{Check, good, unknown};
use std::collections::BTreeSet;
use std::fs::read_to_string;
use std::path::{Path, PathBuf};

/// What can be known of a limit of control groups.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Limit<T> {
    /// The tightest of the group's own and those above it.
    Set(T),
    None,
    Unseen,
}

/// The control groups of a process, of either version.
pub(super) struct Cgroups {
    /// `/proc/PID/cgroup`.
    own: String,
    /// `/sys/fs/cgroup`.
    root: PathBuf,
}

impl Cgroups {
    /// Of a process with this `/proc/PID/cgroup`.
    pub(super) fn of(own: String) -> Self {
        Self { own, root: "/sys/fs/cgroup".into() }
    }

    /// What they are called.
    pub(super) fn named(&self) -> Check {
        let paths = self.own.lines().filter_map(|line| line.splitn(3, ':').nth(2));
        let named: BTreeSet<String> = paths.map(crate::text::of_str).collect();
        if named.is_empty() {
            return unknown("cgroup");
        }
        good("cgroup", named.into_iter().collect::<Vec<_>>().join(" "))
    }

    /// The directories of this process's group and of those above it, for a controller of version
    /// 1, or for version 2.
    fn directories(&self, controller: Option<&str>) -> Vec<PathBuf> {
        let mut all = Vec::new();
        for line in self.own.lines() {
            let mut fields = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            if path.split('/').any(|part| part == "..") {
                // Outside of what is mounted here: a process of another cgroup namespace.
                continue;
            }
            let mounts = match controller {
                Some(wanted) if controllers.split(',').any(|name| name == wanted) => {
                    vec![self.root.join(controllers), self.root.join(wanted)]
                }
                None if controllers.is_empty() => {
                    vec![self.root.clone(), self.root.join("unified")]
                }
                _ => continue,
            };
            for mount in mounts {
                let group = mount.join(path.trim_start_matches('/'));
                // In a container the path may be that of the host: then the mount itself is the
                // group.
                all.extend(
                    group
                        .ancestors()
                        .take_while(|directory| directory.starts_with(&mount))
                        .map(PathBuf::from),
                );
            }
        }
        all
    }

    /// Looks into every group of either version; the least of what is set.
    fn least<T: PartialOrd + Copy>(
        &self,
        controller: &str,
        first: impl Fn(&Path) -> Option<Limit<T>>,
        second: impl Fn(&Path) -> Option<Limit<T>>,
    ) -> Limit<T> {
        let mut least = Limit::Unseen;
        let first = self
            .directories(Some(controller))
            .into_iter()
            .filter_map(|directory| first(&directory));
        let second = self.directories(None).into_iter().filter_map(|directory| second(&directory));
        for limit in first.chain(second) {
            least = match (least, limit) {
                (Limit::Set(a), Limit::Set(b)) => Limit::Set(if b < a { b } else { a }),
                (Limit::Set(a), _) | (_, Limit::Set(a)) => Limit::Set(a),
                (_, limit) => limit,
            };
        }
        least
    }

    /// CPUs, and the period in microseconds over which they are counted.
    pub(super) fn cpu(&self) -> Limit<(f64, f64)> {
        let number = |path: PathBuf| read_to_string(path).ok()?.trim().parse::<f64>().ok();
        self.least(
            "cpu",
            |directory| {
                let quota = number(directory.join("cpu.cfs_quota_us"))?;
                let period = number(directory.join("cpu.cfs_period_us"))?;
                Some(if quota > 0.0 && period > 0.0 {
                    Limit::Set((quota / period, period))
                } else {
                    Limit::None
                })
            },
            |directory| {
                let text = read_to_string(directory.join("cpu.max")).ok()?;
                let mut parts = text.split_ascii_whitespace().map(str::parse::<f64>);
                Some(match (parts.next(), parts.next()) {
                    (Some(Ok(quota)), Some(Ok(period))) if period > 0.0 => {
                        Limit::Set((quota / period, period))
                    }
                    _ => Limit::None,
                })
            },
        )
    }

    /// Bytes.
    pub(super) fn memory(&self) -> Limit<u64> {
        // Version 1 says how much there could be, and means that there is no limit.
        const NO_LIMIT: u64 = 1 << 60;
        let of = |path: PathBuf| {
            let text = read_to_string(path).ok()?;
            Some(match text.trim().parse() {
                Ok(bytes) if bytes < NO_LIMIT => Limit::Set(bytes),
                _ => Limit::None,
            })
        };
        self.least(
            "memory",
            |directory| of(directory.join("memory.limit_in_bytes")),
            |directory| of(directory.join("memory.max")),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_groups_of_both_versions_are_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path();
        let put = |path: &str, text: &str| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        let groups = |own: &str| Cgroups { own: own.into(), root: root.into() };
        assert_eq!(groups("0::/a/b\n").cpu(), Limit::Unseen);
        put("a/cpu.max", "50000 100000\n");
        put("a/b/cpu.max", "max 100000\n");
        put("a/b/memory.max", "max\n");
        assert_eq!(
            groups("0::/a/b\n").cpu(),
            Limit::Set((0.5, 100_000.0)),
            "the one above is tighter"
        );
        assert_eq!(groups("0::/a/b\n").memory(), Limit::None);
        assert_eq!(groups("0::/\n").cpu(), Limit::Unseen);
        put("a/b/memory.max", "1048576\n");
        assert_eq!(groups("0::/a/b\n").memory(), Limit::Set(1 << 20));
        put("cpu,cpuacct/x/cpu.cfs_quota_us", "-1\n");
        put("cpu,cpuacct/x/cpu.cfs_period_us", "100000\n");
        put("memory/x/y/memory.limit_in_bytes", "9223372036854771712\n");
        let own = "4:memory:/x/y\n2:cpu,cpuacct:/x\n0::/\n";
        assert_eq!((groups(own).cpu(), groups(own).memory()), (Limit::None, Limit::None));
        put("cpu,cpuacct/x/cpu.cfs_quota_us", "150000\n");
        put("memory/x/memory.limit_in_bytes", "4096\n");
        assert_eq!(
            (groups(own).cpu(), groups(own).memory()),
            (Limit::Set((1.5, 100_000.0)), Limit::Set(4096))
        );
        assert_eq!(groups("nonsense").memory(), Limit::Unseen);
        assert_eq!(groups("0::/../a/b\n").memory(), Limit::Unseen);
        assert_eq!(groups("0::/a\u{1b}[2J\n").named().found, "/a\\x1b[2J");
    }
}
