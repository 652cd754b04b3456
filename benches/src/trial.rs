//! One case, once: starts the processes, lets them go at the same moment, collects what they found,
//! ends them.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::thread::ClockId;
use rustix::time::{Timespec, clock_gettime};

use crate::contender::Contender;
use crate::entries::Entry;
use crate::interrupt;
use crate::measure::{Figures, Timing};
use crate::outcome::Outcome;
use crate::pin::Cpus;
use crate::role::{FAILED, Order, Part};
use crate::scenario::Placement;
use crate::syscalls::{Calls, Counter};
use crate::system::{Counts, Setup};

/// How long any one step of a trial may take beyond its measured time.
const PATIENCE: Duration = Duration::from_secs(20);

/// From the word to go to the moment itself, for each client: nobody starts while others still
/// read.
const NOTICE: Duration = Duration::from_micros(300);

/// What a trial found.
#[derive(Debug)]
pub(crate) struct Findings {
    /// Of each client that calls.
    pub(crate) clients: Vec<Figures>,
    /// What the server counted since it started, if it can tell.
    pub(crate) server: Option<Counts>,
    /// System calls of the server and these clients since the start, if they were counted.
    pub(crate) syscalls: Option<Calls<u64>>,
}

/// Runs one entry once. With `counting`, system calls are counted, which slows them down: the times
/// are then not to be used.
pub(crate) fn run(entry: &Entry, cpus: &Cpus, timing: Timing, counting: bool) -> Outcome<Findings> {
    let directory = Directory::new()?;
    let case = entry.case;
    // Dropped after all processes, which come later.
    let _cleaner = Cleaner { entry, setup: Setup { path: directory.0.join("socket"), case } };
    let order = |cpus: &[usize], part| Order {
        system: entry.contender.name().to_owned(),
        cpus: cpus.to_vec(),
        setup: Setup { path: directory.0.join("socket"), case },
        part,
    };
    let in_process = matches!(entry.contender, Contender::System(system) if system.is_in_process());
    let mut server = match entry.contender {
        Contender::System(_) if !in_process => {
            let mut server = Process::start(&order(cpus.of_server(case.placement), Part::Server))?;
            expect_ready(server.line(PATIENCE, None)?)?;
            Some(server)
        }
        _ => None,
    };

    // Dropped, and so killed, when the trial is over; as is the one that never reads.
    let mut hogs = Vec::new();
    for _ in 0..case.hogs() * cpus.number() {
        let mut hog = Process::start(&order(cpus.of_client(Placement::Unpinned), Part::Hog))?;
        expect_ready(hog.line(PATIENCE, None)?)?;
        hogs.push(hog);
    }
    let mut slow = None;
    if case.has_slow_client() {
        let client =
            slow.insert(Process::start(&order(cpus.of_client(case.placement), Part::Flood))?);
        expect_ready(client.line(PATIENCE, server.as_mut())?)?;
    }
    let mut clients = Vec::new();
    if in_process {
        clients.push(Process::start(&order(
            cpus.of_client(case.placement),
            Part::Together { timing },
        ))?);
    }
    for number in 0..if in_process { 0 } else { case.callers() } {
        // Salts need only differ among a few.
        let salt = u8::try_from(number % 251)?;
        let part = Part::Client { timing, server: server.as_ref().map(Process::id), salt };
        clients.push(Process::start(&order(cpus.of_client(case.placement), part))?);
    }
    for client in &mut clients {
        expect_ready(client.line(PATIENCE, server.as_mut())?)?;
    }

    let mut pids: Vec<u32> = clients.iter().map(Process::id).collect();
    pids.extend(server.as_ref().map(Process::id));
    let counter = if counting { Some(Counter::attach(&directory.0, &pids)?) } else { None };

    let start = Duration::try_from(clock_gettime(ClockId::Monotonic))? + NOTICE * case.callers();
    for client in &mut clients {
        client.say(&format!("go {}\n", start.as_nanos()))?;
    }
    let mut figures = Vec::new();
    let reports = if in_process { case.callers() } else { 1 };
    for client in &mut clients {
        for _ in 0..reports {
            let line = client.line(timing.run + PATIENCE, server.as_mut())?;
            figures.push(serde_json::from_str(&line)?);
        }
    }
    let syscalls = counter.map(Counter::count).transpose()?;
    let mut counts = None;
    if let (Contender::System(system), Some(server)) = (entry.contender, &mut server)
        && system.server_counts().is_some()
    {
        server.say("counts\n")?;
        counts = serde_json::from_str(&server.line(PATIENCE, None)?)?;
    }
    for client in clients {
        client.end()?;
    }
    Ok(Findings { clients: figures, server: counts, syscalls })
}

