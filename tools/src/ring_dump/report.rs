//! What a capture says: servers, sessions, rings, with what moved between its moments. The shape of
//! `--json`.

use crate::capture::Host;
use crate::export;
use crate::finding::Finding;
use crate::image::Image;
use crate::process::State;
use crate::samples::Samples;
use crate::text;
use crate::threads::Doing;
use ringbell::inspect::{Peer, Place, Sleep};
use ringbell::layout;
use ringbell::stats::{ServerCounters, SessionCounters};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Version of the JSON that is printed. Fields may be added within a version, not changed.
pub(crate) const JSON_VERSION: u32 = 2;

/// Everything about a target.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    /// [`JSON_VERSION`].
    pub(crate) version: u32,
    /// What was looked at.
    pub(crate) target: String,
    /// When, in ms since 1970.
    pub(crate) unix_ms: u64,
    /// The same as a date: RFC 3339, UTC.
    pub(crate) date: String,
    /// The same by CLOCK_MONOTONIC, ns: the clock of all other times.
    pub(crate) at_ns: u64,
    /// Between the two looks, in ns; 0 if there was one.
    pub(crate) between_ns: u64,
    /// A call that waits longer is late, in ns.
    pub(crate) late_ns: u64,
    /// Where the server listens, as far as known.
    pub(crate) listens_at: Vec<String>,
    /// Sessions that the socket carries, if known: nothing of them is in shared memory.
    pub(crate) over_sockets: Option<u64>,
    /// Servers, usually one.
    pub(crate) servers: Vec<Server>,
    /// Sessions over shared memory.
    pub(crate) sessions: Vec<Session>,
    /// Segments that belong to nothing, or are damaged.
    pub(crate) strays: Vec<Stray>,
    /// The machine that it is of; unknown of a core dump, and of a file that does not say so.
    pub(crate) host: Option<Host>,
    /// Whether it was read from a saved file.
    #[serde(skip)]
    pub(crate) saved: bool,
    /// What a core dump says of the process.
    pub(crate) core: Option<Core>,
    /// What is wrong. Empty if all is well.
    pub(crate) findings: Vec<Finding>,
}

impl Report {
    /// Leaves out all sessions but those with this number, and the findings of the others.
    pub(crate) fn keep_session(&mut self, session: u64) -> Result<(), String> {
        if !self.sessions.iter().any(|one| one.session == session) {
            let numbers = self.sessions.iter().map(|one| one.session);
            return Err(match (numbers.clone().min(), numbers.max()) {
                (Some(first), Some(last)) if first != last => format!(
                    "there is no session {session} over shared memory; there are {} from {first} to {last}",
                    self.sessions.len()
                ),
                (Some(only), _) => {
                    format!(
                        "there is no session {session} over shared memory; there is session {only}"
                    )
                }
                _ => format!("there is no session {session}: there are none over shared memory"),
            });
        }
        self.sessions.retain(|one| one.session == session);
        let generations: BTreeSet<u64> = self.sessions.iter().map(|one| one.generation).collect();
        self.servers.retain(|server| generations.contains(&server.generation));
        self.findings.retain(|finding| {
            finding.session.is_none_or(|of| of == session)
                && finding.generation.is_none_or(|of| generations.contains(&of))
        });
        Ok(())
    }
}

/// What a core dump says of its process.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Core {
    /// The process, by its number in its own pid namespace; 0 if the dump does not say so.
    pub(crate) pid: u32,
    /// Its name.
    pub(crate) name: String,
    /// Its user.
    pub(crate) uid: u32,
    /// The signal that ended it; null if none did: debuggers dump processes that go on.
    pub(crate) signal: Option<String>,
    /// `si_code` of the signal.
    pub(crate) signal_code: i32,
    /// The address of a fault, in hexadecimal.
    pub(crate) address: Option<String>,
    /// The process that sent the signal.
    pub(crate) sender: Option<u32>,
    /// The thread that was ended, or was the first to be dumped.
    pub(crate) thread: Option<u32>,
    /// Its threads by number, at most 1024 of them.
    pub(crate) threads: Vec<u32>,
    /// How many threads it had.
    pub(crate) thread_count: u64,
    /// The thread that served, if the process was a server and has said so.
    pub(crate) serving_thread: Option<u64>,
    /// Requests that were, or may have been, in handlers, at most 32.
    pub(crate) requests: Vec<InHandler>,
    /// Segments that were mapped and whose bytes are not in the dump.
    pub(crate) segments_left_out: u64,
}

