//! Where segments are found: at a socket, in a process, in a saved file, in a core dump. Everything
//! is opened for reading alone and read with `pread`: nothing is mapped, nothing can be written,
//! and no page that its owner punches can raise a signal here. The target is not asked, but by the
//! handshake of an inspector.

use crate::capture::{self, Capture, Image, Origin, Take};
use crate::handle::Handle;
use crate::{Failure, Unattachable, core_dump, process, samples, threads};
use ringbell::ConnectError;
use ringbell::inspect::{self, Inspector, Segment};
use ringbell::layout::{self, SegmentKind};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, SystemTime};

/// How long a server may take to answer an inspector before it is looked at as a process.
const PATIENCE: Duration = Duration::from_secs(2);
/// What the names of our segments begin with.
const PREFIX: &str = "ringbell:";
/// Segments of one target that are looked at.
const MOST: usize = 100_000;

/// A target, as it was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// The socket of a server.
    Socket(PathBuf),
    /// A process: a server, or a client.
    Process(u32),
    /// A file that `save` wrote.
    Saved(PathBuf),
    /// A core dump.
    Core(PathBuf),
}

impl Target {
    /// What a word on the command line means.
    pub(crate) fn of(word: &str) -> Result<Self, Unattachable> {
        if let Ok(pid) = word.parse() {
            return Ok(Self::Process(pid));
        }
        let path = PathBuf::from(word);
        let metadata =
            std::fs::metadata(&path).map_err(|error| Unattachable(format!("{word}: {error}")))?;
        if metadata.file_type().is_socket() {
            return Ok(Self::Socket(path));
        }
        if !metadata.is_file() {
            return Err(Unattachable(format!(
                "{word} is neither a socket nor a file nor a process"
            )));
        }
        let mut magic = [0; 8];
        let file = File::open(&path).map_err(|error| Unattachable(format!("{word}: {error}")))?;
        match file.read_at(&mut magic, 0) {
            Ok(8) if magic == *crate::capture::MAGIC => Ok(Self::Saved(path)),
            Ok(8) if magic[..4] == *b"\x7fELF" => Ok(Self::Core(path)),
            _ => Err(Unattachable(format!("{word} is neither a saved file nor a core dump"))),
        }
    }

    /// Whether it can change.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self, Self::Socket(_) | Self::Process(_))
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Process(pid) => write!(f, "process {pid}"),
            Self::Socket(path) | Self::Saved(path) | Self::Core(path) => path.display().fmt(f),
        }
    }
}

/// What was found of a live target at one moment.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) handles: Vec<Handle>,
    /// Sessions without segments, if the server said so.
    pub(crate) over_sockets: Option<u64>,
    /// Where the server listens, as far as known.
    pub(crate) listens_at: Vec<PathBuf>,
    /// Whether they are of a core dump: as they were when it was written.
    pub(crate) dead: bool,
    /// How far the clock of these segments is ahead of ours, in ns, as far as the server said so.
    pub(crate) clock_ahead_ns: i64,
}

impl Found {
    /// A time in these segments, in our clock.
    pub(crate) fn our_time(&self, at_ns: u64) -> u64 {
        at_ns.saturating_add_signed(self.clock_ahead_ns.saturating_neg())
    }
}

/// Looks for the segments of a live target, or of a core dump.
pub(crate) fn find(target: &Target) -> Result<Found, Unattachable> {
    match target {
        Target::Process(pid) => find_in_process(*pid),
        Target::Socket(path) => find_at_socket(path),
        Target::Core(path) => {
            let (_, handles) = core_dump::read(path)?;
            Ok(Found { handles, dead: true, ..Found::default() })
        }
        Target::Saved(_) => Ok(Found::default()),
    }
}

fn find_in_process(pid: u32) -> Result<Found, Unattachable> {
    let mut handles = descriptors(pid).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Unattachable(format!("there is no process {pid}")),
        std::io::ErrorKind::PermissionDenied => Unattachable(format!(
            "process {pid} may not be looked into: that takes its own user, or root, or CAP_SYS_PTRACE"
        )),
        _ => Unattachable(format!("process {pid} cannot be looked into: {error}")),
    })?;
    if !handles.iter().any(is_in_use) {
        // A client maps its segments and closes their descriptors.
        handles.extend(mappings(pid));
    }
    if !handles.iter().any(is_in_use) {
        return Err(Unattachable(match foreign_layout(&handles) {
            Some(version) => {
                format!("process {pid}: {}", capture::foreign_layout(version))
            }
            None => format!("process {pid} has no segments of Ringbell"),
        }));
    }
    Ok(Found { handles, listens_at: process::listens_at(pid), ..Found::default() })
}

