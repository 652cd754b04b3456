//! A server in a process of its own.
//!
//! The role prints `ready` when it listens and then obeys lines: `stats`, `shutdown MS`, `open
//! GATE`. It shuts down when its test hangs up.

use crate::driver::Driver;
use crate::pattern::{Chance, Pattern, Way};
use crate::process::{Arguments, PATIENCE, Process, Start, hear, say};
use crate::reactor_server::{Pool, Reacting, State, open_gate, pass_gate, react};
use crate::signals;
use crate::waiting::{busy_for, wait_until};
use ringbell::{HandlerError, Request, ServeError, ServerHandle, ServerStats, WaitSettings};
use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Names the driver of servers that are not told.
const DRIVER: &str = "RINGBELL_TEST_DRIVER";

/// A server that is to be started.
#[derive(Debug)]
#[must_use = "nothing is started before `start`"]
pub struct Prepared {
    start: Start,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Own(tempfile::TempDir),
    Of(PathBuf),
}

impl Place {
    fn socket(&self) -> PathBuf {
        match self {
            Self::Own(dir) => dir.path().join("test.sock"),
            Self::Of(path) => path.clone(),
        }
    }
}

impl Prepared {
    /// Sets an option of the role; see [`serve`].
    pub fn with(mut self, key: &str, value: impl std::fmt::Display) -> Self {
        self.start = self.start.with(key, value);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, key: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.start = self.start.env(key, value);
        self
    }

    /// Has it listen at a path that the caller keeps.
    pub fn at(mut self, path: &Path) -> Self {
        self.place = Place::Of(path.to_owned());
        self
    }

    /// Starts it, and waits until it listens.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(self) -> Server {
        let socket = self.place.socket();
        let mut process = self.start.with("path", socket.display()).start();
        process.expect("ready");
        Server { process, socket, _place: self.place }
    }
}

/// A server in a process of its own. Dropping it kills it.
#[derive(Debug)]
pub struct Server {
    process: Process,
    socket: PathBuf,
    _place: Place,
}

impl Server {
    /// A server whose handler is `handler`, at a path of its own.
    ///
    /// # Panics
    /// If there is no place for its socket.
    pub fn prepare(handler: &str) -> Prepared {
        let place = Place::Own(tempfile::tempdir().expect("a directory"));
        Prepared { start: Start::role("server").with("handler", handler), place }
    }

    /// The same at a path that the caller keeps.
    pub fn prepare_at(path: &Path, handler: &str) -> Prepared {
        Prepared { start: Start::role("server"), place: Place::Of(path.to_owned()) }
            .with("handler", handler)
    }

    /// A server whose role is one of the test program's, which calls [`serve_with`]; at a path of
    /// its own.
    ///
    /// # Panics
    /// If there is no place for its socket.
    pub fn prepare_role(role: &str) -> Prepared {
        let place = Place::Own(tempfile::tempdir().expect("a directory"));
        Prepared { start: Start::role(role), place }
    }

    /// The same under another program, such as a tracer.
    ///
    /// # Panics
    /// If there is no place for its socket.
    pub fn prepare_under(program: &str, arguments: &[&str], handler: &str) -> Prepared {
        let place = Place::Own(tempfile::tempdir().expect("a directory"));
        Prepared {
            start: Start::role_under(program, arguments, "server").with("handler", handler),
            place,
        }
    }

    /// The same at a path that the caller keeps.
    pub fn prepare_under_at(
        path: &Path,
        program: &str,
        arguments: &[&str],
        handler: &str,
    ) -> Prepared {
        let start = Start::role_under(program, arguments, "server").with("handler", handler);
        Prepared { start, place: Place::Of(path.to_owned()) }
    }

