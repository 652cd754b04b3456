//! System calls, counted from outside: `perf stat` on the tracepoint that every one of them passes.
//!
//! `strace` would count too, but it stops the process at each call and so changes what a spinning
//! system does.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::{Pid, Signal, kill_process};
use rustix::time::Timespec;

use crate::outcome::Outcome;

const EVENT: &str = "raw_syscalls:sys_enter";

/// The calls with which processes wait for and wake each other. Not `read` and `write`: the referee
/// makes them too.
const WAKES: [&str; 11] = [
    "futex",
    "futex_waitv",
    "sendto",
    "recvfrom",
    "sendmsg",
    "recvmsg",
    "epoll_wait",
    "epoll_pwait",
    "epoll_pwait2",
    "poll",
    "ppoll",
];

/// How many calls there were.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Calls<N> {
    /// Of any kind.
    pub(crate) all: N,
    /// On futexes and sockets; none where the kernel does not tell them apart.
    pub(crate) wakes: Option<N>,
}

/// What perf is asked to count. On the first call it is found out whether kinds can be told apart.
fn events() -> &'static str {
    static EVENTS: LazyLock<String> = LazyLock::new(|| {
        let kinds = WAKES.map(|name| format!("syscalls:sys_enter_{name}")).join(",");
        let both = format!("{EVENT},{kinds}");
        if perf_takes(&both) { both } else { EVENT.to_owned() }
    });
    &EVENTS
}

/// Whether perf can count these events.
fn perf_takes(events: &str) -> bool {
    let tried = Command::new("perf")
        .args(["stat", "-e", events, "--", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    tried.is_ok_and(|status| status.success())
}

/// Calls that a client makes for the referee between the word to go and its figures: sleeping until
/// the start (1), reading CPU clocks (4), writing the figures (1), waiting for the end (1).
pub(crate) const REFEREE_PER_CLIENT: u64 = 7;

/// How long perf may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether this machine lets us count.
pub(crate) fn can_count() -> bool {
    perf_takes(EVENT)
}

/// A perf that counts the system calls of some processes, from now on.
#[derive(Debug)]
pub(crate) struct Counter {
    perf: Child,
    control: File,
    acknowledged: File,
    result: PathBuf,
}

impl Counter {
    /// Begins to count. `directory` is the trial's own.
    pub(crate) fn attach(directory: &Path, pids: &[u32]) -> Outcome<Self> {
        let (control, acknowledged) = (directory.join("control"), directory.join("acknowledged"));
        for fifo in [&control, &acknowledged] {
            mkfifoat(CWD, fifo, Mode::RUSR | Mode::WUSR)?;
        }
        let result = directory.join("count");
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        let perf = Command::new("perf")
            .args(["stat", "-e", events(), "-x", ",", "-D", "-1", "-p", &pids.join(",")])
            .arg("--control")
            .arg(format!("fifo:{},{}", control.display(), acknowledged.display()))
            .arg("-o")
            .arg(&result)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        // Read and write, so that opening does not wait for perf, and reading never ends early.
        let open = |path| OpenOptions::new().read(true).write(true).open(path);
        let (control, acknowledged) = (open(&control)?, open(&acknowledged)?);
        let mut counter = Self { perf, control, acknowledged, result };
        counter.command("enable\n")?;
        Ok(counter)
    }

    /// Stops counting: how many calls there were.
    pub(crate) fn count(mut self) -> Outcome<Calls<u64>> {
        self.command("disable\n")?;
        let pid = Pid::from_child(&self.perf);
        kill_process(pid, Signal::INT)?;
        self.perf.wait()?;
        let text = fs::read_to_string(&self.result)?;
        parse(&text).ok_or_else(|| format!("perf said {text:?}").into())
    }

    fn command(&mut self, command: &str) -> Outcome<()> {
        self.control.write_all(command.as_bytes())?;
        let mut answer = [0; 16];
        let mut watched = [PollFd::new(&self.acknowledged, PollFlags::IN)];
        if poll(&mut watched, Some(&Timespec::try_from(PATIENCE)?))? == 0 {
            return Err("perf does not answer".into());
        }
        let count = self.acknowledged.read(&mut answer)?;
        if answer[..count].starts_with(b"ack") { Ok(()) } else { Err("perf refused".into()) }
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        if let Ok(None) = self.perf.try_wait() {
            let ended = self.perf.kill().and_then(|()| self.perf.wait());
            if let Err(error) = ended {
                eprintln!("race: cannot end perf: {error}");
            }
        }
    }
}

/// The counts in perf's `-x,` output.
fn parse(text: &str) -> Option<Calls<u64>> {
    let all = text.lines().find(|line| line.contains(EVENT)).and_then(count)?;
    let kinds: Vec<Option<u64>> = text
        .lines()
        .filter(|line| line.contains("syscalls:") && !line.contains(EVENT))
        .map(count)
        .collect();
    let wakes = if kinds.is_empty() { None } else { kinds.into_iter().sum() };
    Some(Calls { all, wakes })
}

/// The count in one line. Processes that made no call at all are "not counted".
fn count(line: &str) -> Option<u64> {
    match line.split(',').next()? {
        "<not counted>" => Some(0),
        count => count.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_perf_writes() {
        let all = |all| Some(Calls { all, wakes: None });
        assert_eq!(
            parse("# started on today\n\n1234,,raw_syscalls:sys_enter,5,100.00,,\n"),
            all(1234)
        );
        assert_eq!(parse("<not counted>,,raw_syscalls:sys_enter,0,100.00,,\n"), all(0));
        assert_eq!(parse("<not supported>,,raw_syscalls:sys_enter,0,100.00,,\n"), None);
        let kinds = "9,,raw_syscalls:sys_enter,5,100,,\n3,,syscalls:sys_enter_futex,5,100,,\n<not counted>,,syscalls:sys_enter_poll,0,100,,\n";
        assert_eq!(parse(kinds), Some(Calls { all: 9, wakes: Some(3) }));
    }
}
