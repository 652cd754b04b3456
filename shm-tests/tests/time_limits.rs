//! Waits that a client could make as long as it likes: a shutdown while it leaves answers unread,
//! threads that wait for it to take items of a stream.

use ringbell::layout::{Kind, STREAM_WINDOW, code};
use ringbell::{
    Arming, CallError, Client, EventError, OwnedRequest, RecvError, Responder, SendError,
    StreamError, Turn,
};
use ringbell_shm_tests::driver::{Driver, runtime_of_one, runtime_of_two};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::raw::{SocketSession, frame};
use ringbell_shm_tests::reactor_client::Asking;
use ringbell_shm_tests::reactor_requests::{Count, StreamEnd, ask, stream_of};
use ringbell_shm_tests::server::{Prepared, Server};
use ringbell_shm_tests::transport::over_socket;
use ringbell_shm_tests::{done, options, suite, wait_until};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionread;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::time::{Duration, Instant};

suite! {
    both: [
        c8_unread_answers_do_not_hold_up_a_shutdown,
        c8_nor_do_they_without_a_limit,
        c8_unread_answers_end_a_session,
        c8_unread_streams_do_not_hold_up_a_shutdown,
        c8_nor_do_streams_that_are_read_slowly,
        c5_streams_that_nobody_reads_keep_a_pool_for_a_while_only,
        c5_many_of_them_keep_it_hardly_longer,
        c5_a_stream_may_stall_for_ever_if_that_is_asked_for,
        c5_async_producers_are_told,
        c5_a_slow_reader_keeps_its_stream,
        c9_a_handler_that_calls_its_own_server_is_told,
        c9_a_handler_on_a_pool_may_call_its_own_server,
    ],
    tests: [
        c8_nor_do_answers_that_are_read_a_byte_at_a_time,
        c8_answers_that_are_read_slowly_all_arrive,
        c8_a_server_that_never_sleeps_keeps_the_time,
    ],
    roles: [],
}

/// Longer than any limit that a test sets.
const SOON: Duration = Duration::from_secs(25);
/// A limit.
const LIMIT: Duration = Duration::from_millis(300);
/// More than a ring of 64 KiB or a socket's buffer takes, less than that and what is kept for a
/// socket before answers are queued.
const ANSWERS: u64 = 12;
const ANSWER: u64 = 30_000;

fn drivers() -> impl Iterator<Item = Driver> {
    [Driver::Thread].into_iter().chain(Driver::WITHOUT_THREAD)
}

fn reacting(driver: Driver) -> Prepared {
    Server::prepare("react").with("driver", driver.name())
}

fn connect(server: &Server) -> Asking {
    Asking::connect(server.path(), options())
}

/// A client that asks for answers, which are complete, and reads none.
fn leave_answers(server: &mut Server, answers: u64) -> Asking {
    let mut client = connect(server);
    for _ in 0..answers {
        client.send(b'z', ANSWER, b"", Some(SOON)).expect("send");
    }
    wait_until("all are answered", || server.stats().requests >= answers);
    client
}

fn code_of(error: &CallError) -> u16 {
    match error {
        CallError::Remote(error) => error.code,
        error => panic!("{error:?}"),
    }
}

/// Has all of them shut down without a limit, and waits for the ends.
fn all_end(servers: &mut [Server]) {
    for server in servers.iter_mut() {
        server.process().tell("shutdown");
    }
    for server in servers {
        server.ended();
        tick();
    }
}

fn c8_unread_answers_do_not_hold_up_a_shutdown() -> Ran {
    let (mut servers, mut clients) = (Vec::new(), Vec::new());
    for driver in drivers() {
        let mut server = reacting(driver).with("slow_client_ms", LIMIT.as_millis()).start();
        clients.push(leave_answers(&mut server, ANSWERS));
        servers.push(server);
    }
    // By a serial handler, too.
    let serial = Server::prepare("do").with("slow_client_ms", LIMIT.as_millis()).start();
    let mut client = options().connect(serial.path()).expect("connect");
    for _ in 0..ANSWERS {
        client.send(&[&b"l"[..], &ANSWER.to_le_bytes()].concat()).expect("send");
    }
    servers.push(serial);
    all_end(&mut servers);
    done!("{} servers, by {LIMIT:?}", servers.len())
}

