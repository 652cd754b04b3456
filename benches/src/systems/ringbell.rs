//! Ringbell, through its public interface, with its defaults.

use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use ringbell::{
    CallId, ConnectOptions, HandlerError, OwnedRequest, Responder, Server, ServerHandle, Task,
    TransportChoice, WaitSettings,
};

use super::always_wake::wake_nobody;
use crate::outcome::Outcome;
use crate::pause::be_punctual;
use crate::pool::{Pool, Queue};
use crate::scenario::{Case, Scenario, Waiting};
use crate::system::{Client, Counts, Ready, Setup, System};
use crate::work::{Handler, THREADS, Work};
use crate::world_state::{self, Asking, Call, Failure, Queued};

/// The blocking client and the serial server.
pub(crate) static SERIAL: Ringbell = Ringbell {
    name: "ringbell",
    serving: Serving::Serial,
    transport: TransportChoice::SharedMemory,
};

/// The same, and requests of a burst are handed over together.
pub(crate) static BATCH: Ringbell = Ringbell {
    name: "ringbell-batch",
    serving: Serving::Batch,
    transport: TransportChoice::SharedMemory,
};

/// The same with a wake call for every message, on both sides, as systems make it whose bells are
/// not latched. Whoever sleeps is woken all the same by the call that Ringbell makes itself. The
/// server makes its call before it publishes, where others make it after: it costs the same, but
/// less of it is hidden behind the other side's work.
pub(crate) static ALWAYS_WAKE: Ringbell = Ringbell {
    name: "ringbell-always-wake",
    serving: Serving::AlwaysWake,
    transport: TransportChoice::SharedMemory,
};

/// The same over the socket, as where there is no shared memory.
pub(crate) static SERIAL_UDS: Ringbell =
    Ringbell { name: "ringbell-uds", serving: Serving::Serial, transport: TransportChoice::Socket };

/// Handlers on a pool.
pub(crate) static REACTOR: Ringbell = Ringbell {
    name: "ringbell-reactor",
    serving: Serving::Pool,
    transport: TransportChoice::SharedMemory,
};

/// The same over the socket.
pub(crate) static REACTOR_UDS: Ringbell = Ringbell {
    name: "ringbell-reactor-uds",
    serving: Serving::Pool,
    transport: TransportChoice::Socket,
};

/// Requests and answers as with a pool, but the handler answers on the reactor's own thread.
pub(crate) static INLINE: Ringbell = Ringbell {
    name: "ringbell-reactor-inline",
    serving: Serving::Inline,
    transport: TransportChoice::SharedMemory,
};

/// A way to use Ringbell.
#[derive(Debug)]
pub(crate) struct Ringbell {
    name: &'static str,
    serving: Serving,
    transport: TransportChoice,
}

/// Where handlers run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Serving {
    /// One after the other.
    Serial,
    /// As `Serial`.
    Batch,
    /// As `Serial`, with a needless wake call for each answer.
    AlwaysWake,
    /// One after the other, each free to answer later, which it does not do.
    Inline,
    /// On threads of a pool.
    Pool,
}

/// What a client that never reads sends: to a serial server so much that the ring of answers is
/// full, as many answers as may wait do so, and no request is read any more; to a pool somewhat
/// less than a client may have in flight. Not quite as much as there is room for: a client that
/// waits for room takes answers in to make some.
const FLOOD: usize = 1000;

/// It sends so many at a time, and lets the server take them in before it goes on: again so that
/// there is room.
const WAVE: usize = 100;
const EBB: Duration = Duration::from_millis(4);

/// The server of this process, once it is there.
static SERVER: OnceLock<ServerHandle> = OnceLock::new();

/// As many clients come at the same moment in one case; by default a server takes so many for a
/// flood.
const MOST_CLIENTS: u32 = 32;

/// The waiting policy of one side: the default, but for the case in which everybody must sleep.
fn waiting(setup: &Setup, default: WaitSettings) -> WaitSettings {
    match setup.case.waiting() {
        Waiting::Default => default,
        Waiting::Sleep => default.park_at_once(),
    }
}

