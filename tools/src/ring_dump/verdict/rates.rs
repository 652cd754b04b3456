//! What fails, and how often: counters, by what they mean for a caller.
//!
//! What happened between the two looks is told with its rate. What happened before, and does not
//! happen now, is a note with its total.

use super::{Scene, ServerScene, count};
use crate::finding::{Code, Finding, Severity};
use crate::process::State;
use crate::report::Session;
use crate::words::short;
use std::collections::BTreeMap;

/// Failures between two looks that are many, if more than half of all is: fewer may be chance.
const MANY: u64 = 4;

/// A counter: what it counted between the looks, and in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counted {
    now: u64,
    total: u64,
}

impl Counted {
    fn less(self, other: Self) -> Self {
        Self {
            now: self.now.saturating_sub(other.now),
            total: self.total.saturating_sub(other.total),
        }
    }

    /// Whether more than half of `all` is of these, now and not by chance.
    fn is_most_of(self, all: Self) -> bool {
        let most = |part: u64, all: u64| part >= MANY && part.saturating_mul(2) > all;
        let now = self.now != 0 && self.now.saturating_mul(2) > all.now;
        now && (most(self.now, all.now) || most(self.total, all.total))
    }

    /// Whether one in a hundred of `all` so far was of these.
    fn is_worth_a_word(self, all: Self) -> bool {
        self.total != 0 && self.total.saturating_mul(100) >= all.total
    }
}

/// Counters of one side and what they went up by.
struct Counters<'a> {
    values: BTreeMap<&'static str, u64>,
    rates: &'a BTreeMap<&'static str, f64>,
    between_ns: u64,
}

impl Counters<'_> {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a count that was divided by the same time"
    )]
    fn of(&self, name: &str) -> Counted {
        let rate = self.rates.get(name).copied().unwrap_or(0.0);
        let now = (rate * self.between_ns as f64 / 1e9).round() as u64;
        Counted { now, total: self.values.get(name).copied().unwrap_or(0) }
    }

    /// `12 between the looks (120/s)`.
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    fn now(&self, counted: Counted) -> String {
        let per_second = counted.now as f64 * 1e9 / self.between_ns.max(1) as f64;
        format!("{} between the looks ({}/s)", counted.now, short(per_second))
    }

    /// Behind a total.
    fn none_now(&self) -> &'static str {
        if self.between_ns == 0 { "so far" } else { "so far, none between the looks" }
    }
}

/// `34 %`, of more than nothing.
fn share(part: u64, all: u64) -> String {
    let all = all.max(part).max(1);
    match u128::from(part) * 100 / u128::from(all) {
        0 => "less than 1 %".to_owned(),
        percent => format!("{percent} %"),
    }
}

/// Counters of a server of which any is worth a word.
const OF_SERVERS: [(&str, Code, &str); 6] = [
    ("peer_faults", Code::PeerFaults, "sessions ended since the client broke the protocol"),
    (
        "slow_clients",
        Code::SlowClientsEnded,
        "sessions were ended since the client did not read its answers",
    ),
    ("orphans", Code::Orphans, "answers were complete only after their session was over"),
    (
        "stalled_streams",
        Code::StalledStreams,
        "streams were ended since the client took no item for too long",
    ),
    ("pauses", Code::Pauses, "pauses of the server, since the kernel refuses to let it sleep"),
    (
        "accept_pauses",
        Code::AcceptPauses,
        "times no connection was accepted for a while, for want of descriptors or of memory",
    ),
];

/// Counters of clients of which any is worth a word.
const OF_CLIENTS: [(&str, Code, &str); 2] = [
    ("events_dropped", Code::EventsDropped, "events were dropped since the client took them late"),
    ("pauses", Code::Pauses, "pauses of the client, since the kernel refuses to let it sleep"),
];

