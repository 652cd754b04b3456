//! What is wrong, and who is late: a pure function of what two looks at a target saw.
//!
//! A head is published lazily: up to a quarter of a ring may have been read and not given back,
//! unless the consumer sleeps (it publishes before that). So what lies in the ring of a sleeper is
//! unread for certain; in that of a side that is awake only what exceeds a quarter, or what nobody
//! has touched while the whole process moved nothing.

use crate::finding::{Code, Finding, Severity};
use crate::process::State;
use crate::report::{Report, RingState, Server, Session};
use crate::samples::Stage;
use ringbell::inspect::Sleep;
use std::fmt::Write;

/// From which age on a call that the server has read is worth a note.
const LATE_NS: u64 = 1_000_000_000;

/// Judges everything that is in a report.
pub(crate) fn judge(report: &Report) -> Vec<Finding> {
    let mut findings = Vec::new();
    for server in &report.servers {
        let sessions: Vec<&Session> = report
            .sessions
            .iter()
            .filter(|session| session.generation == server.generation)
            .collect();
        judge_server(report, server, &sessions, &mut findings);
        for session in sessions {
            judge_session(&Scene { report, server: Some(server), session }, &mut findings);
        }
    }
    for session in &report.sessions {
        if !report.servers.iter().any(|server| server.generation == session.generation) {
            judge_session(&Scene { report, server: None, session }, &mut findings);
        }
    }
    for stray in report.strays.iter().filter(|stray| !stray.spare) {
        findings.push(Finding {
            severity: Severity::Problem,
            code: Code::Damaged,
            generation: None,
            session: None,
            pid: None,
            text: format!("a segment ({}) is damaged: {}", stray.found, stray.why),
        });
    }
    findings
        .sort_by_key(|finding| (std::cmp::Reverse(finding.severity), finding.session.is_some()));
    findings
}

/// A time for people.
pub(crate) fn time(ns: u64) -> String {
    match ns {
        0..10_000 => format!("{ns} ns"),
        10_000..10_000_000 => format!("{} us", ns / 1_000),
        10_000_000..10_000_000_000 => format!("{} ms", ns / 1_000_000),
        10_000_000_000..600_000_000_000 => format!("{} s", ns / 1_000_000_000),
        600_000_000_000..36_000_000_000_000 => format!("{} min", ns / 60_000_000_000),
        _ => format!("{} h", ns / 3_600_000_000_000),
    }
}

/// `1 request`, `2 requests`.
pub(crate) fn count(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn halted(state: State) -> &'static str {
    match state {
        State::Traced => "is stopped by a debugger",
        _ => "is stopped by a signal (SIGSTOP or the like)",
    }
}

/// Why a side that was rung seems to sleep, if it has a thread that is ready to run.
fn under_way(side: &str) -> String {
    format!("a thread of the {side} runs or waits for a CPU, so the wake may be under way")
}

fn judge_server(
    report: &Report,
    server: &Server,
    sessions: &[&Session],
    findings: &mut Vec<Finding>,
) {
    let pid = server.peer.pid;
    let mut push = |severity, code, text| {
        let generation = Some(server.generation);
        findings.push(Finding { severity, code, generation, session: None, pid: Some(pid), text });
    };
    let queued: u64 = sessions.iter().map(|session| session.request.messages).sum();
    let waiting = match queued {
        0 => "nothing is queued".to_owned(),
        queued => format!("up to {} queued", count(queued, "request")),
    };
    let held = count(sessions.len() as u64, "session");
    match server.state {
        State::Stopped | State::Traced => push(
            Severity::Problem,
            Code::ServerStopped,
            format!("the server (pid {pid}) {}: {held}, {waiting}", halted(server.state)),
        ),
        State::Dead => push(
            Severity::Problem,
            Code::ServerDead,
            format!("the server (pid {pid}) is dead; {held} left in memory, {waiting}"),
        ),
        State::Alive if is_busy(report, server, sessions) => {
            let text = format!(
                "the server (pid {pid}) is awake, and for at least {} has neither read nor answered anything, with up \
                 to {} in its rings: a handler runs that long, or loops",
                time(report.between_ns),
                count(queued, "request")
            );
            push(Severity::Problem, Code::ServerBusy, text);
        }
        _ => {}
    }
    if server.counters.backstop_rescues > 0 {
        let lost = count(server.counters.backstop_rescues, "wake");
        push(
            Severity::Problem,
            Code::Rescued,
            format!(
                "the server (pid {pid}) was not woken for {lost} and found them by the clock: a bug, report it"
            ),
        );
    }
    if server.domains.iter().any(|domain| matches!(domain.sleep, Sleep::Impossible { .. })) {
        push(
            Severity::Problem,
            Code::Damaged,
            "the server's armed words are impossible ones".into(),
        );
    }
    if lacks(server.memory.seals.as_ref(), &["shrink", "grow", "future-write", "seal"]) {
        push(
            Severity::Problem,
            Code::Unsealed,
            "the status segment is not sealed against writing".into(),
        );
    }
}

