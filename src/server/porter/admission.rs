//! Admission: whether a client is served, and with which segments.

use super::pace::Pace;
use super::quotas::{Denied, Limits, Quotas};
use super::{PorterConfig, StatusInfo};
use crate::base::clock::now_ns;
use crate::handshake::{
    Credentials, FEATURE_BYTES, FEATURE_CLOCK, FEATURE_ORDERED, FEATURE_SAMPLES, Fallback, Hello,
    Host, InspectorReply, Offer, PeerInfo, RejectReason, SharedOffer, TransportAsked, VERSIONS,
    Welcome,
};
use crate::link::segment::{Segment, SegmentError};
use crate::link::segment_pair::SegmentPair;
use crate::memory::layout;
use crate::os::closer;
use rustix::process::PidfdFlags;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

/// Decides about each Hello, and reserves what a session gets.
#[derive(Debug)]
pub(super) struct Admission {
    stopping: bool,
    credentials: Credentials,
    ordered: bool,
    sample_every: u32,
    bytes: bool,
    shared_memory: bool,
    fallback: bool,
    request_capacity: u64,
    response_capacity: u64,
    max_message: u64,
    quotas: Quotas,
    pace: Pace,
    /// The segments of every session that has some, for inspectors. Both are sealed against
    /// writing.
    segments: BTreeMap<u64, [Arc<OwnedFd>; 2]>,
    /// Made ahead, with the default capacities.
    spare: Option<SegmentPair>,
    /// Whether to make a spare when there is time. Not again after a failure until the next
    /// handshake.
    wants_spare: bool,
    next_session: u64,
    generation: u64,
    armed_words: u32,
    /// `None` if there is no shared memory here.
    status: Option<Arc<OwnedFd>>,
    /// What a client is told then.
    no_shared_memory: RejectReason,
    /// This process.
    server: Option<Arc<OwnedFd>>,
    pid: u32,
}

impl Admission {
    pub(super) fn new(config: &PorterConfig, status: &StatusInfo<'_>) -> std::io::Result<Self> {
        let me = rustix::process::getpid();
        let quotas = Quotas::new(Limits {
            sharing: config.credentials.sharing(),
            clients: config.max_clients.into(),
            clients_per_uid: config.max_clients_per_uid.into(),
            bytes_per_client: config.bytes_per_client,
            bytes_per_uid: config.bytes_per_uid,
            ring_bytes: config.ring_bytes,
            domains: status.armed_words,
            isolation: config.isolation,
        });
        Ok(Self {
            stopping: false,
            credentials: config.credentials.clone(),
            ordered: config.ordered,
            sample_every: config.sample_every,
            bytes: config.bytes,
            shared_memory: config.shared_memory,
            fallback: config.fallback,
            request_capacity: config.request_capacity,
            response_capacity: config.response_capacity,
            max_message: config.max_message,
            quotas,
            pace: Pace::new(&config.credentials.sharing()),
            segments: BTreeMap::new(),
            spare: None,
            wants_spare: true,
            next_session: 1,
            generation: status.generation,
            armed_words: status.armed_words,
            status: status.segment.ok().map(|segment| segment.fd.clone()),
            no_shared_memory: match status.segment {
                Err(error) if config.shared_memory => reason_of(error),
                _ => RejectReason::SharedMemoryOff,
            },
            // A kernel before 5.3 has none: clients then rely on the lifeline alone.
            server: rustix::process::pidfd_open(me, PidfdFlags::empty()).ok().map(Arc::new),
            pid: u32::try_from(me.as_raw_nonzero().get()).unwrap_or(0),
        })
    }

    /// When a handshake of this user is to begin that has just been accepted, if not at once.
    pub(super) fn due(&mut self, uid: u32, now: Instant) -> Option<Instant> {
        self.pace.begin(uid, now)
    }

    /// From now on nobody is admitted.
    pub(super) fn stop(&mut self) {
        self.stopping = true;
    }

    pub(super) fn stopping(&self) -> bool {
        self.stopping
    }

