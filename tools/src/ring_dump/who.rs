//! Which process a segment is of, by what the kernel says.
//!
//! A segment names a process by its number, which is the number in the pid namespace of the server
//! (`1` in many containers), and whatever its writer likes. So a number is a hint. The process of a
//! server has that number in its own namespace and holds the memfd of the status segment; the
//! process of a client has that number in the server's namespace and maps the memfd of its ring.
//! Where that cannot be seen, nothing is said of any process.

use crate::aside::{self, PATIENCE};
use crate::memfds;
use crate::process::{self, Numbers};

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A process that a segment names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Who {
    /// This one, by its number here.
    Here(u32),
    /// No process has this number any more.
    Gone,
    /// Processes have this number, and none of them has the segment: it is gone, or it never was.
    Other,
    /// It cannot be seen from here.
    Unknown,
}

/// What one segment names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Named {
    /// The segment.
    pub(crate) inode: u64,
    /// Who that is.
    pub(crate) who: Who,
    /// The process in which the segment was found, if it was in one.
    #[serde(default)]
    pub(crate) holder: Option<u32>,
}

/// A segment that names its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ring {
    pub(crate) request: Option<u64>,
    pub(crate) response: u64,
    pub(crate) named: u32,
    /// Since when, by the clock here.
    pub(crate) created_ns: u64,
}

/// Inodes; `None` if they cannot be seen.
type Inodes = Option<Arc<HashSet<u64>>>;

/// Clients that were found: a session has the same one as long as it lasts.
static CLIENTS: Mutex<Option<HashMap<Ring, u32>>> = Mutex::new(None);
/// Sessions that are remembered.
const REMEMBERED: usize = 1 << 16;

/// Processes that are waited for as long as may be, and how long the others are.
const WAITED_FOR: usize = 4;
const LESS_PATIENCE: Duration = Duration::from_millis(5);

/// Looks for processes, and remembers what it has seen of them. For one look.
#[derive(Debug, Default)]
pub(crate) struct Finder {
    numbers: Option<BTreeMap<u32, Numbers>>,
    held: HashMap<u32, Inodes>,
    mapped: HashMap<u32, Inodes>,
    /// Processes that kept this one waiting.
    pub(crate) silent: BTreeSet<u32>,
}

impl Finder {
    fn numbers(&mut self) -> &BTreeMap<u32, Numbers> {
        self.numbers.get_or_insert_with(|| {
            let all = process::all().into_iter();
            all.filter_map(|pid| Some((pid, process::numbers(pid)?))).collect()
        })
    }

    /// Whether a process has a descriptor of a segment.
    fn holds(&mut self, pid: u32, inode: u64) -> Option<bool> {
        let held = self
            .held
            .entry(pid)
            .or_insert_with(|| Some(Arc::new(memfds::held(pid).ok()?.into_iter().collect())));
        held.as_ref().map(|held| held.contains(&inode))
    }

    /// The segments that a process maps.
    pub(crate) fn mapped(&mut self, pid: u32) -> Inodes {
        if let Some(known) = self.mapped.get(&pid) {
            return known.clone();
        }
        let read = move || memfds::mapped(pid).ok();
        // There may be many that are made to wait for.
        let patience = if self.silent.len() < WAITED_FOR { PATIENCE } else { LESS_PATIENCE };
        let mappings = match aside::within(patience, read) {
            Some(mappings) => mappings,
            None => {
                self.silent.insert(pid);
                None
            }
        };
        let inodes =
            mappings.map(|all| Arc::new(all.into_iter().map(|mapping| mapping.inode).collect()));
        self.mapped.insert(pid, inodes.clone());
        inodes
    }

