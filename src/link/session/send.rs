//! Sending: records and fragments, claims that are written in place, and the ringing for all of
//! them.

use super::link::{Link, SessionClaim};
use super::{Head, PeerFault, SendProgress, Sent, SessionCore, is_control, wake};
use crate::memory::layout::{Interest, flag};
use crate::protocol::ring::ClaimError;

impl SessionCore {
    /// Sends a message, or as much of it as there is room for, and rings. `until` is the time at
    /// which nobody will want it any more, in ns of this side's clock; 0 for none.
    #[inline(always)]
    pub(crate) fn send(
        &mut self,
        head: Head,
        until: u64,
        payload: &[u8],
        progress: &mut SendProgress,
    ) -> Result<Sent, PeerFault> {
        let sent = self.post(head, until, payload, progress)?;
        self.flush();
        Ok(sent)
    }

    /// Sends without ringing. A peer that sleeps learns of it at the next [`Self::flush`], which
    /// the caller owes before it does anything else that may take time.
    ///
    /// Fast path of [`Self::post_slowly`]; `post_slowly` is the rule.
    #[inline(always)]
    pub(crate) fn post(
        &mut self,
        head: Head,
        until: u64,
        payload: &[u8],
        progress: &mut SendProgress,
    ) -> Result<Sent, PeerFault> {
        debug_assert!(
            payload.len() <= self.max_message,
            "checked by the driver, before anything is written"
        );
        if payload.len() > self.max_body
            || self.abort.is_some()
            || until != 0
            || progress.stamp != 0
        {
            return self.post_slowly(head, until, payload, progress);
        }
        let pushed = match &mut self.link {
            Link::Rings(rings) => rings.out.try_push(head.record(0, 0), head.call, payload),
            Link::Socket(socket) => socket.push(head.record(0, 0), head.call, &[], payload),
        };
        if let Err(error) = pushed {
            return self.not_claimed(error, payload.len());
        }
        self.owed = true;
        self.count_sent(head, payload.len());
        Ok(Sent::Done)
    }

    #[inline]
    fn count_sent(&mut self, head: Head, len: usize) {
        if !is_control(head.kind()) {
            self.counts.sent += 1;
            self.counts.bytes_sent += len as u64;
        }
    }

    #[cold]
    fn post_slowly(
        &mut self,
        head: Head,
        until: u64,
        payload: &[u8],
        progress: &mut SendProgress,
    ) -> Result<Sent, PeerFault> {
        if self.push_owed_abort()? == Sent::Full {
            return Ok(Sent::Full);
        }
        let (mut timed, mut words, mut end) = (0, [payload.len() as u64, 0, 0], 1);
        // The one place at which a deadline leaves this process.
        let until = self.clock.deadline(until);
        for (word, flag) in [(until, flag::DEADLINE), (progress.stamp, flag::STAMP)] {
            if word != 0 {
                (timed, words[end], end) = (timed | flag, word, end + 1);
            }
        }
        // The total is for fragments only.
        let first = |fragmented: bool| &words[usize::from(!fragmented)..end];
        if payload.len() + 8 * first(false).len() <= self.max_body {
            if self.record(head, timed, first(false), payload)? == Sent::Full {
                return Ok(Sent::Full);
            }
            self.count_sent(head, payload.len());
            return Ok(Sent::Done);
        }
        let mut burst = 0;
        while progress.sent < payload.len() || !progress.begun {
            let from = progress.sent;
            let (mut flags, words) =
                if progress.begun { (flag::CONTINUED, &[][..]) } else { (timed, first(true)) };
            let end = payload.len().min(from + self.max_body - 8 * words.len());
            if end < payload.len() {
                flags |= flag::MORE;
            }
            if self.record(head, flags, words, &payload[from..end])? == Sent::Full {
                return Ok(Sent::Full);
            }
            progress.begun = true;
            progress.sent = end;
            self.counts.fragments_sent += 1;
            // The peer reads this fragment while the next one is written.
            self.flush();
            burst += end - from;
            if burst >= self.burst && progress.sent < payload.len() {
                return Ok(Sent::Full);
            }
        }
        self.count_sent(head, payload.len());
        Ok(Sent::Done)
    }

    /// Gives up a message that was sent in part. The abort travels before the next message at the
    /// latest.
    pub(crate) fn abort(&mut self, head: Head) -> Result<(), PeerFault> {
        self.counts.aborts += 1;
        self.abort = Some(head);
        self.retry_abort()
    }

    /// Sends an abort that found no room, if one is owed: for a side that waits and may not send
    /// again for long.
    pub(crate) fn retry_abort(&mut self) -> Result<(), PeerFault> {
        self.push_owed_abort()?;
        self.flush();
        Ok(())
    }

