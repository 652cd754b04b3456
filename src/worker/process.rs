//! A process of a worker: started so that it dies with this one, and never left as a zombie.

use super::attendant::Reading;
pub(super) use super::spawn::readable;
use super::spawn::{Child, Plan};
use super::starter::{StartError, end};
use super::tail::Tail;
use super::{WorkerCommand, attendant, starter};
use crate::os::environment;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

/// A process, and what it printed. Dropping it kills it and waits for its end; not in a forked
/// child.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    killed: bool,
    streams: Option<(ChildStdin, ChildStdout)>,
    tail: Arc<Tail>,
    /// Until it is killed, the attendant reads what it prints.
    reading: Option<Reading>,
}

/// What becomes of a worker's standard input and output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Streams {
    /// No input; the output is kept with the standard error.
    Kept,
    /// Both lead here.
    Piped,
}

fn cannot(what: &'static str) -> impl Fn(Errno) -> StartError {
    move |errno| StartError::Prepare(what, errno)
}

impl Process {
    /// Starts a process. `listener` is left open in it, under another number.
    ///
    /// The error is for [`WorkerCommand::not_started`].
    pub(super) fn start(
        worker: &WorkerCommand,
        socket: Option<&Path>,
        streams: Streams,
        listener: Option<&OwnedFd>,
    ) -> io::Result<Self> {
        Ok(Self::begin(worker, socket, streams, listener)?)
    }

    fn begin(
        worker: &WorkerCommand,
        socket: Option<&Path>,
        streams: Streams,
        listener: Option<&OwnedFd>,
    ) -> Result<Self, StartError> {
        let (printed, errors) = pipe()?;
        let tail = Arc::new(Tail::new(printed, worker.forward_stderr).map_err(cannot("a pipe"))?);
        let (input, output, ours) = match streams {
            Streams::Kept => {
                let null =
                    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
                let null = above_stdio(null.map_err(cannot("/dev/null cannot be opened"))?)?;
                (null, above_stdio(errors.try_clone().map_err(|_| pipe_missing())?)?, None)
            }
            Streams::Piped => {
                let (input, to_it) = pipe()?;
                let (from_it, output) = pipe()?;
                (input, output, Some((ChildStdin::from(to_it), ChildStdout::from(from_it))))
            }
        };
        let mut environment = worker.environment(socket);
        let inherited = match listener {
            Some(listener) => {
                let fd = rustix::io::fcntl_dupfd_cloexec(listener, 3)
                    .map_err(cannot("its socket cannot be duplicated"))?;
                environment
                    .insert(environment::LISTEN_FD.into(), fd.as_raw_fd().to_string().into());
                Some(fd)
            }
            None => None,
        };
        let paths = candidates(worker.program(), environment.get(OsStr::new("PATH")));
        let arguments =
            std::iter::once(worker.program().to_owned()).chain(worker.arguments(socket));
        let environment = environment.into_iter().map(|(mut variable, value)| {
            variable.push("=");
            variable.push(value);
            variable
        });
        let plan = Plan {
            paths: c_strings(paths)?,
            arguments: c_strings(arguments)?,
            environment: c_strings(environment)?,
            directory: worker.directory().map(c_string).transpose()?,
            stdio: [input, output, errors],
            inherited,
            wanted: worker.wanted().clone(),
        };
        let child = starter::start(plan, worker.start_timeout)?;
        let mut process = Self { child, killed: false, streams: ours, tail, reading: None };
        let reading = attendant::read(process.tail.clone()).map_err(StartError::NoThread)?;
        process.reading = Some(reading);
        Ok(process)
    }

    /// The ends of its standard input and output, once.
    pub(super) fn take_streams(&mut self) -> Option<(ChildStdin, ChildStdout)> {
        self.streams.take()
    }

    pub(super) fn id(&self) -> u32 {
        self.child.pid().as_raw_nonzero().get().unsigned_abs()
    }

