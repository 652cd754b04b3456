//! What a server holds for a client is bounded in bytes, by capacity (P2): requests that handlers
//! keep, answers that nobody reads, events, a backlog, answers that wait for their turn. Another
//! client does not notice.

use crate::{NO_TIME, SOON, without_rescue_options};
use ringbell::layout::{self, Kind, code, flag};
use ringbell::ring::Producer;
use ringbell::{
    AnswerOrder, CallError, Client, Executor, OwnedRequest, RecvError, Responder, SendError, Task,
};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::Arguments;
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::raw::{self, Session, SocketSession};
use ringbell_shm_tests::reactor_server::Pool;
use ringbell_shm_tests::server::{Server, serve_with};
use ringbell_shm_tests::transport::over_socket;
use ringbell_shm_tests::{done, observe, wait_until};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// What the server may have beside what is held: its threads' stacks and caches of the allocator.
const SLACK: u64 = 48 * MIB;

/// Fewer than a stream may have under way.
const ITEMS: u64 = 40;

/// What handlers keep, for as long as the test wants.
static KEPT: Mutex<Vec<(OwnedRequest, Option<Responder>)>> = Mutex::new(Vec::new());
/// Bytes that handlers took out of their requests.
static TAKEN: Mutex<Vec<(Vec<u8>, Responder)>> = Mutex::new(Vec::new());

fn number(bytes: &[u8]) -> usize {
    u32::from_le_bytes(bytes[1..5].try_into().expect("four bytes")) as usize
}

/// A server that does as the first byte says; sizes stand behind it.
///
/// | byte | what |
/// |---|---|
/// | `k` | keeps the request, unanswered |
/// | `K` | answers, and keeps the request |
/// | `t` | takes the bytes out of the request and keeps them, unanswered |
/// | `r` | drops what was kept |
/// | `R` | answers, and drops it a moment later, from another thread |
/// | `a` | answers with so many bytes, from another thread |
/// | `g` | keeps the request until `o`, which answers all of them like `a` |
/// | `v` | pushes events of so many bytes until one is refused, and answers how many went |
/// | `s` | a stream of small items without end |
/// | `i` | a stream of 40 items of so many bytes |
/// | else | answers at once |
pub(crate) fn keeps(arguments: &Arguments) {
    let pool = Pool::new(4);
    serve_with(arguments, |server| {
        server.run_reactor(move |request, responder| {
            let later = |work: Box<dyn FnOnce() + Send>| pool.execute(Task::new(work));
            let keep = |kept| KEPT.lock().expect("no panic").push(kept);
            match request.payload().first() {
                Some(b'k' | b'g') => keep((request, Some(responder))),
                Some(b'K') => later(Box::new(move || {
                    responder.reply(b"kept");
                    KEPT.lock().expect("no panic").push((request, None));
                })),
                Some(b't') => {
                    TAKEN.lock().expect("no panic").push((request.into_payload(), responder));
                }
                Some(b'r') => {
                    TAKEN.lock().expect("no panic").clear();
                    KEPT.lock().expect("no panic").clear();
                    responder.reply(b"");
                }
                Some(b'R') => {
                    responder.reply(b"");
                    later(Box::new(|| {
                        std::thread::sleep(Duration::from_millis(100));
                        KEPT.lock().expect("no panic").clear();
                    }));
                }
                Some(b'a') => later(Box::new(move || {
                    responder.reply(&vec![1; number(request.payload())]);
                })),
                Some(b'o') => {
                    for (request, responder) in KEPT.lock().expect("no panic").drain(..) {
                        let responder = responder.expect("unanswered");
                        later(Box::new(move || {
                            responder.reply(&vec![1; number(request.payload())]);
                        }));
                    }
                    responder.reply(b"");
                }
                Some(b'v') => later(Box::new(move || {
                    let event = vec![1; number(request.payload())];
                    let mut pushed = 0u64;
                    while request.session().push(&event).is_ok() {
                        pushed += 1;
                    }
                    responder.reply(&pushed.to_le_bytes());
                })),
                Some(b's') => later(Box::new(move || {
                    let mut stream = responder.stream();
                    while stream.send(b"item").is_ok() {}
                })),
                Some(b'i') => later(Box::new(move || {
                    let item = vec![1; number(request.payload())];
                    let mut stream = responder.stream();
                    if (0..ITEMS).all(|_| stream.send(&item).is_ok()) {
                        stream.end();
                    }
                })),
                _ => responder.reply(b"at once"),
            }
        })
    });
}