    /// Whether an abort is owed.
    pub(crate) fn owes_abort(&self) -> bool {
        self.abort.is_some()
    }

    fn push_owed_abort(&mut self) -> Result<Sent, PeerFault> {
        let Some(aborted) = self.abort else { return Ok(Sent::Done) };
        let sent = self.record(aborted, flag::CONTINUED | flag::ABORT, &[], &[])?;
        if sent == Sent::Done {
            self.abort = None;
        }
        Ok(sent)
    }

    fn record(
        &mut self,
        head: Head,
        flags: u8,
        words: &[u64],
        payload: &[u8],
    ) -> Result<Sent, PeerFault> {
        match self.link.push(|len| head.record(flags, len), head.call, words, payload) {
            Ok(()) => {
                self.owed = true;
                Ok(Sent::Done)
            }
            Err(error) => self.not_claimed(error, payload.len() + 8 * words.len()),
        }
    }

    #[cold]
    fn not_claimed(&mut self, error: ClaimError, wanted: usize) -> Result<Sent, PeerFault> {
        match error {
            ClaimError::Full => {
                self.wanted = wanted;
                self.counts.full_stalls += 1;
                // What is published must not wait for room.
                self.owed = true;
                self.flush();
                Ok(Sent::Full)
            }
            ClaimError::Fault(fault) => Err(fault.into()),
            ClaimError::TooLarge(_) => unreachable!("fragments are cut to fit"),
        }
    }

    /// Claims room for a message of one record, to be written in place.
    pub(crate) fn claim(&mut self, len: usize) -> Result<Option<SessionClaim>, PeerFault> {
        if self.push_owed_abort()? == Sent::Full {
            return Ok(None);
        }
        match &mut self.link {
            Link::Rings(rings) => {
                let paddings = rings.out.paddings();
                let claimed = rings.out.try_claim(len);
                // Padding is published at once, whatever becomes of the claim.
                self.owed |= rings.out.paddings() != paddings;
                match claimed {
                    Ok(claim) => Ok(Some(SessionClaim::Ring(claim))),
                    Err(error) => self.not_claimed(error, len).map(|_| None),
                }
            }
            Link::Socket(socket) if socket.has_room() => {
                Ok(Some(SessionClaim::Private(vec![0; len])))
            }
            Link::Socket(_) => self.not_claimed(ClaimError::Full, len).map(|_| None),
        }
    }

    /// The bytes of a claim, to read what was written.
    pub(crate) fn claimed_so_far<'a>(&'a self, claim: &'a SessionClaim) -> &'a [u8] {
        match (&self.link, claim) {
            (Link::Rings(rings), SessionClaim::Ring(claim)) => rings.out.body(claim),
            (_, SessionClaim::Private(bytes)) => bytes,
            _ => unreachable!("a claim belongs to the session that made it"),
        }
    }

    /// The bytes of a claim.
    pub(crate) fn claimed<'a>(&'a mut self, claim: &'a mut SessionClaim) -> &'a mut [u8] {
        match (&mut self.link, claim) {
            (Link::Rings(rings), SessionClaim::Ring(claim)) => rings.out.body_mut(claim),
            (_, SessionClaim::Private(bytes)) => bytes,
            _ => unreachable!("a claim belongs to the session that made it"),
        }
    }

    /// Publishes a claim and rings.
    #[allow(clippy::cast_possible_truncation, reason = "a record's body is far below 4 GiB")]
    pub(crate) fn commit(&mut self, claim: SessionClaim, head: Head) {
        let len = claim.len();
        match (&mut self.link, claim) {
            (Link::Rings(rings), SessionClaim::Ring(claim)) => {
                rings.out.commit(claim, head.record(0, len as u32), head.call);
            }
            (Link::Socket(socket), SessionClaim::Private(bytes)) => {
                // There was room when it was claimed, and nothing else was sent since.
                let _ = socket.push(head.record(0, len as u32), head.call, &[], &bytes);
            }
            _ => unreachable!("a claim belongs to the session that made it"),
        }
        self.owed = true;
        self.count_sent(head, len);
        self.flush();
    }

    /// Rings for what was published, and prepares the ring for the next message, off the critical
    /// path. On a socket it writes what the socket takes.
    #[inline(always)]
    pub(crate) fn flush(&mut self) {
        if self.owed {
            self.owed = false;
            match &mut self.link {
                Link::Rings(rings) => {
                    if let Some(mode) = rings.ringer.ring(Interest::DATA) {
                        wake(rings, &self.lifeline, &mut self.counts, mode);
                    }
                    rings.out.zero_ahead();
                }
                Link::Socket(socket) => socket.flush(),
            }
        }
    }
}
