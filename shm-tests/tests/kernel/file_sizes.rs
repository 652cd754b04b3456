//! H1: a process that may make no large files (`ulimit -f`). Growing one beyond the limit is a
//! signal, of which processes die.

use ringbell::{ByteStream, Client, ConnectOptions, FallbackReason, RejectReason, Transport};
use ringbell_shm_tests::done;
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, Start, hear, say};
use ringbell_shm_tests::server::{Server, serve};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::path::Path;

fn limit_files(bytes: u64) {
    let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
    setrlimit(Resource::Fsize, limit).expect("a limit");
}

/// The role: a server that may make files of `limit` bytes; or, with `bytes`, one for byte streams.
pub(crate) fn limited_server(arguments: &Arguments) {
    limit_files(arguments.number("limit"));
    match arguments.get("handler") {
        Some(_) => serve(arguments),
        None => serve_bytes(arguments.text("path")),
    }
}

fn serve_bytes(path: &str) {
    let listener = ringbell::Server::builder().bind_bytes(path).expect("bind");
    say("ready");
    let mut stream = listener.accept().expect("a stream");
    let mut all = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut all).expect("to the end");
    std::io::Write::write_all(&mut stream, &all).expect("room");
    stream.shutdown_write().expect("an end");
    drop(stream);
    while hear().is_some() {}
}

/// The role: a server without the socket as transport that may make no files says why it cannot.
pub(crate) fn limited_binder(arguments: &Arguments) {
    limit_files(0);
    let builder = ringbell::Server::builder().fallback(false);
    let error = builder.bind(arguments.text("path")).expect_err("no shared memory");
    say(&format!("refused {error}"));
}

/// The role: a client that may make no files.
pub(crate) fn limited_client(arguments: &Arguments) {
    limit_files(0);
    let mut client = Client::connect(arguments.text("path")).expect("connected");
    client.call(b"any").expect_err("no request of the verifier");
    say(&format!("over {:?}", client.transport()));
}

fn limited(limit: u64) -> Server {
    Server::prepare_role("limited_server").with("handler", "do").with("limit", limit).start()
}

fn transport(path: &Path, capacity: u64) -> Transport {
    let client = ConnectOptions::new().ring_capacity(capacity).connect(path).expect("served");
    client.transport().clone()
}

pub(crate) fn h1_a_limit_on_files_leads_to_the_socket() -> Ran {
    let over = |limit| Transport::Socket {
        reason: FallbackReason::Server(RejectReason::FileSizeLimit { limit }),
    };
    let server = limited(0);
    for capacity in [64 << 10, 4 << 20] {
        assert_eq!(transport(server.path(), capacity), over(0));
    }
    server.shut_down();
    // One page too few, and just enough.
    let server = limited(1 << 20);
    assert_eq!(transport(server.path(), 4 << 20), over(1 << 20));
    assert_eq!(transport(server.path(), 1 << 20), over(1 << 20));
    assert_eq!(transport(server.path(), 512 << 10), Transport::SharedMemory);
    let only = ConnectOptions::new().transport(ringbell::TransportChoice::SharedMemory);
    let refused = only.ring_capacity(4 << 20).connect(server.path()).expect_err("no rings");
    let told = refused.to_string();
    assert!(told.contains("RLIMIT_FSIZE") && told.contains("1048576"), "{told}");
    server.shut_down();
    done!("{told}")
}

pub(crate) fn h1_a_server_that_can_offer_nothing_says_why() -> Ran {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("test.sock");
    let mut binder = Start::role("limited_binder").with("path", path.display()).start();
    let told = binder.expect("refused");
    assert!(told.contains("RLIMIT_FSIZE"), "{told}");
    binder.succeed();
    done!("{told}")
}

pub(crate) fn h1_a_limited_byte_listener_and_a_limited_client_get_on() -> Ran {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("test.sock");
    let mut server =
        Start::role("limited_server").with("path", path.display()).with("limit", 0).start();
    server.expect("ready");
    let mut stream = ByteStream::connect(&path).expect("connected");
    std::io::Write::write_all(&mut stream, b"hello").expect("room");
    stream.shutdown_write().expect("an end");
    assert_eq!(std::io::read_to_string(&mut stream).expect("the echo"), "hello");
    drop(stream);
    server.hang_up();
    server.succeed();

    let server = Server::verifying();
    let mut client = Start::role("limited_client").with("path", server.path().display()).start();
    assert_eq!(client.expect("over"), "SharedMemory", "a client makes no files");
    client.succeed();
    drop(server);
    done!("an echo of bytes, and rings")
}