    /// A session began with these segments.
    pub(super) fn record_segments(&mut self, session: u64, segments: [Arc<OwnedFd>; 2]) {
        self.segments.insert(session, segments);
    }

    /// Gives back what was reserved for a session.
    pub(super) fn release_quota(&mut self, session: u64) {
        let bytes = self.quotas.release(session);
        if let Some(segments) = self.segments.remove(&session) {
            // They may be the last descriptors.
            closer::free(bytes, segments);
        }
    }

    /// Whether [`Self::make_spare`] has something to do.
    pub(super) fn wants_spare(&self) -> bool {
        self.wants_spare
    }

    /// Offers the socket, or, if that is not on offer, rejects.
    fn instead(
        &mut self,
        uid: u32,
        terms: &Terms,
        reason: RejectReason,
    ) -> Result<Offer, RejectReason> {
        if !self.fallback {
            return Err(reason);
        }
        let session = self.next_session;
        self.quotas.reserve_slot(session, uid)?;
        self.next_session += 1;
        Ok(Offer::Socket(self.terms_of_a_socket(session, terms, reason)))
    }

    fn terms_of_a_socket(&self, session: u64, terms: &Terms, reason: RejectReason) -> Fallback {
        Fallback {
            reason,
            version: terms.version,
            // There is no page for samples.
            features: terms.features & !FEATURE_SAMPLES,
            generation: self.generation,
            session,
            max_message: terms.max_message,
            pid: self.pid,
            server_ns: now_ns(),
        }
    }

    /// A pair of segments with these capacities.
    fn pair(&mut self, request: u64, response: u64) -> Result<SegmentPair, SegmentError> {
        self.wants_spare = true;
        match self.spare.take_if(|spare| spare.fits(request, response)) {
            Some(spare) => Ok(spare),
            None => SegmentPair::create(request, response),
        }
    }

    /// Makes the pair of segments that the next handshake will need.
    pub(super) fn make_spare(&mut self) {
        self.wants_spare = false;
        if self.spare.is_none()
            && self.shared_memory
            && self.status.is_some()
            && self.quotas.has_room()
        {
            // Without one the next handshake makes its own, and says what is wrong.
            self.spare = SegmentPair::create(self.request_capacity, self.response_capacity).ok();
        }
    }
}

/// What does not depend on the transport.
#[derive(Debug, Clone, Copy)]
struct Terms {
    version: u16,
    features: u32,
    max_message: u64,
}

/// What a client is told of a segment that could not be made.
pub(super) fn reason_of(error: &SegmentError) -> RejectReason {
    match error {
        SegmentError::OutOfMemory => RejectReason::OutOfMemory,
        // EAGAIN: the process locks its memory, and may not lock so much (RLIMIT_MEMLOCK).
        SegmentError::Io(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            RejectReason::OutOfMemory
        }
        SegmentError::OutOfDescriptors => RejectReason::OutOfDescriptors,
        SegmentError::FileSizeLimit { limit, .. } => RejectReason::FileSizeLimit { limit: *limit },
        // No memfds here: an old kernel, or a sandbox.
        _ => RejectReason::SharedMemoryOff,
    }
}

/// The version to speak with a peer, if there is one.
fn version(hello: &Hello) -> Result<u16, RejectReason> {
    let (min, max) = VERSIONS;
    let version = max.min(hello.versions.1);
    if version < min.max(hello.versions.0) {
        return Err(RejectReason::VersionUnsupported { min, max });
    }
    Ok(version)
}

fn or(wanted: u64, default: u64) -> u64 {
    if wanted == 0 { default } else { wanted }
}

