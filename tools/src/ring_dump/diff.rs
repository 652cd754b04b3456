//! What changed between two captures.

use crate::after::age;
use crate::export;
use crate::finding::Finding;
use crate::report::{Report, Server, Session};
use crate::show;
use crate::style::{BAD, END, GOOD, HEAD};
use crate::words::time;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// What changed.
#[derive(Debug, Serialize)]
pub(crate) struct Diff {
    version: u32,
    before: Look,
    after: Look,
    /// Between the two; null if the later one is earlier.
    between_ns: Option<u64>,
    /// By which clock: that of the machine if both are from one start of it, or the calendar.
    clock: Clock,
    servers: Vec<OfServer>,
    sessions: Vec<OfSession>,
    new_findings: Vec<Finding>,
    gone_findings: Vec<Finding>,
}

/// Which clock tells the time between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Clock {
    Monotonic,
    Calendar,
}

/// One of the two.
#[derive(Debug, Serialize)]
struct Look {
    target: String,
    /// When, in ms since 1970.
    unix_ms: u64,
    /// The same as a date: RFC 3339, UTC.
    date: String,
}

impl Look {
    fn of(report: &Report) -> Self {
        let Report { target, unix_ms, date, .. } = report;
        Self { target: target.clone(), unix_ms: *unix_ms, date: date.clone() }
    }
}

/// What changed of a server.
#[derive(Debug, Serialize)]
struct OfServer {
    #[serde(serialize_with = "export::hex")]
    generation: u64,
    /// Of the server whose place it took, if it was restarted.
    #[serde(serialize_with = "export::hex_or_null")]
    previous_generation: Option<u64>,
    #[serde(flatten)]
    changes: Changes,
}

/// What changed of a session.
#[derive(Debug, Serialize)]
struct OfSession {
    #[serde(serialize_with = "export::hex")]
    generation: u64,
    #[serde(serialize_with = "export::decimal")]
    session: u64,
    #[serde(flatten)]
    changes: Changes,
}

/// What changed of one thing.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(crate) struct Changes {
    /// `began` or `ended`, if it was there but once; `restarted` if it took the place of another
    /// one. The numbers of a server that began are then told as well: they were 0.
    presence: Option<&'static str>,
    /// Numbers that differ: earlier and later.
    #[serde(serialize_with = "numbers")]
    numbers: BTreeMap<String, (u64, u64)>,
    /// Words that differ: earlier and later.
    words: BTreeMap<&'static str, (String, String)>,
}

/// Positions and calls as strings, counts as numbers.
fn numbers<S: Serializer>(
    numbers: &BTreeMap<String, (u64, u64)>,
    to: S,
) -> Result<S::Ok, S::Error> {
    let mut map = to.serialize_map(Some(numbers.len()))?;
    for (name, (before, after)) in numbers {
        match ["tail", "head", "oldest_call"].contains(&name.rsplit('.').next().unwrap_or(name)) {
            true => map.serialize_entry(name, &[before.to_string(), after.to_string()])?,
            false => map.serialize_entry(name, &[before, after])?,
        }
    }
    map.end()
}

impl Changes {
    fn numbers(
        &mut self,
        prefix: &str,
        pairs: impl Iterator<Item = ((&'static str, u64), (&'static str, u64))>,
    ) {
        for ((name, before), (_, after)) in
            pairs.filter(|((_, before), (_, after))| before != after)
        {
            self.numbers.insert(format!("{prefix}{name}"), (before, after));
        }
    }

