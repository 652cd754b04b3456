//! The examples, over every transport and on both flavours of runtime.

#[path = "../examples/grpc.rs"]
mod grpc;
#[path = "../examples/http.rs"]
mod http;

use ringbell::{AsyncByteListener, Server};
use tokio::runtime::{Builder, Runtime};

fn runtimes() -> [Runtime; 2] {
    [Builder::new_current_thread(), Builder::new_multi_thread()]
        .map(|mut builder| builder.worker_threads(2).enable_all().build().expect("a runtime"))
}

/// Listeners that offer shared memory, in rings of the usual size and in the smallest, and that do
/// not.
fn listeners(directory: &std::path::Path) -> [AsyncByteListener; 3] {
    let builders = [
        Server::builder(),
        Server::builder().ring_capacity(2048),
        Server::builder().shared_memory(false),
    ];
    let mut number = 0;
    builders.map(|builder| {
        number += 1;
        builder.bind_bytes(directory.join(number.to_string())).expect("bind").into()
    })
}

#[test]
fn http_says_the_same_over_all() {
    for runtime in runtimes() {
        let expected = runtime.block_on(http::over_tcp()).expect("TCP");
        assert!(expected > 12_000_000);
        let directory = tempfile::tempdir().expect("a directory");
        for listener in listeners(directory.path()) {
            let bytes = runtime.block_on(http::over_byte_streams(listener)).expect("a byte stream");
            assert_eq!(bytes, expected);
        }
    }
}

#[test]
fn grpc_says_the_same_over_all() {
    for runtime in runtimes() {
        let expected = runtime.block_on(grpc::over_tcp()).expect("TCP");
        assert!(expected > 7_000_000);
        let directory = tempfile::tempdir().expect("a directory");
        for listener in listeners(directory.path()) {
            let bytes = runtime.block_on(grpc::over_byte_streams(listener)).expect("a byte stream");
            assert_eq!(bytes, expected);
        }
    }
}
