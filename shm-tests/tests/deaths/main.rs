//! SIGKILL, at every named point of the protocol and at any moment, of clients and of servers.
//!
//! What must hold: no message is torn, comes twice, or is lost without an error; the survivor
//! learns of it in time, however it waits; the server goes on serving others, and has afterwards
//! what it had before.

mod clients;
mod lost_rings;
mod news;
mod servers;

use clients::*;
use lost_rings::*;
use news::*;
use ringbell_shm_tests::{observe, suite};
use servers::*;
use std::time::Duration;

suite! {
    both: [sigpipe_kills_nobody],
    // About points of the protocol of rings and bells, and about rings that are full.
    tests: [
        clients_die,
        servers_die,
        a_ring_that_dies_with_its_ringer_is_no_lost_wake_of_the_server,
        a_ring_that_dies_with_its_ringer_is_no_lost_wake_of_the_client,
        a_lost_ring_does_not_delay_the_news,
        a_client_that_receives_with_short_timeouts_learns_of_the_death,
        a_client_that_calls_with_short_timeouts_learns_of_the_death,
        a_client_that_only_sends_learns_of_the_death,
    ],
    roles: [victim, bereaved],
}

/// How long a survivor may take to learn of a death.
const IN_TIME: Duration = Duration::from_millis(100);

/// Who comes by a point of the protocol.
fn who(point: &str) -> &'static [&'static str] {
    match point {
        "rung" => &["client", "server"],
        "request-claimed" | "request-posted" => &["client"],
        "response-posted" | "request-taken" => &["server"],
        point if point.starts_with("client-") => &["client"],
        point
            if ["server-", "porter-", "handshake-"].iter().any(|word| point.starts_with(word)) =>
        {
            &["server"]
        }
        point => panic!("say who comes by the point {point}"),
    }
}

/// Times that survivors needed.
#[derive(Default)]
struct Times {
    pub(crate) needed: Vec<Duration>,
    pub(crate) late: Vec<String>,
    pub(crate) excused: usize,
}

impl Times {
    /// Takes note of a time, in which the machine stood still for `stalled`.
    pub(crate) fn add(
        &mut self,
        needed: Duration,
        stalled: Duration,
        what: impl FnOnce() -> String,
    ) {
        if needed.saturating_sub(stalled) > IN_TIME {
            self.late.push(format!("{}: after {needed:?}", what()));
        } else if needed > IN_TIME {
            self.excused += 1;
        }
        self.needed.push(needed);
    }

    pub(crate) fn summary(&mut self) -> String {
        assert!(
            self.late.is_empty(),
            "{} of {} learnt of it too late:\n{}",
            self.late.len(),
            self.needed.len(),
            self.late.join("\n")
        );
        self.needed.sort_unstable();
        let at = |part: usize| {
            self.needed.get(self.needed.len() * part / 100).copied().unwrap_or_default()
        };
        let most = self.needed.last().copied().unwrap_or_default();
        let excused = self.excused;
        format!(
            "learnt in {:?} (median), {:?} (99 %), {most:?} (most; {excused} over {IN_TIME:?} on a machine that stood still)",
            at(50),
            at(99)
        )
    }
}

/// What a process holds.
#[derive(Debug)]
#[allow(dead_code, reason = "shown in messages")]
struct Holdings {
    pub(crate) descriptors: Vec<String>,
    pub(crate) mappings: usize,
    pub(crate) shared_bytes: u64,
    pub(crate) private_bytes: u64,
}

impl Holdings {
    pub(crate) fn of(pid: u32) -> Self {
        Self {
            descriptors: observe::descriptor_targets(pid),
            mappings: observe::memfd_mappings(pid),
            shared_bytes: observe::shared_bytes(pid),
            private_bytes: observe::private_bytes(pid),
        }
    }
}
