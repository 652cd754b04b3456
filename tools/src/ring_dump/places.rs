//! What is wrong with where a server is: its socket, its memory, its process.

use crate::capture::Capture;
use crate::finding::{Code, Finding, Severity};
use crate::process::State;
use crate::report::{Party, Report};
use crate::sockets::{Listening, Spot};

/// Where the server of a generation listens; if it is not known which of several does, all.
pub(crate) fn listens_at(capture: &Capture, generation: u64) -> Vec<String> {
    let listening = &capture.listening;
    if listening.is_empty() {
        // A file that was saved when no more was known.
        return capture.sockets.clone();
    }
    let may_be = |one: &&Listening| one.generation.is_none_or(|of| of == generation);
    listening.iter().filter(may_be).map(|one| one.path.clone()).collect()
}

/// Adds what is wrong, and makes the processes of all findings what they are here.
pub(crate) fn judge(report: &mut Report, listening: &[Listening]) {
    name_processes(report);
    let mut findings: Vec<Finding> =
        listening.iter().filter_map(|one| judge_socket(report, one)).collect();
    for server in &report.servers {
        let Some(holder) = server.held_by else { continue };
        if server.host_pid.is_some() || server.state != State::Dead && server.peer.named == 0 {
            continue;
        }
        let text = format!(
            "process {holder} holds the memory of a server that calls itself pid {}, and no process of that number \
             that can be seen here holds it: the server is gone, or the memory was forged",
            server.peer.named
        );
        findings.push(Finding {
            severity: Severity::Problem,
            code: Code::Orphan,
            generation: Some(server.generation),
            session: None,
            pid: Some(holder),
            text,
            advice: Code::Orphan.advice(),
        });
    }
    report.findings.extend(findings);
    report
        .findings
        .sort_by_key(|finding| (std::cmp::Reverse(finding.severity), finding.session.is_some()));
}

fn judge_socket(report: &Report, listening: &Listening) -> Option<Finding> {
    let path = &listening.path;
    let (code, what) = match listening.spot {
        Spot::There | Spot::Unknown => return None,
        Spot::Deleted => (Code::SocketDeleted, "is deleted: new clients find nothing".to_owned()),
        Spot::TakenOver { by: Some(pid) } => (
            Code::SocketTakenOver,
            format!("was taken over: process {pid} listens there now, and gets the new clients"),
        ),
        Spot::TakenOver { by: None } => (
            Code::SocketTakenOver,
            "was taken over: something else is there, and new clients do not come here".to_owned(),
        ),
    };
    let mut servers = report.servers.iter().filter(|server| server.listens_at.contains(path));
    let server = servers.next()?;
    let one = servers.next().is_none();
    let who = shown(&server.peer);
    Some(Finding {
        severity: Severity::Problem,
        code,
        generation: one.then_some(server.generation),
        session: None,
        pid: server.host_pid,
        text: format!("the socket of the server ({who}) at {path} {what}"),
        advice: code.advice(),
    })
}

fn shown(party: &Party) -> String {
    format!("pid {}", party.shown())
}

/// Findings speak of processes by their numbers here, and of those that cannot be seen as `pid 0`.
fn name_processes(report: &mut Report) {
    for finding in &mut report.findings {
        finding.pid = finding.pid.filter(|pid| *pid != 0);
        let server =
            report.servers.iter().find(|server| Some(server.generation) == finding.generation);
        if let Some(server) = server.filter(|server| server.peer.pid != server.peer.named) {
            let pid = server.peer.pid;
            let (from, to) =
                (format!("server (pid {pid})"), format!("server ({})", shown(&server.peer)));
            finding.text = finding.text.replace(&from, &to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d4_both_numbers_of_a_process_are_told() {
        let party = |pid, named| Party { named, pid, uid: 0, name: String::new() };
        for (pid, named, text) in [
            (7, 7, "7"),
            (4711, 1, "4711 (1 in its container)"),
            (0, 1, "unknown (1 in its container)"),
            (4711, 0, "4711"),
            (0, 0, "unknown"),
        ] {
            assert_eq!(party(pid, named).shown(), text);
        }
    }
}
