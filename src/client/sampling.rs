//! Calls that are timed on their way, one of many: the client's half.

use super::Client;
use super::error::SendError;
use crate::base::clock::{Deadline, now_ns};
use crate::client::calls::{CallId, Waiting};
use crate::link::samples::Samples;
use crate::link::session::{Head, SendProgress};
use crate::memory::Window;
use crate::memory::layout::Kind;

/// Which calls are sampled, and those that are.
#[derive(Debug)]
pub(super) struct Sampling {
    every: u64,
    samples: Samples,
}

impl Sampling {
    /// One of so many calls, in the client's own segment; `None` for none.
    pub(super) fn new(request: &Window, every: u32) -> Option<Box<Self>> {
        (every != 0).then(|| Box::new(Self { every: every.into(), samples: Samples::new(request) }))
    }
}

impl Client {
    /// Counts a request; whether it is one that is sampled.
    #[inline(always)]
    pub(super) fn is_sampled(&mut self) -> bool {
        self.until_sample = self.until_sample.wrapping_sub(1);
        self.until_sample == 0
    }

    /// Enters a call as a sample, as of now; what is to travel with its request.
    pub(super) fn stamp(&mut self, call: u64) -> SendProgress {
        let Some(Sampling { every, samples }) = self.sampling.as_deref_mut() else {
            return SendProgress::default();
        };
        self.until_sample = *every;
        // In the server's clock, as all that the table holds: the server's half has the same time.
        let now = self.session.clock().time(now_ns());
        if samples.begin(call, now, 0) {
            SendProgress::stamped(now)
        } else {
            SendProgress::default()
        }
    }

    /// Publishes a request that is sampled; the ring is owed.
    #[cold]
    #[inline(never)]
    pub(super) fn post_sampled(
        &mut self,
        call: CallId,
        deadline_ns: u64,
        request: &[u8],
        deadline: &mut Deadline,
    ) -> Result<CallId, SendError> {
        let progress = self.stamp(call.0);
        match self.post_frame(
            Head::new(Kind::Request, call.0),
            deadline_ns,
            request,
            progress,
            deadline,
        ) {
            Ok(()) => Ok(call),
            Err(error) => {
                self.forget_sample(call.0);
                self.not_sent(call);
                Err(error)
            }
        }
    }

    /// The calls among the last that were sampled that have come to their end after `since`: see
    /// [`Samples::ended_after`].
    #[cfg(feature = "metrics")]
    pub(crate) fn sampled_after(&self, since: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.sampling.iter().flat_map(move |sampling| sampling.samples.ended_after(since))
    }

    /// A call whose request was not sent after all.
    pub(super) fn forget_sample(&mut self, call: u64) {
        if let Some(sampling) = &mut self.sampling
            && self.origin.is_here()
        {
            sampling.samples.forget(call);
        }
    }

    /// Something that answers a call is taken, or is looked at where it lies. Of several the first
    /// counts.
    #[inline(always)]
    pub(super) fn tell_answered(&mut self, call: u64) {
        if self.tells_answers {
            self.answered(call);
        }
    }

    #[cold]
    #[inline(never)]
    fn answered(&mut self, call: u64) {
        self.end_sample(call);
        // The last call that tools were told of.
        if self.session.shows_in_flight()
            && self.streams.is_empty()
            && self.calls.wanted() == 1
            && self.calls.state(call) == Some(Waiting::Wanted)
        {
            self.nothing_in_flight();
        }
    }

    fn end_sample(&mut self, call: u64) {
        if let Some(sampling) = &mut self.sampling {
            let clock = self.session.clock();
            sampling.samples.end(call, || clock.time(now_ns()));
        }
    }
}
