//! What recorders of the `metrics` facade are told: the library's own counters, once each.

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use ringbell::metrics::{ClientMetrics, PoolMetrics, ServerMetrics};
use ringbell::pool::Settings;
use ringbell::{AsyncClient, ConnectionPool, Server};
use ringbell_shm_tests::driver::runtime_of_one;
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, Process, Start, hear, say};
use ringbell_shm_tests::transport::over_socket;
use ringbell_shm_tests::{done, options, suite};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

suite! {
    both: [a_client_is_published_once, sessions_add_up, tasks_are_published, a_server_is_published],
    tests: [a_pool_is_published, nothing_is_told_to_nobody],
    roles: [server],
}

/// A recorder, for what is registered inside of `work`.
fn recorded<T>(work: impl FnOnce(&Snapshots) -> T) -> T {
    let recorder = DebuggingRecorder::new();
    let snapshots = Snapshots(recorder.snapshotter(), RefCell::default());
    metrics::with_local_recorder(&recorder, || work(&snapshots))
}

/// The recorder gives counters and gauges away with each look: what it gave before.
struct Snapshots(Snapshotter, RefCell<Seen>);

/// What was told of each metric; of histograms since the last look.
#[derive(Debug, Clone, Default)]
struct Seen {
    counters: BTreeMap<String, u64>,
    gauges: BTreeMap<String, f64>,
    histograms: BTreeMap<String, Vec<f64>>,
    described: usize,
}

impl Snapshots {
    fn look(&self) -> Seen {
        let mut seen = self.1.borrow_mut();
        seen.histograms.clear();
        seen.described = 0;
        for (key, unit, description, value) in self.0.snapshot().into_vec() {
            let key = key.key();
            let labels: Vec<_> =
                key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
            let name = format!("{}{{{}}}", key.name(), labels.join(","));
            seen.described += usize::from(unit.is_some() && description.is_some());
            match value {
                DebugValue::Counter(value) => *seen.counters.entry(name).or_default() += value,
                DebugValue::Gauge(value) => *seen.gauges.entry(name).or_default() += *value,
                DebugValue::Histogram(values) => {
                    drop(
                        seen.histograms
                            .insert(name, values.into_iter().map(|value| *value).collect()),
                    );
                }
            }
        }
        seen.clone()
    }
}

impl Seen {
    fn counter(&self, name: &str) -> u64 {
        self.counters[&format!("{name}{{app=test}}")]
    }

    fn gauge(&self, name: &str) -> f64 {
        self.gauges[&format!("{name}{{app=test}}")]
    }

    fn histogram(&self, name: &str) -> &[f64] {
        self.histograms.get(&format!("{name}{{app=test}}")).map_or(&[], |values| values)
    }
}

/// A server that publishes what it counts when it is told to.
fn server(arguments: &Arguments) {
    let server = Server::bind(arguments.text("path")).expect("bind");
    let handle = server.handle();
    let publishing = std::thread::spawn(move || {
        recorded(|snapshots| {
            let mut metrics = ServerMetrics::new(&[("app", "test")]);
            say("ready");
            while hear().as_deref() == Some("publish") {
                metrics.publish(&handle);
                let seen = snapshots.look();
                for (name, value) in &seen.counters {
                    say(&format!("{name} {value}"));
                }
                for (name, value) in &seen.gauges {
                    say(&format!("{name} {value}"));
                }
                say("end");
            }
            handle.shutdown(None);
        });
    });
    server
        .run(|request, response| {
            response.extend_from_slice(request.payload());
            Ok(())
        })
        .expect("serve");
    publishing.join().expect("published");
}

fn serving(path: &Path) -> Process {
    let mut server = Start::role("server").with("path", path.display()).start();
    server.expect("ready");
    server
}