/// A server whose handler looks at requests in the reactor's own buffer, and answers how long they
/// are.
pub(crate) fn measures(arguments: &Arguments) {
    serve_with(arguments, |server| {
        server.run(|request, response| {
            response.extend_from_slice(&request.payload().len().to_le_bytes());
            Ok(())
        })
    });
}

fn asking(what: u8, size: u64) -> Vec<u8> {
    [&[what][..], &u32::try_from(size).expect("small").to_le_bytes()].concat()
}

/// Such a server, whose backstops rescue nobody, and one more client of it.
struct Keeping {
    server: Server,
    watcher: Client,
    /// The server's private memory before anything was held.
    before: u64,
}

impl Keeping {
    fn start(settings: &[(&str, u64)]) -> Self {
        let mut prepared = Server::prepare_role("keeps").with("wait", "patient");
        for (key, value) in settings {
            prepared = prepared.with(key, value);
        }
        let server = prepared.start();
        let mut watcher = connect(server.path());
        watcher.call_timeout(b"", Some(SOON)).expect("an answer");
        let before = observe::private_bytes(server.id());
        Self { server, watcher, before }
    }

    /// The other client is served, and the server has no more memory than it may.
    fn is_bounded(&mut self, most: u64) {
        tick();
        self.watcher.call_timeout(b"", Some(SOON)).expect("another client does not notice");
        let now = observe::private_bytes(self.server.id());
        assert!(now < self.before + most + SLACK, "{} bytes more", now - self.before);
    }

    fn tell(&mut self, what: &[u8]) {
        self.watcher.call_timeout(what, Some(SOON)).expect("an answer");
    }

    fn wait_for_in_flight(&mut self, requests: u64) {
        wait_until("so many are in flight", || self.server.stats().in_flight == requests);
    }

    /// All is given back once all clients but this are gone.
    fn finish(mut self) -> ringbell::ServerStats {
        self.server.wait_for_sessions(1);
        self.tell(b"r");
        wait_until("nothing is held", || {
            tick();
            // Flights that may be used again, of the one session that is left.
            self.server.stats().held_bytes < MIB
        });
        drop(self.watcher);
        self.server.shut_down()
    }
}

fn connect(path: &Path) -> Client {
    without_rescue_options().connect(path).expect("connect")
}

/// A client made by hand, which sends what it likes.
enum ByHand {
    Rings(Box<Session>, Producer),
    Socket(SocketSession),
}

impl ByHand {
    fn connect(path: &Path) -> Self {
        if over_socket() {
            return Self::Socket(SocketSession::open(path));
        }
        let session = Session::open(path, 65_536);
        let lines = session.request.own_lines(layout::CONTROL, 65_536);
        let tail = session.request.own_word(layout::offset::TAIL);
        let head = session.response.peer_word(layout::offset::HEAD);
        Self::Rings(Box::new(session), Producer::new(lines, tail, head, 0))
    }

