//! tarpc over a Unix domain socket, with bincode.

use std::collections::VecDeque;

use futures::StreamExt;
use serde_bytes::ByteBuf;
use tarpc::client::{Config, RpcError};
use tarpc::context::{self, Context};
use tarpc::serde_transport::unix;
use tarpc::server::{BaseChannel, Channel};
use tarpc::tokio_serde::formats::Bincode;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::runtime::runtime;
use crate::outcome::Outcome;
use crate::payload::is_whole;
use crate::scenario::Case;
use crate::system::{Client, Ready, Setup, System};

/// As `#[tokio::main]` has it: a worker thread for each CPU.
pub(crate) static DEFAULT: Tarpc = Tarpc { name: "tarpc", workers: true };

/// Everything on the thread that calls or serves.
pub(crate) static ONE_THREAD: Tarpc = Tarpc { name: "tarpc-one-thread", workers: false };

/// Calls over a connection that stays.
#[derive(Debug)]
pub(crate) struct Tarpc {
    name: &'static str,
    workers: bool,
}

#[tarpc::service]
trait Echo {
    /// Bodies as bytes, which serde otherwise takes one by one.
    async fn echo(body: ByteBuf) -> ByteBuf;
}

/// The handler.
#[derive(Clone, Debug)]
struct Echoing;

impl Echo for Echoing {
    async fn echo(self, _: Context, body: ByteBuf) -> ByteBuf {
        assert!(is_whole(&body), "a request of {} bytes arrived damaged", body.len());
        body
    }
}

impl System for Tarpc {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cases(&self) -> Vec<Case> {
        if self.workers { Case::few() } else { Case::glance() }
    }

    fn serve(&self, setup: &Setup, ready: Ready<'_>) -> Outcome<()> {
        runtime(self.workers)?.block_on(async {
            let mut listener = unix::listen(&setup.path, Bincode::default).await?;
            ready()?;
            while let Some(transport) = listener.next().await {
                let requests = BaseChannel::with_defaults(transport?).execute(Echoing.serve());
                tokio::spawn(requests.for_each(|request| async {
                    tokio::spawn(request);
                }));
            }
            Ok(())
        })
    }

    fn connect(&self, setup: &Setup) -> Outcome<Box<dyn Client>> {
        let runtime = runtime(self.workers)?;
        let client = runtime.block_on(async {
            let transport = unix::connect(&setup.path, Bincode::default).await?;
            Outcome::Ok(EchoClient::new(Config::default(), transport).spawn())
        })?;
        Ok(Box::new(Caller { runtime, client, pending: VecDeque::new() }))
    }
}

/// The client's end.
struct Caller {
    runtime: Runtime,
    client: EchoClient,
    pending: VecDeque<JoinHandle<Result<ByteBuf, RpcError>>>,
}

impl Client for Caller {
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()> {
        let call = self.client.echo(context::current(), ByteBuf::from(request));
        *answer = self.runtime.block_on(call)?.into_vec();
        Ok(())
    }

    fn send(&mut self, request: &[u8]) -> Outcome<()> {
        let (client, request) = (self.client.clone(), ByteBuf::from(request));
        let call = async move { client.echo(context::current(), request).await };
        self.pending.push_back(self.runtime.spawn(call));
        Ok(())
    }

    fn receive(&mut self, answer: &mut Vec<u8>) -> Outcome<()> {
        let call = self.pending.pop_front().ok_or("nothing was sent")?;
        *answer = self.runtime.block_on(call)??.into_vec();
        Ok(())
    }
}
