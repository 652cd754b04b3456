//! What is measured: the scenarios, and the cases (a scenario with its numbers) that every system
//! is put through.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scenario {
    /// The machine itself: atomic ping-pong between two CPUs. Tells whether they are real cores.
    Canary,
    /// One operation without a partner: a system call, a fence, a copy.
    Cost,
    /// One client, one call after the other, each side on a CPU of its own.
    Echo,
    /// The receiver reads everything, but answers with 8 bytes only. Limits only: the bound for
    /// large echoes.
    OneWay,
    /// As `Echo`, both sides on one CPU.
    OneCpu,
    /// As `Echo`, and nobody may spin: both sides sleep between messages.
    Parked,
    /// One call every millisecond, with the default waiting policy.
    Paced,
    /// 50 000 calls a second, or as many of them as the system manages. The pauses are too short to
    /// sleep in: the client spins through them, and the CPU time of that is taken off.
    #[serde(rename = "paced-50k")]
    PacedFast,
    /// A client that is attached and does nothing, and one call that ends this. An operation is a
    /// millisecond of doing nothing; the percentiles are of the call.
    Idle,
    /// From connect to the first response.
    Setup,
    /// One client that keeps many calls in flight.
    Pipelined,
    /// One client that sends many calls at once and then waits for all answers. An operation is a
    /// call, and its time is that of the whole divided by their number.
    Batch,
    /// One-way messages, as fast as the receiver can take and check them.
    Stream,
    /// Many client processes on however many CPUs there are, each calling without a pause.
    Clients,
    /// As `Echo`, while other connections are open over which nothing is sent. They count as
    /// clients.
    Attached,
    /// As `Clients`, beside as many processes that compute without a pause as there are CPUs.
    Crowded,
    /// As `Echo` or `OneCpu`, of requests that keep the server's CPU busy for so long: neither too
    /// short to park for nor long enough to be worth it at once.
    #[serde(rename = "request-1us")]
    Request1us,
    /// See above.
    #[serde(rename = "request-10us")]
    Request10us,
    /// See above.
    #[serde(rename = "request-50us")]
    Request50us,
    /// See above.
    #[serde(rename = "request-200us")]
    Request200us,
    /// One client that keeps some calls in flight, whose handlers each wait for 100 us.
    ServiceDepth,
    /// Many clients with one such call in flight each.
    ServiceClients,
    /// A concurrent server whose handler does nothing: what its machinery costs.
    ServiceEmpty,
    /// [`CALLERS`] clients that call without a pause; and, in one of its two cases, beside them one
    /// that sends as much as it is let and reads no answer.
    SlowClient,
    /// Many tasks of one asynchronous client, each of which calls over the one connection, again
    /// and again. An operation is a call, and its time is that of the whole divided by their
    /// number.
    Tasks,
    /// A program with an event loop echoes datagrams. Here and below: whose sockets are its own, or
    /// a host's.
    #[serde(rename = "udp_echo_small")]
    UdpEchoSmall,
    /// It echoes over a Unix socket that stays connected.
    #[serde(rename = "unix_echo_small")]
    UnixEchoSmall,
    /// Connect, one echo, hang up, over a Unix socket.
    #[serde(rename = "unix_accept")]
    UnixAccept,
    /// It echoes over TCP that stays connected.
    #[serde(rename = "tcp_echo_64k")]
    TcpEcho64k,
    /// Connect, one GET whose body is checked, end of the connection, over TCP on the loopback
    /// interface.
    #[serde(rename = "http_loopback_get")]
    HttpLoopbackGet,
}

/// Clients of the slow-client scenario that call as usual. Its figures are of these alone.
const CALLERS: u32 = 7;

/// Which CPUs the processes of a trial may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Placement {
    /// The client on the first CPU, the server on the second.
    TwoCpus,
    /// Everybody on the first CPU.
    OneCpu,
    /// Wherever the scheduler likes.
    Unpinned,
}

