//! The baseline: the same requests over plain Unix domain sockets, length-prefixed, blocking.
//!
//! As a good program would do it: a message and its length are one write, all that is there is read
//! at once, and a server that finds many requests answers them with one write, out of the buffer
//! into which it read them.

use crate::channel::{Call, Pipeline, Ticket};
use crate::cli::PATIENCE;
use crate::{Failure, say};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Bytes of the length before each message.
const PREFIX: usize = 4;
/// What is read at once, unless a message is longer.
const BUFFER: usize = 64 << 10;

/// Reads frames (a length and a message) from a stream.
#[derive(Debug, Default)]
struct Frames {
    buffer: Vec<u8>,
    /// What was read and not taken.
    start: usize,
    end: usize,
}

impl Frames {
    /// Length of the frame at `at`, if its prefix is there.
    fn frame_at(&self, at: usize) -> Option<usize> {
        let length = self.buffer[at..self.end].first_chunk()?;
        Some(PREFIX + u32::from_le_bytes(*length) as usize)
    }

    /// Whether a whole frame can be taken without reading.
    fn has_next(&self) -> bool {
        self.frame_at(self.start).is_some_and(|len| len <= self.end - self.start)
    }

    /// The next frame, or `None` at the end of the stream.
    fn next(&mut self, stream: &UnixStream) -> io::Result<Option<&[u8]>> {
        if !self.fill(stream)? {
            return Ok(None);
        }
        let from = self.start;
        self.start += self.frame_at(from).expect("filled");
        Ok(Some(&self.buffer[from..self.start]))
    }

    /// All frames that are there, at least one, or `None` at the end of the stream.
    fn next_all(&mut self, stream: &UnixStream) -> io::Result<Option<&[u8]>> {
        if !self.fill(stream)? {
            return Ok(None);
        }
        let from = self.start;
        while let Some(len) = self.frame_at(self.start)
            && len <= self.end - self.start
        {
            self.start += len;
        }
        Ok(Some(&self.buffer[from..self.start]))
    }

    /// Reads until a frame is there; `false` at the end of the stream.
    fn fill(&mut self, mut stream: &UnixStream) -> io::Result<bool> {
        while !self.has_next() {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            let room = self.frame_at(0).unwrap_or(0).max(BUFFER);
            if self.buffer.len() < room {
                self.buffer.resize(room, 0);
            }
            match stream.read(&mut self.buffer[self.end..]) {
                Ok(0) if self.end == 0 => return Ok(false),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.end += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

fn append_frame(out: &mut Vec<u8>, message: &[u8]) -> io::Result<()> {
    let length =
        u32::try_from(message.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(message);
    Ok(())
}

// ---- the servers ----

/// Serves connections of many requests, with a thread for each connection, for ever.
pub(crate) fn serve(listener: &UnixListener) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept()?;
        // A client that goes away in the middle of a message ends its thread, and that is all.
        std::thread::spawn(move || echo(&stream));
    }
}

fn echo(mut stream: &UnixStream) -> io::Result<()> {
    let mut frames = Frames::default();
    while let Some(requests) = frames.next_all(stream)? {
        stream.write_all(requests)?;
    }
    Ok(())
}

/// Serves connections of one request each on this thread, for ever.
pub(crate) fn serve_dialled(listener: &UnixListener) -> io::Result<()> {
    let mut frames = Frames::default();
    loop {
        let (mut stream, _) = listener.accept()?;
        match frames.next(&stream) {
            Ok(Some(request)) => {
                let _ = stream.write_all(request);
            }
            Ok(None) => {}
            Err(_) => frames = Frames::default(),
        }
    }
}

// ---- the clients ----

/// One connection for all requests.
#[derive(Debug)]
pub(crate) struct Uds {
    stream: UnixStream,
    answers: Frames,
    /// Frames that are to be written, all of one length, and how much of them has been.
    out: Vec<u8>,
    written: usize,
    frame: usize,
    /// Requests handed over, and answers received.
    sent: Ticket,
    received: Ticket,
}

impl Uds {
    pub(crate) fn connect(path: &Path) -> Result<Self, Failure> {
        let stream = UnixStream::connect(path).map_err(|error| say::of(path, &error))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            answers: Frames::default(),
            out: Vec::new(),
            written: 0,
            frame: 0,
            sent: 0,
            received: 0,
        })
    }

    /// Writes what is to be written. Waits for room for one request if there is no answer to wait
    /// for, and not otherwise: a server that finds no room for answers reads no requests, and both
    /// would wait for ever.
    fn flush(&mut self) -> Result<(), Failure> {
        while self.written < self.out.len() {
            let rest = &self.out[self.written..];
            let unwritten = rest.len().div_ceil(self.frame);
            let answers_come = self.sent - self.received > unwritten as u64;
            let (part, wait) = if answers_come {
                (rest, SendFlags::DONTWAIT)
            } else {
                (&rest[..rest.len() - (unwritten - 1) * self.frame], SendFlags::empty())
            };
            match send(&self.stream, part, wait | SendFlags::NOSIGNAL) {
                Ok(count) => self.written += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if answers_come => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }
}

fn answer<'a>(frames: &'a mut Frames, stream: &UnixStream) -> Result<&'a [u8], Failure> {
    match frames.next(stream)? {
        Some(frame) => Ok(&frame[PREFIX..]),
        None => Err("the server hung up".into()),
    }
}

impl Call for Uds {
    fn call(&mut self, request: &[u8]) -> Result<&[u8], Failure> {
        self.out.clear();
        append_frame(&mut self.out, request)?;
        self.stream.write_all(&self.out)?;
        answer(&mut self.answers, &self.stream)
    }
}

impl Pipeline for Uds {
    fn send<'r>(
        &mut self,
        requests: impl Iterator<Item = &'r [u8]>,
        tickets: &mut Vec<Ticket>,
    ) -> Result<(), Failure> {
        for request in requests {
            self.frame = PREFIX + request.len();
            append_frame(&mut self.out, request)?;
            tickets.push(self.sent);
            self.sent += 1;
        }
        self.flush()
    }

