//! Baselines over a stream socket: blocking, length-prefixed, one thread for each connection.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;

use super::frames::{BRIEF, FrameReader, FrameWriter, LASTING};
use crate::outcome::Outcome;
use crate::scenario::{Case, Scenario};
use crate::system::{Client, Ready, Setup, System};
use crate::work::Handler;

/// One connection for all calls; one write for each message.
pub(crate) static STREAM: UdsStream = UdsStream { name: "uds-stream", batched: false };

/// One connection; messages of a burst share their writes, on both sides. Differs from [`STREAM`]
/// in bursts only.
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
        let mut cases = [Case::standard(), Case::lasting(), Case::attached()].concat();
        cases.retain(|case| !self.batched || case.comes_in_bursts());
        cases
    }

    fn serve(&self, setup: &Setup, ready: Ready<'_>) -> Outcome<()> {
        let listener = UnixListener::bind(&setup.path)?;
        ready()?;
        let (batched, handler) = (self.batched, Handler::of(&setup.case));
        loop {
            let (stream, _) = listener.accept()?;
            thread::spawn(move || {
                if let Err(error) = answer_all(&stream, &stream, LASTING, batched, handler) {
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
pub(super) fn answer_all(
    from: impl Read,
    to: impl Write,
    buffer: usize,
    batched: bool,
    mut handler: Handler,
) -> Outcome<()> {
    let mut reader = FrameReader::new(from, buffer);
    let mut writer = FrameWriter::new(to);
    let (mut request, mut answer) = (Vec::new(), Vec::new());
    while reader.read(&mut request)? {
        let wanted = handler.answer(&request, &mut answer);
        if !batched {
            if wanted {
                writer.write(&answer)?;
            }
            continue;
        }
        if wanted {
            writer.push(&answer)?;
        }
        if reader.is_drained() {
            writer.flush()?;
        }
    }
    Ok(())
}

/// The client's end of a connection that stays.
pub(super) struct Connection<R, W> {
    pub(super) reader: FrameReader<R>,
    pub(super) writer: FrameWriter<W>,
    /// Messages of a burst share their writes.
    pub(super) batched: bool,
}

/// Bytes that a burst of one-way messages gathers before it is written.
const GATHERED: usize = 64 << 10;

impl<R: Read, W: Write> Client for Connection<R, W> {
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

    fn one_way(&mut self, message: &[u8]) -> Outcome<()> {
        self.send(message)?;
        if self.writer.pending() >= GATHERED { self.writer.flush() } else { Ok(()) }
    }
}

/// Connect, ask, hear, hang up, for each call. The server answers in its accept loop: a thread for
/// one request would cost more than the request.
#[derive(Debug)]
pub(crate) struct UdsDial;

impl System for UdsDial {
    fn name(&self) -> &'static str {
        "uds-dial"
    }

    fn cases(&self) -> Vec<Case> {
        let mut cases = Case::few();
        // There is nothing that could wait, or be waited for, in a connection that is not there.
        cases.retain(|case| !case.comes_in_bursts() && case.scenario != Scenario::Idle);
        cases
    }

    fn serve(&self, setup: &Setup, ready: Ready<'_>) -> Outcome<()> {
        let listener = UnixListener::bind(&setup.path)?;
        ready()?;
        loop {
            let (stream, _) = listener.accept()?;
            answer_all(&stream, &stream, BRIEF, false, Handler::of(&setup.case))?;
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
        if FrameReader::new(&stream, BRIEF).read(answer)? {
            Ok(())
        } else {
            Err("the server hung up".into())
        }
    }
}
