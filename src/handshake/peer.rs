//! Who connects to a server, and who may.
//!
//! # The overflow uid
//!
//! In a user namespace every user without a mapping shows as one and the same uid, the *overflow
//! uid* (65534 unless the administrator says otherwise). It stands for anybody, so it is nobody's:
//! that a peer shows as it does not make the peer the server's own user, or a listed one, or an
//! inspector, even if the server itself shows as it. Only where every uid is mapped to itself, as
//! in the initial namespace, it is a user like any other.

use super::sockopt;
use crate::base::shares::Sharing;
use crate::memory::layout::{NAME, Peer};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

/// Which users a server serves. Checked against what the kernel says about the process that
/// connected; the superuser is no exception.
///
/// In a user namespace all users without a mapping show as the overflow uid (65534), so a client
/// that shows as it is refused by [`Self::SameUid`] and [`Self::Uids`], even if the server runs as
/// that uid or lists it. In the initial namespace 65534 is a user like any other.
///
/// Where several users are served, they share the places for clients and for half-open handshakes:
/// each may have at most half of what is free to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    /// The user that the server runs as (its effective uid).
    #[default]
    SameUid,
    /// These users. Each of them has an equal part reserved: of `n` users the `2 n`-th part of the
    /// places.
    Uids(Vec<u32>),
    /// Whoever may connect to the socket.
    ///
    /// Nothing is reserved for anybody. Who can act as many users (root, or the owner of
    /// subordinate uids) counts as that many strangers, so a group of them is bounded by
    /// [`max_clients`](crate::ServerBuilder::max_clients) and
    /// [`max_handshakes`](crate::ServerBuilder::max_handshakes) alone.
    Anyone,
}

/// A range of uids of this user namespace, and what it is in the parent's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mapping {
    inside: u32,
    outside: u32,
    length: u32,
}

impl Mapping {
    fn parse(line: &str) -> Option<Self> {
        let mut numbers = line.split_whitespace().map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Self { inside: next()?, outside: next()?, length: next()? })
    }
}

/// Whether all uids are mapped to themselves, so that none shows as the overflow uid: says the text
/// of `/proc/self/uid_map`.
fn maps_everybody(uid_map: &str) -> bool {
    let all = Mapping { inside: 0, outside: 0, length: u32::MAX };
    uid_map.lines().map(Mapping::parse).eq([Some(all)])
}

/// The uid that stands for every user without a mapping; `None` if there are no such users here.
fn nobody() -> Option<u32> {
    /// What the kernel has unless it is told otherwise.
    const USUAL: u32 = 65_534;
    // A process that enters another namespace gets there once: before it serves.
    static NOBODY: OnceLock<Option<u32>> = OnceLock::new();
    *NOBODY.get_or_init(|| {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        // Without /proc nothing is known: so the uid is nobody's.
        if read("/proc/self/uid_map").is_some_and(|map| maps_everybody(&map)) {
            return None;
        }
        let uid = read("/proc/sys/kernel/overflowuid").and_then(|text| text.trim().parse().ok());
        Some(uid.unwrap_or(USUAL))
    })
}

/// Whether a peer with this uid is the user `want`.
pub(super) fn is_user(uid: u32, want: u32) -> bool {
    uid == want && Some(uid) != nobody()
}

/// Whether the peer is the user that this process runs as.
fn is_own(uid: u32, nobody: Option<u32>) -> bool {
    uid == rustix::process::geteuid().as_raw() && Some(uid) != nobody
}

impl Credentials {
    pub(crate) fn allow(&self, uid: u32) -> bool {
        self.allow_where(uid, nobody())
    }

    fn allow_where(&self, uid: u32, nobody: Option<u32>) -> bool {
        match self {
            Self::SameUid => is_own(uid, nobody),
            Self::Uids(uids) => uids.contains(&uid) && Some(uid) != nobody,
            Self::Anyone => true,
        }
    }

    /// How the users that are served share what there is.
    pub(crate) fn sharing(&self) -> Sharing {
        match self {
            Self::SameUid => Sharing::One,
            Self::Uids(uids) => {
                let nobody = nobody();
                let served = uids.iter().copied().filter(|uid| Some(*uid) != nobody).collect();
                Sharing::among(served)
            }
            Self::Anyone => Sharing::Strangers,
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
        is_own(self.uid, nobody())
    }

    /// Whether it may look at everything: whoever could trace this process anyway.
    pub(crate) fn may_inspect(&self) -> bool {
        self.uid == 0 || self.is_own_user()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h4_only_the_whole_range_leaves_nobody_out() {
        assert!(maps_everybody("         0          0 4294967295\n"));
        for map in [
            "",
            "0 0 65536\n",
            "0 100000 4294967295\n",
            "65534 1000 1\n",
            "0 0 4294967295\n1 1 1\n",
            "0 0\n",
            "all\n",
        ] {
            assert!(!maps_everybody(map), "{map:?}");
        }
    }

    #[test]
    fn h4_nobody_is_never_let_in_by_equality() {
        let me = rustix::process::geteuid().as_raw();
        let listed = Credentials::Uids(vec![me, 77]);
        for credentials in [&Credentials::SameUid, &listed] {
            assert!(credentials.allow_where(me, None));
            assert!(!credentials.allow_where(me, Some(me)));
        }
        assert!(listed.allow_where(77, Some(me)) && !listed.allow_where(78, None));
        assert!(Credentials::Anyone.allow_where(me, Some(me)));
        assert!(is_own(me, None) && !is_own(me, Some(me)));
    }
}
