//! Baseline over two pipes, which the server makes and hands over through a socket. Their capacity is the default,
//! 64 KiB.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use super::frames::{FrameReader, FrameWriter, LASTING};
use super::{Client, Outcome, Ready, Setup, System};
use crate::descriptors;
use crate::payload::echo;

/// Calls over a pair of pipes that stays.
#[derive(Debug)]
pub(crate) struct Pipe;

impl System for Pipe {
    fn name(&self) -> &'static str {
        "pipe"
    }

    fn serve(&self, setup: &Setup, ready: Ready<'_>) -> Outcome<()> {
        let listener = UnixListener::bind(&setup.path)?;
        ready()?;
        loop {
            let (introduction, _) = listener.accept()?;
            let (requests, request_end) = io::pipe()?;
            let (answer_end, answers) = io::pipe()?;
            descriptors::send(&introduction, &[request_end.as_fd(), answer_end.as_fd()])?;
            thread::spawn(move || {
                if let Err(error) = answer_all(requests, answers) {
                    eprintln!("race: pipe server: {error}");
                }
            });
        }
    }

    fn connect(&self, setup: &Setup) -> Outcome<Box<dyn Client>> {
        let introduction = UnixStream::connect(&setup.path)?;
        let [requests, answers]: [OwnedFd; 2] = descriptors::receive(&introduction)?;
        Ok(Box::new(Connection {
            writer: FrameWriter::new(File::from(requests)),
            reader: FrameReader::new(File::from(answers), LASTING),
        }))
    }
}

/// Answers requests until the client closes its end.
fn answer_all(requests: PipeReader, answers: PipeWriter) -> Outcome<()> {
    let mut reader = FrameReader::new(requests, LASTING);
    let mut writer = FrameWriter::new(answers);
    let (mut request, mut answer) = (Vec::new(), Vec::new());
    while reader.read(&mut request)? {
        answer.clear();
        echo(&request, &mut answer);
        writer.write(&answer)?;
    }
    Ok(())
}

/// The client's ends.
struct Connection {
    writer: FrameWriter<File>,
    reader: FrameReader<File>,
}

impl Client for Connection {
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()> {
        self.writer.write(request)?;
        self.receive(answer)
    }

    fn send(&mut self, request: &[u8]) -> Outcome<()> {
        self.writer.write(request)
    }

    fn receive(&mut self, answer: &mut Vec<u8>) -> Outcome<()> {
        if self.reader.read(answer)? { Ok(()) } else { Err("the server hung up".into()) }
    }
}
