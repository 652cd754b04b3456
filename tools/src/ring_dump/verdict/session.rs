//! What is wrong with a session: its client, what lies in its rings.

use super::server::lacks;
use super::{Scene, count, halted, threads};
use crate::finding::{Code, Finding, Severity};
use crate::process::State;
use crate::report::RingState;
use ringbell::inspect::Sleep;
use ringbell::layout::{Engine, Mode};
use std::fmt::Write;

/// Why a side that was rung seems to sleep, if it has a thread that is ready to run.
fn under_way(side: &str) -> String {
    format!("a thread of the {side} runs or waits for a CPU, so the wake may be under way")
}

pub(super) fn judge(scene: &Scene<'_>, findings: &mut Vec<Finding>) {
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
    let bytes = scene.engine() == Some(Engine::Bytes);
    let embedded =
        matches!(scene.engine(), Some(Engine::EmbeddedSerial | Engine::EmbeddedConcurrent));
    let asleep: Vec<_> = server
        .domains
        .iter()
        .filter(|domain| matches!(domain.sleep, Sleep::Armed { .. }))
        // Each byte stream is read by a thread of its own.
        .filter(|domain| !bytes || domain.index == session.domain)
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
            _ if rung == Some(true) && embedded => (
                Code::LoopAway,
                format!("its program does not pump it; {}", threads::serving(server)),
            ),
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
        // A program that waits for a CPU may be about to pump it.
        let late = match session.oldest_age_ns {
            Some(age) => age >= report.late_ns,
            None => !server.busy,
        };
        let severity = if code == Code::LoopAway {
            if settled && late { Severity::Problem } else { Severity::Note }
        } else if settled && !woken && report.between_ns != 0 {
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
    if bytes {
        judge_bytes(scene, ring, ("request", "the server's program"), scene.server_pid(), findings);
    } else if ring.stuck && ring.full {
        let waits = if wants_room { ", and the client waits for room" } else { "" };
        let text = format!(
            "the request ring is full ({} of {} bytes){waits}; nothing of it was read {}",
            ring.fill,
            ring.capacity,
            scene.stuck_for()
        );
        // As serious as what a caller suffers. If nobody knows, nothing was read for a whole look.
        let waits = session.oldest_age_ns.map(|age| age.max(report.between_ns));
        let late = waits.is_none_or(|waits| waits >= report.late_ns);
        let severity = if late { Severity::Problem } else { Severity::Note };
        findings.push(scene.finding(severity, Code::FullRing, scene.server_pid(), &text));
    }
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
            let (rung, woken) = (session.rung(), session.rung() == Some(true) && session.busy);
            if rung == Some(true) && matches!(session.sleep, Sleep::Armed { mode: Mode::Event, .. })
            {
                let late = session.oldest_age_ns.is_some_and(|age| age >= scene.report.late_ns);
                let severity = if ring.full || late { Severity::Problem } else { Severity::Note };
                let text = format!(
                    "{unread}: the client's event loop was woken, and has not taken them {}",
                    scene.stuck_for()
                );
                findings.push(scene.finding(severity, Code::SlowClient, pid, &text));
                return;
            }
            let (bell, why) = match rung {
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
        _ if scene.engine() == Some(Engine::Bytes) => {
            judge_bytes(scene, ring, ("response", "the client's program"), pid, findings);
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

/// What lies in a ring of a byte stream: who reads it decides when.
fn judge_bytes(
    scene: &Scene<'_>,
    ring: &RingState,
    (which, reader): (&str, &str),
    pid: Option<u32>,
    findings: &mut Vec<Finding>,
) {
    // Less can have been read and not given back.
    if !ring.stuck || ring.fill <= ring.capacity / 4 {
        return;
    }
    let (severity, full) = if ring.full {
        (Severity::Problem, "; the ring is full, and what is written more waits")
    } else {
        (Severity::Note, "")
    };
    let text = format!(
        "{reader} has read nothing of the {which} ring {}, with up to {} of {} bytes unread{full}",
        scene.stuck_for(),
        ring.fill,
        ring.capacity
    );
    findings.push(scene.finding(severity, Code::UnreadBytes, pid, &text));
}
