//! The engines behind the ways to serve: [`Serial`] for handlers, [`Concurrent`] for services.

use crate::base::panics::{drop_panic, quietly};
use crate::memory::layout::{Kind, code};
use crate::server::answer::{HandlerError, describe_panic};
use crate::server::engine::{Engine, Incoming, Outcome};
use crate::server::flight::InlineReply;
use crate::server::handler::{Handler, Request};
use crate::server::service::{OwnedRequest, Responder, Service, Session};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A closure as a handler.
pub(crate) struct Closure<F>(pub(crate) F);

impl<F> Handler for Closure<F>
where
    F: FnMut(Request<'_>, &mut Vec<u8>) -> Result<(), HandlerError>,
{
    #[inline]
    fn request(
        &mut self,
        request: Request<'_>,
        response: &mut Vec<u8>,
    ) -> Result<(), HandlerError> {
        (self.0)(request, response)
    }
}

/// The engine of [`Server::run_with`](crate::Server::run_with).
pub(crate) struct Serial<H> {
    pub(crate) handler: H,
}

impl<H: Handler> Engine for Serial<H> {
    const LATER: bool = false;

    fn opened(&mut self, session: &Session) {
        // As for a request: the handler's state is its author's concern.
        quietly(|| self.handler.opened(session));
    }

    fn closed(&mut self, session: &Session) {
        quietly(|| self.handler.closed(session));
    }

    #[inline]
    fn request(&mut self, incoming: Incoming<'_>, response: &mut Vec<u8>) -> Outcome {
        let Incoming { session, call, deadline_ns, one_way, payload, .. } = incoming;
        let request = Request::new(session, call, deadline_ns, one_way, &payload.bytes);
        // Unwind safety: after a panic the buffer is cleared, and the handler's own state is its
        // author's concern, as it would be with a lock that is poisoned and used again.
        match catch_unwind(AssertUnwindSafe(|| self.handler.request(request, response))) {
            Ok(Ok(())) => Outcome::Answer,
            Ok(Err(error)) => {
                response.clear();
                response.extend_from_slice(error.text().as_bytes());
                Outcome::Error(error.code())
            }
            Err(panic) => {
                describe_panic(&*panic, response);
                drop_panic(panic);
                Outcome::Error(code::PANICKED)
            }
        }
    }
}

/// The engine of [`Server::run_service`](crate::Server::run_service).
#[derive(Debug)]
pub(crate) struct Concurrent<S> {
    service: S,
}

impl<S> Concurrent<S> {
    pub(crate) fn new(service: S) -> Self {
        Self { service }
    }

    pub(crate) fn service(&mut self) -> &mut S {
        &mut self.service
    }
}

impl<S: Service> Engine for Concurrent<S> {
    const LATER: bool = true;

    fn opened(&mut self, session: &Session) {
        // The service's state is its author's concern, here and below.
        quietly(|| self.service.opened(session));
    }

    fn closed(&mut self, session: &Session) {
        quietly(|| self.service.closed(session));
    }

    #[inline]
    fn request(&mut self, incoming: Incoming<'_>, response: &mut Vec<u8>) -> Outcome {
        let Incoming { flight, payload, alone, .. } = incoming;
        let flight = flight.expect("every request of this engine has one");
        let request = OwnedRequest::new(std::mem::take(payload), flight.clone(), alone);
        let responder = Responder::new(flight.clone());
        InlineReply::expect(flight, std::mem::take(response));
        let handled = catch_unwind(AssertUnwindSafe(|| self.service.request(request, responder)));
        let Some(reply) = InlineReply::take() else { return Outcome::Later };
        *response = reply.response;
        // The next request is read into the buffer of this one, or into one that was used before.
        payload.bytes =
            reply.request.unwrap_or_else(|| flight.caller.completions.buffers().take(0));
        let panic = handled.err();
        let outcome = match reply.answer {
            None => Outcome::Later,
            Some((Kind::OneWay, _)) => Outcome::Nothing,
            Some((Kind::Error, code)) => {
                if let Some(panic) = panic.as_ref().filter(|_| code == code::PANICKED) {
                    describe_panic(&**panic, response);
                }
                Outcome::Error(code)
            }
            Some(_) => Outcome::Answer,
        };
        panic.into_iter().for_each(drop_panic);
        outcome
    }
}
