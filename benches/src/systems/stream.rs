//! Baselines over a stream socket: blocking, length-prefixed, one thread for each connection.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;

use super::frames::{BRIEF, FrameReader, FrameWriter, LASTING};
use super::{Client, Outcome, Ready, Setup, System};
use crate::payload::echo;
use crate::scenario::{Case, Scenario};

/// One connection for all calls; one write for each message.
pub(crate) static STREAM: UdsStream = UdsStream { name: "uds-stream", batched: false };

/// One connection; messages of a burst share their writes, on both sides. Differs from [`STREAM`] in pipelines only.
pub(crate) static BATCHED: UdsStream = UdsStream { name: "uds-stream-batched", batched: true };

/// A connection for each call.
pub(crate) static DIAL: UdsDial = UdsDial;

/// Calls over a connection that stays.
#[derive(Debug)]
pub(crate) struct UdsStream {
    name: &'static str,
    batched: bool,
}

impl System for UdsStream {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cases(&self) -> Vec<Case> {
        let mut cases = Case::standard();
        cases.retain(|case| !self.batched || case.scenario == Scenario::Pipelined);
        cases
    }

    fn serve(&self, setup: &Setup, ready: Ready<'_>) -> Outcome<()> {
        let listener = UnixListener::bind(&setup.path)?;
        ready()?;
        let batched = self.batched;
        loop {
            let (stream, _) = listener.accept()?;
            thread::spawn(move || {
                if let Err(error) = answer_all(&stream, LASTING, batched) {
                    eprintln!("race: uds server: {error}");
                }
            });
        }
    }

    fn connect(&self, setup: &Setup) -> Outcome<Box<dyn Client>> {
        let stream = UnixStream::connect(&setup.path)?;
        let reader = FrameReader::new(stream.try_clone()?, LASTING);
        Ok(Box::new(Connection { reader, writer: FrameWriter::new(stream), batched: self.batched }))
    }
}

/// Answers requests until the client hangs up.
fn answer_all(stream: &UnixStream, buffer: usize, batched: bool) -> Outcome<()> {
    let mut reader = FrameReader::new(stream, buffer);
    let mut writer = FrameWriter::new(stream);
    let (mut request, mut answer) = (Vec::new(), Vec::new());
    while reader.read(&mut request)? {
        answer.clear();
        echo(&request, &mut answer);
        if !batched {
            writer.write(&answer)?;
            continue;
        }
        writer.push(&answer)?;
        if reader.is_drained() {
            writer.flush()?;
        }
    }
    Ok(())
}

/// The client's end of a connection that stays.
struct Connection {
    reader: FrameReader<UnixStream>,
    writer: FrameWriter<UnixStream>,
    batched: bool,
}

impl Client for Connection {
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()> {
        self.writer.write(request)?;
        self.receive(answer)
    }

    fn send(&mut self, request: &[u8]) -> Outcome<()> {
        if self.batched { self.writer.push(request) } else { self.writer.write(request) }
    }

    fn flush(&mut self) -> Outcome<()> {
        if self.batched { self.writer.flush() } else { Ok(()) }
    }

    fn receive(&mut self, answer: &mut Vec<u8>) -> Outcome<()> {
        if self.reader.read(answer)? { Ok(()) } else { Err("the server hung up".into()) }
    }
}

/// Connect, ask, hear, hang up, for each call. The server answers in its accept loop: a thread for one request would
/// cost more than the request.
#[derive(Debug)]
pub(crate) struct UdsDial;

impl System for UdsDial {
    fn name(&self) -> &'static str {
        "uds-dial"
    }

    fn cases(&self) -> Vec<Case> {
        let mut cases = Case::standard();
        cases.retain(|case| case.scenario != Scenario::Pipelined);
        cases
    }

    fn serve(&self, setup: &Setup, ready: Ready<'_>) -> Outcome<()> {
        let listener = UnixListener::bind(&setup.path)?;
        ready()?;
        loop {
            answer_all(&listener.accept()?.0, BRIEF, false)?;
        }
    }

    fn connect(&self, setup: &Setup) -> Outcome<Box<dyn Client>> {
        Ok(Box::new(Dialer(setup.path.clone())))
    }
}

/// Knows where to connect, no more.
struct Dialer(PathBuf);

impl Client for Dialer {
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()> {
        let stream = UnixStream::connect(&self.0)?;
        FrameWriter::new(&stream).write(request)?;
        if FrameReader::new(&stream, BRIEF).read(answer)? { Ok(()) } else { Err("the server hung up".into()) }
    }
}
