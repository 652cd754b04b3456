//! What a service costs without any transport: clients are threads of the server's own process, and
//! hand their requests to its store, which answers from its pool through a queue. The yardstick of
//! the service scenarios.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::outcome::Outcome;
use crate::pause::be_punctual;
use crate::pool::{Pool, Queue};
use crate::scenario::Case;
use crate::system::{Client, Ready, Setup, System};
use crate::work::{THREADS, Work};
use crate::world_state::{self, Asking, Queued, World};

/// A store with its pool, and a queue of answers for each client.
#[derive(Debug)]
pub(crate) struct InProcess;

/// The one store of the process, which runs one case.
static WORLD: OnceLock<World> = OnceLock::new();

impl System for InProcess {
    fn name(&self) -> &'static str {
        "in-process"
    }

    fn cases(&self) -> Vec<Case> {
        [Case::service_depths(), Case::service_clients()].concat()
    }

    fn is_in_process(&self) -> bool {
        true
    }

    fn work(&self, case: &Case) -> Work {
        Work::of(case)
    }

    fn serve(&self, _setup: &Setup, _ready: Ready<'_>) -> Outcome<()> {
        Err("clients and server are one process".into())
    }

    fn connect(&self, setup: &Setup) -> Outcome<Box<dyn Client>> {
        let fill =
            || world_state::filled(&setup.case, world_state::on(Pool::new(THREADS, be_punctual)?));
        // Whoever comes first waits for nobody: all others find it filled, or wait for that.
        static FILLING: Mutex<()> = Mutex::new(());
        let _one = FILLING.lock().unwrap_or_else(PoisonError::into_inner);
        let world = match WORLD.get() {
            Some(world) => world,
            None => {
                let filled = fill()?;
                WORLD.get_or_init(|| filled)
            }
        };
        Ok(Box::new(Asking::new(Caller { world, answers: Arc::new(Queue::new()) })))
    }
}

/// One thread that calls.
struct Caller {
    world: &'static World,
    answers: Arc<Queue<Vec<u8>>>,
}

impl Client for Caller {
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()> {
        self.send(request)?;
        self.receive(answer)
    }

    fn send(&mut self, request: &[u8]) -> Outcome<()> {
        self.world.serve(Queued { request: request.to_vec(), answers: self.answers.clone() });
        Ok(())
    }

    fn receive(&mut self, answer: &mut Vec<u8>) -> Outcome<()> {
        *answer = self.answers.pop();
        Ok(())
    }
}
