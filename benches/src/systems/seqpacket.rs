//! Baseline over a `SOCK_SEQPACKET` socket: the kernel keeps messages apart, so no prefix and no
//! partial read.

use std::os::fd::OwnedFd;
use std::thread;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with,
    bind, connect, listen, recv, send, socket_with,
};

use crate::outcome::Outcome;
use crate::scenario::Case;
use crate::system::{Client, Ready, Setup, System};
use crate::work::Handler;

/// The largest message tried: the default socket buffer (208 KiB) holds it whole.
const LARGEST: usize = 64 << 10;

/// Calls over one connection that stays, a message each.
#[derive(Debug)]
pub(crate) struct SeqPacket;

/// An unconnected socket.
fn socket() -> rustix::io::Result<OwnedFd> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

impl System for SeqPacket {
    fn name(&self) -> &'static str {
        "uds-seqpacket"
    }

    fn cases(&self) -> Vec<Case> {
        let mut cases = Case::few();
        cases.retain(|case| case.size <= LARGEST);
        cases
    }

    fn serve(&self, setup: &Setup, ready: Ready<'_>) -> Outcome<()> {
        let listener = socket()?;
        bind(&listener, &SocketAddrUnix::new(&setup.path)?)?;
        listen(&listener, 128)?;
        ready()?;
        let handler = Handler::of(&setup.case);
        loop {
            let stream = accept_with(&listener, SocketFlags::CLOEXEC)?;
            thread::spawn(move || {
                if let Err(error) = answer_all(&stream, handler) {
                    eprintln!("race: seqpacket server: {error}");
                }
            });
        }
    }

    fn connect(&self, setup: &Setup) -> Outcome<Box<dyn Client>> {
        let stream = socket()?;
        connect(&stream, &SocketAddrUnix::new(&setup.path)?)?;
        Ok(Box::new(Connection { stream, buffer: vec![0; LARGEST] }))
    }
}

/// Answers requests until the client hangs up.
fn answer_all(stream: &OwnedFd, mut handler: Handler) -> Outcome<()> {
    let mut buffer = vec![0; LARGEST];
    let mut answer = Vec::new();
    loop {
        let length = match recv(stream, &mut buffer[..], RecvFlags::empty()) {
            // A client that detaches with an answer unread resets the connection: an end like any
            // other.
            Ok((_, 0)) | Err(Errno::CONNRESET) => return Ok(()),
            received => received?.1,
        };
        if handler.answer(&buffer[..length], &mut answer) {
            send(stream, &answer, SendFlags::NOSIGNAL)?;
        }
    }
}

/// The client's end.
struct Connection {
    stream: OwnedFd,
    buffer: Vec<u8>,
}

impl Client for Connection {
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()> {
        self.send(request)?;
        self.receive(answer)
    }

    fn send(&mut self, request: &[u8]) -> Outcome<()> {
        send(&self.stream, request, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    fn one_way(&mut self, message: &[u8]) -> Outcome<()> {
        self.send(message)
    }

    fn receive(&mut self, answer: &mut Vec<u8>) -> Outcome<()> {
        let (_, length) = recv(&self.stream, &mut self.buffer[..], RecvFlags::empty())?;
        if length == 0 {
            return Err("the server hung up".into());
        }
        answer.clear();
        answer.extend_from_slice(&self.buffer[..length]);
        Ok(())
    }
}