fn c8_nor_do_they_without_a_limit() -> Ran {
    let (mut servers, mut clients) = (Vec::new(), Vec::new());
    for driver in drivers() {
        let mut server = reacting(driver).with("slow_client_ms", "never").start();
        clients.push(leave_answers(&mut server, ANSWERS));
        servers.push(server);
    }
    all_end(&mut servers);
    done!("{} servers", servers.len())
}

/// While the server goes on: what is unsent counts as what is queued does.
fn c8_unread_answers_end_a_session() -> Ran {
    for driver in drivers() {
        let mut server = reacting(driver)
            .with("slow_client_ms", LIMIT.as_millis())
            .with("wait", "patient")
            .start();
        let mut other = connect(&server);
        let lazy = leave_answers(&mut server, ANSWERS);
        server.wait_for_sessions(1);
        other.echoes(b'e', 0, b"");
        // Who leaves only what a ring or the socket's buffer takes is not slow.
        let small = leave_answers(&mut server, 1);
        std::thread::sleep(2 * LIMIT);
        other.echoes(b'e', 0, b"");
        let stats = server.shut_down();
        assert_eq!((stats.slow_clients, stats.hung_up), (1, 0), "{stats:?}");
        drop((lazy, small));
        tick();
    }
    done!("by {LIMIT:?}, each")
}

fn c8_nor_do_answers_that_are_read_a_byte_at_a_time() -> Ran {
    let mut servers = Vec::new();
    let mut readers = Vec::new();
    for driver in [Driver::Thread, Driver::Loop] {
        let server = reacting(driver).with("slow_client_ms", LIMIT.as_millis()).start();
        let session = SocketSession::open(server.path());
        let mut request = vec![b'z'];
        request.extend_from_slice(&0u64.to_le_bytes());
        request.extend_from_slice(&40_000_000u64.to_le_bytes());
        assert!(session.send(&frame(Kind::Request, 0, 0, 1, &request)));
        readers.push(std::thread::spawn(move || {
            // A minute and more for all of it; never a pause that is too long.
            let mut some = [0; 30_000];
            let mut read = 0;
            while let Ok(count @ 1..) = (&session.stream).read(&mut some) {
                read += count;
                std::thread::sleep(LIMIT / 6);
            }
            read
        }));
        servers.push(server);
    }
    for server in &mut servers {
        wait_until("it is answered", || server.stats().requests == 1);
    }
    all_end(&mut servers);
    let read: Vec<_> = readers.into_iter().map(|reader| reader.join().expect("a reader")).collect();
    assert!(read.iter().all(|read| *read < 40_000_000), "{read:?}");
    done!("{read:?} bytes were read")
}

/// A client that reads so little that the kernel does not call its socket writable before the
/// limit, and then waits until the server has sent more; during service or after the order to shut
/// down: how many bytes it gets.
fn read_slowly(driver: Driver, stops: bool) -> u64 {
    // Less than what all answers may take after the order.
    const LIMIT: Duration = Duration::from_secs(6);
    // Two of the kernel's pieces, and half of what makes a socket writable.
    const LITTLE: u64 = 75_000;
    let mut server = reacting(driver).with("slow_client_ms", LIMIT.as_millis()).start();
    let session = SocketSession::open(server.path());
    for call in 1..=SOME_ANSWERS {
        session.request(call, &ask(b'z', call, ANSWER, b""));
    }
    wait_until("all are answered", || server.stats().requests >= SOME_ANSWERS);
    if stops {
        server.process().tell("shutdown");
    }
    let there = || ioctl_fionread(&session.stream).expect("a socket");
    let mut before = 0;
    wait_until("the socket takes no more", || {
        std::thread::sleep(Duration::from_millis(50));
        let now = there();
        now != 0 && now == std::mem::replace(&mut before, now)
    });
    assert!(there() < ALL, "the socket takes all");
    let mut some = [0; 15_000];
    let mut read_up_to = |read: u64, most: u64| {
        let mut read = read;
        while read < most {
            // A goodbye may stand behind them.
            let left = usize::try_from(most - read).map_or(some.len(), |left| left.min(some.len()));
            match (&session.stream).read(&mut some[..left]) {
                Ok(count @ 1..) => read += count as u64,
                _ => break,
            }
        }
        read
    };
    let read = read_up_to(0, LITTLE);
    let left = there();
    let is_put_out = || {
        let mut socket = [PollFd::new(&session.stream, PollFlags::empty())];
        poll(&mut socket, Some(&Timespec::default())).expect("polled");
        socket[0].revents().contains(PollFlags::HUP)
    };
    wait_until("it sends more", || there() > left || is_put_out());
    let read = read_up_to(read, ALL);
    if stops {
        server.ended();
    } else {
        assert_eq!(server.shut_down().slow_clients, 0);
    }
    read
}

