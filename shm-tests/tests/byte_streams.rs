//! Byte streams between processes: every byte is checked, both ways at once; ends that are said, and ends that are not;
//! writers that are not read; processes that are killed. In the blocking form and on both flavours of runtime.

use ringbell::layout::{self, HeaderWord, Kind, flag, offset};
use ringbell::ring::Producer;
use ringbell::{
    AsyncByteListener, AsyncByteStream, ByteListener, ByteStream, ByteStreamError, ConnectError, PeerFault,
    Server, Transport, TransportChoice,
};
use ringbell_shm_tests::pattern::Chance;
use ringbell_shm_tests::process::{Arguments, Process, Start, hear, over_socket, say};
use ringbell_shm_tests::raw;
use ringbell_shm_tests::signals;
use ringbell_shm_tests::suite::{Ran, tick};
use ringbell_shm_tests::{becomes_true, done, observe, options, scaled, scaled_for, seed, suite, wait_until};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::runtime::{Builder, Runtime};

suite! {
    both: [
        both_ways_at_once,
        one_task_that_writes_and_reads,
        an_end_of_one_side_leaves_the_other,
        a_writer_that_is_not_read_waits,
        a_stream_that_is_dropped_has_no_end,
        a_killed_peer_has_no_end,
        what_a_client_wrote_before_it_went_is_read,
        rounds_leave_nothing_behind,
        timeouts,
        a_listener_that_is_closed,
        a_forked_child_touches_nothing,
        a_writer_that_goes_with_bytes_that_were_not_taken,
        a_child_that_holds_the_socket_keeps_no_dead_client_alive,
    ],
    tests: [
        calls_and_streams_do_not_meet,
        clients_that_send_what_is_no_stream,
        any_bytes_over_the_socket,
        servers_that_send_what_is_no_stream,
    ],
    roles: [serve, connect, forking, leaving],
}

/// How a side waits.
const FLAVOURS: [&str; 3] = ["blocking", "one", "two"];

fn runtime(flavour: &str) -> Runtime {
    let mut builder = match flavour {
        "one" => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    builder.worker_threads(2).enable_all().build().expect("a runtime")
}

/// The bytes of one direction, in order.
struct Bytes {
    chance: Chance,
    word: [u8; 8],
    used: usize,
}

impl Bytes {
    fn new(seed: u64) -> Self {
        Self { chance: Chance::new(seed), word: [0; 8], used: 8 }
    }

    fn next(&mut self) -> u8 {
        if self.used == 8 {
            (self.word, self.used) = (self.chance.draw().to_le_bytes(), 0);
        }
        self.used += 1;
        self.word[self.used - 1]
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.iter_mut().for_each(|byte| *byte = self.next());
    }

    fn check(&mut self, bytes: &[u8]) {
        for (index, byte) in bytes.iter().enumerate() {
            assert_eq!(*byte, self.next(), "byte {index} of {}", bytes.len());
        }
        tick();
    }
}

/// Sizes of writes and of reads: mostly small, some of many chunks.
fn size(chance: &mut Chance) -> usize {
    let most = [8, 100, 5000, 20_000, 200_000][usize::try_from(chance.below(5)).expect("small")];
    usize::try_from(chance.below(most) + 1).expect("small")
}

/// What a client asks of a server: a verb, a seed, and a count.
fn ask(verb: u8, seed: u64, count: u64) -> [u8; 17] {
    let mut ask = [verb; 17];
    ask[1..9].copy_from_slice(&seed.to_le_bytes());
    ask[9..].copy_from_slice(&count.to_le_bytes());
    ask
}

fn asked(ask: [u8; 17]) -> (u8, u64, u64) {
    let word = |at: usize| u64::from_le_bytes(ask[at..at + 8].try_into().expect("eight"));
    (ask[0], word(1), word(9))
}

/// The two seeds of an exchange.
fn seeds(seed: u64, client: bool) -> (u64, u64) {
    if client { (seed, seed ^ 1) } else { (seed ^ 1, seed) }
}

fn send(mut stream: &ByteStream, seed: u64, mut left: u64) {
    let (mut bytes, mut chance) = (Bytes::new(seed), Chance::new(seed ^ 77));
    while left > 0 {
        let len = size(&mut chance).min(usize::try_from(left).expect("64 bits"));
        let mut some = vec![0; len];
        bytes.fill(&mut some);
        stream.write_all(&some).expect("room");
        left -= len as u64;
    }
}

fn receive(stream: &ByteStream, seed: u64, mut left: u64) {
    let (mut bytes, mut chance) = (Bytes::new(seed), Chance::new(seed ^ 78));
    while left > 0 {
        let mut some = vec![0; size(&mut chance).min(usize::try_from(left).expect("64 bits"))];
        let count = stream.read(&mut some).expect("bytes");
        assert!(count > 0, "an end with {left} bytes missing");
        bytes.check(&some[..count]);
        left -= count as u64;
    }
}

fn exchange(stream: &ByteStream, seed: u64, count: u64, client: bool) {
    let (ours, theirs) = seeds(seed, client);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            send(stream, ours, count);
            stream.shutdown_write().expect("an end");
        });
        receive(stream, theirs, count);
        assert_eq!(stream.read(&mut [0; 8]).expect("the end"), 0);
    });
}

