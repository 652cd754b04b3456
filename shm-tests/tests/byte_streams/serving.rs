//! Servers and clients in processes of their own, which do what the first bytes of a stream say.

use crate::traffic::{
    Any, Bytes, ask, asked, echo, exchange, exchange_in_tasks, is_reset, runtime,
};
use ringbell::{
    AsyncByteListener, AsyncByteStream, ByteStream, ByteStreamError, Server, Transport,
    WaitSettings,
};
use ringbell_shm_tests::process::{Arguments, Process, Start, hear, say};
use ringbell_shm_tests::server::waiting;
use ringbell_shm_tests::transport::over_socket;
use ringbell_shm_tests::{options, wait_until};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A client in a process of its own: what `do=` says.
pub(crate) fn connect(arguments: &Arguments) {
    let path = PathBuf::from(arguments.text("path"));
    let (seed, count) = (arguments.number("seed"), arguments.number("count"));
    let patient = || {
        let wait = waiting("patient", WaitSettings::client());
        options().wait(wait).connect_bytes(&path).expect("connect")
    };
    match arguments.text("do") {
        "exchange" => exchange(&patient(), seed, count, true),
        "echo" => echo(&patient(), seed),
        // Writes, and is killed or ends without an end.
        "write" => {
            let mut stream = Any::connect(arguments.text("flavour"), &path);
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
pub(crate) fn serve(arguments: &Arguments) {
    let path = PathBuf::from(arguments.text("path"));
    let builder = Server::builder().max_clients(256);
    let builder = match arguments.maybe_number("ring") {
        Some(ring) => builder.ring_capacity(ring),
        None => builder,
    };
    let builder =
        builder.wait(waiting(arguments.get("wait").unwrap_or("default"), WaitSettings::server()));
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
        b'e' => echo(stream, seed),
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
            say(&format!(
                "read {} {:?}",
                all.len(),
                end.map_err(|error| ByteStreamError::of(&error))
            ));
        }
        verb => panic!("no such verb: {verb}"),
    }
}

fn wait_for_a_file(number: u64) {
    wait_until("the test goes on", || {
        Path::new(&format!("/tmp/.ringbell-bytes-{number}")).exists()
    });
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
            say(&format!(
                "read {} {:?}",
                all.len(),
                end.map_err(|error| ByteStreamError::of(&error))
            ));
        }
        verb => panic!("no such verb: {verb}"),
    }
}

/// A server in a process of its own, and the directory of its socket.
pub(crate) struct Serving {
    pub(crate) process: Process,
    directory: tempfile::TempDir,
}

impl Serving {
    pub(crate) fn start(flavour: &str) -> Self {
        Self::prepare(flavour, |start| start)
    }

    pub(crate) fn prepare(flavour: &str, more: impl FnOnce(Start) -> Start) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("s");
        let mut process =
            more(Start::role("serve").with("path", path.display()).with("flavour", flavour))
                .start();
        process.expect("ready");
        Self { process, directory }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    pub(crate) fn connect(&self, flavour: &str) -> Any {
        let stream = Any::connect(flavour, &self.path());
        let transport = match &stream {
            Any::Blocking(stream) => stream.transport(),
            Any::Async(_, stream) => stream.transport().clone(),
        };
        assert_eq!(transport != Transport::SharedMemory, over_socket());
        stream
    }

    pub(crate) fn stop(mut self) {
        self.process.hang_up();
        self.process.succeed();
    }
}