/// Still more than a socket's buffer takes.
const SOME_ANSWERS: u64 = 8;
/// All answers of such a client, with their headers.
const ALL: u64 = SOME_ANSWERS * (ANSWER + 16);

fn c8_answers_that_are_read_slowly_all_arrive() -> Ran {
    let ways = [Driver::Thread, Driver::Loop].map(|driver| [(driver, false), (driver, true)]);
    let readers = ways.as_flattened().iter().map(|&(driver, stops)| {
        (driver, stops, std::thread::spawn(move || read_slowly(driver, stops)))
    });
    for (driver, stops, reader) in readers.collect::<Vec<_>>() {
        let read = reader.join().expect("a reader");
        assert_eq!(read, ALL, "{} {stops}", driver.name());
    }
    done!("{ALL} bytes, four times")
}

fn c8_a_server_that_never_sleeps_keeps_the_time() -> Ran {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("s");
    let builder = ringbell::Server::builder().slow_client_timeout(Some(LIMIT));
    let mut server = builder.bind(&path).expect("bind").embed().expect("embedded");
    let (done, one) = mpsc::channel();
    let lazy = std::thread::spawn(move || {
        let session = SocketSession::open(&path);
        for call in 1..=ANSWERS {
            session.request(call, b"some");
            // One at a time: so no answer is queued, of which the server takes the time, too.
            let _ = one.recv();
        }
        session
    });
    let answer = vec![0; usize::try_from(ANSWER).expect("small")];
    // A loop that has other things to do, and does not arm.
    wait_until("it is put out", || {
        let mut handle = |_: OwnedRequest, to: Responder| {
            to.reply(&answer);
            done.send(()).expect("a client");
        };
        server.pump(&mut handle).expect("here");
        server.disarm();
        server.stats().slow_clients == 1
    });
    assert_eq!(server.stats().requests, ANSWERS);
    drop(lazy.join().expect("a client"));
    done!("after {ANSWERS} answers")
}

fn c8_unread_streams_do_not_hold_up_a_shutdown() -> Ran {
    let (mut servers, mut clients) = (Vec::new(), Vec::new());
    for (driver, limit) in drivers().flat_map(|driver| [(driver, "300"), (driver, "never")]) {
        let mut server = reacting(driver).with("stream_stall_ms", limit).start();
        let mut client = connect(&server);
        let request = client.request(b's', 1000, &stream_of(10, StreamEnd::Good));
        let call = client.client().open_stream(&request, None).expect("send");
        wait_until("the producer waits", || client.count(Count::Blocked) == 1);
        server.process().tell("shutdown");
        clients.push((client, call));
        servers.push(server);
    }
    for (server, (client, call)) in servers.iter_mut().zip(&mut clients) {
        assert_eq!(server.ended().stalled_streams, 1);
        // What was sent is there, and the end is no good one.
        let mut items = 0;
        let error = loop {
            match client.client().next_item(*call, &mut Vec::new(), Some(SOON)) {
                Ok(true) => items += 1,
                Ok(false) => panic!("the stream was not sent to its end"),
                Err(error) => break error,
            }
        };
        assert_eq!((items, code_of(&error)), (STREAM_WINDOW, code::BROKEN_OFF));
        tick();
    }
    done!("{} servers", servers.len())
}

