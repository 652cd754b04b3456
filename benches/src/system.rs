//! What a competitor is: the seam between the referee and everything that moves requests and
//! responses.
//!
//! The server and each client run in a process of their own; the only thing they share is
//! [`Setup`]. The handler is [`Work::answer`] of the system's [work](System::work).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::outcome::Outcome;
use crate::payload::{END, Payload};
use crate::scenario::Case;
use crate::work::Work;

/// What both sides of a trial know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    /// A path of this trial alone, in an empty directory of mode 0700: the place for a socket.
    pub(crate) path: PathBuf,
    /// What will be done: how large messages are, how many clients come, [how to
    /// wait](Case::waiting).
    pub(crate) case: Case,
}

/// One way to move requests and responses between processes.
pub(crate) trait System: Sync {
    /// The name in the table. Names that start with `limit-` are bounds, not competitors.
    fn name(&self) -> &'static str;

    /// The cases that this system can run.
    fn cases(&self) -> Vec<Case> {
        Case::few()
    }

    /// What its handler does in this case.
    fn work(&self, _case: &Case) -> Work {
        Work::Echo
    }

    /// Why this system cannot be put through anything here, if so: it has one row, which says that.
    fn absence(&self) -> Option<String> {
        None
    }

    /// For systems whose server can tell what it counted: what does so, in the server's process, on
    /// another thread than serves.
    fn server_counts(&self) -> Option<fn() -> Option<Counts>> {
        None
    }

    /// Another process that serves, beside the one whose role that is: its CPU time counts as the
    /// server's. Asked by the client, once everything is ready.
    fn helper(&self, _setup: &Setup) -> Outcome<Option<u32>> {
        Ok(None)
    }

    /// Removes what a killed server left behind beside the trial's directory. Called in the parent
    /// when the trial is over.
    fn clean(&self, _setup: &Setup) -> Outcome<()> {
        Ok(())
    }

    /// Whether there is no server to start: the clients are threads of one process, and what they
    /// call is there too.
    fn is_in_process(&self) -> bool {
        false
    }

    /// The server role: calls `ready` once clients may connect, then answers until it is killed,
    /// which is how every trial ends. Runs in a process of its own, already pinned; threads that it
    /// starts inherit the pinning.
    fn serve(&self, setup: &Setup, ready: Ready<'_>) -> Outcome<()>;

    /// The client role: attaches to a server that is ready. `setup` cases call this again and
    /// again.
    fn connect(&self, setup: &Setup) -> Outcome<Box<dyn Client>>;
}

/// How a side slept since it started.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Times it went to sleep in the kernel.
    pub(crate) parks: u64,
    /// Times it was about to, and found something at the second look.
    pub(crate) called_off: u64,
    /// Wake calls that it made for the other side.
    pub(crate) wakes: u64,
    /// Sleeps that only a timer ended although something had come. Always 0, or a wake was lost.
    pub(crate) rescues: u64,
    /// Sleeps of a program's event loop that a timer ended, or nothing; none where it is not asked.
    pub(crate) by_timer: Option<u64>,
}

/// Announces that clients may connect.
pub(crate) type Ready<'a> = &'a mut dyn FnMut() -> Outcome<()>;

/// A client's attachment to its server. Dropping it detaches.
pub(crate) trait Client {
    /// One request, and its response into `answer` (whose old content goes).
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()>;

    /// Pipelined cases: hands over one request. It need not reach the server before
    /// [`Client::flush`].
    fn send(&mut self, _request: &[u8]) -> Outcome<()> {
        Err("this system does not pipeline".into())
    }

    /// Pipelined cases: everything sent so far is on its way when this returns.
    fn flush(&mut self) -> Outcome<()> {
        Ok(())
    }

    /// Pipelined cases: the next response. The referee expects them in the order of the requests,
    /// but where handlers wait side by side.
    fn receive(&mut self, _answer: &mut Vec<u8>) -> Outcome<()> {
        Err("this system does not pipeline".into())
    }

    /// What this side counted so far, for systems that can tell.
    fn counts(&mut self) -> Option<Counts> {
        None
    }

    /// Slow-client cases: sends as much as the server takes, reads no answer, and returns when that
    /// is over.
    fn flood(&mut self, _request: &[u8]) -> Outcome<()> {
        Err("this system does not flood".into())
    }

    /// Batch cases: hands over many requests, whose answers are then [received](Client::receive).
    fn send_all(&mut self, requests: &[&[u8]]) -> Outcome<()> {
        for request in requests {
            self.send(request)?;
        }
        self.flush()
    }

    /// Task cases: a task for each payload makes `rounds` calls, one after the other, and checks
    /// each answer: in its round `r` task `t` makes call `first + r * tasks + t`. The payloads
    /// again, once all are done.
    fn tasks(
        &mut self,
        _payloads: Vec<Payload>,
        _first: u64,
        _rounds: u64,
    ) -> Outcome<Vec<Payload>> {
        Err("this system has no tasks".into())
    }

    /// Stream cases: hands over a message that wants no answer. It need not reach the server before
    /// [`Client::flush`].
    fn one_way(&mut self, _message: &[u8]) -> Outcome<()> {
        Err("this system does not stream".into())
    }

    /// Stream cases: `count` one-way messages whose sequence numbers start at `first`. The server
    /// must check every one.
    fn stream(&mut self, payload: &mut Payload, first: u64, count: u64) -> Outcome<()> {
        for number in first..first + count {
            self.one_way(payload.stamp(number))?;
        }
        self.flush()
    }

    /// Stream cases: waits until the server has taken and checked everything that was streamed.
    fn drain(&mut self, payload: &mut Payload) -> Outcome<()> {
        let mut answer = Vec::new();
        self.call(payload.stamp(END), &mut answer)?;
        if answer == payload.bytes() {
            Ok(())
        } else {
            Err("wrong answer to the end of a stream".into())
        }
    }
}
