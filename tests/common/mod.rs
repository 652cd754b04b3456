//! A server on a thread of its own, for the tests of this directory.

use ringbell::{Client, ConnectOptions, Server, ServerBuilder, ServerHandle, TransportChoice};
use std::path::PathBuf;
use std::thread::JoinHandle;

pub(crate) const BOTH: [TransportChoice; 2] =
    [TransportChoice::SharedMemory, TransportChoice::Socket];

/// A server, which is shut down at the end of a test that has gone well.
pub(crate) struct Serving {
    directory: tempfile::TempDir,
    pub(crate) handle: ServerHandle,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    /// `serve` runs the server, on another thread, until it is shut down.
    pub(crate) fn start(
        builder: ServerBuilder,
        serve: impl FnOnce(Server) + Send + 'static,
    ) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let server = builder.bind(directory.path().join("socket")).expect("bound");
        let handle = server.handle();
        let thread = std::thread::spawn(move || serve(server));
        Self { directory, handle, thread: Some(thread) }
    }

    /// Its address.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    /// A client of it.
    pub(crate) fn connect(&self, options: ConnectOptions, transport: TransportChoice) -> Client {
        options.transport(transport).connect(self.path()).expect("connected")
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.handle.shutdown(None);
            self.thread.take().expect("runs").join().expect("no panic");
        }
    }
}
