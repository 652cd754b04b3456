//! Servers of every kind, and clients of every kind, that do wrong what they are told to.

use crate::scene::ring_dump;
use ringbell::{
    Arming, AsyncClient, ByteListener, ByteStream, ConnectOptions, HandlerError, OwnedRequest,
    Responder, ResponseStream, Server, Session, Task, TransportChoice, Turn, WaitSettings,
};
use ringbell_shm_tests::process::{Arguments, Process, Start, hear, readable, say};
use ringbell_shm_tests::wait_until;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use tempfile::TempDir;

/// Threads of a pool.
pub(crate) const POOL: usize = 8;

/// What handlers work on.
struct Work {
    /// Held for ever.
    lock: Arc<Mutex<()>>,
    /// Where it takes responders and forgets them.
    kept: Mutex<Vec<Responder>>,
    /// Where it keeps streams open.
    open: Mutex<Vec<ResponseStream>>,
}

impl Work {
    fn new() -> Arc<Self> {
        let lock = Arc::new(Mutex::new(()));
        let (held, is_held) = mpsc::channel();
        let guard = lock.clone();
        std::thread::spawn(move || {
            let _guard = guard.lock();
            held.send(()).expect("awaited");
            loop {
                std::thread::park();
            }
        });
        is_held.recv().expect("held");
        Arc::new(Self { lock, kept: Mutex::default(), open: Mutex::default() })
    }

    /// Does what a request says: the answer.
    fn answer(&self, session: &Session, text: &str) -> Result<Vec<u8>, HandlerError> {
        match text.split_once(' ').unwrap_or((text, "")) {
            ("fail", _) => return Err(HandlerError::new(1, "as it was told to")),
            ("panic", _) => std::panic::resume_unwind(Box::new("as it was told to")),
            ("lock", _) => drop(self.lock.lock()),
            ("loop", _) => loop {
                std::hint::spin_loop();
            },
            // Nobody writes to this pipe.
            ("read", _) => {
                let (mut reader, _writer) = std::io::pipe().expect("a pipe");
                let _ = reader.read(&mut [0]);
            }
            ("sleep", ms) => std::thread::sleep(Duration::from_millis(ms.parse().expect("ms"))),
            ("size", bytes) => return Ok(vec![b'x'; bytes.parse().expect("a number")]),
            ("await", path) => wait_until("the gate is open", || Path::new(path).exists()),
            ("events", number) => {
                for event in 0..number.parse::<u64>().expect("a number") {
                    // A full queue is the matter of another scene.
                    let _ = session.push(&event.to_le_bytes());
                }
            }
            _ => return Ok(text.as_bytes().to_vec()),
        }
        Ok(b"done".to_vec())
    }

    fn respond(&self, request: &OwnedRequest, responder: Responder) {
        let text = String::from_utf8_lossy(request.payload());
        match &*text {
            "keep" => return self.kept.lock().expect("whole").push(responder),
            // One item, and then none for ever.
            "stream" => {
                let mut stream = responder.stream();
                stream.send(b"an item").expect("sent");
                return self.open.lock().expect("whole").push(stream);
            }
            _ => {}
        }
        match self.answer(&request.session(), &text) {
            Ok(answer) => responder.reply(&answer),
            Err(error) => responder.error(error),
        }
    }
}

