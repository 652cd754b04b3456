//! Every server on the machine: one line each.

use crate::assemble::report_with;
use crate::capture::foreign_layout;
use crate::cli::List;
use crate::export;
use crate::finding::Severity;
use crate::process::{self, State};
use crate::report::{JSON_VERSION, Report};
use crate::source::{self, Target};
use crate::style::{BAD, DIM, END, HEAD, WARN};
use crate::who::{Finder, Who};
use crate::words::count;
use crate::{Failure, Unattachable, memfds, text};
use ringbell::inspect::{Segment, StatusSegment};
use ringbell::sync::{Ordering, PlainU64};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Servers of one process that are listed.
const SERVERS: usize = 64;
/// How long a socket of a directory may take to answer, and all of them together.
const ONE_SOCKET: Duration = Duration::from_millis(500);
const ALL_SOCKETS: Duration = Duration::from_secs(5);
/// Sockets that are asked at once.
const ASKED_AT_ONCE: usize = 16;
/// Processes that are named in a line.
const PROCESSES: usize = 8;

/// Some processes, for people.
fn processes(pids: &[u32]) -> String {
    let named: Vec<String> = pids.iter().take(PROCESSES).map(u32::to_string).collect();
    let word = if pids.len() == 1 { "process" } else { "processes" };
    let more = if pids.len() > PROCESSES { " and others" } else { "" };
    format!("{word} {}{more}", named.join(", "))
}

/// Between the two looks, see `show`.
const INTERVAL: Duration = Duration::from_millis(100);

/// A server.
#[derive(Debug, Serialize)]
struct Line {
    /// Its process, as it names itself.
    pid: u32,
    /// The number of its process here, if it can be seen.
    host_pid: Option<u32>,
    uid: u32,
    name: String,
    state: State,
    #[serde(serialize_with = "export::hex")]
    generation: u64,
    sessions: u64,
    requests: u64,
    listens_at: Vec<String>,
    /// Other processes that hold its memory, if it is not there itself.
    held_by: Vec<u32>,
    /// Things that are wrong, at a single look.
    problems: usize,
}

/// A process with segments of another version of the layout: nothing else is known of them.
#[derive(Debug, Serialize)]
struct OtherLayout {
    pid: u32,
    name: String,
    layout: u32,
}

/// What was found.
#[derive(Debug, Serialize)]
pub(crate) struct Listing {
    version: u32,
    /// When, in ms since 1970.
    unix_ms: u64,
    /// The same as a date: RFC 3339, UTC.
    date: String,
    servers: Vec<Line>,
    /// Status segments that were left out, since one process has so many.
    left_out: usize,
    /// Processes that may not be looked into from here.
    closed_processes: usize,
    /// Processes that keep others waiting that look at them.
    silent_processes: Vec<u32>,
    /// Processes with segments of another version of the layout.
    other_layouts: Vec<OtherLayout>,
    /// Sockets that did not answer as a server does, and why.
    sockets: Vec<(String, String)>,
}

/// A status segment, and who has it.
struct Seen {
    status: StatusSegment,
    held_by: Vec<u32>,
}

/// Looks for servers: in all processes, and at the sockets of a directory.
pub(crate) fn list(asked: &List) -> Result<Listing, Failure> {
    let unix_ms = export::now_unix_ms();
    let mut listing = Listing {
        version: JSON_VERSION,
        unix_ms,
        date: export::date(unix_ms),
        servers: Vec::new(),
        left_out: 0,
        closed_processes: 0,
        silent_processes: Vec::new(),
        other_layouts: Vec::new(),
        sockets: Vec::new(),
    };
    let paths = asked.directory.as_deref().map(sockets).transpose()?;
    let mut finder = Finder::default();
    let seen = listing.statuses(&mut finder);
    let mut processes = BTreeSet::new();
    let mut alone = Vec::new();
    for (inode, seen) in seen {
        let named = seen.status.server.pid;
        let since = seen.status.identity.created_ns;
        match finder.server(inode, named, since, seen.held_by.first().copied()) {
            Who::Here(pid) => drop(processes.insert(pid)),
            who => alone.push((who, seen)),
        }
    }
    let targets = processes.into_iter().map(Target::Process).collect();
    let mut known = BTreeSet::new();
    for (target, capture) in source::capture_all(targets, INTERVAL) {
        // A process that has ended meanwhile is nobody's loss.
        let (Target::Process(pid), Ok(capture)) = (target, capture) else { continue };
        let report = report_with(&capture, asked.late.late);
        listing.add(&report, Some(pid), &mut known);
    }
    listing.servers.extend(alone.into_iter().map(|(who, seen)| orphan(who, seen)));
    if let Some(paths) = paths {
        listing.ask(paths, asked.late.late, &mut known);
    }
    listing.silent_processes.extend(&finder.silent);
    listing.silent_processes.sort_unstable();
    listing.silent_processes.dedup();
    Ok(listing)
}

