//! What is counted, published to the recorder of the `metrics` facade (feature `metrics`).
//!
//! Nothing is told to a recorder while calls are made: the library counts anyway, in memory that
//! tools read, and a program publishes what was counted since the last time whenever it likes:
//! before its exporter is scraped, every ten seconds, at its end. So the feature costs a call
//! nothing, and what it costs is in the hands of whoever calls `publish`.
//!
//! ```no_run
//! use ringbell::metrics::{ClientMetrics, ServerMetrics};
//!
//! let server = ringbell::Server::bind("/run/app/echo.sock")?;
//! let handle = server.handle();
//! std::thread::spawn(move || {
//!     let mut metrics = ServerMetrics::new(&[("service", "echo")]);
//!     loop {
//!         metrics.publish(&handle);
//!         std::thread::sleep(std::time::Duration::from_secs(10));
//!     }
//! });
//!
//! // In another process; calls are timed only where that is asked for.
//! let options = ringbell::ConnectOptions::new().sample_calls(64);
//! let mut client = options.connect("/run/app/echo.sock")?;
//! let mut metrics = ClientMetrics::new(&[("service", "echo")]);
//! client.call(b"hello")?;
//! metrics.publish(&mut client);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | name | kind | unit | of what |
//! |---|---|---|---|
//! | `ringbell_server_<counter>_total` | counter | 1 | each counter of [`ServerCounters`], but for those below |
//! | `ringbell_server_sessions`, `.._sessions_peak`, `.._in_flight` | gauge | 1 | the same of [`ServerCounters`] |
//! | `ringbell_client_<counter>_total` | counter | 1, or bytes if the name says so | each counter of [`SessionCounters`], but for those below |
//! | `ringbell_client_in_flight` | gauge | 1 | calls without an answer |
//! | `ringbell_client_stash_peak`, `ringbell_client_fill_peak` | gauge | 1, bytes | the same of [`SessionCounters`] |
//! | `ringbell_client_call_seconds` | histogram | seconds | calls that were timed ([`ConnectOptions::sample_calls`](crate::ConnectOptions::sample_calls)), from before the request is sent until the answer is taken |
//! | `ringbell_pool_idle`, `.._in_use`, `.._opening`, `.._checking`, `.._closing`, `.._waiting` | gauge | 1 | the same of [`PoolStats`] |
//! | `ringbell_pool_opened_total`, `.._open_failures_total`, `.._acquired_total`, `.._waits_total`, `.._timeouts_total`, `.._cancelled_total` | counter | 1 | the same of [`PoolStats`] |
//! | `ringbell_pool_closed_total` | counter | 1 | items that were closed, with a label `reason` |
//! | `ringbell_pool_wait_seconds` | histogram | seconds | how long callers waited, rounded up to a power of two in microseconds |
//!
//! The labels are those that `new` is given, and no others: a session's number or a process id
//! would be a new time series with each connection. Those that publish under the same labels are
//! added up, but for peaks, where the last one counts. The names are those of
//! `ring-dump --prometheus`, as far as it has the same.
//!
//! Of timed calls the last 64 that ended are known; more than that between two publications are not
//! told. Over a socket, and without samples, there are none.
//!
//! Metrics are registered with the recorder that is there when `new` is called: install it before.

use crate::client::Client;
use crate::link::stats::{ServerCounters, SessionCounters};
use crate::pool::{ClosedCounts, PoolStats};
use crate::server::ServerHandle;
use ::metrics::{
    Counter, Gauge, Histogram, IntoLabels, Label, Unit, counter, describe_counter, describe_gauge,
    describe_histogram, gauge, histogram,
};
use std::time::Duration;

/// Counters whose value goes up and down.
const LEVELS: [&str; 3] = ["sessions", "in_flight", "held_bytes"];
/// The most that something was.
const PEAKS: [&str; 3] = ["sessions_peak", "stash_peak", "fill_peak"];
/// What names a call, or a moment.
const LEFT_OUT: [&str; 2] = ["oldest_call", "oldest_sent_ns"];

/// A metric, and what it was published as last.
#[derive(Debug)]
enum Published {
    Count { handle: Counter, last: u64 },
    Level { handle: Gauge, last: u64 },
    Peak(Gauge),
    Nothing,
}

#[allow(clippy::cast_precision_loss, reason = "what is in flight is far below 2^52")]
fn float(value: u64) -> f64 {
    value as f64
}

impl Published {
    fn count(name: String, labels: &[Label], unit: Unit, meaning: &'static str) -> Self {
        describe_counter!(name.clone(), unit, meaning);
        Self::Count { handle: counter!(name, labels.to_vec()), last: 0 }
    }

