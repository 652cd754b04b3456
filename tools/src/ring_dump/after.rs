//! What is known after death: who a core dump is of, what ended it, and which request was in its
//! handler; and what is missing.
//!
//! A dump is of its own time. How other processes were then is not in it, and what /proc says today
//! is about others. A serial server publishes how far it has read a ring late, but each answer at
//! once. So the request that is in its handler is the first one behind the last that was answered.
//! If several sessions have such a request, the rings do not tell which of them it was, unless the
//! call was timed.

use crate::capture::Capture;
use crate::core_dump::{Dump, signal_name};
use crate::decoded::{Decoded, RingImage, rings};
use crate::finding::{Code, Finding, Severity};
use crate::report::{Certainty, Core, InHandler, Report, Server, Session};
use crate::words::{count, time};
use ringbell::inspect::{Record, Ring, Sleep};
use ringbell::layout::{Engine, Kind, LAYOUT_VERSION};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Bytes of a request that are told.
const BYTES: usize = 48;
/// Requests that are told.
const REQUESTS: usize = 32;
/// Of these, how many for people.
const TOLD: usize = 4;

/// Adds what a dump or a file says to a report that was judged.
pub(crate) fn judge(capture: &Capture, now: &Decoded<'_>, report: &mut Report) {
    let mut found = Vec::new();
    if let Some(dump) = &capture.dump {
        let core = core(dump, now, report);
        if dump.fatal().is_some() {
            // Others went on while the kernel wrote the dump, and rang for a server that was gone.
            report.findings.retain(|finding| finding.code != Code::LostWake);
            found.push(crashed(&core, report));
        }
        if dump.left_out != 0 {
            let text = format!(
                "the bytes of {} that were mapped are not in the dump",
                count(dump.left_out, "segment")
            );
            found.push(finding(Severity::Problem, Code::Cut, None, text));
        }
        report.core = Some(core);
    }
    if let Some((have, whole)) = capture.cut {
        let what = if capture.dump.is_some() { "core dump" } else { "file" };
        let text = format!("the {what} is cut: {have} of {whole} bytes");
        found.push(finding(Severity::Problem, Code::Cut, None, text));
    }
    found.extend(other_layouts(report));
    report.findings.extend(found);
    report
        .findings
        .sort_by_key(|finding| (std::cmp::Reverse(finding.severity), finding.session.is_some()));
    if let Some(first) = report.findings.iter().position(|one| one.code == Code::Crashed) {
        report.findings[..=first].rotate_right(1);
    }
}

fn finding(severity: Severity, code: Code, generation: Option<u64>, text: String) -> Finding {
    let advice = code.advice();
    Finding { severity, code, generation, session: None, pid: None, text, advice }
}

/// A note for each server of another layout beside those that can be read.
fn other_layouts(report: &Report) -> Vec<Finding> {
    let mut others: BTreeMap<(u32, u64), u64> = BTreeMap::new();
    for stray in &report.strays {
        if let Some(foreign) = stray.foreign {
            *others.entry(foreign).or_default() += 1;
        }
    }
    let of = |((version, generation), segments): ((u32, u64), u64)| {
        let which = if version > LAYOUT_VERSION { "newer" } else { "older" };
        let text = format!(
            "{} of server {generation:016x}, which is {which}: layout version {version}, this program knows {LAYOUT_VERSION}",
            count(segments, "segment")
        );
        finding(Severity::Note, Code::OtherLayout, Some(generation), text)
    };
    // As many as there are servers in a process; a damaged file may name more.
    others.into_iter().take(REQUESTS).map(of).collect()
}

fn core(dump: &Dump, now: &Decoded<'_>, report: &Report) -> Core {
    let notes = &dump.notes;
    // A client has the server's status segment mapped, too.
    let own = |server: &&Server| server.peer.pid == notes.pid && notes.pid != 0;
    let server = report.servers.iter().find(own);
    let mut requests: Vec<InHandler> =
        report.servers.iter().filter(own).flat_map(|own| in_handlers(own, now, report)).collect();
    requests.sort_by_key(|request| (request.certainty, request.generation, request.session));
    requests.truncate(REQUESTS);
    Core {
        pid: notes.pid,
        name: notes.name.clone(),
        uid: notes.uid,
        signal: dump.fatal().map(signal_name),
        signal_code: notes.code,
        address: notes.address.map(|address| format!("{address:#x}")),
        sender: notes.sender,
        thread: notes.threads.first().copied(),
        threads: notes.threads.clone(),
        thread_count: notes.thread_count,
        serving_thread: server.map(|server| server.facts.thread).filter(|thread| *thread != 0),
        requests,
        segments_left_out: dump.left_out,
    }
}