    fn receive(&mut self, wait: bool) -> Result<Option<(Ticket, &[u8])>, Failure> {
        if !wait && !self.answers.has_next() {
            return Ok(None);
        }
        self.flush()?;
        let ticket = self.received;
        self.received += 1;
        Ok(Some((ticket, answer(&mut self.answers, &self.stream)?)))
    }
}

/// A connection for each request.
#[derive(Debug)]
pub(crate) struct UdsDial {
    path: PathBuf,
    out: Vec<u8>,
    answers: Frames,
}

impl UdsDial {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), out: Vec::new(), answers: Frames::default() }
    }
}

impl Call for UdsDial {
    fn call(&mut self, request: &[u8]) -> Result<&[u8], Failure> {
        let mut stream = UnixStream::connect(&self.path)?;
        self.out.clear();
        append_frame(&mut self.out, request)?;
        stream.write_all(&self.out)?;
        answer(&mut self.answers, &stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_however_they_arrive() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let mut bytes = Vec::new();
        let messages: Vec<Vec<u8>> = [0, 1, 5, 70_000, 3].iter().map(|len| vec![9; *len]).collect();
        for message in &messages {
            append_frame(&mut bytes, message).unwrap();
        }
        let writing =
            std::thread::spawn(move || bytes.chunks(7).try_for_each(|chunk| near.write_all(chunk)));
        let mut frames = Frames::default();
        for message in &messages {
            assert_eq!(&frames.next(&far).unwrap().unwrap()[PREFIX..], message);
        }
        assert!(frames.next(&far).unwrap().is_none());
        writing.join().unwrap().unwrap();
    }

    #[test]
    fn a_pipeline_deeper_than_the_socket_is_no_deadlock() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || serve(&listener));
        let mut client = Uds::connect(&path).unwrap();
        let message = vec![7; 10_000];
        let mut tickets = Vec::new();
        client.send((0..1000).map(|_| &message[..]), &mut tickets).unwrap();
        for ticket in tickets {
            let (answered, answer) = client.receive(true).unwrap().unwrap();
            assert_eq!((answered, answer), (ticket, &message[..]));
        }
    }
}