/// A server whose process is not there, or is not the one that its memory names.
fn orphan(who: Who, seen: Seen) -> Line {
    let Seen { status, held_by } = seen;
    Line {
        pid: status.server.pid,
        host_pid: None,
        uid: status.server.uid,
        name: text::of_str(&status.server.name),
        state: if who == Who::Gone { State::Dead } else { State::Unknown },
        generation: status.identity.generation,
        sessions: status.counters.sessions,
        requests: status.counters.requests,
        listens_at: Vec::new(),
        held_by,
        problems: usize::from(who != Who::Unknown),
    }
}

/// The sockets of a directory. Nothing in it is opened, and nothing asked of what it is.
fn sockets(directory: &Path) -> Result<Vec<PathBuf>, Unattachable> {
    let entries = std::fs::read_dir(directory)
        .map_err(|error| Unattachable(format!("{}: {error}", text::of_path(directory))))?;
    let mut paths: Vec<_> = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()))
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    Ok(paths)
}

impl Listing {
    /// The status segments of all processes, by what the kernel knows them by.
    fn statuses(&mut self, finder: &mut Finder) -> BTreeMap<u64, Seen> {
        let mut statuses: BTreeMap<u64, Seen> = BTreeMap::new();
        let mut others = BTreeSet::new();
        let mut without = Vec::new();
        for pid in process::all() {
            let handles = match memfds::descriptors(pid) {
                Ok(handles) => handles,
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    self.closed_processes += 1;
                    continue;
                }
                Err(_) => continue,
            };
            if handles.is_empty() {
                without.push(pid);
            }
            if let Some(layout) = source::foreign_layout(&handles) {
                let name = text::of_str(&process::look(pid, u64::MAX / 2).name);
                self.other_layouts.push(OtherLayout { pid, name, layout });
            }
            let mut of_it = 0;
            for handle in handles {
                let Some(Segment::Status(status)) = handle.decode() else {
                    others.insert(handle.inode);
                    continue;
                };
                if let Some(seen) = statuses.get_mut(&handle.inode) {
                    seen.held_by.push(pid);
                    continue;
                }
                of_it += 1;
                if of_it > SERVERS {
                    self.left_out += 1;
                    continue;
                }
                statuses.insert(handle.inode, Seen { status, held_by: vec![pid] });
            }
        }
        // What a server that is gone had shared with its clients they still map.
        for pid in without {
            let mapped = finder.mapped(pid);
            let is_new = |inode: &u64| !statuses.contains_key(inode) && !others.contains(inode);
            if !mapped.is_some_and(|inodes| inodes.iter().any(is_new)) {
                continue;
            }
            let Some(handles) = memfds::mappings(pid) else {
                finder.silent.insert(pid);
                continue;
            };
            for handle in handles.into_iter().take(SERVERS) {
                let Some(Segment::Status(status)) = handle.decode() else { continue };
                let seen = || Seen { status, held_by: Vec::new() };
                statuses.entry(handle.inode).or_insert_with(seen).held_by.push(pid);
            }
        }
        statuses
    }

    /// Asks at sockets that belong to no server that is known, many at a time.
    fn ask(&mut self, paths: Vec<PathBuf>, late: Duration, known: &mut BTreeSet<u64>) {
        let at: BTreeSet<String> =
            self.servers.iter().flat_map(|line| line.listens_at.iter().cloned()).collect();
        let paths: Vec<PathBuf> =
            paths.into_iter().filter(|path| !at.contains(&text::of_path(path))).collect();
        let until = Instant::now() + ALL_SOCKETS;
        let next = PlainU64::new(0);
        let next = &next;
        let paths = &paths;
        let ask = move || {
            let mut found = Vec::new();
            // Relaxed: each takes another one, and the end of the threads is waited for.
            let take = || usize::try_from(next.fetch_add(1, Ordering::Relaxed)).ok();
            while let Some(path) = take().and_then(|index| paths.get(index)) {
                let result = if Instant::now() < until {
                    source::capture_once(path, ONE_SOCKET)
                } else {
                    Err(Unattachable(format!(
                        "{}: not asked: other sockets of the directory did not answer in time",
                        text::of_path(path)
                    )))
                };
                found.push((text::of_path(path), result));
            }
            found
        };
        let mut found: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..ASKED_AT_ONCE.min(paths.len())).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
        });
        found.sort_by(|one, other| one.0.cmp(&other.0));
        for (path, capture) in found {
            match capture {
                Ok(capture) => self.add(&report_with(&capture, late), None, known),
                Err(why) => self.sockets.push((path, why.to_string())),
            }
        }
    }

    /// Adds the servers of a report; of a process only those that are its own.
    fn add(&mut self, report: &Report, process: Option<u32>, known: &mut BTreeSet<u64>) {
        for server in &report.servers {
            let own = process.is_none() || server.host_pid == process;
            // What a process says of itself tells one server from another, and nothing else.
            if !own || !known.insert(server.inode) {
                continue;
            }
            let of_it =
                |generation: Option<u64>| generation.is_none_or(|of| of == server.generation);
            let problems = report.findings.iter().filter(|finding| {
                finding.severity == Severity::Problem && of_it(finding.generation)
            });
            self.servers.push(Line {
                pid: server.peer.named,
                host_pid: server.host_pid,
                uid: server.peer.uid,
                name: server.peer.name.clone(),
                state: server.state,
                generation: server.generation,
                sessions: server.counters.sessions,
                requests: server.counters.requests,
                listens_at: server.listens_at.clone(),
                held_by: server.held_by.into_iter().collect(),
                problems: problems.count(),
            });
        }
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        if !self.servers.is_empty() {
            let _ = writeln!(
                out,
                "{HEAD}{:>8} {:>6} {:<20} {:<10} {:>8} {:>12}  SOCKET{END}",
                "PID", "UID", "NAME", "STATE", "SESSIONS", "REQUESTS"
            );
        }
        for line in &self.servers {
            let problems = match line.problems {
                0 => String::new(),
                count => format!("  {BAD}{count} wrong{END}"),
            };
            let at = match (&line.listens_at[..], &line.held_by[..]) {
                ([], []) => "-".to_owned(),
                ([], held_by) => format!("- (memory held by {})", processes(held_by)),
                (paths, _) => paths.join(" "),
            };
            let pid = match line.host_pid {
                None if line.state == State::Dead => line.pid.to_string(),
                None => format!("({})", line.pid),
                Some(pid) if pid == line.pid => pid.to_string(),
                Some(pid) => format!("{pid} ({})", line.pid),
            };
            let _ = writeln!(
                out,
                "{:>8} {:>6} {:<20} {:<10} {:>8} {:>12}  {at}{problems}",
                pid,
                line.uid,
                line.name,
                line.state.word(),
                line.sessions,
                line.requests
            );
        }
        for OtherLayout { pid, name, layout } in &self.other_layouts {
            let _ = writeln!(out, "{pid:>8}        {name:<20} {}", foreign_layout(*layout));
        }
        for (socket, why) in &self.sockets {
            let why = why.strip_prefix(&format!("{socket}: ")).unwrap_or(why);
            let _ = writeln!(out, "{DIM}{socket}: {why}{END}");
        }
        if self.servers.is_empty() && self.other_layouts.is_empty() {
            let _ = writeln!(out, "no servers");
        }
        if self.left_out != 0 {
            let left_out = count(self.left_out as u64, "status segment");
            let _ =
                writeln!(out, "{DIM}{left_out} left out: one process has more than {SERVERS}{END}");
        }
        if !self.silent_processes.is_empty() {
            let who = processes(&self.silent_processes);
            let _ =
                writeln!(out, "{WARN}{who}: not looked at, since the memory is kept locked{END}");
        }
        if self.closed_processes != 0 {
            let _ = writeln!(
                out,
                "{DIM}{} processes of other users were not looked into: that takes root{END}",
                self.closed_processes
            );
        }
        out
    }

    /// Whether nothing is wrong with any of them.
    pub(crate) fn is_healthy(&self) -> bool {
        self.servers.iter().all(|line| line.problems == 0)
    }
}
