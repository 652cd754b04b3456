//! What `axum::serve` asks for.

use axum::serve::Listener;
use ringbell::{AsyncByteListener, AsyncByteStream, ByteStreamError};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// How long to wait after a failure, of descriptors for example, as axum does for its own
/// listeners.
const PAUSE: Duration = Duration::from_secs(1);

/// A listener that axum may serve. Once it is closed it accepts nobody, and says nothing: end axum
/// by its graceful shutdown.
#[derive(Debug)]
pub struct Streams(AsyncByteListener);

impl From<AsyncByteListener> for Streams {
    fn from(listener: AsyncByteListener) -> Self {
        Self(listener)
    }
}

impl Listener for Streams {
    type Io = AsyncByteStream;
    type Addr = PathBuf;

    async fn accept(&mut self) -> (AsyncByteStream, PathBuf) {
        loop {
            match self.0.accept().await {
                Ok(stream) => return (stream, self.0.path().to_owned()),
                Err(error) if ByteStreamError::of(&error).is_some() => std::future::pending().await,
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<PathBuf> {
        Ok(self.0.path().to_owned())
    }
}