fn c8_nor_do_streams_that_are_read_slowly() -> Ran {
    let (mut servers, mut readers) = (Vec::new(), Vec::new());
    for driver in [Driver::Thread, Driver::Loop] {
        // A stream that its client reads for minutes, and never lets stall.
        let server = reacting(driver).with("stream_stall_ms", 2000).start();
        let mut client = connect(&server);
        let request = client.request(b's', 1_000_000, &stream_of(10, StreamEnd::Good));
        let call = client.client().open_stream(&request, None).expect("send");
        wait_until("the producer waits", || client.count(Count::Blocked) == 1);
        readers.push(std::thread::spawn(move || {
            while let Ok(true) = client.client().next_item(call, &mut Vec::new(), Some(SOON)) {
                std::thread::sleep(Duration::from_millis(20));
            }
        }));
        servers.push(server);
    }
    all_end(&mut servers);
    readers.into_iter().for_each(|reader| reader.join().expect("a reader"));
    done!("{} servers", servers.len())
}

/// A server with a pool of so many threads.
fn with_pool(threads: u64, stall: &str) -> Server {
    Server::prepare("react").with("pool", threads).with("stream_stall_ms", stall).start()
}

/// Opens a stream that is sent from the handler's thread.
fn open_stream(client: &mut Asking) -> ringbell::CallId {
    let request = client.request(b'i', 1000, b"");
    client.client().open_stream(&request, Some(SOON)).expect("send")
}

fn c5_streams_that_nobody_reads_keep_a_pool_for_a_while_only() -> Ran {
    let mut server = with_pool(4, "300");
    let mut lazy: Vec<_> = (0..4)
        .map(|_| {
            let mut client = connect(&server);
            let number = client.next_number();
            let call = open_stream(&mut client);
            (client, call, number)
        })
        .collect();
    wait_until("all threads send", || server.stats().requests >= 4);
    let mut fifth = connect(&server);
    let began = Instant::now();
    fifth.ask_within(b'e', 0, b"", Some(SOON)).expect("an answer");
    let took = began.elapsed();
    wait_until("all stalled", || server.stats().stalled_streams == 4);
    for (client, call, number) in &mut lazy {
        // The session goes on, and so may the next stream.
        client.echoes(b'e', 0, b"on");
        let error = client.read_stream(*call, *number, 0).expect_err("an error end");
        assert_eq!(code_of(&error), code::BROKEN_OFF);
        let number = client.next_number();
        let call = open_stream(client);
        assert_eq!(client.read_stream(call, number, 0), Ok(1000));
    }
    assert_eq!(fifth.count(Count::Slow), 4, "the handlers were told");
    let stats = server.shut_down();
    assert_eq!((stats.slow_clients, stats.stalled_streams), (0, 4));
    done!("the fifth was answered after {took:?}")
}

fn c5_many_of_them_keep_it_hardly_longer() -> Ran {
    const STREAMS: u64 = 60;
    // One after the other they would take a minute.
    let mut server = with_pool(1, "1000");
    let mut lazy = connect(&server);
    for _ in 0..STREAMS {
        open_stream(&mut lazy);
    }
    wait_until("all are there", || server.stats().requests >= STREAMS);
    let mut other = connect(&server);
    let began = Instant::now();
    other.ask_within(b'e', 0, b"", Some(SOON)).expect("an answer");
    let took = began.elapsed();
    assert_eq!(server.shut_down().stalled_streams, STREAMS);
    done!("{STREAMS} streams in {took:?}")
}

fn c5_a_stream_may_stall_for_ever_if_that_is_asked_for() -> Ran {
    let mut server = with_pool(2, "never");
    let mut client = connect(&server);
    let number = client.next_number();
    let call = open_stream(&mut client);
    wait_until("it is sent", || server.stats().requests >= 1);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(client.read_stream(call, number, 0), Ok(1000));
    assert_eq!(server.shut_down().stalled_streams, 0);
    done!("read after a second")
}

