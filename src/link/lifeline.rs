//! The bytes that the two ends of a session exchange on its lifeline, and the one reader of them.

use crate::os::peer_socket::{PeerSocket, Received};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

/// Client to server, once: I have mapped everything.
pub(crate) const READY: u8 = b'R';
/// Either way: look at your rings.
pub(crate) const WAKE: u8 = b'W';
/// Client to server: nothing more comes from here.
pub(crate) const GOODBYE: u8 = b'G';

/// Server to client: why the session ends, as the byte `0x80 | reason`; to a client that was
/// offered the socket as transport, as the code of a goodbye frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Farewell {
    /// The server shuts down.
    ShutDown = 0x80,
    /// The client wrote something impossible.
    PeerFault = 0x81,
    /// The client did not drain its responses in time.
    SlowClient = 0x82,
    /// The server could not go on with this session: memory, descriptors.
    Exhausted = 0x83,
    /// The handshake was not finished in time.
    TooLate = 0x84,
}

impl Farewell {
    /// The reason in a byte of the server, if it is one. Any other byte with the top bit is a
    /// goodbye for a reason that this version does not know.
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0x80 => Self::ShutDown,
            0x81 => Self::PeerFault,
            0x82 => Self::SlowClient,
            0x83 => Self::Exhausted,
            0x84 => Self::TooLate,
            _ => return None,
        })
    }
}

/// What a peer has said on a lifeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    /// Look at your rings.
    Wake,
    /// The client leaves in good order.
    Goodbye,
    /// The server ends the session, for this reason if this version knows it.
    Farewell(Option<Farewell>),
    /// A byte that no peer sends here, or a descriptor.
    Impossible,
    /// The peer has hung up, or its process has ended. Nothing follows.
    HungUp,
}

impl Said {
    fn of(byte: u8) -> Self {
        match byte {
            WAKE => Self::Wake,
            GOODBYE => Self::Goodbye,
            0x80.. => Self::Farewell(Farewell::from_byte(byte)),
            _ => Self::Impossible,
        }
    }
}

/// What a peer says, read from its lifeline without waiting. Each caller judges by itself.
#[derive(Debug)]
pub(crate) struct Hearing<'a> {
    lifeline: &'a PeerSocket,
    /// The peer's pidfd.
    process: Option<&'a OwnedFd>,
    bytes: [u8; 256],
    /// What is left of them.
    left: std::ops::Range<usize>,
    /// Reads that are still made. Bounded: a peer that floods its lifeline gains no more of this
    /// thread's time.
    reads: u32,
    next: Step,
}

/// What a hearing does once the bytes that it has are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Reads.
    Read,
    /// As above; and a read that does not fill the buffer was the last one.
    ReadOnce,
    /// Reads to the end, whatever was read before.
    ReadAll,
    /// Asks the kernel whether there is more, and whether the process lives.
    Ask,
    /// Asks whether the process lives.
    AskProcess,
    Over,
}

/// Reads of one look at a peer that may live.
const READS: u32 = 4;
/// Reads of what a peer has left that is gone.
const LAST_READS: u32 = 16;

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

impl<'a> Hearing<'a> {
    fn new(lifeline: &'a PeerSocket, process: Option<&'a OwnedFd>, reads: u32, next: Step) -> Self {
        Self { lifeline, process, bytes: [0; 256], left: 0..0, reads, next }
    }

    /// All that the peer has said, and whether it is still there. Two system calls, mostly.
    pub(crate) fn of_peer(lifeline: &'a PeerSocket, process: Option<&'a OwnedFd>) -> Self {
        Self::new(lifeline, process, READS, Step::Read)
    }

    /// What the peer has said so far. Whether it is still there is for others to see. One system
    /// call, mostly.
    pub(crate) fn glance(lifeline: &'a PeerSocket) -> Self {
        Self::new(lifeline, None, READS, Step::ReadOnce)
    }

    /// What a peer has left that is gone.
    pub(crate) fn last_words(lifeline: &'a PeerSocket) -> Self {
        Self::new(lifeline, None, LAST_READS, Step::ReadAll)
    }

    fn read(&mut self) -> Option<Said> {
        let how = self.next;
        if self.reads == 0 {
            self.next = if how == Step::Read { Step::AskProcess } else { Step::Over };
            return None;
        }
        self.reads -= 1;
        match self.lifeline.receive(&mut self.bytes[..]) {
            Err(Errno::INTR) => None,
            Err(Errno::AGAIN) => {
                self.next = if how == Step::Read { Step::AskProcess } else { Step::Over };
                None
            }
            Ok(Received::Bytes(0)) | Err(_) => {
                self.next = Step::Over;
                Some(Said::HungUp)
            }
            Ok(Received::Descriptors) => {
                self.next = Step::Over;
                Some(Said::Impossible)
            }
            Ok(Received::Bytes(count)) => {
                self.left = 0..count;
                self.next = match how {
                    Step::Read => Step::Ask,
                    // There is room, and whatever comes now makes a new edge.
                    Step::ReadOnce if count < self.bytes.len() => Step::Over,
                    _ => how,
                };
                None
            }
        }
    }

    /// One look at both for what else there may be: an end of the lifeline, of which no other edge
    /// would tell.
    fn ask(&mut self) -> Option<Said> {
        let wanted = PollFlags::IN | PollFlags::RDHUP;
        let process = self.process.unwrap_or(self.lifeline);
        let mut polled = [PollFd::new(self.lifeline, wanted), PollFd::new(process, PollFlags::IN)];
        let polled = &mut polled[..if self.process.is_some() { 2 } else { 1 }];
        match poll(polled, Some(&NOW)) {
            Ok(0) => self.next = Step::Over,
            Ok(_) if polled[0].revents().is_empty() => {
                self.next = Step::Over;
                return Some(Said::HungUp);
            }
            // Or it could not be asked: a read tells.
            _ => self.next = Step::Read,
        }
        None
    }

    fn ask_process(&mut self) -> Option<Said> {
        self.next = Step::Over;
        let process = self.process?;
        let ended = matches!(poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&NOW)), Ok(1..));
        ended.then_some(Said::HungUp)
    }
}

impl Iterator for Hearing<'_> {
    type Item = Said;

    fn next(&mut self) -> Option<Said> {
        loop {
            if let Some(at) = self.left.next() {
                return Some(Said::of(self.bytes[at]));
            }
            let said = match self.next {
                Step::Read | Step::ReadOnce | Step::ReadAll => self.read(),
                Step::Ask => self.ask(),
                Step::AskProcess => self.ask_process(),
                Step::Over => return None,
            };
            if said.is_some() {
                return said;
            }
        }
    }
}
