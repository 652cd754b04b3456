//! What tonic's `serve_with_incoming` asks for.

use futures_core::Stream;
use ringbell::{AsyncByteListener, AsyncByteStream, Transport};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// Who is connected: an extension of every request.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The session's number.
    pub session: u64,
    /// What carries it.
    pub transport: Transport,
}

/// A stream that tonic may serve.
#[derive(Debug)]
pub struct Accepted(AsyncByteStream);

impl Connected for Accepted {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        Peer { session: self.0.session(), transport: self.0.transport().clone() }
    }
}

/// The streams of a listener, for `serve_with_incoming`. Ends when the listener is closed.
#[derive(Debug)]
pub struct Incoming(AsyncByteListener);

impl From<AsyncByteListener> for Incoming {
    fn from(listener: AsyncByteListener) -> Self {
        Self(listener)
    }
}

impl Stream for Incoming {
    type Item = io::Result<Accepted>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(match ready!(self.0.poll_accept(cx)) {
            Ok(stream) => Some(Ok(Accepted(stream))),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => None,
            Err(error) => Some(Err(error)),
        })
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