/// How a system is asked to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// As it comes out of the box.
    Default,
    /// Never spin, never yield: sleep at once.
    Sleep,
}

/// A scenario with its numbers: one row for each system that runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Case {
    /// The kind of work.
    pub(crate) scenario: Scenario,
    /// Bytes of a payload, in each direction.
    pub(crate) size: usize,
    /// How many calls a client keeps in flight.
    pub(crate) in_flight: u32,
    /// How many client processes there are.
    pub(crate) clients: u32,
    /// Where they run.
    pub(crate) placement: Placement,
}

/// The sizes of the echo scenario, in bytes. 48 is what fits beside a header in one cache line.
const ECHO_SIZES: [usize; 10] =
    [16, 48, 64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];

/// The sizes that systems are put through which are not compared at each.
const FEW_SIZES: [usize; 4] = [64, 1 << 10, 64 << 10, 1 << 20];

/// Bytes of a streamed message: with a header of 16 bytes it fills a line.
pub(crate) const STREAMED: usize = 48;

impl Case {
    /// A case with one client, one call in flight and the scenario's own placement.
    pub(crate) const fn new(scenario: Scenario, size: usize) -> Self {
        let placement = match scenario {
            Scenario::OneCpu | Scenario::Cost => Placement::OneCpu,
            Scenario::Clients
            | Scenario::Crowded
            | Scenario::ServiceDepth
            | Scenario::ServiceClients
            | Scenario::SlowClient => Placement::Unpinned,
            _ => Placement::TwoCpus,
        };
        Self { scenario, size, in_flight: 1, clients: 1, placement }
    }

    /// The same case elsewhere.
    pub(crate) const fn on(self, placement: Placement) -> Self {
        Self { placement, ..self }
    }

    /// The cases that every system is put through, unless it cannot run them or takes too long to
    /// build.
    pub(crate) fn standard() -> Vec<Self> {
        let mut cases: Vec<Self> =
            ECHO_SIZES.iter().map(|&size| Self::new(Scenario::Echo, size)).collect();
        cases.extend(Self::waits());
        cases.push(Self::new(Scenario::Setup, 64).on(Placement::OneCpu));
        cases.push(Self::new(Scenario::PacedFast, 64));
        cases.push(Self::new(Scenario::Idle, 64));
        cases.extend(Self::depths(Scenario::Pipelined));
        cases.extend(Self::depths(Scenario::Batch));
        cases.push(Self::stream());
        cases.extend(Self::crowd(Scenario::Clients, &[1, 2, 4, 8, 32]));
        cases.extend(Self::crowd(Scenario::Crowded, &[1, 4]));
        cases
    }

    /// Fewer cases, for the many peers that are not compared at every point.
    pub(crate) fn few() -> Vec<Self> {
        let mut cases: Vec<Self> =
            FEW_SIZES.iter().map(|&size| Self::new(Scenario::Echo, size)).collect();
        cases.extend(Self::waits());
        cases.extend(Self::depths(Scenario::Pipelined).into_iter().skip(1));
        cases.extend(Self::crowd(Scenario::Clients, &[8]));
        cases.extend(Self::crowd(Scenario::Crowded, &[4]));
        cases
    }

    /// Still fewer, for the second best configuration of a peer: those in which it differs from the
    /// best one.
    pub(crate) fn glance() -> Vec<Self> {
        let mut cases = [Scenario::Echo, Scenario::OneCpu, Scenario::Parked, Scenario::Paced]
            .map(|scenario| Self::new(scenario, 64))
            .to_vec();
        cases.extend(Self::depths(Scenario::Pipelined).into_iter().skip(1));
        cases.extend(Self::crowd(Scenario::Clients, &[8]));
        cases
    }

    /// One client in all the ways in which waiting matters.
    fn waits() -> [Self; 4] {
        [Scenario::OneCpu, Scenario::Parked, Scenario::Paced, Scenario::Setup]
            .map(|scenario| Self::new(scenario, 64))
    }

