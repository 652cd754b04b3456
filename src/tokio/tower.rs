//! tower: the client is a service, and a service answers requests (feature `tower`).

use super::AsyncService;
use super::{AsyncClient, Call};
use crate::client::CallError;
use crate::client::SessionEnd;
use crate::server::HandlerError;
use crate::server::service::{OwnedRequest, Responder};
use crate::server::{ServeError, Server, ServerStats};
use std::future::{Future, poll_fn};
use std::task::{Context, Poll};
use tower_service::Service;

/// Any error, as tower's layers have it.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Calls the server (feature `tower`). Always ready while the session is there: a call for which
/// there is no room waits in its future. Limits are a layer's business.
///
/// # Cancel safety
/// As [`AsyncClient::call`].
impl Service<Vec<u8>> for AsyncClient {
    type Response = Vec<u8>;
    type Error = CallError;
    type Future = Call<'static>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        let over =
            self.handle.shared().with(|core, _| core.over()).unwrap_or(Some(SessionEnd::Forked));
        Poll::Ready(over.map_or(Ok(()), |over| Err(over.as_call(false))))
    }

    fn call(&mut self, request: Vec<u8>) -> Call<'static> {
        self.call_owned(request)
    }
}

/// A `tower::Service` of requests, for [`Server::serve`] (feature `tower`).
///
/// Each request is handled by a clone of it, which is called when it is ready: so a layer that
/// limits makes requests wait, and one that sheds answers them with an error. The response is the
/// answer. An error is one, too: a [`HandlerError`] as it is, wherever in a box, and any other one
/// by its text, with code 0 of the application.
#[derive(Debug, Clone)]
pub struct TowerService<S>(S);

impl<S> TowerService<S> {
    /// Adapts a service.
    pub fn new(service: S) -> Self {
        Self(service)
    }
}

impl<S> AsyncService for TowerService<S>
where
    S: Service<OwnedRequest> + Clone + Send + 'static,
    S::Future: Send,
    S::Response: Into<Vec<u8>>,
    S::Error: Into<BoxError>,
{
    fn request(
        &mut self,
        request: OwnedRequest,
        responder: Responder,
    ) -> impl Future<Output = ()> + Send + 'static {
        let mut service = self.0.clone();
        async move {
            let ready = poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into);
            let answer = match ready {
                Ok(()) => service.call(request).await.map(Into::into).map_err(Into::into),
                Err(error) => Err(error),
            };
            match answer {
                Ok(response) => responder.reply_vec(response),
                Err(error) => responder.error(handler_error(error)),
            }
        }
    }
}

fn handler_error(error: BoxError) -> HandlerError {
    match error.downcast::<HandlerError>() {
        Ok(error) => *error,
        Err(other) => HandlerError::new(0, other.to_string()),
    }
}

impl Server {
    /// As [`Self::serve`], for a `tower::Service` with whatever layers (feature `tower`); see
    /// [`TowerService`].
    ///
    /// # Errors
    /// As [`Self::serve`].
    ///
    /// # Panics
    /// As [`Self::serve`].
    ///
    /// # Cancel safety
    /// As [`Self::serve`].
    pub async fn serve_tower<S>(self, service: S) -> Result<ServerStats, ServeError>
    where
        S: Service<OwnedRequest> + Clone + Send + 'static,
        S::Future: Send,
        S::Response: Into<Vec<u8>>,
        S::Error: Into<BoxError>,
    {
        self.serve(TowerService::new(service)).await
    }
}
