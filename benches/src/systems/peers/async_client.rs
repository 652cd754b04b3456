//! Ringbell's client of many tasks, on a runtime of one thread; the server is the usual one. No
//! peer, but it needs tokio, and is compared with it: with `tokio-uds-one-thread`.

use ringbell::{AsyncClient, ConnectOptions, Server};
use tokio::runtime::Runtime;

use super::runtime::{self, runtime};
use crate::outcome::Outcome;
use crate::payload::Payload;
use crate::scenario::{Case, Scenario};
use crate::system::{Client, Ready, Setup, System};
use crate::work::Work;

/// The client of many tasks.
pub(crate) static ASYNC: Async = Async;

/// Bytes of a ring.
const RING: u64 = 256 << 10;

/// Calls of tasks over one session.
#[derive(Debug)]
pub(crate) struct Async;

impl System for Async {
    fn name(&self) -> &'static str {
        "ringbell-async"
    }

    fn cases(&self) -> Vec<Case> {
        let mut cases: Vec<Case> =
            [64, 1 << 10].into_iter().map(|size| Case::new(Scenario::Echo, size)).collect();
        cases.extend([Scenario::OneCpu, Scenario::Paced].map(|scenario| Case::new(scenario, 64)));
        cases.push(Case::tasks());
        cases
    }

    fn serve(&self, setup: &Setup, ready: Ready<'_>) -> Outcome<()> {
        let server = Server::bind(&setup.path)?;
        ready()?;
        server.run(|request, answer| {
            Work::Echo.answer(request.payload(), answer);
            Ok(())
        })?;
        Ok(())
    }

    fn connect(&self, setup: &Setup) -> Outcome<Box<dyn Client>> {
        let runtime = runtime(false)?;
        // Room for all that may be in flight, as a socket's buffers have.
        let options = ConnectOptions::new().ring_capacity(RING);
        let client = runtime.block_on(options.connect_async(&setup.path))?;
        Ok(Box::new(Caller { runtime, client }))
    }
}

/// The client.
struct Caller {
    runtime: Runtime,
    client: AsyncClient,
}

impl Client for Caller {
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()> {
        *answer = self.runtime.block_on(self.client.call(request))?;
        Ok(())
    }

    fn tasks(&mut self, payloads: Vec<Payload>, first: u64, rounds: u64) -> Outcome<Vec<Payload>> {
        runtime::tasks(&self.runtime, &self.client, payloads, first, rounds)
    }
}

impl runtime::Caller for AsyncClient {
    async fn call(&self, request: &[u8]) -> Outcome<Vec<u8>> {
        Ok(self.call(request).await?)
    }
}