/// It takes longer over half of the window, after which a reader that is fast grants more, than a
/// stream may stall.
fn c5_a_slow_reader_keeps_its_stream() -> Ran {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("s");
    let limit = Duration::from_secs(1);
    let server =
        ringbell::Server::builder().stream_stall_timeout(Some(limit)).bind(&path).expect("bind");
    let handle = server.handle();
    let pause = limit * 3 / 2 / u32::from(STREAM_WINDOW / 2);
    let (items, serving) = (
        STREAM_WINDOW + 8,
        std::thread::spawn(move || {
            server.run_on(ringbell_shm_tests::reactor_server::Pool::new(1), move |_, responder| {
                let mut stream = responder.stream();
                for _ in 0..STREAM_WINDOW + 8 {
                    if stream.send(b"item").is_err() {
                        return;
                    }
                }
                stream.end();
            })
        }),
    );
    let mut client = options().connect(&path).expect("connect");
    let call = client.open_stream(b"", Some(SOON)).expect("send");
    for _ in 0..items {
        tick();
        std::thread::sleep(pause);
        assert_eq!(client.next_item(call, &mut Vec::new(), Some(SOON)), Ok(true));
    }
    assert_eq!(client.next_item(call, &mut Vec::new(), Some(SOON)), Ok(false));
    handle.shutdown(None);
    assert_eq!(serving.join().expect("no panic").expect("served").stalled_streams, 0);
    done!("{items} items, {pause:?} each")
}

/// An async handler that streams without an end, and tells how that came.
fn stream_for_ever(
    told: mpsc::Sender<StreamError>,
) -> impl FnMut(OwnedRequest, Responder) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
    move |_: OwnedRequest, responder: Responder| {
        let told = told.clone();
        Box::pin(async move {
            let mut stream = responder.stream();
            loop {
                if let Err(error) = stream.send_async(b"item").await {
                    let _ = told.send(error);
                    return;
                }
            }
        })
    }
}

/// By a pool whose threads wait for futures: they may be used up as those of blocking producers.
fn c5_async_producers_are_told() -> Ran {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("s");
    let (tell, told) = mpsc::channel();
    let server =
        ringbell::Server::builder().stream_stall_timeout(Some(LIMIT)).bind(&path).expect("bind");
    let handle = server.handle();
    let serving = std::thread::spawn(move || {
        server.run_on(
            ringbell_shm_tests::reactor_server::Pool::new(1),
            move |request, responder| {
                runtime_of_one().block_on(stream_for_ever(tell.clone())(request, responder));
            },
        )
    });
    let mut client = options().connect(&path).expect("connect");
    for _ in 0..2 {
        let call = client.open_stream(b"", Some(SOON)).expect("send");
        assert_eq!(told.recv_timeout(SOON), Ok(StreamError::SlowClient));
        let mut items = 0;
        let error = loop {
            match client.next_item(call, &mut Vec::new(), Some(SOON)) {
                Ok(true) => items += 1,
                other => break other.expect_err("an error end"),
            }
        };
        assert_eq!((items, code_of(&error)), (STREAM_WINDOW, code::BROKEN_OFF));
    }
    handle.shutdown(None);
    assert_eq!(serving.join().expect("no panic").expect("served").stalled_streams, 2);
    // In tasks the server drops a handler whose stream has stalled.
    for runtime in [runtime_of_one(), runtime_of_two()] {
        let server = ringbell::Server::builder()
            .stream_stall_timeout(Some(LIMIT))
            .bind(&path)
            .expect("bind");
        let handle = server.handle();
        let (tell, _told) = mpsc::channel();
        let serving =
            std::thread::spawn(move || runtime.block_on(server.serve(stream_for_ever(tell))));
        let mut client = options().connect(&path).expect("connect");
        let call = client.open_stream(b"", Some(SOON)).expect("send");
        wait_until("it has stalled", || handle.stats().stalled_streams == 1);
        for _ in 0..STREAM_WINDOW {
            assert_eq!(client.next_item(call, &mut Vec::new(), Some(SOON)), Ok(true));
        }
        let error = client.next_item(call, &mut Vec::new(), Some(SOON)).expect_err("an error end");
        assert_eq!(code_of(&error), code::BROKEN_OFF);
        handle.shutdown(None);
        serving.join().expect("no panic").expect("served");
    }
    done!("over {}", if over_socket() { "the socket" } else { "rings" })
}

