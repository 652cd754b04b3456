//! The inspector's side: asks a server for the descriptors of its segments, and hangs up.

use super::client::{ConnectError, Patience, connect};
use super::wire::{Hello, MessageKind, RejectReason, Role, Segments, TransportAsked, VERSIONS};
use crate::base::clock::{ClockOffset, now_ns};
use crate::os::peer_socket::PeerSocket;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// What a server showed of itself.
#[derive(Debug)]
#[non_exhaustive]
pub struct Survey {
    /// The server's generation.
    pub generation: u64,
    /// The server's pid as the server sees it.
    pub pid: u32,
    /// Sessions that are carried by the socket, and so have no segments.
    pub sockets: u64,
    /// How far the server's CLOCK_MONOTONIC is ahead of this process's, in ns: 0 unless the two are
    /// in different time namespaces. All times in segments are of the server's clock.
    pub clock_ahead_ns: i64,
    /// The status segment, then those of the sessions that have some, all sealed against writing.
    /// All are memory; whether they are what they should be is for the receiver to check.
    pub segments: Vec<OwnedFd>,
}

/// Messages of one survey: more than any server has segments for.
const MESSAGES: usize = 4096;

/// A connection of an inspector, who looks at a server and changes nothing.
#[derive(Debug)]
pub struct Inspector {
    socket: PeerSocket,
    patience: Patience,
}

impl Inspector {
    /// Connects to the server that listens at `path`. Waits at most `timeout`, here and for
    /// [`Self::survey`]: `None` waits for ever, zero does not wait.
    ///
    /// # Errors
    /// As those of any client that connects.
    pub fn connect(path: &Path, timeout: Option<Duration>) -> Result<Self, ConnectError> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        Ok(Self { socket: connect(path, deadline)?, patience: Patience::new(deadline) })
    }

    /// The process that listens, as the kernel says: known also of one that is stopped. `None` if
    /// it cannot be seen from this pid namespace.
    #[must_use]
    pub fn listener(&self) -> Option<u32> {
        let found = super::sockopt::peer_credentials(&self.socket).ok()?;
        u32::try_from(found.pid).ok().filter(|pid| *pid != 0)
    }

    /// Asks for everything that can be looked at. A server shows it to its own user and to the
    /// superuser.
    ///
    /// It is the server's porter that answers: also while the server's reactor is stuck, but not
    /// while the process is stopped.
    ///
    /// # Errors
    /// As those of connecting; [`ConnectError::Rejected`] for another user.
    pub fn survey(self) -> Result<Survey, ConnectError> {
        let Self { socket, patience } = self;
        let hello = Hello {
            versions: VERSIONS,
            role: Role::Inspector,
            transport: TransportAsked::Shared,
            features: 0,
            request_capacity: 0,
            response_capacity: 0,
            max_message: 0,
            name: String::new(),
        };
        let sent = now_ns();
        match patience.send(&socket, &hello.encode()) {
            // It may have said why before it hung up.
            Ok(()) | Err(ConnectError::ServerDied) => {}
            Err(error) => return Err(error),
        }
        let mut survey =
            Survey { generation: 0, pid: 0, sockets: 0, clock_ahead_ns: 0, segments: Vec::new() };
        for _ in 0..MESSAGES {
            let (header, descriptors) = patience.header(&socket)?;
            let received = now_ns();
            // Before the body, which cannot be read behind an error.
            let descriptors = descriptors?;
            let mut body = vec![0; header.length];
            patience.read(&socket, &mut body)?;
            let segments = match header.kind {
                MessageKind::Segments => Segments::parse(&body)?,
                MessageKind::Reject => return Err(RejectReason::parse(&body)?.into()),
                _ => return Err(ConnectError::NotRingbell),
            };
            let (segments_sent, _) = descriptors.take(segments.count as usize, false)?;
            survey.generation = segments.generation;
            survey.pid = segments.pid;
            survey.sockets = segments.sockets.into();
            if survey.segments.is_empty() {
                let clock = ClockOffset::between(sent, received, segments.server_ns);
                survey.clock_ahead_ns = clock.ahead();
            }
            survey.segments.extend(segments_sent.into_iter().map(|(segment, _)| segment));
            if !segments.more {
                return Ok(survey);
            }
        }
        Err(ConnectError::NotRingbell)
    }
}