    fn push(&mut self, kind: Kind, flags: u8, call: u64, body: &[u8]) {
        match self {
            Self::Socket(session) => {
                assert!(session.send(&raw::frame(kind, flags, 0, call, body)), "it is served");
            }
            Self::Rings(session, producer) => {
                let claim = loop {
                    match producer.try_claim(body.len()) {
                        Ok(claim) => break claim,
                        Err(ringbell::ring::ClaimError::Full) => {
                            session.ring();
                            std::thread::yield_now();
                        }
                        Err(error) => panic!("{error:?}"),
                    }
                };
                producer.write(&claim, 0, body);
                let length = u32::try_from(body.len()).expect("small");
                producer.commit(claim, layout::HeaderWord::new(kind, flags, 0, length), call);
                producer.zero_ahead();
                session.ring();
            }
        }
    }

    /// A one-way message whose deadline has passed, in fragments.
    fn push_late(&mut self, len: u64) {
        let mut left = usize::try_from(len).expect("small");
        let times = [len.to_le_bytes(), 1u64.to_le_bytes()].concat();
        let chunk = vec![7; 8000];
        left -= chunk.len();
        self.push(Kind::OneWay, flag::MORE | flag::DEADLINE, 0, &[times, chunk.clone()].concat());
        while left > 0 {
            let now = left.min(chunk.len());
            left -= now;
            let more = if left > 0 { flag::MORE } else { 0 };
            self.push(Kind::OneWay, flag::CONTINUED | more, 0, &chunk[..now]);
        }
    }
}

pub(crate) fn p2_a_small_request_holds_no_large_buffer() -> Ran {
    const ROUNDS: u64 = 40;
    let mut keeping = Keeping::start(&[]);
    let mut client = ByHand::connect(keeping.server.path());
    for call in 1..=ROUNDS {
        client.push_late(64 * MIB);
        client.push(Kind::Request, 0, call, b"k");
        tick();
    }
    keeping.wait_for_in_flight(ROUNDS);
    // One more large message may be held, whose memory is being freed.
    keeping.is_bounded(64 * MIB);
    let held = keeping.server.stats().held_bytes;
    // Of each its own small buffers, in a fixed size.
    assert!((ROUNDS * 8192..2 * MIB).contains(&held), "{held} bytes are held");
    drop(client);
    let stats = keeping.finish();
    assert_eq!((stats.expired, stats.held_refusals), (ROUNDS, 0));
    done!("{ROUNDS} requests of a byte behind 64 MiB each: {held} bytes held")
}

pub(crate) fn p2_a_quiet_server_gives_large_buffers_back() -> Ran {
    let large = 56 * MIB;
    let server = Server::prepare_role("measures").with("wait", "patient").start();
    let mut client = connect(server.path());
    client.call_timeout(b"small", Some(SOON)).expect("an answer");
    let before = observe::private_bytes(server.id());
    let message = vec![7; usize::try_from(large).expect("small")];
    let answer = client.call_timeout(&message, Some(SOON)).expect("an answer");
    assert_eq!(*answer, message.len().to_le_bytes());
    // Nothing else is sent, and no backstop wakes the server.
    wait_until("the buffer is freed", || observe::private_bytes(server.id()) < before + large / 2);
    done!("a buffer of {large} bytes was freed by a server to which nothing came")
}

pub(crate) fn p2_requests_that_handlers_keep_are_charged() -> Ran {
    let limit = 32 * MIB;
    let settings = [("max_held_bytes_per_client", limit), ("max_message", 2 * MIB)];
    let mut keeping = Keeping::start(&settings);
    let mut client = connect(keeping.server.path());
    let request = [&b"K"[..], &vec![1; 3 << 19]].concat();
    // Each is answered, and its bytes stay with the handler: at some time no more are read.
    let mut kept = 0;
    loop {
        match client.call_timeout(&request, Some(Duration::from_millis(500))) {
            Ok(_) => kept += 1,
            Err(CallError::TimedOut { .. }) if keeping.server.stats().held_stops > 0 => break,
            Err(CallError::TimedOut { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
        tick();
        assert!(kept < 100, "it goes on for ever");
    }
    keeping.is_bounded(limit);
    let held = keeping.server.stats().held_bytes;
    assert!(held > limit / 2 && held <= limit, "{held} bytes are held");
    // The bytes are given back by another session's request: the one that waits is read then.
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| client.call_timeout(&request, Some(SOON)).map(drop));
        // So that it waits, most likely. It is answered in any case.
        std::thread::sleep(Duration::from_millis(100));
        // From another thread, while the server sleeps.
        keeping.tell(b"R");
        waits.join().expect("no panic").expect("an answer");
    });
    drop(client);
    let stats = keeping.finish();
    assert_eq!(stats.held_refusals, 0);
    done!("{kept} requests of 1.5 MiB, {held} bytes held")
}

