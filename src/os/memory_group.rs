//! The memory group (cgroup, of version 1 or 2) of this process: how much may still be charged to
//! it before the kernel looks for a process to kill.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

/// Where a group of one version keeps its numbers.
struct Files {
    limit: &'static str,
    usage: &'static str,
    /// Bytes of files that the kernel drops before it kills anybody, in `memory.stat`.
    files: &'static str,
}

const FIRST: Files = Files {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    files: "total_inactive_file",
};
const SECOND: Files =
    Files { limit: "memory.max", usage: "memory.current", files: "inactive_file" };

/// Version 1 says how much there could be, and means that there is no limit.
const NO_LIMIT: u64 = 1 << 60;

/// Bytes that are free to this process under the tightest limit of its own group and of those above
/// it; `None` if none has a limit, or none can be seen.
pub(crate) fn free() -> Option<u64> {
    let read = |path| read_to_string(path).unwrap_or_default();
    free_of(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"))
}

fn free_of(groups: &str, mounts: &str) -> Option<u64> {
    mounts.lines().filter_map(Mount::parse).filter_map(|mount| mount.free(groups)).min()
}

/// A mounted hierarchy that may have the memory controller.
struct Mount {
    /// The group that is seen at `at`.
    root: String,
    at: PathBuf,
    first: bool,
}

impl Mount {
    /// A line of `mountinfo`: number, parent, device, root, place, options, optional fields, `-`,
    /// kind, source, options of the file system.
    fn parse(line: &str) -> Option<Self> {
        let (mount, system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, at) = (unescape(mount.next()?), unescape(mount.next()?).into());
        let mut system = system.split(' ');
        let first = match system.next()? {
            "cgroup2" => false,
            "cgroup" if system.nth(1)?.split(',').any(|option| option == "memory") => true,
            _ => return None,
        };
        Some(Self { root, at, first })
    }

    /// What is free in this process's group of this hierarchy, and in those above it.
    fn free(&self, groups: &str) -> Option<u64> {
        let path = groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            let ours = match self.first {
                true => controllers.split(',').any(|name| name == "memory"),
                false => controllers.is_empty(),
            };
            ours.then_some(path)
        })?;
        // A group that is not below the one that is seen here: then there is only that.
        let below = Path::new(path).strip_prefix(&self.root).unwrap_or(Path::new(""));
        let files = if self.first { FIRST } else { SECOND };
        let groups = self.at.join(below);
        let groups = groups.ancestors().take_while(|group| group.starts_with(&self.at));
        groups.filter_map(|group| files.free(group)).min()
    }
}

impl Files {
    /// What is free in this group alone, if it has a limit.
    fn free(&self, group: &Path) -> Option<u64> {
        let number = |name| read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
        // "max" is no number.
        let limit = number(self.limit).filter(|limit| *limit < NO_LIMIT)?;
        let stat = read_to_string(group.join("memory.stat")).unwrap_or_default();
        let files = stat.lines().find_map(|line| {
            let (name, bytes) = line.split_once(' ')?;
            (name == self.files).then(|| bytes.trim().parse::<u64>().ok())?
        });
        let used = number(self.usage).unwrap_or(0).saturating_sub(files.unwrap_or(0));
        Some(limit.saturating_sub(used))
    }
}

/// A path of `mountinfo`, in which blanks and backslashes are three octal digits.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h3_groups_of_both_versions_are_found_and_the_tightest_counts() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = directory.path().join("a place");
        let put = |path: &str, text: &str| {
            let path = at.join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        let place = at.to_str().expect("plain").replace(' ', "\\040");
        let first =
            format!("35 31 0:32 / {place}/v1 rw,relatime shared:4 - cgroup cgroup rw,memory");
        let second = format!("41 31 0:38 / {place}/v2 rw - cgroup2 none rw,nsdelegate\n");
        let other = format!("36 31 0:33 / {place}/v1 rw - cgroup cgroup rw,devices\n");
        let free = |groups: &str, mounts: &str| free_of(groups, mounts);

        let groups = "4:memory:/a/b\n3:cpu:/\n0::/c/d\n";
        assert_eq!(free(groups, &second), None, "nothing to be read");
        put("v1/memory.limit_in_bytes", "9223372036854771712\n");
        put("v1/a/memory.limit_in_bytes", "9223372036854771712\n");
        put("v1/a/b/memory.limit_in_bytes", "1000000\n");
        put("v1/a/b/memory.usage_in_bytes", "400000\n");
        put("v1/a/b/memory.stat", "cache 5\ninactive_file 1\ntotal_inactive_file 100000\n");
        assert_eq!(free(groups, &first), Some(700_000));
        assert_eq!(free(groups, &other), None, "another controller");
        put("v1/a/memory.limit_in_bytes", "500000\n");
        put("v1/a/memory.usage_in_bytes", "450000\n");
        assert_eq!(free(groups, &first), Some(50_000), "the one above is tighter");

        put("v2/c/memory.max", "2000\n");
        put("v2/c/memory.current", "2500\n");
        put("v2/c/memory.stat", "inactive_file 700\n");
        put("v2/c/d/memory.max", "max\n");
        assert_eq!(free(groups, &second), Some(200));
        assert_eq!(free(groups, &format!("{first}\n{second}")), Some(200));

        // In a container the group that is mounted is its own, and may be called otherwise.
        let inside = format!("41 31 0:38 /c {place}/v2/c rw - cgroup2 none rw\n");
        assert_eq!(free("0::/c/d\n", &inside), Some(200));
        assert_eq!(free("0::/../elsewhere\n", &inside), Some(200));
    }
}