    /// A server that checks every request, with default settings.
    #[must_use]
    pub fn verifying() -> Self {
        Self::prepare("verify").start()
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.socket
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What it counted so far.
    ///
    /// # Panics
    /// If it does not tell.
    pub fn stats(&mut self) -> ServerStats {
        self.process.tell("stats");
        parse(&self.process.expect("stats"))
    }

    /// Waits until so many sessions are open.
    ///
    /// # Panics
    /// If that does not come.
    pub fn wait_for_sessions(&mut self, sessions: u64) {
        wait_until(&format!("{sessions} sessions are open"), || self.stats().sessions == sessions);
    }

    /// Shuts it down; what it counted.
    ///
    /// # Panics
    /// If it complains of what it was sent, lost a wake, or does not end well.
    pub fn shut_down(mut self) -> ServerStats {
        self.process.tell("shutdown 1000");
        self.ended()
    }

    /// Waits for its end, of which it has been told; what it counted.
    ///
    /// # Panics
    /// As [`Self::shut_down`].
    pub fn ended(&mut self) -> ServerStats {
        let complaints = self.process.expect("complaints");
        assert_eq!(complaints, "0", "the server complains\n{}", self.process.diagnose());
        let stats = parse(&self.process.expect("done"));
        self.process.succeed();
        assert_eq!(stats.backstop_rescues, 0, "the server lost wakes: {stats:?}");
        stats
    }
}

fn parse(text: &str) -> ServerStats {
    let values: Vec<u64> = text.split(' ').map(|value| value.parse().expect("numbers")).collect();
    ServerStats::read(|index| {
        let at = ServerStats::FIELDS
            .iter()
            .position(|(_, field)| *field == index)
            .expect("a known counter");
        values[at]
    })
}

fn tell_stats(word: &str, stats: &ServerStats) {
    let values: Vec<String> = stats.iter().map(|(_, value)| value.to_string()).collect();
    say(&format!("{word} {}", values.join(" ")));
}

/// Waiting settings by name: `default`, `park` at once, `spin` and `yield` for long, and `patient`,
/// which never looks by itself before a test gives up: a lost wake hangs.
///
/// # Panics
/// If there is no such name.
#[must_use]
pub fn waiting(name: &str, default: WaitSettings) -> WaitSettings {
    let mut settings = default;
    match name {
        "default" => {}
        "park" => settings = settings.park_at_once(),
        "spin" => {
            settings.spin_polls = 200_000;
            settings.crowded_spin_polls = 200_000;
            settings.futile_spins = u32::MAX;
            settings.turn_every = 0;
        }
        "yield" => {
            settings.spin_polls = 0;
            settings.crowded_spin_polls = 0;
            settings.yield_for = Duration::from_millis(20);
            settings.yield_for_least = Duration::from_millis(20);
        }
        "patient" => {
            settings.first_look = 2 * PATIENCE;
            settings.backstop = 2 * PATIENCE;
        }
        name => panic!("no waiting settings {name}"),
    }
    settings
}

/// The role. Options, all but `path` and `handler` optional:
///
/// | key | what |
/// |---|---|
/// | `path` | the socket |
/// | `handler` | `verify` ([`Verifier`]), `do` ([`obey`]) or `react` ([`react`]) |
/// | `ring_capacity`, `max_message`, `max_clients`, `max_handshakes`, `max_queued_answers`, `max_held_bytes`, `max_held_bytes_per_client`, `max_held_bytes_per_uid`, `max_bytes_per_client`, `max_bytes_per_uid` | as in `ServerBuilder` |
/// | `max_in_flight`, `max_queued_events`, `sample_calls`, `max_clients_per_uid`, `max_handshakes_per_uid`, `max_ring_bytes` | the same |
/// | `handshake_ms`, `slow_client_ms`, `stream_stall_ms` | its times; the latter two may be `never` |
/// | `wait` | see [`waiting`] |
/// | `isolation` | `uid` or `session` |
/// | `fallback` | `off`: the socket is not offered as transport |
/// | `mode` | of the socket, decimal |
/// | `anyone` | any value: clients of any uid |
/// | `uids` | clients of these, with commas between |
/// | `ledger` | a file to which the sender and number of each verified request is appended |
/// | `sigterm` | any value: SIGTERM shuts down |
/// | `storm_us` | a signal every so many microseconds |
/// | `dawdle_us` | the verifier takes up to so long over a request |
/// | `ordered` | any value: answers in the order of the requests |
/// | `driver` | how `react` is driven, see [`Driver`]; or the environment variable `RINGBELL_TEST_DRIVER` |
/// | `workers` | threads of `react`, 8 unless said otherwise |
/// | `pool` | `react` runs on an executor of so many threads, instead of the reactor's thread |
/// | `inline` | on such an executor: `never`, `short` or `measured` |
/// | `sigpipe` | any value: SIGPIPE kills, as it does in programs that are not Rust's |
///
/// # Panics
/// If it cannot serve.
pub fn serve(arguments: &Arguments) {
    let server = bind(arguments);
    let (stats, complaints) = match arguments.text("handler") {
        "verify" => verify(arguments, server),
        "do" => {
            let mut handled = 0;
            let stats = server.run(move |request, response| {
                handled += 1;
                obey(request, handled, response)
            });
            (stats, 0)
        }
        "react" => serve_reacting(arguments, server),
        other => panic!("no handler {other}"),
    };
    tell_the_end(stats, complaints);
}

/// A role that serves by `run`, with the options of [`serve`] that are about settings.
///
/// # Panics
/// If it cannot serve.
pub fn serve_with(
    arguments: &Arguments,
    run: impl FnOnce(ringbell::Server) -> Result<ServerStats, ServeError>,
) {
    let server = bind(arguments);
    tell_the_end(run(server), 0);
}

fn bind(arguments: &Arguments) -> ringbell::Server {
    let mut builder = ringbell::Server::builder();
    macro_rules! numbers {
        ($($name:ident),*) => {$(
            if let Some(value) = arguments.maybe_number(stringify!($name)) {
                builder = builder.$name(value.try_into().expect("in range"));
            }
        )*};
    }
    numbers!(
        ring_capacity,
        max_message,
        max_clients,
        max_handshakes,
        max_queued_answers,
        max_held_bytes
    );
    numbers!(max_bytes_per_client, max_bytes_per_uid, max_in_flight);
    numbers!(max_held_bytes_per_client, max_held_bytes_per_uid, max_queued_events, sample_calls);
    numbers!(max_clients_per_uid, max_handshakes_per_uid, max_ring_bytes);
    if let Some(mode) = arguments.maybe_number("mode") {
        builder = builder.socket_mode(mode.try_into().expect("a mode"));
    }
    if let Some(ms) = arguments.maybe_number("handshake_ms") {
        builder = builder.handshake_timeout(Duration::from_millis(ms));
    }
    let limit = |name| match arguments.get(name) {
        None => None,
        Some("never") => Some(None),
        Some(_) => Some(Some(Duration::from_millis(arguments.number(name)))),
    };
    if let Some(limit) = limit("slow_client_ms") {
        builder = builder.slow_client_timeout(limit);
    }
    // Where a test says nothing, longer than it runs: on a crowded machine its clients may pause.
    let stall = limit("stream_stall_ms").unwrap_or(Some(2 * PATIENCE));
    builder = builder.stream_stall_timeout(stall);
    if let Some(name) = arguments.get("wait") {
        builder = builder.wait(waiting(name, WaitSettings::server()));
    }
    match arguments.get("isolation") {
        Some("session") => builder = builder.isolation(ringbell::Isolation::Session),
        Some("uid") | None => {}
        Some(other) => panic!("no isolation {other}"),
    }
    if arguments.get("fallback") == Some("off") {
        builder = builder.fallback(false);
    }
    if arguments.get("shared_memory") == Some("off") {
        builder = builder.shared_memory(false);
    }
    if arguments.get("ordered").is_some() {
        builder = builder.answer_order(ringbell::AnswerOrder::Request);
    }
    match arguments.get("inline") {
        Some("short") => builder = builder.inline(ringbell::Inline::Short),
        Some("measured") => builder = builder.inline(ringbell::Inline::Measured),
        Some("never") | None => {}
        Some(other) => panic!("not inline: {other}"),
    }
    if arguments.get("anyone").is_some() {
        builder = builder.credentials(ringbell::Credentials::Anyone);
    }
    if let Some(uids) = arguments.get("uids") {
        let uids = uids.split(',').map(|uid| uid.parse().expect("a uid")).collect();
        builder = builder.credentials(ringbell::Credentials::Uids(uids));
    }
    let server =
        builder.bind(arguments.text("path")).unwrap_or_else(|error| panic!("cannot bind: {error}"));
    let handle = server.handle();
    if arguments.get("sigterm").is_some() {
        signals::shut_down_on_sigterm(handle.clone());
    }
    if arguments.get("sigpipe").is_some() {
        signals::die_of_sigpipe();
    }
    if let Some(us) = arguments.maybe_number("storm_us") {
        signals::count(libc::SIGALRM);
        signals::storm(Duration::from_micros(us));
    }
    std::thread::spawn(move || control(&handle));
    say("ready");
    server
}

fn tell_the_end(stats: Result<ServerStats, ServeError>, complaints: u64) {
    let stats = stats.unwrap_or_else(|error| panic!("cannot serve: {error}"));
    say(&format!("complaints {complaints}"));
    tell_stats("done", &stats);
}

type Ended = (Result<ServerStats, ServeError>, u64);

fn verify(arguments: &Arguments, server: ringbell::Server) -> Ended {
    let mut verifier = Verifier::new(arguments.get("ledger"));
    verifier.dawdle = arguments.maybe_number("dawdle_us").unwrap_or(0);
    let stats = server.run_with(Lent(&mut verifier));
    let mut complaints = verifier.complaints;
    if let Ok(stats) = &stats {
        // Each session that was accepted has been closed, the last ones by the shutdown.
        complaints += stats.accepted.abs_diff(verifier.closed.len() as u64);
    }
    (stats, complaints)
}

fn serve_reacting(arguments: &Arguments, server: ringbell::Server) -> Ended {
    let state = State::new(arguments.maybe_number("workers").unwrap_or(8));
    if let Some(threads) = arguments.maybe_number("pool") {
        let of = state.clone();
        let stats = server.run_on(Pool::new(threads), move |request, responder| {
            react(&of, request, responder);
        });
        return (stats, state.complaints());
    }
    let driver = arguments.get("driver").map(str::to_owned).or(std::env::var(DRIVER).ok());
    let driver = driver.map_or(Driver::Thread, |name| Driver::named(&name));
    let stats =
        driver.serve(server, Reacting { state: state.clone(), in_tasks: driver.in_tasks() });
    let complaints = stats.as_ref().map_or(1, |stats| state.close(stats.accepted));
    (stats, complaints)
}

fn control(handle: &ServerHandle) {
    while let Some(line) = hear() {
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("stats", _) => tell_stats("stats", &handle.stats()),
            ("shutdown", ms) => handle.shutdown(ms.parse().ok().map(Duration::from_millis)),
            ("open", gate) => open_gate(gate.parse().expect("a gate")),
            other => panic!("not understood: {other:?}"),
        }
    }
    handle.shutdown(Some(Duration::ZERO));
}

