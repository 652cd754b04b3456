//! What a guest is told: news, as many as its window holds.

use super::super::protocol::{NEWS_MOST, Offence, Sign};
use super::SOCKETS_MOST;
use ringbell::Session;
use std::collections::VecDeque;

/// News that wait for room in a guest's window: a few for each socket.
const WAITING_MOST: usize = 4 * SOCKETS_MOST;

/// Pushes news, as many as the guest's window holds; the others wait.
#[derive(Debug)]
pub(super) struct Teller {
    session: Session,
    unseen: u32,
    waiting: VecDeque<Vec<u8>>,
    offence: Option<Offence>,
    bytes: Vec<u8>,
}

impl Teller {
    pub(super) fn new(session: Session) -> Self {
        Self { session, unseen: 0, waiting: VecDeque::new(), offence: None, bytes: Vec::new() }
    }

    /// The first offence of the guest.
    pub(super) fn offence(&self) -> Option<Offence> {
        self.offence
    }

    /// The guest broke the rules. What counts is the first time.
    pub(super) fn found(&mut self, offence: Offence) {
        self.offence.get_or_insert(offence);
    }

    /// Whether something that can wait should.
    pub(super) fn is_full(&self) -> bool {
        self.unseen >= NEWS_MOST || self.offence.is_some()
    }

    pub(super) fn tell(&mut self, sign: &Sign<'_>) {
        let mut bytes = std::mem::take(&mut self.bytes);
        sign.encode(&mut bytes);
        self.push(&bytes);
        self.bytes = bytes;
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        if !self.is_full() && self.waiting.is_empty() {
            self.unseen += 1;
            // Its window is smaller than Ringbell's queue; and who is gone is told nothing.
            let _ = self.session.push(bytes);
        } else if self.waiting.len() < WAITING_MOST {
            self.waiting.push_back(bytes.to_vec());
        } else {
            self.found(Offence::Deaf);
        }
    }

    /// The guest has looked at so many.
    pub(super) fn seen(&mut self, news: u32) {
        let Some(left) = self.unseen.checked_sub(news) else {
            self.found(Offence::Credit);
            return;
        };
        self.unseen = left;
        while !self.is_full() {
            let Some(bytes) = self.waiting.pop_front() else { break };
            self.unseen += 1;
            let _ = self.session.push(&bytes);
        }
    }

    /// Tells the guest that its service has ended, and nothing else any more.
    pub(super) fn dismiss(&mut self, why: Offence) {
        self.waiting.clear();
        // Beyond its window, by one; and that is the mark that it was told.
        self.unseen = NEWS_MOST + 1;
        let mut bytes = Vec::new();
        Sign::Dismissed { why }.encode(&mut bytes);
        let _ = self.session.push(&bytes);
    }

    /// Whether the guest was told so.
    pub(super) fn has_dismissed(&self) -> bool {
        self.unseen > NEWS_MOST
    }
}
