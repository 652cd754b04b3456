//! What a client holds for its caller: answers that were set aside, items of streams, and events.
//!
//! All of it is charged by capacity against one limit
//! ([`ConnectOptions::max_held_bytes`](crate::ConnectOptions::max_held_bytes)), so that a server
//! cannot swell its client. What makes room, in this order:
//!
//! 1. The oldest events are dropped; [`Client::next_event`] says how many.
//! 2. The stream that holds most is given up: its items are dropped, and its end is an error.
//! 3. The answer that came is dropped, and an error stands in its place. One of at most [`SMALL`]
//!    bytes is kept all the same: calls in flight bound these.
//!
//! Both errors have the code [`NOT_KEPT`](crate::layout::code::NOT_KEPT). Nothing waits for room: a
//! caller that waits for one answer must not depend on whether it asks for another one.

use super::{Client, RemoteError};
use crate::client::calls::CallId;

/// The largest answer that is kept although there is no room, in bytes.
const SMALL: usize = 4 << 10;
/// A buffer with more capacity is not kept for a message that does not need it.
const POOLED_MOST: usize = 64 << 10;

impl Client {
    /// Charges for `bytes` of capacity that are about to be held; false if there is no room.
    #[inline]
    pub(super) fn hold(&mut self, bytes: usize) -> bool {
        self.held += bytes;
        self.held + self.events.bytes <= self.max_held || self.make_room(bytes)
    }

    /// As [`Self::hold`], for an answer.
    #[inline]
    pub(super) fn hold_answer(&mut self, bytes: usize) -> bool {
        let is_small = bytes <= SMALL;
        self.held += if is_small { bytes } else { 0 };
        let held = is_small || self.hold(bytes);
        self.session.counts.not_kept += u64::from(!held);
        held
    }

    /// Whether so much is held for others that no more is taken in than a caller depends on.
    #[inline]
    pub(super) fn holds_much(&self) -> bool {
        self.held > self.max_held / 4
    }

    /// So much is no longer held.
    #[inline]
    pub(super) fn let_go(&mut self, bytes: usize) {
        self.held -= bytes;
    }

    #[cold]
    fn make_room(&mut self, bytes: usize) -> bool {
        self.shrink_events();
        while self.held > self.max_held {
            let Some(call) = self.streams.largest() else {
                self.held -= bytes;
                return false;
            };
            self.cut(call);
        }
        true
    }

    /// Gives up a stream whose items cannot be held.
    pub(super) fn cut(&mut self, call: CallId) {
        let Some(cut) = self.streams.cut(call, RemoteError::not_kept()) else { return };
        self.let_go(cut.bytes);
        self.session.counts.not_kept += 1;
        if cut.was_open {
            self.abandon(call);
            self.cancel(call);
        }
    }

    /// Keeps an event. The oldest are dropped if there are too many, or too large ones.
    pub(super) fn keep_event(&mut self) {
        let event = self.take_buffer();
        self.events.add(event);
        self.shrink_events();
    }

    fn shrink_events(&mut self) {
        let missed = self.events.missed;
        self.events.shrink_to(self.max_held.saturating_sub(self.held));
        self.session.counts.events_dropped += self.events.missed - missed;
    }

    /// The message that was received last, to be kept. It does not take the memory along that a
    /// larger message has left behind.
    #[inline]
    pub(crate) fn take_buffer(&mut self) -> Vec<u8> {
        if is_wasteful(&self.buffer) {
            return std::mem::take(&mut self.buffer).as_slice().into();
        }
        std::mem::take(&mut self.buffer)
    }

    /// Gives memory back that the last message did not need, before another one is asked for.
    #[inline]
    pub(super) fn trim_buffer(&mut self) {
        if is_wasteful(&self.buffer) {
            self.buffer = Vec::new();
        }
    }

    /// Gives large memory back before somebody else has the client.
    pub(super) fn trim_buffer_for_others(&mut self) {
        if self.buffer.capacity() > POOLED_MOST {
            self.buffer = Vec::new();
        }
    }
}

/// Whether a buffer is large, and its message is not. A message of its size is likely to follow
/// one: only a small one has the memory given back.
#[inline]
fn is_wasteful(buffer: &Vec<u8>) -> bool {
    buffer.capacity() > POOLED_MOST && buffer.capacity() / 2 > buffer.len()
}