/// Checks that each session sends what it announced, in order, each message once and whole; answers
/// what the client expects.
#[derive(Debug)]
pub struct Verifier {
    sessions: HashMap<u64, (Pattern, u64)>,
    closed: HashSet<u64>,
    ledger: Option<std::fs::File>,
    complaints: u64,
    /// Takes up to so many us over a request.
    dawdle: u64,
    chance: Chance,
}

struct Lent<'a>(&'a mut Verifier);

impl ringbell::Handler for Lent<'_> {
    fn request(
        &mut self,
        request: Request<'_>,
        response: &mut Vec<u8>,
    ) -> Result<(), HandlerError> {
        self.0.handle(request, response)
    }

    fn closed(&mut self, session: &ringbell::Session) {
        self.0.close(session.id());
    }
}

impl Verifier {
    /// A verifier that writes what it has executed to `ledger`.
    ///
    /// # Panics
    /// If the ledger cannot be opened.
    #[must_use]
    pub fn new(ledger: Option<&str>) -> Self {
        let open = |path| {
            std::fs::OpenOptions::new().append(true).create(true).open(path).expect("a ledger")
        };
        Self {
            sessions: HashMap::new(),
            closed: HashSet::new(),
            ledger: ledger.map(open),
            complaints: 0,
            dawdle: 0,
            chance: Chance::new(1),
        }
    }