    /// The process of a server that calls itself `named` and has a status segment since `since_ns`;
    /// `hint` is where to look first.
    pub(crate) fn server(
        &mut self,
        inode: u64,
        named: u32,
        since_ns: u64,
        hint: Option<u32>,
    ) -> Who {
        if named == 0 {
            return Who::Unknown;
        }
        let is_named = |numbers: &Numbers| numbers.own() == named;
        if let Some(hint) = hint
            && process::numbers(hint).as_ref().is_some_and(is_named)
            && self.holds(hint, inode) != Some(false)
        {
            return Who::Here(hint);
        }
        // Mostly it is of this namespace.
        if process::numbers(named).as_ref().is_some_and(is_named)
            && self.holds(named, inode) == Some(true)
        {
            return Who::Here(named);
        }
        let candidates: Vec<u32> = self
            .numbers()
            .iter()
            .filter(|(_, numbers)| is_named(numbers))
            .map(|(pid, _)| *pid)
            .collect();
        let mut hidden = false;
        for pid in candidates {
            match self.holds(pid, inode) {
                Some(true) => return Who::Here(pid),
                Some(false) => {}
                None => hidden = true,
            }
        }
        if hidden { Who::Unknown } else { absent(named, since_ns) }
    }

    /// The process of a client; `server` and `hint` are the processes that serve it, and where it
    /// was looked for.
    pub(crate) fn client(&mut self, ring: Ring, server: Option<u32>, hint: Option<u32>) -> Who {
        let known = CLIENTS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pid) = known.as_ref().and_then(|known| known.get(&ring)) {
            return Who::Here(*pid);
        }
        drop(known);
        let who = self.find_client(ring, server, hint);
        if let Who::Here(pid) = who {
            let mut known = CLIENTS.lock().unwrap_or_else(PoisonError::into_inner);
            let known = known.get_or_insert_default();
            if known.len() >= REMEMBERED {
                known.clear();
            }
            known.insert(ring, pid);
        }
        who
    }

    fn find_client(&mut self, ring: Ring, server: Option<u32>, hint: Option<u32>) -> Who {
        let named = ring.named;
        let maps = |finder: &mut Self, pid| {
            finder.mapped(pid).map(|inodes| {
                inodes.contains(&ring.response)
                    || ring.request.is_some_and(|inode| inodes.contains(&inode))
            })
        };
        let server = server.and_then(|pid| Some((pid, process::numbers(pid)?)));
        if named == 0 {
            // The server cannot see it: it is of an outer namespace, or of a sibling. The server
            // maps the ring, too, and has its descriptors; a client has closed them.
            let server = server.map(|(pid, _)| pid);
            let all: Vec<u32> = self.numbers().keys().copied().collect();
            let found = hint.into_iter().chain(all).find(|pid| {
                Some(*pid) != server
                    && maps(self, *pid) == Some(true)
                    && self.holds(*pid, ring.response) != Some(true)
            });
            return found.map_or(Who::Unknown, Who::Here);
        }
        if let Some((_, numbers)) = &server
            && numbers.depth() == 1
        {
            // The server is of this namespace, and so is the number.
            let Some(_) = process::numbers(named) else { return Who::Gone };
            return match maps(self, named) {
                Some(true) => Who::Here(named),
                None if self.silent.contains(&named) => Who::Unknown,
                // It is another user's. The kernel told the server who it is.
                None => Who::Here(named),
                // It does not have the ring yet, or no longer; or the server lies.
                Some(false) => absent(named, ring.created_ns),
            };
        }
        let candidates: Vec<u32> = self
            .numbers()
            .iter()
            .filter(|(_, numbers)| match &server {
                Some((_, of_server)) => numbers.at(of_server.depth()) == Some(named),
                None => numbers.has(named),
            })
            .map(|(pid, _)| *pid)
            .collect();
        let mut hidden = false;
        for pid in hint.into_iter().filter(|pid| candidates.contains(pid)).chain(candidates.clone())
        {
            match maps(self, pid) {
                Some(true) => return Who::Here(pid),
                Some(false) => {}
                None => hidden = true,
            }
        }
        match (hidden, candidates.is_empty(), server) {
            (true, ..) => Who::Unknown,
            (_, true, Some(_)) => Who::Gone,
            (_, true, None) => absent(named, ring.created_ns),
            _ => Who::Other,
        }
    }
}

/// Nobody has the segment: whether there is a process of that number here that could.
fn absent(named: u32, since_ns: u64) -> Who {
    if process::is_gone(named, since_ns) { Who::Gone } else { Who::Other }
}
