//! Makes a report of a capture.

use crate::after;
use crate::capture::Capture;
use crate::decoded::{Decoded, Identified, rings};
use crate::export;
use crate::places;
use crate::process::{Process, State};
use crate::report::*;
use crate::samples::{self};
use crate::threads::Threads;
use crate::verdict;
use ringbell::inspect::{Sleep, StatusSegment};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Puts together what a capture says.
pub(crate) fn report(capture: &Capture) -> Report {
    report_with(capture, verdict::LATE)
}

/// The same, with calls that wait for longer than `late` called so.
#[allow(clippy::cast_possible_truncation, reason = "at most a day")]
pub(crate) fn report_with(capture: &Capture, late: Duration) -> Report {
    let last = capture.last();
    let first = (capture.takes.len() > 1).then(|| &capture.takes[capture.takes.len() - 2]);
    let now = Decoded::of(last);
    let then = first.map(Decoded::of).unwrap_or_default();
    let between_ns = first.map_or(0, |first| last.at_ns.saturating_sub(first.at_ns));
    let processes: BTreeMap<u32, &Process> =
        last.processes.iter().map(|process| (process.pid, process)).collect();
    let how_is = |pid: u32| {
        processes.get(&pid).map_or((State::Unknown, false), |process| (process.state, process.busy))
    };

    let mut report = Report {
        version: JSON_VERSION,
        target: capture.target.clone(),
        unix_ms: last.unix_ms,
        date: export::date(last.unix_ms),
        at_ns: last.at_ns,
        between_ns,
        late_ns: late.as_nanos() as u64,
        listens_at: capture.sockets.clone(),
        over_sockets: last.sockets,
        servers: Vec::new(),
        sessions: Vec::new(),
        strays: Vec::new(),
        host: capture.host.clone(),
        saved: capture.saved,
        core: None,
        findings: Vec::new(),
    };
    for (generation, (status, image)) in &now.statuses {
        let before = then.statuses.get(generation).map(|(status, _)| status);
        let (state, busy) = how_is(status.server.pid);
        let party = now.parties.get(&(*generation, None));
        let state = if party.is_some_and(Identified::is_gone) { State::Dead } else { state };
        report.servers.push(Server {
            generation: *generation,
            layout: status.identity.version,
            peer: now.party((*generation, None), &status.server),
            host_pid: party.and_then(Identified::host_pid),
            inode: image.inode,
            held_by: party.and_then(Identified::held_by),
            listens_at: places::listens_at(capture, *generation),
            state,
            busy,
            age_ns: last.at_ns.saturating_sub(status.identity.created_ns),
            place: status.place,
            domains: domains(*generation, status, before, &now),
            rates: before.map_or_else(BTreeMap::new, |before| {
                rates(status.counters.since(&before.counters).iter(), between_ns)
            }),
            counters: status.counters,
            facts: status.facts,
            threads: threads(
                processes.get(&status.server.pid).map(|process| &process.threads),
                first.and_then(|first| {
                    let mut before = first.processes.iter();
                    before.find(|process| process.pid == status.server.pid)
                }),
                status.facts.thread,
            ),
            memory: Memory::of(image),
        });
    }
    for key in now.sessions() {
        report.sessions.extend(session(key, &now, &then, last.at_ns, between_ns, how_is));
    }
    report.strays = strays(&now);
    report.findings = verdict::judge(&report);
    places::judge(&mut report, &capture.listening);
    after::judge(capture, &now, &mut report);
    report
}

/// What threads do now, with the CPU time that they had since the first look.
fn threads(now: Option<&Threads>, before: Option<&Process>, serves: u64) -> Vec<ThreadState> {
    let Some(now) = now else { return Vec::new() };
    let states = now.seen.iter().map(|thread| {
        let earlier = before.and_then(|before| {
            before.threads.seen.iter().find(|earlier| earlier.tid == thread.tid)
        });
        let earlier = earlier.and_then(|earlier| earlier.cpu_ns);
        ThreadState {
            tid: thread.tid,
            name: thread.name.clone(),
            serves: serves != 0 && thread.own_tid.map(u64::from) == Some(serves),
            doing: thread.doing(),
            place: thread.place().map(str::to_owned),
            cpu_ns: thread.cpu_ns.zip(earlier).and_then(|(now, then)| now.checked_sub(then)),
        }
    });
    states.collect()
}