impl System for Ringbell {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cases(&self) -> Vec<Case> {
        let waits = || [Case::service_depths(), Case::service_clients()].concat();
        match (self.serving, self.transport) {
            (Serving::Serial, TransportChoice::Socket) => Case::few(),
            (Serving::Batch, _) => {
                [Case::depths(Scenario::Pipelined), Case::depths(Scenario::Batch)].concat()
            }
            (Serving::AlwaysWake, _) => {
                let mut cases = Case::few();
                cases.retain(|case| case.size <= 1 << 10 && case.scenario != Scenario::Setup);
                cases.extend(Case::crowd(Scenario::Clients, &[32]));
                cases
            }
            (Serving::Serial, _) => [
                Case::standard(),
                waits(),
                Case::service_empty(),
                Case::slow_client(),
                Case::lasting(),
                Case::attached(),
            ]
            .concat(),
            (Serving::Inline, _) => [Case::service_empty(), Case::slow_client()].concat(),
            (Serving::Pool, TransportChoice::Socket) => waits(),
            (Serving::Pool, _) => [waits(), Case::service_empty(), Case::slow_client()].concat(),
        }
    }

    fn work(&self, case: &Case) -> Work {
        // Beside a client that never reads, a pool must not be kept by its requests: so they take
        // some time there.
        match self.serving {
            Serving::Pool if case.scenario == Scenario::SlowClient => Work::Wait,
            _ => Work::of(case),
        }
    }

    fn serve(&self, setup: &Setup, ready: Ready<'_>) -> Outcome<()> {
        be_punctual()?;
        let work = self.work(&setup.case);
        let server = Server::builder()
            .wait(waiting(setup, WaitSettings::server()))
            .max_handshakes(MOST_CLIENTS)
            .max_clients(setup.case.clients.max(MOST_CLIENTS))
            .bind(&setup.path)?;
        // Nobody else serves in this process.
        let _ = SERVER.set(server.handle());
        match self.serving {
            Serving::Serial if work == Work::World => {
                // Runs what it is given at once: the answer is there when the store's turn is over.
                let world = world_state::filled(&setup.case, Task::run)?;
                let answers = Arc::new(Queue::new());
                ready()?;
                server.run(|request, answer| {
                    world.serve(Queued {
                        request: request.payload().to_vec(),
                        answers: answers.clone(),
                    });
                    answer.extend_from_slice(&answers.pop());
                    Ok(())
                })?;
            }
            Serving::Pool if work == Work::World => {
                let pool = Pool::new(THREADS, be_punctual)?;
                let world = world_state::filled(&setup.case, world_state::on(pool))?;
                ready()?;
                server
                    .run_reactor(|request, responder| world.serve(Asked { request, responder }))?;
            }
            Serving::Serial if setup.case.scenario == Scenario::Stream => {
                ready()?;
                let mut handler = Handler::of(&setup.case);
                server.run(move |request, answer| {
                    handler.answer(request.payload(), answer);
                    Ok(())
                })?;
            }
            Serving::Serial | Serving::Batch => {
                ready()?;
                server.run(|request, answer| {
                    work.answer(request.payload(), answer);
                    Ok(())
                })?;
            }
            Serving::AlwaysWake => {
                ready()?;
                server.run(|request, answer| {
                    work.answer(request.payload(), answer);
                    wake_nobody();
                    Ok(())
                })?;
            }
            Serving::Inline => {
                ready()?;
                let mut answer = Vec::new();
                server.run_reactor(|request, responder| {
                    answer.clear();
                    work.answer(request.payload(), &mut answer);
                    responder.reply(&answer);
                })?;
            }
            Serving::Pool => {
                // An empty handler keeps one thread busy, and more would only wake each other.
                let pool = Pool::new(if work.waits() { THREADS } else { 1 }, be_punctual)?;
                ready()?;
                server.run_on(
                    move |task: Task| pool.execute(move || task.run()),
                    move |request, responder| {
                        let mut answer = Vec::with_capacity(request.payload().len());
                        work.answer(request.payload(), &mut answer);
                        responder.reply_vec(answer);
                    },
                )?;
            }
        }
        Ok(())
    }

    fn connect(&self, setup: &Setup) -> Outcome<Box<dyn Client>> {
        let client = ConnectOptions::new()
            // Said explicitly: a row must not be of another transport than it says.
            .transport(self.transport)
            .wait(waiting(setup, WaitSettings::client()))
            .connect(&setup.path)?;
        Ok(match self.serving {
            Serving::Batch => Box::new(Gatherer {
                client,
                gathered: Vec::new(),
                calls: Vec::new(),
                size: setup.case.size,
            }),
            Serving::AlwaysWake => Box::new(AlwaysWaker { client }),
            _ if self.work(&setup.case) == Work::World => Box::new(Asking::new(Caller { client })),
            _ => Box::new(Caller { client }),
        })
    }

    fn server_counts(&self) -> Option<fn() -> Option<Counts>> {
        Some(server_counts)
    }
}

