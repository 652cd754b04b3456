//! shmem-ipc: two of its byte rings for each client, which sleep on eventfds. They carry the frames
//! of a stream socket.
#![allow(
    unsafe_code,
    reason = "the ring hands out addresses in memory that another process writes"
)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::{ptr, thread};

use shmem_ipc::sharedring::{Receiver, Sender};

use crate::descriptors;
use crate::outcome::Outcome;
use crate::scenario::Case;
use crate::system::{Client, Ready, Setup, System};
use crate::systems::frames::{FrameReader, FrameWriter, LASTING};
use crate::systems::stream::{Connection, answer_all};
use crate::work::Handler;

/// With rings of 256 KiB; the size is all the configuration it has.
pub(crate) static RING: ShmemIpc = ShmemIpc;

/// Bytes of a ring.
const CAPACITY: usize = 256 << 10;

/// Calls over a pair of rings that stays.
#[derive(Debug)]
pub(crate) struct ShmemIpc;

impl System for ShmemIpc {
    fn name(&self) -> &'static str {
        "shmem-ipc"
    }

    fn cases(&self) -> Vec<Case> {
        [Case::few(), vec![Case::stream()]].concat()
    }

    fn serve(&self, setup: &Setup, ready: Ready<'_>) -> Outcome<()> {
        let listener = UnixListener::bind(&setup.path)?;
        let handler = Handler::of(&setup.case);
        ready()?;
        loop {
            let (introduction, _) = listener.accept()?;
            let requests = Receiver::<u8>::new(CAPACITY)?;
            let answers = Sender::<u8>::new(CAPACITY)?;
            let handed = [
                requests.memfd().as_file().as_fd(),
                requests.empty_signal().as_fd(),
                requests.full_signal().as_fd(),
                answers.memfd().as_file().as_fd(),
                answers.empty_signal().as_fd(),
                answers.full_signal().as_fd(),
            ];
            descriptors::send(&introduction, &handed)?;
            thread::spawn(move || {
                let (from, to) = (Out(requests), In(answers));
                if let Err(error) = answer_all(from, to, LASTING, true, handler) {
                    eprintln!("race: shmem-ipc server: {error}");
                }
            });
        }
    }

    fn connect(&self, setup: &Setup) -> Outcome<Box<dyn Client>> {
        let introduction = UnixStream::connect(&setup.path)?;
        let handed: [OwnedFd; 6] = descriptors::receive(&introduction)?;
        let [memory, empty, full, other_memory, other_empty, other_full] = handed.map(File::from);
        let requests = Sender::<u8>::open(CAPACITY, memory, empty, full)?;
        let answers = Receiver::<u8>::open(CAPACITY, other_memory, other_empty, other_full)?;
        Ok(Box::new(Connection {
            reader: FrameReader::new(Out(answers), LASTING),
            writer: FrameWriter::new(In(requests)),
            batched: true,
        }))
    }
}

/// The writing end of a ring, as a stream.
struct In(Sender<u8>);

impl Write for In {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let mut taken = 0;
            let write = |place: *mut u8, room: usize| {
                taken = room.min(bytes.len());
                // SAFETY: the ring says that `room` bytes there are the producer's until this
                // closure returns; private memory does not overlap a mapping.
                unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), place, taken) };
                taken
            };
            self.0.send_raw(write).map_err(io::Error::other)?;
            if taken > 0 || bytes.is_empty() {
                return Ok(taken);
            }
            self.0.block_until_writable().map_err(io::Error::other)?;
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The reading end of a ring, as a stream. It does not end when the other side is gone.
struct Out(Receiver<u8>);

impl Read for Out {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut taken = 0;
            let read = |place: *const u8, there: usize| {
                taken = there.min(bytes.len());
                // SAFETY: the ring says that `there` bytes are written and the consumer's until
                // this closure returns; private memory does not overlap a mapping.
                unsafe { ptr::copy_nonoverlapping(place, bytes.as_mut_ptr(), taken) };
                taken
            };
            self.0.receive_raw(read).map_err(io::Error::other)?;
            if taken > 0 || bytes.is_empty() {
                return Ok(taken);
            }
            self.0.block_until_readable().map_err(io::Error::other)?;
        }
    }
}
