//! Where segments are found: at a socket, in a process, in a saved file, in a core dump. Everything
//! is opened for reading alone and read with `pread`: nothing is mapped, nothing can be written,
//! and no page that its owner punches can raise a signal here. The target is not asked, but by the
//! handshake of an inspector.

use crate::capture::{self, Capture, Origin, Take};
use crate::handle::Handle;
use crate::image::Image;
use crate::sockets::{Listeners, Listening, Spot};
use crate::who::{Finder, Named, Ring, Who};
use crate::{Failure, Unattachable, core_dump, memfds, process, samples, text, threads};
use ringbell::ConnectError;
use ringbell::inspect::{self, Inspector, Segment};
use ringbell::layout::{self, SegmentKind};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, SystemTime};

/// How long a server may take to answer an inspector before it is looked at as a process.
const PATIENCE: Duration = Duration::from_secs(2);
/// The same for one of several servers of a process, and how many of these are asked.
const SHORT: Duration = Duration::from_millis(300);
const SEVERAL: usize = 16;
/// Bytes behind the control pages that are copied in one look.
const MOST_BYTES: u64 = 1 << 30;

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
        let shown = text::of_str(word);
        let metadata =
            std::fs::metadata(&path).map_err(|error| Unattachable(format!("{shown}: {error}")))?;
        if metadata.file_type().is_socket() {
            return Ok(Self::Socket(path));
        }
        if !metadata.is_file() {
            return Err(Unattachable(format!(
                "{shown} is neither a socket nor a file nor a process"
            )));
        }
        let mut magic = [0; 8];
        let file = open(&path).map_err(|error| Unattachable(format!("{shown}: {error}")))?;
        match file.read_at(&mut magic, 0) {
            Ok(8) if magic == *crate::capture::MAGIC => Ok(Self::Saved(path)),
            Ok(8) if magic[..4] == *b"\x7fELF" => Ok(Self::Core(path)),
            _ => Err(Unattachable(format!("{shown} is neither a saved file nor a core dump"))),
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
            Self::Socket(path) | Self::Saved(path) | Self::Core(path) => {
                f.write_str(&text::of_path(path))
            }
        }
    }
}

/// Opens a file that may be another thing by now, without waiting for whoever is behind it.
fn open(path: &Path) -> std::io::Result<File> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
}

/// What was found of a live target at one moment.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) handles: Vec<Handle>,
    /// Sessions without segments, if the server said so.
    pub(crate) over_sockets: Option<u64>,
    /// The socket at which it was found.
    socket: Option<PathBuf>,
    /// The process in which it was found, or that listens at the socket.
    pub(crate) process: Option<u32>,
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

    /// Where the server listens, as far as known.
    pub(crate) fn listening(&self) -> Vec<Listening> {
        if let Some(path) = &self.socket {
            return vec![Listening::there(path)];
        }
        let Some(pid) = self.process else { return Vec::new() };
        let mut all = Listeners::default().at(pid);
        let statuses = self.handles.iter().filter(|handle| is_status(handle)).count();
        let me = std::process::id();
        // Which of several servers listens where only they can say.
        if statuses > 1 && process::namespace(pid, "mnt") == process::namespace(me, "mnt") {
            for one in all.iter_mut().filter(|one| one.spot == Spot::There).take(SEVERAL) {
                let survey = Inspector::connect(&one.raw, Some(SHORT)).and_then(Inspector::survey);
                one.generation = survey.ok().map(|survey| survey.generation);
            }
        }
        all
    }
}

fn is_status(handle: &Handle) -> bool {
    matches!(handle.decode(), Some(Segment::Status(_)))
}

/// Looks for the segments of a live target, or of a core dump.
pub(crate) fn find(target: &Target) -> Result<Found, Unattachable> {
    match target {
        Target::Process(pid) => find_in_process(*pid),
        Target::Socket(path) => find_at_socket(path, PATIENCE),
        Target::Core(path) => {
            let (_, handles) = core_dump::read(path)?;
            Ok(Found { handles, dead: true, ..Found::default() })
        }
        Target::Saved(_) => Ok(Found::default()),
    }
}

