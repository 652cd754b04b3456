//! What changed between two captures.

use crate::finding::Finding;
use crate::report::{Report, Session};
use crate::show;
use crate::style::{BAD, END, GOOD, HEAD};
use crate::verdict::time;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

/// What changed.
#[derive(Debug, Serialize)]
pub(crate) struct Diff {
    version: u32,
    /// Between the two, by the clock of the machine if both are from the same one.
    between_ns: Option<u64>,
    servers: BTreeMap<u64, Changes>,
    sessions: BTreeMap<u64, Changes>,
    new_findings: Vec<Finding>,
    gone_findings: Vec<Finding>,
}

/// What changed of one thing.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(crate) struct Changes {
    /// `began` or `ended`, if it was there but once.
    presence: Option<&'static str>,
    /// Numbers that differ: earlier and later.
    numbers: BTreeMap<String, (u64, u64)>,
    /// Words that differ: earlier and later.
    words: BTreeMap<&'static str, (String, String)>,
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
    let mut sessions: BTreeMap<u64, Changes> = BTreeMap::new();
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
        sessions.insert(session.session, changes);
    }
    for session in &after.sessions {
        if !before.sessions.iter().any(|other| key(other) == key(session)) {
            sessions.insert(session.session, only("began"));
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
        servers,
        sessions,
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
        .map(|(generation, changes)| (format!("server {generation:016x}"), changes))
        .chain(
            diff.sessions.iter().map(|(session, changes)| (format!("session {session}"), changes)),
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