fn is_in_use(handle: &Handle) -> bool {
    handle.decode().is_some()
}

/// The version of the layout of segments that another one knows.
pub(crate) fn foreign_layout(handles: &[Handle]) -> Option<u32> {
    handles.iter().filter_map(Handle::layout).find(|version| *version != layout::LAYOUT_VERSION)
}

fn find_at_socket(path: &Path) -> Result<Found, Unattachable> {
    let unattachable =
        |error: &dyn std::fmt::Display| Unattachable(format!("{}: {error}", path.display()));
    let listens_at = vec![path.to_owned()];
    let inspector =
        Inspector::connect(path, Some(PATIENCE)).map_err(|error| unattachable(&error))?;
    let listener = inspector.listener();
    let as_process = || listener.and_then(|pid| find_in_process(pid).ok());
    if listener.is_some_and(|pid| process::look(pid, u64::MAX / 2).state.is_halted()) {
        // It will not answer. The kernel still knows who listens.
        if let Some(found) = as_process() {
            return Ok(Found { listens_at, ..found });
        }
    }
    let survey = match inspector.survey() {
        Ok(survey) => survey,
        Err(error @ (ConnectError::TimedOut | ConnectError::ServerDied)) => {
            let found = as_process().ok_or_else(|| unattachable(&error))?;
            return Ok(Found { listens_at, ..found });
        }
        Err(ConnectError::VersionMismatch { ours, theirs }) => {
            let which = if theirs.1 > ours.1 { "newer" } else { "older" };
            return Err(unattachable(&format!(
                "the server{} is {which}: it speaks protocol versions {} to {}, this program {} to {}",
                listener.map_or_else(String::new, |pid| format!(" (pid {pid})")),
                theirs.0,
                theirs.1,
                ours.0,
                ours.1
            )));
        }
        Err(error) => return Err(unattachable(&error)),
    };
    let mut handles = Vec::new();
    for (index, segment) in survey.segments.into_iter().enumerate() {
        let handle = Handle::memfd(File::from(segment), format!("handed out, {index}"));
        handles.push(handle.map_err(|error| unattachable(&error))?);
    }
    if let (false, Some(version)) = (handles.iter().any(is_in_use), foreign_layout(&handles)) {
        let pid = listener.map_or_else(String::new, |pid| format!("process {pid}: "));
        return Err(unattachable(&format!("{pid}{}", capture::foreign_layout(version))));
    }
    // Bells are not handed out: whoever holds one can ring it. Where the process may be looked into
    // they are read there, since a verdict on a sleeper is better with them.
    let bells = listener.map(|pid| descriptors(pid).unwrap_or_default()).unwrap_or_default();
    handles.extend(bells.into_iter().filter(|handle| {
        let Some(Segment::Bell(bell)) = handle.decode() else { return false };
        bell.identity.generation == survey.generation
    }));
    Ok(Found {
        handles,
        over_sockets: Some(survey.sockets),
        listens_at,
        dead: false,
        clock_ahead_ns: survey.clock_ahead_ns,
    })
}

/// Our segments among the descriptors of a process.
pub(crate) fn descriptors(pid: u32) -> std::io::Result<Vec<Handle>> {
    let mut seen = BTreeSet::new();
    let mut handles = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let Ok(entry) = entry else { continue };
        let Ok(link) = std::fs::read_link(entry.path()) else { continue };
        let Some(name) = link.to_str().and_then(|link| link.strip_prefix("/memfd:")) else {
            continue;
        };
        if !name.starts_with(PREFIX) || handles.len() >= MOST {
            continue;
        }
        let found = format!("fd {}", entry.file_name().to_string_lossy());
        // For reading alone, whatever the process may do with it.
        let Ok(file) = File::open(entry.path()) else { continue };
        let Ok(handle) = Handle::memfd(file, found) else { continue };
        if seen.insert(handle.inode) {
            handles.push(handle);
        }
    }
    Ok(handles)
}