/// What a server publishes now.
fn published(server: &mut Process) -> BTreeMap<String, f64> {
    server.tell("publish");
    let mut seen = BTreeMap::new();
    loop {
        let line = server.hear();
        let Some((name, value)) = line.split_once(' ') else { return seen };
        seen.insert(name.to_owned(), value.parse().expect("a number"));
    }
}

fn place() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("test.sock");
    (dir, path)
}

fn a_client_is_published_once() -> Ran {
    let (_dir, path) = place();
    let _server = serving(&path);
    let mut client = options().sample_calls(1).connect(&path).expect("connect");
    recorded(|snapshots| {
        let mut metrics = ClientMetrics::new(&[("app", "test")]);
        for _ in 0..20 {
            client.call(b"hello").expect("a call");
        }
        client.send(b"hello").expect("sent");
        metrics.publish(&mut client);
        let seen = snapshots.look();
        assert_eq!(seen.counter("ringbell_client_sent_total"), 21);
        assert_eq!(seen.counter("ringbell_client_bytes_sent_total"), 105);
        assert!((seen.gauge("ringbell_client_in_flight") - 1.0).abs() < 0.01);
        let timed = seen.histogram("ringbell_client_call_seconds");
        assert_eq!(timed.len(), if over_socket() { 0 } else { 20 });
        assert!(timed.iter().all(|took| (1e-8..60.0).contains(took)), "{timed:?}");
        assert!(seen.described >= 20, "{seen:?}");
        assert!(!format!("{seen:?}").contains("oldest"));
        let parks = client.stats().parks;
        assert_eq!(seen.counter("ringbell_client_parks_total"), parks);

        client.recv(None).expect("its answer");
        metrics.publish(&mut client);
        metrics.publish(&mut client);
        let seen = snapshots.look();
        assert_eq!(
            seen.counter("ringbell_client_sent_total"),
            21,
            "what was told is not told again"
        );
        assert_eq!(seen.counter("ringbell_client_received_total"), 21);
        assert!(seen.gauge("ringbell_client_in_flight").abs() < 0.01);
        let timed = seen.histogram("ringbell_client_call_seconds").len();
        assert_eq!(timed, usize::from(!over_socket()));
    });
    done!("21 calls")
}

fn sessions_add_up() -> Ran {
    let (_dir, path) = place();
    let _server = serving(&path);
    recorded(|snapshots| {
        let mut metrics = ClientMetrics::new(&[("app", "test")]);
        let mut other = ClientMetrics::new(&[("app", "test")]);
        for calls in [5, 3] {
            // One after the other, by one publisher.
            let mut client = options().connect(&path).expect("connect");
            for _ in 0..calls {
                client.call(b"hello").expect("a call");
            }
            metrics.publish(&mut client);
        }
        assert_eq!(snapshots.look().counter("ringbell_client_sent_total"), 8);
        let mut one = options().connect(&path).expect("connect");
        let mut two = options().connect(&path).expect("connect");
        for client in [&mut one, &mut two] {
            client.send(b"hello").expect("sent");
        }
        metrics.publish(&mut one);
        other.publish(&mut two);
        let seen = snapshots.look();
        assert_eq!(seen.counter("ringbell_client_sent_total"), 10);
        assert!((seen.gauge("ringbell_client_in_flight") - 2.0).abs() < 0.01);
        drop(other);
        let seen = snapshots.look();
        assert!(
            (seen.gauge("ringbell_client_in_flight") - 1.0).abs() < 0.01,
            "whose publisher is gone is gone"
        );
    });
    done!("4 sessions")
}

fn tasks_are_published() -> Ran {
    let (_dir, path) = place();
    let _server = serving(&path);
    recorded(|snapshots| {
        let mut metrics = ClientMetrics::new(&[("app", "test")]);
        runtime_of_one().block_on(async {
            let client: AsyncClient =
                options().sample_calls(2).connect_async(&path).await.expect("connect");
            for _ in 0..10 {
                client.call(b"hello").await.expect("a call");
            }
            metrics.publish_async(&client);
        });
        let seen = snapshots.look();
        assert_eq!(seen.counter("ringbell_client_sent_total"), 10);
        let timed = seen.histogram("ringbell_client_call_seconds").len();
        assert_eq!(timed, if over_socket() { 0 } else { 5 });
    });
    done!("10 calls")
}

