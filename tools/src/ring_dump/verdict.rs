//! What is wrong, and who is late: a pure function of what two looks at a target saw.
//!
//! A finding is as serious as what a caller suffers: how long calls wait ([`calls`]), how many fail
//! ([`rates`]). [`server`] and [`session`] say which side is at fault, [`threads`] what it does.
//!
//! A head is published lazily: up to a quarter of a ring may have been read and not given back,
//! unless the consumer sleeps (it publishes before that). So what lies in the ring of a sleeper is
//! unread for certain; in that of a side that is awake only what exceeds a quarter, or what nobody
//! has touched while the whole process moved nothing.

mod calls;
mod rates;
mod server;
mod session;
mod threads;

use crate::finding::{Code, Finding, Severity};
use crate::process::State;
use crate::report::{Report, RingState, Server, Session};
use crate::words::{count, time};
use ringbell::inspect::Sleep;
use ringbell::layout::Engine;
use std::time::Duration;

/// A call that waits longer than this is late, unless another time is asked for.
pub(crate) const LATE: Duration = Duration::from_secs(1);

/// Judges everything that is in a report.
pub(crate) fn judge(report: &Report) -> Vec<Finding> {
    let mut findings = Vec::new();
    for server in &report.servers {
        let of_it = |session: &&Session| session.generation == server.generation;
        let sessions: Vec<&Session> = report.sessions.iter().filter(of_it).collect();
        let scene = ServerScene { report, server, sessions: &sessions };
        server::judge(&scene, &mut findings);
        calls::judge(&scene, &mut findings);
        rates::judge_server(&scene, &mut findings);
        for session in &sessions {
            let scene = Scene { report, server: Some(server), session };
            session::judge(&scene, &mut findings);
            rates::judge_session(&scene, &mut findings);
        }
    }
    for session in &report.sessions {
        if !report.servers.iter().any(|server| server.generation == session.generation) {
            let scene = Scene { report, server: None, session };
            session::judge(&scene, &mut findings);
            rates::judge_session(&scene, &mut findings);
            calls::judge_alone(&scene, &mut findings);
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
            advice: Code::Damaged.advice(),
        });
    }
    findings
        .sort_by_key(|finding| (std::cmp::Reverse(finding.severity), finding.session.is_some()));
    findings
}

fn halted(state: State) -> &'static str {
    match state {
        State::Traced => "is stopped by a debugger",
        _ => "is stopped by a signal (SIGSTOP or the like)",
    }
}

/// A server and what belongs to it.
struct ServerScene<'a> {
    report: &'a Report,
    server: &'a Server,
    sessions: &'a [&'a Session],
}

impl ServerScene<'_> {
    fn finding(&self, severity: Severity, code: Code, text: String) -> Finding {
        Finding {
            severity,
            code,
            generation: Some(self.server.generation),
            session: None,
            pid: Some(self.server.peer.pid),
            text,
            advice: code.advice(),
        }
    }

    /// Requests that may be unread, of all sessions.
    fn queued(&self) -> u64 {
        self.sessions.iter().map(|session| session.request.messages).sum()
    }

    /// For how long the serving thread has not come back to its loop, if it is awake and moved
    /// nothing between the looks; none if it has, or if nobody can know.
    fn stuck_for(&self) -> Option<Stuck> {
        let Self { report, server, sessions } = self;
        let awake = server.domains.iter().all(|domain| domain.sleep == Sleep::Awake);
        let moves = server.rates.values().any(|rate| *rate > 0.0)
            || sessions
                .iter()
                .any(|session| session.request.consumed != 0 || session.response.produced != 0);
        let alive = matches!(server.state, State::Alive | State::Unknown);
        if report.between_ns == 0 || !awake || moves || !alive || self.serves_bytes() {
            return None;
        }
        let stored_ns = server.facts.stored_ns;
        let since = report.at_ns.saturating_sub(stored_ns);
        if stored_ns != 0 && since < report.between_ns {
            return None;
        }
        let has_requests =
            sessions.iter().any(|session| session.request.stuck && session.request.messages != 0);
        // Requests over the socket cannot be seen. A thread that waits for something else than its
        // bells while it says that it is awake is in a handler; one that runs may merely spin.
        let waits = server.threads.iter().any(|thread| {
            use crate::threads::Doing;
            thread.serves && !matches!(thread.doing, Doing::Runs | Doing::Unknown | Doing::Stopped)
        });
        let in_loop = matches!(self.engine(), Some(Engine::Serial | Engine::Concurrent));
        let hidden = in_loop && waits && stored_ns != 0 && server.counters.sessions != 0;
        (has_requests || hidden).then_some(match stored_ns {
            0 => Stuck { ns: report.between_ns, known: false },
            _ => Stuck { ns: since, known: true },
        })
    }

    fn engine(&self) -> Option<Engine> {
        Engine::from_u64(self.server.facts.engine)
    }

    fn serves_bytes(&self) -> bool {
        self.engine() == Some(Engine::Bytes)
    }

    fn is_embedded(&self) -> bool {
        matches!(self.engine(), Some(Engine::EmbeddedSerial | Engine::EmbeddedConcurrent))
    }

    /// Whether answers may come from other threads.
    fn is_concurrent(&self) -> bool {
        matches!(self.engine(), Some(Engine::Concurrent | Engine::EmbeddedConcurrent))
    }
}

/// For how long the serving thread is away from its loop.
#[derive(Debug, Clone, Copy)]
struct Stuck {
    ns: u64,
    /// Whether that is the time; otherwise it is between the looks, and so longer.
    known: bool,
}

/// A session and what it belongs to.
struct Scene<'a> {
    report: &'a Report,
    server: Option<&'a Server>,
    session: &'a Session,
}

/// A session for people.
fn who(session: &Session) -> String {
    match session.peer.pid {
        0 => format!("session {} (a client that cannot be seen from here)", session.session),
        pid => format!("session {} (pid {pid})", session.session),
    }
}

impl Scene<'_> {
    fn finding(&self, severity: Severity, code: Code, pid: Option<u32>, text: &str) -> Finding {
        Finding {
            severity,
            code,
            generation: Some(self.session.generation),
            session: Some(self.session.session),
            pid,
            text: format!("{}: {text}", who(self.session)),
            advice: code.advice(),
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

    fn engine(&self) -> Option<Engine> {
        self.server.and_then(|server| Engine::from_u64(server.facts.engine))
    }

    /// Whether what is in a ring was there at the first look, or there was but one look.
    fn stays(&self, ring: &RingState) -> bool {
        ring.stuck || (self.report.between_ns == 0 && ring.fill != 0)
    }
}
