//! Baseline over two pipes, which the server makes and hands over through a socket. Their capacity
//! is the default, 64 KiB.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use super::frames::{FrameReader, FrameWriter, LASTING};
use super::stream::{Connection, answer_all};
use crate::descriptors;
use crate::outcome::Outcome;
use crate::system::{Client, Ready, Setup, System};
use crate::work::Handler;

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
        let handler = Handler::of(&setup.case);
        loop {
            let (introduction, _) = listener.accept()?;
            let (requests, request_end) = io::pipe()?;
            let (answer_end, answers) = io::pipe()?;
            descriptors::send(&introduction, &[request_end.as_fd(), answer_end.as_fd()])?;
            thread::spawn(move || {
                if let Err(error) = answer_all(requests, answers, LASTING, false, handler) {
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
            batched: false,
        }))
    }
}