fn lacks(seals: Option<&Vec<&'static str>>, wanted: &[&str]) -> bool {
    seals.is_some_and(|seals| wanted.iter().any(|seal| !seals.contains(seal)))
}

/// Whether a server is awake between two looks, with work, and moves nothing at all.
fn is_busy(report: &Report, server: &Server, sessions: &[&Session]) -> bool {
    let awake = server.domains.iter().all(|domain| domain.sleep == Sleep::Awake);
    let moves = server.rates.values().any(|rate| *rate > 0.0)
        || sessions
            .iter()
            .any(|session| session.request.consumed != 0 || session.response.produced != 0);
    report.between_ns != 0
        && awake
        && !moves
        && sessions.iter().any(|session| session.request.stuck && session.request.messages != 0)
}

/// A session and what it belongs to.
struct Scene<'a> {
    report: &'a Report,
    server: Option<&'a Server>,
    session: &'a Session,
}

impl Scene<'_> {
    fn finding(&self, severity: Severity, code: Code, pid: Option<u32>, text: &str) -> Finding {
        let Session { session, peer, .. } = self.session;
        let who = match peer.pid {
            0 => "a client that cannot be seen from here".to_owned(),
            pid => format!("pid {pid}"),
        };
        Finding {
            severity,
            code,
            generation: Some(self.session.generation),
            session: Some(*session),
            pid,
            text: format!("session {session} ({who}): {text}"),
        }
    }

    fn oldest(&self) -> String {
        match self.session.oldest_age_ns {
            Some(age) => format!(", oldest at least {}", time(age)),
            None => String::new(),
        }
    }

    /// For how long what is stuck has been, at least.
    fn stuck_for(&self) -> String {
        match self.report.between_ns {
            0 => "at that moment".to_owned(),
            between => format!("for at least {}", time(between)),
        }
    }

    fn server_pid(&self) -> Option<u32> {
        self.server.map(|server| server.peer.pid)
    }

    fn server_state(&self) -> State {
        self.server.map_or(State::Unknown, |server| server.state)
    }

    /// Whether what is in a ring was there at the first look, or there was but one look.
    fn stays(&self, ring: &RingState) -> bool {
        ring.stuck || (self.report.between_ns == 0 && ring.fill != 0)
    }
}

fn judge_session(scene: &Scene<'_>, findings: &mut Vec<Finding>) {
    let session = scene.session;
    for (ring, which) in [(&session.request, "request"), (&session.response, "response")] {
        if let Some(flaw) = &ring.flaw {
            let text = format!("the {which} ring is damaged: {flaw}");
            findings.push(scene.finding(Severity::Problem, Code::Damaged, None, &text));
        }
    }
    if matches!(session.sleep, Sleep::Impossible { .. }) {
        let text = "the client's armed word is an impossible one: nobody will wake it";
        findings.push(scene.finding(
            Severity::Problem,
            Code::Damaged,
            Some(session.peer.pid),
            text,
        ));
    }
    let seals = ["shrink", "grow", "future-write", "seal"];
    if lacks(session.request.memory.seals.as_ref(), &seals)
        || lacks(session.response.memory.seals.as_ref(), &seals)
    {
        let text = "its segments are not sealed against writing";
        findings.push(scene.finding(Severity::Problem, Code::Unsealed, None, text));
    }
    if session.client.backstop_rescues > 0 {
        let text = format!(
            "the client was not woken for {} and found them by the clock: a bug, report it",
            count(session.client.backstop_rescues, "wake")
        );
        findings.push(scene.finding(
            Severity::Problem,
            Code::Rescued,
            Some(session.peer.pid),
            &text,
        ));
    }
    judge_client(scene, findings);
    judge_requests(scene, findings);
    judge_answers(scene, findings);
    judge_timed_calls(scene, findings);
}

