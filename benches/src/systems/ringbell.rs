//! Ringbell, through its public interface, with its defaults.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use ringbell::{
    ConnectOptions, HandlerError, OwnedRequest, Responder, Server, Task, TransportChoice, WaitSettings,
};

use super::{Client, Outcome, Ready, Setup, System};
use crate::pause::be_punctual;
use crate::pool::{Pool, Queue};
use crate::scenario::{Case, Scenario, Waiting};
use crate::work::{THREADS, Work};
use crate::world_state::{self, Asking, Call, Failure, Queued};

/// The blocking client and the serial server.
pub(crate) static SERIAL: Ringbell =
    Ringbell { name: "ringbell", serving: Serving::Serial, transport: TransportChoice::SharedMemory };

/// The same over the socket, as where there is no shared memory.
pub(crate) static SERIAL_UDS: Ringbell =
    Ringbell { name: "ringbell-uds", serving: Serving::Serial, transport: TransportChoice::Socket };

/// Handlers on a pool.
pub(crate) static REACTOR: Ringbell =
    Ringbell { name: "ringbell-reactor", serving: Serving::Pool, transport: TransportChoice::SharedMemory };

/// The same over the socket.
pub(crate) static REACTOR_UDS: Ringbell =
    Ringbell { name: "ringbell-reactor-uds", serving: Serving::Pool, transport: TransportChoice::Socket };

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
    /// One after the other, each free to answer later, which it does not do.
    Inline,
    /// On threads of a pool.
    Pool,
}

/// What a client that never reads sends: to a serial server so much that the ring of answers is full, as many answers
/// as may wait do so, and no request is read any more; to a pool somewhat less than a client may have in flight. Not
/// quite as much as there is room for: a client that waits for room takes answers in to make some.
const FLOOD: usize = 1000;

/// It sends so many at a time, and lets the server take them in before it goes on: again so that there is room.
const WAVE: usize = 100;
const EBB: Duration = Duration::from_millis(4);

/// As many clients come at the same moment in one case; by default a server takes so many for a flood.
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
            (Serving::Serial, TransportChoice::Socket) => Case::standard(),
            (Serving::Serial, _) => {
                [Case::standard(), waits(), Case::service_empty(), Case::slow_client()].concat()
            }
            (Serving::Inline, _) => [Case::service_empty(), Case::slow_client()].concat(),
            (Serving::Pool, TransportChoice::Socket) => waits(),
            (Serving::Pool, _) => [waits(), Case::service_empty(), Case::slow_client()].concat(),
        }
    }

    fn work(&self, case: &Case) -> Work {
        // Beside a client that never reads, a pool must not be kept by its requests: so they take some time there.
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
            .bind(&setup.path)?;
        match self.serving {
            Serving::Serial if work == Work::World => {
                // Runs what it is given at once: the answer is there when the store's turn is over.
                let world = world_state::filled(&setup.case, Task::run)?;
                let answers = Arc::new(Queue::new());
                ready()?;
                server.run(|request, answer| {
                    world.serve(Queued { request: request.payload().to_vec(), answers: answers.clone() });
                    answer.extend_from_slice(&answers.pop());
                    Ok(())
                })?;
            }
            Serving::Pool if work == Work::World => {
                let pool = Pool::new(THREADS, be_punctual)?;
                let world = world_state::filled(&setup.case, world_state::on(pool))?;
                ready()?;
                server.run_reactor(|request, responder| world.serve(Asked { request, responder }))?;
            }
            Serving::Serial => {
                ready()?;
                server.run(|request, answer| {
                    work.answer(request.payload(), answer);
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
        let caller = Caller { client };
        Ok(match self.work(&setup.case) {
            Work::World => Box::new(Asking::new(caller)),
            _ => Box::new(caller),
        })
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
            Err(failure) => self.responder.error(HandlerError::new(failure.code(), failure.to_string())),
        }
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
        let response = self.client.recv(None)?.outcome?;
        answer.clear();
        answer.extend_from_slice(&response);
        Ok(())
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