pub(crate) fn p2_bytes_that_handlers_take_are_charged() -> Ran {
    let limit = 32 * MIB;
    let settings = [("max_held_bytes_per_client", limit), ("max_message", 2 * MIB)];
    let mut keeping = Keeping::start(&settings);
    let mut client = connect(keeping.server.path());
    let request = [&b"t"[..], &vec![1; 3 << 19]].concat();
    let mut sent = 0;
    loop {
        match client.send_timeout(&request, Some(Duration::from_millis(500))) {
            Ok(_) => sent += 1,
            Err(SendError::TimedOut) if keeping.server.stats().held_stops > 0 => break,
            Err(SendError::TimedOut) => {}
            Err(error) => panic!("{error:?}"),
        }
        tick();
        assert!(sent < 100, "it goes on for ever");
    }
    keeping.is_bounded(limit);
    let held = keeping.server.stats().held_bytes;
    assert!(held > limit / 2 && held <= limit, "{held} bytes are held");
    drop(client);
    wait_until("all that it sent is answered", || {
        tick();
        keeping.tell(b"r");
        keeping.server.stats().sessions == 1
    });
    keeping.finish();
    done!("{sent} requests of 1.5 MiB, {held} bytes held")
}

pub(crate) fn p2_answers_that_nobody_reads_are_charged() -> Ran {
    const CALLS: u64 = 1024;
    let limit = 32 * MIB;
    let settings = [("max_held_bytes_per_client", limit), ("max_message", 2 * MIB)];
    let mut keeping = Keeping::start(&settings);
    let mut client = connect(keeping.server.path());
    for _ in 0..CALLS {
        client.send(&asking(b'g', MIB)).expect("send");
    }
    keeping.wait_for_in_flight(CALLS);
    keeping.tell(b"o");
    wait_until("all are answered", || {
        tick();
        let stats = keeping.server.stats();
        stats.in_flight == 0
    });
    keeping.is_bounded(limit);
    let held = keeping.server.stats().held_bytes;
    assert!(held <= limit + MIB, "{held} bytes are held");
    let (mut whole, mut refused) = (0, 0);
    for _ in 0..CALLS {
        match client.recv(Some(SOON)).expect("an answer").outcome {
            Ok(answer) => {
                assert_eq!(answer.payload().len() as u64, MIB);
                whole += 1;
            }
            Err(error) => {
                assert_eq!(error.code, code::EXHAUSTED, "{error:?}");
                refused += 1;
            }
        }
        tick();
    }
    assert_eq!(client.recv(NO_TIME).unwrap_err(), RecvError::NothingInFlight);
    assert!(whole >= limit / MIB / 2, "only {whole} of 1 MiB found room in {limit}");
    client.call_timeout(&asking(b'a', MIB), Some(SOON)).expect("the session goes on");
    drop(client);
    let stats = keeping.finish();
    assert_eq!((stats.held_refusals, stats.slow_clients), (refused, 0));
    done!("{whole} answers of 1 MiB, {refused} errors in the place of others")
}

