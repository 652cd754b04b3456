//! What a service costs without any transport: clients are threads of the server's own process, and hand their
//! requests to its pool through a queue. The yardstick of the service scenarios.

use std::sync::{Arc, LazyLock};

use super::{Client, Outcome, Ready, Setup, System};
use crate::pause::be_punctual;
use crate::pool::{Pool, Queue};
use crate::scenario::Case;
use crate::work::{THREADS, Work};

/// A pool, and a queue of answers for each client.
#[derive(Debug)]
pub(crate) struct InProcess;

/// The one pool of the process.
static POOL: LazyLock<Pool> =
    LazyLock::new(|| Pool::new(THREADS, be_punctual).expect("a process may have a few threads"));

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
        Ok(Box::new(Caller {
            pool: POOL.clone(),
            work: self.work(&setup.case),
            answers: Arc::new(Queue::new()),
        }))
    }
}

/// One thread that calls.
struct Caller {
    pool: Pool,
    work: Work,
    answers: Arc<Queue<Vec<u8>>>,
}

impl Client for Caller {
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()> {
        self.send(request)?;
        self.receive(answer)
    }

    fn send(&mut self, request: &[u8]) -> Outcome<()> {
        let (work, request, answers) = (self.work, request.to_vec(), self.answers.clone());
        self.pool.execute(move || {
            let mut answer = Vec::with_capacity(request.len());
            work.answer(&request, &mut answer);
            answers.push(answer);
        });
        Ok(())
    }

    fn receive(&mut self, answer: &mut Vec<u8>) -> Outcome<()> {
        *answer = self.answers.pop();
        Ok(())
    }
}