/// The requests that were in the handlers of a server, or may have been.
fn in_handlers(server: &Server, now: &Decoded<'_>, report: &Report) -> Vec<InHandler> {
    let sessions = report.sessions.iter().filter(|one| one.generation == server.generation);
    let engine = Engine::from_u64(server.facts.engine);
    let is_serial = matches!(engine, Some(Engine::Serial | Engine::EmbeddedSerial));
    let sleeps = server.domains.iter().any(|domain| matches!(domain.sleep, Sleep::Armed { .. }));
    let mut found = Vec::new();
    for session in sessions {
        let Some([requests, _]) = rings(now, (session.generation, session.session)) else {
            continue;
        };
        let request = |call, certainty| describe(&requests, session, call, certainty);
        let told = told(session, is_serial, now);
        match told {
            // A sleeping thread is in no handler. Those of a concurrent server are elsewhere.
            Some(call) if !is_serial || !sleeps => found.push(request(call, Certainty::Told)),
            _ if sleeps || engine == Some(Engine::Bytes) => {}
            _ => {
                found.extend(first_unanswered(session).map(|call| request(call, Certainty::OneOf)))
            }
        }
    }
    if is_serial {
        // It handles one at a time: what is told leaves no room for guesses.
        if found.iter().any(|one| one.certainty == Certainty::Told) {
            found.retain(|one| one.certainty == Certainty::Told);
        } else if let [only] = &mut found[..] {
            only.certainty = Certainty::Only;
        }
    }
    found
}

/// A call that the server says is in a handler.
fn told(session: &Session, is_serial: bool, now: &Decoded<'_>) -> Option<u64> {
    let key = (session.generation, session.session);
    let (response, _) = now.responses.get(&key)?;
    let timed = response.samples.iter().filter(|call| call.taken_ns != 0 && call.done_ns == 0);
    let timed = timed.max_by_key(|call| call.taken_ns).map(|call| call.call);
    let half = &session.server;
    let in_flight =
        (!is_serial && half.in_flight != 0 && half.oldest_call != 0).then_some(half.oldest_call);
    timed.or(in_flight)
}

/// The first request that has no answer: in the ring, or, if its space was given back, the one over
/// which the client sleeps.
fn first_unanswered(session: &Session) -> Option<u64> {
    session.request.first_call.or(session.oldest_call.filter(|_| session.response.fill == 0))
}

/// A call, with what is still in the ring of its request.
fn describe(
    requests: &RingImage<'_>,
    session: &Session,
    call: u64,
    certainty: Certainty,
) -> InHandler {
    let mut described = InHandler {
        generation: session.generation,
        session: session.session,
        client: session.peer.pid,
        call,
        certainty,
        length: None,
        bytes: Vec::new(),
    };
    let whole = requests.image.whole();
    if let Some(ring) = Ring::new(&whole, requests.capacity) {
        let is_it = |record: &Record<'_>| {
            record.call == call
                && record.begins_message()
                && matches!(record.header.kind(), Some(Kind::Request | Kind::OneWay))
        };
        let lap = ringbell::inspect::lap_start(requests.tail, requests.capacity);
        let mut ranges = [requests.head, lap].into_iter();
        if let Some(record) =
            ranges.find_map(|from| ring.walk(from, requests.tail).find(|record| is_it(record)))
        {
            described.length = Some(record.total.unwrap_or(record.payload.len() as u64));
            described.bytes = record.payload[..record.payload.len().min(BYTES)].to_vec();
        }
    }
    described
}

impl InHandler {
    /// `call 7 of session 3 (pid 44), 10 bytes |crash now.|`
    fn text(&self) -> String {
        let mut text = format!("call {} of session {}", self.call, self.session);
        if self.client != 0 {
            let _ = write!(text, " (pid {})", self.client);
        }
        if let Some(length) = self.length {
            let _ = write!(text, ", {}", count(length, "byte"));
        }
        if !self.bytes.is_empty() {
            let printable = |byte: &u8| match byte {
                32..127 => char::from(*byte),
                _ => '.',
            };
            let _ = write!(text, " |{}|", self.bytes.iter().map(printable).collect::<String>());
        }
        text
    }
}