impl Host for Admission {
    fn admit(&mut self, peer: &PeerInfo, hello: &Hello) -> Result<Offer, RejectReason> {
        if self.stopping {
            return Err(RejectReason::ShuttingDown);
        }
        let version = version(hello)?;
        if !self.credentials.allow(peer.uid) {
            // It was let in to say that it is an inspector.
            return Err(RejectReason::PermissionDenied);
        }
        if self.bytes && hello.features & FEATURE_BYTES == 0 {
            return Err(RejectReason::ByteStreamsOnly);
        }
        let granted = hello.features & (FEATURE_ORDERED | FEATURE_SAMPLES | FEATURE_CLOCK);
        let ordered = if self.ordered { FEATURE_ORDERED } else { 0 };
        let sampled = if self.sample_every == 0 { 0 } else { FEATURE_SAMPLES };
        let terms = Terms {
            version,
            features: granted
                | ordered
                | sampled
                | if self.bytes { hello.features & FEATURE_BYTES } else { 0 },
            max_message: or(hello.max_message, self.max_message).min(self.max_message),
        };
        if hello.transport == TransportAsked::Socket {
            let reason =
                if self.fallback { RejectReason::SocketAsked } else { RejectReason::SocketOff };
            return self.instead(peer.uid, &terms, reason);
        }
        let Some(status) = self.status.clone().filter(|_| self.shared_memory) else {
            return self.instead(peer.uid, &terms, self.no_shared_memory);
        };
        let request_capacity = or(hello.request_capacity, self.request_capacity);
        let response_capacity = or(hello.response_capacity, self.response_capacity);
        if !layout::is_capacity(request_capacity) || !layout::is_capacity(response_capacity) {
            return Err(RejectReason::BadCapacity);
        }

        let session = self.next_session;
        let bytes = SegmentPair::bytes(request_capacity, response_capacity);
        let generation = self.generation;
        let reserved =
            self.quotas.reserve(session, peer.uid, peer.is_own_user(), bytes, |domain| {
                Segment::bell(generation, domain)
            });
        // Without a free slot the socket is not offered, either: whichever limit is said first.
        let (domain, bell) = match reserved {
            Ok(granted) => granted,
            Err(Denied::Limit(reason)) => return self.instead(peer.uid, &terms, reason),
            Err(Denied::Segment(error)) => {
                return self.instead(peer.uid, &terms, reason_of(&error));
            }
        };
        self.next_session += 1;
        let Terms { version, features, max_message } = terms;
        let welcome = Welcome {
            version,
            has_pidfd: self.server.is_some(),
            has_bell: bell.is_some(),
            domain,
            generation,
            session,
            request_capacity,
            response_capacity,
            max_message,
            armed_words: self.armed_words.into(),
            pid: self.pid,
            features,
            sample_every: self.sample_every,
            server_ns: now_ns(),
        };
        let pair = match self.pair(request_capacity, response_capacity) {
            Ok(pair) => pair,
            Err(error) => {
                let offer = self.offer_socket(&welcome, reason_of(&error)).map(Offer::Socket);
                return offer.inspect_err(|_| {
                    self.quotas.release(session);
                });
            }
        };
        self.pace.charge_bytes(peer.uid, bytes, Instant::now());
        let own = layout::Domain::new(domain, bell.is_none());
        let pair = pair.assign(self.generation, session, peer.cell(), own);
        let offer = SharedOffer { welcome, pair, status, bell, server: self.server.clone() };
        Ok(Offer::Shared(Box::new(offer)))
    }

    fn inspect(&mut self, peer: &PeerInfo, hello: &Hello) -> Result<InspectorReply, RejectReason> {
        let version = version(hello)?;
        if !peer.may_inspect() {
            return Err(RejectReason::PermissionDenied);
        }
        Ok(InspectorReply {
            version,
            generation: self.generation,
            pid: self.pid,
            sockets: self.quotas.without_memory(),
            server_ns: now_ns(),
            segments: self.status.iter().chain(self.segments.values().flatten()).cloned().collect(),
        })
    }

    fn offer_socket(
        &mut self,
        welcome: &Welcome,
        reason: RejectReason,
    ) -> Result<Fallback, RejectReason> {
        if !self.fallback {
            return Err(reason);
        }
        self.quotas.release_memory(welcome.session);
        let Welcome { version, features, max_message, .. } = *welcome;
        Ok(self.terms_of_a_socket(
            welcome.session,
            &Terms { version, features, max_message },
            reason,
        ))
    }
}