pub(super) fn judge_server(scene: &ServerScene<'_>, findings: &mut Vec<Finding>) {
    let server = scene.server;
    let counters = Counters {
        values: server.counters.iter().collect(),
        rates: &server.rates,
        between_ns: scene.report.between_ns,
    };
    let mut push = |severity, code, text: String| {
        let text = format!("the server (pid {}): {text}", server.peer.pid);
        findings.push(scene.finding(severity, code, text));
    };
    let requests = counters.of("requests");
    let panics = counters.of("panics");
    let by_session = most_of(scene.sessions, "errors");
    let failures = [
        (
            counters.of("errors").less(panics),
            Code::Errors,
            "requests are answered with an error",
            &*by_session,
        ),
        (
            counters.of("expired"),
            Code::Expired,
            "requests are not run since their deadline had passed",
            "",
        ),
        (counters.of("cancelled"), Code::Cancelled, "calls are given up while in flight", ""),
    ];
    if panics.now != 0 {
        let severity = if panics.is_most_of(requests) { Severity::Problem } else { Severity::Note };
        let of_all = share(panics.now, requests.now);
        let text = format!(
            "handlers panic, {}: {of_all} of all requests{by_session}",
            counters.now(panics)
        );
        push(severity, Code::Panics, text);
    } else if panics.total != 0 {
        let text = format!("{} panicked {}", count(panics.total, "handler"), counters.none_now());
        push(Severity::Note, Code::Panics, text);
    }
    for (counted, code, what, more) in failures {
        if counted.now != 0 {
            let most = counted.is_most_of(requests);
            let severity = if most { Severity::Problem } else { Severity::Note };
            let of_all = share(counted.now, requests.now);
            let text = format!("{what}, {}: {of_all} of all{more}", counters.now(counted));
            push(severity, code, text);
        } else if requests.now == 0 && counted.is_worth_a_word(requests) {
            let text = format!(
                "{} times {what}: {} of all {}",
                counted.total,
                share(counted.total, requests.total),
                counters.none_now()
            );
            push(Severity::Note, code, text);
        }
    }
    for (name, code, what) in OF_SERVERS {
        events(&counters, name, code, what, &mut push);
    }
    limits(scene, &counters, &mut push);
    late_rings(&counters, "the server", &mut push);
    // A handshake now and then that does not end is nothing.
    let failed = counters.of("handshakes_failed");
    if failed.now != 0 {
        let text = format!("connections do not become sessions, {}", counters.now(failed));
        push(Severity::Note, Code::HandshakesFailed, text);
    }
    let fallbacks = counters.of("fallbacks");
    let over_sockets = scene.report.over_sockets.filter(|_| scene.report.servers.len() == 1);
    if fallbacks.now != 0 {
        let text = format!("sessions go over the socket, {}", counters.now(fallbacks));
        push(Severity::Note, Code::Fallback, text);
    } else if over_sockets.is_some_and(|now| now != 0) {
        let text = format!(
            "{} over the socket: nothing of them can be seen from here",
            count(over_sockets.unwrap_or(0), "session")
        );
        push(Severity::Note, Code::Fallback, text);
    }
}

/// Which session has most of what moves, if there are several.
fn most_of(sessions: &[&Session], name: &str) -> String {
    let rate = |session: &&&Session| session.rates.get(name).copied().unwrap_or(0.0);
    let moving = sessions.iter().filter(|session| rate(session) > 0.0);
    let most = moving.max_by(|a, b| rate(a).total_cmp(&rate(b)));
    match most {
        Some(session) if sessions.len() > 1 => {
            format!(", most of them to {}", super::who(session))
        }
        _ => String::new(),
    }
}

/// What is worth a word each time.
fn events(
    counters: &Counters<'_>,
    name: &str,
    code: Code,
    what: &str,
    push: &mut impl FnMut(Severity, Code, String),
) {
    let counted = counters.of(name);
    if counted.now != 0 {
        // Whoever connects waits.
        let severity = if code == Code::AcceptPauses { Severity::Problem } else { Severity::Note };
        push(severity, code, format!("{what}: {}", counters.now(counted)));
    } else if counted.total != 0 {
        push(Severity::Note, code, format!("{what}: {} {}", counted.total, counters.none_now()));
    }
}

/// Sleeps that end late, if they are so many that callers feel it. Where there is more to run than
/// CPUs, a few in a hundred do.
fn late_rings(counters: &Counters<'_>, side: &str, push: &mut impl FnMut(Severity, Code, String)) {
    let (late, parks) = (counters.of("late_rings"), counters.of("parks"));
    if late.now >= MANY && late.now.saturating_mul(4) >= parks.now {
        let text = format!(
            "{side} finds by the clock what it is about to be woken for, {}: {} of its sleeps",
            counters.now(late),
            share(late.now, parks.now)
        );
        push(Severity::Note, Code::LateRings, text);
    }
}

