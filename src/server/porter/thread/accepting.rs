//! Accepting who connects, and what to do when that fails.
//!
//! A lack of descriptors or of memory passes: the listener is left alone for a moment, which is
//! counted. What does not pass, a refused call or a listener that another holder has shut down,
//! ends the porter, and with it the server: it would serve nobody new, and nobody would know.

use super::super::Outbox;
use super::super::token::Token;
use super::{Porter, add};
use crate::base::kill_point::kill_point;
use crate::handshake::RejectReason;
use crate::os::calls::Failed;
use crate::os::peer_socket::PeerSocket;
use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use std::time::{Duration, Instant};

/// When to try again to accept, after there was neither a descriptor nor a way to say so. Other
/// parts of the process may have given some back, which nobody tells.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Tries to accept, [`ACCEPT_RETRY`] apart, that fail for a reason that does not pass: then the
/// porter ends. A lack of descriptors or of memory passes.
const ACCEPT_TRIES: u32 = 10;

impl<O: Outbox> Porter<O> {
    pub(super) fn accept(&mut self) {
        for _ in 0..self.turn.accepts {
            match rustix::net::accept_with(
                &self.listener.socket,
                SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            ) {
                Ok(socket) => {
                    add(&self.counters.accepted);
                    self.accept_failures = 0;
                    kill_point!("porter-accepted");
                    self.begin_handshake(PeerSocket::accepted(socket));
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::MFILE | Errno::NFILE) if self.turn_away() => {}
                Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS) => {
                    return self.pause_accepting();
                }
                Err(errno) => return self.accepting_failed(errno),
            }
        }
    }

    /// For a reason that does not pass.
    pub(super) fn accepting_failed(&mut self, errno: Errno) {
        self.accept_failures += 1;
        if self.accept_failures >= ACCEPT_TRIES {
            self.fail(Failed { call: "accept4", errno }.into());
        }
        self.pause_accepting();
    }

    /// There is no descriptor for a new client: gives up the reserve to tell it so. False if that
    /// failed, too.
    fn turn_away(&mut self) -> bool {
        if self.reserve.take().is_none() {
            return false;
        }
        let accepted = rustix::net::accept_with(
            &self.listener.socket,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        )
        .map(PeerSocket::accepted);
        if let Ok(socket) = &accepted {
            add(&self.counters.accepted);
            self.reject(socket, RejectReason::OutOfDescriptors);
        }
        let done = accepted.is_ok();
        drop(accepted);
        self.refill_reserve();
        done
    }

    pub(super) fn refill_reserve(&mut self) {
        if self.reserve.is_none() {
            self.reserve = rustix::io::fcntl_dupfd_cloexec(&self.mailbox.bell, 0).ok();
        }
    }

    /// Whoever connects has to wait: watching the listener would be a busy loop. It is
    /// taken out, since the kernel tells of a hang-up whatever is watched for.
    pub(super) fn pause_accepting(&mut self) {
        let _ = epoll::delete(&self.epoll, &self.listener.socket);
        add(&self.counters.accept_pauses);
        self.accept_paused_until = Some(Instant::now() + ACCEPT_RETRY);
    }

    pub(super) fn resume_accepting(&mut self) {
        if self.accept_paused_until.take().is_some() {
            self.refill_reserve();
            let data = Token::Listener.data();
            if epoll::add(&self.epoll, &self.listener.socket, data, EventFlags::IN).is_err() {
                // No memory: later.
                self.accept_paused_until = Some(Instant::now() + ACCEPT_RETRY);
            }
        }
    }
}