/// A request to the store that may be answered later.
struct Asked {
    request: OwnedRequest,
    responder: Responder,
}

impl Call for Asked {
    fn request(&self) -> &[u8] {
        self.request.payload()
    }

    fn is_wanted(&self) -> bool {
        !self.request.is_cancelled()
    }

    fn answer(self, answer: Result<&[u8], Failure>) {
        match answer {
            Ok(answer) => self.responder.reply(answer),
            Err(failure) => {
                self.responder.error(HandlerError::new(failure.code(), failure.to_string()))
            }
        }
    }
}

/// What the server of this process counted.
fn server_counts() -> Option<Counts> {
    let stats = SERVER.get()?.stats();
    Some(Counts {
        parks: stats.parks,
        called_off: stats.arms_called_off,
        wakes: stats.wakes_sent,
        rescues: stats.backstop_rescues,
        by_timer: None,
    })
}

/// What a client counted.
fn counts(client: &mut ringbell::Client) -> Counts {
    let stats = client.stats();
    Counts {
        parks: stats.parks,
        called_off: stats.arms_called_off,
        wakes: stats.wakes_sent,
        rescues: stats.backstop_rescues,
        by_timer: None,
    }
}

/// Takes the next answer.
fn receive(client: &mut ringbell::Client, answer: &mut Vec<u8>) -> Outcome<()> {
    let response = client.recv(None)?.outcome?;
    answer.clear();
    answer.extend_from_slice(&response);
    Ok(())
}

/// A client that gathers the requests of a burst.
#[derive(Debug)]
struct Gatherer {
    client: ringbell::Client,
    gathered: Vec<u8>,
    calls: Vec<CallId>,
    size: usize,
}

impl Client for Gatherer {
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()> {
        self.client.call_into(request, answer, None)?;
        Ok(())
    }

    fn send(&mut self, request: &[u8]) -> Outcome<()> {
        self.gathered.extend_from_slice(request);
        Ok(())
    }

    fn flush(&mut self) -> Outcome<()> {
        self.calls.clear();
        let sent = self.client.send_batch(self.gathered.chunks_exact(self.size), &mut self.calls);
        self.gathered.clear();
        Ok(sent?)
    }

    fn send_all(&mut self, requests: &[&[u8]]) -> Outcome<()> {
        self.calls.clear();
        self.client.send_batch(requests.iter().copied(), &mut self.calls)?;
        Ok(())
    }

    fn receive(&mut self, answer: &mut Vec<u8>) -> Outcome<()> {
        receive(&mut self.client, answer)
    }

    fn counts(&mut self) -> Option<Counts> {
        Some(counts(&mut self.client))
    }
}

/// A client that makes a wake call for each message.
#[derive(Debug)]
struct AlwaysWaker {
    client: ringbell::Client,
}

impl Client for AlwaysWaker {
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()> {
        self.client.send(request)?;
        wake_nobody();
        receive(&mut self.client, answer)
    }

    fn send(&mut self, request: &[u8]) -> Outcome<()> {
        self.client.send(request)?;
        wake_nobody();
        Ok(())
    }

    fn receive(&mut self, answer: &mut Vec<u8>) -> Outcome<()> {
        receive(&mut self.client, answer)
    }

    fn counts(&mut self) -> Option<Counts> {
        Some(counts(&mut self.client))
    }
}

/// The client's end.
#[derive(Debug)]
struct Caller {
    client: ringbell::Client,
}

impl Client for Caller {
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()> {
        self.client.call_into(request, answer, None)?;
        Ok(())
    }

    fn send(&mut self, request: &[u8]) -> Outcome<()> {
        self.client.post(request)?;
        Ok(())
    }

    fn flush(&mut self) -> Outcome<()> {
        self.client.flush();
        Ok(())
    }

    fn receive(&mut self, answer: &mut Vec<u8>) -> Outcome<()> {
        receive(&mut self.client, answer)
    }

    fn one_way(&mut self, message: &[u8]) -> Outcome<()> {
        self.client.send_one_way(message, None)?;
        Ok(())
    }

    fn counts(&mut self) -> Option<Counts> {
        Some(counts(&mut self.client))
    }

    fn flood(&mut self, request: &[u8]) -> Outcome<()> {
        for _ in 0..FLOOD / WAVE {
            for _ in 0..WAVE {
                self.client.send(request)?;
            }
            thread::sleep(EBB);
        }
        let stats = self.client.stats();
        if stats.full_stalls != 0 || stats.stash_peak != 0 {
            return Err("the client that never reads had to wait for room, and so has read".into());
        }
        Ok(())
    }
}