    /// Requests that take some time.
    pub(crate) fn lasting() -> Vec<Self> {
        let scenarios = [
            Scenario::Request1us,
            Scenario::Request10us,
            Scenario::Request50us,
            Scenario::Request200us,
        ];
        let on = |place| scenarios.map(|scenario| Self::new(scenario, 64).on(place));
        [Placement::TwoCpus, Placement::OneCpu].into_iter().flat_map(on).collect()
    }

    /// Many calls of one client at a time.
    pub(crate) fn depths(scenario: Scenario) -> [Self; 2] {
        [16, 64].map(|in_flight| Self { in_flight, ..Self::new(scenario, 64) })
    }

    /// One-way messages.
    pub(crate) const fn stream() -> Self {
        Self::new(Scenario::Stream, STREAMED)
    }

    /// Many clients.
    pub(crate) fn crowd(scenario: Scenario, numbers: &[u32]) -> Vec<Self> {
        numbers.iter().map(|&clients| Self { clients, ..Self::new(scenario, 64) }).collect()
    }

    /// One client among many that are only there.
    pub(crate) fn attached() -> Vec<Self> {
        let case = Self::new(Scenario::Attached, 48);
        [8, 64, 128, 1000].map(|clients| Self { clients, ..case }).to_vec()
    }

    /// Depths of a pipeline of requests that take their time.
    pub(crate) fn service_depths() -> Vec<Self> {
        let case = Self::new(Scenario::ServiceDepth, 64);
        [1, 2, 4, 8, 16].map(|in_flight| Self { in_flight, ..case }).to_vec()
    }

    /// Numbers of clients with such requests.
    pub(crate) fn service_clients() -> Vec<Self> {
        let case = Self::new(Scenario::ServiceClients, 64);
        [1, 2, 4, 7, 16, 32].map(|clients| Self { clients, ..case }).to_vec()
    }

    /// Empty requests: alone, side by side, and from many clients. With 64 in flight everybody is
    /// busy all the time, wherever the scheduler puts a pool's thread.
    pub(crate) fn service_empty() -> Vec<Self> {
        let case = Self::new(Scenario::ServiceEmpty, 64);
        let unpinned = case.on(Placement::Unpinned);
        let mut cases = vec![case, Self { in_flight: 16, ..case }];
        cases.extend([4, 8].map(|clients| Self { clients, ..unpinned }));
        cases.push(Self { in_flight: 64, ..unpinned });
        cases
    }

    /// A thousand tasks on one session.
    #[cfg(any(test, feature = "peer-tokio"))]
    pub(crate) const fn tasks() -> Self {
        Self { in_flight: 1000, ..Self::new(Scenario::Tasks, 64) }
    }

    /// Programs with sockets, everything on one CPU, and with all CPUs free.
    pub(crate) fn sockets() -> Vec<Self> {
        let kinds = [
            (Scenario::UdpEchoSmall, 64),
            (Scenario::UnixEchoSmall, 64),
            (Scenario::UnixAccept, 64),
            (Scenario::TcpEcho64k, 64 << 10),
            (Scenario::HttpLoopbackGet, 64),
        ];
        let placements = [Placement::OneCpu, Placement::Unpinned];
        let at =
            |place: Placement| kinds.map(|(scenario, size)| Self::new(scenario, size).on(place));
        placements.into_iter().flat_map(at).collect()
    }

    /// Without and with the client that never reads.
    pub(crate) fn slow_client() -> Vec<Self> {
        let case = Self::new(Scenario::SlowClient, 64);
        [CALLERS, CALLERS + 1].map(|clients| Self { clients, ..case }).to_vec()
    }

    /// How many connections a client has beside the one over which it calls.
    pub(crate) const fn idle_connections(&self) -> u32 {
        if matches!(self.scenario, Scenario::Attached) { self.clients - 1 } else { 0 }
    }

