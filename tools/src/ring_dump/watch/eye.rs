//! Looks at the target on a thread of its own: a server that answers late, or never, keeps neither
//! keys nor signals waiting.

use crate::capture::{Capture, Origin, Take};
use crate::pace::Pace;
use crate::report::Report;
use crate::source::{self, Found, Target};
use crate::{Unattachable, assemble};
use rustix::fd::{AsFd, BorrowedFd};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::Duration;

/// How much of one CPU's time looking may take.
const SHARE: f64 = 0.2;
/// Looks that are compared are so far apart at least, as far as there are such: at less, what is on
/// its way would seem stuck.
const APART_NS: u64 = 100_000_000;

/// What a look has brought.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) report: Result<Report, Unattachable>,
    /// How long to let the target be.
    pub(super) pause: Duration,
}

/// Looks when it is asked to.
pub(super) struct Eye {
    asks: Sender<()>,
    seen: Receiver<Seen>,
    woken: UnixStream,
}

impl Eye {
    /// `interval` is between two looks; a call that waits for longer than `late` is a finding.
    pub(super) fn open(target: Target, interval: Duration, late: Duration) -> io::Result<Self> {
        let (asks, asked) = channel();
        let (tell, seen) = channel();
        let (woken, wakes) = UnixStream::pair()?;
        woken.set_nonblocking(true)?;
        let mut looker = Looker::new(target, late);
        std::thread::Builder::new().name("eye".into()).spawn(move || {
            let mut pace = Pace::new(Some(SHARE), interval);
            while let Ok(()) = asked.recv() {
                pace.begin();
                let report = looker.look();
                let pause = pace.pause();
                if tell.send(Seen { report, pause }).is_err() || (&wakes).write(&[1]).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { asks, seen, woken })
    }

    /// Asks for one more look.
    pub(super) fn look(&self) -> io::Result<()> {
        self.asks.send(()).map_err(|_| ended())
    }

    /// What the look has brought, if it is done.
    pub(super) fn seen(&self) -> io::Result<Option<Seen>> {
        let mut bytes = [0; 64];
        while matches!((&self.woken).read(&mut bytes), Ok(1..)) {}
        match self.seen.try_recv() {
            Ok(seen) => Ok(Some(seen)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(ended()),
        }
    }

    /// Waits for it.
    pub(super) fn wait(&self) -> io::Result<Seen> {
        self.seen.recv().map_err(|_| ended())
    }

    /// Becomes readable with it.
    pub(super) fn wakes(&self) -> BorrowedFd<'_> {
        self.woken.as_fd()
    }
}

fn ended() -> io::Error {
    io::Error::other("the thread that looks has ended")
}

struct Looker {
    target: Target,
    late: Duration,
    /// Where the servers of a process listen: there they come back.
    sockets: Vec<PathBuf>,
    /// Looks of the past, without what is in the rings.
    takes: VecDeque<Take>,
}

impl Looker {
    fn new(target: Target, late: Duration) -> Self {
        Self { target, late, sockets: Vec::new(), takes: VecDeque::new() }
    }

    /// The target, or, behind the end of a process, whoever listens where it listened.
    fn find(&self) -> Result<Found, Unattachable> {
        let found = source::find(&self.target);
        if found.is_ok() || matches!(self.target, Target::Socket(_)) {
            return found;
        }
        let sockets = self.sockets.iter().cloned().map(Target::Socket);
        sockets.filter_map(|socket| source::find(&socket).ok()).next().map_or(found, Ok)
    }

    fn look(&mut self) -> Result<Report, Unattachable> {
        let found = self.find()?;
        let take = source::take(&found, true);
        let listening = found.listening();
        let paths: Vec<_> = listening.iter().map(|one| one.raw.clone()).collect();
        // The newest that is old enough; those before it have served.
        while self.takes.get(1).is_some_and(|then| take.at_ns >= then.at_ns + APART_NS) {
            self.takes.pop_front();
        }
        let takes = self.takes.pop_front().into_iter().chain([take]).collect();
        let mut capture = Capture::live(self.target.to_string(), Origin::Process, listening, takes);
        let report = assemble::report_with(&capture, self.late);
        let now = capture.takes.pop();
        // What it was compared with serves again, until the next one is old enough.
        if let Some(then) = capture.takes.pop() {
            self.takes.push_front(then);
        }
        self.takes.extend(now.map(without_rings));
        if !report.servers.is_empty() && !paths.is_empty() {
            self.sockets = paths;
        }
        Ok(report)
    }
}

/// Rates and verdicts take the positions of the earlier look, not its bytes.
fn without_rings(mut take: Take) -> Take {
    for image in &mut take.images {
        image.body = Vec::new();
        image.after = Vec::new();
    }
    take
}
