//! The task that sleeps for a session.

use super::foreign::Wakes;
use super::shared::{Core, SharedClient};
use super::watched::{Watched, drain, look_read, look_write};
use crate::client::SessionEnd;
use crate::handshake::Transport;
use crate::os::peer_socket::PeerSocket;
use crate::protocol::bell::Arming;
use rustix::fd::OwnedFd;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
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
    /// Once nobody holds the client any more, and a socket has not taken all of it.
    last_push: Option<LastPush>,
}

/// For how long a client that nobody holds any more goes on pushing out what it has sent over a
/// socket: a server that is stopped must not keep it for ever. Nobody is kept waiting by it.
const LAST_PUSH: i64 = 5;

enum LastPush {
    /// Readable once the time is over. Not a timer of the runtime, which may have none.
    Until(Watched<OwnedFd>),
    Over,
}

impl LastPush {
    fn new() -> Self {
        Self::timer().map_or(Self::Over, Self::Until)
    }

    fn timer() -> io::Result<Watched<OwnedFd>> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let it_value = Timespec { tv_sec: LAST_PUSH, tv_nsec: 0 };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = Itimerspec { it_interval, it_value };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &once)?;
        Watched::new(timer, Interest::READABLE)
    }

    /// Whether the time is over; if not, the task is woken then.
    fn poll(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if let Self::Until(timer) = self
            && timer.poll_read_ready(cx)?.is_ready()
        {
            *self = Self::Over;
        }
        Ok(matches!(self, Self::Over))
    }
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
            last_push: None,
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

/// Looks at everything, and arms. `pushes`: unless the last push has lasted long enough.
fn turn(core: &mut Core, reported: bool, look_out: bool, pushes: bool, wakes: &mut Wakes) -> Next {
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
    if core.is_abandoned() && !(pushes && core.client.wants_writable()) {
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
        let Self { shared, is_alone, wakes, last_push, .. } = self.get_mut();
        let Ok(pushed) = last_push.as_mut().map(|push| push.poll(cx)).transpose() else {
            return Poll::Ready(());
        };
        let waker = cx.waker().clone();
        let next = shared.with_room(wakes, |core, wakes| {
            core.driven_by(waker, wakes);
            let next = turn(core, reported, *is_alone, pushed != Some(true), wakes);
            if matches!(next, Next::Again) {
                core.driver_comes_back(wakes);
            }
            (next, core.is_abandoned())
        });
        match next {
            // Or a forked child, where nothing is to be driven.
            None | Some((Next::End, _)) => return Poll::Ready(()),
            Some((_, true)) if last_push.is_none() => {
                *last_push = Some(LastPush::new());
                // It is asked in the next turn, which registers it.
                cx.waker().wake_by_ref();
            }
            // Others come first.
            Some((Next::Again, _)) => cx.waker().wake_by_ref(),
            Some((Next::Sleep, _)) => {}
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