async fn exchange_in_tasks(stream: AsyncByteStream, seed: u64, count: u64, client: bool) {
    let (ours, theirs) = seeds(seed, client);
    let (mut reader, mut writer) = tokio::io::split(stream);
    let writes = tokio::spawn(async move {
        let (mut bytes, mut chance, mut left) = (Bytes::new(ours), Chance::new(ours ^ 77), count);
        while left > 0 {
            let len = size(&mut chance).min(usize::try_from(left).expect("64 bits"));
            let mut some = vec![0; len];
            bytes.fill(&mut some);
            writer.write_all(&some).await.expect("room");
            left -= len as u64;
        }
        writer.shutdown().await.expect("an end");
    });
    let (mut bytes, mut chance, mut left) = (Bytes::new(theirs), Chance::new(theirs ^ 78), count);
    while left > 0 {
        let mut some = vec![0; size(&mut chance).min(usize::try_from(left).expect("64 bits"))];
        let count = reader.read(&mut some).await.expect("bytes");
        assert!(count > 0, "an end with {left} bytes missing");
        bytes.check(&some[..count]);
        left -= count as u64;
    }
    assert_eq!(reader.read(&mut [0; 8]).await.expect("the end"), 0);
    writes.await.expect("the writer");
}

/// A stream of either form, for what one thread does.
#[allow(clippy::large_enum_variant, reason = "there are few of them")]
enum Any {
    Blocking(ByteStream),
    Async(Arc<Runtime>, AsyncByteStream),
}

impl Any {
    fn connect(flavour: &str, path: &Path) -> Self {
        if flavour == "blocking" {
            return Self::Blocking(options().connect_bytes(path).expect("connect"));
        }
        let runtime = Arc::new(runtime(flavour));
        let stream = runtime.block_on(options().connect_bytes_async(path)).expect("connect");
        Self::Async(runtime, stream)
    }

    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Blocking(stream) => stream.write_all(bytes),
            Self::Async(runtime, stream) => runtime.block_on(async {
                stream.write_all(bytes).await?;
                stream.flush().await
            }),
        }
    }

    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Blocking(stream) => ByteStream::read(stream, into),
            Self::Async(runtime, stream) => runtime.block_on(stream.read(into)),
        }
    }

    fn read_exact(&mut self, into: &mut [u8]) -> std::io::Result<()> {
        let mut have = 0;
        while have < into.len() {
            match self.read(&mut into[have..])? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count => have += count,
            }
        }
        Ok(())
    }

    fn read_to_end(&mut self) -> std::io::Result<Vec<u8>> {
        let (mut all, mut some) = (Vec::new(), vec![0; 30_000]);
        loop {
            match self.read(&mut some)? {
                0 => return Ok(all),
                count => all.extend_from_slice(&some[..count]),
            }
        }
    }

    fn end(&mut self) -> std::io::Result<()> {
        match self {
            Self::Blocking(stream) => stream.shutdown_write(),
            Self::Async(runtime, stream) => runtime.block_on(stream.shutdown()),
        }
    }

    /// What is left, and the error behind it.
    fn read_to_error(&mut self) -> (Vec<u8>, std::io::Error) {
        let (mut all, mut some) = (Vec::new(), vec![0; 30_000]);
        loop {
            match self.read(&mut some) {
                Ok(0) => panic!("an end, behind {} bytes, that nobody has set", all.len()),
                Ok(count) => all.extend_from_slice(&some[..count]),
                Err(error) => return (all, error),
            }
        }
    }
}

/// A client in a process of its own: what `do=` says.
fn connect(arguments: &Arguments) {
    let path = PathBuf::from(arguments.text("path"));
    let mut stream = Any::connect(arguments.text("flavour"), &path);
    let (seed, count) = (arguments.number("seed"), arguments.number("count"));
    match arguments.text("do") {
        // Writes, and is killed or ends without an end.
        "write" => {
            let mut bytes = vec![0; usize::try_from(count).expect("64 bits")];
            Bytes::new(seed).fill(&mut bytes);
            stream.write_all(&ask(b'r', seed, count)).expect("room");
            stream.write_all(&bytes).expect("room");
            say("written");
            let _ = hear();
        }
        other => panic!("no such thing to do: {other}"),
    }
}

/// Serves streams, each as its first bytes say, until the test hangs up.
fn serve(arguments: &Arguments) {
    let path = PathBuf::from(arguments.text("path"));
    let builder = Server::builder().max_clients(256);
    let builder = match arguments.maybe_number("ring") {
        Some(ring) => builder.ring_capacity(ring),
        None => builder,
    };
    let listener = builder.bind_bytes(&path).expect("bind");
    let flavour = arguments.text("flavour").to_owned();
    if flavour == "blocking" {
        std::thread::spawn(move || {
            say("ready");
            while let Ok(stream) = listener.accept() {
                std::thread::spawn(move || obey(&stream));
            }
        });
        while hear().is_some() {}
        return;
    }
    let runtime = runtime(&flavour);
    let accepting = async move {
        let listener = AsyncByteListener::from(listener);
        say("ready");
        loop {
            let stream = listener.accept().await.expect("a stream");
            tokio::spawn(obey_in_a_task(stream));
        }
    };
    let (over, ended) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        while hear().is_some() {}
        let _ = over.send(());
    });
    runtime.block_on(async move {
        tokio::select! {
            () = accepting => {}
            _ = ended => {}
        }
    });
}

