//! The server of async handlers: an embedded reactor, driven by a task.

use super::watched::{Watched, drain, look_read};
use crate::base::clock::now_ns;
use crate::os::serving::{Served, ServingThread};
use crate::protocol::bell::Arming;
use crate::server::adapters::Concurrent;
use crate::server::dispatch::{Inline, Pace};
use crate::server::flight::Flight;
use crate::server::porter::PorterMode;
use crate::server::reactor::idle::Idling;
use crate::server::reactor::{Pumped, Reactor};
use crate::server::service::{OwnedRequest, Responder, Service, Session};
use crate::server::status::Status;
use crate::server::{ServeError, Server, ServerStats};
use crate::trace::Span;
use rustix::fd::OwnedFd;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::io::Interest;
use tokio::runtime::{Handle, RuntimeFlavor};

/// What answers the requests of [`Server::serve`](crate::Server::serve): each in a task of its own.
/// Closures that return futures are such services.
pub trait AsyncService: Send + 'static {
    /// Makes the future that answers a request, by `responder`. This method itself is called by the
    /// server's own task: the work belongs into the future.
    ///
    /// # Cancel safety
    /// The future is dropped when nobody wants the answer any more: the caller has dropped or
    /// cancelled the call (as clients do when a deadline passes), it is gone, or the server has
    /// shut down. So it may end at every `.await`; what must be done to its end is to be spawned.
    /// The future of a one-way message is run to its end.
    fn request(
        &mut self,
        request: OwnedRequest,
        responder: Responder,
    ) -> impl Future<Output = ()> + Send + 'static;

    /// A session begins. Called by the server's own task.
    fn opened(&mut self, session: &Session) {
        let _ = session;
    }

    /// A session is over; no request of it follows. Those in flight are cancelled. Called by the
    /// server's own task.
    fn closed(&mut self, session: &Session) {
        let _ = session;
    }
}

impl<F, R> AsyncService for F
where
    F: FnMut(OwnedRequest, Responder) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    fn request(
        &mut self,
        request: OwnedRequest,
        responder: Responder,
    ) -> impl Future<Output = ()> + Send + 'static {
        self(request, responder)
    }
}

impl Server {
    /// Serves on the current tokio runtime, of either flavour, until it is told to stop
    /// ([`Server::handle`]); what was counted. `service` makes a future of each request, which is
    /// spawned as a task and answers whenever it likes, in any order (feature `tokio`).
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use ringbell::{OwnedRequest, Responder, Server};
    ///
    /// let server = Server::bind("/run/app/echo.sock")?;
    /// server
    ///     .serve(|request: OwnedRequest, responder: Responder| async move {
    ///         tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    ///         responder.reply(request.payload());
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// All I/O is done by the future itself: there is no thread, and nothing waits but in the
    /// runtime's epoll. Handshakes are made there, too: one maps and touches memory, some hundred
    /// microseconds for rings of the default size. While requests come in quick succession the
    /// future looks out for the next one as the waiting policy says
    /// ([`ServerBuilder::wait`](crate::ServerBuilder::wait)): microseconds, 50 at most, and none
    /// with [`park_at_once`](crate::WaitSettings::park_at_once). With
    /// [`ServerBuilder::inline`](crate::ServerBuilder::inline) a request's future is polled once
    /// where it was read, and spawned only if it is not ready then. Each session has a bell of its
    /// own ([`Isolation::Session`](crate::Isolation::Session)), whatever the settings say.
    ///
    /// A handler that panics answers with an error. On shutdown what was received is answered, for
    /// as long as the order allows; handlers that are not done by then are cancelled.
    ///
    /// # Errors
    /// [`ServeError`]: no descriptor is left, or this process is a fork of the one that bound, or
    /// the runtime goes down.
    ///
    /// # Panics
    /// Outside of a tokio runtime, or if its I/O is not enabled.
    ///
    /// # Cancel safety
    /// Dropping the future, or its runtime, ends the server at once: clients see `Disconnected`
    /// (or, if the runtime drops handlers first, that these gave no answer), and handlers are
    /// cancelled.
    pub async fn serve(self, service: impl AsyncService) -> Result<ServerStats, ServeError> {
        Serving::new(self, service)?.await
    }
}

/// Turns that the server has before other tasks have theirs.
const TURNS: u32 = 32;

/// A server that is being driven.
struct Serving<S: AsyncService> {
    reactor: Reactor<Concurrent<Spawning<S>>>,
    epoll: Watched<OwnedFd>,
    /// Nobody else runs while this task looks out.
    is_alone: bool,
    /// Requests that tasks had been made of when this one last let them run.
    dispatched: u64,
    _status: Status,
}