    /// For how long a request keeps the server's CPU busy, in nanoseconds.
    pub(crate) const fn lasts_ns(&self) -> u64 {
        match self.scenario {
            Scenario::Request1us => 1_000,
            Scenario::Request10us => 10_000,
            Scenario::Request50us => 50_000,
            Scenario::Request200us => 200_000,
            _ => 0,
        }
    }

    /// How many of the clients call and are measured.
    pub(crate) const fn callers(&self) -> u32 {
        match self.scenario {
            _ if self.has_slow_client() => CALLERS,
            Scenario::Attached => 1,
            _ => self.clients,
        }
    }

    /// Whether there is one more client, which never reads.
    pub(crate) const fn has_slow_client(&self) -> bool {
        matches!(self.scenario, Scenario::SlowClient) && self.clients > CALLERS
    }

    /// Whether messages follow each other without waiting for answers.
    pub(crate) const fn comes_in_bursts(&self) -> bool {
        matches!(
            self.scenario,
            Scenario::Pipelined | Scenario::Batch | Scenario::Stream | Scenario::Tasks
        )
    }

    /// How many processes compute beside it for each CPU.
    pub(crate) const fn hogs(&self) -> usize {
        if matches!(self.scenario, Scenario::Crowded) { 1 } else { 0 }
    }

    /// How many times longer than others such a case is measured: where little happens in a moment,
    /// or other processes have to have their turns.
    pub(crate) const fn stretch(&self) -> u32 {
        match self.scenario {
            Scenario::Paced | Scenario::Crowded | Scenario::Idle => 3,
            _ => 1,
        }
    }

    /// The row beside which a row of `system` in this case is judged: whose, and in which case.
    pub(crate) fn yardstick(&self, system: &'static str) -> Option<(&'static str, Self)> {
        match self.scenario {
            Scenario::ServiceDepth | Scenario::ServiceClients => Some(("in-process", *self)),
            Scenario::ServiceEmpty => Some(("ringbell", *self)),
            Scenario::SlowClient => Some((system, Self { clients: CALLERS, ..*self })),
            Scenario::Tasks => Some(("tokio-uds-one-thread", *self)),
            Scenario::UdpEchoSmall
            | Scenario::UnixEchoSmall
            | Scenario::UnixAccept
            | Scenario::TcpEcho64k
            | Scenario::HttpLoopbackGet => Some(("sockets-native", *self)),
            _ => None,
        }
    }

    /// How the system must wait in this case.
    pub(crate) const fn waiting(&self) -> Waiting {
        match self.scenario {
            Scenario::Parked => Waiting::Sleep,
            _ => Waiting::Default,
        }
    }

    /// The group of limits that bounds this case, or none. A limit's own group is itself; see
    /// `row`.
    pub(crate) fn bound(&self) -> Option<Bound> {
        let alike = |scenario, size| Some(Bound { scenario, size, placement: self.placement });
        match self.scenario {
            // In both directions at once at best: nothing larger than a ring's worth can beat one
            // crossing.
            Scenario::Echo if self.size > LARGE => alike(Scenario::OneWay, Some(self.size)),
            Scenario::Echo | Scenario::OneWay | Scenario::Stream => {
                alike(self.scenario, Some(self.size))
            }
            Scenario::Pipelined | Scenario::Batch => alike(Scenario::Stream, Some(self.size)),
            Scenario::OneCpu
            | Scenario::Parked
            | Scenario::Paced
            | Scenario::Setup
            | Scenario::Canary => alike(self.scenario, None),
            Scenario::Clients
            | Scenario::Attached
            | Scenario::Crowded
            | Scenario::Idle
            | Scenario::PacedFast
            | Scenario::Cost
            | Scenario::Request1us
            | Scenario::Request10us
            | Scenario::Request50us
            | Scenario::Request200us
            | Scenario::ServiceDepth
            | Scenario::ServiceClients
            | Scenario::ServiceEmpty
            | Scenario::SlowClient
            | Scenario::Tasks
            | Scenario::UdpEchoSmall
            | Scenario::UnixEchoSmall
            | Scenario::UnixAccept
            | Scenario::TcpEcho64k
            | Scenario::HttpLoopbackGet => None,
        }
    }

