//! An HTTP service of axum over Ringbell's byte streams, and the very same service over TCP: the
//! way off one machine.
//!
//! `cargo run -p ringbell-interop --example http`

use axum::Router;
use axum::body::Bytes;
use axum::extract::Path;
use axum::routing::{get, post};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use ringbell::{AsyncByteListener, AsyncByteStream};
use ringbell_interop::http::Streams;
use std::error::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// The service. It does not know what it is served over.
fn service() -> Router {
    Router::new()
        .route(
            "/hello/{name}",
            get(|Path(name): Path<String>| async move { format!("hello, {name}") }),
        )
        .route(
            "/echo",
            post(|body: Bytes| async move { body })
                .layer(axum::extract::DefaultBodyLimit::disable()),
        )
}

/// Serves whatever is accepted, until the sender is dropped or used.
async fn serve<L>(listener: L, stop: oneshot::Receiver<()>) -> Outcome<()>
where
    L: axum::serve::Listener,
    L::Addr: std::fmt::Debug,
{
    let stopped = async {
        let _ = stop.await;
    };
    Ok(axum::serve(listener, service()).with_graceful_shutdown(stopped).await?)
}

async fn get_text(
    sender: &mut SendRequest<Full<Bytes>>,
    path: &str,
) -> Outcome<(StatusCode, String)> {
    let request = Request::get(path).header("host", "ringbell").body(Full::default())?;
    // The connection's task may not have done with the last answer.
    sender.ready().await?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    Ok((head.status, String::from_utf8(body.collect().await?.to_bytes().to_vec())?))
}

/// The client: hyper, over any stream. How many bytes it got.
async fn talk<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> Outcome<usize> {
    let (mut sender, connection) = handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let mut bytes = 0;
    for name in ["one", "two"] {
        let (status, text) = get_text(&mut sender, &format!("/hello/{name}")).await?;
        assert_eq!((status, &*text), (StatusCode::OK, &*format!("hello, {name}")));
        bytes += text.len();
    }
    assert_eq!(get_text(&mut sender, "/nowhere").await?.0, StatusCode::NOT_FOUND);
    // Larger than any ring.
    let large: Bytes = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    let request =
        Request::post("/echo").header("host", "ringbell").body(Full::new(large.clone()))?;
    sender.ready().await?;
    let back = sender.send_request(request).await?.into_body().collect().await?.to_bytes();
    assert_eq!(back, large);
    bytes += back.len();
    // The connection ends without an error: hyper ends its side, and so does the other.
    drop(sender);
    driver.await??;
    Ok(bytes)
}

/// Client and server over a byte stream.
pub(crate) async fn over_byte_streams(listener: AsyncByteListener) -> Outcome<usize> {
    let path = listener.path().to_owned();
    let (stop, stopped) = oneshot::channel();
    let server = tokio::spawn(serve(Streams::from(listener), stopped));
    let bytes = talk(AsyncByteStream::connect(path).await?).await?;
    let _ = stop.send(());
    server.await??;
    Ok(bytes)
}

/// Client and server over TCP.
pub(crate) async fn over_tcp() -> Outcome<usize> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (stop, stopped) = oneshot::channel();
    let server = tokio::spawn(serve(listener, stopped));
    let bytes = talk(TcpStream::connect(address).await?).await?;
    let _ = stop.send(());
    server.await??;
    Ok(bytes)
}

#[allow(dead_code, reason = "tests include this file")]
#[tokio::main]
async fn main() -> Outcome<()> {
    let path = std::env::temp_dir().join(format!("ringbell-http-{}", std::process::id()));
    println!(
        "{} bytes over a byte stream",
        over_byte_streams(AsyncByteListener::bind(path)?).await?
    );
    println!("{} bytes over TCP", over_tcp().await?);
    Ok(())
}