/// Our segments among the mappings of a process.
fn mappings(pid: u32) -> Vec<Handle> {
    let Ok(maps) = std::fs::read_to_string(format!("/proc/{pid}/maps")) else { return Vec::new() };
    let memory = File::open(format!("/proc/{pid}/mem")).ok().map(Arc::new);
    let mut seen = BTreeSet::new();
    let mut handles = Vec::new();
    for mapping in maps.lines().filter_map(parse_mapping) {
        if !seen.insert(mapping.inode) || handles.len() >= MOST {
            continue;
        }
        let found = format!("mapped at {:x}", mapping.from);
        // As a file, if this process may: then seals can be seen. The memory of the process
        // otherwise.
        let range = format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.from, mapping.to);
        let opened = File::open(range).and_then(|file| Handle::memfd(file, found.clone()));
        match (opened, &memory) {
            (Ok(handle), _) => handles.push(handle),
            (Err(_), Some(memory)) => {
                let size = mapping.to - mapping.from;
                handles.push(Handle::range(
                    memory.clone(),
                    mapping.from,
                    size,
                    mapping.inode,
                    found,
                ));
            }
            (Err(_), None) => {}
        }
    }
    handles
}

/// One of our segments in a process.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    from: u64,
    to: u64,
    inode: u64,
}

/// A line of `/proc/PID/maps`, if it is the mapping of a whole segment.
fn parse_mapping(line: &str) -> Option<Mapping> {
    let mut fields = line.split_ascii_whitespace();
    let (from, to) = fields.next()?.split_once('-')?;
    let offset = fields.nth(1)?;
    let inode = fields.nth(1)?.parse().ok()?;
    let name = fields.next()?.strip_prefix("/memfd:")?;
    let (from, to) = (u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?);
    let whole = u64::from_str_radix(offset, 16) == Ok(0) && from < to;
    (whole && name.starts_with(PREFIX)).then_some(Mapping { from, to, inode })
}

/// Copies everything once. With `whole` the rings, too.
#[allow(clippy::cast_possible_truncation, reason = "milliseconds since 1970")]
pub(crate) fn take(found: &Found, whole: bool) -> Take {
    let at_ns = process::now_ns().saturating_add_signed(found.clock_ahead_ns);
    let unix_ms =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_millis());
    let mut images: Vec<Image> = found.handles.iter().map(Handle::image).collect();
    let has_ring: Vec<bool> = images.iter().map(|image| Handle::has_ring(&image.control)).collect();
    let each = || found.handles.iter().zip(&has_ring);
    // What a bell says is read behind the rings: a request that was rung for is then not taken for
    // one that was not.
    for (image, (handle, _)) in images.iter_mut().zip(each()) {
        if matches!(Handle::kind(&image.control), Some(SegmentKind::Status | SegmentKind::Bell)) {
            *image = handle.image();
        }
    }
    if whole {
        // A tail that was read says that the records before it are there: they are read behind it.
        fence(Ordering::Acquire);
        for (image, (handle, has_ring)) in images.iter_mut().zip(each()) {
            if *has_ring {
                image.body = handle.read(layout::CONTROL as u64, handle.size);
            }
        }
        // And what is not overwritten by these positions was not when it was copied. All of them
        // behind all of the first ones: a head of the first round then never lies beyond a tail of
        // the last.
        fence(Ordering::Acquire);
        for (image, (handle, has_ring)) in images.iter_mut().zip(each()) {
            if *has_ring {
                image.after = handle.read(0, layout::CONTROL as u64);
            }
        }
    }
    let at_ns = if found.dead { samples::latest(&images).unwrap_or(at_ns) } else { at_ns };
    // What is in /proc today says nothing of the processes that a dump names.
    let named: BTreeSet<(u32, u64)> = match found.dead {
        true => BTreeSet::new(),
        false => images.iter().filter_map(names).collect(),
    };
    let mut processes = Vec::new();
    for (pid, since) in named {
        if processes.last().is_none_or(|last: &process::Process| last.pid != pid) {
            // The look goes by our clock.
            processes.push(process::look(pid, found.our_time(since)));
        }
    }
    // What the threads of a server do tells why a call waits.
    let serving: BTreeSet<u32> = images.iter().filter_map(server).collect();
    for process in &mut processes {
        if serving.contains(&process.pid) && process.state == process::State::Alive {
            process.threads = threads::look(process.pid);
        }
    }
    Take { at_ns, unix_ms: unix_ms as u64, images, processes, sockets: found.over_sockets }
}

