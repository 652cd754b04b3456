//! Counting system calls from outside: `perf` or `strace` attaches to processes that are ready to
//! go.

use crate::Failure;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// What can count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    /// Counts in the kernel; the processes hardly notice.
    Perf,
    /// Stops the processes at every call; they wait in other ways than they would.
    Strace,
}

impl Tool {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Perf => "perf",
            Self::Strace => "strace",
        }
    }

    /// The best tool that there is and that may count, tried on this process's own child; or why
    /// there is none.
    pub(crate) fn find(directory: &Path) -> Result<Self, String> {
        let mut reasons = Vec::new();
        for tool in [Self::Perf, Self::Strace] {
            match tool.try_out(directory) {
                Ok(()) => return Ok(tool),
                Err(error) => reasons.push(format!("{}: {error}", tool.name())),
            }
        }
        Err(reasons.join("; "))
    }

    fn try_out(self, directory: &Path) -> Result<(), Failure> {
        // Ends when its input does, and makes system calls to count then.
        let mut tried = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let counted = Counter::attach(self, &[tried.id()], directory).and_then(|mut counter| {
            tried.stdin = None;
            tried.wait()?;
            counter.count()
        });
        let _ = tried.kill();
        let _ = tried.wait();
        match counted? {
            0 => Err("counts nothing".into()),
            _ => Ok(()),
        }
    }
}

/// A tool that counts.
#[derive(Debug)]
pub(crate) struct Counter {
    tool: Tool,
    child: Child,
    output: std::path::PathBuf,
}

impl Counter {
    /// Counts from now on what these processes do.
    pub(crate) fn attach(tool: Tool, pids: &[u32], directory: &Path) -> Result<Self, Failure> {
        let output = directory.join("syscalls");
        let mut command = Command::new(tool.name());
        command.env("LC_ALL", "C");
        match tool {
            Tool::Perf => {
                let list: Vec<_> = pids.iter().map(u32::to_string).collect();
                command.args([
                    "stat",
                    "-x,",
                    "-e",
                    "raw_syscalls:sys_enter",
                    "-D",
                    "-1",
                    "--control",
                    "fd:0,1",
                    "-p",
                ]);
                command.arg(list.join(",")).stderr(Stdio::null());
            }
            Tool::Strace => {
                command
                    .args(["-c", "-f"])
                    .args(pids.iter().map(|pid| format!("-p{pid}")))
                    .stderr(Stdio::piped());
            }
        }
        let mut option = OsString::from("-o");
        option.push(&output);
        let child = command.arg(option).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut counter = Self { tool, child, output };
        match tool {
            Tool::Perf => counter.control("enable")?,
            Tool::Strace => counter.await_attached(pids.len())?,
        }
        Ok(counter)
    }

    /// How many calls there were.
    pub(crate) fn count(&mut self) -> Result<u64, Failure> {
        if self.tool == Tool::Perf {
            // Fails if the counted processes have ended, and perf with them: it has counted all the
            // same.
            let _ = self.control("disable");
        }
        if self.child.try_wait()?.is_none() {
            kill_process(Pid::from_child(&self.child), Signal::INT)?;
        }
        self.child.wait()?;
        let text = std::fs::read_to_string(&self.output)?;
        match self.tool {
            Tool::Perf => parse_perf(&text),
            Tool::Strace => parse_strace(&text),
        }
        .ok_or_else(|| format!("{} says nothing that is understood", self.tool.name()).into())
    }

    fn control(&mut self, order: &str) -> Result<(), Failure> {
        let (Some(orders), Some(answers)) = (&mut self.child.stdin, &mut self.child.stdout) else {
            return Err("no control".into());
        };
        writeln!(orders, "{order}")?;
        // "ack\n\0"
        answers.read_exact(&mut [0; 5]).map_err(|_| "may not count (perf_event_paranoid?)".into())
    }

    fn await_attached(&mut self, processes: usize) -> Result<(), Failure> {
        let stderr = self.child.stderr.take().ok_or("no standard error")?;
        let mut lines = BufReader::new(stderr).lines();
        for _ in 0..processes {
            match lines.next().transpose()? {
                Some(line) if line.contains("attached") => {}
                Some(line) => return Err(line.into()),
                None => return Err("may not count (ptrace_scope?)".into()),
            }
        }
        // What it says from now on nobody reads; it must not be stopped by a pipe that is full or
        // closed.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(())
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `29,,raw_syscalls:sys_enter,832369,100.00,,`
fn parse_perf(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.contains("raw_syscalls:sys_enter"))?;
    line.split(',').next()?.parse().ok()
}

/// `100.00 0.129546 5 25320 91 total`; nothing at all if there were no calls.
fn parse_strace(text: &str) -> Option<u64> {
    match text.lines().find(|line| line.ends_with(" total")) {
        Some(line) => line.split_whitespace().nth(3)?.parse().ok(),
        None => text.trim().is_empty().then_some(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perf_is_understood() {
        let text = "# started on Sat Nov 21 23:58:57 2026\n\n1157379,,raw_syscalls:sys_enter,908640377,100.00,,\n";
        assert_eq!(parse_perf(text), Some(1_157_379));
        assert_eq!(parse_perf("<not counted>,,raw_syscalls:sys_enter,0,100.00,,\n"), None);
        assert_eq!(parse_perf(""), None);
    }

    #[test]
    fn strace_is_understood() {
        let text = "  0.02    0.000021           7         3           read\n\
                    ------ ----------- ----------- --------- --------- ----------------\n\
                    100.00    0.129546           5     25320        91 total\n";
        assert_eq!(parse_strace(text), Some(25_320));
        assert_eq!(
            parse_strace("100.00    0.000000           0        29           total\n"),
            Some(29)
        );
        assert_eq!(parse_strace(""), Some(0));
    }
}
