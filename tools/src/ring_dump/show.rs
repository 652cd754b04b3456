//! A report for people: first what is wrong, then what is there.

use crate::after;
use crate::export;
use crate::finding::Severity;
use crate::process::State;
use crate::report::{Memory, Report, RingState, Server, Session, Stray};
use crate::samples::Samples;
use crate::style::{BAD, DIM, END, GOOD, HEAD, WARN};
use crate::words::{count, short, time};
use ringbell::inspect::{Place, Sleep};
use ringbell::layout::Mode;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Characters of a bar.
const BAR: u64 = 24;

/// Sessions that are told at length unless all are asked for.
const SESSIONS: usize = 20;
/// Findings of one code that are told unless all are asked for.
const FINDINGS: usize = 10;

/// The whole report; `all` of its sessions and findings, or the most important ones.
pub(crate) fn text(report: &Report, all: bool) -> String {
    let mut out = String::new();
    verdicts(&mut out, report, all);
    header(&mut out, report);
    for server in &report.servers {
        server_lines(&mut out, report, server);
    }
    let most = if all { usize::MAX } else { SESSIONS };
    for session in most_important(report, most) {
        session_lines(&mut out, report, session);
    }
    let left_out = report.sessions.len().saturating_sub(most);
    if left_out != 0 {
        let _ = writeln!(
            out,
            "{DIM}{left_out} of {} sessions are left out: --all shows them, --session N shows one, \
             --brief gives each a line{END}",
            report.sessions.len()
        );
    }
    let is_spare = |stray: &&Stray| stray.spare && stray.foreign.is_none();
    let spares = report.strays.iter().filter(is_spare).count();
    if spares != 0 {
        let _ = writeln!(out, "{DIM}{} not in use{END}", count(spares as u64, "segment"));
    }
    out
}

/// What is wrong, and a line for each server and session.
pub(crate) fn brief(report: &Report, all: bool) -> String {
    let mut out = String::new();
    verdicts(&mut out, report, all);
    header(&mut out, report);
    for server in &report.servers {
        let Server { peer, counters, rates, .. } = server;
        let _ = writeln!(
            out,
            "{HEAD}server {}{END} pid {}, {}{}: {}, {} requests{}, {} in handlers",
            printable(&peer.name),
            peer.shown(),
            state_of(report, peer.pid, server.state),
            at(server),
            count(counters.sessions, "session"),
            counters.requests,
            rate(rates, "requests"),
            counters.in_flight
        );
    }
    for session in &report.sessions {
        let Session { peer, request, response, rates, .. } = session;
        let oldest = session
            .oldest_age_ns
            .map_or_else(String::new, |age| format!(", one waits for at least {}", time(age)));
        let _ = writeln!(
            out,
            "{HEAD}session {} {}{END} pid {}, {}: {} handled{}, {} in flight{oldest}, request ring {} of {} B, response ring {} of {} B",
            session.session,
            printable(&peer.name),
            peer.shown(),
            state_of(report, peer.pid, session.state),
            session.server.received,
            rate(rates, "received"),
            session.in_flight,
            request.fill,
            request.capacity,
            response.fill,
            response.capacity
        );
    }
    out
}

/// So many sessions in their order: those with problems before those with notes before others.
fn most_important(report: &Report, most: usize) -> Vec<&Session> {
    let mut worst = BTreeMap::new();
    for finding in &report.findings {
        if let Some(session) = finding.session {
            let worst = worst.entry((finding.generation, session)).or_insert(finding.severity);
            *worst = (*worst).max(finding.severity);
        }
    }
    let mut order: Vec<usize> = (0..report.sessions.len()).collect();
    order.sort_by_key(|&index| {
        let session = &report.sessions[index];
        std::cmp::Reverse(worst.get(&(Some(session.generation), session.session)).copied())
    });
    order.truncate(most);
    order.sort_unstable();
    order.into_iter().map(|index| &report.sessions[index]).collect()
}

fn at(server: &Server) -> String {
    match &server.listens_at[..] {
        [] => String::new(),
        paths => format!(" at {}", paths.join(", ")),
    }
}

/// Of what was saved or dumped: what it is, when and where.
fn header(out: &mut String, report: &Report) {
    if let Some(header) = after::header(report, export::now_unix_ms()) {
        let _ = writeln!(out, "{DIM}{header}{END}");
    }
}

/// How a process is, or was when a dump was written.
fn state_of(report: &Report, pid: u32, now: State) -> String {
    match &report.core {
        Some(core) if core.pid == pid && pid != 0 && core.signal.is_some() => {
            format!("{BAD}crashed{END}")
        }
        Some(core) if core.pid == pid && pid != 0 => "dumped".to_owned(),
        Some(_) => format!("{DIM}then unknown{END}"),
        None => state(now),
    }
}