/// A handler's own client of its own server, and of another one.
struct Callers {
    path: PathBuf,
    other: PathBuf,
    own: Option<Client>,
    /// Its client has asked everything there is, and its ring is full.
    is_full: bool,
    /// Passed once the server may be asked.
    ready: Arc<Barrier>,
}

impl Callers {
    fn new(path: &Path, other: &Path) -> Self {
        let ready = Arc::new(Barrier::new(2));
        Self { path: path.to_owned(), other: other.to_owned(), own: None, is_full: false, ready }
    }

    /// What comes of everything that would wait for the server, without a limit.
    fn ask(&mut self, payload: &[u8]) -> Vec<u8> {
        if payload != b"ask" {
            return payload.to_vec();
        }
        let path = &self.path;
        let own =
            self.own.get_or_insert_with(|| options().connect(path).expect("the porter lets it in"));
        let call = own.call(b"own").map(|answer| answer.to_vec());
        assert_eq!(call, Err(CallError::WouldDeadlock));
        if self.is_full {
            let mut other = options().connect(&self.other).expect("connect");
            return other.call(b"other").expect("another server may be called").to_vec();
        }
        let limited = own.call_timeout(b"own", Some(SOON)).map(|answer| answer.to_vec());
        assert_eq!(limited, Err(CallError::WouldDeadlock));
        let shown = own.call_view(b"own", None, |view| view.len());
        assert_eq!(shown, Err(CallError::WouldDeadlock));
        // Who does not wait is told so much only.
        let unwaiting =
            own.call_timeout(b"own", Some(Duration::ZERO)).map(|answer| answer.to_vec());
        assert_eq!(unwaiting, Err(CallError::TimedOut { maybe_executed: true }));
        assert_eq!(own.ping(None), Err(CallError::WouldDeadlock));
        assert_eq!(own.next_event(None), Err(EventError::WouldDeadlock));
        let stream = own.open_stream(b"own", None).expect("there is room");
        let item = own.next_item(stream, &mut Vec::new(), None);
        assert_eq!(item, Err(CallError::WouldDeadlock));
        own.close_stream(stream);
        own.send(b"own").expect("there is room");
        assert_eq!(own.recv(None).map(|_| ()), Err(RecvError::WouldDeadlock));
        let full = loop {
            if let Err(error) = own.send_one_way(&[0; 60_000], None) {
                break error;
            }
        };
        assert_eq!(full, SendError::WouldDeadlock);
        self.is_full = true;
        self.ask(payload)
    }
}

/// Where handlers run on a pool, somebody else answers.
fn c9_a_handler_on_a_pool_may_call_its_own_server() -> Ran {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("s");
    let server = ringbell::Server::bind(&path).expect("bind");
    let handle = server.handle();
    let own_path = path.clone();
    let serving = std::thread::spawn(move || {
        let pool = ringbell_shm_tests::reactor_server::Pool::new(2);
        server.run_on(pool, move |request, responder| {
            if request.payload() != b"ask" {
                return responder.reply(request.payload());
            }
            let mut own = options().connect(&own_path).expect("connect");
            let answer = own.call(b"own").expect("the other thread answers").to_vec();
            responder.reply(&answer);
        })
    });
    let mut client = options().connect(&path).expect("connect");
    let answer = client.call_timeout(b"ask", Some(SOON)).expect("an answer").to_vec();
    assert_eq!(answer, b"own");
    handle.shutdown(None);
    serving.join().expect("no panic").expect("served");
    done!("one call within another")
}

