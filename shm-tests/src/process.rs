//! Starting this program again in a role, and what a test does to such a process.
//!
//! A role talks to its test in lines: through its standard input and output. Its standard error is
//! kept in memory and shown when something goes wrong. It dies when the thread that started it
//! ends, however that ends: so processes are started on the thread that runs the test.

use crate::locks::lock;
use crate::progress::tick;
use crate::waiting::wait_until;
use crate::{observe, transport};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const ROLE: &str = "RINGBELL_TEST_ROLE";
const PARENT: &str = "RINGBELL_TEST_PARENT";
/// How long a process may take to say or do what is awaited.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The role of this process; `None` if it runs the tests.
pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// From now on this process is killed when its parent's thread ends.
pub fn live_with_the_parent() {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).expect("prctl");
    // The parent may have died before the call.
    let parent = std::env::var(PARENT).ok().and_then(|pid| pid.parse().ok());
    let now = rustix::process::getppid().map(Pid::as_raw_nonzero).map(std::num::NonZeroI32::get);
    if parent.is_some() && parent != now {
        std::process::exit(102);
    }
}

/// What a role is told at its start: `key=value` pairs.
#[derive(Debug, Clone)]
pub struct Arguments(Vec<(String, String)>);

impl Arguments {
    pub(crate) fn of_this_process() -> Self {
        let pairs = std::env::args().skip(1).map(|argument| {
            let (key, value) = argument.split_once('=').expect("arguments of roles are key=value");
            (key.to_owned(), value.to_owned())
        });
        Self(pairs.collect())
    }

    /// The value of `key`, if it was given.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| &**value)
    }

    /// The value of `key`.
    ///
    /// # Panics
    /// If it was not given.
    #[must_use]
    pub fn text(&self, key: &str) -> &str {
        self.get(key).unwrap_or_else(|| panic!("the role needs {key}=..."))
    }

    /// The number `key`.
    ///
    /// # Panics
    /// If it was not given, or is none.
    #[must_use]
    pub fn number(&self, key: &str) -> u64 {
        let value = self.text(key);
        value.parse().unwrap_or_else(|_| panic!("{key} is {value:?}, not a number"))
    }

    /// The number `key`, if it was given.
    #[must_use]
    pub fn maybe_number(&self, key: &str) -> Option<u64> {
        self.get(key).map(|_| self.number(key))
    }
}

/// Tells the test something.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // The test may be gone, and this process with it in a moment.
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// Waits for the test's next line; `None` if it hung up.
#[must_use]
pub fn hear() -> Option<String> {
    let mut line = String::new();
    match std::io::stdin().read_line(&mut line) {
        Ok(1..) => Some(line.trim_end().to_owned()),
        _ => None,
    }
}

/// A process to be started.
#[derive(Debug)]
#[must_use = "nothing is started before `start`"]
pub struct Start {
    role: String,
    command: Command,
}

impl Start {
    /// This program, in `role`.
    ///
    /// # Panics
    /// If the program cannot be found.
    pub fn role(role: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
        command
            .env(ROLE, role)
            .env(PARENT, std::process::id().to_string())
            .env_remove("RINGBELL_KILL_AT");
        transport::tell(&mut command);
        Self { role: role.to_owned(), command }
    }

    /// Another program, with a process of which the role `role` is to be run inside (a tracer,
    /// say).
    pub fn role_under(program: &str, program_arguments: &[&str], role: &str) -> Self {
        let mut command = Command::new(program);
        command.args(program_arguments);
        command.arg(std::env::current_exe().expect("this program has a path"));
        command.env(ROLE, role).env_remove(PARENT).env_remove("RINGBELL_KILL_AT");
        transport::tell(&mut command);
        Self { role: role.to_owned(), command }
    }

    /// Tells the role something.
    pub fn with(mut self, key: &str, value: impl std::fmt::Display) -> Self {
        self.command.arg(format!("{key}={value}"));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, key: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Starts it.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    #[allow(clippy::zombie_processes, reason = "`Process` waits for it, through waitid")]
    pub fn start(mut self) -> Process {
        let errors =
            rustix::fs::memfd_create("ringbell-test-stderr", rustix::fs::MemfdFlags::CLOEXEC)
                .expect("memfd");
        let child = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::from(errors.try_clone().expect("dup")))
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {:?}: {error}", self.command));
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        let known = Arc::new(Known { role: self.role, pid, errors });
        lock(&PROCESSES).push(known.clone());
        Process {
            input: child.stdin,
            output: child.stdout.expect("piped"),
            heard: Vec::new(),
            known,
            ended: None,
        }
    }
}

/// What the watchdog knows of a process.
#[derive(Debug)]
struct Known {
    role: String,
    pid: Pid,
    errors: OwnedFd,
}

impl Known {
    fn errors(&self) -> String {
        let mut bytes = vec![0; 16 * 1024];
        let size = rustix::fs::fstat(&self.errors)
            .map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0));
        let from = size.saturating_sub(bytes.len() as u64);
        let count = rustix::io::pread(&self.errors, &mut bytes[..], from).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }

    fn diagnose(&self) -> String {
        let mut text = format!("--- {} (pid {})\n", self.role, self.pid.as_raw_nonzero());
        text += &observe::diagnose(self.id());
        for line in self.errors().lines() {
            text += &format!("  stderr: {line}\n");
        }
        text
    }

    fn id(&self) -> u32 {
        u32::try_from(self.pid.as_raw_nonzero().get()).expect("positive")
    }
}

static PROCESSES: Mutex<Vec<Arc<Known>>> = Mutex::new(Vec::new());

/// What is known of this process and of all that it started.
#[must_use]
pub fn diagnose_all() -> String {
    let mut text = format!("--- the test itself (pid {})\n", std::process::id());
    text += &observe::diagnose(std::process::id());
    for known in lock(&PROCESSES).iter() {
        text += &known.diagnose();
    }
    text
}