fn state(state: State) -> String {
    let style = match state {
        State::Alive => GOOD,
        State::Unknown => DIM,
        _ => BAD,
    };
    format!("{style}{}{END}", state.word())
}

fn place(place: Place) -> String {
    place.cpu.map_or_else(String::new, |cpu| format!(", last seen on CPU {cpu}"))
}

fn seals(memory: &Memory) -> String {
    match &memory.seals {
        Some(seals) if seals.is_empty() => "no seals".to_owned(),
        Some(seals) => format!("sealed {}", seals.join(" ")),
        None => "seals not to be seen".to_owned(),
    }
}

fn rate(rates: &BTreeMap<&'static str, f64>, name: &str) -> String {
    rates.get(name).map_or_else(String::new, |rate| format!(" ({}/s)", short(*rate)))
}

pub(crate) fn sleep(sleep: Sleep) -> String {
    match sleep {
        Sleep::Awake => "awake".to_owned(),
        Sleep::Armed { mode, data, space, ticket } => {
            let mode = match mode {
                Mode::Futex => "a futex",
                Mode::Event => "an event loop",
            };
            let wants = match (data, space) {
                (true, true) => "data or space",
                (true, false) => "data",
                (false, true) => "space",
                (false, false) => "nothing",
            };
            format!("asleep for {wants} in {mode}, ticket {ticket}")
        }
        Sleep::Impossible { word } => format!("{BAD}an impossible armed word {word:#x}{END}"),
    }
}

fn bell(bell: Option<u32>, rung: Option<bool>) -> String {
    match (bell, rung) {
        (Some(bell), Some(true)) => format!("bell {bell}: {WARN}rung{END}"),
        (Some(bell), Some(false)) => format!("bell {bell}: not rung"),
        (Some(bell), None) => format!("bell {bell}"),
        (None, _) => "bell not to be seen".to_owned(),
    }
}

fn server_lines(out: &mut String, report: &Report, server: &Server) {
    let Server { peer, counters, rates, .. } = server;
    let _ = writeln!(
        out,
        "{HEAD}server {}{END} pid {}, uid {}, {}{}",
        printable(&peer.name),
        peer.shown(),
        peer.uid,
        state_of(report, peer.pid, server.state),
        at(server)
    );
    let _ = writeln!(
        out,
        "  identity  layout {}, generation {:016x}, up {}",
        server.layout,
        server.generation,
        time(server.age_ns)
    );
    let _ = writeln!(
        out,
        "  memory    status {} B in pages of {} B, {}",
        server.memory.size,
        server.memory.page,
        seals(&server.memory)
    );
    let over = match report.over_sockets {
        Some(0) => String::new(),
        Some(sockets) => format!(", of which {sockets} over the socket"),
        None if counters.sessions > report.sessions.len() as u64 => {
            format!(
                ", of which {} not in shared memory",
                counters.sessions - report.sessions.len() as u64
            )
        }
        None => String::new(),
    };
    let _ = writeln!(
        out,
        "  sessions  {} now{over}; {} at most, {} accepted, {} rejected, {} hung up, {} broke the protocol, {} too slow",
        counters.sessions,
        counters.sessions_peak,
        counters.accepted,
        counters.rejected,
        counters.hung_up,
        counters.peer_faults,
        counters.slow_clients
    );
    let _ = writeln!(
        out,
        "  requests  {}{}, {} in handlers, {} errors, {} panics, {} answers queued for want of room",
        counters.requests,
        rate(rates, "requests"),
        counters.in_flight,
        counters.errors,
        counters.panics,
        counters.queued
    );
    let _ = writeln!(
        out,
        "  waiting   spins that paid {}{}, yields {}{}, parks {}{}, called off {}, wakes sent {}{}",
        counters.spins_paid,
        rate(rates, "spins_paid"),
        counters.yields,
        rate(rates, "yields"),
        counters.parks,
        rate(rates, "parks"),
        counters.arms_called_off,
        counters.wakes_sent,
        rate(rates, "wakes_sent"),
    );
    let _ = writeln!(
        out,
        "            slow episodes {}, late rings {}, lost wakes {}",
        counters.slow_episodes, counters.late_rings, counters.backstop_rescues
    );
    if server.domains.is_empty() {
        let awake = if server.place.off { "about to sleep" } else { "awake" };
        let _ = writeln!(out, "  reactor   {awake}{}", place(server.place));
    }
    for domain in &server.domains {
        let _ = writeln!(
            out,
            "  reactor   domain {}: {}, {}{}",
            domain.index,
            sleep(domain.sleep),
            bell(domain.bell, domain.rung),
            place(server.place)
        );
    }
}