fn obey(mut stream: &ByteStream) {
    let mut ask = [0; 17];
    if let Err(error) = stream.read_exact(&mut ask) {
        return say(&format!("asked nothing: {error:?}"));
    }
    let (verb, seed, count) = asked(ask);
    match verb {
        b'x' => exchange(stream, seed, count, false),
        // All that comes, back once its end has come.
        b'h' => {
            let mut all = Vec::new();
            if let Err(error) = stream.read_to_end(&mut all) {
                return is_reset(&error);
            }
            stream.write_all(&all).expect("room");
            stream.shutdown_write().expect("an end");
        }
        // Does not read until it is told to.
        b's' => {
            say("asked");
            stream.write_all(b"!").expect("room");
            wait_for_a_file(count);
            let mut all = Vec::new();
            stream.read_to_end(&mut all).expect("to the end");
            Bytes::new(seed).check(&all);
            stream.write_all(&(all.len() as u64).to_le_bytes()).expect("room");
            stream.shutdown_write().expect("an end");
        }
        // Writes, and goes without an end: dropped, or kept until it is killed.
        b'd' | b'k' => {
            let mut all = vec![0; usize::try_from(count).expect("64 bits")];
            Bytes::new(seed).fill(&mut all);
            stream.write_all(&all).expect("room");
            if verb == b'k' {
                say("written");
                let _ = stream.read(&mut [0]);
            }
        }
        // Reads to whatever end there is.
        b'r' => {
            let mut all = Vec::new();
            let end = stream.read_to_end(&mut all);
            Bytes::new(seed).check(&all);
            say(&format!("read {} {:?}", all.len(), end.map_err(|error| ByteStreamError::of(&error))));
        }
        verb => panic!("no such verb: {verb}"),
    }
}

fn wait_for_a_file(number: u64) {
    wait_until("the test goes on", || Path::new(&format!("/tmp/.ringbell-bytes-{number}")).exists());
}

async fn obey_in_a_task(mut stream: AsyncByteStream) {
    let mut ask = [0; 17];
    if let Err(error) = stream.read_exact(&mut ask).await {
        return say(&format!("asked nothing: {error:?}"));
    }
    let (verb, seed, count) = asked(ask);
    match verb {
        b'x' => exchange_in_tasks(stream, seed, count, false).await,
        b'h' => {
            let mut all = Vec::new();
            if let Err(error) = stream.read_to_end(&mut all).await {
                return is_reset(&error);
            }
            stream.write_all(&all).await.expect("room");
            stream.shutdown().await.expect("an end");
        }
        b's' => {
            say("asked");
            stream.write_all(b"!").await.expect("room");
            while !Path::new(&format!("/tmp/.ringbell-bytes-{count}")).exists() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.expect("to the end");
            Bytes::new(seed).check(&all);
            stream.write_all(&(all.len() as u64).to_le_bytes()).await.expect("room");
            stream.shutdown().await.expect("an end");
        }
        b'd' | b'k' => {
            let mut all = vec![0; usize::try_from(count).expect("64 bits")];
            Bytes::new(seed).fill(&mut all);
            stream.write_all(&all).await.expect("room");
            stream.flush().await.expect("flushed");
            if verb == b'k' {
                say("written");
                let _ = stream.read(&mut [0]).await;
            }
        }
        b'r' => {
            let mut all = Vec::new();
            let end = stream.read_to_end(&mut all).await;
            Bytes::new(seed).check(&all);
            say(&format!("read {} {:?}", all.len(), end.map_err(|error| ByteStreamError::of(&error))));
        }
        verb => panic!("no such verb: {verb}"),
    }
}

/// A server in a process of its own, and the directory of its socket.
struct Serving {
    process: Process,
    directory: tempfile::TempDir,
}

impl Serving {
    fn start(flavour: &str) -> Self {
        Self::prepare(flavour, |start| start)
    }

