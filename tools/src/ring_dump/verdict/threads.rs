//! What the threads of a server do, in words.

use super::time;
use crate::report::{Server, ThreadState};
use crate::threads::Doing;
use std::collections::BTreeMap;

/// Threads of a group that are named.
const NAMED: usize = 3;

/// The library's own thread, which lets clients in: it has just answered the inspector.
const PORTER: &str = "ringbell-porter";

/// CPU time between two looks that is worth a word.
const WORTH_NS: u64 = 1_000_000;

fn named(thread: &ThreadState) -> String {
    format!("{} {}", thread.tid, if thread.name.is_empty() { "(no name)" } else { &thread.name })
}

/// What the serving thread does: `thread 12 (name) waits for I/O: read`.
pub(super) fn serving(server: &Server) -> String {
    if server.threads.is_empty() {
        return "what its threads do cannot be seen from here".to_owned();
    }
    let Some(thread) = server.threads.iter().find(|thread| thread.serves) else {
        return "which of its threads serves cannot be told".to_owned();
    };
    let name = if thread.name.is_empty() { "no name" } else { &thread.name };
    let place = thread.place.as_ref().map_or_else(String::new, |place| format!(": {place}"));
    let cpu = match (thread.doing, thread.cpu_ns) {
        (Doing::Runs, None) => "; how much CPU time it takes cannot be seen".to_owned(),
        (Doing::Runs, Some(ns)) => {
            format!("; it had {} of CPU time between the looks", time(ns))
        }
        (_, Some(ns)) if ns >= WORTH_NS => {
            format!("; it had {} of CPU time between the looks", time(ns))
        }
        _ => String::new(),
    };
    format!("thread {} ({name}) {}{place}{cpu}", thread.tid, thread.doing.words(true))
}

/// What the other threads do: `of its 9 other threads 8 wait for a lock or a condition (...)`.
pub(super) fn others(server: &Server) -> String {
    if server.threads.is_empty() {
        return "what its threads do cannot be seen from here".to_owned();
    }
    let is_other = |thread: &&ThreadState| !thread.serves && thread.name != PORTER;
    let others: Vec<_> = server.threads.iter().filter(is_other).collect();
    let mut groups: BTreeMap<(Doing, Option<&str>), Vec<&ThreadState>> = BTreeMap::new();
    for thread in &others {
        groups.entry((thread.doing, thread.place.as_deref())).or_default().push(thread);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, threads)| std::cmp::Reverse(threads.len()));
    let told = groups.into_iter().map(|((doing, place), threads)| {
        let place = place.map_or_else(String::new, |place| format!(": {place}"));
        let names: Vec<_> = threads.iter().take(NAMED).map(|thread| named(thread)).collect();
        let more = match threads.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let one = threads.len() == 1;
        format!("{} {}{place} ({}{more})", threads.len(), doing.words(one), names.join(", "))
    });
    let told: Vec<_> = told.collect();
    match others.len() {
        0 => "it has no other threads".to_owned(),
        1 => format!("of its 1 other thread {}", told.join("; ")),
        count => format!("of its {count} other threads {}", told.join("; ")),
    }
}
