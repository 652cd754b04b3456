//! Baselines over TCP on the loopback interface: blocking, length-prefixed, one thread for each
//! connection, exactly as [`stream`](super::stream).

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;

use super::frames::{FrameReader, FrameWriter, LASTING};
use super::stream::{Connection, answer_all};
use crate::outcome::Outcome;
use crate::scenario::Case;
use crate::system::{Client, Ready, Setup, System};
use crate::work::Handler;

/// As a socket comes.
pub(crate) static DEFAULT: Tcp = Tcp { name: "tcp", tuned: false };

/// Without the wait for more to send, and messages of a burst share their writes.
pub(crate) static NODELAY: Tcp = Tcp { name: "tcp-nodelay", tuned: true };

/// Calls over a connection that stays.
#[derive(Debug)]
pub(crate) struct Tcp {
    name: &'static str,
    tuned: bool,
}

impl System for Tcp {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cases(&self) -> Vec<Case> {
        if self.tuned { Case::few() } else { Case::glance() }
    }

    fn serve(&self, setup: &Setup, ready: Ready<'_>) -> Outcome<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        // The port is the kernel's choice; clients find it where a socket would be.
        fs::write(&setup.path, listener.local_addr()?.to_string())?;
        ready()?;
        let (tuned, handler) = (self.tuned, Handler::of(&setup.case));
        loop {
            let (stream, _) = listener.accept()?;
            stream.set_nodelay(tuned)?;
            thread::spawn(move || {
                if let Err(error) = answer_all(&stream, &stream, LASTING, tuned, handler) {
                    eprintln!("race: tcp server: {error}");
                }
            });
        }
    }

    fn connect(&self, setup: &Setup) -> Outcome<Box<dyn Client>> {
        let address: SocketAddr = fs::read_to_string(&setup.path)?.parse()?;
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(self.tuned)?;
        let reader = FrameReader::new(stream.try_clone()?, LASTING);
        Ok(Box::new(Connection { reader, writer: FrameWriter::new(stream), batched: self.tuned }))
    }
}