/// A bar with what is in it, and up to where it was once: `[####>>...]`.
#[allow(clippy::cast_possible_truncation, reason = "at most BAR")]
pub(crate) fn bar(ring: &RingState, width: u64) -> String {
    let share =
        |bytes: u64| (bytes.min(ring.capacity) * width).div_ceil(ring.capacity.max(1)) as usize;
    let (fill, peak) = (share(ring.fill), share(ring.high_water));
    let rest = width as usize - peak.max(fill);
    format!("[{}{}{}]", "#".repeat(fill), "-".repeat(peak.saturating_sub(fill)), " ".repeat(rest))
}

fn ring_line(out: &mut String, which: &str, ring: &RingState, between_ns: u64, settled: bool) {
    let style = match () {
        () if ring.flaw.is_some() || (ring.full && ring.stuck) => BAD,
        () if ring.stuck => WARN,
        () => GOOD,
    };
    let held = match (ring.messages, settled) {
        (0, _) => "empty".to_owned(),
        (messages, true) => format!("{} unread", count(messages, "message")),
        (messages, false) => format!("up to {} unread", count(messages, "message")),
    };
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    let speed = match between_ns {
        0 => String::new(),
        ns => format!(", {}B/s", short(ring.produced as f64 * 1e9 / ns as f64)),
    };
    let moving = if ring.consistent { "" } else { ", moving" };
    let _ = writeln!(
        out,
        "  {which:<9} {style}{}{END} {} of {} B, {held}{speed}; at most {} B{moving}",
        bar(ring, BAR),
        ring.fill,
        ring.capacity,
        ring.high_water
    );
    let _ = writeln!(
        out,
        "            {DIM}head {} tail {}, {} B in pages of {} B, {}{END}",
        ring.head,
        ring.tail,
        ring.memory.size,
        ring.memory.page,
        seals(&ring.memory)
    );
    if let Some(flaw) = &ring.flaw {
        let _ = writeln!(out, "            {BAD}{flaw}{END}");
    }
}

fn session_lines(out: &mut String, report: &Report, session: &Session) {
    let Session { peer, client, server, rates, .. } = session;
    let _ = writeln!(
        out,
        "{HEAD}session {} {}{END} pid {}, uid {}, {}, over {}, for {}",
        session.session,
        printable(&peer.name),
        peer.shown(),
        peer.uid,
        state_of(report, peer.pid, session.state),
        session.transport,
        time(session.age_ns)
    );
    let reactor_sleeps = report
        .servers
        .iter()
        .filter(|server| server.generation == session.generation)
        .any(|server| server.domains.iter().any(|domain| domain.sleep != Sleep::Awake));
    let client_sleeps = session.sleep != Sleep::Awake;
    ring_line(out, "request", &session.request, report.between_ns, reactor_sleeps);
    ring_line(out, "response", &session.response, report.between_ns, client_sleeps);
    let _ = writeln!(
        out,
        "  client    {}, {}{}",
        sleep(session.sleep),
        bell(Some(session.bell), session.rung()),
        place(session.place)
    );
    let oldest = match (session.oldest_call, session.oldest_age_ns) {
        (Some(call), Some(age)) => format!("; call {call} waits for at least {}", time(age)),
        _ => String::new(),
    };
    let _ = writeln!(
        out,
        "  calls     {} in flight{}{oldest}; {} handled{}, {} timed out, {} late answers, {} errors",
        session.in_flight,
        if client_sleeps { "" } else { " at the last sleep" },
        server.received,
        rate(rates, "received"),
        client.timeouts,
        client.late_answers,
        server.errors
    );
    if let Some(samples) = &session.samples {
        sample_lines(out, samples);
    }
    let _ = writeln!(
        out,
        "  waiting   spins that paid {}, yields {}, parks {}, called off {}, late rings {}, lost wakes {}",
        client.spins_paid,
        client.yields,
        client.parks,
        client.arms_called_off,
        client.late_rings,
        client.backstop_rescues
    );
    let skipped = |sent: u64, wakes: u64| sent.saturating_sub(wakes);
    let _ = writeln!(
        out,
        "  wakes     client sent {} (skipped {}), server sent {} (skipped {}); full stalls {} and {}",
        client.wakes_sent,
        skipped(client.sent, client.wakes_sent),
        server.wakes_sent,
        skipped(server.sent, server.wakes_sent),
        client.full_stalls,
        server.full_stalls
    );
}

