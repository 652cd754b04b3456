//! gRPC with tonic over a Unix domain socket, and the same over a byte stream of Ringbell. The
//! service is written out, which spares the machine a protobuf compiler.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready as Done, ready as done};
use std::io;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use ringbell::{AsyncByteListener, AsyncByteStream, ConnectError};
use ringbell_interop::grpc::Incoming;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{Body, BoxFuture, Service, StdError, http};
use tonic::server::{NamedService, UnaryService};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::runtime::runtime;
use crate::outcome::Outcome;
use crate::payload::is_whole;
use crate::scenario::Case;
use crate::system::{Client, Ready, Setup, System};

/// As `#[tokio::main]` has it, and with the windows that HTTP/2 begins with.
pub(crate) static DEFAULT: Tonic = Tonic { name: "tonic", tuned: false, bytes: false };

/// Everything on the thread that calls or serves, and windows into which every message fits.
pub(crate) static TUNED: Tonic = Tonic { name: "tonic-tuned", tuned: true, bytes: false };

/// As [`DEFAULT`], over a byte stream.
pub(crate) static BYTES: Tonic = Tonic { name: "tonic-bytes", tuned: false, bytes: true };

/// As [`TUNED`], over a byte stream.
pub(crate) static BYTES_TUNED: Tonic =
    Tonic { name: "tonic-bytes-tuned", tuned: true, bytes: true };

/// Calls over a connection that stays.
#[derive(Debug)]
pub(crate) struct Tonic {
    name: &'static str,
    tuned: bool,
    /// Over a byte stream of Ringbell.
    bytes: bool,
}

/// Bytes of a window, and the largest message.
const WINDOW: u32 = 8 << 20;
const LARGEST: usize = 8 << 20;

/// The message of both directions.
#[derive(Clone, PartialEq, prost::Message)]
struct Packet {
    #[prost(bytes = "vec", tag = "1")]
    body: Vec<u8>,
}

/// The method.
struct Call;

impl UnaryService<Packet> for Call {
    type Response = Packet;
    type Future = Done<Result<Response<Packet>, Status>>;

    fn call(&mut self, request: Request<Packet>) -> Self::Future {
        let packet = request.into_inner();
        assert!(is_whole(&packet.body), "a request of {} bytes arrived damaged", packet.body.len());
        done(Ok(Response::new(packet)))
    }
}

/// The service, as a protobuf compiler would have written it.
#[derive(Clone, Debug)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "race.Echo";
}

/// The only method there is.
const METHOD: &str = "/race.Echo/Call";

impl<B> Service<http::Request<B>> for Echo
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::default())
                .apply_max_message_size_config(Some(LARGEST), Some(LARGEST));
            Ok(grpc.unary(Call, request).await)
        })
    }
}

impl System for Tonic {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cases(&self) -> Vec<Case> {
        if self.tuned { Case::few() } else { Case::glance() }
    }

    fn serve(&self, setup: &Setup, ready: Ready<'_>) -> Outcome<()> {
        runtime(!self.tuned)?.block_on(async {
            let mut server = Server::builder();
            if self.tuned {
                server = server
                    .initial_stream_window_size(WINDOW)
                    .initial_connection_window_size(WINDOW);
            }
            if self.bytes {
                let listener =
                    ringbell::Server::builder().max_clients(256).bind_bytes(&setup.path)?;
                ready()?;
                let incoming = Incoming::from(AsyncByteListener::from(listener));
                server.add_service(Echo).serve_with_incoming(incoming).await?;
            } else {
                let listener = UnixListener::bind(&setup.path)?;
                ready()?;
                server
                    .add_service(Echo)
                    .serve_with_incoming(UnixListenerStream::new(listener))
                    .await?;
            }
            Ok(())
        })
    }

    fn connect(&self, setup: &Setup) -> Outcome<Box<dyn Client>> {
        let runtime = runtime(!self.tuned)?;
        let path = setup.path.clone();
        // The address is not used: the connector knows where to go.
        let mut endpoint = Endpoint::try_from("http://localhost")?;
        if self.tuned {
            endpoint =
                endpoint.initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
        }
        let channel = if self.bytes {
            let connector = tower::service_fn(move |_| {
                let path = path.clone();
                async move {
                    let stream = AsyncByteStream::connect(path).await?;
                    Ok::<_, ConnectError>(TokioIo::new(stream))
                }
            });
            runtime.block_on(endpoint.connect_with_connector(connector))?
        } else {
            let connector = tower::service_fn(move |_| {
                let path = path.clone();
                async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
            });
            runtime.block_on(endpoint.connect_with_connector(connector))?
        };
        let grpc = tonic::client::Grpc::new(channel)
            .max_decoding_message_size(LARGEST)
            .max_encoding_message_size(LARGEST);
        Ok(Box::new(Caller { grpc, pending: VecDeque::new(), runtime }))
    }
}

/// The client's end.
struct Caller {
    grpc: tonic::client::Grpc<Channel>,
    pending: VecDeque<JoinHandle<Outcome<Vec<u8>>>>,
    runtime: Runtime,
}

/// One call.
async fn call(mut grpc: tonic::client::Grpc<Channel>, body: Vec<u8>) -> Outcome<Vec<u8>> {
    grpc.ready().await?;
    let method = PathAndQuery::from_static(METHOD);
    let codec: ProstCodec<Packet, Packet> = ProstCodec::default();
    let response = grpc.unary(Request::new(Packet { body }), method, codec).await?;
    Ok(response.into_inner().body)
}

impl Client for Caller {
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()> {
        *answer = self.runtime.block_on(call(self.grpc.clone(), request.to_vec()))?;
        Ok(())
    }

    fn send(&mut self, request: &[u8]) -> Outcome<()> {
        self.pending.push_back(self.runtime.spawn(call(self.grpc.clone(), request.to_vec())));
        Ok(())
    }

    fn receive(&mut self, answer: &mut Vec<u8>) -> Outcome<()> {
        let call = self.pending.pop_front().ok_or("nothing was sent")?;
        *answer = self.runtime.block_on(call)??;
        Ok(())
    }
}
