//! Quotas: slots, bytes and domains of each session, reserved at admission and released at its end.

use super::Isolation;
use crate::base::shares::{Refused, Shares, Sharing};
use crate::handshake::RejectReason;
use crate::link::segment::{Segment, SegmentError};
use std::collections::HashMap;
use std::sync::Arc;

/// The limits, in one place so that they are checked in one place.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    /// Among whom the clients are shared.
    pub(super) sharing: Sharing,
    pub(super) clients: u64,
    pub(super) clients_per_uid: u64,
    pub(super) bytes_per_client: u64,
    pub(super) bytes_per_uid: u64,
    pub(super) ring_bytes: u64,
    pub(super) domains: u32,
    pub(super) isolation: Isolation,
}

#[derive(Debug)]
struct Domain {
    /// The bell page of the server's own user. Every other domain has one session, which rings the
    /// bell word of its request segment.
    bell: Option<Arc<Segment>>,
    sessions: u32,
}

#[derive(Debug)]
struct Entry {
    uid: u32,
    bytes: u64,
    /// None for a client that has no shared memory.
    domain: Option<usize>,
}

/// Why an admission was not entered.
#[derive(Debug)]
pub(super) enum Denied {
    Limit(RejectReason),
    Segment(SegmentError),
}

#[derive(Debug)]
pub(super) struct Quotas {
    limits: Limits,
    entries: HashMap<u64, Entry>,
    clients: Shares,
    bytes: Shares,
    without_memory: u32,
    /// By index; a slot is free when its last session is gone.
    domains: Vec<Option<Domain>>,
    /// Indices of free slots.
    free_domains: Vec<usize>,
    /// The domain that the clients of the server's own user share.
    shared_domain: Option<usize>,
}

impl Quotas {
    pub(super) fn new(limits: Limits) -> Self {
        let clients = Shares::new(limits.clients, limits.clients_per_uid, limits.sharing.clone());
        let bytes = Shares::new(limits.ring_bytes, limits.bytes_per_uid, limits.sharing.clone());
        Self {
            limits,
            entries: HashMap::new(),
            clients,
            bytes,
            without_memory: 0,
            domains: Vec::new(),
            free_domains: Vec::new(),
            shared_domain: None,
        }
    }

    /// Whether there is room for another client.
    pub(super) fn has_room(&self) -> bool {
        self.clients.has_room()
    }

    /// Sessions without shared memory.
    pub(super) fn without_memory(&self) -> u32 {
        self.without_memory
    }

    /// Reserves a slot, bytes and membership of a domain, whose bell is made if it is new and the
    /// user is the server's own.
    pub(super) fn reserve(
        &mut self,
        session: u64,
        uid: u32,
        own_user: bool,
        bytes: u64,
        make_bell: impl FnOnce(u32) -> Result<Segment, SegmentError>,
    ) -> Result<(u32, Option<Arc<Segment>>), Denied> {
        let Limits { bytes_per_client, bytes_per_uid, ring_bytes, .. } = self.limits;
        if bytes > bytes_per_client {
            return Err(Denied::Limit(RejectReason::BytesPerClient { limit: bytes_per_client }));
        }
        self.check_slot(uid).map_err(Denied::Limit)?;
        self.bytes.check(uid, bytes).map_err(|refused| {
            Denied::Limit(match refused {
                Refused::OfUid { limit } if limit == bytes_per_uid => {
                    RejectReason::BytesPerUid { limit }
                }
                // Or what the others leave of it to this user.
                Refused::OfUid { .. } | Refused::Total => {
                    RejectReason::RingBytes { limit: ring_bytes }
                }
            })
        })?;
        let (domain, index, bell) = self.domain(own_user, make_bell)?;
        self.enter(session, Entry { uid, bytes, domain: Some(domain) });
        Ok((index, bell))
    }

    /// Reserves a slot and nothing else, for a client that gets no shared memory.
    pub(super) fn reserve_slot(&mut self, session: u64, uid: u32) -> Result<(), RejectReason> {
        self.check_slot(uid)?;
        self.enter(session, Entry { uid, bytes: 0, domain: None });
        Ok(())
    }

    /// Whether this user may have one client more.
    fn check_slot(&self, uid: u32) -> Result<(), RejectReason> {
        self.clients.check(uid, 1).map_err(|refused| match refused {
            Refused::Total => RejectReason::TooManyClients { limit: self.limits.clients },
            Refused::OfUid { limit } => RejectReason::TooManyClientsOfUid { limit },
        })
    }

    fn enter(&mut self, session: u64, entry: Entry) {
        self.clients.count(entry.uid, 1);
        self.bytes.count(entry.uid, entry.bytes);
        self.without_memory += u32::from(entry.domain.is_none());
        self.entries.insert(session, entry);
    }

    /// Gives back what the session had, but for its slot.
    pub(super) fn release_memory(&mut self, session: u64) {
        let Some(uid) = self.entries.get(&session).map(|entry| entry.uid) else { return };
        self.release(session);
        self.enter(session, Entry { uid, bytes: 0, domain: None });
    }

    /// The domain of one more session, with the session in it.
    fn domain(
        &mut self,
        own_user: bool,
        make_bell: impl FnOnce(u32) -> Result<Segment, SegmentError>,
    ) -> Result<(usize, u32, Option<Arc<Segment>>), Denied> {
        let shared = own_user && self.limits.isolation == Isolation::Uid;
        let limit = self.limits.domains;
        let full = || Denied::Limit(RejectReason::TooManyClients { limit: limit.into() });
        if shared
            && let Some(at) = self.shared_domain
            && let Some(domain) = &mut self.domains[at]
        {
            domain.sessions += 1;
            return Ok((at, u32::try_from(at).map_err(|_| full())?, domain.bell.clone()));
        }
        let at = self.free_domains.last().copied().unwrap_or(self.domains.len());
        let index = u32::try_from(at).ok().filter(|index| *index < limit).ok_or_else(full)?;
        let bell = match shared {
            true => Some(Arc::new(make_bell(index).map_err(Denied::Segment)?)),
            false => None,
        };
        if self.free_domains.pop().is_none() {
            self.domains.push(None);
        }
        if shared {
            self.shared_domain = Some(at);
        }
        self.domains[at] = Some(Domain { bell: bell.clone(), sessions: 1 });
        Ok((at, index, bell))
    }

    /// Gives back what the session had, so many bytes; nothing if there is no such session.
    pub(super) fn release(&mut self, session: u64) -> u64 {
        let Some(Entry { uid, bytes, domain }) = self.entries.remove(&session) else { return 0 };
        self.clients.give_back(uid, 1);
        self.bytes.give_back(uid, bytes);
        self.without_memory -= u32::from(domain.is_none());
        let Some(at) = domain else { return bytes };
        if let Some(domain) = &mut self.domains[at] {
            domain.sessions -= 1;
            if domain.sessions == 0 {
                self.domains[at] = None;
                self.free_domains.push(at);
                self.shared_domain.take_if(|shared| *shared == at);
            }
        }
        bytes
    }
}