/// How certain it is that a request was in a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Certainty {
    /// The server says so: the call was timed, or is among those in flight.
    Told,
    /// It is the only one that can be.
    Only,
    /// It is one of several that can be.
    OneOf,
}

/// A request that was in a handler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct InHandler {
    #[serde(serialize_with = "export::hex")]
    pub(crate) generation: u64,
    #[serde(serialize_with = "export::decimal")]
    pub(crate) session: u64,
    /// The client, by the number that the server knows.
    pub(crate) client: u32,
    #[serde(serialize_with = "export::decimal")]
    pub(crate) call: u64,
    pub(crate) certainty: Certainty,
    /// Bytes of its payload, if the request is still in the ring.
    pub(crate) length: Option<u64>,
    /// The first of them, at most 48, in hexadecimal.
    #[serde(rename = "payload", serialize_with = "hexadecimal")]
    pub(crate) bytes: Vec<u8>,
}

fn hexadecimal<S: serde::Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
    to.serialize_str(&digits.collect::<String>())
}

/// Where bytes are.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Memory {
    /// Where the segment was found.
    pub(crate) found: String,
    /// Its size in bytes.
    pub(crate) size: u64,
    /// Bytes of a page of it.
    pub(crate) page: u64,
    /// Its seals by name, if they can be known.
    pub(crate) seals: Option<Vec<&'static str>>,
}

/// A process that serves or calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Party {
    /// Its number as the server sees it: in its own pid namespace.
    #[serde(rename = "pid")]
    pub(crate) named: u32,
    /// Its number here; 0 if it cannot be seen.
    #[serde(skip)]
    pub(crate) pid: u32,
    /// Its user, as the server sees it.
    pub(crate) uid: u32,
    /// What it calls itself.
    pub(crate) name: String,
}

impl Party {
    pub(crate) fn new(peer: &Peer, named: u32) -> Self {
        Self { named, pid: peer.pid, uid: peer.uid, name: text::of_str(&peer.name) }
    }

    /// Its number for people.
    pub(crate) fn shown(&self) -> String {
        match (self.pid, self.named) {
            (0, 0) => "unknown".to_owned(),
            (0, named) => format!("unknown ({named} in its container)"),
            (pid, named) if pid == named || named == 0 => pid.to_string(),
            (pid, named) => format!("{pid} ({named} in its container)"),
        }
    }
}

/// A server.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Server {
    /// Differs between any two starts of a server.
    #[serde(serialize_with = "export::hex")]
    pub(crate) generation: u64,
    /// Version of the layout.
    pub(crate) layout: u32,
    /// Its process, as it names itself.
    pub(crate) peer: Party,
    /// The number of its process here, if it can be seen.
    pub(crate) host_pid: Option<u32>,
    /// The process in which its memory was found, if that is another one.
    pub(crate) held_by: Option<u32>,
    /// Where it listens, as far as known.
    pub(crate) listens_at: Vec<String>,
    /// What the kernel knows its status segment by.
    #[serde(skip)]
    pub(crate) inode: u64,
    /// How its process is.
    pub(crate) state: State,
    /// Whether a thread of its process runs or waits for a CPU.
    #[serde(skip)]
    pub(crate) busy: bool,
    /// Age of its status segment in ns.
    pub(crate) age_ns: u64,
    /// Where its reactor runs.
    pub(crate) place: Place,
    /// Whether its reactor sleeps, by domain; domains that never slept are left out.
    pub(crate) domains: Vec<Domain>,
    /// What it counted.
    #[serde(serialize_with = "export::counters")]
    pub(crate) counters: ServerCounters,
    /// What it tells of itself beside that: limits, its thread, the oldest call.
    #[serde(serialize_with = "export::facts")]
    pub(crate) facts: layout::Facts,
    /// Counted between the two looks, per second.
    pub(crate) rates: BTreeMap<&'static str, f64>,
    /// What the threads of its process do, as far as that can be seen.
    pub(crate) threads: Vec<ThreadState>,
    /// The status segment.
    pub(crate) memory: Memory,
}

