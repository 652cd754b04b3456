//! The task that sleeps for a session.

use super::shared::{Core, SharedClient, Wakes};
use super::watched::{Watched, drain, look_read, look_write};
use crate::client::SessionEnd;
use crate::handshake::Transport;
use crate::os::peer_socket::PeerSocket;
use crate::protocol::bell::Arming;
use rustix::fd::OwnedFd;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::Interest;

/// Watches the descriptor, hands out what comes, and ends with the session, or with the runtime.
pub(super) struct Driver {
    shared: Arc<SharedClient>,
    descriptor: Watched<Arc<PeerSocket>>,
    /// The server's process, for a server that leaves forked children behind.
    process: Option<Watched<OwnedFd>>,
    is_socket: bool,
    /// Nobody is kept waiting for the lock while the driver looks out.
    is_alone: bool,
    /// Empty in between.
    wakes: Wakes,
}

/// What a turn leaves to be done.
enum Next {
    Sleep,
    Again,
    End,
}

impl Driver {
    pub(super) fn new(
        shared: Arc<SharedClient>,
        descriptor: Arc<PeerSocket>,
        process: Option<OwnedFd>,
        is_alone: bool,
    ) -> io::Result<Self> {
        let is_socket = matches!(shared.facts().transport, Transport::Socket { .. });
        let interest =
            if is_socket { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        Ok(Self {
            descriptor: Watched::new(descriptor, interest)?,
            process: process.map(|fd| Watched::new(fd, Interest::READABLE)).transpose()?,
            shared,
            is_socket,
            is_alone,
            wakes: Wakes::default(),
        })
    }

    /// Whether a descriptor was reported; from now on it wakes this task. Fails when the runtime
    /// shuts down.
    fn was_reported(&self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut reported = drain(|| look_read(&self.descriptor, cx))?;
        if self.is_socket {
            reported |= drain(|| look_write(&self.descriptor, cx))?;
        }
        if let Some(process) = &self.process {
            // Once, and for ever: a process that has ended stays so.
            reported |= matches!(process.poll_read_ready(cx)?, Poll::Ready(_));
        }
        Ok(reported)
    }
}

/// Looks at everything, and arms.
fn turn(core: &mut Core, reported: bool, look_out: bool, wakes: &mut Wakes) -> Next {
    if reported {
        core.client.disarm();
    } else {
        core.client.call_off();
    }
    core.pump(wakes);
    let waits = wakes.is_empty() && core.over().is_none() && core.has_calls();
    if look_out
        && waits
        && let Some(look_out) = core.client.may_look_out()
        && core.client.look_out(look_out)
    {
        core.pump(wakes);
    }
    if core.over().is_some() {
        return Next::End;
    }
    if core.is_abandoned() {
        // What was put off is on its way before anybody asks whether something is left.
        core.client.flush();
    }
    if core.is_abandoned() && !core.client.wants_writable() {
        core.client.end_session();
        core.end(SessionEnd::Disconnected, wakes);
        return Next::End;
    }
    if reported {
        // Room may be what was reported.
        core.retry(wakes);
    }
    if !wakes.is_empty() {
        // Those that it wakes may call again, and they come first: were the client armed meanwhile
        // the server would ring for the first answer, in the middle of that. A turn that finds
        // nothing arms.
        if core.client.stay_awake() {
            core.retry(wakes);
        }
        if core.was_busy() {
            core.client.show_tools();
        }
        return Next::Again;
    }
    if core.client.arm() == Arming::Busy {
        core.retry(wakes);
        return Next::Again;
    }
    Next::Sleep
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // Registered before anything is looked at: what is reported later wakes this task.
        let Ok(reported) = self.was_reported(cx) else { return Poll::Ready(()) };
        let Self { shared, is_alone, wakes, .. } = self.get_mut();
        let next = shared.with_room(wakes, |core, wakes| {
            core.driven_by(cx.waker());
            let next = turn(core, reported, *is_alone, wakes);
            if matches!(next, Next::Again) {
                core.driver_comes_back();
            }
            next
        });
        match next {
            // Or a forked child, where nothing is to be driven.
            None | Some(Next::End) => return Poll::Ready(()),
            // Others come first.
            Some(Next::Again) => cx.waker().wake_by_ref(),
            Some(Next::Sleep) => {}
        }
        Poll::Pending
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.with(|core, wakes| {
            if core.over().is_none() {
                // The runtime goes: without it nobody would ever learn of an answer.
                core.client.end_session();
                core.end(SessionEnd::Disconnected, wakes);
            }
        });
    }
}