    fn prepare(flavour: &str, more: impl FnOnce(Start) -> Start) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("s");
        let mut process =
            more(Start::role("serve").with("path", path.display()).with("flavour", flavour)).start();
        process.expect("ready");
        Self { process, directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    fn connect(&self, flavour: &str) -> Any {
        let stream = Any::connect(flavour, &self.path());
        let transport = match &stream {
            Any::Blocking(stream) => stream.transport(),
            Any::Async(_, stream) => stream.transport().clone(),
        };
        assert_eq!(transport != Transport::SharedMemory, over_socket());
        stream
    }

    fn stop(mut self) {
        self.process.hang_up();
        self.process.succeed();
    }
}

fn both_ways_at_once() -> Ran {
    let (mut rounds, mut bytes) = (0, 0);
    for server in FLAVOURS {
        // Small rings wrap often, and are often full.
        for ring in [64 << 10, 4096] {
            let serving = Serving::prepare(server, |start| start.with("ring", ring));
            for client in FLAVOURS {
                for count in [1, 100_000, scaled(20 << 20).max(1 << 20)] {
                    let seed = seed() ^ rounds;
                    let mut stream = serving.connect(client);
                    stream.write_all(&ask(b'x', seed, count)).expect("room");
                    match stream {
                        Any::Blocking(stream) => exchange(&stream, seed, count, true),
                        Any::Async(runtime, stream) => {
                            runtime.block_on(exchange_in_tasks(stream, seed, count, true));
                        }
                    }
                    (rounds, bytes) = (rounds + 1, bytes + 2 * count);
                }
            }
            serving.stop();
        }
    }
    done!("{rounds} streams, {bytes} bytes, each of them checked")
}

/// As HTTP and gRPC do it: one task polls both ways.
fn one_task_that_writes_and_reads() -> Ran {
    let rounds = scaled_for(20_000, 5_000);
    for server in FLAVOURS {
        let serving = Serving::start(server);
        for client in FLAVOURS {
            let mut stream = serving.connect(client);
            stream.write_all(&ask(b'x', 5, 8 * rounds)).expect("room");
            let (mut ours, mut theirs) = (Bytes::new(5), Bytes::new(4));
            let mut word = [0; 8];
            for _ in 0..rounds {
                ours.fill(&mut word);
                stream.write_all(&word).expect("room");
                stream.read_exact(&mut word).expect("bytes");
                theirs.check(&word);
            }
            stream.end().expect("an end");
            assert!(stream.read_to_end().expect("the end").is_empty());
        }
        serving.stop();
    }
    done!("{rounds} times to and fro, 9 times")
}

fn an_end_of_one_side_leaves_the_other() -> Ran {
    let count = 300_000;
    for server in FLAVOURS {
        let serving = Serving::start(server);
        for client in FLAVOURS {
            let mut stream = serving.connect(client);
            stream.write_all(&ask(b'h', 0, 0)).expect("room");
            let mut all = vec![0; count];
            Bytes::new(seed()).fill(&mut all);
            stream.write_all(&all).expect("room");
            stream.end().expect("an end");
            stream.end().expect("the same end");
            let error = stream.write_all(b"more").expect_err("behind the end");
            assert_eq!(error.kind(), ErrorKind::BrokenPipe);
            assert_eq!(ByteStreamError::of(&error), Some(ByteStreamError::Finished));
            // The server saw the end, and answers only then.
            let back = stream.read_to_end().expect("to the end");
            assert_eq!(back.len(), count);
            Bytes::new(seed()).check(&back);
            assert_eq!(stream.read(&mut [0; 9]).expect("the end again"), 0);
        }
        serving.stop();
    }
    done!("{count} bytes each way, 9 times")
}

fn a_writer_that_is_not_read_waits() -> Ran {
    let mut told = String::new();
    let mut number = u64::from(std::process::id()) << 8;
    for server in FLAVOURS {
        let mut serving = Serving::start(server);
        for client in FLAVOURS {
            number += 1;
            let file = PathBuf::from(format!("/tmp/.ringbell-bytes-{number}"));
            let mut stream = serving.connect(client);
            stream.write_all(&ask(b's', 3, number)).expect("room");
            serving.process.expect("asked");
            let memory = observe::private_bytes(serving.process.id());
            // Far more than rings and sockets hold.
            let (mut bytes, mut taken) = (Bytes::new(3), 0u64);
            let mut all = vec![0; 8 << 20];
            bytes.fill(&mut all);
            let refused = match &mut stream {
                Any::Blocking(stream) => {
                    stream.set_write_timeout(Some(Duration::from_millis(300)));
                    loop {
                        match ByteStream::write(stream, &all[usize::try_from(taken).expect("64 bits")..]) {
                            Ok(count) => taken += count as u64,
                            Err(error) => break error.kind(),
                        }
                    }
                }
                Any::Async(runtime, stream) => runtime.block_on(async {
                    loop {
                        let write = stream.write(&all[usize::try_from(taken).expect("64 bits")..]);
                        match tokio::time::timeout(Duration::from_millis(300), write).await {
                            Ok(count) => taken += count.expect("room") as u64,
                            Err(_) => break ErrorKind::TimedOut,
                        }
                    }
                }),
            };
            assert_eq!(refused, ErrorKind::TimedOut);
            let bound = if over_socket() { 2 << 20 } else { 128 << 10 };
            assert!((1000..bound).contains(&taken), "{taken} bytes were taken");
            let grown = observe::private_bytes(serving.process.id()).saturating_sub(memory);
            assert!(grown < 4 << 20, "the server, which does not read, took {grown} bytes");
            // The other direction goes on.
            let mut mark = [0];
            stream.read_exact(&mut mark).expect("a mark");
            std::fs::write(&file, "").expect("a file");
            if let Any::Blocking(stream) = &mut stream {
                stream.set_write_timeout(None);
            }
            stream.write_all(&all[usize::try_from(taken).expect("64 bits")..]).expect("room, in time");
            stream.end().expect("an end");
            let counted = stream.read_to_end().expect("a count");
            assert_eq!(counted, (all.len() as u64).to_le_bytes());
            let _ = std::fs::remove_file(file);
            told = format!("{taken} bytes");
        }
        serving.stop();
    }
    done!("writers stopped after {told}")
}

fn is_reset(error: &std::io::Error) {
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error:?}");
    assert_eq!(ByteStreamError::of(error), Some(ByteStreamError::Gone));
}

/// Whatever a peer that is gone wrote is read, and the error is said again and again.
fn ends_badly(stream: &mut Any, count: u64) {
    let (all, error) = stream.read_to_error();
    assert_eq!(all.len() as u64, count);
    Bytes::new(9).check(&all);
    is_reset(&error);
    is_reset(&stream.read(&mut [0; 8]).expect_err("the same"));
    let error = stream.write_all(&[0; 100]).expect_err("nobody reads");
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
}

fn a_stream_that_is_dropped_has_no_end() -> Ran {
    let mut streams = 0;
    for server in FLAVOURS {
        let serving = Serving::start(server);
        for client in FLAVOURS {
            // Less than a ring holds, and a lot more.
            for count in [0, 10_000, 1 << 20] {
                let mut stream = serving.connect(client);
                stream.write_all(&ask(b'd', 9, count)).expect("room");
                ends_badly(&mut stream, count);
                streams += 1;
            }
        }
        serving.stop();
    }
    done!("{streams} streams")
}

fn a_killed_peer_has_no_end() -> Ran {
    let mut streams = 0;
    for server in FLAVOURS {
        for client in FLAVOURS {
            let mut serving = Serving::start(server);
            let count = 30_000;
            let mut reading = serving.connect(client);
            reading.write_all(&ask(b'k', 9, count)).expect("room");
            serving.process.expect("written");
            let mut waiting = serving.connect(client);
            waiting.write_all(&ask(b's', 3, u64::MAX)).expect("room");
            serving.process.expect("asked");
            waiting.read_exact(&mut [0]).expect("a mark");
            std::thread::scope(|scope| {
                // One that waits to read, and one that waits for room.
                let writer = serving.connect(client);
                let reader = scope.spawn(move || waiting.read_to_error());
                let writer = scope.spawn(move || {
                    let mut writer = writer;
                    writer.write_all(&ask(b's', 3, u64::MAX)).expect("room");
                    writer.write_all(&vec![0; 16 << 20]).expect_err("nobody reads").kind()
                });
                serving.process.expect("asked");
                wait_until("all is quiet", || observe::all_threads_sleep(serving.process.id()));
                serving.process.kill();
                serving.process.is_killed();
                let (rest, error) = reader.join().expect("the reader");
                assert!(rest.is_empty());
                is_reset(&error);
                assert_eq!(writer.join().expect("the writer"), ErrorKind::BrokenPipe);
            });
            ends_badly(&mut reading, count);
            streams += 3;
        }
    }
    done!("{streams} streams")
}

