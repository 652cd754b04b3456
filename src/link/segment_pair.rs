//! The two segments of a session, from their making to the moment at which the server may touch
//! them: `segment.rs` has the argument.

use super::mapping::Mapping;
use super::segment::{
    CLOSED, Label, SIZED, SLICE, SLICE_PAGES, Segment, SegmentError, check_limit, identity_words,
    memfd, peer_words, put, seals, shown, size,
};
use crate::memory::layout::{self, Domain, Peer, SegmentKind};
use crate::os::page_cache;
use rustix::fs::SealFlags;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The two segments of a session, made ahead of time: a handshake then only sends their
/// descriptors. None of their pages exists.
#[derive(Debug)]
pub(crate) struct SegmentPair {
    request: OwnedFd,
    /// Where the request segment will be mapped, or as much elsewhere.
    reserved: Mapping,
    response: Hidden,
    request_capacity: u64,
    response_capacity: u64,
}

/// A segment that only this process's mapping can write, which is not shown yet.
#[derive(Debug)]
pub(crate) struct Hidden {
    /// Shared with whoever hands it out.
    pub(crate) fd: Arc<OwnedFd>,
    mapping: Mapping,
}

impl SegmentPair {
    /// Makes both.
    pub(crate) fn create(
        request_capacity: u64,
        response_capacity: u64,
    ) -> Result<Self, SegmentError> {
        let request_size = size(SegmentKind::Request, request_capacity);
        let response_size = size(SegmentKind::Response, response_capacity);
        check_limit(request_size.max(response_size))?;
        let request = memfd(SegmentKind::Request, request_size)?;
        rustix::fs::fcntl_add_seals(&request, SIZED)?;
        let reserved = Mapping::reserved(request_size)?;
        let response = memfd(SegmentKind::Response, response_size)?;
        let mapping = Mapping::hidden(&response, response_size)?;
        // From here on this mapping is the only one that can be made writable.
        rustix::fs::fcntl_add_seals(&response, SIZED | CLOSED)?;
        let response = Hidden { fd: Arc::new(response), mapping };
        Ok(Self { request, reserved, response, request_capacity, response_capacity })
    }

    /// Whether the pair has these capacities.
    pub(crate) fn fits(&self, request_capacity: u64, response_capacity: u64) -> bool {
        (self.request_capacity, self.response_capacity) == (request_capacity, response_capacity)
    }

    /// Bytes of both segments.
    pub(crate) fn bytes(request_capacity: u64, response_capacity: u64) -> u64 {
        layout::ring_segment_size(request_capacity) + layout::ring_segment_size(response_capacity)
    }

    /// The pair now belongs to this session of this client, which is to be sent it.
    pub(crate) fn assign(
        self,
        generation: u64,
        session: u64,
        client: Peer,
        domain: Domain,
    ) -> PendingPair {
        let label = |kind, capacity| Label { kind, generation, session, capacity };
        PendingPair {
            request: self.request,
            reserved: Some(self.reserved),
            request_label: label(SegmentKind::Request, self.request_capacity),
            mapping: None,
            response: self.response,
            response_label: label(SegmentKind::Response, self.response_capacity),
            client,
            domain,
            checked: (0, 0),
        }
    }
}

/// The segments of a session that were sent to its client. The server touches neither before
/// [`Self::accept`].
#[derive(Debug)]
pub(crate) struct PendingPair {
    pub(crate) request: OwnedFd,
    request_label: Label,
    reserved: Option<Mapping>,
    /// Of the request segment, once the client has sealed it.
    mapping: Option<Mapping>,
    pub(crate) response: Hidden,
    response_label: Label,
    client: Peer,
    domain: Domain,
    /// Bytes from the beginning whose pages are known to be allocated, of the request and of the
    /// response segment.
    checked: (u64, u64),
}