    fn level(name: String, labels: &[Label], meaning: &'static str) -> Self {
        describe_gauge!(name.clone(), Unit::Count, meaning);
        Self::Level { handle: gauge!(name, labels.to_vec()), last: 0 }
    }

    /// Of one of the counters in `stats.rs`.
    fn of_counter(prefix: &str, name: &str, labels: &[Label], meaning: &'static str) -> Self {
        let bytes = name.starts_with("bytes_") || name == "fill_peak";
        let unit = if bytes { Unit::Bytes } else { Unit::Count };
        if LEFT_OUT.contains(&name) {
            Self::Nothing
        } else if PEAKS.contains(&name) {
            let name = format!("{prefix}_{name}");
            describe_gauge!(name.clone(), unit, meaning);
            Self::Peak(gauge!(name, labels.to_vec()))
        } else if LEVELS.contains(&name) {
            Self::level(format!("{prefix}_{name}"), labels, meaning)
        } else {
            Self::count(format!("{prefix}_{name}_total"), labels, unit, meaning)
        }
    }

    /// Tells the recorder what has changed.
    fn publish(&mut self, value: u64) {
        match self {
            Self::Count { handle, last } => {
                handle.increment(value.wrapping_sub(*last));
                *last = value;
            }
            Self::Level { handle, last } => {
                handle.increment(float(value) - float(*last));
                *last = value;
            }
            Self::Peak(handle) => handle.set(float(value)),
            Self::Nothing => {}
        }
    }

    /// What follows is counted from 0.
    fn start_anew(&mut self) {
        if let Self::Count { last, .. } = self {
            *last = 0;
        }
    }
}

/// The counters of one side, with their last values.
#[derive(Debug)]
struct Counters(Vec<Published>);