fn what_a_client_wrote_before_it_went_is_read() -> Ran {
    let mut clients = 0;
    for server in FLAVOURS {
        let mut serving = Serving::start(server);
        for client in FLAVOURS {
            for kill in [false, true] {
                let count = 40_000;
                let mut process = Start::role("connect")
                    .with("path", serving.path().display())
                    .with("flavour", client)
                    .with("do", "write")
                    .with("seed", 9)
                    .with("count", count)
                    .start();
                process.expect("written");
                if kill {
                    process.kill();
                    process.is_killed();
                } else {
                    process.hang_up();
                    process.succeed();
                }
                let heard = serving.process.expect("read");
                assert_eq!(heard, format!("{count} Err(Some(Gone))"));
                clients += 1;
            }
        }
        serving.stop();
    }
    done!("{clients} clients")
}

fn rounds_leave_nothing_behind() -> Ran {
    let rounds = scaled_for(3_000, 3_000);
    let mut told = String::new();
    for flavour in FLAVOURS {
        let serving = Serving::start(flavour);
        let path = serving.path();
        let round = |number: u64, runtime: Option<&Runtime>| {
            let text = number.to_le_bytes();
            match runtime {
                None => {
                    let mut stream = options().connect_bytes(&path).expect("connect");
                    stream.write_all(&ask(b'h', 0, 0)).expect("room");
                    stream.write_all(&text).expect("room");
                    // Some say goodbye properly, others do not.
                    if number.is_multiple_of(3) {
                        return;
                    }
                    stream.shutdown_write().expect("an end");
                    let mut back = Vec::new();
                    stream.read_to_end(&mut back).expect("to the end");
                    assert_eq!(back, text);
                }
                Some(runtime) => runtime.block_on(async {
                    let mut stream = options().connect_bytes_async(&path).await.expect("connect");
                    stream.write_all(&ask(b'h', 0, 0)).await.expect("room");
                    stream.write_all(&text).await.expect("room");
                    if number.is_multiple_of(3) {
                        return;
                    }
                    stream.shutdown().await.expect("an end");
                    let mut back = Vec::new();
                    stream.read_to_end(&mut back).await.expect("to the end");
                    assert_eq!(back, text);
                }),
            }
            tick();
        };
        let runtime = (flavour != "blocking").then(|| runtime(flavour));
        for number in 0..30 {
            round(number, runtime.as_ref());
        }
        let us = std::process::id();
        let them = serving.process.id();
        let sessions =
            || observe::descriptor_targets(them).iter().filter(|name| name.contains("memfd:")).count();
        wait_until("the warm-up is over", || sessions() <= 5);
        let before = (observe::descriptors(us), observe::descriptors(them), observe::memfd_mappings(us));
        for number in 0..rounds {
            round(number, runtime.as_ref());
        }
        wait_until("nothing is left", || {
            (observe::descriptors(us), observe::memfd_mappings(us)) == (before.0, before.2)
                && observe::descriptors(them) <= before.1 + observe::SPARE
        });
        told += &format!("; {flavour}: {} and {} descriptors", before.0, before.1);
        serving.stop();
    }
    done!("{rounds} rounds{told}")
}

fn timeouts() -> Ran {
    let serving = Serving::start("blocking");
    let Any::Blocking(mut stream) = serving.connect("blocking") else { unreachable!("asked for") };
    stream.write_all(&ask(b'h', 0, 0)).expect("room");
    stream.set_read_timeout(Some(Duration::ZERO));
    assert_eq!(stream.read(&mut [0]).expect_err("nothing").kind(), ErrorKind::WouldBlock);
    stream.set_read_timeout(Some(Duration::from_millis(20)));
    assert_eq!(stream.read(&mut [0]).expect_err("nothing").kind(), ErrorKind::TimedOut);
    stream.write_all(b"back").expect("room");
    stream.shutdown_write().expect("an end");
    stream.set_read_timeout(None);
    let mut back = Vec::new();
    stream.read_to_end(&mut back).expect("to the end");
    assert_eq!(back, b"back");
    serving.stop();
    done!("two timeouts, and a stream that goes on")
}

fn a_listener_that_is_closed() -> Ran {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("s");
    let listener = ByteListener::bind(&path).expect("bind");
    assert_eq!(
        listener.accept_timeout(Some(Duration::ZERO)).expect_err("nobody").kind(),
        ErrorKind::TimedOut
    );
    let mut client = options().connect_bytes(&path).expect("connect");
    let mut stream = listener.accept().expect("a stream");
    std::thread::scope(|scope| {
        let accepting = scope.spawn(|| listener.accept().expect_err("closed"));
        std::thread::sleep(Duration::from_millis(5));
        listener.close();
        let error = accepting.join().expect("the thread");
        assert_eq!(ByteStreamError::of(&error), Some(ByteStreamError::Closed));
    });
    assert!(matches!(options().connect_bytes(&path), Err(ConnectError::Rejected(_))));
    drop(listener);
    assert!(!path.exists());
    // A stream that was accepted goes on.
    client.write_all(b"still there").expect("room");
    let mut bytes = [0; 11];
    stream.read_exact(&mut bytes).expect("bytes");
    assert_eq!(&bytes, b"still there");
    drop(stream);
    is_reset(&client.read(&mut [0]).expect_err("gone"));
    // One that nobody accepts is turned away.
    let listener = AsyncByteListener::bind(&path).expect("bind again");
    let late = options().connect_bytes(&path).expect("connect");
    drop(listener);
    is_reset(&late.read(&mut [0]).expect_err("turned away"));
    done!("accepting ends, streams go on")
}

