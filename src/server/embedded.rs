//! A server inside somebody's event loop: plain readiness, without a thread of its own.

use crate::base::panics::quietly;
use crate::protocol::bell::Arming;
use crate::server::adapters::Concurrent;
use crate::server::flight::enter_reactor_thread;
use crate::server::porter::PorterMode;
use crate::server::reactor::{Pumped, Reactor};
use crate::server::service::{OwnedRequest, Responder, Service, Session};
use crate::server::{ServeError, Server, ServerHandle, ServerStats, Status};
use crate::trace::Span;
use rustix::fd::{AsFd, BorrowedFd};
use std::collections::VecDeque;

/// What a reactor has to tell the service, in order.
#[derive(Debug)]
enum Told {
    Opened(Session),
    Request(OwnedRequest, Responder, Span),
    Closed(Session),
}

/// Keeps what comes until the loop's service is at hand.
#[derive(Debug, Default)]
struct Gathered(VecDeque<Told>);

impl Service for Gathered {
    fn request(&mut self, request: OwnedRequest, responder: Responder) {
        self.0.push_back(Told::Request(request, responder, Span::current()));
    }

    fn opened(&mut self, session: &Session) {
        self.0.push_back(Told::Opened(session.clone()));
    }

    fn closed(&mut self, session: &Session) {
        self.0.push_back(Told::Closed(session.clone()));
    }
}

/// Whether [`EmbeddedServer::pump`] found something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Turn {
    /// There was something to do, and may be more: pump again, now or after others had their turn.
    Worked,
    /// There was nothing: [`EmbeddedServer::arm`] is next.
    Idle,
    /// The server was told to shut down, and has. There is nothing left to wait for.
    Over,
}

/// A server inside an event loop of the program's own: made by [`Server::embed`].
///
/// It has no threads, never waits, and needs no timer of the loop's: all that it waits for shows at
/// one descriptor ([`AsFd`]), an epoll of its own, which becomes readable. Watch it for reading,
/// level- or edge-triggered; do not read it.
///
/// ```no_run
/// # use ringbell::{Arming, OwnedRequest, Responder, Server, Turn};
/// # fn wait_for(_: rustix::fd::BorrowedFd<'_>) {}
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use rustix::fd::AsFd;
///
/// let mut server = Server::bind("/run/app/echo.sock")?.embed()?;
/// let mut requests = 0;
/// loop {
///     let turn = server.pump(&mut |request: OwnedRequest, responder: Responder| {
///         requests += 1;
///         responder.reply(request.payload());
///     })?;
///     match turn {
///         Turn::Over => break,
///         Turn::Idle if server.arm() == Arming::Armed => {
///             wait_for(server.as_fd()); // epoll, mio, ..
///             server.disarm();
///         }
///         _ => {}
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// Handshakes are made in the loop, too: one maps the memory of a session, and looks whether all of
/// it is there, in slices of some 50 us. Each session has a bell of its own
/// ([`Isolation::Session`](crate::Isolation::Session)), whatever the settings say, and the waiting
/// policy ([`ServerBuilder::wait`](crate::ServerBuilder::wait)) is not used: how to wait is the
/// loop's business.
///
/// `Send`, so that a loop may move between threads; it belongs to the process that bound. Dropping
/// it ends all sessions without a goodbye: their clients see `Disconnected`. To part in good order
/// use [`ServerHandle::shutdown`], from anywhere, and pump until [`Turn::Over`].
#[derive(Debug)]
pub struct EmbeddedServer {
    reactor: Reactor<Concurrent<Gathered>>,
    handle: ServerHandle,
    _status: Status,
}

const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<EmbeddedServer>();
};

impl Server {
    /// Makes it a server inside an event loop of the caller's.
    ///
    /// # Errors
    /// [`ServeError`]: no descriptor is left, or this process is a fork of the one that bound.
    pub fn embed(self) -> Result<EmbeddedServer, ServeError> {
        let handle = self.handle();
        let (mut reactor, status) =
            self.reactor(Concurrent::new(Gathered::default()), PorterMode::Loop)?;
        reactor.embed().map_err(ServeError::Io)?;
        Ok(EmbeddedServer { reactor, handle, _status: status })
    }
}

/// The descriptor that the loop watches. It stays the same while the server lives. A forked child
/// must not use it.
impl AsFd for EmbeddedServer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reactor.descriptor()
    }
}

impl EmbeddedServer {
    /// Takes in what has come, and has `service` handle it: one turn for each session, a bounded
    /// number of requests. Then it sends what is answered. Never waits, if the service does not;
    /// responders may be kept, or moved to any thread, as with [`Server::run_reactor`].
    ///
    /// A service that panics answers that request with an error; the pump goes on.
    ///
    /// # Errors
    /// [`ServeError::Forked`] in a forked child; [`ServeError::Io`], once, if nobody new can be
    /// served any more: then all sessions have ended, and the next turn is [`Turn::Over`].
    pub fn pump(&mut self, service: &mut impl Service) -> Result<Turn, ServeError> {
        let pumped = self.reactor.pump()?;
        // Answers go by the queue; and a stream that would wait says so.
        let guard = enter_reactor_thread(self.reactor.served());
        while let Some(told) = self.reactor.engine().service().0.pop_front() {
            match told {
                // The service's state is its author's concern, if it panics.
                Told::Opened(session) => quietly(|| service.opened(&session)),
                Told::Request(request, responder, span) => {
                    span.inside(|| quietly(|| service.request(request, responder)));
                }
                Told::Closed(session) => quietly(|| service.closed(&session)),
            }
            if !self.reactor.is_here() {
                // A handler has forked, and this is the child: what is left is its parent's to
                // handle.
                return Err(ServeError::Forked);
            }
        }
        drop(guard);
        Ok(match pumped {
            Pumped::Over => Turn::Over,
            Pumped::Idle => Turn::Idle,
            Pumped::Worked => {
                self.reactor.send_answers();
                Turn::Worked
            }
        })
    }

    /// Declares that this thread is about to wait for [`as_fd`](Self::as_fd).
    ///
    /// - [`Arming::Busy`]: something came. The server is not armed: pump it again.
    /// - [`Arming::Armed`]: whatever comes from now on makes the descriptor readable, answers that
    ///   other threads complete included.
    ///
    /// Never waits. No system call, while nothing has a time limit.
    ///
    /// A server that is not armed is not rung for, so a busy loop and its clients pay no wake
    /// calls.
    pub fn arm(&mut self) -> Arming {
        self.reactor.arm()
    }

    /// Ends what [`arm`](Self::arm) began, and takes in what the descriptor has to say. To be
    /// called when the descriptor was reported, or when the loop woke for something else and is
    /// about to pump. One or two system calls.
    pub fn disarm(&mut self) {
        self.reactor.disarm();
    }

    /// A handle for other threads and for signal handlers.
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// What the server counted so far.
    pub fn stats(&self) -> ServerStats {
        self.reactor.counts()
    }
}
