//! Counters. Their place in the control page, snapshots and deltas.
//!
//! Every counter has one writer, who stores it in its own page; tools read it there without asking
//! anybody.

use crate::base::sync::Ordering;
use crate::memory::OwnWord;
use crate::memory::layout::COUNTERS;

macro_rules! counters {
    (
        $(#[$doc:meta])*
        $name:ident { $($(#[doc = $field_doc:literal])* $field:ident = $index:literal,)* }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[cfg_attr(feature = "inspect", derive(serde::Serialize, serde::Deserialize), serde(default))]
        #[non_exhaustive]
        pub struct $name { $($(#[doc = $field_doc])* pub $field: u64,)* }

        impl $name {
            /// Name and index in the control page of each counter.
            pub const FIELDS: &'static [(&'static str, usize)] =
                &[$((stringify!($field), $index),)*];

            /// What each of them counts, in the same order.
            #[cfg(any(feature = "metrics", feature = "inspect"))]
            pub const MEANINGS: &'static [&'static str] =
                &[$(concat!($($field_doc),*).trim_ascii(),)*];

            /// Reads every counter through `load`, which is given its index.
            pub fn read(load: impl Fn(usize) -> u64) -> Self {
                Self { $($field: load($index),)* }
            }

            /// What was counted since `earlier`.
            #[must_use]
            pub fn since(&self, earlier: &Self) -> Self {
                Self { $($field: self.$field.wrapping_sub(earlier.$field),)* }
            }

            /// Every counter with its name.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($field), self.$field),)*].into_iter()
            }

            /// Stores every counter that differs from `stored`, which then equals `self`.
            pub(crate) fn store(&self, stored: &mut Self, words: &Words) {
                $(if self.$field != stored.$field {
                    words.set($index, self.$field);
                    stored.$field = self.$field;
                })*
            }
        }

        const _: () = { $(assert!($index < COUNTERS);)* };
    };
}

counters! {
    /// What one side of a session counted. Units are events unless the name says bytes.
    SessionCounters {
        /// Messages sent, control frames apart.
        sent = 0,
        /// Messages received, control frames apart.
        received = 1,
        /// Bytes of payload sent.
        bytes_sent = 2,
        /// Bytes of payload received.
        bytes_received = 3,
        /// Fragments sent, of messages larger than a record.
        fragments_sent = 4,
        /// Padding records written.
        paddings = 5,
        /// Times the ring was full when something was to be sent.
        full_stalls = 6,
        /// Wake calls made.
        wakes_sent = 7,
        /// Sleeps that were called off because something had arrived at the second look.
        arms_called_off = 8,
        /// Sleeps.
        parks = 9,
        /// Waits that ended while spinning.
        spins_paid = 10,
        /// Calls of `sched_yield`.
        yields = 11,
        /// Times yields were given up because the machine is crowded.
        slow_episodes = 12,
        /// Sleeps that only the backstop ended although something had been published: lost wakes.
        /// Always 0.
        backstop_rescues = 13,
        /// Sleeps that the backstop ended while a ringer was between ringing and waking.
        late_rings = 14,
        /// Errors answered (server) or received (client).
        errors = 15,
        /// Messages set aside while the other ring was full or another answer was awaited, at most,
        /// so far.
        stash_peak = 16,
        /// Answers that came after the caller had given up.
        late_answers = 17,
        /// Calls that timed out.
        timeouts = 18,
        /// Fragmented messages that were aborted.
        aborts = 19,
        /// Calls without an answer now (client); requests without an answer now (server, concurrent
        /// handlers only).
        in_flight = 20,
        /// One of them that is known to wait for long; 0 if this side has not slept while one
        /// waited.
        oldest_call = 21,
        /// Since when it waits at least: when this side first slept over it. In ns of
        /// the server's clock.
        oldest_sent_ns = 22,
        /// The fullest that the ring was found when room in it was looked for, in bytes.
        fill_peak = 23,
        /// Events that were dropped since more came than were asked for (client).
        events_dropped = 24,
        /// Answers that were dropped, and streams that were given up, since as much was held as may
        /// be (client).
        not_kept = 25,
        /// Calls that were refused since too many were in flight, or since they would have waited
        /// for their own thread (client).
        refused = 26,
        /// Pauses in waits that kept coming back at once and for nothing, since the kernel refuses
        /// to sleep.
        pauses = 60,
    }
}

counters! {
    /// What a server counted over all sessions.
    ServerCounters {
        /// Sessions open now.
        sessions = 0,
        /// Most sessions open at once.
        sessions_peak = 1,
        /// Sessions accepted.
        accepted = 2,
        /// Handshakes rejected.
        rejected = 3,
        /// Handshakes that did not end in time, or broke off.
        handshakes_failed = 4,
        /// Sessions that ended because the client hung up or died.
        hung_up = 5,
        /// Sessions that ended because the client broke the protocol.
        peer_faults = 6,
        /// Sessions that ended because the client did not read its answers.
        slow_clients = 7,
        /// Requests handled.
        requests = 8,
        /// Errors answered.
        errors = 9,
        /// Handlers that panicked.
        panics = 10,
        /// Sleeps of the reactor.
        parks = 11,
        /// Waits that ended while spinning.
        spins_paid = 12,
        /// Calls of `sched_yield`.
        yields = 13,
        /// Times yields were given up because the machine is crowded.
        slow_episodes = 14,
        /// Sleeps that were called off because something had arrived at the second look.
        arms_called_off = 15,
        /// Sleeps that only the backstop ended although something had been published: lost wakes.
        /// Always 0.
        backstop_rescues = 16,
        /// Sleeps that the backstop ended while a ringer was between ringing and waking.
        late_rings = 17,
        /// Wake calls made to clients.
        wakes_sent = 18,
        /// Answers queued because a response ring was full.
        queued = 19,
        /// Sessions carried by the socket instead of shared memory.
        fallbacks = 20,
        /// Requests that the handler answered before it returned (concurrent handlers only).
        inline = 21,
        /// Requests that were answered later, from whichever thread.
        dispatched = 22,
        /// Answers that were complete before their turn and were kept, in sessions that want them
        /// in order.
        stashed = 23,
        /// Calls that the client cancelled while they were in flight.
        cancelled = 24,
        /// Requests that were not run since their deadline had passed.
        expired = 25,
        /// Events pushed to clients.
        events = 26,
        /// Answers that were complete only after their session was over. They went nowhere.
        orphans = 27,
        /// Requests without an answer now (concurrent handlers only).
        in_flight = 28,
        /// Streams that were ended because the client took no item for too long.
        stalled_streams = 40,
        /// Handshakes rejected since their user had its share of clients or of handshakes.
        rejected_of_uid = 44,
        /// Handshakes rejected since the server had as many clients as it may have.
        rejected_full = 48,
        /// Inspectors that were turned away. They are not among those that were rejected.
        inspectors_refused = 49,
        /// Bytes of requests, answers and events that are held for clients now.
        held_bytes = 45,
        /// Times a client was not read from, since as much was held as may be.
        held_stops = 46,
        /// Requests, answers and events that were refused, since as much was held as may be.
        held_refusals = 47,
        /// Pauses in waits that kept coming back at once and for nothing, since the kernel refuses
        /// to sleep.
        pauses = 60,
        /// Times no connection was accepted for a while, for want of descriptors or of memory.
        accept_pauses = 61,
    }
}

impl SessionCounters {
    /// Stores what is in flight, and nothing else.
    pub(crate) fn store_in_flight(&self, stored: &mut Self, words: &Words) {
        let Self { in_flight, oldest_call, oldest_sent_ns, .. } = *self;
        let only = Self { in_flight, oldest_call, oldest_sent_ns, ..*stored };
        only.store(stored, words);
    }
}

/// The counter words of a control page, for their one writer.
#[derive(Debug)]
pub(crate) struct Words(Vec<OwnWord>);

impl Words {
    /// The counters of the control page in `window`.
    pub(crate) fn new(window: &crate::memory::Window) -> Self {
        Self(
            (0..COUNTERS)
                .map(|i| window.own_word(crate::memory::layout::offset::COUNTERS + 8 * i))
                .collect(),
        )
    }

    #[inline]
    fn set(&self, index: usize, value: u64) {
        // Relaxed: for tools only, nobody acts on it.
        self.0[index].store(value, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Window;

    #[test]
    fn counters_are_found_where_they_were_stored() {
        let window = Window::heap(4096);
        let words = Words::new(&window);
        let counted = SessionCounters { sent: 3, late_rings: 9, ..Default::default() };
        let mut stored = SessionCounters::default();
        counted.store(&mut stored, &words);
        assert_eq!(stored, counted);
        let read = SessionCounters::read(|i| {
            window.peer_word(crate::memory::layout::offset::COUNTERS + 8 * i).load()
        });
        assert_eq!(read, counted);
        assert_eq!(read.since(&SessionCounters { sent: 1, ..Default::default() }).sent, 2);
    }

    #[test]
    fn no_two_counters_share_a_place() {
        for fields in [SessionCounters::FIELDS, ServerCounters::FIELDS] {
            let mut places: Vec<_> = fields.iter().map(|(_, index)| index).collect();
            places.sort_unstable();
            places.dedup();
            assert_eq!(places.len(), fields.len());
        }
    }
}