/// Has a system clean up when its processes are gone.
struct Cleaner<'a> {
    entry: &'a Entry,
    setup: Setup,
}

impl Drop for Cleaner<'_> {
    fn drop(&mut self) {
        if let Contender::System(system) = self.entry.contender
            && let Err(error) = system.clean(&self.setup)
        {
            eprintln!("race: {} leaves something behind: {error}", system.name());
        }
    }
}

/// A directory for the trial's socket, which goes with it.
struct Directory(PathBuf);

impl Directory {
    fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("ringbell-race-{}", std::process::id()));
        // Left by a process that had the same id and was killed.
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path) {
        eprintln!("race: {}: {error}", path.display());
    }
}

fn expect_ready(line: String) -> Outcome<()> {
    if line == "ready" { Ok(()) } else { Err(format!("expected ready, heard {line:?}").into()) }
}

/// This binary again, in a role. Killed when dropped.
struct Process {
    child: Child,
    to: Option<ChildStdin>,
    from: ChildStdout,
    heard: Vec<u8>,
}

impl Process {
    fn start(order: &Order) -> Outcome<Self> {
        let mut child = Command::new("/proc/self/exe")
            .args(["role", &serde_json::to_string(order)?])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let to = child.stdin.take();
        let from = child.stdout.take().ok_or("no pipe from the child")?;
        Ok(Self { child, to, from, heard: Vec::new() })
    }

    fn id(&self) -> u32 {
        self.child.id()
    }

    fn say(&mut self, line: &str) -> Outcome<()> {
        self.to.as_mut().ok_or("no pipe to the child")?.write_all(line.as_bytes())?;
        Ok(())
    }

    /// The next line that the process says. Fails when it, or the server that it depends on, ends
    /// first, and when it takes too long.
    fn line(&mut self, patience: Duration, mut server: Option<&mut Self>) -> Outcome<String> {
        let deadline = Instant::now() + patience;
        loop {
            interrupt::check()?;
            if let Some(end) = self.heard.iter().position(|&byte| byte == b'\n') {
                let rest = self.heard.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.heard, rest);
                line.pop();
                let line = String::from_utf8(line)?;
                return match line.strip_prefix(FAILED) {
                    Some(why) => Err(why.into()),
                    None => Ok(line),
                };
            }
            let left = deadline
                .checked_duration_since(Instant::now())
                .ok_or("a process said nothing for too long")?;
            let mut watched = vec![PollFd::from_borrowed_fd(self.from.as_fd(), PollFlags::IN)];
            // A server says nothing after `ready`: its pipe only tells when it dies.
            watched.extend(
                server.iter().map(|server| {
                    PollFd::from_borrowed_fd(server.from.as_fd(), PollFlags::empty())
                }),
            );
            // Last, so that the places of the others stand.
            watched.extend(
                interrupt::descriptor()
                    .map(|signals| PollFd::from_borrowed_fd(signals, PollFlags::IN)),
            );
            match poll(&mut watched, Some(&Timespec::try_from(left)?)) {
                Err(Errno::INTR) => continue,
                polled => polled?,
            };
            let speaks = !watched[0].revents().is_empty();
            let server_died =
                server.is_some() && watched.get(1).is_some_and(|it| !it.revents().is_empty());
            if speaks {
                let mut chunk = [0; 4096];
                let count = self.from.read(&mut chunk)?;
                if count == 0 {
                    return Err(format!("a process ended early: {}", self.child.wait()?).into());
                }
                self.heard.extend_from_slice(&chunk[..count]);
            } else if server_died && let Some(server) = &mut server {
                return Err(server.why_it_ended()?.into());
            }
        }
    }

    /// What a server that has ended said last.
    fn why_it_ended(&mut self) -> Outcome<String> {
        let status = self.child.wait()?;
        let mut rest = Vec::new();
        self.from.read_to_end(&mut rest)?;
        self.heard.append(&mut rest);
        let said = String::from_utf8_lossy(&self.heard);
        let why = said.lines().find_map(|line| line.strip_prefix(FAILED));
        Ok(why.map_or_else(|| format!("the server ended: {status}"), str::to_owned))
    }

    /// Closes the pipe to the process, upon which a client ends, and waits for that.
    fn end(mut self) -> Outcome<()> {
        drop(self.to.take());
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("a client failed: {status}").into()) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let ended = self.child.kill().and_then(|()| self.child.wait());
            if let Err(error) = ended {
                eprintln!("race: cannot end process {}: {error}", self.child.id());
            }
        }
    }
}