pub(crate) fn p2_answers_before_their_turn_are_charged() -> Ran {
    const CALLS: u64 = 300;
    let limit = 32 * MIB;
    let settings = [("max_held_bytes_per_client", limit), ("max_message", 2 * MIB)];
    let mut keeping = Keeping::start(&settings);
    let mut client = without_rescue_options()
        .answer_order(AnswerOrder::Request)
        .connect(keeping.server.path())
        .expect("connect");
    let mut sent = vec![client.send(b"k").expect("send")];
    for _ in 1..CALLS {
        match client.send_timeout(&asking(b'a', MIB), Some(SOON)) {
            Ok(call) => sent.push(call),
            Err(error) => panic!("{error:?}"),
        }
    }
    wait_until("all that were read are answered, and kept", || {
        tick();
        let stats = keeping.server.stats();
        stats.stashed + 1 == stats.in_flight && (stats.in_flight == CALLS || stats.held_stops > 0)
    });
    keeping.is_bounded(limit);
    let held = keeping.server.stats().held_bytes;
    assert!(held <= limit + MIB, "{held} bytes are held");
    keeping.tell(b"r");
    let mut answers = Vec::new();
    while answers.len() < sent.len() {
        answers.push(client.recv(Some(SOON)).expect("an answer").call);
        tick();
    }
    assert_eq!(answers, sent);
    drop(client);
    keeping.finish();
    done!("{CALLS} answers of 1 MiB behind one that is not given, {held} bytes held")
}

pub(crate) fn p2_events_that_nobody_reads_are_charged() -> Ran {
    const SIZE: u64 = 200_000;
    let limit = 16 * MIB;
    let settings = [("max_held_bytes_per_client", limit), ("max_message", MIB)];
    let mut keeping = Keeping::start(&settings);
    let mut client =
        without_rescue_options().max_events(1024).connect(keeping.server.path()).expect("connect");
    client.send(&asking(b'v', SIZE)).expect("send");
    wait_until("one is refused", || {
        tick();
        keeping.server.stats().held_refusals >= 1
    });
    keeping.is_bounded(limit);
    keeping.wait_for_in_flight(0);
    let pushed = keeping.server.stats().events;
    assert!(pushed >= limit / SIZE / 2, "{pushed}");
    for _ in 0..pushed {
        assert_eq!(client.next_event(Some(SOON)).expect("an event").len() as u64, SIZE);
        tick();
    }
    let answer = client.recv(Some(SOON)).expect("an answer").outcome.expect("a response");
    assert_eq!(answer.payload(), pushed.to_le_bytes());
    drop(client);
    keeping.finish();
    done!("{pushed} events of {SIZE} bytes in {limit}")
}

pub(crate) fn p2_items_that_nobody_reads_are_charged() -> Ran {
    let limit = 16 * MIB;
    let settings = [("max_held_bytes_per_client", limit), ("max_message", 2 * MIB)];
    let mut keeping = Keeping::start(&settings);
    let mut client = connect(keeping.server.path());
    let stream = client.open_stream(&asking(b'i', MIB), None).expect("send");
    wait_until("there is no room for one more", || {
        tick();
        keeping.server.stats().held_bytes > limit - 2 * MIB
    });
    // Time for more of them, if they were let through.
    std::thread::sleep(Duration::from_millis(200));
    keeping.is_bounded(limit);
    let held = keeping.server.stats().held_bytes;
    assert!(held <= limit + MIB, "{held} bytes are held");
    let (mut item, mut items) = (Vec::new(), 0);
    while client.next_item(stream, &mut item, Some(SOON)).expect("an item or the end") {
        assert_eq!(item.len() as u64, MIB);
        items += 1;
        tick();
    }
    assert_eq!(items, ITEMS);
    drop(client);
    let stats = keeping.finish();
    assert_eq!((stats.stalled_streams, stats.held_refusals), (0, 0));
    done!("{items} items of 1 MiB, {held} bytes held")
}

