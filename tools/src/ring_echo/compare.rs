//! The comparison: processes for each transport and round, in turns, and what they report.

use crate::busy::{Busy, Ticks, steal_remark};
use crate::cli::{Compare, Transport, check, socket_in};
use crate::load::Report;
use crate::measure::{Measurement, Round, Setting, combine};
use crate::role::{Role, cpus};
use crate::service::LastWords;
use crate::syscalls::{Counter, Tool};
use crate::{Failure, Usage};
use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::ffi::OsString;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

/// What strace is made to count, at most: it makes every call take a hundred times as long.
const MOST_UNDER_STRACE: u64 = 4_000;

/// What came of a comparison.
#[derive(Debug)]
pub(crate) struct Comparison {
    pub(crate) measurements: Vec<Measurement>,
    /// What counted the system calls, or why nothing did.
    pub(crate) tool: Result<Tool, String>,
    /// Rounds of each transport.
    pub(crate) rounds: u64,
    /// Wakes that Ringbell lost: a bug, if there are any.
    pub(crate) lost_wakes: u64,
    /// That others wanted the CPUs too, if they did.
    pub(crate) busy: Option<String>,
}

/// Compares the transports.
pub(crate) fn compare(asked: &Compare) -> Result<Comparison, Failure> {
    check(asked).map_err(Usage)?;
    let temporary = std::env::temp_dir();
    let directory =
        tempfile::Builder::new().prefix("ring-echo-").tempdir_in(&temporary).map_err(|error| {
            let cause = std::io::Error::from(error.kind());
            let temporary = temporary.display();
            format!("no directory can be made in {temporary}: {cause}; set TMPDIR to another place")
        })?;
    clean_up_on_signals(directory.path())?;
    let (before, ticks) = (Busy::look(), Ticks::now());
    let mut result = Bench::new(asked, directory.path()).and_then(Bench::run);
    if let Ok(comparison) = &mut result {
        let stolen = ticks.zip(Ticks::now()).map(|(from, to)| to.steal_percent_since(from));
        comparison.busy = busy(&before, stolen, &Busy::look());
    }
    while SIGNALLED.get().is_some() {
        // What has just failed did so because the directory is being removed; this process is about
        // to end.
        std::thread::park();
    }
    directory.close()?;
    result
}

/// That the machine was busy, if it was.
fn busy(before: &Busy, stolen: Option<f64>, after: &Busy) -> Option<String> {
    let when = [
        before.remark(true).map(|what| format!("before: {what}")),
        steal_remark(stolen).map(|what| format!("meanwhile: {what}")),
        after.remark(false).map(|what| format!("after: {what}")),
    ];
    let when: Vec<String> = when.into_iter().flatten().collect();
    (!when.is_empty()).then(|| {
        format!(
            "the machine was busy ({}): the figures say less than they seem to",
            when.join("; ")
        )
    })
}

/// Set when a signal is about to end this process.
static SIGNALLED: OnceLock<()> = OnceLock::new();

/// A signal ends this process without unwinding; the others end with it, and the directory must not
/// stay behind.
fn clean_up_on_signals(directory: &Path) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    let directory = directory.to_owned();
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            SIGNALLED.get_or_init(|| ());
            // A process that is just starting may still put its socket there.
            for _ in 0..100 {
                if std::fs::remove_dir_all(&directory).is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

struct Bench<'a> {
    asked: &'a Compare,
    directory: &'a Path,
    socket: std::path::PathBuf,
    transports: Vec<Transport>,
    tool: Result<Tool, String>,
    cpus: Vec<usize>,
    lost_wakes: u64,
    progress: ProgressBar,
}

impl<'a> Bench<'a> {
    fn new(asked: &'a Compare, directory: &'a Path) -> Result<Self, Failure> {
        let mut transports = Vec::new();
        for &transport in &asked.transport {
            if !transports.contains(&transport) {
                transports.push(transport);
            }
        }
        Ok(Self {
            asked,
            directory,
            socket: socket_in(directory).map_err(Usage)?,
            transports,
            tool: Tool::find(directory),
            cpus: cpus(),
            lost_wakes: 0,
            // Drawn between rounds only, never while something is measured; to a terminal only.
            progress: ProgressBar::new(0),
        })
    }

    fn run(mut self) -> Result<Comparison, Failure> {
        let fewest =
            self.transports.iter().map(|&transport| self.requests(transport)).min().unwrap_or(1);
        let most = u64::from(self.asked.load.rounds);
        let rounds = most.min(fewest / u64::from(self.asked.clients)).max(1);
        let turns = self.transports.len() as u64 * (rounds + u64::from(self.tool.is_ok()));
        self.progress.set_length(turns);
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}")
            .expect("the template is right");
        self.progress.set_style(style);