fn calls_and_streams_do_not_meet() -> Ran {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("s");
    for choice in [TransportChoice::Auto, TransportChoice::Socket] {
        let options = || ringbell::ConnectOptions::new().transport(choice);
        let server = Server::bind(&path).expect("bind");
        let handle = server.handle();
        let serving = std::thread::spawn(move || server.run(|_, _| Ok(())));
        assert!(matches!(options().connect_bytes(&path), Err(ConnectError::NoByteStreams)));
        handle.shutdown(None);
        serving.join().expect("a thread").expect("it served");

        let listener = ByteListener::bind(&path).expect("bind");
        let mut caller = options().connect(&path).expect("a session");
        let accepted = listener.accept_timeout(Some(Duration::from_millis(50)));
        assert_eq!(accepted.expect_err("it is no stream").kind(), ErrorKind::TimedOut);
        assert!(caller.call(b"hello?").is_err());
    }
    done!("by both transports")
}

/// What no chunk is: kind, flags, body. The last column is what it is called.
fn no_chunks() -> Vec<(Kind, u8, Vec<u8>, PeerFault)> {
    let fragment = [100u64.to_le_bytes(), [0; 8]].concat();
    let mut all: Vec<_> = [Kind::Request, Kind::Response, Kind::Error, Kind::Event, Kind::StreamItem]
        .into_iter()
        .chain([Kind::StreamEnd, Kind::Cancel, Kind::Ping, Kind::Pong, Kind::Credit])
        .map(|kind| (kind, 0, vec![1, 2, 3], PeerFault::UnexpectedKind(kind)))
        .collect();
    let deadline = PeerFault::UnexpectedKind(Kind::OneWay);
    all.push((Kind::OneWay, flag::DEADLINE, vec![1; 9], deadline));
    all.push((Kind::OneWay, flag::STAMP, vec![1; 9], deadline));
    all.push((Kind::OneWay, flag::MORE, fragment, PeerFault::Fragment));
    all.push((Kind::OneWay, flag::CONTINUED, vec![1; 9], PeerFault::Fragment));
    all.push((Kind::OneWay, flag::CONTINUED | flag::ABORT, vec![], PeerFault::Fragment));
    let lie = [u64::MAX.to_le_bytes(), [0; 8]].concat();
    all.push((Kind::OneWay, flag::MORE, lie, PeerFault::TooLong));
    all
}

/// The stream has this fault, for reads and for writes, and for good.
fn is_at_fault(stream: &mut ByteStream, fault: PeerFault) {
    let mut good = [0; 4];
    stream.read_exact(&mut good).expect("what came before is good");
    assert_eq!(&good, b"good");
    for _ in 0..2 {
        for error in
            [stream.read(&mut [0; 8]).expect_err("a fault"), stream.write(b"!").expect_err("a fault")]
        {
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{error:?}");
            assert_eq!(ByteStreamError::of(&error), Some(ByteStreamError::PeerFault(fault)));
        }
    }
}

/// A listener, and a stream of it that goes on whatever others do.
struct Beside {
    listener: ByteListener,
    client: ByteStream,
    server: ByteStream,
    directory: tempfile::TempDir,
}

impl Beside {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let listener = ByteListener::bind(directory.path().join("s")).expect("bind");
        let client = ByteStream::connect(listener.path()).expect("connect");
        let server = listener.accept().expect("a stream");
        Self { listener, client, server, directory }
    }

    fn goes_on(&mut self) {
        self.client.write_all(b"hello").expect("room");
        let mut bytes = [0; 5];
        self.server.read_exact(&mut bytes).expect("bytes");
        assert_eq!(&bytes, b"hello");
        assert!(self.directory.path().join("s").exists());
        tick();
    }
}

fn clients_that_send_what_is_no_stream() -> Ran {
    let mut beside = Beside::new();
    let mut cases = 0;
    for (kind, flags, body, fault) in no_chunks() {
        let session = raw::SocketSession::open_for(beside.listener.path(), raw::BYTES);
        let mut stream = beside.listener.accept().expect("a stream");
        assert!(session.send(&raw::frame(Kind::OneWay, 0, 0, 0, b"good")));
        assert!(session.send(&raw::frame(kind, flags, 0, 1, &body)));
        is_at_fault(&mut stream, fault);

        let session = raw::Session::open_for(beside.listener.path(), 4096, raw::BYTES);
        let mut stream = beside.listener.accept().expect("a stream");
        let mut ring = Producer::new(
            session.request.own_lines(layout::CONTROL, 4096),
            session.request.own_word(offset::TAIL),
            session.response.peer_word(offset::HEAD),
            0,
        );
        for (kind, flags, body) in [(Kind::OneWay, 0, &b"good"[..]), (kind, flags, &body)] {
            let claim = ring.try_claim(body.len()).expect("room");
            ring.write(&claim, 0, body);
            let len = u32::try_from(body.len()).expect("short");
            ring.commit(claim, HeaderWord::new(kind, flags, 0, len), 1);
        }
        is_at_fault(&mut stream, fault);
        cases += 2;
        beside.goes_on();
    }
    // A byte on the lifeline that means nothing.
    let session = raw::Session::open_for(beside.listener.path(), 4096, raw::BYTES);
    let stream = beside.listener.accept().expect("a stream");
    stream.set_read_timeout(Some(Duration::from_secs(20)));
    raw::send(&session.stream, b"?", &[]);
    let error = stream.read(&mut [0]).expect_err("noise");
    assert_eq!(ByteStreamError::of(&error), Some(ByteStreamError::PeerFault(PeerFault::Lifeline)));
    // A head that cannot be: whoever claims to have read what was never written.
    let session = raw::Session::open_for(beside.listener.path(), 4096, raw::BYTES);
    let mut stream = beside.listener.accept().expect("a stream");
    session.request.own_word(offset::HEAD).store(1 << 40, ringbell::sync::Ordering::Relaxed);
    let error = stream.write_all(&[0; 20_000]).expect_err("an impossible head");
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error:?}");
    assert!(matches!(ByteStreamError::of(&error), Some(ByteStreamError::PeerFault(PeerFault::Ring(_)))));
    beside.goes_on();
    done!("{} cases", cases + 2)
}

