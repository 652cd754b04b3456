//! The client's side: `ring-echo call`, and the client processes of a comparison.

use crate::channel::{Call, Pipeline, Pooled, Shm};
use crate::cli::{LoadArgs, RoleCall, Transport};
use crate::load::{Load, Report, one_by_one, pipelined};
use crate::measure::{Measurement, Round, Setting, combine};
use crate::uds::{Uds, UdsDial};
use crate::{Failure, Usage, role};
use ringbell::config::Ipc;
use std::path::Path;

impl Load {
    fn new(arguments: &LoadArgs, client: u32, requests: u64) -> Self {
        Self {
            client,
            size: arguments.size,
            requests,
            pipeline: arguments.pipeline,
            paced: arguments.paced,
        }
    }

    /// What is sent before anything is measured: caches, memory and the scheduler's habits.
    fn warm_up(&self) -> Self {
        let bytes = 64 << 20;
        let affordable = bytes / self.size.max(1) as u64;
        let requests = if self.paced.is_some() {
            20
        } else {
            2000.min(affordable).min(self.requests / 4).max(1)
        };
        Self { requests, paced: None, ..*self }
    }
}

/// One by one, or so many in flight.
fn run_either<C: Call + Pipeline>(channel: &mut C, load: &Load) -> Result<Report, Failure> {
    if load.pipeline == 1 { one_by_one(channel, load) } else { pipelined(channel, load) }
}

fn warm_up(warm: &Load, run: impl FnOnce(&Load) -> Result<Report, Failure>) -> Result<(), Failure> {
    let report = run(warm)?;
    if report.verified != report.requests {
        return Err("a wrong answer while warming up".into());
    }
    Ok(())
}

/// A client process of a comparison.
pub(crate) fn run_role(arguments: &RoleCall) -> Result<(), Failure> {
    role::begin(&arguments.common)?;
    let load = Load::new(&arguments.load, arguments.client, arguments.load.requests.unwrap_or(1));
    match arguments.transport {
        Transport::Shm => {
            let mut channel = Shm::connect(&arguments.socket, load.client, load.pipeline)?;
            follow_orders(&load, |load| run_either(&mut channel, load))
        }
        Transport::Uds => {
            let mut channel = Uds::connect(&arguments.socket)?;
            follow_orders(&load, |load| run_either(&mut channel, load))
        }
        Transport::UdsDial => {
            let mut channel = UdsDial::new(&arguments.socket);
            follow_orders(&load, |load| one_by_one(&mut channel, load))
        }
    }
}

fn follow_orders(
    load: &Load,
    mut run: impl FnMut(&Load) -> Result<Report, Failure>,
) -> Result<(), Failure> {
    warm_up(&load.warm_up(), &mut run)?;
    role::say("ready")?;
    while let Some(order) = role::order()? {
        match order.as_str() {
            "go" => role::say(&serde_json::to_string(&run(load)?)?)?,
            other => return Err(format!("no such order: {other:?}").into()),
        }
    }
    Ok(())
}

/// Sends requests to the server at `path`.
pub(crate) fn call(path: &Path, arguments: &LoadArgs) -> Result<Measurement, Failure> {
    let mut channel = Shm::connect(path, std::process::id(), arguments.pipeline)?;
    check_size(arguments, channel.max_message())?;
    in_rounds(arguments, |load| run_either(&mut channel, load))
}

/// The same over connections of a pool, and what is to be said of that.
pub(crate) fn call_pooled(
    path: &Path,
    ipc: &Ipc,
    arguments: &LoadArgs,
) -> Result<(Measurement, String), Failure> {
    if arguments.pipeline != 1 {
        return Err(Usage(
            "--pipeline and --config: over a pool there is one request at a time".into(),
        )
        .into());
    }
    let mut channel = Pooled::connect(path, ipc)?;
    check_size(arguments, channel.max_message()?)?;
    let measured = in_rounds(arguments, |load| one_by_one(&mut channel, load))?;
    Ok((measured, channel.describe()?))
}

fn check_size(arguments: &LoadArgs, max: usize) -> Result<(), Failure> {
    if arguments.size <= max {
        return Ok(());
    }
    let text =
        format!("--size {}: this server takes messages of at most {max} bytes", arguments.size);
    Err(Usage(text).into())
}

fn in_rounds(
    arguments: &LoadArgs,
    mut run: impl FnMut(&Load) -> Result<Report, Failure>,
) -> Result<Measurement, Failure> {
    let requests = arguments.requests_over(Transport::Shm, 1);
    let mut load = Load::new(arguments, std::process::id(), requests);
    warm_up(&load.warm_up(), &mut run)?;
    let rounds = u64::from(arguments.rounds).min(requests);
    let mut done = Vec::new();
    for round in 0..rounds {
        load.requests = requests / rounds + u64::from(round < requests % rounds);
        done.push(Round::new(vec![run(&load)?], 0));
    }
    let setting = Setting { transport: Transport::Shm, size: load.size, clients: 1 };
    Ok(combine(&setting, &done, None))
}