    /// How many requests were wrong.
    #[must_use]
    pub fn complaints(&self) -> u64 {
        self.complaints
    }

    /// A session is over, which must be said once.
    pub fn close(&mut self, session: u64) {
        self.sessions.remove(&session);
        if !self.closed.insert(session) {
            eprintln!("session {session} was closed twice");
            self.complaints += 1;
        }
    }

    /// Handles a request.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn handle(
        &mut self,
        request: Request<'_>,
        response: &mut Vec<u8>,
    ) -> Result<(), HandlerError> {
        let bytes = request.payload();
        if self.closed.contains(&request.session().id()) {
            eprintln!("a request of session {}, which is closed", request.session().id());
            self.complaints += 1;
        }
        let Some((pattern, next)) = self.sessions.get_mut(&request.session().id()) else {
            let Some(pattern) = Pattern::from_opening(bytes) else {
                // No complaint: hostile peers say anything, and an honest client takes the error
                // amiss.
                return Err(format!(
                    "a session begins with {} bytes that are no opening",
                    bytes.len()
                )
                .into());
            };
            self.sessions.insert(request.session().id(), (pattern, 0));
            response.extend_from_slice(bytes);
            return Ok(());
        };
        let seq = *next;
        *next += 1;
        if let Err(mismatch) = pattern.check(seq, Way::Request, bytes) {
            self.complaints += 1;
            eprintln!("session {}: {}", request.session().id(), mismatch.0);
            return Err(mismatch.0.into());
        }
        if let Some(ledger) = &mut self.ledger {
            let entry = [pattern.sender.to_le_bytes(), seq.to_le_bytes()].concat();
            ledger.write_all(&entry).expect("the ledger takes it");
        }
        pattern.fill(seq, Way::Response, response);
        if self.dawdle != 0 {
            busy_for(Duration::from_nanos(self.chance.below(self.dawdle * 1000)));
        }
        Ok(())
    }
}