impl Counters {
    fn new(
        prefix: &str,
        fields: &[(&str, usize)],
        meanings: &[&'static str],
        labels: &[Label],
    ) -> Self {
        let named = fields.iter().zip(meanings);
        Self(
            named
                .map(|((name, _), meaning)| Published::of_counter(prefix, name, labels, meaning))
                .collect(),
        )
    }

    fn publish(&mut self, values: impl Iterator<Item = (&'static str, u64)>) {
        for (published, (_, value)) in self.0.iter_mut().zip(values) {
            published.publish(value);
        }
    }

    fn start_anew(&mut self) {
        self.0.iter_mut().for_each(Published::start_anew);
    }
}

impl Drop for Counters {
    fn drop(&mut self) {
        // What is gone is in flight no more. What was counted stays.
        for published in &mut self.0 {
            if let Published::Level { .. } = published {
                published.publish(0);
            }
        }
    }
}

/// What one server counts. `Send`; whichever thread has it may publish.
#[derive(Debug)]
pub struct ServerMetrics(Counters);

impl ServerMetrics {
    /// Registers the metrics of a server under these labels, with the recorder that is there now.
    pub fn new(labels: impl IntoLabels) -> Self {
        let (fields, meanings) = (ServerCounters::FIELDS, ServerCounters::MEANINGS);
        Self(Counters::new("ringbell_server", fields, meanings, &labels.into_labels()))
    }

    /// Publishes what the server has counted since the last time: as of its last sleep, or of its
    /// last thousand turns.
    pub fn publish(&mut self, handle: &ServerHandle) {
        self.0.publish(handle.stats().iter());
    }
}

/// What one client counts, of one session after the other. `Send`; whichever thread has it may
/// publish.
#[derive(Debug)]
pub struct ClientMetrics {
    counters: Counters,
    /// Generation and number of the session that was published last.
    session: Option<(u64, u64)>,
    calls: Histogram,
    /// When the last call ended that was told, CLOCK_MONOTONIC ns.
    told: u64,
}

impl ClientMetrics {
    /// Registers the metrics of a client under these labels, with the recorder that is there now.
    pub fn new(labels: impl IntoLabels) -> Self {
        const CALLS: &str = "ringbell_client_call_seconds";
        let labels = labels.into_labels();
        let (fields, meanings) = (SessionCounters::FIELDS, SessionCounters::MEANINGS);
        describe_histogram!(CALLS, Unit::Seconds, "How long calls took that were timed.");
        Self {
            counters: Counters::new("ringbell_client", fields, meanings, &labels),
            session: None,
            calls: histogram!(CALLS, labels),
            told: 0,
        }
    }

    /// Publishes what the client has counted since the last time. Another one than the last time,
    /// of a server that was started anew for instance, is counted on top.
    pub fn publish(&mut self, client: &mut Client) {
        let session = (client.generation(), client.session());
        if self.session != Some(session) {
            self.counters.start_anew();
            self.session = Some(session);
            // The samples are new, too, and perhaps of another clock.
            self.told = 0;
        }
        self.counters.publish(client.stats().iter());
        let mut last = self.told;
        for (ended, took) in client.sampled_after(self.told) {
            self.calls.record(Duration::from_nanos(took).as_secs_f64());
            last = last.max(ended);
        }
        self.told = last;
    }

    /// As [`Self::publish`], of the client of many tasks (feature `tokio`).
    #[cfg(feature = "tokio")]
    pub fn publish_async(&mut self, client: &crate::tokio::AsyncClient) {
        client.with_client(|client| self.publish(client));
    }
}

/// What one pool counts. `Send`; whichever thread has it may publish.
#[derive(Debug)]
pub struct PoolMetrics {
    levels: [Published; 6],
    counts: [Published; 6],
    closed: [Published; 7],
    waits: Histogram,
    /// The waits of each bucket that were told.
    told: Vec<u64>,
}

impl PoolMetrics {
    /// Registers the metrics of a pool under these labels, with the recorder that is there now.
    pub fn new(labels: impl IntoLabels) -> Self {
        const WAITS: &str = "ringbell_pool_wait_seconds";
        let labels = labels.into_labels();
        let level =
            |(name, meaning)| Published::level(format!("ringbell_pool_{name}"), &labels, meaning);
        let count = |(name, meaning)| {
            Published::count(format!("ringbell_pool_{name}_total"), &labels, Unit::Count, meaning)
        };
        let closed = |reason| {
            let mut labels = labels.clone();
            labels.push(Label::from_static_parts("reason", reason));
            let name = "ringbell_pool_closed_total".to_owned();
            Published::count(name, &labels, Unit::Count, "Items that were closed.")
        };
        describe_histogram!(WAITS, Unit::Seconds, "How long those waited that got something.");
        Self {
            levels: [
                ("idle", "Items that are ready."),
                ("in_use", "Items that are held by guards."),
                ("opening", "Items that are being opened."),
                ("checking", "Ready items that are being looked at."),
                ("closing", "Items that are being closed, or are about to be."),
                ("waiting", "Callers that wait."),
            ]
            .map(level),
            counts: [
                ("opened", "Items that were opened."),
                ("open_failures", "Attempts to open one that failed."),
                ("acquired", "Items that were handed out."),
                ("waits", "Callers that had to wait."),
                ("timeouts", "Callers that got nothing in time."),
                ("cancelled", "Callers that gave up before that."),
            ]
            .map(count),
            closed: ["idle", "lifetime", "unhealthy", "poisoned", "stale", "used", "shutdown"]
                .map(closed),
            waits: histogram!(WAITS, labels.clone()),
            told: Vec::new(),
        }
    }

    /// Publishes what the pool has counted since the last time; of one and the same pool each time.
    pub fn publish(&mut self, stats: &PoolStats) {
        let PoolStats { idle, in_use, opening, checking, closing, waiting, .. } = *stats;
        for (level, value) in
            self.levels.iter_mut().zip([idle, in_use, opening, checking, closing, waiting])
        {
            level.publish(value as u64);
        }
        let PoolStats { opened, open_failures, acquired, waits, timeouts, cancelled, .. } = *stats;
        for (count, value) in self.counts.iter_mut().zip([
            opened,
            open_failures,
            acquired,
            waits,
            timeouts,
            cancelled,
        ]) {
            count.publish(value);
        }
        let ClosedCounts { idle, lifetime, unhealthy, poisoned, stale, used, shutdown } =
            stats.closed;
        for (count, value) in
            self.closed.iter_mut().zip([idle, lifetime, unhealthy, poisoned, stale, used, shutdown])
        {
            count.publish(value);
        }
        let longest = stats.wait_times.longest();
        for (bucket, (upper, waits)) in stats.wait_times.iter().enumerate() {
            if self.told.len() == bucket {
                self.told.push(0);
            }
            let new = waits.wrapping_sub(std::mem::replace(&mut self.told[bucket], waits));
            if new != 0 {
                let wait = upper.unwrap_or(longest).as_secs_f64();
                self.waits.record_many(wait, usize::try_from(new).unwrap_or(usize::MAX));
            }
        }
    }
}

impl Drop for PoolMetrics {
    fn drop(&mut self) {
        for level in &mut self.levels {
            level.publish(0);
        }
    }
}
