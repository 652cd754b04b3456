//! How long calls wait, whatever serves them: what a caller suffers.
//!
//! Several say since when a call waits: the client's half of the session (when it first slept over
//! it), the server's half and the server's facts (when the serving thread first did), and calls
//! that are timed. Each is at least: the oldest of them is told.

use super::{Scene, ServerScene, Stuck, count, threads, time, who};
use crate::finding::{Code, Finding, Severity};
use crate::process::State;
use crate::report::{Report, Session};
use crate::samples::Stage;
use ringbell::inspect::Sleep;

/// A call that waits.
#[derive(Debug, Clone, Copy)]
struct Wait<'a> {
    /// Its session; none if the socket carries it, of which nothing can be seen.
    session: Option<&'a Session>,
    /// The number of its session.
    number: u64,
    call: u64,
    age_ns: u64,
    /// Whether it waits exactly for that time, as far as clocks go; otherwise at least.
    exact: bool,
    /// Where it is, if that is known.
    stage: Option<Stage>,
}

/// What a server has said by going to sleep.
#[derive(Debug, Clone, Copy)]
struct Said {
    /// How far it has read.
    read: bool,
    /// Which requests are in flight, but for those whose answer comes in items.
    in_flight: bool,
}

/// The call of a session that waits longest, as far as anybody says so.
fn oldest<'a>(report: &Report, session: &'a Session, said: Said) -> Option<Wait<'a>> {
    let wait = |call, age_ns, stage| Wait {
        session: Some(session),
        number: session.session,
        call,
        age_ns,
        exact: false,
        stage,
    };
    // A stream that brings items does not wait.
    let waits = |call: &u64| *call != 0 && !session.streams.contains(call);
    let is_answered = |call: u64| session.answered.contains(&call);
    let of_client = session.oldest_call.filter(waits).zip(session.oldest_age_ns);
    // It has read all, and nothing of it waits: then the call is a stream that is open.
    let is_stream = |call: u64| {
        let half = &session.server;
        said.in_flight && session.request.fill == 0 && half.oldest_call == 0 && !is_answered(call)
    };
    let of_client = of_client.filter(|(call, _)| !is_stream(*call)).map(|(call, age)| {
        let stage = match () {
            () if is_answered(call) => Some(Stage::ResponseRing),
            // A sleeper has said how far it has read.
            () if said.read && session.request.fill == 0 => Some(Stage::Handler),
            () => None,
        };
        wait(call, age, stage)
    });
    let half = &session.server;
    let of_server = Some(half.oldest_call)
        .filter(waits)
        .filter(|call| half.oldest_sent_ns != 0 && half.in_flight != 0 && !is_answered(*call));
    let of_server = of_server.map(|call| {
        wait(call, report.at_ns.saturating_sub(half.oldest_sent_ns), Some(Stage::Handler))
    });
    let timed = session.samples.as_ref().and_then(|samples| samples.on_its_way);
    let timed = timed
        .filter(|call| waits(&call.call))
        .map(|call| Wait { exact: true, ..wait(call.call, call.age_ns, Some(call.stage)) });
    let all = [of_client, of_server, timed].into_iter().flatten();
    let longest = all.clone().max_by_key(|wait| wait.age_ns)?;
    // What one source does not know another one may.
    let stage =
        longest.stage.or(all.filter(|wait| wait.call == longest.call).find_map(|wait| wait.stage));
    Some(Wait { stage, ..longest })
}

/// Whether somebody waits for the answers of a session who can.
fn is_awaited(session: &Session) -> bool {
    !session.state.is_halted() && session.state != State::Dead
}

