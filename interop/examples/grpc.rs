//! A gRPC service of tonic over Ringbell's byte streams, and the very same service over TCP: the
//! way off one machine.
//!
//! Messages and methods are written by hand, as `protoc` would write them.
//!
//! `cargo run -p ringbell-interop --example grpc`

use futures_core::Stream;
use hyper_util::rt::TokioIo;
use ringbell::{AsyncByteListener, AsyncByteStream};
use ringbell_interop::grpc::{Incoming, Peer};
use std::convert::Infallible;
use std::error::Error;
use std::future::{Ready, ready};
use std::io;
use std::path::PathBuf;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{Body, BoxFuture, Service, StdError, http};
use tonic::server::{NamedService, ServerStreamingService, UnaryService};
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// The one type of message.
#[derive(Clone, PartialEq, prost::Message)]
struct Packet {
    #[prost(bytes = "vec", tag = "1")]
    body: Vec<u8>,
    #[prost(uint64, tag = "2")]
    number: u64,
}

/// Answers what it was asked; with the session's number, if there is one.
struct Echo;

impl UnaryService<Packet> for Echo {
    type Response = Packet;
    type Future = Ready<Result<Response<Packet>, Status>>;

    fn call(&mut self, request: Request<Packet>) -> Self::Future {
        let number = request.extensions().get::<Peer>().map_or(0, |peer| peer.session);
        let body = request.into_inner().body;
        ready(if body.is_empty() {
            Err(Status::invalid_argument("nothing to say"))
        } else {
            Ok(Response::new(Packet { body, number }))
        })
    }
}

/// Answers with as many packets as it was asked for.
struct Count;

impl ServerStreamingService<Packet> for Count {
    type Response = Packet;
    type ResponseStream = Numbers;
    type Future = Ready<Result<Response<Numbers>, Status>>;

    fn call(&mut self, request: Request<Packet>) -> Self::Future {
        let Packet { body, number } = request.into_inner();
        ready(Ok(Response::new(Numbers { body, next: 0, end: number })))
    }
}

struct Numbers {
    body: Vec<u8>,
    next: u64,
    end: u64,
}

impl Stream for Numbers {
    type Item = Result<Packet, Status>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Self::Item>> {
        if self.next == self.end {
            return Poll::Ready(None);
        }
        self.next += 1;
        Poll::Ready(Some(Ok(Packet { body: self.body.clone(), number: self.next })))
    }
}

/// The service. It does not know what it is served over.
#[derive(Clone, Debug)]
struct Example;

impl NamedService for Example {
    const NAME: &'static str = "example.Example";
}

const ECHO: &str = "/example.Example/Echo";
const COUNT: &str = "/example.Example/Count";

/// Largest message that is sent here.
const LARGEST: usize = 16 << 20;

impl<B> Service<http::Request<B>> for Example
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
            let codec: ProstCodec<Packet, Packet> = ProstCodec::default();
            let mut grpc = tonic::server::Grpc::new(codec)
                .apply_max_message_size_config(Some(LARGEST), Some(LARGEST));
            Ok(match request.uri().path() {
                ECHO => grpc.unary(Echo, request).await,
                COUNT => grpc.server_streaming(Count, request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

/// Serves whatever comes in, until the sender is dropped or used.
async fn serve<I, S>(incoming: I, stop: oneshot::Receiver<()>) -> Outcome<()>
where
    I: Stream<Item = io::Result<S>> + Send + 'static,
    S: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let stopped = async {
        let _ = stop.await;
    };
    Ok(Server::builder()
        .add_service(Example)
        .serve_with_incoming_shutdown(incoming, stopped)
        .await?)
}

/// The client, over any channel: how many bytes it got, and the session's number if there is one.
async fn talk(channel: Channel) -> Outcome<(usize, u64)> {
    let mut grpc = tonic::client::Grpc::new(channel)
        .max_decoding_message_size(LARGEST)
        .max_encoding_message_size(LARGEST);
    let codec = ProstCodec::<Packet, Packet>::default;
    let (mut bytes, mut session) = (0, 0);
    for len in [1, 1000, 5_000_000] {
        grpc.ready().await?;
        let body: Vec<u8> = (0..len).map(|index: u32| index.to_le_bytes()[0]).collect();
        let request = Request::new(Packet { body: body.clone(), number: 0 });
        let answer: Response<Packet> =
            grpc.unary(request, PathAndQuery::from_static(ECHO), codec()).await?;
        assert_eq!(answer.get_ref().body, body);
        (bytes, session) = (bytes + body.len(), answer.get_ref().number);
    }
    grpc.ready().await?;
    let nothing = Request::new(Packet::default());
    let refused = grpc.unary(nothing, PathAndQuery::from_static(ECHO), codec()).await;
    assert_eq!(
        refused.map(|_: Response<Packet>| ()).expect_err("nothing was said").code(),
        Code::InvalidArgument
    );
    grpc.ready().await?;
    let request = Request::new(Packet { body: vec![7; 1000], number: 2000 });
    let mut items = grpc
        .server_streaming(request, PathAndQuery::from_static(COUNT), codec())
        .await?
        .into_inner();
    let mut number = 0;
    while let Some(Packet { body, number: next }) = items.message().await? {
        number += 1;
        assert_eq!((next, body.len()), (number, 1000));
        bytes += body.len();
    }
    assert_eq!(number, 2000);
    Ok((bytes, session))
}

/// A channel over a byte stream.
async fn connect(path: PathBuf) -> Outcome<Channel> {
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move {
            Ok::<_, ringbell::ConnectError>(TokioIo::new(AsyncByteStream::connect(path).await?))
        }
    });
    // The address is not used: the connector knows where to go.
    Ok(Endpoint::from_static("http://ringbell").connect_with_connector(connector).await?)
}

/// Client and server over a byte stream: how many bytes the client got.
pub(crate) async fn over_byte_streams(listener: AsyncByteListener) -> Outcome<usize> {
    let path = listener.path().to_owned();
    let (stop, stopped) = oneshot::channel();
    let server = tokio::spawn(serve(Incoming::from(listener), stopped));
    let (bytes, session) = talk(connect(path).await?).await?;
    assert_eq!(session, 1, "the service is told who asks");
    let _ = stop.send(());
    server.await??;
    Ok(bytes)
}

/// Client and server over TCP: how many bytes the client got.
pub(crate) async fn over_tcp() -> Outcome<usize> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = Endpoint::try_from(format!("http://{}", listener.local_addr()?))?;
    let (stop, stopped) = oneshot::channel();
    let server = tokio::spawn(serve(TcpListenerStream::new(listener), stopped));
    let (bytes, _) = talk(endpoint.connect().await?).await?;
    let _ = stop.send(());
    server.await??;
    Ok(bytes)
}

#[allow(dead_code, reason = "tests include this file")]
#[tokio::main]
async fn main() -> Outcome<()> {
    let path = std::env::temp_dir().join(format!("ringbell-grpc-{}", std::process::id()));
    println!(
        "{} bytes over a byte stream",
        over_byte_streams(AsyncByteListener::bind(path)?).await?
    );
    println!("{} bytes over TCP", over_tcp().await?);
    Ok(())
}