    /// Whether this case is judged by its rate and not by its round trip.
    pub(crate) const fn is_throughput(&self) -> bool {
        match self.scenario {
            Scenario::Pipelined
            | Scenario::Batch
            | Scenario::Stream
            | Scenario::Tasks
            | Scenario::ServiceDepth
            | Scenario::ServiceClients
            | Scenario::SlowClient => true,
            Scenario::ServiceEmpty => self.in_flight > 1 || self.clients > 1,
            _ => false,
        }
    }
}

/// Above this payload size, in bytes, calls are timed one by one and checked outside the timed
/// part.
pub(crate) const LARGE: usize = 4096;

/// The limits that a row is compared with: those of this scenario and placement, and of this size
/// where given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bound {
    scenario: Scenario,
    size: Option<usize>,
    placement: Placement,
}

impl Bound {
    /// Whether a limit that was measured in `case` belongs to this group.
    pub(crate) fn covers(&self, case: &Case) -> bool {
        self.scenario == case.scenario
            && self.placement == case.placement
            && self.size.is_none_or(|size| size == case.size)
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Canary => "canary",
            Self::Cost => "cost",
            Self::Echo => "echo",
            Self::OneWay => "one-way",
            Self::OneCpu => "one-cpu",
            Self::Parked => "parked",
            Self::Paced => "paced",
            Self::PacedFast => "paced-50k",
            Self::Idle => "idle",
            Self::Setup => "setup",
            Self::Pipelined => "pipelined",
            Self::Batch => "batch",
            Self::Stream => "stream",
            Self::Clients => "clients",
            Self::Attached => "attached",
            Self::Crowded => "crowded",
            Self::Request1us => "request-1us",
            Self::Request10us => "request-10us",
            Self::Request50us => "request-50us",
            Self::Request200us => "request-200us",
            Self::ServiceDepth => "service-depth",
            Self::ServiceClients => "service-clients",
            Self::ServiceEmpty => "service-empty",
            Self::SlowClient => "slow-client",
            Self::Tasks => "tasks",
            Self::UdpEchoSmall => "udp_echo_small",
            Self::UnixEchoSmall => "unix_echo_small",
            Self::UnixAccept => "unix_accept",
            Self::TcpEcho64k => "tcp_echo_64k",
            Self::HttpLoopbackGet => "http_loopback_get",
        })
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TwoCpus => "two-cpus",
            Self::OneCpu => "one-cpu",
            Self::Unpinned => "unpinned",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parked_forbids_spinning() {
        for case in Case::standard() {
            assert_eq!(case.waiting() == Waiting::Sleep, case.scenario == Scenario::Parked);
        }
    }

    #[test]
    fn large_echoes_are_bound_by_one_crossing() {
        let bound = Case::new(Scenario::Echo, 1 << 20).bound().expect("echoes have a bound");
        assert!(bound.covers(&Case::new(Scenario::OneWay, 1 << 20)));
        assert!(!bound.covers(&Case::new(Scenario::Echo, 1 << 20)));
        assert!(!bound.covers(&Case::new(Scenario::OneWay, 64 << 10)));
    }

    #[test]
    fn displays_as_it_serializes() {
        let services =
            [Case::service_depths(), Case::service_clients(), Case::service_empty()].concat();
        let sockets =
            [vec![Case::tasks()], Case::sockets(), Case::lasting(), Case::attached()].concat();
        for case in [Case::standard(), services, Case::slow_client(), sockets].concat() {
            assert_eq!(
                serde_json::to_value(case.scenario).expect("serializes"),
                case.scenario.to_string()
            );
            assert_eq!(
                serde_json::to_value(case.placement).expect("serializes"),
                case.placement.to_string()
            );
        }
    }
}