pub(super) fn judge(scene: &ServerScene<'_>, findings: &mut Vec<Finding>) {
    let ServerScene { report, server, sessions } = scene;
    // That a server does not run is said, and why nothing else can be right.
    if server.state.is_halted() || server.state == State::Dead || scene.serves_bytes() {
        return;
    }
    let asleep = server.domains.iter().any(|domain| matches!(domain.sleep, Sleep::Armed { .. }));
    let said = Said { read: asleep, in_flight: asleep && scene.is_concurrent() };
    let awaited = sessions.iter().filter(|session| is_awaited(session));
    let mut late: Vec<Wait<'_>> =
        awaited.filter_map(|session| oldest(report, session, said)).collect();
    late.extend(of_facts(scene));
    late.retain(|wait| wait.age_ns >= report.late_ns);
    let (there, mut late): (Vec<_>, Vec<_>) =
        late.into_iter().partition(|wait| wait.stage == Some(Stage::ResponseRing));
    for wait in there {
        unread(report, wait, findings, server.generation);
    }
    late.sort_by_key(|wait| std::cmp::Reverse(wait.age_ns));
    let stuck = scene.stuck_for();
    let Some(longest) = late.first() else {
        findings.extend(stuck.and_then(|stuck| in_the_handler(scene, stuck)));
        return;
    };
    let which = match longest.session {
        Some(session) => who(session),
        None => format!("session {} (over the socket)", longest.number),
    };
    let at_least = if longest.exact { "" } else { "at least " };
    let waits =
        format!("call {} of {which} waits for {at_least}{}", longest.call, time(longest.age_ns));
    let others = match late.len() - 1 {
        0 => String::new(),
        others => format!(
            ", and calls of {} for longer than {}",
            count(others as u64, "other session"),
            time(report.late_ns)
        ),
    };
    let in_flight = match server.counters.in_flight {
        0 | 1 => String::new(),
        in_flight => format!(" ({in_flight} are in flight)"),
    };
    let place = match (longest.stage, stuck) {
        (Some(Stage::RequestRing), _) => "the server has not taken its request",
        (Some(Stage::Handler), _) => {
            "the server has taken its request, and the handler has not answered"
        }
        (_, Some(_)) => "the serving thread is in a handler, with this request or another one",
        _ => "it has no answer",
    };
    let doing = if stuck.is_some() || !scene.is_concurrent() {
        threads::serving(server)
    } else {
        threads::others(server)
    };
    let text = format!("{waits}{others}{in_flight}: {place}; {doing}");
    findings.push(Finding {
        session: Some(longest.number),
        ..scene.finding(Severity::Problem, Code::LateAnswer, text)
    });
}

/// What the server itself says of its oldest call, if that is of a session of which nothing else
/// can be seen.
fn of_facts<'a>(scene: &ServerScene<'_>) -> Option<Wait<'a>> {
    let facts = &scene.server.facts;
    let seen = scene.sessions.iter().any(|session| session.session == facts.oldest_session);
    let known = facts.oldest_call != 0 && facts.oldest_since_ns != 0;
    (known && !seen).then(|| Wait {
        session: None,
        number: facts.oldest_session,
        call: facts.oldest_call,
        age_ns: scene.report.at_ns.saturating_sub(facts.oldest_since_ns),
        exact: false,
        stage: Some(Stage::Handler),
    })
}

/// A call of which no client and no server says anything: the thread that serves it is in it.
fn in_the_handler(scene: &ServerScene<'_>, stuck: Stuck) -> Option<Finding> {
    if !stuck.known || stuck.ns < scene.report.late_ns {
        return None;
    }
    let waits = match scene.queued() {
        0 => "a request that cannot be seen from here waits".to_owned(),
        1 => "up to 1 request waits".to_owned(),
        queued => format!("up to {queued} requests wait"),
    };
    let text = format!(
        "{waits} for about {}: the serving thread is in a handler for so long; {}",
        time(stuck.ns),
        threads::serving(scene.server)
    );
    Some(scene.finding(Severity::Problem, Code::LateAnswer, text))
}

/// An answer that is there and is not taken: nobody waits for it just now.
fn unread(report: &Report, wait: Wait<'_>, findings: &mut Vec<Finding>, generation: u64) {
    let Some(session) = wait.session else { return };
    let said = |finding: &Finding| {
        finding.session == Some(session.session) && finding.generation == Some(generation)
    };
    if findings.iter().any(said) {
        return;
    }
    let at_least = if wait.exact { "" } else { "at least " };
    let text = format!(
        "call {} was answered {at_least}{} ago, and the client has not taken the answer",
        wait.call,
        time(wait.age_ns)
    );
    let scene = Scene { report, server: None, session };
    findings.push(scene.finding(Severity::Note, Code::LateAnswer, Some(session.peer.pid), &text));
}

/// A session whose server cannot be seen.
pub(super) fn judge_alone(scene: &Scene<'_>, findings: &mut Vec<Finding>) {
    let said = Said { read: false, in_flight: false };
    let Some(wait) = oldest(scene.report, scene.session, said) else { return };
    if !is_awaited(scene.session) || wait.age_ns < scene.report.late_ns {
        return;
    }
    if wait.stage == Some(Stage::ResponseRing) {
        return unread(scene.report, wait, findings, scene.session.generation);
    }
    let at_least = if wait.exact { "" } else { "at least " };
    let text = format!(
        "call {} waits for {at_least}{}; its server cannot be seen from here",
        wait.call,
        time(wait.age_ns)
    );
    findings.push(scene.finding(Severity::Problem, Code::LateAnswer, None, &text));
}
