//! Admission: whether a client is served, and with which segments.

use super::pace::Pace;
use super::quotas::{Denied, Limits, Quotas};
use super::{PorterConfig, StatusInfo};
use crate::base::clock::now_ns;
use crate::handshake::{
    Admitted, Credentials, FEATURE_BYTES, FEATURE_CLOCK, FEATURE_ORDERED, FEATURE_SAMPLES,
    Fallback, Hello, Host, InspectorReply, Offer, OfferInMaking, PeerInfo, RejectReason,
    SharedOffer, TransportAsked, VERSIONS, Welcome,
};
use crate::link::segment::{Segment, SegmentError, SegmentPair};
use crate::link::segment_making::PairInMaking;
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
    /// The next one, of which not all pages exist.
    unfinished_spare: Option<PairInMaking>,
    /// Whether to make a spare when there is time. Not again after a failure until the next
    /// handshake.
    wants_spare: bool,
    next_session: u64,
    generation: u64,
    armed_words: u32,
    /// `None` if there is no shared memory here.
    status: Option<Arc<OwnedFd>>,
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
            unfinished_spare: None,
            wants_spare: true,
            next_session: 1,
            generation: status.generation,
            armed_words: status.armed_words,
            status: status.segment.map(|segment| segment.fd.clone()),
            // A kernel before 5.3 has none: clients then rely on the lifeline alone.
            server: rustix::process::pidfd_open(me, PidfdFlags::empty()).ok().map(Arc::new),
            pid: u32::try_from(me.as_raw_nonzero().get()).unwrap_or(0),
        })
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
    ) -> Result<Admitted, RejectReason> {
        if !self.fallback {
            return Err(reason);
        }
        let session = self.next_session;
        self.quotas.reserve_slot(session, uid)?;
        self.next_session += 1;
        Ok(Admitted::Offer(Offer::Socket(self.terms_of_a_socket(session, terms, reason))))
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

    /// Makes the next slice of a client's memory; the pair, if that was the last one. `Err`: when
    /// it is due.
    fn slice(
        &mut self,
        uid: u32,
        making: &mut OfferInMaking,
    ) -> Result<Result<SegmentPair, Instant>, SegmentError> {
        let began = Instant::now();
        let (request, response) =
            (making.welcome.request_capacity, making.welcome.response_capacity);
        let pair = match &mut making.pair {
            Some(pair) => pair,
            None => {
                self.wants_spare = true;
                // For all of it, and for going through the request segment once more after READY.
                let bytes =
                    SegmentPair::bytes(request, response) + layout::ring_segment_size(request);
                if let Err(due) = self.pace.charge(uid, bytes, began) {
                    return Ok(Err(due));
                }
                if let Some(spare) = self.spare.take_if(|spare| spare.fits(request, response)) {
                    return Ok(Ok(spare));
                }
                making.pair.insert(PairInMaking::begin(request, response)?)
            }
        };
        if !pair.step()? {
            return Ok(Err(self.pace.next(began, Instant::now())));
        }
        match making.pair.take() {
            Some(pair) => pair.finish().map(Ok),
            None => Ok(Err(began)),
        }
    }

    /// Makes a slice of the pair of segments that the next handshake will need.
    pub(super) fn make_spare(&mut self) {
        self.wants_spare = false;
        if self.spare.is_none()
            && self.shared_memory
            && self.status.is_some()
            && self.quotas.has_room()
        {
            // Without one the next handshake makes its own, and says what is wrong.
            self.spare = self.slice_of_spare().ok().flatten();
            self.wants_spare = self.unfinished_spare.is_some();
        }
    }

    /// The spare, if this was its last slice.
    fn slice_of_spare(&mut self) -> Result<Option<SegmentPair>, SegmentError> {
        let mut pair = match self.unfinished_spare.take() {
            Some(pair) => pair,
            None => PairInMaking::begin(self.request_capacity, self.response_capacity)?,
        };
        if pair.step()? {
            return pair.finish().map(Some);
        }
        self.unfinished_spare = Some(pair);
        Ok(None)
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
    fn admit(&mut self, peer: &PeerInfo, hello: &Hello) -> Result<Admitted, RejectReason> {
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
        if self.status.is_none() || !self.shared_memory {
            return self.instead(peer.uid, &terms, RejectReason::SharedMemoryOff);
        }
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
        self.make(peer, Box::new(OfferInMaking { welcome, bell, pair: None })).inspect_err(|_| {
            self.quotas.release(session);
        })
    }

    fn make(
        &mut self,
        peer: &PeerInfo,
        mut making: Box<OfferInMaking>,
    ) -> Result<Admitted, RejectReason> {
        let pair = match self.slice(peer.uid, &mut making) {
            Ok(Ok(pair)) => {
                let domain = layout::Domain::new(making.welcome.domain, making.bell.is_none());
                pair.assign(self.generation, making.welcome.session, &peer.cell(), domain)
            }
            Ok(Err(due)) => return Ok(Admitted::Making(making, due)),
            Err(error) => Err(error),
        };
        let OfferInMaking { welcome, bell, pair: unfinished } = *making;
        let (request, response) = match pair {
            Ok(pair) => pair,
            Err(error) => {
                let bytes = SegmentPair::bytes(welcome.request_capacity, welcome.response_capacity);
                closer::free(bytes, unfinished);
                let fallback = self.offer_socket(&welcome, reason_of(&error))?;
                return Ok(Admitted::Offer(Offer::Socket(fallback)));
            }
        };
        let Some(status) = self.status.clone() else { return Err(RejectReason::SharedMemoryOff) };
        let server = self.server.clone();
        let offer = SharedOffer { welcome, request, response, status, bell, server };
        Ok(Admitted::Offer(Offer::Shared(Box::new(offer))))
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
