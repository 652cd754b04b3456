//! shmipc (cloudwego): a stream in shared memory for each client, whose wake-ups go over a socket
//! or an eventfd.

use std::os::unix::net::SocketAddr;

use shmipc::buffer::BufferReader;
use shmipc::config::Config;
use shmipc::session::{SessionManager, SessionManagerConfig};
use shmipc::stream::Stream;
use shmipc::transport::{DefaultUnixConnect, DefaultUnixListen};
use shmipc::{Error, Listener};
use tokio::runtime::Runtime;

use super::runtime::runtime;
use crate::outcome::Outcome;
use crate::scenario::Case;
use crate::system::{Client, Ready, Setup, System};
use crate::work::Handler;

/// As it comes.
pub(crate) static DEFAULT: Shmipc = Shmipc { name: "shmipc", eventfd: false };

/// With a memfd, and an eventfd for the wake-ups.
pub(crate) static EVENTFD: Shmipc = Shmipc { name: "shmipc-eventfd", eventfd: true };

/// Calls over a stream that stays.
#[derive(Debug)]
pub(crate) struct Shmipc {
    name: &'static str,
    eventfd: bool,
}

/// The largest message of the cases is cut into slices; there is memory for a few of them.
const MEMORY: u32 = 64 << 20;

impl Shmipc {
    fn config(&self, setup: &Setup) -> Config {
        let mut config = Config::new();
        config.share_memory_buffer_cap = MEMORY;
        // Names that no other trial has, beside its socket.
        config.share_memory_path_prefix =
            setup.path.with_extension("buffers").to_string_lossy().into_owned();
        config.queue_path = setup.path.with_extension("queue").to_string_lossy().into_owned();
        if self.eventfd { config.with_v4_eventfd() } else { config }
    }
}

impl System for Shmipc {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cases(&self) -> Vec<Case> {
        if self.eventfd { Case::glance() } else { Case::few() }
    }

    fn serve(&self, setup: &Setup, ready: Ready<'_>) -> Outcome<()> {
        let (config, handler) = (self.config(setup), Handler::of(&setup.case));
        runtime(true)?.block_on(async {
            let address = SocketAddr::from_pathname(&setup.path)?;
            let mut listener = Listener::new(DefaultUnixListen, address, config).await?;
            ready()?;
            let size = setup.case.size;
            loop {
                let stream = listener.accept().await?;
                tokio::spawn(answer_all(stream, size, handler));
            }
        })
    }

    fn connect(&self, setup: &Setup) -> Outcome<Box<dyn Client>> {
        let runtime = runtime(true)?;
        let sessions =
            SessionManagerConfig::new().with_config(self.config(setup)).with_session_num(1);
        let (manager, stream) = runtime.block_on(async {
            let address = SocketAddr::from_pathname(&setup.path)?;
            let manager = SessionManager::new(sessions, DefaultUnixConnect, address)
                .await
                .map_err(|error| format!("shmipc: {error}"))?;
            let stream = manager.get_stream()?;
            Outcome::Ok((manager, stream))
        })?;
        Ok(Box::new(Caller { stream, size: setup.case.size, _manager: manager, runtime }))
    }
}

/// Writes a message, and waits while the queue has no room for it.
async fn send(stream: &mut Stream, message: &[u8]) -> Outcome<()> {
    stream.write_bytes(message)?;
    loop {
        match stream.flush(false).await {
            Err(Error::QueueFull) => tokio::task::yield_now().await,
            flushed => return Ok(flushed?),
        }
    }
}

/// Answers requests, all of one size, until the client hangs up.
async fn answer_all(mut stream: Stream, size: usize, mut handler: Handler) {
    let mut answer = Vec::new();
    loop {
        match stream.read_exact_bytes(size).await {
            Ok(request) => {
                handler.answer(&request, &mut answer);
            }
            Err(Error::StreamClosed | Error::EndOfStream) => return,
            Err(error) => return eprintln!("race: shmipc server: {error}"),
        }
        stream.recv_buf().release_previous_read();
        if let Err(error) = send(&mut stream, &answer).await {
            return eprintln!("race: shmipc server: {error}");
        }
    }
}

/// The client's end.
struct Caller {
    stream: Stream,
    size: usize,
    _manager: SessionManager<DefaultUnixConnect>,
    runtime: Runtime,
}

impl Client for Caller {
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()> {
        self.send(request)?;
        self.receive(answer)
    }

    fn send(&mut self, request: &[u8]) -> Outcome<()> {
        self.runtime.block_on(send(&mut self.stream, request))
    }

    fn receive(&mut self, answer: &mut Vec<u8>) -> Outcome<()> {
        let message = self.runtime.block_on(self.stream.read_exact_bytes(self.size))?;
        answer.clear();
        answer.extend_from_slice(&message);
        drop(message);
        self.stream.release_read_and_reuse();
        Ok(())
    }
}
