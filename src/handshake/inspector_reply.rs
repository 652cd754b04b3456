//! What an inspector is sent.

use super::wire::{self, Segments};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What an inspector gets.
#[derive(Debug)]
pub(crate) struct InspectorReply {
    /// The session protocol that was chosen.
    pub(crate) version: u16,
    pub(crate) generation: u64,
    pub(crate) pid: u32,
    /// Sessions that have no shared memory.
    pub(crate) sockets: u32,
    /// This side's clock.
    pub(crate) server_ns: u64,
    /// Segments that are sealed against writing.
    pub(crate) segments: Vec<Arc<OwnedFd>>,
}

impl InspectorReply {
    /// The messages that carry them, each with its descriptors; the last one first.
    pub(super) fn messages(&self) -> Vec<(Vec<u8>, Vec<Arc<OwnedFd>>)> {
        let count = self.segments.len().div_ceil(wire::BATCH).max(1);
        let message = |index: usize| {
            let from = index * wire::BATCH;
            let batch = &self.segments[from..self.segments.len().min(from + wire::BATCH)];
            let head = Segments {
                version: self.version,
                more: index + 1 < count,
                count: u32::try_from(batch.len()).unwrap_or(0),
                generation: self.generation,
                pid: self.pid,
                sockets: self.sockets,
                server_ns: self.server_ns,
            };
            (head.encode(), batch.to_vec())
        };
        (0..count).rev().map(message).collect()
    }
}