fn find_in_process(pid: u32) -> Result<Found, Unattachable> {
    let silent = || {
        Unattachable(format!(
            "process {pid} does not let itself be looked at: it keeps its memory locked"
        ))
    };
    let mut handles = memfds::descriptors(pid).map_err(|error| refused(pid, &error))?;
    if !handles.iter().any(is_in_use) {
        // A client maps its segments and closes their descriptors.
        handles.extend(memfds::mappings(pid).ok_or_else(silent)?);
    }
    if !handles.iter().any(is_in_use) {
        if handles.iter().any(Handle::is_stuck) {
            return Err(silent());
        }
        return Err(Unattachable(nothing_in(pid, &handles)));
    }
    Ok(Found { handles, process: Some(pid), ..Found::default() })
}

/// Why a process may not be looked into.
fn refused(pid: u32, error: &std::io::Error) -> Unattachable {
    let owner = process::numbers(pid).and_then(|numbers| numbers.uid);
    let me = rustix::process::geteuid().as_raw();
    Unattachable(match (error.kind(), owner) {
        (std::io::ErrorKind::NotFound, _) => format!("there is no process {pid}"),
        (std::io::ErrorKind::PermissionDenied, Some(uid)) if uid == me => format!(
            "process {pid} may not be looked into: it is of this user, but not dumpable or of another \
             user namespace; that takes root or CAP_SYS_PTRACE"
        ),
        (std::io::ErrorKind::PermissionDenied, owner) => format!(
            "process {pid} may not be looked into: it belongs to {}; that takes its user, root, or \
             CAP_SYS_PTRACE",
            owner.map_or("a user that cannot be seen".to_owned(), |uid| format!("uid {uid}"))
        ),
        _ => format!("process {pid} cannot be looked into: {error}"),
    })
}

/// Why there is nothing to look at in a process.
fn nothing_in(pid: u32, handles: &[Handle]) -> String {
    match foreign_layout(handles) {
        Some(version) => format!("process {pid}: {}", capture::foreign_layout(version)),
        None if process::look(pid, u64::MAX / 2).state == process::State::Dead => {
            format!("process {pid} has ended")
        }
        None => format!("process {pid} has no segments of Ringbell"),
    }
}

fn is_in_use(handle: &Handle) -> bool {
    handle.decode().is_some()
}

/// The version of the layout of segments that another one knows.
pub(crate) fn foreign_layout(handles: &[Handle]) -> Option<u32> {
    handles.iter().filter_map(Handle::layout).find(|version| *version != layout::LAYOUT_VERSION)
}

