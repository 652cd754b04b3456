//! The processes of a comparison: this program again, in a hidden role, told what to do over its
//! standard input.
//!
//! A line is an order or its answer. Both roles say "ready" first, and end when their input does;
//! so none outlives the comparison, and the kernel kills them if their parent is killed.

use crate::cli::RoleCommon;
use crate::{Failure, say};
use rustix::process::{
    PTracer, Pid, Signal, getppid, set_parent_process_death_signal, set_ptracer,
};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// How long a process may take to end once it should.
const ENDING: Duration = Duration::from_secs(10);

/// What a process says instead of an answer when it fails; the reason follows. Its parent tells
/// the user, once.
const FAILED: &str = "failed: ";

/// A process that was started, seen from its parent. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Role {
    name: String,
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Role {
    /// Starts a process, and waits until it is ready. Only for the main thread: its end is the
    /// child's.
    pub(crate) fn start<A: AsRef<OsStr>>(
        name: String,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Self, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .arg(format!("--parent={}", std::process::id()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        let mut role = Self { name, child, orders, answers };
        match role.hear()?.as_str() {
            "ready" => Ok(role),
            other => Err(format!("the {} says {other:?} instead of being ready", role.name).into()),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn tell(&mut self, order: &str) -> Result<(), Failure> {
        let orders = self.orders.as_mut().expect("taken only at the end");
        writeln!(orders, "{order}").map_err(|_| format!("the {} has gone", self.name).into())
    }

    pub(crate) fn hear(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err(format!("the {} ended early", self.name).into());
        }
        line.truncate(line.trim_end().len());
        match line.strip_prefix(FAILED) {
            Some(why) => Err(format!("the {}: {why}", self.name).into()),
            None => Ok(line),
        }
    }

    /// Ends its input, and waits for its last words and its end.
    pub(crate) fn finish(mut self) -> Result<String, Failure> {
        self.orders = None;
        let patience = Instant::now() + ENDING;
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break status,
                None if Instant::now() > patience => {
                    return Err(format!("the {} does not end", self.name).into());
                }
                None => std::thread::sleep(Duration::from_micros(200)),
            }
        };
        let mut last = String::new();
        self.answers.read_line(&mut last)?;
        if let Some(why) = last.strip_prefix(FAILED) {
            return Err(format!("the {}: {}", self.name, why.trim_end()).into());
        }
        if !status.success() {
            return Err(format!("the {} ended with {status}", self.name).into());
        }
        Ok(last)
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What every role does first.
pub(crate) fn begin(common: &RoleCommon) -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() != Pid::from_raw(common.parent) {
        return Err("the process that started this one has gone".into());
    }
    if let Some(cpu) = common.cpu {
        pin_to(cpu)?;
    }
    if common.traceable {
        // Only some kernels restrict tracing; the others know no such exception.
        let _ = set_ptracer(PTracer::Any);
    }
    Ok(())
}

/// What every role does last.
pub(crate) fn end(done: Result<(), Failure>) -> ExitCode {
    let Err(failure) = done else { return ExitCode::SUCCESS };
    let why = say::line(&failure.to_string());
    if say(&format!("{FAILED}{why}")).is_err() {
        // The parent has gone, or does not listen.
        eprintln!("ring-echo: {why}");
    }
    ExitCode::FAILURE
}

/// Says something to the parent.
pub(crate) fn say(line: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// The parent's next order; `None` when there will be no more.
pub(crate) fn order() -> Result<Option<String>, Failure> {
    Ok(std::io::stdin().lock().lines().next().transpose()?)
}

/// The CPUs that this process may use.
pub(crate) fn cpus() -> Vec<usize> {
    let Ok(allowed) = sched_getaffinity(None) else { return vec![0] };
    (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect()
}

/// Keeps this thread, and those that it starts, on one CPU.
pub(crate) fn pin_to(cpu: usize) -> rustix::io::Result<()> {
    let mut only = CpuSet::new();
    only.set(cpu);
    sched_setaffinity(None, &only)
}