impl PendingPair {
    /// The client says that it has mapped, populated and sealed the request segment, and mapped and
    /// populated the response segment. Checks the seals, maps only then, and checks a slice of both
    /// for pages that are missing; whether that was the last one. Behind the last one both mappings
    /// are shown.
    ///
    /// # Errors
    /// [`SegmentError::Seals`] if the seals are not exactly those that they should be,
    /// [`SegmentError::Incomplete`] if a page is missing.
    pub(crate) fn check(&mut self) -> Result<bool, SegmentError> {
        let (request, response) = (self.request_label.size(), self.response_label.size());
        let mapping = match &self.mapping {
            Some(mapping) => mapping,
            None => {
                let (want, have) = (SIZED | CLOSED, seals(&self.request)?);
                // The kernel has added EXEC for `MFD_NOEXEC_SEAL`.
                if have.difference(SealFlags::EXEC) != want {
                    return Err(SegmentError::Seals { want: want.bits(), have: have.bits() });
                }
                drop(self.reserved.take());
                self.mapping.insert(Mapping::hidden(&self.request, request)?)
            }
        };
        // Both files can lose no page any more: the client could punch holes in the request segment
        // until it sealed it, and never in the other.
        let slice = SLICE.min(request - self.checked.0);
        are_allocated(&self.request, mapping.base().as_ptr(), self.checked.0, slice)?;
        self.checked.0 += slice;
        let slice = SLICE.min(response - self.checked.1);
        let base = self.response.mapping.base().as_ptr();
        are_allocated(&self.response.fd, base, self.checked.1, slice)?;
        self.checked.1 += slice;
        let all = self.checked == (request, response);
        if all {
            mapping.show(false)?;
            self.response.mapping.show(true)?;
        }
        Ok(all)
    }

    /// The request segment and the response segment, which is labelled here, when both were checked
    /// to their ends; `None` if they were not.
    pub(crate) fn accept(self) -> Option<(Segment, Segment)> {
        let all = (self.request_label.size(), self.response_label.size());
        let mapping = self.mapping.filter(|_| self.checked == all)?;
        let request = Segment { fd: Arc::new(self.request), window: shown(mapping, false) };
        let Hidden { fd, mapping } = self.response;
        let response = Segment { fd, window: shown(mapping, true) };
        let window = &response.window;
        put(window, layout::offset::IDENTITY, &identity_words(&self.response_label.identity()));
        put(window, layout::offset::PEER, &peer_words(&self.client));
        put(window, layout::offset::DOMAIN, &[self.domain.0]);
        Some((request, response))
    }

    /// Does what a client does before it says that it is ready, and accepts: (its request segment,
    /// the server's two).
    #[cfg(test)]
    pub(crate) fn complete(mut self) -> (Segment, (Segment, Segment)) {
        let adopt = |fd: &OwnedFd, label| {
            let fd = fd.try_clone().expect("a descriptor");
            let seals = seals(&fd).expect("a memfd");
            Segment::adopt(fd, seals, label, None).expect("a segment")
        };
        let own = adopt(&self.request, &self.request_label);
        adopt(&self.response.fd, &self.response_label);
        while !self.check().expect("all is there") {}
        (own, self.accept().expect("checked"))
    }
}

/// Checks that a range of a memfd, at most [`SLICE`] bytes, has no holes. `base` is where the whole
/// memfd is mapped.
///
/// No page is touched, and no lock is taken that a peer could hold.
///
/// `mincore` tells which pages are in memory. One that is not is a hole or was swapped out, which
/// `cachestat` (since 6.5) tells apart. On an older kernel a segment that is swapped out within the
/// handshake counts as incomplete. Where `mincore` is refused `cachestat` does.
fn are_allocated(fd: &OwnedFd, base: *const u8, from: u64, len: u64) -> Result<(), SegmentError> {
    let size = |bytes| usize::try_from(bytes).map_err(|_| SegmentError::OutOfMemory);
    let (at, bytes) = (size(from)?, size(len)?);
    if bytes == 0 {
        return Ok(());
    }
    let looked = page_cache::all_in_memory(base.wrapping_add(at), bytes, &mut [0; SLICE_PAGES]);
    if looked == Ok(true) {
        return Ok(());
    }
    let pages = bytes.div_ceil(rustix::param::page_size()) as u64;
    match (page_cache::allocated_pages(fd, from, len), looked) {
        (Some(known), _) if known >= pages => Ok(()),
        (None, Err(errno)) => Err(errno.into()),
        _ => Err(SegmentError::Incomplete),
    }
}
