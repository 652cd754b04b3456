//! What is wrong with a server itself.

use super::{ServerScene, count, halted, threads, time};
use crate::finding::{Code, Finding, Severity};
use crate::process::State;
use ringbell::inspect::Sleep;

pub(super) fn judge(scene: &ServerScene<'_>, findings: &mut Vec<Finding>) {
    let ServerScene { server, sessions, .. } = scene;
    let pid = server.peer.pid;
    let mut push =
        |severity, code, text: String| findings.push(scene.finding(severity, code, text));
    let waiting = match scene.queued() {
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
        State::Alive | State::Unknown => {
            if let Some((severity, text)) = busy(scene) {
                push(severity, Code::ServerBusy, text);
            }
        }
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

pub(super) fn lacks(seals: Option<&Vec<&'static str>>, wanted: &[&str]) -> bool {
    seals.is_some_and(|seals| wanted.iter().any(|seal| !seals.contains(seal)))
}

/// Whether the serving thread is in one handler, and what of it.
fn busy(scene: &ServerScene<'_>) -> Option<(Severity, String)> {
    let ServerScene { report, server, sessions } = scene;
    let stuck = scene.stuck_for()?;
    // What has waited for long waits for this thread.
    let oldest = sessions.iter().filter_map(|session| session.oldest_age_ns).max();
    let late = match oldest {
        // Nobody says for how long: the time between the looks is all that is known.
        None if !stuck.known => true,
        _ => stuck.ns.max(oldest.unwrap_or(0)) >= report.late_ns,
    };
    let severity = if late { Severity::Problem } else { Severity::Note };
    let how_long = match stuck.known {
        true => time(stuck.ns),
        false => format!("at least {}", time(stuck.ns)),
    };
    let where_it_is = if scene.is_embedded() {
        "its program is in a handler, or does not come back to it"
    } else {
        "a handler runs that long, or loops"
    };
    let queued = match scene.queued() {
        0 => "requests that cannot be seen from here".to_owned(),
        queued => format!("up to {} in its rings", count(queued, "request")),
    };
    let text = format!(
        "the server (pid {}) is awake, and for {how_long} has neither read nor answered anything, with {queued}: \
         {where_it_is}; {}",
        server.peer.pid,
        threads::serving(server)
    );
    Some((severity, text))
}