/// The process that serves, if this is a status segment.
fn server(image: &Image) -> Option<u32> {
    match inspect::decode(&image.control).ok()? {
        Segment::Status(segment) => Some(segment.server.pid),
        _ => None,
    }
}

/// The process that a segment names, and since when.
fn names(image: &Image) -> Option<(u32, u64)> {
    match inspect::decode(&image.control).ok()? {
        Segment::Response(segment) => Some((segment.client.pid, segment.identity.created_ns)),
        Segment::Status(segment) => Some((segment.server.pid, segment.identity.created_ns)),
        _ => None,
    }
}

/// Looks at several live targets at the same two moments.
pub(crate) fn capture_all(
    targets: Vec<Target>,
    interval: Duration,
) -> Vec<(Target, Result<Capture, Unattachable>)> {
    let firsts: Vec<_> = targets
        .into_iter()
        .map(|target| {
            let first = find(&target).map(|found| take(&found, false));
            (target, first)
        })
        .collect();
    std::thread::sleep(interval);
    firsts
        .into_iter()
        .map(|(target, first)| {
            let capture = first.and_then(|first| {
                let found = find(&target)?;
                let origin = match target {
                    Target::Socket(_) => Origin::Socket,
                    _ => Origin::Process,
                };
                let sockets = found.listens_at.iter().map(|path| path.display().to_string());
                let takes = vec![first, take(&found, true)];
                Ok(Capture::live(target.to_string(), origin, sockets.collect(), takes))
            });
            (target, capture)
        })
        .collect()
}

/// Looks at a target twice, `interval` apart, the second time at everything; at what cannot change,
/// as it is.
pub(crate) fn capture(target: &Target, interval: Duration) -> Result<Capture, Failure> {
    let origin = match target {
        Target::Saved(path) => return Ok(Capture::load(path)?),
        Target::Core(path) => return Ok(capture_dump(path)?),
        Target::Socket(_) => Origin::Socket,
        Target::Process(_) => Origin::Process,
    };
    let first = find(target)?;
    let listens_at = first.listens_at.iter().map(|path| path.display().to_string()).collect();
    let mut takes = vec![take(&first, false)];
    drop(first);
    std::thread::sleep(interval);
    // Found anew: a session that ended meanwhile must not look as if it were there.
    takes.push(take(&find(target)?, true));
    Ok(Capture::live(target.to_string(), origin, listens_at, takes))
}

/// What is in a core dump, at the one moment that it is of.
fn capture_dump(path: &Path) -> Result<Capture, Unattachable> {
    let (dump, handles) = core_dump::read(path)?;
    let mut take = take(&Found { handles, dead: true, ..Found::default() }, true);
    take.unix_ms = dump.written_ms;
    let capture = Capture {
        target: path.display().to_string(),
        origin: Origin::Core,
        sockets: Vec::new(),
        takes: vec![take],
        host: None,
        cut: dump.cut,
        dump: Some(dump),
        saved: false,
    };
    match capture.foreign_layout() {
        Some(version) => {
            Err(Unattachable(format!("{}: {}", path.display(), capture::foreign_layout(version))))
        }
        None => Ok(capture),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_of_whole_segments_are_found() {
        let line = "7f1200000000-7f1200011000 rw-s 00000000 00:01 4242   /memfd:ringbell:request (deleted)";
        let mapping = Mapping { from: 0x7f12_0000_0000, to: 0x7f12_0001_1000, inode: 4242 };
        assert_eq!(parse_mapping(line), Some(mapping));
        assert_eq!(parse_mapping(&line.replace("ringbell", "other")), None);
        assert_eq!(parse_mapping(&line.replace(" 00000000 ", " 00001000 ")), None);
        for cut in 0..line.len() {
            let _ = parse_mapping(&line[..cut]);
        }
    }
}
