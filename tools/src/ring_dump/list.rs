//! Every server on the machine: one line each.

use crate::assemble::report_with;
use crate::capture::foreign_layout;
use crate::cli::List;
use crate::export;
use crate::finding::Severity;
use crate::handle::Handle;
use crate::process::{self, State};
use crate::report::{JSON_VERSION, Report};
use crate::source::{self, Target};
use crate::style::{BAD, DIM, END, HEAD};
use crate::{Failure, Unattachable};
use ringbell::inspect::Segment;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

/// Between the two looks, see `show`.
const INTERVAL: Duration = Duration::from_millis(100);

/// A server.
#[derive(Debug, Serialize)]
struct Line {
    pid: u32,
    uid: u32,
    name: String,
    state: State,
    #[serde(serialize_with = "export::hex")]
    generation: u64,
    sessions: u64,
    requests: u64,
    listens_at: Vec<String>,
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
    /// Processes that may not be looked into from here.
    closed_processes: usize,
    /// Processes with segments of another version of the layout.
    other_layouts: Vec<OtherLayout>,
    /// Sockets that did not answer as a server does, and why.
    sockets: Vec<(String, String)>,
}

/// Looks for servers: in all processes, and at the sockets of a directory.
pub(crate) fn list(asked: &List) -> Result<Listing, Failure> {
    let unix_ms = export::now_unix_ms();
    let mut listing = Listing {
        version: JSON_VERSION,
        unix_ms,
        date: export::date(unix_ms),
        servers: Vec::new(),
        closed_processes: 0,
        other_layouts: Vec::new(),
        sockets: Vec::new(),
    };
    let mut targets = Vec::new();
    for pid in process::all() {
        match source::descriptors(pid) {
            // Whoever holds a status segment is its server; in a forked child it may be another
            // one's.
            Ok(handles) => {
                let mut decoded = handles.iter().filter_map(Handle::decode);
                let own = decoded.any(|segment| {
                    let Segment::Status(status) = segment else { return false };
                    status.server.pid == pid || status.server.pid == 0
                });
                if let Some(layout) = source::foreign_layout(&handles) {
                    let name = process::look(pid, u64::MAX / 2).name;
                    listing.other_layouts.push(OtherLayout { pid, name, layout });
                }
                if own {
                    targets.push(Target::Process(pid));
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                listing.closed_processes += 1
            }
            Err(_) => {}
        }
    }
    if let Some(directory) = &asked.directory {
        targets.extend(sockets(directory)?.into_iter().map(Target::Socket));
    }
    let mut known = BTreeSet::new();
    for (target, capture) in source::capture_all(targets, INTERVAL) {
        match capture {
            Ok(capture) => listing.add(&report_with(&capture, asked.late.late), &mut known),
            // A process that has ended meanwhile is nobody's loss.
            Err(why) if matches!(target, Target::Socket(_)) => {
                listing.sockets.push((target.to_string(), why.to_string()));
            }
            Err(_) => {}
        }
    }
    Ok(listing)
}

/// A name of a process may be any bytes.
fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

fn sockets(directory: &Path) -> Result<Vec<std::path::PathBuf>, Unattachable> {
    let entries = std::fs::read_dir(directory)
        .map_err(|error| Unattachable(format!("{}: {error}", directory.display())))?;
    let mut paths: Vec<_> = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()))
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    Ok(paths)
}

impl Listing {
    /// Adds the servers of a report.
    fn add(&mut self, report: &Report, known: &mut BTreeSet<u64>) {
        for server in report.servers.iter().filter(|server| known.insert(server.generation)) {
            let of_it = |generation: Option<u64>| generation == Some(server.generation);
            let problems = report.findings.iter().filter(|finding| {
                finding.severity == Severity::Problem && of_it(finding.generation)
            });
            self.servers.push(Line {
                pid: server.peer.pid,
                uid: server.peer.uid,
                name: server.peer.name.clone(),
                state: server.state,
                generation: server.generation,
                sessions: server.counters.sessions,
                requests: server.counters.requests,
                listens_at: report.listens_at.clone(),
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
            let at =
                if line.listens_at.is_empty() { "-".to_owned() } else { line.listens_at.join(" ") };
            let _ = writeln!(
                out,
                "{:>8} {:>6} {:<20} {:<10} {:>8} {:>12}  {at}{problems}",
                line.pid,
                line.uid,
                line.name,
                line.state.word(),
                line.sessions,
                line.requests
            );
        }
        for OtherLayout { pid, name, layout } in &self.other_layouts {
            let name = printable(name);
            let _ = writeln!(out, "{pid:>8}        {name:<20} {}", foreign_layout(*layout));
        }
        for (socket, why) in &self.sockets {
            let why = why.strip_prefix(&format!("{socket}: ")).unwrap_or(why);
            let _ = writeln!(out, "{DIM}{socket}: {why}{END}");
        }
        if self.servers.is_empty() && self.other_layouts.is_empty() {
            let _ = writeln!(out, "no servers");
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
