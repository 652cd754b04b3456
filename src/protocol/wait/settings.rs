//! The settings of the policy, and their defaults.

use std::time::Duration;

/// Settings of the waiting policy. The defaults were tuned by measurement and hold for every
/// scenario of the benchmarks; change them only with a benchmark in hand.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WaitSettings {
    /// How often a waiter looks before it yields. Default 150 looks, one to two microseconds.
    pub spin_polls: u32,
    /// The same for a server whose clients run on every CPU, its own included. Default 20 looks.
    pub crowded_spin_polls: u32,
    /// How long a waiter keeps yielding before it parks. Default 150 us for a client that waits for
    /// an answer, 50 us for a server that waits for requests.
    pub yield_for: Duration,
    /// A waiter halves its time of yielding with each wait that ends in a sleep, down to this, and
    /// lengthens it again when yielding pays, or a sleep was so short that yielding would have
    /// paid. Default 5 us.
    pub yield_for_least: Duration,
    /// Every so many waits a spinner yields first, as long as others want the CPU. Default 16 for a
    /// client, 4 for a server; 0 for never.
    pub turn_every: u32,
    /// The largest interval between turns while nobody else wants the CPU. Default 4096 waits.
    pub turn_every_most: u32,
    /// After so many waits in a row in which spinning did not pay, it is given up. Default 4.
    pub futile_spins: u32,
    /// Once given up, spinning is tried again every so many waits. Default 64.
    pub spin_probe: u32,
    /// A yield of at least this length counts as slow. Default 2 ms: more than the turns of many
    /// clients who yield as well, and not more than somebody who computes takes (on 2 CPUs or more;
    /// its slice ends with a tick of the scheduler).
    pub slow_yield: Duration,
    /// Time lost in slow yields, drained at a quarter of wall time, after which yields are given
    /// up. Default 5 ms.
    pub slow_budget: Duration,
    /// For how long yields are given up the first time; doubles each time. Default 20 ms: short, as
    /// a machine looks crowded whenever processes start on it.
    pub slow_pause: Duration,
    /// The longest time for which yields are given up. Default 4 s.
    pub slow_pause_most: Duration,
    /// A parked client looks for the first time after so long whether its server is still there,
    /// then after as long again as it has slept, up to `backstop`: so it learns of a death within
    /// about twice the time that it has waited, and a long wait costs few looks. Default 2 ms. Of
    /// no meaning to a server, whose porter is told of deaths.
    pub first_look: Duration,
    /// A parked thread looks again at least this often, whatever happens. Default 50 ms.
    pub backstop: Duration,
}

impl WaitSettings {
    /// The defaults for a caller that waits for an answer.
    pub fn client() -> Self {
        Self {
            spin_polls: 150,
            crowded_spin_polls: 20,
            yield_for: Duration::from_micros(150),
            yield_for_least: Duration::from_micros(5),
            turn_every: 16,
            turn_every_most: 4096,
            futile_spins: 4,
            spin_probe: 64,
            slow_yield: Duration::from_millis(2),
            slow_budget: Duration::from_millis(5),
            slow_pause: Duration::from_millis(20),
            slow_pause_most: Duration::from_secs(4),
            first_look: Duration::from_millis(2),
            backstop: Duration::from_millis(50),
        }
    }

    /// The defaults for a server that waits for requests.
    pub fn server() -> Self {
        Self { yield_for: Duration::from_micros(50), turn_every: 4, ..Self::client() }
    }

    /// Settings that park at once: for machines where no CPU time may be spent on waiting.
    #[must_use]
    pub fn park_at_once(mut self) -> Self {
        self.spin_polls = 0;
        self.crowded_spin_polls = 0;
        self.yield_for = Duration::ZERO;
        self.yield_for_least = Duration::ZERO;
        self.turn_every = 0;
        self
    }
}