impl<S: AsyncService> Serving<S> {
    fn new(server: Server, service: S) -> Result<Self, ServeError> {
        let runtime = Handle::current();
        let is_alone = runtime.runtime_flavor() == RuntimeFlavor::CurrentThread;
        let inline = server.inlining();
        let pace = Arc::new(Pace::new());
        let spawning = Spawning { service, runtime, inline, pace, served: None };
        let (mut reactor, status) = server.reactor(Concurrent::new(spawning), PorterMode::Loop)?;
        if is_alone {
            let served = reactor.served();
            reactor.engine().service().served = Some(served);
        }
        reactor.embed().map_err(ServeError::Io)?;
        let epoll = reactor.descriptor().try_clone_to_owned().map_err(ServeError::Io)?;
        let epoll = Watched::new(epoll, Interest::READABLE).map_err(ServeError::Io)?;
        Ok(Self { reactor, epoll, is_alone, dispatched: 0, _status: status })
    }

    fn drive(&mut self, cx: &mut Context<'_>) -> Result<Poll<ServerStats>, ServeError> {
        // Registered before anything is looked at: what is reported later wakes this task.
        let reported = drain(|| look_read(&self.epoll, cx));
        if reported.map_err(ServeError::Io)? {
            self.reactor.disarm();
        } else {
            self.reactor.call_off();
        }
        for _ in 0..TURNS {
            match self.reactor.pump()? {
                Pumped::Over => return Ok(Poll::Ready(self.reactor.counts())),
                Pumped::Worked => continue,
                Pumped::Idle => {}
            }
            let dispatched = self.reactor.counts().dispatched;
            if dispatched != self.dispatched {
                // Handlers that were just made may answer at once: they come first, and nobody has
                // to be woken.
                self.dispatched = dispatched;
                break;
            }
            match self.reactor.idle() {
                Idling::Look => {}
                Idling::Yield => {
                    // For whoever shares the CPU; then for the other tasks.
                    rustix::thread::sched_yield();
                    if self.is_alone {
                        break;
                    }
                }
                Idling::Park => {
                    if self.reactor.arm() == Arming::Armed {
                        return Ok(Poll::Pending);
                    }
                }
            }
        }
        // Others come first.
        cx.waker().wake_by_ref();
        Ok(Poll::Pending)
    }
}

impl<S: AsyncService> Future for Serving<S> {
    type Output = Result<ServerStats, ServeError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.drive(cx) {
            Ok(polled) => polled.map(Ok),
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

/// Nothing in it is ever pinned.
impl<S: AsyncService> Unpin for Serving<S> {}

/// The service of [`Server::serve`], as the reactor sees it.
struct Spawning<S> {
    service: S,
    runtime: Handle,
    inline: Inline,
    pace: Arc<Pace>,
    /// Where the handlers' thread is the server's, too.
    served: Option<Served>,
}

impl<S: AsyncService> Service for Spawning<S> {
    fn request(&mut self, request: OwnedRequest, responder: Responder) {
        let here = request.is_alone()
            && match self.inline {
                Inline::Never => false,
                Inline::Short => true,
                Inline::Measured => self.pace.is_short(),
            };
        let flight = request.flight.clone();
        let measured = (self.inline == Inline::Measured).then(|| self.pace.clone());
        if !here {
            let handler = self.service.request(request, responder);
            let handling = handle(flight, measured, Span::current(), self.served, handler);
            // Not waited for: its answer comes by the completions.
            drop(self.runtime.spawn(handling));
            return;
        }
        let handler = self.service.request(request, responder);
        let mut handling =
            Box::pin(handle(flight, measured, Span::current(), self.served, handler));
        // Whom it would wake does not matter: if it is not ready it is polled again, by its own
        // task.
        let mut nobody = Context::from_waker(Waker::noop());
        if handling.as_mut().poll(&mut nobody).is_pending() {
            drop(self.runtime.spawn(handling));
        }
    }

    fn opened(&mut self, session: &Session) {
        self.service.opened(session);
    }

    fn closed(&mut self, session: &Session) {
        self.service.closed(session);
    }
}

/// Runs a handler until it is done, or nobody wants its answer any more.
/// `pace` is told how long its first poll takes. `served`: whom its thread serves.
async fn handle(
    flight: Arc<Flight>,
    mut pace: Option<Arc<Pace>>,
    span: Span,
    served: Option<Served>,
    handler: impl Future<Output = ()>,
) {
    if flight.is_expired() {
        return;
    }
    let mut handler = pin!(handler);
    poll_fn(|cx| {
        let _serving = served.map(ServingThread::begin);
        span.inside(|| {
            // Who wants no answer still wants the work to be done.
            if !flight.one_way && flight.is_over(cx.waker()) {
                return Poll::Ready(());
            }
            match pace.take() {
                Some(pace) => {
                    let began = now_ns();
                    let polled = handler.as_mut().poll(cx);
                    // If it is not ready it waits for something: it is long.
                    pace.ran(if polled.is_ready() {
                        now_ns().saturating_sub(began)
                    } else {
                        u64::MAX
                    });
                    polled
                }
                None => handler.as_mut().poll(cx),
            }
        })
    })
    .await;
}