fn judge_client(scene: &Scene<'_>, findings: &mut Vec<Finding>) {
    let session = scene.session;
    let pid = Some(session.peer.pid);
    match session.state {
        State::Stopped | State::Traced => {
            let mut text = format!("the client {}", halted(session.state));
            match session.response.messages {
                0 => {}
                answers => {
                    write!(text, "; up to {} unread", count(answers, "answer")).unwrap_or(())
                }
            }
            findings.push(scene.finding(Severity::Problem, Code::ClientStopped, pid, &text));
        }
        State::Dead => {
            let (severity, why) = match scene.server_state() {
                State::Alive => (Severity::Note, "the server has not let go of its session yet"),
                State::Stopped | State::Traced => {
                    (Severity::Problem, "its session stays, since the server is stopped")
                }
                _ => (Severity::Problem, "its session is left in memory"),
            };
            let text = format!("the client is dead; {why}");
            findings.push(scene.finding(severity, Code::ClientDead, pid, &text));
        }
        State::Alive | State::Unknown => {}
    }
}

/// What lies in the request ring.
fn judge_requests(scene: &Scene<'_>, findings: &mut Vec<Finding>) {
    let Scene { session, report, .. } = scene;
    let Some(server) = scene.server else { return };
    let ring = &session.request;
    let asleep: Vec<_> = server
        .domains
        .iter()
        .filter(|domain| matches!(domain.sleep, Sleep::Armed { .. }))
        .collect();
    let queued = format!("{} queued{}", count(ring.messages, "request"), scene.oldest());
    let stays = scene.stays(ring) && ring.messages != 0;
    if stays && !asleep.is_empty() {
        // One thread: it sleeps on all its bells, or on none.
        let rung = match (asleep.iter().any(|domain| domain.rung == Some(true)), &asleep[..]) {
            (true, _) => Some(true),
            (false, all) if all.iter().all(|domain| domain.rung == Some(false)) => Some(false),
            _ => None,
        };
        let bell = match rung {
            Some(true) => "although the bell was rung",
            Some(false) => "and nobody has rung the bell",
            None => "(whether the bell was rung cannot be seen from here)",
        };
        let (code, why) = match server.state {
            State::Stopped | State::Traced => (
                Code::ServerStopped,
                format!("the server (pid {}) {}", server.peer.pid, halted(server.state)),
            ),
            State::Dead => {
                (Code::ServerDead, format!("the server (pid {}) is dead", server.peer.pid))
            }
            _ if rung == Some(true) && server.busy => (Code::LostWake, under_way("server")),
            _ if rung == Some(true) => (
                Code::LostWake,
                "lost wake, or a ringer that was stopped before it woke the server".into(),
            ),
            _ => (Code::LostWake, "lost wake".into()),
        };
        // At a single moment a request may be there whose ring is about to come.
        let settled =
            asleep.iter().any(|domain| domain.since_before) || server.state != State::Alive;
        let woken = rung == Some(true) && server.busy && server.state == State::Alive;
        let severity = if settled && !woken && report.between_ns != 0 {
            Severity::Problem
        } else {
            Severity::Note
        };
        if settled || report.between_ns == 0 {
            let text = format!("{queued}, server asleep {bell}: {why}");
            findings.push(scene.finding(severity, code, scene.server_pid(), &text));
        }
    } else if stays && server.state.is_halted() {
        let text = format!(
            "up to {queued}: the server (pid {}) {}",
            server.peer.pid,
            halted(server.state)
        );
        findings.push(scene.finding(
            Severity::Problem,
            Code::ServerStopped,
            scene.server_pid(),
            &text,
        ));
    }
    let wants_room = matches!(session.sleep, Sleep::Armed { space: true, .. });
    if ring.stuck && ring.full {
        let waits = if wants_room { ", and the client waits for room" } else { "" };
        let text = format!(
            "the request ring is full ({} of {} bytes){waits}; nothing of it was read {}",
            ring.fill,
            ring.capacity,
            scene.stuck_for()
        );
        findings.push(scene.finding(Severity::Problem, Code::FullRing, scene.server_pid(), &text));
    }
    if !stays
        && session.response.fill == 0
        && session.oldest_age_ns.is_some_and(|age| age >= LATE_NS)
    {
        let text = format!(
            "call {} waits {} for its answer, which is not in the ring: the request was read, and its handler is not done",
            session.oldest_call.unwrap_or(0),
            session
                .oldest_age_ns
                .map_or_else(String::new, |age| format!("for at least {}", time(age))),
        );
        findings.push(scene.finding(Severity::Note, Code::LateAnswer, scene.server_pid(), &text));
    }
}