/// What a loop does with an idle server, but for the wait.
fn rest(server: &mut ringbell::EmbeddedServer) {
    if server.arm() == Arming::Armed {
        std::thread::sleep(Duration::from_millis(1));
        server.disarm();
    }
}

/// Calls the server at `path`, whose handler calls it; stops it.
fn ask_and_stop(path: &Path, handle: &ringbell::ServerHandle) {
    let mut client = options().connect(path).expect("connect");
    for _ in 0..2 {
        let answer = client.call_timeout(b"ask", Some(SOON)).expect("an answer").to_vec();
        assert_eq!(answer, b"other");
        let answer = client.call_timeout(b"on", Some(SOON)).expect("an answer").to_vec();
        assert_eq!(answer, b"on", "the server goes on");
    }
    drop(client);
    handle.shutdown(Some(SOON));
    tick();
}

fn c9_a_handler_that_calls_its_own_server_is_told() -> Ran {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, other_path) = (directory.path().join("s"), directory.path().join("other"));
    let other = ringbell::Server::bind(&other_path).expect("bind");
    let other_handle = other.handle();
    let others = std::thread::spawn(move || {
        other.run(|request, response| {
            response.extend_from_slice(request.payload());
            Ok(())
        })
    });
    let mut ways = 0;
    let mut each = |serve: &(dyn Fn(ringbell::Server, Callers) + Sync)| {
        let server = ringbell::Server::bind(&path).expect("bind");
        let handle = server.handle();
        let callers = Callers::new(&path, &other_path);
        let ready = callers.ready.clone();
        std::thread::scope(|scope| {
            scope.spawn(|| serve(server, callers));
            ready.wait();
            ask_and_stop(&path, &handle);
        });
        ways += 1;
    };
    each(&|server, mut callers| {
        callers.ready.wait();
        let served = server.run(|request, response| {
            response.extend_from_slice(&callers.ask(request.payload()));
            Ok(())
        });
        served.expect("served");
    });
    each(&|server, mut callers| {
        callers.ready.wait();
        let served = server.run_reactor(|request, responder| {
            responder.reply(&callers.ask(request.payload()));
        });
        served.expect("served");
    });
    each(&|server, mut callers| {
        let mut server = server.embed().expect("embedded");
        // Clients are let in by the pump: its own one connects from another thread.
        let path = callers.path.clone();
        let connecting = std::thread::spawn(move || options().connect(path).expect("connect"));
        while !connecting.is_finished() {
            if server.pump(&mut |_: OwnedRequest, _: Responder| {}).expect("here") == Turn::Idle {
                rest(&mut server);
            }
        }
        callers.own = Some(connecting.join().expect("connected"));
        callers.ready.wait();
        loop {
            let turn = server.pump(&mut |request: OwnedRequest, responder: Responder| {
                responder.reply(&callers.ask(request.payload()));
            });
            match turn.expect("here") {
                Turn::Over => break,
                Turn::Idle => rest(&mut server),
                _ => {}
            }
        }
    });
    each(&|server, callers| {
        let ready = callers.ready.clone();
        let callers = Arc::new(Mutex::new(callers));
        runtime_of_one().block_on(async {
            let path = callers.lock().expect("no panic").path.clone();
            let of_handlers = callers.clone();
            let serving = tokio::spawn(server.serve(move |request: OwnedRequest, responder| {
                let callers = of_handlers.clone();
                async move {
                    let answer = callers.lock().expect("no panic").ask(request.payload());
                    Responder::reply(responder, &answer);
                }
            }));
            // The task of the server lets it in, which runs on this thread, too.
            let connecting = move || options().connect(path).expect("connect");
            let own = tokio::task::spawn_blocking(connecting).await.expect("connected");
            callers.lock().expect("no panic").own = Some(own);
            ready.wait();
            serving.await.expect("a task").expect("served");
        });
    });
    other_handle.shutdown(None);
    others.join().expect("no panic").expect("served");
    done!("{ways} ways to serve")
}