fn a_server_is_published() -> Ran {
    let (_dir, path) = place();
    let mut server = serving(&path);
    let before = published(&mut server);
    assert!(before["ringbell_server_requests_total{app=test}"].abs() < 0.01);
    let mut client = options().connect(&path).expect("connect");
    for _ in 0..7 {
        client.call(b"hello").expect("a call");
    }
    let mut requests = 0.0;
    let mut sessions = 0.0;
    // Told at its next sleep.
    ringbell_shm_tests::wait_until("all requests are told", || {
        let seen = published(&mut server);
        requests = seen["ringbell_server_requests_total{app=test}"];
        sessions = seen["ringbell_server_sessions{app=test}"];
        requests >= 7.0
    });
    assert!((requests - 7.0).abs() < 0.01 && (sessions - 1.0_f64).abs() < 0.01);
    drop(client);
    ringbell_shm_tests::wait_until("the session is over", || {
        published(&mut server)["ringbell_server_sessions{app=test}"].abs() < 0.01
    });
    server.tell("stop");
    server.succeed();
    done!("7 requests")
}

fn a_pool_is_published() -> Ran {
    let (_dir, path) = place();
    let _server = serving(&path);
    recorded(|snapshots| {
        let mut metrics = PoolMetrics::new(&[("app", "test")]);
        let mut settings = Settings::default();
        (settings.min_idle, settings.max_size) = (0, 1);
        let pool = ConnectionPool::with_options(&path, options(), settings).expect("a pool");
        pool.call(b"hello").expect("a call");
        let held = pool.acquire().expect("a client");
        std::thread::scope(|scope| {
            scope.spawn(|| pool.call(b"hello").expect("a call"));
            ringbell_shm_tests::wait_until("it waits", || pool.stats().waiting == 1);
            metrics.publish(&pool.stats());
            let seen = snapshots.look();
            assert!((seen.gauge("ringbell_pool_waiting") - 1.0).abs() < 0.01);
            assert!((seen.gauge("ringbell_pool_in_use") - 1.0).abs() < 0.01);
            assert!(
                seen.histogram("ringbell_pool_wait_seconds").len() <= 1,
                "opening the first is a wait"
            );
            drop(held);
        });
        metrics.publish(&pool.stats());
        let stats = pool.stats();
        let seen = snapshots.look();
        assert!(seen.gauge("ringbell_pool_waiting").abs() < 0.01);
        assert_eq!(seen.counter("ringbell_pool_acquired_total"), 3);
        // What had to wait for the first connection to be opened was told before.
        assert_eq!(seen.histogram("ringbell_pool_wait_seconds").len(), 1);
        assert_eq!(seen.counter("ringbell_pool_waits_total"), stats.waits);
        pool.close(None).ok();
        metrics.publish(&pool.stats());
        let closed = &snapshots.look().counters;
        assert_eq!(closed["ringbell_pool_closed_total{app=test,reason=shutdown}"], 1);
    });
    done!("3 calls")
}

fn nothing_is_told_to_nobody() -> Ran {
    let (_dir, path) = place();
    let _server = serving(&path);
    let mut client = options().connect(&path).expect("connect");
    let mut metrics = ClientMetrics::new(&[("app", "test")]);
    client.call(b"hello").expect("a call");
    metrics.publish(&mut client);
    recorded(|snapshots| {
        client.call(b"hello").expect("a call");
        metrics.publish(&mut client);
        assert!(snapshots.look().counters.is_empty(), "registered before there was a recorder");
    });
    done!("2 calls")
}
