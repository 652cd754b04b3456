//! Looking at answers, and writing requests, where they lie: without a copy.

use super::Client;
use crate::client::calls::CallId;
use crate::link::session::{self, Head, SessionCore};
use crate::memory::layout::Kind;
use crate::os::fork::Origin;
use crate::protocol::ring::{Consumer, Record};

/// An answer that may still lie in the ring, where the server can change it: look at it without
/// copying all of it.
///
/// Safe reads copy out, word for word what the server has there at that moment; two reads may
/// differ if the server is hostile.
#[derive(Debug)]
pub struct View<'a>(pub(super) ViewOf<'a>);

#[derive(Debug)]
pub(super) enum ViewOf<'a> {
    Ring(&'a Consumer, &'a Record),
    Private(&'a [u8]),
}

impl View<'_> {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        match &self.0 {
            ViewOf::Ring(_, record) => record.len(),
            ViewOf::Private(bytes) => bytes.len(),
        }
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies bytes from `offset` on to all of `out`.
    ///
    /// # Panics
    /// If they are beyond the end.
    pub fn copy_to(&self, offset: usize, out: &mut [u8]) {
        match &self.0 {
            ViewOf::Ring(ring, record) => ring.read_to(record, offset, out),
            ViewOf::Private(bytes) => out.copy_from_slice(&bytes[offset..offset + out.len()]),
        }
    }

    /// The bytes in place.
    ///
    /// # Safety
    /// The server must be trusted not to change the bytes while the slice lives, as it never does
    /// by the protocol: a well-behaved server does not touch them before the view is dropped.
    #[allow(unsafe_code, reason = "the caller vouches for the server")]
    pub unsafe fn as_slice(&self) -> &[u8] {
        match &self.0 {
            ViewOf::Ring(ring, record) => {
                let bytes = ring.address(record);
                // SAFETY: in bounds and mapped while the ring is borrowed; unchanged by the
                // caller's contract.
                unsafe { std::slice::from_raw_parts(bytes.as_ptr(), record.len()) }
            }
            ViewOf::Private(bytes) => bytes,
        }
    }
}

/// Takes a record that is being shown, also if the one who looks at it panics.
pub(super) struct Shown<'a> {
    pub(super) session: &'a mut SessionCore,
    pub(super) record: Option<Record>,
    pub(super) origin: Origin,
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        // Not if whoever looks has forked, and this is the child: the ring's head is the parent's.
        if let Some(record) = self.record.take()
            && self.origin.is_here()
        {
            self.session.take(record);
        }
    }
}

/// Room for a request in the ring itself, to be written in place: no copy. Dropping it gives the
/// room back.
#[derive(Debug)]
pub struct Claim<'a> {
    pub(super) client: &'a mut Client,
    pub(super) claim: Option<session::SessionClaim>,
}

impl Claim<'_> {
    /// Sends the request.
    ///
    /// # Panics
    /// In a forked child: the ring is the parent's.
    pub fn commit(mut self) -> CallId {
        assert!(self.client.origin.is_here(), "the session belongs to the parent process");
        let claim = self.claim.take().expect("taken only here");
        let call = self.client.calls.begin().expect("looked at when it was claimed");
        self.client.session.commit(claim, Head::new(Kind::Request, call.0));
        call
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        // A claim that is given back may have left padding behind, of which the server has to know.
        if self.claim.is_some() {
            self.client.flush();
        }
    }
}

impl std::ops::Deref for Claim<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // A claim's bytes are this process's own; what is in them before they are written is
        // arbitrary.
        self.client.session.claimed_so_far(self.claim.as_ref().expect("taken only by commit"))
    }
}

/// # Panics
/// In a forked child: what is written is the parent's request.
impl std::ops::DerefMut for Claim<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        assert!(self.client.origin.is_here(), "the session belongs to the parent process");
        self.client.session.claimed(self.claim.as_mut().expect("taken only by commit"))
    }
}