fn any_bytes_over_the_socket() -> Ran {
    let mut beside = Beside::new();
    let mut chance = Chance::new(seed());
    let (rounds, mut faults) = (scaled(4000), 0);
    for round in 0..rounds {
        let session = raw::SocketSession::open_for(beside.listener.path(), raw::BYTES);
        let mut stream = beside.listener.accept().expect("a stream");
        let mut sent = Vec::new();
        // Good chunks, then nonsense: of any bytes, or of a frame with a bit that is not what it was.
        for _ in 0..chance.below(4) {
            let mut body = vec![0; size(&mut chance).min(60_000)];
            Bytes::new(round).fill(&mut body);
            assert!(session.send(&raw::frame(Kind::OneWay, 0, 0, 0, &body)));
            sent.extend_from_slice(&body);
        }
        let nonsense: Vec<u8> = if chance.below(2) == 0 {
            (0..chance.below(60)).map(|_| chance.draw().to_le_bytes()[0]).collect()
        } else {
            let mut frame = raw::frame(Kind::OneWay, 0, 0, 0, &[5; 40]);
            frame[usize::try_from(chance.below(8)).expect("small")] ^= 1 << chance.below(8);
            frame
        };
        let _ = session.send(&nonsense);
        drop(session);
        let mut got = Vec::new();
        stream.set_read_timeout(Some(Duration::from_secs(20)));
        // An end is possible: nonsense may be an empty chunk. Anything else is an error that says what it is.
        if let Err(error) = stream.read_to_end(&mut got) {
            assert!(
                matches!(
                    ByteStreamError::of(&error),
                    Some(ByteStreamError::Gone | ByteStreamError::PeerFault(_))
                ),
                "{error:?}"
            );
            faults += u64::from(error.kind() == ErrorKind::InvalidData);
        }
        assert!(got.starts_with(&sent) && got.len() <= sent.len() + 64, "{} of {}", got.len(), sent.len());
        tick();
    }
    beside.goes_on();
    assert!(faults > 0);
    done!("{rounds} streams, {faults} faults")
}

fn servers_that_send_what_is_no_stream() -> Ran {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("bind");
    let mut cases = no_chunks();
    for (kind, ..) in &mut cases {
        // What clients receive are events; one-way messages are what they send.
        *kind = match *kind {
            Kind::OneWay => Kind::Event,
            Kind::Event => Kind::OneWay,
            kind => kind,
        };
    }
    let count = cases.len();
    for (kind, flags, body, fault) in cases {
        let connecting = std::thread::spawn({
            let path = path.clone();
            move || ringbell::ConnectOptions::new().transport(TransportChoice::Socket).connect_bytes(path)
        });
        let server = raw::accept(&listener);
        let mut answer = raw::fallback(1 << 20);
        // Behind the header, the reason, the version.
        answer[16 + 28] = raw::BYTES;
        raw::send(&server, &answer, &[]);
        let mut stream = connecting.join().expect("a thread").expect("a stream");
        raw::send(&server, &raw::frame(Kind::Event, 0, 0, 0, b"good"), &[]);
        raw::send(&server, &raw::frame(kind, flags, 0, 1, &body), &[]);
        let fault = match fault {
            PeerFault::UnexpectedKind(_) => PeerFault::UnexpectedKind(kind),
            fault => fault,
        };
        is_at_fault(&mut stream, fault);
    }
    done!("{count} cases")
}

fn is_forked<T>(result: std::io::Result<T>) -> bool {
    result.err().as_ref().and_then(ByteStreamError::of) == Some(ByteStreamError::Forked)
}

