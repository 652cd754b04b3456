//! What the service scenarios drive: the store of the example `world_state`, with the example's own
//! protocol and keyed scheduler. The referee's payloads are the values that it holds; a call asks
//! for one of them by its key.

#[allow(dead_code, reason = "the example's client uses the rest")]
#[path = "../../examples/world_state/world/mod.rs"]
mod world;

use std::sync::Arc;
use std::time::Duration;

use crate::outcome::Outcome;
use crate::payload::{Payload, salt, sequence};
use crate::pool::{Pool, Queue};
use crate::scenario::Case;
use crate::system::Client;
use ringbell::Task;
use world::protocol::{Answer, Op, Request};
use world::store::{Change, Limits, ROOT};

pub(crate) use world::protocol::Failure;
pub(crate) use world::serve::{Call, World};

/// How long each request waits for something else: about what a small read from a disk takes.
const TAKE: Duration = Duration::from_micros(100);

/// Values of each client. Sequence numbers go round in them, so it has never as many calls in
/// flight.
pub(crate) const VALUES: u64 = 256;

/// The key of a client's value.
fn key(salt: u8, number: u64) -> [u8; 9] {
    let mut key = [salt; 9];
    key[1..].copy_from_slice(&number.to_le_bytes());
    key
}

/// The store with the values of every client of a case in its first version.
pub(crate) fn filled(case: &Case, executor: impl ringbell::Executor) -> Outcome<World> {
    let world = World::new(Limits::default(), executor);
    let salts = 0..u8::try_from(case.clients)?;
    let values = salts.flat_map(|salt| {
        let mut payload = Payload::new(case.size, salt);
        (0..VALUES).map(move |number| (key(salt, number), payload.stamp(number).to_vec()))
    });
    let values: Vec<_> = values.collect();
    let changes = values.iter().map(|(key, value)| (&key[..], Change::Put(value))).collect();
    let mut request = Vec::new();
    Request { fork: ROOT, take: Duration::ZERO, op: Op::Write(changes) }.encode(&mut request);
    let answers = Arc::new(Queue::new());
    world.serve(Queued { request, answers: answers.clone() });
    match Answer::decode(&answers.pop()) {
        Some(Answer::Written { version: 1 }) => Ok(world),
        _ => Err("the store could not be filled".into()),
    }
}

/// An executor of such a store.
pub(crate) fn on(pool: Pool) -> impl ringbell::Executor {
    move |task: Task| pool.execute(move || task.run())
}

/// A request of this process, and the queue where its answer goes.
pub(crate) struct Queued {
    pub(crate) request: Vec<u8>,
    pub(crate) answers: Arc<Queue<Vec<u8>>>,
}

impl Call for Queued {
    fn request(&self) -> &[u8] {
        &self.request
    }

    fn answer(self, answer: Result<&[u8], Failure>) {
        // A refusal is an answer that nobody can read: the client says so.
        self.answers.push(answer.unwrap_or_default().to_vec());
    }
}

/// A client of the store: turns the referee's payloads into requests, and answers into payloads.
pub(crate) struct Asking<C> {
    client: C,
    bytes: Vec<u8>,
}

impl<C: Client> Asking<C> {
    /// Asks through `client`.
    pub(crate) fn new(client: C) -> Self {
        Self { client, bytes: Vec::new() }
    }

    /// Asks for the value that is this payload. Every second time as it was in the first version,
    /// for which no write would have to be waited for.
    fn encode(&mut self, payload: &[u8]) -> Outcome<()> {
        let number = sequence(payload).ok_or("no sequence number")?;
        let key = key(salt(payload), number);
        let keys = vec![&key[..]];
        let op = if number.is_multiple_of(2) {
            Op::Read(keys)
        } else {
            Op::Snapshot { version: 1, keys }
        };
        self.bytes.clear();
        Request { fork: ROOT, take: TAKE, op }.encode(&mut self.bytes);
        Ok(())
    }
}

/// The one value in an answer, in its place.
fn decode(answer: &mut Vec<u8>) -> Outcome<()> {
    let value = match Answer::decode(answer) {
        Some(Answer::Values { version: 1, values }) => match values[..] {
            [Some(value)] => value.to_vec(),
            _ => return Err("not the one value that was asked for".into()),
        },
        _ => return Err("an answer of another kind".into()),
    };
    *answer = value;
    Ok(())
}

impl<C: Client> Client for Asking<C> {
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()> {
        self.encode(request)?;
        self.client.call(&self.bytes, answer)?;
        decode(answer)
    }

    fn send(&mut self, request: &[u8]) -> Outcome<()> {
        self.encode(request)?;
        self.client.send(&self.bytes)
    }

    fn flush(&mut self) -> Outcome<()> {
        self.client.flush()
    }

    fn receive(&mut self, answer: &mut Vec<u8>) -> Outcome<()> {
        self.client.receive(answer)?;
        decode(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    struct AtOnce(World, Arc<Queue<Vec<u8>>>);

    impl Client for AtOnce {
        fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()> {
            self.0.serve(Queued { request: request.to_vec(), answers: self.1.clone() });
            *answer = self.1.pop();
            Ok(())
        }
    }

    #[test]
    fn every_value_comes_back() {
        let case = Case { clients: 3, ..Case::new(Scenario::ServiceClients, 64) };
        let world = filled(&case, Task::run).expect("filled");
        let mut client = Asking::new(AtOnce(world, Arc::new(Queue::new())));
        for salt in 0..3 {
            let mut payload = Payload::new(64, salt);
            for number in [0, 1, VALUES - 1] {
                let mut answer = Vec::new();
                client.call(payload.stamp(number), &mut answer).expect("a value");
                assert_eq!(answer, payload.bytes());
            }
            assert!(
                client.call(payload.stamp(VALUES), &mut Vec::new()).is_err(),
                "beyond the last"
            );
        }
    }
}