/// What is unsent, and a frame of which a part has come. Over the socket whatever other tests use.
pub(crate) fn p2_buffers_of_a_socket_are_charged() -> Ran {
    const CLIENTS: u64 = 20;
    const ANSWER: u64 = 50_000;
    let mut keeping = Keeping::start(&[("max_message", MIB)]);
    let sessions: Vec<_> =
        (0..CLIENTS).map(|_| SocketSession::open(keeping.server.path())).collect();
    for session in &sessions {
        for call in 1..=8 {
            session.request(call, &asking(b'a', ANSWER));
        }
        // The rest of it never comes.
        let frame = raw::frame(Kind::Request, 0, 0, 9, &[0; 60_000]);
        assert!(session.send(&frame[..100]), "it is served");
    }
    // Of each: what the kernel does not take of 400 kB, and a whole frame.
    wait_until("all is answered, and charged", || {
        tick();
        let stats = keeping.server.stats();
        stats.in_flight == 0 && stats.held_bytes > CLIENTS * (60_000 + 100_000)
    });
    let held = keeping.server.stats().held_bytes;
    keeping.is_bounded(held);
    drop(sessions);
    keeping.finish();
    done!("{held} bytes of {CLIENTS} clients")
}

pub(crate) fn p2_a_backlog_behind_a_stream_is_charged() -> Ran {
    const SIZE: usize = 100_000;
    let limit = 16 * MIB;
    let settings =
        [("max_held_bytes_per_client", limit), ("max_message", MIB), ("max_in_flight", 1)];
    let mut keeping = Keeping::start(&settings);
    let mut client = connect(keeping.server.path());
    let stream = client.open_stream(b"s", None).expect("send");
    assert_eq!(client.next_item(stream, &mut Vec::new(), Some(SOON)), Ok(true));
    let message = vec![0; SIZE];
    let mut sent = 0u64;
    loop {
        match client.send_one_way(&message, Some(Duration::from_millis(500))) {
            Ok(()) => sent += 1,
            Err(SendError::TimedOut) if keeping.server.stats().held_stops > 0 => break,
            Err(SendError::TimedOut) => {}
            Err(error) => panic!("{error:?}"),
        }
        tick();
        assert!(sent < 1000, "it goes on for ever");
    }
    keeping.is_bounded(limit);
    let held = keeping.server.stats().held_bytes;
    assert!(held <= limit + MIB, "{held} bytes are held");
    assert!(sent * SIZE as u64 > limit / 2, "only {sent} found room");
    // Stands behind all that; the stream ends when the session does.
    drop(client);
    let stats = keeping.finish();
    done!("{sent} messages of {SIZE} bytes, {held} bytes held, {} run", stats.requests)
}

pub(crate) fn p2_clients_of_one_uid_are_charged_together() -> Ran {
    let limit = 32 * MIB;
    let settings = [("max_held_bytes_per_uid", limit), ("max_message", 2 * MIB)];
    let mut keeping = Keeping::start(&settings);
    let mut clients: Vec<Client> = (0..3).map(|_| connect(keeping.server.path())).collect();
    let request = [&b"k"[..], &vec![1; 1 << 20]].concat();
    // Half of it is for requests.
    let mut round = 0;
    wait_until("no more are read", || {
        tick();
        round += 1;
        match clients[round % 3].send_timeout(&request, Some(Duration::from_millis(200))) {
            Ok(_) | Err(SendError::TimedOut) => {}
            Err(error) => panic!("{error:?}"),
        }
        keeping.server.stats().held_stops >= 1
    });
    // Even of this uid.
    keeping.is_bounded(limit);
    let held = keeping.server.stats().held_bytes;
    assert!(held <= limit, "{held} bytes are held");
    drop(clients);
    // What they sent before they went is handled as bytes come back.
    wait_until("their sessions are over", || {
        tick();
        keeping.tell(b"r");
        keeping.server.stats().sessions == 1
    });
    let stats = keeping.finish();
    done!("{held} bytes held, {} stops", stats.held_stops)
}