/// One poll, by whoever does not wait.
fn polled<T>(poll: impl FnOnce(&mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<T>>) -> bool {
    let mut nobody = std::task::Context::from_waker(std::task::Waker::noop());
    match poll(&mut nobody) {
        std::task::Poll::Ready(result) => is_forked(result),
        std::task::Poll::Pending => false,
    }
}

/// Whether a forked child gets nothing out of what it has a copy of.
fn is_refused(stream: &mut Any) -> bool {
    match stream {
        Any::Blocking(stream) => {
            is_forked(ByteStream::read(stream, &mut [0]))
                && is_forked(stream.write(b"x"))
                && is_forked(stream.write(b""))
                && is_forked(stream.flush())
                && is_forked(stream.shutdown_write())
        }
        Any::Async(_, stream) => {
            let mut pin = std::pin::Pin::new(stream);
            let mut space = [0; 8];
            polled(|cx| pin.as_mut().poll_read(cx, &mut ReadBuf::new(&mut space)))
                && polled(|cx| pin.as_mut().poll_write(cx, b"x"))
                && polled(|cx| pin.as_mut().poll_flush(cx))
                && polled(|cx| pin.as_mut().poll_shutdown(cx))
        }
    }
}

/// Forks while a reader sleeps on the stream, and while nobody does; the children use and drop what they have copies of.
fn forking(arguments: &Arguments) {
    let path = PathBuf::from(arguments.text("path"));
    let flavour = arguments.text("flavour");
    for round in 0..arguments.number("rounds") {
        let mut stream = Some(Any::connect(flavour, &path));
        let there = stream.as_mut().expect("there");
        there.write_all(&ask(b'h', round, 0)).expect("room");
        // What was written and not read is the parent's, too.
        there.write_all(b"one ").expect("room");
        let status = signals::in_a_fork(|| {
            let mut copy = stream.take();
            let refused = copy.as_mut().is_some_and(is_refused);
            if let Some(Any::Async(runtime, stream)) = copy.take() {
                drop(stream);
                // It has threads that do not exist here, and an epoll that is its parent's.
                std::mem::forget(runtime);
            }
            u8::from(!refused)
        });
        assert_eq!(status, 0, "a forked child got something");
        let mut stream = stream.expect("this is the parent");
        stream.write_all(b"two").expect("the stream goes on");
        stream.end().expect("an end");
        // Sleeps in between: what the child did must not keep this from being woken.
        assert_eq!(stream.read_to_end().expect("the end"), b"one two");
    }
    say("done");
}

fn a_forked_child_touches_nothing() -> Ran {
    let rounds = scaled(20).max(3);
    for flavour in FLAVOURS {
        let serving = Serving::start("blocking");
        let start = Start::role("forking").with("path", serving.path().display()).with("flavour", flavour);
        let mut process = start.with("rounds", rounds).start();
        process.expect("done");
        process.succeed();
        serving.stop();
        tick();
    }
    done!("{rounds} children for each way to wait, that used streams and dropped them")
}

/// Over the socket the last bytes are kept when the socket takes no more; they go with their writer, and what the reader has
/// then is no end, and no fault.
fn a_writer_that_goes_with_bytes_that_were_not_taken() -> Ran {
    let mut told = Vec::new();
    for flavour in FLAVOURS {
        let mut serving = Serving::start(flavour);
        let runtime = runtime("one");
        let mut written = 0;
        {
            let _entered = runtime.enter();
            let stream = serving.connect("blocking");
            let Any::Blocking(mut stream) = stream else { unreachable!("asked for") };
            stream.write_all(&ask(b'r', 5, 0)).expect("room");
            let mut stream = stream.into_async().expect("watched");
            serving.process.stop();
            let mut bytes = Bytes::new(5);
            let mut nobody = std::task::Context::from_waker(std::task::Waker::noop());
            let mut pin = std::pin::Pin::new(&mut stream);
            'full: loop {
                let mut some = vec![0; 7_777];
                bytes.fill(&mut some);
                let mut from = 0;
                while from < some.len() {
                    match pin.as_mut().poll_write(&mut nobody, &some[from..]) {
                        std::task::Poll::Ready(count) => {
                            let count = count.expect("room");
                            from += count;
                            written += count;
                        }
                        std::task::Poll::Pending => break 'full,
                    }
                }
            }
            // Nothing waits for it to be flushed.
        }
        serving.process.go_on();
        let said = serving.process.expect("read");
        let mut words = said.split_whitespace();
        let read: usize = words.next().expect("a count").parse().expect("a number");
        assert_eq!(words.next(), Some("Err(Some(Gone))"), "{said}");
        assert!(read <= written, "{read} of {written}");
        assert!(over_socket() || read == written, "rings keep what was written: {read} of {written}");
        told.push(written - read);
        serving.stop();
        tick();
    }
    done!("{told:?} bytes went with their writers")
}

/// Connects, forks a child that holds all descriptors until it is told to end, and waits for its own end.
fn leaving(arguments: &Arguments) {
    let mut stream = options().connect_bytes(arguments.text("path")).expect("connect");
    stream.write_all(&ask(b'r', 9, 0)).expect("room");
    let (born, over) = (arguments.text("born").to_owned(), arguments.text("over").to_owned());
    std::thread::spawn(move || {
        signals::in_a_fork(|| {
            std::fs::write(&born, std::process::id().to_string()).expect("told");
            // Without end it goes by itself.
            let _ = becomes_true(Duration::from_secs(25), || Path::new(&over).exists());
            0
        })
    });
    say("ready");
    let _ = hear();
}

fn a_child_that_holds_the_socket_keeps_no_dead_client_alive() -> Ran {
    for flavour in FLAVOURS {
        let mut serving = Serving::start(flavour);
        let dir = tempfile::tempdir().expect("a directory");
        let (born, over) = (dir.path().join("born"), dir.path().join("over"));
        let start = Start::role("leaving").with("path", serving.path().display());
        let mut client = start.with("born", born.display()).with("over", over.display()).start();
        client.expect("ready");
        let mut child = 0;
        wait_until("the child is there", || {
            child = std::fs::read_to_string(&born).ok().and_then(|pid| pid.parse().ok()).unwrap_or(0);
            child != 0
        });
        client.kill();
        assert_eq!(serving.process.expect("read").trim(), "0 Err(Some(Gone))");
        let state = observe::state(child);
        assert!(!matches!(state, None | Some('Z')), "learnt only when the child let go: {state:?}");
        std::fs::write(&over, "").expect("told");
        wait_until("the child is gone", || observe::state(child).is_none());
        serving.stop();
        tick();
    }
    done!("a reader of each kind, whose client left a child behind")
}