/// A process that was started. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    input: Option<ChildStdin>,
    output: ChildStdout,
    heard: Vec<u8>,
    known: Arc<Known>,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.known.id()
    }

    /// Tells it a line.
    ///
    /// # Panics
    /// If it does not listen.
    pub fn tell(&mut self, line: &str) {
        let input = self.input.as_mut().expect("its input is open");
        if let Err(error) = writeln!(input, "{line}") {
            panic!("cannot tell {line:?}: {error}\n{}", self.known.diagnose());
        }
    }

    /// Closes its input.
    pub fn hang_up(&mut self) {
        self.input = None;
    }

    /// The next line that it says, within `limit`; `None` if it says nothing.
    ///
    /// # Panics
    /// If it hung up.
    pub fn hear_within(&mut self, limit: Duration) -> Option<String> {
        match self.listen(limit) {
            Ok(line) => line,
            Err(()) => {
                let status = self.wait_within(Duration::from_secs(5));
                panic!("a process hung up ({status:?})\n{}", self.known.diagnose())
            }
        }
    }

    /// The next line that it says; `None` if it hung up.
    ///
    /// # Panics
    /// If it says nothing for 30 s.
    pub fn hear_if_any(&mut self) -> Option<String> {
        match self.listen(PATIENCE) {
            Ok(Some(line)) => Some(line),
            Ok(None) => panic!("a process says nothing\n{}", self.known.diagnose()),
            Err(()) => None,
        }
    }

    /// The next line that it says.
    ///
    /// # Panics
    /// If it says nothing for 30 s, or hung up.
    pub fn hear(&mut self) -> String {
        self.hear_within(PATIENCE)
            .unwrap_or_else(|| panic!("a process says nothing\n{}", self.known.diagnose()))
    }

    /// The rest of the next line, which begins with `word`.
    ///
    /// # Panics
    /// If it says something else, or as [`Self::hear`].
    pub fn expect(&mut self, word: &str) -> String {
        let line = self.hear();
        match line.strip_prefix(word) {
            Some(rest) => rest.trim_start().to_owned(),
            None => panic!("expected {word:?}, heard {line:?}\n{}", self.known.diagnose()),
        }
    }

    fn listen(&mut self, limit: Duration) -> Result<Option<String>, ()> {
        let until = Instant::now() + limit;
        loop {
            if let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.heard.drain(..=end).collect();
                tick();
                return Ok(Some(String::from_utf8_lossy(&line[..end]).into_owned()));
            }
            let left = until.saturating_duration_since(Instant::now());
            if !readable(&self.output, left) {
                return Ok(None);
            }
            let mut bytes = [0; 4096];
            match rustix::io::read(&self.output, &mut bytes) {
                Ok(0) => return Err(()),
                Ok(count) => self.heard.extend_from_slice(&bytes[..count]),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("reading a pipe: {error}"),
            }
        }
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If it is gone.
    pub fn signal(&self, signal: Signal) {
        assert!(self.ended.is_none(), "the process has been waited for");
        kill_process(self.known.pid, signal).expect("kill");
    }

    /// Stops it, and waits until it is stopped.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
        wait_until("the process is stopped", || observe::state(self.id()) == Some('T'));
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills it by SIGKILL, and waits for its end.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.wait();
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end within 30 s.
    pub fn wait(&mut self) -> ExitStatus {
        self.wait_within(PATIENCE)
            .unwrap_or_else(|| panic!("a process does not end\n{}", self.known.diagnose()))
    }

    /// Waits for its end, at most `limit`.
    pub fn wait_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        if self.ended.is_none() {
            let pidfd =
                rustix::process::pidfd_open(self.known.pid, rustix::process::PidfdFlags::empty())
                    .expect("pidfd");
            if !readable(&pidfd, limit) {
                return None;
            }
            let status = waitid(WaitId::Pid(self.known.pid), WaitIdOptions::EXITED)
                .expect("waitid")
                .expect("it ended");
            // Exit statuses as `waitpid` encodes them.
            let raw = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => (code & 0xff) << 8,
                (None, signal) => signal.expect("it ended by a signal"),
            };
            self.ended = Some(ExitStatus::from_raw(raw));
            tick();
        }
        self.ended
    }

    /// Waits for its end, which must be a good one.
    ///
    /// # Panics
    /// If it fails or does not end.
    pub fn succeed(&mut self) {
        let status = self.wait();
        assert!(status.success(), "{status}\n{}", self.known.diagnose());
    }

    /// Waits for its end, which must be by SIGKILL.
    ///
    /// # Panics
    /// If it ends otherwise or not at all.
    pub fn is_killed(&mut self) {
        let status = self.wait();
        assert_eq!(
            status.signal(),
            Some(Signal::KILL.as_raw()),
            "{status}\n{}",
            self.known.diagnose()
        );
    }

    /// What it wrote to its standard error.
    #[must_use]
    pub fn errors(&self) -> String {
        self.known.errors()
    }

    /// What is known of it, for messages.
    #[must_use]
    pub fn diagnose(&self) -> String {
        self.known.diagnose()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.known.diagnose());
        }
        if self.ended.is_none() {
            let _ = kill_process(self.known.pid, Signal::KILL);
            let _ = waitid(WaitId::Pid(self.known.pid), WaitIdOptions::EXITED);
        }
        lock(&PROCESSES).retain(|known| !Arc::ptr_eq(known, &self.known));
    }
}

/// Whether `fd` becomes readable within `limit`.
pub fn readable(fd: impl AsFd, limit: Duration) -> bool {
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = rustix::event::Timespec::try_from(left).expect("a short time");
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&left)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
}