/// Where the time of calls went.
fn sample_lines(out: &mut String, samples: &Samples) {
    let [request, handler, response] =
        [&samples.request_ring, &samples.handler, &samples.response_ring].map(
            |spread| match spread.calls {
                0 => "-".to_owned(),
                _ => format!("{} (at most {})", time(spread.median_ns), time(spread.most_ns)),
            },
        );
    let _ = writeln!(
        out,
        "  split     request ring {request}, handler {handler}, response ring {response}: median of {}, the last {} ago",
        count(samples.handler.calls, "timed call"),
        time(samples.newest_ns)
    );
    if let Some(call) = &samples.on_its_way {
        let _ = writeln!(
            out,
            "            timed call {} is in the {} for {}",
            call.call,
            call.stage.name(),
            time(call.age_ns)
        );
    }
}

/// Names are chosen by peers; the decoder has already dealt with control characters.
fn printable(name: &str) -> &str {
    if name.is_empty() { "(no name)" } else { name }
}

fn verdicts(out: &mut String, report: &Report, all: bool) {
    if report.findings.is_empty() {
        let _ = writeln!(out, "{GOOD}all is well{END}");
    }
    let word = |severity: Severity| match severity {
        Severity::Problem => format!("{BAD}problem{END}"),
        Severity::Note => format!("{WARN}note{END}"),
    };
    let mut told = BTreeMap::new();
    let mut left_out = Vec::new();
    let mut advised = BTreeSet::new();
    for finding in &report.findings {
        let kind = (finding.severity, finding.code);
        let told = told.entry(kind).or_insert(0);
        *told += 1;
        if all || *told <= FINDINGS {
            let _ = writeln!(out, "{}  {}", word(finding.severity), finding.text);
            // Advice stands where its code comes first.
            if advised.insert(finding.code) {
                let _ =
                    writeln!(out, "{DIM}         {}: {}{END}", finding.code.word(), finding.advice);
            }
        } else if *told == FINDINGS + 1 {
            left_out.push(kind);
        }
    }
    for kind in left_out {
        let more = told[&kind] - FINDINGS;
        let _ = writeln!(
            out,
            "{}  {more} more findings of {}: --all shows them",
            word(kind.0),
            kind.1.word()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::Capture;
    use crate::finding::{Code, Finding};

    /// A report of many sessions, of which some have findings.
    fn crowd(sessions: u64, findings: &[(u64, Severity)]) -> Report {
        let saved = include_bytes!("../../tests/data/stopped.ringsave");
        let mut report = crate::assemble::report(&Capture::read(saved).expect("a saved file"));
        let one = report.sessions.remove(0);
        report.sessions =
            (1..=sessions).map(|session| Session { session, ..one.clone() }).collect();
        let finding = |&(session, severity): &(u64, Severity)| Finding {
            severity,
            code: Code::SlowClient,
            generation: Some(one.generation),
            session: Some(session),
            pid: None,
            text: format!("session {session} is told"),
            advice: Code::SlowClient.advice(),
        };
        report.findings = findings.iter().map(finding).collect();
        report
    }

    fn told(text: &str) -> Vec<&str> {
        let lines = text.lines().filter(|line| line.contains("session ") && line.contains(" pid "));
        lines.map(|line| line.split(' ').nth(1).expect("a number")).collect()
    }

    #[test]
    fn of_many_sessions_those_with_findings_are_told() {
        let report = crowd(1000, &[(700, Severity::Note), (900, Severity::Problem)]);
        let plain = |text: String| anstream::adapter::strip_str(&text).to_string();
        let text = plain(super::text(&report, false));
        let sessions = told(&text);
        assert_eq!(sessions.len(), SESSIONS);
        assert_eq!(&sessions[..3], ["1", "2", "3"]);
        assert_eq!(&sessions[SESSIONS - 2..], ["700", "900"]);
        assert!(text.contains("980 of 1000 sessions are left out: --all"), "{text}");
        let all = plain(super::text(&report, true));
        assert!(told(&all).len() == 1000 && !all.contains("left out"));
        let brief = plain(brief(&report, false));
        assert!(told(&brief).len() == 1000 && brief.lines().count() == 1000 + 1 + 3, "{brief}");
    }

    #[test]
    fn of_many_findings_of_a_kind_some_are_told_and_the_others_counted() {
        let findings: Vec<_> = (1..=500).map(|session| (session, Severity::Problem)).collect();
        let report = crowd(500, &findings);
        let plain = anstream::adapter::strip_str(&text(&report, false)).to_string();
        let problems: Vec<_> = plain.lines().filter(|line| line.starts_with("problem")).collect();
        assert_eq!(problems.len(), FINDINGS + 1);
        assert_eq!(problems[0], "problem  session 1 is told");
        assert_eq!(
            problems[FINDINGS],
            "problem  490 more findings of slow-client: --all shows them"
        );
        let all = anstream::adapter::strip_str(&text(&report, true)).to_string();
        assert_eq!(all.lines().filter(|line| line.starts_with("problem")).count(), 500);
    }
}