/// What is at a socket; `patience` for what a server needs to answer.
pub(crate) fn find_at_socket(path: &Path, patience: Duration) -> Result<Found, Unattachable> {
    let shown = text::of_path(path);
    let unattachable = |why: &dyn std::fmt::Display| {
        // Some errors name the path.
        let why = text::of_str(&why.to_string());
        let why = why.strip_prefix(&format!("{shown}: ")).unwrap_or(&why);
        Unattachable(format!("{shown}: {why}"))
    };
    let socket = Some(path.to_owned());
    let inspector =
        Inspector::connect(path, Some(patience)).map_err(|error| unattachable(&error))?;
    let listener = inspector.listener();
    // The kernel names who began to listen. That may be long ago, and the number another process's.
    let as_process = || {
        let pid = listener?;
        if let Err(error) = memfds::held(pid) {
            return Some(Err(refused(pid, &error)));
        }
        let mut own = Listeners::default().at(pid).into_iter();
        own.any(|one| one.is_at(path)).then(|| find_in_process(pid))
    };
    let halted = listener.filter(|pid| process::look(*pid, u64::MAX / 2).state.is_halted());
    if halted.is_some() {
        // It will not answer. The kernel still knows who listens.
        if let Some(Ok(found)) = as_process() {
            return Ok(Found { socket, ..found });
        }
    }
    let survey = match inspector.survey() {
        Ok(survey) => survey,
        Err(error @ (ConnectError::TimedOut | ConnectError::ServerDied)) => {
            let why = match as_process() {
                Some(Ok(found)) => return Ok(Found { socket, ..found }),
                Some(Err(why)) => why.to_string(),
                None => "the process that listens cannot be seen from here".to_owned(),
            };
            return Err(match halted {
                Some(pid) => {
                    unattachable(&format!("its server (process {pid}) is stopped; and {why}"))
                }
                None => unattachable(&format!("{error}; and {why}")),
            });
        }
        Err(error @ ConnectError::Rejected(_)) => {
            let whose = std::fs::metadata(path).map(|metadata| metadata.uid());
            let whose = whose.map_or(String::new(), |uid| format!(" (uid {uid})"));
            return Err(unattachable(&format!(
                "{error}; looking takes the user of the server{whose}, or root"
            )));
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
    let bells = listener.map(|pid| memfds::descriptors(pid).unwrap_or_default());
    handles.extend(bells.unwrap_or_default().into_iter().filter(|handle| {
        let Some(Segment::Bell(bell)) = handle.decode() else { return false };
        bell.identity.generation == survey.generation
    }));
    Ok(Found {
        handles,
        over_sockets: Some(survey.sockets),
        socket,
        process: listener,
        dead: false,
        clock_ahead_ns: survey.clock_ahead_ns,
    })
}

/// Copies everything once. With `whole` the rings, too.
#[allow(clippy::cast_possible_truncation, reason = "milliseconds since 1970")]
pub(crate) fn take(found: &Found, whole: bool) -> Take {
    let at_ns = process::now_ns().saturating_add_signed(found.clock_ahead_ns);
    let unix_ms =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_millis());
    let mut left = MOST_BYTES;
    let mut images: Vec<Image> =
        found.handles.iter().map(|handle| handle.image(&mut left)).collect();
    let has_ring: Vec<bool> = images.iter().map(|image| Handle::has_ring(&image.control)).collect();
    let each = || found.handles.iter().zip(&has_ring);
    // What a bell says is read behind the rings: a request that was rung for is then not taken for
    // one that was not.
    for (image, (handle, _)) in images.iter_mut().zip(each()) {
        if matches!(Handle::kind(&image.control), Some(SegmentKind::Status | SegmentKind::Bell)) {
            let mut room = (image.control.len() as u64).saturating_sub(layout::CONTROL as u64);
            *image = handle.image(&mut room);
        }
    }
    if whole {
        // A tail that was read says that the records before it are there: they are read behind it.
        fence(Ordering::Acquire);
        for (image, (handle, has_ring)) in images.iter_mut().zip(each()) {
            if *has_ring {
                // Of forged segments there may be as many bytes as their maker likes.
                let length = handle.size.min(left);
                image.body = handle.read(layout::CONTROL as u64, length);
                left -= image.body.len() as u64;
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
    let named = if found.dead { Vec::new() } else { name(&images, found) };
    let mut processes = BTreeMap::new();
    // What is in /proc today says nothing of the processes that a dump names.
    for image in images.iter().filter(|_| !found.dead) {
        let Some((pid, since)) = names(image) else { continue };
        let who = named.iter().find(|named| named.inode == image.inode).map(|named| named.who);
        let pid = match who {
            None | Some(Who::Gone) => pid,
            Some(Who::Here(pid)) => pid,
            Some(Who::Other | Who::Unknown) => continue,
        };
        // The look goes by our clock.
        processes.entry(pid).or_insert_with(|| process::look(pid, found.our_time(since)));
    }
    // What the threads of a server do tells why a call waits.
    for image in &images {
        let Some(pid) = server(image) else { continue };
        let who = named.iter().find(|named| named.inode == image.inode).map(|named| named.who);
        let pid = match who {
            None => pid,
            Some(Who::Here(pid)) => pid,
            Some(_) => continue,
        };
        let process = processes.get_mut(&pid);
        if let Some(process) = process.filter(|one| one.state == process::State::Alive) {
            process.threads = threads::look(pid);
        }
    }
    let processes = processes.into_values().collect();
    let unix_ms = unix_ms as u64;
    Take { at_ns, unix_ms, images, processes, named, sockets: found.over_sockets }
}

/// Who the processes are that segments name.
fn name(images: &[Image], found: &Found) -> Vec<Named> {
    let hint = found.process;
    let mut finder = Finder::default();
    let mut named = Vec::new();
    let decoded: Vec<_> = images
        .iter()
        .filter_map(|image| Some((image.inode, inspect::decode(&image.control).ok()?)))
        .collect();
    let mut servers = HashMap::new();
    let mut requests = HashMap::new();
    for (inode, segment) in &decoded {
        match segment {
            Segment::Status(status) => {
                let who = {
                    let since = found.our_time(status.identity.created_ns);
                    finder.server(*inode, status.server.pid, since, hint)
                };
                named.push(Named { inode: *inode, who, holder: hint });
                servers.entry(status.identity.generation).or_insert(who);
            }
            Segment::Request(request) => {
                let identity = &request.identity;
                requests.insert((identity.generation, identity.session), *inode);
            }
            _ => {}
        }
    }
    for (inode, segment) in &decoded {
        let Segment::Response(response) = segment else { continue };
        let identity = &response.identity;
        let server = match servers.get(&identity.generation) {
            Some(Who::Here(pid)) => Some(*pid),
            _ => None,
        };
        let ring = Ring {
            request: requests.get(&(identity.generation, identity.session)).copied(),
            response: *inode,
            named: response.client.pid,
            created_ns: found.our_time(identity.created_ns),
        };
        let who = finder.client(ring, server, hint);
        named.push(Named { inode: *inode, who, holder: hint });
    }
    named
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

/// Looks at several live targets at the same two moments. The second looks, which are whole, are
/// taken one by one: each can be forgotten before the next.
pub(crate) fn capture_all(
    targets: Vec<Target>,
    interval: Duration,
) -> impl Iterator<Item = (Target, Result<Capture, Unattachable>)> {
    let firsts: Vec<_> = targets
        .into_iter()
        .map(|target| {
            let first = find(&target).map(|found| take(&found, false));
            (target, first)
        })
        .collect();
    std::thread::sleep(interval);
    firsts.into_iter().map(|(target, first)| {
        let capture = first.and_then(|first| {
            let found = find(&target)?;
            let origin = match target {
                Target::Socket(_) => Origin::Socket,
                _ => Origin::Process,
            };
            let takes = vec![first, take(&found, true)];
            Ok(Capture::live(target.to_string(), origin, found.listening(), takes))
        });
        (target, capture)
    })
}

/// Looks once at a socket of which nothing is known.
pub(crate) fn capture_once(path: &Path, patience: Duration) -> Result<Capture, Unattachable> {
    let found = find_at_socket(path, patience)?;
    let takes = vec![take(&found, true)];
    Ok(Capture::live(text::of_path(path), Origin::Socket, found.listening(), takes))
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
    let listening = first.listening();
    let mut takes = vec![take(&first, false)];
    drop(first);
    std::thread::sleep(interval);
    // Found anew: a session that ended meanwhile must not look as if it were there.
    takes.push(take(&find(target)?, true));
    Ok(Capture::live(target.to_string(), origin, listening, takes))
}

/// What is in a core dump, at the one moment that it is of.
fn capture_dump(path: &Path) -> Result<Capture, Unattachable> {
    let (dump, handles) = core_dump::read(path)?;
    let mut take = take(&Found { handles, dead: true, ..Found::default() }, true);
    take.unix_ms = dump.written_ms;
    let capture = Capture {
        target: text::of_path(path),
        origin: Origin::Core,
        sockets: Vec::new(),
        listening: Vec::new(),
        takes: vec![take],
        host: None,
        cut: dump.cut,
        dump: Some(dump),
        saved: false,
    };
    match capture.foreign_layout() {
        Some(version) => Err(Unattachable(format!(
            "{}: {}",
            text::of_path(path),
            capture::foreign_layout(version)
        ))),
        None => Ok(capture),
    }
}
