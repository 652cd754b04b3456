//! HTTP/1.1 with hyper over a Unix domain socket, and the same over a byte stream of Ringbell.

use std::collections::VecDeque;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use ringbell::{AsyncByteListener, AsyncByteStream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::runtime::runtime;
use crate::outcome::Outcome;
use crate::payload::is_whole;
use crate::scenario::Case;
use crate::system::{Client, Ready, Setup, System};

/// As `#[tokio::main]` has it: a worker thread for each CPU.
pub(crate) static DEFAULT: Hyper = Hyper { name: "hyper", workers: true, bytes: false };

/// Everything on the thread that calls or serves.
pub(crate) static ONE_THREAD: Hyper =
    Hyper { name: "hyper-one-thread", workers: false, bytes: false };

/// As [`DEFAULT`], over a byte stream.
pub(crate) static BYTES: Hyper = Hyper { name: "hyper-bytes", workers: true, bytes: true };

/// As [`ONE_THREAD`], over a byte stream.
pub(crate) static BYTES_ONE_THREAD: Hyper =
    Hyper { name: "hyper-bytes-one-thread", workers: false, bytes: true };

/// Requests over connections that stay: as many as there are calls in flight, since each has one at
/// a time.
#[derive(Debug)]
pub(crate) struct Hyper {
    name: &'static str,
    workers: bool,
    /// Over a byte stream of Ringbell.
    bytes: bool,
}

/// Answers with what it was sent.
async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    assert!(is_whole(&body), "a request of {} bytes arrived damaged", body.len());
    Ok(Response::new(Full::new(body)))
}

/// Serves one connection, beside the others.
fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    tokio::spawn(async move {
        let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(echo));
        // A client that is done is gone.
        if let Err(error) = served.await
            && !error.is_shutdown()
        {
            eprintln!("race: hyper server: {error}");
        }
    });
}

impl System for Hyper {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cases(&self) -> Vec<Case> {
        if self.workers { Case::glance() } else { Case::few() }
    }

    fn serve(&self, setup: &Setup, ready: Ready<'_>) -> Outcome<()> {
        runtime(self.workers)?.block_on(async {
            if self.bytes {
                let listener =
                    ringbell::Server::builder().max_clients(256).bind_bytes(&setup.path)?;
                let listener = AsyncByteListener::from(listener);
                ready()?;
                loop {
                    serve(listener.accept().await?);
                }
            }
            let listener = UnixListener::bind(&setup.path)?;
            ready()?;
            loop {
                serve(listener.accept().await?.0);
            }
        })
    }

    fn connect(&self, setup: &Setup) -> Outcome<Box<dyn Client>> {
        let runtime = runtime(self.workers)?;
        let connections = runtime.block_on(async {
            let mut connections = VecDeque::new();
            for _ in 0..setup.case.in_flight {
                connections.push_back(if self.bytes {
                    shake_hands(AsyncByteStream::connect(&setup.path).await?).await?
                } else {
                    shake_hands(UnixStream::connect(&setup.path).await?).await?
                });
            }
            Outcome::Ok(connections)
        })?;
        Ok(Box::new(Caller { runtime, connections, pending: VecDeque::new() }))
    }
}

type Connection = SendRequest<Full<Bytes>>;

/// A connection, driven by a task.
async fn shake_hands(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Outcome<Connection> {
    let (connection, driver) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(driver);
    Ok(connection)
}

/// An answer, and the connection for the next request.
type Answered = (Connection, Vec<u8>);

/// One request.
async fn call(mut connection: Connection, body: Vec<u8>) -> Outcome<Answered> {
    connection.ready().await?;
    let request = Request::post("/").header("host", "race").body(Full::new(Bytes::from(body)))?;
    let answer = connection.send_request(request).await?.into_body().collect().await?.to_bytes();
    Ok((connection, answer.into()))
}

/// The client's end.
struct Caller {
    runtime: Runtime,
    /// Those without a request.
    connections: VecDeque<Connection>,
    pending: VecDeque<JoinHandle<Outcome<Answered>>>,
}

impl Caller {
    fn take(&mut self) -> Outcome<Connection> {
        Ok(self.connections.pop_front().ok_or("more calls than connections")?)
    }
}

impl Client for Caller {
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()> {
        let free = self.take()?;
        let connection;
        (connection, *answer) = self.runtime.block_on(call(free, request.to_vec()))?;
        self.connections.push_back(connection);
        Ok(())
    }

    fn send(&mut self, request: &[u8]) -> Outcome<()> {
        let free = self.take()?;
        self.pending.push_back(self.runtime.spawn(call(free, request.to_vec())));
        Ok(())
    }

    fn receive(&mut self, answer: &mut Vec<u8>) -> Outcome<()> {
        let pending = self.pending.pop_front().ok_or("nothing was sent")?;
        let connection;
        (connection, *answer) = self.runtime.block_on(pending)??;
        self.connections.push_back(connection);
        Ok(())
    }
}