/// A thread of a server.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ThreadState {
    /// Its number, as seen from here.
    pub(crate) tid: u32,
    /// Its name.
    pub(crate) name: String,
    /// Whether it is the one that serves.
    pub(crate) serves: bool,
    /// What it does.
    pub(crate) doing: Doing,
    /// In which system call or function of the kernel, if that says more.
    pub(crate) place: Option<String>,
    /// CPU time that it had between the two looks, in ns, if known.
    pub(crate) cpu_ns: Option<u64>,
}

/// One bell of a server.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Domain {
    /// Its index.
    pub(crate) index: u64,
    /// Whether the server sleeps on it.
    #[serde(serialize_with = "export::sleep")]
    pub(crate) sleep: Sleep,
    /// The bell word, if it can be seen.
    pub(crate) bell: Option<u32>,
    /// Whether it was rung since the server armed: nobody knows without the bell word.
    pub(crate) rung: Option<bool>,
    /// Whether the server slept on it with the same ticket at the first look.
    pub(crate) since_before: bool,
}

/// One direction of a session.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RingState {
    /// Size of the ring in bytes.
    pub(crate) capacity: u64,
    /// Where the producer is, in bytes since the start.
    #[serde(serialize_with = "export::decimal")]
    pub(crate) tail: u64,
    /// How far the consumer has given space back. It does so in quarters of the ring, and before it
    /// sleeps.
    #[serde(serialize_with = "export::decimal")]
    pub(crate) head: u64,
    /// Bytes that are not given back.
    pub(crate) fill: u64,
    /// The most that was ever not given back, as far as known.
    pub(crate) high_water: u64,
    /// Messages in these bytes, but for requests that were answered, or stand before one that was.
    /// Some of the rest may have been read, too, unless the consumer sleeps.
    pub(crate) messages: u64,
    /// Call id of the first of them that is a message.
    #[serde(serialize_with = "export::decimal_or_null")]
    pub(crate) first_call: Option<u64>,
    /// Bytes that the producer went forward between the two looks, and the consumer.
    pub(crate) produced: u64,
    /// The consumer.
    pub(crate) consumed: u64,
    /// Whether fill and head were the same at the first look, and something was there.
    pub(crate) stuck: bool,
    /// Whether a record of the largest size finds no room.
    pub(crate) full: bool,
    /// Whether the positions stayed the same while the ring was copied.
    pub(crate) consistent: bool,
    /// What is wrong with it.
    pub(crate) flaw: Option<String>,
    /// Its segment.
    pub(crate) memory: Memory,
}