/// Calls that are timed on their way: they say where a call is whatever its client does meanwhile.
fn judge_timed_calls(scene: &Scene<'_>, findings: &mut Vec<Finding>) {
    let session = scene.session;
    let Some(call) = session.samples.as_ref().and_then(|samples| samples.on_its_way) else {
        return;
    };
    let said = findings.iter().any(|finding| finding.session == Some(session.session));
    if said || call.age_ns < LATE_NS {
        return;
    }
    let (id, age) = (call.call, time(call.age_ns));
    let (pid, text) = match call.stage {
        Stage::RequestRing => (
            scene.server_pid(),
            format!("call {id} was sent {age} ago, and the server has not taken it"),
        ),
        Stage::Handler => (
            scene.server_pid(),
            format!("call {id} was taken {age} ago, and its handler is not done"),
        ),
        Stage::ResponseRing => (
            Some(session.peer.pid),
            format!("call {id} was answered {age} ago, and the client has not taken the answer"),
        ),
    };
    findings.push(scene.finding(Severity::Note, Code::LateAnswer, pid, &text));
}

/// What lies in the response ring.
fn judge_answers(scene: &Scene<'_>, findings: &mut Vec<Finding>) {
    let session = scene.session;
    let ring = &session.response;
    if !scene.stays(ring) || session.state.is_halted() || session.state == State::Dead {
        return;
    }
    let pid = Some(session.peer.pid);
    let unread = format!("{} unread", count(ring.messages, "answer"));
    match session.sleep {
        Sleep::Armed { data: true, .. } if session.since_before && ring.messages != 0 => {
            let woken = session.rung() == Some(true) && session.busy;
            let (bell, why) = match session.rung() {
                Some(true) if woken => ("although its bell was rung", under_way("client")),
                Some(true) => (
                    "although its bell was rung",
                    "lost wake, or a server that was stopped before it woke the client".into(),
                ),
                _ => ("and nobody has rung its bell", "lost wake".into()),
            };
            let why = match scene.server_state() {
                State::Stopped | State::Traced => "the server is stopped".into(),
                _ => why,
            };
            let severity = if woken { Severity::Note } else { Severity::Problem };
            let text = format!("{unread}, client asleep {bell}: {why}");
            findings.push(scene.finding(severity, Code::LostWake, pid, &text));
        }
        // More than can have been read and not given back.
        Sleep::Awake if ring.stuck && ring.fill > ring.capacity / 4 => {
            let (severity, full) = if ring.full {
                (
                    Severity::Problem,
                    "; the ring is full: the server queues, then stops reading this session, then ends it",
                )
            } else {
                (Severity::Note, "")
            };
            let text = format!(
                "up to {unread} ({} of {} bytes), and none was taken {}: the client is busy elsewhere{full}",
                ring.fill,
                ring.capacity,
                scene.stuck_for()
            );
            findings.push(scene.finding(severity, Code::SlowClient, pid, &text));
        }
        _ => {}
    }
}
