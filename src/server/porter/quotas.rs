//! Quotas: slots, bytes and domains of each session, reserved at admission and released at its end.

use super::Isolation;
use crate::handshake::RejectReason;
use crate::link::segment::{Segment, SegmentError};
use std::collections::HashMap;
use std::sync::Arc;

/// The limits, in one place so that they are checked in one place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) clients: u64,
    pub(super) bytes_per_client: u64,
    pub(super) bytes_per_uid: u64,
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
    bytes: HashMap<u32, u64>,
    /// By index; a slot is free when its last session is gone.
    domains: Vec<Option<Domain>>,
}

impl Quotas {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, entries: HashMap::new(), bytes: HashMap::new(), domains: Vec::new() }
    }

    /// Whether there is room for another client.
    pub(super) fn has_room(&self) -> bool {
        (self.entries.len() as u64) < self.limits.clients
    }

    /// Sessions without shared memory.
    pub(super) fn without_memory(&self) -> u32 {
        let count = self.entries.values().filter(|entry| entry.domain.is_none()).count();
        u32::try_from(count).unwrap_or(u32::MAX)
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
        let Limits { clients, bytes_per_client, bytes_per_uid, .. } = self.limits;
        if bytes > bytes_per_client {
            return Err(Denied::Limit(RejectReason::BytesPerClient { limit: bytes_per_client }));
        }
        if !self.has_room() {
            return Err(Denied::Limit(RejectReason::TooManyClients { limit: clients }));
        }
        let taken = self.bytes.get(&uid).copied().unwrap_or(0);
        let total = taken.saturating_add(bytes);
        if total > bytes_per_uid {
            return Err(Denied::Limit(RejectReason::BytesPerUid { limit: bytes_per_uid }));
        }
        let (domain, index, bell) = self.domain(own_user, make_bell)?;
        self.bytes.insert(uid, total);
        self.entries.insert(session, Entry { uid, bytes, domain: Some(domain) });
        Ok((index, bell))
    }

    /// Reserves a slot and nothing else, for a client that gets no shared memory.
    pub(super) fn reserve_slot(&mut self, session: u64, uid: u32) -> Result<(), RejectReason> {
        if !self.has_room() {
            return Err(RejectReason::TooManyClients { limit: self.limits.clients });
        }
        self.entries.insert(session, Entry { uid, bytes: 0, domain: None });
        Ok(())
    }

    /// Gives back what the session had, but for its slot.
    pub(super) fn release_memory(&mut self, session: u64) {
        let Some(uid) = self.entries.get(&session).map(|entry| entry.uid) else { return };
        self.release(session);
        self.entries.insert(session, Entry { uid, bytes: 0, domain: None });
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
        let known =
            |slot: &Option<Domain>| slot.as_ref().is_some_and(|domain| domain.bell.is_some());
        if shared
            && let Some(at) = self.domains.iter().position(known)
            && let Some(domain) = &mut self.domains[at]
        {
            domain.sessions += 1;
            return Ok((at, u32::try_from(at).map_err(|_| full())?, domain.bell.clone()));
        }
        let at = self.domains.iter().position(Option::is_none).unwrap_or(self.domains.len());
        let index = u32::try_from(at).ok().filter(|index| *index < limit).ok_or_else(full)?;
        let bell = match shared {
            true => Some(Arc::new(make_bell(index).map_err(Denied::Segment)?)),
            false => None,
        };
        if at == self.domains.len() {
            self.domains.push(None);
        }
        self.domains[at] = Some(Domain { bell: bell.clone(), sessions: 1 });
        Ok((at, index, bell))
    }

    /// Gives back what the session had; nothing if there is no such session.
    pub(super) fn release(&mut self, session: u64) {
        let Some(Entry { uid, bytes, domain }) = self.entries.remove(&session) else { return };
        if let Some(total) = self.bytes.get_mut(&uid) {
            *total -= bytes;
            if *total == 0 {
                self.bytes.remove(&uid);
            }
        }
        let Some(slot) = domain.map(|domain| &mut self.domains[domain]) else { return };
        if let Some(domain) = slot {
            domain.sessions -= 1;
            if domain.sessions == 0 {
                *slot = None;
            }
        }
    }
}