/// Limits that are reached, each with its size.
fn limits(
    scene: &ServerScene<'_>,
    counters: &Counters<'_>,
    push: &mut impl FnMut(Severity, Code, String),
) {
    let server = scene.server;
    let facts = &server.facts;
    let alive = matches!(server.state, State::Alive | State::Unknown);
    let clients = server.counters.sessions;
    let at_most = facts.max_clients != 0 && clients >= facts.max_clients && alive;
    let full = format!("{clients} of at most {} are connected (max_clients)", facts.max_clients);
    let rejected = counters.of("rejected");
    let of_uid = match counters.of("rejected_of_uid").now {
        0 => String::new(),
        of_uid => format!(", {of_uid} of them since their user has its share"),
    };
    match (at_most, rejected.now) {
        (true, 1..) => {
            let text =
                format!("clients are turned away, {}{of_uid}: {full}", counters.now(rejected));
            push(Severity::Problem, Code::Rejected, text);
        }
        (false, 1..) => {
            let text = format!("clients are turned away, {}{of_uid}", counters.now(rejected));
            push(Severity::Note, Code::Rejected, text);
        }
        (_, 0) if rejected.total != 0 => {
            let were = if rejected.total == 1 { "was" } else { "were" };
            let text = format!(
                "{} {were} turned away {}",
                count(rejected.total, "client"),
                counters.none_now()
            );
            push(Severity::Note, Code::Rejected, text);
        }
        _ => {}
    }
    if at_most {
        push(Severity::Note, Code::ClientsAtLimit, full);
    }
    let held = server.counters.held_bytes;
    let near = facts.max_held_bytes != 0 && held >= facts.max_held_bytes / 10 * 9 && alive;
    let held = match facts.max_held_bytes {
        0 => format!("{held} bytes are held for clients"),
        limit => format!("{held} of at most {limit} bytes are held for clients (max_held_bytes)"),
    };
    let per_client = match facts.max_held_bytes_per_client {
        0 => String::new(),
        limit => format!(", at most {limit} for one of them (max_held_bytes_per_client)"),
    };
    let (refusals, stops) = (counters.of("held_refusals"), counters.of("held_stops"));
    if refusals.now != 0 {
        let text = format!(
            "requests, answers or events are refused, {}: {held}{per_client}",
            counters.now(refusals)
        );
        push(Severity::Problem, Code::HeldLimit, text);
    } else if stops.now != 0 {
        let text =
            format!("a client is not read from, {}: {held}{per_client}", counters.now(stops));
        push(Severity::Note, Code::HeldLimit, text);
    } else if near {
        push(Severity::Note, Code::HeldLimit, format!("{held}{per_client}"));
    } else if refusals.total + stops.total != 0 {
        let text = format!(
            "{} and {} {}, since as much was held as may be: {held}{per_client}",
            count(refusals.total, "refusal"),
            count(stops.total, "stop of reading"),
            counters.none_now()
        );
        push(Severity::Note, Code::HeldLimit, text);
    }
    for session in scene.sessions {
        let limit = facts.max_in_flight;
        if limit != 0 && session.server.in_flight >= limit && session.request.stuck && alive {
            let text = format!(
                "{} has {} of at most {limit} requests in flight (max_in_flight), and more in its ring",
                super::who(session),
                session.server.in_flight
            );
            push(Severity::Note, Code::InFlightLimit, text);
        }
    }
}

/// What a client alone knows.
pub(super) fn judge_session(scene: &Scene<'_>, findings: &mut Vec<Finding>) {
    let session = scene.session;
    let counters = Counters {
        values: session.client.iter().collect(),
        rates: &session.client_rates,
        between_ns: scene.report.between_ns,
    };
    let pid = Some(session.peer.pid);
    let mut push = |severity, code, text: String| {
        findings.push(scene.finding(severity, code, pid, &text));
    };
    let (timeouts, sent) = (counters.of("timeouts"), counters.of("sent"));
    if timeouts.now != 0 {
        let most = timeouts.is_most_of(sent);
        let severity = if most { Severity::Problem } else { Severity::Note };
        let of_all = share(timeouts.now, sent.now);
        let text = format!("its calls time out, {}: {of_all} of all", counters.now(timeouts));
        push(severity, Code::Timeouts, text);
    } else if sent.now == 0 && timeouts.is_worth_a_word(sent) {
        let text = format!(
            "{} timed out, {} of all {}",
            count(timeouts.total, "call"),
            share(timeouts.total, sent.total),
            counters.none_now()
        );
        push(Severity::Note, Code::Timeouts, text);
    }
    for (name, code, what) in OF_CLIENTS {
        events(&counters, name, code, what, &mut push);
    }
    late_rings(&counters, "the client", &mut push);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_is_more_than_half_and_more_than_chance() {
        let counted = |now, total| Counted { now, total };
        assert!(counted(4, 4).is_most_of(counted(7, 100)));
        assert!(!counted(4, 4).is_most_of(counted(8, 8)));
        assert!(!counted(1, 1).is_most_of(counted(1, 1)), "one is chance");
        assert!(counted(1, 9).is_most_of(counted(1, 9)), "a slow server of which all calls fail");
        assert!(!counted(0, 9).is_most_of(counted(0, 9)), "none now");
        assert!(counted(1, 100).is_worth_a_word(counted(0, 10_000)));
        assert!(!counted(1, 99).is_worth_a_word(counted(0, 10_000)));
    }

    #[test]
    fn shares_are_told_in_per_cent() {
        assert_eq!((share(1, 3), share(1, 1000)), ("33 %".into(), "less than 1 %".into()));
        assert_eq!((share(7, 0), share(0, 0)), ("100 %".into(), "less than 1 %".into()));
    }
}