    fn word(&mut self, name: &'static str, before: String, after: String) {
        if before != after {
            self.words.insert(name, (before, after));
        }
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn of_session(before: &Session, after: &Session) -> Changes {
    let mut changes = Changes::default();
    for (prefix, before, after) in [
        ("request.", &before.request, &after.request),
        ("response.", &before.response, &after.response),
    ] {
        let fields = ["tail", "head", "fill", "messages"];
        let values =
            |ring: &crate::report::RingState| [ring.tail, ring.head, ring.fill, ring.messages];
        let pairs =
            fields.into_iter().zip(values(before)).zip(fields.into_iter().zip(values(after)));
        changes.numbers(prefix, pairs);
    }
    changes.numbers("client.", before.client.iter().zip(after.client.iter()));
    changes.numbers("server.", before.server.iter().zip(after.server.iter()));
    changes.word("process", before.state.word().to_owned(), after.state.word().to_owned());
    let sleep =
        |session: &Session| anstream::adapter::strip_str(&show::sleep(session.sleep)).to_string();
    changes.word("sleep", sleep(before), sleep(after));
    changes
}

/// Which servers of the later report took the place of which of the earlier one: later generation
/// and earlier one. They have the socket or the name of one that is gone.
fn restarts(before: &Report, after: &Report) -> BTreeMap<u64, u64> {
    let is_in = |report: &Report, server: &Server| {
        report.servers.iter().any(|other| other.generation == server.generation)
    };
    let mut gone: Vec<&Server> =
        before.servers.iter().filter(|server| !is_in(after, server)).collect();
    let new: Vec<&Server> = after.servers.iter().filter(|server| !is_in(before, server)).collect();
    let socket = before.listens_at.iter().any(|path| after.listens_at.contains(path));
    let mut found = BTreeMap::new();
    // Which of several servers has which socket is not told: there the name decides.
    let only = gone.len() == 1 && new.len() == 1;
    for server in new {
        let name = &server.peer.name;
        let is_it =
            |other: &&Server| (only && socket) || (!name.is_empty() && other.peer.name == *name);
        if let Some(place) = gone.iter().position(is_it) {
            found.insert(server.generation, gone.remove(place).generation);
        }
    }
    found
}

/// How much later the second is, and by which clock.
fn between(before: &Report, after: &Report) -> (Option<u64>, Clock) {
    /// What the calendar may be set by between two looks.
    const SLACK_MS: u64 = 1_000;
    let monotonic = after.at_ns.checked_sub(before.at_ns);
    let calendar = after.unix_ms.checked_sub(before.unix_ms);
    let boot = |report: &Report| {
        report.host.as_ref().map(|host| host.boot.clone()).filter(|boot| !boot.is_empty())
    };
    let same = match (boot(before), boot(after)) {
        (Some(before), Some(after)) => before == after,
        // Not told: then the clocks tell whether they are of one start.
        _ => monotonic.zip(calendar).is_some_and(|(monotonic, calendar)| {
            (monotonic / 1_000_000).abs_diff(calendar) <= SLACK_MS + calendar / 1_000
        }),
    };
    match same {
        true => (monotonic, Clock::Monotonic),
        false => (calendar.map(|ms| ms.saturating_mul(1_000_000)), Clock::Calendar),
    }
}

/// Compares two reports.
pub(crate) fn diff(before: &Report, after: &Report) -> Diff {
    let restarts = restarts(before, after);
    let mut servers: BTreeMap<u64, Changes> = BTreeMap::new();
    let mut sessions: BTreeMap<(u64, u64), Changes> = BTreeMap::new();
    let only = |presence| Changes { presence: Some(presence), ..Changes::default() };
    for server in &before.servers {
        let changes = match after.servers.iter().find(|other| other.generation == server.generation)
        {
            None if restarts.values().any(|gone| *gone == server.generation) => continue,
            None => only("ended"),
            Some(other) => {
                let mut changes = Changes::default();
                changes.numbers("", server.counters.iter().zip(other.counters.iter()));
                changes.word("process", server.state.word().into(), other.state.word().into());
                changes
            }
        };
        servers.insert(server.generation, changes);
    }
    for server in &after.servers {
        servers.entry(server.generation).or_insert_with(|| {
            if !restarts.contains_key(&server.generation) {
                return only("began");
            }
            // What it counted it counted since then.
            let mut changes = only("restarted");
            let counted = server.counters.iter().map(|(name, count)| ((name, 0), (name, count)));
            changes.numbers("", counted);
            changes
        });
    }
    let key = |session: &Session| (session.generation, session.session);
    for session in &before.sessions {
        let changes = match after.sessions.iter().find(|other| key(other) == key(session)) {
            None => only("ended"),
            Some(other) => of_session(session, other),
        };
        sessions.insert(key(session), changes);
    }
    for session in &after.sessions {
        if !before.sessions.iter().any(|other| key(other) == key(session)) {
            sessions.insert(key(session), only("began"));
        }
    }
    servers.retain(|_, changes| !changes.is_empty());
    sessions.retain(|_, changes| !changes.is_empty());
    let missing = |from: &Report, other: &Report| {
        let subject =
            |one: &Finding| (one.code, one.severity, one.generation, one.session, one.pid);
        let same = |one: &Finding, other: &Finding| subject(one) == subject(other);
        let all = from.findings.iter();
        all.filter(|one| !other.findings.iter().any(|other| same(one, other))).cloned().collect()
    };
    let (between_ns, clock) = between(before, after);
    Diff {
        version: crate::report::JSON_VERSION,
        between_ns,
        clock,
        before: Look::of(before),
        after: Look::of(after),
        servers: servers
            .into_iter()
            .map(|(generation, changes)| {
                let previous_generation = restarts.get(&generation).copied();
                OfServer { generation, previous_generation, changes }
            })
            .collect(),
        sessions: sessions
            .into_iter()
            .map(|((generation, session), changes)| OfSession { generation, session, changes })
            .collect(),
        new_findings: missing(after, before),
        gone_findings: missing(before, after),
    }
}

/// For people.
pub(crate) fn text(diff: &Diff) -> String {
    let mut out = String::new();
    if let Some(between) = diff.between_ns {
        match diff.clock {
            Clock::Monotonic => drop(writeln!(out, "{} between them", time(between))),
            Clock::Calendar => drop(writeln!(
                out,
                "{} between them, by the calendar: they are of different starts of a machine",
                age(between / 1_000_000)
            )),
        }
    }
    // Numbers of sessions begin anew with each server.
    let generations: BTreeSet<u64> =
        diff.sessions.iter().map(|session| session.generation).collect();
    let several = generations.len() > 1;
    let of_session = |session: &OfSession| match several {
        true => format!("session {} of server {:016x}", session.session, session.generation),
        false => format!("session {}", session.session),
    };
    let of_server = |server: &OfServer| {
        let name = format!("server {:016x}", server.generation);
        match server.previous_generation {
            Some(previous) => format!("{name}, formerly {previous:016x}"),
            None => name,
        }
    };
    let all = diff
        .servers
        .iter()
        .map(|server| (of_server(server), &server.changes))
        .chain(diff.sessions.iter().map(|session| (of_session(session), &session.changes)));
    for (name, changes) in all {
        let presence = changes.presence.map_or_else(String::new, |presence| format!(" {presence}"));
        let _ = writeln!(out, "{HEAD}{name}{END}{presence}");
        for (name, (before, after)) in &changes.words {
            let _ = writeln!(out, "  {name:<28} {before} -> {after}");
        }
        for (name, (before, after)) in &changes.numbers {
            let sign = if after >= before { '+' } else { '-' };
            let _ = writeln!(
                out,
                "  {name:<28} {before} -> {after} ({sign}{})",
                after.abs_diff(*before)
            );
        }
    }
    for finding in &diff.new_findings {
        let _ = writeln!(out, "{BAD}new{END}   {}", finding.text);
    }
    for finding in &diff.gone_findings {
        let _ = writeln!(out, "{GOOD}gone{END}  {}", finding.text);
    }
    let findings = diff.new_findings.len() + diff.gone_findings.len();
    if diff.servers.is_empty() && diff.sessions.is_empty() && findings == 0 {
        let _ = writeln!(out, "nothing changed");
    }
    out
}