impl Core {
    /// `core dump of pid 7 (name), ended by SIGSEGV in thread 8 at address 0x10`
    pub(crate) fn what(&self) -> String {
        let mut text = "core dump of ".to_owned();
        match self.pid {
            0 => text += "a process that it does not name",
            pid => drop(write!(text, "pid {pid} ({})", self.name)),
        }
        let Some(signal) = &self.signal else {
            return text + ", which no signal ended: it was dumped by a debugger or the like";
        };
        let _ = write!(text, ", ended by {signal}");
        if let Some(thread) = self.thread {
            let serves = self.serving_thread == Some(u64::from(thread));
            let serves = if serves { " (the serving thread)" } else { "" };
            let _ = write!(text, " in thread {thread}{serves}");
        }
        match (&self.address, self.sender) {
            (Some(address), _) => drop(write!(text, " at address {address}")),
            (None, Some(sender)) if sender == self.pid => text += ", which it raised itself",
            (None, Some(0)) | (None, None) => {}
            (None, Some(sender)) => drop(write!(text, ", sent by pid {sender}")),
        }
        text
    }

    /// What its threads and handlers were at, if it served.
    fn serving(&self) -> String {
        let mut text = match (self.serving_thread, self.thread) {
            (Some(serving), Some(ended)) if serving != u64::from(ended) => {
                format!(" (the serving thread is {serving})")
            }
            _ => String::new(),
        };
        let all = |certainty| {
            let of_it: Vec<_> =
                self.requests.iter().filter(|one| one.certainty == certainty).collect();
            let mut told: Vec<_> = of_it.iter().take(TOLD).map(|one| one.text()).collect();
            if of_it.len() > TOLD {
                told.push(format!("{} more", of_it.len() - TOLD));
            }
            (of_it.len(), told.join("; "))
        };
        match (all(Certainty::Told), all(Certainty::Only), all(Certainty::OneOf)) {
            ((1.., told), _, _) => drop(write!(text, "; in handlers: {told}")),
            (_, (1.., only), _) => drop(write!(text, "; in its handler: {only}")),
            (_, _, (1, one)) => drop(write!(text, "; not answered, and read or next: {one}")),
            (_, _, (2.., one)) => drop(write!(text, "; in its handler, one of: {one}")),
            _ if self.serving_thread.is_some() => text += "; no request was in its handler",
            _ => {}
        }
        text
    }
}

fn crashed(core: &Core, report: &Report) -> Finding {
    let mut text = format!("{}{}", core.what(), core.serving());
    let as_client: Vec<&Session> =
        report.sessions.iter().filter(|one| one.peer.pid == core.pid && core.pid != 0).collect();
    for session in as_client.iter().take(TOLD) {
        let in_flight = match session.in_flight {
            0 => String::new(),
            calls => format!(", with {} in flight when it last slept", count(calls, "call")),
        };
        let _ = write!(text, "; it was the client of session {}{in_flight}", session.session);
    }
    let generations: Vec<u64> = report.servers.iter().map(|server| server.generation).collect();
    let session = match (&core.requests[..], &as_client[..]) {
        ([only], _) => Some(only.session),
        (_, [only]) => Some(only.session),
        _ => None,
    };
    Finding {
        session,
        pid: (core.pid != 0).then_some(core.pid),
        ..finding(
            Severity::Problem,
            Code::Crashed,
            generations.first().copied().filter(|_| generations.len() == 1),
            text,
        )
    }
}

/// What is said behind the verdict of what is not of now: what it is, when and where it was
/// taken.
pub(crate) fn header(report: &Report, now_ms: u64) -> Option<String> {
    let what = match (&report.core, report.saved) {
        (Some(core), saved) => {
            let saved = if saved { "saved, of a " } else { "" };
            format!("{saved}{}; written", core.what())
        }
        (None, true) => "saved file; taken".to_owned(),
        (None, false) => return None,
    };
    let ago = match now_ms.checked_sub(report.unix_ms) {
        Some(ago) => format!("{} ago", age(ago)),
        None => "in what is the future here".to_owned(),
    };
    let place = match &report.host {
        Some(host) if host.boot.is_empty() => format!(" on {}", host.name),
        Some(host) => format!(" on {}, boot {}", host.name, host.boot),
        None => String::new(),
    };
    Some(format!("{what} {ago} ({}){place}", report.date))
}

/// A time in ms for people, up to days.
pub(crate) fn age(ms: u64) -> String {
    const HOUR: u64 = 3_600_000;
    const TWO_HOURS: u64 = 2 * HOUR;
    const TWO_DAYS: u64 = 48 * HOUR;
    match ms {
        0..TWO_HOURS => time(ms * 1_000_000),
        TWO_HOURS..TWO_DAYS => format!("{} h", ms / HOUR),
        _ => format!("{} days", ms / (24 * HOUR)),
    }
}