/// A server of the kind `engine`.
pub(crate) fn engine(arguments: &Arguments) {
    let mut builder = Server::builder().slow_client_timeout(None);
    if let Some(bytes) = arguments.maybe_number("ring") {
        builder = builder.ring_capacity(bytes);
    }
    if let Some(clients) = arguments.maybe_number("max_clients") {
        builder = builder.max_clients(clients.try_into().expect("small"));
    }
    if let Some(requests) = arguments.maybe_number("max_in_flight") {
        builder = builder.max_in_flight(requests.try_into().expect("small"));
    }
    if let Some(ms) = arguments.maybe_number("slow") {
        builder = builder.slow_client_timeout(Some(Duration::from_millis(ms)));
    }
    if let Some(bytes) = arguments.maybe_number("held") {
        builder = builder.max_held_bytes_per_client(bytes).max_held_bytes(bytes);
    }
    let path = arguments.text("path");
    let kind = arguments.text("engine");
    if kind == "bytes" {
        return bytes(&builder.bind_bytes(path).expect("bound"));
    }
    let server = builder.bind(path).expect("bound");
    say("ready");
    let handle = server.handle();
    std::thread::spawn(move || {
        while hear().is_some() {}
        handle.shutdown(None);
        // A handler that is stuck does not end.
        std::thread::sleep(Duration::from_millis(500));
        std::process::exit(0);
    });
    let work = Work::new();
    match kind {
        "serial" => drop(server.run(|request, response| {
            let text = String::from_utf8_lossy(request.payload());
            response.extend(work.answer(request.session(), &text)?);
            Ok::<(), HandlerError>(())
        })),
        "reactor" => drop(server.run_reactor(|request: OwnedRequest, responder| {
            work.respond(&request, responder);
        })),
        "pool" => {
            let (sender, tasks) = mpsc::channel::<Task>();
            let (sender, tasks) = (Mutex::new(sender), Arc::new(Mutex::new(tasks)));
            for index in 0..POOL {
                let tasks = tasks.clone();
                let thread = std::thread::Builder::new().name(format!("pool-{index}"));
                let run = move || {
                    loop {
                        let task = tasks.lock().expect("whole").recv();
                        let Ok(task) = task else { return };
                        task.run();
                    }
                };
                thread.spawn(run).expect("a thread");
            }
            let pool = move |task| {
                let _ = sender.lock().expect("whole").send(task);
            };
            drop(server.run_on(Arc::new(pool), move |request: OwnedRequest, responder| {
                work.respond(&request, responder);
            }));
        }
        "embedded" => embedded(server, &work),
        other => panic!("no engine {other}"),
    }
}

/// In a loop of this program's, which leaves it for good at the request `leave`.
fn embedded(server: Server, work: &Work) {
    let mut server = server.embed().expect("embedded");
    let mut leaves = false;
    loop {
        let mut service = |request: OwnedRequest, responder: Responder| {
            leaves |= request.payload() == b"leave";
            work.respond(&request, responder);
        };
        match server.pump(&mut service).expect("pumped") {
            Turn::Over => return,
            Turn::Idle => {}
            _ => continue,
        }
        if server.arm() == Arming::Busy {
            continue;
        }
        if std::mem::take(&mut leaves) {
            // Armed, and elsewhere.
            drop(work.lock.lock());
        }
        let poll = rustix::event::PollFd::new(&server, rustix::event::PollFlags::IN);
        let _ = rustix::event::poll(&mut [poll], None);
        server.disarm();
    }
}

/// Takes streams, and reads one byte of each.
fn bytes(listener: &ByteListener) {
    say("ready");
    let mut streams = Vec::new();
    loop {
        let stream = listener.accept_timeout(Some(Duration::from_millis(20)));
        if let Ok(mut stream) = stream {
            let mut first = [0];
            if stream.read_exact(&mut first).is_ok() && first == *b"e" {
                std::thread::spawn(move || echo(stream));
            } else {
                streams.push(stream);
            }
        }
        if readable(std::io::stdin(), Duration::ZERO) {
            return;
        }
    }
}

fn echo(mut stream: ByteStream) {
    let mut bytes = [0; 1000];
    while let Ok(count @ 1..) = Read::read(&mut stream, &mut bytes) {
        if stream.write_all(&bytes[..count]).is_err() {
            return;
        }
    }
}

/// A client of the kind `kind`.
pub(crate) fn asker(arguments: &Arguments) {
    let path = arguments.text("path").to_owned();
    let mut options =
        ConnectOptions::new().name("asker").wait(WaitSettings::client().park_at_once());
    if arguments.get("socket").is_some() {
        options = options.transport(TransportChoice::Socket);
    }
    if let Some(events) = arguments.maybe_number("max_events") {
        options = options.max_events(events.try_into().expect("small"));
    }
    if arguments.get("deadlines").is_some() {
        options = options.send_deadlines(true);
    }
    match arguments.text("kind") {
        "async" => tasks(options, &path),
        "bytes" => write_bytes(options, &path),
        "client" => orders(options, &path),
        "turned-away" => {
            say("connected");
            // Whoever is turned away tries again.
            while !readable(std::io::stdin(), Duration::ZERO) {
                assert!(options.clone().connect(&path).is_err(), "there is no room");
            }
        }
        other => panic!("no kind {other}"),
    }
}

