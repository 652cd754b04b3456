//! The runtime of peers that are asynchronous.

use tokio::runtime::{Builder, Runtime};

use crate::outcome::Outcome;
#[cfg(feature = "peer-tokio")]
use crate::payload::Payload;

/// A runtime that uses all CPUs, or the calling thread alone.
pub(super) fn runtime(workers: bool) -> Outcome<Runtime> {
    let mut builder =
        if workers { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    Ok(builder.enable_all().build()?)
}

/// What a task has that calls.
#[cfg(feature = "peer-tokio")]
pub(super) trait Caller: Clone + Send + 'static {
    /// One call.
    fn call(&self, request: &[u8]) -> impl Future<Output = Outcome<Vec<u8>>> + Send;
}

/// [`Client::tasks`](crate::system::Client::tasks) with tasks of this runtime. They are started by
/// one of them: whoever is outside has to wake the runtime for each.
#[cfg(feature = "peer-tokio")]
pub(super) fn tasks(
    runtime: &Runtime,
    caller: &impl Caller,
    payloads: Vec<Payload>,
    first: u64,
    rounds: u64,
) -> Outcome<Vec<Payload>> {
    let step = payloads.len();
    runtime.block_on(async {
        let started: Vec<_> = payloads
            .into_iter()
            .zip(first..)
            .map(|(mut payload, first)| {
                let caller = caller.clone();
                tokio::spawn(async move {
                    for number in (first..).step_by(step).take(usize::try_from(rounds)?) {
                        if caller.call(payload.stamp(number)).await? != payload.bytes() {
                            return Err(format!("wrong answer to call {number}").into());
                        }
                    }
                    Outcome::Ok(payload)
                })
            })
            .collect();
        let mut payloads = Vec::with_capacity(step);
        for task in started {
            payloads.push(task.await??);
        }
        Ok(payloads)
    })
}
