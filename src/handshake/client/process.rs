//! Whether the process that listens is the one that this process started.
//!
//! The kernel names the process that called `listen`, by a number of this process's own pid
//! namespace and by a pidfd. The pidfd is fetched first, and what it stands for still lives after
//! the number was judged, so the number was its own all the time. The same holds for the process
//! that was started: another part of this program may wait for it, and its number may then become
//! another process's, but not while its pidfd says that it lives.

use super::error::ConnectError;
use crate::handshake::sockopt::{peer_credentials, peer_pidfd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::{Pid, getpid};
use std::sync::Arc;

/// Which process a server must be: one that this process has started, or one that it has started in
/// turn, a member of its process group or a descendant of it.
#[derive(Debug, Clone)]
pub(crate) struct ServerProcess {
    /// The one that was started.
    pub(crate) started: Pid,
    /// Stands for it, whoever waits for it.
    pub(crate) pidfd: Arc<OwnedFd>,
    /// Whether it inherits a socket at which this process listens already.
    pub(crate) inherits: bool,
}

impl ServerProcess {
    /// Checks the process at the other end of a connection.
    ///
    /// # Errors
    /// [`ConnectError::ServerDied`] if the process that was started has ended, whoever listens.
    pub(super) fn check(&self, socket: impl AsFd) -> Result<(), ConnectError> {
        let socket = socket.as_fd();
        let pidfd = peer_pidfd(socket);
        let found = peer_credentials(socket)?;
        let own = rustix::process::geteuid().as_raw();
        if found.uid != own && found.uid != 0 {
            return Err(ConnectError::WrongServerUid { want: own, have: found.uid });
        }
        let have = Pid::from_raw(found.pid);
        let is_meant = have.is_some_and(|have| self.means(have));
        let lives = match pidfd {
            Ok(pidfd) => !has_ended(pidfd.as_fd()),
            // Before Linux 6.5.
            Err(Errno::NOPROTOOPT) => true,
            // It has been waited for.
            Err(Errno::SRCH | Errno::INVAL) => false,
            Err(errno) => return Err(errno.into()),
        };
        // After the comparison: see above.
        if has_ended(self.pidfd.as_fd()) {
            return Err(ConnectError::ServerDied);
        }
        if is_meant && lives {
            return Ok(());
        }
        let (want, have) = (number(self.started), have.map_or(0, number));
        Err(ConnectError::WrongServerProcess { want, have })
    }

    fn means(&self, pid: Pid) -> bool {
        let Self { started, inherits, .. } = *self;
        pid == started
            || (inherits && pid == getpid())
            || rustix::process::getpgid(Some(pid)) == Ok(started)
            || descends(pid, started)
    }
}

fn number(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().unsigned_abs()
}

fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&now)), Ok(1..))
}

/// Whether `started` is among the ancestors of `pid`. Not without a `/proc` of this pid namespace.
fn descends(pid: Pid, started: Pid) -> bool {
    /// Deeper than any chain of wrappers.
    const GENERATIONS: usize = 64;
    let here = std::fs::read_link("/proc/self").ok();
    if here.as_deref().and_then(std::path::Path::to_str) != Some(&number(getpid()).to_string()) {
        return false;
    }
    let mut next = Some(pid);
    for _ in 0..GENERATIONS {
        next = next.and_then(parent_of);
        if next.is_none_or(|pid| pid == started) {
            break;
        }
    }
    next == Some(started)
}

fn parent_of(pid: Pid) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", number(pid))).ok()?;
    // The name stands in parentheses, and may have any others in it.
    let (_, behind) = stat.rsplit_once(')')?;
    // Source: proc_pid_stat(5): the state, and the parent.
    Pid::from_raw(behind.split_whitespace().nth(1)?.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handshake::tests::Scratch;
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};

    fn of(started: Pid) -> ServerProcess {
        let pidfd = rustix::process::pidfd_open(started, rustix::process::PidfdFlags::empty());
        ServerProcess { started, pidfd: Arc::new(pidfd.expect("it lives")), inherits: false }
    }

    #[test]
    fn w9_who_listens_is_compared() {
        let scratch = Scratch::new();
        let path = scratch.path("s");
        let _listener = std::os::unix::net::UnixListener::bind(&path).expect("bound");
        let client = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::connect(&client, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        of(getpid()).check(&client).expect("it is itself");
        let mut child = std::process::Command::new("sleep").arg("600").spawn().expect("started");
        let pid = Pid::from_child(&child);
        let inherits = ServerProcess { inherits: true, ..of(pid) };
        inherits.check(&client).expect("this process listens");
        let refused = of(pid).check(&client);
        let me = std::process::id();
        assert!(
            matches!(refused, Err(ConnectError::WrongServerProcess { want, have })
                if want == child.id() && have == me),
            "{refused:?}"
        );
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Its number is another process's by now, and that one listens.
    #[test]
    fn w9_a_number_that_was_used_again_is_not_believed() {
        let scratch = Scratch::new();
        let path = scratch.path("s");
        let _listener = std::os::unix::net::UnixListener::bind(&path).expect("bound");
        let client = std::os::unix::net::UnixStream::connect(&path).expect("connected");
        let mut child = std::process::Command::new("true").spawn().expect("started");
        let ServerProcess { pidfd, .. } = of(Pid::from_child(&child));
        child.wait().unwrap();
        let reused = ServerProcess { started: getpid(), pidfd, inherits: false };
        let refused = reused.check(&client);
        assert!(matches!(refused, Err(ConnectError::ServerDied)), "{refused:?}");
    }

    #[test]
    fn w9_descendants_are_found_whatever_their_group() {
        use std::os::unix::process::CommandExt;
        let mut child =
            std::process::Command::new("sleep").arg("600").process_group(0).spawn().unwrap();
        let pid = Pid::from_child(&child);
        assert!(of(getpid()).means(pid) && descends(pid, getpid()), "a child of this process");
        assert!(!of(pid).means(getpid()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!descends(pid, getpid()), "it is gone");
    }
}