/// Waits for all its calls at once, in tasks: `NUMBER REQUEST` begins so many. `0 block` blocks its
/// loop.
fn tasks(options: ConnectOptions, path: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async move {
        let client: AsyncClient = options.connect_async(path).await.expect("connected");
        let client = Arc::new(client);
        say("connected");
        let (sender, mut lines) = tokio::sync::mpsc::unbounded_channel();
        std::thread::spawn(move || while hear().is_some_and(|line| sender.send(line).is_ok()) {});
        while let Some(line) = lines.recv().await {
            let (number, order) = line.split_once(' ').expect("a number and an order");
            if order == "block" {
                // Its loop is elsewhere.
                say("blocked");
                loop {
                    std::thread::park();
                }
            }
            for _ in 0..number.parse::<usize>().expect("a number") {
                let (client, order) = (client.clone(), order.to_owned());
                tokio::spawn(async move { client.call(order.as_bytes()).await.map(drop) });
            }
            say("done");
        }
    });
}

/// Writes more than anybody reads.
fn write_bytes(options: ConnectOptions, path: &str) {
    let mut stream = options.connect_bytes(path).expect("connected");
    say("connected");
    while let Some(line) = hear() {
        match line.as_str() {
            "flood" => {
                say("flooding");
                let _ = stream.write_all(&[b'f'; 1 << 20]);
            }
            // Until it is told to stop.
            "load" => {
                stream.write_all(b"e").expect("written");
                while !readable(std::io::stdin(), Duration::ZERO) {
                    stream.write_all(&[b'x'; 1000]).expect("written");
                    stream.read_exact(&mut [0; 1000]).expect("read");
                }
            }
            other => panic!("no order {other}"),
        }
        say("done");
    }
}

/// `call ...`, `post ...`; `stream`: a stream that stays open; `repeat ...`: the same call until it
/// is told to stop, whatever comes of it; `hurry ...`: so with 5 ms for each.
fn orders(options: ConnectOptions, path: &str) {
    let mut client = options.connect(path).expect("connected");
    say("connected");
    while let Some(line) = hear() {
        let (order, rest) = line.split_once(' ').unwrap_or((&line, ""));
        match order {
            "call" => drop(client.call(rest.as_bytes()).expect("answered")),
            "post" => drop(client.send(rest.as_bytes()).expect("sent")),
            "repeat" | "hurry" => {
                let time = if order == "hurry" { Duration::from_millis(5) } else { Duration::MAX };
                say("begun");
                while !readable(std::io::stdin(), Duration::ZERO) {
                    let _ = client.call_timeout(rest.as_bytes(), Some(time));
                }
            }
            // Waits for the next item of a stream, with calls before it.
            "stream" => {
                let stream = client.open_stream(b"stream", None).expect("opened");
                let mut item = Vec::new();
                assert!(client.next_item(stream, &mut item, None).expect("an item"));
                for _ in 0..200 {
                    assert_eq!(&*client.call(b"echo").expect("answered"), b"echo");
                }
                say("waits");
                let _ = client.next_item(stream, &mut item, None);
            }
            other => panic!("no order {other}"),
        }
        say("done");
    }
}

/// A server of some kind, at a path of its own.
pub(crate) struct Stage {
    pub(crate) server: Process,
    pub(crate) path: PathBuf,
    pub(crate) directory: TempDir,
}

impl Stage {
    pub(crate) fn new(engine: &str) -> Self {
        Self::with(engine, &[])
    }

    pub(crate) fn with(engine: &str, options: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("s");
        let mut start = Start::role("engine").with("path", path.display()).with("engine", engine);
        for (key, value) in options {
            start = start.with(key, value);
        }
        let mut server = start.start();
        server.expect("ready");
        Self { server, path, directory }
    }

    pub(crate) fn client(&self, kind: &str) -> Process {
        self.client_with(kind, &[])
    }

    pub(crate) fn client_with(&self, kind: &str, options: &[(&str, &str)]) -> Process {
        let mut start = Start::role("asker").with("path", self.path.display()).with("kind", kind);
        for (key, value) in options {
            start = start.with(key, value);
        }
        let mut client = start.start();
        client.expect("connected");
        client
    }

    pub(crate) fn pid(&self) -> String {
        self.server.id().to_string()
    }

    /// What `explain` says of a code and the report: it must know all that it tells.
    pub(crate) fn explains(codes: &BTreeSet<(String, String)>) {
        for (code, _) in codes {
            let output = ring_dump(&["explain", code]).output().expect("started");
            assert!(output.status.success() && output.stdout.starts_with(code.as_bytes()));
        }
    }
}
