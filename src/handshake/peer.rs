//! Who connects to a server, and who may.

use super::sockopt;
use crate::memory::layout::{NAME, Peer};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// Which users a server serves. Checked against what the kernel says about the process that
/// connected; the superuser is no exception.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    /// The user that the server runs as (its effective uid).
    #[default]
    SameUid,
    /// These users.
    Uids(Vec<u32>),
    /// Whoever may connect to the socket.
    Anyone,
}

impl Credentials {
    pub(crate) fn allow(&self, uid: u32) -> bool {
        match self {
            Self::SameUid => uid == rustix::process::geteuid().as_raw(),
            Self::Uids(uids) => uids.contains(&uid),
            Self::Anyone => true,
        }
    }
}

/// Who is at the other end: what the kernel says, but for the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerInfo {
    /// 0 if the process cannot be seen from this pid namespace.
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Chosen by the peer: at most [`NAME`] bytes, and not to be trusted.
    pub(crate) name: String,
}

impl PeerInfo {
    /// Whether it runs as the user of this process, and so could trace it.
    pub(crate) fn is_own_user(&self) -> bool {
        self.uid == rustix::process::geteuid().as_raw()
    }

    /// Whether it may look at everything: whoever could trace this process anyway.
    pub(crate) fn may_inspect(&self) -> bool {
        self.uid == 0 || self.uid == rustix::process::geteuid().as_raw()
    }

    /// As it stands in a segment.
    pub(crate) fn cell(&self) -> Peer {
        let mut name = [0; NAME];
        for (to, from) in name.iter_mut().zip(self.name.bytes()) {
            *to = from;
        }
        Peer { pid: self.pid, uid: self.uid, name }
    }
}

/// Asks the kernel who connected.
pub(crate) fn identify(socket: &OwnedFd) -> Result<PeerInfo, Errno> {
    let found = sockopt::peer_credentials(socket)?;
    let pid = u32::try_from(found.pid).unwrap_or(0);
    Ok(PeerInfo { pid, uid: found.uid, gid: found.gid, name: String::new() })
}