fn domains(
    generation: u64,
    status: &StatusSegment,
    before: Option<&StatusSegment>,
    now: &Decoded<'_>,
) -> Vec<Domain> {
    let sleeps = status.sleeps.iter().enumerate();
    let all = sleeps.map(|(index, sleep)| {
        let bell = now.bell(generation, index as u64);
        let then = before.and_then(|before| before.sleeps.get(index)).copied();
        Domain {
            index: index as u64,
            sleep: *sleep,
            bell,
            rung: bell.zip(sleep.ticket()).map(|(bell, ticket)| bell != ticket),
            since_before: *sleep != Sleep::Awake && then == Some(*sleep),
        }
    });
    all.filter(|domain| domain.bell.is_some() || domain.sleep != Sleep::Awake).collect()
}

fn session(
    key: (u64, u64),
    now: &Decoded<'_>,
    then: &Decoded<'_>,
    at_ns: u64,
    between_ns: u64,
    how_is: impl Fn(u32) -> (State, bool),
) -> Option<Session> {
    let (request, request_image) = now.requests.get(&key)?;
    let (response, response_image) = now.responses.get(&key)?;
    let before = then.requests.get(&key).map(|(request, _)| request);
    let [request_ring, response_ring] = rings(now, key)?;
    let rings_before = rings(then, key);
    let at = |index: usize| rings_before.as_ref().map(|rings| &rings[index]);
    let client = request.counters;
    // What the client stored before its last sleep holds while it sleeps.
    let asleep = request.sleep != Sleep::Awake;
    let oldest = asleep && client.oldest_call != 0;
    let (state, busy) = how_is(response.client.pid);
    let party = now.parties.get(&(key.0, Some(key.1)));
    let state = if party.is_some_and(Identified::is_gone) { State::Dead } else { state };
    Some(Session {
        session: key.1,
        generation: key.0,
        peer: now.party((key.0, Some(key.1)), &response.client),
        host_pid: party.and_then(Identified::host_pid),
        state,
        busy,
        age_ns: at_ns.saturating_sub(response.identity.created_ns),
        transport: "shared memory",
        sleep: request.sleep,
        since_before: asleep && before.is_some_and(|before| before.sleep == request.sleep),
        bell: response.bell,
        place: request.place,
        domain: u64::from(response.domain),
        streams: response_ring.streams(),
        answered: response_ring.answered(),
        request: request_ring.state(at(0), client.fill_peak, between_ns, &response_ring.answered()),
        response: response_ring.state(
            at(1),
            response.counters.fill_peak,
            between_ns,
            &BTreeSet::new(),
        ),
        in_flight: client.in_flight,
        oldest_call: oldest.then_some(client.oldest_call),
        // The client's word. No call is older than its session, which began by the server's.
        oldest_age_ns: oldest.then(|| {
            let age_ns = at_ns.saturating_sub(response.identity.created_ns);
            at_ns.saturating_sub(client.oldest_sent_ns).min(age_ns)
        }),
        samples: samples::join(
            &samples::settled(request_image),
            &samples::settled(response_image),
            at_ns,
        ),
        client,
        server: response.counters,
        rates: then.responses.get(&key).map_or_else(BTreeMap::new, |(before, _)| {
            rates(response.counters.since(&before.counters).iter(), between_ns)
        }),
        client_rates: before.map_or_else(BTreeMap::new, |before| {
            rates(client.since(&before.counters).iter(), between_ns)
        }),
    })
}

/// Segments that are damaged or alone.
fn strays(now: &Decoded<'_>) -> Vec<Stray> {
    let requests: BTreeSet<_> = now.requests.keys().collect();
    let responses: BTreeSet<_> = now.responses.keys().collect();
    let alone = requests.symmetric_difference(&responses).map(|key| {
        let image = now.requests.get(key).map(|(_, image)| image);
        let image = image.or_else(|| now.responses.get(key).map(|(_, image)| image));
        Stray {
            found: image.map_or_else(String::new, |image| image.found.clone()),
            why: format!("session {}: the other segment is not here: it begins, or ends", key.1),
            spare: true,
            foreign: None,
        }
    });
    let segments = now
        .requests
        .values()
        .map(|(segment, image)| (&segment.identity, image))
        .chain(now.responses.values().map(|(segment, image)| (&segment.identity, image)))
        .chain(now.statuses.values().map(|(segment, image)| (&segment.identity, image)));
    let damaged =
        segments.filter(|(identity, _)| !identity.flaws.is_empty()).map(|(identity, image)| {
            Stray {
                found: image.found.clone(),
                why: identity.flaws.join(", "),
                spare: false,
                foreign: None,
            }
        });
    now.strays.iter().cloned().chain(alone).chain(damaged).collect()
}
