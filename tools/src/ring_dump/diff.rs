//! What changed between two captures.

use crate::export;
use crate::finding::Finding;
use crate::report::{Report, Session};
use crate::show;
use crate::style::{BAD, END, GOOD, HEAD};
use crate::verdict::time;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use std::collections::BTreeMap;
use std::fmt::Write;

/// What changed.
#[derive(Debug, Serialize)]
pub(crate) struct Diff {
    version: u32,
    before: Look,
    after: Look,
    /// Between the two, by the clock of the machine if both are from the same one.
    between_ns: Option<u64>,
    servers: Vec<OfServer>,
    sessions: Vec<OfSession>,
    new_findings: Vec<Finding>,
    gone_findings: Vec<Finding>,
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
    /// `began` or `ended`, if it was there but once.
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

/// Compares two reports.
pub(crate) fn diff(before: &Report, after: &Report) -> Diff {
    let mut servers: BTreeMap<u64, Changes> = BTreeMap::new();
    let mut sessions: BTreeMap<(u64, u64), Changes> = BTreeMap::new();
    let only = |presence| Changes { presence: Some(presence), ..Changes::default() };
    for server in &before.servers {
        let changes = match after.servers.iter().find(|other| other.generation == server.generation)
        {
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
        servers.entry(server.generation).or_insert_with(|| only("began"));
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
        let same =
            |one: &Finding, other: &Finding| (one.code, one.session) == (other.code, other.session);
        let all = from.findings.iter();
        all.filter(|one| !other.findings.iter().any(|other| same(one, other))).cloned().collect()
    };
    Diff {
        version: crate::report::JSON_VERSION,
        between_ns: after.at_ns.checked_sub(before.at_ns),
        before: Look::of(before),
        after: Look::of(after),
        servers: servers
            .into_iter()
            .map(|(generation, changes)| OfServer { generation, changes })
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
        let _ = writeln!(out, "{} between them", time(between));
    }
    let all = diff
        .servers
        .iter()
        .map(|server| (format!("server {:016x}", server.generation), &server.changes))
        .chain(
            diff.sessions
                .iter()
                .map(|session| (format!("session {}", session.session), &session.changes)),
        );
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
    if diff.servers.is_empty() && diff.sessions.is_empty() && out.lines().count() <= 1 {
        let _ = writeln!(out, "nothing changed");
    }
    out
}