/// What a ledger says: sender and number of each request that was executed, in order.
///
/// # Panics
/// If it is torn.
#[must_use]
pub fn read_ledger(path: &Path) -> Vec<(u64, u64)> {
    let bytes = std::fs::read(path).unwrap_or_default();
    assert!(bytes.len().is_multiple_of(16), "entries are appended whole");
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    bytes.chunks(16).map(|entry| (word(&entry[..8]), word(&entry[8..]))).collect()
}

/// Does what the request says. Its first byte is a verb:
///
/// | verb | what |
/// |---|---|
/// | none | answers nothing, in an empty answer |
/// | `e` | answers the rest |
/// | `n` | answers how many requests were handled, u64 |
/// | `l` | answers so many zeros, u64 |
/// | `x` | an error: code u16, and the rest as its text |
/// | `p` | panics with the rest |
/// | `s` | sleeps so many ms, u64, then answers the rest |
/// | `g` | passes the gate, u64, then answers the rest |
/// | `w` | answers who asks: session, pid, uid and name, with spaces between |
///
/// # Errors
/// If told so, and if there is no such verb.
///
/// # Panics
/// If told so.
pub fn obey(
    request: Request<'_>,
    handled: u64,
    response: &mut Vec<u8>,
) -> Result<(), HandlerError> {
    let Some((verb, rest)) = request.payload().split_first() else { return Ok(()) };
    let number =
        || rest.get(..8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes")));
    match (verb, number()) {
        (b'e', _) => response.extend_from_slice(rest),
        (b'n', _) => response.extend_from_slice(&handled.to_le_bytes()),
        (b'l', Some(len)) => response.resize(usize::try_from(len).expect("64 bits"), 0),
        (b'x', _) if rest.len() >= 2 => {
            let text = String::from_utf8_lossy(&rest[2..]).into_owned();
            return Err(HandlerError::new(u16::from_le_bytes([rest[0], rest[1]]), text));
        }
        (b'p', _) => panic!("{}", String::from_utf8_lossy(rest)),
        (b's', Some(ms)) => {
            std::thread::sleep(Duration::from_millis(ms));
            response.extend_from_slice(&rest[8..]);
        }
        (b'g', Some(gate)) => {
            pass_gate(gate);
            response.extend_from_slice(&rest[8..]);
        }
        (b'w', _) => {
            let session = request.session();
            let who =
                format!("{} {} {} {}", session.id(), session.pid(), session.uid(), session.name());
            response.extend_from_slice(who.as_bytes());
        }
        _ => return Err("no such verb".into()),
    }
    Ok(())
}
