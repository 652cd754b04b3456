//! What the kernel says of a socket that carries a session.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

/// What a driver has learnt about a socket from the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Readiness {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The peer has closed its end: what it sent before is still there.
    pub(crate) hung_up: bool,
}

impl Readiness {
    /// Nothing is known: a read and a write will tell.
    pub(crate) const UNKNOWN: Self = Self { readable: true, writable: true, hung_up: false };
}

impl From<PollFlags> for Readiness {
    fn from(flags: PollFlags) -> Self {
        Self {
            readable: flags.contains(PollFlags::IN),
            writable: flags.contains(PollFlags::OUT),
            hung_up: flags.intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR),
        }
    }
}

/// Waits for one of `wanted`, or the end of the peer, at most `timeout`. `None`: the kernel did not
/// wait, since the call is refused or the descriptor is closed. Then only a read and a write can
/// tell: see [`Readiness::UNKNOWN`].
pub(crate) fn wait_ready(
    socket: &OwnedFd,
    wanted: PollFlags,
    timeout: Option<&Timespec>,
) -> Option<Readiness> {
    let mut polled = [PollFd::new(socket, wanted)];
    match poll(&mut polled, timeout) {
        Err(Errno::INTR) => Some(Readiness::default()),
        Ok(_) if !polled[0].revents().contains(PollFlags::NVAL) => Some(polled[0].revents().into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn h2_what_the_kernel_tells_of_a_socket() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let (ours, wanted) = (OwnedFd::from(ours), PollFlags::IN | PollFlags::RDHUP);
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let look = || wait_ready(&ours, wanted, Some(&at_once));
        assert_eq!(look(), Some(Readiness::default()));
        drop(theirs);
        assert!(look().is_some_and(|ready| ready.readable && ready.hung_up));
    }
}