/// A session over shared memory.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Session {
    /// Its number, unique in the server's life.
    #[serde(serialize_with = "export::decimal")]
    pub(crate) session: u64,
    /// Its server.
    #[serde(serialize_with = "export::hex")]
    pub(crate) generation: u64,
    /// The client, as the kernel told the server; the name is its own choice.
    pub(crate) peer: Party,
    /// The number of its process here, if it can be seen.
    pub(crate) host_pid: Option<u32>,
    /// How the client's process is.
    pub(crate) state: State,
    /// Whether a thread of the client's process runs or waits for a CPU.
    #[serde(skip)]
    pub(crate) busy: bool,
    /// Age of the session in ns.
    pub(crate) age_ns: u64,
    /// Always `shared memory`: others cannot be seen.
    pub(crate) transport: &'static str,
    /// Whether the client sleeps.
    #[serde(serialize_with = "export::sleep")]
    pub(crate) sleep: Sleep,
    /// Whether it did with the same ticket at the first look.
    pub(crate) since_before: bool,
    /// The bell word that the client sleeps on.
    pub(crate) bell: u32,
    /// Where the client runs.
    pub(crate) place: Place,
    /// Index of the server's armed word for it.
    #[serde(skip)]
    pub(crate) domain: u64,
    /// The calls of which this lap of the response ring has items: their streams are under way.
    #[serde(skip)]
    pub(crate) streams: BTreeSet<u64>,
    /// The calls of which this lap of the response ring has answers.
    #[serde(skip)]
    pub(crate) answered: BTreeSet<u64>,
    /// Client to server.
    pub(crate) request: RingState,
    /// Server to client.
    pub(crate) response: RingState,
    /// Calls without an answer, as of the client's last sleep.
    pub(crate) in_flight: u64,
    /// A call that waits for long, if the client sleeps over it.
    #[serde(serialize_with = "export::decimal_or_null")]
    pub(crate) oldest_call: Option<u64>,
    /// For how long at least, in ns.
    pub(crate) oldest_age_ns: Option<u64>,
    /// Where the time of calls went, if some were timed.
    pub(crate) samples: Option<Samples>,
    /// What the client counted, as of its last sleep or so.
    #[serde(serialize_with = "export::counters")]
    pub(crate) client: SessionCounters,
    /// What the server counted for it.
    #[serde(serialize_with = "export::counters")]
    pub(crate) server: SessionCounters,
    /// Counted by the server between the two looks, per second.
    pub(crate) rates: BTreeMap<&'static str, f64>,
    /// The same as the client counted it, as far as it stored that.
    pub(crate) client_rates: BTreeMap<&'static str, f64>,
}

impl Session {
    /// Whether the client was rung since it armed.
    pub(crate) fn rung(&self) -> Option<bool> {
        self.sleep.ticket().map(|ticket| ticket != self.bell)
    }
}

/// A segment that belongs to nothing.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Stray {
    /// Where it was found.
    pub(crate) found: String,
    /// What is the matter with it.
    pub(crate) why: String,
    /// Whether it is merely not in use, or of another version of the layout.
    pub(crate) spare: bool,
    /// Version of the layout, if it is another one, and generation of the server.
    #[serde(skip)]
    pub(crate) foreign: Option<(u32, u64)>,
}

const SEALS: [(u32, &str); 6] =
    [(1, "seal"), (2, "shrink"), (4, "grow"), (8, "write"), (16, "future-write"), (32, "exec")];

impl Memory {
    pub(crate) fn of(image: &Image) -> Self {
        let names = |seals: u32| {
            SEALS.iter().filter(move |(bit, _)| seals & bit != 0).map(|(_, name)| *name)
        };
        Self {
            found: image.found.clone(),
            size: image.size,
            page: image.page,
            seals: image.seals.map(|seals| names(seals).collect()),
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "rates are for people")]
fn per_second(count: u64, between_ns: u64) -> f64 {
    if between_ns == 0 { 0.0 } else { count as f64 * 1e9 / between_ns as f64 }
}

/// What stands for a level, and not for events.
const LEVELS: [&str; 9] = [
    "sessions",
    "sessions_peak",
    "in_flight",
    "held_bytes",
    "oldest_call",
    "oldest_sent_ns",
    "fill_peak",
    "stash_peak",
    "queued",
];

pub(crate) fn rates(
    deltas: impl Iterator<Item = (&'static str, u64)>,
    between_ns: u64,
) -> BTreeMap<&'static str, f64> {
    deltas
        // A counter that went backwards belongs to somebody else, or to nobody.
        .filter(|(name, count)| !LEVELS.contains(name) && *count < 1 << 63)
        .map(|(name, count)| (name, per_second(count, between_ns)))
        .collect()
}