        let mut done: Vec<Vec<Round>> = self.transports.iter().map(|_| Vec::new()).collect();
        for round in 0..rounds {
            for (index, &transport) in self.transports.clone().iter().enumerate() {
                self.progress.set_message(format!("round {} of {rounds}: {transport}", round + 1));
                let requests = share(self.requests(transport), round, rounds);
                done[index].push(self.round(transport, requests, None)?.0);
                self.progress.inc(1);
            }
        }
        let mut measurements = Vec::new();
        for (&transport, rounds) in self.transports.clone().iter().zip(&done) {
            let syscalls = self.count_syscalls(transport, rounds[0].requests)?;
            let setting =
                Setting { transport, size: self.asked.load.size, clients: self.asked.clients };
            measurements.push(combine(&setting, rounds, syscalls));
        }
        self.progress.finish_and_clear();
        let (tool, lost_wakes) = (self.tool, self.lost_wakes);
        Ok(Comparison { measurements, tool, rounds, lost_wakes, busy: None })
    }

    fn requests(&self, transport: Transport) -> u64 {
        self.asked.load.requests_over(transport, self.asked.clients)
    }

    /// System calls per request of client and server, in a round that is not measured.
    fn count_syscalls(
        &mut self,
        transport: Transport,
        requests: u64,
    ) -> Result<Option<f64>, Failure> {
        let Ok(tool) = self.tool else { return Ok(None) };
        self.progress.set_message(format!("system calls, with {}: {transport}", tool.name()));
        let most = if tool == Tool::Strace { MOST_UNDER_STRACE } else { u64::MAX };
        let requests = requests.min(most).max(u64::from(self.asked.clients));
        let counted = self.round(transport, requests, Some(tool));
        self.progress.inc(1);
        let (round, calls) = counted?;
        Ok(calls.map(|calls| calls as f64 / round.requests as f64))
    }

    /// A server and its clients: they start, warm up, do their work, and end.
    fn round(
        &mut self,
        transport: Transport,
        requests: u64,
        tool: Option<Tool>,
    ) -> Result<(Round, Option<u64>), Failure> {
        let mut server = self.start_server(transport, tool)?;
        let clients = u64::from(self.asked.clients);
        let mut callers = (0..self.asked.clients)
            .map(|client| {
                self.start_client(
                    transport,
                    client,
                    share(requests, u64::from(client), clients),
                    tool,
                )
            })
            .collect::<Result<Vec<_>, _>>()?;

        let pids: Vec<u32> = std::iter::once(&server).chain(&callers).map(Role::pid).collect();
        let mut counter =
            tool.map(|tool| Counter::attach(tool, &pids, self.directory)).transpose()?;
        let cpu_before = cpu_of(&mut server)?;
        for caller in &mut callers {
            caller.tell("go")?;
        }
        let reports = callers
            .iter_mut()
            .map(|caller| Ok(serde_json::from_str(&caller.hear()?)?))
            .collect::<Result<Vec<Report>, Failure>>()?;
        let cpu = cpu_of(&mut server)? - cpu_before;
        let calls = counter.as_mut().map(Counter::count).transpose()?;

        for caller in callers {
            caller.finish()?;
        }
        let last_words = server.finish()?;
        if transport == Transport::Shm {
            self.lost_wakes += serde_json::from_str::<LastWords>(&last_words)?.backstop_rescues;
        }
        let _ = std::fs::remove_file(&self.socket);
        Ok((Round::new(reports, cpu), calls))
    }

    fn start_server(&self, transport: Transport, tool: Option<Tool>) -> Result<Role, Failure> {
        let mut arguments = vec![OsString::from("role-serve")];
        arguments.extend(self.common(transport, tool, 0));
        arguments.push(format!("--clients={}", self.asked.clients).into());
        Role::start(format!("server of {transport}"), arguments)
    }

    fn start_client(
        &self,
        transport: Transport,
        client: u32,
        requests: u64,
        tool: Option<Tool>,
    ) -> Result<Role, Failure> {
        let load = &self.asked.load;
        let mut arguments = vec![OsString::from("role-call")];
        // The server has the first CPU to itself, if there is another.
        let place = 1 + client as usize % (self.cpus.len() - 1).max(1);
        arguments.extend(self.common(transport, tool, place));
        arguments.push(format!("--client={client}").into());
        arguments.push(format!("--requests={requests}").into());
        arguments.push(format!("--size={}", load.size).into());
        match load.paced {
            Some(rate) => arguments.push(format!("--paced={rate}").into()),
            None => arguments.push(format!("--pipeline={}", load.pipeline).into()),
        }
        Role::start(format!("client {client} of {transport}"), arguments)
    }

    fn common(&self, transport: Transport, tool: Option<Tool>, place: usize) -> Vec<OsString> {
        let mut socket = OsString::from("--socket=");
        socket.push(&self.socket);
        let mut arguments = vec![format!("--transport={transport}").into(), socket];
        if self.asked.pin {
            arguments.push(format!("--cpu={}", self.cpus[place % self.cpus.len()]).into());
        }
        if tool == Some(Tool::Strace) {
            arguments.push("--traceable".into());
        }
        arguments
    }
}

fn cpu_of(server: &mut Role) -> Result<u64, Failure> {
    server.tell("cpu")?;
    Ok(server.hear()?.parse()?)
}

/// The part of `total` that falls to one of `parts`.
fn share(total: u64, index: u64, parts: u64) -> u64 {
    total / parts + u64::from(index < total % parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_fair_and_add_up() {
        let shares: Vec<_> = (0..4).map(|index| share(10, index, 4)).collect();
        assert_eq!(shares, [3, 3, 2, 2]);
    }
}
