//! The ways to drive a concurrent server: its own reactor's thread, a loop that it is embedded in,
//! tasks of tokio.

use crate::locks::lock;
use ringbell::{
    Arming, AsyncService, OwnedRequest, Responder, ServeError, Server, ServerStats, Service,
    Session, Turn,
};
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use std::future::Future;
use std::sync::{Arc, Mutex};
use tokio::runtime::{Builder, Runtime};

/// How a server is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// `Server::run_service`, on a thread of its own.
    Thread,
    /// `Server::embed`, in an epoll loop, level-triggered.
    Loop,
    /// The same, edge-triggered.
    Edges,
    /// `Server::serve` on a runtime of one thread.
    Task,
    /// The same on two threads.
    Tasks,
}

impl Driver {
    /// Those without a thread of the server's.
    pub const WITHOUT_THREAD: [Self; 4] = [Self::Loop, Self::Edges, Self::Task, Self::Tasks];

    /// Its name, as roles take it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Thread => "thread",
            Self::Loop => "loop",
            Self::Edges => "edges",
            Self::Task => "task",
            Self::Tasks => "tasks",
        }
    }

    /// The driver of this name.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn named(name: &str) -> Self {
        [Self::Thread]
            .into_iter()
            .chain(Self::WITHOUT_THREAD)
            .find(|driver| driver.name() == name)
            .expect(name)
    }

    /// Whether tasks handle the requests.
    #[must_use]
    pub fn in_tasks(self) -> bool {
        matches!(self, Self::Task | Self::Tasks)
    }

    /// Serves until told to stop.
    ///
    /// # Errors
    /// As the server has it.
    pub fn serve(
        self,
        server: Server,
        service: impl Service + Send + 'static,
    ) -> Result<ServerStats, ServeError> {
        match self {
            Self::Thread => server.run_service(service),
            Self::Loop => in_a_loop(server, service, EventFlags::IN),
            Self::Edges => in_a_loop(server, service, EventFlags::IN | EventFlags::ET),
            Self::Task => runtime_of_one().block_on(server.serve(InTasks::new(service))),
            Self::Tasks => runtime_of_two().block_on(async {
                // Not on the thread that only waits.
                tokio::spawn(server.serve(InTasks::new(service))).await.expect("a task")
            }),
        }
    }
}

/// A runtime of one thread.
///
/// # Panics
/// If there is none to be had.
#[must_use]
pub fn runtime_of_one() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// A runtime of two threads, and the one that waits for it.
///
/// # Panics
/// If there is none to be had.
#[must_use]
pub fn runtime_of_two() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// An epoll without a timeout: what is not reported is never seen.
fn in_a_loop(
    server: Server,
    mut service: impl Service,
    flags: EventFlags,
) -> Result<ServerStats, ServeError> {
    let mut server = server.embed()?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
    epoll::add(&epoll, &server, EventData::new_u64(0), flags).expect("watched");
    let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 4];
    loop {
        match server.pump(&mut service)? {
            Turn::Over => return Ok(server.stats()),
            Turn::Idle if server.arm() == Arming::Armed => {
                while epoll::wait(&epoll, &mut events[..], None).is_err() {}
                server.disarm();
            }
            _ => {}
        }
    }
}

/// A service whose requests are handled by tasks.
struct InTasks<S>(Arc<Mutex<S>>);

impl<S> InTasks<S> {
    fn new(service: S) -> Self {
        Self(Arc::new(Mutex::new(service)))
    }

    fn with<R>(&self, work: impl FnOnce(&mut S) -> R) -> R {
        work(&mut lock(&self.0))
    }
}

impl<S: Service + Send + 'static> AsyncService for InTasks<S> {
    fn request(
        &mut self,
        request: OwnedRequest,
        responder: Responder,
    ) -> impl Future<Output = ()> + Send + 'static {
        let service = self.0.clone();
        async move { Self(service).with(|service| service.request(request, responder)) }
    }

    fn opened(&mut self, session: &Session) {
        self.with(|service| service.opened(session));
    }

    fn closed(&mut self, session: &Session) {
        self.with(|service| service.closed(session));
    }
}