    /// Becomes readable when the process has ended, whatever is still in its pipes, and whoever
    /// holds them.
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd()
    }

    /// The same, for longer than a borrow.
    pub(super) fn shared_pidfd(&self) -> Arc<OwnedFd> {
        self.child.shared_pidfd()
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&self) -> bool {
        readable(self.pidfd(), Duration::ZERO)
    }

    /// Waits for its end, at most so long; whether it has ended.
    pub(super) fn ends_within(&self, time: Duration) -> bool {
        readable(self.pidfd(), time)
    }

    /// The last lines that it printed, the oldest first. Does not wait.
    pub(super) fn printed(&self) -> Vec<String> {
        if self.has_ended() { self.tail.last_lines() } else { self.tail.lines() }
    }

    /// What brings the last lines that it printed: for a process that has ended, and another
    /// thread.
    #[cfg(feature = "tokio")]
    pub(super) fn last_words(&self) -> impl FnOnce() -> Vec<String> + Send + use<> {
        let tail = self.tail.clone();
        move || tail.last_lines()
    }

    /// Kills it and whatever it started, as far as that has stayed in its group, and waits for its
    /// end, not for long. How it ended, if it has and that is known.
    pub(super) fn kill(&mut self) -> Option<ExitStatus> {
        if !self.killed {
            self.killed = true;
            // The attendant is not woken by its end.
            self.reading = None;
            end(&mut self.child);
            // What it printed last may have to be shown. What is still to come is others'.
            self.tail.drain();
        }
        self.child.status()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A forked child has a copy of this, not of the process.
        if self.child.is_ours() {
            self.kill();
        }
    }
}

fn pipe_missing() -> StartError {
    StartError::Prepare("a pipe", Errno::MFILE)
}

/// A pipe: the end to read and the end to write.
fn pipe() -> Result<(OwnedFd, OwnedFd), StartError> {
    let (from, to) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(cannot("a pipe"))?;
    Ok((above_stdio(from)?, above_stdio(to)?))
}

/// The same under a number above 2. Lower ones are free in a process that has closed its standard
/// descriptors; in the child they become those of the worker, one after the other.
fn above_stdio(fd: OwnedFd) -> Result<OwnedFd, StartError> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(cannot("a pipe"))
}

/// The files that a program may be: itself if it has a slash in it, or those of its name in the
/// directories of `PATH`.
fn candidates(program: &OsStr, path: Option<&OsString>) -> Vec<OsString> {
    let name = program.as_bytes();
    if name.is_empty() || name.contains(&b'/') {
        return vec![program.to_owned()];
    }
    let path = path.map_or(&b"/bin:/usr/bin"[..], |path| path.as_bytes());
    let in_directory = |directory: &[u8]| {
        // An empty entry is the working directory.
        let directory = if directory.is_empty() { b"." } else { directory };
        OsString::from_vec([directory, b"/", name].concat())
    };
    path.split(|byte| *byte == b':').map(in_directory).collect()
}

fn c_string(text: impl AsRef<OsStr>) -> Result<CString, StartError> {
    CString::new(text.as_ref().as_bytes()).map_err(|_| {
        StartError::Invalid("the program, an argument, a variable or the directory has a NUL in it")
    })
}

fn c_strings(texts: impl IntoIterator<Item = OsString>) -> Result<Vec<CString>, StartError> {
    texts.into_iter().map(c_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_and_a_path_is_not() {
        let path = OsString::from("/a::/b");
        let of = |program: &str, path| candidates(OsStr::new(program), path);
        assert_eq!(of("x", Some(&path)), ["/a/x", "./x", "/b/x"]);
        assert_eq!(of("x", None), ["/bin/x", "/usr/bin/x"]);
        assert_eq!(of("./x", Some(&path)), ["./x"]);
        assert_eq!(of("", Some(&path)), [""]);
    }
}
