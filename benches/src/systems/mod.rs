//! Who competes: the seam between the referee and everything that moves requests and responses.
//!
//! To add a system: write `systems/<name>.rs` with a type that implements [`System`] and a client that implements
//! [`Client`], and put it into [`all`]. The server and each client run in a process of their own; the only thing they
//! share is [`Setup`]. The handler is [`Work::answer`] of the system's [work](System::work).

mod frames;
mod in_process;
mod pipe;
mod ringbell;
mod seqpacket;
mod stream;

use std::error::Error;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::scenario::Case;
use crate::work::Work;

/// A result whose error is only ever shown to a person.
pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// What both sides of a trial know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    /// A path of this trial alone, in an empty directory of mode 0700: the place for a socket.
    pub(crate) path: PathBuf,
    /// What will be done: how large messages are, how many clients come, [how to wait](Case::waiting).
    pub(crate) case: Case,
}

/// One way to move requests and responses between processes.
pub(crate) trait System: Sync {
    /// The name in the table. Names that start with `limit-` are bounds, not competitors.
    fn name(&self) -> &'static str;

    /// The cases that this system can run.
    fn cases(&self) -> Vec<Case> {
        Case::standard()
    }

    /// What its handler does in this case.
    fn work(&self, _case: &Case) -> Work {
        Work::Echo
    }

    /// Whether there is no server to start: the clients are threads of one process, and what they call is there too.
    fn is_in_process(&self) -> bool {
        false
    }

    /// The server role: calls `ready` once clients may connect, then answers until it is killed, which is how every
    /// trial ends. Runs in a process of its own, already pinned; threads that it starts inherit the pinning.
    fn serve(&self, setup: &Setup, ready: Ready<'_>) -> Outcome<()>;

    /// The client role: attaches to a server that is ready. `setup` cases call this again and again.
    fn connect(&self, setup: &Setup) -> Outcome<Box<dyn Client>>;
}

/// Announces that clients may connect.
pub(crate) type Ready<'a> = &'a mut dyn FnMut() -> Outcome<()>;

/// A client's attachment to its server. Dropping it detaches.
pub(crate) trait Client {
    /// One request, and its response into `answer` (whose old content goes).
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()>;

    /// Pipelined cases: hands over one request. It need not reach the server before [`Client::flush`].
    fn send(&mut self, _request: &[u8]) -> Outcome<()> {
        Err("this system does not pipeline".into())
    }

    /// Pipelined cases: everything sent so far is on its way when this returns.
    fn flush(&mut self) -> Outcome<()> {
        Ok(())
    }

    /// Pipelined cases: the next response. The referee expects them in the order of the requests, but where handlers
    /// wait side by side.
    fn receive(&mut self, _answer: &mut Vec<u8>) -> Outcome<()> {
        Err("this system does not pipeline".into())
    }

    /// Slow-client cases: sends as much as the server takes, reads no answer, and returns when that is over.
    fn flood(&mut self, _request: &[u8]) -> Outcome<()> {
        Err("this system does not flood".into())
    }

    /// Stream cases: `count` one-way messages whose sequence numbers start at `first`. The server must check every one.
    fn stream(&mut self, _size: usize, _first: u64, _count: u64) -> Outcome<()> {
        Err("this system does not stream".into())
    }

    /// Stream cases: waits until the server has taken and checked everything that was streamed.
    fn drain(&mut self) -> Outcome<()> {
        Err("this system does not stream".into())
    }
}

/// All competitors, limits apart.
pub(crate) fn all() -> Vec<&'static dyn System> {
    vec![
        &in_process::InProcess,
        &ringbell::SERIAL,
        &ringbell::INLINE,
        &ringbell::REACTOR,
        &ringbell::REACTOR_UDS,
        &ringbell::SERIAL_UDS,
        &stream::STREAM,
        &stream::BATCHED,
        &stream::DIAL,
        &seqpacket::SeqPacket,
        &pipe::Pipe,
    ]
}
